//! Who asks for tickets.

use std::ffi::{CString, c_int};
use std::path::PathBuf;
use std::ptr::null_mut;
use std::time::Duration;

use crate::sys::{self, Functions, Handle, KeyValue, KeyValueSet, OidSet};
use crate::{Error, Fault, Mechanism, Name, Result};

/// `GSS_C_INITIATE`.
const INITIATE: c_int = 1;
/// `GSS_C_INDEFINITE`.
const INDEFINITE: u32 = u32::MAX;

/// Where tickets and keys lie. What is `None` is where the library looks by itself: `KRB5CCNAME` and `KRB5_CLIENT_KTNAME`, then `krb5.conf`, then its
/// own defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Store {
    /// The ticket cache, with its kind: `FILE:/run/email-router/tickets`, `MEMORY:name` (of this process), `KCM:`.
    pub cache: Option<String>,
    /// The keytab whose key gets a ticket where the cache has none that is good.
    pub client_keytab: Option<PathBuf>,
}

/// An identity that can ask for tickets.
pub struct Credential {
    raw: Handle,
    functions: &'static Functions,
    mechanism: Mechanism,
}

// SAFETY: a credential is not tied to a thread. MIT Kerberos locks it in each call, and it is never used by two threads here, since it is not `Sync`.
unsafe impl Send for Credential {}

impl Credential {
    /// The identity of this name (`None`: the one that the cache or the keytab begins with), from this store. Reads files; a key distribution
    /// centre may be asked.
    ///
    /// # Errors
    /// [`Fault::NoTickets`] and its like; [`Fault::NoStore`] where the library cannot be told a store.
    pub fn acquire(name: Option<&Name>, mechanism: Mechanism, store: &Store) -> Result<Self> {
        let functions = sys::functions()?;
        let doing = "looking for Kerberos tickets";
        let name = name.map_or(null_mut(), Name::raw);
        let mut mechanisms = OidSet { count: 1, elements: mechanism.oid() };
        let (mut minor, mut raw) = (0, null_mut());
        let values = store.values()?;
        let major = if values.is_empty() {
            // SAFETY: name and set outlive the call and are only read; the two results that may be left out are.
            unsafe {
                (functions.acquire_cred)(
                    &mut minor,
                    name,
                    INDEFINITE,
                    &mut mechanisms,
                    INITIATE,
                    &mut raw,
                    null_mut(),
                    null_mut(),
                )
            }
        } else {
            let Some(acquire_cred_from) = functions.acquire_cred_from else {
                let message =
                    format!("{doing}: this Kerberos library takes no ticket cache or keytab by name");
                return Err(Error::of(Fault::NoStore, message));
            };
            let elements: Vec<KeyValue> = values
                .iter()
                .map(|(key, value)| KeyValue { key: key.as_ptr(), value: value.as_ptr() })
                .collect();
            // two at most
            let set = KeyValueSet { count: elements.len() as u32, elements: elements.as_ptr() };
            // SAFETY: as above; the store's texts end with NUL and outlive the call.
            unsafe {
                acquire_cred_from(
                    &mut minor,
                    name,
                    INDEFINITE,
                    &mut mechanisms,
                    INITIATE,
                    &set,
                    &mut raw,
                    null_mut(),
                    null_mut(),
                )
            }
        };
        Error::check(functions, doing, mechanism, major, minor)?;
        let credential = Self { raw, functions, mechanism };
        if let (Mechanism::Spnego, Some(set_neg_mechs)) = (mechanism, functions.set_neg_mechs) {
            // a machine may have NTLM for this library, too, and would offer it
            let mut offered = OidSet { count: 1, elements: Mechanism::Kerberos.oid() };
            // SAFETY: the credential is one that the library gave out; the set outlives the call and is only read.
            let major = unsafe { set_neg_mechs(&mut minor, raw, &mut offered) };
            Error::check(functions, doing, mechanism, major, minor)?;
        }
        Ok(credential)
    }

    /// Whose tickets these are, and for how long they are good (`None`: for ever). May ask a key distribution centre for the first one.
    ///
    /// # Errors
    /// As [`Self::acquire`]; [`Fault::Expired`].
    pub fn inquire(&self) -> Result<(String, Option<Duration>)> {
        let (mut minor, mut name, mut seconds) = (0, null_mut(), 0);
        // SAFETY: the credential is one that the library gave out; the results that are not wanted are left out.
        let major = unsafe {
            (self.functions.inquire_cred)(
                &mut minor,
                self.raw,
                &mut name,
                &mut seconds,
                null_mut(),
                null_mut(),
            )
        };
        Error::check(self.functions, "looking at Kerberos tickets", self.mechanism, major, minor)?;
        let name = Name::from_raw(name, self.functions).text()?;
        Ok((name, (seconds != INDEFINITE).then(|| Duration::from_secs(seconds.into()))))
    }

    pub(crate) fn raw(&self) -> Handle {
        self.raw
    }

    pub(crate) fn functions(&self) -> &'static Functions {
        self.functions
    }
}

impl Drop for Credential {
    fn drop(&mut self) {
        let mut minor = 0;
        // SAFETY: the credential is one that the library gave out, and is released once.
        unsafe { (self.functions.release_cred)(&mut minor, &mut self.raw) };
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

impl Store {
    /// Keys of MIT's credential store extension, and their values.
    fn values(&self) -> Result<Vec<(CString, CString)>> {
        let keytab = self.client_keytab.as_ref().map(|path| format!("FILE:{}", path.display()));
        [(c"ccache", self.cache.clone()), (c"client_keytab", keytab)]
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .map(|(key, value)| {
                let value = CString::new(value.as_str())
                    .map_err(|_| Error::of(Fault::BadName, format!("{value:?} has a NUL character")))?;
                Ok((key.to_owned(), value))
            })
            .collect()
    }
}
