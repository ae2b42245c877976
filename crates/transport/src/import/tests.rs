use std::io::Cursor;
use std::io::Write as _;

use email_router_model::{Classified, Scope, Timestamp};
use proptest::prelude::*;

use super::*;

fn mbox(bytes: impl Into<Vec<u8>>, limits: ImportLimits) -> Mbox<Cursor<Vec<u8>>> {
    let bytes = bytes.into();
    let total = bytes.len() as u64;
    Mbox::new(Cursor::new(bytes), total, "test", Quoting::default(), limits)
}

/// All messages as text; a failure as its message.
fn all(source: &mut dyn MessageSource) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        match source.next_message() {
            Ok(Some(item)) => found.push(String::from_utf8_lossy(item.message.bytes()).into_owned()),
            Ok(None) => return found,
            Err(e) => {
                assert_eq!(e.scope(), Scope::Message, "{e}");
                found.push(format!("! {e}"));
            }
        }
    }
}

fn read(text: &str) -> Vec<String> {
    all(&mut mbox(text, ImportLimits::default()))
}

#[test]
fn separators() {
    const D: &str = "Mon Jan  1 00:00:00 2024";
    let one = "Subject: 1\n\nbody\n";
    for (text, due) in [
        (String::new(), vec![]),
        ("\n\n".to_owned(), vec![]),
        (format!("From a@b {D}\n{one}"), vec![one]),
        (format!("\n\nFrom a@b {D}\n{one}\n"), vec![one]),
        (format!("From a@b {D}\n{one}\nFrom - {D}\n{one}\n"), vec![one, one]),
        // no empty line before, but a whole date
        (format!("From a@b {D}\n{one}From c@d {D}\n{one}"), vec![one, one]),
        // the same, cut behind its separator
        (
            format!("From a@b {D}\n{one}From c@d {D}\n"),
            vec![one, "! mbox test, message 2 at byte 51: the message is empty"],
        ),
        // a whole separator within a text
        (
            format!("From a@b {D}\nS: 1\n\nFirst line:\nFrom c@d {D}\nand so on\n"),
            vec![&format!("S: 1\n\nFirst line:\nFrom c@d {D}\nand so on\n")],
        ),
        // a first line without a date
        (format!("From nobody\nS: 1\n\nx\n\nFrom a@b {D}\nS: 2\n"), vec!["S: 1\n\nx\n", "S: 2\n"]),
        // quoting of any depth
        (
            format!("From a@b {D}\nS: 1\n\n>From x\n>>From y\n>Fromage\n"),
            vec!["S: 1\n\nFrom x\n>From y\n>Fromage\n"],
        ),
        // CRLF throughout, with its own empty line
        (
            format!("From a@b {D}\r\nS: 1\r\n\r\nx\r\n\r\nFrom a@b {D}\r\nS: 2\r\n\r\n"),
            vec!["S: 1\r\n\r\nx\r\n", "S: 2\r\n"],
        ),
        // a Content-Length that lies
        (
            format!("From a@b {D}\nContent-Length: 9999\n\nx\n\nFrom a@b {D}\nS: 2\n"),
            vec!["Content-Length: 9999\n\nx\n", "S: 2\n"],
        ),
        // the file was cut
        (format!("From a@b {D}\nSubject: cu"), vec!["Subject: cu"]),
        (format!("From a@b {D}\nS: 1\n\nx\n\nFrom a@b Mon Jan"), vec!["S: 1\n\nx\n\nFrom a@b Mon Jan"]),
    ] {
        assert_eq!(read(&text), due, "{text:?}");
    }
}

/// Lines of a text whose writer did not quote: none begins a message, after an empty line and after any other.
#[test]
fn text_that_begins_with_from_is_no_separator() {
    const D: &str = "Mon Jan  1 00:00:00 2024";
    for line in [
        "From here on everything is different",
        "From 10:30 on we meet",
        "From me at 10:30",
        "From Mon to Fri 10:00 2024",
        "From the log of Mon Jan  1 00:00:00 2024",
        "From a@b Mon Jan  1 00:00:00 2024 it was wrong",
        "From a@b Mon Jan  1 00:00:00 2024 remote from the host",
        "From a@b Mon Jan  1 00:00:00",
        "From a@b Mon Jan  1 2024",
        "From a@b Jan  1 00:00:00 2024",
        "From a@b 2024-01-01 00:00:00",
        "From a@b Mon Jan  1 00:00:00 2024 2025",
        "From a@b Mon Jan  1 00:00:00 2024 IT WAS WRONG",
        "From a@b Mon Jan  1 00:00:00 2024 ()",
        "from a@b Mon Jan  1 00:00:00 2024",
        "From:a@b Mon Jan  1 00:00:00 2024",
        "From\ta@b Mon Jan  1 00:00:00 2024",
        " From a@b Mon Jan  1 00:00:00 2024",
    ] {
        for before in ["", "x\n", "x\n\n"] {
            let text = format!("S: 1\n\n{before}{line}\nS: 2\n");
            assert_eq!(read(&format!("From a@b {D}\n{text}")), [text], "{line}");
        }
    }
}

