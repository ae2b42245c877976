//! Proves a connection: the legs of an authentication exchange through HTTP (RFC 4559, [MS-NTHT]).

use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use email_router_auth::{AuthError, Channel, CredentialFault, Exchange, Mechanism};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue, WWW_AUTHENTICATE};
use http_body_util::{BodyExt as _, Full};
use zeroize::Zeroizing;

use crate::challenge::{self, Challenge, challenges};
use crate::connection::{Connection, Failed, Incomplete, Outgoing};
use crate::{Error, ErrorKind, Login, Result, Scheme, StatusCode, fault};

/// The most legs of an exchange: SPNEGO around NTLM has three.
const MOST_LEGS: usize = 6;

/// So much of the answer to a leg is read and thrown away; beyond it the connection is.
const DRAIN_CAP: usize = 256 * 1024;

/// What NTLM messages begin with, also inside SPNEGO.
const NTLM_SIGNATURE: &[u8] = b"NTLMSSP\0";

/// A mechanism under the name that HTTP has for it.
#[derive(Clone)]
struct Candidate {
    scheme: &'static str,
    mechanism: Arc<dyn Mechanism>,
}

/// What an exchange needs beside the connection.
pub(crate) struct Proving<'a> {
    pub(crate) login: &'a Login,
    pub(crate) mechanisms: &'a [Arc<dyn Mechanism>],
    pub(crate) channel: Channel,
    pub(crate) patience: Duration,
    pub(crate) place: &'a str,
}

