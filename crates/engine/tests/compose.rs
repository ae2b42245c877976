//! What goes out, read back by an independent parser, and by Python's where it is installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a test file

use std::io::Write as _;
use std::process::{Command, Stdio};

use bytes::Bytes;
use email_router_crm::{Attachment, OutgoingEmail, ParticipationType, Party, Priority};
use email_router_engine::message::Message;
use email_router_engine::outgoing::{ComposeOptions, LOOP_HEADER, compose, message_id};
use email_router_engine::reference::{OwnMail, REFERENCE_HEADER, Reference};
use email_router_engine::{ParseCaps, ReferenceSigner};
use email_router_model::{ActivityId, MessageId, OrganizationId, RawMessage};
use email_router_transport::Outbound;
use mail_parser::{MessageParser, MimeHeaders as _};
use proptest::prelude::*;

fn options() -> ComposeOptions {
    ComposeOptions {
        organization: OrganizationId::from_url("https://contoso.crm.dynamics.com/"),
        max_message_bytes: 10_000_000,
        signer: None,
    }
}

fn party(participation: ParticipationType, name: Option<&str>, address: &str) -> Party {
    Party {
        participation,
        record: None,
        address: Some(address.parse().unwrap()),
        name: name.map(str::to_owned),
    }
}

fn email() -> OutgoingEmail {
    let activity_id: ActivityId = "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap();
    OutgoingEmail {
        activity_id,
        message_id: Some(message_id(&activity_id, "router.example", &options()).unwrap()),
        subject: "Angebot 12 CRM:0001001".to_owned(),
        body: "Hello".to_owned(),
        body_mime_type: "text/plain".to_owned(),
        parties: vec![
            party(ParticipationType::Sender, Some("Ann Lee"), "ann@example.com"),
            party(ParticipationType::To, Some("Bob"), "bob@example.net"),
        ],
        parent_activity: None,
        parent_message_id: None,
        parent_references: Vec::new(),
        tracking_token: None,
        priority: Priority::Normal,
        delivery_receipt_requested: false,
        read_receipt_requested: false,
        delivery_attempts: 1,
        attachment_bytes: 0,
        created_on: "2026-03-01T10:00:00Z".parse().unwrap(),
    }
}

fn file(name: &str, kind: &str, cid: Option<&str>, content: &'static [u8]) -> Attachment {
    Attachment {
        file_name: name.to_owned(),
        mime_type: kind.to_owned(),
        content_id: cid.map(str::to_owned),
        content: Bytes::from_static(content),
    }
}

fn written(email: &OutgoingEmail, attachments: &[Attachment]) -> Outbound {
    compose(email, attachments, &options()).unwrap()
}

fn text(message: &Outbound) -> String {
    String::from_utf8(message.mime.to_vec()).expect("what goes out is ASCII")
}

/// Names and values of the header section, unfolded.
fn fields(message: &Outbound) -> Vec<(String, String)> {
    let text = text(message);
    let head = text.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ").replace("\r\n\t", " ");
    head.split("\r\n")
        .map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

fn field(message: &Outbound, name: &str) -> Option<String> {
    fields(message).into_iter().find(|(n, _)| n == name).map(|(_, v)| v)
}

fn well_formed(message: &Outbound) {
    let text = text(message);
    assert!(text.is_ascii(), "seven bits");
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "only CRLF");
    assert!(text.split("\r\n").all(|line| line.len() <= 998), "lines of at most 998 octets");
}

