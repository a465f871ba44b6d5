//! Summary of a run in text: what is stored and proved, what is missing, and the remedies. No I/O.

use std::fmt::Write as _;

use super::exit::Exit;
use super::human;
use super::outcome::ExportOutcome;
use crate::archive::manifest::Head;
use crate::archive::window::{HourSet, Window};
use crate::export::failure::Problem;

/// Largest number of ranges, sessions and problems that are named; the rest are counted.
const NAMED_MAX: usize = 8;

/// Sessions of the simulated service, for the last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCount {
    /// Sessions that were opened.
    pub opened: u64,
    /// Sessions that were deleted.
    pub deleted: u64,
    /// Sessions that are open.
    pub open: u64,
}

/// States what is stored, and whether all of it is proved.
pub fn stored_text(outcome: &ExportOutcome, by_hour: bool) -> String {
    let totals = &outcome.totals;
    let proved = if outcome.exit() == Exit::Done {
        "stored and proved"
    } else {
        "stored"
    };
    let window = if by_hour { "hour" } else { "day" };
    let stored = totals.stored();
    if stored == 0 {
        return format!("Nothing is stored of {}.", human::plural(totals.wanted, window));
    }
    let mut text = format!(
        "{} of {} {proved}: {}, {}",
        human::count(stored),
        human::plural(totals.wanted, window),
        human::plural(totals.events, "event"),
        human::bytes(totals.bytes)
    );
    if totals.already_stored > 0 {
        let _ = write!(
            text,
            " ({} stored now, {} found)",
            totals.stored_now, totals.already_stored
        );
    }
    text.push_str(". Each has a receipt");
    let with_object = stored - totals.empty;
    if with_object > 0 {
        text.push_str(" and the complete gzip as the service sent it");
        let when = if outcome.grown.is_empty() {
            "reports"
        } else {
            "reported when it was stored"
        };
        let counted = with_object - totals.uncounted.min(with_object);
        if counted == with_object {
            let _ = write!(text, ", with no fewer events than the service {when}");
        } else if counted > 0 {
            let _ = write!(
                text,
                ", with no fewer events than the service {when}; for {} it reports no count",
                human::plural(totals.uncounted, window)
            );
        } else {
            text.push_str("; the service reports no counts to compare with");
        }
    }
    text.push('.');
    if totals.late_events > 0 {
        let _ = write!(
            text,
            " {} came late and are stored beside their day.",
            human::plural(totals.late_events, "event")
        );
    }
    for (number, words) in [
        (totals.empty, "proved empty"),
        (
            totals.over,
            "with more events than the service reports (its listing lags, or the day grew)",
        ),
        (totals.accepted, "accepted gaps"),
        (totals.not_due, "not due yet"),
    ] {
        if number > 0 {
            let _ = write!(text, " {}: {words}.", human::plural(number, window));
        }
    }
    text
}

/// Names the newest manifest of an archive, to be remembered outside of it.
pub fn head(head: &Head) -> String {
    let signed = if head.key_id.is_some() { ", signed" } else { "" };
    format!("Newest manifest{signed}: {head}")
}

/// States how to verify the archive, and that its chain still has the newest manifest.
pub fn verify(command: &str, head: &Head) -> String {
    format!("Verify it:\n  {command} \\\n    --head {head}")
}

/// Lines about what is left, with remedies; empty if nothing is.
pub fn remaining_work(outcome: &ExportOutcome, stopped: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if !outcome.observed {
        lines.push("The destination could not be listed: it is unknown what is stored there.".to_owned());
    } else if outcome.totals.missing > 0 {
        lines.push(format!("Missing: {}.", outcome.missing(NAMED_MAX).join(", ")));
    }
    if outcome.totals.expired > 0 {
        lines.push(format!(
            "{} of them have expired at the service: accept the gap in spec.acceptedGaps.",
            human::count(outcome.totals.expired)
        ));
    }
    lines.extend(outcome.grown.iter().take(NAMED_MAX).map(|(date, growth)| {
        format!(
            "{date} has grown: {} stored, and the service now reports {}.",
            human::plural(growth.stored, "event"),
            human::count(growth.reported)
        )
    }));
    lines.extend(outcome.problems.iter().take(NAMED_MAX).map(problem));
    let more = outcome.problems.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        lines.push(format!("… and {more} more problems."));
    }
    if outcome.manifest_due {
        lines.push("A manifest is due and not written: the stored windows have receipts, but no manifest states them.".to_owned());
    }
    if !outcome.open_attempts.is_empty() {
        lines.push(open_attempts(&outcome.open_attempts));
    }
    if !outcome.sessions.is_empty() {
        lines.push(open_sessions(&outcome.sessions));
    }
    if let Some(at) = outcome.rerun_at {
        lines.push(format!("Run the same command again after {}.", human::time(at)));
    } else if stopped && (outcome.totals.missing > 0 || !outcome.observed) {
        lines.push("Stopped. Run the same command again to resume.".to_owned());
    } else if outcome.totals.missing > 0 && outcome.totals.missing > outcome.totals.expired {
        lines.push("Run the same command again to resume when the cause is gone.".to_owned());
    } else if outcome.totals.missing == 0 && outcome.exit() == Exit::Failed {
        lines.push("Run the same command again to finish.".to_owned());
    }
    if let (Some(next), 0) = (outcome.next_run_at, outcome.totals.missing) {
        lines.push(format!(
            "The next window is due {next}: run the same command again then."
        ));
    }
    lines
}

