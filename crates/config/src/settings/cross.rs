//! The rules that span several elements of the file.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use email_router_model::{Direction, MailboxKind};

use crate::finding::Code;
use crate::settings::combine::user_specified_allowed;
use crate::settings::convert::{Allow, Named};
use crate::settings::mailbox::names;
use crate::settings::read::{Context, Section};
use crate::settings::{ByName, Credentials, Deployment, DeploymentTarget, MailSource, Profile, Settings};
use crate::tree::shorten;
use crate::wire;
use crate::words::{DeploymentFamily, DeploymentType, Protocol, ServerType, list};

/// Checks that a reference names a profile of the right direction. The word `None` means no profile.
pub(super) fn reference(
    cx: &mut Context<'_>,
    s: &Section,
    element: &str,
    value: &Option<String>,
    profiles: &ByName<Named<Profile>>,
    direction: Direction,
) -> Option<String> {
    let name = value.as_deref()?;
    if name.eq_ignore_ascii_case("none") {
        return None;
    }
    let Some(found) = profiles.get(name) else {
        let message = format!(
            "{element} refers to profile \"{}\", which does not exist; profiles are: {}",
            shorten(name),
            names(profiles)
        );
        cx.error(s, element, Code::UnknownReference, message);
        return None;
    };
    // a profile with faults of its own has been reported; its name is enough here
    let Some(profile) = &found.value else { return found.name.clone() };
    if profile.direction != direction {
        let message = format!(
            "{element} refers to profile \"{}\", which is {}; it must be {direction}",
            shorten(&profile.name),
            profile.direction
        );
        cx.error(s, element, Code::WrongDirection, message);
        return None;
    }
    Some(profile.name.clone())
}

/// The family rule, and the deployments' default profiles.
///
/// Microsoft's rule: {My company, service provider} and {CRM Online} never mix in one router (6.5). The embedded CRM is a family of its
/// own; it may stand beside another one only where `AllowEmbeddedBesideOthers` says so, and even then a warning remains.
pub(super) fn deployments(
    cx: &mut Context<'_>,
    deployments: &mut [Named<Deployment>],
    profiles: &ByName<Named<Profile>>,
    allow: Allow,
    state_file: &Path,
) {
    use Direction::{Incoming, Outgoing};
    for Named { section, value, .. } in deployments.iter_mut() {
        let Some(deployment) = value else { continue };
        // from here on the names are spelled as the profiles spell them
        let (incoming, outgoing) =
            (deployment.default_incoming_profile.take(), deployment.default_outgoing_profile.take());
        deployment.default_incoming_profile =
            reference(cx, section, "DefaultIncomingProfile", &incoming, profiles, Incoming);
        deployment.default_outgoing_profile =
            reference(cx, section, "DefaultOutgoingProfile", &outgoing, profiles, Outgoing);
    }
    one_file_each(cx, deployments, state_file);
    // the first of each family: whoever comes next may stand beside one of them and not beside another
    let mut firsts: Vec<(&Deployment, &Section)> = Vec::new();
    for Named { section, value, .. } in deployments.iter() {
        let Some(deployment) = value else { continue };
        let kind = deployment.target.deployment_type();
        let type_of = |(other, _): &(&Deployment, &Section)| other.target.deployment_type();
        let tolerated = |other: DeploymentType| {
            let embedded = [kind, other].iter().any(|k| k.family() == DeploymentFamily::Embedded);
            embedded && allow.embedded_beside_others
        };
        let others = || firsts.iter().filter(|first| type_of(first).family() != kind.family());
        if let Some(first) = others().find(|first| !tolerated(type_of(first))) {
            let line = cx.places.find(&first.1.path).line;
            let message = format!(
                "Type {kind} cannot stand beside deployment \"{}\" of type {} at line {line}; one router serves \
                 either MyCompany and OnlineServiceProvider, or CrmOnline, or Embedded",
                shorten(&first.0.name),
                type_of(first)
            );
            cx.error(section, "Type", Code::MixedFamilies, message);
        } else if let Some(first) = others().next() {
            let message = format!(
                "Type {kind} stands beside deployment \"{}\" of type {}, as AllowEmbeddedBesideOthers allows",
                shorten(&first.0.name),
                type_of(first)
            );
            cx.warn(section, "Type", Code::MixedFamilies, message);
        }
        if firsts.iter().all(|first| type_of(first).family() != kind.family()) {
            firsts.push((deployment, section));
        }
    }
}

