//! Who the addresses of a message are (`crm-contract.md` 9.1 and 9.2).

use std::collections::HashMap;

use email_router_crm::{OrganizationSettings, ParticipationType, Party, Resolution};
use email_router_model::{EmailAddress, RecordRef};

use crate::message::{Message, Participant};
use crate::record::PartyRecord;

/// More records than this for one address are too many to choose from (`crm-contract.md` 9.1).
const TOO_MANY: usize = 100;

/// The records of every address of a message, from one call to the CRM. Disabled users are not in it: they never resolve
/// (`crm-contract.md` 7.3).
#[derive(Debug, Default)]
pub(super) struct Resolved {
    rows: HashMap<String, Rows>,
}

#[derive(Debug)]
struct Rows {
    /// In the order of preference that does not depend on the message.
    rows: Vec<Resolution>,
    too_many: bool,
    /// The address they were found under, where it is not the one that was asked for.
    under: Option<EmailAddress>,
}

impl Resolved {
    /// Takes the answer of [`email_router_crm::CrmClient::resolve`]; the order of records in it does not matter.
    pub(super) fn new(addresses: &[EmailAddress], answer: Vec<Vec<Resolution>>) -> Self {
        let rows = addresses.iter().zip(answer).map(|(address, mut rows)| {
            let too_many = rows.len() > TOO_MANY;
            rows.retain(|r| r.active || r.record.table != "systemuser");
            rows.sort_by(|a, b| static_rank(a).cmp(&static_rank(b)));
            rows.dedup_by(|a, b| a.record == b.record);
            (address.key(), Rows { rows, too_many, under: None })
        });
        Self { rows: rows.collect() }
    }

    /// Looks again for those of these addresses that no record has: without what stands behind a `+` (`plusaddressing`). What the
    /// shorter ones are must be part of the answer.
    pub(super) fn without_details(&mut self, addresses: &[EmailAddress]) {
        for address in addresses {
            let Some(base) = address.without_detail().filter(|_| self.count(address) == 0) else { continue };
            let Some(found) = self.rows.get(&base.key()).filter(|r| !r.rows.is_empty()) else { continue };
            let (rows, too_many) = (found.rows.clone(), found.too_many);
            self.rows.insert(address.key(), Rows { rows, too_many, under: Some(base) });
        }
    }

    /// How many records have this address; 101 stands for more than 100.
    pub(super) fn count(&self, address: &EmailAddress) -> usize {
        self.rows.get(&address.key()).map_or(0, |r| if r.too_many { TOO_MANY + 1 } else { r.rows.len() })
    }

    /// The address as a person is to read it: with the one its records were found under, where that is another.
    fn shown(&self, address: &EmailAddress) -> String {
        match self.rows.get(&address.key()).and_then(|r| r.under.as_ref()) {
            Some(base) => format!("{address} (as {base})"),
            None => address.to_string(),
        }
    }

    /// All records with this address; nothing when there are too many.
    pub(super) fn of(&self, address: &EmailAddress) -> &[Resolution] {
        match self.rows.get(&address.key()) {
            Some(rows) if !rows.too_many => &rows.rows,
            _ => &[],
        }
    }

    fn too_many(&self, address: &EmailAddress) -> bool {
        self.rows.get(&address.key()).is_some_and(|r| r.too_many)
    }
}

/// SystemUser, Contact, Account, Lead, Equipment, Team, BusinessUnit, then every other e-mail-enabled table.
fn type_rank(table: &str) -> u8 {
    match table {
        "systemuser" => 0,
        "contact" => 1,
        "account" => 2,
        "lead" => 3,
        "equipment" => 4,
        "team" => 5,
        "businessunit" => 6,
        _ => 7,
    }
}

/// Type, then active, then created first; table and id make it total.
fn static_rank(r: &Resolution) -> (u8, bool, email_router_model::Timestamp, &RecordRef) {
    (type_rank(&r.record.table), !r.active, r.created_on, &r.record)
}

