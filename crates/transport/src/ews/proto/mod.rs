//! Exchange Web Services and Autodiscover without a network: requests as bytes, responses as values.
//!
//! | module | what |
//! |---|---|
//! | [`version`] | `RequestServerVersion` and the way down |
//! | [`request`] | the operations, in the element order of the published schema |
//! | [`carve`] | takes the MIME content out of a response while it arrives |
//! | [`tree`] | the rest of a response as a small tree |
//! | [`response`] | response messages, faults, items, changes |
//! | [`rules`] | inbox rules in responses |
//! | [`autodiscover`] | requests and responses of Autodiscover, both forms |
//! | [`dns`] | the SRV records of a name |
//! | [`stream`] | cuts the endless response of `GetStreamingEvents` into envelopes |

pub mod autodiscover;
pub mod carve;
pub mod dns;
pub mod request;
pub mod response;
pub mod rules;
pub mod stream;
pub mod tree;
pub mod version;
mod xml;

pub use request::{DeleteType, Folder, Impersonation, Operation, Part};
pub use response::{Answer, Fault, Problem, Reply};
pub use version::Version;