/// Two organizations in one file would be one, served twice.
fn one_file_each(cx: &mut Context<'_>, deployments: &[Named<Deployment>], state_file: &Path) {
    let mut files: HashMap<PathBuf, &Named<Deployment>> = HashMap::new();
    for named in deployments {
        let (element, what, path) = match &named.value {
            Some(Deployment { target: DeploymentTarget::Embedded { path }, .. }) => ("Path", "CRM", path),
            Some(Deployment { target: DeploymentTarget::Server(server), .. }) => {
                ("MirrorFile", "mirror", &server.mirror_file)
            }
            None => continue,
        };
        let plain: PathBuf = path.components().collect();
        if element == "MirrorFile" && plain == state_file.components().collect::<PathBuf>() {
            let message = "MirrorFile must be a file of its own, not the StateFile";
            cx.error(&named.section, element, Code::InvalidValue, message);
            continue;
        }
        match files.entry(plain) {
            Entry::Vacant(free) => drop(free.insert(named)),
            Entry::Occupied(first) => {
                let line = cx.places.find(&first.get().section.path).line;
                let message = format!(
                    "{element} {} is the {what} of the deployment at line {line} already; give each deployment a file of its own",
                    path.display()
                );
                cx.error(&named.section, element, Code::SharedSource, message);
            }
        }
    }
}

/// Exchange Online beside on-premises Exchange or POP3 in one router: not a certified configuration (9.5).
pub(super) fn servers(cx: &mut Context<'_>, profiles: &ByName<Named<Profile>>, allow: Allow) {
    if allow.mixed_servers {
        return;
    }
    let online = profiles
        .iter()
        .find(|p| p.value.as_ref().is_some_and(|p| p.server_type == ServerType::ExchangeOnline));
    let Some(online) = online else { return };
    let line = cx.places.find(&online.section.path).line;
    for Named { section, value, .. } in profiles {
        let Some(profile) = value else { continue };
        let server = profile.server_type;
        if server.is_on_premises_exchange() || server == ServerType::Pop3 {
            let message = format!(
                "ServerType {server} stands beside an ExchangeOnline profile at line {line}; Microsoft advises one router \
                 for Exchange Online and another for the rest; set AllowMixedServers to true to accept it"
            );
            cx.warn(section, "ServerType", Code::MixedServers, message);
        }
    }
}

/// The rules about the mailbox that was added last.
pub(super) fn mailbox(cx: &mut Context<'_>, settings: &Settings, s: &Section) {
    let Some(mailbox) = settings.mailboxes.last() else { return };
    let Some(deployment) = settings.deployment(&mailbox.deployment) else { return };
    let kind = deployment.target.deployment_type();
    let mut own_credentials = false;
    for direction in [Direction::Incoming, Direction::Outgoing] {
        let Some(profile) = settings.profile_of(mailbox, direction) else { continue };
        if profile.direction != direction {
            continue; // the deployment's default has the wrong direction, which was reported there
        }
        if profile.credentials == Credentials::UserSpecified {
            own_credentials = true;
            user_specified(cx, s, profile, kind);
        }
        if !mailbox.disabled {
            supported(cx, s, profile);
        }
    }
    if !own_credentials {
        let login = mailbox.mailbox.login.clone();
        let why = "no profile of this mailbox has AccessCredentials UserSpecified";
        cx.no_effect(s, "UserName", &login, why);
        cx.no_effect(s, "Password", &mailbox.password.as_ref().map(|_| String::new()), why);
    }
    for (direction, element, own) in [
        (Direction::Incoming, "Path", &mailbox.path),
        (Direction::Outgoing, "OutgoingPath", &mailbox.outgoing_path),
    ] {
        if own.is_some() && settings.maildir(mailbox, direction).is_none() {
            let why = format!("its {direction} profile is not a Maildir");
            cx.no_effect(s, element, &Some(String::new()), &why);
        }
    }
    if mailbox.incoming_profile.is_none() && mailbox.outgoing_profile.is_none() && !mailbox.disabled {
        let message = "has neither an incoming nor an outgoing profile, so nothing is done with it";
        cx.warn(s, "", Code::Ignored, message);
    }
}

