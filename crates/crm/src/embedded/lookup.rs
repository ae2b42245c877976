//! Reading: mailboxes, addresses, e-mails.

use email_router_model::{ActivityId, EmailAddress, MailboxKind, RecordRef};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::error::DbResult;
use super::hashes;
use super::sql::{Id, Time, activity, address, message_id, reference};
use super::tables::{self, TableShape};
use crate::{
    Approval, CrmMailbox, DeliveryMethod, EmailLookup, EmailSummary, FilteringMethod, ParticipationType,
    Party, Resolution, SmartHashes,
};

/// "More than 100 is too many to choose" (`crm-contract.md` 9.1); one more tells that there are more.
const MAX_RESOLUTIONS: usize = 101;

/// Records with an address.
pub(super) const RESOLVE: &str = "SELECT DISTINCT parentobjectid, objecttypecode FROM emailsearch WHERE emailaddress = ?1 ORDER BY parentobjectid";

/// Parties of an e-mail.
pub(super) const PARTIES: &str = "SELECT participationtypemask, partyid, partyobjecttypecode, addressused, coalesce(unresolvedpartyname, partyidname)
         FROM activityparty WHERE activityid = ?1 ORDER BY ordinal";

/// Whether an e-mail is or was there.
pub(super) const EXISTS: &str = "SELECT EXISTS (SELECT 1 FROM email WHERE activityid = ?1) OR EXISTS (SELECT 1 FROM deletedemail WHERE activityid = ?1)";

pub(super) fn mailboxes(conn: &Connection) -> DbResult<Vec<CrmMailbox>> {
    let mut all = Vec::new();
    for (sql, kind) in [
        (
            "SELECT u.systemuserid, 'systemuser', u.fullname, u.internalemailaddress, u.incomingemaildeliverymethod,
                    u.outgoingemaildeliverymethod, u.emailrouteraccessapproval, coalesce(s.incomingemailfilteringmethod, 1),
                    u.systemuserid, 'systemuser', u.isdisabled, u.queueid
             FROM systemuser u LEFT JOIN usersettings s ON s.systemuserid = u.systemuserid ORDER BY u.fullname, u.systemuserid",
            MailboxKind::User,
        ),
        (
            "SELECT queueid, 'queue', name, emailaddress, incomingemaildeliverymethod, outgoingemaildeliverymethod,
                    emailrouteraccessapproval, incomingemailfilteringmethod, ownerid, owneridtype, statecode <> 0, NULL
             FROM queue ORDER BY name, queueid",
            MailboxKind::Queue,
        ),
        (
            // a forward mailbox sends nothing and filters nothing: each message inside meets the filter of its own recipients
            "SELECT mailboxid, 'mailbox', name, emailaddress, incomingemaildeliverymethod, 0, emailrouteraccessapproval, 0,
                    NULL, NULL, statecode <> 0, NULL
             FROM mailbox ORDER BY name, mailboxid",
            MailboxKind::Forward,
        ),
    ] {
        let mut statement = conn.prepare_cached(sql)?;
        let rows = statement.query_map([], |r| {
            Ok(CrmMailbox {
                record: RecordRef::new(r.get::<_, String>(1)?, r.get::<_, Id>(0)?.0),
                kind,
                name: r.get(2)?,
                address: address(r, 3)?,
                incoming: DeliveryMethod::from_code(r.get(4)?).unwrap_or_default(),
                outgoing: DeliveryMethod::from_code(r.get(5)?).unwrap_or_default(),
                approval: Approval::from_code(r.get(6)?).unwrap_or_default(),
                filter: FilteringMethod::from_code(r.get(7)?).unwrap_or_default(),
                owner: reference(r, 8)?,
                default_queue: r.get::<_, Option<Id>>(11)?.map(|id| RecordRef::new("queue", id.0)),
                disabled: r.get(10)?,
                server_side_sync: Default::default(),
            })
        })?;
        for row in rows {
            all.push(row?);
        }
    }
    Ok(all)
}

