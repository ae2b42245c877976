//! Every message of `fixtures/malformed` through the whole incoming path: a Maildir, the service, the embedded CRM. The outcome of each is the
//! one that `outcomes.tsv` says; none is lost, and none keeps the others from being routed.
// a helper of a test that cannot go on fails the test
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use email_router::crm::ParticipationType;
use email_router::engine::{DecisionRecord, Event, Observer, Verdict};
use email_router::model::read_file_capped;
use email_router::{OpenOptions, Service};

const CONFIGURATION: &str = r#"<Configuration>
  <ConfigurationProfiles>
    <ConfigurationProfile><Name>in</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType><Path>mail</Path></ConfigurationProfile>
  </ConfigurationProfiles>
  <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path><DefaultIncomingProfile>in</DefaultIncomingProfile></Deployment></Deployments>
  <Mailboxes><Queue><Name>Inbox</Name><EmailAddress>inbox@fabrikam.test</EmailAddress></Queue></Mailboxes>
</Configuration>"#;

/// Keeps every decision and everything that went wrong.
#[derive(Debug, Default)]
struct Heard {
    records: Mutex<Vec<DecisionRecord>>,
    faults: Mutex<Vec<String>>,
}

impl Observer for Heard {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Incoming { record, .. } => self.records.lock().unwrap().push((*record).clone()),
            Event::IncomingDeferred { remote_id, error, .. } => {
                self.faults.lock().unwrap().push(format!("{remote_id}: {error}"));
            }
            Event::MailboxAccess { error: Some(error), .. } => {
                self.faults.lock().unwrap().push(error.to_string())
            }
            _ => {}
        }
    }
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/malformed")
}

/// File name and the outcomes that are right.
fn outcomes() -> BTreeMap<String, Vec<String>> {
    let bytes = read_file_capped(&samples().join("outcomes.tsv"), 1 << 20).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    text.lines()
        .skip(1)
        .map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            assert_eq!(cells.len(), 3, "{line}");
            (cells[0].to_owned(), cells[1].split('|').map(str::to_owned).collect())
        })
        .collect()
}

/// What goes beyond the caps: parts, depth, recipients, references, length of the subject.
const BEYOND_CAPS: &[&str] = &[
    "encoded-words-5000.eml",
    "multipart-nested-200.eml",
    "multipart-nested-5000.eml",
    "parts-20000.eml",
    "recipients-5000.eml",
    "references-20000.eml",
];

