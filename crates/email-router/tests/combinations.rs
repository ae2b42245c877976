//! Every way to set up a profile that the tables of `crates/config/FORMAT.md` allow (behaviour document, 6.2 and 6.3) routes a message from the configuration
//! file on; everything they do not allow is refused.
//!
//! POP3, IMAP and SMTP go through Dovecot and Postfix, Windows authentication to Exchange through an Apache with MIT's Kerberos and gss-ntlmssp in front of
//! the fake Exchange; Exchange itself, Graph and the token service are the fakes of the testkit, each of which is checked by clients that are not ours. The servers come
//! from `scripts/with-peers`; without them the test says SKIPPED, and fails with `REQUIRE_PEERS=1`.
#![allow(clippy::expect_used, clippy::unwrap_used)] // helpers of a test
#![allow(clippy::print_stdout)] // the reason for skipping belongs on the output
#![cfg(all(
    feature = "embedded",
    feature = "ews",
    feature = "graph",
    feature = "imap",
    feature = "kerberos"
))]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use email_router::config::{
    AccessCredentials as Who, AuthenticationType as Auth, Code, CombinationRow, Protocol, ServerType,
    Severity, Word, check, combinations,
};
use email_router::crm::embedded::admin::NewEmail;
use email_router::model::{Direction, EmailAddress, read_file_capped};
use email_router::{OpenOptions, Service};
use email_router_testkit::ews::{EwsOptions, EwsServer};
use email_router_testkit::graph::GraphServer;
use email_router_testkit::http::Answer;
use email_router_testkit::oauth::{CLIENT_ID, OAuthService, TENANT};
use email_router_testkit::tls::{ServerCert, TestCa};
use tokio::sync::watch;

const PASSWORD: &str = "Secret123";
const ADDRESS: &str = "alice@contoso.test";

/// How a profile says whose credentials it uses, beside `AccessCredentials`.
const USER: &str = "<UserType>User</UserType>";
const ADMINISTRATOR: &str = "<UserType>Administrator</UserType>";

