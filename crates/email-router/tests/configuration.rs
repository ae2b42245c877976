//! From configuration texts to what the engine is told.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use email_router::assemble::{Assembled, Assembler, assemble};
use email_router::config::{SecretStore, Settings, check};
use email_router::crm::embedded::admin::fields;
use email_router::crm::{Approval, CrmMailbox, DeliveryMethod, FilteringMethod};
use email_router::engine::{Event, IncomingSettings, Observer, OutgoingSettings};
use email_router::model::{Direction, EmailAddress, MailboxKind, RecordRef, read_file_capped};
use email_router::transport::Access;
use email_router::{OpenOptions, Service};
use email_router_testkit::pop3::{Pop3Options, Pop3Server};
use email_router_testkit::smtp::{SmtpOptions, SmtpServer};
use tokio::sync::watch;

const MAILDIRS: &str = r#"<Configuration>
  <ConfigurationProfiles>
    <ConfigurationProfile><Name>in</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType><Path>in/{address}</Path></ConfigurationProfile>
    <ConfigurationProfile><Name>out</Name><Direction>Outgoing</Direction><ServerType>Maildir</ServerType><Path>out/{address}</Path></ConfigurationProfile>
    <ConfigurationProfile><Name>slow</Name><Direction>Outgoing</Direction><ServerType>Maildir</ServerType><Path>out/{address}</Path>
      <PendingStatusDelay>1000</PendingStatusDelay><MaximumDeliveryAttempts>3</MaximumDeliveryAttempts><MaxMessageSize>2048</MaxMessageSize></ConfigurationProfile>
  </ConfigurationProfiles>
  <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path><LoadMailboxes>true</LoadMailboxes>
    <DefaultIncomingProfile>in</DefaultIncomingProfile><DefaultOutgoingProfile>out</DefaultOutgoingProfile></Deployment></Deployments>
  <Mailboxes><Queue><Name>One</Name><EmailAddress>one@first.example</EmailAddress><OutgoingProfile>slow</OutgoingProfile></Queue></Mailboxes>
</Configuration>"#;

fn settings(text: &str) -> Settings {
    let (settings, findings) = check(text, Path::new("/etc/email-router/EmailAgent.xml"));
    assert!(findings.is_empty(), "{findings:#?}");
    settings.unwrap()
}

fn queue(n: u128, address: &str) -> CrmMailbox {
    let record = RecordRef::new("queue", uuid::Uuid::from_u128(n));
    CrmMailbox {
        record,
        kind: MailboxKind::Queue,
        name: address.to_owned(),
        address: Some(EmailAddress::parse(address).unwrap()),
        incoming: DeliveryMethod::EmailRouter,
        outgoing: DeliveryMethod::EmailRouter,
        approval: Approval::Approved,
        filter: FilteringMethod::All,
        owner: None,
        default_queue: None,
        disabled: false,
        server_side_sync: Default::default(),
    }
}

fn assembled(text: &str, listed: &[CrmMailbox]) -> Assembled {
    let settings = settings(text);
    let secrets = SecretStore::new(settings.router.secret_key_file.clone());
    assemble(&settings, &settings.deployments[0], listed, &secrets)
}

#[test]
fn the_example_of_the_readme_has_no_finding() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = String::from_utf8(read_file_capped(&path, 1 << 20).unwrap()).unwrap();
    let (_, rest) = readme.split_once("```xml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let settings = settings(example);
    assert_eq!((settings.profiles.len(), settings.mailboxes.len()), (2, 1));
}

/// What did not change keeps its transport, and with it what that remembers of the mailboxes; what did, gets a new one.
#[test]
fn an_assembly_takes_over_what_has_not_changed() {
    let assembler = Assembler::default();
    let listed = [queue(1, "one@first.example"), queue(2, "two@second.example")];
    let transports = |text: &str| {
        let settings = settings(text);
        let secrets = SecretStore::new(settings.router.secret_key_file.clone());
        let assembled = assembler.assemble(&settings, &settings.deployments[0], &listed, &secrets);
        let incoming = Arc::clone(&assembled.plan.incoming[0].transport);
        (incoming, Arc::clone(&assembled.plan.outgoing[0].transport))
    };
    let first = transports(MAILDIRS);
    let again = transports(MAILDIRS);
    assert!(Arc::ptr_eq(&first.0, &again.0) && Arc::ptr_eq(&first.1, &again.1));
    let changed = MAILDIRS.replace("<Path>out/{address}</Path>", "<Path>elsewhere/{address}</Path>");
    assert_ne!(changed, MAILDIRS);
    let other = transports(&changed);
    assert!(Arc::ptr_eq(&first.0, &other.0) && !Arc::ptr_eq(&first.1, &other.1));
}

