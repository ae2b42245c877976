//! Reading queries and header sections, as strictly as the real service does.

/// What the query options of a request may be.
pub(crate) fn known(query: &[(String, String)], allowed: &[&str]) -> Result<(), String> {
    for (n, (name, value)) in query.iter().enumerate() {
        if !allowed.contains(&name.as_str()) {
            return Err(format!("The query parameter '{name}' is not supported."));
        }
        if query[..n].iter().any(|(other, _)| other == name) {
            return Err(format!("Query option '{name}' was specified more than once."));
        }
        if value.is_empty() {
            return Err(format!("The value of '{name}' is empty."));
        }
    }
    Ok(())
}

pub(crate) fn option<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// The properties that a message resource has here.
const PROPERTIES: [&str; 19] = [
    "id",
    "receivedDateTime",
    "sentDateTime",
    "createdDateTime",
    "conversationId",
    "parentFolderId",
    "internetMessageId",
    "subject",
    "isRead",
    "isDraft",
    "from",
    "sender",
    "toRecipients",
    "ccRecipients",
    "bccRecipients",
    "hasAttachments",
    "body",
    "internetMessageHeaders",
    "bodyPreview",
];

pub(crate) fn select(query: &[(String, String)]) -> Result<Vec<String>, String> {
    let Some(list) = option(query, "$select") else { return Ok(Vec::new()) };
    let names: Vec<String> = list.split(',').map(|n| n.trim().to_owned()).collect();
    match names.iter().find(|n| !PROPERTIES.contains(&n.as_str()) && n.as_str() != "importance") {
        Some(strange) => Err(format!(
            "Could not find a property named '{strange}' on type 'Microsoft.OutlookServices.Message'."
        )),
        None => Ok(names),
    }
}

/// `$expand` of extended properties: whether size and class are asked for, and which header field.
pub(crate) fn expand(query: &[(String, String)]) -> Result<(bool, Option<String>), String> {
    let Some(text) = option(query, "$expand") else { return Ok((false, None)) };
    let inner = text
        .strip_prefix("singleValueExtendedProperties($filter=")
        .and_then(|t| t.strip_suffix(')'))
        .ok_or_else(|| format!("'{text}' cannot be expanded."))?;
    let (mut sizes, mut field) = (false, None);
    for term in inner.split(" or ") {
        let property = term.trim().strip_prefix("id eq ").and_then(unquote).unwrap_or_default();
        match property.to_lowercase().as_str() {
            "integer 0x0e08" | "string 0x001a" => sizes = true,
            _ => match property.strip_prefix(HEADER_PROPERTY) {
                Some(name) => field = Some(name.to_owned()),
                None => return Err(format!("Invalid filter clause: {term}")),
            },
        }
    }
    Ok((sizes, field))
}

/// What a filter looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Filter {
    MessageId(String),
    Field(String, String),
    Read(bool),
    DisplayName(String),
}

/// The header field of a property in `PS_INTERNET_HEADERS`.
const HEADER_PROPERTY: &str = "String {00020386-0000-0000-C000-000000000046} Name ";

pub(crate) fn filter(text: &str) -> Result<Filter, String> {
    let bad = || format!("Invalid filter clause: {text}");
    if let Some(literal) = text.strip_prefix("internetMessageId eq ") {
        return unquote(literal).map(Filter::MessageId).ok_or_else(bad);
    }
    if let Some(literal) = text.strip_prefix("displayName eq ") {
        return unquote(literal).map(Filter::DisplayName).ok_or_else(bad);
    }
    if let Some(inner) =
        text.strip_prefix("singleValueExtendedProperties/Any(ep: ep/id eq ").and_then(|t| t.strip_suffix(')'))
    {
        let (property, value) = inner.split_once(" and ep/value eq ").ok_or_else(bad)?;
        let property = unquote(property).ok_or_else(bad)?;
        let name = property.strip_prefix(HEADER_PROPERTY).ok_or_else(bad)?.to_owned();
        return Ok(Filter::Field(name, unquote(value).ok_or_else(bad)?));
    }
    match text {
        "isRead eq false" => Ok(Filter::Read(false)),
        "isRead eq true" => Ok(Filter::Read(true)),
        _ => Err(bad()),
    }
}

/// A string literal of OData; a quote inside that is not doubled ends it, and then something stands behind it.
fn unquote(literal: &str) -> Option<String> {
    let inner = literal.trim().strip_prefix('\'')?.strip_suffix('\'')?;
    let halves = inner.replace("''", "\u{0}");
    (!halves.contains('\'')).then(|| halves.replace('\u{0}', "'"))
}

/// All header fields with their values as they are, folded.
pub(crate) fn fields(mime: &[u8]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in mime.split_inclusive(|&b| b == b'\n') {
        let text = String::from_utf8_lossy(line);
        let line = text.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            break;
        }
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = found.last_mut() {
                value.push_str("\r\n");
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            found.push((name.to_owned(), value.strip_prefix(' ').unwrap_or(value).to_owned()));
        }
    }
    found
}

/// The first field of this name, unfolded.
pub(crate) fn field(mime: &[u8], name: &str) -> Option<String> {
    let all = fields(mime);
    let (_, value) = all.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
    Some(value.replace(['\r', '\n'], "").trim().to_owned())
}

/// The addresses of a simple list: no comments, commas only between addresses.
pub(crate) fn addresses(list: &str) -> Vec<String> {
    list.split([',', ';'])
        .filter_map(|one| {
            let one = one.rsplit(':').next().unwrap_or(one);
            let inner = one.split_once('<').map_or(one, |(_, rest)| rest.trim_end().trim_end_matches('>'));
            Some(inner.trim().to_owned()).filter(|a| a.contains('@'))
        })
        .collect()
}

/// The message without its Bcc fields.
pub(crate) fn without_bcc(mime: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut header, mut dropping) = (true, false);
    for line in mime.split_inclusive(|&b| b == b'\n') {
        if header {
            header = !line.trim_ascii().is_empty();
            if !line.starts_with(b" ") && !line.starts_with(b"\t") {
                dropping = line.len() >= 4 && line[..4].eq_ignore_ascii_case(b"bcc:");
            }
        }
        if !header || !dropping {
            out.extend_from_slice(line);
        }
    }
    out
}
