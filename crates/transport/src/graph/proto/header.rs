//! The header section out of `internetMessageHeaders`.

use serde_json::Value;

use super::text;

/// The header section that a message resource tells, with the empty line at its end: every field in its order, its value as it is, encoded
/// words and folding included. `None` where the resource tells no fields, as for messages that never were on the way: then the beginning of
/// the message itself has to be read.
///
/// A line break that is no folding, which would make one field two, becomes one that is.
#[must_use]
pub fn section(message: &Value) -> Option<Vec<u8>> {
    let fields = message.get("internetMessageHeaders")?.as_array()?;
    let mut out = Vec::new();
    for field in fields {
        let (Some(name), Some(value)) = (text(field, "name"), text(field, "value")) else { continue };
        // RFC 5322 3.6.8: visible ASCII but the colon
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
            continue;
        }
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b":");
        if !value.starts_with([' ', '\t']) {
            out.push(b' ');
        }
        push_folded(&mut out, value);
        out.extend_from_slice(b"\r\n");
    }
    if out.is_empty() {
        return None;
    }
    out.extend_from_slice(b"\r\n");
    Some(out)
}

fn push_folded(out: &mut Vec<u8>, value: &str) {
    let value = value.trim_end_matches(['\r', '\n', ' ', '\t', '\0']);
    let mut lines = value.split(['\r', '\n']).filter(|line| !line.trim().is_empty());
    out.extend_from_slice(lines.next().unwrap_or("").replace('\0', " ").as_bytes());
    for line in lines {
        out.extend_from_slice(b"\r\n");
        if !line.starts_with([' ', '\t']) {
            out.push(b' ');
        }
        out.extend_from_slice(line.replace('\0', " ").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_keep_order_folding_and_encoded_words() {
        let message = json!({"internetMessageHeaders": [
            {"name": "Received", "value": "from a by b\r\n\twith SMTP; Mon, 1 Jan 2024 00:00:00 +0000"},
            {"name": "Received", "value": "from c by a"},
            {"name": "Subject", "value": "=?utf-8?B?w6k=?=\r\n =?utf-8?B?w6k=?="},
            {"name": "Thread-Topic", "value": "raw é"},
            {"name": "Injected", "value": "x\r\nBcc: a@b\n\n\rBody"},
            {"name": "Bad Name", "value": "x"},
            {"name": "Bad:", "value": "x"},
            {"name": 5, "value": "x"},
            {"name": "Empty", "value": ""},
            null
        ]});
        let section = String::from_utf8(section(&message).unwrap()).unwrap();
        assert_eq!(
            section,
            "Received: from a by b\r\n\twith SMTP; Mon, 1 Jan 2024 00:00:00 +0000\r\nReceived: from c by a\r\n\
             Subject: =?utf-8?B?w6k=?=\r\n =?utf-8?B?w6k=?=\r\nThread-Topic: raw é\r\n\
             Injected: x\r\n Bcc: a@b\r\n Body\r\nEmpty: \r\n\r\n"
        );
    }

    #[test]
    fn no_fields_are_no_section() {
        for message in [
            json!({}),
            json!({"internetMessageHeaders": null}),
            json!({"internetMessageHeaders": []}),
            json!([]),
        ] {
            assert_eq!(section(&message), None, "{message}");
        }
    }
}
