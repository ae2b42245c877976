//! One CRM organization: the rules of the deployment dialog (behaviour document 6.5), and what the original kept elsewhere.

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use crate::SecretRef;
use crate::finding::Code;
use crate::settings::location::{checked_url, extra_ca_files};
use crate::settings::options::{Kerberos, authority, one_word, proof, proxy};
use crate::settings::read::{Context, Section, is_given, is_refused};
use crate::settings::{Deployment, DeploymentTarget, ServerApplication, ServerCredentials, ServerDeployment};
use crate::tree::shorten;
use crate::wire;
use crate::words::{
    AccessCredentials as Who, AuthenticationType as Auth, Cloud, CrmEndpoint, DeploymentType,
    EmailProcessing, Word, list,
};

/// The longest name of a deployment that becomes part of the name of a file, as it is written there.
const LONGEST_NAME: usize = 150;

pub(super) fn deployment(
    cx: &mut Context<'_>,
    wire: &wire::Deployment,
    s: &Section,
    state_file: &Path,
) -> Option<Deployment> {
    let name = cx.required(s, "Name", &wire.name, "a name of its own");
    let kind = cx.required_word(s, "Type", &wire.deployment_type, DeploymentType::ALL);
    let load_mailboxes = cx.flag(s, "LoadMailboxes", &wire.load_mailboxes).unwrap_or(false);
    let target = match kind? {
        DeploymentType::Embedded => embedded(cx, wire, s),
        kind => server(cx, wire, s, kind, name.as_deref(), state_file),
    };
    let name = name?;
    Some(Deployment {
        organization_name: wire.organization_name.clone(),
        name,
        target: target?,
        load_mailboxes,
        default_incoming_profile: wire.default_incoming_profile.clone(),
        default_outgoing_profile: wire.default_outgoing_profile.clone(),
    })
}

fn embedded(cx: &mut Context<'_>, wire: &wire::Deployment, s: &Section) -> Option<DeploymentTarget> {
    let section = |given: bool| given.then(String::new);
    for (element, value) in [
        ("Url", &wire.url),
        ("AccessCredentials", &wire.access_credentials),
        ("UserName", &wire.user_name),
        ("Password", &wire.password),
        ("AllowHttp", &wire.allow_http),
        ("AuthenticationType", &wire.authentication_type),
        ("Cloud", &wire.cloud),
        ("KerberosPrincipal", &wire.kerberos_principal),
        ("KeytabFile", &wire.keytab_file),
        ("EmailProcessing", &wire.email_processing),
        ("CrmEndpoint", &wire.crm_endpoint),
        ("ApiVersion", &wire.api_version),
        ("NoteColumn", &wire.note_column),
        ("MirrorFile", &wire.mirror_file),
        ("MirrorPeriod", &wire.mirror_period),
        ("EmailsRemembered", &wire.emails_remembered),
        ("ConnectionTimeout", &wire.connection_timeout),
        ("OperationTimeout", &wire.operation_timeout),
        ("MaxConnections", &wire.max_connections),
        ("Application", &section(wire.application.is_some())),
        ("Proxy", &section(wire.proxy.is_some())),
        ("ExtraCaFiles", &section(wire.extra_ca_files.is_some())),
        ("OrganizationSettings", &section(wire.organization_settings.is_some())),
    ] {
        cx.no_effect(s, element, value, "the embedded CRM is a file");
    }
    cx.required(s, "Path", &wire.path, "the SQLite file of the embedded CRM")?;
    cx.path(s, "Path", &wire.path).map(|path| DeploymentTarget::Embedded { path })
}

