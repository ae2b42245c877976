//! Choosing a mechanism.

use crate::{
    AuthError, CramMd5, Credentials, Exchange, Login, Mechanism, Negotiate, Ntlm, OAuthBearer, Plain, XOAuth2,
};

/// The mechanisms of this crate, strongest first: those that do not show the password come before those that do; a standardized one comes before
/// one that is only published. Those for access tokens do not compete with those for passwords, since nobody has both.
pub const STRONGEST_FIRST: &[&dyn Mechanism] =
    &[&OAuthBearer, &XOAuth2, &Negotiate::system(), &Ntlm::system(), &CramMd5, &Plain, &Login];

/// Windows authentication with a password: SPNEGO, else NTLM alone.
pub const WINDOWS: &[&dyn Mechanism] = &[&Negotiate::system(), &Ntlm::system()];

/// OAuth 2.0: an access token.
pub const OAUTH2: &[&dyn Mechanism] = &[&OAuthBearer, &XOAuth2];

/// Where an exchange takes place: what protects the bytes on their way, and whom they go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// TLS is established.
    pub encrypted: bool,
    /// The administrator allows the password to be sent without TLS.
    pub cleartext_allowed: bool,
    /// The service as Kerberos names it (the first part of a service principal name): `pop`, `imap`, `smtp`, `HTTP`.
    pub service: &'static str,
    /// The server's host name, as it was configured.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// The channel binding `tls-server-end-point` (RFC 5929 section 4): the digest of the server's certificate; `None` without TLS, or where the
    /// certificate's signature names no digest.
    pub server_end_point: Option<Vec<u8>>,
}

impl Channel {
    /// A channel without TLS to this server.
    #[must_use]
    pub fn clear(service: &'static str, host: impl Into<String>, port: u16, cleartext_allowed: bool) -> Self {
        Self { encrypted: false, cleartext_allowed, service, host: host.into(), port, server_end_point: None }
    }

    /// A channel inside TLS to this server.
    #[must_use]
    pub fn tls(
        service: &'static str,
        host: impl Into<String>,
        port: u16,
        server_end_point: Option<Vec<u8>>,
    ) -> Self {
        Self { encrypted: true, cleartext_allowed: false, service, host: host.into(), port, server_end_point }
    }

    /// Whether a password may be written to this channel.
    #[must_use]
    pub fn may_show_password(&self) -> bool {
        self.encrypted || self.cleartext_allowed
    }
}

/// Why no mechanism was chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickError {
    /// The server offers nothing that we know.
    #[error("the server offers no known way to log in (it offers {offered})")]
    NothingInCommon {
        /// What it offers, separated by spaces; `nothing` when it offers nothing.
        offered: String,
    },
    /// What both sides know wants another proof than there is.
    #[error("the server offers {offered}, which needs {wants}, and there is only {has}")]
    ProofMissing {
        /// What could have been used with it.
        offered: String,
        /// What it needs; as [`ProofKind::as_str`](crate::ProofKind::as_str) says it.
        wants: &'static str,
        /// What there is.
        has: &'static str,
    },
    /// All that both sides know would send the password in clear.
    #[error("the server offers only {offered}, which would send the password without encryption")]
    CleartextRefused {
        /// What could have been used.
        offered: String,
    },
    /// The chosen mechanism cannot send these credentials.
    #[error(transparent)]
    Auth(#[from] AuthError),
}

/// Starts the first of `mechanisms` (strongest first, see [`STRONGEST_FIRST`]) that the server offers, the credentials have the proof for, and
/// the channel allows.
///
/// Two mechanisms may have one name and want different proofs.
/// Names are compared without regard to letter case (RFC 4422 section 3.1 makes them upper case, servers do not always).
///
/// # Errors
/// [`PickError`] when there is none; nothing was sent then.
pub fn pick<'a>(
    offered: impl IntoIterator<Item = &'a str>,
    mechanisms: &[&dyn Mechanism],
    credentials: &Credentials,
    channel: &Channel,
) -> Result<Box<dyn Exchange>, PickError> {
    let offered: Vec<&str> = offered.into_iter().collect();
    let known: Vec<&&dyn Mechanism> = mechanisms
        .iter()
        .filter(|m| offered.iter().any(|name| name.eq_ignore_ascii_case(m.name())))
        .collect();
    let has = credentials.proof.kind();
    let provable = known.iter().filter(|m| m.wants() == has);
    if let Some(best) = provable.clone().find(|m| channel.may_show_password() || !m.shows_password()) {
        return Ok(best.begin(credentials, channel)?);
    }
    if known.is_empty() {
        let offered = if offered.is_empty() { "nothing".to_owned() } else { offered.join(" ") };
        // the server wrote these names: keep them short and printable
        let offered = offered.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
        return Err(PickError::NothingInCommon { offered });
    }
    if let (Some(first), None) = (known.first(), provable.clone().next()) {
        let wants = first.wants();
        let offered = names(known.iter().filter(|m| m.wants() == wants));
        return Err(PickError::ProofMissing { offered, wants: wants.as_str(), has: has.as_str() });
    }
    Err(PickError::CleartextRefused { offered: names(provable) })
}

