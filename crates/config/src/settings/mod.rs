//! The checked settings: what the file means, with every default filled in.

mod by_name;
mod combine;
mod convert;
mod cross;
mod deployment;
mod location;
mod mailbox;
mod options;
mod profile;
mod read;

pub use by_name::ByName;
pub use combine::{CombinationRow, combinations};
pub use convert::DEFAULT_KEY_FILE;
pub use options::{Application, ApplicationProof, Kerberos, MailboxOptions, Proxy};

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use email_router_model::{Direction, EmailAddress, Mailbox, MailboxId, MailboxKind, Timestamp};
use url::Url;

use crate::secret::SecretRef;
use crate::tree::shorten;
use crate::words::{
    AccessCredentials, AccessType, AuthenticationType, Cloud, CrmEndpoint, DecisionHistory, DeploymentType,
    EmailProcessing, InDoubtPolicy, LogLevel, OverridePolicy, Protocol, ServerType, TlsMode, UserType,
};

pub(crate) use convert::convert;
pub(crate) use read::is_windows_path;

/// Everything a configuration file says, checked. Paths are absolute or relative to the working directory of whoever loaded the
/// file, never to the file. Secrets are references; [`SecretStore`](crate::SecretStore) looks them up.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The service.
    pub system: SystemSettings,
    /// The profiles, in the order of the file; names are unique without regard to letter case.
    pub profiles: ByName<Profile>,
    /// The CRM organizations; names are unique without regard to letter case.
    pub deployments: ByName<Deployment>,
    /// Users, then queues, then forward mailboxes, each in the order of the file.
    pub mailboxes: Vec<MailboxSettings>,
    /// What the original does not have.
    pub router: RouterSettings,
}

/// `SystemConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemSettings {
    /// How many mailboxes are worked on at the same time.
    pub max_threads: u32,
    /// The longest one run over one mailbox may take.
    pub max_thread_execution: Duration,
    /// How often the scheduler looks for mailboxes that are due.
    pub scheduling_period: Duration,
    /// How often the file is looked at for changes.
    pub config_refresh_period: Duration,
    /// How often the mailboxes are loaded from the CRM again.
    pub config_update_period: Duration,
    /// How much goes to the log.
    pub log_level: LogLevel,
    /// The log file, where one is wanted beside standard error.
    pub log_file: Option<PathBuf>,
    /// The values of `ProviderOverrides`, as far as the file gives them.
    pub overrides: ProviderOverrides,
    /// The overrides with the built-in defaults, for what belongs to no profile.
    pub tuning: Tuning,
}

/// Values that the file may give for all profiles or for one; `None` where it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProviderOverrides {
    /// `CacheCapacity`.
    pub cache_capacity: Option<u32>,
    /// `PendingStatusDelay`.
    pub pending_status_delay: Option<Duration>,
    /// `SendingStatusDelay`.
    pub sending_status_delay: Option<Duration>,
    /// `MaximumDeliveryAttempts`.
    pub maximum_delivery_attempts: Option<u32>,
    /// `EWSRetrieveMessageCount`.
    pub ews_retrieve_message_count: Option<u32>,
    /// `BatchSize`.
    pub batch_size: Option<u32>,
    /// `RequestBatchSize`.
    pub request_batch_size: Option<u32>,
}

/// The same with nothing left open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Entries of a provider's cache.
    pub cache_capacity: u32,
    /// How long an e-mail in Pending Send waits before it is tried again.
    pub pending_status_delay: Duration,
    /// How long an e-mail may be in Sending before it counts as stuck.
    pub sending_status_delay: Duration,
    /// Attempts before an e-mail is Failed.
    pub maximum_delivery_attempts: u32,
    /// Messages taken in one EWS request.
    pub ews_retrieve_message_count: u32,
    /// Users and queues asked about in one request for pending e-mails.
    pub batch_size: u32,
    /// E-mails taken for each of them.
    pub request_batch_size: u32,
}

impl Default for Tuning {
    /// The values of the published 2016/365 sample.
    fn default() -> Self {
        Self {
            cache_capacity: 1024,
            pending_status_delay: Duration::from_millis(300_000),
            sending_status_delay: Duration::from_millis(1_800_000),
            maximum_delivery_attempts: 10,
            ews_retrieve_message_count: 10,
            batch_size: 5,
            request_batch_size: 5,
        }
    }
}

