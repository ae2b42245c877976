//! The same 200 mails give the same decisions where the CRM is the embedded one and where it is Dataverse.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::HashMap;
use std::sync::Arc;

use email_router::crm::embedded::admin::fields;
use email_router::model::{Clock as _, Entropy as _, RawMessage, SeededEntropy, SystemClock};
use email_router::{OpenOptions, Service};
use email_router_testkit::dataverse::{DataverseServer, TOKEN};
use email_router_testkit::http::Answer;
use email_router_testkit::oauth::{CLIENT_ID, OAuthService, TENANT};
use serde_json::{Value, json};

/// Each person: table, name, address; filter of users and queues.
const PEOPLE: &[(&str, &str, &str, u8)] = &[
    ("systemuser", "Ann All", "ann@fabrikam.example", 0),
    ("systemuser", "Rob Response", "rob@fabrikam.example", 1),
    ("systemuser", "Lea Leads", "lea@fabrikam.example", 2),
    ("systemuser", "Eve Enabled", "eve@fabrikam.example", 3),
    ("systemuser", "Nora None", "nora@fabrikam.example", 4),
    ("queue", "Support", "support@fabrikam.example", 0),
    ("contact", "Bob", "bob@contoso.example", 0),
    ("contact", "Twin One", "twin@contoso.example", 0),
    ("contact", "Twin Two", "twin@contoso.example", 0),
    ("account", "Contoso", "info@contoso.example", 0),
    ("lead", "Lia", "lia@new.example", 0),
];
const SENDERS: &[&str] = &[
    "bob@contoso.example",
    "Bob <BOB@contoso.example>",
    "twin@contoso.example",
    "info@contoso.example",
    "lia@new.example",
    "stranger@elsewhere.example",
    "ann@fabrikam.example",
    "\"No address\"",
];
const SUBJECTS: &[&str] = &[
    "Offer 4711 for the garden",
    "RE: Offer 4711 for the garden",
    "FW: Offer 4711 for the garden",
    "Question",
    "Delivery of the blue chairs",
    "AW: Delivery of the blue chairs",
    "Out of office: Delivery",
];

/// 200 mails that answer, repeat and resemble each other.
fn mails(seed: u64) -> Vec<(usize, String)> {
    let random = SeededEntropy::new(seed);
    let below = |n: usize| usize::try_from(random.next_u64() % n as u64).unwrap();
    let boxes: Vec<usize> = (0..6).collect();
    let mut all: Vec<(usize, String)> = Vec::new();
    for n in 0..200 {
        let mailbox = boxes[below(boxes.len())];
        let mut to = vec![PEOPLE[mailbox].2];
        for _ in 0..below(3) {
            to.push(PEOPLE[below(PEOPLE.len())].2);
        }
        // now and then the same message comes to two mailboxes
        let id = if n > 0 && below(10) == 0 { below(n) } else { n };
        let mut text = format!(
            "From: {}\r\nTo: {}\r\nSubject: {}\r\nMessage-ID: <{id}@x.example>\r\nDate: Thu, 26 Nov 2026 10:{:02}:00 +0000\r\n",
            SENDERS[below(SENDERS.len())],
            to.join(", "),
            SUBJECTS[below(SUBJECTS.len())],
            n % 60,
        );
        if n > 0 {
            match below(6) {
                0 => text.push_str(&format!("In-Reply-To: <{}@x.example>\r\n", below(n))),
                1 => text.push_str(&format!("References: <lost@x> <{}@x.example>\r\n", below(n))),
                2 => text.push_str("Auto-Submitted: auto-replied\r\n"),
                _ => {}
            }
        }
        if below(8) == 0 {
            text.push_str("MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nhello\r\n--b\r\n");
            text.push_str(&format!(
                "Content-Disposition: attachment; filename=\"a.{}\"\r\n\r\nxyz\r\n--b--\r\n",
                ["txt", "exe"][below(2)]
            ));
        } else {
            text.push_str("\r\nhello\r\n");
        }
        all.push((mailbox, text));
    }
    all
}

fn configuration(target: &str) -> String {
    let mailboxes: String = PEOPLE[..6]
        .iter()
        .map(|(table, name, address, _)| {
            let element = if *table == "queue" { "Queue" } else { "User" };
            format!("<{element}><Name>{name}</Name><EmailAddress>{address}</EmailAddress><Deployment>crm</Deployment></{element}>")
        })
        .collect();
    format!(
        "<Configuration><ConfigurationProfiles><ConfigurationProfile><Name>in</Name><Direction>Incoming</Direction>\
         <ServerType>Maildir</ServerType><Path>{{address}}</Path></ConfigurationProfile></ConfigurationProfiles>\
         <Deployments><Deployment><Name>crm</Name>{target}<DefaultIncomingProfile>in</DefaultIncomingProfile></Deployment></Deployments>\
         <Mailboxes>{mailboxes}</Mailboxes></Configuration>"
    )
}

