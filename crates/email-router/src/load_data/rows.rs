//! How each record stands: which profiles serve it, and why it is not served. What assembling the service says counts; here comes what it has no
//! reason to speak of, since nothing of the configuration is about it.

use std::collections::{HashMap, HashSet};

use email_router_config::{Deployment, MailboxSettings, SecretStore, Settings};
use email_router_crm::{CrmMailbox, DeliveryMethod};
use email_router_engine::decide::OrganizationView;
use email_router_engine::router::Plan;
use email_router_model::{Direction, MailboxId, MailboxKind, RecordRef};

use super::diff::{approval, method};
use super::{Listed, LoadRow, RowState, default_profile};
use crate::assemble::{Assembled, Unserved, assemble, uses_router};

/// The rows of a deployment.
pub(super) struct Rows {
    pub(super) rows: Vec<LoadRow>,
    /// What of the configuration has no record.
    pub(super) unmatched: Vec<Unserved>,
}

pub(super) fn rows(
    settings: &Settings,
    deployment: &Deployment,
    view: &OrganizationView,
    secrets: &SecretStore,
) -> Rows {
    // as if the deployment had LoadMailboxes, so that who is not listed yet is judged as well
    let wanted = Deployment { load_mailboxes: true, ..deployment.clone() };
    let Assembled { plan, unserved, .. } = assemble(settings, &wanted, view.mailboxes(), secrets);
    let (mut of_record, mut unmatched) = (HashMap::<RecordRef, Vec<Unserved>>::new(), Vec::new());
    for not in unserved {
        match not.record.clone() {
            Some(record) => of_record.entry(record).or_default().push(not),
            None => unmatched.push(not),
        }
    }
    let judge = Judge { settings, deployment, view, routes: Routes::of(&plan), unserved: of_record };
    Rows { rows: view.mailboxes().iter().map(|record| judge.row(record)).collect(), unmatched }
}

/// Who has a route in the plan.
struct Routes {
    incoming: HashSet<RecordRef>,
    outgoing: HashSet<RecordRef>,
    /// Routes of forward mailboxes have no record.
    forward: HashSet<MailboxId>,
}

impl Routes {
    fn of(plan: &Plan) -> Self {
        Self {
            incoming: plan.incoming.iter().filter_map(|r| r.record.clone()).collect(),
            outgoing: plan.outgoing.iter().map(|r| r.record.clone()).collect(),
            forward: plan
                .incoming
                .iter()
                .filter(|r| r.mailbox.kind == MailboxKind::Forward)
                .map(|r| r.mailbox.id.clone())
                .collect(),
        }
    }
}

struct Judge<'a> {
    settings: &'a Settings,
    deployment: &'a Deployment,
    view: &'a OrganizationView,
    routes: Routes,
    unserved: HashMap<RecordRef, Vec<Unserved>>,
}

