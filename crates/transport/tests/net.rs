//! TCP and TLS: each fault by kind, with words and a hint that say what to do.
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test
#![cfg(feature = "net")]

use std::path::PathBuf;
use std::time::Duration;

use email_router_model::{Classified as _, Scope};
use email_router_testkit::script::{ScriptedServer, Step};
use email_router_testkit::tls::{ServerCert, TestCa};
use email_router_transport::net::{Endpoint, TlsConnector, TlsMode, Wire, connect};
use email_router_transport::{ErrorKind, Result, TlsFault};

struct Trust {
    _folder: tempfile::TempDir,
    files: Vec<PathBuf>,
}

fn trust(pem: &str) -> Trust {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, pem).unwrap();
    Trust { _folder: folder, files: vec![file] }
}

fn endpoint(port: u16, tls: TlsMode) -> Endpoint {
    Endpoint { connect_timeout: Duration::from_secs(20), ..Endpoint::new("localhost", port, tls) }
}

async fn open(endpoint: &Endpoint, trusted: &[PathBuf]) -> Result<Wire> {
    connect(endpoint, &TlsConnector::new(trusted)?, "test").await
}

/// Every kind of bad certificate, with the words for it.
#[tokio::test]
async fn certificates() {
    let ca = TestCa::new();
    let trusted = trust(&ca.pem());
    for (kind, fault, words, hint) in [
        (
            ServerCert::WrongName,
            TlsFault::WrongName,
            "for another name than \"localhost\" (it is for other.example.net)",
            "server name",
        ),
        (ServerCert::Expired, TlsFault::Expired, "has expired", "renew"),
        (ServerCert::NotYetValid, TlsFault::Expired, "not valid yet", "clock"),
        (ServerCert::SelfSigned, TlsFault::UnknownIssuer, "self-signed", "ExtraCaFiles"),
        (ServerCert::SelfSignedCa, TlsFault::UnknownIssuer, "self-signed", "ExtraCaFiles"),
    ] {
        let server = ScriptedServer::start(vec![vec![Step::StartTls(ca.acceptor(kind))]]).await;
        let endpoint = endpoint(server.port(), TlsMode::Implicit);
        let error =
            open(&endpoint, &trusted.files).await.err().unwrap_or_else(|| panic!("{kind:?} was accepted"));
        assert_eq!(error.kind(), ErrorKind::Tls(fault), "{kind:?}: {error}");
        assert_eq!(error.scope(), Scope::Server);
        let text = error.to_string();
        assert!(text.contains(words), "{kind:?}: {text}");
        assert!(text.contains(&format!("test localhost:{}", server.port())), "{text}");
        assert!(error.hint().is_some_and(|h| h.contains(hint)), "{kind:?}: {:?}", error.hint());
    }
}

/// An authority that was set up anew under its old name: the name is trusted, the key is another.
#[tokio::test]
async fn an_authority_of_the_same_name() {
    let (old, new) = (TestCa::new(), TestCa::new());
    let trusted = trust(&old.pem());
    let server = ScriptedServer::start(vec![vec![Step::StartTls(new.acceptor(ServerCert::Good))]]).await;
    let error = open(&endpoint(server.port(), TlsMode::Implicit), &trusted.files).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls(TlsFault::UnknownIssuer), "{error}");
}

/// A good certificate of our own authority, and a self-signed one that is itself in the list of authorities.
#[tokio::test]
async fn trusted_certificates() {
    let ca = TestCa::new();
    let (self_signed, its_pem) = ca.server(ServerCert::SelfSigned);
    for (acceptor, pem) in [(ca.acceptor(ServerCert::Good), ca.pem()), (self_signed, its_pem)] {
        let trusted = trust(&pem);
        let server = ScriptedServer::start(vec![vec![Step::StartTls(acceptor), Step::line("hello")]]).await;
        let mut wire = open(&endpoint(server.port(), TlsMode::Implicit), &trusted.files).await.unwrap();
        assert!(wire.is_encrypted() && wire.tls_version() == Some("TLS 1.3"));
        assert_eq!(wire.read_line(100).await.unwrap(), b"hello");
    }
}

