//! Expected range of an archive, and its gaps. No I/O.

use jiff::Timestamp;
use jiff::civil::Date;

use super::chain::ChainAudit;
use super::contents::RootContents;
use super::finding::{Finding, FindingKind};
use crate::archive::window::{HourSet, Window};
use crate::export::spec::ExportSpec;

/// Maximum number of reported gaps. The last finding states the number of omitted gaps.
const GAPS_MAX: usize = 1000;

/// Origin of the expected range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeBasis {
    /// The due windows of a spec.
    Spec,
    /// The periods of the manifests, and later windows up to the last one.
    Manifests,
    /// From the first to the last window, since the configured range is unknown.
    FirstToLast,
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
        }
    }

    /// Returns the description in text output.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Spec => "the due windows of the spec",
            Self::Manifests => "the periods of the manifests, and later windows up to the last one",
            Self::FirstToLast => "from the first to the last window, since there is no manifest",
        }
    }
}

/// Returns the expected range of a root.
pub fn expected_range(
    export: Option<&ExportSpec>,
    now: Timestamp,
    chain: &ChainAudit,
    covered: &HourSet,
) -> ExpectedRange {
    if let Some(export) = export {
        let wanted: HourSet = export
            .windows(now)
            .filter(|window| export.due_at(*window) <= now)
            .collect();
        return ExpectedRange {
            basis: RangeBasis::Spec,
            accepted: export.accepted_hours(&wanted),
            wanted,
        };
    }
    // The range continues after the latest manifest without a gap.
    let open = covered.difference(&chain.wanted);
    let first = open.days().next().map(|(day, _)| day);
    let after = first.and_then(|first| {
        let ends = chain.periods.iter().map(|period| period.end);
        ends.filter(|end| *end < first).max()?.tomorrow().ok()
    });
    let wanted = first_to_last(&open, after).union(&chain.wanted);
    ExpectedRange {
        basis: if chain.wanted.is_empty() {
            RangeBasis::FirstToLast
        } else {
            RangeBasis::Manifests
        },
        accepted: chain.accepted.clone(),
        wanted,
    }
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
        for window in Window::split(day) {
            let before = day == first && from.is_none() && window.hours() < lowest_bit(first_hours);
            let after = day == last && window.hours() > highest_bit(last_hours);
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

const fn lowest_bit(hours: u32) -> u32 {
    1 << hours.trailing_zeros()
}

const fn highest_bit(hours: u32) -> u32 {
    1 << hours.ilog2()
}

impl ExpectedRange {
    /// Restricts the range to these days.
    pub fn restrict(&mut self, since: Option<Date>, until: Option<Date>) {
        let keep = |cells: &HourSet| {
            let within = |day: &Date| {
                since.is_none_or(|since| *day >= since) && until.is_none_or(|until| *day <= until)
            };
            let days: HourSet = cells
                .days()
                .map(|(day, _)| day)
                .filter(within)
                .map(Window::day)
                .collect();
            cells.intersection(&days)
        };
        (self.wanted, self.accepted) = (keep(&self.wanted), keep(&self.accepted));
    }

    /// Returns the expected hours that are neither covered nor accepted as missing.
    pub fn missing(&self, covered: &HourSet) -> HourSet {
        self.wanted.difference(covered).difference(&self.accepted)
    }

    /// Returns a finding for each merged range of missing hours that no other finding explains.
    pub fn gaps(&self, contents: &RootContents, covered: &HourSet, explained: &HourSet) -> Vec<Finding> {
        let missing = self.missing(covered).difference(explained);
        let expired: HourSet = contents.expired.iter().copied().collect();
        let lost = missing.intersection(&expired);
        let mut findings = Vec::new();
        for (cells, found) in [
            (missing.difference(&lost), "no receipt"),
            (lost, "no receipt; the service no longer had the events"),
        ] {
            findings.extend(cells.ranges(GAPS_MAX).into_iter().map(|run| {
                Finding::new(FindingKind::Gap, contents.root.as_str())
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
            let range = expected_range(None, Timestamp::UNIX_EPOCH, &ChainAudit::default(), &covered);
            assert_eq!(range.basis, RangeBasis::FirstToLast);
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