/// Signed references: in the Message-ID, at the end of References whatever the Message-ID, and in a field of our own.
#[test]
fn signed_references() {
    let signer = ReferenceSigner::new("k".repeat(32).into()).unwrap();
    let signing = ComposeOptions { signer: Some(signer.clone()), ..options() };
    let mut email = email();
    let id = email.activity_id;
    let organization = signing.organization;
    let signed = message_id(&id, "router.example", &signing).unwrap();
    assert_eq!(signer.judge(&organization, &signed), Reference::Signed(id));
    email.message_id = Some(signed.clone());
    email.parent_message_id = MessageId::parse("<parent@example.net>");
    email.parent_references = (0..60).map(|n| MessageId::parse(&format!("<r{n}@x>")).unwrap()).collect();
    let message = compose(&email, &[], &signing).unwrap();
    let read = Message::parse(&RawMessage::new(message.mime.clone()), &ParseCaps::default());
    assert_eq!(read.message_id.as_ref(), Some(&signed));
    assert_eq!(read.in_reply_to, [MessageId::parse("<parent@example.net>").unwrap()]);
    let [.., parent, reference] = &read.references[..] else { panic!("{:?}", read.references) };
    assert_eq!((read.references.len(), parent.as_str()), (50, "<parent@example.net>"));
    assert_eq!(signer.judge(&organization, reference), Reference::Signed(id));
    assert_ne!(reference, &signed);
    assert_eq!(
        signer.own_mail(&organization, &read),
        Some(OwnMail { activity_id: id, message_id: signed.clone() })
    );
    assert!(text(&message).lines().all(|line| line.len() <= 998));

    // a provider gives it another Message-ID
    let rewritten = text(&message).replacen(signed.as_str(), "<0100@ses.example>", 1);
    let read = Message::parse(&RawMessage::new(rewritten), &ParseCaps::default());
    assert_eq!(read.message_id.as_ref().unwrap().as_str(), "<0100@ses.example>");
    assert_eq!(signer.own_mail(&organization, &read).map(|own| own.message_id), Some(signed));

    // nothing of it without a signer
    email.parent_message_id = None;
    email.parent_references.clear();
    let plain = text(&compose(&email, &[], &options()).unwrap());
    assert!(!plain.contains("References:") && !plain.contains(REFERENCE_HEADER), "{plain}");
}

#[test]
fn every_field() {
    let mut email = email();
    email.parties.push(party(ParticipationType::Cc, None, "carol@example.net"));
    email.parties.push(party(ParticipationType::Bcc, Some("Secret"), "eve@example.org"));
    email.parties.push(party(ParticipationType::To, Some("Bob again"), "BOB@example.net"));
    email.priority = Priority::High;
    email.read_receipt_requested = true;
    email.parent_message_id = MessageId::parse("<parent@example.net>");
    email.parent_references = MessageId::parse_list("<root@x> <mid@x>").collect();
    let message = written(&email, &[]);
    well_formed(&message);
    let recipients: Vec<_> = message.envelope.recipients.iter().map(|a| a.as_str()).collect();
    assert_eq!(recipients, ["bob@example.net", "carol@example.net", "eve@example.org"], "each once");
    assert_eq!(message.envelope.sender.as_ref().unwrap().as_str(), "ann@example.com");
    for (name, value) in [
        ("From", "\"Ann Lee\" <ann@example.com>"),
        ("Cc", "carol@example.net"),
        ("Subject", "Angebot 12 CRM:0001001"),
        ("Date", "Sun, 01 Mar 2026 10:00:00 +0000"),
        ("Message-ID", "<0f8fad5b-d9cb-469f-a165-70867728950e@router.example>"),
        ("In-Reply-To", "<parent@example.net>"),
        ("References", "<root@x> <mid@x> <parent@example.net>"),
        ("Importance", "high"),
        ("X-Priority", "1"),
        ("Disposition-Notification-To", "<ann@example.com>"),
        (LOOP_HEADER, "7f307179-5ec3-53da-be2d-891e1d5c7666"),
        ("MIME-Version", "1.0"),
    ] {
        assert_eq!(field(&message, name).as_deref(), Some(value), "{name}");
    }
    let whole = text(&message);
    assert!(
        !whole.contains("eve@") && !whole.contains("Bcc") && !whole.contains("Secret"),
        "Bcc stays hidden"
    );
    let parsed = MessageParser::default().parse(&message.mime[..]).unwrap();
    assert_eq!(parsed.subject(), Some("Angebot 12 CRM:0001001"));
    assert_eq!(parsed.message_id(), Some("0f8fad5b-d9cb-469f-a165-70867728950e@router.example"));
    assert_eq!(parsed.date().unwrap().to_timestamp(), 1_772_359_200);
    assert_eq!(parsed.body_text(0).unwrap().trim_end(), "Hello");
    let low = OutgoingEmail { priority: Priority::Low, ..email };
    assert_eq!(field(&written(&low, &[]), "X-Priority").as_deref(), Some("5"));
}

#[test]
fn plain_mail_has_only_what_it_needs() {
    let message = written(&email(), &[]);
    for name in
        ["In-Reply-To", "References", "Importance", "X-Priority", "Disposition-Notification-To", "Cc", "Bcc"]
    {
        assert_eq!(field(&message, name), None, "{name}");
    }
    assert!(!text(&message).contains("multipart"));
}

