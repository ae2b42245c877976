//! What a profile says beyond the dialogs of the original: the application of OAuth 2.0, Kerberos, the proxy, Exchange.

use std::path::PathBuf;

use email_router_model::Direction;
use url::Url;

use crate::finding::Code;
use crate::secret::SecretRef;
use crate::settings::location::checked_url;
use crate::settings::profile::Combination;
use crate::settings::read::{Context, Section, is_given, is_refused};
use crate::tree::shorten;
use crate::wire;
use crate::words::{
    AuthenticationType as Auth, Cloud, DeleteType, ExchangeVersion, MailboxAccess, Protocol, Word,
};

/// The router as an application of an identity provider (`Application`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Application {
    /// The tenant: its id or one of its domains.
    pub tenant_id: String,
    /// The application's (client) id.
    pub client_id: String,
    /// What proves that it is the application.
    pub proof: ApplicationProof,
    /// The token service, where it is not the cloud's own.
    pub authority: Option<Url>,
    /// The scope to ask for, where it is not the protocol's usual one.
    pub scope: Option<String>,
    /// The account whose permission to send is used (`UserName`); `None`: each mailbox sends itself.
    pub account: Option<String>,
}

/// What proves that the router is the application.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ApplicationProof {
    /// A client secret.
    Secret(SecretRef),
    /// A certificate whose public key is registered for the application.
    Certificate {
        /// PEM file with the certificate.
        certificate_file: PathBuf,
        /// PEM file with its private key.
        private_key_file: PathBuf,
    },
}

/// Which proxy https and http go through (`Proxy`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Proxy {
    /// What the environment of the process says.
    #[default]
    System,
    /// None.
    None,
    /// This one.
    Url {
        /// Where it is; without name and password.
        url: Url,
        /// Name and password for it.
        login: Option<(String, SecretRef)>,
    },
}

/// Where Kerberos tickets come from for [`Credentials::LocalSystem`](super::Credentials); nothing given: the process's own ticket cache or keytab.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kerberos {
    /// The principal to use.
    pub principal: Option<String>,
    /// The keytab that has its key.
    pub keytab_file: Option<PathBuf>,
}

/// What Exchange and IMAP profiles say beyond the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxOptions {
    /// How the account gets into other people's mailboxes (Exchange).
    pub mailbox_access: MailboxAccess,
    /// Which cloud the tenant is in.
    pub cloud: Cloud,
    /// The version of Exchange Web Services to begin with; `None`: negotiated.
    pub exchange_version: Option<ExchangeVersion>,
    /// The folder that is read; `None`: the inbox (IMAP).
    pub folder: Option<String>,
    /// The mail system tells when mail arrives (IMAP IDLE, streaming notifications of Exchange Web Services), and the mailbox is read at once.
    pub use_notifications: bool,
    /// What deleting a message means (Exchange).
    pub delete_type: DeleteType,
    /// A copy of what is sent is kept in Sent Items (Exchange).
    pub save_sent_items: bool,
    /// Domains to which Autodiscover may lead, lower case.
    pub trusted_autodiscover_domains: Vec<String>,
    /// Where Kerberos tickets come from.
    pub kerberos: Kerberos,
    /// Which proxy is used.
    pub proxy: Proxy,
}

