//! `load-data`: the users and queues of the CRM, how each is served, and their mailboxes in the configuration.

use std::collections::HashSet;
use std::process::ExitCode;

use email_router::config::LogLevel;
use email_router::crm::{Approval, DeliveryMethod, FilteringMethod};
use email_router::load_data::{
    DeploymentLoad, LoadOptions, LoadReport, LoadRow, Publication, PublishedMailbox, RowState, WhatChanged,
    load, plain,
};
use email_router::model::{MailboxKind, RecordRef};

use super::status::not_served;
use super::{code, io_error, printing};
use crate::args::{Global, LoadDataArgs, ShownKind};
use crate::{logs, output};

/// Lines of text are at most this long.
const WIDTH: usize = 110;

pub(crate) async fn run(global: &Global, args: &LoadDataArgs) -> email_router::Result<ExitCode> {
    logs::start(global, LogLevel::Off, None).map_err(io_error("the log"))?;
    let options =
        LoadOptions { deployment: args.deployment.clone(), publish: args.publish, ..LoadOptions::default() };
    let mut report = load(&global.config, &options).await?;
    if let Some(why) = &report.not_remembered {
        output::note(why);
    }
    let choice = Choice { args };
    choice.narrow(&mut report)?;
    let attention = report.deployments.iter().any(DeploymentLoad::needs_attention);
    if global.json {
        choice.leave_out(&mut report);
        output::json(&report).map_err(printing)?;
    } else {
        for deployment in &report.deployments {
            show(deployment, args)?;
        }
        if let Some(published) = &report.published {
            show_published(published)?;
        }
        if !args.publish && report.deployments.iter().any(has_unlisted) {
            line("`email-router load-data --publish` adds those that the configuration does not list")?;
        }
    }
    Ok(code(attention))
}

/// What a person wants to see.
struct Choice<'a> {
    args: &'a LoadDataArgs,
}

impl Choice<'_> {
    /// Leaves what the filters choose; what is told and the exit code are about that.
    fn narrow(&self, report: &mut LoadReport) -> email_router::Result<()> {
        if self.args.filter.is_empty() && self.args.kind.is_none() {
            return Ok(());
        }
        let wanted = |kind: MailboxKind, name: &str, address: &str| {
            let (name, address) = (name.to_lowercase(), address.to_lowercase());
            let texts = &self.args.filter;
            self.args.kind.is_none_or(|k| k.is(kind))
                && (texts.is_empty()
                    || texts
                        .iter()
                        .map(|t| t.to_lowercase())
                        .any(|t| name.contains(&t) || address.contains(&t)))
        };
        let mut found = false;
        for deployment in &mut report.deployments {
            deployment.rows.retain(|r| wanted(r.mailbox.kind, &r.mailbox.name, &address(r)));
            deployment.changes.retain(|c| wanted(c.kind, &c.name, &c.address));
            let filter = &self.args.filter;
            deployment.unmatched.retain(|u| {
                let id = u.mailbox.as_str().to_lowercase();
                self.args.kind.is_none() && filter.iter().any(|t| id.contains(&t.to_lowercase()))
            });
            found |= deployment.error.is_some()
                || !(deployment.rows.is_empty()
                    && deployment.changes.is_empty()
                    && deployment.unmatched.is_empty());
        }
        if found || self.args.filter.is_empty() {
            return Ok(());
        }
        Err(email_router::Error::Request(format!(
            "no user, queue or forward mailbox has a name or address with {}",
            self.args.filter.join(" or ")
        )))
    }

    /// The rows that are shown.
    fn leave_out(&self, report: &mut LoadReport) {
        for deployment in &mut report.deployments {
            let changed = changed(deployment);
            deployment.rows.retain(|row| is_shown(self.args, &changed, row));
        }
    }
}

fn changed(deployment: &DeploymentLoad) -> HashSet<RecordRef> {
    deployment.changes.iter().map(|c| c.record.clone()).collect()
}

fn is_shown(args: &LoadDataArgs, changed: &HashSet<RecordRef>, row: &LoadRow) -> bool {
    let meant = args.all || !args.filter.is_empty() || row.state != RowState::Off;
    if args.changed { changed.contains(&row.mailbox.record) } else { meant }
}

fn has_unlisted(deployment: &DeploymentLoad) -> bool {
    deployment.rows.iter().any(|r| r.needs_attention() && r.listed == email_router::load_data::Listed::No)
}

impl ShownKind {
    fn is(self, kind: MailboxKind) -> bool {
        matches!(
            (self, kind),
            (Self::User, MailboxKind::User)
                | (Self::Queue, MailboxKind::Queue)
                | (Self::Forward, MailboxKind::Forward)
        )
    }
}

