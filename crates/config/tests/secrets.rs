//! Secrets: looked up, encrypted, rotated, and never shown.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use email_router_config::store::{KEY_VARIABLE, create_key_file, read_key_file};
use email_router_config::{
    Code, Document, Key, SecretError, SecretRef, SecretStore, check, previous_path, publish, rotate,
    set_secret,
};
use email_router_model::{Secret, SeededEntropy, read_file_capped};

const COMPLETE: &str = include_str!("data/complete.xml");
const HUNTER: &str = "hünter2 geheim";

fn read(path: &Path) -> String {
    String::from_utf8(read_file_capped(path, 1 << 20).unwrap()).unwrap()
}

fn store(folder: &Path, variables: &[(&str, &str)]) -> SecretStore {
    let variables: HashMap<String, OsString> =
        variables.iter().map(|(k, v)| ((*k).to_owned(), OsString::from(v))).collect();
    SecretStore::with_environment(folder.join("key"), move |name| variables.get(name).cloned())
}

fn text(store: &SecretStore, reference: &str) -> Result<String, String> {
    let reference = SecretRef::parse(reference).unwrap();
    store.resolve(&reference).map(|s| s.expose().to_owned()).map_err(|e| e.to_string())
}

#[test]
fn references_are_looked_up() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("plain"), "geheim").unwrap();
    fs::write(at("unix"), "geheim\n").unwrap();
    fs::write(at("dos"), "geheim\r\n").unwrap();
    fs::write(at("two"), "geheim\n\n").unwrap();
    fs::write(at("binary"), b"\xff\xfe").unwrap();
    fs::write(at("empty"), "\n").unwrap();
    fs::write(at("large"), vec![b'x'; 64 * 1024 + 1]).unwrap();
    let path = folder.path().to_str().unwrap();
    let store = store(folder.path(), &[("P", " geheim "), ("E", ""), ("CREDENTIALS_DIRECTORY", path)]);
    assert_eq!(text(&store, "env:P").as_deref(), Ok(" geheim "));
    assert_eq!(text(&store, "credential:unix").as_deref(), Ok("geheim"));
    for name in ["plain", "unix", "dos"] {
        assert_eq!(text(&store, &format!("file:{path}/{name}")).as_deref(), Ok("geheim"));
    }
    let failures = [
        ("env:Q".to_owned(), "the environment variable Q is not set to a text".to_owned()),
        ("env:E".to_owned(), "the environment variable E is empty".to_owned()),
        (format!("file:{path}/two"), format!("{path}/two does not hold UTF-8 text of one line")),
        (format!("file:{path}/binary"), format!("{path}/binary does not hold UTF-8 text of one line")),
        (format!("file:{path}/empty"), format!("{path}/empty is empty")),
        (format!("file:{path}/large"), format!("{path}/large is larger than the limit of 65536 bytes")),
    ];
    for (reference, message) in failures {
        assert_eq!(text(&store, &reference), Err(message));
    }
    let bare = self::store(folder.path(), &[]);
    assert_eq!(
        text(&bare, "credential:unix").unwrap_err(),
        "credential:unix needs the variable CREDENTIALS_DIRECTORY, which systemd sets for LoadCredential="
    );
}

#[test]
fn the_stamp_changes_with_every_file_that_is_read_and_with_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let path = folder.path().to_str().unwrap();
    let store = store(folder.path(), &[("P", "x"), ("CREDENTIALS_DIRECTORY", path)]);
    let key = Key::generate(&SeededEntropy::new(9));
    let sealed = key.seal(&Secret::from("x"), &SeededEntropy::new(9)).unwrap();
    let references = [
        SecretRef::Env("P".into()),
        SecretRef::File(at("file")),
        SecretRef::Credential("cred".into()),
        sealed,
    ];
    let stamp = || store.stamp(&references);
    let mut last = stamp();
    assert_eq!(stamp(), last);
    for name in ["file", "cred", "key"] {
        // made, made longer, replaced by one of the same length, gone
        let steps: [&dyn Fn(); 4] = [
            &|| fs::write(at(name), "one").unwrap(),
            &|| fs::write(at(name), "three").unwrap(),
            &|| {
                fs::write(at("new"), "seven").unwrap();
                fs::rename(at("new"), at(name)).unwrap();
            },
            &|| fs::remove_file(at(name)).unwrap(),
        ];
        for (number, step) in steps.into_iter().enumerate() {
            step();
            assert_ne!(stamp(), last, "{name} {number}");
            last = stamp();
        }
        fs::write(at("other"), name).unwrap();
        assert_eq!(stamp(), last);
    }
    assert_eq!(store.stamp(&references[..1]), store.stamp([]));
}

