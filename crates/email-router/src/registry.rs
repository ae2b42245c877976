//! Which adapter serves a profile; the one place that knows all adapters. A profile whose adapter was compiled out answers with the
//! feature to enable.

mod crm;
#[cfg(feature = "dataverse")]
mod dataverse;

pub(crate) use crm::{Crm, CrmOptions, crm, listed, probe};

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(any(
    feature = "maildir",
    feature = "pop3",
    feature = "imap",
    feature = "smtp",
    feature = "ews",
    feature = "graph"
))]
use email_router_config::Location;

use email_router_auth::CredentialSource;
use email_router_config::{Profile, Protocol, SecretStore};
use email_router_model::{Direction, MailboxId};
use email_router_transport::Transport;
use email_router_transport::rules::InboxRules;

/// The transport of a profile, with who logs in and the folders of its mailboxes.
#[cfg_attr(not(any(feature = "ews", feature = "graph")), allow(unused_variables))] // only Exchange takes what they give
pub(crate) fn transport(
    profile: &Profile,
    direction: Direction,
    credentials: Arc<dyn CredentialSource>,
    folders: HashMap<MailboxId, PathBuf>,
    secrets: &SecretStore,
) -> Result<Arc<dyn Transport>, String> {
    match (profile.protocol, direction) {
        (Protocol::Maildir, _) => maildir(profile, direction, folders),
        (Protocol::Pop3, Direction::Incoming) => pop3(profile, credentials),
        (Protocol::Imap, Direction::Incoming) => imap(profile, credentials),
        (Protocol::Smtp, Direction::Outgoing) => smtp(profile, credentials),
        #[cfg(feature = "ews")]
        (Protocol::ExchangeWebServices, _) => Ok(ews(profile, credentials, secrets)?),
        #[cfg(feature = "graph")]
        (Protocol::MicrosoftGraph, _) => Ok(graph(profile, credentials, secrets)?),
        (other, _) => Err(not_built(other)),
    }
}

/// The inbox rules behind a profile of Exchange.
#[cfg_attr(not(any(feature = "ews", feature = "graph")), allow(unused_variables))] // only Exchange takes what they give
pub(crate) fn inbox_rules(
    profile: &Profile,
    credentials: Arc<dyn CredentialSource>,
    secrets: &SecretStore,
) -> Result<Arc<dyn InboxRules>, String> {
    match profile.protocol {
        #[cfg(feature = "ews")]
        Protocol::ExchangeWebServices => Ok(ews(profile, credentials, secrets)?),
        #[cfg(feature = "graph")]
        Protocol::MicrosoftGraph => Ok(graph(profile, credentials, secrets)?),
        other => Err(not_built(other)),
    }
}

/// Why a protocol is not served: it was compiled out, or nobody speaks it.
fn not_built(protocol: Protocol) -> String {
    let feature = match protocol {
        Protocol::ExchangeWebServices => "ews",
        Protocol::MicrosoftGraph => "graph",
        other => return format!("protocol {other} is not served"),
    };
    format!("this program was built without {protocol}; build it with the feature {feature}")
}

#[cfg(any(feature = "pop3", feature = "imap", feature = "smtp"))]
fn endpoint(profile: &Profile) -> Result<email_router_transport::net::Endpoint, String> {
    use email_router_config::TlsMode as Wanted;
    use email_router_transport::net::{Endpoint, TlsMode};
    let Location::Server { host, port } = &profile.location else {
        return Err("it names no EmailServer".to_owned());
    };
    let tls = match profile.tls {
        Wanted::Implicit => TlsMode::Implicit,
        Wanted::StartTls => TlsMode::StartTls,
        Wanted::StartTlsIfOffered => TlsMode::StartTlsIfOffered,
        Wanted::None => TlsMode::None,
    };
    let mut endpoint = Endpoint::new(host.clone(), *port, tls);
    endpoint.extra_ca_files.clone_from(&profile.extra_ca_files);
    endpoint.connect_timeout = profile.connection_timeout;
    if let Some(timeout) = profile.operation_timeout {
        endpoint.operation_timeout = timeout;
    }
    Ok(endpoint)
}

