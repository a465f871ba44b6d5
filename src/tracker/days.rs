//! The daily listing: days that the service has, and their numbers of events. Network I/O.

use ::http::{Method, StatusCode};
use jiff::ToSpan as _;
use jiff::civil::Date;
use serde_json::json;

use super::client::ServiceRequest;
use super::error_reply::ApiOperation;
use super::sessions::api_request;
use super::{Day, Tracker, TrackerError, reply};

/// Maximum number of days in one request for the listing. Services may refuse longer ranges.
pub const LISTING_DAYS_MAX: i64 = 15;

impl Tracker {
    /// Returns the days that the service lists for the range, both ends inclusive: sorted, one row per day. The service
    /// may lag behind or omit days; days outside the range are dropped. Sends one request for each
    /// [`LISTING_DAYS_MAX`] days. [`TrackerError::ListingRefused`] means that it provides no listing.
    pub async fn list_days(
        &self,
        space: &str,
        start: Date,
        end: Date,
        account: bool,
    ) -> Result<Vec<Day>, TrackerError> {
        let mut days = Vec::new();
        let mut first = Some(start);
        while let Some(from) = first.filter(|first| *first <= end) {
            let to = from.saturating_add((LISTING_DAYS_MAX - 1).days()).min(end);
            let listed = self.list_range(space, from, to, account).await?;
            days.extend(listed.into_iter().filter(|day| (from..=to).contains(&day.date)));
            first = to.tomorrow().ok();
        }
        Ok(days)
    }

    async fn list_range(
        &self,
        space: &str,
        start: Date,
        end: Date,
        account: bool,
    ) -> Result<Vec<Day>, TrackerError> {
        // The fields of a session request: no source documents those of the listing.
        let body = json!({"start": start.to_string(), "end": end.to_string(), "AtAccountLevel": account});
        let request = ServiceRequest {
            body: Some(body.to_string().into()),
            ..api_request(ApiOperation::ListDays, Method::GET, &["v3", "events"], space)
        };
        let reply = self.send_with_retry(&request).await?;
        if reply.status == StatusCode::NO_CONTENT {
            return Ok(Vec::new());
        }
        reply::days(&reply.body).map_err(|why| self.bad_reply(ApiOperation::ListDays, why))
    }
}
