//! `eventexport session create`. Speaks to the service.

use jiff::civil::Date;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::json;

use super::super::exit::{Exit, Fault};
use super::super::output::OutputArgs;
use super::super::size;
use super::super::source::{Source, SourceArgs};
use super::{SESSIONS_PER_SPACE, view};
use crate::export::window::parse_date;
use crate::tracker::{Session, SessionRequest, TrackerError};

/// The document of a new session.
pub const SCHEMA: &str = "eventexport.io/session-create/v1";

/// Days that a session may have (API page).
pub const DAYS_MAX: i32 = 15;

/// Arguments of `session create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
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
pub async fn create(args: &CreateArgs) -> Result<Exit, Fault> {
    args.output.start_log()?;
    let (start, end) = days(args.start, args.end, today())?;
    let source = args.source.connect()?;
    let ask = SessionRequest {
        start,
        end,
        hour: args.hour,
        account: source.account,
    };
    let session = match source.tracker.create_session(&source.space, &ask).await {
        Ok(session) => session,
        Err(error) => return Err(refused(&source, &error).await),
    };
    let warnings = differences(&ask, &session);
    let document = json!({
        "session": view::object(&session),
        "asked": {"start": start, "end": end, "hour": ask.hour, "account": ask.account},
        "warnings": warnings,
    });
    args.output
        .print(SCHEMA, document, || view::name_and_value(&session));
    if !args.output.json() {
        // Not a remark: who is quiet must know it too.
        for warning in &warnings {
            eprintln!("eventexport: warning: {warning}");
        }
    }
    Ok(Exit::Done)
}

/// The days that are meant: one given end stands for both.
fn days(start: Option<Date>, end: Option<Date>, today: Date) -> Result<(Date, Date), Fault> {
    let (start, end) = (start.or(end).unwrap_or(today), end.or(start).unwrap_or(today));
    if end < start {
        return Err(Fault::usage(format!("--end: {end} is before --start {start}")));
    }
    let days = (end - start).get_days() + 1;
    if days > DAYS_MAX {
        return Err(Fault::usage(format!(
            "--end: {start} to {end} are {days} days, and a session may have {DAYS_MAX} at most: make several sessions, or \
             let `eventexport run` do it"
        )));
    }
    Ok((start, end))
}

/// What the service answered otherwise than asked.
fn differences(ask: &SessionRequest, session: &Session) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some((start, end)) = session.range
        && (start, end) != (ask.start, ask.end)
    {
        warnings.push(format!(
            "asked for {} to {}, and the service answered {start} to {end}: a download gets the days of the answer",
            ask.start, ask.end
        ));
    }
    if let Some(hour) = session.hour
        && hour != ask.hour
    {
        let text = |hour: Option<u8>| hour.map_or("the whole day".to_owned(), |hour| format!("hour {hour}"));
        warnings.push(format!(
            "asked for {}, and the service answered {}",
            text(ask.hour),
            text(hour)
        ));
    }
    if let Some(account) = session.account
        && account != ask.account
    {
        let text = |account| if account { "the account" } else { "the space" };
        warnings.push(format!(
            "asked for events of {}, and the service answered events of {}",
            text(ask.account),
            text(account)
        ));
    }
    warnings
}

/// Why there is no session, and what to do about it.
async fn refused(source: &Source, error: &TrackerError) -> Fault {
    let message = match error {
        TrackerError::Capacity { space, status, said } => {
            let said = if said.is_empty() {
                String::new()
            } else {
                format!(", saying “{said}”")
            };
            let open = match source.tracker.sessions(&source.space).await {
                Ok(sessions) => of_the_open(&sessions),
                Err(error) => format!(
                    "The list of sessions is not to be had: {}.",
                    source.worded(&error)
                ),
            };
            format!("no session could be opened in space {space} (status {status}){said}. {open}")
        }
        error if error.may_have_executed() => format!(
            "{}; a session may be open all the same: `eventexport session list` shows it",
            source.worded(error)
        ),
        error => source.worded(error),
    };
    Fault::Failed(anyhow::anyhow!(message))
}

/// How many are open, whose, and the way out.
fn of_the_open(sessions: &[Session]) -> String {
    let mut users: Vec<(&str, u64)> = Vec::new();
    for session in sessions {
        let user = session.username.as_deref().unwrap_or("an unnamed user");
        match users.iter_mut().find(|(known, _)| *known == user) {
            Some((_, number)) => *number += 1,
            None => users.push((user, 1)),
        }
    }
    users.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    let whose: Vec<String> = users
        .iter()
        .map(|(user, number)| format!("{} of {user}", size::count(*number)))
        .collect();
    let oldest = sessions.iter().filter_map(|session| session.created).min();
    let oldest = oldest
        .map(|at| format!(", the oldest of {at}"))
        .unwrap_or_default();
    let shown = size::of(sessions.len() as u64, "open session");
    if sessions.is_empty() {
        return format!(
            "The service shows you none that is open: the {SESSIONS_PER_SPACE} that a space may have are other users', or you \
             lack the developer role in the space (for --account the account's permission)."
        );
    }
    let full = if sessions.len() >= SESSIONS_PER_SPACE {
        format!("The space is full: {shown}")
    } else {
        format!(
            "The service shows you {shown} of the {SESSIONS_PER_SPACE} that a space may have; the rest may be other users', or \
             you lack a permission"
        )
    };
    format!(
        "{full} ({}{oldest}). Delete what nobody needs (`eventexport session list`, `eventexport session delete ID`, or \
         `eventexport session delete --all-mine-older-than 2h`), or wait until others have ended theirs.",
        whose.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn one_end_stands_for_both_and_too_many_days_are_refused() {
        let now = date(2018, 7, 1);
        let (one, two) = (date(2018, 6, 1), date(2018, 6, 2));
        for (start, end, wanted) in [
            (None, None, (now, now)),
            (Some(one), None, (one, one)),
            (None, Some(one), (one, one)),
            (Some(one), Some(two), (one, two)),
        ] {
            assert_eq!(days(start, end, now).ok(), Some(wanted));
        }
        assert!(days(Some(two), Some(one), now).is_err());
        assert!(days(Some(one), Some(date(2018, 6, 15)), now).is_ok());
        let error = days(Some(one), Some(date(2018, 6, 16)), now)
            .unwrap_err()
            .to_string();
        assert!(error.contains("16 days"), "{error}");
    }

    #[test]
    fn an_answer_that_differs_is_told_and_one_that_says_nothing_is_not() {
        let ask = SessionRequest {
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
        assert_eq!(differences(&ask, &session), Vec::<String>::new());
        session.range = Some((date(2018, 6, 27), date(2018, 6, 27)));
        session.account = Some(false);
        session.hour = Some(Some(3));
        let told = differences(&ask, &session).join("\n");
        for words in ["answered 2018-06-27", "hour 3", "events of the space"] {
            assert!(told.contains(words), "{told}");
        }
    }
}
