//! IMAP without sockets and without a clock: bytes in, events out.
//!
//! | module | what |
//! |---|---|
//! | [`command`] | commands as types; a line break cannot get into one |
//! | [`name`] | names of folders: modified UTF-7 and hierarchy |
//! | [`set`] | sets of UIDs, written as ranges |
//! | [`reader`] | lines and literals, each up to a cap: where an answer ends |
//! | [`value`] | atoms, strings, lists: what an answer is made of |
//! | [`condition`] | status answers and response codes |
//! | [`response`] | what an answer says |
//! | [`connection`] | the pipelined conversation: commands pushed, bytes fed, events out |
//!
//! An answer is read in two steps. The reader needs nothing but lines and literal sizes to find its end, so that whatever stands in it the
//! next answer is found. Then its content is read; what cannot be read there is given on as [`Response::Unreadable`] with its literals.

pub mod command;
pub mod condition;
pub mod connection;
pub mod name;
pub mod reader;
pub mod response;
pub mod set;
pub mod value;

pub use command::{Argument, BadArgument, Command, Request};
pub use condition::{Code, Condition, Status};
pub use connection::{Connection, Event, Limits, Violation};
pub use reader::Literal;
pub use response::{Fetched, ListedFolder, Response};
pub use set::UidSet;

/// Feeds `input` in pieces of `chunk` bytes to a conversation in which these requests are waiting for their answers (tags `E1`, `E2`
/// and so on), and gives everything that came out. For fuzzing and property tests: it must not panic, and the size of the pieces must not matter.
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