/// Who the sender is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sender {
    /// The address it was looked up by: that of From, or what stands in where a person releases a message without one.
    pub(super) address: EmailAddress,
    /// The one record; `None` is unresolved.
    pub(super) record: Option<RecordRef>,
    /// Its owner.
    pub(super) owner: Option<RecordRef>,
    /// Unresolved because several records match and the organization wants that.
    pub(super) is_duplicate_unresolved: bool,
    /// How it was chosen, for the decision record.
    pub(super) how: String,
}

impl Sender {
    /// Whether it is a lead, contact or account.
    pub(super) fn is_customer(&self) -> bool {
        self.record.as_ref().is_some_and(|r| matches!(r.table.as_str(), "lead" | "contact" | "account"))
    }
}

/// The one record that stands for the sender. `owner` is the owner of the mailbox that was read (`crm-contract.md` 9.1).
pub(super) fn sender(
    resolved: &Resolved,
    address: &EmailAddress,
    owner: Option<&RecordRef>,
    settings: &OrganizationSettings,
) -> Sender {
    let unresolved = |how: String| Sender {
        address: address.clone(),
        record: None,
        owner: None,
        is_duplicate_unresolved: false,
        how,
    };
    let chosen = |row: &Resolution, how: String| Sender {
        address: address.clone(),
        record: Some(row.record.clone()),
        owner: row.owner.clone(),
        is_duplicate_unresolved: false,
        how,
    };
    let shown = resolved.shown(address);
    if resolved.too_many(address) {
        return unresolved(format!("more than {TOO_MANY} records have the address {shown}: unresolved"));
    }
    let rows = resolved.of(address);
    match rows {
        [] => return unresolved(format!("no record has the address {shown}: unresolved")),
        // the only one, whatever its state
        [one] => return chosen(one, format!("{shown} is {} {:?}", one.record, one.name)),
        _ => {}
    }
    if settings.unresolve_sender_in_case_of_multiple_match {
        let mut sender = unresolved(format!(
            "{} records have the address {shown}: unresolved (UnresolveSenderInCaseOfMultipleMatch)",
            rows.len()
        ));
        sender.is_duplicate_unresolved = true;
        return sender;
    }
    let candidates: Vec<&Resolution> =
        rows.iter().filter(|r| r.active || settings.resolve_for_inactive_entities).collect();
    let owned = |r: &Resolution| owner.is_some() && r.owner.as_ref() == owner;
    // ownership first; within that the static order of the rows
    let best = candidates.iter().find(|r| owned(r)).or_else(|| candidates.first());
    match best {
        Some(row) => {
            let why = if owned(row) { "owned by the owner of the mailbox" } else { "first by type and age" };
            chosen(
                row,
                format!(
                    "{} records have the address {shown}; {} {:?} chosen: {why}",
                    rows.len(),
                    row.record,
                    row.name
                ),
            )
        }
        None => {
            unresolved(format!("{} records have the address {shown}, all inactive: unresolved", rows.len()))
        }
    }
}

/// All parties with how each was resolved: the sender, then every record of every recipient, whatever its state (`crm-contract.md` 9.2).
/// `from` is the sender's address; `new` the record that is created for it.
pub(super) fn parties(
    message: &Message,
    (from, sender): (&EmailAddress, &Sender),
    resolved: &Resolved,
    new: Option<&RecordRef>,
    settings: &OrganizationSettings,
) -> Vec<(Party, PartyRecord)> {
    let mut parties = Vec::with_capacity(1 + message.to.len() + message.cc.len() + message.bcc.len());
    let record = sender.record.clone().or_else(|| new.cloned());
    let why = match new {
        Some(new) => format!("{}, so {new} is created", sender.how),
        None => sender.how.clone(),
    };
    // an e-mail has one sender also where the message names none, as when a person releases it
    let nobody = Participant { name: None, address: Some(from.clone()), raw: from.to_string() };
    parties.push(party(
        ParticipationType::Sender,
        message.from.as_ref().filter(|p| p.address.as_ref() == Some(from)).unwrap_or(&nobody),
        record,
        why,
    ));
    for (participation, list) in [
        (ParticipationType::To, &message.to),
        (ParticipationType::Cc, &message.cc),
        (ParticipationType::Bcc, &message.bcc),
    ] {
        let mut seen = std::collections::HashSet::new();
        for participant in list {
            for (record, why) in records(participant, from, resolved, new, settings) {
                let key = (participant.address.as_ref().map(EmailAddress::key), record.clone());
                if (key.0.is_some() || participant.name.is_some()) && (key.0.is_none() || seen.insert(key)) {
                    parties.push(party(participation, participant, record, why));
                }
            }
        }
    }
    parties
}

