//! The answer of a token service (RFC 6749 sections 5.1 and 5.2), without I/O.

use std::fmt;
use std::time::Duration;

use email_router_model::Secret;
use serde::Deserialize;

/// The largest answer that is read, in bytes.
pub const ANSWER_CAP: u64 = 256 * 1024;

/// The longest token that is taken, in characters; those of Entra ID have some thousands.
pub const LONGEST_TOKEN: usize = 64 * 1024;

/// A token is not believed to be good for longer than this, whatever the service says.
pub const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// A token as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The access token: visible ASCII.
    pub token: Secret,
    /// How long it is good for, from the moment of the answer; never zero.
    pub lifetime: Duration,
}

/// What a token service refuses with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The code of RFC 6749 section 5.2 (`invalid_client`), or one of Microsoft's.
    pub error: String,
    /// The number behind `AADSTS`, where there is one.
    pub number: Option<u32>,
    /// Its words: one line, at most 400 characters. May quote what was sent.
    pub description: String,
    /// What Microsoft's support finds the request by; may be empty.
    pub trace_id: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.description.is_empty() { &self.error } else { &self.description })?;
        if self.trace_id.is_empty() { Ok(()) } else { write!(f, " (trace id {})", self.trace_id) }
    }
}

/// The answer of status 200.
///
/// # Errors
/// What is wrong with it, in a few words and without anything of it.
pub fn issued(body: &[u8]) -> Result<Issued, &'static str> {
    #[derive(Deserialize)]
    struct Wire {
        access_token: Option<String>,
        token_type: Option<String>,
        expires_in: Option<Number>,
    }
    let wire: Wire = serde_json::from_slice(body).map_err(|_| "its answer is no JSON object of a token")?;
    if !wire.token_type.is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return Err("the type of its token is not Bearer");
    }
    let token = Secret::from(wire.access_token.ok_or("there is no token in its answer")?);
    if token.is_empty()
        || token.expose().len() > LONGEST_TOKEN
        || !token.expose().bytes().all(|b| b.is_ascii_graphic())
    {
        return Err("its token is empty, too long, or not visible ASCII");
    }
    let seconds = match wire.expires_in {
        Some(Number::Count(seconds)) => seconds,
        // AD FS and the first version of the protocol write it as a text
        Some(Number::Text(text)) => text.parse().map_err(|_| "the lifetime of its token is no number")?,
        None => return Err("it does not say how long its token is good for"),
    };
    let lifetime = Duration::from_secs(seconds).min(LONGEST_LIFETIME);
    if lifetime.is_zero() {
        return Err("its token is over already");
    }
    Ok(Issued { token, lifetime })
}

/// The answer of another status; `None` where it is not of the form that a token service refuses in.
#[must_use]
pub fn refusal(body: &[u8]) -> Option<Refusal> {
    #[derive(Deserialize)]
    struct Wire {
        error: String,
        #[serde(default)]
        error_description: String,
        #[serde(default)]
        error_codes: Vec<u32>,
        #[serde(default)]
        trace_id: serde_json::Value,
    }
    let wire: Wire = serde_json::from_slice(body).ok()?;
    let number = numbered(&wire.error_description).or_else(|| wire.error_codes.first().copied());
    Some(Refusal {
        error: line(&wire.error, 80),
        number,
        description: line(&wire.error_description, 400),
        trace_id: wire
            .trace_id
            .as_str()
            .unwrap_or_default()
            .chars()
            .filter(|c| c.is_ascii_hexdigit() || *c == '-')
            .take(36)
            .collect(),
    })
}

/// The number behind `AADSTS`.
fn numbered(text: &str) -> Option<u32> {
    let behind = &text[text.find("AADSTS")? + "AADSTS".len()..];
    behind[..behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len())].parse().ok()
}

