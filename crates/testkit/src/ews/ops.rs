//! The operations.

use std::collections::HashSet;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::items::{Shape, build, item_xml};
use super::rules::{rules_of, update_rules};
use super::store::{self, Change, Folder, Item, Sent, State};
use super::xml::{Element, escape};

/// A refusal: response code and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) &'static str, pub(super) String);

impl Refusal {
    pub(super) fn new(code: &'static str, text: &str) -> Self {
        Self(code, text.to_owned())
    }
}

pub(super) type Done<T> = Result<T, Refusal>;

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) account: String,
    /// The mailbox the request acts in: the account's own, or the impersonated one.
    pub(super) me: String,
    pub(super) impersonates: bool,
    /// Puts a character that XML forbids into every subject.
    pub(super) illegal_characters: bool,
    pub(super) directory_names: bool,
}

/// The content of the SOAP body of the answer.
pub(super) fn run(state: &mut State, caller: &Caller, request: &Element) -> Done<String> {
    let name = request.name.trim_start_matches("m:").to_owned();
    let kids = |list: &str| request.children_of(list).to_vec();
    match name.as_str() {
        "GetFolder" => Ok(each(&name, kids("m:FolderIds"), |id| {
            let (address, folder) = folder_of(state, caller, id)?;
            Ok(format!("<m:Folders>{}</m:Folders>", folder_xml(state, &address, folder)))
        })),
        "FindFolder" => {
            Ok(each(&name, kids("m:ParentFolderIds"), |id| find_folder(state, caller, request, id)))
        }
        "CreateFolder" => {
            let parent = request.children_of("m:ParentFolderId").first().cloned().unwrap_or_default();
            Ok(each(&name, kids("m:Folders"), |new| create_folder(state, caller, &parent, new)))
        }
        "SyncFolderItems" => {
            let id = request.children_of("m:SyncFolderId").first().cloned().unwrap_or_default();
            Ok(each(&name, vec![id], |id| sync(state, caller, request, id)))
        }
        "FindItem" => Ok(each(&name, kids("m:ParentFolderIds"), |id| find_item(state, caller, request, id))),
        "GetItem" => Ok(each(&name, kids("m:ItemIds"), |id| {
            let (address, f, i) = item_of(state, caller, id)?;
            let item = &state.mailboxes[&address].folders[f].items[i];
            let shape = Shape::of(request, false);
            Ok(format!(
                "<m:Items>{}</m:Items>",
                item_xml(caller, &state.mailboxes[&address].folders[f], item, &shape)
            ))
        })),
        "CreateItem" => Ok(each(&name, kids("m:Items"), |item| create_item(state, caller, request, item))),
        "UpdateItem" => {
            Ok(each(&name, kids("m:ItemChanges"), |change| update_item(state, caller, request, change)))
        }
        "MoveItem" => {
            let to = request.children_of("m:ToFolderId").first().cloned().unwrap_or_default();
            Ok(each(&name, kids("m:ItemIds"), |id| move_item(state, caller, &to, id)))
        }
        "DeleteItem" => {
            let how = request.attribute("DeleteType").unwrap_or_default().to_owned();
            Ok(each(&name, kids("m:ItemIds"), |id| delete_item(state, caller, &how, id)))
        }
        "ResolveNames" => {
            let entry = request.text_of("m:UnresolvedEntry").unwrap_or_default();
            let entry = entry.trim_start_matches("smtp:").to_lowercase();
            let own = state.mailboxes.keys().find(|address| directory_name(address) == entry);
            let entry = own.cloned().unwrap_or(entry);
            Ok(each(&name, vec![Element::default()], |_| resolve(state, &entry)))
        }
        "GetInboxRules" => rules_of(state, caller, request).map(|address| {
            let mailbox = &state.mailboxes[&address];
            let mut rules = mailbox.rules.clone();
            if caller.directory_names {
                rules.iter_mut().for_each(|rule| by_directory_names(state, rule));
            }
            let rules: String = rules.iter().map(Element::write).collect();
            let rules =
                if rules.is_empty() { rules } else { format!("<m:InboxRules>{rules}</m:InboxRules>") };
            format!(
                "<m:GetInboxRulesResponse ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>\
                 <m:OutlookRuleBlobExists>{}</m:OutlookRuleBlobExists>{rules}</m:GetInboxRulesResponse>",
                mailbox.outlook_blob
            )
        }),
        "UpdateInboxRules" => {
            let address = rules_of(state, caller, request)?;
            Ok(update_rules(state, &address, request))
        }
        "Subscribe" => {
            let streaming = request.child("m:StreamingSubscriptionRequest");
            let Some(streaming) = streaming else {
                return Err(Refusal::new("ErrorInvalidOperation", "Only streaming subscriptions."));
            };
            let folders = streaming.children_of("t:FolderIds").to_vec();
            Ok(each(&name, folders, |id| {
                let (address, f) = folder_of(state, caller, id)?;
                let folder = state.mailboxes[&address].folders[f].id.clone();
                let n = state.number();
                let subscription = BASE64_STANDARD.encode(format!("subscription {n}"));
                state.subscriptions.insert(subscription.clone(), (address, folder));
                Ok(format!("<m:SubscriptionId>{subscription}</m:SubscriptionId>"))
            }))
        }
        "Unsubscribe" => {
            let id = request.text_of("m:SubscriptionId").unwrap_or_default().to_owned();
            Ok(each(&name, vec![Element::default()], |_| match state.subscriptions.remove(&id) {
                Some(_) => Ok(String::new()),
                None => Err(Refusal::new("ErrorSubscriptionNotFound", "There is no such subscription.")),
            }))
        }
        // DavMail asks this to learn whose mailbox it is
        "ConvertId" => {
            let to = request.attribute("DestinationFormat").unwrap_or("EwsId").to_owned();
            Ok(each(&name, kids("m:SourceIds"), |id| {
                let id = escape(id.attribute("Id").unwrap_or_default());
                Ok(format!(
                    "<m:AlternateId xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
                     xsi:type=\"t:AlternateIdType\" Format=\"{to}\" Id=\"{id}\" Mailbox=\"{}\"/>",
                    caller.me
                ))
            }))
        }
        other => Err(Refusal::new("ErrorInvalidOperation", &format!("{other} is not known here."))),
    }
}