#[cfg(feature = "pop3")]
fn pop3(profile: &Profile, credentials: Arc<dyn CredentialSource>) -> Result<Arc<dyn Transport>, String> {
    use email_router_config::AuthenticationType as Auth;
    use email_router_transport::pop3::{LoginMethod, Pop3Settings, Pop3Transport};
    let mut settings = Pop3Settings::new(endpoint(profile)?, credentials);
    settings.cleartext_allowed = profile.allow_clear_text_without_tls;
    settings.login = match profile.authentication {
        Auth::Apop => LoginMethod::Apop,
        Auth::ClearText => LoginMethod::Password,
        Auth::Ntlm => LoginMethod::NTLM,
        Auth::WindowsAuthentication => LoginMethod::WINDOWS,
        Auth::OAuth2 => LoginMethod::OAUTH2,
        other => return Err(format!("authentication type {other} is not served for POP3")),
    };
    Ok(Arc::new(Pop3Transport::new(settings).map_err(|e| e.to_string())?))
}

#[cfg(not(feature = "pop3"))]
fn pop3(_: &Profile, _: Arc<dyn CredentialSource>) -> Result<Arc<dyn Transport>, String> {
    Err("this program was built without POP3; build it with the feature pop3".to_owned())
}

#[cfg(feature = "smtp")]
fn smtp(profile: &Profile, credentials: Arc<dyn CredentialSource>) -> Result<Arc<dyn Transport>, String> {
    use email_router_auth::{CramMd5, Login, Mechanism, OAUTH2, Plain, WINDOWS};
    use email_router_config::{AuthenticationType as Auth, EnvelopeSender as Wanted};
    use email_router_transport::smtp::{EnvelopeSender, HeloName, SmtpSettings, SmtpTransport};
    let mechanisms: &[&dyn Mechanism] = match profile.authentication {
        Auth::Anonymous => &[], // there are no credentials to use one with
        Auth::ClearText => &[&Plain, &Login],
        Auth::CramMd5 => &[&CramMd5],
        Auth::WindowsAuthentication => WINDOWS,
        Auth::OAuth2 => OAUTH2,
        other => return Err(format!("authentication type {other} is not served for SMTP")),
    };
    let mut settings = SmtpSettings::new(endpoint(profile)?).with_mechanisms(mechanisms);
    settings.allow_cleartext_password = profile.allow_clear_text_without_tls;
    settings.use_pipelining = profile.use_pipelining;
    settings.use_chunking = profile.use_chunking;
    settings.max_message_bytes = profile.max_message_size;
    settings.pool.max_connections = profile.max_connections as usize;
    settings.envelope_sender = match &profile.envelope_sender {
        Wanted::Mailbox => EnvelopeSender::SenderMailbox,
        Wanted::Address(address) => EnvelopeSender::Fixed(address.clone()),
    };
    if let Some(name) = &profile.ehlo_name {
        settings.helo =
            Some(HeloName::parse(name).ok_or_else(|| format!("EhloName {name:?} is no host name"))?);
    }
    if let Some(timeout) = profile.operation_timeout {
        // one setting for an administrator: it may only shorten what RFC 5321 4.5.3.2 allows, the final answer keeps its ten minutes,
        // since a shorter one makes messages in doubt
        for deadline in [
            &mut settings.deadlines.greeting,
            &mut settings.deadlines.mail,
            &mut settings.deadlines.rcpt,
            &mut settings.deadlines.data_start,
        ] {
            *deadline = timeout.min(*deadline);
        }
    }
    Ok(Arc::new(SmtpTransport::new(settings, credentials).map_err(|e| e.to_string())?))
}

#[cfg(not(feature = "smtp"))]
fn smtp(_: &Profile, _: Arc<dyn CredentialSource>) -> Result<Arc<dyn Transport>, String> {
    Err("this program was built without SMTP; build it with the feature smtp".to_owned())
}

#[cfg(feature = "imap")]
fn imap(profile: &Profile, credentials: Arc<dyn CredentialSource>) -> Result<Arc<dyn Transport>, String> {
    use email_router_auth::CramMd5;
    use email_router_config::AuthenticationType as Auth;
    use email_router_transport::imap::{ImapSettings, ImapTransport, LoginMethod};
    let mut settings = ImapSettings::new(endpoint(profile)?, credentials);
    settings.cleartext_allowed = profile.allow_clear_text_without_tls;
    if let Some(folder) = &profile.options.folder {
        settings.folder.clone_from(folder);
    }
    settings.login = match profile.authentication {
        Auth::ClearText => LoginMethod::Password,
        Auth::CramMd5 => LoginMethod::Sasl(&[&CramMd5]),
        Auth::Ntlm => LoginMethod::NTLM,
        Auth::WindowsAuthentication => LoginMethod::WINDOWS,
        Auth::OAuth2 => LoginMethod::OAUTH2,
        other => return Err(format!("authentication type {other} is not served for IMAP")),
    };
    Ok(Arc::new(ImapTransport::new(settings).map_err(|e| e.to_string())?))
}

