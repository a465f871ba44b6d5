//! Tests of reports: size, escaping, width, and the same bytes for the same archive.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::{Date, date};
use jiff::{Span, Timestamp};

use super::*;
use crate::archive::calendar::Calendar;
use crate::archive::counts::Verdict;
use crate::archive::coverage::{Damage, WindowState};
use crate::archive::manifest::signature::SignatureStatus;
use crate::archive::range::RangeBasis;
use crate::archive::records::RangeRecord;
use crate::archive::verify::observation::CheckMethod;
use crate::archive::verify::report::{
    CheckedObject, ManifestRow, ManifestStatement, ManifestTotals, RootTotals,
};
use crate::archive::window::Window;

/// Returns a day in a state that depends on its number.
fn day(number: usize, date: Date) -> CalendarDay {
    let (state, verdict) = match number % 50 {
        7 => (WindowState::Accepted, None),
        8 => (WindowState::Missing, None),
        9 => (WindowState::Expired, None),
        10 => (WindowState::Damaged(Damage::ObjectMissing), None),
        11 => (WindowState::Covered, Some(Verdict::Over)),
        12 => (WindowState::Covered, Some(Verdict::Empty)),
        _ => (WindowState::Covered, Some(Verdict::Matched)),
    };
    let covered = state == WindowState::Covered;
    CalendarDay {
        window: Window::day(date),
        state,
        refuted_by: None,
        hours: if covered { 24 } else { 0 },
        events: if covered { 123_456_789 } else { 0 },
        late_events: 0,
        bytes: 0,
        reported: covered.then_some(123_456_789),
        verdict,
    }
}

/// Returns a report on a number of days, with this text in every place that others write.
fn report(days: usize, foreign: &str) -> Report {
    let first = date(2018, 6, 1);
    let dates: Vec<Date> = first.series(Span::new().days(1)).take(days).collect();
    let last = *dates.last().unwrap();
    let text = || foreign.to_owned();
    let finding = Finding::new(FindingKind::ForeignFile, text())
        .expected(text())
        .found(text());
    let root = RootReport {
        root: text(),
        space: Some(text()),
        scope: Some(text()),
        sources: BTreeSet::from([text()]),
        findings: vec![
            finding,
            Finding::new(FindingKind::ObjectMissing, text())
                .expected(text())
                .found(text()),
        ],
        basis: RangeBasis::Manifests,
        wanted: vec![format!("{first}/{last}")],
        missing: Vec::new(),
        accepted: Vec::new(),
        uncovered: Vec::new(),
        totals: RootTotals::default(),
        manifests: ManifestTotals {
            manifests: 1,
            valid: 1,
            head: Head::new(1, &"9f".repeat(32)).ok(),
            ..ManifestTotals::default()
        },
        attested: None,
        objects: vec![CheckedObject {
            key: text(),
            window: Window::day(first),
            method: CheckMethod::Size,
            bytes: 1,
            proved: true,
        }],
        calendar: Calendar {
            days: dates
                .iter()
                .enumerate()
                .map(|(number, date)| day(number, *date))
                .collect(),
            omitted: 0,
        },
        gap_reasons: dates
            .iter()
            .map(|date| (*date, text()))
            .collect::<BTreeMap<_, _>>(),
        chain: vec![ManifestRow {
            sequence: 1,
            sha256: "9f".repeat(32),
            valid: true,
            signature: SignatureStatus::Absent,
            statement: Some(ManifestStatement {
                period: RangeRecord {
                    start: first,
                    end: last,
                    hour: None,
                },
                events: 1,
                written_at: Timestamp::UNIX_EPOCH,
                key_id: Some(text()),
            }),
        }],
        newest: Some("1970-01-01T00:00:00.123456789Z".parse().unwrap()),
    };
    let given = Given {
        location: text(),
        export: Some(text()),
        ..Given::default()
    };
    let verified = VerifyReport {
        roots: vec![root],
        findings: Vec::new(),
    };
    Report::new(given, verified)
}

#[test]
fn ten_years_of_days_are_less_than_1_mib_in_every_form() {
    let report = report(3650, "tracker/space=c1/scope=space/");
    let page = html::render(std::slice::from_ref(&report));
    assert!(page.len() < 1 << 20, "{} bytes", page.len());
    assert_eq!(
        page.matches("<td class=").count() - page.matches("<td class=n>").count(),
        3650
    );
    let years: Vec<&str> = page.split("<caption>").skip(1).map(|year| &year[..4]).collect();
    assert_eq!((years.len(), years[0], years[10]), (11, "2018", "2028"));
    assert!(json::render(&report).to_string().len() < 1 << 20);
    assert!(text::render(&report, false).len() < 1 << 18);
    // 120 months, a line each, and not a block for each.
    assert!(
        text::calendar(&report.sections[0].verified.calendar, false)
            .lines()
            .count()
            < 130
    );
}

#[test]
fn foreign_text_adds_no_markup_and_no_control_character() {
    let page = |foreign: &str| html::render(&[report(60, foreign)]);
    let hostile = "</td></title><script>alert(1)</script>\"' onload='x\u{202e}\u{1b}[2J&lt;\n";
    let (plain, hostile_page) = (page("plain"), page(hostile));
    let count = |page: &str, c| page.matches(c).count();
    for c in ['<', '>', '"', '\'', '\n'] {
        assert_eq!(count(&hostile_page, c), count(&plain, c), "{c:?}");
    }
    let foreign = hostile_page
        .matches("&lt;script&gt;alert(1)&lt;/script&gt;")
        .count();
    assert_eq!(foreign, plain.matches("plain").count());
    let shown = text::render(&report(60, hostile), false);
    for text in [&hostile_page, &shown] {
        assert!(
            text.chars().all(|c| c == '\n' || crate::api::is_printable(c)),
            "{text}"
        );
    }
}

