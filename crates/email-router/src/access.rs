//! Test access: can every mailbox be read, and can mail be sent in its name? Nothing is changed on either server.

use std::sync::Arc;

use email_router_config::SecretStore;
use email_router_model::{Classified, Mailbox, MailboxKind};
use email_router_transport::{Access, ErrorKind, Probe, ProbeStep, TlsFault, Transport};
use futures_util::StreamExt;
use serde::Serialize;

use crate::{Error, assemble::assemble, registry, service};

/// One mailbox to check, in the directions that are configured.
#[derive(Debug, Clone)]
pub struct AccessTarget {
    /// The mailbox.
    pub mailbox: Mailbox,
    /// How it is read; `Err` says why it cannot even be tried.
    pub incoming: Option<Result<Arc<dyn Transport>, String>>,
    /// How mail goes out in its name.
    pub outgoing: Option<Result<Arc<dyn Transport>, String>>,
}

/// What the check found about one mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccessRow {
    /// Id of the mailbox.
    pub mailbox: String,
    /// The name people know it by.
    pub name: String,
    /// Its address.
    pub address: String,
    /// User, queue or forward mailbox.
    pub kind: MailboxKind,
    /// Reading it.
    pub incoming: AccessResult,
    /// Sending in its name.
    pub outgoing: AccessResult,
}

/// The outcome in one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum AccessResult {
    /// No profile for this direction.
    NotConfigured,
    /// It works.
    Succeeded {
        /// What was done.
        steps: Vec<String>,
        /// What is worth knowing.
        warnings: Vec<String>,
        /// Messages waiting, where known.
        messages: Option<u64>,
    },
    /// It does not.
    Failure {
        /// Which fault: `name-resolution`, `refused`, `timeout`, `tls-wrong-name`, `authentication`, `access-denied`, `sender-refused`, `settings`, ...
        fault: String,
        /// What happened, with the server's words.
        reason: String,
        /// What to do.
        hint: String,
        /// What was done before it, each with what is worth knowing in brackets: how far it came, and where Autodiscover asked.
        steps: Vec<String>,
    },
}

impl AccessResult {
    /// Whether this direction needs a person.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failure { .. })
    }

    /// As the original's window says it: `Succeeded`, `Failure - reason`.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::NotConfigured => "-".to_owned(),
            Self::Succeeded { .. } => "Succeeded".to_owned(),
            Self::Failure { reason, .. } => format!("Failure - {reason}"),
        }
    }
}

/// What is there to check of a configuration.
#[derive(Debug, Clone, Default)]
pub struct AccessTargets {
    /// The CRMs, which are checked already: some say which mailboxes there are.
    pub deployments: Vec<DeploymentRow>,
    /// The mailboxes.
    pub mailboxes: Vec<AccessTarget>,
}

/// What the check found about the CRM of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeploymentRow {
    /// Name of the deployment.
    pub deployment: String,
    /// Where it is.
    pub crm: String,
    /// In the order in which it was asked; the first failure ends the check where nothing more can be asked.
    pub checks: Vec<CrmCheck>,
}

impl DeploymentRow {
    /// Whether this CRM needs a person.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.checks.iter().any(|check| check.state == CheckState::Failed)
    }
}

/// One thing that was looked at in a CRM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CrmCheck {
    /// What.
    pub name: &'static str,
    /// How it stands.
    pub state: CheckState,
    /// In one sentence.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl CrmCheck {
    pub(crate) fn passed(name: &'static str, text: String) -> Self {
        Self { name, state: CheckState::Passed, text, hint: None }
    }

    pub(crate) fn failed(name: &'static str, error: &Error) -> Self {
        let hint = error.hint().map(str::to_owned);
        Self { name, state: CheckState::Failed, text: error.to_string(), hint }
    }
}

#[cfg(feature = "dataverse")]
impl From<email_router_crm::dataverse::OrganizationCheck> for CrmCheck {
    fn from(check: email_router_crm::dataverse::OrganizationCheck) -> Self {
        use email_router_crm::dataverse::CheckState as Found;
        let state = match check.state {
            Found::Passed => CheckState::Passed,
            Found::Warning => CheckState::Warning,
            Found::Failed => CheckState::Failed,
        };
        Self { name: check.name, state, text: check.text, hint: check.hint }
    }
}

