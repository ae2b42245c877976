//! Reads what has changed in the organization.

use std::time::Duration;

use email_router_model::{ActivityId, EmailAddress, MessageId, RecordRef};
use serde_json::Value;

use super::records::Source;
use super::*;
use crate::dataverse::records::directory::lookup;
use crate::dataverse::tables::{EmailTable, StateColumn, Tables};
use crate::dataverse::web_api::{Page, Pages, Session, fault, literal};
use crate::smart::SmartHasher;
use crate::{EmailStatus, EmailSummary, OrganizationSettings, ParticipationType, Party, SmartHashes};

/// Rows of a page of records.
const RECORDS: &str = "odata.maxpagesize=5000";
/// Rows of a page of e-mails, which come with their parties.
const EMAILS: &str = "odata.maxpagesize=500";
pub(super) const ANNOTATIONS: &str = "odata.include-annotations=\"Microsoft.Dynamics.CRM.lookuplogicalname\"";
const TRACK: &str = "odata.track-changes";
/// Changes of e-mails are asked for from so long before the last one that was seen: rows become visible in another order than that of their times.
const OVERLAP: Duration = Duration::from_secs(120);
/// A table without change tracking is read anew so often, since deleted rows are not told.
const FULL_READING: Duration = Duration::from_secs(24 * 3600);

/// What an e-mail is read with.
pub(crate) const EMAIL_COLUMNS: [&str; 15] = [
    "activityid",
    "directioncode",
    "statuscode",
    "messageid",
    "inreplyto",
    "subject",
    "trackingtoken",
    "conversationindex",
    "createdon",
    "modifiedon",
    "sender",
    "torecipients",
    "_regardingobjectid_value",
    "_ownerid_value",
    "_correlatedactivityid_value",
];
/// What the parties of an e-mail are read with.
pub(crate) const PARTY_COLUMNS: &str = "participationtypemask,addressused,unresolvedpartyname,_partyid_value";

impl Mirror {
    /// Reads all changes since the last time; the first time everything.
    pub(crate) async fn sync(
        &self,
        session: &Session,
        tables: &Tables,
        settings: &OrganizationSettings,
    ) -> Result<()> {
        for table in tables.email_tables() {
            self.sync_table(session, table).await?;
        }
        self.sync_emails(session, tables, settings).await?;
        self.synced_now().await
    }

    async fn sync_table(&self, session: &Session, table: &EmailTable) -> Result<()> {
        let source = self.source(&table.logical_name).await?;
        match source {
            Source { reading: None, link: Some(link), .. } => {
                match self.changes(session, table, link).await {
                    Err(error) if fault::is_expired_token(&error) => {
                        tracing::info!(
                            table = table.logical_name,
                            "changes cannot be asked for any more; all is read anew"
                        );
                        self.full(session, table, None).await
                    }
                    other => other,
                }
            }
            Source { reading: None, link: None, read_on: Some(read_on), .. } => {
                let now = self.0.clock.now();
                let age = Timestamp::from_millisecond(read_on).ok().map(|at| now.duration_since(at));
                let due =
                    age.and_then(|age| Duration::try_from(age).ok()).is_none_or(|age| age > FULL_READING);
                if due || table.change_tracking {
                    self.full(session, table, None).await
                } else {
                    self.recent(session, table, now).await
                }
            }
            Source { reading: Some(_), resume: Some(resume), .. } => {
                match self.full(session, table, Some(resume)).await {
                    // the server has forgotten where we were
                    Err(error)
                        if fault::of(&error).is_some_and(|fault| matches!(fault.status, 400 | 404 | 410)) =>
                    {
                        self.full(session, table, None).await
                    }
                    other => other,
                }
            }
            _ => self.full(session, table, None).await,
        }
    }

    /// All rows, from the beginning or where an earlier reading was interrupted.
    async fn full(&self, session: &Session, table: &EmailTable, resume: Option<String>) -> Result<()> {
        let name = &table.logical_name;
        let mut prefer = vec![RECORDS, ANNOTATIONS];
        if table.change_tracking {
            prefer.push(TRACK);
        }
        let path = match resume {
            Some(link) => link,
            None => {
                self.begin_full(name).await?;
                format!("{}?$select={}", table.entity_set, table.select())
            }
        };
        let mut pages = session.pages(path, &prefer, &format!("reading the addresses of the table {name}"));
        while let Some(page) = pages.next().await? {
            let Page { rows, next_link, delta_link } = page;
            let (records, _) = parse_records(table, &rows);
            self.apply_full(name, records, next_link.clone()).await?;
            if next_link.is_none() {
                self.end_full(name, delta_link).await?;
            }
        }
        Ok(())
    }