#[test]
fn the_engine_and_the_file_have_the_same_defaults() {
    let assembled = assembled(MAILDIRS, &[queue(1, "one@first.example"), queue(2, "two@second.example")]);
    let route = assembled.plan.incoming.iter().find(|r| r.mailbox.name.starts_with("two")).unwrap();
    assert_eq!(route.settings, IncomingSettings::default());
    let mut sent = assembled.plan.outgoing_by_mailbox[&route.mailbox.id].clone();
    sent.message_id_domain.clone_from(&OutgoingSettings::default().message_id_domain);
    assert_eq!(sent, OutgoingSettings::default());
}

#[test]
fn a_mailbox_knows_from_when_on_its_mail_is_processed() {
    let text = MAILDIRS.replace(
        "<Name>in</Name>",
        "<Name>in</Name><ProcessEmailsReceivedAfter>2026-01-01T00:00:00Z</ProcessEmailsReceivedAfter>",
    );
    let later = text.replace(
        "<Name>One</Name>",
        "<Name>One</Name><ProcessEmailsReceivedAfter>2026-02-01T00:00:00Z</ProcessEmailsReceivedAfter>",
    );
    let assembled = assembled(&later, &[queue(1, "one@first.example"), queue(2, "two@second.example")]);
    let mut found: Vec<String> =
        assembled.plan.incoming.iter().map(|r| r.settings.process_from.unwrap().to_string()).collect();
    found.sort();
    assert_eq!(found, ["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"]);
}

#[test]
fn each_profile_has_its_own_tuning_and_loaded_mailboxes_count_for_the_domain() {
    let assembled = assembled(
        MAILDIRS,
        &[queue(1, "one@first.example"), queue(2, "two@second.example"), queue(3, "three@Second.example")],
    );
    let of = |name: &str| {
        let route = assembled.plan.outgoing.iter().find(|r| r.mailbox.address.local_part() == name).unwrap();
        assembled.plan.outgoing_by_mailbox[&route.mailbox.id].clone()
    };
    let (one, two) = (of("one"), of("two"));
    assert_eq!(
        (one.pending_status_delay, one.maximum_delivery_attempts, one.max_message_bytes),
        (Duration::from_secs(1), 3, 2048)
    );
    assert_eq!((two.pending_status_delay, two.maximum_delivery_attempts), (Duration::from_secs(300), 10));
    assert_eq!(two, of("three"));
    assert_eq!(
        (one.message_id_domain.as_str(), two.message_id_domain.as_str()),
        ("second.example", "second.example")
    );
}

/// What server-side synchronization carries is left alone, direction by direction, and the reason names the column of the mailbox record.
#[test]
fn server_side_synchronization_and_the_router_do_not_serve_one_mailbox() {
    let (mut reads, mut sends) = (queue(1, "one@first.example"), queue(2, "two@second.example"));
    reads.server_side_sync.incoming = true;
    sends.server_side_sync.outgoing = true;
    let assembled = self::assembled(MAILDIRS, &[reads, sends]);
    let incoming: Vec<_> = assembled.plan.incoming.iter().map(|r| r.mailbox.id.as_str()).collect();
    let outgoing: Vec<_> = assembled.plan.outgoing.iter().map(|r| r.mailbox.id.as_str()).collect();
    assert_eq!((incoming, outgoing), (vec!["crm/two@second.example"], vec!["crm/one@first.example"]));
    let why = |direction| {
        let mut not = assembled.unserved.iter().filter(|u| u.direction == Some(direction));
        let (only, None) = (not.next().unwrap(), not.next()) else { panic!("{:?}", assembled.unserved) };
        (only.mailbox.as_str(), only.reason.as_str())
    };
    let (mailbox, reason) = why(Direction::Incoming);
    assert!(mailbox == "crm/one@first.example" && reason.contains("enabledforincomingemail"), "{reason}");
    let (mailbox, reason) = why(Direction::Outgoing);
    assert!(mailbox == "crm/two@second.example" && reason.contains("enabledforoutgoingemail"), "{reason}");
}

