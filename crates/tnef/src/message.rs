//! What a stream holds, as a reader of mail sees it.

/// A message out of a TNEF stream. Bytes are borrowed from the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message<'a> {
    /// Its class, such as `IPM.Note` (a mail) or `IPM.Schedule.Meeting.Request`.
    pub class: Option<String>,
    /// The subject.
    pub subject: Option<String>,
    /// Who it is from: whom the sender represents, else the sender.
    pub from: Option<Mailbox>,
    /// Who handed it in, where that is somebody else.
    pub sender: Option<Mailbox>,
    /// Its recipients, in their order.
    pub recipients: Vec<Recipient>,
    /// When it was sent, seconds since 1970 UTC.
    pub sent: Option<i64>,
    /// When it arrived, seconds since 1970 UTC.
    pub received: Option<i64>,
    /// The Message-ID, as written.
    pub message_id: Option<String>,
    /// In-Reply-To, as written.
    pub in_reply_to: Option<String>,
    /// References, as written.
    pub references: Option<String>,
    /// The conversation index, as it stands in Thread-Index before base64.
    pub conversation_index: Option<&'a [u8]>,
    /// The importance.
    pub importance: Importance,
    /// The header section it came with through the Internet.
    pub transport_headers: Option<String>,
    /// The body as plain text; taken out of the RTF where there is no other.
    pub text: Option<String>,
    /// The body as HTML; taken out of the RTF where that carries it ([MS-OXRTFEX]).
    pub html: Option<String>,
    /// The body as RTF, where that is what was written: it carries neither HTML nor plain text.
    pub rtf: Option<Vec<u8>>,
    /// The attachments, in their order.
    pub attachments: Vec<Attachment<'a>>,
}

/// Somebody with a mail address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mailbox {
    /// The display name.
    pub name: Option<String>,
    /// The Internet address. `None` where the stream tells only an address of another kind, such as one of an Exchange directory.
    pub address: Option<String>,
}

/// A recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// To, Cc or Bcc.
    pub kind: RecipientKind,
    /// Who.
    pub mailbox: Mailbox,
}

/// Where a recipient stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientKind {
    /// In To.
    To,
    /// In Cc.
    Cc,
    /// In Bcc.
    Bcc,
}

/// PidTagImportance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Importance {
    /// Low.
    Low,
    /// Normal, or not said.
    #[default]
    Normal,
    /// High.
    High,
}

/// An attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attachment<'a> {
    /// Its name: the long one, else the short one. As it was written: it may hold a path.
    pub name: Option<String>,
    /// Its media type.
    pub mime_type: Option<String>,
    /// Its Content-ID, without angle brackets.
    pub content_id: Option<String>,
    /// Its Content-Location.
    pub content_location: Option<String>,
    /// Whether the body shows it, so that it need not be listed.
    pub inline: bool,
    /// What it is.
    pub content: Content<'a>,
}

/// What an attachment is (PidTagAttachMethod).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content<'a> {
    /// A file.
    Data(&'a [u8]),
    /// A message.
    Message(Box<Message<'a>>),
    /// An object of another program, in its storage format (OLE compound file, or a metafile).
    Ole(&'a [u8]),
    /// Nothing that could be read, or only a reference to a place where it lies.
    Missing,
}

impl Message<'_> {
    /// Whether it is ordinary mail, of which the fields of this type tell everything. A meeting, task, contact or report has properties
    /// of its own that are not read.
    #[must_use]
    pub fn is_note(&self) -> bool {
        const MAIL: &[&str] = &["ipm", "ipm.note", "ipm.microsoft mail.note"];
        self.class.as_deref().is_none_or(|class| {
            let class = class.to_ascii_lowercase();
            MAIL.contains(&class.as_str()) || class.starts_with("ipm.note.")
        })
    }
}
