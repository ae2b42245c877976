//! What the library says, in words and by kind.

use std::ffi::c_int;

use crate::Mechanism;
use crate::sys::{Functions, Owned, Word};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed: what was being done, and the library's words for it. The words name principals, realms and files, never a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    fault: Fault,
    message: String,
    codes: (u32, u32),
}

/// What happened, as far as an administrator would act differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The realm has another key for the user than the keytab.
    BadKey,
    /// Text that is not a name.
    BadName,
    /// The clocks of this machine and of the key distribution centre or the server are too far apart.
    ClockSkew,
    /// No encryption type suits both sides.
    Encryption,
    /// The tickets have expired.
    Expired,
    /// No key distribution centre of the realm answers.
    KdcUnreachable,
    /// The keytab cannot be used, or has no key for this principal.
    Keytab,
    /// The account is blocked or has expired, or its password has.
    Locked,
    /// The machine has no Kerberos library.
    NoLibrary,
    /// `krb5.conf` cannot be read, or does not say which realm or where its key distribution centre is.
    NoRealm,
    /// The library cannot be told a ticket cache or keytab by name.
    NoStore,
    /// There is no ticket cache, no ticket in it, or none of this principal; and no keytab to get one with.
    NoTickets,
    /// The other side's tokens are no good, or come at the wrong time.
    Protocol,
    /// The server cannot read tickets for it: its own keytab is not of the account that the ticket is for, or older than its password.
    ServerKey,
    /// The realm does not know the user.
    UnknownClient,
    /// The realm does not know the service at this host, or two accounts have its name.
    UnknownServer,
    /// Something else; the message has the library's words.
    Other,
}

impl Error {
    pub(crate) fn of(fault: Fault, message: impl Into<String>) -> Self {
        Self { fault, message: message.into(), codes: (0, 0) }
    }

    /// `Ok` unless the status is an error; else with the library's words.
    pub(crate) fn check(
        functions: &'static Functions,
        doing: &str,
        mechanism: Mechanism,
        major: Word,
        minor: Word,
    ) -> Result<()> {
        // calling errors and routine errors; the other bits are no errors (RFC 2744 section 3.9.1)
        if major & 0xffff_0000 == 0 {
            return Ok(());
        }
        // the general words say nothing beside the detail, which an expired credential has none of
        let detail = match major >> 16 & 0xff {
            EXPIRED => String::new(),
            _ => text(functions, OF_MECHANISM, mechanism, minor),
        };
        let words = if detail.is_empty() { text(functions, GENERAL, mechanism, major) } else { detail };
        Err(Self { fault: fault(major, minor), message: format!("{doing}: {words}"), codes: (major, minor) })
    }

    /// What happened.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// The library's major and minor status, for whoever looks them up; zeros where the library was not asked.
    #[must_use]
    pub fn codes(&self) -> (u32, u32) {
        self.codes
    }
}

/// `GSS_C_GSS_CODE`.
const GENERAL: c_int = 1;
/// `GSS_C_MECH_CODE`.
const OF_MECHANISM: c_int = 2;

