//! A crash, an error or a lost reply at every store call: recovery completes the export, creates each object and
//! receipt once, and leaves nothing open.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use eventexport::api::Reason;
use eventexport::simulator::{Effect, Fault, NoReplyMode};
use eventexport::storage::Store;
use futures::{FutureExt as _, StreamExt as _};
use jiff::civil::date;
use tokio_util::sync::CancellationToken;

use super::chain::{chain_violations, manifests, signing, statement_violations};
use super::faulty_store::{CreationLog, FaultyStore, StoreFault};
use super::fixture::{EngineFixture, gap, settings};
use crate::testkit::environment::session_violations;

/// Concurrent exports, which mostly wait for timers.
const CONCURRENCY: usize = 24;
/// Uncompressed events of a day with two parts of a MiB.
const PARTS_EVENTS: u64 = 1_400;
/// Maximum runs until recovery is complete.
const RUNS: usize = 4;

/// Two days, the second of which has several parts, after a manifest of another export. One window at a time, so that
/// calls come in a known order.
async fn two_days() -> EngineFixture {
    let mut settings = settings();
    settings.gzip.level = 0;
    settings.volume.days.insert(date(2018, 6, 2), PARTS_EVENTS);
    let mut fixture = EngineFixture::start(settings, date(2018, 6, 1), date(2018, 6, 2)).await;
    fixture.limits.part_mib = 1;
    fixture.export.parallelism = 1;
    fixture.signing = signing();
    // The first manifest states a lost day; the chain continues from there.
    let export = fixture.export.clone();
    let day = date(2018, 5, 31);
    (fixture.export.start, fixture.export.end) = (day, Some(day));
    fixture.export.accepted_gaps = vec![gap(day, day)];
    assert!(fixture.run().await.complete);
    fixture.export = export;
    fixture
}

/// Lists violations after all runs; none is expected.
pub(super) async fn archive_violations(fixture: &EngineFixture, created: &CreationLog) -> Vec<String> {
    let mut faults = session_violations(&fixture.simulator.ledger());
    faults.extend(
        created
            .duplicates()
            .into_iter()
            .map(|key| format!("doubled: {key}")),
    );
    let uploads = fixture
        .store()
        .list_uploads("")
        .await
        .expect("uploads are listed");
    faults.extend(
        uploads
            .into_iter()
            .map(|open| format!("upload left: {}", open.upload.key)),
    );
    let spent = |name: &String| {
        name.starts_with("_journal/")
            && ![
                ".receipt.json",
                ".receipt.json.sig",
                ".expired.json",
                ".split.json",
            ]
            .iter()
            .any(|kept| name.ends_with(kept))
    };
    faults.extend(
        fixture
            .files()
            .into_iter()
            .filter(spent)
            .map(|key| format!("left: {key}")),
    );
    faults.extend(chain_violations(&fixture.root()));
    let temporary = fixture.folder.path().join(".eventexport-tmp/put");
    let temporary = std::fs::read_dir(temporary).map_or(0, Iterator::count);
    if temporary > 0 {
        faults.push(format!("{temporary} temporary files left"));
    }
    faults
}

/// Runs new processes until the export is complete; returns the result of each.
pub(super) async fn resume_export(
    fixture: &EngineFixture,
    created: &Arc<CreationLog>,
) -> (bool, Vec<String>) {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        // A session without a known id may be deleted after a quiet period.
        tokio::time::sleep(Duration::from_millis(1_050)).await;
        let store = FaultyStore::new(fixture.store(), created, 0, StoreFault::Fail);
        let snapshot = fixture
            .run_with(fixture.peers(store), CancellationToken::new())
            .await;
        runs.push(format!("{} {:?}", snapshot.complete, snapshot.problems));
        if snapshot.complete {
            return (true, runs);
        }
    }
    (false, runs)
}

