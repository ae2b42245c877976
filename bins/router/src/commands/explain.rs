//! `explain`: what would become of a message, and why.

use std::path::Path;
use std::process::ExitCode;

use email_router::OpenOptions;
use email_router::model::{RawMessage, read_file_capped};

use super::{open, printing};
use crate::args::Global;
use crate::{output, report};

/// The largest file that is explained; larger messages go to quarantine anyway.
const LIMIT: u64 = 150 * 1024 * 1024;

pub(crate) async fn run(
    global: &Global,
    file: &Path,
    mailbox: Option<&str>,
) -> email_router::Result<ExitCode> {
    let bytes = read_file_capped(file, LIMIT).map_err(|e| email_router::Error::Request(e.to_string()))?;
    let service = open(global, OpenOptions::look()).await?;
    let record = service.explain(&RawMessage::new(bytes), mailbox).await?;
    if global.json {
        output::json(&record).map_err(printing)?;
    } else {
        output::line(&report::incoming(&record, true)).map_err(printing)?;
        output::line("nothing was written").map_err(printing)?;
    }
    Ok(ExitCode::SUCCESS)
}
