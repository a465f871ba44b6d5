//! Each fault preset of the simulator with its outcome: exported, or a reason. `docs/reference/fault-presets.md` is generated
//! from the table: `UPDATE_DOCS=1 cargo test --test it export::fault_presets`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use eventexport::api::Reason;
use eventexport::archive::counts::Verdict;
use eventexport::archive::records::{Receipt, decode};
use eventexport::archive::window::Window;
use eventexport::export::snapshot::Snapshot;
use eventexport::export::spec::RetryPolicy;
use eventexport::simulator::{DEFAULT_PERSON, SESSION_LIMIT, presets};
use futures::StreamExt as _;
use jiff::civil::{Date, date};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::crashes::archive_violations;
use super::faulty_store::{CreationLog, FaultyStore, StoreFault};
use super::fixture::{EngineFixture, SPACE, settings};

/// Concurrent exports.
const CONCURRENCY: usize = 32;

/// Outcome of the affected days; all others are always exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PresetOutcome {
    /// Stored byte for byte as served.
    Exported,
    /// Stored with the same events in the received bytes.
    SameEvents,
    /// Stored as hours instead of a day.
    ByTheHour,
    /// Receipt without an object.
    Empty,
    /// Stored without all its events, and undetectable.
    Unnoticed,
    /// Stored as received, but its events cannot be counted to the end: not covered.
    Uncounted,
    /// The same without a count to compare with: covered.
    UncountedUnknown,
    /// Nothing is stored, and the run ends with this reason.
    Refused(Reason),
    /// Nothing is stored, and the export waits with this reason.
    Waits(Reason),
}

use PresetOutcome::{
    ByTheHour, Empty, Exported, Refused, SameEvents, Uncounted, UncountedUnknown, Unnoticed, Waits,
};

