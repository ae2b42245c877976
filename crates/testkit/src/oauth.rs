//! A token service that behaves as that of Microsoft Entra ID, version 2.0, does for client credentials; and, at `/adfs/oauth2/token`, as AD FS does.
//!
//! MSAL for Python and azure-identity get their tokens from it (`scripts/peers/oauth-clients.py`), so it is not only our own idea of the real one.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64, Engine as _};
use email_router_model::{Clock, SystemClock};
use ring::digest;
use ring::rsa::KeyPair as RsaKeyPair;
use ring::signature::{
    KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaParameters, UnparsedPublicKey,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use crate::http::{Answer, HttpServer, Seen};

/// The certificate of the test application.
pub const TEST_CERTIFICATE: &str = include_str!("../data/oauth-cert.pem");
/// Its key, as PKCS #8. It protects nothing.
pub const TEST_KEY: &str = include_str!("../data/oauth-key.pem");
/// The same key, as PKCS #1.
pub const TEST_KEY_PKCS1: &str = include_str!("../data/oauth-key-pkcs1.pem");
/// The one tenant that there is.
pub const TENANT: &str = "0f0f0f0f-1111-2222-3333-444444444444";
/// A domain of that tenant.
pub const TENANT_DOMAIN: &str = "contoso.test";
/// The one application that there is.
pub const CLIENT_ID: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

/// The one user of the service's AD FS.
pub const AD_FS_USER: &str = "CONTOSO\\router";
/// Its password.
pub const AD_FS_PASSWORD: &str = "pass+w&rd";

/// How the service behaves; changed by tests while it runs.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// The application's secret.
    pub secret: String,
    /// Whether that secret has expired.
    pub secret_expired: bool,
    /// Whether the certificate is registered with the application.
    pub certificate_registered: bool,
    /// How long tokens are good for, in seconds.
    pub lifetime: u64,
    /// Answers for the next requests for a token, in their order, in place of what would be said.
    pub next: Vec<Answer>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            secret: "s3cr3t~value".to_owned(),
            secret_expired: false,
            certificate_registered: true,
            lifetime: 3599,
            next: Vec::new(),
        }
    }
}

#[derive(Default)]
struct State {
    behaviour: Behaviour,
    /// Requests for a token.
    asked: usize,
    /// Tokens and until when they are good, in seconds of Unix time.
    tokens: HashMap<String, i64>,
}

/// A running token service.
pub struct OAuthService {
    server: HttpServer,
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
}

impl OAuthService {
    /// Without TLS on a free port, by this clock.
    pub async fn start(clock: Arc<dyn Clock>) -> Self {
        Self::listen(0, None, clock).await
    }

    /// On this port of this machine (0: a free one), inside TLS where there is an acceptor.
    pub async fn listen(port: u16, acceptor: Option<TlsAcceptor>, clock: Arc<dyn Clock>) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, time, tls) = (Arc::clone(&state), Arc::clone(&clock), acceptor.is_some());
        let server = HttpServer::listen(port, acceptor, move |seen| {
            respond(&mut shared.lock().unwrap(), seen, tls, time.now().as_second())
        })
        .await;
        Self { server, state, clock }
    }

    /// By the clock of this machine.
    pub async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::listen(0, Some(acceptor), Arc::new(SystemClock)).await
    }

    /// The authority: what tenants are appended to.
    #[must_use]
    pub fn authority(&self) -> String {
        self.server.base()
    }

    /// The server behind it.
    #[must_use]
    pub fn server(&self) -> &HttpServer {
        &self.server
    }

    /// Changes how it behaves from now on.
    ///
    /// # Panics
    /// When the server panicked; that fails the test.
    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.lock().unwrap().behaviour);
    }

    /// How many requests for a token came.
    ///
    /// # Panics
    /// When the server panicked; that fails the test.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }

    /// Whether it gave this token and the token is still good.
    ///
    /// # Panics
    /// When the server panicked; that fails the test.
    #[must_use]
    pub fn accepts(&self, token: &str) -> bool {
        let now = self.clock.now().as_second();
        self.state.lock().unwrap().tokens.get(token).is_some_and(|&until| now < until)
    }
}

