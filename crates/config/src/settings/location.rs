//! Where a mail system is: the dialog's "Location".

use std::net::Ipv6Addr;
use std::path::PathBuf;

use url::Url;

use crate::finding::Code;
use crate::settings::Location;
use crate::settings::profile::Combination;
use crate::settings::read::{Context, Section};
use crate::tree::shorten;
use crate::wire;
use crate::words::{AuthenticationType as Auth, Protocol, ServerType, TlsMode};

/// Where the mail system of a profile is. The port of a server is 0: the caller knows the encryption and fills it in.
pub(super) fn location(
    cx: &mut Context<'_>,
    wire: &wire::ConfigurationProfile,
    s: &Section,
    c: &Combination,
) -> Option<Location> {
    let autodiscover = cx.flag(s, "UseAutodiscover", &wire.use_autodiscover).unwrap_or(false);
    let unused = |cx: &mut Context<'_>, elements: &[(&str, &Option<String>)]| {
        for (element, value) in elements {
            cx.no_effect(s, element, value, &format!("{} does not use it", c.protocol));
        }
    };
    match c.protocol {
        Protocol::Maildir => {
            unused(
                cx,
                &[
                    ("EmailServer", &wire.email_server),
                    ("ExchangeWebServicesUrl", &wire.exchange_web_services_url),
                    ("UseAutodiscover", &wire.use_autodiscover),
                    ("GraphUrl", &wire.graph_url),
                ],
            );
            cx.required(s, "Path", &wire.path, "the folder, such as mail/{address}")?;
            cx.path(s, "Path", &wire.path).map(Location::Folder)
        }
        Protocol::Pop3 | Protocol::Imap | Protocol::Smtp | Protocol::WebDAV => {
            unused(
                cx,
                &[
                    ("Path", &wire.path),
                    ("ExchangeWebServicesUrl", &wire.exchange_web_services_url),
                    ("UseAutodiscover", &wire.use_autodiscover),
                    ("GraphUrl", &wire.graph_url),
                ],
            );
            let host = cx.required(s, "EmailServer", &wire.email_server, "the name of the server")?;
            let host = host_name(cx, s, &host)?;
            Some(Location::Server { host, port: 0 }) // the caller puts the port in
        }
        Protocol::MicrosoftGraph => {
            unused(
                cx,
                &[
                    ("Path", &wire.path),
                    ("EmailServer", &wire.email_server),
                    ("ExchangeWebServicesUrl", &wire.exchange_web_services_url),
                    ("UseAutodiscover", &wire.use_autodiscover),
                ],
            );
            if wire.graph_url.is_none() {
                return Some(Location::Graph(None));
            }
            checked_url(cx, s, "GraphUrl", &wire.graph_url).map(|url| Location::Graph(Some(url)))
        }
        Protocol::ExchangeWebServices => {
            unused(
                cx,
                &[("Path", &wire.path), ("EmailServer", &wire.email_server), ("GraphUrl", &wire.graph_url)],
            );
            match (&wire.exchange_web_services_url, autodiscover) {
                (Some(_), true) => {
                    let message = "ExchangeWebServicesUrl and UseAutodiscover exclude each other; remove one";
                    cx.error(s, "UseAutodiscover", Code::InvalidCombination, message);
                    None
                }
                (None, true) => Some(Location::Autodiscover),
                (None, false) => {
                    let message = "ExchangeWebServicesUrl is missing; give the complete URL, which ends in \
                                   EWS/Exchange.asmx, or set UseAutodiscover to true";
                    cx.error(s, "ExchangeWebServicesUrl", Code::MissingElement, message);
                    None
                }
                (Some(_), false) => web_services(cx, wire, s, c.server),
            }
        }
    }
}

fn web_services(
    cx: &mut Context<'_>,
    wire: &wire::ConfigurationProfile,
    s: &Section,
    server: ServerType,
) -> Option<Location> {
    let element = "ExchangeWebServicesUrl";
    let url = checked_url(cx, s, element, &wire.exchange_web_services_url)?;
    if url.scheme() == "http" {
        if server == ServerType::ExchangeOnline {
            let message = format!("{element} must begin with https:// for ExchangeOnline");
            cx.error(s, element, Code::InvalidCombination, message);
            return None;
        }
        let message =
            format!("{element} begins with http://, so mail travels without encryption; use https://");
        cx.warn(s, element, Code::UnencryptedMail, message);
    }
    if !url.path().to_ascii_lowercase().ends_with("/ews/exchange.asmx") {
        let message = format!("{element} does not end in EWS/Exchange.asmx; give the complete URL");
        cx.warn(s, element, Code::InvalidValue, message);
    }
    Some(Location::WebServices(url))
}

/// The PEM files of certificate authorities.
pub(super) fn extra_ca_files(
    cx: &mut Context<'_>,
    wire: Option<&wire::ExtraCaFiles>,
    s: &Section,
) -> Vec<PathBuf> {
    let inner = Section { path: format!("{}/ExtraCaFiles", s.path), label: s.label.clone() };
    let files = wire.map_or(&[][..], |f| &f.files).iter().enumerate();
    files.filter_map(|(i, file)| cx.path(&inner, &format!("File#{i}"), &Some(file.clone()))).collect()
}

/// An http or https URL with a host and without a name or password in it. Messages never repeat it: it may hold a password.
pub(super) fn checked_url(
    cx: &mut Context<'_>,
    s: &Section,
    element: &str,
    value: &Option<String>,
) -> Option<Url> {
    let text = value.as_deref()?;
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        _ => {
            let message = format!("{element} is not a URL that begins with https:// or http://");
            cx.error(s, element, Code::InvalidValue, message);
            return None;
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        let message = format!("{element} holds a name or password; use UserName and Password instead");
        cx.error(s, element, Code::ClearTextPassword, message);
        return None;
    }
    Some(url)
}

fn host_name(cx: &mut Context<'_>, s: &Section, text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<Ipv6Addr>().is_ok() {
        return Some(bare.to_owned());
    }
    let good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
    if !text.is_empty() && text.len() <= 253 && text.chars().all(good) {
        return Some(text.to_owned());
    }
    let port = text.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
    let hint = if port { "; the port belongs into NetworkPort" } else { "" };
    let message =
        format!("EmailServer is \"{}\", which is not a host name or IP address{hint}", shorten(text));
    cx.error(s, "EmailServer", Code::InvalidValue, message);
    None
}

/// The port where the file gives none: RFC 8314 for POP3, IMAP and submission, 25 for relays without log-in. The original documents none.
pub(super) fn usual_port(protocol: Protocol, tls: TlsMode, auth: Auth) -> u16 {
    match (protocol, tls) {
        (Protocol::Pop3, TlsMode::Implicit) => 995,
        (Protocol::Pop3, _) => 110,
        (Protocol::Imap, TlsMode::Implicit) => 993,
        (Protocol::Imap, _) => 143,
        (Protocol::Smtp, TlsMode::Implicit) => 465,
        (Protocol::Smtp, _) if matches!(auth, Auth::ClearText | Auth::CramMd5 | Auth::OAuth2) => 587,
        (Protocol::Smtp, _) => 25,
        (_, TlsMode::None) => 80,
        _ => 443,
    }
}
