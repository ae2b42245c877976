//! `check` and `publish`: the configuration file.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use email_router::config::{self, Finding, Severity};
use email_router::model::{read_capped, read_file_capped};
use serde::Serialize;

use super::{code, printing};
use crate::args::Global;
use crate::output;

#[derive(Serialize)]
struct Shown {
    severity: &'static str,
    code: &'static str,
    file: String,
    line: u32,
    column: u32,
    element: String,
    message: String,
}

impl Shown {
    fn new(f: &Finding) -> Self {
        Self {
            severity: match f.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            code: f.code.name(),
            file: f.path.display().to_string(),
            line: f.line,
            column: f.column,
            element: f.element.clone(),
            message: f.message.clone(),
        }
    }
}

/// What `publish --json` prints.
#[derive(Serialize)]
struct Publishing {
    published: bool,
    /// The file that was there is kept as NAME.previous.
    kept_previous: bool,
    findings: Vec<Shown>,
}

pub(crate) fn run(global: &Global, strict: bool) -> email_router::Result<ExitCode> {
    let bytes = read_file_capped(&global.config, config::MAX_BYTES as u64)
        .map_err(|e| email_router::Error::Configuration {
            message: format!(
                "{e}; say --config FILE or set EMAIL_ROUTER_CONFIG, or see the README for a first configuration"
            ),
            findings: Vec::new(),
        })?;
    let (settings, findings) = config::check_bytes(&bytes, &global.config);
    print(global, &findings)?;
    let errors = findings.iter().filter(|f| f.is_error()).count();
    if settings.is_none() || errors > 0 {
        return Ok(ExitCode::from(3));
    }
    if !global.json {
        let warnings = findings.len();
        let (profiles, mailboxes) = settings.map_or((0, 0), |s| (s.profiles.len(), s.mailboxes.len()));
        output::line(&format!(
            "{}: {profiles} profiles, {mailboxes} mailboxes, {warnings} warnings",
            global.config.display()
        ))
        .map_err(printing)?;
    }
    Ok(code(strict && !findings.is_empty()))
}

pub(crate) fn publish(global: &Global, new: &Path) -> email_router::Result<ExitCode> {
    let limit = config::MAX_BYTES as u64;
    let read = if new == Path::new("-") {
        if io::stdin().is_terminal() {
            output::note("type or paste the configuration, then end the input");
        }
        read_capped(io::stdin().lock(), limit, "standard input")
    } else {
        read_file_capped(new, limit)
    };
    let bytes = read.map_err(|e| email_router::Error::Request(e.to_string()))?;
    let from = if new == Path::new("-") { Path::new("standard input") } else { new };
    let published = email_router::service::publish(&global.config, &bytes, from);
    if global.json {
        let (findings, kept_previous) = match &published {
            Ok(published) => (&*published.findings, published.kept_previous),
            Err(email_router::Error::Configuration { findings, .. }) => (&**findings, false),
            Err(_) => (&[] as &[Finding], false),
        };
        let told = Publishing {
            published: published.is_ok(),
            kept_previous,
            findings: findings.iter().map(Shown::new).collect(),
        };
        output::json(&told).map_err(printing)?;
        published?;
    } else {
        print(global, &published?.findings)?;
        output::line(&format!(
            "published as {}; a running router takes it over within ConfigRefreshPeriod",
            global.config.display()
        ))
        .map_err(printing)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(global: &Global, findings: &[Finding]) -> email_router::Result<()> {
    if global.json {
        let shown: Vec<Shown> = findings.iter().map(Shown::new).collect();
        return output::json(&shown).map_err(printing);
    }
    for finding in findings {
        output::line(&finding.to_string()).map_err(printing)?;
    }
    Ok(())
}