/// The words of a status; several lines are joined, and none is endless or breaks a log line.
fn text(functions: &'static Functions, kind: c_int, mechanism: Mechanism, status: Word) -> String {
    let mut all = String::new();
    let mut position = 0;
    // a status has a handful of texts at most, but the library decides when it ends
    for _ in 0..8 {
        let (mut minor, mut line) = (0, Owned::new(functions));
        // SAFETY: numbers, a constant object identifier, and results that the library writes.
        let major = unsafe {
            (functions.display_status)(
                &mut minor,
                status,
                kind,
                mechanism.oid(),
                &mut position,
                &mut line.raw,
            )
        };
        if major != 0 {
            break;
        }
        if !all.is_empty() {
            all.push_str(", ");
        }
        all.push_str(String::from_utf8_lossy(&line.to_vec()).trim());
        if position == 0 {
            break;
        }
    }
    all.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

/// `GSS_S_CREDENTIALS_EXPIRED`, without its shift.
const EXPIRED: Word = 11;

/// The kind of a pair of statuses. The minor ones are numbers of the Kerberos error table (`krb5_err.et` of MIT Kerberos), whose first 128 are the error
/// codes of RFC 4120 section 7.5.9. Inside SPNEGO the library gives other numbers; then only the major one tells something.
fn fault(major: Word, minor: Word) -> Fault {
    /// `ERROR_TABLE_BASE_krb5`.
    const TABLE: i32 = -1_765_328_384;
    match minor.cast_signed().wrapping_sub(TABLE) {
        // NAME_EXP, POLICY, CLIENT_REVOKED, CLIENT_NOTYET, KEY_EXPIRED
        1 | 12 | 18 | 21 | 23 => Fault::Locked,
        // C_PRINCIPAL_UNKNOWN
        6 => Fault::UnknownClient,
        // S_PRINCIPAL_UNKNOWN, PRINCIPAL_NOT_UNIQUE
        7 | 8 => Fault::UnknownServer,
        // KDC_ERR_ETYPE_NOSUPP; PROG_ETYPE_NOSUPP, CC_NOT_KTYPE, ETYPE_NOT_PERMITTED, CONFIG_ETYPE_NOSUPP
        14 | 150 | 200 | 236 | 237 => Fault::Encryption,
        // PREAUTH_FAILED, AP_ERR_BAD_INTEGRITY
        24 | 31 => Fault::BadKey,
        // AP_ERR_TKT_EXPIRED
        32 => Fault::Expired,
        // AP_ERR_TKT_NYV, AP_ERR_SKEW, KDCREP_SKEW
        33 | 37 | 148 => Fault::ClockSkew,
        // AP_ERR_NOT_US, AP_ERR_MODIFIED, AP_ERR_BADKEYVER, AP_ERR_NOKEY
        35 | 41 | 44 | 45 => Fault::ServerKey,
        // SVC_UNAVAILABLE; KDC_UNREACH, REALM_CANT_RESOLVE
        29 | 156 | 220 => Fault::KdcUnreachable,
        // CONFIG_CANTOPEN, CONFIG_BADFORMAT, REALM_UNKNOWN, ERR_HOST_REALM_UNKNOWN, CONFIG_NODEFREALM
        135 | 136 | 154 | 217 | 224 => Fault::NoRealm,
        // CC_BADNAME, CC_UNKNOWN_TYPE, CC_NOTFOUND, CC_IO, FCC_PERM, FCC_NOFILE, CC_FORMAT, NO_CREDS, CCACHE_BADVNO
        139 | 140 | 141 | 193 | 194 | 195 | 199 | 203 | 212 => Fault::NoTickets,
        // KT_BADNAME, KT_UNKNOWN_TYPE, KT_NOTFOUND, KEYTAB_BADVNO, KT_FORMAT
        179 | 180 | 181 | 213 | 235 => Fault::Keytab,
        _ => match major >> 16 & 0xff {
            // BAD_NAME, BAD_NAMETYPE
            2 | 3 => Fault::BadName,
            // BAD_BINDINGS, BAD_SIG, NO_CONTEXT, DEFECTIVE_TOKEN, DEFECTIVE_CREDENTIAL, CONTEXT_EXPIRED
            4 | 6 | 8 | 9 | 10 | 12 => Fault::Protocol,
            // NO_CRED
            7 => Fault::NoTickets,
            EXPIRED => Fault::Expired,
            _ => Fault::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_by_the_numbers_that_mit_kerberos_gave() {
        // failure, no credentials, credentials expired, defective token
        const FAILURE: Word = 13 << 16;
        const NO_CRED: Word = 7 << 16;
        for (major, minor, expected) in [
            (NO_CRED, -1_765_328_243, Fault::NoTickets),
            (NO_CRED, -1_765_328_189, Fault::NoTickets),
            (NO_CRED, -1_765_328_172, Fault::NoTickets),
            (NO_CRED, 100_001, Fault::NoTickets),
            (NO_CRED, -1_765_328_228, Fault::KdcUnreachable),
            (NO_CRED, -1_765_328_230, Fault::NoRealm),
            (NO_CRED, -1_765_328_378, Fault::UnknownClient),
            (NO_CRED, -1_765_328_353, Fault::BadKey),
            (NO_CRED, -1_765_328_360, Fault::BadKey),
            (NO_CRED, -1_765_328_203, Fault::Keytab),
            (FAILURE, -1_765_328_377, Fault::UnknownServer),
            (FAILURE, -1_765_328_352, Fault::Expired),
            (FAILURE, -1_765_328_347, Fault::ClockSkew),
            (FAILURE, -1_765_328_366, Fault::Locked),
            (FAILURE, -1_765_328_370, Fault::Encryption),
            (FAILURE, -1_765_328_343, Fault::ServerKey),
            (FAILURE, 100_005, Fault::Other),
            (EXPIRED << 16, 100_001, Fault::Expired),
            (9 << 16, 0, Fault::Protocol),
            (2 << 16, 0, Fault::BadName),
        ] {
            assert_eq!(
                fault(major, Word::from_ne_bytes(i32::to_ne_bytes(minor))),
                expected,
                "{major} {minor}"
            );
        }
    }
}
