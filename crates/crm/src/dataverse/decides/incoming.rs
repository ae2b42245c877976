//! Received mail: asked about, delivered once.

use email_router_model::{ActivityId, EmailAddress, RecordRef};
use uuid::Uuid;

use super::ServerDecides;
use super::service::{Cell, Condition, Delivery, Envelope, Fetch};
use crate::dataverse::mirror::Note;
use crate::dataverse::web_api::fault::{self, code};
use crate::{
    CrmClient as _, Delivered, Error, ErrorKind, IncomingCheck, IncomingEmail, ParticipationType, ReasonCode,
    Result, Verdict, stand_in_message_id,
};

/// What the server says to a message that it has, or does not want: CannotAcceptEmail with its reason, or the key of the table (2.8).
const MAYBE_THERE: [i32; 2] = [code::hex(0x8005_e20b), code::DUPLICATE_RECORD];

impl ServerDecides {
    pub(super) async fn check(&self, message: &IncomingCheck) -> Result<Verdict> {
        let from = std::slice::from_ref(&message.from);
        let lists = [from, &message.to, &message.cc, &message.bcc];
        let email = Envelope::new(message.message_id.as_str(), &message.subject, lists);
        let (deliver, reason) = self.0.service.check_incoming_email(&email).await?;
        let reason = ReasonCode::from_code(reason);
        Ok(if deliver { Verdict::Deliver(reason) } else { Verdict::Discard(reason) })
    }

    /// Whether the e-mail that a message becomes was delivered, also where the answer to its delivery was lost.
    pub(super) async fn was_delivered(&self, id: &ActivityId) -> Result<bool> {
        let Some(note) = self.0.mirror.note(id).await? else { return Ok(false) };
        match (note.activity, note.begun_on, &note.message_id) {
            (Some(_), ..) => Ok(true),
            (None, Some(_), Some(message_id)) => match self.received(message_id).await? {
                Some(activity) => {
                    self.keep_delivered(id, activity).await?;
                    Ok(true)
                }
                None => Ok(false),
            },
            _ => Ok(false),
        }
    }

    async fn keep_delivered(&self, id: &ActivityId, activity: Uuid) -> Result<()> {
        let now = self.now();
        let change = move |note: &mut Note| {
            note.activity = Some(activity);
            note.begun_on = None;
            note.delivered_on = Some(now);
        };
        self.0.mirror.update_note(id, change).await
    }

    pub(super) async fn deliver(&self, email: IncomingEmail) -> Result<Delivered> {
        let id = email.activity_id;
        let _turn = self.turn(id.as_uuid()).await;
        let note = self.0.mirror.note(&id).await?.unwrap_or_default();
        if let Some(activity) = note.activity {
            return self.queue_again(activity, &email.queues).await;
        }
        let bad = |what: &str| {
            Error::new(ErrorKind::Invalid, format!("{}: the e-mail {id} {what}", self.0.service.place()))
        };
        let of = |kind: ParticipationType| -> Vec<EmailAddress> {
            email
                .parties
                .iter()
                .filter(|p| p.participation == kind)
                .filter_map(|p| p.address.clone())
                .collect()
        };
        let from = of(ParticipationType::Sender);
        if from.len() != 1 {
            return Err(bad("has not exactly one sender with an address"));
        }
        let message_id = email.message_id.clone().or_else(|| stand_in_message_id(id));
        let message_id = message_id.ok_or_else(|| bad("has no identity"))?;
        // an earlier delivery had no answer: it may have got through
        if note.begun_on.is_some()
            && let Some(activity) = self.received(&message_id).await?
        {
            self.keep_delivered(&id, activity).await?;
            return Ok(Delivered::AlreadyThere);
        }
        let (now, kept) = (self.now(), message_id.clone());
        let begin = move |note: &mut Note| {
            note.begun_on = Some(now);
            note.message_id = Some(kept);
        };
        self.0.mirror.update_note(&id, begin).await?;
        let lists = [from, of(ParticipationType::To), of(ParticipationType::Cc), of(ParticipationType::Bcc)];
        let submitted_by = email.submitted_by.as_ref().map(EmailAddress::as_str).unwrap_or_default();
        let mut delivery = Delivery {
            envelope: Envelope::new(message_id.as_str(), &email.subject, lists.each_ref().map(Vec::as_slice)),
            received_on: email.received_on.or(email.sent_on).unwrap_or(now),
            submitted_by,
            importance: email.priority.code().to_string(),
            body: &email.body,
            attachments: &email.attachments,
            content_ids: !self.is_missing("activitymimeattachment", "attachmentcontentid"),
        };
        let activity = loop {
            match self.0.service.deliver_incoming_email(&delivery).await {
                Ok(activity) => break activity,
                Err(error) if self.learn("activitymimeattachment", &error).is_some() => {
                    delivery.content_ids = false;
                }
                Err(error) if fault::is(&error, &MAYBE_THERE) => match self.received(&message_id).await? {
                    Some(activity) => {
                        self.keep_delivered(&id, activity).await?;
                        return Ok(Delivered::AlreadyThere);
                    }
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            }
        };
        self.keep_delivered(&id, activity).await?;
        // for the answers to it: the CRM does not keep References
        let about = Note { delivered_on: Some(now), ..Note::of(&email, false) };
        self.0.mirror.update_note(&ActivityId::from_uuid(activity), move |note| *note = about).await?;
        Ok(Delivered::Created)
    }

    /// An e-mail that is there gets items of queues that it has none of, where the organization wants that (7.4).
    async fn queue_again(&self, activity: Uuid, queues: &[Uuid]) -> Result<Delivered> {
        if !queues.is_empty()
            && self.settings().await?.create_additional_queue_items_for_already_tracked_email
        {
            let query = Fetch::new("queueitem", &["queueid"])
                .with(Condition::new("objectid", "eq", [activity.to_string()]))
                .with(Condition::new("statecode", "eq", ["0".to_owned()]));
            let rows = self.rows(query, 10_000).await?;
            let mut there: Vec<Uuid> = rows.iter().filter_map(|row| row.id("queueid")).collect();
            for queue in queues {
                if there.contains(queue) {
                    continue;
                }
                there.push(*queue);
                let values = [
                    ("queueid", Cell::Reference(RecordRef::new("queue", *queue))),
                    ("objectid", Cell::Reference(RecordRef::new("email", activity))),
                ];
                match self.0.service.create("queueitem", &values).await {
                    Err(error)
                        if !fault::is(&error, &[code::QUEUE_ITEM_EXISTS, code::EMAIL_IN_QUEUE_ALREADY]) =>
                    {
                        return Err(error);
                    }
                    _ => {}
                }
            }
        }
        Ok(Delivered::AlreadyThere)
    }
}