fn show(deployment: &DeploymentLoad, args: &LoadDataArgs) -> email_router::Result<()> {
    let head = format!("{} ({})", plain(&deployment.name), deployment.deployment_type);
    if let Some(failure) = &deployment.error {
        wrapped(&format!("{head}: NOT LOADED: {}", failure.message), 2)?;
        if let Some(hint) = &failure.hint {
            wrapped(&format!("  what to do: {hint}"), 2)?;
        }
        return Ok(());
    }
    let of = |kind| deployment.rows.iter().filter(|r| r.mailbox.kind == kind).count();
    let state = |state| deployment.rows.iter().filter(|r| r.state == state).count();
    line(&format!(
        "{head}: {}, {}, {}: {} served, {} needing attention, {} not meant for the router",
        counted(of(MailboxKind::User), "user"),
        counted(of(MailboxKind::Queue), "queue"),
        counted(of(MailboxKind::Forward), "forward mailbox"),
        state(RowState::Served),
        state(RowState::NeedsAttention),
        state(RowState::Off),
    ))?;
    let changed = changed(deployment);
    let rows: Vec<&LoadRow> = deployment.rows.iter().filter(|row| is_shown(args, &changed, row)).collect();
    let cells: Vec<[String; 7]> = rows.iter().map(|row| cells(row)).collect();
    let titles = ["Kind", "Name", "Address", "Incoming", "Outgoing", "Approval", "Filter"].map(str::to_owned);
    let mut widths = titles.clone().map(|t| t.chars().count());
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: &[String; 7]| {
        let mut text = String::from(" ");
        for (cell, width) in cells.iter().zip(widths) {
            text.push_str(&format!(" {cell:width$}"));
        }
        line(text.trim_end())
    };
    if !rows.is_empty() {
        print(&titles)?;
    }
    for (row, cells) in rows.iter().zip(&cells) {
        print(cells)?;
        if let Some(reason) = &row.reason {
            let mark = if row.needs_attention() { "NOT SERVED" } else { "off" };
            wrapped(&format!("    {mark}: {reason}"), 6)?;
        }
    }
    for not in &deployment.unmatched {
        wrapped(&format!("  {}", not_served(not)), 4)?;
    }
    show_changes(deployment)
}

fn show_changes(deployment: &DeploymentLoad) -> email_router::Result<()> {
    let Some(last) = deployment.last_load else {
        return line("  first load: there is none to compare it with");
    };
    if deployment.changes.is_empty() {
        return line(&format!("  nothing changed since the load of {last:.0}"));
    }
    line(&format!("  changed since the load of {last:.0}:"))?;
    for change in &deployment.changes {
        let sign = match change.what {
            WhatChanged::New => '+',
            WhatChanged::Gone => '-',
            WhatChanged::Changed { .. } => '~',
        };
        wrapped(&format!("  {sign} {change}"), 6)?;
    }
    Ok(())
}

fn show_published(published: &Publication) -> email_router::Result<()> {
    if !published.written {
        return line("published nothing: the configuration has all of it already");
    }
    for (sign, mailboxes) in [('+', &published.added), ('~', &published.changed), ('-', &published.removed)] {
        for PublishedMailbox { deployment, kind, name, address, changes } in mailboxes {
            let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
            let what = if changes.is_empty() { String::new() } else { format!(": {}", changes.join(", ")) };
            wrapped(&format!("  {sign} {kind} {} <{address}> of {deployment}{what}", plain(name)), 6)?;
        }
    }
    line(&format!(
        "published: {} added, {} changed, {} removed; a running router takes it over within ConfigRefreshPeriod",
        published.added.len(),
        published.changed.len(),
        published.removed.len()
    ))?;
    published.findings.iter().try_for_each(|finding| line(finding))
}

fn cells(row: &LoadRow) -> [String; 7] {
    let m = &row.mailbox;
    let kind = match m.kind {
        MailboxKind::User => "user",
        MailboxKind::Queue => "queue",
        MailboxKind::Forward => "forward",
    };
    [
        kind.to_owned(),
        cut(&plain(&m.name), 22),
        cut(&address(row), 30),
        way(m.incoming, row.incoming_profile.as_deref()),
        match m.kind {
            MailboxKind::Forward => "-".to_owned(),
            _ => way(m.outgoing, row.outgoing_profile.as_deref()),
        },
        match m.approval {
            Approval::Approved => "yes",
            Approval::Empty => "no",
            Approval::PendingApproval => "pending",
            Approval::Rejected => "rejected",
        }
        .to_owned(),
        match m.filter {
            _ if m.kind == MailboxKind::Forward => "-",
            FilteringMethod::All => "all",
            FilteringMethod::InResponseToCrmEmail => "answers",
            FilteringMethod::FromLeadsContactsAccounts => "contacts",
            FilteringMethod::FromEmailEnabledRecords => "records",
            FilteringMethod::None => "none",
        }
        .to_owned(),
    ]
}

/// The delivery method, and the profile where it is the router's.
fn way(method: DeliveryMethod, profile: Option<&str>) -> String {
    match method {
        DeliveryMethod::None => "None".to_owned(),
        DeliveryMethod::Outlook => "Outlook".to_owned(),
        DeliveryMethod::ForwardMailbox => "Forward".to_owned(),
        DeliveryMethod::EmailRouter => {
            format!("Router: {}", cut(&plain(profile.unwrap_or("no profile")), 12))
        }
    }
}

fn address(row: &LoadRow) -> String {
    row.mailbox.address.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ if what.ends_with('x') => format!("{count} {what}es"),
        _ => format!("{count} {what}s"),
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

fn line(text: &str) -> email_router::Result<()> {
    output::line(text).map_err(printing)
}

/// Prints a text in lines of at most [`WIDTH`] characters, those after the first one indented.
fn wrapped(text: &str, indent: usize) -> email_router::Result<()> {
    let body = text.trim_start();
    let mut out = " ".repeat(text.len() - body.len());
    let (mut length, mut fresh) = (out.len(), true);
    for word in body.split_whitespace() {
        let size = word.chars().count();
        if !fresh && length + 1 + size > WIDTH {
            line(&out)?;
            (out, length, fresh) = (" ".repeat(indent), indent, true);
        }
        if !fresh {
            out.push(' ');
            length += 1;
        }
        out.push_str(word);
        (length, fresh) = (length + size, false);
    }
    line(&out)
}
