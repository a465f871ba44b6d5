//! Orphans: sessions that the service opened although its reply was lost. Decides which of them the attempts of this process
//! opened. No I/O.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::SESSIONS_PER_SPACE;
use crate::archive::layout::AttemptId;
use crate::tracker::{Session, SessionRequest};

/// Maximum difference between the ages of an attempt and of the session that it opened: 5 min, for slow requests.
const OPENING_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// Time after the next check for which an attempt that waits for it still counts: 15 min, longer than the longest pause between
/// two checks that fail.
const LATE_CHECK: Duration = Duration::from_mins(15);

/// Request for a session that got no reply, and may have opened one.
#[derive(Clone, Debug)]
pub struct UnansweredRequest {
    /// Request of one day or hour.
    pub request: SessionRequest,
    /// Tracker user; `None`: not known.
    pub user: Option<String>,
    /// Sessions that were open before.
    pub open_before: Vec<String>,
    /// Age of the attempt by the clock of its store.
    pub age: SignedDuration,
}

impl UnansweredRequest {
    /// Returns true if the request may have opened the session: it is new and matches. Time is no filter: the clocks of the
    /// store and the service may differ.
    pub fn fits(&self, session: &Session) -> bool {
        !self.open_before.contains(&session.id) && may_answer(&self.request, self.user.as_deref(), session)
    }

    /// Returns true if the session was opened at the time of the request; `None` if the service states no time. Compares ages,
    /// each by the clock that states the time: times of different clocks are never compared.
    fn in_time(&self, session: &Session, service_now: Option<Timestamp>) -> Option<bool> {
        let age = service_now?.duration_since(session.created?);
        Some(age.saturating_sub(self.age).abs() <= OPENING_TOLERANCE)
    }
}

/// Returns true if the user, scope and hour match and the range is within a day of that of the request; unknown values match.
pub fn may_answer(request: &SessionRequest, user: Option<&str>, session: &Session) -> bool {
    let near = |day: jiff::civil::Date| {
        let days = request.start.since(day);
        days.is_ok_and(|span| span.get_days().abs() <= 1)
    };
    let same_user = session
        .username
        .as_deref()
        .is_none_or(|session_user| user.is_none_or(|user| user == session_user));
    let mut request = *request;
    if let Some((start, end)) = session.range.filter(|(start, end)| near(*start) && near(*end)) {
        (request.start, request.end) = (start, end);
    }
    same_user && request.answer_matches(session)
}

/// Requests without reply of one space whose sessions this process searches for: at most as many as a space has sessions.
#[derive(Clone, Debug, Default)]
pub struct UnansweredRequests(Arc<Mutex<BTreeMap<Searcher, Searched>>>);

/// Export and attempt.
type Searcher = (String, AttemptId);

#[derive(Debug)]
struct Searched {
    request: UnansweredRequest,
    /// Time at which the age was measured.
    at: Instant,
    /// Time from which on the request does not count: its search ended without notice.
    until: Instant,
}

impl UnansweredRequests {
    /// Registers the request of an attempt until some minutes after its next check, and returns those of all other attempts.
    pub fn register(
        &self,
        export: &str,
        id: AttemptId,
        request: &UnansweredRequest,
        now: Instant,
    ) -> Vec<UnansweredRequest> {
        let mut searched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        searched.retain(|_, search| search.until > now);
        let own = (export.to_owned(), id);
        let others = searched.iter().filter(|(searcher, _)| **searcher != own);
        let aged = |search: &Searched| UnansweredRequest {
            age: search.request.age.saturating_add(elapsed(search.at, now)),
            ..search.request.clone()
        };
        let others = others.map(|(_, search)| aged(search)).collect();
        if searched.len() < SESSIONS_PER_SPACE || searched.contains_key(&own) {
            let search = Searched {
                request: request.clone(),
                at: now,
                until: now + LATE_CHECK,
            };
            searched.insert(own, search);
        }
        others
    }

    /// Keeps the request of an attempt until some minutes after its next check.
    pub fn keep(&self, export: &str, id: AttemptId, next_check: Instant) {
        let mut searched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(search) = searched.get_mut(&(export.to_owned(), id)) {
            search.until = next_check + LATE_CHECK;
        }
    }

