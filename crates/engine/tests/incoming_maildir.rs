//! Passes over a Maildir.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // a test file

mod world;

use std::fs;

use email_router_engine::router::IncomingRoute;
use email_router_transport::maildir::{MailboxPath, MaildirSettings, MaildirTransport};
use tempfile::TempDir;
use world::{Life, Point, World, mail};

fn maildir(world: &World) -> (TempDir, IncomingRoute) {
    let folder = tempfile::tempdir().unwrap();
    for part in ["tmp", "new", "cur"] {
        fs::create_dir(folder.path().join(part)).unwrap();
    }
    let path = MailboxPath::Fixed(folder.path().to_owned());
    let route = world.route(&world.user("ann"), MaildirTransport::new(MaildirSettings::incoming(path)));
    (folder, route)
}

/// An undeliverable message that cannot be moved out of the way stays where it is; what comes after it is routed all the same.
#[tokio::test]
async fn an_undeliverable_message_that_cannot_be_moved_does_not_block_the_mailbox() {
    let world = World::new();
    let (folder, route) = maildir(&world);
    fs::write(folder.path().join(".Undeliverable"), "a file where the folder should be").unwrap();
    fs::write(folder.path().join("new/1700000000.bad"), "\n\nnot a message").unwrap();
    for n in 1..=3 {
        let subject = format!("m{n}");
        fs::write(folder.path().join(format!("new/170000000{n}.good")), mail(&subject).bytes()).unwrap();
        let report = world.pass(&route).await;
        assert_eq!((report.delivered, report.undeliverable), (1, u64::from(n == 1)), "{subject}");
    }
    assert_eq!(world.classes().await, ["unreadable"]);
    assert!(folder.path().join("new/1700000000.bad").exists());
}

/// A base name that two files have says nothing about which of them was read: each is delivered, once, before it is deleted.
#[tokio::test]
async fn files_of_one_base_name_are_delivered_once_each() {
    for delete in [false, true] {
        let world = World::new();
        let (folder, mut route) = maildir(&world);
        route.settings.delete_after_processing = delete;
        for (name, subject) in
            [("new/1.x", "m1"), ("cur/1.x:2,", "m2"), ("cur/1.x:2,S", "m3"), ("cur/1.x:2,F", "m3")]
        {
            fs::write(folder.path().join(name), mail(subject).bytes()).unwrap();
        }
        let files =
            || ["new", "cur"].iter().flat_map(|f| fs::read_dir(folder.path().join(f)).unwrap()).count();
        world.pass(&route).await;
        assert_eq!(world.crm.received(), ["m1", "m2", "m3"], "copies are one e-mail");
        // the copy is a duplicate, and what is discarded of a user's own mail is never deleted
        assert_eq!(files(), if delete { 1 } else { 4 });
        // once the others are gone it is looked at again, under its ordinary id
        world.pass(&route).await;
        assert_eq!(world.pass(&route).await.processed, 0, "a later pass has nothing to do");
        assert_eq!(world.crm.received(), ["m1", "m2", "m3"]);
    }
}

/// Recorded, not yet deleted, and then a second file of the same name arrives.
#[tokio::test]
async fn what_was_recorded_about_one_file_is_not_done_to_another_of_its_name() {
    for arrived in ["new/1.x", "cur/1.x:2,", "cur/1.x:2,S", "cur/1.x:2,FS"] {
        let world = World::new();
        let (folder, mut route) = maildir(&world);
        route.settings.delete_after_processing = true;
        let first = if arrived == "new/1.x" { "cur/1.x:2,R" } else { "new/1.x" };
        fs::write(folder.path().join(first), mail("first").bytes()).unwrap();
        assert!(world.killed_pass(&route, &Life::until(Point::Named("after settle", 1))).await);
        fs::write(folder.path().join(arrived), mail("second").bytes()).unwrap();
        world.pass(&route).await;
        assert_eq!(world.crm.received(), ["first", "second"], "{arrived}");
        // by its new id the first is a duplicate of what was delivered, which stays; the second was read before it was deleted
        assert!(!folder.path().join(arrived).exists() && folder.path().join(first).exists(), "{arrived}");
    }
}
