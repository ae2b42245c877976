//! Error answers (Microsoft Graph, "error responses and resource types").

use serde_json::Value;

use super::text;

/// What an error answer says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fault {
    /// The code, the most specific one; empty where the answer has none.
    pub code: String,
    /// The words; empty where the answer has none, the beginning of the page where it is HTML.
    pub message: String,
    /// The id of the request, by which Microsoft's support finds it.
    pub request_id: Option<String>,
    /// The answer is no JSON: a page of a proxy or of a gateway.
    pub foreign: bool,
}

impl Fault {
    /// Reads the body of an error answer, whatever it is.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        match super::json(body) {
            Ok(value) if value.get("error").is_some() => Self::of(&value),
            _ => {
                Self { message: page_words(body), foreign: !body.trim_ascii().is_empty(), ..Self::default() }
            }
        }
    }

    /// Reads an error answer that is JSON.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        let error = value.get("error").unwrap_or(&Value::Null);
        // an OAuth error is a text with its description beside it
        if let Some(code) = error.as_str() {
            let message = text(value, "error_description").unwrap_or("").to_owned();
            return Self { code: code.to_owned(), message, ..Self::default() };
        }
        let inner = error.get("innerError").or_else(|| error.get("innererror")).unwrap_or(&Value::Null);
        Self {
            code: text(error, "code").or_else(|| text(inner, "code")).unwrap_or("").to_owned(),
            message: text(error, "message").unwrap_or("").to_owned(),
            request_id: text(inner, "request-id").map(str::to_owned),
            foreign: false,
        }
    }

    /// Whether the code is this one; letter case does not count.
    #[must_use]
    pub fn is(&self, code: &str) -> bool {
        self.code.eq_ignore_ascii_case(code)
    }

    /// Whether it says that a delta token is no good any more and all has to be listed anew.
    #[must_use]
    pub fn wants_resync(&self, status: u16) -> bool {
        const CODES: [&str; 7] = [
            "resyncRequired",
            "syncStateNotFound",
            "syncStateInvalid",
            "ErrorSyncStateNotFound",
            "ErrorInvalidSyncStateData",
            "resyncChangesApplyDifferences",
            "resyncChangesUploadDifferences",
        ];
        status == 410 || CODES.iter().any(|code| self.is(code))
    }

    /// The words for an error: code, message and request id.
    #[must_use]
    pub fn words(&self) -> String {
        let mut words = match (self.code.is_empty(), self.message.is_empty()) {
            (false, false) => format!("{}: {}", self.code, self.message),
            (false, true) => self.code.clone(),
            (true, _) => self.message.clone(),
        };
        if let Some(id) = &self.request_id {
            // the words may be cut at 500 characters, the id must not
            words = words.chars().take(400).collect();
            words = format!("{words} [request-id {id}]").trim().to_owned();
        }
        words
    }
}

/// What a person would read of a page: the text of HTML without its tags.
fn page_words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4096)]);
    let mut out = String::new();
    let mut tag = false;
    for c in text.chars() {
        match c {
            '<' => tag = true,
            '>' if tag => {
                tag = false;
                out.push(' ');
            }
            _ if tag => {}
            c => out.push(c),
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_their_shapes() {
        for (body, code, message, id, foreign) in [
            (
                r#"{"error":{"code":"ErrorItemNotFound","message":"gone","innerError":{"request-id":"r1","date":"x"}}}"#,
                "ErrorItemNotFound",
                "gone",
                Some("r1"),
                false,
            ),
            (r#"{"error":{"code":null,"message":5,"innererror":{"code":"x"}}}"#, "x", "", None, false),
            (
                r#"{"error":"invalid_client","error_description":"AADSTS7000215"}"#,
                "invalid_client",
                "AADSTS7000215",
                None,
                false,
            ),
            (r#"{"error":null}"#, "", "", None, false),
            ("<html><title>502</title><p>Bad  Gateway</p>", "", "502 Bad Gateway", None, true),
            ("", "", "", None, false),
            ("{}", "", "{}", None, true),
        ] {
            let fault = Fault::read(body.as_bytes());
            assert_eq!(
                (fault.code.as_str(), fault.message.as_str(), fault.request_id.as_deref(), fault.foreign),
                (code, message, id, foreign),
                "{body}"
            );
        }
    }

    #[test]
    fn the_request_id_is_never_cut_off() {
        let fault =
            Fault { message: "x".repeat(5000), request_id: Some("r-1".to_owned()), ..Fault::default() };
        assert!(fault.words().len() < 500 && fault.words().ends_with("[request-id r-1]"));
    }
}
