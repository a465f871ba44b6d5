//! Text and JSON of a session. No I/O.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::exit::CliError;
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

/// Returns the row of a session in the list.
pub fn list_row(session: &Session) -> Vec<String> {
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

fn format_time(at: Option<Timestamp>) -> String {
    // Always nine digits, as the service writes them, so that columns keep their width.
    at.map_or_else(|| "-".to_owned(), |at| format!("{at:.9}"))
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
            "| create-time  | 2017-07-25T10:29:28.541092735Z            |",
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
