//! A daemon's dealings with the service manager: ready, alive, stopping, and the wish to stop.

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn notify(states: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// Tells that the daemon does its work from now on, and how it is.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells how the daemon is.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Gives the service manager its signs of life, if it wants any, until shutdown. To be run on the runtime that
/// does the daemon's work: when that hangs, so do the signs.
pub async fn watchdog(shutdown: CancellationToken) {
    let Some(interval) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval(interval / 2);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        notify(&[NotifyState::Watchdog]);
    }
}

/// A token that is cancelled at SIGTERM or SIGINT, of which the service manager is told. To be called within the runtime.
///
/// # Errors
/// The signals cannot be caught.
pub fn shutdown_signals() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop");
        notify(&[NotifyState::Stopping]);
        cancelled.cancel();
    });
    Ok(token)
}