#[test]
fn only_hidden_recipients() {
    let mut email = email();
    email.parties[1].participation = ParticipationType::Bcc;
    let message = written(&email, &[]);
    assert_eq!(field(&message, "To").as_deref(), Some("undisclosed-recipients:;"));
    assert_eq!(message.envelope.recipients.len(), 1);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let mut email = email();
    email.body_mime_type = "text/html".to_owned();
    email.body = "<p>x</p><img src='cid:a@b'>".to_owned();
    let files = [file("a.png", "image/png", Some("a@b"), b"png"), file("b.txt", "text/plain", None, b"b")];
    let first = written(&email, &files);
    email.delivery_attempts = 7;
    assert_eq!(written(&email, &files).mime, first.mime);
}

const LONG: &str =
    "Очень длинное имя с кириллицей, которое не помещается в одну строку заголовка и должно быть разбито";

#[test]
fn names_and_texts_of_every_script() {
    for name in
        [LONG, "用户 测试", "O'Brien, \"Joe\" (Sales) <boss>", "a", "naïve ünïcode", "=?utf-8?q?x?=", " "]
    {
        let mut email = email();
        email.subject = format!("{name} 🎉 {LONG}");
        email.parties[0].name = Some(name.to_owned());
        email.parties[1].name = Some(name.to_owned());
        email.body = format!("{name}\r\nline two\rline three\n.\n--=_mixed\n{LONG}\n");
        let message = written(&email, &[file(&format!("{LONG}.pdf"), "application/pdf", None, b"%PDF")]);
        well_formed(&message);
        let parsed = MessageParser::default().parse(&message.mime[..]).unwrap();
        let from = parsed.from().and_then(|a| a.first()).unwrap();
        assert_eq!(from.address(), Some("ann@example.com"));
        assert_eq!(from.name().unwrap_or_default(), name.trim(), "display name");
        assert_eq!(parsed.subject(), Some(email.subject.trim()), "subject");
        let body = parsed.body_text(0).unwrap().replace("\r\n", "\n");
        assert_eq!(body.trim_end(), email.body.replace("\r\n", "\n").replace('\r', "\n").trim_end());
        assert_eq!(parsed.attachment(0).unwrap().attachment_name(), Some(format!("{LONG}.pdf").as_str()));
    }
}

#[test]
fn html_with_text_pictures_and_attachments() {
    let mut email = email();
    email.body_mime_type = "text/html; charset=utf-8".to_owned();
    email.body = "<html><head><style>p{}</style></head><body><p>Grüße &amp; <b>Dank</b></p><img src=\"CID:logo@x\"></body></html>".to_owned();
    let files = [
        file("logo.png", "image/png", Some("<logo@x>"), b"\x89PNG"),
        file("unused.png", "image/png", Some("other@x"), b"\x89PNG2"),
        file("../../etc/пароль.txt", "text/plain; charset=x", None, b"secret"),
        file("mail.eml", "message/rfc822", None, b"Subject: x\r\n\r\n--=_mixed\r\n"),
        file("", "not a type", None, b""),
    ];
    let message = written(&email, &files);
    well_formed(&message);
    let parsed = MessageParser::default().parse(&message.mime[..]).unwrap();
    assert_eq!(parsed.body_text(0).unwrap().trim(), "Grüße & Dank");
    assert_eq!(parsed.body_html(0).unwrap().trim_end(), email.body);
    let kinds: Vec<String> = parsed
        .parts
        .iter()
        .filter_map(|p| {
            p.content_type().map(|t| format!("{}/{}", t.ctype(), t.subtype().unwrap_or_default()))
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "multipart/mixed",
            "multipart/alternative",
            "text/plain",
            "multipart/related",
            "text/html",
            "image/png",
            "image/png",
            "text/plain",
            "application/octet-stream",
            "application/octet-stream",
        ]
    );
    let by_name = |name: &str| parsed.parts.iter().find(|p| p.attachment_name() == Some(name)).unwrap();
    assert_eq!(by_name("logo.png").content_id(), Some("logo@x"));
    assert!(by_name("logo.png").content_disposition().unwrap().is_inline());
    assert_eq!(by_name("unused.png").content_id(), None, "what the HTML does not show is attached");
    assert!(by_name("unused.png").content_disposition().unwrap().is_attachment());
    assert_eq!(by_name("пароль.txt").contents(), b"secret");
    assert_eq!(by_name("mail.eml").contents(), b"Subject: x\r\n\r\n--=_mixed\r\n");
    assert_eq!(by_name("attachment").contents(), b"");
}

