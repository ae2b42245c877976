//! The messages about e-mail of an organization that decides itself (`crm-contract.md` 2 and 7).

use serde_json::{Map, Value, json};

use super::fetch::{self, Found, Page};
use super::store::{self, Outcome, Store, refused};
use super::{ORGANIZATION, ROUTER};

/// A message as the server is told of it: by the names of the parameters.
pub(super) type Parameters = Map<String, Value>;

fn text<'a>(parameters: &'a Parameters, name: &str) -> &'a str {
    parameters.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// What must be there, and nothing else.
pub(super) fn exactly(parameters: &Parameters, names: &[&str]) -> Outcome<()> {
    if let Some(missing) = names.iter().find(|name| !parameters.contains_key(**name)) {
        return refused(400, 0x8004_0203, format!("Required field '{missing}' is missing"));
    }
    match parameters.keys().find(|name| !names.contains(&name.as_str())) {
        Some(unknown) => refused(400, 0x8004_0203, format!("The parameter '{unknown}' is not known")),
        None => Ok(()),
    }
}

/// An organization with server-side synchronization does not serve the router.
fn for_the_router(store: &Store) -> Outcome<()> {
    let channel =
        store.row("organization", ORGANIZATION).and_then(|row| row.values.get("emailconnectionchannel"));
    if channel == Some(&json!(1)) {
        return Ok(());
    }
    refused(
        400,
        0x8005_e246,
        "Your organization is configured to use server-side synchronization to process email, but some clients are still configured to use the legacy Email router.",
    )
}

fn organization(store: &Store, name: &str) -> Value {
    let row = store.row("organization", ORGANIZATION);
    row.and_then(|row| row.values.get(name)).cloned().unwrap_or(Value::Null)
}

fn addresses(list: &str) -> Vec<&str> {
    list.split(';').map(str::trim).filter(|address| !address.is_empty()).collect()
}

/// Active records with an address, users and queues first.
fn resolve(store: &Store, address: &str) -> Option<Value> {
    for (table, columns) in [
        ("systemuser", &["internalemailaddress", "personalemailaddress"][..]),
        ("queue", &["emailaddress"]),
        ("contact", &["emailaddress1", "emailaddress2", "emailaddress3"]),
        ("account", &["emailaddress1", "emailaddress2", "emailaddress3"]),
        ("lead", &["emailaddress1", "emailaddress2"]),
    ] {
        for (id, row) in store.rows(table).into_iter().flat_map(|rows| &rows.rows) {
            let active = row.values.get("isdisabled") != Some(&json!(true))
                && row.values.get("statecode").is_none_or(|state| state == &json!(0));
            let has = |column: &&str| {
                let value = row.values.get(*column).and_then(Value::as_str);
                value.is_some_and(|value| value.eq_ignore_ascii_case(address))
            };
            if active && columns.iter().any(has) {
                return Some(json!({ "table": table, "id": id }));
            }
        }
    }
    None
}

/// CheckIncomingEmail: whether, and why (2.1).
pub(super) fn check(store: &Store, parameters: &Parameters) -> Outcome<(bool, i32)> {
    for_the_router(store)?;
    let from = text(parameters, "From");
    if !from.split_once('@').is_some_and(|(_, domain)| domain.contains('.')) {
        return Ok((false, 7));
    }
    let emails = || store.rows("email").into_iter().flat_map(|rows| rows.rows.values());
    let is = |row: &store::Versioned, name: &str, value: &str| {
        row.values.get(name).and_then(Value::as_str) == Some(value)
    };
    let id = text(parameters, "MessageId");
    if emails().any(|row| row.values.get("directioncode") == Some(&json!(false)) && is(row, "messageid", id))
    {
        return Ok((false, 0));
    }
    let recipients: Vec<Value> = ["To", "Cc", "Bcc"]
        .iter()
        .flat_map(|name| addresses(text(parameters, name)))
        .filter_map(|address| resolve(store, address))
        .filter(|record| ["systemuser", "queue"].contains(&record["table"].as_str().unwrap_or_default()))
        .collect();
    if recipients.is_empty() {
        return Ok((false, 3));
    }
    let sender = resolve(store, from);
    let table = sender.as_ref().and_then(|sender| sender["table"].as_str()).unwrap_or_default().to_owned();
    if organization(store, "ignoreinternalemail") == json!(true)
        && ["systemuser", "queue"].contains(&table.as_str())
    {
        return Ok((false, 4));
    }
    let subject = text(parameters, "Subject").to_lowercase();
    let answers = emails().any(|row| {
        let token = row.values.get("trackingtoken").and_then(Value::as_str).unwrap_or_default();
        !token.is_empty() && subject.contains(&token.to_lowercase())
    });
    for recipient in &recipients {
        let id = recipient["id"].as_str().unwrap_or_default();
        let owner = if recipient["table"] == "queue" { "queue" } else { "usersettings" };
        let row = store.row(owner, id);
        let filter =
            row.and_then(|row| row.values.get("incomingemailfilteringmethod")?.as_u64()).unwrap_or(1);
        match filter {
            0 => return Ok((true, 6)),
            1..=3 if answers => return Ok((true, 2)),
            2 if ["lead", "contact", "account"].contains(&table.as_str()) => return Ok((true, 5)),
            3 if sender.is_some() => return Ok((true, 5)),
            _ => {}
        }
    }
    Ok((false, 1))
}

