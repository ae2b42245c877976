//! From the rules a mailbox has to what must be done, without doing it.

use serde::Serialize;

use super::{ForwardRule, InboxRule, InboxRules, RuleCondition, RuleListing};
use crate::{ErrorKind, Result};
use email_router_model::Mailbox;

/// What is wanted of a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Exactly this rule of ours.
    Deployed(ForwardRule),
    /// No rule of ours.
    Removed,
}

/// How a mailbox stands to what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleState {
    /// As wanted.
    AsWanted,
    /// There is no rule of ours, and one is wanted.
    Missing,
    /// There is a rule of ours, and it is another one: other target, switched off, changed by hand, or more than one.
    Different,
    /// Somebody else's rule forwards all that is wanted to the same mailbox already; one of ours beside it would forward everything twice.
    ForwardedByAnother,
    /// There is a rule of ours, and none is wanted.
    Present,
}

/// One change to the rules of a mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum RuleChange {
    /// Create the wanted rule.
    Create,
    /// Make this rule of ours the wanted one.
    Update {
        /// Its id.
        id: String,
    },
    /// Delete this rule of ours.
    Delete {
        /// Its id.
        id: String,
    },
}

/// What must be done about one mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RulePlan {
    /// How it stands now.
    pub state: RuleState,
    /// What has to be changed; empty where nothing has.
    pub changes: Vec<RuleChange>,
    /// The names of our rules that are there now.
    pub present: Vec<String>,
    /// What is worth knowing before anything is changed.
    pub warnings: Vec<String>,
}

impl RulePlan {
    /// Compares what a mailbox has with what is wanted. Rules of others are looked at and never changed.
    #[must_use]
    pub fn of(listing: &RuleListing, wanted: &Wanted) -> Self {
        let ours: Vec<&InboxRule> = listing.rules.iter().filter(|rule| rule.is_ours()).collect();
        let present = ours.iter().map(|rule| rule.name.clone()).collect();
        let (state, changes) = match wanted {
            Wanted::Removed if ours.is_empty() => (RuleState::AsWanted, Vec::new()),
            Wanted::Removed => (RuleState::Present, ours.iter().map(|rule| delete(rule)).collect()),
            Wanted::Deployed(rule) => deploy(&ours, listing, rule),
        };
        let mut warnings = Vec::new();
        if listing.outlook_blob && !changes.is_empty() {
            warnings.push(
                "Outlook keeps rules of its own in this mailbox (client-only or switched off): a change here loses them".to_owned(),
            );
        }
        for rule in &ours {
            if rule.in_error {
                warnings.push(format!("the server could not carry out {:?}", rule.name));
            }
        }
        if let Wanted::Deployed(rule) = wanted {
            warnings.extend(neighbours(listing, rule, state));
        }
        Self { state, changes, present, warnings }
    }

    /// Carries the changes out, in order.
    ///
    /// # Errors
    /// The mail system's errors; [`ErrorKind::Settings`] where Outlook's own rules would be lost and `remove_outlook_blob` does not allow that. Changes
    /// that were made before stay; planning again shows what is left.
    pub async fn carry_out(
        &self,
        rules: &dyn InboxRules,
        mailbox: &Mailbox,
        wanted: &Wanted,
        listing: &RuleListing,
        remove_outlook_blob: bool,
    ) -> Result<()> {
        if listing.outlook_blob && !self.changes.is_empty() && !remove_outlook_blob {
            let message =
                format!("{rules}: Outlook keeps rules of its own in {mailbox}, which a change would lose");
            return Err(crate::Error::new(ErrorKind::Settings, message).with_hint(
                "have the user note down these rules, and allow their loss (--remove-outlook-rules)",
            ));
        }
        for change in &self.changes {
            match (change, wanted) {
                (RuleChange::Create, Wanted::Deployed(rule)) => {
                    rules.create_rule(mailbox, rule, remove_outlook_blob).await?;
                }
                (RuleChange::Update { id }, Wanted::Deployed(rule)) => {
                    rules.update_rule(mailbox, id, rule, remove_outlook_blob).await?;
                }
                (RuleChange::Delete { id }, _) => {
                    rules.delete_rule(mailbox, id, remove_outlook_blob).await?;
                }
                // a plan is carried out for what it was made for
                (RuleChange::Create | RuleChange::Update { .. }, Wanted::Removed) => {}
            }
        }
        Ok(())
    }
}

