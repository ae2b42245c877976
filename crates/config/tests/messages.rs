//! What administrators read for each mistake, word by word.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

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

#[test]
fn unknown_value() {
    profile(
        POP,
        &[("Incoming", "Inward")],
        &[
            "E.xml:3: error: profile \"In\": Direction is \"Inward\", which is not one of Incoming, Outgoing [unknown-value]",
        ],
    );
    profile(
        POP,
        &[(">Pop3<", ">Pop4<")],
        &[
            "E.xml:3: error: profile \"In\": ServerType is \"Pop4\", which is not one of Exchange2003, Exchange2007, \
         Exchange2010Or2013, ExchangeOnline, Pop3, Smtp, Maildir [unknown-value]",
        ],
    );
    profile(
        SMTP,
        &[("</Name>", "</Name><TlsMode>Maybe</TlsMode>")],
        &["E.xml:3: error: profile \"Out\": TlsMode is \"Maybe\", which is not one of Implicit, StartTls, \
         StartTlsIfOffered, None [unknown-value]"],
    );
    profile(
        POP,
        &[("</Name>", "</Name><DeleteEmails>maybe</DeleteEmails>")],
        &[
            "E.xml:3: error: profile \"In\": DeleteEmails is \"maybe\", which is not one of true, false [unknown-value]",
        ],
    );
    // the zone is missing
    profile(
        POP,
        &[("</Name>", "</Name><ProcessEmailsReceivedAfter>2026-11-01T00:00:00</ProcessEmailsReceivedAfter>")],
        &[
            "E.xml:3: error: profile \"In\": ProcessEmailsReceivedAfter is \"2026-11-01T00:00:00\", which is no date and time with its zone, \
             such as 2026-11-01T00:00:00Z or 2026-11-01T00:00:00+01:00 [invalid-value]",
        ],
    );
    profile(
        SMTP,
        &[(
            "</Name>",
            "</Name><ProcessEmailsReceivedAfter>2026-11-01T00:00:00Z</ProcessEmailsReceivedAfter>",
        )],
        &[
            "E.xml:3: warning: profile \"Out\": ProcessEmailsReceivedAfter has no effect: it belongs to incoming profiles [ignored-element]",
        ],
    );
}

#[test]
fn missing_element() {
    profile(
        POP,
        &[("<Direction>Incoming</Direction>", "")],
        &[
            "E.xml:3: error: profile \"In\": Direction is missing; give one of Incoming, Outgoing [missing-element]",
        ],
    );
    profile(
        POP,
        &[("<Name>In</Name>", "")],
        &["E.xml:3: error: profile 1: Name is missing; give a name of its own [missing-element]"],
    );
    profile(
        POP,
        &[("<AuthenticationType>ClearText</AuthenticationType>", "")],
        &[
            "E.xml:3: error: profile \"In\": AuthenticationType is missing; give one of Ntlm, ClearText, Apop [missing-element]",
        ],
    );
    profile(
        POP,
        &[("<EmailServer>pop.example</EmailServer>", "<EmailServer/>")],
        &[
            "E.xml:3: error: profile \"In\": EmailServer is missing; give the name of the server [missing-element]",
        ],
    );
    says(
        &file("", &[], &["<Deployment><Name>D</Name><Type>Embedded</Type></Deployment>"], &[], ""),
        &[
            "E.xml:5: error: deployment \"D\": Path is missing; give the SQLite file of the embedded CRM [missing-element]",
        ],
    );
    says(
        &file("", &[POP, SMTP], &[EMBEDDED], &["<Queue><Name>Q</Name></Queue>"], ""),
        &[
            "E.xml:8: error: queue \"Q\": EmailAddress is missing; give the address of the mailbox [missing-element]",
        ],
    );
    let user = USER.replace("<Password>env:ANN</Password>", "");
    says(
        &file("", &[POP, SMTP], &[EMBEDDED], &[&user], ""),
        &[
            "E.xml:8: error: user \"Ann\": Password is missing; profile \"In\" has AccessCredentials UserSpecified \
         [missing-element]",
        ],
    );
}