/// DeliverIncomingEmail: the id of the e-mail (2.3).
pub(super) fn deliver(store: &mut Store, parameters: &Parameters) -> Outcome<String> {
    for_the_router(store)?;
    exactly(
        parameters,
        &[
            "MessageId",
            "Subject",
            "From",
            "To",
            "Cc",
            "Bcc",
            "ReceivedOn",
            "SubmittedBy",
            "Importance",
            "Body",
            "Attachments",
            "ValidateBeforeCreate",
        ],
    )?;
    if parameters["ValidateBeforeCreate"] == json!(true) {
        let (yes, reason) = check(store, parameters)?;
        if !yes {
            return refused(400, 0x8005_e20b, format!("The email cannot be accepted. Reason Code: {reason}"));
        }
    }
    let priority: u8 = match text(parameters, "Importance").parse() {
        Ok(priority @ 0..=2) => priority,
        _ => return refused(400, 0x8004_0203, "Importance is 0, 1 or 2"),
    };
    if text(parameters, "ReceivedOn").parse::<email_router_model::Timestamp>().is_err() {
        return refused(400, 0x8004_0203, "ReceivedOn is no time");
    }
    store.begin();
    match made(store, parameters, priority) {
        Ok(id) => {
            store.commit();
            Ok(id)
        }
        Err(refusal) => {
            store.roll_back();
            Err(refusal)
        }
    }
}

fn made(store: &mut Store, parameters: &Parameters, priority: u8) -> Outcome<String> {
    let id = store.fresh_id();
    let mut parties = Vec::new();
    let mut queues = Vec::new();
    for (mask, name) in [(1, "From"), (2, "To"), (3, "Cc"), (4, "Bcc")] {
        for address in addresses(text(parameters, name)) {
            let mut party = Map::new();
            party.insert("participationtypemask".to_owned(), json!(mask));
            party.insert("addressused".to_owned(), json!(address));
            if let Some(record) = resolve(store, address) {
                let (table, record) = (record["table"].as_str().unwrap_or_default(), &record["id"]);
                let set = store.named(table).map_or("", |table| table.set);
                let record = record.as_str().unwrap_or_default();
                if mask > 1 && table == "queue" {
                    queues.push(record.to_owned());
                }
                party.insert(format!("partyid_{table}@odata.bind"), json!(format!("/{set}({record})")));
            }
            parties.push(Value::Object(party));
        }
    }
    if parties.first().is_none_or(|party| party["participationtypemask"] != json!(1)) {
        return refused(400, 0x8004_0b02, "The email must have a sender.");
    }
    let email = json!({
        "subject": text(parameters, "Subject"), "description": text(parameters, "Body"), "mimetype": "text/html",
        "messageid": text(parameters, "MessageId"), "directioncode": false, "prioritycode": priority,
        "submittedby": text(parameters, "SubmittedBy"), "email_activity_parties": parties,
    });
    create(store, "emails", &id, email)?;
    for attachment in parameters["Attachments"].as_array().into_iter().flatten() {
        let Value::Object(mut row) = attachment.clone() else {
            return refused(400, 0x8004_0203, "Attachments");
        };
        if let Some(kind) = row.remove("@odata.type")
            && kind != "Microsoft.Dynamics.CRM.activitymimeattachment"
        {
            return refused(400, 0x8004_8d19, format!("the type {kind}"));
        }
        row.insert("objectid_email@odata.bind".to_owned(), json!(format!("/emails({id})")));
        let attachment = store.fresh_id();
        create(store, "activitymimeattachments", &attachment, Value::Object(row))?;
    }
    change(store, &id, json!({ "statecode": 1, "statuscode": 4 }))?;
    queues.sort();
    queues.dedup();
    for queue in queues {
        let item = store.fresh_id();
        let body = json!({
            "queueid@odata.bind": format!("/queues({queue})"), "objectid_email@odata.bind": format!("/emails({id})")
        });
        create(store, "queueitems", &item, body)?;
    }
    Ok(id)
}