fn each(name: &str, of: Vec<Element>, mut one: impl FnMut(&Element) -> Done<String>) -> String {
    let mut messages = String::new();
    for element in &of {
        messages += &message(name, one(element));
    }
    format!("<m:{name}Response><m:ResponseMessages>{messages}</m:ResponseMessages></m:{name}Response>")
}

/// One response message.
pub(super) fn message(name: &str, done: Done<String>) -> String {
    match done {
        Ok(inner) => format!(
            "<m:{name}ResponseMessage ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>{inner}</m:{name}ResponseMessage>"
        ),
        Err(Refusal(code, text)) => format!(
            "<m:{name}ResponseMessage ResponseClass=\"Error\"><m:MessageText>{}</m:MessageText><m:ResponseCode>{code}</m:ResponseCode>\
             <m:DescriptiveLinkKey>0</m:DescriptiveLinkKey></m:{name}ResponseMessage>",
            escape(&text)
        ),
    }
}

fn denied() -> Refusal {
    Refusal::new("ErrorAccessDenied", "Access is denied. Check credentials and try again.")
}

pub(super) fn may_open(state: &State, caller: &Caller, address: &str) -> Done<()> {
    if !state.mailboxes.contains_key(address) {
        return Err(Refusal::new(
            "ErrorNonExistentMailbox",
            "The SMTP address has no mailbox associated with it.",
        ));
    }
    let pair = (caller.account.clone(), address.to_owned());
    if address == caller.me || (!caller.impersonates && state.full_access.contains(&pair)) {
        return Ok(());
    }
    Err(denied())
}

/// The mailbox and number of a folder in a request.
fn folder_of(state: &State, caller: &Caller, id: &Element) -> Done<(String, usize)> {
    if id.name == "t:DistinguishedFolderId" {
        let address =
            id.find("t:EmailAddress").map_or_else(|| caller.me.clone(), |e| e.text.trim().to_lowercase());
        may_open(state, caller, &address)?;
        let name = id.attribute("Id").unwrap_or_default();
        let folder = state.mailboxes[&address].distinguished(name);
        return folder.map(|f| (address, f)).ok_or_else(no_folder);
    }
    let wanted = id.attribute("Id").unwrap_or_default();
    for (address, mailbox) in &state.mailboxes {
        if let Some(f) = mailbox.folders.iter().position(|f| f.id == wanted) {
            may_open(state, caller, address)?;
            return Ok((address.clone(), f));
        }
    }
    Err(no_folder())
}

fn no_folder() -> Refusal {
    Refusal::new("ErrorFolderNotFound", "The specified folder could not be found in the store.")
}

