//! Rule deployment: the server-side inbox rule that forwards a copy of a user's mail to the forward mailbox, for chosen users and queues.
//!
//! What the original's Rule Deployment Wizard did, without a person at every mailbox: plan, apply, verify, remove, again and again with the same result.

use std::path::Path;
use std::sync::Arc;

use email_router_config::{Deployment, MailboxSettings, Profile, Protocol, SecretStore, Settings};
use email_router_crm::{CrmMailbox, DeliveryMethod};
use email_router_model::{Classified as _, Direction, EmailAddress, Mailbox, MailboxKind};
use email_router_transport::rules::{InboxRules, RulePlan, RuleState, Wanted};
use futures_util::StreamExt as _;
use serde::Serialize;

use crate::access::{fault, hint, told};
use crate::assemble::Kept;
use crate::credentials::Sources;
use crate::{Error, registry, service};

/// Whose rules are meant, and how their mailboxes are reached.
#[derive(Debug, Clone, Copy, Default)]
pub struct RuleRequest<'a> {
    /// Users and queues by address, name or id; none: all whose mail the CRM expects by the forward mailbox (`incomingemaildeliverymethod` 3).
    pub only: &'a [String],
    /// Where none is named: all users and queues, however their mail comes in. So it is seen who has a rule that is not needed any more.
    pub everybody: bool,
    /// The forward mailbox by address, name or id; `None`: the only one of the configuration.
    pub forward_mailbox: Option<&'a str>,
    /// The Exchange profile with which the mailboxes are reached; `None`: the incoming profile of the forward mailbox.
    pub profile: Option<&'a str>,
}

/// What a request comes to.
#[derive(Debug, Clone)]
pub struct RuleTargets {
    /// Where the rules forward to.
    pub forward_to: EmailAddress,
    /// The mailboxes, each with the way to its rules or why there is none.
    pub targets: Vec<RuleTarget>,
}

/// One mailbox whose rules are meant.
#[derive(Debug, Clone)]
pub struct RuleTarget {
    /// The mailbox.
    pub mailbox: Mailbox,
    /// How its rules are reached; `Err` says why that cannot even be tried.
    pub rules: Result<Arc<dyn InboxRules>, String>,
}

/// What became of one mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleRow {
    /// The name people know it by.
    pub name: String,
    /// Its address.
    pub address: String,
    /// User or queue.
    pub kind: MailboxKind,
    /// What was found and done.
    pub outcome: RuleOutcome,
}

/// What was found and done about one mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum RuleOutcome {
    /// It was looked at; nothing was changed.
    Planned(RulePlan),
    /// What the plan says was done, and looked at again: it is as wanted now.
    Done(RulePlan),
    /// It could not be looked at or changed.
    Failure {
        /// Which fault, as in test access.
        fault: String,
        /// What happened, with the server's words.
        reason: String,
        /// What to do.
        hint: String,
        /// Where Exchange was looked for, where it was not found.
        steps: Vec<String>,
    },
}

impl RuleOutcome {
    /// Whether the mailbox is as it was wanted.
    #[must_use]
    pub fn is_as_wanted(&self) -> bool {
        match self {
            Self::Planned(plan) => plan.state == RuleState::AsWanted,
            Self::Done(_) => true,
            Self::Failure { .. } => false,
        }
    }
}

/// The mailboxes of a request. Reads the configuration and the CRM's list of users and queues; asks no mail server.
///
/// # Errors
/// [`Error::Configuration`] with all findings; [`Error::Request`] for names that fit nothing, a profile that is not Exchange, or when there are
/// several forward mailboxes and none is named; the CRM's errors.
pub async fn rule_targets(config: &Path, request: RuleRequest<'_>) -> Result<RuleTargets, Error> {
    let settings = service::settings(config)?;
    let forward = forward_mailbox(&settings, request.forward_mailbox)?;
    let profile = profile(&settings, forward, request.profile)?;
    let deployment = settings
        .deployment(&forward.deployment)
        .ok_or_else(|| Error::Request(format!("there is no deployment {}", forward.deployment)))?;
    let secrets = SecretStore::new(settings.router.secret_key_file.clone());
    let listed = registry::listed(deployment, &secrets).await?;
    let mut chosen = chosen(&settings, deployment, &listed, request)?;
    // whatever their mail is read by, if at all: their rules are reached by this one
    for mailbox in &mut chosen {
        mailbox.incoming_profile = Some(profile.name.clone());
    }
    let served: Vec<&MailboxSettings> = chosen.iter().collect();
    let source =
        Sources::new(&settings, &secrets, &Kept::default()).of(profile, Direction::Incoming, &served);
    let rules = source.credentials.and_then(|who| registry::inbox_rules(profile, who, &secrets));
    let targets = chosen.into_iter().map(|m| {
        let itself = (m.mailbox.address == forward.mailbox.address)
            .then(|| "it is the forward mailbox itself: a rule there would forward to itself".to_owned());
        let missing = itself.or_else(|| source.missing.get(&m.mailbox.id).cloned());
        RuleTarget { mailbox: m.mailbox, rules: missing.map_or_else(|| rules.clone(), Err) }
    });
    Ok(RuleTargets { forward_to: forward.mailbox.address.clone(), targets: targets.collect() })
}

