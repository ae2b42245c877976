//! XOAUTH2 and OAUTHBEARER: an OAuth 2.0 access token in place of a password.

use email_router_model::Secret;
use zeroize::Zeroizing;

use crate::{AuthError, Channel, Credentials, Exchange, Mechanism, ProofKind, Response};

/// `XOAUTH2`, as Google and Microsoft publish it: the mailbox and the token. A server that refuses tells why in a challenge, which is answered
/// with nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct XOAuth2;

/// `OAUTHBEARER` (RFC 7628): the mailbox, the server and the token. A server that refuses tells why in a challenge, which is answered with one
/// octet 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct OAuthBearer;

impl Mechanism for XOAuth2 {
    fn name(&self) -> &'static str {
        "XOAUTH2"
    }
    fn wants(&self) -> ProofKind {
        ProofKind::AccessToken
    }
    fn shows_password(&self) -> bool {
        true
    }
    fn begin(&self, credentials: &Credentials, _: &Channel) -> Result<Box<dyn Exchange>, AuthError> {
        let (user, token) = checked(self.name(), credentials)?;
        let message = join(&["user=", user, "\x01auth=Bearer ", token.expose(), "\x01\x01"]);
        Ok(Box::new(Bearer {
            mechanism: self.name(),
            message: Some(message),
            acknowledgement: b"",
            refusal: None,
        }))
    }
}

impl Mechanism for OAuthBearer {
    fn name(&self) -> &'static str {
        "OAUTHBEARER"
    }
    fn wants(&self) -> ProofKind {
        ProofKind::AccessToken
    }
    fn shows_password(&self) -> bool {
        true
    }
    fn begin(&self, credentials: &Credentials, channel: &Channel) -> Result<Box<dyn Exchange>, AuthError> {
        let (user, token) = checked(self.name(), credentials)?;
        // RFC 5801 section 4: the two characters that mean something in this header
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let (host, port) = (channel.host.replace(char::is_control, ""), channel.port.to_string());
        let server = ["\x01host=", &host, "\x01port=", &port];
        let message = join(
            &[&["n,a=", &user, ","], &server[..], &["\x01auth=Bearer ", token.expose(), "\x01\x01"]].concat(),
        );
        let acknowledgement = b"\x01";
        Ok(Box::new(Bearer {
            mechanism: self.name(),
            message: Some(message),
            acknowledgement,
            refusal: None,
        }))
    }
}

struct Bearer {
    mechanism: &'static str,
    message: Option<Response>,
    /// What answers the reason for a refusal.
    acknowledgement: &'static [u8],
    refusal: Option<String>,
}

impl Exchange for Bearer {
    fn mechanism(&self) -> &'static str {
        self.mechanism
    }
    fn initial(&mut self) -> Option<Response> {
        self.message.take()
    }
    fn waits_to_be_asked(&self) -> bool {
        // the form that both publish for POP3 and that every server of theirs takes
        self.mechanism == "XOAUTH2"
    }
    fn step(&mut self, challenge: &[u8]) -> Result<Response, AuthError> {
        if let Some(message) = self.message.take() {
            return Ok(message);
        }
        if self.refusal.is_some() {
            return Err(AuthError::UnexpectedChallenge { mechanism: self.mechanism });
        }
        let words = String::from_utf8_lossy(challenge);
        let words =
            words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_REFUSAL).collect();
        self.refusal = Some(words);
        Ok(Response::new(self.acknowledgement.to_vec()))
    }
    fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref().filter(|words| !words.trim().is_empty())
    }
}

/// The longest reason for a refusal that is kept, in characters.
const LONGEST_REFUSAL: usize = 300;

