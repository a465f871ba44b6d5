//! Cost of a look at an archive: requests and peak memory of `plan`, with ten years of windows in an S3 server in memory.
//! The table is in `docs/requests.md`: `UPDATE_DOCS=1 cargo test --test it scale::look`.

use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::testkit::manifest::Manifest;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use eventexport::archive::counts::Verdict;
use eventexport::archive::layout::Key;
use eventexport::archive::listing::Journal;
use eventexport::archive::manifest::document::FileDigest;
use eventexport::archive::receipt::{ReceiptFacts, Sha256Digest};
use eventexport::archive::records::{self, ArchiveRecord as _, ObjectRecord, RangeRecord, Receipt};
use eventexport::archive::window::Window;
use eventexport::export::manifest::periods::periods;
use eventexport::export::manifest::statement::{ChainPlace, build_statement};
use eventexport::export::spec::ExportSpec;
use jiff::civil::{Date, date};
use jiff::{Timestamp, ToSpan as _};
use tokio::process::Command;

const SPACE: &str = "c1";
const SOURCE: &str = "https://tracker.example";
const FIRST: Date = date(2016, 1, 1);
/// Keys in a page of a listing, as of AWS.
const PAGE: usize = 1000;
/// Maximum growth of the peak memory over that of an empty archive: 64 MiB.
const MEMORY_MAX: u64 = 64 << 20;
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/requests.md");

