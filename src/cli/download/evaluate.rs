//! Compares the events of a download with the counts that the service reports, and lists the reasons not to regard it
//! as complete. No I/O, no clock.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::part_state::{CompletedSession, RecordedEnd};
use super::request::{self, windows};
use crate::archive::counts::{
    DayListing, EmptyEvidence, EmptyVerdict, Verdict, compare_counts, evaluate_empty, latest_count,
    partial_count_suffices,
};
use crate::cli::human;

/// Maximum number of days listed by name; the rest are counted.
const NAMED_MAX: usize = 5;

/// Event counts by day, if the service reports them.
pub type DayCounts = BTreeMap<Date, u64>;

/// Evaluation of a downloaded session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEvaluation {
    /// Comparison of the events with the reported counts.
    pub verdict: Verdict,
    /// Event counts that the service reported before and after the download.
    pub reported: (Option<u64>, Option<u64>),
    /// Reasons not to regard the session as complete; empty if there are none.
    pub warnings: Vec<String>,
}

/// Returns the counts of a range of days from a listing, without days that it leaves out.
pub fn day_counts(listing: &DayListing, start: Date, end: Date) -> DayCounts {
    windows(start, end, None)
        .filter_map(|window| Some((window.date(), listing.count(window)?)))
        .collect()
}

/// Evaluates a completely transferred session by the counts reported before and after it.
pub fn evaluate(
    section: &CompletedSession,
    before: &DayCounts,
    after: Option<&DayListing>,
) -> SessionEvaluation {
    let Some((start, end)) = section.range else {
        return evaluate_undated(section);
    };
    let later = after
        .map(|listing| day_counts(listing, start, end))
        .unwrap_or_default();
    // A day that the later listing leaves out has its earlier count. Without one, and between listed days, it counts 0.
    let after_count = |date: Date| {
        let omitted = || after.is_some_and(|listing| listing.omits(date)).then_some(0);
        let known = latest_count(before.get(&date).copied(), later.get(&date).copied());
        known.or_else(omitted)
    };
    let sum = |count: &dyn Fn(Date) -> Option<u64>| {
        let days = windows(start, end, None).map(|window| count(window.date()));
        // The service reports no counts of hours.
        if section.hour.is_some() { None } else { days.sum() }
    };
    let (before, after_count) = (sum(&|date| before.get(&date).copied()), sum(&after_count));
    let days = request::format_days(start, end, section.hour);
    let empty = windows(start, end, section.hour).map(|window| {
        let evidence = EmptyEvidence {
            window,
            session_readable: section.readable,
            listing: after,
            other_hours: None,
        };
        (window.date(), evaluate_empty(&evidence))
    });
    let mut evaluation = SessionEvaluation {
        verdict: compare_counts(section.events, before, after_count),
        reported: (before, after_count),
        warnings: Vec::new(),
    };
    if let Some(uncounted) = &section.uncounted {
        evaluation.verdict = Verdict::Uncounted;
        if !partial_count_suffices(section.events, before, after_count) {
            let reported = latest_count(before, after_count).map_or_else(
                || "the service reports no count".to_owned(),
                |reported| format!("the service reports {}", human::count(reported)),
            );
            evaluation.warnings.push(format!(
                "{days}: only {} could be counted ({uncounted} of the decompressed data), and {reported}",
                human::plural(section.events, "event")
            ));
        }
    } else if section.events == 0 {
        let warnings: Vec<_> = empty
            .filter_map(|(day, verdict)| warning(day, &verdict))
            .collect();
        if warnings.is_empty() {
            evaluation.verdict = Verdict::Empty;
        }
        evaluation.warnings = truncated(warnings);
        return evaluation;
    }
    if evaluation.verdict == Verdict::Short {
        let reported = latest_count(before, after_count).unwrap_or(0);
        evaluation.warnings.push(format!(
            "{days}: received {}, but the service reports {}",
            human::plural(section.events, "event"),
            human::count(reported)
        ));
    }
    if section.end == RecordedEnd::CloseUnconfirmed && evaluation.verdict != Verdict::Matched {
        evaluation.warnings.push(format!(
            "{days}: the connection closed without an end marker, and neither another request nor the reported count confirms that the data is complete"
        ));
    }
    // The events may belong to the other days: nothing shows that days which are no longer listed are included.
    if start != end {
        let expired: Vec<_> = empty
            .filter(|(_, verdict)| matches!(verdict, EmptyVerdict::BeforeOldest(_)))
            .filter_map(|(day, verdict)| warning(day, &verdict))
            .collect();
        evaluation.warnings.extend(truncated(expired));
    }
    evaluation
}