fn create(store: &mut Store, set: &str, id: &str, body: Value) -> Outcome<()> {
    let Value::Object(body) = body else { return store::no_set(set) };
    store.create(set, id, &body)
}

fn change(store: &mut Store, email: &str, body: Value) -> Outcome<()> {
    let Value::Object(body) = body else { return store::no_set("emails") };
    store.update("emails", email, &body)
}

/// BackgroundSendEmail: what is pending of what a query finds; it is Sending from then on, and handed out to nobody else (2.5). With whether each has
/// attachments.
pub(super) fn background_send(store: &mut Store, query: &str) -> Outcome<(Page, Vec<bool>)> {
    for_the_router(store)?;
    let mut page = fetch::run(store, query)?;
    if page.table.name != "email" {
        return refused(400, 0x8004_0203, "BackgroundSendEmail is about e-mails");
    }
    let mut taken: Vec<Found> = Vec::new();
    for found in page.rows {
        let is = |name: &str, value: Value| {
            store.row("email", &found.id).and_then(|row| row.values.get(name)) == Some(&value)
        };
        if is("statuscode", json!(6)) && is("directioncode", json!(true)) {
            change(store, &found.id, json!({ "statecode": 1, "statuscode": 7 }))?;
            taken.push(found);
        }
    }
    let attached =
        taken.iter().map(|found| !store.children("activitymimeattachment", &found.id).is_empty()).collect();
    page.rows = taken;
    Ok((page, attached))
}

/// GetTrackingTokenEmail: the next token of a user (8.2).
pub(super) fn tracking_token(store: &mut Store, caller: Option<&str>, denied: &[String]) -> Outcome<String> {
    let user = caller.unwrap_or(ROUTER).to_lowercase();
    if caller.is_some() {
        if denied.iter().any(|name| name == "prvActOnBehalfOfAnotherUser") {
            let words = "Principal user is missing prvActOnBehalfOfAnotherUser privilege";
            return refused(403, 0x8004_a110, words);
        }
        if store.row("systemuser", &user).is_none() {
            return store::missing("systemuser", &user);
        }
    }
    let number = |value: Value| value.as_u64().unwrap_or_default();
    let Some(row) = store.row("usersettings", &user).map(|row| row.values.clone()) else {
        return store::missing("usersettings", &user);
    };
    let column = |name: &str| row.get(name).and_then(Value::as_u64).unwrap_or_default();
    let (count, maximum) =
        (column("nexttrackingnumber"), number(organization(store, "maximumtrackingnumber")));
    let digits = usize::try_from(number(organization(store, "trackingtokeniddigits"))).unwrap_or(3);
    let base = number(organization(store, "trackingtokenidbase"));
    let prefix = organization(store, "trackingprefix");
    let width = maximum.to_string().len();
    let token = format!(
        "{}0{:0digits$}{count:0width$}",
        prefix.as_str().unwrap_or_default(),
        base + column("trackingtokenid")
    );
    let next = if count >= maximum { 0 } else { count + 1 };
    let body = json!({ "nexttrackingnumber": next });
    if let Value::Object(body) = body {
        store.update("usersettingscollection", &user, &body)?;
    }
    Ok(token)
}
