//! What the archive should cover, and what of it is not covered. No I/O.

use jiff::Timestamp;
use jiff::civil::Date;

use super::chain::Chain;
use super::contents::Contents;
use super::finding::{Finding, Kind};
use crate::export::window::{Cells, Window};
use crate::export::wish::Export;

/// Gaps that are told one by one; the last finding says how many more there are.
const GAPS_MAX: usize = 1000;

/// Where the range comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The spec of a resource: what it wants and is due.
    Spec,
    /// The periods of the manifests, and from the first to the last window.
    Manifests,
    /// From the first to the last window: what was wanted before and after cannot be known.
    FirstToLast,
}

/// What should be covered.
#[derive(Clone, Debug)]
pub struct Range {
    /// Where it comes from.
    pub basis: Basis,
    /// What should be covered.
    pub wanted: Cells,
    /// What a person accepted as missing.
    pub accepted: Cells,
}

impl Basis {
    /// As programs read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spec => "Spec",
            Self::Manifests => "Manifests",
            Self::FirstToLast => "FirstToLast",
        }
    }

    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Spec => "what the spec wants and is due",
            Self::Manifests => "the periods of the manifests, and what follows them up to the last window",
            Self::FirstToLast => "from the first to the last window, since no manifest says what was wanted",
        }
    }
}

/// What a root should cover.
pub fn range(export: Option<&Export>, now: Timestamp, chain: &Chain, covered: &Cells) -> Range {
    if let Some(export) = export {
        let wanted: Cells = export
            .windows(now)
            .filter(|window| export.settled_at(*window) <= now)
            .collect();
        return Range {
            basis: Basis::Spec,
            accepted: export.accepted_cells(&wanted),
            wanted,
        };
    }
    // What no manifest is about yet follows its latest one without a gap.
    let open = covered.minus(&chain.wanted);
    let first = open.days().next().map(|(day, _)| day);
    let after = first.and_then(|first| {
        let ends = chain.periods.iter().map(|period| period.end);
        ends.filter(|end| *end < first).max()?.tomorrow().ok()
    });
    let wanted = first_to_last(&open, after).union(&chain.wanted);
    Range {
        basis: if chain.wanted.is_empty() {
            Basis::FirstToLast
        } else {
            Basis::Manifests
        },
        accepted: chain.accepted.clone(),
        wanted,
    }
}

/// The cells from the first to the last one that is covered, or from an earlier day; of each day the same hour only,
/// where no day has more.
fn first_to_last(covered: &Cells, from: Option<Date>) -> Cells {
    let mut days = covered.days();
    let Some((first, first_hours)) = days.next() else {
        return Cells::default();
    };
    let (last, last_hours) = days.next_back().unwrap_or((first, first_hours));
    let one_hour = first_hours.is_power_of_two() && covered.days().all(|(_, hours)| hours == first_hours);
    let mut wanted = Cells::default();
    let mut day = from.unwrap_or(first).min(first);
    loop {
        for window in Window::split(day) {
            let before = day == first && from.is_none() && window.hours() < lowest(first_hours);
            let after = day == last && window.hours() > highest(last_hours);
            let other = one_hour && window.hours() != first_hours;
            if !(before || after || other) {
                wanted.insert(window);
            }
        }
        match day.tomorrow() {
            Ok(next) if next <= last => day = next,
            _ => return wanted,
        }
    }
}

const fn lowest(hours: u32) -> u32 {
    1 << hours.trailing_zeros()
}

const fn highest(hours: u32) -> u32 {
    1 << hours.ilog2()
}

impl Range {
    /// Only these days.
    pub fn restrict(&mut self, since: Option<Date>, until: Option<Date>) {
        let keep = |cells: &Cells| {
            let within = |day: &Date| {
                since.is_none_or(|since| *day >= since) && until.is_none_or(|until| *day <= until)
            };
            let days: Cells = cells
                .days()
                .map(|(day, _)| day)
                .filter(within)
                .map(Window::day)
                .collect();
            cells.intersection(&days)
        };
        (self.wanted, self.accepted) = (keep(&self.wanted), keep(&self.accepted));
    }

    /// What is not covered and should be.
    pub fn missing(&self, covered: &Cells) -> Cells {
        self.wanted.minus(covered).minus(&self.accepted)
    }

    /// A finding for each run of cells that are not covered, and not explained by another finding.
    pub fn gaps(&self, contents: &Contents, covered: &Cells, explained: &Cells) -> Vec<Finding> {
        let missing = self.missing(covered).minus(explained);
        let expired: Cells = contents.expired.iter().copied().collect();
        let lost = missing.intersection(&expired);
        let mut findings = Vec::new();
        for (cells, found) in [
            (missing.minus(&lost), "no receipt"),
            (lost, "no receipt; the service no longer had it when it was asked"),
        ] {
            findings.extend(cells.ranges(GAPS_MAX).into_iter().map(|run| {
                Finding::new(Kind::Gap, contents.root.as_str())
                    .expected(run)
                    .found(found)
            }));
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(windows: &[&str]) -> Cells {
        windows
            .iter()
            .map(|text| text.parse::<Window>().unwrap())
            .collect()
    }

    #[test]
    fn the_range_without_a_manifest_is_from_the_first_to_the_last_window() {
        let missing = |windows: &[&str]| {
            let covered = cells(windows);
            let range = range(None, Timestamp::UNIX_EPOCH, &Chain::default(), &covered);
            assert_eq!(range.basis, Basis::FirstToLast);
            range.missing(&covered).ranges(9)
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
}
