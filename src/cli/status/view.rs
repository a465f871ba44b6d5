//! The table of days as people and programs read it. No I/O but the clock.

use std::fmt::Write as _;
use std::path::Path;

use comfy_table::CellAlignment;
use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::{Value, json};

use super::super::archived::{self, Held};
use super::super::output::{at_home, table};
use super::super::size;
use super::super::source::Source;
use crate::export::journal::Journal;
use crate::export::keys::Root;
use crate::tracker::Day;

/// A row of the table.
pub(super) struct Row {
    date: Date,
    day: Option<Day>,
    held: Option<Held>,
}

/// The archive as far as it could be read.
pub(super) struct Archive {
    pub(super) name: String,
    pub(super) root: Root,
    pub(super) journal: Result<Journal, String>,
}

/// With an archive every day of the range, so that what is missing on both sides is seen; without, what is listed.
pub(super) fn rows(
    days: Vec<Day>,
    archive: Option<&Archive>,
    (start, end): (Date, Date),
    source: &str,
) -> Vec<Row> {
    let Some(archive) = archive else {
        let row = |day: Day| Row {
            date: day.date,
            day: Some(day),
            held: None,
        };
        return days.into_iter().map(row).collect();
    };
    let now = Timestamp::now();
    let journal = archive.journal.as_ref().ok();
    let mut days = days.into_iter().peekable();
    let mut rows = Vec::new();
    let mut next = Some(start);
    while let Some(date) = next.filter(|date| *date <= end) {
        rows.push(Row {
            date,
            day: days.next_if(|day| day.date == date),
            held: journal.map(|journal| archived::of_day(journal, source, date, now)),
        });
        next = date.tomorrow().ok();
    }
    rows
}

/// The table, and the sum below it.
pub(super) fn text(
    rows: &[Row],
    archive: Option<&Archive>,
    unlisted: bool,
    (start, end): (Date, Date),
) -> String {
    if rows.is_empty() {
        return format!("The service lists no events from {start} to {end}.");
    }
    let mut header = vec!["DATE", "COUNT", "SIZE", "TYPES", "SEARCHABLE"];
    header.extend(archive.map(|_| "ARCHIVED"));
    let mut table = table(&header);
    for column in 1..=2 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for Row { date, day, held } in rows {
        let nothing = if unlisted { "?" } else { "-" };
        let number = |of: fn(&Day) -> Option<u64>| {
            let number = day
                .as_ref()
                .map(|day| of(day).map_or("?".to_owned(), |number| number.to_string()));
            number.unwrap_or_else(|| nothing.to_owned())
        };
        let words = |of: fn(&Day) -> Option<&String>| {
            day.as_ref()
                .and_then(of)
                .cloned()
                .unwrap_or_else(|| nothing.to_owned())
        };
        let mut cells = vec![
            date.to_string(),
            number(|day| day.count),
            number(|day| day.size),
            words(|day| day.types.as_ref()),
            words(|day| day.searchable.as_ref()),
        ];
        if archive.is_some() {
            let listed = day.as_ref().and_then(|day| day.count);
            cells.push(held.as_ref().map_or("?".to_owned(), |held| held.text(listed)));
        }
        table.add_row(cells);
    }
    let mut text = table.to_string();
    if let Some(archive) = archive
        && archive.journal.is_ok()
    {
        let whole = rows.iter().filter(|row| is(row, &archived::State::Whole)).count() as u64;
        let held = rows.iter().filter_map(|row| row.held.as_ref());
        let events: u64 = held.fold(0, |sum, held| sum.saturating_add(held.events));
        let _ = write!(
            text,
            "\n{}: {} of {} whole, {}",
            at_home(Path::new(&archive.name)),
            size::count(whole),
            size::of(rows.len() as u64, "day"),
            size::of(events, "event")
        );
    }
    text
}

fn is(row: &Row, state: &archived::State) -> bool {
    row.held.as_ref().is_some_and(|held| held.state == *state)
}

/// The same for programs.
pub(super) fn document(
    source: &Source,
    (start, end): (Date, Date),
    rows: &[Row],
    archive: Option<&Archive>,
    doubt: Option<&str>,
) -> Value {
    let row = |row: &Row| {
        let listed = row.day.as_ref().and_then(|day| day.count);
        json!({
            "date": row.date,
            "listed": if doubt.is_some() { None } else { Some(row.day.is_some()) },
            "count": listed,
            "size": row.day.as_ref().and_then(|day| day.size),
            "types": row.day.as_ref().and_then(|day| day.types.clone()),
            "searchable": row.day.as_ref().and_then(|day| day.searchable.clone()),
            "archived": row.held.as_ref().map(|held| held.object(listed)),
        })
    };
    let archive = archive.map(|archive| {
        json!({
            "location": archive.name,
            "root": archive.root.as_str(),
            "doubt": archive.journal.as_ref().err(),
        })
    });
    json!({
        "space": source.space,
        "scope": source.scope(),
        "source": source.tracker.endpoint(),
        "start": start,
        "end": end,
        "listingDoubt": doubt,
        "archive": archive,
        "days": rows.iter().map(row).collect::<Vec<_>>(),
    })
}