fn item_of(state: &State, caller: &Caller, id: &Element) -> Done<(String, usize, usize)> {
    let id = id.attribute("Id").unwrap_or_default();
    if id.is_empty() {
        return Err(Refusal::new("ErrorInvalidIdEmpty", "Id must be non-empty."));
    }
    if BASE64_STANDARD.decode(id).is_err() {
        return Err(Refusal::new("ErrorInvalidIdMalformed", "Id is malformed."));
    }
    let found = state.find(id);
    let (address, f, i) = found.ok_or_else(|| {
        Refusal::new("ErrorItemNotFound", "The specified object was not found in the store.")
    })?;
    may_open(state, caller, &address)?;
    Ok((address, f, i))
}

fn folder_xml(state: &State, address: &str, f: usize) -> String {
    let mailbox = &state.mailboxes[address];
    let folder = &mailbox.folders[f];
    let parent =
        if matches!(folder.distinguished, Some("root" | "msgfolderroot")) { "root" } else { "msgfolderroot" };
    let parent = mailbox.distinguished(parent).map_or("", |p| &mailbox.folders[p].id);
    let children = if folder.distinguished == Some("msgfolderroot") { mailbox.folders.len() - 2 } else { 0 };
    let unread = folder.items.iter().filter(|i| !i.read).count();
    let distinguished = folder
        .distinguished
        .map(|name| format!("<t:DistinguishedFolderId>{name}</t:DistinguishedFolderId>"))
        .unwrap_or_default();
    let (tag, unread) = match folder.class.as_str() {
        "IPF.Appointment" => ("CalendarFolder", String::new()),
        "IPF.Contact" => ("ContactsFolder", String::new()),
        "IPF.Task" => ("TasksFolder", String::new()),
        _ => ("Folder", format!("<t:UnreadCount>{unread}</t:UnreadCount>")),
    };
    format!(
        "<t:{tag}><t:FolderId Id=\"{}\" ChangeKey=\"AQ==\"/><t:ParentFolderId Id=\"{parent}\" ChangeKey=\"AQ==\"/>\
         <t:FolderClass>{}</t:FolderClass><t:DisplayName>{}</t:DisplayName><t:TotalCount>{}</t:TotalCount>\
         <t:ChildFolderCount>{children}</t:ChildFolderCount>{distinguished}{unread}</t:{tag}>",
        folder.id,
        folder.class,
        escape(&folder.name),
        folder.items.len(),
    )
}

fn find_folder(state: &State, caller: &Caller, request: &Element, id: &Element) -> Done<String> {
    let (address, f) = folder_of(state, caller, id)?;
    let mailbox = &state.mailboxes[&address];
    let wanted = request.find("t:Constant").and_then(|c| c.attribute("Value")).map(str::to_lowercase);
    let parent = mailbox.folders[f].distinguished;
    let mut found = String::new();
    let mut count = 0;
    for (n, folder) in mailbox.folders.iter().enumerate() {
        let below = match parent {
            Some("root") => folder.distinguished != Some("root"),
            Some("msgfolderroot") => !matches!(folder.distinguished, Some("root" | "msgfolderroot")),
            _ => false,
        };
        if below && wanted.as_ref().is_none_or(|wanted| folder.name.to_lowercase() == *wanted) {
            found += &folder_xml(state, &address, n);
            count += 1;
        }
    }
    Ok(format!(
        "<m:RootFolder IndexedPagingOffset=\"{count}\" TotalItemsInView=\"{count}\" IncludesLastItemInRange=\"true\"><t:Folders>{found}</t:Folders></m:RootFolder>"
    ))
}

fn create_folder(state: &mut State, caller: &Caller, parent: &Element, new: &Element) -> Done<String> {
    let (address, _) = folder_of(state, caller, parent)?;
    let name = new.text_of("t:DisplayName").unwrap_or_default().to_owned();
    if name.is_empty() {
        return Err(Refusal::new("ErrorFolderSavePropertyError", "A folder needs a name."));
    }
    let n = state.number();
    let Some(mailbox) = state.mailboxes.get_mut(&address) else { return Err(no_folder()) };
    if mailbox.named(&name).is_some() {
        return Err(Refusal::new("ErrorFolderExists", "A folder with the specified name already exists."));
    }
    let id = store::folder_id(&address, n);
    let class = new.text_of("t:FolderClass").unwrap_or("IPF.Note").to_owned();
    let xml =
        format!("<m:Folders><t:Folder><t:FolderId Id=\"{id}\" ChangeKey=\"AQ==\"/></t:Folder></m:Folders>");
    mailbox.folders.push(Folder { id, distinguished: None, name, class, items: Vec::new(), log: Vec::new() });
    Ok(xml)
}

