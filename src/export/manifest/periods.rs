//! Periods of an export that get a manifest each. No I/O.

use jiff::Timestamp;
use jiff::civil::Date;

use crate::archive::records::RangeRecord;
use crate::export::spec::ExportSpec;

/// Maximum number of days in a manifest. A longer finite range has one manifest per calendar year, so that no document
/// exceeds the size limit of readers.
pub const PERIOD_MAX_DAYS: i32 = 366;

/// Returns the periods of an export up to now, in order of time. A finite export has one period, or one per calendar
/// year if it is longer than [`PERIOD_MAX_DAYS`]; a continuous export has one per month. A period is closed, and gets
/// its manifest, when its windows are covered or accepted.
pub fn periods(export: &ExportSpec, now: Timestamp) -> Vec<RangeRecord> {
    let mut periods = Vec::new();
    let last = export
        .end
        .unwrap_or_else(|| now.to_zoned(jiff::tz::TimeZone::UTC).date());
    let mut next = Some(export.start);
    while let Some(start) = next.filter(|start| *start <= last) {
        let end = match export.end {
            Some(end) if days_between(start, end) < PERIOD_MAX_DAYS && periods.is_empty() => end,
            Some(end) => start.last_of_year().min(end),
            None => start.last_of_month(),
        };
        periods.push(RangeRecord {
            start,
            end,
            hour: export.hour,
        });
        next = end.tomorrow().ok();
    }
    periods
}

fn days_between(start: Date, end: Date) -> i32 {
    start.until(end).map_or(i32::MAX, |span| span.get_days())
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::archive::window::Window;
    use crate::export::manifest::tests::export;

    fn texts(export: &ExportSpec, now: Date) -> Vec<String> {
        let now = Window::day(now).end();
        let text = |period: RangeRecord| format!("{}/{}", period.start, period.end);
        periods(export, now).into_iter().map(text).collect()
    }

    #[test]
    fn a_finite_range_is_one_period_and_a_long_one_is_split_by_calendar_year() {
        let mut export = export(30);
        // The range alone decides, not the time.
        assert_eq!(texts(&export, date(2018, 6, 2)), ["2018-06-01/2018-06-30"]);
        export.end = Some(date(2019, 6, 1));
        assert_eq!(
            texts(&export, date(2018, 6, 2)),
            ["2018-06-01/2019-06-01"],
            "366 days"
        );
        export.end = Some(date(2020, 2, 1));
        assert_eq!(
            texts(&export, date(2018, 6, 2)),
            [
                "2018-06-01/2018-12-31",
                "2019-01-01/2019-12-31",
                "2020-01-01/2020-02-01"
            ]
        );
    }

    #[test]
    fn a_continuous_export_has_a_period_per_month_up_to_the_current_one() {
        let mut export = export(30);
        (export.start, export.end) = (date(2018, 6, 20), None);
        // The end of a day is the start of the next.
        assert_eq!(texts(&export, date(2018, 6, 18)), Vec::<String>::new());
        assert_eq!(texts(&export, date(2018, 6, 29)), ["2018-06-20/2018-06-30"]);
        assert_eq!(
            texts(&export, date(2018, 6, 30)),
            ["2018-06-20/2018-06-30", "2018-07-01/2018-07-31"]
        );
        export.hour = Some(3);
        let june = RangeRecord {
            start: date(2018, 6, 20),
            end: date(2018, 6, 30),
            hour: Some(3),
        };
        assert_eq!(periods(&export, Window::day(date(2018, 6, 29)).end()), [june]);
    }
}
