//! One connection of HTTP/1.1, one request at a time.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::connect::{Forward, Io, Meter, Metered};
use crate::{Error, fault};

/// The largest head of an answer, in bytes, and the most fields in it.
const HEAD_CAP: usize = 256 * 1024;
const MOST_FIELDS: usize = 200;

/// So long a connection that has just served a request is waited for.
const SETTLE: Duration = Duration::from_secs(1);

pub(crate) type Outgoing = http::Request<Full<Bytes>>;
pub(crate) type Incomplete = http::Response<Incoming>;

pub(crate) fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_headers(MOST_FIELDS).max_header_size(HEAD_CAP).max_buf_size(HEAD_CAP + 8192);
    builder
}

/// Why there is no answer.
pub(crate) enum Failed {
    /// The connection was over before the request went out; another one will do.
    Unsent(hyper::Error),
    /// Anything else.
    Error(Error),
}

/// An open connection. Dropping it closes it.
pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    meter: Arc<Meter>,
    /// The channel binding of the server's certificate.
    pub(crate) end_point: Option<Vec<u8>>,
    /// The proxy that passes requests in clear on.
    pub(crate) forward: Option<Forward>,
    /// Since when it is idle.
    pub(crate) since: Instant,
    _driver: Aborting,
}

impl Connection {
    pub(crate) async fn start(
        io: Box<dyn Io>,
        end_point: Option<Vec<u8>>,
        forward: Option<Forward>,
    ) -> hyper::Result<Self> {
        let meter = Meter::new();
        let io = TokioIo::new(Metered(io, Arc::clone(&meter)));
        let (sender, connection) = builder().handshake(io).await?;
        let driver = Aborting::spawn(async move {
            // its error is told to who waits for an answer
            let _ = connection.await;
        });
        Ok(Self { sender, meter, end_point, forward, since: Instant::now(), _driver: driver })
    }

    /// Whether another request can go through it.
    pub(crate) async fn is_usable(&mut self) -> bool {
        !self.sender.is_closed()
            && matches!(tokio::time::timeout(SETTLE, self.sender.ready()).await, Ok(Ok(())))
    }

    /// Sends a request and waits for the head of the answer: `patience` long after the last byte of the request went out.
    ///
    /// The connection must be dropped after an error.
    pub(crate) async fn send(
        &mut self,
        request: Outgoing,
        patience: Duration,
        place: &str,
    ) -> Result<Incomplete, Failed> {
        let (start, before) = (Instant::now(), self.meter.written());
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        let mut deadline = start + patience;
        let result = loop {
            if let Ok(result) = timeout_at(deadline, &mut answer).await {
                break result;
            }
            // a large request on a slow line makes progress although nothing is answered yet
            let extended = self.meter.last().max(start) + patience;
            if extended <= deadline {
                let late = fault::late(place);
                return Err(Failed::Error(if self.meter.written() > before { late.sent() } else { late }));
            }
            deadline = extended;
        };
        result.map_err(|mut failed| {
            let unsent = failed.take_message().is_some() || self.meter.written() == before;
            let cause = failed.into_error();
            // damaged bytes before the request went out are no stale connection
            if unsent && !cause.is_parse() {
                return Failed::Unsent(cause);
            }
            let error = fault::hyper(place, cause);
            Failed::Error(if unsent { error } else { error.sent() })
        })
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("forward", &self.forward).finish_non_exhaustive()
    }
}

/// A task that ends with its handle.
pub(crate) struct Aborting(Option<JoinHandle<()>>);

impl Aborting {
    pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(tokio::spawn(future)))
    }

    /// Lets it run on.
    pub(crate) fn detach(mut self) {
        self.0 = None;
    }
}

impl Drop for Aborting {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}
