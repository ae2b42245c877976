//! Hot reload: looking at the file again at `ConfigRefreshPeriod`.

use std::fmt;
use std::path::{Path, PathBuf};

use email_router_model::read_file_capped;

use crate::load::{LoadError, LoadOutcome};
use crate::settings::Settings;
use crate::tree::MAX_BYTES;

/// Watches one configuration file. Whoever runs the router calls [`Self::poll`] at `ConfigRefreshPeriod`.
pub struct Reloader {
    path: PathBuf,
    seen: Option<Vec<u8>>,
}

impl fmt::Debug for Reloader {
    /// Without the content: it may hold a password that should not be there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What a look at the file gave.
#[derive(Debug)]
pub enum Reload {
    /// The file is as it was; also while a file that was refused stays as it is.
    Unchanged,
    /// The file changed and can be used.
    Changed(Box<LoadOutcome>),
    /// The file changed and cannot be used: keep the settings that run, and say why. Told once per change.
    Refused(LoadError),
}

impl Reloader {
    /// Loads `path` and watches it from the very content that was loaded, so that no change in between is missed.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load(path: &Path) -> Result<(Self, LoadOutcome), LoadError> {
        let seen = match read(path) {
            Ok(bytes) => bytes,
            // too large counts as damage, and everything else as unreadable: the same call decides
            Err(_) => return Settings::load(path).map(|o| (Self { path: path.to_owned(), seen: None }, o)),
        };
        let outcome = Settings::from_bytes(&seen, path)?;
        Ok((Self { path: path.to_owned(), seen: Some(seen) }, outcome))
    }

    /// Looks at the file. It compares the content, as times of change are too coarse for two changes in one second; the file is
    /// small.
    pub fn poll(&mut self) -> Reload {
        let bytes = match read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) => {
                // gone for good, or being replaced by hand; what runs goes on
                return match self.seen.take() {
                    None => Reload::Unchanged,
                    Some(_) => Reload::Refused(LoadError::Unreadable(error)),
                };
            }
        };
        if self.seen.as_deref() == Some(&bytes[..]) {
            return Reload::Unchanged;
        }
        let outcome = Settings::from_bytes(&bytes, &self.path);
        self.seen = Some(bytes);
        match outcome {
            // a damaged file is no reason to go back to an older one while good settings run
            Ok(outcome) if outcome.generation == crate::load::Generation::Previous => {
                Reload::Refused(LoadError::Invalid(outcome.findings))
            }
            Ok(outcome) => Reload::Changed(Box::new(outcome)),
            Err(error) => Reload::Refused(error),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, email_router_model::CapError> {
    read_file_capped(path, MAX_BYTES as u64)
}
