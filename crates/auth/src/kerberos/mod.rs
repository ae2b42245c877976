//! Kerberos: the SASL mechanism GSSAPI, the Kerberos side of Negotiate, and tickets fetched in advance.
//!
//! The tickets and the cryptography are the system's library's ([`email_router_gssapi`]). Its first step may ask a key distribution centre, and blocks
//! meanwhile; [`fetch_ticket`] does that before a session begins, where blocking is allowed, and leaves the ticket in the cache, so that the
//! exchange itself only computes. (It may look up the host's name in the DNS once more, unless `krb5.conf` says `dns_canonicalize_hostname = false`.)

mod place;

use std::time::Duration;

use email_router_gssapi::{Context, Mechanism as GssMechanism, Step};
use email_router_model::{Retry, Scope};
use zeroize::Zeroizing;

use self::place::Place;
use crate::{
    AuthError, Channel, CredentialError, CredentialFault, Credentials, Exchange, Mechanism, ProofKind,
    Response, TicketStore,
};

/// `GSSAPI` (RFC 4752): Kerberos 5. Of the security layers that are negotiated after the login only "none" is accepted: what protects the mail is
/// TLS. The mailbox that is opened is the one that the server knows the principal by; no other is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gssapi;

/// `GSS-SPNEGO`, the scheme `Negotiate` of HTTP (RFC 4559), for who has a ticket: SPNEGO that offers Kerberos, tied to the TLS connection where there is
/// one. [`Negotiate`](crate::Negotiate) is its twin for who has a password.
#[derive(Debug, Clone, Copy, Default)]
pub struct KerberosNegotiate;

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
    fn wants(&self) -> ProofKind {
        ProofKind::ProcessIdentity
    }
    fn shows_password(&self) -> bool {
        false
    }
    fn begin(&self, credentials: &Credentials, channel: &Channel) -> Result<Box<dyn Exchange>, AuthError> {
        let handshake = Handshake::begin(self.name(), GssMechanism::Kerberos, credentials, channel)?;
        Ok(Box::new(GssapiExchange { handshake, agreed: None }))
    }
}

impl Mechanism for KerberosNegotiate {
    fn name(&self) -> &'static str {
        "GSS-SPNEGO"
    }
    fn wants(&self) -> ProofKind {
        ProofKind::ProcessIdentity
    }
    fn shows_password(&self) -> bool {
        false
    }
    fn begin(&self, credentials: &Credentials, channel: &Channel) -> Result<Box<dyn Exchange>, AuthError> {
        let handshake = Handshake::begin(self.name(), GssMechanism::Spnego, credentials, channel)?;
        Ok(Box::new(NegotiateExchange(handshake)))
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
    /// The channel is inside TLS.
    encrypted: bool,
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
            return Err(AuthError::WrongProof { mechanism, wants: ProofKind::ProcessIdentity.as_str() });
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
        let (first, encrypted) = (Some(Zeroizing::new(first)), channel.encrypted);
        Ok(Self { mechanism, context, first, encrypted, service, host, principal, store })
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

    /// The server says that the login worked: with its last token, where it has one, it proves who it is.
    fn finish(&mut self, last: Option<&[u8]>) -> Result<(), AuthError> {
        match last.map(|token| self.answer(token)).transpose()? {
            Some(answer) if !answer.is_empty() => {
                Err(AuthError::UnexpectedChallenge { mechanism: self.mechanism })
            }
            _ => Ok(()),
        }
    }

    fn unproven(&self) -> AuthError {
        AuthError::BadChallenge { mechanism: self.mechanism, why: "it does not prove who the server is" }
    }

    fn place(&self) -> Place<'_> {
        Place { service: self.service, host: &self.host, principal: &self.principal, store: &self.store }
    }
}

struct GssapiExchange {
    handshake: Handshake,
    /// Whether we agreed to the server's offer of layers; `None` before it came.
    agreed: Option<bool>,
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
        if self.agreed.replace(false).is_some() {
            return Err(AuthError::UnexpectedChallenge { mechanism });
        }
        let context = &mut self.handshake.context;
        let offer = context.unwrap(challenge).map_err(|_| AuthError::BadChallenge {
            mechanism,
            why: "its offer of security layers is not protected as it should be",
        })?;
        let answer = no_layer(&offer).map_err(|why| AuthError::BadChallenge { mechanism, why })?;
        match context.wrap(&answer) {
            Ok(token) => {
                self.agreed = Some(true);
                Ok(Zeroizing::new(token))
            }
            Err(error) => Err(self.handshake.place().explain(&error).into()),
        }
    }
    fn finish(&mut self, last: Option<&[u8]>) -> Result<(), AuthError> {
        self.handshake.finish(last)?;
        match self.agreed {
            Some(true) => Ok(()),
            _ => Err(self.handshake.unproven()),
        }
    }
}

struct NegotiateExchange(Handshake);

impl Exchange for NegotiateExchange {
    fn mechanism(&self) -> &'static str {
        self.0.mechanism
    }
    fn initial(&mut self) -> Option<Response> {
        self.0.first()
    }
    fn step(&mut self, challenge: &[u8]) -> Result<Response, AuthError> {
        self.0.answer(challenge)
    }
    fn finish(&mut self, last: Option<&[u8]>) -> Result<(), AuthError> {
        self.0.finish(last)?;
        // inside TLS the certificate has proven it; an answer without a token is then one of a proxy, or of a page that wants no login
        match self.0.context.is_established() || self.0.encrypted {
            true => Ok(()),
            false => Err(self.0.unproven()),
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
            assert_eq!(no_layer(offer).ok(), expected.then_some([1, 0, 0, 0]), "{offer:?}");
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
