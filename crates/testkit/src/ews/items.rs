//! An item as an answer tells it, and made out of a request.

use std::collections::HashSet;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::ops::Caller;
use super::store::{self, Folder, Item};
use super::xml::{Element, escape};

/// Which properties of an item are told.
pub(super) struct Shape {
    all: bool,
    mime: bool,
    fields: HashSet<String>,
    tags: Vec<(String, String)>,
    /// A listing tells less than `GetItem`.
    listing: bool,
}

impl Shape {
    pub(super) fn of(request: &Element, listing: bool) -> Self {
        let shape = request.child("m:ItemShape").cloned().unwrap_or_default();
        let mut fields = Vec::new();
        shape.all("t:FieldURI", &mut fields);
        let fields: HashSet<String> =
            fields.iter().filter_map(|f| f.attribute("FieldURI")).map(str::to_owned).collect();
        let mut tags = Vec::new();
        shape.all("t:ExtendedFieldURI", &mut tags);
        let tags = tags
            .iter()
            .filter_map(|t| {
                Some((t.attribute("PropertyTag")?.to_owned(), t.attribute("PropertyType")?.to_owned()))
            })
            .collect();
        let mime = matches!(shape.text_of("t:IncludeMimeContent"), Some("true" | "1"))
            || fields.contains("item:MimeContent");
        Self {
            all: shape.text_of("t:BaseShape") != Some("IdOnly"),
            mime: mime && !listing,
            fields,
            tags,
            listing,
        }
    }

    fn has(&self, field: &str) -> bool {
        self.all || self.fields.contains(field)
    }
}

