//! Progress of one verification of an archive: what the results of its slices mean for the status and the condition
//! `Verified`. Pure.

use jiff::Timestamp;
use jiff::civil::Date;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::slice::{Slice, SliceResult};
use super::update::{VerificationUpdate, VerifiedCondition};
use crate::api::{Reason, StatusRange, VerificationStatus};
use crate::controller::status_values::truncate_to_second;

/// Consecutive failures after which the condition of a proved archive says that it cannot be read. A short outage of the
/// store must not hide the last result.
const FAILURES_BEFORE_UNKNOWN: u32 = 3;

/// Maximum ranges of missing windows in a message.
const MISSING_RANGES: usize = 3;

/// Days of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PassRange<'a> {
    pub(super) start: Date,
    /// Last day, at most today.
    pub(super) end: Date,
    /// Ranges that are not stored, as the status shows them.
    pub(super) missing: &'a [StatusRange],
}

/// Starts a verification.
pub(super) fn begin(previous: &VerificationStatus, now: Timestamp) -> VerificationUpdate {
    VerificationUpdate {
        status: VerificationStatus {
            started_at: Some(Time(truncate_to_second(now))),
            completed_at: previous.completed_at.clone(),
            ..VerificationStatus::default()
        },
        condition: None,
    }
}

/// Adds the result of a slice. The verification ends with its last day.
pub(super) fn record(
    update: &VerificationUpdate,
    slice: Slice,
    result: SliceResult,
    range: PassRange<'_>,
    now: Timestamp,
) -> VerificationUpdate {
    let mut next = update.clone();
    let status = &mut next.status;
    for (sum, more) in [
        (&mut status.windows, result.windows),
        (&mut status.objects, result.objects),
        (&mut status.bytes, result.bytes),
        (&mut status.unread, result.unread),
        (&mut status.findings, result.findings),
    ] {
        *sum = sum.saturating_add(i64::try_from(more).unwrap_or(i64::MAX));
    }
    // A finding replaces what could not be read.
    if result.findings > 0 && status.findings == i64::try_from(result.findings).unwrap_or(i64::MAX) {
        status.first_finding = result.first_finding;
    } else if status.first_finding.is_none() {
        status.first_finding = result.first_unread;
    }
    status.verified_through = Some(slice.until.to_string());
    if slice.until >= range.end {
        return finish(next, range, now);
    }
    if next.status.findings > 0 {
        next.condition = Some(not_proved(&next.status));
    } else if next
        .condition
        .as_ref()
        .is_none_or(|was| was.reason == Reason::VerificationFailed)
    {
        let message = format!("the archive is read again; the last day read is {}", slice.until);
        next.condition = Some(VerifiedCondition::new(None, Reason::NotVerifiedYet, message));
    }
    next
}

/// Ends a verification.
pub(super) fn finish(
    mut update: VerificationUpdate,
    range: PassRange<'_>,
    now: Timestamp,
) -> VerificationUpdate {
    let status = &mut update.status;
    let first = status.first_finding.clone().unwrap_or_default();
    let days = format!("{}/{}", range.start, range.end);
    status.verified_through = None;
    if status.findings == 0 && status.unread > 0 {
        // It does not count as complete, so that it is overdue if this lasts.
        status.started_at = None;
        let message = format!(
            "{} objects or documents of {days} could not be read, the first: {first}",
            status.unread
        );
        update.condition = Some(VerifiedCondition::new(None, Reason::VerificationFailed, message));
        return update;
    }
    let now = truncate_to_second(now);
    status.completed_at = Some(Time(now));
    update.condition = Some(if status.findings > 0 {
        not_proved(status)
    } else if status.windows == 0 {
        let message = format!("nothing of {days} is stored");
        VerifiedCondition::new(None, Reason::NotVerifiedYet, message)
    } else {
        let mut message = format!(
            "{days}: {} windows with {} objects ({} bytes) were read again and are proved, completed at {now}",
            status.windows, status.objects, status.bytes
        );
        if !range.missing.is_empty() {
            let named = range.missing.iter().take(MISSING_RANGES).map(ToString::to_string);
            message.push_str("; not stored, and so not part of it: ");
            message.push_str(&named.collect::<Vec<_>>().join(", "));
            if range.missing.len() > MISSING_RANGES {
                message.push_str(", …");
            }
        }
        VerifiedCondition::new(Some(true), Reason::Proved, message)
    });
    update
}

fn not_proved(status: &VerificationStatus) -> VerifiedCondition {
    let first = status.first_finding.as_deref().unwrap_or_default();
    // The remedy comes first: a long key must not cut it off.
    let message = format!(
        "{} findings (`eventexport verify -f` with this manifest lists all, with their remedies), the first: {first}",
        status.findings
    );
    VerifiedCondition::new(Some(false), Reason::NotProved, message)
}

