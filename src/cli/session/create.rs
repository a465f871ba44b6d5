//! `eventexport session create`. Speaks to the service.

use jiff::civil::Date;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::json;

use super::super::exit::{CliError, Exit};
use super::super::human;
use super::super::output::OutputArgs;
use super::super::source::{SourceArgs, SourceConnection};
use super::{SESSIONS_PER_SPACE, view};
use crate::export::window::parse_date;
use crate::tracker::{Session, SessionRequest, TrackerError};

/// The document of a new session.
pub const SCHEMA: &str = "eventexport.io/session-create/v1";

/// Days that a session may have (API page).
pub const DAYS_MAX: i32 = 15;

/// Arguments of `session create`.
#[derive(Debug, clap::Args)]
pub struct SessionCreateArgs {
    /// First UTC day, as 2018-06-28 (default: --end, or the current UTC day)
    #[arg(short, long, value_name = "DATE", value_parser = date)]
    pub start: Option<Date>,
    /// Last UTC day, inclusive (default: --start, or the current UTC day)
    #[arg(short, long, value_name = "DATE", value_parser = date)]
    pub end: Option<Date>,
    /// Only this hour of the day, 0 to 23 (UTC)
    #[arg(long, value_name = "HOUR", value_parser = clap::value_parser!(u8).range(0..=23))]
    pub hour: Option<u8>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub source: SourceArgs,
}

/// What `--help` shows.
pub const EXAMPLES: &str = "\
Examples:
  For the current UTC day:
    eventexport session create
  For some days of the account:
    eventexport session create --start 2018-06-28 --end 2018-06-30 --account
  For one hour of a day, and only the id:
    eventexport session create --start 2018-06-28 --hour 7 --output json | jq -r .session.id

Days are UTC days, both ends included, at most 15. Delete the session when you are done with it.";

/// A UTC day, as people write it.
pub fn date(text: &str) -> Result<Date, String> {
    parse_date(text).ok_or_else(|| "is no day as 2018-06-28".to_owned())
}

/// The current UTC day.
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
    let warnings = mismatches(&request, &session);
    let document = json!({
        "session": view::to_json(&session),
        "asked": {"start": start, "end": end, "hour": request.hour, "account": request.account},
        "warnings": warnings,
    });
    args.output
        .print(SCHEMA, document, || view::detail_table(&session));
    if !args.output.is_json() {
        // Not a remark: who is quiet must know it too.
        for warning in &warnings {
            eprintln!("eventexport: warning: {warning}");
        }
    }
    Ok(Exit::Done)
}

/// The days that are meant: one given end stands for both.
fn date_range(start: Option<Date>, end: Option<Date>, today: Date) -> Result<(Date, Date), CliError> {
    let (start, end) = (start.or(end).unwrap_or(today), end.or(start).unwrap_or(today));
    if end < start {
        return Err(CliError::usage(format!("--end: {end} is before --start {start}")));
    }
    let days = (end - start).get_days() + 1;
    if days > DAYS_MAX {
        return Err(CliError::usage(format!(
            "--end: {start} to {end} are {days} days, and a session may have {DAYS_MAX} at most: make several sessions, or \
             let `eventexport run` do it"
        )));
    }
    Ok((start, end))
}

/// What the service answered otherwise than asked.
fn mismatches(request: &SessionRequest, session: &Session) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some((start, end)) = session.range
        && (start, end) != (request.start, request.end)
    {
        warnings.push(format!(
            "asked for {} to {}, and the service answered {start} to {end}: a download gets the days of the answer",
            request.start, request.end
        ));
    }
    if let Some(hour) = session.hour
        && hour != request.hour
    {
        let text = |hour: Option<u8>| hour.map_or("the whole day".to_owned(), |hour| format!("hour {hour}"));
        warnings.push(format!(
            "asked for {}, and the service answered {}",
            text(request.hour),
            text(hour)
        ));
    }
    if let Some(account) = session.account
        && account != request.account
    {
        let text = |account| if account { "the account" } else { "the space" };
        warnings.push(format!(
            "asked for events of {}, and the service answered events of {}",
            text(request.account),
            text(account)
        ));
    }
    warnings
}

/// Why there is no session, and what to do about it.
async fn create_error(source: &SourceConnection, error: &TrackerError) -> CliError {
    let message = match error {
        TrackerError::Capacity {
            space,
            status,
            message,
        } => {
            let message = if message.is_empty() {
                String::new()
            } else {
                format!(", saying “{message}”")
            };
            let open = match source.tracker.list_sessions(&source.space).await {
                Ok(sessions) => open_sessions_text(&sessions),
                Err(error) => format!(
                    "The list of sessions is not to be had: {}.",
                    source.error_text(&error)
                ),
            };
            format!("no session could be opened in space {space} (status {status}){message}. {open}")
        }
        error if error.may_have_executed() => format!(
            "{}; a session may be open all the same: `eventexport session list` shows it",
            source.error_text(error)
        ),
        error => source.error_text(error),
    };
    CliError::Failed(anyhow::anyhow!(message))
}

/// How many are open, whose, and the way out.
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
        .map(|at| format!(", the oldest of {at}"))
        .unwrap_or_default();
    let count = human::plural(sessions.len() as u64, "open session");
    if sessions.is_empty() {
        return format!(
            "The service shows you none that is open: the {SESSIONS_PER_SPACE} that a space may have are other users', or you \
             lack the developer role in the space (for --account the account's permission)."
        );
    }
    let intro = if sessions.len() >= SESSIONS_PER_SPACE {
        format!("The space is full: {count}")
    } else {
        format!(
            "The service shows you {count} of the {SESSIONS_PER_SPACE} that a space may have; the rest may be other users', or \
             you lack a permission"
        )
    };
    format!(
        "{intro} ({}{oldest}). Delete what nobody needs (`eventexport session list`, `eventexport session delete ID`, or \
         `eventexport session delete --all-mine-older-than 2h`), or wait until others have ended theirs.",
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
        for (start, end, wanted) in [
            (None, None, (now, now)),
            (Some(one), None, (one, one)),
            (None, Some(one), (one, one)),
            (Some(one), Some(two), (one, two)),
        ] {
            assert_eq!(date_range(start, end, now).ok(), Some(wanted));
        }
        assert!(date_range(Some(two), Some(one), now).is_err());
        assert!(date_range(Some(one), Some(date(2018, 6, 15)), now).is_ok());
        let error = date_range(Some(one), Some(date(2018, 6, 16)), now)
            .unwrap_err()
            .to_string();
        assert!(error.contains("16 days"), "{error}");
    }

    #[test]
    fn a_session_that_differs_from_the_request_is_reported() {
        let request = SessionRequest {
            start: date(2018, 6, 28),
            end: date(2018, 6, 28),
            hour: None,
            account: true,
        };
        let mut session = Session {
            id: "i".to_owned(),
            space: None,
            username: None,
            created: None,
            accessed: None,
            range: None,
            account: None,
            hour: None,
        };
        assert_eq!(mismatches(&request, &session), Vec::<String>::new());
        session.range = Some((date(2018, 6, 27), date(2018, 6, 27)));
        session.account = Some(false);
        session.hour = Some(Some(3));
        let text = mismatches(&request, &session).join("\n");
        for words in ["answered 2018-06-27", "hour 3", "events of the space"] {
            assert!(text.contains(words), "{text}");
        }
    }
}
