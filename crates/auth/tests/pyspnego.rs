//! NTLM and SPNEGO against an acceptor that is not ours: pyspnego, which checks the response, the checksum over the messages (MIC), the channel
//! binding (Extended Protection) and the signature under the list of mechanisms.
//!
//! `PYSPNEGO` is a Python that has the package; `scripts/with-peers` sets it. Without it the tests say SKIPPED, with `REQUIRE_PEERS=1` they fail.
#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)] // helpers of tests, which say why they are skipped

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use email_router_auth::{Channel, Credentials, Exchange, Mechanism, Negotiate, Ntlm};

/// The acceptor, waiting for logins.
struct Acceptor {
    child: Child,
    says: BufReader<ChildStdout>,
    hears: ChildStdin,
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What became of a login.
#[derive(Debug, PartialEq, Eq)]
enum End {
    In(String),
    Refused(String),
}

impl Acceptor {
    fn start(protocol: &str, domain: &str, end_point: Option<&[u8]>) -> Option<Self> {
        let value = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let Some(python) = value("PYSPNEGO") else {
            assert!(
                value("REQUIRE_PEERS").as_deref() != Some("1"),
                "REQUIRE_PEERS=1, but PYSPNEGO is not set"
            );
            println!("SKIPPED: PYSPNEGO is not set; scripts/with-peers sets it");
            return None;
        };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/peers/ntlm-acceptor.py");
        let mut command = Command::new(python);
        command.args([script, protocol, domain, "alice", "Secret 123 \u{fc}"]);
        if let Some(digest) = end_point {
            command.arg(email_router_model::raw::hex(digest));
        }
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the acceptor starts");
        let says = BufReader::new(child.stdout.take().unwrap());
        let hears = child.stdin.take().unwrap();
        Some(Self { child, says, hears })
    }

    fn ask(&mut self, message: &[u8]) -> String {
        writeln!(self.hears, "{}", BASE64.encode(message)).unwrap();
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the acceptor ended");
        line.trim_end().to_owned()
    }

    fn log_in(&mut self, mut exchange: Box<dyn Exchange>) -> End {
        let mut message = exchange.initial().unwrap();
        for _ in 0..5 {
            let answer = self.ask(&message);
            match answer.split_once(' ').unwrap() {
                ("+", token) => message = exchange.step(&BASE64.decode(token).unwrap()).unwrap(),
                ("ok", rest) => {
                    let (user, last) = rest.rsplit_once(' ').unwrap();
                    let last = (last != "-").then(|| BASE64.decode(last).unwrap());
                    exchange.finish(last.as_deref()).unwrap();
                    return End::In(user.to_owned());
                }
                (_, reason) => return End::Refused(reason.to_owned()),
            }
        }
        panic!("the login does not end");
    }
}

const DIGEST: [u8; 32] = [0x5a; 32];

fn channel(digest: Option<&[u8]>) -> Channel {
    Channel::tls("HTTP", "mail.contoso.test", 443, digest.map(<[u8]>::to_vec))
}

fn mechanisms() -> [(&'static str, Box<dyn Mechanism>); 2] {
    [("ntlm", Box::new(Ntlm::system())), ("negotiate", Box::new(Negotiate::system()))]
}

#[test]
fn good_and_wrong_passwords() {
    for (protocol, mechanism) in mechanisms() {
        for (domain, name) in [("CONTOSO", "CONTOSO\\alice"), ("CONTOSO", "CONTOSO\\ALICE")] {
            let Some(mut acceptor) = Acceptor::start(protocol, domain, None) else { return };
            for (password, good) in [("Secret 123 \u{fc}", true), ("Secret 123", false), ("", false)] {
                let credentials = Credentials::new(name, password.into());
                let end = acceptor.log_in(mechanism.begin(&credentials, &channel(None)).unwrap());
                assert_eq!(matches!(end, End::In(_)), good, "{protocol} {name}: {end:?}");
            }
            let stranger = Credentials::new("CONTOSO\\mallory", "Secret 123 \u{fc}".into());
            let end = acceptor.log_in(mechanism.begin(&stranger, &channel(None)).unwrap());
            assert!(matches!(end, End::Refused(_)), "{end:?}");
        }
    }
}

/// Extended Protection: the login is good for one TLS channel only.
#[test]
fn right_and_wrong_channels() {
    for (protocol, mechanism) in mechanisms() {
        let Some(mut acceptor) = Acceptor::start(protocol, "CONTOSO", Some(&DIGEST)) else { return };
        let credentials = Credentials::new("CONTOSO\\alice", "Secret 123 \u{fc}".into());
        for (digest, good) in [(Some(&DIGEST[..]), true), (Some(&[1; 32][..]), false), (None, false)] {
            let end = acceptor.log_in(mechanism.begin(&credentials, &channel(digest)).unwrap());
            match end {
                End::In(_) if good => {}
                End::Refused(reason) if !good => assert!(reason.contains("bindings"), "{reason}"),
                other => panic!("{protocol} {digest:?}: {other:?}"),
            }
        }
    }
}

/// What proves that the acceptor looks at the checksum and at the signature: with one bit changed it refuses.
#[test]
fn tampered_messages() {
    for (protocol, mechanism) in mechanisms() {
        let Some(mut acceptor) = Acceptor::start(protocol, "CONTOSO", Some(&DIGEST)) else { return };
        let credentials = Credentials::new("CONTOSO\\alice", "Secret 123 \u{fc}".into());
        let find = |message: &[u8], what: &[u8]| message.windows(what.len()).position(|w| w == what).unwrap();
        // where to change a bit in the last message, counted from the NTLM signature: in the checksum, in the flags it covers
        for at in [72, 60] {
            let mut exchange = mechanism.begin(&credentials, &channel(Some(&DIGEST))).unwrap();
            let answer = acceptor.ask(&exchange.initial().unwrap());
            let token = BASE64.decode(answer.strip_prefix("+ ").unwrap()).unwrap();
            let mut last = exchange.step(&token).unwrap();
            let start = find(&last, b"NTLMSSP\0\x03");
            last[start + at] ^= 4;
            let answer = acceptor.ask(&last);
            assert!(answer.starts_with("no ") && answer.contains("MIC"), "{protocol} {at}: {answer}");
        }
        if protocol == "negotiate" {
            let mut exchange = mechanism.begin(&credentials, &channel(Some(&DIGEST))).unwrap();
            let answer = acceptor.ask(&exchange.initial().unwrap());
            let token = BASE64.decode(answer.strip_prefix("+ ").unwrap()).unwrap();
            let mut last = exchange.step(&token).unwrap();
            let signature = last.len() - 8;
            last[signature] ^= 1;
            let answer = acceptor.ask(&last);
            assert!(answer.starts_with("no ") && answer.contains("MIC"), "{answer}");
        }
    }
}
