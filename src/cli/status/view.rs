//! Table of days, as text and as JSON. No I/O except the clock.

use std::fmt::Write as _;
use std::path::Path;

use comfy_table::CellAlignment;
use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::{Value, json};

use super::super::archived;
use super::super::human;
use super::super::output::{display_path, table};
use super::super::settings::source::SourceConnection;
use crate::archive::calendar::CalendarDay;
use crate::archive::coverage::WindowState;
use crate::archive::layout::ArchiveRoot;
use crate::archive::listing::Journal;
use crate::export::spec::ExportSpec;
use crate::tracker::Day;

/// Row of the table.
pub(super) struct DayRow {
    date: Date,
    day: Option<Day>,
    archived_day: Option<CalendarDay>,
}

/// Archive to compare with; the journal may be unreadable.
pub(super) struct Archive {
    pub(super) name: String,
    pub(super) root: ArchiveRoot,
    pub(super) export: Option<ExportSpec>,
    pub(super) journal: Result<Journal, String>,
}

/// Returns a row for every day of the range, to show days missing on both sides; without an archive, the listed days.
pub(super) fn rows(
    days: Vec<Day>,
    archive: Option<&Archive>,
    (start, end): (Date, Date),
    source: &str,
) -> Vec<DayRow> {
    let Some(archive) = archive else {
        let row = |day: Day| DayRow {
            date: day.date,
            day: Some(day),
            archived_day: None,
        };
        return days.into_iter().map(row).collect();
    };
    let now = Timestamp::now();
    let assessed = archive.journal.as_ref().ok().map(|journal| {
        let coverage = archived::assess(journal, source, (start, end), archive.export.as_ref(), now);
        (journal, coverage)
    });
    let mut days = days.into_iter().peekable();
    let mut rows = Vec::new();
    let mut next = Some(start);
    while let Some(date) = next.filter(|date| *date <= end) {
        rows.push(DayRow {
            date,
            day: days.next_if(|day| day.date == date),
            archived_day: assessed.as_ref().map(|(journal, coverage)| {
                archived::archived_day(journal, coverage, archive.export.as_ref(), date)
            }),
        });
        next = date.tomorrow().ok();
    }
    rows
}

/// Returns the table and the totals below it.
pub(super) fn status_table(
    rows: &[DayRow],
    archive: Option<&Archive>,
    listing_failed: bool,
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
    for DayRow {
        date,
        day,
        archived_day,
    } in rows
    {
        let placeholder = if listing_failed { "?" } else { "-" };
        let number = |field: fn(&Day) -> Option<u64>| {
            let number = day
                .as_ref()
                .map(|day| field(day).map_or("?".to_owned(), |number| number.to_string()));
            number.unwrap_or_else(|| placeholder.to_owned())
        };
        let text_cell = |field: fn(&Day) -> Option<&String>| {
            day.as_ref()
                .and_then(field)
                .cloned()
                .unwrap_or_else(|| placeholder.to_owned())
        };
        let mut cells = vec![
            date.to_string(),
            number(|day| day.count),
            number(|day| day.size),
            text_cell(|day| day.types.as_ref()),
            text_cell(|day| day.searchable.as_ref()),
        ];
        if archive.is_some() {
            let listed = day.as_ref().and_then(|day| day.count);
            cells.push(
                archived_day
                    .as_ref()
                    .map_or("?".to_owned(), |day| archived::cell(day, listed)),
            );
        }
        table.add_row(cells);
    }
    let mut text = table.to_string();
    if let Some(archive) = archive
        && archive.journal.is_ok()
    {
        let complete = rows
            .iter()
            .filter(|row| has_state(row, &WindowState::Covered))
            .count() as u64;
        let archived_days = rows.iter().filter_map(|row| row.archived_day.as_ref());
        let events: u64 = archived_days.fold(0, |sum, day| sum.saturating_add(day.events));
        let _ = write!(
            text,
            "\n{}: {} of {} complete, {}",
            display_path(Path::new(&archive.name)),
            human::count(complete),
            human::plural(rows.len() as u64, "day"),
            human::plural(events, "event")
        );
    }
    text
}

fn has_state(row: &DayRow, state: &WindowState) -> bool {
    row.archived_day
        .as_ref()
        .is_some_and(|archived_day| archived_day.state == *state)
}

/// Returns the JSON document with the rows.
pub(super) fn status_json(
    source: &SourceConnection,
    (start, end): (Date, Date),
    rows: &[DayRow],
    archive: Option<&Archive>,
    warning: Option<&str>,
) -> Value {
    let row = |row: &DayRow| {
        let listed = row.day.as_ref().and_then(|day| day.count);
        json!({
            "date": row.date,
            "listed": if warning.is_some() { None } else { Some(row.day.is_some()) },
            "count": listed,
            "size": row.day.as_ref().and_then(|day| day.size),
            "types": row.day.as_ref().and_then(|day| day.types.clone()),
            "searchable": row.day.as_ref().and_then(|day| day.searchable.clone()),
            "archived": row.archived_day.as_ref().map(|archived_day| archived::to_json(archived_day, listed)),
        })
    };
    let archive = archive.map(|archive| {
        json!({
            "location": archive.name,
            "root": archive.root.as_str(),
            "warning": archive.journal.as_ref().err(),
        })
    });
    json!({
        "space": source.space,
        "scope": source.scope(),
        "source": source.tracker.endpoint(),
        "start": start,
        "end": end,
        "listingWarning": warning,
        "archive": archive,
        "days": rows.iter().map(row).collect::<Vec<_>>(),
    })
}
