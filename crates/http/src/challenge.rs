//! `WWW-Authenticate` (RFC 9110 section 11.6.1): what a server offers to be logged in with.

use base64::Engine as _;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::HeaderName;

/// So many challenges are looked at.
const MOST: usize = 32;

/// Padding is what servers get wrong.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One offer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Challenge {
    /// The scheme, as the server writes it: `Negotiate`, `NTLM`, `Bearer`.
    pub scheme: String,
    /// What follows the scheme where that is no list of parameters, decoded; `None` where nothing follows or it is not base64.
    pub token: Option<Vec<u8>>,
    /// The parameters; names in lower case, values without their quotes.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Whether it is of this scheme, in any letter case.
    #[must_use]
    pub fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// A parameter; the name in lower case.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// All offers of the fields of this name (`WWW-Authenticate` or `Proxy-Authenticate`), in their order; at most 32. What is no offer is passed over.
#[must_use]
pub fn challenges(headers: &HeaderMap, name: &HeaderName) -> Vec<Challenge> {
    let mut found = Vec::new();
    for value in headers.get_all(name) {
        parse(&String::from_utf8_lossy(value.as_bytes()), &mut found);
    }
    found.truncate(MOST);
    found
}

/// The schemes that are offered, for an error message.
pub(crate) fn names(offered: &[Challenge]) -> String {
    // the server wrote them: keep them few and short
    let short = |challenge: &Challenge| challenge.scheme.chars().take(40).collect::<String>();
    let names: Vec<_> = offered.iter().map(short).take(8).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

fn parse(text: &str, found: &mut Vec<Challenge>) {
    for part in split(text) {
        let part = part.trim();
        // a comma separates both challenges and the parameters of one: "name = value" without a scheme before it belongs to the last one
        let (first, rest) = match part.split_once([' ', '\t']) {
            Some((first, rest)) => (first, rest.trim()),
            None => (part, ""),
        };
        let is_parameter = first.contains('=') || rest.starts_with('=');
        if is_parameter {
            if let (Some(last), Some(parameter)) = (found.last_mut(), parameter(part))
                // a challenge has a token or parameters, never both
                && last.token.is_none()
                && last.parameters.len() < MOST
            {
                last.parameters.push(parameter);
            }
        } else if is_token(first) && found.len() < MOST {
            let mut challenge = Challenge { scheme: first.to_owned(), ..Challenge::default() };
            if let Some(parameter) = parameter(rest) {
                challenge.parameters.push(parameter);
            } else if !rest.is_empty() {
                challenge.token = BASE64.decode(rest).ok();
            }
            found.push(challenge);
        }
    }
}

/// At commas outside quotes.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let outside = !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        c == ',' && outside
    })
}

/// `name=value`; `None` where it is none, as base64 with its padding at the end is not.
fn parameter(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    if !is_token(name) || value.is_empty() || value.bytes().all(|b| b == b'=') {
        return None;
    }
    let Some(inner) = value.strip_prefix('"') else {
        return Some((name.to_ascii_lowercase(), value.to_owned()));
    };
    let mut plain = String::new();
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => plain.extend(rest.next()),
            c => plain.push(c),
        }
    }
    Some((name.to_ascii_lowercase(), plain))
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::WWW_AUTHENTICATE;
    use proptest::prelude::*;

    fn of(values: &[&str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        challenges(&headers, &WWW_AUTHENTICATE)
    }

    #[test]
    fn what_servers_offer() {
        for (values, expected) in [
            (&["Negotiate", "NTLM", "Basic realm=\"mail\""][..], "Negotiate NTLM Basic(realm=mail)"),
            (
                &["Negotiate, NTLM, Basic realm=\"a, b\", charset=\"UTF-8\""],
                "Negotiate NTLM Basic(realm=a, b|charset=UTF-8)",
            ),
            (&["NTLM TlRMTVNTUAAC"], "NTLM[9]"),
            (&["negotiate oYG2MIE=, NTLM"], "negotiate[5] NTLM"),
            (&["Negotiate oYG2MIGz"], "Negotiate[6]"),
            (&["NTLM !!!"], "NTLM"),
            (
                &["Basic realm=\"q\\\"uote,\", Bearer authorization_uri=\"https://x\""],
                "Basic(realm=q\"uote,) Bearer(authorization_uri=https://x)",
            ),
            (&["Basic realm = \"x\" , NTLM"], "Basic(realm=x) NTLM"),
            (&["Bearer client_id=\"a=b\", error=invalid_token"], "Bearer(client_id=a=b|error=invalid_token)"),
            (&[", ,NTLM,"], "NTLM"),
            (&["Negotiate oYG2MIE=, realm=x, NTLM"], "Negotiate[5] NTLM"),
            (&["realm=\"orphan\""], ""),
            (&[""], ""),
            (&["Basic realm=\"never ends, NTLM"], "Basic(realm=never ends, NTLM)"),
        ] {
            let shown: Vec<String> = of(values)
                .iter()
                .map(|c| {
                    let token = c.token.as_ref().map(|t| format!("[{}]", t.len())).unwrap_or_default();
                    let list: Vec<_> = c.parameters.iter().map(|(n, v)| format!("{n}={v}")).collect();
                    let list = if list.is_empty() { String::new() } else { format!("({})", list.join("|")) };
                    format!("{}{token}{list}", c.scheme)
                })
                .collect();
            assert_eq!(shown.join(" "), expected, "{values:?}");
        }
        assert_eq!(of(&[&"NTLM,".repeat(500)]).len(), MOST);
        assert_eq!(of(&["Bearer error=\"x\""])[0].parameter("error"), Some("x"));
        assert_eq!(names(&of(&["Negotiate, NTLM"])), "Negotiate, NTLM");
        assert_eq!(names(&[]), "nothing");
        assert!(names(&of(&[&"x".repeat(9000), &"y,".repeat(20)])).len() < 100);
    }

    proptest! {
        #[test]
        fn any_value(value in "[ -~]{0,200}") {
            for challenge in of(&[&value]) {
                prop_assert!(is_token(&challenge.scheme) && challenge.parameters.iter().all(|(n, _)| is_token(n)));
            }
        }

        #[test]
        fn tokens_come_back(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            let value = format!("Negotiate {}", base64::prelude::BASE64_STANDARD.encode(&bytes));
            let found = of(&[&value]);
            prop_assert_eq!(found[0].token.as_deref(), Some(&bytes[..]));
        }
    }
}
