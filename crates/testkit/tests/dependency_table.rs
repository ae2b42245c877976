//! The dependency table of `ARCHITECTURE.md`, asserted on what `cargo metadata` says of the workspace.
//!
//! A package may depend only on packages of lower lines. That alone keeps transport from crm, auth from config, and every library
//! from the binaries; what it does not cover is listed in [`FORBIDDEN`].
#![allow(clippy::unwrap_used, clippy::expect_used)] // the helpers of a test fail by panicking

use std::path::{Path, PathBuf};
use std::process::Command;

use email_router_model::read_file_capped;
use serde_json::Value;

/// Line of the table and folders on it, from the root of the workspace.
const TABLE: &[(u8, &[&str])] = &[
    (0, &["crates/gssapi", "crates/model", "crates/tnef"]),
    (1, &["crates/auth", "crates/config", "crates/tls"]),
    (2, &["crates/http"]),
    (3, &["crates/crm", "crates/transport"]),
    (4, &["crates/engine"]),
    (5, &["crates/state"]),
    (6, &["crates/email-router"]),
    (
        7,
        &[
            "benches",
            "bins/config-manager",
            "bins/router",
            "bins/rule-deploy",
            "bins/test-access",
            "examples",
        ],
    ),
];

/// Not on a line: fake servers and clocks, which only tests use and which know nothing but the vocabulary.
const TESTKIT: &str = "crates/testkit";

/// The one package whose lints are not inherited, since it must have unsafe code.
const UNSAFE: &str = "crates/gssapi/Cargo.toml";

/// Dependencies that no line forbids, with the reason. The second name is a package of ours or of somebody else.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    (
        "crates/model",
        &["tokio", "futures-util", "rustls", "hyper", "reqwest", "rusqlite"],
        "the vocabulary does no I/O",
    ),
    ("crates/auth", &["tokio", "futures-util", "hyper", "reqwest"], "authentication exchanges are sans-I/O"),
    (
        "crates/engine",
        &[
            "email-router-config",
            "email-router-auth",
            "email-router-http",
            "hyper",
            "reqwest",
            "rustls",
            "rusqlite",
        ],
        "decisions know no configuration file, no socket, no HTTP client and no SQL",
    ),
    ("crates/transport", &["rusqlite", "yaserde"], "transports keep no state and read no configuration file"),
    ("crates/crm", &["email-router-config", "lettre", "mail-parser"], "a CRM client knows no mail format"),
];

/// tokio features that open sockets, files or processes.
const IO_FEATURES: &[&str] = &["fs", "full", "net", "process"];

#[test]
fn packages_depend_only_on_lower_lines() {
    let packages = packages();
    let mut faults = Vec::new();
    for package in &packages {
        for dependency in &package.ours {
            if dependency.folder == TESTKIT {
                // the benches are one big test: their library holds the peers, and nothing depends on it
                if dependency.kind != "dev" && package.folder != "benches" {
                    faults.push(format!("{} uses the testkit outside its tests", package.folder));
                }
                continue;
            }
            let allowed = match (line(&package.folder), line(&dependency.folder)) {
                (Some(from), Some(to)) => to < from,
                (None, Some(to)) => to == 0,
                (_, None) => false,
            };
            if !allowed {
                faults.push(format!("{} -> {} ({})", package.folder, dependency.folder, dependency.kind));
            }
        }
    }
    assert!(faults.is_empty(), "dependencies against the table:\n{}", faults.join("\n"));
}

#[test]
fn forbidden_pairs_do_not_occur() {
    for package in packages() {
        for (folder, names, reason) in FORBIDDEN {
            if package.folder == *folder {
                for name in *names {
                    assert!(!package.normal.iter().any(|d| d == name), "{folder} -> {name}: {reason}");
                }
            }
        }
    }
}

#[test]
fn the_engine_takes_traits_without_adapters_and_tokio_without_io() {
    let metadata = metadata();
    let engine = find(&metadata, "email-router-engine");
    for dependency in list(engine, "dependencies") {
        let name = text(dependency, "name");
        if text_or(dependency, "kind", "normal") != "normal" {
            continue;
        }
        let features: Vec<&str> = list(dependency, "features").iter().filter_map(Value::as_str).collect();
        if ["email-router-transport", "email-router-crm"].contains(&name) {
            assert_eq!(
                dependency["uses_default_features"], false,
                "{name} brings its adapters into the engine"
            );
            assert!(features.is_empty(), "{name} brings {features:?} into the engine");
        }
        if name == "tokio" {
            assert!(
                !features.iter().any(|f| IO_FEATURES.contains(f)),
                "tokio brings {features:?} into the engine"
            );
        }
    }
}

#[test]
fn every_package_is_on_the_table_and_named_after_its_folder() {
    for package in packages() {
        let folder =
            Path::new(&package.folder).file_name().and_then(|n| n.to_str()).expect("a folder has a name");
        let expected =
            if folder == "email-router" { folder.to_owned() } else { format!("email-router-{folder}") };
        assert_eq!(package.name, expected, "package in {}", package.folder);
        assert!(
            package.folder == TESTKIT || line(&package.folder).is_some(),
            "{} is on no line",
            package.folder
        );
    }
}

