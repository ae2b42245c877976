//! One CRM organization: the rules of the deployment dialog (behaviour document 6.5).

use crate::finding::Code;
use crate::settings::location::checked_url;
use crate::settings::read::{Context, Section, is_given, is_refused};
use crate::settings::{Deployment, DeploymentTarget};
use crate::wire;
use crate::words::{AccessCredentials as Who, DeploymentType, Word, list};

pub(super) fn deployment(cx: &mut Context<'_>, wire: &wire::Deployment, s: &Section) -> Option<Deployment> {
    let name = cx.required(s, "Name", &wire.name, "a name of its own");
    let kind = cx.required_word(s, "Type", &wire.deployment_type, DeploymentType::ALL);
    let load_mailboxes = cx.flag(s, "LoadMailboxes", &wire.load_mailboxes).unwrap_or(false);
    let allow_http = cx.flag(s, "AllowHttp", &wire.allow_http).unwrap_or(false);
    let target = match kind? {
        DeploymentType::Embedded => embedded(cx, wire, s),
        kind => server(cx, wire, s, kind, allow_http),
    };
    let name = name?;
    Some(Deployment {
        organization_name: wire.organization_name.clone().unwrap_or_else(|| name.clone()),
        name,
        target: target?,
        load_mailboxes,
        default_incoming_profile: wire.default_incoming_profile.clone(),
        default_outgoing_profile: wire.default_outgoing_profile.clone(),
    })
}

fn embedded(cx: &mut Context<'_>, wire: &wire::Deployment, s: &Section) -> Option<DeploymentTarget> {
    for (element, value) in [
        ("Url", &wire.url),
        ("AccessCredentials", &wire.access_credentials),
        ("UserName", &wire.user_name),
        ("Password", &wire.password),
        ("AllowHttp", &wire.allow_http),
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
    allow_http: bool,
) -> Option<DeploymentTarget> {
    cx.no_effect(s, "Path", &wire.path, "it belongs to the embedded CRM");
    let url = if is_given(&wire.url) {
        checked_url(cx, s, "Url", &wire.url)
    } else {
        cx.error(s, "Url", Code::MissingElement, "Url is missing; give the URL of the organization");
        None
    };
    // Local System only with My company (6.5)
    let allowed: &[Who] = if kind == DeploymentType::MyCompany {
        &[Who::LocalSystemAccount, Who::OtherSpecified]
    } else {
        &[Who::OtherSpecified]
    };
    let who = match cx.word(s, "AccessCredentials", &wire.access_credentials, Who::ALL) {
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
    };
    let credentials = match who? {
        Who::OtherSpecified => {
            let user_name = cx.required(s, "UserName", &wire.user_name, "the name to log in with");
            let password = cx.secret(&wire.password);
            if password.is_none() && !is_refused(&wire.password) {
                let message = "Password is missing; OtherSpecified needs it as env:NAME, file:PATH, credential:NAME or ciphertext";
                cx.error(s, "Password", Code::MissingElement, message);
            }
            Some((user_name?, password?))
        }
        _ => {
            for (element, value) in [("UserName", &wire.user_name), ("Password", &wire.password)] {
                if is_given(value) {
                    let message = format!(
                        "{element} cannot be used with AccessCredentials LocalSystemAccount; it belongs to OtherSpecified"
                    );
                    cx.error(s, element, Code::InvalidCombination, message);
                }
            }
            None
        }
    };
    let url = url?;
    if url.scheme() == "http" && (kind == DeploymentType::CrmOnline || !allow_http) {
        let hint = if kind == DeploymentType::CrmOnline { "" } else { ", or set AllowHttp to true" };
        let message = format!(
            "Url begins with http://, so credentials would travel without encryption; use https://{hint}"
        );
        cx.error(s, "Url", Code::UnencryptedDeployment, message);
    }
    Some(DeploymentTarget::Server { deployment_type: kind, url, credentials })
}