/// Reads them all, with warnings for what has no effect in this profile.
pub(super) fn options(
    cx: &mut Context<'_>,
    wire: &wire::ConfigurationProfile,
    s: &Section,
    c: &Combination,
) -> MailboxOptions {
    let exchange = matches!(c.protocol, Protocol::ExchangeWebServices | Protocol::MicrosoftGraph);
    let incoming = c.direction == Direction::Incoming;
    let only = |cx: &mut Context<'_>, allowed: bool, element: &str, value: &Option<String>, why: &str| {
        if !allowed {
            cx.no_effect(s, element, value, why);
        }
    };
    let ews = c.protocol == Protocol::ExchangeWebServices;
    only(cx, ews, "MailboxAccess", &wire.mailbox_access, "it belongs to ExchangeWebServices");
    only(cx, ews, "ExchangeVersion", &wire.exchange_version, "it belongs to ExchangeWebServices");
    only(
        cx,
        exchange || c.auth == Auth::OAuth2,
        "Cloud",
        &wire.cloud,
        "it belongs to OAuth2 and MicrosoftGraph",
    );
    let imap = c.protocol == Protocol::Imap;
    only(cx, imap, "Folder", &wire.folder, "it belongs to IMAP");
    only(cx, exchange && incoming, "DeleteType", &wire.delete_type, "it belongs to incoming Exchange");
    only(
        cx,
        ews && !incoming,
        "SaveSentItems",
        &wire.save_sent_items,
        "it belongs to outgoing ExchangeWebServices; Microsoft Graph always keeps a copy of what is sent as it is",
    );
    let tells = incoming && matches!(c.protocol, Protocol::Imap | Protocol::ExchangeWebServices);
    let why = "it belongs to incoming IMAP and ExchangeWebServices";
    only(cx, tells, "UseNotifications", &wire.use_notifications, why);
    let windows =
        c.auth == Auth::WindowsAuthentication && c.who == crate::words::AccessCredentials::LocalSystemAccount;
    let why = "it belongs to WindowsAuthentication with LocalSystemAccount";
    only(cx, windows, "KerberosPrincipal", &wire.kerberos_principal, why);
    only(cx, windows, "KeytabFile", &wire.keytab_file, why);
    let http = exchange || c.auth == Auth::OAuth2;
    let proxy = wire.proxy.as_ref().and_then(|proxy| proxy.url.clone());
    only(cx, http, "Proxy", &proxy, "it belongs to Exchange and OAuth2");
    let domains = trusted_domains(cx, wire, s);
    let some = (!domains.is_empty()).then(String::new);
    let why = "the profile does not use Autodiscover";
    only(cx, wire.use_autodiscover.is_some(), "TrustedAutodiscoverDomains", &some, why);

    let usual_access = match c.auth {
        Auth::OAuth2 => MailboxAccess::Impersonation,
        _ => MailboxAccess::FullAccess,
    };
    MailboxOptions {
        mailbox_access: cx
            .word(s, "MailboxAccess", &wire.mailbox_access, MailboxAccess::ALL)
            .unwrap_or(usual_access),
        cloud: cx.word(s, "Cloud", &wire.cloud, Cloud::ALL).unwrap_or(Cloud::Public),
        exchange_version: cx.word(s, "ExchangeVersion", &wire.exchange_version, ExchangeVersion::ALL),
        folder: wire.folder.clone().filter(|_| imap),
        use_notifications: cx.flag(s, "UseNotifications", &wire.use_notifications).unwrap_or(false) && tells,
        delete_type: cx
            .word(s, "DeleteType", &wire.delete_type, DeleteType::ALL)
            .unwrap_or(DeleteType::MoveToDeletedItems),
        save_sent_items: cx.flag(s, "SaveSentItems", &wire.save_sent_items).unwrap_or(true),
        trusted_autodiscover_domains: domains,
        kerberos: Kerberos {
            principal: wire.kerberos_principal.clone().filter(|_| windows),
            keytab_file: cx.path(s, "KeytabFile", &wire.keytab_file).filter(|_| windows),
        },
        proxy: self::proxy(cx, wire.proxy.as_ref(), s),
    }
}

fn trusted_domains(cx: &mut Context<'_>, wire: &wire::ConfigurationProfile, s: &Section) -> Vec<String> {
    let given = wire.trusted_domains.as_ref().map_or(&[][..], |t| &t.domains);
    let inner = Section { path: format!("{}/TrustedAutodiscoverDomains", s.path), label: s.label.clone() };
    let mut domains = Vec::new();
    for (i, domain) in given.iter().enumerate() {
        let good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.');
        if domain.contains('.') && domain.chars().all(good) {
            domains.push(domain.to_lowercase());
        } else {
            let message = format!("Domain is \"{}\", which is no domain name", shorten(domain));
            cx.error(&inner, &format!("Domain#{i}"), Code::InvalidValue, message);
        }
    }
    domains
}

