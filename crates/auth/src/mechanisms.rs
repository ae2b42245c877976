//! PLAIN, LOGIN, CRAM-MD5 and APOP.

use email_router_model::Secret;
use email_router_model::raw::hex;
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use zeroize::Zeroizing;

use crate::{AuthError, Channel, Credentials, Exchange, Mechanism, ProofKind, Response};

/// `PLAIN` (RFC 4616): authorization identity (left empty: the server derives it), name and password, separated by NUL.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

/// `LOGIN` (draft-murchison-sasl-login): the server asks for the name, then for the password. Its prompts are not compared with
/// anything, since servers spell them in many ways; the first challenge is answered with the name, the second with the password.
#[derive(Debug, Clone, Copy, Default)]
pub struct Login;

/// `CRAM-MD5` (RFC 2195): an HMAC-MD5 of the server's challenge, keyed with the password.
#[derive(Debug, Clone, Copy, Default)]
pub struct CramMd5;

impl Mechanism for Plain {
    fn name(&self) -> &'static str {
        "PLAIN"
    }
    fn wants(&self) -> ProofKind {
        ProofKind::Password
    }
    fn shows_password(&self) -> bool {
        true
    }
    fn begin(&self, credentials: &Credentials, _: &Channel) -> Result<Box<dyn Exchange>, AuthError> {
        let password = password(self.name(), credentials)?;
        let (user, secret) = (credentials.user.as_bytes(), password.expose().as_bytes());
        let mut message = Zeroizing::new(Vec::with_capacity(user.len() + secret.len() + 2));
        message.push(0);
        message.extend_from_slice(user);
        message.push(0);
        message.extend_from_slice(secret);
        Ok(Box::new(PlainExchange(Some(message))))
    }
}

struct PlainExchange(Option<Response>);

impl Exchange for PlainExchange {
    fn mechanism(&self) -> &'static str {
        "PLAIN"
    }
    fn initial(&mut self) -> Option<Response> {
        self.0.take()
    }
    fn step(&mut self, _challenge: &[u8]) -> Result<Response, AuthError> {
        self.0.take().ok_or(AuthError::UnexpectedChallenge { mechanism: "PLAIN" })
    }
}

impl Mechanism for Login {
    fn name(&self) -> &'static str {
        "LOGIN"
    }
    fn wants(&self) -> ProofKind {
        ProofKind::Password
    }
    fn shows_password(&self) -> bool {
        true
    }
    fn begin(&self, credentials: &Credentials, _: &Channel) -> Result<Box<dyn Exchange>, AuthError> {
        let password = password(self.name(), credentials)?;
        let bytes = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
        // taken from the end
        Ok(Box::new(LoginExchange(vec![bytes(password.expose()), bytes(&credentials.user)])))
    }
}

struct LoginExchange(Vec<Response>);

impl Exchange for LoginExchange {
    fn mechanism(&self) -> &'static str {
        "LOGIN"
    }
    fn initial(&mut self) -> Option<Response> {
        None
    }
    fn step(&mut self, _prompt: &[u8]) -> Result<Response, AuthError> {
        self.0.pop().ok_or(AuthError::UnexpectedChallenge { mechanism: "LOGIN" })
    }
}

impl Mechanism for CramMd5 {
    fn name(&self) -> &'static str {
        "CRAM-MD5"
    }
    fn wants(&self) -> ProofKind {
        ProofKind::Password
    }
    fn shows_password(&self) -> bool {
        false
    }
    fn begin(&self, credentials: &Credentials, _: &Channel) -> Result<Box<dyn Exchange>, AuthError> {
        // the answer is "name space digest": RFC 2195 section 2 leaves the name free, spaces in it included
        let password = password(self.name(), credentials)?.clone();
        Ok(Box::new(CramExchange(Some((credentials.user.clone(), password)))))
    }
}

struct CramExchange(Option<(String, Secret)>);

impl Exchange for CramExchange {
    fn mechanism(&self) -> &'static str {
        "CRAM-MD5"
    }
    fn initial(&mut self) -> Option<Response> {
        None
    }
    fn step(&mut self, challenge: &[u8]) -> Result<Response, AuthError> {
        const MECHANISM: &str = "CRAM-MD5";
        let (user, password) =
            self.0.take().ok_or(AuthError::UnexpectedChallenge { mechanism: MECHANISM })?;
        // an empty challenge would make the answer good for every session: refuse to give it
        if challenge.is_empty() {
            return Err(AuthError::BadChallenge { mechanism: MECHANISM, why: "it is empty" });
        }
        let mac = <Hmac<Md5> as KeyInit>::new_from_slice(password.expose().as_bytes());
        let Ok(mut mac) = mac else {
            // HMAC takes keys of every length (RFC 2104 section 2), so this is not reached
            return Err(AuthError::BadChallenge { mechanism: MECHANISM, why: "no key" });
        };
        mac.update(challenge);
        let mut answer = Zeroizing::new(user.into_bytes());
        answer.push(b' ');
        answer.extend_from_slice(hex(&mac.finalize().into_bytes()).as_bytes());
        Ok(answer)
    }
}

