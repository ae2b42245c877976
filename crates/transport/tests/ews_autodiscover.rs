//! Autodiscover: the order of places, redirects and what is not followed.
#![cfg(feature = "ews")]
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test

mod ews_support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use email_router_http::{Error as HttpError, ErrorKind as HttpErrorKind, HttpService, Request, Response};
use email_router_model::{Classified as _, Retry};
use email_router_testkit::ews::{Discovery, EwsOptions, EwsServer, Mishap};
use email_router_transport::ews::{Autodiscover, EwsSettings, EwsTransport, Location, SrvLookup, SrvTarget};
use email_router_transport::{Access, ErrorKind, ReceiveOptions, Transport as _};
use ews_support::*;

/// The Internet as a test wants it: names that lead to servers on this machine, and all that was asked.
#[derive(Debug)]
struct Internet {
    http: Arc<dyn HttpService>,
    names: HashMap<String, u16>,
    asked: Mutex<Vec<(String, bool)>>,
}

impl Internet {
    fn of(names: &[(&str, &EwsServer)]) -> Arc<Self> {
        let names = names.iter().map(|(name, server)| ((*name).to_owned(), server.port())).collect();
        Arc::new(Self { http: http(), names, asked: Mutex::default() })
    }

    /// The URLs that were asked, with whether a login was sent.
    fn asked(&self) -> Vec<(String, bool)> {
        self.asked.lock().unwrap().clone()
    }

    fn urls(&self) -> Vec<String> {
        self.asked().into_iter().map(|(url, _)| url).collect()
    }
}

#[async_trait]
impl HttpService for Internet {
    async fn send(&self, mut request: Request) -> email_router_http::Result<Response> {
        let url = request.url.clone();
        self.asked.lock().unwrap().push((url.to_string(), request.login.is_some()));
        assert!(url.scheme() == "https" || request.login.is_none(), "a login in clear to {url}");
        let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
        let name = format!("{}://{}{port}", url.scheme(), url.host_str().unwrap());
        let Some(port) = self.names.get(&name) else {
            return Err(HttpError::new(HttpErrorKind::NameResolution, format!("{name} does not resolve")));
        };
        request.url.set_scheme("http").unwrap();
        request.url.set_host(Some("127.0.0.1")).unwrap();
        request.url.set_port(Some(*port)).unwrap();
        self.http.send(request).await
    }
}

/// No test asks the name servers of this machine.
fn offline() -> Autodiscover {
    Autodiscover { srv: None, ..Autodiscover::default() }
}

const EWS: &str = "https://mail.contoso.test/EWS/Exchange.asmx";

fn settings(server: &EwsServer, internet: &Arc<Internet>, options: Autodiscover) -> EwsSettings {
    let mut settings = own(server);
    settings.location = Location::Autodiscover(options);
    settings.http = Arc::clone(internet) as Arc<dyn HttpService>;
    settings
}

async fn exchange(options: EwsOptions) -> EwsServer {
    let server = server(options).await;
    let urls = Discovery::Urls(
        Some(EWS.to_owned()),
        Some("https://inside.contoso.test/EWS/Exchange.asmx".to_owned()),
    );
    server.discovery("alice@contoso.test", urls);
    server
}

fn transport_of(server: &EwsServer, internet: &Arc<Internet>, options: Autodiscover) -> EwsTransport {
    EwsTransport::new(settings(server, internet, options)).unwrap()
}

#[tokio::test]
async fn the_published_order() {
    for (names, asked) in [
        (vec!["https://contoso.test"], vec!["https://contoso.test/autodiscover/autodiscover.svc"]),
        (
            vec!["https://autodiscover.contoso.test"],
            vec![
                "https://contoso.test/autodiscover/autodiscover.svc",
                "https://autodiscover.contoso.test/autodiscover/autodiscover.svc",
            ],
        ),
    ] {
        let server = exchange(EwsOptions::default()).await;
        let names: Vec<_> = names.into_iter().map(|name| (name, &server)).collect();
        let internet = Internet::of(&names);
        let (steps, url) = transport_of(&server, &internet, offline()).discover(&mailbox("alice")).await;
        assert_eq!(url.unwrap().as_str(), EWS);
        assert_eq!(internet.urls(), asked);
        assert_eq!(steps.len(), asked.len(), "{steps:?}");
        assert!(steps.last().unwrap().what.contains(EWS));
    }
}

#[tokio::test]
async fn the_plain_form_and_the_internal_url() {
    let server = exchange(EwsOptions { plain_autodiscover_only: true, ..EwsOptions::default() }).await;
    let internet = Internet::of(&[("https://contoso.test", &server)]);
    for (prefer_internal, url) in [(false, EWS), (true, "https://inside.contoso.test/EWS/Exchange.asmx")] {
        let options = Autodiscover { prefer_internal, ..offline() };
        let (steps, found) = transport_of(&server, &internet, options).discover(&mailbox("alice")).await;
        assert_eq!(found.unwrap().as_str(), url);
        assert!(steps[0].what.contains("autodiscover.svc: HTTP 404"), "{steps:?}");
    }
}

