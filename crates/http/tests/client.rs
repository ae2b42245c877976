//! Requests that bring their own proof, or none: connections, faults, deadlines, caps, TLS.
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test

mod support;

use std::time::Duration;

use email_router_auth::Credentials;
use email_router_http::{
    Error, ErrorKind as K, HeaderName, HeaderValue, HttpClient, HttpService as _, Login, Method, Request,
    Scheme, header,
};
use email_router_model::{Classified as _, Retry, Scope, TlsFault};
use email_router_testkit::http::{Act, Answer, HttpServer};
use email_router_testkit::script::{ScriptedServer, Step};
use email_router_testkit::tls::{ServerCert, TestCa};
use support::{basic, client, get, local, nobody, settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn post(url: &str, body: impl Into<Vec<u8>>) -> Request {
    Request::new(Method::POST, url.parse().unwrap()).with_body("text/xml", body.into())
}

#[tokio::test]
async fn what_is_asked_arrives_and_what_is_answered_comes_back() {
    let server = HttpServer::start(|seen| match seen.path() {
        "/empty" => Answer::new(204),
        "/chunks" => Answer::new(200).body("text/plain", "x".repeat(2500)).chunked(),
        "/missing" => Answer::new(404).body("text/plain", "nothing here"),
        "/moved" => Answer::new(302).header("Location", "/chunks"),
        _ => Answer::new(200).body("text/plain", &seen.body),
    })
    .await;
    let client = client();
    let base = local(&server);
    let smuggled = post(&format!("{base}/echo?q=1#fragment"), "hello")
        .with_header(header::HOST, HeaderValue::from_static("evil.test"))
        .with_header(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))
        .with_header(header::CONTENT_LENGTH, HeaderValue::from_static("3"))
        .with_header(header::AUTHORIZATION, HeaderValue::from_static("Basic Zm9vOmJhcg=="))
        .with_header(
            HeaderName::from_static("x-anchormailbox"),
            HeaderValue::from_static("ann@contoso.test"),
        );
    for (request, status, body) in [
        (smuggled, 200, "hello".to_owned()),
        (post(&format!("{base}/echo"), ""), 200, String::new()),
        (get(&format!("{base}/empty")), 204, String::new()),
        (get(&format!("{base}/chunks")), 200, "x".repeat(2500)),
        (get(&format!("{base}/missing")), 404, "nothing here".to_owned()),
        (get(&format!("{base}/moved")), 302, String::new()),
        (Request::new(Method::HEAD, format!("{base}/echo").parse().unwrap()), 200, String::new()),
        (post(&format!("{base}/echo"), vec![b'y'; 3_000_000]), 200, "y".repeat(3_000_000)),
    ] {
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(answer.body.collect().await.unwrap(), body.as_bytes());
    }
    let seen = server.seen();
    let first = &seen[0];
    assert_eq!((first.method.as_str(), first.target.as_str()), ("POST", "/echo?q=1"));
    assert_eq!(first.header("host").unwrap(), base.trim_start_matches("http://"));
    assert_eq!(first.header("content-length"), Some("5"));
    assert_eq!(first.header("x-anchormailbox"), Some("ann@contoso.test"));
    assert!(first.header("user-agent").unwrap().starts_with("email-router/"));
    assert!(first.header("authorization").is_none() && first.header("transfer-encoding").is_none());
    assert_eq!(seen[1].header("content-length"), Some("0"));
    assert_eq!(server.connections(), 1, "connections are used again");
}

