//! Client of a time-stamp authority (RFC 3161 over HTTP). Uses the transport of the tracker: allowed hosts only, a
//! bounded reply, no redirect. Network I/O, without retries.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, header};
use bytes::Bytes;
use tokio::time::Instant;
use url::Url;

use super::http::{HttpRequest, Transport, host_of};
use super::{Timeouts, TrackerError};
use crate::egress::{HostPolicy, Peer, RequestLabel, Traffic};

/// Maximum time for a time stamp: 30 s.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Client of one time-stamp authority. Cheap to clone.
#[derive(Clone)]
pub struct TimestampAuthority(Arc<AuthorityInner>);

struct AuthorityInner {
    url: Url,
    transport: Transport,
}

impl TimestampAuthority {
    /// Creates a client. Sends nothing. Fails if the host is not allowed.
    pub fn new(url: Url, hosts: HostPolicy, traffic: Traffic) -> Result<Self, TrackerError> {
        let transport = Transport::new(&[&url], hosts, None, &Timeouts::default(), traffic)?;
        Ok(Self(Arc::new(AuthorityInner { url, transport })))
    }

    /// Returns the host, for errors.
    pub fn host(&self) -> String {
        host_of(&self.0.url)
    }

    /// Sends a DER-encoded request. Returns the DER-encoded reply, which is not checked.
    pub async fn send(&self, request: Vec<u8>) -> Result<Bytes, TrackerError> {
        let mut headers = HeaderMap::new();
        let query = HeaderValue::from_static("application/timestamp-query");
        headers.insert(header::CONTENT_TYPE, query);
        let request = HttpRequest {
            label: RequestLabel {
                peer: Peer::TimestampAuthority,
                operation: "TimeStamp",
            },
            method: Method::POST,
            url: self.0.url.clone(),
            headers,
            body: Some(request.into()),
        };
        let deadline = Instant::now() + REPLY_TIMEOUT;
        let reply = self
            .0
            .transport
            .send_and_read(&request, "time stamp", deadline)
            .await?;
        if reply.status.is_success() {
            return Ok(reply.body);
        }
        Err(TrackerError::Server {
            host: self.host(),
            status: reply.status.as_u16(),
            message: String::new(),
            after: None,
        })
    }
}

impl fmt::Debug for TimestampAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TimestampAuthority").field(&self.host()).finish()
    }
}
