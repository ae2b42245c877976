//! Kerberos: the SASL mechanism GSSAPI, the Kerberos side of Negotiate, and tickets fetched in advance.
//!
//! The tickets and the cryptography are the system's library's ([`email_router_gssapi`]). Its first step may ask a key distribution centre, and blocks
//! meanwhile; [`fetch_ticket`] does that before a session begins, where blocking is allowed, and leaves the ticket in the cache, so that the
//! exchange itself only computes. (It may look up the host's name in the DNS once more, unless `krb5.conf` says `dns_canonicalize_hostname = false`.)

use std::path::Path;
use std::time::Duration;

use email_router_gssapi::{Context, Credential, Error, Fault, Mechanism as GssMechanism, Name, Step, Store};
use email_router_model::{Retry, Scope};
use zeroize::Zeroizing;

use crate::{
    AuthError, Channel, CredentialError, CredentialFault, Credentials, Exchange, Mechanism, Response,
    TicketStore,
};

/// `GSSAPI` (RFC 4752): Kerberos 5. Of the security layers that are negotiated after the login only "none" is accepted: what protects the mail is
/// TLS. The mailbox that is opened is the one that the server knows the principal by; no other is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gssapi;

/// What [`fetch_ticket`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Whose it is: `svc-mail@EXAMPLE.COM`.
    pub principal: String,
    /// How long the tickets of this principal are good; `None`: for ever.
    pub lifetime: Option<Duration>,
}

impl Mechanism for Gssapi {
    fn name(&self) -> &'static str {
        "GSSAPI"
    }
    fn shows_password(&self) -> bool {
        false
    }
    fn begin(&self, credentials: &Credentials, channel: &Channel) -> Result<Box<dyn Exchange>, AuthError> {
        let handshake = Handshake::begin(self.name(), GssMechanism::Kerberos, credentials, channel)?;
        Ok(Box::new(GssapiExchange { handshake, layer_agreed: false }))
    }
}

/// Gets the ticket for a service at a host (as `imap` at `mail.example.com`) into the cache, or finds it there. Reads files, looks up names and
/// asks a key distribution centre, and blocks meanwhile: half a minute or more where none answers.
///
/// # Errors
/// [`CredentialError`] with what an administrator can do; [`CredentialFault::Settings`] where the credentials are no tickets.
pub fn fetch_ticket(credentials: &Credentials, service: &str, host: &str) -> Result<Ticket, CredentialError> {
    let Some(store) = credentials.ticket_store() else {
        return Err(CredentialError {
            fault: CredentialFault::Settings,
            message: format!("the credentials for {service} at {host} are no Kerberos tickets"),
            hint: None,
            retry: Retry::Never,
            scope: Scope::Server,
        });
    };
    let place = Place { service, host, principal: &credentials.user, store: &store };
    let fetch = || {
        let credential = place.credential(GssMechanism::Kerberos)?;
        let (principal, lifetime) = credential.inquire()?;
        Context::new(credential, place.target()?, GssMechanism::Kerberos, None).step(None)?;
        Ok(Ticket { principal, lifetime })
    };
    fetch().map_err(|error| place.explain(&error))
}

/// The context of one login, whatever is around its tokens.
pub(crate) struct Handshake {
    mechanism: &'static str,
    context: Context,
    first: Option<Response>,
    service: &'static str,
    host: String,
    principal: String,
    store: TicketStore,
}

