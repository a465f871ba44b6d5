//! What is written back: from what is known of an export to its `status`. Pure.
//!
//! Conditions follow the rules of kstatus, so that GitOps tools wait rightly: `Reconciling` and `Stalled` are shown
//! in both states, the time of a transition stays where the status did not change.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::judge::{self, Judgement, Said};
use crate::api::{
    ConditionType, EventExportStatus, LastError, MAX_MESSAGE_CHARS, MAX_RANGES, MAX_SESSIONS, OpenSession,
    Reason, WindowCounts, condition, find, set,
};
use crate::export::failure::Failure;
use crate::export::snapshot::Snapshot;
use crate::export::wish::Export;

/// Longest id of a session that is shown, in characters: the schema's bound.
const SESSION_CHARS: usize = 256;

/// What the resource is at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`.
    pub created: Timestamp,
    /// The moment.
    pub now: Timestamp,
}

/// What happens with the resource.
#[derive(Clone, Copy, Debug)]
pub enum Phase<'a> {
    /// Work for this generation is about to begin, or the last generation's is about to end.
    Begins,
    /// It could not begin, or broke down.
    Blocked(&'a Failure),
    /// It is suspended; whether work is still ending.
    Suspended {
        /// Whether work is still ending.
        stopping: bool,
    },
    /// It exports, or rests until there is something to do.
    Seen(&'a Snapshot, &'a Export),
}

/// The status that says so. Facts that are not known now stay as they were.
pub fn status(subject: Subject, phase: Phase<'_>, previous: &EventExportStatus) -> EventExportStatus {
    let subject = Subject {
        now: whole(subject.now),
        ..subject
    };
    let same = previous.observed_generation == subject.generation && !previous.conditions.is_empty();
    let mut next = previous.clone();
    next.observed_generation = subject.generation;
    match phase {
        Phase::Begins if same => return next,
        Phase::Begins => begins(&mut next, subject),
        Phase::Suspended { stopping } => suspended(&mut next, subject, stopping),
        Phase::Blocked(failure) => {
            let mut judgement = judge::blocked(failure, previous);
            judgement.complete &= same;
            judged(&mut next, subject, &judgement);
            next.last_error = Some(last_error(failure.reason, &failure.message, None));
            next.next_run_time = None;
        }
        Phase::Seen(snapshot, _) if !snapshot.observed && snapshot.troubles.is_empty() => {
            return status(subject, Phase::Begins, previous);
        }
        Phase::Seen(snapshot, export) => {
            if snapshot.observed {
                facts(&mut next, snapshot, subject.now);
            }
            let mut judgement = judge::judge(snapshot, export, subject.created, subject.now);
            if !snapshot.observed {
                let was = find(&previous.conditions, ConditionType::Complete);
                judgement.complete = same && was.is_some_and(|was| was.status == "True");
            }
            judged(&mut next, subject, &judgement);
            let error = snapshot.troubles.iter().find(|trouble| judge::is_error(trouble));
            next.last_error = error.map(|trouble| {
                last_error(
                    trouble.reason,
                    &trouble.message,
                    trouble.window.map(|window| window.to_string()),
                )
            });
        }
    }
    next
}

fn begins(next: &mut EventExportStatus, subject: Subject) {
    let message = "the spec is new or changed; what is stored is being listed";
    put(
        next,
        subject,
        ConditionType::Ready,
        None,
        Reason::NewGeneration,
        message,
    );
    put(
        next,
        subject,
        ConditionType::Complete,
        None,
        Reason::NewGeneration,
        message,
    );
    put(
        next,
        subject,
        ConditionType::Reconciling,
        Some(true),
        Reason::NewGeneration,
        message,
    );
    put(
        next,
        subject,
        ConditionType::Stalled,
        Some(false),
        Reason::NewGeneration,
        message,
    );
}

