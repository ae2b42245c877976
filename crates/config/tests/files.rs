//! Whole files: what they mean, how they are changed, published and fallen back from.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use email_router_config::{
    Code, Credentials, Document, ElementPath, EnvelopeSender, Generation, LoadError, Location, LogLevel,
    Protocol, PublishError, Reload, Reloader, SecretRef, Settings, TlsMode, Tuning, check, previous_path,
    publish, publish_edited, wire,
};
use email_router_model::{Direction, MailboxKind, read_file_capped};
use proptest::prelude::*;

const PUBLISHED: &str = include_str!("data/published.xml");
const COMPLETE: &str = include_str!("data/complete.xml");
const ODD: &str = include_str!("data/odd.xml");

fn read(path: &Path) -> String {
    String::from_utf8(read_file_capped(path, 1 << 20).unwrap()).unwrap()
}

fn settings(text: &str) -> Settings {
    let (settings, findings) = check(text, Path::new("/etc/router/EmailAgent.xml"));
    settings.unwrap_or_else(|| panic!("{findings:#?}"))
}

#[test]
fn the_published_file_loads_without_providers() {
    let (settings, findings) = check(PUBLISHED, Path::new("/etc/router/EmailAgent.xml"));
    let settings = settings.unwrap();
    let system = &settings.system;
    assert_eq!(
        (system.max_threads, system.max_thread_execution, system.scheduling_period),
        (50, Duration::from_secs(600), Duration::from_secs(1))
    );
    assert_eq!(
        (system.config_refresh_period, system.config_update_period, system.log_level),
        (Duration::from_secs(5), Duration::from_secs(3600), LogLevel::Errors)
    );
    assert_eq!(system.overrides.batch_size, Some(5));
    assert_eq!(system.tuning, Tuning::default());
    assert!(settings.profiles.is_empty() && settings.deployments.is_empty() && settings.mailboxes.is_empty());
    if cfg!(not(windows)) {
        assert_eq!(system.log_file.as_deref(), Some(Path::new("/etc/router/emailRouterLog.txt")));
        assert_eq!(findings.iter().map(|f| f.code).collect::<Vec<_>>(), [Code::ForeignPath]);
    }
}

#[test]
fn an_empty_file_has_the_published_values() {
    let (published, empty) = (settings(PUBLISHED), settings("<Configuration/>"));
    assert_eq!(empty.system.log_level, LogLevel::Off); // the one stated default
    assert_eq!(empty.system.tuning, published.system.tuning);
    let times = |s: &Settings| {
        let s = &s.system;
        (
            s.max_threads,
            s.max_thread_execution,
            s.scheduling_period,
            s.config_refresh_period,
            s.config_update_period,
        )
    };
    assert_eq!(times(&empty), times(&published));
}

