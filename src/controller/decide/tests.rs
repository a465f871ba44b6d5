//! Tables: what is done for what is known.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn seen(work: Work) -> Observation {
    Observation {
        now: at(1_000_000),
        deleting: None,
        finalizer: true,
        suspended: false,
        wanted: 1,
        secrets_stale: false,
        sessions: true,
        afresh: false,
        work,
    }
}

const SOON: i64 = 1_000_060;
const PAST: i64 = 999_999;

fn ended(end: End) -> Work {
    Work::Ended { spec: 1, end }
}

const RUNNING: Work = Work::Exporting {
    spec: 1,
    stopping: false,
};
const STOPPING: Work = Work::Exporting {
    spec: 1,
    stopping: true,
};

#[test]
fn an_export_is_started_kept_stopped_and_started_again() {
    let quiet = |work| Observation {
        finalizer: false,
        sessions: false,
        ..seen(work)
    };
    let rested = |second| ended(End::Rested(at(second)));
    let failed = |second| ended(End::Failed(at(second)));
    let leave = Decision::now(Deed::Leave);
    for (seen, expected) in [
        (quiet(Work::Fresh), Decision::now(Deed::Start)),
        (seen(RUNNING), Decision::wait(at(1_000_000) + WATCH)),
        (seen(STOPPING), leave),
        (
            Observation {
                wanted: 2,
                ..seen(RUNNING)
            },
            Decision::now(Deed::Stop),
        ),
        (
            Observation {
                wanted: 2,
                ..seen(STOPPING)
            },
            leave,
        ),
        (
            Observation {
                wanted: 2,
                ..quiet(rested(SOON))
            },
            Decision::now(Deed::Start),
        ),
        (
            Observation {
                secrets_stale: true,
                ..seen(RUNNING)
            },
            Decision::now(Deed::CompareSecrets),
        ),
        (
            Observation {
                secrets_stale: true,
                ..quiet(rested(SOON))
            },
            Decision::now(Deed::CompareSecrets),
        ),
        (
            Observation {
                secrets_stale: true,
                ..quiet(failed(SOON))
            },
            Decision::now(Deed::Start),
        ),
        (
            Observation {
                afresh: true,
                ..quiet(rested(SOON))
            },
            Decision::now(Deed::Start),
        ),
        (quiet(rested(SOON)), Decision::wait(at(SOON))),
        (quiet(rested(PAST)), Decision::now(Deed::Start)),
        (quiet(failed(SOON)), Decision::wait(at(SOON))),
        (quiet(failed(PAST)), Decision::now(Deed::Start)),
        (seen(Work::Releasing), leave),
    ] {
        assert_eq!(decide(&seen), expected, "{seen:?}");
    }
}

#[test]
fn the_finalizer_stays_while_sessions_may_be_open_and_no_longer() {
    let rested = ended(End::Rested(at(SOON)));
    let done = Observation {
        sessions: false,
        ..seen(rested)
    };
    assert_eq!(
        decide(&done),
        Decision {
            deed: Deed::LetGo,
            again: Some(at(SOON))
        }
    );
    assert_eq!(decide(&seen(rested)).deed, Deed::Leave);
    assert_eq!(
        decide(&Observation {
            finalizer: false,
            ..done
        })
        .deed,
        Deed::Leave
    );
}

#[test]
fn a_suspended_export_stops_releases_and_rests() {
    let suspended = |work| Observation {
        suspended: true,
        ..seen(work)
    };
    for (seen, expected) in [
        (suspended(RUNNING), Deed::Stop),
        (suspended(STOPPING), Deed::Leave),
        (suspended(Work::Fresh), Deed::Release),
        (suspended(ended(End::NotReleased(at(SOON)))), Deed::Leave),
        (suspended(ended(End::NotReleased(at(PAST)))), Deed::Release),
        (suspended(ended(End::Unreleasable)), Deed::Leave),
        (
            Observation {
                sessions: false,
                ..suspended(ended(End::Rested(at(SOON))))
            },
            Deed::LetGo,
        ),
        (
            Observation {
                finalizer: false,
                ..suspended(Work::Fresh)
            },
            Deed::Leave,
        ),
    ] {
        assert_eq!(decide(&seen).deed, expected, "{seen:?}");
    }
}

