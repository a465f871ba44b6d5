//! `kill -9` at each moment that matters, then a restart: complete, nothing doubled, no session and no upload left.
//!
//! One window at a time, so that the n-th request is the same in every run: 4 June is small, 5 June has three parts,
//! 6 June is small. `MOMENT=receipt cargo test … kill::moments -- --nocapture` tries those with that word in their name,
//! and prints what happened.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{Gzip, Settings};
use futures::{StreamExt as _, stream};
use jiff::ToSpan as _;
use jiff::civil::{Date, date};

use super::scene::{PATIENCE, ROOT, Scene, Wish};
use crate::faults::{Board, Fault, Peer, Plan, Proxy, Seen, Wanted, within};

/// Exports at a time: more only wait for the processor.
const AT_ONCE: usize = 6;

const FIRST: Date = date(2018, 6, 4);
const LARGE: Date = date(2018, 6, 5);
const LAST: Date = date(2018, 6, 6);

struct Moment {
    name: &'static str,
    peer: Peer,
    /// The request: parts of its line, and which of those.
    request: (&'static [&'static str], usize),
    fault: Fault,
    /// The window that was cut off.
    day: Date,
    /// The last day of the export; its first is 4 June.
    end: Date,
    /// What the crash leaves of it.
    left: &'static [&'static str],
    /// How often it is downloaded in all.
    downloads: u64,
}

const MIB: usize = 1 << 20;

