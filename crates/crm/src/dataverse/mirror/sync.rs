//! Reads what has changed in the organization.

use std::time::Duration;

use email_router_model::{ActivityId, EmailAddress, MessageId, RecordRef};
use serde_json::Value;

use super::*;
use crate::dataverse::records::directory::lookup;
use crate::dataverse::tables::{EmailTable, StateColumn, Tables};
use crate::dataverse::web_api::{Page, Session, fault, literal};
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

/// Tables that every organization has and whose addresses the router cannot do without.
const CORE: [&str; 5] = ["systemuser", "queue", "contact", "account", "lead"];

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
            match self.sync_table(session, table).await {
                Err(error)
                    if fault::has_status(&error, 403) && !CORE.contains(&table.logical_name.as_str()) =>
                {
                    self.forbidden(&table.logical_name, &error);
                }
                other => other?,
            }
        }
        let names = tables.email_tables().iter().map(|table| table.logical_name.clone()).collect();
        self.keep_tables(names).await?;
        self.sync_emails(session, tables, settings).await?;
        self.synced_now().await
    }

    /// An organization has many tables, some of them of products that the router's user has no business with: one that cannot be read does not stop
    /// the mail.
    fn forbidden(&self, table: &str, error: &Error) {
        let mut told = self.0.forbidden.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(table.to_owned()) {
            tracing::warn!(
                table,
                "senders and recipients of this table stay unresolved, since its addresses cannot be read: {error}"
            );
        }
    }

    async fn sync_table(&self, session: &Session, table: &EmailTable) -> Result<()> {
        let source = self.source(&table.logical_name).await?;
        if source.reading.is_some() && source.resume.is_some() {
            return match self.full(session, table, source.resume, table.change_tracking).await {
                // the server has forgotten where we were
                Err(error)
                    if fault::of(&error).is_some_and(|fault| matches!(fault.status, 400 | 404 | 410)) =>
                {
                    self.full(session, table, None, table.change_tracking).await
                }
                other => other,
            };
        }
        if source.reading.is_none() && source.link.is_some() {
            return match self.changes(session, table, source.link.unwrap_or_default()).await {
                Err(error) if fault::is_expired_token(&error) => {
                    tracing::info!(
                        table = table.logical_name,
                        "changes cannot be asked for any more; all is read anew"
                    );
                    self.full(session, table, None, true).await
                }
                other => other,
            };
        }
        let age = source.read_on.and_then(|at| Timestamp::from_millisecond(at).ok());
        let age = age.and_then(|at| Duration::try_from(self.0.clock.now().duration_since(at)).ok());
        let fresh = source.reading.is_none() && age.is_some_and(|age| age <= FULL_READING);
        match (fresh, source.since) {
            (true, Some(since)) => self.recent(session, table, since).await,
            // it was to tell changes, and gave no link to ask for them
            (true, None) => self.full(session, table, None, false).await,
            (false, _) => self.full(session, table, None, table.change_tracking).await,
        }
    }

    /// All rows, from the beginning or where an earlier reading was interrupted.
    async fn full(
        &self,
        session: &Session,
        table: &EmailTable,
        resume: Option<String>,
        tracked: bool,
    ) -> Result<()> {
        let name = &table.logical_name;
        let doing = format!("reading the addresses of the table {name}");
        let mut prefer = vec![RECORDS, ANNOTATIONS];
        if tracked {
            prefer.push(TRACK);
        }
        let path = match resume {
            Some(link) => link,
            None => {
                let since = if tracked { None } else { Some(self.newest(session, table, &doing).await?) };
                self.begin_full(name, since).await?;
                format!("{}?$select={}", table.entity_set, table.select())
            }
        };
        let mut pages = session.pages(path, &prefer, &doing);
        let mut page = pages.next().await?;
        while let Some(Page { rows, next_link, delta_link }) = page {
            let (records, _) = parse_records(table, &rows);
            drop(rows);
            let last = next_link.is_none();
            // the server makes the next page while this one is written
            let (written, next) =
                futures_util::future::join(self.apply_full(name, records, next_link), pages.next()).await;
            written?;
            if last {
                self.end_full(name, delta_link).await?;
            }
            page = next?;
        }
        Ok(())
    }

    /// When the table was modified last, by the clock of the organization, which may be another than ours.
    async fn newest(&self, session: &Session, table: &EmailTable, doing: &str) -> Result<Timestamp> {
        let path = format!("{}?$select=modifiedon&$orderby=modifiedon%20desc&$top=1", table.entity_set);
        let rows = session.pages(path, &[], doing).all(1).await?;
        Ok(rows.first().and_then(|row| time(row, "modifiedon")).unwrap_or(Timestamp::UNIX_EPOCH))
    }

    async fn changes(&self, session: &Session, table: &EmailTable, link: String) -> Result<()> {
        let name = &table.logical_name;
        let doing = format!("asking for changes of the table {name}");
        let mut pages = session.pages(link, &[RECORDS, ANNOTATIONS, TRACK], &doing);
        while let Some(page) = pages.next().await? {
            let (records, deleted) = parse_records(table, &page.rows);
            if !records.is_empty() || !deleted.is_empty() || page.delta_link.is_some() {
                self.apply_changes(name, records, deleted, page.delta_link, None).await?;
            }
        }
        Ok(())
    }

    /// What was modified lately, where a table tells no changes, with a margin.
    async fn recent(&self, session: &Session, table: &EmailTable, mut since: Timestamp) -> Result<()> {
        let path = format!(
            "{}?$select={},modifiedon&$filter=modifiedon%20ge%20{}&$orderby=modifiedon%20asc",
            table.entity_set,
            table.select(),
            literal::time(since.saturating_sub(OVERLAP).unwrap_or(since))
        );
        let doing = format!("asking for changes of the table {}", table.logical_name);
        let mut pages = session.pages(path, &[RECORDS, ANNOTATIONS], &doing);
        while let Some(page) = pages.next().await? {
            let (records, _) = parse_records(table, &page.rows);
            if !records.is_empty() {
                since =
                    page.rows.iter().filter_map(|row| time(row, "modifiedon")).fold(since, Timestamp::max);
                self.apply_changes(&table.logical_name, records, Vec::new(), None, Some(since)).await?;
            }
        }
        Ok(())
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
            let (mut emails, mut theirs) = (Vec::with_capacity(page.rows.len()), Vec::new());
            for row in &page.rows {
                seen = seen.max(time(row, "modifiedon"));
                if let Some(note) = note_column
                    .as_deref()
                    .and_then(|column| row.get(column)?.as_str())
                    .and_then(Note::from_json)
                    && let Some(id) = id(row, "activityid")
                {
                    theirs.push((ActivityId::from_uuid(id), note));
                }
                emails.extend(parse_email(row, hashed.then_some(&hasher)));
            }
            // only a reading that came to its end may skip what it has read: pages are in the order of changes, so each is one
            self.apply_email_page(emails, theirs, seen).await?;
        }
        if seen.is_none() {
            // an organization without e-mails
            self.apply_emails(Vec::new(), Some(oldest)).await?;
        }
        self.end_emails().await?;
        self.prune(oldest).await
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
