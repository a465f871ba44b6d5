//! The one place where a request to S3 is tried again: bounded by count and time, with full jitter. It
//! only waits; the request is the caller's.

use std::time::Duration;

use tokio::time::Instant;

use super::{StoreError, StoreErrorClass};
use crate::egress::{Peer, Traffic};

/// Tries of one request, the first included.
const MAX_TRIES: u32 = 5;
/// No try begins later than this after the first failure: two minutes.
const WINDOW: Duration = Duration::from_mins(2);
/// The longest pause after the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause that we choose ourselves. A store may ask for more, within the window.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Tells what is to be repeated: all that it calls [`StoreErrorClass::Retry`].
pub(super) type Passing = fn(&StoreError) -> StoreErrorClass;

/// Repeats a request while it fails in a way that passes by itself; the last error is the outcome.
pub(super) async fn retry<T, F>(
    passing: Passing,
    traffic: &Traffic,
    mut attempt: impl FnMut() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut tries = 0;
    let mut end = None;
    loop {
        let error = match attempt().await {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        tries += 1;
        let asked = match passing(&error) {
            StoreErrorClass::Retry(asked) if tries < MAX_TRIES => asked,
            _ => return Err(error),
        };
        let pause = pause(tries, asked, rand::random());
        let now = Instant::now();
        let end = *end.get_or_insert(now + WINDOW);
        // A store may ask for more than a clock can hold.
        if now.checked_add(pause).is_none_or(|next| next > end) {
            return Err(error);
        }
        tracing::debug!(%error, tries, ?pause, "the request will be repeated");
        tokio::time::sleep(pause).await;
        traffic.repeated(Peer::S3);
    }
}

/// What passes by itself. Bytes that arrived wrong, and an upload that has lost a part, are told at once: the
/// same request would fail again.
pub(super) fn passing(error: &StoreError) -> StoreErrorClass {
    match error {
        StoreError::Corrupted { .. } => StoreErrorClass::Answer,
        StoreError::Refused { code, .. } if code == "InvalidPart" => StoreErrorClass::Answer,
        other => other.class(),
    }
}

/// For `PutObject`, whose conflict with a concurrent writer is to be repeated: the repetition meets the winner.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html>
pub(super) fn passing_or_conflict(error: &StoreError) -> StoreErrorClass {
    match error {
        StoreError::Conflict { .. } => StoreErrorClass::Retry(None),
        other => passing(other),
    }
}

/// Full jitter below a bound that doubles; never shorter than what the store asked for. `random` is 0–1.
fn pause(tries: u32, asked: Option<Duration>, random: f64) -> Duration {
    let bound = FIRST_PAUSE
        .saturating_mul(1 << (tries - 1).min(16))
        .min(LONGEST_PAUSE);
    let own = bound.mul_f64(random.clamp(0.0, 1.0));
    asked.map_or(own, |asked| asked.saturating_add(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn throttled(after: Option<u64>) -> StoreError {
        StoreError::Throttled {
            store: "s3://b".into(),
            after: after.map(Duration::from_secs),
        }
    }

    async fn tries(error: StoreError) -> (u32, Duration) {
        let begun = Instant::now();
        let count = Cell::new(0);
        let outcome: Result<(), _> = retry(passing, &Traffic::default(), || {
            count.set(count.get() + 1);
            let error = error.clone();
            async { Err(error) }
        })
        .await;
        assert!(outcome.is_err());
        (count.get(), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_bounded_by_count_and_time() {
        assert_eq!(tries(throttled(None)).await.0, MAX_TRIES);
        let (count, waited) = tries(throttled(Some(50))).await;
        assert_eq!(count, 3, "a third pause would end behind the window");
        assert!(
            waited >= Duration::from_secs(100) && waited <= WINDOW,
            "{waited:?}"
        );
        assert_eq!(tries(throttled(Some(3600))).await.0, 1);
        assert_eq!(tries(throttled(Some(u64::MAX))).await.0, 1);
        let answer = StoreError::AlreadyExists {
            store: String::new(),
            key: String::new(),
        };
        assert_eq!(tries(answer).await.0, 1);
    }

    #[test]
    fn a_pause_doubles_up_to_its_bound() {
        assert_eq!(pause(1, None, 1.0), FIRST_PAUSE);
        assert_eq!(pause(3, None, 1.0), FIRST_PAUSE * 4);
        assert_eq!(pause(40, None, 1.0), LONGEST_PAUSE);
        assert_eq!(pause(2, None, 0.0), Duration::ZERO);
        assert_eq!(
            pause(1, Some(Duration::from_secs(7)), 0.0),
            Duration::from_secs(7)
        );
    }
}
