//! What each command does.

pub(crate) mod check;
pub(crate) mod credential;
pub(crate) mod crm;
pub(crate) mod explain;
pub(crate) mod history;
pub(crate) mod import;
pub(crate) mod load_data;
pub(crate) mod mirror;
pub(crate) mod quarantine;
pub(crate) mod quickstart;
pub(crate) mod run;
pub(crate) mod secret;
pub(crate) mod status;

use std::io;
use std::process::ExitCode;

use clap::CommandFactory;
use email_router::config::LogLevel;
use email_router::{OpenOptions, Service};

use crate::args::{Cli, Global};
use crate::{logs, output};

/// Opens the configuration for a command that works beside a running router: logs go to the standard error, warnings only.
pub(crate) async fn open(global: &Global, options: OpenOptions) -> email_router::Result<Service> {
    logs::start(global, LogLevel::Off, None).map_err(io_error("the log"))?;
    Service::open(&global.config, options).await
}

/// Names what a file error is about.
pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> email_router::Error {
    let what = what.into();
    move |source| email_router::Error::Io { what, source }
}

/// An error of printing.
pub(crate) fn printing(source: io::Error) -> email_router::Error {
    email_router::Error::printing(source)
}

/// 0, or 4 when something needs a person.
pub(crate) fn code(attention: bool) -> ExitCode {
    if attention { ExitCode::from(crate::ATTENTION) } else { ExitCode::SUCCESS }
}

/// Prints a completion script.
pub(crate) fn completions(shell: clap_complete::Shell) -> email_router::Result<ExitCode> {
    // clap's generator panics where it cannot write, so it writes into memory
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "email-router", &mut script);
    output::bytes(&script).map_err(printing)?;
    Ok(ExitCode::SUCCESS)
}
