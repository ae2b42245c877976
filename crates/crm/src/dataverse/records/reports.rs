//! Notes on e-mails, in the mirror and in the note column, and what mail systems report about recipients.

use email_router_model::ActivityId;
use serde_json::{Value, json};

use super::RouterDecides;
use super::outgoing::{RACES, invalid, refuses_state, too_many_races, version};
use crate::dataverse::mirror::Note;
use crate::dataverse::web_api::fault;
use crate::{DeliveryReport, Result};

impl RouterDecides {
    pub(crate) async fn record_delivery(&self, report: &DeliveryReport) -> Result<bool> {
        let id = report.activity_id;
        let outgoing = match self.mirror.email(&id).await? {
            Some(email) => email.summary.outgoing,
            None => {
                let path = format!("emails({id})?$select=directioncode");
                let row = self.session.get(&path, "reading the e-mail of a delivery report").await?;
                row.get("directioncode").and_then(Value::as_bool) != Some(false)
            }
        };
        if !outgoing {
            return Err(invalid(&id, "was received; nothing is reported about it"));
        }
        let report = report.clone();
        self.change_note(&id, move |note| note.record(&report)).await
    }

    /// What another router has written about an e-mail.
    pub(super) fn column_note(&self, row: &Value) -> Option<Note> {
        let column = self.session.settings().note_column.as_deref()?;
        Note::from_json(row.get(column)?.as_str()?)
    }

    /// Changes a note: in the mirror, and where there is one in the note column, whose note is taken in first, so that several routers add to one note and
    /// none takes back what another has written.
    pub(super) async fn change_note<T, F>(&self, id: &ActivityId, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&mut Note) -> T + Clone + Send + 'static,
    {
        let Some(column) = &self.session.settings().note_column else {
            return self.mirror.update_note(id, change).await;
        };
        let doing = "keeping a note on an e-mail";
        let path = format!("emails({id})?$select=activityid,{column}");
        for _ in 0..RACES {
            let row = self.session.get(&path, doing).await?;
            if let Some(theirs) = self.column_note(&row) {
                self.mirror.newer_note(id, theirs).await?;
            }
            let before = self.mirror.note(id).await?.unwrap_or_default();
            let mut note = before.clone();
            let result = change(&mut note);
            let Some(version) = version(&row).filter(|_| note != before) else { return Ok(result) };
            note.touch(&before, self.now());
            let text = note.to_json(self.tables.email_length(column).unwrap_or(4000));
            match self.patch_own(id, &json!({ column: text }), version, doing).await {
                Err(error) if fault::has_status(&error, 412) => continue,
                // a completed e-mail may be read-only (5.1); the mirror has the note
                Err(error) if refuses_state(&error) => {
                    tracing::debug!(email = %id, "only the mirror keeps the note: {error}");
                }
                other => other?,
            }
            self.mirror.update_note(id, change).await?;
            return Ok(result);
        }
        Err(too_many_races(&format!("the e-mail {id}")))
    }
}
