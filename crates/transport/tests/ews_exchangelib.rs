//! The fake Exchange against a client that is not ours: exchangelib.
//!
//! `EWS_PYTHON` is a Python that has it (`scripts/peers/python.sh`). Without it the test says SKIPPED; with `REQUIRE_PEERS=1` that is a failure.
#![cfg(feature = "ews")]
#![allow(clippy::print_stdout, clippy::unwrap_used)] // what fails here fails the test; the reason for skipping belongs on the output

mod ews_support;

use email_router_testkit::ews::EwsOptions;
use ews_support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchangelib_works_with_the_fake_server() {
    let value = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let Some(python) = value("EWS_PYTHON") else {
        assert_ne!(value("REQUIRE_PEERS").as_deref(), Some("1"), "EWS_PYTHON must be set");
        println!("SKIPPED: EWS_PYTHON (a Python with exchangelib) is not set");
        return;
    };
    let server = server(EwsOptions::default()).await;
    for n in 0..3 {
        server.put("alice@contoso.test", &message(n, 300));
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/peers/ews-client.py");
    let autodiscover = format!("http://localhost:{}/autodiscover/autodiscover.svc", server.port());
    let mut command = std::process::Command::new(python);
    command.arg(script).arg(server.url()).arg(autodiscover).env("EWS_PASSWORD", PASSWORD);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("ok: ").count(), 8, "{said}");
}