fn names<'a>(mechanisms: impl Iterator<Item = &'a &'a &'a dyn Mechanism>) -> String {
    mechanisms.map(|m| m.name()).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strongest_that_the_channel_allows() {
        let tls = Channel::tls("pop", "localhost", 995, None);
        let bare = Channel::clear("pop", "localhost", 110, false);
        let risky = Channel::clear("pop", "localhost", 110, true);
        let credentials = Credentials::new("tim", "hunter2".into());
        for (offered, channel, expected) in [
            ("LOGIN PLAIN CRAM-MD5", &tls, Ok("CRAM-MD5")),
            ("LOGIN PLAIN", &tls, Ok("PLAIN")),
            ("login", &tls, Ok("LOGIN")),
            ("PLAIN CRAM-MD5", &bare, Ok("CRAM-MD5")),
            ("PLAIN LOGIN", &bare, Err(PickError::CleartextRefused { offered: "PLAIN and LOGIN".into() })),
            ("PLAIN LOGIN", &risky, Ok("PLAIN")),
            ("LOGIN PLAIN CRAM-MD5 NTLM XOAUTH2", &tls, Ok("NTLM")),
            ("NTLM GSS-SPNEGO", &bare, Ok("GSS-SPNEGO")),
            ("GSSAPI", &tls, Err(PickError::NothingInCommon { offered: "GSSAPI".into() })),
            ("", &tls, Err(PickError::NothingInCommon { offered: "nothing".into() })),
        ] {
            let got = pick(offered.split_whitespace(), STRONGEST_FIRST, &credentials, channel);
            assert_eq!(got.map(|e| e.mechanism()), expected, "{offered} on {channel:?}");
        }
    }

    #[test]
    fn only_what_the_proof_fits() {
        let tls = Channel::tls("smtp", "localhost", 587, None);
        let bare = Channel::clear("smtp", "localhost", 587, false);
        let token = Credentials::bearer("tim", "tok3n".into());
        let password = Credentials::new("tim", "hunter2".into());
        let ticket = Credentials::process_identity();
        let missing = |offered: &str, wants, has| {
            Err(PickError::ProofMissing { offered: offered.to_owned(), wants, has })
        };
        for (offered, credentials, channel, expected) in [
            ("PLAIN NTLM XOAUTH2", &token, &tls, Ok("XOAUTH2")),
            ("PLAIN XOAUTH2 OAUTHBEARER", &token, &tls, Ok("OAUTHBEARER")),
            ("PLAIN XOAUTH2 OAUTHBEARER", &password, &tls, Ok("PLAIN")),
            ("PLAIN LOGIN", &token, &tls, missing("PLAIN and LOGIN", "a password", "an access token")),
            (
                "XOAUTH2 OAUTHBEARER",
                &password,
                &tls,
                missing("OAUTHBEARER and XOAUTH2", "an access token", "a password"),
            ),
            ("NTLM PLAIN", &ticket, &tls, missing("NTLM and PLAIN", "a password", "a Kerberos ticket")),
            ("XOAUTH2 NTLM", &token, &bare, Err(PickError::CleartextRefused { offered: "XOAUTH2".into() })),
        ] {
            let got = pick(offered.split_whitespace(), STRONGEST_FIRST, credentials, channel);
            assert_eq!(got.map(|e| e.mechanism()), expected, "{offered} with {credentials:?}");
        }
        let error = pick(["XOAUTH2"], STRONGEST_FIRST, &password, &tls).err().unwrap();
        assert_eq!(
            error.to_string(),
            "the server offers XOAUTH2, which needs an access token, and there is only a password"
        );
    }
}
