//! How long to leave a mailbox or a server alone after a failure.

use std::time::Duration;

use email_router_model::{Classified, Entropy, Retry, Scope};

/// The longest a mailbox or server is left alone: an hour, so that a repaired fault is noticed within the hour.
pub const LONGEST: Duration = Duration::from_secs(60 * 60);

/// The first delay after an error that a person has to repair (wrong password): trying more often locks accounts.
pub const AFTER_PERMANENT: Duration = Duration::from_secs(15 * 60);

/// The delay before the next attempt after `failures` failures in a row (at least 1), on top of the ordinary `period`.
///
/// Doubles with each failure from `period`, starts at [`AFTER_PERMANENT`] for errors that repeat until a person acts, obeys a delay the
/// other side named, never exceeds [`LONGEST`] (unless the other side named more, up to a day), and varies by a tenth.
pub fn delay(error: &dyn Classified, failures: u32, period: Duration, entropy: &dyn Entropy) -> Duration {
    let base = match error.retry() {
        Retry::Never if error.scope() != Scope::Message => period.max(AFTER_PERMANENT),
        _ => period.max(Duration::from_secs(1)),
    };
    let doubled = base.saturating_mul(1 << failures.saturating_sub(1).min(12)).min(LONGEST.max(period));
    let asked = match error.retry() {
        Retry::Later(Some(asked)) => asked.min(email_router_transport::contract::LONGEST_RETRY_DELAY),
        _ => Duration::ZERO,
    };
    jittered(doubled.max(asked), entropy)
}

/// `duration` lengthened by up to a tenth, at random.
pub fn jittered(duration: Duration, entropy: &dyn Entropy) -> Duration {
    duration + duration.mul_f64(entropy.fraction() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use email_router_model::SeededEntropy;
    use email_router_transport::{Error, ErrorKind};

    #[test]
    fn delays() {
        let entropy = SeededEntropy::new(1);
        let minute = Duration::from_secs(60);
        let seconds = |e: &Error, n| delay(e, n, minute, &entropy).as_secs();
        let refused = Error::new(ErrorKind::Refused, "x");
        assert!((60..=66).contains(&seconds(&refused, 1)));
        assert!((240..=264).contains(&seconds(&refused, 3)));
        assert!((3600..=3960).contains(&seconds(&refused, 30)));
        assert!((900..=990).contains(&seconds(&Error::new(ErrorKind::Authentication, "x"), 1)));
        let throttled = Error::new(ErrorKind::Throttled, "x").after(Duration::from_secs(7200));
        assert!((7200..=7920).contains(&seconds(&throttled, 1)));
    }
}