/// Preset (`@`: on one day only, `x`: repetitions, `+`: combined with) and its outcome.
const EXPECTED_OUTCOMES: &[(&str, PresetOutcome)] = &[
    ("resume-wrong-offset@", Exported),
    ("resume-lie@", Exported),
    ("resume-whole@", Exported),
    ("resume-remainder@", Exported),
    ("resume-416@", Exported),
    ("resume-error@", Exported),
    ("resume-other-bytes@", SameEvents),
    ("cut@", Exported),
    ("cut-always@", Exported),
    ("cut-at-start@", Refused(Reason::DownloadIncomplete)),
    ("cut-at-start@x1", Exported),
    ("cut-reset@", Exported),
    ("cut-at-member-end@", SameEvents),
    ("cut-close-delimited@", Exported),
    ("cut-close-delimited-at-member-end@", SameEvents),
    ("cut-chunked@", Exported),
    ("end-early@", Refused(Reason::DownloadIncomplete)),
    ("end-early-at-member-end@", Refused(Reason::Short)),
    ("end-early-at-member-end@+events-403", Unnoticed),
    ("session-vanishes@", Exported),
    ("stall@", Exported),
    ("stall-days@", ByTheHour),
    ("hang-download@", Exported),
    ("hang", Refused(Reason::SourceUnreachable)),
    ("trickle@", Exported),
    ("slow", Exported),
    ("chunked@", Exported),
    ("close-delimited@", Exported),
    ("encoding-label@", Exported),
    ("trailing-bytes@", Refused(Reason::DownloadIncomplete)),
    ("members@", SameEvents),
    ("not-gzip@", Refused(Reason::NotGzip)),
    ("wrong-crc@", Refused(Reason::DownloadIncomplete)),
    ("other-bytes@", SameEvents),
    ("json-array@", SameEvents),
    ("json-array-per-member@", SameEvents),
    ("json-bom@", SameEvents),
    ("json-joined@", SameEvents),
    ("json-null-lines@", SameEvents),
    ("json-record-separators@", SameEvents),
    ("json-nul-padding@", SameEvents),
    ("json-broken-line@", Uncounted),
    ("json-broken-line@+events-403", UncountedUnknown),
    ("json-envelope@", Uncounted),
    ("json-envelope@+events-403", UncountedUnknown),
    ("empty-404@", Empty),
    ("empty-204@", Empty),
    ("empty-zero-length@", Empty),
    ("empty-gzip@", Empty),
    ("empty-404@+events-403", Refused(Reason::EmptyUnproved)),
    ("empty-204@+events-403", Refused(Reason::EmptyUnproved)),
    ("empty-zero-length@+events-null", Refused(Reason::EmptyUnproved)),
    (
        "empty-404@+session-gone-on-show@x99",
        Refused(Reason::EmptyUnproved),
    ),
    ("expired-404@", Refused(Reason::Expired)),
    ("expired-204@", Refused(Reason::Expired)),
    ("expired-zero-length@", Refused(Reason::Expired)),
    ("expired-gzip@", Refused(Reason::Expired)),
    ("expired-404@+events-403", Refused(Reason::EmptyUnproved)),
    ("expired-204@+events-403", Refused(Reason::EmptyUnproved)),
    ("expired-zero-length@+events-403", Refused(Reason::EmptyUnproved)),
    ("expired-gzip@+events-403", Refused(Reason::EmptyUnproved)),
    ("expired-gzip@+events-null", Refused(Reason::EmptyUnproved)),
    ("download-404@", Refused(Reason::Short)),
    ("download-404@+events-403", Refused(Reason::EmptyUnproved)),
    ("download-404@+events-null", Refused(Reason::EmptyUnproved)),
    ("second-refused@", Exported),
    ("second-empty@", Exported),
    ("capacity-429", Waits(Reason::SpaceFull)),
    ("capacity-403", Waits(Reason::SpaceFull)),
    ("capacity-409", Waits(Reason::SpaceFull)),
    ("capacity-500", Waits(Reason::SpaceFull)),
    ("full", Waits(Reason::SpaceFull)),
    ("create-403", Waits(Reason::SessionRefused)),
    ("create-500@", Refused(Reason::SourceUnreachable)),
    ("create-reply-lost@", Exported),
    ("create-reply-hangs@", Exported),
    ("delete-reply-lost@", Exported),
    ("delete-500@", Exported),
    ("list-500", Refused(Reason::SourceUnreachable)),
    ("errors-text+events-403", Exported),
    ("errors-html+events-403", Exported),
    ("http-500", Refused(Reason::SourceUnreachable)),
    ("http-502", Refused(Reason::SourceUnreachable)),
    ("http-503", Refused(Reason::SourceUnreachable)),
    ("connection-closed", Refused(Reason::SourceUnreachable)),
    ("connection-reset", Refused(Reason::SourceUnreachable)),
    ("forbidden", Refused(Reason::RoleMissing)),
    ("token-expires", Exported),
    ("token-expires-mid-download@", Exported),
    ("unauthorized", Refused(Reason::CredentialsRefused)),
    ("session-gone@", Exported),
    ("session-gone-on-show@+empty-404", Empty),
    ("session-gone-on-delete@", Exported),
    ("session-fields-added", Exported),
    ("session-fields-missing", Exported),
    ("session-fields-null", Exported),
    ("session-id-missing@", Refused(Reason::SourceUnreachable)),
    ("range-differs@", Refused(Reason::RangeMismatch)),
    ("range-differs-in-name@", Refused(Reason::RangeMismatch)),
    ("list-whole-space", Exported),
    ("list-object", Exported),
    ("list-null", Exported),
    ("access-time-frozen", Exported),
    ("events-403", Exported),
    ("events-400", Exported),
    ("events-refuse-long", Exported),
    ("events-500", Refused(Reason::SourceUnreachable)),
    ("events-500@x3", Exported),
    ("events-ignores-fields", Exported),
    ("events-lag@", Exported),
    ("day-grows@", SameEvents),
    ("events-over@", Refused(Reason::Short)),
    ("events-left-out@", Exported),
    ("events-left-out@x1+end-early-at-member-end@x1", SameEvents),
    ("events-zero@+empty-404", Empty),
    ("events-zero-wrong@", Exported),
    ("events-no-counts", Exported),
    ("events-strings", Exported),
    ("events-lowercase", Exported),
    ("events-object", Exported),
    ("events-null", Exported),
    ("redirect", Refused(Reason::SourceUnreachable)),
    ("redirect-download@", Refused(Reason::SourceUnreachable)),
    ("redirect-same-host@", Exported),
    ("redirect-uaa", Refused(Reason::SourceUnreachable)),
    ("uaa-401", Refused(Reason::CredentialsRefused)),
    ("uaa-500", Refused(Reason::SourceUnreachable)),
    ("uaa-html", Refused(Reason::SourceUnreachable)),
    ("uaa-hang", Refused(Reason::SourceUnreachable)),
    ("uaa-rotates", Exported),
    ("refresh-refused", Exported),
    ("info-500", Refused(Reason::SourceUnreachable)),
];

