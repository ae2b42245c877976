//! Our client against an OData server that is not ours, as far as that one goes: it knows no If-None-Match, no change tracking, no doubled quotes.
//!
//! `DATAVERSE_NODE` is a folder `node_modules` with SAP's fe-mockserver-core. Without it the test says SKIPPED; with `REQUIRE_PEERS=1` that is a failure.
#![allow(clippy::print_stdout)] // the reason for skipping belongs on the output

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use email_router_auth::Credentials;
use email_router_http::{HttpClient, HttpSettings, Login, Method, Proxy, Scheme};
use serde_json::{Value, json};

use super::{Ask, Session, fault};
use crate::ErrorKind;
use crate::dataverse::settings::{ApiVersion, DataverseSettings};

struct Server(Child, Session);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start() -> Option<Server> {
    let modules = std::env::var("DATAVERSE_NODE").ok().filter(|value| !value.is_empty());
    let Some(modules) = modules else {
        assert_ne!(std::env::var("REQUIRE_PEERS").as_deref(), Ok("1"), "DATAVERSE_NODE must be set");
        println!("SKIPPED: DATAVERSE_NODE is not set");
        return None;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let fixtures = root.join("fixtures/dataverse/odata");
    let mut child = Command::new("node")
        .arg(root.join("scripts/peers/odata-server.cjs"))
        .arg(modules)
        .args([fixtures.join("metadata.xml"), fixtures.join("data")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let port =
        output.lines().map_while(Result::ok).find_map(|line| line.strip_prefix("PORT ").map(str::to_owned));
    let mut http = HttpSettings::default();
    http.proxy = Proxy::None;
    http.allow_cleartext_password = true;
    let login = Login { scheme: Scheme::Bearer, credentials: Credentials::bearer("router", "token".into()) };
    let url = format!("http://127.0.0.1:{}/", port.unwrap()).parse().unwrap();
    let http = Arc::new(HttpClient::new(http).unwrap());
    let settings = DataverseSettings::new(url, http, Arc::new(login), "unused".into());
    let session = Session::new(settings, ApiVersion::new(9, 2)).unwrap();
    Some(Server(child, session))
}

#[tokio::test]
async fn an_odata_server_that_is_not_ours_understands_us() {
    let Some(server) = start() else { return };
    let session = &server.1;
    let names = |rows: Vec<Value>| {
        rows.iter().map(|row| row["fullname"].as_str().unwrap_or("").to_owned()).collect::<Vec<_>>()
    };
    // selecting, ordering, filtering
    let all = "contacts?$select=contactid,fullname&$orderby=fullname%20desc";
    let rows = session.pages(all, &["odata.maxpagesize=5000"], "reading").all(100).await.unwrap();
    assert_eq!(names(rows), ["Bob O'Hara", "Ann"]);
    let some =
        "contacts?$select=fullname&$filter=statecode%20eq%200%20and%20createdon%20ge%202026-11-22T00:00:00Z";
    assert_eq!(names(session.pages(some, &[], "reading").all(100).await.unwrap()), ["Ann"]);
    // every filter that mode B sends to e-mails
    for filter in include_str!("../../../../../fixtures/dataverse/filters.txt").lines() {
        let ours = ["messageid", "_objectid_value", "email_activity_parties"];
        if ours.iter().any(|name| filter.contains(name)) {
            continue; // its tables have no such columns, or it does not know the syntax
        }
        let path = format!("emails?$select=activityid&$filter={}", super::literal::encode(filter));
        session.get(&path, filter).await.unwrap();
    }
    // one row by its key, made, changed, read; a batch
    let made =
        json!({ "contactid": "33333333-1111-4111-8111-111111111111", "fullname": "Zoe", "statecode": 0 });
    session.send(Ask::new(Method::POST, "contacts", "making").json(&made)).await.unwrap();
    let path = "contacts(33333333-1111-4111-8111-111111111111)";
    let change = json!({ "fullname": "Zoë" });
    session
        .send(Ask::new(Method::PATCH, path, "changing").json(&change).header("if-match", "*"))
        .await
        .unwrap();
    assert_eq!(session.get(path, "reading").await.unwrap()["fullname"], "Zoë");
    let paths = [path.to_owned(), "contacts?$top=1".to_owned(), "nonsense".to_owned()];
    // it resolves no absolute URL in a batch, as Dataverse wants them; what it answers to each part is read all the same
    let parts = session.read_many(&paths, "reading").await.unwrap();
    assert!(
        parts.len() == 3 && parts.iter().all(|part| part.status == 500 && !part.body.is_empty()),
        "{parts:?}"
    );
    // and its words for what is not there
    let error = session.get("contacts(44444444-1111-4111-8111-111111111111)", "reading").await.unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && fault::of(&error).is_some(), "{error}");
}
