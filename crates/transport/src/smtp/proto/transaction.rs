//! One mail transaction: MAIL, RCPT for each recipient, then the data by DATA or BDAT (RFC 5321 3.3, RFC 2920, RFC 3030).

use std::collections::VecDeque;

use email_router_model::EmailAddress;

use super::body::{Encoder, Shape};
use super::command::MailParameters;
use super::{Capabilities, Command, Phase, Reply, Step};
use crate::DsnRequest;

/// How much of a message goes into one write.
pub const BLOCK: usize = 128 * 1024;
/// How much of a message goes into one BDAT chunk. Each chunk is answered before the next one is sent.
pub const CHUNK: usize = 1024 * 1024;

/// What is to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The reverse-path; `None` is the null one.
    pub sender: Option<&'a EmailAddress>,
    /// Everybody the message goes to.
    pub recipients: &'a [EmailAddress],
    /// The message.
    pub message: &'a [u8],
    /// What is known about the message.
    pub shape: Shape,
    /// The header section holds UTF-8 beyond ASCII, which only SMTPUTF8 (RFC 6531) carries.
    pub utf8_header: bool,
    /// Delivery status notifications wanted, where offered.
    pub dsn: Option<&'a DsnRequest>,
    /// Send 8-bit content also to a server that does not offer 8BITMIME.
    pub eight_bit_anyway: bool,
}

/// Why this server cannot be given this message; nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Larger than the limit the server announced with SIZE.
    TooLarge {
        /// The limit in octets.
        limit: u64,
    },
    /// An address cannot be written without SMTPUTF8, which the server does not offer.
    AddressNeedsUtf8(EmailAddress),
    /// The header section cannot be sent without SMTPUTF8, which the server does not offer.
    HeaderNeedsUtf8,
    /// The message has 8-bit content and the server does not offer 8BITMIME (RFC 6152 section 3 forbids to send it).
    NeedsEightBit,
}

/// How the transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server took responsibility for at least one recipient.
    Taken {
        /// The answer for each recipient, in order.
        recipients: Vec<Reply>,
        /// The answer to the complete message.
        last: Reply,
    },
    /// MAIL was refused.
    SenderRefused(Reply),
    /// Every RCPT was refused; the answer for each.
    RecipientsRefused(Vec<Reply>),
    /// The data was refused: at DATA, in the middle or at the end. Nothing was taken.
    MessageRefused(Reply),
    /// 500 or 502 to BDAT: the server does not know what it offered (RFC 3030), so nothing was taken. It may take the chunk behind the
    /// command for commands, so the connection is of no more use.
    ChunkingUnknown(Reply),
    /// 421: the server closes. Nothing was taken.
    Closing(Reply),
    /// An answer that does not fit.
    Unexpected {
        /// To what it was the answer.
        command: &'static str,
        /// The answer.
        reply: Reply,
        /// Whether it came in the place of the answer to the complete message, so that the message may have been taken.
        in_doubt: bool,
    },
}

/// In which state the connection is after a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Ready for the next.
    Clean,
    /// Ready after a RSET.
    NeedsReset,
    /// Of no more use.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Mail,
    Rcpt,
    Data,
    Chunk,
    End,
    Abort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Envelope,
    Decide,
    Body,
    Chunks,
    /// Everything was given to the driver.
    End,
    Finished,
}

/// The machine for one message on one open connection.
#[derive(Debug)]
pub struct Transaction<'a> {
    plan: Plan<'a>,
    parameters: MailParameters<'a>,
    pipelining: bool,
    chunking: bool,
    dsn: bool,
    stage: Stage,
    /// Next command of the envelope: 0 is MAIL, then the recipients.
    next: usize,
    awaited: VecDeque<Awaited>,
    mail_refused: Option<Reply>,
    recipients: Vec<Reply>,
    data: Option<Reply>,
    encoder: Encoder,
    outcome: Option<Outcome>,
    ending: Ending,
    heard: bool,
}

