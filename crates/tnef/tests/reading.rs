//! Streams that the test kit wrote, read back; and streams that nobody should write.
// a helper of a test that cannot go on fails the test
#![allow(clippy::expect_used, clippy::unwrap_used)]

use email_router_testkit::tnef::{
    IID_STORAGE, Properties, Stream, attribute, compress_rtf, from, recipients,
};
use email_router_tnef::{Content, Importance, Limits, Mailbox, RecipientKind, Tnef, parse};
use proptest::prelude::*;

fn read(bytes: &[u8]) -> Tnef<'_> {
    parse(bytes, &Limits::default()).unwrap()
}

fn mailbox(name: &str, address: &str) -> Mailbox {
    let some = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    Mailbox { name: some(name), address: some(address) }
}

/// A stream as Outlook writes one, with everything that is read.
fn rich() -> Vec<u8> {
    let row = |kind: u32, name: &str, kind_of_address: &str, address: &str| {
        Properties::default()
            .long(0x0c15, kind)
            .wide(0x3001, name)
            .narrow(0x3002, kind_of_address)
            .narrow(0x3003, address)
    };
    let rows = [
        row(1, "Zoë Ünal", "SMTP", "zoe@example.com"),
        row(2, "Inside", "EX", "/o=Contoso/cn=inside").wide(0x39fe, "inside@contoso.test"),
        row(3, "Hidden", "SMTP", "hidden@example.com"),
        row(0x1000_0001, "Directory only", "EX", "/o=Contoso/cn=x"),
    ];
    let inner = Stream::new(1252)
        .message(attribute::MESSAGE_CLASS, b"IPM.Microsoft Mail.Note\0")
        .message(attribute::FROM, &from("Ann Lee", "SMTP:ann@example.com"))
        .message(attribute::SUBJECT, b"caf\xe9\0")
        .message(attribute::DATE_SENT, &[0xea, 7, 3, 0, 9, 0, 10, 0, 11, 0, 12, 0, 1, 0])
        .message(attribute::BODY, b"inner text\0")
        .file("inner.bin", b"\0\x01\x02", Properties::default())
        .bytes();
    let properties = Properties::default()
        .narrow(0x001a, "IPM.Note")
        .named("keywords", "ünused")
        .raw(0x101e, 0x6001, &[2, 0, 0, 0, 2, 0, 0, 0, b'a', 0, 0, 0, 2, 0, 0, 0, b'b', 0, 0, 0])
        .raw(0x1003, 0x6002, &[2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0])
        .raw(0x0002, 0x6003, &[5, 0, 0, 0])
        .raw(0x0048, 0x6004, &[7; 16])
        .wide(0x0037, "Grüße 日本")
        .narrow(0x0042, "Boss")
        .narrow(0x5d02, "boss@example.com")
        .narrow(0x0c1a, "Assistant")
        .narrow(0x0c1f, "assistant@example.com")
        .time(0x0039, 1_772_446_200)
        .time(0x0e06, 1_772_446_205)
        .narrow(0x1035, "<id@example.com>")
        .narrow(0x1042, "<parent@example.com>")
        .narrow(0x1039, "<root@example.com> <parent@example.com>")
        .binary(0x0071, &[1; 22])
        .long(0x0017, 2)
        .long(0x3fde, 28591)
        .wide(0x1000, "plain text")
        .binary(0x1013, b"<p>caf\xe9 <img src=\"cid:logo@x\">");
    let logo = Properties::default()
        .wide(0x3707, "a long name Ä.png")
        .narrow(0x370e, "image/png")
        .narrow(0x3712, "<logo@x>")
        .narrow(0x3713, "http://example.com/logo.png")
        .long(0x3714, 4);
    let object = Properties::default().long(0x3705, 6).wide(0x3001, "Picture").object(
        0x3701,
        IID_STORAGE,
        b"\xd0\xcf\x11\xe0",
    );
    Stream::new(1252)
        .message(attribute::MESSAGE_CLASS, b"IPM.Microsoft Mail.Note\0")
        .message(attribute::SUBJECT, b"Gr??e\0")
        .message(attribute::MESSAGE_PROPERTIES, &properties.list())
        .message(attribute::RECIPIENTS, &recipients(&rows))
        .file("ALONGN~1.PNG", b"PNG", logo)
        .embedded("inner", &inner)
        .file("PICTURE", b"", object)
        .bytes()
}

