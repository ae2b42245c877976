//! One token for all mailboxes of an identity.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use email_router_auth::{CredentialError, CredentialSource, Credentials};
use email_router_model::{Clock, Entropy, Mailbox, Redactor, Retry, Secret, Timestamp};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded::Serializer;
use zeroize::Zeroizing;

use super::{ClientProof, OAuthSettings, TokenService, error, proto};
use crate::{HttpService, Method, Request, StatusCode, retry_after};

/// After a passing fault the token service is asked again no sooner than this, twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The shortest pause, where the service asks for a shorter one.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause, where the service asks for none.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// After the service refused the identity itself it is asked again no sooner than this: a thousand mailboxes would lock the application out.
const REFUSAL_PAUSE: Duration = Duration::from_secs(60);
/// Mail systems that refuse one token after another make us ask for new ones no more often than this.
const DROP_PAUSE: Duration = Duration::from_secs(60);

/// Gives every mailbox the access token of one application. Cloning shares the token.
///
/// # Contract
/// - However many callers wait, one request is on its way; who gives up waiting does not end it for the others.
/// - A token is renewed [`OAuthSettings::renewal_margin`] before it expires; one caller waits for the new one, the others get the present one. Where
///   that fails, it is given out until it expires, whatever the reason: it is good, and its last minutes are the time to repair what is wrong.
/// - A failure is remembered for the pause that the service asks for (`Retry-After`), else for 5 s to 5 min after passing faults and for one minute
///   after refusals; meanwhile callers get the same error without a request.
/// - [`CredentialSource::refused`] drops the token that was refused, not a newer one, and at most once a minute.
/// - The first failed renewal of an outage is logged as an error with the time that is left, its end as a message; [`Self::state`] tells at any time.
#[derive(Clone)]
pub struct OAuthSource(Arc<Inner>);

/// How it stands with a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenState {
    /// When the present token was given; `None` where there is none.
    pub issued: Option<Timestamp>,
    /// Until when it is good; `None` where there is none.
    pub valid_until: Option<Timestamp>,
    /// Why it could not be renewed the last time; `None` after a success.
    pub last_error: Option<CredentialError>,
}

impl TokenState {
    /// Whether mail systems can be opened with the present token.
    #[must_use]
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.valid_until.is_some_and(|until| now < until)
    }
}

struct Inner {
    http: Arc<dyn HttpService>,
    settings: OAuthSettings,
    endpoint: Url,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    state: Mutex<State>,
}

type Outcome = Result<Secret, CredentialError>;
type Flight = BoxFuture<'static, Outcome>;

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// Held weakly: when all who wait have gone, the request goes, too.
    flight: Option<WeakShared<Flight>>,
    failure: Option<Failure>,
    dropped: Option<Instant>,
}

struct Token {
    value: Secret,
    issued: Timestamp,
    expires: Timestamp,
    renew: Timestamp,
}

struct Failure {
    error: CredentialError,
    in_a_row: u32,
    until: Instant,
}

