//! One configuration profile: the rules of its dialog.

use std::path::PathBuf;
use std::time::Duration;

use email_router_model::{Direction, EmailAddress, Timestamp};

use crate::finding::Code;
use crate::settings::combine::{self, Row, demands_types, takes_access_type, takes_user_type};
use crate::settings::location::{extra_ca_files, location, usual_port};
use crate::settings::options;
use crate::settings::read::{Context, Section, is_given, is_refused};
use crate::settings::{Credentials, EnvelopeSender, Location, Profile, ProviderOverrides, Tuning, convert};
use crate::wire;
use crate::words::{
    AccessCredentials as Who, AccessType, AuthenticationType as Auth, OverridePolicy, Protocol, ServerType,
    TlsMode, UserType, Word, list,
};

/// What the tables say about a profile.
#[derive(Clone, Copy)]
pub(super) struct Combination {
    pub(super) direction: Direction,
    pub(super) server: ServerType,
    pub(super) protocol: Protocol,
    pub(super) auth: Auth,
    pub(super) who: Who,
    pub(super) user_type: Option<UserType>,
    pub(super) access_type: Option<AccessType>,
}

pub(super) fn profile(
    cx: &mut Context<'_>,
    wire: &wire::ConfigurationProfile,
    s: &Section,
    overrides: &ProviderOverrides,
    policy: OverridePolicy,
) -> Option<Profile> {
    let name = cx.required(s, "Name", &wire.name, "a name of its own");
    if name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case("none")) {
        cx.error(
            s,
            "Name",
            Code::InvalidValue,
            "Name is \"None\", which mailboxes use to say \"no profile\"",
        );
    }
    let own = own_values(cx, wire, s);
    let common = common(cx, wire, s);
    let combination = combination(cx, wire, s)?;
    let Combination { direction, server, protocol, auth, .. } = combination;
    let location = location(cx, wire, s, &combination);
    let tls = tls(cx, wire, s, &combination, location.as_ref());
    let allow_clear =
        cx.flag(s, "AllowClearTextWithoutTls", &wire.allow_clear_text_without_tls).unwrap_or(false);
    // where the file does not name the type, the application stands for it
    let named = if wire.authentication_type.is_some() { "AuthenticationType" } else { "Application" };
    encryption(cx, s, named, auth, tls, allow_clear);
    let credentials = credentials(cx, wire, s, &combination);
    let port =
        cx.count(s, "NetworkPort", &wire.network_port, 1..=65_535, "").and_then(|p| u16::try_from(p).ok());
    let location = location.map(|location| match location {
        Location::Server { host, .. } => {
            Location::Server { host, port: port.unwrap_or_else(|| usual_port(protocol, tls, auth)) }
        }
        other => {
            cx.no_effect(s, "NetworkPort", &wire.network_port, "the port belongs to EmailServer only");
            other
        }
    });
    let (envelope_sender, ehlo_name) = outgoing(cx, wire, s, &combination);
    let options = options::options(cx, wire, s, &combination);
    let tuning = match policy {
        OverridePolicy::Overrides => Tuning::of(overrides, &own),
        OverridePolicy::Profiles => Tuning::of(&own, overrides),
    };
    Some(Profile {
        name: name?,
        direction,
        server_type: server,
        protocol,
        authentication: auth,
        location: location?,
        credentials: credentials?,
        access_type: combination.access_type,
        tls,
        allow_clear_text_without_tls: allow_clear,
        extra_ca_files: common.extra_ca_files,
        connection_timeout: common.connection_timeout,
        operation_timeout: common.operation_timeout,
        polling_period: common.polling_period.unwrap_or(match direction {
            Direction::Incoming => Duration::from_secs(60),
            Direction::Outgoing => Duration::from_secs(10),
        }),
        max_connections: common.max_connections,
        max_message_count: common.max_message_count,
        max_message_size: common.max_message_size,
        max_header_size: common.max_header_size,
        message_expiry: common.message_expiry,
        process_from: common.process_from,
        delete_emails: common.delete_emails,
        move_emails: common.move_emails,
        ehlo_name,
        use_pipelining: cx.flag(s, "UsePipelining", &wire.use_pipelining).unwrap_or(true),
        use_chunking: cx.flag(s, "UseChunking", &wire.use_chunking).unwrap_or(true),
        envelope_sender,
        options,
        tuning,
    })
}

