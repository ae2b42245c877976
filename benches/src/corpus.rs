//! Messages to measure with, the same in every run: most are small, one in ten has 100 KB to 1 MB, one in a hundred 5 MB.

use std::fmt::Write as _;

use email_router_model::{Entropy as _, SeededEntropy};

/// A median of about 8 KB, 10 % of 100 KB to 1 MB, 1 % of 5 MB; LF line ends, as they lie in a Maildir.
#[must_use]
pub fn realistic(count: usize, to: &str) -> Vec<Vec<u8>> {
    let random = SeededEntropy::new(20_260_301);
    (0..count)
        .map(|n| {
            let fraction = random.fraction();
            let size = match n % 100 {
                50 => 5e6,
                n if n % 10 == 3 => 100e3 * 10f64.powf(fraction),
                // evenly spread over orders of magnitude: 2 KB to 24 KB, so that half of all messages are below 8 KB
                _ => 2e3 * 12f64.powf(fraction),
            };
            message(n, size as usize, to, "")
        })
        .collect()
}

/// One message of about this size, with more header fields (each ended by LF).
#[must_use]
pub fn message(n: usize, size: usize, to: &str, more_fields: &str) -> Vec<u8> {
    let random = SeededEntropy::new(n as u64);
    let mut text = String::with_capacity(size + 4096);
    let boundary = format!("=_part_{n:08x}");
    for hop in 0..3 {
        let _ = write!(
            text,
            "Received: from relay{hop}.fabrikam.example (relay{hop}.fabrikam.example [192.0.2.{hop}])\n\tby mx{hop}.contoso.test (Postfix) with ESMTPS id {:016X}\n\tfor <{to}>; Sun, 1 Mar 2026 09:0{hop}:00 +0000 (UTC)\n",
            random.next_u64()
        );
    }
    let person = n % 977;
    // two mailboxes with the same corpus have different messages: the CRM keeps a Message-ID once
    let recipient = to.split('@').next().unwrap_or_default();
    let _ = write!(
        text,
        "From: Person {person} <person{person}@fabrikam.example>\nTo: <{to}>\nSubject: Question {n} about an order\nDate: Sun, 1 Mar 2026 09:00:00 +0000\nMessage-ID: <{n}.{size}.{recipient}@fabrikam.example>\nMIME-Version: 1.0\nX-Mailer: Measured Mail 1.0\n{more_fields}"
    );
    if size < 50_000 {
        text.push_str(
            "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n",
        );
        prose(&mut text, size, &random);
        return text.into_bytes();
    }
    let _ = write!(
        text,
        "Content-Type: multipart/mixed; boundary=\"{boundary}\"\n\n--{boundary}\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n"
    );
    let prose_end = text.len() + 3000;
    prose(&mut text, prose_end, &random);
    let _ = write!(
        text,
        "\n--{boundary}\nContent-Type: application/pdf; name=\"offer {n}.pdf\"\nContent-Disposition: attachment; filename=\"offer {n}.pdf\"\nContent-Transfer-Encoding: base64\n\n"
    );
    base64(&mut text, size, &random);
    let _ = writeln!(text, "--{boundary}--");
    text.into_bytes()
}

/// Lines of base64 up to this length of the whole text.
fn base64(text: &mut String, until: usize, random: &SeededEntropy) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    while text.len() < until {
        for _ in 0..19 {
            let bits = random.next_u64();
            for k in 0..4 {
                text.push(char::from(ALPHABET[(bits >> (6 * k)) as usize & 63]));
            }
        }
        text.push('\n');
    }
}

