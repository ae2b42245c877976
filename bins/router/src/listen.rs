//! The optional listener: `/metrics` for Prometheus, `/healthz` for supervisors, `/status` for people and programs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use email_router::Service;
use email_router::model::{Clock as _, SystemClock};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What the listener shows.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) metrics: PrometheusHandle,
    pub(crate) service: Arc<Service>,
}

/// Opens the listener; refuses an address that others can reach unless `anywhere`.
pub(crate) async fn bind(address: SocketAddr, anywhere: bool) -> io::Result<TcpListener> {
    if !address.ip().is_loopback() && !anywhere {
        let text = format!(
            "{address} can be reached from other machines and the listener has no password; use 127.0.0.1, or say --listen-anywhere if a firewall or proxy guards it"
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    TcpListener::bind(address)
        .await
        .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))
}

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    shown: Shown,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let upkeep = shown.metrics.clone();
    let mut until = stop.clone();
    tokio::spawn(async move {
        // the recorder keeps histogram samples until somebody drains them
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                _ = tick.tick() => upkeep.run_upkeep(),
                _ = until.wait_for(|s| *s) => return,
            }
        }
    });
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/status", get(status))
        .with_state(shown);
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            let _ = stop.wait_for(|s| *s).await;
        })
        .await
}

async fn metrics(State(shown): State<Shown>) -> impl IntoResponse {
    let tokens: Vec<_> = shown.service.organizations().flat_map(|o| o.access_tokens()).collect();
    email_router::metrics::show_deployments(&shown.service.deployments());
    email_router::metrics::show_access_tokens(&tokens, SystemClock.now());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shown.metrics.render())
}

/// 200 when the state store answers, 503 when it does not. A mailbox that fails is no reason to restart the service.
async fn healthz(State(shown): State<Shown>) -> Response {
    match shown.service.state().statuses().await {
        Ok(_) => (StatusCode::OK, "ok\n").into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

#[derive(Deserialize)]
struct StatusQuery {
    format: Option<String>,
}

async fn status(State(shown): State<Shown>, Query(query): Query<StatusQuery>) -> Response {
    match crate::commands::status::Shown::of(&shown.service).await {
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        Ok(status) if query.format.as_deref() == Some("text") => status.text().into_response(),
        Ok(status) => axum::Json(status).into_response(),
    }
}