#[tokio::test]
async fn passwords_and_tokens_go_with_each_request_and_never_in_clear() {
    let server = HttpServer::start(|_| Answer::new(200)).await;
    let bearer = Login { scheme: Scheme::Bearer, credentials: Credentials::bearer("ann", "t0k.en".into()) };
    for login in [basic(), Some(bearer.clone())] {
        let error = client().send(get(&local(&server)).with_login(login)).await.unwrap_err();
        assert!(error.kind() == K::Settings && !error.was_sent(), "{error:?}");
    }
    let mut settings = settings();
    settings.allow_cleartext_password = true;
    let client = HttpClient::new(settings).unwrap();
    for (login, expected) in [(basic(), "Basic YW5uOkdlaGVpbTwxPg=="), (Some(bearer), "Bearer t0k.en")] {
        client.send(get(&local(&server)).with_login(login)).await.unwrap();
        assert_eq!(server.seen().pop().unwrap().header("authorization"), Some(expected));
    }
    for (user, password, scheme) in
        [("a:b", Some("x"), Scheme::Basic), ("ann", Some("x"), Scheme::Bearer), ("ann", None, Scheme::Basic)]
    {
        let credentials = match password {
            Some(password) => Credentials::new(user, password.into()),
            None => Credentials::bearer(user, "t".into()),
        };
        let login = Some(Login { scheme, credentials });
        let error = client.send(get(&local(&server)).with_login(login)).await.unwrap_err();
        assert_eq!(error.kind(), K::Settings, "{error}");
    }
}

#[tokio::test]
async fn a_body_that_is_dropped_leaves_nothing_behind() {
    let server =
        HttpServer::start(|seen| Answer::new(200).body("text/plain", seen.target.repeat(100_000))).await;
    let client = client();
    for n in 0..5 {
        let answer = client.send(get(&format!("{}/{n}", local(&server)))).await.unwrap();
        let mut body = answer.body;
        let piece = body.chunk().await.unwrap().unwrap();
        assert!(piece.starts_with(format!("/{n}/{n}").as_bytes()));
    }
    assert_eq!(server.connections(), 5);
}

#[tokio::test]
async fn a_connection_that_the_server_closed_meanwhile_is_no_error() {
    let server = HttpServer::start(|_| Answer::new(200).body("text/plain", "one").then(Act::Close)).await;
    let client = client();
    for _ in 0..10 {
        let answer = client.send(get(&local(&server))).await.unwrap();
        assert_eq!(answer.body.collect().await.unwrap(), "one");
        while server.open() > 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(server.seen().len(), 10, "nothing was sent twice");
}

#[tokio::test(start_paused = true)]
async fn faults_by_kind() {
    let head = || Act::Send(b"HTTP/1.1 200 OK\r\n".to_vec());
    let length = || Act::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n".to_vec());
    let drip = |bytes: &[u8]| Act::Drip(bytes.to_vec(), Duration::from_secs(9));
    for (answer, kind, words) in [
        (Answer::acts(vec![Act::Close]), K::ConnectionLost, "lost"),
        (Answer::acts(vec![Act::Silence]), K::Timeout, "in time"),
        (Answer::raw("SSH-2.0-OpenSSH_9.2\r\n"), K::Protocol, "does not speak HTTP"),
        (Answer::raw("220 mail.example.com ESMTP\r\n"), K::Protocol, "does not speak HTTP"),
        (Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), K::Protocol, "damaged"),
        (Answer::raw("HTTP/1.1 200 OK\r\nContent-Le"), K::ConnectionLost, "lost"),
        (
            Answer::acts(vec![
                head(),
                Act::Flood(b"X-Junk: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".to_vec(), 10_000_000),
            ]),
            K::TooLarge,
            "head",
        ),
        (Answer::acts(vec![head(), Act::Flood(vec![b'a'; 4096], 10_000_000)]), K::TooLarge, "head"),
        (Answer::acts(vec![head(), drip(b"X-Slow: 1\r\n")]), K::Timeout, "in time"),
        // and in the body
        (Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"), K::ConnectionLost, "lost"),
        (
            Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
            K::ConnectionLost,
            "lost",
        ),
        (
            Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello"),
            K::Protocol,
            "damaged",
        ),
        (Answer::acts(vec![length(), Act::Silence]), K::Timeout, "in time"),
        (Answer::acts(vec![length(), drip(b"x")]), K::Timeout, "in time"),
        (
            Answer::acts(vec![length(), Act::Flood(vec![b'x'; 65_536], 100_000_000)]),
            K::TooLarge,
            "more than 1000000 bytes",
        ),
    ] {
        let shown = format!("{answer:?}").chars().take(200).collect::<String>();
        let server = HttpServer::start(move |_| answer.clone()).await;
        let mut request = post(&format!("{}/secret-path?secret=query", local(&server)), "hello");
        request.patience = Some(Duration::from_secs(20));
        request.max_body_bytes = 1_000_000;
        let client = client();
        let result = async { client.send(request).await?.body.collect().await }.await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), kind, "{shown}: {error:?}");
        assert!(error.was_sent(), "{shown}: {error:?}");
        assert!(
            error.to_string().contains(words) && error.to_string().contains(&local(&server)),
            "{shown}: {error}"
        );
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}

