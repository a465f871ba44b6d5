//! The engine against the simulator.

pub(crate) mod bench;
mod calendar;
mod chain;
mod crashes;
mod evidence;
mod holders;
mod manifest;
mod misbehaviour;
mod patience;
mod people;
mod saboteur;
mod volume;

use bench::{Bench, settings};
use eventexport::export::record::{Receipt, decode};
use eventexport::export::verdict::Verdict;
use jiff::civil::date;

#[tokio::test(flavor = "multi_thread")]
async fn a_range_becomes_proven_objects_once_and_no_session_is_left() {
    let bench = Bench::start(settings(), date(2018, 6, 1), date(2018, 6, 7)).await;
    let snapshot = bench.run().await;
    assert!(snapshot.complete, "{:#?}", snapshot.troubles);
    let expected: Vec<String> = (1..=7)
        .map(|day| format!("_journal/2018-06-0{day}.receipt.json"))
        .chain(["_manifests/00000001.json".to_owned()])
        .chain((1..=7).map(|day| format!("date=2018-06-0{day}/events.json.gz")))
        .collect();
    assert_eq!(bench.files(), expected);
    for day in 1..=7i8 {
        let stored = std::fs::read(bench.root().join(format!("date=2018-06-0{day}/events.json.gz"))).unwrap();
        assert!(
            stored == bench.served(date(2018, 6, day)),
            "day {day} is stored as it was served"
        );
        let receipt =
            std::fs::read(bench.root().join(format!("_journal/2018-06-0{day}.receipt.json"))).unwrap();
        let receipt: Receipt = decode("receipt", &receipt).unwrap();
        assert_eq!(receipt.verdict, Verdict::Matched);
    }
    let first = bench.simulator.ledger();
    assert_eq!((first.opened, first.deleted, first.open_now), (7, 7, 0));
    assert_eq!(first.violations, Vec::<String>::new());

    let again = bench.run().await;
    assert!(again.complete);
    let second = bench.simulator.ledger();
    assert_eq!(second.opened, 7, "a second run downloads nothing");
    assert_eq!(again.events, snapshot.events);
}
