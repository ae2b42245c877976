//! A folder with a configuration, and the program run in it as a person runs it.
#![allow(dead_code)] // each test program uses a part of it
#![allow(clippy::expect_used, clippy::unwrap_used)] // a helper of a test that cannot go on fails the test

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder to work in, gone at the end.
pub(crate) struct World(TempDir);

/// What a run of the program left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl World {
    pub(crate) fn with(config: &str) -> Self {
        let world = Self(tempfile::Builder::new().prefix("email-router-test-access").tempdir().unwrap());
        world.write("EmailAgent.xml", config);
        world
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: impl AsRef<Path>, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_email-router-test-access"));
        command.current_dir(self.0.path()).args(words).stdin(Stdio::null()).env_remove("EMAIL_ROUTER_CONFIG");
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        let output = self.command(words).output().unwrap();
        Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs with `--json`; the row of each mailbox by its name.
    pub(crate) fn rows(&self, words: &[&str], code: i32) -> impl Fn(&str) -> Value + use<> {
        let ran = self.run(&[&["--json"], words].concat());
        assert_eq!(ran.code, Some(code), "{ran:?}");
        let shown: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        let rows = shown["mailboxes"].as_array().unwrap().clone();
        move |name| {
            let row = rows.iter().find(|r| r["name"] == name);
            row.unwrap_or_else(|| panic!("no row for {name} in {rows:#?}")).clone()
        }
    }
}

impl Ran {
    /// Fails unless the exit code is this.
    #[track_caller]
    pub(crate) fn with_code(self, code: i32) -> Self {
        let Self { code: found, out, err } = &self;
        assert_eq!(*found, Some(code), "--- standard output\n{out}\n--- standard error\n{err}");
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.out.contains(text), "no {text:?} in\n{}", self.out);
        self
    }

    #[track_caller]
    pub(crate) fn complains(self, text: &str) -> Self {
        assert!(self.err.contains(text), "no {text:?} in\n{}", self.err);
        self
    }
}
