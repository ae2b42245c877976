//! What the router knows of an e-mail and Dataverse has no column for (`crm-contract.md` 5.1).

use email_router_model::{ActivityId, MessageId, RecordRef};
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::*;
use crate::{
    DeliveryAction, DeliveryReport, EmailSummary, IncomingEmail, RecipientReport, SendOutcome, SmartHashes,
};

/// Most recipients, and most reports, that are kept for one e-mail. Whoever can guess a Message-ID can send reports about it.
const MAX_KEPT: usize = 1000;
/// The longest text of a report that is kept, in characters.
const MAX_TEXT: usize = 1000;

/// A note on an e-mail. Serialized it is JSON, in the mirror and in the note column alike.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Note {
    /// When it was changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) changed_on: Option<Timestamp>,
    /// Received, and whole in the CRM since then, as far as this router knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delivered_on: Option<Timestamp>,
    /// Where the CRM decides: the id that it gave a received e-mail whose note this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) activity: Option<Uuid>,
    /// Where the CRM decides: a delivery was begun and its answer is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) begun_on: Option<Timestamp>,
    /// The Message-ID of an outgoing e-mail; where the CRM decides also of one whose delivery was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message_id: Option<MessageId>,
    /// The tracking token and the subject of an outgoing e-mail, where the CRM does not take them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tracking_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    /// Not to be sent before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_before: Option<Timestamp>,
    /// Nobody knows whether it went out, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) in_doubt: Option<String>,
    /// Why it failed, or failed for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) in_reply_to: Option<MessageId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) conversation_index: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) conversation_id: Option<String>,
    /// Recipients that were refused, with the server's words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused: Vec<String>,
    /// What became of recipients, as far as it was reported.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) recipients: Vec<Recipient>,
    /// Reports that were taken in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) reports: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) smart: Option<SmartHashes>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) references: Vec<MessageId>,
}

/// The last word about a recipient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recipient {
    #[serde(flatten)]
    pub(crate) last: RecipientReport,
    pub(crate) at: Timestamp,
}

impl Note {
    /// What a received e-mail has and Dataverse does not keep.
    pub(crate) fn of(email: &IncomingEmail, with_hashes: bool) -> Self {
        Self {
            in_reply_to: email.in_reply_to.clone(),
            references: email.references.clone(),
            conversation_index: email.conversation_index.clone(),
            conversation_id: email.conversation_id.clone(),
            smart: Some(if with_hashes { email.smart.clone() } else { SmartHashes::default() }),
            ..Self::default()
        }
    }

    /// As it fits into a column of so many UTF-16 units: what matters least is left out first.
    pub(crate) fn to_json(&self, most: usize) -> String {
        let fits =
            |note: &Self| serde_json::to_string(note).ok().filter(|text| text.encode_utf16().count() <= most);
        let mut note = self.clone();
        let drops: [fn(&mut Self); 6] = [
            |note| note.smart = None,
            |note| {
                let from = note.references.len().saturating_sub(20);
                note.references.drain(..from);
            },
            |note| note.reports.clear(),
            |note| note.recipients.truncate(10),
            |note| note.references.clear(),
            |note| {
                note.recipients.clear();
                note.refused.clear();
            },
        ];
        for drop in drops {
            if let Some(text) = fits(&note) {
                return text;
            }
            drop(&mut note);
        }
        fits(&note).unwrap_or_default()
    }

    /// Sets the time of a change: later than what was before, whatever the clock says, so that the newer one can be told.
    pub(crate) fn touch(&mut self, before: &Self, now: Timestamp) {
        let least = before.changed_on.and_then(|at| at.checked_add(std::time::Duration::from_nanos(1)).ok());
        self.changed_on = Some(least.map_or(now, |least| least.max(now)));
    }

    /// What a column has; anything else is no note.
    pub(crate) fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Fills in what the CRM does not know.
    pub(super) fn complete(&self, summary: &mut EmailSummary) {
        if summary.message_id.is_none() {
            summary.message_id.clone_from(&self.message_id);
        }
        if summary.tracking_token.is_none()
            && let Some(token) = &self.tracking_token
        {
            summary.tracking_token = Some(token.clone());
            if let Some(subject) = &self.subject {
                summary.subject.clone_from(subject);
            }
        }
        if self.conversation_index.is_some() {
            summary.conversation_index.clone_from(&self.conversation_index);
        }
        if self.conversation_id.is_some() {
            summary.conversation_id.clone_from(&self.conversation_id);
        }
        if let Some(smart) = &self.smart {
            summary.smart = smart.clone();
        }
    }

    /// Keeps what became of an attempt to send.
    pub(crate) fn finish(&mut self, outcome: &SendOutcome) {
        match outcome.clone() {
            SendOutcome::Sent { refused, .. } => {
                (self.in_doubt, self.not_before) = (None, None);
                self.refused = refused;
            }
            SendOutcome::Retry { not_before, reason } => {
                (self.not_before, self.reason) = (Some(not_before), Some(reason));
            }
            SendOutcome::Failed { reason } => self.reason = Some(reason),
            SendOutcome::InDoubt { reason } => {
                self.in_doubt.get_or_insert(reason);
            }
        }
    }

