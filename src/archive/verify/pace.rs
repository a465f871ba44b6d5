//! Bound of the bytes per second that a verification reads. No I/O except for waiting.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Spreads reads over time, so that their average stays below a number of bytes per second.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: NonZeroU64,
    /// Time at which the next read may begin.
    next: Mutex<Instant>,
}

impl Pace {
    /// Creates a pace.
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        Self {
            bytes_per_second,
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits until the next read may begin. Returns its length: at most `most`, and no more than a second may read.
    pub async fn next_read(&self, most: u64) -> u64 {
        let bytes = most.min(self.bytes_per_second.get());
        #[allow(clippy::cast_precision_loss)] // exact up to 2^53
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.get() as f64);
        let begin = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = (*next).max(Instant::now());
            *next = begin + takes;
            begin
        };
        sleep_until(begin).await;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_of_several_objects_share_the_bound() {
        let pace = Pace::new(NonZeroU64::new(1000).unwrap());
        let start = Instant::now();
        // Four objects of five reads each: 20,000 bytes, of which the last 1,000 need not be waited for.
        let object = async || {
            for _ in 0..5 {
                assert_eq!(pace.next_read(4096).await, 1000);
            }
        };
        tokio::join!(object(), object(), object(), object());
        let took = start.elapsed();
        assert!(
            took >= Duration::from_secs(19) && took < Duration::from_secs(20),
            "{took:?}"
        );
        // A pause saves nothing up.
        tokio::time::sleep(Duration::from_mins(1)).await;
        let start = Instant::now();
        assert_eq!((pace.next_read(1000).await, pace.next_read(10).await), (1000, 10));
        assert!(start.elapsed() >= Duration::from_secs(1));
    }
}
