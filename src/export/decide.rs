//! Decision step of a run: from the observed bucket and the retry state to the next actions. Pure: no I/O,
//! no clock, no randomness, so that tables and properties can test it.

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::checkpoint::{incomplete_at, is_due, latest_at};
use super::document_task::{DocumentKind, DocumentTask};
use super::failure::{Failure, FailureScope, Problem, RetryClass};
use super::manifest::periods::periods;
use super::report::digest;
use super::retry_state::{RECHECK_ATTEMPTS_MAX, RetryEntry, RetryState};
use super::spec::{ExportSpec, RetryPolicy};
use super::timestamp::next_document;
use crate::api::Reason;
use crate::archive::counts::DayListing;
use crate::archive::coverage::{
    self, Confirmation, Coverage, Damage, Expectation, Growth, ListingComparison,
};
use crate::archive::layout::{AttemptId, Key};
use crate::archive::listing::{AttemptFacts, Journal, LateFacts, overlap};
use crate::archive::records::{AttemptRecord, ChangedRecord, RangeRecord};
use crate::archive::window::{HourSet, Window};

/// Interval between bucket listings while other holders export windows: 5 min. They may finish long before
/// their deadline.
pub const HELD_RELIST_INTERVAL: SignedDuration = SignedDuration::from_mins(5);

/// Input of a decision.
#[derive(Clone, Copy, Debug)]
pub struct RunObservation<'a> {
    /// Desired export.
    pub export: &'a ExportSpec,
    /// Journal, as the bucket was last listed.
    pub journal: &'a Journal,
    /// Windows that this process exports now.
    pub active: &'a BTreeSet<Window>,
    /// Attempts that this process works on or recovers.
    pub in_progress: &'a BTreeSet<AttemptId>,
    /// Documents that this process writes now.
    pub writing: &'a BTreeSet<DocumentKind>,
    /// True if manifests and checkpoints get time stamps.
    pub stamps: bool,
    /// True if checkpoints are signed.
    pub signs: bool,
    /// Failures and results of earlier steps of this run.
    pub retry_state: &'a RetryState,
    /// Oldest day that the service lists now, if known.
    pub oldest_listed: Option<Date>,
    /// Newest counts of the service, if they are known: stored days are compared with them.
    pub counts: Option<&'a DayListing>,
    /// True if it is time to ask for newer counts.
    pub recheck_due: bool,
    /// Time of the last complete listing of the bucket.
    pub listed_at: Timestamp,
    /// Current time, by the local clock.
    pub now: Timestamp,
    /// Current time, by the store's clock.
    pub store_now: Timestamp,
}

/// Next actions of a run, and the status to report.
#[derive(Clone, Debug, Default)]
pub struct RunDecision {
    /// Windows to start now, oldest first.
    pub start: Vec<Window>,
    /// Stored windows to download again now, because their day has late events; oldest first.
    pub revise: Vec<Window>,
    /// Windows whose newest count to confirm now by a receipt.
    pub confirm: Vec<Confirmation>,
    /// True if the service must be asked for its newest counts.
    pub recheck: bool,
    /// Days to export by the hour from now on.
    pub split: Vec<Window>,
    /// Leftover attempts to recover now.
    pub recover: Vec<AttemptId>,
    /// Windows with an object but no receipt, to examine now.
    pub adopt: Vec<Window>,
    /// True if a manifest is due that is not known to exist.
    pub sealing: bool,
    /// Document to write now.
    pub document: Option<DocumentTask>,
    /// Problems and waits, most severe first.
    pub problems: Vec<Problem>,
    /// Time of the next change that no event announces; `None`: never.
    pub wake: Option<Timestamp>,
    /// Attempts that are in progress or must be recovered: each may have a session open.
    pub open_attempts: BTreeSet<AttemptId>,
    /// True if every window that is due is stored or accepted, no attempt is open, and every due manifest exists.
    pub finished: bool,
    /// True if the run is finished and the range has an end that is past.
    pub complete: bool,
    /// True if no work is in progress and no retry is pending: the run may end.
    pub idle: bool,
    /// Counts and cells of the snapshot.
    pub coverage: CoverageSummary,
}

