//! Cache of the day listing of the service, shared by the windows of an export. Lists ranges of at most 15 days, and
//! only those whose cached answer is too old. I/O with the service.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::ToSpan as _;
use jiff::civil::Date;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::failure::Failure;
use super::limits::Clock;
use super::snapshot::ObservedRetention;
use crate::api::Reason;
use crate::archive::counts::{DayListing, DayLookup, can_wait_for_count, listing_range};
use crate::tracker::{Day, LISTING_DAYS_MAX, Tracker, TrackerError};

/// Maximum age of a listing that counts as "before" the download: 10 min.
const BEFORE_MAX_AGE: Duration = Duration::from_mins(10);

/// Number of ranges without a listed day, one after another, after which no older days are listed: 45 days, longer than
/// the service keeps events.
const EMPTY_RANGES_MAX: usize = 3;

/// Days that an export lists.
#[derive(Clone, Debug)]
pub(super) struct ListedDays {
    /// The space id.
    pub(super) space: String,
    /// True for the events of the account.
    pub(super) account: bool,
    /// First day of the export.
    pub(super) first: Date,
    /// Last day of the export; `None`: today.
    pub(super) last: Option<Date>,
}

/// Cached day listing of one export.
pub(super) struct ListingCache {
    tracker: Tracker,
    days: ListedDays,
    clock: Clock,
    /// Maximum age of the answers for all days.
    max_age: Duration,
    cached: Mutex<CachedRanges>,
    /// Oldest day of the newest listing of all days, and the time of its request. Readable while a listing is in
    /// progress.
    oldest: std::sync::Mutex<Option<(Date, Instant)>>,
}

#[derive(Debug, Default)]
struct CachedRanges {
    /// Answers by the first day of their range. All ranges have the same length and begin at fixed days.
    ranges: BTreeMap<Date, CachedRange>,
    /// Time of the oldest request of the last listing of all days.
    complete_at: Option<Instant>,
    /// Time since which every request failed.
    failing_since: Option<Instant>,
}

#[derive(Debug)]
struct CachedRange {
    requested_at: Instant,
    /// Listed days; `None`: the service refuses to list.
    days: Option<Vec<Day>>,
}

impl CachedRanges {
    /// Returns the cached answers as one listing; `None` if the service refused to list the range that begins at
    /// `required`, or any range without `required`.
    fn merged(&self, required: Option<Date>) -> Option<Arc<DayListing>> {
        let refused = |(first, range): (&Date, &CachedRange)| {
            range.days.is_none() && required.is_none_or(|required| *first == required)
        };
        if self.ranges.iter().any(refused) {
            return None;
        }
        let days = self.ranges.values().filter_map(|range| range.days.as_ref());
        Some(Arc::new(DayListing::new(days.flatten().cloned().collect())))
    }
}

/// Returns the first day of the range that contains a day.
fn range_start(day: Date) -> Date {
    let since_epoch = day
        .since(jiff::civil::date(1970, 1, 1))
        .map_or(0, |span| i64::from(span.get_days()));
    day.saturating_sub(since_epoch.rem_euclid(LISTING_DAYS_MAX).days())
}

/// Returns the first days of the ranges that cover the days from `first` to `last`.
fn range_starts(first: Date, last: Date) -> impl Iterator<Item = Date> {
    std::iter::successors(Some(range_start(first)), |start| {
        start.checked_add(LISTING_DAYS_MAX.days()).ok()
    })
    .take_while(move |start| *start <= last)
}

impl ListingCache {
    /// Creates an empty cache. `max_age`: maximum age of the answers for all days.
    pub(super) fn new(tracker: Tracker, days: ListedDays, clock: Clock, max_age: Duration) -> Self {
        Self {
            tracker,
            days,
            clock,
            max_age,
            cached: Mutex::default(),
            oldest: std::sync::Mutex::default(),
        }
    }

