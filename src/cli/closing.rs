//! The last words of a run: what was stored and proved, what is missing and what to do. No I/O.

use std::fmt::Write as _;

use super::outcome::Outcome;
use super::size;
use super::totals::Totals;
use crate::export::failure::Trouble;

/// Ranges, sessions and troubles that are named; the rest are counted.
const NAMED: usize = 8;

/// What a simulated service saw, for the last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCount {
    /// Sessions that were opened.
    pub opened: u64,
    /// Sessions that were deleted.
    pub deleted: u64,
    /// Sessions that are open.
    pub open: u64,
}

/// What was stored and proved, in one sentence or two.
pub fn sentence(totals: &Totals, by_hour: bool) -> String {
    let window = if by_hour { "hour" } else { "day" };
    let stored = totals.stored();
    if stored == 0 {
        return format!("Nothing is stored of {}.", size::of(totals.wanted, window));
    }
    let mut text = format!(
        "{} of {} stored and proved: {}, {}",
        size::count(stored),
        size::of(totals.wanted, window),
        size::of(totals.events, "event"),
        size::bytes(totals.bytes)
    );
    if totals.already_there > 0 {
        let _ = write!(
            text,
            " ({} stored now, {} found)",
            totals.stored_now, totals.already_there
        );
    }
    text.push_str(". Each has a receipt");
    let with_object = stored - totals.empty;
    if with_object > 0 {
        text.push_str(" and a whole gzip as the service sent it");
        let counted = with_object - totals.uncounted.min(with_object);
        if counted == with_object {
            text.push_str(", with no fewer events than the service reports");
        } else if counted > 0 {
            let _ = write!(
                text,
                ", with no fewer events than the service reports; for {} it reports no count",
                size::of(totals.uncounted, window)
            );
        } else {
            text.push_str("; the service reports no counts to compare with");
        }
    }
    text.push('.');
    for (number, words) in [
        (totals.empty, "proved to have no events"),
        (
            totals.over,
            "with more events than the service reports: its listing lags, or the day grew",
        ),
        (totals.accepted, "accepted as a gap"),
        (totals.not_due, "not due yet"),
    ] {
        if number > 0 {
            let _ = write!(text, " {}: {words}.", size::of(number, window));
        }
    }
    text
}

/// What is left, and what to do about it; nothing where nothing is.
pub fn left(outcome: &Outcome, stopped: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if !outcome.observed {
        lines.push("The destination was not seen, so nothing is known of what is stored there.".to_owned());
    } else if outcome.totals.missing > 0 {
        lines.push(format!("Missing: {}.", outcome.missing(NAMED).join(", ")));
    }
    if outcome.totals.expired > 0 {
        lines.push(format!(
            "{} of them no longer exist at the service: a gap that only spec.acceptedGaps can close.",
            size::count(outcome.totals.expired)
        ));
    }
    lines.extend(outcome.troubles.iter().take(NAMED).map(trouble));
    let more = outcome.troubles.len().saturating_sub(NAMED);
    if more > 0 {
        lines.push(format!("… and {more} more of the kind."));
    }
    if outcome.sealing {
        lines.push("A manifest is due that is not written: what is stored has its receipts, but nothing states it as a whole.".to_owned());
    }
    if !outcome.sessions.is_empty() {
        lines.push(open_sessions(&outcome.sessions));
    }
    if stopped && (outcome.totals.missing > 0 || !outcome.observed) {
        lines.push("Stopped. Run the same command again: it goes on where it left off.".to_owned());
    } else if outcome.totals.missing > 0 && outcome.totals.missing > outcome.totals.expired {
        lines.push(
            "Run the same command again when the cause is gone: it goes on where it left off.".to_owned(),
        );
    }
    if let (Some(next), 0) = (outcome.next_look, outcome.totals.missing) {
        lines.push(format!(
            "The next window is due {next}: run the same command again then."
        ));
    }
    lines
}