#[test]
fn long_threads_keep_the_first_and_the_last() {
    let mut email = email();
    email.parent_references =
        (0..300).map(|n| MessageId::parse(&format!("<{n}@{}>", "x".repeat(60))).unwrap()).collect();
    email.parent_references.push(MessageId::parse(&"y".repeat(2000)).unwrap());
    email.parent_references.push(MessageId::parse("<ключ@пример>").unwrap());
    email.parent_message_id = Some(email.parent_references[299].clone());
    let message = written(&email, &[]);
    well_formed(&message);
    let references: Vec<MessageId> = MessageId::parse_list(&field(&message, "References").unwrap()).collect();
    assert_eq!(references.len(), 50);
    assert_eq!(references[0], email.parent_references[0]);
    assert_eq!(references[49], email.parent_references[299], "the parent is last, and once");
    assert_eq!(references[1], email.parent_references[251]);
}

#[test]
fn refuses_what_cannot_go_out() {
    let refused = |change: &dyn Fn(&mut OutgoingEmail)| {
        let mut email = email();
        change(&mut email);
        compose(&email, &[], &options()).unwrap_err().to_string()
    };
    assert!(refused(&|e| e.message_id = None).contains("has no Message-ID"));
    assert!(refused(&|e| e.parties.truncate(1)).contains("has no recipient"));
    assert!(refused(&|e| e.parties[1].address = None).contains("who has no e-mail address"));
    assert!(refused(&|e| e.parties[0].address = None).contains("no sender"));
    assert!(refused(&|e| e.body = "x".repeat(10_000_001)).contains("at most 10000000 are sent"));
    // the limit is that of the message as it goes out, after encoding
    let tight = ComposeOptions { max_message_bytes: 3000, ..options() };
    let content = file("a", "a/b", None, &[0; 2000]);
    assert!(compose(&email(), &[content], &tight).is_err());
}