struct Peers(BTreeMap<&'static str, String>);

const NAMES: [&str; 13] = [
    "DOVECOT_POP3S",
    "DOVECOT_IMAPS",
    "DOVECOT_CA",
    "DOVECOT_MAIL",
    "DOVECOT_TOKENS",
    "POSTFIX_SMTP",
    "POSTFIX_SUBM",
    "SMTP_SINK_MAIL",
    "KDC_DIR",
    "KRB5_CONFIG",
    "HTTP_AUTH_FRONT",
    "HTTP_AUTH_UPSTREAM",
    "HTTP_AUTH_CA",
];

fn peers() -> Option<Peers> {
    let mut found = BTreeMap::new();
    for name in NAMES {
        match std::env::var(name) {
            Ok(value) if !value.is_empty() => drop(found.insert(name, value)),
            _ => {
                let required = std::env::var("REQUIRE_PEERS").is_ok_and(|v| v == "1");
                assert!(!required, "{name} is not set although REQUIRE_PEERS is 1");
                println!("SKIPPED: {name} is not set; run by scripts/with-peers");
                return None;
            }
        }
    }
    Some(Peers(found))
}

impl Peers {
    fn get(&self, name: &str) -> &str {
        &self.0[name]
    }

    /// The Maildir of alice at Dovecot.
    fn maildir(&self) -> PathBuf {
        Path::new(self.get("DOVECOT_MAIL")).join("alice")
    }

    fn clear(&self) {
        for part in ["new", "cur"] {
            for entry in std::fs::read_dir(self.maildir().join(part)).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }
    }

    fn put(&self, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.maildir().join("tmp/combination");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        std::fs::rename(file, self.maildir().join("new/combination")).unwrap();
    }
}

/// The servers that run in this process.
struct Fakes {
    /// Exchange Server in clear, reached directly.
    clear: EwsServer,
    /// The same behind the Apache that speaks NTLM and Negotiate.
    behind: EwsServer,
    /// Exchange Online: only inside TLS.
    online: EwsServer,
    graph: GraphServer,
    oauth: OAuthService,
    ca: PathBuf,
}

impl Fakes {
    async fn start(peers: &Peers, folder: &Path) -> Self {
        let authority = TestCa::new();
        let ca = folder.join("ca.pem");
        std::fs::write(&ca, authority.pem()).unwrap();
        let exchange = |options: EwsOptions| async {
            let server = EwsServer::start(options).await;
            server.add_user("alice", PASSWORD, ADDRESS);
            server.add_user(ADDRESS, PASSWORD, ADDRESS);
            server.add_user("svc", PASSWORD, "svc@contoso.test");
            server.add_token("token-of-the-application", "svc");
            for account in ["svc", "alice"] {
                server.grant_full_access(account, ADDRESS);
                server.grant_send_as(account, ADDRESS);
                server.grant_on_behalf(account, ADDRESS);
                server.grant_impersonation(account);
            }
            server
        };
        let graph = GraphServer::start(&["token-of-the-application"]).await;
        graph.add_mailbox(ADDRESS);
        let upstream = peers.get("HTTP_AUTH_UPSTREAM").parse().unwrap();
        let acceptor = authority.acceptor(ServerCert::Good);
        Self {
            clear: exchange(EwsOptions::default()).await,
            behind: exchange(EwsOptions { port: upstream, ..EwsOptions::default() }).await,
            online: exchange(EwsOptions { tls: Some(acceptor), ..EwsOptions::default() }).await,
            graph,
            oauth: OAuthService::start(std::sync::Arc::new(email_router::model::SystemClock)).await,
            ca,
        }
    }

    fn exchange(&self, row: &CombinationRow) -> &EwsServer {
        match (row.server, row.authentication) {
            (ServerType::ExchangeOnline, _) => &self.online,
            (_, Auth::WindowsAuthentication | Auth::Ntlm) => &self.behind,
            _ => &self.clear,
        }
    }
}

/// One row with what it needs beside the words of the table.
struct Case {
    row: CombinationRow,
    /// Elements that only some rows have.
    more: &'static str,
}

/// The rows, those with a user type or an access type once for each.
fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for row in combinations() {
        let exchange = matches!(row.server, ServerType::ExchangeOnline | ServerType::ExchangeServer);
        let other = exchange && row.credentials == Who::OtherSpecified && row.authentication != Auth::OAuth2;
        let more: &[&str] = match (other, row.direction) {
            (true, Direction::Incoming) => &[USER, ADMINISTRATOR],
            (true, Direction::Outgoing) => &[
                USER,
                "<UserType>Administrator</UserType><AccessType>DelegateAccess</AccessType>",
                "<UserType>Administrator</UserType><AccessType>SendAs</AccessType>",
            ],
            _ => &[""],
        };
        all.extend(more.iter().map(|more| Case { row, more }));
    }
    all
}

impl Case {
    fn name(&self) -> String {
        let CombinationRow { direction, server, protocol, authentication, credentials } = self.row;
        format!("{direction} {server} {protocol} {authentication} {credentials} {}", self.more)
    }

    /// Whether the account that logs in is the mailbox's own.
    fn own(&self) -> bool {
        self.row.credentials == Who::UserSpecified || self.more.contains("<UserType>User")
    }

