//! When a server wants to be asked again.

use std::time::Duration;

use email_router_model::Timestamp;
use http::HeaderMap;

/// The longest time that a server may ask for, whatever it says: one day.
pub const LONGEST_RETRY_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

/// `Retry-After` (RFC 9110 section 10.2.3): seconds, also with a fraction, which Microsoft Graph sends, or a date. `None` where the field is missing or
/// says neither; a date in the past is no delay. Never more than [`LONGEST_RETRY_DELAY`].
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        let seconds: f64 = text.parse().ok()?;
        return Some(
            Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_RETRY_DELAY).min(LONGEST_RETRY_DELAY),
        );
    }
    let at = httpdate::parse_http_date(text).ok()?;
    let at = Timestamp::try_from(at).ok()?;
    let delay = Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
    Some(delay.min(LONGEST_RETRY_DELAY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_value(value in "[ -~]{0,40}", now in -1_000_000_000_i64..4_000_000_000) {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::RETRY_AFTER, value.parse().unwrap());
            let delay = retry_after(&headers, Timestamp::from_second(now).unwrap());
            prop_assert!(delay.is_none_or(|delay| delay <= LONGEST_RETRY_DELAY));
        }
    }

    #[test]
    fn seconds_fractions_and_dates() {
        let now: Timestamp = "1994-11-06T08:49:37Z".parse().unwrap();
        let second = Duration::from_secs;
        for (text, expected) in [
            ("120", Some(second(120))),
            (" 0 ", Some(Duration::ZERO)),
            ("1.5", Some(Duration::from_millis(1500))),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(second(30))),
            ("Sunday, 06-Nov-94 08:50:07 GMT", Some(second(30))),
            ("Sun Nov  6 08:50:07 1994", Some(second(30))),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(Duration::ZERO)),
            ("99999999999999999999999999", Some(LONGEST_RETRY_DELAY)),
            ("Sat, 06 Nov 2094 08:50:07 GMT", Some(LONGEST_RETRY_DELAY)),
            ("-1", None),
            ("1.2.3", None),
            ("", None),
            ("soon", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::RETRY_AFTER, text.parse().unwrap());
            assert_eq!(retry_after(&headers, now), expected, "{text:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
