//! HTML form of a report: one file without scripts and without references, for a browser, a mail or paper. No I/O.

use std::collections::BTreeSet;
use std::fmt::Display;

use jiff::civil::Date;

use super::month::{DETAILED_MONTHS_MAX, Month, WEEKDAYS, column, months, name};
use super::{RANGES_MAX, ROWS_MAX, Report, Section, TEXT_MAX_CHARS, describe_day, to_second};
use crate::api::{escape, human, sanitize_to};
use crate::archive::calendar::{Calendar, CalendarDay, DayMark};
use crate::archive::finding::Finding;
use crate::archive::range::format_ranges;

/// Style of the page.
const STYLE: &str = include_str!("report.css");

/// Weeks in a row of a year.
const WEEKS_OF_YEAR: usize = 54;

/// Page in progress. Markup is fixed text; everything else is escaped.
#[derive(Default)]
struct Page(String);

impl Page {
    /// Adds markup.
    fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds text, bounded and escaped.
    fn text(&mut self, text: impl Display) -> &mut Self {
        let text = text.to_string();
        self.0.push_str(&escape_html(&sanitize_to(&text, TEXT_MAX_CHARS)));
        self
    }

    /// Adds a table row of a heading and a text.
    fn row(&mut self, label: &str, value: impl Display) {
        self.raw("<tr><th scope=row>")
            .text(label)
            .raw("<td>")
            .text(value)
            .raw("\n");
    }
}

/// Escapes a text for the content or a quoted attribute of an element. Characters that are not printable, such as those
/// that change the direction of writing, are shown as `\u{202e}`.
pub fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in escape(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Returns the page of some reports.
pub fn render(reports: &[Report]) -> String {
    let mut page = Page::default();
    page.raw(
        "<!DOCTYPE html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=viewport content=\"width=device-width\">\n<meta name=color-scheme content=\"light dark\">\n\
         <title>Audit archive",
    );
    if let [report] = reports {
        page.raw(" ").text(&report.given.location);
    }
    page.raw("</title>\n<style>\n")
        .raw(STYLE)
        .raw("</style>\n</head>\n<body>\n");
    for report in reports {
        write_report(&mut page, report);
    }
    page.raw("</body>\n</html>\n");
    page.0
}

fn write_report(page: &mut Page, report: &Report) {
    page.raw("<h1>Audit archive ")
        .text(&report.given.location)
        .raw("</h1>\n<p class=");
    page.raw(if report.passed { "good" } else { "bad" })
        .raw("><strong>")
        .text(report.result())
        .raw("</strong>");
    if let Some(export) = &report.given.export {
        page.raw(" · EventExport ").text(export);
    }
    page.raw("\n");
    for section in &report.sections {
        write_section(page, report, section);
    }
    write_findings(page, "Problems", &report.problems);
    write_findings(page, "Remarks", &report.remarks);
}

fn write_section(page: &mut Page, report: &Report, section: &Section) {
    let root = &section.verified;
    page.raw("<section>\n<h2>")
        .text(section.title())
        .raw("</h2>\n<p>");
    page.text(format_ranges(&root.wanted, RANGES_MAX))
        .raw("<br>\n")
        .text(section.summary())
        .raw("\n");
    write_calendar(page, &root.calendar);
    write_gaps(page, section);
    write_differing(page, section);
    page.raw("<h3>Archive</h3>\n<table class=facts>\n");
    page.row(
        "range",
        format!(
            "{} ({})",
            format_ranges(&root.wanted, RANGES_MAX),
            root.basis.description()
        ),
    );
    page.row(
        "source",
        root.sources
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", "),
    );
    page.row(
        "events",
        format!(
            "{}, {} of them late; {}",
            human::count(section.totals.events),
            human::count(section.totals.late_events),
            human::bytes(section.totals.bytes)
        ),
    );
    if let Some(newest) = root.newest {
        page.row("newest record", to_second(newest));
    }
    if let Some(head) = &root.manifests.head {
        page.row(
            "head",
            format!("{head} (write it down: it shows later whether manifests were removed)"),
        );
    }
    page.raw("</table>\n<h3>What was checked</h3>\n<table class=facts>\n");
    for (label, value) in report.evidence(section) {
        page.row(label, value);
    }
    page.raw("</table>\n<p>Check it with the same software, or in a copy of the archive with <code>audit.sh</code> and standard tools:\n<pre>");
    for command in report.commands(section) {
        page.text(command).raw("\n");
    }
    page.raw("</pre>\n");
    write_manifests(page, section);
    page.raw("</section>\n");
}

