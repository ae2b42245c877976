//! Negotiate with a Kerberos ticket against a server that is not ours: Apache with mod_auth_gssapi (`scripts/peers/http-auth.sh`).
//!
//! `HTTP_AUTH`, `HTTP_AUTH_TLS`, `HTTP_AUTH_SHORT` are its ports, `HTTP_AUTH_CA` the authority of its certificate, `KDC_DIR` and `KRB5_CONFIG` the realm.
//! Without them each test says SKIPPED; with `REQUIRE_PEERS=1` that is a failure.
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use email_router_auth::{Credentials, KerberosNegotiate, TicketStore};
use email_router_http::{ErrorKind, HttpClient, HttpService as _, Login, Method, Request, Scheme};
use email_router_model::Classified as _;
use support::settings;

struct Apache {
    clear: String,
    tls: String,
    short: String,
    realm: PathBuf,
    client: Arc<HttpClient>,
}

fn apache() -> Option<Apache> {
    let names = ["HTTP_AUTH", "HTTP_AUTH_TLS", "HTTP_AUTH_SHORT", "HTTP_AUTH_CA", "KDC_DIR", "KRB5_CONFIG"];
    let values = support::peer(&names)?;
    let mut settings = settings();
    settings.extra_ca_files = vec![values[3].clone().into()];
    let client = HttpClient::new(settings).unwrap().with_mechanism(Arc::new(KerberosNegotiate));
    Some(Apache {
        clear: format!("http://localhost:{}", values[0]),
        tls: format!("https://localhost:{}", values[1]),
        short: format!("http://localhost:{}", values[2]),
        realm: values[4].clone().into(),
        client: Arc::new(client),
    })
}

impl Apache {
    fn tickets(&self, file: &str) -> Credentials {
        let path = self.realm.join(file);
        let store = match file.ends_with(".keytab") {
            true => TicketStore { cache: Some(format!("MEMORY:http {file}")), keytab: Some(path) },
            false => TicketStore { cache: Some(format!("FILE:{}", path.display())), keytab: None },
        };
        Credentials::tickets("", store)
    }

    fn request(&self, base: &str, scheme: Scheme, credentials: Credentials) -> Request {
        Request::new(Method::GET, format!("{base}/").parse().unwrap())
            .with_login(Some(Login { scheme, credentials }))
    }
}

#[tokio::test]
async fn by_ticket_cache_and_by_keytab() {
    let Some(apache) = apache() else { return };
    for base in [&apache.clear, &apache.tls] {
        for scheme in [Scheme::Negotiate, Scheme::Windows] {
            for file in ["alice.ccache", "alice.keytab"] {
                let request = apache.request(base, scheme, apache.tickets(file));
                let answer = apache.client.send(request).await.unwrap();
                assert_eq!(answer.status, 200, "{scheme} at {base} by {file}");
                assert_eq!(answer.headers.get("x-remote-user").unwrap(), "alice@CONTOSO.TEST");
                assert_eq!(answer.body.collect().await.unwrap(), "let in\n");
            }
        }
    }
}

/// Logins with a password go on beside it, each through connections of its own.
#[tokio::test(flavor = "multi_thread")]
async fn many_requests_beside_ntlm() {
    let Some(apache) = apache() else { return };
    let apache = Arc::new(apache);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..6 {
        let apache = Arc::clone(&apache);
        tasks.spawn(async move {
            let (credentials, expected) = match n % 2 {
                0 => (apache.tickets("alice.ccache"), "alice@contoso.test"),
                _ => (Credentials::new("CONTOSO\\bob", "Secret456".into()), "bob"),
            };
            let base = if n < 3 { &apache.short } else { &apache.tls };
            for _ in 0..50 {
                let request = apache.request(base, Scheme::Negotiate, credentials.clone());
                let answer = apache.client.send(request).await.unwrap();
                assert_eq!(answer.status, 200);
                let who = answer.headers.get("x-remote-user").unwrap().to_str().unwrap().to_lowercase();
                assert!(who.contains(expected), "{expected} got the connection of {who}");
                answer.body.collect().await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn what_an_administrator_reads() {
    let Some(apache) = apache() else { return };
    for (file, kind, hint) in [
        ("expired.ccache", ErrorKind::Settings, "have expired: renew them"),
        ("missing.ccache", ErrorKind::Settings, "there are no Kerberos tickets for this service"),
        ("stranger.keytab", ErrorKind::Authentication, "does not know this principal"),
        ("down.keytab", ErrorKind::Timeout, "no key distribution centre (domain controller) answers"),
    ] {
        let request = apache.request(&apache.tls, Scheme::Negotiate, apache.tickets(file));
        let error = apache.client.send(request).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{file}: {error}");
        assert!(error.to_string().contains("Kerberos for HTTP at localhost"), "{file}: {error}");
        assert!(error.hint().is_some_and(|h| h.contains(hint)), "{file}: {:?}", error.hint());
        assert!(!error.was_sent(), "{file}");
    }
    // an address has no service principal
    let base = apache.clear.replace("localhost", "127.0.0.1");
    let request = apache.request(&base, Scheme::Negotiate, apache.tickets("alice.ccache"));
    let error = apache.client.send(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings, "{error}");
    assert!(
        error.hint().is_some_and(|h| h.contains("not an alias or address")),
        "{error} {:?}",
        error.hint()
    );
}
