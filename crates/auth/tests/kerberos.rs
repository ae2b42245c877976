//! Kerberos against acceptors that are not ours: MIT's library behind a Python script (`acceptor.py`), and Apache's mod_auth_gssapi.
//!
//! The realm comes from the environment (`KDC_DIR`, and `KRB5_CONFIG` for the library), Apache's port from `HTTP_AUTH`; `scripts/with-peers` starts all
//! and sets them. Without them the tests say SKIPPED, with `REQUIRE_PEERS=1` they fail.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests, which say why they are skipped
#![cfg(feature = "kerberos")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use email_router_auth::{
    AuthError, Channel, Credentials, Exchange, Gssapi, KERBEROS, KerberosNegotiate, Mechanism as _,
    TicketStore, fetch_ticket, pick,
};
use email_router_model::read_capped;

fn realm() -> Option<PathBuf> {
    let value = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    if let (Some(folder), Some(_)) = (value("KDC_DIR"), value("KRB5_CONFIG")) {
        return Some(folder.into());
    }
    assert!(
        value("REQUIRE_PEERS").as_deref() != Some("1"),
        "REQUIRE_PEERS=1, but KDC_DIR or KRB5_CONFIG is missing"
    );
    println!("SKIPPED: no Kerberos realm (KDC_DIR or KRB5_CONFIG is not set; scripts/with-peers sets them)");
    None
}

fn alice(realm: &std::path::Path) -> Credentials {
    let cache = Some(format!("FILE:{}", realm.join("alice.ccache").display()));
    Credentials::tickets("", TicketStore { cache, keytab: None })
}

fn tls(service: &'static str, digest: Option<&[u8]>) -> Channel {
    Channel::tls(service, "localhost", 443, digest.map(<[u8]>::to_vec))
}

