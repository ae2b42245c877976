//! Maildir: mail in files, one directory for each mailbox.
//!
//! Follows the specification of D. J. Bernstein (`maildir(5)` of qmail, <https://cr.yp.to/proto/maildir.html>) and, for folders, Maildir++
//! (<https://www.courier-mta.org/imap/README.maildirquota.html>), so the mailboxes of Postfix, Dovecot, Courier, Exim and mutt are read and
//! written side by side with those programs, without locks.
//!
//! # Receiving
//! - Lists `new` and `cur`, oldest first by the time in the file name, else by the file's modification time. Only regular files count;
//!   symbolic links, directories and names that begin with a dot are passed over.
//! - The [remote id](email_router_model::RemoteId) is the file name without its flags, so it stays when another program changes flags or
//!   moves a message from `new` to `cur`. Two files of one such name, which the specification rules out and a copied or restored
//!   mailbox has, are two messages: each has the name, a slash, and a number and fingerprint of its content for an id, as long as both
//!   are there. So none is passed over, and what is done to one is never done to the other. `MarkRead` gives one of them another name where
//!   it would replace the other.
//! - Reading changes nothing. `Delete` removes the file, `MarkRead` moves it to `cur` with the flag `S`, `Move` puts it with its flags into the
//!   Maildir++ folder of that name, which is created when it is missing. Flags we do not know are kept.
//! - Dispositions take effect at once; [`Inbox::close`](crate::Inbox::close) makes them durable (fsync of the directories).
//! - An inbox never removes anything from `tmp`: an incoming mailbox is somebody else's.
//! - Memory: names only, about 150 bytes for each message.
//!
//! # Submitting
//! - The message is written to `tmp`, made durable, and linked into `new` under its final name: a reader sees all of it or nothing,
//!   also after a crash. Files are readable by their owner only (0600), directories that are created too (0700).
//! - [`Delivery::Outbox`] writes one file for each message into one Maildir, which some other program carries on, or a person looks at.
//!   [`Delivery::Recipients`] writes one file into the Maildir of each recipient; a recipient without one is refused.
//! - The envelope stands in front of the message: `Return-Path:` (RFC 5321 4.4), then one `X-Envelope-To:` for each recipient in an
//!   outbox, or `Delivered-To:` in a recipient's Maildir. The outbox so holds blind copies' addresses in clear; protect it like a spool.
//! - Line ends are CRLF, as the contract of [`Transport`](crate::Transport) has it.
//! - What a crash left in the `tmp` of a directory we deliver to is removed when it is older than 36 hours (the rule of the
//!   specification), at the first submission of a handle.

mod client;
mod delivery;
pub(crate) mod error;
pub(crate) mod listing;
pub(crate) mod proto;
pub mod settings;
pub(crate) mod store;

pub use client::MaildirTransport;
pub use settings::{Delivery, MailboxPath, MaildirSettings, PathTemplate};