impl Tuning {
    /// The values that count: `first` where it says something, else `second`, else the defaults.
    #[must_use]
    pub fn of(first: &ProviderOverrides, second: &ProviderOverrides) -> Self {
        let d = Self::default();
        macro_rules! pick {
            ($($field:ident),*) => { Self { $($field: first.$field.or(second.$field).unwrap_or(d.$field)),* } };
        }
        pick!(
            cache_capacity,
            pending_status_delay,
            sending_status_delay,
            maximum_delivery_attempts,
            ews_retrieve_message_count,
            batch_size,
            request_batch_size
        )
    }
}

/// `ConfigurationProfile`: how to reach one mail system in one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Which way mail goes.
    pub direction: Direction,
    /// Which mail system.
    pub server_type: ServerType,
    /// How it is spoken to; always one that goes with the server type.
    pub protocol: Protocol,
    /// How the router proves who it is; always one that goes with the server type and direction.
    pub authentication: AuthenticationType,
    /// Where the mail system is.
    pub location: Location,
    /// Whose credentials are used.
    pub credentials: Credentials,
    /// How an Exchange Online administrator sends for others; only there.
    pub access_type: Option<AccessType>,
    /// How the connection is encrypted; [`TlsMode::None`] for Maildir.
    pub tls: TlsMode,
    /// Whether a password may travel without encryption.
    pub allow_clear_text_without_tls: bool,
    /// PEM files of certificate authorities trusted beside the system's own.
    pub extra_ca_files: Vec<PathBuf>,
    /// How long connecting may take, TLS included.
    pub connection_timeout: Duration,
    /// How long one command may take; `None` leaves it to the protocol (RFC 5321 4.5.3.2 for SMTP).
    pub operation_timeout: Option<Duration>,
    /// How often a mailbox is looked at (incoming), or the CRM is asked for pending e-mails (outgoing).
    pub polling_period: Duration,
    /// Connections at the same time to the server of this profile.
    pub max_connections: u32,
    /// Messages taken from one mailbox in one run (incoming).
    pub max_message_count: u32,
    /// The largest message handled, in bytes.
    pub max_message_size: u64,
    /// The largest header section read, in bytes (incoming).
    pub max_header_size: u64,
    /// Age beyond which a message is no longer processed (incoming); `None`: never too old.
    pub message_expiry: Option<Duration>,
    /// Only messages received after this are processed (incoming); `None`: all. A mailbox may say more:
    /// [`MailboxSettings::process_from`].
    pub process_from: Option<Timestamp>,
    /// Whether a message is deleted from the mailbox after it was processed (incoming).
    pub delete_emails: bool,
    /// Whether an undeliverable message is moved to a folder of its own where the server has folders (incoming).
    pub move_emails: bool,
    /// The name given in EHLO (outgoing SMTP); `None`: the machine's own.
    pub ehlo_name: Option<String>,
    /// PIPELINING is used where the SMTP server offers it.
    pub use_pipelining: bool,
    /// CHUNKING is used where the SMTP server offers it.
    pub use_chunking: bool,
    /// The sender of the envelope (outgoing).
    pub envelope_sender: EnvelopeSender,
    /// What Exchange, IMAP, Kerberos and OAuth 2.0 need beside.
    pub options: MailboxOptions,
    /// Published tuning values: override, then the profile's own, then default (or as `OverridePolicy` says).
    pub tuning: Tuning,
}

/// Where a mail system is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A host and a port.
    Server {
        /// Host name or IP address, without brackets.
        host: String,
        /// Port; the file's `NetworkPort`, else the usual one for protocol and encryption.
        port: u16,
    },
    /// Exchange Web Services at this URL.
    WebServices(Url),
    /// Exchange Web Services wherever Autodiscover says.
    Autodiscover,
    /// Microsoft Graph at this URL; `None`: that of the cloud.
    Graph(Option<Url>),
    /// A folder; the text `{address}` in it stands for the mailbox's address. See [`Settings::maildir`].
    Folder(PathBuf),
}

/// Whose credentials a profile uses, with what the file gives of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The account the router itself runs under (or none, for anonymous servers and Maildir).
    LocalSystem,
    /// Each mailbox's own: [`MailboxSettings::mailbox`]'s login and [`MailboxSettings::password`], or from the CRM.
    UserSpecified,
    /// One set for every mailbox.
    OtherSpecified {
        /// The name; `{address}` in it stands for the mailbox's address. See [`Settings::login`].
        user_name: String,
        /// Where the password is.
        password: SecretRef,
    },
    /// Exchange Online with user type User: the mailbox's address is the name.
    EachAddress {
        /// Where the password is.
        password: SecretRef,
    },
    /// The router as an application, which gets access tokens.
    Application(Box<Application>),
}