    async fn changes(&self, session: &Session, table: &EmailTable, link: String) -> Result<()> {
        let name = &table.logical_name;
        let doing = format!("asking for changes of the table {name}");
        let pages = session.pages(link, &[RECORDS, ANNOTATIONS, TRACK], &doing);
        self.apply_pages(table, pages).await
    }

    async fn apply_pages(&self, table: &EmailTable, mut pages: Pages) -> Result<()> {
        while let Some(page) = pages.next().await? {
            let (records, deleted) = parse_records(table, &page.rows);
            if !records.is_empty() || !deleted.is_empty() || page.delta_link.is_some() {
                self.apply_changes(&table.logical_name, records, deleted, page.delta_link).await?;
            }
        }
        Ok(())
    }

    /// What was modified lately, where a table tells no changes: since the last turn that succeeded, with a margin.
    async fn recent(&self, session: &Session, table: &EmailTable, now: Timestamp) -> Result<()> {
        let synced = self.read(|conn| file::value(conn, "synced")).await?;
        let since = synced.and_then(|text| text.parse().ok()).unwrap_or(now);
        let since = Timestamp::saturating_sub(since, 2 * OVERLAP).unwrap_or(since);
        let path = format!(
            "{}?$select={}&$filter=modifiedon%20ge%20{}",
            table.entity_set,
            table.select(),
            literal::time(since)
        );
        let doing = format!("asking for changes of the table {}", table.logical_name);
        self.apply_pages(table, session.pages(path, &[RECORDS, ANNOTATIONS], &doing)).await
    }

    /// E-mails: change tracking allows no filter, so all mail ever would have to be read to begin with it; changes are asked for by time
    /// instead, and that an e-mail was deleted is found when it is used.
    async fn sync_emails(
        &self,
        session: &Session,
        tables: &Tables,
        settings: &OrganizationSettings,
    ) -> Result<()> {
        let now = self.0.clock.now();
        let oldest = now.saturating_sub(session.settings().emails_remembered).unwrap_or(now);
        let watermark = self.watermark().await?;
        let note_column = session.settings().note_column.clone();
        let mut columns = EMAIL_COLUMNS.to_vec();
        columns.extend(note_column.as_deref());
        let since = match watermark {
            Some(at) => {
                let since = at.saturating_sub(OVERLAP).unwrap_or(at);
                format!(
                    "modifiedon%20ge%20{}%20and%20createdon%20ge%20{}",
                    literal::time(since),
                    literal::time(oldest)
                )
            }
            None => format!("createdon%20ge%20{}", literal::time(oldest)),
        };
        let path = format!(
            "emails?$select={}&$filter={since}&$orderby=modifiedon%20asc&$expand=email_activity_parties($select={PARTY_COLUMNS})",
            tables.email_select(&columns)
        );
        let hasher = SmartHasher::new(settings);
        let hashed = !settings.disable_smart_matching_email_hash_creation;
        let mut pages = session.pages(path, &[EMAILS, ANNOTATIONS], "asking for changes of e-mails");
        let mut seen = watermark;
        while let Some(page) = pages.next().await? {
            let mut emails = Vec::with_capacity(page.rows.len());
            for row in &page.rows {
                seen = seen.max(time(row, "modifiedon"));
                if let Some(note) = note_column
                    .as_deref()
                    .and_then(|column| row.get(column)?.as_str())
                    .and_then(Note::from_json)
                    && let Some(id) = id(row, "activityid")
                {
                    self.newer_note(&ActivityId::from_uuid(id), note).await?;
                }
                emails.extend(parse_email(row, hashed.then_some(&hasher)));
            }
            // only a reading that came to its end may skip what it has read: pages are in the order of changes, so each is one
            self.apply_emails(emails, seen).await?;
        }
        if seen.is_none() {
            // an organization without e-mails
            self.apply_emails(Vec::new(), Some(now)).await?;
        }
        self.prune(oldest).await
    }

    /// Takes a note of another router in, where it is newer than ours.
    pub(crate) async fn newer_note(&self, id: &ActivityId, theirs: Note) -> Result<()> {
        if self.note(id).await?.is_some_and(|ours| ours.changed_on >= theirs.changed_on) {
            return Ok(());
        }
        self.update_note(id, move |note| {
            let ours = std::mem::replace(note, theirs);
            // what did not fit into the column
            note.smart = note.smart.take().or(ours.smart);
            if note.references.len() < ours.references.len() {
                note.references = ours.references;
            }
            note.delivered_on = note.delivered_on.or(ours.delivered_on);
        })
        .await
    }
}

