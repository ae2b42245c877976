//! Administration of the embedded CRM: what `email-router crm` does, for programs.
//!
//! Every answer can be serialized. Names of tables, columns and settings are Dataverse's, in any letter case.

mod columns;
mod compose;
mod emails;
mod history;
mod import;
mod records;

use std::io::Read;
use std::sync::Arc;

use email_router_model::{ActivityId, CapError, EmailAddress, RecordRef, read_capped};
use uuid::Uuid;

use super::sql::random_id;
use super::writer::Done;
use super::{EmbeddedCrm, settings, tables, unresolved};
use crate::Setting;
use crate::{Attachment, Error, ErrorKind, OrganizationSettings, Result};

pub use self::columns::{ColumnInfo, ColumnKind, TableInfo};
pub use self::compose::{CreatedEmail, NewEmail, Recipient};
pub use self::emails::{
    AttachmentInfo, Decision, EmailDetails, EmailFilter, EmailRow, QueueItem, ResolvedParties, Statistics,
};
pub use self::import::{ImportOptions, ImportProgress, ImportReport};
pub use self::records::{Fields, Record, RecordFilter};

/// Everything a person does with the embedded CRM. Errors: [`ErrorKind::NotFound`] for a table, column, record or e-mail that is
/// not there (the hint lists what is), [`ErrorKind::Invalid`] for a value that breaks a rule, others as any access to the file.
#[derive(Debug, Clone)]
pub struct Admin(EmbeddedCrm);

impl EmbeddedCrm {
    /// Administration.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin(self.clone())
    }
}

/// Fields from pairs of column name and text.
pub fn fields<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Fields {
    pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect()
}

#[allow(clippy::missing_errors_doc)] // said once, at the type
impl Admin {
    /// All tables with their columns.
    pub async fn tables(&self) -> Result<Vec<TableInfo>> {
        self.0.read(columns::all).await
    }

    /// One table with its columns.
    pub async fn table(&self, table: &str) -> Result<TableInfo> {
        let table = table.to_owned();
        self.0.read(move |conn| columns::table(conn, &table)).await
    }

    /// Makes a custom e-mail-enabled table: a publisher's prefix, `_`, and a name, such as `new_vendor`. It has the columns
    /// `<prefix>_name`, `emailaddress`, `ownerid` and `statecode`. Nothing happens when it is there.
    pub async fn create_table(&self, table: &str) -> Result<TableInfo> {
        let table = table.to_owned();
        if !tables::is_custom_name(&table) {
            return Err(Error::new(ErrorKind::Invalid, format!("{table:?} cannot be the name of a table")).with_hint(
                "take a prefix of 2 to 8 lower-case letters or digits, an underscore and a name of such characters, as in new_supplier",
            ));
        }
        self.0
            .write(move |conn| {
                tables::create_custom(conn, &table)?;
                columns::table(conn, &table)
            })
            .await
    }

    /// Records of a table, by name.
    pub async fn list(&self, table: &str, filter: &RecordFilter) -> Result<Vec<Record>> {
        let (table, filter) = (table.to_owned(), filter.clone());
        self.0.read(move |conn| records::list(conn, &table, &filter)).await
    }

    /// The record with this id, or the only one of the table with this address.
    pub async fn show(&self, table: &str, key: &str) -> Result<Record> {
        let (table, key) = (table.to_owned(), key.to_owned());
        self.0.read(move |conn| records::find(conn, &table, &key)).await
    }

    /// Adds a record.
    pub async fn add(&self, table: &str, fields: &Fields) -> Result<Record> {
        self.add_with_id(table, random_id(&*self.0.entropy), fields).await
    }

    /// Adds a record under an id that the caller chose.
    pub async fn add_with_id(&self, table: &str, id: Uuid, fields: &Fields) -> Result<Record> {
        let (table, fields, now) = (table.to_owned(), fields.clone(), self.0.clock.now());
        self.0
            .write(move |conn| {
                let info = columns::table(conn, &table)?;
                if records::by_id(conn, &info, id)?.is_some() {
                    return Err(
                        Error::new(ErrorKind::Invalid, format!("{table} {id} is there already")).into()
                    );
                }
                records::add(conn, &info, id, &fields, now)?;
                records::find(conn, &table, &id.to_string())
            })
            .await
    }

