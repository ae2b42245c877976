//! Which messages may be worked on at the same time.
//!
//! A message is decided by what the CRM holds, and what is delivered a moment before is part of that: the first message of a
//! conversation has to be in the CRM when its answer is decided. So whatever ties two messages of a mailbox together puts them one
//! after the other, in the order of the mailbox; all others may be on their way together, which is what lets their commits share a
//! flush. Between mailboxes there is no order, as there is none between their passes.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::decide::{Decider, OrganizationView};
use crate::message::Message;
use email_router_crm::UnknownSender;

/// What decisions can find a message by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// Its identity, and what it refers to.
    Id(String),
    /// Root of the Thread-Index.
    Root(String),
    /// The mail system's id of the conversation.
    Conversation(String),
    /// A tracking token in the subject; letter case does not count.
    Token(String),
    /// Hashes of the words of the subject, for smart matching.
    Words(Vec<i64>),
    /// The sender, where a record is made for one that is not known.
    Sender(String),
    /// Anyone it names, where such a record could be found for him.
    Named(String),
}

impl Key {
    /// What another message must not have beside this one.
    fn against(&self) -> Cow<'_, Self> {
        match self {
            // Many name the same address, such as that of a list; only who writes from it can change who that is. The sender is named too.
            Self::Sender(address) => Cow::Owned(Self::Named(address.clone())),
            Self::Named(address) => Cow::Owned(Self::Sender(address.clone())),
            same => Cow::Borrowed(same),
        }
    }
}

/// What ties a message to others.
#[derive(Debug, Default)]
pub(super) struct Claims {
    keys: Vec<Key>,
    /// It may be tied to any message.
    everything: bool,
}

impl Claims {
    pub(super) fn of(decider: &Decider, view: &OrganizationView, message: &Message) -> Self {
        let settings = view.settings();
        let smart = settings.enable_smart_matching && !settings.disable_smart_matching_email_hash_creation;
        let mut claims = Self {
            keys: Vec::new(),
            // a report changes the e-mail it speaks of; subjects that need not agree in all words may agree with any
            everything: message.report.is_some() || (smart && settings.hash_delta_subject_count > 0),
        };
        if claims.everything {
            return claims;
        }
        let own = decider.own_mail(view, message).map(|own| own.message_id);
        let named = message.in_reply_to.iter().chain(&message.references).chain(&own);
        claims.keys.extend(named.map(|id| Key::Id(id.as_str().to_owned())));
        claims.keys.extend(message.identity().map(Key::Id));
        claims.keys.extend(message.conversation_root().map(|root| Key::Root(root.to_owned())));
        claims.keys.extend(message.conversation_id.clone().map(Key::Conversation));
        let tokens = view.tokens().find(&message.subject).into_iter();
        claims.keys.extend(tokens.map(|t| Key::Token(t.text.to_lowercase())));
        let words = if smart { view.smart().hashes(&message.subject, []).words } else { Vec::new() };
        claims.keys.extend((!words.is_empty()).then_some(Key::Words(words)));
        if settings.create_unknown_sender != UnknownSender::None {
            let sender = message.from.as_ref().and_then(|p| p.address.as_ref());
            let bases = settings.plus_addressing;
            let named = sender.into_iter().chain(message.recipients().filter_map(|p| p.address.as_ref()));
            for address in named {
                let base = address.without_detail().filter(|_| bases);
                claims.keys.extend(base.map(|base| Key::Named(base.key())));
                claims.keys.push(Key::Named(address.key()));
            }
            claims.keys.extend(sender.map(|sender| Key::Sender(sender.key())));
        }
        claims
    }
}

/// The claims of the messages that are worked on.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    keys: HashMap<Key, usize>,
    messages: usize,
    everything: bool,
}

impl Claimed {
    /// Whether a message may be worked on beside those that are.
    pub(super) fn allows(&self, claims: &Claims) -> bool {
        self.messages == 0
            || !(self.everything
                || claims.everything
                || claims.keys.iter().any(|key| self.keys.contains_key(&*key.against())))
    }

    pub(super) fn add(&mut self, claims: &Claims) {
        self.messages += 1;
        self.everything |= claims.everything;
        for key in &claims.keys {
            *self.keys.entry(key.clone()).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, claims: &Claims) {
        self.messages -= 1;
        // who claims everything is alone
        self.everything &= !claims.everything;
        for key in &claims.keys {
            if let Some(count) = self.keys.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    self.keys.remove(key);
                }
            }
        }
    }
}