fn own_values(cx: &mut Context<'_>, wire: &wire::ConfigurationProfile, s: &Section) -> ProviderOverrides {
    let own = wire::ProviderOverrides {
        cache_capacity: wire.cache_capacity.clone(),
        pending_status_delay: wire.pending_status_delay.clone(),
        sending_status_delay: wire.sending_status_delay.clone(),
        maximum_delivery_attempts: wire.maximum_delivery_attempts.clone(),
        ews_retrieve_message_count: wire.ews_retrieve_message_count.clone(),
        batch_size: wire.batch_size.clone(),
        request_batch_size: wire.request_batch_size.clone(),
    };
    convert::overrides(cx, s, &own)
}

/// The advanced values that depend on nothing else.
struct Common {
    extra_ca_files: Vec<PathBuf>,
    connection_timeout: Duration,
    operation_timeout: Option<Duration>,
    polling_period: Option<Duration>,
    max_connections: u32,
    max_message_count: u32,
    max_message_size: u64,
    max_header_size: u64,
    message_expiry: Option<Duration>,
    process_from: Option<Timestamp>,
    delete_emails: bool,
    move_emails: bool,
}

fn common(cx: &mut Context<'_>, wire: &wire::ConfigurationProfile, s: &Section) -> Common {
    let expiry = cx.millis(s, "MessageExpiry", &wire.message_expiry, 0..=3_155_760_000_000);
    Common {
        extra_ca_files: extra_ca_files(cx, wire.extra_ca_files.as_ref(), s),
        connection_timeout: cx
            .millis(s, "ConnectionTimeout", &wire.connection_timeout, 100..=600_000)
            .unwrap_or(Duration::from_secs(30)),
        operation_timeout: cx.millis(s, "OperationTimeout", &wire.operation_timeout, 100..=3_600_000),
        polling_period: cx.millis(s, "PollingPeriod", &wire.polling_period, 100..=86_400_000),
        max_connections: cx.count(s, "MaxConnections", &wire.max_connections, 1..=1_000, "").unwrap_or(4),
        max_message_count: cx
            .count(s, "MaxMessageCount", &wire.max_message_count, 1..=1_000_000, "")
            .unwrap_or(500),
        max_message_size: cx
            .number(s, "MaxMessageSize", &wire.max_message_size, 1_024..=2_147_483_647, "bytes")
            .unwrap_or(52_428_800),
        max_header_size: cx
            .number(s, "MaxHeaderSize", &wire.max_header_size, 1_024..=16_777_216, "bytes")
            .unwrap_or(262_144),
        message_expiry: expiry.filter(|e| !e.is_zero()),
        process_from: cx.moment(s, "ProcessEmailsReceivedAfter", &wire.process_emails_received_after),
        delete_emails: cx.flag(s, "DeleteEmails", &wire.delete_emails).unwrap_or(false),
        move_emails: cx.flag(s, "MoveEmails", &wire.move_emails).unwrap_or(true),
    }
}

