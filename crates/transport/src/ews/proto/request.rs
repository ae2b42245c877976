//! The operations, as the published schema (`messages.xsd`, `types.xsd`) orders their elements.
//!
//! What a server of a version does not know is left out for that version, each with the name of the version it came with.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use email_router_model::{EmailAddress, MessageId};

use super::version::Version;
use super::xml::Xml;
use crate::rules::{ForwardRule, RuleCondition};

/// The content type of requests.
pub const CONTENT_TYPE: &str = "text/xml; charset=utf-8";

/// A folder in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder<'a> {
    /// One that every mailbox has, by its name in the schema (`inbox`, `msgfolderroot`, `sentitems`), of this mailbox, or of whoever asks.
    Distinguished(&'static str, Option<&'a EmailAddress>),
    /// One by its id.
    Id(&'a str),
}

/// In whose name a request is made (`ExchangeImpersonation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impersonation<'a> {
    /// By the primary address; the cheapest for the server.
    PrimarySmtpAddress(&'a EmailAddress),
    /// By any address of the mailbox.
    SmtpAddress(&'a EmailAddress),
}

/// How a message is removed (`DisposalType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeleteType {
    /// Into the folder Deleted Items, where its user finds it.
    #[default]
    MoveToDeletedItems,
    /// Into the recoverable items, where its user finds it with "Recover Deleted Items".
    SoftDelete,
    /// For good.
    HardDelete,
}

impl DeleteType {
    fn as_str(self) -> &'static str {
        match self {
            Self::MoveToDeletedItems => "MoveToDeletedItems",
            Self::SoftDelete => "SoftDelete",
            Self::HardDelete => "HardDelete",
        }
    }
}

/// What of a message is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its id and change key alone.
    Id,
    /// Its header section: as it came (`PR_TRANSPORT_MESSAGE_HEADERS`), and as Exchange lists the fields.
    Headers,
    /// All of it as MIME.
    Mime,
}

/// A message to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Sending<'a> {
    /// The message, CRLF line ends.
    pub mime: &'a [u8],
    /// Recipients whom the header does not name.
    pub bcc: &'a [&'a EmailAddress],
    /// The address it is from, where it is not that of whoever sends it.
    pub from: Option<&'a EmailAddress>,
    /// Ask for a delivery receipt.
    pub delivery_receipt: bool,
    /// Where a copy is kept; `None`: nowhere.
    pub copy: Option<Folder<'a>>,
}

