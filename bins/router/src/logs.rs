//! Structured logs: LogLevel and LogFile of the configuration, over them `--log`.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use email_router::config::LogLevel;
use email_router::model::who_denies;
use tracing::Metadata;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::MakeWriterExt;

use crate::args::{Global, LogFormat};

/// What the published LogLevel means here, the levels being what an operator has to do: 0 nothing but what needs a person at once, and that not in
/// the file; 1 every error, also those that may pass; 2 each mailbox; 3 each message and protocol step.
pub(crate) fn filter(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Off => "error",
        LogLevel::Errors => "warn",
        LogLevel::Mailboxes => "warn,email_router=debug,email_router_engine=debug",
        LogLevel::Messages => {
            "info,email_router=trace,email_router_engine=trace,email_router_transport=trace,email_router_crm=debug,email_router_state=debug"
        }
    }
}

/// Lets LogLevel of a changed configuration count without a restart.
pub(crate) struct Control {
    /// `--log` was given: it goes over every configuration.
    fixed: bool,
    set: Box<dyn Fn(EnvFilter) + Send + Sync>,
    /// Whether the file is written as well.
    to_file: Arc<AtomicBool>,
}

impl Control {
    /// Follows the LogLevel of the configuration.
    pub(crate) fn follow(&self, level: LogLevel) {
        if let (false, Ok(filter)) = (self.fixed, complete(filter(level))) {
            (self.set)(filter);
            self.to_file.store(level != LogLevel::Off, Ordering::Relaxed);
        }
    }
}

/// Starts logging to the standard error, and to `file` as well.
pub(crate) fn start(global: &Global, level: LogLevel, file: Option<&Path>) -> io::Result<Control> {
    let text = global.log.as_deref().unwrap_or_else(|| filter(level));
    let filter = complete(text)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("--log {text}: {error}")))?;
    let to_file = Arc::new(AtomicBool::new(global.log.is_some() || level != LogLevel::Off));
    let set = match file {
        None => install(global.log_format, filter, io::stderr),
        Some(path) => {
            let mut options = OpenOptions::new();
            options.create(true).append(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let file = options.open(path).map_err(|e| {
                let whose = who_denies(path).map(|text| format!("; {text}")).unwrap_or_default();
                io::Error::new(e.kind(), format!("LogFile {}: {e}{whose}", path.display()))
            })?;
            let wanted = Arc::clone(&to_file);
            let file = Mutex::new(file).with_filter(move |_| wanted.load(Ordering::Relaxed));
            install(global.log_format, filter, io::stderr.and(file))
        }
    };
    Ok(Control { fixed: global.log.is_some(), set, to_file })
}

/// Makes every entry one line. Values come from outside (subjects, server replies, file names): a line break in one would look like an
/// entry of its own, and a control character could change what a terminal shows.
#[derive(Clone)]
struct OneLine<M>(M);

/// Writes one entry.
struct OneLineWriter<W>(W);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for OneLine<M> {
    type Writer = OneLineWriter<M::Writer>;
    fn make_writer(&'a self) -> Self::Writer {
        OneLineWriter(self.0.make_writer())
    }
    fn make_writer_for(&'a self, entry: &Metadata<'_>) -> Self::Writer {
        OneLineWriter(self.0.make_writer_for(entry))
    }
}

impl<W: io::Write> io::Write for OneLineWriter<W> {
    /// The subscriber writes an entry whole, with its line end and without colours.
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let (text, end) = match entry.strip_suffix(b"\n") {
            Some(text) => (text, &b"\n"[..]),
            None => (entry, &b""[..]),
        };
        // the first octet of U+0080 to U+00BF; the controls among them are sorted out below
        if !text.iter().any(|&b| (b.is_ascii_control() && b != b'\t') || b == 0xc2) {
            self.0.write_all(entry)?;
            return Ok(entry.len());
        }
        let mut line = String::with_capacity(text.len() + 16);
        for c in String::from_utf8_lossy(text).chars() {
            if c.is_control() && c != '\t' {
                line.extend(c.escape_default());
            } else {
                line.push(c);
            }
        }
        self.0.write_all(line.as_bytes())?;
        self.0.write_all(end)?;
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The filter, without what prints secrets at debug.
fn complete(filter: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("{filter},yaserde=warn,yaserde_derive=warn,lettre=warn"))
}

/// Installs the subscriber; gives what changes its filter.
fn install<W>(format: LogFormat, filter: EnvFilter, writer: W) -> Box<dyn Fn(EnvFilter) + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder =
        tracing_subscriber::fmt().with_writer(OneLine(writer)).with_ansi(false).with_env_filter(filter);
    // A second initialisation can only happen in a test; the first stays. Changing the filter fails only when there is no subscriber.
    match format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Box::new(move |filter| drop(handle.reload(filter)))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Box::new(move |filter| drop(handle.reload(filter)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_comes_from_outside_cannot_write_a_line_of_its_own() {
        let sink = Sink::default();
        let copy = sink.clone();
        let subscriber =
            tracing_subscriber::fmt().with_writer(OneLine(move || copy.clone())).with_ansi(false).finish();
        let hostile = "hello\r\n2026-01-01 ERROR forged\u{1b}[2J\0\u{85}end";
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(subject = hostile, "as a value");
            tracing::warn!(reply = %hostile, "as displayed text");
            tracing::warn!("within the message: {hostile}");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 3, "{text:?}");
        assert!(!text.contains(['\r', '\0', '\u{1b}', '\u{85}']), "{text:?}");
        assert_eq!(text.matches("forged").count(), 3);
    }
}
