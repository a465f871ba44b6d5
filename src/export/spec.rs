//! What an export wants: the validated form of a resource's spec, as the engine reads it. No I/O.

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::keys::ArchiveRoot;
use super::manifest::document::GapEntry;
use super::record::AttemptRecord;
use super::shard::{SHARDS_MAX, Shard};
use super::window::{HourSet, Window};

/// Whose events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Of one space.
    Space,
    /// Of the account, asked for through a space.
    Account,
}

impl Scope {
    /// As receipts say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Space => "Space",
            Self::Account => "Account",
        }
    }

    /// As keys say it.
    pub const fn as_key(self) -> &'static str {
        match self {
            Self::Space => "space",
            Self::Account => "account",
        }
    }
}

/// Days in which every part has one of its own: two rounds of the deal.
const SHARD_CYCLE_DAYS: usize = 2 * SHARDS_MAX as usize;

/// How long to go on when something fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryPolicy {
    /// Until it is stored or a person decides (the operator).
    Forever,
    /// So many tries of each window, then the run ends (the command line).
    MaxAttempts(u32),
}

/// How far the clocks of a store's servers, and a clock and a reading of it, may be apart: 5 s.
const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_secs(5);

/// That a process alone goes by its holder's name: what it finds of an earlier time is a leftover, of itself or of who had
/// the name before. What another process begins by that name later shows that the name was given twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderEpoch {
    /// Which process: a name that no other has.
    pub process: String,
    /// Since when, by its own clock.
    pub since: Timestamp,
}

impl HolderEpoch {
    /// Of a process that begins `since` then.
    pub fn new(process: impl Into<String>, since: Timestamp) -> Self {
        Self {
            process: process.into(),
            since,
        }
    }

    /// Whether an attempt by the same name is another process's that is at work now. `clock_offset`: the store's clock less
    /// ours.
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

/// One export, validated.
#[derive(Clone, Debug)]
pub struct ExportSpec {
    /// How logs name it: `namespace/name`, or the file it came from.
    pub name: String,
    /// The space id.
    pub space: String,
    /// Whose events.
    pub scope: Scope,
    /// First UTC day.
    pub start: Date,
    /// Last UTC day, inclusive; `None`: continuous.
    pub end: Option<Date>,
    /// Only this hour of each day, 0–23.
    pub hour: Option<u8>,
    /// The source endpoint: the identity that receipts carry.
    pub source: String,
    /// Where it goes in the store.
    pub root: ArchiveRoot,
    /// The part of it that this process does.
    pub shard: Shard,
    /// Windows at a time, 1–30.
    pub parallelism: usize,
    /// How long after its end a window starts.
    pub settle_after: SignedDuration,
    /// Gaps that a person accepted.
    pub accepted_gaps: Vec<GapEntry>,
    /// Who exports: stable over restarts, different for everyone else.
    pub holder: String,
    /// Since when this process alone goes by that name; `None`: not known, and then nobody else is suspected of it.
    pub holder_epoch: Option<HolderEpoch>,
    /// Whether a store that ignores `If-None-Match` may be written to: under a lease, or by a person's word.
    pub single_writer: bool,
    /// How long to go on.
    pub retry_policy: RetryPolicy,
}

impl ExportSpec {
    /// The wanted windows of this process's part up to and including the day of `now`, oldest first.
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

    /// The first day of this process's part that is not before `day`.
    pub fn next_own_day(&self, day: Date) -> Option<Date> {
        let days = std::iter::successors(Some(day), |day| day.tomorrow().ok());
        days.take(SHARD_CYCLE_DAYS).find(|day| self.shard.contains(*day))
    }

    /// The wanted window of a day.
    pub fn window_of(&self, day: Date) -> Option<Window> {
        match self.hour {
            None => Some(Window::day(day)),
            Some(hour) => Window::hour(day, hour),
        }
    }

    /// When a window may be exported: `settleAfter` past its end.
    pub fn due_at(&self, window: Window) -> Timestamp {
        window
            .end()
            .checked_add(self.settle_after)
            .unwrap_or(Timestamp::MAX)
    }

    /// Whether a day lies in an accepted gap.
    pub fn in_accepted_gap(&self, day: Date) -> bool {
        let mut gaps = self.accepted_gaps.iter();
        gaps.any(|gap| (gap.start..=gap.end).contains(&day))
    }

    /// The cells of accepted gaps.
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