fn id(row: &Value, name: &str) -> Option<Uuid> {
    Uuid::parse_str(row.get(name)?.as_str()?).ok()
}

fn time(row: &Value, name: &str) -> Option<Timestamp> {
    row.get(name)?.as_str()?.parse().ok()
}

/// Records of a page, and those that it says were deleted.
pub(super) fn parse_records(table: &EmailTable, rows: &[Value]) -> (Vec<MirrorRecord>, Vec<Uuid>) {
    let (mut records, mut deleted) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        if row.get("reason").is_some()
            && let Some(gone) = id(row, "id")
        {
            deleted.push(gone);
            continue;
        }
        let Some(id) = id(row, &table.primary_id) else { continue };
        let text = |name: &str| row.get(name).and_then(Value::as_str);
        let active = match table.state {
            StateColumn::None => true,
            StateColumn::StateCode => row.get("statecode").and_then(Value::as_i64) == Some(0),
            StateColumn::IsDisabled => row.get("isdisabled").and_then(Value::as_bool) != Some(true),
        };
        records.push(MirrorRecord {
            id,
            name: text(&table.primary_name).unwrap_or_default().to_owned(),
            addresses: table
                .email_columns
                .iter()
                .filter_map(|column| text(column))
                .map(str::to_owned)
                .collect(),
            // a user owns itself
            owner: lookup(row, "_ownerid_value")
                .or_else(|| (table.logical_name == "systemuser").then(|| RecordRef::new("systemuser", id))),
            active,
            created_on: time(row, "createdon").unwrap_or(Timestamp::UNIX_EPOCH),
        });
    }
    (records, deleted)
}

/// An e-mail as the CRM gives it; hashed for smart matching where the organization wants that.
pub(crate) fn parse_email(row: &Value, hasher: Option<&SmartHasher>) -> Option<MirrorEmail> {
    let text = |name: &str| row.get(name).and_then(Value::as_str);
    let activity_id = ActivityId::from_uuid(id(row, "activityid")?);
    let parties: Vec<Party> = parties(row);
    let subject = text("subject").unwrap_or_default().to_owned();
    let smart = match hasher {
        Some(hasher) => {
            let addresses: Vec<EmailAddress> =
                parties.iter().filter_map(|party| party.address.clone()).collect();
            hasher.hashes(&subject, &addresses)
        }
        None => SmartHashes::default(),
    };
    let status = row.get("statuscode").and_then(Value::as_u64).and_then(|code| u8::try_from(code).ok());
    Some(MirrorEmail {
        summary: EmailSummary {
            activity_id,
            outgoing: row.get("directioncode").and_then(Value::as_bool).unwrap_or(true),
            message_id: text("messageid").and_then(MessageId::parse),
            subject,
            tracking_token: text("trackingtoken").filter(|token| !token.is_empty()).map(str::to_owned),
            regarding: lookup(row, "_regardingobjectid_value"),
            owner: lookup(row, "_ownerid_value"),
            parties,
            created_on: time(row, "createdon")?,
            conversation_index: text("conversationindex").map(hexadecimal),
            conversation_id: None,
            smart,
        },
        status: status.and_then(EmailStatus::from_code).unwrap_or(EmailStatus::Completed),
    })
}

/// The parties of an e-mail, the sender first.
pub(crate) fn parties(row: &Value) -> Vec<Party> {
    let rows = row.get("email_activity_parties").and_then(Value::as_array);
    let mut parties: Vec<Party> = rows
        .into_iter()
        .flatten()
        .filter_map(|row| {
            let code = row.get("participationtypemask")?.as_u64()?;
            let text = |name: &str| row.get(name).and_then(Value::as_str);
            Some(Party {
                participation: ParticipationType::from_code(u8::try_from(code).ok()?)?,
                record: lookup(row, "_partyid_value"),
                address: text("addressused").and_then(|text| EmailAddress::parse(text.trim()).ok()),
                name: text("unresolvedpartyname")
                    .or_else(|| text("_partyid_value@OData.Community.Display.V1.FormattedValue"))
                    .map(str::to_owned),
            })
        })
        .collect();
    parties.sort_by_key(|party| party.participation);
    parties
}

/// The conversation index as lower-case hexadecimal, which Dataverse writes in base64 or in hexadecimal (8.3 publishes neither).
fn hexadecimal(text: &str) -> String {
    use base64::Engine as _;
    let is_hexadecimal = text.len() >= 44 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match base64::prelude::BASE64_STANDARD.decode(text) {
        Ok(bytes) if !is_hexadecimal => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        _ => text.to_lowercase(),
    }
}
