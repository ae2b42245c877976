//! Logging in with access tokens and NTLM, and what the pool makes of a renewed token.

use super::source::{Tokens, end_point};
use super::*;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use email_router_model::{Classified as _, Retry, Scope};
use email_router_testkit::ntlm::NtlmServer;
use email_router_testkit::script::{ScriptedServer, Step, parse};
use email_router_testkit::tls::{ServerCert, TestCa};
use email_router_transport::{Access, ErrorKind};

fn hello(auth: &str) -> String {
    format!("S: 220 hi\n C: EHLO\n S: 250-a\n S: 250 AUTH {auth}\n")
}

/// What the server says and hears for one message, without extensions.
const MESSAGE: &str = "C: MAIL\n S: 250 ok\n C: RCPT\n S: 250 ok\n C: DATA\n S: 354 go\n C: Subject\n C: \n C: hello\n C: .\n S: 250 queued\n";

fn xoauth2(token: &str) -> String {
    BASE64.encode(format!("user=ann@example.com\x01auth=Bearer {token}\x01\x01"))
}

fn transport(server: &ScriptedServer, source: Arc<dyn CredentialSource>) -> SmtpTransport {
    let mut settings = settings(server.port(), TlsMode::None);
    settings.allow_cleartext_password = true;
    settings.use_pipelining = false;
    SmtpTransport::new(settings, source).unwrap()
}

async fn start(scripts: &[String]) -> ScriptedServer {
    ScriptedServer::start(scripts.iter().map(|s| parse(s)).collect::<Vec<Vec<Step>>>()).await
}

