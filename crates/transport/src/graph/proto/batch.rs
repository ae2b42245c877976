//! Several requests in one (Microsoft Graph, "combine multiple HTTP requests using JSON batching").

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{Malformed, text};

/// The most requests in a batch.
pub const MOST: usize = 20;

/// One request of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The method.
    pub method: &'static str,
    /// The URL behind the version: `/users/...`.
    pub url: String,
    /// The body, when there is one.
    pub body: Option<Value>,
}

/// The answer to one request of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// `Retry-After`, as it was written.
    pub retry_after: Option<String>,
    /// Its body; `null` where there is none.
    pub body: Value,
}

/// The body of a batch; the requests are named by their places, from 0, and each says itself that ids shall be immutable.
#[must_use]
pub fn request(parts: &[Part]) -> Vec<u8> {
    let requests: Vec<Value> = parts
        .iter()
        .enumerate()
        .map(|(place, part)| {
            let mut headers = json!({"Prefer": super::IMMUTABLE});
            let mut request = json!({"id": place.to_string(), "method": part.method, "url": part.url});
            if let Some(body) = &part.body {
                headers["Content-Type"] = json!("application/json");
                request["body"] = body.clone();
            }
            request["headers"] = headers;
            request
        })
        .collect();
    json!({"requests": requests}).to_string().into_bytes()
}

/// The answers to so many requests, in the order of the requests, whatever the order of the answers.
///
/// # Errors
/// [`Malformed`] where one is missing or there twice: nobody would know what became of it.
pub fn answers(body: &[u8], count: usize) -> Result<Vec<Answer>, Malformed> {
    let mut body = super::json(body)?;
    let Some(Value::Array(responses)) = body.get_mut("responses").map(Value::take) else {
        return Err(Malformed::new("the answer to a batch holds no responses"));
    };
    let mut found = HashMap::new();
    for mut response in responses {
        let place = match response.get("id") {
            Some(Value::String(id)) => id.parse().ok(),
            Some(Value::Number(id)) => id.as_u64().and_then(|id| usize::try_from(id).ok()),
            _ => None,
        };
        let Some(place) = place.filter(|place: &usize| *place < count) else {
            return Err(Malformed::new("an answer in a batch belongs to no request"));
        };
        let status = response.get("status").and_then(Value::as_u64).and_then(|s| u16::try_from(s).ok());
        let Some(status) = status.filter(|s| (100..600).contains(s)) else {
            return Err(Malformed::new("an answer in a batch has no status"));
        };
        let headers = response.get("headers").and_then(Value::as_object);
        let retry_after = headers.and_then(|headers| {
            let (_, value) = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("Retry-After"))?;
            value.as_str().map(str::to_owned).or_else(|| value.as_f64().map(|n| n.to_string()))
        });
        let body = response.get_mut("body").map(Value::take).unwrap_or_default();
        if found.insert(place, Answer { status, retry_after, body }).is_some() {
            return Err(Malformed::new("a request in a batch was answered twice"));
        }
    }
    (0..count)
        .map(|place| {
            let missing = || Malformed::new("a request in a batch was not answered");
            found.remove(&place).ok_or_else(missing)
        })
        .collect()
}

/// The code and message of an answer's error.
#[must_use]
pub fn error_of(answer: &Answer) -> (Option<&str>, Option<&str>) {
    let error = answer.body.get("error").unwrap_or(&Value::Null);
    (text(error, "code"), text(error, "message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_requests() {
        let body = br#"{"responses":[
            {"id":"1","status":429,"headers":{"retry-after":"1.5"},"body":{"error":{"code":"TooManyRequests","message":"m"}}},
            {"id":0,"status":204},{"id":"2","status":200,"headers":{"Retry-After":3},"body":{"id":"x"}}]}"#;
        let answers = answers(body, 3).unwrap();
        assert_eq!(answers.iter().map(|a| a.status).collect::<Vec<_>>(), [204, 429, 200]);
        assert_eq!(answers[1].retry_after.as_deref(), Some("1.5"));
        assert_eq!(answers[2].retry_after.as_deref(), Some("3"));
        assert_eq!(error_of(&answers[1]), (Some("TooManyRequests"), Some("m")));
    }

    #[test]
    fn every_request_is_answered_once() {
        for body in [
            r#"{}"#,
            r#"{"responses":[]}"#,
            r#"{"responses":[{"id":"1","status":200}]}"#,
            r#"{"responses":[{"id":"0","status":200},{"id":"0","status":200}]}"#,
            r#"{"responses":[{"id":"0"}]}"#,
            r#"{"responses":[{"id":"0","status":99999}]}"#,
            r#"{"responses":[null]}"#,
        ] {
            assert!(answers(body.as_bytes(), 1).is_err(), "{body}");
        }
    }

    #[test]
    fn a_request_names_its_place_and_asks_for_immutable_ids() {
        let parts = [
            Part { method: "GET", url: "/users/a".to_owned(), body: None },
            Part { method: "PATCH", url: "/users/b".to_owned(), body: Some(json!({"isRead": true})) },
        ];
        let body: Value = serde_json::from_slice(&request(&parts)).unwrap();
        assert_eq!(body["requests"][1]["id"], "1");
        assert_eq!(body["requests"][1]["headers"]["Content-Type"], "application/json");
        assert_eq!(body["requests"][0]["headers"]["Prefer"], "IdType=\"ImmutableId\"");
        assert!(body["requests"][0].get("body").is_none());
    }
}
