//! SPNEGO (RFC 4178, [MS-SPNG]) around NTLM.
//!
//! Kerberos is not in here: whoever has a ticket uses the mechanism of the same name that the system's GSSAPI library offers
//! ([`ProofKind::ProcessIdentity`]). [`pick`](crate::pick) tells the two apart by the proof.

mod der;
mod token;

pub use token::{Answer, State};

use std::fmt;

use email_router_model::{Clock, Entropy, SystemClock, SystemEntropy};

use crate::ntlm::{Context, Ntlm};
use crate::{AuthError, Channel, Credentials, Exchange, Mechanism, ProofKind, Response};

/// `GSS-SPNEGO`, the scheme `Negotiate` of HTTP (RFC 4559), for who has a password: SPNEGO that offers NTLM.
///
/// The list of mechanisms is signed with the key of the NTLM exchange (`mechListMIC`), which servers demand whenever the NTLM messages have a
/// checksum ([MS-SPNG] 3.3.5.1); a signature of the server is checked.
#[derive(Clone, Copy)]
pub struct Negotiate<E = SystemEntropy, C = SystemClock>(Ntlm<E, C>);

impl Negotiate {
    /// With the random numbers and the clock of the machine.
    #[must_use]
    pub const fn system() -> Self {
        Self(Ntlm::system())
    }
}

impl<E: Entropy, C: Clock> Negotiate<E, C> {
    /// With the random numbers and the clock of this NTLM.
    pub const fn new(ntlm: Ntlm<E, C>) -> Self {
        Self(ntlm)
    }
}

impl<E, C> fmt::Debug for Negotiate<E, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Negotiate")
    }
}

const NAME: &str = "GSS-SPNEGO";

impl<E: Entropy, C: Clock> Mechanism for Negotiate<E, C> {
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
        let ntlm = self.0.context(NAME, credentials, channel)?;
        Ok(Box::new(NegotiateExchange { ntlm, completed: false }))
    }
}

struct NegotiateExchange {
    ntlm: Context,
    /// The server has said so, in a message of SPNEGO.
    completed: bool,
}

impl NegotiateExchange {
    fn bad(why: &'static str) -> AuthError {
        AuthError::BadChallenge { mechanism: NAME, why }
    }

    /// The server's message, if it speaks of what we offered.
    fn read(message: &[u8]) -> Result<Answer, AuthError> {
        let answer = Answer::parse(message).map_err(Self::bad)?;
        if answer.mechanism.as_deref().is_some_and(|chosen| chosen != token::NTLM) {
            return Err(Self::bad("it chose a mechanism that was not offered"));
        }
        Ok(answer)
    }

    /// The server's last message.
    fn complete(&mut self, message: &[u8]) -> Result<(), AuthError> {
        let answer = Self::read(message)?;
        if answer.state == Some(State::Rejected) {
            return Err(AuthError::Refused { mechanism: NAME });
        }
        if answer.state.is_some_and(|state| state != State::Completed) || answer.token.is_some() {
            return Err(AuthError::UnexpectedChallenge { mechanism: NAME });
        }
        // A server that signs nothing is taken at its word: the signature protects a choice, and one mechanism was offered
        if let Some(signature) = &answer.list_signature
            && !self.ntlm.is_signed_by_server(&token::mechanisms(), signature)
        {
            return Err(Self::bad("its signature under the list of mechanisms is wrong"));
        }
        self.completed = true;
        Ok(())
    }
}