    /// Changes columns of the record with this id or address.
    pub async fn update(&self, table: &str, key: &str, fields: &Fields) -> Result<Record> {
        let (table, key, fields, now) =
            (table.to_owned(), key.to_owned(), fields.clone(), self.0.clock.now());
        self.0
            .write(move |conn| {
                let record = records::find(conn, &table, &key)?;
                records::update(conn, &columns::table(conn, &table)?, record.id, &fields, now)?;
                records::find(conn, &table, &record.id.to_string())
            })
            .await
    }

    /// Deletes the record with this id or address. A user or queue that e-mails need is refused; disable it instead.
    pub async fn delete(&self, table: &str, key: &str) -> Result<Record> {
        let (table, key) = (table.to_owned(), key.to_owned());
        self.0
            .write(move |conn| {
                let record = records::find(conn, &table, &key)?;
                records::delete(conn, &columns::table(conn, &table)?, record.id)?;
                Ok(record)
            })
            .await
    }

    /// Imports a CSV file of at most 256 MiB: UTF-8 with or without byte order mark, a header row with column names, `,`, `;` or tab
    /// between the fields. All rows are written or none. `file` names it in errors, which tell line and column.
    pub async fn import_csv(
        &self,
        table: &str,
        source: impl Read,
        file: &str,
        options: ImportOptions,
        progress: impl FnMut(ImportProgress) + Send + 'static,
    ) -> Result<ImportReport> {
        let bytes = read_capped(source, import::MAX_FILE, file).map_err(|e| {
            let kind = match &e {
                CapError::TooLarge { .. } => ErrorKind::Invalid,
                _ => ErrorKind::Storage,
            };
            Error::new(kind, e.to_string())
                .with_hint("split the file, or check that it can be read")
                .with_source(e)
        })?;
        let (table, file) = (table.to_owned(), file.to_owned());
        let (entropy, now) = (Arc::clone(&self.0.entropy), self.0.clock.now());
        self.0
            .writer
            .write(bytes.len(), move |conn| {
                let at = (&*entropy, now);
                let report = import::import(conn, &table, (&bytes, &file), options, at, progress)?;
                Ok(if options.dry_run { Done::Rollback(report) } else { Done::Commit(report) })
            })
            .await
    }

    /// Imports outgoing e-mails from a CSV file of at most 256 MiB: those another system sent (`statuscode` 3), so that answers to them are
    /// recognised, and those that wait (6). An e-mail whose `activityid` is there already stays as it is, so the same file can be imported
    /// again. All rows are written or none.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with file, line and column of the first mistake.
    pub async fn import_emails_csv(
        &self,
        source: impl Read,
        file: &str,
        dry_run: bool,
    ) -> Result<ImportReport> {
        let bytes = read_capped(source, import::MAX_FILE, file).map_err(|e| {
            Error::new(ErrorKind::Invalid, e.to_string())
                .with_hint("split the file, or check that it can be read")
        })?;
        let (file, now) = (file.to_owned(), self.0.clock.now());
        self.0
            .writer
            .write(bytes.len(), move |conn| {
                let report = history::import(conn, (&bytes, &file), dry_run, now)?;
                Ok(if dry_run { Done::Rollback(report) } else { Done::Commit(report) })
            })
            .await
    }

    /// Every setting of the organization with its default.
    pub async fn settings(&self) -> Result<Vec<Setting>> {
        self.0.read(settings::list).await
    }

    /// One setting of the organization.
    pub async fn setting(&self, name: &str) -> Result<Setting> {
        let name = name.to_owned();
        self.0.read(move |conn| settings::get(conn, &name)).await
    }

    /// Sets one setting from text; a list takes `;` between its items. Replacing `trackingprefix` puts the old one into
    /// `trackingprefixhistory`, so that tokens in old subjects are still found.
    pub async fn set_setting(&self, name: &str, value: &str) -> Result<Setting> {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.0.write(move |conn| settings::set(conn, &name, &value)).await
    }

    /// Replaces all settings.
    pub async fn replace_settings(&self, new: &OrganizationSettings) -> Result<()> {
        let new = new.clone();
        self.0.write(move |conn| settings::write(conn, &new)).await
    }

    /// E-mails, newest first.
    pub async fn emails(&self, filter: &EmailFilter) -> Result<Vec<EmailRow>> {
        let filter = filter.clone();
        self.0.read(move |conn| emails::list(conn, &filter)).await
    }

    /// Everything about an e-mail, its body included.
    pub async fn email(&self, id: ActivityId) -> Result<EmailDetails> {
        self.0.read(move |conn| emails::show(conn, id)).await
    }

