//! Bound of the bytes per second that a verification reads. No I/O except for waiting.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Spreads reads over time, so that their average stays below a number of bytes per second.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: Option<NonZeroU64>,
    /// Time at which the next read may begin.
    next: Mutex<Instant>,
}

impl Pace {
    /// Creates a pace; `None`: as fast as possible.
    pub fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self {
            bytes_per_second,
            next: Mutex::new(Instant::now()),
        }
    }

    /// Returns the length of one read: at most `most`, and no more than a second may read.
    pub fn read_length(&self, most: u64) -> u64 {
        self.bytes_per_second.map_or(most, |rate| most.min(rate.get()))
    }

    /// Waits until a read of this length may begin.
    pub async fn wait(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else {
            return;
        };
        #[allow(clippy::cast_precision_loss)] // exact up to 2^53
        let takes = Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
        let begin = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = (*next).max(Instant::now());
            *next = begin + takes;
            begin
        };
        sleep_until(begin).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_of_several_objects_share_the_bound() {
        let pace = Pace::new(NonZeroU64::new(1000));
        assert_eq!((pace.read_length(4096), pace.read_length(10)), (1000, 10));
        let start = Instant::now();
        // Four objects of five reads each: 20,000 bytes, of which the last 1,000 need not be waited for.
        let object = async || {
            for _ in 0..5 {
                pace.wait(1000).await;
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
        pace.wait(1000).await;
        pace.wait(1000).await;
        assert!(start.elapsed() >= Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_bound_nothing_waits() {
        let (pace, start) = (Pace::new(None), Instant::now());
        pace.wait(u64::MAX).await;
        assert_eq!((pace.read_length(4096), start.elapsed()), (4096, Duration::ZERO));
    }
}
