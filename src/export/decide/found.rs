//! What the journal holds that is no window to export: attempts that were left, objects and receipts that do
//! not fit. No I/O.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::super::failure::Remedy;
use super::super::journal::{Journal, Mismatch};
use super::super::keys::{AttemptId, Key};
use super::super::window::{Cells, Window};
use super::super::wish::Export;
use super::{Observation, Plan};
use crate::api::Reason;

impl Plan<'_> {
    /// Attempts of ours that nobody works on, or whose deadline has passed; objects that nothing explains.
    pub(super) fn leftovers(&mut self) {
        self.attempts();
        self.strangers();
    }

    fn attempts(&mut self) {
        let Observation {
            journal,
            active,
            busy,
            export,
            ..
        } = *self.seen;
        let mut seeking: Vec<AttemptId> = Vec::new();
        // Leftovers of another part are that part's to settle.
        let own = journal
            .attempts
            .iter()
            .filter(|(id, _)| export.shard.has(id.window.date()));
        for (id, facts) in own {
            // Its session is not known: it is looked for among those that are open.
            let seeks = facts.record.is_some() && facts.sessions.is_empty() && !facts.prepared;
            if busy.contains(id) {
                if seeks && !active.contains(&id.window) {
                    seeking.push(*id);
                }
                continue;
            }
            if let Some(record) = &facts.record
                && record.holder != export.holder
                && record.deadline > self.seen.store_now
            {
                self.wake_at(self.by_our_clock(record.deadline));
            } else if seeks {
                seeking.push(*id);
            } else {
                self.settle(*id);
            }
        }
        // The latest first, one at a time: what it is found to have opened is no candidate for earlier ones.
        let latest = seeking.into_iter().max_by_key(|id| id.ulid);
        if let Some(id) = latest.filter(|id| !busy.contains(id)) {
            self.settle(id);
        }
    }

    fn settle(&mut self, id: AttemptId) {
        let Observation {
            memory, export, now, ..
        } = *self.seen;
        match memory.unsettled.get(&id) {
            Some(tried) if tried.waits(now) || tried.given_up(export.persistence) => {
                self.trouble(Some(id.window), tried);
            }
            _ => self.out.settle.push(id),
        }
    }

    fn strangers(&mut self) {
        let Observation {
            journal,
            memory,
            export,
            ..
        } = *self.seen;
        let ours: Vec<Window> = journal
            .strangers()
            .filter(|window| self.wanted.touches(*window) && !self.is_accepted(*window))
            .collect();
        for window in ours {
            if memory.foreign.contains(&window) {
                let key = export.root.key(&Key::Events(window)).unwrap_or_default();
                let message = format!(
                    "{key} has no receipt and was not written by this software: move it away, or accept the gap in spec.acceptedGaps"
                );
                self.say(Reason::ForeignObject, message, Some(window), Remedy::Person, None);
            } else if self.gated {
                self.due = true;
            } else if !self.waits_for_another_try(window) {
                self.out.adopt.push(window);
            }
        }
    }

    /// Days exported by the hour whose hours add up to fewer events than the service reports.
    pub(super) fn shortfalls(&mut self) {
        for (date, (events, reported)) in short_days(self.seen.journal, &self.seen.export.source) {
            let day = Window::day(date);
            if self.wanted.touches(day) && !self.is_accepted(day) {
                let message = format!(
                    "the hours of {date} have {events} events, the service reports {reported}: remove the receipts of its hours without events to export those again, or accept the gap in spec.acceptedGaps"
                );
                self.say(Reason::Short, message, Some(day), Remedy::Person, None);
            }
        }
    }

    pub(super) fn mismatches(&mut self) {
        let Observation { journal, export, .. } = *self.seen;
        // Also of days that this export does not want: an archive is of one source.
        if let Some((window, source)) = journal.other_source(&export.source) {
            let message = format!(
                "the receipt of {window} is about events of {source}, not of {}, and an archive is of one source: nothing \
                 is added to it; use another prefix",
                export.source
            );
            self.say(Reason::JournalMismatch, message, None, Remedy::Person, None);
        }
        for (window, mismatch) in journal.mismatches(&export.source) {
            if !self.wanted.touches(window) || self.is_accepted(window) {
                continue;
            }
            let message = match mismatch {
                Mismatch::Source(_) => continue,
                Mismatch::ObjectMissing => format!(
                    "the receipt of {window} states an object that is not there: restore it, or remove the receipt to export it again"
                ),
                Mismatch::ObjectSize { stated, found } => format!(
                    "the object of {window} has {found} bytes, its receipt states {stated}: restore it"
                ),
            };
            self.say(
                Reason::JournalMismatch,
                message,
                Some(window),
                Remedy::Person,
                None,
            );
        }
    }
}

/// Events of the other hours of an hour's day that are stored; `None` where not all of them are exported.
pub(in crate::export) fn events_beside(journal: &Journal, export: &Export, window: Window) -> Option<u64> {
    if window.hour_of_day().is_none() || export.hour.is_some() {
        return None;
    }
    let others = Window::split(window.date()).filter(|other| *other != window);
    let receipts = others.filter_map(|other| journal.good_receipt(other, &export.source));
    Some(receipts.map(|receipt| receipt.facts.events).sum())
}

/// Days whose hours are all in and have fewer events than the service reports of the day: both numbers.
pub(in crate::export) fn short_days(journal: &Journal, source: &str) -> BTreeMap<Date, (u64, u64)> {
    let mut sums: BTreeMap<Date, (u64, u64)> = BTreeMap::new();
    let mut hours = Cells::default();
    for window in journal
        .receipts
        .keys()
        .filter(|window| window.hour_of_day().is_some())
    {
        let Some(facts) = journal.good_receipt(*window, source) else {
            continue;
        };
        let (events, reported) = sums.entry(window.date()).or_default();
        *events += facts.facts.events;
        *reported = (*reported).max(facts.day_reported.unwrap_or(0));
        hours.insert(*window);
    }
    sums.retain(|date, (events, reported)| {
        let day = Window::day(*date);
        hours.contains(day) && journal.good_receipt(day, source).is_none() && events < reported
    });
    sums
}
