//! Ids. Each is its own type, so that none can be taken for another.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::EmailAddress;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The id with this text.
            #[must_use]
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }
            /// The text of the id.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), self.0)
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    };
}

text_id! {
    /// Identifies a message within one mailbox on one mail system: a POP3 unique-id, a Maildir base name, an EWS item id. Opaque;
    /// the same message keeps it between sessions where the transport's capability says so.
    RemoteId
}
text_id! {
    /// Identifies a mailbox the router serves, in state, logs and metrics.
    MailboxId
}

/// The Message-ID of a message (RFC 5322 3.6.4) in one normal form: with angle brackets, without white space around or in it,
/// letter case kept. Equality is exact.
///
/// ```
/// use email_router_model::MessageId;
/// assert_eq!(MessageId::parse(" <a@b>\r\n").unwrap().as_str(), "<a@b>");
/// assert_eq!(MessageId::parse("a@b"), MessageId::parse("<a@b>"));
/// assert!(MessageId::parse("  <> ").is_none());
/// let refs: Vec<_> = MessageId::parse_list("<a@b> (was <x@y>)\r\n <c@d>").collect();
/// assert_eq!(refs.len(), 3);
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(String);

impl MessageId {
    /// The longest id, in octets with its brackets. RFC 5322 2.1.1 limits a line to 998, and an answer must be able to carry the id as it
    /// is. Of a longer one the beginning is kept, with the SHA-256 of the whole behind it: two that differ stay two. (Dataverse's column
    /// has room for 320; what is written there and looked for there is the business of who writes there.)
    pub const MAX_OCTETS: usize = 998;

    /// Reads one id out of a header value; `None` when there is nothing in it. White space and control characters inside are
    /// removed, since broken folding puts them there.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut inner: String = text.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect();
        if let (Some(open), Some(close)) = (inner.find('<'), inner.rfind('>'))
            && open < close
        {
            inner = inner[open + 1..close].to_owned();
        }
        inner.retain(|c| !matches!(c, '<' | '>'));
        if inner.len() > Self::MAX_OCTETS - 2 {
            let digest = format!(".sha256.{}", crate::raw::hex(&Sha256::digest(&inner)));
            let mut end = Self::MAX_OCTETS - 2 - digest.len();
            while !inner.is_char_boundary(end) {
                end -= 1;
            }
            inner.truncate(end);
            inner += &digest;
        }
        (!inner.is_empty()).then(|| Self(format!("<{inner}>")))
    }

    /// All ids of an `In-Reply-To` or `References` value, in order; text between them is passed over. Ids without angle
    /// brackets are read when the value holds no bracket at all.
    pub fn parse_list(text: &str) -> impl Iterator<Item = Self> + use<> {
        let found: Vec<Self> = if text.contains('<') {
            text.split('<')
                .skip(1)
                .filter_map(|part| part.split_once('>'))
                .filter_map(|(id, _)| Self::parse(id))
                .collect()
        } else {
            text.split(|c: char| c.is_whitespace() || c == ',').filter_map(Self::parse).collect()
        };
        found.into_iter()
    }

    /// The id with its angle brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id without its angle brackets.
    #[must_use]
    pub fn bare(&self) -> &str {
        &self.0[1..self.0.len() - 1]
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({:?})", self.0)
    }
}

/// Which way a message travels; Dataverse's `directioncode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From a mail system into the CRM.
    Incoming,
    /// From the CRM out.
    Outgoing,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incoming => "incoming",
            Self::Outgoing => "outgoing",
        })
    }
}

/// Identifies an organization: the namespace in which activity ids are derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrganizationId(Uuid);

impl OrganizationId {
    /// The organization reached at this URL: UUIDv5 of the URL in the URL namespace (RFC 9562 5.5).
    #[must_use]
    pub fn from_url(url: &str) -> Self {
        Self(Uuid::new_v5(&Uuid::NAMESPACE_URL, url.as_bytes()))
    }

    /// The organization with this id.
    #[must_use]
    pub const fn from_uuid(id: Uuid) -> Self {
        Self(id)
    }