/// What programs write between two messages.
#[test]
fn separators_of_many_programs() {
    for line in [
        "From a@b Mon Jan  1 00:00:00 2024",
        "From - Mon Jan 01 00:00:00 2024",
        "From ???@??? Mon Jan 01 00:00:00 2024",
        "From MAILER-DAEMON Mon Jan  1 00:00:00 2024",
        "From Mon Jan  1 00:00:00 2024",
        "From  Mon Jan  1 00:00:00 2024",
        "From a@b  Mon Jan  1 00:00 2024",
        "From ann at example.com  Mon Jan  1 00:00:00 2024",
        "From \"Ann Lee\"@example.com Mon Jan  1 00:00:00 2024",
        "From 1234@xxx Mon Jan 01 00:00:00 +0000 2024",
        "From a@b Mon Jan  1 00:00:00 2024 +0530",
        "From a@b Mon Jan  1 00:00:00 CET 2024",
        "From a@b Mon, 1 Jan 2024 00:00:00 +0100 (CET)",
        "From ann Mon Jan  1 00:00:00 2024 remote from host",
        "From a@b Mon Feb 30 00:00:00 2024",
    ] {
        assert_eq!(read(&format!("{line}\nS: 1\n\n{line}\r\nS: 2\n")), ["S: 1\n", "S: 2\n"], "{line}");
    }
    // what is not UTF-8
    let text = b"From a\nS: 1\n\nFrom m\xfcller Mon Jan  1 00:00:00 2024\nS: 2\n";
    assert_eq!(all(&mut mbox(&text[..], ImportLimits::default())), ["S: 1\n", "S: 2\n"]);
}

/// A length is a field of the message: its writer cannot hide the next one with it.
#[test]
fn a_content_length_hides_no_message() {
    const D: &str = "Mon Jan  1 00:00:00 2024";
    let second = format!("\nFrom c@d {D}\nS: 2\n\ny\n");
    let text = format!("From a@b {D}\nContent-Length: {}\n\nx\n{second}", 2 + second.len());
    assert_eq!(read(&text).len(), 2);
}

#[test]
fn damage_is_reported_and_passed_over() {
    const D: &str = "Mon Jan  1 00:00:00 2024";
    let before = format!("junk\nmore\n\nFrom a@b {D}\nS: 1\n");
    assert_eq!(
        read(&before),
        ["! mbox test at byte 0: 11 bytes before the first message are passed over", "S: 1\n"]
    );
    assert_eq!(read("no mbox\n"), ["! mbox test at byte 0: this is no mbox: no line begins a message"]);
    let empty = format!("From a@b {D}\n\nFrom a@b {D}\nS: 1\n");
    assert_eq!(read(&empty), ["! mbox test, message 1 at byte 0: the message is empty", "S: 1\n"]);
    let zeros = format!("From a@b {D}\nS: 1\n\n{}\n\nFrom a@b {D}\nS: 2\n", "\0".repeat(100_000));
    assert_eq!(read(&zeros).len(), 2);
}

/// The number counts from the beginning of the file, also when an earlier run was resumed.
#[test]
fn errors_name_message_and_byte() {
    const D: &str = "Mon Jan  1 00:00:00 2024";
    let text = format!("From a {D}\nS: 1\n\nFrom a {D}\n\nFrom a {D}\nS: 3\n\nFrom a {D}\n\n");
    let mut first = mbox(text.clone(), ImportLimits::default());
    let due = [
        "! mbox test, message 2 at byte 38: the message is empty",
        "S: 3\n",
        "! mbox test, message 4 at byte 109: the message is empty",
    ];
    first.next_message().unwrap().unwrap();
    let mut second = mbox(text, ImportLimits::default());
    second.resume_after(&first.position().unwrap()).unwrap();
    assert_eq!(all(&mut first), due);
    assert_eq!(all(&mut second), due);
}