/// How a check of a CRM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// As it should be.
    Passed,
    /// Routing works; something deserves a look.
    Warning,
    /// Routing does not work, wholly or for some mail.
    Failed,
}

/// What test access has to check of a configuration file: all enabled mailboxes, or those named by address, name or id, with the CRMs they
/// belong to, which are checked here. Nothing is created or changed.
///
/// # Errors
/// [`Error::Configuration`] with all findings; [`Error::Request`] for a name that no mailbox has.
pub async fn targets(path: &std::path::Path, only: &[String]) -> Result<AccessTargets, Error> {
    let settings = service::settings(path)?;
    let secrets = SecretStore::new(settings.router.secret_key_file.clone());
    let probes = settings.deployments.iter().map(|deployment| registry::probe(deployment, &secrets));
    let probed = futures_util::future::join_all(probes).await;
    let mut all = AccessTargets::default();
    let mut concerned = Vec::new();
    let mut found = vec![false; only.len()];
    for (deployment, (row, listed)) in settings.deployments.iter().zip(probed) {
        let mut mailboxes = assemble(&settings, deployment, &listed, &secrets).targets;
        mailboxes.retain(|target| {
            let mut wanted = only.is_empty();
            for (text, found) in only.iter().zip(&mut found) {
                let is = service::is_called(&target.mailbox, text);
                (*found, wanted) = (*found || is, wanted || is);
            }
            wanted
        });
        concerned.push(only.is_empty() || !mailboxes.is_empty());
        all.deployments.push(row);
        all.mailboxes.extend(mailboxes);
    }
    if let Some((text, _)) = only.iter().zip(&found).find(|(_, found)| !**found) {
        return Err(match all.deployments.iter().find(|row| row.is_failure()) {
            None => service::unknown_mailbox(text),
            Some(row) => Error::Request(format!(
                "{}; the CRM of deployment {} fails, and says no more which mailboxes it has",
                service::unknown_mailbox(text),
                row.deployment
            )),
        });
    }
    let mut concerned = concerned.into_iter();
    all.deployments.retain(|_| concerned.next().unwrap_or(true));
    Ok(all)
}

/// Checks the targets, at most `at_once` at the same time, and calls `done` after each. The rows come back in the order of the targets.
pub async fn test_access(
    targets: Vec<AccessTarget>,
    at_once: usize,
    done: impl Fn(&AccessRow),
) -> Vec<AccessRow> {
    let checks = targets.into_iter().enumerate().map(|(n, target)| async move { (n, check(target).await) });
    let mut rows: Vec<(usize, AccessRow)> = Vec::new();
    let mut running = futures_util::stream::iter(checks).buffer_unordered(at_once.max(1));
    while let Some((n, row)) = running.next().await {
        done(&row);
        rows.push((n, row));
    }
    rows.sort_by_key(|(n, _)| *n);
    rows.into_iter().map(|(_, row)| row).collect()
}

async fn check(target: AccessTarget) -> AccessRow {
    let AccessTarget { mailbox, incoming, outgoing } = target;
    let incoming = one(&mailbox, incoming, Access::Incoming).await;
    let outgoing = one(&mailbox, outgoing, Access::Outgoing).await;
    AccessRow {
        mailbox: mailbox.id.as_str().to_owned(),
        name: mailbox.name.clone(),
        address: mailbox.address.as_str().to_owned(),
        kind: mailbox.kind,
        incoming,
        outgoing,
    }
}

async fn one(
    mailbox: &Mailbox,
    transport: Option<Result<Arc<dyn Transport>, String>>,
    access: Access,
) -> AccessResult {
    match transport {
        None => AccessResult::NotConfigured,
        Some(Err(reason)) => AccessResult::Failure {
            fault: "configuration".to_owned(),
            reason,
            hint: "correct the configuration, or give the account that runs this what it names; nothing was tried on a server"
                .to_owned(),
            steps: Vec::new(),
        },
        Some(Ok(transport)) => match transport.probe(mailbox, access).await {
            Ok(Probe { steps, messages, .. }) => AccessResult::Succeeded {
                warnings: steps.iter().filter_map(|s| s.warning.clone()).collect(),
                steps: steps.into_iter().map(|s| s.what).collect(),
                messages,
            },
            Err(error) => AccessResult::Failure {
                fault: fault(error.kind()).to_owned(),
                reason: error.to_string(),
                hint: error.hint().map_or_else(|| hint(error.kind(), access).to_owned(), str::to_owned),
                steps: error.steps().iter().map(told).collect(),
            },
        },
    }
}