/// All records with this address, oldest first, at most 101. A disabled user never counts (`crm-contract.md` 9.1).
pub(super) fn resolve(conn: &Connection, wanted: &EmailAddress) -> DbResult<Vec<Resolution>> {
    let mut found = Vec::new();
    // a record that has the address in two columns is one record; ids are unique over all tables
    let mut statement = conn.prepare_cached(RESOLVE)?;
    let mut rows = statement.query([wanted.key()])?;
    while let Some(row) = rows.next()? {
        let record = RecordRef::new(row.get::<_, String>(1)?, row.get::<_, Id>(0)?.0);
        if let Some(resolution) = resolution(conn, record)?
            && (resolution.active || resolution.record.table != "systemuser")
        {
            found.push(resolution);
            if found.len() == MAX_RESOLUTIONS {
                break;
            }
        }
    }
    found.sort_by(|a, b| (a.created_on, &a.record).cmp(&(b.created_on, &b.record)));
    Ok(found)
}

/// A record of an e-mail-enabled table, as an address look-up gives it.
pub(super) fn resolution(conn: &Connection, record: RecordRef) -> DbResult<Option<Resolution>> {
    let Some(TableShape { table, id, name, active, owner, .. }) = tables::shape(conn, &record.table)? else {
        return Ok(None);
    };
    let sql = format!("SELECT {name}, {owner}, {active}, createdon FROM {table} WHERE {id} = ?1");
    let key = Id(record.id);
    Ok(conn
        .prepare_cached(&sql)?
        .query_row([key], |r| {
            Ok(Resolution {
                name: r.get(0)?,
                owner: reference(r, 1)?,
                active: r.get(3)?,
                created_on: r.get::<_, Time>(4)?.0,
                record,
            })
        })
        .optional()?)
}

/// The primary address of a record; `None` when it has none or is gone.
pub(super) fn primary_address(conn: &Connection, record: &RecordRef) -> DbResult<Option<EmailAddress>> {
    let Some(TableShape { table, id, addresses, .. }) = tables::shape(conn, &record.table)? else {
        return Ok(None);
    };
    let Some(column) = addresses.first() else { return Ok(None) };
    let sql = format!("SELECT {column} FROM {table} WHERE {id} = ?1");
    let found = conn.prepare_cached(&sql)?.query_row([Id(record.id)], |r| address(r, 0)).optional()?;
    Ok(found.flatten())
}

const SUMMARY: &str = "SELECT e.activityid, e.directioncode, e.messageid, e.subject, e.trackingtoken, e.regardingobjectid, \
     e.regardingobjecttypecode, e.ownerid, e.owneridtype, e.createdon, e.conversationindex, c.conversationid, c.words, \
     c.addresses, e.rowid";

/// What each look-up by a column of the e-mail runs; the tests ask SQLite how it would.
pub(super) fn lookup_sql(by: &str) -> String {
    format!(
        "{SUMMARY} FROM email e LEFT JOIN emailcorrelation c ON c.activityid = e.activityid WHERE {by} = ?1
         ORDER BY e.createdon DESC, e.rowid DESC LIMIT ?2"
    )
}

/// By a Message-ID.
pub(super) const BY_MESSAGE_ID: &str = "e.messageid";
/// By a token in lower case.
pub(super) const BY_TOKEN: &str = "e.trackingtokenkey";
/// By the id.
pub(super) const BY_ID: &str = "e.activityid";
/// By the first 22 bytes of the conversation index.
pub(super) const BY_CONVERSATION_ROOT: &str =
    "e.conversationindex IS NOT NULL AND substr(e.conversationindex, 1, 44)";

/// By the conversation id.
pub(super) fn conversation_sql() -> String {
    format!(
        "{SUMMARY} FROM emailcorrelation c CROSS JOIN email e ON e.activityid = c.activityid WHERE c.conversationid = ?1
         ORDER BY c.createdon DESC, c.correlationid DESC LIMIT ?2"
    )
}

