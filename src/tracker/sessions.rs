//! Sessions: create, list, get, delete. Network I/O.

use ::http::{Method, StatusCode};
use serde_json::json;

use super::client::ServiceRequest;
use super::error_reply::{ApiOperation, reply_time};
use super::{Session, SessionListing, SessionRequest, Tracker, TrackerError, reply};

impl Tracker {
    /// Opens a session. Sends the request at most once, and once more only after a 401. If
    /// [`TrackerError::may_have_executed`] is true, a session with an unknown id may be open.
    pub async fn create_session(
        &self,
        space: &str,
        params: &SessionRequest,
    ) -> Result<Session, TrackerError> {
        let SessionRequest {
            start,
            end,
            hour,
            account,
        } = *params;
        let body = json!({
            "start": start.to_string(),
            "end": end.to_string(),
            "AtAccountLevel": account,
            "SearchTime": hour.map(|hour| hour.to_string()).unwrap_or_default(),
        });
        let request = ServiceRequest {
            body: Some(body.to_string().into()),
            ..api_request(
                ApiOperation::CreateSession,
                Method::POST,
                &["v3", "sessions"],
                space,
            )
        };
        let reply = self.send_once(&request).await?;
        reply::session(&reply.body).map_err(|why| self.bad_reply(ApiOperation::CreateSession, why))
    }

    /// Lists the open sessions that the service shows: those of this user, or of all users of the space.
    pub async fn list_sessions(&self, space: &str) -> Result<Vec<Session>, TrackerError> {
        self.list_sessions_with_time(space)
            .await
            .map(|listing| listing.sessions)
    }

    /// Lists the open sessions like [`Tracker::list_sessions`], with the time at which the service replied.
    pub async fn list_sessions_with_time(&self, space: &str) -> Result<SessionListing, TrackerError> {
        let reply = self
            .send_with_retry(&api_request(
                ApiOperation::ListSessions,
                Method::GET,
                &["v3", "sessions"],
                space,
            ))
            .await?;
        let sessions = if reply.status == StatusCode::NO_CONTENT {
            Vec::new()
        } else {
            reply::sessions(&reply.body).map_err(|why| self.bad_reply(ApiOperation::ListSessions, why))?
        };
        Ok(SessionListing {
            sessions,
            service_time: reply_time(&reply.headers),
        })
    }

    /// Returns a session. `None`: it does not exist.
    pub async fn get_session(&self, space: &str, id: &str) -> Result<Option<Session>, TrackerError> {
        self.check_id(id)?;
        match self
            .send_with_retry(&api_request(
                ApiOperation::ShowSession,
                Method::GET,
                &["v3", "sessions", id],
                space,
            ))
            .await
        {
            Ok(reply) => reply::session(&reply.body)
                .map(Some)
                .map_err(|why| self.bad_reply(ApiOperation::ShowSession, why)),
            Err(TrackerError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a session. Succeeds if it does not exist.
    pub async fn delete_session(&self, space: &str, id: &str) -> Result<(), TrackerError> {
        self.delete_session_if_exists(space, id).await.map(drop)
    }

    /// Deletes a session. Returns true if it existed.
    pub async fn delete_session_if_exists(&self, space: &str, id: &str) -> Result<bool, TrackerError> {
        self.check_id(id)?;
        match self
            .send_with_retry(&api_request(
                ApiOperation::DeleteSession,
                Method::DELETE,
                &["v3", "sessions", id],
                space,
            ))
            .await
        {
            Ok(_) => Ok(true),
            Err(TrackerError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Rejects an id that is not a path segment: it would address something else, at worst the list of all sessions.
    pub(super) fn check_id(&self, id: &str) -> Result<(), TrackerError> {
        reply::is_valid_id(id)
            .then_some(())
            .ok_or_else(|| TrackerError::InvalidSessionId { host: self.host() })
    }

    pub(super) fn bad_reply(&self, operation: ApiOperation, why: String) -> TrackerError {
        TrackerError::BadReply {
            host: self.host(),
            what: operation.description(),
            why,
        }
    }
}

/// Creates a request without session header, range or body.
pub(super) fn api_request<'a>(
    operation: ApiOperation,
    method: Method,
    path: &'a [&'a str],
    space: &'a str,
) -> ServiceRequest<'a> {
    ServiceRequest {
        operation,
        method,
        path,
        space,
        session: None,
        from: 0,
        body: None,
    }
}
