//! Kerberos tickets, fetched before a session begins.
//!
//! The Kerberos library asks key distribution centres on the thread that calls it, for half a minute and longer where none answers. So this is done on a
//! thread for that, before the login: what the login itself does then is in the ticket cache.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use email_router_auth::{
    CredentialError, CredentialFault, CredentialSource, Credentials, Ticket, TicketStore, fetch_ticket,
};
use email_router_model::{Mailbox, Retry, Scope};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// A ticket that was found good is not looked at again for so long, nor past half of the time it has left.
const GOOD_FOR: Duration = Duration::from_secs(30);
/// After a passing fault nothing is asked again for so long; callers get the same error meanwhile.
const PAUSE: Duration = Duration::from_secs(5);
/// After the realm refused the principal or its key: the mailboxes of a server would lock the account otherwise.
const REFUSAL_PAUSE: Duration = Duration::from_secs(60);

/// Whose tickets are used, and for which server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KerberosSettings {
    /// The service as Kerberos names it: `pop`, `imap`, `smtp`, `HTTP`.
    pub service: &'static str,
    /// The server's full host name, as in its service principal name.
    pub host: String,
    /// Whose tickets: `svc-mail@EXAMPLE.COM`, of a machine account `HOST$@EXAMPLE.COM`. `None`: the principal that the ticket cache or the keytab begins
    /// with.
    pub principal: Option<String>,
    /// The keytab whose key gets the tickets, which are then kept in the memory of this process. `None`: `KRB5_CLIENT_KTNAME` or what `krb5.conf` says
    /// (`default_client_keytab_name`), for the case that the ticket cache has no good ticket.
    pub keytab: Option<PathBuf>,
    /// The ticket cache with its kind, as `FILE:/run/email-router/tickets`. `None`: with a keytab the memory of this process, without one `KRB5CCNAME`
    /// or what `krb5.conf` says (`default_ccache_name`).
    pub ticket_cache: Option<String>,
    /// The longest time to wait for a ticket.
    pub patience: Duration,
}

impl KerberosSettings {
    /// The identity of the process for this service at this host, with 30 seconds of patience.
    #[must_use]
    pub fn new(service: &'static str, host: impl Into<String>) -> Self {
        Self {
            service,
            host: host.into(),
            principal: None,
            keytab: None,
            ticket_cache: None,
            patience: Duration::from_secs(30),
        }
    }

    fn credentials(&self) -> Credentials {
        let principal = self.principal.clone().unwrap_or_default();
        let cache = match (&self.ticket_cache, &self.keytab) {
            (Some(cache), _) => Some(cache.clone()),
            // the tickets of a keytab are nobody's business but ours, and the default cache may be a person's
            (None, Some(keytab)) => Some(format!("MEMORY:email-router {principal} {}", keytab.display())),
            (None, None) => None,
        };
        match cache {
            None => Credentials { user: principal, ..Credentials::process_identity() },
            cache => Credentials::tickets(principal, TicketStore { cache, keytab: self.keytab.clone() }),
        }
    }
}

/// Gives every mailbox the identity that has a Kerberos ticket for the server, once that ticket is there. Cloning shares what is known of it.
///
/// # Contract
/// - However many callers wait, one thread asks. Who gives up waiting ends it for nobody.
/// - A fault is told to all callers for 5 seconds, a refusal by the realm for a minute, before anybody is asked again.
/// - Tickets are renewed where there is a keytab; where there is none, whoever fills the ticket cache renews them.
#[derive(Clone)]
pub struct KerberosSource(Arc<Inner>);

struct Inner {
    settings: KerberosSettings,
    credentials: Credentials,
    fetch: Box<dyn Fn() -> Result<Ticket, CredentialError> + Send + Sync>,
    state: Mutex<State>,
}

type Outcome = Result<(), CredentialError>;

#[derive(Default)]
struct State {
    flight: Option<watch::Receiver<Option<Outcome>>>,
    /// What came of the last flight, and until when that counts.
    last: Option<(Outcome, Instant)>,
}

impl KerberosSource {
    /// A source with these settings; nothing is asked yet.
    #[must_use]
    pub fn new(settings: KerberosSettings) -> Self {
        let (credentials, service, host) = (settings.credentials(), settings.service, settings.host.clone());
        Self::with(settings, move || fetch_ticket(&credentials, service, &host))
    }

