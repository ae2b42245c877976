//! From checked settings and the CRM's list of users and queues to a [`Plan`].

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use email_router_config::{
    DecisionHistory, Deployment, InDoubtPolicy as Policy, Location, MailSource, MailboxSettings, Profile,
    SecretStore, Settings,
};
use email_router_crm::{CrmMailbox, DeliveryMethod};
use email_router_engine::router::{IncomingRoute, OutgoingRoute, Plan, Schedule, Server};
use email_router_engine::{InDoubtPolicy, IncomingSettings, KeepDecisions, OutgoingSettings};
use email_router_model::{Direction, EmailAddress, Mailbox, MailboxId, MailboxKind, RecordRef, Timestamp};
use email_router_transport::Transport;
use serde::Serialize;

use crate::access::AccessTarget;
use crate::credentials::Sources;
use crate::registry;

/// Why a mailbox of the configuration is not served in a direction. The others are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unserved {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The user, queue or forward mailbox of the CRM that it is about; `None` where the CRM has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordRef>,
    /// Which way; `None` is both.
    pub direction: Option<Direction>,
    /// Why, and what to do.
    pub reason: String,
}

/// What the settings come to for one deployment.
#[derive(Debug, Clone, Default)]
pub struct Assembled {
    /// What the router shall do.
    pub plan: Plan,
    /// What it cannot do.
    pub unserved: Vec<Unserved>,
    /// Everything enabled, for test access.
    pub targets: Vec<AccessTarget>,
}

/// A transport with the stamp of its settings, or why there is none.
type Built = Result<(Arc<dyn Transport>, u64), String>;

/// The transports of the profiles, built once for each profile and shared by its mailboxes.
struct Transports<'a> {
    settings: &'a Settings,
    secrets: &'a SecretStore,
    sources: Sources<'a>,
    mailboxes: &'a [MailboxSettings],
    built: HashMap<(String, Direction), Profiled>,
    kept: &'a Kept,
}

/// What became of a profile.
struct Profiled {
    transport: Built,
    /// Mailboxes whose password cannot be had, and why; the others are served.
    missing: HashMap<MailboxId, String>,
}

/// Puts together what serves `deployment`. `listed` is the CRM's list of users and queues.
#[must_use]
pub fn assemble(
    settings: &Settings,
    deployment: &Deployment,
    listed: &[CrmMailbox],
    secrets: &SecretStore,
) -> Assembled {
    Assembler::default().assemble(settings, deployment, listed, secrets)
}

/// Assembles a deployment again and again. What has not changed is taken over from the time before: transports with what they remember of their
/// mailboxes, applications with their access tokens.
#[derive(Debug, Default)]
pub struct Assembler {
    kept: Mutex<Kept>,
}

/// What an assembly leaves for the next one.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// By name of the profile and direction: the transport with the stamp of its settings.
    transports: HashMap<(String, Direction), (Arc<dyn Transport>, u64)>,
    /// Applications with their tokens.
    #[cfg(feature = "http")]
    pub(crate) applications: crate::credentials::Applications,
}

impl Assembler {
    /// As [`assemble`].
    #[must_use]
    pub fn assemble(
        &self,
        settings: &Settings,
        deployment: &Deployment,
        listed: &[CrmMailbox],
        secrets: &SecretStore,
    ) -> Assembled {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (assembled, left) = assemble_with(settings, deployment, listed, secrets, &kept);
        *kept = left;
        assembled
    }

    /// How it stands with the access tokens of the applications.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn access_tokens(&self) -> Vec<AccessToken> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        crate::credentials::access_tokens(&kept.applications)
    }
}

/// How it stands with the access token of one application (OAuth 2.0).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccessToken {
    /// The application's id, its tenant, and what the token is for.
    pub application: String,
    /// Until when the present token is good; `None` where there is none (yet).
    pub valid_until: Option<Timestamp>,
    /// Why it could not be renewed the last time, and what to do.
    pub last_error: Option<String>,
}

