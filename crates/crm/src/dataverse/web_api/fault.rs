//! What a server says when it does not do what it was asked (`crm-contract.md` 2.8 and 11.2).

use std::fmt;
use std::time::Duration;

use email_router_model::{Retry, Scope};
use serde_json::Value;

use crate::{Error, ErrorKind};

/// So much of a text of the server goes into a message.
const MOST_WORDS: usize = 400;

/// Numbers of the server, as it writes them in hexadecimal.
pub(crate) mod code {
    pub(crate) const ROUTER_IS_DISABLED: i32 = hex(0x8005_e246);
    pub(crate) const OBJECT_DOES_NOT_EXIST: i32 = hex(0x8004_0217);
    pub(crate) const DUPLICATE_RECORD: i32 = hex(0x8004_0237);
    pub(crate) const RECORD_NOT_FOUND_BY_KEY: i32 = hex(0x8006_0891);
    pub(crate) const DUPLICATE_KEY: i32 = hex(0x8006_0892);
    pub(crate) const QUEUE_ITEM_EXISTS: i32 = hex(0x8004_0526);
    pub(crate) const EMAIL_IN_QUEUE_ALREADY: i32 = hex(0x8004_0523);
    pub(crate) const PRIVILEGE_DENIED: i32 = hex(0x8004_0220);
    pub(crate) const CANNOT_ACT_ON_BEHALF: i32 = hex(0x8004_a110);
    pub(crate) const SEND_AS_DENIED: i32 = hex(0x8004_480d);
    pub(crate) const SEND_AS_QUEUE_DENIED: i32 = hex(0x8004_480f);
    pub(crate) const ATTACHMENT_BLOCKED: i32 = hex(0x8004_3e09);
    pub(crate) const ISV_ABORTED: i32 = hex(0x8004_0265);
    pub(crate) const INVALID_STATE: i32 = hex(0x8004_0233);
    /// No such function, action or table of the Web API.
    pub(crate) const RESOURCE_NOT_FOUND: i32 = hex(0x8006_0888);
    pub(crate) const SQL_TIMEOUT: i32 = hex(0x8004_4151);
    pub(crate) const GENERIC_SQL: i32 = hex(0x8004_4150);
    /// More requests, more execution time, more at once than one identity may have (11.3).
    pub(crate) const SERVICE_PROTECTION: [i32; 3] = [hex(0x8007_2322), hex(0x8007_2321), hex(0x8007_2326)];

