//! Loop limits: how many messages of one sender, of one sender to one mailbox, and of one sender about one record become activities
//! in a sliding window.
//!
//! Two programs that answer each other need not mark their mail, so that only the pace gives them away. What is over a limit waits: it
//! is tried again when the window has moved on, so nothing is lost, and a loop is slowed down to the pace of the limit until somebody
//! looks at the alarm. Only recent messages are counted and held: an inbox of last year's mail is no loop, however much of it there is.
//!
//! The windows are in memory. After a restart they are empty, so a loop gets at most one more window's worth of activities.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use email_router_crm::OrganizationSettings;
use email_router_model::{ActivityId, EmailAddress, MailboxId, RecordRef, Timestamp};

/// Windows that are kept; beyond them the ones that were idle longest are dropped.
const MAX_WINDOWS: usize = 50_000;

/// Counts what becomes an activity. Shared by all passes of an organization.
#[derive(Debug, Default)]
pub struct LoopGuard(Mutex<HashMap<Key, VecDeque<Timestamp>>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Sender(String),
    Pair(String, MailboxId),
    Record(String, RecordRef),
    Conversation(String, ActivityId),
}

/// What a message is about, for the limits.
#[derive(Debug, Clone, Copy)]
pub struct Suspect<'a> {
    /// Its sender.
    pub sender: &'a EmailAddress,
    /// The mailbox it was found in.
    pub mailbox: &'a MailboxId,
    /// The record it is about.
    pub regarding: Option<&'a RecordRef>,
    /// The e-mail it answers; counts where it is about no record.
    pub correlated: Option<ActivityId>,
    /// When the mail system received it, where that is known.
    pub received: Option<Timestamp>,
}

/// A message that has to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Until the oldest message in the window has left it.
    pub until: Timestamp,
    /// Which limit, about whom, and what to do.
    pub why: String,
}

impl LoopGuard {
    /// No message was counted yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a message that is about to become an activity; [`Admission::keep`] says that it did. The count is there at once, so that
    /// messages that are worked on at the same time do not pass a limit together.
    ///
    /// # Errors
    /// It has to wait: until when, and why.
    pub fn admit(
        &self,
        settings: &OrganizationSettings,
        suspect: &Suspect<'_>,
        now: Timestamp,
    ) -> Result<Admission<'_>, Held> {
        let window = window(settings);
        let mut admission = Admission { guard: self, counted: Vec::new(), at: now };
        if !is_recent(suspect.received, now, window) {
            return Ok(admission);
        }
        let keys: Vec<_> = keys(settings, suspect).into_iter().filter(|(_, limit, _)| *limit > 0).collect();
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, limit, name) in &keys {
            let Some(times) = windows.get_mut(key) else { continue };
            forget_old(times, now, window);
            if times.len() >= *limit as usize {
                let oldest = times.front().copied().unwrap_or(now);
                let until = oldest.checked_add(window).unwrap_or(Timestamp::MAX);
                let minutes = settings.loop_window_minutes;
                let why = format!(
                    "{}: {limit} messages in {minutes} minutes are the most ({name}); it looks like a loop. held until {until}, then it goes on by \
                     itself. stop the program that answers, or raise {name}",
                    key.about()
                );
                return Err(Held { until, why });
            }
        }
        for (key, ..) in keys {
            if windows.len() >= MAX_WINDOWS && !windows.contains_key(&key) {
                make_room(&mut windows, now, window);
            }
            windows.entry(key.clone()).or_default().push_back(now);
            admission.counted.push(key);
        }
        Ok(admission)
    }
}

/// The count of one message. It is taken back when this is dropped, unless the message became an activity.
#[derive(Debug)]
#[must_use = "a message that became an activity is counted only when this is kept"]
pub struct Admission<'g> {
    guard: &'g LoopGuard,
    counted: Vec<Key>,
    at: Timestamp,
}

impl Admission<'_> {
    /// It became an activity.
    pub fn keep(mut self) {
        self.counted.clear();
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.counted.is_empty() {
            return;
        }
        let mut windows = self.guard.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.counted {
            let Some(times) = windows.get_mut(key) else { continue };
            if let Some(place) = times.iter().rposition(|at| *at == self.at) {
                times.remove(place);
            }
            if times.is_empty() {
                windows.remove(key);
            }
        }
    }
}