/// An object: its content, or its size if nobody reads it, and the time of writing.
enum Stored {
    Content(Vec<u8>, &'static str),
    Size(u64, &'static str),
}

/// S3 server in memory.
#[derive(Default)]
struct MemoryStore {
    objects: BTreeMap<String, Stored>,
    lists: AtomicU64,
    gets: AtomicU64,
    others: AtomicU64,
}

const STORED_AT: &str = "2030-01-01T00:00:00.000Z";
const SEALED_AT: &str = "2030-01-01T01:00:00.000Z";

impl MemoryStore {
    async fn serve(self: &Arc<Self>) -> String {
        let app = Router::new().fallback(answer).with_state(Arc::clone(self));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        url
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Response {
        self.lists.fetch_add(1, Ordering::Relaxed);
        let prefix = query.get("prefix").map_or("", String::as_str);
        let after = query.get("continuation-token").map_or(prefix, String::as_str);
        let mut rows = self
            .objects
            .range(after.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix));
        let mut xml = "<ListBucketResult><Name>audit</Name>".to_owned();
        for (key, stored) in rows.by_ref().take(PAGE) {
            let (size, time) = match stored {
                Stored::Content(bytes, time) => (bytes.len() as u64, time),
                Stored::Size(size, time) => (*size, time),
            };
            let etag = format!("&quot;{:032x}&quot;", key.len());
            let _ = write!(
                xml,
                "<Contents><Key>{key}</Key><LastModified>{time}</LastModified><ETag>{etag}</ETag><Size>{size}</Size></Contents>"
            );
        }
        let next = rows.next().map(|(key, _)| key);
        let _ = write!(xml, "<IsTruncated>{}</IsTruncated>", next.is_some());
        if let Some(next) = next {
            let _ = write!(xml, "<NextContinuationToken>{next}</NextContinuationToken>");
        }
        xml.push_str("</ListBucketResult>");
        ([("content-type", "application/xml")], xml).into_response()
    }
}

async fn answer(
    State(store): State<Arc<MemoryStore>>,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    if query.contains_key("list-type") {
        return store.list(&query);
    }
    let path = percent_encoding::percent_decode_str(uri.path()).decode_utf8_lossy();
    if let Some(Stored::Content(bytes, _)) = store.objects.get(path.trim_start_matches("/audit/")) {
        store.gets.fetch_add(1, Ordering::Relaxed);
        Bytes::from(bytes.clone()).into_response()
    } else {
        store.others.fetch_add(1, Ordering::Relaxed);
        StatusCode::NOT_FOUND.into_response()
    }
}

/// Windows of an archive.
#[derive(Clone, Copy, PartialEq)]
enum Windows {
    /// Days.
    Days,
    /// Days for which the service gives no count.
    UncountedDays,
    /// Every hour.
    Hours,
    /// The same hour of each day.
    OneHour,
}

/// Hour of [`Windows::OneHour`].
const HOUR: u8 = 7;

/// Archive of ten years.
struct Archive {
    name: &'static str,
    windows: Windows,
    continuous: bool,
    sealed: bool,
    days: i64,
    /// Maximum number of requests.
    requests_max: u64,
}

impl Archive {
    fn last(&self) -> Date {
        FIRST.checked_add((self.days - 1).days()).unwrap()
    }

    fn export(&self) -> ExportSpec {
        ExportSpec {
            end: (!self.continuous).then(|| self.last()),
            hour: (self.windows == Windows::OneHour).then_some(HOUR),
            ..ExportSpec::new("audit", SPACE, SOURCE, "t", FIRST)
        }
    }

    fn manifest(&self) -> String {
        let end = if self.continuous {
            String::new()
        } else {
            self.last().to_string()
        };
        let manifest = Manifest::new("audit", SOURCE)
            .days(&FIRST.to_string(), &end)
            .set("space", SPACE)
            .set("destination.s3", json!({ "bucket": "audit", "prefix": "t" }));
        match self.windows {
            Windows::OneHour => manifest.set("dateRange.hour", HOUR).text(),
            _ => manifest.text(),
        }
    }

    fn store(&self) -> MemoryStore {
        let export = self.export();
        let mut store = MemoryStore::default();
        let mut journal = Journal::default();
        let range = RangeRecord {
            start: FIRST,
            end: self.last(),
            hour: None,
        };
        for day in range.days() {
            let windows: Vec<Window> = match self.windows {
                Windows::Days | Windows::UncountedDays => vec![Window::day(day)],
                Windows::Hours => Window::split(day).collect(),
                Windows::OneHour => Window::hour(day, HOUR).into_iter().collect(),
            };
            for window in windows {
                let receipt = receipt(window, self.windows);
                let bytes = records::encode(&receipt);
                let facts = ReceiptFacts::new(&receipt, Sha256Digest::of(&bytes));
                journal.objects.insert(window, facts.summary.bytes);
                journal.receipts.insert(window, Some(Box::new(facts)));
                let size = Stored::Size(receipt.object.unwrap().bytes, STORED_AT);
                store
                    .objects
                    .insert(export.root.key(&Key::Events(window)).unwrap(), size);
                let content = Stored::Content(bytes, STORED_AT);
                store
                    .objects
                    .insert(export.root.key(&Key::Receipt(window)).unwrap(), content);
            }
        }
        let mut previous = None;
        let now = Window::day(self.last()).end();
        let all = if self.sealed {
            periods(&export, now)
        } else {
            Vec::new()
        };
        // The last month of a continuous export is open.
        let closed = all.into_iter().filter(|period| period.end <= self.last());
        for (number, period) in (1..).zip(closed) {
            let statement = build_statement(&export, &journal, period).unwrap();
            let place = ChainPlace {
                sequence: number,
                previous,
                ..ChainPlace::default()
            };
            let manifest = statement.manifest(place, SEALED_AT.parse().unwrap());
            let bytes = records::encode(&manifest);
            let key = Key::Manifest(number);
            previous = Some(FileDigest {
                key: key.relative().unwrap(),
                sha256: Sha256Digest::of(&bytes).to_string(),
            });
            let content = Stored::Content(bytes, SEALED_AT);
            store.objects.insert(export.root.key(&key).unwrap(), content);
        }
        store
    }
}

fn receipt(window: Window, windows: Windows) -> Receipt {
    let counted = windows == Windows::Days;
    let stored_at: Timestamp = STORED_AT.parse().unwrap();
    let events = 240;
    let range = RangeRecord {
        start: window.date(),
        end: window.date(),
        hour: window.hour_of_day(),
    };
    Receipt {
        schema: Receipt::SCHEMA.to_owned(),
        window: window.to_string(),
        scope: "Space".to_owned(),
        space: SPACE.to_owned(),
        source: SOURCE.to_owned(),
        tracker_user: Some("operator@example.com".to_owned()),
        session_id: "b08cb740-ff85-404f-a6eb-ffec5374c7c6".to_owned(),
        asked: range,
        answered: Some(range),
        object: Some(ObjectRecord {
            key: Key::Events(window).relative().unwrap(),
            version_id: None,
            bytes: 45_000,
            sha256: Sha256Digest::of(window.to_string().as_bytes()).to_string(),
            crc64nvme: "0123456789abcdef".to_owned(),
            gzip_members: 1,
            decompressed_bytes: 400_000,
        }),
        empty_answer: None,
        events,
        uncounted: None,
        reported_before: counted.then_some(events),
        reported_after: counted.then_some(events),
        reported_of_day: window.hour_of_day().map(|_| 24 * events),
        verdict: if counted {
            Verdict::Matched
        } else {
            Verdict::Unknown
        },
        transfer_end: Some("Length".to_owned()),
        resumes: 0,
        revision: 0,
        supplement: None,
        supplement_events: None,
        missing_events: None,
        started_at: stored_at,
        stored_at,
        software: records::SOFTWARE.to_owned(),
    }
}

/// Runs `plan` on an archive. Returns its peak memory in bytes.
async fn plan(archive: &Archive, url: &str, covered: bool) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("audit.yaml");
    fs::write(&manifest, archive.manifest()).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_eventexport"))
        .args([
            "plan",
            "-f",
            manifest.to_str().unwrap(),
            "--archive",
            "s3://audit",
            "--output",
            "json",
        ])
        .args(["--s3-endpoint", url, "--s3-path-style"])
        .env_clear()
        .env("AWS_ACCESS_KEY_ID", "A")
        .env("AWS_SECRET_ACCESS_KEY", "B")
        .env("AWS_REGION", "us-east-1")
        .stdout(Stdio::from(fs::File::create(folder.path().join("out")).unwrap()))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let id = child.id().unwrap();
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_memory(id));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let out = fs::read_to_string(folder.path().join("out")).unwrap();
    let plan: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
    assert!(status.success(), "{out:.2000}");
    let windows = plan["exports"][0]["windows"].as_array().unwrap();
    let stored = windows
        .iter()
        .filter(|window| window["state"] == "Covered")
        .count();
    let expected = if covered {
        usize::try_from(archive.days).unwrap()
    } else {
        0
    };
    assert_eq!(stored, expected, "{}", archive.name);
    peak
}

