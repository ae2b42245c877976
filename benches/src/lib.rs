//! Shared by the measurements in `benches/`: mail to measure with, the physical limit (bare clients), peers, processes whose CPU time
//! is known, and tables of ratios.
//!
//! What it deliberately is not: nothing here is used by the router, and nothing here judges. A measurement prints what it found beside the
//! target and ends with success; `benches/README.md` says what that means.
//!
//! | module | what |
//! |---|---|
//! | [`corpus`] | messages, always the same |
//! | [`raw`] | bare POP3, SMTP and HTTP clients: what the server can do at most |
//! | [`ours`] | the adapters, set up as the router does |
//! | [`peers`] | Dovecot of `scripts/with-peers`, or the test kit's server |
//! | [`proxy`] | a TCP proxy that delays and counts |
//! | [`replay`] | an HTTP server that has each answer ready |
//! | [`child`] | the same program again as a process of its own, to know its CPU time and memory |
//! | [`table`] | ratios |
//! | [`router`] | a router on an embedded CRM in a temporary folder |
#![warn(missing_docs)]
// a program for people: it prints, and a step that fails ends it with the cause
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
#![allow(clippy::missing_panics_doc)] // every one of these functions ends the measurement when something fails
#![allow(clippy::disallowed_methods)] // real time, bare sockets and threads are what is measured against

pub mod child;
pub mod corpus;
pub mod ours;
pub mod peers;
pub mod proxy;
pub mod raw;
pub mod replay;
pub mod router;
pub mod table;

/// Whether this run only shows that the measurement works: `-- --test`, as in CI.
#[must_use]
pub fn is_smoke() -> bool {
    std::env::args().any(|a| a == "--test")
}

/// A number from the environment.
#[must_use]
pub fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// How many alternating rounds a comparison has: `ROUNDS`, else 5; one in a smoke run.
#[must_use]
pub fn rounds() -> usize {
    if is_smoke() { 1 } else { number("ROUNDS", 5) }
}

/// Says that a part was not measured and why.
pub fn skipped(what: &str, why: &str) {
    println!("SKIPPED {what}: {why}");
}

/// A temporary folder on the disk of the project; the usual one may be in memory, where a commit costs nothing.
#[must_use]
pub fn disk_folder() -> tempfile::TempDir {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../target").into(), std::path::PathBuf::from);
    std::fs::create_dir_all(&target).unwrap();
    tempfile::tempdir_in(target).unwrap()
}
