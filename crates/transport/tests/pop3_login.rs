//! Logging in to POP3 with access tokens and with NTLM: what goes over the line, and what a refusal becomes.
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test
#![cfg(feature = "pop3")]

mod support;

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use email_router_model::{Classified as _, Mailbox, Retry};
use email_router_testkit::ntlm::NtlmServer;
use email_router_testkit::script::{ScriptedServer, Step, parse};
use email_router_testkit::tls::{ServerCert, TestCa};
use email_router_transport::net::{
    CredentialError, CredentialSource, Credentials, SharedCredentials, TlsMode,
};
use email_router_transport::pop3::{LoginMethod, Pop3Transport};
use email_router_transport::{Access, Error, ErrorKind, Probe, Transport};
use support::tokens::{Tokens, end_point};
use support::*;

/// Up to the open session, on a server that offers these mechanisms.
fn hello(sasl: &str) -> String {
    format!("S: +OK ready <1.2@h>\n C: CAPA\n S: +OK\n S: UIDL\n S: SASL {sasl}\n S: .\n")
}

/// A session behind the login, empty, up to its end.
const EMPTY: &str = "C: CAPA\n S: +OK\n S: UIDL\n S: .\n C: UIDL\n S: +OK\n S: .\n C: LIST\n S: +OK\n S: .\n C: QUIT\n S: +OK bye\n";

/// What XOAUTH2 says for alice with this token.
fn xoauth2(token: &str) -> String {
    BASE64.encode(format!("user=alice@contoso.test\x01auth=Bearer {token}\x01\x01"))
}

/// Plays a script for each session and does one probe.
async fn probe(
    scripts: Vec<Vec<Step>>,
    method: LoginMethod,
    source: Arc<dyn CredentialSource>,
) -> (Result<Probe, Error>, Vec<String>, usize) {
    let server = ScriptedServer::start(scripts).await;
    let mut settings = settings(server.port());
    settings.login = method;
    settings.credentials = source;
    let result = Pop3Transport::new(settings).unwrap().probe(&mailbox("alice"), Access::Incoming).await;
    let heard = server.heard();
    assert_eq!(heard.mismatches, Vec::<String>::new());
    (result, heard.lines, heard.sessions)
}

/// The command alone, then the token when it is asked for: a line of POP3 has 255 octets (RFC 2449 section 4), a token far more.
#[tokio::test]
async fn a_token_has_a_line_of_its_own() {
    for token in ["short", &"long".repeat(500)] {
        let script = format!(
            "{} C: AUTH XOAUTH2\n S: +\n C: {}\n S: +OK in\n {EMPTY}",
            hello("PLAIN XOAUTH2"),
            xoauth2(token)
        );
        let source = Tokens::new("alice@contoso.test", &[token]);
        let (result, lines, _) = probe(vec![parse(&script)], LoginMethod::OAUTH2, source).await;
        let steps = result.unwrap().steps;
        assert!(lines.contains(&"AUTH XOAUTH2".to_owned()) && lines.contains(&xoauth2(token)));
        let login = steps.iter().find(|s| s.what == "logged in with XOAUTH2").unwrap();
        assert_eq!(login.warning.as_deref(), Some("the access token was sent without TLS"));
    }
}

/// The reason comes as a challenge, is acknowledged as each mechanism wants it, and shows in the error; the token does not.
#[tokio::test]
async fn a_refused_token() {
    let reason = BASE64.encode(r#"{"status":"401","schemes":"bearer","scope":"mail","got":"s3cr3t-token"}"#);
    for (mechanism, acknowledgement) in [("XOAUTH2", ""), ("OAUTHBEARER", "AQ==")] {
        let auth = if mechanism == "XOAUTH2" {
            "C: AUTH XOAUTH2\n S: +\n C: dXNlcj1h\n".to_owned()
        } else {
            "C: AUTH OAUTHBEARER bixhPW".to_owned() + "\n"
        };
        let script = format!(
            "{} {auth} S: + {reason}\n C: {acknowledgement}\n S: -ERR [AUTH] Authentication failed.",
            hello(mechanism)
        );
        let source = Tokens::new("alice@contoso.test", &["s3cr3t-token"]);
        let (result, lines, sessions) =
            probe(vec![parse(&script)], LoginMethod::OAUTH2, source.clone()).await;
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Authentication, Retry::Never), "{error}");
        assert_eq!(
            error.reply().unwrap(),
            r#"[AUTH] Authentication failed.; {"status":"401","schemes":"bearer","scope":"mail","got":"***"}"#
        );
        assert!(error.hint().unwrap().contains("access token"), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("s3cr3t"));
        assert_eq!(lines.last().map(String::as_str), Some(acknowledgement));
        assert_eq!((sessions, source.refusals().len()), (1, 1), "the same token is never tried twice");
    }
}

