//! What a message needs before it is handed over by Graph, which has no envelope: its recipients are those of its header.

use email_router_model::{EmailAddress, Headers};

/// Every address in the To, Cc and Bcc fields, as it is written; groups, comments and quoted names are understood (RFC 5322 3.4).
#[must_use]
pub fn header_recipients(headers: &Headers<'_>) -> Vec<String> {
    let fields = headers.iter().filter(|f| f.is("To") || f.is("Cc") || f.is("Bcc"));
    fields.flat_map(|field| addresses(&field.value())).collect()
}

/// The addresses of an address list.
#[must_use]
pub fn addresses(list: &str) -> Vec<String> {
    let mut found = Vec::new();
    // what stands outside of angle brackets, and what stands inside of the last pair
    let (mut bare, mut angle) = (String::new(), None::<String>);
    let mut chars = list.chars();
    let (mut inside, mut depth) = (false, 0_u32);
    let mut take = |bare: &mut String, angle: &mut Option<String>| {
        let text = angle.take().unwrap_or_else(|| std::mem::take(bare));
        bare.clear();
        // a source route (RFC 5322 4.4) names the way, not the addressee
        let text = match text.strip_prefix('@') {
            Some(route) => route.split_once(':').map_or("", |(_, address)| address),
            None => &text,
        };
        if text.contains('@') {
            found.push(text.to_owned());
        }
    };
    while let Some(c) = chars.next() {
        match c {
            '(' if !inside => depth += 1,
            ')' if depth > 0 => depth -= 1,
            '\\' if depth > 0 => drop(chars.next()),
            _ if depth > 0 => {}
            '"' => {
                let target = if inside { angle.get_or_insert_default() } else { &mut bare };
                target.push('"');
                while let Some(q) = chars.next() {
                    target.push(q);
                    match q {
                        '\\' => target.extend(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '<' => {
                inside = true;
                angle = Some(String::new());
            }
            '>' => inside = false,
            c if c.is_whitespace() => {}
            _ if inside => angle.get_or_insert_default().push(c),
            ',' | ';' => take(&mut bare, &mut angle),
            ':' => bare.clear(), // the name of a group
            c => bare.push(c),
        }
    }
    take(&mut bare, &mut angle);
    found
}

/// Recipients of the envelope whom the header does not name, and addresses of the header that are not in the envelope.
#[must_use]
pub fn compare<'a>(
    headers: &Headers<'_>,
    envelope: &'a [EmailAddress],
) -> (Vec<&'a EmailAddress>, Vec<String>) {
    let named = header_recipients(headers);
    let same = |a: &EmailAddress, text: &str| key(a.as_str()) == key(text);
    let hidden = envelope.iter().filter(|a| !named.iter().any(|text| same(a, text))).collect();
    let foreign = named.iter().filter(|text| !envelope.iter().any(|a| same(a, text))).cloned().collect();
    (hidden, foreign)
}

/// What two spellings of an address have in common: letter case does not count, and a domain is the same in Unicode and in its ASCII form.
fn key(address: &str) -> String {
    let Some((local, domain)) = address.rsplit_once('@') else { return address.to_lowercase() };
    let domain = match url::Host::parse(domain) {
        Ok(url::Host::Domain(ascii)) => ascii,
        _ => domain.to_lowercase(),
    };
    format!("{}@{domain}", local.to_lowercase())
}

/// A Bcc field with these recipients, folded; empty when there are none.
#[must_use]
pub fn bcc(recipients: &[&EmailAddress]) -> String {
    if recipients.is_empty() {
        return String::new();
    }
    let list: Vec<String> = recipients.iter().map(|a| format!("<{a}>")).collect();
    format!("Bcc: {}\r\n", list.join(",\r\n "))
}

/// The message without the fields of this name.
#[must_use]
pub fn without_field(message: &[u8], name: &str) -> Vec<u8> {
    let section = Headers::new(message).as_bytes().len();
    let mut out = Vec::with_capacity(message.len());
    let mut dropping = false;
    for line in message[..section].split_inclusive(|&b| b == b'\n') {
        let continued = matches!(line.first(), Some(b' ' | b'\t'));
        if !continued {
            let field = line.split(|&b| b == b':').next().unwrap_or_default();
            dropping = line.contains(&b':') && field.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
        }
        if !dropping {
            out.extend_from_slice(line);
        }
    }
    out.extend_from_slice(&message[section..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_lists() {
        for (list, expected) in [
            ("a@b.c", vec!["a@b.c"]),
            ("Ann <ann@x.y>, bob@x.y", vec!["ann@x.y", "bob@x.y"]),
            ("\"Last, First <not@this>\" <a@b>", vec!["a@b"]),
            ("=?utf-8?Q?x=2C_y?= <a@b> (comment, with <x@y> \\) inside), c@d", vec!["a@b", "c@d"]),
            ("undisclosed-recipients:;", vec![]),
            ("team: a@b, <c@d>; e@f", vec!["a@b", "c@d", "e@f"]),
            ("\"quoted local\"@b.c", vec!["\"quoted local\"@b.c"]),
            ("<@relay,@other:a@b>", vec!["a@b"]),
            (" a@b ,, <> , nobody", vec!["a@b"]),
            ("", vec![]),
            ("<a@b", vec!["a@b"]),
            ("@nowhere, <@a,@b>", vec![]),
        ] {
            assert_eq!(addresses(list), expected, "{list}");
        }
    }

    #[test]
    fn envelope_and_header() {
        let envelope: Vec<EmailAddress> = ["a@b", "Hidden@b"].iter().map(|a| a.parse().unwrap()).collect();
        let headers = b"To: A@b\r\nCc: else@b\r\n\r\n";
        let (hidden, foreign) = compare(&Headers::new(headers), &envelope);
        assert_eq!((hidden, foreign), (vec![&envelope[1]], vec!["else@b".to_owned()]));
        assert_eq!(bcc(&[&envelope[0], &envelope[1]]), "Bcc: <a@b>,\r\n <Hidden@b>\r\n");
        assert_eq!(bcc(&[]), "");
        let unicode: [EmailAddress; 1] = ["ann@b\u{fc}cher.example".parse().unwrap()];
        let (hidden, foreign) = compare(&Headers::new(b"To: Ann@xn--bcher-kva.example\r\n\r\n"), &unicode);
        assert!(hidden.is_empty() && foreign.is_empty(), "one address in two spellings");
    }

    #[test]
    fn a_field_is_taken_out_with_its_folding() {
        let message = b"From: a\r\nSender: x\r\n y: z\r\nTo: b\r\n\r\nSender: in the body\r\n";
        assert_eq!(without_field(message, "sender"), b"From: a\r\nTo: b\r\n\r\nSender: in the body\r\n");
    }
}
