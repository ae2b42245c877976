//! Several operations in one request (`crm-contract.md` 11.4): a changeset happens as a whole or not at all.

use bytes::{BufMut as _, Bytes, BytesMut};
use email_router_http::Method;
use serde_json::Value;

use super::fault::Fault;
use super::session::{Ask, Session};
use crate::{Error, ErrorKind, Result};

/// The server takes no more in one request (11.4).
pub(crate) const MOST_OPERATIONS: usize = 1000;

/// One operation.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// Behind the version: `emails(...)`.
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Option<Value>,
}

impl Operation {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: None }
    }

    pub(crate) fn json(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// What came of an operation.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) status: u16,
    /// Header fields, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Part {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

impl Session {
    /// Does all of these or none. The answers come in the order of the operations.
    ///
    /// # Errors
    /// The first operation that failed, as the server says it; nothing was done then. Also where no answer came: whether it was done is not known then, so all
    /// operations must be such that doing them again can be told apart.
    pub(crate) async fn changeset(&self, operations: &[Operation], doing: &str) -> Result<Vec<Part>> {
        debug_assert!(operations.len() <= MOST_OPERATIONS);
        let (outer, inner) = (self.boundary("batch"), self.boundary("changeset"));
        let mut body = BytesMut::new();
        line(&mut body, &["--", &outer]);
        line(&mut body, &["Content-Type: multipart/mixed; boundary=", &inner]);
        line(&mut body, &[]);
        for (n, operation) in operations.iter().enumerate() {
            line(&mut body, &["--", &inner]);
            self.write(&mut body, operation, Some(n + 1));
        }
        line(&mut body, &["--", &inner, "--"]);
        line(&mut body, &[]);
        line(&mut body, &["--", &outer, "--"]);
        let parts = self.batch(outer, body, doing).await?;
        self.checked(parts, operations.len(), doing)
    }

    /// Reads several things, each for itself; a failed one does not stop the others. URLs may be longer than in a request of their own.
    pub(crate) async fn read_many(&self, paths: &[String], doing: &str) -> Result<Vec<Part>> {
        let outer = self.boundary("batch");
        let mut body = BytesMut::new();
        for path in paths {
            line(&mut body, &["--", &outer]);
            self.write(&mut body, &Operation::new(Method::GET, path.clone()), None);
        }
        line(&mut body, &["--", &outer, "--"]);
        let parts = self.batch(outer, body, doing).await?;
        if parts.len() == paths.len() {
            Ok(parts)
        } else {
            Err(self.incomplete(parts.len(), paths.len(), doing))
        }
    }

    async fn batch(&self, boundary: String, body: BytesMut, doing: &str) -> Result<Vec<Part>> {
        let ask = Ask::new(Method::POST, "$batch", doing)
            .body(format!("multipart/mixed; boundary={boundary}"), body.freeze())
            .header("prefer", "odata.continue-on-error");
        let answer = self.send(ask).await?;
        let content_type =
            answer.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        parse(content_type, &answer.body, 0).ok_or_else(|| {
            let message = format!("{}: {doing}: the answer to a batch is damaged", self.place());
            Error::new(ErrorKind::Unreachable, message)
        })
    }

    /// All succeeded, or the error of the first that failed.
    fn checked(&self, parts: Vec<Part>, expected: usize, doing: &str) -> Result<Vec<Part>> {
        if let Some(failed) = parts.iter().find(|part| !(200..300).contains(&part.status)) {
            let mut fault = Fault::parse(failed.status, &failed.body);
            fault.request =
                failed.header("x-ms-service-request-id").or(failed.header("req_id")).map(str::to_owned);
            return Err(fault.into_error(self.place(), doing));
        }
        if parts.len() == expected { Ok(parts) } else { Err(self.incomplete(parts.len(), expected, doing)) }
    }

    fn incomplete(&self, got: usize, expected: usize, doing: &str) -> Error {
        let message = format!("{}: {doing}: {got} of {expected} answers came", self.place());
        Error::new(ErrorKind::Unreachable, message)
    }

    fn write(&self, out: &mut BytesMut, operation: &Operation, id: Option<usize>) {
        line(out, &["Content-Type: application/http"]);
        line(out, &["Content-Transfer-Encoding: binary"]);
        if let Some(id) = id {
            line(out, &["Content-ID: ", &id.to_string()]);
        }
        line(out, &[]);
        line(out, &[operation.method.as_str(), " ", self.base().as_str(), &operation.path, " HTTP/1.1"]);
        line(out, &["Accept: application/json"]);
        for (name, value) in &operation.headers {
            line(out, &[name, ": ", value]);
        }
        if let Some(body) = &operation.body {
            line(out, &["Content-Type: application/json; type=entry"]);
            line(out, &[]);
            // straight into the request: a body with attachments is large
            let _ = serde_json::to_writer(out.writer(), body);
            line(out, &[]);
        } else {
            line(out, &[]);
        }
        line(out, &[]);
    }

    fn boundary(&self, kind: &str) -> String {
        let mut id = [0; 16];
        self.settings().entropy.fill(&mut id);
        format!("{kind}_{}", uuid::Uuid::from_bytes(id))
    }
}

/// A line, which ends with CR LF.
fn line(out: &mut BytesMut, pieces: &[&str]) {
    for piece in pieces {
        out.put_slice(piece.as_bytes());
    }
    out.put_slice(b"\r\n");
}

/// The parts of an answer, those of changesets among them. `None`: it is none.
pub(crate) fn parse(content_type: &str, body: &Bytes, depth: usize) -> Option<Vec<Part>> {
    if depth > 1 {
        return None;
    }
    let boundary = boundary_of(content_type)?;
    let delimiter = format!("--{boundary}");
    let mut parts = Vec::new();
    let mut rest = after_delimiter(body, 0, &delimiter)?;
    loop {
        if body.get(rest..rest + 2) == Some(b"--") {
            return Some(parts);
        }
        let start = rest + line_end(&body[rest..])?.1;
        let end = find_delimiter(body, start, &delimiter)?;
        let piece = body.slice(start..end);
        let (head, at) = head(&piece)?;
        let content = piece.slice(at..);
        let kind =
            head.iter().find(|(name, _)| name == "content-type").map_or("", |(_, value)| value.as_str());
        if kind.to_ascii_lowercase().starts_with("multipart/mixed") {
            parts.extend(parse(kind, &content, depth + 1)?);
        } else {
            parts.push(response(&content)?);
        }
        if parts.len() > MOST_OPERATIONS {
            return None;
        }
        rest = after_delimiter(body, end, &delimiter)?;
    }
}

fn boundary_of(content_type: &str) -> Option<&str> {
    let at = content_type.to_ascii_lowercase().find("boundary=")? + "boundary=".len();
    let value = content_type.get(at..)?.split(';').next()?.trim().trim_matches('"');
    (!value.is_empty() && value.len() <= 200).then_some(value)
}

/// The place behind the next delimiter line's boundary.
fn after_delimiter(body: &[u8], from: usize, delimiter: &str) -> Option<usize> {
    let at = memchr_find(body.get(from..)?, delimiter.as_bytes())? + from;
    Some(at + delimiter.len())
}

/// Where the content before the next delimiter ends: its line end belongs to the delimiter (RFC 2046 section 5.1.1).
fn find_delimiter(body: &[u8], from: usize, delimiter: &str) -> Option<usize> {
    let mut at = from;
    loop {
        let found = memchr_find(body.get(at..)?, delimiter.as_bytes())? + at;
        if found == from || body[found - 1] == b'\n' {
            return Some(found);
        }
        at = found + 1;
    }
}

fn memchr_find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    // std has no search for bytes; a window of the first byte keeps it linear for what stands in answers
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack.get(from..)?.iter().position(|byte| *byte == first) {
        let at = from + at;
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// Length of the first line without and with its end.
fn line_end(bytes: &[u8]) -> Option<(usize, usize)> {
    let at = bytes.iter().position(|byte| *byte == b'\n')?;
    let text = if at > 0 && bytes[at - 1] == b'\r' { at - 1 } else { at };
    Some((text, at + 1))
}

type Head = Vec<(String, String)>;

/// Header fields, and where what follows them begins.
fn head(bytes: &[u8]) -> Option<(Head, usize)> {
    let (mut fields, mut at) = (Vec::new(), 0);
    loop {
        let (text, whole) = line_end(&bytes[at..])?;
        let line = &bytes[at..at + text];
        at += whole;
        if line.is_empty() {
            return Some((fields, at));
        }
        let line = String::from_utf8_lossy(line);
        let (name, value) = line.split_once(':')?;
        if fields.len() >= 100 {
            return None;
        }
        fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// An answer of HTTP inside a part.
fn response(content: &Bytes) -> Option<Part> {
    let (text, whole) = line_end(content)?;
    let first = String::from_utf8_lossy(&content[..text]);
    let status = first.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    let rest = content.slice(whole..);
    let (headers, at) = head(&rest)?;
    let mut body = rest.slice(at..);
    while body.ends_with(b"\n") || body.ends_with(b"\r") {
        body.truncate(body.len() - 1);
    }
    Some(Part { status, headers, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "--batchresponse_b1\r\nContent-Type: multipart/mixed; boundary=changesetresponse_c1\r\n\r\n\
        --changesetresponse_c1\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: 1\r\n\r\n\
        HTTP/1.1 204 No Content\r\nOData-Version: 4.0\r\nOData-EntityId: https://x/api/data/v9.2/emails(1)\r\n\r\n\r\n\
        --changesetresponse_c1\r\nContent-Type: application/http\r\n\r\n\
        HTTP/1.1 201 Created\r\n\r\n{\"a\":\"--changesetresponse_c1\"}\r\n\
        --changesetresponse_c1--\r\n--batchresponse_b1--\r\n";

    #[test]
    fn answers_of_changesets_are_read() {
        let parts = parse("multipart/mixed; boundary=batchresponse_b1", &Bytes::from(ANSWER), 0).unwrap();
        assert_eq!(parts.iter().map(|part| part.status).collect::<Vec<_>>(), [204, 201]);
        assert_eq!(parts[0].header("odata-entityid"), Some("https://x/api/data/v9.2/emails(1)"));
        assert_eq!(parts[1].json().unwrap()["a"], "--changesetresponse_c1");
    }

    #[test]
    fn a_failed_changeset_is_one_answer() {
        let text = "--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 412 Precondition Failed\r\nREQ_ID: r\r\n\r\n\
            {\"error\":{\"code\":\"0x80060882\",\"message\":\"m\"}}\r\n--b--\r\n";
        let parts = parse("Multipart/Mixed; Boundary=\"b\"", &Bytes::from(text), 0).unwrap();
        assert_eq!((parts.len(), parts[0].status, parts[0].header("req_id")), (1, 412, Some("r")));
    }

    #[test]
    fn half_an_answer_is_none() {
        for end in 0..ANSWER.len() - "--\r\n".len() {
            let cut = Bytes::from(&ANSWER[..end]);
            assert!(parse("multipart/mixed; boundary=batchresponse_b1", &cut, 0).is_none(), "{end}");
        }
        for content_type in ["", "text/html", "multipart/mixed", "multipart/mixed; boundary="] {
            assert!(parse(content_type, &Bytes::from(ANSWER), 0).is_none());
        }
    }

    /// By hand: `DATAVERSE_WEB_API_RECORDED` is a folder with answers of the real service (`*.http`: status line, header, body), such as those of Microsoft's
    /// documentation, which are not ours to keep here.
    #[test]
    fn recorded_answers_are_read() {
        let Some(folder) = std::env::var_os("DATAVERSE_WEB_API_RECORDED") else { return };
        let mut count = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let text = email_router_model::read_file_capped(&path, 1 << 20).unwrap();
            let text = String::from_utf8(text).unwrap().replace("\r\n", "\n").replace('\n', "\r\n");
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            let body = body.trim_start();
            if let Some(first) = body.strip_prefix("--") {
                let boundary = first.split("\r\n").next().unwrap();
                let content_type = format!("multipart/mixed; boundary={boundary}");
                let parts = parse(&content_type, &Bytes::from(body.to_owned()), 0);
                let parts = parts.unwrap_or_else(|| panic!("{}", path.display()));
                assert!(!parts.is_empty(), "{}", path.display());
                for part in parts {
                    assert!(part.body.is_empty() || part.json().is_some(), "{}: {part:?}", path.display());
                    let fault = Fault::parse(part.status, &part.body);
                    assert!(part.status < 400 || fault.code.is_some(), "{}: {fault}", path.display());
                }
            } else {
                let fault = Fault::parse(400, body.as_bytes());
                assert!(
                    !body.contains("\"error\"") || (fault.code.is_some() && !fault.message.is_empty()),
                    "{}",
                    path.display()
                );
            }
            count += 1;
        }
        assert!(count > 0, "there are no recorded answers");
    }
}
