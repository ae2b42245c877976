//! A source of access tokens, as a client of a token service is one.
#![allow(clippy::expect_used, clippy::unwrap_used)] // helpers of a test: what fails here fails the test
#![allow(dead_code)] // each test program uses a part of it

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use email_router_model::Mailbox;
use email_router_transport::net::{CredentialError, CredentialSource, Credentials};

/// Gives out one token until it is refused, then the next; the last one for ever.
pub(crate) struct Tokens {
    user: String,
    tokens: Vec<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    refused: Vec<String>,
    asked: usize,
}

impl Tokens {
    pub(crate) fn new(user: &str, tokens: &[&str]) -> Arc<Self> {
        let tokens = tokens.iter().map(|&t| t.to_owned()).collect();
        Arc::new(Self { user: user.to_owned(), tokens, state: Mutex::default() })
    }

    /// What was refused, in order.
    pub(crate) fn refusals(&self) -> Vec<String> {
        self.state.lock().unwrap().refused.clone()
    }

    /// How often somebody asked.
    pub(crate) fn asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }
}

#[async_trait]
impl CredentialSource for Tokens {
    async fn credentials(&self, _: &Mailbox) -> Result<Option<Credentials>, CredentialError> {
        let mut state = self.state.lock().unwrap();
        state.asked += 1;
        let token = &self.tokens[state.refused.len().min(self.tokens.len() - 1)];
        Ok(Some(Credentials::bearer(&self.user, token.as_str().into())))
    }

    fn refused(&self, _: &Mailbox, credentials: &Credentials) {
        self.state.lock().unwrap().refused.push(credentials.token().unwrap().expose().to_owned());
    }
}

/// The channel binding of a server with this certificate (PEM).
pub(crate) fn end_point(pem: &str) -> Vec<u8> {
    use base64::Engine as _;
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    email_router_tls::server_end_point(&base64::prelude::BASE64_STANDARD.decode(text).unwrap()).unwrap()
}

/// A token of `scripts/peers/dovecot.sh`: good, renewed, expired, forged, delegated.
pub(crate) fn of_dovecot(name: &str) -> String {
    let folder = std::env::var("DOVECOT_TOKENS").expect("DOVECOT_TOKENS is set where the ports are");
    let file = std::path::Path::new(&folder).join(name);
    String::from_utf8(email_router_model::read_file_capped(&file, 4096).unwrap()).unwrap()
}
