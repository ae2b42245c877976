//! The e-mails that an answer can belong to.

use email_router_model::{ActivityId, MessageId};
use rusqlite::params;

use super::*;
use crate::{EmailLookup, EmailStatus, EmailSummary, SmartHashes};

/// So many e-mails of each address smart matching compares at the most, as the contract of `EmailLookup::Smart` allows.
const COMPARED: u32 = 500;

/// An e-mail as the mirror keeps it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MirrorEmail {
    pub(crate) summary: EmailSummary,
    pub(crate) status: EmailStatus,
}

impl Mirror {
    /// Takes e-mails in; what a note knows of them and the CRM does not stays. `watermark`: until when changes were read.
    pub(crate) async fn apply_emails(
        &self,
        emails: Vec<MirrorEmail>,
        watermark: Option<Timestamp>,
    ) -> Result<()> {
        self.apply_email_page(emails, Vec::new(), watermark).await
    }

    /// The same, with notes of other routers, in one transaction.
    pub(super) async fn apply_email_page(
        &self,
        emails: Vec<MirrorEmail>,
        theirs: Vec<(ActivityId, Note)>,
        watermark: Option<Timestamp>,
    ) -> Result<()> {
        let now = self.0.clock.now();
        self.write(move |tx| {
            for (id, note) in theirs {
                notes::take_newer(tx, &id.to_string(), note, now)?;
            }
            let generation = file::email_generation(tx)?;
            for email in emails {
                put(tx, email, generation)?;
            }
            match watermark {
                Some(at) => file::set_value(tx, "emails", &at.to_string()),
                None => Ok(()),
            }
        })
        .await
    }

    /// Until when changes of e-mails were read.
    pub(super) async fn watermark(&self) -> Result<Option<Timestamp>> {
        let text = self.read(|conn| file::value(conn, "emails")).await?;
        Ok(text.and_then(|text| text.parse().ok()))
    }

    /// All e-mails were read: after a rebuild, those that were not among them are forgotten.
    pub(super) async fn end_emails(&self) -> Result<()> {
        if self.read(|conn| file::value(conn, "emails-read-anew")).await?.is_none() {
            return Ok(());
        }
        self.write(|tx| {
            let generation = file::email_generation(tx)?;
            tx.execute(
                "DELETE FROM smart WHERE id IN (SELECT id FROM email WHERE generation < ?1)",
                [generation],
            )?;
            tx.execute("DELETE FROM email WHERE generation < ?1", [generation])?;
            tx.execute("DELETE FROM meta WHERE name = 'emails-read-anew'", []).map(drop)
        })
        .await
    }

    /// Forgets an e-mail that is gone; whether it was known. That this router delivered it stays known.
    pub(crate) async fn forget_email(&self, id: &ActivityId) -> Result<bool> {
        let id = id.to_string();
        self.write(move |tx| remove(tx, &id)).await
    }

    /// Forgets e-mails, and notes, from before this time, in small transactions.
    pub(super) async fn prune(&self, before: Timestamp) -> Result<()> {
        let before = before.as_millisecond();
        loop {
            let removed = self
                .write(move |tx| {
                    let ids: Vec<String> = tx
                        .prepare_cached(
                            "SELECT id FROM email WHERE createdon < ?1 ORDER BY createdon LIMIT 1000",
                        )?
                        .query_map([before], |row| row.get(0))?
                        .collect::<rusqlite::Result<_>>()?;
                    for id in &ids {
                        remove(tx, id)?;
                    }
                    let notes = tx.execute(
                        "DELETE FROM note WHERE id IN (SELECT id FROM note WHERE changedon < ?1 LIMIT 1000)",
                        [before],
                    )?;
                    Ok(ids.len().max(notes))
                })
                .await?;
            if removed < 1000 {
                return Ok(());
            }
        }
    }

    /// An e-mail that the mirror knows, with its status.
    pub(crate) async fn email(&self, id: &ActivityId) -> Result<Option<MirrorEmail>> {
        let id = id.to_string();
        self.read(move |conn| {
            conn.prepare_cached("SELECT summary, status FROM email WHERE id = ?1")?
                .query_row([id], |row| {
                    let status = EmailStatus::from_code(row.get(1)?).unwrap_or(EmailStatus::Completed);
                    Ok(MirrorEmail { summary: parse(&row.get::<_, String>(0)?)?, status })
                })
                .optional()
        })
        .await
    }

    /// What `CrmClient::find_emails` says.
    pub(crate) async fn find_emails(&self, lookup: &EmailLookup, limit: usize) -> Result<Vec<EmailSummary>> {
        let lookup = lookup.clone();
        self.read(move |conn| {
            let mut found = match &lookup {
                EmailLookup::MessageIds(ids) => {
                    by(conn, "messageid", ids.iter().map(MessageId::as_str), limit)?
                }
                EmailLookup::TrackingToken(token) => by(conn, "token", [token.to_lowercase()], limit)?,
                EmailLookup::Ids(ids) => by(conn, "id", ids.iter().map(ActivityId::to_string), limit)?,
                EmailLookup::ConversationRoot(root) => by(conn, "root", [root], limit)?,
                EmailLookup::ConversationId(id) => by(conn, "conversationid", [id], limit)?,
                EmailLookup::Smart(query) => smart(conn, query)?,
            };
            found.retain(|email| lookup.matches(email));
            found.sort_by(|a, b| b.created_on.cmp(&a.created_on).then(b.activity_id.cmp(&a.activity_id)));
            found.dedup_by(|a, b| a.activity_id == b.activity_id);
            found.truncate(limit);
            Ok(found)
        })
        .await
    }
}

