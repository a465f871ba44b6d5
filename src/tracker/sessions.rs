//! Sessions: opened, listed, shown, deleted. Speaks over the network.

use ::http::{Method, StatusCode};
use serde_json::json;

use super::client::Call;
use super::refusal::Purpose;
use super::{Session, SessionRequest, Tracker, TrackerError, reply};

impl Tracker {
    /// Opens a session. Sent at most once, and once more only after a 401. When
    /// [`TrackerError::may_have_executed`] says so, a session may be open whose id nobody knows.
    pub async fn create_session(&self, space: &str, ask: &SessionRequest) -> Result<Session, TrackerError> {
        let SessionRequest {
            start,
            end,
            hour,
            account,
        } = *ask;
        let body = json!({
            "start": start.to_string(),
            "end": end.to_string(),
            "AtAccountLevel": account,
            "SearchTime": hour.map(|hour| hour.to_string()).unwrap_or_default(),
        });
        let call = Call {
            body: Some(body.to_string().into()),
            ..call(Purpose::Create, Method::POST, &["v3", "sessions"], space)
        };
        let reply = self.once(&call).await?;
        reply::session(&reply.body).map_err(|why| self.bad_reply(Purpose::Create, why))
    }

    /// The open sessions that the service shows: this user's, maybe those of the whole space.
    pub async fn sessions(&self, space: &str) -> Result<Vec<Session>, TrackerError> {
        let reply = self
            .repeatedly(&call(Purpose::Sessions, Method::GET, &["v3", "sessions"], space))
            .await?;
        if reply.status == StatusCode::NO_CONTENT {
            return Ok(Vec::new());
        }
        reply::sessions(&reply.body).map_err(|why| self.bad_reply(Purpose::Sessions, why))
    }

    /// One session; `None` when it is gone.
    pub async fn session(&self, space: &str, id: &str) -> Result<Option<Session>, TrackerError> {
        self.check_id(id)?;
        match self
            .repeatedly(&call(
                Purpose::Session,
                Method::GET,
                &["v3", "sessions", id],
                space,
            ))
            .await
        {
            Ok(reply) => reply::session(&reply.body)
                .map(Some)
                .map_err(|why| self.bad_reply(Purpose::Session, why)),
            Err(TrackerError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends a session; one that is gone already is fine.
    pub async fn delete_session(&self, space: &str, id: &str) -> Result<(), TrackerError> {
        self.delete_session_if_there(space, id).await.map(drop)
    }

    /// Ends a session; whether it was there.
    pub async fn delete_session_if_there(&self, space: &str, id: &str) -> Result<bool, TrackerError> {
        self.check_id(id)?;
        match self
            .repeatedly(&call(
                Purpose::Delete,
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

    /// An id that is no path segment would address something else, at worst the list of all sessions.
    pub(super) fn check_id(&self, id: &str) -> Result<(), TrackerError> {
        reply::is_id(id)
            .then_some(())
            .ok_or_else(|| TrackerError::Config {
                field: "the session id",
                why: format!(
                    "it must be 1–256 visible ASCII characters to be asked of {}",
                    self.host()
                ),
            })
    }

    pub(super) fn bad_reply(&self, purpose: Purpose, why: String) -> TrackerError {
        TrackerError::BadReply {
            host: self.host(),
            what: purpose.what(),
            why,
        }
    }
}

/// A call without session header, range or body.
pub(super) fn call<'a>(purpose: Purpose, method: Method, path: &'a [&'a str], space: &'a str) -> Call<'a> {
    Call {
        purpose,
        method,
        path,
        space,
        session: None,
        from: 0,
        body: None,
    }
}