fn forward_mailbox<'a>(settings: &'a Settings, named: Option<&str>) -> Result<&'a MailboxSettings, Error> {
    // nobody reads one that is disabled
    let all = settings.enabled_mailboxes().filter(|m| m.mailbox.kind == MailboxKind::Forward);
    let found: Vec<&MailboxSettings> =
        all.filter(|m| named.is_none_or(|name| service::is_called(&m.mailbox, name))).collect();
    match (found.as_slice(), named) {
        ([one], _) => Ok(one),
        ([], Some(name)) => {
            Err(Error::Request(format!("the configuration has no enabled forward mailbox {name:?}")))
        }
        ([], None) => Err(Error::Request(
            "the configuration has no enabled forward mailbox for rules to forward to: add a ForwardMailbox"
                .to_owned(),
        )),
        (several, _) => {
            let names: Vec<&str> = several.iter().map(|m| m.mailbox.address.as_str()).collect();
            Err(Error::Request(format!("name one of the forward mailboxes: {}", names.join(", "))))
        }
    }
}

fn profile<'a>(
    settings: &'a Settings,
    forward: &MailboxSettings,
    named: Option<&str>,
) -> Result<&'a Profile, Error> {
    let profile = match named {
        Some(name) => settings
            .profile(name)
            .ok_or_else(|| Error::Request(format!("the configuration has no profile {name:?}")))?,
        None => settings.profile_of(forward, Direction::Incoming).ok_or_else(|| {
            Error::Request(format!("{} has no incoming profile: name an Exchange profile", forward.mailbox))
        })?,
    };
    if matches!(profile.protocol, Protocol::ExchangeWebServices | Protocol::MicrosoftGraph) {
        return Ok(profile);
    }
    Err(Error::Request(format!(
        "profile {} speaks {}, which knows no inbox rules: name a profile of Exchange (Exchange Web Services or Microsoft Graph)",
        profile.name, profile.protocol
    )))
}

/// The mailboxes that are meant: those named, of the CRM or of the configuration; else those whose mail comes by the forward mailbox, or all.
fn chosen(
    settings: &Settings,
    deployment: &Deployment,
    listed: &[CrmMailbox],
    request: RuleRequest<'_>,
) -> Result<Vec<MailboxSettings>, Error> {
    let mut known: Vec<(MailboxSettings, bool)> = Vec::new();
    for record in listed.iter().filter(|record| !record.disabled && record.kind != MailboxKind::Forward) {
        let Some(address) = record.address.clone() else { continue };
        let by_forward = record.incoming == DeliveryMethod::ForwardMailbox;
        let loaded = settings.loaded_mailbox(deployment, record.kind, &record.name, address);
        match known.iter_mut().find(|(m, _)| m.mailbox.id == loaded.mailbox.id) {
            // a user and a queue of one address have one mailbox, which needs the rule once
            Some((_, expected)) => *expected |= by_forward,
            None => known.push((loaded, by_forward)),
        }
    }
    let same = |name: &str| name.eq_ignore_ascii_case(&deployment.name);
    for mailbox in settings.mailboxes.iter().filter(|m| same(&m.deployment)) {
        let listed = known.iter().position(|(m, _)| m.mailbox.id == mailbox.mailbox.id);
        match listed {
            // no rule for whom rules forward to; a queue of the same address is told so
            _ if mailbox.mailbox.kind == MailboxKind::Forward => {}
            Some(at) if mailbox.disabled => drop(known.remove(at)),
            // what the file says of a mailbox (its password) counts beside what the CRM says
            Some(at) => known[at].0 = mailbox.clone(),
            None if mailbox.disabled => {}
            None => known.push((mailbox.clone(), false)),
        }
    }
    if request.only.is_empty() {
        let meant = known.into_iter().filter(|(_, by_forward)| *by_forward || request.everybody);
        return Ok(meant.map(|(m, _)| m).collect());
    }
    let mut chosen: Vec<MailboxSettings> = Vec::new();
    for name in request.only {
        let before = chosen.len();
        let fits = |(m, _): &&(MailboxSettings, bool)| service::is_called(&m.mailbox, name);
        for (mailbox, _) in known.iter().filter(fits) {
            if !chosen.iter().any(|m| m.mailbox.id == mailbox.mailbox.id) {
                chosen.push(mailbox.clone());
            }
        }
        if chosen.len() == before && !chosen.iter().any(|m| service::is_called(&m.mailbox, name)) {
            return Err(service::unknown_mailbox(name));
        }
    }
    Ok(chosen)
}

