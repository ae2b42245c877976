//! NTLM and SPNEGO against Samba's acceptor, as Dovecot, Squid and Apache's mod_auth_ntlm_winbind use it: `ntlm_auth` with a helper protocol.
//!
//! `NTLM_AUTH` is the program, set up to compare with the password Secret123; `scripts/with-peers` sets it. Without it the tests say SKIPPED,
//! with `REQUIRE_PEERS=1` they fail.
#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)] // helpers of tests, which say why they are skipped

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use email_router_auth::{Channel, Credentials, Mechanism, Negotiate, Ntlm};

struct Helper {
    child: Child,
    says: BufReader<ChildStdout>,
    hears: ChildStdin,
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Helper {
    fn start(protocol: &str) -> Option<Self> {
        let value = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let Some(program) = value("NTLM_AUTH") else {
            assert!(
                value("REQUIRE_PEERS").as_deref() != Some("1"),
                "REQUIRE_PEERS=1, but NTLM_AUTH is not set"
            );
            println!("SKIPPED: NTLM_AUTH is not set; scripts/with-peers sets it");
            return None;
        };
        let mut child = Command::new(program)
            .arg(format!("--helper-protocol={protocol}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ntlm_auth starts");
        let says = BufReader::new(child.stdout.take().unwrap());
        let hears = child.stdin.take().unwrap();
        Some(Self { child, says, hears })
    }

    /// `YR` begins a login, `KK` goes on; the words of the answer.
    fn ask(&mut self, verb: &str, message: &[u8]) -> Vec<String> {
        writeln!(self.hears, "{verb} {}", BASE64.encode(message)).unwrap();
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    }
}

#[test]
fn samba_accepts_and_refuses() {
    let channel = Channel::tls("pop", "mail.contoso.test", 995, Some(vec![7; 32]));
    let mechanisms: [(&str, Box<dyn Mechanism>); 2] =
        [("squid-2.5-ntlmssp", Box::new(Ntlm::system())), ("gss-spnego", Box::new(Negotiate::system()))];
    for (protocol, mechanism) in mechanisms {
        for name in ["alice", "CONTOSO\\alice", "alice@contoso.test", "CONTOSO\\\u{e4}nne"] {
            for (password, good) in [("Secret123", true), ("secret123", false)] {
                let Some(mut helper) = Helper::start(protocol) else { return };
                let credentials = Credentials::new(name, password.into());
                let mut exchange = mechanism.begin(&credentials, &channel).unwrap();
                let asked = helper.ask("YR", &exchange.initial().unwrap());
                assert_eq!(asked[0], "TT", "{asked:?}");
                let answer = exchange.step(&BASE64.decode(&asked[1]).unwrap()).unwrap();
                let end = helper.ask("KK", &answer);
                let accepted = end[0].starts_with("AF");
                assert_eq!(accepted, good, "{protocol} {name}: {end:?}");
                if accepted && protocol == "gss-spnego" {
                    // its own signature under the list of mechanisms is checked in here
                    exchange.finish(Some(&BASE64.decode(&end[1]).unwrap())).unwrap();
                }
            }
        }
    }
}
