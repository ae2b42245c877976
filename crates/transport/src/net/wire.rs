//! A connection with a read buffer, caps and deadlines.

use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use memchr::memchr;
use tokio::io::{AsyncRead as _, AsyncReadExt, AsyncWrite as _, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Stream, TlsConnector, fault};
use crate::{Error, ErrorKind, Result, TlsFault};

/// Size of the read buffer of a session, in bytes. It lives as long as the session.
pub const READ_BUFFER: usize = 64 * 1024;

/// A connection to one server, for line protocols.
///
/// # Deadlines
/// [`Wire::arm`] starts an operation: everything read and written from then on until the next `arm` has to be done within the
/// operation timeout, or fails with [`ErrorKind::Timeout`]. A server that sends a byte now and then cannot hold a session.
///
/// # Cancellation
/// Dropping a reading future loses nothing: what was read is in the buffer. After dropping a writing future, or after any error,
/// nobody knows where the conversation stands: drop the wire.
#[derive(Debug)]
pub struct Wire {
    stream: Option<Stream>,
    buffer: BytesMut,
    place: String,
    timeout: Duration,
    deadline: Instant,
    alarm: Alarm,
}

/// One timer for all operations of a connection.
///
/// A timer for each would have to be put up and taken down twice for each command, and one that rings earlier than all others wakes the
/// runtime besides. This one is moved only when it rings too early or would ring too late, which is once in a deadline.
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// What the work comes to, or `None` at the deadline.
    async fn within<T>(&mut self, deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(value) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if deadline < sleep.deadline() {
                sleep.as_mut().reset(deadline);
            }
            while sleep.as_mut().poll(cx).is_ready() {
                if sleep.deadline() >= deadline {
                    return Poll::Ready(None);
                }
                sleep.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await
    }
}

impl Wire {
    /// While a message is read, the deadline moves on with each so many bytes received.
    pub const PROGRESS: usize = 16 * 1024;

    /// A wire over an open stream; `place` names the server in errors.
    #[must_use]
    pub fn new(stream: Stream, place: String, timeout: Duration) -> Self {
        let deadline = Instant::now() + timeout;
        Self {
            stream: Some(stream),
            buffer: BytesMut::new(),
            place,
            timeout,
            deadline,
            alarm: Alarm::default(),
        }
    }

