//! Whether the sender is who he says he is, in the words of a mail server that the organization trusts (RFC 8601).
//!
//! Which Authentication-Results fields are believed: those whose authserv-id is in `trustedauthservids`, from the top of the message down
//! to the first Received field below the first of them. Mail servers put fields on top, so what stands below that Received
//! field was there when the message came to the trusted server: whoever sent it may have written it (RFC 8601 7.1). Of two
//! believed fields that report on one method the upper one counts.

use std::fmt;

use crate::message::Message;

/// At most so many fields are read.
const MAX_FIELDS: usize = 20;
/// At most so many octets of a field are read.
const MAX_OCTETS: usize = 8 * 1024;
/// At most so many results of a field are read.
const MAX_RESULTS: usize = 100;

/// At most so many characters of what they say are shown.
const MAX_SHOWN: usize = 200;

/// What the trusted mail servers say of the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// He is who he says.
    Pass,
    /// He is not.
    Fail,
    /// They say nothing that settles it.
    None,
}

/// The verdict, and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderTrust {
    /// The verdict.
    pub verdict: Verdict,
    /// In one line, for the decision record.
    pub because: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "authenticated",
            Self::Fail => "not authenticated",
            Self::None => "not known",
        })
    }
}

/// One result of a field (RFC 8601 2.2, resinfo).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Reported {
    method: String,
    result: String,
    /// `ptype.property` and value.
    properties: Vec<(String, String)>,
}

impl Reported {
    fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    /// The domain that a property names: all of it, or what follows the `@`.
    fn domain(&self, name: &str) -> Option<&str> {
        self.property(name)
            .map(|v| v.rsplit('@').next().unwrap_or(v).trim_end_matches('.'))
            .filter(|d| !d.is_empty())
    }
    fn passes(&self) -> bool {
        self.result == "pass"
    }
    fn undecided(&self) -> bool {
        self.result == "temperror"
    }
}

/// What servers with one of these names say of the author of a message (the domain of From).
///
/// *dmarc* counts first (RFC 7489); where it neither passed nor failed, one *spf*, *dkim* or *auth* result is enough that passed for a
/// domain aligned with that of From: the same, or one that contains the other. When some were reported and none passed for it, the
/// sender is not authenticated, unless one may still come to another result (*temperror*).
#[must_use]
pub fn sender_trust(message: &Message, trusted: &[String]) -> SenderTrust {
    let none = |because: &str| SenderTrust { verdict: Verdict::None, because: because.to_owned() };
    let Some(from) = message.from.as_ref().and_then(|p| p.address.as_ref()) else {
        return none("there is no sender");
    };
    let from = from.domain();
    let reported = believed(message, trusted);
    if reported.is_empty() {
        return none("no trusted mail server says anything about the sender");
    }
    let said = |verdict, what: String| {
        // words of a field may hold anything when they are quoted
        let shown = what.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SHOWN);
        SenderTrust { verdict, because: format!("{} for {from}", shown.collect::<String>()) }
    };
    let of = |method: &'static str| reported.iter().filter(move |r| r.method == method);
    let about_from = |r: &&Reported| r.domain("header.from").is_none_or(|d| d.eq_ignore_ascii_case(from));
    if let Some(dmarc) = of("dmarc").find(|r| about_from(r) && matches!(r.result.as_str(), "pass" | "fail")) {
        let verdict = if dmarc.passes() { Verdict::Pass } else { Verdict::Fail };
        return said(verdict, format!("dmarc={}", dmarc.result));
    }
    let ways: [(&str, &[&str]); 3] = [
        ("spf", &["smtp.mailfrom", "smtp.helo"]),
        ("dkim", &["header.d", "header.i"]),
        ("auth", &["smtp.auth", "smtp.mailfrom"]),
    ];
    for (method, properties) in ways {
        for result in of(method).filter(|r| r.passes()) {
            let domain = properties.iter().find_map(|p| result.domain(p));
            if let Some(domain) = domain.filter(|d| aligned(d, from)) {
                return said(Verdict::Pass, format!("{method}=pass ({domain})"));
            }
        }
    }
    let all: Vec<&Reported> = of("spf").chain(of("dkim")).collect();
    let results = || all.iter().map(|r| format!("{}={}", r.method, r.result)).collect::<Vec<_>>().join(", ");
    if all.is_empty() || all.iter().any(|r| r.undecided()) || of("dmarc").any(Reported::undecided) {
        return said(Verdict::None, format!("nothing decisive ({})", results()));
    }
    said(Verdict::Fail, format!("{}, none of them", results()))
}