impl<'a> Transaction<'a> {
    /// Prepares a message for a server with these capabilities.
    ///
    /// # Errors
    /// [`Obstacle`]: this server cannot take this message; nothing was sent and the connection is as it was.
    pub fn new(plan: Plan<'a>, offered: &Capabilities) -> Result<Self, Obstacle> {
        if let Some(limit) = offered.size_limit.filter(|&limit| plan.shape.normal_len > limit) {
            return Err(Obstacle::TooLarge { limit });
        }
        let needing = plan.sender.into_iter().chain(plan.recipients).find(|a| a.needs_smtputf8());
        if !offered.smtputf8 {
            if let Some(address) = needing {
                return Err(Obstacle::AddressNeedsUtf8(address.clone()));
            }
            if plan.utf8_header {
                return Err(Obstacle::HeaderNeedsUtf8);
            }
        }
        if plan.shape.eight_bit && !offered.eight_bit_mime && !plan.eight_bit_anyway {
            return Err(Obstacle::NeedsEightBit);
        }
        let parameters = MailParameters {
            size: offered.size.then_some(plan.shape.normal_len),
            eight_bit: plan.shape.eight_bit && offered.eight_bit_mime,
            smtputf8: offered.smtputf8 && (needing.is_some() || plan.utf8_header),
            dsn: plan.dsn.filter(|_| offered.dsn),
        };
        Ok(Self {
            parameters,
            pipelining: offered.pipelining,
            chunking: offered.chunking,
            dsn: offered.dsn,
            stage: Stage::Envelope,
            next: 0,
            awaited: VecDeque::new(),
            mail_refused: None,
            recipients: Vec::with_capacity(plan.recipients.len()),
            data: None,
            encoder: Encoder::new(&plan.shape, !offered.chunking),
            outcome: None,
            ending: Ending::Broken,
            heard: false,
            plan,
        })
    }

    /// What to do next; bytes to send are appended to `out`.
    pub fn poll(&mut self, out: &mut Vec<u8>) -> Step {
        if self.stage == Stage::Finished {
            return Step::Done;
        }
        if let Some(awaited) = self.awaited.front() {
            return Step::Await(match awaited {
                Awaited::Mail => Phase::Mail,
                Awaited::Rcpt => Phase::Rcpt,
                Awaited::Data => Phase::DataStart,
                Awaited::Chunk => Phase::DataBlock,
                Awaited::End | Awaited::Abort => Phase::DataEnd,
            });
        }
        match self.stage {
            Stage::Envelope => self.envelope(out),
            Stage::Decide => self.decide(out),
            Stage::Body => {
                if self.encoder.fill(self.plan.message, out, BLOCK) {
                    out.extend_from_slice(b".\r\n");
                    self.awaited.push_back(Awaited::End);
                    self.stage = Stage::End;
                }
                Step::Send(Phase::DataBlock)
            }
            Stage::Chunks => {
                let mut chunk = Vec::with_capacity(CHUNK.min(self.plan.message.len()) + 64);
                let last = self.encoder.fill(self.plan.message, &mut chunk, CHUNK);
                Command::Bdat(chunk.len(), last).write(out);
                out.append(&mut chunk);
                self.awaited.push_back(if last { Awaited::End } else { Awaited::Chunk });
                if last {
                    self.stage = Stage::End;
                }
                Step::Send(Phase::DataBlock)
            }
            Stage::End | Stage::Finished => Step::Done,
        }
    }

    /// Takes the reply to the oldest command that has none.
    pub fn on_reply(&mut self, reply: Reply) {
        if reply.closes() {
            return self.end(Ending::Broken, Outcome::Closing(reply));
        }
        self.heard = true;
        match self.awaited.pop_front() {
            Some(Awaited::Mail) if reply.is_mail_action_done() => {}
            Some(Awaited::Mail) if reply.is_refusal() => {
                if self.pipelining {
                    self.mail_refused = Some(reply); // the answers to the rest of the group are still to come
                } else {
                    self.end(Ending::NeedsReset, Outcome::SenderRefused(reply));
                }
            }
            Some(Awaited::Rcpt) if reply.is_mail_action_done() || reply.is_refusal() => {
                self.recipients.push(reply);
            }
            Some(Awaited::Data) if reply.code() == 354 || reply.is_refusal() => self.data = Some(reply),
            Some(Awaited::Chunk) if reply.is_mail_action_done() => {}
            Some(Awaited::Chunk | Awaited::End) if self.chunking && matches!(reply.code(), 500 | 502) => {
                self.end(Ending::Broken, Outcome::ChunkingUnknown(reply));
            }
            Some(Awaited::Chunk) if reply.is_refusal() => {
                self.end(Ending::NeedsReset, Outcome::MessageRefused(reply));
            }
            Some(Awaited::End) if reply.is_mail_action_done() => {
                let recipients = std::mem::take(&mut self.recipients);
                self.end(Ending::Clean, Outcome::Taken { recipients, last: reply });
            }
            Some(Awaited::End) if reply.is_refusal() => {
                self.end(Ending::Clean, Outcome::MessageRefused(reply))
            }
            Some(Awaited::Abort) => self.refused(),
            Some(other) => {
                let command = match other {
                    Awaited::Mail => "MAIL",
                    Awaited::Rcpt => "RCPT",
                    Awaited::Data => "DATA",
                    Awaited::Chunk => "BDAT",
                    Awaited::End | Awaited::Abort => "the complete message",
                };
                let in_doubt = other == Awaited::End;
                self.end(Ending::Broken, Outcome::Unexpected { command, reply, in_doubt });
            }
            None => self.on_unasked_reply(reply),
        }
    }

