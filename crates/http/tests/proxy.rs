//! Requests through proxies, and proxies that refuse.
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test

mod support;

use std::time::Duration;

use email_router_auth::Credentials;
use email_router_http::{ErrorKind as K, HttpClient, HttpService as _, HttpSettings, Login, Proxy, Scheme};
use email_router_model::TlsFault;
use email_router_testkit::http::{Act, Answer, HttpServer};
use email_router_testkit::tls::{ServerCert, TestCa};
use support::{get, local, nobody, settings};

fn through(proxy: &str) -> HttpSettings {
    let mut settings = settings();
    settings.proxy = Proxy::Url(proxy.parse().unwrap());
    settings
}

#[tokio::test]
async fn a_tunnel_for_https_and_the_whole_url_for_http() {
    let ca = TestCa::new();
    let file = support::ca_file(&ca);
    let secure =
        HttpServer::start_tls(ca.acceptor(ServerCert::Good), |_| Answer::new(200).body("text/plain", "in"))
            .await;
    let port = secure.port();
    let proxy = HttpServer::start(move |seen| {
        if seen.header("proxy-authorization") != Some("Basic YW5uOnMzY3IzdA==") {
            return Answer::new(407).header("Proxy-Authenticate", "Basic realm=\"proxy\"");
        }
        match seen.method.as_str() {
            "CONNECT" => Answer::new(200).then(Act::Tunnel(port)),
            _ => Answer::new(200).body("text/plain", format!("for {}", seen.target)),
        }
    })
    .await;
    let mut with = through(&format!("http://ann:s3cr3t@127.0.0.1:{}", proxy.port()));
    with.extra_ca_files = vec![file.path().to_owned()];
    let client = HttpClient::new(with).unwrap();
    for _ in 0..3 {
        let answer = client.send(get(&format!("{}/a", secure.base()))).await.unwrap();
        assert_eq!(answer.body.collect().await.unwrap(), "in");
    }
    assert_eq!(proxy.seen()[0].target, format!("localhost:{port}"));
    assert_eq!(proxy.connections(), 1, "the tunnel is kept");
    assert!(secure.seen().iter().all(|s| s.header("proxy-authorization").is_none()));
    let answer = client.send(get("http://mail.example.com/x?y=1")).await.unwrap();
    assert_eq!(answer.body.collect().await.unwrap(), "for http://mail.example.com/x?y=1");
    assert!(!format!("{client:?}").contains("s3cr3t"));
    // without, and with a wrong password
    for (login, words) in [("", "wants a name"), ("ann:wr0ng@", "refuses the name")] {
        let with = through(&format!("http://{login}127.0.0.1:{}", proxy.port()));
        let client = HttpClient::new(with).unwrap();
        for url in [format!("{}/a", secure.base()), "http://mail.example.com/".to_owned()] {
            let error = client.send(get(&url)).await.unwrap_err();
            assert_eq!((error.kind(), error.was_sent()), (K::Proxy, false), "{error:?}");
            assert!(error.to_string().contains(words) && error.to_string().contains("407"), "{error}");
            assert!(!format!("{error:?}").contains("wr0ng"));
        }
    }
}

#[tokio::test]
async fn a_proxy_behind_tls() {
    let ca = TestCa::new();
    let file = support::ca_file(&ca);
    let secure = HttpServer::start_tls(ca.acceptor(ServerCert::Good), |_| Answer::new(200)).await;
    let port = secure.port();
    for (kind, expected) in [(ServerCert::Good, None), (ServerCert::WrongName, Some(TlsFault::WrongName))] {
        let proxy =
            HttpServer::start_tls(ca.acceptor(kind), move |_| Answer::new(200).then(Act::Tunnel(port))).await;
        let mut with = through(&proxy.base());
        with.extra_ca_files = vec![file.path().to_owned()];
        let result = HttpClient::new(with).unwrap().send(get(&format!("{}/", secure.base()))).await;
        match (result, expected) {
            (Ok(answer), None) => assert_eq!(answer.status, 200),
            (Err(error), Some(fault)) => {
                assert_eq!(error.kind(), K::Tls(fault));
                assert!(error.to_string().contains(&proxy.base()), "{error}");
            }
            (result, _) => panic!("{kind:?}: {result:?}"),
        }
    }
}

#[tokio::test]
async fn a_login_that_proves_a_connection_gets_a_tunnel_of_its_own() {
    let server = HttpServer::start(|_| Answer::new(200)).await;
    let port = server.port();
    let proxy = HttpServer::start(move |_| Answer::new(200).then(Act::Tunnel(port))).await;
    let client = HttpClient::new(through(&local(&proxy))).unwrap();
    let credentials = Credentials::new("ann", "Secret123".into());
    let login = Some(Login { scheme: Scheme::Ntlm, credentials });
    assert_eq!(client.send(get(&format!("{}/", server.base())).with_login(login)).await.unwrap().status, 200);
    assert_eq!(proxy.seen()[0].method, "CONNECT");
    assert!(server.seen()[0].header("authorization").unwrap().starts_with("NTLM "));
}

#[tokio::test(start_paused = true)]
async fn proxies_that_refuse() {
    for (answer, words) in [
        (Answer::new(403).body("text/html", "<html>blocked</html>"), "does not allow"),
        (Answer::new(502), "cannot reach"),
        (Answer::new(500), "status 500"),
        (Answer::acts(vec![Act::Close]), "no way to the proxy"),
        (Answer::raw("SSH-2.0\r\n"), "no way to the proxy"),
        (Answer::acts(vec![Act::Silence]), "no way to the proxy"),
        (
            Answer::acts(vec![
                Act::Send(b"HTTP/1.1 200 OK\r\n".to_vec()),
                Act::Drip(b"X-A: b\r\n".to_vec(), Duration::from_secs(5)),
            ]),
            "no way to the proxy",
        ),
    ] {
        let proxy = HttpServer::start(move |_| answer.clone()).await;
        let client = HttpClient::new(through(&local(&proxy))).unwrap();
        let error = client.send(get("https://mail.example.com/")).await.unwrap_err();
        assert_eq!((error.kind(), error.was_sent()), (K::Proxy, false), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let client = HttpClient::new(through(&nobody())).unwrap();
    for url in ["https://mail.example.com/", "http://mail.example.com/"] {
        let error = client.send(get(url)).await.unwrap_err();
        assert_eq!((error.kind(), error.was_sent()), (K::Proxy, false), "{error:?}");
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