/// The digest of the POP3 command `APOP` (RFC 1939 section 7): MD5 over the timestamp of the greeting, angle brackets
/// included, followed by the shared secret; 32 lower-case hexadecimal digits.
///
/// The caller must have checked that the timestamp is a well-formed `msg-id`; otherwise a hostile server can recover the first
/// characters of the password from collisions (CVE-2007-1558).
#[must_use]
pub fn apop_digest(timestamp: &str, secret: &Secret) -> String {
    let mut md5 = Md5::new();
    md5.update(timestamp.as_bytes());
    md5.update(secret.expose().as_bytes());
    hex(&md5.finalize())
}

/// The password, if there is one and it can be sent: NUL separates the fields of PLAIN (RFC 4616 section 2) and ends strings in every
/// server written in C.
fn password<'a>(mechanism: &'static str, credentials: &'a Credentials) -> Result<&'a Secret, AuthError> {
    let Some(password) = credentials.password() else {
        return Err(AuthError::WrongProof { mechanism, wants: ProofKind::Password.as_str() });
    };
    for (what, text) in [("user name", credentials.user.as_str()), ("password", password.expose())] {
        if text.contains('\0') {
            return Err(AuthError::Unrepresentable { mechanism, what, character: "a NUL character" });
        }
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> Channel {
        Channel::tls("smtp", "mail.example.com", 587, None)
    }

    fn begin(mechanism: &dyn Mechanism, user: &str, password: &str) -> Box<dyn Exchange> {
        mechanism.begin(&Credentials::new(user, password.into()), &channel()).unwrap()
    }

    #[test]
    fn plain_rfc_4616_section_4() {
        let mut exchange = begin(&Plain, "tim", "tanstaaftanstaaf");
        assert_eq!(exchange.initial().unwrap().as_slice(), b"\0tim\0tanstaaftanstaaf");
        assert_eq!(exchange.step(b""), Err(AuthError::UnexpectedChallenge { mechanism: "PLAIN" }));
        // without an initial response the same bytes answer the empty challenge
        assert_eq!(begin(&Plain, "tim", "x").step(b"").unwrap().as_slice(), b"\0tim\0x");
    }

    #[test]
    fn login_answers_name_then_password_whatever_the_prompt() {
        for (first, second) in [("Username:", "Password:"), ("User Name\0", "Password\0"), ("", "")] {
            let mut exchange = begin(&Login, "tim", "geheim ü");
            assert!(exchange.initial().is_none());
            assert_eq!(exchange.step(first.as_bytes()).unwrap().as_slice(), b"tim");
            assert_eq!(exchange.step(second.as_bytes()).unwrap().as_slice(), "geheim ü".as_bytes());
            assert!(exchange.step(b"and?").is_err());
        }
    }

    #[test]
    fn cram_md5_rfc_2195_section_2() {
        let mut exchange = begin(&CramMd5, "tim", "tanstaaftanstaaf");
        assert!(exchange.initial().is_none());
        let answer = exchange.step(b"<1896.697170952@postoffice.reston.mci.net>").unwrap();
        assert_eq!(answer.as_slice(), b"tim b913a602c7eda7a495b4e6e7334d3890");
        assert!(exchange.step(b"<again@x>").is_err());
        assert!(begin(&CramMd5, "tim", "x").step(b"").is_err());
        // a key longer than the block of MD5 is hashed first (RFC 2104 section 2)
        assert!(begin(&CramMd5, "tim", &"k".repeat(100)).step(b"<a@b>").is_ok());
    }

    #[test]
    fn apop_rfc_1939_section_7() {
        assert_eq!(
            apop_digest("<1896.697170952@dbc.mtview.ca.us>", &"tanstaaf".into()),
            "c4c9334bac560ecc979e58001b3e22fb"
        );
    }

    #[test]
    fn nul_is_refused_and_the_error_shows_no_secret() {
        for mechanism in [&Plain as &dyn Mechanism, &Login, &CramMd5] {
            let error =
                mechanism.begin(&Credentials::new("tim", "hun\0ter2".into()), &channel()).err().unwrap();
            assert!(!error.to_string().contains("hun") && error.to_string().contains("password"), "{error}");
            let token = Credentials::bearer("tim", "tok3n".into());
            assert!(matches!(mechanism.begin(&token, &channel()), Err(AuthError::WrongProof { .. })));
            assert!(mechanism.begin(&Credentials::new("t\0im", "x".into()), &channel()).is_err());
        }
    }
}