/// The results that are believed.
fn believed(message: &Message, trusted: &[String]) -> Vec<Reported> {
    let mut reported: Vec<Reported> = Vec::new();
    let mut began = false;
    let mut fields = 0;
    for field in message.headers().iter() {
        if field.is("Received") && began {
            break;
        }
        if !field.is("Authentication-Results") {
            continue;
        }
        fields += 1;
        if fields > MAX_FIELDS {
            break;
        }
        let value = &field.raw_value[..field.raw_value.len().min(MAX_OCTETS)];
        let Some((server, results)) = read(&String::from_utf8_lossy(value)) else { continue };
        if !trusted.iter().any(|t| t.trim().eq_ignore_ascii_case(&server)) {
            continue;
        }
        began = true;
        let known: Vec<String> = reported.iter().map(|r| r.method.clone()).collect();
        reported.extend(results.into_iter().filter(|r| !known.contains(&r.method)));
    }
    reported
}

/// Whether two domains belong together: they are the same, or one lies in the other, which has two labels at least.
fn aligned(a: &str, b: &str) -> bool {
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let (short, long) = if a.len() <= b.len() { (&a, &b) } else { (&b, &a) };
    let inside = long.strip_suffix(short.as_str()).is_some_and(|head| head.ends_with('.'));
    short == long || (inside && short.contains('.'))
}

/// The authserv-id and the results of a field; `None` when it has none. Reads the value once; what breaks the grammar ends the reading,
/// what came before it counts.
fn read(value: &str) -> Option<(String, Vec<Reported>)> {
    let mut words = Words { rest: value, value: false };
    let server = match words.next()? {
        Word::Text(server) => server,
        Word::Equals | Word::End => return None,
    };
    let mut results = Vec::new();
    let mut begun = false; // the part before the first semicolon has the version, no result
    let mut current: Vec<Word> = Vec::new();
    loop {
        let word = words.next();
        if let Some(word @ (Word::Text(_) | Word::Equals)) = word {
            current.push(word);
            continue;
        }
        if begun {
            results.extend(result(&current));
        }
        if word.is_none() || results.len() >= MAX_RESULTS {
            return Some((server.to_lowercase(), results));
        }
        begun = true;
        current.clear();
    }
}

/// `method[/version] = result`, then `name = value` in any number; `none` alone is no result.
fn result(words: &[Word]) -> Option<Reported> {
    let (method, result, rest) = match words {
        [Word::Text(method), Word::Equals, Word::Text(result), rest @ ..] => (method, result, rest),
        _ => return None,
    };
    let mut reported = Reported {
        method: method.split('/').next().unwrap_or_default().trim().to_lowercase(),
        result: result.to_lowercase(),
        properties: Vec::new(),
    };
    let mut rest = rest;
    while let [_, tail @ ..] = rest {
        if let [Word::Text(name), Word::Equals, Word::Text(value), after @ ..] = rest {
            // a comment may stand before the @ of an address; half of one must not pass for a domain
            let domain = match after {
                [Word::Text(domain), ..] if domain.starts_with('@') => domain.as_str(),
                _ => "",
            };
            reported.properties.push((name.to_lowercase(), format!("{value}{domain}")));
            rest = after;
        } else {
            rest = tail;
        }
    }
    Some(reported)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// An atom or the content of a quoted string.
    Text(String),
    /// `=`
    Equals,
    /// `;`
    End,
}

/// The words of a structured field; comments and white space are passed over (RFC 5322 3.2).
struct Words<'a> {
    rest: &'a str,
    /// The next word is a value: it may have an equals sign in it, as addresses do (`smtp.mailfrom=bounce+ann=a.example@b.example`).
    value: bool,
}