fn write_calendar(page: &mut Page, calendar: &Calendar) {
    if calendar.omitted > 0 {
        page.raw("<p>")
            .text(human::plural(calendar.omitted, "earlier day"))
            .raw(" not shown\n");
    }
    let months = months(&calendar.days);
    if months.len() > DETAILED_MONTHS_MAX {
        page.raw("<div class=years>\n");
        let same_year = |one: &CalendarDay, other: &CalendarDay| one.date().year() == other.date().year();
        for days in calendar.days.chunk_by(same_year) {
            write_year(page, days);
        }
    } else {
        page.raw("<div class=months>\n");
        for month in &months {
            write_month(page, month);
        }
    }
    page.raw("</div>\n<ul class=legend>\n");
    let marks: BTreeSet<DayMark> = calendar.days.iter().map(CalendarDay::mark).collect();
    for mark in marks {
        page.raw("<li><b class=")
            .raw(mark.as_str())
            .raw(">")
            .raw(mark.symbol())
            .raw("</b> ")
            .text(mark.label())
            .raw("\n");
    }
    page.raw("</ul>\n");
}

fn write_month(page: &mut Page, month: &Month<'_>) {
    page.raw("<table><caption>")
        .text(name(month.first))
        .raw(" ")
        .text(month.first.year())
        .raw("</caption>\n<tr>");
    for day in WEEKDAYS {
        page.raw("<th scope=col>").raw(day);
    }
    page.raw("\n");
    for week in month.weeks() {
        page.raw("<tr>");
        for date in week {
            match date.and_then(|date| month.day(date)) {
                None => drop(page.raw("<td>")),
                Some(day) => write_day(page, day, true),
            }
        }
        page.raw("\n");
    }
    page.raw("</table>\n");
}

/// Writes a year: a row for each weekday, a column for each week.
fn write_year(page: &mut Page, days: &[CalendarDay]) {
    let Some(first) = days.first().map(|day| day.date().first_of_year()) else {
        return;
    };
    page.raw("<table><caption>")
        .text(first.year())
        .raw("</caption>\n<tr><td>");
    let week_of = |date: Date| (usize::try_from(date.day_of_year()).unwrap_or(1) - 1 + column(first)) / 7;
    let begins = (1..=12).filter_map(|month| Date::new(first.year(), month, 1).ok());
    let begins: Vec<Date> = begins.collect();
    for (at, begin) in begins.iter().enumerate() {
        let next = begins.get(at + 1).map_or(WEEKS_OF_YEAR, |next| week_of(*next));
        page.raw("<th scope=col colspan=")
            .text(next - week_of(*begin))
            .raw(">");
        page.text(name(*begin).get(..3).unwrap_or_default());
    }
    page.raw("\n");
    for (row, weekday) in WEEKDAYS.into_iter().enumerate() {
        page.raw("<tr><th scope=row>").raw(weekday);
        let mut next = 0;
        for day in days.iter().filter(|day| column(day.date()) == row) {
            let week = week_of(day.date());
            for _ in next..week {
                page.raw("<td>");
            }
            write_day(page, day, false);
            next = week + 1;
        }
        page.raw("\n");
    }
    page.raw("</table>\n");
}

/// Writes the cell of a day: for the eye its number, if there is room, and its mark; a text for a screen reader.
fn write_day(page: &mut Page, day: &CalendarDay, numbered: bool) {
    let description = describe_day(day);
    page.raw("<td class=")
        .raw(day.mark().as_str())
        .raw(" title=\"")
        .text(&description)
        .raw("\"><i>")
        .text(&description)
        .raw("</i>");
    page.raw("<b aria-hidden=true>");
    if numbered {
        page.text(day.date().day());
    }
    page.raw("<u>").raw(day.mark().symbol()).raw("</u></b>");
}