/// Name and token, if they can be sent: the octet 1 separates the fields, and RFC 6750 section 2.1 says what a token is made of.
fn checked<'a>(
    mechanism: &'static str,
    credentials: &'a Credentials,
) -> Result<(&'a str, &'a Secret), AuthError> {
    let Some(token) = credentials.token() else {
        return Err(AuthError::WrongProof { mechanism, wants: ProofKind::AccessToken.as_str() });
    };
    let bad = |what, character| Err(AuthError::Unrepresentable { mechanism, what, character });
    if credentials.user.is_empty() {
        return bad("user name", "no character at all");
    }
    if credentials.user.contains(char::is_control) {
        return bad("user name", "a control character");
    }
    let text = token.expose();
    if text.is_empty() {
        return bad("access token", "no character at all");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b)) {
        return bad("access token", "a character that RFC 6750 does not allow");
    }
    Ok((&credentials.user, token))
}

/// One text of several; made at its length at once, so that no copy of a token stays behind in memory.
fn join(parts: &[&str]) -> Response {
    let mut message = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    for part in parts {
        message.extend_from_slice(part.as_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(mechanism: &dyn Mechanism, user: &str, token: &str) -> Result<Box<dyn Exchange>, AuthError> {
        let channel = Channel::tls("imap", "server.example.com", 143, None);
        mechanism.begin(&Credentials::bearer(user, token.into()), &channel)
    }

    #[test]
    fn xoauth2_as_published() {
        let mut exchange =
            begin(&XOAuth2, "someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg").unwrap();
        assert_eq!(
            exchange.initial().unwrap().as_slice(),
            b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\x01\x01"
        );
    }

    #[test]
    fn oauthbearer_rfc_7628_section_4_1() {
        let mut exchange =
            begin(&OAuthBearer, "user@example.com", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==").unwrap();
        assert_eq!(
            exchange.initial().unwrap().as_slice(),
            b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
        );
        let mut exchange = begin(&OAuthBearer, "a=b,c@example.com", "t").unwrap();
        assert!(exchange.initial().unwrap().starts_with(b"n,a=a=3Db=2Cc@example.com,\x01"));
    }

    #[test]
    fn a_refusal_is_acknowledged_and_kept() {
        for (mechanism, acknowledgement) in [(&XOAuth2 as &dyn Mechanism, &b""[..]), (&OAuthBearer, b"\x01")]
        {
            let mut exchange = begin(mechanism, "tim", "t").unwrap();
            let message = exchange.step(b"").unwrap();
            assert!(message.ends_with(b"auth=Bearer t\x01\x01"), "sent when it is asked for");
            assert_eq!(exchange.refusal(), None);
            let reason = br#"{"status":"401","schemes":"bearer","scope":"mail"}"#;
            assert_eq!(exchange.step(reason).unwrap().as_slice(), acknowledgement);
            assert_eq!(exchange.refusal(), Some(r#"{"status":"401","schemes":"bearer","scope":"mail"}"#));
            assert!(exchange.step(b"again").is_err());

            let mut exchange = begin(mechanism, "tim", "t").unwrap();
            exchange.initial().unwrap();
            exchange.step(&[b"\x1b[31m".to_vec(), vec![b'x'; 1000]].concat()).unwrap();
            assert!(exchange.refusal().unwrap().starts_with(" [31mxxx"));
            assert_eq!(exchange.refusal().unwrap().len(), LONGEST_REFUSAL);
        }
    }

    #[test]
    fn what_cannot_be_sent() {
        for mechanism in [&XOAuth2 as &dyn Mechanism, &OAuthBearer] {
            for (user, token, what) in [
                ("", "t", "user name"),
                ("tim\x01auth=Bearer x", "t", "user name"),
                ("tim", "", "access token"),
                ("tim", "s3cret\x01", "access token"),
                ("tim", "s3cret s3cret", "access token"),
            ] {
                let error = begin(mechanism, user, token).err().unwrap();
                assert!(matches!(error, AuthError::Unrepresentable { what: w, .. } if w == what), "{error}");
                assert!(!error.to_string().contains("s3cret"));
            }
            let password = Credentials::new("tim", "hunter2".into());
            let channel = Channel::clear("pop", "h", 110, false);
            assert!(matches!(mechanism.begin(&password, &channel), Err(AuthError::WrongProof { .. })));
        }
    }
}
