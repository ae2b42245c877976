//! The command `email-router-rule-deploy` from outside, against an Exchange and a Graph of the testkit and the embedded CRM.
// a helper of a test that cannot go on fails the test
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod choosing;
mod exchange;
mod graph;
mod support;
