//! Long answers, page by page (`crm-contract.md` 11.6).

use email_router_http::Method;
use serde_json::Value;

use super::session::{Ask, Session};
use crate::{Error, ErrorKind, Result};

/// The rows of a query. The server's links are followed unchanged, since they carry its cookie.
pub(crate) struct Pages {
    session: Session,
    next: Option<String>,
    prefer: String,
    doing: String,
}

/// One page.
#[derive(Debug)]
pub(crate) struct Page {
    /// Its rows.
    pub(crate) rows: Vec<Value>,
    /// Where to go on: `None` at the end.
    pub(crate) next_link: Option<String>,
    /// With `odata.track-changes`, on the last page: where to ask for what has changed since.
    pub(crate) delta_link: Option<String>,
}

impl Pages {
    pub(crate) fn new(session: Session, path: String, prefer: &[&str], doing: &str) -> Self {
        Self { session, next: Some(path), prefer: prefer.join(","), doing: doing.to_owned() }
    }

    /// The next page; `None` after the last one. An error leaves the place, so that the same page can be asked for again.
    pub(crate) async fn next(&mut self) -> Result<Option<Page>> {
        let Some(path) = &self.next else { return Ok(None) };
        let mut ask = Ask::new(Method::GET, path.clone(), self.doing.clone());
        if !self.prefer.is_empty() {
            ask = ask.header("prefer", &self.prefer);
        }
        let mut json = self.session.send(ask).await?.json()?;
        let link = |json: &Value, name: &str| json.get(name).and_then(Value::as_str).map(str::to_owned);
        let (next_link, delta_link) = (link(&json, "@odata.nextLink"), link(&json, "@odata.deltaLink"));
        let Some(Value::Array(rows)) = json.get_mut("value").map(Value::take) else {
            let message = format!("{}: {}: the answer has no rows", self.session.place(), self.doing);
            return Err(Error::new(ErrorKind::Unreachable, message));
        };
        if next_link.is_some() && next_link == self.next {
            let message = format!("{}: {}: the pages do not end", self.session.place(), self.doing);
            return Err(Error::new(ErrorKind::Unreachable, message));
        }
        self.next.clone_from(&next_link);
        Ok(Some(Page { rows, next_link, delta_link }))
    }

    /// All rows, at most `most`; more is an error, since what is left out would be forgotten.
    pub(crate) async fn all(mut self, most: usize) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        while let Some(page) = self.next().await? {
            all.extend(page.rows);
            if all.len() > most {
                let message = format!("{}: {}: more than {most} rows", self.session.place(), self.doing);
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        Ok(all)
    }
}