#[test]
fn everything() {
    let bytes = rich();
    let tnef = read(&bytes);
    assert_eq!(tnef.defects, Vec::<String>::new());
    assert!(tnef.is_complete());
    let m = &tnef.message;
    assert_eq!(m.class.as_deref(), Some("IPM.Note"));
    assert_eq!(m.subject.as_deref(), Some("Grüße 日本"));
    assert_eq!(m.from, Some(mailbox("Boss", "boss@example.com")));
    assert_eq!(m.sender, Some(mailbox("Assistant", "assistant@example.com")));
    let recipients: Vec<_> = m.recipients.iter().map(|r| (r.kind, r.mailbox.clone())).collect();
    assert_eq!(
        recipients,
        [
            (RecipientKind::To, mailbox("Zoë Ünal", "zoe@example.com")),
            (RecipientKind::Cc, mailbox("Inside", "inside@contoso.test")),
            (RecipientKind::Bcc, mailbox("Hidden", "hidden@example.com")),
            (RecipientKind::To, mailbox("Directory only", "")),
        ]
    );
    assert_eq!((m.sent, m.received), (Some(1_772_446_200), Some(1_772_446_205)));
    assert_eq!(m.message_id.as_deref(), Some("<id@example.com>"));
    assert_eq!(m.in_reply_to.as_deref(), Some("<parent@example.com>"));
    assert_eq!(m.references.as_deref(), Some("<root@example.com> <parent@example.com>"));
    assert_eq!((m.conversation_index, m.importance), (Some(&[1; 22][..]), Importance::High));
    assert_eq!(m.text.as_deref(), Some("plain text"));
    assert_eq!(m.html.as_deref(), Some("<p>café <img src=\"cid:logo@x\">"));
    let [logo, inner, object] = &m.attachments[..] else { panic!("{:?}", m.attachments) };
    assert_eq!(logo.name.as_deref(), Some("a long name Ä.png"));
    assert_eq!((logo.mime_type.as_deref(), logo.content_id.as_deref()), (Some("image/png"), Some("logo@x")));
    assert_eq!(logo.content_location.as_deref(), Some("http://example.com/logo.png"));
    assert!(logo.inline);
    assert_eq!(logo.content, Content::Data(b"PNG"));
    assert_eq!(object.content, Content::Ole(b"\xd0\xcf\x11\xe0"));
    let Content::Message(inner) = &inner.content else { panic!("{inner:?}") };
    assert_eq!(inner.from, Some(mailbox("Ann Lee", "ann@example.com")));
    assert_eq!((inner.subject.as_deref(), inner.text.as_deref()), (Some("café"), Some("inner text")));
    assert_eq!(inner.sent, Some(1_773_051_072));
    assert_eq!(inner.attachments[0].name.as_deref(), Some("inner.bin"));
    assert_eq!(inner.attachments[0].content, Content::Data(b"\0\x01\x02"));
}

