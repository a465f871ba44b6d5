//! Least speed of a transfer: one that hardly moves gives its place up when an export that has none waits for it. Waits; no I/O.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::failure::Failure;
use crate::api::Reason;
use crate::archive::window::Window;

/// Time in which a transfer must receive [`LEAST_BYTES`]: 3 min, longer than a peer may keep a request without a byte, and than
/// a part of 8 MiB takes at that speed with three others beside it.
const PERIOD: Duration = Duration::from_mins(3);

/// Bytes that a transfer must receive in [`PERIOD`] while others wait: 3 MiB. At 1 MiB a minute, an attempt of 6 h stores no
/// more than 360 MiB; a larger day is split into hours sooner or later.
const LEAST_BYTES: u64 = 3 * 1024 * 1024;

/// Returns once a transfer was too slow for a period, although it had memory, and its export owes its place to another one.
pub(super) async fn too_slow(
    received: &watch::Receiver<u64>,
    awaits_memory: &AtomicBool,
    is_owing: impl Fn() -> bool,
) {
    let mut before = *received.borrow();
    loop {
        tokio::time::sleep(PERIOD).await;
        let now = *received.borrow();
        let slow = now.saturating_sub(before) < LEAST_BYTES;
        if slow && !awaits_memory.load(Ordering::Relaxed) && is_owing() {
            return;
        }
        before = now;
    }
}

/// Returns the failure of a window that gave its place up.
pub(super) fn transfer_slow(window: Window) -> Failure {
    let message = format!(
        "{window}: less than {} MiB arrived in {} min while other exports waited: it gave its place to one of them, and is tried again",
        LEAST_BYTES >> 20,
        PERIOD.as_secs() / 60
    );
    Failure {
        // A day that is too slow is split into hours.
        timed_out: true,
        ..Failure::retry(Reason::TransferSlow, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_transfer_that_hardly_moves_gives_its_place_up_and_only_if_it_owes_it() {
        // Bytes of each period, memory, debt; given up.
        for (bytes, awaits_memory, owing, expected) in [
            (LEAST_BYTES - 1, false, true, true),
            (0, false, true, true),
            (LEAST_BYTES, false, true, false),
            (0, true, true, false),
            (0, false, false, false),
        ] {
            let (sender, received) = watch::channel(0);
            let awaits_memory = AtomicBool::new(awaits_memory);
            let transfer = async {
                for period in 1..10 {
                    tokio::time::sleep(PERIOD.saturating_sub(Duration::from_secs(1))).await;
                    sender.send_replace(period * bytes);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            let given_up = tokio::select! {
                biased;
                () = too_slow(&received, &awaits_memory, || owing) => true,
                () = transfer => false,
            };
            assert_eq!(given_up, expected, "{bytes} bytes");
        }
    }
}