fn server(
    cx: &mut Context<'_>,
    wire: &wire::Deployment,
    s: &Section,
    kind: DeploymentType,
    name: Option<&str>,
    state_file: &Path,
) -> Option<DeploymentTarget> {
    cx.no_effect(s, "Path", &wire.path, "it belongs to the embedded CRM");
    let allow_http = cx.flag(s, "AllowHttp", &wire.allow_http).unwrap_or(false);
    let url = root(cx, wire, s, kind);
    let who = who(cx, wire, s, kind);
    let credentials = who.and_then(|who| credentials(cx, wire, s, kind, who));
    let authentication = authentication(cx, wire, s, credentials.as_ref());
    let by_ticket = credentials == Some(ServerCredentials::LocalSystem);
    if credentials.is_some() && !by_ticket {
        let why = "tickets are for AccessCredentials LocalSystemAccount";
        cx.no_effect(s, "KerberosPrincipal", &wire.kerberos_principal, why);
        cx.no_effect(s, "KeytabFile", &wire.keytab_file, why);
    }
    let kerberos = Kerberos {
        principal: wire.kerberos_principal.clone().filter(|_| by_ticket),
        keytab_file: cx.path(s, "KeytabFile", &wire.keytab_file).filter(|_| by_ticket),
    };
    if let Some(url) = &url
        && url.scheme() == "http"
        && (kind == DeploymentType::CrmOnline || !allow_http)
    {
        let hint = if kind == DeploymentType::CrmOnline { "" } else { ", or set AllowHttp to true" };
        let message = format!(
            "Url begins with http://, so credentials would travel without encryption; use https://{hint}"
        );
        cx.error(s, "Url", Code::UnencryptedDeployment, message);
    }
    let usual_cloud = url.as_ref().and_then(Url::host_str).and_then(cloud_of).unwrap_or(Cloud::Public);
    let cloud = cx.word(s, "Cloud", &wire.cloud, Cloud::ALL).unwrap_or(usual_cloud);
    if kind == DeploymentType::CrmOnline && cloud != usual_cloud && url.is_some() {
        let message =
            format!("Cloud {cloud} does not go with the host of Url, which is of the cloud {usual_cloud}");
        cx.error(s, "Cloud", Code::InvalidCombination, message);
    }
    let mirror_file = mirror_file(cx, wire, s, name, state_file);
    // all are read before one may be missing, so that every finding is reported at once
    let email_processing = cx.word(s, "EmailProcessing", &wire.email_processing, EmailProcessing::ALL);
    let crm_endpoint = cx.word(s, "CrmEndpoint", &wire.crm_endpoint, CrmEndpoint::ALL);
    if (crm_endpoint, email_processing)
        == (Some(CrmEndpoint::OrganizationService), Some(EmailProcessing::Router))
    {
        let message = "CrmEndpoint OrganizationService cannot be used with EmailProcessing Router, which needs the Web API; use Crm or Automatic";
        cx.error(s, "CrmEndpoint", Code::InvalidCombination, message);
    }
    let api_version = api_version(cx, wire, s);
    let note_column = note_column(cx, wire, s);
    let mirror_period = cx.millis(s, "MirrorPeriod", &wire.mirror_period, 1_000..=86_400_000);
    let days = cx.number(s, "EmailsRemembered", &wire.emails_remembered, 1..=36_500, "days").unwrap_or(730);
    let connection_timeout = cx.millis(s, "ConnectionTimeout", &wire.connection_timeout, 100..=600_000);
    let operation_timeout = cx.millis(s, "OperationTimeout", &wire.operation_timeout, 1_000..=3_600_000);
    let max_connections = cx.count(s, "MaxConnections", &wire.max_connections, 1..=52, "").unwrap_or(8);
    let proxy = proxy(cx, wire.proxy.as_ref(), s);
    let extra_ca_files = extra_ca_files(cx, wire.extra_ca_files.as_ref(), s);
    let organization_settings = organization_settings(cx, wire, s);
    Some(DeploymentTarget::Server(Box::new(ServerDeployment {
        deployment_type: kind,
        url: url?,
        credentials: credentials?,
        authentication: authentication?,
        kerberos,
        allow_http,
        cloud,
        email_processing: email_processing.unwrap_or(EmailProcessing::Automatic),
        crm_endpoint: crm_endpoint.unwrap_or(CrmEndpoint::Automatic),
        api_version,
        note_column,
        mirror_file: mirror_file?,
        mirror_period: mirror_period.unwrap_or(Duration::from_secs(60)),
        emails_remembered: Duration::from_secs(days * 86_400),
        connection_timeout: connection_timeout.unwrap_or(Duration::from_secs(30)),
        operation_timeout: operation_timeout.unwrap_or(Duration::from_secs(120)),
        max_connections,
        proxy,
        extra_ca_files,
        organization_settings,
    })))
}

