//! What an export wants: the validated form of a resource's spec, as the engine reads it. No I/O.

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::keys::Root;
use super::manifest::document::GapEntry;
use super::shard::{SHARDS_MAX, Shard};
use super::window::{Cells, Window};

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
const DAYS_TO_NEXT: usize = 2 * SHARDS_MAX as usize;

/// How long to go on when something fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Until it is stored or a person decides (the operator).
    Forever,
    /// So many tries of each window, then the run ends (the command line).
    Tries(u32),
}

/// One export, validated.
#[derive(Clone, Debug)]
pub struct Export {
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
    pub root: Root,
    /// The part of it that this process does.
    pub shard: Shard,
    /// Windows at a time, 1–30.
    pub parallelism: usize,
    /// How long after its end a window starts.
    pub settle_after: SignedDuration,
    /// Gaps that a person accepted.
    pub accepted: Vec<GapEntry>,
    /// Who exports: stable over restarts, different for everyone else.
    pub holder: String,
    /// Whether a store that ignores `If-None-Match` may be written to: under a lease, or by a person's word.
    pub single_writer: bool,
    /// How long to go on.
    pub persistence: Persistence,
}

impl Export {
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
        days.filter(|day| self.shard.has(*day))
            .filter_map(|day| self.window_of(day))
    }

    /// The first day of this process's part that is not before `day`.
    pub fn next_day(&self, day: Date) -> Option<Date> {
        let days = std::iter::successors(Some(day), |day| day.tomorrow().ok());
        days.take(DAYS_TO_NEXT).find(|day| self.shard.has(*day))
    }

    /// The wanted window of a day.
    pub fn window_of(&self, day: Date) -> Option<Window> {
        match self.hour {
            None => Some(Window::day(day)),
            Some(hour) => Window::hour(day, hour),
        }
    }

    /// When a window may be exported: `settleAfter` past its end.
    pub fn settled_at(&self, window: Window) -> Timestamp {
        window
            .end()
            .checked_add(self.settle_after)
            .unwrap_or(Timestamp::MAX)
    }

    /// Whether a day lies in an accepted gap.
    pub fn accepts(&self, day: Date) -> bool {
        let mut gaps = self.accepted.iter();
        gaps.any(|gap| (gap.start..=gap.end).contains(&day))
    }

    /// The cells of accepted gaps.
    pub fn accepted_cells(&self, wanted: &Cells) -> Cells {
        wanted
            .days()
            .filter(|(day, _)| self.accepts(*day))
            .map(|(day, _)| Window::day(day))
            .collect::<Cells>()
            .intersection(wanted)
    }
}
