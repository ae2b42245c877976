use email_router_crm::OrganizationSettings;
use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Message {
    Message::parse(&raw(text), &ParseCaps::default())
}
fn raw(text: &str) -> RawMessage {
    RawMessage::new(text.replace('\n', "\r\n").into_bytes())
}
fn content(text: &str) -> Content {
    Content::read(&raw(text), &ParseCaps::default(), &OrganizationSettings::default())
}

#[test]
fn header_fields() {
    let m = parse(
        "Received: from a by b; Tue, 03 Mar 2026 10:00:02 +0100\nReceived: from x by a; Tue, 03 Mar 2026 09:00:00 +0000\n\
         From: nobody, Ann Lee <ann@example.com>\nSender: bob@example.com\nTo: Sales <sales@example.com>,\n c@example.com\n\
         Cc: team: d@example.com;\nSubject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\n =?utf-8?Q?_CRM:0001001?=\nMessage-ID: <a@b>\n\
         In-Reply-To: <p@q>\nReferences: <o@q>\n <p@q>\nDate: Tue, 03 Mar 2026 10:00:00 +0100\nX-Priority: 1 (Highest)\n\
         Thread-Index: AdWhssPUAAECAwQFBgcICQoLDA0ODw==\nDelivered-To: box@example.com\nX-Own: 1\n\nbody\n",
    );
    assert_eq!(m.from.as_ref().unwrap().address.as_ref().unwrap().as_str(), "ann@example.com");
    assert_eq!(m.from_field, "nobody, Ann Lee <ann@example.com>");
    assert_eq!(m.sender.as_ref().unwrap().raw, "bob@example.com");
    let recipients: Vec<_> = m.recipients().map(|p| p.address.as_ref().unwrap().as_str()).collect();
    assert_eq!(recipients, ["sales@example.com", "c@example.com", "d@example.com"]);
    assert_eq!(m.subject, "Grüße CRM:0001001");
    assert_eq!(m.identity().as_deref(), Some("<a@b>"));
    assert_eq!(m.in_reply_to, [MessageId::parse("p@q").unwrap()]);
    assert_eq!(m.references.iter().map(MessageId::as_str).collect::<Vec<_>>(), ["<o@q>", "<p@q>"]);
    assert_eq!(m.date.unwrap().to_string(), "2026-03-03T09:00:00Z");
    assert_eq!(m.received.unwrap().to_string(), "2026-03-03T09:00:02Z");
    assert_eq!(m.priority, Priority::High);
    assert_eq!(m.thread_index.as_deref(), Some("01d5a1b2c3d4000102030405060708090a0b0c0d0e0f"));
    assert_eq!(m.envelope_to, ["box@example.com".parse().unwrap()]);
    assert_eq!(m.header("x-own").as_deref(), Some("1"));
    assert_eq!(m.defects, Vec::<String>::new());
    assert!(m.whole && !m.is_unreadable());
}

#[test]
fn header_section_alone_reads_the_same() {
    let text = "From: a@b.example\r\nTo: c@d.example\r\nSubject: s\r\nMessage-ID: <1@x>\r\n\r\nbody";
    let whole = Message::parse(&RawMessage::new(text.as_bytes()), &ParseCaps::default());
    let mut alone = Message::from_headers(text.as_bytes(), &ParseCaps::default());
    assert!(!alone.whole);
    alone.whole = true;
    assert_eq!(alone, whole);
}

#[test]
fn identity_without_message_id() {
    let text = b"From: a@b.example\r\n\r\nbody";
    let whole = Message::parse(&RawMessage::new(&text[..]), &ParseCaps::default());
    assert_eq!(whole.identity().unwrap().len(), "sha256:".len() + 64);
    assert_eq!(Message::from_headers(text, &ParseCaps::default()).identity(), None);
    let other =
        Message::parse(&RawMessage::new(&b"From: a@b.example\r\n\r\nbody2"[..]), &ParseCaps::default());
    assert_ne!(whole.identity(), other.identity());
}

