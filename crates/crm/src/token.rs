//! Tracking tokens: `CRM:0001001` is prefix, a fixed digit, the sender's number and the counter of its messages
//! (`crm-contract.md` 8.2, vectors in 14).

mod find;

pub use find::{Token, TokenFinder};

use crate::OrganizationSettings;

/// The digit after the prefix: 0 for e-mail made while online, 1 for offline; the router is always online.
const ONLINE: char = '0';

/// How the tokens of an organization look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFormat {
    /// Before the digits, 1 to 20 characters.
    pub prefix: String,
    /// Added to the sender's number.
    pub base: u32,
    /// Digits of the sender's number, 1 to 10.
    pub user_digits: u8,
    /// Largest message counter; its digits are the width of the counter.
    pub maximum: u32,
}

impl TokenFormat {
    /// The format these settings ask for.
    #[must_use]
    pub fn new(settings: &OrganizationSettings) -> Self {
        Self {
            prefix: settings.tracking_prefix.clone(),
            base: settings.tracking_token_id_base,
            user_digits: settings.tracking_token_id_digits.clamp(1, 10),
            maximum: settings.maximum_tracking_number.max(1),
        }
    }

    /// Digits of the counter, 1 to 10.
    #[must_use]
    pub fn counter_digits(&self) -> u8 {
        // the logarithm of a u32 is at most 9
        u8::try_from(self.maximum.max(1).ilog10() + 1).unwrap_or(10)
    }

    /// All digits after the prefix: the fixed one, the sender's and the counter's.
    #[must_use]
    pub fn digits(&self) -> usize {
        1 + usize::from(self.user_digits.clamp(1, 10)) + usize::from(self.counter_digits())
    }

    /// The token of this sender's message number `counter`.
    ///
    /// It always has the width of the format, since only tokens of that width are found again: the counter starts over with 0
    /// after the maximum, and of a sender's number with more digits than fit only the last ones are written.
    ///
    /// ```
    /// use email_router_crm::token::TokenFormat;
    /// let format = TokenFormat { prefix: "CRM:".into(), base: 0, user_digits: 3, maximum: 999 };
    /// assert_eq!(format.make(1, 1), "CRM:0001001");
    /// assert_eq!(format.make(1, 1000), "CRM:0001000");
    /// ```
    #[must_use]
    pub fn make(&self, user: u32, counter: u32) -> String {
        let width = usize::from(self.user_digits.clamp(1, 10));
        let user =
            (u64::from(self.base) + u64::from(user)) % 10_u64.pow(u32::from(self.user_digits.clamp(1, 10)));
        let counter = u64::from(counter) % (u64::from(self.maximum.max(1)) + 1);
        let counter_width = usize::from(self.counter_digits());
        format!("{}{ONLINE}{user:0width$}{counter:0counter_width$}", self.prefix)
    }

    /// The counter after this one: 0 follows the maximum.
    #[must_use]
    pub fn after(&self, counter: u32) -> u32 {
        if counter >= self.maximum { 0 } else { counter + 1 }
    }
}

/// The subject with the token at its end, at most `limit` UTF-16 units long (`MaximumSubjectLengthOnMailServer`, the length that
/// .NET counts; `crm-contract.md` 6.2).
///
/// The subject is cut so that a space and the token fit. A subject that ends with this token already (letter case does not
/// count) gets no second one. A token that alone is longer than the limit is left out; then the subject is cut to the limit.
///
/// ```
/// use email_router_crm::token::append_token;
/// assert_eq!(append_token("Re: Quote", "CRM:0001001", 255), "Re: Quote CRM:0001001");
/// assert_eq!(append_token("", "CRM:0001001", 255), "CRM:0001001");
/// ```
#[must_use]
pub fn append_token(subject: &str, token: &str, limit: usize) -> String {
    let subject = subject.trim_end();
    let token_units = units(token);
    if token.is_empty() || token_units > limit {
        return cut(subject, limit).trim_end().to_owned();
    }
    let subject = without_token(subject, token);
    if subject.is_empty() || token_units + 2 > limit {
        return token.to_owned();
    }
    // cutting may bring white space, or the same token from the middle, to the end
    let head = without_token(cut(subject, limit - token_units - 1).trim_end(), token);
    if head.is_empty() { token.to_owned() } else { format!("{head} {token}") }
}

/// Whether the subject ends with this token; letter case does not count.
#[must_use]
pub fn ends_with_token(subject: &str, token: &str) -> bool {
    tail(subject.trim_end(), token).is_some()
}

/// The subject without this token at its end, where it stands there once or several times.
fn without_token<'a>(subject: &'a str, token: &str) -> &'a str {
    let mut rest = subject;
    while let Some(head) = tail(rest, token) {
        rest = head.trim_end();
    }
    rest
}