    /// Returns the oldest day that the service listed, with the time of that listing.
    pub(super) fn retention(&self) -> Option<ObservedRetention> {
        let (oldest, requested_at) = (*self.oldest.lock().unwrap_or_else(PoisonError::into_inner))?;
        let ago = jiff::SignedDuration::try_from(requested_at.elapsed()).ok()?;
        let at = (self.clock)().checked_sub(ago).ok()?;
        Some(ObservedRetention { oldest, at })
    }

    /// Returns a listing from before the download of a day. Lists all days if that is due.
    pub(super) async fn before(&self, day: Date) -> Result<Option<Arc<DayListing>>, Failure> {
        let mut cached = self.cached.lock().await;
        let listed = async {
            self.refresh_all(&mut cached, earlier(self.max_age)).await?;
            let since = earlier(BEFORE_MAX_AGE);
            self.refresh_range(&mut cached, range_start(day), since).await?;
            let listing = cached.merged(Some(range_start(day)));
            if listing.as_ref().is_some_and(|listing| {
                !matches!(
                    listing.lookup(day),
                    DayLookup::AfterNewest(_) | DayLookup::EmptyListing
                )
            }) {
                return Ok(listing);
            }
            // Later days may be listed by now.
            for start in range_starts(day, self.range().1) {
                self.refresh_range(&mut cached, start, since).await?;
            }
            Ok(cached.merged(Some(range_start(day))))
        }
        .await;
        self.without_count_if_urgent(&cached, day, listed)
    }

    /// Returns a listing of a day that began at or after `since`; `None` if the service gives none. Concurrent
    /// callers share requests.
    pub(super) async fn day_since(
        &self,
        day: Date,
        since: Instant,
    ) -> Result<Option<Arc<DayListing>>, Failure> {
        let mut cached = self.cached.lock().await;
        let listed = self
            .refresh_range(&mut cached, range_start(day), since)
            .await
            .map(|()| cached.merged(Some(range_start(day))));
        self.without_count_if_urgent(&cached, day, listed)
    }

    /// Returns a listing of all days that began at or after `since`; `None` if the service refuses to list any of
    /// them.
    pub(super) async fn all_since(&self, since: Instant) -> Result<Option<Arc<DayListing>>, Failure> {
        let mut cached = self.cached.lock().await;
        self.refresh_all(&mut cached, since).await?;
        Ok(cached.merged(None))
    }

    /// Lists all days if the last listing of them is too old, or in any case `again`. Returns `None` if the service refuses
    /// to list any of them.
    pub(super) async fn refresh(&self, again: bool) -> Result<Option<Arc<DayListing>>, Failure> {
        let max_age = if again { Duration::ZERO } else { self.max_age };
        self.all_since(earlier(max_age)).await
    }

    /// Lists the latest days of the export that the service has, the newest range first: it stops after as many days
    /// without an entry as the service keeps events at most. Returns `None` if the service refuses to list any of them.
    pub(super) async fn latest(&self, again: bool) -> Result<Option<Arc<DayListing>>, Failure> {
        let since = earlier(if again { Duration::ZERO } else { BEFORE_MAX_AGE });
        let today = (self.clock)().to_zoned(jiff::tz::TimeZone::UTC).date();
        let last = self.days.last.unwrap_or(today).max(self.days.first);
        let mut starts: Vec<Date> = range_starts(self.days.first, last).collect();
        starts.reverse();
        let mut cached = self.cached.lock().await;
        let (mut days, mut empty) = (Vec::new(), 0);
        for start in starts {
            self.refresh_range(&mut cached, start, since).await?;
            let listed = cached.ranges.get(&start).and_then(|range| range.days.as_ref());
            let Some(listed) = listed else { return Ok(None) };
            empty = if listed.is_empty() { empty + 1 } else { 0 };
            days.extend(listed.iter().cloned());
            if empty >= EMPTY_RANGES_MAX {
                break;
            }
        }
        Ok(Some(Arc::new(DayListing::new(days))))
    }

