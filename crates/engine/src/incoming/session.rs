//! One open mailbox: list, read, have the messages worked on, record, dispose of them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use email_router_model::{Classified as _, MailboxKind, RemoteId, Retry, Scope, Timestamp};
use email_router_transport::{Capability, Disposition, ErrorKind as TransportErrorKind, Inbox, Part, Stub};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::claims::Claims;
use super::desk::{Candidate, Desk, Job, View, Work};
use super::team::{Done, Ended, Team};
use super::{
    FIRST_RETRY, IncomingParts, PassReport, RENEW_AGAIN, Routed, WINDOW, message_span, tell, transport_kind,
};
use crate::decide::OrganizationView;
use crate::message::Message;
use crate::ports::{DecisionNote, Event, SeenMessage, Settled};
use crate::record::Verdict;
use crate::router::{IncomingRoute, backoff};
use crate::{Error, ErrorKind, KeepDecisions, Result};

/// One open mailbox.
pub(super) struct Session<'a> {
    pub(super) parts: &'a IncomingParts,
    pub(super) route: &'a IncomingRoute,
    pub(super) view: View<'a>,
    /// When the view was read in the middle of this pass.
    pub(super) renewed: Option<Instant>,
    pub(super) capability: Capability,
    pub(super) inbox: &'a mut dyn Inbox,
    pub(super) report: &'a mut PassReport,
    /// Deleted or moved in this session; certain when it is closed.
    pub(super) removed: Vec<RemoteId>,
}

/// What was read of a message first.
enum First {
    /// The header section, which may settle it, once it is its turn.
    Headers(Message),
    All(Reading),
}

/// How reading a message ended.
enum Reading {
    /// There is nothing more to do about it.
    Ended(Ended),
    /// It is to be worked on.
    Whole(Message),
}

/// What a window has come to.
#[derive(Default)]
struct Outcome {
    settled: Vec<Settled>,
    notes: Vec<DecisionNote>,
    /// Messages whose attempt did not begin.
    untouched: HashSet<RemoteId>,
    /// What ends the pass, and with which messages.
    broken: Vec<(RemoteId, u32, Error)>,
}

impl<'a> Session<'a> {
    pub(super) async fn route_all(&mut self, stop: &watch::Receiver<bool>) -> Result<()> {
        self.still_served()?;
        let mailbox = &self.route.mailbox.id;
        let forgotten = self.parts.state.read_from(mailbox, &self.route.source).await?;
        if forgotten > 0 {
            tracing::warn!(
                %mailbox, source = self.route.source, forgotten,
                "the mailbox is read from another place than before, so what was remembered of its messages is forgotten; what the CRM has already is not delivered again"
            );
        }
        let mut left = self.route.settings.max_messages_per_cycle.max(1);
        let mut listed = Vec::new();
        loop {
            let (stubs, complete) = self.list().await?;
            self.report.listed += stubs.len() as u64;
            listed.extend(stubs.iter().map(|s| s.id.clone()));
            if complete {
                self.parts.state.forget_absent(mailbox, &listed).await?;
            }
            let mut candidates = self.candidates(stubs).await?;
            self.report.backlog += candidates.len() as u64;
            candidates.truncate(left);
            left -= candidates.len();
            if !candidates.is_empty() {
                self.route_candidates(candidates, stop).await?;
            }
            if complete || *stop.borrow() {
                return Ok(());
            }
            if left == 0 {
                // nobody knows how many there are, but that there are more
                self.report.backlog = self.report.backlog.max(1);
                return Ok(());
            }
        }
    }

    /// The next messages, and whether these are the last: all of them, or where each costs a read no more than are worked on together, so
    /// that a mailbox too large to be listed in one pass gets on all the same.
    async fn list(&mut self) -> Result<(Vec<Stub>, bool)> {
        let costly = self.capability.costly_listing;
        let mut stubs = Vec::new();
        while !costly || stubs.len() < WINDOW {
            let Some(mut stub) = self.inbox.next().await? else { return Ok((stubs, true)) };
            if !costly {
                // a whole mailbox of header sections would be too much
                stub.headers = None;
            }
            stubs.push(stub);
        }
        Ok((stubs, false))
    }

