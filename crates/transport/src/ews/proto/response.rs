//! What a server answers.

use std::time::Duration;

use email_router_model::Timestamp;

use super::tree::{Node, NotXml, Ns};
use crate::contract::LONGEST_RETRY_DELAY;

/// The response to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Which server answered (`ServerVersionInfo`), where it tells.
    pub server: Option<String>,
    /// One answer for each item that was asked for, in order.
    pub answers: Vec<Answer>,
}

/// A SOAP fault: the request as a whole failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which server answered, where it tells.
    pub server: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The response code: `ErrorItemNotFound`.
    pub code: String,
    /// The server's words.
    pub text: String,
    /// How long the server wants to be left alone (`BackOffMilliseconds`).
    pub back_off: Option<Duration>,
}

/// One response message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What is wrong; `None`: it was done.
    pub problem: Option<Problem>,
    node: Node,
}

/// An item in a response.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Item {
    /// Its id.
    pub id: String,
    /// The key of its present state.
    pub change_key: Option<String>,
    /// `PR_MESSAGE_CLASS`.
    pub class: Option<String>,
    /// When it was received.
    pub received: Option<Timestamp>,
    /// Its size in bytes, as Exchange keeps it.
    pub size: Option<u64>,
    /// The conversation it belongs to.
    pub conversation_id: Option<String>,
    /// Its Message-ID, where that was asked for.
    pub message_id: Option<String>,
}

/// One page of changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Where the next page begins.
    pub state: String,
    /// Whether this page is the last.
    pub last: bool,
    /// Items that are new or changed, in order.
    pub present: Vec<Item>,
    /// Ids of items that left the folder.
    pub gone: Vec<String>,
}

/// Reads a response; `Ok(Err(_))` is a fault.
///
/// # Errors
/// [`NotXml`] where it is neither.
pub fn read(document: &[u8]) -> Result<Result<Reply, Fault>, NotXml> {
    let envelope = Node::parse(document)?;
    if !envelope.is(Ns::Soap, "Envelope") {
        return Err(NotXml(format!("no SOAP envelope but <{}>", envelope.name())));
    }
    let server = envelope
        .child(Ns::Soap, "Header")
        .and_then(|header| header.find(Ns::Types, "ServerVersionInfo"))
        .map(server_version);
    let body = envelope.child(Ns::Soap, "Body").and_then(|body| body.children().first());
    let Some(content) = body else { return Err(NotXml("a SOAP envelope without a body".to_owned())) };
    if content.is(Ns::Soap, "Fault") {
        return Ok(Err(Fault { server, problem: fault(content) }));
    }
    let answers = match content.child(Ns::Messages, "ResponseMessages") {
        Some(messages) => messages.children().iter().map(|node| Answer::of(node.clone())).collect(),
        // the operations on rules answer without the list
        None => vec![Answer::of(content.clone())],
    };
    Ok(Ok(Reply { server, answers }))
}

/// `15.2.1544.4`, or with the schema's name behind it.
fn server_version(info: &Node) -> String {
    let parts = ["MajorVersion", "MinorVersion", "MajorBuildNumber", "MinorBuildNumber"];
    let numbers: Vec<&str> = parts.iter().filter_map(|part| info.attribute(part)).collect();
    let version = info.attribute("Version").map(|v| format!(" ({v})")).unwrap_or_default();
    format!("{}{version}", numbers.join("."))
}

fn fault(node: &Node) -> Problem {
    let code = node.find(Ns::Errors, "ResponseCode").map(|code| code.text().trim().to_owned());
    let code = code.or_else(|| {
        // no details: the name behind the prefix of the fault code
        let code = node.child_named("faultcode")?.text().trim();
        Some(code.rsplit(':').next().unwrap_or(code).to_owned())
    });
    let text = node.child_named("faultstring").map(Node::text);
    let text = text.or_else(|| node.find(Ns::Errors, "Message").map(Node::text));
    Problem {
        code: code.unwrap_or_default(),
        text: text.unwrap_or_default().trim().to_owned(),
        back_off: back_off(node),
    }
}

/// `<Value Name="BackOffMilliseconds"> 30000 </Value>`, in a fault's details and in a response message.
fn back_off(node: &Node) -> Option<Duration> {
    if node.name() == "Value" && node.attribute("Name") == Some("BackOffMilliseconds") {
        let milliseconds: u64 = node.text().trim().parse().ok()?;
        return Some(Duration::from_millis(milliseconds).min(LONGEST_RETRY_DELAY));
    }
    node.children().iter().find_map(back_off)
}