    /// The name to log in with.
    fn login(&self) -> &'static str {
        match (self.row.protocol, self.row.authentication) {
            (Protocol::ExchangeWebServices, Auth::WindowsAuthentication | Auth::Ntlm) => "CONTOSO\\alice",
            (Protocol::ExchangeWebServices, _) if !self.own() => "svc",
            _ => "alice",
        }
    }

    fn elements(&self, peers: &Peers, fakes: &Fakes) -> String {
        let CombinationRow { direction, server, protocol, authentication, credentials } = self.row;
        let way = if direction == Direction::Incoming { "Incoming" } else { "Outgoing" };
        let mut text = format!(
            "<ConfigurationProfile><Name>p</Name><Direction>{way}</Direction><ServerType>{server}</ServerType>\
             <Protocol>{protocol}</Protocol><AuthenticationType>{authentication}</AuthenticationType>\
             <AccessCredentials>{credentials}</AccessCredentials>{}",
            self.more
        );
        let server_of = |text: &mut String, port: &str, tls: &str| {
            let (port, ca) = (peers.get(port), peers.get("DOVECOT_CA"));
            text.push_str(&format!(
                "<EmailServer>localhost</EmailServer><NetworkPort>{port}</NetworkPort><TlsMode>{tls}</TlsMode>\
                 <ExtraCaFiles><File>{ca}</File></ExtraCaFiles>"
            ));
        };
        match protocol {
            Protocol::Pop3 => server_of(&mut text, "DOVECOT_POP3S", "Implicit"),
            Protocol::Imap => server_of(&mut text, "DOVECOT_IMAPS", "Implicit"),
            Protocol::Smtp if authentication == Auth::Anonymous => {
                server_of(&mut text, "POSTFIX_SMTP", "StartTls")
            }
            Protocol::Smtp => server_of(&mut text, "POSTFIX_SUBM", "StartTls"),
            Protocol::Maildir => text.push_str("<Path>mail</Path>"),
            Protocol::WebDAV => text.push_str("<EmailServer>localhost</EmailServer>"),
            Protocol::MicrosoftGraph => {
                text.push_str(&format!("<GraphUrl>{}</GraphUrl>", fakes.graph.base()));
                text.push_str("<AllowClearTextWithoutTls>true</AllowClearTextWithoutTls>");
            }
            Protocol::ExchangeWebServices => {
                let windows = matches!(authentication, Auth::WindowsAuthentication | Auth::Ntlm);
                let url = match windows && server != ServerType::ExchangeOnline {
                    true => format!("http://localhost:{}/EWS/Exchange.asmx", peers.get("HTTP_AUTH_FRONT")),
                    false => fakes.exchange(&self.row).url(),
                };
                text.push_str(&format!("<ExchangeWebServicesUrl>{url}</ExchangeWebServicesUrl>"));
                if url.starts_with("https") {
                    text.push_str(&format!(
                        "<ExtraCaFiles><File>{}</File></ExtraCaFiles>",
                        fakes.ca.display()
                    ));
                } else if authentication == Auth::ClearText {
                    text.push_str("<AllowClearTextWithoutTls>true</AllowClearTextWithoutTls>");
                }
            }
        }
        match (credentials, authentication) {
            (Who::OtherSpecified, Auth::OAuth2) => text.push_str(&format!(
                "<Application><TenantId>{TENANT}</TenantId><ClientId>{CLIENT_ID}</ClientId>\
                 <ClientSecret>file:secret</ClientSecret><Authority>{}</Authority></Application>",
                fakes.oauth.authority()
            )),
            (Who::OtherSpecified, _) if self.more.contains("<UserType>User") => {
                text.push_str("<Password>file:password</Password>");
            }
            (Who::OtherSpecified, _) => {
                let login = self.login();
                text.push_str(&format!("<UserName>{login}</UserName><Password>file:password</Password>"));
            }
            (Who::LocalSystemAccount, Auth::WindowsAuthentication) => text.push_str(&format!(
                "<KerberosPrincipal>alice@CONTOSO.TEST</KerberosPrincipal><KeytabFile>{}/alice.keytab</KeytabFile>",
                peers.get("KDC_DIR")
            )),
            _ => {}
        }
        text + "</ConfigurationProfile>"
    }

    fn configuration(&self, peers: &Peers, fakes: &Fakes) -> String {
        let profile = self.elements(peers, fakes);
        let way = if self.row.direction == Direction::Incoming { "Incoming" } else { "Outgoing" };
        let other = if self.row.direction == Direction::Incoming { "Outgoing" } else { "Incoming" };
        let own = match self.row.credentials {
            Who::UserSpecified => {
                format!("<UserName>{}</UserName><Password>file:password</Password>", self.login())
            }
            _ => String::new(),
        };
        format!(
            "<Configuration><ConfigurationProfiles>{profile}</ConfigurationProfiles>\
             <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path></Deployment></Deployments>\
             <Mailboxes><Queue><Name>q</Name><EmailAddress>{ADDRESS}</EmailAddress><{way}Profile>p</{way}Profile>\
             <{other}Profile>None</{other}Profile>{own}</Queue></Mailboxes></Configuration>"
        )
    }
}

