//! NTLM and Negotiate against a server that is not ours: Apache with mod_auth_gssapi and gss-ntlmssp (`scripts/peers/http-auth.sh`).
//!
//! `HTTP_AUTH`, `HTTP_AUTH_TLS`, `HTTP_AUTH_SHORT` are its ports, `HTTP_AUTH_CA` the authority of its certificate. Without them each test says
//! SKIPPED; with `REQUIRE_PEERS=1` that is a failure.
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test

mod support;

use std::sync::Arc;

use email_router_auth::Credentials;
use email_router_http::{HttpClient, HttpService as _, Login, Method, Request, Scheme};
use futures_util::FutureExt as _;
use support::settings;

const SCHEMES: [Scheme; 3] = [Scheme::Ntlm, Scheme::Negotiate, Scheme::Windows];

struct Apache {
    clear: String,
    tls: String,
    short: String,
    client: Arc<HttpClient>,
}

fn apache() -> Option<Apache> {
    let values = support::peer(&["HTTP_AUTH", "HTTP_AUTH_TLS", "HTTP_AUTH_SHORT", "HTTP_AUTH_CA"])?;
    let mut settings = settings();
    settings.extra_ca_files = vec![values[3].clone().into()];
    Some(Apache {
        clear: format!("http://localhost:{}", values[0]),
        tls: format!("https://localhost:{}", values[1]),
        short: format!("http://localhost:{}", values[2]),
        client: Arc::new(HttpClient::new(settings).unwrap()),
    })
}

fn request(url: &str, scheme: Scheme, user: &str, password: &str) -> Request {
    Request::new(Method::GET, url.parse().unwrap())
        .with_login(Some(Login { scheme, credentials: Credentials::new(user, password.into()) }))
}

fn alice(url: &str, scheme: Scheme) -> Request {
    request(url, scheme, "CONTOSO\\alice", "Secret123")
}

fn echo(base: &str, scheme: Scheme, body: Vec<u8>) -> Request {
    let mut request = alice(&format!("{base}/echo"), scheme).with_body("application/octet-stream", body);
    request.method = Method::POST;
    request
}

#[tokio::test]
async fn right_and_wrong_passwords() {
    let Some(apache) = apache() else { return };
    for base in [&apache.clear, &apache.tls] {
        for scheme in SCHEMES {
            let url = format!("{base}/");
            let answer = apache.client.send(alice(&url, scheme)).await.unwrap();
            assert_eq!(answer.status, 200, "{scheme} at {base}");
            let user = answer.headers.get("x-remote-user").unwrap().to_str().unwrap().to_owned();
            assert!(user.to_lowercase().contains("alice"), "{user}");
            assert_eq!(answer.body.collect().await.unwrap(), "let in\n");
            for (user, password) in [
                ("CONTOSO\\alice", "Secret124"),
                ("CONTOSO\\nobody", "Secret123"),
                ("CONTOSO\\bob", "Secret123"),
            ] {
                let answer = apache.client.send(request(&url, scheme, user, password)).await.unwrap();
                assert_eq!(answer.status, 401, "{scheme} at {base} as {user}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_connections_with_two_hundred_requests_each() {
    let Some(apache) = apache() else { return };
    for (base, scheme) in [(&apache.clear, Scheme::Ntlm), (&apache.tls, Scheme::Negotiate)] {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..8 {
            // two logins beside each other: each answer says whose connection it came through
            let (user, password) = [("alice", "Secret123"), ("bob", "Secret456")][n % 2];
            let (client, url) = (Arc::clone(&apache.client), format!("{base}/"));
            tasks.spawn(async move {
                for _ in 0..200 {
                    let request = request(&url, scheme, &format!("CONTOSO\\{user}"), password);
                    let answer = client.send(request).await.unwrap();
                    assert_eq!(answer.status, 200);
                    let who = answer.headers.get("x-remote-user").unwrap().to_str().unwrap().to_lowercase();
                    assert!(who.contains(user), "{user} got the connection of {who}");
                    assert_eq!(answer.body.collect().await.unwrap(), "let in\n");
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_its_connections() {
    let Some(apache) = apache() else { return };
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..4 {
        let (client, short) = (Arc::clone(&apache.client), apache.short.clone());
        tasks.spawn(async move {
            for round in 0..25_u8 {
                let body = vec![round; 10_000];
                let answer = client.send(echo(&short, SCHEMES[n % 3], body.clone())).await.unwrap();
                assert_eq!(answer.status, 200, "round {round}");
                assert_eq!(answer.body.collect().await.unwrap(), body);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn large_bodies() {
    let Some(apache) = apache() else { return };
    for base in [&apache.clear, &apache.tls] {
        for scheme in SCHEMES {
            let body: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
            let answer = apache.client.send(echo(base, scheme, body.clone())).await.unwrap();
            assert_eq!(answer.status, 200, "{scheme} at {base}");
            assert_eq!(answer.body.collect().await.unwrap(), body, "{scheme} at {base}");
        }
    }
}

#[tokio::test]
async fn cancelled_requests() {
    let Some(apache) = apache() else { return };
    let body = vec![b'x'; 1_000_000];
    for polls in 0..60 {
        // dropped after so many polls: in the name, the connection, the legs, the body
        let mut work = Box::pin(apache.client.send(echo(&apache.tls, Scheme::Negotiate, body.clone())));
        for _ in 0..polls {
            if (&mut work).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(work);
        let small = vec![b'0' + u8::try_from(polls % 10).unwrap(); 100];
        let answer = apache.client.send(echo(&apache.tls, Scheme::Negotiate, small.clone())).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body.collect().await.unwrap(), small);
    }
}
