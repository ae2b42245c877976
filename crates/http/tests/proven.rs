//! Logins that prove a connection, with a mechanism of the test's own and with NTLM against a server that checks every bit of it.
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use email_router_auth::{AuthError, Channel, Credentials, Exchange, Mechanism, ProofKind, Response};
use email_router_http::{ErrorKind as K, HttpClient, HttpService as _, Login, Method, Request, Scheme};
use email_router_model::Secret;
use email_router_testkit::http::{Act, Answer, HttpServer, Seen};
use email_router_testkit::ntlm::NtlmServer;
use email_router_testkit::tls::{ServerCert, TestCa};
use support::{client, get, local, settings};

fn login(scheme: Scheme, user: &str, password: &str) -> Option<Login> {
    Some(Login { scheme, credentials: Credentials::new(user, password.into()) })
}

fn post(url: &str, body: impl Into<Vec<u8>>) -> Request {
    Request::new(Method::POST, url.parse().unwrap()).with_body("text/xml", body.into())
}

fn token<'a>(seen: &'a Seen, scheme: &str) -> Option<&'a str> {
    seen.header("authorization")?.strip_prefix(scheme)?.strip_prefix(' ')
}

/// A front door for NTLM: each connection has to be proven, and then belongs to who proved it.
struct Door {
    secret: NtlmServer,
    /// How far each connection is.
    stage: HashMap<usize, Stage>,
}

enum Stage {
    /// Its first message was answered.
    Challenged(Vec<u8>),
    Open,
}

impl Door {
    fn new(secret: NtlmServer) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { secret, stage: HashMap::new() }))
    }

    fn answer(&mut self, seen: &Seen) -> Answer {
        let offer =
            || Answer::new(401).header("WWW-Authenticate", "NTLM").body("text/html", "<html>401</html>");
        let Some(token) = token(seen, "NTLM") else {
            return match self.stage.get(&seen.connection) {
                Some(Stage::Open) => {
                    Answer::new(200).body("text/plain", format!("{} bytes", seen.body.len()))
                }
                _ => offer(),
            };
        };
        let message = BASE64_STANDARD.decode(token).unwrap();
        match self.stage.remove(&seen.connection) {
            Some(Stage::Challenged(first)) => {
                if self.secret.accept(&first, &message).is_err() {
                    return offer();
                }
                self.stage.insert(seen.connection, Stage::Open);
                Answer::new(200).body("text/plain", format!("{} bytes", seen.body.len()))
            }
            _ => {
                let value = format!("NTLM {}", BASE64_STANDARD.encode(self.secret.challenge()));
                self.stage.insert(seen.connection, Stage::Challenged(message));
                Answer::new(401).header("WWW-Authenticate", value).body("text/html", "<html>go on</html>")
            }
        }
    }
}

async fn door(secret: NtlmServer) -> HttpServer {
    let door = Door::new(secret);
    HttpServer::start(move |seen| door.lock().unwrap().answer(seen)).await
}