#[test]
fn encryption_binds_version_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let entropy = SeededEntropy::new(1);
    let store = store(folder.path(), &[]);
    let key = store.key_or_create(&entropy).unwrap();
    let sealed = key.seal(&Secret::from(HUNTER), &entropy).unwrap();
    let again = key.seal(&Secret::from(HUNTER), &entropy).unwrap();
    assert_ne!(sealed, again, "nonces must differ");
    let written = sealed.to_string();
    assert_eq!(text(&store, &written).as_deref(), Ok(HUNTER));

    // each single changed byte of the ciphertext is noticed
    let body = written.rfind(':').unwrap() + 1;
    for i in body..written.len() {
        let mut changed = written.clone().into_bytes();
        changed[i] = if changed[i] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        if let Ok(reference) = SecretRef::parse(&changed) {
            let error = store.resolve(&reference).unwrap_err();
            assert!(matches!(error, SecretError::Tampered(_)), "{error}");
        }
    }
    // another key's id over the same bytes
    let other = Key::generate(&entropy);
    let moved = written.replace(key.id(), other.id());
    assert!(text(&store, &moved).unwrap_err().contains("was encrypted under the key"));
    fs::remove_file(folder.path().join("key")).unwrap();
    assert!(text(&store, &written).unwrap_err().starts_with("there is no key to decrypt with"));
    assert!(matches!(key.seal(&Secret::from(""), &entropy), Err(SecretError::Empty(_))));
    assert!(matches!(key.seal(&Secret::from("a\nb"), &entropy), Err(SecretError::NotText(_))));
}

#[test]
fn a_key_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let entropy = SeededEntropy::new(2);
    let key = create_key_file(&folder.path().join("key"), &entropy).unwrap();
    let line = read(&folder.path().join("key"));
    let sealed = key.seal(&Secret::from(HUNTER), &entropy).unwrap().to_string();
    let elsewhere = tempfile::tempdir().unwrap();
    for value in [line.trim(), line.trim().rsplit(':').next().unwrap()] {
        let store = store(elsewhere.path(), &[(KEY_VARIABLE, value)]);
        assert_eq!(text(&store, &sealed).as_deref(), Ok(HUNTER));
        let error = rotate(&elsewhere.path().join("E.xml"), &store, &entropy).unwrap_err();
        assert!(error.to_string().contains("EMAIL_ROUTER_KEY"), "{error}");
    }
    let bad = store(elsewhere.path(), &[(KEY_VARIABLE, "c2hvcnQ=")]);
    assert!(matches!(bad.keys(), Err(SecretError::BadKey(_))));
}

