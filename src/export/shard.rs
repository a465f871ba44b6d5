//! Shards: the distribution of the days of an export over several processes. No I/O.
//!
//! Days are distributed round-robin: each process gets every n-th UTC day, counted from 1970. So the shards are even,
//! each begins with the oldest days (which the service deletes first), and a day stays in its shard when the
//! range changes. A day that is split into hours stays in one shard, with its journal.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, date};

/// Maximum number of shards of an export: 1,000.
pub const SHARDS_MAX: u16 = 1000;

/// Days in a week.
const WEEK: i64 = 7;

/// One of `total` shards of an export, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    index: u16,
    total: u16,
}

/// Invalid shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// The text is not `INDEX/TOTAL`.
    #[error("invalid shard {0:?}: use INDEX/TOTAL, such as 0/8")]
    Malformed(String),
    /// The number of shards is 0 or too large.
    #[error("invalid number of shards {0}: must be 1 to {SHARDS_MAX}")]
    CountOutOfRange(u64),
    /// The index is not below the number of shards.
    #[error("invalid shard index {index} of {total}: indexes count from 0 to {}", total - 1)]
    IndexOutOfRange {
        /// The requested index.
        index: u64,
        /// Number of shards.
        total: u16,
    },
}

impl Shard {
    /// The only shard of an export that is not divided.
    pub const SINGLE: Self = Self { index: 0, total: 1 };

    /// Creates shard `index` of `total`, counted from 0.
    pub fn new(index: u64, total: u64) -> Result<Self, ShardError> {
        let total = u16::try_from(total)
            .ok()
            .filter(|total| (1..=SHARDS_MAX).contains(total))
            .ok_or(ShardError::CountOutOfRange(total))?;
        let index = u16::try_from(index)
            .ok()
            .filter(|index| *index < total)
            .ok_or(ShardError::IndexOutOfRange { index, total })?;
        Ok(Self { index, total })
    }

    /// Returns true if the export has only this shard.
    pub const fn is_single(self) -> bool {
        self.total == 1
    }

    /// Returns the number of shards.
    pub const fn count(self) -> usize {
        self.total as usize
    }

    /// Returns true if this shard contains the windows of a day. Each day is in exactly one shard.
    pub fn contains(self, day: Date) -> bool {
        if self.is_single() {
            return true;
        }
        let total = i64::from(self.total);
        let number = day
            .since(date(1970, 1, 1))
            .map_or(0, |span| i64::from(span.get_days()));
        // If the number of shards is a multiple of seven, a shard would always get the same weekday, busy for one shard
        // and quiet for another. In that case each round begins one shard later.
        let offset = if total % WEEK == 0 {
            number.div_euclid(total)
        } else {
            0
        };
        (number + offset).rem_euclid(total) == i64::from(self.index)
    }

    /// Returns the shard for display: `shard 2 of 8`.
    pub fn label(self) -> String {
        format!("shard {} of {}", self.index, self.total)
    }

    /// Returns the share of this shard in a common resource: an even share, at least 1.
    pub fn share(self, amount: usize) -> usize {
        (amount / self.count()).max(1)
    }
}

/// Formats the shard as `2/8`, as it is typed.
impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.total)
    }
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let number = |digits: &str| {
            let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            all_digits.then(|| digits.parse::<u64>().ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(index, total)| Some((number(index)?, number(total)?)))
            .ok_or_else(|| ShardError::Malformed(text.to_owned()))
            .and_then(|(index, total)| Self::new(index, total))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::ToSpan as _;
    use proptest::prelude::*;

    use super::*;

    fn days() -> impl Strategy<Value = Date> {
        (-200_000i64..200_000).prop_map(|days| date(1970, 1, 1).checked_add(days.days()).unwrap())
    }

    proptest! {
        #[test]
        fn every_day_belongs_to_exactly_one_shard(day in days(), total in 1u64..=u64::from(SHARDS_MAX)) {
            let shards = (0..total).filter(|index| Shard::new(*index, total).unwrap().contains(day));
            prop_assert_eq!(shards.count(), 1);
        }

        #[test]
        fn shards_are_even_and_each_gets_old_days(first in days(), total in 1u64..40) {
            // Any two rounds of days give each shard one to three days.
            for index in 0..total {
                let shard = Shard::new(index, total).unwrap();
                let days = (0..2 * total).filter(|day| shard.contains(first.checked_add(i64::try_from(*day).unwrap().days()).unwrap()));
                prop_assert!((1..=3).contains(&days.count()));
            }
        }

        #[test]
        fn no_shard_gets_a_single_weekday_only(total in 2u64..40) {
            let shard = Shard::new(0, total).unwrap();
            let mut day = date(2018, 1, 1);
            let mut weekdays = BTreeSet::new();
            for _ in 0..total * 8 {
                if shard.contains(day) {
                    weekdays.insert(day.weekday().to_monday_zero_offset());
                }
                day = day.tomorrow().unwrap();
            }
            prop_assert!(weekdays.len() >= 5, "{total}: {weekdays:?}");
        }

        #[test]
        fn a_shard_parses_from_its_own_text(index in 0u64..1000, total in 1u64..=1000) {
            prop_assume!(index < total);
            let shard = Shard::new(index, total).unwrap();
            prop_assert_eq!(shard.to_string().parse::<Shard>().unwrap(), shard);
        }
    }

    #[test]
    fn the_assignment_of_days_is_stable_across_versions() {
        let shard = |text: &str| {
            let shard: Shard = text.parse().unwrap();
            let june = (1..=30).filter(|day| shard.contains(date(2018, 6, *day)));
            june.collect::<Vec<i8>>()
        };
        assert_eq!(shard("0/1").len(), 30);
        assert_eq!(shard("2/8"), [8, 16, 24]);
        assert_eq!(shard("2/7"), [3, 9, 15, 21]);
    }

    #[test]
    fn a_malformed_shard_is_rejected_with_an_example() {
        let message = |text: &str| text.parse::<Shard>().unwrap_err().to_string();
        for text in [
            "",
            "8",
            "1/",
            "/8",
            "-1/8",
            "1/8/2",
            "+1/8",
            "a/b",
            "$(JOB_COMPLETION_INDEX)/8",
        ] {
            assert!(message(text).contains("such as 0/8"), "{text}: {}", message(text));
        }
        assert!(message("8/8").contains("from 0 to 7"), "{}", message("8/8"));
        assert!(message("0/0").contains("1 to 1000"), "{}", message("0/0"));
        assert!(message("0/1001").contains("1 to 1000"));
    }

    #[test]
    fn a_share_is_even_and_at_least_one() {
        let share = |total| Shard::new(0, total).unwrap().share(28);
        assert_eq!((share(1), share(8), share(30), share(1000)), (28, 3, 1, 1));
    }
}
