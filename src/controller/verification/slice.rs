//! Days that are verified at a time, and the result of their verification. Pure.

use std::collections::BTreeMap;

use jiff::civil::Date;

use crate::api::{MAX_FINDING_CHARS, VerificationStatus, sanitize_to};
use crate::archive::finding::{Finding, FindingKind};
use crate::archive::verify::report::VerifyReport;
use crate::controller::status_values::truncate;

/// Days that are verified at a time: of one calendar month, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) since: Date,
    pub(super) until: Date,
    /// True if no earlier slice of the verification was read. Only then the manifests are checked completely.
    pub(super) is_first: bool,
}

impl Slice {
    /// Returns the next slice of a verification of the days from `start` to `end`: the rest of a calendar month. `None`:
    /// all days were read.
    pub(super) fn next(state: &VerificationStatus, start: Date, end: Date) -> Option<Self> {
        let through = state.verified_through.as_deref();
        let through: Option<Date> = through.and_then(|day| day.parse().ok());
        let since = match through {
            Some(through) => through.tomorrow().ok()?.max(start),
            None => start,
        };
        (since <= end).then(|| Self {
            since,
            until: since.last_of_month().min(end),
            is_first: through.is_none(),
        })
    }

    /// Limits the slice to its first days with at most `bytes` together, but at least one day.
    pub(super) fn limited(self, sizes: &BTreeMap<Date, u64>, bytes: u64) -> Self {
        let mut sum = 0_u64;
        let beyond = sizes.range(self.since..=self.until).find(|(_, size)| {
            sum = sum.saturating_add(**size);
            sum > bytes
        });
        let last = beyond.and_then(|(day, _)| day.yesterday().ok());
        Self {
            until: last.map_or(self.until, |last| last.max(self.since)),
            ..self
        }
    }

    pub(super) fn includes(&self, day: Date) -> bool {
        (self.since..=self.until).contains(&day)
    }

    /// Returns true if a finding is about the manifests, not about these days. The first slice reports it.
    fn is_elsewhere(&self, finding: &Finding) -> bool {
        let about_manifests = matches!(
            finding.kind,
            FindingKind::ManifestMissing
                | FindingKind::ManifestChanged
                | FindingKind::ManifestUnreadable
                | FindingKind::ManifestInconsistent
                | FindingKind::SignatureInvalid
                | FindingKind::SignatureMissing
                | FindingKind::ObjectUnreadable
                | FindingKind::ObjectArchived
        );
        let window = finding.window;
        about_manifests && window.is_none_or(|window| !self.includes(window.date()))
    }
}

/// Result of the verification of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SliceResult {
    /// Windows that are proved.
    pub(super) windows: u64,
    /// Objects that are proved.
    pub(super) objects: u64,
    /// Bytes of these objects.
    pub(super) bytes: u64,
    /// Objects and documents that could not be read.
    pub(super) unread: u64,
    /// The first of them.
    pub(super) first_unread: Option<String>,
    /// Findings. A window without any trace in the archive is none: `Ready` and `Complete` report it.
    pub(super) findings: u64,
    /// The first of them.
    pub(super) first_finding: Option<String>,
}

impl SliceResult {
    pub(super) fn new(slice: Slice, report: &VerifyReport) -> Self {
        let mut result = Self::default();
        for root in &report.roots {
            result.windows += root.totals.windows;
            result.objects += root.totals.proved;
            result.bytes = result.bytes.saturating_add(root.totals.bytes);
        }
        for finding in report.all() {
            let kind = finding.kind;
            let is_gap = matches!(kind, FindingKind::Gap | FindingKind::NothingToProve);
            if !kind.is_error() || is_gap || (!slice.is_first && slice.is_elsewhere(finding)) {
                continue;
            }
            if matches!(kind, FindingKind::ObjectUnreadable | FindingKind::ObjectArchived) {
                result.unread += 1;
                let describe = || describe(finding, finding.found.as_deref());
                result.first_unread.get_or_insert_with(describe);
            } else {
                result.findings += 1;
                result
                    .first_finding
                    .get_or_insert_with(|| describe(finding, None));
            }
        }
        result
    }
}