#[test]
fn a_complete_file() {
    let (settings, findings) = check(COMPLETE, Path::new("/etc/router/EmailAgent.xml"));
    assert_eq!(findings, []);
    let s = settings.unwrap();
    let folder = Path::new("/etc/router");
    let input = s.profile("MAIL IN").unwrap();
    assert_eq!(
        (input.direction, input.protocol, input.tls),
        (Direction::Incoming, Protocol::Pop3, TlsMode::Implicit)
    );
    assert_eq!(input.location, Location::Server { host: "pop.contoso.example".into(), port: 995 });
    assert_eq!(input.extra_ca_files, [folder.join("ca.pem"), PathBuf::from("/etc/ca2.pem")]);
    assert_eq!((input.delete_emails, input.message_expiry), (true, Some(Duration::from_secs(2_592_000))));
    let january = Some("2026-01-01T00:00:00Z".parse().unwrap());
    assert_eq!(input.process_from, january);

    let output = s.profile("Mail out").unwrap();
    // an override beats the profile's own value, which beats the default
    assert_eq!((output.tuning.maximum_delivery_attempts, output.tuning.batch_size), (7, 9));
    assert_eq!(output.tuning.request_batch_size, 5);
    assert_eq!(
        (output.tls, &output.location),
        (TlsMode::StartTls, &Location::Server { host: "smtp.contoso.example".into(), port: 587 })
    );
    let password = SecretRef::Env("SMTP_PASSWORD".into());
    assert_eq!(output.credentials, Credentials::OtherSpecified { user_name: "router".into(), password });
    assert_eq!(output.envelope_sender, EnvelopeSender::Address("bounces@contoso.example".parse().unwrap()));

    let [ann, bob, support, forward] = &s.mailboxes[..] else { panic!("{:?}", s.mailboxes) };
    assert_eq!(ann.mailbox.id.as_str(), "contoso/ann@contoso.example");
    assert_eq!(
        (ann.incoming_profile.as_deref(), ann.outgoing_profile.as_deref()),
        (Some("Mail in"), Some("Mail out"))
    );
    assert!(ann.delete_after_processing);
    assert_eq!((ann.process_from, bob.process_from), (january, None));
    assert_eq!(s.login(ann, Direction::Incoming).as_deref(), Some("Ann@contoso.example"));
    assert_eq!(s.password(ann, Direction::Incoming), Some(&SecretRef::File(folder.join("secrets/ann"))));
    assert_eq!(s.login(ann, Direction::Outgoing).as_deref(), Some("router"));
    assert_eq!((support.mailbox.kind, support.outgoing_profile.as_deref()), (MailboxKind::Queue, None));
    assert_eq!(s.maildir(support, Direction::Incoming), Some(folder.join("mail/support@contoso.example")));
    assert_eq!(s.maildir(bob, Direction::Incoming), Some(folder.join("bob")));
    assert_eq!(s.maildir(bob, Direction::Outgoing), Some(folder.join("bob-out")));
    assert_eq!((forward.mailbox.kind, forward.delete_after_processing), (MailboxKind::Forward, true));
    assert_eq!(forward.outgoing_profile, None);
    assert_eq!(s.router.state_file, folder.join("state.db"));
    assert_eq!(s.router.secret_key_file, folder.join("email-router.key"));
    assert_eq!(s.router.reference_key_file, folder.join("email-router.reference.key"));

    let loaded =
        s.loaded_mailbox(&s.deployments[0], MailboxKind::User, "Eve", "eve@contoso.example".parse().unwrap());
    assert_eq!((loaded.incoming_profile.as_deref(), loaded.delete_after_processing), (Some("Mail in"), true));
    assert_eq!(loaded.process_from, january);
}

#[test]
fn of_profile_and_mailbox_the_later_moment_counts() {
    for (own, expected) in [
        ("2025-12-31T23:00:00Z", "2026-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00-01:00", "2026-01-01T01:00:00Z"),
    ] {
        let element = format!("<ProcessEmailsReceivedAfter>{own}</ProcessEmailsReceivedAfter>");
        let text = COMPLETE.replacen("<Name>Ann", &format!("{element}<Name>Ann"), 1);
        assert_ne!(text, COMPLETE);
        let settings = settings(&text);
        assert_eq!(settings.mailboxes[0].process_from, Some(expected.parse().unwrap()), "{own}");
    }
}

#[test]
fn the_reference_key_is_beside_the_state() {
    let router =
        |inner: &str| settings(&format!("<Configuration><Router>{inner}</Router></Configuration>")).router;
    let beside = router("<StateFile>/var/lib/router/state.db</StateFile>").reference_key_file;
    assert_eq!(beside, Path::new("/var/lib/router/email-router.reference.key"));
    let named = router("<ReferenceKeyFile>/etc/keys/r</ReferenceKeyFile>").reference_key_file;
    assert_eq!(named, Path::new("/etc/keys/r"));
}

#[test]
fn the_override_policy_can_be_turned_round() {
    let text = COMPLETE.replace("<Router>", "<Router><OverridePolicy>Profiles</OverridePolicy>");
    let s = settings(&text);
    assert_eq!(s.profile("Mail out").unwrap().tuning.maximum_delivery_attempts, 3);
    assert_eq!(s.profile("Folder out").unwrap().tuning.maximum_delivery_attempts, 7);
}

#[test]
fn an_address_cannot_leave_its_folder() {
    let text = COMPLETE.replace("support@contoso.example", "../../etc/x@contoso.example");
    let s = settings(&text);
    let queue = s.mailboxes.iter().find(|m| m.mailbox.kind == MailboxKind::Queue).unwrap();
    let expected = Path::new("/etc/router/mail/..%2F..%2Fetc%2Fx@contoso.example");
    assert_eq!(s.maildir(queue, Direction::Incoming).as_deref(), Some(expected));
}

#[test]
fn odd_spellings_mean_the_same() {
    let s = settings(ODD);
    assert_eq!((s.system.max_threads, s.system.log_level), (20, LogLevel::Errors));
    assert_eq!((s.system.scheduling_period, s.system.log_file), (Duration::from_secs(2), None));
}

