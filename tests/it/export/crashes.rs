//! A crash, a refusal or a lost reply at every single call of the store: whatever the moment, going on
//! completes the export, with every object and receipt created once, and leaves nothing open.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use eventexport::api::Reason;
use eventexport::simulator::{Effect, Fault, Silence};
use eventexport::storage::Store;
use futures::{FutureExt as _, StreamExt as _};
use jiff::civil::date;
use tokio_util::sync::CancellationToken;

use super::bench::{Bench, gap, settings};
use super::chain::{faults_of_chain, faults_of_statements, manifests, signing};
use super::saboteur::{Created, Saboteur, Strike};

/// Exports at a time: they wait for timers more than they work.
const AT_ONCE: usize = 24;
/// Runs after the crash within which all must be settled.
const RUNS: usize = 4;

/// Two days, the second of which goes in parts, after a manifest of another; one window at a time, so that calls
/// come in a known order.
async fn two_days() -> Bench {
    let mut settings = settings();
    settings.gzip.level = 0;
    settings.volume.days.insert(date(2018, 6, 2), 10_000);
    let mut bench = Bench::start(settings, date(2018, 6, 1), date(2018, 6, 2)).await;
    bench.export.parallelism = 1;
    bench.signing = signing();
    // What is stated first, of a day that is lost: the chain goes on from there.
    let export = bench.export.clone();
    let day = date(2018, 5, 31);
    (bench.export.start, bench.export.end) = (day, Some(day));
    bench.export.accepted = vec![gap(day, day)];
    assert!(bench.run().await.complete);
    bench.export = export;
    bench
}

/// What is not as it must be after all runs; nothing is the hope.
pub(super) async fn faults_of(bench: &Bench, created: &Created) -> Vec<String> {
    let mut faults = Vec::new();
    let ledger = bench.simulator.ledger();
    faults.extend(
        ledger
            .violations
            .iter()
            .map(|words| format!("violation: {words}")),
    );
    if ledger.open_now > 0 {
        faults.push(format!("{} sessions are open", ledger.open_now));
    }
    if ledger.opened != ledger.deleted + ledger.vanished {
        faults.push(format!("{} opened, {} deleted", ledger.opened, ledger.deleted));
    }
    if ledger.people_deleted > 0 {
        faults.push("a session of a person was deleted".to_owned());
    }
    faults.extend(created.doubled().into_iter().map(|key| format!("doubled: {key}")));
    let uploads = bench.store().uploads("").await.expect("uploads are listed");
    faults.extend(
        uploads
            .into_iter()
            .map(|open| format!("upload left: {}", open.upload.key)),
    );
    let spent = |name: &String| {
        name.starts_with("_journal/")
            && ![".receipt.json", ".expired.json", ".split.json"]
                .iter()
                .any(|kept| name.ends_with(kept))
    };
    faults.extend(
        bench
            .files()
            .into_iter()
            .filter(spent)
            .map(|key| format!("left: {key}")),
    );
    faults.extend(faults_of_chain(&bench.root()));
    let temporary = bench.folder.path().join(".eventexport-tmp/put");
    let temporary = std::fs::read_dir(temporary).map_or(0, Iterator::count);
    if temporary > 0 {
        faults.push(format!("{temporary} temporary files left"));
    }
    faults
}

/// Goes on with new processes until it is complete; tells what each ended with.
async fn go_on(bench: &Bench, created: &Arc<Created>) -> (bool, Vec<String>) {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        // A session that nobody knows the id of may be deleted once it was quiet.
        tokio::time::sleep(Duration::from_millis(1_050)).await;
        let store = Saboteur::new(bench.store(), created, 0, Strike::Refuse);
        let snapshot = bench.run_with(bench.peers(store), CancellationToken::new()).await;
        runs.push(format!("{} {:?}", snapshot.complete, snapshot.troubles));
        if snapshot.complete {
            return (true, runs);
        }
    }
    (false, runs)
}