impl Credentials {
    /// The dialog's word.
    #[must_use]
    pub fn kind(&self) -> AccessCredentials {
        match self {
            Self::LocalSystem => AccessCredentials::LocalSystemAccount,
            Self::UserSpecified => AccessCredentials::UserSpecified,
            Self::OtherSpecified { .. } | Self::EachAddress { .. } | Self::Application(_) => {
                AccessCredentials::OtherSpecified
            }
        }
    }

    /// What the account of an Exchange Online profile is; meaningless elsewhere.
    #[must_use]
    pub fn user_type(&self) -> UserType {
        if matches!(self, Self::EachAddress { .. }) { UserType::User } else { UserType::Administrator }
    }
}

/// Who the envelope says a message is from: where bounces go (RFC 5321 4.1.1.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum EnvelopeSender {
    /// The address of the sending mailbox.
    #[default]
    Mailbox,
    /// This address for every message.
    Address(EmailAddress),
}

/// `Deployment`: one CRM organization.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// Its name.
    pub name: String,
    /// Where it runs, with what that needs.
    pub target: DeploymentTarget,
    /// The organization's unique name; another one is refused. `None`: any.
    pub organization_name: Option<String>,
    /// Whether mailboxes that the CRM lists are served although this file does not list them, by the default profiles.
    pub load_mailboxes: bool,
    /// Name of the profile for mailboxes that name none.
    pub default_incoming_profile: Option<String>,
    /// Name of the profile for mailboxes that name none.
    pub default_outgoing_profile: Option<String>,
}

/// Where a CRM organization runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeploymentTarget {
    /// The embedded CRM.
    Embedded {
        /// The SQLite file.
        path: PathBuf,
    },
    /// A server.
    Server(Box<ServerDeployment>),
}

/// An organization on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerDeployment {
    /// My company, a service provider, or CRM Online.
    pub deployment_type: DeploymentType,
    /// The root of the organization; its path ends with a slash.
    pub url: Url,
    /// Whose credentials are used.
    pub credentials: ServerCredentials,
    /// How the router proves who it is; always one that goes with the credentials.
    pub authentication: AuthenticationType,
    /// Where the tickets of the router's own account come from.
    pub kerberos: Kerberos,
    /// Whether credentials may travel without encryption.
    pub allow_http: bool,
    /// Which cloud it is in.
    pub cloud: Cloud,
    /// Who decides which mail belongs there.
    pub email_processing: EmailProcessing,
    /// By which protocol it is asked.
    pub crm_endpoint: CrmEndpoint,
    /// The version of the Web API, such as `9.2`; `None`: the newest that the server has.
    pub api_version: Option<String>,
    /// The column of e-mails in which the router keeps what the CRM has no column for.
    pub note_column: Option<String>,
    /// The SQLite file with what is known of the organization; one for each deployment.
    pub mirror_file: PathBuf,
    /// How often the mirror asks for changes.
    pub mirror_period: Duration,
    /// Younger e-mails can be answered.
    pub emails_remembered: Duration,
    /// How long connecting may take, TLS included.
    pub connection_timeout: Duration,
    /// How long one request may take.
    pub operation_timeout: Duration,
    /// Requests at the same time.
    pub max_connections: u32,
    /// Which proxy is used.
    pub proxy: Proxy,
    /// PEM files of certificate authorities trusted beside the system's own.
    pub extra_ca_files: Vec<PathBuf>,
    /// Settings that the organization does not keep, by name and value.
    pub organization_settings: Vec<(String, String)>,
}

impl ServerDeployment {
    fn secrets(&self) -> [Option<&SecretRef>; 3] {
        let own = match &self.credentials {
            ServerCredentials::LocalSystem => None,
            ServerCredentials::Login { password, .. } => Some(password),
            ServerCredentials::Application(application) => match &application.proof {
                Some(ApplicationProof::Secret(secret)) => Some(secret),
                Some(ApplicationProof::Certificate { .. }) | None => None,
            },
        };
        let account = match &self.credentials {
            ServerCredentials::Application(application) => {
                application.account.as_ref().map(|(_, secret)| secret)
            }
            _ => None,
        };
        let proxy = match &self.proxy {
            Proxy::Url { login: Some((_, password)), .. } => Some(password),
            _ => None,
        };
        [own, account, proxy]
    }
}