/// Counts and cells that a snapshot shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoverageSummary {
    /// Wanted windows.
    pub wanted: u64,
    /// Wanted windows that are covered completely.
    pub stored: u64,
    /// Windows that wait.
    pub waiting: u64,
    /// Windows that need manual action.
    pub failed: u64,
    /// Wanted cells that are covered.
    pub covered: HourSet,
    /// Wanted cells that are due, not covered and not accepted.
    pub missing: HourSet,
    /// Missing cells that the service no longer has.
    pub expired: HourSet,
    /// Wanted windows with data that does not count and that are not accepted as a gap.
    pub damaged: BTreeMap<Window, Damage>,
    /// Stored days of which the service reports more events than the archive has.
    pub grown: BTreeMap<Date, Growth>,
    /// Stored windows whose later body lacks stored events.
    pub changed: BTreeSet<Window>,
}

/// Returns the next actions for an observation.
pub fn decide(observation: &RunObservation<'_>) -> RunDecision {
    let mut builder = DecisionBuilder::new(observation);
    builder.plan_leftovers();
    builder.plan_windows();
    builder.plan_recheck();
    builder.report_damage();
    builder.finish()
}

struct DecisionBuilder<'a> {
    observation: &'a RunObservation<'a>,
    wanted: HourSet,
    coverage: Coverage,
    decision: RunDecision,
    /// Number of windows that may start.
    free: usize,
    backing_off: bool,
    /// True if the archive is of another source: then nothing is added to it.
    source_differs: bool,
    /// True if a window is due that the export backoff would keep from starting.
    has_due: bool,
    /// True if the failure that keeps windows from starting is reported.
    backoff_reported: bool,
    /// True if this run, and not only a later one, has a retry to make.
    retry_pending: bool,
}

impl<'a> DecisionBuilder<'a> {
    fn new(observation: &'a RunObservation<'a>) -> Self {
        let expectation = Expectation {
            oldest_listed: observation.oldest_listed,
            ..observation.export.expectation(observation.now)
        };
        let coverage = coverage::assess(&expectation, observation.journal);
        let backing_off = observation
            .retry_state
            .export_backoff
            .as_ref()
            .is_some_and(|export_backoff| {
                export_backoff.is_backing_off(observation.now)
                    || export_backoff.is_exhausted(observation.export.retry_policy)
            });
        Self {
            observation,
            wanted: expectation.wanted,
            coverage,
            decision: RunDecision::default(),
            free: observation
                .export
                .parallelism
                .saturating_sub(observation.active.len()),
            backing_off,
            source_differs: observation
                .journal
                .other_source(&observation.export.source)
                .is_some(),
            has_due: false,
            backoff_reported: false,
            retry_pending: false,
        }
    }

    /// Wakes the run at a time. A time in the past is ignored: its work is already among the actions.
    fn wake_at(&mut self, at: Timestamp) {
        if at > self.observation.now {
            self.decision.wake = Some(self.decision.wake.map_or(at, |wake| wake.min(at)));
        }
    }

    /// Converts a time of the store's clock to the local clock.
    fn to_local_clock(&self, at: Timestamp) -> Timestamp {
        let clock_offset = self.observation.store_now.duration_since(self.observation.now);
        at.checked_sub(clock_offset).unwrap_or(at)
    }

    fn is_accepted(&self, window: Window) -> bool {
        self.observation.export.in_accepted_gap(window.date())
    }

    /// Plans recovery of idle own attempts and of attempts past their deadline, and adoption of orphaned objects.
    fn plan_leftovers(&mut self) {
        self.plan_recovery();
        self.plan_adoption();
    }

    fn plan_recovery(&mut self) {
        let RunObservation {
            journal,
            active,
            in_progress,
            export,
            ..
        } = *self.observation;
        let mut session_unknown: Vec<AttemptId> = Vec::new();
        // Another shard recovers the leftovers of its own days.
        let own_attempts = journal
            .attempts
            .iter()
            .filter(|(id, _)| export.shard.contains(id.window.date()));
        for (id, facts) in own_attempts {
            if let Some(error) = &facts.unreadable {
                // Its holder is unknown: it is neither recovered nor ignored.
                let reason = Failure::from(error).reason;
                self.add_problem(
                    reason,
                    error.to_string(),
                    Some(id.window),
                    RetryClass::Manual,
                    None,
                );
                continue;
            }
            // Recovery searches for its session among those that are open.
            let needs_search = facts.record.is_some() && facts.sessions.is_empty() && !facts.prepared;
            if in_progress.contains(id) {
                if needs_search && !active.contains(&id.window) {
                    session_unknown.push(*id);
                }
                continue;
            }
            if let Some(record) = &facts.record
                && record.holder != export.holder
                && record.deadline > self.observation.store_now
            {
                self.wake_at(self.to_local_clock(record.deadline));
            } else if needs_search {
                session_unknown.push(*id);
            } else {
                self.recover(*id);
            }
        }
        // Latest first, one at a time: the session found for it is no candidate for earlier ones.
        let latest = session_unknown.into_iter().max_by_key(|id| id.ulid);
        if let Some(id) = latest.filter(|id| !in_progress.contains(id)) {
            self.recover(id);
        }
    }

