//! Shutdown by Ctrl-C or SIGTERM: the first signal is graceful, the second immediate. Listens for signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Shutdown requests by signals.
#[derive(Clone, Debug)]
pub struct ShutdownSignals {
    /// Cancelled by the first signal: abort transfers, delete sessions, print what is left.
    pub graceful: CancellationToken,
    /// Cancelled by the second signal: exit; the next run cleans up.
    pub immediate: CancellationToken,
}

/// Spawns a task that listens for signals.
pub fn listen() -> io::Result<ShutdownSignals> {
    let stop = ShutdownSignals {
        graceful: CancellationToken::new(),
        immediate: CancellationToken::new(),
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let signals = stop.clone();
    tokio::spawn(async move {
        next_signal(&mut interrupt, &mut terminate).await;
        signals.graceful.cancel();
        next_signal(&mut interrupt, &mut terminate).await;
        signals.immediate.cancel();
    });
    Ok(stop)
}

async fn next_signal(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
