//! A folder with a configuration and a CRM, and the program run in it as a person runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use email_router::crm::embedded::EmbeddedCrm;
use email_router::crm::embedded::admin::fields;
use email_router::model::{SystemClock, SystemEntropy};
use email_router_testkit::ews::{EwsOptions, EwsServer};
use serde_json::Value;
use tempfile::TempDir;

/// Where the rules forward to.
pub(crate) const FORWARD: &str = "crm@contoso.test";

/// The name of a rule of ours, when none is given.
pub(crate) const NAME: &str = "Forward to CRM [email-router]";

/// A folder to work in, gone at the end.
pub(crate) struct World(TempDir);

/// What a run of the program left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A configuration with these profiles and mailboxes.
pub(crate) fn configuration(profiles: &str, mailboxes: &str) -> String {
    format!(
        "<Configuration><ConfigurationProfiles>{profiles}</ConfigurationProfiles>\
         <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path></Deployment></Deployments>\
         <Mailboxes>{mailboxes}</Mailboxes></Configuration>"
    )
}

/// A profile of an Exchange Server into which one account gets with Full Access.
pub(crate) fn exchange(name: &str, server: &EwsServer) -> String {
    format!(
        "<ConfigurationProfile><Name>{name}</Name><Direction>Incoming</Direction><ServerType>ExchangeServer</ServerType>\
         <Protocol>ExchangeWebServices</Protocol><AuthenticationType>ClearText</AuthenticationType><AccessCredentials>OtherSpecified</AccessCredentials>\
         <UserName>svc</UserName><Password>file:password</Password><ExchangeWebServicesUrl>{}</ExchangeWebServicesUrl>\
         <AllowClearTextWithoutTls>true</AllowClearTextWithoutTls></ConfigurationProfile>",
        server.url()
    )
}

pub(crate) fn forward_mailbox(name: &str, address: &str, profile: &str) -> String {
    format!(
        "<ForwardMailbox><Name>{name}</Name><EmailAddress>{address}</EmailAddress><IncomingProfile>{profile}</IncomingProfile></ForwardMailbox>"
    )
}

/// An Exchange with Ann, Bob, Carla, Support and the forward mailbox, and an account with Full Access to the first four.
pub(crate) async fn exchange_server() -> EwsServer {
    exchange_server_with(EwsOptions::default()).await
}

pub(crate) async fn exchange_server_with(options: EwsOptions) -> EwsServer {
    let server = EwsServer::start(options).await;
    server.add_user("svc", "Secret123", "svc@contoso.test");
    for name in ["ann", "bob", "carla", "support"] {
        let address = format!("{name}@contoso.test");
        server.add_user(name, "Secret123", &address);
        server.grant_full_access("svc", &address);
    }
    server.add_user("crm", "Secret123", FORWARD);
    server
}

impl World {
    pub(crate) fn with(config: &str) -> Self {
        let world = Self(tempfile::Builder::new().prefix("email-router-rule-deploy").tempdir().unwrap());
        world.write("EmailAgent.xml", config);
        world.write("password", "Secret123");
        world.write("secret", "s3cr3t~value");
        world
    }

    /// One profile and one forward mailbox; the mail of Ann and Support comes by the forward mailbox, Bob's through the router, Carla's not at all.
    pub(crate) async fn usual(profile: &str) -> Self {
        let name = profile.split(['<', '>']).nth(4).unwrap();
        let world = Self::with(&configuration(profile, &forward_mailbox("Forward", FORWARD, name)));
        world
            .crm(
                &[("Ann", "ann", "3"), ("Bob", "bob", "2"), ("Carla", "carla", "0")],
                &[("Support", "support", "3")],
            )
            .await;
        world
    }

    /// Users and queues: name, the part of the address before `@contoso.test`, how their mail comes in.
    pub(crate) async fn crm(&self, users: &[(&str, &str, &str)], queues: &[(&str, &str, &str)]) {
        let crm = EmbeddedCrm::open(self.path("crm.sqlite"), Arc::new(SystemClock), Arc::new(SystemEntropy))
            .unwrap();
        for (table, names, all) in [
            ("systemuser", ("fullname", "internalemailaddress"), users),
            ("queue", ("name", "emailaddress"), queues),
        ] {
            for (name, address, method) in all {
                let address = format!("{address}@contoso.test");
                let record =
                    [(names.0, *name), (names.1, address.as_str()), ("incomingemaildeliverymethod", *method)];
                crm.admin().add(table, &fields(record)).await.unwrap();
            }
        }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: impl AsRef<Path>, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_email-router-rule-deploy"));
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

    /// Runs with `--json`: what is told of each mailbox, by its name, with the names in order.
    pub(crate) fn rows(&self, words: &[&str], code: i32) -> (Vec<String>, impl Fn(&str) -> Value + use<>) {
        let ran = self.run(&[&["--json"], words].concat());
        assert_eq!(ran.code, Some(code), "{ran:?}");
        let rows: Vec<Value> = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        let names = rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect();
        (names, move |name: &str| {
            let row = rows.iter().find(|r| r["name"] == name);
            row.unwrap_or_else(|| panic!("no row for {name} in {rows:#?}")).clone()
        })
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

    /// The line of the table that begins with this name.
    #[track_caller]
    pub(crate) fn line(&self, name: &str) -> &str {
        let line = self.out.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("no line for {name} in\n{}", self.out))
    }
}
