//! Properties of the parsers for any reply of the tracker, its UAA or a gateway in front of them. For tests and
//! fuzzing. No I/O.

// These functions panic if a property does not hold.
#![allow(clippy::missing_panics_doc, clippy::needless_for_each)]

use std::io::Write as _;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::error_reply;
use super::error_text::error_text;
use super::resume::{BodyFraming, ResumeAction, ResumeState, classify, confirms_end, parse_head};
use super::uaa::{TokenResponse, authorization_endpoint, user_name_claim};
use super::{RetryConfig, Session, reply};
use crate::api::{is_printable, redact};
use crate::fuzzing::{SECRET, assert_displayable, assert_no_secret, insert_secret};

/// Maximum length of a name that is kept.
const MAX_NAME_CHARS: usize = 256;

/// Checks replies to the POST and GET of a session: the parsed session is displayable and round-trips, and errors quote
/// nothing of the reply.
pub fn session_response(data: &[u8]) {
    if let Err(why) = reply::session(&insert_secret(data)) {
        assert_no_secret(&why);
    }
    let Ok(session) = reply::session(data) else { return };
    assert_valid_session(&session);
    let again = reply::session(session_json(&session).to_string().as_bytes());
    assert_eq!(again.as_ref(), Ok(&session));
    // Also inside of another object.
    let wrapped = json!({"session": session_json(&session)}).to_string();
    assert_eq!(reply::session(wrapped.as_bytes()), Ok(session));
}

/// Checks the list of sessions and the daily listing: bounded, sorted, and equal in all shapes.
pub fn session_list(data: &[u8]) {
    let secret = insert_secret(data);
    for error in [
        reply::sessions(&secret).err(),
        reply::days(&secret).err(),
        reply::session(&secret).err(),
    ] {
        assert_no_secret(&error.unwrap_or_default());
    }
    if let Ok(sessions) = reply::sessions(data) {
        assert!(sessions.len() <= 1000);
        sessions.iter().for_each(assert_valid_session);
        let rows: Vec<Value> = sessions.iter().map(session_json).collect();
        for shape in [
            json!(rows),
            json!({"sessions": rows}),
            json!({"count": 1, "whatever": rows}),
        ] {
            assert_eq!(
                reply::sessions(shape.to_string().as_bytes()).as_ref(),
                Ok(&sessions)
            );
        }
    }
    if let Ok(days) = reply::days(data) {
        assert!(days.is_sorted_by(|one, other| one.date < other.date), "{days:?}");
        let texts = days.iter().flat_map(|day| [&day.types, &day.searchable]);
        texts.flatten().for_each(|text| assert_displayable(text));
        let rows = days.iter().map(|day| {
            json!({
                "DATE": day.date, "COUNT": day.count, "SIZE": day.size.map(|size| size.to_string()),
                "types": day.types, "Searchable": day.searchable,
            })
        });
        let rows = Value::Array(rows.collect()).to_string();
        let again = reply::days(rows.as_bytes());
        assert_eq!(
            again.map(|days| days.iter().map(|day| (day.date, day.count, day.size)).collect()),
            Ok(days
                .iter()
                .map(|day| (day.date, day.count, day.size))
                .collect::<Vec<_>>())
        );
    }
}

/// Checks the reply of the UAA and of `/v2/info`: a token fits a header, its lifetime is finite, and errors do not
/// quote it.
pub fn token_response(data: &[u8]) {
    if let Err(why) = TokenResponse::parse(&insert_secret(data)) {
        assert_no_secret(why);
    }
    if let Ok(response) = TokenResponse::parse(data) {
        assert!(HeaderValue::from_str(&format!("bearer {}", response.access_token)).is_ok());
        let _: Duration = response.lifetime();
        user_name_claim(&response.access_token)
            .iter()
            .for_each(|user| assert_valid_name(user));
    }
    if let Some(url) = authorization_endpoint(data) {
        // The next step of the caller.
        let _ = crate::egress::HostPolicy::any().check_url(&url);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let claims = aws_smithy_types::base64::encode(text);
        for token in [
            text.to_owned(),
            format!("e30.{}.c2ln", claims.trim_end_matches('=')),
        ] {
            user_name_claim(&token)
                .iter()
                .for_each(|user| assert_valid_name(user));
        }
    }
}

