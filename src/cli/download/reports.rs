//! What the service reports of the days that are downloaded. Speaks over the network.

use jiff::ToSpan as _;
use jiff::civil::Date;

use super::flow::Flow;
use super::judge;
use super::place::Place;
use super::trouble::Trouble;
use crate::export::verdict::Listing;

/// The listing is asked for so many days more on both sides, so that its edges mean what the service keeps and not what
/// was asked for: 45 days.
const MARGIN_DAYS: i64 = 45;

impl Flow<'_> {
    /// What the service reports of the days before the first byte comes.
    pub(super) async fn list_before(&mut self, range: Option<(Date, Date)>) -> Result<(), Trouble> {
        let Some((start, end)) = range.filter(|_| self.before.is_empty()) else {
            return Ok(());
        };
        let Some(listing) = self.listing(start, end).await else {
            return Ok(());
        };
        self.before = judge::counts(&listing, start, end);
        if let Place::File(part) = &mut self.place {
            let before = self.before.clone();
            part.noted(|note| note.before = before)?;
        }
        Ok(())
    }

    /// What the service reports now; a service that gives no listing stops nobody.
    pub async fn listing(&self, start: Date, end: Date) -> Option<Listing> {
        let source = self.source;
        let (first, last) = (
            start.saturating_sub(MARGIN_DAYS.days()),
            end.saturating_add(MARGIN_DAYS.days()),
        );
        tokio::select! {
            biased;
            () = self.stop.orderly.cancelled() => None,
            days = source.tracker.days(&source.space, first, last, self.account) => match days {
                Ok(days) => Some(Listing::new(days)),
                Err(error) => {
                    let why = source.worded(&error);
                    self.meter.remark(&format!("Without counts to compare with: {why}."));
                    None
                }
            },
        }
    }
}
