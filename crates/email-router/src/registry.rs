//! Which adapter serves a profile; the one place that knows all adapters. A profile whose adapter was compiled out answers with the
//! feature to enable.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(any(feature = "maildir", feature = "pop3", feature = "smtp"))]
use email_router_config::Location;
use email_router_config::{Profile, ServerType};
use email_router_model::{Direction, MailboxId};
use email_router_transport::Transport;

use crate::assemble::Accounts;

/// The transport of a profile, with the accounts and folders of its mailboxes.
pub(crate) fn transport(
    profile: &Profile,
    direction: Direction,
    accounts: Accounts,
    folders: HashMap<MailboxId, PathBuf>,
) -> Result<Arc<dyn Transport>, String> {
    match (profile.server_type, direction) {
        (ServerType::Maildir, _) => maildir(profile, direction, folders),
        (ServerType::Pop3, Direction::Incoming) => pop3(profile, accounts),
        (ServerType::Smtp, Direction::Outgoing) => smtp(profile, accounts),
        (other, _) => Err(format!("server type {other} is not served by this version")),
    }
}

#[cfg(any(feature = "pop3", feature = "smtp"))]
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
fn pop3(profile: &Profile, accounts: Accounts) -> Result<Arc<dyn Transport>, String> {
    use email_router_config::AuthenticationType as Auth;
    use email_router_transport::pop3::{LoginMethod, Pop3Settings, Pop3Transport};
    let mut settings = Pop3Settings::new(endpoint(profile)?, Arc::new(accounts));
    settings.cleartext_allowed = profile.allow_clear_text_without_tls;
    settings.login = match profile.authentication {
        Auth::Apop => LoginMethod::Apop,
        Auth::ClearText => LoginMethod::Password,
        other => return Err(format!("authentication type {other} is not served for POP3 by this version")),
    };
    Ok(Arc::new(Pop3Transport::new(settings).map_err(|e| e.to_string())?))
}

#[cfg(not(feature = "pop3"))]
fn pop3(_: &Profile, _: Accounts) -> Result<Arc<dyn Transport>, String> {
    Err("this program was built without POP3; build it with the feature pop3".to_owned())
}

#[cfg(feature = "smtp")]
fn smtp(profile: &Profile, accounts: Accounts) -> Result<Arc<dyn Transport>, String> {
    use email_router_config::{AuthenticationType as Auth, EnvelopeSender as Wanted};
    use email_router_transport::smtp::{EnvelopeSender, HeloName, SmtpSettings, SmtpTransport};
    let mechanisms: &[&str] = match profile.authentication {
        Auth::Anonymous => &[], // there are no credentials to use one with
        Auth::ClearText => &["PLAIN", "LOGIN"],
        Auth::CramMd5 => &["CRAM-MD5"],
        other => return Err(format!("authentication type {other} is not served for SMTP by this version")),
    };
    let mut settings = SmtpSettings::new(endpoint(profile)?);
    settings.mechanisms = mechanisms.iter().map(|&name| name.to_owned()).collect();
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
    Ok(Arc::new(SmtpTransport::new(settings, Arc::new(accounts)).map_err(|e| e.to_string())?))
}

#[cfg(not(feature = "smtp"))]
fn smtp(_: &Profile, _: Accounts) -> Result<Arc<dyn Transport>, String> {
    Err("this program was built without SMTP; build it with the feature smtp".to_owned())
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