fn assemble_with(
    settings: &Settings,
    deployment: &Deployment,
    listed: &[CrmMailbox],
    secrets: &SecretStore,
    kept: &Kept,
) -> (Assembled, Kept) {
    let mut out = Assembled::default();
    let mailboxes = mailboxes_of(settings, deployment, listed, &mut out.unserved);
    let shared = shared_sources(settings, &mailboxes);
    let sources = Sources::new(settings, secrets, kept);
    let mut transports =
        Transports { settings, secrets, sources, mailboxes: &mailboxes, built: HashMap::new(), kept };
    // of several records with one address the first that uses the router, as in `mailboxes_of`
    let mut by_address: HashMap<(EmailAddress, MailboxKind), &CrmMailbox> = HashMap::new();
    let (using, others): (Vec<_>, Vec<_>) = listed.iter().partition(|m| !m.disabled && uses_router(m));
    for record in using.into_iter().chain(others) {
        let Some(address) = record.address.clone() else { continue };
        by_address.entry((address, record.kind)).or_insert(record);
    }

    let mut outgoing_period: Option<Duration> = None;
    let domain = message_id_domain(&mailboxes);
    for mailbox in &mailboxes {
        let incoming = settings.profile_of(mailbox, Direction::Incoming).map(|p| {
            match shared.get(&mailbox.mailbox.id) {
                Some(reason) => Err(reason.clone()),
                None => transports.get(p, Direction::Incoming, mailbox),
            }
        });
        let outgoing = settings
            .profile_of(mailbox, Direction::Outgoing)
            .map(|p| transports.get(p, Direction::Outgoing, mailbox));
        out.targets.push(AccessTarget {
            mailbox: mailbox.mailbox.clone(),
            incoming: incoming.clone().map(|r| r.map(|(t, _)| t)),
            outgoing: outgoing.clone().map(|r| r.map(|(t, _)| t)),
        });
        let record = by_address.get(&(mailbox.mailbox.address.clone(), mailbox.mailbox.kind)).copied();
        let not = |direction, reason: String| Unserved {
            mailbox: mailbox.mailbox.id.clone(),
            record: record.map(|r| r.record.clone()),
            direction,
            reason,
        };
        let Some(record) = record else {
            let what = match mailbox.mailbox.kind {
                MailboxKind::User => "user",
                MailboxKind::Queue => "queue",
                MailboxKind::Forward => "forward mailbox",
            };
            out.unserved.push(not(
                None,
                format!("the CRM of deployment {} has no {what} with the address {}; add it there, or correct EmailAddress", deployment.name, mailbox.mailbox.address),
            ));
            continue;
        };
        if record.disabled {
            out.unserved.push(not(None, format!("{} is disabled in the CRM", record.name)));
            continue;
        }
        if let (Some(built), Some(profile)) = (incoming, settings.profile_of(mailbox, Direction::Incoming)) {
            match built {
                Err(reason) => out.unserved.push(not(Some(Direction::Incoming), reason)),
                // its mail comes by the forward mailbox, so its own mailbox is not read, and nothing is wrong with that
                Ok(_) if record.incoming == DeliveryMethod::ForwardMailbox => {}
                Ok(_) if record.server_side_sync.incoming => out.unserved.push(not(
                    Some(Direction::Incoming),
                    format!("server-side synchronization of the CRM reads this mailbox too (enabledforincomingemail of the mailbox record of {}), so each message would be there twice; disable that, or set IncomingProfile to None", record.name),
                )),
                Ok(_) if record.incoming != DeliveryMethod::EmailRouter => out.unserved.push(not(
                    Some(Direction::Incoming),
                    format!("{} does not receive through the router in the CRM (incomingemaildeliverymethod is {}, not 2)", record.name, record.incoming.code()),
                )),
                Ok((transport, stamp)) => {
                    let route = incoming_route(settings, mailbox, profile, record, transport, stamp);
                    out.plan.incoming.push(Arc::new(route));
                }
            }
        }
        if let (Some(built), Some(profile)) = (outgoing, settings.profile_of(mailbox, Direction::Outgoing)) {
            match built {
                Err(reason) => out.unserved.push(not(Some(Direction::Outgoing), reason)),
                Ok(_) if record.server_side_sync.outgoing => out.unserved.push(not(
                    Some(Direction::Outgoing),
                    format!("server-side synchronization of the CRM sends for this mailbox too (enabledforoutgoingemail of the mailbox record of {}), so each message would go out twice; disable that, or set OutgoingProfile to None", record.name),
                )),
                Ok(_) if record.outgoing != DeliveryMethod::EmailRouter => out.unserved.push(not(
                    Some(Direction::Outgoing),
                    format!("{} does not send through the router in the CRM (outgoingemaildeliverymethod is {}, not 2)", record.name, record.outgoing.code()),
                )),
                Ok((transport, stamp)) => {
                    outgoing_period = Some(outgoing_period.map_or(profile.polling_period, |p| p.min(profile.polling_period)));
                    let sent = outgoing_settings(settings, profile, domain.as_deref());
                    out.plan.outgoing_by_mailbox.insert(mailbox.mailbox.id.clone(), sent);
                    let fingerprint = fingerprint(&(&mailbox.mailbox.id, stamp));
                    out.plan.outgoing.push(Arc::new(OutgoingRoute {
                        mailbox: mailbox.mailbox.clone(),
                        record: record.record.clone(),
                        transport,
                        fingerprint,
                    }));
                }
            }
        }
    }
    out.plan.schedule = schedule(settings, outgoing_period);
    (out, transports.left())
}

