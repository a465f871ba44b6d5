//! Days and hours that do not exist.

use super::{DAY, bad};
use crate::api::table::Case;

pub(super) fn dates() -> Vec<Case> {
    let start = |name, value: &str| bad(name, "/dateRange/start", value, ("spec.dateRange.start", DAY));
    vec![
        bad(
            "an inverted range",
            "/dateRange/end",
            "2018-05-31",
            ("spec.dateRange.end", "is before dateRange.start"),
        ),
        start("30 February", "2018-02-30"),
        start("a thirteenth month", "2018-13-01"),
        start("a month of zero", "2018-00-01"),
        start("29 February of a common year", "2018-02-29"),
        start("29 February 1900", "1900-02-29"),
        start("31 June", "2018-06-31"),
        start("before 1970", "1969-12-31"),
        start("a date without zeros", "2018-6-1"),
        start("a date in another order", "01-06-2018"),
        start("a date with a line break", "2018-06-1\n"),
        start("an empty date", ""),
        bad(
            "a date with a time",
            "/dateRange/start",
            "2018-06-01T00:00:00Z",
            ("spec.dateRange.start", "Too long"),
        ),
        bad(
            "an impossible last day",
            "/dateRange/end",
            "2018-11-31",
            ("spec.dateRange.end", DAY),
        ),
        bad(
            "the end of all time",
            "/dateRange/end",
            "9999-12-31",
            ("spec.dateRange.end", "leave it out for a continuous"),
        ),
        bad(
            "an empty last day",
            "/dateRange/end",
            "",
            ("spec.dateRange.end", DAY),
        ),
        bad(
            "hour 24",
            "/dateRange/hour",
            24,
            ("spec.dateRange.hour", "less than or equal to 23"),
        ),
        bad(
            "hour -1",
            "/dateRange/hour",
            -1,
            ("spec.dateRange.hour", "greater than or equal to 0"),
        ),
        bad(
            "hour 256",
            "/dateRange/hour",
            256,
            ("spec.dateRange.hour", "less than or equal to 23"),
        ),
    ]
}
