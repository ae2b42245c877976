//! What the tests of this crate share.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::field_reassign_with_default
)] // each test uses a part

pub mod bench;

use std::io::Write;
use std::sync::{Arc, Mutex};

use email_router_auth::Credentials;
use email_router_http::{HttpClient, HttpSettings, Login, Method, Proxy, Request, Scheme};
use email_router_testkit::http::HttpServer;
use email_router_testkit::tls::TestCa;
use tracing_subscriber::fmt::MakeWriter;

/// What reaches the servers of the tests, whatever proxy this machine has.
pub fn settings() -> HttpSettings {
    let mut settings = HttpSettings::default();
    settings.proxy = Proxy::None;
    settings
}

pub fn client() -> HttpClient {
    HttpClient::new(settings()).unwrap()
}

pub fn basic() -> Option<Login> {
    Some(Login { scheme: Scheme::Basic, credentials: Credentials::new("ann", "Geheim<1>".into()) })
}

pub fn get(url: &str) -> Request {
    Request::new(Method::GET, url.parse().unwrap())
}

/// The server's address, not its name: resolving a name takes a thread, for which a paused clock waits.
pub fn local(server: &HttpServer) -> String {
    format!("http://127.0.0.1:{}", server.port())
}

/// An address that nobody listens at.
pub fn nobody() -> String {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// The authority's certificate in a file.
pub fn ca_file(ca: &TestCa) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(ca.pem().as_bytes()).unwrap();
    file
}

/// What is logged by this thread while it lives, at every level.
pub struct Log {
    bytes: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

#[derive(Clone)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    pub fn start() -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(Sink(Arc::clone(&bytes)))
            .finish();
        Self { bytes, _guard: tracing::subscriber::set_default(subscriber) }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// The lines of this crate.
    pub fn lines(&self) -> Vec<String> {
        self.text().lines().filter(|line| line.contains("email_router_http")).map(str::to_owned).collect()
    }
}

/// The values of these variables of the environment; `None`, with a word about it, where one is missing and peers are not required.
pub fn peer(names: &[&str]) -> Option<Vec<String>> {
    let values: Option<Vec<String>> = names.iter().map(|name| std::env::var(name).ok()).collect();
    if values.is_none() {
        let required = std::env::var("REQUIRE_PEERS").as_deref() == Ok("1");
        assert!(!required, "REQUIRE_PEERS=1, but {names:?} are not all set");
        println!("SKIPPED: {names:?} are not all set; scripts/with-peers sets them");
    }
    values
}