impl Key {
    fn about(&self) -> String {
        match self {
            Self::Sender(sender) => format!("mail from {sender}"),
            Self::Pair(sender, mailbox) => format!("mail from {sender} in {mailbox}"),
            Self::Record(sender, record) => format!("mail from {sender} about {record}"),
            Self::Conversation(sender, email) => format!("answers of {sender} to the e-mail {email}"),
        }
    }
}

fn window(settings: &OrganizationSettings) -> Duration {
    Duration::from_secs(u64::from(settings.loop_window_minutes.max(1)) * 60)
}

/// A message of unknown age is taken for recent; so is one from a clock that runs ahead.
fn is_recent(received: Option<Timestamp>, now: Timestamp, window: Duration) -> bool {
    received.is_none_or(|received| now.checked_sub(window).is_ok_and(|start| received >= start))
}

fn keys(settings: &OrganizationSettings, s: &Suspect<'_>) -> Vec<(Key, u32, &'static str)> {
    let sender = s.sender.key();
    let mut keys = vec![
        (Key::Sender(sender.clone()), settings.loop_limit_per_sender, "looplimitpersender"),
        (Key::Pair(sender.clone(), s.mailbox.clone()), settings.loop_limit_per_pair, "looplimitperpair"),
    ];
    let record = match (s.regarding, s.correlated) {
        (Some(record), _) => Some(Key::Record(sender, record.clone())),
        (None, Some(email)) => Some(Key::Conversation(sender, email)),
        (None, None) => None,
    };
    keys.extend(record.map(|key| (key, settings.loop_limit_per_record, "looplimitperrecord")));
    keys
}

fn forget_old(times: &mut VecDeque<Timestamp>, now: Timestamp, window: Duration) {
    let start = now.checked_sub(window).unwrap_or(Timestamp::MIN);
    while times.front().is_some_and(|at| *at <= start) {
        times.pop_front();
    }
}