/// Returns the peak memory of a process in bytes; 0 after its end.
fn peak_memory(id: u32) -> u64 {
    let status =
        fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_ten_years_costs_hundreds_of_requests() {
    use Windows::{Days, Hours, OneHour, UncountedDays};
    let archive = |name, windows, continuous, sealed, days, requests_max| Archive {
        name,
        windows,
        continuous,
        sealed,
        days,
        requests_max,
    };
    let archives = [
        archive("3,650 days, one range", Days, false, true, 3650, 200),
        archive("3,650 days, continuous", Days, true, true, 3650, 200),
        archive(
            "3,650 days without counts, one range",
            UncountedDays,
            false,
            true,
            3650,
            200,
        ),
        archive(
            "one hour of each of 3,650 days, one range",
            OneHour,
            false,
            true,
            3650,
            200,
        ),
        archive("3,650 days in hours, one range", Hours, false, true, 3650, 500),
        archive(
            "3,653 days in hours, continuous, all months closed",
            Hours,
            true,
            true,
            3653,
            500,
        ),
        archive("365 days without a manifest", Days, false, false, 365, 400),
    ];
    let mut table = "| archive | keys | `ListObjectsV2` | `GetObject` |\n|---|---|---|---|\n".to_owned();
    let empty = Arc::new(MemoryStore::default());
    let base = plan(&archives[0], &empty.serve().await, false).await;
    for archive in archives {
        let store = Arc::new(archive.store());
        let peak = plan(&archive, &store.serve().await, true).await;
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (lists, gets, others) = (load(&store.lists), load(&store.gets), load(&store.others));
        let grown = peak.saturating_sub(base);
        eprintln!(
            "{}: {lists} lists, {gets} reads, {:.1} MiB more than the {:.1} MiB of an empty archive",
            archive.name,
            grown as f64 / 1_048_576.0,
            base as f64 / 1_048_576.0
        );
        assert_eq!(others, 0, "{}", archive.name);
        assert!(
            lists + gets <= archive.requests_max,
            "{}: {lists} + {gets}",
            archive.name
        );
        assert!(grown <= MEMORY_MAX, "{}: {grown} bytes", archive.name);
        let keys = store.objects.len();
        let _ = writeln!(table, "| {} | {keys} | {lists} | {gets} |", archive.name);
    }
    let document = fs::read_to_string(DOCUMENT).unwrap();
    let (start, end) = ("<!-- look -->\n", "<!-- end of look -->");
    let (before, rest) = document.split_once(start).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let wanted = format!("{before}{start}{table}{end}{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(DOCUMENT, &wanted).unwrap();
    } else {
        assert_eq!(
            document, wanted,
            "docs/requests.md is out of date: run this test with UPDATE_DOCS=1"
        );
    }
}
