//! `kill -9` at each critical request, then a restart: the export completes, nothing is duplicated, and no session or
//! upload is left.
//!
//! One window at a time, so that the n-th request is the same in each run: 4 June is small, 5 June has three parts, 6
//! June is small. `MOMENT=receipt cargo test … crash_recovery::crash_points -- --nocapture` runs the cases with that
//! word in their name and prints a summary.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{GzipSettings, Settings};
use futures::{StreamExt as _, stream};
use jiff::ToSpan as _;
use jiff::civil::{Date, date};

use super::{ROOT, check_archive, environment, june, operator};
use crate::faults::InjectedFault;
use crate::operator::TIMEOUT;
use crate::testkit::environment::Environment;
use crate::testkit::proxy::{
    ProxiedPeer, RecordedRequest, RequestMatcher, created, creations, wait_injected,
};

/// Concurrent exports; more would only wait for the processor.
const CONCURRENCY: usize = 6;

const FIRST: Date = date(2018, 6, 4);
const LARGE: Date = date(2018, 6, 5);
const LAST: Date = date(2018, 6, 6);

struct CrashPoint {
    name: &'static str,
    peer: ProxiedPeer,
    /// Request: parts of its line, and its ordinal.
    request: (&'static [&'static str], usize),
    fault: InjectedFault,
    /// Interrupted window.
    day: Date,
    /// Last day of the export; its first is 4 June.
    end: Date,
    /// Leftovers of the crash.
    leftovers: &'static [&'static str],
    /// Total number of downloads of the window.
    downloads: u64,
}

const MIB: usize = 1 << 20;

