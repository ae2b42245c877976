//! Signed references, from the configuration to the answer: mail goes out, a provider gives it another Message-ID, answers and the mail
//! itself come back.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use email_router::crm::CorrelationMethod;
use email_router::crm::embedded::admin::{EmailFilter, NewEmail, Recipient, fields};
use email_router::model::{ActivityId, Direction, read_file_capped};
use email_router::{OpenOptions, Service};
use tokio::sync::watch;

const CONFIGURATION: &str = r#"<Configuration>
  <ConfigurationProfiles>
    <ConfigurationProfile><Name>in</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType><Path>in/{address}</Path></ConfigurationProfile>
    <ConfigurationProfile><Name>out</Name><Direction>Outgoing</Direction><ServerType>Maildir</ServerType><Path>out</Path></ConfigurationProfile>
  </ConfigurationProfiles>
  <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path><DefaultIncomingProfile>in</DefaultIncomingProfile>
    <DefaultOutgoingProfile>out</DefaultOutgoingProfile></Deployment></Deployments>
  <Mailboxes><Queue><Name>Shop</Name><EmailAddress>shop@shop.example</EmailAddress></Queue></Mailboxes>
</Configuration>"#;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);
impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn open(folder: &Path) -> Service {
    Service::open(&folder.join("EmailAgent.xml"), OpenOptions::default()).await.unwrap()
}

async fn run(service: &Service) -> email_router::engine::router::RunReport {
    let (_open, stop) = watch::channel(false);
    service.run_once(&stop).await.unwrap()
}

fn read(file: &Path) -> String {
    String::from_utf8(read_file_capped(file, 1 << 20).unwrap()).unwrap()
}

fn sent(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder.join("out/new")).unwrap();
    files.map(|file| read(&file.unwrap().path())).collect()
}

fn arrives(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join("in/shop@shop.example/new").join(name), text).unwrap();
}

/// The value of a field, unfolded.
fn field(message: &str, name: &str) -> String {
    email_router::model::Headers::new(message.as_bytes()).get(name).unwrap_or_default()
}

#[tokio::test]
async fn answers_are_found_whatever_became_of_the_message_id() {
    let sink = Sink::default();
    let copy = sink.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || copy.clone());
    let _log = tracing::subscriber::set_default(subscriber.finish());

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("EmailAgent.xml"), CONFIGURATION).unwrap();
    for part in
        ["in/shop@shop.example", "out"].iter().flat_map(|f| ["tmp", "new", "cur"].map(|p| format!("{f}/{p}")))
    {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    let service = open(folder).await;
    let admin = service.organization(None).unwrap().administration().unwrap();
    let queue = [
        ("name", "Shop"),
        ("emailaddress", "shop@shop.example"),
        ("emailrouteraccessapproval", "1"),
        ("incomingemaildeliverymethod", "2"),
        ("outgoingemaildeliverymethod", "2"),
        ("incomingemailfilteringmethod", "1"),
    ];
    admin.add("queue", &fields(queue)).await.unwrap();
    admin.set_setting("usetrackingtoken", "false").await.unwrap(); // nothing else ties the answer to the e-mail
    admin.set_setting("allowunresolvedpartiesonemailsend", "true").await.unwrap();
    drop(service);

    let service = open(folder).await;
    let admin = service.organization(None).unwrap().administration().unwrap();
    let address = |text: &str| Recipient::Address(text.parse().unwrap(), None);
    let new =
        NewEmail::new(address("shop@shop.example"), address("ann@customer.example"), "Offer", "Here it is");
    let offer: ActivityId = admin.create_outgoing(&new).await.unwrap().activity_id;
    let report = run(&service).await;
    assert_eq!(report.failures, []);
    let [message] = &sent(folder)[..] else { panic!("{report:?}") };
    let id = field(message, "Message-ID");
    assert!(id.starts_with(&format!("<{offer}.")), "{id}");

    // the provider rewrites the Message-ID; the customer's program repeats References and appends what it saw
    let rewritten = "<0100019@email.ses.example>";
    let answer = format!(
        "From: ann@customer.example\r\nTo: shop@shop.example\r\nSubject: thanks\r\nMessage-ID: <a1@customer.example>\r\n\
         In-Reply-To: {rewritten}\r\nReferences: {} {rewritten}\r\n\r\nfine\r\n",
        field(message, "References")
    );
    arrives(folder, "1.a", &answer);
    // a stranger makes one up
    let forged = field(message, "References").replacen(
        &id[1..37],
        &ActivityId::from_uuid(uuid::Uuid::from_u128(9)).to_string(),
        1,
    );
    let stranger = answer.replace("<a1@", "<s1@").replace(&field(message, "References"), &forged);
    arrives(folder, "2.a", &stranger);
    let report = run(&service).await;
    assert_eq!((report.incoming.delivered, report.incoming.discarded), (1, 1), "{report:?}");
    let filter = EmailFilter::default();
    let received = admin
        .emails(&filter)
        .await
        .unwrap()
        .into_iter()
        .find(|e| e.direction == Direction::Incoming)
        .unwrap();
    let received = admin.email(received.activity_id).await.unwrap();
    assert_eq!((received.correlated_activity, received.parent_activity), (Some(offer), Some(offer)));
    assert_eq!(received.correlation_method, CorrelationMethod::InReplyTo);

    // the mail itself comes back to the queue, by two ways and under two names: one activity, and no answer to itself
    let all = [("incomingemailfilteringmethod", "0")];
    admin.update("queue", "shop@shop.example", &fields(all)).await.unwrap();
    drop(service);
    let service = open(folder).await;
    for (n, name) in ["<0100019@email.ses.example>", "<0100020@email.ses.example>"].iter().enumerate() {
        let back =
            message.replacen(&id, name, 1).replacen("To: ann@customer.example", "To: shop@shop.example", 1);
        assert_ne!(field(&back, "Message-ID"), id);
        arrives(folder, &format!("3.{n}"), &back);
    }
    let report = run(&service).await;
    assert_eq!((report.incoming.delivered, report.incoming.discarded), (1, 1), "{report:?}");
    let admin = service.organization(None).unwrap().administration().unwrap();
    let copies: Vec<_> = admin
        .emails(&filter)
        .await
        .unwrap()
        .into_iter()
        .filter(|e| e.direction == Direction::Incoming && e.subject == "Offer")
        .collect();
    assert_eq!(copies.len(), 1);
    assert_eq!(admin.email(copies[0].activity_id).await.unwrap().correlated_activity, None);

    // the key was made once, is for the owner alone, and is nowhere else
    let key = read(&folder.join("email-router.reference.key"));
    let key = key.trim();
    assert_eq!(key.len(), 64);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(folder.join("email-router.reference.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert!(!format!("{service:?}").contains(key));
    assert!(!String::from_utf8_lossy(&sink.0.lock().unwrap()).contains(key));

    drop(service);
    fs::write(folder.join("email-router.reference.key"), "no key").unwrap();
    let refused =
        Service::open(&folder.join("EmailAgent.xml"), OpenOptions::default()).await.unwrap_err().to_string();
    assert!(refused.contains("email-router.reference.key does not hold a reference key"), "{refused}");
}