#[test]
fn written_as_internet_mail() {
    let bytes = rich();
    let message = read(&bytes).message;
    let mail = String::from_utf8(message.to_internet_message(1 << 20).unwrap()).unwrap();
    assert!(mail.is_ascii() && mail.lines().all(|l| l.len() <= 998), "{mail}");
    let (header, body) = mail.split_once("\r\n\r\n").unwrap();
    let expected = "From: \"Boss\" <boss@example.com>\r\nSender: \"Assistant\" <assistant@example.com>\r\n\
        To: =?utf-8?B?Wm/DqyDDnG5hbA==?= <zoe@example.com>,\r\n \"Directory only\"\r\nCc: \"Inside\" <inside@contoso.test>\r\n\
        Bcc: \"Hidden\" <hidden@example.com>\r\nSubject: =?utf-8?B?R3LDvMOfZSDml6XmnKw=?=\r\nDate: Mon, 02 Mar 2026 10:10:00 +0000\r\n\
        Message-ID: <id@example.com>\r\nIn-Reply-To: <parent@example.com>\r\nReferences: <root@example.com>\r\n <parent@example.com>\r\n\
        Thread-Index: AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ==\r\nImportance: high\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=\"=_tnef_0_mixed\"";
    assert_eq!(header, expected);
    for part in [
        "Content-Type: multipart/alternative; boundary=\"=_tnef_0_alternative\"",
        "Content-Type: image/png\r\nContent-Disposition: inline;\r\n filename*0*=utf-8''a%20long%20name%20%C3%84.png\r\nContent-ID: <logo@x>\r\n\
         Content-Location: http://example.com/logo.png\r\nContent-Transfer-Encoding: base64\r\n\r\nUE5H\r\n",
        "Content-Type: message/rfc822\r\n\r\nFrom: \"Ann Lee\" <ann@example.com>\r\nSubject: =?utf-8?B?Y2Fmw6k=?=\r\n",
        "Content-Type: multipart/mixed; boundary=\"=_tnef_1_mixed\"",
        "--=_tnef_0_mixed--\r\n",
    ] {
        assert!(body.contains(part), "{part} is not in\n{body}");
    }
    assert_eq!(message.to_internet_message(1 << 20), message.to_internet_message(1 << 20));
    assert_eq!(message.to_internet_message(mail.len() - 1), None);
}

/// The header section a message came with is the truest; its MIME fields speak of a body that is gone.
#[test]
fn the_header_section_it_came_with() {
    let headers = "Received: from a by b;\r\n\tMon, 2 Mar 2026 10:10:00 +0000\r\nFrom: Ann <ann@example.com>\r\nAuto-Submitted: auto-replied\r\n\
        Content-Type: multipart/mixed;\r\n boundary=x\r\nMIME-Version: 1.0\r\nnot a field\r\n and its rest\r\nSubject: kept\r\n\r\nFrom: no";
    let properties = Properties::default()
        .wide(0x007d, headers)
        .narrow(0x1035, "<id@x>")
        .narrow(0x0037, "other")
        .narrow(0x1000, "b");
    let bytes = Stream::new(1252).message(attribute::MESSAGE_PROPERTIES, &properties.list()).bytes();
    let mail = String::from_utf8(read(&bytes).message.to_internet_message(9999).unwrap()).unwrap();
    assert_eq!(
        mail,
        "Received: from a by b;\r\n\tMon, 2 Mar 2026 10:10:00 +0000\r\nFrom: Ann <ann@example.com>\r\nAuto-Submitted: auto-replied\r\n\
         Subject: kept\r\nMessage-ID: <id@x>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: base64\r\n\r\nYg==\r\n"
    );
}

#[test]
fn bodies_in_rtf() {
    let with = |rtf: &[u8]| {
        let properties = Properties::default().binary(0x1009, &compress_rtf(rtf));
        Stream::new(1252).message(attribute::MESSAGE_PROPERTIES, &properties.list()).bytes()
    };
    let html = with(
        br"{\rtf1\ansi\ansicpg1252\fromhtml1 {\*\htmltag64 <p>}caf\'e9 caf\'e9 caf\'e9{\*\htmltag72 </p>}}",
    );
    assert_eq!(read(&html).message.html.as_deref(), Some("<p>café café café</p>"));
    assert_eq!((&read(&html).message.text, &read(&html).message.rtf), (&None, &None));
    let text = with(br"{\rtf1\ansi\ansicpg1252\fromtext \pard one\par two}");
    assert_eq!(read(&text).message.text.as_deref(), Some("one\r\ntwo"));
    let rtf = with(br"{\rtf1\ansi{\b Hello} World}");
    let tnef = read(&rtf);
    assert_eq!(tnef.message.text.as_deref(), Some("Hello World"));
    assert_eq!(tnef.message.rtf.as_deref(), Some(&br"{\rtf1\ansi{\b Hello} World}"[..]));
    let mail = String::from_utf8(tnef.message.to_internet_message(9999).unwrap()).unwrap();
    assert!(mail.contains(
        "Content-Type: application/rtf\r\nContent-Disposition: attachment; filename=\"message.rtf\""
    ));

    // the budget for what grows
    let bomb = with(&[b"{\\rtf1 ", "a".repeat(60_000).as_bytes()].concat());
    assert!(bomb.len() < 12_000, "{}", bomb.len());
    let mut limits = Limits::default();
    limits.max_decoded_bytes = 50_000;
    let tnef = parse(&bomb, &limits).unwrap();
    assert!(
        tnef.message.text.unwrap_or_default().len() + tnef.message.rtf.unwrap_or_default().len() <= 50_000
    );
    assert!(!tnef.defects.is_empty());
}

