//! What web servers and token services say.

use email_router_http::oauth::proto;
use email_router_http::{HeaderMap, HeaderValue, LONGEST_RETRY_DELAY, challenges as parse, header};
use email_router_model::Timestamp;

/// The values of `WWW-Authenticate`, one a line: names are tokens of HTTP, and no offer comes from nothing.
pub fn challenges(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|&b| b == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(header::WWW_AUTHENTICATE, value);
        }
    }
    let found = parse(&headers, &header::WWW_AUTHENTICATE);
    assert!(found.len() <= 32);
    let token = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&b))
    };
    for challenge in &found {
        assert!(token(&challenge.scheme), "{challenge:?}");
        assert!(challenge.token.is_none() || challenge.parameters.is_empty(), "{challenge:?}");
        assert!(challenge.parameters.iter().all(|(name, _)| token(name)), "{challenge:?}");
    }
    let written = found.iter().map(|challenge| challenge.scheme.len()).sum::<usize>();
    assert!(written <= data.len());
}

/// A value of `Retry-After`: a delay is never longer than the longest one, and a value of digits is one.
pub fn retry_after(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let digits = !data.is_empty() && data.len() < 5 && data.iter().all(u8::is_ascii_digit);
    let mut headers = HeaderMap::new();
    headers.insert(header::RETRY_AFTER, value);
    for now in [Timestamp::UNIX_EPOCH, Timestamp::MAX, Timestamp::MIN] {
        let delay = email_router_http::retry_after(&headers, now);
        assert!(delay.is_none_or(|delay| delay <= LONGEST_RETRY_DELAY));
        assert!(!digits || delay.is_some_and(|delay| delay.subsec_nanos() == 0));
    }
}

/// The answer of a token service: a token is safe to write into a header and good for a while, and the words of a refusal are one line.
pub fn token_answer(data: &[u8]) {
    if let Ok(issued) = proto::issued(data) {
        let token = issued.token.expose();
        assert!(!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()));
        assert!(!issued.lifetime.is_zero() && issued.lifetime <= proto::LONGEST_LIFETIME);
        assert!(!format!("{issued:?}").contains(token) || token.len() < 12, "the token is shown");
    }
    if let Some(refusal) = proto::refusal(data) {
        assert!(!refusal.to_string().chars().any(char::is_control), "unsafe in a log: {refusal:?}");
        assert!(refusal.description.chars().count() <= 400 && refusal.error.chars().count() <= 80);
    }
}