#[tokio::test]
async fn ntlm_proves_a_connection_once() {
    let server = door(NtlmServer::new("ann", "CONTOSO", "Secret123")).await;
    let client = client();
    let url = format!("{}/EWS/Exchange.asmx", local(&server));
    for n in 0..5 {
        let request =
            post(&url, vec![b'x'; 1_000_000]).with_login(login(Scheme::Ntlm, "CONTOSO\\ann", "Secret123"));
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status, 200, "{n}");
        assert_eq!(answer.body.collect().await.unwrap(), "1000000 bytes");
    }
    let seen = server.seen();
    let lengths: Vec<_> = seen.iter().map(|s| (s.body.len(), s.header("authorization").is_some())).collect();
    let once = [(0, true), (1_000_000, true)];
    assert_eq!(lengths[..2], once, "the first leg goes without the body");
    assert_eq!(lengths[2..], [(1_000_000, false); 4]);
    assert_eq!(seen[0].header("content-length"), Some("0"));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_wrong_password_is_an_answer_and_is_tried_once() {
    let server = door(NtlmServer::new("ann", "CONTOSO", "Secret123")).await;
    let client = client();
    for scheme in [Scheme::Ntlm, Scheme::Windows] {
        let before = server.seen().len();
        let request = get(&local(&server)).with_login(login(scheme, "CONTOSO\\ann", "wrong"));
        assert_eq!(client.send(request).await.unwrap().status, 401);
        let last = server.seen()[before..].iter().filter(|s| token(s, "NTLM").is_some()).count();
        assert_eq!(last, 2, "{scheme}: one challenge, one wrong answer");
    }
    // the refused connection serves nobody
    let right = get(&local(&server)).with_login(login(Scheme::Ntlm, "CONTOSO\\ann", "Secret123"));
    assert_eq!(client.send(right).await.unwrap().status, 200);
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn windows_authentication_takes_what_is_offered() {
    let server = door(NtlmServer::new("ann", "CONTOSO", "Secret123")).await;
    let request = get(&local(&server)).with_login(login(Scheme::Windows, "CONTOSO\\ann", "Secret123"));
    assert_eq!(client().send(request).await.unwrap().status, 200);
    let seen = server.seen();
    let schemes: Vec<_> =
        seen.iter().map(|s| s.header("authorization").unwrap().split(' ').next().unwrap()).collect();
    assert_eq!((schemes, server.connections()), (vec!["Negotiate", "NTLM", "NTLM"], 1));
    let request = get(&local(&server)).with_login(login(Scheme::Negotiate, "CONTOSO\\ann", "Secret123"));
    let error = client().send(request).await.unwrap_err();
    assert_eq!(error.kind(), K::Authentication);
    assert!(error.to_string().contains("does not offer Negotiate (it offers NTLM)"), "{error}");
}

#[tokio::test]
async fn extended_protection() {
    let ca = TestCa::new();
    let file = support::ca_file(&ca);
    let (acceptor, pem) = ca.server(ServerCert::Good);
    let der = pem_der(&pem);
    for (end_point, status) in [(email_router_tls::server_end_point(&der).unwrap(), 200), (vec![7; 32], 401)]
    {
        let door = Door::new(NtlmServer::new("ann", "CONTOSO", "Secret123").with_server_end_point(end_point));
        let server =
            HttpServer::start_tls(acceptor.clone(), move |seen| door.lock().unwrap().answer(seen)).await;
        let mut settings = settings();
        settings.extra_ca_files = vec![file.path().to_owned()];
        let client = HttpClient::new(settings).unwrap();
        let request =
            get(&format!("{}/", server.base())).with_login(login(Scheme::Ntlm, "CONTOSO\\ann", "Secret123"));
        assert_eq!(client.send(request).await.unwrap().status, status);
    }
}

fn pem_der(pem: &str) -> Vec<u8> {
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    BASE64_STANDARD.decode(base64).unwrap()
}

/// `hello`, then the answer `name=NAME;challenge` to each challenge.
#[derive(Debug, Clone)]
struct Toy {
    name: &'static str,
    wants: ProofKind,
    hello: &'static [u8],
    /// What the server has to say at the end.
    proof: Option<&'static [u8]>,
}

impl Toy {
    const NEGOTIATE: Self =
        Self { name: "GSS-SPNEGO", wants: ProofKind::ProcessIdentity, hello: b"ticket", proof: None };
}

impl Mechanism for Toy {
    fn name(&self) -> &'static str {
        self.name
    }
    fn wants(&self) -> ProofKind {
        self.wants
    }
    fn shows_password(&self) -> bool {
        false
    }
    fn begin(&self, _: &Credentials, channel: &Channel) -> Result<Box<dyn Exchange>, AuthError> {
        assert_eq!(channel.service, "HTTP");
        Ok(Box::new(ToyExchange(self.clone())))
    }
}

struct ToyExchange(Toy);

impl Exchange for ToyExchange {
    fn mechanism(&self) -> &'static str {
        self.0.name
    }
    fn initial(&mut self) -> Option<Response> {
        Some(Response::new(self.0.hello.to_vec()))
    }
    fn step(&mut self, challenge: &[u8]) -> Result<Response, AuthError> {
        if challenge == b"bad" {
            return Err(AuthError::BadChallenge { mechanism: self.0.name, why: "it is bad" });
        }
        Ok(Response::new([b"answer to ", challenge].concat()))
    }
    fn finish(&mut self, last: Option<&[u8]>) -> Result<(), AuthError> {
        match self.0.proof {
            Some(proof) if last != Some(proof) => Err(AuthError::BadChallenge {
                mechanism: self.0.name,
                why: "the server did not prove itself",
            }),
            _ => Ok(()),
        }
    }
}

fn toy(toy: Toy) -> HttpClient {
    client().with_mechanism(Arc::new(toy))
}

fn process() -> Option<Login> {
    Some(Login { scheme: Scheme::Negotiate, credentials: Credentials::process_identity() })
}

fn challenge(token: &str) -> Answer {
    Answer::new(401).header("WWW-Authenticate", format!("Negotiate {}", BASE64_STANDARD.encode(token)))
}