#[test]
fn out_of_range() {
    let system = |inner: &str| {
        format!("<Configuration>\n <SystemConfiguration>\n  {inner}\n </SystemConfiguration></Configuration>")
    };
    for (inner, expected) in [
        ("<MaxThreads>0</MaxThreads>", "MaxThreads is 0; it must be between 1 and 10000 [out-of-range]"),
        (
            "<SchedulingPeriod>5</SchedulingPeriod>",
            "SchedulingPeriod is 5; it must be between 10 and 3600000 milliseconds [out-of-range]",
        ),
        ("<MaxThreads>-1</MaxThreads>", "MaxThreads is -1; it must be between 1 and 10000 [out-of-range]"),
        (
            "<MaxThreads>99999999999999999999999</MaxThreads>",
            "MaxThreads is 99999999999999999999999; it must be between 1 and 10000 [out-of-range]",
        ),
        ("<LogLevel>4</LogLevel>", "LogLevel is 4; it must be between 0 and 3 [out-of-range]"),
        (
            "<MaxThreads>many</MaxThreads>",
            "MaxThreads is \"many\", which is not a whole number between 1 and 10000 [invalid-value]",
        ),
        (
            "<MaxThreads>1.5</MaxThreads>",
            "MaxThreads is \"1.5\", which is not a whole number between 1 and 10000 [invalid-value]",
        ),
        (
            "<ProviderOverrides><BatchSize>0</BatchSize></ProviderOverrides>",
            "BatchSize is 0; it must be between 1 and 1000 [out-of-range]",
        ),
    ] {
        says(&system(inner), &[&format!("E.xml:3: error: {expected}")]);
    }
    profile(
        POP,
        &[("</Name>", "</Name><NetworkPort>65536</NetworkPort>")],
        &[
            "E.xml:3: error: profile \"In\": NetworkPort is 65536; it must be between 1 and 65535 [out-of-range]",
        ],
    );
}

#[test]
fn invalid_combinations() {
    profile(
        POP,
        &[("ClearText", "WindowsAuthentication")],
        &[
            "E.xml:3: error: profile \"In\": AuthenticationType WindowsAuthentication cannot be used with incoming Pop3; \
         allowed: Ntlm, ClearText, Apop [invalid-combination]",
        ],
    );
    profile(
        POP,
        &[("UserSpecified", "LocalSystemAccount")],
        &[
            "E.xml:3: error: profile \"In\": AccessCredentials LocalSystemAccount cannot be used with incoming Pop3 with \
         ClearText; allowed: UserSpecified, OtherSpecified [invalid-combination]",
        ],
    );
    profile(
        SMTP,
        &[("</EmailServer>", "</EmailServer><AccessCredentials>OtherSpecified</AccessCredentials>")],
        &[
            "E.xml:3: error: profile \"Out\": AccessCredentials OtherSpecified cannot be used with outgoing Smtp with \
         Anonymous; allowed: LocalSystemAccount [invalid-combination]",
        ],
    );
    profile(
        POP,
        &[("Incoming", "Outgoing")],
        &[
            "E.xml:3: error: profile \"In\": ServerType Pop3 cannot be used for outgoing mail; allowed: Smtp, ExchangeOnline, \
         Maildir [invalid-combination]",
        ],
    );
    profile(
        SMTP,
        &[(">Smtp<", ">Exchange2007<")],
        &[
            "E.xml:3: error: profile \"Out\": ServerType Exchange2007 cannot be used for outgoing mail; allowed: Smtp, \
         ExchangeOnline, Maildir; mail goes out through Exchange Server by SMTP [invalid-combination]",
        ],
    );
    profile(
        POP,
        &[("</ServerType>", "</ServerType><Protocol>Smtp</Protocol>")],
        &["E.xml:3: error: profile \"In\": Protocol Smtp cannot be used with incoming Pop3; allowed: Pop3 \
         [invalid-combination]"],
    );
    profile(
        POP,
        &[("</Name>", "</Name><UserName>x</UserName>")],
        &[
            "E.xml:3: error: profile \"In\": UserName cannot be used with AccessCredentials UserSpecified; it belongs to \
         OtherSpecified [invalid-combination]",
        ],
    );
    profile(
        POP,
        &[("</Name>", "</Name><UserType>User</UserType>")],
        &[
            "E.xml:3: error: profile \"In\": UserType cannot be used with Pop3 and UserSpecified; it belongs to ExchangeOnline \
         with OtherSpecified [invalid-combination]",
        ],
    );
    profile(
        POP,
        &[("</Name>", "</Name><UseSsl>true</UseSsl><TlsMode>None</TlsMode>")],
        &[
            "E.xml:3: error: profile \"In\": UseSsl and TlsMode say the same; remove UseSsl [invalid-combination]",
            "E.xml:3: error: profile \"In\": AuthenticationType ClearText with TlsMode None could send the password without \
         encryption; set TlsMode to Implicit or StartTls, or set AllowClearTextWithoutTls to true [clear-text-without-tls]",
        ],
    );
}

const ONLINE: &str = "<ConfigurationProfile><Name>EO</Name><Direction>Outgoing</Direction>\
    <ServerType>ExchangeOnline</ServerType><UseAutodiscover>true</UseAutodiscover>\
    <AccessCredentials>OtherSpecified</AccessCredentials><UserName>admin@a.example</UserName>\
    <Password>env:EO</Password><UserType>Administrator</UserType><AccessType>SendAs</AccessType></ConfigurationProfile>";