/// Lines of words up to this length of the whole text; now and then one that begins with a dot or has a soft line break.
fn prose(text: &mut String, until: usize, random: &SeededEntropy) {
    const WORDS: [&str; 16] = [
        "order",
        "delivery",
        "please",
        "the",
        "number",
        "of",
        "invoice",
        "thank",
        "you",
        "meeting",
        "offer",
        "price",
        "M=C3=BCnchen",
        "contract",
        "and",
        "with",
    ];
    let mut line = 0_u32;
    while text.len() < until {
        line += 1;
        if line.is_multiple_of(40) {
            text.push('.');
        }
        let bits = random.next_u64();
        for k in 0..10 {
            text.push_str(WORDS[(bits >> (4 * k)) as usize & 15]);
            text.push(' ');
        }
        text.push_str(if line.is_multiple_of(4) { ".\n\n" } else { "=\n" });
    }
    text.push('\n');
}

/// The mix that help desks were measured with (`benches/comparison.rs`): 2 KB of text each, 46 % with an HTML part beside it, 8 % with an
/// attachment of 200 KB, 30 % answers with References to an earlier message of this generation or of the one before.
#[must_use]
pub fn help_desk(count: usize, generation: usize) -> Vec<Vec<u8>> {
    let id = |generation: usize, n: usize| format!("<{n}.{generation}@customer.example>");
    (0..count)
        .map(|n| {
            let random = SeededEntropy::new((generation * count + n) as u64);
            let mut text = String::new();
            let person = n % 53;
            let _ = write!(
                text,
                "From: Customer {person} <customer{person}@customer.example>\nTo: <u000@contoso.test>\nSubject: Ticket {n} of {generation}\nDate: Sun, 1 Mar 2026 09:00:00 +0000\nMessage-ID: {}\nMIME-Version: 1.0\n",
                id(generation, n)
            );
            if n % 10 < 3 {
                let parent = if generation > 0 { id(generation - 1, n) } else { id(0, n / 2) };
                let _ = write!(text, "In-Reply-To: {parent}\nReferences: {parent}\n");
            }
            let (html, file) = (n % 100 < 46, n % 25 < 2);
            if file {
                text.push_str("Content-Type: multipart/mixed; boundary=outer\n\n--outer\n");
            }
            if html {
                text.push_str("Content-Type: multipart/alternative; boundary=inner\n\n--inner\n");
            }
            text.push_str("Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n");
            let end = text.len() + 2000;
            prose(&mut text, end, &random);
            if html {
                text.push_str("\n--inner\nContent-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n<html><body><p>");
                let end = text.len() + 2000;
                prose(&mut text, end, &random);
                text.push_str("</p></body></html>\n--inner--\n");
            }
            if file {
                text.push_str("\n--outer\nContent-Type: application/pdf; name=offer.pdf\nContent-Disposition: attachment; filename=offer.pdf\nContent-Transfer-Encoding: base64\n\n");
                // 200 KB of content
                let end = text.len() + 274_000;
                base64(&mut text, end, &random);
                text.push_str("--outer--\n");
            }
            with_crlf(text.as_bytes())
        })
        .collect()
}

/// With CRLF line ends.
#[must_use]
pub fn with_crlf(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 40);
    for &byte in message {
        if byte == b'\n' {
            out.push(b'\r');
        }
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_as_described() {
        let corpus = realistic(1000, "a@contoso.test");
        let mut sizes: Vec<usize> = corpus.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        assert!((6_000..11_000).contains(&sizes[500]), "median {}", sizes[500]);
        assert_eq!(sizes.iter().filter(|s| **s >= 5_000_000).count(), 10);
        assert_eq!(sizes.iter().filter(|s| **s >= 99_000).count(), 110);
        assert_eq!(corpus, realistic(1000, "a@contoso.test"));
        let mails = help_desk(400, 0);
        let with =
            |text: &str| mails.iter().filter(|m| m.windows(text.len()).any(|w| w == text.as_bytes())).count();
        assert_eq!(["text/html", "application/pdf", "\nReferences"].map(with), [184, 32, 120]);
        let bytes: usize = mails.iter().map(Vec::len).sum();
        assert!((9_000_000..12_000_000).contains(&bytes), "{bytes}");
    }
}