/// Records that a slice could not be read, for the last `failures` times. A known finding stays.
pub(super) fn fail(update: &VerificationUpdate, failures: u32, error: &str) -> VerificationUpdate {
    let mut next = update.clone();
    let keeps = match next.condition.as_ref().and_then(|was| was.status) {
        Some(false) => true,
        Some(true) => failures < FAILURES_BEFORE_UNKNOWN,
        None => false,
    };
    if !keeps {
        let message = format!("the archive cannot be read, will retry: {error}");
        next.condition = Some(VerifiedCondition::new(None, Reason::VerificationFailed, message));
    }
    next
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    const END: Date = date(2018, 6, 30);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn range(missing: &[StatusRange]) -> PassRange<'_> {
        PassRange {
            start: date(2018, 5, 1),
            end: END,
            missing,
        }
    }

    fn slice(until: Date) -> Slice {
        Slice {
            since: until.first_of_month(),
            until,
            is_first: until.month() == 5,
        }
    }

    fn good() -> SliceResult {
        SliceResult {
            windows: 30,
            objects: 28,
            bytes: 1000,
            ..SliceResult::default()
        }
    }

    fn damaged() -> SliceResult {
        SliceResult {
            findings: 2,
            first_finding: Some("k: ObjectChanged".to_owned()),
            unread: 1,
            first_unread: Some("u: ObjectUnreadable".to_owned()),
            ..good()
        }
    }

    fn says(update: &VerificationUpdate) -> (Option<bool>, &'static str) {
        let condition = update.condition.as_ref().unwrap();
        (condition.status, condition.reason.as_str())
    }

    /// Runs a verification of two months.
    fn run(start: &VerificationUpdate, may: SliceResult, june: SliceResult) -> [VerificationUpdate; 2] {
        let before = start
            .status
            .completed_at
            .as_ref()
            .map_or(0, |at| at.0.as_second());
        let at = |second| at(before + second);
        let mut begun = begin(&start.status, at(100));
        begun.condition.clone_from(&start.condition);
        assert!(begun.status.is_running());
        let may = record(&begun, slice(date(2018, 5, 31)), may, range(&[]), at(200));
        assert!(may.status.is_running());
        assert_eq!(may.status.verified_through.as_deref(), Some("2018-05-31"));
        let june = record(&may, slice(END), june, range(&[]), at(300));
        assert!(!june.status.is_running(), "{june:?}");
        [may, june]
    }

    #[test]
    fn an_archive_is_proved_at_the_end_and_damage_shows_at_once() {
        let [may, june] = run(&VerificationUpdate::default(), good(), good());
        assert_eq!(says(&may), (None, "NotVerifiedYet"));
        assert_eq!(says(&june), (Some(true), "Proved"));
        assert_eq!((june.status.objects, june.status.bytes), (56, 2000));
        assert_eq!(june.status.completed_at, Some(Time(at(300))));
        let message = &june.condition.as_ref().unwrap().message;
        assert!(
            message.starts_with("2018-05-01/2018-06-30: 60 windows with 56 objects"),
            "{message}"
        );

        // Damaged later: at once. Repaired: only a whole verification says so.
        let [may, bad] = run(&june, damaged(), good());
        assert_eq!(
            (says(&may), says(&bad)),
            ((Some(false), "NotProved"), (Some(false), "NotProved"))
        );
        assert_eq!(bad.status.first_finding.as_deref(), Some("k: ObjectChanged"));
        assert!(bad.condition.as_ref().unwrap().message.starts_with("2 findings"));
        let [may, good] = run(&bad, good(), good());
        assert_eq!(
            (says(&may), says(&good)),
            ((Some(false), "NotProved"), (Some(true), "Proved"))
        );
        assert_eq!((good.status.findings, good.status.first_finding), (0, None));
    }

    #[test]
    fn what_could_not_be_read_is_not_proved_and_does_not_complete() {
        let unread = SliceResult {
            findings: 0,
            first_finding: None,
            ..damaged()
        };
        let [_, june] = run(&VerificationUpdate::default(), unread, good());
        assert_eq!(says(&june), (None, "VerificationFailed"));
        assert_eq!((june.status.completed_at, june.status.unread), (None, 1));
        assert!(june.condition.unwrap().message.contains("u: ObjectUnreadable"));
        // A finding counts more.
        let unread = SliceResult {
            findings: 0,
            first_finding: None,
            ..damaged()
        };
        let [_, june] = run(&VerificationUpdate::default(), unread, damaged());
        assert_eq!(says(&june), (Some(false), "NotProved"));
        assert_eq!(june.status.first_finding.as_deref(), Some("k: ObjectChanged"));
        // Nothing to prove is not proved.
        let nothing = SliceResult::default;
        let [_, june] = run(&VerificationUpdate::default(), nothing(), nothing());
        assert_eq!(says(&june), (None, "NotVerifiedYet"));
    }

    #[test]
    fn an_outage_hides_no_result_at_once_and_no_finding_ever() {
        let [_, proved] = run(&VerificationUpdate::default(), good(), good());
        assert_eq!(says(&fail(&proved, 1, "503")), (Some(true), "Proved"));
        assert_eq!(says(&fail(&proved, 3, "503")), (None, "VerificationFailed"));
        assert_eq!(
            says(&fail(&VerificationUpdate::default(), 1, "503")),
            (None, "VerificationFailed")
        );
        let [_, bad] = run(&proved, damaged(), good());
        assert_eq!(says(&fail(&bad, 9, "503")), (Some(false), "NotProved"));
        // It is read again, and says so.
        let failed = fail(&proved, 3, "503");
        let [may, june] = run(&failed, good(), good());
        assert_eq!(
            (says(&may), says(&june)),
            ((None, "NotVerifiedYet"), (Some(true), "Proved"))
        );
    }

    #[test]
    fn the_message_names_what_is_not_stored() {
        let missing: Vec<StatusRange> = (1..=4)
            .map(|day| StatusRange::new(date(2018, 5, day).to_string(), date(2018, 5, day).to_string()))
            .collect();
        let begun = begin(&VerificationStatus::default(), at(1));
        let done = record(&begun, slice(END), good(), range(&missing), at(2));
        let message = done.condition.unwrap().message;
        assert!(
            message.ends_with("2018-05-01, 2018-05-02, 2018-05-03, …"),
            "{message}"
        );
    }
}
