//! `why` and `replay`.

use crate::support::{World, mail, maildir_config};

#[test]
fn why_shows_what_was_noted_when_the_message_came() {
    let world = World::maildir();
    world.deliver("ann@example.com", "1", &mail("tom@example.net", "ann@example.com", "first"));
    world.run(["why", "<first@example.net>"]).with_code(4).says("nothing is noted about <first@example.net>");
    world.run(["run", "--once"]).ok();
    world
        .run(["why", "first@example.net"])
        .ok()
        .says("AcceptAll (6)")
        .says("first")
        .says("duplicate: no incoming e-mail with this identity");
    let notes = world.json(["why", "<first@example.net>"]);
    let activity = notes[0]["record"]["activity_id"].as_str().unwrap().to_owned();
    assert_eq!(world.json(["why", &activity]), notes);
    world.run(["why", " "]).with_code(1).complains("neither a Message-ID");
}

#[test]
fn replay_shows_what_another_filter_would_change_and_writes_nothing() {
    let world = World::maildir();
    world.deliver("ann@example.com", "1", &mail("tom@example.net", "ann@example.com", "first"));
    world.deliver("support@example.com", "2", &mail("tom@example.net", "support@example.com", "second"));
    world.run(["run", "--once"]).ok();
    let before = world.json(["crm", "stats"]);
    // the same settings give the same decisions, although the CRM has the messages by now
    world
        .run(["replay"])
        .ok()
        .says("2 messages decided anew: 2 unchanged, 0 changed; delivered 2 now, 2 then");
    let changed = world.run(["replay", "--filter", "ann@example.com=4", "--verbose"]).ok();
    changed
        .says("delivered -> discarded  ann@example.com  first")
        .says("verdict: Deliver AcceptAll (6) -> Discard NoCorrelationMatch (1)")
        .says("filter ann@example.com: user, no messages")
        .says("2 messages decided anew: 1 unchanged, 1 changed; delivered 2 now, 1 then; 0 passed over");
    // a folder, and a setting of the organization
    let folder = world.path("mail/ann@example.com");
    world
        .run([
            "replay",
            folder.to_str().unwrap(),
            "-m",
            "ann@example.com",
            "--set",
            "SSSForceFilteringMethodForUserMailboxes=4",
        ])
        .ok()
        .says("1 message decided anew: 0 unchanged, 1 changed");
    assert_eq!(world.json(["crm", "stats"]), before);
    world.run(["replay", "--set", "nonsense=1"]).with_code(1).complains("no setting \"nonsense\"");
    world
        .run(["replay", "--set", "hashmaxcount=0"])
        .with_code(1)
        .complains("hashmaxcount is 0; it must be 1 to 1000");
    world.run(["replay", "--filter", "nobody@example.com=0"]).with_code(1).complains("nobody@example.com");
    world.run(["replay", "--since", "yesterday"]).with_code(1).complains("2026-11-01T00:00:00Z");
}

#[test]
fn a_header_section_that_is_too_long_is_named_by_both() {
    let world = World::maildir();
    let larger = maildir_config("", "").replace("<MaxMessageSize>20000<", "<MaxMessageSize>90000<");
    world.write("EmailAgent.xml", &larger);
    let people: String = (0..900).map(|n| format!(",\n person-{n}@a-long-domain.x.example")).collect();
    let to = format!("ann@example.com{people}");
    world.deliver("ann@example.com", "1", &mail("tom@example.net", &to, "longest"));
    world.deliver("ann@example.com", "2", &mail("tom@example.net", "ann@example.com", "short"));
    world.run(["run", "--once"]).ok();
    world
        .run(["why", "<longest@example.net>"])
        .ok()
        .says("bytes) is too long to be kept, so that replay passes");
    world
        .run(["replay"])
        .ok()
        .says("1 passed over")
        .says("1 of them with a header section too long to be kept");
}