#[test]
fn a_text_of_a_megabyte_is_cut() {
    let mut report = report(2, &"x ".repeat(1 << 19));
    // Stores bound keys and paths.
    report.given.location = "export".to_owned();
    report.sections[0].verified.root = "t/".to_owned();
    let page = html::render(std::slice::from_ref(&report));
    assert!(page.len() < 200_000, "{} bytes", page.len());
    assert!(text::render(&report, false).len() < 100_000);
}

#[test]
fn a_page_refers_to_nothing_and_runs_nothing() {
    let page = html::render(&[report(60, "plain")]);
    assert!(page.contains("content=\"default-src 'none'; style-src 'unsafe-inline'\""));
    for forbidden in [
        "<script", "<link", "<img", "http:", "https:", "url(", "@import", "src=", "href=",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn every_day_has_a_text_and_the_gaps_have_their_reasons() {
    let report = report(60, "maintenance");
    let page = html::render(std::slice::from_ref(&report));
    for expected in [
        "title=\"2018-06-01 matched: 123,456,789 events, 123,456,789 reported\"><i>2018-06-01 matched",
        "<td class=missing title=\"2018-06-09 missing\">",
        "<tr><td>2018-06-08<td>accepted gap<td>maintenance",
        "<tr><td>2018-06-11<td>damaged<td>its receipt exists, but its object is missing",
        "<tr><td>2018-06-12<td>more than reported",
        "1:9f9f",
    ] {
        assert!(page.contains(expected), "{expected} is not in {page}");
    }
    let section = &report.sections[0];
    assert_eq!(
        section.summary(),
        "53 of 60 days covered (matched 51, proved empty 1, more than reported 1); accepted gap 2, damaged 1, \
         expired 2, missing 2"
    );
}

#[test]
fn times_have_no_fraction_of_a_second() {
    let report = report(60, "plain");
    for shown in [
        html::render(std::slice::from_ref(&report)),
        text::render(&report, false),
    ] {
        assert!(
            shown.contains("1970-01-01T00:00:00Z") && !shown.contains(".1234"),
            "{shown}"
        );
    }
    // For programs, the time as the archive has it.
    assert_eq!(
        json::render(&report)["roots"][0]["newestRecordAt"],
        "1970-01-01T00:00:00.123456789Z"
    );
}

#[test]
fn a_terminal_of_80_columns_has_room() {
    let codes = regex::Regex::new("\u{1b}\\[[0-9;]*m").unwrap();
    for days in [1, 90, 700, 3650] {
        let report = report(days, "some words of an explanation ".repeat(20).trim());
        let plain = text::render(&report, false);
        // A command is one line, so that it can be copied.
        let lines = plain
            .lines()
            .filter(|line| !line.contains("eventexport verify") && !line.contains("audit.sh"));
        for line in lines.filter(|line| !line.ends_with(&report.result())) {
            let width = line.chars().count();
            assert!(
                width <= 80 && line.trim_end() == line,
                "{days} days, {width} columns: {line:?}"
            );
        }
        assert!(!plain.contains('\u{1b}'));
        let colored = text::render(&report, true);
        assert_eq!(codes.replace_all(&colored, ""), plain);
    }
}

#[test]
fn the_text_calendar_is_by_weeks() {
    let text = text::calendar(&report(32, "").sections[0].verified.calendar, false);
    let expected = "\
June 2018               July 2018
Mo Tu We Th Fr Sa Su    Mo Tu We Th Fr Sa Su
             1= 2= 3=                      1=
 4= 5= 6= 7= 8a 9M10X    2=
11D12+13e14=15=16=17=
18=19=20=21=22=23=24=
25=26=27=28=29=30=

= matched   e proved empty   + more than reported   a accepted gap   D damaged
X expired   M missing
";
    assert_eq!(text, expected);
}

#[test]
fn consecutive_days_are_one_gap_only_for_the_same_reason() {
    let mut root = report(3, "").sections.remove(0).verified;
    for day in &mut root.calendar.days {
        day.state = WindowState::Accepted;
    }
    let gap = |start, end, reason: &str| GapEntry::new(start, end, reason);
    let (first, third) = (date(2018, 6, 1), date(2018, 6, 3));
    let two = [gap(first, date(2018, 6, 2), "a"), gap(first, third, "b")];
    let section = Section::new(root, Some(&two));
    let gaps: Vec<_> = section
        .gaps
        .iter()
        .map(|gap| (gap.days(), gap.reason.as_deref()))
        .collect();
    assert_eq!(
        gaps,
        [
            ("2018-06-01/2018-06-02".to_owned(), Some("a")),
            ("2018-06-03".to_owned(), Some("b"))
        ]
    );
}

#[test]
fn a_command_quotes_what_a_shell_would_interpret() {
    for (word, quoted) in [
        ("s3://audit/tracker", "s3://audit/tracker"),
        ("./a b", "'./a b'"),
        ("a'; rm -r $HOME", "'a'\\''; rm -r $HOME'"),
        ("", "''"),
        ("-f", "'-f'"),
    ] {
        assert_eq!(shell_quoted(word), quoted);
    }
}
