//! Tracking tokens in subjects (`crm-contract.md` 8.2 and 13.3).

use regex::{Regex, RegexBuilder};

use crate::{OrganizationSettings, subject};

/// Digits of a token without prefix: the deployment digit, 1 to 10 of the user, 1 to 9 of the counter.
const WIDTHS: std::ops::RangeInclusive<usize> = 3..=20;

/// At most this many tokens of a subject are looked at, the last ones.
const MAX_TOKENS: usize = 10;

/// Finds the tracking tokens of one organization.
#[derive(Debug, Clone)]
pub struct TokenFinder {
    /// Prefix and digits; `None` when no prefix is set.
    pattern: Option<Regex>,
    width: usize,
}

/// A token found in a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Prefix and digits as they stand in the subject.
    pub text: String,
    /// Whether it has as many digits as the settings say now. One of another width may be from before a change of the
    /// settings, and counts only if an e-mail has it.
    pub current_width: bool,
}

impl TokenFinder {
    /// The finder for these settings: the current prefix and all former ones, letter case ignored.
    #[must_use]
    pub fn new(settings: &OrganizationSettings) -> Self {
        let mut prefixes: Vec<&str> = std::iter::once(settings.tracking_prefix.as_str())
            .chain(settings.tracking_prefix_history.iter().map(String::as_str))
            .filter(|p| !p.trim().is_empty())
            .collect();
        // longest first, since alternatives are tried in order
        prefixes.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        prefixes.dedup();
        let alternatives: Vec<String> = prefixes.iter().map(|p| regex::escape(p)).collect();
        let pattern = (!alternatives.is_empty())
            .then(|| {
                RegexBuilder::new(&format!("(?:{})([0-9]+)", alternatives.join("|")))
                    .case_insensitive(true)
                    .build()
            })
            .and_then(Result::ok);
        let counter = settings.maximum_tracking_number.to_string().len();
        let width = 1 + usize::from(settings.tracking_token_id_digits.clamp(1, 10)) + counter.min(9);
        Self { pattern, width }
    }

    /// The tokens in a subject, in order, each once.
    #[must_use]
    pub fn find(&self, subject: &str) -> Vec<Token> {
        let Some(pattern) = &self.pattern else { return Vec::new() };
        let subject = subject::visible(subject);
        let mut found: Vec<Token> = Vec::new();
        for hit in pattern.captures_iter(&subject) {
            let (Some(all), Some(digits)) = (hit.get(0), hit.get(1)) else { continue };
            if WIDTHS.contains(&digits.len()) {
                // of the same token twice the later place counts
                found.retain(|t| !t.text.eq_ignore_ascii_case(all.as_str()));
                found
                    .push(Token { text: all.as_str().to_owned(), current_width: digits.len() == self.width });
            }
        }
        let excess = found.len().saturating_sub(MAX_TOKENS);
        found.drain(..excess);
        found
    }

    /// The subject without anything that looks like a token, and without [invisible characters](subject::is_invisible).
    #[must_use]
    pub fn remove(&self, subject: &str) -> String {
        let subject = subject::visible(subject);
        match &self.pattern {
            Some(pattern) => pattern.replace_all(&subject, " ").into_owned(),
            None => subject.into_owned(),
        }
    }

    /// The subject as all mails of a conversation share it: without tokens, then as [`subject::base`] has it.
    #[must_use]
    pub fn base_subject(&self, subject: &str) -> String {
        subject::base(&self.remove(subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(settings: &OrganizationSettings, subject: &str) -> Vec<(String, bool)> {
        TokenFinder::new(settings).find(subject).into_iter().map(|t| (t.text, t.current_width)).collect()
    }

    /// `crm-contract.md` 14, "Token find".
    #[test]
    fn contract_vector() {
        let found =
            find(&OrganizationSettings::default(), "RE: quote CRM:0001001 again crm:0002003 CRM:00010012");
        let current: Vec<_> = found.iter().filter(|t| t.1).map(|t| t.0.as_str()).collect();
        assert_eq!(current, ["CRM:0001001", "crm:0002003"]);
        assert_eq!(found[2], ("CRM:00010012".to_owned(), false));
    }

    #[test]
    fn prefixes_and_widths() {
        let settings = OrganizationSettings {
            tracking_prefix: "KAW".to_owned(),
            tracking_prefix_history: vec!["CRM:".to_owned(), "K.W".to_owned(), String::new()],
            tracking_token_id_digits: 4,
            maximum_tracking_number: 99_999,
            ..OrganizationSettings::default()
        };
        assert_eq!(find(&settings, "KAW0010700012"), [("KAW0010700012".to_owned(), true)]);
        assert_eq!(
            find(&settings, "kaw0010700012 CRM:0001001 kAw0010700012"),
            [("CRM:0001001".to_owned(), false), ("kAw0010700012".to_owned(), true)]
        );
        assert_eq!(find(&settings, "K\u{200b}AW\u{200e}0010700012"), [("KAW0010700012".to_owned(), true)]);
        for nothing in ["", "KxW0010700012", "KAW", "KAW12", "0010700012", "KAW123456789012345678901"] {
            assert_eq!(find(&settings, nothing), [], "{nothing}");
        }
        let many: String = (100..150).map(|n| format!("CRM:0001{n} ")).collect();
        let found = find(&OrganizationSettings::default(), &many);
        assert_eq!((found.len(), found[9].0.as_str()), (10, "CRM:0001149"));
    }

    #[test]
    fn base_subjects() {
        let finder = TokenFinder::new(&OrganizationSettings::default());
        for (subject, expected) in [
            ("RE: Fwd:  Offer  12 CRM:0001001", "offer 12"),
            ("AW: WG: Angebot 12", "angebot 12"),
            ("Re[2]: x", "x"),
            ("回复：报价", "报价"),
            ("CRM:0001001", ""),
            ("two words: x", "two words: x"),
            ("Invoice: 5 items", "invoice: 5 items"),
            ("CRM:0001001 RE: [EXT] FW: x", "x"),
        ] {
            assert_eq!(finder.base_subject(subject), expected, "{subject}");
        }
    }
}
