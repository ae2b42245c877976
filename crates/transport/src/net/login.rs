//! What the words of a mail system mean for who has to set up a login. The same for every protocol, since the words are those of the system
//! behind it.

use email_router_auth::{CredentialSource, Credentials, PickError};
use email_router_model::{Classified as _, Mailbox, Retry};

use crate::{Error, ErrorKind, Result};

/// Words of a refused login, in lower case, and what to do about them; the first that fits counts.
///
/// Microsoft: the replies of Exchange Online to POP, IMAP and SMTP AUTH clients, as its support articles quote them. Google: the replies of
/// Gmail, as in its help pages on SMTP errors.
const HINTS: &[(&[&str], &str)] = &[
    (
        &["smtpclientauthentication is disabled for the tenant"],
        "SMTP AUTH is switched off for the whole tenant: an Exchange administrator can switch it on for this mailbox alone with Set-CASMailbox -Identity <mailbox> -SmtpClientAuthenticationDisabled $false, or send through Microsoft Graph",
    ),
    (
        &["smtpclientauthentication is disabled for the mailbox"],
        "SMTP AUTH is switched off for this mailbox: an Exchange administrator switches it on with Set-CASMailbox -Identity <mailbox> -SmtpClientAuthenticationDisabled $false",
    ),
    (
        &["security defaults policy"],
        "the security defaults of the tenant block logins with a password: choose OAuth 2.0",
    ),
    (
        &["basic authentication is disabled", "basicauthblocked", "basic auth is disabled", "5.7.139"],
        "the mail system takes no passwords for this account any more: choose OAuth 2.0",
    ),
    (
        &["authenticated but not connected"],
        "the login is good, but not for this mailbox: for an application, register its service principal in Exchange (New-ServicePrincipal) and give it the mailbox (Add-MailboxPermission -AccessRights FullAccess); else check that the protocol is enabled for the mailbox",
    ),
    (
        &["logondenied", "logon denied"],
        "the mail system knows the account but denies this login: check that POP or IMAP is enabled for the mailbox (Get-CASMailbox), and with OAuth 2.0 that the application has the permission POP.AccessAsApp, IMAP.AccessAsApp or SMTP.SendAsApp with an administrator's consent",
    ),
    (
        &["application-specific password", "app password", "app-specific password", "invalidsecondfactor"],
        "the account has two-step verification: create an application password for this program and use it in place of the account's own",
    ),
    (
        &["web login required", "log in via your web browser", "please log in with your web browser"],
        "the mail system wants a person to confirm this login: log in with a web browser once, then try again; or use OAuth 2.0 or an application password",
    ),
    (
        &["proxynotauthenticated", "proxy not authenticated"],
        "the server that keeps the mailbox refused what the front-end server took: use the user principal name (user@domain) as user name",
    ),
    (
        &["\"status\":\"401\"", "\"status\":\"400\"", "invalid_token"],
        "the access token is not accepted: check tenant, application, scope (https://outlook.office365.com/.default) and that the name is that of the mailbox",
    ),
];

/// What a person can do about a login that was refused with these words.
pub(crate) fn login_hint(words: &str) -> Option<&'static str> {
    let words = words.to_ascii_lowercase();
    HINTS.iter().find(|(known, _)| known.iter().any(|w| words.contains(w))).map(|(_, hint)| *hint)
}

/// What a person can do where the account may not send as an address: the words of Exchange, at MAIL or behind the data.
#[cfg(feature = "smtp")]
pub(crate) fn send_as_hint(words: &str) -> Option<&'static str> {
    const WORDS: [&str; 3] = ["sendasdenied", "5.7.60", "not have permissions to send as this sender"];
    let words = words.to_ascii_lowercase();
    WORDS.iter().any(|known| words.contains(known)).then_some(
        "the account that logs in needs the right Send As on the sender's mailbox: Add-RecipientPermission -Identity <mailbox> -Trustee <account> -AccessRights SendAs (Exchange Online), Add-ADPermission -Identity <mailbox> -User <account> -ExtendedRights \"Send As\" (Exchange Server)",
    )
}