fn sync(state: &State, caller: &Caller, request: &Element, id: &Element) -> Done<String> {
    let (address, f) = folder_of(state, caller, id)?;
    let folder = &state.mailboxes[&address].folders[f];
    let most: usize = request.text_of("m:MaxChangesReturned").and_then(|n| n.parse().ok()).unwrap_or(0);
    if !(1..=512).contains(&most) {
        return Err(Refusal::new("ErrorInvalidArgument", "MaxChangesReturned must be between 1 and 512."));
    }
    let prefix = format!("{} {} ", folder.id, state.forgotten_states);
    let from = match request.text_of("m:SyncState").filter(|s| !s.is_empty()) {
        None => 0,
        Some(text) => {
            let decoded = BASE64_STANDARD.decode(text).ok().and_then(|b| String::from_utf8(b).ok());
            let number = decoded.as_deref().and_then(|d| d.strip_prefix(&prefix)?.parse::<usize>().ok());
            number.ok_or_else(|| {
                Refusal::new(
                    "ErrorInvalidSyncStateData",
                    "Synchronization state data is corrupt or otherwise invalid.",
                )
            })?
        }
    };
    let (mut at, mut count, mut changes) = (from, 0, String::new());
    let mut told = HashSet::new();
    let shape = Shape::of(request, true);
    while at < folder.log.len() && count < most {
        let change = &folder.log[at];
        at += 1;
        match change {
            Change::Present(id) => {
                let Some(item) = folder.items.iter().find(|i| i.id == *id) else { continue };
                if told.insert(id) {
                    let _ =
                        write!(changes, "<t:Create>{}</t:Create>", item_xml(caller, folder, item, &shape));
                    count += 1;
                }
            }
            Change::Gone(id) => {
                if from > 0 {
                    let _ =
                        write!(changes, "<t:Delete><t:ItemId Id=\"{id}\" ChangeKey=\"AQ==\"/></t:Delete>");
                    count += 1;
                }
            }
            Change::Read(id) => {
                if from > 0 && folder.items.iter().any(|i| i.id == *id) {
                    let _ = write!(
                        changes,
                        "<t:ReadFlagChange><t:ItemId Id=\"{id}\"/><t:IsRead>true</t:IsRead></t:ReadFlagChange>"
                    );
                    count += 1;
                }
            }
        }
    }
    let token = BASE64_STANDARD.encode(format!("{prefix}{at}"));
    let last = at == folder.log.len();
    Ok(format!(
        "<m:SyncState>{token}</m:SyncState><m:IncludesLastItemInRange>{last}</m:IncludesLastItemInRange><m:Changes>{changes}</m:Changes>"
    ))
}

fn find_item(state: &State, caller: &Caller, request: &Element, id: &Element) -> Done<String> {
    let (address, f) = folder_of(state, caller, id)?;
    let folder = &state.mailboxes[&address].folders[f];
    let mut wanted: Vec<&Item> = folder.items.iter().collect();
    if let Some(equal) = request.child("m:Restriction").and_then(|r| r.find("t:IsEqualTo")) {
        let field = equal.find("t:FieldURI").and_then(|f| f.attribute("FieldURI"));
        let value = equal.find("t:Constant").and_then(|c| c.attribute("Value")).unwrap_or_default();
        match field {
            Some("message:InternetMessageId") => {
                wanted.retain(|item| store::header(&item.mime, "Message-ID").as_deref() == Some(value));
            }
            other => {
                let what = format!("{} cannot be searched here.", other.unwrap_or("This"));
                return Err(Refusal::new("ErrorUnsupportedPathForQuery", &what));
            }
        }
    }
    let view = request.child("m:IndexedPageItemView");
    let number = |name| view.and_then(|v| v.attribute(name)).and_then(|n| n.parse().ok());
    let (offset, most) = (number("Offset").unwrap_or(0), number("MaxEntriesReturned").unwrap_or(1000));
    let shape = Shape::of(request, true);
    let page: Vec<&Item> = wanted.iter().copied().skip(offset).take(most).collect();
    let next = offset + page.len();
    let items: String = page.iter().map(|item| item_xml(caller, folder, item, &shape)).collect();
    Ok(format!(
        "<m:RootFolder IndexedPagingOffset=\"{next}\" TotalItemsInView=\"{}\" IncludesLastItemInRange=\"{}\"><t:Items>{items}</t:Items></m:RootFolder>",
        wanted.len(),
        next >= wanted.len()
    ))
}

