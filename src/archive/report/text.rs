//! Text form of a report, and the calendar of a terminal: at most 80 columns, except words that are longer. No I/O.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::month::{DETAILED_MONTHS_MAX, Month, WEEKDAYS, months, name};
use super::{RANGES_MAX, ROWS_MAX, Report, Section, TEXT_MAX_CHARS, describe_day, to_second};
use crate::api::{escape, human, sanitize_to};
use crate::archive::calendar::{Calendar, CalendarDay, DayMark};
use crate::archive::finding::Finding;
use crate::archive::range::format_ranges;

/// Maximum length of a line.
const COLUMNS: usize = 80;

/// Column at which values begin.
const VALUE_COLUMN: usize = 16;

/// Months in one row of a calendar.
const MONTHS_PER_ROW: usize = 3;

/// Width of a month: seven days with two digits and a mark.
const MONTH_COLUMNS: usize = 21;

/// Returns the text of a report. `color`: with ANSI colors.
pub fn render(report: &Report, color: bool) -> String {
    let mut text = String::new();
    let location = escape(&report.given.location);
    for section in &report.sections {
        write_section(&mut text, report, section, color);
    }
    let problems = report.problems.iter().map(finding_line).collect();
    write_list(&mut text, "problems", problems);
    let remarks = report.remarks.iter().map(finding_line).collect();
    write_list(&mut text, "remarks", remarks);
    let _ = writeln!(text, "{location}: {}", report.result());
    text
}

/// Returns a calendar with its legend. Of a long range, each month is one line.
pub fn calendar(calendar: &Calendar, color: bool) -> String {
    let mut text = String::new();
    if calendar.omitted > 0 {
        let _ = writeln!(
            text,
            "({} are not shown)",
            human::plural(calendar.omitted, "earlier day")
        );
    }
    let months = months(&calendar.days);
    if months.len() > DETAILED_MONTHS_MAX {
        let _ = writeln!(text, "{:8}1   5    10   15   20   25   30", "");
        for month in &months {
            write_compact(&mut text, month, color);
        }
    } else {
        for row in months.chunks(MONTHS_PER_ROW) {
            write_months(&mut text, row, color);
        }
    }
    let marks: BTreeSet<DayMark> = calendar.days.iter().map(CalendarDay::mark).collect();
    let legend = marks.into_iter().map(|mark| {
        let symbol = paint(mark.symbol(), mark, color);
        (format!("{symbol} {}", mark.label()), mark.label().len() + 2)
    });
    let mut column = 0;
    for (entry, length) in legend {
        if column > 0 {
            let wraps = column + 3 + length > COLUMNS;
            text.push_str(if wraps { "\n" } else { "   " });
            column = if wraps { 0 } else { column + 3 };
        }
        text.push_str(&entry);
        column += length;
    }
    if column > 0 {
        text.push('\n');
    }
    text
}

fn write_section(text: &mut String, report: &Report, section: &Section, color: bool) {
    let root = &section.verified;
    write_wrapped(text, 0, &section.title());
    text.push('\n');
    text.push_str(&calendar(&root.calendar, color));
    text.push('\n');
    write_entry(
        text,
        "range",
        &format!(
            "{} ({})",
            format_ranges(&root.wanted, RANGES_MAX),
            root.basis.description()
        ),
    );
    write_entry(text, "days", &section.summary());
    let late = section.totals.late_events;
    let late = (late > 0).then(|| format!(", {} of them late", human::count(late)));
    write_entry(
        text,
        "events",
        &format!(
            "{}{}; {}",
            human::count(section.totals.events),
            late.unwrap_or_default(),
            human::bytes(section.totals.bytes)
        ),
    );
    if let Some(newest) = root.newest {
        write_entry(text, "newest record", &to_second(newest).to_string());
    }
    for (label, value) in report.evidence(section) {
        write_entry(text, label, &value);
    }
    if let Some(head) = &root.manifests.head {
        write_entry(
            text,
            "head",
            &format!("(write it down, and pass it with --head next time) {head}"),
        );
    }
    let gaps = section.gaps.iter().map(|gap| {
        let reason = gap.reason.as_ref().map(|reason| format!(": {reason}"));
        format!(
            "{} {}{}",
            gap.days(),
            gap.mark.label(),
            reason.unwrap_or_default()
        )
    });
    write_list(text, "not covered", gaps.collect());
    let differing = section.differing_days();
    write_list(
        text,
        "other counts",
        differing.into_iter().map(describe_day).collect(),
    );
    let _ = writeln!(text, "\nCheck it:");
    for command in report.commands(section) {
        let _ = writeln!(text, "  {}", escape(&command));
    }
    text.push('\n');
}