#[tokio::test]
async fn a_renewed_token_is_tried_in_the_same_call_and_once() {
    let refuse = |token: &str| {
        let script = format!(
            "{} C: AUTH XOAUTH2\n S: +\n C: {}\n S: -ERR [AUTH] expired",
            hello("XOAUTH2"),
            xoauth2(token)
        );
        parse(&script)
    };
    let accept = |token: &str| {
        let script = format!(
            "{} C: AUTH XOAUTH2\n S: +\n C: {}\n S: +OK in\n {EMPTY}",
            hello("XOAUTH2"),
            xoauth2(token)
        );
        parse(&script)
    };
    let source = Tokens::new("alice@contoso.test", &["old", "new"]);
    let (result, _, sessions) =
        probe(vec![refuse("old"), accept("new")], LoginMethod::Strongest, source.clone()).await;
    let steps = result.unwrap().steps;
    let renewed = steps.iter().find(|s| s.what == "renewed the credentials").unwrap();
    assert!(renewed.warning.is_some() && sessions == 2);
    assert_eq!(source.refusals(), ["old"]);

    // a third is not tried, but it is known that the second is no good
    let source = Tokens::new("alice@contoso.test", &["1", "2", "3"]);
    let (result, _, sessions) =
        probe(vec![refuse("1"), refuse("2")], LoginMethod::Strongest, source.clone()).await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Authentication);
    assert_eq!((sessions, source.refusals()), (2, vec!["1".to_owned(), "2".to_owned()]));
}

/// A server that cannot tell says nothing about the token, which stays good.
#[tokio::test]
async fn a_temporary_failure() {
    let script = format!(
        "{} C: AUTH XOAUTH2\n S: +\n C: dXNlcj1h\n S: -ERR [SYS/TEMP] Temporary authentication failure.",
        hello("XOAUTH2")
    );
    let source = Tokens::new("alice@contoso.test", &["t"]);
    let (result, _, sessions) = probe(vec![parse(&script)], LoginMethod::OAUTH2, source.clone()).await;
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Throttled, Retry::Later(None)), "{error}");
    assert_eq!((sessions, source.refusals().len(), source.asked()), (1, 0, 1));
}

/// A token goes to no mechanism for passwords, nor into USER, PASS and APOP; and a password to none for tokens.
#[tokio::test]
async fn proofs_that_do_not_fit() {
    let token: Arc<dyn CredentialSource> = Tokens::new("alice", &["t"]);
    let password: Arc<dyn CredentialSource> =
        Arc::new(SharedCredentials::account(Credentials::new("alice", "p".into())));
    let user = "S: +OK ready <1.2@h>\n C: CAPA\n S: +OK\n S: USER\n S: .\n".to_owned();
    for (server, method, source, words) in [
        (
            hello("PLAIN NTLM"),
            LoginMethod::Strongest,
            &token,
            "offers NTLM and PLAIN, which needs a password",
        ),
        (hello("XOAUTH2"), LoginMethod::OAUTH2, &password, "offers XOAUTH2, which needs an access token"),
        (user.clone(), LoginMethod::Strongest, &token, "offers no known way to log in"),
        (user.clone(), LoginMethod::UserPass, &token, "needs a password"),
        (user, LoginMethod::Apop, &token, "needs a password"),
    ] {
        let (result, lines, _) = probe(vec![parse(&server)], method, Arc::clone(source)).await;
        let error = result.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!((error.retry(), lines), (Retry::Never, vec!["CAPA".to_owned()]), "nothing was sent");
    }
    // a server that takes tokens and, beside that, USER and PASS
    let both = hello("XOAUTH2").replace("S: UIDL", "S: UIDL\n S: USER").replace(" <1.2@h>", "");
    let script = format!("{both} C: USER alice\n S: +OK\n C: PASS p\n S: +OK in\n {EMPTY}");
    let (result, ..) = probe(vec![parse(&script)], LoginMethod::Strongest, password).await;
    result.unwrap();
}

