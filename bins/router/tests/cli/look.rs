//! Commands that only look create and change nothing, also where they may not, and an error says whose a file is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::{Stranger, World, mail, maildir_config};

/// What only looks; a message to look at is `question.eml`.
const LOOKS: &[&[&str]] = &[
    &["explain", "question.eml"],
    &["status"],
    &["quarantine", "list"],
    &["crm", "list", "email"],
    &["crm", "show", "contact", "tom@example.net"],
    &["crm", "settings"],
    &["crm", "settings", "trackingprefix"],
    &["crm", "stats"],
    &["import", "question.eml", "-m", "ann@example.com", "--dry-run"],
    &["import-state", "State.xml", "--dry-run"],
    &["replay"],
];

const STATE: &str = "<SystemState><M1><EmailAddress>ann@example.com</EmailAddress><ThresholdDate>2026-11-19T00:00:00Z</ThresholdDate></M1></SystemState>";

fn with_files(world: World) -> World {
    world.write("question.eml", mail("tom@example.net", "ann@example.com", "A question"));
    world.write("State.xml", STATE);
    world
}

/// Name, size, time of change and owner of each file.
fn files(world: &World) -> BTreeMap<String, (u64, i64, i64, u32)> {
    let look = |name: String| {
        let found = world.path(&name).metadata().unwrap();
        (name, (found.len(), found.mtime(), found.mtime_nsec(), found.uid()))
    };
    world.names(".").into_iter().map(look).collect()
}

#[test]
fn in_a_fresh_folder_nothing_is_created_and_the_missing_crm_is_named() {
    let world = with_files(World::with(&maildir_config("", "")));
    let before = files(&world);
    for words in LOOKS {
        world
            .run(*words)
            .with_code(1)
            .complains("crm.sqlite is not there")
            .complains("what to do: `email-router crm add` makes it");
        assert_eq!(files(&world), before, "{words:?}");
    }
}

#[test]
fn beside_a_crm_nothing_is_created_or_changed() {
    let world = with_files(World::maildir());
    fs::remove_file(world.path("email-router-state.db")).unwrap();
    let before = files(&world);
    for words in LOOKS {
        world.run(*words).ok();
        assert_eq!(files(&world), before, "{words:?}");
    }
    // with a state as well
    world.run(["run", "--once"]).ok();
    let before = files(&world);
    for words in LOOKS {
        world.run(*words).ok();
        assert_eq!(files(&world), before, "{words:?}");
    }
}

#[test]
fn where_this_user_may_not_write_it_can_look_and_is_told_whose_the_files_are() {
    let world = with_files(World::maildir());
    world.run(["run", "--once"]).ok();
    let databases = ["crm.sqlite", "email-router-state.db"];
    for name in databases {
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let stranger = Stranger::to(&world);
    let before = files(&world);
    for words in LOOKS {
        stranger.run(words).ok();
        assert_eq!(files(&world), before, "{words:?}");
    }

    // files that another account made for itself
    let owner = match before["crm.sqlite"].3 {
        0 => "belongs to root (user 0) and has mode".to_owned(),
        uid => format!("belongs to user {uid} and has mode"),
    };
    stranger
        .run(&["run", "--once"])
        .with_code(1)
        .complains(&format!("state.db {owner} 644"))
        .complains("chown");
    for name in databases {
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o000)).unwrap();
        stranger.run(&["status"]).with_code(1).complains(&format!("{name} {owner} 0")).complains("chown");
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    // nothing of ours is in the way but the folder
    fs::remove_file(world.path("email-router-state.db")).unwrap();
    stranger.run(&["run", "--once"]).with_code(1).complains(&format!(". {owner} 555"));
}
