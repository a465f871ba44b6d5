//! `eventexport session create`. Network I/O.

use jiff::civil::Date;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::json;

use super::super::day::day;
use super::super::exit::{CliError, Exit};
use super::super::human;
use super::super::output::{OutputArgs, write_stderr};
use super::super::source::{SourceArgs, SourceConnection};
use super::{SESSIONS_PER_SPACE, view};
use crate::tracker::{Session, SessionRequest, TrackerError};

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
    let session = match source.tracker.create_session(&source.space, &request).await {
        Ok(session) => session,
        Err(error) => return Err(create_error(&source, &error).await),
    };
    let differences = request.differences(&session).into_iter();
    let warnings: Vec<String> = differences.map(|difference| difference.to_string()).collect();
    let document = json!({
        "session": view::to_json(&session),
        "requested": {"start": start, "end": end, "hour": request.hour, "account": request.account},
        "warnings": warnings,
    });
    let printed = args
        .output
        .print(SCHEMA, document, || view::detail_table(&session));
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
    if end < start {
        return Err(CliError::usage(format!("--end: {end} is before --start {start}")));
    }
    let days = (end - start).get_days() + 1;
    if days > DAYS_MAX {
        return Err(CliError::usage(format!(
            "--end: {start} to {end} is {days} days, but a session has at most {DAYS_MAX}: create several sessions, or use \
             `eventexport run`"
        )));
    }
    Ok((start, end))
}

/// Returns the error of a failed request, with the remedy.
async fn create_error(source: &SourceConnection, error: &TrackerError) -> CliError {
    let message = match error {
        TrackerError::Capacity {
            space,
            status,
            names_capacity: _,
            after: _,
            message,
        } => {
            let message = if message.is_empty() {
                String::new()
            } else {
                format!(": “{message}”")
            };
            let open = match source.tracker.list_sessions(&source.space).await {
                Ok(sessions) => open_sessions_text(&sessions),
                Err(error) => format!("Cannot list sessions: {}.", source.error_text(&error)),
            };
            format!("cannot open a session in space {space} (status {status}){message}. {open}")
        }
        error if error.may_have_executed() => format!(
            "{}; the request may have opened a session: check with `eventexport session list`",
            source.error_text(error)
        ),
        error => source.error_text(error),
    };
    CliError::Failed(anyhow::anyhow!(message))
}

/// Describes the open sessions by user, and the remedy.
fn open_sessions_text(sessions: &[Session]) -> String {
    let mut users: Vec<(&str, u64)> = Vec::new();
    for session in sessions {
        let user = session.username.as_deref().unwrap_or("an unnamed user");
        match users.iter_mut().find(|(known, _)| *known == user) {
            Some((_, number)) => *number += 1,
            None => users.push((user, 1)),
        }
    }
    users.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    let by_user: Vec<String> = users
        .iter()
        .map(|(user, number)| format!("{} of {user}", human::count(*number)))
        .collect();
    let oldest = sessions.iter().filter_map(|session| session.created).min();
    let oldest = oldest
        .map(|at| format!(", the oldest created {at}"))
        .unwrap_or_default();
    let count = human::plural(sessions.len() as u64, "open session");
    if sessions.is_empty() {
        return format!(
            "The service shows you no open sessions: the {SESSIONS_PER_SPACE} that a space can have belong to other users, or \
             you lack the developer role in the space (with --account: the permission on the account)."
        );
    }
    let intro = if sessions.len() >= SESSIONS_PER_SPACE {
        format!("The space is full: {count}")
    } else {
        format!(
            "The service shows you {count} of the {SESSIONS_PER_SPACE} that a space can have; the rest may belong to other \
             users, or you lack a permission"
        )
    };
    format!(
        "{intro} ({}{oldest}). Delete unused sessions (`eventexport session list`, `eventexport session delete ID`, or \
         `eventexport session delete --all-mine-older-than 2h`), or wait until other users delete theirs.",
        by_user.join(", ")
    )
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
