//! Documents to write: one at a time, in the order of their kinds. No I/O.

use jiff::Timestamp;

use super::{DecisionBuilder, RunObservation};
use crate::archive::records::RangeRecord;
use crate::export::checkpoint::{incomplete_at, is_due, latest_at};
use crate::export::document_task::{DocumentKind, DocumentTask};
use crate::export::failure::RetryClass;
use crate::export::manifest::periods::periods;
use crate::export::report::digest;
use crate::export::spec::RetryPolicy;
use crate::export::timestamp::next_document;

impl DecisionBuilder<'_> {
    /// Plans the next document.
    pub(super) fn plan_document(&mut self) {
        self.plan_manifest();
        self.plan_checkpoint();
        self.plan_timestamp();
        self.plan_report();
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
}
