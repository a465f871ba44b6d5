//! What a download proves: its events against what the service reports of the days, and what speaks against taking it
//! for complete. No I/O, no clock.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;

use super::asked::{self, windows};
use super::note::{End, Section};
use crate::cli::size;
use crate::export::verdict::{
    EmptyAnswer, EmptyEvidence, EmptyVerdict, Listing, Verdict, of_count, of_empty,
};

/// Days that a doubt names; the rest are counted.
const NAMED: usize = 5;

/// The counts of days, where the service gives them.
pub type Counts = BTreeMap<Date, u64>;

/// What a session's bytes prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// How its events compare with the reports.
    pub verdict: Verdict,
    /// Events that the service reported before and after.
    pub reported: (Option<u64>, Option<u64>),
    /// Why it must not be taken for complete; nothing where it may.
    pub doubts: Vec<String>,
}

/// The counts of these days in a listing.
pub fn counts(listing: &Listing, start: Date, end: Date) -> Counts {
    windows(start, end, None)
        .filter_map(|window| Some((window.date(), listing.count(window)?)))
        .collect()
}

/// Judges a session that is there whole, by the reports of before and after it.
pub fn judge(section: &Section, before: &Counts, after: Option<&Listing>, now: Timestamp) -> Judged {
    let Some((start, end)) = section.range else {
        return unknown(section);
    };
    let reported = |counts: &Counts| {
        let days = windows(start, end, None).map(|window| counts.get(&window.date()).copied());
        // The service counts no hours.
        if section.hour.is_some() { None } else { days.sum() }
    };
    let later = after
        .map(|listing| counts(listing, start, end))
        .unwrap_or_default();
    let (before, after_count) = (reported(before), reported(&later));
    let days = asked::days(start, end, section.hour);
    let empty = |answer| {
        windows(start, end, section.hour).map(move |window| {
            let evidence = EmptyEvidence {
                window,
                answer,
                session_readable: section.readable,
                listing: after,
                others: None,
                oldest_served: None,
                now,
            };
            (window.date(), of_empty(&evidence))
        })
    };
    let mut judged = Judged {
        verdict: of_count(section.events, before, after_count),
        reported: (before, after_count),
        doubts: Vec::new(),
    };
    if section.events == 0 {
        let answer = section.empty.unwrap_or(EmptyAnswer::GzipOfNothing);
        let doubts: Vec<_> = empty(answer)
            .filter_map(|(day, verdict)| doubt(day, &verdict))
            .collect();
        if doubts.is_empty() {
            judged.verdict = Verdict::Empty;
        }
        judged.doubts = shortened(doubts);
        return judged;
    }
    if judged.verdict == Verdict::Short {
        let most = before.into_iter().chain(after_count).max().unwrap_or(0);
        judged.doubts.push(format!(
            "{days}: {} came, the service reports {}",
            size::of(section.events, "event"),
            size::count(most)
        ));
    }
    if section.end == End::CloseUnconfirmed && judged.verdict != Verdict::Matched {
        judged.doubts.push(format!(
            "{days}: the connection closed without saying that the data was whole, and the service neither confirmed its end nor reports as many events"
        ));
    }
    // The events may be of the other days: those that the service no longer lists are not known to be there.
    if start != end {
        let lost: Vec<_> = empty(EmptyAnswer::GzipOfNothing)
            .filter(|(_, verdict)| matches!(verdict, EmptyVerdict::Expired(_)))
            .filter_map(|(day, verdict)| doubt(day, &verdict))
            .collect();
        judged.doubts.extend(shortened(lost));
    }
    judged
}

/// Nobody knows of which days the session is.
fn unknown(section: &Section) -> Judged {
    let mut doubts = Vec::new();
    if section.events == 0 {
        doubts.push("no event came, and the service does not say of which days the session is".to_owned());
    } else if section.end == End::CloseUnconfirmed {
        doubts.push("the connection closed without saying that the data was whole".to_owned());
    }
    Judged {
        verdict: Verdict::Unknown,
        reported: (None, None),
        doubts,
    }
}

fn doubt(day: Date, verdict: &EmptyVerdict) -> Option<String> {
    match verdict {
        EmptyVerdict::Proved => None,
        EmptyVerdict::Short(reported) => Some(format!(
            "{day}: nothing came, the service reports {}",
            size::of(*reported, "event")
        )),
        EmptyVerdict::ShortOfDay { others, reported } => Some(format!(
            "{day}: no events came, and the other hours have {others} of the {reported} that the service reports"
        )),
        EmptyVerdict::Expired(oldest) => Some(format!(
            "{day}: the service lists no day before {oldest}, so what happened on this one may be gone"
        )),
        EmptyVerdict::Unproved(why) => Some(format!(
            "{day}: nothing came, and nothing proves that nothing happened: {why}"
        )),
    }
}

