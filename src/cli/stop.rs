//! Ctrl-C and SIGTERM: the first asks to stop in order, the second to leave at once. Listens to signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a person asked for by signals.
#[derive(Clone, Debug)]
pub struct Stop {
    /// The first signal: give transfers up, delete the sessions, say what is left.
    pub orderly: CancellationToken,
    /// The second: leave, and let the next run clean up.
    pub at_once: CancellationToken,
}

/// Listens from now on, in a task of the runtime.
pub fn listen() -> io::Result<Stop> {
    let stop = Stop {
        orderly: CancellationToken::new(),
        at_once: CancellationToken::new(),
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let heard = stop.clone();
    tokio::spawn(async move {
        one_of(&mut interrupt, &mut terminate).await;
        heard.orderly.cancel();
        one_of(&mut interrupt, &mut terminate).await;
        heard.at_once.cancel();
    });
    Ok(stop)
}

async fn one_of(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
