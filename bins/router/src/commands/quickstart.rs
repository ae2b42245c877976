//! `quickstart`: the sample mail of the project, routed once, every decision shown.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use email_router::config::LogLevel;
use email_router::crm::embedded::admin::{Admin, ImportOptions, RecordFilter};
use email_router::engine::Observer;
use email_router::{OpenOptions, Service};
use tokio::sync::watch;

use super::{io_error, printing, run};
use crate::args::Global;
use crate::report::{Collector, Printer};
use crate::{logs, output};

/// Tables in the order in which records refer to each other.
const TABLES: [&str; 6] = ["systemuser", "queue", "contact", "account", "lead", "new_supplier"];

pub(crate) async fn run(global: &Global, from: &Path, into: &Path) -> email_router::Result<ExitCode> {
    logs::start(global, LogLevel::Off, None).map_err(io_error("the log"))?;
    if !from.join("EmailAgent.xml").is_file() {
        let text = format!(
            "{} holds no EmailAgent.xml; run this in the project's folder, or say --from",
            from.display()
        );
        return Err(email_router::Error::Request(text));
    }
    say(
        global,
        &format!(
            "email-router quick start: sample mail from {}, working in {}",
            from.display(),
            into.display()
        ),
    )?;
    let fresh = !into.join("EmailAgent.xml").exists();
    prepare(from, into)?;
    let config = into.join("EmailAgent.xml");

    // Two openings: the router's plan is made when the users and queues are in the CRM.
    let service = Service::open(&config, OpenOptions::default()).await?;
    fill(&service.organization(None)?.administration()?, &from.join("crm")).await?;
    drop(service);
    let (printer, collector) = (Arc::new(Printer::default()), Arc::new(Collector::default()));
    let observer: Arc<dyn Observer> =
        if global.json { Arc::clone(&collector) as _ } else { Arc::clone(&printer) as _ };
    let service = Service::open(&config, OpenOptions { observer, ..OpenOptions::default() }).await?;
    say(
        global,
        if fresh { "" } else { "this folder was used before: what was routed then is not routed again" },
    )?;

    let (_keep, stop) = watch::channel(false);
    let report = service.run_once(&stop).await?;
    if printer.messages.load(Ordering::Relaxed) == 0 {
        say(global, "nothing new")?;
    }
    say(global, "")?;
    let code =
        run::summary(global, &report, &service.organization(None)?.unserved(), Some(collector.take()))?;
    // its configuration has an embedded CRM and nothing else
    let file = |crm: &email_router::crm::embedded::EmbeddedCrm| crm.path().display().to_string();
    let crm = service.organization(None)?.embedded().map(file).unwrap_or_default();
    let (shown, program) = (config.display(), "cargo run -q --bin email-router -- --config");
    say(
        global,
        &format!(
            "\nThe CRM is in {crm} (SQLite). Look at it:\n  {program} {shown} crm list email\n  {program} {shown} crm show email ID\n  \
             {program} {shown} crm list queueitem\nAsk why, for one message:\n  {program} {shown} explain FILE\nRun the quick start again: nothing is routed twice."
        ),
    )?;
    Ok(code)
}

/// Copies configuration and mail, where they are not there yet. Each comes into its place whole, so that a run after one that was killed
/// finds all or nothing of it.
fn prepare(from: &Path, into: &Path) -> email_router::Result<()> {
    let mail = into.join("mail");
    fs::create_dir_all(&mail).map_err(io_error(mail.display().to_string()))?;
    for mailbox in entries(&from.join("mail"))? {
        let Some(name) = mailbox.file_name() else { continue };
        let target = mail.join(name);
        if target.exists() {
            continue;
        }
        let partial = mail.join(format!(".{}.partial", name.to_string_lossy()));
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(io_error(partial.display().to_string()))?;
        }
        for kind in ["tmp", "cur", "new"] {
            let folder = partial.join(kind);
            fs::create_dir_all(&folder).map_err(io_error(folder.display().to_string()))?;
            if !mailbox.join(kind).is_dir() {
                continue;
            }
            for file in entries(&mailbox.join(kind))? {
                copy(&file, &folder.join(file.file_name().unwrap_or_default()))?;
            }
        }
        rename(&partial, &target)?;
    }
    let config = into.join("EmailAgent.xml");
    if !config.exists() {
        let partial = into.join(".EmailAgent.xml.partial");
        copy(&from.join("EmailAgent.xml"), &partial)?;
        rename(&partial, &config)?;
    }
    Ok(())
}

/// What is in a folder, sorted, names that begin with a dot left out.
fn entries(folder: &Path) -> email_router::Result<Vec<PathBuf>> {
    let read = fs::read_dir(folder).map_err(io_error(folder.display().to_string()))?;
    let mut paths: Vec<PathBuf> = read.filter_map(Result::ok).map(|e| e.path()).collect();
    paths.retain(|p| p.file_name().is_some_and(|n| !n.to_string_lossy().starts_with('.')));
    paths.sort();
    Ok(paths)
}

fn copy(from: &Path, to: &Path) -> email_router::Result<()> {
    fs::copy(from, to).map_err(io_error(format!("{} to {}", from.display(), to.display())))?;
    Ok(())
}

fn rename(from: &Path, to: &Path) -> email_router::Result<()> {
    fs::rename(from, to).map_err(io_error(format!("{} to {}", from.display(), to.display())))
}

/// Brings the records in, once.
async fn fill(admin: &Admin, folder: &Path) -> email_router::Result<()> {
    for table in TABLES {
        if admin.list(table, &RecordFilter { limit: 1, ..RecordFilter::default() }).await?.is_empty() {
            let path = folder.join(format!("{table}.csv"));
            let file = File::open(&path).map_err(io_error(path.display().to_string()))?;
            admin
                .import_csv(table, file, &path.display().to_string(), ImportOptions::default(), |_| {})
                .await?;
        }
    }
    let path = folder.join("email.csv");
    let file = File::open(&path).map_err(io_error(path.display().to_string()))?;
    admin.import_emails_csv(file, &path.display().to_string(), false).await?;
    Ok(())
}

fn say(global: &Global, text: &str) -> email_router::Result<()> {
    if global.json { Ok(()) } else { output::line(text).map_err(printing) }
}
