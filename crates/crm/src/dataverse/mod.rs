//! Dataverse and Dynamics 365: organizations on Microsoft's servers, online and on-premises.
//!
//! The wire contract is in `crm-contract.md`; where Microsoft has published nothing, a setting or a probe at connect time decides.

mod organization;
mod records;
mod settings;
mod tables;
mod web_api;

pub use self::settings::{
    ApiVersion, Application, DataverseSettings, EmailProcessing, Endpoint, LoginSource,
};