#[tokio::test]
async fn no_tls_on_this_port() {
    let server = ScriptedServer::start(vec![vec![Step::line("+OK ready"), Step::Silence]]).await;
    let error = open(&endpoint(server.port(), TlsMode::Implicit), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls(TlsFault::Other));
    assert!(error.to_string().contains("does not speak TLS on this port"), "{error}");
}

#[tokio::test]
async fn names_ports_and_silence() {
    let error = open(&Endpoint::new("does-not-exist.invalid", 110, TlsMode::None), &[]).await.unwrap_err();
    assert_eq!((error.kind(), error.scope()), (ErrorKind::NameResolution, Scope::Server), "{error}");

    // a port that was free a moment ago
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = open(&endpoint(port, TlsMode::None), &[]).await.unwrap_err();
    assert_eq!((error.kind(), error.scope()), (ErrorKind::Refused, Scope::Server), "{error}");

    // a server that accepts and never does the handshake
    let server = ScriptedServer::start(vec![vec![Step::Silence]]).await;
    let slow = Endpoint {
        connect_timeout: Duration::from_millis(200),
        ..endpoint(server.port(), TlsMode::Implicit)
    };
    let error = open(&slow, &[]).await.unwrap_err();
    assert_eq!((error.kind(), error.scope()), (ErrorKind::Timeout, Scope::Server), "{error}");
}

#[test]
fn files_of_authorities() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.pem");
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "no certificate here\n").unwrap();
    for (file, words) in [(missing, "cannot read"), (empty, "holds no certificate")] {
        let error = TlsConnector::new(std::slice::from_ref(&file)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Settings);
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    }
}

/// Bytes that come in clear behind the agreement to start TLS are an attack (CVE-2011-0411).
#[tokio::test]
async fn injection_before_the_handshake() {
    let ca = TestCa::new();
    let trusted = trust(&ca.pem());
    let script = vec![
        Step::send(b"go ahead\r\nforged answer\r\n"),
        Step::StartTls(ca.acceptor(ServerCert::Good)),
        Step::line("true answer"),
    ];
    let server = ScriptedServer::start(vec![script]).await;
    let mut wire = open(&endpoint(server.port(), TlsMode::StartTls), &trusted.files).await.unwrap();
    assert_eq!(wire.read_line(100).await.unwrap(), b"go ahead");
    let connector = TlsConnector::new(&trusted.files).unwrap();
    let error = wire.start_tls(&connector, "localhost").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls(TlsFault::Injection));
}

#[tokio::test]
async fn lines_are_capped_and_timed() {
    let scripts = vec![
        vec![Step::send(b"short\r\nlf only\n\r\nexactly10!\r\n"), Step::send(b"eleven chars\r\n")],
        vec![Step::Flood(vec![b'x'; 1000], usize::MAX)],
        vec![Step::Drip(b"x".to_vec(), Duration::from_millis(5))],
        vec![Step::send(b"half a line"), Step::Close],
    ];
    let server = ScriptedServer::start(scripts).await;
    let endpoint =
        Endpoint { operation_timeout: Duration::from_millis(300), ..endpoint(server.port(), TlsMode::None) };
    let mut wire = open(&endpoint, &[]).await.unwrap();
    for expected in ["short", "lf only", "", "exactly10!"] {
        assert_eq!(wire.read_line(10).await.unwrap(), expected.as_bytes());
    }
    assert_eq!(wire.read_line(10).await.unwrap_err().kind(), ErrorKind::Protocol);

    let mut wire = open(&endpoint, &[]).await.unwrap();
    assert_eq!(wire.read_line(5000).await.unwrap_err().kind(), ErrorKind::Protocol);
    assert!(wire.buffered().len() < 200_000);

    let mut wire = open(&endpoint, &[]).await.unwrap();
    let error = wire.read_line(1_000_000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "a byte now and then must not hold the session: {error}");

    let mut wire = open(&endpoint, &[]).await.unwrap();
    assert_eq!(wire.read_line(100).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
}