#[rustfmt::skip]
const MOMENTS: &[Moment] = &[
    Moment { name: "before the first session is opened", peer: Peer::Tracker, request: (&["POST /v3/sessions"], 1), fault: Fault::KillBefore,
        day: FIRST, end: LAST, left: &["attempt"], downloads: 1 },
    Moment { name: "the first session is opened, its reply lost", peer: Peer::Tracker, request: (&["POST /v3/sessions"], 1), fault: Fault::KillAfter,
        day: FIRST, end: LAST, left: &["attempt", "open"], downloads: 1 },
    Moment { name: "the only session is opened, its reply lost", peer: Peer::Tracker, request: (&["POST /v3/sessions"], 1), fault: Fault::KillAfter,
        day: FIRST, end: FIRST, left: &["attempt", "open"], downloads: 1 },
    Moment { name: "a later session is opened, its reply lost", peer: Peer::Tracker, request: (&["POST /v3/sessions"], 2), fault: Fault::KillAfter,
        day: LARGE, end: LAST, left: &["attempt", "open"], downloads: 1 },
    Moment { name: "before the session's key", peer: Peer::Store, request: (&["PUT ", "2018-06-05.", ".session."], 1), fault: Fault::KillBefore,
        day: LARGE, end: LAST, left: &["attempt", "open"], downloads: 1 },
    Moment { name: "after the session's key", peer: Peer::Store, request: (&["PUT ", "2018-06-05.", ".session."], 1), fault: Fault::KillAfter,
        day: LARGE, end: LAST, left: &["attempt", "open", "session"], downloads: 1 },
    Moment { name: "in the middle of the download", peer: Peer::Tracker, request: (&["GET /v3/events/download"], 2), fault: Fault::KillReceiving(12 * MIB, &["PUT ", "date=2018-06-05/", "partNumber=1"]),
        day: LARGE, end: LAST, left: &["attempt", "open", "session", "upload"], downloads: 2 },
    Moment { name: "an upload is begun, its reply lost", peer: Peer::Store, request: (&["POST ", "date=2018-06-05/", "?uploads"], 1), fault: Fault::KillAfter,
        day: LARGE, end: LAST, left: &["attempt", "open", "session", "upload"], downloads: 2 },
    Moment { name: "in the middle of a part", peer: Peer::Store, request: (&["PUT ", "date=2018-06-05/", "partNumber=2"], 1), fault: Fault::KillSending(MIB),
        day: LARGE, end: LAST, left: &["attempt", "open", "session", "upload"], downloads: 2 },
    Moment { name: "before the upload is completed", peer: Peer::Store, request: (&["POST ", "date=2018-06-05/", "uploadId="], 1), fault: Fault::KillBefore,
        day: LARGE, end: LAST, left: &["attempt", "open", "prepared", "session", "upload"], downloads: 2 },
    Moment { name: "the upload is completed, its reply lost", peer: Peer::Store, request: (&["POST ", "date=2018-06-05/", "uploadId="], 1), fault: Fault::KillAfter,
        day: LARGE, end: LAST, left: &["attempt", "object", "open", "prepared", "session"], downloads: 1 },
    Moment { name: "a small object is stored, its reply lost", peer: Peer::Store, request: (&["PUT ", "date=2018-06-04/"], 1), fault: Fault::KillAfter,
        day: FIRST, end: LAST, left: &["attempt", "object", "open", "session"], downloads: 1 },
    Moment { name: "before the receipt", peer: Peer::Store, request: (&["PUT ", "2018-06-05.receipt.json"], 1), fault: Fault::KillBefore,
        day: LARGE, end: LAST, left: &["attempt", "object", "open", "prepared", "session"], downloads: 1 },
    Moment { name: "after the receipt", peer: Peer::Store, request: (&["PUT ", "2018-06-05.receipt.json"], 1), fault: Fault::KillAfter,
        day: LARGE, end: LAST, left: &["attempt", "object", "open", "prepared", "receipt", "session"], downloads: 1 },
    Moment { name: "before the session is deleted", peer: Peer::Tracker, request: (&["DELETE /v3/sessions/"], 2), fault: Fault::KillBefore,
        day: LARGE, end: LAST, left: &["attempt", "object", "open", "prepared", "receipt", "session"], downloads: 1 },
    Moment { name: "the session is deleted, the reply lost", peer: Peer::Tracker, request: (&["DELETE /v3/sessions/"], 2), fault: Fault::KillAfter,
        day: LARGE, end: LAST, left: &["attempt", "object", "prepared", "receipt", "session"], downloads: 1 },
    Moment { name: "before the spent keys are deleted", peer: Peer::Store, request: (&["POST ", "?delete"], 2), fault: Fault::KillBefore,
        day: LARGE, end: LAST, left: &["attempt", "object", "prepared", "receipt", "session"], downloads: 1 },
    Moment { name: "after the spent keys are deleted", peer: Peer::Store, request: (&["POST ", "?delete"], 2), fault: Fault::KillAfter,
        day: LARGE, end: LAST, left: &["object", "receipt"], downloads: 1 },
    Moment { name: "before the manifest", peer: Peer::Store, request: (&["PUT ", "_manifests/00000001.json"], 1), fault: Fault::KillBefore,
        day: LAST, end: LAST, left: &["object", "receipt"], downloads: 1 },
    Moment { name: "the manifest is written, its reply lost", peer: Peer::Store, request: (&["PUT ", "_manifests/00000001.json"], 1), fault: Fault::KillAfter,
        day: LAST, end: LAST, left: &["manifest", "object", "receipt"], downloads: 1 },
];

