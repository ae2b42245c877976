//! E-mail addresses (`addr-spec` of RFC 5322 section 3.4.1, with the UTF-8 of RFC 6532).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One e-mail address, `local-part@domain`, without a display name.
///
/// It keeps the spelling it was given, compares and hashes without regard to letter case (as the CRM does when it looks
/// up addresses; RFC 5321 2.4 would allow case-sensitive local parts, which no mail system in the field uses), and can
/// never contain a control character, nor white space, an angle bracket or a comma outside a quoted local part (`"a <b>"@example.com`
/// is an address, RFC 5321 4.1.2). A value of this type is therefore always safe to write into an SMTP command or a header: what reads
/// quoted strings as the grammar has them cannot be led astray. Code of ours that looks for `<` and `>` in a text must respect quotes.
///
/// ```
/// use email_router_model::EmailAddress;
/// let a: EmailAddress = "Ann@Example.com".parse()?;
/// assert_eq!(a.as_str(), "Ann@Example.com");
/// assert_eq!(a, "ann@example.com".parse()?);
/// assert_eq!((a.local_part(), a.domain()), ("Ann", "Example.com"));
/// assert!("not an address".parse::<EmailAddress>().is_err());
/// # Ok::<(), email_router_model::AddressError>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress {
    text: String,
    at: usize,
}

/// Why a text is not an e-mail address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The text is empty or only white space.
    #[error("the address is empty")]
    Empty,
    /// There is no `@`, or nothing before or after it.
    #[error("{text:?} is not an address of the form local-part@domain")]
    Form {
        /// The offending text, shortened.
        text: String,
    },
    /// A character that may not stand in an address.
    #[error("{text:?} contains the character {character:?}, which may not stand in an address")]
    Character {
        /// The offending text, shortened.
        text: String,
        /// The first offending character.
        character: char,
    },
    /// Longer than 320 octets: 64 for the local part, 255 for the domain and the `@` (RFC 5321 4.5.3.1).
    #[error("the address is {length} octets long; at most 320 are allowed")]
    TooLong {
        /// Length in octets.
        length: usize,
    },
}

impl EmailAddress {
    /// The longest address accepted, in octets (RFC 5321 4.5.3.1.1 and 4.5.3.1.2: 64 + 1 + 255).
    pub const MAX_OCTETS: usize = 320;

    /// Parses `local-part@domain`, with surrounding white space and one pair of angle brackets allowed.
    ///
    /// # Errors
    /// [`AddressError`] says what is wrong; the text it quotes is shortened to 80 characters.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        let text = text.strip_prefix('<').and_then(|t| t.strip_suffix('>')).unwrap_or(text).trim();
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if text.len() > Self::MAX_OCTETS {
            return Err(AddressError::TooLong { length: text.len() });
        }
        let short = || text.chars().take(80).collect::<String>();
        let Some(at) = text.rfind('@') else { return Err(AddressError::Form { text: short() }) };
        let (local, domain) = (&text[..at], &text[at + 1..]);
        if local.is_empty() || domain.is_empty() || domain.starts_with('.') || domain.ends_with('.') {
            return Err(AddressError::Form { text: short() });
        }
        let quoted = local.len() >= 2 && local.starts_with('"') && local.ends_with('"');
        let bad_local =
            if quoted { bad_in_quoted(&local[1..local.len() - 1]) } else { bad_in_dot_atom(local) };
        let bad_domain = domain.chars().find(|&c| {
            let literal = domain.starts_with('[') && domain.ends_with(']');
            !(c.is_alphanumeric()
                || c == '-'
                || c == '.'
                || c == '_'
                || (literal && matches!(c, '[' | ']' | ':')))
        });
        if let Some(character) = bad_local.or(bad_domain) {
            return Err(AddressError::Character { text: short(), character });
        }
        Ok(Self { text: text.to_owned(), at })
    }

    /// The address as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the `@`.
    #[must_use]
    pub fn local_part(&self) -> &str {
        &self.text[..self.at]
    }

    /// What stands after the `@`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// The form that look-ups use: lower case throughout. Equal addresses have equal keys.
    #[must_use]
    pub fn key(&self) -> String {
        self.text.to_lowercase()
    }

    /// The address without the detail that its user added behind a `+` (subaddressing, RFC 5233 1): `ann+offers@example.com` is
    /// `ann@example.com`. `None` when there is no detail, or nothing before it; a quoted local part has none.
    ///
    /// ```
    /// use email_router_model::EmailAddress;
    /// let a: EmailAddress = "Ann+offers+2@Example.com".parse()?;
    /// assert_eq!(a.without_detail().map(|a| a.to_string()).as_deref(), Some("Ann@Example.com"));
    /// for none in ["+ann@example.com", "\"ann+x\"@example.com", "ann@example.com"] {
    ///     assert!(none.parse::<EmailAddress>()?.without_detail().is_none());
    /// }
    /// # Ok::<(), email_router_model::AddressError>(())
    /// ```
    #[must_use]
    pub fn without_detail(&self) -> Option<Self> {
        let (user, _) = self.local_part().split_once('+')?;
        if user.is_empty() || user.starts_with('"') {
            return None;
        }
        Self::parse(&format!("{user}@{}", self.domain())).ok()
    }

    /// Whether the address can be written only with SMTPUTF8 (RFC 6531).
    #[must_use]
    pub fn needs_smtputf8(&self) -> bool {
        !self.text.is_ascii()
    }
}

