//! SMTP without I/O: bytes and replies in, what to do next out. No socket, no clock.
//!
//! A conversation is driven by two machines, one after the other: [`Opening`] takes a fresh connection through greeting, EHLO, STARTTLS
//! and AUTH; [`Transaction`] sends one message. Both are driven the same way: `poll` says the next [`Step`], `on_reply` takes
//! each reply.

pub mod body;
pub mod capabilities;
pub mod command;
pub mod opening;
pub mod reply;
pub mod transaction;

pub use capabilities::Capabilities;
pub use command::{Command, HeloName};
pub use opening::{Opening, OpeningFault, OpeningRules};
pub use reply::{Class, Malformed, Reply, ReplyReader};
pub use transaction::{Obstacle, Outcome, Plan, Transaction};

/// What the driver of a machine has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Write all that the machine put into the buffer, then poll again.
    Send(Phase),
    /// Read one reply and give it to the machine.
    Await(Phase),
    /// Establish TLS and tell the machine with `secured`. Bytes already received are an attack (CVE-2011-0411).
    Secure,
    /// The machine is done; take its result.
    Done,
}

/// Which part of the conversation; each has its own deadline (RFC 5321 4.5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The greeting.
    Greeting,
    /// EHLO, HELO, STARTTLS, AUTH, RSET, QUIT.
    Command,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// The answer to DATA.
    DataStart,
    /// One block of data; also a BDAT chunk that is not the last.
    DataBlock,
    /// The answer to the final dot or to the last chunk.
    DataEnd,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Greeting => "waiting for the greeting",
            Self::Command => "waiting for the answer to a command",
            Self::Mail => "waiting for the answer to MAIL",
            Self::Rcpt => "waiting for the answer to RCPT",
            Self::DataStart => "waiting for the answer to DATA",
            Self::DataBlock => "handing over the message",
            Self::DataEnd => "waiting for the answer to the complete message",
        })
    }
}
