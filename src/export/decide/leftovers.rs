//! What the journal holds that is no window to export: attempts that were left, objects and receipts that do
//! not fit. No I/O.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::super::failure::Remedy;
use super::super::journal::{Journal, ReceiptMismatch};
use super::super::keys::{AttemptId, Key};
use super::super::spec::ExportSpec;
use super::super::window::{HourSet, Window};
use super::{DecisionBuilder, RunObservation};
use crate::api::Reason;

impl DecisionBuilder<'_> {
    /// Attempts of ours that nobody works on, or whose deadline has passed; objects that nothing explains.
    pub(super) fn plan_leftovers(&mut self) {
        self.plan_recovery();
        self.orphaned_objects();
    }

    fn plan_recovery(&mut self) {
        let RunObservation {
            journal,
            active,
            in_progress,
            export,
            ..
        } = *self.observation;
        let mut searching: Vec<AttemptId> = Vec::new();
        // Leftovers of another part are that part's to settle.
        let own_attempts = journal
            .attempts
            .iter()
            .filter(|(id, _)| export.shard.contains(id.window.date()));
        for (id, facts) in own_attempts {
            // Its session is not known: it is looked for among those that are open.
            let searches = facts.record.is_some() && facts.sessions.is_empty() && !facts.prepared;
            if in_progress.contains(id) {
                if searches && !active.contains(&id.window) {
                    searching.push(*id);
                }
                continue;
            }
            if let Some(record) = &facts.record
                && record.holder != export.holder
                && record.deadline > self.observation.store_now
            {
                self.wake_at(self.to_local_clock(record.deadline));
            } else if searches {
                searching.push(*id);
            } else {
                self.recover(*id);
            }
        }
        // The latest first, one at a time: what it is found to have opened is no candidate for earlier ones.
        let latest = searching.into_iter().max_by_key(|id| id.ulid);
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

    fn orphaned_objects(&mut self) {
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
                    "{key} has no receipt and was not written by this software: move it away, or accept the gap in spec.acceptedGaps"
                );
                self.add_problem(Reason::ForeignObject, message, Some(window), Remedy::Manual, None);
            } else if self.backing_off {
                self.has_due = true;
            } else if !self.in_backoff(window) {
                self.decision.adopt.push(window);
            }
        }
    }

    /// Days exported by the hour whose hours add up to fewer events than the service reports.
    pub(super) fn report_shortfalls(&mut self) {
        for (date, (events, reported)) in
            short_days(self.observation.journal, &self.observation.export.source)
        {
            let day = Window::day(date);
            if self.wanted.intersects(day) && !self.is_accepted(day) {
                let message = format!(
                    "the hours of {date} have {events} events, the service reports {reported}: remove the receipts of its hours without events to export those again, or accept the gap in spec.acceptedGaps"
                );
                self.add_problem(Reason::Short, message, Some(day), Remedy::Manual, None);
            }
        }
    }

    pub(super) fn report_mismatches(&mut self) {
        let RunObservation { journal, export, .. } = *self.observation;
        // Also of days that this export does not want: an archive is of one source.
        if let Some((window, source)) = journal.other_source(&export.source) {
            let message = format!(
                "the receipt of {window} names the source {source}, this export reads from {}: nothing is added to the \
                 archive of another source",
                export.source
            );
            self.add_problem(Reason::SourceMismatch, message, None, Remedy::Manual, None);
        }
        for (window, mismatch) in journal.mismatches(&export.source) {
            if !self.wanted.intersects(window) || self.is_accepted(window) {
                continue;
            }
            let (reason, message) = match mismatch {
                ReceiptMismatch::Source(_) => continue,
                ReceiptMismatch::ObjectMissing => (
                    Reason::ObjectMissing,
                    format!("the object that the receipt of {window} names is missing"),
                ),
                ReceiptMismatch::ObjectSize { stated, found } => (
                    Reason::ObjectSizeMismatch,
                    format!("the object of {window} has {found} bytes, its receipt states {stated}"),
                ),
            };
            self.add_problem(reason, message, Some(window), Remedy::Manual, None);
        }
    }
}

/// Events of the other hours of an hour's day that are stored; `None` where not all of them are exported.
pub(in crate::export) fn other_hours_events(
    journal: &Journal,
    export: &ExportSpec,
    window: Window,
) -> Option<u64> {
    if window.hour_of_day().is_none() || export.hour.is_some() {
        return None;
    }
    let others = Window::split(window.date()).filter(|other| *other != window);
    let receipts = others.filter_map(|other| journal.valid_receipt(other, &export.source));
    Some(receipts.map(|receipt| receipt.summary.events).sum())
}

/// Days whose hours are all in and have fewer events than the service reports of the day: both numbers.
pub(in crate::export) fn short_days(journal: &Journal, source: &str) -> BTreeMap<Date, (u64, u64)> {
    let mut sums: BTreeMap<Date, (u64, u64)> = BTreeMap::new();
    let mut hours = HourSet::default();
    for window in journal
        .receipts
        .keys()
        .filter(|window| window.hour_of_day().is_some())
    {
        let Some(facts) = journal.valid_receipt(*window, source) else {
            continue;
        };
        let (events, reported) = sums.entry(window.date()).or_default();
        *events += facts.summary.events;
        *reported = (*reported).max(facts.day_reported.unwrap_or(0));
        hours.insert(*window);
    }
    sums.retain(|date, (events, reported)| {
        let day = Window::day(*date);
        hours.contains(day) && journal.valid_receipt(day, source).is_none() && events < reported
    });
    sums
}
