//! Expected range of an archive: of a spec, of its manifests, or of the user. No I/O.

use jiff::Span;
use jiff::civil::Date;

use super::coverage::Expectation;
use super::manifest::chain::SealedPeriods;
use super::window::{HourSet, Window};

/// Origin of the expected range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeBasis {
    /// The due windows of a spec.
    Spec,
    /// The periods of the manifests, and later windows up to the last one.
    Manifests,
    /// From the first to the last window, since the configured range is unknown.
    FirstToLast,
    /// The requested days.
    Asserted,
}

/// Expected range of a root.
#[derive(Clone, Debug)]
pub struct ExpectedRange {
    /// Origin of the range.
    pub basis: RangeBasis,
    /// Expected hours.
    pub wanted: HourSet,
    /// Accepted gaps.
    pub accepted: HourSet,
}

impl RangeBasis {
    /// Returns the name in JSON output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spec => "Spec",
            Self::Manifests => "Manifests",
            Self::FirstToLast => "FirstToLast",
            Self::Asserted => "Asserted",
        }
    }

    /// Returns the description in text output.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Spec => "the due windows of the spec",
            Self::Manifests => "the periods of the manifests, and later windows up to the last one",
            Self::FirstToLast => "from the first to the last window, since there is no manifest",
            Self::Asserted => "the days of --start and --end",
        }
    }
}

/// Returns merged ranges as one text, with at most `max` of them.
pub fn format_ranges(ranges: &[String], max: usize) -> String {
    if ranges.is_empty() {
        return "nothing".to_owned();
    }
    let more = ranges.len().saturating_sub(max);
    let rest = (more > 0).then(|| format!("and {more} more"));
    let shown = ranges.iter().take(max).cloned().chain(rest);
    shown.collect::<Vec<_>>().join(", ")
}

/// Returns the expected range of a root: the due windows of an expectation or, without one, the sealed periods and what
/// is `stored` after them.
pub fn expected_range(
    expectation: Option<&Expectation>,
    sealed: &SealedPeriods,
    stored: &HourSet,
) -> ExpectedRange {
    if let Some(expectation) = expectation {
        let wanted = expectation.wanted.difference(&expectation.not_due);
        return ExpectedRange {
            basis: RangeBasis::Spec,
            accepted: expectation.accepted.intersection(&wanted),
            wanted,
        };
    }
    // The range continues after the latest manifest without a gap.
    let open = stored.difference(&sealed.wanted);
    let first = open.days().next().map(|(day, _)| day);
    let after = first.and_then(|first| {
        let ends = sealed.periods.iter().map(|period| period.end);
        ends.filter(|end| *end < first).max()?.tomorrow().ok()
    });
    let wanted = first_to_last(&open, after).union(&sealed.wanted);
    ExpectedRange {
        basis: if sealed.wanted.is_empty() {
            RangeBasis::FirstToLast
        } else {
            RangeBasis::Manifests
        },
        accepted: sealed.accepted.clone(),
        wanted,
    }
}

/// Returns the only hour of each day that every valid manifest covers; `None` for complete days. The receipts do not
/// tell: an archive with the same hour of each day may have lost the others.
pub fn sealed_hour(sealed: &SealedPeriods) -> Option<u8> {
    let hour = sealed.periods.first()?.hour?;
    let same = sealed.periods.iter().all(|period| period.hour == Some(hour));
    same.then_some(hour)
}

/// Returns the hours from the first (or an earlier day) to the last covered one. If every day covers only the same
/// hour, only that hour of each day.
fn first_to_last(covered: &HourSet, from: Option<Date>) -> HourSet {
    let mut days = covered.days();
    let Some((first, first_hours)) = days.next() else {
        return HourSet::default();
    };
    let (last, last_hours) = days.next_back().unwrap_or((first, first_hours));
    let one_hour = first_hours.is_power_of_two() && covered.days().all(|(_, hours)| hours == first_hours);
    let mut wanted = HourSet::default();
    let mut day = from.unwrap_or(first).min(first);
    loop {
        if first < day && day < last && !one_hour {
            wanted.insert(Window::day(day));
        } else {
            for window in Window::split(day) {
                let before = day == first && from.is_none() && window.hours() < lowest_bit(first_hours);
                let after = day == last && window.hours() > highest_bit(last_hours);
                let other = one_hour && window.hours() != first_hours;
                if !(before || after || other) {
                    wanted.insert(window);
                }
            }
        }
        match day.tomorrow() {
            Ok(next) if next <= last => day = next,
            _ => return wanted,
        }
    }
}

const fn lowest_bit(hours: u32) -> u32 {
    1 << hours.trailing_zeros()
}

const fn highest_bit(hours: u32) -> u32 {
    1 << hours.ilog2()
}

