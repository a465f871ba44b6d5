//! Verdict on events of several days, or of one hour of each, that one session returned. No I/O, no clock.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::{
    DayListing, EmptyEvidence, EmptyVerdict, Shortfall, Verdict, compare_counts, evaluate_empty,
    evaluate_transfer, latest_count,
};
use crate::archive::window::Window;
use crate::pipeline::events::EventCount;
use crate::tracker::TransferEnd;

/// Event counts by day, as far as the service reports them.
pub type DayCounts = BTreeMap<Date, u64>;

/// Received events, and the evidence about their days.
#[derive(Clone, Copy, Debug)]
pub struct DaysEvidence<'a> {
    /// First and last day; `None` if the service does not report the days of the session.
    pub range: Option<(Date, Date)>,
    /// Hour of each day, if the session is limited to one.
    pub hour: Option<u8>,
    /// Events received.
    pub count: EventCount,
    /// End of the transfer.
    pub end: TransferEnd,
    /// True if the session was still readable after an answer without events.
    pub session_readable: bool,
    /// Counts reported before the first byte.
    pub before: &'a DayCounts,
    /// Listing after the last byte.
    pub after: Option<&'a DayListing>,
}

/// Verdict on the events of several days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaysVerdict {
    /// Comparison of the events with the reported counts.
    pub verdict: Verdict,
    /// Sums of the counts that the service reported before and after the transfer.
    pub reported: (Option<u64>, Option<u64>),
    /// Reasons not to regard the days as complete; empty if there are none.
    pub doubts: Vec<Doubt>,
}

/// Reason not to regard received events as complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The events are not enough.
    Events(Shortfall),
    /// One day may have more events, or is gone.
    Day(Date, EmptyVerdict),
    /// There are no events, and the service does not report the days.
    NoDays,
}

/// Returns one window for each day.
fn windows(start: Date, end: Date, hour: Option<u8>) -> impl Iterator<Item = Window> {
    std::iter::successors(Some(start), |day| day.tomorrow().ok())
        .take_while(move |day| *day <= end)
        .filter_map(move |day| match hour {
            Some(hour) => Window::hour(day, hour),
            None => Some(Window::day(day)),
        })
}

/// Returns the counts of a range of days from a listing, without days that it leaves out.
pub fn day_counts(listing: &DayListing, start: Date, end: Date) -> DayCounts {
    windows(start, end, None)
        .filter_map(|window| Some((window.date(), listing.count(window)?)))
        .collect()
}

