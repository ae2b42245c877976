//! A login at a service.

use std::ptr::null_mut;

use crate::sys::{self, Bindings, Buffer, Functions, Handle, Oid, Owned, Word};
use crate::{Credential, Error, Fault, Name, Result};

const COMPLETE: Word = 0;
const CONTINUE_NEEDED: Word = 1;

const MUTUAL: Word = 2;
const REPLAY: Word = 4;
const SEQUENCE: Word = 8;
const INTEGRITY: Word = 32;

/// What the two sides speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// Kerberos itself (RFC 4121).
    Kerberos,
    /// SPNEGO (RFC 4178), in which both sides agree on Kerberos.
    Spnego,
}

impl Mechanism {
    pub(crate) fn oid(self) -> *mut Oid {
        match self {
            Self::Kerberos => sys::KRB5.raw(),
            Self::Spnego => sys::SPNEGO.raw(),
        }
    }

    /// Both sides prove who they are. What protects messages afterwards is only asked for where it is negotiated: a server that was asked for it in SPNEGO
    /// would expect it in SASL.
    fn flags(self) -> Word {
        match self {
            Self::Kerberos => MUTUAL | REPLAY | SEQUENCE | INTEGRITY,
            Self::Spnego => MUTUAL | REPLAY | SEQUENCE,
        }
    }
}

/// What comes of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The server gets this token and must answer.
    Continue(Vec<u8>),
    /// The two sides know each other; the server gets this token, if there is one.
    Done(Option<Vec<u8>>),
}

/// The client's side of one login.
pub struct Context {
    raw: Handle,
    functions: &'static Functions,
    credential: Credential,
    target: Name,
    mechanism: Mechanism,
    /// The application data of the channel binding.
    bindings: Option<Vec<u8>>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Begun,
    Established,
    Failed,
}

// SAFETY: a context is not tied to the thread that made it, and all that uses it takes `&mut self`.
unsafe impl Send for Context {}

impl Context {
    /// A login of `credential` at `target`; `bindings` ties it to the connection it goes through: the prefix of the kind of binding and its data, as
    /// `tls-server-end-point:` and the digest (RFC 5929 section 4).
    #[must_use]
    pub fn new(
        credential: Credential,
        target: Name,
        mechanism: Mechanism,
        bindings: Option<Vec<u8>>,
    ) -> Self {
        let functions = credential.functions();
        Self { raw: null_mut(), functions, credential, target, mechanism, bindings, state: State::Begun }
    }

    /// The next token, from the server's last one; the first is made from none. The first may ask a key distribution centre, unless the ticket
    /// for the service is in the cache already.
    ///
    /// # Errors
    /// The login cannot go on, and never will in this context.
    pub fn step(&mut self, token: Option<&[u8]>) -> Result<Step> {
        if self.state != State::Begun {
            return Err(Error::of(Fault::Protocol, "the login has ended already"));
        }
        // until proven otherwise
        self.state = State::Failed;
        let mut input = token.map_or(Buffer::EMPTY, Buffer::of);
        let mut bindings = self.bindings.as_deref().map(|data| Bindings {
            // no addresses (RFC 5929 section 2.1 wants none, and Windows compares the type: it must be 0)
            initiator_type: 0,
            initiator: Buffer::EMPTY,
            acceptor_type: 0,
            acceptor: Buffer::EMPTY,
            application_data: Buffer::of(data),
        });
        let (mut minor, mut flags) = (0, 0);
        let mut output = Owned::new(self.functions);
        // SAFETY: credential, target and context are handles that the library gave out (the context none yet at the first call); token and bindings
        // outlive the call and are only read; results that are not wanted are left out.
        let major = unsafe {
            (self.functions.init_sec_context)(
                &mut minor,
                self.credential.raw(),
                &mut self.raw,
                self.target.raw(),
                self.mechanism.oid(),
                self.mechanism.flags(),
                0,
                bindings.as_mut().map_or(null_mut(), |b| b),
                if token.is_some() { &mut input } else { null_mut() },
                null_mut(),
                &mut output.raw,
                &mut flags,
                null_mut(),
            )
        };
        Error::check(self.functions, "logging in with Kerberos", self.mechanism, major, minor)?;
        let token = output.to_vec();
        if major & CONTINUE_NEEDED != 0 {
            self.state = State::Begun;
            return Ok(Step::Continue(token));
        }
        if flags & MUTUAL == 0 {
            return Err(Error::of(Fault::Protocol, "the server did not prove who it is"));
        }
        self.state = State::Established;
        Ok(Step::Done((!token.is_empty()).then_some(token)))
    }

    /// Whether the two sides know each other.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.state == State::Established
    }

    /// A message for the server, protected against change and not encrypted.
    ///
    /// # Errors
    /// The login is not complete, or what the library says.
    pub fn wrap(&mut self, message: &[u8]) -> Result<Vec<u8>> {
        self.established()?;
        let (mut minor, mut input) = (0, Buffer::of(message));
        let mut output = Owned::new(self.functions);
        // SAFETY: the context is established; the message outlives the call and is only read.
        let major = unsafe {
            (self.functions.wrap)(&mut minor, self.raw, 0, 0, &mut input, null_mut(), &mut output.raw)
        };
        Error::check(self.functions, "protecting a message", self.mechanism, major, minor)?;
        Ok(output.to_vec())
    }

    /// A message from the server, checked.
    ///
    /// # Errors
    /// The login is not complete, or the message is not the server's, a repetition, or out of order.
    pub fn unwrap(&mut self, token: &[u8]) -> Result<Vec<u8>> {
        self.established()?;
        let (mut minor, mut input) = (0, Buffer::of(token));
        let mut output = Owned::new(self.functions);
        // SAFETY: the context is established; the token outlives the call and is only read.
        let major = unsafe {
            (self.functions.unwrap)(&mut minor, self.raw, &mut input, &mut output.raw, null_mut(), null_mut())
        };
        Error::check(self.functions, "checking a message of the server", self.mechanism, major, minor)?;
        if major != COMPLETE {
            // the supplementary bits: a duplicate, an old one, one out of sequence
            return Err(Error::of(Fault::Protocol, "a message of the server came twice or out of order"));
        }
        Ok(output.to_vec())
    }

    fn established(&self) -> Result<()> {
        match self.state {
            State::Established => Ok(()),
            _ => Err(Error::of(Fault::Protocol, "the login is not complete")),
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            let mut minor = 0;
            // SAFETY: the context is one that the library gave out, and is deleted once; no token is asked for.
            unsafe { (self.functions.delete_sec_context)(&mut minor, &mut self.raw, null_mut()) };
        }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("target", &self.target)
            .field("mechanism", &self.mechanism)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