fn message(n: usize) -> String {
    format!(
        "From: customer@example.net\r\nTo: {ADDRESS}\r\nSubject: combination {n}\r\nMessage-ID: <combination-{n}@example.net>\r\n\
         Date: Wed, 25 Nov 2026 10:00:00 +0000\r\n\r\nHello\r\n"
    )
}

/// A world for one case, and what the token service says next.
async fn open(case: &Case, peers: &Peers, fakes: &Fakes, folder: &Path) -> Service {
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join("password"), PASSWORD).unwrap();
    std::fs::write(folder.join("secret"), "s3cr3t~value").unwrap();
    for part in ["mail/new", "mail/cur", "mail/tmp"] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
    }
    if case.row.authentication == Auth::OAuth2 {
        // Dovecot and Postfix take tokens of their own key, the fakes one of theirs
        let token = match case.row.protocol {
            Protocol::ExchangeWebServices | Protocol::MicrosoftGraph => "token-of-the-application".to_owned(),
            _ => String::from_utf8(
                read_file_capped(&Path::new(peers.get("DOVECOT_TOKENS")).join("good"), 1 << 20).unwrap(),
            )
            .unwrap()
            .trim()
            .to_owned(),
        };
        let body = format!(r#"{{"token_type":"Bearer","expires_in":3600,"access_token":"{token}"}}"#);
        fakes.oauth.change(|b| b.next = vec![Answer::new(200).body("application/json", body)]);
    }
    let file = folder.join("EmailAgent.xml");
    std::fs::write(&file, case.configuration(peers, fakes)).unwrap();
    let service =
        Service::open(&file, OpenOptions::default()).await.unwrap_or_else(|e| panic!("{}: {e}", case.name()));
    let admin = service.organization(None).unwrap().administration().unwrap();
    support::add_queue(&admin, "q", ADDRESS).await;
    let sends = [("outgoingemaildeliverymethod", "2")];
    admin.update("queue", ADDRESS, &email_router::crm::embedded::admin::fields(sends)).await.unwrap();
    admin.set_setting("allowunresolvedpartiesonemailsend", "true").await.unwrap();
    drop(service);
    Service::open(&file, OpenOptions::default()).await.unwrap()
}

async fn receives(case: &Case, n: usize, peers: &Peers, fakes: &Fakes, folder: &Path) {
    let service = open(case, peers, fakes, folder).await;
    let text = message(n);
    match case.row.protocol {
        Protocol::Pop3 | Protocol::Imap => {
            peers.clear();
            peers.put(&text);
        }
        Protocol::Maildir => std::fs::write(folder.join("mail/new/one"), &text).unwrap(),
        Protocol::MicrosoftGraph => {
            fakes.graph.empty_inbox(ADDRESS);
            fakes.graph.deliver(ADDRESS, text.as_bytes());
        }
        _ => {
            fakes.exchange(&case.row).empty(ADDRESS);
            fakes.exchange(&case.row).put(ADDRESS, text.as_bytes());
        }
    }
    let (_open, stop) = watch::channel(false);
    let report = service.run_once(&stop).await.unwrap();
    assert_eq!(report.failures, [], "{}", case.name());
    assert_eq!(report.incoming.delivered, 1, "{}: {report:?}", case.name());
    let admin = service.organization(None).unwrap().administration().unwrap();
    let rows = admin.emails(&Default::default()).await.unwrap();
    assert_eq!(rows.len(), 1, "{}", case.name());
    assert_eq!(rows[0].subject, format!("combination {n}"), "{}", case.name());
}

