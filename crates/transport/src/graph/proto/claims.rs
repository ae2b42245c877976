//! What an access token says about itself, for test access only: nothing is decided by it but hints.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use email_router_model::Secret;
use serde_json::Value;

use super::text;

/// The claims of an access token of Microsoft Entra, as far as they help an administrator.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    /// For whom it is: `https://graph.microsoft.com`, or the application id of Graph.
    pub audience: Option<String>,
    /// Application permissions.
    pub roles: Vec<String>,
    /// Delegated permissions.
    pub scopes: Vec<String>,
    /// Which application it was given to, by its display name.
    pub application: Option<String>,
}

impl Claims {
    /// Reads the claims, without checking anything; `None` where the token cannot be read, which is nothing bad: tokens are opaque to their
    /// bearer.
    #[must_use]
    pub fn read(token: &Secret) -> Option<Self> {
        let mut parts = token.expose().split('.');
        let payload = parts.nth(1)?.trim_end_matches('=');
        parts.next()?;
        let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        let list = |name: &str| -> Vec<String> {
            let entries = claims.get(name).and_then(Value::as_array);
            entries.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let scopes = text(&claims, "scp").unwrap_or("").split_whitespace().map(str::to_owned).collect();
        Some(Self {
            audience: text(&claims, "aud").map(str::to_owned),
            roles: list("roles"),
            scopes,
            application: text(&claims, "app_displayname").map(str::to_owned),
        })
    }

    /// Whether it names any permission at all.
    #[must_use]
    pub fn has_permissions(&self) -> bool {
        !self.roles.is_empty() || !self.scopes.is_empty()
    }

    /// Whether one of these permissions is among them, also in the form for shared mailboxes (`Mail.Read.Shared`).
    #[must_use]
    pub fn allows(&self, permissions: &[&str]) -> bool {
        self.roles.iter().chain(&self.scopes).any(|held| {
            let held = held.strip_suffix(".Shared").unwrap_or(held);
            permissions.iter().any(|wanted| held.eq_ignore_ascii_case(wanted))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> Secret {
        Secret::from(format!("e30.{}.sig", BASE64_URL_SAFE_NO_PAD.encode(payload)))
    }

    #[test]
    fn roles_and_scopes() {
        let app =
            Claims::read(&token(r#"{"aud":"https://graph.microsoft.com","roles":["Mail.Send",5]}"#)).unwrap();
        assert!(app.allows(&["Mail.Send"]) && !app.allows(&["Mail.ReadWrite"]) && app.has_permissions());
        let user = Claims::read(&token(r#"{"scp":"Mail.ReadWrite.Shared openid"}"#)).unwrap();
        assert!(user.allows(&["Mail.Read", "Mail.ReadWrite"]));
        for opaque in ["", "a.b", "a.!!.c", "opaque-token", "a.W10.c.d.e"] {
            let claims = Claims::read(&Secret::from(opaque));
            assert!(claims.is_none_or(|c| !c.has_permissions()), "{opaque}");
        }
    }
}