#[test]
fn exchange_online() {
    profile(ONLINE, &[], &[]);
    profile(
        ONLINE,
        &[("<UserType>Administrator</UserType>", "")],
        &[
            "E.xml:3: error: profile \"EO\": UserType is missing; give one of Administrator, User [missing-element]",
            "E.xml:3: error: profile \"EO\": AccessType belongs to outgoing ExchangeOnline with OtherSpecified and UserType \
         Administrator only [invalid-combination]",
        ],
    );
    profile(
        ONLINE,
        &[("<AccessType>SendAs</AccessType>", "")],
        &[
            "E.xml:3: error: profile \"EO\": AccessType is missing; give one of DelegateAccess, SendAs [missing-element]",
        ],
    );
    profile(
        ONLINE,
        &[("Administrator", "User"), ("<AccessType>SendAs</AccessType>", "")],
        &[
            "E.xml:3: warning: profile \"EO\": UserName has no effect: with UserType User the mailbox's address is the name \
         [ignored-element]",
        ],
    );
    profile(
        ONLINE,
        &[("<UseAutodiscover>true</UseAutodiscover>", "<UseSsl>false</UseSsl>")],
        &[
            "E.xml:3: error: profile \"EO\": ExchangeWebServicesUrl is missing; give the complete URL, which ends in \
         EWS/Exchange.asmx, or set UseAutodiscover to true [missing-element]",
            "E.xml:3: error: profile \"EO\": UseSsl cannot be used like this: ExchangeOnline always uses https; remove it \
         [invalid-combination]",
        ],
    );
    let url = |url: &str| format!("<ExchangeWebServicesUrl>{url}</ExchangeWebServicesUrl>");
    let auto = "<UseAutodiscover>true</UseAutodiscover>";
    profile(ONLINE, &[(auto, &url("https://m.example/EWS/Exchange.asmx"))], &[]);
    profile(
        ONLINE,
        &[(auto, &url("https://m.example/"))],
        &[
            "E.xml:3: warning: profile \"EO\": ExchangeWebServicesUrl does not end in EWS/Exchange.asmx; give the complete URL \
         [invalid-value]",
        ],
    );
    profile(
        ONLINE,
        &[(auto, &url("http://m.example/EWS/Exchange.asmx"))],
        &[
            "E.xml:3: error: profile \"EO\": ExchangeWebServicesUrl must begin with https:// for ExchangeOnline \
         [invalid-combination]",
        ],
    );
    profile(
        ONLINE,
        &[(auto, &url("https://me:geheim@m.example/EWS/Exchange.asmx"))],
        &[
            "E.xml:3: error: profile \"EO\": ExchangeWebServicesUrl holds a name or password; use UserName and Password instead \
         [clear-text-password]",
        ],
    );
}

#[test]
fn duplicate_names() {
    let again = SMTP.replace("<Name>Out", "<Name> IN ");
    says(
        &file("", &[POP, &again], &[EMBEDDED], &[], ""),
        &[
            "E.xml:4: error: there is already a profile \"IN\" at line 3; names must differ, letter case does not count \
         [duplicate-name]",
        ],
    );
    says(
        &file("", &[POP], &[EMBEDDED, &EMBEDDED.replace("crm.db", "other.db")], &[], ""),
        &[
            "E.xml:6: error: there is already a deployment \"D\" at line 5; names must differ, letter case does not count \
         [duplicate-name]",
        ],
    );
    let queue = USER.replace("User>", "Queue>").replace("ann@", "ANN@");
    says(
        &file("", &[POP, SMTP], &[EMBEDDED], &[USER, &queue], ""),
        &[
            "E.xml:9: error: queue \"Ann\": EmailAddress ANN@a.example belongs to the mailbox at line 8 already \
         [duplicate-name]",
        ],
    );
    says(
        &file("<MaxThreads>1</MaxThreads>\n<maxthreads>2</maxthreads>", &[], &[], &[], ""),
        &[
            "E.xml:2: error: MaxThreads appears more than once in SystemConfiguration; the first is at line 1; remove one \
         [duplicate-element]",
        ],
    );
}

#[test]
fn one_file_for_each_embedded_crm() {
    let second = EMBEDDED.replace(">D<", ">E<").replace("crm.db", ".//crm.db");
    says(
        &file("", &[], &[EMBEDDED, &second], &[], ""),
        &[
            "E.xml:6: error: deployment \"E\": Path ././/crm.db is the CRM of the deployment at line 5 already; give each \
         deployment a file of its own [shared-source]",
        ],
    );
    says(&file("", &[], &[EMBEDDED, &second.replace("crm.db", "other.db")], &[], ""), &[]);
}

