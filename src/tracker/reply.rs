//! Parser of the JSON of the service in all its shapes: lists as arrays or in objects, keys in any case, numbers as
//! strings. No I/O.
//!
//! Absent values are `None`. Values that cannot be parsed are errors, because an overlooked session or day would look
//! deleted or empty.

use jiff::{Timestamp, civil::Date};
use serde_json::{Map, Value};

use super::{Day, Session};
use crate::api::{is_printable, sanitize};

/// Maximum length of a session id; it becomes a header, a path segment and part of a key.
const MAX_ID_CHARS: usize = 256;
/// Maximum length of the name of a user or space: names are stored in documents of limited size.
const MAX_NAME_CHARS: usize = 256;
/// Maximum number of sessions in a list: the service has 30 per space, and the journal of an attempt names all of them.
const MAX_SESSIONS: usize = 1000;
/// Maximum number of items of TYPES or SEARCHABLE that are displayed.
const MAX_ITEMS: usize = 64;
/// Maximum number of rows in a listing, over all days and types.
const MAX_ROWS: usize = 100_000;
/// Names of the list inside of an object.
const LIST_KEYS: [&str; 7] = [
    "sessions",
    "events",
    "days",
    "status",
    "data",
    "items",
    "resources",
];

/// Parses the reply to a POST, or to a GET of one session.
pub(super) fn session(body: &[u8]) -> Result<Session, String> {
    match parse(body)? {
        Value::Object(map) if has_field(&map, "id") => one_session(&map),
        Value::Object(map) => match map
            .values()
            .filter_map(Value::as_object)
            .find(|inner| has_field(inner, "id"))
        {
            Some(inner) => one_session(inner),
            None => Err("no session id".to_owned()),
        },
        Value::Array(list) => match list.as_slice() {
            [Value::Object(map)] => one_session(map),
            _ => Err("a list instead of one session".to_owned()),
        },
        _ => Err("not a session".to_owned()),
    }
}

/// Parses a list of sessions.
pub(super) fn sessions(body: &[u8]) -> Result<Vec<Session>, String> {
    rows(parse(body)?, MAX_SESSIONS)?
        .iter()
        .map(one_session)
        .collect()
}

/// Parses a daily listing: sorted, one row per day.
pub(super) fn days(body: &[u8]) -> Result<Vec<Day>, String> {
    let mut days = rows(parse(body)?, MAX_ROWS)?
        .iter()
        .map(one_day)
        .collect::<Result<Vec<_>, _>>()?;
    days.sort_by_key(|day| day.date);
    days.dedup_by(|later, kept| later.date == kept.date && merge(kept, later));
    Ok(days)
}

fn parse(body: &[u8]) -> Result<Value, String> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err("the body is empty".to_owned());
    }
    // The message of serde_json names a position, not the text.
    serde_json::from_slice(body).map_err(|error| format!("not JSON ({error})"))
}

/// Returns the objects of a list: an array, an object that contains one (or null in its place), or null.
fn rows(json: Value, max: usize) -> Result<Vec<Map<String, Value>>, String> {
    let list = match json {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        Value::Object(mut map) => {
            let named = LIST_KEYS.into_iter().find(|key| map.contains_key(*key));
            let arrays = map.iter().filter(|(_, value)| value.is_array());
            let arrays: Vec<&str> = arrays.map(|(key, _)| key.as_str()).take(2).collect();
            let key = match (named, arrays.as_slice()) {
                (Some(named), _) if map.get(named).is_some_and(Value::is_array) => named.to_owned(),
                (_, &[only]) => only.to_owned(),
                (_, [_, _, ..]) => return Err("several lists".to_owned()),
                (_, []) if has_field(&map, "id") || has_field(&map, "date") => return Ok(vec![map]),
                (Some(named), []) if map.get(named).is_some_and(Value::is_null) => return Ok(Vec::new()),
                (_, []) => return Err("no list".to_owned()),
            };
            match map.get_mut(&key).map(Value::take) {
                Some(Value::Array(list)) => list,
                _ => Vec::new(),
            }
        }
        _ => return Err("not a list".to_owned()),
    };
    if list.len() > max {
        return Err(format!("more than {max} rows"));
    }
    list.into_iter()
        .map(|row| match row {
            Value::Object(map) => Ok(map),
            _ => Err("a row is not an object".to_owned()),
        })
        .collect()
}