    fn recover(&mut self, id: AttemptId) {
        let RunObservation {
            retry_state,
            export,
            now,
            ..
        } = *self.observation;
        match retry_state.unrecovered.get(&id) {
            Some(entry) if entry.is_backing_off(now) || entry.is_exhausted(export.retry_policy) => {
                self.report_failure(Some(id.window), entry);
            }
            _ => self.decision.recover.push(id),
        }
    }

    fn plan_adoption(&mut self) {
        let RunObservation {
            journal,
            retry_state,
            export,
            ..
        } = *self.observation;
        let orphaned: Vec<Window> = journal
            .orphaned_objects()
            .filter(|window| self.wanted.intersects(*window) && !self.is_accepted(*window))
            .collect();
        for window in orphaned {
            if retry_state.foreign_objects.contains(&window) {
                let key = export.root.key(&Key::Events(window)).unwrap_or_default();
                let message = format!(
                    "{key} has no receipt and was not written by eventexport: move the object away, or accept the gap in spec.acceptedGaps"
                );
                self.add_problem(
                    Reason::ForeignObject,
                    message,
                    Some(window),
                    RetryClass::Manual,
                    None,
                );
            } else if self.backing_off {
                self.has_due = true;
            } else if !self.report_if_backing_off(window) {
                self.decision.adopt.push(window);
            }
        }
    }

    fn plan_windows(&mut self) {
        let RunObservation { export, .. } = *self.observation;
        let mut next_settled: Option<(Window, Timestamp)> = None;
        let days: Vec<Window> = export.windows(self.observation.now).collect();
        for day in days {
            self.decision.coverage.wanted += 1;
            if self.coverage.covered.contains(day) {
                self.decision.coverage.stored += 1;
                continue;
            }
            if self.is_accepted(day) {
                continue;
            }
            let settled = export.due_at(day);
            if settled > self.observation.now {
                self.decision.coverage.waiting += 1;
                if next_settled.is_none_or(|(_, at)| settled < at) {
                    next_settled = Some((day, settled));
                }
                continue;
            }
            self.plan_due(day);
        }
        self.report_export_backoff();
        if let Some((window, at)) = next_settled.or_else(|| self.next_continuous_window()) {
            self.wake_at(at);
            let message = format!("{window} starts when it is over and spec.settleAfter has passed");
            self.add_problem(
                Reason::NotSettled,
                message,
                Some(window),
                RetryClass::Wait(Some(at)),
                Some(at),
            );
        }
    }

    /// Reports the failure that keeps windows from starting, once, if a window is due.
    fn report_export_backoff(&mut self) {
        let failed = self.observation.retry_state.export_backoff.as_ref();
        if let Some(export_backoff) = failed.filter(|_| self.has_due && !self.backoff_reported) {
            self.backoff_reported = true;
            self.report_failure(None, export_backoff);
        }
    }

    /// Next window of a continuous export.
    fn next_continuous_window(&self) -> Option<(Window, Timestamp)> {
        let RunObservation { export, now, .. } = *self.observation;
        if export.end.is_some() {
            return None;
        }
        let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
        let next = export.next_own_day(today.tomorrow().ok()?.max(export.start))?;
        let next = export.window_of(next)?;
        Some((next, export.due_at(next)))
    }

    /// Returns true, and reports the failure, if a window waits for a retry or has no attempts left.
    fn report_if_backing_off(&mut self, window: Window) -> bool {
        let RunObservation {
            retry_state,
            export,
            now,
            ..
        } = *self.observation;
        let entry = retry_state.windows.get(&window);
        let entry =
            entry.filter(|entry| entry.is_backing_off(now) || entry.is_exhausted(export.retry_policy));
        if let Some(entry) = entry {
            self.report_failure(Some(window), entry);
        }
        entry.is_some()
    }

