//! CSV: a header row with column names, then one record a row. All rows or none.

use email_router_model::{EmailAddress, Entropy, Timestamp};
use rusqlite::Connection;
use serde::Serialize;
use uuid::Uuid;

use super::super::error::{DbError, DbResult};
use super::super::sql::random_id;
use super::columns::{ColumnKind, TableInfo, table};
use super::records::{self, Fields};
use crate::{Error, ErrorKind};

/// The largest file that is imported, bytes.
pub(super) const MAX_FILE: u64 = 256 << 20;
/// So many errors are named; reading stops there.
const MAX_ERRORS: usize = 20;
/// Progress is told every so many rows.
const STEP: u64 = 500;

/// How to import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImportOptions {
    /// Check everything, write nothing.
    pub dry_run: bool,
    /// A row whose primary address a record of the table has already changes that record instead of adding one. (A row with the
    /// key of a record does so always.)
    pub update_existing: bool,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    /// Rows done.
    pub rows: u64,
    /// Bytes of the file read.
    pub bytes: u64,
    /// Size of the file.
    pub total_bytes: u64,
}

/// What an import did, or with `dry_run` would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ImportReport {
    /// New records.
    pub added: u64,
    /// Changed records.
    pub updated: u64,
    /// Nothing was written.
    pub dry_run: bool,
}

/// Where to put what.
struct Header {
    /// The position of the key column.
    key: Option<usize>,
    /// The name of the column at each position; `None` is the key.
    columns: Vec<Option<String>>,
    /// The position of the primary address.
    address: Option<usize>,
}

/// Reads and writes the whole file in the transaction of `conn`. The error names file, line and column of the first mistake; its
/// hint lists the others.
pub(super) fn import(
    conn: &Connection,
    table_name: &str,
    (bytes, file): (&[u8], &str),
    options: ImportOptions,
    (entropy, now): (&dyn Entropy, Timestamp),
    mut progress: impl FnMut(ImportProgress),
) -> DbResult<ImportReport> {
    let info = table(conn, table_name)?;
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter(text))
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text);
    let header = match reader.headers() {
        Ok(header) => read_header(&info, header, file)?,
        Err(e) => return Err(broken(file, &e).into()),
    };
    let mut report = ImportReport { dry_run: options.dry_run, ..ImportReport::default() };
    let mut errors: Vec<Error> = Vec::new();
    let mut row = csv::StringRecord::new();
    let (total_bytes, mut rows) = (text.len() as u64, 0);
    loop {
        match reader.read_record(&mut row) {
            Ok(false) => break,
            Ok(true) => {
                let line = row.position().map_or(0, csv::Position::line);
                match one(conn, &info, &header, &row, options, (entropy, now)) {
                    Ok(true) => report.updated += 1,
                    Ok(false) => report.added += 1,
                    Err(DbError::Crm(e)) if matches!(e.kind(), ErrorKind::Invalid | ErrorKind::NotFound) => {
                        errors.push(Error::new(ErrorKind::Invalid, format!("{file}, line {line}, {e}")));
                    }
                    Err(DbError::Sql(e))
                        if e.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) =>
                    {
                        errors.push(Error::new(ErrorKind::Invalid, format!("{file}, line {line}, {e}")));
                    }
                    Err(e) => return Err(e),
                }
            }
            // text that is not UTF-8; the reader goes on with the next row
            Err(e) => errors.push(broken(file, &e)),
        }
        if errors.len() >= MAX_ERRORS {
            break;
        }
        rows += 1;
        if rows % STEP == 0 {
            progress(ImportProgress { rows, bytes: reader.position().byte(), total_bytes });
        }
    }
    progress(ImportProgress { rows, bytes: reader.position().byte(), total_bytes });
    let mut errors = errors.into_iter();
    let Some(first) = errors.next() else { return Ok(report) };
    let others: Vec<String> = errors.map(|e| e.to_string()).collect();
    Err(if others.is_empty() {
        first.with_hint("nothing was imported; correct the file and import it again")
    } else {
        let count = others.len();
        Error::new(ErrorKind::Invalid, format!("{first} (and {count} more mistakes)"))
            .with_hint(format!("nothing was imported; the other mistakes: {}", others.join("; ")))
    }
    .into())
}

