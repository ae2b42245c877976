//! SIGTERM, SIGINT and Ctrl-C.

use tokio::sync::watch;

/// Becomes true at the first signal; a second one ends the program at once, which the crash tables cover.
pub(crate) fn stop() -> watch::Receiver<bool> {
    let (sender, stop) = watch::channel(false);
    tokio::spawn(async move {
        a_signal().await;
        tracing::info!("told to stop; once more ends at once");
        sender.send_replace(true);
        a_signal().await;
        std::process::exit(130);
    });
    stop
}

#[cfg(unix)]
async fn a_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        _ => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn a_signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
