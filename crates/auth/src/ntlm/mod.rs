//! NTLMv2, the client's side, after [MS-NLMP].
//!
//! What it does beyond the least that works, because servers with Extended Protection (Exchange Server 2019 CU14 and later) want it: the
//! hash of the TLS channel (`MsvAvChannelBindings`), the name of the service (`MsvAvTargetName`), and a checksum over all three messages (MIC),
//! announced in `MsvAvFlags`. What it leaves out on purpose: NTLMv1 and LM, which give the password away; OEM character sets; and an
//! exchanged key, which would serve to encrypt what is said later, and which needs RC4.

mod challenge;
mod context;
mod crypto;

pub use challenge::{Attribute, Challenge};
pub(crate) use context::Context;

use std::fmt;

use email_router_model::{Clock, Entropy, SystemClock, SystemEntropy};

use crate::{AuthError, Channel, Credentials, Exchange, Mechanism, ProofKind, Response};

/// What every message begins with.
const SIGNATURE: &[u8] = b"NTLMSSP\0";

/// What the sides agree upon ([MS-NLMP] 2.2.2.5).
pub mod flags {
    /// Names are UTF-16.
    pub const UNICODE: u32 = 1;
    /// The server is asked for its name.
    pub const REQUEST_TARGET: u32 = 1 << 2;
    /// Messages may be signed.
    pub const SIGN: u32 = 1 << 4;
    /// NTLM authentication.
    pub const NTLM: u32 = 1 << 9;
    /// There is a key to sign with, even if nothing is signed.
    pub const ALWAYS_SIGN: u32 = 1 << 15;
    /// Signing keys of their own for each direction.
    pub const EXTENDED_SESSION_SECURITY: u32 = 1 << 19;
    /// The challenge has a list of attributes.
    pub const TARGET_INFO: u32 = 1 << 23;
    /// The messages have a version field.
    pub const VERSION: u32 = 1 << 25;
    /// Keys of 128 bits.
    pub const KEY_128: u32 = 1 << 29;
    /// Keys of 56 bits, where 128 cannot be had.
    pub const KEY_56: u32 = 1 << 31;
}

/// `NTLM` ([MS-NLMP]; as SASL mechanism [MS-SMTPNTLM] and [MS-OXPOP3]; for HTTP [MS-NTHT]): NTLMv2 with channel binding.
///
/// User names may be `DOMAIN\user`, `user@domain` or `user`; with the latter two the server finds the domain. The random numbers are drawn and
/// the clock is read when an exchange begins; the time counts only for servers that do not tell theirs.
#[derive(Clone, Copy)]
pub struct Ntlm<E = SystemEntropy, C = SystemClock> {
    entropy: E,
    clock: C,
}

impl Ntlm {
    /// With the random numbers and the clock of the machine.
    #[must_use]
    pub const fn system() -> Self {
        Self { entropy: SystemEntropy, clock: SystemClock }
    }
}

impl<E: Entropy, C: Clock> Ntlm<E, C> {
    /// With these random numbers and this clock.
    pub const fn new(entropy: E, clock: C) -> Self {
        Self { entropy, clock }
    }

    /// What both NTLM alone and SPNEGO around it begin with.
    pub(crate) fn context(
        &self,
        mechanism: &'static str,
        credentials: &Credentials,
        channel: &Channel,
    ) -> Result<Context, AuthError> {
        let Some(password) = credentials.password() else {
            return Err(AuthError::WrongProof { mechanism, wants: ProofKind::Password.as_str() });
        };
        let mut client_challenge = [0; 8];
        self.entropy.fill(&mut client_challenge);
        Context::new(mechanism, &credentials.user, password, channel, client_challenge, self.clock.now())
    }
}

impl<E, C> fmt::Debug for Ntlm<E, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ntlm")
    }
}

const NAME: &str = "NTLM";