impl fmt::Debug for OAuthService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthService").field("authority", &self.authority()).finish_non_exhaustive()
    }
}

/// An error as Entra ID says it.
#[must_use]
pub fn refusal(status: u16, error: &str, number: u32, words: &str) -> Answer {
    let body = json!({
        "error": error,
        "error_description": format!(
            "AADSTS{number}: {words}\r\nTrace ID: 00000000-0000-0000-0000-000000000001\r\nCorrelation ID: 00000000-0000-0000-0000-000000000002\r\nTimestamp: 2026-11-25 12:00:00Z"
        ),
        "error_codes": [number],
        "timestamp": "2026-11-25 12:00:00Z",
        "trace_id": "00000000-0000-0000-0000-000000000001",
        "correlation_id": "00000000-0000-0000-0000-000000000002",
        "error_uri": format!("https://login.microsoftonline.com/error?code={number}"),
    });
    Answer::new(status).body("application/json; charset=utf-8", body.to_string())
}

fn respond(state: &mut State, seen: &Seen, tls: bool, now: i64) -> Answer {
    let path = seen.path().trim_start_matches('/');
    let tenant = path.split('/').next().unwrap_or_default();
    let scheme = if tls { "https" } else { "http" };
    let base = format!("{scheme}://{}", seen.header("host").unwrap_or_default());
    let json = |value: Value| Answer::new(200).body("application/json; charset=utf-8", value.to_string());
    match (seen.method.as_str(), path) {
        ("POST", path) if path.ends_with("/oauth2/v2.0/token") => {
            state.asked += 1;
            if !state.behaviour.next.is_empty() {
                return state.behaviour.next.remove(0);
            }
            token(state, seen, tenant, now)
        }
        ("POST", "adfs/oauth2/token") => {
            state.asked += 1;
            if !state.behaviour.next.is_empty() {
                return state.behaviour.next.remove(0);
            }
            ad_fs(state, seen, now)
        }
        ("GET", path) if path.ends_with("/v2.0/.well-known/openid-configuration") => json(json!({
            "issuer": format!("{base}/{tenant}/v2.0"),
            "token_endpoint": format!("{base}/{tenant}/oauth2/v2.0/token"),
            "authorization_endpoint": format!("{base}/{tenant}/oauth2/v2.0/authorize"),
            "jwks_uri": format!("{base}/{tenant}/discovery/v2.0/keys"),
        })),
        ("GET", path) if path.ends_with("discovery/instance") => {
            let host = seen.header("host").unwrap_or_default();
            json(json!({
                "tenant_discovery_endpoint": format!("{base}/common/v2.0/.well-known/openid-configuration"),
                "api-version": "1.1",
                "metadata": [{ "preferred_network": host, "preferred_cache": host, "aliases": [host] }],
            }))
        }
        _ => Answer::new(404).body("text/html", "<html><body>404</body></html>"),
    }
}

