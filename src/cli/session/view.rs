//! Text and JSON of a session. No I/O.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::exit::CliError;
use super::super::human;
use super::super::output::table;
use super::super::settings::source::SourceConnection;
use crate::tracker::{Session, TrackerError};

/// Returns the JSON of a session; fields that the service omits are null.
pub fn to_json(session: &Session) -> Value {
    let Session {
        id,
        space,
        username,
        created,
        accessed,
        range,
        account,
        hour,
    } = session;
    json!({
        "id": id,
        "space": space,
        "username": username,
        "createTime": created,
        "accessTime": accessed,
        "dateRange": range.map(|(start, end)| json!({"start": start, "end": end})),
        "account": account,
        "hour": hour.flatten(),
    })
}

/// Returns the table of `cf at session create` and `show`, with rows for the newer fields of the service.
pub fn detail_table(session: &Session) -> String {
    let dash = || "-".to_owned();
    let mut rows = table(&["Name", "Value"]);
    let kind = match session.account {
        Some(account) => json!({"Type": "ActivityTracker", "AtAccountLevel": account}),
        None => json!({"Type": "ActivityTracker"}),
    };
    rows.add_row([
        "username".to_owned(),
        session.username.clone().unwrap_or_else(dash),
    ]);
    rows.add_row(["create-time".to_owned(), format_time(session.created)]);
    rows.add_row(["access-time".to_owned(), format_time(session.accessed)]);
    let range = session
        .range
        .map(|(start, end)| json!({"Start": start, "End": end}).to_string());
    rows.add_row(["date-range".to_owned(), range.unwrap_or_else(dash)]);
    if let Some(Some(hour)) = session.hour {
        rows.add_row(["search-time".to_owned(), hour.to_string()]);
    }
    rows.add_row(["type-account".to_owned(), kind.to_string()]);
    rows.add_row(["id".to_owned(), session.id.clone()]);
    rows.add_row(["space".to_owned(), session.space.clone().unwrap_or_else(dash)]);
    rows.to_string()
}

/// Returns the table of sessions: at most 80 columns, or with all fields.
pub fn list_table(sessions: &[Session], wide: bool) -> String {
    let short = ["Id", "Create-time", "Date-range"];
    let long = [
        "Id",
        "Space",
        "Username",
        "Create-time",
        "Access-time",
        "Date-range",
        "Scope",
    ];
    let mut rows = table(if wide { &long } else { &short });
    for session in sessions {
        rows.add_row(if wide {
            long_row(session)
        } else {
            short_row(session)
        });
    }
    rows.to_string()
}

fn short_row(session: &Session) -> Vec<String> {
    let created = session.created.map(human::short_time);
    vec![
        session.id.clone(),
        created.unwrap_or_else(|| "-".to_owned()),
        short_range(session),
    ]
}

fn long_row(session: &Session) -> Vec<String> {
    let dash = || "-".to_owned();
    vec![
        session.id.clone(),
        session.space.clone().unwrap_or_else(dash),
        session.username.clone().unwrap_or_else(dash),
        format_time(session.created),
        format_time(session.accessed),
        format_range(session),
        match session.account {
            Some(true) => "account".to_owned(),
            Some(false) => "space".to_owned(),
            None => dash(),
        },
    ]
}

/// Formats the days, and the hour if there is one.
pub fn format_range(session: &Session) -> String {
    let Some((start, end)) = session.range else {
        return "-".to_owned();
    };
    let days = if start == end {
        start.to_string()
    } else {
        format!("{start}/{end}")
    };
    match session.hour {
        Some(Some(hour)) => format!("{days} T{hour:02}"),
        _ => days,
    }
}

/// Formats the days as ISO 8601 does, which leaves out what the end has in common with the start: `2018-06-28/30`.
fn short_range(session: &Session) -> String {
    let long = format_range(session);
    let Some((start, end)) = session.range.filter(|(start, end)| start < end) else {
        return long;
    };
    let short = match () {
        () if start.year() != end.year() => return long,
        () if start.month() != end.month() => end.strftime("%m-%d"),
        () => end.strftime("%d"),
    };
    long.replace(&format!("/{end}"), &format!("/{short}"))
}

fn format_time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), human::time)
}

/// Converts an error about one session. A refusal may mean that the session belongs to another user.
pub fn session_error(source: &SourceConnection, id: &str, error: &TrackerError) -> CliError {
    match error {
        TrackerError::Forbidden { .. } => {
            CliError::Failed(anyhow::anyhow!("{}", session_error_text(source, id, error)))
        }
        TrackerError::InvalidSessionId { .. } => CliError::usage(session_error_text(source, id, error)),
        other => source.tracker_error(other),
    }
}

/// Returns the text of an error about one session.
pub fn session_error_text(source: &SourceConnection, id: &str, error: &TrackerError) -> String {
    match error {
        TrackerError::Forbidden { host, space, message } => {
            let message = if message.is_empty() {
                String::new()
            } else {
                format!(" (“{message}”)")
            };
            format!(
                "{host} denies access to session {id} in space {space}{message}: the session belongs to another user or space, \
                 or you lack the developer role in the space"
            )
        }
        TrackerError::InvalidSessionId { .. } => format!(
            "ID: {id:?} is not a valid session ID: `eventexport session list` shows the open sessions"
        ),
        other => source.error_text(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_as_short_as_they_can_be() {
        let day = jiff::civil::date;
        for (start, end, hour, short) in [
            (day(2018, 6, 28), day(2018, 6, 28), None, "2018-06-28"),
            (day(2018, 6, 28), day(2018, 6, 30), None, "2018-06-28/30"),
            (day(2018, 6, 28), day(2018, 7, 2), Some(7), "2018-06-28/07-02 T07"),
            (day(2018, 12, 28), day(2019, 1, 2), None, "2018-12-28/2019-01-02"),
        ] {
            let session = Session {
                id: String::new(),
                space: None,
                username: None,
                created: None,
                accessed: None,
                range: Some((start, end)),
                account: None,
                hour: Some(hour),
            };
            assert_eq!(short_range(&session), short);
        }
    }

    #[test]
    fn the_table_matches_cf_at_session_show() {
        let session = Session {
            id: "32c657c5".to_owned(),
            space: Some("66fe4565".to_owned()),
            username: Some("xxx@yyy.com".to_owned()),
            created: "2017-07-25T10:29:28.541092735Z".parse().ok(),
            accessed: None,
            range: Some((jiff::civil::date(2017, 7, 25), jiff::civil::date(2017, 7, 25))),
            account: None,
            hour: Some(None),
        };
        let text = detail_table(&session);
        for row in [
            "| username     | xxx@yyy.com                               |",
            "| create-time  | 2017-07-25T10:29:29Z                      |",
            "| access-time  | -                                         |",
            "| date-range   | {\"End\":\"2017-07-25\",\"Start\":\"2017-07-25\"} |",
            "| type-account | {\"Type\":\"ActivityTracker\"}                |",
            "| id           | 32c657c5                                  |",
            "| space        | 66fe4565                                  |",
        ] {
            assert!(text.contains(row), "{row} is not in:\n{text}");
        }
    }
}