/// Reads the six words of the General tab and holds them against the tables. `None` where the tables cannot be consulted.
fn combination(cx: &mut Context<'_>, wire: &wire::ConfigurationProfile, s: &Section) -> Option<Combination> {
    let direction = cx.required_word(s, "Direction", &wire.direction, DIRECTIONS);
    let server = cx.required_word(s, "ServerType", &wire.server_type, ServerType::ALL);
    let protocol = cx.word(s, "Protocol", &wire.protocol, Protocol::ALL);
    let auth = cx.word(s, "AuthenticationType", &wire.authentication_type, Auth::ALL);
    let who = cx.word(s, "AccessCredentials", &wire.access_credentials, Who::ALL);
    let user_type = cx.word(s, "UserType", &wire.user_type, UserType::ALL);
    let access_type = cx.word(s, "AccessType", &wire.access_type, AccessType::ALL);
    let (direction, server) = (direction?.0, server?);
    let Some(row) = combine::row(server, direction) else {
        let mut message = format!(
            "ServerType {server} cannot be used for {direction} mail; allowed: {}",
            list(&combine::servers(direction))
        );
        if server.is_on_premises_exchange() {
            message.push_str("; mail goes out through it by SMTP, or by ServerType ExchangeServer");
        }
        cx.error(s, "ServerType", Code::InvalidCombination, message);
        return None;
    };
    let mut what = format!("{direction} {server}");
    let protocol = match wire.protocol {
        None => combine::usual_protocol(row, auth.or(wire.application.as_ref().map(|_| Auth::OAuth2))),
        Some(_) => pick(cx, s, "Protocol", protocol, row.protocols, &what)?,
    };
    let mut types = row.authentication_types();
    types.retain(|auth| combine::protocol_takes(protocol, *auth));
    if wire.protocol.is_some() && row.protocols.len() > 1 {
        what = format!("{what} by {protocol}");
    }
    // the dialog filled in clear text for Exchange Online; an application is ours
    let filled_in = match (server, &wire.application) {
        (ServerType::ExchangeOnline, Some(_)) => Some(Auth::OAuth2),
        (ServerType::ExchangeOnline, None) => Some(Auth::ClearText),
        _ => None,
    };
    let auth = match filled_in.filter(|auth| wire.authentication_type.is_none() && types.contains(auth)) {
        Some(auth) => auth,
        None => choose(cx, s, "AuthenticationType", &wire.authentication_type, auth, &types, &what)?,
    };
    let what = format!("{what} with {auth}");
    let allowed = row.credentials(auth);
    let who = choose(cx, s, "AccessCredentials", &wire.access_credentials, who, allowed, &what)?;
    let user_type = user_type_of(cx, wire, s, row, who, auth, user_type);
    let access_type = access_type_of(cx, wire, s, row, who, auth, user_type, access_type);
    retired(cx, s, server, protocol);
    Some(Combination { direction, server, protocol, auth, who, user_type, access_type })
}

/// A word that is filled in by itself where only one is allowed, and must be given otherwise.
fn choose<W: Word>(
    cx: &mut Context<'_>,
    s: &Section,
    element: &str,
    given: &Option<String>,
    word: Option<W>,
    allowed: &[W],
    what: &str,
) -> Option<W> {
    match (given, allowed) {
        (None, [only]) => Some(*only),
        (None, _) => {
            let message = format!("{element} is missing; give one of {}", list(allowed));
            cx.error(s, element, Code::MissingElement, message);
            None
        }
        (Some(_), _) => pick(cx, s, element, word, allowed, what),
    }
}

fn pick<W: Word>(
    cx: &mut Context<'_>,
    s: &Section,
    element: &str,
    word: Option<W>,
    allowed: &[W],
    what: &str,
) -> Option<W> {
    let word = word?;
    if allowed.contains(&word) {
        return Some(word);
    }
    let message = format!("{element} {word} cannot be used with {what}; allowed: {}", list(allowed));
    cx.error(s, element, Code::InvalidCombination, message);
    None
}

/// User Type: only for Exchange with other-specified name and password, and required where the dialog of the original asks for it (6.1). Elsewhere it may be
/// left out and means Administrator.
fn user_type_of(
    cx: &mut Context<'_>,
    wire: &wire::ConfigurationProfile,
    s: &Section,
    row: &Row,
    who: Who,
    auth: Auth,
    user_type: Option<UserType>,
) -> Option<UserType> {
    if !takes_user_type(row.server, who, auth) {
        if is_given(&wire.user_type) {
            let message = format!(
                "UserType cannot be used with {}, {auth} and {who}; it belongs to Exchange with OtherSpecified name and password",
                row.server
            );
            cx.error(s, "UserType", Code::InvalidCombination, message);
        }
        return None;
    }
    if !is_given(&wire.user_type) {
        if !demands_types(row.direction, row.server, auth) {
            return Some(UserType::Administrator);
        }
        let message = format!("UserType is missing; give one of {}", list(UserType::ALL));
        cx.error(s, "UserType", Code::MissingElement, message);
    }
    user_type
}