/// The enabled mailboxes of a deployment: those of the file, and those the CRM lists where the deployment wants them. An address is one mailbox:
/// of several records that have it the first is served, or the one that the file names.
pub(crate) fn mailboxes_of(
    settings: &Settings,
    deployment: &Deployment,
    listed: &[CrmMailbox],
    unserved: &mut Vec<Unserved>,
) -> Vec<MailboxSettings> {
    let same = |name: &str| name.eq_ignore_ascii_case(&deployment.name);
    let mut mailboxes: Vec<MailboxSettings> =
        settings.enabled_mailboxes().filter(|m| same(&m.deployment)).cloned().collect();
    if !deployment.load_mailboxes {
        return mailboxes;
    }
    let mut taken: HashMap<MailboxId, (MailboxKind, String)> = settings
        .mailboxes
        .iter()
        .map(|m| (m.mailbox.id.clone(), (m.mailbox.kind, m.mailbox.name.clone())))
        .collect();
    // those of the file that no record has been found for yet
    let mut named: HashSet<MailboxId> = taken.keys().cloned().collect();
    for record in listed.iter().filter(|r| !r.disabled && uses_router(r)) {
        let Some(address) = record.address.clone() else { continue };
        let mut loaded = settings.loaded_mailbox(deployment, record.kind, &record.name, address);
        if record.incoming != DeliveryMethod::EmailRouter {
            loaded.incoming_profile = None;
        }
        if record.outgoing != DeliveryMethod::EmailRouter {
            loaded.outgoing_profile = None;
        }
        let id = loaded.mailbox.id.clone();
        match taken.get(&id) {
            // the file speaks of this very record
            Some((kind, _)) if *kind == record.kind && named.remove(&id) => {}
            Some((kind, name)) => unserved.push(Unserved {
                mailbox: id,
                record: Some(record.record.clone()),
                direction: None,
                reason: format!(
                    "the {} {} has the address of the {kind} {name}, which is served; give one of them another address in the CRM",
                    record.kind, record.name
                ),
            }),
            None => {
                taken.insert(id, (record.kind, record.name.clone()));
                mailboxes.push(loaded);
            }
        }
    }
    mailboxes
}

pub(crate) fn uses_router(record: &CrmMailbox) -> bool {
    record.incoming == DeliveryMethod::EmailRouter || record.outgoing == DeliveryMethod::EmailRouter
}

/// The mailboxes that would read what another one reads already, and why they are not read. The check of the file has refused this among the
/// mailboxes of the file, of all deployments; here come those that only the CRM knows.
pub(crate) fn shared_sources(
    settings: &Settings,
    mailboxes: &[MailboxSettings],
) -> HashMap<MailboxId, String> {
    let mut readers: HashMap<MailSource, &MailboxId> = HashMap::new();
    let mut shared = HashMap::new();
    for mailbox in settings.enabled_mailboxes().chain(mailboxes) {
        let (id, Some(source)) = (&mailbox.mailbox.id, settings.source(mailbox)) else { continue };
        match readers.entry(source) {
            Entry::Vacant(free) => drop(free.insert(id)),
            Entry::Occupied(reader) if *reader.get() == id => {}
            Entry::Occupied(reader) => {
                let reason = format!(
                    "it would read the same messages as {} ({}); give each mailbox its own, for example with {{address}} in \
                     the profile's Path or UserName",
                    reader.get(),
                    reader.key()
                );
                shared.insert(id.clone(), reason);
            }
        }
    }
    shared
}

