//! The body of an answer, while it comes in.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout};

use crate::connection::Connection;
use crate::pool::{Key, Permit, Pool};
use crate::{BodySource, Login, Result, fault};

/// A body must come at this speed, beside the patience with each piece: who sends a byte now and then would hold a mailbox up for ever.
const SLOWEST: u64 = 1024;

/// A body and the connection that it comes through, which goes back to the pool at the end of it and is closed when it is dropped before.
pub(crate) struct Streaming {
    incoming: Incoming,
    connection: Option<Connection>,
    pool: Option<(Arc<Pool>, Key, Option<Login>)>,
    permit: Permit,
    patience: Duration,
    /// Only each single piece has to come in time.
    unhurried: bool,
    place: String,
    received: u64,
    waited: Duration,
}

impl Streaming {
    pub(crate) fn new(
        incoming: Incoming,
        connection: Connection,
        pool: Option<(Arc<Pool>, Key, Option<Login>)>,
        permit: Permit,
        patience: Duration,
        unhurried: bool,
        place: String,
    ) -> Self {
        let over = incoming.is_end_stream();
        let connection = Some(connection);
        let (received, waited) = (0, Duration::ZERO);
        let mut new =
            Self { incoming, connection, pool, permit, patience, unhurried, place, received, waited };
        if over {
            new.finish();
        }
        new
    }

    fn finish(&mut self) {
        if let (Some(connection), Some((pool, key, login))) = (self.connection.take(), self.pool.take()) {
            pool.give_back(&key, login.as_ref(), connection);
        }
        self.permit = None;
    }

    /// How long the next piece may be waited for.
    fn allowed(&self) -> Duration {
        if self.unhurried {
            return self.patience;
        }
        let all = self.patience + Duration::from_millis(self.received.saturating_mul(1000) / SLOWEST);
        self.patience.min(all.saturating_sub(self.waited))
    }
}

#[async_trait]
impl BodySource for Streaming {
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.connection.is_none() {
                return Ok(None);
            }
            let start = Instant::now();
            let frame = timeout(self.allowed(), self.incoming.frame()).await;
            self.waited += start.elapsed();
            match frame {
                Ok(Some(Ok(frame))) => {
                    // trailers are of no interest
                    let Ok(piece) = frame.into_data() else { continue };
                    self.received += piece.len() as u64;
                    return Ok(Some(piece));
                }
                Ok(None) => {
                    self.finish();
                    return Ok(None);
                }
                Ok(Some(Err(cause))) => {
                    (self.connection, self.permit) = (None, None);
                    return Err(fault::hyper(&self.place, cause).sent());
                }
                Err(_) => {
                    (self.connection, self.permit) = (None, None);
                    return Err(fault::late(&self.place).sent());
                }
            }
        }
    }

    fn left(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }
}
