//! From what a server answers to errors: what happened, may it be tried again, how much has to stop, what a person can do.

use email_router_http::{LONGEST_RETRY_DELAY, Scheme, StatusCode};
use email_router_model::{EmailAddress, Retry, Scope};

use super::proto::Problem;
use crate::{Error, ErrorKind};

/// For whom something was asked, by whom, and where: what messages and hints name.
#[derive(Debug, Clone)]
pub(super) struct About<'a> {
    /// `ews mail.contoso.com`.
    pub(super) place: &'a str,
    /// The mailbox.
    pub(super) mailbox: &'a EmailAddress,
    /// The account that logs in.
    pub(super) account: &'a str,
    /// How it logs in.
    pub(super) scheme: Scheme,
    /// Exchange Online, where things differ.
    pub(super) online: bool,
}

/// What helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Help {
    None,
    /// Grant the right to open the mailbox.
    FullAccess,
    /// Grant the right to send as it.
    SendAs,
    /// Grant impersonation.
    Impersonation,
    /// Look at the address.
    Address,
    /// Make room.
    Quota,
    /// These words.
    Say(&'static str),
}

struct Row(&'static str, ErrorKind, Option<Retry>, Option<Scope>, Help);

/// The response codes that mean something of their own; `None` is what is usual for the kind. Names after the reference of `ResponseCode`.
const CODES: &[Row] = {
    use ErrorKind as K;
    use Help as H;
    const NEVER: Option<Retry> = Some(Retry::Never);
    const LATER: Option<Retry> = Some(Retry::Later(None));
    const MESSAGE: Option<Scope> = Some(Scope::Message);
    const MAILBOX: Option<Scope> = Some(Scope::Mailbox);
    const SERVER: Option<Scope> = Some(Scope::Server);
    &[
        // who may do what
        Row("ErrorAccessDenied", K::AccessDenied, None, None, H::FullAccess),
        Row(
            "ErrorAccountDisabled",
            K::Authentication,
            None,
            None,
            H::Say("enable the account in the directory"),
        ),
        Row("ErrorCreateItemAccessDenied", K::AccessDenied, None, None, H::FullAccess),
        Row("ErrorCreateSubfolderAccessDenied", K::AccessDenied, None, None, H::FullAccess),
        Row("ErrorCannotDeleteObject", K::AccessDenied, None, None, H::FullAccess),
        Row("ErrorDelegateMissingConfiguration", K::AccessDenied, None, None, H::FullAccess),
        Row("ErrorFolderNotFound", K::AccessDenied, None, None, H::FullAccess),
        Row("ErrorSyncFolderNotFound", K::AccessDenied, None, None, H::FullAccess),
        Row("ErrorNotDelegate", K::AccessDenied, None, None, H::FullAccess),
        Row("ErrorImpersonateUserDenied", K::AccessDenied, None, None, H::Impersonation),
        Row("ErrorImpersonationDenied", K::AccessDenied, None, None, H::Impersonation),
        Row("ErrorImpersonationFailed", K::AccessDenied, LATER, None, H::Impersonation),
        Row(
            "ErrorImpersonationRequired",
            K::AccessDenied,
            None,
            None,
            H::Say("a token of an application needs impersonation: set the access to impersonation"),
        ),
        Row("ErrorInvalidExchangeImpersonationHeaderData", K::AccessDenied, None, None, H::Address),
        Row(
            "ErrorNonPrimarySmtpAddress",
            K::AccessDenied,
            None,
            None,
            H::Say("give the mailbox its primary address, or impersonate by any address"),
        ),
        Row("ErrorPasswordExpired", K::Authentication, None, None, H::Say("renew the account's password")),
        Row(
            "ErrorPasswordChangeRequired",
            K::Authentication,
            None,
            None,
            H::Say("change the account's password once by hand"),
        ),
        Row("ErrorMailboxLogonFailed", K::AccessDenied, LATER, None, H::FullAccess),
        Row(
            "ErrorOrganizationAccessBlocked",
            K::AccessDenied,
            None,
            SERVER,
            H::Say("the organization blocks Exchange Web Services"),
        ),
        Row("ErrorSendAsDenied", K::AccessDenied, None, MESSAGE, H::SendAs),
        Row("ErrorSubscriptionAccessDenied", K::AccessDenied, None, None, H::FullAccess),
        Row("ErrorUserNotAllowedByPolicy", K::AccessDenied, None, None, H::None),
        // where the mailbox is
        Row("ErrorNonExistentMailbox", K::AccessDenied, None, None, H::Address),
        Row("ErrorMissingExchangePrincipal", K::AccessDenied, None, None, H::Address),
        Row("ErrorInvalidMailbox", K::AccessDenied, None, None, H::Address),
        Row("ErrorInvalidSmtpAddress", K::AccessDenied, None, None, H::Address),
        Row("ErrorCannotFindUser", K::AccessDenied, None, None, H::Address),
        Row("ErrorMailboxConfiguration", K::AccessDenied, None, None, H::Address),
        Row(
            "ErrorCrossSiteRequest",
            K::Settings,
            None,
            None,
            H::Say("use the URL of the site where the mailbox is, or Autodiscover"),
        ),
        Row(
            "ErrorWrongServerVersion",
            K::Settings,
            None,
            None,
            H::Say("use the URL of a server of the mailbox's version, or Autodiscover"),
        ),
        Row(
            "ErrorInvalidSchemaVersionForMailboxVersion",
            K::Settings,
            None,
            None,
            H::Say("set an older version of the schema"),
        ),
        Row(
            "ErrorInvalidServerVersion",
            K::Unsupported,
            None,
            SERVER,
            H::Say("the server is older than Exchange 2007 SP1, or no Exchange"),
        ),
        Row("ErrorIncorrectSchemaVersion", K::Unsupported, None, None, H::None),
        Row("ErrorSchemaValidation", K::Protocol, NEVER, None, H::None),
        Row("ErrorInvalidRequest", K::Protocol, NEVER, None, H::None),
        Row("ErrorInvalidOperation", K::Unsupported, None, None, H::None),
        // not now
        Row(
            "ErrorServerBusy",
            K::Throttled,
            None,
            None,
            H::Say(
                "the server limits how much one account may ask; poll less often, or spread the mailboxes over accounts",
            ),
        ),
        Row(
            "ErrorExceededConnectionCount",
            K::Throttled,
            None,
            None,
            H::Say("fewer sessions at once for this account"),
        ),
        Row("ErrorExceededSubscriptionCount", K::Throttled, None, None, H::None),
        Row("ErrorExceededFindCountLimit", K::Throttled, None, None, H::None),
        Row("ErrorTooManyObjectsOpened", K::Throttled, None, None, H::None),
        Row("ErrorInsufficientResources", K::Throttled, None, SERVER, H::None),
        Row("ErrorNotEnoughMemory", K::Throttled, None, SERVER, H::None),
        Row("ErrorTimeoutExpired", K::Timeout, None, None, H::None),
        Row("ErrorInternalServerTransientError", K::ConnectionLost, None, None, H::None),
        Row("ErrorInternalServerError", K::ConnectionLost, None, None, H::None),
        Row("ErrorRequestAborted", K::ConnectionLost, None, None, H::None),
        Row("ErrorConnectionFailed", K::ConnectionLost, None, None, H::None),
        Row("ErrorBatchProcessingStopped", K::ConnectionLost, None, None, H::None),
        Row(
            "ErrorMailboxMoveInProgress",
            K::MailboxLocked,
            None,
            None,
            H::Say("the mailbox is being moved; wait until that is done"),
        ),
        Row("ErrorMailboxFailover", K::MailboxLocked, None, None, H::None),
        Row(
            "ErrorMailboxStoreUnavailable",
            K::MailboxLocked,
            None,
            None,
            H::Say("the mailbox database is not mounted"),
        ),
        Row("ErrorADUnavailable", K::ConnectionLost, None, SERVER, H::None),
        Row("ErrorADOperation", K::ConnectionLost, None, None, H::None),
        Row("ErrorNoRespondingCASInDestinationSite", K::ConnectionLost, None, SERVER, H::None),
        Row("ErrorProxyRequestProcessingFailed", K::ConnectionLost, None, SERVER, H::None),
        Row("ErrorProxyCallFailed", K::ConnectionLost, None, SERVER, H::None),
        Row("ErrorServiceDiscoveryFailed", K::ConnectionLost, None, SERVER, H::None),
        // one message
        Row("ErrorItemNotFound", K::MessageGone, None, None, H::None),
        Row("ErrorInvalidId", K::MessageGone, None, None, H::None),
        Row("ErrorInvalidIdEmpty", K::MessageGone, None, None, H::None),
        Row("ErrorInvalidIdMalformed", K::MessageGone, None, None, H::None),
        Row("ErrorInvalidIdMalformedEwsLegacyIdFormat", K::MessageGone, None, None, H::None),
        Row("ErrorInvalidIdMonikerTooLong", K::MessageGone, None, None, H::None),
        Row("ErrorInvalidIdStoreObjectIdTooLong", K::MessageGone, None, None, H::None),
        Row("ErrorCannotUseFolderIdForItemId", K::MessageGone, None, None, H::None),
        Row("ErrorObjectTypeChanged", K::MessageGone, None, None, H::None),
        Row("ErrorStaleObject", K::MailboxLocked, None, MESSAGE, H::None),
        Row("ErrorIrresolvableConflict", K::MailboxLocked, None, MESSAGE, H::None),
        Row("ErrorItemSave", K::Storage, None, MESSAGE, H::None),
        Row("ErrorMoveCopyFailed", K::Storage, None, MESSAGE, H::None),
        Row(
            "ErrorCorruptData",
            K::MessageRefused,
            None,
            None,
            H::Say("the item is damaged in the mailbox; move it away by hand"),
        ),
        Row(
            "ErrorItemCorrupt",
            K::MessageRefused,
            None,
            None,
            H::Say("the item is damaged in the mailbox; move it away by hand"),
        ),
        Row(
            "ErrorContentConversionFailed",
            K::MessageRefused,
            None,
            None,
            H::Say("Exchange cannot write the item as an Internet message; move it away by hand"),
        ),
        Row(
            "ErrorUnsupportedMimeConversion",
            K::MessageRefused,
            None,
            None,
            H::Say("the item is of a class that is no Internet message"),
        ),
        Row("ErrorMimeContentConversionFailed", K::MessageRefused, None, None, H::None),
        Row("ErrorMimeContentInvalid", K::MessageRefused, None, None, H::None),
        Row("ErrorInvalidPropertySet", K::MessageRefused, None, None, H::None),
        Row("ErrorInvalidRecipients", K::RecipientsRefused, None, None, H::None),
        Row("ErrorMissingRecipients", K::RecipientsRefused, None, None, H::None),
        Row("ErrorMailRecipientNotFound", K::RecipientsRefused, None, None, H::None),
        Row(
            "ErrorMessageSizeExceeded",
            K::TooLarge,
            None,
            None,
            H::Say("the mailbox or the organization limits the size of messages"),
        ),
        Row("ErrorAttachmentSizeLimitExceeded", K::TooLarge, None, None, H::None),
        Row("ErrorDataSizeLimitExceeded", K::TooLarge, None, None, H::None),
        Row(
            "ErrorRequestStreamTooBig",
            K::TooLarge,
            None,
            None,
            H::Say("the server limits the size of requests (maxRequestLength, maxAllowedContentLength)"),
        ),
        Row("ErrorVirusDetected", K::MessageRefused, None, None, H::None),
        Row("ErrorVirusMessageDeleted", K::MessageGone, None, None, H::None),
        // room
        Row("ErrorQuotaExceeded", K::Storage, None, MAILBOX, H::Quota),
        Row(
            "ErrorSubmissionQuotaExceeded",
            K::Throttled,
            None,
            MAILBOX,
            H::Say("the mailbox has sent as much as it may in a day"),
        ),
        Row("ErrorMessagePerFolderCountReceiveQuotaExceeded", K::Storage, None, MAILBOX, H::Quota),
        Row("ErrorFolderExists", K::Storage, None, MESSAGE, H::None),
        Row("ErrorFolderSave", K::Storage, None, MESSAGE, H::None),
        Row("ErrorFolderSavePropertyError", K::Storage, NEVER, MESSAGE, H::None),
        Row("ErrorToFolderNotFound", K::Storage, None, MESSAGE, H::None),
        Row("ErrorSavedItemFolderNotFound", K::AccessDenied, None, MAILBOX, H::FullAccess),
        // rules
        Row(
            "ErrorInboxRulesValidationError",
            K::MessageRefused,
            None,
            None,
            H::Say(
                "the server takes the rule for invalid: is the address of the forward mailbox one that it can deliver to?",
            ),
        ),
        Row(
            "ErrorOutlookRuleBlobExists",
            K::MessageRefused,
            None,
            None,
            H::Say(
                "Outlook keeps rules of its own in the mailbox, which the change would lose; allow that, or switch them on in Outlook first",
            ),
        ),
        Row(
            "ErrorRulesOverQuota",
            K::Storage,
            NEVER,
            None,
            H::Say("the rules of the mailbox fill their room: delete some, or raise RulesQuota"),
        ),
    ]
};

/// The error for a response code. `doing` says what was tried: `open the inbox`.
pub(super) fn refused(about: &About<'_>, doing: &str, problem: &Problem) -> Error {
    let row = CODES.iter().find(|row| row.0 == problem.code);
    let kind = row.map_or(ErrorKind::Protocol, |row| row.1);
    let message = format!("{} cannot {doing} of {}", about.place, about.mailbox);
    let words = match (problem.code.as_str(), problem.text.as_str()) {
        (code, "") => code.to_owned(),
        ("", text) => text.to_owned(),
        (code, text) => format!("{code}: {text}"),
    };
    let mut error = Error::new(kind, message).with_reply(&words);
    if let Some(Row(_, _, retry, scope, help)) = row {
        error = retry.iter().fold(error, |error, retry| error.with_retry(*retry));
        error = scope.iter().fold(error, |error, scope| error.with_scope(*scope));
        if let Some(hint) = hint(about, *help) {
            error = error.with_hint(hint);
        }
    }
    match problem.back_off {
        Some(delay) => error.after(delay),
        None => error,
    }
}

/// Whether a refusal with this code may come after the work was done.
pub(super) fn may_have_acted(code: &str) -> bool {
    matches!(
        code,
        "ErrorTimeoutExpired"
            | "ErrorInternalServerError"
            | "ErrorRequestAborted"
            | "ErrorClientDisconnected"
            | ""
    )
}

fn hint(about: &About<'_>, help: Help) -> Option<String> {
    let (mailbox, account) = (about.mailbox, about.account);
    Some(match help {
        Help::None => return None,
        Help::Say(words) => words.to_owned(),
        Help::FullAccess => format!(
            "the account {account} needs Full Access to the mailbox: \
             Add-MailboxPermission -Identity {mailbox} -User {account} -AccessRights FullAccess"
        ),
        Help::SendAs => format!("{}; or, for \"on behalf of\", {}", send_as(about), send_on_behalf(about)),
        Help::Impersonation => format!(
            "the account {account} needs the role of impersonation: \
             New-ManagementRoleAssignment -Role ApplicationImpersonation -User {account}"
        ),
        Help::Address => {
            format!("check the address {mailbox}: is there a mailbox of this primary address on this server?")
        }
        Help::Quota => format!("the mailbox {mailbox} is full: make room, or raise its quota"),
    })
}

/// How the right Send As is given.
pub(super) fn send_as(about: &About<'_>) -> String {
    let (mailbox, account) = (about.mailbox, about.account);
    let command = if about.online {
        format!("Add-RecipientPermission -Identity {mailbox} -Trustee {account} -AccessRights SendAs")
    } else {
        format!("Add-ADPermission -Identity {mailbox} -User {account} -ExtendedRights \"Send As\"")
    };
    format!("the account {account} needs the right to send as the mailbox: {command}")
}

/// How the right Send on Behalf is given, to others who have it already beside.
pub(super) fn send_on_behalf(about: &About<'_>) -> String {
    let (mailbox, account) = (about.mailbox, about.account);
    format!(
        "the account {account} needs the right to send on behalf of the mailbox: \
         Set-Mailbox -Identity {mailbox} -GrantSendOnBehalfTo @{{Add=\"{account}\"}}"
    )
}

/// The error for an answer that is no SOAP: an error page, a login form. `words` is its title or beginning.
pub(super) fn status(
    about: &About<'_>,
    status: StatusCode,
    words: &str,
    delay: Option<std::time::Duration>,
) -> Error {
    use ErrorKind as K;
    let place = about.place;
    let code = status.as_u16();
    let (kind, what, hint, scope) = match code {
        401 => (K::Authentication, format!("refuses the login of {} itself, whatever the mailbox", about.account), login_hint(about), None),
        403 if about.online => (K::AccessDenied, "does not allow Exchange Web Services".to_owned(), ONLINE.to_owned(), None),
        403 => (K::AccessDenied, "does not allow Exchange Web Services".to_owned(), format!("check that EWS is enabled for the account: Set-CASMailbox -Identity {} -EwsEnabled $true; and that no proxy or rule of the web server stands before it", about.account), None),
        404 | 405 => (K::Settings, "has no Exchange Web Services at this URL".to_owned(), "check the URL: it ends in /EWS/Exchange.asmx; or use Autodiscover".to_owned(), Some(Scope::Server)),
        301 | 302 | 303 | 307 | 308 | 440 => (K::Settings, "sends to a login page instead of answering".to_owned(), "the URL is that of a web mail, or a proxy wants a login by form: use the URL that ends in /EWS/Exchange.asmx, with Basic, NTLM or Negotiate".to_owned(), Some(Scope::Server)),
        413 => (K::TooLarge, "takes no request of this size".to_owned(), "the server limits the size of requests (maxRequestLength, maxAllowedContentLength)".to_owned(), None),
        429 => (K::Throttled, "wants to be asked less often".to_owned(), "poll less often, or with fewer sessions at once".to_owned(), None),
        456 => (K::Authentication, "has locked the account".to_owned(), "the account is blocked, or has to change its password or give a second factor".to_owned(), None),
        503 => (K::Throttled, "is not available".to_owned(), "the server is overloaded, or its application pool stands still".to_owned(), Some(Scope::Server)),
        502 | 504 => (K::ConnectionLost, "has a gateway before it that gets no answer".to_owned(), String::new(), Some(Scope::Server)),
        _ => (K::Protocol, "gives an answer that is none of Exchange Web Services".to_owned(), "check that the URL is that of Exchange Web Services: it ends in /EWS/Exchange.asmx".to_owned(), None),
    };
    let mut error = Error::new(kind, format!("{place} {what} (HTTP {code})"));
    if !words.is_empty() {
        error = error.with_reply(words);
    }
    if !hint.is_empty() {
        error = error.with_hint(hint);
    }
    error = scope.into_iter().fold(error, Error::with_scope);
    match delay {
        Some(delay) if matches!(kind, K::Throttled | K::ConnectionLost) => {
            error.after(delay.min(LONGEST_RETRY_DELAY))
        }
        _ => error,
    }
}

const ONLINE: &str =
    "EWS is switched off in Exchange Online since October 2026: use Microsoft Graph for this mailbox";

fn login_hint(about: &About<'_>) -> String {
    match about.scheme {
        _ if about.online => format!("Exchange Online takes tokens only, with the permission full_access_as_app or EWS.AccessAsUser.All; and {ONLINE}"),
        Scheme::Basic => "check name and password; the server may not offer Basic for EWS, or the account may be locked".to_owned(),
        Scheme::Bearer => "the token is not for this server, has expired, or lacks the permission full_access_as_app or EWS.AccessAsUser.All".to_owned(),
        scheme => format!("check name, domain and password; the server may not offer {scheme} for EWS, or demand channel binding (Extended Protection)"),
    }
}

/// An answer that is neither SOAP nor an error page.
pub(super) fn nonsense(about: &About<'_>, why: &dyn std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("{} sent what is no answer of Exchange Web Services: {why}", about.place),
    )
}

