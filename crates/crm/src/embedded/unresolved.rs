//! Parties whose address no record had, and the records that come to have it: created for an unknown sender, or named by a person.

use email_router_model::{ActivityId, EmailAddress, RecordRef, Timestamp};
use rusqlite::{Connection, params};

use super::error::DbResult;
use super::sql::{Id, Time, address, ref_id, ref_table};
use super::{lookup, tables};
use crate::{Error, ErrorKind, NewSender, ParticipationType};

/// Parties resolved in one transaction.
pub(super) const BATCH: usize = 500;

/// The longest name of a record.
const MAX_NAME: usize = 160;

/// The next unresolved parties with an address, in all e-mails; `?1` address, `?2` how many.
pub(super) const UNRESOLVED: &str = "SELECT activityid, ordinal, participationtypemask FROM activityparty \
     WHERE partyid IS NULL AND addressused = ?1 COLLATE NOCASE LIMIT ?2";

/// Creates the contact or lead for an unknown sender; `false` when a record with its id is there.
pub(super) fn create(conn: &Connection, new: &NewSender, now: Timestamp) -> DbResult<bool> {
    let shape = match new.record.table.as_str() {
        "contact" | "lead" => tables::built_in(&new.record.table),
        _ => None,
    };
    let shape = shape.ok_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            format!("{} cannot be created for a sender; it must be a contact or a lead", new.record),
        )
    })?;
    // the display name came from outside
    let name = new.name.replace(char::is_control, " ");
    let name: String = name.trim().chars().take(MAX_NAME).collect();
    let name = if name.is_empty() { new.address.as_str() } else { name.as_str() };
    let (table, id, name_column) = (&shape.table, &shape.id, &shape.name);
    let made = conn
        .prepare_cached(&format!(
            "INSERT INTO {table} ({id}, {name_column}, emailaddress1, ownerid, owneridtype, createdon, modifiedon)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) ON CONFLICT DO NOTHING"
        ))?
        .execute(params![
            Id(new.record.id),
            name,
            new.address.as_str(),
            ref_id(new.owner.as_ref()),
            ref_table(new.owner.as_ref()),
            Time(now)
        ])?;
    if made == 0 {
        return Ok(false);
    }
    conn.prepare_cached(
        "INSERT INTO emailsearch (emailaddress, parentobjectid, objecttypecode, emailcolumnname)
         VALUES (?1, ?2, ?3, 'emailaddress1')",
    )?
    .execute(params![new.address.key(), Id(new.record.id), table])?;
    Ok(true)
}

/// Makes the record the party of this one e-mail wherever the address stands unresolved in it. How many parties.
pub(super) fn resolve(
    conn: &Connection,
    id: ActivityId,
    wanted: &EmailAddress,
    record: &RecordRef,
) -> DbResult<u64> {
    let name = name_of(conn, record)?;
    let there = conn.prepare_cached("SELECT 1 FROM email WHERE activityid = ?1")?.exists([Id::from(id)])?;
    if !there {
        return Err(super::outgoing::not_found(id));
    }
    let mut statement = conn.prepare_cached(
        "SELECT activityid, ordinal, participationtypemask, addressused FROM activityparty WHERE activityid = ?1 AND partyid IS NULL",
    )?;
    let rows = statement.query_map([Id::from(id)], |r| Ok((place(r)?, address(r, 3)?)))?;
    let mut places = Vec::new();
    for row in rows {
        let (place, address) = row?;
        if address.as_ref() == Some(wanted) {
            places.push(place);
        }
    }
    set(conn, &places, record, &name)?;
    Ok(places.len() as u64)
}

/// Whether this record is a party of the e-mail at this address.
pub(super) fn is_party(
    conn: &Connection,
    id: ActivityId,
    wanted: &EmailAddress,
    record: &RecordRef,
) -> DbResult<bool> {
    let parties = lookup::parties(conn, id)?;
    Ok(parties.iter().any(|p| p.record.as_ref() == Some(record) && p.address.as_ref() == Some(wanted)))
}

/// The error that names the unresolved parties an e-mail has.
pub(super) fn no_such_party(conn: &Connection, id: ActivityId, wanted: &EmailAddress) -> DbResult<Error> {
    let parties = lookup::parties(conn, id)?;
    let open: Vec<String> = parties
        .iter()
        .filter(|p| p.record.is_none())
        .filter_map(|p| p.address.as_ref().map(ToString::to_string))
        .take(20)
        .collect();
    let error = Error::new(ErrorKind::NotFound, format!("the e-mail {id} has no unresolved party {wanted}"));
    Ok(error.with_hint(match open.is_empty() {
        true => "it has no unresolved party at all".to_owned(),
        false => format!("its unresolved parties are: {}", open.join(", ")),
    }))
}

/// Makes the record the party of the next [`BATCH`] parties with this address that are unresolved, in any e-mail. How many; 0: none is left.
/// Letter case of ASCII letters does not count.
pub(super) fn resolve_similar(conn: &Connection, wanted: &EmailAddress, record: &RecordRef) -> DbResult<u64> {
    let name = name_of(conn, record)?;
    let mut statement = conn.prepare_cached(UNRESOLVED)?;
    let most = i64::try_from(BATCH).unwrap_or(i64::MAX);
    let places: Vec<Place> =
        statement.query_map(params![wanted.as_str(), most], place)?.collect::<Result<_, _>>()?;
    set(conn, &places, record, &name)?;
    Ok(places.len() as u64)
}

struct Place {
    activity: Id,
    ordinal: i64,
    participation: u8,
}

fn place(r: &rusqlite::Row<'_>) -> rusqlite::Result<Place> {
    Ok(Place { activity: r.get(0)?, ordinal: r.get(1)?, participation: r.get(2)? })
}

fn set(conn: &Connection, places: &[Place], record: &RecordRef, name: &str) -> DbResult<()> {
    // the name that the message gave stays
    let mut party = conn.prepare_cached(
        "UPDATE activityparty SET partyid = ?3, partyobjecttypecode = ?4, partyidname = coalesce(unresolvedpartyname, ?5),
           unresolvedpartyname = NULL WHERE activityid = ?1 AND ordinal = ?2 AND partyid IS NULL",
    )?;
    let mut sender = conn.prepare_cached(
        "UPDATE email SET emailsender = ?2, emailsenderobjecttypecode = ?3, isduplicatesenderunresolved = 0 WHERE activityid = ?1",
    )?;
    for place in places {
        party.execute(params![place.activity, place.ordinal, Id(record.id), record.table, name])?;
        if place.participation == ParticipationType::Sender.code() {
            sender.execute(params![place.activity, Id(record.id), record.table])?;
        }
    }
    Ok(())
}

fn name_of(conn: &Connection, record: &RecordRef) -> DbResult<String> {
    let found = lookup::resolution(conn, record.clone())?.ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!("the record {record} does not exist, or its table has no addresses"),
        )
    })?;
    Ok(found.name)
}