    /// Those that are to be routed now; what is settled already is disposed of.
    async fn candidates(&mut self, stubs: Vec<Stub>) -> Result<Vec<Candidate>> {
        if stubs.is_empty() {
            return Ok(Vec::new());
        }
        // Where an id may name another message in the next session, what was noted about it says nothing about this one; then the CRM
        // alone tells what was delivered before.
        let seen = match self.capability.stable_ids {
            true => {
                let ids: Vec<RemoteId> = stubs.iter().map(|s| s.id.clone()).collect();
                self.parts.state.seen(&self.route.mailbox.id, &ids).await?
            }
            false => vec![None; stubs.len()],
        };
        let now = self.parts.clock.now();
        let mut candidates = Vec::new();
        for (stub, seen) in stubs.into_iter().zip(seen) {
            match seen {
                Some(SeenMessage { settled: Some(settled), .. }) => self.dispose_again(&settled).await?,
                Some(SeenMessage { not_before: Some(not_before), .. }) if not_before > now => {
                    self.report.deferred += 1
                }
                seen => candidates.push(self.candidate(stub, seen.as_ref())),
            }
        }
        Ok(candidates)
    }

    async fn route_candidates(
        &mut self,
        candidates: Vec<Candidate>,
        stop: &watch::Receiver<bool>,
    ) -> Result<()> {
        let mailbox = &self.route.mailbox.id;
        let threshold = self.parts.state.threshold(mailbox).await?.max(self.route.settings.process_from);
        let mut windows = windows(candidates).into_iter().peekable();
        if let Some(first) = windows.peek() {
            self.inbox.prefetch(&wanted(first)).await?;
        }
        while let Some(window) = windows.next() {
            if *stop.borrow() {
                break;
            }
            // The next window is asked for before this one is worked on, so that the line is never silent. A hint touches nothing: work
            // on a message begins when its attempt is noted.
            if let Some(next) = windows.peek() {
                self.inbox.prefetch(&wanted(next)).await?;
            }
            self.route_window(window, threshold, stop).await?;
        }
        Ok(())
    }

    fn candidate(&self, stub: Stub, seen: Option<&SeenMessage>) -> Candidate {
        let (attempts, tried) = (seen.map_or(0, |s| s.attempts), seen.is_some());
        let large = stub.size.is_none_or(|size| size > self.route.settings.header_first_above);
        // of a wrapper the header section tells nothing about the message inside
        let wrapper = self.route.mailbox.kind == MailboxKind::Forward;
        // what is no e-mail is refused for its class, whatever its size
        let classes = &self.view.settings().tracked_message_classes;
        let other =
            stub.message_class.as_ref().is_some_and(|c| !classes.iter().any(|t| t.eq_ignore_ascii_case(c)));
        let part = if (large || other) && self.capability.headers_alone && !wrapper {
            Part::Headers
        } else {
            Part::Whole
        };
        Candidate { stub, attempts, tried, part }
    }

    /// Whether a message is worked on alone: one that was begun before may be what ended the process, a wrapper holds who knows what, and
    /// one of unknown size may be large.
    fn is_alone(&self, candidate: &Candidate) -> bool {
        candidate.attempts > 0
            || candidate.stub.size.is_none()
            || self.route.mailbox.kind == MailboxKind::Forward
    }

