//! How values lie in columns.

use email_router_engine::{StateError, Verdict};
use email_router_model::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Problem;

/// A time as microseconds since 1970, which covers every year a [`Timestamp`] can have; what is finer is cut off.
pub(super) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// The time back; a number no [`Timestamp`] can have becomes the nearest one.
pub(super) fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(if micros < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

pub(super) fn verdict_code(verdict: Verdict) -> i64 {
    match verdict {
        Verdict::Deliver => 0,
        Verdict::Discard => 1,
        Verdict::Undeliverable => 2,
        Verdict::LeftAlone => 3,
    }
}

pub(super) fn verdict(code: i64) -> Result<Verdict, Problem> {
    Ok(match code {
        0 => Verdict::Deliver,
        1 => Verdict::Discard,
        2 => Verdict::Undeliverable,
        3 => Verdict::LeftAlone,
        _ => return Err(Problem::Content(format!("there is no verdict with the number {code}"))),
    })
}

pub(super) fn to_json(value: &impl Serialize) -> Result<String, StateError> {
    serde_json::to_string(value).map_err(|error| StateError {
        message: format!("a value cannot be written to the state file: {error}"),
        transient: false,
        source: Some(Box::new(error)),
    })
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| Problem::Content(format!("a row cannot be read: {error}")))
}