#[test]
fn hostile_files_are_cheap() {
    // each of these took yaserde minutes or much memory; here the caps stop them in one pass
    for text in [
        format!("<Configuration>{}", "<a>".repeat(200_000)),
        format!("<Configuration>{}</Configuration>", "<a/>".repeat(1_000_000)),
        format!("<Configuration a='{}'/>", "x".repeat(4_000_000)),
    ] {
        let (_, findings) = check(&text, Path::new("E.xml"));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.len() < 300);
    }
}

#[test]
fn editing_keeps_the_rest_byte_for_byte() {
    for text in [PUBLISHED, COMPLETE, ODD] {
        assert_eq!(Document::parse(text).unwrap().as_str(), text);
    }
    let mut document = Document::parse(ODD).unwrap();
    let path = |p: &str| p.parse().unwrap();
    document.set(&path("SystemConfiguration/MaxThreads"), "8").unwrap();
    let mut expected = ODD.replace("\t\t\t 20 \r\n", "\t\t\t 8 \r\n");
    assert_eq!(document.as_str(), expected);
    document.set(&path("SystemConfiguration/LogLevel"), "3").unwrap();
    expected = expected.replace("<!-- why -->1<!-- end -->", "<!-- why -->3<!-- end -->");
    assert_eq!(document.as_str(), expected);
    document.set(&path("SystemConfiguration/SchedulingPeriod"), "10").unwrap();
    expected = expected.replace("<![CDATA[2000]]>", "10");
    assert_eq!(document.as_str(), expected);
    document.set(&path("SystemConfiguration/LogFile"), "a&b").unwrap();
    expected = expected.replace("<LogFile />", "<LogFile >a&amp;b</LogFile>");
    assert_eq!(document.as_str(), expected);
    document.set(&path("SystemConfiguration/ConfigRefreshPeriod"), "5").unwrap();
    expected = expected
        .replace("\r\n\t</SYSTEM", "\r\n\t\t<ConfigRefreshPeriod>5</ConfigRefreshPeriod>\r\n\t</SYSTEM");
    assert_eq!(document.as_str(), expected);
    assert!(document.remove(&path("systemconfiguration/configrefreshperiod")).unwrap());
    assert!(!document.remove(&path("SystemConfiguration/ConfigRefreshPeriod")).unwrap());
    expected = expected.replace("\t\t<ConfigRefreshPeriod>5</ConfigRefreshPeriod>\r\n", "");
    assert_eq!(document.as_str(), expected);
    assert_eq!(document.get(&path("SystemConfiguration/LogFile")), Some("a&b"));
}

