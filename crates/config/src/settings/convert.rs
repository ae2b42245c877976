//! The one conversion from the wire types to the settings: the service and the router here, the rest in modules of their own.

use std::path::Path;

use crate::credential_store::CREDENTIALS_FILE;
use crate::finding::{Code, Finding};
use crate::lint::Places;
use crate::settings::deployment::deployment;
use crate::settings::mailbox::mailboxes;
use crate::settings::profile::profile;
use crate::settings::read::{Context, Section, is_windows_path};
use crate::settings::{ByName, ProviderOverrides, RouterSettings, Settings, SystemSettings, Tuning, cross};
use crate::wire;
use crate::words::{DecisionHistory, InDoubtPolicy, LogLevel, OverridePolicy, Word};

/// The default of `ReferenceKeyFile`: beside the state file.
const DEFAULT_REFERENCE_KEY_FILE: &str = "email-router.reference.key";

/// The default of `SecretKeyFile`: beside the configuration file.
pub const DEFAULT_KEY_FILE: &str = "email-router.key";

/// A thousand weeks in milliseconds: the ceiling of delays that somebody may want to be very long.
const LONG: u64 = 604_800_000_000;

/// A profile or deployment as far as it could be read: references to it are checked even where it has faults of its own.
pub(super) struct Named<T> {
    pub(super) name: Option<String>,
    pub(super) section: Section,
    pub(super) value: Option<T>,
}

/// Switches of the `Router` section that allow something.
#[derive(Clone, Copy, Default)]
pub(super) struct Allow {
    pub(super) mixed_servers: bool,
    pub(super) embedded_beside_others: bool,
}

/// Converts the file's content. `None` where a finding is an error.
pub(crate) fn convert(
    wire: &wire::Configuration,
    file: &Path,
    places: &Places,
) -> (Option<Settings>, Vec<Finding>) {
    let folder = crate::files::folder(file);
    let mut cx = Context { file, folder, places, findings: Vec::new() };
    let system = system(&mut cx, &wire.system.clone().unwrap_or_default());
    let (router, allow) = router(&mut cx, &wire.router.clone().unwrap_or_default());

    let wire_profiles = wire.profiles.as_ref().map_or(&[][..], |p| &p.profiles);
    let profiles: Vec<_> = wire_profiles
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let path = format!("Configuration/ConfigurationProfiles/ConfigurationProfile#{i}");
            let section = Section { path, label: label("profile", &p.name, i) };
            let value = profile(&mut cx, p, &section, &system.overrides, router.override_policy);
            Named { name: p.name.clone(), section, value }
        })
        .collect();
    let profiles = ByName::new(profiles, |p| p.name.as_deref());
    let wire_deployments = wire.deployments.as_ref().map_or(&[][..], |d| &d.deployments);
    let mut deployments: Vec<_> = wire_deployments
        .iter()
        .enumerate()
        .map(|(i, d)| {
            let path = format!("Configuration/Deployments/Deployment#{i}");
            let section = Section { path, label: label("deployment", &d.name, i) };
            let value = deployment(&mut cx, d, &section, &router.state_file);
            Named { name: d.name.clone(), section, value }
        })
        .collect();
    cross::deployments(&mut cx, &mut deployments, &profiles, allow, &router.state_file);
    let deployments = ByName::new(deployments, |d| d.name.as_deref());
    duplicates(&mut cx, "profile", &profiles);
    duplicates(&mut cx, "deployment", &deployments);
    cross::servers(&mut cx, &profiles, allow);
    let mailboxes = mailboxes(&mut cx, &wire.mailboxes.clone().unwrap_or_default(), &deployments, &profiles);

    let mut settings = Settings {
        system,
        profiles: usable(&profiles, |p| Some(&p.name)),
        deployments: usable(&deployments, |d| Some(&d.name)),
        mailboxes: Vec::new(),
        router,
    };
    for (mailbox, section) in mailboxes {
        settings.mailboxes.push(mailbox);
        cross::mailbox(&mut cx, &settings, &section);
    }
    cross::sources(&mut cx, &settings, wire);
    let usable = !cx.findings.iter().any(Finding::is_error);
    (usable.then_some(settings), cx.findings)
}

/// `profile "Sales"`, or `profile 3` while it has no name.
pub(super) fn label(what: &str, name: &Option<String>, index: usize) -> String {
    match name {
        Some(name) => format!("{what} \"{}\"", crate::tree::shorten(name)),
        None => format!("{what} {}", index + 1),
    }
}