/// Strikes the first process at a call, then goes on with others until it is complete.
async fn strike(served: &[Vec<u8>], at: usize, times: usize, strike: Strike) -> Vec<String> {
    let bench = two_days().await;
    let created = Arc::new(Created::default());
    let store = Saboteur::repeatedly(bench.store(), &created, at, times, strike);
    let peers = bench.peers(Arc::clone(&store) as Arc<dyn Store>);
    let mut complete = false;
    // A defect outside of a window's task ends the run, as a crash does.
    let run = AssertUnwindSafe(bench.run_with(peers, CancellationToken::new())).catch_unwind();
    tokio::select! {
        ended = run => complete = ended.is_ok_and(|snapshot| snapshot.complete),
        () = store.died.notified() => {}
    }
    let mut runs = vec![format!("{complete}")];
    if !complete {
        let more;
        (complete, more) = go_on(&bench, &created).await;
        runs.extend(more);
    }
    let mut faults = faults_of(&bench, &created).await;
    if !complete {
        faults.push("never complete".to_owned());
    }
    faults.extend(faults_of_statements(&bench.root()));
    let stated = manifests(&bench.root()).len();
    if stated != 2 || !bench.root().join("_manifests/00000002.json.sig").exists() {
        faults.push(format!("{stated} manifests"));
    }
    for (served, day) in served.iter().zip(1..) {
        let stored = std::fs::read(bench.root().join(format!("date=2018-06-0{day}/events.json.gz")));
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
        "{strike:?} ×{times} at {call}: {faults:?}; runs: {runs:?}"
    )]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_of_the_store_is_struck_going_on_completes_the_export_once() {
    let bench = two_days().await;
    let created = Arc::new(Created::default());
    let store = Saboteur::new(bench.store(), &created, 0, Strike::Refuse);
    let peers = bench.peers(Arc::clone(&store) as Arc<dyn Store>);
    assert!(bench.run_with(peers, CancellationToken::new()).await.complete);
    assert_eq!(faults_of(&bench, &created).await, Vec::<String>::new());
    let calls = store.calls();
    let log = store.log.lock().unwrap().join("\n");
    assert!(log.contains("part 2 of"), "the second day goes in parts:\n{log}");
    assert!(
        log.contains("put _manifests/00000002.json.sig"),
        "a manifest is written and signed:\n{log}"
    );

    // A store that is away for longer is away for what would mend the first failure, too.
    let moments = (1..=calls).flat_map(|at| {
        let once = Strike::ALL.map(|strike| (at, 1, strike));
        let longer = [2, 3]
            .into_iter()
            .flat_map(move |times| [Strike::Refuse, Strike::LoseReply].map(|strike| (at, times, strike)));
        once.into_iter().chain(longer)
    });
    let served = [1, 2].map(|day| bench.served(date(2018, 6, day)));
    let served = &served;
    let faults: Vec<Vec<String>> = futures::stream::iter(moments)
        .map(|(at, times, how)| async move { strike(served, at, times, how).await })
        .buffer_unordered(AT_ONCE)
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
async fn a_store_that_is_away_for_a_while_at_any_moment_keeps_no_session_open() {
    /// Calls in a row that fail: more than any one window makes.
    const AWAY: usize = 15;
    let away = |(at, strike): (usize, Strike)| async move {
        let mut settings = settings();
        settings.latency = Duration::from_millis(30);
        settings.volume.events_per_day = 48;
        let bench = Bench::start(settings, date(2018, 6, 1), date(2018, 6, 4)).await;
        let created = Arc::new(Created::default());
        let store = Saboteur::repeatedly(bench.store(), &created, at, AWAY, strike);
        let peers = bench.peers(store);
        let snapshot = bench.run_with(peers, CancellationToken::new()).await;
        let mut faults = Vec::new();
        if bench.simulator.ledger().open_now > 0 {
            faults.push(format!("open after the run: {:?}", snapshot.troubles));
        }
        // Spent keys that may not be deleted stay, and mean nothing: the next run tries again.
        let mut complete = snapshot.complete && strike != Strike::Forbid;
        if !complete {
            let runs;
            (complete, runs) = go_on(&bench, &created).await;
            if !complete {
                faults.extend(runs);
            }
        }
        faults.extend(faults_of(&bench, &created).await);
        faults
            .into_iter()
            .map(|fault| format!("{strike:?} from call {at}: {fault}"))
            .collect::<Vec<_>>()
    };
    let moments = (1..=50).flat_map(|at| [Strike::Refuse, Strike::Forbid].map(|strike| (at, strike)));
    let faults: Vec<Vec<String>> = futures::stream::iter(moments)
        .map(away)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let faults = faults.concat();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What happens to one request of the tracker.
fn mishaps() -> Vec<(&'static str, Effect)> {
    let silent = |done, how| Effect::NoReply { done, how };
    let status = |status| Effect::Status {
        status,
        retry_after: None,
        message: "no".to_owned(),
    };
    vec![
        ("done, and no reply", silent(true, Silence::Close)),
        ("not done, and no reply", silent(false, Silence::Reset)),
        ("500", status(500)),
        ("403", status(403)),
        ("the token expires", Effect::ExpireToken),
        ("done, and the process dies", silent(true, Silence::Hang)),
        ("not done, and the process dies", silent(false, Silence::Hang)),
    ]
}

/// Lets a mishap befall the `nth` request and those after it, then goes on.
async fn befall(nth: u64, times: u64, (words, effect): (&str, Effect)) -> Vec<String> {
    let mut settings = settings();
    settings.volume.events_per_day = 48;
    let mut bench = Bench::start(settings, date(2018, 6, 1), date(2018, 6, 2)).await;
    bench.export.parallelism = 1;
    let created = Arc::new(Created::default());
    let fault = Fault::new(words, effect, &[]).from_nth(nth).times(times);
    bench.simulator.add_fault(fault);
    let store = Saboteur::new(bench.store(), &created, 0, Strike::Refuse);
    let peers = bench.peers(store);
    let dies = words.ends_with("dies");
    let death = async {
        while !dies || bench.simulator.ledger().faults.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // What is carried out all the same has time to be.
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let mut complete = false;
    tokio::select! {
        snapshot = bench.run_with(peers, CancellationToken::new()) => complete = snapshot.complete,
        () = death => {}
    }
    let mut runs = Vec::new();
    if !complete {
        (complete, runs) = go_on(&bench, &created).await;
    }
    let mut faults = faults_of(&bench, &created).await;
    if bench.simulator.ledger().faults.is_empty() {
        faults.push("befell nothing".to_owned());
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
async fn whatever_request_of_the_tracker_goes_wrong_going_on_completes_the_export_once() {
    /// Two days are six requests each: list days, list sessions, create, download, list days, delete; but the
    /// days are listed before the first only.
    const REQUESTS: u64 = 11;
    /// Of those, without the downloads: they have no reply that could be lost as a whole.
    const REPLIES: u64 = 9;
    let moments = (1..=REQUESTS).flat_map(|nth| {
        // Once, and longer than a request is tried.
        let times = [1, 4].into_iter();
        times.flat_map(move |times| mishaps().into_iter().map(move |mishap| (nth, times, mishap)))
    });
    let moments = moments.filter(|(nth, _, (words, _))| *nth <= REPLIES || !words.starts_with("done"));
    let faults: Vec<Vec<String>> = futures::stream::iter(moments)
        .map(|(nth, times, mishap)| befall(nth, times, mishap))
        .buffer_unordered(2 * AT_ONCE)
        .collect()
        .await;
    let faults = faults.concat();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_it_is_asked_to_stop_it_lets_go_of_everything_first() {
    let stopped = |at: usize| async move {
        let mut settings = settings();
        settings.latency = Duration::from_millis(20);
        settings.gzip.level = 0;
        settings.volume.days.insert(date(2018, 6, 2), 10_000);
        let bench = Bench::start(settings, date(2018, 6, 1), date(2018, 6, 4)).await;
        let created = Arc::new(Created::default());
        let store = Saboteur::new(bench.store(), &created, at, Strike::Tell);
        let stop = CancellationToken::new();
        let run = bench.run_with(bench.peers(Arc::clone(&store) as Arc<dyn Store>), stop.clone());
        tokio::pin!(run);
        let snapshot = tokio::select! {
            snapshot = &mut run => snapshot,
            () = store.died.notified() => {
                stop.cancel();
                tokio::time::timeout(Duration::from_secs(30), run).await.expect("it stops")
            }
        };
        let mut faults = faults_of(&bench, &created).await;
        if snapshot
            .troubles
            .iter()
            .any(|trouble| trouble.reason == Reason::Failed)
        {
            faults.push(format!("the stop looks like a failure: {:?}", snapshot.troubles));
        }
        if !bench.run().await.complete {
            faults.push("cannot go on".to_owned());
        }
        faults
            .into_iter()
            .map(|fault| format!("stopped at call {at}: {fault}"))
            .collect::<Vec<_>>()
    };
    let faults: Vec<Vec<String>> = futures::stream::iter(1..=60)
        .map(stopped)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let faults = faults.concat();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