fn time(seconds: i64) -> String {
    // civil date from days, after the well-known algorithm of the proleptic Gregorian calendar
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

pub(super) fn item_xml(caller: &Caller, folder: &Folder, item: &Item, shape: &Shape) -> String {
    let mut xml = "<t:Message>".to_owned();
    let mut tell = |wanted: bool, text: String| {
        if wanted {
            xml += &text;
        }
    };
    let field = |name: &str| store::header(&item.mime, name).unwrap_or_default();
    let mailboxes = |value: &str| -> String {
        let one = |a: &String| {
            format!(
                "<t:Mailbox><t:Name>{a}</t:Name><t:EmailAddress>{a}</t:EmailAddress><t:RoutingType>SMTP</t:RoutingType></t:Mailbox>"
            )
        };
        store::addresses(value).iter().map(|a| one(&escape(a))).collect()
    };
    tell(
        shape.mime,
        format!(
            "<t:MimeContent CharacterSet=\"UTF-8\">{}</t:MimeContent>",
            BASE64_STANDARD.encode(&item.mime)
        ),
    );
    tell(
        true,
        format!(
            "<t:ItemId Id=\"{}\" ChangeKey=\"{}\"/>",
            item.id,
            BASE64_STANDARD.encode(item.change_key.to_be_bytes())
        ),
    );
    tell(
        shape.has("item:ParentFolderId"),
        format!("<t:ParentFolderId Id=\"{}\" ChangeKey=\"AQ==\"/>", folder.id),
    );
    tell(shape.has("item:ItemClass"), format!("<t:ItemClass>{}</t:ItemClass>", escape(&item.class)));
    let illegal = if caller.illegal_characters { "&#x8;" } else { "" };
    tell(
        shape.has("item:Subject") || caller.illegal_characters,
        format!("<t:Subject>{illegal}{}</t:Subject>", escape(&field("Subject"))),
    );
    let body = String::from_utf8_lossy(&item.mime[store::section(&item.mime).len()..]).into_owned();
    tell(
        shape.has("item:Body") && !shape.listing,
        format!("<t:Body BodyType=\"Text\">{}</t:Body>", escape(body.trim_start())),
    );
    tell(
        shape.has("item:DateTimeReceived"),
        format!("<t:DateTimeReceived>{}</t:DateTimeReceived>", time(item.received)),
    );
    tell(shape.has("item:Size"), format!("<t:Size>{}</t:Size>", item.mime.len()));
    if shape.has("item:InternetMessageHeaders") && !shape.listing && item.transport_headers {
        let section = String::from_utf8_lossy(store::section(&item.mime))
            .replace("\r\n", "\n")
            .replace("\n ", " ")
            .replace("\n\t", " ");
        let fields: String = section
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| {
                format!(
                    "<t:InternetMessageHeader HeaderName=\"{}\">{}</t:InternetMessageHeader>",
                    escape(name),
                    escape(value.trim())
                )
            })
            .collect();
        tell(!fields.is_empty(), format!("<t:InternetMessageHeaders>{fields}</t:InternetMessageHeaders>"));
    }
    tell(shape.has("item:DateTimeSent"), format!("<t:DateTimeSent>{}</t:DateTimeSent>", time(item.received)));
    tell(
        shape.has("item:DateTimeCreated"),
        format!("<t:DateTimeCreated>{}</t:DateTimeCreated>", time(item.received)),
    );
    tell(shape.has("item:HasAttachments"), "<t:HasAttachments>false</t:HasAttachments>".to_owned());
    for (tag, kind) in &shape.tags {
        let number = tag.strip_prefix("0x").or_else(|| tag.strip_prefix("0X"));
        let number = number.map_or(tag.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok());
        let value = match number {
            Some(0x7d) if item.transport_headers && !shape.listing => {
                escape(&String::from_utf8_lossy(store::section(&item.mime)))
            }
            Some(0x1035) => escape(&field("Message-ID")),
            Some(0x0e08) => item.mime.len().to_string(),
            Some(0x0e23) => item.change_key.to_string(),
            Some(0x0e07) => "0".to_owned(),
            Some(0x0ff9) => BASE64_STANDARD.encode(item.id.as_bytes()),
            _ => continue,
        };
        tell(
            true,
            format!(
                "<t:ExtendedProperty><t:ExtendedFieldURI PropertyTag=\"{tag}\" PropertyType=\"{kind}\"/><t:Value>{value}</t:Value></t:ExtendedProperty>"
            ),
        );
    }
    tell(
        shape.has("item:ConversationId"),
        format!("<t:ConversationId Id=\"{}\"/>", BASE64_STANDARD.encode(field("Subject"))),
    );
    tell(
        shape.has("message:ToRecipients") && !shape.listing,
        format!("<t:ToRecipients>{}</t:ToRecipients>", mailboxes(&field("To"))),
    );
    let from = mailboxes(&field("From"));
    tell(shape.has("message:From") && !from.is_empty(), format!("<t:From>{from}</t:From>"));
    tell(
        shape.has("message:InternetMessageId"),
        format!("<t:InternetMessageId>{}</t:InternetMessageId>", escape(&field("Message-ID"))),
    );
    tell(shape.has("message:IsRead"), format!("<t:IsRead>{}</t:IsRead>", item.read));
    xml + "</t:Message>"
}

/// A message put together from properties, for clients that send no MIME.
pub(super) fn build(caller: &Caller, item: &Element, n: u64) -> Vec<u8> {
    let list = |name: &str| -> Vec<String> {
        let mut found = Vec::new();
        if let Some(list) = item.child(name) {
            list.all("t:EmailAddress", &mut found);
        }
        found.iter().map(|e| e.text.trim().to_owned()).collect()
    };
    let from = list("t:From").pop().unwrap_or_else(|| caller.me.clone());
    let mut mime = format!("From: {from}\r\nTo: {}\r\n", list("t:ToRecipients").join(", "));
    if !list("t:CcRecipients").is_empty() {
        let _ = write!(mime, "Cc: {}\r\n", list("t:CcRecipients").join(", "));
    }
    let subject = item.text_of("t:Subject").unwrap_or_default();
    let body = item.text_of("t:Body").unwrap_or_default();
    let _ = write!(mime, "Subject: {subject}\r\nMessage-ID: <made-{n}@exchange.test>\r\n\r\n{body}\r\n");
    mime.into_bytes()
}
