//! Table tests for rules of a decision.

use super::fixture::{DecisionFixture, FIRST, FixtureEntry, at};
use super::*;
use jiff::civil::date;

use crate::archive::manifest::document::GapEntry;
use crate::archive::records::RangeRecord;
use crate::export::manifest::periods::periods;
use crate::tracker::Day;

/// Fixture with a day exported by the hour, long past: all but the last `open` hours are stored.
fn split_day(open: usize, parallelism: usize) -> DecisionFixture {
    let export = ExportSpec {
        end: Some(FIRST),
        parallelism,
        settle_after: SignedDuration::ZERO,
        holder: "self".to_owned(),
        ..ExportSpec::new("x", "s", super::fixture::SOURCE, "p", FIRST)
    };
    let mut fixture = DecisionFixture {
        export,
        journal: Journal::default(),
        active: BTreeSet::new(),
        in_progress: BTreeSet::new(),
        writing: BTreeSet::new(),
        stamps: false,
        retry_state: RetryState::default(),
        counts: None,
        now: at(100),
        store_now: at(100),
    };
    fixture.add(0, Window::day(FIRST), FixtureEntry::Split);
    for hour in Window::split(FIRST).take(24 - open) {
        fixture.add(0, hour, FixtureEntry::Stored);
    }
    fixture
}

fn hour(hour: u8) -> Window {
    Window::hour(FIRST, hour).unwrap()
}

#[test]
fn only_windows_that_need_a_person_count_as_failed() {
    let window = Window::day(FIRST);
    for (failure, wanted) in [
        (Failure::retry(Reason::DownloadIncomplete, "cut"), (0, 1)),
        (Failure::wait(Reason::SpaceFull, "full", None), (0, 1)),
        (Failure::manual(Reason::Short, "short"), (1, 0)),
    ] {
        let mut fixture = split_day(24, 4);
        fixture.journal.splits.clear();
        fixture.retry_state.record_failure(window, failure, at(100), 1.0);
        let coverage = fixture.decide().coverage;
        assert_eq!((coverage.failed, coverage.waiting), wanted);
    }
}

#[test]
fn an_empty_hour_is_retried_after_the_other_hours_of_its_day() {
    let none: &[u8] = &[];
    // Columns: open hours, hours that were short before, running hours, hours started now.
    for (open, short, running, started) in [
        (3, none, none, &[21, 22, 23][..]),
        (3, &[22], none, &[21, 23]),
        (3, &[21, 22], &[23], none),
        (3, &[21, 22, 23], none, &[21, 22, 23]),
        (1, &[23], none, &[23]),
    ] {
        let mut fixture = split_day(open, 9);
        for short in short {
            let failure = Failure::retry(Reason::Short, "no events");
            fixture
                .retry_state
                .record_failure(hour(*short), failure, at(50), 0.5);
        }
        fixture.active = running.iter().copied().map(hour).collect();
        let decision = fixture.decide();
        let expected: Vec<Window> = started.iter().copied().map(hour).collect();
        assert_eq!(
            decision.start, expected,
            "open {open}, short {short:?}, running {running:?}"
        );
        assert!(!decision.idle && !decision.complete);
    }
}

#[test]
fn missing_hours_start_up_to_the_parallelism() {
    for (parallelism, started) in [(1, 1), (2, 2), (30, 5)] {
        let decision = split_day(5, parallelism).decide();
        let expected: Vec<Window> = (19..).map(hour).take(started).collect();
        assert_eq!(decision.start, expected, "parallelism {parallelism}");
        assert_eq!((decision.coverage.wanted, decision.coverage.stored), (1, 0));
        assert_eq!(
            (decision.coverage.covered.len(), decision.coverage.missing.len()),
            (19, 5)
        );
    }
}

#[test]
fn each_closed_period_is_sealed_whatever_other_periods_miss() {
    let mut fixture = split_day(0, 1);
    // From the 2nd of June 2018 to the end of 2019, in two years; the second is an accepted gap.
    fixture.export.end = Some(date(2019, 12, 31));
    fixture.now = Window::day(date(2020, 1, 1)).end();
    fixture.store_now = fixture.now;
    let year = |start, end| RangeRecord {
        start,
        end,
        hour: None,
    };
    let (first, second) = (
        year(FIRST, date(2018, 12, 31)),
        year(date(2019, 1, 1), date(2019, 12, 31)),
    );
    let accept = |start| vec![GapEntry::new(start, second.end, "lost")];
    assert_eq!(fixture.decide().document, None);
    fixture.export.accepted_gaps = accept(second.start);
    let decision = fixture.decide();
    assert_eq!(
        (decision.document, decision.complete),
        (Some(DocumentTask::Manifest(second)), false)
    );
    // A session of the period is open.
    fixture.active.insert(Window::day(date(2019, 3, 1)));
    assert_eq!(fixture.decide().document, None);
    fixture.active.clear();
    fixture.retry_state.sealed.insert(second);
    let decision = fixture.decide();
    assert_eq!(
        (decision.document, decision.sealing, decision.complete),
        (None, false, false)
    );
    // The first year misses nothing any more.
    fixture.export.accepted_gaps = accept(date(2018, 6, 3));
    let decision = fixture.decide();
    assert_eq!(
        (decision.document, decision.complete),
        (Some(DocumentTask::Manifest(first)), false)
    );
    fixture.retry_state.sealed.insert(first);
    assert!(fixture.decide().complete);
    // The remembered head comes before everything else.
    fixture.retry_state.head_due = true;
    let decision = fixture.decide();
    assert_eq!(
        (decision.document, decision.complete),
        (Some(DocumentTask::CheckHead), false)
    );
    fixture.retry_state.head_due = false;
    assert!(fixture.decide().complete);
}