fn describe(finding: &Finding, why: Option<&str>) -> String {
    let text = match why {
        None => format!("{}: {}", finding.key, finding.kind.as_str()),
        Some(why) => format!("{}: {} ({why})", finding.key, finding.kind.as_str()),
    };
    truncate(&sanitize_to(&text, MAX_FINDING_CHARS), MAX_FINDING_CHARS)
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::archive::window::Window;

    fn read_through(day: Option<&str>) -> VerificationStatus {
        VerificationStatus {
            verified_through: day.map(str::to_owned),
            ..VerificationStatus::default()
        }
    }

    #[test]
    fn slices_cover_each_day_once_and_none_spans_two_months() {
        let (start, end) = (date(2018, 5, 30), date(2018, 8, 2));
        let mut state = read_through(None);
        let mut slices = Vec::new();
        while let Some(slice) = Slice::next(&state, start, end) {
            slices.push((slice.since.to_string(), slice.until.to_string(), slice.is_first));
            state = read_through(Some(&slice.until.to_string()));
        }
        let slice = |since: &str, until: &str, first| (since.to_owned(), until.to_owned(), first);
        assert_eq!(
            slices,
            [
                slice("2018-05-30", "2018-05-31", true),
                slice("2018-06-01", "2018-06-30", false),
                slice("2018-07-01", "2018-07-31", false),
                slice("2018-08-01", "2018-08-02", false),
            ]
        );
        // The range moved meanwhile.
        let next =
            |through, start| Slice::next(&read_through(Some(through)), start, end).map(|slice| slice.since);
        assert_eq!(next("2018-06-10", date(2018, 7, 5)), Some(date(2018, 7, 5)));
        assert_eq!(next("2018-06-10", start), Some(date(2018, 6, 11)));
        assert_eq!(next("2018-09-10", start), None);
        assert_eq!(next("no day", start), Some(start));
    }

    #[test]
    fn a_slice_is_as_long_as_its_bytes_allow_and_at_least_a_day() {
        let slice = Slice {
            since: date(2018, 6, 3),
            until: date(2018, 6, 30),
            is_first: true,
        };
        let sizes: BTreeMap<Date, u64> = [(2, 900), (3, 10), (5, 10), (6, 10), (9, 500)]
            .map(|(day, size)| (date(2018, 6, day), size))
            .into();
        let until = |bytes| slice.limited(&sizes, bytes).until;
        assert_eq!(until(1000), date(2018, 6, 30));
        assert_eq!(until(529), date(2018, 6, 8));
        assert_eq!(until(20), date(2018, 6, 5));
        assert_eq!(until(19), date(2018, 6, 4));
        assert_eq!(until(1), date(2018, 6, 3));
    }

    #[test]
    fn gaps_are_no_findings_and_manifests_are_reported_once() {
        let slice = |is_first| Slice {
            since: date(2018, 6, 1),
            until: date(2018, 6, 30),
            is_first,
        };
        let window = |day| Window::day(date(2018, 6, day));
        let july = Window::day(date(2018, 7, 1));
        let report = VerifyReport {
            roots: Vec::new(),
            findings: vec![
                Finding::new(FindingKind::Gap, "root/"),
                Finding::new(FindingKind::NothingToProve, ""),
                Finding::new(FindingKind::NotInManifest, "root/"),
                Finding::new(FindingKind::ManifestChanged, "m1"),
                Finding::new(FindingKind::ManifestInconsistent, "m1").with_window(july),
                Finding::new(FindingKind::ObjectChanged, "a\n").with_window(window(3)),
                Finding::new(FindingKind::ManifestInconsistent, "m2").with_window(window(4)),
                Finding::new(FindingKind::ObjectUnreadable, "b")
                    .with_window(window(5))
                    .found("503"),
            ],
        };
        let result = SliceResult::new(slice(true), &report);
        assert_eq!((result.findings, result.unread), (4, 1));
        assert_eq!(result.first_unread.as_deref(), Some("b: ObjectUnreadable (503)"));
        let later = SliceResult::new(slice(false), &report);
        assert_eq!((later.findings, later.unread), (2, 1));
        assert_eq!(later.first_finding.as_deref(), Some("a\\u{a}: ObjectChanged"));
    }
}
