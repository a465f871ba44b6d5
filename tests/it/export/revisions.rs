//! Late events: a stored day that grows is downloaded again, and each event is in the archive once.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use eventexport::api::Reason;
use eventexport::archive::counts::Verdict;
use eventexport::archive::finding::FindingKind;
use eventexport::archive::records::{LateRecord, Receipt, decode};
use eventexport::archive::verify::archive::{VerifyOptions, VerifyProgress, verify};
use eventexport::archive::verify::options::Recheck;
use eventexport::archive::verify::report::VerifyReport;
use eventexport::export::snapshot::Snapshot;
use eventexport::export::spec::{RecheckPolicy, RetryPolicy};
use eventexport::simulator::{Settings, Simulator};
use eventexport::storage::Store;
use flate2::read::MultiGzDecoder;
use futures::{FutureExt as _, StreamExt as _};
use jiff::civil::{Date, date};
use tokio_util::sync::CancellationToken;

use crate::auditor::audit;
use crate::testkit::command::run_in;

use super::chain::{manifests, signing};
use super::crashes::{archive_violations, resume_export};
use super::faulty_store::{CreationLog, FaultyStore, StoreFault};
use super::fixture::{EngineFixture, gap, settings};

fn june(day: i8) -> Date {
    date(2018, 6, day)
}

fn read(fixture: &EngineFixture, key: &str) -> Option<Vec<u8>> {
    std::fs::read(fixture.root().join(key)).ok()
}

fn receipt(fixture: &EngineFixture, name: &str) -> Option<Receipt> {
    let bytes = read(fixture, &format!("_journal/{name}.receipt.json"))?;
    Some(decode("receipt", &bytes).expect("a receipt"))
}

fn late(fixture: &EngineFixture, window: &str) -> Option<LateRecord> {
    let bytes = read(fixture, &format!("_journal/{window}.late.json"))?;
    Some(decode("late", &bytes).expect("a record of late events"))
}

/// Returns the lines of a gzip with the number of times that each is there.
fn lines(gzip: &[u8]) -> BTreeMap<String, u64> {
    let mut text = String::new();
    MultiGzDecoder::new(gzip)
        .read_to_string(&mut text)
        .expect("a gzip of lines");
    count_lines(&text)
}

fn count_lines(text: &str) -> BTreeMap<String, u64> {
    let mut lines = BTreeMap::new();
    for line in text.lines() {
        *lines.entry(line.to_owned()).or_default() += 1;
    }
    lines
}

/// Returns the lines of all objects of a day, as a query over `date=*/events*.json.gz` reads them.
fn read_by_queries(fixture: &EngineFixture, day: Date) -> BTreeMap<String, u64> {
    let prefix = format!("date={day}/events");
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    let files = fixture.files();
    let files = files
        .iter()
        .filter(|name| name.starts_with(&prefix) && name.ends_with(".json.gz"));
    for name in files {
        for (line, times) in lines(&read(fixture, name).unwrap()) {
            *all.entry(line).or_default() += times;
        }
    }
    all
}

fn reasons(snapshot: &Snapshot) -> Vec<Reason> {
    snapshot.problems.iter().map(|problem| problem.reason).collect()
}

/// Checks that readers of a day see each event of the service once, also through `cat`.
async fn assert_each_event_once(fixture: &EngineFixture, day: Date) {
    let served = lines(&fixture.served(day));
    let (root, day_text) = (fixture.root(), day.to_string());
    let cat = ["cat", ".", "--start", &day_text, "--end", &day_text];
    let printed = run_in(&root, &cat).await.expect_exit(0);
    assert!(
        count_lines(&printed.out) == served,
        "cat of {day}: {}",
        printed.err
    );
    assert!(
        read_by_queries(fixture, day) == served,
        "readers of {day} see other events than the service has: {} instead of {}",
        read_by_queries(fixture, day).values().sum::<u64>(),
        served.values().sum::<u64>()
    );
}

/// A service with as many events as the one of [`settings`], which are others.
fn other_events() -> Settings {
    Settings {
        seed: 2,
        ..settings()
    }
}