fn suspended(next: &mut EventExportStatus, subject: Subject, stopping: bool) {
    let message = if stopping {
        "spec.suspend is true: transfers are being stopped and sessions deleted"
    } else {
        "spec.suspend is true: nothing is exported, and days may expire at the service meanwhile"
    };
    // What was complete may have been given another range in the same breath, and nobody looks.
    let was = find(&next.conditions, ConditionType::Complete).map(|was| was.status.as_str());
    let complete = (was == Some("False")).then_some(false);
    put(
        next,
        subject,
        ConditionType::Ready,
        Some(false),
        Reason::Suspended,
        message,
    );
    put(
        next,
        subject,
        ConditionType::Complete,
        complete,
        Reason::Suspended,
        message,
    );
    put(
        next,
        subject,
        ConditionType::Reconciling,
        Some(stopping),
        Reason::Suspended,
        message,
    );
    put(
        next,
        subject,
        ConditionType::Stalled,
        Some(false),
        Reason::Suspended,
        message,
    );
    if let Some(windows) = &mut next.windows
        && !stopping
    {
        windows.waiting = windows.waiting.saturating_add(windows.active);
        windows.active = 0;
        next.sessions.clear();
    }
    next.next_run_time = None;
}

fn judged(next: &mut EventExportStatus, subject: Subject, judgement: &Judgement) {
    let Judgement {
        ready,
        said,
        stalled,
        complete,
    } = judgement;
    put(
        next,
        subject,
        ConditionType::Ready,
        Some(*ready),
        said.reason,
        &said.message,
    );
    if *complete && said.reason != Reason::Complete {
        let message = "everything that was asked for is stored and proved, or an accepted gap";
        put(
            next,
            subject,
            ConditionType::Complete,
            Some(true),
            Reason::Complete,
            message,
        );
    } else {
        put(
            next,
            subject,
            ConditionType::Complete,
            Some(*complete),
            said.reason,
            &said.message,
        );
    }
    let acted = format!("generation {} is acted upon", subject.generation);
    put(
        next,
        subject,
        ConditionType::Reconciling,
        Some(false),
        Reason::Accepted,
        &acted,
    );
    match stalled {
        Some(Said { reason, message }) => {
            put(
                next,
                subject,
                ConditionType::Stalled,
                Some(true),
                *reason,
                message,
            );
        }
        None => put(
            next,
            subject,
            ConditionType::Stalled,
            Some(false),
            said.reason,
            "no person is needed",
        ),
    }
    if *complete {
        next.completion_time.get_or_insert(Time(subject.now));
    } else {
        next.completion_time = None;
    }
}

fn put(
    next: &mut EventExportStatus,
    subject: Subject,
    kind: ConditionType,
    status: Option<bool>,
    reason: Reason,
    message: &str,
) {
    set(
        &mut next.conditions,
        condition(kind, status, reason, message, subject.generation, subject.now),
    );
}

/// Every field of the snapshot that the status shows.
fn facts(next: &mut EventExportStatus, snapshot: &Snapshot, now: Timestamp) {
    let Snapshot {
        observed: _,
        wanted,
        stored,
        active,
        waiting,
        failed,
        events,
        bytes,
        covered,
        missing,
        expired,
        sessions,
        troubles: _,
        complete,
        next_look,
        windows: _,
        transfers: _,
    } = snapshot;
    let small = |count: &u64| u32::try_from(*count).unwrap_or(u32::MAX);
    let large = |count: &u64| Some(i64::try_from(*count).unwrap_or(i64::MAX));
    next.windows = Some(WindowCounts {
        wanted: small(wanted),
        stored: small(stored),
        active: small(active),
        waiting: small(waiting),
        failed: small(failed),
    });
    next.events = large(events);
    next.bytes = large(bytes);
    // One less than may be, for the text that says how many were left out.
    next.covered = covered.ranges(MAX_RANGES - 1);
    next.missing = missing.ranges(MAX_RANGES - 1);
    next.expired = expired.ranges(MAX_RANGES - 1);
    next.sessions = sessions
        .iter()
        .take(MAX_SESSIONS)
        .map(|session| OpenSession {
            id: cut(&session.id, SESSION_CHARS),
            window: session.window.to_string(),
        })
        .collect();
    if *active > 0 || !sessions.is_empty() {
        next.start_time.get_or_insert(Time(now));
    }
    next.next_run_time = next_look
        .filter(|_| !complete && *active == 0)
        .map(|at| Time(whole(at)));
}

fn last_error(reason: Reason, message: &str, window: Option<String>) -> LastError {
    LastError {
        reason: reason.to_string(),
        message: cut(message, MAX_MESSAGE_CHARS),
        window,
    }
}