/// A file that cannot be read on says where.
#[test]
fn a_fault_of_the_disk_names_the_byte() {
    #[derive(Debug)]
    struct Broken(Cursor<Vec<u8>>);
    impl std::io::Read for Broken {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(into)? {
                0 => Err(std::io::Error::other("bad sector")),
                n => Ok(n),
            }
        }
    }
    impl std::io::Seek for Broken {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    let text = b"From a Mon Jan  1 00:00:00 2024\nS: 1\n".to_vec();
    let reader = std::io::BufReader::new(Broken(Cursor::new(text)));
    let mut source = Mbox::new(reader, 100, "test", Quoting::default(), ImportLimits::default());
    let error = source.next_message().unwrap_err();
    assert_eq!(
        (error.scope(), error.to_string().as_str()),
        (Scope::Mailbox, "import test at byte 37: bad sector")
    );
}

#[test]
fn large_messages_cost_no_memory_and_no_neighbour() {
    const D: &str = "Mon Jan  1 00:00:00 2024";
    let limits = ImportLimits::default().with_max_message_bytes(100);
    let exact = format!("S: 1\n\n{}\n", "x".repeat(93));
    assert_eq!(exact.len(), 100);
    let long_line = "y".repeat(3_000_000);
    let text = format!(
        "From a {D}\n{exact}\nFrom a {D}\nS: 2\n\n{long_line}\n\nFrom a {D}\n{exact}!\n\nFrom a {D}\nS: 4\n"
    );
    let mut source = mbox(text, limits);
    let found = all(&mut source);
    assert_eq!(found.len(), 4);
    assert_eq!((found[0].as_str(), found[3].as_str()), (exact.as_str(), "S: 4\n"));
    for n in [1, 2] {
        assert!(found[n].ends_with("the message is larger than the limit of 100 bytes"), "{}", found[n]);
    }
    assert!(source.piece_capacity() <= 64 * 1024);
    let progress = source.progress();
    assert_eq!((progress.messages, progress.failed), (2, 2));
    assert_eq!(progress.done_bytes, progress.total_bytes);
}

#[test]
fn dates() {
    for (line, due) in [
        ("From a@b Thu Feb 29 23:59:58 2024", Some("2024-02-29T23:59:58Z")),
        ("From a@b Thu Feb 29 23:59 2024", Some("2024-02-29T23:59:00Z")),
        ("From - Mon Jan 01 10:00:00 2024", Some("2024-01-01T10:00:00Z")),
        ("From 123@xxx Mon Jan 01 10:00:00 +0530 2024", Some("2024-01-01T04:30:00Z")),
        ("From a@b Mon Jan  1 10:00:00 2024 -0100", Some("2024-01-01T11:00:00Z")),
        ("From a@b Mon Jan  1 10:00:00 UTC 2024", Some("2024-01-01T10:00:00Z")),
        ("From a@b Mon, 1 Jan 2024 10:00:00 +0100", Some("2024-01-01T09:00:00Z")),
        ("From a@b Mon Jan 32 10:00:00 2024", None),
        ("From a@b Mon Jan  1 25:00:00 2024", None),
        ("From a@b", None),
    ] {
        let due = due.map(|d| d.parse::<Timestamp>().unwrap());
        assert_eq!(mbox::separator(line.as_bytes()).flatten(), due, "{line}");
    }
}

#[test]
fn mbox_resumes_where_it_was() {
    let mut text = Vec::new();
    for n in 0..5 {
        let message = RawMessage::new(format!("S: {n}\n\nFrom {n}\n"));
        mbox::write_message(&mut text, &message, None).unwrap();
    }
    let whole = all(&mut mbox(text.clone(), ImportLimits::default()));
    for taken in 0..=5 {
        let mut first = mbox(text.clone(), ImportLimits::default());
        for _ in 0..taken {
            first.next_message().unwrap().unwrap();
        }
        let mut second = mbox(text.clone(), ImportLimits::default());
        if let Some(position) = first.position() {
            let kept: Position = position.to_string().parse().unwrap();
            second.resume_after(&kept).unwrap();
            assert_eq!(second.progress().done_bytes, first.progress().done_bytes);
        }
        assert_eq!(all(&mut second), whole[taken..]);
    }
    for strange in [
        "mbox:3:1",
        "mbox:999999:1",
        "mbox:x:1",
        "mbox:0",
        "mbox:0:x",
        "mbox:0:18446744073709551615",
        "eml:a.eml",
    ] {
        let error = mbox(text.clone(), ImportLimits::default()).resume_after(&strange.parse().unwrap());
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Settings, "{strange}");
    }
    assert!("nonsense".parse::<Position>().is_err());
}

