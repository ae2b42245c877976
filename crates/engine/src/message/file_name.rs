//! Names of attachments, made safe to store and to show.

use super::fields::{clean_line, is_invisible_control};

/// The longest name, in characters (Dataverse: `activitymimeattachment.filename`, 255).
const MAX_CHARS: usize = 255;

/// The name without path, control characters and characters that file systems refuse; `None` when nothing is left. The extension
/// survives the cut.
pub(super) fn sanitize(name: &str) -> Option<String> {
    let base = name.rsplit(['/', '\\']).next().unwrap_or("");
    let cleaned: String = base
        .chars()
        .filter(|c| !c.is_control() && !is_invisible_control(*c))
        .map(|c| if matches!(c, '<' | '>' | ':' | '"' | '|' | '?' | '*') { '_' } else { c })
        .collect();
    // Windows drops dots and blanks at the end, so "x.exe. " is "x.exe" there
    let trimmed = cleaned
        .trim_matches(|c: char| c.is_whitespace())
        .trim_end_matches(|c: char| c == '.' || c.is_whitespace());
    if trimmed.is_empty() {
        return None;
    }
    if trimmed.chars().count() <= MAX_CHARS {
        return Some(trimmed.to_owned());
    }
    let extension: String =
        extension(trimmed).map(|e| format!(".{e}")).unwrap_or_default().chars().take(40).collect();
    let keep = MAX_CHARS - extension.chars().count();
    Some(trimmed.chars().take(keep).chain(extension.chars()).collect())
}

/// What stands behind the last dot, lower case.
pub(super) fn extension(name: &str) -> Option<String> {
    name.rsplit_once('.').map(|(_, e)| e.trim().to_lowercase()).filter(|e| !e.is_empty())
}

/// A usual extension for a type, for parts without a name.
pub(super) fn extension_of(mime_type: &str) -> &'static str {
    match mime_type {
        "application/pdf" => "pdf",
        "application/rtf" => "rtf",
        "application/zip" => "zip",
        "image/gif" => "gif",
        "image/jpeg" => "jpg",
        "image/png" => "png",
        "image/svg+xml" => "svg",
        "message/rfc822" | "message/global" => "eml",
        "text/csv" => "csv",
        "text/html" => "html",
        "text/vcard" | "text/x-vcard" => "vcf",
        t if t.starts_with("text/") || t.starts_with("message/") => "txt",
        _ => "bin",
    }
}

/// The name that parts of a type usually have, for parts without one.
pub(super) fn usual_name(mime_type: &str) -> Option<&'static str> {
    Some(match mime_type {
        "application/pkcs7-mime" | "application/x-pkcs7-mime" => "smime.p7m",
        "application/pkcs7-signature" | "application/x-pkcs7-signature" => "smime.p7s",
        "application/pgp-signature" => "signature.asc",
        "application/pgp-encrypted" => "pgp-version.asc",
        "application/ms-tnef" | "application/vnd.ms-tnef" => "winmail.dat",
        "text/calendar" => "invite.ics",
        _ => return None,
    })
}

/// The name of an attached message: its subject.
pub(super) fn of_message(subject: Option<&str>) -> String {
    subject
        .map(|s| clean_line(s, 200).replace(['/', '\\'], "_"))
        .filter(|s| !s.is_empty())
        .and_then(|s| sanitize(&format!("{s}.eml")))
        .unwrap_or_else(|| "message.eml".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, expected) in [
            ("report.pdf", Some("report.pdf")),
            ("../../etc/passwd", Some("passwd")),
            ("C:\\Users\\x\\a.doc", Some("a.doc")),
            ("a\r\nb\0.txt", Some("ab.txt")),
            ("evil.exe. . ", Some("evil.exe")),
            ("what?*.txt", Some("what__.txt")),
            ("gpj.\u{202e}exe", Some("gpj.exe")),
            ("日本語.txt", Some("日本語.txt")),
            ("..", None),
            ("  ", None),
            ("dir/", None),
        ] {
            assert_eq!(sanitize(name).as_deref(), expected, "{name:?}");
        }
        let long = sanitize(&format!("{}.exe", "é".repeat(400))).unwrap();
        assert_eq!((long.chars().count(), extension(&long).as_deref()), (255, Some("exe")));
    }
}