#[rustfmt::skip]
const CRASH_POINTS: &[CrashPoint] = &[
    CrashPoint { name: "before the first session is opened", peer: ProxiedPeer::Tracker, request: (&["POST /v3/sessions"], 1), fault: InjectedFault::KillBefore,
        day: FIRST, end: LAST, leftovers: &["attempt"], downloads: 1 },
    CrashPoint { name: "the first session is opened, its reply lost", peer: ProxiedPeer::Tracker, request: (&["POST /v3/sessions"], 1), fault: InjectedFault::KillAfter,
        day: FIRST, end: LAST, leftovers: &["attempt", "open"], downloads: 1 },
    CrashPoint { name: "the only session is opened, its reply lost", peer: ProxiedPeer::Tracker, request: (&["POST /v3/sessions"], 1), fault: InjectedFault::KillAfter,
        day: FIRST, end: FIRST, leftovers: &["attempt", "open"], downloads: 1 },
    CrashPoint { name: "a later session is opened, its reply lost", peer: ProxiedPeer::Tracker, request: (&["POST /v3/sessions"], 2), fault: InjectedFault::KillAfter,
        day: LARGE, end: LAST, leftovers: &["attempt", "open"], downloads: 1 },
    CrashPoint { name: "before the session's key", peer: ProxiedPeer::Store, request: (&["PUT ", "2018-06-05.", ".session."], 1), fault: InjectedFault::KillBefore,
        day: LARGE, end: LAST, leftovers: &["attempt", "open"], downloads: 1 },
    CrashPoint { name: "after the session's key", peer: ProxiedPeer::Store, request: (&["PUT ", "2018-06-05.", ".session."], 1), fault: InjectedFault::KillAfter,
        day: LARGE, end: LAST, leftovers: &["attempt", "open", "session"], downloads: 1 },
    CrashPoint { name: "in the middle of the download", peer: ProxiedPeer::Tracker, request: (&["GET /v3/events/download"], 2), fault: InjectedFault::KillReceiving(12 * MIB, &["PUT ", "date=2018-06-05/", "partNumber=1"]),
        day: LARGE, end: LAST, leftovers: &["attempt", "open", "session", "upload"], downloads: 2 },
    CrashPoint { name: "an upload is begun, its reply lost", peer: ProxiedPeer::Store, request: (&["POST ", "date=2018-06-05/", "?uploads"], 1), fault: InjectedFault::KillAfter,
        day: LARGE, end: LAST, leftovers: &["attempt", "open", "session", "upload"], downloads: 2 },
    CrashPoint { name: "in the middle of a part", peer: ProxiedPeer::Store, request: (&["PUT ", "date=2018-06-05/", "partNumber=2"], 1), fault: InjectedFault::KillSending(MIB),
        day: LARGE, end: LAST, leftovers: &["attempt", "open", "session", "upload"], downloads: 2 },
    CrashPoint { name: "before the upload is completed", peer: ProxiedPeer::Store, request: (&["POST ", "date=2018-06-05/", "uploadId="], 1), fault: InjectedFault::KillBefore,
        day: LARGE, end: LAST, leftovers: &["attempt", "open", "prepared", "session", "upload"], downloads: 2 },
    CrashPoint { name: "the upload is completed, its reply lost", peer: ProxiedPeer::Store, request: (&["POST ", "date=2018-06-05/", "uploadId="], 1), fault: InjectedFault::KillAfter,
        day: LARGE, end: LAST, leftovers: &["attempt", "object", "open", "prepared", "session"], downloads: 1 },
    CrashPoint { name: "a small object is stored, its reply lost", peer: ProxiedPeer::Store, request: (&["PUT ", "date=2018-06-04/"], 1), fault: InjectedFault::KillAfter,
        day: FIRST, end: LAST, leftovers: &["attempt", "object", "open", "session"], downloads: 1 },
    CrashPoint { name: "before the receipt", peer: ProxiedPeer::Store, request: (&["PUT ", "2018-06-05.receipt.json"], 1), fault: InjectedFault::KillBefore,
        day: LARGE, end: LAST, leftovers: &["attempt", "object", "open", "prepared", "session"], downloads: 1 },
    CrashPoint { name: "after the receipt", peer: ProxiedPeer::Store, request: (&["PUT ", "2018-06-05.receipt.json"], 1), fault: InjectedFault::KillAfter,
        day: LARGE, end: LAST, leftovers: &["attempt", "object", "open", "prepared", "receipt", "session"], downloads: 1 },
    CrashPoint { name: "before the session is deleted", peer: ProxiedPeer::Tracker, request: (&["DELETE /v3/sessions/"], 2), fault: InjectedFault::KillBefore,
        day: LARGE, end: LAST, leftovers: &["attempt", "object", "open", "prepared", "receipt", "session"], downloads: 1 },
    CrashPoint { name: "the session is deleted, the reply lost", peer: ProxiedPeer::Tracker, request: (&["DELETE /v3/sessions/"], 2), fault: InjectedFault::KillAfter,
        day: LARGE, end: LAST, leftovers: &["attempt", "object", "prepared", "receipt", "session"], downloads: 1 },
    CrashPoint { name: "before the temporary keys are deleted", peer: ProxiedPeer::Store, request: (&["POST ", "?delete"], 2), fault: InjectedFault::KillBefore,
        day: LARGE, end: LAST, leftovers: &["attempt", "object", "prepared", "receipt", "session"], downloads: 1 },
    CrashPoint { name: "after the temporary keys are deleted", peer: ProxiedPeer::Store, request: (&["POST ", "?delete"], 2), fault: InjectedFault::KillAfter,
        day: LARGE, end: LAST, leftovers: &["object", "receipt"], downloads: 1 },
    CrashPoint { name: "before the manifest", peer: ProxiedPeer::Store, request: (&["PUT ", "_manifests/00000001.json"], 1), fault: InjectedFault::KillBefore,
        day: LAST, end: LAST, leftovers: &["object", "receipt"], downloads: 1 },
    CrashPoint { name: "the manifest is written, its reply lost", peer: ProxiedPeer::Store, request: (&["PUT ", "_manifests/00000001.json"], 1), fault: InjectedFault::KillAfter,
        day: LAST, end: LAST, leftovers: &["manifest", "object", "receipt"], downloads: 1 },
];

