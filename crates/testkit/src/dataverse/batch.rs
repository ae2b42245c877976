//! `$batch` (`crm-contract.md` 11.4), read as strictly as the real one does: lines end with CR LF, each part has its header.

use crate::http::Seen;

/// A part of a batch.
#[derive(Debug)]
pub(super) enum Item {
    Single(Seen),
    Changeset(Vec<(String, Seen)>),
}

/// Reads a batch; `Err`: what is wrong with it.
pub(super) fn parse(content_type: &str, body: &[u8]) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    for (head, content) in parts(content_type, body)? {
        let kind = field(&head, "content-type").unwrap_or_default();
        if kind.to_ascii_lowercase().starts_with("multipart/mixed") {
            let mut changes = Vec::new();
            for (head, content) in parts(&kind, &content)? {
                let id = field(&head, "content-id").ok_or("a change without Content-ID")?;
                let request = request(&head, &content)?;
                if request.method == "GET" {
                    return Err("GET is not allowed in a changeset".to_owned());
                }
                changes.push((id, request));
            }
            items.push(Item::Changeset(changes));
        } else {
            items.push(Item::Single(request(&head, &content)?));
        }
    }
    let count: usize =
        items.iter().map(|item| if let Item::Changeset(changes) = item { changes.len() } else { 1 }).sum();
    if count > 1000 { Err("more than 1000 operations".to_owned()) } else { Ok(items) }
}

type Head = Vec<(String, String)>;

fn field(head: &Head, name: &str) -> Option<String> {
    head.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
}

fn parts(content_type: &str, body: &[u8]) -> Result<Vec<(Head, Vec<u8>)>, String> {
    let boundary = content_type
        .split(';')
        .find_map(|part| part.trim().strip_prefix("boundary="))
        .map(|boundary| boundary.trim_matches('"').to_owned())
        .filter(|boundary| !boundary.is_empty())
        .ok_or("no boundary")?;
    let delimiter = format!("--{boundary}");
    let mut found = Vec::new();
    let mut part: Option<Vec<u8>> = None;
    let mut rest = body;
    loop {
        let end = rest
            .windows(2)
            .position(|two| two == b"\r\n")
            .ok_or("the batch does not end with its boundary")?;
        let (line, after) = (&rest[..end], &rest[end + 2..]);
        if line.contains(&b'\n') {
            return Err("a line that ends without CR".to_owned());
        }
        let closing = line == format!("{delimiter}--").as_bytes();
        if closing || line == delimiter.as_bytes() {
            if let Some(mut part) = part.take() {
                part.truncate(part.len().saturating_sub(2)); // the line end before a boundary is the boundary's
                found.push(split(&part)?);
            }
            if closing {
                return Ok(found);
            }
            part = Some(Vec::new());
        } else if let Some(part) = &mut part {
            part.extend_from_slice(&rest[..end + 2]);
        } else if !line.is_empty() {
            return Err("text before the first boundary".to_owned());
        }
        rest = after;
    }
}

/// Header and content.
fn split(part: &[u8]) -> Result<(Head, Vec<u8>), String> {
    let mut head = Vec::new();
    let mut rest = part;
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            if rest.is_empty() && !head.is_empty() {
                return Ok((head, Vec::new())); // the line end before the boundary is the empty line, too
            }
            return Err("a part without an empty line after its header".to_owned());
        };
        let (line, after) = (&rest[..end], &rest[end + 2..]);
        if line.is_empty() {
            return Ok((head, after.to_vec()));
        }
        let line = String::from_utf8_lossy(line);
        let (name, value) = line.split_once(':').ok_or_else(|| format!("no header field: {line:?}"))?;
        head.push((name.trim().to_owned(), value.trim().to_owned()));
        rest = after;
    }
}

fn request(head: &Head, content: &[u8]) -> Result<Seen, String> {
    if field(head, "content-type").as_deref() != Some("application/http") {
        return Err("a part that is not application/http".to_owned());
    }
    if field(head, "content-transfer-encoding").as_deref() != Some("binary") {
        return Err("a part that is not binary".to_owned());
    }
    let end = content.windows(2).position(|two| two == b"\r\n").ok_or("a part without a request")?;
    let line = String::from_utf8_lossy(&content[..end]).into_owned();
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(format!("no request line: {line:?}"));
    };
    let (headers, body) = split(&content[end + 2..])?;
    let body = body.strip_suffix(b"\r\n").unwrap_or(&body).to_vec();
    Ok(Seen { method: method.to_owned(), target: target.to_owned(), headers, body, ..Seen::default() })
}
