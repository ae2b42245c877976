//! `crm`: look at and fill the embedded CRM.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use email_router::OpenOptions;
use email_router::crm::Setting;
use email_router::crm::embedded::admin::{
    Admin, Decision, EmailDetails, EmailFilter, EmailRow, Fields, ImportOptions, NewEmail, Recipient,
    RecordFilter,
};
use email_router::crm::{Attachment, EmailStatus};
use email_router::model::{ActivityId, EmailAddress, RecordRef, read_capped, read_file_capped};
use serde::Serialize;

use super::{io_error, open, printing};
use crate::args::{CrmAction, Global, ResolveAs, SendArgs};
use crate::output;

/// Largest text read from the standard input, largest attachment file.
const LIMIT: u64 = 128 * 1024 * 1024;

pub(crate) async fn run(
    global: &Global,
    deployment: Option<&str>,
    action: CrmAction,
) -> email_router::Result<ExitCode> {
    let look = match &action {
        CrmAction::List { .. } | CrmAction::Show { .. } | CrmAction::Stats => true,
        CrmAction::Settings { settings } => !settings.iter().any(|text| text.contains('=')),
        _ => false,
    };
    let service = open(global, OpenOptions { look, ..OpenOptions::default() }).await?;
    let admin = service.organization(deployment)?.administration()?;
    match action {
        CrmAction::List { table, limit, status } => {
            list(global, &admin, &table, limit, status.as_deref()).await?
        }
        CrmAction::Show { table, id } if table.eq_ignore_ascii_case("email") => {
            let details = admin.email(find_email(&admin, &id).await?).await?;
            if global.json { show_json(&details)? } else { show_email(&details)? }
        }
        CrmAction::Show { table, id } => show_record(global, &admin.show(&table, &id).await?)?,
        CrmAction::Add { table, values } => {
            show_record(global, &admin.add(&table, &fields(&values)?).await?)?
        }
        CrmAction::Set { table, id, values } => {
            show_record(global, &admin.update(&table, &id, &fields(&values)?).await?)?
        }
        CrmAction::Delete { table, id } if table.eq_ignore_ascii_case("email") => {
            let id = find_email(&admin, &id).await?;
            admin.delete_email(id).await?;
            say(
                global,
                &format!("deleted e-mail {id}; it does not come back when its message is read again"),
            )?;
        }
        CrmAction::Delete { table, id } => {
            let record = admin.delete(&table, &id).await?;
            say(global, &format!("deleted {} {}", record.table, record.name))?;
        }
        CrmAction::Import { table, file, dry_run } => import(global, &admin, &table, &file, dry_run).await?,
        CrmAction::Settings { settings } => organization_settings(global, &admin, &settings).await?,
        CrmAction::Send(args) => send(global, &admin, args).await?,
        CrmAction::Resolve { id, what } => resolve(global, &admin, &id, what).await?,
        CrmAction::ResolveParty { email, address, record } => {
            resolve_party(global, &admin, &email, &address, &record).await?
        }
        CrmAction::Stats => show_json(&admin.statistics().await?)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(
    global: &Global,
    admin: &Admin,
    table: &str,
    limit: usize,
    status: Option<&str>,
) -> email_router::Result<()> {
    match table.to_ascii_lowercase().as_str() {
        "email" => {
            let status = status.map(parse_status).transpose()?;
            let rows = admin.emails(&EmailFilter { status, limit, ..EmailFilter::default() }).await?;
            if global.json {
                return show_json(&rows);
            }
            let head = ["Id", "Status", "Created", "From", "To", "Subject"];
            output::table(&head, &rows.iter().map(email_row).collect::<Vec<_>>()).map_err(printing)
        }
        "queueitem" => {
            let mut items = Vec::new();
            for queue in
                admin.list("queue", &RecordFilter { limit: 10_000, ..RecordFilter::default() }).await?
            {
                items.extend(admin.queue_items(queue.id, limit).await?);
            }
            if global.json {
                return show_json(&items);
            }
            let rows: Vec<Vec<String>> = items
                .iter()
                .map(|i| {
                    vec![
                        i.queue_name.clone(),
                        format!("{:.0}", i.entered_on),
                        i.activity_id.to_string(),
                        i.title.clone(),
                    ]
                })
                .collect();
            output::table(&["Queue", "Entered", "E-mail", "Title"], &rows).map_err(printing)
        }
        _ => {
            let records = admin.list(table, &RecordFilter { limit, ..RecordFilter::default() }).await?;
            if global.json {
                return show_json(&records);
            }
            let rows: Vec<Vec<String>> = records
                .iter()
                .map(|r| {
                    let address = r.fields.iter().find(|(k, v)| k.contains("emailaddress") && v.is_string());
                    vec![
                        r.id.to_string(),
                        r.name.clone(),
                        address.and_then(|(_, v)| v.as_str()).unwrap_or_default().to_owned(),
                    ]
                })
                .collect();
            output::table(&["Id", "Name", "Address"], &rows).map_err(printing)
        }
    }
}

async fn resolve(global: &Global, admin: &Admin, id: &str, what: ResolveAs) -> email_router::Result<()> {
    let id = find_email(admin, id).await?;
    let before = admin.email(id).await?.row;
    match (what, before.status, before.in_doubt) {
        (ResolveAs::Sent, _, true) => admin.decide(id, Decision::Sent).await?,
        (ResolveAs::Again, _, true) => admin.decide(id, Decision::SendAgain).await?,
        (ResolveAs::Failed, _, true) => admin.decide(id, Decision::Failed).await?,
        (ResolveAs::Again, EmailStatus::Failed, false) => {
            admin.retry_failed(Some(id)).await?;
        }
        (_, status, false) => {
            return Err(email_router::Error::Request(format!(
                "e-mail {id} is {status:?} and not in doubt: only one in doubt can be decided about, and one that is Failed be sent \
                 again; `email-router crm list email` shows which are"
            )));
        }
    }
    say(global, &format!("e-mail {id} is now {:?}", admin.email(id).await?.row.status))
}

fn email_row(row: &EmailRow) -> Vec<String> {
    let doubt = if row.in_doubt { " (in doubt)" } else { "" };
    vec![
        row.activity_id.to_string(),
        format!("{:?}{doubt}", row.status),
        format!("{:.0}", row.created_on),
        row.sender.clone().unwrap_or_default(),
        row.to.clone().unwrap_or_default(),
        row.subject.clone(),
    ]
}

fn show_email(details: &EmailDetails) -> email_router::Result<()> {
    let row = &details.row;
    let mut lines = vec![
        format!("e-mail {}: {}", row.activity_id, row.subject),
        format!(
            "  {}, {:?}{}, created {:.0}",
            row.direction,
            row.status,
            if row.in_doubt { " (in doubt)" } else { "" },
            row.created_on
        ),
    ];
    for party in &details.parties {
        let record = party.record.as_ref().map_or_else(|| "unresolved".to_owned(), ToString::to_string);
        let address = party.address.as_ref().map(ToString::to_string).unwrap_or_default();
        lines.push(format!(
            "  {:?}: {} <{address}> {record}",
            party.participation,
            party.name.as_deref().unwrap_or_default()
        ));
    }
    let optional = [
        ("Message-ID", details.message_id.as_ref().map(ToString::to_string)),
        ("token", row.tracking_token.clone()),
        ("regarding", row.regarding.as_ref().map(ToString::to_string)),
        ("owner", details.owner.as_ref().map(ToString::to_string)),
        ("accepted for", details.accepting.as_ref().map(ToString::to_string)),
        ("answers", details.correlated_activity.map(|id| format!("{id} ({:?})", details.correlation_method))),
        ("category", details.category.clone()),
        ("subcategory", details.subcategory.clone()),
        ("report", row.report.clone()),
    ];
    lines.extend(optional.into_iter().filter_map(|(name, value)| Some(format!("  {name}: {}", value?))));
    lines.extend(details.delivery.iter().map(|d| {
        let status = d.last.status.as_deref().map(|s| format!(" {s}")).unwrap_or_default();
        let why = d.last.diagnostic.as_deref().map(|w| format!(": {w}")).unwrap_or_default();
        let (address, action) = (&d.last.address, d.last.action.as_str());
        format!("  delivery to {address}: {action}{status}, reported {:.0}{why}", d.reported_on)
    }));
    lines.extend(
        details.attachments.iter().map(|a| {
            format!("  attachment {}: {} ({}, {} bytes)", a.number, a.file_name, a.mime_type, a.size)
        }),
    );
    lines.extend(details.removed_parts.iter().map(|r| format!("  not stored: {r}")));
    lines.extend(
        details.queue_items.iter().map(|q| format!("  in queue {} since {:.0}", q.queue_name, q.entered_on)),
    );
    lines.push(format!("  body ({}):\n{}", details.body_mime_type, details.body));
    output::line(&lines.join("\n")).map_err(printing)
}

fn show_record(
    global: &Global,
    record: &email_router::crm::embedded::admin::Record,
) -> email_router::Result<()> {
    if global.json {
        return show_json(record);
    }
    let mut text = format!("{} {}: {}", record.table, record.id, record.name);
    for (name, value) in record.fields.iter().filter(|(_, v)| !v.is_null()) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.push_str(&format!("\n  {name} = {value}"));
    }
    output::line(&text).map_err(printing)
}

async fn import(
    global: &Global,
    admin: &Admin,
    table: &str,
    file: &Path,
    dry_run: bool,
) -> email_router::Result<()> {
    let name = file.display().to_string();
    let source = File::open(file).map_err(io_error(name.clone()))?;
    let bar = output::progress(source.metadata().map(|m| m.len()).unwrap_or(0), "importing");
    let shown = bar.clone();
    let options = ImportOptions { dry_run, update_existing: false };
    let report =
        admin.import_csv(table, source, &name, options, move |p| shown.set_position(p.bytes)).await?;
    bar.finish_and_clear();
    if global.json {
        return show_json(&report);
    }
    let would = if dry_run { "would be " } else { "" };
    output::line(&format!("{name}: {} {would}added, {} {would}changed", report.added, report.updated))
        .map_err(printing)
}

async fn organization_settings(
    global: &Global,
    admin: &Admin,
    wanted: &[String],
) -> email_router::Result<()> {
    let mut shown = Vec::new();
    for text in wanted {
        shown.push(match text.split_once('=') {
            Some((name, value)) => admin.set_setting(name.trim(), value).await?,
            None => admin.setting(text).await?,
        });
    }
    if wanted.is_empty() {
        shown = admin.settings().await?;
    }
    if global.json {
        return show_json(&shown);
    }
    let rows: Vec<Vec<String>> =
        shown.iter().map(|s| vec![s.name.clone(), s.value.to_string(), about(s)]).collect();
    output::table(&["Setting", "Value", ""], &rows).map_err(printing)
}

/// What else there is to say of a setting: its default where it has another value, and what it can be.
fn about(setting: &Setting) -> String {
    let default = (setting.value != setting.default).then(|| format!("default {}", setting.default));
    let choices = setting.choices.map(|choices| format!("one of {}", choices.join(", ")));
    default.into_iter().chain(choices).collect::<Vec<_>>().join("; ")
}

async fn send(global: &Global, admin: &Admin, args: SendArgs) -> email_router::Result<()> {
    let body = if args.body == "-" {
        if io::stdin().is_terminal() {
            let _ = output::line("type the text, then end the input");
        }
        let bytes = read_capped(io::stdin().lock(), LIMIT, "standard input")
            .map_err(|e| email_router::Error::Request(e.to_string()))?;
        String::from_utf8_lossy(&bytes).into_owned()
    } else {
        args.body
    };
    let people =
        |list: &[String]| list.iter().map(|text| recipient(text)).collect::<email_router::Result<Vec<_>>>();
    let to = people(&args.to)?;
    let Some(first) = to.first().cloned() else {
        return Err(email_router::Error::Request("--to names nobody".to_owned()));
    };
    let mut new = NewEmail::new(recipient(&args.from)?, first, args.subject, body);
    new.to = to;
    new.cc = people(&args.cc)?;
    new.bcc = people(&args.bcc)?;
    new.html = args.html;
    for path in &args.attach {
        new.attachments.push(attachment(path)?);
    }
    if let Some(id) = &args.in_reply_to {
        new.in_reply_to = Some(find_email(admin, id).await?);
    }
    if let Some(text) = &args.regarding {
        new.regarding = Some(record(admin, text).await?);
    }
    let created = admin.create_outgoing(&new).await?;
    if global.json {
        return show_json(&created);
    }
    for warning in &created.warnings {
        output::line(&format!("warning: {warning}")).map_err(printing)?;
    }
    output::line(&format!("{} waits to be sent", created.activity_id)).map_err(printing)
}

async fn resolve_party(
    global: &Global,
    admin: &Admin,
    email: &str,
    address: &str,
    to: &str,
) -> email_router::Result<()> {
    let address = EmailAddress::parse(address).map_err(|e| email_router::Error::Request(e.to_string()))?;
    let (id, to) = (find_email(admin, email).await?, record(admin, to).await?);
    let done = admin.resolve_party(id, &address, &to).await?;
    if global.json {
        return show_json(&done);
    }
    let elsewhere = match done.elsewhere {
        0 => String::new(),
        n => format!(", and {n} in other e-mails"),
    };
    output::line(&format!("{address} is {to} now: {} in e-mail {id}{elsewhere}", parties(done.here)))
        .map_err(printing)
}

fn parties(count: u64) -> String {
    if count == 1 { "1 party".to_owned() } else { format!("{count} parties") }
}

/// The record of a text of the form TABLE=ID; the id may be an address.
async fn record(admin: &Admin, text: &str) -> email_router::Result<RecordRef> {
    let Some((table, id)) = text.split_once('=') else {
        let text = format!("{text} is not of the form TABLE=ID, such as contact=ann@example.com");
        return Err(email_router::Error::Request(text));
    };
    Ok(admin.show(table.trim(), id.trim()).await?.reference())
}

fn recipient(text: &str) -> email_router::Result<Recipient> {
    // `Name <address>` or an address
    let (name, address) = match text.rsplit_once('<') {
        Some((name, address)) => (
            Some(name.trim().trim_matches('"').to_owned()).filter(|n| !n.is_empty()),
            address.trim_end_matches(['>', ' ']),
        ),
        None => (None, text),
    };
    let address = EmailAddress::parse(address).map_err(|e| email_router::Error::Request(e.to_string()))?;
    Ok(Recipient::Address(address, name))
}

fn attachment(path: &Path) -> email_router::Result<Attachment> {
    let content = read_file_capped(path, LIMIT).map_err(|e| email_router::Error::Request(e.to_string()))?;
    let file_name =
        path.file_name().map_or_else(|| "attachment".to_owned(), |n| n.to_string_lossy().into_owned());
    let mime_type = match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("txt" | "log") => "text/plain",
        Some("htm" | "html") => "text/html",
        Some("csv") => "text/csv",
        Some("pdf") => "application/pdf",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("gif") => "image/gif",
        Some("zip") => "application/zip",
        _ => "application/octet-stream",
    };
    Ok(Attachment { file_name, mime_type: mime_type.to_owned(), content_id: None, content: content.into() })
}

