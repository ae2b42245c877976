//! Messages, the files they come in, and the configuration.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

use email_router_crm::OrganizationSettings;
use email_router_crm::smart::SmartHasher;
use email_router_crm::subject::{is_invisible, strip_prefixes, visible};
use email_router_crm::token::{TokenFinder, TokenFormat, append_token};
use email_router_engine::decide::trust::sender_trust;
use email_router_engine::message::Message;
use email_router_engine::reference::Reference;
use email_router_engine::{ParseCaps, ReferenceSigner};
use email_router_model::{Classified, OrganizationId, RawMessage, Scope};
use email_router_transport::import::mbox::{Mbox, Quoting, write_message};
use email_router_transport::import::{ImportLimits, Imported, MessageSource};

/// The store of credentials: what is read can be listed, and what an entry points to is in the file.
pub fn credentials(data: &[u8]) {
    let path = std::path::Path::new("email-router-credentials.xml");
    let Ok(store) = email_router_config::CredentialStore::parse(data, path) else { return };
    let lines = data.split(|byte| matches!(byte, b'\r' | b'\n')).count();
    for entry in store.entries() {
        assert!((1..=lines).contains(&(entry.line as usize)));
        assert!(
            entry.direction.is_some()
                || store.find(&entry.address, email_router_model::Direction::Incoming).is_some()
        );
    }
}

/// Any text as a configuration file: every finding has a place inside the text, and errors and settings exclude each other.
pub fn configuration(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (settings, findings) = email_router_config::check(&text, Path::new("EmailAgent.xml"));
    // a bare CR ends a line as well (XML 1.0, 2.11)
    let lines = text.split(['\r', '\n']).count();
    for finding in &findings {
        assert!((1..=lines).contains(&(finding.line as usize)), "{finding} is outside of {lines} lines");
        assert!(finding.column >= 1 && !finding.message.is_empty(), "{finding}");
    }
    assert_eq!(settings.is_none(), findings.iter().any(|f| f.is_error()), "{findings:?}");
}

/// Any bytes as a message, body and attachments included: what is stored keeps its limits and is the same at each reading.
pub fn message(data: &[u8]) {
    let caps = ParseCaps::default();
    let organization = OrganizationSettings::default();
    let raw = RawMessage::new(data.to_vec());
    let read = Message::parse(&raw, &caps);
    assert_eq!(Message::parse(&raw, &caps), read);
    assert!(read.identity().is_some(), "a whole message always has an identity");
    assert!(read.subject.chars().count() <= caps.max_subject_chars);
    assert!(!read.subject.contains(['\r', '\n', '\0']), "unsafe in a header: {:?}", read.subject);
    assert!(read.recipients().count() <= caps.max_recipients && read.references.len() <= caps.max_references);

    // who the sender is and what the ids are: one line for people, and nobody signs without the key
    let trust = sender_trust(&read, &["mx.example".to_owned()]);
    assert!(!trust.because.contains(['\r', '\n']), "{:?}", trust.because);
    let (signer, id) =
        (ReferenceSigner::new("fuzz".repeat(8).into()), OrganizationId::from_url("https://fuzz.example/"));
    if let Ok(signer) = signer {
        assert_eq!(signer.own_mail(&id, &read), None);
        assert!(read.references.iter().all(|r| !matches!(signer.judge(&id, r), Reference::Signed(_))));
    }

    let alone = Message::from_headers(data, &caps);
    assert_eq!((&alone.subject, &alone.from, &alone.to), (&read.subject, &read.from, &read.to));
    assert_eq!((&alone.message_id, &alone.references), (&read.message_id, &read.references));

    let content = read.content(&raw, &caps, &organization);
    assert!(content.body.chars().count() <= caps.max_body_chars);
    assert!(content.text_body.as_ref().is_none_or(|t| t.chars().count() <= caps.max_body_chars));
    assert!(content.incomplete || !read.beyond_caps, "what a cap left out is told");
    assert!(!content.body.contains('\0'));
    assert_eq!(read.content(&raw, &caps, &organization), content);
    assert!(content.attachments.len() <= caps.max_parts);
    for attachment in &content.attachments {
        let name = &attachment.file_name;
        assert!(!name.is_empty() && name.chars().count() <= 255, "{name:?}");
        assert!(!name.contains(['/', '\\', '\0', '\r', '\n']) && name != "..", "a path: {name:?}");
    }
}

