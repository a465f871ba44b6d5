//! Tables of observations and the expected decisions.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn observed(task: ObservedTask) -> ResourceObservation {
    ResourceObservation {
        now: at(1_000_000),
        deleting: None,
        finalizer: true,
        suspended: false,
        spec_digest: 1,
        secrets_stale: false,
        sessions: true,
        restart_requested: false,
        task,
    }
}

const SOON: i64 = 1_000_060;
const PAST: i64 = 999_999;

fn finished(result: FinishedTask) -> ObservedTask {
    ObservedTask::Finished { spec: 1, result }
}

const EXPORTING: ObservedTask = ObservedTask::Exporting {
    spec: 1,
    in_place: false,
    stopping: false,
};
const ADAPTABLE: ObservedTask = ObservedTask::Exporting {
    spec: 1,
    in_place: true,
    stopping: false,
};
const STOPPING: ObservedTask = ObservedTask::Exporting {
    spec: 1,
    in_place: true,
    stopping: true,
};

#[test]
fn an_export_starts_stops_and_restarts() {
    let quiet = |task| ResourceObservation {
        finalizer: false,
        sessions: false,
        ..observed(task)
    };
    let idle = |second| finished(FinishedTask::Idle(at(second)));
    let waiting = |second| finished(FinishedTask::Waiting(at(second)));
    let failed = |second| finished(FinishedTask::Failed(at(second)));
    let noop = ReconcileDecision::now(Action::Noop);
    for (observed, expected) in [
        (
            quiet(ObservedTask::NotStarted),
            ReconcileDecision::now(Action::Start),
        ),
        (
            observed(EXPORTING),
            ReconcileDecision::wait(at(1_000_000) + ACTIVE_RESYNC_INTERVAL),
        ),
        (observed(STOPPING), noop),
        (
            ResourceObservation {
                spec_digest: 2,
                ..observed(EXPORTING)
            },
            ReconcileDecision::now(Action::Stop),
        ),
        (
            ResourceObservation {
                spec_digest: 2,
                ..observed(ADAPTABLE)
            },
            ReconcileDecision::now(Action::ApplySpec),
        ),
        (
            ResourceObservation {
                spec_digest: 2,
                secrets_stale: true,
                ..observed(ADAPTABLE)
            },
            ReconcileDecision::now(Action::Stop),
        ),
        (
            ResourceObservation {
                spec_digest: 2,
                ..observed(STOPPING)
            },
            noop,
        ),
        (
            ResourceObservation {
                spec_digest: 2,
                ..quiet(idle(SOON))
            },
            ReconcileDecision::now(Action::Start),
        ),
        (
            ResourceObservation {
                secrets_stale: true,
                ..observed(EXPORTING)
            },
            ReconcileDecision::now(Action::CompareSecrets),
        ),
        (
            ResourceObservation {
                secrets_stale: true,
                ..quiet(idle(SOON))
            },
            ReconcileDecision::now(Action::CompareSecrets),
        ),
        (
            ResourceObservation {
                secrets_stale: true,
                ..quiet(failed(SOON))
            },
            ReconcileDecision::now(Action::Start),
        ),
        (
            ResourceObservation {
                restart_requested: true,
                ..quiet(idle(SOON))
            },
            ReconcileDecision::now(Action::Start),
        ),
        (quiet(idle(SOON)), ReconcileDecision::wait(at(SOON))),
        (quiet(waiting(SOON)), ReconcileDecision::wait(at(SOON))),
        (quiet(waiting(PAST)), ReconcileDecision::now(Action::Start)),
        (
            ResourceObservation {
                secrets_stale: true,
                ..quiet(waiting(SOON))
            },
            ReconcileDecision::now(Action::CompareSecrets),
        ),
        (quiet(idle(PAST)), ReconcileDecision::now(Action::Start)),
        (quiet(failed(SOON)), ReconcileDecision::wait(at(SOON))),
        (quiet(failed(PAST)), ReconcileDecision::now(Action::Start)),
        (observed(ObservedTask::Releasing), noop),
    ] {
        assert_eq!(decide(&observed), expected, "{observed:?}");
    }
}

#[test]
fn the_finalizer_stays_only_while_sessions_may_be_open() {
    let idle = finished(FinishedTask::Idle(at(SOON)));
    let done = ResourceObservation {
        sessions: false,
        ..observed(idle)
    };
    assert_eq!(
        decide(&done),
        ReconcileDecision {
            action: Action::RemoveFinalizer,
            requeue_at: Some(at(SOON))
        }
    );
    assert_eq!(decide(&observed(idle)).action, Action::Noop);
    // An export that waits wants a session soon.
    let waits = ResourceObservation {
        sessions: false,
        ..observed(finished(FinishedTask::Waiting(at(SOON))))
    };
    assert_eq!(decide(&waits), ReconcileDecision::wait(at(SOON)));
    assert_eq!(
        decide(&ResourceObservation {
            finalizer: false,
            ..done
        })
        .action,
        Action::Noop
    );
}