/// What stands before this token at the end.
fn tail<'a>(subject: &'a str, token: &str) -> Option<&'a str> {
    if token.is_empty() {
        return None;
    }
    let at = subject.len().checked_sub(token.len())?;
    let end = subject.get(at..)?;
    (end == token || end.to_lowercase() == token.to_lowercase()).then(|| &subject[..at])
}

fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

/// The longest beginning of at most `limit` UTF-16 units that cuts no character in half.
fn cut(text: &str, limit: usize) -> &str {
    let mut left = limit;
    for (at, c) in text.char_indices() {
        match left.checked_sub(c.len_utf16()) {
            Some(rest) => left = rest,
            None => return &text[..at],
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn format(prefix: &str, base: u32, user_digits: u8, maximum: u32) -> TokenFormat {
        TokenFormat { prefix: prefix.into(), base, user_digits, maximum }
    }

    #[test]
    fn vectors_of_making() {
        // crm-contract.md 14, "Token make"
        let microsoft = TokenFormat::new(&OrganizationSettings::default());
        assert_eq!(microsoft, format("CRM:", 0, 3, 999));
        assert_eq!(microsoft.make(1, 1), "CRM:0001001");
        assert_eq!(microsoft.make(1, 1000), "CRM:0001000");
        assert_eq!(format("KAW", 100, 4, 99_999).make(7, 12), "KAW0010700012");
    }

    #[test]
    fn widths_never_change() {
        let f = format("CRM:", 0, 3, 999);
        for (user, counter) in [(0, 0), (999, 999), (1000, 1), (u32::MAX, u32::MAX)] {
            assert_eq!(f.make(user, counter).len(), "CRM:".len() + f.digits(), "{user} {counter}");
        }
        assert_eq!(f.make(1000, 5), "CRM:0000005");
        for (maximum, digits) in [(1, 1), (9, 1), (10, 2), (999, 3), (1000, 4), (999_999_999, 9)] {
            assert_eq!(format("x", 0, 3, maximum).counter_digits(), digits, "{maximum}");
        }
    }

    #[test]
    fn the_counter_starts_over() {
        let f = format("CRM:", 0, 3, 999);
        assert_eq!((f.after(0), f.after(998), f.after(999), f.after(5000)), (1, 999, 0, 0));
    }

    #[test]
    fn vectors_of_appending() {
        // crm-contract.md 14, "Subject + token"
        let token = "CRM:0001001";
        let long = append_token(&"x".repeat(250), token, 255);
        assert_eq!(long, format!("{} {token}", "x".repeat(243)));
        assert_eq!(long.len(), 255);
        assert_eq!(append_token("", token, 255), token);
        assert_eq!(append_token("Re: Quote", token, 255), "Re: Quote CRM:0001001");
        assert_eq!(append_token("Re: Quote CRM:0001001", token, 255), "Re: Quote CRM:0001001");
        assert_eq!(append_token("Re: Quote crm:0001001 ", token, 255), "Re: Quote CRM:0001001");
    }

    #[test]
    fn the_limit_counts_utf16_units() {
        let token = "CRM:0001001";
        // each of these is two UTF-16 units; 243 units leave room for 121 whole ones
        let long = append_token(&"\u{1F600}".repeat(200), token, 255);
        assert_eq!(units(&long), 121 * 2 + 1 + token.len());
        // a token longer than the limit is left out
        assert_eq!(append_token("subject", "CRM:0001001", 5), "subje");
        assert_eq!(append_token("subject", "CRM:0001001", 11), "CRM:0001001");
        assert_eq!(append_token("subject", "CRM:0001001", 12), "CRM:0001001");
        assert_eq!(append_token("subject", "CRM:0001001", 13), "s CRM:0001001");
        // what the cut brings to the end
        assert_eq!(append_token("a    b", "CRM:0001001", 15), "a CRM:0001001");
        assert_eq!(append_token("a CRM:0001001 and more", "CRM:0001001", 25), "a CRM:0001001");
    }

    proptest! {
        #[test]
        fn never_longer_than_the_limit_and_never_twice(
            subject in "[ a-zA-Z0-9:\u{e4}\u{4e2d}\u{1F600}]{0,80}",
            repeats in 0_usize..4,
            prefix in "[A-Z]{1,8}:?",
            user in any::<u32>(),
            counter in any::<u32>(),
            limit in 0_usize..120,
        ) {
            let token = format(&prefix, 0, 3, 999).make(user, counter);
            let subject = format!("{subject}{}", format!(" {token}").repeat(repeats));
            let once = append_token(&subject, &token, limit);
            prop_assert!(units(&once) <= limit);
            let twice = append_token(&once, &token, limit);
            prop_assert_eq!(&twice, &once);
            if token.len() <= limit {
                prop_assert!(once.ends_with(&token));
                let head = once[..once.len() - token.len()].trim_end();
                prop_assert!(!ends_with_token(head, &token), "{}", once);
            }
        }
    }
}