#[allow(clippy::too_many_arguments)] // the fields of one row of the table
fn access_type_of(
    cx: &mut Context<'_>,
    wire: &wire::ConfigurationProfile,
    s: &Section,
    row: &Row,
    who: Who,
    auth: Auth,
    user_type: Option<UserType>,
    access_type: Option<AccessType>,
) -> Option<AccessType> {
    if takes_access_type(row.direction, row.server, who, auth, user_type) {
        if !is_given(&wire.access_type) {
            if !demands_types(row.direction, row.server, auth) {
                return Some(AccessType::SendAs);
            }
            let message = format!("AccessType is missing; give one of {}", list(combine::ACCESS_TYPES));
            cx.error(s, "AccessType", Code::MissingElement, message);
        }
        return access_type;
    }
    if is_given(&wire.access_type) {
        let message = "AccessType belongs to outgoing Exchange with OtherSpecified and UserType Administrator, or OAuth2, only";
        cx.error(s, "AccessType", Code::InvalidCombination, message);
    }
    None
}

/// Microsoft ended Exchange Web Services in Exchange Online in October 2026.
fn retired(cx: &mut Context<'_>, s: &Section, server: ServerType, protocol: Protocol) {
    if server == ServerType::ExchangeOnline && protocol == Protocol::ExchangeWebServices {
        let message = "Exchange Online has no Exchange Web Services since October 2026; use Protocol MicrosoftGraph with \
                       AuthenticationType OAuth2, unless your tenant still has them";
        cx.warn(s, "ServerType", Code::Retired, message);
    }
}

fn tls(
    cx: &mut Context<'_>,
    wire: &wire::ConfigurationProfile,
    s: &Section,
    c: &Combination,
    location: Option<&Location>,
) -> TlsMode {
    let mode = cx.word(s, "TlsMode", &wire.tls_mode, TlsMode::ALL);
    let use_ssl = cx.flag(s, "UseSsl", &wire.use_ssl);
    if is_given(&wire.tls_mode) && is_given(&wire.use_ssl) {
        cx.error(s, "UseSsl", Code::InvalidCombination, "UseSsl and TlsMode say the same; remove UseSsl");
    }
    match c.protocol {
        Protocol::Maildir => {
            for (element, value) in [("UseSsl", &wire.use_ssl), ("TlsMode", &wire.tls_mode)] {
                cx.no_effect(s, element, value, "Maildir uses no network");
            }
            TlsMode::None
        }
        Protocol::ExchangeWebServices | Protocol::MicrosoftGraph | Protocol::WebDAV => {
            let clear = match location {
                Some(Location::WebServices(url) | Location::Graph(Some(url))) => url.scheme() == "http",
                Some(Location::Server { .. }) => use_ssl == Some(false) || mode == Some(TlsMode::None),
                _ => false,
            };
            let given = use_ssl.map(|on| if on { TlsMode::Implicit } else { TlsMode::None }).or(mode);
            let result = if clear { TlsMode::None } else { TlsMode::Implicit };
            if given.is_some_and(|given| given != result) {
                let element = if use_ssl.is_some() { "UseSsl" } else { "TlsMode" };
                let why = if c.server == ServerType::ExchangeOnline {
                    "ExchangeOnline always uses https"
                } else {
                    "the URL decides, and only Implicit or None is possible"
                };
                let message = format!("{element} cannot be used like this: {why}; remove it");
                cx.error(s, element, Code::InvalidCombination, message);
            }
            result
        }
        // the original's SMTP client began in clear and sent STARTTLS, its POP3 client began with TLS [inference]
        Protocol::Smtp => match (mode, use_ssl) {
            (Some(mode), _) => mode,
            (None, Some(true)) if wire.network_port.as_deref() == Some("465") => TlsMode::Implicit,
            (None, Some(true)) => TlsMode::StartTls,
            (None, Some(false)) => TlsMode::None,
            (None, None) if wire.network_port.as_deref() == Some("465") => TlsMode::Implicit,
            // internal relays without authentication often have no certificate; what they offer is used
            (None, None) if c.auth == Auth::Anonymous => TlsMode::StartTlsIfOffered,
            (None, None) => TlsMode::StartTls,
        },
        Protocol::Pop3 | Protocol::Imap => match (mode, use_ssl) {
            (Some(mode), _) => mode,
            (None, Some(false)) => TlsMode::None,
            (None, _) => TlsMode::Implicit,
        },
    }
}