impl Handshake {
    /// The login of these credentials at this server, with its first token.
    pub(crate) fn begin(
        mechanism: &'static str,
        inside: GssMechanism,
        credentials: &Credentials,
        channel: &Channel,
    ) -> Result<Self, AuthError> {
        let Some(store) = credentials.ticket_store() else {
            return Err(AuthError::WrongProof { mechanism, wants: "a Kerberos ticket" });
        };
        let (service, host) = (channel.service, channel.host.as_str());
        let place = Place { service, host, principal: &credentials.user, store: &store };
        // RFC 4752 section 3 gives no channel binding to SASL GSSAPI
        let bindings = match inside {
            GssMechanism::Kerberos => None,
            GssMechanism::Spnego => channel.server_end_point.as_ref().map(|digest| {
                let mut data = b"tls-server-end-point:".to_vec();
                data.extend_from_slice(digest);
                data
            }),
        };
        let begin = || {
            let mut context = Context::new(place.credential(inside)?, place.target()?, inside, bindings);
            let (Step::Continue(first) | Step::Done(Some(first))) = context.step(None)? else {
                return Ok((context, Vec::new()));
            };
            Ok((context, first))
        };
        let (context, first) = begin().map_err(|error| match inside {
            GssMechanism::Kerberos => place.explain(&error),
            // inside SPNEGO the library does not say why there is no ticket; Kerberos alone does
            GssMechanism::Spnego => match fetch_ticket(credentials, service, host) {
                Ok(_) => place.explain(&error),
                Err(better) => better,
            },
        })?;
        let (host, principal) = (channel.host.clone(), credentials.user.clone());
        Ok(Self { mechanism, context, first: Some(Zeroizing::new(first)), service, host, principal, store })
    }

    /// The first token; once.
    pub(crate) fn first(&mut self) -> Option<Response> {
        self.first.take()
    }

    /// The answer to the server's token; empty where nothing is left to say.
    pub(crate) fn answer(&mut self, token: &[u8]) -> Result<Response, AuthError> {
        if self.context.is_established() {
            return Err(AuthError::UnexpectedChallenge { mechanism: self.mechanism });
        }
        match self.context.step(Some(token)) {
            Ok(Step::Continue(answer) | Step::Done(Some(answer))) => Ok(Zeroizing::new(answer)),
            Ok(Step::Done(None)) => Ok(Response::default()),
            Err(error) => Err(self.place().explain(&error).into()),
        }
    }

    fn place(&self) -> Place<'_> {
        Place { service: self.service, host: &self.host, principal: &self.principal, store: &self.store }
    }
}

struct GssapiExchange {
    handshake: Handshake,
    layer_agreed: bool,
}

impl Exchange for GssapiExchange {
    fn mechanism(&self) -> &'static str {
        self.handshake.mechanism
    }
    fn initial(&mut self) -> Option<Response> {
        self.handshake.first()
    }
    fn step(&mut self, challenge: &[u8]) -> Result<Response, AuthError> {
        let mechanism = self.handshake.mechanism;
        if !self.handshake.context.is_established() {
            return self.handshake.answer(challenge);
        }
        if std::mem::replace(&mut self.layer_agreed, true) {
            return Err(AuthError::UnexpectedChallenge { mechanism });
        }
        let context = &mut self.handshake.context;
        let offer = context.unwrap(challenge).map_err(|_| AuthError::BadChallenge {
            mechanism,
            why: "its offer of security layers is not protected as it should be",
        })?;
        let answer = no_layer(&offer).map_err(|why| AuthError::BadChallenge { mechanism, why })?;
        match context.wrap(&answer) {
            Ok(token) => Ok(Zeroizing::new(token)),
            Err(error) => Err(self.handshake.place().explain(&error).into()),
        }
    }
}

/// The answer to the server's offer (RFC 4752 section 3.1: a bit mask of layers, of which 1 is "none", and the size of its buffer in three octets): no
/// layer, so a buffer of size zero, and no authorization identity. The server's size tells something about layers only, and servers fill
/// it in even where they offer none.
fn no_layer(offer: &[u8]) -> Result<[u8; 4], &'static str> {
    const NO_LAYER: u8 = 1;
    match offer {
        [layers, _, _, _] if layers & NO_LAYER != 0 => Ok([NO_LAYER, 0, 0, 0]),
        [_, _, _, _] => Err("it insists on a security layer of Kerberos; TLS protects the connection here"),
        _ => Err("its offer of security layers has not four octets"),
    }
}

/// Where a login takes place and whose it is, for errors.
struct Place<'a> {
    service: &'a str,
    host: &'a str,
    principal: &'a str,
    store: &'a TicketStore,
}