#[tokio::test]
async fn what_was_found_is_remembered_until_it_fails() {
    let server = exchange(EwsOptions::default()).await;
    let internet = Internet::of(&[("https://contoso.test", &server), ("https://mail.contoso.test", &server)]);
    let transport = transport_of(&server, &internet, offline());
    let searches = || internet.urls().iter().filter(|url| url.contains("autodiscover")).count();
    for _ in 0..3 {
        transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap().close().await.unwrap();
    }
    assert_eq!(searches(), 1);
    server.plan("SyncFolderItems", Mishap::Cut);
    assert!(transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.is_err());
    transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap();
    assert_eq!(searches(), 2);
    // test access asks anew, and shows the way
    let probe = transport.probe(&mailbox("alice"), Access::Incoming).await.unwrap();
    assert_eq!(searches(), 3);
    assert!(probe.steps[0].what.contains("autodiscover.svc tells the URL"), "{:?}", probe.steps);
}

#[tokio::test]
async fn a_redirect_in_clear_leads_to_tls_only() {
    let server = exchange(EwsOptions::default()).await;
    let names = [("http://autodiscover.contoso.test", &server), ("https://other.contoso.test", &server)];
    let path = "/autodiscover/autodiscover.xml";
    for (target, works) in [
        ("https://other.contoso.test/autodiscover/autodiscover.xml", true),
        ("http://other.contoso.test/autodiscover/autodiscover.xml", false),
        ("https://evil.test/autodiscover/autodiscover.xml", false),
        ("https://contoso.test.evil.test/autodiscover/autodiscover.xml", false),
        ("https://evilcontoso.test/autodiscover/autodiscover.xml", false),
    ] {
        let internet = Internet::of(&names);
        server.plan(path, Mishap::Redirect(302, target.to_owned()));
        let (steps, url) = transport_of(&server, &internet, offline()).discover(&mailbox("alice")).await;
        assert_eq!(url.is_ok(), works, "{target}: {steps:?}");
        let clear = internet.asked().into_iter().find(|(url, _)| url.starts_with("http://")).unwrap();
        assert!(!clear.1, "a login was sent in clear");
        assert!(!internet.urls().iter().any(|url| url.contains("evil")));
        if !works {
            let error = url.unwrap_err();
            let refused = format!("{target} is not followed");
            assert!(error.steps().iter().any(|step| step.what == refused), "{:?}", error.steps());
            assert_eq!(error.steps(), steps);
        }
        server.mend();
    }
}

#[tokio::test]
async fn another_domain_only_when_it_is_trusted() {
    let server = exchange(EwsOptions::default()).await;
    let names = [("https://contoso.test", &server), ("https://autodiscover-s.cloud.test", &server)];
    let target = "https://autodiscover-s.cloud.test/autodiscover/autodiscover.svc";
    let trusted = |domain: &str| Autodiscover { trusted_domains: vec![domain.to_owned()], ..offline() };
    let confirmed = |answer: bool| Autodiscover {
        confirm: Some(Arc::new(move |url: &url::Url| {
            assert_eq!(url.host_str(), Some("autodiscover-s.cloud.test"));
            answer
        })),
        ..offline()
    };
    for (options, works) in [
        (offline(), false),
        (trusted("cloud.test"), true),
        (trusted("loud.test"), false),
        (confirmed(true), true),
        (confirmed(false), false),
    ] {
        let internet = Internet::of(&names);
        server.plan("GetUserSettings", Mishap::Redirect(307, target.to_owned()));
        server.plan("GetUserSettingsRequestMessage", Mishap::Redirect(307, target.to_owned()));
        server.plan("/autodiscover/autodiscover.xml", Mishap::Redirect(302, target.to_owned()));
        let (steps, url) = transport_of(&server, &internet, options).discover(&mailbox("alice")).await;
        assert_eq!(url.is_ok(), works, "{steps:?}");
        let went = internet.urls().iter().any(|url| url.contains("cloud.test"));
        assert_eq!(went, works, "a login went to another domain");
        server.mend();
    }
}