#[tokio::test]
async fn no_memory_on_the_word_of_a_server() {
    let begin = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\nshort", u64::MAX / 2);
    let server = HttpServer::start(move |_| Answer::raw(&begin)).await;
    let mut request = get(&local(&server));
    request.max_body_bytes = u64::MAX;
    let answer = client().send(request).await.unwrap();
    assert_eq!(answer.body.collect().await.unwrap_err().kind(), K::ConnectionLost);
}

#[tokio::test(start_paused = true)]
async fn notifications_may_come_slowly_where_that_is_wanted() {
    let server = HttpServer::start(|_| {
        let begin = b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n".to_vec();
        Answer::acts(vec![Act::Send(begin), Act::Drip(vec![b'.'], Duration::from_secs(15))])
    })
    .await;
    let mut request = get(&local(&server));
    request.patience = Some(Duration::from_secs(20));
    request.streaming = true;
    let answer = client().send(request).await.unwrap();
    assert_eq!(answer.body.collect().await.unwrap().len(), 60);
}

/// A server that reads so much of a request, in pieces with a pause after each, and then answers.
async fn slow_reader(pieces: usize, pause: Duration) -> std::net::SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..pieces {
            let mut piece = vec![0; 1_000_000];
            if stream.read_exact(&mut piece).await.is_err() {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        std::future::pending::<()>().await;
    });
    address
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_goes_on_while_it_makes_progress() {
    // what the kernel holds is read within the patience, all of it together is not
    for (pieces, expected) in [(40, Ok("ok")), (3, Err((K::Timeout, true)))] {
        // the second one stops reading, and its answer comes after a long time
        let pause = Duration::from_secs(if pieces == 40 { 1 } else { 3000 });
        let address = slow_reader(pieces, pause).await;
        let mut request = post(&format!("http://{address}/"), vec![b'x'; 40_000_000]);
        request.patience = Some(Duration::from_secs(20));
        let client = client();
        let result = async { client.send(request).await?.body.collect().await }.await;
        match (result, expected) {
            (Ok(body), Ok(text)) => assert_eq!(body, text),
            (Err(error), Err(expected)) => assert_eq!((error.kind(), error.was_sent()), expected),
            (result, _) => panic!("{pieces}: {result:?}"),
        }
    }
}

#[tokio::test]
async fn what_never_left_is_not_in_doubt() {
    let told = |error: Error| (error.kind(), error.was_sent());
    let error = client().send(get(&nobody())).await.unwrap_err();
    assert_eq!(told(error), (K::Refused, false));
    let error = client().send(get("https://no-such-host.invalid/")).await.unwrap_err();
    assert_eq!(told(error), (K::NameResolution, false));
    for url in ["ftp://localhost/", "http://ann:s3cr3t@localhost/"] {
        let error = client().send(get(url)).await.unwrap_err();
        assert!(!format!("{error:?}").contains("s3cr3t"));
        assert_eq!(told(error), (K::Settings, false), "{url}");
    }
}