fn finding_line(finding: &Finding) -> String {
    let mut line = format!("{} {}", finding.kind.as_str(), finding.key);
    for (label, value) in [("expected", &finding.expected), ("found", &finding.found)] {
        if let Some(value) = value {
            let _ = write!(line, "; {label} {value}");
        }
    }
    line
}

/// Writes a heading with at most [`ROWS_MAX`] entries; nothing without entries.
fn write_list(text: &mut String, heading: &str, entries: Vec<String>) {
    if entries.is_empty() {
        return;
    }
    let more = entries.len().saturating_sub(ROWS_MAX);
    write_entry(text, heading, &human::count(entries.len() as u64));
    for entry in entries.into_iter().take(ROWS_MAX) {
        write_entry(text, "", &entry);
    }
    if more > 0 {
        write_entry(
            text,
            "",
            &format!("and {} more: use -o json to list all", human::count(more as u64)),
        );
    }
}

/// Writes a label and a value.
fn write_entry(text: &mut String, label: &str, value: &str) {
    let _ = write!(text, "  {label:width$} ", width = VALUE_COLUMN - 3);
    write_wrapped(text, VALUE_COLUMN, value);
}

/// Writes a text that begins at a column, broken between words.
fn write_wrapped(text: &mut String, begin: usize, value: &str) {
    let mut column = begin;
    for (number, word) in sanitize_to(value, TEXT_MAX_CHARS).split_whitespace().enumerate() {
        let length = word.chars().count();
        let space = usize::from(number > 0);
        if column + space + length > COLUMNS {
            // A digest is wider than the column of values.
            let indent = begin.min(COLUMNS.saturating_sub(length));
            text.truncate(text.trim_end_matches(' ').len());
            let _ = write!(text, "\n{:indent$}", "");
            column = indent;
        } else if space > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text.truncate(text.trim_end_matches(' ').len());
    text.push('\n');
}

fn write_months(text: &mut String, row: &[Month<'_>], color: bool) {
    let mut line = |cells: &mut dyn Iterator<Item = String>| {
        let line = cells.collect::<Vec<_>>().join("   ");
        let _ = writeln!(text, "{}", line.trim_end());
    };
    line(&mut row.iter().map(|month| {
        let title = format!("{} {}", name(month.first), month.first.year());
        format!("{title:MONTH_COLUMNS$}")
    }));
    let weekdays = WEEKDAYS.join(" ") + " ";
    line(&mut row.iter().map(|_| weekdays.clone()));
    let weeks: Vec<_> = row.iter().map(Month::weeks).collect();
    for number in 0..weeks.iter().map(Vec::len).max().unwrap_or_default() {
        line(&mut row.iter().zip(&weeks).map(|(month, weeks)| {
            let dates = weeks.get(number).copied().unwrap_or_default();
            let cells = dates
                .into_iter()
                .map(|date| match date.and_then(|date| month.day(date)) {
                    None => "   ".to_owned(),
                    Some(day) => paint(
                        &format!("{:2}{}", day.date().day(), day.mark().symbol()),
                        day.mark(),
                        color,
                    ),
                });
            cells.collect::<String>()
        }));
    }
    text.push('\n');
}

fn write_compact(text: &mut String, month: &Month<'_>, color: bool) {
    let dates = month.first.series(jiff::Span::new().days(1)).take(31);
    let cells: String = dates
        .take_while(|date| date.month() == month.first.month())
        .map(|date| match month.day(date) {
            None => " ".to_owned(),
            Some(day) => paint(day.mark().symbol(), day.mark(), color),
        })
        .collect();
    let cells = cells.trim_end();
    let _ = writeln!(
        text,
        "{:04}-{:02} {cells}",
        month.first.year(),
        month.first.month()
    );
}

/// Returns a text in the color of a mark.
fn paint(text: &str, mark: DayMark, color: bool) -> String {
    if !color {
        return text.to_owned();
    }
    let code = match mark {
        DayMark::Matched => "32",
        DayMark::Empty => "2;32",
        DayMark::Over | DayMark::Unknown | DayMark::Uncounted => "36",
        DayMark::Accepted | DayMark::Partial => "33",
        DayMark::NotDue => "2",
        DayMark::Short | DayMark::Damaged | DayMark::Expired | DayMark::Missing => "1;31",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}