    /// Plans a wanted window that is due and not covered: starts its missing windows, or reports why not.
    fn plan_due(&mut self, day: Window) {
        let RunObservation {
            active,
            retry_state,
            journal,
            ..
        } = *self.observation;
        if self.source_differs {
            self.decision.coverage.waiting += 1;
            return;
        }
        if retry_state.needs_split(day) && !journal.splits.contains(&day) {
            self.has_due = true;
            if self.backing_off {
                self.decision.coverage.waiting += 1;
            } else {
                self.decision.split.push(day);
            }
            return;
        }
        let (mut failed, mut waits) = (false, false);
        let missing = self.missing_windows(day);
        // The verdict on an hour without events depends on the other hours, so it is retried after them.
        let others_first = !missing.iter().all(|window| retry_state.is_short_hour(*window));
        for window in missing {
            if active.iter().any(|running| overlap(*running, window)) {
                self.has_due = true;
                continue;
            }
            if self.coverage.expired.contains(window) {
                failed = true;
                continue;
            }
            if self.report_if_held_by_other(window) {
                waits = true;
                continue;
            }
            if journal.has_data_in(window) || self.has_leftovers(window) {
                // Adopted, foreign, mismatched or recovered first: never downloaded next to existing data.
                let damaged = self.coverage.damaged.keys();
                let mut for_person = damaged.chain(&retry_state.foreign_objects);
                let needs_person = for_person.any(|other| overlap(*other, window));
                failed |= needs_person;
                waits |= !needs_person;
                continue;
            }
            self.has_due = true;
            if others_first && retry_state.is_short_hour(window) {
                waits = true;
                continue;
            }
            if self.report_if_backing_off(window) {
                let entry = retry_state.windows.get(&window);
                let manual = entry.is_some_and(|entry| entry.failure.class == RetryClass::Manual);
                failed |= manual;
                waits |= !manual;
            } else if !self.backing_off && self.free > 0 {
                self.free -= 1;
                self.decision.start.push(window);
            } else {
                waits = true;
            }
        }
        self.decision.coverage.failed += u64::from(failed);
        self.decision.coverage.waiting += u64::from(waits && !failed);
    }

    /// Returns true, and reports it, if another holder may be working on a window.
    fn report_if_held_by_other(&mut self, window: Window) -> bool {
        let RunObservation {
            export,
            journal,
            store_now,
            listed_at,
            now,
            ..
        } = *self.observation;
        let Some((_, other)) = journal
            .attempts_by_others(window, &export.holder, store_now)
            .next()
        else {
            return false;
        };
        let message = format!(
            "{window} is held by {}, until {} at the latest",
            other.holder, other.deadline
        );
        let deadline = self.to_local_clock(other.deadline);
        let relist_at = listed_at.checked_add(HELD_RELIST_INTERVAL).unwrap_or(deadline);
        let at = if relist_at > now {
            relist_at.min(deadline)
        } else {
            deadline
        };
        self.retry_pending |= export.retry_policy == RetryPolicy::Forever;
        self.add_problem(
            Reason::HeldByOther,
            message,
            Some(window),
            RetryClass::Wait(Some(at)),
            Some(at),
        );
        true
    }

    /// True if an attempt at a window, or at a part of it, must be recovered first.
    fn has_leftovers(&self, window: Window) -> bool {
        let RunObservation {
            journal, in_progress, ..
        } = *self.observation;
        let mut unrecovered = self.decision.recover.iter().chain(in_progress);
        journal.has_unreadable_attempt(window) || unrecovered.any(|id| overlap(id.window, window))
    }

    /// Compares the stored days with the newest counts of the service, and plans to download those that have grown.
    fn plan_recheck(&mut self) {
        let RunObservation {
            export,
            journal,
            counts,
            recheck_due,
            now,
            ..
        } = *self.observation;
        if self.source_differs {
            return;
        }
        let accepted = |window: &Window| !self.is_accepted(*window) && self.wanted.intersects(*window);
        let changed: Vec<_> = coverage::changed_windows(journal, Some(&export.source))
            .filter(|(window, ..)| accepted(window))
            .collect();
        for (window, stored, late) in changed {
            self.report_changed(window, stored, &late);
        }
        let stored = self.coverage.covered.intersection(&self.wanted);
        let stored = stored.days().any(|(day, _)| export.rechecks(day, now));
        self.decision.recheck = recheck_due && stored;
        if stored {
            self.report_recheck_failure();
        }
        let Some(counts) = counts else { return };
        let rechecks = |day| export.rechecks(day, now);
        let ListingComparison { grown, confirmed } =
            coverage::compare_with_listing(journal, &export.source, counts, rechecks);
        for (date, growth) in &grown {
            self.plan_revision(*date, growth);
        }
        self.report_export_backoff();
        self.decision.confirm = confirmed
            .into_iter()
            .filter(|confirmation| !self.backing_off && !self.has_leftovers(confirmation.window))
            .filter(|confirmation| !self.is_confirmation_delayed(confirmation.window))
            .collect();
        self.decision.coverage.grown = grown;
    }

