//! What people and programs read.

use std::io::{self, Write};

use email_router::model::EmailAddress;
use email_router::rules::{RuleOutcome, RuleRow};
use email_router::transport::rules::{RuleChange, RulePlan, RuleState};

/// The rows as a table, or as JSON. `dry`: changes were only shown, though the command can make them.
pub(crate) fn rows(rows: &[RuleRow], forward_to: &EmailAddress, dry: bool, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, rows)?;
        return writeln!(out);
    }
    let wide = |text: fn(&RuleRow) -> &str, least: usize| {
        rows.iter().map(|r| text(r).chars().count()).max().unwrap_or(0).clamp(least, 40)
    };
    let (name, address) = (wide(|r| &r.name, 4), wide(|r| &r.address, 7));
    writeln!(out, "{:name$}  {:address$}  Rule to {forward_to}", "Name", "Address")?;
    for row in rows {
        writeln!(
            out,
            "{:name$}  {:address$}  {}",
            clean(&row.name),
            row.address,
            clean(&said(&row.outcome))
        )?;
        match &row.outcome {
            RuleOutcome::Failure { hint, steps, .. } => {
                for (n, step) in steps.iter().enumerate() {
                    writeln!(out, "      {}. {}", n + 1, clean(step))?;
                }
                writeln!(out, "    what to do: {}", clean(hint))?;
            }
            RuleOutcome::Planned(plan) | RuleOutcome::Done(plan) => {
                for warning in &plan.warnings {
                    writeln!(out, "    warning: {}", clean(warning))?;
                }
            }
        }
    }
    let other = rows.iter().filter(|row| !row.outcome.is_as_wanted()).count();
    writeln!(out, "\n{} mailboxes, {other} not as wanted", rows.len())?;
    if rows.is_empty() {
        writeln!(
            out,
            "the CRM expects no user's or queue's mail by the forward mailbox; name mailboxes to serve them all the same"
        )?;
    }
    let changes =
        rows.iter().any(|row| matches!(&row.outcome, RuleOutcome::Planned(plan) if !plan.changes.is_empty()));
    if dry && changes {
        writeln!(out, "nothing was changed; give --yes to make these changes")?;
    }
    Ok(())
}

fn said(outcome: &RuleOutcome) -> String {
    match outcome {
        RuleOutcome::Done(plan) => format!("done: {}", changes(plan)),
        RuleOutcome::Failure { reason, .. } => format!("Failure - {reason}"),
        RuleOutcome::Planned(plan) => {
            let state = match plan.state {
                RuleState::AsWanted => "as wanted",
                RuleState::Missing => "missing",
                RuleState::Different => "different",
                RuleState::ForwardedByAnother => "another rule forwards there",
                RuleState::Present => "present",
            };
            match plan.changes.is_empty() {
                true => state.to_owned(),
                false => format!("{state}: to {}", changes(plan)),
            }
        }
    }
}

fn changes(plan: &RulePlan) -> String {
    let count = |of: fn(&RuleChange) -> bool| plan.changes.iter().filter(|c| of(c)).count();
    let mut words = Vec::new();
    for (what, number) in [
        ("create", count(|c| matches!(c, RuleChange::Create))),
        ("update", count(|c| matches!(c, RuleChange::Update { .. }))),
        ("delete", count(|c| matches!(c, RuleChange::Delete { .. }))),
    ] {
        match number {
            0 => {}
            1 => words.push(what.to_owned()),
            n => words.push(format!("{what} {n}")),
        }
    }
    words.join(", ")
}

/// What a server says may neither move the cursor of whoever reads it nor turn the direction of the text (Unicode UAX #9).
fn clean(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { ' ' } else { c }).collect()
}