impl Proving<'_> {
    /// Sends the request through a fresh connection while it is being proven; the answer is that to the request, also where the login was
    /// refused (status 401). The connection must be dropped after an error.
    ///
    /// The first leg goes without the body where its token holds a message of NTLM, which never suffices: no server has to read a large body
    /// twice. Any other token may suffice, and then the answer is the one to the whole request.
    pub(crate) async fn send(&self, connection: &mut Connection, request: &Outgoing) -> Result<Incomplete> {
        let candidates = self.candidates()?;
        let mut refused = None;
        for (at, candidate) in candidates.iter().enumerate() {
            let further: Vec<_> =
                candidates[at + 1..].iter().filter(|next| next.scheme != candidate.scheme).cloned().collect();
            let exchange = match candidate.mechanism.begin(&self.login.credentials, &self.channel) {
                Ok(exchange) => exchange,
                Err(error) => {
                    refused = Some(self.fault(&error));
                    continue;
                }
            };
            if let Some(answer) = self.exchange(connection, request, candidate, exchange, &further).await? {
                return Ok(answer);
            }
        }
        Err(refused.unwrap_or_else(|| {
            Error::new(ErrorKind::Authentication, format!("{}: no way to log in is left", self.place))
        }))
    }

    /// `None`: the server offers only what `further` has.
    async fn exchange(
        &self,
        connection: &mut Connection,
        request: &Outgoing,
        candidate: &Candidate,
        mut exchange: Box<dyn Exchange>,
        further: &[Candidate],
    ) -> Result<Option<Incomplete>> {
        let scheme = candidate.scheme;
        let token = exchange.initial().unwrap_or_default();
        let bare = contains(&token, NTLM_SIGNATURE) && has_body(request);
        let mut answer = self.leg(connection, with_token(request, scheme, &token, bare), bare).await?;
        if bare && answer.status() != StatusCode::UNAUTHORIZED {
            // nothing is protected here, or this connection is proven already: the request itself is still to be sent
            self.drain(answer).await?;
            return Ok(Some(self.leg(connection, request.clone(), false).await?));
        }
        for legs in 1.. {
            let offered = challenges(answer.headers(), &WWW_AUTHENTICATE);
            let ours = offered.iter().find(|challenge| challenge.is(scheme));
            let token = ours.and_then(|challenge| challenge.token.as_deref());
            if answer.status() != StatusCode::UNAUTHORIZED {
                exchange.finish(token).map_err(|error| self.fault(&error).sent())?;
                return Ok(Some(answer));
            }
            let Some(token) = token else {
                if legs == 1 && has_next(further, &offered) {
                    self.drain(answer).await?;
                    return Ok(None);
                }
                if ours.is_none() && legs == 1 {
                    return Err(self.not_offered(scheme, &offered));
                }
                // refused, which is an answer
                return Ok(Some(answer));
            };
            if legs >= MOST_LEGS {
                let message = format!("{}: the {scheme} exchange does not come to an end", self.place);
                return Err(Error::new(ErrorKind::Authentication, message));
            }
            let next = match exchange.step(token) {
                Ok(next) => next,
                // SPNEGO has a token that says so, and the status says it once more: refused
                Err(_) if legs > 1 => return Ok(Some(answer)),
                Err(_) if has_next(further, &offered) => {
                    self.drain(answer).await?;
                    return Ok(None);
                }
                Err(error) => return Err(self.fault(&error)),
            };
            self.drain(answer).await?;
            answer = self.leg(connection, with_token(request, scheme, &next, false), false).await?;
        }
        Ok(None)
    }

    /// One request of the exchange. A leg without the body has not sent the request, whatever becomes of it.
    async fn leg(&self, connection: &mut Connection, request: Outgoing, bare: bool) -> Result<Incomplete> {
        match connection.send(request, self.patience, self.place).await {
            Ok(answer) => Ok(answer),
            Err(Failed::Unsent(cause)) => Err(Error::new(
                ErrorKind::ConnectionLost,
                format!("{} closed the connection in the middle of the {} exchange", self.place, self.login.scheme),
            )
            .with_hint(
                "the exchange proves one connection: a proxy or load balancer on the way must keep it open for one client",
            )
            .with_source(cause)),
            Err(Failed::Error(error)) if bare => Err(error.unsent()),
            Err(Failed::Error(error)) => Err(error),
        }
    }

    /// Reads the body of an answer to the end, so that the connection can be used.
    async fn drain(&self, answer: Incomplete) -> Result<()> {
        let mut body = answer.into_body();
        let mut left = DRAIN_CAP;
        let read = async {
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|cause| fault::hyper(self.place, cause))?;
                let length = frame.data_ref().map_or(0, Bytes::len);
                left = left.checked_sub(length).ok_or_else(|| {
                    let message = format!(
                        "{} answers a leg of the exchange with more than {DRAIN_CAP} bytes",
                        self.place
                    );
                    Error::new(ErrorKind::TooLarge, message)
                })?;
            }
            Ok(())
        };
        tokio::time::timeout(self.patience, read).await.map_err(|_| fault::late(self.place))?
    }

    /// The mechanisms that this login asks for and its credentials allow, the strongest first.
    fn candidates(&self) -> Result<Vec<Candidate>> {
        let schemes: &[(&'static str, &str)] = match self.login.scheme {
            Scheme::Ntlm => &[("NTLM", "NTLM")],
            Scheme::Negotiate => &[("Negotiate", "GSS-SPNEGO")],
            _ => &[("Negotiate", "GSS-SPNEGO"), ("NTLM", "NTLM")],
        };
        let has = self.login.credentials.proof.kind();
        let found: Vec<Candidate> = schemes
            .iter()
            .flat_map(|&(scheme, name)| {
                self.mechanisms
                    .iter()
                    .filter(move |mechanism| {
                        let safe = !mechanism.shows_password() || self.channel.may_show_password();
                        mechanism.name() == name && mechanism.wants() == has && safe
                    })
                    .map(move |mechanism| Candidate { scheme, mechanism: Arc::clone(mechanism) })
            })
            .collect();
        if found.is_empty() {
            let message = format!("{}: {} cannot be done with {has}", self.place, self.login.scheme);
            return Err(Error::new(ErrorKind::Settings, message)
                .with_hint("NTLM needs a name and password; the identity of the process needs Kerberos"));
        }
        Ok(found)
    }

    fn not_offered(&self, scheme: &str, offered: &[Challenge]) -> Error {
        let names = challenge::names(offered);
        Error::new(
            ErrorKind::Authentication,
            format!("{} does not offer {scheme} (it offers {names})", self.place),
        )
        .with_hint("choose an authentication type that the server offers, or turn this one on there")
    }

    fn fault(&self, error: &AuthError) -> Error {
        if let AuthError::Ticket(cause) = error {
            let kind = match cause.fault {
                CredentialFault::Settings => ErrorKind::Settings,
                CredentialFault::Refused => ErrorKind::Authentication,
                _ => ErrorKind::Timeout,
            };
            let fault = Error::new(kind, format!("{}: {cause}", self.place)).with_source(cause.clone());
            return match &cause.hint {
                Some(hint) => fault.with_hint(hint.clone()),
                None => fault,
            };
        }
        let kind = match error {
            AuthError::WrongProof { .. } | AuthError::Unrepresentable { .. } => ErrorKind::Settings,
            _ => ErrorKind::Authentication,
        };
        Error::new(kind, format!("{}: {error}", self.place))
    }
}

/// Whether the server offers another way that there is.
fn has_next(further: &[Candidate], offered: &[Challenge]) -> bool {
    further.iter().any(|next| offered.iter().any(|challenge| challenge.is(next.scheme)))
}

fn has_body(request: &Outgoing) -> bool {
    !hyper::body::Body::is_end_stream(request.body())
}

fn with_token(request: &Outgoing, scheme: &str, token: &[u8], bare: bool) -> Outgoing {
    let mut leg = request.clone();
    let text = Zeroizing::new(if token.is_empty() {
        scheme.to_owned()
    } else {
        format!("{scheme} {}", BASE64_STANDARD.encode(token))
    });
    // base64 is always a valid value
    if let Ok(mut value) = HeaderValue::from_str(&text) {
        value.set_sensitive(true);
        leg.headers_mut().insert(AUTHORIZATION, value);
    }
    if bare {
        leg.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        *leg.body_mut() = Full::new(Bytes::new());
    }
    leg
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}