    async fn route_window(
        &mut self,
        window: Vec<Candidate>,
        threshold: Option<Timestamp>,
        stop: &watch::Receiver<bool>,
    ) -> Result<()> {
        let mailbox = self.route.mailbox.id.clone();
        let ids: Vec<RemoteId> = window.iter().map(|c| c.stub.id.clone()).collect();
        self.parts.state.begin(&mailbox, &ids, self.parts.clock.now()).await?;
        let mut outcome = Outcome { untouched: ids.into_iter().collect(), ..Outcome::default() };
        let mut team = Team::default();
        for candidate in window {
            let (alone, bytes) = (self.is_alone(&candidate), candidate.stub.size.unwrap_or(0));
            while (alone && !team.is_idle()) || !team.has_room(bytes) {
                self.wait(&mut team, &mut outcome).await;
            }
            // after an error of the mailbox every further call fails, and no other message is to blame for that
            if *stop.borrow() || team.is_failing() || !outcome.broken.is_empty() {
                break;
            }
            let span = message_span(&mailbox, Some(&candidate.stub.id));
            let mut job = Job::new(candidate);
            // boxed, as below: these futures are large, and would be copied from frame to frame
            let first = Box::pin(self.read(&mut job, threshold)).instrument(span.clone());
            let reading = match team.meanwhile(first).await {
                Ok(First::All(reading)) => Ok(reading),
                Ok(First::Headers(message)) => {
                    self.wait_for_turn(&mut team, &mut outcome, &message).await;
                    if !outcome.broken.is_empty() {
                        break;
                    }
                    let judging = Box::pin(self.judge_headers(&mut job, &message, threshold));
                    team.meanwhile(judging.instrument(span.clone())).await
                }
                Err(error) => Err(error),
            };
            // what was listed of its size need not be true
            let bytes = job.read.bytes();
            match reading {
                Ok(Reading::Whole(message)) => {
                    let claims = self.wait_for_turn(&mut team, &mut outcome, &message).await;
                    if !outcome.broken.is_empty() {
                        break;
                    }
                    team.start(claims, bytes, work(self.desk(), job, message, span));
                }
                Ok(Reading::Ended(ended)) => team.ended(bytes, Done::new(job, Ok(ended), span)),
                Err(error) => team.ended(bytes, Done::new(job, Err(error), span)),
            }
            Box::pin(self.hand_back(&mut team, &mut outcome)).await;
            while alone && !team.is_idle() {
                self.wait(&mut team, &mut outcome).await;
            }
        }
        // what is in flight is finished, whatever ended the window
        while !team.is_idle() {
            self.wait(&mut team, &mut outcome).await;
        }
        self.record(outcome).await
    }

    /// Waits until nothing is worked on that a message is tied to.
    async fn wait_for_turn(
        &mut self,
        team: &mut Team<'a>,
        outcome: &mut Outcome,
        message: &Message,
    ) -> Claims {
        let claims = Claims::of(&self.parts.decider, &self.view, message);
        while !team.allows(&claims) {
            self.wait(team, outcome).await;
        }
        claims
    }

    /// Waits until one more message has ended, and deals with those whose turn it is.
    async fn wait(&mut self, team: &mut Team<'a>, outcome: &mut Outcome) {
        team.one_more().await;
        Box::pin(self.hand_back(team, outcome)).await;
    }

    async fn hand_back(&mut self, team: &mut Team<'a>, outcome: &mut Outcome) {
        while let Some(Done { job, result, elapsed, span }) = team.next() {
            let ended = Box::pin(async {
                let routed = match result {
                    Ok(Ended::Routed(routed)) => Ok(Some(routed)),
                    Ok(Ended::Gone) => Ok(None),
                    Ok(Ended::ViewOutdated(message)) => {
                        self.work_again(&job, &message).await.and_then(Work::decided).map(Some)
                    }
                    Err(error) => Err(error),
                };
                self.finish(&job, routed, elapsed).await
            });
            // the others go on while the state is written
            match team.meanwhile(ended.instrument(span)).await {
                Ok(settled) => {
                    outcome.untouched.remove(&job.candidate.stub.id);
                    if let Some((end, note)) = settled {
                        outcome.settled.push(end);
                        outcome.notes.push(note);
                    }
                }
                Err(error) => outcome.broken.push((job.candidate.stub.id.clone(), job.attempts(), error)),
            }
            team.settled();
        }
    }

