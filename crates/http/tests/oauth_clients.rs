//! The token service of the testkit, asked by clients that are not ours: MSAL for Python and azure-identity. What they take for Microsoft's service is
//! a fair stand-in for it in our own tests.
//!
//! `OAUTH_CLIENTS` names a Python that has both (`scripts/with-peers` sets it); without it the test says SKIPPED, and fails with `REQUIRE_PEERS=1`.
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test

mod support;

use std::io::Write as _;
use std::process::Command;

use email_router_testkit::oauth::{Behaviour, CLIENT_ID, OAuthService, TENANT, TEST_CERTIFICATE, TEST_KEY};
use email_router_testkit::tls::{ServerCert, TestCa};

#[tokio::test(flavor = "multi_thread")]
async fn msal_and_azure_identity_get_their_tokens() {
    let Some(python) = support::peer(&["OAUTH_CLIENTS"]).map(|values| values[0].clone()) else { return };
    let ca = TestCa::new();
    let service = OAuthService::start_tls(ca.acceptor(ServerCert::Good)).await;
    let file = |text: &str| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    };
    let (authority, certificate, key) = (file(&ca.pem()), file(TEST_CERTIFICATE), file(TEST_KEY));
    let mut command = Command::new(python);
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/peers/oauth-clients.py"))
        .args([&service.authority(), TENANT, CLIENT_ID, &Behaviour::default().secret])
        .args([certificate.path(), key.path(), authority.path()]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    let lines: Vec<(&str, &str)> = said.lines().filter_map(|line| line.split_once('\t')).collect();
    let names: Vec<_> = lines.iter().map(|(name, _)| *name).collect();
    let expected =
        ["msal secret", "msal certificate", "msal wrong", "azure secret", "azure certificate", "azure wrong"];
    assert_eq!(names, expected, "{said}{errors}");
    for (name, token) in lines {
        if name.ends_with("wrong") {
            assert_eq!(token, "AADSTS7000215", "{name}");
        } else {
            assert!(service.accepts(token), "{name}: {token}");
        }
    }
}