#[test]
fn a_year_no_date_field_can_have() {
    for (year, expected) in [("-005000-01-01T00:00:00Z", "1970"), ("9999-12-30T00:00:00Z", "9999")] {
        let email = OutgoingEmail { created_on: year.parse().unwrap(), ..email() };
        assert!(field(&written(&email, &[]), "Date").unwrap().contains(expected), "{year}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever the CRM holds: no field more than there should be, no line too long, nothing but ASCII.
    #[test]
    fn no_text_can_add_a_field(
        subject in "(\\PC|[\\x00-\\x7f]|\\r\\nBcc: x@y){0,60}",
        name in "(\\PC|[\\x00-\\x7f]|\\r\\nBcc: x@y){0,60}",
        file_name in "(\\PC|[\\x00-\\x7f]|\\r\\n\\r\\n){0,60}",
        kind in "[ -~\\r\\n]{0,30}|text/html\\r\\nX-Evil: 1",
        cid in "[ -~\\r\\n]{0,30}",
    ) {
        let mut email = email();
        email.subject = subject;
        email.parties[0].name = Some(name.clone());
        email.parties[1].name = Some(name);
        email.body = format!("<p>x<img src=\"cid:{cid}\"></p>");
        email.body_mime_type = "text/html".to_owned();
        let attachment = Attachment { file_name, mime_type: kind, content_id: Some(cid), content: Bytes::from_static(b"the file") };
        let message = written(&email, &[attachment]);
        well_formed(&message);
        let names: Vec<String> = fields(&message).into_iter().map(|(n, _)| n).collect();
        let first: Vec<&str> = names.iter().map(String::as_str).collect();
        prop_assert_eq!(
            first,
            ["From", "To", "Subject", "Date", "Message-ID", LOOP_HEADER, "MIME-Version", "Content-Type"]
        );
        let parsed = MessageParser::default().parse(&message.mime[..]).unwrap();
        let (mut files, mut evil) = (0, 0);
        for part in &parsed.parts {
            files += usize::from(part.contents() == b"the file");
            evil += usize::from(part.headers.iter().any(|h| h.name().eq_ignore_ascii_case("X-Evil")));
        }
        prop_assert_eq!((files, evil), (1, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    /// Subject, names and file names come back as they were, whatever the script, the length and the punctuation.
    #[test]
    fn texts_come_back(
        subject in "([ -~]|[а-яё ]|[\u{4e00}-\u{4eff}]|🎉|=\\?){1,120}",
        name in "([ -~]|[а-яё ]|[\u{4e00}-\u{4eff}]|🎉|=\\?){1,80}",
        file_name in "([!-.0-\\[\\]-~]|[а-яё]|[\u{4e00}-\u{4eff}]|🎉){1,80}",
    ) {
        let mut email = email();
        email.subject.clone_from(&subject);
        email.parties[0].name = Some(name.clone());
        let message = written(&email, &[file(&file_name, "a/b", None, b"x")]);
        well_formed(&message);
        let parsed = MessageParser::default().parse(&message.mime[..]).unwrap();
        prop_assert_eq!(parsed.subject().unwrap_or_default(), subject.trim());
        let from = parsed.from().and_then(|a| a.first()).unwrap();
        prop_assert_eq!(from.address(), Some("ann@example.com"));
        prop_assert_eq!(from.name().unwrap_or_default(), name.trim());
        prop_assert_eq!(parsed.attachment(0).unwrap().attachment_name(), Some(file_name.as_str()));
    }
}

#[test]
fn many_recipients() {
    let mut email = email();
    for n in 0..500 {
        let who =
            format!("{} {n}", if n % 2 == 0 { LONG } else { "A plain but rather long name, with a comma" });
        email.parties.push(party(
            ParticipationType::Cc,
            Some(&who),
            &format!("user{n}@a-long-domain.example.com"),
        ));
    }
    let message = written(&email, &[]);
    well_formed(&message);
    assert_eq!(message.envelope.recipients.len(), 501);
    let parsed = MessageParser::default().parse(&message.mime[..]).unwrap();
    let cc: Vec<_> =
        parsed.cc().unwrap().iter().map(|a| (a.name().unwrap().to_owned(), a.address().unwrap())).collect();
    assert_eq!(cc.len(), 500);
    assert_eq!(cc[2], (format!("{LONG} 2"), "user2@a-long-domain.example.com"));
    assert_eq!(cc[499].1, "user499@a-long-domain.example.com");
}

const CHECK: &str = r#"
import sys, email, email.header, email.policy, email.utils
raw = sys.stdin.buffer.read()
m = email.message_from_bytes(raw, policy=email.policy.default)
# its newer reader keeps the white space between two encoded words of a name (RFC 2047 6.2 says to drop it); the older does not
name = email.utils.parseaddr(email.message_from_bytes(raw)["from"])[0]
name = str(email.header.make_header(email.header.decode_header(name)))
out = [m["subject"], name, m["from"].addresses[0].addr_spec, m["to"].addresses[0].display_name]
out += [m["references"].replace("\r\n", "")]
out += [p.get_content_type() for p in m.walk()]
out += [p.get_filename() for p in m.walk() if p.get_filename()]
out += [m.get_body(("plain",)).get_content().strip(), m.get_body(("html",)).get_content().strip()]
out += [str(len(p.defects)) for p in m.walk()]
sys.stdout.buffer.write("\n".join(out).encode())
"#;

#[test]
fn python_reads_the_same() {
    let child =
        Command::new("python3").args(["-c", CHECK]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        assert!(std::env::var_os("REQUIRE_PEERS").is_none(), "python3 is missing, and REQUIRE_PEERS is set");
        println!("SKIPPED python_reads_the_same: python3 is not installed");
        return;
    };
    let mut email = email();
    email.subject = format!("Re: {LONG}");
    email.parties[0].name = Some(LONG.to_owned());
    email.parties[1].name = Some("Bob, \"the\" Builder".to_owned());
    email.body_mime_type = "text/html".to_owned();
    email.body = "<p>Привет</p><img src='cid:a@b'>".to_owned();
    email.parent_message_id = MessageId::parse("<p@x>");
    email.parent_references = MessageId::parse_list("<root@x>").collect();
    let files = [
        file("a.png", "image/png", Some("a@b"), b"png"),
        file(&format!("{LONG}.txt"), "text/plain", None, b"b"),
    ];
    let message = written(&email, &files);
    child.stdin.take().unwrap().write_all(&message.mime).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = [
        email.subject.as_str(),
        LONG,
        "ann@example.com",
        "Bob, \"the\" Builder",
        "<root@x> <p@x>",
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "multipart/related",
        "text/html",
        "image/png",
        "text/plain",
        "a.png",
        &format!("{LONG}.txt"),
        "Привет",
        email.body.as_str(),
        "0",
        "0",
        "0",
        "0",
        "0",
        "0",
        "0",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}