#[test]
fn a_deleted_export_releases_its_sessions_or_gives_up_in_ten_minutes() {
    let young = |work| Observation {
        deleting: Some(at(PAST)),
        ..seen(work)
    };
    let old = |work| Observation {
        deleting: Some(at(1_000_000 - 600)),
        ..seen(work)
    };
    for (seen, expected) in [
        (young(RUNNING), Deed::Stop),
        (young(STOPPING), Deed::Leave),
        (old(STOPPING), Deed::GiveUp),
        (young(Work::Fresh), Deed::Release),
        (young(Work::Releasing), Deed::Leave),
        (old(Work::Releasing), Deed::GiveUp),
        (young(ended(End::NotReleased(at(SOON)))), Deed::Leave),
        (young(ended(End::NotReleased(at(PAST)))), Deed::Release),
        (old(ended(End::NotReleased(at(SOON)))), Deed::GiveUp),
        (young(ended(End::Unreleasable)), Deed::GiveUp),
        (young(ended(End::Rested(at(SOON)))), Deed::Release),
        (
            Observation {
                sessions: false,
                ..young(ended(End::Rested(at(SOON))))
            },
            Deed::LetGo,
        ),
        (
            Observation {
                sessions: false,
                ..old(Work::Fresh)
            },
            Deed::LetGo,
        ),
        (
            Observation {
                finalizer: false,
                ..young(Work::Fresh)
            },
            Deed::Leave,
        ),
        (
            Observation {
                finalizer: false,
                ..young(RUNNING)
            },
            Deed::Stop,
        ),
    ] {
        assert_eq!(decide(&seen).deed, expected, "{seen:?}");
    }
}

#[test]
fn a_deleted_export_is_looked_at_again_no_later_than_its_limit() {
    let at_work = [
        RUNNING,
        STOPPING,
        Work::Releasing,
        ended(End::NotReleased(at(SOON))),
    ];
    for work in at_work {
        // Ten minutes are over before a pause is.
        let since = at(SOON - 1) - RELEASE_LIMIT;
        let decision = decide(&Observation {
            deleting: Some(since),
            ..seen(work)
        });
        assert_eq!(decision.again, Some(since + RELEASE_LIMIT), "{work:?}");
    }
}

#[test]
fn a_clock_that_was_set_back_holds_nothing_up() {
    let hours = 1_000_000 + 3 * 3600;
    let idle = |work| Observation {
        finalizer: false,
        sessions: false,
        ..seen(work)
    };
    let suspended = |work| Observation {
        suspended: true,
        ..seen(work)
    };
    let deleted = |work| Observation {
        deleting: Some(at(999_990)),
        ..seen(work)
    };
    let start = Decision::now(Deed::Start);
    let release = Decision::now(Deed::Release);
    for (seen, expected) in [
        (idle(ended(End::Failed(at(hours)))), start),
        (idle(ended(End::Rested(at(hours)))), Decision::wait(at(hours))),
        (idle(ended(End::Rested(at(hours + 86_400)))), start),
        (suspended(ended(End::NotReleased(at(hours)))), release),
        (deleted(ended(End::NotReleased(at(hours)))), release),
    ] {
        assert_eq!(decide(&seen), expected, "{seen:?}");
    }
}

#[test]
fn ten_minutes_are_ten_minutes_whatever_the_clocks_say_and_one_is_always_tried() {
    let now = at(1_000_000);
    let minutes = SignedDuration::from_mins;
    let hours = SignedDuration::from_hours;
    for (by_api_server, known, age) in [
        (now - minutes(4), minutes(4), minutes(4)),
        (now - minutes(4), minutes(0), minutes(4)),
        // The operator was away, or its clock is ahead.
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