#[tokio::test]
async fn a_ticket_is_enough_and_goes_with_the_whole_request() {
    let server = HttpServer::start(|seen| Answer::new(200).body("text/plain", &seen.body)).await;
    let answer =
        toy(Toy::NEGOTIATE).send(post(&local(&server), "whole").with_login(process())).await.unwrap();
    assert_eq!(answer.body.collect().await.unwrap(), "whole");
    let seen = server.seen();
    assert_eq!(
        (seen.len(), token(&seen[0], "Negotiate")),
        (1, Some(BASE64_STANDARD.encode("ticket").as_str()))
    );
}

#[tokio::test]
async fn the_server_proves_itself_or_the_connection_goes() {
    let proving = Toy { proof: Some(b"server"), ..Toy::NEGOTIATE };
    for (last, right) in [(Some("server"), true), (Some("somebody"), false), (None, false)] {
        let server = HttpServer::start(move |_| match last {
            Some(last) => Answer::new(200)
                .header("WWW-Authenticate", format!("Negotiate {}", BASE64_STANDARD.encode(last))),
            None => Answer::new(200),
        })
        .await;
        let result = toy(proving.clone()).send(get(&local(&server)).with_login(process())).await;
        match result {
            Ok(answer) => assert!(right && answer.status == 200),
            Err(error) => {
                assert!(!right && error.kind() == K::Authentication && error.was_sent(), "{error:?}");
                while server.open() > 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn exchanges_that_go_wrong() {
    let ntlm = Toy { hello: b"..NTLMSSP\0..", wants: ProofKind::Password, ..Toy::NEGOTIATE };
    let closing = || challenge("go on").then(Act::Close);
    for (answer, kind, sent, words) in [
        (challenge("bad"), K::Authentication, false, "it is bad"),
        (challenge("again and again"), K::Authentication, true, "does not come to an end"),
        (closing(), K::ConnectionLost, false, "in the middle of the Negotiate exchange"),
        (
            challenge("x").header("Connection", "close").then(Act::Close),
            K::ConnectionLost,
            false,
            "in the middle",
        ),
        (challenge("x").body("text/html", vec![b'x'; 300_000]), K::TooLarge, false, "leg of the exchange"),
        (Answer::acts(vec![Act::Close]), K::ConnectionLost, false, "lost"),
        (Answer::acts(vec![Act::Silence]), K::Timeout, false, "in time"),
        (
            Answer::new(401).header("WWW-Authenticate", "Basic realm=\"x\", Bearer"),
            K::Authentication,
            false,
            "it offers Basic, Bearer",
        ),
        (Answer::new(401), K::Authentication, false, "it offers nothing"),
    ] {
        let shown = format!("{answer:?}").chars().take(200).collect::<String>();
        let server = HttpServer::start(move |_| answer.clone()).await;
        let login = login(Scheme::Negotiate, "ann", "Secret123");
        let error =
            toy(ntlm.clone()).send(post(&local(&server), "body").with_login(login)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{shown}: {error:?}");
        assert!(error.to_string().contains(words), "{shown}: {error}");
        // the first leg had no body: only where a second one went out the server may have acted
        assert_eq!(
            error.was_sent() && kind != K::Authentication,
            sent && kind != K::Authentication,
            "{shown}: {error:?}"
        );
        while server.open() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn what_needs_no_login_gets_the_request_itself() {
    let server = HttpServer::start(|seen| Answer::new(200).body("text/plain", &seen.body)).await;
    let request = post(&local(&server), "whole").with_login(login(Scheme::Ntlm, "ann", "x"));
    assert_eq!(client().send(request).await.unwrap().body.collect().await.unwrap(), "whole");
    let lengths: Vec<_> = server.seen().iter().map(|seen| seen.body.len()).collect();
    assert_eq!(lengths, [0, 5]);
}

#[tokio::test]
async fn credentials_that_no_mechanism_takes() {
    for (scheme, credentials) in [
        (Scheme::Negotiate, Credentials::process_identity()),
        (Scheme::Ntlm, Credentials::process_identity()),
        (Scheme::Windows, Credentials::bearer("ann", Secret::from("t"))),
    ] {
        let server = HttpServer::start(|_| Answer::new(200)).await;
        let request = get(&local(&server)).with_login(Some(Login { scheme, credentials }));
        let error = client().send(request).await.unwrap_err();
        assert_eq!((error.kind(), error.was_sent(), server.seen().len()), (K::Settings, false, 0), "{error}");
    }
}

#[tokio::test]
async fn a_connection_serves_one_login_and_one_password() {
    let server = HttpServer::start({
        let who: Mutex<HashMap<usize, String>> = Mutex::default();
        // believes every message of NTLM, and tells by connection who has proven it
        move |seen| match token(seen, "NTLM") {
            Some(message) => {
                let text = BASE64_STANDARD.decode(message).unwrap();
                if text[8] == 1 {
                    let challenge = NtlmServer::new("x", "x", "x").challenge();
                    return Answer::new(401)
                        .header("WWW-Authenticate", format!("NTLM {}", BASE64_STANDARD.encode(challenge)));
                }
                let utf16: String = text.chunks(2).map(|pair| char::from(pair[0])).collect();
                let name = ["ann", "bob"].into_iter().find(|name| utf16.contains(name)).unwrap();
                who.lock().unwrap().insert(seen.connection, name.to_owned());
                Answer::new(200).body("text/plain", name)
            }
            None => Answer::new(200).body("text/plain", &who.lock().unwrap()[&seen.connection]),
        }
    })
    .await;
    let client = Arc::new(client());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..100 {
        let (client, url) = (Arc::clone(&client), local(&server));
        tasks.spawn(async move {
            let name = ["ann", "bob"][n % 2];
            let answer = client.send(get(&url).with_login(login(Scheme::Ntlm, name, "one"))).await.unwrap();
            assert_eq!(answer.body.collect().await.unwrap(), name);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let before = server.connections();
    assert!(before <= 16, "8 connections of a login at most, not {before}");
    let answer =
        client.send(get(&local(&server)).with_login(login(Scheme::Ntlm, "ann", "two"))).await.unwrap();
    assert_eq!(answer.body.collect().await.unwrap(), "ann");
    assert_eq!(server.connections(), before + 1, "another password begins anew");
}

#[tokio::test]
async fn a_login_that_the_server_has_forgotten_is_proven_anew() {
    let server = HttpServer::start({
        let door = Door::new(NtlmServer::new("ann", "CONTOSO", "Secret123"));
        move |seen| {
            let mut door = door.lock().unwrap();
            if seen.nth == 4 {
                door.stage.remove(&seen.connection);
            }
            door.answer(seen)
        }
    })
    .await;
    let client = client();
    for _ in 0..10 {
        let request =
            post(&local(&server), "body").with_login(login(Scheme::Ntlm, "CONTOSO\\ann", "Secret123"));
        let answer = client.send(request).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.body.collect().await.unwrap().as_ref()),
            (200, &b"4 bytes"[..])
        );
    }
    assert!(server.connections() > 2);
}

#[tokio::test]
async fn a_cancelled_exchange_leaves_no_connection() {
    let server = HttpServer::start(|seen| match token(seen, "NTLM") {
        Some(_) if seen.connection < 3 => Answer::acts(vec![Act::Silence]),
        _ => Answer::new(200).body("text/plain", "ok"),
    })
    .await;
    let client = Arc::new(client());
    let request = || get(&local(&server)).with_login(login(Scheme::Ntlm, "ann", "x"));
    for n in 1..=3 {
        let task = tokio::spawn({
            let (client, request) = (Arc::clone(&client), request());
            async move { client.send(request).await }
        });
        while server.seen().len() < n {
            tokio::task::yield_now().await;
        }
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        while server.open() > 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(client.send(request()).await.unwrap().body.collect().await.unwrap(), "ok");
    assert_eq!(server.connections(), 4);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_and_the_busy_ones_are_counted() {
    let server = HttpServer::start(|seen| match seen.path() {
        "/busy" => Answer::acts(vec![Act::Silence]),
        _ => Answer::new(200).body("text/plain", "ok"),
    })
    .await;
    let mut settings = settings();
    settings.idle_timeout = Duration::from_secs(30);
    settings.max_connections_per_login = 1;
    let client = Arc::new(HttpClient::new(settings).unwrap());
    let request =
        |path: &str| get(&format!("{}{path}", local(&server))).with_login(login(Scheme::Ntlm, "ann", "x"));
    client.send(request("/")).await.unwrap().body.collect().await.unwrap();
    assert_eq!(server.open(), 1);
    tokio::time::sleep(Duration::from_secs(61)).await;
    while server.open() > 0 {
        tokio::task::yield_now().await;
    }
    let busy = tokio::spawn({
        let (client, request) = (Arc::clone(&client), request("/busy"));
        async move { client.send(request).await.map(drop) }
    });
    while server.seen().last().unwrap().path() != "/busy" {
        tokio::task::yield_now().await;
    }
    let mut impatient = request("/");
    impatient.patience = Some(Duration::from_secs(10));
    let error = client.send(impatient).await.unwrap_err();
    assert!(error.kind() == K::Timeout && !error.was_sent(), "{error:?}");
    assert!(error.to_string().contains("busy"), "{error}");
    // an answer that may last for half an hour counts for nobody
    let mut lasting = request("/");
    lasting.streaming = true;
    client.send(lasting).await.unwrap();
    busy.abort();
    let _ = busy.await;
    client.send(request("/")).await.unwrap();
}