impl ExpectedRange {
    /// Expects every hour of the days from the first to the last given one, or only this hour of each day. If only one of
    /// them is given, the range keeps its own other end. Without a given day, the range stays as it is.
    pub fn assert_days(&mut self, (first, last): (Option<Date>, Option<Date>), hour: Option<u8>) {
        let own_first = self.wanted.days().next().map(|(day, _)| day);
        let own_last = self.wanted.days().next_back().map(|(day, _)| day);
        let (first, last) = match (first, last) {
            (None, None) => return,
            (Some(first), Some(last)) => (first, last),
            (Some(first), None) => (first, own_last.map_or(first, |own| own.max(first))),
            (None, Some(last)) => (own_first.map_or(last, |own| own.min(last)), last),
        };
        self.wanted = first
            .series(Span::new().days(1))
            .take_while(|day| *day <= last)
            .filter_map(|day| match hour {
                None => Some(Window::day(day)),
                Some(hour) => Window::hour(day, hour),
            })
            .collect();
        self.accepted = self.accepted.intersection(&self.wanted);
        self.basis = RangeBasis::Asserted;
    }

    /// Limits the expected hours to some days.
    pub fn limit_days(&mut self, includes: impl Fn(Date) -> bool) {
        let days = self.wanted.days().filter(|(day, _)| includes(*day));
        let limit: HourSet = days.map(|(day, _)| Window::day(day)).collect();
        self.wanted = self.wanted.intersection(&limit);
        self.accepted = self.accepted.intersection(&limit);
    }

    /// Returns the expectation of an archive of this source.
    pub fn expectation(&self, source: Option<&str>) -> Expectation {
        Expectation {
            source: source.map(ToOwned::to_owned),
            wanted: self.wanted.clone(),
            accepted: self.accepted.clone(),
            ..Expectation::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(windows: &[&str]) -> HourSet {
        windows
            .iter()
            .map(|text| text.parse::<Window>().unwrap())
            .collect()
    }

    #[test]
    fn the_range_without_a_manifest_is_from_the_first_to_the_last_window() {
        let missing = |windows: &[&str]| {
            let covered = cells(windows);
            let range = expected_range(None, &SealedPeriods::default(), &covered);
            assert_eq!(range.basis, RangeBasis::FirstToLast);
            range.wanted.difference(&covered).ranges(9)
        };
        assert!(missing(&[]).is_empty());
        assert_eq!(missing(&["2018-06-01", "2018-06-03"]), ["2018-06-02"]);
        assert_eq!(
            missing(&["2018-06-01T05", "2018-06-01T07", "2018-06-02"]),
            ["2018-06-01T06", "2018-06-01T08/2018-06-01T23"]
        );
        assert_eq!(missing(&["2018-06-01T07", "2018-06-03T07"]), ["2018-06-02T07"]);
        assert!(missing(&["2018-06-01", "2018-06-02T00"]).is_empty());
    }
    #[test]
    fn given_days_are_asserted_whatever_the_archive_has() {
        let range = |windows: &[&str], days: [Option<&str>; 2], hour| {
            let covered = cells(windows);
            let mut range = expected_range(None, &SealedPeriods::default(), &covered);
            let [first, last] = days.map(|day| day.map(|day| day.parse().unwrap()));
            range.assert_days((first, last), hour);
            (
                range.wanted.ranges(9),
                range.wanted.difference(&covered).ranges(9),
            )
        };
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let week = ["2018-06-02", "2018-06-03"];
        for (windows, days, hour, wanted, missing) in [
            (
                &week[..],
                [Some("2018-06-01"), Some("2018-06-04")],
                None,
                &["2018-06-01/2018-06-04"][..],
                &["2018-06-01", "2018-06-04"][..],
            ),
            (&week, [Some("2018-06-03"), None], None, &["2018-06-03"], &[]),
            (
                &week,
                [Some("2018-06-05"), None],
                None,
                &["2018-06-05"],
                &["2018-06-05"],
            ),
            (&week, [None, Some("2018-06-02")], None, &["2018-06-02"], &[]),
            (&week, [None, None], None, &["2018-06-02/2018-06-03"], &[]),
            (
                &[],
                [None, Some("2018-06-02")],
                None,
                &["2018-06-02"],
                &["2018-06-02"],
            ),
            (
                &["2018-06-02T07"],
                [Some("2018-06-02"), Some("2018-06-03")],
                Some(7),
                &["2018-06-02T07", "2018-06-03T07"],
                &["2018-06-03T07"],
            ),
            (
                &["2018-06-02T07"],
                [Some("2018-06-02"), None],
                None,
                &["2018-06-02"],
                &["2018-06-02T00/2018-06-02T06", "2018-06-02T08/2018-06-02T23"],
            ),
        ] {
            let expected = (texts(wanted), texts(missing));
            assert_eq!(range(windows, days, hour), expected, "{windows:?} {days:?}");
        }
    }
}