/// Sessions that are, or may be, left open.
pub fn open_sessions(ids: &[String]) -> String {
    let named = ids
        .iter()
        .take(NAMED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let more = ids.len().saturating_sub(NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("Sessions that may still be open: {named}{more}. The next run deletes them.")
}

fn trouble(trouble: &Trouble) -> String {
    let place = trouble
        .window
        .map(|window| format!("{window}: "))
        .unwrap_or_default();
    let remedy = of_a_run(trouble.reason.remedy());
    format!(
        "{place}{}: {} What to do: {remedy}",
        trouble.reason,
        ended(&trouble.message)
    )
}

/// What a person does, without the promise that it goes on by itself: a run has ended.
fn of_a_run(remedy: &str) -> String {
    let clauses = remedy.trim_end_matches('.').split("; ");
    let kept: Vec<&str> = clauses.filter(|clause| !clause.contains("by itself")).collect();
    if kept.is_empty() {
        remedy.to_owned()
    } else {
        format!("{}.", kept.join("; "))
    }
}

fn ended(message: &str) -> String {
    let message = message.trim_end();
    if message.ends_with(['.', '!', '?']) {
        message.to_owned()
    } else {
        format!("{message}.")
    }
}

/// What the simulated service saw.
pub fn sessions(count: &SessionCount) -> String {
    let SessionCount {
        opened,
        deleted,
        open,
    } = count;
    format!(
        "The simulated service saw {} opened, {deleted} deleted, {open} open now.",
        size::of(*opened, "session")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Reason;
    use crate::cli::outcome::{self, tests as given};
    use crate::export::failure::Remedy;
    use crate::export::snapshot::{SessionFacts, Snapshot};
    use crate::export::window::Window;
    use jiff::civil::date;

    #[test]
    fn the_sentence_claims_no_more_than_was_proved() {
        let totals = Totals {
            wanted: 30,
            stored_now: 30,
            empty: 8,
            events: 5280,
            bytes: 2048,
            ..Totals::default()
        };
        assert_eq!(
            sentence(&totals, false),
            "30 of 30 days stored and proved: 5,280 events, 2.0 KiB. Each has a receipt and a whole gzip as the service \
             sent it, with no fewer events than the service reports. 8 days: proved to have no events."
        );
        let uncounted = Totals {
            uncounted: 22,
            ..totals
        };
        assert!(sentence(&uncounted, false).contains("no counts to compare with"));
        let nothing = Totals {
            wanted: 1,
            missing: 1,
            ..Totals::default()
        };
        assert_eq!(sentence(&nothing, false), "Nothing is stored of 1 day.");
    }

    #[test]
    fn what_is_left_names_days_sessions_and_the_way_on() {
        let snapshot = Snapshot {
            sessions: vec![SessionFacts {
                id: "b08cb740".to_owned(),
                window: Window::day(date(2018, 6, 2)),
            }],
            troubles: vec![Trouble {
                reason: Reason::RoleMissing,
                message: "xxx@ibm.com lacks the developer role".to_owned(),
                window: None,
                remedy: Remedy::Person,
                again: None,
            }],
            ..given::snapshot(vec![(Window::day(date(2018, 6, 1)), given::facts(3, true))])
        };
        let outcome = outcome::of(
            &given::export(5),
            &snapshot,
            "2019-01-01T00:00:00Z".parse().unwrap(),
        );
        let text = left(&outcome, true).join("\n");
        for words in [
            "Missing: 2018-06-02/2018-06-05.",
            "RoleMissing: xxx@ibm.com",
            "b08cb740",
            "Stopped.",
        ] {
            assert!(text.contains(words), "{words} is not in:\n{text}");
        }
        let done = outcome::of(
            &given::export(1),
            &given::snapshot(vec![(Window::day(date(2018, 6, 1)), given::facts(3, true))]),
            "2019-01-01T00:00:00Z".parse().unwrap(),
        );
        assert_eq!(left(&done, false), Vec::<String>::new());
    }
}