#[test]
fn editing_picks_and_refuses() {
    let mut document = Document::parse(COMPLETE).unwrap();
    let profile = "ConfigurationProfiles/ConfigurationProfile";
    let path = |p: &str| format!("{profile}{p}").parse().unwrap();
    assert_eq!(document.count(&path("")), 4);
    document.set(&path("[name=mail out]/Password"), "env:OTHER").unwrap();
    document.set(&path("[3]/Path"), "elsewhere").unwrap();
    document.set(&path("[Name=\"Mail in\"]/ExtraCaFiles/File[2]"), "x.pem").unwrap();
    let expected = COMPLETE
        .replace("env:SMTP_PASSWORD", "env:OTHER")
        .replace("mail/{address}", "elsewhere")
        .replace("/etc/ca2.pem", "x.pem");
    assert_eq!(document.as_str(), expected);
    let mailboxes = "Mailboxes".parse().unwrap();
    document
        .insert(&mailboxes, "User", &[("Name", "Eve & co"), ("EmailAddress", "eve@contoso.example")])
        .unwrap();
    let added = "    </ForwardMailbox>\n    <User>\n      <Name>Eve &amp; co</Name>\n      \
                 <EmailAddress>eve@contoso.example</EmailAddress>\n    </User>\n  </Mailboxes>";
    assert_eq!(document.as_str(), expected.replace("    </ForwardMailbox>\n  </Mailboxes>", added));

    let before = document.as_str().to_owned();
    for (path, value, message) in [
        (
            "[Name=Nobody]/Path",
            "x",
            "there is no element ConfigurationProfiles/ConfigurationProfile[Name=\"Nobody\"]/Path",
        ),
        ("[9]", "x", "there is no element ConfigurationProfiles/ConfigurationProfile[9]"),
        (
            "[1]",
            "x",
            "the element ConfigurationProfiles/ConfigurationProfile[1] holds other elements, so it has no value to set",
        ),
        (
            "[1]/Path",
            "a\0b",
            "the value for ConfigurationProfiles/ConfigurationProfile[1]/Path holds a control character",
        ),
    ] {
        let error = document.set(&format!("{profile}{path}").parse().unwrap(), value).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    assert_eq!(document.as_str(), before);
    for bad in ["", "/", "A//B", "A[", "A[0]", "A[x]", "A b", "A[Name=\"x]", "A[1]B"] {
        assert!(bad.parse::<email_router_config::ElementPath>().is_err(), "{bad}");
    }
    let empty = Document::empty();
    assert!(settings(empty.as_str()).profiles.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// After any edits, what was not edited is still there byte for byte and in order, and the edited values read back.
    #[test]
    fn random_edits_keep_the_rest(
        filler in proptest::collection::vec("[ \t\r\n]{0,4}(<!-- [a-zé ]{0,6} -->|<Odd x='[a-z]{0,3}'>[a-z&&[^&<]]{0,4}</Odd>|<E />|)[ \t\r\n]{0,3}", 4),
        edits in proptest::collection::vec((0usize..3, "[ -~é]{0,12}"), 1..6),
    ) {
        let names = ["MaxThreads", "LogFile", "LogLevel"];
        let marks = ["\u{1}0", "\u{1}1", "\u{1}2"];
        let shape = format!(
            "<Configuration>{}<MaxThreads>{}</MaxThreads>{}<LogFile>{}</LogFile>{}<LogLevel>{}</LogLevel>{}</Configuration>",
            filler[0], marks[0], filler[1], marks[1], filler[2], marks[2], filler[3]
        );
        let mut values = ["1".to_owned(), "2".to_owned(), "3".to_owned()];
        let fill = |values: &[String; 3]| {
            let escape = |v: &str| v.trim().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            marks.iter().zip(values).fold(shape.clone(), |text, (mark, value)| text.replace(mark, &escape(value)))
        };
        let mut document = Document::parse(fill(&values)).unwrap();
        for (which, value) in edits {
            let value = value.trim().to_owned();
            document.set(&names[which].parse().unwrap(), &value).unwrap();
            values[which] = value;
            prop_assert_eq!(document.as_str(), fill(&values));
            let got = document.get(&names[which].parse().unwrap());
            prop_assert_eq!(got, Some(values[which].as_str()));
        }
    }

    /// No text makes the checks panic, and errors always have a place in the text.
    #[test]
    fn nothing_panics(text in "(<|>|/|Configuration|ConfigurationProfiles|ConfigurationProfile|Name|&amp;|&|\"|'|=| |!--|-->|\\[|é|\r|\n){0,40}") {
        let (_, findings) = check(&text, Path::new("E.xml"));
        let lines = text.split('\n').count() + text.matches('\r').count();
        prop_assert!(findings.iter().all(|f| f.line >= 1 && f.line as usize <= lines));
    }
}

#[test]
fn publishing_keeps_a_generation_and_loading_falls_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("EmailAgent.xml");
    let first = publish(&file, PUBLISHED).unwrap();
    assert!(!first.kept_previous);
    let second = publish(&file, COMPLETE).unwrap();
    assert!(second.kept_previous);
    assert_eq!(read(&file), COMPLETE);
    assert_eq!(read(&previous_path(&file)), PUBLISHED);
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["EmailAgent.xml", "EmailAgent.xml.previous"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(previous_path(&file)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let outcome = Settings::load(&file).unwrap();
    assert_eq!((outcome.generation, outcome.findings.len()), (Generation::Current, 0));
    assert_eq!(outcome.settings.profiles.len(), 4);

    // cut in the middle, as an interrupted copy leaves it
    fs::write(&file, &COMPLETE[..COMPLETE.find("<Direction>").unwrap()]).unwrap();
    let outcome = Settings::load(&file).unwrap();
    assert_eq!((outcome.generation, outcome.settings.profiles.len()), (Generation::Previous, 0));
    let name = file.display();
    let said: Vec<_> = outcome.findings.iter().take(2).map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            format!(
                "{name}:15:7: error: the file is damaged: the file ends before the end tag of ConfigurationProfile, which was \
             opened at line 13 [damaged]"
            ),
            format!(
                "{name}:15:7: warning: the previous generation {name}.previous is used, since the current file is damaged; \
             repair it and publish again [previous-generation]"
            ),
        ]
    );

    // a damaged file never becomes the previous generation
    let third = publish(&file, COMPLETE).unwrap();
    assert!(!third.kept_previous);
    assert_eq!(read(&previous_path(&file)), PUBLISHED);

    // empty, not UTF-8, UTF-16
    for (bytes, message) in [
        (&b""[..], "the file is damaged: root element is missing"),
        (
            b"<Configuration>\n\xff",
            "the file is damaged: here is a byte that is not UTF-8; save the file as UTF-8",
        ),
        (b"\xff\xfe<\0", "the file is damaged: the file is UTF-16; save it as UTF-8"),
    ] {
        fs::write(&file, bytes).unwrap();
        let outcome = Settings::load(&file).unwrap();
        assert_eq!(outcome.generation, Generation::Previous);
        assert_eq!(outcome.findings[0].message, message);
    }
    // neither can be used: the faults of both are told
    fs::write(previous_path(&file), COMPLETE.replace("<MaxThreads>8", "<MaxThreads>0")).unwrap();
    let Err(LoadError::Invalid(findings)) = Settings::load(&file) else { panic!("loaded") };
    let said: Vec<_> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            format!("{name}:1:1: error: the file is damaged: the file is UTF-16; save it as UTF-8 [damaged]"),
            format!(
                "{name}.previous:5:5: error: the previous generation cannot be used either: MaxThreads is 0; it must be between 1 \
                 and 10000 [out-of-range]"
            ),
        ]
    );
    fs::write(previous_path(&file), "<").unwrap();
    assert!(
        matches!(Settings::load(&file), Err(LoadError::Invalid(f)) if f.len() == 2 && f[1].code == Code::Damaged)
    );
    fs::remove_file(previous_path(&file)).unwrap();
    fs::create_dir(previous_path(&file)).unwrap();
    assert!(
        matches!(Settings::load(&file), Err(LoadError::Invalid(f)) if f.len() == 2 && f[1].code == Code::PreviousGeneration)
    );
    fs::remove_dir(previous_path(&file)).unwrap();
    assert!(
        matches!(Settings::load(&file), Err(LoadError::Invalid(f)) if f.len() == 1 && f[0].code == Code::Damaged)
    );

    // a file with faults is not damaged: whoever wrote it has to hear of them
    fs::write(previous_path(&file), PUBLISHED).unwrap();
    fs::write(&file, COMPLETE.replace("Embedded", "Elsewhere")).unwrap();
    let error = Settings::load(&file).unwrap_err();
    assert!(error.to_string().contains(": Type is \"Elsewhere\", which is not one of MyCompany,"), "{error}");
    assert!(matches!(Settings::load(&folder.path().join("no.xml")), Err(LoadError::Unreadable(_))));

    // and it never becomes the previous generation, which has to work when it is needed
    let fourth = publish(&file, COMPLETE).unwrap();
    assert!(!fourth.kept_previous);
    assert_eq!(read(&previous_path(&file)), PUBLISHED);
}