/// Whose credentials a deployment uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerCredentials {
    /// The account that the router runs under.
    LocalSystem,
    /// A name and its password.
    Login {
        /// The name.
        user_name: String,
        /// Where the password is.
        password: SecretRef,
    },
    /// The router as an application, which gets access tokens.
    Application(Box<ServerApplication>),
}

/// The application user of an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerApplication {
    /// The tenant: its id or one of its domains; `None`: the organization says it.
    pub tenant_id: Option<String>,
    /// The application's (client) id.
    pub client_id: String,
    /// What proves that it is the application; always there without [`Self::account`].
    pub proof: Option<ApplicationProof>,
    /// Name and password of the service user at AD FS, in whose name the application asks.
    pub account: Option<(String, SecretRef)>,
    /// The token service, where it is not the cloud's own. Without [`Self::tenant_id`] it is an AD FS.
    pub authority: Option<Url>,
    /// The scope to ask for, where it is not the organization's URL and `/.default`.
    pub scope: Option<String>,
}

impl DeploymentTarget {
    /// The dialog's word.
    #[must_use]
    pub fn deployment_type(&self) -> DeploymentType {
        match self {
            Self::Embedded { .. } => DeploymentType::Embedded,
            Self::Server(server) => server.deployment_type,
        }
    }
}

/// `User`, `Queue` or `ForwardMailbox`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxSettings {
    /// The mailbox as the rest of the router sees it. Its id is [`Settings::mailbox_id`]; its login is `UserName`.
    pub mailbox: Mailbox,
    /// Name of the deployment it belongs to.
    pub deployment: String,
    /// Name of the profile by which its mail is read, the deployment's default included; `None`: not read.
    pub incoming_profile: Option<String>,
    /// Name of the profile by which its mail is sent, the deployment's default included; `None`: not sent.
    pub outgoing_profile: Option<String>,
    /// Not worked on, and passed over by test access.
    pub disabled: bool,
    /// Load Data wrote it (`LoadedRecord`).
    pub loaded: bool,
    /// Where its own password is, for user-specified credentials.
    pub password: Option<SecretRef>,
    /// The Maildir it is read from, in place of the profile's.
    pub path: Option<PathBuf>,
    /// The Maildir its mail is sent to, in place of the profile's.
    pub outgoing_path: Option<PathBuf>,
    /// Whether the router deletes messages after processing; for a forward mailbox its own check box, else the profile's
    /// `DeleteEmails`.
    pub delete_after_processing: bool,
    /// Only messages received after this are processed: `ProcessEmailsReceivedAfter` of the mailbox or of its incoming profile, the later
    /// of the two; `None`: all.
    pub process_from: Option<Timestamp>,
}

/// Where the messages of a mailbox lie. Two mailboxes with one source would take each message twice, whatever organizations they belong to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MailSource {
    /// A Maildir, without what is redundant in the spelling of its path (`a//b`, `a/./b`); links are not followed.
    Folder(PathBuf),
    /// A login on a server.
    Login {
        /// The name that logs in.
        login: String,
        /// The host in lower case, without a dot at its end.
        host: String,
        /// The port, where it is not one of the usual ones (110, 995, 143, 993), behind which the same mailboxes lie.
        port: Option<u16>,
        /// The folder, where it is not the inbox.
        folder: Option<String>,
    },
    /// A mailbox of Exchange, whoever logs in to read it.
    Exchange {
        /// Its address in lower case.
        address: String,
        /// The host in lower case; `exchange online` for Microsoft's own, `autodiscover` where that says which.
        host: String,
    },
}

impl fmt::Display for MailSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "folder {}", folder.display()),
            Self::Login { login, host, port, folder } => {
                if let Some(folder) = folder {
                    write!(f, "folder {} of ", shorten(folder))?;
                }
                write!(f, "{} on {host}", shorten(login))?;
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
            Self::Exchange { address, host } => write!(f, "{} on {host}", shorten(address)),
        }
    }
}