pub(super) fn proxy(cx: &mut Context<'_>, wire: Option<&wire::Proxy>, s: &Section) -> Proxy {
    let Some(proxy) = wire else { return Proxy::System };
    let inner = Section { path: format!("{}/Proxy", s.path), label: s.label.clone() };
    let named = is_given(&proxy.user_name) || is_given(&proxy.password);
    match proxy.url.as_deref() {
        None | Some("System" | "None") if named => {
            let message = "UserName and Password of the Proxy need its Url";
            cx.error(&inner, "Url", Code::MissingElement, message);
            Proxy::System
        }
        None | Some("System") => Proxy::System,
        Some("None") => Proxy::None,
        Some(_) => {
            let Some(url) = checked_url(cx, &inner, "Url", &proxy.url) else { return Proxy::System };
            let password = cx.secret(&proxy.password);
            let login = match (&proxy.user_name, password) {
                (Some(name), Some(password)) => Some((name.clone(), password)),
                (None, None) if !is_given(&proxy.password) => None,
                _ if is_refused(&proxy.password) => None,
                _ => {
                    let message = "UserName and Password of the Proxy belong together; give both or none";
                    cx.error(&inner, "UserName", Code::MissingElement, message);
                    None
                }
            };
            Proxy::Url { url, login }
        }
    }
}

/// The application of a profile with OAuth 2.0.
pub(super) fn application(
    cx: &mut Context<'_>,
    wire: &wire::ConfigurationProfile,
    s: &Section,
) -> Option<Application> {
    let Some(given) = &wire.application else {
        let message = "Application is missing; AuthenticationType OAuth2 needs its TenantId, ClientId, and ClientSecret or CertificateFile";
        cx.error(s, "Application", Code::MissingElement, message);
        return None;
    };
    let inner = Section { path: format!("{}/Application", s.path), label: s.label.clone() };
    let tenant = cx.required(&inner, "TenantId", &given.tenant_id, "the tenant's id or one of its domains");
    let tenant = tenant.and_then(|t| one_word(cx, &inner, "TenantId", t));
    let client = cx.required(&inner, "ClientId", &given.client_id, "the application's (client) id");
    let client = client.and_then(|c| one_word(cx, &inner, "ClientId", c));
    let proof = proof(cx, given, &inner);
    let authority = authority(cx, given, &inner).ok()?;
    Some(Application {
        tenant_id: tenant?,
        client_id: client?,
        proof: proof?,
        authority,
        scope: given.scope.clone(),
        account: wire.user_name.clone(),
    })
}

/// What proves the application, as it is given.
pub(super) fn proof(
    cx: &mut Context<'_>,
    given: &wire::Application,
    s: &Section,
) -> Option<ApplicationProof> {
    let secret = cx.secret(&given.client_secret);
    let certificate = cx.path(s, "CertificateFile", &given.certificate_file);
    let key = cx.path(s, "PrivateKeyFile", &given.private_key_file);
    match (secret, certificate, key) {
        (Some(secret), None, None) => Some(ApplicationProof::Secret(secret)),
        // one PEM file may hold both
        (None, Some(certificate_file), key) => {
            let private_key_file = key.unwrap_or_else(|| certificate_file.clone());
            Some(ApplicationProof::Certificate { certificate_file, private_key_file })
        }
        (None, None, _) if is_refused(&given.client_secret) => None,
        (None, None, _) => {
            let message = "ClientSecret is missing; give it as env:NAME, file:PATH, credential:NAME or ciphertext, or give CertificateFile and PrivateKeyFile";
            cx.error(s, "ClientSecret", Code::MissingElement, message);
            None
        }
        (Some(_), _, _) => {
            let message = "ClientSecret and CertificateFile exclude each other; remove one";
            cx.error(s, "CertificateFile", Code::InvalidCombination, message);
            None
        }
    }
}

/// The token service, where it is not the cloud's own; `Err` where it was refused and reported.
pub(super) fn authority(
    cx: &mut Context<'_>,
    given: &wire::Application,
    s: &Section,
) -> Result<Option<Url>, ()> {
    if given.authority.is_none() {
        return Ok(None);
    }
    let url = checked_url(cx, s, "Authority", &given.authority).ok_or(())?;
    let loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if url.scheme() != "https" && !loopback {
        let message = "Authority must begin with https://, since the secret travels to it";
        cx.error(s, "Authority", Code::InvalidValue, message);
        return Err(());
    }
    Ok(Some(url))
}

pub(super) fn one_word(cx: &mut Context<'_>, s: &Section, element: &str, text: String) -> Option<String> {
    if text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')) {
        return Some(text);
    }
    let message = format!("{element} is \"{}\", which is neither an id nor a domain", shorten(&text));
    cx.error(s, element, Code::InvalidValue, message);
    None
}