#[test]
fn a_left_over_temporary_file_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("EmailAgent.xml");
    fs::write(folder.path().join("EmailAgent.xml.new"), "half of").unwrap();
    fs::write(folder.path().join("EmailAgent.xml.previous.new"), "half of").unwrap();
    publish(&file, PUBLISHED).unwrap();
    publish(&file, COMPLETE).unwrap();
    assert_eq!(read(&file), COMPLETE);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// Whoever publishes must not lock the service out of its own files.
#[cfg(unix)]
#[test]
fn publishing_keeps_owner_permissions_and_links() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("etc/real.xml"), folder.path().join("EmailAgent.xml"));
    fs::create_dir(folder.path().join("etc")).unwrap();
    fs::write(&real, PUBLISHED).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("etc/real.xml", &link).unwrap();
    // only root can give files away
    let owner = chown(&real, Some(4711), Some(4712)).is_ok();
    let shown = |path: &Path| {
        let m = fs::metadata(path).unwrap();
        (m.mode() & 0o777, m.uid(), m.gid())
    };
    let before = shown(&real);
    assert_eq!((before.0, owner), (0o640, before.1 == 4711 && before.2 == 4712));
    publish(&link, COMPLETE).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(read(&real), COMPLETE);
    assert_eq!(read(&previous_path(&link)), PUBLISHED);
    assert_eq!([shown(&real), shown(&previous_path(&link))], [before, before]);
    // what is there already takes the file's owner and permissions too
    fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    publish(&link, PUBLISHED).unwrap();
    assert_eq!([shown(&real).0, shown(&previous_path(&link)).0], [0o600, 0o600]);
    assert_eq!(shown(&previous_path(&link)).1, before.1);
    // a link that leads nowhere is not replaced by a file
    fs::remove_file(&real).unwrap();
    let error = publish(&link, COMPLETE).unwrap_err().to_string();
    assert!(error.starts_with("nothing was published, cannot lock the folder of"), "{error}");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink() && !real.exists());
}