    /// The signed form in which SOAP and .NET give a number.
    pub(crate) const fn hex(code: u32) -> i32 {
        i32::from_ne_bytes(code.to_ne_bytes())
    }
}

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The status of HTTP; 0 where the fault came in another way.
    pub(crate) status: u16,
    /// The server's number.
    pub(crate) code: Option<i32>,
    /// Its words, on one line.
    pub(crate) message: String,
    /// What names the request in the server's trace.
    pub(crate) request: Option<String>,
    /// How long the server wants to be left alone.
    pub(crate) retry_after: Option<Duration>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.status) {
            (Some(code), 0) => write!(f, "error 0x{code:08x} ({code})")?,
            (Some(code), status) => write!(f, "status {status}, error 0x{code:08x} ({code})")?,
            (None, status) => write!(f, "status {status}")?,
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        match &self.request {
            Some(request) => write!(f, " [request {request}]"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// Reads the body of an answer, in whatever shape it is: the error object of OData, the older one of ASP.NET, a page of a web server
    /// or of a proxy, or anything else.
    pub(crate) fn parse(status: u16, body: &[u8]) -> Self {
        if body.trim_ascii_start().starts_with(b"<")
            && let Some(fault) = crate::dataverse::soap::fault(status, body)
        {
            return fault;
        }
        let mut fault = Self { status, code: None, message: String::new(), request: None, retry_after: None };
        if body.starts_with(b"--")
            && let Some((inner, body)) = failed_part(body)
        {
            return Self::parse(inner, body);
        }
        if let Ok(json) = serde_json::from_slice::<Value>(body) {
            let error = json.get("error").unwrap_or(&json);
            let text = |value: &Value, names: &[&str]| {
                names.iter().find_map(|name| value.get(*name)?.as_str()).unwrap_or_default().to_owned()
            };
            fault.code = ["code", "ErrorCode"].iter().find_map(|name| match error.get(*name)? {
                Value::String(code) => parse_code(code),
                Value::Number(code) => code.as_i64().and_then(|code| i32::try_from(code).ok()),
                _ => None,
            });
            fault.message = text(error, &["message", "Message"]);
            let inner = text(error, &["ExceptionMessage"]);
            let inner = if inner.is_empty() {
                error.get("innererror").map(|inner| text(inner, &["message"])).unwrap_or_default()
            } else {
                inner
            };
            if !inner.is_empty() && inner != fault.message {
                fault.message = format!("{} ({inner})", fault.message);
            }
            if fault.message.is_empty() && json.get("error").is_none() {
                fault.message = String::from_utf8_lossy(body).into_owned();
            }
        } else {
            fault.message = page_title(&String::from_utf8_lossy(body));
        }
        fault.message = one_line(&fault.message);
        fault
    }

    /// Whether it is the server's way to say "not so fast".
    pub(crate) fn is_throttling(&self) -> bool {
        self.status == 429 || self.code.is_some_and(|code| code::SERVICE_PROTECTION.contains(&code))
    }

    /// Whether the same request may work in a moment, where repeating it is harmless.
    pub(crate) fn is_passing(&self) -> bool {
        match self.status {
            502..=504 => true,
            500 => !self.code.is_some_and(|code| {
                [code::ISV_ABORTED, code::INVALID_STATE, code::ROUTER_IS_DISABLED].contains(&code)
            }),
            _ => false,
        }
    }

    /// The error for the caller.
    pub(crate) fn into_error(self, place: &str, doing: &str) -> Error {
        let message = format!("{place}: {doing}: {self}");
        let error = match (self.status, self.code) {
            _ if self.is_throttling() => {
                let error = Error::new(ErrorKind::Busy, message)
                    .with_hint("the organization limits the requests of one identity; nothing is lost, the router waits");
                match self.retry_after {
                    Some(delay) => error.after(delay),
                    None => error,
                }
            }
            (_, Some(code::ROUTER_IS_DISABLED)) => Error::new(ErrorKind::Refused, message).with_hint(
                "the organization uses server-side synchronization and does not let the CRM decide for a router; set EmailProcessing of the \
                 deployment to Router",
            ),
            (_, Some(code::PRIVILEGE_DENIED | code::CANNOT_ACT_ON_BEHALF)) => Error::new(ErrorKind::Refused, message)
                .with_hint("give the router's user in the CRM a security role with this privilege; the access test lists all that are missing"),
            (_, Some(code::SEND_AS_DENIED | code::SEND_AS_QUEUE_DENIED)) => Error::new(ErrorKind::Invalid, message)
                .with_hint("let the sender allow others to send in its name in its personal options, or give the router's user the privilege"),
            (_, Some(code::ATTACHMENT_BLOCKED)) => Error::new(ErrorKind::Invalid, message)
                .with_hint("the organization blocks this kind of file; see its blocked attachments"),
            (_, Some(code::ISV_ABORTED)) => Error::new(ErrorKind::Invalid, message)
                .with_hint("a plug-in or workflow of the organization refused it; its author knows why"),
            (401, _) => Error::new(ErrorKind::Refused, message)
                .with_hint("check the credentials of the deployment, and that they belong to a user or application user of the organization"),
            (403, _) => Error::new(ErrorKind::Refused, message)
                .with_hint("the server or something before it does not let this identity in; check the user's security roles"),
            (404, _) | (_, Some(code::OBJECT_DOES_NOT_EXIST | code::RECORD_NOT_FOUND_BY_KEY)) => {
                Error::new(ErrorKind::NotFound, message)
            }
            (408 | 409 | 412 | 423, _) => Error::new(ErrorKind::Busy, message).with_scope(Scope::Message),
            (500, _) if self.is_passing() => Error::new(ErrorKind::Busy, message).with_scope(Scope::Message),
            (502..=504, _) => {
                let error = Error::new(ErrorKind::Unreachable, message)
                    .with_hint("the server is overloaded or being updated; the router tries again");
                match self.retry_after {
                    Some(delay) => error.after(delay),
                    None => error,
                }
            }
            (300..=399, _) => Error::new(ErrorKind::Refused, message).with_hint(
                "the server sends us elsewhere, which looks like a sign-in page: check Url and AuthenticationType of the deployment",
            ),
            _ => Error::new(ErrorKind::Invalid, message),
        };
        error.with_source(self)
    }
}

/// What the server said, where an error is its answer.
pub(crate) fn of(error: &Error) -> Option<&Fault> {
    std::error::Error::source(error)?.downcast_ref()
}

/// Whether the error is the server's answer with this number.
pub(crate) fn is(error: &Error, codes: &[i32]) -> bool {
    of(error).and_then(|fault| fault.code).is_some_and(|code| codes.contains(&code))
}

/// Whether the error is the server's answer with this status.
pub(crate) fn has_status(error: &Error, status: u16) -> bool {
    of(error).is_some_and(|fault| fault.status == status)
}

/// Whether a delta link cannot be used any more, so that all must be read again: 410, or 400 that speaks of its token. Microsoft publishes
/// that tokens expire (11.6), not with which number.
pub(crate) fn is_expired_token(error: &Error) -> bool {
    of(error).is_some_and(|fault| {
        let words = fault.message.to_lowercase();
        fault.status == 410
            || (fault.status == 400
                && (words.contains("deltatoken") || words.contains("expired") || words.contains("token")))
    })
}

/// An error whose request did not get through may be repeated by a later call.
pub(crate) fn transport(place: &str, doing: &str, cause: email_router_http::Error) -> Error {
    use email_router_model::Classified as _;
    let kind = match (cause.kind(), cause.retry()) {
        (email_router_http::ErrorKind::Authentication | email_router_http::ErrorKind::Settings, _) => {
            ErrorKind::Refused
        }
        (_, Retry::Never) => ErrorKind::Invalid,
        _ => ErrorKind::Unreachable,
    };
    let mut error = Error::new(kind, format!("{place}: {doing}: {cause}"));
    if let Some(hint) = cause.hint() {
        error = error.with_hint(hint);
    }
    error.with_source(cause)
}

/// `0x80040217`, `-2147220969` or `2147746327`.
pub(crate) fn parse_code(text: &str) -> Option<i32> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok().map(code::hex),
        None => text.parse::<i32>().ok().or_else(|| text.parse::<u32>().ok().map(code::hex)),
    }
}

