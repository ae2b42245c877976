//! The IMAP server in memory as clients see it that are not ours: Python's imaplib and curl.
//!
//! A program that is not on the machine makes its test say SKIPPED; with `REQUIRE_PEERS=1` it fails.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests, which say why they are skipped

use std::process::{Command, Output};

use email_router_testkit::imap::{ImapOptions, ImapServer};

async fn run(program: &'static str, arguments: Vec<String>) -> Option<Output> {
    let ran =
        tokio::task::spawn_blocking(move || Command::new(program).args(arguments).output()).await.unwrap();
    match ran {
        Ok(output) => Some(output),
        Err(error) => {
            assert!(
                std::env::var("REQUIRE_PEERS").as_deref() != Ok("1"),
                "REQUIRE_PEERS=1, but {program}: {error}"
            );
            println!("SKIPPED: {program} cannot be started: {error}");
            None
        }
    }
}

async fn filled(options: ImapOptions) -> ImapServer {
    let server = ImapServer::start(options).await;
    server.add_user("alice", "Secret123");
    server.add_folder("alice", "Spam", Some("\\Junk"));
    for n in 1..=3 {
        server.put("alice", "INBOX", format!("Subject: number {n}\r\n\r\nbody {n}\r\n"));
    }
    server
}

const IMAPLIB: &str = r#"
import imaplib, sys
def ok(answer):
    assert answer[0] == 'OK', answer
    return answer[1]
m = imaplib.IMAP4('127.0.0.1', int(sys.argv[1]))
assert 'AUTH=PLAIN' in m.capabilities, m.capabilities
try:
    m.login('alice', 'wrong')
    sys.exit('a wrong password was taken')
except imaplib.IMAP4.error as e:
    assert 'AUTHENTICATIONFAILED' in str(e), e
ok(m.authenticate('PLAIN', lambda challenge: b'\0alice\0Secret123'))
assert ok(m.namespace()) == [b'(("" "/")) NIL NIL']
folders = ok(m.list())
assert any(b'"Spam"' in f for f in folders) and len(folders) == 2, folders
assert ok(m.select('INBOX')) == [b'3']
assert m.response('UIDVALIDITY')[1] == [b'1001'] and m.response('UIDNEXT')[1] == [b'4']
assert ok(m.uid('search', None, 'UNSEEN')) == [b'1 2 3']
got = ok(m.uid('fetch', '2:3', '(RFC822.SIZE FLAGS BODY.PEEK[HEADER])'))
parts = [p for p in got if isinstance(p, tuple)]
assert parts[0][1] == b'Subject: number 2\r\n\r\n' and b'UID 2' in parts[0][0] and b'RFC822.SIZE 29' in parts[0][0], got
ok(m.uid('fetch', '1', '(BODY[])'))
assert ok(m.uid('search', None, 'SEEN')) == [b'1']
ok(m.create('Done')); ok(m.subscribe('Done'))
assert m.create('Done')[0] == 'NO'
ok(m.uid('copy', '1', 'Done'))
assert m.uid('copy', '1', 'Missing')[0] == 'NO'
ok(m.uid('store', '1,2', '+FLAGS.SILENT', r'(\Deleted)'))
ok(m.uid('expunge', '1'))
assert ok(m.uid('search', None, 'ALL')) == [b'2 3']
assert ok(m.uid('search', None, 'DELETED')) == [b'2']
ok(m.expunge())
assert ok(m.uid('search', None, 'ALL')) == [b'3']
ok(m.append('Done', None, None, b'Subject: appended {5}\r\n\r\nx'))
assert ok(m.select('Done', readonly=True)) == [b'2']
assert m.uid('store', '1', '+FLAGS', r'(\Seen)')[0] == 'NO'
assert m.uid('fetch', '2', '(BODY[])')[1][0][1] == b'Subject: appended {5}\r\n\r\nx'
assert m.logout()[0] == 'BYE'
print('done')
"#;

#[tokio::test]
async fn imaplib() {
    let server = filled(ImapOptions::default()).await;
    let arguments = vec!["-c".to_owned(), IMAPLIB.to_owned(), server.port().to_string()];
    let Some(output) = run("python3", arguments).await else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "done");
}

#[tokio::test]
async fn curl() {
    for options in [
        ImapOptions::default(),
        ImapOptions::least(),
        ImapOptions { sasl: vec!["CRAM-MD5"], ..ImapOptions::default() },
        ImapOptions { sasl: vec!["LOGIN"], sasl_ir: false, ..ImapOptions::default() },
    ] {
        let server = filled(options).await;
        let base = ["-sS", "--max-time", "30", "--noproxy", "*", "-u", "alice:Secret123"].map(str::to_owned);
        let ask = |more: &[&str]| {
            let mut arguments = base.to_vec();
            arguments
                .extend(more.iter().map(|m| m.replace("{}", &format!("imap://127.0.0.1:{}", server.port()))));
            run("curl", arguments)
        };
        let Some(output) = ask(&["{}/INBOX;UID=2"]).await else { return };
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "Subject: number 2\r\n\r\nbody 2\r\n", "{shown}");
        let output = ask(&["{}/INBOX;MAILINDEX=3;SECTION=HEADER"]).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "Subject: number 3\r\n\r\n");
        let output = ask(&["{}/INBOX", "-X", "UID SEARCH UNDELETED"]).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "* SEARCH 1 2 3");
        let output = ask(&["{}/Missing;UID=1"]).await.unwrap();
        assert!(!output.status.success());
    }
}
