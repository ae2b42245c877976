//! The real servers of `scripts/with-peers`, spoken to without any code of ours: what they hold is looked at from outside.
#![allow(dead_code)] // each test program uses a part of it
#![allow(clippy::expect_used, clippy::unwrap_used)] // a helper of a test that cannot go on fails the test
#![allow(clippy::print_stdout)] // the reason for skipping belongs on the output

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

/// Of every account.
pub(crate) const PASSWORD: &str = "Secret123";

/// Ports and files.
#[derive(Debug, Clone)]
pub(crate) struct Peers(BTreeMap<&'static str, String>);

const NAMES: [&str; 8] = [
    "DOVECOT_POP3",
    "DOVECOT_POP3S",
    "DOVECOT_LMTP",
    "DOVECOT_CA",
    "POSTFIX_SMTP",
    "POSTFIX_AUTH",
    "POSTFIX_SUBM",
    "POSTFIX_SMTPS",
];

/// The servers; `None`, with a word on the output, where there are none and nobody insists on them.
pub(crate) fn peers() -> Option<Peers> {
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
    /// A port or file, as text.
    pub(crate) fn get(&self, name: &str) -> &str {
        &self.0[name]
    }

    fn connect(&self, name: &str) -> Line {
        let stream = TcpStream::connect(("127.0.0.1", self.get(name).parse().unwrap())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Line(BufReader::new(stream))
    }

    fn log_in(&self, user: &str) -> Line {
        let mut line = self.connect("DOVECOT_POP3");
        line.expect("+OK");
        line.ask(&format!("USER {user}"), "+OK");
        line.ask(&format!("PASS {PASSWORD}"), "+OK");
        line
    }

    /// The messages of a mailbox: unique-id and text.
    pub(crate) fn mail(&self, user: &str) -> Vec<(String, String)> {
        let mut line = self.log_in(user);
        line.ask("UIDL", "+OK");
        let listing = line.body();
        let mut found = Vec::new();
        for entry in listing.lines() {
            let (number, id) = entry.split_once(' ').unwrap();
            line.ask(&format!("RETR {number}"), "+OK");
            found.push((id.to_owned(), line.body()));
        }
        line.ask("QUIT", "+OK");
        found
    }

    /// Takes everything out of a mailbox.
    pub(crate) fn clear(&self, user: &str) {
        let count = self.mail(user).len();
        let mut line = self.log_in(user);
        for number in 1..=count {
            line.ask(&format!("DELE {number}"), "+OK");
        }
        line.ask("QUIT", "+OK");
    }

    /// Delivers a message into a mailbox.
    pub(crate) fn deliver(&self, user: &str, text: &str) {
        let mut line = self.connect("DOVECOT_LMTP");
        line.expect("220");
        line.ask("LHLO localhost", "250 ");
        line.ask("MAIL FROM:<sender@example.net>", "250 ");
        line.ask(&format!("RCPT TO:<{user}@contoso.test>"), "250 ");
        line.ask("DATA", "354");
        let stuffed =
            text.lines().map(|l| if l.starts_with('.') { format!(".{l}\r\n") } else { format!("{l}\r\n") });
        line.ask(&format!("{}.", stuffed.collect::<String>()), "250 ");
        line.ask("QUIT", "221");
    }
}

/// A port on 127.0.0.2, for which the servers' certificate is not, that leads to this port of theirs.
pub(crate) fn other_name(port: &str) -> String {
    let target: u16 = port.parse().unwrap();
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", target)).unwrap();
            for (mut from, mut to) in
                [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
            {
                std::thread::spawn(move || {
                    // either side may hang up whenever it likes
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    port.to_string()
}

/// A connection of lines.
struct Line(BufReader<TcpStream>);

impl Line {
    fn read(&mut self) -> String {
        let mut bytes = Vec::new();
        loop {
            let piece = self.0.fill_buf().unwrap();
            assert!(!piece.is_empty() && bytes.len() < 1 << 20, "the server ended a line in the middle");
            let end = piece.iter().position(|&b| b == b'\n').map(|n| n + 1);
            let count = end.unwrap_or(piece.len());
            bytes.extend_from_slice(&piece[..count]);
            self.0.consume(count);
            if end.is_some() {
                return String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
            }
        }
    }

    /// Reads up to a line that begins so; lines before it must be those of a continued reply.
    fn expect(&mut self, begin: &str) -> String {
        loop {
            let line = self.read();
            if line.starts_with(begin) {
                return line;
            }
            assert!(
                line.as_bytes().get(3) == Some(&b'-') && line.starts_with(&begin[..3]),
                "{line:?} instead of {begin:?}"
            );
        }
    }

    fn ask(&mut self, command: &str, begin: &str) -> String {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).unwrap();
        self.expect(begin)
    }

    /// Multi-line data, dots unstuffed.
    fn body(&mut self) -> String {
        let mut text = String::new();
        loop {
            let line = self.read();
            if line == "." {
                return text;
            }
            text.push_str(line.strip_prefix('.').unwrap_or(&line));
            text.push('\n');
        }
    }
}

/// An incoming profile for POP3; `more` is XML.
pub(crate) fn pop3(name: &str, host: &str, port: &str, tls: &str, more: &str) -> String {
    format!(
        "<ConfigurationProfile><Name>{name}</Name><Direction>Incoming</Direction><ServerType>Pop3</ServerType>\
         <AuthenticationType>ClearText</AuthenticationType><EmailServer>{host}</EmailServer><NetworkPort>{port}</NetworkPort><TlsMode>{tls}</TlsMode>\
         <AccessCredentials>UserSpecified</AccessCredentials>{more}</ConfigurationProfile>"
    )
}

/// An outgoing profile for SMTP without login.
pub(crate) fn relay(name: &str, host: &str, port: &str, tls: &str, more: &str) -> String {
    format!(
        "<ConfigurationProfile><Name>{name}</Name><Direction>Outgoing</Direction><ServerType>Smtp</ServerType>\
         <AuthenticationType>Anonymous</AuthenticationType><EmailServer>{host}</EmailServer><NetworkPort>{port}</NetworkPort><TlsMode>{tls}</TlsMode>\
         <AccessCredentials>LocalSystemAccount</AccessCredentials>{more}</ConfigurationProfile>"
    )
}

/// An outgoing profile for SMTP with the account alice.
pub(crate) fn submission(
    name: &str,
    host: &str,
    port: &str,
    tls: &str,
    password: &str,
    more: &str,
) -> String {
    format!(
        "<ConfigurationProfile><Name>{name}</Name><Direction>Outgoing</Direction><ServerType>Smtp</ServerType>\
         <AuthenticationType>ClearText</AuthenticationType><EmailServer>{host}</EmailServer><NetworkPort>{port}</NetworkPort><TlsMode>{tls}</TlsMode>\
         <AccessCredentials>OtherSpecified</AccessCredentials><UserName>alice</UserName><Password>{password}</Password>{more}</ConfigurationProfile>"
    )
}

/// Trust in the servers' authority.
pub(crate) fn trust(peers: &Peers) -> String {
    format!("<ExtraCaFiles><File>{}</File></ExtraCaFiles>", peers.get("DOVECOT_CA"))
}

/// A queue that is read and sent for by these profiles (`None` for none).
pub(crate) fn queue(user: &str, incoming: &str, outgoing: &str, password: &str) -> String {
    let login = match incoming {
        "None" => String::new(),
        _ => format!("<UserName>{user}</UserName><Password>{password}</Password>"),
    };
    format!(
        "<Queue><Name>{user}</Name><EmailAddress>{user}@contoso.test</EmailAddress><IncomingProfile>{incoming}</IncomingProfile>\
         <OutgoingProfile>{outgoing}</OutgoingProfile>{login}</Queue>"
    )
}

/// The whole file. The state of an e-mail that waits is looked at again at once.
pub(crate) fn configuration(profiles: &[String], mailboxes: &[String]) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<Configuration>\n<SystemConfiguration><ProviderOverrides>\
         <PendingStatusDelay>0</PendingStatusDelay></ProviderOverrides></SystemConfiguration>\n\
         <ConfigurationProfiles>{}</ConfigurationProfiles>\n\
         <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path></Deployment></Deployments>\n\
         <Mailboxes>{}</Mailboxes>\n</Configuration>\n",
        profiles.concat(),
        mailboxes.concat()
    )
}