#[tokio::test]
async fn a_token_and_its_refusal() {
    let login = |token: &str, end: &str| {
        format!("{} C: AUTH XOAUTH2\n S: 334\n C: {}\n {end}\n", hello("LOGIN XOAUTH2"), xoauth2(token))
    };
    let server = start(&[login("good", "S: 235 2.7.0 ok") + MESSAGE]).await;
    let source = Tokens::new("ann@example.com", &["good"]);
    submit(&transport(&server, source), &letter("x")).await.unwrap();
    assert_eq!(server.heard().mismatches, Vec::<String>::new());

    let reason = BASE64.encode(r#"{"status":"400","schemes":"Bearer","you":"s3cr3t-old"}"#);
    let refusal =
        login("s3cr3t-old", &format!("S: 334 {reason}\n C: \n S: 535 5.7.3 Authentication unsuccessful"));
    let server = start(std::slice::from_ref(&refusal)).await;
    let source = Tokens::new("ann@example.com", &["s3cr3t-old"]);
    let error = submit(&transport(&server, source.clone()), &letter("x")).await.unwrap_err();
    let axes = (error.kind(), error.retry(), error.scope());
    assert_eq!(axes, (ErrorKind::Authentication, Retry::Never, Scope::Mailbox), "{error}");
    assert_eq!(
        error.reply(),
        Some(r#"535 5.7.3 Authentication unsuccessful; {"status":"400","schemes":"Bearer","you":"***"}"#)
    );
    assert!(error.hint().unwrap().contains("access token"), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("s3cr3t"));
    let heard = server.heard();
    assert_eq!((heard.sessions, heard.mismatches.len(), source.refusals().len()), (1, 0, 1));

    // a fresh one is tried in the same call, and only one
    let server = start(&[refusal.clone(), login("new", "S: 235 ok") + MESSAGE]).await;
    let source = Tokens::new("ann@example.com", &["s3cr3t-old", "new"]);
    submit(&transport(&server, source.clone()), &letter("x")).await.unwrap();
    assert_eq!((server.heard().sessions, source.refusals().len()), (2, 1));

    let server = start(&[refusal.clone(), login("2", "S: 535 5.7.3 no")]).await;
    let source = Tokens::new("ann@example.com", &["s3cr3t-old", "2", "3"]);
    let error = submit(&transport(&server, source.clone()), &letter("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication);
    assert_eq!((server.heard().sessions, source.refusals().len()), (2, 2));

    // test access says that it took two
    let probing = "C: MAIL\n S: 250 ok\n C: RSET\n S: 250 ok\n C: QUIT\n S: 221 bye\n";
    let server = start(&[refusal, login("new", "S: 235 ok") + probing]).await;
    let source = Tokens::new("ann@example.com", &["s3cr3t-old", "new"]);
    let probe = transport(&server, source).probe(&mailbox(), Access::Outgoing).await.unwrap();
    let steps: Vec<_> = probe.steps.iter().map(|s| (s.what.as_str(), s.warning.as_deref())).collect();
    assert_eq!(
        steps[2],
        ("renewed the credentials", Some("the server refused the credentials that were kept"))
    );
    assert_eq!(steps[3], ("logged in with XOAUTH2", Some("access token sent without TLS")));
}

/// The server could not tell: the token stays good, and nothing is asked of the token service.
#[tokio::test]
async fn a_temporary_failure() {
    let script = format!(
        "{} C: AUTH XOAUTH2\n S: 334\n C: dXNl\n S: 454 4.7.0 Temporary authentication failure",
        hello("XOAUTH2")
    );
    let server = start(&[script]).await;
    let source = Tokens::new("ann@example.com", &["t", "u"]);
    let error = submit(&transport(&server, source.clone()), &letter("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Authentication, Retry::Later(None)), "{error}");
    assert_eq!((server.heard().sessions, source.refusals().len(), source.asked()), (1, 0, 1));
}

/// Sessions outlive the token they began with; a changed password is another matter (`connections_belong_to_their_credentials`).
#[tokio::test]
async fn a_renewed_token_costs_no_login() {
    let script = format!("{} C: AUTH OAUTHBEARER\n S: 235 ok\n {MESSAGE}{MESSAGE}", hello("OAUTHBEARER"));
    let server = start(&[script]).await;
    let source = Tokens::new("ann@example.com", &["one", "two"]);
    let transport = transport(&server, source.clone());
    submit(&transport, &letter("1")).await.unwrap();
    // the token service gives another one from now on, as it does every hour
    source.refused(&mailbox(), &Credentials::bearer("ann@example.com", "one".into()));
    submit(&transport, &letter("2")).await.unwrap();
    let heard = server.heard();
    assert_eq!((heard.sessions, heard.mismatches), (1, vec![]));
}

#[tokio::test]
async fn proofs_that_do_not_fit() {
    let server = start(&[hello("LOGIN NTLM")]).await;
    let error = submit(&transport(&server, Tokens::new("ann", &["t"])), &letter("x")).await.unwrap_err();
    assert!(error.to_string().contains("offers NTLM and LOGIN, which needs a password"), "{error}");
    assert!(error.hint().unwrap().contains("takes no OAuth 2.0"));
    let server = start(&[hello("XOAUTH2")]).await;
    let error = submit(&transport(&server, account("ann", "p")), &letter("x")).await.unwrap_err();
    assert!(error.to_string().contains("offers XOAUTH2, which needs an access token"), "{error}");
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Authentication, Retry::Never));
    assert_eq!(server.heard().lines.len(), 1, "EHLO and nothing more");
}

/// The words of the first 334 are for people ([MS-SMTPNTLM] 2.2.1.2).
#[tokio::test]
async fn ntlm() {
    let ntlm = NtlmServer::new("ann@example.com", "", PASSWORD).with_target("smtp/127.0.0.1");
    let script = format!(
        "{} C: AUTH NTLM\n S: 334 ntlm supported\n C: TlRMTVNTUAAB\n S: 334 {}\n C: TlRMTVNTUAAD\n S: 235 ok\n {MESSAGE}",
        hello("LOGIN NTLM"),
        BASE64.encode(ntlm.challenge())
    );
    let server = start(&[script]).await;
    submit(&transport(&server, account("ann@example.com", PASSWORD)), &letter("x")).await.unwrap();
    let lines = server.heard().lines;
    let message = |n: usize| BASE64.decode(&lines[n]).unwrap();
    ntlm.accept(&message(2), &message(3)).unwrap();
}

/// Extended Protection: the login is good for the TLS connection it goes through, begun by STARTTLS or with the first byte.
#[tokio::test]
async fn ntlm_is_bound_to_the_channel() {
    let authority = TestCa::new();
    let (acceptor, pem) = authority.server(ServerCert::Good);
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), authority.pem()).unwrap();
    let ntlm = NtlmServer::new("ann", "CONTOSO", PASSWORD)
        .with_server_end_point(end_point(&pem))
        .with_target("smtp/127.0.0.1");
    let login = format!(
        "{} C: AUTH NTLM\n S: 334\n C: TlRMTVNTUAAB\n S: 334 {}\n C: TlRMTVNTUAAD\n S: 235 ok\n {MESSAGE}",
        hello("NTLM").replace("S: 220 hi\n", ""),
        BASE64.encode(ntlm.challenge())
    );
    for tls in [TlsMode::StartTls, TlsMode::Implicit] {
        let mut script = match tls {
            TlsMode::StartTls => {
                parse("S: 220 hi\n C: EHLO\n S: 250-a\n S: 250 STARTTLS\n C: STARTTLS\n S: 220 go")
            }
            _ => Vec::new(),
        };
        script.push(Step::StartTls(acceptor.clone()));
        if tls == TlsMode::Implicit {
            script.extend(parse("S: 220 hi"));
        }
        script.extend(parse(&login));
        let server = ScriptedServer::start(vec![script]).await;
        let mut settings = settings(server.port(), tls);
        settings.endpoint.extra_ca_files = vec![ca.path().to_owned()];
        settings.use_pipelining = false;
        let transport = SmtpTransport::new(settings, account("CONTOSO\\ann", PASSWORD)).unwrap();
        submit(&transport, &letter("x")).await.unwrap();
        let lines = server.heard().lines;
        let at = lines.iter().position(|line| line == "AUTH NTLM").unwrap();
        let message = |n: usize| BASE64.decode(&lines[at + n]).unwrap();
        ntlm.accept(&message(1), &message(2)).unwrap();
    }
}

/// The mechanisms that are named are tried in the order they are named.
#[tokio::test]
async fn named_mechanisms() {
    for (names, expected) in [("PLAIN login", "AUTH PLAIN"), ("LOGIN PLAIN", "AUTH LOGIN")] {
        let server = start(&[format!("{} C: {expected}\n S: 535 no", hello("PLAIN LOGIN NTLM"))]).await;
        let mut settings = settings(server.port(), TlsMode::None);
        settings.allow_cleartext_password = true;
        settings.mechanisms = names.split(' ').map(str::to_owned).collect();
        let transport = SmtpTransport::new(settings, account("ann", "p")).unwrap();
        submit(&transport, &letter("x")).await.unwrap_err();
        assert_eq!(server.heard().mismatches, Vec::<String>::new(), "{names}");
    }
    let mut settings = settings(25, TlsMode::None);
    settings.mechanisms = vec!["SPA".into()];
    let error = SmtpTransport::new(settings, account("ann", "p")).unwrap_err();
    assert!(error.to_string().contains("OAUTHBEARER, XOAUTH2, NTLM"), "{error}");
}

/// What administrators of Exchange Online meet.
#[tokio::test]
async fn hints() {
    for (reply, hint) in [
        (
            "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit https://aka.ms/smtp_auth_disabled for more information.",
            "Set-CASMailbox",
        ),
        ("535 5.7.139 Authentication unsuccessful, basic authentication is disabled.", "choose OAuth 2.0"),
        ("534 5.7.9 Application-specific password required", "two-step verification"),
        ("535 5.7.8 bad", "check user name and password"),
    ] {
        let server = start(&[format!("{} C: AUTH PLAIN\n S: {reply}", hello("PLAIN"))]).await;
        let error = submit(&transport(&server, account("ann", PASSWORD)), &letter("x")).await.unwrap_err();
        assert!(error.hint().unwrap().contains(hint), "{reply}: {error:?}");
    }
}
