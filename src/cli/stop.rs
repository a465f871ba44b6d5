//! Ctrl-C and SIGTERM: the first asks to stop in order, the second to leave at once. Listens to signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a person asked for by signals.
#[derive(Clone, Debug)]
pub struct ShutdownSignals {
    /// The first signal: give transfers up, delete the sessions, say what is left.
    pub graceful: CancellationToken,
    /// The second: leave, and let the next run clean up.
    pub immediate: CancellationToken,
}

/// Listens from now on, in a task of the runtime.
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
