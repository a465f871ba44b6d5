//! Days in arguments: one parser and one order for all commands, as a spec has them. No I/O.

use jiff::civil::Date;

use super::exit::CliError;
use crate::api::{self, rules};

/// Parses a UTC day: `2018-06-28`.
pub fn day(text: &str) -> Result<Date, String> {
    api::parse_date(text).ok_or_else(|| rules::START.message.to_owned())
}

/// Checks that the last day is not before the first one.
pub fn check_order(start: Option<Date>, end: Option<Date>) -> Result<(), CliError> {
    match (start, end) {
        (Some(start), Some(end)) if end < start => Err(CliError::usage(format!(
            "--end: {end} is before --start {start}: swap the two"
        ))),
        _ => Ok(()),
    }
}