/// An empty element counts as none, and does not shift the lines of those after it.
#[cfg(not(windows))]
#[test]
fn empty_files_do_not_shift_lines() {
    let files = "<ExtraCaFiles>\n<File/>\n<File> </File>\n<File>C:\\ca.pem</File>\n</ExtraCaFiles>";
    profile(
        POP,
        &[("</Name>", &format!("</Name>{files}"))],
        &[
            "E.xml:6: error: profile \"In\": File is a Windows path, which means nothing on this system [foreign-path]",
        ],
    );
}

#[test]
fn absent_reference() {
    let user = USER.replace(">In<", ">Inn<");
    says(
        &file("", &[POP, SMTP], &[EMBEDDED], &[&user], ""),
        &[
            "E.xml:8: error: user \"Ann\": IncomingProfile refers to profile \"Inn\", which does not exist; profiles are: In, \
         Out [unknown-reference]",
            "E.xml:8: warning: user \"Ann\": Password has no effect: no profile of this mailbox has AccessCredentials \
         UserSpecified [ignored-element]",
        ],
    );
    let deployment = EMBEDDED.replace("</Path>", "</Path><DefaultOutgoingProfile>X</DefaultOutgoingProfile>");
    says(
        &file("", &[], &[&deployment], &[], ""),
        &[
            "E.xml:5: error: deployment \"D\": DefaultOutgoingProfile refers to profile \"X\", which does not exist; profiles \
         are: none [unknown-reference]",
        ],
    );
    let user = USER.replace("</Name>", "</Name><Deployment>E</Deployment>");
    says(
        &file("", &[POP, SMTP], &[EMBEDDED], &[&user], ""),
        &[
            "E.xml:8: error: user \"Ann\": Deployment refers to \"E\", which does not exist; deployments are: D \
         [unknown-reference]",
        ],
    );
    says(
        &file("", &[POP, SMTP], &[], &[USER], ""),
        &[
            "E.xml:8: error: user \"Ann\": there is no Deployment that this mailbox could belong to; add one to Deployments \
         [missing-element]",
        ],
    );
    let second = EMBEDDED.replace(">D<", ">E<").replace("crm.db", "other.db");
    says(
        &file("", &[POP, SMTP], &[EMBEDDED, &second], &[USER], ""),
        &["E.xml:9: error: user \"Ann\": Deployment is missing; give one of D, E [missing-element]"],
    );
}

#[test]
fn wrong_direction() {
    let user = USER.replace("<IncomingProfile>In<", "<IncomingProfile>out<");
    says(
        &file("", &[POP, SMTP], &[EMBEDDED], &[&user], ""),
        &[
            "E.xml:8: error: user \"Ann\": IncomingProfile refers to profile \"Out\", which is outgoing; it must be incoming \
         [wrong-direction]",
            "E.xml:8: warning: user \"Ann\": Password has no effect: no profile of this mailbox has AccessCredentials \
         UserSpecified [ignored-element]",
        ],
    );
    let deployment =
        EMBEDDED.replace("</Path>", "</Path><DefaultOutgoingProfile>In</DefaultOutgoingProfile>");
    says(
        &file("", &[POP], &[&deployment], &[], ""),
        &[
            "E.xml:5: error: deployment \"D\": DefaultOutgoingProfile refers to profile \"In\", which is incoming; it must be \
         outgoing [wrong-direction]",
        ],
    );
}

#[test]
fn clear_text_without_tls() {
    profile(
        POP,
        &[("</Name>", "</Name><UseSsl>False</UseSsl>")],
        &[
            "E.xml:3: error: profile \"In\": AuthenticationType ClearText with TlsMode None could send the password without \
         encryption; set TlsMode to Implicit or StartTls, or set AllowClearTextWithoutTls to true [clear-text-without-tls]",
        ],
    );
    profile(
        POP,
        &[("</Name>", "</Name><TlsMode>StartTlsIfOffered</TlsMode>")],
        &[
            "E.xml:3: error: profile \"In\": AuthenticationType ClearText with TlsMode StartTlsIfOffered could send the \
         password without encryption; set TlsMode to Implicit or StartTls, or set AllowClearTextWithoutTls to true \
         [clear-text-without-tls]",
        ],
    );
    profile(
        POP,
        &[(
            "</Name>",
            "</Name><TlsMode>None</TlsMode><AllowClearTextWithoutTls>yes</AllowClearTextWithoutTls>",
        )],
        &[],
    );
    profile(
        POP,
        &[("ClearText", "Apop"), ("</Name>", "</Name><TlsMode>None</TlsMode>")],
        &[
            "E.xml:3: warning: profile \"In\": TlsMode is None, so mail travels without encryption; set it to Implicit or \
         StartTls [unencrypted-mail]",
        ],
    );
}

