//! `eventexport session create`. Network I/O.

use jiff::civil::Date;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::json;

use super::super::day::{check_order, day};
use super::super::exit::{CliError, Exit};
use super::super::output::{OutputArgs, write_stderr};
use super::super::settings::source::{SourceArgs, SourceConnection};
use super::view;
use crate::session::guard::{OpenError, OpenedSession};
use crate::session::occupancy::SessionHolder;
use crate::tracker::SessionRequest;

/// Schema version of the JSON document.
pub const SCHEMA: &str = "eventexport.io/session-create/v2";

/// Maximum number of days of a session (API page).
pub const DAYS_MAX: i32 = 15;

/// Arguments of `session create`.
#[derive(Debug, clap::Args)]
pub struct SessionCreateArgs {
    /// First day (UTC), for example 2018-06-28 (default: --end, or the current day)
    #[arg(short, long, value_name = "DATE", value_parser = day)]
    pub start: Option<Date>,
    /// Last day (UTC), inclusive (default: --start, or the current day)
    #[arg(short, long, value_name = "DATE", value_parser = day)]
    pub end: Option<Date>,
    /// Select only this hour of each day (UTC), 0 to 23
    #[arg(long, value_name = "HOUR", value_parser = clap::value_parser!(u8).range(0..=23))]
    pub hour: Option<u8>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub source: SourceArgs,
}

/// Examples in `--help`.
pub const EXAMPLES: &str = "\
Examples:
  Create a session for the current UTC day:
    eventexport session create
  Create a session for several days of the account:
    eventexport session create --start 2018-06-28 --end 2018-06-30 --account
  Create a session for one hour of a day, and print only its ID:
    eventexport session create --start 2018-06-28 --hour 7 --output json | jq -r .session.id

A session has at most 15 days (UTC), including the first and the last. Delete the session when you no longer need it.";

/// Returns the current UTC day.
pub fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}

/// Opens a session and prints it.
pub async fn create(args: &SessionCreateArgs) -> Result<Exit, CliError> {
    args.output.start_log()?;
    let (start, end) = date_range(args.start, args.end, today())?;
    let source = args.source.connect()?;
    let request = SessionRequest {
        start,
        end,
        hour: args.hour,
        account: source.account,
    };
    let opened = open_session(&source, &request).await?;
    let session = opened.session();
    let warnings = opened
        .check()
        .map_or_else(|mismatch| mismatch.differences, |()| Vec::new());
    let document = json!({
        "session": view::to_json(session),
        "requested": {"start": start, "end": end, "hour": request.hour, "account": request.account},
        "warnings": warnings,
    });
    let printed = args
        .output
        .print(SCHEMA, document, || view::detail_table(session));
    if !args.output.is_json() {
        // A warning, not a note: printed also with --quiet.
        for warning in &warnings {
            write_stderr(&format!("eventexport: warning: {warning}"));
        }
    }
    printed.map_err(|error| anyhow::anyhow!("{error}; session {} is open", session.id))?;
    Ok(Exit::Done)
}

/// Returns the first and the last day. If only one is given, it is both.
fn date_range(start: Option<Date>, end: Option<Date>, today: Date) -> Result<(Date, Date), CliError> {
    let (start, end) = (start.or(end).unwrap_or(today), end.or(start).unwrap_or(today));
    check_order(Some(start), Some(end))?;
    let days = (end - start).get_days() + 1;
    if days > DAYS_MAX {
        return Err(CliError::usage(format!(
            "--end: {start} to {end} is {days} days, but a session has at most {DAYS_MAX}: create several sessions, or use \
             `eventexport run`"
        )));
    }
    Ok((start, end))
}

/// Opens a session that stays open.
async fn open_session(
    source: &SourceConnection,
    request: &SessionRequest,
) -> Result<OpenedSession, CliError> {
    let sessions = source.sessions();
    let before = sessions.list(|_| SessionHolder::Unknown).await;
    let before = before.map_err(|error| source.tracker_error(&error))?;
    let error = match sessions.create(request, &before).await {
        Ok(opened) => return Ok(opened),
        Err(error) => error,
    };
    let message = error.describe(source.setting_names());
    let message = match error {
        OpenError::PossiblyOpen(_) => {
            let hint = sessions.orphan_hint(request, &before).await;
            format!("{message}; the request may have opened a session: {hint}")
        }
        _ => message,
    };
    Err(CliError::Failed(anyhow::anyhow!(message)))
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn one_given_day_is_start_and_end_and_long_ranges_are_rejected() {
        let now = date(2018, 7, 1);
        let (one, two) = (date(2018, 6, 1), date(2018, 6, 2));
        for (start, end, expected) in [
            (None, None, (now, now)),
            (Some(one), None, (one, one)),
            (None, Some(one), (one, one)),
            (Some(one), Some(two), (one, two)),
        ] {
            assert_eq!(date_range(start, end, now).ok(), Some(expected));
        }
        assert!(date_range(Some(two), Some(one), now).is_err());
        assert!(date_range(Some(one), Some(date(2018, 6, 15)), now).is_ok());
        let error = date_range(Some(one), Some(date(2018, 6, 16)), now)
            .unwrap_err()
            .to_string();
        assert!(error.contains("16 days"), "{error}");
    }
}
