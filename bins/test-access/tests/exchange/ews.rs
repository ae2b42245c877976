//! Exchange Web Services and Autodiscover.

use email_router_testkit::ews::{Discovery, EwsOptions, EwsServer, Mishap};
use email_router_testkit::tls::{ServerCert, TestCa};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::setup::{PASSWORD, Setup, fails};

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