/// Days of the export; a fault on one day affects the second.
const DAYS: [Date; 3] = [date(2018, 6, 2), date(2018, 6, 3), date(2018, 6, 4)];
const AFFECTED_DAY: Date = date(2018, 6, 3);

/// Presets of a row.
fn names(row: &str) -> impl Iterator<Item = &str> {
    row.split('+')
        .map(|part| part.split_once('@').map_or(part, |(name, _)| name))
}

/// Returns the affected days: the first for a day past retention, otherwise the middle one or all.
fn affected_days(row: &str) -> Vec<Date> {
    if row.starts_with("expired-") {
        vec![DAYS[0]]
    } else if row.contains('@') {
        vec![AFFECTED_DAY]
    } else {
        DAYS.to_vec()
    }
}

async fn fixture_for(row: &str) -> EngineFixture {
    let mut settings = settings();
    settings.volume.events_per_day = 48;
    if row.contains("empty-4") || row.contains("empty-2") || row.starts_with("empty-") {
        settings.volume.days.insert(AFFECTED_DAY, 0);
    }
    if row.starts_with("expired-") {
        // The oldest of seven days, up to the 9th, is the 3rd.
        settings.retention_days = 7;
    }
    if row.starts_with("stall-days") {
        settings.volume.events_per_day = 480;
    }
    let mut fixture = EngineFixture::start(settings, DAYS[0], DAYS[2]).await;
    fixture.export.retry_policy = RetryPolicy::MaxAttempts(3);
    if row.starts_with("slow") {
        fixture.timeouts.idle_read = Duration::from_secs(4);
    } else {
        fixture.timeouts.request = Duration::from_secs(1);
        fixture.retry.attempts = 2;
        fixture.timeouts.idle_read = Duration::from_secs(1);
    }
    if row.starts_with("stall-days") {
        fixture.timeouts.idle_read = Duration::from_millis(400);
        fixture.retry.resumes = 3;
    }
    if row.starts_with("capacity-") {
        fixture
            .simulator
            .open_sessions_as(DEFAULT_PERSON, SPACE, SESSION_LIMIT);
    }
    for part in row.split('+') {
        let day = affected_days(row)[0];
        let preset = part.replace('@', &format!("@{day}"));
        fixture.simulator.add_preset(&preset).expect("a preset");
    }
    fixture
}

fn stored(fixture: &EngineFixture, window: &str) -> Option<Vec<u8>> {
    let window: Window = window.parse().expect("a window");
    let name = window.hour_of_day().map_or("events.json.gz".to_owned(), |hour| {
        format!("events-h{hour:02}.json.gz")
    });
    std::fs::read(fixture.root().join(format!("date={}/{name}", window.date()))).ok()
}

fn receipt(fixture: &EngineFixture, window: &str) -> Option<Receipt> {
    let bytes = std::fs::read(fixture.root().join(format!("_journal/{window}.receipt.json"))).ok()?;
    Some(decode("receipt", &bytes).expect("a receipt"))
}

fn text(gzip: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(gzip)
        .read_to_string(&mut text)
        .expect("whole gzip");
    text
}

/// Parses the events of a body, regardless of its members and JSON form.
fn events(gzip: &[u8]) -> Vec<Value> {
    let text = text(gzip).replace(['\u{feff}', '\u{1e}', '\0'], "");
    serde_json::Deserializer::from_str(&text)
        .into_iter::<Value>()
        .flat_map(|value| match value.expect("JSON") {
            Value::Array(events) => events,
            Value::Null => Vec::new(),
            event => vec![event],
        })
        .collect()
}

