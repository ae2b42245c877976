//! What the tests of this crate share.
#![allow(dead_code, clippy::unwrap_used, clippy::field_reassign_with_default)] // each test uses a part

use std::io::Write;
use std::sync::{Arc, Mutex};

use email_router_http::{HttpSettings, Proxy};
use tracing_subscriber::fmt::MakeWriter;

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

/// What reaches the servers of the tests, whatever proxy this machine has.
pub fn settings() -> HttpSettings {
    let mut settings = HttpSettings::default();
    settings.proxy = Proxy::None;
    settings
}