/// The root of the organization: what stands before `/api/data` and `/main.aspx` (`crm-contract.md` 1). Its path ends with a slash.
fn root(cx: &mut Context<'_>, wire: &wire::Deployment, s: &Section, kind: DeploymentType) -> Option<Url> {
    if !is_given(&wire.url) {
        cx.error(s, "Url", Code::MissingElement, "Url is missing; give the URL of the organization");
        return None;
    }
    let mut url = checked_url(cx, s, "Url", &wire.url)?;
    let mut wrong = |message: &str| cx.error(s, "Url", Code::InvalidValue, message);
    if url.query().is_some() || url.fragment().is_some() {
        wrong("Url has a query or fragment (? or #); give the root of the organization alone");
        return None;
    }
    let path = url.path().to_ascii_lowercase();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    // what a person copies from the browser or from the developer resources
    for (part, what) in [
        ("main.aspx", "a page of the organization"),
        ("apps", "a page of the organization"),
        ("xrmservices", "the Organization Service"),
    ] {
        if parts.contains(&part) {
            wrong(&format!("Url is the address of {what}; leave out what begins with /{part}"));
            return None;
        }
    }
    if parts.windows(2).any(|pair| pair == ["api", "data"]) {
        wrong("Url is the address of the Web API; leave out what begins with /api/data");
        return None;
    }
    match kind {
        DeploymentType::CrmOnline => {
            let host = url.host_str().unwrap_or_default();
            if cloud_of(host).is_none() {
                wrong(
                    "Url is no organization of Microsoft's; give its own address, such as https://ORG.crm4.dynamics.com (ORG.crm.microsoftdynamics.us, \
                     ORG.crm.appsplatform.us and ORG.crm.dynamics.cn in the national clouds)",
                );
                return None;
            }
            if !parts.is_empty() {
                wrong(
                    "Url has a path; an organization of CrmOnline is a host of its own: https://ORG.crm4.dynamics.com",
                );
                return None;
            }
            if url.port().is_some() {
                wrong("Url has a port; CrmOnline is reached by the usual one");
                return None;
            }
        }
        DeploymentType::MyCompany if parts.is_empty() => {
            wrong(
                "Url has no organization in it; give the server and the organization's unique name: https://SERVER/ORG",
            );
            return None;
        }
        _ => {}
    }
    let path = format!("{}/", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Some(url)
}

/// The cloud of an organization's host; `None` where it is no organization of Microsoft's. GCC (`crm9.dynamics.com`) belongs to the public one.
fn cloud_of(host: &str) -> Option<Cloud> {
    let host = host.to_ascii_lowercase();
    let (organization, rest) = host.split_once('.')?;
    let (region, domain) = rest.split_once('.')?;
    let digits = region.strip_prefix("crm")?;
    let known = !organization.is_empty()
        // the discovery services of the past and the present
        && !matches!(organization, "disco" | "globaldisco" | "dev" | "www")
        && digits.len() <= 3
        && digits.bytes().all(|b| b.is_ascii_digit());
    match domain {
        _ if !known => None,
        "dynamics.com" => Some(Cloud::Public),
        "microsoftdynamics.us" => Some(Cloud::UsGovernment),
        "appsplatform.us" => Some(Cloud::UsDefense),
        "dynamics.cn" => Some(Cloud::China),
        _ => None,
    }
}

/// Local System only with My company (6.5).
fn who(cx: &mut Context<'_>, wire: &wire::Deployment, s: &Section, kind: DeploymentType) -> Option<Who> {
    let allowed: &[Who] = if kind == DeploymentType::MyCompany {
        &[Who::LocalSystemAccount, Who::OtherSpecified]
    } else {
        &[Who::OtherSpecified]
    };
    match cx.word(s, "AccessCredentials", &wire.access_credentials, Who::ALL) {
        Some(who) if allowed.contains(&who) => Some(who),
        Some(who) => {
            let message =
                format!("AccessCredentials {who} cannot be used with {kind}; allowed: {}", list(allowed));
            cx.error(s, "AccessCredentials", Code::InvalidCombination, message);
            None
        }
        None if is_given(&wire.access_credentials) => None,
        None => match allowed {
            [only] => Some(*only),
            _ => {
                let message = format!("AccessCredentials is missing; give one of {}", list(allowed));
                cx.error(s, "AccessCredentials", Code::MissingElement, message);
                None
            }
        },
    }
}

fn credentials(
    cx: &mut Context<'_>,
    wire: &wire::Deployment,
    s: &Section,
    kind: DeploymentType,
    who: Who,
) -> Option<ServerCredentials> {
    let login = [("UserName", &wire.user_name), ("Password", &wire.password)];
    if who == Who::LocalSystemAccount {
        let application = wire.application.as_ref().map(|_| String::new());
        for (element, value) in login.into_iter().chain([("Application", &application)]) {
            if is_given(value) {
                let message = format!(
                    "{element} cannot be used with AccessCredentials LocalSystemAccount; it belongs to OtherSpecified"
                );
                cx.error(s, element, Code::InvalidCombination, message);
            }
        }
        return Some(ServerCredentials::LocalSystem);
    }
    match &wire.application {
        // a token service of one's own without a tenant is an AD FS, where a service user may stand beside the application
        Some(application) if kind != DeploymentType::CrmOnline && is_ad_fs(application) => {
            let account = login.iter().any(|(_, value)| is_given(value)).then(|| account(cx, wire, s));
            match account {
                Some(account) => self::application(cx, application, s, Some(account?)),
                None => self::application(cx, application, s, None),
            }
        }
        Some(_) if kind == DeploymentType::MyCompany => {
            let message = "Application cannot be used with MyCompany unless its Authority is an AD FS (and no TenantId is given); give UserName and Password";
            cx.error(s, "Application", Code::InvalidCombination, message);
            None
        }
        Some(application) => {
            // CrmOnline: elsewhere it would be an AD FS
            if is_ad_fs(application) {
                let inner = Section { path: format!("{}/Application", s.path), label: s.label.clone() };
                let message = "TenantId is missing; with an Authority of its own it cannot be found out";
                cx.error(&inner, "TenantId", Code::MissingElement, message);
            }
            for (element, value) in login {
                if is_given(value) {
                    let message = format!("{element} and Application exclude each other; remove one of them");
                    cx.error(s, element, Code::InvalidCombination, message);
                }
            }
            self::application(cx, application, s, None)
        }
        // names and passwords of users went with the WS-Trust service of Microsoft's cloud
        None if kind == DeploymentType::CrmOnline => {
            let message = "Application is missing; CrmOnline takes no user names and passwords any more: give the ClientId of an application user, and its ClientSecret or CertificateFile";
            cx.error(s, "Application", Code::MissingElement, message);
            None
        }
        None => {
            let (user_name, password) = account(cx, wire, s)?;
            Some(ServerCredentials::Login { user_name, password })
        }
    }
}

/// Whether an `Application` belongs to an AD FS: it has a token service of its own and no tenant.
fn is_ad_fs(given: &wire::Application) -> bool {
    is_given(&given.authority) && !is_given(&given.tenant_id)
}

fn account(cx: &mut Context<'_>, wire: &wire::Deployment, s: &Section) -> Option<(String, SecretRef)> {
    let user_name = cx.required(s, "UserName", &wire.user_name, "the name to log in with");
    let password = cx.secret(&wire.password);
    if password.is_none() && !is_refused(&wire.password) {
        let message = "Password is missing; OtherSpecified needs it as env:NAME, file:PATH, credential:NAME or ciphertext";
        cx.error(s, "Password", Code::MissingElement, message);
    }
    Some((user_name?, password?))
}

fn application(
    cx: &mut Context<'_>,
    given: &wire::Application,
    s: &Section,
    account: Option<(String, SecretRef)>,
) -> Option<ServerCredentials> {
    let inner = Section { path: format!("{}/Application", s.path), label: s.label.clone() };
    let tenant_id = match given.tenant_id.clone() {
        // the organization says whose it is
        None => None,
        Some(tenant) => Some(one_word(cx, &inner, "TenantId", tenant)?),
    };
    let client = cx.required(&inner, "ClientId", &given.client_id, "the application's (client) id");
    let client = client.and_then(|c| one_word(cx, &inner, "ClientId", c));
    let given_proof =
        [&given.client_secret, &given.certificate_file, &given.private_key_file].into_iter().any(is_given);
    let proof = if account.is_some() && !given_proof { None } else { Some(proof(cx, given, &inner)?) };
    let authority = authority(cx, given, &inner).ok()?;
    Some(ServerCredentials::Application(Box::new(ServerApplication {
        tenant_id,
        client_id: client?,
        proof,
        account,
        authority,
        scope: given.scope.clone(),
    })))
}

fn authentication(
    cx: &mut Context<'_>,
    wire: &wire::Deployment,
    s: &Section,
    credentials: Option<&ServerCredentials>,
) -> Option<Auth> {
    let all = [Auth::WindowsAuthentication, Auth::Ntlm, Auth::OAuth2];
    let given = cx.word(s, "AuthenticationType", &wire.authentication_type, &all);
    let (allowed, whose): (&[Auth], _) = match credentials? {
        ServerCredentials::LocalSystem => (&[Auth::WindowsAuthentication], "LocalSystemAccount"),
        ServerCredentials::Login { .. } => {
            (&[Auth::WindowsAuthentication, Auth::Ntlm], "UserName and Password")
        }
        ServerCredentials::Application(_) => (&[Auth::OAuth2], "Application"),
    };
    match given {
        Some(auth) if !allowed.contains(&auth) => {
            let message =
                format!("AuthenticationType {auth} cannot be used with {whose}; allowed: {}", list(allowed));
            cx.error(s, "AuthenticationType", Code::InvalidCombination, message);
            None
        }
        Some(auth) => Some(auth),
        None => allowed.first().copied(),
    }
}

/// `9.2` (or `v9.2`), of those that were published.
fn api_version(cx: &mut Context<'_>, wire: &wire::Deployment, s: &Section) -> Option<String> {
    const PUBLISHED: [&str; 6] = ["8.0", "8.1", "8.2", "9.0", "9.1", "9.2"];
    let text = wire.api_version.as_deref()?;
    let version = text.trim_start_matches(['v', 'V']);
    if PUBLISHED.contains(&version) {
        return Some(version.to_owned());
    }
    let message =
        format!("ApiVersion is \"{}\", which is not one of {}", shorten(text), PUBLISHED.join(", "));
    cx.error(s, "ApiVersion", Code::UnknownValue, message);
    None
}

fn note_column(cx: &mut Context<'_>, wire: &wire::Deployment, s: &Section) -> Option<String> {
    let text = wire.note_column.as_deref()?;
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !text.is_empty() && text.len() <= 128 && text.chars().all(good) {
        return Some(text.to_owned());
    }
    let message = format!(
        "NoteColumn is \"{}\", which is no logical name of a column: lower case letters, digits and _, such as new_routernote",
        shorten(text)
    );
    cx.error(s, "NoteColumn", Code::InvalidValue, message);
    None
}

/// Beside the state file, one for each deployment.
fn mirror_file(
    cx: &mut Context<'_>,
    wire: &wire::Deployment,
    s: &Section,
    name: Option<&str>,
    state_file: &Path,
) -> Option<PathBuf> {
    if is_given(&wire.mirror_file) {
        return cx.path(s, "MirrorFile", &wire.mirror_file);
    }
    let name = file_name(name?);
    if name.len() > LONGEST_NAME {
        let message = "MirrorFile is missing; the name of the deployment is too long for the name of a file";
        cx.error(s, "MirrorFile", Code::MissingElement, message);
        return None;
    }
    Some(state_file.with_file_name(format!("email-router-mirror-{name}.db")))
}

/// The name of a deployment as a part of the name of a file, on every system: names that differ (letter case does not count) stay different.
fn file_name(name: &str) -> String {
    let mut safe = String::new();
    for byte in name.trim().to_lowercase().bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => safe.push(char::from(byte)),
            _ => safe.push_str(&format!("%{byte:02X}")),
        }
    }
    safe
}

