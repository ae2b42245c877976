//! Bodies and attachments of the messages in `fixtures/mime` (numbered after the list of `competitors.md` 2), of messages with a `winmail.dat`, and
//! of messages beyond the caps.
#![allow(clippy::unwrap_used)] // a test file

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use email_router_crm::OrganizationSettings;
use email_router_engine::ParseCaps;
use email_router_engine::message::{Content, Message, Participant};
use email_router_model::{RawMessage, read_file_capped};
use email_router_testkit::tnef::{Properties, Stream, attribute, compress_rtf, recipients};

fn content(bytes: &[u8]) -> Content {
    with(bytes, &ParseCaps::default(), &OrganizationSettings::default())
}

fn with(bytes: &[u8], caps: &ParseCaps, settings: &OrganizationSettings) -> Content {
    let raw = RawMessage::new(bytes.to_vec());
    Message::parse(&raw, caps).content(&raw, caps, settings)
}

/// What a person sees of a message, as text.
fn shown(bytes: &[u8]) -> String {
    let message = Message::parse(&RawMessage::new(bytes.to_vec()), &ParseCaps::default());
    let content = content(bytes);
    let mut text = format!("from: {}\n", message.from_shown());
    for recipient in message.recipients() {
        let _ = writeln!(text, "to: {recipient}");
    }
    let _ = writeln!(text, "subject: {}", message.subject);
    for line in &message.defects {
        let _ = writeln!(text, "defect: {line}");
    }
    let _ = write!(text, "body: {}\n{}\n", content.body_mime_type, content.body.replace('\r', ""));
    if let Some(plain) = &content.text_body {
        let _ = write!(text, "plain body:\n{}\n", plain.replace('\r', ""));
    }
    for a in &content.attachments {
        let id = a.content_id.as_deref().map(|id| format!(" cid:{id}")).unwrap_or_default();
        let _ =
            writeln!(text, "attachment: {} ({}, {} bytes){id}", a.file_name, a.mime_type, a.content.len());
    }
    for line in &content.removed_parts {
        let _ = writeln!(text, "note: {line}");
    }
    if let Some(label) = &content.subcategory {
        let _ = writeln!(text, "label: {label}");
    }
    if content.incomplete {
        text.push_str("incomplete\n");
    }
    text
}

/// What of a header section has text in it that may be read one way or another.
fn seen(message: &Message) -> (String, String, Vec<Participant>, Vec<String>) {
    let people =
        message.from.iter().chain(&message.sender).chain(&message.reply_to).chain(message.recipients());
    let people = people.cloned().collect();
    (message.subject.clone(), message.from_field.clone(), people, message.defects.clone())
}

