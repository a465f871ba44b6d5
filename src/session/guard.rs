//! Guard of the life of a session: list, check the capacity, create, compare the answer with the request, delete. Network
//! I/O through the tracker client.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::SESSIONS_PER_SPACE;
use super::budget::{SessionBudget, SessionCapacity};
use super::occupancy::{FullSpace, Occupancy, SessionHolder};
use crate::api::SettingNames;
use crate::tracker::{Session, SessionListing, SessionRequest, Tracker, TrackerError};

/// Maximum number of sessions that a hint about a lost reply names.
const NAMED_MAX: usize = 5;

/// Sessions of one space.
#[derive(Clone, Copy, Debug)]
pub struct SpaceSessions<'a> {
    /// Client of the service.
    pub tracker: &'a Tracker,
    /// Id of the space.
    pub space: &'a str,
}

/// Open sessions of a space before a request for another one.
#[derive(Clone, Debug)]
pub struct OpenSessions {
    /// Ids of the sessions.
    pub ids: Vec<String>,
    /// Holders of the sessions.
    pub occupancy: Occupancy,
}

/// Session that the service opened for a request. Its events are not those of the request unless
/// [`OpenedSession::check`] succeeds.
#[derive(Clone, Debug)]
pub struct OpenedSession {
    space: String,
    request: SessionRequest,
    session: Session,
}

/// Session for another space, range, hour or scope than requested.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", differences.join("; "))]
pub struct AnswerMismatch {
    /// Differences, each as a sentence; at least one.
    pub differences: Vec<String>,
}

/// Failure to open a session.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The space has no free session, as the listing or the service says.
    #[error("{0}")]
    Full(Box<FullSpace>),
    /// This process holds as many sessions as it may.
    #[error("this process holds its maximum number of sessions in space {space}: waiting for one to close")]
    OwnLimit {
        /// Id of the space.
        space: String,
    },
    /// The service refuses, and neither its reply nor the listing shows that the space is full.
    #[error(
        "{error}. Before that, {occupancy}: the user lacks the developer role (for account events the permission of the account), or sessions of others that the service does not list fill the space"
    )]
    Refused {
        /// Refusal of the service.
        error: TrackerError,
        /// Holders of the open sessions, before the request.
        occupancy: Box<Occupancy>,
    },
    /// The request failed, and opened no session.
    #[error("{0}")]
    Failed(TrackerError),
    /// The request failed, and may have opened a session with an unknown id.
    #[error("{0}")]
    PossiblyOpen(TrackerError),
}

impl OpenError {
    /// Describes the error in the names of a front end.
    pub fn describe(&self, names: &SettingNames) -> String {
        match self {
            Self::Failed(error) | Self::PossiblyOpen(error) => error.describe(names),
            Self::Full(_) | Self::OwnLimit { .. } | Self::Refused { .. } => self.to_string(),
        }
    }

    /// Returns the wait that the service asks for, if it opened no session.
    pub fn retry_after(&self) -> Option<Duration> {
        let error = match self {
            Self::Full(full) => full.refusal.as_ref()?,
            Self::Refused { error, .. } => error,
            Self::OwnLimit { .. } | Self::Failed(_) | Self::PossiblyOpen(_) => return None,
        };
        match error {
            TrackerError::Capacity { after, .. } => *after,
            _ => None,
        }
    }
}

/// Failure to delete a session, which may stay open.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// The request failed.
    #[error(transparent)]
    Service(#[from] TrackerError),
    /// No reply in time.
    #[error("no response from the service within {} s", .0.as_secs())]
    Timeout(Duration),
}

impl CloseError {
    /// Describes the error in the names of a front end.
    pub fn describe(&self, names: &SettingNames) -> String {
        match self {
            Self::Service(error) => error.describe(names),
            Self::Timeout(_) => self.to_string(),
        }
    }
}