/// Verifies the archive of the export.
async fn verified(fixture: &EngineFixture) -> VerifyReport {
    let options = VerifyOptions {
        recheck: Recheck {
            pause: Duration::from_millis(50),
            ..Recheck::default()
        },
        ..VerifyOptions::new(fixture.store(), fixture.export.root.as_str())
    };
    verify(&options, &Arc::new(VerifyProgress::default()))
        .await
        .expect("the archive is verified")
}

/// Returns kind and key below the root of each error.
async fn errors(fixture: &EngineFixture) -> Vec<(FindingKind, String)> {
    let report = verified(fixture).await;
    let root = fixture.export.root.as_str();
    let findings = report.all().into_iter().filter(|finding| finding.kind.is_error());
    findings
        .map(|finding| {
            let below = finding.key.strip_prefix(root).unwrap_or(&finding.key);
            (finding.kind, below.to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn late_events_are_stored_beside_the_day_and_readers_see_each_event_once() {
    let fixture = EngineFixture::start(settings(), june(1), june(4)).await;
    assert!(fixture.run().await.complete);
    let first = read(&fixture, "date=2018-06-03/events.json.gz").unwrap();
    let sealed = read(&fixture, "_manifests/00000001.json").unwrap();
    fixture.simulator.grow_day(june(3), 7);
    let grown = fixture.run().await;
    assert!(grown.complete, "{:?}", grown.problems);
    assert_eq!((grown.events, grown.late_events), (4 * 240 + 7, 7));
    assert_eq!(
        fixture.simulator.ledger().opened,
        5,
        "only the grown day is downloaded"
    );

    let base = receipt(&fixture, "2018-06-03").unwrap();
    let revised = receipt(&fixture, "2018-06-03.r1").unwrap();
    assert_eq!((base.events, base.revision), (240, 0));
    assert_eq!(
        (
            revised.events,
            revised.revision,
            revised.verdict,
            revised.supplement_events
        ),
        (247, 1, Verdict::Matched, Some(7))
    );
    let body = read(&fixture, "_revisions/2018-06-03/1/events.json.gz").unwrap();
    assert!(
        body == fixture.served(june(3)),
        "the later body is stored as sent"
    );
    let supplement = read(&fixture, "date=2018-06-03/events-r1.json.gz").unwrap();
    assert_eq!(lines(&supplement).values().sum::<u64>(), 7);
    assert_eq!(revised.supplement.unwrap().bytes, supplement.len() as u64);
    assert!(first == read(&fixture, "date=2018-06-03/events.json.gz").unwrap());
    for day in 1..=4 {
        assert_each_event_once(&fixture, june(day)).await;
    }

    // A manifest with the revision supersedes the one before.
    assert!(sealed == read(&fixture, "_manifests/00000001.json").unwrap());
    let manifests = manifests(&fixture.root());
    assert_eq!(manifests.len(), 2);
    let newest = &manifests[1];
    assert_eq!(newest.schema, "eventexport.io/manifest/v2");
    assert_eq!((newest.totals.events, newest.totals.reported), (967, 967));
    assert_eq!(newest.windows[2].revisions[0].events, 247);

    // docs/audit.sh proves it too; it is not signed.
    let audited = audit(&fixture.root(), &fixture.root(), &[]);
    assert_eq!(audited.code, Some(0), "{}", audited.text);

    let again = fixture.run().await;
    assert!(again.complete && again.grown.is_empty());
    let ledger = fixture.simulator.ledger();
    assert_eq!((ledger.opened, ledger.open_now), (5, 0), "nothing grew");
    assert_eq!(ledger.violations, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_growth_is_a_revision_of_its_own() {
    let fixture = EngineFixture::start(settings(), june(3), june(3)).await;
    assert!(fixture.run().await.complete);
    for (extra, revision, events) in [(7, 1, 247), (5, 2, 252)] {
        fixture.simulator.grow_day(june(3), extra);
        let snapshot = fixture.run().await;
        assert!(snapshot.complete, "{:?}", snapshot.problems);
        let revised = receipt(&fixture, &format!("2018-06-03.r{revision}")).unwrap();
        assert_eq!((revised.events, revised.supplement_events), (events, Some(extra)));
        assert_each_event_once(&fixture, june(3)).await;
    }
    assert_eq!(fixture.simulator.ledger().opened, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_was_empty_gets_its_late_events() {
    let mut settings = settings();
    settings.volume.days.insert(june(3), 0);
    let fixture = EngineFixture::start(settings, june(3), june(3)).await;
    assert!(fixture.run().await.complete);
    assert_eq!(receipt(&fixture, "2018-06-03").unwrap().verdict, Verdict::Empty);
    fixture.simulator.grow_day(june(3), 7);
    let snapshot = fixture.run().await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    assert_eq!(
        receipt(&fixture, "2018-06-03.r1").unwrap().supplement_events,
        Some(7)
    );
    assert_each_event_once(&fixture, june(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_day_is_compared_in_parts() {
    let mut settings = settings();
    settings.gzip.level = 0;
    settings.volume.days.insert(june(3), 3_000);
    let mut fixture = EngineFixture::start(settings, june(3), june(3)).await;
    fixture.limits.part_mib = 1;
    assert!(fixture.run().await.complete);
    fixture.simulator.grow_day(june(3), 2_500);
    let snapshot = fixture.run().await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    let revised = receipt(&fixture, "2018-06-03.r1").unwrap();
    assert_eq!((revised.events, revised.supplement_events), (5_500, Some(2_500)));
    assert_each_event_once(&fixture, june(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_comparison_can_be_turned_off_and_bounded() {
    let mut fixture = EngineFixture::start(settings(), june(3), june(3)).await;
    assert!(fixture.run().await.complete);
    fixture.simulator.grow_day(june(3), 7);
    // The clock of these tests is years later.
    for recheck in [RecheckPolicy::Disabled, RecheckPolicy::Days(30)] {
        fixture.export.recheck = recheck;
        let before = fixture.simulator.ledger();
        assert!(fixture.run().await.complete, "{recheck:?}");
        assert_eq!(
            fixture.simulator.ledger().requests,
            before.requests,
            "{recheck:?}"
        );
    }
    fixture.export.recheck = RecheckPolicy::Days(3650);
    assert!(fixture.run().await.complete);
    assert_each_event_once(&fixture, june(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_whose_later_body_lacks_stored_events_is_left_for_a_person() {
    let mut fixture = EngineFixture::start(other_events(), june(3), june(3)).await;
    assert!(fixture.run().await.complete);
    fixture.export.end = Some(june(4));
    fixture.simulator = Simulator::start(settings()).await.unwrap();
    assert!(fixture.run().await.complete, "the counts are equal");
    fixture.simulator.grow_day(june(3), 7);
    fixture.simulator.grow_day(june(4), 5);
    let changed = fixture.run().await;
    assert_eq!(reasons(&changed), [Reason::DayChanged], "{:?}", changed.problems);
    let message = &changed.problems[0].message;
    for part in ["2018-06-03", "240 events are stored", "247", "lack 240"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    assert!(!changed.complete && !changed.finished);
    // The archive stays proved for what it held. The later body is kept once, as it was sent, and no query reads it.
    assert_eq!(changed.stored, 2);
    assert_each_event_once(&fixture, june(4)).await;
    let of_day: Vec<String> = fixture
        .files()
        .into_iter()
        .filter(|name| name.contains("2018-06-03") && !name.starts_with("_manifests"))
        .collect();
    assert_eq!(
        of_day,
        [
            "_journal/2018-06-03.late.json",
            "_journal/2018-06-03.r1.receipt.json",
            "_journal/2018-06-03.receipt.json",
            "_revisions/2018-06-03/1/events.json.gz",
            "date=2018-06-03/events.json.gz"
        ]
    );
    let kept = receipt(&fixture, "2018-06-03.r1").unwrap();
    assert_eq!((kept.events, kept.missing_events), (247, Some(240)));
    let body = read(&fixture, "_revisions/2018-06-03/1/events.json.gz").unwrap();
    assert_eq!(lines(&body), lines(&fixture.served(june(3))));
    assert_eq!(errors(&fixture).await, []);
    let record = late(&fixture, "2018-06-03").unwrap();
    assert_eq!((record.stored, record.reported), (240, 247));
    let opened = fixture.simulator.ledger().opened;

    // It is known: no session is opened again for the same count.
    let again = fixture.run().await;
    assert_eq!(reasons(&again), [Reason::DayChanged]);
    let opened_again = fixture.simulator.ledger().opened;
    assert_eq!(opened_again, opened);

    fixture.export.accepted_gaps = vec![gap(june(3), june(3))];
    let accepted = fixture.run().await;
    assert!(accepted.complete, "{:?}", accepted.problems);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_body_that_lacks_stored_events_stops_no_later_revision() {
    let mut fixture = EngineFixture::start(other_events(), june(3), june(3)).await;
    fixture.signing = signing();
    assert!(fixture.run().await.complete);
    let source = fixture.export.source.clone();
    let first = std::mem::replace(
        &mut fixture.simulator,
        Simulator::start(settings()).await.unwrap(),
    );
    fixture.simulator.grow_day(june(3), 7);
    let changed = fixture.run().await;
    assert_eq!(reasons(&changed), [Reason::DayChanged]);
    assert_eq!(fixture.export.source, source, "the name of the service stays");

    // The service gives the stored events again, with later ones.
    fixture.simulator = first;
    fixture.simulator.grow_day(june(3), 20);
    let snapshot = fixture.run().await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    let revised = receipt(&fixture, "2018-06-03.r2").unwrap();
    assert_eq!((revised.events, revised.supplement_events), (260, Some(20)));
    assert_each_event_once(&fixture, june(3)).await;
    assert_eq!(errors(&fixture).await, []);
    let folder = tempfile::tempdir().unwrap();
    let audited = audit(folder.path(), &fixture.root(), &[]);
    assert_eq!(audited.code, Some(0), "{}", audited.text);
    let newest = manifests(&fixture.root()).pop().unwrap();
    let stated: Vec<Option<u64>> = newest.windows[0]
        .revisions
        .iter()
        .map(|revision| revision.missing_events)
        .collect();
    assert_eq!(stated, [Some(240), None]);
    assert_eq!(newest.totals.events, 260);

    // The kept body is evidence: it is missed, and no other number of missing events passes.
    let path = |key: &str| fixture.root().join(key);
    let body = path("_revisions/2018-06-03/1/events.json.gz");
    let bytes = std::fs::read(&body).unwrap();
    std::fs::remove_file(&body).unwrap();
    let found = errors(&fixture).await;
    let missing = (
        FindingKind::ObjectMissing,
        "_revisions/2018-06-03/1/events.json.gz".to_owned(),
    );
    assert!(found.contains(&missing), "{found:?}");
    assert_eq!(audit(folder.path(), &fixture.root(), &[]).code, Some(1));
    std::fs::write(&body, bytes).unwrap();
    // The receipts alone decide.
    std::fs::remove_dir_all(path("_manifests")).unwrap();
    let document = path("_journal/2018-06-03.r1.receipt.json");
    let text = std::fs::read_to_string(&document).unwrap();
    for (from, to) in [
        ("\"missingEvents\":240", "\"missingEvents\":241"),
        ("\"missingEvents\":240,", ""),
    ] {
        let edited = text.replace(from, to);
        assert_ne!(edited, text);
        std::fs::write(&document, edited).unwrap();
        assert_ne!(errors(&fixture).await, [], "{to}");
        let audited = audit(folder.path(), &fixture.root(), &[]);
        assert_eq!(audited.code, Some(1), "{to}: {}", audited.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_events_that_the_service_does_not_give_are_short() {
    let mut fixture = EngineFixture::start(settings(), june(3), june(3)).await;
    assert!(fixture.run().await.complete);
    // The listing counts more events than any download has.
    fixture.simulator.add_preset("events-over@2018-06-03").unwrap();
    let short = fixture.run().await;
    assert_eq!(reasons(&short), [Reason::Short], "{:?}", short.problems);
    assert!(!short.complete);
    let record = late(&fixture, "2018-06-03").unwrap();
    assert!(record.reported > 240 && record.changed.is_none());

    // The service no longer reports them: the count of now is confirmed, without a session.
    fixture.simulator = Simulator::start(settings()).await.unwrap();
    let confirmed = fixture.run().await;
    assert!(confirmed.complete, "{:?}", confirmed.problems);
    assert_eq!(fixture.simulator.ledger().opened, 0);
    let receipt = receipt(&fixture, "2018-06-03.r1").unwrap();
    assert_eq!((receipt.events, receipt.reported_after), (240, Some(240)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_without_a_count_is_confirmed_when_the_service_gives_one() {
    let fixture = EngineFixture::start(settings(), june(3), june(4)).await;
    fixture.simulator.add_preset("events-403").unwrap();
    assert!(fixture.run().await.complete);
    assert_eq!(receipt(&fixture, "2018-06-03").unwrap().verdict, Verdict::Unknown);
    fixture.simulator.set_faults(Vec::new());
    fixture.simulator.grow_day(june(4), 7);
    let snapshot = fixture.run().await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    // Equal: a receipt without a session; more: a download.
    let confirmed = receipt(&fixture, "2018-06-03.r1").unwrap();
    assert_eq!(
        (confirmed.verdict, confirmed.reported_after, confirmed.supplement),
        (Verdict::Matched, Some(240), None)
    );
    assert_eq!(confirmed.object.unwrap().key, "date=2018-06-03/events.json.gz");
    let revised = receipt(&fixture, "2018-06-04.r1").unwrap();
    assert_eq!((revised.events, revised.supplement_events), (247, Some(7)));
    assert_eq!(fixture.simulator.ledger().opened, 3);
    let again = fixture.run().await;
    assert!(again.complete);
    assert_eq!(receipt(&fixture, "2018-06-03.r2"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_events_of_a_day_in_hours_are_found_in_its_hours() {
    let fixture = EngineFixture::start(settings(), june(3), june(3)).await;
    let journal = fixture.root().join("_journal");
    std::fs::create_dir_all(&journal).unwrap();
    std::fs::write(
        journal.join("2018-06-03.split.json"),
        "{\"schema\":\"eventexport.io/split/v1\",\"why\":\"test\",\"at\":\"2018-06-05T00:00:00Z\"}\n",
    )
    .unwrap();
    assert!(fixture.run().await.complete);
    fixture.simulator.grow_day(june(3), 7);
    let snapshot = fixture.run().await;
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    assert_eq!((snapshot.events, snapshot.late_events), (247, 7));
    assert_each_event_once(&fixture, june(3)).await;
    assert_eq!(fixture.simulator.ledger().opened, 48);
    assert!(fixture.run().await.complete);
    assert_eq!(fixture.simulator.ledger().opened, 48);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_gives_no_counts_leaves_the_run_unfinished() {
    let mut fixture = EngineFixture::start(settings(), june(3), june(3)).await;
    assert!(fixture.run().await.complete);
    fixture.simulator.add_preset("events-500").unwrap();
    let unknown = fixture.run().await;
    assert_eq!(
        reasons(&unknown),
        [Reason::SourceUnreachable],
        "{:?}",
        unknown.problems
    );
    // The operator asks again on the next day and stays complete.
    fixture.export.retry_policy = RetryPolicy::Forever;
    fixture.limits.listing_max_age = Duration::from_hours(1);
    let idle = fixture.run().await;
    assert!(idle.complete && idle.problems.is_empty(), "{:?}", idle.problems);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_proves_every_file_of_each_revision() {
    let fixture = EngineFixture::start(settings(), june(3), june(4)).await;
    assert!(fixture.run().await.complete);
    for extra in [7, 5] {
        fixture.simulator.grow_day(june(3), extra);
        assert!(fixture.run().await.complete);
    }
    let report = verified(&fixture).await;
    assert!(report.is_proved(), "{:?}", report.all());
    let totals = report.roots[0].totals;
    assert_eq!((totals.windows, totals.events, totals.late), (2, 240 + 252, 12));
    // The first objects, two bodies and two supplements.
    assert_eq!((totals.objects, totals.proved), (6, 6));
    let audited = audit(&fixture.root(), &fixture.root(), &[]);
    assert_eq!(audited.code, Some(0), "{}", audited.text);
    assert!(audited.text.contains("2 windows, 492 events"), "{}", audited.text);

    let damage = [
        (
            "date=2018-06-03/events-r1.json.gz",
            vec![FindingKind::ObjectMissing],
        ),
        (
            "_revisions/2018-06-03/2/events.json.gz",
            vec![FindingKind::ObjectMissing],
        ),
        (
            "_journal/2018-06-03.r1.receipt.json",
            vec![FindingKind::ReceiptMissing],
        ),
        (
            "_journal/2018-06-03.r2.receipt.json",
            vec![FindingKind::ReceiptMissing],
        ),
    ];
    for (key, kinds) in damage {
        let path = fixture.root().join(key);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut found: Vec<FindingKind> = errors(&fixture).await.into_iter().map(|(kind, _)| kind).collect();
        found.dedup();
        assert_eq!(found, kinds, "without {key}: {:?}", errors(&fixture).await);
        let audited = audit(&fixture.root(), &fixture.root(), &[]);
        assert_eq!(audited.code, Some(1), "without {key}: {}", audited.text);
        std::fs::write(&path, bytes).unwrap();
    }
    // Without a manifest, the later receipt shows the hole, and nothing shows the last one.
    let sealed = fixture.root().join("_manifests");
    let aside = fixture.folder.path().join("manifests");
    std::fs::rename(&sealed, &aside).unwrap();
    for (number, kinds) in [
        (
            1,
            vec![FindingKind::ObjectWithoutReceipt, FindingKind::ReceiptMissing],
        ),
        (2, vec![FindingKind::ObjectWithoutReceipt]),
    ] {
        let path = fixture
            .root()
            .join(format!("_journal/2018-06-03.r{number}.receipt.json"));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut found: Vec<FindingKind> = errors(&fixture).await.into_iter().map(|(kind, _)| kind).collect();
        found.sort();
        found.dedup();
        assert_eq!(found, kinds, "without receipt {number}");
        std::fs::write(&path, bytes).unwrap();
    }
    std::fs::rename(&aside, &sealed).unwrap();
    let supplement = fixture.root().join("date=2018-06-03/events-r1.json.gz");
    let mut bytes = std::fs::read(&supplement).unwrap();
    let last = bytes.len() - 6;
    bytes[last] ^= 1;
    std::fs::write(&supplement, &bytes).unwrap();
    let found = errors(&fixture).await;
    let changed = (
        FindingKind::ObjectChanged,
        "date=2018-06-03/events-r1.json.gz".to_owned(),
    );
    assert_eq!(found, [changed]);
    bytes[last] ^= 1;
    std::fs::write(&supplement, &bytes).unwrap();

    // A file that no receipt states is a finding, and the proved ones stay proved.
    std::fs::copy(
        &supplement,
        fixture.root().join("date=2018-06-03/events-r3.json.gz"),
    )
    .unwrap();
    let added = (
        FindingKind::ObjectWithoutReceipt,
        "date=2018-06-03/events-r3.json.gz".to_owned(),
    );
    assert_eq!(errors(&fixture).await, [added]);
    assert_eq!(verified(&fixture).await.roots[0].totals.windows, 2);
}

/// Archive of four days of 240 events, of which 3 June has 7 late events.
pub(crate) async fn archive_with_late_events() -> EngineFixture {
    let fixture = EngineFixture::start(settings(), june(1), june(4)).await;
    assert!(fixture.run().await.complete);
    fixture.simulator.grow_day(june(3), 7);
    assert!(fixture.run().await.complete);
    fixture
}

/// As [`archive_with_late_events`], with the second day in hours.
pub(crate) async fn archive_with_late_events_and_hours() -> EngineFixture {
    let fixture = EngineFixture::start(settings(), june(1), june(4)).await;
    // As an earlier run leaves it after the day timed out twice.
    let split = "{\"schema\":\"eventexport.io/split/v1\",\"why\":\"test\",\"at\":\"2018-06-05T00:00:00Z\"}\n";
    let journal = fixture.root().join("_journal");
    std::fs::create_dir_all(&journal).unwrap();
    std::fs::write(journal.join("2018-06-02.split.json"), split).unwrap();
    assert!(fixture.run().await.complete);
    fixture.simulator.grow_day(june(3), 7);
    assert!(fixture.run().await.complete);
    fixture
}

/// A day that grew after it was stored, in parts of a MiB, with signed receipts.
async fn grown_day() -> EngineFixture {
    let mut settings = settings();
    settings.gzip.level = 0;
    settings.volume.days.insert(june(2), 1_400);
    let mut fixture = EngineFixture::start(settings, june(2), june(2)).await;
    fixture.limits.part_mib = 1;
    fixture.signing = signing();
    assert!(fixture.run().await.complete);
    fixture.simulator.grow_day(june(2), 1_300);
    fixture
}

/// Injects a fault into a call of the process that stores the revision, then runs others until it is stored.
async fn inject_fault(at: usize, fault: StoreFault) -> Vec<String> {
    let fixture = grown_day().await;
    let created = Arc::new(CreationLog::default());
    let store = FaultyStore::new(fixture.store(), &created, at, fault);
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
    // A run that could not list may have ended before it compared the counts.
    if receipt(&fixture, "2018-06-02.r1").is_none() {
        complete &= fixture.run().await.complete;
    }
    let mut faults = archive_violations(&fixture, &created).await;
    if !complete {
        faults.push("never complete".to_owned());
    }
    match receipt(&fixture, "2018-06-02.r1") {
        Some(revised) if revised.supplement_events == Some(1_300) && revised.revision == 1 => {}
        other => faults.push(format!("receipt {other:?}")),
    }
    if receipt(&fixture, "2018-06-02.r2").is_some() {
        faults.push("a second revision".to_owned());
    }
    if !fixture
        .root()
        .join("_journal/2018-06-02.r1.receipt.json.sig")
        .exists()
    {
        faults.push("the receipt is not signed".to_owned());
    }
    if read_by_queries(&fixture, june(2)) != lines(&fixture.served(june(2))) {
        faults.push("readers see other events".to_owned());
    }
    faults.extend(errors(&fixture).await.iter().map(|error| format!("{error:?}")));
    if faults.is_empty() {
        return faults;
    }
    let log = store.log.lock().unwrap().clone();
    let call = log.get(at - 1).cloned().unwrap_or_default();
    vec![format!("{fault:?} at {call}: {faults:?}; runs: {runs:?}")]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_store_call_leaves_the_revision_once_and_each_event_once() {
    /// Concurrent exports, which mostly wait for timers.
    const CONCURRENCY: usize = 12;
    let fixture = grown_day().await;
    let created = Arc::new(CreationLog::default());
    let store = FaultyStore::new(fixture.store(), &created, 0, StoreFault::Fail);
    let peers = fixture.peers(Arc::clone(&store) as Arc<dyn Store>);
    assert!(fixture.run_with(peers, CancellationToken::new()).await.complete);
    let log = store.log.lock().unwrap().join("\n");
    for part in [
        "part 2 of",
        "events-r1.json.gz",
        "_revisions/2018-06-02/1/",
        "r1.receipt.json.sig",
    ] {
        assert!(log.contains(part), "{part} is not in\n{log}");
    }
    let moments = (1..=store.calls()).flat_map(|at| StoreFault::ALL.map(|fault| (at, fault)));
    let faults: Vec<Vec<String>> = futures::stream::iter(moments)
        .map(|(at, fault)| inject_fault(at, fault))
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    let faults = faults.concat();
    assert!(faults.is_empty(), "{}:\n{}", faults.len(), faults.join("\n"));
}