/// Looks at the rules of the targets and, where `change` says so, makes them what is wanted; at most `at_once` mailboxes at the same time. `done` is
/// called after each; the rows come back in the order of the targets. A mailbox that fails keeps nobody else from being served.
pub async fn deploy_rules(
    targets: Vec<RuleTarget>,
    wanted: &Wanted,
    change: bool,
    remove_outlook_blob: bool,
    at_once: usize,
    done: impl Fn(&RuleRow),
) -> Vec<RuleRow> {
    let work = targets.into_iter().enumerate().map(|(n, target)| async move {
        let outcome = one(&target, wanted, change, remove_outlook_blob).await;
        let RuleTarget { mailbox, .. } = target;
        let address = mailbox.address.as_str().to_owned();
        (n, RuleRow { name: mailbox.name, address, kind: mailbox.kind, outcome })
    });
    let mut rows: Vec<(usize, RuleRow)> = Vec::new();
    let mut running = futures_util::stream::iter(work).buffer_unordered(at_once.max(1));
    while let Some((n, row)) = running.next().await {
        done(&row);
        rows.push((n, row));
    }
    rows.sort_by_key(|(n, _)| *n);
    rows.into_iter().map(|(_, row)| row).collect()
}

async fn one(target: &RuleTarget, wanted: &Wanted, change: bool, remove_outlook_blob: bool) -> RuleOutcome {
    let rules = match &target.rules {
        Ok(rules) => rules,
        Err(reason) => {
            return RuleOutcome::Failure {
                fault: "configuration".to_owned(),
                reason: reason.clone(),
                hint: "correct the configuration, or name the profile of an account that may open the mailbox (--profile); no server was asked".to_owned(),
                steps: Vec::new(),
            };
        }
    };
    match plan_and_change(&**rules, &target.mailbox, wanted, change, remove_outlook_blob).await {
        Ok(outcome) => outcome,
        Err(error) => RuleOutcome::Failure {
            fault: fault(error.kind()).to_owned(),
            reason: error.to_string(),
            hint: error.hint().map_or_else(
                || hint(error.kind(), email_router_transport::Access::Incoming).to_owned(),
                str::to_owned,
            ),
            steps: error.steps().iter().map(told).collect(),
        },
    }
}

async fn plan_and_change(
    rules: &dyn InboxRules,
    mailbox: &Mailbox,
    wanted: &Wanted,
    change: bool,
    remove_outlook_blob: bool,
) -> email_router_transport::Result<RuleOutcome> {
    let listing = rules.rules(mailbox).await?;
    let plan = RulePlan::of(&listing, wanted);
    if !change || plan.changes.is_empty() {
        return Ok(RuleOutcome::Planned(plan));
    }
    plan.carry_out(rules, mailbox, wanted, &listing, remove_outlook_blob).await?;
    // what the server made of it, not what it said
    let after = RulePlan::of(&rules.rules(mailbox).await?, wanted);
    if after.changes.is_empty() {
        return Ok(RuleOutcome::Done(plan));
    }
    let message = format!(
        "{rules}: the rule of {mailbox} was changed, and the server shows another than was asked for"
    );
    Err(email_router_transport::Error::new(email_router_transport::ErrorKind::Protocol, message)
        .with_hint("look at the rules of the mailbox in Outlook on the web"))
}
