//! GNU tnef, a reader of its own, over the same streams: it finds the same files with the same contents.
// a helper of a test that cannot go on fails the test
#![allow(clippy::expect_used, clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, clippy::print_stdout)] // files of this test; it says when it is skipped

use std::collections::BTreeMap;
use std::process::Command;

use email_router_testkit::tnef::{Properties, Stream, attribute, compress_rtf, from};
use email_router_tnef::{Content, Limits, parse};

/// Whether GNU tnef is there; where it must be and is not, the test fails.
fn is_there() -> bool {
    // it tells its version on standard error
    let found = Command::new("tnef").arg("--version").output().is_ok_and(|o| {
        o.status.success() && String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).contains("Mark Simpson")
    });
    if !found {
        assert!(
            std::env::var_os("REQUIRE_PEERS").is_none(),
            "GNU tnef is missing; scripts/peers/setup.sh installs it"
        );
        println!("SKIPPED: GNU tnef is not installed (scripts/peers/setup.sh installs it)");
    }
    found
}

/// The files that GNU tnef takes out of a stream.
fn extract(stream: &[u8], options: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("winmail.dat");
    std::fs::write(&file, stream).unwrap();
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let output = Command::new("tnef").args(options).arg("-C").arg(&out).arg(&file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::read_dir(&out)
        .unwrap()
        .map(|e| {
            let path = e.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())
        })
        .collect()
}

/// The properties of a file; GNU tnef ends itself on an empty list of properties.
fn by_value() -> Properties {
    Properties::default().long(0x3705, 1)
}

#[test]
fn the_same_files() {
    if !is_there() {
        return;
    }
    let streams = [
        Stream::new(1252)
            .message(attribute::MESSAGE_CLASS, b"IPM.Microsoft Mail.Note\0")
            .message(attribute::FROM, &from("Ann", "SMTP:ann@example.com"))
            .message(attribute::SUBJECT, b"two\0")
            .file("one.txt", b"first", by_value())
            .file("two.bin", &(0..=255).collect::<Vec<u8>>(), by_value())
            .bytes(),
        Stream::new(1252)
            .message(
                attribute::MESSAGE_PROPERTIES,
                &Properties::default()
                    .wide(0x0037, "long")
                    .named("Key", "value")
                    .boolean(0x0e1b, true)
                    .list(),
            )
            .file(
                "ALONGN~1.TXT",
                b"contents",
                by_value().narrow(0x3707, "a-long-name-of-a-file.text").time(0x3007, 1_772_446_200),
            )
            .file("odd.dat", b"", by_value())
            .bytes(),
        Stream::new(1252)
            .file(
                "OBJECT",
                b"in the attribute",
                Properties::default()
                    .narrow(0x3707, "binary.dat")
                    .binary(0x3701, b"in the property")
                    .long(0x370b, 7),
            )
            .bytes(),
    ];
    for stream in streams {
        let theirs = extract(&stream, &[]);
        let tnef = parse(&stream, &Limits::default()).unwrap();
        assert_eq!(tnef.defects, Vec::<String>::new());
        let ours: BTreeMap<String, Vec<u8>> = tnef
            .message
            .attachments
            .iter()
            .map(|a| {
                let Content::Data(data) = a.content else { panic!("{a:?}") };
                (a.name.clone().unwrap(), data.to_vec())
            })
            .collect();
        assert!(!ours.is_empty());
        assert_eq!(ours, theirs);
    }
}

#[test]
fn the_same_bodies() {
    if !is_there() {
        return;
    }
    let rtf = br"{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0\fswiss Arial;}}\pard Hello Hello Hello {\b World}\par }";
    let html = b"<html><body>Hello</body></html>";
    let properties = Properties::default().binary(0x1009, &compress_rtf(rtf));
    let stream = Stream::new(1252).message(attribute::MESSAGE_PROPERTIES, &properties.list()).bytes();
    let theirs = extract(&stream, &["--save-body=message", "--body-pref=r"]);
    let message = parse(&stream, &Limits::default()).unwrap().message;
    assert_eq!(theirs.get("message.rtf").map(Vec::as_slice), message.rtf.as_deref());
    assert_eq!(message.rtf.as_deref(), Some(&rtf[..]));

    let properties = Properties::default().binary(0x1013, html);
    let stream = Stream::new(1252).message(attribute::MESSAGE_PROPERTIES, &properties.list()).bytes();
    let theirs = extract(&stream, &["--save-body=message", "--body-pref=h"]);
    let message = parse(&stream, &Limits::default()).unwrap().message;
    assert_eq!(theirs.get("message.html").map(Vec::as_slice), message.html.as_deref().map(str::as_bytes));

    let stream = Stream::new(1252).message(attribute::BODY, b"plain text\0").bytes();
    let theirs = extract(&stream, &["--save-body=message", "--body-pref=t"]);
    let message = parse(&stream, &Limits::default()).unwrap().message;
    let text =
        theirs.get("message.txt").map(|t| String::from_utf8_lossy(t).trim_end_matches('\0').to_owned());
    assert_eq!(text, message.text);
    assert_eq!(message.text.as_deref(), Some("plain text"));
}
