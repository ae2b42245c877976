//! Fake servers and certificates for the tests of email-router.
//!
//! Everything here speaks wire formats and knows nothing about the crates under test, so a mistake there cannot hide behind
//! the same mistake here. Servers listen on a free loopback port and stop when they are dropped.
//!
//! | module | what |
//! |---|---|
//! | [`tls`] | a throw-away authority and server certificates, good and bad |
//! | [`ntlm`] | the server's side of NTLMv2, after [MS-NLMP] |
//! | [`script`] | a server that plays prepared bytes and notes what it hears |
//! | [`http`] | a small HTTP/1.1 server with answers from a closure |
//! | [`oauth`] | a token service as that of Microsoft Entra ID |
//! | [`tnef`] | a writer of TNEF streams (`winmail.dat`), after [MS-OXTNEF] |
//! | [`dataverse`] | a strict Dataverse organization in memory, after the reference of its Web API |
//! | [`graph`] | a strict Microsoft Graph with mailboxes in memory, after its public reference |
//! | [`imap`] | a small well-behaved IMAP server with folders, after RFC 3501 and its common extensions |
//! | [`ews`] | a small Exchange: Web Services and Autodiscover over mailboxes in memory |
//! | [`pop3`] | a small well-behaved POP3 server with maildrops, after RFC 1939 |
#![warn(missing_docs)]
// a test server that cannot start or a broken script is a failed test: panicking says so at once
#![allow(clippy::expect_used, clippy::unwrap_used)]

pub mod dataverse;
pub mod ews;
pub mod graph;
pub mod http;
pub mod imap;
pub mod ntlm;
pub mod oauth;
pub mod pop3;
pub mod script;
pub mod smtp;
pub mod tls;
pub mod tnef;

use tokio::io::{AsyncRead, AsyncWrite};

/// Any byte stream of a server, in clear or inside TLS.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Stops a server when the test drops its handle.
#[derive(Debug)]
pub(crate) struct StopOnDrop(pub(crate) tokio::task::JoinHandle<()>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