fn one_session(map: &Map<String, Value>) -> Result<Session, String> {
    let id = text(field(map, "id"))
        .filter(|id| is_valid_id(id))
        .ok_or("a session without a valid id")?;
    let range = field(map, "daterange").and_then(object);
    let edge = |key| {
        range
            .as_ref()
            .and_then(|range| text(field(range, key)))
            .and_then(|text| date(&text))
    };
    let types = field(map, "types")
        .or_else(|| field(map, "typeaccount"))
        .and_then(object);
    let hour = match text(field(map, "searchtime")) {
        None => None,
        Some(text) if text.trim().is_empty() => Some(None),
        // An invalid hour is unknown, not a complete day.
        Some(text) => text.trim().parse::<u8>().ok().filter(|hour| *hour < 24).map(Some),
    };
    Ok(Session {
        id,
        space: name(field(map, "space")),
        username: name(field(map, "username")),
        created: time(map, "createtime"),
        accessed: time(map, "accesstime"),
        range: edge("start").zip(edge("end")),
        account: types
            .as_ref()
            .and_then(|types| flag(field(types, "ataccountlevel"))),
        hour,
    })
}

fn one_day(map: &Map<String, Value>) -> Result<Day, String> {
    let date = text(field(map, "date"))
        .and_then(|text| date(&text))
        .ok_or("a row without a valid DATE")?;
    Ok(Day {
        date,
        count: number(field(map, "count")),
        size: number(field(map, "size")),
        types: display_text(field(map, "types")),
        searchable: display_text(field(map, "searchable")),
    })
}

/// Merges a second row of the same day: rows of different types are added, repetitions are not.
fn merge(kept: &mut Day, later: &Day) -> bool {
    let both = |one: Option<u64>, other: Option<u64>, join: fn(u64, u64) -> u64| match (one, other) {
        (Some(one), Some(other)) => Some(join(one, other)),
        (one, other) => one.or(other),
    };
    let join = if kept.types == later.types {
        u64::max
    } else {
        u64::saturating_add
    };
    kept.count = both(kept.count, later.count, join);
    kept.size = both(kept.size, later.size, join);
    if kept.types != later.types {
        let types: Vec<_> = [kept.types.take(), later.types.clone()]
            .into_iter()
            .flatten()
            .collect();
        kept.types = Some(sanitize(&types.join(", ")).into_owned());
    }
    true
}

/// Returns true if the id can be sent in a header and, escaped, in a path.
pub(super) fn is_valid_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= MAX_ID_CHARS
        && id != "."
        && id != ".."
        && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns the value of a key, in any case and with or without dashes. Null counts as absent.
fn field<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let same = |name: &str| {
        let mut letters = name
            .bytes()
            .filter(|letter| !matches!(letter, b'-' | b'_' | b' '));
        name.len() >= key.len()
            && key.bytes().all(|wanted| {
                letters
                    .next()
                    .is_some_and(|letter| letter.to_ascii_lowercase() == wanted)
            })
            && letters.next().is_none()
    };
    map.iter()
        .find(|(name, value)| same(name) && !value.is_null())
        .map(|(_, value)| value)
}

fn has_field(map: &Map<String, Value>, key: &str) -> bool {
    field(map, key).is_some()
}

fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Returns a name; an invalid one counts as absent.
pub(super) fn name(value: Option<&Value>) -> Option<String> {
    text(value).filter(|name| name.chars().all(is_printable) && name.chars().nth(MAX_NAME_CHARS).is_none())
}

