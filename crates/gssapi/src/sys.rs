//! The C side: types of RFC 2744, the functions, and how they are loaded.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

use libloading::Library;

use crate::{Error, Fault, Result};

/// `OM_uint32`.
pub(crate) type Word = u32;
/// `gss_name_t`, `gss_cred_id_t`, `gss_ctx_id_t`: pointers to what only the library looks into.
pub(crate) type Handle = *mut c_void;

// Apple packs these structures on the processor that it had when the interface was made; everywhere else they are plain C.
macro_rules! c_struct {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[cfg_attr(all(target_os = "macos", target_arch = "x86_64"), repr(C, packed(2)))]
        #[cfg_attr(not(all(target_os = "macos", target_arch = "x86_64")), repr(C))]
        #[derive(Clone, Copy)]
        pub(crate) struct $name { $(pub(crate) $field: $kind),* }
    };
}

c_struct! {
    /// `gss_buffer_desc`.
    Buffer { length: usize, value: *mut c_void }
}
c_struct! {
    /// `gss_OID_desc`: the DER contents of an object identifier.
    Oid { length: Word, elements: *mut c_void }
}
c_struct! {
    /// `gss_OID_set_desc`.
    OidSet { count: usize, elements: *mut Oid }
}
c_struct! {
    /// `gss_channel_bindings_struct`.
    Bindings {
        initiator_type: Word,
        initiator: Buffer,
        acceptor_type: Word,
        acceptor: Buffer,
        application_data: Buffer,
    }
}

/// `gss_key_value_element_desc` of MIT's `gss_acquire_cred_from`.
#[repr(C)]
pub(crate) struct KeyValue {
    pub(crate) key: *const c_char,
    pub(crate) value: *const c_char,
}

/// `gss_key_value_set_desc`.
#[repr(C)]
pub(crate) struct KeyValueSet {
    pub(crate) count: Word,
    pub(crate) elements: *const KeyValue,
}

// SAFETY: those that are shared are the constants below; they point to static bytes, and nobody writes through the pointer.
unsafe impl Sync for Oid {}

const fn oid(der: &'static [u8]) -> Oid {
    // none is longer than a few bytes
    Oid { length: der.len() as Word, elements: der.as_ptr().cast_mut().cast() }
}

/// Kerberos version 5 (RFC 1964): 1.2.840.113554.1.2.2.
pub(crate) static KRB5: Oid = oid(b"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02");
/// SPNEGO (RFC 4178): 1.3.6.1.5.5.2.
pub(crate) static SPNEGO: Oid = oid(b"\x2b\x06\x01\x05\x05\x02");
/// Names `service@host` (RFC 2743 section 4.1): 1.2.840.113554.1.2.1.4.
pub(crate) static HOST_BASED_SERVICE: Oid = oid(b"\x2a\x86\x48\x86\xf7\x12\x01\x02\x01\x04");
/// Kerberos principal names (RFC 1964 section 2.1.1): 1.2.840.113554.1.2.2.1.
pub(crate) static PRINCIPAL: Oid = oid(b"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x01");

impl Oid {
    /// As the functions want it: their parameters are not `const`, but only read (RFC 2744 section 3.3).
    pub(crate) fn raw(&'static self) -> *mut Self {
        std::ptr::from_ref(self).cast_mut()
    }
}

impl Buffer {
    pub(crate) const EMPTY: Self = Self { length: 0, value: null_mut() };

    /// These bytes as an input; only valid as long as they are.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { length: bytes.len(), value: bytes.as_ptr().cast_mut().cast() }
    }
}

