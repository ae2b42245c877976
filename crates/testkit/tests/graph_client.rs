//! The fake Graph service against a client that is not ours: Microsoft's own for JavaScript.
//!
//! `GRAPH_CLIENT` is the folder `node_modules` in which `scripts/peers/setup.sh` installed it. Without the variable the test says SKIPPED; with
//! `REQUIRE_PEERS=1` that is a failure.
// the reason for skipping belongs on the output
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::process::Command;

use email_router_testkit::graph::{Fault, GraphServer};
use serde_json::{Value, json};

const USER: &str = "alice@contoso.test";

#[tokio::test]
async fn microsofts_client_understands_every_answer() {
    let modules = std::env::var("GRAPH_CLIENT").ok().filter(|v| !v.is_empty());
    let Some(modules) = modules else {
        assert_ne!(std::env::var("REQUIRE_PEERS").as_deref(), Ok("1"), "GRAPH_CLIENT must be set");
        println!("SKIPPED: GRAPH_CLIENT is not set");
        return;
    };
    let server = GraphServer::start(&["token"]).await;
    server.add_mailbox(USER);
    for n in 0..25 {
        let text = format!(
            "Received: from a\r\n by b\r\nFrom: zoe@example.com\r\nTo: {USER}\r\nSubject: number {n}\r\nMessage-ID: <{n}@example.com>\r\n\r\nbody\r\n"
        );
        server.deliver(USER, text.as_bytes());
    }
    // its retry handler has to understand how the service is throttling
    server.plan("GET", "/mailFolders", 1, Fault::throttled("1"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/peers/graph-client.cjs");
    let root = server.base().trim_end_matches("/v1.0").to_owned();
    let run =
        move || Command::new("node").arg(script).args([modules.as_str(), &root, "token", USER]).output();
    let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}\n{:#?}", server.requests());
    let saw: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mime = saw["mime"].as_str().unwrap();
    assert!(
        mime.starts_with("Received: from a\r\n by b\r\n") && mime.ends_with("\r\n\r\nbody\r\n"),
        "{mime:?}"
    );
    for (name, expected) in [
        ("folders", json!(["Inbox", "Drafts", "Sent Items", "Deleted Items", "Archive"])),
        ("listed", json!(25)),
        ("oldest", json!("number 0")),
        ("headers", json!(["Received", "From", "To", "Subject", "Message-ID"])),
        ("read", json!(true)),
        ("delta", json!(25)),
        ("moved", json!("archive")),
        ("removed", json!([[true, "deleted"]])),
        ("batch", json!([200, 404])),
        ("sent", json!(["from JavaScript"])),
        ("draft", json!(true)),
        ("pieces", json!(4)),
        ("rules", json!([["rule", false]])),
        ("error", json!([404, "ErrorItemNotFound"])),
    ] {
        assert_eq!(saw[name], expected, "{name}");
    }
    let sent = server.sent();
    assert_eq!(sent.len(), 2);
    assert_eq!((sent[1].attachments[0].content.len(), sent[1].attachments[0].pieces), (5 << 20, 4));
    assert_eq!(server.violations(), Vec::<String>::new());
}