impl<E: Entropy, C: Clock> Mechanism for Ntlm<E, C> {
    fn name(&self) -> &'static str {
        NAME
    }
    fn wants(&self) -> ProofKind {
        ProofKind::Password
    }
    fn shows_password(&self) -> bool {
        false
    }
    fn begin(&self, credentials: &Credentials, channel: &Channel) -> Result<Box<dyn Exchange>, AuthError> {
        Ok(Box::new(NtlmExchange(self.context(NAME, credentials, channel)?)))
    }
}

struct NtlmExchange(Context);

impl Exchange for NtlmExchange {
    fn mechanism(&self) -> &'static str {
        NAME
    }
    fn initial(&mut self) -> Option<Response> {
        Some(Response::new(self.0.negotiate().to_vec()))
    }
    fn waits_to_be_asked(&self) -> bool {
        true
    }
    fn step(&mut self, challenge: &[u8]) -> Result<Response, AuthError> {
        self.0.authenticate(challenge)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use email_router_model::{ManualClock, SeededEntropy, Timestamp};
    use email_router_testkit::ntlm::NtlmServer;

    pub(crate) fn ntlm() -> Ntlm<SeededEntropy, ManualClock> {
        Ntlm::new(SeededEntropy::new(1), ManualClock::new(Timestamp::UNIX_EPOCH))
    }

    fn channel() -> Channel {
        Channel::tls("smtp", "mail.example.com", 587, Some(vec![1; 32]))
    }

    #[test]
    fn a_strict_server_accepts() {
        for (name, user, domain) in [
            ("CONTOSO\\tim", "tim", "CONTOSO"),
            ("tim@contoso.test", "tim@contoso.test", ""),
            ("tim", "tim", ""),
            ("CONTOSO\\müller", "müller", "CONTOSO"),
        ] {
            let server = NtlmServer::new(user, domain, "geheim ü");
            for server in [server.clone(), server.without_time()] {
                let server = server.with_server_end_point(vec![1; 32]).with_target("smtp/mail.example.com");
                let run = |password: &str, channel: &Channel| {
                    let mut exchange =
                        ntlm().begin(&Credentials::new(name, password.into()), channel).unwrap();
                    let first = exchange.initial().unwrap();
                    let last = exchange.step(&server.challenge()).unwrap();
                    exchange.finish(None).unwrap();
                    server.accept(&first, &last).map(drop)
                };
                assert_eq!(run("geheim ü", &channel()), Ok(()), "{name}");
                assert_eq!(run("other", &channel()), Err("wrong password".into()));
                for digest in [None, Some(vec![2; 32])] {
                    let other = Channel { server_end_point: digest, ..channel() };
                    assert_eq!(run("geheim ü", &other), Err("the channel binding is wrong".into()));
                }
                let other = Channel { host: "elsewhere.example".into(), ..channel() };
                assert_eq!(run("geheim ü", &other), Err("the client wants to reach another service".into()));
            }
        }
    }

    #[test]
    fn an_exchange_has_two_messages() {
        let mut exchange = ntlm().begin(&Credentials::new("tim", "hunter2".into()), &channel()).unwrap();
        assert!(exchange.waits_to_be_asked());
        assert_eq!(exchange.initial().unwrap().len(), 40);
        exchange.step(&challenge::tests::sample()).unwrap();
        let again = exchange.step(&challenge::tests::sample()).unwrap_err();
        assert_eq!(again, AuthError::UnexpectedChallenge { mechanism: "NTLM" });
    }

    #[test]
    fn proofs_and_names_that_do_not_fit() {
        let token = Credentials::bearer("tim", "tok3n".into());
        let error = ntlm().begin(&token, &channel()).err().unwrap();
        assert_eq!(error, AuthError::WrongProof { mechanism: "NTLM", wants: "a password" });
        for user in ["", "EXAMPLE\\", "t\0im", &"x".repeat(1025)] {
            let error = ntlm().begin(&Credentials::new(user, "hunter2".into()), &channel()).err().unwrap();
            assert!(matches!(error, AuthError::Unrepresentable { what: "user name", .. }), "{user:?}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