#[test]
fn unreadable_and_odd_beginnings() {
    assert!(parse("").is_unreadable());
    assert!(parse("hello world\nno header here\n").is_unreadable());
    assert!(parse("\n\n\n").is_unreadable());
    let m = parse("\n\u{feff}\nSubject: x\n\n");
    assert!(m.is_unreadable() || m.subject == "x");
    assert_eq!(parse("\u{feff}\nSubject: x\n\n").subject, "x");
    assert_eq!(parse("From ann@example.com Tue Mar  3 10:00:00 2026\nSubject: x\n\n").subject, "x");
}

#[test]
fn nothing_is_lost_silently_in_headers() {
    let bytes = b"From: caf\xe9 <a@b.example>\r\nSubject: na\xefve =?x-unknown?Q?=41?=\r\n\r\n";
    let m = Message::from_headers(bytes, &ParseCaps::default());
    assert_eq!(m.from.unwrap().name.as_deref(), Some("café"));
    assert!(m.subject.starts_with("naïve"), "{}", m.subject);
    assert_eq!(m.defects.len(), 2, "{:?}", m.defects);
}

#[test]
fn caps_of_the_header() {
    let mut caps =
        ParseCaps { max_references: 3, max_recipients: 4, max_subject_chars: 5, ..ParseCaps::default() };
    let references: String = (0..20_000).map(|n| format!(" <{n}@x>\r\n")).collect();
    let text = format!(
        "From: a@b.example\r\nSubject: 1234567\r\nTo: a@b.example, b@b.example, c@b.example\r\nCc: d@b.example, e@b.example\r\n\
         Bcc: f@b.example\r\nReferences:{references}\r\n"
    );
    let m = Message::from_headers(text.as_bytes(), &caps);
    assert_eq!(
        m.references.iter().map(MessageId::as_str).collect::<Vec<_>>(),
        ["<19997@x>", "<19998@x>", "<19999@x>"]
    );
    assert_eq!((m.to.len(), m.cc.len(), m.bcc.len()), (3, 1, 0));
    assert_eq!(m.subject, "12345");
    assert_eq!(m.defects.len(), 4, "{:?}", m.defects);
    assert!(m.beyond_caps);
    assert!(
        !Message::from_headers(
            text.as_bytes(),
            &ParseCaps { max_references: 20_000, ..ParseCaps::default() }
        )
        .beyond_caps
    );

    caps.max_header_bytes = 30;
    let m = Message::from_headers(text.as_bytes(), &caps);
    assert_eq!((m.subject.as_str(), m.from_field.as_str()), ("", "a@b.example"));
    assert!(m.defects[0].contains("only the first 30"), "{:?}", m.defects);
}

#[test]
fn bodies() {
    for (name, text, mime, expected) in [
        ("plain", "Subject: a\n\nhello\n", "text/plain", "hello\r\n"),
        ("html", "Content-Type: text/html\n\n<b>x</b>", "text/html", "<b>x</b>"),
        (
            "alternative",
            "Content-Type: multipart/alternative; boundary=a\n\n--a\n\nplain\n--a\nContent-Type: text/html\n\n<p>html\n--a--\n",
            "text/html",
            "<p>html",
        ),
        (
            "alternative in the wrong order",
            "Content-Type: multipart/alternative; boundary=a\n\n--a\nContent-Type: text/html\n\n<p>html\n--a\n\nplain\n--a--\n",
            "text/html",
            "<p>html",
        ),
        (
            "alternative of which only the text can be read",
            "Content-Type: multipart/alternative; boundary=a\n\n--a\n\nplain\n--a\nContent-Type: text/calendar\n\nBEGIN\n--a--\n",
            "text/plain",
            "plain",
        ),
        (
            "texts around an attachment",
            "Content-Type: multipart/mixed; boundary=a\n\n--a\n\none\n--a\nContent-Type: image/png\n\nx\n--a\n\ntwo\n--a--\n",
            "text/plain",
            "one\r\ntwo",
        ),
        (
            "text and html in a row",
            "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: text/html\n\n<p>1\n--a\n\n2 < 3\n--a--\n",
            "text/html",
            "<p>1\r\n<div style=\"white-space: pre-wrap\">2 &lt; 3</div>",
        ),
        (
            "a named text alone",
            "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: text/plain; name=mail.txt\n\nhi\n--a--\n",
            "text/plain",
            "hi",
        ),
        (
            "quoted-printable latin",
            "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\ncaf=E9 =\n!",
            "text/plain",
            "café !",
        ),
        (
            "broken quoted-printable",
            "Content-Transfer-Encoding: quoted-printable\n\n100 =ZZ a=3Db",
            "text/plain",
            "100 =ZZ a=b",
        ),
        (
            "iso-2022-jp with junk around its name",
            "Content-Type: text/plain; charset=\"_iso-2022-jp$ESC\"\n\n\u{1b}$B$\"\u{1b}(B",
            "text/plain",
            "あ",
        ),
    ] {
        let c = content(text);
        assert_eq!((c.body_mime_type.as_str(), c.body.as_str()), (mime, expected), "{name}");
    }
}

