//! The daily listing: days that the service has, and their numbers of events. Network I/O.

use ::http::{Method, StatusCode};
use jiff::civil::Date;
use serde_json::json;

use super::client::ServiceRequest;
use super::error_reply::ApiOperation;
use super::sessions::api_request;
use super::{Day, Tracker, TrackerError, reply};

impl Tracker {
    /// Returns the days that the service lists for the range, both ends inclusive: sorted, one row per day. The service
    /// may ignore the range, lag behind, or omit days. [`TrackerError::ListingRefused`] means that it provides no
    /// listing.
    pub async fn list_days(
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