    /// Reports that the service does not give its newest counts, once no attempt is left: a run that has an end must not
    /// take the stored days for complete. The operator asks again a day later.
    fn report_recheck_failure(&mut self) {
        let RunObservation {
            retry_state, export, ..
        } = *self.observation;
        let Some(entry) = &retry_state.recheck else { return };
        if entry.failure_count < RECHECK_ATTEMPTS_MAX {
            self.retry_pending = true;
        } else if export.retry_policy != RetryPolicy::Forever {
            let message = format!(
                "cannot compare the stored days with the newest counts of the service: {}; set spec.recheck.enabled to \
                 false if late events are not wanted",
                entry.failure.describe(&export.setting_names)
            );
            self.add_problem(entry.failure.reason, message, None, RetryClass::Retry(None), None);
        }
    }

    /// True if a window has a failure to wait for, or is in work.
    fn is_confirmation_delayed(&self, window: Window) -> bool {
        let RunObservation {
            active,
            retry_state,
            export,
            now,
            ..
        } = *self.observation;
        let failed = retry_state.windows.get(&window);
        let waits = |entry: &RetryEntry| entry.is_backing_off(now) || entry.is_exhausted(export.retry_policy);
        active.iter().any(|running| overlap(*running, window)) || failed.is_some_and(waits)
    }

    /// Plans to download the windows of a day with late events, or reports why not.
    fn plan_revision(&mut self, date: Date, growth: &Growth) {
        let RunObservation {
            active,
            retry_state,
            journal,
            ..
        } = *self.observation;
        let mut tried = true;
        for &window in &growth.windows {
            if retry_state.rechecked.get(&window) == Some(&growth.reported) {
                continue;
            }
            tried = false;
            let changed = |late: &LateFacts| late.changed.is_some() && late.reported == growth.reported;
            let known = journal.late.get(&window).and_then(Option::as_ref);
            if known.is_some_and(changed) || active.iter().any(|running| overlap(*running, window)) {
                continue;
            }
            if self.report_if_held_by_other(window) || self.has_leftovers(window) {
                continue;
            }
            self.has_due = true;
            if self.report_if_backing_off(window) {
                continue;
            }
            if !self.backing_off && self.free > 0 {
                self.free -= 1;
                self.decision.revise.push(window);
            }
        }
        if tried {
            let Growth { stored, reported, .. } = growth;
            let message = format!(
                "{date}: {stored} events are stored, and the service reports {reported}, but its hours, downloaded again, have no more"
            );
            let day = Some(Window::day(date));
            self.add_problem(Reason::Short, message, day, RetryClass::Manual, None);
        }
    }

    /// Reports a window whose later body lacks stored events.
    fn report_changed(&mut self, window: Window, stored: u64, late: &LateFacts) {
        let Some(ChangedRecord { events, missing }) = late.changed else {
            return;
        };
        let message = format!(
            "{window}: {stored} events are stored; the service now reports {}, and sends {events} that lack {missing} of \
             the stored ones; nothing was replaced",
            late.reported
        );
        self.add_problem(
            Reason::DayChanged,
            message,
            Some(window),
            RetryClass::Manual,
            None,
        );
        self.decision.coverage.changed.insert(window);
    }

    /// Windows to export for a day: the day itself if no hour of it is covered and it was not split, otherwise
    /// the missing hours.
    fn missing_windows(&self, day: Window) -> Vec<Window> {
        let undivided =
            !self.coverage.covered.intersects(day) && !self.observation.journal.splits.contains(&day);
        if day.hour_of_day().is_some() || undivided {
            return vec![day];
        }
        Window::split(day.date())
            .filter(|hour| !self.coverage.covered.contains(*hour))
            .collect()
    }

    /// Reports windows with data that does not count, each with its own reason. Other windows are not affected.
    fn report_damage(&mut self) {
        let RunObservation { journal, export, .. } = *self.observation;
        // Includes days that this export does not want: an archive has one source.
        if let Some((window, source)) = journal.other_source(&export.source) {
            let message = format!(
                "the archive belongs to another source: the receipt of {window} names {source}, this export reads \
                 from {}; nothing is written until they match",
                export.source
            );
            self.add_problem(Reason::SourceMismatch, message, None, RetryClass::Manual, None);
        }
        let damaged: Vec<(Window, Reason, String)> = self
            .coverage
            .damaged
            .iter()
            .filter(|(window, damage)| match damage {
                // Reported above; adopted or reported as foreign.
                Damage::OtherSource(_) | Damage::Orphaned => false,
                // Reported as a failure, or downloaded again.
                Damage::Short { .. } if self.is_revised(**window) => false,
                _ => {
                    let covered = self.coverage.covered.contains(**window);
                    self.wanted.intersects(**window) && !covered && !self.is_accepted(**window)
                }
            })
            .map(|(window, damage)| {
                (
                    *window,
                    damage.reason(),
                    damage_message(export, journal, *window, damage),
                )
            })
            .collect();
        for (window, reason, message) in damaged {
            self.add_problem(reason, message, Some(window), RetryClass::Manual, None);
        }
    }

