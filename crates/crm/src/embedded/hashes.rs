//! What correlation knows of an e-mail beside its own columns: the conversation id, and the hashes of smart matching in an inverted index.
//!
//! A look-up walks, for each address of the new message, at most [`MOST_POSTINGS`] entries of the index, newest first: for equal subjects
//! those of that address *and* that subject, else those of that address. An e-mail that has enough addresses in common stands in
//! the list of at least one of the rarest of them, so only those lists are looked at: a customer's, not the one of support@. So the cost
//! does not depend on how many e-mails share one subject or one address. Where even the rarest lists are longer than that, only
//! their newest entries are compared.

use email_router_model::{ActivityId, EmailAddress, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::error::DbResult;
use super::sql::{Id, Time, activity};
use super::{lookup, settings};
use crate::smart::SmartHasher;
use crate::{EmailSummary, OrganizationSettings, Party, SmartHashes, SmartQuery};

/// At most so many entries of the index are looked at for one address.
pub(super) const MOST_POSTINGS: usize = 500;

/// E-mails of an older file that get their hashes in one transaction.
const BACKLOG_BATCH: usize = 1000;

/// Entries for an address and all words of a subject, newest first.
pub(super) const SAME_SUBJECT: &str = "SELECT createdon, correlationid FROM emailhash \
     WHERE addresshash = ?1 AND subjecthash = ?2 AND createdon >= ?3 ORDER BY createdon DESC, correlationid DESC LIMIT ?4";
/// Entries for an address, whatever the subject, newest first.
pub(super) const ANY_SUBJECT: &str = "SELECT createdon, correlationid FROM emailhash INDEXED BY emailhash_newest \
     WHERE addresshash = ?1 AND createdon >= ?3 ORDER BY createdon DESC LIMIT ?4";

/// Keeps the conversation id and the hashes of a new e-mail. Nothing is written where there are none.
pub(super) fn insert(
    conn: &Connection,
    id: ActivityId,
    created_on: Timestamp,
    conversation_id: Option<&str>,
    smart: &SmartHashes,
) -> DbResult<()> {
    if conversation_id.is_none() && smart.words.is_empty() && smart.addresses.is_empty() {
        return Ok(());
    }
    conn.prepare_cached(
        "INSERT INTO emailcorrelation (activityid, createdon, conversationid, words, addresses) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        Id::from(id),
        Time(created_on),
        conversation_id,
        blob(&smart.words),
        blob(&smart.addresses)
    ])?;
    if smart.words.is_empty() {
        return Ok(()); // a subject without words matches nothing
    }
    let (row, subject) = (conn.last_insert_rowid(), subject_hash(&smart.words));
    let mut statement = conn.prepare_cached(
        "INSERT INTO emailhash (addresshash, subjecthash, createdon, correlationid) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for address in &smart.addresses {
        statement.execute(params![address, subject, Time(created_on), row])?;
    }
    Ok(())
}

/// Makes the hashes of an e-mail anew, where they are not right already.
pub(super) fn replace(
    conn: &Connection,
    settings: &OrganizationSettings,
    (id, created_on): (ActivityId, Timestamp),
    subject: &str,
    parties: &[Party],
) -> DbResult<()> {
    let smart = of(settings, subject, parties.iter().filter_map(|p| p.address.as_ref()));
    let there: Option<(Option<String>, Vec<u8>, Vec<u8>)> = conn
        .prepare_cached(
            "SELECT conversationid, words, addresses FROM emailcorrelation WHERE activityid = ?1",
        )?
        .query_row([Id::from(id)], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .optional()?;
    let conversation = match there {
        Some((_, words, addresses)) if words == blob(&smart.words) && addresses == blob(&smart.addresses) => {
            return Ok(());
        }
        Some((conversation, ..)) => {
            conn.prepare_cached("DELETE FROM emailcorrelation WHERE activityid = ?1")?
                .execute([Id::from(id)])?;
            conversation
        }
        None => None,
    };
    insert(conn, id, created_on, conversation.as_deref(), &smart)
}

/// The hashes of an e-mail; none when the organization wants none.
pub(super) fn of<'a>(
    settings: &OrganizationSettings,
    subject: &str,
    addresses: impl IntoIterator<Item = &'a EmailAddress>,
) -> SmartHashes {
    if settings.disable_smart_matching_email_hash_creation {
        return SmartHashes::default();
    }
    SmartHasher::new(settings).hashes(subject, addresses)
}

