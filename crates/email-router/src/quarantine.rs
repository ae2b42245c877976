//! What a person does with messages that could not be routed.

use email_router_engine::ports::QuarantineItem;
use email_router_engine::{DecisionRecord, Verdict};
use email_router_model::RawMessage;
use serde::Serialize;

use crate::{Error, Result, Service};

/// Items are read in pages of this many.
const PAGE: usize = 500;

/// What became of an item that was tried again or released.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retried {
    /// Number of the item.
    pub id: u64,
    /// The decision, when there was one.
    pub record: Option<DecisionRecord>,
    /// Why it stays in quarantine; `None`: it left.
    pub stays_because: Option<String>,
    /// It left undecided: the next pass over its mailbox reads it anew.
    pub read_again: bool,
}

impl Service {
    /// All items of a class, or of all classes, oldest first, without their bytes.
    ///
    /// # Errors
    /// The state store's.
    pub async fn quarantined(&self, class: Option<&str>) -> Result<Vec<QuarantineItem>> {
        let mut items = Vec::new();
        let mut after = 0;
        loop {
            let page = self.state().quarantine_list(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(items) };
            after = last.id;
            items.extend(page.into_iter().filter(|i| class.is_none_or(|c| c == i.class)));
        }
    }

    /// One item with its bytes.
    ///
    /// # Errors
    /// [`Error::Request`] when there is none.
    pub async fn quarantined_item(&self, id: u64) -> Result<QuarantineItem> {
        let item = self.state().quarantine_get(id).await?;
        item.ok_or_else(|| {
            Error::Request(format!(
                "there is no item {id} in quarantine; `email-router quarantine list` shows what is there"
            ))
        })
    }

    /// Routes an item again, by the rules or (`release`) to the owner of its mailbox whatever the filters say. What is settled, also by
    /// being discarded, leaves the quarantine. An item whose bytes were never read leaves it too, if the message is still in its mailbox:
    /// the next pass reads it anew, with the limits that hold then. An item of the class `partial` stays: its activity is there but has
    /// not all of it, and the whole message is only here.
    ///
    /// # Errors
    /// The state store's, and [`Error::Request`] when there is no such item. What the CRM says is in the answer: the item stays then.
    pub async fn retry_quarantined(&self, id: u64, release: bool) -> Result<Retried> {
        let item = self.quarantined_item(id).await?;
        let stays =
            |reason: String| Ok(Retried { id, record: None, stays_because: Some(reason), read_again: false });
        let Some(bytes) = item.raw else {
            let ids = std::slice::from_ref(&item.remote_id);
            let settled =
                self.state().seen(&item.mailbox, ids).await?.into_iter().flatten().find_map(|s| s.settled);
            if settled.is_none_or(|s| s.disposition != "keep") {
                return stays(
                    "its bytes were never read, and it is no longer where it was found (undeliverable messages are moved to a folder \
                     of their own); move it back into its mailbox, where the next pass reads it anew, and delete this item"
                        .to_owned(),
                );
            }
            // in this order: a crash in between leaves an item too many, never a message too few
            self.state().forget(&item.mailbox, ids).await?;
            self.state().quarantine_delete(id).await?;
            return Ok(Retried { id, record: None, stays_because: None, read_again: true });
        };
        self.connect().await;
        let Ok(named) = self.mailbox(item.mailbox.as_str()) else {
            return stays(format!("its mailbox {} is no longer configured", item.mailbox));
        };
        match self.route(&named, &RawMessage::new(bytes), release, false).await {
            Ok(record) if record.verdict == Verdict::Undeliverable => {
                let because = record.because.clone();
                Ok(Retried { id, record: Some(record), stays_because: Some(because), read_again: false })
            }
            Ok(record) if item.class == "partial" => {
                let because = "the CRM has it, but not all of it; delete it here when nobody needs the rest";
                Ok(Retried {
                    id,
                    record: Some(record),
                    stays_because: Some(because.to_owned()),
                    read_again: false,
                })
            }
            Ok(record) => {
                self.state().quarantine_delete(id).await?;
                Ok(Retried { id, record: Some(record), stays_because: None, read_again: false })
            }
            Err(error) => stays(error.to_string()),
        }
    }

    /// Removes an item for good; `false` when there was none.
    ///
    /// # Errors
    /// The state store's.
    pub async fn delete_quarantined(&self, id: u64) -> Result<bool> {
        Ok(self.state().quarantine_delete(id).await?)
    }
}
