//! The library of this machine, without any key distribution centre: what it says where there are no tickets.
//!
//! Without the library the tests say SKIPPED, with `REQUIRE_PEERS=1` they fail.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests, which say why they are skipped

use std::path::Path;

use email_router_gssapi::{Context, Credential, Fault, Mechanism, Name, Store, available};

fn library() -> bool {
    let Err(error) = available() else { return true };
    assert!(std::env::var("REQUIRE_PEERS").as_deref() != Ok("1"), "REQUIRE_PEERS=1, but {error}");
    println!("SKIPPED: {error}");
    false
}

fn store(cache: Option<&Path>, keytab: Option<&Path>) -> Store {
    Store {
        cache: cache.map(|path| format!("FILE:{}", path.display())),
        client_keytab: keytab.map(Path::to_owned),
    }
}

#[test]
fn names() {
    if !library() {
        return;
    }
    assert_eq!(Name::service("pop", "mail.contoso.test").unwrap().text().unwrap(), "pop@mail.contoso.test");
    assert_eq!(Name::principal("alice@CONTOSO.TEST").unwrap().text().unwrap(), "alice@CONTOSO.TEST");
    for (service, host) in [("pop@evil.test", "mail.contoso.test"), ("pop", ""), ("pop", "a\0b")] {
        assert_eq!(Name::service(service, host).err().unwrap().fault(), Fault::BadName, "{service} {host}");
    }
    assert_eq!(Name::principal("alice\0@CONTOSO.TEST").err().unwrap().fault(), Fault::BadName);
}

#[test]
fn no_tickets() {
    if !library() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (missing, garbage) = (folder.path().join("missing"), folder.path().join("garbage"));
    std::fs::write(&garbage, "neither tickets nor keys\n").unwrap();
    let alice = Name::principal("alice@CONTOSO.TEST").unwrap();
    for store in [
        store(Some(&missing), None),
        store(Some(&garbage), None),
        store(Some(&missing), Some(&missing)),
        store(Some(&missing), Some(&garbage)),
    ] {
        for name in [None, Some(&alice)] {
            for mechanism in [Mechanism::Kerberos, Mechanism::Spnego] {
                let error = Credential::acquire(name, mechanism, &store).err().unwrap();
                assert_eq!(error.fault(), Fault::NoTickets, "{store:?} {name:?}: {error}");
                let text = error.to_string();
                assert!(text.starts_with("looking for Kerberos tickets: ") && text.len() > 40, "{text}");
                assert_ne!(error.codes().0, 0);
            }
        }
    }
    let bad = Store { cache: Some("FILE:a\0b".to_owned()), client_keytab: None };
    assert_eq!(Credential::acquire(None, Mechanism::Kerberos, &bad).err().unwrap().fault(), Fault::BadName);
}

#[test]
fn all_of_it_may_go_to_another_thread() {
    fn send<T: Send>() {}
    send::<Name>();
    send::<Credential>();
    send::<Context>();
}