#[test]
fn every_package_inherits_what_the_workspace_fixes() {
    let metadata = metadata();
    let root = root(&metadata);
    for package in list(&metadata, "packages") {
        let name = text(package, "name");
        assert_eq!(text(package, "edition"), "2024", "{name}");
        assert_eq!(text(package, "license"), "MIT OR Apache-2.0", "{name}");
        assert_eq!(text(package, "rust_version"), "1.89", "{name}");
        assert!(!text_or(package, "description", "").is_empty(), "{name} has no description");
        let manifest = Path::new(text(package, "manifest_path"));
        let source =
            String::from_utf8(read_file_capped(manifest, 1 << 20).expect("a manifest")).expect("UTF-8");
        let place = manifest.strip_prefix(&root).unwrap_or(manifest).display().to_string();
        for field in ["version", "edition", "rust-version", "license", "publish"] {
            assert!(
                source.contains(&format!("\n{field}.workspace = true")),
                "{place}: {field} is not inherited"
            );
        }
        if place != UNSAFE {
            assert!(source.contains("[lints]\nworkspace = true"), "{place}: the lints are not inherited");
        }
    }
}

#[test]
fn one_package_may_have_unsafe_code_and_has_all_other_lints() {
    let root = root(&metadata());
    let lints = |file: &str, prefix: &str| -> Vec<String> {
        let source = read_file_capped(&root.join(file), 1 << 20).expect("a manifest");
        let source = String::from_utf8(source).expect("UTF-8");
        let mut inside = false;
        let mut found = Vec::new();
        for line in source.lines() {
            if line.starts_with('[') {
                inside = line.starts_with(prefix);
            }
            if inside && !line.is_empty() {
                found.push(line.replace(prefix, "[lints"));
            }
        }
        found
    };
    let mut expected = lints("Cargo.toml", "[workspace.lints");
    let at = expected.iter().position(|l| l == "unsafe_code = \"forbid\"").expect("unsafe code is forbidden");
    "unsafe_code = \"allow\"".clone_into(&mut expected[at]);
    assert_eq!(lints(UNSAFE, "[lints"), expected);
}

#[test]
fn no_transport_adapter_uses_another() {
    const ADAPTERS: &[&str] = &["ews", "graph", "imap", "maildir", "memory", "pop3", "smtp"];
    let source = root(&metadata()).join("crates/transport/src");
    let mut seen = 0;
    for adapter in ADAPTERS {
        let (folder, file) = (source.join(adapter), source.join(format!("{adapter}.rs")));
        for path in rust_files(&folder).into_iter().chain(file.exists().then_some(file)) {
            seen += 1;
            let text =
                String::from_utf8(read_file_capped(&path, 1 << 22).expect("a source file")).expect("UTF-8");
            // its own tests may play one adapter against another
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for other in ADAPTERS.iter().filter(|other| *other != adapter) {
                let used = code.lines().any(|l| {
                    !l.trim_start().starts_with("//")
                        && (l.contains(&format!("crate::{other}::"))
                            || l.contains(&format!("super::super::{other}::")))
                });
                assert!(!used, "{} uses the adapter {other}", path.display());
            }
        }
    }
    assert!(seen >= 4, "only {seen} source files of adapters under {}", source.display());
}

/// One member of the workspace.
struct Package {
    name: String,
    /// From the root, with `/`.
    folder: String,
    /// Names of all dependencies that are built with it.
    normal: Vec<String>,
    /// Dependencies on members of the workspace.
    ours: Vec<Dependency>,
}

struct Dependency {
    folder: String,
    /// `normal`, `dev` or `build`.
    kind: String,
}

fn packages() -> Vec<Package> {
    let metadata = metadata();
    let root = root(&metadata);
    let folder = |path: &Path| {
        path.strip_prefix(&root).expect("inside the workspace").to_string_lossy().replace('\\', "/")
    };
    let packages: Vec<Package> = list(&metadata, "packages")
        .iter()
        .map(|package| {
            let dependencies = list(package, "dependencies");
            let kind = |d: &Value| text_or(d, "kind", "normal").to_owned();
            Package {
                name: text(package, "name").to_owned(),
                folder: folder(
                    Path::new(text(package, "manifest_path")).parent().expect("a manifest has a folder"),
                ),
                normal: dependencies
                    .iter()
                    .filter(|d| kind(d) != "dev")
                    .map(|d| text(d, "name").to_owned())
                    .collect(),
                ours: dependencies
                    .iter()
                    .filter_map(|d| {
                        Some(Dependency {
                            folder: folder(Path::new(d.get("path")?.as_str()?)),
                            kind: kind(d),
                        })
                    })
                    .collect(),
            }
        })
        .collect();
    assert!(packages.len() >= 13, "cargo metadata lists only {} packages", packages.len());
    packages
}

fn line(folder: &str) -> Option<u8> {
    TABLE.iter().find(|(_, folders)| folders.contains(&folder)).map(|(line, _)| *line)
}

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON")
}

fn root(metadata: &Value) -> PathBuf {
    PathBuf::from(text(metadata, "workspace_root"))
}

fn find<'a>(metadata: &'a Value, name: &str) -> &'a Value {
    list(metadata, "packages").iter().find(|p| p["name"] == name).expect("the package exists")
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).expect("a list")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is not a text"))
}

fn text_or<'a>(value: &'a Value, key: &str, otherwise: &'a str) -> &'a str {
    value[key].as_str().unwrap_or(otherwise)
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
    files
}
