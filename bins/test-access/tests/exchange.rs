//! The command `email-router-test-access` against Exchange, Microsoft Graph, a token service and scripted servers: each fault that an administrator of
//! Exchange can meet has its word, its reason, how far it came, and what to do.
// a helper of a test that cannot go on fails the test
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use email_router::model::SystemClock;
use email_router_testkit::ews::{Discovery, EwsOptions, EwsServer, Mishap};
use email_router_testkit::graph::{Fault, GraphServer};
use email_router_testkit::http::Answer;
use email_router_testkit::oauth::{CLIENT_ID, OAuthService, TENANT, refusal};
use email_router_testkit::script::{ScriptedServer, Step, parse};
use email_router_testkit::tls::{ServerCert, TestCa};
use serde_json::Value;
use support::World;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const PASSWORD: &str = "Secret123";

/// A profile with one queue behind it, of the name of the profile unless it says whose address it is.
#[derive(Default)]
struct Setup {
    profiles: String,
    mailboxes: String,
}

impl Setup {
    fn add(&mut self, name: &str, address: &str, way: &str, elements: &str, more: &str) {
        self.profiles += &format!(
            "<ConfigurationProfile><Name>{name}</Name><Direction>{way}</Direction>{elements}</ConfigurationProfile>"
        );
        let other = if way == "Incoming" { "Outgoing" } else { "Incoming" };
        self.mailboxes += &format!(
            "<Queue><Name>{name}</Name><EmailAddress>{address}</EmailAddress><{way}Profile>{name}</{way}Profile>\
             <{other}Profile>None</{other}Profile>{more}</Queue>"
        );
    }

    fn world(&self) -> World {
        let world = World::with(&format!(
            "<Configuration><ConfigurationProfiles>{}</ConfigurationProfiles>\
             <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path></Deployment></Deployments>\
             <Mailboxes>{}</Mailboxes></Configuration>",
            self.profiles, self.mailboxes
        ));
        world.write("password", PASSWORD);
        world.write("wrong", "not the password");
        world.write("secret", "s3cr3t~value");
        world
    }
}

