//! What the service reports of each day, shared by the windows of an export: asked again only when an
//! answer must have begun after some moment. Asks the service.

use std::sync::Arc;
use std::time::Duration;

use jiff::ToSpan;
use jiff::civil::Date;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::failure::Failure;
use super::run_context::lock;
use super::verdict::DayListing;
use crate::tracker::{Tracker, TrackerError};

/// The listing is asked for so many days more on both sides, so that its edges mean retention and not the
/// range that was asked for: 45 days, longer than the service keeps events.
const MARGIN_DAYS: i64 = 45;

/// After so many failures in a row the service counts as giving no listing, so that exports go on.
const FAILURES_MAX: u32 = 3;

/// The reports of one export's days.
#[derive(Debug)]
pub(super) struct ListingCache {
    tracker: Tracker,
    space: String,
    account: bool,
    range: (Date, Date),
    latest: Mutex<CachedListing>,
    /// The oldest day of the newest listing, and when it was asked for: read while a listing is under way, too.
    oldest: std::sync::Mutex<Option<(Date, Instant)>>,
}

#[derive(Debug, Default)]
struct CachedListing {
    /// When the request was begun, and what it gave; `None`: the service refuses to list.
    listing: Option<(Instant, Option<Arc<DayListing>>)>,
    failures: u32,
}

impl ListingCache {
    /// Of these days.
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

    /// The oldest day that the service listed, and how long ago it was asked.
    pub(super) fn oldest(&self) -> Option<(Date, Duration)> {
        let oldest = *lock(&self.oldest);
        oldest.map(|(oldest, requested_at)| (oldest, requested_at.elapsed()))
    }

    /// A listing begun at or after `since`; `None` when the service gives none. Callers that wait at the
    /// same time share one request.
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
                tracing::warn!(%error, "the service keeps failing to list its days: exporting without its counts");
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