/// Any bytes as a TNEF stream, also behind the beginning of one: limits hold, what is borrowed is no more than there is, and the mail that is
/// written of it has a header section that nothing breaks out of.
pub fn tnef(data: &[u8]) {
    let limits = email_router_tnef::Limits::default();
    let begun = [&[0x78, 0x9f, 0x3e, 0x22, 0, 0][..], data].concat();
    for bytes in [data, &begun] {
        let Ok(tnef) = email_router_tnef::parse(bytes, &limits) else { continue };
        let message = &tnef.message;
        assert!(message.attachments.len() <= limits.max_attachments);
        assert!(message.recipients.len() <= limits.max_recipients);
        assert!(message.rtf.as_ref().map_or(0, Vec::len) <= limits.max_decoded_bytes);
        let Some(mail) = message.to_internet_message(1 << 22) else { continue };
        let read = Message::parse(&RawMessage::new(mail), &ParseCaps::default());
        assert!(read.recipients().count() <= ParseCaps::default().max_recipients);
        if message.transport_headers.is_none() {
            assert!(read.defects.iter().all(|d| !d.contains("more than once")), "{:?}", read.defects);
        }
    }
    if let Ok(found) = email_router_tnef::rtf::decompress(data, 1 << 20) {
        assert!(found.rtf.len() <= 1 << 20);
    }
    let (body, _) = email_router_tnef::rtf::body(data, 1000);
    let (email_router_tnef::rtf::Body::Html(text)
    | email_router_tnef::rtf::Body::Text(text)
    | email_router_tnef::rtf::Body::Rtf(text)) = body;
    assert!(text.len() <= 1000);
}

/// Any subjects, one a line: a token that was appended is found again, a text that is no token is not made one by removal, prefixes come
/// off once, and the words that smart matching compares are few and visible.
pub fn tokens(data: &[u8]) {
    let settings = OrganizationSettings::default();
    let (finder, format) = (TokenFinder::new(&settings), TokenFormat::new(&settings));
    let hasher = SmartHasher::new(&settings);
    let text = String::from_utf8_lossy(data);
    for (number, subject) in (0_u32..).zip(text.lines()) {
        let words = hasher.words(subject).words;
        assert!(
            words.len() <= settings.hash_max_count as usize
                && !words.iter().any(|w| w.contains(is_invisible))
        );
        let shown = visible(subject);
        assert!(shown.contains(strip_prefixes(&shown).rest));
        for token in finder.find(subject) {
            assert!(visible(subject).contains(&token.text));
        }
        let token = format.make(number % 1000, number % format.maximum);
        let limit = 20 + data.len() % 300;
        let with = append_token(subject, &token, limit);
        assert!(with.encode_utf16().count() <= limit.max(subject.encode_utf16().count()));
        assert_eq!(append_token(&with, &token, limit), with, "the token is appended twice");
        let found = finder.find(&with);
        assert!(
            found.iter().any(|t| t.text.eq_ignore_ascii_case(&token) && t.current_width),
            "{with:?}: {found:?}"
        );
    }
}

/// Any file as an mbox: reading ends, one id never stands for two messages, nothing is made up; and what is written as an mbox is read back.
pub fn mbox(data: &[u8]) {
    let messages = read(data);
    let mut ids = HashMap::new();
    let mut bytes = 0;
    for imported in &messages {
        // the same message may well stand there twice; then it has one id
        let other = ids.insert(&imported.id, &imported.message);
        assert!(other.is_none_or(|m| m.bytes() == imported.message.bytes()), "{} twice", imported.id);
        bytes += imported.message.bytes().len();
    }
    assert!(bytes <= data.len(), "{bytes} bytes of messages in a file of {}", data.len());

    let mut written = Vec::new();
    for imported in &messages {
        // writing to memory does not fail
        let _ = write_message(&mut written, &imported.message, None);
    }
    let again = read(&written);
    assert_eq!(again.len(), messages.len());
    for (before, after) in messages.iter().zip(&again) {
        let (before, after) = (before.message.bytes(), after.message.bytes());
        let line_end: &[u8] = if before.last().is_some_and(|&b| b != b'\n') { b"\n" } else { b"" };
        assert_eq!([before, line_end].concat(), after.to_vec());
    }
}

fn read(data: &[u8]) -> Vec<Imported> {
    let mut source =
        Mbox::new(Cursor::new(data), data.len() as u64, "fuzz", Quoting::Mboxrd, ImportLimits::default());
    let mut found = Vec::new();
    loop {
        match source.next_message() {
            Ok(Some(imported)) => found.push(imported),
            Ok(None) => return found,
            // what stands before the first message is reported once
            Err(error) => assert_eq!(error.scope(), Scope::Message, "{error}"),
        }
    }
}