/// The first line, at most so many characters: what follows are ids for Microsoft's support.
fn line(text: &str, most: usize) -> String {
    let first = text.trim().split(['\r', '\n']).next().unwrap_or_default();
    let first = first.split(" Trace ID:").next().unwrap_or_default();
    first
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(most)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Count(u64),
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tokens_and_what_is_none() {
        for (body, expected) in [
            (r#"{"token_type":"Bearer","expires_in":3599,"access_token":"t.o.k"}"#, Ok(3599)),
            (
                r#"{"token_type":"bearer","expires_in":"60","access_token":"t","ext_expires_in":1,"x":{}}"#,
                Ok(60),
            ),
            (r#"{"token_type":"Bearer","expires_in":99999999999,"access_token":"t"}"#, Ok(86_400)),
            (r#"{"token_type":"Bearer","expires_in":0,"access_token":"t"}"#, Err("over")),
            (r#"{"token_type":"Bearer","expires_in":-5,"access_token":"t"}"#, Err("JSON")),
            (r#"{"token_type":"Bearer","expires_in":"soon","access_token":"t"}"#, Err("no number")),
            (r#"{"token_type":"Bearer","access_token":"t"}"#, Err("how long")),
            (r#"{"token_type":"Bearer","expires_in":60}"#, Err("no token")),
            (r#"{"token_type":"Bearer","expires_in":60,"access_token":""}"#, Err("empty")),
            (r#"{"token_type":"Bearer","expires_in":60,"access_token":"a\r\nb"}"#, Err("ASCII")),
            (r#"{"token_type":"mac","expires_in":60,"access_token":"t"}"#, Err("Bearer")),
            (r#"{"expires_in":60,"access_token":"t"}"#, Err("Bearer")),
            (r#"{"token_type":"Bearer","expires_in":60,"access_token":7}"#, Err("JSON")),
            ("<html>Sign in</html>", Err("JSON")),
            ("[]", Err("JSON")),
            ("", Err("JSON")),
        ] {
            match (issued(body.as_bytes()), expected) {
                (Ok(got), Ok(seconds)) => assert_eq!(got.lifetime.as_secs(), seconds, "{body}"),
                (Err(got), Err(word)) => assert!(got.contains(word), "{body}: {got}"),
                (got, _) => panic!("{body}: {got:?}"),
            }
        }
    }

    #[test]
    fn refusals() {
        for (body, error, number, description) in [
            (
                r#"{"error":"invalid_client","error_description":"AADSTS7000215: Wrong secret.\r\nTrace ID: 1\r\nCorrelation ID: 2","error_codes":[7000215],"trace_id":"0a-b1\r\n(x)"}"#,
                "invalid_client",
                Some(7_000_215),
                "AADSTS7000215: Wrong secret.",
            ),
            (
                r#"{"error":"invalid_client","error_description":"AADSTS7000222: Old. Trace ID: 1","error_codes":[1]}"#,
                "invalid_client",
                Some(7_000_222),
                "AADSTS7000222: Old.",
            ),
            (
                r#"{"error":"temporarily_unavailable","error_codes":[90033]}"#,
                "temporarily_unavailable",
                Some(90_033),
                "",
            ),
            (
                r#"{"error":"invalid_scope","error_description":"AADSTS: \u0000"}"#,
                "invalid_scope",
                None,
                "AADSTS:",
            ),
            (
                r#"{"error":"x","error_description":"AADSTS99999999999999"}"#,
                "x",
                None,
                "AADSTS99999999999999",
            ),
        ] {
            let trace_id = if body.contains("trace_id") { "0a-b1".to_owned() } else { String::new() };
            let expected =
                Refusal { error: error.to_owned(), number, description: description.to_owned(), trace_id };
            assert_eq!(refusal(body.as_bytes()), Some(expected), "{body}");
        }
        for body in ["", "{}", "<html>", r#"{"error":{"code":"x"}}"#, r#"{"error":"x","error_codes":"7"}"#] {
            assert_eq!(refusal(body.as_bytes()), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,600}") {
            let _ = (issued(&body), refusal(&body));
            let body = serde_json::json!({ "error": text, "error_description": text }).to_string();
            let refusal = refusal(body.as_bytes()).unwrap();
            prop_assert!(!refusal.to_string().contains(['\r', '\n', '\0']) && refusal.description.chars().count() <= 400);
        }
    }
}