impl Judge<'_> {
    fn row(&self, record: &CrmMailbox) -> LoadRow {
        let id = record.address.as_ref().map(|a| Settings::mailbox_id(&self.deployment.name, a));
        let entry = id.as_ref().and_then(|id| {
            self.settings.mailboxes.iter().find(|m| m.mailbox.id == *id && m.mailbox.kind == record.kind)
        });
        let profile = |direction| {
            let name = match (entry, direction) {
                (Some(entry), Direction::Incoming) => entry.incoming_profile.as_deref(),
                (Some(entry), Direction::Outgoing) => entry.outgoing_profile.as_deref(),
                (None, _) => default_profile(self.deployment, direction, record.kind),
            };
            name.filter(|_| wants(record, direction)).map(str::to_owned)
        };
        let listed = match entry {
            Some(entry) if entry.loaded => Listed::Published,
            Some(_) => Listed::ByHand,
            None if self.deployment.load_mailboxes => Listed::LoadMailboxes,
            None => Listed::No,
        };
        let (state, reason) = match self.not_served(record, id.as_ref(), entry, listed) {
            None => (RowState::Served, None),
            Some((state, reason)) => (state, Some(reason)),
        };
        LoadRow {
            mailbox: record.clone(),
            incoming_profile: profile(Direction::Incoming),
            outgoing_profile: profile(Direction::Outgoing),
            listed,
            state,
            reason,
        }
    }

    fn not_served(
        &self,
        record: &CrmMailbox,
        id: Option<&MailboxId>,
        entry: Option<&MailboxSettings>,
        listed: Listed,
    ) -> Option<(RowState, String)> {
        let off = |reason: String| Some((RowState::Off, reason));
        let attention = |reason: String| Some((RowState::NeedsAttention, reason));
        if entry.is_some_and(|e| e.disabled) {
            return off("the configuration disables it (Disabled)".to_owned());
        }
        if let Some(said) = self.unserved.get(&record.record) {
            return attention(joined(said));
        }
        if record.disabled {
            return off("it is disabled in the CRM".to_owned());
        }
        let by_forward = record.incoming == DeliveryMethod::ForwardMailbox;
        if !uses_router(record) && !by_forward {
            return off(format!(
                "the CRM does not use the router for it: it receives by {} and sends by {}",
                method(record.incoming),
                method(record.outgoing)
            ));
        }
        let Some(id) = id else {
            let column =
                if record.kind == MailboxKind::User { "internalemailaddress" } else { "emailaddress" };
            return attention(format!("it has no valid e-mail address in the CRM; correct {column} there"));
        };
        if !self.view.is_approved(record) {
            let setting = if record.kind == MailboxKind::User {
                "requireapprovalforuseremail"
            } else {
                "requireapprovalforqueueemail"
            };
            return attention(format!(
                "its address is not approved in the CRM (emailrouteraccessapproval is {}); approve it there, or switch off {setting}",
                approval(record.approval)
            ));
        }
        for direction in [Direction::Incoming, Direction::Outgoing] {
            let routed = match (record.kind, direction) {
                (MailboxKind::Forward, _) => self.routes.forward.contains(id),
                (_, Direction::Incoming) => self.routes.incoming.contains(&record.record),
                (_, Direction::Outgoing) => self.routes.outgoing.contains(&record.record),
            };
            if wants(record, direction) && !routed {
                return attention(no_profile(direction, entry, self.deployment));
            }
        }
        if by_forward && self.routes.forward.is_empty() {
            return attention(
                "its mail comes by a forward mailbox, and no forward mailbox of this deployment is read; add one".to_owned(),
            );
        }
        if listed == Listed::No && uses_router(record) {
            return attention(
                "the configuration does not list it; add it with `email-router load-data --publish`, or set LoadMailboxes of the deployment"
                    .to_owned(),
            );
        }
        None
    }
}

/// Whether the CRM uses the router for the mail of a record in a direction.
fn wants(record: &CrmMailbox, direction: Direction) -> bool {
    match direction {
        Direction::Incoming => record.incoming == DeliveryMethod::EmailRouter,
        Direction::Outgoing => {
            record.outgoing == DeliveryMethod::EmailRouter && record.kind != MailboxKind::Forward
        }
    }
}

fn no_profile(direction: Direction, entry: Option<&MailboxSettings>, deployment: &Deployment) -> String {
    let (what, element) = match direction {
        Direction::Incoming => ("incoming", "IncomingProfile"),
        Direction::Outgoing => ("outgoing", "OutgoingProfile"),
    };
    let where_to = match entry {
        Some(_) => format!("give the mailbox an {element} in the configuration"),
        None => format!("give deployment {} a Default{element}", deployment.name),
    };
    format!("it has no {what} profile; {where_to}, or set its {what} delivery method to None in the CRM")
}

/// What assembling said about one record, as one reason.
fn joined(said: &[Unserved]) -> String {
    match said {
        [only] => with_direction(only),
        [first, second, ..] if first.reason == second.reason => first.reason.clone(),
        several => several.iter().map(with_direction).collect::<Vec<_>>().join("; "),
    }
}