/// `Name=Value`, each name once. What the names mean the CRM's client knows.
fn organization_settings(
    cx: &mut Context<'_>,
    wire: &wire::Deployment,
    s: &Section,
) -> Vec<(String, String)> {
    let given = wire.organization_settings.as_ref().map_or(&[][..], |o| &o.settings);
    let inner = Section { path: format!("{}/OrganizationSettings", s.path), label: s.label.clone() };
    let mut settings: Vec<(String, String)> = Vec::new();
    for (i, text) in given.iter().enumerate() {
        let pair = text.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        let message = match pair {
            Some((name, _)) if settings.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) => {
                format!("Setting {} is there already; remove one", shorten(name))
            }
            Some((name, value)) if !name.is_empty() => {
                settings.push((name.to_owned(), value.to_owned()));
                continue;
            }
            _ => format!("Setting is \"{}\", which is not Name=Value", shorten(text)),
        };
        cx.error(&inner, &format!("Setting#{i}"), Code::InvalidValue, message);
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_deployments_as_names_of_files() {
        for (name, expected) in [
            ("Contoso", "contoso"),
            ("../etc", "%2E%2E%2Fetc"),
            ("a b", "a%20b"),
            ("a%20b", "a%2520b"),
            ("Ä", "%C3%A4"),
            ("NUL", "nul"),
        ] {
            assert_eq!(file_name(name), expected);
        }
    }

    #[test]
    fn hosts_of_microsoft() {
        for (host, cloud) in [
            ("contoso.crm.dynamics.com", Some(Cloud::Public)),
            ("Contoso.CRM4.dynamics.com", Some(Cloud::Public)),
            ("contoso.crm9.dynamics.com", Some(Cloud::Public)),
            ("contoso.crm.microsoftdynamics.us", Some(Cloud::UsGovernment)),
            ("contoso.crm.appsplatform.us", Some(Cloud::UsDefense)),
            ("contoso.crm.dynamics.cn", Some(Cloud::China)),
            ("disco.crm.dynamics.com", None),
            ("crm.dynamics.com", None),
            (".crm.dynamics.com", None),
            ("contoso.crm4.dynamics.com.evil.test", None),
            ("contoso.crmx.dynamics.com", None),
            ("contoso.api.crm4.dynamics.com", None),
        ] {
            assert_eq!(cloud_of(host), cloud, "{host}");
        }
    }
}