/// Status and body of the operation that failed, where a server that knows no `odata.continue-on-error` answers to a batch with its status (11.4).
fn failed_part(body: &[u8]) -> Option<(u16, &[u8])> {
    let text = std::str::from_utf8(body).ok()?;
    let at = text.find("\nHTTP/1.1 ")? + "\nHTTP/1.1 ".len();
    let status = text.get(at..at + 3)?.parse().ok()?;
    let (start, end) = (text[at..].find('{')? + at, text.rfind('}')?);
    Some((status, text.get(start..=end)?.as_bytes()))
}

/// The title of an HTML page; else the beginning of the text.
fn page_title(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let title = lower.find("<title>").and_then(|start| {
        let end = lower[start..].find("</title>")? + start;
        text.get(start + "<title>".len()..end)
    });
    match title {
        Some(title) => format!("the server answers with a page: {}", title.trim()),
        None if lower.trim_start().starts_with('<') => "the server answers with a page".to_owned(),
        None => text.to_owned(),
    }
}

/// Without line ends and control characters, and not too long: a server's text cannot forge log lines.
pub(crate) fn one_line(text: &str) -> String {
    let mut out = String::new();
    let mut words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    if let Some(first) = words.next() {
        out.push_str(first);
    }
    for word in words {
        if out.len() > MOST_WORDS {
            break;
        }
        out.push(' ');
        out.push_str(word);
    }
    if out.len() > MOST_WORDS {
        let end = (0..=MOST_WORDS).rev().find(|at| out.is_char_boundary(*at)).unwrap_or(0);
        out.truncate(end);
        out.push_str(" ...");
    }
    out
}

