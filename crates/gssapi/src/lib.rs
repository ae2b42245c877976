//! The system's GSSAPI library, as much of it as a client of Kerberos needs: names, credentials, contexts, error texts.
//!
//! The library (MIT Kerberos, on macOS the framework GSS) is loaded when it is first asked for. So building needs none of its headers, a
//! program that is never asked to use Kerberos never loads it, and a machine without it gets an error that says what to install. Which
//! realm, which key distribution centre, which ticket cache and which keytab are used is decided by the library, as its own manuals
//! (`krb5.conf`, `KRB5CCNAME`, `KRB5_CLIENT_KTNAME`) say, unless a [`Store`] names them.
//!
//! This is the only crate of email-router with unsafe code. All of it is calls of C functions in `sys.rs`, `name.rs`, `credential.rs`, `context.rs`
//! and `error.rs`; what those take and give is in RFC 2744. What it deliberately is not: it accepts no logins, delegates nothing, encrypts no
//! mail, and keeps no thread; calls that may ask a key distribution centre say so and block as long as that takes.
#![warn(missing_docs)]

mod context;
mod credential;
mod error;
mod name;
mod sys;

pub use context::{Context, Mechanism, Step};
pub use credential::{Credential, Store};
pub use error::{Error, Fault, Result};
pub use name::Name;

/// Whether the library can be loaded on this machine.
///
/// # Errors
/// [`Fault::NoLibrary`], with what the loader says.
pub fn available() -> Result<()> {
    sys::functions().map(drop)
}