    /// The name of the server for messages: `pop3 mail.example.com:995`.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether TLS is established.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_encrypted)
    }

    /// `TLS 1.3` or `TLS 1.2`; `None` in clear.
    #[must_use]
    pub fn tls_version(&self) -> Option<&'static str> {
        self.stream.as_ref().and_then(Stream::tls_version)
    }

    /// The channel binding of the server's certificate; `None` in clear.
    #[must_use]
    pub fn server_end_point(&self) -> Option<Vec<u8>> {
        self.stream.as_ref().and_then(Stream::server_end_point)
    }

    /// Starts an operation that may take the operation timeout of the endpoint.
    pub fn arm(&mut self) {
        self.deadline = Instant::now() + self.timeout;
    }

    /// Starts an operation that may take so long.
    pub fn arm_for(&mut self, timeout: Duration) {
        self.deadline = Instant::now() + timeout;
    }

    /// Starts an operation that must be done at this time.
    pub fn arm_until(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// What was received and not yet consumed.
    #[must_use]
    pub fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes the first `count` buffered bytes away; more than there are takes all.
    pub fn consume(&mut self, count: usize) {
        self.buffer.advance(count.min(self.buffer.len()));
    }

    /// Waits until at least one more byte has arrived and appends what has, in large pieces; returns how many.
    ///
    /// The caller consumes what it can before: the buffer grows only while somebody asks for more without consuming.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] at the deadline, [`ErrorKind::ConnectionLost`] when the server closes.
    pub async fn read_more(&mut self) -> Result<usize> {
        let Some(stream) = self.stream.as_mut() else { return Err(fault::closed(&self.place)) };
        // reserve() moves what is left to the front when the buffer is half used up, else it allocates
        if self.buffer.is_empty() {
            self.buffer.reserve(READ_BUFFER);
        } else if self.buffer.capacity() - self.buffer.len() < READ_BUFFER / 4 {
            self.buffer.reserve(READ_BUFFER / 2);
        }
        match self.alarm.within(self.deadline, stream.read_buf(&mut self.buffer)).await {
            Some(Ok(0)) => Err(fault::closed(&self.place)),
            Some(Ok(count)) => Ok(count),
            Some(Err(cause)) => Err(fault::io(&self.place, "reading", cause)),
            None => Err(fault::timeout(&self.place, "waiting for an answer")),
        }
    }

    /// Reads one line and returns it without its line end; LF alone ends a line too, as many servers think.
    ///
    /// # Errors
    /// As [`Wire::read_more`]; [`ErrorKind::Protocol`] for a line longer than `cap` octets, of which no more than that was kept.
    pub async fn read_line(&mut self, cap: usize) -> Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            match memchr(b'\n', &self.buffer[searched..]) {
                Some(at) if searched + at <= cap + 1 => {
                    let mut line = self.buffer[..searched + at].to_vec();
                    self.buffer.advance(searched + at + 1);
                    if line.last() == Some(&b'\r') {
                        line.pop();
                    }
                    if line.len() <= cap {
                        return Ok(line);
                    }
                    return Err(fault::line_too_long(&self.place, cap));
                }
                Some(_) => return Err(fault::line_too_long(&self.place, cap)),
                None if self.buffer.len() > cap + 1 => return Err(fault::line_too_long(&self.place, cap)),
                None => searched = self.buffer.len(),
            }
            self.read_more().await?;
        }
    }

    /// Writes some of the bytes and returns how many; call [`Wire::flush`] after the last. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Wire::write_all`].
    pub async fn write_some(&mut self, bytes: &[u8]) -> Result<usize> {
        let Some(stream) = self.stream.as_mut() else { return Err(fault::closed(&self.place)) };
        match self.alarm.within(self.deadline, stream.write(bytes)).await {
            Some(Ok(0)) => Err(fault::closed(&self.place)),
            Some(Ok(count)) => Ok(count),
            Some(Err(cause)) => Err(fault::io(&self.place, "writing", cause)),
            None => Err(fault::timeout(&self.place, "sending")),
        }
    }

    /// Sends what TLS still holds back. Dropping the future loses nothing; calling it again goes on.
    ///
    /// # Errors
    /// As [`Wire::write_all`].
    pub async fn flush(&mut self) -> Result<()> {
        let Some(stream) = self.stream.as_mut() else { return Err(fault::closed(&self.place)) };
        match self.alarm.within(self.deadline, stream.flush()).await {
            Some(Ok(())) => Ok(()),
            Some(Err(cause)) => Err(fault::io(&self.place, "writing", cause)),
            None => Err(fault::timeout(&self.place, "sending")),
        }
    }

    /// Writes all bytes and flushes them.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] at the deadline, [`ErrorKind::ConnectionLost`] when the server has closed.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(stream) = self.stream.as_mut() else { return Err(fault::closed(&self.place)) };
        let write = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        match self.alarm.within(self.deadline, write).await {
            Some(Ok(())) => Ok(()),
            Some(Err(cause)) => Err(fault::io(&self.place, "writing", cause)),
            None => Err(fault::timeout(&self.place, "sending")),
        }
    }

    /// Writes all bytes and flushes them, listening meanwhile: a server that speaks instead of reading is heard.
    ///
    /// `accepted` is set to the number of bytes that were taken for sending, also when the write fails or the future is dropped. It
    /// returns `Ok` with less than all accepted as soon as the server has spoken while the write could not go on; what it said is
    /// in [`Wire::buffered`]. It does not listen while the write goes on.
    ///
    /// # Errors
    /// As [`Wire::write_all`].
    pub async fn write_listening(&mut self, bytes: &[u8], accepted: &mut usize) -> Result<()> {
        *accepted = 0;
        let Some(stream) = self.stream.as_mut() else { return Err(fault::closed(&self.place)) };
        let buffer = &mut self.buffer;
        let work = poll_fn(|cx| {
            loop {
                let all = *accepted == bytes.len();
                let progress = if all {
                    Pin::new(&mut *stream).poll_flush(cx).map_ok(|()| 0)
                } else {
                    Pin::new(&mut *stream).poll_write(cx, &bytes[*accepted..])
                };
                match progress {
                    Poll::Ready(Err(cause)) => return Poll::Ready(Err(cause)),
                    Poll::Ready(Ok(_)) if all => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => {
                        *accepted += count;
                        continue;
                    }
                    Poll::Pending => {}
                }
                let mut space = [0; 512];
                let mut heard = ReadBuf::new(&mut space);
                match Pin::new(&mut *stream).poll_read(cx, &mut heard) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(cause)) => return Poll::Ready(Err(cause)),
                    Poll::Ready(Ok(())) if heard.filled().is_empty() => {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    Poll::Ready(Ok(())) => buffer.extend_from_slice(heard.filled()),
                }
                if !all || buffer.len() > READ_BUFFER {
                    return Poll::Ready(Ok(()));
                }
            }
        });
        match self.alarm.within(self.deadline, work).await {
            Some(Ok(())) => Ok(()),
            Some(Err(cause)) => Err(fault::io(&self.place, "writing", cause)),
            None => Err(fault::timeout(&self.place, "sending")),
        }
    }

    /// The address of this machine's end of the connection.
    #[must_use]
    pub fn local_ip(&self) -> Option<IpAddr> {
        let tcp = match self.stream.as_ref()? {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.get_ref().0,
        };
        tcp.local_addr().ok().map(|address| address.ip())
    }

    /// Does the TLS handshake on the open connection; to be called right after the server agreed to STARTTLS or STLS.
    ///
    /// # Errors
    /// [`TlsFault::Injection`] when the server (or somebody on the way) sent anything beyond its agreement: those bytes came in
    /// clear and would be taken for an answer inside TLS (CVE-2011-0411). Else the fault of the handshake. The wire is of no
    /// further use after an error.
    pub async fn start_tls(&mut self, connector: &TlsConnector, host: &str) -> Result<()> {
        if !self.buffer.is_empty() {
            return Err(Error::new(
                ErrorKind::Tls(TlsFault::Injection),
                format!("{} sent data in clear after it agreed to start TLS", self.place),
            )
            .with_hint("somebody on the network path may be tampering; do not log in over this connection"));
        }
        let tcp = match self.stream.take() {
            Some(Stream::Plain(tcp)) => tcp,
            other => {
                self.stream = other;
                return Err(Error::new(
                    ErrorKind::Protocol,
                    format!("{}: TLS is already established", self.place),
                ));
            }
        };
        let handshake = connector.handshake(tcp, host, &self.place);
        match self.alarm.within(self.deadline, handshake).await {
            Some(Ok(tls)) => {
                self.stream = Some(tls);
                Ok(())
            }
            Some(Err(error)) => Err(error),
            None => Err(fault::timeout(&self.place, "the TLS handshake")
                .with_scope(email_router_model::Scope::Server)
                .with_hint(
                    "check that this port expects TLS from the start; use STARTTLS/STLS where it does not",
                )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_timer_rings_for_each_operation_when_its_time_has_come() {
        let seconds = Duration::from_secs;
        let mut alarm = Alarm::default();
        // later and earlier than the one before, which had ended in time or not
        for (within, takes) in
            [(300, 1), (10, 20), (60, 15), (60, 50), (5, 6), (0, 1), (600, 599), (600, 601)]
        {
            let start = Instant::now();
            let done = alarm.within(start + seconds(within), tokio::time::sleep(seconds(takes))).await;
            assert_eq!(done.is_some(), takes < within, "{takes} s within {within} s");
            assert_eq!(start.elapsed().as_secs(), takes.min(within));
        }
        let start = Instant::now();
        assert_eq!(alarm.within(start + seconds(7), pending::<()>()).await, None);
        assert_eq!(
            alarm.within(start + seconds(7), async { 1 }).await,
            Some(1),
            "what is done counts, also at the deadline"
        );
        assert_eq!(start.elapsed().as_secs(), 7);
    }
}
