//! What administrators read for each mistake, word by word.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

mod shape;
mod systems;
mod together;
mod values;

use std::path::Path;

use email_router_config::{Code, Severity, check};
const POP: &str = "<ConfigurationProfile><Name>In</Name><Direction>Incoming</Direction><ServerType>Pop3</ServerType>\
    <AuthenticationType>ClearText</AuthenticationType><EmailServer>pop.example</EmailServer>\
    <AccessCredentials>UserSpecified</AccessCredentials></ConfigurationProfile>";
const SMTP: &str = "<ConfigurationProfile><Name>Out</Name><Direction>Outgoing</Direction><ServerType>Smtp</ServerType>\
    <AuthenticationType>Anonymous</AuthenticationType><EmailServer>smtp.example</EmailServer></ConfigurationProfile>";
const EMBEDDED: &str = "<Deployment><Name>D</Name><Type>Embedded</Type><Path>crm.db</Path></Deployment>";
const USER: &str = "<User><Name>Ann</Name><EmailAddress>ann@a.example</EmailAddress><IncomingProfile>In</IncomingProfile>\
    <OutgoingProfile>Out</OutgoingProfile><Password>env:ANN</Password></User>";
const ONLINE: &str = "<ConfigurationProfile><Name>EO</Name><Direction>Outgoing</Direction>\
    <ServerType>ExchangeOnline</ServerType><UseAutodiscover>true</UseAutodiscover>\
    <AccessCredentials>OtherSpecified</AccessCredentials><UserName>admin@a.example</UserName>\
    <Password>env:EO</Password><UserType>Administrator</UserType><AccessType>SendAs</AccessType></ConfigurationProfile>";

/// A whole file; each argument stands on a line of its own: profiles from line 3, deployments from line 6 when there are two
/// profile lines, and so on.
fn file(system: &str, profiles: &[&str], deployments: &[&str], mailboxes: &[&str], router: &str) -> String {
    format!(
        "<Configuration><SystemConfiguration>{system}</SystemConfiguration>\n<ConfigurationProfiles>\n{}\n\
         </ConfigurationProfiles><Deployments>\n{}\n</Deployments><Mailboxes>\n{}\n</Mailboxes>\n<Router>{router}</Router>\n\
         </Configuration>",
        profiles.join("\n"),
        deployments.join("\n"),
        mailboxes.join("\n")
    )
}

/// The findings without their columns, which are checked here instead: there, the element that the finding names must begin, or
/// the nearest parent that is in the file.
fn findings(text: &str) -> Vec<String> {
    let (settings, findings) = check(text, Path::new("E.xml"));
    assert_eq!(settings.is_some(), findings.iter().all(|f| f.severity == Severity::Warning), "{findings:?}");
    let lines: Vec<&str> = text.split('\n').collect();
    for finding in &findings {
        let line = lines[finding.line as usize - 1];
        let there: String = line.chars().skip(finding.column as usize - 1).collect();
        let mut names: Vec<&str> =
            finding.element.split('/').map(|n| n.split('#').next().unwrap_or(n)).collect();
        let begins = |name: &str| {
            let tag = there.strip_prefix('<').map(str::to_lowercase).unwrap_or_default();
            tag.strip_prefix(&name.to_lowercase()).is_some_and(|rest| rest.starts_with(['>', ' ', '/']))
        };
        let leaf = names.pop().unwrap_or_default();
        let absent = finding.code == Code::MissingElement || finding.message.contains("is missing");
        let parent = absent && names.last().is_some_and(|parent| begins(parent));
        assert!(begins(leaf) || parent, "{finding} ({}) points to {there:?}", finding.element);
    }
    findings
        .iter()
        // what is said of every profile with Exchange Web Services of Exchange Online: systems::retired
        .filter(|f| f.code != Code::Retired)
        .map(|f| f.to_string().replacen(&format!(":{}:{}: ", f.line, f.column), &format!(":{}: ", f.line), 1))
        .collect()
}

#[track_caller]
fn says(text: &str, expected: &[&str]) {
    assert_eq!(findings(text), expected, "\n{text}");
}

/// One profile alone, changed by replacements.
#[track_caller]
fn profile(base: &str, changes: &[(&str, &str)], expected: &[&str]) {
    let mut profile = base.to_owned();
    for (from, to) in changes {
        assert!(profile.contains(from), "{from} is not in the profile");
        profile = profile.replace(from, to);
    }
    says(&file("", &[&profile], &[], &[], ""), expected);
}

#[test]
fn nothing_to_say() {
    says(&file("", &[POP, SMTP], &[EMBEDDED], &[USER], ""), &[]);
    says("<configuration/>", &[]);
}