    /// Removes the request of an attempt that has no session open.
    pub fn remove(&self, export: &str, id: AttemptId) {
        let mut searched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        searched.remove(&(export.to_owned(), id));
    }
}

fn elapsed(since: Instant, now: Instant) -> SignedDuration {
    SignedDuration::try_from(now.saturating_duration_since(since)).unwrap_or(SignedDuration::MAX)
}

/// Evidence about the session of a request without reply.
#[derive(Debug)]
pub struct OrphanSearch<'a> {
    /// Request of the attempt.
    pub request: &'a UnansweredRequest,
    /// Requests of other attempts in the space, of this and other exports, that this process searches for too.
    pub others: &'a [UnansweredRequest],
    /// Sessions that neither a journal nor this process assigns to an attempt.
    pub sessions: &'a [&'a Session],
    /// Current time by the clock of the service, as the times of the sessions.
    pub service_now: Option<Timestamp>,
    /// Time without activity after which nothing uses a session or opens it late.
    pub quiet: SignedDuration,
}

/// Result of a search for the session of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum OrphanVerdict<'a> {
    /// The attempt has no session open.
    NoSession,
    /// The sessions of the attempt, and of others where several fit; nothing uses them.
    Delete(Vec<&'a Session>),
    /// Too early to tell: search again after `wait`.
    Wait {
        /// Time until the next search.
        wait: SignedDuration,
        /// Sessions that fit so far.
        sessions: Vec<&'a Session>,
    },
    /// The sessions may belong to someone else.
    Report {
        /// Sessions that fit everything but, perhaps, the time.
        sessions: Vec<&'a Session>,
        /// What is not proved.
        doubt: OrphanDoubt,
    },
}

/// Reason why it is not proved that a session belongs to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrphanDoubt {
    /// More sessions fit than attempts may have opened.
    Several,
    /// The sessions have users, and that of the attempt is not known.
    UserUnknown,
    /// The only session is not of the same time.
    OtherTime,
    /// The time of a session, or of the service, is not known.
    TimeUnknown,
}

impl OrphanDoubt {
    /// Returns the doubt as a clause.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Several => "these are more sessions than interrupted attempts may have opened",
            Self::UserUnknown => "the tracker user of this export is not known",
            Self::OtherTime => {
                "it was opened at another time than the attempt, or the clock of the service was set"
            }
            Self::TimeUnknown => "the service does not state when it was opened, or its own time",
        }
    }
}

