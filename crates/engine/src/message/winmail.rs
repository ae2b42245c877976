//! `winmail.dat`: what is in it instead of it.

use bytes::Bytes;
use email_router_tnef::{Content, Limits, Message};

use super::content::{BOTH, Gathered, MAIN, PLAIN};
use super::mime::Part;
use super::{fields, file_name};

/// Whether a part is one: by its type, else by the name that Outlook gives it.
pub(super) fn is_winmail(part: &Part) -> bool {
    match part.mime_type.as_str() {
        "application/ms-tnef" | "application/vnd.ms-tnef" => true,
        "application/octet-stream" => {
            part.file_name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case("winmail.dat"))
        }
        _ => false,
    }
}

/// Adds the body and the attachments that a `winmail.dat` holds. `false`: it holds more than could be taken out of it, so it should be kept.
pub(super) fn unpack(gathered: &mut Gathered, bytes: &Bytes) -> bool {
    let mut limits = Limits::default();
    // with room for itself, should it have to be kept
    limits.max_attachments = gathered.room().saturating_sub(2);
    limits.max_recipients = gathered.caps.max_recipients;
    let tnef = match email_router_tnef::parse(bytes, &limits) {
        Ok(tnef) => tnef,
        Err(error) => {
            gathered.note(format!("winmail.dat: {error}; it was kept as it is"));
            return false;
        }
    };
    for defect in &tnef.defects {
        gathered.note(format!("winmail.dat: {defect}; it was kept beside what was read of it"));
    }
    if !tnef.message.is_note() {
        let class = fields::clean_line(tnef.message.class.as_deref().unwrap_or_default(), 100);
        gathered.note(format!(
            "winmail.dat: holds more than mail, a {class}; it was kept beside what was read of it"
        ));
    }
    let complete = tnef.is_complete();
    let Message { text, html, rtf, attachments, .. } = tnef.message;
    let (has_text, has_html) = gathered.has_text();
    let mut all = true;
    match (html, text) {
        (Some(_), _) if has_html => {
            all = false;
            gathered.note(
                "winmail.dat: has a second formatted body; it was kept beside what was read of it".to_owned(),
            );
        }
        // what stands before it is the same in plain text
        (Some(html), text) => {
            gathered.demote_texts();
            if let Some(text) = text.filter(|_| !has_text) {
                gathered.add_text(text, false, PLAIN);
            }
            gathered.add_text(html, true, MAIN);
        }
        (None, Some(text)) if !has_text => gathered.add_text(text, false, BOTH),
        _ => {}
    }
    if let Some(rtf) = rtf {
        gathered
            .attach("message.rtf".to_owned(), "application/rtf".to_owned(), None, rtf.len(), || rtf.into());
    }
    for attachment in attachments {
        let name = attachment.name.as_deref().and_then(file_name::sanitize);
        let mime_type = attachment.mime_type.map(|t| t.to_ascii_lowercase());
        let content_id = attachment.content_id.map(|id| fields::clean_line(&id, 998));
        match attachment.content {
            Content::Data(data) => {
                let mime_type = mime_type.filter(|t| t.len() <= 255 && t.contains('/'));
                let mime_type = mime_type.unwrap_or_else(|| "application/octet-stream".to_owned());
                let name =
                    name.unwrap_or_else(|| format!("attachment.{}", file_name::extension_of(&mime_type)));
                gathered.attach(name, mime_type, content_id, data.len(), || bytes.slice_ref(data));
            }
            Content::Ole(data) => {
                let name = name.unwrap_or_else(|| "object".to_owned());
                let name = if file_name::extension(&name).is_some() { name } else { format!("{name}.ole") };
                gathered.attach(name, "application/x-oleobject".to_owned(), content_id, data.len(), || {
                    bytes.slice_ref(data)
                });
            }
            Content::Message(message) => {
                let name = file_name::of_message(message.subject.as_deref().or(name.as_deref()));
                let most = usize::try_from(gathered.settings.max_upload_file_size).unwrap_or(usize::MAX);
                match message.to_internet_message(most) {
                    Some(mail) => {
                        gathered.attach(name, "message/rfc822".to_owned(), None, mail.len(), || mail.into());
                    }
                    None => gathered.note(format!(
                        "attachment {name:?}: is larger than the {most} bytes that may be stored"
                    )),
                }
            }
            Content::Missing => {}
        }
    }
    complete && all
}