fn token(state: &mut State, seen: &Seen, tenant: &str, now: i64) -> Answer {
    let form = form(&seen.text());
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let (is_id, is_domain) = (tenant.contains('-') && tenant.len() == 36, tenant.contains('.'));
    if !is_id && !is_domain {
        return refusal(
            400,
            "invalid_request",
            900_023,
            &format!("Specified tenant identifier '{tenant}' is no domain."),
        );
    }
    if ![TENANT, TENANT_DOMAIN].contains(&tenant) {
        return refusal(400, "invalid_request", 90_002, &format!("Tenant '{tenant}' not found."));
    }
    if field("grant_type") != "client_credentials" {
        return refusal(400, "unsupported_grant_type", 70_003, "The grant type is not supported.");
    }
    if field("client_id") != CLIENT_ID {
        let words = format!("Application with identifier '{}' was not found.", field("client_id"));
        return refusal(400, "unauthorized_client", 700_016, &words);
    }
    let (secret, assertion) = (form.get("client_secret"), form.get("client_assertion"));
    let refused = match (secret, assertion) {
        (Some(secret), None) if *secret != state.behaviour.secret => {
            Some((7_000_215, "Invalid client secret provided."))
        }
        (Some(_), None) if state.behaviour.secret_expired => {
            Some((7_000_222, "The client secret keys are expired."))
        }
        (Some(_), None) => None,
        (None, Some(assertion)) => {
            let kind = field("client_assertion_type");
            let audience = format!("{}/{tenant}/oauth2/v2.0/token", seen.header("host").unwrap_or_default());
            if kind != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
                Some((50_027, "The assertion type is not supported."))
            } else {
                check(assertion, &audience, now, state.behaviour.certificate_registered).err()
            }
        }
        _ => Some((7_000_216, "A client secret or assertion is required.")),
    };
    if let Some((number, words)) = refused {
        return refusal(401, "invalid_client", number, words);
    }
    let scope = field("scope");
    let Some(audience) = scope.strip_suffix("/.default") else {
        return refusal(400, "invalid_scope", 1_002_012, &format!("The scope {scope} is not valid."));
    };
    if !audience.starts_with("https://") {
        let words = format!("The resource principal named {audience} was not found in the tenant.");
        return refusal(400, "invalid_resource", 500_011, &words);
    }
    let lifetime = state.behaviour.lifetime;
    let claims = json!({
        "aud": audience, "iss": format!("https://sts.test/{TENANT}/"), "appid": CLIENT_ID, "idtyp": "app",
        "iat": now, "nbf": now, "exp": now + lifetime.cast_signed(), "tid": TENANT, "uti": state.tokens.len(),
    });
    let token = format!(
        "{}.{}.{}",
        BASE64.encode(r#"{"alg":"none","typ":"JWT"}"#),
        BASE64.encode(claims.to_string()),
        BASE64.encode(format!("signature {}", state.asked))
    );
    state.tokens.insert(token.clone(), now + lifetime.cast_signed());
    let body = json!({
        "token_type": "Bearer", "expires_in": lifetime, "ext_expires_in": lifetime, "access_token": token,
    });
    Answer::new(200)
        .header("Cache-Control", "no-store")
        .body("application/json; charset=utf-8", body.to_string())
}

/// The token of Active Directory Federation Services, for a user or an application; what it is for is called resource.
fn ad_fs(state: &mut State, seen: &Seen, now: i64) -> Answer {
    let form = form(&seen.text());
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let refused = |error: &str, words: &str| {
        let body = json!({ "error": error, "error_description": words });
        Answer::new(400).body("application/json;charset=UTF-8", body.to_string())
    };
    if field("client_id") != CLIENT_ID {
        return refused("invalid_client", "MSIS9607: The 'client_id' parameter in the request is invalid.");
    }
    match field("grant_type") {
        "password" if field("username") != AD_FS_USER || field("password") != AD_FS_PASSWORD => {
            return refused("invalid_grant", "MSIS9659: Invalid 'username' or 'password'.");
        }
        "client_credentials" if field("client_secret") != state.behaviour.secret => {
            return refused("invalid_client", "MSIS9623: Received invalid Client credentials.");
        }
        "password" | "client_credentials" => {}
        _ => return refused("unsupported_grant_type", "MSIS9611: The grant type is not supported."),
    }
    if !field("resource").starts_with("https://") {
        return refused("invalid_resource", "MSIS9602: The received 'resource' parameter is invalid.");
    }
    let token = BASE64.encode(format!("adfs {} {} {}", field("resource"), field("username"), state.asked));
    let lifetime = state.behaviour.lifetime;
    state.tokens.insert(token.clone(), now + lifetime.cast_signed());
    let body = json!({ "access_token": token, "token_type": "bearer", "expires_in": lifetime });
    Answer::new(200)
        .header("Cache-Control", "no-store")
        .body("application/json;charset=UTF-8", body.to_string())
}