/// The records a recipient stands for, or none, and why.
fn records(
    participant: &Participant,
    from: &EmailAddress,
    resolved: &Resolved,
    new: Option<&RecordRef>,
    settings: &OrganizationSettings,
) -> Vec<(Option<RecordRef>, String)> {
    let Some(address) = &participant.address else {
        return vec![(None, format!("{:?} is no address: unresolved", participant.raw))];
    };
    let shown = resolved.shown(address);
    match resolved.of(address) {
        [] if resolved.too_many(address) => {
            vec![(None, format!("more than {TOO_MANY} records have the address {shown}: unresolved"))]
        }
        [] => match new.filter(|_| address == from) {
            Some(new) => {
                vec![(Some(new.clone()), format!("{shown} is the sender, for whom {new} is created"))]
            }
            None => vec![(None, format!("no record has the address {shown}: unresolved"))],
        },
        [one] => vec![(Some(one.record.clone()), format!("{shown} is {} {:?}", one.record, one.name))],
        several if settings.unresolve_email_address_if_multiple_match => vec![(
            None,
            format!(
                "{} records have the address {shown}: unresolved (unresolveemailaddressifmultiplematch)",
                several.len()
            ),
        )],
        several => {
            let why =
                |r: &Resolution| format!("{shown} is {} {:?}, one of {}", r.record, r.name, several.len());
            several.iter().map(|r| (Some(r.record.clone()), why(r))).collect()
        }
    }
}

