//! POP3 without sockets and without a clock: bytes in, events out.
//!
//! | module | what |
//! |---|---|
//! | [`command`] | commands as types; a line break cannot get into one |
//! | [`reply`] | status lines and response codes |
//! | [`body`] | multi-line data: finding the end and removing the stuffed dots, in blocks |
//! | [`listing`] | the answers to CAPA, LIST, UIDL and STAT |
//! | [`connection`] | the pipelined conversation: commands pushed, bytes fed, events out |

pub mod body;
pub mod command;
pub mod connection;
pub mod listing;
pub mod reply;

pub use body::{Body, BodyReader, Ended};
pub use command::{Argument, BadArgument, Command, Request};
pub use connection::{Connection, Event, Limits, Violation};
pub use listing::{Capabilities, parse_list, parse_stat, parse_uidl};
pub use reply::{ResponseCode, Status};

/// Feeds `input` in pieces of `chunk` bytes to a conversation in which these requests are waiting for their answers, and
/// gives everything that came out. For fuzzing and property tests: it must not panic, and the size of the pieces must not matter.
#[must_use]
pub fn replay(
    requests: &[Request],
    input: &[u8],
    chunk: usize,
    limits: Limits,
) -> (Vec<Event>, Option<Violation>) {
    let mut connection = Connection::new(limits);
    for request in requests {
        connection.expect(*request);
    }
    let mut events = Vec::new();
    let mut pending: Vec<u8> = Vec::new();
    for piece in input.chunks(chunk.max(1)) {
        pending.extend_from_slice(piece);
        let mut used = 0;
        loop {
            match connection.feed(&pending[used..]) {
                Err(violation) => return (events, Some(violation)),
                Ok((count, event)) => {
                    used += count;
                    match event {
                        Some(event) => events.push(event),
                        None => break,
                    }
                }
            }
        }
        pending.drain(..used);
    }
    (events, None)
}