/// The whole second: Kubernetes keeps no more, and what comes back must equal what was written.
fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars.saturating_sub(1)).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use jiff::civil::date;

    use super::*;
    use crate::export::failure::{Remedy, Trouble};
    use crate::export::keys::Root;
    use crate::export::snapshot::SessionFacts;
    use crate::export::window::Window;
    use crate::export::wish::{Persistence, Scope};

    const DAY: Window = Window::day(date(2018, 6, 28));

    fn subject() -> Subject {
        let created = "2018-07-10T00:00:00.5Z".parse().unwrap();
        Subject {
            generation: 2,
            created,
            now: created + SignedDuration::from_mins(1),
        }
    }

    fn export() -> Export {
        Export {
            name: "audit/june".to_owned(),
            space: "space".to_owned(),
            scope: Scope::Space,
            start: date(2018, 6, 1),
            end: Some(date(2018, 6, 30)),
            hour: None,
            source: "https://tracker.example".to_owned(),
            root: Root::new("tracker", "space", "space"),
            parallelism: 4,
            settle_after: SignedDuration::from_hours(6),
            accepted: Vec::new(),
            holder: "cluster/uid".to_owned(),
            single_writer: true,
            persistence: Persistence::Forever,
        }
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            observed: true,
            wanted: 30,
            stored: 29,
            missing: [DAY].into_iter().collect(),
            ..Snapshot::default()
        }
    }

    fn trouble(reason: Reason, window: Option<Window>, remedy: Remedy) -> Trouble {
        Trouble {
            reason,
            message: "why".to_owned(),
            window,
            remedy,
            again: None,
        }
    }

    fn with(trouble: Trouble) -> Snapshot {
        Snapshot {
            troubles: vec![trouble],
            ..snapshot()
        }
    }

    fn seen(snapshot: &Snapshot) -> EventExportStatus {
        status(
            subject(),
            Phase::Seen(snapshot, &export()),
            &EventExportStatus::default(),
        )
    }

    /// Ready, Complete, Reconciling and Stalled as `T`, `F` or `U`, and Ready's reason.
    fn shown(status: &EventExportStatus) -> (String, String) {
        let state = |kind| {
            find(&status.conditions, kind)
                .map_or("-", |found| &found.status[..1])
                .to_owned()
        };
        let reason = find(&status.conditions, ConditionType::Ready).map(|ready| ready.reason.clone());
        (ConditionType::ALL.map(state).concat(), reason.unwrap_or_default())
    }

    #[test]
    fn conditions_say_what_a_snapshot_means() {
        let soon = Remedy::Retry(None);
        let wait = Remedy::Wait(None);
        let complete = Snapshot {
            stored: 30,
            complete: true,
            missing: Default::default(),
            ..snapshot()
        };
        let expired = Snapshot {
            expired: [DAY].into_iter().collect(),
            ..snapshot()
        };
        let moving = Snapshot {
            active: 1,
            ..with(trouble(Reason::SpaceFull, None, wait))
        };
        let left = SessionFacts {
            id: "s".to_owned(),
            window: DAY,
        };
        let open = Snapshot {
            missing: Default::default(),
            sessions: vec![left],
            ..snapshot()
        };
        let blind = Snapshot {
            observed: false,
            ..with(trouble(Reason::DestinationUnreachable, None, soon))
        };
        for (snapshot, states, reason) in [
            (complete, "TTFF", "Complete"),
            (
                Snapshot {
                    active: 1,
                    ..snapshot()
                },
                "TFFF",
                "Exporting",
            ),
            (snapshot(), "TFFF", "Exporting"),
            (
                Snapshot {
                    missing: Default::default(),
                    ..snapshot()
                },
                "TFFF",
                "NotSettled",
            ),
            (open, "TFFF", "SessionsOpen"),
            // Waiting for others is no illness, until it takes too long.
            (with(trouble(Reason::SpaceFull, None, wait)), "TFFF", "SpaceFull"),
            (with(trouble(Reason::HeldBy, Some(DAY), wait)), "TFFF", "HeldBy"),
            (moving, "TFFF", "Exporting"),
            // One window that is tried again is none either; a peer that does not answer is.
            (
                with(trouble(Reason::NotWhole, Some(DAY), soon)),
                "TFFF",
                "NotWhole",
            ),
            (with(trouble(Reason::Short, Some(DAY), soon)), "TFFF", "Short"),
            (
                with(trouble(Reason::SourceUnreachable, None, soon)),
                "FFFF",
                "SourceUnreachable",
            ),
            (blind, "FFFF", "DestinationUnreachable"),
            // A person is needed.
            (
                with(trouble(Reason::Short, Some(DAY), Remedy::Person)),
                "FFFT",
                "Short",
            ),
            (
                with(trouble(Reason::CredentialsRefused, None, wait)),
                "FFFT",
                "CredentialsRefused",
            ),
            (
                with(trouble(Reason::BucketMissing, None, soon)),
                "FFFT",
                "BucketMissing",
            ),
            (
                with(trouble(Reason::NotEvents, Some(DAY), Remedy::Person)),
                "FFFT",
                "NotEvents",
            ),
            (expired, "FFFT", "Expired"),
        ] {
            assert_eq!(
                shown(&seen(&snapshot)),
                (states.to_owned(), reason.to_owned()),
                "{snapshot:?}"
            );
        }
    }

    #[test]
    fn what_waits_for_a_day_without_moving_is_overdue() {
        let waiting = with(trouble(Reason::SpaceFull, None, Remedy::Wait(None)));
        let later = |hours| {
            let subject = Subject {
                now: subject().created + SignedDuration::from_hours(hours),
                ..subject()
            };
            move |snapshot: &Snapshot| {
                shown(&status(
                    subject,
                    Phase::Seen(snapshot, &export()),
                    &EventExportStatus::default(),
                ))
                .0
            }
        };
        assert_eq!(later(23)(&waiting), "TFFF");
        assert_eq!(later(25)(&waiting), "FFFF");
        assert_eq!(
            later(25)(&Snapshot {
                active: 1,
                ..waiting.clone()
            }),
            "TFFF"
        );
        let accepted = Export {
            accepted: vec![(date(2018, 6, 28), date(2018, 6, 28))],
            ..export()
        };
        let subject = Subject {
            now: subject().created + SignedDuration::from_hours(25),
            ..subject()
        };
        let status = status(
            subject,
            Phase::Seen(&waiting, &accepted),
            &EventExportStatus::default(),
        );
        assert_eq!(shown(&status).0, "TFFF");
    }

    #[test]
    fn a_continuous_export_is_ready_when_it_caught_up() {
        let continuous = Export {
            end: None,
            ..export()
        };
        let next = "2018-07-11T06:00:00.25Z".parse().unwrap();
        let caught_up = Snapshot {
            missing: Default::default(),
            next_look: Some(next),
            ..snapshot()
        };
        let status = status(
            subject(),
            Phase::Seen(&caught_up, &continuous),
            &EventExportStatus::default(),
        );
        assert_eq!(shown(&status), ("TFFF".to_owned(), "CaughtUp".to_owned()));
        assert_eq!(
            status.next_run_time,
            Some(Time("2018-07-11T06:00:00Z".parse().unwrap()))
        );
    }

    #[test]
    fn a_restart_changes_nothing_until_the_bucket_was_seen() {
        let complete = seen(&Snapshot {
            complete: true,
            stored: 30,
            missing: Default::default(),
            ..snapshot()
        });
        let unseen = Snapshot::default();
        assert_eq!(status(subject(), Phase::Begins, &complete), complete);
        assert_eq!(
            status(subject(), Phase::Seen(&unseen, &export()), &complete),
            complete
        );
        // Another generation is something else.
        let newer = Subject {
            generation: 3,
            ..subject()
        };
        let begins = status(newer, Phase::Begins, &complete);
        assert_eq!(shown(&begins), ("UUTF".to_owned(), "NewGeneration".to_owned()));
        assert_eq!(begins.covered, complete.covered);
        assert_eq!(begins.observed_generation, 3);
    }

    #[test]
    fn what_cannot_begin_says_for_what_a_person_is_needed() {
        let missing =
            Failure::wait(Reason::CredentialsMissing, "Secret tracker does not exist", None).of_export();
        let before = seen(&Snapshot {
            complete: true,
            stored: 30,
            missing: Default::default(),
            ..snapshot()
        });
        for (before, states) in [(EventExportStatus::default(), "FFFT"), (before, "FTFT")] {
            let blocked = status(subject(), Phase::Blocked(&missing), &before);
            assert_eq!(
                shown(&blocked),
                (states.to_owned(), "CredentialsMissing".to_owned())
            );
            assert_eq!(
                blocked.last_error.as_ref().unwrap().message,
                "Secret tracker does not exist"
            );
            let good = status(subject(), Phase::Seen(&snapshot(), &export()), &blocked);
            assert_eq!(good.last_error, None, "an error that is made good is gone");
        }
    }

    #[test]
    fn a_suspended_export_says_so_and_keeps_its_facts() {
        let before = seen(&Snapshot {
            active: 2,
            waiting: 1,
            ..snapshot()
        });
        let stopping = status(subject(), Phase::Suspended { stopping: true }, &before);
        assert_eq!(shown(&stopping), ("FFTF".to_owned(), "Suspended".to_owned()));
        let stopped = status(subject(), Phase::Suspended { stopping: false }, &stopping);
        assert_eq!(shown(&stopped), ("FFFF".to_owned(), "Suspended".to_owned()));
        let windows = stopped.windows.unwrap();
        assert_eq!((windows.stored, windows.active, windows.waiting), (29, 0, 3));
        let complete = seen(&Snapshot {
            complete: true,
            ..snapshot()
        });
        let suspended = status(subject(), Phase::Suspended { stopping: false }, &complete);
        assert_eq!(
            shown(&suspended).0,
            "FUFF",
            "nobody looks whether the range still is the one that was complete"
        );
        assert_eq!(
            status(subject(), Phase::Suspended { stopping: false }, &suspended),
            suspended
        );
    }

    #[test]
    fn times_are_kept_until_what_they_time_changes() {
        let going = seen(&Snapshot {
            active: 1,
            ..snapshot()
        });
        let later = Subject {
            now: subject().now + SignedDuration::from_mins(5),
            ..subject()
        };
        let done = Snapshot {
            complete: true,
            stored: 30,
            missing: Default::default(),
            ..snapshot()
        };
        let complete = status(later, Phase::Seen(&done, &export()), &going);
        assert_eq!(complete.start_time, going.start_time);
        assert_eq!(complete.completion_time.as_ref().unwrap().0, whole(later.now));
        let ready = |status: &EventExportStatus| {
            find(&status.conditions, ConditionType::Ready)
                .unwrap()
                .last_transition_time
                .clone()
        };
        assert_eq!(ready(&complete), ready(&going), "it was ready all the time");
        let much_later = Subject {
            now: later.now + SignedDuration::from_mins(5),
            ..later
        };
        assert_eq!(
            status(much_later, Phase::Seen(&done, &export()), &complete),
            complete
        );
        assert_eq!(
            status(much_later, Phase::Seen(&snapshot(), &export()), &complete).completion_time,
            None
        );
    }

    #[test]
    fn a_status_is_bounded_whatever_happens() {
        let odd = (0..400).map(|n| {
            Window::day(
                date(2018, 1, 1)
                    .checked_add(jiff::Span::new().days(2 * n))
                    .unwrap(),
            )
        });
        let session = |n| SessionFacts {
            id: format!("{n}{}", "ü".repeat(300)),
            window: DAY,
        };
        let mut wild = with(trouble(Reason::Failed, Some(DAY), Remedy::Person));
        wild.troubles[0].message = "ü".repeat(5000);
        wild.missing = odd.clone().collect();
        wild.covered = odd.clone().collect();
        wild.expired = odd.collect();
        wild.sessions = (0..100).map(session).collect();
        let status = seen(&wild);
        assert!(status.missing.len() <= MAX_RANGES && status.covered.len() <= MAX_RANGES);
        assert!(status.expired.len() <= MAX_RANGES && status.sessions.len() <= MAX_SESSIONS);
        assert!(
            status
                .sessions
                .iter()
                .all(|session| session.id.chars().count() <= 256)
        );
        assert!(
            status
                .conditions
                .iter()
                .all(|now| now.message.chars().count() <= 1024)
        );
        assert_eq!(status.last_error.as_ref().unwrap().message.chars().count(), 1024);
        assert!(serde_json::to_vec(&status).unwrap().len() < 32 * 1024);
    }
}