#[cfg(unix)]
#[test]
fn publishers_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("EmailAgent.xml");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for text in [PUBLISHED, COMPLETE] {
                    publish(&file, text).unwrap();
                }
            });
        }
    });
    let content = [read(&file), read(&previous_path(&file))];
    assert!(content.iter().all(|text| text == PUBLISHED || text == COMPLETE));
}

#[test]
fn a_new_file_is_written_from_the_wire_types() {
    let deployment = |name: &str| wire::Deployment {
        name: Some(name.into()),
        deployment_type: Some("Embedded".into()),
        path: Some(format!("{name}.db")),
        ..Default::default()
    };
    let wire = wire::Configuration {
        system: Some(wire::SystemConfiguration { max_threads: Some("7".into()), ..Default::default() }),
        deployments: Some(wire::Deployments { deployments: vec![deployment("A & B"), deployment("C")] }),
        ..Default::default()
    };
    let text = wire.to_text().unwrap();
    let (settings, findings) = check(&text, Path::new("E.xml"));
    assert_eq!(findings, [], "{text}");
    let settings = settings.unwrap();
    assert_eq!(settings.system.max_threads, 7);
    let names: Vec<_> = settings.deployments.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["A & B", "C"]);
}

#[test]
fn truth_values_and_foreign_paths() {
    let spellings = [("true", true), ("True", true), ("TRUE", true), ("1", true), ("yes", true)];
    let opposites = [("false", false), ("False", false), ("0", false), ("No", false)];
    for (text, value) in spellings.into_iter().chain(opposites) {
        let text = COMPLETE.replace(">True<", &format!(">{text}<"));
        assert_eq!(settings(&text).profile("Mail in").unwrap().delete_emails, value, "{text}");
    }
    if cfg!(not(windows)) {
        let text = COMPLETE.replace(">state.db<", ">c:\\state.db<");
        let (none, findings) = check(&text, Path::new("E.xml"));
        assert!(none.is_none());
        assert_eq!(findings[0].message, "StateFile is a Windows path, which means nothing on this system");
    }
}

#[test]
fn publishing_refuses_faults_and_changed_directions() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("EmailAgent.xml");
    publish(&file, COMPLETE).unwrap();
    let error = publish(&file, &COMPLETE.replace("<MaxThreads>8", "<MaxThreads>0")).unwrap_err();
    assert!(error.to_string().contains("MaxThreads is 0; it must be between 1 and 10000"), "{error}");
    let error = publish(&file, "<Configuration>").unwrap_err();
    assert!(error.to_string().contains("the file is damaged"), "{error}");

    // the folder profiles exchange their directions; mailboxes that name them would be wrong too, so they go
    let start = COMPLETE.find("  <Mailboxes>").unwrap();
    let end = COMPLETE.find("  <Router>").unwrap();
    let turned = format!("{}{}", &COMPLETE[..start], &COMPLETE[end..]).replace(
        "<Name>Folder in</Name>\n      <Direction>Incoming",
        "<Name>folder IN</Name>\n      <Direction>Outgoing",
    );
    assert!(check(&turned, &file).0.is_some());
    let error = publish(&file, &turned).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "nothing was published, the new configuration has faults: {}:43:7: error: profile \"folder IN\": Direction was saved \
             as incoming and cannot be changed to outgoing; make a new profile under another name [direction-changed]",
            file.display()
        )
    );
    assert_eq!(read(&file), COMPLETE);
    assert!(!previous_path(&file).exists());
    // against the previous generation where the current one is damaged
    fs::write(previous_path(&file), COMPLETE).unwrap();
    fs::write(&file, "").unwrap();
    assert!(publish(&file, &turned).is_err());
}