#[tokio::test]
async fn redirects_to_addresses_and_circles() {
    let server = exchange(EwsOptions::default()).await;
    let names = [("https://contoso.test", &server), ("https://tail.test", &server)];
    server.add_user("ann", PASSWORD, "ann@tail.test");
    server.discovery("ann@tail.test", Discovery::Urls(Some(EWS.to_owned()), None));
    server.discovery("bob@contoso.test", Discovery::Address("ann@tail.test".to_owned()));
    let trusting = || Autodiscover { trusted_domains: vec!["tail.test".to_owned()], ..offline() };
    for plain in [false, true] {
        let internet = Internet::of(&names);
        if plain {
            server.plan("/autodiscover/autodiscover.svc", Mishap::Page(404, "text/html", String::new()));
        }
        let (steps, url) = transport_of(&server, &internet, trusting()).discover(&mailbox("bob")).await;
        assert_eq!(url.unwrap().as_str(), EWS, "{steps:?}");
        let (_, url) = transport_of(&server, &internet, offline()).discover(&mailbox("bob")).await;
        assert!(url.is_err());
        server.mend();
    }
    // from bob to ann and back
    server.discovery("ann@tail.test", Discovery::Address("bob@contoso.test".to_owned()));
    let internet = Internet::of(&names);
    let (steps, url) = transport_of(&server, &internet, trusting()).discover(&mailbox("bob")).await;
    assert!(url.is_err());
    assert!(
        steps.iter().any(|s| s.warning.as_deref() == Some("the redirects go round in a circle")),
        "{steps:?}"
    );
    // a URL that sends to itself
    server.discovery(
        "bob@contoso.test",
        Discovery::Url("https://contoso.test/autodiscover/autodiscover.svc".to_owned()),
    );
    let internet = Internet::of(&names);
    let (_, url) = transport_of(&server, &internet, trusting()).discover(&mailbox("bob")).await;
    assert!(url.is_err());
    assert!(internet.asked().len() < 10, "{:?}", internet.urls());
}

#[tokio::test]
async fn a_wrong_password_is_not_tried_everywhere() {
    let server = exchange(EwsOptions::default()).await;
    let internet =
        Internet::of(&[("https://contoso.test", &server), ("https://autodiscover.contoso.test", &server)]);
    let transport = transport_of(&server, &internet, offline());
    let (steps, url) = transport.discover(&mailbox("mallory")).await;
    let error = url.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Authentication, Retry::Never));
    assert_eq!(internet.asked().iter().filter(|(_, login)| *login).count(), 2, "{steps:?}");
    let shown = format!("{error:?} {steps:?}");
    assert!(!shown.contains(PASSWORD), "{shown}");
}

#[derive(Debug)]
struct Records(Result<Vec<SrvTarget>, String>);

#[async_trait]
impl SrvLookup for Records {
    async fn lookup(&self, name: &str) -> Result<Vec<SrvTarget>, String> {
        assert_eq!(name, "_autodiscover._tcp.contoso.test");
        self.0.clone()
    }
}

#[tokio::test]
async fn service_records_come_last() {
    let server = exchange(EwsOptions::default()).await;
    let target = |priority, host: &str, port| SrvTarget { priority, weight: 0, port, host: host.to_owned() };
    let records = vec![
        target(20, "backup.contoso.test", 443),
        target(10, "exchange.contoso.test.", 8443),
        target(0, "evil.test", 443),
    ];
    for (records, works) in [(Ok(records), true), (Ok(vec![]), false), (Err("no answer".to_owned()), false)] {
        let internet = Internet::of(&[("https://exchange.contoso.test:8443", &server)]);
        let options = Autodiscover { srv: Some(Arc::new(Records(records))), ..offline() };
        let (steps, url) = transport_of(&server, &internet, options).discover(&mailbox("alice")).await;
        assert_eq!(url.is_ok(), works, "{steps:?}");
        assert!(!internet.urls().iter().any(|url| url.contains("evil")));
    }
    // what nobody can be asked for may come right by itself
    let internet = Internet::of(&[]);
    let (_, url) = transport_of(&server, &internet, offline()).discover(&mailbox("alice")).await;
    let error = url.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::NameResolution, Retry::Later(None)));
    assert!(error.hint().unwrap().contains("test access shows them"), "{:?}", error.hint());
    let last = &error.steps().last().unwrap().what;
    assert_eq!(last, "SRV _autodiscover._tcp.contoso.test: not looked up");
}

#[tokio::test]
async fn urls_of_the_settings_come_first() {
    let server = exchange(EwsOptions::default()).await;
    let internet = Internet::of(&[("https://here.example", &server)]);
    let first = vec!["https://here.example/autodiscover/autodiscover.svc".parse().unwrap()];
    let options = Autodiscover { first, ..offline() };
    let (_, url) = transport_of(&server, &internet, options).discover(&mailbox("alice")).await;
    assert_eq!(url.unwrap().as_str(), EWS);
    assert_eq!(internet.asked().len(), 1);
    // a URL in clear is not used
    server.discovery("alice@contoso.test", Discovery::Urls(Some(EWS.replace("https", "http")), None));
    let internet = Internet::of(&[("https://contoso.test", &server)]);
    let (steps, url) = transport_of(&server, &internet, offline()).discover(&mailbox("alice")).await;
    assert!(url.is_err(), "{steps:?}");
}
