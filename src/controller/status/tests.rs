//! Tables: what a person sees for what is known.

use jiff::SignedDuration;
use jiff::civil::date;

use super::*;
use crate::export::failure::{Remedy, Trouble};
use crate::export::keys::Root;
use crate::export::shard::Shard;
use crate::export::snapshot::SessionFacts;
use crate::export::window::{Cells, Window};
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
        shard: Shard::WHOLE,
        parallelism: 4,
        settle_after: SignedDuration::from_hours(6),
        accepted: Vec::new(),
        holder: "cluster/uid".to_owned(),
        tenure: None,
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
        missing: Cells::default(),
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
        missing: Cells::default(),
        sessions: vec![left],
        ..snapshot()
    };
    let sealing = Snapshot {
        stored: 30,
        sealing: true,
        missing: Cells::default(),
        ..snapshot()
    };
    let unsigned = Snapshot {
        troubles: vec![trouble(Reason::SigningKeyInvalid, None, Remedy::Person)],
        ..sealing.clone()
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
                missing: Cells::default(),
                ..snapshot()
            },
            "TFFF",
            "NotSettled",
        ),
        (open, "TFFF", "SessionsOpen"),
        (sealing, "TFFF", "Exporting"),
        (unsigned, "FFFT", "SigningKeyInvalid"),
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
        accepted: vec![crate::export::manifest::document::GapEntry::new(
            date(2018, 6, 28),
            date(2018, 6, 28),
            "lost",
        )],
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
    // As the decision words it: the next day is waited for.
    let caught_up = Snapshot {
        missing: Cells::default(),
        next_look: Some(next),
        ..with(trouble(Reason::NotSettled, Some(DAY), Remedy::Wait(Some(next))))
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
        missing: Cells::default(),
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
        missing: Cells::default(),
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
        missing: Cells::default(),
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

#[test]
fn that_another_operator_would_serve_it_is_ours_to_say_and_to_take_back() {
    let mut status = EventExportStatus::default();
    contended(&mut status, subject(), Some(("b/other", "a/me")));
    assert_eq!(status.conditions.len(), 1);
    assert_eq!(own(&status), status);
    contended(&mut status, subject(), None);
    assert!(status.conditions.is_empty());
}