impl OAuthSource {
    /// A source without a token yet.
    ///
    /// # Errors
    /// A setting that cannot be used.
    pub fn new(
        settings: OAuthSettings,
        http: Arc<dyn HttpService>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, CredentialError> {
        let endpoint = settings.token_endpoint()?;
        if let ClientProof::Certificate(certificate) = &settings.proof
            && let Some(expires) = certificate.expires()
            && expires <= clock.now()
        {
            let thumbprint = certificate.thumbprint();
            tracing::warn!(%expires, thumbprint, "the application's certificate has expired; token services refuse it");
        }
        let state = Mutex::new(State::default());
        Ok(Self(Arc::new(Inner { http, settings, endpoint, clock, entropy, state })))
    }

    /// The present token, or a new one.
    ///
    /// # Errors
    /// There is none: the token service refuses the application, or it cannot be reached and the present token is over.
    pub async fn token(&self) -> Result<Secret, CredentialError> {
        let flight = {
            let mut state = self.0.lock();
            let now = self.0.clock.now();
            if let Some(token) = &state.token
                && now < token.renew
            {
                return Ok(token.value.clone());
            }
            if let Some(failure) = &state.failure
                && let Some(left) = failure.until.checked_duration_since(Instant::now())
                && !left.is_zero()
            {
                return state.present(now).ok_or_else(|| {
                    let mut error = failure.error.clone();
                    if let Retry::Later(_) = error.retry {
                        error.retry = Retry::Later(Some(left));
                    }
                    error
                });
            }
            match state.flight.as_ref().and_then(WeakShared::upgrade) {
                // who asked waits for the new one; nobody else has to, while there is one that is good
                Some(flight) => match state.present(now) {
                    Some(token) => return Ok(token),
                    None => flight,
                },
                None => {
                    let flight: Shared<Flight> = Arc::clone(&self.0).renew().boxed().shared();
                    state.flight = flight.downgrade();
                    flight
                }
            }
        };
        flight.await
    }

    /// How it stands with the token; asks nobody.
    #[must_use]
    pub fn state(&self) -> TokenState {
        let state = self.0.lock();
        TokenState {
            issued: state.token.as_ref().map(|token| token.issued),
            valid_until: state.token.as_ref().map(|token| token.expires),
            last_error: state.failure.as_ref().map(|failure| failure.error.clone()),
        }
    }

    /// A server refused this token: it is dropped where it is the present one, at most once a minute. `true` where another one can be had now.
    pub fn refuse(&self, credentials: &Credentials) -> bool {
        let mut state = self.0.lock();
        let is_present =
            matches!((&state.token, credentials.token()), (Some(t), Some(refused)) if t.value == *refused);
        let lately = state.dropped.is_some_and(|at| at.elapsed() < DROP_PAUSE);
        if is_present && !lately {
            tracing::debug!(application = %self.0.settings.client_id, "a server refused the access token; the next one is asked for");
            state.token = None;
            state.dropped = Some(Instant::now());
        }
        !is_present || !lately
    }

    /// What it was made with.
    #[must_use]
    pub fn settings(&self) -> &OAuthSettings {
        &self.0.settings
    }
}

#[async_trait]
impl CredentialSource for OAuthSource {
    async fn credentials(&self, mailbox: &Mailbox) -> Result<Option<Credentials>, CredentialError> {
        Ok(Some(Credentials::bearer(mailbox.address.as_str(), self.token().await?)))
    }