#[test]
fn eml_trees_are_ordered_and_resumable() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for sub in ["b", "b/deep", ".hidden", "a-folder"] {
        fs::create_dir_all(at(sub)).unwrap();
    }
    let files = [
        "a.eml",
        "a-folder/2.EML",
        "a-folder/10.eml",
        "b/deep/x y%.eml",
        "b/z.eml",
        "c.eml",
        ".hidden/no.eml",
        "no.txt",
    ];
    for name in files {
        fs::write(at(name), format!("Subject: {name}\n\n")).unwrap();
    }
    let ids = |source: &mut dyn MessageSource| {
        let mut ids = Vec::new();
        while let Some(item) = source.next_message().unwrap() {
            ids.push(item.id.as_str().to_owned());
        }
        ids
    };
    let mut source = open(folder.path(), ImportLimits::default()).unwrap();
    let due = ["a-folder/10.eml", "a-folder/2.EML", "a.eml", "b/deep/x y%25.eml", "b/z.eml", "c.eml"];
    assert_eq!(ids(&mut *source), due);
    let progress = source.progress();
    assert!(progress.total_bytes > 100 && progress.done_bytes == progress.total_bytes);
    for taken in 1..=due.len() {
        let mut first = open(folder.path(), ImportLimits::default()).unwrap();
        for _ in 0..taken {
            first.next_message().unwrap().unwrap();
        }
        let mut second = open(folder.path(), ImportLimits::default()).unwrap();
        second.resume_after(&first.position().unwrap()).unwrap();
        assert_eq!(ids(&mut *second), due[taken..]);
    }
    // one file, whatever its name; one that is too large does not stop the others
    let mut one = open(&at("no.txt"), ImportLimits::default()).unwrap();
    assert_eq!(ids(&mut *one), ["no.txt"]);
    fs::write(at("b/large.eml"), "x".repeat(1000)).unwrap();
    let mut source = open(folder.path(), ImportLimits::default().with_max_message_bytes(500)).unwrap();
    let found = all(&mut *source);
    assert_eq!(found.len(), 7);
    assert_eq!(found.iter().filter(|f| f.contains("larger than the limit of 500 bytes")).count(), 1);
    assert_eq!(open(&at("nothing"), ImportLimits::default()).unwrap_err().kind(), ErrorKind::Settings);
}

#[test]
fn maildirs_are_oldest_first_and_resumable_although_flags_change() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for sub in ["tmp", "new", "cur"] {
        fs::create_dir(at(sub)).unwrap();
    }
    for (name, n) in [
        ("new/1700000003.M1.x", 3),
        ("cur/1700000001.M1.x:2,S", 1),
        ("new/1700000002.M2.x", 2),
        ("new/1700000000.x", 0),
    ] {
        fs::write(at(name), format!("Subject: {n}\n\n")).unwrap();
    }
    let mut first = open(folder.path(), ImportLimits::default()).unwrap();
    let ids: Vec<_> = (0..2).map(|_| first.next_message().unwrap().unwrap().id).collect();
    assert_eq!(ids, ["1700000000.x".into(), "1700000001.M1.x".into()]);
    fs::rename(at("cur/1700000001.M1.x:2,S"), at("cur/1700000001.M1.x:2,FST")).unwrap();
    let mut second = open(folder.path(), ImportLimits::default()).unwrap();
    second.resume_after(&first.position().unwrap()).unwrap();
    assert_eq!(all(&mut *second), ["Subject: 2\n\n", "Subject: 3\n\n"]);
    assert_eq!(second.progress().done_bytes, second.progress().total_bytes);
    assert_eq!(fs::read_dir(at("new")).unwrap().count(), 3, "reading changed the mailbox");
}

