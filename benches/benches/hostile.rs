//! Hostile mail, one message at a time through the whole incoming path (embedded CRM and state on disk): time, and memory above the message itself.
//!
//! Cost grows with the bytes of a message, whatever is in them: no row may stand out by what it is made of.
#![allow(missing_docs)] // a program, not an interface
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people; a failed step ends it
#![allow(clippy::disallowed_methods)] // real time and files are what is measured

use std::fmt::Write as _;
use std::sync::Arc;

use email_router_benches::child::{self, Memory, Run, Values};
use email_router_benches::peers::user;
use email_router_benches::table::verdict;
use email_router_benches::{disk_folder, is_smoke, ours, router};
use email_router_engine::ports::{Event, Observer};
use email_router_model::RawMessage;
use email_router_testkit::tnef::{Properties, Stream, attribute};
use email_router_transport::memory::MemoryTransport;
use tokio::sync::watch;

#[derive(Debug)]
struct Nobody;

impl Observer for Nobody {
    fn event(&self, _: &Event<'_>) {}
}

/// The mails of `competitors.md` 4.3, then ours.
const MAILS: &[&str] = &[
    "no header field",
    "200 nested multiparts",
    "5,000 nested multiparts",
    "20,000 tiny parts",
    "charset _iso-2022-jp$ESC",
    "raw bytes in Cc, NUL in the body",
    "10 MB of &nbsp; in HTML",
    "5,000 links",
    "20,000 References",
    "boundary not quoted",
    "26 MB attachment, above the limit",
    "26 MB attachment, stored",
    "20,000 recipients",
    "attached messages, 50,000 deep",
    "10 MB of text in a wrong charset",
    "1,000 pictures by Content-Location in 4 MB",
    "1,000 parts with 200 parameters each",
    "26 MB winmail.dat, a file above the limit",
    "4 MB winmail.dat, an attached message",
    "8 MB winmail.dat, RTF that grows to 68 MB",
    "winmail.dat, messages 2,000 deep",
    "signed multiparts, 5,000 deep",
    "10 MB calendar",
];

fn main() {
    if let Some((_, args)) = child::task() {
        let runtime = ours::runtime();
        let (name, smaller) = (args[0].clone(), args[1].parse().unwrap());
        return child::report(
            &runtime.block_on(async move { tokio::spawn(one(name, smaller)).await.unwrap() }),
        );
    }
    println!("{:<46} {:>9} {:>9} {:>9} {:>9} {:>12}", "", "MB", "seconds", "CPU", "above, MB", "1 s, 64 MB");
    let smaller = if is_smoke() { 100 } else { 1 };
    for name in MAILS {
        let found = child::run("one", &[(*name).to_owned(), smaller.to_string()]);
        let mb = |value: &str| found.get(value) / 1e6;
        let held = found.get("cpu") <= 1.0 && mb("above") <= 64.0;
        println!(
            "{name:<46} {:>9.2} {:>9.3} {:>9.3} {:>9.1} {:>12}",
            mb("size"),
            found.get("wall"),
            found.get("cpu"),
            mb("above"),
            verdict(held)
        );
    }
}

/// Routes one mail, after a harmless one that opens everything.
async fn one(name: String, smaller: usize) -> Values {
    let folder = disk_folder();
    let crm = router::crm(&folder.path().join("crm.db"));
    if name.ends_with("stored") {
        crm.admin().set_setting("maxuploadfilesize", "131072000").await.unwrap();
    }
    let mailbox = ours::mailbox(&user(0));
    let record = router::add_user(&crm, &mailbox, "all").await;
    let router = router::router(folder.path(), crm, Arc::new(Nobody));
    let system = MemoryTransport::new();
    let mut plan = router::plan(Arc::new(system.clone()), vec![(mailbox.clone(), record)], 1);
    for route in &mut plan.incoming {
        // a winmail.dat of 26 MB is 36 MB of base64
        Arc::get_mut(route).unwrap().settings.max_message_bytes = 64 << 20;
    }
    let (_keep, stop) = watch::channel(false);
    let _ = system.put(&mailbox.id, RawMessage::new(format!("{}\r\nhello\r\n", head("first"))));
    router.run_once(&plan, &stop).await.unwrap();
    let mail = mail(&name, smaller);
    let size = mail.len();
    let _ = system.put(&mailbox.id, RawMessage::new(mail));
    Memory::reset_peak();
    let before = Memory::read();
    let started = std::time::Instant::now();
    let cpu = child::cpu_time();
    let report = router.run_once(&plan, &stop).await.unwrap();
    let run = Run { wall: started.elapsed().as_secs_f64(), cpu: (child::cpu_time() - cpu).as_secs_f64() };
    assert_eq!(report.incoming.processed, 1, "{name}: {report:?}");
    run.values()
        .with("size", size as f64)
        .with("above", Memory::read().peak.saturating_sub(before.now) as f64)
}

fn head(id: &str) -> String {
    format!(
        "From: a@example.net\r\nTo: {}@contoso.test\r\nSubject: hostile\r\nMessage-ID: <{id}@example.net>\r\nMIME-Version: 1.0\r\n",
        user(0)
    )
}

/// One of [`MAILS`], made `smaller` times smaller where it is large.
fn mail(name: &str, smaller: usize) -> Vec<u8> {
    let n = |count: usize| (count / smaller).max(1);
    let mut text = head("hostile");
    let mixed = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
    let attached = |kind: &str, content: &[u8]| {
        format!(
            "{mixed}--b\r\n\r\nsee below\r\n--b\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n--b--\r\n",
            base64(content)
        )
    };
    let rest = match name {
        "no header field" => return b"\r\n\r\nno header\r\n".to_vec(),
        "200 nested multiparts" => nested("mixed", 200),
        "5,000 nested multiparts" => nested("mixed", n(5000)),
        "signed multiparts, 5,000 deep" => nested("signed; protocol=\"application/pkcs7-signature\"", n(5000)),
        "20,000 tiny parts" => format!("{mixed}{}--b--\r\n", "--b\r\n\r\nx\r\n".repeat(n(20_000))),
        "charset _iso-2022-jp$ESC" => {
            "Content-Type: text/plain; charset=\"_iso-2022-jp$ESC\"\r\n\r\n\x1b$B$\"\x1b(B\r\n".to_owned()
        }
        "raw bytes in Cc, NUL in the body" => {
            let mut bytes = text.into_bytes();
            bytes.extend_from_slice(b"Cc: \xff\xfe <c@example.net>\r\n\r\nbefore\0behind\r\n");
            return bytes;
        }
        "10 MB of &nbsp; in HTML" => {
            format!("Content-Type: text/html\r\n\r\n{}", "&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;\r\n".repeat(n(270_000)))
        }
        "5,000 links" => format!(
            "Content-Type: text/html\r\n\r\n{}",
            "<a href=\"http://example.net/?q=1\">http://example.net/</a>\r\n".repeat(n(5000))
        ),
        "20,000 References" => {
            // as much as the default of MaxHeaderSize lets in
            let ids: String = (0..n(20_000)).map(|n| format!(" <{n}@a>\r\n")).collect();
            format!("References:{ids}\r\nhello\r\n")
        }
        "boundary not quoted" => {
            "Content-Type: multipart/mixed; boundary=----=_Part/1:2\r\n\r\n------=_Part/1:2\r\n\r\ntext\r\n------=_Part/1:2--\r\n".to_owned()
        }
        "26 MB attachment, above the limit" | "26 MB attachment, stored" => {
            attached("application/pdf; name=a.pdf", &vec![7; n(19_000_000)])
        }
        "20,000 recipients" => {
            let list: Vec<String> = (0..n(20_000)).map(|n| format!("{n}@a.bc")).collect();
            format!("Cc: {}\r\n\r\nhello\r\n", list.join(",\r\n "))
        }
        "attached messages, 50,000 deep" => {
            format!("{}\r\nx\r\n", "Content-Type: message/rfc822\r\n\r\n".repeat(n(50_000)))
        }
        "10 MB of text in a wrong charset" => {
            let mut bytes = format!("{text}Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n").into_bytes();
            bytes.extend(b"\xcf\xf0\xe8\xe2\xe5\xf2, \xea\xe0\xea \xe4\xe5\xeb\xe0?\r\n".iter().cycle().take(n(10_000_000)));
            return bytes;
        }
        "1,000 pictures by Content-Location in 4 MB" => {
            let mut made =
                "Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n".to_owned();
            for n in 0..n(80_000) {
                let _ = write!(made, "<img src=\"http://example.net/picture-{}.png\">\r\n", n % 1000);
            }
            for n in 0..n(990) {
                let _ = write!(made, "--b\r\nContent-Type: image/png\r\nContent-Location: http://example.net/picture-{n}.png\r\n\r\nx\r\n");
            }
            made + "--b--\r\n"
        }
        "1,000 parts with 200 parameters each" => {
            let parameters: String = (0..200).map(|n| format!(";\r\n name*{n}*=%41(")).collect();
            format!("{mixed}{}--b--\r\n", format!("--b\r\nContent-Type: image/png{parameters})\r\n\r\nx\r\n").repeat(n(990)))
        }
        "26 MB winmail.dat, a file above the limit" => {
            let stream = Stream::new(1252).file("a.pdf", &vec![7; n(26_000_000)], Properties::default());
            attached("application/ms-tnef; name=winmail.dat", &stream.bytes())
        }
        "4 MB winmail.dat, an attached message" => {
            let inner = Stream::new(1252).file("a.pdf", &vec![7; n(3_600_000)], Properties::default()).bytes();
            attached("application/ms-tnef; name=winmail.dat", &Stream::new(1252).embedded("in", &inner).bytes())
        }
        "8 MB winmail.dat, RTF that grows to 68 MB" => {
            let properties = Properties::default().binary(0x1009, &growing_rtf(n(500_000)));
            let stream = Stream::new(1252).message(attribute::MESSAGE_PROPERTIES, &properties.list());
            attached("application/ms-tnef; name=winmail.dat", &stream.bytes())
        }
        "winmail.dat, messages 2,000 deep" => {
            let mut stream = Stream::new(1252).bytes();
            for _ in 0..n(2000) {
                stream = Stream::new(1252).embedded("in", &stream).bytes();
            }
            attached("application/ms-tnef; name=winmail.dat", &stream)
        }
        "10 MB calendar" => {
            let event = "BEGIN:VEVENT\r\nSUMMARY:x\r\nDESCRIPTION:a\\nb\r\nEND:VEVENT\r\n";
            format!("Content-Type: text/calendar\r\n\r\n{}", event.repeat(n(180_000)))
        }
        _ => unreachable!("{name} is not in the table"),
    };
    text.push_str(&rest);
    text.into_bytes()
}

fn nested(kind: &str, depth: usize) -> String {
    let mut made = String::new();
    for n in 0..depth {
        let _ = write!(made, "Content-Type: multipart/{kind}; boundary=b{n}\r\n\r\n--b{n}\r\n");
    }
    made + "\r\ntext\r\n"
}

/// Compressed RTF of nothing but references, each two bytes for seventeen.
fn growing_rtf(groups: usize) -> Vec<u8> {
    let reference = |number: usize| {
        let from = (207 + number * 17 + 4096 - 17) % 4096;
        u16::try_from(from << 4 | 15).unwrap().to_be_bytes()
    };
    let group = |n: usize| std::iter::once(0xff).chain((0..8).flat_map(move |i| reference(n * 8 + i)));
    let data: Vec<u8> = (0..groups).flat_map(group).collect();
    let size = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
    [&size(data.len() + 12)[..], &size(groups * 136), b"LZFu", &[0; 4], &data].concat()
}

/// RFC 2045 6.8, in lines.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut made = String::with_capacity(bytes.len() / 57 * 78 + 80);
    for line in bytes.chunks(57) {
        for c in line.chunks(3) {
            let n = c.iter().fold(0_u32, |n, &b| n << 8 | u32::from(b)) << (8 * (3 - c.len()));
            for i in 0..4 {
                made.push(if i <= c.len() {
                    char::from(ALPHABET[(n >> (18 - 6 * i) & 63) as usize])
                } else {
                    '='
                });
            }
        }
        made.push_str("\r\n");
    }
    made
}