/// What a failure has to be like: its word, and parts of reason, hint and the steps before it.
#[track_caller]
fn fails(found: &Value, fault: &str, reason: &str, hint: &str, steps: &[&str]) {
    assert_eq!((&found["status"], &found["fault"]), (&"failure".into(), &fault.into()), "{found:#}");
    for (key, words) in [("reason", reason), ("hint", hint)] {
        assert!(found[key].as_str().unwrap().contains(words), "no {words:?} in {found:#}");
    }
    let told: Vec<&str> = found["steps"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    let as_told = told.len() == steps.len() && told.iter().zip(steps).all(|(step, part)| step.contains(part));
    assert!(as_told, "{steps:?} in {found:#}");
    let all = found.to_string();
    assert!(!all.contains("not the password") && !all.contains(PASSWORD) && !all.contains("s3cr3t"), "{all}");
}

const EWS: &str = "<ServerType>ExchangeServer</ServerType><Protocol>ExchangeWebServices</Protocol>";

/// Name and password of an account for all mailboxes.
fn account(name: &str, file: &str) -> String {
    format!(
        "<AuthenticationType>ClearText</AuthenticationType><AccessCredentials>OtherSpecified</AccessCredentials>\
         <UserName>{name}</UserName><Password>file:{file}</Password><AllowClearTextWithoutTls>true</AllowClearTextWithoutTls>"
    )
}

fn at(url: &str) -> String {
    format!("<ExchangeWebServicesUrl>{url}</ExchangeWebServicesUrl>")
}

async fn exchange(options: EwsOptions) -> EwsServer {
    let server = EwsServer::start(options).await;
    server.add_user("svc", PASSWORD, "svc@contoso.test");
    for name in ["ann", "bob"] {
        server.add_user(name, PASSWORD, &format!("{name}@contoso.test"));
    }
    server.grant_full_access("svc", "ann@contoso.test");
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn exchange_web_services() {
    let server = exchange(EwsOptions::default()).await;
    let url = server.url();
    let (ann, bob) = ("ann@contoso.test", "bob@contoso.test");
    let mut setup = Setup::default();
    let base = format!("{EWS}{}", account("svc", "password"));
    let impersonation = "<MailboxAccess>Impersonation</MailboxAccess>";
    for (name, way, whose, elements) in [
        ("works", "Incoming", ann, format!("{base}{}", at(&url))),
        ("password", "Incoming", ann, format!("{EWS}{}{}", account("svc", "wrong"), at(&url))),
        ("full access", "Incoming", bob, format!("{base}{}", at(&url))),
        ("impersonation", "Incoming", ann, format!("{base}{}{impersonation}", at(&url))),
        ("nobody", "Incoming", "nobody@contoso.test", format!("{base}{}", at(&url))),
        ("path", "Incoming", ann, format!("{base}{}", at(&url.replace("Exchange.asmx", "Services.wsdl")))),
        (
            "ntlm",
            "Incoming",
            ann,
            format!("{EWS}{}{}", account("svc", "password").replace("ClearText<", "NTLM<"), at(&url)),
        ),
        ("send as", "Outgoing", ann, format!("{base}{}<AccessType>SendAs</AccessType>", at(&url))),
        ("delegate", "Outgoing", ann, format!("{base}{}<AccessType>DelegateAccess</AccessType>", at(&url))),
    ] {
        setup.add(name, whose, way, &elements, "");
    }
    // a mailbox has one profile, so each profile gets a configuration of its own
    let row = |name: &str, code: i32| {
        let queues = setup.mailboxes.split_inclusive("</Queue>");
        let mailboxes = queues.filter(|queue| queue.contains(&format!("<Name>{name}</Name>"))).collect();
        let one = Setup { profiles: setup.profiles.clone(), mailboxes };
        one.world().rows(&[], code)(name)
    };
    let works = row("works", 0);
    assert_eq!(works["incoming"]["messages"], 0);
    let logged_in = ["connected to ews localhost", "logged in with Basic (the login was sent without TLS)"];

    fails(
        &row("password", 4)["incoming"],
        "authentication",
        "refuses the login of svc itself, whatever the mailbox",
        "check name and password",
        &[],
    );
    let needs = "Add-MailboxPermission -Identity bob@contoso.test -User svc -AccessRights FullAccess";
    fails(
        &row("full access", 4)["incoming"],
        "access-denied",
        "cannot open the inbox of bob@contoso.test (the server said: ErrorAccessDenied",
        needs,
        &logged_in,
    );
    fails(
        &row("impersonation", 4)["incoming"],
        "access-denied",
        "ErrorImpersonateUserDenied",
        "New-ManagementRoleAssignment -Role ApplicationImpersonation -User svc",
        &logged_in,
    );
    fails(
        &row("nobody", 4)["incoming"],
        "access-denied",
        "ErrorNonExistentMailbox",
        "is there a mailbox of this primary address on this server?",
        &logged_in,
    );
    fails(
        &row("path", 4)["incoming"],
        "settings",
        "no Exchange Web Services at this URL (HTTP 404)",
        "it ends in /EWS/Exchange.asmx",
        &[],
    );
    let offers = "does not offer NTLM (it offers Basic)";
    fails(
        &row("ntlm", 4)["incoming"],
        "authentication",
        offers,
        "an authentication type that the server offers",
        &[],
    );
    for (page, reason) in [
        (Mishap::Redirect(302, "/owa/auth/logon.aspx".to_owned()), "sends to a login page"),
        (
            Mishap::Page(403, "text/html", "<html><title>403</title></html>".to_owned()),
            "does not allow Exchange Web Services",
        ),
    ] {
        server.plan("", page);
        let found = row("works", 4)["incoming"].clone();
        assert!(found["reason"].as_str().unwrap().contains(reason), "{found:#}");
        server.mend();
    }

    for (name, right, command) in [
        (
            "send as",
            "Send As",
            "Add-ADPermission -Identity ann@contoso.test -User svc -ExtendedRights \"Send As\"",
        ),
        (
            "delegate",
            "Send on Behalf",
            "Set-Mailbox -Identity ann@contoso.test -GrantSendOnBehalfTo @{Add=\"svc\"}",
        ),
    ] {
        let found = row(name, 0)["outgoing"].clone();
        let warnings = found["warnings"].to_string().replace("\\\"", "\"");
        assert!(
            warnings.contains(&format!("the right {right} shows only when something is sent")),
            "{found:#}"
        );
        assert!(warnings.contains(command), "{found:#}");
    }
    // nothing of all that changed anything
    let asked: Vec<String> = server.heard().into_iter().map(|heard| heard.operation).collect();
    let changing = ["CreateItem", "UpdateItem", "MoveItem", "DeleteItem", "SendItem", "UpdateInboxRules"];
    assert!(!asked.iter().any(|operation| changing.contains(&operation.as_str())), "{asked:?}");
}

/// A proxy through which `https://mail.example.com` is this server, and nothing else is anywhere.
async fn internet(to: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && head.len() < 65_536 {
                    head.push(client.read_u8().await?);
                }
                if !head.starts_with(b"CONNECT mail.example.com:443 ") {
                    return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await;
                }
                let mut server = TcpStream::connect(("127.0.0.1", to)).await?;
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn autodiscover_step_by_step() {
    let authority = TestCa::new();
    let tls = Some(authority.acceptor(ServerCert::Good));
    let server = exchange(EwsOptions { tls, ..EwsOptions::default() }).await;
    let ann = "ann@mail.example.com";
    server.add_user("ann", PASSWORD, ann);
    server.grant_full_access("svc", ann);
    let proxy = internet(server.port()).await;
    let mut setup = Setup::default();
    let elements = format!(
        "{EWS}{}<UseAutodiscover>true</UseAutodiscover><Proxy><Url>http://127.0.0.1:{proxy}</Url></Proxy>\
         <ExtraCaFiles><File>ca.pem</File></ExtraCaFiles>",
        account("svc", "password")
    );
    setup.add("ann", ann, "Incoming", &elements, "");
    let world = setup.world();
    world.write("ca.pem", authority.pem());
    let svc = "https://mail.example.com/autodiscover/autodiscover.svc";

    // one step, and none of them where nobody asked
    let told = format!("{svc} tells the URL https://mail.example.com/EWS/Exchange.asmx");
    world
        .run(&["--verbose"])
        .with_code(0)
        .says(&format!("Incoming: {told}, connected to ews mail.example.com"));
    let quiet = world.run(&[]).with_code(0);
    assert!(!quiet.out.contains("autodiscover"), "{}", quiet.out);
    server.plan("/autodiscover/autodiscover.svc", Mishap::Page(404, "text/html", String::new()));
    let plain = told.replace(".svc", ".xml");
    world.run(&["--verbose"]).with_code(0).says(&format!("Incoming: {svc}: HTTP 404, {plain}, connected to"));

    // where it leads to nowhere each step is shown, without being asked for
    server.discovery(ann, Discovery::Url("https://evil.test/autodiscover/autodiscover.svc".to_owned()));
    let ran = world
        .run(&[])
        .with_code(4)
        .says("autodiscover finds no Exchange Web Services for ann@mail.example.com");
    for (n, step) in [
        (1, format!("{svc} sends to https://evil.test/autodiscover/autodiscover.svc")),
        (2, "https://evil.test/autodiscover/autodiscover.svc is not followed (".to_owned()),
    ] {
        assert!(ran.out.contains(&format!("\n      {n}. {step}")), "no {step} in {}", ran.out);
    }
    let trail = ran.says("SRV _autodiscover._tcp.mail.example.com").out;
    let lines: Vec<&str> = trail.lines().collect();
    let first = lines.iter().position(|l| l.trim_start().starts_with("Incoming Status: Failure - ")).unwrap();
    let hint = lines.iter().position(|l| l.trim_start().starts_with("what to do: ")).unwrap();
    let steps = &lines[first + 1..hint];
    assert!(steps.len() >= 7, "{trail}");
    for (n, step) in steps.iter().enumerate() {
        assert!(step.trim_start().starts_with(&format!("{}. ", n + 1)), "{trail}");
    }
    assert!(lines[hint].contains("set the URL of Exchange Web Services by hand"), "{trail}");
    assert!(trail.contains("autodiscover.mail.example.com"), "{trail}");
    // programs read the same
    let row = world.rows(&[], 4)("ann");
    assert_eq!(row["incoming"]["steps"].as_array().unwrap().len(), steps.len());
    assert!(!trail.contains(PASSWORD));

    // a password that is wrong is tried at two servers at the most
    world.write("password", "not the password");
    let row = world.rows(&[], 4)("ann");
    let found = &row["incoming"];
    assert_eq!(found["fault"], "authentication", "{found:#}");
    assert!(found["steps"].to_string().contains("the login was refused (HTTP 401)"), "{found:#}");
}

/// A token service and a Graph, and a profile of each name.
struct Online {
    graph: GraphServer,
    tokens: OAuthService,
}

impl Online {
    async fn start() -> Self {
        let graph = GraphServer::start(&["good"]).await;
        graph.add_mailbox("ann@contoso.test");
        graph.add_mailbox("svc@contoso.test");
        Self { graph, tokens: OAuthService::start(Arc::new(SystemClock)).await }
    }

    fn profile(&self, tenant: &str, client: &str) -> String {
        format!(
            "<ServerType>ExchangeOnline</ServerType><Protocol>MicrosoftGraph</Protocol><AuthenticationType>OAuth2</AuthenticationType>\
             <AccessCredentials>OtherSpecified</AccessCredentials><Application><TenantId>{tenant}</TenantId><ClientId>{client}</ClientId>\
             <ClientSecret>file:secret</ClientSecret><Authority>{}</Authority></Application>\
             <GraphUrl>{}</GraphUrl><AllowClearTextWithoutTls>true</AllowClearTextWithoutTls>",
            self.tokens.authority(),
            self.graph.base()
        )
    }

    fn gives(&self, token: &str) {
        let body = format!(r#"{{"token_type":"Bearer","expires_in":3600,"access_token":"{token}"}}"#);
        self.tokens.change(|b| b.next = vec![Answer::new(200).body("application/json", body)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_given_are_explained_by_their_number() {
    let online = Online::start().await;
    let one = |tenant: &str, client: &str| {
        let mut setup = Setup::default();
        setup.add("ann", "ann@contoso.test", "Incoming", &online.profile(tenant, client), "");
        setup.world()
    };
    let other = "99999999-1111-2222-3333-444444444444";
    for (tenant, client, fault, number, hint) in [
        (other, CLIENT_ID, "settings", "AADSTS90002", "whether the cloud is the right one"),
        ("nonsense", CLIENT_ID, "settings", "AADSTS900023", "copy the directory (tenant) id"),
        (TENANT, other, "authentication", "AADSTS700016", "the application is not known in this tenant"),
    ] {
        let row = one(tenant, client).rows(&[], 4)("ann");
        fails(&row["incoming"], fault, number, hint, &[]);
    }
    let world = one(TENANT, CLIENT_ID);
    for (number, status, error, fault, hint) in [
        (7_000_215, 401, "invalid_client", "authentication", "enter its value, not its id"),
        (7_000_222, 401, "invalid_client", "authentication", "the client secret has expired"),
        (
            700_027,
            401,
            "invalid_client",
            "authentication",
            "the certificate is not registered with the application",
        ),
        (65_001, 400, "invalid_grant", "authentication", "Grant admin consent"),
        (53_003, 400, "access_denied", "authentication", "conditional access policy"),
        (500_011, 400, "invalid_resource", "settings", "check scope and cloud"),
        (900_382, 400, "invalid_request", "settings", "set the cloud it was registered in"),
        (900_439, 400, "invalid_request", "settings", "the tenant's own cloud"),
        (90_033, 503, "temporarily_unavailable", "connection-lost", "nothing to do but wait"),
        (99_999, 500, "server_error", "connection-lost", "nothing to do but wait"),
        (1, 400, "invalid_request", "authentication", "look AADSTS1 up"),
    ] {
        online.tokens.change(|b| b.next = vec![refusal(status, error, number, "Words of the service."); 4]);
        let row = world.rows(&[], 4)("ann");
        fails(&row["incoming"], fault, &format!("AADSTS{number}: Words of the service."), hint, &[]);
    }
    online.tokens.change(|b| {
        b.next = vec![
            Answer::new(200).body("text/html", "<html>Please pay for the hotel's network</html>".to_owned()),
        ];
    });
    let row = world.rows(&[], 4)("ann");
    fails(&row["incoming"], "connection-lost", "gives no token", "no proxy answers in its place", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn microsoft_graph() {
    let online = Online::start().await;
    let one = |whose: &str, way: &str, more: &str| {
        let mut setup = Setup::default();
        let elements =
            online.profile(TENANT, CLIENT_ID).replace("<Application>", &format!("{more}<Application>"));
        setup.add("ann", whose, way, &elements, "");
        setup.world()
    };
    let ann = one("ann@contoso.test", "Incoming", "");
    online.gives("good");
    ann.run(&["--verbose"])
        .with_code(0)
        .says("got an access token, opened the Inbox: 0 messages, began a listing");

    // a token that says for whom it is, which is not this Graph
    let row = ann.rows(&[], 4)("ann");
    let token = "got an access token (the token is for https://graph.microsoft.com, not for 127.0.0.1: is this the right cloud?";
    fails(
        &row["incoming"],
        "authentication",
        "Invalid audience",
        "authority, scope and Graph host must belong to the same national cloud",
        &[token],
    );

    let denied = r#"{"error":{"code":"ErrorAccessDenied","message":"Access is denied."}}"#;
    let json = || vec![("Content-Type", "application/json".to_owned())];
    for (method, part, step) in [("GET", "/mailFolders/inbox", 1), ("GET", "/messages/delta", 2)] {
        online.gives("good");
        online.graph.plan(method, part, 1, Fault::Answer(403, json(), denied.to_owned()));
        let found = ann.rows(&[], 4)("ann");
        let steps = ["got an access token", "opened the Inbox: 0 messages"];
        fails(&found["incoming"], "access-denied", "ErrorAccessDenied", "Mail.Read ", &steps[..step]);
        assert!(
            found["incoming"]["hint"].as_str().unwrap().contains("Test-ApplicationAccessPolicy"),
            "{found:#}"
        );
        online.graph.mend();
    }
    online.gives("good");
    let row = one("nobody@contoso.test", "Incoming", "").rows(&[], 4)("ann");
    fails(&row["incoming"], "access-denied", "ErrorInvalidUser", "licence", &["got an access token"]);
    // a proxy in between
    online.gives("good");
    online.graph.plan(
        "GET",
        "/mailFolders",
        9,
        Fault::Answer(
            403,
            vec![("Content-Type", "text/html".to_owned())],
            "<html><title>Blocked</title></html>".to_owned(),
        ),
    );
    let row = ann.rows(&[], 4)("ann");
    fails(&row["incoming"], "protocol", "Blocked", "check proxy and firewall", &["got an access token"]);
    online.graph.mend();

    for (access, step, command) in [
        (
            "SendAs",
            "svc@contoso.test sends as the mailbox",
            "Add-RecipientPermission -Identity ann@contoso.test -Trustee svc@contoso.test -AccessRights SendAs",
        ),
        (
            "DelegateAccess",
            "svc@contoso.test sends on behalf of the mailbox",
            "Set-Mailbox -Identity ann@contoso.test -GrantSendOnBehalfTo @{Add=\"svc@contoso.test\"}",
        ),
    ] {
        let more = format!("<AccessType>{access}</AccessType><UserName>svc@contoso.test</UserName>");
        online.gives("good");
        one("ann@contoso.test", "Outgoing", &more).run(&["--verbose"]).with_code(0).says(step).says(command);
    }
    assert_eq!(online.graph.violations(), Vec::<String>::new());
}

/// What Exchange Online says to clients of SMTP and IMAP, with the hint for it.
#[tokio::test(flavor = "multi_thread")]
async fn words_of_exchange_online_to_smtp_and_imap() {
    let smtp = |rest: &str| {
        let hello = "S: 220 ready\nC: EHLO\nS: 250-mail.contoso.test\nS: 250 AUTH PLAIN\nC: AUTH PLAIN\n";
        format!("{hello}{rest}")
    };
    let accepted = "S: 235 2.7.0 ok\nC: MAIL\n";
    let imap = |rest: &str| format!("S: * OK [CAPABILITY IMAP4rev1] ready\nC: E1 LOGIN\n{rest}");
    let (clear, login) = (["connected", "no TLS"], ["connected", "no TLS", "logged in with PLAIN"]);
    let cases: [(&str, String, &str, &str, &str, &[&str]); 8] = [
        (
            "tenant",
            smtp(
                "S: 535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.",
            ),
            "authentication",
            "disabled for the Tenant",
            "SMTP AUTH is switched off for the whole tenant",
            &clear[..1],
        ),
        (
            "mailbox",
            smtp(
                "S: 535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.",
            ),
            "authentication",
            "disabled for the Mailbox",
            "Set-CASMailbox -Identity <mailbox> -SmtpClientAuthenticationDisabled $false",
            &clear[..1],
        ),
        (
            "basic",
            smtp("S: 535 5.7.139 Authentication unsuccessful, basic authentication is disabled."),
            "authentication",
            "basic authentication is disabled",
            "choose OAuth 2.0",
            &clear[..1],
        ),
        (
            "send as",
            smtp(&format!(
                "{accepted}S: 550 5.7.60 SMTP; Client does not have permissions to send as this sender"
            )),
            "sender-refused",
            "5.7.60",
            "Add-RecipientPermission -Identity <mailbox> -Trustee <account> -AccessRights SendAs",
            &login,
        ),
        (
            "imap login",
            imap("S: E1 NO LOGIN failed."),
            "authentication",
            "LOGIN failed",
            "check user name and password",
            &clear[..1],
        ),
        (
            "imap blocked",
            imap("S: E1 NO [Error=\"LogonDenied-BasicAuthBlocked\"] LOGIN failed."),
            "authentication",
            "BasicAuthBlocked",
            "choose OAuth 2.0",
            &clear[..1],
        ),
        (
            "imap mailbox",
            imap(
                "S: E1 OK [CAPABILITY IMAP4rev1 UIDPLUS] in\nC: E2 EXAMINE\nS: E2 BAD User is authenticated but not connected.",
            ),
            "access-denied",
            "authenticated but not connected",
            "Add-MailboxPermission -AccessRights FullAccess",
            &["connected", "logged in with LOGIN"],
        ),
        (
            "imap folder",
            imap(
                "S: E1 OK [CAPABILITY IMAP4rev1 UIDPLUS] in\nC: E2 EXAMINE\nS: E2 NO [NONEXISTENT] Unknown Mailbox",
            ),
            "settings",
            "no such folder",
            "check the name of the folder",
            &["connected", "logged in with LOGIN"],
        ),
    ];
    let (mut setup, mut servers) = (Setup::default(), Vec::new());
    for (name, script, ..) in &cases {
        let mut script = parse(script);
        script.push(Step::Close);
        let server = ScriptedServer::start(vec![script]).await;
        let imap = name.starts_with("imap");
        let (way, kind) = if imap { ("Incoming", "Imap") } else { ("Outgoing", "Smtp") };
        let elements = format!(
            "<ServerType>{kind}</ServerType><AuthenticationType>ClearText</AuthenticationType><AccessCredentials>UserSpecified</AccessCredentials>\
             <EmailServer>127.0.0.1</EmailServer><NetworkPort>{}</NetworkPort><TlsMode>None</TlsMode>\
             <AllowClearTextWithoutTls>true</AllowClearTextWithoutTls>",
            server.port()
        );
        let address = format!("{}@contoso.test", name.replace(' ', "-"));
        setup.add(name, &address, way, &elements, "<Password>file:password</Password>");
        servers.push(server);
    }
    let row = setup.world().rows(&[], 4);
    for (name, _, fault, reason, hint, steps) in &cases {
        let found = row(name);
        let way = if name.starts_with("imap") { "incoming" } else { "outgoing" };
        fails(&found[way], fault, reason, hint, steps);
    }
    for server in servers {
        assert_eq!(server.heard().mismatches, Vec::<String>::new());
    }
}
