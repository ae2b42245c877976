//! Which elements a request may have, in which order: a table written after the reference of EWS ("EWS operations in Exchange" and its elements).
//!
//! A server of Exchange refuses a request that does not follow its schema as a whole, so this one does, too.

use super::xml::Element;

/// What an element may hold.
enum Holds {
    /// These, in this order: name, least, most.
    Sequence(&'static [(&'static str, usize, usize)]),
    /// Any of these, at least so many.
    Choice(usize, &'static [&'static str]),
    /// Text.
    Text,
    /// Nothing.
    Nothing,
}

struct Rule {
    name: &'static str,
    holds: Holds,
    /// Attributes: name, whether it is required.
    attributes: &'static [(&'static str, bool)],
}

const MANY: usize = usize::MAX;

const fn rule(name: &'static str, holds: Holds) -> Rule {
    Rule { name, holds, attributes: &[] }
}

const fn with(name: &'static str, attributes: &'static [(&'static str, bool)], holds: Holds) -> Rule {
    Rule { name, holds, attributes }
}

const FOLDER: &[&str] = &["t:FolderId", "t:DistinguishedFolderId"];
const ADDRESS: Holds = Holds::Sequence(&[
    ("t:Name", 0, 1),
    ("t:EmailAddress", 0, 1),
    ("t:RoutingType", 0, 1),
    ("t:MailboxType", 0, 1),
    ("t:ItemId", 0, 1),
]);

const RULES: &[Rule] = {
    use Holds as H;
    &[
        rule("s:Envelope", H::Sequence(&[("s:Header", 0, 1), ("s:Body", 1, 1)])),
        with("t:RequestServerVersion", &[("Version", true)], H::Nothing),
        rule("t:ExchangeImpersonation", H::Sequence(&[("t:ConnectingSID", 1, 1)])),
        rule(
            "t:ConnectingSID",
            H::Choice(1, &["t:PrincipalName", "t:SID", "t:PrimarySmtpAddress", "t:SmtpAddress"]),
        ),
        // operations
        rule("m:GetFolder", H::Sequence(&[("m:FolderShape", 1, 1), ("m:FolderIds", 1, 1)])),
        with(
            "m:FindFolder",
            &[("Traversal", true)],
            H::Sequence(&[
                ("m:FolderShape", 1, 1),
                ("m:IndexedPageFolderView", 0, 1),
                ("m:FractionalPageFolderView", 0, 1),
                ("m:Restriction", 0, 1),
                ("m:ParentFolderIds", 1, 1),
            ]),
        ),
        rule("m:CreateFolder", H::Sequence(&[("m:ParentFolderId", 1, 1), ("m:Folders", 1, 1)])),
        rule(
            "m:SyncFolderItems",
            H::Sequence(&[
                ("m:ItemShape", 1, 1),
                ("m:SyncFolderId", 1, 1),
                ("m:SyncState", 0, 1),
                ("m:Ignore", 0, 1),
                ("m:MaxChangesReturned", 1, 1),
                ("m:SyncScope", 0, 1),
            ]),
        ),
        rule("m:GetItem", H::Sequence(&[("m:ItemShape", 1, 1), ("m:ItemIds", 1, 1)])),
        with(
            "m:FindItem",
            &[("Traversal", true)],
            H::Sequence(&[
                ("m:ItemShape", 1, 1),
                ("m:IndexedPageItemView", 0, 1),
                ("m:FractionalPageItemView", 0, 1),
                ("m:CalendarView", 0, 1),
                ("m:ContactsView", 0, 1),
                ("m:GroupBy", 0, 1),
                ("m:DistinguishedGroupBy", 0, 1),
                ("m:Restriction", 0, 1),
                ("m:SortOrder", 0, 1),
                ("m:ParentFolderIds", 1, 1),
                ("m:QueryString", 0, 1),
            ]),
        ),
        with(
            "m:CreateItem",
            &[("MessageDisposition", false), ("SendMeetingInvitations", false)],
            H::Sequence(&[("m:SavedItemFolderId", 0, 1), ("m:Items", 1, 1)]),
        ),
        with(
            "m:UpdateItem",
            &[
                ("ConflictResolution", true),
                ("MessageDisposition", false),
                ("SendMeetingInvitationsOrCancellations", false),
                ("SuppressReadReceipts", false),
            ],
            H::Sequence(&[("m:SavedItemFolderId", 0, 1), ("m:ItemChanges", 1, 1)]),
        ),
        rule(
            "m:MoveItem",
            H::Sequence(&[("m:ToFolderId", 1, 1), ("m:ItemIds", 1, 1), ("m:ReturnNewItemIds", 0, 1)]),
        ),
        with(
            "m:DeleteItem",
            &[
                ("DeleteType", true),
                ("SendMeetingCancellations", false),
                ("AffectedTaskOccurrences", false),
                ("SuppressReadReceipts", false),
            ],
            H::Sequence(&[("m:ItemIds", 1, 1)]),
        ),
        with(
            "m:ResolveNames",
            &[("ReturnFullContactData", true), ("SearchScope", false), ("ContactDataShape", false)],
            H::Sequence(&[("m:ParentFolderIds", 0, 1), ("m:UnresolvedEntry", 1, 1)]),
        ),
        rule("m:GetInboxRules", H::Sequence(&[("m:MailboxSmtpAddress", 0, 1)])),
        rule(
            "m:UpdateInboxRules",
            H::Sequence(&[
                ("m:MailboxSmtpAddress", 0, 1),
                ("m:RemoveOutlookRuleBlob", 0, 1),
                ("m:Operations", 1, 1),
            ]),
        ),
        rule(
            "m:Subscribe",
            H::Choice(
                1,
                &["m:PullSubscriptionRequest", "m:PushSubscriptionRequest", "m:StreamingSubscriptionRequest"],
            ),
        ),
        with(
            "m:StreamingSubscriptionRequest",
            &[("SubscribeToAllFolders", false)],
            H::Sequence(&[("t:FolderIds", 0, 1), ("t:EventTypes", 1, 1)]),
        ),
        rule("t:EventTypes", H::Choice(1, &["t:EventType"])),
        rule(
            "m:GetStreamingEvents",
            H::Sequence(&[("m:SubscriptionIds", 1, 1), ("m:ConnectionTimeout", 1, 1)]),
        ),
        rule("m:SubscriptionIds", H::Choice(1, &["t:SubscriptionId"])),
        rule("m:Unsubscribe", H::Sequence(&[("m:SubscriptionId", 1, 1)])),
        // their parts
        rule("m:FolderShape", H::Sequence(&[("t:BaseShape", 1, 1), ("t:AdditionalProperties", 0, 1)])),
        rule(
            "m:ItemShape",
            H::Sequence(&[
                ("t:BaseShape", 1, 1),
                ("t:IncludeMimeContent", 0, 1),
                ("t:BodyType", 0, 1),
                ("t:UniqueBodyType", 0, 1),
                ("t:NormalizedBodyType", 0, 1),
                ("t:FilterHtmlContent", 0, 1),
                ("t:ConvertHtmlCodePageToUTF8", 0, 1),
                ("t:AdditionalProperties", 0, 1),
            ]),
        ),
        rule(
            "t:AdditionalProperties",
            H::Choice(1, &["t:FieldURI", "t:IndexedFieldURI", "t:ExtendedFieldURI"]),
        ),
        with("t:FieldURI", &[("FieldURI", true)], H::Nothing),
        with(
            "t:ExtendedFieldURI",
            &[
                ("DistinguishedPropertySetId", false),
                ("PropertySetId", false),
                ("PropertyTag", false),
                ("PropertyName", false),
                ("PropertyId", false),
                ("PropertyType", true),
            ],
            H::Nothing,
        ),
        rule("m:FolderIds", H::Choice(1, FOLDER)),
        rule("t:FolderIds", H::Choice(1, FOLDER)),
        rule("m:ParentFolderIds", H::Choice(1, FOLDER)),
        rule("m:ParentFolderId", H::Choice(1, FOLDER)),
        rule("m:SyncFolderId", H::Choice(1, FOLDER)),
        rule("m:ToFolderId", H::Choice(1, FOLDER)),
        rule("m:SavedItemFolderId", H::Choice(1, FOLDER)),
        with("t:FolderId", &[("Id", true), ("ChangeKey", false)], H::Nothing),
        with(
            "t:DistinguishedFolderId",
            &[("Id", true), ("ChangeKey", false)],
            H::Sequence(&[("t:Mailbox", 0, 1)]),
        ),
        rule("m:ItemIds", H::Choice(1, &["t:ItemId"])),
        with("t:ItemId", &[("Id", true), ("ChangeKey", false)], H::Nothing),
        rule(
            "m:Folders",
            H::Choice(1, &["t:Folder", "t:CalendarFolder", "t:ContactsFolder", "t:TasksFolder"]),
        ),
        rule(
            "t:Folder",
            H::Sequence(&[
                ("t:FolderId", 0, 1),
                ("t:ParentFolderId", 0, 1),
                ("t:FolderClass", 0, 1),
                ("t:DisplayName", 0, 1),
            ]),
        ),
        rule(
            "m:Restriction",
            H::Choice(
                1,
                &[
                    "t:Contains",
                    "t:Excludes",
                    "t:Exists",
                    "t:IsEqualTo",
                    "t:IsNotEqualTo",
                    "t:IsGreaterThan",
                    "t:IsGreaterThanOrEqualTo",
                    "t:IsLessThan",
                    "t:IsLessThanOrEqualTo",
                    "t:And",
                    "t:Not",
                    "t:Or",
                ],
            ),
        ),
        rule(
            "t:IsEqualTo",
            H::Sequence(&[
                ("t:FieldURI", 0, 1),
                ("t:ExtendedFieldURI", 0, 1),
                ("t:FieldURIOrConstant", 1, 1),
            ]),
        ),
        rule("t:FieldURIOrConstant", H::Choice(1, &["t:FieldURI", "t:ExtendedFieldURI", "t:Constant"])),
        with("t:Constant", &[("Value", true)], H::Nothing),
        with(
            "m:IndexedPageItemView",
            &[("MaxEntriesReturned", false), ("Offset", true), ("BasePoint", true)],
            H::Nothing,
        ),
        rule("m:Items", H::Choice(1, &["t:Message", "t:Item", "t:CalendarItem", "t:Contact", "t:Task"])),
        rule("t:Message", H::Sequence(MESSAGE)),
        with("t:MimeContent", &[("CharacterSet", false)], H::Text),
        rule("t:ToRecipients", H::Choice(0, &["t:Mailbox"])),
        rule("t:CcRecipients", H::Choice(0, &["t:Mailbox"])),
        rule("t:BccRecipients", H::Choice(0, &["t:Mailbox"])),
        rule("t:From", H::Choice(1, &["t:Mailbox"])),
        rule("t:Mailbox", ADDRESS),
        rule("m:ItemChanges", H::Choice(1, &["t:ItemChange"])),
        rule("t:ItemChange", H::Sequence(&[("t:ItemId", 1, 1), ("t:Updates", 1, 1)])),
        rule("t:Updates", H::Choice(1, &["t:AppendToItemField", "t:SetItemField", "t:DeleteItemField"])),
        rule(
            "m:Operations",
            H::Choice(1, &["t:CreateRuleOperation", "t:SetRuleOperation", "t:DeleteRuleOperation"]),
        ),
        rule("t:CreateRuleOperation", H::Sequence(&[("t:Rule", 1, 1)])),
        rule("t:SetRuleOperation", H::Sequence(&[("t:Rule", 1, 1)])),
        rule("t:DeleteRuleOperation", H::Sequence(&[("t:RuleId", 1, 1)])),
        rule(
            "t:Rule",
            H::Sequence(&[
                ("t:RuleId", 0, 1),
                ("t:DisplayName", 1, 1),
                ("t:Priority", 1, 1),
                ("t:IsEnabled", 1, 1),
                ("t:IsNotSupported", 0, 1),
                ("t:IsInError", 0, 1),
                ("t:Conditions", 0, 1),
                ("t:Exceptions", 0, 1),
                ("t:Actions", 0, 1),
            ]),
        ),
        rule(
            "t:Actions",
            H::Sequence(&[
                ("t:AssignCategories", 0, 1),
                ("t:CopyToFolder", 0, 1),
                ("t:Delete", 0, 1),
                ("t:ForwardAsAttachmentToRecipients", 0, 1),
                ("t:ForwardToRecipients", 0, 1),
                ("t:MarkImportance", 0, 1),
                ("t:MarkAsRead", 0, 1),
                ("t:MoveToFolder", 0, 1),
                ("t:PermanentDelete", 0, 1),
                ("t:RedirectToRecipients", 0, 1),
                ("t:SendSMSAlertToRecipients", 0, 1),
                ("t:ServerReplyWithMessage", 0, 1),
                ("t:StopProcessingRules", 0, 1),
            ]),
        ),
        rule("t:ForwardAsAttachmentToRecipients", H::Choice(1, &["t:Address"])),
        rule("t:Address", ADDRESS),
    ]
};

/// The elements of a message that clients set, in the order of `ItemType` and then `MessageType`.
const MESSAGE: &[(&str, usize, usize)] = &[
    ("t:MimeContent", 0, 1),
    ("t:ItemId", 0, 1),
    ("t:ParentFolderId", 0, 1),
    ("t:ItemClass", 0, 1),
    ("t:Subject", 0, 1),
    ("t:Sensitivity", 0, 1),
    ("t:Body", 0, 1),
    ("t:Attachments", 0, 1),
    ("t:DateTimeReceived", 0, 1),
    ("t:Size", 0, 1),
    ("t:Categories", 0, 1),
    ("t:Importance", 0, 1),
    ("t:InReplyTo", 0, 1),
    ("t:IsSubmitted", 0, 1),
    ("t:IsDraft", 0, 1),
    ("t:InternetMessageHeaders", 0, 1),
    ("t:DateTimeSent", 0, 1),
    ("t:ReminderDueBy", 0, 1),
    ("t:ReminderIsSet", 0, 1),
    ("t:ReminderMinutesBeforeStart", 0, 1),
    ("t:ExtendedProperty", 0, MANY),
    ("t:Culture", 0, 1),
    ("t:Flag", 0, 1),
    ("t:Sender", 0, 1),
    ("t:ToRecipients", 0, 1),
    ("t:CcRecipients", 0, 1),
    ("t:BccRecipients", 0, 1),
    ("t:IsReadReceiptRequested", 0, 1),
    ("t:IsDeliveryReceiptRequested", 0, 1),
    ("t:ConversationIndex", 0, 1),
    ("t:ConversationTopic", 0, 1),
    ("t:From", 0, 1),
    ("t:InternetMessageId", 0, 1),
    ("t:IsRead", 0, 1),
    ("t:IsResponseRequested", 0, 1),
    ("t:References", 0, 1),
    ("t:ReplyTo", 0, 1),
];

/// What is wrong with a request; `None` where all is well. Elements that are not in the table are taken as they are.
pub(super) fn fault(element: &Element) -> Option<String> {
    if let Some(rule) = RULES.iter().find(|rule| rule.name == element.name) {
        for (name, required) in rule.attributes {
            if *required && element.attribute(name).is_none() {
                return Some(format!("The required attribute '{name}' of '{}' is missing.", element.name));
            }
        }
        if !rule.attributes.is_empty() || matches!(rule.holds, Holds::Sequence(_) | Holds::Choice(..)) {
            let known = |key: &String| rule.attributes.iter().any(|(name, _)| name == key);
            if let Some((key, _)) = element.attributes.iter().find(|(key, _)| !known(key)) {
                return Some(format!("The '{key}' attribute of '{}' is not declared.", element.name));
            }
        }
        if let Some(why) = content(element, &rule.holds) {
            return Some(why);
        }
    }
    element.children.iter().find_map(fault)
}

fn content(element: &Element, holds: &Holds) -> Option<String> {
    let name = &element.name;
    let children = &element.children;
    match holds {
        Holds::Nothing | Holds::Text => {
            let child = children.first()?;
            Some(format!("'{}' is not expected in '{name}'.", child.name))
        }
        Holds::Choice(least, known) => {
            if children.len() < *least {
                return Some(format!("The element '{name}' has incomplete content."));
            }
            let other = children.iter().find(|child| !known.contains(&child.name.as_str()))?;
            Some(format!("'{}' is not expected in '{name}'.", other.name))
        }
        Holds::Sequence(sequence) => {
            let mut rest = &children[..];
            for (child, least, most) in *sequence {
                let count = rest.iter().take_while(|c| c.name == *child).count();
                if count < *least || count > *most {
                    return Some(format!("'{child}' occurs {count} times at its place in '{name}'."));
                }
                rest = &rest[count..];
            }
            let other = rest.first()?;
            Some(format!("The element '{}' is not expected at its place in '{name}'.", other.name))
        }
    }
}