/// The e-mail that a row of the inverted index names.
pub(super) fn posting_sql() -> String {
    format!(
        "{SUMMARY} FROM emailcorrelation c CROSS JOIN email e ON e.activityid = c.activityid WHERE c.correlationid = ?1"
    )
}

pub(super) fn find_emails(
    conn: &Connection,
    lookup: &EmailLookup,
    limit: usize,
) -> DbResult<Vec<EmailSummary>> {
    let (sql, keys): (_, Vec<String>) = match lookup {
        EmailLookup::MessageIds(ids) => {
            (lookup_sql(BY_MESSAGE_ID), ids.iter().map(|id| id.as_str().to_owned()).collect())
        }
        EmailLookup::TrackingToken(token) => (lookup_sql(BY_TOKEN), vec![token.to_lowercase()]),
        EmailLookup::Ids(ids) => (lookup_sql(BY_ID), ids.iter().map(ToString::to_string).collect()),
        EmailLookup::ConversationRoot(root) if root.len() != EmailLookup::ROOT_DIGITS => {
            return Ok(Vec::new());
        }
        EmailLookup::ConversationRoot(root) => (lookup_sql(BY_CONVERSATION_ROOT), vec![root.clone()]),
        EmailLookup::ConversationId(id) => (conversation_sql(), vec![id.clone()]),
        EmailLookup::Smart(query) => return newest_first(conn, hashes::find(conn, query, limit)?, limit),
    };
    let mut statement = conn.prepare_cached(&sql)?;
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut found = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        if keys[..n].contains(key) {
            continue;
        }
        for row in statement.query_map((key, most), summary)? {
            found.push(row?);
        }
    }
    newest_first(conn, found, limit)
}

/// The newest `limit` of these rows and e-mails, with their parties.
fn newest_first(
    conn: &Connection,
    mut found: Vec<(i64, EmailSummary)>,
    limit: usize,
) -> DbResult<Vec<EmailSummary>> {
    found.sort_by(|(a_row, a), (b_row, b)| (b.created_on, b_row).cmp(&(a.created_on, a_row)));
    found.truncate(limit);
    found
        .into_iter()
        .map(|(_, mut email)| {
            email.parties = parties(conn, email.activity_id)?;
            Ok(email)
        })
        .collect()
}

/// An e-mail and its row; its parties are read apart.
pub(super) fn summary(r: &Row<'_>) -> rusqlite::Result<(i64, EmailSummary)> {
    let hashes = |at| {
        let bytes: Option<Vec<u8>> = r.get(at)?;
        Ok::<_, rusqlite::Error>(hashes::from_blob(&bytes.unwrap_or_default()))
    };
    let email = EmailSummary {
        activity_id: activity(r.get(0)?),
        outgoing: r.get(1)?,
        message_id: message_id(r, 2)?,
        subject: r.get(3)?,
        tracking_token: r.get(4)?,
        regarding: reference(r, 5)?,
        owner: reference(r, 7)?,
        parties: Vec::new(),
        created_on: r.get::<_, Time>(9)?.0,
        conversation_index: r.get(10)?,
        conversation_id: r.get(11)?,
        smart: SmartHashes { words: hashes(12)?, addresses: hashes(13)? },
    };
    Ok((r.get(14)?, email))
}

/// All parties of an e-mail, in their order.
pub(super) fn parties(conn: &Connection, id: ActivityId) -> DbResult<Vec<Party>> {
    let mut statement = conn.prepare_cached(PARTIES)?;
    let rows = statement.query_map([Id::from(id)], |r| {
        Ok(Party {
            participation: ParticipationType::from_code(r.get(0)?).unwrap_or(ParticipationType::Bcc),
            record: reference(r, 1)?,
            address: address(r, 3)?,
            name: r.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Whether an incoming e-mail is there, or was and a person deleted it.
pub(super) fn exists(conn: &Connection, id: ActivityId) -> DbResult<bool> {
    let mut statement = conn.prepare_cached(EXISTS)?;
    Ok(statement.query_row([Id::from(id)], |r| r.get(0))?)
}
