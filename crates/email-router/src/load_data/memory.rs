//! What the CRMs said at the last load.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use email_router_config::{Settings, replace_file};
use email_router_crm::CrmMailbox;
use email_router_model::{CapError, Timestamp, read_file_capped};
use serde::{Deserialize, Serialize};

/// The largest file read: a hundred thousand records take about fifty megabytes.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// The last load of each deployment, by its name in lower case.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    deployments: BTreeMap<String, LastLoad>,
}

/// The last load of one deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LastLoad {
    pub(super) at: Timestamp,
    pub(super) mailboxes: Vec<CrmMailbox>,
}

impl Memory {
    pub(super) fn get(&self, deployment: &str) -> Option<&LastLoad> {
        self.deployments.get(&deployment.to_lowercase())
    }

    /// With these loads in the place of earlier ones, and without deployments that are not configured any more. One that was not loaded keeps its last load.
    pub(super) fn with<'a>(
        mut self,
        loaded: impl Iterator<Item = (&'a str, &'a [CrmMailbox])>,
        at: Timestamp,
        settings: &Settings,
    ) -> Self {
        for (name, mailboxes) in loaded {
            self.deployments.insert(name.to_lowercase(), LastLoad { at, mailboxes: mailboxes.to_vec() });
        }
        self.deployments.retain(|name, _| settings.deployment(name).is_some());
        self
    }
}

/// `STATEFILE.loaded`.
pub(super) fn file(settings: &Settings) -> PathBuf {
    let mut file = settings.router.state_file.clone().into_os_string();
    file.push(".loaded");
    file.into()
}

/// The last load; nothing, and why, where it cannot be read.
pub(super) fn read(file: &Path) -> (Memory, Option<String>) {
    let bytes = match read_file_capped(file, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(CapError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return (Memory::default(), None);
        }
        Err(error) => {
            return (Memory::default(), Some(format!("the last load cannot be compared with: {error}")));
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(memory) => (memory, None),
        Err(error) => {
            let why =
                format!("the last load in {} cannot be read ({error}); it is written anew", file.display());
            (Memory::default(), Some(why))
        }
    }
}

pub(super) fn write(file: &Path, memory: &Memory) -> Result<(), String> {
    let bytes = serde_json::to_vec(memory).map_err(|e| e.to_string())?;
    replace_file(file, &bytes).map_err(|e| {
        format!("this load is not remembered for the next comparison: cannot write {}: {e}", file.display())
    })
}