#[test]
fn deployment_families() {
    let company = "<Deployment><Name>C</Name><Type>MyCompany</Type><Url>https://crm.example/Org</Url>\
                   <AccessCredentials>LocalSystemAccount</AccessCredentials></Deployment>";
    let provider = "<Deployment><Name>P</Name><Type>OnlineServiceProvider</Type><Url>https://p.example/Org</Url>\
                    <UserName>u</UserName><Password>env:P</Password></Deployment>";
    let online = "<Deployment><Name>O</Name><Type>CrmOnline</Type><Url>https://disco.crm.dynamics.com/Org</Url>\
                  <UserName>u</UserName><Password>env:O</Password></Deployment>";
    says(&file("", &[], &[company, provider], &[], ""), &[]);
    says(
        &file("", &[], &[company, online], &[], ""),
        &[
            "E.xml:6: error: deployment \"O\": Type CrmOnline cannot stand beside deployment \"C\" of type MyCompany at line 5; \
         one router serves either MyCompany and OnlineServiceProvider, or CrmOnline, or Embedded \
         [mixed-deployment-families]",
        ],
    );
    says(
        &file("", &[], &[provider, online], &[], "").replace("https://p", "http://p"),
        &[
            "E.xml:5: error: deployment \"P\": Url begins with http://, so credentials would travel without encryption; use \
         https://, or set AllowHttp to true [unencrypted-deployment]",
            "E.xml:6: error: deployment \"O\": Type CrmOnline cannot stand beside deployment \"P\" of type \
         OnlineServiceProvider at line 5; one router serves either MyCompany and OnlineServiceProvider, or CrmOnline, or \
         Embedded [mixed-deployment-families]",
        ],
    );
    says(
        &file("", &[], &[EMBEDDED, online], &[], ""),
        &[
            "E.xml:6: error: deployment \"O\": Type CrmOnline cannot stand beside deployment \"D\" of type Embedded at line 5; \
         one router serves either MyCompany and OnlineServiceProvider, or CrmOnline, or Embedded \
         [mixed-deployment-families]",
        ],
    );
    let allow = "<AllowEmbeddedBesideOthers>true</AllowEmbeddedBesideOthers>";
    says(
        &file("", &[], &[EMBEDDED, online], &[], allow),
        &[
            "E.xml:6: warning: deployment \"O\": Type CrmOnline stands beside deployment \"D\" of type Embedded, as \
         AllowEmbeddedBesideOthers allows [mixed-deployment-families]",
        ],
    );
    // the embedded CRM in front does not open a way for the other two to mix, in whatever order they come
    let error = |line: u32, name: &str, kind: &str, other: &str, other_kind: &str, at: u32| {
        format!(
            "E.xml:{line}: error: deployment \"{name}\": Type {kind} cannot stand beside deployment \"{other}\" of type \
             {other_kind} at line {at}; one router serves either MyCompany and OnlineServiceProvider, or CrmOnline, or Embedded \
             [mixed-deployment-families]"
        )
    };
    let warning = |line: u32, name: &str, kind: &str, other: &str, other_kind: &str| {
        format!(
            "E.xml:{line}: warning: deployment \"{name}\": Type {kind} stands beside deployment \"{other}\" of type {other_kind}, \
             as AllowEmbeddedBesideOthers allows [mixed-deployment-families]"
        )
    };
    for (three, expected) in [
        (
            [EMBEDDED, company, online],
            [warning(6, "C", "MyCompany", "D", "Embedded"), error(7, "O", "CrmOnline", "C", "MyCompany", 6)],
        ),
        (
            [company, EMBEDDED, online],
            [warning(6, "D", "Embedded", "C", "MyCompany"), error(7, "O", "CrmOnline", "C", "MyCompany", 5)],
        ),
        (
            [online, company, EMBEDDED],
            [error(6, "C", "MyCompany", "O", "CrmOnline", 5), warning(7, "D", "Embedded", "O", "CrmOnline")],
        ),
    ] {
        assert_eq!(findings(&file("", &[], &three, &[], allow)), expected);
    }
    let local =
        online.replace("<UserName>", "<AccessCredentials>LocalSystemAccount</AccessCredentials><UserName>");
    says(
        &file("", &[], &[&local], &[], ""),
        &[
            "E.xml:5: error: deployment \"O\": AccessCredentials LocalSystemAccount cannot be used with CrmOnline; allowed: \
         OtherSpecified [invalid-combination]",
        ],
    );
    // valid, but nobody can serve it yet: an error only for mailboxes that are worked on
    let smtp_user =
        USER.replace("<IncomingProfile>In</IncomingProfile>", "").replace("<Password>env:ANN</Password>", "");
    says(
        &file("", &[SMTP], &[company], &[&smtp_user], ""),
        &[
            "E.xml:7: error: user \"Ann\": belongs to deployment \"C\" of type MyCompany, which this version cannot serve yet; it \
         serves Embedded; disable the mailbox or move it [not-in-this-version]",
        ],
    );
    let disabled = smtp_user.replace("</Name>", "</Name><Disabled>true</Disabled>");
    says(&file("", &[SMTP], &[company], &[&disabled], ""), &[]);
    // 6.2 and 6.3: user-specified credentials depend on the edition
    let own = |base: &str| {
        let (from, to) = (
            "<AuthenticationType>Anonymous</AuthenticationType>",
            "<AuthenticationType>ClearText</AuthenticationType>",
        );
        let who = "<AccessCredentials>UserSpecified</AccessCredentials></ConfigurationProfile>";
        base.replace(from, to).replace("</ConfigurationProfile>", who)
    };
    let online_own = ONLINE
        .replace("OtherSpecified", "UserSpecified")
        .replace("<UserName>admin@a.example</UserName>", "")
        .replace("<Password>env:EO</Password>", "")
        .replace("<UserType>Administrator</UserType><AccessType>SendAs</AccessType>", "");
    for (kind, place, pop, smtp) in [
        ("MyCompany", company, true, true),
        ("OnlineServiceProvider", provider, false, true),
        ("CrmOnline", online, false, false),
        ("Embedded", EMBEDDED, true, true),
    ] {
        let refused = |mailbox: &str, profile: &str| {
            let mailbox = mailbox.replace("</Name>", "</Name><Disabled>true</Disabled>");
            let found = findings(&file("", &[profile], &[place], &[&mailbox], ""));
            let refused =
                found.iter().filter(|f| f.contains("with AccessCredentials UserSpecified cannot be used in"));
            let refused: Vec<_> = refused.collect();
            assert!(
                refused
                    .iter()
                    .all(|f| f.contains(&format!("in a deployment of type {kind}; allowed: MyCompany, ")))
            );
            assert_eq!(refused.len(), found.len(), "{found:?}");
            !refused.is_empty()
        };
        let reads = USER.replace("<OutgoingProfile>Out</OutgoingProfile>", "");
        let sends = USER.replace("<IncomingProfile>In</IncomingProfile>", "");
        assert_eq!(refused(&reads, POP), !pop, "POP3 and {kind}");
        assert_eq!(refused(&sends, &own(SMTP)), !smtp, "SMTP and {kind}");
        assert!(
            !refused(&sends.replace(">Out<", ">EO<"), &online_own),
            "outgoing Exchange Online and {kind}"
        );
    }
    let disabled = USER.replace("</Name>", "</Name><Disabled>true</Disabled>");
    says(
        &file("", &[POP, SMTP], &[provider], &[&disabled], ""),
        &[
            "E.xml:8: error: user \"Ann\": profile \"In\" (incoming Pop3) with AccessCredentials UserSpecified cannot be used in \
         a deployment of type OnlineServiceProvider; allowed: MyCompany, Embedded [invalid-combination]",
        ],
    );
}