    /// Records what a window came to: what is done, and that what was not touched gets its attempt back. The reasons come first: a crash
    /// in between has them twice rather than not at all.
    async fn record(&mut self, outcome: Outcome) -> Result<()> {
        let mailbox = self.route.mailbox.id.clone();
        let Outcome { settled, notes, mut untouched, broken } = outcome;
        if self.route.settings.decisions != KeepDecisions::None && !notes.is_empty() {
            self.parts.state.note_decisions(&notes).await?;
        }
        self.parts.state.settle(&mailbox, &settled).await?;
        self.report.processed += settled.len() as u64;
        self.report.backlog = self.report.backlog.saturating_sub(settled.len() as u64);
        for (id, attempts, error) in &broken {
            self.note_break(id, *attempts, error, &mut untouched).await?;
        }
        let untouched: Vec<RemoteId> = untouched.into_iter().collect();
        if !untouched.is_empty() {
            self.parts.state.unbegin(&mailbox, &untouched).await?;
        }
        // the first is the cause, where the others are its doing
        if let Some((.., error)) = broken.into_iter().next() {
            return Err(error);
        }
        for end in &settled {
            self.dispose_again(end).await?;
        }
        Ok(())
    }

    /// Notes at the message in hand that the pass ended with it.
    ///
    /// A session that breaks while a message is read may break because of that message: the attempt counts and the next one waits, so
    /// that a message on which the server always hangs up does not keep the others from being read. When the CRM fails the message is
    /// not to blame; the note only says that it may have been delivered although no answer came.
    async fn note_break(
        &mut self,
        id: &RemoteId,
        attempts: u32,
        error: &Error,
        untouched: &mut HashSet<RemoteId>,
    ) -> Result<()> {
        let not_before = match error.kind() {
            ErrorKind::Transport if breaks_session(error) => {
                untouched.remove(id);
                self.report.deferred += 1;
                self.report.backlog = self.report.backlog.saturating_sub(1);
                self.retry_at(error, attempts)
            }
            ErrorKind::Crm => self.parts.clock.now(),
            _ => return Ok(()),
        };
        self.parts.state.note_failure(&self.route.mailbox.id, id, &error.to_string(), not_before).await?;
        Ok(())
    }

    /// When a message that failed for the `attempts`-th time is tried again.
    fn retry_at(&self, error: &Error, attempts: u32) -> Timestamp {
        let delay = backoff::delay(error, attempts, FIRST_RETRY, &*self.parts.entropy);
        self.parts.clock.now().saturating_add(delay).unwrap_or(Timestamp::MAX)
    }

    /// What became of a message: how it is recorded, or `None` where there is nothing to record. An error returned ends the pass; whatever
    /// concerns the message alone is dealt with here.
    async fn finish(
        &mut self,
        job: &Job,
        routed: Result<Option<Routed>>,
        elapsed: Duration,
    ) -> Result<Option<(Settled, DecisionNote)>> {
        let Routed { record, corrupt } = match routed {
            Ok(Some(routed)) => routed,
            Ok(None) => {
                tracing::debug!("the message is gone from its mailbox; somebody else took it");
                // nothing to remember
                self.report.backlog = self.report.backlog.saturating_sub(1);
                return Ok(None);
            }
            Err(error) if error.scope() > Scope::Message || error.kind() == ErrorKind::State => {
                return Err(error);
            }
            Err(error) => match self.message_failed(job, error).await? {
                Some(routed) => routed,
                None => return Ok(None),
            },
        };
        let stub = &job.candidate.stub;
        match record.verdict {
            Verdict::Deliver => self.report.delivered += 1,
            Verdict::Discard => self.report.discarded += 1,
            Verdict::Undeliverable => self.report.undeliverable += 1,
            Verdict::LeftAlone => self.report.left_alone += 1,
        }
        tell(&record);
        let now = self.parts.clock.now();
        self.parts.observer.event(&Event::Incoming {
            mailbox: &self.route.mailbox.id,
            record: &record,
            corrupt,
            elapsed,
            waited: stub.received.and_then(|received| now.duration_since(received).try_into().ok()),
        });
        let end = Settled {
            id: stub.id.clone(),
            verdict: record.verdict,
            activity_id: record.activity_id,
            disposition: self.desk().disposition(record.verdict),
            at: now,
        };
        let header = job.read.header().filter(|_| record.verdict != Verdict::LeftAlone);
        let (header, kept) = self.route.settings.decisions.header(header, &self.route.settings.caps);
        let note = DecisionNote {
            at: now,
            mailbox: self.route.mailbox.id.clone(),
            received: stub.received,
            record,
            kept,
            header,
        };
        Ok(Some((end, note)))
    }

