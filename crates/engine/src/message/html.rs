//! The little that is done to HTML: escaping text, and linking pictures.

use std::collections::BTreeSet;

/// Text as HTML.
pub(super) fn escape(text: &str, into: &mut String) {
    for c in text.chars() {
        match c {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            c => into.push(c),
        }
    }
}

/// Replaces the locations that `src` and `background` attributes name by references to attachments (RFC 2392), one pass over the HTML. `find` says
/// which attachment a location is and what Content-ID it has. The HTML, if anything was replaced, and the attachments that were found.
pub(super) fn link(
    html: &str,
    find: impl Fn(&str) -> Option<(usize, String)>,
) -> (Option<String>, BTreeSet<usize>) {
    const LONGEST: usize = 998;
    let mut used = BTreeSet::new();
    let mut linked = String::new();
    let mut done = 0;
    for (at, _) in html.match_indices('=') {
        if at < done || !["src", "background"].iter().any(|name| ends_with(&html[..at], name)) {
            continue;
        }
        let behind = html[at + 1..].trim_start_matches([' ', '\t', '\r', '\n']);
        let begin = html.len() - behind.len();
        let Some(quote) = behind.chars().next().filter(|c| matches!(c, '"' | '\'')) else { continue };
        // not looked for through the whole rest when a quote is never closed
        let mut most = behind.len().min(LONGEST);
        while !behind.is_char_boundary(most) {
            most -= 1;
        }
        let Some(length) = behind[1..most].find(quote) else { continue };
        let location = &behind[1..1 + length];
        if let Some((attachment, id)) = find(location.trim()) {
            used.insert(attachment);
            linked.push_str(&html[done..begin + 1]);
            linked.push_str("cid:");
            linked.push_str(&id);
            done = begin + 1 + length;
        }
    }
    if used.is_empty() {
        return (None, used);
    }
    linked.push_str(&html[done..]);
    (Some(linked), used)
}

/// Whether a text ends with this name of an attribute, whatever its letter case, and blanks.
fn ends_with(text: &str, name: &str) -> bool {
    // blanks before the sign are few in any HTML that means them
    let bytes = text.as_bytes();
    let bytes = &bytes[bytes.len().saturating_sub(name.len() + 8)..];
    let bytes = bytes.trim_ascii_end();
    bytes.len() > name.len()
        && bytes[bytes.len() - name.len()..].eq_ignore_ascii_case(name.as_bytes())
        && bytes[bytes.len() - name.len() - 1].is_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let find = |l: &str| (l == "a/b.png").then(|| (3, "id@x".to_owned()));
        let html = "<img SRC = \"a/b.png\"><p background='a/b.png'>é<img datasrc=\"a/b.png\"><img src=a/b.png><img src=\"no.png\"> src=\"a/b.png\" src=\"";
        let (linked, used) = link(html, find);
        assert_eq!(
            linked.unwrap(),
            "<img SRC = \"cid:id@x\"><p background='cid:id@x'>é<img datasrc=\"a/b.png\"><img src=a/b.png><img src=\"no.png\"> src=\"cid:id@x\" src=\""
        );
        assert_eq!(used.into_iter().collect::<Vec<_>>(), [3]);
        assert_eq!(link("no pictures = \"a/b.png\"", find).0, None);
        let hostile = " src=\"é".repeat(100_000);
        assert_eq!(link(&hostile, find).0, None);
    }
}
