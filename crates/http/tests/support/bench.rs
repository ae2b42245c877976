//! A token source and the service that it asks.

use std::sync::Arc;
use std::time::Duration;

use email_router_http::HttpClient;
use email_router_http::oauth::{ClientProof, Cloud, OAuthSettings, OAuthSource};
use email_router_model::{ManualClock, SeededEntropy};
use email_router_testkit::oauth::{CLIENT_ID, OAuthService, TENANT};

pub const SECRET: &str = "s3cr3t~value";

pub struct Bench {
    pub service: OAuthService,
    pub clock: Arc<ManualClock>,
    pub source: OAuthSource,
}

impl Bench {
    pub async fn new(change: impl FnOnce(OAuthSettings) -> OAuthSettings) -> Self {
        let clock = Arc::new(ManualClock::new("2026-11-25T12:00:00Z".parse().unwrap()));
        let service = OAuthService::start(clock.clone()).await;
        // an address, not a name: resolving a name takes a thread, for which the paused clock waits
        let authority = format!("http://127.0.0.1:{}", service.server().port()).parse().unwrap();
        let proof = ClientProof::Secret(SECRET.into());
        let settings =
            change(OAuthSettings::new(Cloud::Public, TENANT, CLIENT_ID, proof).with_authority(authority));
        let http = Arc::new(HttpClient::new(super::settings()).unwrap());
        let source = OAuthSource::new(settings, http, clock.clone(), Arc::new(SeededEntropy::new(7)));
        Self { service, clock, source: source.unwrap() }
    }

    pub async fn plain() -> Self {
        Self::new(|settings| settings).await
    }

    /// Both clocks go on.
    pub async fn later(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }
}