impl Answer {
    fn of(node: Node) -> Self {
        let code = node.text_of(Ns::Messages, "ResponseCode").unwrap_or("");
        // a warning ("batch processing stopped") did not do it either
        let done = code == "NoError" || code.is_empty() && node.attribute("ResponseClass") == Some("Success");
        let problem = (!done).then(|| Problem {
            code: code.to_owned(),
            text: node.text_of(Ns::Messages, "MessageText").unwrap_or_default().to_owned(),
            back_off: node.child(Ns::Messages, "MessageXml").and_then(back_off),
        });
        Self { problem, node }
    }

    /// The response message itself.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    fn in_list(&self, list: &str) -> &[Node] {
        let list = self.node.child(Ns::Messages, list).or_else(|| self.node.find(Ns::Types, list));
        list.map_or(&[], Node::children)
    }

    /// The items in it.
    #[must_use]
    pub fn items(&self) -> Vec<Item> {
        self.in_list("Items").iter().filter_map(item).collect()
    }

    /// The number of the MIME content of its first item, as the carver counted.
    #[must_use]
    pub fn mime(&self) -> Option<usize> {
        let content = self.in_list("Items").first()?.child(Ns::Types, "MimeContent")?;
        // markup in the base64 has cut it short
        content.children().is_empty().then(|| content.text().parse().ok())?
    }

    /// The header section of its first item: as it came, else put together from the fields that Exchange lists; `None` where it has neither, as
    /// messages that never left the organization.
    #[must_use]
    pub fn headers(&self) -> Option<String> {
        let item = self.in_list("Items").first()?;
        let wanted = |node: &&Node| {
            node.is(Ns::Types, "ExtendedProperty")
                && node.child(Ns::Types, "ExtendedFieldURI").is_some_and(|uri| {
                    uri.attribute("PropertyTag").is_some_and(|tag| {
                        let tag = tag.trim();
                        let hex = tag.strip_prefix("0x").or_else(|| tag.strip_prefix("0X"));
                        let number = hex.map_or(tag.parse(), |hex| u32::from_str_radix(hex, 16));
                        number == Ok(super::request::TRANSPORT_HEADERS)
                    })
                })
        };
        let as_it_came = item.children().iter().find(wanted).and_then(|p| p.child(Ns::Types, "Value"));
        if let Some(section) = as_it_came.map(Node::text).filter(|text| !text.trim().is_empty()) {
            return Some(header_section(section));
        }
        let fields = item.child(Ns::Types, "InternetMessageHeaders")?.children();
        let section: String = fields
            .iter()
            .filter_map(|field| Some((field.attribute("HeaderName")?, field.text())))
            .filter(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':'))
            .map(|(name, value)| format!("{name}: {}\r\n", value.trim().replace(['\r', '\n'], " ")))
            .collect();
        (!section.is_empty()).then(|| section + "\r\n")
    }

    /// The folders in it: id and number of items.
    #[must_use]
    pub fn folders(&self) -> Vec<(String, Option<u64>)> {
        let folders = self.in_list("Folders").iter();
        folders
            .filter_map(|folder| {
                let id = folder.child(Ns::Types, "FolderId")?.attribute("Id")?.to_owned();
                Some((id, folder.text_of(Ns::Types, "TotalCount").and_then(|count| count.parse().ok())))
            })
            .collect()
    }

    /// The page of changes in it; `None` where it has no state, without which nothing can follow.
    #[must_use]
    pub fn changes(&self) -> Option<Changes> {
        let state = self.node.text_of(Ns::Messages, "SyncState")?.to_owned();
        // a server that does not say so has no more
        let last = self.node.child(Ns::Messages, "IncludesLastItemInRange").is_none()
            || self.node.is_true(Ns::Messages, "IncludesLastItemInRange");
        let mut changes = Changes { state, last, ..Changes::default() };
        for change in self.in_list("Changes") {
            match change.name() {
                "Create" | "Update" => changes.present.extend(change.children().iter().filter_map(item)),
                "Delete" => {
                    let id = change.child(Ns::Types, "ItemId").and_then(|id| id.attribute("Id"));
                    changes.gone.extend(id.map(str::to_owned));
                }
                _ => {}
            }
        }
        Some(changes)
    }

    /// The id of a new subscription.
    #[must_use]
    pub fn subscription(&self) -> Option<&str> {
        self.node.text_of(Ns::Messages, "SubscriptionId")
    }

    /// Whether it tells of mail that came into the folder.
    #[must_use]
    pub fn tells_of_mail(&self) -> bool {
        ["NewMailEvent", "CreatedEvent", "MovedEvent"]
            .iter()
            .any(|event| self.node.find(Ns::Types, event).is_some())
    }

    /// Whether the server has ended the wait.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.node.text_of(Ns::Messages, "ConnectionStatus") == Some("Closed")
    }
}