impl<'a> OrphanSearch<'a> {
    /// Decides. Each request opened one session at most: where as many attempts may have opened the same sessions as there are
    /// such sessions, all are theirs, whichever opened which.
    pub fn evaluate(&self) -> OrphanVerdict<'a> {
        // A delayed request may still open a session.
        let settled = self.quiet.saturating_sub(self.request.age);
        let fitting = self.sessions.iter().filter(|session| self.request.fits(session));
        let sessions: Vec<&Session> = fitting.copied().collect();
        let report = |sessions, doubt| OrphanVerdict::Report { sessions, doubt };
        if sessions.is_empty() {
            return if settled > SignedDuration::ZERO {
                OrphanVerdict::Wait {
                    wait: settled,
                    sessions,
                }
            } else {
                OrphanVerdict::NoSession
            };
        }
        if self.request.user.is_none() && sessions.iter().any(|session| session.username.is_some()) {
            return report(sessions, OrphanDoubt::UserUnknown);
        }
        let one_or_several = |one| {
            if sessions.len() == 1 {
                one
            } else {
                OrphanDoubt::Several
            }
        };
        let times_known = sessions.iter().all(|session| session.created.is_some());
        let Some(service_now) = self.service_now.filter(|_| times_known) else {
            let doubt = one_or_several(OrphanDoubt::TimeUnknown);
            return report(sessions, doubt);
        };
        let in_time = sessions.iter().copied();
        let in_time: Vec<&Session> = in_time
            .filter(|session| self.request.in_time(session, Some(service_now)) == Some(true))
            .collect();
        if in_time.is_empty() {
            let doubt = one_or_several(OrphanDoubt::OtherTime);
            return report(sessions, doubt);
        }
        if in_time.len() > 1 + self.attempts_of_same(&in_time) {
            return if settled > SignedDuration::ZERO {
                OrphanVerdict::Wait {
                    wait: settled,
                    sessions: in_time,
                }
            } else {
                report(sessions, OrphanDoubt::Several)
            };
        }
        let last_uses = in_time
            .iter()
            .map(|session| session.accessed.max(session.created));
        let last_use = last_uses.max().flatten();
        let unused = last_use.map_or(SignedDuration::ZERO, |at| service_now.duration_since(at));
        let wait = settled.max(self.quiet.saturating_sub(unused));
        if wait > SignedDuration::ZERO {
            OrphanVerdict::Wait {
                wait,
                sessions: in_time,
            }
        } else {
            OrphanVerdict::Delete(in_time)
        }
    }

    /// Returns the number of other attempts that may have opened some of these sessions, and none but these.
    fn attempts_of_same(&self, sessions: &[&Session]) -> usize {
        let of_same = |other: &&UnansweredRequest| {
            let mut theirs = self.sessions.iter().filter(|session| {
                other.fits(session) && other.in_time(session, self.service_now) != Some(false)
            });
            let mut some = false;
            theirs.all(|theirs| {
                some = true;
                sessions.iter().any(|session| session.id == theirs.id)
            }) && some
        };
        self.others.iter().filter(of_same).count()
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::archive::window::Window;

    const REQUEST: SessionRequest = SessionRequest {
        start: date(2018, 6, 2),
        end: date(2018, 6, 2),
        hour: None,
        account: false,
    };

    /// Request that began `age` seconds ago.
    fn request(age: i64) -> UnansweredRequest {
        UnansweredRequest {
            request: REQUEST,
            user: Some("user".to_owned()),
            open_before: Vec::new(),
            age: SignedDuration::from_secs(age),
        }
    }

    /// Time of the service; it began 1,000,000 s ago.
    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn session(id: &str, created: Option<i64>) -> Session {
        Session {
            id: id.to_owned(),
            space: None,
            username: Some("user".to_owned()),
            created: created.map(at),
            accessed: None,
            range: None,
            account: None,
            hour: None,
        }
    }

    /// Evaluates sessions for a request. The quiet time is 10 min.
    fn evaluate(
        request: &UnansweredRequest,
        others: &[UnansweredRequest],
        service_now: Option<i64>,
        sessions: &[Session],
    ) -> String {
        let sessions: Vec<&Session> = sessions.iter().collect();
        let search = OrphanSearch {
            request,
            others,
            sessions: &sessions,
            service_now: service_now.map(at),
            quiet: SignedDuration::from_mins(10),
        };
        let ids = |sessions: Vec<&Session>| -> String {
            let ids: Vec<&str> = sessions.iter().map(|session| session.id.as_str()).collect();
            ids.join(" ")
        };
        match search.evaluate() {
            OrphanVerdict::NoSession => "none".to_owned(),
            OrphanVerdict::Delete(sessions) => format!("delete {}", ids(sessions)),
            OrphanVerdict::Wait { wait, sessions } => format!("wait {} {}", wait.as_secs(), ids(sessions))
                .trim_end()
                .to_owned(),
            OrphanVerdict::Report { doubt, .. } => format!("{doubt:?}"),
        }
    }

    #[test]
    fn an_orphan_is_identified_by_ages_and_never_forgotten_for_its_time() {
        // The store's clock differs from that of the service; the attempt began at 0 of the store's clock.
        for skew in [0, 600, -600, 86_400] {
            let check = |age: i64, created: &[i64]| {
                let sessions: Vec<Session> = created
                    .iter()
                    .zip(["a", "b"])
                    .map(|(created, id)| session(id, Some(created + skew)))
                    .collect();
                evaluate(&request(age), &[], Some(age + skew), &sessions)
            };
            assert_eq!(check(60, &[]), "wait 540", "{skew}");
            assert_eq!(check(600, &[]), "none", "{skew}");
            assert_eq!(check(60, &[3]), "wait 543 a", "{skew}");
            assert_eq!(check(603, &[3]), "delete a", "{skew}");
            assert_eq!(check(1_200, &[700]), "OtherTime", "{skew}");
            assert_eq!(check(1_200, &[-400]), "OtherTime", "{skew}");
            assert_eq!(check(1_200, &[3, 700]), "delete a", "{skew}");
            assert_eq!(check(60, &[3, 9]), "wait 540 a b", "{skew}");
            assert_eq!(check(1_200, &[3, 9]), "Several", "{skew}");
            assert_eq!(check(1_200, &[700, 800]), "Several", "{skew}");
        }
    }

    #[test]
    fn a_session_of_unknown_age_is_reported() {
        let unknown = session("a", None);
        let check = |service_now, sessions: &[Session]| evaluate(&request(900), &[], service_now, sessions);
        assert_eq!(check(Some(900), std::slice::from_ref(&unknown)), "TimeUnknown");
        assert_eq!(check(Some(900), &[unknown, session("b", Some(0))]), "Several");
        assert_eq!(check(None, &[session("a", Some(0))]), "TimeUnknown");
    }

    #[test]
    fn sessions_of_as_many_attempts_are_theirs() {
        let two = [session("a", Some(3)), session("b", Some(5))];
        let three = [two[0].clone(), two[1].clone(), session("c", Some(7))];
        let check = |others: &[UnansweredRequest], sessions: &[Session]| {
            evaluate(&request(1_200), others, Some(1_200), sessions)
        };
        let other = request(1_190);
        assert_eq!(check(&[], &two), "Several");
        assert_eq!(check(std::slice::from_ref(&other), &two), "delete a b");
        assert_eq!(check(std::slice::from_ref(&other), &two[..1]), "delete a");
        assert_eq!(check(std::slice::from_ref(&other), &three), "Several");
        assert_eq!(check(&[other.clone(), other.clone()], &three), "delete a b c");
        // Used 400 s ago: it may be in use.
        let mut used = two.clone();
        used[1].accessed = Some(at(800));
        assert_eq!(check(std::slice::from_ref(&other), &used), "wait 200 a b");
    }

    #[test]
    fn an_attempt_that_fits_other_sessions_too_explains_none() {
        let sessions = [session("a", Some(3)), session("b", Some(5))];
        let check = |other: UnansweredRequest| evaluate(&request(1_200), &[other], Some(1_200), &sessions);
        let of = |change: fn(&mut UnansweredRequest)| {
            let mut other = request(1_200);
            change(&mut other);
            other
        };
        assert_eq!(
            check(of(|other| other.user = Some("another".to_owned()))),
            "Several"
        );
        assert_eq!(
            check(of(|other| other.request.account = true)),
            "delete a b",
            "the scope is not stated"
        );
        assert_eq!(
            check(of(|other| other.age = SignedDuration::from_secs(9_000))),
            "Several"
        );
        let knows_both = of(|other| other.open_before = vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(check(knows_both), "Several");
        let knows_one = of(|other| other.open_before = vec!["a".to_owned()]);
        assert_eq!(check(knows_one), "delete a b");
        // Its attempt may have opened `c`, and then `a` or `b` is of someone else.
        let with_third = [sessions[0].clone(), sessions[1].clone(), session("c", Some(-400))];
        let older = request(1_400);
        assert_eq!(
            evaluate(&request(1_200), &[older], Some(1_200), &with_third),
            "Several"
        );
    }

    #[test]
    fn a_request_counts_until_its_search_ends_or_is_overdue() {
        let requests = UnansweredRequests::default();
        let now = Instant::now();
        let id = |second| AttemptId {
            window: Window::day(date(2018, 6, 2)),
            ulid: ulid::Ulid::from_parts(second, 0),
        };
        let ages = |export: &str, second, now| -> Vec<i64> {
            let others = requests.register(export, id(second), &request(10), now);
            others.iter().map(|other| other.age.as_secs()).collect()
        };
        assert_eq!(ages("july", 1, now), Vec::<i64>::new());
        assert_eq!(ages("june", 1, now + Duration::from_secs(5)), [15]);
        assert_eq!(
            ages("july", 1, now + Duration::from_secs(6)),
            [11],
            "it is no other"
        );
        assert_eq!(ages("july", 2, now + Duration::from_secs(6)).len(), 2);
        requests.remove("july", id(2));
        requests.keep("june", id(1), now + Duration::from_hours(1));
        let later = now + Duration::from_mins(72);
        assert_eq!(ages("july", 3, later).len(), 1);
        assert_eq!(ages("july", 3, later + LATE_CHECK), Vec::<i64>::new());
        for second in 4..100 {
            ages("july", second, later);
        }
        assert!(ages("july", 100, later).len() <= SESSIONS_PER_SPACE);
    }
}