#[test]
fn a_suspended_export_stops_and_releases_its_sessions() {
    let suspended = |task| ResourceObservation {
        suspended: true,
        ..observed(task)
    };
    for (observed, expected) in [
        (suspended(EXPORTING), Action::Stop),
        (suspended(STOPPING), Action::Noop),
        (suspended(ObservedTask::NotStarted), Action::ReleaseSessions),
        (
            suspended(finished(FinishedTask::ReleaseFailed(at(SOON)))),
            Action::Noop,
        ),
        (
            suspended(finished(FinishedTask::ReleaseFailed(at(PAST)))),
            Action::ReleaseSessions,
        ),
        (suspended(finished(FinishedTask::ReleaseImpossible)), Action::Noop),
        (
            ResourceObservation {
                sessions: false,
                ..suspended(finished(FinishedTask::Idle(at(SOON))))
            },
            Action::RemoveFinalizer,
        ),
        (
            ResourceObservation {
                finalizer: false,
                ..suspended(ObservedTask::NotStarted)
            },
            Action::Noop,
        ),
    ] {
        assert_eq!(decide(&observed).action, expected, "{observed:?}");
    }
}

#[test]
fn a_deleted_export_abandons_cleanup_after_ten_minutes() {
    let young = |task| ResourceObservation {
        deleting: Some(at(PAST)),
        ..observed(task)
    };
    let old = |task| ResourceObservation {
        deleting: Some(at(1_000_000 - 600)),
        ..observed(task)
    };
    for (observed, expected) in [
        (young(EXPORTING), Action::Stop),
        (young(STOPPING), Action::Noop),
        (old(STOPPING), Action::AbandonCleanup),
        (young(ObservedTask::NotStarted), Action::ReleaseSessions),
        (young(ObservedTask::Releasing), Action::Noop),
        (old(ObservedTask::Releasing), Action::AbandonCleanup),
        (
            young(finished(FinishedTask::ReleaseFailed(at(SOON)))),
            Action::Noop,
        ),
        (
            young(finished(FinishedTask::ReleaseFailed(at(PAST)))),
            Action::ReleaseSessions,
        ),
        (
            old(finished(FinishedTask::ReleaseFailed(at(SOON)))),
            Action::AbandonCleanup,
        ),
        (
            young(finished(FinishedTask::ReleaseImpossible)),
            Action::AbandonCleanup,
        ),
        (
            young(finished(FinishedTask::Idle(at(SOON)))),
            Action::ReleaseSessions,
        ),
        (
            ResourceObservation {
                sessions: false,
                ..young(finished(FinishedTask::Idle(at(SOON))))
            },
            Action::RemoveFinalizer,
        ),
        (
            ResourceObservation {
                sessions: false,
                ..old(ObservedTask::NotStarted)
            },
            Action::RemoveFinalizer,
        ),
        (
            ResourceObservation {
                finalizer: false,
                ..young(ObservedTask::NotStarted)
            },
            Action::Noop,
        ),
        (
            ResourceObservation {
                finalizer: false,
                ..young(EXPORTING)
            },
            Action::Stop,
        ),
    ] {
        assert_eq!(decide(&observed).action, expected, "{observed:?}");
    }
}

#[test]
fn a_deleted_export_is_requeued_before_its_release_timeout() {
    let at_work = [
        EXPORTING,
        STOPPING,
        ObservedTask::Releasing,
        finished(FinishedTask::ReleaseFailed(at(SOON))),
    ];
    for task in at_work {
        // The release timeout ends before the backoff.
        let since = at(SOON - 1) - RELEASE_TIMEOUT;
        let decision = decide(&ResourceObservation {
            deleting: Some(since),
            ..observed(task)
        });
        assert_eq!(decision.requeue_at, Some(since + RELEASE_TIMEOUT), "{task:?}");
    }
}

#[test]
fn a_clock_set_back_delays_nothing() {
    let hours = 1_000_000 + 3 * 3600;
    let idle = |task| ResourceObservation {
        finalizer: false,
        sessions: false,
        ..observed(task)
    };
    let suspended = |task| ResourceObservation {
        suspended: true,
        ..observed(task)
    };
    let deleted = |task| ResourceObservation {
        deleting: Some(at(999_990)),
        ..observed(task)
    };
    let start = ReconcileDecision::now(Action::Start);
    let release = ReconcileDecision::now(Action::ReleaseSessions);
    for (observed, expected) in [
        (idle(finished(FinishedTask::Failed(at(hours)))), start),
        (
            idle(finished(FinishedTask::Idle(at(hours)))),
            ReconcileDecision::wait(at(hours)),
        ),
        (idle(finished(FinishedTask::Idle(at(hours + 86_400)))), start),
        (
            suspended(finished(FinishedTask::ReleaseFailed(at(hours)))),
            release,
        ),
        (deleted(finished(FinishedTask::ReleaseFailed(at(hours)))), release),
    ] {
        assert_eq!(decide(&observed), expected, "{observed:?}");
    }
}

#[test]
fn the_deletion_time_tolerates_clock_skew() {
    let now = at(1_000_000);
    let minutes = SignedDuration::from_mins;
    let hours = SignedDuration::from_hours;
    for (by_api_server, known, age) in [
        (now - minutes(4), minutes(4), minutes(4)),
        (now - minutes(4), minutes(0), minutes(4)),
        // The operator was down, or its clock is ahead.
        (now - hours(3), minutes(0), minutes(9)),
        (now - hours(3), minutes(1), minutes(10)),
        // Its clock is behind.
        (now + hours(3), minutes(2), minutes(2)),
        (now + hours(3), minutes(10), minutes(10)),
    ] {
        assert_eq!(
            deleting_since(now, by_api_server, known),
            now - age,
            "{by_api_server} {known:?}"
        );
    }
}
