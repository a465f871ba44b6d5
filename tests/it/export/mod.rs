//! The engine against the simulator.

mod calendar;
pub(crate) mod chain;
mod checkpoint;
mod content;
mod counts;
mod crashes;
mod evidence;
mod fault_presets;
pub(crate) mod faulty_store;
pub(crate) mod fixture;
mod holders;
mod hostile_journal;
mod in_place;
mod manifest;
mod orphans;
mod quirks;
mod retry_backoff;
pub(crate) mod revisions;
mod shared_space;
mod shares;
mod signing;
mod two_stores;
mod volume;

use eventexport::archive::counts::Verdict;
use eventexport::archive::records::{Receipt, decode};
use fixture::{EngineFixture, settings};
use jiff::civil::date;

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_exported_once_and_leaves_no_session() {
    let fixture = EngineFixture::start(settings(), date(2018, 6, 1), date(2018, 6, 7)).await;
    let snapshot = fixture.run().await;
    assert!(snapshot.complete, "{:#?}", snapshot.problems);
    let expected: Vec<String> = (1..=7)
        .map(|day| format!("_journal/2018-06-0{day}.receipt.json"))
        .chain(["_manifests/00000001.json".to_owned()])
        .chain((1..=7).map(|day| format!("date=2018-06-0{day}/events.json.gz")))
        .collect();
    assert_eq!(fixture.files(), expected);
    for day in 1..=7i8 {
        let stored =
            std::fs::read(fixture.root().join(format!("date=2018-06-0{day}/events.json.gz"))).unwrap();
        assert!(
            stored == fixture.served(date(2018, 6, day)),
            "day {day} is stored as it was served"
        );
        let receipt = std::fs::read(
            fixture
                .root()
                .join(format!("_journal/2018-06-0{day}.receipt.json")),
        )
        .unwrap();
        let receipt: Receipt = decode("receipt", &receipt).unwrap();
        assert_eq!(receipt.verdict, Verdict::Matched);
    }
    let first = fixture.simulator.ledger();
    assert_eq!((first.opened, first.deleted, first.open_now), (7, 7, 0));
    assert_eq!(first.violations, Vec::<String>::new());

    let again = fixture.run().await;
    assert!(again.complete);
    let second = fixture.simulator.ledger();
    assert_eq!(second.opened, 7, "a second run downloads nothing");
    assert_eq!(again.events, snapshot.events);
}
