//! `check`, `publish`, and a damaged file.

use std::os::unix::fs::PermissionsExt;

use crate::support::{World, maildir_config};

const BAD: &str = "<Configuration>\n  <SystemConfiguration>\n    <MaxThreads>0</MaxThreads>\n    <LogLevel>9</LogLevel>\n  </SystemConfiguration>\n</Configuration>\n";
const ODD: &str = "<Configuration>\n  <SystemConfiguration>\n    <MaxThread>5</MaxThread>\n  </SystemConfiguration>\n</Configuration>\n";

#[test]
fn a_good_file_is_summed_up() {
    let world = World::with(&maildir_config("", ""));
    world.run(["check"]).ok().says("EmailAgent.xml: 2 profiles, 2 mailboxes, 0 warnings");
    assert_eq!(world.json(["check"]), serde_json::json!([]));
}

#[test]
fn every_fault_has_file_line_and_column_and_the_exit_code_is_3() {
    let world = World::with(BAD);
    let ran = world.run(["check"]).with_code(3);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(
        lines,
        [
            "EmailAgent.xml:3:5: error: MaxThreads is 0; it must be between 1 and 10000 [out-of-range]",
            "EmailAgent.xml:4:5: error: LogLevel is 9; it must be between 0 and 3 [out-of-range]"
        ]
    );
    let findings = world.json(["check"]);
    assert_eq!(world.run(["--json", "check"]).code, Some(3));
    let found = findings[0].as_object().unwrap();
    let shown = |name: &str| found[name].to_string();
    assert_eq!(
        [shown("severity"), shown("code"), shown("line"), shown("column"), shown("file")],
        ["\"error\"", "\"out-of-range\"", "3", "5", "\"EmailAgent.xml\""]
    );
    assert!(found["element"].as_str().unwrap().ends_with("MaxThreads"), "{found:?}");
    // every other command says the same and does nothing
    world.run(["status"]).with_code(3).complains("EmailAgent.xml:3:5").complains("EmailAgent.xml:4:5");
    world.run(["run", "--once"]).with_code(3).complains("MaxThreads is 0");
    assert_eq!(world.names("."), ["EmailAgent.xml"]);
}

#[test]
fn a_warning_is_no_error_unless_strict() {
    let world = World::with(ODD);
    world.run(["check"]).ok().says("EmailAgent.xml:3:5: warning:").says("MaxThread").says("1 warnings");
    world.run(["check", "--strict"]).with_code(4);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let world = World::empty();
    world.run(["check"]).with_code(3).complains("EmailAgent.xml");
    world
        .run(["--config", "other.xml", "status"])
        .with_code(3)
        .complains("cannot read other.xml")
        .complains("--config");
    world.run(["run"]).with_code(3).complains("EmailAgent.xml");
}

#[test]
fn publishing_is_atomic_keeps_the_old_file_and_refuses_a_bad_one() {
    let world = World::with(&maildir_config("", ""));
    let old = world.read("EmailAgent.xml");
    world.write("bad.xml", BAD);
    world.run(["publish", "bad.xml"]).with_code(3).complains("MaxThreads is 0").complains("bad.xml:3:5");
    assert_eq!(world.read("EmailAgent.xml"), old);
    assert_eq!(world.names("."), ["EmailAgent.xml", "bad.xml"]);

    let new = maildir_config("<MaxThreads>7</MaxThreads>", "");
    world.write("new.xml", &new);
    world.run(["publish", "new.xml"]).ok().says("published as EmailAgent.xml");
    assert_eq!(world.read("EmailAgent.xml"), new);
    assert_eq!(world.read("EmailAgent.xml.previous"), old);
    assert_eq!(world.names("."), ["EmailAgent.xml", "EmailAgent.xml.previous", "bad.xml", "new.xml"]);
    // permissions stay: the account of the service may be another than the publisher's
    let mode = |name: &str| world.path(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("EmailAgent.xml"), mode("EmailAgent.xml.previous")], [mode("bad.xml"); 2]);

    let third = maildir_config("<MaxThreads>8</MaxThreads>", "");
    world.feed(["publish", "-"], &third).ok();
    assert_eq!(world.read("EmailAgent.xml"), third);
    assert_eq!(world.read("EmailAgent.xml.previous"), new);
    let told = world.json(["publish", "bad.xml"]);
    assert_eq!((&told["published"], &told["findings"][0]["line"]), (&false.into(), &3.into()), "{told:#}");
    world.run(["--json", "publish", "bad.xml"]).with_code(3);
    let told = world.json(["publish", "new.xml"]);
    assert_eq!(told, serde_json::json!({"published": true, "kept_previous": true, "findings": []}));
    world.feed(["publish", "-"], &third).ok();
    // the direction of a profile cannot be changed once it is published
    let turned = third.replacen("<Direction>Incoming</Direction>", "<Direction>Outgoing</Direction>", 1);
    let ran = world.feed(["publish", "-"], &turned).with_code(3);
    assert!(ran.err.contains("Direction"), "{ran:?}");
    assert_eq!(world.read("EmailAgent.xml"), third);
}