    /// True if a window is downloaded again, or waits for that.
    fn is_revised(&self, window: Window) -> bool {
        let RunObservation {
            retry_state, active, ..
        } = *self.observation;
        let failed = retry_state.windows.get(&window);
        let reported = failed.is_some_and(|entry| self.has_problem(window, entry.failure.reason));
        reported || active.contains(&window) || self.decision.revise.contains(&window)
    }

    fn has_problem(&self, window: Window, reason: Reason) -> bool {
        let mut problems = self.decision.problems.iter();
        problems.any(|problem| problem.window == Some(window) && problem.reason == reason)
    }

    fn finish(mut self) -> RunDecision {
        let RunObservation {
            export,
            journal,
            active,
            in_progress,
            writing,
            ..
        } = *self.observation;
        let coverage = &mut self.decision.coverage;
        coverage.missing = self.coverage.missing.clone();
        coverage.expired = self.coverage.expired.intersection(&coverage.missing);
        coverage.covered = self.coverage.covered.intersection(&self.wanted);
        let damaged = self.coverage.damaged.iter();
        coverage.damaged = damaged
            .filter(|(window, _)| coverage.missing.intersects(**window))
            .map(|(window, damage)| (*window, damage.clone()))
            .collect();
        if !coverage.expired.is_empty() {
            let ranges = coverage.expired.ranges(8).join(", ");
            let message = format!(
                "the service no longer has the events of {ranges}: accept the gap in spec.acceptedGaps"
            );
            self.decision.problems.push(Problem {
                reason: Reason::Expired,
                message,
                window: None,
                class: RetryClass::Manual,
                next_try: None,
                retry_at: None,
            });
        }
        // A shard counts the leftovers of its own days only: other shards clean up their own.
        let own_attempts = journal.attempts.iter().filter(|(id, facts)| {
            export.shard.contains(id.window.date()) && !self.is_held_by_other(id, facts)
        });
        let open_attempts = own_attempts.map(|(id, _)| id).chain(in_progress).copied();
        self.decision.open_attempts = open_attempts.collect();
        self.decision.finished = self.decision.coverage.missing.is_empty()
            && self.decision.coverage.grown.is_empty()
            && self.decision.coverage.changed.is_empty()
            && self.decision.confirm.is_empty()
            && active.is_empty()
            && self.decision.open_attempts.is_empty();
        self.decision.complete =
            self.decision.finished && export.end.is_some() && self.coverage.not_due.is_empty();
        self.plan_manifest();
        self.plan_checkpoint();
        self.plan_timestamp();
        self.plan_report();
        let decision = &self.decision;
        let idle = self.is_quiet() && writing.is_empty() && decision.document.is_none();
        let retry_times: Vec<Timestamp> = decision
            .problems
            .iter()
            .filter_map(|problem| problem.retry_at)
            .collect();
        for at in retry_times {
            self.wake_at(at);
        }
        self.decision.idle = idle && !self.retry_pending;
        self.decision
            .problems
            .sort_by_key(|problem| (severity(problem), problem.window));
        self.decision
    }

    /// Plans the check of the remembered head, and then the manifest of the first closed period that is not known to have
    /// one. A period is closed when every window is covered (by all shards together) or accepted and no session of it is
    /// open, whatever other periods miss.
    fn plan_manifest(&mut self) {
        let RunObservation {
            export,
            retry_state,
            now,
            ..
        } = *self.observation;
        let task = if retry_state.head_due {
            Some(DocumentTask::CheckHead)
        } else {
            let due = periods(export, now).into_iter().find(|period| {
                !retry_state.sealed.contains(period)
                    && !self.decision.revise.iter().any(|window| period.contains(*window))
                    && self.has_no_open_session(*period)
                    && self.is_fully_covered(*period)
            });
            due.map(DocumentTask::Manifest)
        };
        let Some(task) = task else { return };
        self.decision.finished = false;
        self.decision.complete = false;
        self.decision.sealing = true;
        if self.must_wait(DocumentKind::Manifest) {
            return;
        }
        if self.backing_off {
            // Already reported if a window waits for it too.
            if let Some(export_backoff) = retry_state.export_backoff.as_ref().filter(|_| !self.has_due) {
                self.report_failure(None, export_backoff);
            }
        } else if !self.report_if_document_delayed(DocumentKind::Manifest) {
            self.decision.document = Some(task);
        }
    }