/// Those without faults of their own.
fn usable<T: Clone>(list: &ByName<Named<T>>, name: impl Fn(&T) -> Option<&str>) -> ByName<T> {
    ByName::new(list.iter().filter_map(|item| item.value.clone()).collect(), name)
}

fn duplicates<T>(cx: &mut Context<'_>, what: &str, list: &ByName<Named<T>>) {
    for (i, item) in list.iter().enumerate() {
        let Some(name) = &item.name else { continue };
        if let Some(first) = list.place(name).filter(|first| *first < i) {
            let line = cx.places.find(&list[first].section.path).line;
            let section = Section::once(&item.section.path);
            let message = format!(
                "there is already a {what} \"{}\" at line {line}; names must differ, letter case does not count",
                crate::tree::shorten(name)
            );
            cx.error(&section, "Name", Code::DuplicateName, message);
        }
    }
}

fn system(cx: &mut Context<'_>, wire: &wire::SystemConfiguration) -> SystemSettings {
    let s = Section::once("Configuration/SystemConfiguration");
    let default = std::time::Duration::from_millis;
    let max_threads = cx.count(&s, "MaxThreads", &wire.max_threads, 1..=10_000, "").unwrap_or(50);
    let max_thread_execution = cx
        .millis(&s, "MaxThreadExecution", &wire.max_thread_execution, 1_000..=86_400_000)
        .unwrap_or(default(600_000));
    let scheduling_period =
        cx.millis(&s, "SchedulingPeriod", &wire.scheduling_period, 10..=3_600_000).unwrap_or(default(1_000));
    let config_refresh_period = cx
        .millis(&s, "ConfigRefreshPeriod", &wire.config_refresh_period, 100..=86_400_000)
        .unwrap_or(default(5_000));
    let config_update_period = cx
        .millis(&s, "ConfigUpdatePeriod", &wire.config_update_period, 1_000..=LONG)
        .unwrap_or(default(3_600_000));
    let log_level = cx.number(&s, "LogLevel", &wire.log_level, 0..=3, "").and_then(LogLevel::from_number);
    let inner = Section::once("Configuration/SystemConfiguration/ProviderOverrides");
    let overrides =
        wire.overrides.as_ref().map_or_else(ProviderOverrides::default, |o| overrides(cx, &inner, o));
    SystemSettings {
        max_threads,
        max_thread_execution,
        scheduling_period,
        config_refresh_period,
        config_update_period,
        log_level: log_level.unwrap_or_default(),
        log_file: log_file(cx, &s, &wire.log_file),
        overrides,
        tuning: Tuning::of(&overrides, &ProviderOverrides::default()),
    }
}

/// The published sample names a Windows path. It must load everywhere, so elsewhere the log goes beside the file, under that name.
fn log_file(cx: &mut Context<'_>, s: &Section, value: &Option<String>) -> Option<std::path::PathBuf> {
    let text = value.as_deref()?;
    if cfg!(windows) || !is_windows_path(text) {
        return cx.path(s, "LogFile", value);
    }
    let name = text.rsplit('\\').next().filter(|n| !n.is_empty()).unwrap_or("emailRouterLog.txt");
    let path = cx.folder.join(name);
    let message =
        format!("LogFile is a Windows path, which means nothing on this system; {} is used", path.display());
    cx.warn(s, "LogFile", Code::ForeignPath, message);
    Some(path)
}

/// The seven values, of `ProviderOverrides` or of one profile.
pub(super) fn overrides(
    cx: &mut Context<'_>,
    s: &Section,
    wire: &wire::ProviderOverrides,
) -> ProviderOverrides {
    ProviderOverrides {
        cache_capacity: cx.count(s, "CacheCapacity", &wire.cache_capacity, 1..=10_000_000, ""),
        pending_status_delay: cx.millis(s, "PendingStatusDelay", &wire.pending_status_delay, 0..=LONG),
        sending_status_delay: cx.millis(s, "SendingStatusDelay", &wire.sending_status_delay, 1_000..=LONG),
        maximum_delivery_attempts: cx.count(
            s,
            "MaximumDeliveryAttempts",
            &wire.maximum_delivery_attempts,
            1..=1_000,
            "",
        ),
        ews_retrieve_message_count: cx.count(
            s,
            "EWSRetrieveMessageCount",
            &wire.ews_retrieve_message_count,
            1..=1_000,
            "",
        ),
        batch_size: cx.count(s, "BatchSize", &wire.batch_size, 1..=1_000, ""),
        request_batch_size: cx.count(s, "RequestBatchSize", &wire.request_batch_size, 1..=1_000, ""),
    }
}

