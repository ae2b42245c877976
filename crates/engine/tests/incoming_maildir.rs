//! Passes over a Maildir.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // a test file

mod world;

use std::fs;

use email_router_transport::maildir::{MailboxPath, MaildirSettings, MaildirTransport};
use world::{World, mail};

/// An undeliverable message that cannot be moved out of the way stays where it is; what comes after it is routed all the same.
#[tokio::test]
async fn an_undeliverable_message_that_cannot_be_moved_does_not_block_the_mailbox() {
    let world = World::new();
    let ann = world.user("ann");
    let folder = tempfile::tempdir().unwrap();
    for part in ["tmp", "new", "cur"] {
        fs::create_dir(folder.path().join(part)).unwrap();
    }
    fs::write(folder.path().join(".Undeliverable"), "a file where the folder should be").unwrap();
    fs::write(folder.path().join("new/1700000000.bad"), "\n\nnot a message").unwrap();
    let path = MailboxPath::Fixed(folder.path().to_owned());
    let route = world.route(&ann, MaildirTransport::new(MaildirSettings::incoming(path)));
    for n in 1..=3 {
        let subject = format!("m{n}");
        fs::write(folder.path().join(format!("new/170000000{n}.good")), mail(&subject).bytes()).unwrap();
        let report = world.pass(&route).await;
        assert_eq!((report.delivered, report.undeliverable), (1, u64::from(n == 1)), "{subject}");
    }
    assert_eq!(world.classes().await, ["unreadable"]);
    assert!(folder.path().join("new/1700000000.bad").exists());
}