/// `Router`: what the original does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterSettings {
    /// The router's state (SQLite).
    pub state_file: PathBuf,
    /// The key that encrypts secrets in the configuration file.
    pub secret_key_file: PathBuf,
    /// Passwords of mailboxes that have none in the configuration file ([`CredentialStore`](crate::CredentialStore)): a fixed name beside it.
    pub credentials_file: PathBuf,
    /// The key that signs references in outgoing mail; made by the first router that needs it.
    pub reference_key_file: PathBuf,
    /// Where metrics, health and status are served; `None`: nowhere.
    pub status_listener: Option<SocketAddr>,
    /// Which value counts where both an override and a profile give one.
    pub override_policy: OverridePolicy,
    /// What is done with an outgoing message whose submission stays in doubt.
    pub in_doubt_policy: InDoubtPolicy,
    /// Attempts after which an incoming message that cannot be processed is parked.
    pub maximum_message_attempts: u32,
    /// The deepest MIME nesting looked into.
    pub max_mime_depth: u32,
    /// The most MIME parts looked at in one message.
    pub max_mime_parts: u32,
    /// How long stopping waits for what is in flight.
    pub shutdown_timeout: Duration,
    /// What is remembered of each decision about an incoming message.
    pub decision_history: DecisionHistory,
    /// How long.
    pub decision_retention: Duration,
    /// How many decisions at the most; the oldest go first.
    pub decisions_kept: u32,
}

impl Settings {
    /// The profile of this name, without regard to letter case.
    #[must_use]
    pub fn profile(&self, name: &str) -> Option<&Profile> {
        self.profiles.get(name)
    }

    /// The deployment of this name, without regard to letter case.
    #[must_use]
    pub fn deployment(&self, name: &str) -> Option<&Deployment> {
        self.deployments.get(name)
    }

    /// The profile by which a mailbox is served in a direction; `None` where it is not.
    #[must_use]
    pub fn profile_of(&self, mailbox: &MailboxSettings, direction: Direction) -> Option<&Profile> {
        let name = match direction {
            Direction::Incoming => mailbox.incoming_profile.as_deref(),
            Direction::Outgoing => mailbox.outgoing_profile.as_deref(),
        };
        name.and_then(|name| self.profile(name))
    }

    /// The mailboxes that are worked on.
    pub fn enabled_mailboxes(&self) -> impl Iterator<Item = &MailboxSettings> {
        self.mailboxes.iter().filter(|m| !m.disabled)
    }