/// Names the sessions that are, or may be, open.
pub fn open_sessions(ids: &[String]) -> String {
    let named = ids
        .iter()
        .take(NAMED_MAX)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let more = ids.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!(
        "Sessions that may still be open: {named}{more}. The next run deletes those that are provably of this export."
    )
}

/// States which attempts may have a session open.
fn open_attempts(windows: &[Window]) -> String {
    let ranges = windows.iter().copied().collect::<HourSet>().ranges(NAMED_MAX);
    format!(
        "{} not closed ({}): each may have left a session open.",
        human::plural(windows.len() as u64, "attempt"),
        ranges.join(", ")
    )
}

fn problem(problem: &Problem) -> String {
    let place = problem
        .window
        .map(|window| format!("{window}: "))
        .unwrap_or_default();
    format!(
        "{place}{}: {}\n  Remedy: {}",
        problem.reason,
        problem.message,
        problem.reason.remedy()
    )
}

/// Counts the sessions of the simulated service.
pub fn session_counts(count: &SessionCount) -> String {
    let SessionCount {
        opened,
        deleted,
        open,
    } = count;
    format!(
        "Simulated service: {} opened, {deleted} deleted, {open} open.",
        human::plural(*opened, "session")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Reason;
    use crate::cli::outcome::{self, tests as given};
    use crate::cli::totals::ExportTotals;
    use crate::export::failure::RetryClass;
    use crate::export::snapshot::{SessionFacts, Snapshot};
    use jiff::Timestamp;
    use jiff::civil::date;

    /// Outcome of a finished run with these totals.
    fn finished(totals: ExportTotals) -> ExportOutcome {
        ExportOutcome {
            totals,
            ..outcome::evaluate(
                &given::export(1),
                &given::snapshot(Vec::new()),
                Timestamp::UNIX_EPOCH,
            )
        }
    }

    #[test]
    fn the_text_claims_no_more_than_was_proved() {
        let totals = ExportTotals {
            wanted: 30,
            stored_now: 30,
            empty: 8,
            events: 5280,
            bytes: 2048,
            ..ExportTotals::default()
        };
        assert_eq!(
            stored_text(&finished(totals), false),
            "30 of 30 days stored and proved: 5,280 events, 2.0 KiB. Each has a receipt and the complete gzip as the service \
             sent it, with no fewer events than the service reports. 8 days: proved empty."
        );
        let unfinished = ExportOutcome {
            finished: false,
            ..finished(totals)
        };
        assert!(stored_text(&unfinished, false).starts_with("30 of 30 days stored: 5,280 events"));
        let uncounted = ExportTotals {
            uncounted: 22,
            ..totals
        };
        assert!(stored_text(&finished(uncounted), false).contains("no counts to compare with"));
        let nothing_stored = ExportTotals {
            wanted: 1,
            missing: 1,
            ..ExportTotals::default()
        };
        assert_eq!(
            stored_text(&finished(nothing_stored), false),
            "Nothing is stored of 1 day."
        );
    }

    #[test]
    fn remaining_work_names_days_sessions_and_the_next_step() {
        let snapshot = Snapshot {
            sessions: vec![SessionFacts {
                id: "b08cb740".to_owned(),
                window: Window::day(date(2018, 6, 2)),
            }],
            problems: vec![Problem {
                reason: Reason::RoleMissing,
                message: "xxx@ibm.com lacks the developer role".to_owned(),
                window: None,
                class: RetryClass::Manual,
                next_try: None,
                retry_at: None,
            }],
            ..given::snapshot(vec![(Window::day(date(2018, 6, 1)), given::facts(3, true))])
        };
        let outcome = outcome::evaluate(
            &given::export(5),
            &snapshot,
            "2019-01-01T00:00:00Z".parse().unwrap(),
        );
        let text = remaining_work(&outcome, true).join("\n");
        for words in [
            "Missing: 2018-06-02/2018-06-05.",
            "RoleMissing: xxx@ibm.com",
            "b08cb740",
            "Stopped.",
        ] {
            assert!(text.contains(words), "{words} is not in:\n{text}");
        }
        let done = outcome::evaluate(
            &given::export(1),
            &given::snapshot(vec![(Window::day(date(2018, 6, 1)), given::facts(3, true))]),
            "2019-01-01T00:00:00Z".parse().unwrap(),
        );
        assert_eq!(remaining_work(&done, false), Vec::<String>::new());
    }
}
