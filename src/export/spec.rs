//! The validated spec of an export, as the engine reads it. No I/O.

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::shard::{SHARDS_MAX, Shard};
use crate::api::{Scope, SettingNames};
use crate::archive::coverage::Expectation;
use crate::archive::layout::ArchiveRoot;
use crate::archive::listing::Journal;
use crate::archive::manifest::Head;
use crate::archive::manifest::document::GapEntry;
use crate::archive::records::AttemptRecord;
use crate::archive::window::{HourSet, Window};
use crate::shares::queue::Tenant;

/// Days within which each shard has a day: two rounds of the distribution.
const SHARD_CYCLE_DAYS: usize = 2 * SHARDS_MAX as usize;

/// Limit of retries after failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryPolicy {
    /// Retry until the window is stored or accepted as a gap (the operator).
    Forever,
    /// End the run after this many attempts of each window (the command line).
    MaxAttempts(u32),
}

/// Stored days that are compared with the newest counts of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecheckPolicy {
    /// None.
    Disabled,
    /// Those that the service lists.
    WhileListed,
    /// Those that the service lists and that ended at most this number of days ago.
    Days(u16),
}

/// Maximum difference between the clocks of a store's servers, or between a clock and a reading of it: 5 s.
const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_secs(5);

/// Period during which one process alone uses its holder name. Earlier attempts are leftovers of that holder.
/// An attempt that another process begins under the same name later shows that two processes share the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderEpoch {
    /// Unique name of the process.
    pub process: String,
    /// Start of the period, by the clock of the process.
    pub since: Timestamp,
}

impl HolderEpoch {
    /// Creates the epoch of a process that starts at `since`.
    pub fn new(process: impl Into<String>, since: Timestamp) -> Self {
        Self {
            process: process.into(),
            since,
        }
    }

    /// Returns true if an attempt under the same holder name belongs to another process that is running now.
    /// `clock_offset`: clock of the store minus the local clock.
    pub fn conflicts_with(&self, attempt: &AttemptRecord, clock_offset: SignedDuration) -> bool {
        let started_at = attempt
            .started_at
            .checked_sub(clock_offset)
            .unwrap_or(attempt.started_at);
        let other = attempt
            .process
            .as_ref()
            .is_some_and(|process| *process != self.process);
        other && started_at.duration_since(self.since) > CLOCK_SKEW_MAX
    }
}

/// A validated export.
#[derive(Clone, Debug)]
pub struct ExportSpec {
    /// Name in logs: `namespace/name`, or the file of the resource.
    pub name: String,
    /// The space id.
    pub space: String,
    /// Events of the space or of the account.
    pub scope: Scope,
    /// First UTC day.
    pub start: Date,
    /// Last UTC day, inclusive; `None`: continuous.
    pub end: Option<Date>,
    /// The only hour of each day to export, 0–23; `None`: complete days.
    pub hour: Option<u8>,
    /// The source endpoint, which identifies the source in receipts.
    pub source: String,
    /// Root of the archive in the store.
    pub root: ArchiveRoot,
    /// The part of the export that this process handles.
    pub shard: Shard,
    /// Maximum number of concurrent windows, 1–30.
    pub parallelism: usize,
    /// Delay between the end of a window and its export.
    pub settle_after: SignedDuration,
    /// Gaps that the user accepted.
    pub accepted_gaps: Vec<GapEntry>,
    /// Newest manifest that a person gave up knowingly.
    pub abandoned_head: Option<Head>,
    /// Day before which receipts without a signature may be stated by a signed manifest.
    pub unsigned_receipts_before: Option<Date>,
    /// Comparison of stored days with the newest counts of the service.
    pub recheck: RecheckPolicy,
    /// True if a report on the archive is written into it.
    pub report: bool,
    /// Holder name: stable over restarts, unique to this exporter.
    pub holder: String,
    /// Period of exclusive use of the holder name; `None`: unknown, conflicts are not detected.
    pub holder_epoch: Option<HolderEpoch>,
    /// True if writing to a store that ignores `If-None-Match` is allowed: under a lease, or by explicit setting.
    pub single_writer: bool,
    /// Limit of retries after failures.
    pub retry_policy: RetryPolicy,
    /// Names of settings in the messages of problems.
    pub setting_names: SettingNames,
}

impl ExportSpec {
    /// Returns a continuous export of the events of a space, with the defaults of the resource, without a limit of retries.
    /// `prefix`: of the archive in the store; the holder has the name of the export.
    pub fn new(name: &str, space: &str, source: &str, prefix: &str, start: Date) -> Self {
        Self {
            name: name.to_owned(),
            space: space.to_owned(),
            scope: Scope::Space,
            start,
            end: None,
            hour: None,
            source: source.to_owned(),
            root: ArchiveRoot::new(prefix, space, Scope::Space.as_key()),
            shard: Shard::SINGLE,
            parallelism: 4,
            settle_after: SignedDuration::from_hours(6),
            accepted_gaps: Vec::new(),
            abandoned_head: None,
            unsigned_receipts_before: None,
            recheck: RecheckPolicy::WhileListed,
            report: false,
            holder: name.to_owned(),
            holder_epoch: None,
            single_writer: false,
            retry_policy: RetryPolicy::Forever,
            setting_names: SettingNames::default(),
        }
    }

    /// Returns the export among those that share the resources of the process. Files of the command line that name no
    /// namespace are of one.
    pub fn tenant(&self) -> Tenant {
        let (namespace, _) = self.name.split_once('/').unwrap_or_default();
        Tenant::new(namespace, &self.space, &self.name)
    }