/// Evaluates a session with unknown days.
fn evaluate_undated(section: &CompletedSession) -> SessionEvaluation {
    let mut warnings = Vec::new();
    if let Some(uncounted) = section.uncounted.as_ref().filter(|_| section.events == 0) {
        warnings.push(format!(
            "no event could be counted ({uncounted} of the decompressed data)"
        ));
    } else if section.events == 0 {
        warnings
            .push("received no events, and the service does not report the days of the session".to_owned());
    } else if section.end == RecordedEnd::CloseUnconfirmed {
        warnings.push("the connection closed without an end marker".to_owned());
    }
    SessionEvaluation {
        verdict: match section.uncounted {
            Some(_) => Verdict::Uncounted,
            None => Verdict::Unknown,
        },
        reported: (None, None),
        warnings,
    }
}

fn warning(day: Date, verdict: &EmptyVerdict) -> Option<String> {
    match verdict {
        EmptyVerdict::Proved => None,
        EmptyVerdict::Short(reported) => Some(format!(
            "{day}: received no events, but the service reports {}",
            human::plural(*reported, "event")
        )),
        EmptyVerdict::ShortOfDay {
            other_hours,
            reported,
        } => Some(format!(
            "{day}: received no events, and the other hours have {other_hours} of the {reported} events that the service reports"
        )),
        EmptyVerdict::BeforeOldest(oldest) => Some(format!(
            "{day}: the service lists no day before {oldest}, so the events of this day may have expired"
        )),
        EmptyVerdict::Unproved(why) => Some(format!(
            "{day}: received no events, and nothing proves that there were none: {why}"
        )),
    }
}