fn item(node: &Node) -> Option<Item> {
    let id = node.child(Ns::Types, "ItemId")?;
    let text = |name| node.text_of(Ns::Types, name);
    Some(Item {
        id: id.attribute("Id").filter(|id| !id.is_empty())?.to_owned(),
        change_key: id.attribute("ChangeKey").map(str::to_owned),
        class: text("ItemClass").map(str::to_owned),
        received: text("DateTimeReceived").and_then(|time| time.parse().ok()),
        size: text("Size").and_then(|size| size.parse().ok()),
        conversation_id: node
            .child(Ns::Types, "ConversationId")
            .and_then(|id| id.attribute("Id"))
            .map(str::to_owned),
        message_id: text("InternetMessageId").map(str::to_owned),
    })
}

/// XML makes every line end LF; and MAPI puts a line of its own before the fields.
fn header_section(text: &str) -> String {
    let text = match text.split_once('\n') {
        Some((first, rest)) if first.starts_with("Microsoft Mail Internet Headers") => rest,
        _ => text,
    };
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        let line = line.trim_end_matches(['\r', '\n']);
        out.push_str(line);
        out.push_str("\r\n");
        if line.is_empty() {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const NS: &str = "xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
                      xmlns:m=\"http://schemas.microsoft.com/exchange/services/2006/messages\" \
                      xmlns:t=\"http://schemas.microsoft.com/exchange/services/2006/types\"";

    fn reply(body: &str) -> Reply {
        let text = format!("<s:Envelope {NS}><s:Body>{body}</s:Body></s:Envelope>");
        read(text.as_bytes()).unwrap().unwrap()
    }

    fn answer(inside: &str) -> Answer {
        let message = format!(
            "<m:XResponseMessage ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>{inside}</m:XResponseMessage>"
        );
        let text = format!("<m:XResponse><m:ResponseMessages>{message}</m:ResponseMessages></m:XResponse>");
        reply(&text).answers.remove(0)
    }

    #[test]
    fn faults() {
        let read_fault = |inside: &str| {
            let text = format!("<s:Envelope {NS}><s:Body><s:Fault>{inside}</s:Fault></s:Body></s:Envelope>");
            read(text.as_bytes()).unwrap().unwrap_err().problem
        };
        let detail = "<detail><e:ResponseCode xmlns:e=\"http://schemas.microsoft.com/exchange/services/2006/errors\"> ErrorServerBusy </e:ResponseCode>\
                      <t:MessageXml><t:Value Name=\"BackOffMilliseconds\">\r\n 1500 \r\n</t:Value></t:MessageXml></detail>";
        for (inside, code, text, back_off) in [
            (
                format!("<faultcode>a:ErrorX</faultcode><faultstring> busy </faultstring>{detail}"),
                "ErrorServerBusy",
                "busy",
                Some(1500),
            ),
            (
                "<faultcode xmlns:a=\"urn:x\">a:ErrorSchemaValidation</faultcode><faultstring/>".to_owned(),
                "ErrorSchemaValidation",
                "",
                None,
            ),
            (String::new(), "", "", None),
            (detail.replace("1500", "-1"), "ErrorServerBusy", "", None),
            (
                detail.replace("1500", "99999999999999"),
                "ErrorServerBusy",
                "",
                Some(LONGEST_RETRY_DELAY.as_millis() as u64),
            ),
        ] {
            let problem = read_fault(&inside);
            let told = (problem.code.as_str(), problem.text.as_str(), problem.back_off);
            assert_eq!(told, (code, text, back_off.map(Duration::from_millis)), "{inside}");
        }
    }

    #[test]
    fn each_answer_tells_whether_it_was_done() {
        let answers = reply(
            "<m:GetItemResponse><m:ResponseMessages>\
             <m:GetItemResponseMessage ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode><m:Items/></m:GetItemResponseMessage>\
             <m:GetItemResponseMessage ResponseClass=\"Error\"><m:MessageText>gone</m:MessageText><m:ResponseCode>ErrorItemNotFound</m:ResponseCode></m:GetItemResponseMessage>\
             <m:GetItemResponseMessage ResponseClass=\"Warning\"><m:ResponseCode>ErrorBatchProcessingStopped</m:ResponseCode></m:GetItemResponseMessage>\
             <m:GetItemResponseMessage ResponseClass=\"Success\"/>\
             <m:GetItemResponseMessage/>\
             </m:ResponseMessages></m:GetItemResponse>",
        )
        .answers;
        let codes: Vec<_> = answers.iter().map(|a| a.problem.as_ref().map(|p| p.code.as_str())).collect();
        let due = [None, Some("ErrorItemNotFound"), Some("ErrorBatchProcessingStopped"), None, Some("")];
        assert_eq!(codes, due);
        assert_eq!(answers[1].problem.as_ref().unwrap().text, "gone");
    }

    #[test]
    fn header_sections() {
        let property = |tag: &str, text: &str| {
            format!(
                "<t:ExtendedProperty><t:ExtendedFieldURI PropertyTag=\"{tag}\" PropertyType=\"String\"/><t:Value>{text}</t:Value></t:ExtendedProperty>"
            )
        };
        let fields = "<t:InternetMessageHeaders><t:InternetMessageHeader HeaderName=\"Subject\"> x\n y</t:InternetMessageHeader>\
                      <t:InternetMessageHeader HeaderName=\"bad name:\">z</t:InternetMessageHeader></t:InternetMessageHeaders>";
        for (item, due) in [
            (property("0x7d", "Subject: x\n y\nTo: z\n\n"), Some("Subject: x\r\n y\r\nTo: z\r\n\r\n")),
            (property("0x007D", "Subject: x\r\n\r\nbody"), Some("Subject: x\r\n\r\n")),
            (property("125", "Subject: x"), Some("Subject: x\r\n")),
            (
                property("0x7d", "Microsoft Mail Internet Headers Version 2.0\nSubject: x\n\n"),
                Some("Subject: x\r\n\r\n"),
            ),
            (format!("{fields}{}", property("0x1035", "no header")), Some("Subject: x  y\r\n\r\n")),
            (format!("{fields}{}", property("0x7d", " \n")), Some("Subject: x  y\r\n\r\n")),
            (String::new(), None),
        ] {
            let answer = answer(&format!("<m:Items><t:Message>{item}</t:Message></m:Items>"));
            assert_eq!(answer.headers().as_deref(), due, "{item}");
        }
    }

    #[test]
    fn items_of_every_class_and_what_is_odd() {
        let answer = answer(
            "<m:Items><t:Message><t:ItemId Id=\"A=\" ChangeKey=\"K\"/><t:ItemClass>IPM.Note</t:ItemClass><t:DateTimeReceived>2026-11-25T10:00:00+01:00</t:DateTimeReceived>\
             <t:Size>12</t:Size></t:Message><t:MeetingRequest><t:ItemId Id=\"B=\"/><t:Size>-3</t:Size><t:DateTimeReceived>never</t:DateTimeReceived></t:MeetingRequest>\
             <t:Unheard><t:ItemId Id=\"\"/></t:Unheard><t:Task/></m:Items>",
        );
        let items = answer.items();
        assert_eq!(items.len(), 2);
        assert_eq!((items[0].size, items[0].class.as_deref()), (Some(12), Some("IPM.Note")));
        assert_eq!(items[0].received, "2026-11-25T09:00:00Z".parse().ok());
        assert_eq!(items[1], Item { id: "B=".to_owned(), ..Item::default() });
    }

    #[test]
    fn changes() {
        let page = answer(
            "<m:SyncState>S</m:SyncState><m:IncludesLastItemInRange>false</m:IncludesLastItemInRange><m:Changes>\
             <t:Create><t:Contact><t:ItemId Id=\"A\"/></t:Contact></t:Create><t:Update><t:Message><t:ItemId Id=\"B\"/></t:Message></t:Update>\
             <t:Delete><t:ItemId Id=\"C\"/></t:Delete><t:ReadFlagChange><t:ItemId Id=\"D\"/><t:IsRead>true</t:IsRead></t:ReadFlagChange><t:New/></m:Changes>",
        );
        let changes = page.changes().unwrap();
        let present: Vec<_> = changes.present.iter().map(|item| item.id.as_str()).collect();
        assert_eq!((changes.state.as_str(), changes.last), ("S", false));
        assert_eq!((present, changes.gone), (vec!["A", "B"], vec!["C".to_owned()]));
        assert!(answer("<m:SyncState/>").changes().is_none());
        assert!(answer("<m:SyncState>S</m:SyncState>").changes().unwrap().last);
    }

    #[test]
    fn what_is_no_answer() {
        for text in ["", "<a/>", "<html></html>", "<Envelope><Body/></Envelope>"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        let empty = format!("<s:Envelope {NS}><s:Body/></s:Envelope>");
        assert!(read(empty.as_bytes()).is_err());
    }
}