#[test]
fn attachments() {
    let c = content(
        "Content-Type: multipart/mixed; boundary=a\n\n--a\n\nhi\n\
         --a\nContent-Type: application/pdf; name=\"=?utf-8?Q?Pr=C3=BCfung.pdf?=\"\nContent-Transfer-Encoding: base64\n\naGVsbG8=\n\
         --a\nContent-Type: image/png\nContent-ID: <logo@x>\nContent-Disposition: inline; filename*=utf-8''..%2F%C3%BC.png\n\nPNG\n\
         --a\nContent-Type: message/rfc822\n\nSubject: inner / one\nContent-Type: multipart/mixed; boundary=a\n\nx\n\
         --a\nContent-Type: application/x-msdownload; name=\"setup.EXE \"\n\nMZ\n\
         --a\nContent-Type: text/plain; name=notes.txt\n\nnotes\n--a--\n",
    );
    let found: Vec<_> = c
        .attachments
        .iter()
        .map(|a| (a.file_name.as_str(), a.mime_type.as_str(), a.content_id.as_deref(), a.content.len()))
        .collect();
    assert_eq!(
        found,
        [
            ("Prüfung.pdf", "application/pdf", None, 5),
            ("ü.png", "image/png", Some("logo@x"), 3),
            ("inner _ one.eml", "message/rfc822", None, 68),
            ("notes.txt", "text/plain", None, 5),
        ]
    );
    assert_eq!(c.body, "hi");
    assert_eq!(c.removed_parts, ["attachment \"setup.EXE\": files of type exe are blocked"]);
}

#[test]
fn limits_and_problems_are_named() {
    let mut settings = OrganizationSettings { max_upload_file_size: 4, ..OrganizationSettings::default() };
    settings.blocked_attachments.clear();
    let caps = ParseCaps { max_body_chars: 3, ..ParseCaps::default() };
    let text = "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: text/plain; charset=x-what\n\nhello\n\
                --a\nContent-Type: image/png; name=a.png\nContent-Transfer-Encoding: base64\n\naGVsbG8=\n\
                --a\nContent-Type: image/png; name=b.png\nContent-Transfer-Encoding: base64\n\naG!Vs\n--a--\n";
    let c = Content::read(&raw(text), &caps, &settings);
    assert_eq!(c.body, "hel");
    assert_eq!(c.attachments.len(), 1);
    assert_eq!(&c.attachments[0].content[..], b"hel");
    assert_eq!(
        c.removed_parts,
        [
            "part 2: the charset \"x-what\" is not known; it was read as utf-8",
            "attachment \"a.png\": 5 bytes are more than the 4 that may be stored",
            "part 4: has bytes that are not base64; they were passed over",
            "the body was cut after 3 characters",
        ]
    );
}

