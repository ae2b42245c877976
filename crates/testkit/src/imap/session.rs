//! One session with a client.

use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::store::{Folder, Stored};
use super::words::{Word, set, split};
use super::{ImapOptions, State};
use crate::Io;

/// The challenge of CRAM-MD5.
const CHALLENGE: &str = "<1896.697170952@mail.example.com>";

/// When all messages came.
const DATE: &str = "17-Jul-2024 02:44:25 -0700";

pub(super) struct Session {
    options: Arc<ImapOptions>,
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
    io: Box<dyn Io>,
    input: Vec<u8>,
    out: Vec<u8>,
    encrypted: bool,
    born: usize,
    user: Option<String>,
    selected: Option<Selected>,
    utf8: bool,
}

/// The open folder as the client knows it: the UIDs by sequence number.
struct Selected {
    name: String,
    known: Vec<u32>,
    read_only: bool,
}

enum Then {
    Go,
    Tls,
    Login(String, Option<String>),
    Idle,
    Bye,
}

type Answer = Result<String, String>;

impl Session {
    pub(super) fn new(
        options: Arc<ImapOptions>,
        state: Arc<Mutex<State>>,
        changes: watch::Sender<u64>,
        io: Box<dyn Io>,
    ) -> Self {
        let encrypted = options.implicit_tls.is_some();
        let user = options.preauth.map(str::to_owned);
        let born = state.lock().expect("no session panicked").hung_up.0;
        Self {
            options,
            state,
            changes,
            io,
            input: Vec::new(),
            out: Vec::new(),
            encrypted,
            born,
            user,
            selected: None,
            utf8: false,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no session panicked")
    }

    pub(super) async fn run(mut self) {
        let told = match self.options.tells_capabilities {
            true => format!("[CAPABILITY {}] ", self.capabilities()),
            false => String::new(),
        };
        let greeting = if self.user.is_some() { "PREAUTH" } else { "OK" };
        self.say(&format!("* {greeting} {told}ready"));
        while let Some((line, literals)) = self.command_line().await {
            let shown = String::from_utf8_lossy(&line).replace('\n', "{}");
            let (tag, rest) = shown.split_once(' ').unwrap_or((shown.as_str(), ""));
            {
                let mut state = self.state();
                if state.hung_up.0 != self.born && rest.starts_with(&state.hung_up.1) {
                    return;
                }
                let with_literals = literals
                    .iter()
                    .fold(rest.to_owned(), |text, l| text.replacen("{}", &String::from_utf8_lossy(l), 1));
                state.commands.push(with_literals);
            }
            let begin = tag.len().min(line.len().saturating_sub(1)) + 1;
            let words = split(line.get(begin..).unwrap_or_default(), &literals);
            let (tag, rest) = (tag.to_owned(), rest.to_owned());
            let (answer, then) = match words {
                Some(words) if !words.is_empty() => self.command(&words, &rest),
                _ => (Err("BAD malformed".to_owned()), Then::Go),
            };
            let answer = answer.map_or_else(|refusal| refusal, |done| format!("OK {done}"));
            match then {
                Then::Login(mechanism, initial) => {
                    let Some(answer) = self.sasl(&mechanism, initial).await else { return };
                    self.say(&format!("{tag} {answer}"));
                }
                Then::Idle => {
                    let Some(answer) = self.idle().await else { return };
                    self.say(&format!("{tag} {answer}"));
                }
                Then::Go => {
                    self.sync();
                    self.say(&format!("{tag} {answer}"));
                }
                Then::Bye => {
                    self.say(&format!("{tag} {answer}"));
                    let _ = self.flush().await;
                    let _ = self.io.shutdown().await;
                    return;
                }
                Then::Tls => {
                    self.say(&format!("{tag} {answer}"));
                    if self.flush().await.is_none() || !self.input.is_empty() {
                        return;
                    }
                    let Some(acceptor) = self.options.starttls.clone() else { return };
                    let Ok(stream) = acceptor.accept(self.io).await else { return };
                    self.io = Box::new(stream);
                    self.encrypted = true;
                }
            }
        }
    }

    fn say(&mut self, line: &str) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self) -> Option<()> {
        self.io.write_all(&self.out).await.ok()?;
        self.io.flush().await.ok()?;
        self.out.clear();
        Some(())
    }