#[test]
fn reloading_tells_each_change_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("EmailAgent.xml");
    publish(&file, PUBLISHED).unwrap();
    let (mut reloader, first) = Reloader::load(&file).unwrap();
    assert_eq!(first.settings.profiles.len(), 0);
    assert!(matches!(reloader.poll(), Reload::Unchanged));
    publish(&file, COMPLETE).unwrap();
    assert!(matches!(reloader.poll(), Reload::Changed(o) if o.settings.profiles.len() == 4));
    assert!(matches!(reloader.poll(), Reload::Unchanged));
    for bad in ["", "<Configuration><Router><StateFile/><StateFile/></Router></Configuration>"] {
        fs::write(&file, bad).unwrap();
        assert!(matches!(reloader.poll(), Reload::Refused(_)), "{bad}");
        assert!(matches!(reloader.poll(), Reload::Unchanged));
    }
    fs::remove_file(&file).unwrap();
    assert!(matches!(reloader.poll(), Reload::Refused(LoadError::Unreadable(_))));
    assert!(matches!(reloader.poll(), Reload::Unchanged));
    fs::write(&file, PUBLISHED).unwrap();
    assert!(matches!(reloader.poll(), Reload::Changed(_)));
}

#[test]
fn usual_ports_and_encryption() {
    let profile = |inner: &str| {
        let text = format!(
            "<Configuration><ConfigurationProfiles><ConfigurationProfile><Name>P</Name><EmailServer>m</EmailServer>\
             <AllowClearTextWithoutTls>true</AllowClearTextWithoutTls>{inner}</ConfigurationProfile></ConfigurationProfiles>\
             </Configuration>"
        );
        let profile = settings(&text).profiles[0].clone();
        let Location::Server { port, .. } = profile.location else { panic!("{profile:?}") };
        (profile.tls, port)
    };
    let pop = "<Direction>Incoming</Direction><ServerType>Pop3</ServerType><AuthenticationType>ClearText</AuthenticationType>\
               <AccessCredentials>UserSpecified</AccessCredentials>";
    let smtp = pop.replace("Incoming", "Outgoing").replace("Pop3", "Smtp");
    let relay = "<Direction>Outgoing</Direction><ServerType>Smtp</ServerType><AuthenticationType>Anonymous</AuthenticationType>";
    for (base, inner, expected) in [
        (pop, "", (TlsMode::Implicit, 995)),
        (pop, "<UseSsl>true</UseSsl>", (TlsMode::Implicit, 995)),
        (pop, "<UseSsl>false</UseSsl>", (TlsMode::None, 110)),
        (pop, "<TlsMode>StartTls</TlsMode>", (TlsMode::StartTls, 110)),
        (pop, "<NetworkPort>1995</NetworkPort>", (TlsMode::Implicit, 1995)),
        (&smtp, "", (TlsMode::StartTls, 587)),
        (&smtp, "<UseSsl>true</UseSsl>", (TlsMode::StartTls, 587)),
        (&smtp, "<UseSsl>true</UseSsl><NetworkPort>465</NetworkPort>", (TlsMode::Implicit, 465)),
        (&smtp, "<TlsMode>Implicit</TlsMode>", (TlsMode::Implicit, 465)),
        (&smtp, "<UseSsl>false</UseSsl>", (TlsMode::None, 587)),
        (relay, "", (TlsMode::StartTlsIfOffered, 25)),
        (relay, "<NetworkPort>465</NetworkPort>", (TlsMode::Implicit, 465)),
        (relay, "<UseSsl>false</UseSsl>", (TlsMode::None, 25)),
    ] {
        assert_eq!(profile(&format!("{base}{inner}")), expected, "{base}{inner}");
    }
}

#[test]
fn ten_thousand_mailboxes() {
    let users: String = (0..10_000)
        .map(|i| {
            format!(
                "    <User>\n      <Name>User {i}</Name>\n      <EmailAddress>user{i}@contoso.example</EmailAddress>\n      \
                 <IncomingProfile>Folder in</IncomingProfile>\n    </User>\n"
            )
        })
        .collect();
    let settings = settings(&COMPLETE.replace("  <Mailboxes>\n", &format!("  <Mailboxes>\n{users}")));
    assert_eq!(settings.enabled_mailboxes().count(), 10_004);
}

