//! Summary table of a run: the stored data and the verdict of each window, with a bounded number of rows. No I/O.

use std::mem::{Discriminant, discriminant};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table};

use super::human;
use super::outcome::ExportOutcome;
use super::window_outcome::{StoredFacts, WindowOutcome, WindowRow};
use crate::archive::counts::Verdict;

/// Number of stored windows to show: the first 10 and the last 5.
const FIRST_SHOWN: usize = 10;
const LAST_SHOWN: usize = 5;

/// Number of windows to show that are not stored: the first 3 of a sequence with the same state, 40 in total.
const ALIKE_SHOWN: usize = 3;
const OTHERS_SHOWN: usize = 40;

/// Number of characters of a SHA-256 to show; the receipt has all 64.
const SHA_SHOWN: usize = 12;

/// Appearance of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStyle {
    /// True for ANSI colors.
    pub color: bool,
    /// True to show the beginning of the SHA-256.
    pub wide: bool,
    /// Width of the terminal, which the last column is wrapped to; `None`: no limit.
    pub width: Option<u16>,
}

/// Index of the column with the SHA-256.
const SHA_COLUMN: usize = 5;

/// Returns the table of an outcome.
pub fn render(outcome: &ExportOutcome, style: TableStyle) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "DATE", "EVENTS", "REPORTED", "BYTES", "VERDICT", "SHA-256", "STATE",
    ]);
    if let Some(width) = style.width {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
    }
    for (number, column) in table.column_iter_mut().enumerate().take(SHA_COLUMN + 1) {
        column.set_constraint(if number < SHA_COLUMN || style.wide {
            ColumnConstraint::ContentWidth
        } else {
            ColumnConstraint::Hidden
        });
    }
    for column in 1..=3 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut hidden = HiddenRows::default();
    for (row, shown) in outcome.rows.iter().zip(visible_rows(&outcome.rows)) {
        if shown {
            hidden.flush(&mut table);
            table.add_row(row_cells(row, style.color));
        } else {
            hidden.add(row, &mut table);
        }
    }
    hidden.flush(&mut table);
    table.add_row(totals_row(outcome));
    if style.color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.to_string()
}

/// Totals of adjacent hidden rows with the same state.
#[derive(Default)]
struct HiddenRows {
    rows: u64,
    events: u64,
    bytes: u64,
    label: String,
}

impl HiddenRows {
    fn add(&mut self, row: &WindowRow, table: &mut Table) {
        let label = match &row.state {
            WindowOutcome::StoredNow | WindowOutcome::AlreadyStored => "stored".to_owned(),
            WindowOutcome::NotDue(_) => "not due yet".to_owned(),
            other => state_text(other).0,
        };
        if label != self.label {
            self.flush(table);
            self.label = label;
        }
        self.rows += 1;
        if let Some(facts) = &row.stored {
            self.events = self.events.saturating_add(facts.events);
            self.bytes = self.bytes.saturating_add(facts.bytes);
        }
    }

    fn flush(&mut self, table: &mut Table) {
        let Self {
            rows,
            events,
            bytes,
            label,
        } = std::mem::take(self);
        if rows > 0 {
            let stored = bytes > 0 || label == "stored";
            let number = |text: String| if stored { text } else { "-".to_owned() };
            table.add_row([
                format!("… {} more", human::count(rows)),
                number(human::count(events)),
                String::new(),
                number(human::bytes(bytes)),
                String::new(),
                String::new(),
                label,
            ]);
        }
    }
}

/// Returns true for each row to show: the first and last stored windows, and windows that are not stored.
fn visible_rows(rows: &[WindowRow]) -> Vec<bool> {
    let is_routine = |row: &WindowRow| {
        matches!(row.state, WindowOutcome::StoredNow | WindowOutcome::AlreadyStored) && !is_weak(row)
    };
    let all = rows.iter().filter(|row| is_routine(row)).count();
    let (mut seen, mut others) = (0, 0);
    let mut alike: Option<(Discriminant<WindowOutcome>, usize)> = None;
    rows.iter()
        .map(|row| {
            if is_routine(row) {
                alike = None;
                seen += 1;
                // The line that replaces a single hidden row would take as much space.
                return all <= FIRST_SHOWN + LAST_SHOWN + 1 || seen <= FIRST_SHOWN || seen > all - LAST_SHOWN;
            }
            let state = discriminant(&row.state);
            let so_far = alike
                .filter(|(last, _)| *last == state)
                .map_or(0, |(_, number)| number);
            alike = Some((state, so_far + 1));
            let shown = so_far < ALIKE_SHOWN && others < OTHERS_SHOWN;
            others += usize::from(shown);
            shown
        })
        .collect()
}

/// True if the window is stored with a count other than the service reported, or was counted only in part.
fn is_weak(row: &WindowRow) -> bool {
    row.stored
        .as_ref()
        .is_some_and(|facts| matches!(facts.verdict, Verdict::Over | Verdict::Short | Verdict::Uncounted))
}

fn row_cells(row: &WindowRow, color: bool) -> Vec<Cell> {
    let dash = || "-".to_owned();
    let stored = row.stored.as_ref();
    let cell = |text: &dyn Fn(&StoredFacts) -> String| stored.map_or_else(dash, text);
    let (state, tint) = state_text(&row.state);
    let state = Cell::new_owned(state);
    vec![
        Cell::new(row.window),
        Cell::new_owned(cell(&|facts| human::count(facts.events))),
        Cell::new_owned(cell(&|facts| facts.reported.map_or_else(dash, human::count))),
        Cell::new_owned(cell(&|facts| human::bytes(facts.bytes))),
        Cell::new_owned(cell(&|facts| format!("{:?}", facts.verdict))),
        Cell::new_owned(cell(&digest)),
        if color { state.fg(tint) } else { state },
    ]
}

