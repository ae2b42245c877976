//! Messages under information rights management, which `RestrictIRMEmailItems` keeps out of the CRM (`crm-contract.md` 7.1).

use crate::message::Message;

/// Whether the message is rights-managed: its content class says so ([MS-OXORMMS] 2.2.2.1), or all of it is the protected part. Either
/// stands in the header section, so the body need not be fetched to know.
pub(super) fn is_rights_managed(message: &Message) -> bool {
    let says = |field: &str, value: &str| {
        message.header(field).is_some_and(|text| {
            let first = text.split(';').next().unwrap_or_default();
            first.trim().eq_ignore_ascii_case(value)
        })
    };
    says("Content-Class", "rpmsg.message") || says("Content-Type", "application/x-microsoft-rpmsg-message")
}
