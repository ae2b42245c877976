//! What the library says, in an administrator's words.

use std::path::Path;

use email_router_gssapi::{Credential, Error, Fault, Mechanism as GssMechanism, Name, Store};
use email_router_model::{Retry, Scope};

use crate::{CredentialError, CredentialFault, TicketStore};

/// Where a login takes place and whose it is, for errors.
pub(super) struct Place<'a> {
    pub(super) service: &'a str,
    pub(super) host: &'a str,
    pub(super) principal: &'a str,
    pub(super) store: &'a TicketStore,
}

impl Place<'_> {
    pub(super) fn credential(&self, inside: GssMechanism) -> Result<Credential, Error> {
        let name = match self.principal {
            "" => None,
            principal => Some(Name::principal(principal)?),
        };
        let TicketStore { cache, keytab } = self.store;
        let store = Store { cache: cache.clone(), client_keytab: keytab.clone() };
        Credential::acquire(name.as_ref(), inside, &store)
    }

    pub(super) fn target(&self) -> Result<Name, Error> {
        // a dot at the end says that the name is complete; no realm has a service of such a name
        Name::service(self.service, self.host.trim_end_matches('.'))
    }

    /// The error in an administrator's words. All mailboxes of a server have the same tickets, so they fail alike.
    pub(super) fn explain(&self, error: &Error) -> CredentialError {
        let Self { service, host, .. } = self;
        let (fault, retry) = class(error.fault());
        CredentialError {
            fault,
            message: format!("Kerberos for {service} at {host}: {error}"),
            hint: Some(self.hint(error.fault())),
            retry,
            scope: Scope::Server,
        }
    }

    fn hint(&self, fault: Fault) -> String {
        let Self { service, host, principal, store } = self;
        let text = match fault {
            Fault::NoTickets | Fault::Keytab => {
                return match &store.keytab {
                    Some(keytab) => keytab_hint(keytab, principal),
                    None => tickets_hint(principal),
                };
            }
            Fault::UnknownServer => {
                return format!(
                    "the realm has no service {service}/{host}, or two accounts with it: use the server's full host name, as \
                     in its service principal name, not an alias or address (\"setspn -Q {service}/{host}\" in the domain)"
                );
            }
            Fault::ServerKey => {
                return format!(
                    "the server cannot read tickets for {service}/{host}: its own keytab is older than its account's password, \
                     or that name belongs to another account"
                );
            }
            Fault::NoRealm => {
                return format!(
                    "krb5.conf must name the realm of {host} (domain_realm, default_realm) and where its key distribution \
                     centre is; check KRB5_CONFIG"
                );
            }
            Fault::BadKey => {
                "the key in the keytab is not the account's, whose password was changed since: make the keytab anew \
                 (ktpass, msktutil, adcli)"
            }
            Fault::BadName => "check the principal and the server's host name",
            Fault::ClockSkew => {
                "the clocks are more than five minutes apart: synchronize this machine's clock with the domain's (NTP)"
            }
            Fault::Encryption => {
                "the two sides have no encryption type in common: allow AES for the account in the domain, and make the \
                 keytab anew with AES keys"
            }
            Fault::Expired => {
                "the Kerberos tickets have expired: renew them (kinit, k5start), or name a keytab, with which this service \
                 renews them itself"
            }
            Fault::KdcUnreachable => {
                "no key distribution centre (domain controller) answers: check the network, port 88, and the kdc lines or \
                 dns_lookup_kdc in krb5.conf"
            }
            Fault::Locked => {
                "the account is disabled, locked or expired, or its password is: an administrator of the domain must unlock it"
            }
            Fault::NoLibrary => {
                "install MIT Kerberos (Debian and Ubuntu: libgssapi-krb5-2; Red Hat: krb5-libs; SUSE: krb5)"
            }
            Fault::NoStore => {
                "name ticket cache and keytab in the environment instead (KRB5CCNAME, KRB5_CLIENT_KTNAME)"
            }
            Fault::UnknownClient => {
                "the realm does not know this principal: check its spelling and its realm (upper case), and that the account \
                 was not renamed or deleted"
            }
            _ => "KRB5_TRACE=/dev/stderr in the environment shows what the Kerberos library does",
        };
        text.to_owned()
    }
}

/// What heals without a change of our settings is tried again; what a domain counts as a wrong password is not, since that locks accounts.
fn class(fault: Fault) -> (CredentialFault, Retry) {
    let later = Retry::Later(None);
    match fault {
        Fault::BadKey | Fault::Locked | Fault::UnknownClient => (CredentialFault::Refused, Retry::Never),
        Fault::ServerKey => (CredentialFault::Refused, later),
        Fault::Expired | Fault::Keytab | Fault::NoLibrary | Fault::NoTickets => {
            (CredentialFault::Settings, later)
        }
        Fault::BadName | Fault::Encryption | Fault::NoRealm | Fault::NoStore | Fault::UnknownServer => {
            (CredentialFault::Settings, Retry::Never)
        }
        _ => (CredentialFault::Unavailable, later),
    }
}

fn tickets_hint(principal: &str) -> String {
    let whose = if principal.is_empty() { "this service" } else { principal };
    format!(
        "there are no Kerberos tickets for {whose}: name its keytab (in the settings, or in KRB5_CLIENT_KTNAME), or keep a ticket \
         cache filled (KRB5CCNAME; kinit, k5start) that the user of this service can read"
    )
}

/// The library says of a bad keytab that there is no ticket cache; this looks what it is.
fn keytab_hint(keytab: &Path, principal: &str) -> String {
    use std::io::Read as _;
    let path = keytab.display();
    let mut version = [0; 2];
    match std::fs::File::open(keytab).and_then(|mut file| file.read_exact(&mut version)) {
        Err(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => {
            format!("the keytab {path} is empty")
        }
        Err(cause) => format!("the keytab {path} cannot be read by the user of this service: {cause}"),
        // the format begins with 5 and its version, 1 or 2
        Ok(()) if version[0] != 5 => format!("the file {path} is no keytab"),
        Ok(()) if principal.is_empty() => format!(
            "the keytab {path} has no key that gets a ticket; \"klist -k -e {path}\" shows what it has"
        ),
        Ok(()) => format!(
            "the keytab {path} has no key of {principal}; \"klist -k {path}\" shows whose keys it has"
        ),
    }
}