    fn desk(&self) -> Desk<'a> {
        Desk { parts: self.parts, route: self.route, view: self.view.clone(), capability: self.capability }
    }

    /// Reads a message, a large one its header section first.
    async fn read(&mut self, job: &mut Job, threshold: Option<Timestamp>) -> Result<First> {
        let settings = &self.route.settings;
        let ended = |ended| Ok(First::All(Reading::Ended(ended)));
        if job.candidate.attempts >= settings.max_attempts {
            return ended(Ended::Routed(self.park(job).await?));
        }
        if job.candidate.part == Part::Headers {
            let headers = match &job.candidate.stub.headers {
                Some(listed) => Some(listed.clone()),
                None => gone_is_none(self.inbox.headers(&job.candidate.stub.id).await)?,
            };
            let Some(headers) = headers else { return ended(Ended::Gone) };
            let mut message = Message::from_headers(job.read.headers.insert(headers), &settings.caps);
            listed(&mut message, &job.candidate.stub);
            if let Some(record) = self.desk().too_old(&job.candidate.stub, &message, threshold) {
                return ended(Ended::Routed(Routed { record, corrupt: false }));
            }
            if !message.needs_body() {
                return Ok(First::Headers(message));
            }
        }
        self.read_whole(job, threshold).await.map(First::All)
    }

    /// Decides about the header section; where that settles nothing, the message is read whole.
    async fn judge_headers(
        &mut self,
        job: &mut Job,
        message: &Message,
        threshold: Option<Timestamp>,
    ) -> Result<Reading> {
        let mut work = self.desk().work(job, message, false).await?;
        if matches!(work, Work::ViewOutdated) {
            work = self.work_again(job, message).await?;
        }
        match work {
            Work::Routed(routed) => Ok(Reading::Ended(Ended::Routed(*routed))),
            Work::WantsBody | Work::ViewOutdated => self.read_whole(job, threshold).await,
        }
    }

    async fn read_whole(&mut self, job: &mut Job, threshold: Option<Timestamp>) -> Result<Reading> {
        let Some(raw) = gone_is_none(self.inbox.fetch(&job.candidate.stub.id).await)? else {
            return Ok(Reading::Ended(Ended::Gone));
        };
        let mut message = Message::parse(job.read.whole.insert(raw), &self.route.settings.caps);
        listed(&mut message, &job.candidate.stub);
        Ok(match self.desk().too_old(&job.candidate.stub, &message, threshold) {
            Some(record) => Reading::Ended(Ended::Routed(Routed { record, corrupt: false })),
            None => Reading::Whole(message),
        })
    }

    /// Works on a message with users and queues that are new enough.
    async fn work_again(&mut self, job: &Job, message: &Message) -> Result<Work> {
        self.renew_view().await?;
        self.desk().work(job, message, true).await
    }

    /// Reads settings, users and queues again, unless that was done a moment ago and would not help.
    async fn renew_view(&mut self) -> Result<()> {
        self.report.view_outdated = true;
        if self.renewed.is_some_and(|at| at.elapsed() < RENEW_AGAIN) {
            return Ok(());
        }
        tracing::info!(mailbox = %self.route.mailbox.id, "the CRM has changed users or queues; they are read again");
        let view = OrganizationView::load(&*self.parts.crm).await?;
        (self.renewed, self.view) = (Some(Instant::now()), View::Renewed(Arc::new(view)));
        self.still_served()
    }

    /// Whose user or queue is gone, disabled or no longer read by the router is not read: nobody may be left for whom its mail is, and that
    /// is no reason to discard it. The next plan has no such mailbox.
    fn still_served(&self) -> Result<()> {
        let Some(record) =
            self.route.record.as_ref().filter(|_| self.route.mailbox.kind != MailboxKind::Forward)
        else {
            return Ok(());
        };
        let why = match self.view.mailbox(record) {
            None => "is no longer in the CRM",
            Some(mailbox) => match self.view.not_served(mailbox) {
                None => return Ok(()),
                Some(why) => why,
            },
        };
        let text = format!("{record}, whose mailbox this is, {why}; its messages stay where they are");
        let error = email_router_crm::Error::new(email_router_crm::ErrorKind::NotFound, text);
        Err(error.with_scope(Scope::Mailbox).into())
    }

    /// A failure of this message alone: too large, refused by the CRM for good, or to be tried again. `None`: deferred.
    async fn message_failed(&mut self, job: &Job, error: Error) -> Result<Option<Routed>> {
        let (stub, attempts) = (&job.candidate.stub, job.attempts());
        let class = match (error.kind(), error.retry()) {
            (ErrorKind::Held, retry) => return self.hold(stub, &error, retry).await.map(|()| None),
            (ErrorKind::Transport, Retry::Never)
                if transport_kind(&error) == Some(TransportErrorKind::TooLarge) =>
            {
                "too-large"
            }
            (ErrorKind::Transport, Retry::Never) => "unreadable-at-source",
            (ErrorKind::Crm, Retry::Never) => "crm-refused",
            (_, Retry::Never) => "unprocessable",
            _ if attempts >= self.route.settings.max_attempts => "attempts-exhausted",
            _ => {
                let not_before = self.retry_at(&error, attempts);
                let text = error.to_string();
                tracing::warn!(attempts, error = text, %not_before, "the message failed for now");
                self.parts.state.note_failure(&self.route.mailbox.id, &stub.id, &text, not_before).await?;
                self.parts.observer.event(&Event::IncomingDeferred {
                    mailbox: &self.route.mailbox.id,
                    remote_id: &stub.id,
                    error: &text,
                });
                self.report.deferred += 1;
                self.report.backlog = self.report.backlog.saturating_sub(1);
                return Ok(None);
            }
        };
        let record = self.desk().quarantine(job, class, &error.to_string()).await?;
        Ok(Some(Routed { record, corrupt: false }))
    }

    /// A message over a loop limit waits. That is no failed attempt: a message is never parked for the pace of its sender.
    async fn hold(&mut self, stub: &Stub, error: &Error, retry: Retry) -> Result<()> {
        let wait = match retry {
            Retry::Later(Some(wait)) => wait,
            _ => FIRST_RETRY,
        };
        let (mailbox, limit) = (&self.route.mailbox.id, error.to_string());
        let until = self.parts.clock.now().saturating_add(wait).unwrap_or(Timestamp::MAX);
        self.parts.state.unbegin(mailbox, std::slice::from_ref(&stub.id)).await?;
        self.parts.state.note_failure(mailbox, &stub.id, &limit, until).await?;
        let event = Event::LoopSuspected { mailbox, remote_id: &stub.id, limit: &limit, until };
        self.parts.observer.event(&event);
        self.report.deferred += 1;
        self.report.backlog = self.report.backlog.saturating_sub(1);
        Ok(())
    }

    /// A message that was begun more often than allowed and never ended: keep what can be had of it and go on without it.
    async fn park(&mut self, job: &mut Job) -> Result<Routed> {
        let (stub, max) = (&job.candidate.stub, self.route.settings.max_attempts);
        let last = self.parts.state.seen(&self.route.mailbox.id, std::slice::from_ref(&stub.id)).await?;
        let said = last
            .into_iter()
            .flatten()
            .find_map(|s| s.last_error)
            .unwrap_or_else(|| "the router ended in the middle of it".to_owned());
        // Reading the bytes may be just what fails, or what ends the process. It has one chance; then the item has no bytes and
        // the message stays at its source.
        if job.candidate.attempts == max {
            match self.inbox.fetch(&stub.id).await {
                Ok(raw) => {
                    let message = Message::parse(&raw, &self.route.settings.caps);
                    if let Some(record) = self.desk().is_there(&message).await? {
                        return Ok(Routed { record, corrupt: false });
                    }
                    job.read.whole = Some(raw);
                }
                Err(error) if error.scope() > Scope::Message => return Err(error.into()),
                Err(_) => {}
            }
        }
        let reason = format!("given up after {max} attempts; the last said: {said}");
        Ok(Routed {
            record: self.desk().quarantine(job, "attempts-exhausted", &reason).await?,
            corrupt: false,
        })
    }

    async fn dispose_again(&mut self, settled: &Settled) -> Result<()> {
        let what = match settled.disposition.as_str() {
            "keep" => return Ok(()),
            "delete" => Disposition::Delete,
            other => match other.strip_prefix("move ") {
                Some(folder) => Disposition::Move(folder.to_owned()),
                None => return Ok(()),
            },
        };
        match self.inbox.dispose(&settled.id, what).await {
            Ok(()) => {
                self.removed.push(settled.id.clone());
                Ok(())
            }
            Err(error)
                if error.scope() == Scope::Message || error.kind() == TransportErrorKind::Unsupported =>
            {
                tracing::warn!(mailbox = %self.route.mailbox.id, id = %settled.id, %error, "a settled message could not be disposed of; it stays at its source");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Works on a message whose turn it is.
async fn work(desk: Desk<'_>, job: Job, message: Message, span: tracing::Span) -> Done {
    let result = desk.work(&job, &message, false).instrument(span.clone()).await;
    let ended = result.and_then(|work| match work {
        Work::ViewOutdated => Ok(Ended::ViewOutdated(message)),
        work => work.decided().map(Ended::Routed),
    });
    Done::new(job, ended, span)
}

/// What the listing tells of a message and its bytes do not.
fn listed(message: &mut Message, stub: &Stub) {
    if message.conversation_id.is_none() {
        message.conversation_id.clone_from(&stub.conversation_id);
    }
    if message.message_class.is_none() {
        message.message_class.clone_from(&stub.message_class);
    }
    message.received = stub.received.filter(|_| !message.whole).or(message.received);
}

/// Whether an error may be the doing of the message that was being read: the connection broke or stalled with it, or the server
/// sent something that is no answer.
fn breaks_session(error: &Error) -> bool {
    use TransportErrorKind as K;
    matches!(transport_kind(error), Some(K::ConnectionLost | K::Protocol | K::Timeout))
}

/// The candidates in groups whose attempts are noted together.
///
/// A message that was begun before and never ended may have killed the process: it is begun alone, so that the messages beside it do
/// not pay for it.
fn windows(candidates: Vec<Candidate>) -> Vec<Vec<Candidate>> {
    let mut windows: Vec<Vec<Candidate>> = Vec::new();
    for candidate in candidates {
        let suspect = candidate.attempts > 0;
        match windows.last_mut() {
            Some(last) if !suspect && last.len() < WINDOW && last.iter().all(|c| c.attempts == 0) => {
                last.push(candidate)
            }
            _ => windows.push(vec![candidate]),
        }
    }
    windows
}

fn wanted(window: &[Candidate]) -> Vec<(RemoteId, Part)> {
    let known = |c: &&Candidate| c.part == Part::Headers && c.stub.headers.is_some();
    window.iter().filter(|c| !known(c)).map(|c| (c.stub.id.clone(), c.part)).collect()
}

/// A message that is gone is no failure.
fn gone_is_none<T>(result: email_router_transport::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == TransportErrorKind::MessageGone => Ok(None),
        Err(error) => Err(error.into()),
    }
}