    /// Gives attempts of another running process with the same holder name a different holder in `journal`, so that
    /// this process does not recover them. `clock_offset`: store's clock minus local clock.
    pub fn mark_foreign_attempts(&self, journal: &mut Journal, clock_offset: SignedDuration) {
        let Some(holder_epoch) = &self.holder_epoch else {
            return;
        };
        let records = journal
            .attempts
            .values_mut()
            .filter_map(|facts| facts.record.as_mut());
        for record in records.filter(|record| record.holder == self.holder) {
            if holder_epoch.conflicts_with(record, clock_offset) {
                let process = record.process.as_deref().unwrap_or_default();
                record.holder = format!(
                    "{} (process {process}: another cluster or operator with the same name; stop one of them, or \
                     give it a different name)",
                    self.holder
                );
            }
        }
    }

    /// Returns the wanted windows of this shard up to and including the day of `now`, oldest first.
    pub fn windows(&self, now: Timestamp) -> impl Iterator<Item = Window> + use<'_> {
        let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
        let last = self.end.unwrap_or(today);
        let mut next = Some(self.start);
        let days = std::iter::from_fn(move || {
            let day = next.filter(|day| *day <= last)?;
            next = day.tomorrow().ok();
            Some(day)
        });
        days.filter(|day| self.shard.contains(*day))
            .filter_map(|day| self.window_of(day))
    }

    /// Returns the first day of this shard on or after `day`.
    pub fn next_own_day(&self, day: Date) -> Option<Date> {
        let days = std::iter::successors(Some(day), |day| day.tomorrow().ok());
        days.take(SHARD_CYCLE_DAYS).find(|day| self.shard.contains(*day))
    }

    /// Returns the wanted window of a day.
    pub fn window_of(&self, day: Date) -> Option<Window> {
        match self.hour {
            None => Some(Window::day(day)),
            Some(hour) => Window::hour(day, hour),
        }
    }

    /// Returns the content that this shard should have stored by now.
    pub fn expectation(&self, now: Timestamp) -> Expectation {
        let wanted: HourSet = self.windows(now).collect();
        Expectation {
            source: Some(self.source.clone()),
            oldest_listed: None,
            accepted: self.accepted_hours(&wanted),
            not_due: self
                .windows(now)
                .filter(|window| self.due_at(*window) > now)
                .collect(),
            wanted,
        }
    }

    /// Returns the earliest time at which a window may be exported: its end plus `settleAfter`.
    pub fn due_at(&self, window: Window) -> Timestamp {
        window
            .end()
            .checked_add(self.settle_after)
            .unwrap_or(Timestamp::MAX)
    }

    /// Returns true if a day lies in an accepted gap.
    pub fn in_accepted_gap(&self, day: Date) -> bool {
        GapEntry::find(&self.accepted_gaps, day).is_some()
    }

    /// Returns true if a stored day of this shard is compared with the newest count of the service. An export of one hour
    /// of each day has no day to compare: the service counts no hours.
    pub fn rechecks(&self, day: Date, now: Timestamp) -> bool {
        let in_range = self.start <= day && self.end.is_none_or(|end| day <= end);
        let young = match self.recheck {
            RecheckPolicy::Disabled => false,
            RecheckPolicy::WhileListed => true,
            RecheckPolicy::Days(days) => {
                let age = now.duration_since(Window::day(day).end());
                age <= SignedDuration::from_hours(24 * i64::from(days))
            }
        };
        let whole = self.hour.is_none() && self.shard.contains(day);
        young && whole && in_range && !self.in_accepted_gap(day)
    }

    /// Returns the wanted cells that lie in accepted gaps.
    pub fn accepted_hours(&self, wanted: &HourSet) -> HourSet {
        if self.accepted_gaps.is_empty() {
            return HourSet::default();
        }
        wanted
            .days()
            .filter(|(day, _)| self.in_accepted_gap(*day))
            .map(|(day, _)| Window::day(day))
            .collect::<HourSet>()
            .intersection(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::records::ArchiveRecord;

    #[test]
    fn later_attempts_of_another_process_with_the_same_holder_are_foreign() {
        let holder_epoch = HolderEpoch::new("self-2", Timestamp::from_second(1_000).unwrap());
        let record = |process: Option<&str>, second: i64| AttemptRecord {
            schema: AttemptRecord::SCHEMA.to_owned(),
            holder: "self".to_owned(),
            process: process.map(str::to_owned),
            source: "https://a".to_owned(),
            started_at: Timestamp::from_second(second).unwrap(),
            deadline: Timestamp::MAX,
            tracker_user: None,
            open_before: Vec::new(),
        };
        let no_offset = SignedDuration::ZERO;
        for (process, second, clock_offset, shared) in [
            (Some("self-1"), 1_006, no_offset, true),
            (Some("self-1"), 1_005, no_offset, false),
            (Some("self-1"), 400, no_offset, false),
            (Some("self-2"), 1_600, no_offset, false),
            // Written by an older version.
            (None, 1_600, no_offset, false),
            // Store's clock ten minutes ahead of the local clock.
            (Some("self-1"), 1_600, SignedDuration::from_mins(10), false),
            (Some("self-1"), 1_606, SignedDuration::from_mins(10), true),
        ] {
            let record = record(process, second);
            assert_eq!(
                holder_epoch.conflicts_with(&record, clock_offset),
                shared,
                "{record:?}"
            );
        }
    }
}
