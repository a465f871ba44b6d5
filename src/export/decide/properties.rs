//! Properties of decisions for any input, including that a run without further failures becomes idle.

use crate::archive::coverage::{self, Expectation};
use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::fixture::{DecisionFixture, FIRST, FixtureEntry, SOURCE, fixtures, retry_classes};
use super::*;
use crate::export::manifest::periods::periods;
use crate::export::manifest::statement::build_statement;

fn cells(windows: impl IntoIterator<Item = Window>) -> HourSet {
    windows.into_iter().collect()
}

/// True if a decision explains a cell that is neither covered nor accepted and is not exported now.
fn is_explained(fixture: &DecisionFixture, decision: &RunDecision, cell: Window) -> bool {
    let DecisionFixture {
        export,
        journal,
        active,
        in_progress,
        ..
    } = fixture;
    let wanted = export.window_of(cell.date()).unwrap();
    // A day without covered hours is exported as one window.
    let undivided = export.hour.is_none() && !decision.coverage.covered.intersects(wanted);
    let target = if undivided && !journal.splits.contains(&wanted) {
        wanted
    } else {
        cell
    };
    let overlaps = |other: &Window| overlap(*other, target);
    let full = active.len() + decision.start.len() >= export.parallelism;
    let reported = decision.problems.iter().any(|problem| {
        let here = problem.window.as_ref().is_none_or(overlaps);
        // A wait reports a time or a holder.
        here && problem.reason != Reason::NotSettled && problem.reason != Reason::Expired
    });
    let expired = journal.expired.keys().any(overlaps)
        && decision
            .problems
            .iter()
            .any(|problem| problem.reason == Reason::Expired);
    let not_due = export.due_at(wanted) > fixture.now && decision.wake.is_some();
    active.iter().any(overlaps)
        || decision.start.iter().any(overlaps)
        || decision.split.iter().any(overlaps)
        || decision.adopt.iter().any(overlaps)
        || decision
            .recover
            .iter()
            .chain(in_progress)
            .any(|id| overlaps(&id.window))
        || reported
        || expired
        || not_due
        || full
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_report_delays_nothing(fixture in fixtures()) {
        let mut reporting = fixture.clone();
        reporting.export.report = true;
        let (with, without) = (reporting.decide(), fixture.decide());
        prop_assert_eq!((with.start, with.split), (without.start, without.split));
        prop_assert_eq!((with.recover, with.adopt), (without.recover, without.adopt));
        let others = with.document.filter(|task| task.kind() != DocumentKind::Report);
        prop_assert_eq!((others, with.sealing), (without.document, without.sealing));
        prop_assert_eq!((with.finished, with.complete), (without.finished, without.complete));
        prop_assert_eq!(with.problems, without.problems);
        prop_assert_eq!(with.coverage, without.coverage);
    }

    #[test]
    fn no_window_starts_twice_or_outside_the_wanted_range(fixture in fixtures()) {
        let decision = fixture.decide();
        let DecisionFixture { export, journal, active, in_progress, .. } = &fixture;
        let wanted = cells(export.windows(fixture.now));
        let covered = coverage::assess(&Expectation::of_source(&export.source), journal).covered;
        let mut taken = cells(active.iter().copied());
        for window in &decision.start {
            prop_assert!(!taken.intersects(*window), "{window} is in progress");
            taken.insert(*window);
            prop_assert!(cells([*window]).difference(&wanted).is_empty(), "{window} is not wanted");
            prop_assert!(!covered.intersects(*window), "{window} is covered");
            prop_assert!(export.due_at(*window) <= fixture.now, "{window} is not settled");
            prop_assert!(!export.in_accepted_gap(window.date()));
            let existing = journal.receipts.keys().chain(journal.objects.keys());
            let recovered = decision.recover.iter().chain(in_progress).map(|id| &id.window);
            let conflict = existing.chain(recovered).find(|other| overlap(**other, *window));
            prop_assert!(conflict.is_none(), "{window} conflicts with {conflict:?}");
            let other_holder = journal.attempts_by_others(*window, &export.holder, fixture.store_now).next();
            prop_assert!(other_holder.is_none(), "{window} is held by {other_holder:?}");
        }
        prop_assert!(decision.start.is_sorted(), "oldest first");
    }

    #[test]
    fn every_uncovered_cell_is_accounted_for(fixture in fixtures()) {
        let decision = fixture.decide();
        let wanted = cells(fixture.export.windows(fixture.now));
        let accepted = fixture.export.accepted_hours(&wanted);
        let open = wanted.difference(&decision.coverage.covered).difference(&accepted);
        for (date, hours) in open.days() {
            for hour in (0..24).filter(|hour| hours & (1 << hour) != 0) {
                let cell = Window::hour(date, hour).unwrap();
                prop_assert!(is_explained(&fixture, &decision, cell), "{cell}: {decision:#?}");
            }
        }
        prop_assert!(decision.coverage.covered.difference(&wanted).is_empty());
        prop_assert!(decision.coverage.missing.difference(&open).is_empty());
        prop_assert!(decision.coverage.stored <= decision.coverage.wanted);
        prop_assert!(decision.coverage.expired.difference(&decision.coverage.missing).is_empty());
    }

    #[test]
    fn a_shard_never_touches_days_of_other_shards(fixture in fixtures()) {
        let decision = fixture.decide();
        let recovered = decision.recover.iter().map(|id| &id.window);
        let touched = decision.start.iter().chain(&decision.split).chain(&decision.adopt).chain(recovered);
        for window in touched {
            prop_assert!(fixture.export.shard.contains(window.date()), "{window}: {}", fixture.export.shard);
        }
    }

    #[test]
    fn parallelism_is_never_exceeded(fixture in fixtures()) {
        let decision = fixture.decide();
        let concurrent = fixture.active.len() + decision.start.len();
        prop_assert!(decision.start.is_empty() || concurrent <= fixture.export.parallelism);
        let export_backoff = fixture.retry_state.export_backoff.as_ref();
        let backing_off = export_backoff.is_some_and(|export_backoff| export_backoff.retry_at > fixture.now || export_backoff.is_exhausted(fixture.export.retry_policy));
        prop_assert!(!backing_off || decision.start.is_empty());
    }

    #[test]
    fn every_decision_acts_or_waits_or_reports_why_it_is_idle(fixture in fixtures()) {
        let decision = fixture.decide();
        let in_progress = !fixture.active.is_empty() || !fixture.in_progress.is_empty() || !fixture.writing.is_empty();
        let acts = !(decision.start.is_empty()
            && decision.split.is_empty()
            && decision.recover.is_empty()
            && decision.adopt.is_empty()
            && decision.document.is_none());
        if let Some(wake) = decision.wake {
            prop_assert!(wake > fixture.now, "wakes in the past");
        }
        prop_assert!(decision.idle || in_progress || acts || decision.wake.is_some(), "stuck: {decision:#?}");
        prop_assert!(!(decision.idle && (in_progress || acts)), "idle while work is in progress");
        let reported = !decision.problems.is_empty();
        let caught_up = fixture.export.end.is_none() && decision.coverage.missing.is_empty();
        prop_assert!(!decision.idle || decision.complete || reported || caught_up, "no reason: {decision:#?}");
        let retried = decision.problems.iter().find(|problem| {
            // The caller waits for the next day and, unless it retries forever, for another holder.
            let held_by_other = problem.reason == Reason::HeldByOther && fixture.export.retry_policy != RetryPolicy::Forever;
            problem.retry_at.is_some() && problem.reason != Reason::NotSettled && !held_by_other
        });
        prop_assert!(!decision.idle || retried.is_none(), "idle before a retry: {retried:?}");
        let continuous = fixture.export.end.is_none();
        prop_assert!(!(continuous && decision.idle && decision.wake.is_none()), "never wakes");
    }

    #[test]
    fn complete_means_nothing_is_missing_or_open(fixture in fixtures()) {
        let decision = fixture.decide();
        prop_assert!(decision.finished || !decision.complete);
        if decision.finished {
            prop_assert!(decision.coverage.missing.is_empty() && fixture.active.is_empty() && !decision.sealing);
            let RunDecision { start, recover, split, open_attempts, .. } = &decision;
            prop_assert!(start.is_empty() && recover.is_empty() && split.is_empty());
            prop_assert!(open_attempts.is_empty() && fixture.in_progress.is_empty());
        }
        if decision.complete {
            let wanted = cells(fixture.export.windows(fixture.now));
            let accepted = fixture.export.accepted_hours(&wanted);
            let covered = coverage::assess(&Expectation::of_source(SOURCE), &fixture.journal).covered;
            prop_assert!(wanted.difference(&covered).difference(&accepted).is_empty());
            prop_assert!(fixture.export.end.is_some() && fixture.active.is_empty() && fixture.in_progress.is_empty());
            let unfinished = fixture.journal.attempts.iter().filter(|(id, facts)| {
                let record = facts.record.as_ref().unwrap();
                let needs_recovery = record.holder == "self" || record.deadline <= fixture.store_now;
                needs_recovery && fixture.export.shard.contains(id.window.date())
            });
            prop_assert_eq!(unfinished.count(), 0);
            prop_assert!(decision.start.is_empty() && decision.recover.is_empty());
            let mut periods = periods(&fixture.export, fixture.now).into_iter();
            // With several shards, the one that sees everything covered writes the manifest.
            let shard = !fixture.export.shard.is_single();
            prop_assert!(shard || periods.all(|period| fixture.retry_state.sealed.contains(&period)), "no manifest");
        }
    }

    #[test]
    fn a_period_due_for_sealing_has_a_statement_and_is_not_complete(fixture in fixtures()) {
        let decision = fixture.decide();
        if let Some(DocumentTask::Manifest(period)) = decision.document {
            prop_assert!(decision.sealing && !decision.complete && !decision.idle && fixture.writing.is_empty());
            prop_assert!(build_statement(&fixture.export, &fixture.journal, period).is_some(), "{period:?}");
        }
        let is_own = |id: &AttemptId| !fixture.journal.attempts_by_others(id.window, "self", fixture.store_now).any(|(other, _)| other == id);
        let own = fixture.journal.attempts.keys().filter(|id| is_own(id)).map(|id| id.window);
        let mut open = own.chain(fixture.active.iter().copied());
        if let Some(DocumentTask::Manifest(period)) = decision.document {
            prop_assert!(!open.any(|window| period.contains(window)), "sessions may be open");
        }
    }

    /// Alternates decisions and their effects: without further failures the run becomes idle, each window is
    /// exported at most once, and every missing day has a reported reason.
    #[test]
    fn a_run_without_further_failures_becomes_idle(mut fixture in fixtures(), failures in vec(retry_classes(), 0..12)) {
        let mut failures = failures.into_iter();
        let mut stored: BTreeMap<Window, u32> = BTreeMap::new();
        fixture.export.end.get_or_insert(FIRST);
        for step in 0..400 {
            prop_assert!(step < 399, "never idle: {:#?}", fixture.decide());
            let decision = fixture.decide();
            if decision.idle {
                for cell in decision.coverage.missing.days().map(|(date, _)| Window::day(date)) {
                    let reported = decision.problems.iter().any(|problem| {
                        problem.window.is_none_or(|window| overlap(window, cell))
                    });
                    prop_assert!(reported, "{cell} is missing without a reason: {decision:#?}");
                }
                break;
            }
            let is_noop = decision.start.is_empty()
                && decision.split.is_empty()
                && decision.recover.is_empty()
                && decision.adopt.is_empty()
                && decision.document.is_none();
            // Work in progress ends before the next decision takes effect.
            let ended: Vec<Window> = std::mem::take(&mut fixture.active).into_iter().collect();
            let recovered = std::mem::take(&mut fixture.in_progress);
            for window in ended {
                if let Some(class) = failures.next() {
                    let failure = Failure { class, ..Failure::retry(Reason::DownloadIncomplete, "x") };
                    fixture.retry_state.record_failure(window, failure, fixture.now, 0.5);
                } else {
                    *stored.entry(window).or_default() += 1;
                    fixture.retry_state.record_success(window);
                    fixture.add(0, window, FixtureEntry::Stored);
                }
            }
            for id in recovered {
                fixture.journal.attempts.remove(&id);
            }
            for day in decision.split {
                fixture.journal.splits.insert(day);
                fixture.retry_state.windows.remove(&day);
            }
            for id in decision.recover {
                fixture.journal.attempts.remove(&id);
            }
            for window in decision.adopt {
                fixture.retry_state.foreign_objects.insert(window);
            }
            fixture.writing.clear();
            if let Some(DocumentTask::Manifest(period)) = decision.document {
                fixture.retry_state.sealed.insert(period);
                fixture.retry_state.documents.clear();
            }
            fixture.active = decision.start.into_iter().collect();
            if is_noop && fixture.active.is_empty()
                && let Some(wake) = decision.wake
            {
                let slept = wake.duration_since(fixture.now);
                fixture.now = wake;
                fixture.store_now = fixture.store_now.checked_add(slept).unwrap();
            } else {
                fixture.now = fixture.now.checked_add(Duration::from_secs(1)).unwrap();
                fixture.store_now = fixture.store_now.checked_add(Duration::from_secs(1)).unwrap();
            }
        }
        prop_assert!(stored.values().all(|times| *times == 1), "{stored:?}");
    }
}