/// The title of an HTML page, else the beginning of a text, without markup.
pub(super) fn words_of(page: &str) -> String {
    let lower = page.to_ascii_lowercase();
    let title = lower.find("<title").and_then(|at| {
        let from = at + lower[at..].find('>')? + 1;
        Some(page[from..from + lower[from..].find('<')?].trim().to_owned())
    });
    match title {
        Some(title) => title,
        None if lower.contains("<html") || lower.contains("<!doctype") => String::new(),
        None => page.chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use email_router_model::Classified as _;
    use std::time::Duration;

    fn about(mailbox: &EmailAddress) -> About<'_> {
        About {
            place: "ews mail.contoso.test",
            mailbox,
            account: "CONTOSO\\svc",
            scheme: Scheme::Basic,
            online: false,
        }
    }

    #[test]
    fn codes() {
        let ann: EmailAddress = "ann@contoso.test".parse().unwrap();
        let mut seen = std::collections::HashSet::new();
        for Row(code, kind, retry, scope, _) in CODES {
            assert!(seen.insert(code), "{code} is there twice");
            let problem = Problem { code: (*code).to_owned(), text: "words".to_owned(), back_off: None };
            let error = refused(&about(&ann), "open the inbox", &problem);
            assert_eq!(error.kind(), *kind, "{code}");
            let usual = Error::new(*kind, "");
            assert_eq!(error.retry(), retry.unwrap_or(usual.retry()), "{code}");
            assert_eq!(error.scope(), scope.unwrap_or(usual.scope()), "{code}");
            assert_eq!(error.reply(), Some(format!("{code}: words").as_str()));
        }
        assert!(CODES.len() >= 60);
    }

    #[test]
    fn hints_name_the_command_that_helps() {
        let ann: EmailAddress = "ann@contoso.test".parse().unwrap();
        for (code, online, hint) in [
            (
                "ErrorAccessDenied",
                false,
                "Add-MailboxPermission -Identity ann@contoso.test -User CONTOSO\\svc -AccessRights FullAccess",
            ),
            ("ErrorSendAsDenied", false, "Add-ADPermission -Identity ann@contoso.test -User CONTOSO\\svc"),
            (
                "ErrorSendAsDenied",
                true,
                "Add-RecipientPermission -Identity ann@contoso.test -Trustee CONTOSO\\svc",
            ),
            (
                "ErrorImpersonateUserDenied",
                false,
                "New-ManagementRoleAssignment -Role ApplicationImpersonation",
            ),
            ("ErrorNonExistentMailbox", false, "check the address ann@contoso.test"),
        ] {
            let problem = Problem { code: code.to_owned(), text: String::new(), back_off: None };
            let error = refused(&About { online, ..about(&ann) }, "open the inbox", &problem);
            assert!(error.hint().unwrap().contains(hint), "{code}: {:?}", error.hint());
        }
    }

    #[test]
    fn back_off_and_unknown_codes() {
        let ann: EmailAddress = "ann@contoso.test".parse().unwrap();
        let busy = Problem {
            code: "ErrorServerBusy".into(),
            text: String::new(),
            back_off: Some(Duration::from_secs(7)),
        };
        let error = refused(&about(&ann), "read", &busy);
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Throttled, Retry::Later(Some(Duration::from_secs(7))))
        );
        let new = Problem { code: "ErrorOfTheFuture".into(), text: "x".into(), back_off: None };
        let error = refused(&about(&ann), "read", &new);
        assert_eq!((error.kind(), error.scope()), (ErrorKind::Protocol, Scope::Mailbox));
    }

    #[test]
    fn pages() {
        let ann: EmailAddress = "ann@contoso.test".parse().unwrap();
        for (code, online, kind, hint) in [
            (401, false, ErrorKind::Authentication, "check name and password"),
            (401, true, ErrorKind::Authentication, "October 2026"),
            (403, false, ErrorKind::AccessDenied, "Set-CASMailbox"),
            (403, true, ErrorKind::AccessDenied, "Microsoft Graph"),
            (404, false, ErrorKind::Settings, "/EWS/Exchange.asmx"),
            (302, false, ErrorKind::Settings, "login by form"),
            (440, false, ErrorKind::Settings, "login by form"),
            (429, false, ErrorKind::Throttled, "less often"),
            (503, false, ErrorKind::Throttled, "overloaded"),
            (200, false, ErrorKind::Protocol, "/EWS/Exchange.asmx"),
        ] {
            let delay = Some(Duration::from_secs(3));
            let error =
                status(&About { online, ..about(&ann) }, StatusCode::from_u16(code).unwrap(), "words", delay);
            assert_eq!(error.kind(), kind, "{code}");
            assert!(error.hint().unwrap().contains(hint), "{code}: {:?}", error.hint());
            assert_eq!(error.retry() == Retry::Later(delay), kind == ErrorKind::Throttled, "{code}");
        }
        assert_eq!(words_of("<html><HEAD><TITLE>Not\nhere</TITLE>"), "Not\nhere");
        assert_eq!(words_of("<!DOCTYPE html><body>x"), "");
        assert_eq!(words_of("plain words"), "plain words");
    }
}