/// What a person can do where no way to log in was found.
pub(crate) fn no_mechanism_hint(why: &PickError) -> Option<&'static str> {
    match why {
        PickError::ProofMissing { wants: "an access token", .. } => Some(
            "this server wants OAuth 2.0: choose it as authentication type and give the application's identity",
        ),
        PickError::ProofMissing { has: "an access token", .. } => {
            Some("this server takes no OAuth 2.0 logins here: choose an authentication type with a password")
        }
        PickError::ProofMissing { .. } => Some("choose an authentication type that fits the credentials"),
        _ => None,
    }
}

/// The credentials of a mailbox, and whether others may be tried in the same call.
///
/// A token that a mail system refuses may just have been withdrawn, and one that was kept may have expired: once, and only where the source then
/// gives others, a login is tried again. The same are never tried twice: that would lock accounts.
pub(crate) struct LoginAttempt {
    pub(crate) credentials: Option<Credentials>,
    renewed: bool,
}

impl LoginAttempt {
    /// Asks the source.
    ///
    /// # Errors
    /// What the source says.
    pub(crate) async fn first(source: &dyn CredentialSource, mailbox: &Mailbox) -> Result<Self> {
        Ok(Self { credentials: source.credentials(mailbox).await?, renewed: false })
    }

    /// After a failed login: tells the source if it was the credentials that were refused, and asks for others. Gives `error` back where there is
    /// nothing else to try.
    ///
    /// # Errors
    /// `error`, or what the source says when it cannot renew: that is then the reason.
    pub(crate) async fn again(
        &mut self,
        error: Error,
        source: &dyn CredentialSource,
        mailbox: &Mailbox,
    ) -> Result<()> {
        let Some(used) = self.credentials.as_ref().filter(|_| refuses_credentials(&error)) else {
            return Err(error);
        };
        source.refused(mailbox, used);
        if self.renewed {
            return Err(error);
        }
        let other = source.credentials(mailbox).await?;
        if other.is_none() || other == self.credentials {
            return Err(error);
        }
        (self.credentials, self.renewed) = (other, true);
        Ok(())
    }
}

/// Whether the server looked at the credentials and refused them for good; not where no way to log in was found, nor where it could not tell.
fn refuses_credentials(error: &Error) -> bool {
    error.kind() == ErrorKind::Authentication && error.retry() == Retry::Never && error.reply().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_mail_systems() {
        for (words, hint) in [
            (
                "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit https://aka.ms/smtp_auth_disabled for more information.",
                "switched off for the whole tenant",
            ),
            (
                "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.",
                "switched off for this mailbox",
            ),
            (
                "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
                "choose OAuth 2.0",
            ),
            (
                "535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults policy.",
                "security defaults",
            ),
            ("Logon failure: LogonDenied-BasicAuthBlocked", "choose OAuth 2.0"),
            ("AUTHENTICATE failed. [Error=\"LogonDenied\"]", "is enabled for the mailbox"),
            ("User is authenticated but not connected.", "Add-MailboxPermission"),
            ("[Error=ProxyNotAuthenticated]", "user principal name"),
            ("534-5.7.9 Application-specific password required.", "two-step verification"),
            ("534-5.7.14 Please log in via your web browser", "web browser"),
            (
                "[AUTH] Authentication failed.; {\"status\":\"401\",\"schemes\":\"bearer\",\"scope\":\"mail\"}",
                "access token",
            ),
        ] {
            assert!(
                login_hint(words).is_some_and(|found| found.contains(hint)),
                "{words}: {:?}",
                login_hint(words)
            );
        }
        assert_eq!(login_hint("535 5.7.8 wrong password"), None);
        for words in [
            "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
            "554 5.2.252 SendAsDenied; svc@contoso.test not allowed to send as ann@contoso.test",
        ] {
            assert!(
                send_as_hint(words).is_some_and(|hint| hint.contains("Add-RecipientPermission")),
                "{words}"
            );
        }
        assert_eq!(send_as_hint("550 5.7.1 no"), None);
    }

    #[test]
    fn only_a_refusal_by_the_server_is_about_the_credentials() {
        let said = |kind| Error::new(kind, "x").with_reply("535 no");
        assert!(refuses_credentials(&said(ErrorKind::Authentication)));
        assert!(!refuses_credentials(&Error::new(ErrorKind::Authentication, "no common mechanism")));
        assert!(!refuses_credentials(&said(ErrorKind::Authentication).with_retry(Retry::Later(None))));
        assert!(!refuses_credentials(&said(ErrorKind::AccessDenied)));
    }
}
