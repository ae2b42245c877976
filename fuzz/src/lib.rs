//! The fuzz targets. Each is a plain function of bytes that panics when an invariant breaks, so the same code runs under
//! libFuzzer (`fuzz_targets/`) and in the replay on stable (`src/bin/replay.rs`).
//!
//! A new target: a function here, a line in [`TARGETS`], a wrapper in `fuzz_targets/`, a `[[bin]]` in `Cargo.toml`.
#![warn(missing_docs)]

mod dataverse;
mod graph;
mod http;
mod login;
mod mail;
mod protocol;

pub use dataverse::dataverse_soap;
pub use graph::graph_answers;
pub use http::{challenges, retry_after, token_answer};
pub use login::{ntlm, spnego};
pub use mail::{configuration, credentials, mbox, message, tnef, tokens};
pub use protocol::{ews_responses, imap_answers, pop3_replies, smtp_body, smtp_replies};

use email_router_model::{EmailAddress, Headers, MessageId, RawMessage};

/// A target and where its seeds lie.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of the function, of the wrapper and of its folder in `seeds`.
    pub name: &'static str,
    /// The target.
    pub run: fn(&[u8]),
    /// Further folders with seeds, from the root of the repository; searched with their subfolders.
    pub folders: &'static [&'static str],
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "addresses", run: addresses, folders: &[] },
    Target { name: "challenges", run: challenges, folders: &[] },
    Target { name: "configuration", run: configuration, folders: &["crates/config/tests/data"] },
    Target { name: "credentials", run: credentials, folders: &[] },
    Target { name: "dataverse_soap", run: dataverse_soap, folders: &["fixtures/dataverse/soap"] },
    Target { name: "ews_responses", run: ews_responses, folders: &[] },
    Target { name: "graph_answers", run: graph_answers, folders: &[] },
    Target { name: "headers", run: headers, folders: MAIL },
    Target { name: "imap_answers", run: imap_answers, folders: &[] },
    Target { name: "mbox", run: mbox, folders: &[] },
    Target { name: "message", run: message, folders: MAIL },
    Target { name: "ntlm", run: ntlm, folders: &[] },
    Target { name: "pop3_replies", run: pop3_replies, folders: &[] },
    Target { name: "retry_after", run: retry_after, folders: &[] },
    Target { name: "smtp_body", run: smtp_body, folders: &[] },
    Target { name: "smtp_replies", run: smtp_replies, folders: &[] },
    Target { name: "spnego", run: spnego, folders: &["fuzz/seeds/ntlm"] },
    Target { name: "tnef", run: tnef, folders: &[] },
    Target { name: "token_answer", run: token_answer, folders: &[] },
    Target { name: "tokens", run: tokens, folders: &[] },
];

/// Where sample messages lie.
const MAIL: &[&str] = &["fixtures/malformed", "fixtures/mime", "fixtures/quickstart/mail"];

/// An address or a list of message ids out of any text: what parses is safe to write into a command, and parses to itself again.
pub fn addresses(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for line in text.lines() {
        if let Ok(address) = EmailAddress::parse(line) {
            let written = address.as_str();
            assert!(written.len() <= EmailAddress::MAX_OCTETS);
            assert!(!written.contains(['\r', '\n', '\0']), "unsafe in a command: {written:?}");
            // a quoted local part may hold angle brackets (RFC 5321 4.1.2, qtextSMTP), nothing else may
            let bare = if written.starts_with('"') { address.domain() } else { written };
            assert!(!bare.contains(['<', '>']), "ends a path early: {written:?}");
            assert_eq!(EmailAddress::parse(written).as_ref(), Ok(&address));
            assert_eq!(format!("{}@{}", address.local_part(), address.domain()), written);
        }
        for id in MessageId::parse(line).into_iter().chain(MessageId::parse_list(line)) {
            assert!(id.as_str().len() <= MessageId::MAX_OCTETS);
            assert!(!id.bare().contains(['\r', '\n', '\0', '<', '>', ' ']), "unsafe in a header: {id:?}");
            assert_eq!(MessageId::parse(id.as_str()).as_ref(), Some(&id));
        }
    }
}

/// The header section of any bytes: it is a prefix, scanning it again finds the same, and no unfolded value has a line break.
pub fn headers(data: &[u8]) {
    let section = Headers::new(data);
    assert!(data.starts_with(section.as_bytes()));
    let again = Headers::new(section.as_bytes());
    assert_eq!(again.as_bytes(), section.as_bytes());
    assert!(section.iter().eq(again.iter()));
    for field in section.iter() {
        assert!(!field.name.is_empty() && !field.name.contains(&b':'));
        assert!(!field.value().contains(['\r', '\n']));
    }
    assert_eq!(RawMessage::new(data.to_vec()).headers().as_bytes(), section.as_bytes());
}