/// A change of one rule.
#[derive(Debug, Clone, Copy)]
pub enum RuleChange<'a> {
    /// A new rule, with this priority (1 is the first to be applied).
    Create(&'a ForwardRule, u32),
    /// Another content for the rule of this id, with this priority.
    Set(&'a str, &'a ForwardRule, u32),
    /// No such rule any more.
    Delete(&'a str),
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub enum Operation<'a> {
    /// A folder's name and number of items.
    GetFolder(Folder<'a>),
    /// The folders of this name in a folder.
    FindFolder(Folder<'a>, &'a str),
    /// A new folder for mail in a folder.
    CreateFolder(Folder<'a>, &'a str),
    /// What changed in a folder since a state; at most so many changes, at most 512.
    SyncFolderItems(Folder<'a>, Option<&'a str>, u32),
    /// Items by their ids.
    GetItem(&'a [&'a str], Part),
    /// The first item of a folder.
    FindFirst(Folder<'a>),
    /// The items of a folder with this Message-ID.
    FindMessageId(Folder<'a>, &'a MessageId),
    /// Sends a message.
    CreateItem(Sending<'a>),
    /// Marks an item as read; with its change key where the server wants one.
    MarkRead(&'a str, Option<&'a str>),
    /// Moves an item.
    MoveItem(&'a str, Folder<'a>),
    /// Removes an item.
    DeleteItem(&'a str, DeleteType),
    /// Looks something up in the address book: an address with its kind (`smtp:ann@contoso.com`), or the name by which the directory knows a mailbox.
    ResolveNames(&'a str),
    /// The rules of the inbox; of this mailbox, or of whoever asks.
    GetInboxRules(Option<&'a EmailAddress>),
    /// Changes one rule, with `RemoveOutlookRuleBlob`.
    UpdateInboxRules(Option<&'a EmailAddress>, RuleChange<'a>, bool),
    /// Asks to be told of new mail in a folder.
    Subscribe(Folder<'a>),
    /// Waits for events of a subscription, so many minutes: 1 to 30.
    GetStreamingEvents(&'a str, u32),
    /// Ends a subscription.
    Unsubscribe(&'a str),
}

/// `PR_TRANSPORT_MESSAGE_HEADERS` \[MS-OXPROPS\].
pub(super) const TRANSPORT_HEADERS: u32 = 0x007D;

impl Operation<'_> {
    /// The name of the request element, without prefix.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::GetFolder(..) => "GetFolder",
            Self::FindFolder(..) => "FindFolder",
            Self::CreateFolder(..) => "CreateFolder",
            Self::SyncFolderItems(..) => "SyncFolderItems",
            Self::GetItem(..) => "GetItem",
            Self::FindFirst(..) | Self::FindMessageId(..) => "FindItem",
            Self::CreateItem(..) => "CreateItem",
            Self::MarkRead(..) => "UpdateItem",
            Self::MoveItem(..) => "MoveItem",
            Self::DeleteItem(..) => "DeleteItem",
            Self::ResolveNames(..) => "ResolveNames",
            Self::GetInboxRules(..) => "GetInboxRules",
            Self::UpdateInboxRules(..) => "UpdateInboxRules",
            Self::Subscribe(..) => "Subscribe",
            Self::GetStreamingEvents(..) => "GetStreamingEvents",
            Self::Unsubscribe(..) => "Unsubscribe",
        }
    }

    /// The oldest version that has this operation.
    #[must_use]
    pub fn since(&self) -> Version {
        match self {
            Self::GetInboxRules(..)
            | Self::UpdateInboxRules(..)
            | Self::Subscribe(..)
            | Self::GetStreamingEvents(..) => Version::Exchange2010Sp1,
            _ => Version::Exchange2007Sp1,
        }
    }

    /// The whole request.
    #[must_use]
    pub fn envelope(&self, version: Version, impersonation: Option<Impersonation<'_>>) -> Bytes {
        let mut xml = Xml::new();
        xml.with(
            "soap:Envelope",
            &[
                ("xmlns:soap", "http://schemas.xmlsoap.org/soap/envelope/"),
                ("xmlns:t", "http://schemas.microsoft.com/exchange/services/2006/types"),
                ("xmlns:m", "http://schemas.microsoft.com/exchange/services/2006/messages"),
            ],
            |xml| {
                xml.within("soap:Header", |xml| {
                    xml.empty("t:RequestServerVersion", &[("Version", version.as_str())]);
                    if let Some(who) = impersonation {
                        let (name, address) = match who {
                            Impersonation::PrimarySmtpAddress(a) => ("t:PrimarySmtpAddress", a),
                            Impersonation::SmtpAddress(a) => ("t:SmtpAddress", a),
                        };
                        xml.within("t:ExchangeImpersonation", |xml| {
                            xml.within("t:ConnectingSID", |xml| {
                                xml.leaf(name, address.as_str());
                            });
                        });
                    }
                });
                xml.within("soap:Body", |xml| self.write(version, xml));
            },
        );
        Bytes::from(xml.into_string())
    }

    fn write(&self, version: Version, xml: &mut Xml) {
        match *self {
            Self::GetFolder(id) => {
                xml.within("m:GetFolder", |xml| {
                    xml.within("m:FolderShape", |xml| {
                        xml.leaf("t:BaseShape", "IdOnly");
                        fields(xml, &["folder:DisplayName", "folder:TotalCount"]);
                    });
                    xml.within("m:FolderIds", |xml| folder(xml, id));
                });
            }
            Self::FindFolder(parent, name) => {
                xml.with("m:FindFolder", &[("Traversal", "Shallow")], |xml| {
                    xml.within("m:FolderShape", |xml| {
                        xml.leaf("t:BaseShape", "IdOnly");
                    });
                    equals(xml, "folder:DisplayName", name);
                    xml.within("m:ParentFolderIds", |xml| folder(xml, parent));
                });
            }
            Self::CreateFolder(parent, name) => {
                xml.within("m:CreateFolder", |xml| {
                    xml.within("m:ParentFolderId", |xml| folder(xml, parent));
                    xml.within("m:Folders", |xml| {
                        xml.within("t:Folder", |xml| {
                            xml.leaf("t:FolderClass", "IPF.Note").leaf("t:DisplayName", name);
                        });
                    });
                });
            }
            Self::SyncFolderItems(id, state, most) => {
                xml.within("m:SyncFolderItems", |xml| {
                    xml.within("m:ItemShape", |xml| {
                        xml.leaf("t:BaseShape", "IdOnly");
                        listed_fields(xml, version);
                    });
                    xml.within("m:SyncFolderId", |xml| folder(xml, id));
                    if let Some(state) = state {
                        xml.leaf("m:SyncState", state);
                    }
                    xml.leaf("m:MaxChangesReturned", &most.to_string());
                });
            }
            Self::GetItem(ids, part) => get_item(xml, version, ids, part),
            Self::FindFirst(id) => find_item(xml, id, None),
            Self::FindMessageId(id, message_id) => find_item(xml, id, Some(message_id)),
            Self::CreateItem(sending) => create_item(xml, &sending),
            Self::MarkRead(id, change_key) => mark_read(xml, version, id, change_key),
            Self::MoveItem(id, to) => {
                xml.within("m:MoveItem", |xml| {
                    xml.within("m:ToFolderId", |xml| folder(xml, to));
                    item_ids(xml, &[id]);
                });
            }
            Self::DeleteItem(id, how) => delete_item(xml, version, id, how),
            Self::ResolveNames(entry) => {
                let attributes =
                    [("ReturnFullContactData", "false"), ("SearchScope", "ActiveDirectoryContacts")];
                xml.with("m:ResolveNames", &attributes, |xml| {
                    xml.leaf("m:UnresolvedEntry", entry);
                });
            }
            Self::GetInboxRules(mailbox) => {
                xml.within("m:GetInboxRules", |xml| {
                    if let Some(address) = mailbox {
                        xml.leaf("m:MailboxSmtpAddress", address.as_str());
                    }
                });
            }
            Self::UpdateInboxRules(mailbox, change, remove_blob) => {
                xml.within("m:UpdateInboxRules", |xml| {
                    if let Some(address) = mailbox {
                        xml.leaf("m:MailboxSmtpAddress", address.as_str());
                    }
                    xml.leaf("m:RemoveOutlookRuleBlob", if remove_blob { "true" } else { "false" });
                    xml.within("m:Operations", |xml| rule_change(xml, change));
                });
            }
            Self::Subscribe(id) => {
                xml.within("m:Subscribe", |xml| {
                    xml.within("m:StreamingSubscriptionRequest", |xml| {
                        xml.within("t:FolderIds", |xml| folder(xml, id));
                        xml.within("t:EventTypes", |xml| {
                            for event in ["NewMailEvent", "CreatedEvent", "MovedEvent"] {
                                xml.leaf("t:EventType", event);
                            }
                        });
                    });
                });
            }
            Self::GetStreamingEvents(subscription, minutes) => {
                xml.within("m:GetStreamingEvents", |xml| {
                    xml.within("m:SubscriptionIds", |xml| {
                        xml.leaf("t:SubscriptionId", subscription);
                    });
                    xml.leaf("m:ConnectionTimeout", &minutes.to_string());
                });
            }
            Self::Unsubscribe(subscription) => {
                xml.within("m:Unsubscribe", |xml| {
                    xml.leaf("m:SubscriptionId", subscription);
                });
            }
        }
    }
}

fn folder(xml: &mut Xml, id: Folder<'_>) {
    match id {
        Folder::Id(id) => {
            xml.empty("t:FolderId", &[("Id", id)]);
        }
        Folder::Distinguished(id, None) => {
            xml.empty("t:DistinguishedFolderId", &[("Id", id)]);
        }
        Folder::Distinguished(id, Some(address)) => {
            xml.with("t:DistinguishedFolderId", &[("Id", id)], |xml| mailbox(xml, address));
        }
    }
}

fn mailbox(xml: &mut Xml, address: &EmailAddress) {
    xml.within("t:Mailbox", |xml| {
        xml.leaf("t:EmailAddress", address.as_str());
    });
}

fn item_ids(xml: &mut Xml, ids: &[&str]) {
    xml.within("m:ItemIds", |xml| {
        for id in ids {
            xml.empty("t:ItemId", &[("Id", id)]);
        }
    });
}

fn fields(xml: &mut Xml, names: &[&str]) {
    xml.within("t:AdditionalProperties", |xml| {
        for name in names {
            xml.empty("t:FieldURI", &[("FieldURI", name)]);
        }
    });
}

/// What a listing tells of each item. Conversations came with Exchange 2010.
fn listed_fields(xml: &mut Xml, version: Version) {
    let all = ["item:ItemClass", "item:DateTimeReceived", "item:Size", "item:ConversationId"];
    let known = if version < Version::Exchange2010 { 3 } else { 4 };
    fields(xml, &all[..known]);
}

fn equals(xml: &mut Xml, field: &str, value: &str) {
    xml.within("m:Restriction", |xml| {
        xml.within("t:IsEqualTo", |xml| {
            xml.empty("t:FieldURI", &[("FieldURI", field)]);
            xml.within("t:FieldURIOrConstant", |xml| {
                xml.empty("t:Constant", &[("Value", value)]);
            });
        });
    });
}

fn get_item(xml: &mut Xml, version: Version, ids: &[&str], part: Part) {
    xml.within("m:GetItem", |xml| {
        xml.within("m:ItemShape", |xml| {
            xml.leaf("t:BaseShape", "IdOnly");
            match part {
                Part::Id => {}
                Part::Headers => {
                    xml.within("t:AdditionalProperties", |xml| {
                        xml.empty("t:FieldURI", &[("FieldURI", "item:InternetMessageHeaders")]);
                        let tag = format!("0x{TRANSPORT_HEADERS:04x}");
                        let property = [("PropertyTag", tag.as_str()), ("PropertyType", "String")];
                        xml.empty("t:ExtendedFieldURI", &property);
                    });
                }
                Part::Mime => {
                    xml.leaf("t:IncludeMimeContent", "true");
                    listed_fields(xml, version);
                }
            }
        });
        item_ids(xml, ids);
    });
}

fn find_item(xml: &mut Xml, id: Folder<'_>, message_id: Option<&MessageId>) {
    xml.with("m:FindItem", &[("Traversal", "Shallow")], |xml| {
        xml.within("m:ItemShape", |xml| {
            xml.leaf("t:BaseShape", "IdOnly");
            if message_id.is_some() {
                fields(xml, &["message:InternetMessageId"]);
            }
        });
        let page = [("MaxEntriesReturned", "1"), ("Offset", "0"), ("BasePoint", "Beginning")];
        xml.empty("m:IndexedPageItemView", &page);
        if let Some(message_id) = message_id {
            equals(xml, "message:InternetMessageId", message_id.as_str());
        }
        xml.within("m:ParentFolderIds", |xml| folder(xml, id));
    });
}

fn create_item(xml: &mut Xml, sending: &Sending<'_>) {
    let disposition = if sending.copy.is_some() { "SendAndSaveCopy" } else { "SendOnly" };
    xml.with("m:CreateItem", &[("MessageDisposition", disposition)], |xml| {
        if let Some(copy) = sending.copy {
            xml.within("m:SavedItemFolderId", |xml| folder(xml, copy));
        }
        xml.within("m:Items", |xml| {
            xml.within("t:Message", |xml| {
                let mime = BASE64_STANDARD.encode(sending.mime);
                xml.reserve(mime.len() + 1024);
                xml.with("t:MimeContent", &[("CharacterSet", "UTF-8")], |xml| {
                    xml.raw(&mime);
                });
                drop(mime);
                if !sending.bcc.is_empty() {
                    xml.within("t:BccRecipients", |xml| {
                        sending.bcc.iter().for_each(|address| mailbox(xml, address));
                    });
                }
                if sending.delivery_receipt {
                    xml.leaf("t:IsDeliveryReceiptRequested", "true");
                }
                if let Some(from) = sending.from {
                    xml.within("t:From", |xml| mailbox(xml, from));
                }
            });
        });
    });
}

fn mark_read(xml: &mut Xml, version: Version, id: &str, change_key: Option<&str>) {
    let all =
        [("ConflictResolution", "AlwaysOverwrite"), ("MessageDisposition", "SaveOnly"), NO_READ_RECEIPTS];
    let known = if version < Version::Exchange2013 { 2 } else { 3 };
    xml.with("m:UpdateItem", &all[..known], |xml| {
        xml.within("m:ItemChanges", |xml| {
            xml.within("t:ItemChange", |xml| {
                match change_key {
                    Some(key) => xml.empty("t:ItemId", &[("Id", id), ("ChangeKey", key)]),
                    None => xml.empty("t:ItemId", &[("Id", id)]),
                };
                xml.within("t:Updates", |xml| {
                    xml.within("t:SetItemField", |xml| {
                        xml.empty("t:FieldURI", &[("FieldURI", "message:IsRead")]);
                        xml.within("t:Message", |xml| {
                            xml.leaf("t:IsRead", "true");
                        });
                    });
                });
            });
        });
    });
}

/// A router that reads mail must not tell the senders that a person read it.
const NO_READ_RECEIPTS: (&str, &str) = ("SuppressReadReceipts", "true");

fn delete_item(xml: &mut Xml, version: Version, id: &str, how: DeleteType) {
    // the two middle ones are required for calendar items and tasks, and say nothing about others
    let all = [
        ("DeleteType", how.as_str()),
        ("SendMeetingCancellations", "SendToNone"),
        ("AffectedTaskOccurrences", "AllOccurrences"),
        NO_READ_RECEIPTS,
    ];
    let known = if version < Version::Exchange2013Sp1 { 3 } else { 4 };
    xml.with("m:DeleteItem", &all[..known], |xml| item_ids(xml, &[id]));
}

fn rule_change(xml: &mut Xml, change: RuleChange<'_>) {
    match change {
        RuleChange::Create(new, priority) => {
            xml.within("t:CreateRuleOperation", |xml| rule(xml, None, new, priority));
        }
        RuleChange::Set(id, new, priority) => {
            xml.within("t:SetRuleOperation", |xml| rule(xml, Some(id), new, priority));
        }
        RuleChange::Delete(id) => {
            xml.within("t:DeleteRuleOperation", |xml| {
                xml.leaf("t:RuleId", id);
            });
        }
    }
}

fn rule(xml: &mut Xml, id: Option<&str>, rule: &ForwardRule, priority: u32) {
    xml.within("t:Rule", |xml| {
        if let Some(id) = id {
            xml.leaf("t:RuleId", id);
        }
        xml.leaf("t:DisplayName", &rule.name)
            .leaf("t:Priority", &priority.to_string())
            .leaf("t:IsEnabled", "true");
        if rule.condition == RuleCondition::SentToOrCcMe {
            xml.within("t:Conditions", |xml| {
                xml.leaf("t:SentToOrCcMe", "true");
            });
        }
        xml.within("t:Actions", |xml| {
            xml.within("t:ForwardAsAttachmentToRecipients", |xml| {
                xml.within("t:Address", |xml| {
                    xml.leaf("t:EmailAddress", rule.forward_to.as_str());
                });
            });
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(operation: Operation<'_>, version: Version) -> String {
        String::from_utf8(operation.envelope(version, None).to_vec()).unwrap()
    }

    #[test]
    fn what_an_old_server_does_not_know_is_left_out() {
        use Version as V;
        let sync = Operation::SyncFolderItems(Folder::Distinguished("inbox", None), None, 512);
        let read = Operation::MarkRead("AAA=", None);
        let delete = Operation::DeleteItem("AAA=", DeleteType::HardDelete);
        for (operation, what, since) in [
            (sync, "item:ConversationId", V::Exchange2010),
            (read, "SuppressReadReceipts", V::Exchange2013),
            (delete, "SuppressReadReceipts", V::Exchange2013Sp1),
        ] {
            for version in V::ALL {
                let xml = text(operation, version);
                assert_eq!(xml.contains(what), version >= since, "{what} for {version}");
                assert!(xml.contains(&format!("Version=\"{version}\"")), "{xml}");
            }
        }
    }

    #[test]
    fn nothing_breaks_out_of_its_place() {
        let name = "a\"/><b>&amp;\u{8}\r\nc";
        let xml = text(
            Operation::FindFolder(Folder::Distinguished("msgfolderroot", None), name),
            Version::Exchange2013,
        );
        let node = super::super::tree::Node::parse(xml.as_bytes()).unwrap();
        let constant = node.find(super::super::tree::Ns::Types, "Constant").unwrap();
        assert_eq!(constant.attribute("Value").unwrap().replace(['\r', '\n'], ""), "a\"/><b>&amp;c");
    }
}
