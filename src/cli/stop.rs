//! Shutdown by Ctrl-C, SIGTERM or SIGHUP (a closed terminal): the first signal is graceful, the second immediate. Listens
//! for signals.

use std::{fs, io};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Time in which further signals belong to the first one: half a second.
const SAME_REQUEST: std::time::Duration = std::time::Duration::from_millis(500);

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
    let mut hangup = if is_ignored(SignalKind::hangup()) {
        None
    } else {
        Some(signal(SignalKind::hangup())?)
    };
    let signals = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = next_signal(&mut interrupt, &mut terminate) => {}
            () = next_hangup(hangup.as_mut()) => {}
        }
        signals.graceful.cancel();
        // `timeout` signals the process and then its group: one request to stop, in two signals.
        let until = tokio::time::Instant::now() + SAME_REQUEST;
        while tokio::time::timeout_at(until, next_signal(&mut interrupt, &mut terminate))
            .await
            .is_ok()
        {}
        // A closed terminal sends SIGHUP more than once: by the kernel and by the shell.
        next_signal(&mut interrupt, &mut terminate).await;
        signals.immediate.cancel();
    });
    Ok(stop)
}

/// Returns true if the process was started with a signal ignored, as `nohup` does with SIGHUP.
fn is_ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = u32::try_from(kind.as_raw_value() - 1).unwrap_or(u32::MAX);
    mask.is_some_and(|mask| mask.checked_shr(bit).is_some_and(|rest| rest & 1 == 1))
}

async fn next_hangup(hangup: Option<&mut Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}

async fn next_signal(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