/// Injects a fault into a call of the first process, then runs others until the export is complete.
async fn inject_store_fault(served: &[Vec<u8>], at: usize, times: usize, fault: StoreFault) -> Vec<String> {
    let fixture = two_days().await;
    let created = Arc::new(CreationLog::default());
    let store = FaultyStore::with_repeats(fixture.store(), &created, at, times, fault);
    let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
    let mut complete = false;
    // A panic outside of a window's task ends the run, as a crash does.
    let run = AssertUnwindSafe(fixture.run_with(peers, CancellationToken::new())).catch_unwind();
    tokio::select! {
        ended = run => complete = ended.is_ok_and(|snapshot| snapshot.complete),
        () = store.died.notified() => {}
    }
    let mut runs = vec![format!("{complete}")];
    if !complete {
        let more;
        (complete, more) = resume_export(&fixture, &created).await;
        runs.extend(more);
    }
    let mut faults = archive_violations(&fixture, &created).await;
    if !complete {
        faults.push("never complete".to_owned());
    }
    faults.extend(statement_violations(&fixture.root()));
    let stated = manifests(&fixture.root()).len();
    if stated != 2 || !fixture.root().join("_manifests/00000002.json.sig").exists() {
        faults.push(format!("{stated} manifests"));
    }
    for (served, day) in served.iter().zip(1..) {
        let stored = std::fs::read(fixture.root().join(format!("date=2018-06-0{day}/events.json.gz")));
        if !stored.is_ok_and(|stored| stored == *served) {
            faults.push(format!("day {day} is not stored as served"));
        }
    }
    if faults.is_empty() {
        return faults;
    }
    let log = store.log.lock().unwrap().clone();
    let call = log.get(at - 1).cloned().unwrap_or_default();
    vec![format!(
        "{fault:?} ×{times} at {call}: {faults:?}; runs: {runs:?}"
    )]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_store_call_is_recovered_and_nothing_is_stored_twice() {
    let fixture = two_days().await;
    let created = Arc::new(CreationLog::default());
    let store = FaultyStore::new(fixture.store(), &created, 0, StoreFault::Fail);
    let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
    assert!(fixture.run_with(peers, CancellationToken::new()).await.complete);
    assert_eq!(archive_violations(&fixture, &created).await, Vec::<String>::new());
    let calls = store.calls();
    let log = store.log.lock().unwrap().join("\n");
    assert!(log.contains("part 2 of"), "the second day goes in parts:\n{log}");
    assert!(
        log.contains("put _manifests/00000002.json.sig"),
        "a manifest is written and signed:\n{log}"
    );

    // A longer outage also affects the recovery of the first failure.
    let moments = (1..=calls).flat_map(|at| {
        let once = StoreFault::ALL.map(|fault| (at, 1, fault));
        let longer = [2, 3]
            .into_iter()
            .flat_map(move |times| [StoreFault::Fail, StoreFault::LoseReply].map(|fault| (at, times, fault)));
        once.into_iter().chain(longer)
    });
    let served = [1, 2].map(|day| fixture.served(date(2018, 6, day)));
    let served = &served;
    let faults: Vec<Vec<String>> = futures::stream::iter(moments)
        .map(|(at, times, how)| async move { inject_store_fault(served, at, times, how).await })
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    let faults = faults.concat();
    assert!(
        faults.is_empty(),
        "{} of {}:\n{}",
        faults.len(),
        calls * 7,
        faults.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_outage_at_any_point_leaves_no_session_open() {
    /// Failing calls in a row: more than any one window makes.
    const OUTAGE_CALLS: usize = 15;
    let away = |(at, fault): (usize, StoreFault)| async move {
        let mut settings = settings();
        settings.latency = Duration::from_millis(30);
        settings.volume.events_per_day = 48;
        let fixture = EngineFixture::start(settings, date(2018, 6, 1), date(2018, 6, 4)).await;
        let created = Arc::new(CreationLog::default());
        let store = FaultyStore::with_repeats(fixture.store(), &created, at, OUTAGE_CALLS, fault);
        let peers = fixture.peers(store);
        let snapshot = fixture.run_with(peers, CancellationToken::new()).await;
        let mut faults = Vec::new();
        if fixture.simulator.ledger().open_now > 0 {
            faults.push(format!("open after the run: {:?}", snapshot.problems));
        }
        // Temporary entries that may not be deleted stay and are ignored; the next run retries.
        let mut complete = snapshot.complete && fault != StoreFault::Forbid;
        if !complete {
            let runs;
            (complete, runs) = resume_export(&fixture, &created).await;
            if !complete {
                faults.extend(runs);
            }
        }
        faults.extend(archive_violations(&fixture, &created).await);
        faults
            .into_iter()
            .map(|fault| format!("{fault:?} from call {at}: {fault}"))
            .collect::<Vec<_>>()
    };
    let moments = (1..=50).flat_map(|at| [StoreFault::Fail, StoreFault::Forbid].map(|fault| (at, fault)));
    let faults: Vec<Vec<String>> = futures::stream::iter(moments)
        .map(away)
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    let faults = faults.concat();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Faults of one tracker request.
fn request_faults() -> Vec<(&'static str, Effect)> {
    let silent = |done, how| Effect::NoReply { done, how };
    let status = |status| Effect::Status {
        status,
        retry_after: None,
        message: "no".to_owned(),
    };
    vec![
        ("done, and no reply", silent(true, NoReplyMode::Close)),
        ("not done, and no reply", silent(false, NoReplyMode::Reset)),
        ("500", status(500)),
        ("403", status(403)),
        ("the token expires", Effect::ExpireToken),
        ("done, and the process dies", silent(true, NoReplyMode::Hang)),
        ("not done, and the process dies", silent(false, NoReplyMode::Hang)),
    ]
}

/// Injects a fault into the `nth` request and those after it, then resumes the export.
async fn inject_request_fault(nth: u64, times: u64, (words, effect): (&str, Effect)) -> Vec<String> {
    let mut settings = settings();
    settings.volume.events_per_day = 48;
    let mut fixture = EngineFixture::start(settings, date(2018, 6, 1), date(2018, 6, 2)).await;
    fixture.export.parallelism = 1;
    let created = Arc::new(CreationLog::default());
    let fault = Fault::new(words, effect, &[]).from_nth(nth).times(times);
    fixture.simulator.add_fault(fault);
    let store = FaultyStore::new(fixture.store(), &created, 0, StoreFault::Fail);
    let peers = fixture.peers(store);
    let dies = words.ends_with("dies");
    let death = async {
        while !dies || fixture.simulator.ledger().faults.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Gives requests without a reply time to be carried out.
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let mut complete = false;
    tokio::select! {
        snapshot = fixture.run_with(peers, CancellationToken::new()) => complete = snapshot.complete,
        () = death => {}
    }
    let mut runs = Vec::new();
    if !complete {
        (complete, runs) = resume_export(&fixture, &created).await;
    }
    let mut faults = archive_violations(&fixture, &created).await;
    if fixture.simulator.ledger().faults.is_empty() {
        faults.push("the fault was not injected".to_owned());
    }
    if !complete {
        faults.extend(runs);
    }
    faults
        .into_iter()
        .map(|fault| format!("{words}, at request {nth} ×{times}: {fault}"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_tracker_request_is_recovered_and_nothing_is_stored_twice() {
    /// Two days are six requests each: list days, list sessions, create, download, list days, delete. The days are
    /// listed only before the first.
    const REQUESTS: u64 = 11;
    /// The same without downloads, which have no reply that could be lost at once.
    const REPLIES: u64 = 9;
    let moments = (1..=REQUESTS).flat_map(|nth| {
        // Once, and more often than a request is retried.
        let times = [1, 4].into_iter();
        times.flat_map(move |times| {
            request_faults()
                .into_iter()
                .map(move |effect| (nth, times, effect))
        })
    });
    let moments = moments.filter(|(nth, _, (words, _))| *nth <= REPLIES || !words.starts_with("done"));
    let faults: Vec<Vec<String>> = futures::stream::iter(moments)
        .map(|(nth, times, effect)| inject_request_fault(nth, times, effect))
        .buffer_unordered(2 * CONCURRENCY)
        .collect()
        .await;
    let faults = faults.concat();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_any_moment_releases_everything() {
    let stopped = |at: usize| async move {
        let mut settings = settings();
        settings.latency = Duration::from_millis(20);
        settings.gzip.level = 0;
        settings.volume.days.insert(date(2018, 6, 2), PARTS_EVENTS);
        let mut fixture = EngineFixture::start(settings, date(2018, 6, 1), date(2018, 6, 4)).await;
        fixture.limits.part_mib = 1;
        let created = Arc::new(CreationLog::default());
        let store = FaultyStore::new(fixture.store(), &created, at, StoreFault::Notify);
        let stop = CancellationToken::new();
        let run = fixture.run_with(fixture.peers(Arc::clone(&store) as Arc<dyn Store>), stop.clone());
        tokio::pin!(run);
        let snapshot = tokio::select! {
            snapshot = &mut run => snapshot,
            () = store.died.notified() => {
                stop.cancel();
                tokio::time::timeout(Duration::from_secs(30), run).await.expect("it stops")
            }
        };
        let mut faults = archive_violations(&fixture, &created).await;
        if snapshot
            .problems
            .iter()
            .any(|problem| problem.reason == Reason::Failed)
        {
            faults.push(format!("the stop looks like a failure: {:?}", snapshot.problems));
        }
        if !fixture.run().await.complete {
            faults.push("cannot go on".to_owned());
        }
        faults
            .into_iter()
            .map(|fault| format!("stopped at call {at}: {fault}"))
            .collect::<Vec<_>>()
    };
    let faults: Vec<Vec<String>> = futures::stream::iter(1..=60)
        .map(stopped)
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    let faults = faults.concat();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