#[test]
fn bombs() {
    let caps = ParseCaps::default();
    let settings = OrganizationSettings::default();
    let mut deep = String::from("From: a@b.example\r\n");
    for n in 0..5000 {
        deep.push_str(&format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"));
    }
    let c = Content::read(&RawMessage::new(deep), &caps, &settings);
    assert_eq!((c.attachments.len(), c.removed_parts.len()), (1, 1));

    let mut wide = "Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_owned();
    wide.push_str(&"--b\r\nContent-Type: image/png\r\n\r\nx\r\n".repeat(20_000));
    let c = Content::read(&RawMessage::new(wide), &caps, &settings);
    assert_eq!(c.attachments.len(), caps.max_parts - 1);
    assert_eq!(c.removed_parts, ["19001 parts were left out: a message may have at most 1000"]);

    // attached messages within attached messages: opaque, so no depth at all
    let nested = "Content-Type: message/rfc822\r\n\r\n".repeat(100_000);
    let c = Content::read(&RawMessage::new(nested), &caps, &settings);
    assert_eq!(c.attachments.len(), 1);
}

/// A message with most features, as a seed for mutation.
const RICH: &str = "Received: from a by b; Tue, 03 Mar 2026 10:00:02 +0100\nFrom: =?utf-8?B?QW5u?= <ann@example.com>\n\
    To: \"B, C\" <b@example.com>, group: d@example.com;\nSubject: =?iso-8859-1?Q?caf=E9?=\nMessage-ID: <a@b>\nReferences: <c@d> <e@f>\n\
    Date: Tue, 03 Mar 2026 10:00:00 +0100\nThread-Index: AdWhssPUAAECAwQFBgcICQoLDA0ODw==\nMIME-Version: 1.0\n\
    Content-Type: multipart/mixed; boundary=\"a\"\n\n--a\nContent-Type: multipart/alternative; boundary=b\n\n--b\n\
    Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\ncaf=C3=A9 =\n\n--b\n\
    Content-Type: text/html; charset=iso-2022-jp\n\n<p>\n--b--\n--a\nContent-Type: image/png; name*0*=utf-8''a%20; name*1*=b.png\n\
    Content-Transfer-Encoding: base64\nContent-ID: <x@y>\n\naGVsbG8=\n--a\nContent-Type: message/rfc822\n\nSubject: in\n\nx\n--a--\n";

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = fuzz_parse(&bytes);
    }

    #[test]
    fn mutated_mail_never_panics(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..4u8), 0..24)
    ) {
        let mut bytes = RICH.replace('\n', "\r\n").into_bytes();
        for (at, byte, what) in changes {
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => { bytes.remove(at); }
                _ => { let end = (at + usize::from(byte)).min(bytes.len()); let again = bytes[at..end].to_vec(); bytes.splice(at..at, again); }
            }
        }
        let _ = fuzz_parse(&bytes);
        let m = Message::from_headers(&bytes, &ParseCaps::default());
        prop_assert!(!m.subject.chars().any(char::is_control));
        prop_assert!(!m.from_field.chars().any(char::is_control));
    }
}

/// RFC 5322 3.6 allows each of these once. The first counts, for the header section alone as for the whole, and it is said.
#[test]
fn of_repeated_fields_the_first_counts_and_it_is_said() {
    let text = "From: Ann <ann@example.com>\r\nSubject: first\r\nMessage-ID: <1@x>\r\nDate: Mon, 09 Nov 2026 10:00:00 +0000\r\n\
                From: Bob <bob@example.com>\r\nSubject: second\r\nMessage-ID: <2@x>\r\nDate: Tue, 10 Nov 2026 10:00:00 +0000\r\n\r\nx";
    let caps = ParseCaps::default();
    for m in [Message::parse(&raw(text), &caps), Message::from_headers(text.as_bytes(), &caps)] {
        assert_eq!(m.subject, "first");
        assert_eq!(m.message_id, MessageId::parse("<1@x>"));
        assert_eq!(m.from.as_ref().and_then(|f| f.address.as_ref()).unwrap().as_str(), "ann@example.com");
        assert_eq!(m.header("subject").as_deref(), Some("first"));
        let said: Vec<_> = m.defects.iter().map(String::as_str).collect();
        assert_eq!(
            said,
            [
                "From stands there more than once; the first counts",
                "Subject stands there more than once; the first counts",
                "Message-ID stands there more than once; the first counts",
                "Date stands there more than once; the first counts",
            ]
        );
    }
}