impl Place<'_> {
    fn credential(&self, inside: GssMechanism) -> Result<Credential, Error> {
        let name = match self.principal {
            "" => None,
            principal => Some(Name::principal(principal)?),
        };
        let TicketStore { cache, keytab } = self.store;
        let store = Store { cache: cache.clone(), client_keytab: keytab.clone() };
        Credential::acquire(name.as_ref(), inside, &store)
    }

    fn target(&self) -> Result<Name, Error> {
        // a dot at the end says that the name is complete; no realm has a service of such a name
        Name::service(self.service, self.host.trim_end_matches('.'))
    }

    /// The error in an administrator's words.
    fn explain(&self, error: &Error) -> CredentialError {
        let Self { service, host, principal, store } = self;
        let whose = if principal.is_empty() { "this service" } else { principal };
        // every mailbox of a server has the same tickets, so all of them fail alike; what heals without a change of our settings is tried again
        let later = Retry::Later(None);
        let (fault, retry, hint) = match error.fault() {
            Fault::NoTickets | Fault::Keytab => (
                CredentialFault::Settings,
                later,
                match &store.keytab {
                    Some(keytab) => keytab_hint(keytab, principal),
                    None => format!(
                        "there are no Kerberos tickets for {whose}: name its keytab (in the settings, or in KRB5_CLIENT_KTNAME), \
                         or keep a ticket cache filled (KRB5CCNAME; kinit, k5start) that the user of this service can read"
                    ),
                },
            ),
            Fault::Expired => (
                CredentialFault::Settings,
                later,
                "the Kerberos tickets have expired: renew them (kinit, k5start), or give the service a keytab, with which it renews them itself"
                    .to_owned(),
            ),
            Fault::ClockSkew => (
                CredentialFault::Unavailable,
                later,
                "the clocks are more than five minutes apart: synchronize this machine's clock with the domain's (NTP)".to_owned(),
            ),
            Fault::KdcUnreachable => (
                CredentialFault::Unavailable,
                later,
                "no key distribution centre (domain controller) answers: check the network, port 88, and the kdc lines or dns_lookup_kdc in krb5.conf"
                    .to_owned(),
            ),
            Fault::UnknownServer => (
                CredentialFault::Settings,
                Retry::Never,
                format!(
                    "the realm has no service {service}/{host}, or two accounts with it: use the server's full host name as in its service principal name, \
                     not an alias or address; an administrator of the domain sees it with \"setspn -Q {service}/{host}\""
                ),
            ),
            Fault::UnknownClient => (
                CredentialFault::Refused,
                Retry::Never,
                "the realm does not know this principal: check its spelling and realm (upper case), and that the account was not renamed or deleted"
                    .to_owned(),
            ),
            Fault::BadKey => (
                CredentialFault::Refused,
                Retry::Never,
                "the key in the keytab is not the account's: its password was changed since; make the keytab anew (ktpass, msktutil, adcli)".to_owned(),
            ),
            Fault::Locked => (
                CredentialFault::Refused,
                Retry::Never,
                "the account is disabled, locked or expired, or its password is; an administrator of the domain must unlock it".to_owned(),
            ),
            Fault::Encryption => (
                CredentialFault::Settings,
                Retry::Never,
                "the two sides have no encryption type in common: allow AES for the account in the domain, and make the keytab anew with AES keys".to_owned(),
            ),
            Fault::ServerKey => (
                CredentialFault::Refused,
                later,
                format!("the server cannot read tickets for {service}/{host}: its own keytab is older than its account's password, or that name belongs to another account"),
            ),
            Fault::NoRealm => (
                CredentialFault::Settings,
                Retry::Never,
                format!("krb5.conf must name the realm of {host} (domain_realm or default_realm) and its key distribution centre; check KRB5_CONFIG"),
            ),
            Fault::NoLibrary => (
                CredentialFault::Settings,
                later,
                "install MIT Kerberos (Debian and Ubuntu: libgssapi-krb5-2, Red Hat: krb5-libs)".to_owned(),
            ),
            Fault::NoStore => (
                CredentialFault::Settings,
                Retry::Never,
                "name ticket cache and keytab in the environment instead (KRB5CCNAME, KRB5_CLIENT_KTNAME)".to_owned(),
            ),
            Fault::BadName => {
                (CredentialFault::Settings, Retry::Never, "check the principal and the server's host name".to_owned())
            }
            _ => (
                CredentialFault::Unavailable,
                later,
                "KRB5_TRACE=/dev/stderr in the environment shows what the Kerberos library does".to_owned(),
            ),
        };
        CredentialError {
            fault,
            message: format!("Kerberos for {service} at {host}: {error}"),
            hint: Some(hint),
            retry,
            scope: Scope::Server,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_security_layer_rfc_4752_section_3_1() {
        for (offer, expected) in [
            (&[1, 0, 0, 0][..], true),
            // Cyrus SASL and Dovecot name a buffer with or without layers
            (&[7, 0, 0xff, 0xff], true),
            (&[1, 0xff, 0xff, 0xff], true),
            (&[6, 0, 0xff, 0xff], false),
            (&[0, 0, 0, 0], false),
            (&[1, 0, 0], false),
            (&[1, 0, 0, 0, 0], false),
            (&[], false),
        ] {
            assert_eq!(no_layer(offer), no_layer(offer).and(Ok([1, 0, 0, 0])), "{offer:?}");
            assert_eq!(no_layer(offer).is_ok(), expected, "{offer:?}");
        }
    }

    #[test]
    fn other_proofs_are_refused_before_the_library_is_asked() {
        let channel = Channel::tls("imap", "mail.contoso.test", 993, None);
        for credentials in
            [Credentials::new("alice", "s3cr3t".into()), Credentials::bearer("alice", "t0k3n".into())]
        {
            let error = Gssapi.begin(&credentials, &channel).err().unwrap();
            assert_eq!(error, AuthError::WrongProof { mechanism: "GSSAPI", wants: "a Kerberos ticket" });
            let error = fetch_ticket(&credentials, "imap", "mail.contoso.test").unwrap_err();
            assert_eq!(error.fault, CredentialFault::Settings);
        }
    }

    /// Without a key distribution centre: what an administrator reads where there is no ticket.
    #[test]
    fn no_tickets_and_why() {
        if let Err(error) = email_router_gssapi::available() {
            assert!(std::env::var("REQUIRE_PEERS").as_deref() != Ok("1"), "REQUIRE_PEERS=1, but {error}");
            println!("SKIPPED: {error}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let missing = folder.path().join("missing");
        let cache = Some(format!("FILE:{}", missing.display()));
        let channel = Channel::clear("pop", "mail.contoso.test", 110, true);
        for (principal, keytab, expected) in [
            ("", None, "no Kerberos tickets for this service"),
            ("alice@CONTOSO.TEST", None, "no Kerberos tickets for alice@CONTOSO.TEST"),
            ("", Some(missing.clone()), "cannot be read by the user of this service"),
            ("", Some(file("empty", b"")), "is empty"),
            ("", Some(file("garbage", b"neither")), "is no keytab"),
            ("", Some(file("keyless", b"\x05\x02")), "has no key that gets a ticket"),
            ("bob@CONTOSO.TEST", Some(file("bobless", b"\x05\x02")), "has no key of bob@CONTOSO.TEST"),
        ] {
            let store = TicketStore { cache: cache.clone(), keytab };
            let credentials = Credentials::tickets(principal, store);
            let error = fetch_ticket(&credentials, "pop", "mail.contoso.test").unwrap_err();
            assert_eq!((error.fault, error.scope), (CredentialFault::Settings, Scope::Server), "{error}");
            assert!(error.message.starts_with("Kerberos for pop at mail.contoso.test: "), "{error}");
            assert!(error.hint.as_deref().unwrap().contains(expected), "{error:?}");
            let begun = Gssapi.begin(&credentials, &channel).err().unwrap();
            assert_eq!(begun, AuthError::Ticket(error.clone()));
        }
    }
}