fn incoming_route(
    settings: &Settings,
    mailbox: &MailboxSettings,
    profile: &Profile,
    record: &CrmMailbox,
    transport: Arc<dyn Transport>,
    stamp: u64,
) -> IncomingRoute {
    let mut incoming = IncomingSettings::default();
    incoming.max_messages_per_cycle = profile.max_message_count as usize;
    incoming.message_expiry = profile.message_expiry;
    incoming.process_from = mailbox.process_from;
    incoming.delete_after_processing = mailbox.delete_after_processing;
    incoming.move_undeliverable = profile.move_emails;
    incoming.max_attempts = settings.router.maximum_message_attempts;
    incoming.max_message_bytes = profile.max_message_size;
    incoming.caps.max_depth = settings.router.max_mime_depth as usize;
    incoming.caps.max_parts = settings.router.max_mime_parts as usize;
    incoming.decisions = match settings.router.decision_history {
        DecisionHistory::None => KeepDecisions::None,
        DecisionHistory::Records => KeepDecisions::Records,
        DecisionHistory::WithHeaders => KeepDecisions::WithHeaders,
    };
    incoming.caps.max_header_bytes = usize::try_from(profile.max_header_size).unwrap_or(usize::MAX);
    let fingerprint = fingerprint(&(
        format!("{mailbox:?} {incoming:?} {:?}", profile.polling_period),
        &record.record,
        stamp,
    ));
    let source = settings.source(mailbox).map_or_else(|| transport.to_string(), |source| source.to_string());
    IncomingRoute {
        mailbox: mailbox.mailbox.clone(),
        // an original belongs to its recipients, never to the forward mailbox
        record: (mailbox.mailbox.kind != MailboxKind::Forward).then(|| record.record.clone()),
        server: Server {
            name: server_name(profile, &*transport),
            max_sessions: profile.max_connections as usize,
        },
        transport,
        source,
        settings: incoming,
        polling_period: profile.polling_period,
        notify: profile.options.use_notifications,
        fingerprint,
    }
}

/// What mailboxes share limit and back-off with. A POP3 transport calls itself after its server, which several profiles may have; folders of
/// different profiles have nothing in common.
fn server_name(profile: &Profile, transport: &dyn Transport) -> String {
    match profile.location {
        Location::Folder(_) => format!("the folders of profile {}", profile.name),
        _ => transport.to_string(),
    }
}

fn schedule(settings: &Settings, outgoing_period: Option<Duration>) -> Schedule {
    let mut schedule = Schedule::default();
    schedule.max_threads = settings.system.max_threads as usize;
    schedule.max_thread_execution = settings.system.max_thread_execution;
    schedule.scheduling_period = settings.system.scheduling_period;
    schedule.config_update_period = settings.system.config_update_period;
    schedule.stop_grace = settings.router.shutdown_timeout;
    if let Some(period) = outgoing_period {
        schedule.outgoing_period = period;
    }
    schedule
}

/// How the mail of a profile's mailboxes is sent.
fn outgoing_settings(settings: &Settings, profile: &Profile, domain: Option<&str>) -> OutgoingSettings {
    let tuning = profile.tuning;
    let mut outgoing = OutgoingSettings::default();
    outgoing.batch_size = tuning.batch_size as usize;
    outgoing.request_batch_size = tuning.request_batch_size as usize;
    outgoing.pending_status_delay = tuning.pending_status_delay;
    outgoing.sending_status_delay = tuning.sending_status_delay;
    outgoing.maximum_delivery_attempts = tuning.maximum_delivery_attempts;
    outgoing.max_message_bytes = profile.max_message_size;
    outgoing.in_doubt = match settings.router.in_doubt_policy {
        Policy::Report => InDoubtPolicy::Report,
        Policy::Resend => InDoubtPolicy::SendAgain,
    };
    if let Some(domain) = domain {
        domain.clone_into(&mut outgoing.message_id_domain);
    }
    outgoing
}