#[test]
fn files_of_one_base_name_in_a_maildir_are_all_given() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name.replace(":2,", proto::INFO));
    for sub in ["tmp", "new", "cur"] {
        fs::create_dir(at(sub)).unwrap();
    }
    for (name, content) in
        [("new/2.x", "a"), ("cur/2.x:2,", "b"), ("cur/2.x:2,S", "b"), ("new/1.x", "c"), ("new/3.x", "d")]
    {
        fs::write(at(name), format!("S: {content}\n\n")).unwrap();
    }
    let opened = || open(folder.path(), ImportLimits::default()).unwrap();
    let mut source = opened();
    let mut whole = Vec::new();
    let mut ids = std::collections::HashSet::new();
    while let Some(item) = source.next_message().unwrap() {
        assert!(ids.insert(item.id.clone()), "{} is given twice", item.id);
        whole.push(item.message);
    }
    let sorted = |messages: &[RawMessage]| {
        let mut texts: Vec<_> = messages.iter().map(|m| m.bytes()[3]).collect();
        texts.sort_unstable();
        texts
    };
    assert_eq!((sorted(&whole), whole[0].bytes()[3], whole[4].bytes()[3]), (b"abbcd".to_vec(), b'c', b'd'));
    for taken in 1..=5 {
        let mut first = opened();
        (0..taken).for_each(|_| drop(first.next_message().unwrap().unwrap()));
        let kept: Position = first.position().unwrap().to_string().parse().unwrap();
        let mut second = opened();
        second.resume_after(&kept).unwrap();
        let rest: Vec<_> = std::iter::from_fn(|| second.next_message().unwrap()).map(|i| i.message).collect();
        assert_eq!(rest, whole[taken..]);
    }
    // one that is left alone may be the one that was not read
    let mut first = opened();
    (0..2).for_each(|_| drop(first.next_message().unwrap()));
    let position = first.position().unwrap();
    let left = first.next_message().unwrap().unwrap().message;
    for name in ["new/2.x", "cur/2.x:2,", "cur/2.x:2,S"] {
        fs::remove_file(at(name)).unwrap();
    }
    fs::write(at("cur/2.x:2,F"), left.bytes()).unwrap();
    let mut second = opened();
    second.resume_after(&position).unwrap();
    assert_eq!(second.next_message().unwrap().unwrap().message.bytes(), left.bytes());
}

/// Ids, bytes and faults of a source, and its position after each.
#[cfg(unix)]
fn everything(path: &Path) -> Vec<String> {
    let mut source = open(path, ImportLimits::default()).unwrap();
    let mut found = Vec::new();
    loop {
        let what = match source.next_message() {
            Ok(Some(item)) => format!("{} {}", item.id, String::from_utf8_lossy(item.message.bytes())),
            Ok(None) => return found,
            Err(error) => {
                assert_eq!(error.scope(), Scope::Message, "{error}");
                format!("! {error}")
            }
        };
        found.push(format!("{what} {:?}", source.position()));
    }
}