#[test]
fn code_pages() {
    let bytes = Stream::new(932)
        .message(attribute::SUBJECT, b"\x83\x65\x83\x58\x83\x67\0")
        .message(attribute::BODY, b"\x83\x65\x83\x58\x83\x67\0")
        .file(
            "\u{0}",
            b"x",
            Properties::default().raw(0x001e, 0x3707, b"\x01\0\0\0\x06\0\0\0\x83\x65\x83\x58\x83\x67\0\0"),
        )
        .bytes();
    let m = read(&bytes).message;
    assert_eq!((m.subject.as_deref(), m.text.as_deref()), (Some("テスト"), Some("テスト")));
    assert_eq!(m.attachments[0].name.as_deref(), Some("テスト"));
}

#[test]
fn damage_is_told_and_the_rest_is_read() {
    let whole = Stream::new(1252)
        .message(attribute::SUBJECT, b"subject\0")
        .file("a.txt", b"first", Properties::default())
        .file("b.txt", b"second", Properties::default())
        .bytes();
    assert!(read(&whole).is_complete());
    // a checksum that does not fit
    let at = whole.windows(7).position(|w| w == b"subject").unwrap();
    let mut bytes = whole.clone();
    bytes[at] = b'S';
    let tnef = read(&bytes);
    assert_eq!(tnef.message.subject.as_deref(), Some("Subject"));
    assert_eq!(
        (tnef.message.attachments.len(), tnef.defects.as_slice()),
        (2, &["a checksum is wrong".to_owned()][..])
    );
    // cut off within the content of the second attachment
    let at = whole.windows(6).position(|w| w == b"second").unwrap();
    let tnef = read(&whole[..at + 3]);
    assert_eq!(tnef.message.attachments[0].content, Content::Data(b"first"));
    assert_eq!(tnef.message.attachments[1].content, Content::Data(b"sec"));
    assert_eq!(tnef.defects, ["the stream ends within an attribute"]);
    // behind it something else
    let bytes = [&whole[..], b"garbage that is no attribute"].concat();
    assert_eq!(read(&bytes).message.attachments.len(), 2);
    assert!(!read(&bytes).is_complete());
    // a reference to a file is no content
    let bytes = Stream::new(1252)
        .attachment(attribute::ATTACH_RENDERING, &[1; 14])
        .attachment(attribute::ATTACHMENT_PROPERTIES, &Properties::default().long(0x3705, 2).list())
        .bytes();
    assert_eq!(read(&bytes).message.attachments[0].content, Content::Missing);
    assert_eq!(read(&bytes).defects, ["an attachment is only a reference to a file elsewhere"]);
    // a meeting has more to it than is read
    let bytes =
        Stream::new(1252).message(attribute::MESSAGE_CLASS, b"IPM.Schedule.Meeting.Request\0").bytes();
    assert!(read(&bytes).defects.is_empty() && !read(&bytes).is_complete());
    // properties that break off
    let bytes = Stream::new(1252).message(attribute::MESSAGE_PROPERTIES, &[2, 0, 0, 0, 3, 0]).bytes();
    assert_eq!(read(&bytes).defects, ["the properties of the message break off"]);
}