#[cfg(not(feature = "imap"))]
fn imap(_: &Profile, _: Arc<dyn CredentialSource>) -> Result<Arc<dyn Transport>, String> {
    Err("this program was built without IMAP; build it with the feature imap".to_owned())
}

/// The client for https of a profile.
#[cfg(feature = "http")]
pub(crate) fn http_client(
    profile: &Profile,
    secrets: &SecretStore,
) -> Result<Arc<dyn email_router_http::HttpService>, String> {
    let mut settings = email_router_http::HttpSettings::default();
    settings.extra_ca_files.clone_from(&profile.extra_ca_files);
    settings.connect_timeout = profile.connection_timeout;
    if let Some(timeout) = profile.operation_timeout {
        settings.patience = timeout;
    }
    settings.max_idle_connections = profile.max_connections as usize;
    settings.max_connections_per_login = profile.max_connections as usize;
    settings.allow_cleartext_password = profile.allow_clear_text_without_tls;
    http(settings, &profile.options.proxy, secrets)
}

/// The client for https with these settings, through this proxy.
#[cfg(feature = "http")]
fn http(
    mut settings: email_router_http::HttpSettings,
    proxy: &email_router_config::Proxy,
    secrets: &SecretStore,
) -> Result<Arc<dyn email_router_http::HttpService>, String> {
    use email_router_config::Proxy as Wanted;
    use email_router_http::{HttpClient, Proxy};
    settings.proxy = match proxy {
        Wanted::System => Proxy::System,
        Wanted::None => Proxy::None,
        Wanted::Url { url, login } => {
            let mut url = url.clone();
            if let Some((name, password)) = login {
                let password = secrets.resolve(password).map_err(|e| e.to_string())?;
                let set = url.set_username(name).and_then(|()| url.set_password(Some(password.expose())));
                set.map_err(|()| "the proxy's URL takes no name and password".to_owned())?;
            }
            Proxy::Url(url)
        }
    };
    let client = HttpClient::new(settings).map_err(|e| e.to_string())?;
    #[cfg(feature = "kerberos")]
    let client = client.with_mechanism(Arc::new(email_router_auth::KerberosNegotiate));
    Ok(Arc::new(client))
}

/// Microsoft's clouds under the name of the configuration.
#[cfg(feature = "http")]
pub(crate) fn cloud(cloud: email_router_config::Cloud) -> email_router_http::oauth::Cloud {
    use email_router_config::Cloud as Wanted;
    use email_router_http::oauth::Cloud;
    match cloud {
        Wanted::Public => Cloud::Public,
        Wanted::UsGovernment => Cloud::UsGovernment,
        Wanted::UsDefense => Cloud::UsDefense,
        Wanted::China => Cloud::China,
    }
}