/// The records of a service, each with names in place of ids, which differ between two organizations.
async fn decide(
    service: &Service,
    names: &mut HashMap<String, String>,
    mails: &[(usize, String)],
) -> Vec<Value> {
    let mut all = Vec::new();
    for (mailbox, text) in mails {
        let named = service.mailbox(PEOPLE[*mailbox].2).unwrap();
        let raw = RawMessage::new(text.clone().into_bytes());
        let record = service.route(&named, &raw, false, false).await.unwrap();
        if let (Some(id), Some(message)) = (&record.activity_id, &record.message_id) {
            names.insert(id.to_string(), format!("e-mail {message}"));
        }
        let mut written = serde_json::to_string(&record).unwrap();
        for (id, name) in &*names {
            written = written.replace(id, name);
        }
        all.push(serde_json::from_str(&written).unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_mails_are_decided_alike() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let crm = DataverseServer::start().await;
    let tokens = OAuthService::start(Arc::new(SystemClock)).await;
    let token = format!(r#"{{"token_type":"Bearer","expires_in":3599,"access_token":"{TOKEN}"}}"#);
    tokens.change(|b| b.next = vec![Answer::new(200).body("application/json", token.as_str()); 8]);
    let targets = [
        "<Type>Embedded</Type><Path>crm.sqlite</Path>".to_owned(),
        format!(
            "<Type>OnlineServiceProvider</Type><Url>{}</Url><AllowHttp>true</AllowHttp><Proxy><Url>None</Url></Proxy>\
             <Application><TenantId>{TENANT}</TenantId><ClientId>{CLIENT_ID}</ClientId><ClientSecret>file:secret</ClientSecret>\
             <Authority>{}</Authority></Application>",
            crm.base(),
            tokens.authority()
        ),
    ];
    let mut names = [HashMap::new(), HashMap::new()];
    let made = std::sync::atomic::AtomicUsize::new(10);
    crm.set_clock(move || {
        let second = made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        format!("2026-11-22T10:{:02}:{:02}Z", second / 60 % 60, second % 60)
    });
    for (table, name, address, filter) in PEOPLE {
        let id = match *table {
            "systemuser" => {
                let id = crm.add_user(name, address, true);
                crm.update("usersettingscollection", &id, json!({ "incomingemailfilteringmethod": filter }));
                id
            }
            "queue" => crm.add_queue(name, address),
            "account" => crm.create("accounts", json!({ "name": name, "emailaddress1": address })),
            table => crm.create(&format!("{table}s"), json!({ "lastname": name, "emailaddress1": address })),
        };
        names[1].insert(id, (*name).to_owned());
    }
    crm.set_organization(json!({ "enablesmartmatching": true }));
    for (folder, target) in folders.iter().zip(&targets) {
        std::fs::write(folder.path().join("secret"), "s3cr3t~value\n").unwrap();
        std::fs::write(folder.path().join("EmailAgent.xml"), configuration(target)).unwrap();
    }
    let open = async |folder: &tempfile::TempDir| {
        Service::open(&folder.path().join("EmailAgent.xml"), OpenOptions::default()).await.unwrap()
    };
    let service = open(&folders[0]).await;
    let admin = service.organization(None).unwrap().administration().unwrap();
    for (table, name, address, filter) in PEOPLE {
        let filter = filter.to_string();
        let mut row = match *table {
            "systemuser" => vec![
                ("fullname", *name),
                ("internalemailaddress", address),
                ("emailrouteraccessapproval", "1"),
            ],
            "queue" => vec![("name", *name), ("emailaddress", address), ("emailrouteraccessapproval", "1")],
            "account" => vec![("name", *name), ("emailaddress1", address)],
            _ => vec![("fullname", *name), ("emailaddress1", address)],
        };
        if matches!(*table, "systemuser" | "queue") {
            row.extend([
                ("incomingemaildeliverymethod", "2"),
                ("outgoingemaildeliverymethod", "2"),
                ("incomingemailfilteringmethod", filter.as_str()),
            ]);
        }
        // of twins the older one is taken: no two may be of the same millisecond
        let before = SystemClock.now().as_millisecond();
        while SystemClock.now().as_millisecond() <= before {
            tokio::task::yield_now().await;
        }
        let added = admin.add(table, &fields(row)).await.unwrap().reference();
        names[0].insert(added.id.to_string(), (*name).to_owned());
    }
    admin.set_setting("enablesmartmatching", "true").await.unwrap();
    drop((admin, service));
    for seed in [1, 2] {
        let mails = mails(seed);
        let mut decided = Vec::new();
        for (folder, names) in folders.iter().zip(&mut names) {
            let service = open(folder).await;
            // a server is asked when the service begins
            service.run_once(&tokio::sync::watch::channel(false).1).await.unwrap();
            decided.push(decide(&service, names, &mails).await);
        }
        let mut verdicts: HashMap<String, usize> = HashMap::new();
        for (n, (one, two)) in decided[0].iter().zip(&decided[1]).enumerate() {
            assert_eq!(one, two, "seed {seed}, mail {n}: {}", mails[n].1);
            *verdicts.entry(one["reason"].to_string()).or_default() += 1;
        }
        assert!(verdicts.len() >= 5, "the mails do not differ enough: {verdicts:?}");
        assert!(decided[0].iter().filter(|record| !record["correlated"].is_null()).count() > 20);
    }
}