/// Describes a difference of a day from its expected outcome.
fn check_day(
    fixture: &EngineFixture,
    day: Date,
    outcome: PresetOutcome,
    snapshot: &Snapshot,
) -> Option<String> {
    let (name, served) = (day.to_string(), fixture.served(day));
    let (object, receipt_of) = (stored(fixture, &name), receipt(fixture, &name));
    let verdict = receipt_of.as_ref().map(|receipt| receipt.verdict);
    let shown = object.as_ref().map(Vec::len);
    let facts = format!("{day}: {shown:?} bytes, {verdict:?}, {:?}", snapshot.problems);
    let fine = match outcome {
        Exported => {
            object.is_some_and(|object| object == served)
                && matches!(verdict, Some(Verdict::Matched | Verdict::Over | Verdict::Unknown))
        }
        SameEvents => {
            object.is_some_and(|object| object != served && events(&object) == events(&served))
                && verdict.is_some()
        }
        ByTheHour => {
            let hours: Vec<Value> = (0..24)
                .filter_map(|hour| stored(fixture, &format!("{day}T{hour:02}")))
                .flat_map(|object| events(&object))
                .collect();
            object.is_none() && verdict.is_none() && hours == events(&served)
        }
        Empty => object.is_none() && verdict == Some(Verdict::Empty),
        Unnoticed => {
            object.is_some_and(|object| events(&object).len() < events(&served).len())
                && verdict == Some(Verdict::Unknown)
        }
        Uncounted | UncountedUnknown => {
            let reason = Reason::EventsUncounted;
            let reported = snapshot.problems.iter().any(|problem| problem.reason == reason);
            let missing = snapshot.missing.contains(Window::day(day));
            let all =
                |object: Vec<u8>| text(&object).matches("{\"payload\":").count() == events(&served).len();
            object.is_some_and(all)
                && verdict == Some(Verdict::Unknown)
                && receipt_of.is_some_and(|receipt| receipt.uncounted.is_some())
                && (reported, missing) == (outcome == Uncounted, outcome == Uncounted)
        }
        Refused(reason) | Waits(reason) => {
            let reported = snapshot.problems.iter().any(|problem| problem.reason == reason);
            let missing = snapshot.missing.contains(Window::day(day)) && !snapshot.complete;
            object.is_none() && receipt_of.is_none() && reported && missing
        }
    };
    (!fine).then_some(facts)
}

/// Describes errors in the counts of a snapshot after the run.
fn check_counts(snapshot: &Snapshot, outcome: PresetOutcome, hit: usize) -> Option<String> {
    let missing = match outcome {
        Refused(_) | Waits(_) | Uncounted => hit as u64,
        Exported | SameEvents | ByTheHour | Empty | Unnoticed | UncountedUnknown => 0,
    };
    // An expired day waits for a person.
    let expired = u64::from(outcome == Refused(Reason::Expired));
    let Snapshot {
        wanted,
        stored,
        active,
        waiting,
        failed,
        ..
    } = *snapshot;
    let fine = wanted == 3
        && stored + missing == wanted
        && active == 0
        && waiting + failed == missing
        && failed >= expired
        && snapshot.missing.len() == 24 * missing
        && snapshot.expired.len() == 24 * expired
        && snapshot.covered.len() == 24 * stored;
    (!fine).then(|| format!("counts: {snapshot:?}"))
}