#[cfg(unix)]
#[test]
fn key_files_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let key = create_key_file(&path, &SeededEntropy::new(3)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(read_key_file(&path).unwrap()[0].id(), key.id());
    assert!(create_key_file(&path, &SeededEntropy::new(4)).is_err(), "an existing key is never replaced");
    for mode in [0o640, 0o604, 0o660, 0o620] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = read_key_file(&path).unwrap_err();
        let expected = format!(
            "{} can be read by others (mode {mode:o}); make it readable by its owner only (chmod 600)",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn clear_text_in_the_file_is_refused_and_not_repeated() {
    let text = COMPLETE.replace("env:SMTP_PASSWORD", HUNTER);
    let (settings, findings) = check(&text, Path::new("E.xml"));
    assert!(settings.is_none());
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0].code, Code::ClearTextPassword);
    assert_eq!(
        findings[0].to_string(),
        "E.xml:37:7: error: Password holds a password in clear text; write env:NAME, file:PATH, credential:NAME, or the \
         ciphertext that `email-router secret set` makes, and change the password, since it was readable here \
         [clear-text-password]"
    );
    for mistake in ["env:hünter2 geheim", "aead:1:hünter2 geheim", "credential:hünter2/geheim"] {
        let text = COMPLETE.replace("env:SMTP_PASSWORD", mistake);
        let (settings, findings) = check(&text, Path::new("E.xml"));
        assert!(settings.is_none());
        let shown = format!("{findings:?} {}", findings[0]);
        assert!(!shown.contains("nter2"), "{shown}");
    }
}

/// Rotations that fail again and again do not fill the key file until it cannot be read any more.
#[cfg(unix)]
#[test]
fn failing_rotations_do_not_pile_up_keys() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("EmailAgent.xml");
    let entropy = SeededEntropy::new(7);
    let store = store(folder.path(), &[]);
    let mut document = Document::parse(COMPLETE).unwrap();
    let path = "ConfigurationProfiles/ConfigurationProfile[Name=Mail out]/Password".parse().unwrap();
    set_secret(&mut document, &path, &Secret::from(HUNTER), &store, &entropy).unwrap();
    publish(&file, document.as_str()).unwrap();
    let sealed = document.get(&path).unwrap().to_owned();
    // the temporary file cannot be made
    let obstacle = folder.path().join("EmailAgent.xml.previous.new");
    fs::create_dir(&obstacle).unwrap();
    for _ in 0..80 {
        rotate(&file, &store, &entropy).unwrap_err();
        assert_eq!(read(&file), document.as_str());
        assert!(store.keys().unwrap().len() <= 3);
        assert_eq!(text(&store, &sealed).as_deref(), Ok(HUNTER));
    }
    fs::remove_dir(&obstacle).unwrap();
    let rotated = rotate(&file, &store, &entropy).unwrap();
    assert_eq!(store.keys().unwrap().iter().map(Key::id).collect::<Vec<_>>(), [rotated.key_id.as_str()]);
}

/// A password that XML takes for markup: what is said about the damage repeats no piece of it.
#[test]
fn a_password_that_damages_the_file_is_not_repeated() {
    let secret = |text: &str| COMPLETE.replace("<Password>env:SMTP_PASSWORD</Password>", text);
    for text in [
        "<Password>hunter<Secr3t</Password>",
        "<Password>hunter</Secr3t</Password>",
        "<Password>hunter</Secr3t>",
        "<Password>hunter<Secr3t></Password>",
        "<Password>hunter<Secr3t/></Password>",
        "<Password>hunter<Secr3t></Secr3t></Password>",
        "<Password>hunter<Se Secr3t</Password>",
        "<Password>hunter<Se Secr3t='' Secr3t=''/></Password>",
        "<Password>ab&Secr3t;x</Password>",
        "<Password>ab&#Secr3t;x</Password>",
        "<Password>ab&Secr3t</Password>",
        "<Password Secr3t=''>env:X</Password>",
        "<Password=Secr3t/>",
        "<Password>ab<!Secr3t</Password>",
        "<Password>ab<?Secr3t</Password>",
        "<Password>ab<Secr3t>",
    ] {
        for text in [secret(text), secret(text).split_inclusive("Secr3t").take(1).collect()] {
            let (_, findings) = check(&text, Path::new("E.xml"));
            assert!(!findings.is_empty(), "{text}");
            let shown = findings.iter().map(|f| format!("{f} {f:?}\n")).collect::<String>();
            assert!(!shown.to_lowercase().contains("secr3t"), "{shown}");
            let document = Document::parse(text).map_err(|e| format!("{e} {e:?}"));
            assert!(!document.is_err_and(|e| e.to_lowercase().contains("secr3t")));
        }
    }
}

