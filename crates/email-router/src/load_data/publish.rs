//! The mailboxes of the CRM in the configuration: added, kept up to date and removed, whatever else the file holds.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use email_router_config::{
    Deployment, Document, EditError, ElementPath, PublishError, Settings, publish_edited,
};
use email_router_crm::{CrmMailbox, DeliveryMethod};
use email_router_model::{Direction, EmailAddress, MailboxId, MailboxKind, RecordRef};

use super::diff::{ChangedField, plain};
use super::{Answer, Publication, PublishedMailbox, default_profile, told};
use crate::assemble::{mailboxes_of, shared_sources, uses_router};
use crate::{Error, Result};

/// The word for no profile.
const NO_PROFILE: &str = "None";

/// Elements of the three kinds.
const ELEMENTS: [(&str, MailboxKind); 3] =
    [("User", MailboxKind::User), ("Queue", MailboxKind::Queue), ("ForwardMailbox", MailboxKind::Forward)];

/// Writes what was loaded; what could not be loaded stays as it is.
pub(super) fn publish(path: &Path, answers: &[Answer<'_>]) -> Result<Publication> {
    let mut publication = Publication::default();
    let edited = publish_edited(path, |document, settings| {
        let mut edit = Edit {
            settings,
            publication: Publication::default(),
            set: Vec::new(),
            remove: Vec::new(),
            add: Vec::new(),
        };
        let entries = entries(document, settings);
        for (deployment, answer) in answers {
            // the file may have changed since it was asked
            let (Some(deployment), Ok(view)) = (settings.deployment(&deployment.name), answer) else {
                continue;
            };
            edit.deployment(deployment, view.mailboxes(), &entries);
        }
        edit.write(document)?;
        publication = edit.publication;
        Ok(())
    });
    match edited {
        Ok(None) => {}
        Ok(Some(published)) => {
            publication.written = true;
            publication.findings = told(&published.findings);
        }
        Err(PublishError::Invalid(findings)) => {
            let message = PublishError::Invalid(findings.clone()).to_string();
            return Err(Error::Configuration { message, findings });
        }
        Err(error) => return Err(Error::Request(error.to_string())),
    }
    Ok(publication)
}

/// A mailbox of the file that Load Data wrote.
struct Entry {
    path: ElementPath,
    deployment: String,
    kind: MailboxKind,
    record: String,
    name: String,
    address: String,
    /// `None` where the element is not there or empty.
    incoming: Option<String>,
    outgoing: Option<String>,
}

/// The mailboxes that are marked as Load Data's; others are nobody's business here.
fn entries(document: &Document, settings: &Settings) -> Vec<Entry> {
    let only = match &settings.deployments[..] {
        [only] => Some(only.name.clone()),
        _ => None,
    };
    let mut all = Vec::new();
    for (element, kind) in ELEMENTS {
        let section = ElementPath::new("Mailboxes").child(element);
        for number in 1..=document.count(&section) {
            let path = section.clone().number(number);
            let text = |name: &str| {
                document.get(&path.clone().child(name)).filter(|text| !text.is_empty()).map(str::to_owned)
            };
            let Some(record) = text("LoadedRecord").filter(|text| is_guid(text)) else { continue };
            let Some(deployment) = text("Deployment").or_else(|| only.clone()) else { continue };
            all.push(Entry {
                deployment,
                kind,
                record,
                name: text("Name").unwrap_or_default(),
                address: text("EmailAddress").unwrap_or_default(),
                incoming: text("IncomingProfile"),
                outgoing: text("OutgoingProfile"),
                path,
            });
        }
    }
    all
}

/// 32 hexadecimal digits, grouped.
fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(i, c)| match i {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
}

/// What is to be done.
struct Edit<'a> {
    settings: &'a Settings,
    publication: Publication,
    set: Vec<(ElementPath, String)>,
    remove: Vec<ElementPath>,
    add: Vec<(&'static str, Vec<(&'static str, String)>)>,
}

