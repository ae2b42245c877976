//! The configuration file of email-router: `EmailAgent.xml`, with the published names of the original.
//!
//! It checks the file with the line and column of every fault, turns it into typed [`Settings`], changes it without touching
//! what it does not know, publishes it atomically, keeps secrets out of it, and imports the original's `SystemState.xml`. The file
//! format is documented element by element in `FORMAT.md` beside this crate.
//!
//! What it deliberately is not: it opens no connection, knows no transport, CRM or engine, and never resolves a secret while it
//! loads a file.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | [`Settings`]: the checked settings, and every rule of the dialogs |
//! | [`load`] | [`check()`], [`check_bytes`], [`Settings::load`]: text or file to settings and findings |
//! | [`finding`] | [`Finding`]: what is wrong, with file, line and column |
//! | [`words`] | the enumerations |
//! | [`wire`] | the file's shape for yaserde |
//! | [`document`], [`mod@publish`], [`reload`] | lossless changes, atomic publishing, hot reload |
//! | [`secret`], [`store`], [`mod@rotate`] | [`SecretRef`], [`SecretStore`]: references, encryption, keys |
//! | [`credential_store`] | [`CredentialStore`]: passwords of mailboxes that have none in the file |
//! | [`mod@reference_key`] | the key of references in outgoing mail |
//! | [`system_state`] | the original's `SystemState.xml` |
#![warn(missing_docs)]

pub mod credential_store;
pub mod document;
mod files;
pub mod finding;
mod lint;
pub mod load;
pub mod publish;
pub mod reference_key;
pub mod reload;
pub mod rotate;
pub mod secret;
pub mod settings;
pub mod store;
pub mod system_state;
mod tree;
pub mod wire;
pub mod words;

pub use credential_store::{
    CREDENTIALS_FILE, CredentialStore, CredentialStoreError, StoredCredential, credentials_file,
    remove_credential, set_credential,
};
pub use document::{Document, EditError, ElementPath};
pub use finding::{Code, Finding, Position, Severity};
pub use load::{Generation, LoadError, LoadOutcome, check, check_bytes, previous_path};
pub use publish::{PublishError, Published, publish, publish_edited, replace_file};
pub use reference_key::reference_key;
pub use reload::{Reload, Reloader};
pub use rotate::{RotateError, Rotated, rotate, set_secret};
pub use secret::{Sealed, SecretRef, SecretRefError};
pub use settings::{
    Application, ApplicationProof, ByName, CombinationRow, Credentials, DEFAULT_KEY_FILE, Deployment,
    DeploymentTarget, EnvelopeSender, Kerberos, Location, MailSource, MailboxOptions, MailboxSettings,
    Profile, ProviderOverrides, Proxy, RouterSettings, ServerApplication, ServerCredentials,
    ServerDeployment, Settings, SystemSettings, Tuning, combinations,
};
pub use store::{Key, SecretError, SecretStore, key_file_of};
pub use system_state::SystemState;
pub use tree::{Damage, MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS};
pub use words::{
    AccessCredentials, AccessType, AuthenticationType, Cloud, CrmEndpoint, DecisionHistory, DeleteType,
    DeploymentFamily, DeploymentType, EmailProcessing, ExchangeVersion, InDoubtPolicy, LogLevel,
    MailboxAccess, OverridePolicy, Protocol, ServerType, TlsMode, UserType, Word,
};