    /// Plans the checkpoint of the day: not while the remembered head is missing.
    fn plan_checkpoint(&mut self) {
        let RunObservation {
            export,
            journal,
            retry_state,
            store_now,
            signs,
            ..
        } = *self.observation;
        let waits = retry_state.head_due || self.must_wait(DocumentKind::Checkpoint);
        let Some(day) = is_due(export, journal, store_now, signs).filter(|_| !waits) else {
            return;
        };
        // What is stored until then is counted.
        let wait_until = if !self.is_quiet() {
            latest_at(day)
        } else if self.decision.coverage.missing.is_empty() {
            Timestamp::MIN
        } else {
            incomplete_at(day)
        };
        if store_now < wait_until {
            self.wake_at(self.to_local_clock(wait_until));
        } else if !self.report_if_document_delayed(DocumentKind::Checkpoint) && !self.backing_off {
            self.decision.document = Some(DocumentTask::Checkpoint(day));
        }
    }

    /// Plans the next time stamp.
    fn plan_timestamp(&mut self) {
        let RunObservation { journal, stamps, .. } = *self.observation;
        if stamps
            && !self.must_wait(DocumentKind::Timestamp)
            && let Some(document) = next_document(journal)
            && !self.report_if_document_delayed(DocumentKind::Timestamp)
        {
            self.decision.document = Some(DocumentTask::Timestamp(document));
        }
    }

    /// Plans the report on an archive that has changed since the last one: once nothing is being stored or written, and
    /// from time to time before.
    fn plan_report(&mut self) {
        let RunObservation {
            export,
            journal,
            retry_state,
            now,
            ..
        } = *self.observation;
        if !export.report
            || self.source_differs
            || self.must_wait(DocumentKind::Report)
            || self.report_if_document_delayed(DocumentKind::Report)
        {
            return;
        }
        // The last one of a run that ends.
        let ends = export.retry_policy != RetryPolicy::Forever && !self.retry_pending;
        let quiet = self.is_quiet();
        let due_at = retry_state.report.due_at(quiet, ends);
        if !quiet && now < due_at {
            return;
        }
        let archive = digest(export, journal, now);
        if retry_state.report.about == Some(archive) && journal.has_report {
            return;
        }
        if now < due_at {
            self.wake_at(due_at);
            self.retry_pending = true;
        } else {
            self.decision.document = Some(DocumentTask::Report(archive));
        }
    }

    /// True if a document waits for one before it, or for itself: planned or being written.
    fn must_wait(&self, kind: DocumentKind) -> bool {
        self.decision.document.is_some() || self.observation.writing.range(..=kind).next().is_some()
    }

    /// Returns true, and reports the failure, if a document waits for a retry or has no attempts left. Nothing depends on
    /// time stamps and reports: they fail no run that has an end, and are tried without a limit.
    fn report_if_document_delayed(&mut self, kind: DocumentKind) -> bool {
        let RunObservation {
            export,
            retry_state,
            now,
            ..
        } = *self.observation;
        let Some(entry) = retry_state.documents.get(&kind) else {
            return false;
        };
        let backing_off = entry.is_backing_off(now);
        match kind {
            DocumentKind::Manifest | DocumentKind::Checkpoint => {
                let delayed = backing_off || entry.is_exhausted(export.retry_policy);
                if delayed {
                    self.report_failure(None, entry);
                }
                delayed
            }
            DocumentKind::Timestamp | DocumentKind::Report => {
                if backing_off {
                    let message = entry.failure.describe(&export.setting_names);
                    let class = RetryClass::Wait(Some(entry.retry_at));
                    self.add_problem(entry.failure.reason, message, None, class, None);
                    self.wake_at(entry.retry_at);
                    self.retry_pending |=
                        kind == DocumentKind::Report && export.retry_policy == RetryPolicy::Forever;
                }
                backing_off
            }
        }
    }

