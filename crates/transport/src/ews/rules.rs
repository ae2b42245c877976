//! Inbox rules by `GetInboxRules` and `UpdateInboxRules`.

use std::collections::HashMap;

use async_trait::async_trait;
use email_router_model::{EmailAddress, Mailbox};

use super::EwsTransport;
use super::client::{As, Failure, Session};
use super::proto::request::RuleChange;
use super::proto::response::Answer;
use super::proto::{Operation, rules as read};
use super::settings::MailboxAccess;
use crate::rules::{ForwardRule, InboxRules, RULE_MARKER, RuleCondition, RuleListing};
use crate::{Error, ErrorKind, Result};

/// So many recipients of one mailbox's rules are looked up at the most.
const MOST_LOOKUPS: usize = 50;

/// Whose rules a request names: an account that reaches another's mailbox has to say so.
fn whose(session: &Session) -> Option<EmailAddress> {
    let full = session.client.settings.access == MailboxAccess::FullAccess;
    full.then(|| session.identity.mailbox.address.clone())
}

async fn listing(session: &mut Session) -> Result<(RuleListing, Vec<u32>)> {
    let (mailbox, who) = (whose(session), As::reader(session.client.settings.access));
    let get = Operation::GetInboxRules(mailbox.as_ref());
    let answer = session.ask_one(&get, "read the inbox rules", who).await?;
    let (mut listing, priorities) = read::listing(&answer);
    resolve(session, &mut listing).await?;
    Ok((listing, priorities))
}

/// Puts addresses of mail in the place of directory names, as far as the address book knows them.
async fn resolve(session: &mut Session, listing: &mut RuleListing) -> Result<()> {
    let who = As::reader(session.client.settings.access);
    let mut known: HashMap<String, Option<String>> = HashMap::new();
    for to in listing.rules.iter_mut().flat_map(|rule| &mut rule.forwards_to) {
        if !read::is_directory_name(to) {
            continue;
        }
        if !known.contains_key(to) {
            if known.len() == MOST_LOOKUPS {
                continue;
            }
            let found = match session.ask_one(&Operation::ResolveNames(to), "look up a recipient", who).await
            {
                Ok(answer) => read::resolved(&answer),
                Err(Failure { code: Some(code), .. }) if code.starts_with("ErrorNameResolution") => None,
                Err(failure) => return Err(failure.error),
            };
            known.insert(to.clone(), found);
        }
        if let Some(Some(address)) = known.get(to) {
            to.clone_from(address);
        }
    }
    Ok(())
}

/// Makes one change. `Ok(Err(_))`: the server's answer to a change it refuses.
async fn change(
    session: &mut Session,
    change: RuleChange<'_>,
    remove_blob: bool,
) -> Result<Result<(), Answer>, Failure> {
    let (mailbox, who) = (whose(session), As::reader(session.client.settings.access));
    let update = Operation::UpdateInboxRules(mailbox.as_ref(), change, remove_blob);
    let (reply, _) =
        session.ask(&update, "change the inbox rules", who, super::client::Limits::PLAIN).await?;
    match reply.answers.into_iter().next() {
        Some(answer) if answer.problem.is_some() => Ok(Err(answer)),
        _ => Ok(Ok(())),
    }
}

fn refused(session: &Session, answer: &Answer) -> Error {
    let Some(problem) = &answer.problem else {
        return Error::new(ErrorKind::Protocol, format!("{}: a change without an answer", session.place));
    };
    let mut problem = problem.clone();
    let details = read::operation_errors(answer);
    if !details.is_empty() {
        problem.text = format!("{} {details}", problem.text).trim().to_owned();
    }
    let error = session.refused("change the inbox rules", &problem);
    if read::says_rule_not_found(answer) {
        let text = format!("{}: the mailbox has no such rule", session.place);
        return Error::new(ErrorKind::MessageGone, text).with_reply(error.reply().unwrap_or_default());
    }
    error
}

fn check(transport: &EwsTransport, rule: &ForwardRule) -> Result<()> {
    let wrong = |what: &str| Err(Error::new(ErrorKind::Settings, format!("{transport}: {what}")));
    if !rule.name.trim_end().ends_with(RULE_MARKER) {
        return wrong("the name of a rule of ours must end with its marker");
    }
    if rule.condition == RuleCondition::Other {
        return wrong("a rule applies to all mail, or where the mailbox is in To or Cc");
    }
    Ok(())
}

#[async_trait]
impl InboxRules for EwsTransport {
    async fn rules(&self, mailbox: &Mailbox) -> Result<RuleListing> {
        let mut session = self.client.session(mailbox).await?;
        Ok(listing(&mut session).await?.0)
    }

    async fn create_rule(
        &self,
        mailbox: &Mailbox,
        rule: &ForwardRule,
        remove_outlook_blob: bool,
    ) -> Result<String> {
        check(self, rule)?;
        let mut session = self.client.session(mailbox).await?;
        let (before, priorities) = listing(&mut session).await?;
        // priorities begin with 1, and no two rules may have the same
        let last = priorities.into_iter().filter(|p| *p < u32::MAX).max().unwrap_or(0);
        let create = RuleChange::Create(rule, last.saturating_add(1));
        if let Err(answer) = change(&mut session, create, remove_outlook_blob).await? {
            return Err(refused(&session, &answer));
        }
        // the answer does not tell the id
        let known: Vec<String> = before.rules.into_iter().map(|rule| rule.id).collect();
        let (after, _) = listing(&mut session).await?;
        let mut new = after.rules.into_iter().filter(|r| r.name == rule.name && !known.contains(&r.id));
        new.next_back().map(|rule| rule.id).ok_or_else(|| {
            let text = format!("{}: the rule was made and is not listed", session.place);
            Error::new(ErrorKind::Protocol, text)
        })
    }

    async fn update_rule(
        &self,
        mailbox: &Mailbox,
        id: &str,
        rule: &ForwardRule,
        remove_outlook_blob: bool,
    ) -> Result<()> {
        check(self, rule)?;
        let mut session = self.client.session(mailbox).await?;
        let (present, priorities) = listing(&mut session).await?;
        let Some(at) = present.rules.iter().position(|rule| rule.id == id) else {
            let text = format!("{}: the mailbox has no rule {id}", session.place);
            return Err(Error::new(ErrorKind::MessageGone, text));
        };
        let priority = priorities.get(at).copied().filter(|p| *p < u32::MAX).unwrap_or(1);
        match change(&mut session, RuleChange::Set(id, rule, priority), remove_outlook_blob).await? {
            Ok(()) => Ok(()),
            Err(answer) => Err(refused(&session, &answer)),
        }
    }

    async fn delete_rule(&self, mailbox: &Mailbox, id: &str, remove_outlook_blob: bool) -> Result<()> {
        let mut session = self.client.session(mailbox).await?;
        match change(&mut session, RuleChange::Delete(id), remove_outlook_blob).await? {
            Ok(()) => Ok(()),
            Err(answer) if read::says_rule_not_found(&answer) => Ok(()),
            Err(answer) => Err(refused(&session, &answer)),
        }
    }
}
