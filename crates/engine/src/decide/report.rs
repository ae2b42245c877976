//! Which e-mail of the CRM a delivery report is about.

use email_router_crm::{CorrelationMethod, DeliveryReport, EmailSummary};
use email_router_model::{EmailAddress, Timestamp};

use super::Trace;
use super::correlate::{Correlation, Hit};
use crate::Result;
use crate::message::{Message, Report};
use crate::ports::CorrelationIndex;

/// A report about an e-mail of ours.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tied {
    /// What the CRM is told.
    pub(super) report: DeliveryReport,
    /// The e-mail counts as the one this message answers.
    pub(super) correlation: Correlation,
}

/// The e-mail a report is about; `None` for any other message, and for a report about someone else's mail.
///
/// The Message-ID of the returned message decides. The envelope id alone does not: whoever wants to harm can write any id into a report,
/// so one of its recipients must be a recipient of the e-mail too.
pub(super) async fn tie(
    message: &Message,
    index: &dyn CorrelationIndex,
    trace: &mut Trace,
) -> Result<Option<Tied>> {
    let Some(found) = &message.report else { return Ok(None) };
    let email = match by_message_id(found, index).await? {
        Some(email) => Some(email),
        None => by_envelope_id(found, index).await?,
    };
    let Some(email) = email else {
        let ids: Vec<&str> = found.message_ids.iter().map(|id| id.as_str()).collect();
        trace.step(
            "delivery report",
            format!("it is about someone else's mail: the CRM sent none with {}", list(&ids)),
        );
        return Ok(None);
    };
    let what: Vec<String> = found
        .recipients
        .iter()
        .map(|r| {
            format!("{} {} {}", r.address, r.action.as_str(), r.status.as_deref().unwrap_or(""))
                .trim_end()
                .to_owned()
        })
        .collect();
    trace.step(
        "delivery report",
        format!("about {:?} ({}), read as {}: {}", email.subject, email.activity_id, found.form, list(&what)),
    );
    let report = DeliveryReport {
        activity_id: email.activity_id,
        report: message.identity().unwrap_or_default(),
        at: message.received.or(message.date).unwrap_or(Timestamp::UNIX_EPOCH),
        recipients: found.recipients.clone(),
    };
    let hit = Hit {
        email,
        method: CorrelationMethod::Custom,
        how: "delivery_report",
        token: None,
        weak: false,
        named_only: false,
    };
    Ok(Some(Tied { report, correlation: Correlation { method: hit.method, hit: Some(hit) } }))
}

async fn by_message_id(report: &Report, index: &dyn CorrelationIndex) -> Result<Option<EmailSummary>> {
    if report.message_ids.is_empty() {
        return Ok(None);
    }
    let found = index.by_message_ids(&report.message_ids).await?;
    // in the order of the report: the most certain first
    Ok(report.message_ids.iter().find_map(|id| {
        found
            .iter()
            .filter(|e| e.outgoing && e.message_id.as_ref() == Some(id))
            .max_by_key(|e| (e.created_on, e.activity_id))
            .cloned()
    }))
}

async fn by_envelope_id(report: &Report, index: &dyn CorrelationIndex) -> Result<Option<EmailSummary>> {
    let Some(id) = report.envelope_id else { return Ok(None) };
    let found = index.by_ids(&[id]).await?;
    let sent_to = |email: &EmailSummary, address: &EmailAddress| {
        email.parties.iter().any(|p| p.address.as_ref() == Some(address))
    };
    Ok(found.into_iter().find(|e| e.outgoing && report.recipients.iter().any(|r| sent_to(e, &r.address))))
}

/// The first ones, and how many there are.
fn list(items: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 5;
    if items.is_empty() {
        return "no Message-ID in it".to_owned();
    }
    let shown: Vec<&str> = items.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = if items.len() > SHOWN { format!(" and {} more", items.len() - SHOWN) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