    fn refused(&self, _mailbox: &Mailbox, credentials: &Credentials) {
        self.refuse(credentials);
    }
}

impl State {
    /// The present token, where it is still good.
    fn present(&self, now: Timestamp) -> Option<Secret> {
        self.token.as_ref().filter(|token| now < token.expires).map(|token| token.value.clone())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // nothing that holds the lock can leave it half done
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a token and puts it, or the failure, in its place. Runs once at a time.
    async fn renew(self: Arc<Self>) -> Outcome {
        let asked = self.ask().await;
        let now = self.clock.now();
        let mut state = self.lock();
        state.flight = None;
        let failed = match asked {
            Ok(issued) => {
                if state.failure.take().is_some() {
                    tracing::info!(application = %self.settings.client_id, "access tokens are given again");
                }
                let margin = self.settings.renewal_margin.min(issued.lifetime / 2);
                let at = |after: Duration| now.checked_add(after).unwrap_or(Timestamp::MAX);
                state.token = Some(Token {
                    value: issued.token.clone(),
                    issued: now,
                    expires: at(issued.lifetime),
                    renew: at(issued.lifetime - margin),
                });
                return Ok(issued.token);
            }
            Err(error) => error,
        };
        let before = state.failure.as_ref().map_or(0, |failure| failure.in_a_row);
        let pause = match failed.retry {
            // "0" would have us ask without a pause
            Retry::Later(Some(asked)) => asked.max(SHORTEST_PAUSE),
            Retry::Later(None) => {
                let doubled = FIRST_PAUSE.saturating_mul(1 << before.min(10)).min(LONGEST_PAUSE);
                // several routers must not come back at the same moment
                doubled.mul_f64(0.75 + self.entropy.fraction() / 4.0)
            }
            _ => REFUSAL_PAUSE,
        };
        if before == 0 {
            self.alarm(&failed, state.token.as_ref(), now);
        }
        let until = Instant::now() + pause;
        state.failure = Some(Failure { error: failed.clone(), in_a_row: before.saturating_add(1), until });
        state.present(now).ok_or(failed)
    }

    /// Once for each outage.
    fn alarm(&self, error: &CredentialError, token: Option<&Token>, now: Timestamp) {
        let application = &self.settings.client_id;
        let hint = error.hint.as_deref().unwrap_or_default();
        match token.map(|token| token.expires.duration_since(now)).filter(|left| left.is_positive()) {
            Some(left) => {
                let left = left.as_secs();
                tracing::error!(%application, hint, "the access token cannot be renewed; the present one lasts for {left} s more: {error}");
            }
            None => tracing::error!(%application, hint, "there is no access token: {error}"),
        }
    }

    async fn ask(&self) -> Result<proto::Issued, CredentialError> {
        let (body, secrets) = self.form()?;
        let place = format!("the token service {}", self.endpoint.origin().ascii_serialization());
        let mut request = Request::new(Method::POST, self.endpoint.clone())
            .with_body("application/x-www-form-urlencoded", body.as_bytes().to_vec())
            .with_header(http::header::ACCEPT, http::HeaderValue::from_static("application/json"));
        request.max_body_bytes = proto::ANSWER_CAP;
        request.patience = Some(self.settings.patience);
        let exchange = async {
            let answer = self.http.send(request).await?;
            let (status, headers) = (answer.status, answer.headers);
            Ok::<_, crate::Error>((status, headers, answer.body.collect().await?))
        };
        // a body that drips must not hold all mailboxes up, either
        let answer = tokio::time::timeout(self.settings.patience, exchange).await;
        let (status, headers, body) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(cause)) => return Err(error::unreachable(&cause)),
            Err(_) => return Err(error::unreachable(&crate::fault::late(&place).sent())),
        };
        let after = retry_after(&headers, self.clock.now());
        if status == StatusCode::OK {
            return proto::issued(&body).map_err(|why| error::nonsense(&place, status, why, after));
        }
        Err(match proto::refusal(&body) {
            Some(refusal) => error::refused(&place, status, &refusal, after, &secrets),
            None => error::nonsense(&place, status, "and no answer of a token service", after),
        })
    }

    /// The form, and what of it must not be shown.
    fn form(&self) -> Result<(Zeroizing<String>, Redactor), CredentialError> {
        let settings = &self.settings;
        let mut secrets = Redactor::default();
        let mut form = Serializer::new(String::with_capacity(4096));
        let (grant, what) = match (&settings.proof, settings.service) {
            (ClientProof::Account { .. }, _) => ("password", "resource"),
            (_, TokenService::AdFs) => ("client_credentials", "resource"),
            (_, TokenService::EntraId) => ("client_credentials", "scope"),
        };
        form.append_pair("grant_type", grant)
            .append_pair("client_id", &settings.client_id)
            .append_pair(what, &settings.scope);
        match &settings.proof {
            ClientProof::Secret(secret) if secret.is_empty() => {
                return Err(super::settings::unusable("the client secret is empty"));
            }
            ClientProof::Secret(secret) => {
                secrets.add(secret.expose());
                form.append_pair("client_secret", secret.expose());
            }
            ClientProof::Account { user, password, secret } => {
                secrets.add(password.expose());
                form.append_pair("username", user).append_pair("password", password.expose());
                if let Some(secret) = secret {
                    secrets.add(secret.expose());
                    form.append_pair("client_secret", secret.expose());
                }
            }
            ClientProof::Certificate(certificate) => {
                let (clock, entropy) = (&*self.clock, &*self.entropy);
                let audience = self.endpoint.as_str();
                let assertion = certificate.assertion(&settings.client_id, audience, clock, entropy)?;
                secrets.add(assertion.expose());
                form.append_pair(
                    "client_assertion_type",
                    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                )
                .append_pair("client_assertion", assertion.expose());
            }
        }
        Ok((Zeroizing::new(form.finish()), secrets))
    }
}

impl fmt::Debug for OAuthSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthSource")
            .field("settings", &self.0.settings)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