#[cfg(unix)]
#[test]
fn a_source_behind_a_link_is_the_same_source() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for sub in ["mail/new", "mail/cur", "mail/tmp", "tree/sub"] {
        fs::create_dir_all(at(sub)).unwrap();
    }
    fs::write(at("mail/new/1.x"), "S: maildir\n\n").unwrap();
    fs::write(at("tree/sub/1.eml"), "S: tree\n\n").unwrap();
    fs::write(at("tree/2.eml"), "S: file\n\n").unwrap();
    fs::write(at("box"), "From a@b Mon Jan  1 00:00:00 2024\nS: 1\n\nFrom a@b Mon Jan  1 00:00:00 2024\n\n")
        .unwrap();
    for (name, messages) in [("mail", 1), ("tree", 2), ("tree/2.eml", 1), ("box", 2)] {
        let direct = everything(&at(name));
        assert_eq!(direct.len(), messages, "{name}: {direct:?}");
        for link in ["first link", "second.mbox"] {
            let _ = fs::remove_file(at(link));
            symlink(name, at(link)).unwrap();
            assert_eq!(everything(&at(link)), direct, "{name} through {link}");
        }
        let _ = fs::remove_file(at("third.eml"));
        symlink("second.mbox", at("third.eml")).unwrap();
        assert_eq!(everything(&at("third.eml")), direct, "{name} through two links");
        let mut by_link = open(&at("third.eml"), ImportLimits::default()).unwrap();
        let _ = by_link.next_message();
        let mut resumed = open(&at(name), ImportLimits::default()).unwrap();
        resumed.resume_after(&by_link.position().unwrap()).unwrap();
        assert_eq!(all(&mut *resumed).len(), messages - 1, "{name}");
    }
    symlink("nowhere", at("dangling")).unwrap();
    symlink("circle", at("circle")).unwrap();
    for (name, kind) in [("dangling", ErrorKind::Settings), ("circle", ErrorKind::Storage)] {
        let error = open(&at(name), ImportLimits::default()).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().starts_with(&format!("import {}: ", at(name).display())), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn links_in_a_folder() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("sub/real.eml"), "S: real\n\n").unwrap();
    fs::write(elsewhere.path().join("text"), "S: elsewhere\n\n").unwrap();
    fs::write(at("z.eml"), "S: last\n\n").unwrap();
    for (link, to) in [
        ("a.eml", elsewhere.path().join("text").to_str().unwrap()),
        ("b.eml", "sub/real.eml"),
        ("c.eml", "nowhere"),
        ("d.eml", "d.eml"),
        ("e", "nowhere"),
        ("f", "sub"),
        ("g.eml", "."),
        ("h.eml", "/dev/null"),
        ("no text", "sub/real.eml"),
        (".hidden.eml", "nowhere"),
        ("sub/up", ".."),
    ] {
        symlink(to, at(link)).unwrap();
    }
    let mut source = open(folder.path(), ImportLimits::default()).unwrap();
    let found = all(&mut *source);
    let text = |link: &str, to: &str, why: &str| {
        let root = folder.path().canonicalize().unwrap();
        format!("! import {} (a link to {to}): cannot open it: {why}", root.join(link).display())
    };
    let said = |errno: rustix::io::Errno| std::io::Error::from(errno).to_string();
    let (missing, circle) = (said(rustix::io::Errno::NOENT), said(rustix::io::Errno::LOOP));
    let is_folder = "links to folders are not followed; import that folder by itself";
    let no_file = "it is no regular file";
    let due = [
        "S: elsewhere\n\n".to_owned(),
        "S: real\n\n".to_owned(),
        text("c.eml", "nowhere", &missing),
        text("d.eml", "d.eml", &circle),
        text("e", "nowhere", &missing),
        text("f", "sub", is_folder),
        text("g.eml", ".", is_folder),
        text("h.eml", "/dev/null", no_file),
        "S: real\n\n".to_owned(),
        text("sub/up", "..", is_folder),
        "S: last\n\n".to_owned(),
    ];
    assert_eq!(found, due);
    let progress = source.progress();
    assert_eq!((progress.messages, progress.failed, progress.done_bytes), (4, 7, progress.total_bytes));
    // a problem is behind a position as a message is
    for taken in 1..due.len() {
        let mut first = open(folder.path(), ImportLimits::default()).unwrap();
        (0..taken).for_each(|_| drop(first.next_message()));
        let mut second = open(folder.path(), ImportLimits::default()).unwrap();
        second.resume_after(&first.position().unwrap()).unwrap();
        assert_eq!(all(&mut *second), due[taken..]);
    }
}

/// The owner of a mailbox cannot have what only the importer may read sent to himself.
#[cfg(unix)]
#[test]
fn links_to_what_belongs_to_another() {
    use std::os::unix::fs::{chown, lchown, symlink};
    let (root, ann, bob, importer) = (0, 1001, 1002, 1003);
    for (link, file, due) in [
        (ann, ann, true),
        (ann, bob, false),
        (ann, root, false),
        (ann, importer, false),
        (root, bob, true),
        (importer, bob, true),
        (importer, root, true),
    ] {
        assert_eq!(may_follow(link, file, importer), due, "{link} to {file}");
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can give files to others");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (name, owner) in [("a", ann), ("b", root)] {
        fs::write(at(name), format!("S: {name}\n\n")).unwrap();
        chown(at(name), Some(owner), None).unwrap();
        for (maker, link) in [(ann, "ann"), (root, "root")] {
            let link = at(&format!("{link}-{name}.eml"));
            symlink(name, &link).unwrap();
            lchown(&link, Some(maker), None).unwrap();
        }
    }
    let found = all(&mut *open(folder.path(), ImportLimits::default()).unwrap());
    assert_eq!(
        (found.len(), &found[0], &found[2], &found[3]),
        (4, &"S: a\n\n".to_owned(), &"S: a\n\n".to_owned(), &"S: b\n\n".to_owned())
    );
    assert!(
        found[1].contains("ann-b.eml (a link to b): cannot open it: the link belongs to another user"),
        "{}",
        found[1]
    );
}

