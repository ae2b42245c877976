//! What an organization on a server answers.

use email_router_crm::dataverse::soap;

/// An answer of the Organization Service out of any bytes: what can be read of it is read, twice to the same end.
pub fn dataverse_soap(data: &[u8]) {
    assert_eq!(soap::is_answer(data), soap::is_answer(data));
}