/// The script.
struct Acceptor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Acceptor {
    fn start(realm: &std::path::Path) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/acceptor.py");
        let mut child = Command::new("python3")
            .arg(script)
            .env("KRB5_KTNAME", realm.join("services.keytab"))
            // a replay cache of our own: other users' files are in the way otherwise
            .env("KRB5RCACHENAME", "none:")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn ask(&mut self, command: &str) -> Vec<String> {
        writeln!(self.input, "{command}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn accept(&mut self, token: &[u8], bindings: Option<&[u8]>) -> Vec<String> {
        let bindings = bindings.map_or_else(
            || "-".to_owned(),
            |digest| base64(&[&b"tls-server-end-point:"[..], digest].concat()),
        );
        self.ask(&format!("accept {} {bindings}", base64(token)))
    }

    fn wrap(&mut self, message: &[u8]) -> Vec<u8> {
        unbase64(&self.ask(&format!("wrap {}", base64(message)))[0])
    }

    fn unwrap(&mut self, token: &[u8]) -> Vec<u8> {
        unbase64(&self.ask(&format!("unwrap {}", base64(token)))[0])
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine as _;
    ::base64::prelude::BASE64_STANDARD.encode(bytes)
}

fn unbase64(text: &str) -> Vec<u8> {
    use ::base64::Engine as _;
    ::base64::prelude::BASE64_STANDARD.decode(text).unwrap()
}

#[test]
fn channel_binding_is_checked_by_the_acceptor() {
    let Some(realm) = realm() else { return };
    let (ours, other) = ([7; 32], [8; 32]);
    for (what, sent, wanted, accepted) in [
        ("the same", Some(&ours[..]), Some(&ours[..]), true),
        ("another connection", Some(&ours[..]), Some(&other[..]), false),
        ("a server that looks at none", Some(&ours[..]), None, true),
        ("none on either side", None, None, true),
    ] {
        let mut exchange = KerberosNegotiate.begin(&alice(&realm), &tls("HTTP", sent)).unwrap();
        let token = exchange.initial().unwrap();
        assert!(exchange.initial().is_none());
        let answer = Acceptor::start(&realm).accept(&token, wanted);
        if accepted {
            assert_eq!(answer[..2], ["done", "alice@CONTOSO.TEST"], "{what}");
            exchange.finish(Some(&unbase64(&answer[2]))).unwrap();
        } else {
            // GSS_S_BAD_BINDINGS
            assert_eq!(answer, ["refused", "4"], "{what}");
        }
    }
}

#[test]
fn a_server_must_prove_who_it_is_where_tls_does_not() {
    let Some(realm) = realm() else { return };
    let clear = Channel::clear("HTTP", "localhost", 80, true);
    let begin = |channel: &Channel| {
        let mut exchange = KerberosNegotiate.begin(&alice(&realm), channel).unwrap();
        let token = exchange.initial().unwrap();
        (exchange, token)
    };
    // success without a token: an error page of a proxy, or somebody who has no key
    assert!(begin(&tls("HTTP", None)).0.finish(None).is_ok());
    let error = begin(&clear).0.finish(None).unwrap_err();
    assert!(matches!(error, AuthError::BadChallenge { mechanism: "GSS-SPNEGO", .. }), "{error}");
    // the answer to another login
    let (_, first) = begin(&clear);
    let (mut exchange, _) = begin(&clear);
    let answer = Acceptor::start(&realm).accept(&first, None);
    let error = exchange.finish(Some(&unbase64(&answer[2]))).unwrap_err();
    assert!(matches!(error, AuthError::Ticket(_)), "{error}");
    assert!(exchange.step(b"again").is_err());
}

/// SASL has no room for the server's last token beside the success, so it comes as one more challenge.
#[test]
fn spnego_in_sasl() {
    let Some(realm) = realm() else { return };
    let channel = tls("imap", Some(&[7; 32]));
    let mut exchange = KerberosNegotiate.begin(&alice(&realm), &channel).unwrap();
    let answer = Acceptor::start(&realm).accept(&exchange.initial().unwrap(), Some(&[7; 32]));
    let proof = unbase64(&answer[2]);
    assert!(exchange.step(&proof).unwrap().is_empty());
    exchange.finish(None).unwrap();
    assert_eq!(exchange.step(&proof), Err(AuthError::UnexpectedChallenge { mechanism: "GSS-SPNEGO" }));
    assert!(exchange.finish(Some(&proof)).is_err());
}

/// RFC 4752 section 3.1, with the acceptor's real protection of its offer.
#[test]
fn gssapi_agrees_on_no_layer_and_on_nothing_else() {
    let Some(realm) = realm() else { return };
    let established = || -> (Box<dyn Exchange>, Acceptor) {
        let mut acceptor = Acceptor::start(&realm);
        let mut exchange = Gssapi.begin(&alice(&realm), &tls("imap", Some(&[7; 32]))).unwrap();
        // no binding is sent, so a server that looks at one is not misled
        let answer = acceptor.accept(&exchange.initial().unwrap(), None);
        assert_eq!(answer[..2], ["done", "alice@CONTOSO.TEST"]);
        assert!(exchange.finish(None).is_err(), "nothing is agreed on yet");
        assert!(exchange.step(&unbase64(&answer[2])).unwrap().is_empty());
        (exchange, acceptor)
    };
    for offer in [&[1, 0, 0, 0][..], &[7, 0, 0xff, 0xff]] {
        let (mut exchange, mut acceptor) = established();
        assert!(exchange.finish(None).is_err(), "no layer is agreed on yet");
        let token = acceptor.wrap(offer);
        let answer = exchange.step(&token).unwrap();
        assert_eq!(acceptor.unwrap(&answer), [1, 0, 0, 0]);
        exchange.finish(None).unwrap();
        assert_eq!(exchange.step(&token), Err(AuthError::UnexpectedChallenge { mechanism: "GSSAPI" }));
    }
    for offer in [&[6, 0, 0xff, 0xff][..], &[1, 0, 0]] {
        let (mut exchange, mut acceptor) = established();
        let error = exchange.step(&acceptor.wrap(offer)).unwrap_err();
        assert!(matches!(error, AuthError::BadChallenge { mechanism: "GSSAPI", .. }), "{error}");
        assert!(exchange.finish(None).is_err());
    }
    let (mut exchange, mut acceptor) = established();
    let mut forged = acceptor.wrap(&[1, 0, 0, 0]);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(matches!(exchange.step(&forged), Err(AuthError::BadChallenge { .. })));
    let (mut exchange, _) = established();
    assert!(exchange.step(b"no token").is_err());
}

#[test]
fn the_first_of_both_that_is_offered() {
    let Some(realm) = realm() else { return };
    for (offered, chosen) in
        [(&["PLAIN", "GSS-SPNEGO", "GSSAPI"][..], "GSSAPI"), (&["NTLM", "GSS-SPNEGO"], "GSS-SPNEGO")]
    {
        let exchange = pick(offered.iter().copied(), KERBEROS, &alice(&realm), &tls("pop", None)).unwrap();
        assert_eq!(exchange.mechanism(), chosen);
    }
}

/// Inside SPNEGO the library says nothing of use; the error is that of Kerberos alone.
#[test]
fn the_reason_inside_spnego() {
    let Some(realm) = realm() else { return };
    for (file, host, reason) in [
        (
            "alice.ccache",
            "mail.contoso.test",
            "HTTP/mail.contoso.test@CONTOSO.TEST not found in Kerberos database",
        ),
        ("expired.ccache", "localhost", "expired"),
        ("missing.ccache", "localhost", "No credentials cache found"),
    ] {
        let cache = Some(format!("FILE:{}", realm.join(file).display()));
        let credentials = Credentials::tickets("", TicketStore { cache, keytab: None });
        let channel = Channel::tls("HTTP", host, 443, None);
        let AuthError::Ticket(error) = KerberosNegotiate.begin(&credentials, &channel).err().unwrap() else {
            panic!("{file} {host}")
        };
        assert!(error.message.contains(reason), "{error}");
        assert_eq!(fetch_ticket(&credentials, "HTTP", host).unwrap_err(), error);
    }
}

#[test]
fn what_is_known_of_a_ticket() {
    let Some(realm) = realm() else { return };
    let ticket = fetch_ticket(&alice(&realm), "HTTP", "localhost.").unwrap();
    assert_eq!(ticket.principal, "alice@CONTOSO.TEST");
    assert!(ticket.lifetime.unwrap().as_secs() <= 10 * 3600);
}

/// Negotiate (RFC 4559) at Apache, by hand: one request, whose answer proves the server.
#[test]
fn http_negotiate_at_apache() {
    let Some(realm) = realm() else { return };
    let Ok(port) = std::env::var("HTTP_AUTH") else {
        assert!(
            std::env::var("REQUIRE_PEERS").as_deref() != Ok("1"),
            "REQUIRE_PEERS=1, but HTTP_AUTH is not set"
        );
        println!("SKIPPED: HTTP_AUTH is not set; scripts/with-peers sets it");
        return;
    };
    let get = |authorization: &str| {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        write!(stream, "GET / HTTP/1.1\r\nHost: localhost\r\n{authorization}Connection: close\r\n\r\n")
            .unwrap();
        String::from_utf8(read_capped(stream, 1 << 20, "the answer").unwrap()).unwrap()
    };
    let field = |answer: &str, name: &str| {
        answer.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    let refused = get("");
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
    assert!(refused.lines().any(|line| line == "WWW-Authenticate: Negotiate"), "{refused}");

    let mut exchange =
        KerberosNegotiate.begin(&alice(&realm), &Channel::clear("HTTP", "localhost", 80, false)).unwrap();
    let token = exchange.initial().unwrap();
    let answer = get(&format!("Authorization: Negotiate {}\r\n", base64(&token)));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(field(&answer, "X-Remote-User:").as_deref(), Some("alice@CONTOSO.TEST"));
    let proof = field(&answer, "WWW-Authenticate: Negotiate").unwrap();
    exchange.finish(Some(&unbase64(&proof))).unwrap();
    // a request is no proof for the next one: the acceptor remembers what it saw
    let again = get(&format!("Authorization: Negotiate {}\r\n", base64(&token)));
    assert!(again.starts_with("HTTP/1.1 401 "), "{again}");
}
