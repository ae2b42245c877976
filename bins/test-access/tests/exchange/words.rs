//! What Exchange Online says to clients of SMTP and IMAP.

use std::sync::Arc;

use email_router::model::SystemClock;
use email_router_testkit::http::Answer;
use email_router_testkit::oauth::{CLIENT_ID, OAuthService, TENANT};
use email_router_testkit::script::{ScriptedServer, Step, parse};

use crate::setup::{Setup, fails};

/// Name of the profile, what the server says, and what is told of it: word, reason, hint, steps.
type Case<'a> = (&'a str, String, &'a str, &'a str, &'a str, &'a [&'a str]);

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
    let cases: [Case<'_>; 8] = [
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

/// Tokens by SASL: the application has one, and the mail system does not take it.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_smtp_and_imap_do_not_take() {
    // {"status":"400","schemes":"Bearer"}
    let reason = "eyJzdGF0dXMiOiI0MDAiLCJzY2hlbWVzIjoiQmVhcmVyIn0=";
    let hello = "S: 220 ready\nC: EHLO\nS: 250-mail.contoso.test\n";
    let cases = [
        (
            "smtp",
            format!("{hello}S: 250 AUTH XOAUTH2\nC: AUTH XOAUTH2\nS: 334\nC: \nS: 334 {reason}\nC: \nS: 535 5.7.3 Authentication unsuccessful"),
            "535 5.7.3 Authentication unsuccessful",
            "check tenant, application, scope",
        ),
        (
            "plain only",
            format!("{hello}S: 250 AUTH PLAIN LOGIN"),
            "",
            "an authentication type that it offers",
        ),
        (
            "imap",
            "S: * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2] ready\nC: E1 AUTHENTICATE XOAUTH2\nS: E1 NO AUTHENTICATE failed. [Error=\"LogonDenied\"]"
                .to_owned(),
            "LogonDenied",
            "IMAP.AccessAsApp",
        ),
    ];
    let body = r#"{"token_type":"Bearer","expires_in":3600,"access_token":"the-token"}"#;
    let tokens = OAuthService::start(Arc::new(SystemClock)).await;
    for (name, script, reason, hint) in cases {
        let mut script = parse(&script);
        script.push(Step::Close);
        let server = ScriptedServer::start(vec![script]).await;
        tokens.change(|b| b.next = vec![Answer::new(200).body("application/json", body); 4]);
        let (way, kind) = if name == "imap" { ("Incoming", "Imap") } else { ("Outgoing", "Smtp") };
        let mut setup = Setup::default();
        let elements = format!(
            "<ServerType>{kind}</ServerType><AuthenticationType>OAuth2</AuthenticationType><AccessCredentials>OtherSpecified</AccessCredentials>\
             <Application><TenantId>{TENANT}</TenantId><ClientId>{CLIENT_ID}</ClientId><ClientSecret>file:secret</ClientSecret><Authority>{}</Authority></Application>\
             <EmailServer>127.0.0.1</EmailServer><NetworkPort>{}</NetworkPort><TlsMode>None</TlsMode><AllowClearTextWithoutTls>true</AllowClearTextWithoutTls>",
            tokens.authority(),
            server.port()
        );
        setup.add("ann", "ann@contoso.test", way, &elements, "");
        let row = setup.world().rows(&[], 4)("ann");
        let found = &row[way.to_lowercase()];
        fails(found, "authentication", reason, hint, &["connected"]);
        assert!(!found.to_string().contains("the-token"), "{found:#}");
        assert_eq!(server.heard().mismatches, Vec::<String>::new(), "{name}");
    }
}