/// E-mails that smart matching may take, newest first, at most `limit`; parties are not filled in. With each its row.
pub(super) fn find(
    conn: &Connection,
    query: &SmartQuery,
    limit: usize,
) -> DbResult<Vec<(i64, EmailSummary)>> {
    let hashes = &query.hashes;
    let needed = query.min_addresses.max(1) as usize;
    if hashes.words.is_empty() || hashes.addresses.len() < needed {
        return Ok(Vec::new());
    }
    let mut statement = conn.prepare_cached(if query.delta == 0 { SAME_SUBJECT } else { ANY_SUBJECT })?;
    let (subject, most) = (subject_hash(&hashes.words), i64::try_from(MOST_POSTINGS).unwrap_or(i64::MAX));
    let mut lists: Vec<Vec<(i64, i64)>> = Vec::with_capacity(hashes.addresses.len());
    for address in &hashes.addresses {
        let rows = statement.query_map(params![address, subject, Time(query.not_before), most], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })?;
        lists.push(rows.collect::<Result<_, _>>()?);
    }
    // who has `needed` of the addresses has at least one of all but `needed - 1` of them, whichever those are: the rarest will do
    lists.sort_by_key(Vec::len);
    lists.truncate(hashes.addresses.len() + 1 - needed);
    let mut candidates = lists.concat();
    candidates.sort_unstable_by(|a, b| b.cmp(a));
    candidates.dedup();
    let mut statement = conn.prepare_cached(&lookup::posting_sql())?;
    let mut found = Vec::new();
    for (_, row) in candidates {
        if found.len() == limit {
            break;
        }
        let email = statement.query_row([row], lookup::summary).optional()?;
        found.extend(email.filter(|(_, email)| query.matches(email)));
    }
    Ok(found)
}

/// Makes the hashes of the next e-mails of an older file, newest first, in one transaction; `false` when none is left. Only those get hashes that
/// smart matching still looks at.
pub(super) fn catch_up(conn: &mut Connection, now: Timestamp) -> DbResult<bool> {
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let before: Option<i64> =
        tx.query_row("SELECT beforerow FROM hashbacklog", [], |r| r.get(0)).optional()?;
    let Some(before) = before else { return Ok(false) };
    let settings = settings::read(&tx)?;
    let rows: Vec<(i64, ActivityId, Timestamp, String)> = tx
        .prepare("SELECT rowid, activityid, createdon, subject FROM email WHERE rowid < ?1 ORDER BY rowid DESC LIMIT ?2")?
        .query_map(params![before, i64::try_from(BACKLOG_BATCH).unwrap_or(i64::MAX)], |r| {
            Ok((r.get(0)?, activity(r.get(1)?), r.get::<_, Time>(2)?.0, r.get(3)?))
        })?
        .collect::<Result<_, _>>()?;
    let window = std::time::Duration::from_secs(86_400 * u64::from(settings.smart_matching_window_days));
    let oldest = now.checked_sub(window).unwrap_or(Timestamp::MIN);
    for (_, id, created_on, subject) in rows.iter().filter(|(_, _, created, _)| *created >= oldest) {
        let mut parties = lookup::parties(&tx, *id)?;
        for party in parties.iter_mut().filter(|p| p.address.is_none()) {
            if let Some(record) = &party.record {
                party.address = lookup::primary_address(&tx, record)?;
            }
        }
        replace(&tx, &settings, (*id, *created_on), subject, &parties)?;
    }
    match rows.last() {
        Some((last, ..)) => tx.execute("UPDATE hashbacklog SET beforerow = ?1", [last])?,
        None => tx.execute("DELETE FROM hashbacklog", [])?,
    };
    tx.commit()?;
    Ok(!rows.is_empty())
}

/// One number for all words of a subject, which come sorted. Two subjects may have the same one; the words themselves decide.
fn subject_hash(words: &[i64]) -> i64 {
    let mixed = words.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |hash, word| {
        (hash ^ word.cast_unsigned()).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29)
    });
    mixed.cast_signed()
}

fn blob(hashes: &[i64]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.to_be_bytes()).collect()
}

/// The hashes in a column; what is no whole number of hashes reads as far as it goes.
pub(super) fn from_blob(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks::<8>().0.iter().map(|chunk| i64::from_be_bytes(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_come_back_from_their_column() {
        for hashes in [vec![], vec![i64::MIN, -1, 0, 1, i64::MAX]] {
            assert_eq!(from_blob(&blob(&hashes)), hashes);
        }
        assert_eq!(from_blob(&[0, 0, 0, 0, 0, 0, 0, 5, 9]), [5]);
        assert_ne!(subject_hash(&[1, 2]), subject_hash(&[1]));
        assert_ne!(subject_hash(&[1, 2]), subject_hash(&[3]));
    }
}