    /// Takes a reply that came before what the driver had to write was written: while the message is under way it is a refusal ahead of
    /// time, elsewhere an answer to what was never asked. Nothing was taken.
    pub fn on_unasked_reply(&mut self, reply: Reply) {
        let outcome = if reply.closes() {
            Outcome::Closing(reply)
        } else if self.is_sending_data() && reply.is_refusal() {
            Outcome::MessageRefused(reply)
        } else {
            Outcome::Unexpected { command: "nothing that was asked", reply, in_doubt: false }
        };
        self.end(Ending::Broken, outcome);
    }

    /// Whether the message itself is under way.
    #[must_use]
    pub fn is_sending_data(&self) -> bool {
        matches!(self.stage, Stage::Body | Stage::Chunks | Stage::End)
    }

    /// Whether there is an outcome.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.stage == Stage::Finished
    }

    /// Whether the last bytes given to the driver complete the message: from their being written on, a missing answer leaves it in doubt.
    #[must_use]
    pub fn gave_the_end(&self) -> bool {
        self.stage == Stage::End
    }

    /// Whether any reply to this transaction was heard. A 421 in the place of the first one does not count: it was said to an idle
    /// connection.
    #[must_use]
    pub fn was_answered(&self) -> bool {
        self.heard
    }

    /// How it ended, and what the connection is good for; `None` while it is not done.
    #[must_use]
    pub fn finish(self) -> Option<(Outcome, Ending)> {
        self.outcome.map(|outcome| (outcome, self.ending))
    }

    fn envelope(&mut self, out: &mut Vec<u8>) -> Step {
        let count = self.plan.recipients.len();
        loop {
            match self.next.checked_sub(1).map(|n| &self.plan.recipients[n]) {
                None => {
                    Command::Mail(self.plan.sender, self.parameters).write(out);
                    self.awaited.push_back(Awaited::Mail);
                }
                Some(recipient) => {
                    let notify = self.plan.dsn.filter(|_| self.dsn).map(|dsn| dsn.notify);
                    Command::Rcpt(recipient, notify).write(out);
                    self.awaited.push_back(Awaited::Rcpt);
                }
            }
            self.next += 1;
            if self.next > count {
                self.stage = Stage::Decide;
                // DATA may end a group of commands (RFC 2920 3.1); BDAT waits, so that a refused envelope costs no data and a
                // lost connection leaves no doubt
                if self.pipelining && !self.chunking {
                    Command::Data.write(out);
                    self.awaited.push_back(Awaited::Data);
                }
                break;
            }
            if !self.pipelining {
                break;
            }
        }
        Step::Send(Phase::Mail)
    }

    /// All answers to the envelope are there.
    fn decide(&mut self, out: &mut Vec<u8>) -> Step {
        let anybody = self.mail_refused.is_none() && self.recipients.iter().any(Reply::is_mail_action_done);
        match (anybody, self.data.take()) {
            (true, None) if self.chunking => {
                self.stage = Stage::Chunks;
                self.poll(out)
            }
            (true, None) => {
                Command::Data.write(out);
                self.awaited.push_back(Awaited::Data);
                Step::Send(Phase::DataStart)
            }
            (true, Some(go)) if go.code() == 354 => {
                self.stage = Stage::Body;
                self.poll(out)
            }
            (true, Some(refusal)) => {
                self.end(Ending::NeedsReset, Outcome::MessageRefused(refusal));
                Step::Done
            }
            // the server waits for data although it refused everybody: an empty message, which it must refuse (RFC 2920 3.1)
            (false, Some(go)) if go.code() == 354 => {
                out.extend_from_slice(b".\r\n");
                self.awaited.push_back(Awaited::Abort);
                Step::Send(Phase::DataBlock)
            }
            (false, _) => {
                self.refused();
                Step::Done
            }
        }
    }

    fn refused(&mut self) {
        let outcome = match self.mail_refused.take() {
            Some(reply) => Outcome::SenderRefused(reply),
            None => Outcome::RecipientsRefused(std::mem::take(&mut self.recipients)),
        };
        self.end(Ending::NeedsReset, outcome);
    }

    fn end(&mut self, ending: Ending, outcome: Outcome) {
        self.stage = Stage::Finished;
        self.awaited.clear();
        self.ending = ending;
        self.outcome = Some(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ReplyReader;
    use super::*;
    use crate::DsnNotify;

    /// Plays a transcript: each `C:` line must be what the machine sends, in the same write as the `C:` lines around it; each `S:` line is
    /// a reply. What is left over on either side fails.
    fn play(plan: Plan<'_>, offered: &Capabilities, transcript: &str) -> (Outcome, Ending) {
        let mut machine = Transaction::new(plan, offered).unwrap();
        let mut reader = ReplyReader::default();
        let mut lines = transcript.lines().map(str::trim).filter(|l| !l.is_empty()).peekable();
        let mut out = Vec::new();
        loop {
            match machine.poll(&mut out) {
                Step::Send(_) => {
                    let mut expected = String::new();
                    while let Some(line) = lines.next_if(|l| l.starts_with("C:")) {
                        expected += line[2..].trim();
                        expected += "\r\n";
                    }
                    assert_eq!(String::from_utf8(std::mem::take(&mut out)).unwrap(), expected);
                }
                Step::Await(_) => loop {
                    if let Some(reply) = reader.next_reply().unwrap() {
                        machine.on_reply(reply);
                        break;
                    }
                    let line =
                        lines.next().and_then(|l| l.strip_prefix("S: ")).expect("the server has to speak");
                    reader.push(format!("{line}\r\n").as_bytes());
                },
                Step::Secure => unreachable!(),
                Step::Done => {
                    assert_eq!(lines.next(), None);
                    return machine.finish().unwrap();
                }
            }
        }
    }

    fn capabilities(words: &str) -> Capabilities {
        let mut reader = ReplyReader::default();
        reader.push(b"250-mail\r\n");
        for word in words.split_whitespace() {
            reader.push(format!("250-{}\r\n", word.replace('=', " ")).as_bytes());
        }
        reader.push(b"250 HELP\r\n");
        Capabilities::from_ehlo(&reader.next_reply().unwrap().unwrap())
    }

    fn addresses(list: &str) -> Vec<EmailAddress> {
        list.split_whitespace().map(|a| a.parse().unwrap()).collect()
    }

    fn plan<'a>(sender: &'a EmailAddress, recipients: &'a [EmailAddress], message: &'a [u8]) -> Plan<'a> {
        let shape = Shape::of(message);
        Plan {
            sender: Some(sender),
            recipients,
            message,
            shape,
            utf8_header: false,
            dsn: None,
            eight_bit_anyway: false,
        }
    }

    #[test]
    fn transcripts() {
        let envelope = "C: MAIL FROM:<a@x>\nC: RCPT TO:<b@y>\nC: RCPT TO:<c@y>\n";
        let table: &[(&str, &str, String, &str, Ending)] = &[
            (
                "pipelined, all taken",
                "PIPELINING",
                format!("{envelope}C: DATA\nS: 250 a\nS: 250 b\nS: 251 c\nS: 354 d\nC: ..hi\nC: .\nS: 250 queued"),
                "Taken 250,251 queued",
                Ending::Clean,
            ),
            (
                "one command at a time",
                "",
                "C: MAIL FROM:<a@x>\nS: 250 a\nC: RCPT TO:<b@y>\nS: 250 b\nC: RCPT TO:<c@y>\nS: 450 c\nC: DATA\nS: 354 d
                 C: ..hi\nC: .\nS: 250 queued"
                    .into(),
                "Taken 250,450 queued",
                Ending::Clean,
            ),
            (
                "chunking: no stuffing, the envelope is answered first",
                "PIPELINING CHUNKING",
                format!("{envelope}S: 250 a\nS: 250 b\nS: 550 c\nC: BDAT 5 LAST\nC: .hi\nS: 250 queued"),
                "Taken 250,550 queued",
                Ending::Clean,
            ),
            (
                "sender refused, pipelined",
                "PIPELINING",
                format!("{envelope}C: DATA\nS: 550 no\nS: 503 x\nS: 503 x\nS: 503 x"),
                "SenderRefused 550",
                Ending::NeedsReset,
            ),
            (
                "sender refused, the rest of the group accepted by a careless server",
                "PIPELINING",
                format!("{envelope}C: DATA\nS: 550 no\nS: 250 x\nS: 250 x\nS: 354 x\nC: .\nS: 554 empty"),
                "SenderRefused 550",
                Ending::NeedsReset,
            ),
            ("sender refused, one at a time", "", "C: MAIL FROM:<a@x>\nS: 451 no".into(), "SenderRefused 451", Ending::NeedsReset),
            (
                "all recipients refused, DATA refused too",
                "PIPELINING",
                format!("{envelope}C: DATA\nS: 250 a\nS: 550 b\nS: 450 c\nS: 554 no valid recipients"),
                "RecipientsRefused 550,450",
                Ending::NeedsReset,
            ),
            (
                "all recipients refused, DATA accepted: an empty message ends it (RFC 2920 3.1)",
                "PIPELINING",
                format!("{envelope}C: DATA\nS: 250 a\nS: 550 b\nS: 550 c\nS: 354 go\nC: .\nS: 250 never mind"),
                "RecipientsRefused 550,550",
                Ending::NeedsReset,
            ),
            (
                "all recipients refused, chunking: no data at all",
                "PIPELINING CHUNKING",
                format!("{envelope}S: 250 a\nS: 550 b\nS: 550 c"),
                "RecipientsRefused 550,550",
                Ending::NeedsReset,
            ),
            (
                "DATA refused",
                "PIPELINING",
                format!("{envelope}C: DATA\nS: 250 a\nS: 250 b\nS: 250 c\nS: 451 later"),
                "MessageRefused 451",
                Ending::NeedsReset,
            ),
            (
                "message refused at the end",
                "PIPELINING",
                format!("{envelope}C: DATA\nS: 250 a\nS: 250 b\nS: 250 c\nS: 354 go\nC: ..hi\nC: .\nS: 554 spam"),
                "MessageRefused 554",
                Ending::Clean,
            ),
            (
                "421 in the middle",
                "PIPELINING",
                format!("{envelope}C: DATA\nS: 250 a\nS: 421 bye"),
                "Closing 421",
                Ending::Broken,
            ),
            (
                "421 to the complete message is an answer: nothing was taken",
                "PIPELINING",
                format!("{envelope}C: DATA\nS: 250 a\nS: 250 b\nS: 250 c\nS: 354 go\nC: ..hi\nC: .\nS: 421 bye"),
                "Closing 421",
                Ending::Broken,
            ),
            (
                "250 to DATA",
                "PIPELINING",
                format!("{envelope}C: DATA\nS: 250 a\nS: 250 b\nS: 250 c\nS: 250 what"),
                "Unexpected DATA 250 false",
                Ending::Broken,
            ),
            (
                "220 to MAIL: a late greeting",
                "PIPELINING",
                format!("{envelope}C: DATA\nS: 220 hello"),
                "Unexpected MAIL 220 false",
                Ending::Broken,
            ),
            (
                "354 to RCPT",
                "PIPELINING",
                format!("{envelope}C: DATA\nS: 250 a\nS: 354 hm"),
                "Unexpected RCPT 354 false",
                Ending::Broken,
            ),
            (
                "354 to the complete message",
                "PIPELINING",
                format!("{envelope}C: DATA\nS: 250 a\nS: 250 b\nS: 250 c\nS: 354 go\nC: ..hi\nC: .\nS: 354 go on"),
                "Unexpected the complete message 354 true",
                Ending::Broken,
            ),
        ];
        let (sender, recipients) = ("a@x".parse().unwrap(), addresses("b@y c@y"));
        let codes =
            |replies: &[Reply]| replies.iter().map(|r| r.code().to_string()).collect::<Vec<_>>().join(",");
        for (name, offered, transcript, expected, ending) in table {
            let (outcome, left) =
                play(plan(&sender, &recipients, b".hi\n"), &capabilities(offered), transcript);
            let shown = match &outcome {
                Outcome::Taken { recipients, last } => {
                    format!("Taken {} {}", codes(recipients), last.lines()[0])
                }
                Outcome::SenderRefused(reply) => format!("SenderRefused {}", reply.code()),
                Outcome::RecipientsRefused(replies) => format!("RecipientsRefused {}", codes(replies)),
                Outcome::MessageRefused(reply) => format!("MessageRefused {}", reply.code()),
                Outcome::ChunkingUnknown(reply) => format!("ChunkingUnknown {}", reply.code()),
                Outcome::Closing(reply) => format!("Closing {}", reply.code()),
                Outcome::Unexpected { command, reply, in_doubt } => {
                    format!("Unexpected {command} {} {in_doubt}", reply.code())
                }
            };
            assert_eq!((shown.as_str(), left), (*expected, *ending), "{name}");
        }
    }

    #[test]
    fn parameters_only_where_offered() {
        let dsn = DsnRequest {
            notify: DsnNotify { failure: true, ..DsnNotify::default() },
            headers_only: false,
            envelope_id: Some("id1".into()),
        };
        let (sender, recipients) = ("a@x".parse().unwrap(), addresses("b@y"));
        let message = "Subject: ä\r\n\r\nü\r\n".as_bytes();
        let full = Plan { utf8_header: true, dsn: Some(&dsn), ..plan(&sender, &recipients, message) };
        let bare = Plan { eight_bit_anyway: true, utf8_header: false, ..full };
        for (offered, plan, mail, rcpt) in [
            (
                "SIZE PIPELINING 8BITMIME SMTPUTF8 DSN",
                full,
                "MAIL FROM:<a@x> SIZE=19 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=id1",
                "RCPT TO:<b@y> NOTIFY=FAILURE ORCPT=rfc822;b@y",
            ),
            ("PIPELINING", bare, "MAIL FROM:<a@x>", "RCPT TO:<b@y>"),
            ("PIPELINING SIZE=20", bare, "MAIL FROM:<a@x> SIZE=19", "RCPT TO:<b@y>"),
        ] {
            let mut out = Vec::new();
            Transaction::new(plan, &capabilities(offered)).unwrap().poll(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{mail}\r\n{rcpt}\r\nDATA\r\n"), "{offered}");
        }
    }

    #[test]
    fn obstacles() {
        let (sender, recipients) = ("a@x".parse().unwrap(), addresses("b@y"));
        let foreign = addresses("ü@y");
        let base = plan(&sender, &recipients, b"\xfc\n");
        let utf8 = Plan { utf8_header: true, ..base };
        let to_foreign = Plan { recipients: &foreign, ..base };
        for (offered, plan, expected) in [
            ("SIZE=2 8BITMIME", base, Some(Obstacle::TooLarge { limit: 2 })), // CRLF makes three of it
            ("SIZE=3 8BITMIME", base, None),
            ("SIZE=0 8BITMIME", base, None),
            ("", base, Some(Obstacle::NeedsEightBit)),
            ("", Plan { eight_bit_anyway: true, ..base }, None),
            ("8BITMIME", utf8, Some(Obstacle::HeaderNeedsUtf8)),
            ("8BITMIME", to_foreign, Some(Obstacle::AddressNeedsUtf8(foreign[0].clone()))),
            ("8BITMIME SMTPUTF8", to_foreign, None),
        ] {
            assert_eq!(Transaction::new(plan, &capabilities(offered)).err(), expected, "{offered}");
        }
    }

    /// Every chunk is answered before the next; only the last one says so.
    #[test]
    fn many_chunks() {
        let (sender, recipients) = ("a@x".parse().unwrap(), addresses("b@y"));
        let message = b"0123456789abcdef\r\n".repeat(CHUNK / 8);
        let mut machine =
            Transaction::new(plan(&sender, &recipients, &message), &capabilities("PIPELINING CHUNKING"))
                .unwrap();
        let (mut out, mut data, mut lasts) = (Vec::new(), Vec::new(), Vec::new());
        let mut replies = ReplyReader::default();
        loop {
            match machine.poll(&mut out) {
                Step::Send(_) => {
                    if out.starts_with(b"BDAT ") {
                        let end = out.iter().position(|&b| b == b'\n').unwrap() + 1;
                        let line = String::from_utf8(out[..end].to_vec()).unwrap();
                        let count: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
                        assert_eq!(out.len() - end, count);
                        data.extend_from_slice(&out[end..]);
                        lasts.push(line.contains("LAST"));
                        assert_eq!(machine.gave_the_end(), line.contains("LAST"));
                    }
                    out.clear();
                }
                Step::Await(_) => {
                    replies.push(b"250 ok\r\n");
                    machine.on_reply(replies.next_reply().unwrap().unwrap());
                }
                _ => break,
            }
        }
        assert_eq!(data, message);
        assert_eq!(lasts, [false, false, true]);
    }
}