    fn with(
        settings: KerberosSettings,
        fetch: impl Fn() -> Result<Ticket, CredentialError> + Send + Sync + 'static,
    ) -> Self {
        let credentials = settings.credentials();
        Self(Arc::new(Inner { settings, credentials, fetch: Box::new(fetch), state: Mutex::default() }))
    }

    /// The identity, for whom no mailbox asks.
    ///
    /// # Errors
    /// There is no ticket to be had.
    pub async fn identity(&self) -> Result<Credentials, CredentialError> {
        self.ready().await?;
        Ok(self.0.credentials.clone())
    }

    /// The server refused the ticket: the next session looks at it again.
    pub fn look_again(&self) {
        let mut state = self.0.lock();
        if let Some((Ok(()), _)) = &state.last {
            state.last = None;
        }
    }

    /// Waits until the ticket is in the cache.
    async fn ready(&self) -> Outcome {
        let mut flight = {
            let mut state = self.0.lock();
            if let Some((outcome, until)) = &state.last
                && Instant::now() < *until
            {
                return outcome.clone();
            }
            // one whose thread has gone without a word is no flight
            match state.flight.clone().filter(|flight| flight.has_changed().is_ok()) {
                Some(flight) => flight,
                None => self.start(&mut state),
            }
        };
        match timeout(self.0.settings.patience, flight.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or(Ok(())),
            Ok(Err(_)) => Err(self.0.unavailable("the Kerberos library failed badly", "see the log for its panic")),
            Err(_) => Err(self.0.unavailable(
                &format!("no answer within {} s", self.0.settings.patience.as_secs()),
                "check that the key distribution centres (domain controllers) in krb5.conf, and the DNS, can be reached from this machine",
            )),
        }
    }

    fn start(&self, state: &mut State) -> watch::Receiver<Option<Outcome>> {
        let (landed, flight) = watch::channel(None);
        state.flight = Some(flight.clone());
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || {
            let outcome = inner.ask();
            landed.send_replace(Some(outcome));
        });
        flight
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // nothing that holds the lock can leave it half done
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs on a thread that may block.
    fn ask(&self) -> Outcome {
        let asked = (self.fetch)();
        let (outcome, pause) = match asked {
            Ok(ticket) => {
                tracing::trace!(principal = %ticket.principal, lifetime = ?ticket.lifetime, "there is a Kerberos ticket");
                (Ok(()), ticket.lifetime.map_or(GOOD_FOR, |left| GOOD_FOR.min(left / 2)))
            }
            Err(error) => {
                let pause = if error.fault == CredentialFault::Refused { REFUSAL_PAUSE } else { PAUSE };
                (Err(error), pause)
            }
        };
        let mut state = self.lock();
        state.last = Some((outcome.clone(), Instant::now() + pause));
        state.flight = None;
        outcome
    }

    fn unavailable(&self, what: &str, hint: &str) -> CredentialError {
        let KerberosSettings { service, host, .. } = &self.settings;
        CredentialError {
            fault: CredentialFault::Unavailable,
            message: format!("Kerberos for {service} at {host}: {what}"),
            hint: Some(hint.to_owned()),
            retry: Retry::Later(None),
            scope: Scope::Server,
        }
    }
}

#[async_trait]
impl CredentialSource for KerberosSource {
    async fn credentials(&self, _mailbox: &Mailbox) -> Result<Option<Credentials>, CredentialError> {
        self.identity().await.map(Some)
    }

    fn refused(&self, _mailbox: &Mailbox, _credentials: &Credentials) {
        self.look_again();
    }
}