fn user_specified(cx: &mut Context<'_>, s: &Section, profile: &Profile, kind: DeploymentType) {
    let allowed = user_specified_allowed(profile.direction, profile.server_type);
    if !allowed.contains(&kind) {
        let message = format!(
            "profile \"{}\" ({} {}) with AccessCredentials UserSpecified cannot be used in a deployment of type {kind}; \
             allowed: {}",
            shorten(&profile.name),
            profile.direction,
            profile.server_type,
            list(allowed)
        );
        cx.error(s, "", Code::InvalidCombination, message);
    }
    // the password may be in the store of credentials, which is not looked into here: who has none in either is reported as not served
}

/// Valid, but not served: a problem only for mailboxes that are worked on. WebDAV went with Exchange 2003 and 2007, whose support ended years ago.
fn supported(cx: &mut Context<'_>, s: &Section, profile: &Profile) {
    if profile.protocol != Protocol::WebDAV {
        return;
    }
    let way_out = match profile.server_type {
        ServerType::Exchange2007 => "use Protocol ExchangeWebServices",
        _ => "read its mailboxes by POP3 or IMAP",
    };
    let message = format!(
        "profile \"{}\" has Protocol WebDAV, which this program does not serve; {way_out}, or disable the mailbox",
        shorten(&profile.name)
    );
    cx.error(s, "", Code::NotInThisVersion, message);
}

/// Two mailboxes with one address in one organization, or two that read the same messages: each message would be taken twice.
pub(super) fn sources(cx: &mut Context<'_>, settings: &Settings, wire: &wire::Configuration) {
    let mut numbers: HashMap<MailboxKind, usize> = HashMap::new();
    let mut ids: HashMap<String, u32> = HashMap::new();
    let mut sources: HashMap<MailSource, u32> = HashMap::new();
    let complete =
        wire.mailboxes.as_ref().map_or(0, |m| m.users.len() + m.queues.len() + m.forward_mailboxes.len());
    if settings.mailboxes.len() != complete {
        return; // some mailbox has faults of its own, so the numbers below would point to the wrong lines
    }
    for mailbox in &settings.mailboxes {
        let kind = mailbox.mailbox.kind;
        let number = numbers.entry(kind).or_default();
        let element = match kind {
            MailboxKind::User => "User",
            MailboxKind::Queue => "Queue",
            MailboxKind::Forward => "ForwardMailbox",
        };
        let path = format!("Configuration/Mailboxes/{element}#{number}");
        *number += 1;
        let line = cx.places.find(&path).line;
        let section = Section { path, label: format!("{kind} \"{}\"", shorten(&mailbox.mailbox.name)) };
        if let Some(first) = ids.get(mailbox.mailbox.id.as_str()) {
            let message = format!(
                "EmailAddress {} belongs to the mailbox at line {first} already",
                mailbox.mailbox.address
            );
            cx.error(&section, "EmailAddress", Code::DuplicateName, message);
            continue;
        }
        ids.insert(mailbox.mailbox.id.as_str().to_owned(), line);
        let Some(source) = settings.source(mailbox).filter(|_| !mailbox.disabled) else { continue };
        if let Some(first) = sources.get(&source) {
            let message = format!(
                "reads the same messages as the mailbox at line {first} ({source}); give each mailbox its own, for \
                 example with {{address}} in the profile's Path or UserName"
            );
            cx.error(&section, "", Code::SharedSource, message);
            continue;
        }
        sources.insert(source, line);
    }
}