/// The e-mail with this id, or the only recent one whose id begins so.
async fn find_email(admin: &Admin, text: &str) -> email_router::Result<ActivityId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let rows = admin.emails(&EmailFilter { limit: 10_000, ..EmailFilter::default() }).await?;
    let mut found = rows
        .iter()
        .map(|r| r.activity_id)
        .filter(|id| id.to_string().starts_with(&text.to_ascii_lowercase()));
    match (found.next(), found.next()) {
        (Some(id), None) if !text.is_empty() => Ok(id),
        (Some(_), Some(_)) => Err(email_router::Error::Request(format!(
            "several e-mails have an id that begins with {text}; give more of it"
        ))),
        _ => Err(email_router::Error::Request(format!(
            "no recent e-mail has an id that begins with {text}; `email-router crm list email` shows them"
        ))),
    }
}

fn parse_status(text: &str) -> email_router::Result<EmailStatus> {
    let known: Vec<EmailStatus> = (1..=8).filter_map(EmailStatus::from_code).collect();
    known
        .iter()
        .copied()
        .find(|s| format!("{s:?}").eq_ignore_ascii_case(text) || s.code().to_string() == text)
        .ok_or_else(|| {
            let names: Vec<String> = known.iter().map(|s| format!("{s:?}")).collect();
            email_router::Error::Request(format!("{text} is no status; there are: {}", names.join(", ")))
        })
}

fn fields(values: &[String]) -> email_router::Result<Fields> {
    values
        .iter()
        .map(|text| match text.split_once('=') {
            Some((name, value)) => Ok((name.trim().to_owned(), value.to_owned())),
            None => Err(email_router::Error::Request(format!("{text} is not of the form COLUMN=VALUE"))),
        })
        .collect()
}

fn say(global: &Global, text: &str) -> email_router::Result<()> {
    if global.json {
        show_json(&serde_json::json!({ "done": text }))
    } else {
        output::line(text).map_err(printing)
    }
}

fn show_json(value: &impl Serialize) -> email_router::Result<()> {
    output::json(value).map_err(printing)
}