#[cfg(feature = "ews")]
fn ews(
    profile: &Profile,
    credentials: Arc<dyn CredentialSource>,
    secrets: &SecretStore,
) -> Result<Arc<email_router_transport::ews::EwsTransport>, String> {
    use email_router_config::{
        AccessCredentials as Who, AccessType, AuthenticationType as Auth, DeleteType as Deleting,
        ExchangeVersion, MailboxAccess as Wanted, UserType,
    };
    use email_router_http::Scheme;
    use email_router_transport::ews::{
        Autodiscover, DeleteType, EwsSettings, EwsTransport, Location as Place, MailboxAccess, Sending,
        SentItems, Version,
    };
    let location = match &profile.location {
        Location::WebServices(url) => Place::Url(url.clone()),
        Location::Autodiscover => Place::Autodiscover(Autodiscover {
            trusted_domains: profile.options.trusted_autodiscover_domains.clone(),
            ..Autodiscover::default()
        }),
        _ => return Err("it names no ExchangeWebServicesUrl".to_owned()),
    };
    let scheme = match profile.authentication {
        Auth::WindowsAuthentication => Scheme::Windows,
        Auth::Ntlm => Scheme::Ntlm,
        Auth::ClearText => Scheme::Basic,
        Auth::OAuth2 => Scheme::Bearer,
        other => return Err(format!("authentication type {other} is not served for Exchange Web Services")),
    };
    let mut settings = EwsSettings::new(location, http_client(profile, secrets)?, scheme, credentials);
    let whose = &profile.credentials;
    let own = whose.kind() == Who::UserSpecified
        || (whose.kind() == Who::OtherSpecified && whose.user_type() == UserType::User);
    (settings.access, settings.sending) = match (own, profile.options.mailbox_access, profile.access_type) {
        (true, ..) => (MailboxAccess::Own, Sending::Own),
        (_, Wanted::FullAccess, Some(AccessType::DelegateAccess)) => {
            (MailboxAccess::FullAccess, Sending::OnBehalfOf)
        }
        (_, Wanted::FullAccess, _) => (MailboxAccess::FullAccess, Sending::SendAs),
        (_, Wanted::Impersonation, Some(AccessType::DelegateAccess)) => {
            (MailboxAccess::Impersonation, Sending::OnBehalfOf)
        }
        (_, Wanted::Impersonation, _) => (MailboxAccess::Impersonation, Sending::Impersonation),
    };
    settings.sent_items = if profile.options.save_sent_items { SentItems::OfSender } else { SentItems::None };
    settings.delete_type = match profile.options.delete_type {
        Deleting::MoveToDeletedItems => DeleteType::MoveToDeletedItems,
        Deleting::SoftDelete => DeleteType::SoftDelete,
        Deleting::HardDelete => DeleteType::HardDelete,
    };
    if let Some(version) = profile.options.exchange_version {
        settings.version = match version {
            ExchangeVersion::Exchange2007Sp1 => Version::Exchange2007Sp1,
            ExchangeVersion::Exchange2010 => Version::Exchange2010,
            ExchangeVersion::Exchange2010Sp1 => Version::Exchange2010Sp1,
            ExchangeVersion::Exchange2010Sp2 => Version::Exchange2010Sp2,
            ExchangeVersion::Exchange2013 => Version::Exchange2013,
            ExchangeVersion::Exchange2013Sp1 => Version::Exchange2013Sp1,
            ExchangeVersion::Exchange2016 => Version::Exchange2016,
        };
    }
    // the transport takes up to a hundred; the file's range is older than it
    settings.retrieve_count = (profile.tuning.ews_retrieve_message_count as usize).min(100);
    settings.concurrent_submissions = profile.max_connections as usize;
    settings.max_message_bytes = profile.max_message_size;
    Ok(Arc::new(EwsTransport::new(settings).map_err(|e| e.to_string())?))
}

#[cfg(feature = "graph")]
fn graph(
    profile: &Profile,
    credentials: Arc<dyn CredentialSource>,
    secrets: &SecretStore,
) -> Result<Arc<email_router_transport::graph::GraphTransport>, String> {
    use email_router_config::{AccessType, Credentials as Whose, DeleteType as Deleting};
    use email_router_transport::graph::{Deletion, GraphSettings, GraphTransport, SendAccess};
    let mut settings =
        GraphSettings::new(http_client(profile, secrets)?, cloud(profile.options.cloud), credentials);
    if let Location::Graph(Some(url)) = &profile.location {
        settings.base = url.clone();
    }
    settings.deletion = match profile.options.delete_type {
        Deleting::MoveToDeletedItems => Deletion::DeletedItems,
        Deleting::SoftDelete | Deleting::HardDelete => Deletion::Permanent,
    };
    let account = match &profile.credentials {
        Whose::Application(application) => application.account.as_deref(),
        _ => None,
    };
    let account =
        account.map(|a| a.parse().map_err(|e| format!("UserName {a:?} is no address: {e}"))).transpose()?;
    settings.send_access = match (account, profile.access_type) {
        (None, _) => SendAccess::Mailbox,
        (Some(account), Some(AccessType::DelegateAccess)) => SendAccess::OnBehalf(account),
        (Some(account), _) => SendAccess::SendAs(account),
    };
    Ok(Arc::new(GraphTransport::new(settings)))
}

#[cfg(feature = "maildir")]
fn maildir(
    profile: &Profile,
    direction: Direction,
    folders: HashMap<MailboxId, PathBuf>,
) -> Result<Arc<dyn Transport>, String> {
    use email_router_transport::maildir::{Delivery, MailboxPath, MaildirSettings, MaildirTransport};
    if !matches!(profile.location, Location::Folder(_)) {
        return Err("it names no Path".to_owned());
    }
    let path = MailboxPath::Map(folders.into_iter().collect());
    let settings = match direction {
        Direction::Incoming => MaildirSettings::incoming(path),
        // another program may well take messages out of the folder to carry them on
        Direction::Outgoing => MaildirSettings::outgoing(Delivery::Outbox { path, keeps_messages: false }),
    };
    Ok(Arc::new(MaildirTransport::new(settings)))
}

#[cfg(not(feature = "maildir"))]
fn maildir(_: &Profile, _: Direction, _: HashMap<MailboxId, PathBuf>) -> Result<Arc<dyn Transport>, String> {
    Err("this program was built without Maildir; build it with the feature maildir".to_owned())
}