/// Far more than the whole run needs on a slow machine: only a message that hangs gets there.
const HANGS: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn every_malformed_message_has_the_outcome_of_the_table() {
    let expected = outcomes();
    assert!(expected.len() >= 30, "{} samples", expected.len());
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("EmailAgent.xml");
    fs::write(&config, CONFIGURATION).unwrap();
    for part in ["new", "cur", "tmp"] {
        fs::create_dir_all(folder.path().join("mail").join(part)).unwrap();
    }
    let mut files = 0;
    for entry in fs::read_dir(samples()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "eml") {
            fs::copy(&path, folder.path().join("mail/new").join(path.file_name().unwrap())).unwrap();
            files += 1;
        }
    }
    assert_eq!(files, expected.len(), "the table does not name every sample");
    // and one that nothing is wrong with, listed last: the others must not keep it
    let good = "From: a@example.net\r\nTo: inbox@fabrikam.test\r\nSubject: fine\r\nMessage-ID: <fine@example.net>\r\n\r\nHello\r\n";
    fs::write(folder.path().join("mail/new/zz-fine"), good).unwrap();

    let service = Service::open(&config, OpenOptions::default()).await.unwrap();
    let admin = service.organization(None).unwrap().administration().unwrap();
    support::add_queue(&admin, "Inbox", "inbox@fabrikam.test").await;
    drop(service);

    let heard = Arc::new(Heard::default());
    let options = OpenOptions { observer: Arc::clone(&heard) as _, ..OpenOptions::default() };
    let service = Service::open(&config, options).await.unwrap();
    let (_keep, stop) = tokio::sync::watch::channel(false);
    let report =
        tokio::time::timeout(HANGS, service.run_once(&stop)).await.expect("a message hangs").unwrap();
    assert_eq!(report.failures, [], "{report:?}");
    assert_eq!(*heard.faults.lock().unwrap(), Vec::<String>::new());
    let records = std::mem::take(&mut *heard.records.lock().unwrap());
    assert_eq!((records.len(), report.incoming.processed), (files + 1, files as u64 + 1));

    let admin = service.organization(None).unwrap().administration().unwrap();
    // what was delivered beyond the caps is kept whole beside that; every other item is a message that was not delivered
    let (partial, quarantined): (Vec<_>, Vec<_>) =
        service.quarantined(None).await.unwrap().into_iter().partition(|i| i.class == "partial");
    let kept: BTreeSet<&str> = partial.iter().map(|i| i.remote_id.as_str()).collect();
    assert_eq!(kept, BEYOND_CAPS.iter().copied().collect());
    for item in &partial {
        let item = service.quarantined_item(item.id).await.unwrap();
        assert!(item.raw.is_some(), "{item:?}");
        let again = service.retry_quarantined(item.id, false).await.unwrap();
        assert!(
            again.stays_because.is_some(),
            "retrying must not throw away what only the quarantine has: {again:?}"
        );
    }
    let mut wrong = Vec::new();
    for record in &records {
        let file = record.remote_id.as_deref().unwrap();
        let outcome = match record.verdict {
            Verdict::Deliver => "delivered".to_owned(),
            Verdict::Discard => format!("discarded:{:?}", record.reason),
            Verdict::Undeliverable => "quarantined".to_owned(),
            Verdict::LeftAlone => "left alone".to_owned(),
        };
        if file == "zz-fine" {
            assert_eq!(outcome, "delivered", "{record:?}");
            continue;
        }
        let right = expected.get(file).unwrap_or_else(|| panic!("{file} is not in the table"));
        if !right.contains(&outcome) {
            wrong.push(format!("{file}: {outcome} ({}) instead of {right:?}", record.because));
        }
        match record.verdict {
            Verdict::Deliver => {
                let email = admin.email(record.activity_id.unwrap()).await.unwrap();
                let senders = email.parties.iter().filter(|p| p.participation == ParticipationType::Sender);
                assert_eq!(senders.count(), 1, "{file}");
                let subject = &email.row.subject;
                assert!(
                    subject.chars().count() <= 800 && !subject.contains(['\r', '\n', '\0']),
                    "{file}: {subject:?}"
                );
                let hidden = email.parties.iter().filter(|p| p.participation == ParticipationType::Bcc);
                assert_eq!(hidden.count(), 0, "{file}: a Bcc party was smuggled in");
                for attachment in &email.attachments {
                    let name = &attachment.file_name;
                    assert!(
                        name.chars().count() <= 255 && !name.contains(['/', '\\', '\0']),
                        "{file}: {name:?}"
                    );
                    assert!(!name.ends_with(".exe"), "{file}: {name:?}");
                }
            }
            Verdict::Undeliverable => {
                let item = quarantined.iter().find(|i| i.remote_id.as_str() == file);
                let item = item.unwrap_or_else(|| panic!("{file} is not in quarantine"));
                let item = service.quarantined_item(item.id).await.unwrap();
                let set_aside = ["new", "cur"].iter().any(|part| {
                    let folder = fs::read_dir(folder.path().join("mail/.Undeliverable").join(part));
                    folder
                        .into_iter()
                        .flatten()
                        .flatten()
                        .any(|e| e.file_name().to_string_lossy().starts_with(file))
                });
                assert!(
                    !item.reason.is_empty() && (item.raw.is_some() || set_aside),
                    "{file} is lost: {item:?}"
                );
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // what was not set aside is still there, and nothing is routed again
    let again = service.run_once(&stop).await.unwrap();
    let left = (files + 1 - quarantined.len()) as u64;
    assert_eq!((again.incoming.listed, again.incoming.processed), (left, 0));
}
