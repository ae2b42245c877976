//! kill -9 at any time leaves a good file that holds everything that was acknowledged.
#![allow(clippy::unwrap_used)] // helpers of tests, which may panic
#![cfg(all(unix, feature = "embedded"))]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use email_router_crm::embedded::EmbeddedCrm;
use email_router_crm::{
    Attachment, CorrelationMethod, CrmClient as _, IncomingEmail, ParticipationType, Party, Priority,
};
use email_router_model::{
    ActivityId, Direction, Entropy as _, MessageId, SeededEntropy, SystemClock, SystemEntropy,
};

const CHILD: &str = "EMAIL_ROUTER_CRASH_TEST_FILE";

fn open(file: &Path) -> EmbeddedCrm {
    EmbeddedCrm::open(file, Arc::new(SystemClock), Arc::new(SystemEntropy)).unwrap()
}

fn email(crm: &EmbeddedCrm, identity: &str) -> IncomingEmail {
    IncomingEmail {
        activity_id: ActivityId::derive(&crm.organization_id(), Direction::Incoming, identity),
        message_id: MessageId::parse(identity),
        in_reply_to: None,
        references: Vec::new(),
        conversation_index: None,
        subject: "subject".to_owned(),
        body: "b".repeat(5000),
        body_mime_type: "text/plain".to_owned(),
        parties: vec![Party {
            participation: ParticipationType::Sender,
            record: None,
            address: Some("bob@contoso.example".parse().unwrap()),
            name: None,
        }],
        regarding: None,
        correlated_activity: None,
        parent_activity: None,
        correlation_method: CorrelationMethod::None,
        tracking_token: None,
        owner: None,
        queues: Vec::new(),
        accepting: None,
        receiving: None,
        submitted_by: None,
        is_duplicate_sender_unresolved: false,
        received_on: None,
        sent_on: None,
        priority: Priority::Normal,
        attachments: vec![Attachment {
            file_name: "a.bin".to_owned(),
            mime_type: "application/octet-stream".to_owned(),
            content_id: None,
            content: vec![7; 20_000].into(),
        }],
        removed_parts: Vec::new(),
        text_body: None,
        category: None,
        subcategory: None,
        conversation_id: None,
        smart: email_router_crm::SmartHashes::default(),
        new_sender: None,
    }
}

/// Delivers on eight tasks until killed, and says each identity after its delivery was acknowledged.
async fn child(file: &Path) {
    let crm = open(file);
    let run = SystemEntropy.next_u64();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let crm = crm.clone();
        tasks.spawn(async move {
            for n in 0..100_000 {
                let identity = format!("<{run}.{task}.{n}@x>");
                crm.deliver_incoming(email(&crm, &identity)).await.unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "done {identity}").unwrap();
                out.flush().unwrap();
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    if let Some(file) = std::env::var_os(CHILD) {
        return child(Path::new(&file)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("crm.db");
    let random = SeededEntropy::new(20260301);
    let mut acknowledged = Vec::new();
    for _ in 0..6 {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "nothing_acknowledged_is_lost_by_kill_9", "--nocapture"])
            .env(CHILD, &file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let until = 1 + usize::try_from(random.next_u64() % 200).unwrap();
        let mut seen = 0;
        for line in lines {
            let line = line.unwrap();
            // the test harness puts its own words before the first line
            let Some((_, identity)) = line.split_once("done ") else { continue };
            if !identity.ends_with("@x>") {
                continue; // cut by the kill
            }
            acknowledged.push(identity.to_owned());
            seen += 1;
            if seen == until {
                process.kill().unwrap(); // SIGKILL; what is in the pipe is still read
            }
        }
        process.wait().unwrap();
        assert!(seen >= until, "the child stopped by itself after {seen}");
        let crm = open(&file);
        assert_eq!(crm.admin().check().await.unwrap(), Vec::<String>::new());
        for identity in &acknowledged {
            let id = email(&crm, identity).activity_id;
            assert!(crm.exists(&id).await.unwrap(), "{identity} was acknowledged and is not there");
            assert_eq!(crm.attachments(&id).await.unwrap().len(), 1);
        }
        let stored = crm.admin().statistics().await.unwrap();
        assert_eq!(stored.attachments, stored.incoming["received"], "no half e-mail");
        // at most what was under way in the eight tasks, or acknowledged without a word getting out, is there beyond that
        assert!(stored.attachments >= acknowledged.len() as u64);
    }
}