fn party(
    participation: ParticipationType,
    from: &Participant,
    record: Option<RecordRef>,
    why: String,
) -> (Party, PartyRecord) {
    let noted = PartyRecord {
        field: participation,
        address: from.address.as_ref().map_or_else(|| from.raw.clone(), ToString::to_string),
        record: record.clone(),
        why,
    };
    (Party { participation, record, address: from.address.clone(), name: from.name.clone() }, noted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use email_router_model::Timestamp;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn row(table: &str, id: u128, owner: Option<u128>, active: bool, created: i64) -> Resolution {
        Resolution {
            record: RecordRef::new(table, Uuid::from_u128(id)),
            name: format!("{table} {id}"),
            owner: owner.map(|o| RecordRef::new("systemuser", Uuid::from_u128(o))),
            active,
            created_on: Timestamp::from_second(created).unwrap(),
        }
    }
    fn address() -> EmailAddress {
        "x@example.com".parse().unwrap()
    }
    fn choose(rows: Vec<Resolution>, owner: Option<u128>, settings: &OrganizationSettings) -> Sender {
        let owner = owner.map(|o| RecordRef::new("systemuser", Uuid::from_u128(o)));
        sender(&Resolved::new(&[address()], vec![rows]), &address(), owner.as_ref(), settings)
    }
    fn id(sender: &Sender) -> Option<u128> {
        sender.record.as_ref().map(|r| r.id.as_u128())
    }

    #[test]
    fn worked_examples() {
        let usual = OrganizationSettings::default();
        let inactive = OrganizationSettings { resolve_for_inactive_entities: true, ..usual.clone() };
        let strict =
            OrganizationSettings { unresolve_sender_in_case_of_multiple_match: true, ..usual.clone() };
        for (name, rows, settings, expected) in [
            ("none", vec![], &usual, None),
            ("the only one, though inactive", vec![row("contact", 1, None, false, 1)], &usual, Some(1)),
            ("a disabled user never", vec![row("systemuser", 1, None, false, 1)], &usual, None),
            (
                "a disabled user leaves the contact alone",
                vec![row("systemuser", 1, None, false, 1), row("contact", 2, None, true, 9)],
                &strict,
                Some(2),
            ),
            (
                "type order",
                vec![
                    row("businessunit", 7, None, true, 1),
                    row("team", 6, None, true, 1),
                    row("equipment", 5, None, true, 1),
                    row("lead", 4, None, true, 1),
                    row("account", 3, None, true, 1),
                    row("contact", 2, None, true, 1),
                    row("new_vehicle", 8, None, true, 1),
                ],
                &usual,
                Some(2),
            ),
            (
                "a user before a contact",
                vec![row("contact", 2, None, true, 1), row("systemuser", 1, None, true, 9)],
                &usual,
                Some(1),
            ),
            (
                "ownership before type",
                vec![row("contact", 2, Some(70), true, 1), row("lead", 4, Some(77), true, 9)],
                &usual,
                Some(4),
            ),
            (
                "ownership, then type",
                vec![
                    row("lead", 4, Some(77), true, 1),
                    row("account", 3, Some(77), true, 9),
                    row("contact", 2, None, true, 1),
                ],
                &usual,
                Some(3),
            ),
            (
                "created first",
                vec![row("contact", 2, None, true, 5), row("contact", 3, None, true, 4)],
                &usual,
                Some(3),
            ),
            (
                "active before created",
                vec![row("contact", 2, None, false, 1), row("contact", 3, None, true, 4)],
                &inactive,
                Some(3),
            ),
            (
                "inactive does not count among several",
                vec![row("contact", 2, None, false, 1), row("lead", 3, None, true, 4)],
                &usual,
                Some(3),
            ),
            (
                "inactive counts when the switch says so",
                vec![row("contact", 2, None, false, 1), row("lead", 3, None, true, 4)],
                &inactive,
                Some(2),
            ),
            (
                "all inactive",
                vec![row("contact", 2, None, false, 1), row("lead", 3, None, false, 4)],
                &usual,
                None,
            ),
            (
                "several stay unresolved",
                vec![row("contact", 2, None, true, 1), row("lead", 3, None, true, 4)],
                &strict,
                None,
            ),
            ("too many", (1..=101).map(|n| row("contact", n, None, true, 1)).collect(), &usual, None),
            (
                "just not too many",
                (1..=100).map(|n| row("contact", n, None, true, 1)).collect(),
                &usual,
                Some(1),
            ),
        ] {
            let sender = choose(rows, Some(77), settings);
            assert_eq!(id(&sender), expected, "{name}: {}", sender.how);
            assert_eq!(sender.is_duplicate_unresolved, name == "several stay unresolved", "{name}");
        }
    }

    proptest! {
        #[test]
        fn order_of_the_answer_does_not_matter(
            rows in proptest::collection::vec((0..8usize, 0..3u128, any::<bool>(), 0..3i64), 0..8),
            seed in any::<proptest::sample::Index>(),
            inactive in any::<bool>(),
        ) {
            const TABLES: [&str; 8] = ["systemuser", "contact", "account", "lead", "equipment", "team", "businessunit", "new_x"];
            let rows: Vec<Resolution> = rows.into_iter().enumerate()
                .map(|(n, (t, owner, active, created))| row(TABLES[t], n as u128, Some(owner), active, created)).collect();
            let mut turned = rows.clone();
            if !turned.is_empty() { let at = seed.index(turned.len()); turned.rotate_left(at); turned.reverse(); }
            let settings = OrganizationSettings { resolve_for_inactive_entities: inactive, ..OrganizationSettings::default() };
            prop_assert_eq!(choose(rows, Some(1), &settings), choose(turned, Some(1), &settings));
        }
    }
}
