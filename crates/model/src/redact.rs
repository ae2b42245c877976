//! Keeps what was sent to prove who somebody is out of a server's words.

use memchr::memmem::Finder;
use zeroize::Zeroizing;

/// What stands in the place of a secret.
const STARS: &str = "***";

/// A beginning of a secret is recognized at the end of a shortened text from this length on, in characters.
const SHORTEST_BEGINNING: usize = 3;

/// The secrets of one session, for the moment a server quotes one: `-ERR unknown command "PASS hunter2"`.
///
/// ```
/// use email_router_model::Redactor;
/// let mut redactor = Redactor::default();
/// redactor.add("hunter2");
/// assert_eq!(redactor.clean("unknown command: PASS hunter2"), "unknown command: PASS ***");
/// ```
#[derive(Clone, Default)]
pub struct Redactor(Vec<Zeroizing<String>>);

impl Redactor {
    /// Whatever is added here is not shown from now on, in any letter case. Control characters, which the words of servers never
    /// keep, count as spaces.
    pub fn add(&mut self, secret: &str) {
        let mut plain: Zeroizing<String> = Zeroizing::new(String::with_capacity(secret.len()));
        plain.extend(secret.chars().map(|c| if c.is_control() { ' ' } else { c.to_ascii_lowercase() }));
        let plain = Zeroizing::new(plain.trim().to_owned());
        if !plain.is_empty() && !self.0.contains(&plain) {
            self.0.push(plain);
            // a secret may be a part of another one
            self.0.sort_by_key(|s| std::cmp::Reverse(s.len()));
        }
    }

    /// The text without the secrets.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| without(text, secret))
    }

    /// As [`Self::clean`], for a text that was shortened: a secret may be cut in its middle at the end.
    #[must_use]
    pub fn clean_excerpt(&self, text: &str) -> String {
        // the cut may have gone through a character, too
        let mut text = self.clean(text.trim_end_matches(char::REPLACEMENT_CHARACTER));
        let end = text.to_ascii_lowercase();
        let cut = |secret: &Zeroizing<String>| {
            let beginnings = secret.char_indices().map(|(at, _)| at).skip(SHORTEST_BEGINNING);
            beginnings.filter(|&at| end.ends_with(&secret[..at])).max()
        };
        if let Some(length) = self.0.iter().filter_map(cut).max() {
            text.truncate(text.len() - length);
            text.push_str(STARS);
        }
        text
    }
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({})", self.0.len())
    }
}

fn without(text: String, secret: &str) -> String {
    // changing the letter case of ASCII moves nothing
    let searched = text.to_ascii_lowercase();
    let finder = Finder::new(secret.as_bytes());
    let mut out = String::new();
    let mut from = 0;
    for at in finder.find_iter(searched.as_bytes()) {
        out.push_str(&text[from..at]);
        out.push_str(STARS);
        from = at + secret.len();
    }
    if from == 0 {
        return text;
    }
    out.push_str(&text[from..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redactor(secrets: &[&str]) -> Redactor {
        let mut redactor = Redactor::default();
        secrets.iter().for_each(|s| redactor.add(s));
        redactor
    }

    #[test]
    fn secrets_are_found() {
        for (secrets, text, clean) in [
            (&["hunter2"][..], "unknown command \"PASS hunter2\"", "unknown command \"PASS ***\""),
            (&["hunter2"], "PASS HUNTER2 hunter2", "PASS *** ***"),
            (&["hunter2"], "nothing here", "nothing here"),
            (&["", "  ", "\r\n"], "a  b", "a  b"),
            (&[" two\twords "], "said two words", "said ***"),
            (&["abc", "xabcx"], "xabcx abc", "*** ***"),
            (&["пароль"], "ваш пароль", "ваш ***"),
            (&["aa"], "aaa", "***a"),
        ] {
            assert_eq!(redactor(secrets).clean(text), clean, "{text}");
        }
        for (text, clean) in [
            ("no answer: PASS hunt", "no answer: PASS ***"),
            ("no answer: PASS hunter", "no answer: PASS ***"),
            ("no answer: PASS hu", "no answer: PASS hu"),
            ("no answer: PASS hunter2", "no answer: PASS ***"),
            ("hunt down", "hunt down"),
            ("PASS hunt\u{fffd}", "PASS ***"),
            ("", ""),
        ] {
            assert_eq!(redactor(&["hunter2"]).clean_excerpt(text), clean, "{text}");
        }
        assert_eq!(format!("{:?}", redactor(&["hunter2"])), "Redactor(1)");
    }

    proptest! {
        #[test]
        fn no_secret_is_left(before in "\\PC{0,20}", secret in "[a-zA-Z0-9я€]{3,12}", after in "\\PC{0,20}") {
            let redactor = redactor(&[&secret]);
            let text = format!("{before}{secret}{after}");
            for clean in [redactor.clean(&text), redactor.clean_excerpt(&text)] {
                // what is left over may touch the stars, and stars are no part of a secret
                prop_assert!(!clean.to_ascii_lowercase().contains(&secret.to_ascii_lowercase()), "{clean}");
            }
        }
    }
}