/// Names are found at once: with a search through the list for each, this takes most of a minute.
#[test]
fn many_names_are_cheap() {
    let profiles: String = (0..18_000)
        .map(|i| {
            format!(
                "<ConfigurationProfile><Name>Profile {i}</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType>\
                 </ConfigurationProfile>"
            )
        })
        .collect();
    let queues: String = (0..18_000)
        .map(|i| format!("<Queue><IncomingProfile>profile {i}</IncomingProfile></Queue>"))
        .collect();
    let text = format!(
        "<Configuration><ConfigurationProfiles>{profiles}{}</ConfigurationProfiles><Deployments><Deployment><Name>D</Name>\
         <Type>Embedded</Type><Path>x</Path></Deployment></Deployments><Mailboxes>{queues}</Mailboxes></Configuration>",
        "<ConfigurationProfile><Name>PROFILE 17999</Name></ConfigurationProfile>"
    );
    let (_, findings) = check(&text, Path::new("E.xml"));
    let count = |code: Code| findings.iter().filter(|f| f.code == code).count();
    assert_eq!((count(Code::DuplicateName), count(Code::UnknownReference)), (1, 0));
}

#[test]
fn many_elements_are_changed_at_once_as_they_would_be_one_by_one() {
    let boxes: ElementPath = "Mailboxes".parse().unwrap();
    let queue = |n| boxes.clone().child("Queue").number(n);
    let name = |n: usize| format!("Queue {n} <&>");
    let names: Vec<String> = (0..50).map(name).collect();
    let (mut one, mut many) = (Document::parse(ODD).unwrap(), Document::parse(ODD).unwrap());
    let records: Vec<(&str, Vec<(&str, &str)>)> =
        names.iter().map(|name| ("Queue", vec![("Name", name.as_str()), ("Odd", "")])).collect();
    for (element, children) in &records {
        one.insert(&boxes, element, children).unwrap();
    }
    many.insert_all(&boxes, &records).unwrap();
    assert_eq!(many.as_str(), one.as_str());

    let before = one.count(&boxes.clone().child("Queue")) - 50;
    let values: Vec<(ElementPath, String)> =
        [40, 3].map(|n| (queue(before + n).child("Name"), format!("new {n}"))).to_vec();
    for (path, value) in &values {
        one.set(path, value).unwrap();
    }
    many.set_all(&values).unwrap();
    assert_eq!(many.as_str(), one.as_str());
    let gone = [queue(before + 50), queue(before + 2), queue(before + 3), queue(before + 999)];
    for path in [&gone[0], &gone[2], &gone[1]] {
        assert!(one.remove(path).unwrap());
    }
    many.remove_all(&gone).unwrap();
    assert_eq!(many.as_str(), one.as_str());

    // nothing half
    let unchanged = many.as_str().to_owned();
    assert!(many.set_all(&[values[0].clone(), (queue(999), "x".to_owned())]).is_err());
    assert!(
        many.insert_all(&boxes, &[("Queue", vec![("Name", "a")]), ("Queue", vec![("Name", "\u{1}")])])
            .is_err()
    );
    assert_eq!(many.as_str(), unchanged);
}

#[test]
fn an_edit_that_changes_nothing_writes_nothing_and_one_that_is_faulty_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("EmailAgent.xml");
    assert!(matches!(publish_edited(&path, |_, _| Ok(())), Err(PublishError::Document(_))));
    std::fs::write(&path, "<Configuration><!-- kept --></Configuration>").unwrap();
    let threads: ElementPath = "SystemConfiguration/MaxThreads".parse().unwrap();
    assert!(publish_edited(&path, |_, _| Ok(())).unwrap().is_none());
    assert!(!previous_path(&path).exists());
    let faulty = publish_edited(&path, |document, _| document.set(&threads, "0"));
    assert!(matches!(faulty, Err(PublishError::Invalid(_))), "{faulty:?}");
    assert_eq!(read(&path), "<Configuration><!-- kept --></Configuration>");
    let done = publish_edited(&path, |document, settings| {
        document.set(&threads, &(settings.system.max_threads + 1).to_string())
    });
    assert!(done.unwrap().unwrap().kept_previous);
    let text = read(&path);
    assert!(text.contains("<!-- kept -->") && text.contains("<MaxThreads>51<"), "{text}");
    std::fs::write(&path, "<Configuration>").unwrap();
    assert!(matches!(publish_edited(&path, |_, _| Ok(())), Err(PublishError::Document(_))));
}