/// Runs to completion, or until the export reports what it waits for.
async fn run(
    fixture: &EngineFixture,
    created: &Arc<CreationLog>,
    outcome: PresetOutcome,
) -> Option<Arc<Snapshot>> {
    let store = FaultyStore::new(fixture.store(), created, 0, StoreFault::Fail);
    let (out, mut seen) = watch::channel(Arc::<Snapshot>::default());
    let stop = CancellationToken::new();
    let export = Arc::new(fixture.export.clone());
    let engine = fixture.engine();
    let run = engine.run(export, fixture.peers(store), &out, stop.clone());
    let said = async {
        let Waits(reason) = outcome else {
            return std::future::pending().await;
        };
        let said = |snapshot: &Arc<Snapshot>| {
            snapshot.active == 0 && snapshot.problems.iter().any(|problem| problem.reason == reason)
        };
        let said = seen.wait_for(said).await.expect("the run is there").clone();
        stop.cancel();
        said
    };
    let both = async {
        tokio::pin!(run);
        tokio::select! {
            snapshot = &mut run => snapshot,
            said = said => {
                run.await;
                said
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(80), both).await.ok()
}

async fn check_preset(row: &str, outcome: PresetOutcome) -> Vec<String> {
    let fixture = fixture_for(row).await;
    let created = Arc::new(CreationLog::default());
    let Some(snapshot) = run(&fixture, &created, outcome).await else {
        return vec![format!("{row}: the run does not end")];
    };
    let mut faults = Vec::new();
    let hit = affected_days(row);
    for day in DAYS {
        let wanted = if hit.contains(&day) { outcome } else { Exported };
        faults.extend(check_day(&fixture, day, wanted, &snapshot));
    }
    faults.extend(check_counts(&snapshot, outcome, hit.len()));
    let met = fixture.simulator.ledger().faults;
    for part in names(row) {
        // The exporter downloads once per session, and does not refresh a token of an API key.
        let never = part.starts_with("second-")
            // The exporter lists short ranges without future days.
            || matches!(part, "uaa-rotates" | "refresh-refused" | "events-refuse-long");
        if !never && !met.contains_key(part) {
            faults.push(format!("{part} had no effect"));
        }
    }
    // Leftovers of the faults are cleaned up once the service behaves.
    fixture.simulator.set_faults(Vec::new());
    let mut last = snapshot;
    for _ in 0..3 {
        if fixture.simulator.ledger().open_now == 0 && archive_violations(&fixture, &created).await.is_empty()
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        match run(&fixture, &created, outcome).await {
            Some(snapshot) => last = snapshot,
            None => faults.push("the second run does not end".to_owned()),
        }
    }
    faults.extend(archive_violations(&fixture, &created).await);
    let ledger = fixture.simulator.ledger();
    if ledger.max_open > 30 {
        faults.push(format!("{} sessions at once", ledger.max_open));
    }
    faults
        .into_iter()
        .map(|fault| format!("{row}: {fault}; last: {:?}", last.problems))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_preset_ends_in_an_export_or_a_reason() {
    let only = std::env::var("ONLY").ok();
    let rows = EXPECTED_OUTCOMES
        .iter()
        .filter(|(row, _)| only.as_ref().is_none_or(|only| row.contains(only.as_str())));
    let faults: Vec<Vec<String>> = futures::stream::iter(rows)
        .map(|(row, outcome)| check_preset(row, *outcome))
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    let faults = faults.concat();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn outcome_text(outcome: PresetOutcome) -> String {
    match outcome {
        Exported => "Exported, byte for byte.".to_owned(),
        SameEvents => "Exported: all events, in the received bytes.".to_owned(),
        ByTheHour => "Exported by the hour; the sum is compared.".to_owned(),
        Empty => "Proved empty: a receipt without an object.".to_owned(),
        Unnoticed => "**Stored as received**, with verdict `Unknown`: undetectable.".to_owned(),
        Uncounted => "**Stored as received**, not proved: `EventsUncounted`.".to_owned(),
        UncountedUnknown => "**Stored as received**, with verdict `Unknown` and `uncounted`.".to_owned(),
        Refused(reason) => format!("Nothing stored; `{reason}`."),
        Waits(reason) => format!("Nothing stored; waits with `{reason}`."),
    }
}

fn often(row: &str) -> &'static str {
    match row.rsplit_once('x') {
        Some((_, "1")) => ", once",
        Some((_, "99")) => ", repeatedly",
        _ => "",
    }
}

fn page() -> String {
    let mut page = include_str!("fault_presets.md").to_owned();
    page.push_str("\n| fault | behavior of the service | outcome |\n|---|---|---|\n");
    let about = |name: &str| {
        let found = presets().into_iter().find(|(known, _)| *known == name);
        found.expect("a preset").1
    };
    for (row, outcome) in EXPECTED_OUTCOMES {
        let names: Vec<&str> = names(row).collect();
        let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let what: Vec<&str> = names.iter().map(|name| about(name)).collect();
        let _ = writeln!(
            page,
            "| {}{} | {} | {} |",
            quoted.join(" with "),
            often(row),
            what.join("; and ").replace('|', "\\|"),
            outcome_text(*outcome)
        );
    }
    page
}

#[test]
fn every_fault_preset_has_a_documented_outcome() {
    let rows: BTreeSet<&str> = EXPECTED_OUTCOMES
        .iter()
        .filter_map(|(row, _)| names(row).next())
        .collect();
    let known: BTreeSet<&str> = presets().into_iter().map(|(name, _)| name).collect();
    assert_eq!(rows, known, "one row for each preset");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/fault-presets.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).expect("the page is written");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == page,
        "docs/reference/fault-presets.md is out of date: run this test with UPDATE_DOCS=1"
    );
}