impl Edit<'_> {
    fn deployment(&mut self, deployment: &Deployment, listed: &[CrmMailbox], entries: &[Entry]) {
        let by_id: HashMap<(MailboxKind, String), &CrmMailbox> =
            listed.iter().map(|m| ((m.kind, m.record.id.to_string()), m)).collect();
        let mut written: HashSet<&RecordRef> = HashSet::new();
        // addresses that nobody in the file has any more
        let mut free: HashSet<MailboxId> = HashSet::new();
        for entry in entries.iter().filter(|e| e.deployment.eq_ignore_ascii_case(&deployment.name)) {
            let id =
                EmailAddress::parse(&entry.address).ok().map(|a| Settings::mailbox_id(&deployment.name, &a));
            let record = by_id.get(&(entry.kind, entry.record.to_ascii_lowercase()));
            match record.filter(|record| !record.disabled && uses_router(record)) {
                // a record twice in the file cannot be, as its address would be
                Some(record) if written.insert(&record.record) => {
                    let changes = self.follow(deployment, record, entry);
                    if changes.iter().any(|c| c.field == "EmailAddress") {
                        free.extend(id);
                    }
                    if !changes.is_empty() {
                        self.publication.changed.push(shown(
                            deployment,
                            entry.kind,
                            plain(&record.name),
                            entry.address.clone(),
                            changes,
                        ));
                    }
                }
                _ => {
                    free.extend(id);
                    self.remove.push(entry.path.clone());
                    self.publication.removed.push(shown(
                        deployment,
                        entry.kind,
                        entry.name.clone(),
                        entry.address.clone(),
                        Vec::new(),
                    ));
                }
            }
        }
        // who the file would have after these changes
        let mut after = self.settings.clone();
        after.mailboxes.retain(|m| !free.contains(&m.mailbox.id));
        let wanted = Deployment { load_mailboxes: true, ..deployment.clone() };
        // what cannot be served beside others is a row of the report
        let mut refused = Vec::new();
        let candidates = mailboxes_of(&after, &wanted, listed, &mut refused);
        let shared = shared_sources(&after, &candidates);
        let refused: HashSet<RecordRef> = refused.into_iter().filter_map(|r| r.record).collect();
        let mut winners: HashMap<(MailboxId, MailboxKind), &CrmMailbox> = HashMap::new();
        for record in listed.iter().filter(|r| !r.disabled && uses_router(r) && !refused.contains(&r.record))
        {
            let Some(address) = &record.address else { continue };
            winners.entry((Settings::mailbox_id(&deployment.name, address), record.kind)).or_insert(record);
        }
        let in_file: HashSet<&MailboxId> = after.mailboxes.iter().map(|m| &m.mailbox.id).collect();
        for mailbox in candidates.iter().filter(|m| !in_file.contains(&m.mailbox.id)) {
            let none = mailbox.incoming_profile.is_none() && mailbox.outgoing_profile.is_none();
            let kind = mailbox.mailbox.kind;
            let Some(record) = winners.get(&(mailbox.mailbox.id.clone(), kind)) else { continue };
            if none || shared.contains_key(&mailbox.mailbox.id) || written.contains(&record.record) {
                continue;
            }
            let name = name_of(record, &mailbox.mailbox.address);
            let address = mailbox.mailbox.address.to_string();
            let profile = |name: &Option<String>| name.clone().unwrap_or_else(|| NO_PROFILE.to_owned());
            let mut children = vec![
                ("Name", name.clone()),
                ("EmailAddress", address.clone()),
                ("Deployment", deployment.name.clone()),
                ("IncomingProfile", profile(&mailbox.incoming_profile)),
            ];
            if kind != MailboxKind::Forward {
                children.push(("OutgoingProfile", profile(&mailbox.outgoing_profile)));
            }
            children.push(("LoadedRecord", record.record.id.to_string()));
            let element = ELEMENTS.iter().find(|(_, k)| *k == kind).map_or("User", |(element, _)| element);
            self.add.push((element, children));
            self.publication.added.push(shown(deployment, kind, name, address, Vec::new()));
        }
    }

    /// Makes a mailbox say what its record says.
    fn follow(&mut self, deployment: &Deployment, record: &CrmMailbox, entry: &Entry) -> Vec<ChangedField> {
        let mut changes = Vec::new();
        let mut set = |field: &'static str, from: &str, to: String| {
            self.set.push((entry.path.clone().child(field), to.clone()));
            changes.push(ChangedField { field, from: from.to_owned(), to });
        };
        if let Some(address) =
            record.address.as_ref().filter(|a| !a.as_str().eq_ignore_ascii_case(&entry.address))
        {
            set("EmailAddress", &entry.address, address.to_string());
        }
        if let Some(address) = &record.address {
            let name = name_of(record, address);
            if name != entry.name {
                set("Name", &entry.name, name);
            }
        }
        for (direction, field, method, now) in [
            (Direction::Incoming, "IncomingProfile", record.incoming, &entry.incoming),
            (Direction::Outgoing, "OutgoingProfile", record.outgoing, &entry.outgoing),
        ] {
            if entry.kind == MailboxKind::Forward && direction == Direction::Outgoing {
                continue;
            }
            let default = default_profile(deployment, direction, entry.kind);
            let is_none = match now {
                Some(name) => name.eq_ignore_ascii_case(NO_PROFILE),
                None => default.is_none(),
            };
            let from = now.as_deref().unwrap_or_default();
            match (method == DeliveryMethod::EmailRouter, is_none, default) {
                (false, false, _) => set(field, from, NO_PROFILE.to_owned()),
                (true, true, Some(default)) => set(field, from, default.to_owned()),
                _ => {}
            }
        }
        changes
    }

    fn write(&self, document: &mut Document) -> std::result::Result<(), EditError> {
        // one that a person removed the element of is set alone, which makes it anew
        let (there, missing): (Vec<_>, Vec<_>) =
            self.set.iter().cloned().partition(|(path, _)| document.get(path).is_some());
        if !there.is_empty() {
            document.set_all(&there)?;
        }
        for (path, value) in &missing {
            document.set(path, value)?;
        }
        if !self.remove.is_empty() {
            document.remove_all(&self.remove)?;
        }
        let records: Vec<(&str, Vec<(&str, &str)>)> = self
            .add
            .iter()
            .map(|(name, children)| (*name, children.iter().map(|(n, v)| (*n, v.as_str())).collect()))
            .collect();
        document.insert_all(&ElementPath::new("Mailboxes"), &records)
    }
}

/// The display name; the address for a record without one.
fn name_of(record: &CrmMailbox, address: &EmailAddress) -> String {
    Some(plain(&record.name)).filter(|name| !name.is_empty()).unwrap_or_else(|| address.to_string())
}

fn shown(
    deployment: &Deployment,
    kind: MailboxKind,
    name: String,
    address: String,
    changes: Vec<ChangedField>,
) -> PublishedMailbox {
    PublishedMailbox { deployment: deployment.name.clone(), kind, name, address, changes }
}
