//! `EntityDefinitions`: what tables, columns and lookups are called.

use serde_json::{Value, json};

use super::filter;
use super::query::decode;
use super::schema::{Kind, Table};
use super::store::{Outcome, Store, no_set, refused};

/// Types of privileges, and which tables share those of activities.
const PRIVILEGES: [&str; 7] = ["Create", "Read", "Write", "Delete", "Assign", "Append", "AppendTo"];

/// The name of a privilege.
pub(super) fn privilege(table: &Table, kind: &str) -> String {
    let name = match table.name {
        "email" => "Activity",
        "systemuser" => "User",
        "usersettings" => "UserSettings",
        "queueitem" => "QueueItem",
        other => return format!("prv{kind}{}{}", other[..1].to_uppercase(), &other[1..]),
    };
    format!("prv{kind}{name}")
}

/// The id of a privilege, made of its name.
pub(super) fn privilege_id(name: &str) -> String {
    let digest = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("bbbbbbbb-0000-4000-8000-{:012x}", digest & 0xffff_ffff_ffff)
}

/// All privileges.
pub(super) fn all_privileges(store: &Store) -> Vec<String> {
    let mut all: Vec<_> =
        store.tables.iter().flat_map(|table| PRIVILEGES.map(|kind| privilege(table, kind))).collect();
    all.sort();
    all.dedup();
    all
}

/// The answer to a request for metadata; `path` begins with `EntityDefinitions`.
pub(super) fn answer(store: &Store, path: &str, query: &str, untracked: &[String]) -> Outcome<Value> {
    let option = |name: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(n, _)| decode(n) == name)
            .map(|(_, v)| decode(v))
    };
    let select = option("$select").map(|names| names.split(',').map(str::to_owned).collect::<Vec<_>>());
    let filter = option("$filter").map(|text| filter::parse(&text));
    let filter = filter.transpose().or_else(|words| refused(400, 0x8006_0888, words))?;
    let Some(rest) = path.strip_prefix("EntityDefinitions") else { return no_set(path) };
    if rest.is_empty() {
        let wanted = |table: &&Table| {
            let row = definition(table, None, untracked).unwrap_or_default();
            filter.as_ref().is_none_or(|f| f.matches(&|name| row[name].clone(), &|_| Vec::new()))
        };
        let tables = store.tables.iter().filter(wanted);
        let rows = tables.map(|table| definition(table, select.as_deref(), untracked));
        return Ok(json!({ "value": rows.collect::<Outcome<Vec<_>>>()? }));
    }
    let Some((name, rest)) = rest.strip_prefix("(LogicalName='").and_then(|rest| rest.split_once("')"))
    else {
        return no_set(path);
    };
    let Some(table) = store.named(name) else {
        return refused(404, 0x8006_0888, format!("Could not find an entity with specified name '{name}'."));
    };
    match rest {
        "" => definition(table, select.as_deref(), untracked),
        "/Attributes" => {
            let missing = |name: &str| name == "emailsender" && store.rules.no_email_sender;
            let table = Table {
                columns: table.columns.iter().filter(|column| !missing(column.name)).cloned().collect(),
                ..table.clone()
            };
            rows(&table, select.as_deref(), |_| true)
        }
        "/Attributes/Microsoft.Dynamics.CRM.StringAttributeMetadata" => {
            rows(table, select.as_deref(), |kind| matches!(kind, Kind::Text(..)))
        }
        // no column of these tables is a choice with labels
        "/Attributes/Microsoft.Dynamics.CRM.PicklistAttributeMetadata" => Ok(json!({ "value": [] })),
        "/ManyToOneRelationships" => relationships(table, select.as_deref()),
        other => no_set(other),
    }
}

fn picked(row: &Value, select: Option<&[String]>) -> Outcome<Value> {
    let Some(select) = select else { return Ok(row.clone()) };
    let mut out = json!({});
    for name in select {
        match row.get(name) {
            Some(value) => out[name] = value.clone(),
            None => return refused(400, 0x8006_0888, format!("Could not find a property named '{name}'")),
        }
    }
    Ok(out)
}

fn definition(table: &Table, select: Option<&[String]>, untracked: &[String]) -> Outcome<Value> {
    let privileges: Vec<Value> = PRIVILEGES
        .iter()
        .map(|kind| {
            let name = privilege(table, kind);
            json!({ "Name": name, "PrivilegeId": privilege_id(&name), "PrivilegeType": kind })
        })
        .collect();
    let tracked =
        !matches!(table.name, "email" | "activityparty") && !untracked.iter().any(|name| name == table.name);
    picked(
        &json!({
            "LogicalName": table.name, "EntitySetName": table.set, "PrimaryIdAttribute": table.id,
            "PrimaryNameAttribute": table.title, "ChangeTrackingEnabled": tracked, "IsActivityParty": table.party,
            "OwnershipType": if table.owned { "UserOwned" } else { "BusinessOwned" }, "Privileges": privileges,
        }),
        select,
    )
}

fn rows(table: &Table, select: Option<&[String]>, wanted: impl Fn(&Kind) -> bool) -> Outcome<Value> {
    let rows = table.columns.iter().filter(|column| wanted(&column.kind)).map(|column| {
        let mut row = json!({
            "LogicalName": column.name, "IsValidForCreate": !column.read_only, "IsValidForUpdate": !column.read_only,
            "IsValidForRead": true,
        });
        if let Kind::Text(most, email) = column.kind {
            row["MaxLength"] = json!(most);
            row["FormatName"] = json!({ "Value": if email { "Email" } else { "Text" } });
        }
        picked(&row, select)
    });
    Ok(json!({ "value": rows.collect::<Outcome<Vec<_>>>()? }))
}

fn relationships(table: &Table, select: Option<&[String]>) -> Outcome<Value> {
    let mut all = Vec::new();
    for column in &table.columns {
        let Kind::Lookup(targets) = &column.kind else { continue };
        for target in targets {
            let entity = if column.name == "ownerid" { "owner" } else { target };
            let navigation = table.navigation(column, target);
            all.push(picked(
                &json!({
                    "ReferencingAttribute": column.name, "ReferencedEntity": entity,
                    "ReferencingEntityNavigationPropertyName": navigation,
                }),
                select,
            )?);
        }
    }
    Ok(json!({ "value": all }))
}