    /// Takes a report in, as `CrmClient::record_delivery` says; `true` when that changed what is known of a recipient.
    pub(crate) fn record(&mut self, report: &DeliveryReport) -> bool {
        let name = one_line(&report.report);
        if self.reports.contains(&name) {
            return false;
        }
        if self.reports.len() >= MAX_KEPT {
            tracing::warn!(email = %report.activity_id, "there are too many delivery reports about this e-mail; one was not kept");
            return false;
        }
        self.reports.push(name);
        let mut changed = false;
        for new in &report.recipients {
            let last = RecipientReport {
                status: new.status.as_deref().map(one_line),
                diagnostic: new.diagnostic.as_deref().map(one_line),
                ..new.clone()
            };
            let key = new.address.key();
            match self.recipients.iter().position(|known| known.last.address.key() == key) {
                Some(place) => {
                    let known = &mut self.recipients[place];
                    let ended = known.last.action != DeliveryAction::Delayed;
                    if report.at < known.at || (new.action == DeliveryAction::Delayed && ended) {
                        continue;
                    }
                    *known = Recipient { last, at: report.at };
                }
                None if self.recipients.len() >= MAX_KEPT => continue,
                None => self.recipients.push(Recipient { last, at: report.at }),
            }
            changed = true;
        }
        changed
    }
}

fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect()
}

impl Mirror {
    pub(crate) async fn note(&self, id: &ActivityId) -> Result<Option<Note>> {
        let id = id.to_string();
        self.read(move |conn| read(conn, &id)).await
    }

    /// Changes a note, or begins one; gives what `change` gives. Durable when it returns.
    pub(crate) async fn update_note<T, F>(&self, id: &ActivityId, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Note) -> T + Send + 'static,
    {
        let (id, now) = (id.to_string(), self.0.clock.now());
        self.write(move |tx| {
            let before = read(tx, &id)?.unwrap_or_default();
            let mut note = before.clone();
            let result = change(&mut note);
            if note != before {
                // a note of another router comes with its own time
                if note.changed_on == before.changed_on {
                    note.touch(&before, now);
                }
                write(tx, &id, &note, now)?;
            }
            Ok(result)
        })
        .await
    }

    /// Takes a note of another router in, where it is newer than ours.
    pub(crate) async fn newer_note(&self, id: &ActivityId, theirs: Note) -> Result<()> {
        let (id, now) = (id.to_string(), self.0.clock.now());
        self.write(move |tx| take_newer(tx, &id, theirs, now)).await
    }

    /// Whether this router delivered the e-mail, or saw it whole in the CRM.
    pub(crate) async fn is_delivered(&self, id: &ActivityId) -> Result<bool> {
        let id = id.to_string();
        self.read(move |conn| {
            let seen =
                conn.prepare_cached("SELECT 1 FROM email WHERE id = ?1 AND status <> 1")?.exists([&id])?;
            Ok(seen || read(conn, &id)?.is_some_and(|note| note.delivered_on.is_some()))
        })
        .await
    }

    /// Keeps that an e-mail is whole in the CRM.
    pub(crate) async fn delivered(&self, id: &ActivityId) -> Result<()> {
        let now = self.0.clock.now();
        self.update_note(id, move |note| note.delivered_on = Some(now)).await
    }

    /// The next number of a sender for tracking tokens, counting from 1 to `maximum`, then from 0 (`crm-contract.md` 8.2); and the sender's own number:
    /// `user` where the CRM gives one, else one above `above` that is no other sender's.
    pub(crate) async fn next_token_number(
        &self,
        sender: &RecordRef,
        user: Option<u32>,
        above: u32,
        after: fn(u32, u32) -> u32,
        maximum: u32,
    ) -> Result<(u32, u32)> {
        let sender = sender.to_string();
        self.write(move |tx| {
            let known: Option<(Option<u32>, u32)> = tx
                .prepare_cached("SELECT number, next FROM counter WHERE sender = ?1")?
                .query_row([&sender], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let (number, next) = known.unwrap_or((None, 1));
            let number = match (user, number) {
                (Some(user), _) => user,
                (None, Some(number)) if number > above => number,
                (None, _) => {
                    let highest: Option<u32> =
                        tx.query_row("SELECT max(number) FROM counter", [], |row| row.get(0))?;
                    highest.unwrap_or(0).max(above).saturating_add(1)
                }
            };
            // users' own numbers are the CRM's affair, and two routers may see them change
            let kept = user.is_none().then_some(number);
            tx.prepare_cached("INSERT OR REPLACE INTO counter (sender, number, next) VALUES (?1, ?2, ?3)")?
                .execute(params![sender, kept, after(next, maximum)])?;
            Ok((number, next))
        })
        .await
    }
}

/// Takes a note of another router in, where it is newer than ours.
pub(super) fn take_newer(conn: &Connection, id: &str, theirs: Note, now: Timestamp) -> rusqlite::Result<()> {
    let ours = read(conn, id)?;
    if ours.as_ref().is_some_and(|ours| ours.changed_on >= theirs.changed_on) {
        return Ok(());
    }
    let (ours, mut note) = (ours.unwrap_or_default(), theirs);
    // what did not fit into the column
    note.smart = note.smart.take().or(ours.smart);
    if note.references.len() < ours.references.len() {
        note.references = ours.references;
    }
    note.delivered_on = note.delivered_on.or(ours.delivered_on);
    write(conn, id, &note, now)
}

fn write(conn: &Connection, id: &str, note: &Note, now: Timestamp) -> rusqlite::Result<()> {
    let text = serde_json::to_string(note).map_err(|_| file::bad("note"))?;
    conn.prepare_cached("INSERT OR REPLACE INTO note (id, changedon, note) VALUES (?1, ?2, ?3)")?
        .execute(params![id, now.as_millisecond(), text])
        .map(drop)
}

pub(super) fn read(conn: &Connection, id: &str) -> rusqlite::Result<Option<Note>> {
    let text: Option<String> = conn
        .prepare_cached("SELECT note FROM note WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    text.map(|text| Note::from_json(&text).ok_or_else(|| file::bad("note"))).transpose()
}