/// Whether a client assertion (RFC 7523 section 3) is that of the application.
fn check(assertion: &str, audience: &str, now: i64, registered: bool) -> Result<(), (u32, &'static str)> {
    const MALFORMED: (u32, &str) = (50_027, "The assertion is malformed.");
    let parts: Vec<&str> = assertion.split('.').collect();
    let [header, claims, signature] = parts[..] else { return Err(MALFORMED) };
    let json = |part: &str| -> Result<Value, (u32, &'static str)> {
        let bytes = BASE64.decode(part).map_err(|_| MALFORMED)?;
        serde_json::from_slice(&bytes).map_err(|_| MALFORMED)
    };
    let (head, body) = (json(header)?, json(claims)?);
    let certificate = CertificateDer::from_pem_slice(TEST_CERTIFICATE.as_bytes()).expect("a certificate");
    let thumbprint = |algorithm| digest::digest(algorithm, &certificate).as_ref().to_vec();
    // MSAL leaves the padding on, which the real service takes
    let named = |name: &str| BASE64.decode(head[name].as_str()?.trim_end_matches('=')).ok();
    let named = match named("x5t#S256") {
        Some(found) => found == thumbprint(&digest::SHA256),
        None => named("x5t").is_some_and(|found| found == thumbprint(&digest::SHA1_FOR_LEGACY_USE_ONLY)),
    };
    if !registered || !named {
        return Err((700_027, "The certificate with this thumbprint is not registered on the application."));
    }
    let parameters: &'static RsaParameters = match head["alg"].as_str() {
        Some("PS256") => &RSA_PSS_2048_8192_SHA256,
        Some("RS256") => &RSA_PKCS1_2048_8192_SHA256,
        _ => return Err(MALFORMED),
    };
    let key = PrivatePkcs8KeyDer::from_pem_slice(TEST_KEY.as_bytes()).expect("a key");
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).expect("an RSA key");
    let signature = BASE64.decode(signature).map_err(|_| MALFORMED)?;
    UnparsedPublicKey::new(parameters, key.public_key().as_ref())
        .verify(format!("{header}.{claims}").as_bytes(), &signature)
        .map_err(|_| (700_027, "The assertion failed signature validation."))?;
    let for_us = body["aud"]
        .as_str()
        .is_some_and(|aud| aud.split_once("://").is_some_and(|(_, rest)| rest == audience));
    if !for_us {
        return Err((700_023, "The audience of the assertion is not this service."));
    }
    if body["iss"] != CLIENT_ID || body["sub"] != CLIENT_ID {
        return Err((700_021, "Issuer or subject of the assertion is not the application."));
    }
    // a NumericDate may have a fraction (RFC 7519 section 2); MSAL writes one
    #[allow(clippy::cast_precision_loss)]
    let now = now as f64;
    let time = |name: &str| body[name].as_f64();
    let timely = time("exp").is_some_and(|exp| now < exp && exp - now <= 86_400.0)
        && time("nbf").is_none_or(|nbf| nbf <= now + 300.0);
    if timely { Ok(()) } else { Err((700_024, "The assertion is not within its valid time range.")) }
}

/// The fields of `application/x-www-form-urlencoded`.
fn form(text: &str) -> HashMap<String, String> {
    let decode = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'+' => b' ',
                b'%' => {
                    let digits = [rest.next().unwrap_or_default(), rest.next().unwrap_or_default()];
                    let digits = String::from_utf8_lossy(&digits).into_owned();
                    u8::from_str_radix(&digits, 16).unwrap_or(b'?')
                }
                other => other,
            });
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(n, v)| (decode(n), decode(v))).collect()
}