/// Drops windows that are over; where all run, the half that was idle longest.
fn make_room(windows: &mut HashMap<Key, VecDeque<Timestamp>>, now: Timestamp, window: Duration) {
    windows.retain(|_, times| {
        forget_old(times, now, window);
        !times.is_empty()
    });
    if windows.len() < MAX_WINDOWS {
        return;
    }
    let mut last: Vec<Timestamp> = windows.values().filter_map(|times| times.back().copied()).collect();
    let middle = last.len() / 2;
    let (_, median, _) = last.select_nth_unstable(middle);
    let median = *median;
    windows.retain(|_, times| times.back().is_some_and(|at| *at > median));
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }
    fn settings(sender: u32, pair: u32, record: u32) -> OrganizationSettings {
        OrganizationSettings {
            loop_window_minutes: 1,
            loop_limit_per_sender: sender,
            loop_limit_per_pair: pair,
            loop_limit_per_record: record,
            ..OrganizationSettings::default()
        }
    }
    fn address(text: &str) -> EmailAddress {
        text.parse().unwrap()
    }

    /// Routes one message as the incoming pass does; the time until which it is held.
    fn route(guard: &LoopGuard, s: &OrganizationSettings, suspect: &Suspect<'_>, now: i64) -> Option<i64> {
        match guard.admit(s, suspect, at(now)) {
            Err(held) => Some(held.until.as_second() - 1_700_000_000),
            Ok(admission) => {
                admission.keep();
                None
            }
        }
    }

    #[test]
    fn a_sender_over_its_limit_waits_until_the_window_moves_on() {
        let (guard, s) = (LoopGuard::new(), settings(3, 0, 0));
        let (bob, carol, inbox) = (address("bob@x.example"), address("carol@x.example"), MailboxId::new("m"));
        let of =
            |sender| Suspect { sender, mailbox: &inbox, regarding: None, correlated: None, received: None };
        assert_eq!([0, 10, 20].map(|now| route(&guard, &s, &of(&bob), now)), [None; 3]);
        assert_eq!(route(&guard, &s, &of(&bob), 30), Some(60), "until the first has left the window");
        assert_eq!(route(&guard, &s, &of(&carol), 30), None, "another sender is not to blame");
        let same = address("BOB@X.example");
        assert_eq!(route(&guard, &s, &of(&same), 31), Some(60), "letter case hides nobody");
        assert_eq!(route(&guard, &s, &of(&bob), 60), None, "released by itself");
        assert_eq!(route(&guard, &s, &of(&bob), 61), Some(70));
        let why = guard.admit(&s, &of(&bob), at(61)).unwrap_err().why;
        assert!(why.contains("bob@x.example") && why.contains("looplimitpersender"), "{why}");
    }

    #[test]
    fn who_is_on_the_way_counts_until_it_fails() {
        let (guard, s) = (LoopGuard::new(), settings(2, 0, 0));
        let (bob, inbox) = (address("bob@x.example"), MailboxId::new("m"));
        let suspect =
            Suspect { sender: &bob, mailbox: &inbox, regarding: None, correlated: None, received: None };
        let first = guard.admit(&s, &suspect, at(0)).unwrap();
        let second = guard.admit(&s, &suspect, at(0)).unwrap();
        assert_eq!(route(&guard, &s, &suspect, 0), Some(60), "both may become activities");
        drop(first);
        second.keep();
        assert_eq!([0, 0].map(|now| route(&guard, &s, &suspect, now)), [None, Some(60)]);
        let third = address("third@x.example");
        drop(guard.admit(&s, &Suspect { sender: &third, ..suspect }, at(0)).unwrap());
        assert_eq!(guard.0.lock().unwrap().len(), 1, "what failed leaves nothing behind");
    }

    #[test]
    fn pairs_records_and_conversations() {
        let (bob, a, b) = (address("bob@x.example"), MailboxId::new("a"), MailboxId::new("b"));
        let (case, other) =
            (RecordRef::new("incident", Uuid::from_u128(1)), RecordRef::new("incident", Uuid::from_u128(2)));
        let suspect = |mailbox, regarding, correlated| Suspect {
            sender: &bob,
            mailbox,
            regarding,
            correlated,
            received: None,
        };
        let (guard, s) = (LoopGuard::new(), settings(0, 1, 0));
        assert_eq!(route(&guard, &s, &suspect(&a, None, None), 0), None);
        assert_eq!(route(&guard, &s, &suspect(&b, None, None), 0), None);
        assert_eq!(route(&guard, &s, &suspect(&a, None, None), 1), Some(60));
        let (guard, s) = (LoopGuard::new(), settings(0, 0, 1));
        assert_eq!(route(&guard, &s, &suspect(&a, Some(&case), None), 0), None);
        assert_eq!(route(&guard, &s, &suspect(&a, Some(&other), None), 0), None);
        assert_eq!(route(&guard, &s, &suspect(&a, Some(&case), None), 1), Some(60));
        let mail = ActivityId::from_uuid(Uuid::from_u128(3));
        assert_eq!(route(&guard, &s, &suspect(&a, None, Some(mail)), 0), None);
        assert_eq!(route(&guard, &s, &suspect(&a, None, Some(mail)), 1), Some(60));
        assert_eq!(route(&guard, &s, &suspect(&a, None, None), 1), None, "about nothing");
        let (guard, off) = (LoopGuard::new(), settings(0, 0, 0));
        assert!((0..500).all(|_| route(&guard, &off, &suspect(&a, Some(&case), None), 0).is_none()));
    }

    #[test]
    fn old_mail_is_no_loop() {
        let (guard, s) = (LoopGuard::new(), settings(1, 1, 1));
        let (bob, inbox) = (address("bob@x.example"), MailboxId::new("m"));
        let old = Suspect {
            sender: &bob,
            mailbox: &inbox,
            regarding: None,
            correlated: None,
            received: Some(at(-61)),
        };
        assert!((0..500).all(|_| route(&guard, &s, &old, 0).is_none()));
        let new = Suspect { received: Some(at(-1)), ..old };
        assert_eq!(route(&guard, &s, &new, 0), None, "what is old was not counted");
        assert_eq!(route(&guard, &s, &new, 0), Some(60));
    }

    #[test]
    fn memory_is_bounded() {
        let (guard, s) = (LoopGuard::new(), settings(2, 0, 0));
        let inbox = MailboxId::new("m");
        let route_one = |n: usize, now: i64| {
            let sender = address(&format!("u{n}@x.example"));
            let suspect = Suspect {
                sender: &sender,
                mailbox: &inbox,
                regarding: None,
                correlated: None,
                received: None,
            };
            route(&guard, &s, &suspect, now)
        };
        for n in 0..MAX_WINDOWS + 10 {
            route_one(n, i64::try_from(n / 1000).unwrap());
        }
        assert!(guard.0.lock().unwrap().len() <= MAX_WINDOWS);
        // who was there last is still counted
        assert_eq!(route_one(MAX_WINDOWS + 9, 50), None);
        assert_eq!(route_one(MAX_WINDOWS + 9, 51), Some(110));
    }
}