#[cfg(test)]
mod tests {
    use email_router_model::Classified as _;

    use super::*;

    #[test]
    fn every_shape_of_an_error_is_read() {
        for (status, body, code, words) in [
            (
                404,
                r#"{"error":{"code":"0x80040217","message":"email With Id = 1 Does Not Exist"}}"#,
                Some(-2_147_220_969),
                "email With Id = 1 Does Not Exist",
            ),
            (
                500,
                r#"{"error":{"code":"","message":"a","innererror":{"message":"b","type":"t","stacktrace":"s"}}}"#,
                None,
                "a (b)",
            ),
            (
                400,
                r#"{"Message":"An error","ExceptionMessage":"Bad","StackTrace":"at x","ErrorCode":-2147220989}"#,
                Some(-2_147_220_989),
                "An error (Bad)",
            ),
            (
                503,
                "<html><head><TITLE>Service\n Unavailable</TITLE></head>",
                None,
                "the server answers with a page: Service Unavailable",
            ),
            (401, "", None, ""),
            (502, "\u{1}\u{2}bad\r\ngateway", None, "bad gateway"),
            (400, r#"{"x":1}"#, None, r#"{"x":1}"#),
            (400, r#"{"error":{}}"#, None, ""),
            (400, r#"{"error":{"code":"2147746327","message":"m"}}"#, Some(-2_147_220_969), "m"),
            (
                400,
                "--batchresponse_1\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 412 Precondition Failed\r\n\r\n\
                 {\"error\":{\"code\":\"0x80040237\",\"message\":\"there\"}}\r\n--batchresponse_1--\r\n",
                Some(code::DUPLICATE_RECORD),
                "there",
            ),
        ] {
            let fault = Fault::parse(status, body.as_bytes());
            assert_eq!((fault.code, fault.message.as_str()), (code, words), "{body}");
        }
        assert!(Fault::parse(500, "x".repeat(10_000).as_bytes()).message.len() < 410);
    }

    #[test]
    fn errors_say_what_to_do_and_how_much_stops() {
        for (status, code, kind, retry, scope, word) in [
            (403, 0x8004_0220, ErrorKind::Refused, Retry::Never, Scope::Server, "security role"),
            (400, 0x8004_0265, ErrorKind::Invalid, Retry::Never, Scope::Message, "plug-in"),
            (400, 0x8005_e246, ErrorKind::Refused, Retry::Never, Scope::Server, "EmailProcessing"),
            (429, 0x8007_2322, ErrorKind::Busy, Retry::Later(None), Scope::Server, "limits"),
            (500, 0x8004_0216, ErrorKind::Busy, Retry::Later(None), Scope::Message, ""),
            (404, 0x8004_0217, ErrorKind::NotFound, Retry::Never, Scope::Message, ""),
            (503, 0, ErrorKind::Unreachable, Retry::Later(None), Scope::Server, "tries again"),
            (302, 0, ErrorKind::Refused, Retry::Never, Scope::Server, "sign-in"),
        ] {
            let fault = Fault {
                status,
                code: Some(code::hex(code)),
                message: "words".to_owned(),
                request: Some("r1".to_owned()),
                retry_after: None,
            };
            let error = fault.into_error("crm contoso", "reading");
            assert_eq!(
                (error.kind(), error.retry(), error.scope()),
                (kind, retry, scope),
                "{status} {code:x}"
            );
            assert!(error.hint().unwrap_or_default().contains(word), "{error}");
            assert!(error.to_string().starts_with("crm contoso: reading: status"), "{error}");
            assert!(is(&error, &[code::hex(code)]) && has_status(&error, status));
        }
    }
}
