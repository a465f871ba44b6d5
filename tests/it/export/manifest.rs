//! Archive manifests: one per statement, in one chain, with any number of writers and after any failure.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventexport::api::Reason;
use eventexport::archive::manifest::document::{DayStatement, GapEntry};
use eventexport::archive::manifest::signature::PublicKey;
use eventexport::archive::records::RangeRecord;
use eventexport::export::failure::Failure;
use eventexport::export::manifest::sign::{Signing, SigningKey, SigningKeys};
use eventexport::export::snapshot::Snapshot;
use eventexport::export::spec::ExportSpec;
use eventexport::storage::{Crc64, ObjectClass, PutMode, PutOptions, Segments, Store};
use jiff::Timestamp;
use jiff::civil::{Date, Weekday, date};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::chain::{chain_violations, manifests, sha256, statement_violations};
use super::faulty_store::{CreationLog, FaultyStore, StoreFault};
use super::fixture::{EngineFixture, gap, settings};
use crate::testkit::openssl::{is_signed, key_pair};

fn june(day: i8) -> Date {
    date(2018, 6, day)
}

fn in_chain(fixture: &EngineFixture) -> Vec<String> {
    let files = fixture.files();
    files
        .into_iter()
        .filter(|name| name.starts_with("_manifests/"))
        .collect()
}

fn violations(fixture: &EngineFixture) -> Vec<String> {
    let root = fixture.root();
    [chain_violations(&root), statement_violations(&root)].concat()
}

/// Creates a key with `openssl` that trusts the signatures of earlier ones.
fn key(folder: &Path, name: &str, earlier: Option<&Path>) -> (Signing, PathBuf) {
    let [private, public] = key_pair(folder, name);
    let read = |path: &Path| std::fs::read(path).unwrap();
    let previous = earlier.map(|earlier| PublicKey::all_from_pem(&read(earlier)).unwrap());
    let key = SigningKey::from_pem(&read(&private)).unwrap();
    let keys = SigningKeys::new(key, previous.unwrap_or_default());
    (Signing::With(Arc::new(keys)), public)
}