#[test]
fn a_damaged_file_falls_back_to_the_previous_one_and_says_where() {
    let world = World::maildir();
    world.feed(["publish", "-"], &maildir_config("<MaxThreads>7</MaxThreads>", "")).ok();
    let whole = world.read("EmailAgent.xml");
    world.write("EmailAgent.xml", &whole[..whole.find("</Deployments>").unwrap()]);

    // the check shows the damage
    let ran = world.run(["check"]).with_code(3);
    assert!(ran.out.starts_with("EmailAgent.xml:") && ran.out.contains("the file is damaged"), "{}", ran.out);
    // the router goes on with the previous generation and says so
    let ran = world.run(["--log", "warn", "run", "--once"]).ok().says("incoming: 0 in the mailboxes");
    assert!(ran.err.contains("the file is damaged") && ran.err.contains("EmailAgent.xml:"), "{}", ran.err);
    let status = world.run(["status"]);
    assert!(status.out.contains("the file is damaged"), "{status:?}");
}

#[test]
fn what_run_refuses_as_no_text_check_and_publish_refuse_too() {
    let good = maildir_config("", "");
    let world = World::with(&good);
    let wide: Vec<u8> = good.replace("utf-8", "utf-16").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let latin = good.replace("Ann Lee", "Ann L\u{1}e").into_bytes();
    let latin: Vec<u8> = latin.into_iter().map(|b| if b == 1 { 0xe9 } else { b }).collect();
    for (bytes, message) in [
        (
            latin,
            ":18:22: error: the file is damaged: here is a byte that is not UTF-8; save the file as UTF-8",
        ),
        (
            [&[0xff, 0xfe][..], &wide].concat(),
            ":1:1: error: the file is damaged: the file is UTF-16; save it as UTF-8",
        ),
    ] {
        world.write("new.xml", &bytes);
        world.run(["--config", "new.xml", "check"]).with_code(3).says(&format!("new.xml{message}"));
        world.run(["--config", "new.xml", "status"]).with_code(3).complains(&format!("new.xml{message}"));
        world.run(["publish", "new.xml"]).with_code(3).complains(&format!("new.xml{message}"));
        assert_eq!(world.read("EmailAgent.xml"), good);
    }
    assert_eq!(world.names("."), ["EmailAgent.xml", "new.xml"]);
}

/// The first line is the first error, wherever it stands; everything else follows once.
#[test]
fn a_warning_before_the_error_is_told_and_the_error_not_twice() {
    let world = World::with(&BAD.replace("<MaxThreads>0", "<Odd/><MaxThreads>0"));
    for command in [&["status"][..], &["publish", "EmailAgent.xml"]] {
        let ran = world.run(command).with_code(3);
        let lines: Vec<&str> = ran.err.lines().collect();
        assert_eq!(lines.len(), 3, "{}", ran.err);
        assert!(
            lines[0].starts_with("email-router: ") && lines[0].contains(":3:11: error: MaxThreads is 0"),
            "{}",
            ran.err
        );
        assert!(lines[1].starts_with("  EmailAgent.xml:3:5: warning: unknown element Odd"), "{}", ran.err);
        assert!(lines[2].starts_with("  EmailAgent.xml:4:5: error: LogLevel is 9"), "{}", ran.err);
    }
}
