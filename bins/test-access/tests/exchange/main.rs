//! The command `email-router-test-access` against Exchange, Microsoft Graph, a token service and scripted servers: each fault that an administrator of
//! Exchange can meet has its word, its reason, how far it came, and what to do.
// a helper of a test that cannot go on fails the test
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod ews;
mod online;
mod setup;
#[path = "../support/mod.rs"]
mod support;
mod words;