#[test]
fn loaded_mailboxes_never_share_an_address_or_a_source() {
    let mut user = queue(4, "two@second.example");
    user.kind = MailboxKind::User;
    let mut named = queue(5, "one@first.example");
    named.kind = MailboxKind::User;
    let mut mute = queue(6, "two@second.example");
    mute.incoming = DeliveryMethod::None;
    mute.outgoing = DeliveryMethod::None;
    let listed = [queue(1, "one@first.example"), queue(2, "Two@second.example"), user, named, mute];
    let assembled = self::assembled(MAILDIRS, &listed);
    let mut ids: Vec<_> = assembled.plan.incoming.iter().map(|r| r.mailbox.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["crm/one@first.example", "crm/two@second.example"]);
    assert_eq!(assembled.plan.outgoing.len(), 2);
    let why: Vec<_> =
        assembled.unserved.iter().map(|u| (u.mailbox.as_str(), u.direction, u.reason.as_str())).collect();
    assert_eq!(
        why,
        [
            (
                "crm/two@second.example",
                None,
                "the user two@second.example has the address of the queue Two@second.example, which is served; give one of them \
                 another address in the CRM"
            ),
            (
                "crm/one@first.example",
                None,
                "the user one@first.example has the address of the queue One, which is served; give one of them another address in \
                 the CRM"
            ),
        ]
    );

    // one folder for all: the first reads it, all send
    let text = MAILDIRS.replace("in/{address}", "in");
    let assembled = self::assembled(&text, &[queue(1, "one@first.example"), queue(2, "two@second.example")]);
    assert_eq!((assembled.plan.incoming.len(), assembled.plan.outgoing.len()), (1, 2));
    let [not] = &assembled.unserved[..] else { panic!("{:?}", assembled.unserved) };
    assert_eq!((not.mailbox.as_str(), not.direction), ("crm/two@second.example", Some(Direction::Incoming)));
    assert_eq!(
        not.reason,
        "it would read the same messages as crm/one@first.example (folder /etc/email-router/in); give each mailbox its own, for \
         example with {address} in the profile's Path or UserName"
    );
    // test access says so too
    assert!(matches!(&assembled.targets[1].incoming, Some(Err(reason)) if *reason == not.reason));
}

#[test]
fn folders_of_different_profiles_do_not_share_a_limit() {
    let second = "<ConfigurationProfile><Name>in2</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType>\
                  <Path>second/{address}</Path><MaxConnections>1</MaxConnections></ConfigurationProfile></ConfigurationProfiles>";
    let text = MAILDIRS
        .replace("</ConfigurationProfiles>", second)
        .replace("<OutgoingProfile>slow", "<IncomingProfile>in2</IncomingProfile><OutgoingProfile>slow");
    let assembled = self::assembled(&text, &[queue(1, "one@first.example"), queue(2, "two@second.example")]);
    let servers: Vec<_> =
        assembled.plan.incoming.iter().map(|r| (r.server.name.as_str(), r.server.max_sessions)).collect();
    assert_eq!(servers, [("the folders of profile in2", 1), ("the folders of profile in", 4)]);
}

/// Hears of every attempt to open a mailbox whether it succeeded.
#[derive(Debug)]
struct Opened(tokio::sync::mpsc::UnboundedSender<Result<(), String>>);

impl Observer for Opened {
    fn event(&self, event: &Event<'_>) {
        if let Event::MailboxAccess { error, .. } = event {
            // who stopped listening knows enough
            let _ = self.0.send(error.map_or(Ok(()), |e| Err(e.to_string())));
        }
    }
}