fn shortened(mut doubts: Vec<String>) -> Vec<String> {
    let more = doubts.len().saturating_sub(NAMED);
    doubts.truncate(NAMED);
    if more > 0 {
        doubts.push(format!(
            "and the like of {}",
            size::of(more as u64, "further day")
        ));
    }
    doubts
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::tracker::Day;

    fn listing(rows: &[(i8, u64)]) -> Listing {
        let day = |&(day, count): &(i8, u64)| Day {
            date: date(2018, 6, day),
            count: Some(count),
            size: None,
            types: None,
            searchable: None,
        };
        Listing::new(rows.iter().map(day).collect())
    }

    fn section(events: u64, days: (i8, i8)) -> Section {
        Section {
            session: "s".to_owned(),
            range: Some((date(2018, 6, days.0), date(2018, 6, days.1))),
            hour: None,
            bytes: 1,
            events,
            members: 1,
            decompressed: 1,
            end: End::Length,
            resumes: 0,
            empty: (events == 0).then_some(EmptyAnswer::NotFound),
            readable: true,
        }
    }

    fn of(section: &Section, before: &[(i8, u64)], after: Option<&[(i8, u64)]>) -> (Verdict, String) {
        let (start, end) = section.range.unwrap();
        let before = counts(&listing(before), start, end);
        let after = after.map(listing);
        let now = "2018-07-20T00:00:00Z".parse().unwrap();
        let judged = judge(section, &before, after.as_ref(), now);
        (judged.verdict, judged.doubts.join("\n"))
    }

    #[test]
    fn the_days_of_a_session_are_counted_together_and_a_day_left_out_has_none() {
        let rows: &[_] = &[(1, 10), (2, 5), (4, 7), (9, 1)];
        let judged = |events, days| of(&section(events, days), rows, Some(rows));
        assert_eq!(judged(22, (1, 4)), (Verdict::Matched, String::new()));
        assert_eq!(judged(23, (1, 4)), (Verdict::Over, String::new()));
        let (verdict, doubts) = judged(21, (1, 4));
        assert_eq!(verdict, Verdict::Short);
        assert!(
            doubts.contains("21 events came, the service reports 22"),
            "{doubts}"
        );
        // The day grew in between.
        assert_eq!(
            of(&section(6, (2, 2)), &[(2, 5)], Some(&[(2, 8)])).0,
            Verdict::Matched
        );
        assert_eq!(
            of(&section(6, (2, 2)), &[], None),
            (Verdict::Unknown, String::new())
        );
    }

    #[test]
    fn no_events_are_believed_where_the_listing_says_so_only() {
        let rows: &[_] = &[(1, 10), (4, 7)];
        assert_eq!(
            of(&section(0, (2, 3)), rows, Some(rows)),
            (Verdict::Empty, String::new())
        );
        let (_, doubts) = of(&section(0, (3, 4)), rows, Some(rows));
        assert!(
            doubts.contains("2018-06-04: nothing came, the service reports 7"),
            "{doubts}"
        );
        let (_, doubts) = of(&section(0, (2, 2)), rows, None);
        assert!(doubts.contains("nothing proves"), "{doubts}");
        let late: &[_] = &[(20, 3)];
        let (_, doubts) = of(&section(0, (1, 9)), late, Some(late));
        assert!(
            doubts.contains("no day before 2018-06-20") && doubts.contains("4 further days"),
            "{doubts}"
        );
    }

    #[test]
    fn days_past_retention_make_a_range_doubtful() {
        let rows: &[_] = &[(3, 10), (4, 7)];
        let (verdict, doubts) = of(&section(17, (1, 4)), rows, Some(rows));
        assert_eq!(verdict, Verdict::Unknown);
        assert!(
            doubts.contains("2018-06-01") && doubts.contains("2018-06-02"),
            "{doubts}"
        );
        assert!(!doubts.contains("2018-06-03: "), "{doubts}");
    }

    #[test]
    fn an_end_that_nobody_confirmed_needs_the_count() {
        let unconfirmed = Section {
            end: End::CloseUnconfirmed,
            ..section(5, (2, 2))
        };
        assert_eq!(
            of(&unconfirmed, &[(2, 5)], Some(&[(2, 5)])),
            (Verdict::Matched, String::new())
        );
        assert!(of(&unconfirmed, &[], None).1.contains("neither confirmed"));
    }
}
