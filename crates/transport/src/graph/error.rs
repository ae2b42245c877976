//! The service's refusals, by kind, retry and scope.

use std::time::Duration;

use email_router_model::{Mailbox, Retry, Scope};

use super::proto::Malformed;
use super::proto::fault::Fault;
use super::settings::SendAccess;
use crate::{Error, ErrorKind};

/// What was being done; decides which permission is missing, and what "not found" means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Listing a mailbox, or looking at a folder.
    Listing,
    /// Reading one message.
    Message,
    /// Deleting, moving or marking one message.
    Disposal,
    /// Handing over a message.
    Submission,
    /// Preparing a draft of a large message.
    Draft,
    /// Looking for a message that was sent.
    Finding,
    /// Reading inbox rules.
    Rules,
    /// Changing inbox rules.
    RuleChange,
}

impl Stage {
    fn doing(self) -> &'static str {
        match self {
            Self::Listing => "the listing",
            Self::Message => "the message",
            Self::Disposal => "the change of a message",
            Self::Submission => "the submission",
            Self::Draft => "the draft of a large message",
            Self::Finding => "the search for a sent message",
            Self::Rules => "the inbox rules",
            Self::RuleChange => "the change of an inbox rule",
        }
    }

    /// The least that has to be granted, for a hint.
    pub(super) fn permission(self) -> &'static str {
        match self {
            Self::Listing | Self::Message | Self::Finding => "Mail.Read",
            Self::Disposal | Self::Draft => "Mail.ReadWrite",
            Self::Submission => "Mail.Send",
            Self::Rules => "MailboxSettings.Read",
            Self::RuleChange => "MailboxSettings.ReadWrite",
        }
    }

    /// Whether what fails concerns one message and leaves the mailbox alone.
    fn is_about_a_message(self) -> bool {
        matches!(self, Self::Message | Self::Disposal | Self::Submission | Self::Draft)
    }
}

/// One row of the table: codes of Graph and of Exchange behind it, and what they mean.
struct Row {
    codes: &'static [&'static str],
    kind: ErrorKind,
    hint: Option<&'static str>,
}

const fn row(codes: &'static [&'static str], kind: ErrorKind, hint: Option<&'static str>) -> Row {
    Row { codes, kind, hint }
}

const NO_MAILBOX: &str = "check the address; the mailbox must exist in this tenant, have an Exchange Online licence, and not be hidden behind another cloud";
const SEND_RIGHT: &str = "grant the right on the sender's mailbox: Add-RecipientPermission <mailbox> -AccessRights SendAs -Trustee <account>, or Set-Mailbox <mailbox> -GrantSendOnBehalfTo @{Add=\"<account>\"}";

/// What test access cannot see of sending through another mailbox, and how the right is given.
pub(super) fn sending_right(access: &SendAccess, sender: &Mailbox) -> Option<(String, String)> {
    let sender = &sender.address;
    let (what, right, command) = match access {
        SendAccess::Mailbox => return None,
        SendAccess::SendAs(account) => (
            format!("{account} sends as the mailbox"),
            "Send As",
            format!("Add-RecipientPermission -Identity {sender} -Trustee {account} -AccessRights SendAs"),
        ),
        SendAccess::OnBehalf(account) => (
            format!("{account} sends on behalf of the mailbox"),
            "Send on Behalf",
            format!("Set-Mailbox -Identity {sender} -GrantSendOnBehalfTo @{{Add=\"{account}\"}}"),
        ),
    };
    Some((what, format!("the right {right} shows only when something is sent; it is given with {command}")))
}

