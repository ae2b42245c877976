//! Server-side inbox rules, as far as the Rule Deployment Wizard needs them: what an adapter offers ([`InboxRules`]), and what has to be done
//! about a mailbox ([`RulePlan`]).
//!
//! The original's wizard put one rule into each chosen mailbox: forward a copy of what arrives, as an attachment, to the forward mailbox.

mod plan;

pub use plan::{RuleChange, RulePlan, RuleState, Wanted};

use std::fmt::{Debug, Display};

use async_trait::async_trait;
use email_router_model::{EmailAddress, Mailbox};
use serde::Serialize;

use crate::Result;

/// What the name of every rule of ours ends with; a rule whose name does not is somebody else's and is never touched.
pub const RULE_MARKER: &str = "[email-router]";

/// A mail system whose mailboxes have server-side inbox rules (Exchange by EWS, Exchange Online by Graph).
#[async_trait]
pub trait InboxRules: Debug + Display + Send + Sync + 'static {
    /// All rules of a mailbox, in the order in which they are applied.
    ///
    /// # Errors
    /// As reading the mailbox; [`ErrorKind::AccessDenied`](crate::ErrorKind::AccessDenied) where the account may not see its rules.
    async fn rules(&self, mailbox: &Mailbox) -> Result<RuleListing>;

    /// Creates a rule behind all others and returns its id. `remove_outlook_blob`: also where the mailbox has rules that Outlook keeps for itself, which
    /// the server then drops ([`RuleListing::outlook_blob`]).
    ///
    /// # Errors
    /// [`ErrorKind::MessageRefused`](crate::ErrorKind::MessageRefused) with the server's words where it takes the rule for invalid.
    async fn create_rule(
        &self,
        mailbox: &Mailbox,
        rule: &ForwardRule,
        remove_outlook_blob: bool,
    ) -> Result<String>;

    /// Makes the rule of this id what `rule` says, enabled.
    ///
    /// # Errors
    /// As [`Self::create_rule`]; [`ErrorKind::MessageGone`](crate::ErrorKind::MessageGone) where there is no such rule.
    async fn update_rule(
        &self,
        mailbox: &Mailbox,
        id: &str,
        rule: &ForwardRule,
        remove_outlook_blob: bool,
    ) -> Result<()>;

    /// Deletes the rule of this id; one that is gone is no error.
    ///
    /// # Errors
    /// As [`Self::rules`].
    async fn delete_rule(&self, mailbox: &Mailbox, id: &str, remove_outlook_blob: bool) -> Result<()>;
}

/// What a mailbox has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RuleListing {
    /// The rules, in the order in which they are applied.
    pub rules: Vec<InboxRule>,
    /// Outlook keeps rules of its own in this mailbox (client-only or switched-off ones), which a change by EWS would lose
    /// (`OutlookRuleBlobExists`). Always `false` where the mail system does not tell (Graph).
    pub outlook_blob: bool,
}

/// One rule, as far as it can be compared with [`ForwardRule`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InboxRule {
    /// The server's id.
    pub id: String,
    /// Its name, which people see.
    pub name: String,
    /// Whether it is switched on.
    pub enabled: bool,
    /// The server could not carry it out, or does not understand it.
    pub in_error: bool,
    /// Where it forwards as attachment to; lower case.
    pub forwards_to: Vec<String>,
    /// When it applies.
    pub condition: RuleCondition,
    /// It does other things beside, or has exceptions.
    pub does_more: bool,
    /// What it applies to is shown to no rule behind it ("stop processing more rules").
    pub stops: bool,
}

impl InboxRule {
    /// Whether the rule is one of ours.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.name.trim_end().ends_with(RULE_MARKER)
    }
}

/// When a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleCondition {
    /// To all mail that arrives.
    All,
    /// Where the mailbox's own name is in To or Cc.
    SentToOrCcMe,
    /// To something else; never asked for by us.
    Other,
}

/// The rule to deploy: forward as attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardRule {
    /// Its name; must end with [`RULE_MARKER`].
    pub name: String,
    /// The forward mailbox.
    pub forward_to: EmailAddress,
    /// When it applies: [`RuleCondition::All`] or [`RuleCondition::SentToOrCcMe`].
    pub condition: RuleCondition,
}

impl ForwardRule {
    /// Whether a rule of the server does exactly this and is switched on.
    #[must_use]
    pub fn is_met_by(&self, rule: &InboxRule) -> bool {
        rule.enabled
            && !rule.in_error
            && !rule.does_more
            && rule.name == self.name
            && rule.condition == self.condition
            && rule.forwards_to.len() == 1
            && rule.forwards_to[0].eq_ignore_ascii_case(self.forward_to.as_str())
    }
}
