//! The fake Dataverse organization against clients that are not ours: Microsoft's SDK for Python and dynamics-web-api; and its filters, and those that our client
//! sends, against the parser odata-query.
//!
//! `DATAVERSE_NODE` is a folder `node_modules`, `DATAVERSE_PYTHON` a Python; `scripts/peers/setup.sh` installs both. Without the variables the tests say
//! SKIPPED; with `REQUIRE_PEERS=1` that is a failure.
// the reason for skipping belongs on the output; helpers of tests may panic
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use email_router_testkit::dataverse::{DataverseServer, ORGANIZATION, TOKEN};
use email_router_testkit::tls::{ServerCert, TestCa};
use serde_json::{Value, json};

const FILTERS: &str = include_str!("../../../fixtures/dataverse/filters.txt");

fn peer(name: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        assert_ne!(std::env::var("REQUIRE_PEERS").as_deref(), Ok("1"), "{name} must be set");
        println!("SKIPPED: {name} is not set");
    }
    value
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/peers").join(name)
}

fn saw(output: &Output, server: &DataverseServer) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}\n{:#?}", server.requests());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn dynamics_web_api_understands_every_answer() {
    let Some(modules) = peer("DATAVERSE_NODE") else { return };
    let server = DataverseServer::start().await;
    let base = server.base();
    let run = move || {
        Command::new("node")
            .arg(script("dataverse-client.cjs"))
            .args([modules.as_str(), &base, TOKEN])
            .output()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    let saw = saw(&output, &server);
    for (name, expected) in [
        ("who", json!(ORGANIZATION)),
        ("made", json!(36)),
        ("name", json!("Ann O'Hara")),
        ("etag", json!(true)),
        ("late", json!(false)),
        (
            "all",
            json!([
                "number 0", "number 1", "number 2", "number 3", "number 4", "number 5", "number 6", "Smith"
            ]),
        ),
        ("some", json!(2)),
        ("parties", json!(2)),
        ("sent", json!("from JavaScript")),
        ("batch", json!(2)),
        ("accounts", json!(2)),
        ("delta", json!(true)),
        ("gone", json!(404)),
    ] {
        assert_eq!(saw[name], expected, "{name} in {saw}");
    }
    assert_ne!(saw["failed"], json!("taken"));
}

#[tokio::test]
async fn microsofts_sdk_understands_every_answer() {
    let Some(python) = peer("DATAVERSE_PYTHON") else { return };
    let ca = TestCa::new();
    let server = DataverseServer::start_tls(ca.acceptor(ServerCert::Good)).await;
    let folder = std::env::temp_dir().join(format!("email-router-dataverse-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let bundle = folder.join("ca.pem");
    std::fs::write(&bundle, ca.pem()).unwrap();
    let base = server.base();
    let run = move || {
        Command::new(python)
            .arg(script("dataverse-client.py"))
            .args([base.as_str(), TOKEN])
            .env("REQUESTS_CA_BUNDLE", &bundle)
            .env("NO_PROXY", "*")
            .output()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let saw = saw(&output, &server);
    let expected = json!({ "made": 36, "name": "Ann O'Hara", "pages": [3, 3, 2], "some": 6, "batch": true, "gone": true });
    assert_eq!(saw, expected);
}

#[tokio::test]
async fn filters_are_those_of_odata() {
    let wrong =
        ["statuscode eq", "subject eq 'a", "a b c", "subject like 'a'", "(statuscode eq 6", "statuscode = 6"];
    let server = DataverseServer::start().await;
    for filter in FILTERS.lines() {
        let set = if filter.contains("_objectid_value") { "activitymimeattachments" } else { "emails" };
        assert_eq!(server.filter_fault(set, filter), None, "{filter}");
    }
    for filter in wrong {
        assert!(server.filter_fault("emails", filter).is_some(), "{filter} is taken");
    }
    let Some(python) = peer("DATAVERSE_PYTHON") else { return };
    let refused = move |filters: String| {
        let mut child = Command::new(&python)
            .arg(script("odata-filters.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(filters.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(refused(FILTERS.to_owned()), Vec::<String>::new());
    assert_eq!(refused(wrong.map(|filter| format!("{filter}\n")).concat()).len(), wrong.len());
}