fn with_direction(Unserved { direction, reason, .. }: &Unserved) -> String {
    match direction {
        None => reason.clone(),
        Some(Direction::Incoming) => format!("not read: {reason}"),
        Some(Direction::Outgoing) => format!("not sent for: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use email_router_config::check;
    use email_router_crm::{Approval, FilteringMethod, OrganizationSettings, ServerSideSync};
    use email_router_model::{EmailAddress, OrganizationId};

    use super::*;

    const TEXT: &str = r#"<Configuration>
  <ConfigurationProfiles>
    <ConfigurationProfile><Name>in</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType><Path>in</Path></ConfigurationProfile>
    <ConfigurationProfile><Name>pop</Name><Direction>Incoming</Direction><ServerType>Pop3</ServerType><AuthenticationType>ClearText</AuthenticationType>
      <EmailServer>pop.example</EmailServer><AccessCredentials>UserSpecified</AccessCredentials><UseSsl>true</UseSsl></ConfigurationProfile>
  </ConfigurationProfiles>
  <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path><LoadMailboxes>true</LoadMailboxes>
    <DefaultIncomingProfile>PROFILE</DefaultIncomingProfile></Deployment></Deployments>
  <Mailboxes>FILE</Mailboxes>
</Configuration>"#;

    fn queue(n: u8, address: &str) -> CrmMailbox {
        CrmMailbox {
            record: RecordRef::new("queue", uuid::Uuid::from_u128(n.into())),
            kind: MailboxKind::Queue,
            name: format!("Queue {n}"),
            address: EmailAddress::parse(address).ok(),
            incoming: DeliveryMethod::EmailRouter,
            outgoing: DeliveryMethod::None,
            approval: Approval::Approved,
            filter: FilteringMethod::All,
            owner: None,
            default_queue: None,
            disabled: false,
            server_side_sync: ServerSideSync::default(),
        }
    }

    fn judged(profile: &str, file: &str, listed: Vec<CrmMailbox>) -> Rows {
        let text = TEXT.replace("PROFILE", profile).replace("FILE", file);
        let (settings, findings) = check(&text, Path::new("/nowhere/EmailAgent.xml"));
        let settings = settings.unwrap_or_else(|| panic!("{findings:#?}"));
        let view =
            OrganizationView::new(OrganizationId::from_url("x"), OrganizationSettings::default(), listed);
        let secrets = SecretStore::new(settings.router.secret_key_file.clone());
        rows(&settings, &settings.deployments[0], &view, &secrets)
    }

    fn reasons(profile: &str, file: &str, listed: Vec<CrmMailbox>) -> Vec<(RowState, String)> {
        let rows = judged(profile, file, listed).rows;
        rows.into_iter().map(|r| (r.state, r.reason.unwrap_or_default())).collect()
    }

    #[track_caller]
    fn needs(row: &(RowState, String), text: &str) {
        assert!(row.0 == RowState::NeedsAttention && row.1.contains(text), "{row:?}");
    }

    #[test]
    fn what_assembling_says_is_the_reason() {
        // one folder for all: the second would read what the first reads
        let mut synced = queue(3, "three@example.com");
        synced.server_side_sync.incoming = true;
        let found = reasons("in", "", vec![queue(1, "one@example.com"), queue(2, "two@example.com")]);
        assert_eq!(found[0], (RowState::Served, String::new()));
        needs(&found[1], "not read: it would read the same messages as crm/one@example.com");
        needs(&reasons("in", "", vec![synced])[0], "server-side synchronization");
        needs(&reasons("pop", "", vec![queue(1, "one@example.com")])[0], "UserSpecified");
    }

    #[test]
    fn of_two_records_with_one_address_one_is_served_whoever_lists_it() {
        let two = || vec![queue(1, "one@example.com"), queue(2, "ONE@example.com")];
        for file in ["", "<Queue><Name>One</Name><EmailAddress>one@example.com</EmailAddress></Queue>"] {
            let found = reasons("in", file, two());
            assert_eq!(found[0].0, RowState::Served, "{file}");
            needs(&found[1], "has the address of the queue");
        }
    }

    #[test]
    fn what_the_file_has_and_the_crm_has_not_is_named() {
        let file = "<Queue><Name>One</Name><EmailAddress>one@example.com</EmailAddress></Queue>
            <Queue><Name>Off</Name><EmailAddress>off@example.com</EmailAddress><Disabled>true</Disabled></Queue>
            <Queue><Name>No</Name><EmailAddress>no@example.com</EmailAddress><IncomingProfile>None</IncomingProfile></Queue>";
        let found = judged("in", file, vec![queue(1, "off@example.com"), queue(2, "no@example.com")]);
        assert_eq!(found.unmatched.len(), 1);
        assert_eq!(found.unmatched[0].mailbox.as_str(), "crm/one@example.com");
        assert_eq!((found.rows[0].state, found.rows[0].listed), (RowState::Off, Listed::ByHand));
        let no = &found.rows[1];
        needs(
            &(no.state, no.reason.clone().unwrap()),
            "give the mailbox an IncomingProfile in the configuration",
        );
    }
}