/// Evaluates a completely transferred session by the counts reported before and after it.
pub fn evaluate_days(evidence: &DaysEvidence<'_>) -> DaysVerdict {
    let DaysEvidence {
        range,
        hour,
        count,
        end,
        session_readable,
        before,
        after,
    } = *evidence;
    let no_events = count == EventCount::default();
    let Some((first, last)) = range else {
        let (verdict, shortfalls) = evaluate_transfer(count, end, None, None);
        let doubts = if no_events {
            vec![Doubt::NoDays]
        } else {
            shortfalls.into_iter().map(Doubt::Events).collect()
        };
        return DaysVerdict {
            verdict,
            reported: (None, None),
            doubts,
        };
    };
    // A day that the later listing leaves out has its earlier count. Without one, and between listed days, it counts 0.
    let count_before = |date: Date| before.get(&date).copied();
    let count_after = |date: Date| {
        let listed = after.and_then(|listing| listing.count_of_day(date));
        let omitted = || after.is_some_and(|listing| listing.omits(date)).then_some(0);
        latest_count(count_before(date), listed).or_else(omitted)
    };
    let sum = |count: &dyn Fn(Date) -> Option<u64>| {
        let counts = windows(first, last, None).map(|window| count(window.date()));
        // The service reports no counts of hours.
        if hour.is_some() { None } else { counts.sum() }
    };
    let reported = (sum(&count_before), sum(&count_after));
    let days = windows(first, last, hour).map(|window| {
        let evidence = EmptyEvidence {
            window,
            session_readable,
            listing: after,
            other_hours: None,
        };
        (window.date(), evaluate_empty(&evidence))
    });
    if no_events {
        let doubts: Vec<Doubt> = days
            .filter(|(_, empty)| *empty != EmptyVerdict::Proved)
            .map(|(day, empty)| Doubt::Day(day, empty))
            .collect();
        let verdict = if doubts.is_empty() {
            Verdict::Empty
        } else {
            compare_counts(0, reported.0, reported.1)
        };
        return DaysVerdict {
            verdict,
            reported,
            doubts,
        };
    }
    let (mut verdict, mut shortfalls) = evaluate_transfer(count, end, reported.0, reported.1);
    // Days without a count may have any number of events; those with one have at least theirs.
    let known = windows(first, last, None).filter_map(|window| count_after(window.date()));
    let at_least = known.fold(0, u64::saturating_add);
    let mut reported = reported;
    if verdict == Verdict::Unknown && hour.is_none() && count.events < at_least {
        verdict = Verdict::Short;
        shortfalls.push(Shortfall::Short { reported: at_least });
        reported.1 = Some(at_least);
    }
    let mut doubts: Vec<Doubt> = shortfalls.into_iter().map(Doubt::Events).collect();
    // The events may belong to the other days: nothing shows that days which are no longer listed are included.
    if first != last {
        let gone = days.filter(|(_, empty)| matches!(empty, EmptyVerdict::BeforeOldest(_)));
        doubts.extend(gone.map(|(day, empty)| Doubt::Day(day, empty)));
    }
    DaysVerdict {
        verdict,
        reported,
        doubts,
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::pipeline::events::{Uncounted, UncountedReason};
    use crate::tracker::Day;

    type Rows<'a> = &'a [(i8, u64)];

    fn listing(rows: Rows<'_>) -> DayListing {
        let day = |&(day, count): &(i8, u64)| Day {
            date: date(2018, 6, day),
            count: Some(count),
            size: None,
            types: None,
            searchable: None,
        };
        DayListing::new(rows.iter().map(day).collect())
    }

    fn counted(events: u64) -> EventCount {
        EventCount {
            events,
            uncounted: None,
        }
    }

    fn evaluated(
        count: EventCount,
        end: TransferEnd,
        days: (i8, i8),
        before: Rows<'_>,
        after: Option<Rows<'_>>,
    ) -> (Verdict, Vec<Doubt>) {
        let (first, last) = (date(2018, 6, days.0), date(2018, 6, days.1));
        let before = day_counts(&listing(before), first, last);
        let after = after.map(listing);
        let found = evaluate_days(&DaysEvidence {
            range: Some((first, last)),
            hour: None,
            count,
            end,
            session_readable: true,
            before: &before,
            after: after.as_ref(),
        });
        (found.verdict, found.doubts)
    }

    fn short(reported: u64) -> Vec<Doubt> {
        vec![Doubt::Events(Shortfall::Short { reported })]
    }

    #[test]
    fn listed_day_counts_are_summed_over_the_session() {
        let rows: Rows<'_> = &[(1, 10), (2, 5), (4, 7), (9, 1)];
        // Events were added to a day during the transfer.
        let grown: Rows<'_> = &[(1, 10), (2, 8), (4, 7), (9, 1)];
        // A day that the later listing leaves out has its earlier count.
        let left_out: Rows<'_> = &[(1, 10), (4, 7), (9, 1)];
        for (events, days, before, after, expected) in [
            (22, (1, 4), rows, Some(rows), (Verdict::Matched, vec![])),
            (23, (1, 4), rows, Some(rows), (Verdict::Over, vec![])),
            (21, (1, 4), rows, Some(rows), (Verdict::Short, short(22))),
            (23, (1, 4), rows, Some(grown), (Verdict::Short, short(25))),
            (17, (1, 4), rows, Some(left_out), (Verdict::Short, short(22))),
            (6, (2, 2), &[], None, (Verdict::Unknown, vec![])),
            // Days after the newest listed one have no count; the others have theirs.
            (12, (2, 12), rows, Some(rows), (Verdict::Short, short(13))),
            (13, (2, 12), rows, Some(rows), (Verdict::Unknown, vec![])),
            (12, (2, 12), rows, None, (Verdict::Short, short(13))),
        ] {
            let found = evaluated(counted(events), TransferEnd::Length, days, before, after);
            assert_eq!(found, expected, "{events} {days:?} {after:?}");
        }
    }

    #[test]
    fn an_empty_session_needs_proof_from_the_listing() {
        let rows: Rows<'_> = &[(1, 10), (4, 7)];
        let empty = |days, before, after| evaluated(counted(0), TransferEnd::Length, days, before, after);
        assert_eq!(empty((2, 3), rows, Some(rows)), (Verdict::Empty, vec![]));
        assert_eq!(
            empty((3, 4), rows, Some(rows)).1,
            [Doubt::Day(date(2018, 6, 4), EmptyVerdict::Short(7))]
        );
        let (_, unproved) = empty((2, 2), rows, None);
        assert!(
            matches!(unproved[..], [Doubt::Day(_, EmptyVerdict::Unproved(_))]),
            "{unproved:?}"
        );
        let late: Rows<'_> = &[(20, 3)];
        let (_, gone) = empty((1, 9), late, Some(late));
        assert_eq!(gone.len(), 9);
    }

    #[test]
    fn days_before_the_oldest_listed_day_raise_a_doubt() {
        let rows: Rows<'_> = &[(3, 10), (4, 7)];
        let gone = |day| Doubt::Day(date(2018, 6, day), EmptyVerdict::BeforeOldest(date(2018, 6, 3)));
        assert_eq!(
            evaluated(counted(17), TransferEnd::Length, (1, 4), rows, Some(rows)),
            (Verdict::Unknown, vec![gone(1), gone(2)])
        );
    }

    #[test]
    fn a_partial_count_and_an_unconfirmed_end_need_a_report() {
        let partial = |events| EventCount {
            events,
            uncounted: Some(Uncounted {
                reason: UncountedReason::NotAnObject,
                at_byte: 9,
            }),
        };
        let uncounted = |reported| vec![Doubt::Events(Shortfall::Uncounted { reported })];
        let rows: Rows<'_> = &[(2, 5)];
        for (count, end, rows, doubts) in [
            (partial(4), TransferEnd::Length, rows, uncounted(Some(5))),
            (partial(5), TransferEnd::Length, rows, vec![]),
            (partial(5), TransferEnd::Length, &[], vec![]),
            (partial(0), TransferEnd::Length, &[], uncounted(None)),
            (counted(5), TransferEnd::CloseUnconfirmed, rows, vec![]),
            (
                counted(5),
                TransferEnd::CloseUnconfirmed,
                &[],
                vec![Doubt::Events(Shortfall::EndUnconfirmed)],
            ),
        ] {
            assert_eq!(
                evaluated(count, end, (2, 2), rows, Some(rows)).1,
                doubts,
                "{count:?} {end:?} {rows:?}"
            );
        }
    }
}