fn create_item(state: &mut State, caller: &Caller, request: &Element, new: &Element) -> Done<String> {
    let disposition = request.attribute("MessageDisposition").unwrap_or_default().to_owned();
    if disposition.is_empty() {
        return Err(Refusal::new(
            "ErrorMessageDispositionRequired",
            "A disposition is required for messages.",
        ));
    }
    let n = state.number();
    let mime = match new.text_of("t:MimeContent") {
        Some(text) => {
            let packed: String = text.split_whitespace().collect();
            BASE64_STANDARD
                .decode(packed)
                .map_err(|_| Refusal::new("ErrorMimeContentInvalid", "The MIME content is invalid."))?
        }
        None => build(caller, new, n),
    };
    let folder = match request.children_of("m:SavedItemFolderId").first() {
        Some(id) => Some(folder_of(state, caller, id).map_err(|r| {
            if r.0 == "ErrorFolderNotFound" {
                Refusal::new("ErrorSavedItemFolderNotFound", "Save folder not found.")
            } else {
                r
            }
        })?),
        None if disposition == "SaveOnly" => {
            state.mailboxes[&caller.me].distinguished("drafts").map(|f| (caller.me.clone(), f))
        }
        None if disposition == "SendAndSaveCopy" => {
            state.mailboxes[&caller.me].distinguished("sentitems").map(|f| (caller.me.clone(), f))
        }
        None => None,
    };
    if disposition != "SaveOnly" {
        send(
            state,
            caller,
            new,
            &mime,
            folder.as_ref().map(|(address, _)| address.clone()).filter(|_| disposition == "SendAndSaveCopy"),
        )?;
    }
    let mut told = String::new();
    if let Some((address, f)) = folder.filter(|_| disposition != "SendOnly") {
        let mut item = state.new_item(&mime);
        item.read = true;
        let id = state.put(&address, f, item);
        if disposition == "SaveOnly" {
            told = format!("<t:Message><t:ItemId Id=\"{id}\" ChangeKey=\"AQ==\"/></t:Message>");
        }
    }
    Ok(format!("<m:Items>{told}</m:Items>"))
}

fn send(
    state: &mut State,
    caller: &Caller,
    new: &Element,
    mime: &[u8],
    saved_in: Option<String>,
) -> Done<()> {
    let element = |name: &str| -> Vec<String> {
        let mut found = Vec::new();
        if let Some(list) = new.child(name) {
            list.all("t:EmailAddress", &mut found);
        }
        found.iter().map(|e| e.text.trim().to_lowercase()).collect()
    };
    let of_header = store::header(mime, "From").map(|v| store::addresses(&v)).unwrap_or_default();
    let from =
        element("t:From").pop().or_else(|| of_header.first().cloned()).unwrap_or_else(|| caller.me.clone());
    let pair = (caller.account.clone(), from.clone());
    let sender = if from == caller.me || (!caller.impersonates && state.send_as.contains(&pair)) {
        None
    } else if !caller.impersonates && state.on_behalf.contains(&pair) {
        Some(caller.me.clone())
    } else {
        return Err(Refusal::new(
            "ErrorSendAsDenied",
            "The user account which was used to submit this request does not have the right to send mail on behalf of the specified sending account.",
        ));
    };
    let mut recipients = Vec::new();
    let lists = ["t:ToRecipients", "t:CcRecipients", "t:BccRecipients"].map(element);
    let fields = ["To", "Cc", "Bcc"]
        .map(|name| store::header(mime, name).map(|v| store::addresses(&v)).unwrap_or_default());
    for address in lists.into_iter().chain(fields).flatten() {
        if !recipients.contains(&address) {
            recipients.push(address);
        }
    }
    if recipients.is_empty() {
        return Err(Refusal::new(
            "ErrorInvalidRecipients",
            "At least one recipient isn't valid., No recipients.",
        ));
    }
    if let Some(bad) = recipients.iter().find(|r| state.refused_recipients.contains(*r)) {
        return Err(Refusal::new(
            "ErrorInvalidRecipients",
            &format!("At least one recipient isn't valid., {bad}"),
        ));
    }
    for recipient in &recipients {
        if let Some(inbox) = state.mailboxes.get(recipient).and_then(|m| m.distinguished("inbox")) {
            let item = state.new_item(mime);
            state.put(recipient, inbox, item);
        }
    }
    let delivery_receipt = new.text_of("t:IsDeliveryReceiptRequested") == Some("true");
    state.sent.push(Sent {
        account: caller.account.clone(),
        from,
        sender,
        recipients,
        mime: mime.to_vec(),
        saved_in,
        delivery_receipt,
    });
    Ok(())
}