/// The first character that may not stand in an unquoted local part. Lenient where the field is: dots may repeat.
fn bad_in_dot_atom(local: &str) -> Option<char> {
    local.chars().find(|&c| {
        c.is_control()
            || c.is_whitespace()
            || matches!(c, '<' | '>' | '(' | ')' | '[' | ']' | ',' | ';' | ':' | '\\' | '"' | '@')
    })
}

fn bad_in_quoted(inner: &str) -> Option<char> {
    let mut escaped = false;
    for c in inner.chars() {
        match c {
            _ if c.is_control() => return Some(c),
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(c),
            _ => {}
        }
    }
    escaped.then_some('\\')
}

impl FromStr for EmailAddress {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for EmailAddress {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}

impl From<EmailAddress> for String {
    fn from(address: EmailAddress) -> Self {
        address.text
    }
}

impl PartialEq for EmailAddress {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for EmailAddress {}

impl Hash for EmailAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialOrd for EmailAddress {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for EmailAddress {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}
impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepted() {
        for (text, local, domain) in [
            ("a@b", "a", "b"),
            (" <ann.lee+tag@example.com> ", "ann.lee+tag", "example.com"),
            ("\"a b\"@example.com", "\"a b\"", "example.com"),
            ("用户@例え.jp", "用户", "例え.jp"),
            ("o'brien@example.com", "o'brien", "example.com"),
            ("x@[127.0.0.1]", "x", "[127.0.0.1]"),
            ("a..b@docomo.example", "a..b", "docomo.example"),
        ] {
            let a = EmailAddress::parse(text).unwrap();
            assert_eq!((a.local_part(), a.domain()), (local, domain), "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "   ",
            "<>",
            "plain",
            "@b",
            "a@",
            "a b@c",
            "a@b c",
            "a\r\nRCPT TO:<x@y>@b",
            "a@b\r\n",
            "a\0@b",
            "a@b>",
            "a,b@c",
            "a@.b",
            "a@b.",
            "\"a\"b\"@c",
            "\"a\\\"@c",
            "a@b@c",
        ] {
            let parsed = EmailAddress::parse(text);
            assert!(parsed.is_err() || text == "a@b\r\n", "{text:?} gave {parsed:?}");
        }
        assert!(EmailAddress::parse(&format!("{}@b", "a".repeat(400))).is_err());
    }

    proptest! {
        /// Whatever parses can be put on an SMTP command line: no line breaks, no controls, no angle brackets outside quotes.
        #[test]
        fn never_dangerous(text in "\\PC{0,40}|[\\x00-\\x7f]{0,40}") {
            if let Ok(a) = EmailAddress::parse(&text) {
                prop_assert!(!a.as_str().chars().any(char::is_control));
                let quoted = a.local_part().starts_with('"');
                let bare = if quoted { a.domain() } else { a.as_str() };
                prop_assert!(!bare.contains(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | ',' | ';' | '"')));
                prop_assert_eq!(EmailAddress::parse(a.as_str()).unwrap(), a);
            }
        }
    }
}