fn truncated(mut warnings: Vec<String>) -> Vec<String> {
    let more = warnings.len().saturating_sub(NAMED_MAX);
    warnings.truncate(NAMED_MAX);
    if more > 0 {
        warnings.push(format!(
            "the same for {}",
            human::plural(more as u64, "further day")
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::archive::counts::EmptyAnswer;
    use crate::archive::records::UncountedRecord;
    use crate::tracker::Day;

    fn listing(rows: &[(i8, u64)]) -> DayListing {
        let day = |&(day, count): &(i8, u64)| Day {
            date: date(2018, 6, day),
            count: Some(count),
            size: None,
            types: None,
            searchable: None,
        };
        DayListing::new(rows.iter().map(day).collect())
    }

    fn section(events: u64, days: (i8, i8)) -> CompletedSession {
        CompletedSession {
            session: "s".to_owned(),
            range: Some((date(2018, 6, days.0), date(2018, 6, days.1))),
            hour: None,
            bytes: 1,
            events,
            uncounted: None,
            members: 1,
            decompressed: 1,
            end: RecordedEnd::Length,
            resumes: 0,
            empty: (events == 0).then_some(EmptyAnswer::NotFound),
            readable: true,
        }
    }

    fn evaluated(
        section: &CompletedSession,
        before: &[(i8, u64)],
        after: Option<&[(i8, u64)]>,
    ) -> (Verdict, String) {
        let (start, end) = section.range.unwrap();
        let before = day_counts(&listing(before), start, end);
        let after = after.map(listing);
        let evaluation = evaluate(section, &before, after.as_ref());
        (evaluation.verdict, evaluation.warnings.join("\n"))
    }

    #[test]
    fn listed_day_counts_are_summed_over_the_session() {
        let rows: &[_] = &[(1, 10), (2, 5), (4, 7), (9, 1)];
        let evaluate_range = |events, days| evaluated(&section(events, days), rows, Some(rows));
        assert_eq!(evaluate_range(22, (1, 4)), (Verdict::Matched, String::new()));
        assert_eq!(evaluate_range(23, (1, 4)), (Verdict::Over, String::new()));
        let (verdict, warnings) = evaluate_range(21, (1, 4));
        assert_eq!(verdict, Verdict::Short);
        assert!(
            warnings.contains("received 21 events, but the service reports 22"),
            "{warnings}"
        );
        // Events were added to a day during the download.
        let grown: &[_] = &[(1, 10), (2, 8), (4, 7), (9, 1)];
        let (verdict, warnings) = evaluated(&section(23, (1, 4)), rows, Some(grown));
        assert_eq!(verdict, Verdict::Short);
        assert!(warnings.contains("but the service reports 25"), "{warnings}");
        // A day that the later listing leaves out has its earlier count.
        let left_out: &[_] = &[(1, 10), (4, 7), (9, 1)];
        assert_eq!(
            evaluated(&section(17, (1, 4)), rows, Some(left_out)).0,
            Verdict::Short
        );
        assert_eq!(
            evaluated(&section(6, (2, 2)), &[], None),
            (Verdict::Unknown, String::new())
        );
    }

    #[test]
    fn an_empty_session_needs_proof_from_the_listing() {
        let rows: &[_] = &[(1, 10), (4, 7)];
        assert_eq!(
            evaluated(&section(0, (2, 3)), rows, Some(rows)),
            (Verdict::Empty, String::new())
        );
        let (_, warnings) = evaluated(&section(0, (3, 4)), rows, Some(rows));
        assert!(
            warnings.contains("2018-06-04: received no events, but the service reports 7"),
            "{warnings}"
        );
        let (_, warnings) = evaluated(&section(0, (2, 2)), rows, None);
        assert!(warnings.contains("nothing proves"), "{warnings}");
        let late: &[_] = &[(20, 3)];
        let (_, warnings) = evaluated(&section(0, (1, 9)), late, Some(late));
        assert!(
            warnings.contains("no day before 2018-06-20") && warnings.contains("4 further days"),
            "{warnings}"
        );
    }

    #[test]
    fn days_before_the_oldest_listed_day_raise_a_warning() {
        let rows: &[_] = &[(3, 10), (4, 7)];
        let (verdict, warnings) = evaluated(&section(17, (1, 4)), rows, Some(rows));
        assert_eq!(verdict, Verdict::Unknown);
        assert!(
            warnings.contains("2018-06-01") && warnings.contains("2018-06-02"),
            "{warnings}"
        );
        assert!(!warnings.contains("2018-06-03: "), "{warnings}");
    }

    #[test]
    fn content_that_cannot_be_counted_is_kept_with_a_warning_unless_enough_was_counted() {
        let uncounted = |events| CompletedSession {
            uncounted: Some(UncountedRecord {
                reason: "NotAnObject".to_owned(),
                at_byte: 9,
            }),
            empty: None,
            ..section(events, (2, 2))
        };
        let rows: &[_] = &[(2, 5)];
        let (verdict, warnings) = evaluated(&uncounted(4), rows, Some(rows));
        assert_eq!(verdict, Verdict::Uncounted);
        assert!(
            warnings.contains("only 4 events could be counted (NotAnObject at byte 9"),
            "{warnings}"
        );
        for reports in [(rows, Some(rows)), (&[], None)] {
            assert_eq!(
                evaluated(&uncounted(5), reports.0, reports.1),
                (Verdict::Uncounted, String::new())
            );
        }
        assert!(evaluated(&uncounted(0), &[], None).1.contains("no count"));
    }

    #[test]
    fn an_unconfirmed_end_needs_a_matching_count() {
        let unconfirmed = CompletedSession {
            end: RecordedEnd::CloseUnconfirmed,
            ..section(5, (2, 2))
        };
        assert_eq!(
            evaluated(&unconfirmed, &[(2, 5)], Some(&[(2, 5)])),
            (Verdict::Matched, String::new())
        );
        assert!(
            evaluated(&unconfirmed, &[], None)
                .1
                .contains("without an end marker")
        );
    }
}