macro_rules! functions {
    ($($(#[$doc:meta])* $field:ident = $symbol:literal: fn($($kind:ty),* $(,)?);)*) => {
        /// The functions, as RFC 2744 section 5 declares them.
        pub(crate) struct Functions {
            $($(#[$doc])* pub(crate) $field: unsafe extern "C" fn($($kind),*) -> Word,)*
            /// `gss_acquire_cred_from`; not every library has it.
            pub(crate) acquire_cred_from: Option<AcquireCredFrom>,
            /// `gss_set_neg_mechs` (RFC 4178 appendix C); not every library has it.
            pub(crate) set_neg_mechs: Option<SetNegMechs>,
        }

        impl Functions {
            fn of(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: the symbols of this library are the functions of RFC 2744 (the last two: of MIT's gssapi_ext.h), and the types above are
                // their declarations.
                unsafe {
                    Ok(Self {
                        $($field: *library.get($symbol)?,)*
                        acquire_cred_from: library.get(c"gss_acquire_cred_from").ok().map(|f| *f),
                        set_neg_mechs: library.get(c"gss_set_neg_mechs").ok().map(|f| *f),
                    })
                }
            }
        }
    };
}

/// As `gss_acquire_cred`, with the store before the results.
pub(crate) type AcquireCredFrom = unsafe extern "C" fn(
    *mut Word,
    Handle,
    Word,
    *mut OidSet,
    c_int,
    *const KeyValueSet,
    *mut Handle,
    *mut *mut OidSet,
    *mut Word,
) -> Word;

/// minor, credential, mechanisms
pub(crate) type SetNegMechs = unsafe extern "C" fn(*mut Word, Handle, *mut OidSet) -> Word;

functions! {
    /// minor, text, type, name
    import_name = c"gss_import_name": fn(*mut Word, *mut Buffer, *mut Oid, *mut Handle);
    /// minor, name, text, type
    display_name = c"gss_display_name": fn(*mut Word, Handle, *mut Buffer, *mut *mut Oid);
    /// minor, name
    release_name = c"gss_release_name": fn(*mut Word, *mut Handle);
    /// minor, name, seconds, mechanisms, usage, credential, mechanisms, seconds
    acquire_cred = c"gss_acquire_cred": fn(
        *mut Word, Handle, Word, *mut OidSet, c_int, *mut Handle, *mut *mut OidSet, *mut Word,
    );
    /// minor, credential, name, seconds, usage, mechanisms
    inquire_cred = c"gss_inquire_cred": fn(
        *mut Word, Handle, *mut Handle, *mut Word, *mut c_int, *mut *mut OidSet,
    );
    /// minor, credential
    release_cred = c"gss_release_cred": fn(*mut Word, *mut Handle);
    /// minor, credential, context, target, mechanism, flags, seconds, bindings, token in, mechanism, token out, flags, seconds
    init_sec_context = c"gss_init_sec_context": fn(
        *mut Word, Handle, *mut Handle, Handle, *mut Oid, Word, Word, *mut Bindings, *mut Buffer, *mut *mut Oid,
        *mut Buffer, *mut Word, *mut Word,
    );
    /// minor, context, token (none is wanted)
    delete_sec_context = c"gss_delete_sec_context": fn(*mut Word, *mut Handle, *mut Buffer);
    /// minor, context, confidential?, quality, message, confidential?, token
    wrap = c"gss_wrap": fn(*mut Word, Handle, c_int, Word, *mut Buffer, *mut c_int, *mut Buffer);
    /// minor, context, token, message, confidential?, quality
    unwrap = c"gss_unwrap": fn(*mut Word, Handle, *mut Buffer, *mut Buffer, *mut c_int, *mut Word);
    /// minor, buffer
    release_buffer = c"gss_release_buffer": fn(*mut Word, *mut Buffer);
    /// minor, status, kind of status, mechanism, position, text
    display_status = c"gss_display_status": fn(*mut Word, Word, c_int, *mut Oid, *mut Word, *mut Buffer);
}

/// Where the library lies, by the name of its interface's version; the loader knows the folders.
const NAMES: &[&str] = if cfg!(target_os = "macos") {
    &["/System/Library/Frameworks/GSS.framework/GSS"]
} else if cfg!(unix) {
    &["libgssapi_krb5.so.2"]
} else {
    &[]
};

/// The functions of the system's library; loaded at the first call, and never unloaded.
///
/// # Errors
/// [`Fault::NoLibrary`].
pub(crate) fn functions() -> Result<&'static Functions> {
    // what was found stays; what was not is looked for again, so that nothing must be restarted after the library was installed
    static LOADED: OnceLock<Functions> = OnceLock::new();
    match LOADED.get() {
        Some(functions) => Ok(functions),
        None => {
            let functions = load(NAMES)?;
            Ok(LOADED.get_or_init(|| functions))
        }
    }
}

fn load(names: &[&str]) -> Result<Functions> {
    let mut why = "this system has none that is known here".to_owned();
    for name in names {
        // SAFETY: loading runs the initializers of the system's own Kerberos library, which are made to be run in any process.
        match unsafe { Library::new(*name) } {
            Ok(library) => match Functions::of(&library) {
                Ok(functions) => {
                    // never unloaded: its functions and what they gave out are used until the process ends
                    std::mem::forget(library);
                    return Ok(functions);
                }
                Err(cause) => why = format!("{name} is another library: {}", words(&cause)),
            },
            Err(cause) => why = format!("{name}: {}", words(&cause)),
        }
    }
    Err(Error::of(Fault::NoLibrary, format!("the Kerberos library cannot be loaded: {why}")))
}

/// What the loader says, which its error keeps as a cause.
fn words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// A buffer that the library fills and that is given back to it.
pub(crate) struct Owned {
    pub(crate) raw: Buffer,
    functions: &'static Functions,
}

impl Owned {
    pub(crate) fn new(functions: &'static Functions) -> Self {
        Self { raw: Buffer::EMPTY, functions }
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let Buffer { length, value } = self.raw;
        if length == 0 || value.is_null() {
            return Vec::new();
        }
        // SAFETY: the library filled the buffer: `value` points to `length` bytes that stay until `release_buffer`.
        unsafe { std::slice::from_raw_parts(value.cast::<u8>(), length) }.to_vec()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let mut minor = 0;
        // SAFETY: the buffer is empty or was filled by the library, and is released once.
        unsafe { (self.functions.release_buffer)(&mut minor, &mut self.raw) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_library_hears_which_one_is_missing() {
        let error = load(&["libgssapi_of_nobody.so.9"]).err().unwrap();
        assert_eq!(error.fault(), Fault::NoLibrary);
        assert!(error.to_string().contains("libgssapi_of_nobody.so.9"), "{error}");
        // a library that is another one
        let error = load(&["libc.so.6"]).err().unwrap();
        assert!(error.to_string().contains("gss_import_name"), "{error}");
        assert_eq!(load(&[]).err().unwrap().fault(), Fault::NoLibrary);
    }

    #[test]
    fn object_identifiers_have_the_length_of_their_bytes() {
        for (oid, length) in [(&KRB5, 9), (&SPNEGO, 6), (&HOST_BASED_SERVICE, 10), (&PRINCIPAL, 10)] {
            assert_eq!({ oid.length }, length);
        }
    }
}