async fn sends(case: &Case, n: usize, peers: &Peers, fakes: &Fakes, folder: &Path) {
    let service = open(case, peers, fakes, folder).await;
    let admin = service.organization(None).unwrap().administration().unwrap();
    let queue = admin.show("queue", ADDRESS).await.unwrap().reference();
    let (to, subject) =
        (EmailAddress::parse("customer@example.net").unwrap(), format!("combination {n} goes out"));
    admin.create_outgoing(&NewEmail::new(queue, to, subject.clone(), "Hello")).await.unwrap();
    let (_open, stop) = watch::channel(false);
    let report = service.run_once(&stop).await.unwrap();
    assert_eq!(report.failures, [], "{}", case.name());
    assert_eq!(report.outgoing.sent, 1, "{}: {report:?}", case.name());
    let arrived = match case.row.protocol {
        Protocol::Smtp => eventually(|| holds(Path::new(peers.get("SMTP_SINK_MAIL")), &subject)).await,
        Protocol::Maildir => holds(&folder.join("mail/new"), &subject),
        Protocol::MicrosoftGraph => fakes.graph.sent().iter().any(|s| contains(&s.mime, &subject)),
        _ => fakes.exchange(&case.row).sent().iter().any(|s| contains(&s.mime, &subject)),
    };
    assert!(arrived, "{}: it did not arrive", case.name());
}

fn contains(bytes: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(bytes).contains(text)
}

fn holds(folder: &Path, text: &str) -> bool {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|f| f.is_file())
        .any(|file| contains(&read_file_capped(&file, 1 << 20).unwrap_or_default(), text))
}

/// What another process does in its own time; at most a minute.
async fn eventually(mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..600 {
        if done() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_the_tables_routes_a_message_or_is_refused() {
    let Some(peers) = peers() else { return };
    let folder = tempfile::tempdir().unwrap();
    let fakes = Fakes::start(&peers, folder.path()).await;
    let mut routed = BTreeSet::new();
    for (n, case) in cases().iter().enumerate() {
        let place = folder.path().join(n.to_string());
        if case.row.protocol == Protocol::WebDAV {
            let (settings, findings) = check(&case.configuration(&peers, &fakes), Path::new("E.xml"));
            assert!(settings.is_none(), "{}", case.name());
            assert!(
                findings.iter().any(|f| f.code == Code::NotInThisVersion),
                "{}: {findings:?}",
                case.name()
            );
            continue;
        }
        match case.row.direction {
            Direction::Incoming => receives(case, n, &peers, &fakes, &place).await,
            Direction::Outgoing => sends(case, n, &peers, &fakes, &place).await,
        }
        routed.insert(case.name());
    }
    // 6.2: 3 x Exchange 2007, 3 x 2010 or 2013, Exchange Online, POP3; 6.3: SMTP, Exchange Online; and ours
    assert!(routed.len() > 60, "{routed:#?}");
    let violations = fakes.graph.violations();
    assert!(violations.is_empty(), "requests that Microsoft Graph would refuse: {violations:#?}");
}

/// What the tables do not have is refused with an error at the element that is wrong.
#[test]
fn what_is_not_in_the_tables_is_refused() {
    let allowed: BTreeSet<String> = combinations()
        .iter()
        .map(|r| format!("{} {} {} {}", r.direction, r.server, r.authentication, r.credentials))
        .collect();
    let mut refused = 0;
    for direction in [Direction::Incoming, Direction::Outgoing] {
        for server in ServerType::ALL {
            for auth in Auth::ALL {
                for who in Who::ALL {
                    if allowed.contains(&format!("{direction} {server} {auth} {who}")) {
                        continue;
                    }
                    let way = if direction == Direction::Incoming { "Incoming" } else { "Outgoing" };
                    let text = format!(
                        "<Configuration><ConfigurationProfiles><ConfigurationProfile><Name>p</Name><Direction>{way}</Direction>\
                         <ServerType>{server}</ServerType><AuthenticationType>{auth}</AuthenticationType>\
                         <AccessCredentials>{who}</AccessCredentials></ConfigurationProfile></ConfigurationProfiles></Configuration>"
                    );
                    let (settings, findings) = check(&text, Path::new("E.xml"));
                    let says = findings
                        .iter()
                        .any(|f| f.severity == Severity::Error && f.code == Code::InvalidCombination);
                    assert!(settings.is_none() && says, "{direction} {server} {auth} {who}: {findings:?}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 300, "{refused}");
}
