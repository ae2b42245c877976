//! `email-router-test-access`: checks every mailbox in both directions and changes nothing.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum, ValueHint};
use email_router::access::{
    AccessResult, AccessRow, AccessTargets, CheckState, DeploymentRow, targets, test_access,
};
use serde::Serialize;

/// Checks every mailbox of the configuration, or the ones named: can it be read, and can mail be
/// sent in its name?
///
/// It does what the router does up to the point where something would change: connect, secure,
/// log in, list; connect, secure, log in, offer the sender address and take it back.
/// Of each CRM it asks what the router will use: reached, logged in, the organization's settings, missing
/// privileges, users and queues. Nothing is changed on any server. Each failure says which kind it is (name resolution,
/// refused, timeout, which TLS fault, authentication, valid on the server but not for this mailbox,
/// refused sender, ...), how far it came, and what to do.
///
/// Exit codes: 0 everything succeeded; 1 it could not be run; 2 the command line is wrong;
/// 3 the configuration has errors; 4 at least one check failed.
#[derive(Debug, Parser)]
#[command(name = "email-router-test-access", version, max_term_width = 110, verbatim_doc_comment)]
struct Cli {
    /// The configuration file.
    #[arg(long, short, env = "EMAIL_ROUTER_CONFIG", default_value = "EmailAgent.xml", value_hint = ValueHint::FilePath)]
    config: PathBuf,
    /// Only these mailboxes: address, name or id. All enabled ones when none is named.
    mailboxes: Vec<String>,
    /// Only one direction.
    #[arg(long, value_enum)]
    direction: Option<Direction>,
    /// Checks at the same time.
    #[arg(long, default_value_t = 8)]
    at_once: usize,
    /// Show each step that worked.
    #[arg(long, short)]
    verbose: bool,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Direction {
    Incoming,
    Outgoing,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::ERROR)
        .init();
    match run(&cli).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(4),
        Err(error) if error.is_reader_gone() => ExitCode::SUCCESS,
        Err(error) => {
            let code = if matches!(error, email_router::Error::Configuration { .. }) { 3 } else { 1 };
            let hint = error.hint().map(|h| format!("\nwhat to do: {h}")).unwrap_or_default();
            // the last words of a program whose standard error is gone reach nobody
            let _ = writeln!(std::io::stderr(), "email-router-test-access: {error}{hint}");
            ExitCode::from(code)
        }
    }
}

async fn run(cli: &Cli) -> Result<bool, email_router::Error> {
    let AccessTargets { deployments, mailboxes: mut targets } = targets(&cli.config, &cli.mailboxes).await?;
    for target in &mut targets {
        match cli.direction {
            Some(Direction::Incoming) => target.outgoing = None,
            Some(Direction::Outgoing) => target.incoming = None,
            None => {}
        }
    }
    let bar = if std::io::stderr().is_terminal() && !cli.json {
        indicatif::ProgressBar::new(targets.len() as u64)
    } else {
        indicatif::ProgressBar::hidden()
    };
    let rows = test_access(targets, cli.at_once, |row| {
        bar.set_message(row.address.clone());
        bar.inc(1);
    })
    .await;
    bar.finish_and_clear();
    let good = !rows.iter().any(|r| r.incoming.is_failure() || r.outgoing.is_failure())
        && !deployments.iter().any(DeploymentRow::is_failure);
    print(cli, &deployments, &rows).map_err(email_router::Error::printing)?;
    Ok(good)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    deployments: &'a [DeploymentRow],
    mailboxes: &'a [AccessRow],
}

fn print(cli: &Cli, deployments: &[DeploymentRow], rows: &[AccessRow]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if cli.json {
        serde_json::to_writer_pretty(&mut out, &Shown { deployments, mailboxes: rows })?;
        return writeln!(out);
    }
    let wide = |text: fn(&AccessRow) -> &str, least: usize| {
        rows.iter().map(|r| text(r).chars().count()).max().unwrap_or(0).clamp(least, 40)
    };
    let (name, address) = (wide(|r| &r.name, 4), wide(|r| &r.address, 7));
    writeln!(out, "{:name$}  {:address$}  {:10}  {:10}", "Name", "Address", "Incoming", "Outgoing")?;
    for row in rows {
        let short = |r: &AccessResult| match r {
            AccessResult::Failure { .. } => "Failure".to_owned(),
            other => other.text(),
        };
        writeln!(
            out,
            "{:name$}  {:address$}  {:10}  {:10}",
            clean(&row.name),
            row.address,
            short(&row.incoming),
            short(&row.outgoing)
        )?;
        for (direction, result) in [("Incoming", &row.incoming), ("Outgoing", &row.outgoing)] {
            match result {
                AccessResult::Failure { reason, hint, steps, .. } => {
                    writeln!(out, "    {direction} Status: Failure - {}", clean(reason))?;
                    for (n, step) in steps.iter().enumerate() {
                        writeln!(out, "      {}. {}", n + 1, clean(step))?;
                    }
                    writeln!(out, "    what to do: {}", clean(hint))?;
                }
                AccessResult::Succeeded { steps, warnings, messages } => {
                    for warning in warnings {
                        writeln!(out, "    {direction} warning: {}", clean(warning))?;
                    }
                    if cli.verbose {
                        let waiting = messages.map(|n| format!("; {n} messages wait")).unwrap_or_default();
                        writeln!(out, "    {direction}: {}{waiting}", clean(&steps.join(", ")))?;
                    }
                }
                AccessResult::NotConfigured => {}
            }
        }
    }
    for row in deployments {
        let result = if row.is_failure() { "Failure" } else { "Succeeded" };
        writeln!(out, "Deployment {} ({}): {result}", clean(&row.deployment), clean(&row.crm))?;
        for check in &row.checks {
            let state = match check.state {
                CheckState::Passed if !cli.verbose => continue,
                CheckState::Passed => "",
                CheckState::Warning => "warning: ",
                CheckState::Failed => "Failure - ",
            };
            writeln!(out, "    {}: {state}{}", check.name, clean(&check.text))?;
            if let Some(hint) = &check.hint {
                writeln!(out, "    what to do: {}", clean(hint))?;
            }
        }
    }
    let failed = rows.iter().filter(|r| r.incoming.is_failure() || r.outgoing.is_failure()).count();
    let apart = match deployments.iter().filter(|row| row.is_failure()).count() {
        0 => String::new(),
        some => format!("; {some} of {} deployments with a failure", deployments.len()),
    };
    writeln!(out, "\n{} mailboxes, {failed} with a failure{apart}", rows.len())
}

/// What a server says may neither move the cursor of whoever reads it nor turn the direction of the text (Unicode UAX #9).
fn clean(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { ' ' } else { c }).collect()
}
