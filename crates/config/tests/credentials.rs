//! The store of credentials: bound to its entries, changed as a whole, encrypted anew without a moment in which it cannot be read.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::{Path, PathBuf};

use email_router_config::{
    CredentialStore, SecretStore, credentials_file, remove_credential, rotate, set_credential,
};
use email_router_model::{Direction, EmailAddress, SystemEntropy};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("EmailAgent.xml"), "<Configuration></Configuration>").unwrap();
        Self(folder)
    }
    fn configuration(&self) -> PathBuf {
        self.0.path().join("EmailAgent.xml")
    }
    fn secrets(&self) -> SecretStore {
        SecretStore::new(self.0.path().join("email-router.key"))
    }
    fn set(&self, address: &str, direction: Option<Direction>, password: &str) {
        let (address, password) = (address.parse().unwrap(), password.into());
        set_credential(
            &self.configuration(),
            &address,
            direction,
            None,
            &password,
            &self.secrets(),
            &SystemEntropy,
        )
        .unwrap();
    }
    fn password(&self, address: &str, direction: Direction) -> Option<String> {
        let store = CredentialStore::load(&credentials_file(&self.configuration())).unwrap();
        let entry = store.find(&address.parse::<EmailAddress>().unwrap(), direction)?.clone();
        Some(store.password(&entry, &self.secrets()).unwrap().expose().to_owned())
    }
}

#[test]
fn one_direction_counts_before_both() {
    use Direction::{Incoming, Outgoing};
    let folder = Folder::new();
    assert_eq!(folder.password("ann@example.com", Incoming), None);
    folder.set("ann@example.com", None, "both");
    folder.set("Ann@Example.com", Some(Outgoing), "sending");
    folder.set("bob@example.com", Some(Incoming), "bob's");
    let of = |address, direction| folder.password(address, direction);
    assert_eq!(of("ann@example.com", Incoming).as_deref(), Some("both"));
    assert_eq!(of("ANN@example.com", Outgoing).as_deref(), Some("sending"));
    assert_eq!(of("bob@example.com", Outgoing), None);
    folder.set("ann@example.com", None, "new");
    assert_eq!(of("ann@example.com", Outgoing).as_deref(), Some("new"), "for both means for both");
    let ann = "ann@example.com".parse().unwrap();
    assert_eq!(remove_credential(&folder.configuration(), &ann, None).unwrap(), 1);
    assert_eq!(of("ann@example.com", Incoming), None);
    assert_eq!(of("bob@example.com", Incoming).as_deref(), Some("bob's"));
}

#[test]
fn what_we_do_not_know_is_kept() {
    let folder = Folder::new();
    folder.set("ann@example.com", None, "a");
    let file = credentials_file(&folder.configuration());
    let text = email_router_model::read_file_capped(&file, 1 << 20).unwrap();
    let text = String::from_utf8(text)
        .unwrap()
        .replace("</EmailRouterCredentials>", "  <!-- ours --><Later>1</Later>\n</EmailRouterCredentials>");
    std::fs::write(&file, &text).unwrap();
    folder.set("bob@example.com", None, "b");
    let after = String::from_utf8(email_router_model::read_file_capped(&file, 1 << 20).unwrap()).unwrap();
    assert!(after.contains("<!-- ours --><Later>1</Later>"), "{after}");
    let store = CredentialStore::parse(after.as_bytes(), Path::new("x.xml")).unwrap();
    assert!(
        store.findings().iter().any(|finding| finding.message.contains("Later")),
        "{:?}",
        store.findings()
    );
    assert_eq!(folder.password("ann@example.com", Direction::Incoming).as_deref(), Some("a"));
}

#[test]
fn a_new_key_leaves_every_password_readable() {
    let folder = Folder::new();
    for n in 0..20 {
        folder.set(&format!("u{n}@example.com"), None, &format!("p{n}"));
    }
    let rotated = rotate(&folder.configuration(), &folder.secrets(), &SystemEntropy).unwrap();
    assert_eq!(rotated.stored, 20);
    for n in 0..20 {
        let found = folder.password(&format!("u{n}@example.com"), Direction::Outgoing);
        assert_eq!(found, Some(format!("p{n}")));
    }
}