    /// Returns the days to list at this time.
    fn range(&self) -> (Date, Date) {
        let today = (self.clock)().to_zoned(jiff::tz::TimeZone::UTC).date();
        let last = self.days.last.unwrap_or(today).max(self.days.first);
        listing_range(self.days.first, last, today)
    }

    async fn refresh_all(&self, cached: &mut CachedRanges, since: Instant) -> Result<(), Failure> {
        if cached.complete_at.is_some_and(|complete_at| complete_at >= since) {
            return Ok(());
        }
        let (first, last) = self.range();
        let starts: Vec<Date> = range_starts(first, last).collect();
        for start in &starts {
            self.refresh_range(cached, *start, since).await?;
        }
        cached.complete_at = starts
            .iter()
            .filter_map(|start| cached.ranges.get(start))
            .map(|range| range.requested_at)
            .min();
        let listing = cached.merged(None);
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner) = listing
            .and_then(|listing| listing.oldest())
            .zip(cached.complete_at);
        Ok(())
    }

    /// Lists one range, unless its cached answer began at or after `since`.
    async fn refresh_range(
        &self,
        cached: &mut CachedRanges,
        start: Date,
        since: Instant,
    ) -> Result<(), Failure> {
        let known = cached.ranges.get(&start);
        if known.is_some_and(|known| known.requested_at >= since) {
            return Ok(());
        }
        let was_listed = known.is_some_and(|known| known.days.is_some());
        let requested_at = Instant::now();
        let end = start
            .saturating_add((LISTING_DAYS_MAX - 1).days())
            .min(self.range().1)
            .max(start);
        let ListedDays { space, account, .. } = &self.days;
        let days = match self.tracker.list_days(space, start, end, *account).await {
            Ok(days) => Some(days),
            Err(TrackerError::ListingRefused { .. }) if !was_listed => None,
            Err(error) => {
                cached.failing_since.get_or_insert(requested_at);
                return Err(match &error {
                    // The service has listed these days before: it does not refuse to count.
                    TrackerError::ListingRefused { .. } => {
                        Failure::retry(Reason::SourceRefused, error.to_string())
                    }
                    _ => Failure::from(&error),
                });
            }
        };
        cached.failing_since = None;
        cached.ranges.insert(start, CachedRange { requested_at, days });
        Ok(())
    }

    /// Replaces a failure by "no count" if the day may be near the end of retention: it is then exported without.
    fn without_count_if_urgent(
        &self,
        cached: &CachedRanges,
        day: Date,
        listed: Result<Option<Arc<DayListing>>, Failure>,
    ) -> Result<Option<Arc<DayListing>>, Failure> {
        let failure = match listed {
            Ok(listing) => return Ok(listing),
            Err(failure) => failure,
        };
        let failing_for = cached
            .failing_since
            .map_or(Duration::ZERO, |since| since.elapsed());
        let retained_until = self.retention().map(|retention| retention.retained_until(day));
        if can_wait_for_count(failing_for, retained_until, (self.clock)()) {
            return Err(failure);
        }
        tracing::warn!(%day, error = failure.message, "cannot list days, exporting without a reported count");
        Ok(None)
    }
}

/// Returns the time that is `age` ago.
fn earlier(age: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(age).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn ranges_are_aligned_and_at_most_15_days_long() {
        let (first, last) = (date(2018, 4, 17), date(2018, 6, 9));
        let starts: Vec<Date> = range_starts(first, last).collect();
        assert_eq!(starts.len(), 5);
        assert!(
            starts
                .iter()
                .zip(&starts[1..])
                .all(|(one, next)| { one.checked_add(LISTING_DAYS_MAX.days()).unwrap() == *next })
        );
        assert!(starts[0] <= first && starts[1] > first && starts[4] <= last);
        for start in &starts {
            assert_eq!(range_start(*start), *start);
        }
        assert_eq!(range_start(date(2018, 6, 9)), starts[4]);
    }
}
