//! Dataverse and Dynamics 365: organizations on Microsoft's servers, online and on-premises.
//!
//! The wire contract is in `crm-contract.md`; where Microsoft has published nothing, a setting or a probe at connect time decides.

mod client;
mod decides;
mod mirror;
mod organization;
mod probe;
mod records;
mod settings;
pub mod soap;
mod tables;
mod web_api;

pub use self::client::DataverseCrm;
pub use self::decides::ServerDecides;
pub use self::mirror::{MirrorDifference, MirrorSize, MirrorTable, MirrorVerification};
pub use self::probe::{CheckState, OrganizationCheck, OrganizationReport};
pub use self::settings::{
    ApiVersion, Application, DataverseSettings, EmailProcessing, Endpoint, LoginSource,
};