/// The newest with each of these values of a column (a literal of ours).
fn by(
    conn: &Connection,
    column: &str,
    values: impl IntoIterator<Item = impl AsRef<str>>,
    limit: usize,
) -> rusqlite::Result<Vec<EmailSummary>> {
    let sql = format!("SELECT summary FROM email WHERE {column} = ?1 ORDER BY createdon DESC LIMIT ?2");
    let mut statement = conn.prepare_cached(&sql)?;
    let mut found = Vec::new();
    for value in values {
        let mut rows = statement.query(params![value.as_ref(), i64::try_from(limit).unwrap_or(i64::MAX)])?;
        while let Some(row) = rows.next()? {
            found.push(parse(row.get_ref(0)?.as_str()?)?);
        }
    }
    Ok(found)
}

fn smart(conn: &Connection, query: &crate::SmartQuery) -> rusqlite::Result<Vec<EmailSummary>> {
    if query.hashes.words.is_empty() {
        return Ok(Vec::new());
    }
    let mut ids: Vec<String> = Vec::new();
    let not_before = query.not_before.as_millisecond();
    for address in &query.hashes.addresses {
        if query.delta == 0 {
            let subject = subject(&query.hashes);
            let sql = "SELECT id FROM smart WHERE address = ?1 AND subject = ?2 AND createdon >= ?3 ORDER BY createdon DESC LIMIT ?4";
            let mut statement = conn.prepare_cached(sql)?;
            let rows =
                statement.query_map(params![address, subject, not_before, COMPARED], |row| row.get(0))?;
            ids.extend(rows.collect::<rusqlite::Result<Vec<String>>>()?);
        } else {
            let sql = "SELECT id FROM smart WHERE address = ?1 AND createdon >= ?2 ORDER BY createdon DESC LIMIT ?3";
            let mut statement = conn.prepare_cached(sql)?;
            let rows = statement.query_map(params![address, not_before, COMPARED], |row| row.get(0))?;
            ids.extend(rows.collect::<rusqlite::Result<Vec<String>>>()?);
        }
    }
    // only what shares enough addresses is worth reading
    ids.sort();
    let least = query.min_addresses.max(1) as usize;
    let candidates: Vec<&str> =
        ids.chunk_by(|a, b| a == b).filter(|same| same.len() >= least).map(|same| same[0].as_str()).collect();
    by(conn, "id", candidates, 1)
}

/// A digest of the words of a subject, which are sorted: FNV-1a.
fn subject(hashes: &SmartHashes) -> i64 {
    let mut digest: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in hashes.words.iter().flat_map(|word| word.to_le_bytes()) {
        digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    i64::from_le_bytes(digest.to_le_bytes())
}

fn parse(summary: &str) -> rusqlite::Result<EmailSummary> {
    serde_json::from_str(summary).map_err(|_| file::bad("summary"))
}

fn put(conn: &Connection, mut email: MirrorEmail, generation: i64) -> rusqlite::Result<()> {
    let id = email.summary.activity_id.to_string();
    if let Some(note) = notes::read(conn, &id)? {
        note.complete(&mut email.summary);
    }
    remove(conn, &id)?;
    let summary = &email.summary;
    let root = summary.conversation_index.as_ref().and_then(|index| index.get(..EmailLookup::ROOT_DIGITS));
    let created = summary.created_on.as_millisecond();
    conn.prepare_cached(
        "INSERT INTO email (id, createdon, messageid, token, root, conversationid, status, summary, generation)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        id,
        created,
        summary.message_id.as_ref().map(MessageId::as_str),
        summary.tracking_token.as_ref().map(|token| token.to_lowercase()),
        root,
        summary.conversation_id,
        email.status.code(),
        serde_json::to_string(summary).map_err(|_| file::bad("summary"))?,
        generation
    ])?;
    if !summary.smart.words.is_empty() {
        let digest = subject(&summary.smart);
        let mut insert = conn.prepare_cached(
            "INSERT OR IGNORE INTO smart (address, subject, createdon, id) VALUES (?1, ?2, ?3, ?4)",
        )?;
        for address in &summary.smart.addresses {
            insert.execute(params![address, digest, created, id])?;
        }
    }
    Ok(())
}

fn remove(conn: &Connection, id: &str) -> rusqlite::Result<bool> {
    let known = conn.prepare_cached("DELETE FROM email WHERE id = ?1")?.execute([id])? > 0;
    if known {
        conn.prepare_cached("DELETE FROM smart WHERE id = ?1")?.execute([id])?;
    }
    Ok(known)
}