#[test]
fn settings_that_cannot_be_used() {
    let mut with = settings();
    with.extra_ca_files = vec!["/no/such/file.pem".into()];
    let error = HttpClient::new(with).unwrap_err();
    assert!(error.kind() == K::Settings && error.to_string().contains("/no/such/file.pem"), "{error}");
    assert!(error.hint().is_some() && error.retry() == Retry::Never);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_in_the_handshake() {
    let server = HttpServer::start(|_| Answer::acts(vec![Act::Silence])).await;
    let error = client().send(get(&format!("https://127.0.0.1:{}/", server.port()))).await.unwrap_err();
    // what the server takes for a request never ends
    assert_eq!((error.kind(), error.was_sent()), (K::Timeout, false), "{error:?}");
    assert_eq!(error.scope(), Scope::Server, "a server that is dead for one mailbox is dead for all");
}

#[tokio::test]
async fn certificates() {
    let ca = TestCa::new();
    let file = support::ca_file(&ca);
    for (kind, expected) in [
        (ServerCert::Good, None),
        (ServerCert::WrongName, Some(TlsFault::WrongName)),
        (ServerCert::Expired, Some(TlsFault::Expired)),
        (ServerCert::NotYetValid, Some(TlsFault::Expired)),
        (ServerCert::SelfSigned, Some(TlsFault::UnknownIssuer)),
        (ServerCert::SelfSignedCa, Some(TlsFault::UnknownIssuer)),
    ] {
        let server =
            HttpServer::start_tls(ca.acceptor(kind), |_| Answer::new(200).body("text/plain", "in")).await;
        let mut settings = settings();
        settings.extra_ca_files = vec![file.path().to_owned()];
        let client = HttpClient::new(settings).unwrap();
        let result = client.send(get(&format!("{}/", server.base())).with_login(basic())).await;
        match (result, expected) {
            (Ok(answer), None) => assert_eq!(answer.body.collect().await.unwrap(), "in"),
            (Err(error), Some(fault)) => {
                assert_eq!((error.kind(), error.was_sent()), (K::Tls(fault), false), "{kind:?}: {error}");
                assert!(error.hint().is_some());
                assert!(server.seen().is_empty(), "{kind:?}: the password went out");
            }
            (result, _) => panic!("{kind:?}: {result:?}"),
        }
    }
    let clear = ScriptedServer::start(vec![vec![Step::line("220 mail.example.com ESMTP")]]).await;
    let error = client().send(get(&format!("https://localhost:{}/", clear.port()))).await.unwrap_err();
    assert!(matches!(error.kind(), K::Tls(TlsFault::Other)), "{error:?}");
}

#[test]
fn a_page_that_quotes_the_request() {
    let password = "a&b<\"c\\d'é ü+";
    let login = Login { scheme: Scheme::Basic, credentials: Credentials::new("ann", password.into()) };
    let redactor = login.redactor();
    for page in [
        format!("wrong password: {password}."),
        "<p>a&amp;b&lt;&quot;c\\d&#39;é ü+</p>".to_owned(),
        "<p>a&amp;b&lt;&quot;c\\d&apos;é ü+</p>".to_owned(),
        r#"{"password":"a&b<\"c\\d'é ü+"}"#.to_owned(),
        r#"{"password":"a\u0026b\u003C\u0022c\\d\u0027\u00E9 \u00fc\u002B"}"#.to_owned(),
        "password=a%26b%3C%22c%5Cd%27%C3%A9+%C3%BC%2B&x".to_owned(),
        "/login?password=a%26b%3c%22c%5cd%27%c3%a9%20%c3%bc%2b&x".to_owned(),
        "Authorization: Basic YW5uOmEmYjwiY1xkJ8OpIMO8Kw==".to_owned(),
    ] {
        let clean = redactor.clean(&page);
        assert!(clean.contains("***"), "{page}: {clean}");
        assert!(!["c\\d", "b%3", "u003", "YW5u"].iter().any(|part| clean.contains(part)), "{page}: {clean}");
    }
}

#[test]
fn a_request_shows_no_secret() {
    let request = post("https://ann.test/x?token=s3cr3t", "client_secret=s3cr3t")
        .with_header(header::COOKIE, HeaderValue::from_static("s3cr3t"))
        .with_login(Some(Login {
            scheme: Scheme::Basic,
            credentials: Credentials::new("ann", "s3cr3t".into()),
        }));
    let shown = format!("{request:?}");
    assert!(
        !shown.contains("s3cr3t") && shown.contains("https://ann.test/x") && shown.contains("cookie"),
        "{shown}"
    );
}