fn settings() -> Settings {
    let mut settings = Settings {
        today: Some(date(2018, 6, 9)),
        // Stored, so that three parts are quickly made and quickly read.
        gzip: Gzip {
            level: 0,
            ..Gzip::default()
        },
        ..Settings::default()
    };
    settings.volume.days.insert(LARGE, 20_000);
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_at_any_moment_goes_on_where_it_was() -> Result<()> {
    let only = std::env::var("MOMENT").ok();
    let wanted = MOMENTS.iter().filter(|moment| {
        only.as_ref()
            .is_none_or(|only| moment.name.contains(only.as_str()))
    });
    let runs = stream::iter(wanted).map(async |moment| (moment.name, moment.show().await));
    let rows: Vec<_> = runs.buffered(AT_ONCE).collect().await;
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

impl Moment {
    /// Shows that the promise holds; returns what happened, in a line.
    async fn show(&self) -> Result<String> {
        let scene = Scene::start("kill", settings()).await?;
        let board = Board::new();
        let source = Proxy::start(Peer::Tracker, scene.simulator.url().as_str(), &board).await?;
        let store = Proxy::store(scene.gateway, &board).await?;
        let (parts, nth) = self.request;
        let killed = board.arm(Plan {
            wanted: Wanted::Parts(self.peer, parts.to_vec()),
            nth,
            fault: self.fault,
        });
        board.aim(&scene.operator()?);
        let wish = Wish {
            start: "2018-06-04",
            end: &self.end.to_string(),
            parallelism: 1,
            source: &source.endpoint(),
            store: &store.endpoint(),
        };
        scene.apply(&wish).await?;
        let killed = within(PATIENCE, killed).await.with_context(|| scene.log())?;
        let killed = killed.replace(&format!("/{}/{ROOT}", scene.namespace()), "…/");
        let left = self.left(&scene).await?;
        let expected: BTreeSet<_> = self.left.iter().copied().collect();
        ensure!(
            left == expected,
            "killed {killed}; left behind: {left:?}, not {expected:?}"
        );

        let before = board.seen().len();
        let restarted = Instant::now();
        let _operator = scene.operator()?;
        scene
            .complete()
            .await
            .with_context(|| format!("killed {killed}"))?;
        let took = restarted.elapsed();
        let days: Vec<Date> = FIRST.series(1.day()).take_while(|day| *day <= self.end).collect();
        let whole = scene.is_whole(&days).await;
        whole.with_context(|| format!("killed {killed}"))?;
        created_once(&days, &board.seen_of(Peer::Store))?;
        let downloads = scene
            .simulator
            .ledger()
            .downloads_of(&self.day.to_string())
            .answers;
        ensure!(
            downloads == self.downloads,
            "{} was downloaded {downloads} times",
            self.day
        );
        let did = did(&board.seen().split_off(before));
        let left: Vec<_> = left.into_iter().collect();
        Ok(format!(
            "killed {killed}; left {}; then {did} in {}",
            left.join(" "),
            seconds(took)
        ))
    }

    /// What there is of the window.
    async fn left(&self, scene: &Scene) -> Result<BTreeSet<&'static str>> {
        let mut left = BTreeSet::new();
        let journal = format!("{ROOT}_journal/{}.", self.day);
        let object = format!("{ROOT}date={}/events.json.gz", self.day);
        for key in scene.bucket.keys().await? {
            if key.contains("/_manifests/") {
                left.insert("manifest");
            } else if key == object {
                left.insert("object");
            } else if let Some(rest) = key.strip_prefix(&journal) {
                let kinds = ["receipt", "attempt", "session", "prepared"];
                left.extend(
                    kinds
                        .iter()
                        .find(|kind| rest.split('.').any(|part| part == **kind)),
                );
            }
        }
        if scene.bucket.uploads().await?.contains(&object) {
            left.insert("upload");
        }
        if scene
            .simulator
            .open_sessions()
            .iter()
            .any(|open| open.start == self.day)
        {
            left.insert("open");
        }
        Ok(left)
    }
}

/// The store was asked successfully once only to make each object and each receipt visible.
pub(crate) fn created_once(days: &[Date], seen: &[Seen]) -> Result<()> {
    for day in days {
        let object = format!("date={day}/events.json.gz");
        let receipt = format!("{day}.receipt.json");
        let created = |seen: &&Seen| {
            seen.succeeded()
                && ((seen.is(&["PUT ", &object]) && !seen.line.contains("partNumber="))
                    || seen.is(&["POST ", &object, "uploadId="]))
        };
        let objects = seen.iter().filter(created).count();
        let receipts = seen
            .iter()
            .filter(|seen| seen.succeeded() && seen.is(&["PUT ", &receipt]));
        ensure!(objects == 1, "{object} was created {objects} times");
        ensure!(
            receipts.count() == 1,
            "{receipt} was created more than once, or never"
        );
    }
    let manifests = seen
        .iter()
        .filter(|seen| seen.succeeded() && seen.is(&["PUT ", "_manifests/"]));
    ensure!(
        manifests.count() == 1,
        "a manifest was created more than once, or never"
    );
    Ok(())
}

/// What the restart did, in words.
fn did(seen: &[Seen]) -> String {
    let count = |parts: &[&str]| {
        seen.iter()
            .filter(|seen| seen.succeeded() && seen.is(parts))
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