impl fmt::Debug for KerberosSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KerberosSource").field(&self.0.settings).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use email_router_model::MailboxKind;

    use super::*;

    fn mailbox() -> Mailbox {
        Mailbox {
            id: "ann".into(),
            kind: MailboxKind::User,
            name: "Ann".to_owned(),
            address: "ann@contoso.test".parse().unwrap(),
            login: None,
        }
    }

    fn fault(fault: CredentialFault) -> CredentialError {
        CredentialError {
            fault,
            message: "no".to_owned(),
            hint: None,
            retry: Retry::Later(None),
            scope: Scope::Server,
        }
    }

    /// A source, the number of times its library was asked, and where the answers are put in.
    type Library = (KerberosSource, Arc<AtomicUsize>, mpsc::Sender<Result<Ticket, CredentialError>>);

    fn library() -> Library {
        let (answers, asked) = (mpsc::channel(), Arc::new(AtomicUsize::new(0)));
        let (counter, receiver) = (Arc::clone(&asked), Mutex::new(answers.1));
        let source = KerberosSource::with(KerberosSettings::new("pop", "mail.contoso.test"), move || {
            counter.fetch_add(1, Ordering::SeqCst);
            receiver.lock().unwrap().recv().expect("an answer")
        });
        (source, asked, answers.0)
    }

    fn ticket(seconds: u64) -> Ticket {
        Ticket { principal: "ann@CONTOSO.TEST".to_owned(), lifetime: Some(Duration::from_secs(seconds)) }
    }

    #[test]
    fn where_the_tickets_are() {
        let plain = KerberosSettings::new("imap", "mail.contoso.test");
        assert_eq!(plain.credentials(), Credentials::process_identity());
        let named = KerberosSettings { principal: Some("svc@CONTOSO.TEST".to_owned()), ..plain.clone() };
        assert_eq!(named.credentials().user, "svc@CONTOSO.TEST");
        assert_eq!(named.credentials().ticket_store(), Some(TicketStore::default()));
        let keytab = KerberosSettings { keytab: Some("/etc/svc.keytab".into()), ..named.clone() };
        let store = keytab.credentials().ticket_store().unwrap();
        assert_eq!(store.keytab, keytab.keytab);
        assert_eq!(store.cache.as_deref(), Some("MEMORY:email-router svc@CONTOSO.TEST /etc/svc.keytab"));
        let cache = KerberosSettings { ticket_cache: Some("FILE:/run/t".to_owned()), ..keytab };
        assert_eq!(cache.credentials().ticket_store().unwrap().cache.as_deref(), Some("FILE:/run/t"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_thread_asks_for_all_who_wait() {
        let (source, asked, answers) = library();
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let source = source.clone();
                tokio::spawn(async move { source.credentials(&mailbox()).await })
            })
            .collect();
        tokio::task::yield_now().await;
        // who gives up ends it for nobody
        waiting[0].abort();
        answers.send(Ok(ticket(36_000))).unwrap();
        for (n, task) in waiting.into_iter().enumerate() {
            match task.await {
                Ok(given) => assert_eq!(given, Ok(Some(Credentials::process_identity()))),
                Err(_) => assert_eq!(n, 0),
            }
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        // known for half a minute; a refusal by the mail system makes it look again
        tokio::time::advance(GOOD_FOR - Duration::from_secs(1)).await;
        source.credentials(&mailbox()).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        source.refused(&mailbox(), &Credentials::process_identity());
        answers.send(Ok(ticket(10))).unwrap();
        source.credentials(&mailbox()).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        // no longer than half of its life
        tokio::time::advance(Duration::from_secs(6)).await;
        answers.send(Ok(ticket(36_000))).unwrap();
        source.credentials(&mailbox()).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn faults_are_remembered_refusals_longer() {
        for (kind, pause) in
            [(CredentialFault::Unavailable, PAUSE), (CredentialFault::Refused, REFUSAL_PAUSE)]
        {
            let (source, asked, answers) = library();
            answers.send(Err(fault(kind))).unwrap();
            for _ in 0..3 {
                assert_eq!(source.credentials(&mailbox()).await, Err(fault(kind)));
                source.refused(&mailbox(), &Credentials::process_identity());
            }
            tokio::time::advance(pause - Duration::from_secs(1)).await;
            assert_eq!(source.credentials(&mailbox()).await, Err(fault(kind)));
            assert_eq!(asked.load(Ordering::SeqCst), 1);
            tokio::time::advance(Duration::from_secs(2)).await;
            answers.send(Ok(ticket(36_000))).unwrap();
            source.credentials(&mailbox()).await.unwrap();
            assert_eq!(asked.load(Ordering::SeqCst), 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_the_flight_goes_on() {
        let (source, asked, answers) = library();
        let waiting = tokio::spawn({
            let source = source.clone();
            async move { source.credentials(&mailbox()).await }
        });
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(31)).await;
        let error = waiting.await.unwrap().unwrap_err();
        assert_eq!(error.fault, CredentialFault::Unavailable);
        assert_eq!(error.message, "Kerberos for pop at mail.contoso.test: no answer within 30 s");
        // the next one waits for the same answer
        answers.send(Ok(ticket(36_000))).unwrap();
        source.credentials(&mailbox()).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_one_flight() {
        let (source, asked, answers) = library();
        drop(answers);
        for flights in 1..=2 {
            let error = source.credentials(&mailbox()).await.unwrap_err();
            assert_eq!(error.fault, CredentialFault::Unavailable, "{error}");
            assert_eq!(asked.load(Ordering::SeqCst), flights);
        }
    }
}
