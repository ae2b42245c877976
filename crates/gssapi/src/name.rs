//! Whom a ticket is for.

use std::ptr::null_mut;

use crate::sys::{self, Buffer, Functions, Handle, Oid, Owned};
use crate::{Error, Fault, Mechanism, Result};

/// The name of a service or of a user.
pub struct Name {
    raw: Handle,
    functions: &'static Functions,
}

// SAFETY: a name is not tied to the thread that made it; it is only read and released.
unsafe impl Send for Name {}

impl Name {
    /// The service of this name on this host, as `pop` on `mail.example.com`. Its realm, and whether the host's name is looked up in the DNS
    /// first, is decided by `krb5.conf` (`domain_realm`, `dns_canonicalize_hostname`).
    ///
    /// # Errors
    /// No library, or a character that no such name can have.
    pub fn service(service: &str, host: &str) -> Result<Self> {
        // an @ in the service, or none in the whole, would name another machine
        if service.contains('@') || host.is_empty() {
            let message = format!("{service:?} on {host:?} is not the name of a service");
            return Err(Error::of(Fault::BadName, message));
        }
        Self::import(&format!("{service}@{host}"), &sys::HOST_BASED_SERVICE)
    }

    /// This principal, as `svc-mail@EXAMPLE.COM`; without a realm it is of the default realm.
    ///
    /// # Errors
    /// No library, or not a principal.
    pub fn principal(text: &str) -> Result<Self> {
        Self::import(text, &sys::PRINCIPAL)
    }

    /// The name as a person would write it.
    ///
    /// # Errors
    /// What the library says.
    pub fn text(&self) -> Result<String> {
        let (mut minor, mut text) = (0, Owned::new(self.functions));
        // SAFETY: the name is one that the library gave out; the type of the name is not asked for.
        let major = unsafe { (self.functions.display_name)(&mut minor, self.raw, &mut text.raw, null_mut()) };
        Error::check(self.functions, "naming a principal", Mechanism::Kerberos, major, minor)?;
        Ok(String::from_utf8_lossy(&text.to_vec()).into_owned())
    }

    fn import(text: &str, kind: &'static Oid) -> Result<Self> {
        // the library would stop at a NUL, and take the name of somebody else
        if text.contains('\0') {
            return Err(Error::of(Fault::BadName, format!("{text:?} has a NUL character")));
        }
        let functions = sys::functions()?;
        let (mut minor, mut raw) = (0, null_mut());
        let mut buffer = Buffer::of(text.as_bytes());
        // SAFETY: the text outlives the call and is only read; the handle is written by the library.
        let major = unsafe { (functions.import_name)(&mut minor, &mut buffer, kind.raw(), &mut raw) };
        Error::check(functions, &format!("reading the name {text:?}"), Mechanism::Kerberos, major, minor)?;
        Ok(Self { raw, functions })
    }

    /// Takes over a name that the library gave out.
    pub(crate) fn from_raw(raw: Handle, functions: &'static Functions) -> Self {
        Self { raw, functions }
    }

    pub(crate) fn raw(&self) -> Handle {
        self.raw
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let mut minor = 0;
        // SAFETY: the name is one that the library gave out, and is released once.
        unsafe { (self.functions.release_name)(&mut minor, &mut self.raw) };
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Name").field(&self.text().unwrap_or_default()).finish()
    }
}