/// Clear text: "use TLS" is Microsoft's advice (6.2); here it is the rule unless the administrator says otherwise.
fn encryption(cx: &mut Context<'_>, s: &Section, named: &str, auth: Auth, tls: TlsMode, allow_clear: bool) {
    if matches!(tls, TlsMode::Implicit | TlsMode::StartTls) {
        return;
    }
    match auth {
        Auth::ClearText | Auth::OAuth2 if !allow_clear => {
            let what = if auth == Auth::OAuth2 { "access token" } else { "password" };
            let message = format!(
                "AuthenticationType {auth} with TlsMode {tls} could send the {what} without encryption; set TlsMode \
                 to Implicit or StartTls, or set AllowClearTextWithoutTls to true"
            );
            cx.error(s, named, Code::ClearTextWithoutTls, message);
        }
        Auth::Apop | Auth::CramMd5 | Auth::Ntlm | Auth::WindowsAuthentication if tls == TlsMode::None => {
            let message =
                "TlsMode is None, so mail travels without encryption; set it to Implicit or StartTls";
            cx.warn(s, "TlsMode", Code::UnencryptedMail, message);
        }
        _ => {}
    }
}

fn credentials(
    cx: &mut Context<'_>,
    wire: &wire::ConfigurationProfile,
    s: &Section,
    c: &Combination,
) -> Option<Credentials> {
    if c.who != Who::OtherSpecified {
        let mut good = true;
        for (element, value) in [("UserName", &wire.user_name), ("Password", &wire.password)] {
            if is_given(value) {
                let message = format!(
                    "{element} cannot be used with AccessCredentials {}; it belongs to OtherSpecified",
                    c.who
                );
                cx.error(s, element, Code::InvalidCombination, message);
                good = false;
            }
        }
        let credentials =
            if c.who == Who::UserSpecified { Credentials::UserSpecified } else { Credentials::LocalSystem };
        return good.then_some(credentials);
    }
    if c.auth == Auth::OAuth2 {
        cx.no_effect(s, "Password", &wire.password, "with OAuth2 the Application has the secret");
        let on_behalf = c.access_type == Some(AccessType::DelegateAccess);
        if c.access_type.is_none() {
            cx.no_effect(s, "UserName", &wire.user_name, "with OAuth2 each mailbox is its own account");
        } else if on_behalf && !is_given(&wire.user_name) {
            let message = "UserName is missing; AccessType DelegateAccess needs the account that sends on behalf of the mailboxes";
            cx.error(s, "UserName", Code::MissingElement, message);
        }
        return options::application(cx, wire, s).map(|a| Credentials::Application(Box::new(a)));
    }
    if wire.application.is_some() {
        let some = Some(String::new());
        cx.no_effect(s, "Application", &some, "it belongs to AuthenticationType OAuth2");
    }
    let password = cx.secret(&wire.password);
    if password.is_none() && !is_refused(&wire.password) {
        let message = "Password is missing; OtherSpecified needs it as env:NAME, file:PATH, credential:NAME or ciphertext";
        cx.error(s, "Password", Code::MissingElement, message);
    }
    if c.user_type == Some(UserType::User) {
        cx.no_effect(s, "UserName", &wire.user_name, "with UserType User the mailbox's address is the name");
        return Some(Credentials::EachAddress { password: password? });
    }
    let user_name = cx.required(s, "UserName", &wire.user_name, "the name to log in with");
    Some(Credentials::OtherSpecified { user_name: user_name?, password: password? })
}

