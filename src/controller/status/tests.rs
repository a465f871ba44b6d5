//! Tables of snapshots and the expected conditions.

use jiff::SignedDuration;
use jiff::civil::date;

use super::*;
use crate::api::VerificationStatus;
use crate::controller::status_values::truncate_to_second;
use crate::controller::verification::update::VerifiedCondition;
use crate::export::failure::{Problem, RetryClass};
use crate::export::snapshot::SessionFacts;

const DAY: Window = Window::day(date(2018, 6, 28));

fn subject() -> StatusContext {
    let created = "2018-07-10T00:00:00.5Z".parse().unwrap();
    StatusContext {
        generation: 2,
        created,
        now: created + SignedDuration::from_mins(1),
    }
}

fn export() -> ExportSpec {
    ExportSpec {
        end: Some(date(2018, 6, 30)),
        holder: "cluster/uid".to_owned(),
        single_writer: true,
        ..ExportSpec::new(
            "audit/june",
            "space",
            "https://tracker.example",
            "tracker",
            date(2018, 6, 1),
        )
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

fn problem(reason: Reason, window: Option<Window>, class: RetryClass) -> Problem {
    Problem {
        reason,
        message: "why".to_owned(),
        window,
        class,
        next_try: None,
        retry_at: None,
    }
}

fn with(problem: Problem) -> Snapshot {
    Snapshot {
        problems: vec![problem],
        ..snapshot()
    }
}

fn observed(snapshot: &Snapshot) -> EventExportStatus {
    compute_status(
        subject(),
        ExportPhase::Observed(snapshot, &export()),
        &EventExportStatus::default(),
    )
}

/// Ready, Complete, Reconciling and Stalled as `T`, `F` or `U`, and Ready's reason.
fn summary(status: &EventExportStatus) -> (String, String) {
    let state = |kind| {
        find_condition(&status.conditions, kind)
            .map_or("-", |found| &found.status[..1])
            .to_owned()
    };
    let reason = find_condition(&status.conditions, ConditionType::Ready).map(|ready| ready.reason.clone());
    (ConditionType::ALL.map(state).concat(), reason.unwrap_or_default())
}

#[test]
fn conditions_follow_the_snapshot() {
    let soon = RetryClass::Retry(None);
    let wait = RetryClass::Wait(None);
    let complete = Snapshot {
        stored: 30,
        complete: true,
        missing: HourSet::default(),
        ..snapshot()
    };
    let expired = Snapshot {
        expired: [DAY].into_iter().collect(),
        ..snapshot()
    };
    let moving = Snapshot {
        active: 1,
        ..with(problem(Reason::SpaceFull, None, wait))
    };
    let left = SessionFacts {
        id: "s".to_owned(),
        window: DAY,
    };
    let open = Snapshot {
        missing: HourSet::default(),
        sessions: vec![left],
        ..snapshot()
    };
    let manifest_due = Snapshot {
        stored: 30,
        manifest_due: true,
        missing: HourSet::default(),
        ..snapshot()
    };
    let unsigned = Snapshot {
        problems: vec![problem(Reason::SigningKeyInvalid, None, RetryClass::Manual)],
        ..manifest_due.clone()
    };
    let blind = Snapshot {
        observed: false,
        ..with(problem(Reason::DestinationUnreachable, None, soon))
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
                missing: HourSet::default(),
                ..snapshot()
            },
            "TFFF",
            "NotSettled",
        ),
        (open, "TFFF", "SessionsOpen"),
        (manifest_due, "TFFF", "Exporting"),
        (unsigned, "FFFT", "SigningKeyInvalid"),
        // Waiting for others does not degrade an export until it is overdue.
        (with(problem(Reason::SpaceFull, None, wait)), "TFFF", "SpaceFull"),
        (
            with(problem(Reason::HeldByOther, Some(DAY), wait)),
            "TFFF",
            "HeldByOther",
        ),
        (moving, "TFFF", "Exporting"),
        // Nor does one window that is retried; a peer that does not answer does.
        (
            with(problem(Reason::DownloadIncomplete, Some(DAY), soon)),
            "TFFF",
            "DownloadIncomplete",
        ),
        (with(problem(Reason::Short, Some(DAY), soon)), "TFFF", "Short"),
        (
            with(problem(Reason::SourceUnreachable, None, soon)),
            "FFFF",
            "SourceUnreachable",
        ),
        (blind, "FFFF", "DestinationUnreachable"),
        // Manual action is needed.
        (
            with(problem(Reason::Short, Some(DAY), RetryClass::Manual)),
            "FFFT",
            "Short",
        ),
        (
            with(problem(Reason::CredentialsRefused, None, wait)),
            "FFFT",
            "CredentialsRefused",
        ),
        (
            with(problem(Reason::BucketMissing, None, soon)),
            "FFFT",
            "BucketMissing",
        ),
        (
            with(problem(Reason::EventsUncounted, Some(DAY), RetryClass::Manual)),
            "FFFT",
            "EventsUncounted",
        ),
        (expired, "FFFT", "Expired"),
    ] {
        assert_eq!(
            summary(&observed(&snapshot)),
            (states.to_owned(), reason.to_owned()),
            "{snapshot:?}"
        );
    }
}