#[test]
fn nothing_shows_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let entropy = SeededEntropy::new(5);
    let store = store(folder.path(), &[("P", HUNTER)]);
    let key = store.key_or_create(&entropy).unwrap();
    let key_text = read(&folder.path().join("key"));
    let key_text = key_text.trim().rsplit(':').next().unwrap();
    let sealed = key.seal(&Secret::from(HUNTER), &entropy).unwrap();
    let secret = store.resolve(&sealed).unwrap();
    let text = COMPLETE.replace("env:SMTP_PASSWORD", HUNTER);
    let document = Document::parse(text.as_str()).unwrap();
    let file = folder.path().join("EmailAgent.xml");
    let refused = publish(&file, &text).unwrap_err();
    let (_, findings) = check(&text, &file);
    let shown = format!(
        "{store:?} {key:?} {sealed:?} {sealed} {secret:?} {document:?} {refused:?} {refused} {findings:?}"
    );
    for hidden in ["nter2", "geheim", key_text] {
        assert!(!shown.contains(hidden), "{hidden} in {shown}");
    }
}

#[test]
fn setting_and_rotating() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("EmailAgent.xml");
    let entropy = SeededEntropy::new(6);
    let store = store(folder.path(), &[]);
    let mut document = Document::parse(COMPLETE).unwrap();
    let path = "ConfigurationProfiles/ConfigurationProfile[Name=Mail out]/Password".parse().unwrap();
    set_secret(&mut document, &path, &Secret::from("first"), &store, &entropy).unwrap();
    publish(&file, document.as_str()).unwrap();
    let old_key = store.keys().unwrap()[0].id().to_owned();
    let previous_text = document.as_str().to_owned();
    set_secret(&mut document, &path, &Secret::from(HUNTER), &store, &entropy).unwrap();
    publish(&file, document.as_str()).unwrap();

    let rotated = rotate(&file, &store, &entropy).unwrap();
    assert_eq!((rotated.secrets, rotated.previous_secrets), (1, 1));
    let keys = store.keys().unwrap();
    assert_eq!(keys.iter().map(Key::id).collect::<Vec<_>>(), [rotated.key_id.as_str()]);
    assert_ne!(rotated.key_id, old_key);
    for (name, old, secret) in
        [(file.clone(), document.as_str(), HUNTER), (previous_path(&file), &previous_text, "first")]
    {
        let now = Document::load(&name).unwrap();
        let sealed = now.get(&path).unwrap();
        assert!(sealed.starts_with(&format!("aead:1:{}:", rotated.key_id)));
        assert_eq!(text(&store, sealed).as_deref(), Ok(secret));
        // nothing but the ciphertext changed
        let before = Document::parse(old).unwrap();
        assert_eq!(now.as_str(), old.replace(before.get(&path).unwrap(), sealed));
    }

    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt as _, chown};
        // only root can give files away; where it can, the key stays the service's
        let key = folder.path().join("key");
        if chown(&key, Some(4711), Some(4712)).is_ok() {
            rotate(&file, &store, &entropy).unwrap();
            let now = fs::metadata(&key).unwrap();
            assert_eq!((now.uid(), now.gid(), now.mode() & 0o777), (4711, 4712, 0o600));
        }
    }
    let rotated_key = store.keys().unwrap()[0].id().to_owned();

    // a ciphertext of an unknown key stops it, and nothing changes
    let stranger = Key::generate(&entropy).seal(&Secret::from("x"), &entropy).unwrap().to_string();
    let mut broken = Document::load(&file).unwrap();
    broken.set(&"Mailboxes/User[1]/Password".parse().unwrap(), &stranger).unwrap();
    publish(&file, broken.as_str()).unwrap();
    assert!(rotate(&file, &store, &entropy).unwrap_err().to_string().contains("was encrypted under the key"));
    assert_eq!(read(&file), broken.as_str());
    assert_eq!(store.keys().unwrap()[0].id(), rotated_key);
}