#[test]
fn documents_are_written_in_the_order_of_their_kinds() {
    use DocumentKind::{Checkpoint, Manifest, Report, Timestamp};
    // A continuous export in its second year, in the evening: the only day that is no accepted gap is stored.
    let mut fixture = split_day(0, 1);
    let today = date(2019, 1, 2);
    fixture.export.end = None;
    fixture.export.accepted_gaps = vec![GapEntry::new(date(2018, 6, 3), today, "lost")];
    fixture.export.report = true;
    fixture.stamps = true;
    fixture.now = Window::hour(today, 20).unwrap().end();
    fixture.store_now = fixture.now;
    for due in [Manifest, Checkpoint, Timestamp, Report] {
        let document = fixture.decide().document.expect("it is due");
        assert_eq!(document.kind(), due);
        for running in [Manifest, Checkpoint, Timestamp, Report] {
            fixture.writing = BTreeSet::from([running]);
            let decision = fixture.decide();
            let expected = (running > due).then_some(document);
            assert_eq!(decision.document, expected, "{due:?} beside {running:?}");
            assert!(!decision.idle, "{due:?} beside {running:?}");
        }
        fixture.writing.clear();
        match document {
            DocumentTask::CheckHead => panic!("no head is remembered"),
            DocumentTask::Manifest(_) => {
                let periods = periods(&fixture.export, fixture.now);
                fixture.retry_state.sealed.extend(periods);
            }
            DocumentTask::Checkpoint(day) => {
                fixture.journal.checkpoints.insert(day);
            }
            DocumentTask::Timestamp(stamped) => {
                fixture.journal.timestamps.insert(stamped);
            }
            DocumentTask::Report(archive) => {
                fixture.retry_state.report.record(archive, true, fixture.now);
                fixture.journal.has_report = true;
            }
        }
    }
    let decision = fixture.decide();
    assert!(decision.document.is_none() && decision.idle, "{decision:?}");
}

#[test]
fn a_document_that_failed_waits_for_its_retry() {
    use DocumentKind::{Checkpoint, Manifest, Report, Timestamp};
    let (forever, limited) = (RetryPolicy::Forever, RetryPolicy::MaxAttempts(3));
    // Columns: the document, the policy, whether the run waits for the retry.
    for (kind, retry_policy, waits) in [
        (Manifest, forever, true),
        (Checkpoint, forever, true),
        (Timestamp, forever, false),
        (Report, forever, true),
        (Manifest, limited, true),
        (Checkpoint, limited, true),
        (Timestamp, limited, false),
        (Report, limited, false),
    ] {
        let mut fixture = reported_day(retry_policy);
        fixture.export.report = kind == Report;
        match kind {
            Manifest => fixture.retry_state.sealed.clear(),
            Checkpoint => fixture.export.end = None,
            Timestamp => {
                fixture.stamps = true;
                fixture.journal.chain.manifests.insert(1);
            }
            Report => {}
        }
        if kind == Checkpoint {
            fixture.export.accepted_gaps = vec![GapEntry::new(date(2018, 6, 3), date(2018, 6, 9), "lost")];
        }
        assert_eq!(fixture.decide().document.map(DocumentTask::kind), Some(kind));
        let failure = Failure::retry(Reason::DestinationUnreachable, "x");
        fixture
            .retry_state
            .record_document_failure(kind, failure, fixture.now, 1.0);
        let decision = fixture.decide();
        let shown = decision.problems.iter().map(|problem| problem.reason);
        let context = format!("{kind:?} {retry_policy:?}: {decision:?}");
        assert_eq!(decision.document, None, "{context}");
        assert_eq!(decision.idle, !waits, "{context}");
        assert_eq!(
            shown
                .filter(|reason| *reason == Reason::DestinationUnreachable)
                .count(),
            1,
            "{context}"
        );
        let retry_at = fixture.retry_state.documents[&kind].retry_at;
        assert!(decision.wake.is_some_and(|wake| wake <= retry_at), "{context}");
        fixture.now = retry_at;
        assert_eq!(
            fixture.decide().document.map(DocumentTask::kind),
            Some(kind),
            "{context}"
        );
    }
}

