//! OAuth 2.0 client credentials (RFC 6749 section 4.4) at the token service of Microsoft Entra ID.
//!
//! | file | what |
//! |---|---|
//! | `cloud` | [`Cloud`]: where the token service and the mail services of each national cloud are |
//! | `settings` | [`OAuthSettings`], [`ClientProof`]: which application asks whom for what |
//! | `certificate` | [`ClientCertificate`]: client assertions (RFC 7523) instead of a secret |
//! | `proto` | the answer of the token service, without I/O |
//! | `error` | from AADSTS numbers to what happened and what to do |
//! | `source` | [`OAuthSource`]: one token for all mailboxes of an identity, asked for by one caller at a time |

mod certificate;
mod cloud;
mod error;
pub mod proto;
mod settings;
mod source;

pub use certificate::{AssertionAlgorithm, ClientCertificate};
pub use cloud::Cloud;
pub use error::explain;
pub use settings::{ClientProof, OAuthSettings, TokenService};
pub use source::{OAuthSource, TokenState};