    /// Every reference to a password of a mail system or a CRM.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        let profiles = self.profiles.iter().filter_map(|p| match &p.credentials {
            Credentials::OtherSpecified { password, .. } | Credentials::EachAddress { password } => {
                Some(password)
            }
            Credentials::Application(application) => match &application.proof {
                ApplicationProof::Secret(secret) => Some(secret),
                ApplicationProof::Certificate { .. } => None,
            },
            Credentials::LocalSystem | Credentials::UserSpecified => None,
        });
        let proxies = self.profiles.iter().filter_map(|p| match &p.options.proxy {
            Proxy::Url { login: Some((_, password)), .. } => Some(password),
            _ => None,
        });
        let servers = self.deployments.iter().flat_map(|d| match &d.target {
            DeploymentTarget::Embedded { .. } => [None, None, None],
            DeploymentTarget::Server(server) => server.secrets(),
        });
        profiles
            .chain(proxies)
            .chain(servers.flatten())
            .chain(self.enabled_mailboxes().filter_map(|m| m.password.as_ref()))
    }

    /// The id of a mailbox in state, logs and metrics: `deployment/address` in lower case, so it survives a change of the display
    /// name. The same address in two organizations is two mailboxes.
    #[must_use]
    pub fn mailbox_id(deployment: &str, address: &EmailAddress) -> MailboxId {
        MailboxId::from(format!("{}/{}", deployment.to_lowercase(), address.key()).as_str())
    }

    /// The settings of a mailbox that the CRM lists and this file does not: the deployment's defaults.
    #[must_use]
    pub fn loaded_mailbox(
        &self,
        deployment: &Deployment,
        kind: MailboxKind,
        name: &str,
        address: EmailAddress,
    ) -> MailboxSettings {
        let incoming_profile = deployment.default_incoming_profile.clone();
        let profile = incoming_profile.as_deref().and_then(|p| self.profile(p));
        let delete = profile.is_some_and(|p| p.delete_emails);
        let process_from = profile.and_then(|p| p.process_from);
        MailboxSettings {
            mailbox: Mailbox {
                id: Self::mailbox_id(&deployment.name, &address),
                kind,
                name: name.to_owned(),
                address,
                login: None,
            },
            deployment: deployment.name.clone(),
            incoming_profile,
            // a forward mailbox only receives (behaviour document, section 8)
            outgoing_profile: deployment
                .default_outgoing_profile
                .clone()
                .filter(|_| kind != MailboxKind::Forward),
            disabled: false,
            loaded: false,
            password: None,
            path: None,
            outgoing_path: None,
            delete_after_processing: delete,
            process_from,
        }
    }

    /// The Maildir of a mailbox in a direction: its own path, else the profile's with `{address}` replaced. `None` where the
    /// profile is not a Maildir.
    #[must_use]
    pub fn maildir(&self, mailbox: &MailboxSettings, direction: Direction) -> Option<PathBuf> {
        let Location::Folder(folder) = &self.profile_of(mailbox, direction)?.location else { return None };
        let own = match direction {
            Direction::Incoming => &mailbox.path,
            Direction::Outgoing => &mailbox.outgoing_path,
        };
        Some(own.clone().unwrap_or_else(|| with_address(folder, &mailbox.mailbox.address)))
    }

    /// Where the messages of a mailbox lie; `None` where it is not read, or by a protocol of which this version does not know.
    #[must_use]
    pub fn source(&self, mailbox: &MailboxSettings) -> Option<MailSource> {
        let profile = self.profile_of(mailbox, Direction::Incoming)?;
        match &profile.location {
            Location::Folder(_) => {
                let folder = self.maildir(mailbox, Direction::Incoming)?;
                Some(MailSource::Folder(folder.components().collect()))
            }
            Location::Server { host, port }
                if matches!(profile.protocol, Protocol::Pop3 | Protocol::Imap) =>
            {
                // the router's own account opens the mailbox of the address
                let login = self.login(mailbox, Direction::Incoming);
                let inbox = |folder: &String| folder.eq_ignore_ascii_case("inbox");
                Some(MailSource::Login {
                    login: login.unwrap_or_else(|| mailbox.mailbox.login_name().to_owned()),
                    host: host.trim_end_matches('.').to_lowercase(),
                    port: Some(*port).filter(|port| !matches!(port, 110 | 995 | 143 | 993)),
                    folder: profile.options.folder.clone().filter(|folder| !inbox(folder)),
                })
            }
            Location::WebServices(_) | Location::Autodiscover | Location::Graph(_) => {
                let host = match &profile.location {
                    _ if profile.server_type == ServerType::ExchangeOnline => "exchange online".to_owned(),
                    Location::WebServices(url) => url.host_str().unwrap_or_default().to_lowercase(),
                    _ => "autodiscover".to_owned(),
                };
                Some(MailSource::Exchange { address: mailbox.mailbox.address.key().to_string(), host })
            }
            _ => None,
        }
    }

    /// The name a mailbox's session in a direction logs in with; `None` where no name is used (the router's own account,
    /// anonymous).
    #[must_use]
    pub fn login(&self, mailbox: &MailboxSettings, direction: Direction) -> Option<String> {
        match &self.profile_of(mailbox, direction)?.credentials {
            Credentials::LocalSystem => None,
            Credentials::UserSpecified => Some(mailbox.mailbox.login_name().to_owned()),
            Credentials::OtherSpecified { user_name, .. } => {
                Some(user_name.replace("{address}", mailbox.mailbox.address.as_str()))
            }
            Credentials::EachAddress { .. } | Credentials::Application(_) => {
                Some(mailbox.mailbox.address.to_string())
            }
        }
    }

    /// Where the password of a mailbox's session in a direction is; `None` where none is used, or where it is in the CRM.
    #[must_use]
    pub fn password<'a>(
        &'a self,
        mailbox: &'a MailboxSettings,
        direction: Direction,
    ) -> Option<&'a SecretRef> {
        match &self.profile_of(mailbox, direction)?.credentials {
            Credentials::LocalSystem | Credentials::Application(_) => None,
            Credentials::UserSpecified => mailbox.password.as_ref(),
            Credentials::OtherSpecified { password, .. } | Credentials::EachAddress { password } => {
                Some(password)
            }
        }
    }
}

/// A folder with `{address}` replaced. The address is one component of the path whatever it holds: what could separate
/// components is percent-encoded, and an address has an `@`, so it is never `.` or `..`.
fn with_address(folder: &Path, address: &EmailAddress) -> PathBuf {
    let mut safe = String::new();
    for c in address.key().chars() {
        if matches!(c, '/' | '\\' | '%' | ':' | '"' | '*' | '?' | '|') {
            safe.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    folder
        .components()
        .map(|component| match component.as_os_str().to_str() {
            Some(text) if text.contains("{address}") => PathBuf::from(text.replace("{address}", &safe)),
            _ => PathBuf::from(component.as_os_str()),
        })
        .collect()
}

/// Names are compared without regard to letter case and surrounding white space.
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    a.trim().to_lowercase() == b.trim().to_lowercase()
}
