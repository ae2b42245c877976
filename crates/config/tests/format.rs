//! The documentation of the format and the format itself say the same.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use std::collections::BTreeSet;

use email_router_config::wire::{Configuration, Content, Element};
use email_router_config::{
    AccessCredentials, AccessType, AuthenticationType, Cloud, DeploymentType, EmailProcessing, InDoubtPolicy,
    OverridePolicy, Protocol, ServerType, TlsMode, UserType, Word, check,
};

const FORMAT: &str = include_str!("../FORMAT.md");

/// The rows `| `Element` | ...` below the heading `## ... `Section``, by section.
fn documented(section: &str) -> Option<BTreeSet<String>> {
    let heading = format!("`{section}`");
    let mut rows = None;
    for line in FORMAT.lines() {
        if line.starts_with("## ") || line.starts_with("### ") {
            if rows.is_some() {
                break;
            }
            if line.contains(&heading) {
                rows = Some(BTreeSet::new());
            }
        } else if let (Some(rows), Some(row)) = (&mut rows, line.strip_prefix("| `")) {
            rows.extend(row.split('`').next().map(str::to_owned));
        }
    }
    rows
}

fn compare(name: &str, elements: &[Element]) {
    let rows = documented(name).unwrap_or_else(|| panic!("FORMAT.md has no section for {name}"));
    let known: BTreeSet<String> = elements.iter().map(|e| e.name.to_owned()).collect();
    assert_eq!(rows, known, "FORMAT.md, section {name}");
    for element in elements {
        // the three kinds of mailbox share one section
        let name =
            if ["User", "Queue", "ForwardMailbox"].contains(&element.name) { "User" } else { element.name };
        if let Content::Section(inner) = element.content {
            compare(name, inner);
        }
    }
}

#[test]
fn every_element_is_documented_and_no_other() {
    compare("Configuration", Configuration::ELEMENTS);
}

#[test]
fn every_word_is_documented() {
    fn words<W: Word>() {
        for word in W::ALL {
            assert!(FORMAT.contains(&format!("`{word}`")), "FORMAT.md does not explain {word}");
        }
    }
    words::<AccessCredentials>();
    words::<AccessType>();
    words::<AuthenticationType>();
    words::<Cloud>();
    words::<DeploymentType>();
    words::<EmailProcessing>();
    words::<InDoubtPolicy>();
    words::<OverridePolicy>();
    words::<Protocol>();
    words::<ServerType>();
    words::<TlsMode>();
    words::<UserType>();
}

/// The defaults in the tables are the defaults in the code: a file that writes every documented default of the sections that
/// stand once means the same as an empty one.
#[test]
fn documented_defaults_are_the_defaults() {
    let mut text = String::from("<Configuration>");
    for (open, close, section) in [
        ("<SystemConfiguration>", "", "SystemConfiguration"),
        ("<ProviderOverrides>", "</ProviderOverrides></SystemConfiguration>", "ProviderOverrides"),
        ("<Router>", "</Router>", "Router"),
    ] {
        text.push_str(open);
        for (name, default) in defaults(section) {
            text.push_str(&format!("<{name}>{default}</{name}>"));
        }
        text.push_str(close);
    }
    text.push_str("</Configuration>");
    let path = "/etc/router/EmailAgent.xml".as_ref();
    let (written, findings) = check(&text, path);
    assert_eq!(findings, [], "{text}");
    let (empty, _) = check("<Configuration/>", path);
    let (mut written, empty) = (written.unwrap(), empty.unwrap());
    assert_eq!(written.system.tuning, empty.system.tuning);
    written.system.overrides = empty.system.overrides;
    assert_eq!(written, empty);
    assert!(text.matches("</").count() > 20, "the tables were not read: {text}");
}

/// The profile's documented defaults, over a POP3 and an SMTP profile.
#[test]
fn documented_profile_defaults_are_the_defaults() {
    for (direction, server, who) in
        [("Incoming", "Pop3", "UserSpecified"), ("Outgoing", "Smtp", "UserSpecified")]
    {
        let base = format!(
            "<Name>P</Name><Direction>{direction}</Direction><ServerType>{server}</ServerType>\
             <AuthenticationType>ClearText</AuthenticationType><AccessCredentials>{who}</AccessCredentials>\
             <EmailServer>m.example</EmailServer>"
        );
        let written: String = defaults("ConfigurationProfile")
            .map(|(name, default)| format!("<{name}>{default}</{name}>"))
            .collect();
        let profile = |inner: &str| {
            let text = format!(
                "<Configuration><ConfigurationProfiles><ConfigurationProfile>{inner}</ConfigurationProfile>\
                 </ConfigurationProfiles></Configuration>"
            );
            let (settings, findings) = check(&text, "E.xml".as_ref());
            settings.unwrap_or_else(|| panic!("{findings:#?}")).profiles[0].clone()
        };
        assert_eq!(profile(&format!("{base}{written}")), profile(&base));
        assert!(written.matches("</").count() > 8, "the table was not read: {written}");
    }
}

/// The deployment's documented defaults.
#[test]
fn documented_deployment_defaults_are_the_defaults() {
    let written: String =
        defaults("Deployment").map(|(name, default)| format!("<{name}>{default}</{name}>")).collect();
    let deployment = |inner: &str| {
        let text = format!(
            "<Configuration><Deployments><Deployment><Name>D</Name><Type>CrmOnline</Type>\
             <Url>https://d.crm4.dynamics.com</Url><Application><ClientId>c</ClientId><ClientSecret>env:S</ClientSecret>\
             </Application>{inner}</Deployment></Deployments></Configuration>"
        );
        let (settings, findings) = check(&text, "E.xml".as_ref());
        settings.unwrap_or_else(|| panic!("{findings:#?}")).deployments[0].clone()
    };
    assert_eq!(deployment(&written), deployment(""));
    assert!(written.matches("</").count() > 7, "the table was not read: {written}");
}

/// Element and default of a section's rows whose default is a literal in back ticks.
fn defaults(section: &str) -> impl Iterator<Item = (String, String)> {
    let heading = format!("`{section}`");
    let mut inside = false;
    let mut found = Vec::new();
    for line in FORMAT.lines() {
        if line.starts_with("## ") || line.starts_with("### ") {
            inside = line.contains(&heading);
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let (true, [_, name, _, default, ..]) = (inside, &cells[..]) {
            let literal =
                |cell: &str| cell.strip_prefix('`').and_then(|c| c.strip_suffix('`')).map(str::to_owned);
            found.extend(literal(name).zip(literal(default)));
        }
    }
    found.into_iter()
}
