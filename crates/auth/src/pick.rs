//! Choosing a mechanism.

use crate::{AuthError, CramMd5, Credentials, Exchange, Login, Mechanism, Plain};

/// The mechanisms of this crate, strongest first: those that do not show the password come before those that do; PLAIN before
/// LOGIN because it is the standardized one.
pub const STRONGEST_FIRST: &[&dyn Mechanism] = &[&CramMd5, &Plain, &Login];

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

/// Starts the first of `mechanisms` (strongest first, see [`STRONGEST_FIRST`]) that the server offers and the channel allows.
///
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
    if let Some(best) = known.iter().find(|m| channel.may_show_password() || !m.shows_password()) {
        return Ok(best.begin(credentials, channel)?);
    }
    if known.is_empty() {
        let offered = if offered.is_empty() { "nothing".to_owned() } else { offered.join(" ") };
        // the server wrote these names: keep them short and printable
        let offered = offered.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
        return Err(PickError::NothingInCommon { offered });
    }
    let offered = known.iter().map(|m| m.name()).collect::<Vec<_>>().join(" and ");
    Err(PickError::CleartextRefused { offered })
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
            ("NTLM", &tls, Err(PickError::NothingInCommon { offered: "NTLM".into() })),
            ("", &tls, Err(PickError::NothingInCommon { offered: "nothing".into() })),
        ] {
            let got = pick(offered.split_whitespace(), STRONGEST_FIRST, &credentials, channel);
            assert_eq!(got.map(|e| e.mechanism()), expected, "{offered} on {channel:?}");
        }
    }
}