#[test]
fn a_failed_comparison_keeps_a_run_waiting_only_if_something_is_stored() {
    for (open, idle) in [(24, true), (23, false)] {
        // Nothing may start.
        let mut fixture = split_day(open, 0);
        let refused = Failure::manual(Reason::CredentialsRefused, "refused");
        fixture.retry_state.record_recheck_failure(refused, at(99), 0.5);
        let decision = fixture.decide();
        assert_eq!(decision.idle, idle, "{open} open hours: {decision:?}");
    }
}

#[test]
fn a_failure_that_keeps_late_events_from_starting_is_shown_and_retried() {
    let mut fixture = split_day(0, 4);
    let count = |count| Day {
        date: FIRST,
        count: Some(count),
        size: None,
        types: None,
        searchable: None,
    };
    fixture.counts = Some(DayListing::new(vec![count(1_000_000)]));
    assert!(!fixture.decide().revise.is_empty());
    let refused = Failure {
        class: RetryClass::Wait(None),
        scope: FailureScope::Export,
        ..Failure::retry(Reason::SourceRefused, "gone")
    };
    fixture
        .retry_state
        .record_failure(Window::day(FIRST), refused, fixture.now, 0.5);
    let decision = fixture.decide();
    assert!(decision.revise.is_empty() && !decision.idle);
    let shown: Vec<_> = decision.problems.iter().map(|problem| problem.reason).collect();
    assert_eq!(shown, [Reason::SourceRefused]);
    let retry_at = fixture
        .retry_state
        .export_backoff
        .as_ref()
        .map(|entry| entry.retry_at);
    assert_eq!(decision.problems[0].retry_at, retry_at);
    assert!(
        decision.wake <= retry_at && decision.wake.is_some(),
        "{decision:?}"
    );
}

/// A completely stored day with its manifest, whose report is not written yet.
fn reported_day(retry_policy: RetryPolicy) -> DecisionFixture {
    let mut fixture = split_day(0, 4);
    fixture.export.report = true;
    fixture.export.retry_policy = retry_policy;
    fixture.retry_state.report.since = at(100);
    while let Some(DocumentTask::Manifest(period)) = fixture.decide().document {
        fixture.retry_state.sealed.insert(period);
    }
    fixture
}

fn is_report_planned(fixture: &DecisionFixture) -> bool {
    matches!(fixture.decide().document, Some(DocumentTask::Report(_)))
}

fn record_report(fixture: &mut DecisionFixture) {
    let Some(DocumentTask::Report(archive)) = fixture.decide().document else {
        panic!("it is due")
    };
    fixture.retry_state.report.record(archive, true, fixture.now);
    fixture.journal.has_report = true;
}

#[test]
fn a_report_follows_a_change_and_waits_for_an_hour_or_the_end() {
    let forever = RetryPolicy::Forever;
    let mut fixture = reported_day(forever);
    let decision = fixture.decide();
    assert!(decision.complete && !decision.idle, "{decision:?}");
    record_report(&mut fixture);
    let decision = fixture.decide();
    assert!(decision.document.is_none() && decision.idle, "{decision:?}");
    // Deleted by hand.
    fixture.journal.has_report = false;
    let decision = fixture.decide();
    assert_eq!((decision.document, decision.idle), (None, false));
    assert_eq!(decision.wake, Some(at(101)));
    fixture.now = at(101);
    assert!(is_report_planned(&fixture));
    fixture.now = at(100);
    fixture.retry_state.retry_all(at(100));
    while let Some(DocumentTask::Manifest(period)) = fixture.decide().document {
        fixture.retry_state.sealed.insert(period);
    }
    assert!(is_report_planned(&fixture), "a person asks");

    // A run that ends writes its last report before.
    let mut fixture = reported_day(RetryPolicy::MaxAttempts(3));
    record_report(&mut fixture);
    fixture.journal.has_report = false;
    assert!(is_report_planned(&fixture));

    // While windows are stored, only after an hour.
    let mut fixture = reported_day(forever);
    fixture.active.insert(Window::day(date(2019, 3, 1)));
    assert_eq!(fixture.decide().document, None);
    fixture.now = at(101);
    assert!(is_report_planned(&fixture));
}

#[test]
fn a_failed_report_is_shown_and_keeps_only_the_operator_trying() {
    for (retry_policy, idle) in [(RetryPolicy::Forever, false), (RetryPolicy::MaxAttempts(3), true)] {
        let mut fixture = reported_day(retry_policy);
        let failure = Failure::manual(Reason::ReportNotWritten, "denied");
        let kind = DocumentKind::Report;
        fixture
            .retry_state
            .record_document_failure(kind, failure, at(100), 1.0);
        let decision = fixture.decide();
        assert!(decision.complete && decision.document.is_none(), "{decision:?}");
        assert_eq!(decision.idle, idle);
        let problem = decision.problems.first().unwrap();
        assert_eq!(problem.reason, Reason::ReportNotWritten);
        assert!(matches!(problem.class, RetryClass::Wait(Some(_))), "{problem:?}");
        fixture.now = at(101);
        assert!(is_report_planned(&fixture));
    }
}
