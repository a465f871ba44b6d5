//! The one place where a request to S3 is tried again: bounded by count and time, with full jitter. It
//! only waits; the request is the caller's.

use std::time::Duration;

use tokio::time::Instant;

use super::{StoreError, StoreErrorClass};
use crate::egress::{Peer, Traffic};

/// Tries of one request, the first included.
const MAX_ATTEMPTS: u32 = 5;
/// No try begins later than this after the first failure: two minutes.
const RETRY_WINDOW: Duration = Duration::from_mins(2);
/// The longest pause after the first failure; it doubles with each.
const INITIAL_BACKOFF: Duration = Duration::from_millis(200);
/// The longest pause that we choose ourselves. A store may ask for more, within the window.
const MAX_BACKOFF: Duration = Duration::from_secs(20);

/// Tells what is to be repeated: all that it calls [`StoreErrorClass::Retry`].
pub(super) type RetryClassifier = fn(&StoreError) -> StoreErrorClass;

/// Repeats a request while it fails in a way that passes by itself; the last error is the outcome.
pub(super) async fn retry<T, F>(
    classify: RetryClassifier,
    traffic: &Traffic,
    mut attempt: impl FnMut() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut tries = 0;
    let mut deadline = None;
    loop {
        let error = match attempt().await {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        tries += 1;
        let retry_after = match classify(&error) {
            StoreErrorClass::Retry(retry_after) if tries < MAX_ATTEMPTS => retry_after,
            _ => return Err(error),
        };
        let pause = backoff(tries, retry_after, rand::random());
        let now = Instant::now();
        let deadline = *deadline.get_or_insert(now + RETRY_WINDOW);
        // A store may ask for more than a clock can hold.
        if now.checked_add(pause).is_none_or(|next| next > deadline) {
            return Err(error);
        }
        tracing::debug!(%error, tries, ?pause, "the request will be repeated");
        tokio::time::sleep(pause).await;
        traffic.record_retry(Peer::S3);
    }
}

/// What passes by itself. Bytes that arrived wrong, and an upload that has lost a part, are told at once: the
/// same request would fail again.
pub(super) fn classify(error: &StoreError) -> StoreErrorClass {
    match error {
        StoreError::Corrupted { .. } => StoreErrorClass::CallerDecides,
        StoreError::Rejected { code, .. } if code == "InvalidPart" => StoreErrorClass::CallerDecides,
        other => other.class(),
    }
}

/// For `PutObject`, whose conflict with a concurrent writer is to be repeated: the repetition meets the winner.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html>
pub(super) fn classify_put(error: &StoreError) -> StoreErrorClass {
    match error {
        StoreError::Conflict { .. } => StoreErrorClass::Retry(None),
        other => classify(other),
    }
}

/// Full jitter below a bound that doubles; never shorter than what the store asked for. `random` is 0–1.
fn backoff(tries: u32, retry_after: Option<Duration>, random: f64) -> Duration {
    let bound = INITIAL_BACKOFF
        .saturating_mul(1 << (tries - 1).min(16))
        .min(MAX_BACKOFF);
    let jitter = bound.mul_f64(random.clamp(0.0, 1.0));
    retry_after.map_or(jitter, |retry_after| retry_after.saturating_add(jitter))
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
        let outcome: Result<(), _> = retry(classify, &Traffic::default(), || {
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
        assert_eq!(tries(throttled(None)).await.0, MAX_ATTEMPTS);
        let (count, waited) = tries(throttled(Some(50))).await;
        assert_eq!(count, 3, "a third pause would end behind the window");
        assert!(
            waited >= Duration::from_secs(100) && waited <= RETRY_WINDOW,
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
    fn the_backoff_doubles_up_to_its_maximum() {
        assert_eq!(backoff(1, None, 1.0), INITIAL_BACKOFF);
        assert_eq!(backoff(3, None, 1.0), INITIAL_BACKOFF * 4);
        assert_eq!(backoff(40, None, 1.0), MAX_BACKOFF);
        assert_eq!(backoff(2, None, 0.0), Duration::ZERO);
        assert_eq!(
            backoff(1, Some(Duration::from_secs(7)), 0.0),
            Duration::from_secs(7)
        );
    }
}