/// The elements of one direction or protocol only, and warnings for those that stand in the wrong one.
fn outgoing(
    cx: &mut Context<'_>,
    wire: &wire::ConfigurationProfile,
    s: &Section,
    c: &Combination,
) -> (EnvelopeSender, Option<String>) {
    if c.direction == Direction::Outgoing {
        for (element, value) in [
            ("MaxMessageCount", &wire.max_message_count),
            ("MaxHeaderSize", &wire.max_header_size),
            ("MessageExpiry", &wire.message_expiry),
            ("ProcessEmailsReceivedAfter", &wire.process_emails_received_after),
            ("DeleteEmails", &wire.delete_emails),
            ("MoveEmails", &wire.move_emails),
        ] {
            cx.no_effect(s, element, value, "it belongs to incoming profiles");
        }
    }
    if c.direction == Direction::Incoming {
        for (element, value) in [
            ("EnvelopeSender", &wire.envelope_sender),
            ("PendingStatusDelay", &wire.pending_status_delay),
            ("SendingStatusDelay", &wire.sending_status_delay),
            ("MaximumDeliveryAttempts", &wire.maximum_delivery_attempts),
            ("BatchSize", &wire.batch_size),
            ("RequestBatchSize", &wire.request_batch_size),
        ] {
            cx.no_effect(s, element, value, "it belongs to outgoing profiles");
        }
    }
    if c.direction != Direction::Incoming || c.protocol != Protocol::ExchangeWebServices {
        let why = "it belongs to incoming ExchangeWebServices";
        cx.no_effect(s, "EWSRetrieveMessageCount", &wire.ews_retrieve_message_count, why);
    }
    if c.protocol == Protocol::Maildir {
        let files = wire.extra_ca_files.as_ref().filter(|f| !f.files.is_empty()).map(|_| String::new());
        for (element, value) in [
            ("ConnectionTimeout", &wire.connection_timeout),
            ("OperationTimeout", &wire.operation_timeout),
            ("AllowClearTextWithoutTls", &wire.allow_clear_text_without_tls),
            ("ExtraCaFiles", &files),
        ] {
            cx.no_effect(s, element, value, "Maildir uses no network");
        }
        // incoming, it says how many mailboxes are read at the same time
        if c.direction == Direction::Outgoing {
            cx.no_effect(s, "MaxConnections", &wire.max_connections, "Maildir uses no network");
            cx.no_effect(s, "EnvelopeSender", &wire.envelope_sender, "it belongs to SMTP");
        }
    }
    if c.direction == Direction::Outgoing
        && matches!(c.protocol, Protocol::ExchangeWebServices | Protocol::MicrosoftGraph)
    {
        let why = "Exchange sends every message as from its sender";
        cx.no_effect(s, "EnvelopeSender", &wire.envelope_sender, why);
    }
    if c.protocol != Protocol::Smtp {
        cx.no_effect(s, "EhloName", &wire.ehlo_name, "it belongs to SMTP");
        cx.no_effect(s, "UsePipelining", &wire.use_pipelining, "it belongs to SMTP");
        cx.no_effect(s, "UseChunking", &wire.use_chunking, "it belongs to SMTP");
    }
    let ehlo_name = wire.ehlo_name.clone().filter(|_| c.protocol == Protocol::Smtp);
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '[' | ']' | ':');
    if ehlo_name.as_deref().is_some_and(|n| n.len() > 255 || !n.chars().all(good)) {
        let message = "EhloName must be a host name or an address in brackets (RFC 5321 section 4.1.1.1)";
        cx.error(s, "EhloName", Code::InvalidValue, message);
    }
    let sender = match wire.envelope_sender.as_deref() {
        None => EnvelopeSender::Mailbox,
        Some(text) if text.eq_ignore_ascii_case("mailbox") => EnvelopeSender::Mailbox,
        Some(_) => cx
            .parsed::<EmailAddress>(s, "EnvelopeSender", &wire.envelope_sender)
            .map_or(EnvelopeSender::Mailbox, EnvelopeSender::Address),
    };
    (sender, ehlo_name)
}

/// `Direction` as a word of the file; the type itself belongs to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way(Direction);

const DIRECTIONS: &[Way] = &[Way(Direction::Incoming), Way(Direction::Outgoing)];

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Word for Way {
    const ALL: &'static [Self] = DIRECTIONS;
    fn name(self) -> &'static str {
        match self.0 {
            Direction::Incoming => "Incoming",
            Direction::Outgoing => "Outgoing",
        }
    }
}
