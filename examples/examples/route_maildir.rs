//! A Maildir into the embedded CRM, by a configuration: what `email-router run --once` does, from a program.
//!
//! ```sh
//! cargo run -p email-router-examples --example route_maildir
//! ```
#![allow(clippy::print_stdout)] // an example talks

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use email_router::crm::embedded::admin::{EmailFilter, fields};
use email_router::engine::{Event, Observer};
use email_router::{OpenOptions, Service};

const CONFIGURATION: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<Configuration>
  <ConfigurationProfiles>
    <ConfigurationProfile>
      <Name>Mail folders</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType><Path>mail/{address}</Path>
    </ConfigurationProfile>
  </ConfigurationProfiles>
  <Deployments>
    <Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path><DefaultIncomingProfile>Mail folders</DefaultIncomingProfile></Deployment>
  </Deployments>
  <Mailboxes>
    <User><Name>Bob Stone</Name><EmailAddress>bob.stone@fabrikam.test</EmailAddress></User>
  </Mailboxes>
</Configuration>
"#;

/// Prints each decision.
#[derive(Debug)]
struct Narrator;

impl Observer for Narrator {
    fn event(&self, event: &Event<'_>) {
        if let Event::Incoming { record, .. } = event {
            println!("{:?}: {} ({})", record.verdict, record.subject, record.because);
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("EmailAgent.xml");
    fs::write(&config, CONFIGURATION)?;
    let samples =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/quickstart/mail/bob.stone@fabrikam.test");
    let maildir = folder.path().join("mail/bob.stone@fabrikam.test");
    for part in ["new", "cur", "tmp"] {
        fs::create_dir_all(maildir.join(part))?;
    }
    for file in fs::read_dir(samples.join("new"))? {
        let file = file?;
        fs::copy(file.path(), maildir.join("new").join(file.file_name()))?;
    }

    // The CRM has to know the user and one customer. The router's plan is made when a service is opened, so it is opened again after that.
    let service = Service::open(&config, OpenOptions::default()).await?;
    let admin = service.organization(None)?.administration()?;
    admin
        .add(
            "systemuser",
            &fields([
                ("fullname", "Bob Stone"),
                ("internalemailaddress", "bob.stone@fabrikam.test"),
                ("incomingemaildeliverymethod", "2"),
                ("emailrouteraccessapproval", "1"),
                ("incomingemailfilteringmethod", "2"), // from leads, contacts and accounts
            ]),
        )
        .await?;
    admin
        .add(
            "contact",
            &fields([("fullname", "Tom Okafor"), ("emailaddress1", "tom.okafor@lakeside.example")]),
        )
        .await?;
    drop(service);

    let options = OpenOptions { observer: Arc::new(Narrator), ..OpenOptions::default() };
    let service = Service::open(&config, options).await?;
    for unserved in service.organization(None)?.unserved() {
        println!("not served: {}: {}", unserved.mailbox, unserved.reason);
    }
    let (_keep, stop) = tokio::sync::watch::channel(false);
    let first = service.run_once(&stop).await?;
    let second = service.run_once(&stop).await?;
    println!(
        "{} in the Maildir, {} delivered, {} discarded; again: {} processed",
        first.incoming.listed, first.incoming.delivered, first.incoming.discarded, second.incoming.processed
    );
    let admin = service.organization(None)?.administration()?;
    for email in admin.emails(&EmailFilter::default()).await? {
        println!("in the CRM: {} from {}", email.subject, email.sender.unwrap_or_default());
    }
    if first.incoming.delivered == 0 || second.incoming.processed != 0 {
        return Err("the first run should deliver, the second should find nothing new".into());
    }
    Ok(())
}