#[tokio::test]
async fn a_changed_password_file_counts_without_a_change_of_the_configuration() {
    let server = Pop3Server::start(Pop3Options::default()).await;
    server.add_user("one@first.example", "changed");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("EmailAgent.xml");
    let (hour, port) = ("<ConfigUpdatePeriod>3600000</ConfigUpdatePeriod>", server.port());
    let text = format!(
        "<Configuration><SystemConfiguration><SchedulingPeriod>10</SchedulingPeriod><ConfigRefreshPeriod>100</ConfigRefreshPeriod>{hour}\
         </SystemConfiguration><ConfigurationProfiles><ConfigurationProfile><Name>in</Name><Direction>Incoming</Direction>\
         <ServerType>Pop3</ServerType><AuthenticationType>ClearText</AuthenticationType><EmailServer>127.0.0.1</EmailServer>\
         <NetworkPort>{port}</NetworkPort><TlsMode>None</TlsMode><AllowClearTextWithoutTls>true</AllowClearTextWithoutTls>\
         <AccessCredentials>UserSpecified</AccessCredentials><PollingPeriod>86400000</PollingPeriod></ConfigurationProfile>\
         </ConfigurationProfiles><Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path>\
         <DefaultIncomingProfile>in</DefaultIncomingProfile></Deployment></Deployments><Mailboxes><Queue><Name>One</Name>\
         <EmailAddress>one@first.example</EmailAddress><Password>file:password</Password></Queue></Mailboxes></Configuration>"
    );
    std::fs::write(&file, text).unwrap();
    std::fs::write(folder.path().join("password"), "old").unwrap();
    let service = Service::open(&file, OpenOptions::default()).await.unwrap();
    let queue = fields([
        ("name", "One"),
        ("emailaddress", "one@first.example"),
        ("emailrouteraccessapproval", "1"),
        ("incomingemaildeliverymethod", "2"),
    ]);
    service.organization(None).unwrap().administration().unwrap().add("queue", &queue).await.unwrap();
    drop(service);

    let (sender, mut opened) = tokio::sync::mpsc::unbounded_channel();
    let options = OpenOptions { observer: Arc::new(Opened(sender)), ..OpenOptions::default() };
    let service = Service::open(&file, options).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { service.run(stopped).await });
    let refused = opened.recv().await.unwrap().unwrap_err();
    assert!(refused.contains("log"), "{refused}");
    std::fs::write(folder.path().join("password"), "changed").unwrap();
    // the mailbox is not due again for minutes: only the new password makes it
    assert_eq!(opened.recv().await.unwrap(), Ok(()));
    stop.send_replace(true);
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn two_routers_do_not_share_a_state_file_and_what_is_not_served_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("EmailAgent.xml");
    std::fs::write(&file, MAILDIRS).unwrap();
    let first = Service::open(&file, OpenOptions::default()).await.unwrap();
    let second = Service::open(&file, OpenOptions::default()).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let running = {
        let stopped = stopped.clone();
        tokio::spawn(async move { first.run(stopped).await })
    };
    // on this runtime of one thread the spawned task runs now, and takes its lock before it first waits
    tokio::task::yield_now().await;
    let refused = second.run_once(&stopped).await.unwrap_err().to_string();
    assert!(refused.contains("another router is running with this state file"), "{refused}");
    assert!(refused.contains("email-router-state.db.lock"), "{refused}");

    stop.send_replace(true);
    running.await.unwrap().unwrap();
    let (_open, never) = watch::channel(false);
    let report = second.run_once(&never).await.unwrap();
    let (mailbox, why) = &report.failures[0];
    assert_eq!(mailbox, "crm/one@first.example");
    assert!(why.starts_with("not served: the CRM of deployment crm has no queue"), "{why}");
}