impl Words<'_> {
    /// Passes over white space and comments; `false` when a comment does not end.
    fn skip(&mut self) -> bool {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('(') {
                return true;
            }
            let (mut depth, mut escaped) = (0_usize, false);
            let end = self.rest.char_indices().find_map(|(at, c)| {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => escaped = true,
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    _ => {}
                }
                (depth == 0).then_some(at + c.len_utf8())
            });
            match end {
                Some(end) => self.rest = &self.rest[end..],
                None => return false,
            }
        }
    }
}

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        if !self.skip() {
            return None;
        }
        let first = self.rest.chars().next()?;
        let is_value = std::mem::take(&mut self.value);
        if first == ';' || (first == '=' && !is_value) {
            self.rest = &self.rest[1..];
            self.value = first == '=';
            return Some(if first == '=' { Word::Equals } else { Word::End });
        }
        let (mut text, mut quoted, mut escaped) = (String::new(), false, false);
        let mut end = self.rest.len();
        for (at, c) in self.rest.char_indices() {
            match c {
                _ if escaped => {
                    escaped = false;
                    text.push(c);
                }
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                _ if quoted => text.push(c),
                _ if c.is_whitespace() || matches!(c, ';' | '(') || (c == '=' && !is_value) => {
                    end = at;
                    break;
                }
                _ => text.push(c),
            }
        }
        self.rest = &self.rest[end..];
        // a quoted string that does not end
        (!quoted).then_some(Word::Text(text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ParseCaps;

    fn trust(fields: &str) -> (Verdict, String) {
        let raw = format!("{fields}\r\nFrom: Ann <ann@mail.customer.example>\r\n\r\n");
        let judge = |header: &[u8]| {
            let message = Message::from_headers(header, &ParseCaps::default());
            sender_trust(&message, &["MX.shop.example".to_owned(), "mx2.shop.example".to_owned()])
        };
        let found = judge(raw.as_bytes());
        // what is kept of a long header section must be judged the same
        assert_eq!(judge(&crate::kept::read_by_decisions(raw.as_bytes())), found, "{fields}");
        (found.verdict, found.because)
    }

    #[test]
    fn results() {
        let ar = "Authentication-Results: mx.shop.example";
        for (results, expected) in [
            ("; dmarc=pass header.from=mail.customer.example", Verdict::Pass),
            (" 1; spf=fail smtp.mailfrom=x.example; dmarc=pass", Verdict::Pass),
            ("; DMARC=Fail (p=none dis=none) header.from=Mail.Customer.Example", Verdict::Fail),
            ("; dmarc=fail; dkim=pass header.d=customer.example", Verdict::Fail),
            // a verdict about another author says nothing
            ("; dmarc=fail header.from=x.example; dkim=pass header.d=customer.example", Verdict::Pass),
            ("; dmarc=none; dkim=pass header.d=customer.example", Verdict::Pass),
            ("; dkim=pass header.i=@customer.example header.s=s1", Verdict::Pass),
            (
                "; dkim=fail header.d=customer.example; dkim/1 = pass (ok; really) header.d = \"customer.example\"",
                Verdict::Pass,
            ),
            ("; spf=pass smtp.mailfrom=bounce@mail.customer.example", Verdict::Pass),
            ("; spf=pass smtp.mailfrom=bounces.mail.customer.example", Verdict::Pass),
            ("; spf=pass smtp.mailfrom=x.example", Verdict::Fail),
            ("; spf=pass smtp.helo=mail.customer.example", Verdict::Pass),
            // what the null sender leaves is the name in HELO only where there is no MAIL FROM
            ("; spf=pass smtp.mailfrom=x.example smtp.helo=mail.customer.example", Verdict::Fail),
            ("; spf=pass smtp.mailfrom=evilcustomer.example", Verdict::Fail),
            ("; spf=pass smtp.mailfrom=example", Verdict::Fail),
            ("; spf=none; dkim=none", Verdict::Fail),
            ("; spf=softfail smtp.mailfrom=customer.example; dkim=temperror", Verdict::None),
            ("; dmarc=temperror; spf=fail", Verdict::None),
            ("; auth=pass smtp.auth=ann@customer.example", Verdict::Pass),
            ("; iprev=fail policy.iprev=192.0.2.1", Verdict::None),
            ("; none", Verdict::None),
            ("", Verdict::None),
            // what breaks the grammar ends the reading
            ("; spf=fail; (dmarc=pass", Verdict::Fail),
            ("; spf=fail smtp.mailfrom=a; x=\"y; dmarc=pass", Verdict::Fail),
            // addresses that only look as if they were of the domain
            ("; spf=pass smtp.mailfrom=customer.example=x@evil.example", Verdict::Fail),
            ("; spf=pass smtp.mailfrom=\"customer.example\"@evil.example", Verdict::Fail),
            ("; spf=pass smtp.mailfrom=customer.example (x) @evil.example", Verdict::Fail),
            ("; spf=pass smtp.mailfrom=bounce+a=b.example@customer.example", Verdict::Pass),
            (" (a (nested \\) comment)) ; dmarc = pass", Verdict::Pass),
            ("; reason=dmarc dmarc=pass", Verdict::None),
        ] {
            let found = trust(&format!("{ar}{results}"));
            assert_eq!(found.0, expected, "{results}: {}", found.1);
        }
    }

    #[test]
    fn what_is_shown_is_one_short_line() {
        let long = "x".repeat(1000);
        let found =
            trust(&format!("Authentication-Results: mx.shop.example; spf=\"a\r\n b\u{1b}[2J\"; dkim={long}"));
        assert!(found.1.len() < 300 && !found.1.contains(char::is_control), "{:?}", found.1);
    }

    #[test]
    fn which_fields_are_believed() {
        let pass = "Authentication-Results: mx.shop.example; dmarc=pass";
        let fail = "Authentication-Results: mx.shop.example; dmarc=fail";
        let spf = "Authentication-Results: mx2.shop.example;\r\n spf=pass\r\n smtp.mailfrom=customer.example";
        let foreign = "Authentication-Results: mx.evil.example; dmarc=pass";
        let received = "Received: from a by b; Thu, 01 Jan 2026 00:00:00 +0000";
        for (fields, expected) in [
            (vec![foreign], Verdict::None),
            (vec![foreign, fail], Verdict::Fail),
            (vec![fail, pass], Verdict::Fail),
            (vec![pass, fail], Verdict::Pass),
            (vec![received, received, pass, spf], Verdict::Pass),
            (vec!["Authentication-Results: mx.shop.example; spf=fail", received, pass], Verdict::Fail),
            (vec!["Authentication-Results: mx.shop.example; iprev=pass", spf], Verdict::Pass),
            (vec!["Authentication-Results: mx.shop.example; iprev=pass", received, spf], Verdict::None),
            (
                vec![received, "Authentication-Results: mx.shop.example; iprev=pass", received, spf],
                Verdict::None,
            ),
            (vec![received], Verdict::None),
        ] {
            let found = trust(&fields.join("\r\n"));
            assert_eq!(found.0, expected, "{fields:?}: {}", found.1);
        }
        let many = vec![foreign; MAX_FIELDS + 1].join("\r\n");
        assert_eq!(trust(&format!("{many}\r\n{fail}")).0, Verdict::None);
    }

    proptest! {
        #[test]
        fn any_value(value in any::<String>()) {
            let _ = read(&value);
        }
        #[test]
        fn grammar_like_values(value in "(a|;|=|\\(|\\)|\"|\\\\| |/|dmarc|pass|header\\.from){0,60}") {
            let found = read(&value);
            prop_assert!(found.is_none_or(|(_, results)| results.len() <= 60));
        }
    }

    #[test]
    fn hostile_values_are_read_once() {
        for unit in ["(", "\"", ";a=b", "a=b ", "=", "\\"] {
            let value = format!("mx; {}", unit.repeat(1_000_000 / unit.len()));
            let _ = read(&value);
        }
    }
}
