//! What servers say and what is said to them.

use email_router_model::EmailAddress;
use email_router_transport::ews::proto as ews;
use email_router_transport::imap::proto as imap;
use email_router_transport::pop3::proto as pop3;
use email_router_transport::smtp::proto::body::{Encoder, Shape};
use email_router_transport::smtp::proto::capabilities::Capabilities;
use email_router_transport::smtp::proto::{Malformed, Plan, Reply, ReplyReader, Step, Transaction};

/// A whole POP3 session as the server speaks it; the first byte says in which pieces it arrives. The pieces make no difference, no body is
/// larger than its cap, and what a listing holds can be told apart.
pub fn pop3_replies(data: &[u8]) {
    let Some((&chunk, input)) = data.split_first() else { return };
    use pop3::Request as R;
    let requests =
        [R::Capa, R::User, R::Pass, R::Stat, R::List, R::Uidl, R::Top(1), R::Retr(2), R::Dele(2), R::Quit];
    let limits = pop3::Limits { line: 600, listing: 4096, headers: 512, message: 2048, drained: 8192 };
    let whole = pop3::replay(&requests, input, usize::MAX, limits);
    let pieces = pop3::replay(&requests, input, usize::from(chunk), limits);
    assert_eq!(whole, pieces, "the answer depends on the pieces it came in");
    for event in &whole.0 {
        if let pop3::Event::Answer { status, .. } = event {
            assert!(!status.words().contains(['\r', '\n', '\0']), "unsafe in a log: {status:?}");
        }
    }
    let capabilities = pop3::Capabilities::parse(input);
    assert_eq!(format!("{capabilities:?}"), format!("{:?}", pop3::Capabilities::parse(input)));
    if let Ok(list) = pop3::parse_list(input) {
        assert!(list.len() <= input.len());
    }
    if let Ok(ids) = pop3::parse_uidl(input) {
        assert!(ids.iter().flat_map(|(_, id)| id).all(|id| !id.contains(['\r', '\n'])));
    }
    let _ = pop3::parse_stat(&String::from_utf8_lossy(input));
}

/// A whole IMAP session as the server speaks it; the first byte says in which pieces it arrives. The pieces make no difference, no string is
/// larger than its cap, no words have a line break, and the name of a folder survives being written again.
pub fn imap_answers(data: &[u8]) {
    let Some((&chunk, input)) = data.split_first() else { return };
    use imap::Request as R;
    let requests = [
        R::Capability,
        R::Authenticate,
        R::List,
        R::Select,
        R::Search,
        R::FetchListing,
        R::FetchHeaders(5),
        R::FetchWhole(5),
        R::Idle,
        R::Logout,
    ];
    let limits = imap::Limits { text: 2000, listing: 4096, headers: 70_000, message: 80_000, drained: 8192 };
    let whole = imap::replay(&requests, input, usize::MAX, limits);
    let pieces = imap::replay(&requests, input, usize::from(chunk), limits);
    assert_eq!(whole, pieces, "the answer depends on the pieces it came in");
    for event in whole.0 {
        match event {
            imap::Event::Greeting(condition) | imap::Event::Done { condition, .. } => {
                assert!(!condition.words().contains(['\r', '\n', '\0']), "unsafe in a log: {condition:?}");
            }
            imap::Event::Data(imap::Response::List(folder)) => {
                let name = imap::name::decode(&folder.name);
                let written = imap::name::encode(&name);
                assert!(written.is_ascii() && !written.contains(['\r', '\n']));
                assert_eq!(imap::name::decode(&written), name);
            }
            imap::Event::Data(imap::Response::Fetch(fetched)) => {
                for string in fetched.whole.iter().chain(&fetched.headers).chain(&fetched.stray) {
                    assert!(
                        string.bytes.len() <= 80_000
                            && string.over_cap == (string.size != string.bytes.len() as u64)
                    );
                }
                assert_ne!(fetched.uid, Some(0));
            }
            imap::Event::Data(imap::Response::Search(uids)) => {
                let sorted = imap::UidSet::new(uids.clone()).to_string();
                let mut again = uids;
                again.sort_unstable();
                again.dedup();
                if !again.contains(&0) {
                    assert_eq!(imap::UidSet::parse(sorted.as_bytes(), usize::MAX), Some(again));
                }
            }
            _ => {}
        }
    }
}

/// What an SMTP server says, in pieces of any size, cut into replies and played to the machine of a transaction. The pieces make no
/// difference, no reply carries a control character, and the machine comes to an end without inventing success: where it says that the
/// message was taken, each recipient has an answer and at least one is positive.
pub fn smtp_replies(data: &[u8]) {
    let Some((&chunk, input)) = data.split_first() else { return };
    let whole = replies(input, usize::MAX);
    assert_eq!(whole, replies(input, usize::from(chunk)), "the replies depend on the pieces they came in");
    for reply in &whole.0 {
        assert!((200..600).contains(&reply.code()));
        assert!(!reply.to_string().contains(['\r', '\n', '\0']), "unsafe in a log: {reply:?}");
        let _ = reply.enhanced();
    }
    let Some((first, rest)) = whole.0.split_first() else { return };
    let (Ok(one), Ok(two)) = (EmailAddress::parse("a@example.com"), EmailAddress::parse("b@example.com"))
    else {
        return;
    };
    let recipients = [one.clone(), two];
    let message = b"Subject: a\n\n.\nb\xc3\xa4";
    let plan = Plan {
        sender: Some(&one),
        recipients: &recipients,
        message,
        shape: Shape::of(message),
        utf8_header: false,
        dsn: None,
        eight_bit_anyway: true,
    };
    let Ok(mut machine) = Transaction::new(plan, &Capabilities::from_ehlo(first)) else { return };
    let mut replies = rest.iter();
    let mut out = Vec::new();
    for _ in 0..1000 {
        match machine.poll(&mut out) {
            Step::Send(_) => {}
            Step::Await(_) => match replies.next() {
                Some(reply) => machine.on_reply(reply.clone()),
                None => break, // the server fell silent
            },
            Step::Secure => unreachable!("a transaction never asks for TLS"),
            Step::Done => {
                use email_router_transport::smtp::proto::Outcome;
                if let Some((Outcome::Taken { recipients: answers, last }, _)) = machine.finish() {
                    assert_eq!(answers.len(), recipients.len());
                    assert!(answers.iter().any(Reply::is_mail_action_done) && last.is_mail_action_done());
                }
                return;
            }
        }
    }
    assert!(out.len() < 4096, "the machine does not come to an end");
}