/// Writes one row; `true` when it changed a record that was there.
fn one(
    conn: &Connection,
    info: &TableInfo,
    header: &Header,
    row: &csv::StringRecord,
    options: ImportOptions,
    (entropy, now): (&dyn Entropy, Timestamp),
) -> DbResult<bool> {
    if row.len() != header.columns.len() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{} fields; the header has {}", row.len(), header.columns.len()),
        )
        .into());
    }
    let fields: Fields = header
        .columns
        .iter()
        .zip(row)
        .filter_map(|(name, text)| Some((name.clone()?, text.to_owned())))
        .collect();
    let key = match header.key.and_then(|at| row.get(at)).filter(|t| !t.is_empty()) {
        None => None,
        Some(text) => Some(Uuid::try_parse(text).map_err(|_| {
            Error::new(ErrorKind::Invalid, format!("column {}: {text:?} is not an id", info.id_column))
        })?),
    };
    let existing = match key {
        Some(id) => records::by_id(conn, info, id)?.map(|r| r.id),
        None if options.update_existing => by_address(conn, info, header, row)?,
        None => None,
    };
    match existing {
        Some(id) => records::update(conn, info, id, &fields, now)?,
        None => records::add(conn, info, key.unwrap_or_else(|| random_id(entropy)), &fields, now)?,
    }
    Ok(existing.is_some())
}

fn by_address(
    conn: &Connection,
    info: &TableInfo,
    header: &Header,
    row: &csv::StringRecord,
) -> DbResult<Option<Uuid>> {
    let column = header.address.and_then(|at| header.columns.get(at)).and_then(Option::as_deref);
    let text = header.address.and_then(|at| row.get(at)).unwrap_or_default();
    let Ok(address) = EmailAddress::parse(text) else { return Ok(None) }; // reported when the column is read
    let found = records::with_address(conn, info, &address, column)?;
    if found.len() > 1 {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("column {}: several records have the address {address}", column.unwrap_or_default()),
        )
        .into());
    }
    Ok(found.first().copied())
}

fn read_header(info: &TableInfo, header: &csv::StringRecord, file: &str) -> Result<Header, Error> {
    let mut columns = Vec::new();
    let mut key = None;
    for (at, name) in header.iter().enumerate() {
        if name.eq_ignore_ascii_case(&info.id_column) {
            key = Some(at);
            columns.push(None);
            continue;
        }
        let column = info.column(name).map_err(|e| {
            use email_router_model::Classified as _;
            let hint = e.hint().unwrap_or_default().to_owned();
            Error::new(ErrorKind::Invalid, format!("{file}, line 1, column {}: {e}", at + 1)).with_hint(hint)
        })?;
        if columns.iter().flatten().any(|c| *c == column.name) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{file}, line 1, column {}: {} stands there twice", at + 1, column.name),
            ));
        }
        columns.push(Some(column.name.clone()));
    }
    let primary = info.columns.iter().find(|c| c.kind == ColumnKind::Address).map(|c| c.name.as_str());
    let address = columns.iter().position(|c| c.as_deref() == primary);
    Ok(Header { key, columns, address })
}

/// What separates the fields: of `,`, `;` and tab the one that the header row has most of (`;` is what spreadsheets write where
/// the comma is the decimal sign).
fn delimiter(text: &[u8]) -> u8 {
    let header = text.split(|b| *b == b'\n').next().unwrap_or_default();
    let count = |wanted: u8| {
        let mut quoted = false;
        header
            .iter()
            .filter(|b| {
                quoted ^= **b == b'"';
                !quoted && **b == wanted
            })
            .count()
    };
    let mut best = b',';
    for candidate in [b';', b'\t'] {
        if count(candidate) > count(best) {
            best = candidate;
        }
    }
    best
}

fn broken(file: &str, error: &csv::Error) -> Error {
    let line = error.position().map_or(1, csv::Position::line);
    let what = match error.kind() {
        csv::ErrorKind::Utf8 { err, .. } => format!("column {}: the text is not UTF-8", err.field() + 1),
        _ => error.to_string(),
    };
    Error::new(ErrorKind::Invalid, format!("{file}, line {line}, {what}"))
}
