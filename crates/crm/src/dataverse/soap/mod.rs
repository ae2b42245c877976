//! The Organization Service as SOAP 1.1 (`crm-contract.md` 4): requests written, answers read by namespace, name and type, whatever the prefixes. For CRM 2011
//! to 2016, which have no Web API or none with the messages about e-mail.

mod client;
mod request;
mod response;
mod tree;

#[cfg(test)]
mod tests;

pub(in crate::dataverse) use self::client::connect;
pub(in crate::dataverse) use self::response::fault;
use self::tree::Ns;

/// Whether these bytes are an answer of the Organization Service: everything that can be read of it is read. For tests with recorded answers, and for the fuzzer.
#[must_use]
pub fn is_answer(document: &[u8]) -> bool {
    let Ok(answer) = response::body(document) else { return false };
    fault(500, document).is_some()
        || response::results(&answer).is_some()
        || response::row(&answer).is_some()
        || response::page(&answer).is_some()
        || response::created(&answer).is_some()
        || (answer.is(Ns::Services, answer.name()) && answer.name().ends_with("Response"))
}