    /// True if nothing is being stored or about to be.
    fn is_quiet(&self) -> bool {
        let RunObservation {
            active, in_progress, ..
        } = *self.observation;
        let decision = &self.decision;
        active.is_empty()
            && in_progress.is_empty()
            && decision.start.is_empty()
            && decision.revise.is_empty()
            && decision.confirm.is_empty()
            && !decision.recheck
            && decision.recover.is_empty()
            && decision.split.is_empty()
            && decision.adopt.is_empty()
    }

    /// True if every day of the period is covered or accepted.
    fn is_fully_covered(&self, period: RangeRecord) -> bool {
        let export = self.observation.export;
        // Of all shards.
        let covered = &self.coverage.covered;
        let mut windows = period.days().filter_map(|day| export.window_of(day));
        windows.all(|window| {
            export.in_accepted_gap(window.date())
                || covered.hours_of(window.date()) & window.hours() == window.hours()
        })
    }

    /// True if this process has no session to close for the period.
    fn has_no_open_session(&self, period: RangeRecord) -> bool {
        let RunObservation {
            active,
            in_progress,
            journal,
            ..
        } = *self.observation;
        let within = |window| period.contains(window);
        let mut attempts = journal.attempts.iter();
        !active.iter().any(|window| within(*window))
            && !in_progress.iter().any(|id| within(id.window))
            && attempts.all(|(id, facts)| !within(id.window) || self.is_held_by_other(id, facts))
    }

    /// True if another holder may still be working on an attempt.
    fn is_held_by_other(&self, id: &AttemptId, facts: &AttemptFacts) -> bool {
        let RunObservation {
            export,
            in_progress,
            store_now,
            ..
        } = *self.observation;
        let other = |record: &AttemptRecord| record.holder != export.holder && record.deadline > store_now;
        facts.record.as_ref().is_some_and(other) && !in_progress.contains(id)
    }

    fn report_failure(&mut self, window: Option<Window>, entry: &RetryEntry) {
        let failure = &entry.failure;
        let message = failure.describe(&self.observation.export.setting_names);
        let Failure {
            reason, class, scope, ..
        } = *failure;
        // A retry that is due happens now, or waits for something else.
        let waits = !entry.is_exhausted(self.observation.export.retry_policy)
            && entry.is_backing_off(self.observation.now);
        let retry_at = waits.then_some(entry.retry_at);
        self.retry_pending |= retry_at.is_some();
        self.decision.problems.push(Problem {
            reason,
            message,
            window: window.filter(|_| scope == FailureScope::Window),
            class,
            next_try: retry_at.and_then(|_| entry.next_try(self.observation.export.retry_policy)),
            retry_at,
        });
    }

    fn add_problem(
        &mut self,
        reason: Reason,
        message: String,
        window: Option<Window>,
        class: RetryClass,
        retry_at: Option<Timestamp>,
    ) {
        self.decision.problems.push(Problem {
            reason,
            message,
            window,
            class,
            next_try: None,
            retry_at,
        });
    }
}

/// Describes a window with data that does not count. Content that could be counted only in part needs a person.
fn damage_message(export: &ExportSpec, journal: &Journal, window: Window, damage: &Damage) -> String {
    if !matches!(damage, Damage::Uncounted { .. }) {
        return damage.to_string();
    }
    if journal.receipts.contains_key(&window) {
        let key = export.root.key(&Key::Events(window)).unwrap_or_default();
        format!(
            "{window} is stored in {key}, but {damage}: examine the object; if it has all events, accept the gap in \
             spec.acceptedGaps, otherwise delete it and its receipt to export the window again"
        )
    } else {
        format!(
            "of the hours of {window}, {damage}: examine the objects of the hours that could be counted only in part; \
             if they have all events, accept the gap in spec.acceptedGaps"
        )
    }
}

/// Sort key: manual action first, then retries, then waits.
fn severity(problem: &Problem) -> u8 {
    match problem.class {
        RetryClass::Manual => 0,
        RetryClass::Retry(_) => 1,
        RetryClass::Wait(_) => 2,
    }
}

/// Stored events of the other hours of an hour's day; `None` if `window` is a day or the export covers one hour only.
pub(super) fn other_hours_events(journal: &Journal, export: &ExportSpec, window: Window) -> Option<u64> {
    if window.hour_of_day().is_none() || export.hour.is_some() {
        return None;
    }
    let others = Window::split(window.date()).filter(|other| *other != window);
    let receipts = others.filter_map(|other| coverage::valid_receipt(journal, other, Some(&export.source)));
    let events = receipts.map(|receipt| receipt.current().events);
    Some(events.fold(0, u64::saturating_add))
}