#[cfg(unix)]
#[test]
fn links_in_a_maildir() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for sub in ["new", "cur", "tmp"] {
        fs::create_dir(at(sub)).unwrap();
    }
    fs::write(at("text"), "S: text\n\n").unwrap();
    fs::write(at("new/4.x"), "S: last\n\n").unwrap();
    for (link, to) in [("new/1.x", "../text"), ("cur/2.x:2,S", "nowhere"), ("new/3.x", "../cur")] {
        symlink(to, at(link)).unwrap();
    }
    let found = all(&mut *open(folder.path(), ImportLimits::default()).unwrap());
    assert_eq!((found[0].as_str(), found[3].as_str(), found.len()), ("S: text\n\n", "S: last\n\n", 4));
    assert!(found[1].contains("a link to nowhere") && found[2].contains("a link to ../cur"), "{found:?}");
    // a folder of the Maildir itself
    fs::remove_dir_all(at("cur")).unwrap();
    symlink(at("new"), at("cur")).unwrap();
    let error = open(folder.path(), ImportLimits::default()).unwrap_err();
    assert!(error.to_string().ends_with("/cur: it is a symbolic link"), "{error}");
}

#[test]
fn what_a_path_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::File::create(at("inbox")).unwrap().write_all(b"\nFrom a@b Mon Jan  1 00:00:00 2024\nS: 1\n").unwrap();
    fs::write(at("empty.mbox"), "").unwrap();
    fs::write(at("one.eml"), "From: not an mbox\n\n").unwrap();
    fs::write(at("old.eml"), "From : an old message\n\n").unwrap();
    for (name, due) in
        [("inbox", "S: 1\n"), ("one.eml", "From: not an mbox\n\n"), ("old.eml", "From : an old message\n\n")]
    {
        assert_eq!(all(&mut *open(&at(name), ImportLimits::default()).unwrap()), [due], "{name}");
    }
    assert!(all(&mut *open(&at("empty.mbox"), ImportLimits::default()).unwrap()).is_empty());
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just(b"From a@b Mon Jan  1 00:00:00 2024".to_vec()),
        Just(b">From x".to_vec()),
        Just(b">>From 10:30".to_vec()),
        Just(b"From ".to_vec()),
        Just(Vec::new()),
        Just(b"\r".to_vec()),
        proptest::collection::vec(any::<u8>().prop_filter("no line end", |b| *b != b'\n'), 0..60),
    ];
    proptest::collection::vec(line, 1..12).prop_map(|lines| {
        let mut bytes = lines.join(&b'\n');
        bytes.push(b'\n');
        bytes
    })
}

proptest! {
    /// What is written is read back, byte for byte, with its time; the same message gets the same id.
    #[test]
    fn mbox_round_trip(messages in proptest::collection::vec((message(), 0i64..4_000_000_000), 1..6)) {
        let mut text = Vec::new();
        for (bytes, second) in &messages {
            let mut message = RawMessage::new(bytes.clone());
            message.received = Some(Timestamp::from_second(*second).unwrap());
            mbox::write_message(&mut text, &message, Some(&"a@b".parse().unwrap())).unwrap();
        }
        let mut source = mbox(text, ImportLimits::default());
        for (bytes, second) in &messages {
            let item = source.next_message().unwrap().unwrap();
            prop_assert_eq!(&item.message.bytes()[..], &bytes[..]);
            prop_assert_eq!(item.message.received.unwrap().as_second(), *second);
            prop_assert_eq!(item.id.as_str(), format!("sha256:{}", RawMessage::new(bytes.clone()).digest()));
        }
        prop_assert!(source.next_message().unwrap().is_none());
    }

    /// Whatever the bytes: it ends, and every byte is accounted for.
    #[test]
    fn mbox_never_panics(bytes in "(From a@b Mon Jan  1 00:00:00 2024\n|From |\n|\r\n|>|x|\u{0}){0,60}") {
        let mut source = mbox(bytes, ImportLimits::default().with_max_message_bytes(20));
        all(&mut source);
        let progress = source.progress();
        prop_assert_eq!(progress.done_bytes, progress.total_bytes);
    }
}