const TABLE: &[Row] = &[
    row(
        &["ErrorItemNotFound", "ErrorInvalidIdMalformed", "ErrorInvalidId", "ErrorMessageDisassociated"],
        ErrorKind::MessageGone,
        None,
    ),
    row(
        &[
            "ErrorInvalidUser",
            "ResourceNotFound",
            "Request_ResourceNotFound",
            "ErrorNonExistentMailbox",
            "ErrorMissingEmailAddress",
        ],
        ErrorKind::AccessDenied,
        Some(NO_MAILBOX),
    ),
    row(
        &["MailboxNotEnabledForRESTAPI", "MailboxNotSupportedForRESTAPI", "MailboxNotHostedInExchangeOnline"],
        ErrorKind::AccessDenied,
        Some(
            "the mailbox has no Exchange Online licence, is inactive, or is on a server on premises: use EWS for that one",
        ),
    ),
    row(
        &["ErrorSendAsDenied", "ErrorSendOnBehalfOfDenied", "ErrorUnauthorizedSender"],
        ErrorKind::SenderRefused,
        Some(SEND_RIGHT),
    ),
    row(
        &["ErrorQuotaExceeded", "ErrorMailboxFull", "QuotaExceeded"],
        ErrorKind::Storage,
        Some("the mailbox is full: free space, or raise its quota"),
    ),
    row(
        &["ErrorExceededMessageLimit", "ErrorSubmissionQuotaExceeded", "ErrorMessageSubmissionBlocked"],
        ErrorKind::Throttled,
        Some("the sender has reached the sending limits of Exchange Online"),
    ),
    row(
        &[
            "ErrorMessageSizeExceeded",
            "ErrorAttachmentSizeLimitExceeded",
            "RequestEntityTooLarge",
            "ErrorContentConversionSizeExceeded",
        ],
        ErrorKind::TooLarge,
        Some("the message is larger than the mailbox may send or receive (Set-Mailbox -MaxSendSize)"),
    ),
    row(
        &["ErrorInvalidRecipients", "ErrorRecipientNotFound", "ErrorNoRecipients"],
        ErrorKind::RecipientsRefused,
        None,
    ),
    row(
        &[
            "ErrorMimeContentInvalid",
            "ErrorMimeContentInvalidBase64String",
            "ErrorInvalidInternetHeaderName",
            "ErrorMimeContentConversionFailed",
        ],
        ErrorKind::MessageRefused,
        None,
    ),
    row(
        &[
            "InvalidAuthenticationToken",
            "AuthenticationError",
            "TokenNotFound",
            "CompactTokenParsingFailed",
            "InvalidAudience",
            "Unauthorized",
        ],
        ErrorKind::Authentication,
        None,
    ),
    row(
        &[
            "ErrorAccessDenied",
            "Authorization_RequestDenied",
            "AccessDenied",
            "Forbidden",
            "ErrorAccountSuspend",
        ],
        ErrorKind::AccessDenied,
        None,
    ),
    row(
        &[
            "TooManyRequests",
            "ApplicationThrottled",
            "ErrorServerBusy",
            "ErrorTooManyObjectsOpened",
            "ServiceUnavailable",
            "MailboxInfoStale",
            "ErrorMailboxStoreUnavailable",
            "ErrorMailboxMoveInProgress",
            "ErrorMailboxFailover",
            "ErrorTimeoutExpired",
            "ErrorConnectionFailed",
            "ErrorBatchProcessingStopped",
            "ErrorConcurrencyLimitReached",
            "activityLimitReached",
            "serviceNotAvailable",
        ],
        ErrorKind::Throttled,
        None,
    ),
    row(
        &["ErrorInboxRulesValidationError", "ErrorInvalidRule"],
        ErrorKind::MessageRefused,
        Some(
            "the service takes the rule for invalid: is the address of the forward mailbox one that it can deliver to?",
        ),
    ),
];

/// What a status means where the code is unknown.
fn by_status(status: u16, stage: Stage) -> ErrorKind {
    match status {
        401 => ErrorKind::Authentication,
        403 | 407 => ErrorKind::AccessDenied,
        404 if matches!(stage, Stage::Message | Stage::Disposal | Stage::RuleChange) => {
            ErrorKind::MessageGone
        }
        404 => ErrorKind::AccessDenied,
        408 => ErrorKind::Timeout,
        413 => ErrorKind::TooLarge,
        429 | 503 => ErrorKind::Throttled,
        400 | 422 if matches!(stage, Stage::Submission | Stage::Draft | Stage::RuleChange) => {
            ErrorKind::MessageRefused
        }
        _ => ErrorKind::Protocol,
    }
}