    /// The id itself.
    #[must_use]
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

/// Identifies an e-mail activity in the CRM.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActivityId(Uuid);

impl ActivityId {
    /// The id a received message has, whichever router delivers it and however often: UUIDv5 over direction and identity in the
    /// organization's namespace. `identity` is the Message-ID, or a content digest where there is none.
    ///
    /// ```
    /// use email_router_model::{ActivityId, Direction, OrganizationId};
    /// let org = OrganizationId::from_url("https://contoso.crm.dynamics.com/");
    /// let id = ActivityId::derive(&org, Direction::Incoming, "<a@b>");
    /// assert_eq!(id.to_string(), "96114af9-4db0-507e-bd96-bb05ada4ca2f");
    /// ```
    #[must_use]
    pub fn derive(organization: &OrganizationId, direction: Direction, identity: &str) -> Self {
        let side = match direction {
            Direction::Incoming => "in",
            Direction::Outgoing => "out",
        };
        Self(Uuid::new_v5(organization.as_uuid(), format!("{side}\n{identity}").as_bytes()))
    }

    /// The activity with this id.
    #[must_use]
    pub const fn from_uuid(id: Uuid) -> Self {
        Self(id)
    }

    /// The id itself.
    #[must_use]
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl fmt::Display for ActivityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Debug for ActivityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActivityId({})", self.0)
    }
}
impl std::str::FromStr for ActivityId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A record of any table of the CRM: the table's logical name (`contact`, `systemuser`, `queue`, `email`, ...) and its key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordRef {
    /// Logical name of the table, lower case, as Dataverse spells it.
    pub table: String,
    /// Primary key.
    pub id: Uuid,
}

impl RecordRef {
    /// The record `id` of `table`.
    #[must_use]
    pub fn new(table: impl Into<String>, id: Uuid) -> Self {
        Self { table: table.into(), id }
    }

    /// The record that is created in `table` for an address nobody has: its id is UUIDv5 over table and address (in lower case) in the
    /// organization's namespace, so that two messages of one stranger, or two routers, create one record.
    ///
    /// ```
    /// use email_router_model::{OrganizationId, RecordRef};
    /// let org = OrganizationId::from_url("https://contoso.crm.dynamics.com/");
    /// let contact = RecordRef::derive(&org, "contact", &"Zoe@Example.com".parse()?);
    /// assert_eq!(contact, RecordRef::derive(&org, "contact", &"zoe@example.com".parse()?));
    /// assert_ne!(contact.id, RecordRef::derive(&org, "lead", &"zoe@example.com".parse()?).id);
    /// assert_eq!(contact.id.to_string(), "6d52c128-474d-56a3-b06b-f04be9f0f50f");
    /// # Ok::<(), email_router_model::AddressError>(())
    /// ```
    #[must_use]
    pub fn derive(organization: &OrganizationId, table: &str, address: &EmailAddress) -> Self {
        let name = format!("record\n{table}\n{}", address.key());
        Self::new(table, Uuid::new_v5(organization.as_uuid(), name.as_bytes()))
    }
}

impl fmt::Display for RecordRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.table, self.id)
    }
}
impl fmt::Debug for RecordRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids() {
        for (text, expected) in [
            ("<a@b>", Some("<a@b>")),
            ("<a@\r\n b>", Some("<a@b>")),
            ("junk <A@b> more", Some("<A@b>")),
            ("<<a@b>>", Some("<a@b>")),
            ("", None),
            ("<>", None),
            (" \t", None),
        ] {
            assert_eq!(MessageId::parse(text).as_ref().map(MessageId::as_str), expected, "{text:?}");
        }
        let longest = format!("<{}@x>", "a".repeat(MessageId::MAX_OCTETS - 4));
        assert_eq!(MessageId::parse(&longest).unwrap().as_str(), longest);
        // longer ones differ wherever they differ, are read again as what they became, and are never cut within a character
        for filler in ["a", "é", "中"] {
            let long = |end: &str| MessageId::parse(&format!("<x{}{end}>", filler.repeat(2000))).unwrap();
            assert_ne!(long("1"), long("2"));
            assert!(long("1").as_str().len() <= MessageId::MAX_OCTETS);
            assert_eq!(MessageId::parse(long("1").as_str()).unwrap(), long("1"));
        }
    }

    #[test]
    fn organization_vector() {
        assert_eq!(
            OrganizationId::from_url("https://contoso.crm.dynamics.com/").as_uuid().to_string(),
            "7f307179-5ec3-53da-be2d-891e1d5c7666"
        );
    }
}