fn delete(rule: &InboxRule) -> RuleChange {
    RuleChange::Delete { id: rule.id.clone() }
}

/// One rule of ours stays or is created, all others of ours go.
fn deploy(ours: &[&InboxRule], listing: &RuleListing, wanted: &ForwardRule) -> (RuleState, Vec<RuleChange>) {
    let met = ours.iter().position(|rule| wanted.is_met_by(rule));
    if ours.is_empty() {
        return match listing.rules.iter().any(|rule| replaces(rule, wanted)) {
            true => (RuleState::ForwardedByAnother, Vec::new()),
            false => (RuleState::Missing, vec![RuleChange::Create]),
        };
    }
    let kept = met.unwrap_or(0);
    let mut changes = Vec::new();
    if met.is_none() {
        changes.push(RuleChange::Update { id: ours[kept].id.clone() });
    }
    changes.extend(ours.iter().enumerate().filter(|(n, _)| *n != kept).map(|(_, rule)| delete(rule)));
    let state = if changes.is_empty() { RuleState::AsWanted } else { RuleState::Different };
    (state, changes)
}

/// Whether a rule that is not ours forwards to the forward mailbox, be it only a part of the mail.
fn forwards_there(rule: &InboxRule, wanted: &ForwardRule) -> bool {
    let target = wanted.forward_to.as_str();
    !rule.is_ours()
        && rule.enabled
        && !rule.in_error
        && rule.forwards_to.iter().any(|to| to.eq_ignore_ascii_case(target))
}

/// Whether such a rule applies to all that ours would apply to.
fn replaces(rule: &InboxRule, wanted: &ForwardRule) -> bool {
    forwards_there(rule, wanted)
        && (rule.condition == RuleCondition::All || rule.condition == wanted.condition)
}

