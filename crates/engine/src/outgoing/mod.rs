//! Writing and submitting the mail of the CRM.
//!
//! [`compose()`] writes the message; [`OutgoingPass`] takes what is pending, in rounds that are fair to all senders, and carries each
//! e-mail through these steps:
//!
//! ```text
//! note the claim -> claim in the CRM -> prepare (Message-ID, token) -> read attachments -> compose
//!   -> ledger_begin -> submit -> ledger_result -> finish in the CRM -> ledger_close -> take the note back
//! ```
//!
//! The ledger is flushed to the disk before anything is handed to a mail system, and again before the CRM is told what the mail
//! system said. So a restart knows of every e-mail either that nothing was handed over, or what became of it, or that nobody
//! can know.
//!
//! # What a restart finds and does
//!
//! [`OutgoingPass::recover`] ends the open entries of the ledger; every [`OutgoingPass::run`] begins with it. What has no entry is
//! listed by the CRM again when it was in Sending for `SendingStatusDelay`.
//!
//! | no. | the crash came after | what a restart finds | what it does | handed over |
//! |---|---|---|---|---|
//! | 1 | listing, or noting the claim | Pending Send, no ledger entry | sends it as if nothing had been | once |
//! | 2 | the claim | Sending without Message-ID, no entry | after `SendingStatusDelay`: nothing was handed over, sends it | once |
//! | 3 | preparing, composing | Sending with Message-ID, no entry, our note of the claim | as 2: the note proves that this attempt never got to the ledger | once |
//! | 3a | 2 or 3, as often as `MaximumDeliveryAttempts` says | the same, and nothing in the ledger since | tells the CRM Failed: the e-mail may be what cuts the router off. What is found in Sending is tried alone, so that it takes nobody along | never |
//! | 4 | `ledger_begin`, before the submission | an open entry without result | asks the mail system: not there, so back to Pending Send and sent; where it cannot tell, [`InDoubtPolicy`](crate::InDoubtPolicy) | at most once with `Report`; perhaps twice, under one Message-ID, with `SendAgain` |
//! | 5 | the submission | the same as 4: from here nobody can tell the two apart | asks the mail system: there, so Sent; where it cannot tell, the policy | as 4 |
//! | 6 | `ledger_result` Accepted | an open entry, accepted | tells the CRM Sent, closes the entry | once |
//! | 7 | `ledger_result` not taken | an open entry, refused | tells the CRM Failed, or back to Pending Send after the delay | by the next attempt |
//! | 7a | `ledger_result` partly: some recipients taken, others told to wait | an open entry that names them | tells the CRM Pending Send after the delay; the next attempt goes to those who wait, and to nobody else | once to each |
//! | 8 | `ledger_result` in doubt | an open entry in doubt | as 5, once the mail system had time to show the message | as 4 |
//! | 9 | `finish` in the CRM | an open entry, and the CRM knows the end | tells it again, which changes nothing; closes the entry | once |
//! | 10 | `ledger_close` | a note of a claim that nobody needs | nothing | once |
//!
//! When the state store was lost, an e-mail in Sending has neither entry nor note. Then nobody knows, and it is treated as in
//! row 4 with a mail system that is asked first. For the same reason all routers of an organization share one state store.
//!
//! Whoever runs a pass holds the lease of its senders: an open entry of a sender is taken to be left behind.

pub mod compose;
mod fates;
mod pass;
mod recovery;
mod report;
mod send;

pub use compose::{ComposeOptions, LOOP_HEADER, compose, message_id};
pub use pass::{InFlight, OutgoingPass, Sender, Slots};
pub use report::{OutgoingReport, SenderReport};