#[tokio::test]
async fn ntlm_waits_for_the_prompt() {
    let server = NtlmServer::new("alice", "CONTOSO", PASSWORD).with_target("pop/localhost");
    let script = format!(
        "{} C: AUTH NTLM\n S: +\n C: TlRMTVNTUAAB\n S: + {}\n C: TlRMTVNTUAAD\n S: +OK in\n {EMPTY}",
        hello("NTLM PLAIN"),
        BASE64.encode(server.challenge())
    );
    let source = || Arc::new(SharedCredentials::account(Credentials::new("CONTOSO\\alice", PASSWORD.into())));
    let (result, lines, _) = probe(vec![parse(&script)], LoginMethod::NTLM, source()).await;
    result.unwrap();
    let message = |n: usize| BASE64.decode(&lines[n]).unwrap();
    server.accept(&message(2), &message(3)).unwrap();

    // what is no challenge is given up
    let script = format!(
        "{} C: AUTH NTLM\n S: +\n C: TlRMTVNTUAAB\n S: + TlRMTVNTUAAC\n C: *\n S: -ERR cancelled",
        hello("NTLM")
    );
    let (result, _, sessions) = probe(vec![parse(&script)], LoginMethod::WINDOWS, source()).await;
    let error = result.unwrap_err();
    assert!(error.to_string().contains("NTLM challenge is malformed"), "{error}");
    assert_eq!((error.kind(), sessions), (ErrorKind::Authentication, 1));
}

/// Extended Protection: the login is good for the TLS connection it goes through.
#[tokio::test]
async fn ntlm_is_bound_to_the_channel() {
    let authority = TestCa::new();
    let (acceptor, pem) = authority.server(ServerCert::Good);
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), authority.pem()).unwrap();
    let ntlm = NtlmServer::new("alice", "", PASSWORD).with_server_end_point(end_point(&pem));
    let login = format!(
        "C: AUTH NTLM\n S: +\n C: TlRMTVNTUAAB\n S: + {}\n C: TlRMTVNTUAAD\n S: +OK in\n {EMPTY}",
        BASE64.encode(ntlm.challenge())
    );
    let offer = "C: CAPA\n S: +OK\n S: UIDL\n S: STLS\n S: SASL NTLM\n S: .\n";
    for tls in [TlsMode::StartTls, TlsMode::Implicit] {
        let clear = parse(&format!("S: +OK hi\n {offer} C: STLS\n S: +OK go"));
        let mut script = if tls == TlsMode::StartTls { clear } else { Vec::new() };
        script.push(Step::StartTls(acceptor.clone()));
        let greeting = if tls == TlsMode::Implicit { "S: +OK hi\n" } else { "" };
        script.extend(parse(&format!("{greeting} {offer} {login}")));
        let server = ScriptedServer::start(vec![script]).await;
        let mut settings = settings(server.port());
        settings.endpoint.tls = tls;
        settings.endpoint.extra_ca_files = vec![ca.path().to_owned()];
        settings.login = LoginMethod::WINDOWS;
        Pop3Transport::new(settings).unwrap().probe(&mailbox("alice"), Access::Incoming).await.unwrap();
        let lines = server.heard().lines;
        let at = lines.iter().position(|line| line == "AUTH NTLM").unwrap();
        let message = |n: usize| BASE64.decode(&lines[at + n]).unwrap();
        ntlm.accept(&message(1), &message(2)).unwrap();
    }
}

/// A source that cannot renew says why: that is what a person has to know.
#[tokio::test]
async fn a_source_that_cannot_renew() {
    struct Once(Arc<Tokens>);
    #[async_trait::async_trait]
    impl CredentialSource for Once {
        async fn credentials(&self, mailbox: &Mailbox) -> Result<Option<Credentials>, CredentialError> {
            if self.0.refusals().is_empty() {
                return self.0.credentials(mailbox).await;
            }
            Err(CredentialError {
                fault: email_router_auth::CredentialFault::Refused,
                message: "the token service refuses: AADSTS7000222".into(),
                hint: None,
                retry: Retry::Never,
                scope: email_router_model::Scope::Server,
            })
        }
        fn refused(&self, mailbox: &Mailbox, credentials: &Credentials) {
            self.0.refused(mailbox, credentials);
        }
    }
    let script = format!("{} C: AUTH XOAUTH2\n S: +\n C: dXNl\n S: -ERR [AUTH] expired", hello("XOAUTH2"));
    let source = Arc::new(Once(Tokens::new("alice", &["old"])));
    let (result, ..) = probe(vec![parse(&script)], LoginMethod::OAUTH2, source).await;
    assert!(result.unwrap_err().to_string().contains("AADSTS7000222"));
}
