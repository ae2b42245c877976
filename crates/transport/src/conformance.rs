//! The suite that every [`Transport`], decorator and erased handle runs.
//!
//! An implementation brings a [`Fixture`]: a fresh mail system of its kind, filled and looked at *from outside*, never through the
//! transport under test. [`run`] chooses the cases by what [`Transport::capability`] promises, not by the name of the
//! implementation, so a transport that only receives (POP3) or only submits (SMTP) runs the cases that concern it. A failing
//! case panics with its name and the reason.
//!
//! ```no_run
//! # use email_router_transport::conformance::{self, Fixture};
//! # async fn a_fresh_mail_system() -> Box<dyn Fixture> { unreachable!() }
//! # async fn example() {
//! conformance::run(|| async { a_fresh_mail_system().await }).await;
//! // the same cases through a decorator
//! conformance::run(|| async {
//!     conformance::wrapped(a_fresh_mail_system().await, |inner| std::sync::Arc::new(inner))
//! })
//! .await;
//! # }
//! ```
//!
//! | rule of the contract | case |
//! |---|---|
//! | a denied method answers `Unsupported` at once | `denied methods` |
//! | no secret in `Debug`, `Display`, errors | `secrets` |
//! | probe changes nothing | `probe incoming`, `probe outgoing` |
//! | an empty mailbox opens fine | `empty mailbox` |
//! | ids unique, oldest first, at most `max_messages`; in pieces | `listing`, `at most`, `listing in pieces` |
//! | ids stable between sessions | `stable ids` |
//! | arrivals during a session | `arrivals` |
//! | prefetch is a hint | `prefetch` |
//! | headers without body, not marked as read | `headers`, `reading leaves no mark` |
//! | bytes as the server keeps them, twice | `bytes survive`, `fetch twice` |
//! | a message that is gone | `gone`, `unknown id` |
//! | too large keeps the session usable | `too large`, `header too large` |
//! | dispositions | `keep`, `delete`, `mark read`, `move`, `dispose twice`, `dispose of what is gone`, `denied dispositions` |
//! | after an error of the mailbox or server every further call fails | `broken session` |
//! | dropping without close | `drop` |
//! | who waits for mail is told of it | `wait for mail` |
//! | sessions side by side, handles shared | `two mailboxes`, `shared handle` |
//! | a dropped future leaves nothing behind | `cancelled receive`, `cancelled submit` |
//! | submitted bytes, envelope, receipt | `submit`, `null sender`, `line ends`, `recipients` |
//! | who looks for a submission finds it | `find submitted` |

mod receive;
mod submit;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use email_router_model::{Classified, EmailAddress, Mailbox, Scope};

use crate::layer::Operation;
use crate::{Access, Error, ErrorKind, ReceiveOptions, SubmitOptions, Transport};

/// A fresh mail system, seen from outside, and the transport that shall be tested against it.
///
/// Methods that concern a direction the transport denies are never called; their defaults panic.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The transport under test.
    fn transport(&self) -> Arc<dyn Transport>;

    /// One of two mailboxes (`which` is 0 or 1) that exist, are empty in the beginning, and may send.
    fn mailbox(&self, which: usize) -> Mailbox;

    /// Puts a message into the mailbox as a delivery would, later than all before.
    async fn put(&self, _mailbox: &Mailbox, _raw: &[u8]) {
        panic!("the fixture of a transport that receives must be able to fill a mailbox");
    }

    /// What is in the mailbox now, in any order; without what waits in folders.
    async fn left(&self, _mailbox: &Mailbox) -> Vec<Left> {
        panic!("the fixture of a transport that receives must be able to look into a mailbox");
    }

    /// What is in the folder of this name beside the inbox; nothing when there is no such folder.
    async fn folder(&self, _mailbox: &Mailbox, _name: &str) -> Vec<Vec<u8>> {
        panic!("the fixture of a transport that moves messages must be able to look into a folder");
    }

    /// Takes all messages out of the mailbox behind the back of open sessions. `false` when the mail system does not let
    /// that happen (a locked mailbox).
    async fn empty(&self, _mailbox: &Mailbox) -> bool {
        false
    }

    /// Makes the session that is open on the mailbox fail at its next call of this kind, or where the mail system cannot choose at the
    /// next call that needs it, with an error of scope *mailbox* or *server*: cuts the line, takes the folder away. `false` when no
    /// call of a session of this mail system gives such an error.
    async fn break_session(&self, _mailbox: &Mailbox, _at: Operation) -> bool {
        false
    }

    /// Puts right what [`Self::break_session`] did, so that whatever still fails does so because it failed before.
    async fn mend(&self, _mailbox: &Mailbox) {}

    /// All that was submitted, as it arrived at the mail system.
    async fn submitted(&self) -> Vec<Submitted> {
        panic!("the fixture of a transport that submits must be able to look at what arrived");
    }

    /// Addresses the mail system refuses for good and for now; `None` when it takes all.
    async fn refused_recipients(&self) -> Option<Refused> {
        None
    }

    /// A mailbox the transport cannot open (wrong password, not there); `None` when there is no such thing.
    async fn locked_out(&self) -> Option<Mailbox> {
        None
    }

    /// Texts that must never be shown: passwords and tokens the transport holds.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether the mail system lists messages in the order of their arrival.
    fn lists_oldest_first(&self) -> bool {
        true
    }

    /// Whether the mail system takes the reverse-path of the envelope. `false` where a message goes out from the address of its sender, whatever the envelope
    /// says (EWS, Graph).
    fn keeps_reverse_path(&self) -> bool {
        true
    }
}

