//! `why` and `replay` about messages whose header section is longer than what is kept.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::path::Path;

use email_router::crm::FilteringMethod;
use email_router::engine::{KeptHeader, Verdict};
use email_router::history::{PolicyChange, ReplayChange, ReplaySource};
use email_router::model::{EmailAddress, Timestamp};
use email_router::{OpenOptions, Service};
use tokio::sync::watch;

const CONFIGURATION: &str = r#"<Configuration>
  <ConfigurationProfiles>
    <ConfigurationProfile><Name>in</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType><Path>{address}</Path></ConfigurationProfile>
  </ConfigurationProfiles>
  <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path><DefaultIncomingProfile>in</DefaultIncomingProfile></Deployment></Deployments>
  <Mailboxes><Queue><Name>Here</Name><EmailAddress>here@example.com</EmailAddress></Queue></Mailboxes>
</Configuration>"#;

/// A router that has routed these messages from its one mailbox.
async fn routed(folder: &Path, messages: &[&str]) -> Service {
    let file = folder.join("EmailAgent.xml");
    std::fs::write(&file, CONFIGURATION).unwrap();
    for part in ["tmp", "new", "cur"] {
        std::fs::create_dir_all(folder.join("here@example.com").join(part)).unwrap();
    }
    for (n, text) in messages.iter().enumerate() {
        std::fs::write(folder.join(format!("here@example.com/new/{n}.a")), text).unwrap();
    }
    let service = Service::open(&file, OpenOptions::default()).await.unwrap();
    let admin = service.organization(None).unwrap().administration().unwrap();
    support::add_queue(&admin, "here", "here@example.com").await;
    drop(service);
    let service = Service::open(&file, OpenOptions::default()).await.unwrap();
    let (_open, stop) = watch::channel(false);
    let report = service.run_once(&stop).await.unwrap();
    assert_eq!(report.incoming.delivered, messages.len() as u64, "{report:?}");
    service
}

#[tokio::test]
async fn of_a_long_header_section_what_decisions_read_is_kept_and_nothing_is_cut() {
    let mail = |id: &str, more: &str, to: &str| {
        format!(
            "{more}From: a@x.example\r\nTo: here@example.com{to}\r\nSubject: {id}\r\nMessage-ID: <{id}@x.example>\r\n\r\nhi\r\n"
        )
    };
    let filters = format!("X-Spam-Report: {}\r\n", "z".repeat(900)).repeat(50);
    let people: String = (0..900).map(|n| format!(",\r\n person-{n}@a-long-domain.x.example")).collect();
    // the empty line before the header section is no end of it
    let short = format!("\r\n{}", mail("short", "", ""));
    let (long, longest) = (mail("long", &filters, ""), mail("longest", "", &people));
    let folder = tempfile::tempdir().unwrap();
    let service = routed(folder.path(), &[&short, &long, &longest]).await;

    let bytes = |text: &str| text.trim_start().find("\r\n\r\n").unwrap() as u64 + 4;
    for (id, kept) in [
        ("short", KeptHeader::Whole),
        ("long", KeptHeader::Shortened { bytes: bytes(&long) }),
        ("longest", KeptHeader::TooLong { bytes: bytes(&longest) }),
    ] {
        let notes = service.why(&format!("<{id}@x.example>")).await.unwrap();
        assert_eq!((notes.len(), notes[0].kept), (1, kept), "{id}");
        assert_eq!(notes[0].header.is_some(), id != "longest");
    }

    let here = EmailAddress::parse("here@example.com").unwrap();
    let none = [PolicyChange::Filter(here, FilteringMethod::None)];
    let replay = async |source: &ReplaySource| {
        let mut changed = Vec::new();
        let tell = |change: ReplayChange| {
            changed.push((change.now.subject, change.now.verdict, change.then.verdict))
        };
        let outcome = service.replay(source, &none, 100, tell).await.unwrap();
        changed.sort_by(|a, b| a.0.cmp(&b.0));
        (changed, outcome)
    };
    let change = |id: &str| (id.to_owned(), Verdict::Deliver, Verdict::Discard);
    let (changed, outcome) = replay(&ReplaySource::State(Timestamp::MIN)).await;
    assert_eq!(changed, [change("long"), change("short")]);
    assert_eq!((outcome.messages, outcome.passed_over, outcome.too_long), (2, 1, 1), "{outcome:?}");
    // the way out that the messages name
    let file = folder.path().join("longest.eml");
    std::fs::write(&file, &longest).unwrap();
    let (changed, outcome) = replay(&ReplaySource::Path(file, "here@example.com".to_owned())).await;
    assert_eq!((changed, outcome.too_long), (vec![change("longest")], 0));
}