/// What the rules of others do to ours.
fn neighbours(listing: &RuleListing, wanted: &ForwardRule, state: RuleState) -> Vec<String> {
    let mut warnings = Vec::new();
    if state == RuleState::ForwardedByAnother {
        warnings.push(
            "a rule that is not of this program forwards to the forward mailbox; delete it by hand, or leave it as it is"
                .to_owned(),
        );
        return warnings;
    }
    for rule in listing.rules.iter().filter(|rule| forwards_there(rule, wanted)) {
        warnings.push(format!("{:?}, which is not of this program, forwards there, too: that mail arrives twice, and counts once", rule.name));
    }
    // ours is the last one, so that no other has to be changed
    let before = listing.rules.iter().take_while(|rule| !rule.is_ours());
    for rule in before.filter(|rule| rule.enabled && rule.stops) {
        warnings.push(format!(
            "{:?} stops the processing of more rules: what it applies to is not forwarded; move it behind the rule of this program, or have it not stop",
            rule.name
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(id: &str, name: &str, to: &str) -> InboxRule {
        InboxRule {
            id: id.to_owned(),
            name: name.to_owned(),
            enabled: true,
            in_error: false,
            forwards_to: vec![to.to_owned()],
            condition: RuleCondition::All,
            does_more: false,
            stops: false,
        }
    }

    fn wanted() -> ForwardRule {
        ForwardRule {
            name: "Forward to CRM [email-router]".to_owned(),
            forward_to: "crm@contoso.test".parse().unwrap(),
            condition: RuleCondition::All,
        }
    }

    #[test]
    fn what_has_to_be_done() {
        use RuleState as S;
        const OURS: &str = "Forward to CRM [email-router]";
        let good = rule("1", OURS, "CRM@contoso.test");
        let with = |change: &dyn Fn(&mut InboxRule)| {
            let mut changed = good.clone();
            change(&mut changed);
            changed
        };
        let foreign = rule("9", "Holiday", "ben@contoso.test");
        let update = |id: &str| RuleChange::Update { id: id.to_owned() };
        let delete = |id: &str| RuleChange::Delete { id: id.to_owned() };
        for (rules, state, changes) in [
            (vec![], S::Missing, vec![RuleChange::Create]),
            (vec![foreign.clone()], S::Missing, vec![RuleChange::Create]),
            (vec![foreign.clone(), good.clone()], S::AsWanted, vec![]),
            (vec![with(&|r| r.enabled = false)], S::Different, vec![update("1")]),
            (vec![with(&|r| r.in_error = true)], S::Different, vec![update("1")]),
            (vec![with(&|r| r.does_more = true)], S::Different, vec![update("1")]),
            (vec![with(&|r| r.condition = RuleCondition::SentToOrCcMe)], S::Different, vec![update("1")]),
            (
                vec![with(&|r| r.forwards_to = vec!["old@contoso.test".to_owned()])],
                S::Different,
                vec![update("1")],
            ),
            (
                vec![with(&|r| r.name = "Old name [email-router] ".to_owned())],
                S::Different,
                vec![update("1")],
            ),
            (
                vec![rule("0", "Older [email-router]", "old@contoso.test"), good.clone()],
                S::Different,
                vec![delete("0")],
            ),
            (
                vec![
                    with(&|r| r.enabled = false),
                    with(&|r| {
                        r.id = "2".to_owned();
                        r.enabled = false
                    }),
                ],
                S::Different,
                vec![update("1"), delete("2")],
            ),
            (vec![rule("3", "By hand", "crm@contoso.test")], S::ForwardedByAnother, vec![]),
            (
                vec![{
                    let mut r = rule("3", "By hand", "crm@contoso.test");
                    r.enabled = false;
                    r
                }],
                S::Missing,
                vec![RuleChange::Create],
            ),
        ] {
            let listing = RuleListing { rules, outlook_blob: false };
            let plan = RulePlan::of(&listing, &Wanted::Deployed(wanted()));
            assert_eq!((plan.state, &plan.changes), (state, &changes), "{listing:?}");
            assert!(!plan.changes.contains(&delete("9")) && !plan.changes.contains(&update("9")));
            let removal = RulePlan::of(&listing, &Wanted::Removed);
            let ours: Vec<_> = listing.rules.iter().filter(|r| r.is_ours()).map(|r| delete(&r.id)).collect();
            assert_eq!(removal.changes, ours, "only our own rules go");
        }
    }

    #[test]
    fn rules_of_others_that_matter_to_ours() {
        let ours = || rule("1", "Forward to CRM [email-router]", "crm@contoso.test");
        let other = |change: &dyn Fn(&mut InboxRule)| {
            let mut rule = rule("9", "By hand", "crm@contoso.test");
            change(&mut rule);
            rule
        };
        let part = other(&|r| r.condition = RuleCondition::Other);
        let broken = other(&|r| r.in_error = true);
        let stops = other(&|r| (r.stops, r.forwards_to) = (true, vec![]));
        let off = other(&|r| (r.stops, r.enabled, r.forwards_to) = (true, false, vec![]));
        for (rules, state, words) in [
            (vec![part.clone()], RuleState::Missing, vec!["arrives twice"]),
            (vec![ours(), part], RuleState::AsWanted, vec!["arrives twice"]),
            (vec![broken], RuleState::Missing, vec![]),
            (vec![stops.clone()], RuleState::Missing, vec!["\"By hand\" stops"]),
            (vec![stops.clone(), ours()], RuleState::AsWanted, vec!["\"By hand\" stops"]),
            (vec![ours(), stops.clone()], RuleState::AsWanted, vec![]),
            (vec![off, ours()], RuleState::AsWanted, vec![]),
        ] {
            let listing = RuleListing { rules, outlook_blob: false };
            let plan = RulePlan::of(&listing, &Wanted::Deployed(wanted()));
            assert_eq!((plan.state, plan.warnings.len()), (state, words.len()), "{listing:?} {plan:?}");
            assert!(plan.warnings.iter().zip(words).all(|(w, part)| w.contains(part)), "{plan:?}");
            let removal = RulePlan::of(&listing, &Wanted::Removed);
            assert_eq!(removal.warnings, Vec::<String>::new(), "they do not matter to nothing");
        }
    }

    #[test]
    fn rules_that_outlook_would_lose_are_told_of_where_something_changes() {
        let listing = RuleListing { rules: vec![], outlook_blob: true };
        let warned = |listing: &RuleListing| {
            let plan = RulePlan::of(listing, &Wanted::Deployed(wanted()));
            plan.warnings.iter().any(|w| w.contains("Outlook"))
        };
        assert!(warned(&listing));
        let there = vec![rule("1", "Forward to CRM [email-router]", "crm@contoso.test")];
        assert!(!warned(&RuleListing { rules: there, outlook_blob: true }));
    }
}