#[test]
fn a_window_stuck_for_a_day_is_overdue() {
    let waiting = with(problem(Reason::SpaceFull, None, RetryClass::Wait(None)));
    let later = |hours| {
        let subject = StatusContext {
            now: subject().created + SignedDuration::from_hours(hours),
            ..subject()
        };
        move |snapshot: &Snapshot| {
            summary(&compute_status(
                subject,
                ExportPhase::Observed(snapshot, &export()),
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
    let accepted = ExportSpec {
        accepted_gaps: vec![crate::archive::manifest::document::GapEntry::new(
            date(2018, 6, 28),
            date(2018, 6, 28),
            "lost",
        )],
        ..export()
    };
    let subject = StatusContext {
        now: subject().created + SignedDuration::from_hours(25),
        ..subject()
    };
    let status = compute_status(
        subject,
        ExportPhase::Observed(&waiting, &accepted),
        &EventExportStatus::default(),
    );
    assert_eq!(summary(&status).0, "TFFF");
}

#[test]
fn a_caught_up_continuous_export_is_ready() {
    let continuous = ExportSpec {
        end: None,
        ..export()
    };
    let next = "2018-07-11T06:00:00.25Z".parse().unwrap();
    // The export waits for the next day.
    let caught_up = Snapshot {
        missing: HourSet::default(),
        next_run_at: Some(next),
        ..with(problem(
            Reason::NotSettled,
            Some(DAY),
            RetryClass::Wait(Some(next)),
        ))
    };
    let status = compute_status(
        subject(),
        ExportPhase::Observed(&caught_up, &continuous),
        &EventExportStatus::default(),
    );
    assert_eq!(summary(&status), ("TFFF".to_owned(), "CaughtUp".to_owned()));
    assert_eq!(
        status.next_run_time,
        Some(Time("2018-07-11T06:00:00Z".parse().unwrap()))
    );
}

#[test]
fn a_restart_keeps_the_status_until_the_bucket_is_listed() {
    let complete = observed(&Snapshot {
        complete: true,
        stored: 30,
        missing: HourSet::default(),
        ..snapshot()
    });
    let unseen = Snapshot::default();
    assert_eq!(
        compute_status(subject(), ExportPhase::Starting, &complete),
        complete
    );
    assert_eq!(
        compute_status(subject(), ExportPhase::Observed(&unseen, &export()), &complete),
        complete
    );
    // A new generation resets the conditions.
    let newer = StatusContext {
        generation: 3,
        ..subject()
    };
    let starting = compute_status(newer, ExportPhase::Starting, &complete);
    assert_eq!(
        summary(&starting),
        ("UUTF".to_owned(), "NewGeneration".to_owned())
    );
    assert_eq!(starting.covered, complete.covered);
    assert_eq!(starting.observed_generation, 3);
}

#[test]
fn a_blocked_export_names_the_manual_action() {
    let missing =
        Failure::wait(Reason::CredentialsMissing, "Secret tracker does not exist", None).export_wide();
    let before = observed(&Snapshot {
        complete: true,
        stored: 30,
        missing: HourSet::default(),
        ..snapshot()
    });
    let blocked = |no_session| ExportPhase::Blocked {
        failure: &missing,
        no_session,
    };
    let stopped = Snapshot {
        active: 1,
        sessions: vec![SessionFacts {
            id: "one".to_owned(),
            window: DAY,
        }],
        ..snapshot()
    };
    for no_session in [true, false] {
        let status = compute_status(subject(), blocked(no_session), &observed(&stopped));
        let active = status.windows.unwrap().active;
        assert_eq!(
            (status.sessions.is_empty(), active == 0),
            (no_session, no_session)
        );
    }
    for (before, states) in [(EventExportStatus::default(), "FFFT"), (before, "FTFT")] {
        let blocked = compute_status(subject(), blocked(true), &before);
        assert_eq!(
            summary(&blocked),
            (states.to_owned(), "CredentialsMissing".to_owned())
        );
        assert_eq!(
            blocked.last_error.as_ref().unwrap().message,
            "Secret tracker does not exist"
        );
        let resolved = compute_status(subject(), ExportPhase::Observed(&snapshot(), &export()), &blocked);
        assert_eq!(resolved.last_error, None, "a resolved error is removed");
    }
}

#[test]
fn a_suspended_export_keeps_its_counts() {
    let before = observed(&Snapshot {
        active: 2,
        waiting: 1,
        ..snapshot()
    });
    let suspended = |stopping, still_complete| ExportPhase::Suspended {
        stopping,
        still_complete,
    };
    let next = || StatusContext {
        generation: subject().generation + 1,
        ..subject()
    };
    let stopping = compute_status(next(), suspended(true, false), &before);
    assert_eq!(summary(&stopping), ("FFTF".to_owned(), "Suspended".to_owned()));
    let stopped = compute_status(next(), suspended(false, false), &stopping);
    assert_eq!(summary(&stopped), ("FFFF".to_owned(), "Suspended".to_owned()));
    let windows = stopped.windows.unwrap();
    assert_eq!((windows.stored, windows.active, windows.waiting), (29, 0, 3));
    let complete = observed(&Snapshot {
        complete: true,
        ..snapshot()
    });
    let other = compute_status(next(), suspended(false, false), &complete);
    assert_eq!(
        summary(&other).0,
        "FUFF",
        "a suspended export does not verify that another range is complete"
    );
    assert_eq!(compute_status(next(), suspended(false, false), &other), other);
    let same = compute_status(next(), suspended(false, true), &complete);
    assert_eq!(
        summary(&same).0,
        "FTFF",
        "suspending a complete export changes nothing in its archive"
    );
    // Also after a restart of the operator.
    assert_eq!(compute_status(next(), suspended(false, false), &same), same);
}

#[test]
fn a_run_that_ends_before_its_first_status_has_a_start_time() {
    let began = subject().now - SignedDuration::from_secs(2);
    let done = observed(&Snapshot {
        complete: true,
        first_transfer_at: Some(began),
        ..snapshot()
    });
    assert_eq!(done.start_time, Some(Time(truncate_to_second(began))));
}

#[test]
fn transition_times_change_only_with_the_status() {
    let running = observed(&Snapshot {
        active: 1,
        first_transfer_at: Some(subject().now),
        ..snapshot()
    });
    assert_eq!(running.start_time, Some(Time(truncate_to_second(subject().now))));
    let later = StatusContext {
        now: subject().now + SignedDuration::from_mins(5),
        ..subject()
    };
    let done = Snapshot {
        complete: true,
        stored: 30,
        missing: HourSet::default(),
        ..snapshot()
    };
    let complete = compute_status(later, ExportPhase::Observed(&done, &export()), &running);
    assert_eq!(complete.start_time, running.start_time);
    assert_eq!(
        complete.completion_time.as_ref().unwrap().0,
        truncate_to_second(later.now)
    );
    let ready = |status: &EventExportStatus| {
        find_condition(&status.conditions, ConditionType::Ready)
            .unwrap()
            .last_transition_time
            .clone()
    };
    assert_eq!(ready(&complete), ready(&running), "it was ready all the time");
    let much_later = StatusContext {
        now: later.now + SignedDuration::from_mins(5),
        ..later
    };
    assert_eq!(
        compute_status(much_later, ExportPhase::Observed(&done, &export()), &complete),
        complete
    );
    assert_eq!(
        compute_status(
            much_later,
            ExportPhase::Observed(&snapshot(), &export()),
            &complete
        )
        .completion_time,
        None
    );
}

#[test]
fn expired_days_have_no_hour_that_the_service_still_has() {
    let hour = |day, hour| Window::hour(date(2018, 6, day), hour).unwrap();
    let mut some = snapshot();
    some.missing = [hour(1, 7), hour(1, 8), hour(2, 7), Window::day(date(2018, 6, 3))]
        .into_iter()
        .collect();
    some.expired = [hour(1, 7), hour(2, 7), Window::day(date(2018, 6, 3))]
        .into_iter()
        .collect();
    let status = observed(&some);
    let range = |start: &str, end: &str| StatusRange::new(start, end);
    // On 1 June, an acceptance would give up the hour 8 too.
    assert_eq!(status.expired, [range("2018-06-02", "2018-06-03")]);
    assert_eq!(
        status.missing,
        [
            range("2018-06-01T07", "2018-06-01T08"),
            range("2018-06-02T07", "2018-06-02T07"),
            range("2018-06-03", "2018-06-03"),
        ]
    );
    assert_eq!(status.omitted_ranges, None);
}

#[test]
fn a_session_id_is_listed_once() {
    let mut some = snapshot();
    some.sessions = [DAY, Window::day(date(2018, 6, 2))]
        .map(|window| SessionFacts {
            id: "same".to_owned(),
            window,
        })
        .into();
    assert_eq!(observed(&some).sessions.len(), 1);
}

#[test]
fn the_status_size_is_bounded() {
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
    let mut wild = with(problem(Reason::Failed, Some(DAY), RetryClass::Manual));
    wild.problems[0].message = "ü".repeat(5000);
    wild.missing = odd.clone().collect();
    wild.covered = odd.clone().collect();
    wild.expired = odd.collect();
    wild.sessions = (0..100).map(session).collect();
    let status = observed(&wild);
    assert!(status.missing.len() <= MAX_RANGES && status.covered.len() <= MAX_RANGES);
    assert!(status.expired.len() <= MAX_RANGES && status.sessions.len() <= MAX_SESSIONS);
    let omitted = status.omitted_ranges.unwrap();
    assert_eq!(
        (omitted.covered, omitted.missing, omitted.expired),
        (336, 336, 336)
    );
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
    assert!(serde_json::to_vec(&status).unwrap().len() < 36 * 1024);
}

#[test]
fn the_contended_condition_is_set_and_removed() {
    let mut status = EventExportStatus::default();
    set_contended(&mut status, subject(), Some("a/me serves it, b/other selects it"));
    assert_eq!(status.conditions.len(), 1);
    assert_eq!(owned_status(&status), status);
    set_contended(&mut status, subject(), None);
    assert!(status.conditions.is_empty());
}

#[test]
fn verified_is_shown_only_if_it_is_scheduled() {
    let complete = Snapshot {
        stored: 30,
        complete: true,
        missing: HourSet::default(),
        ..snapshot()
    };
    let mut status = observed(&complete);
    let before = status.clone();
    let verified = |status: &EventExportStatus| {
        find_condition(&status.conditions, ConditionType::Verified).map(|found| found.reason.clone())
    };
    set_verification(&mut status, subject(), true, None);
    assert_eq!(verified(&status).as_deref(), Some("NotVerifiedYet"));
    assert_eq!(summary(&status), summary(&before));

    let update = VerificationUpdate {
        status: VerificationStatus {
            findings: 1,
            ..VerificationStatus::default()
        },
        condition: Some(VerifiedCondition {
            status: Some(false),
            reason: Reason::NotProved,
            message: "why".to_owned(),
        }),
    };
    set_verification(&mut status, subject(), true, Some(&update));
    assert_eq!(verified(&status).as_deref(), Some("NotProved"));
    assert_eq!(status.verification, Some(update.status));
    // Damage of the archive is no state of the export.
    assert_eq!(summary(&status), summary(&before));
    // What is written stays until the next result, also when the export runs again.
    let again = compute_status(subject(), ExportPhase::Observed(&complete, &export()), &status);
    let mut kept = again.clone();
    set_verification(&mut kept, subject(), true, None);
    assert_eq!((&kept, owned_status(&kept)), (&again, again.clone()));

    set_verification(&mut status, subject(), false, None);
    assert_eq!(status, before);
}

#[test]
fn a_change_that_concerns_no_run_is_accepted_without_one() {
    let mut status = observed(&snapshot());
    let later = StatusContext {
        generation: 3,
        ..subject()
    };
    let before = summary(&status);
    accept_generation(&mut status, later);
    assert_eq!((status.observed_generation, summary(&status)), (3, before));
    let reconciling = find_condition(&status.conditions, ConditionType::Reconciling).unwrap();
    assert_eq!(reconciling.message, "generation 3 is accepted");
    assert!(
        status
            .conditions
            .iter()
            .all(|condition| condition.observed_generation == Some(3))
    );
    // A resource that was never observed is not accepted.
    let mut new = EventExportStatus::default();
    accept_generation(&mut new, later);
    assert_eq!(new, EventExportStatus::default());
}