impl<'a> SpaceSessions<'a> {
    /// Returns the sessions of a space.
    pub const fn new(tracker: &'a Tracker, space: &'a str) -> Self {
        Self { tracker, space }
    }

    /// Lists the open sessions; `holder` attributes each to its holder.
    pub async fn list(&self, holder: impl Fn(&str) -> SessionHolder) -> Result<OpenSessions, TrackerError> {
        let listing = self.tracker.list_sessions_with_time(self.space).await?;
        Ok(OpenSessions::new(self.space, listing, holder))
    }

    /// Requests a session once. The caller records its id before it calls [`OpenedSession::check`], so that it is deleted
    /// in any case.
    pub async fn create(
        &self,
        request: &SessionRequest,
        before: &OpenSessions,
    ) -> Result<OpenedSession, OpenError> {
        match self.tracker.create_session(self.space, request).await {
            Ok(session) => Ok(OpenedSession {
                space: self.space.to_owned(),
                request: *request,
                session,
            }),
            Err(error) => Err(before.classify(error)),
        }
    }

    /// Returns how to delete the session that a failed request may have opened.
    pub async fn orphan_hint(&self, request: &SessionRequest, before: &OpenSessions) -> String {
        let known: BTreeSet<&String> = before.ids.iter().collect();
        let found = self.tracker.list_sessions(self.space).await.unwrap_or_default();
        let ids: Vec<&str> = found
            .iter()
            .filter(|session| !known.contains(&session.id) && request.answer_matches(session))
            .map(|session| session.id.as_str())
            .take(NAMED_MAX)
            .collect();
        if ids.is_empty() {
            "find it with `eventexport session list` and delete it with `eventexport session delete ID`"
                .to_owned()
        } else {
            format!(
                "unless another user has just opened it, delete it with `eventexport session delete {}`",
                ids.join(" ")
            )
        }
    }

    /// Deletes a session. Succeeds if it does not exist.
    pub async fn close(&self, id: &str) -> Result<(), CloseError> {
        Ok(self.tracker.delete_session(self.space, id).await?)
    }

    /// Deletes a session like [`SpaceSessions::close`], and gives up after `limit`.
    pub async fn close_within(&self, id: &str, limit: Duration) -> Result<(), CloseError> {
        timeout(limit, self.close(id))
            .await
            .unwrap_or(Err(CloseError::Timeout(limit)))
    }
}

impl OpenSessions {
    fn new(space: &str, listing: SessionListing, holder: impl Fn(&str) -> SessionHolder) -> Self {
        Self {
            occupancy: Occupancy::new(space, &listing, holder),
            ids: listing.sessions.into_iter().map(|session| session.id).collect(),
        }
    }

    /// Checks that this process may open another session. Without a budget, the service alone decides.
    pub fn check_capacity(&self, budget: &SessionBudget, space: &str, now: Instant) -> Result<(), OpenError> {
        match budget.capacity(self.ids.len(), now) {
            SessionCapacity::Available => Ok(()),
            SessionCapacity::SpaceFull => Err(self.full(None)),
            SessionCapacity::OwnLimit => Err(OpenError::OwnLimit {
                space: space.to_owned(),
            }),
        }
    }

    /// Classifies a failed request. A refusal means a full space only if the reply or the listing says so.
    fn classify(&self, error: TrackerError) -> OpenError {
        match error {
            TrackerError::Capacity { names_capacity, .. }
                if names_capacity || self.ids.len() + 1 >= SESSIONS_PER_SPACE =>
            {
                self.full(Some(error))
            }
            TrackerError::Capacity { .. } => OpenError::Refused {
                error,
                occupancy: Box::new(self.occupancy.clone()),
            },
            error if error.may_have_executed() => OpenError::PossiblyOpen(error),
            error => OpenError::Failed(error),
        }
    }

    fn full(&self, refusal: Option<TrackerError>) -> OpenError {
        OpenError::Full(Box::new(FullSpace {
            occupancy: self.occupancy.clone(),
            refusal,
        }))
    }
}