    async fn more(&mut self) -> Option<()> {
        self.flush().await?;
        let mut piece = vec![0; 16 * 1024];
        let count = self.io.read(&mut piece).await.ok().filter(|count| *count > 0)?;
        self.input.extend_from_slice(&piece[..count]);
        Some(())
    }

    async fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.input.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                return Some(line.trim_ascii_end().to_vec());
            }
            self.more().await?;
        }
    }

    /// A command with its literals, each of which became a line feed.
    async fn command_line(&mut self) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
        let (mut line, mut literals) = (self.line().await?, Vec::new());
        loop {
            let text = String::from_utf8_lossy(&line).into_owned();
            let Some((before, size)) = text.strip_suffix('}').and_then(|t| t.rsplit_once('{')) else {
                return Some((line, literals));
            };
            let at_once = size.ends_with('+');
            let Ok(size) = size.trim_end_matches('+').parse::<usize>() else { return Some((line, literals)) };
            if !at_once {
                self.say("+ go");
            } else if !self.options.literal_plus {
                return None;
            }
            while self.input.len() < size {
                self.more().await?;
            }
            literals.push(self.input.drain(..size).collect());
            line.truncate(before.len());
            line.push(b'\n');
            let rest = self.line().await?;
            line.extend_from_slice(&rest);
        }
    }

    fn capabilities(&self) -> String {
        let o = &self.options;
        let logged_in = self.user.is_some();
        let mut all = vec!["IMAP4rev1".to_owned()];
        let mut offer = |offered: bool, name: &str| {
            if offered {
                all.push(name.to_owned());
            }
        };
        offer(o.sasl_ir, "SASL-IR");
        offer(o.literal_plus, "LITERAL+");
        offer(o.starttls.is_some() && !self.encrypted && !logged_in, "STARTTLS");
        offer(!o.login && !logged_in, "LOGINDISABLED");
        for mechanism in o.sasl.iter().filter(|_| !logged_in) {
            offer(true, &format!("AUTH={mechanism}"));
        }
        offer(logged_in && o.uidplus, "UIDPLUS");
        offer(logged_in && o.moves, "MOVE");
        offer(logged_in && o.idle, "IDLE");
        offer(logged_in && o.condstore, "CONDSTORE");
        offer(logged_in && o.esearch, "ESEARCH");
        offer(logged_in && o.namespace.is_some(), "NAMESPACE");
        offer(logged_in && o.special_use, "SPECIAL-USE");
        offer(logged_in && o.special_use, "LIST-EXTENDED");
        offer(logged_in && !o.special_use, "XLIST");
        offer(logged_in && o.utf8, "ENABLE");
        offer(logged_in && o.utf8, "UTF8=ACCEPT");
        all.join(" ")
    }

    fn done_login(&mut self, name: &str, good: impl FnOnce(&str) -> bool) -> String {
        let right = self.state().passwords.get(name).is_some_and(|stored| good(stored));
        if !right {
            return "NO [AUTHENTICATIONFAILED] wrong name or password".to_owned();
        }
        self.state().logins += 1;
        self.user = Some(name.to_owned());
        match self.options.tells_capabilities {
            true => format!("OK [CAPABILITY {}] logged in", self.capabilities()),
            false => "OK logged in".to_owned(),
        }
    }

    async fn sasl(&mut self, mechanism: &str, initial: Option<String>) -> Option<String> {
        let prompts: &[&str] = match mechanism {
            "LOGIN" => &["Username:", "Password:"],
            "CRAM-MD5" => &[CHALLENGE],
            _ => &[""],
        };
        let mut initial = initial;
        let mut answers = Vec::new();
        for prompt in prompts {
            let answer = match initial.take() {
                Some(given) => given.into_bytes(),
                None => {
                    self.say(&format!("+ {}", BASE64_STANDARD.encode(prompt)));
                    self.line().await?
                }
            };
            match BASE64_STANDARD.decode(&answer) {
                Ok(bytes) => answers.push(String::from_utf8_lossy(&bytes).into_owned()),
                Err(_) => return Some("BAD cancelled".to_owned()),
            }
        }
        Some(match mechanism {
            "LOGIN" => {
                let password = answers[1].clone();
                self.done_login(&answers[0], |stored| stored == password)
            }
            "CRAM-MD5" => {
                let (name, digest) = answers[0].rsplit_once(' ').unwrap_or(("", ""));
                self.done_login(name, |stored| {
                    let mut mac =
                        <Hmac<Md5> as KeyInit>::new_from_slice(stored.as_bytes()).expect("any key length");
                    mac.update(CHALLENGE.as_bytes());
                    let due: String =
                        mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
                    due == digest
                })
            }
            _ => match answers[0].split('\0').collect::<Vec<_>>().as_slice() {
                [_, name, password] => self.done_login(name, |stored| stored == *password),
                _ => "NO malformed".to_owned(),
            },
        })
    }

    async fn idle(&mut self) -> Option<String> {
        self.say("+ idling");
        let mut changes = self.changes.subscribe();
        loop {
            self.sync();
            self.flush().await?;
            if self.input.contains(&b'\n') {
                let line = self.line().await?;
                let done = line.eq_ignore_ascii_case(b"DONE");
                return Some(if done { "OK done".to_owned() } else { "BAD DONE was due".to_owned() });
            }
            let mut piece = vec![0; 1024];
            tokio::select! {
                read = self.io.read(&mut piece) => {
                    let count = read.ok().filter(|count| *count > 0)?;
                    self.input.extend_from_slice(&piece[..count]);
                }
                changed = changes.changed() => changed.ok()?,
            }
        }
    }

    /// Tells the client what changed in its folder.
    fn sync(&mut self) {
        let Some(mut selected) = self.selected.take() else { return };
        let now: Vec<u32> = self
            .with_folder(&selected.name, |f| f.messages.iter().map(|m| m.uid).collect())
            .unwrap_or_default();
        let before = selected.known.len();
        for at in (0..before).rev() {
            if !now.contains(&selected.known[at]) {
                selected.known.remove(at);
                self.say(&format!("* {} EXPUNGE", at + 1));
            }
        }
        if now.len() != selected.known.len() {
            self.say(&format!("* {} EXISTS", now.len()));
        }
        selected.known = now;
        self.selected = Some(selected);
    }

    fn with_folder<T>(&self, name: &str, work: impl FnOnce(&mut Folder) -> T) -> Option<T> {
        let user = self.user.clone()?;
        self.state().accounts.get_mut(&user)?.get_mut(name).map(work)
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    fn command(&mut self, words: &[Word], line: &str) -> (Answer, Then) {
        let verb = words[0].text().to_ascii_uppercase();
        let text = |n: usize| words.get(n).map(Word::text).unwrap_or_default();
        let bad = || (Err("BAD not now, or malformed".to_owned()), Then::Go);
        let go = |answer: Answer| (answer, Then::Go);
        match (verb.as_str(), self.user.is_some(), self.selected.is_some()) {
            ("CAPABILITY", ..) => {
                self.say(&format!("* CAPABILITY {}", self.capabilities()));
                go(Ok("done".to_owned()))
            }
            ("NOOP", ..) => go(Ok("done".to_owned())),
            ("LOGOUT", ..) => {
                self.say("* BYE until soon");
                (Ok("bye".to_owned()), Then::Bye)
            }
            ("STARTTLS", false, _) if self.options.starttls.is_some() && !self.encrypted => {
                (Ok("begin".to_owned()), Then::Tls)
            }
            ("AUTHENTICATE", false, _) => {
                let wanted = text(1).to_ascii_uppercase();
                let initial = words.get(2).map(Word::text).map(|t| if t == "=" { String::new() } else { t });
                if !self.options.sasl.contains(&wanted.as_str())
                    || (initial.is_some() && !self.options.sasl_ir)
                {
                    return bad();
                }
                (Ok(String::new()), Then::Login(wanted, initial))
            }
            ("LOGIN", false, _) if self.options.login => {
                let (name, password) = (text(1), text(2));
                let answer = self.done_login(&name, |stored| stored == password);
                (Err(answer), Then::Go)
            }
            ("ENABLE", true, _) if self.options.utf8 => {
                self.utf8 = line.to_ascii_uppercase().contains("UTF8=ACCEPT");
                self.say("* ENABLED UTF8=ACCEPT");
                go(Ok("done".to_owned()))
            }
            ("NAMESPACE", true, _) if self.options.namespace.is_some() => {
                let prefix = self.options.namespace.unwrap_or_default();
                self.say(&format!("* NAMESPACE ((\"{prefix}\" \"{}\")) NIL NIL", self.options.delimiter));
                go(Ok("done".to_owned()))
            }
            ("LIST" | "XLIST" | "LSUB", true, _) => go(self.list(&verb, words)),
            ("SELECT" | "EXAMINE", true, _) => go(self.select(&verb, &text(1))),
            ("CREATE", true, _) => go(self.create(&text(1))),
            ("SUBSCRIBE", true, _) => go(match self.with_folder(&text(1), |f| f.subscribed = true) {
                Some(()) => Ok("done".to_owned()),
                None => Err("NO [NONEXISTENT] no such folder".to_owned()),
            }),
            ("APPEND", true, _) => {
                let Some(Word::Text(bytes)) = words.last() else { return bad() };
                let appended = self.with_folder(&text(1), |f| f.append(bytes.clone()));
                self.changed();
                go(appended
                    .map(|_| "done".to_owned())
                    .ok_or_else(|| "NO [TRYCREATE] no such folder".to_owned()))
            }
            ("IDLE", true, _) if self.options.idle => (Ok(String::new()), Then::Idle),
            ("CLOSE", true, true) => {
                let _ = self.expunge(None);
                self.selected = None;
                go(Ok("done".to_owned()))
            }
            ("EXPUNGE", true, true) => go(self.expunge(None)),
            ("UID", true, true) => go(self.numbered(&text(1).to_ascii_uppercase(), &words[1..], true)),
            ("SEARCH" | "FETCH" | "STORE" | "COPY" | "MOVE", true, true) => {
                go(self.numbered(&verb, words, false))
            }
            _ => bad(),
        }
    }

    fn list(&mut self, verb: &str, words: &[Word]) -> Answer {
        let pattern = words.get(2).map(Word::text).unwrap_or_default();
        let delimiter = match self.options.delimiter {
            '\\' => "\\\\".to_owned(),
            c => c.to_string(),
        };
        if pattern.is_empty() {
            self.say(&format!("* {verb} (\\Noselect) \"{delimiter}\" \"\""));
            return Ok("done".to_owned());
        }
        let special = verb == "XLIST" || (self.options.special_use && words.len() > 3);
        let user = self.user.clone().unwrap_or_default();
        let folders: Vec<(String, Option<&str>)> =
            self.state().accounts[&user].iter().map(|(n, f)| (n.clone(), f.special)).collect();
        for (name, attribute) in folders {
            if pattern != "*" && pattern != name {
                continue;
            }
            let attribute = attribute.filter(|_| special).map(|a| format!(" {a}")).unwrap_or_default();
            let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
            self.say(&format!("* {verb} (\\HasNoChildren{attribute}) \"{delimiter}\" \"{quoted}\""));
        }
        Ok("done".to_owned())
    }

    fn select(&mut self, verb: &str, name: &str) -> Answer {
        self.selected = None;
        let name = if name.eq_ignore_ascii_case("INBOX") { "INBOX" } else { name };
        let Some(folder) = self.with_folder(name, |f| f.clone()) else {
            return Err("NO [NONEXISTENT] no such folder".to_owned());
        };
        let known: Vec<u32> = folder.messages.iter().map(|m| m.uid).collect();
        self.say("* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)");
        self.say(&format!("* {} EXISTS", known.len()));
        self.say("* 0 RECENT");
        self.say(&format!("* OK [UIDVALIDITY {}] UIDs valid", folder.validity));
        self.say(&format!("* OK [UIDNEXT {}] next", folder.uid_next));
        if self.options.condstore {
            self.say(&format!("* OK [HIGHESTMODSEQ {}] highest", folder.modseq));
        }
        let read_only = verb == "EXAMINE";
        self.selected = Some(Selected { name: name.to_owned(), known, read_only });
        Ok(format!("[{}] opened", if read_only { "READ-ONLY" } else { "READ-WRITE" }))
    }

    fn create(&mut self, name: &str) -> Answer {
        let user = self.user.clone().unwrap_or_default();
        let mut state = self.state();
        if name.is_empty() || state.accounts[&user].contains_key(name) {
            return Err("NO [ALREADYEXISTS] there is such a folder".to_owned());
        }
        if self.options.namespace.is_some_and(|prefix| !name.starts_with(prefix)) {
            return Err("NO [CANNOT] not in your namespace".to_owned());
        }
        state.next_validity += 1;
        let folder = Folder::new(state.next_validity, None);
        state.accounts.get_mut(&user).expect("a known user").insert(name.to_owned(), folder);
        Ok("created".to_owned())
    }

    fn expunge(&mut self, only: Option<&[u32]>) -> Answer {
        let Some(selected) = &self.selected else { return Err("BAD nothing is open".to_owned()) };
        if selected.read_only {
            return Err("NO [READ-ONLY] not here".to_owned());
        }
        self.with_folder(&selected.name, |folder| {
            folder.remove(|m| m.flags.contains("\\Deleted") && only.is_none_or(|uids| uids.contains(&m.uid)));
        });
        self.changed();
        Ok("done".to_owned())
    }

    /// The commands about messages, by UID or by sequence number.
    fn numbered(&mut self, verb: &str, words: &[Word], by_uid: bool) -> Answer {
        let Some(selected) = &self.selected else { return Err("BAD nothing is open".to_owned()) };
        let (name, known, read_only) = (selected.name.clone(), selected.known.clone(), selected.read_only);
        if verb == "SEARCH" {
            return self.search(&name, &words[1..], by_uid);
        }
        let wanted = words.get(1).map(Word::text).unwrap_or_default();
        let numbers: Vec<u32> = (1..).take(known.len()).collect();
        let uids: Vec<u32> = match by_uid {
            true => set(&wanted, &known),
            false => set(&wanted, &numbers).iter().map(|n| known[*n as usize - 1]).collect(),
        };
        let found: Vec<(usize, Stored)> = self
            .with_folder(&name, |f| f.messages.clone())
            .unwrap_or_default()
            .into_iter()
            .filter(|m| uids.contains(&m.uid))
            .filter_map(|m| known.iter().position(|uid| *uid == m.uid).map(|at| (at + 1, m)))
            .collect();
        let present: Vec<u32> = found.iter().map(|(_, m)| m.uid).collect();
        let changes = matches!(verb, "STORE" | "MOVE" | "EXPUNGE");
        if read_only && changes {
            return Err("NO [READ-ONLY] not here".to_owned());
        }
        let target = words.get(2).map(Word::text).unwrap_or_default();
        match verb {
            "FETCH" => self.fetch(&name, &found, words.get(2), by_uid, read_only),
            "STORE" => {
                let what = target.to_ascii_uppercase();
                let flags = words.get(3).map(Word::all).unwrap_or_default();
                self.with_folder(&name, |f| f.set_flags(&present, !what.starts_with('-'), &flags));
                self.changed();
                Ok("done".to_owned())
            }
            "EXPUNGE" if by_uid && self.options.uidplus => self.expunge(Some(&uids)),
            "COPY" | "MOVE" if verb == "COPY" || self.options.moves => {
                let copied = self.with_folder(&target, |f| {
                    for (_, message) in &found {
                        f.append_with(Arc::clone(&message.bytes), message.flags.clone());
                    }
                });
                if copied.is_none() {
                    return Err("NO [TRYCREATE] no such folder".to_owned());
                }
                if verb == "MOVE" {
                    self.with_folder(&name, |f| f.remove(|m| present.contains(&m.uid)));
                }
                self.changed();
                Ok("done".to_owned())
            }
            _ => Err("BAD unknown command".to_owned()),
        }
    }

    fn search(&mut self, name: &str, words: &[Word], by_uid: bool) -> Answer {
        let extended = words.first().is_some_and(|w| w.text().eq_ignore_ascii_case("RETURN"));
        if extended && !self.options.esearch {
            return Err("BAD no ESEARCH".to_owned());
        }
        let criteria: Vec<String> =
            words.iter().skip(if extended { 2 } else { 0 }).map(|w| w.text().to_ascii_uppercase()).collect();
        let known = self.selected.as_ref().map(|s| s.known.clone()).unwrap_or_default();
        let messages = self.with_folder(name, |f| f.messages.clone()).unwrap_or_default();
        let mut found = Vec::new();
        for message in &messages {
            let Some(at) = known.iter().position(|uid| *uid == message.uid) else { continue };
            let mut holds = true;
            for criterion in &criteria {
                holds &= match criterion.as_str() {
                    "ALL" => true,
                    "DELETED" => message.flags.contains("\\Deleted"),
                    "UNDELETED" => !message.flags.contains("\\Deleted"),
                    "SEEN" => message.flags.contains("\\Seen"),
                    "UNSEEN" => !message.flags.contains("\\Seen"),
                    _ => return Err(format!("BAD unknown criterion {criterion}")),
                };
            }
            if holds {
                found.push(if by_uid { message.uid } else { u32::try_from(at + 1).expect("few messages") });
            }
        }
        let numbers: Vec<String> = found.iter().map(u32::to_string).collect();
        let answer = match (extended, numbers.is_empty()) {
            (true, true) => "* ESEARCH UID".to_owned(),
            (true, false) => format!("* ESEARCH UID ALL {}", numbers.join(",")),
            (false, true) => "* SEARCH".to_owned(),
            (false, false) => format!("* SEARCH {}", numbers.join(" ")),
        };
        self.say(&answer);
        Ok("done".to_owned())
    }

    fn fetch(
        &mut self,
        name: &str,
        found: &[(usize, Stored)],
        items: Option<&Word>,
        by_uid: bool,
        read_only: bool,
    ) -> Answer {
        let Some(items) = items else { return Err("BAD fetch what?".to_owned()) };
        let mut items: Vec<String> = items.all().iter().map(|i| i.to_ascii_uppercase()).collect();
        if by_uid && !items.iter().any(|i| i == "UID") {
            items.insert(0, "UID".to_owned());
        }
        for (number, message) in found {
            let mut line = format!("* {number} FETCH (").into_bytes();
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    line.push(b' ');
                }
                if !self.item(name, message, item, read_only, &mut line) {
                    return Err(format!("BAD unknown item {item}"));
                }
            }
            line.push(b')');
            self.out.extend_from_slice(&line);
            self.out.extend_from_slice(b"\r\n");
        }
        Ok("done".to_owned())
    }

    fn item(&self, name: &str, message: &Stored, item: &str, read_only: bool, line: &mut Vec<u8>) -> bool {
        let flags = || message.flags.iter().cloned().collect::<Vec<_>>().join(" ");
        let simple = match item {
            "UID" => Some(format!("UID {}", message.uid)),
            "FLAGS" => Some(format!("FLAGS ({})", flags())),
            "RFC822.SIZE" => Some(format!("RFC822.SIZE {}", message.bytes.len())),
            "INTERNALDATE" => Some(format!("INTERNALDATE \"{DATE}\"")),
            "MODSEQ" => Some(format!("MODSEQ ({})", message.modseq)),
            _ => None,
        };
        if let Some(simple) = simple {
            line.extend_from_slice(simple.as_bytes());
            return true;
        }
        let (peek, section, shown) = match item {
            "RFC822" => (false, "", item.to_owned()),
            "RFC822.HEADER" => (true, "HEADER", item.to_owned()),
            _ => {
                let peek = item.starts_with("BODY.PEEK[");
                let inner = item.strip_prefix("BODY.PEEK[").or_else(|| item.strip_prefix("BODY["));
                let Some(section) = inner.and_then(|i| i.strip_suffix(']')) else { return false };
                (peek, section, format!("BODY[{section}]"))
            }
        };
        let header = header_length(&message.bytes);
        let bytes = match section {
            "" => &message.bytes[..],
            "HEADER" => &message.bytes[..header],
            "TEXT" => &message.bytes[header..],
            _ => return false,
        };
        if !peek && !read_only {
            self.with_folder(name, |f| f.set_flags(&[message.uid], true, &["\\Seen".to_owned()]));
        }
        line.extend_from_slice(format!("{shown} {{{}}}\r\n", bytes.len()).as_bytes());
        line.extend_from_slice(bytes);
        true
    }
}

/// The header section with the empty line after it.
fn header_length(message: &[u8]) -> usize {
    let mut at = 0;
    for line in message.split_inclusive(|b| *b == b'\n') {
        at += line.len();
        if line.trim_ascii_end().is_empty() {
            break;
        }
    }
    at
}