/// An error answer as an error of ours.
pub(super) fn refused(
    place: &str,
    stage: Stage,
    status: u16,
    fault: &Fault,
    wait: Option<Duration>,
) -> Error {
    let row = TABLE.iter().find(|row| row.codes.iter().any(|code| fault.is(code)));
    let kind = match row {
        // what is not found is a message only where one was asked for
        Some(row)
            if row.kind == ErrorKind::MessageGone && by_status(404, stage) != ErrorKind::MessageGone =>
        {
            ErrorKind::Protocol
        }
        // a page of a proxy says nothing about rights in the mailbox
        None if fault.foreign && !matches!(status, 429 | 503) => ErrorKind::Protocol,
        Some(row) => row.kind,
        None => by_status(status, stage),
    };
    let error = Error::new(kind, format!("{place} refuses {} with status {status}", stage.doing()));
    let error = if fault.words().is_empty() { error } else { error.with_reply(&fault.words()) };
    let error = match wait {
        Some(wait) if kind == ErrorKind::Throttled => error.after(wait),
        _ => error,
    };
    let error = error.with_scope(scope(kind, stage, fault));
    match hint(kind, stage, fault).or_else(|| row.and_then(|row| row.hint).map(str::to_owned)) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn scope(kind: ErrorKind, stage: Stage, fault: &Fault) -> Scope {
    match kind {
        _ if fault.foreign => Scope::Server,
        ErrorKind::MessageGone
        | ErrorKind::MessageRefused
        | ErrorKind::RecipientsRefused
        | ErrorKind::SenderRefused
        | ErrorKind::TooLarge => Scope::Message,
        // the service answers, but not about this one
        ErrorKind::Protocol if stage.is_about_a_message() => Scope::Message,
        _ => Scope::Mailbox,
    }
}

fn hint(kind: ErrorKind, stage: Stage, fault: &Fault) -> Option<String> {
    let words = fault.message.to_ascii_lowercase();
    match kind {
        _ if fault.foreign => {
            Some("the answer is a page of a proxy or gateway, not of Microsoft Graph: check proxy and firewall".to_owned())
        }
        ErrorKind::Authentication if words.contains("audience") || fault.is("InvalidAudience") => Some(
            "the token is for another service or another cloud: authority, scope and Graph host must belong to the same national cloud"
                .to_owned(),
        ),
        ErrorKind::Authentication => {
            Some("check tenant, application id, secret or certificate, and that the cloud is the right one".to_owned())
        }
        ErrorKind::AccessDenied if !fault.is("ErrorInvalidUser") && is_plain_denial(fault) => Some(format!(
            "grant the application {} with admin consent, and include the mailbox in its RBAC scope or application access policy (Test-ApplicationAccessPolicy tells)",
            stage.permission()
        )),
        _ => None,
    }
}

fn is_plain_denial(fault: &Fault) -> bool {
    let denial = ["ErrorAccessDenied", "Authorization_RequestDenied", "AccessDenied", "Forbidden"];
    denial.iter().any(|code| fault.is(code))
        || !TABLE.iter().any(|row| row.codes.iter().any(|code| fault.is(code)))
}

/// An answer that makes no sense.
pub(super) fn malformed(place: &str, stage: Stage, why: &Malformed) -> Error {
    let scope = if matches!(stage, Stage::Message) { Scope::Message } else { Scope::Mailbox };
    Error::new(ErrorKind::Protocol, format!("{place}: {why}"))
        .with_scope(scope)
        .with_hint("the answer may come from a proxy or gateway in between; if it is Microsoft's, tell us")
}

/// Whether nobody knows if the service acted on a submission that ended with this status: it may have failed behind the point where it took the
/// message.
pub(super) fn leaves_in_doubt(status: u16) -> bool {
    matches!(status, 408 | 500 | 502 | 504)
}

/// The error of a submission that may have been taken.
pub(super) fn in_doubt(error: Error) -> Error {
    error.with_retry(Retry::InDoubt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use email_router_model::Classified as _;

    fn fault(code: &str, message: &str) -> Fault {
        Fault { code: code.to_owned(), message: message.to_owned(), ..Fault::default() }
    }

    #[test]
    fn codes_and_statuses() {
        use ErrorKind as K;
        let wait = Duration::from_millis(1500);
        let later = Retry::Later(None);
        for (stage, status, code, kind, retry, scope) in [
            (Stage::Message, 404, "ErrorItemNotFound", K::MessageGone, Retry::Never, Scope::Message),
            (Stage::Message, 400, "ErrorInvalidIdMalformed", K::MessageGone, Retry::Never, Scope::Message),
            (Stage::Message, 404, "", K::MessageGone, Retry::Never, Scope::Message),
            (Stage::Listing, 404, "ErrorItemNotFound", K::Protocol, later, Scope::Mailbox),
            (Stage::Listing, 404, "ErrorInvalidUser", K::AccessDenied, Retry::Never, Scope::Mailbox),
            (Stage::Submission, 404, "ResourceNotFound", K::AccessDenied, Retry::Never, Scope::Mailbox),
            (Stage::Listing, 403, "ErrorAccessDenied", K::AccessDenied, Retry::Never, Scope::Mailbox),
            (
                Stage::Disposal,
                403,
                "Authorization_RequestDenied",
                K::AccessDenied,
                Retry::Never,
                Scope::Mailbox,
            ),
            (
                Stage::Listing,
                404,
                "MailboxNotEnabledForRESTAPI",
                K::AccessDenied,
                Retry::Never,
                Scope::Mailbox,
            ),
            (Stage::Submission, 403, "ErrorSendAsDenied", K::SenderRefused, Retry::Never, Scope::Message),
            (Stage::Submission, 507, "ErrorQuotaExceeded", K::Storage, later, Scope::Mailbox),
            (Stage::Submission, 413, "ErrorMessageSizeExceeded", K::TooLarge, Retry::Never, Scope::Message),
            (Stage::Submission, 413, "", K::TooLarge, Retry::Never, Scope::Message),
            (
                Stage::Submission,
                400,
                "ErrorInvalidRecipients",
                K::RecipientsRefused,
                Retry::Never,
                Scope::Message,
            ),
            (Stage::Submission, 400, "whatever", K::MessageRefused, Retry::Never, Scope::Message),
            (
                Stage::Listing,
                401,
                "InvalidAuthenticationToken",
                K::Authentication,
                Retry::Never,
                Scope::Mailbox,
            ),
            (Stage::Listing, 429, "TooManyRequests", K::Throttled, Retry::Later(Some(wait)), Scope::Mailbox),
            (
                Stage::Listing,
                429,
                "applicationThrottled",
                K::Throttled,
                Retry::Later(Some(wait)),
                Scope::Mailbox,
            ),
            (Stage::Listing, 503, "", K::Throttled, Retry::Later(Some(wait)), Scope::Mailbox),
            (Stage::Listing, 500, "generalException", K::Protocol, later, Scope::Mailbox),
            (Stage::Message, 500, "ErrorInternalServerError", K::Protocol, later, Scope::Message),
            (Stage::RuleChange, 404, "ErrorItemNotFound", K::MessageGone, Retry::Never, Scope::Message),
        ] {
            let error = refused("graph host", stage, status, &fault(code, "words"), Some(wait));
            assert_eq!(
                (error.kind(), error.retry(), error.scope()),
                (kind, retry, scope),
                "{stage:?} {status} {code}"
            );
        }
    }

    #[test]
    fn hints_name_what_is_missing() {
        for (stage, code, words, hint) in [
            (Stage::Listing, "ErrorAccessDenied", "", "Mail.Read "),
            (Stage::Disposal, "ErrorAccessDenied", "", "Mail.ReadWrite"),
            (Stage::Submission, "ErrorAccessDenied", "", "Mail.Send"),
            (Stage::RuleChange, "Authorization_RequestDenied", "", "MailboxSettings.ReadWrite"),
            (Stage::Listing, "ErrorInvalidUser", "", "licence"),
            (Stage::Listing, "MailboxNotEnabledForRESTAPI", "", "on premises"),
            (Stage::Submission, "ErrorSendAsDenied", "", "Add-RecipientPermission"),
            (
                Stage::Listing,
                "InvalidAuthenticationToken",
                "Access token validation failure. Invalid audience.",
                "national cloud",
            ),
        ] {
            let error = refused("graph host", stage, 403, &fault(code, words), None);
            assert!(error.hint().is_some_and(|h| h.contains(hint)), "{code}: {:?}", error.hint());
        }
    }

    #[test]
    fn a_page_of_a_proxy_is_a_matter_of_the_server() {
        let page = Fault::read(b"<html><body>Your request was blocked</body></html>");
        let error = refused("graph host", Stage::Message, 403, &page, None);
        assert_eq!(
            (error.kind(), error.scope(), error.retry()),
            (ErrorKind::Protocol, Scope::Server, Retry::Later(None))
        );
        assert!(error.hint().unwrap().contains("proxy") && error.reply().unwrap().contains("blocked"));
    }
}
