//! Mail that leaves, by plain requests (`crm-contract.md` 3.6, 3.7 and 6): listing, claiming, giving an identity, finishing.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use email_router_http::Method;
use email_router_model::{ActivityId, RecordRef, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::RouterDecides;
use super::directory::id;
use crate::dataverse::web_api::fault::{self, code};
use crate::dataverse::web_api::{Ask, literal};
use crate::{
    Claim, EmailStatus, Error, ErrorKind, ParticipationType, PendingEmail, PendingQuery, Priority, Result,
    SendOutcome,
};

/// Senders of one query: its URL must not grow without end.
const SENDERS: usize = 15;
const PAGE: &str = "odata.maxpagesize=250";
/// How often a change is begun anew because somebody else changed the row meanwhile.
pub(super) const RACES: u32 = 5;
/// Of so many e-mails our own changes are remembered.
const MOST_REMEMBERED: usize = 10_000;

/// Versions of an e-mail that only this router has replaced, so that a claim of an e-mail that it changed itself is not lost.
pub(crate) type OwnWrites = HashMap<ActivityId, (HashSet<u64>, u64)>;

impl RouterDecides {
    pub(crate) async fn pending_outgoing(&self, query: &PendingQuery) -> Result<Vec<PendingEmail>> {
        let mut senders: Vec<&RecordRef> = Vec::new();
        for sender in &query.senders {
            if matches!(sender.table.as_str(), "systemuser" | "queue") && !senders.contains(&sender) {
                senders.push(sender);
            }
        }
        let mut found: HashMap<&RecordRef, Vec<PendingEmail>> = HashMap::new();
        if senders.len() <= SENDERS || !self.pending_of_all(&senders, query, &mut found).await? {
            for chunk in senders.chunks(SENDERS) {
                self.pending_of(chunk, query, &mut found).await?;
            }
        }
        let with_mail: Vec<&RecordRef> = found.keys().copied().collect();
        let served = self.served_senders(&with_mail).await?;
        let mut all = Vec::new();
        for sender in senders {
            let Some(mut of_sender) = found.remove(sender).filter(|_| served.contains(sender)) else {
                continue;
            };
            of_sender.sort_by_key(|email| (Reverse(email.priority.code()), email.modified_on));
            of_sender.truncate(query.per_sender);
            all.append(&mut of_sender);
        }
        Ok(all)
    }

    /// One look at what waits in the whole organization, which costs one request for however many senders; `false`, and nothing found, where that is more than a
    /// page.
    async fn pending_of_all<'a>(
        &self,
        senders: &[&'a RecordRef],
        query: &PendingQuery,
        found: &mut HashMap<&'a RecordRef, Vec<PendingEmail>>,
    ) -> Result<bool> {
        let doing = "looking for mail that waits";
        let page = self.session.pages(self.pending_path(&[], query), &[PAGE], doing).next().await?;
        let Some(page) = page.filter(|page| page.next_link.is_none()) else { return Ok(false) };
        self.sort_out(&page.rows, senders, query, found).await?;
        Ok(true)
    }

    /// Adds these rows to the mail of their senders.
    async fn sort_out<'a>(
        &self,
        rows: &[Value],
        senders: &[&'a RecordRef],
        query: &PendingQuery,
        found: &mut HashMap<&'a RecordRef, Vec<PendingEmail>>,
    ) -> Result<()> {
        for row in rows {
            if let Some((sender, email)) = self.pending_row(row, senders, query).await? {
                found.entry(sender).or_default().push(email);
            }
        }
        Ok(())
    }

    /// Pages until each sender has enough. A sender that has is left out from then on, so that a heavy one costs no more than the others.
    async fn pending_of<'a>(
        &self,
        senders: &[&'a RecordRef],
        query: &PendingQuery,
        found: &mut HashMap<&'a RecordRef, Vec<PendingEmail>>,
    ) -> Result<()> {
        let mut open: Vec<&'a RecordRef> = senders.to_vec();
        while !open.is_empty() {
            for sender in &open {
                found.remove(sender); // what an earlier turn found comes again
            }
            let mut pages =
                self.session.pages(self.pending_path(&open, query), &[PAGE], "looking for mail that waits");
            let mut full = false;
            while let Some(page) = pages.next().await? {
                self.sort_out(&page.rows, &open, query, found).await?;
                let enough = |sender: &&RecordRef| {
                    found.get(*sender).is_some_and(|list| list.len() >= query.per_sender)
                };
                if page.next_link.is_some() && open.iter().any(enough) {
                    open.retain(|sender| !enough(sender));
                    full = true;
                    break;
                }
            }
            if !full {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The query for mail of these senders; of all where there are none.
    fn pending_path(&self, senders: &[&RecordRef], query: &PendingQuery) -> String {
        let any_of = |column: &str| {
            let each: Vec<_> = senders.iter().map(|sender| format!("{column} eq {}", sender.id)).collect();
            each.join(" or ")
        };
        let (by, expand) = if self.tables.email_has("emailsender") {
            (any_of("_emailsender_value"), "")
        } else {
            // old versions have the party only
            let party = any_of("p/_partyid_value");
            let by = format!("email_activity_parties/any(p:p/participationtypemask eq 1 and ({party}))");
            (by, "&$expand=email_activity_parties($select=participationtypemask,_partyid_value)")
        };
        let by = if senders.is_empty() { String::new() } else { format!(" and ({by})") };
        // half of what a timestamp can hold; Duration::MAX would overflow the subtraction
        let patience = query.stale_after.min(Duration::from_secs(100_000_000_000));
        let stale = query.now.checked_sub(patience).unwrap_or(Timestamp::UNIX_EPOCH);
        let filter = format!(
            "directioncode eq true{by} and ((statuscode eq 6 and (delayedemailsendtime eq null or delayedemailsendtime le {})) \
             or (statuscode eq 7 and modifiedon lt {}))",
            literal::iso(query.now),
            literal::iso(stale)
        );
        let mut columns = vec![
            "activityid",
            "statuscode",
            "deliveryattempts",
            "deliveryprioritycode",
            "modifiedon",
            "_emailsender_value",
        ];
        columns.extend(self.session.settings().note_column.as_deref());
        format!(
            "emails?$select={}&$filter={}&$orderby=deliveryprioritycode%20desc,modifiedon%20asc{expand}",
            self.tables.email_select(&columns),
            literal::encode(&filter)
        )
    }

    async fn pending_row<'a>(
        &self,
        row: &Value,
        senders: &[&'a RecordRef],
        query: &PendingQuery,
    ) -> Result<Option<(&'a RecordRef, PendingEmail)>> {
        let (Some(activity), Some(sender)) = (id(row, "activityid"), sender_of(row)) else { return Ok(None) };
        let Some(sender) = senders.iter().copied().find(|known| known.id == sender) else { return Ok(None) };
        let activity_id = ActivityId::from_uuid(activity);
        if let Some(theirs) = self.column_note(row) {
            self.mirror.newer_note(&activity_id, theirs).await?;
        }
        let stale =
            row.get("statuscode").and_then(Value::as_u64) == Some(u64::from(EmailStatus::Sending.code()));
        if let Some(note) = self.mirror.note(&activity_id).await?
            // who put an e-mail in doubt back into Pending Send has decided
            && (if stale { note.in_doubt.is_some() } else { note.not_before.is_some_and(|at| at > query.now) })
        {
            return Ok(None);
        }
        let number = |name: &str| row.get(name).and_then(Value::as_u64);
        let email = PendingEmail {
            activity_id,
            sender: sender.clone(),
            version: version(row).unwrap_or_default(),
            delivery_attempts: number("deliveryattempts")
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or_default(),
            priority: number("deliveryprioritycode")
                .and_then(|code| u8::try_from(code).ok())
                .map_or(Priority::Normal, Priority::from_code),
            stale,
            modified_on: row
                .get("modifiedon")
                .and_then(Value::as_str)
                .and_then(|t| t.parse().ok())
                .unwrap_or(query.now),
        };
        Ok(Some((sender, email)))
    }

    /// Which of these may send through the router (6.1).
    async fn served_senders(&self, senders: &[&RecordRef]) -> Result<HashSet<RecordRef>> {
        if senders.is_empty() {
            return Ok(HashSet::new());
        }
        let paths = senders
            .iter()
            .map(|sender| {
                let state = if sender.table == "queue" { "statecode" } else { "isdisabled" };
                let path = self.tables.path(sender)?;
                Ok(format!("{path}?$select=outgoingemaildeliverymethod,emailrouteraccessapproval,{state}"))
            })
            .collect::<Result<Vec<_>>>()?;
        let settings = self.organization().settings.clone();
        let mut served = HashSet::new();
        let mut parts = Vec::new();
        for paths in paths.chunks(crate::dataverse::web_api::batch::MOST_OPERATIONS) {
            parts.extend(self.session.read_many(paths, "reading who may send").await?);
        }
        for (sender, part) in senders.iter().zip(parts) {
            let Some(row) = part.json().filter(|_| part.status == 200) else {
                tracing::warn!(%sender, status = part.status, "the sender cannot be read; its mail waits");
                continue;
            };
            let number = |name: &str| row.get(name).and_then(Value::as_u64).unwrap_or_default();
            let disabled =
                number("statecode") != 0 || row.get("isdisabled").and_then(Value::as_bool) == Some(true);
            let needs_approval = match sender.table.as_str() {
                "queue" => settings.require_approval_for_queue_email,
                _ => settings.require_approval_for_user_email,
            };
            if !disabled
                && number("outgoingemaildeliverymethod") == 2
                && (!needs_approval || number("emailrouteraccessapproval") == 1)
            {
                served.insert((*sender).clone());
            }
        }
        Ok(served)
    }

    pub(crate) async fn claim(&self, email: &PendingEmail) -> Result<Claim> {
        let attempt = email.delivery_attempts.saturating_add(1);
        let version = {
            let own = self.own_writes.lock().unwrap_or_else(PoisonError::into_inner);
            match own.get(&email.activity_id) {
                Some((replaced, present)) if replaced.contains(&email.version) => *present,
                _ => email.version,
            }
        };
        let row =
            json!({ "statecode": 1, "statuscode": EmailStatus::Sending.code(), "deliveryattempts": attempt });
        let id = &email.activity_id;
        match self.session.send(change(id, &row, Some(version), "claiming an e-mail")).await {
            Ok(_) => {
                self.own_writes.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
                let note = self.mirror.note(id).await?.unwrap_or_default();
                if note.not_before.is_some() || note.in_doubt.is_some() {
                    self.change_note(id, |note| (note.not_before, note.in_doubt) = (None, None)).await?;
                }
                Ok(Claim::Taken { attempt })
            }
            Err(error) if fault::has_status(&error, 412) || error.kind() == ErrorKind::NotFound => {
                Ok(Claim::Lost)
            }
            Err(error) => Err(error),
        }
    }

    /// Changes an e-mail if it is still the one with this version. Who listed it before can still claim it, since the change is ours.
    pub(super) async fn patch_own(
        &self,
        id: &ActivityId,
        row: &Value,
        version: u64,
        doing: &str,
    ) -> Result<()> {
        let answer = self.session.send(change(id, row, Some(version), doing)).await?;
        if let Some(after) = answer.json().ok().as_ref().and_then(self::version) {
            let mut own = self.own_writes.lock().unwrap_or_else(PoisonError::into_inner);
            if own.len() >= MOST_REMEMBERED {
                own.clear(); // who listed one of these claims it in the next turn
            }
            let (replaced, present) = own.entry(*id).or_insert_with(|| (HashSet::new(), version));
            if *present != version {
                replaced.clear(); // somebody else changed it in between
            }
            replaced.insert(version);
            *present = after;
        }
        Ok(())
    }

    pub(crate) async fn finish(&self, id: &ActivityId, outcome: &SendOutcome) -> Result<()> {
        let to = match outcome {
            SendOutcome::Sent { .. } => EmailStatus::Sent,
            SendOutcome::Retry { .. } => EmailStatus::PendingSend,
            SendOutcome::Failed { .. } => EmailStatus::Failed,
            SendOutcome::InDoubt { .. } => EmailStatus::Sending,
        };
        let path = format!("emails({id})?$select=directioncode,statuscode,deliveryattempts,trackingtoken");
        let (mut noted, mut attempt) = (false, None);
        for _ in 0..RACES {
            let row = self.session.get(&path, "finishing an e-mail").await?;
            if row.get("directioncode").and_then(Value::as_bool) == Some(false) {
                return Err(invalid(id, "was received, it cannot be sent"));
            }
            let code = row.get("statuscode").and_then(Value::as_u64).and_then(|code| u8::try_from(code).ok());
            let status = code.and_then(EmailStatus::from_code);
            let attempts = row.get("deliveryattempts").cloned();
            let is_ours = *attempt.get_or_insert_with(|| attempts.clone()) == attempts;
            // only an e-mail in Sending can go back or be given up, and not if another router has claimed it since; that it was sent is a fact in every state
            let due = match to {
                EmailStatus::Sent => status != Some(EmailStatus::Sent),
                _ => status == Some(EmailStatus::Sending) && is_ours,
            };
            if !due {
                return Ok(());
            }
            if !noted {
                // the note first: what is back in Pending Send must not go out before its time
                let outcome = outcome.clone();
                self.change_note(id, move |note| note.finish(&outcome)).await?;
                noted = true;
                if to == EmailStatus::Sending {
                    return Ok(());
                }
                if self.session.settings().note_column.is_some() {
                    continue; // the note made it another version
                }
            }
            if to == EmailStatus::Sent {
                return self.sent(id, &row).await;
            }
            // by version: a repeated request must not take the e-mail from who has claimed it meanwhile
            match self.set_status(id, to, version(&row)).await {
                Err(error) if fault::has_status(&error, 412) => {}
                other => return other,
            }
        }
        Err(too_many_races(&format!("the e-mail {id}")))
    }

    async fn sent(&self, id: &ActivityId, row: &Value) -> Result<()> {
        if self.routes.sent_by_message.load(Ordering::Relaxed) {
            return self.record_as_sent(id, row).await;
        }
        match self.set_status(id, EmailStatus::Sent, None).await {
            Err(error) if refuses_state(&error) => {
                self.record_as_sent(id, row).await?;
                tracing::info!("{} takes sent e-mails by SendEmail only: {error}", self.session.place());
                self.routes.sent_by_message.store(true, Ordering::Relaxed);
                Ok(())
            }
            other => other,
        }
    }

    /// Sent again, it changes nothing more: the same values, or another version by now.
    async fn set_status(&self, id: &ActivityId, to: EmailStatus, version: Option<u64>) -> Result<()> {
        let row = json!({ "statecode": to.state_code(), "statuscode": to.code() });
        self.session.send(change(id, &row, version, "finishing an e-mail").harmless()).await.map(drop)
    }

    /// The documented way: `SendEmail` with `IssueSend` false records an e-mail as sent (2.4); where it wants a draft, it gets one.
    async fn record_as_sent(&self, id: &ActivityId, row: &Value) -> Result<()> {
        let token = row.get("trackingtoken").and_then(Value::as_str).unwrap_or_default();
        let send = || {
            let path = format!("emails({id})/Microsoft.Dynamics.CRM.SendEmail");
            let body = json!({ "IssueSend": false, "TrackingToken": token });
            self.session.send(Ask::new(Method::POST, path, "recording an e-mail as sent").json(&body))
        };
        match send().await {
            Err(error) if refuses_state(&error) => {
                self.set_status(id, EmailStatus::Draft, None).await?;
                send().await.map(drop)
            }
            other => other.map(drop),
        }
    }
}

/// A request that changes an e-mail, with this version or with any.
fn change(id: &ActivityId, row: &Value, version: Option<u64>, doing: &str) -> Ask {
    let condition = version.map_or("*".to_owned(), |version| format!("W/\"{version}\""));
    Ask::new(Method::PATCH, format!("emails({id})?$select=activityid"), doing)
        .json(row)
        .header("if-match", &condition)
        .header("prefer", "return=representation")
}

/// The record that sends.
fn sender_of(row: &Value) -> Option<Uuid> {
    let parties = row.get("email_activity_parties").and_then(Value::as_array);
    let mut senders = parties.into_iter().flatten().filter(|party| {
        party.get("participationtypemask").and_then(Value::as_u64)
            == Some(u64::from(ParticipationType::Sender.code()))
    });
    id(row, "_emailsender_value").or_else(|| id(senders.next()?, "_partyid_value"))
}

/// The number in `W/"4712"`.
pub(super) fn version(row: &Value) -> Option<u64> {
    let tag = row.get("@odata.etag")?.as_str()?;
    tag.trim_start_matches("W/").trim_matches('"').parse().ok()
}

/// The server does not take this change in the state in which the e-mail is.
pub(super) fn refuses_state(error: &Error) -> bool {
    fault::of(error).is_some_and(|fault| {
        matches!(fault.status, 400 | 403 | 405)
            && fault.code.is_none_or(|code| ![code::PRIVILEGE_DENIED, code::ISV_ABORTED].contains(&code))
    })
}

pub(super) fn invalid(id: &ActivityId, what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("the e-mail {id} {what}"))
}

pub(super) fn too_many_races(what: &str) -> Error {
    let message = format!("{what} is changed by others all the time");
    Error::new(ErrorKind::Busy, message).with_scope(email_router_model::Scope::Message)
}