fn update_item(state: &mut State, caller: &Caller, request: &Element, change: &Element) -> Done<String> {
    let id = change.child("t:ItemId").cloned().unwrap_or_default();
    let (address, f, i) = item_of(state, caller, &id)?;
    let always = request.attribute("ConflictResolution") == Some("AlwaysOverwrite");
    if !always && id.attribute("ChangeKey").is_none() {
        return Err(Refusal::new("ErrorChangeKeyRequiredForWriteOperations", "The change key is required."));
    }
    let n = state.number();
    let read = change.find("t:IsRead").map(|e| matches!(e.text.trim(), "true" | "1"));
    let Some(folder) = state.mailboxes.get_mut(&address).map(|m| &mut m.folders[f]) else {
        return Err(no_folder());
    };
    let item = &mut folder.items[i];
    item.change_key = n;
    if let Some(read) = read {
        item.read = read;
        folder.log.push(Change::Read(item.id.clone()));
    }
    let told = format!(
        "<t:Message><t:ItemId Id=\"{}\" ChangeKey=\"{}\"/></t:Message>",
        item.id,
        BASE64_STANDARD.encode(n.to_be_bytes())
    );
    Ok(format!("<m:Items>{told}</m:Items><m:ConflictResults><t:Count>0</t:Count></m:ConflictResults>"))
}

fn move_item(state: &mut State, caller: &Caller, to: &Element, id: &Element) -> Done<String> {
    let to = folder_of(state, caller, to).map_err(|r| {
        if r.0 == "ErrorFolderNotFound" {
            Refusal::new("ErrorToFolderNotFound", "The destination folder was not found.")
        } else {
            r
        }
    })?;
    let (address, f, i) = item_of(state, caller, id)?;
    let Some(item) = state.take(&address, f, i) else { return Err(no_folder()) };
    let id = state.put(&to.0, to.1, item);
    Ok(format!("<m:Items><t:Message><t:ItemId Id=\"{id}\" ChangeKey=\"AQ==\"/></t:Message></m:Items>"))
}

fn delete_item(state: &mut State, caller: &Caller, how: &str, id: &Element) -> Done<String> {
    let (address, f, i) = item_of(state, caller, id)?;
    let Some(item) = state.take(&address, f, i) else { return Err(no_folder()) };
    if how == "MoveToDeletedItems"
        && let Some(bin) = state.mailboxes[&address].distinguished("deleteditems")
    {
        state.put(&address, bin, item);
    }
    Ok(String::new())
}

fn resolve(state: &State, entry: &str) -> Done<String> {
    if !state.mailboxes.contains_key(entry) {
        return Err(Refusal::new("ErrorNameResolutionNoResults", "No results were found."));
    }
    Ok(format!(
        "<m:ResolutionSet TotalItemsInView=\"1\" IncludesLastItemInRange=\"true\"><t:Resolution><t:Mailbox><t:Name>{entry}</t:Name>\
         <t:EmailAddress>{entry}</t:EmailAddress><t:RoutingType>SMTP</t:RoutingType><t:MailboxType>Mailbox</t:MailboxType></t:Mailbox></t:Resolution></m:ResolutionSet>"
    ))
}

/// `legacyExchangeDN` of a mailbox, lower case.
pub(super) fn directory_name(address: &str) -> String {
    let local = address.split('@').next().unwrap_or_default();
    format!("/o=contoso/ou=exchange administrative group (fydibohf23spdlt)/cn=recipients/cn={local}")
}

pub(super) fn by_directory_names(state: &State, element: &mut Element) {
    let address = element.text_of("t:EmailAddress").unwrap_or_default().to_lowercase();
    if element.name == "t:Address" && state.mailboxes.contains_key(&address) {
        let leaf = |name: &str, text: String| Element { name: name.to_owned(), text, ..Element::default() };
        element.children = vec![
            leaf("t:Name", address.clone()),
            leaf("t:EmailAddress", directory_name(&address)),
            leaf("t:RoutingType", "EX".to_owned()),
        ];
    }
    element.children.iter_mut().for_each(|child| by_directory_names(state, child));
}
