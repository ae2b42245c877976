//! Users, queues and forward mailboxes.

use email_router_model::{Direction, EmailAddress, Mailbox, MailboxKind};

use crate::finding::Code;
use crate::settings::convert::{Named, label};
use crate::settings::read::{Context, Section};
use crate::settings::{ByName, Deployment, MailboxSettings, Profile, Settings, cross};
use crate::tree::shorten;
use crate::wire;

/// Every mailbox that could be read, with its place in the file.
pub(super) fn mailboxes(
    cx: &mut Context<'_>,
    wire: &wire::Mailboxes,
    deployments: &ByName<Named<Deployment>>,
    profiles: &ByName<Named<Profile>>,
) -> Vec<(MailboxSettings, Section)> {
    let mut all = Vec::new();
    for (kind, element, list) in [
        (MailboxKind::User, "User", &wire.users),
        (MailboxKind::Queue, "Queue", &wire.queues),
        (MailboxKind::Forward, "ForwardMailbox", &wire.forward_mailboxes),
    ] {
        for (i, wire) in list.iter().enumerate() {
            let path = format!("Configuration/Mailboxes/{element}#{i}");
            let section = Section { path, label: label(&kind.to_string(), &wire.name, i) };
            if let Some(mailbox) = mailbox(cx, wire, kind, &section, deployments, profiles) {
                all.push((mailbox, section));
            }
        }
    }
    all
}

fn mailbox(
    cx: &mut Context<'_>,
    wire: &wire::Mailbox,
    kind: MailboxKind,
    s: &Section,
    deployments: &ByName<Named<Deployment>>,
    profiles: &ByName<Named<Profile>>,
) -> Option<MailboxSettings> {
    let name = cx.required(s, "Name", &wire.name, "the name people know the mailbox by");
    cx.required(s, "EmailAddress", &wire.email_address, "the address of the mailbox");
    let address = cx.parsed::<EmailAddress>(s, "EmailAddress", &wire.email_address);
    let disabled = cx.flag(s, "Disabled", &wire.disabled).unwrap_or(false);
    let delete =
        cx.flag(s, "DeleteMessagesAfterProcessing", &wire.delete_messages_after_processing).unwrap_or(false);
    let (path, outgoing_path) =
        (cx.path(s, "Path", &wire.path), cx.path(s, "OutgoingPath", &wire.outgoing_path));
    let password = cx.secret(&wire.password);
    let deployment = deployment_of(cx, wire, s, deployments);

    let default = |of: fn(&Deployment) -> &Option<String>| {
        deployment.and_then(|d| d.value.as_ref()).and_then(|d| of(d).clone())
    };
    let incoming_profile = match &wire.incoming_profile {
        None => default(|d| &d.default_incoming_profile),
        Some(_) => {
            cross::reference(cx, s, "IncomingProfile", &wire.incoming_profile, profiles, Direction::Incoming)
        }
    };
    let outgoing_profile = if kind == MailboxKind::Forward {
        cx.no_effect(s, "OutgoingProfile", &wire.outgoing_profile, "a forward mailbox only receives");
        None
    } else {
        match &wire.outgoing_profile {
            None => default(|d| &d.default_outgoing_profile),
            Some(_) => cross::reference(
                cx,
                s,
                "OutgoingProfile",
                &wire.outgoing_profile,
                profiles,
                Direction::Outgoing,
            ),
        }
    };
    let process_from = cx.moment(s, "ProcessEmailsReceivedAfter", &wire.process_emails_received_after);
    if incoming_profile.is_none() {
        let why = "the mailbox has no incoming profile";
        cx.no_effect(s, "ProcessEmailsReceivedAfter", &wire.process_emails_received_after, why);
    }
    let profile = incoming_profile.as_deref().and_then(|n| profiles.get(n)).and_then(|p| p.value.as_ref());
    // the greater of the two (crm-contract.md 5.5)
    let process_from = process_from.max(profile.and_then(|p| p.process_from));
    let delete_after_processing = if kind == MailboxKind::Forward {
        delete
    } else {
        let why = "it belongs to forward mailboxes; use the profile's DeleteEmails";
        cx.no_effect(s, "DeleteMessagesAfterProcessing", &wire.delete_messages_after_processing, why);
        profile.is_some_and(|p| p.delete_emails)
    };
    let (name, address, deployment) = (name?, address?, deployment?.name.clone()?);
    Some(MailboxSettings {
        mailbox: Mailbox {
            id: Settings::mailbox_id(&deployment, &address),
            kind,
            name,
            address,
            login: wire.user_name.clone(),
        },
        deployment,
        incoming_profile,
        outgoing_profile,
        disabled,
        loaded: wire.loaded_record.is_some(),
        password,
        path,
        outgoing_path,
        delete_after_processing,
        process_from,
    })
}

/// The deployment a mailbox names, or the only one there is.
fn deployment_of<'a>(
    cx: &mut Context<'_>,
    wire: &wire::Mailbox,
    s: &Section,
    deployments: &'a ByName<Named<Deployment>>,
) -> Option<&'a Named<Deployment>> {
    let Some(name) = &wire.deployment else {
        if let [only] = &deployments[..] {
            return Some(only);
        }
        let message = if deployments.is_empty() {
            "there is no Deployment that this mailbox could belong to; add one to Deployments".to_owned()
        } else {
            format!("Deployment is missing; give one of {}", names(deployments))
        };
        cx.error(s, "Deployment", Code::MissingElement, message);
        return None;
    };
    let found = deployments.get(name);
    if found.is_none() {
        let message = format!(
            "Deployment refers to \"{}\", which does not exist; deployments are: {}",
            shorten(name),
            names(deployments)
        );
        cx.error(s, "Deployment", Code::UnknownReference, message);
    }
    found
}

/// The names for a message; the first ten of them.
pub(super) fn names<T>(list: &[Named<T>]) -> String {
    let mut names: Vec<String> =
        list.iter().filter_map(|i| i.name.as_deref()).take(11).map(shorten).collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    if names.len() > 10 {
        names.truncate(10);
        names.push("…".to_owned());
    }
    names.join(", ")
}