/// The domain most mailboxes of the deployment have, those loaded from the CRM included: replies to a Message-ID never go there, but
/// filters of mail systems look at it.
fn message_id_domain(mailboxes: &[MailboxSettings]) -> Option<String> {
    let mut domains: BTreeMap<String, usize> = BTreeMap::new();
    for mailbox in mailboxes {
        *domains.entry(mailbox.mailbox.address.domain().to_lowercase()).or_default() += 1;
    }
    domains.into_iter().max_by_key(|(_, count)| *count).map(|(domain, _)| domain)
}

impl Transports<'_> {
    fn get(&mut self, profile: &Profile, direction: Direction, mailbox: &MailboxSettings) -> Built {
        let key = (profile.name.to_lowercase(), direction);
        if !self.built.contains_key(&key) {
            let built = self.build(profile, direction);
            self.built.insert(key.clone(), built);
        }
        match self.built.get(&key) {
            Some(Profiled { transport, missing }) => match missing.get(&mailbox.mailbox.id) {
                Some(reason) => Err(format!("profile {}: {reason}", profile.name)),
                None => transport.clone(),
            },
            None => Err(format!("profile {}: it could not be built", profile.name)),
        }
    }

    fn build(&mut self, profile: &Profile, direction: Direction) -> Profiled {
        let served: Vec<&MailboxSettings> = self
            .mailboxes
            .iter()
            .filter(|m| self.settings.profile_of(m, direction).is_some_and(|p| p.name == profile.name))
            .collect();
        let mut folders: HashMap<MailboxId, PathBuf> = HashMap::new();
        for mailbox in &served {
            if let Some(folder) = self.settings.maildir(mailbox, direction) {
                folders.insert(mailbox.mailbox.id.clone(), folder);
            }
        }
        let source = self.sources.of(profile, direction, &served);
        let mut places: Vec<_> = folders.iter().collect();
        places.sort();
        let stamp = fingerprint(&(format!("{profile:?}"), source.stamp, places));
        let kept = self.kept.transports.get(&(profile.name.to_lowercase(), direction));
        if let Some((transport, _)) = kept.filter(|(_, of)| *of == stamp) {
            return Profiled { transport: Ok((Arc::clone(transport), stamp)), missing: source.missing };
        }
        let transport = source
            .credentials
            .and_then(|credentials| {
                registry::transport(profile, direction, credentials, folders, self.secrets)
            })
            .map(|transport| (transport, stamp))
            .map_err(|e| format!("profile {}: {e}", profile.name));
        Profiled { transport, missing: source.missing }
    }

    /// What the next assembly may take over.
    fn left(self) -> Kept {
        let good = |(key, profiled): ((String, Direction), Profiled)| Some((key, profiled.transport.ok()?));
        Kept {
            transports: self.built.into_iter().filter_map(good).collect(),
            #[cfg(feature = "http")]
            applications: self.sources.into_applications(),
        }
    }
}

fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What the threshold dates of the original's state file come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Thresholds {
    /// Mailboxes and their thresholds. An address that is a mailbox in several organizations sets each of them.
    pub taken: Vec<(MailboxId, Timestamp)>,
    /// Addresses that belong to no mailbox.
    pub unknown: Vec<EmailAddress>,
}

/// The thresholds of the original's state file that concern these mailboxes.
#[must_use]
pub fn thresholds<'a>(
    mailboxes: impl IntoIterator<Item = &'a Mailbox>,
    imported: &[(EmailAddress, Timestamp)],
) -> Thresholds {
    let mut by_address: HashMap<&EmailAddress, BTreeSet<&MailboxId>> = HashMap::new();
    for mailbox in mailboxes {
        by_address.entry(&mailbox.address).or_default().insert(&mailbox.id);
    }
    let mut thresholds = Thresholds::default();
    for (address, threshold) in imported {
        match by_address.get(address) {
            Some(ids) => thresholds.taken.extend(ids.iter().map(|id| ((*id).clone(), *threshold))),
            None => thresholds.unknown.push(address.clone()),
        }
    }
    thresholds
}
