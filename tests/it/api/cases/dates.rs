//! Days and hours that do not exist.

use super::{DAY, invalid_value};
use crate::api::table::ValidationCase;

pub(super) fn dates() -> Vec<ValidationCase> {
    let start =
        |name, value: &str| invalid_value(name, "/dateRange/start", value, ("spec.dateRange.start", DAY));
    vec![
        invalid_value(
            "an inverted range",
            "/dateRange/end",
            "2018-05-31",
            ("spec.dateRange.end", "is before the first day"),
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
        invalid_value(
            "a date with a time",
            "/dateRange/start",
            "2018-06-01T00:00:00Z",
            ("spec.dateRange.start", "Too long"),
        ),
        invalid_value(
            "an impossible last day",
            "/dateRange/end",
            "2018-11-31",
            ("spec.dateRange.end", DAY),
        ),
        invalid_value(
            "the end of all time",
            "/dateRange/end",
            "9999-12-31",
            ("spec.dateRange.end", "omit it for a continuous"),
        ),
        invalid_value(
            "an empty last day",
            "/dateRange/end",
            "",
            ("spec.dateRange.end", DAY),
        ),
        invalid_value(
            "hour 24",
            "/dateRange/hour",
            24,
            ("spec.dateRange.hour", "less than or equal to 23"),
        ),
        invalid_value(
            "hour -1",
            "/dateRange/hour",
            -1,
            ("spec.dateRange.hour", "greater than or equal to 0"),
        ),
        invalid_value(
            "hour 256",
            "/dateRange/hour",
            256,
            ("spec.dateRange.hour", "less than or equal to 23"),
        ),
    ]
}
