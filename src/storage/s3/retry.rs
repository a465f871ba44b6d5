//! Retries of requests to S3: limited by count and time, with full jitter. Only waits; the caller sends the request.

use std::time::Duration;

use tokio::time::Instant;

use crate::egress::{Peer, Traffic};
use crate::storage::{StoreError, StoreErrorClass};

/// Maximum attempts of one request, including the first.
const MAX_ATTEMPTS: u32 = 5;
/// Time after the first failure in which a retry may start: two minutes.
const RETRY_WINDOW: Duration = Duration::from_mins(2);
/// Maximum pause after the first failure; it doubles with each failure.
const INITIAL_BACKOFF: Duration = Duration::from_millis(200);
/// Maximum pause chosen by the client. A store may ask for more, within the window.
const MAX_BACKOFF: Duration = Duration::from_secs(20);

/// Decides which errors to retry: those that it maps to [`StoreErrorClass::Retry`].
pub(super) type RetryClassifier = fn(&StoreError) -> StoreErrorClass;

/// Repeats a request while it fails with a retryable error. Returns the last error if it does not succeed.
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
        // A store may ask for a pause that overflows the clock.
        if now.checked_add(pause).is_none_or(|next| next > deadline) {
            return Err(error);
        }
        tracing::debug!(%error, tries, ?pause, "request failed, retrying");
        tokio::time::sleep(pause).await;
        traffic.record_retry(Peer::S3);
    }
}

/// Classifier for most requests. Corrupted bytes and a missing part are not retried: the same request would fail
/// again.
pub(super) fn classify(error: &StoreError) -> StoreErrorClass {
    match error {
        // Temporary credentials have their own retries.
        StoreError::Corrupted { .. } | StoreError::Identity { .. } => StoreErrorClass::CallerDecides,
        StoreError::Rejected { code, .. } if code == "InvalidPart" => StoreErrorClass::CallerDecides,
        other => other.class(),
    }
}

/// Classifier for `PutObject`: a conflict with a concurrent writer is retried, and the retry finds the winner's object.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html>
pub(super) fn classify_put(error: &StoreError) -> StoreErrorClass {
    match error {
        StoreError::Conflict { .. } => StoreErrorClass::Retry(None),
        other => classify(other),
    }
}

/// Returns a pause with full jitter below a doubling limit, and at least `retry_after`. `random` is 0–1.
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
            message: String::new(),
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
        assert_eq!(count, 3, "a third pause would end after the window");
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