pub(crate) fn told(step: &ProbeStep) -> String {
    match &step.warning {
        Some(warning) => format!("{} ({warning})", step.what),
        None => step.what.clone(),
    }
}

/// A stable word for a program that reads the result.
pub(crate) fn fault(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::AccessDenied => "access-denied",
        ErrorKind::Authentication => "authentication",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::ConnectionLost => "connection-lost",
        ErrorKind::Protocol => "protocol",
        ErrorKind::MailboxLocked => "mailbox-locked",
        // a rule, where rules are deployed
        ErrorKind::MessageGone => "gone",
        ErrorKind::MessageRefused => "content-refused",
        ErrorKind::NameResolution => "name-resolution",
        ErrorKind::RecipientsRefused => "recipients-refused",
        ErrorKind::Refused => "refused",
        ErrorKind::SenderRefused => "sender-refused",
        ErrorKind::Settings => "settings",
        ErrorKind::Storage => "storage",
        ErrorKind::Throttled => "throttled",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Tls(TlsFault::Expired) => "tls-expired",
        ErrorKind::Tls(TlsFault::Injection) => "tls-injection",
        ErrorKind::Tls(TlsFault::NotOffered) => "tls-not-offered",
        ErrorKind::Tls(TlsFault::UnknownIssuer) => "tls-unknown-issuer",
        ErrorKind::Tls(TlsFault::WrongName) => "tls-wrong-name",
        ErrorKind::Tls(_) => "tls",
        ErrorKind::TooLarge => "too-large",
        ErrorKind::Unsupported => "unsupported",
        _ => "other",
    }
}

/// What to do where the error itself has no better advice.
pub(crate) fn hint(kind: ErrorKind, access: Access) -> &'static str {
    match kind {
        ErrorKind::AccessDenied => {
            "the account is valid on the server but may not open this mailbox: give it access to the mailbox, or use the mailbox's own credentials"
        }
        ErrorKind::Authentication => {
            "check user name and password of the profile or mailbox, and that the server allows this authentication type"
        }
        ErrorKind::ConnectionLost => {
            "the server closed the connection: look into its log for this time; a proxy or TLS on a clear port does this too"
        }
        ErrorKind::MailboxLocked => {
            "another program has the mailbox open: close it, or let it poll less often"
        }
        ErrorKind::NameResolution => "check the spelling of EmailServer and the name service of this machine",
        ErrorKind::Refused => {
            "nothing listens on this port: check EmailServer, NetworkPort, and that the service is running"
        }
        ErrorKind::SenderRefused => {
            "the server does not let this account send as this address: permit it there, or set EnvelopeSender"
        }
        ErrorKind::Throttled => "the server asks to come back later",
        ErrorKind::Timeout => {
            "the server does not answer: check EmailServer, NetworkPort and firewalls between here and there"
        }
        ErrorKind::Tls(TlsFault::Expired) => {
            "renew the server's certificate, or correct this machine's clock"
        }
        ErrorKind::Tls(TlsFault::Injection) => {
            "somebody on the way to the server injects commands: do not send anything until this is explained"
        }
        ErrorKind::Tls(TlsFault::NotOffered) => {
            "the server offers no TLS on this port: use the TLS port with TlsMode Implicit, or enable TLS on the server"
        }
        ErrorKind::Tls(TlsFault::UnknownIssuer) => {
            "add the certificate of the authority that signed it to ExtraCaFiles of the profile"
        }
        ErrorKind::Tls(TlsFault::WrongName) => "use the name that is in the certificate as EmailServer",
        ErrorKind::Storage => "check that the folder exists and that this account may read and write it",
        _ => match access {
            Access::Incoming => "look into the log of the mail server for this time",
            Access::Outgoing => {
                "look into the log of the mail server for this time; `--json` shows the steps that worked"
            }
        },
    }
}
