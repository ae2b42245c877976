//! The command `email-router` from outside: each test runs the program as a person or a supervisor does.
// a helper of a test that cannot go on fails the test
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod configuration;
mod credential;
mod crm;
mod forward;
mod history;
mod load_data;
mod look;
mod messages;
mod mirror;
mod quickstart;
mod secret;
mod service;
#[path = "../support/mod.rs"]
mod support;