impl Exchange for NegotiateExchange {
    fn mechanism(&self) -> &'static str {
        NAME
    }
    fn initial(&mut self) -> Option<Response> {
        Some(Response::new(token::initial(&self.ntlm.negotiate())))
    }
    fn step(&mut self, challenge: &[u8]) -> Result<Response, AuthError> {
        if self.completed {
            return Err(AuthError::UnexpectedChallenge { mechanism: NAME });
        }
        if self.ntlm.is_complete() {
            // SASL has no room for it beside the success, so it comes as one more challenge
            self.complete(challenge)?;
            return Ok(Response::default());
        }
        let answer = Self::read(challenge)?;
        if answer.state == Some(State::Rejected) {
            return Err(Self::bad("it refuses NTLM"));
        }
        let asked = answer.token.ok_or(Self::bad("it has no NTLM message"))?;
        let proof = self.ntlm.authenticate(&asked)?;
        let signature = self.ntlm.sign(&token::mechanisms());
        Ok(Response::new(token::next(&proof, signature.as_ref().map(|s| &s[..]))))
    }
    fn finish(&mut self, last: Option<&[u8]>) -> Result<(), AuthError> {
        match last {
            Some(message) if self.ntlm.is_complete() && !self.completed => self.complete(message),
            Some(_) => Err(AuthError::UnexpectedChallenge { mechanism: NAME }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ntlm::tests::ntlm;
    use email_router_testkit::ntlm::NtlmServer;

    fn begin() -> Box<dyn Exchange> {
        let channel = Channel::tls("HTTP", "mail.example.com", 443, Some(vec![1; 32]));
        Negotiate::new(ntlm()).begin(&Credentials::new("tim", "hunter2".into()), &channel).unwrap()
    }

    fn answer(state: u8, token: Option<&[u8]>, signature: Option<&[u8]>) -> Vec<u8> {
        use der::{element, tag};
        let octets = |n, bytes: Option<&[u8]>| {
            bytes.map_or_else(Vec::new, |b| element(tag::context(n), &[&element(tag::OCTET_STRING, &[b])]))
        };
        let state = element(tag::context(0), &[&[tag::ENUMERATED, 1, state]]);
        let fields = element(tag::SEQUENCE, &[&state, &octets(2, token), &octets(3, signature)]);
        element(tag::context(1), &[&fields])
    }

    /// The NTLM message and the signature of our second message.
    fn inside(message: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let answer = Answer::parse(message).unwrap();
        assert_eq!(answer.state, Some(State::Incomplete));
        (answer.token.unwrap(), answer.list_signature.unwrap())
    }

    #[test]
    fn both_signatures() {
        for in_sasl in [true, false] {
            let mut exchange = begin();
            let first = exchange.initial().unwrap();
            let negotiate = &first[first.len() - 40..];
            let server = NtlmServer::new("tim", "", "hunter2");
            let second = exchange.step(&answer(1, Some(&server.challenge()), None)).unwrap();
            let (proof, signature) = inside(&second);
            let keys = server.accept(negotiate, &proof).unwrap();
            assert_eq!(signature, keys.of_client(&token::mechanisms()));
            let last = answer(0, None, Some(&keys.of_server(&token::mechanisms())));
            if in_sasl {
                assert!(exchange.step(&last).unwrap().is_empty());
                exchange.finish(None).unwrap();
                assert!(exchange.step(&last).is_err() && exchange.finish(Some(&last)).is_err());
            } else {
                exchange.finish(Some(&last)).unwrap();
            }
        }
    }

    #[test]
    fn wrong_signatures_and_odd_endings() {
        let wrong = "its signature under the list of mechanisms is wrong";
        let server = NtlmServer::new("tim", "", "hunter2");
        for (what, last, fault) in [
            ("no signature", answer(0, None, None), None),
            ("a wrong one", answer(0, None, Some(&[1; 16])), Some(NegotiateExchange::bad(wrong))),
            ("a short one", answer(0, None, Some(&[1])), Some(NegotiateExchange::bad(wrong))),
            ("refused", answer(2, None, None), Some(AuthError::Refused { mechanism: NAME })),
            ("goes on", answer(1, None, None), Some(AuthError::UnexpectedChallenge { mechanism: NAME })),
            (
                "a token",
                answer(0, Some(b"x"), None),
                Some(AuthError::UnexpectedChallenge { mechanism: NAME }),
            ),
            ("no SPNEGO", b"NTLMSSP".to_vec(), Some(NegotiateExchange::bad("it is no SPNEGO message"))),
        ] {
            let mut exchange = begin();
            exchange.initial().unwrap();
            exchange.step(&answer(1, Some(&server.challenge()), None)).unwrap();
            assert_eq!(exchange.finish(Some(&last)).err(), fault, "{what}");
        }
        let mut own = begin();
        own.initial().unwrap();
        let second = own.step(&answer(1, Some(&server.challenge()), None)).unwrap();
        let (_, ours) = inside(&second);
        assert_eq!(
            own.finish(Some(&answer(0, None, Some(&ours)))),
            Err(NegotiateExchange::bad(wrong)),
            "ours, reflected"
        );
    }

    #[test]
    fn odd_first_answers() {
        let other = [0xa1, 11, 0x30, 9, 0xa0, 3, 0x0a, 1, 1, 0xa1, 3, 0x06, 1, 0x2b];
        for (message, why) in [
            (answer(2, None, None), "it refuses NTLM"),
            (answer(1, None, None), "it has no NTLM message"),
            (answer(1, Some(b"x"), None), "it is no NTLM message"),
            (Vec::new(), "it is no SPNEGO message"),
            ([&[0xa1, 12, 0x30, 10], &other[4..]].concat(), "it chose a mechanism that was not offered"),
        ] {
            let mut exchange = begin();
            exchange.initial().unwrap();
            assert_eq!(exchange.step(&message).unwrap_err(), NegotiateExchange::bad(why));
        }
        assert!(begin().finish(Some(&answer(0, None, None))).is_err(), "success before anything was proven");
    }
}