/// The authentication type of a profile decides how the router logs in, although the servers offer every way.
#[tokio::test]
async fn the_authentication_type_is_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "tanstaaftanstaaf").unwrap();
    let smtp = SmtpServer::start(SmtpOptions {
        sasl: vec!["CRAM-MD5", "PLAIN", "LOGIN"],
        users: vec![("tim", "tanstaaftanstaaf")],
        ..SmtpOptions::default()
    })
    .await;
    let pop3 = Pop3Server::start(Pop3Options {
        apop: true,
        sasl: vec!["CRAM-MD5", "PLAIN"],
        ..Pop3Options::default()
    })
    .await;
    pop3.add_user("tim", "tanstaaftanstaaf");
    let only_hidden = SmtpServer::start(SmtpOptions {
        sasl: vec!["CRAM-MD5"],
        users: vec![("tim", "tanstaaftanstaaf")],
        ..SmtpOptions::default()
    })
    .await;
    for (incoming, outgoing, port, words) in [
        ("ClearText", "ClearText", smtp.port(), Ok(["logged in with PLAIN", "logged in with PLAIN"])),
        ("Apop", "CramMd5", smtp.port(), Ok(["logged in with APOP", "logged in with CRAM-MD5"])),
        ("ClearText", "ClearText", only_hidden.port(), Err("it offers CRAM-MD5")),
    ] {
        let account = format!(
            "<EmailServer>127.0.0.1</EmailServer><TlsMode>None</TlsMode><AllowClearTextWithoutTls>true</AllowClearTextWithoutTls>\
             <AccessCredentials>OtherSpecified</AccessCredentials><UserName>tim</UserName><Password>file:{}</Password>",
            password.display()
        );
        let text = MAILDIRS
            // the one account of the server is the second queue's
            .replace("<OutgoingProfile>slow", "<IncomingProfile>None</IncomingProfile><OutgoingProfile>slow")
            .replace(
                "<ServerType>Maildir</ServerType><Path>in/{address}</Path>",
                &format!(
                    "<ServerType>Pop3</ServerType><AuthenticationType>{incoming}</AuthenticationType>{account}<NetworkPort>{}</NetworkPort>",
                    pop3.port()
                ),
            )
            .replace(
                "<Name>out</Name><Direction>Outgoing</Direction><ServerType>Maildir</ServerType><Path>out/{address}</Path>",
                &format!(
                    "<Name>out</Name><Direction>Outgoing</Direction><ServerType>Smtp</ServerType>\
                     <AuthenticationType>{outgoing}</AuthenticationType>{account}<NetworkPort>{port}</NetworkPort>"
                ),
            );
        let (settings, findings) = check(&text, Path::new("/etc/email-router/EmailAgent.xml"));
        let settings = settings.unwrap_or_else(|| panic!("{findings:#?}"));
        let secrets = SecretStore::new(settings.router.secret_key_file.clone());
        let listed = [queue(2, "two@second.example")];
        let assembled = assemble(&settings, &settings.deployments[0], &listed, &secrets);
        let (read, send) = (&assembled.plan.incoming[0], &assembled.plan.outgoing[0]);
        let read = read.transport.probe(&read.mailbox, Access::Incoming).await;
        let send = send.transport.probe(&send.mailbox, Access::Outgoing).await;
        match words {
            Ok(words) => {
                for (probe, words) in [read, send].into_iter().zip(words) {
                    let probe = probe.unwrap();
                    assert!(probe.steps.iter().any(|s| s.what == words), "{words}: {probe:?}");
                }
            }
            Err(words) => assert!(send.unwrap_err().to_string().contains(words)),
        }
    }
}

/// OperationTimeout only shortens what RFC 5321 4.5.3.2 allows, and the time for the message itself stays; the switches for what a
/// server offers and cannot do reach the transport.
#[test]
fn what_an_smtp_profile_says_reaches_the_transport() {
    let smtp = "<ServerType>Smtp</ServerType><AuthenticationType>Anonymous</AuthenticationType><EmailServer>mx.example</EmailServer>\
                <TlsMode>None</TlsMode>";
    for (more, words) in [
        (
            "",
            [
                "use_pipelining: true, use_chunking: true",
                "greeting: 300s, mail: 300s, rcpt: 300s, data_start: 120s",
            ],
        ),
        (
            "<UseChunking>false</UseChunking><OperationTimeout>200000</OperationTimeout>",
            [
                "use_pipelining: true, use_chunking: false",
                "greeting: 200s, mail: 200s, rcpt: 200s, data_start: 120s",
            ],
        ),
        (
            "<UsePipelining>false</UsePipelining><OperationTimeout>3600000</OperationTimeout>",
            [
                "use_pipelining: false, use_chunking: true",
                "greeting: 300s, mail: 300s, rcpt: 300s, data_start: 120s",
            ],
        ),
    ] {
        let text = MAILDIRS.replace(
            "<Name>out</Name><Direction>Outgoing</Direction><ServerType>Maildir</ServerType><Path>out/{address}</Path>",
            &format!("<Name>out</Name><Direction>Outgoing</Direction>{smtp}{more}"),
        );
        let assembled = assembled(&text, &[queue(2, "two@second.example")]);
        let transport = format!("{:?}", assembled.plan.outgoing[0].transport);
        for words in words.into_iter().chain(["data_block: 180s, data_end: 600s"]) {
            assert!(transport.contains(words), "{more}: {transport}");
        }
    }
}
