//! A token service as that of Microsoft Entra ID, to be asked by hand: `cargo run -p email-router-testkit --example oauth_service -- CA_FILE`.
//!
//! It writes the certificate of its authority into CA_FILE, prints where it listens and what it takes, and runs until it is stopped.
#![allow(clippy::print_stdout, clippy::unwrap_used)] // it is there to print, and to stop at the first fault

use email_router_testkit::oauth::{Behaviour, CLIENT_ID, OAuthService, TENANT};
use email_router_testkit::tls::{ServerCert, TestCa};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let file = std::env::args().nth(1).unwrap_or_else(|| {
        println!("usage: oauth_service CA_FILE");
        std::process::exit(2)
    });
    let ca = TestCa::new();
    std::fs::write(&file, ca.pem()).unwrap();
    let service = OAuthService::start_tls(ca.acceptor(ServerCert::Good)).await;
    let secret = Behaviour::default().secret;
    println!(
        "{}/{TENANT}/oauth2/v2.0/token\nclient_id={CLIENT_ID}\nclient_secret={secret}",
        service.authority()
    );
    std::future::pending::<()>().await;
}
