//! Cache of the day listing of the service, shared by the windows of an export. Requests a new listing only if
//! the cached one began too early. I/O with the service.

use std::sync::Arc;
use std::time::Duration;

use jiff::ToSpan;
use jiff::civil::Date;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::failure::Failure;
use super::run_context::lock;
use crate::archive::counts::DayListing;
use crate::tracker::{Tracker, TrackerError};

/// Days added to the listed range on both sides, so that its edges show retention and not the requested range:
/// 45 days, longer than the service keeps events.
const MARGIN_DAYS: i64 = 45;

/// Consecutive failures after which exports continue without a listing.
const FAILURES_MAX: u32 = 3;

/// Cached day listing of one export.
#[derive(Debug)]
pub(super) struct ListingCache {
    tracker: Tracker,
    space: String,
    account: bool,
    range: (Date, Date),
    latest: Mutex<CachedListing>,
    /// Oldest day of the newest listing, and the time of its request. Readable while a listing is in progress.
    oldest: std::sync::Mutex<Option<(Date, Instant)>>,
}

#[derive(Debug, Default)]
struct CachedListing {
    /// Time of the request and its result; inner `None`: the service refuses to list.
    listing: Option<(Instant, Option<Arc<DayListing>>)>,
    failures: u32,
}

impl ListingCache {
    /// Creates an empty cache for the days from `first` to `last`.
    pub(super) fn new(tracker: Tracker, space: &str, account: bool, first: Date, last: Date) -> Self {
        let margin = MARGIN_DAYS.days();
        let range = (first.saturating_sub(margin), last.saturating_add(margin));
        Self {
            tracker,
            space: space.to_owned(),
            account,
            range,
            latest: Mutex::default(),
            oldest: std::sync::Mutex::default(),
        }
    }

    /// Returns the oldest day that the service listed, and the time since that request.
    pub(super) fn oldest(&self) -> Option<(Date, Duration)> {
        let oldest = *lock(&self.oldest);
        oldest.map(|(oldest, requested_at)| (oldest, requested_at.elapsed()))
    }

    /// Returns a listing that began at or after `since`; `None` if the service gives none. Concurrent callers
    /// share one request.
    pub(super) async fn listing_since(&self, since: Instant) -> Result<Option<Arc<DayListing>>, Failure> {
        let mut latest = self.latest.lock().await;
        if let Some((requested_at, listing)) = &latest.listing
            && *requested_at >= since
        {
            return Ok(listing.clone());
        }
        let requested_at = Instant::now();
        let listing = match self
            .tracker
            .list_days(&self.space, self.range.0, self.range.1, self.account)
            .await
        {
            Ok(days) => Some(Arc::new(DayListing::new(days))),
            Err(TrackerError::ListingRefused { .. }) => None,
            Err(error) if latest.failures + 1 < FAILURES_MAX => {
                latest.failures += 1;
                return Err(Failure::from(&error));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot list days, exporting without reported counts");
                None
            }
        };
        if let Some(listing) = &listing {
            latest.failures = 0;
            *lock(&self.oldest) = listing.oldest().map(|oldest| (oldest, requested_at));
        }
        latest.listing = Some((requested_at, listing.clone()));
        Ok(listing)
    }
}