    /// One attachment of an e-mail with its content; counted from 1.
    pub async fn attachment(&self, id: ActivityId, number: u32) -> Result<Attachment> {
        self.0.read(move |conn| emails::attachment(conn, id, number)).await
    }

    /// Makes an e-mail that waits in Pending Send for the router.
    pub async fn create_outgoing(&self, new: &NewEmail) -> Result<CreatedEmail> {
        let id = ActivityId::from_uuid(random_id(&*self.0.entropy));
        let (new, now) = (new.clone(), self.0.clock.now());
        let bytes = new.body.len() + new.attachments.iter().map(|a| a.content.len()).sum::<usize>();
        self.0.writer.write(bytes, move |conn| compose::create(conn, id, &new, now).map(Done::Commit)).await
    }

    /// E-mails of which nobody knows whether they were sent, oldest first.
    pub async fn in_doubt(&self) -> Result<Vec<EmailRow>> {
        self.0.read(emails::in_doubt).await
    }

    /// Settles an e-mail in doubt.
    pub async fn decide(&self, id: ActivityId, decision: Decision) -> Result<()> {
        let now = self.0.clock.now();
        self.0.write(move |conn| emails::decide(conn, id, decision, now)).await
    }

    /// Puts a failed e-mail, or with `None` all of them, back to Pending Send with no attempt counted; says how many.
    pub async fn retry_failed(&self, id: Option<ActivityId>) -> Result<u64> {
        let now = self.0.clock.now();
        self.0.write(move |conn| emails::retry_failed(conn, id, now)).await
    }

    /// Takes back an e-mail that was not sent yet: status Canceled.
    pub async fn cancel(&self, id: ActivityId) -> Result<()> {
        let now = self.0.clock.now();
        self.0.write(move |conn| emails::cancel(conn, id, now)).await
    }

    /// Deletes an e-mail with its parties, attachments and queue items. The router will not bring it back.
    pub async fn delete_email(&self, id: ActivityId) -> Result<()> {
        let now = self.0.clock.now();
        self.0.write(move |conn| emails::delete(conn, id, now)).await
    }

    /// Makes `record` the party of an e-mail wherever `address` stands in it unresolved; with `resolvesimilarunresolvedemailaddress` of all other
    /// e-mails too, 500 parties in a transaction (there, letter case counts for letters outside ASCII). The record need not have the
    /// address. Fails when the e-mail has no such party; repeating a call that was interrupted ends what is left.
    pub async fn resolve_party(
        &self,
        id: ActivityId,
        address: &EmailAddress,
        record: &RecordRef,
    ) -> Result<ResolvedParties> {
        let (wanted, to) = (address.clone(), record.clone());
        let (here, similar) = self
            .0
            .write(move |conn| {
                let here = unresolved::resolve(conn, id, &wanted, &to)?;
                let similar = settings::is_on(conn, settings::RESOLVE_SIMILAR)?;
                if here == 0 && !(similar && unresolved::is_party(conn, id, &wanted, &to)?) {
                    return Err(unresolved::no_such_party(conn, id, &wanted)?.into());
                }
                Ok((here, similar))
            })
            .await?;
        let elsewhere = if similar { self.0.resolve_similar(address, record).await? } else { 0 };
        Ok(ResolvedParties { here, elsewhere })
    }

    /// Active items of a queue, oldest first.
    pub async fn queue_items(&self, queue: Uuid, limit: usize) -> Result<Vec<QueueItem>> {
        self.0.read(move |conn| emails::queue_items(conn, queue, limit)).await
    }

    /// Marks a queue item as done.
    pub async fn close_queue_item(&self, id: Uuid) -> Result<()> {
        self.0.write(move |conn| emails::close_queue_item(conn, id)).await
    }

    /// Counts; walks through the tables.
    pub async fn statistics(&self) -> Result<Statistics> {
        self.0.read(emails::statistics).await
    }

    /// Reads the whole file and checks every page, index and reference; empty when all is well, else what is wrong.
    pub async fn check(&self) -> Result<Vec<String>> {
        self.0
            .read(|conn| {
                let mut found = Vec::new();
                let mut statement = conn.prepare("PRAGMA integrity_check(100)")?;
                for line in statement.query_map([], |r| r.get::<_, String>(0))? {
                    found.push(line?);
                }
                found.retain(|line| line != "ok");
                let mut statement = conn.prepare("PRAGMA foreign_key_check")?;
                for table in statement.query_map([], |r| r.get::<_, String>(0))? {
                    found.push(format!("a row of {} refers to one that is not there", table?));
                }
                Ok(found)
            })
            .await
    }
}