fn replies(input: &[u8], chunk: usize) -> (Vec<Reply>, Option<Malformed>) {
    let mut reader = ReplyReader::default();
    let mut found = Vec::new();
    for piece in input.chunks(chunk.max(1)) {
        reader.push(piece);
        loop {
            match reader.next_reply() {
                Ok(Some(reply)) => found.push(reply),
                Ok(None) => break,
                Err(malformed) => return (found, Some(malformed)),
            }
        }
    }
    (found, None)
}

/// Any message on its way to a server; the first byte is the size of the blocks. Every line end is CRLF, no line is a single dot, and taking
/// the dots away gives the message back.
pub fn smtp_body(data: &[u8]) {
    let Some((&block, message)) = data.split_first() else { return };
    let shape = Shape::of(message);
    let (plain, stuffed) = (encode(&shape, message, false, block), encode(&shape, message, true, block));
    assert_eq!(plain, normal(message));
    assert_eq!(shape.normal_len, plain.len() as u64);
    assert_eq!(shape.normal, plain == message);
    assert_eq!(shape.eight_bit, !message.is_ascii());
    let mut unstuffed = Vec::new();
    for line in stuffed.split_inclusive(|&b| b == b'\n') {
        assert!(line.ends_with(b"\r\n") && !line[..line.len() - 2].contains(&b'\r'), "a bare line end");
        assert_ne!(line, b".\r\n", "the end of the data in the middle of the message");
        unstuffed.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    assert_eq!(unstuffed, plain);
}

fn encode(shape: &Shape, message: &[u8], stuff: bool, block: u8) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::new(shape, stuff), Vec::new());
    while !encoder.fill(message, &mut out, usize::from(block)) {}
    out
}

/// Written as differently from the encoder as can be: byte by byte.
fn normal(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (n, &byte) in message.iter().enumerate() {
        match byte {
            b'\n' if n > 0 && message[n - 1] == b'\r' => {}
            b'\r' | b'\n' => out.extend_from_slice(b"\r\n"),
            other => out.push(other),
        }
    }
    if !out.is_empty() && !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// What an EWS server answers, in pieces of any size. The pieces make no difference, no content is larger than its cap, and what is read out of the rest is safe
/// to log and to write into a request again.
pub fn ews_responses(data: &[u8]) {
    let Some((&chunk, input)) = data.split_first() else { return };
    let whole = carve(input, usize::MAX);
    assert_eq!(whole, carve(input, usize::from(chunk)), "the contents depend on the pieces they came in");
    let Some((skeleton, contents)) = whole else { return };
    for content in &contents {
        if let ews::carve::Carved::Whole(bytes) = content {
            assert!(bytes.len() <= 64);
        }
    }
    if let Ok(Ok(reply)) = ews::response::read(&skeleton) {
        for answer in &reply.answers {
            let items = answer.items();
            assert!(items.iter().all(|item| !item.id.is_empty()));
            let _ = (answer.mime(), answer.folders(), answer.changes(), answer.subscription());
            let _ = (answer.tells_of_mail(), answer.is_closed(), ews::rules::operation_errors(answer));
            if let Some(section) = answer.headers() {
                assert!(section.ends_with("\r\n") || section.is_empty());
                assert!(!section.replace("\r\n", "").contains('\n'), "a bare line end in {section:?}");
            }
            let (listing, priorities) = ews::rules::listing(answer);
            assert_eq!(listing.rules.len(), priorities.len());
        }
    }
    let _ = (ews::autodiscover::read_soap(input), ews::autodiscover::read_plain(input));
    if let Some(question) = ews::dns::question(0x0102, "_autodiscover._tcp.contoso.test")
        && let Ok(targets) = ews::dns::answer(&question, &[&question, input].concat())
    {
        assert!(targets.iter().all(|target| !target.host.contains(['/', '@', ' '])));
    }
    let mut envelopes = ews::stream::Envelopes::default();
    if envelopes.push(input).is_ok() {
        while let Some(envelope) = envelopes.next_envelope() {
            assert!(!envelope.is_empty());
        }
    }
}

fn carve(input: &[u8], chunk: usize) -> Option<(Vec<u8>, Vec<ews::carve::Carved>)> {
    let mut carver = ews::carve::Carver::new(1 << 16, 64, 0);
    for piece in input.chunks(chunk.max(1)) {
        carver.push(piece).ok()?;
    }
    Some(carver.finish())
}
