//! Times at which a run lists the days of the service: all days while the archive lacks some, since retention moves, and what
//! was found to be expired may be listed again; the latest days to compare stored ones with the newest counts. The request
//! does I/O with the service.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::decide::RunDecision;
use super::failure::{Failure, stopped};
use super::retry_state::RetryState;
use super::run_context::RunContext;
use crate::archive::counts::DayListing;

/// Time until the days of the service are listed again after a failure: 5 min.
const LIST_DAYS_RETRY: Duration = Duration::from_mins(5);
/// Pause after a failure to get the newest counts of the service: 2 s.
const RECHECK_RETRY: Duration = Duration::from_secs(2);

/// Times of the next listings, and the counts of the last one.
pub(super) struct DaySchedule {
    /// Maximum age of a listing.
    max_age: Duration,
    /// Earliest time of the next listing of all days.
    list_at: Instant,
    /// True if the next listing must be a new one, however young the last one is.
    again: bool,
    /// Newest counts of the service, to compare the stored days with.
    counts: Option<Arc<DayListing>>,
    /// Earliest time of the next comparison with newer counts; `None`: the first decision sets it.
    recheck_at: Option<Instant>,
    /// True if the listing in progress is for that comparison.
    rechecking: bool,
}

/// A listing to request.
#[derive(Clone, Copy, Debug)]
pub(super) struct DaysRequest {
    /// True for all days, false for the latest ones.
    all: bool,
    /// True if it must be a new one.
    again: bool,
}

impl DaySchedule {
    pub(super) fn new(max_age: Duration) -> Self {
        Self {
            max_age,
            list_at: Instant::now(),
            again: false,
            counts: None,
            recheck_at: None,
            rechecking: false,
        }
    }

    /// Returns the newest counts.
    pub(super) fn counts(&self) -> Option<&DayListing> {
        self.counts.as_deref()
    }

    /// Forgets the counts: other days may have to be compared.
    pub(super) fn forget_counts(&mut self) {
        self.counts = None;
    }

    /// Ends all waits: the days are listed again, with newer answers.
    pub(super) fn list_now(&mut self) {
        let now = Instant::now();
        (self.list_at, self.again, self.recheck_at) = (now, true, Some(now));
    }

    /// True if it is time to ask for newer counts.
    pub(super) fn is_recheck_due(&self) -> bool {
        self.recheck_at.is_none_or(|at| Instant::now() >= at)
    }

    /// Returns the listing to request after a decision, unless one is `running`. `observed`: the bucket is listed.
    pub(super) fn next_request(
        &mut self,
        decision: &RunDecision,
        observed: bool,
        running: bool,
    ) -> Option<DaysRequest> {
        let now = Instant::now();
        if observed && !decision.recheck && self.is_recheck_due() {
            // Nothing is stored yet. What this run stores is compared with the counts of its download.
            self.recheck_at = Some(now + self.max_age);
        }
        let all = !decision.coverage.missing.is_empty() && now >= self.list_at;
        if running || !(all || decision.recheck) {
            return None;
        }
        self.rechecking = decision.recheck;
        if all {
            self.list_at = now + self.max_age;
        }
        let again = std::mem::take(&mut self.again);
        Some(DaysRequest { all, again })
    }

    /// Returns the time of the next listing: of all days if some are missing, or for a comparison that is not due already.
    /// A comparison keeps no run alive.
    pub(super) fn next_time(&self, decision: &RunDecision, now: Timestamp) -> Option<Timestamp> {
        let missing = !decision.coverage.missing.is_empty();
        let list_in = missing.then(|| self.list_at.saturating_duration_since(Instant::now()));
        let recheck_in = self
            .recheck_at
            .and_then(|at| at.checked_duration_since(Instant::now()));
        let left = list_in.into_iter().chain(recheck_in).min()?;
        now.checked_add(left).ok()
    }

    /// Records the result of a listing.
    pub(super) fn record(
        &mut self,
        outcome: Result<Option<Arc<DayListing>>, Failure>,
        retry_state: &mut RetryState,
        now: Timestamp,
    ) {
        match outcome {
            Ok(counts) => {
                self.counts = counts;
                retry_state.recheck = None;
                self.recheck_at = Some(Instant::now() + self.max_age);
            }
            Err(failure) => {
                tracing::info!(reason = %failure.reason, error = failure.message, "cannot list the days of the service");
                self.list_at = Instant::now() + LIST_DAYS_RETRY.min(self.max_age);
                if !self.rechecking {
                    return;
                }
                let again = retry_state.record_recheck_failure(failure, now, rand::random());
                let retry = if again { RECHECK_RETRY } else { self.max_age };
                self.recheck_at = Some(Instant::now() + retry.min(self.max_age));
            }
        }
    }
}

impl DaysRequest {
    /// Lists the days.
    pub(super) async fn send(self, ctx: &RunContext) -> Result<Option<Arc<DayListing>>, Failure> {
        let list = async {
            if self.all {
                ctx.listing_cache.refresh(self.again).await
            } else {
                ctx.listing_cache.latest(self.again).await
            }
        };
        tokio::select! {
            listed = list => listed,
            () = ctx.stop.cancelled() => Err(stopped()),
        }
    }
}