#[test]
fn not_in_this_version() {
    let ntlm = POP.replace("ClearText", "Ntlm");
    says(
        &file("", &[&ntlm, SMTP], &[EMBEDDED], &[USER], ""),
        &[
            "E.xml:8: error: user \"Ann\": profile \"In\" has AuthenticationType Ntlm, which this version cannot serve yet; it \
         serves ClearText, Apop; disable the mailbox or give it another profile [not-in-this-version]",
        ],
    );
    let user = USER.replace(">Out<", ">EO<");
    says(
        &file("", &[POP, ONLINE], &[EMBEDDED], &[&user], ""),
        &[
            "E.xml:3: warning: profile \"In\": ServerType Pop3 stands beside an ExchangeOnline profile at line 4; Microsoft \
         advises one router for Exchange Online and another for the rest; set AllowMixedServers to true to accept it \
         [mixed-servers]",
            "E.xml:8: error: user \"Ann\": profile \"EO\" has ServerType ExchangeOnline, which this version cannot serve yet; it \
         serves Pop3, Smtp, Maildir; disable the mailbox or give it another profile [not-in-this-version]",
        ],
    );
    says(&file("", &[POP, ONLINE], &[], &[], "<AllowMixedServers>true</AllowMixedServers>"), &[]);
}

#[test]
fn shared_sources() {
    let folder = "<ConfigurationProfile><Name>F</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType>\
                  <Path>mail</Path></ConfigurationProfile>";
    let one = "<User><Name>A</Name><EmailAddress>a@a.example</EmailAddress><IncomingProfile>F</IncomingProfile></User>";
    let two = one.replace("a@a", "b@a").replace(">A<", ">B<");
    says(
        &file("", &[folder], &[EMBEDDED], &[one, &two], ""),
        &[
            "E.xml:8: error: user \"B\": reads the same messages as the mailbox at line 7 (folder ./mail); give each mailbox its \
         own, for example with {address} in the profile's Path or UserName [shared-source]",
        ],
    );
    // another spelling is not another source
    let own_path = |path: &str| two.replace("</Name>", &format!("</Name><Path>{path}</Path>"));
    for path in ["mail/", ".//mail", "./mail/."] {
        let found = findings(&file("", &[folder], &[EMBEDDED], &[one, &own_path(path)], ""));
        assert!(found.len() == 1 && found[0].contains("(folder ./mail)"), "{path}: {found:?}");
    }
    says(&file("", &[folder], &[EMBEDDED], &[one, &own_path("mail/b")], ""), &[]);
    let own = folder.replace("mail<", "mail/{address}<");
    says(&file("", &[&own], &[EMBEDDED], &[one, &two], ""), &[]);
    let other = POP
        .replace("UserSpecified<", "OtherSpecified<")
        .replace("</Name>", "</Name><UserName>box</UserName><Password>env:P</Password>");
    let (one, two) = (one.replace(">F<", ">In<"), two.replace(">F<", ">In<"));
    says(
        &file("", &[&other], &[EMBEDDED], &[&one, &two], ""),
        &[
            "E.xml:8: error: user \"B\": reads the same messages as the mailbox at line 7 (box on pop.example); give each \
         mailbox its own, for example with {address} in the profile's Path or UserName [shared-source]",
        ],
    );
    let second = other.replace(">In<", ">In2<").replace("pop.example", "POP.Example.");
    let on_second = two.replace(">In<", ">In2<");
    for (port, same) in [("995", true), ("110", true), ("1995", false)] {
        let second = second.replace("</Name>", &format!("</Name><NetworkPort>{port}</NetworkPort>"));
        let found = findings(&file("", &[&other, &second], &[EMBEDDED], &[&one, &on_second], ""));
        assert_eq!(found.iter().any(|f| f.contains("(box on pop.example)")), same, "{port}: {found:?}");
    }
    let master = other.replace(">box<", ">{address}*box<");
    says(&file("", &[&master], &[EMBEDDED], &[&one, &two], ""), &[]);
}