fn write_gaps(page: &mut Page, section: &Section) {
    if section.gaps.is_empty() {
        return;
    }
    page.raw(
        "<h3>Not covered</h3>\n<table>\n<tr><th scope=col>days<th scope=col>state<th scope=col>reason\n",
    );
    for gap in section.gaps.iter().take(ROWS_MAX) {
        page.raw("<tr><td>")
            .text(gap.days())
            .raw("<td>")
            .text(gap.mark.label())
            .raw("<td>");
        page.text(gap.reason.as_deref().unwrap_or_default()).raw("\n");
    }
    page.raw("</table>\n");
    write_more(page, section.gaps.len());
}

fn write_differing(page: &mut Page, section: &Section) {
    let days = section.differing_days();
    if days.is_empty() {
        return;
    }
    page.raw(
        "<h3>Counts that differ from the service's, and late events</h3>\n<table>\n<tr><th scope=col>day",
    );
    page.raw("<th scope=col>state<th scope=col>events<th scope=col>reported<th scope=col>late\n");
    for day in days.iter().take(ROWS_MAX) {
        page.raw("<tr><td>")
            .text(day.window)
            .raw("<td>")
            .text(day.mark().label());
        let reported = day.reported.map_or("no count".to_owned(), human::count);
        for number in [human::count(day.events), reported, human::count(day.late_events)] {
            page.raw("<td class=n>").text(number);
        }
        page.raw("\n");
    }
    page.raw("</table>\n");
    write_more(page, days.len());
}

fn write_manifests(page: &mut Page, section: &Section) {
    let rows = &section.verified.chain;
    if rows.is_empty() {
        return;
    }
    page.raw("<h3>Manifests</h3>\n<table>\n<tr><th scope=col>number<th scope=col>period<th scope=col>events");
    page.raw("<th scope=col>written<th scope=col>checks<th scope=col>signature<th scope=col>SHA-256\n");
    // The newest ones count.
    for row in rows.iter().rev().take(ROWS_MAX) {
        page.raw("<tr><td class=n>").text(row.sequence);
        match &row.statement {
            None => drop(page.raw("<td><td><td>")),
            Some(statement) => {
                page.raw("<td>")
                    .text(statement.period.start)
                    .raw("/")
                    .text(statement.period.end);
                page.raw("<td class=n>").text(human::count(statement.events));
                page.raw("<td>").text(to_second(statement.written_at));
            }
        }
        page.raw("<td>")
            .raw(if row.valid { "valid" } else { "NOT VALID" });
        page.raw("<td>")
            .raw(row.signature.description())
            .raw("<td><code>")
            .text(&row.sha256)
            .raw("</code>\n");
    }
    page.raw("</table>\n");
    write_more(page, rows.len());
}

fn write_findings(page: &mut Page, heading: &'static str, findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    page.raw("<h2>")
        .raw(heading)
        .raw("</h2>\n<table>\n<tr><th scope=col>kind<th scope=col>key<th scope=col>expected");
    page.raw("<th scope=col>found<th scope=col>means\n");
    for finding in findings.iter().take(ROWS_MAX) {
        page.raw("<tr><td>")
            .text(finding.kind.as_str())
            .raw("<td>")
            .text(&finding.key);
        page.raw("<td>")
            .text(finding.expected.as_deref().unwrap_or_default());
        page.raw("<td>")
            .text(finding.found.as_deref().unwrap_or_default());
        page.raw("<td>").raw(finding.kind.explanation()).raw("\n");
    }
    page.raw("</table>\n");
    write_more(page, findings.len());
}

fn write_more(page: &mut Page, rows: usize) {
    let more = rows.saturating_sub(ROWS_MAX);
    if more > 0 {
        page.raw("<p>and ")
            .text(human::count(more as u64))
            .raw(" more: <code>-o json</code> lists all\n");
    }
}