impl OpenedSession {
    /// Returns the session as the service describes it.
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Returns the id of the session.
    pub fn id(&self) -> &str {
        &self.session.id
    }

    /// Checks that the session has the requested space, range, hour and scope, as far as the service states them. The service
    /// may answer with others, and events of another space or day must never be stored under the requested one.
    pub fn check(&self) -> Result<(), AnswerMismatch> {
        let differences = self.request.differences(&self.space, &self.session);
        if differences.is_empty() {
            return Ok(());
        }
        let differences = differences.iter().map(ToString::to_string).collect();
        Err(AnswerMismatch { differences })
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::session::budget::SessionBudgets;

    fn open(sessions: usize) -> OpenSessions {
        let session = |id: usize| Session {
            id: id.to_string(),
            space: None,
            username: None,
            created: None,
            accessed: None,
            range: None,
            account: None,
            hour: None,
        };
        let listing = SessionListing {
            sessions: (0..sessions).map(session).collect(),
            service_time: None,
        };
        OpenSessions::new("s", listing, |_| SessionHolder::Unknown)
    }

    fn refusal(names_capacity: bool) -> TrackerError {
        TrackerError::Capacity {
            space: "s".to_owned(),
            status: 403,
            names_capacity,
            message: String::new(),
            after: Some(Duration::from_secs(7)),
        }
    }

    #[test]
    fn a_refusal_is_a_full_space_only_if_the_reply_or_the_listing_says_so() {
        let wait = Some(Duration::from_secs(7));
        for (names_capacity, listed, full) in [(true, 0, true), (false, 28, false), (false, 29, true)] {
            let error = open(listed).classify(refusal(names_capacity));
            assert_eq!(matches!(error, OpenError::Full(_)), full, "{listed}: {error}");
            assert_eq!(
                matches!(error, OpenError::Refused { .. }),
                !full,
                "{listed}: {error}"
            );
            assert_eq!(error.retry_after(), wait);
            assert!(error.to_string().contains(&format!("listed {listed}")), "{error}");
        }
    }

    #[test]
    fn only_a_request_that_may_have_arrived_may_have_opened_a_session() {
        for sent in [false, true] {
            let host = "t.example".to_owned();
            let error = open(1).classify(TrackerError::Timeout { host, sent });
            assert_eq!(matches!(error, OpenError::PossiblyOpen(_)), sent, "{error:?}");
            assert_eq!(matches!(error, OpenError::Failed(_)), !sent, "{error:?}");
        }
    }

    #[test]
    fn a_budget_refuses_before_any_request() {
        let budget = SessionBudgets::new(1).for_space("e", "s");
        let check = |sessions| open(sessions).check_capacity(&budget, "s", Instant::now());
        assert!(matches!(check(30), Err(OpenError::Full(full)) if full.refusal.is_none()));
        assert!(check(0).is_ok());
        let _held = budget.hold("a", "july");
        assert!(matches!(check(0), Err(OpenError::OwnLimit { .. })));
    }

    #[test]
    fn a_session_for_another_hour_does_not_pass() {
        let request = SessionRequest {
            start: date(2018, 6, 1),
            end: date(2018, 6, 1),
            hour: Some(7),
            account: false,
        };
        let session = Session {
            id: "a".to_owned(),
            space: None,
            username: None,
            created: None,
            accessed: None,
            range: None,
            account: Some(false),
            hour: Some(Some(8)),
        };
        let mut opened = OpenedSession {
            space: "s".to_owned(),
            request,
            session,
        };
        let mismatch = opened.check().unwrap_err();
        assert_eq!(
            mismatch.to_string(),
            "requested hour 7, but the session is for hour 8"
        );
        opened.session.hour = Some(Some(7));
        assert_eq!(opened.check(), Ok(()));
        opened.session.space = Some("other".to_owned());
        assert!(opened.check().is_err());
    }
}