#[test]
fn unknown_things_are_kept_and_told() {
    says(
        "<Configuration a='1' xmlns='x' xsi:b='c'>\n text <SystemConfiguration><MaxThread>1</MaxThread>\n  <Odd/></SystemConfiguration>\n<ProviderConfiguration/></Configuration>",
        &[
            "E.xml:1: warning: unknown attribute a of Configuration has no effect; it is kept as it is [unknown-attribute]",
            "E.xml:1: warning: the text directly inside Configuration has no effect; it is kept as it is [ignored-element]",
            "E.xml:2: warning: unknown element MaxThread in SystemConfiguration has no effect; it is kept as it is; did you \
         mean MaxThreads? [unknown-element]",
            "E.xml:3: warning: unknown element Odd in SystemConfiguration has no effect; it is kept as it is [unknown-element]",
            "E.xml:4: warning: unknown element ProviderConfiguration in Configuration has no effect; it is kept as it is; \
         describe the provider as a ConfigurationProfile instead [unknown-element]",
        ],
    );
    says(
        "<Config/>",
        &["E.xml:1: error: the root element is Config; it must be Configuration [unknown-element]"],
    );
}

#[test]
fn other_values() {
    profile(
        POP,
        &[("pop.example", "pop.example:995")],
        &[
            "E.xml:3: error: profile \"In\": EmailServer is \"pop.example:995\", which is not a host name or IP address; the \
         port belongs into NetworkPort [invalid-value]",
        ],
    );
    profile(POP, &[("pop.example", "[::1]")], &[]);
    profile(
        POP,
        &[("<Name>In", "<Name>none")],
        &[
            "E.xml:3: error: profile \"none\": Name is \"None\", which mailboxes use to say \"no profile\" [invalid-value]",
        ],
    );
    profile(
        POP,
        &[(
            "</Name>",
            "</Name><Path>x</Path><EhloName>x</EhloName><UseChunking>false</UseChunking><UsePipelining>maybe</UsePipelining>",
        )],
        &[
            "E.xml:3: warning: profile \"In\": Path has no effect: Pop3 does not use it [ignored-element]",
            "E.xml:3: warning: profile \"In\": EhloName has no effect: it belongs to SMTP [ignored-element]",
            "E.xml:3: warning: profile \"In\": UseChunking has no effect: it belongs to SMTP [ignored-element]",
            "E.xml:3: warning: profile \"In\": UsePipelining has no effect: it belongs to SMTP [ignored-element]",
            "E.xml:3: error: profile \"In\": UsePipelining is \"maybe\", which is not one of true, false [unknown-value]",
        ],
    );
    let no = |name: &str, element: &str, why: &str| {
        format!("E.xml:3: warning: profile \"{name}\": {element} has no effect: {why} [ignored-element]")
    };
    let with = |base: &str, elements: &[&str]| {
        let inner: String = elements
            .iter()
            .map(|e| match *e {
                "ExtraCaFiles" => "<ExtraCaFiles><File>ca.pem</File></ExtraCaFiles>".to_owned(),
                "EnvelopeSender" => "<EnvelopeSender>b@a.example</EnvelopeSender>".to_owned(),
                "AllowClearTextWithoutTls" => format!("<{e}>true</{e}>"),
                _ => format!("<{e}>1000</{e}>"),
            })
            .collect();
        file("", &[&base.replace("</Name>", &format!("</Name>{inner}"))], &[], &[], "")
    };
    let sending = [
        "PendingStatusDelay",
        "SendingStatusDelay",
        "MaximumDeliveryAttempts",
        "BatchSize",
        "RequestBatchSize",
    ];
    let network = ["ConnectionTimeout", "OperationTimeout", "AllowClearTextWithoutTls", "ExtraCaFiles"];
    let folder = "<ConfigurationProfile><Name>F</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType>\
                  <Path>mail/{address}</Path></ConfigurationProfile>";
    let outbox = folder.replace("Incoming", "Outgoing");
    let exchange = ONLINE.replace("Outgoing", "Incoming").replace("<AccessType>SendAs</AccessType>", "");
    let retrieval = ["EWSRetrieveMessageCount"];
    let to_outgoing = "it belongs to outgoing profiles";
    let to_exchange = "it belongs to incoming ExchangeWebServices";
    for (name, base, elements, why) in [
        ("In", POP, &sending[..], Some(to_outgoing)),
        ("In", POP, &["EnvelopeSender"], Some(to_outgoing)),
        ("In", POP, &retrieval, Some(to_exchange)),
        ("In", POP, &network, None),
        ("Out", SMTP, &sending, None),
        ("Out", SMTP, &retrieval, Some(to_exchange)),
        ("Out", SMTP, &["MaxConnections", "EnvelopeSender"], None),
        ("F", folder, &network, Some("Maildir uses no network")),
        ("F", folder, &["MaxConnections"], None),
        ("F", &outbox, &network, Some("Maildir uses no network")),
        ("F", &outbox, &["MaxConnections"], Some("Maildir uses no network")),
        ("F", &outbox, &["EnvelopeSender"], Some("it belongs to SMTP")),
        ("F", &outbox, &sending, None),
        ("EO", &exchange, &retrieval, None),
    ] {
        let expected: Vec<String> =
            why.into_iter().flat_map(|why| elements.iter().map(move |e| no(name, e, why))).collect();
        assert_eq!(findings(&with(base, elements)), expected, "{name} {elements:?}");
    }
    says(
        &file("", &[], &[], &[], "<StatusListener>0.0.0.0:80</StatusListener>"),
        &[
            "E.xml:9: error: StatusListener 0.0.0.0:80 can be reached from the network; use a loopback address, or set \
         AllowNetworkListener to true [network-listener]",
        ],
    );
    says(
        &file("", &[], &[], &[], "<StateFile>a</StateFile><ReferenceKeyFile>a</ReferenceKeyFile>"),
        &["E.xml:9: error: ReferenceKeyFile must be a file of its own, neither StateFile nor SecretKeyFile \
             [invalid-value]"],
    );
    says(
        &file("", &[], &[], &[], "<StatusListener>localhost</StatusListener>"),
        &[
            "E.xml:9: error: StatusListener must be an IP address and a port, such as 127.0.0.1:9462 or [::1]:9462 \
         [invalid-value]",
        ],
    );
    let user = USER.replace("ann@a.example", "ann");
    says(
        &file("", &[POP, SMTP], &[EMBEDDED], &[&user], ""),
        &[
            "E.xml:8: error: user \"Ann\": EmailAddress: \"ann\" is not an address of the form local-part@domain \
         [invalid-value]",
        ],
    );
}

#[test]
fn damage() {
    for (text, expected) in [
        ("", "E.xml:1:1: error: the file is damaged: root element is missing [damaged]"),
        (
            "<Configuration>\n<Router>",
            "E.xml:2:9: error: the file is damaged: the file ends before the end tag of Router, which was opened at line 2 \
             [damaged]",
        ),
        (
            "<!DOCTYPE x><Configuration/>",
            "E.xml:1:1: error: the file is damaged: a document type declaration is not allowed in this file [damaged]",
        ),
    ] {
        let (_, findings) = check(text, Path::new("E.xml"));
        assert_eq!(findings.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    }
}