fn settings() -> Settings {
    let mut settings = Settings {
        today: Some(date(2018, 6, 9)),
        // Uncompressed, so that three parts are fast to make and to read.
        gzip: GzipSettings {
            level: 0,
            ..GzipSettings::default()
        },
        ..Settings::default()
    };
    settings.volume.days.insert(LARGE, 20_000);
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_at_any_point_resumes() -> Result<()> {
    let only = std::env::var("MOMENT").ok();
    let wanted = CRASH_POINTS.iter().filter(|point| {
        only.as_ref()
            .is_none_or(|only| point.name.contains(only.as_str()))
    });
    let runs = stream::iter(wanted).map(async |point| (point.name, point.run().await));
    let rows: Vec<_> = runs.buffered(CONCURRENCY).collect().await;
    let mut failed = 0;
    for (name, row) in &rows {
        match row {
            Ok(row) => println!("ok      {name}: {row}"),
            Err(error) => {
                failed += 1;
                println!("FAILED  {name}: {error:#}");
            }
        }
    }
    ensure!(failed == 0, "{failed} of {} moments", rows.len());
    Ok(())
}

impl CrashPoint {
    /// Checks the promise; returns a one-line summary.
    async fn run(&self) -> Result<String> {
        let fixture = environment("kill", settings()).await?;
        let (parts, nth) = self.request;
        let request = RequestMatcher::LineContains(self.peer, parts.to_vec());
        let killed = fixture.rules.arm(self.fault.rule(request, nth));
        fixture.rules.set_target(&operator(&fixture)?);
        let june = june(&fixture, "2018-06-04", &self.end.to_string(), 1)
            .set("source.endpoint", fixture.tracker.endpoint())
            .set("destination.s3.endpoint", fixture.store.endpoint());
        fixture.apply(&june).await?;
        let killed = wait_injected(TIMEOUT, killed)
            .await
            .with_context(|| fixture.log())?;
        let killed = killed.replace(&format!("/{}/{ROOT}", fixture.namespace), "…/");
        let leftovers = self.leftovers(&fixture).await?;
        let expected: BTreeSet<_> = self.leftovers.iter().copied().collect();
        ensure!(
            leftovers == expected,
            "killed {killed}; left behind: {leftovers:?}, not {expected:?}"
        );

        let before = fixture.rules.requests().len();
        let restarted = Instant::now();
        let _operator = operator(&fixture)?;
        fixture
            .wait_complete("june")
            .await
            .with_context(|| format!("killed {killed}"))?;
        let took = restarted.elapsed();
        let days: Vec<Date> = FIRST.series(1.day()).take_while(|day| *day <= self.end).collect();
        let whole = check_archive(&fixture, &days).await;
        whole.with_context(|| format!("killed {killed}"))?;
        created_once(&days, &fixture.rules.requests_to(ProxiedPeer::Store))?;
        let downloads = fixture
            .simulator
            .ledger()
            .downloads_of(&self.day.to_string())
            .replies;
        ensure!(
            downloads == self.downloads,
            "{} was downloaded {downloads} times",
            self.day
        );
        let did = summary(&fixture.rules.requests().split_off(before));
        let leftovers: Vec<_> = leftovers.into_iter().collect();
        Ok(format!(
            "killed {killed}; left {}; then {did} in {}",
            leftovers.join(" "),
            seconds(took)
        ))
    }

    /// Lists the leftovers of the window.
    async fn leftovers(&self, fixture: &Environment) -> Result<BTreeSet<&'static str>> {
        let mut leftovers = BTreeSet::new();
        let journal = format!("{ROOT}_journal/{}.", self.day);
        let object = format!("{ROOT}date={}/events.json.gz", self.day);
        for key in fixture.bucket.keys().await? {
            if key.contains("/_manifests/") {
                leftovers.insert("manifest");
            } else if key == object {
                leftovers.insert("object");
            } else if let Some(rest) = key.strip_prefix(&journal) {
                let kinds = ["receipt", "attempt", "session", "prepared"];
                leftovers.extend(
                    kinds
                        .iter()
                        .find(|kind| rest.split('.').any(|part| part == **kind)),
                );
            }
        }
        if fixture.bucket.uploads().await?.contains(&object) {
            leftovers.insert("upload");
        }
        if fixture
            .simulator
            .open_sessions()
            .iter()
            .any(|open| open.start == self.day)
        {
            leftovers.insert("open");
        }
        Ok(leftovers)
    }
}

/// Checks that each object and receipt and one manifest became visible by exactly one successful request.
pub(crate) fn created_once(days: &[Date], seen: &[RecordedRequest]) -> Result<()> {
    let completions = seen
        .iter()
        .filter_map(created)
        .filter(|(_, upload)| !upload.is_empty());
    let mut completed = BTreeSet::new();
    for (key, upload) in completions {
        ensure!(completed.insert(upload), "{key} was completed twice");
    }
    let created = creations(seen);
    let count = |part: &str| {
        let keys = created.iter().filter(|(key, _)| key.contains(part));
        keys.map(|(_, times)| times).sum::<usize>()
    };
    for day in days {
        for part in [
            format!("date={day}/events.json.gz"),
            format!("{day}.receipt.json"),
        ] {
            ensure!(count(&part) == 1, "{part} was created {} times", count(&part));
        }
    }
    let manifests = count("_manifests/");
    ensure!(manifests == 1, "manifests were created {manifests} times");
    Ok(())
}

/// Summarizes the restart.
fn summary(seen: &[RecordedRequest]) -> String {
    let count = |parts: &[&str]| {
        seen.iter()
            .filter(|seen| seen.succeeded() && seen.contains(parts))
            .count()
    };
    let counts = [
        (count(&["POST /v3/sessions"]), "opened"),
        (count(&["GET /v3/events/download"]), "downloaded"),
        (count(&["DELETE /v3/sessions/"]), "deleted"),
        (count(&["DELETE ", "date=", "uploadId="]), "aborted"),
        (count(&["PUT ", ".receipt.json"]), "receipts"),
        (count(&["PUT ", "_manifests/"]), "manifests"),
    ];
    let mut text = String::new();
    for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
        let _ = write!(text, "{count} {what} ");
    }
    text.trim_end().to_owned()
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f32())
}
