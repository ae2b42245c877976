//! The conversation as the mail system counts it: its id, where a transport gives one, else the root of Thread-Index
//! (`crm-contract.md` 8.3).

use email_router_crm::{CorrelationMethod, EmailSummary};

use super::{Hit, MAX_CANDIDATES, Question, newness};
use crate::Result;
use crate::decide::Trace;
use crate::ports::CorrelationIndex;

pub(super) async fn find(
    question: &Question<'_>,
    index: &dyn CorrelationIndex,
    trace: &mut Trace,
) -> Result<Option<Hit>> {
    let root = question.message.conversation_root();
    let id = question.message.conversation_id.as_deref();
    if root.is_none() && id.is_none() {
        trace.step("correlate conversation_index", "there is no conversation id and no Thread-Index");
    }
    if let Some(id) = id {
        let found = index.by_conversation_id(id, MAX_CANDIDATES).await?;
        if let Some(hit) = newest(question, "conversation_id", &found, trace) {
            return Ok(Some(hit));
        }
    }
    if let Some(root) = root {
        let found = index.by_conversation_root(root, MAX_CANDIDATES).await?;
        return Ok(newest(question, "conversation_index", &found, trace));
    }
    Ok(None)
}

fn newest(
    question: &Question<'_>,
    how: &'static str,
    found: &[EmailSummary],
    trace: &mut Trace,
) -> Option<Hit> {
    let rule = format!("correlate {how}");
    let Some(email) = found.iter().filter(|e| !question.is_itself(e)).max_by_key(|e| newness(e)) else {
        trace.step(rule, "no e-mail of the CRM belongs to the conversation");
        return None;
    };
    let what = format!("the newest e-mail of the conversation is {:?}", email.subject);
    if question.is_unwanted_forward(email) {
        trace.step(rule, format!("{what}, but this looks like a forward of it: not taken"));
        return None;
    }
    trace.step(rule, format!("{what} ({})", email.activity_id));
    Some(Hit::new(email, CorrelationMethod::ConversationIndex, how))
}