/// A message in a mailbox, seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its bytes; line ends may be those of the store.
    pub bytes: Vec<u8>,
    /// Whether it is marked as read; `None` where the mail system has no such mark.
    pub read: Option<bool>,
}

/// A message that arrived at the mail system, seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// The reverse-path; `None` for `<>`.
    pub sender: Option<EmailAddress>,
    /// For whom.
    pub recipients: Vec<EmailAddress>,
    /// The bytes after transfer decoding (dots unstuffed); the mail system may have put trace fields before the message, and the line ends
    /// must be the ones that arrived.
    pub bytes: Vec<u8>,
}

/// Addresses a mail system refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Refused for good (5yz).
    pub for_good: EmailAddress,
    /// Refused for now (4yz), where the mail system can.
    pub for_now: Option<EmailAddress>,
}

/// The fixture `inner` with its transport wrapped by `wrap`: for layers and erased handles.
pub fn wrapped(
    inner: Box<dyn Fixture>,
    wrap: impl FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport>,
) -> Box<dyn Fixture> {
    let transport = wrap(inner.transport());
    Box::new(Wrapped { inner, transport })
}

/// Runs every case that the capability of the transport asks for, each on a mail system of its own made by `fresh`.
///
/// # Panics
/// When a case fails; the message has the name of the case, the transport and the reason.
pub async fn run<F, Fut>(fresh: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Box<dyn Fixture>>,
{
    let runner = Runner { fresh };
    let capability = (runner.fresh)().await.transport().capability();
    assert!(capability.receive || capability.submit, "a transport that can do nothing");
    runner.case("denied methods", |f| Box::pin(denied_methods(f))).await;
    runner.case("secrets", |f| Box::pin(secrets(f))).await;
    if capability.receive {
        receive::all(&runner, capability).await;
    }
    if capability.submit {
        submit::all(&runner, capability).await;
    }
}

struct Wrapped {
    inner: Box<dyn Fixture>,
    transport: Arc<dyn Transport>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Fixture for Wrapped {
    fn transport(&self) -> Arc<dyn Transport> {
        self.transport.clone()
    }
    fn mailbox(&self, which: usize) -> Mailbox {
        self.inner.mailbox(which)
    }
    async fn put(&self, mailbox: &Mailbox, raw: &[u8]) {
        self.inner.put(mailbox, raw).await;
    }
    async fn left(&self, mailbox: &Mailbox) -> Vec<Left> {
        self.inner.left(mailbox).await
    }
    async fn folder(&self, mailbox: &Mailbox, name: &str) -> Vec<Vec<u8>> {
        self.inner.folder(mailbox, name).await
    }
    async fn empty(&self, mailbox: &Mailbox) -> bool {
        self.inner.empty(mailbox).await
    }
    async fn break_session(&self, mailbox: &Mailbox, at: Operation) -> bool {
        self.inner.break_session(mailbox, at).await
    }
    async fn mend(&self, mailbox: &Mailbox) {
        self.inner.mend(mailbox).await;
    }
    async fn submitted(&self) -> Vec<Submitted> {
        self.inner.submitted().await
    }
    async fn refused_recipients(&self) -> Option<Refused> {
        self.inner.refused_recipients().await
    }
    async fn locked_out(&self) -> Option<Mailbox> {
        self.inner.locked_out().await
    }
    fn secrets(&self) -> Vec<String> {
        self.inner.secrets()
    }
    fn lists_oldest_first(&self) -> bool {
        self.inner.lists_oldest_first()
    }
    fn keeps_reverse_path(&self) -> bool {
        self.inner.keeps_reverse_path()
    }
}

/// What a case returns: a reason when the rule is broken.
type Outcome = Result<(), String>;
type CaseFuture<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

struct Runner<F> {
    fresh: F,
}

impl<F, Fut> Runner<F>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Box<dyn Fixture>>,
{
    async fn case(&self, name: &str, body: impl for<'a> Fn(&'a dyn Fixture) -> CaseFuture<'a>) {
        let fixture = (self.fresh)().await;
        if let Err(why) = body(&*fixture).await {
            panic!("conformance case {name:?} fails for {}: {why}", fixture.transport());
        }
    }
}

/// Fails the case with a reason unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}
use ensure;

/// Turns an unexpected error into the reason a case fails.
trait Because<T> {
    fn because(self, doing: &str) -> Result<T, String>;
}

impl<T> Because<T> for Result<T, Error> {
    fn because(self, doing: &str) -> Result<T, String> {
        self.map_err(|e| format!("{doing} failed: {e} ({:?}, {}, scope {})", e.kind(), e.retry(), e.scope()))
    }
}

/// The error of a call that had to fail with this kind.
fn must_fail<T>(result: Result<T, Error>, kind: ErrorKind, doing: &str) -> Result<Error, String> {
    match result {
        Ok(_) => Err(format!("{doing} succeeded, but {kind:?} was due")),
        Err(e) if e.kind() == kind => Ok(e),
        Err(e) => Err(format!("{doing} gave {:?} ({e}), but {kind:?} was due", e.kind())),
    }
}

/// A future that is dropped at its n-th await: polls it `polls` times at the most.
async fn cancelled_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut done = 0;
    std::future::poll_fn(|context| {
        if done == polls {
            return Poll::Ready(None);
        }
        done += 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// Line ends as LF and without the last one: what must be equal however a store ends its lines.
fn canonical(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for (n, &b) in bytes.iter().enumerate() {
        if !(b == b'\r' && bytes.get(n + 1) == Some(&b'\n')) {
            out.push(b);
        }
    }
    if out.last() == Some(&b'\n') {
        out.pop();
    }
    out
}

/// A short, printable piece of a message for reasons.
fn excerpt(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(200)];
    format!("{:?} ({} bytes)", String::from_utf8_lossy(shown), bytes.len())
}

async fn denied_methods(fixture: &dyn Fixture) -> Outcome {
    let transport = fixture.transport();
    let capability = transport.capability();
    let mailbox = fixture.mailbox(0);
    if !capability.receive {
        let result = transport.receive(&mailbox, ReceiveOptions::default()).await;
        let error = must_fail(result.map(|_| ()), ErrorKind::Unsupported, "receive")?;
        ensure!(error.retry() == email_router_model::Retry::Never, "Unsupported may be tried again");
        must_fail(transport.probe(&mailbox, Access::Incoming).await, ErrorKind::Unsupported, "probe")?;
    }
    if !capability.submit {
        let message = submit::message("denied@conformance.example", &mailbox, &["x@conformance.example"]);
        let result = transport.submit(&mailbox, &message, SubmitOptions::default()).await;
        must_fail(result, ErrorKind::Unsupported, "submit")?;
        must_fail(transport.probe(&mailbox, Access::Outgoing).await, ErrorKind::Unsupported, "probe")?;
    }
    if !capability.find_submitted {
        let message = submit::message("denied@conformance.example", &mailbox, &["x@conformance.example"]);
        let found =
            transport.find_submitted(&mailbox, &message.message_id).await.because("find_submitted")?;
        ensure!(found.is_none(), "find_submitted answers {found:?} although the capability denies it");
    }
    if !capability.notifies {
        let waited = transport.wait_for_mail(&mailbox, std::time::Duration::from_secs(1)).await;
        must_fail(waited, ErrorKind::Unsupported, "wait_for_mail")?;
    }
    Ok(())
}

async fn secrets(fixture: &dyn Fixture) -> Outcome {
    let transport = fixture.transport();
    let mut shown = vec![format!("{transport:?} {transport:#?} {transport}")];
    ensure!(!transport.to_string().is_empty(), "Display shows nothing");
    if let Some(mailbox) = fixture.locked_out().await {
        let capability = transport.capability();
        let mut errors = Vec::new();
        if capability.receive {
            match transport.receive(&mailbox, ReceiveOptions::default()).await {
                Ok(_) => return Err("a mailbox that nobody can open was opened".to_owned()),
                Err(e) => errors.push(e),
            }
            match transport.probe(&mailbox, Access::Incoming).await {
                Ok(_) => return Err("probe succeeds on a mailbox that nobody can open".to_owned()),
                Err(e) => errors.push(e),
            }
        }
        for error in errors {
            ensure!(error.scope() != Scope::Message, "a mailbox that does not open is no fault of a message");
            shown.push(format!("{error} {error:?} {:?}", error.hint()));
        }
    }
    for secret in fixture.secrets() {
        for text in &shown {
            ensure!(
                !text.contains(&secret),
                "a secret is shown in {}",
                text.replace(&secret, "<THE SECRET>")
            );
        }
    }
    Ok(())
}
