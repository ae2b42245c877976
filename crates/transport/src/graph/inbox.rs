//! One session on one mailbox.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_model::{Classified as _, RawMessage, RemoteId, Scope, Timestamp};

use super::client::Client;
use super::disposal::Disposal;
use super::listing::{Listed, Listings};
use super::proto::page::Item;
use super::reads::Reads;
use crate::contract::{Disposition, Inbox, Part, ReceiveOptions, Stub};
use crate::{Error, ErrorKind, Result};

/// An Inbox that was listed.
pub(super) struct GraphInbox {
    client: Client,
    listings: Arc<Listings>,
    options: ReceiveOptions,
    /// The listing is another one than that which the last token stands for.
    changed: bool,
    /// What is listed, oldest first.
    stubs: Vec<Stub>,
    at: usize,
    /// Places in `stubs`.
    known: HashMap<RemoteId, usize>,
    reads: Reads,
    disposal: Disposal,
    /// Why the session is over.
    failed: Option<String>,
}

impl GraphInbox {
    pub(super) fn new(
        client: Client,
        listings: Arc<Listings>,
        options: ReceiveOptions,
        listed: Listed,
    ) -> Self {
        let stubs: Vec<Stub> =
            listed.messages.into_iter().take(options.max_messages).map(|(id, item)| stub(id, item)).collect();
        let known = stubs.iter().enumerate().map(|(place, stub)| (stub.id.clone(), place)).collect();
        Self {
            reads: Reads::new(client.clone(), options.clone()),
            disposal: Disposal::new(client.clone(), Arc::clone(&listings)),
            listings,
            changed: listed.changed,
            client,
            options,
            stubs,
            at: 0,
            known,
            failed: None,
        }
    }

    /// Ends the session for good after an error that concerns more than a message.
    fn checked<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && error.scope() > Scope::Message
        {
            self.failed = Some(error.to_string());
        }
        result
    }

    fn usable(&mut self) -> Result<()> {
        if let Some(why) = &self.failed {
            let message = format!("{}: the session has failed before: {why}", self.client.place());
            return Err(Error::new(ErrorKind::ConnectionLost, message));
        }
        let seen = self.disposal.look();
        self.checked(seen)
    }

    fn place_of(&self, id: &RemoteId) -> Result<usize> {
        self.known.get(id).copied().ok_or_else(|| {
            Error::new(ErrorKind::MessageGone, format!("{}: no message {id} is listed", self.client.place()))
        })
    }

    fn received(&self, place: usize) -> Option<Timestamp> {
        self.stubs[place].received
    }

    async fn read(&mut self, id: &RemoteId, part: Part) -> Result<(usize, Bytes)> {
        self.usable()?;
        let place = self.place_of(id)?;
        let limit = self.options.max_message_bytes;
        // a size well beyond the limit needs no try; the size in the store and that of the message differ a little
        if part == Part::Whole
            && let Some(size) = self.stubs[place].size
            && size / 2 > limit
        {
            let message = format!("{}: {size} bytes are more than the limit of {limit}", self.client.place());
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let read = self.reads.obtain(&(id.as_str().to_owned(), part)).await;
        Ok((place, self.checked(read)?))
    }
}

fn stub(id: String, item: Item) -> Stub {
    Stub {
        size: item.size,
        received: item.received,
        conversation_id: item.conversation,
        message_class: item.class,
        ..Stub::new(RemoteId::new(id))
    }
}

#[async_trait]
impl Inbox for GraphInbox {
    async fn next(&mut self) -> Result<Option<Stub>> {
        self.usable()?;
        let next = self.stubs.get(self.at).cloned();
        self.at += usize::from(next.is_some());
        Ok(next)
    }

    async fn prefetch(&mut self, wanted: &[(RemoteId, Part)]) -> Result<()> {
        self.usable()?;
        for (id, part) in wanted {
            if let Some(&place) = self.known.get(id) {
                self.reads.hint((id.as_str().to_owned(), *part), self.stubs[place].size);
            }
        }
        self.reads.top_up();
        Ok(())
    }

    async fn headers(&mut self, id: &RemoteId) -> Result<Bytes> {
        Ok(self.read(id, Part::Headers).await?.1)
    }

    async fn fetch(&mut self, id: &RemoteId) -> Result<RawMessage> {
        let (place, bytes) = self.read(id, Part::Whole).await?;
        let mut message = RawMessage::new(bytes);
        message.received = self.received(place);
        message.conversation_id = self.stubs[place].conversation_id.clone();
        Ok(message)
    }

    fn resume_token(&mut self) -> Option<Bytes> {
        if self.failed.is_some() || !self.changed {
            return None;
        }
        self.listings.token(&self.client)
    }

    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Result<()> {
        self.usable()?;
        // what is not listed is gone, and that is as good as done
        if self.known.contains_key(id) && what != Disposition::Keep {
            self.disposal.add(id.as_str(), what);
        }
        Ok(())
    }

    async fn close(mut self: Box<Self>) -> Result<()> {
        self.usable()?;
        let Self { disposal, reads, .. } = *self;
        drop(reads);
        let mut disposal = disposal;
        disposal.finish().await
    }
}