/// Checks an error page, compressed or not, as JSON, HTML or other: the result is a short line without any form of the
/// secret.
pub fn error_body(data: &[u8]) {
    let page = insert_secret(data);
    let mut compressed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let compressed = compressed
        .write_all(&page)
        .and_then(|()| compressed.finish())
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&page);
    let escaped: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    for body in [
        &page[..],
        data,
        &compressed,
        escaped.as_bytes(),
        json!({ "message": text }).to_string().as_bytes(),
        json!({"error": {"description": [text]}}).to_string().as_bytes(),
    ] {
        let line = error_text(body, &[SECRET, ""]);
        assert_no_secret(&line);
        assert!(line.chars().count() <= 200, "{line}");
    }
    let start = redact(&text, &[SECRET], 120);
    assert_no_secret(&start);
    assert!(start.chars().count() <= 120, "{start}");
}

/// Checks the headers that control retries: `Retry-After` never exceeds its limit, and a part is appended only if it
/// begins at the requested byte.
pub fn retry_after(data: &[u8]) {
    let mut fields = data.splitn(4, |byte| *byte == b'\n');
    let mut field = || HeaderValue::from_bytes(fields.next().unwrap_or_default()).ok();
    let names = [header::RETRY_AFTER, header::CONTENT_RANGE, header::CONTENT_LENGTH];
    let headers: HeaderMap = names
        .into_iter()
        .filter_map(|name| Some((name, field()?)))
        .collect();
    let numbers = fields.next().unwrap_or_default();
    let byte = |at: usize| numbers.get(at).copied().unwrap_or(0);

    let policy = RetryConfig::default();
    let after = error_reply::retry_after(&headers, Timestamp::UNIX_EPOCH);
    if let Some(seconds) = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse::<u32>().ok())
    {
        assert_eq!(after, Some(Duration::from_secs(seconds.into())));
    }
    let random = f64::from(byte(0)) / 255.0;
    let pause = policy.backoff(u32::from(byte(1)), after, random);
    assert!(pause <= policy.retry_after_cap.max(policy.cap));
    if let Some(pause) = policy.pause(1, Duration::from_secs(byte(2).into()), after, random) {
        assert!(Duration::from_secs(byte(2).into()) + pause <= policy.total);
    }

    let statuses = [200, 204, 206, 301, 404, 416, 429, 500, 503];
    let status = statuses
        .get(usize::from(byte(3)) % statuses.len())
        .copied()
        .unwrap_or(200);
    let status = StatusCode::from_u16(status).unwrap_or_default();
    let read = parse_head(Version::HTTP_11, status, &headers);
    let state = ResumeState {
        at: u64::from(byte(4)),
        total: (byte(5) > 0).then(|| u64::from(byte(5))),
        confirming: byte(6) & 1 == 1,
    };
    if let Some(range) = read.range
        && let Some((first, end)) = range.span
    {
        assert!(first < end);
    }
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = length {
        assert_eq!(read.framing, BodyFraming::Length(length));
    }
    match classify(&read, state) {
        ResumeAction::Append => {
            let first = read.range.and_then(|range| range.span).map(|(first, _)| first);
            assert_eq!((status, first), (StatusCode::PARTIAL_CONTENT, Some(state.at)));
        }
        ResumeAction::CompareFromStart => assert!(status.is_success()),
        ResumeAction::SessionGone => assert!(!state.confirming),
        ResumeAction::Complete(_)
        | ResumeAction::ProbeLastByte
        | ResumeAction::Retry
        | ResumeAction::Fail(_) => {}
    }
    let _ = confirms_end(&read, state.at);
}

/// Returns a session as the API page shows it.
fn session_json(session: &Session) -> Value {
    let mut document = json!({"id": session.id});
    let mut put = |name: &str, value: Option<Value>| {
        if let (Some(fields), Some(value)) = (document.as_object_mut(), value) {
            fields.insert(name.to_owned(), value);
        }
    };
    put("space", session.space.clone().map(Value::from));
    put("username", session.username.clone().map(Value::from));
    put("create-time", session.created.map(|time| time.to_string().into()));
    put(
        "access-time",
        session.accessed.map(|time| time.to_string().into()),
    );
    put(
        "date-range",
        session
            .range
            .map(|(start, end)| json!({"Start": start, "End": end})),
    );
    put(
        "types",
        session
            .account
            .map(|account| json!({"Type": "ActivityTracker", "AtAccountLevel": account})),
    );
    put(
        "search-time",
        session
            .hour
            .map(|hour| hour.map(|hour| hour.to_string()).unwrap_or_default().into()),
    );
    document
}

fn assert_valid_session(session: &Session) {
    assert!(reply::is_valid_id(&session.id), "{}", session.id);
    let names = [&session.space, &session.username];
    names
        .into_iter()
        .flatten()
        .for_each(|name| assert_valid_name(name));
    assert!(session.hour.flatten().is_none_or(|hour| hour < 24));
}

fn assert_valid_name(name: &str) {
    assert!(
        name.chars().count() <= MAX_NAME_CHARS && name.chars().all(is_printable),
        "{name:?}"
    );
}