/// True if `openssl` accepts the signature of a manifest.
fn is_signed_by(fixture: &EngineFixture, number: u64, public: &Path) -> bool {
    is_signed(&fixture.root(), &format!("_manifests/{number:08}.json"), public)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_export_writes_its_manifest_once() {
    let mut settings = settings();
    settings.volume.quiet.push(Weekday::Saturday);
    let mut fixture = EngineFixture::start(settings, june(1), june(4)).await;
    assert!(fixture.run().await.complete);
    assert_eq!(in_chain(&fixture), ["_manifests/00000001.json"]);
    let first = manifests(&fixture.root()).remove(0);
    assert_eq!(violations(&fixture), Vec::<String>::new());
    let days: Vec<_> = first
        .days
        .iter()
        .map(|day| (day.date, day.hours, day.wanted, day.statement))
        .collect();
    assert_eq!(
        days,
        [
            (1, DayStatement::Matched),
            (2, DayStatement::Empty),
            (3, DayStatement::Matched),
            (4, DayStatement::Matched)
        ]
        .map(|(day, statement)| (june(day), 24, 24, statement))
    );
    assert_eq!((first.totals.windows, first.totals.objects), (4, 3));
    assert_eq!(
        first.totals.days_without_count,
        first.days.iter().filter(|day| day.reported.is_none()).count() as u64
    );
    assert!(first.windows[1].object.is_none());
    assert_eq!((first.previous.clone(), first.sequence), (None, 1));

    // Again, by another holder, and by a part of the archive that was stored before manifests existed.
    fixture.run().await;
    fixture.export.holder = "tests/two".to_owned();
    fixture.run().await;
    assert_eq!(in_chain(&fixture).len(), 1);
    std::fs::remove_dir_all(fixture.root().join("_manifests")).unwrap();
    let opened = fixture.simulator.ledger().opened;
    assert!(fixture.run().await.complete);
    let again = manifests(&fixture.root()).remove(0);
    assert_eq!((again.root, again.days), (first.root.clone(), first.days));
    assert_eq!(
        fixture.simulator.ledger().opened,
        opened,
        "nothing is downloaded for it"
    );

    // A longer range is a new statement after the first.
    fixture.export.end = Some(june(5));
    assert!(fixture.run().await.complete);
    fixture.export.end = Some(june(4));
    assert!(fixture.run().await.complete);
    let all = manifests(&fixture.root());
    assert_eq!(all.len(), 2);
    let file = std::fs::read(fixture.root().join("_manifests/00000001.json")).unwrap();
    assert_eq!(all[1].previous.as_ref().unwrap().sha256, sha256(&file));
    assert_eq!(violations(&fixture), Vec::<String>::new());
}

/// Returns the calls of a run that concern manifests.
async fn calls(fixture: &EngineFixture) -> Vec<String> {
    let store = FaultyStore::new(fixture.store(), &Arc::default(), 0, StoreFault::Fail);
    let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
    assert!(fixture.run_with(peers, CancellationToken::new()).await.complete);
    let log = store.log.lock().unwrap();
    let of_manifests = log
        .iter()
        .filter_map(|line| line.split_once(' ').map(|(_, call)| call));
    let of_manifests = of_manifests.filter(|call| call.contains("_manifests/"));
    of_manifests.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn checking_the_chain_reads_only_the_manifests_it_needs() {
    let mut fixture = EngineFixture::start(settings(), june(2), june(2)).await;
    // A run that stored something knows the store and does not read again what it wrote.
    assert_eq!(
        calls(&fixture).await,
        ["list _manifests/", "put _manifests/00000001.json"]
    );
    assert_eq!(calls(&fixture).await, ["get _manifests/00000001.json"]);
    fixture.export.end = Some(june(3));
    let wrote = [
        "get _manifests/00000001.json",
        "list _manifests/",
        "put _manifests/00000002.json",
    ];
    assert_eq!(calls(&fixture).await, wrote);
    // The newest is the likeliest match, and each is read once.
    assert_eq!(calls(&fixture).await, ["get _manifests/00000002.json"]);
    fixture.export.end = Some(june(2));
    let both = ["get _manifests/00000002.json", "get _manifests/00000001.json"];
    assert_eq!(calls(&fixture).await, both);
    // A run that stores nothing does not know the store.
    fixture.export.accepted_gaps = vec![gap(june(2), june(2))];
    let tried = [
        "list _manifests/",
        "put _manifests/00000003.json",
        "get _manifests/00000003.json",
    ];
    assert_eq!(calls(&fixture).await, [&both[..], &tried].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_records_a_gap_and_how_it_is_closed() {
    let mut fixture = EngineFixture::start(settings(), june(2), june(4)).await;
    fixture.export.accepted_gaps = vec![gap(june(3), june(3))];
    assert!(fixture.run().await.complete);
    fixture.export.accepted_gaps = vec![GapEntry::new(june(3), june(3), "asked the service: lost")];
    assert!(fixture.run().await.complete);
    // The window was not lost after all.
    fixture.export.accepted_gaps.clear();
    assert!(fixture.run().await.complete);
    assert!(fixture.run().await.complete);
    let all = manifests(&fixture.root());
    let statements: Vec<_> = all
        .iter()
        .map(|manifest| {
            let day = &manifest.days[1];
            (
                day.hours,
                day.statement,
                manifest.accepted_gaps.len(),
                manifest.windows.len(),
            )
        })
        .collect();
    assert_eq!(
        statements,
        [
            (0, DayStatement::AcceptedGap, 1, 2),
            (0, DayStatement::AcceptedGap, 1, 2),
            (24, DayStatement::Matched, 0, 3)
        ]
    );
    assert_eq!(all[1].accepted_gaps[0].reason, "asked the service: lost");
    assert_eq!(violations(&fixture), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_manifest_of_a_period_states_the_gaps_of_today() {
    let mut fixture = EngineFixture::start(settings(), june(2), june(3)).await;
    for reason in ["outage", "maintenance", "outage", "outage"] {
        fixture.export.accepted_gaps = vec![GapEntry::new(june(3), june(3), reason)];
        assert!(fixture.run().await.complete);
    }
    // A manifest of another period between them changes nothing.
    fixture.export.end = Some(june(4));
    assert!(fixture.run().await.complete);
    fixture.export.end = Some(june(3));
    assert!(fixture.run().await.complete);
    let all = manifests(&fixture.root());
    let stated: Vec<_> = all
        .iter()
        .map(|manifest| (manifest.period.end, manifest.accepted_gaps[0].reason.as_str()))
        .collect();
    assert_eq!(
        stated,
        [
            (june(3), "outage"),
            (june(3), "maintenance"),
            (june(3), "outage"),
            (june(4), "outage")
        ]
    );
    assert_eq!(violations(&fixture), Vec::<String>::new());
}

/// Sets the clock of the process to this time and lets it run.
fn run_clock_from(fixture: &mut EngineFixture, now: &str) {
    let now: Timestamp = now.parse().unwrap();
    let started = Instant::now();
    fixture.clock = Arc::new(move || now.checked_add(started.elapsed()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_continuous_export_writes_a_manifest_per_complete_month() {
    let mut settings = settings();
    settings.today = Some(date(2018, 7, 3));
    settings.volume.events_per_day = 24;
    let mut fixture = EngineFixture::start(settings, june(28), june(28)).await;
    fixture.export.end = None;
    run_clock_from(&mut fixture, "2018-06-30T12:00:00Z");
    let early = fixture.run().await;
    assert_eq!((early.stored, in_chain(&fixture).len()), (2, 0));

    // The last day of June cannot be stored at first; July continues anyway.
    run_clock_from(&mut fixture, "2018-07-02T12:00:00Z");
    fixture.simulator.add_preset("download-404@2018-06-30").unwrap();
    let without = fixture.run().await;
    assert_eq!(
        (without.stored, in_chain(&fixture).len()),
        (3, 0),
        "{:?}",
        without.problems
    );
    fixture.simulator.set_faults(Vec::new());
    let with = fixture.run().await;
    assert!(with.stored == 4 && !with.manifest_due, "{:?}", with.problems);
    fixture.run().await;
    let all = manifests(&fixture.root());
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].period.start, all[0].period.end), (june(28), june(30)));
    assert_eq!(all[0].totals.windows, 3);
    assert_eq!(violations(&fixture), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_long_range_gets_a_manifest_per_calendar_year() {
    let mut fixture = EngineFixture::start(settings(), date(2016, 12, 30), june(3)).await;
    fixture.export.accepted_gaps = vec![gap(date(2016, 12, 30), june(1))];
    let snapshot = fixture.run().await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    fixture.run().await;
    let stated: Vec<_> = manifests(&fixture.root())
        .iter()
        .map(|manifest| {
            let period = manifest.period;
            (
                format!("{}/{}", period.start, period.end),
                manifest.days.len(),
                manifest.windows.len(),
            )
        })
        .collect();
    assert_eq!(
        stated,
        [
            ("2016-12-30/2016-12-31".to_owned(), 2, 0),
            ("2017-01-01/2017-12-31".to_owned(), 365, 0),
            ("2018-01-01/2018-06-03".to_owned(), 154, 2),
        ]
    );
    assert_eq!(violations(&fixture), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gap_in_a_long_range_delays_the_manifest_of_its_year_only() {
    let mut fixture = EngineFixture::start(settings(), date(2016, 12, 30), june(3)).await;
    fixture.export.accepted_gaps = vec![gap(date(2016, 12, 30), june(1))];
    fixture.simulator.add_preset("download-404@2018-06-03").unwrap();
    let periods = |fixture: &EngineFixture| -> Vec<String> {
        let all = manifests(&fixture.root());
        let period = |period: RangeRecord| format!("{}/{}", period.start, period.end);
        all.iter().map(|manifest| period(manifest.period)).collect()
    };
    let snapshot = fixture.run().await;
    assert!(
        !snapshot.complete && !snapshot.manifest_due,
        "{:?}",
        snapshot.problems
    );
    let closed = ["2016-12-30/2016-12-31", "2017-01-01/2017-12-31"];
    assert_eq!(periods(&fixture), closed);

    fixture.simulator.set_faults(Vec::new());
    assert!(fixture.run().await.complete);
    assert_eq!(
        periods(&fixture),
        [&closed[..], &["2018-01-01/2018-06-03"]].concat()
    );
    assert_eq!(violations(&fixture), Vec::<String>::new());
}

async fn process(fixture: &EngineFixture, export: ExportSpec, created: &Arc<CreationLog>) -> Arc<Snapshot> {
    let store = FaultyStore::new(fixture.store(), created, 0, StoreFault::Fail);
    let (out, _) = watch::channel(Arc::default());
    let engine = fixture.engine();
    let run = engine.run(
        Arc::new(export),
        fixture.peers(store),
        &out,
        CancellationToken::new(),
    );
    let ended = tokio::time::timeout(Duration::from_mins(1), run).await;
    ended.expect("the run ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_make_one_chain() {
    for round in 0..6 {
        let fixture = EngineFixture::start(settings(), june(1), june(5)).await;
        assert!(fixture.run().await.complete);
        std::fs::remove_dir_all(fixture.root().join("_manifests")).unwrap();
        let created = Arc::new(CreationLog::default());
        // Four writers with the same statement, and four with one each.
        let writers = (0..8).map(|n: i8| {
            let mut export = fixture.export.clone();
            export.holder = format!("tests/{n}");
            export.end = Some(june(5 - (n - 3).clamp(0, 3)));
            export.accepted_gaps = (n == 7).then(|| gap(june(1), june(1))).into_iter().collect();
            process(&fixture, export, &created)
        });
        let ends = futures::future::join_all(writers).await;
        for end in &ends {
            assert!(end.complete, "round {round}: {:?}", end.problems);
        }
        assert_eq!(violations(&fixture), Vec::<String>::new(), "round {round}");
        assert_eq!(created.duplicates(), Vec::<String>::new(), "round {round}");
        // Ranges to the 5th, 4th, 3rd and 2nd, and the last once more with its gap.
        assert_eq!(manifests(&fixture.root()).len(), 5, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_signed_by_the_current_key_and_unsigned_ones_are_signed_later() {
    let mut fixture = EngineFixture::start(settings(), june(2), june(3)).await;
    assert!(fixture.run().await.complete);
    assert_eq!(in_chain(&fixture), ["_manifests/00000001.json"]);
    let folder = tempfile::tempdir().unwrap();
    let (one, one_public) = key(folder.path(), "one", None);
    let (two, two_public) = key(folder.path(), "two", Some(&one_public));
    fixture.signing = one;
    // Its receipts were written before there was a key.
    fixture.export.unsigned_receipts_before = Some(june(4));
    assert!(fixture.run().await.complete);
    fixture.export.unsigned_receipts_before = None;
    assert_eq!(
        in_chain(&fixture),
        ["_manifests/00000001.json", "_manifests/00000001.json.sig"]
    );
    assert!(is_signed_by(&fixture, 1, &one_public) && !is_signed_by(&fixture, 1, &two_public));
    // Another key signs later manifests and leaves signed ones alone.
    fixture.signing = two;
    assert!(fixture.run().await.complete);
    fixture.export.end = Some(june(4));
    assert!(fixture.run().await.complete);
    assert!(is_signed_by(&fixture, 1, &one_public) && is_signed_by(&fixture, 2, &two_public));
    assert_eq!(in_chain(&fixture).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_manifest_is_never_signed() {
    for (from, to) in [
        ("\"statement\":\"Matched\"", "\"statement\":\"Over\""),
        ("\"software\":", "\"note\":\"all is well\",\"software\":"),
        (
            "\"previous\":null",
            "\"previous\":{\"key\":\"_manifests/00000000.json\",\"sha256\":\"00\"}",
        ),
    ] {
        let mut fixture = EngineFixture::start(settings(), june(2), june(3)).await;
        assert!(fixture.run().await.complete);
        let path = fixture.root().join("_manifests/00000001.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let public;
        (fixture.signing, public) = key(folder.path(), "one", None);
        fixture.export.unsigned_receipts_before = Some(june(4));
        assert!(fixture.run().await.complete);
        assert!(fixture.run().await.complete);
        let second = [
            "_manifests/00000001.json",
            "_manifests/00000002.json",
            "_manifests/00000002.json.sig",
        ];
        assert_eq!(in_chain(&fixture), second, "{to}");
        assert!(is_signed_by(&fixture, 2, &public), "{to}");
        let all = manifests(&fixture.root());
        assert_eq!(
            (&all[1].days[0].statement, &all[1].root),
            (&DayStatement::Matched, &all[0].root),
            "{to}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_usable_key_events_are_stored_and_only_completion_waits() {
    let mut fixture = EngineFixture::start(settings(), june(2), june(3)).await;
    let reason = Reason::SigningKeyInvalid;
    fixture.signing = Signing::Unavailable(Failure::manual(reason, "the Secret signing has no key"));
    let waits = fixture.run().await;
    assert!(!waits.complete && waits.manifest_due && waits.stored == 2);
    assert_eq!(
        waits
            .problems
            .iter()
            .map(|problem| problem.reason)
            .collect::<Vec<_>>(),
        [reason]
    );
    assert_eq!(in_chain(&fixture), Vec::<String>::new());
    let folder = tempfile::tempdir().unwrap();
    let (signing, public) = key(folder.path(), "one", None);
    fixture.signing = signing;
    let unsigned = fixture.run().await;
    assert!(!unsigned.complete && unsigned.problems[0].reason == Reason::ReceiptUnsigned);
    assert_eq!(in_chain(&fixture), Vec::<String>::new());
    fixture.export.unsigned_receipts_before = Some(june(4));
    assert!(fixture.run().await.complete);
    assert!(is_signed_by(&fixture, 1, &public));
    // Existing signed manifests need no key.
    fixture.signing = Signing::Unavailable(Failure::manual(reason, "gone again"));
    assert!(fixture.run().await.complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unwritable_or_unreadable_manifest_is_named_and_blocks_completion() {
    let fixture = EngineFixture::start(settings(), june(2), june(2)).await;
    let counted = FaultyStore::new(fixture.store(), &Arc::default(), 0, StoreFault::Fail);
    let peers = fixture.peers(Arc::clone(&counted) as Arc<dyn Store>);
    assert!(fixture.run_with(peers, CancellationToken::new()).await.complete);
    std::fs::remove_dir_all(fixture.root().join("_manifests")).unwrap();
    // The last call of a run without downloads writes the manifest.
    let store = FaultyStore::new(fixture.store(), &Arc::default(), 0, StoreFault::Fail);
    let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
    assert!(fixture.run_with(peers, CancellationToken::new()).await.complete);
    let log = store.log.lock().unwrap().clone();
    let at = 1 + log
        .iter()
        .position(|line| line.contains("put _manifests/"))
        .expect("it is written");
    std::fs::remove_dir_all(fixture.root().join("_manifests")).unwrap();
    let store = FaultyStore::new(fixture.store(), &Arc::default(), at, StoreFault::Forbid);
    let forbidden = fixture
        .run_with(fixture.peers(store), CancellationToken::new())
        .await;
    assert!(!forbidden.complete && forbidden.stored == 1);
    let problem = &forbidden.problems[0];
    assert_eq!(problem.reason, Reason::BucketForbidden);
    assert!(
        problem.message.contains("_manifests/00000001.json"),
        "{}",
        problem.message
    );

    // A foreign file at its key is not overwritten and not continued.
    let body = Segments::from(bytes::Bytes::from_static(
        b"{\"schema\":\"eventexport.io/manifest/v9\"}",
    ));
    let options = PutOptions {
        mode: PutMode::Overwrite,
        crc64: Crc64::of_segments(&body),
        metadata: Vec::new(),
        content_type: "application/json",
        class: ObjectClass::Proof,
    };
    let name = format!("{}_manifests/00000001.json", fixture.export.root.as_str());
    fixture.store().put(&name, body, &options).await.unwrap();
    let newer = fixture.run().await;
    assert!(!newer.complete && newer.problems[0].reason == Reason::UnsupportedSchema);
    let message = &newer.problems[0].message;
    assert!(
        message.contains("00000001.json") && message.contains("upgrade"),
        "{message}"
    );
    assert_eq!(in_chain(&fixture).len(), 1);
}
