//! `email-router`: runs and administers the router. This program is glue: it parses, calls the library, prints.

mod args;
mod commands;
mod listen;
mod logs;
mod output;
mod report;
mod signals;

use std::io::Write;
use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;

/// Done, but something needs a person.
pub(crate) const ATTENTION: u8 = 4;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli).await {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

async fn dispatch(cli: Cli) -> email_router::Result<ExitCode> {
    let Cli { global, command } = cli;
    match command {
        Command::Run(args) => commands::run::run(&global, &args).await,
        Command::Check { strict } => commands::check::run(&global, strict),
        Command::Publish { new } => commands::check::publish(&global, &new),
        Command::Explain { file, mailbox } => {
            commands::explain::run(&global, &file, mailbox.as_deref()).await
        }
        Command::Why { id } => commands::history::why(&global, &id).await,
        Command::Replay(args) => commands::history::replay(&global, &args).await,
        Command::LoadData(args) => commands::load_data::run(&global, &args).await,
        Command::Mirror { deployment, action } => {
            commands::mirror::run(&global, deployment.as_deref(), action).await
        }
        Command::Status => commands::status::run(&global).await,
        Command::Quarantine { action } => commands::quarantine::run(&global, action).await,
        Command::Secret { action } => commands::secret::run(&global, &action),
        Command::Credential { action } => commands::credential::run(&global, &action),
        Command::Crm { deployment, action } => {
            commands::crm::run(&global, deployment.as_deref(), action).await
        }
        Command::Import(args) => commands::import::run(&global, &args).await,
        Command::ImportState { file, dry_run } => commands::import::state(&global, &file, dry_run).await,
        Command::Quickstart { from, into } => commands::quickstart::run(&global, &from, &into).await,
        Command::Completions { shell } => commands::completions(shell),
    }
}

fn fail(error: &email_router::Error) -> ExitCode {
    if error.is_reader_gone() {
        return ExitCode::SUCCESS;
    }
    let mut out = std::io::stderr().lock();
    // the last words of a program whose standard error is gone reach nobody
    let _ = writeln!(out, "email-router: {}", output::clean(&error.to_string()));
    if let Some(hint) = error.hint() {
        let _ = writeln!(out, "what to do: {}", output::clean(hint));
    }
    match error {
        email_router::Error::Configuration { findings, .. } => {
            // the first error is in the message; warnings may stand before it in the file
            let told = findings.iter().position(email_router::config::Finding::is_error);
            for (_, finding) in findings.iter().enumerate().filter(|(n, _)| Some(*n) != told) {
                let _ = writeln!(out, "  {}", output::clean(&finding.to_string()));
            }
            ExitCode::from(3)
        }
        _ => ExitCode::from(1),
    }
}
