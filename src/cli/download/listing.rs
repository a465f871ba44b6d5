//! What the service reports of the days that are downloaded. Speaks over the network.

use jiff::ToSpan as _;
use jiff::civil::Date;

use super::downloader::Downloader;
use super::error::DownloadError;
use super::evaluate;
use super::sink::DownloadSink;
use crate::export::verdict::DayListing;

/// The listing is asked for so many days more on both sides, so that its edges mean what the service keeps and not what
/// was asked for: 45 days.
const MARGIN_DAYS: i64 = 45;

impl Downloader<'_> {
    /// What the service reports of the days before the first byte comes.
    pub(super) async fn fetch_counts_before(
        &mut self,
        range: Option<(Date, Date)>,
    ) -> Result<(), DownloadError> {
        let Some((start, end)) = range.filter(|_| self.before.is_empty()) else {
            return Ok(());
        };
        let Some(listing) = self.fetch_listing(start, end).await else {
            return Ok(());
        };
        self.before = evaluate::day_counts(&listing, start, end);
        if let DownloadSink::File(part) = &mut self.sink {
            let before = self.before.clone();
            part.update_state(|state| state.before = before)?;
        }
        Ok(())
    }

    /// What the service reports now; a service that gives no listing stops nobody.
    pub async fn fetch_listing(&self, start: Date, end: Date) -> Option<DayListing> {
        let source = self.source;
        let (first, last) = (
            start.saturating_sub(MARGIN_DAYS.days()),
            end.saturating_add(MARGIN_DAYS.days()),
        );
        tokio::select! {
            biased;
            () = self.stop.graceful.cancelled() => None,
            days = source.tracker.list_days(&source.space, first, last, self.account) => match days {
                Ok(days) => Some(DayListing::new(days)),
                Err(error) => {
                    let why = source.error_text(&error);
                    self.meter.println(&format!("Without counts to compare with: {why}."));
                    None
                }
            },
        }
    }
}