/// RFC 2047 5 forbids it; Python's standard library folds a long In-Reply-To into encoded words all the same.
#[test]
fn ids_in_encoded_words() {
    let text = "In-Reply-To: =?utf-8?q?=3C13e70a8e-5773-408f-837a-9604aef215ab=2E0db8?=\r\n =?utf-8?q?837c=40shop=2Eexample=3E?=\r\n\
                References: <root@x> =?utf-8?q?=3Clast=40x=3E?=\r\n\r\n";
    let message = Message::from_headers(text.as_bytes(), &ParseCaps::default());
    let ids = |ids: &[MessageId]| ids.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(&message.in_reply_to), ["<13e70a8e-5773-408f-837a-9604aef215ab.0db8837c@shop.example>"]);
    assert_eq!(ids(&message.references), ["<root@x>", "<last@x>"]);
}

/// One short field says too little about its charset; all of them together say enough.
#[test]
fn raw_fields_are_looked_at_together() {
    let gbk = |text: &str| encoding_rs::GBK.encode(text).0.into_owned();
    let read = |from: &str, to: &str| {
        let bytes = [&b"From: "[..], &gbk(from), b"\r\nTo: ", &gbk(to), b"\r\n\r\n"].concat();
        let message = Message::from_headers(&bytes, &ParseCaps::default());
        message.from.unwrap().raw
    };
    assert_eq!(
        read("报价 <z@example.test>", "华东区销售管理部 <inbox@fabrikam.test>"),
        "报价 <z@example.test>"
    );
    // which proves something only if it is not found out alone
    assert_ne!(read("报价 <z@example.test>", "inbox@fabrikam.test"), "报价 <z@example.test>");
}

/// An id is the same whatever stands in the fields around it: the identity of a message depends on it.
#[test]
fn ids_do_not_depend_on_the_charset_of_the_text() {
    let bytes =
        b"Content-Type: text/plain; charset=koi8-r\r\nSubject: \xf0\xd2\xc9\r\nMessage-ID: <\xe9@x>\r\n\r\n";
    let message = Message::from_headers(bytes, &ParseCaps::default());
    assert_eq!(message.subject, "При");
    assert_eq!(message.message_id, MessageId::parse("<é@x>"));
}

proptest! {
    /// What the body says, and in which charset, changes nothing in how the header section is read.
    #[test]
    fn raw_text_reads_the_same_without_the_body(
        subject in proptest::collection::vec(any::<u8>(), 0..40),
        name in proptest::collection::vec(0x1b..=0xff_u8, 0..20),
        label in 0..6_usize,
        multipart: bool,
        body in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let label = ["utf-8", "shift_jis", "koi8-r", "iso-8859-1", "utf-16", "x-what"][label];
        let one_line = |bytes: Vec<u8>| bytes.into_iter().filter(|b| !b"\r\n".contains(b)).collect::<Vec<u8>>();
        let content_type = format!("text/plain; charset={label}\r\n\r\n");
        let bytes = [
            &b"Message-ID: <1@x>\r\nSubject: "[..], &one_line(subject),
            b"\r\nFrom: \"", &one_line(name), b"\" <ann@example.test>\r\nContent-Type: ",
            if multipart { b"multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: " } else { b"" },
            content_type.as_bytes(),
            &body,
        ]
        .concat();
        let caps = ParseCaps::default();
        let whole = Message::parse(&RawMessage::new(bytes.clone()), &caps);
        let mut alone = Message::from_headers(&bytes, &caps);
        alone.whole = true;
        prop_assert_eq!(alone, whole);
    }
}
