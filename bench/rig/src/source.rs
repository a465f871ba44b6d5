//! A tracker without errors: a login, sessions, a listing of days, and downloads from memory. The name of a space
//! defines its contents: `b1048576-w30` has 30 days, from the first, of one MiB each, all the same.
//! `GET /plain/1048576` returns the same bytes without login and session, for contenders that support neither.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::corpus::{Corpus, WindowBody};
use crate::http::{self, Connection, RequestHead, Service, Socket};
use crate::{BenchResult, certificates};

/// The first day; windows are consecutive days.
const FIRST_DAY: (i64, i64, i64) = (2015, 1, 1);
/// Days between 1970 and the first day.
const FIRST_DAY_UNIX: i64 = 16_436;

#[derive(Clone)]
struct FakeTracker(Arc<TrackerState>);

struct TrackerState {
    corpus: Corpus,
    bodies: Mutex<BTreeMap<u64, Arc<WindowBody>>>,
    sessions: Mutex<BTreeMap<String, Value>>,
    tls: String,
}

/// Serves until the process ends.
pub fn serve(plain: u16, tls: u16, folder: &str) -> BenchResult {
    let state = TrackerState {
        corpus: Corpus::new(),
        bodies: Mutex::default(),
        sessions: Mutex::default(),
        tls: format!(":{tls}"),
    };
    http::serve(
        FakeTracker(Arc::new(state)),
        plain,
        tls,
        certificates::server(folder)?,
    )
}

/// Returns the size of a window in bytes, and the number of windows in a space.
fn parse_space(space: &str) -> Option<(u64, i64)> {
    let (bytes, windows) = space.strip_prefix('b')?.split_once("-w")?;
    Some((bytes.parse().ok()?, windows.parse().ok()?))
}

/// Returns the date of the `n`th day (Howard Hinnant's algorithms for the civil calendar).
fn day(n: i64) -> String {
    let (year, month, date) = FIRST_DAY;
    let y = if month <= 2 { year - 1 } else { year };
    let (era, m) = (y.div_euclid(400), if month > 2 { month - 3 } else { month + 9 });
    let of_year = (153 * m + 2) / 5 + date - 1;
    let of_era = y.rem_euclid(400) * 365 + y.rem_euclid(400) / 4 - y.rem_euclid(400) / 100 + of_year;
    let z = era * 146_097 + of_era + n;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let y = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * y + y / 4 - y / 100);
    let m = (5 * of_year + 2) / 153;
    let date = of_year - (153 * m + 2) / 5 + 1;
    let month = if m < 10 { m + 3 } else { m - 9 };
    format!(
        "{:04}-{month:02}-{date:02}",
        y + era * 400 + i64::from(month <= 2)
    )
}

impl Service for FakeTracker {
    async fn respond<S: Socket>(&self, head: RequestHead, connection: &mut Connection<S>) -> io::Result<()> {
        let (request, _) = connection.body(&head, 1 << 16).await?;
        let request: Value = serde_json::from_slice(&request).unwrap_or_default();
        let sessions = || self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |id: &str| sessions().get(id).cloned();
        let space = head.header("x-auth-project-id").unwrap_or_default();
        let (bytes, windows) = parse_space(space).unwrap_or_default();
        let (status, value) = match (head.method.as_str(), head.path.trim_matches('/')) {
            ("GET", "v3/events/download") => return self.download(bytes, connection).await,
            ("GET", "v2/info") => {
                let host = head.header("host").unwrap_or_default();
                let scheme = if host.ends_with(&self.0.tls) {
                    "https"
                } else {
                    "http"
                };
                (
                    200,
                    json!({"authorization_endpoint": format!("{scheme}://{host}")}),
                )
            }
            ("POST", "oauth/token") => {
                let token = json!({"access_token": "bench", "refresh_token": "bench", "token_type": "bearer", "expires_in": 36_000});
                (200, token)
            }
            ("GET", "v3/events") => {
                let body = self.body(bytes);
                let within = |date: &String| {
                    let at = |name: &str| request.get(name).and_then(Value::as_str).map(str::to_owned);
                    at("start").is_none_or(|start| *date >= start) && at("end").is_none_or(|end| *date <= end)
                };
                let row = |date: String| json!({"DATE": date, "COUNT": body.events, "SIZE": body.bytes, "TYPES": "ActivityTracker", "SEARCHABLE": "None"});
                (
                    200,
                    Value::Array((0..windows).map(day).filter(within).map(row).collect()),
                )
            }
            ("POST", "v3/sessions") => {
                let now = now();
                let mut all = sessions();
                let id = format!("{:08x}-0000-4000-8000-{:012x}", all.len(), next_session());
                let session = json!({
                    "id": id, "space": space, "username": "bench", "create-time": now,
                    "access-time": now, "date-range": {"Start": request["start"], "End": request["end"]},
                    "types": {"Type": "ActivityTracker", "AtAccountLevel": request["AtAccountLevel"]},
                    "search-time": request["SearchTime"],
                });
                all.insert(id, session.clone());
                (200, session)
            }
            ("GET", "v3/sessions") => (200, Value::Array(sessions().values().cloned().collect())),
            ("GET", path) if path.starts_with("plain/") => {
                let bytes = path.trim_start_matches("plain/").parse().unwrap_or(0);
                return self.download(bytes, connection).await;
            }
            (method, path) => match (method, path.strip_prefix("v3/sessions/")) {
                ("GET", Some(id)) => known(id)
                    .map_or((404, json!({"message": "no such session"})), |session| {
                        (200, session)
                    }),
                ("DELETE", Some(id)) => {
                    sessions().remove(id);
                    (200, json!({"message": "Delete session success"}))
                }
                _ => (404, json!({"message": "not found"})),
            },
        };
        let text = value.to_string();
        connection
            .reply(status, &[("Content-Type", "application/json")], text.as_bytes())
            .await
    }
}

impl FakeTracker {
    /// Returns the body of a size, which is generated once.
    fn body(&self, bytes: u64) -> Arc<WindowBody> {
        let mut bodies = self.0.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            bodies
                .entry(bytes)
                .or_insert_with(|| Arc::new(self.0.corpus.body(bytes))),
        )
    }

    async fn download<S: Socket>(&self, bytes: u64, connection: &mut Connection<S>) -> io::Result<()> {
        let body = self.body(bytes);
        let head = http::response_head(200, &[("Content-Type", "application/octet-stream")], body.bytes);
        connection.stream.write_all(head.as_bytes()).await?;
        for piece in &body.pieces {
            connection.stream.write_all(piece).await?;
        }
        connection.stream.flush().await
    }
}

/// Returns a unique number for a session.
fn next_session() -> u64 {
    static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Returns the current time in RFC 3339 format.
fn now() -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    rfc3339(now.as_secs())
}

/// Formats a time in seconds since 1970 by RFC 3339.
pub fn rfc3339(seconds: u64) -> String {
    let (days, of_day) = ((seconds / 86_400) as i64, seconds % 86_400);
    format!(
        "{}T{:02}:{:02}:{:02}.000Z",
        day(days - FIRST_DAY_UNIX),
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}