/// Each `.eml` has a `.txt` beside it with what must be seen. `UPDATE_FIXTURES=1` writes the texts anew, to be read before they are committed.
#[test]
#[allow(clippy::disallowed_methods)] // files of ours
fn messages_look_as_a_person_expects() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/mime");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "eml"))
        .collect();
    files.sort();
    assert!(files.len() >= 31, "{}", files.len());
    for number in 33..=38 {
        let named =
            |p: &&PathBuf| p.file_name().unwrap().to_string_lossy().starts_with(&format!("{number}-"));
        assert!(files.iter().find(named).is_some(), "no message for case {number}");
    }
    let mut wrong = Vec::new();
    for file in &files {
        let bytes = read_file_capped(file, 1 << 20).unwrap();
        let found = shown(&bytes);
        // a decision from the header section alone must be the one from the whole message
        let caps = ParseCaps::default();
        let whole = Message::parse(&RawMessage::new(bytes.clone()), &caps);
        assert_eq!(seen(&Message::from_headers(&bytes, &caps)), seen(&whole), "{}", file.display());
        let expected = file.with_extension("txt");
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            std::fs::write(&expected, &found).unwrap();
        }
        let expected = String::from_utf8(read_file_capped(&expected, 1 << 20).unwrap()).unwrap();
        if found != expected {
            wrong.push(format!("{}:\n{found}\ninstead of\n{expected}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// What was signed is kept byte for byte, so that a signature can be checked later.
#[test]
fn signed_parts_are_kept_byte_for_byte() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/mime");
    for (file, name, signature) in [
        ("38-smime-clear-signed.eml", "signed-by-smime.mime", "smime.p7s"),
        ("38-pgp-signed.eml", "signed-by-pgp.mime", "signature.asc"),
    ] {
        let bytes = read_file_capped(&folder.join(file), 1 << 20).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let entity = text.split("--s\r\n").nth(1).unwrap().strip_suffix("\r\n").unwrap();
        let found = content(&bytes);
        let attachment = |name: &str| found.attachments.iter().find(|a| a.file_name == name).unwrap();
        assert_eq!(attachment(name).content, entity.as_bytes(), "{file}");
        assert!(!attachment(signature).content.is_empty(), "{file}");
    }
}

fn winmail(stream: &[u8], text: &str) -> Vec<u8> {
    let encoded: Vec<String> =
        base64(stream).as_bytes().chunks(76).map(|c| String::from_utf8_lossy(c).into_owned()).collect();
    format!(
        "From: a@example.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n{text}\r\n\
         --b\r\nContent-Type: application/ms-tnef; name=winmail.dat\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n--b--\r\n",
        encoded.join("\r\n")
    )
    .into_bytes()
}

/// RFC 4648 4, as the simplest thing that can be right.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes
        .chunks(3)
        .flat_map(|c| {
            let n = c.iter().fold(0_u32, |n, &b| n << 8 | u32::from(b)) << (8 * (3 - c.len()));
            (0..4).map(move |i| {
                if i <= c.len() { char::from(ALPHABET[(n >> (18 - 6 * i) & 63) as usize]) } else { '=' }
            })
        })
        .collect()
}

#[test]
fn a_winmail_dat_gives_way_to_what_is_in_it() {
    let inner = Stream::new(1252)
        .message(
            attribute::MESSAGE_PROPERTIES,
            &Properties::default()
                .wide(0x0037, "The original")
                .narrow(0x0c1a, "Ann Lee")
                .narrow(0x5d01, "ann@example.test")
                .narrow(0x1035, "<original@example.test>")
                .time(0x0039, 1_772_446_200)
                .wide(0x1000, "original text")
                .list(),
        )
        .message(
            attribute::RECIPIENTS,
            &recipients(&[Properties::default().long(0x0c15, 1).narrow(0x3003, "support@fabrikam.test")]),
        )
        .bytes();
    let rtf = br"{\rtf1\ansi\fromhtml1 {\*\htmltag64 <p>}rich <img src=cid:pic@x>{\*\htmltag72 </p>}}";
    let stream = Stream::new(1252)
        .message(
            attribute::MESSAGE_PROPERTIES,
            &Properties::default().binary(0x1009, &compress_rtf(rtf)).list(),
        )
        .file(
            "PIC~1.PNG",
            b"PNG",
            Properties::default()
                .wide(0x3707, "pic ü.png")
                .narrow(0x370e, "image/png")
                .narrow(0x3712, "pic@x"),
        )
        .file("virus.exe", b"MZ", Properties::default())
        .embedded("The original", &inner)
        .bytes();
    let found = content(&winmail(&stream, "rich in plain text"));
    let attachments: Vec<_> = found
        .attachments
        .iter()
        .map(|a| (a.file_name.as_str(), a.mime_type.as_str(), a.content_id.as_deref()))
        .collect();
    assert_eq!(
        attachments,
        [("pic ü.png", "image/png", Some("pic@x")), ("The original.eml", "message/rfc822", None)]
    );
    assert_eq!(
        (found.body_mime_type.as_str(), found.body.as_str()),
        ("text/html", "<p>rich <img src=cid:pic@x></p>")
    );
    assert_eq!(found.text_body.as_deref(), Some("rich in plain text"));
    assert_eq!(found.removed_parts, ["attachment \"virus.exe\": files of type exe are blocked"]);
    assert!(!found.incomplete);

    // the message that only existed inside is one that can be routed
    let caps = ParseCaps::default();
    let original = RawMessage::new(found.attachments[1].content.clone());
    let message = Message::parse(&original, &caps);
    assert_eq!(message.identity().as_deref(), Some("<original@example.test>"));
    assert_eq!(message.from.as_ref().unwrap().address.as_ref().unwrap().as_str(), "ann@example.test");
    assert_eq!(message.to[0].raw, "support@fabrikam.test");
    assert_eq!(message.subject, "The original");
    assert_eq!(message.date.unwrap().to_string(), "2026-03-02T10:10:00Z");
    assert_eq!(content(original.bytes()).body, "original text");
}

#[test]
fn a_winmail_dat_that_holds_more_is_kept_too() {
    let names = |c: &Content| c.attachments.iter().map(|a| a.file_name.clone()).collect::<Vec<_>>();
    let whole = Stream::new(1252).file("a.txt", b"text", Properties::default()).bytes();
    assert_eq!(names(&content(&winmail(&whole, "hi"))), ["a.txt"]);
    // damaged
    let mut damaged = whole.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let found = content(&winmail(&damaged, "hi"));
    assert_eq!(names(&found), ["a.txt", "winmail.dat"]);
    assert_eq!(found.attachments[1].content, damaged);
    assert_eq!(
        found.removed_parts,
        ["winmail.dat: a checksum is wrong; it was kept beside what was read of it"]
    );
    // a meeting
    let meeting =
        Stream::new(1252).message(attribute::MESSAGE_CLASS, b"IPM.Schedule.Meeting.Request\0").bytes();
    let found = content(&winmail(&meeting, "hi"));
    assert_eq!((found.body.as_str(), names(&found)), ("hi", vec!["winmail.dat".to_owned()]));
    assert!(found.removed_parts[0].contains("IPM.Schedule.Meeting.Request"), "{:?}", found.removed_parts);
    // no TNEF at all
    let found = content(&winmail(b"something else", "hi"));
    assert_eq!(names(&found), ["winmail.dat"]);
    assert_eq!(found.removed_parts.len(), 1);
    // text in it and none beside it; RTF as it was written
    let rtf = br"{\rtf1\ansi {\b bold} words}";
    let stream = Stream::new(1252)
        .message(
            attribute::MESSAGE_PROPERTIES,
            &Properties::default().binary(0x1009, &compress_rtf(rtf)).list(),
        )
        .bytes();
    let found = content(&winmail(&stream, ""));
    assert_eq!((found.body.trim(), names(&found)), ("bold words", vec!["message.rtf".to_owned()]));
    // beyond a cap and too large to be kept: then the raw message must be
    let caps = {
        let mut caps = ParseCaps::default();
        caps.max_parts = 2;
        caps
    };
    let mut stream = Stream::new(1252);
    for n in 0..5_u8 {
        stream = stream.file(&format!("{n}"), &[n; 9], Properties::default());
    }
    let settings = OrganizationSettings { max_upload_file_size: 10, ..OrganizationSettings::default() };
    let found = with(&winmail(&stream.bytes(), "hi"), &caps, &settings);
    assert!(found.incomplete, "{found:?}");
}

#[test]
fn beyond_a_cap_the_message_is_incomplete_and_beyond_a_policy_it_is_not() {
    let small = |change: fn(&mut ParseCaps)| {
        let mut caps = ParseCaps::default();
        change(&mut caps);
        caps
    };
    let wide = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", "--b\r\n\r\nx\r\n".repeat(9));
    let deep = "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n--a--\r\n";
    let people = "To: a@x.test, b@x.test, c@x.test\r\n\r\n";
    let references = "References: <a@x> <b@x> <c@x>\r\n\r\n";
    for (what, text, caps) in [
        ("parts", wide.as_str(), small(|c| c.max_parts = 5)),
        ("depth", deep, small(|c| c.max_depth = 1)),
        ("header bytes", people, small(|c| c.max_header_bytes = 10)),
        ("recipients", people, small(|c| c.max_recipients = 2)),
        ("references", references, small(|c| c.max_references = 2)),
        ("body", "Subject: x\r\n\r\n12345678", small(|c| c.max_body_chars = 5)),
        ("subject", "Subject: 12345678\r\n\r\n", small(|c| c.max_subject_chars = 5)),
    ] {
        let settings = OrganizationSettings::default();
        assert!(with(text.as_bytes(), &caps, &settings).incomplete, "{what}");
        assert!(!with(text.as_bytes(), &ParseCaps::default(), &settings).incomplete, "{what}");
    }
    let attached = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b\r\nContent-Type: image/png; name=a.exe\r\n\r\nx\r\n\
                    --b\r\nContent-Type: image/png; name=a.png\r\n\r\n123456\r\n--b--\r\n";
    let settings = OrganizationSettings { max_upload_file_size: 4, ..OrganizationSettings::default() };
    let found = with(attached.as_bytes(), &ParseCaps::default(), &settings);
    assert_eq!((found.attachments.len(), found.removed_parts.len(), found.incomplete), (0, 2, false));
}
