//! Days in arguments: one parser for all commands. No I/O.

use jiff::civil::Date;

use crate::archive::window::parse_date;

/// Parses a UTC day: `2018-06-28`.
pub fn day(text: &str) -> Result<Date, String> {
    parse_date(text).ok_or_else(|| "expected a UTC day such as 2018-06-28".to_owned())
}