#[test]
fn limits() {
    let mut stream = Stream::new(1252);
    for n in 0..20_u8 {
        stream = stream.file("a", &[n], Properties::default());
    }
    let bytes = stream.bytes();
    let mut limits = Limits::default();
    limits.max_attachments = 3;
    let tnef = parse(&bytes, &limits).unwrap();
    let contents: Vec<_> = tnef.message.attachments.iter().map(|a| a.content.clone()).collect();
    assert_eq!(contents, [Content::Data(&[0]), Content::Data(&[1]), Content::Data(&[2])]);
    assert_eq!(tnef.defects, ["there are more attachments than the 3 that are read"]);

    let rows = vec![Properties::default().narrow(0x3003, "a@b.example"); 9];
    let bytes = Stream::new(1252).message(attribute::RECIPIENTS, &recipients(&rows)).bytes();
    limits.max_recipients = 4;
    let tnef = parse(&bytes, &limits).unwrap();
    assert_eq!((tnef.message.recipients.len(), tnef.defects.len()), (4, 1));

    // as a table says it has more rows than fit into it
    let bytes = Stream::new(1252).message(attribute::RECIPIENTS, &[0xff; 4]).bytes();
    assert!(read(&bytes).message.recipients.is_empty());

    let mut inner = Stream::new(1252).message(attribute::SUBJECT, b"innermost\0").bytes();
    for _ in 0..50 {
        inner = Stream::new(1252).embedded("in", &inner).bytes();
    }
    let tnef = read(&inner);
    assert_eq!(tnef.defects, ["messages nested deeper than 8 were not taken apart"]);
    let mut message = &tnef.message;
    let mut depth = 0;
    while let Content::Message(next) = &message.attachments[0].content {
        (message, depth) = (next, depth + 1);
    }
    assert_eq!(depth, 8);
    let Content::Data(rest) = message.attachments[0].content else { panic!("{message:?}") };
    assert!(parse(rest, &Limits::default()).is_ok(), "what was not taken apart is there as it was");
    assert_eq!(message.attachments[0].mime_type.as_deref(), Some("application/ms-tnef"));
}

/// The seed of the fuzz target is the stream of these tests; `UPDATE_FIXTURES=1` writes it anew.
#[test]
#[allow(clippy::disallowed_methods)] // a file of ours
fn the_seed_for_fuzzing() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/tnef/rich.dat");
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, rich()).unwrap();
    }
    assert_eq!(std::fs::read(&path).unwrap(), rich());
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes, &Limits::default());
        let stream = [&Stream::new(1252).bytes()[..], &bytes].concat();
        let _ = read(&stream).message.to_internet_message(1 << 20);
        let _ = email_router_tnef::rtf::decompress(&bytes, 1 << 16);
        let _ = email_router_tnef::rtf::body(&bytes, 1 << 16);
    }

    #[test]
    fn damaged_streams(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..4_u8), 1..16)
    ) {
        let mut bytes = rich();
        for (at, byte, what) in changes {
            let at = at.index(bytes.len() - 6) + 6;
            match what {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => { bytes.remove(at); }
                _ => bytes.truncate(at.max(100)),
            }
        }
        let tnef = read(&bytes);
        if let Some(mail) = tnef.message.to_internet_message(1 << 20) {
            // nothing that was smuggled in ends a line: each one before the body is a field or goes one on
            let header = mail.split(|&b| b == b'\n').take_while(|l| *l != b"\r");
            for line in header {
                let is_field = line.split(|&b| b == b':').next().is_some_and(|n| n.iter().all(u8::is_ascii_graphic));
                prop_assert!(line.starts_with(b" ") || line.starts_with(b"\t") || is_field, "{:?}", line);
            }
        }
        prop_assert!(tnef.defects.len() <= 50);
    }

    #[test]
    fn compressed_rtf_is_what_it_was(text in "[a-z{}\\\\ \r\n]{0,400}") {
        let rtf = format!("{{\\rtf1\\ansi {text}}}");
        let found = email_router_tnef::rtf::decompress(&compress_rtf(rtf.as_bytes()), 1 << 20).unwrap();
        prop_assert_eq!((found.rtf, found.problem), (rtf.into_bytes(), None));
    }
}

/// attOemCodepage may name a code page of DOS.
#[test]
fn text_in_the_code_pages_of_dos() {
    for (page, expected) in [(437, "Grüße ¢"), (850, "Grüße ø")] {
        let bytes = Stream::new(page)
            .message(attribute::SUBJECT, b"Gr\x81\xe1e \x9b\0")
            .message(attribute::BODY, b"\x9c 5\0")
            .bytes();
        let tnef = read(&bytes);
        assert_eq!(tnef.defects, [""; 0], "{page}");
        assert_eq!(tnef.message.subject.as_deref(), Some(expected));
        assert_eq!(tnef.message.text.as_deref(), Some("£ 5"));
    }
}
