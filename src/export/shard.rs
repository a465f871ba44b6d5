//! Which part of an export one of several processes does. No I/O.
//!
//! Days are dealt like cards: every process gets each n-th UTC day, counted from 1970. So the parts are even,
//! each begins with the oldest days (which the service deletes first), and a day stays in its part when the
//! range grows or begins elsewhere. A day that is split into hours stays in one part, with its journal.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, date};

/// Parts of an export at most: 1,000.
pub const SHARDS_MAX: u16 = 1000;

/// Days of a week.
const WEEK: i64 = 7;

/// One of `of` parts of an export, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    index: u16,
    of: u16,
}

/// Not a shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAShard {
    /// Not two numbers.
    #[error("{0:?} is no shard: write its number, a slash and how many there are, such as 0/8")]
    Malformed(String),
    /// None, or too many.
    #[error("{0} shards: there must be 1 to {SHARDS_MAX}")]
    Count(u64),
    /// Past the last.
    #[error("there is no shard {index} of {of}: they count from 0 to {}", of - 1)]
    Index {
        /// The one that was asked for.
        index: u64,
        /// How many there are.
        of: u16,
    },
}

impl Shard {
    /// The one part of an export that is not divided.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// Part `index` of `of`, counted from 0.
    pub fn new(index: u64, of: u64) -> Result<Self, NotAShard> {
        let of = u16::try_from(of)
            .ok()
            .filter(|of| (1..=SHARDS_MAX).contains(of))
            .ok_or(NotAShard::Count(of))?;
        let index = u16::try_from(index)
            .ok()
            .filter(|index| *index < of)
            .ok_or(NotAShard::Index { index, of })?;
        Ok(Self { index, of })
    }

    /// Whether it is all there is.
    pub const fn is_whole(self) -> bool {
        self.of == 1
    }

    /// How many parts there are.
    pub const fn count(self) -> usize {
        self.of as usize
    }

    /// Whether the windows of this day are its own. Each day is in exactly one of the parts.
    pub fn has(self, day: Date) -> bool {
        if self.is_whole() {
            return true;
        }
        let of = i64::from(self.of);
        let number = day
            .since(date(1970, 1, 1))
            .map_or(0, |span| i64::from(span.get_days()));
        // Every n-th day of whole weeks would be the same weekday for ever, busy for one part and quiet for
        // another: there, each round begins one part later.
        let turn = if of % WEEK == 0 { number.div_euclid(of) } else { 0 };
        (number + turn).rem_euclid(of) == i64::from(self.index)
    }

    /// For people: `shard 2 of 8`.
    pub fn words(self) -> String {
        format!("shard {} of {}", self.index, self.of)
    }

    /// What this part may take of something that all parts share: an even share, at least 1.
    pub fn share(self, whole: usize) -> usize {
        (whole / self.count()).max(1)
    }
}

/// `2/8`, as it is typed.
impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Shard {
    type Err = NotAShard;

    fn from_str(text: &str) -> Result<Self, NotAShard> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<u64>().ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(index, of)| Some((number(index)?, number(of)?)))
            .ok_or_else(|| NotAShard::Malformed(text.to_owned()))
            .and_then(|(index, of)| Self::new(index, of))
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
        fn every_day_is_in_exactly_one_part(day in days(), of in 1u64..=u64::from(SHARDS_MAX)) {
            let parts = (0..of).filter(|index| Shard::new(*index, of).unwrap().has(day));
            prop_assert_eq!(parts.count(), 1);
        }

        #[test]
        fn parts_are_even_and_each_gets_old_days(first in days(), of in 1u64..40) {
            // Any two rounds of days give each part at least one, and none more than three.
            for index in 0..of {
                let part = Shard::new(index, of).unwrap();
                let days = (0..2 * of).filter(|day| part.has(first.checked_add(i64::try_from(*day).unwrap().days()).unwrap()));
                prop_assert!((1..=3).contains(&days.count()));
            }
        }

        #[test]
        fn no_part_gets_one_weekday_only(of in 2u64..40) {
            let part = Shard::new(0, of).unwrap();
            let mut day = date(2018, 1, 1);
            let mut weekdays = BTreeSet::new();
            for _ in 0..of * 8 {
                if part.has(day) {
                    weekdays.insert(day.weekday().to_monday_zero_offset());
                }
                day = day.tomorrow().unwrap();
            }
            prop_assert!(weekdays.len() >= 5, "{of}: {weekdays:?}");
        }

        #[test]
        fn a_shard_reads_back_as_it_was_written(index in 0u64..1000, of in 1u64..=1000) {
            prop_assume!(index < of);
            let shard = Shard::new(index, of).unwrap();
            prop_assert_eq!(shard.to_string().parse::<Shard>().unwrap(), shard);
        }
    }

    #[test]
    fn the_deal_is_a_promise_to_the_next_version() {
        let part = |text: &str| {
            let shard: Shard = text.parse().unwrap();
            let june = (1..=30).filter(|day| shard.has(date(2018, 6, *day)));
            june.collect::<Vec<i8>>()
        };
        assert_eq!(part("0/1").len(), 30);
        assert_eq!(part("2/8"), [8, 16, 24]);
        assert_eq!(part("2/7"), [3, 9, 15, 21]);
    }

    #[test]
    fn what_is_no_shard_is_told_how_to_be_one() {
        let said = |text: &str| text.parse::<Shard>().unwrap_err().to_string();
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
            assert!(said(text).contains("such as 0/8"), "{text}: {}", said(text));
        }
        assert!(said("8/8").contains("from 0 to 7"), "{}", said("8/8"));
        assert!(said("0/0").contains("1 to 1000"), "{}", said("0/0"));
        assert!(said("0/1001").contains("1 to 1000"));
    }

    #[test]
    fn a_share_is_even_and_never_nothing() {
        let share = |of| Shard::new(0, of).unwrap().share(28);
        assert_eq!((share(1), share(8), share(30), share(1000)), (28, 3, 1, 1));
    }
}