fn digest(facts: &StoredFacts) -> String {
    match &facts.sha256 {
        Some(digest) => digest.to_string().chars().take(SHA_SHOWN).collect(),
        None if facts.receipts > 1 => format!("{} by hour", facts.receipts),
        None => "-".to_owned(),
    }
}

/// Returns the text of a state, and its color: green for success, gray if expected, yellow if pending, red for failure.
fn state_text(state: &WindowOutcome) -> (String, Color) {
    match state {
        WindowOutcome::StoredNow => ("stored now".to_owned(), Color::Green),
        WindowOutcome::AlreadyStored => ("already stored".to_owned(), Color::Green),
        WindowOutcome::Accepted => ("accepted gap".to_owned(), Color::DarkGrey),
        WindowOutcome::NotDue(due) => (format!("not due before {due}"), Color::DarkGrey),
        WindowOutcome::Damaged(damage) => (format!("{}: {damage}", damage.as_str()), Color::Red),
        WindowOutcome::Expired => ("EXPIRED at the service".to_owned(), Color::Red),
        WindowOutcome::Waiting(reason) => (format!("waiting: {reason}"), Color::Yellow),
        WindowOutcome::Failed(reason) => (format!("FAILED: {reason}"), Color::Red),
        WindowOutcome::NotTried => ("not stored".to_owned(), Color::Yellow),
    }
}

fn totals_row(outcome: &ExportOutcome) -> Vec<String> {
    let totals = &outcome.totals;
    let all_reported = outcome
        .rows
        .iter()
        .filter_map(|row| row.stored.as_ref())
        .map(|facts| facts.reported);
    let reported = all_reported.sum::<Option<u64>>();
    vec![
        format!(
            "{} of {}",
            human::count(totals.stored()),
            human::count(totals.wanted)
        ),
        human::count(totals.events),
        reported.map_or_else(|| "-".to_owned(), human::count),
        human::bytes(totals.bytes),
        String::new(),
        String::new(),
        format!("{} stored now", human::count(totals.stored_now)),
    ]
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::civil::date;

    use super::*;
    use crate::api::Reason;
    use crate::archive::window::Window;
    use crate::cli::outcome::{self, tests as given};
    use crate::export::failure::{Problem, RetryClass};

    fn later() -> Timestamp {
        "2019-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_short_range_shows_every_window() {
        let day = |day| Window::day(date(2018, 6, day));
        let mut snapshot = given::snapshot(vec![
            (day(1), given::facts(1224, true)),
            (day(2), given::facts(0, false)),
        ]);
        snapshot.problems.push(Problem {
            reason: Reason::Short,
            message: "m".to_owned(),
            window: Some(day(3)),
            class: RetryClass::Manual,
            next_try: None,
            retry_at: None,
        });
        let outcome = outcome::evaluate(&given::export(3), &snapshot, later());
        let wide = TableStyle {
            wide: true,
            ..TableStyle::default()
        };
        let text = render(&outcome, wide);
        for expected in [
            "│ 2018-06-01 ┆  1,224 ┆    1,224 ┆ 12.0 KiB ┆ Matched ┆ abababababab ┆ stored now",
            "│ 2018-06-02 ┆      0 ┆        0 ┆      0 B ┆ Empty   ┆ -            ┆ already stored",
            "FAILED: Short",
            "2 of 3",
        ] {
            let expected = expected.replace("12.0 KiB", &human::bytes(12_240));
            assert!(text.contains(&expected), "{expected} is not in:\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn hours_with_long_states_fit_80_columns() {
        let mut facts = given::facts(123_456_789, true);
        facts.bytes = 1023 << 30;
        let mut export = given::export(2);
        export.hour = Some(7);
        let hour = |day| Window::hour(date(2018, 6, day), 7).unwrap();
        let mut snapshot = given::snapshot(vec![(hour(1), facts)]);
        snapshot.problems.push(Problem {
            reason: Reason::ConditionalWritesUnsupported,
            message: "m".to_owned(),
            window: Some(hour(2)),
            class: RetryClass::Manual,
            next_try: None,
            retry_at: None,
        });
        let outcome = outcome::evaluate(&export, &snapshot, later());
        let style = TableStyle {
            width: Some(80),
            ..TableStyle::default()
        };
        let text = render(&outcome, style);
        let widths = text.lines().map(console::measure_text_width);
        assert!(widths.max().unwrap() <= 80, "{text}");
        assert!(
            text.contains("2018-06-01T07 ┆ 123,456,789 ┆") && !text.contains("SHA-256"),
            "{text}"
        );
    }

    #[test]
    fn a_long_range_is_bounded_and_sums_the_hidden_rows() {
        let mut windows = Vec::new();
        let mut next = date(2018, 1, 1);
        for number in 0..200 {
            if number != 100 {
                windows.push((Window::day(next), given::facts(10, true)));
            }
            next = next.tomorrow().unwrap();
        }
        let mut export = given::export(1);
        export.start = date(2018, 1, 1);
        export.end = Some(next.yesterday().unwrap());
        let outcome = outcome::evaluate(&export, &given::snapshot(windows), later());
        let text = render(&outcome, TableStyle::default());
        assert!(text.lines().count() < 30, "{text}");
        for expected in [
            "2018-01-10",
            "… 90 more",
            "2018-04-11",
            "not stored",
            "… 94 more",
            "199 of 200",
            "1,990",
        ] {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
        assert!(!text.contains("2018-01-11"), "{text}");
    }
}
