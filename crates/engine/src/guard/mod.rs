//! What protects the CRM from mail that no person wrote, and from conversations between machines.
//!
//! | file | what |
//! |---|---|
//! | `automatic.rs` | what kind of automatic mail a message is, from its header section |
//! | `limits.rs` | how many messages of a sender, a pair or a record become activities in a while |
//!
//! Delivery reports are read in [`crate::message`], since they are parts of a message; what they mean for a decision is in
//! [`crate::decide`].

pub mod automatic;
pub mod limits;

pub use automatic::{Automatic, AutomaticKind};
pub use limits::LoopGuard;
