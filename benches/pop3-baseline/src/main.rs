//! Reads the first messages of a mailbox with the crate `pop3` 1.0.6 and prints how long that took: `pop3-baseline PORT USER PASSWORD [MOST]`.
//!
//! The output is one line, `messages lines seconds`. That crate says "ok" to a wrong password and reads one byte with each system call, so this
//! is a baseline and no more.

use std::time::Instant;

use pop3::{POP3Result, POP3Stream};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [port, user, password, most @ ..] = &args[..] else {
        eprintln!("usage: pop3-baseline PORT USER PASSWORD [MOST]");
        std::process::exit(2);
    };
    let most = most.first().map_or(i32::MAX, |n| n.parse().expect("a number"));
    let start = Instant::now();
    let mut session = POP3Stream::connect(("127.0.0.1", port.parse().expect("a port")), None, "localhost")
        .expect("a connection");
    session.login(user, password);
    let count = match session.stat() {
        POP3Result::POP3Stat { num_email, .. } => num_email.min(most),
        _ => panic!("STAT gave no answer"),
    };
    let mut lines = 0;
    for number in 1..=count {
        match session.retr(number) {
            POP3Result::POP3Message { raw } => lines += raw.len(),
            _ => panic!("message {number} could not be read"),
        }
    }
    session.quit();
    println!("{count} {lines} {:.3}", start.elapsed().as_secs_f64());
}