fn router(cx: &mut Context<'_>, wire: &wire::Router) -> (RouterSettings, Allow) {
    let s = Section::once("Configuration/Router");
    let network = cx.flag(&s, "AllowNetworkListener", &wire.allow_network_listener).unwrap_or(false);
    let allow = Allow {
        mixed_servers: cx.flag(&s, "AllowMixedServers", &wire.allow_mixed_servers).unwrap_or(false),
        embedded_beside_others: cx
            .flag(&s, "AllowEmbeddedBesideOthers", &wire.allow_embedded_beside_others)
            .unwrap_or(false),
    };
    let status_listener: Option<std::net::SocketAddr> = match wire.status_listener.as_deref().map(str::parse)
    {
        None => None,
        Some(Ok(address)) => Some(address),
        Some(Err(_)) => {
            let message =
                "StatusListener must be an IP address and a port, such as 127.0.0.1:9462 or [::1]:9462";
            cx.error(&s, "StatusListener", Code::InvalidValue, message);
            None
        }
    };
    if let Some(address) = status_listener.filter(|a| !a.ip().is_loopback() && !network) {
        let message = format!(
            "StatusListener {address} can be reached from the network; use a loopback address, or set \
             AllowNetworkListener to true"
        );
        cx.error(&s, "StatusListener", Code::NetworkListener, message);
    }
    let path = |cx: &mut Context<'_>, name, value, default| {
        cx.path(&s, name, value).unwrap_or_else(|| cx.folder.join(default))
    };
    let state_file = path(cx, "StateFile", &wire.state_file, "email-router-state.db");
    let secret_key_file = path(cx, "SecretKeyFile", &wire.secret_key_file, DEFAULT_KEY_FILE);
    // like the state it must outlive the configuration, so it is beside it
    let reference_key_file = cx
        .path(&s, "ReferenceKeyFile", &wire.reference_key_file)
        .unwrap_or_else(|| state_file.with_file_name(DEFAULT_REFERENCE_KEY_FILE));
    if reference_key_file == state_file || reference_key_file == secret_key_file {
        let message = "ReferenceKeyFile must be a file of its own, neither StateFile nor SecretKeyFile";
        cx.error(&s, "ReferenceKeyFile", Code::InvalidValue, message);
    }
    let settings = RouterSettings {
        state_file,
        secret_key_file,
        credentials_file: cx.folder.join(CREDENTIALS_FILE),
        reference_key_file,
        status_listener,
        override_policy: cx
            .word(&s, "OverridePolicy", &wire.override_policy, OverridePolicy::ALL)
            .unwrap_or(OverridePolicy::Overrides),
        in_doubt_policy: cx
            .word(&s, "InDoubtPolicy", &wire.in_doubt_policy, InDoubtPolicy::ALL)
            .unwrap_or(InDoubtPolicy::Report),
        maximum_message_attempts: cx
            .count(&s, "MaximumMessageAttempts", &wire.maximum_message_attempts, 1..=1_000, "")
            .unwrap_or(5),
        max_mime_depth: cx.count(&s, "MaxMimeDepth", &wire.max_mime_depth, 1..=200, "").unwrap_or(32),
        max_mime_parts: cx.count(&s, "MaxMimeParts", &wire.max_mime_parts, 1..=100_000, "").unwrap_or(1_000),
        shutdown_timeout: cx
            .millis(&s, "ShutdownTimeout", &wire.shutdown_timeout, 0..=3_600_000)
            .unwrap_or(std::time::Duration::from_millis(30_000)),
        decision_history: cx
            .word(&s, "DecisionHistory", &wire.decision_history, DecisionHistory::ALL)
            .unwrap_or(DecisionHistory::WithHeaders),
        decision_retention: cx
            .millis(&s, "DecisionRetention", &wire.decision_retention, 60_000..=31_536_000_000)
            .unwrap_or(std::time::Duration::from_secs(30 * 24 * 3600)),
        decisions_kept: cx
            .count(&s, "DecisionsKept", &wire.decisions_kept, 1..=10_000_000, "")
            .unwrap_or(100_000),
    };
    (settings, allow)
}