/// Formats any value for display.
fn display_text(value: Option<&Value>) -> Option<String> {
    let text = match value? {
        Value::Array(list) => {
            let items = list
                .iter()
                .take(MAX_ITEMS)
                .filter_map(|item| display_text(Some(item)));
            items.collect::<Vec<_>>().join(", ")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(sanitize(&text).into_owned())
}

/// Parses an integer, including strings and numbers with a zero fraction.
fn number(value: Option<&Value>) -> Option<u64> {
    let text = text(value)?;
    let integer = match text.trim().split_once('.') {
        Some((integer, fraction)) if fraction.bytes().all(|byte| byte == b'0') => integer.to_owned(),
        Some(_) => return None,
        None => text.trim().to_owned(),
    };
    integer.parse().ok()
}

fn flag(value: Option<&Value>) -> Option<bool> {
    match value? {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// Returns an object, including one encoded as a JSON string, as the command line of 2017 displays the range.
fn object(value: &Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(map) => Some(map.clone()),
        Value::String(text) => serde_json::from_str(text).ok(),
        _ => None,
    }
}

/// Parses a date, or the date of a timestamp.
fn date(text: &str) -> Option<Date> {
    text.trim().get(..10)?.parse().ok()
}

fn time(map: &Map<String, Value>, key: &str) -> Option<Timestamp> {
    text(field(map, key))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Example on the API page of 2019.
    const EXAMPLE: &str = r#"{"id":"b08cb740-ff85-404f-a6eb-ffec5374c7c6","space":"c1234567-6d55-4193-a9de-378620d6fab5","username":"xxx@ibm.com","create-time":"2018-06-28T12:50:36.012383445Z","access-time":"2018-06-28T12:50:36.012383445Z","date-range":{"Start":"2018-06-27","End":"2018-06-27"},"types":{"Type":"ActivityTracker","AtAccountLevel":true},"search-time":""}"#;

    #[test]
    fn the_documented_session_is_parsed_completely() {
        let read = session(EXAMPLE.as_bytes()).unwrap();
        let day: Date = "2018-06-27".parse().unwrap();
        let at: Timestamp = "2018-06-28T12:50:36.012383445Z".parse().unwrap();
        assert_eq!(
            read,
            Session {
                id: "b08cb740-ff85-404f-a6eb-ffec5374c7c6".to_owned(),
                space: Some("c1234567-6d55-4193-a9de-378620d6fab5".to_owned()),
                username: Some("xxx@ibm.com".to_owned()),
                created: Some(at),
                accessed: Some(at),
                range: Some((day, day)),
                account: Some(true),
                hour: Some(None),
            }
        );
    }

    #[test]
    fn field_names_may_be_unknown_missing_or_null() {
        let bare =
            session(br#"{"id":"a","new":{"x":[1]},"space":null,"types":null,"date-range":{"Start":"soon"}}"#)
                .unwrap();
        assert_eq!(
            (bare.space, bare.range, bare.account, bare.hour),
            (None, None, None, None)
        );
        let other = session(
            br#"{"session":{"ID":7,"CreateTime":"x","date_range":"{\"End\":\"2017-07-25\",\"Start\":\"2017-07-24\"}","type-account":{"AtAccountLevel":"false"},"search-time":"7"}}"#,
        )
        .unwrap();
        assert_eq!(
            (other.id.as_str(), other.created, other.hour),
            ("7", None, Some(Some(7)))
        );
        assert_eq!(
            other.range.map(|(start, end)| (start.day(), end.day())),
            Some((24, 25))
        );
        assert_eq!(other.account, Some(false));
        for bad in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"id":""}"#,
            r#"{"id":".."}"#,
            r#"{"id":"a b"}"#,
            "<html>",
            r#"{"message":"ok"}"#,
        ] {
            assert!(session(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_is_an_array_or_in_an_object_or_null() {
        for (body, ids) in [
            (r#"[{"id":"a"},{"id":"b"}]"#, &["a", "b"][..]),
            (r#"{"sessions":[{"id":"a"}],"total":1,"errors":[]}"#, &["a"]),
            (r#"{"found":[{"id":"a"}]}"#, &["a"]),
            (r#"{"id":"a"}"#, &["a"]),
            ("null", &[]),
            ("[]", &[]),
            (r#"{"sessions":null,"total":0}"#, &[]),
        ] {
            let read = sessions(body.as_bytes()).unwrap();
            assert_eq!(
                read.iter().map(|session| session.id.as_str()).collect::<Vec<_>>(),
                ids,
                "{body}"
            );
        }
        // Never read as an empty list: an unlisted session counts as deleted.
        for bad in [
            "",
            "{}",
            r#"{"message":"x"}"#,
            "[1]",
            r#"[{"space":"s"}]"#,
            r#"{"a":[],"b":[]}"#,
            "<html>",
            "true",
        ] {
            assert!(sessions(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn days_are_sorted_and_merged() {
        let body = r#"{"status":[
            {"DATE":"2017-07-25","COUNT":"1224","SIZE":76115.0,"TYPES":["ActivityTracker"],"SEARCHABLE":"All"},
            {"date":"2017-07-24T00:00:00Z","count":16,"size":null},
            {"Date":"2017-07-25","Count":1224,"Types":"ActivityTracker"},
            {"Date":"2017-07-25","Count":6,"Types":"Other"},
            {"Date":"2017-07-26","Count":-1,"size":"many"}]}"#;
        let read = days(body.as_bytes()).unwrap();
        let brief: Vec<_> = read
            .iter()
            .map(|day| (day.date.day(), day.count, day.size))
            .collect();
        assert_eq!(
            brief,
            [
                (24, Some(16), None),
                (25, Some(1230), Some(76115)),
                (26, None, None)
            ]
        );
        assert_eq!(read[1].types.as_deref(), Some("ActivityTracker, Other"));
        assert_eq!(days(b"null").unwrap(), []);
        // An overlooked day would look empty.
        assert!(days(br#"[{"DATE":"2018-02-30","COUNT":1}]"#).is_err());
    }
}
