//! Reading with a limit. The lints of the workspace forbid every unbounded read; these two functions are the way to read
//! something whole.

use std::io::{self, Read};
use std::path::Path;

/// Why a capped read failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CapError {
    /// The source holds more than the caller allows.
    #[error("{what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What was read, for the message.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The source could not be read.
    #[error("cannot read {what}: {source}")]
    Io {
        /// What was read, for the message.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

/// Reads everything from `reader`, or fails when that is more than `limit` bytes; `what` names the source in errors.
///
/// # Errors
/// [`CapError::TooLarge`] beyond the limit, [`CapError::Io`] when reading fails. Nothing partial is returned.
pub fn read_capped(reader: impl Read, limit: u64, what: &str) -> Result<Vec<u8>, CapError> {
    let mut bytes = Vec::new();
    #[allow(clippy::disallowed_methods)] // this is the one place that may: `take` is the cap
    let read = reader.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    match read {
        Err(source) => Err(CapError::Io { what: what.to_owned(), source }),
        Ok(n) if n as u64 > limit => Err(CapError::TooLarge { what: what.to_owned(), limit }),
        Ok(_) => Ok(bytes),
    }
}

/// Reads the file at `path` whole, or fails when it is larger than `limit` bytes.
///
/// # Errors
/// As [`read_capped`]; the message names the file.
pub fn read_file_capped(path: &Path, limit: u64) -> Result<Vec<u8>, CapError> {
    let what = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|source| CapError::Io { what: what.clone(), source })?;
    read_capped(file, limit, &what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_inclusive() {
        assert_eq!(read_capped(&b"abcd"[..], 4, "x").unwrap(), b"abcd");
        let error = read_capped(&b"abcde"[..], 4, "x").unwrap_err();
        assert_eq!(error.to_string(), "x is larger than the limit of 4 bytes");
    }
}
