//! What is kept of a listing over a restart ([`Inbox::resume_token`](crate::Inbox::resume_token)): the messages, and where the changes since are
//! asked for. A delta tells only what changed, so its link alone would be of no use.

use std::collections::HashMap;

use bytes::Bytes;
use email_router_model::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use super::link;
use super::page::Item;
use crate::contract::LARGEST_RESUME_TOKEN;

/// The form of a token; others are not read.
const FORM: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Token<'a> {
    form: u32,
    /// Of which mailbox of which service.
    place: &'a str,
    delta: String,
    messages: Vec<Entry>,
}

/// Id, time of receipt in milliseconds, size, conversation, class.
type Entry = (String, Option<i64>, Option<u64>, Option<String>, Option<String>);

/// The token for these messages; `None` where it would be larger than a token may be.
#[must_use]
pub fn write(base: &Url, mailbox: &str, messages: &HashMap<String, Item>, delta: &Url) -> Option<Bytes> {
    // an id alone has more than a hundred characters: what cannot fit is not written first
    if messages.len() > LARGEST_RESUME_TOKEN / 64 {
        return None;
    }
    let entry = |(id, item): (&String, &Item)| {
        let received = item.received.map(Timestamp::as_millisecond);
        (id.clone(), received, item.size, item.conversation.clone(), item.class.clone())
    };
    let place = place(base, mailbox);
    let token = Token {
        form: FORM,
        place: &place,
        delta: delta.to_string(),
        messages: messages.iter().map(entry).collect(),
    };
    let bytes = serde_json::to_vec(&token).ok()?;
    (bytes.len() <= LARGEST_RESUME_TOKEN).then(|| Bytes::from(bytes))
}

/// The messages and the link of a token; `None` where it is damaged, or of another mailbox or service.
#[must_use]
pub fn read(base: &Url, mailbox: &str, token: &[u8]) -> Option<(HashMap<String, Item>, Url)> {
    if token.len() > LARGEST_RESUME_TOKEN {
        return None;
    }
    let text = std::str::from_utf8(token).ok()?;
    let token: Token<'_> = serde_json::from_str(text).ok()?;
    if token.form != FORM || token.place != place(base, mailbox) {
        return None;
    }
    let delta = link::followed(base, &token.delta).ok()?;
    let item = |(id, received, size, conversation, class): Entry| {
        let received = received.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        (id, Item { received, size, conversation, class })
    };
    Some((token.messages.into_iter().map(item).filter(|(id, _)| !id.is_empty()).collect(), delta))
}

fn place(base: &Url, mailbox: &str) -> String {
    format!("{base} {mailbox}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let base = Url::parse("https://graph.microsoft.com/v1.0").unwrap();
        let delta = Url::parse("https://graph.microsoft.com/v1.0/users/a/delta?$deltatoken=x").unwrap();
        let item = Item {
            received: Some("2024-01-02T03:04:05Z".parse().unwrap()),
            size: Some(5),
            conversation: Some("c".to_owned()),
            class: None,
        };
        let messages = HashMap::from([("A".to_owned(), item), ("B".to_owned(), Item::default())]);
        let token = write(&base, "a@b", &messages, &delta).unwrap();
        assert_eq!(read(&base, "a@b", &token), Some((messages.clone(), delta.clone())));
        assert_eq!(read(&base, "other@b", &token), None);
        let china = Url::parse("https://microsoftgraph.chinacloudapi.cn/v1.0").unwrap();
        assert_eq!(read(&china, "a@b", &token), None);
        for end in 0..token.len() {
            assert_eq!(read(&base, "a@b", &token[..end]), None, "{end}");
        }
        let foreign = Url::parse("https://evil.example/v1.0/x").unwrap();
        let token = write(&base, "a@b", &messages, &foreign).unwrap();
        assert_eq!(read(&base, "a@b", &token), None, "a link to another place");
    }

    #[test]
    fn a_token_has_a_largest_size() {
        let base = Url::parse("https://graph.microsoft.com/v1.0").unwrap();
        let many = |count: usize| -> HashMap<String, Item> {
            (0..count).map(|n| (format!("{n:0150}"), Item::default())).collect()
        };
        assert!(write(&base, "a", &many(5000), &base).is_some());
        assert!(write(&base, "a", &many(7000), &base).is_none());
        assert!(write(&base, "a", &many(20_000), &base).is_none());
    }
}
