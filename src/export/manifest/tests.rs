//! What a statement promises, whatever the journal holds.

use jiff::SignedDuration;
use jiff::Timestamp;
use jiff::ToSpan as _;
use jiff::civil::{Date, date};
use proptest::collection::vec;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::document::{DayStatement, GapEntry, Manifest, ManifestHead, read, root_of};
use super::periods::days;
use super::statement::state;
use crate::export::decide::short_days;
use crate::export::journal::{Journal, ReceiptFacts, ReceiptProof};
use crate::export::keys::Root;
use crate::export::proof::hex;
use crate::export::record::{RangeRecord, encode};
use crate::export::shard::Shard;
use crate::export::snapshot::WindowFacts;
use crate::export::verdict::Verdict;
use crate::export::window::{Cells, Window};
use crate::export::wish::{Export, Persistence, Scope};

const SOURCE: &str = "https://a";

/// June 2018, up to a day.
pub(super) fn export(last: i8) -> Export {
    Export {
        name: "x".to_owned(),
        space: "s".to_owned(),
        scope: Scope::Space,
        start: date(2018, 6, 1),
        end: Some(date(2018, 6, last)),
        hour: None,
        source: SOURCE.to_owned(),
        root: Root::new("p", "s", "space"),
        shard: Shard::WHOLE,
        parallelism: 1,
        settle_after: SignedDuration::from_hours(6),
        accepted: Vec::new(),
        holder: "we".to_owned(),
        tenure: None,
        single_writer: false,
        persistence: Persistence::Forever,
    }
}

fn june(day: i64) -> Date {
    date(2018, 6, 1).checked_add((day - 1).days()).unwrap()
}

/// What may be there of one window.
#[derive(Clone, Debug)]
struct Stored {
    window: Window,
    events: u64,
    reported: Option<u64>,
    of_day: Option<u64>,
    source: &'static str,
    object: bool,
}

impl Stored {
    fn put_into(&self, journal: &mut Journal) {
        let verdict = match self.events {
            0 => Verdict::Empty,
            _ => crate::export::verdict::of_count(self.events, self.reported, self.reported),
        };
        let facts = WindowFacts {
            bytes: self.events * 100,
            events: self.events,
            reported: self.reported,
            verdict,
            sha256: (self.events > 0).then(|| hex(&Sha256::digest(self.window.to_string())).into()),
            stored_now: false,
        };
        if self.object && self.events > 0 {
            journal.objects.insert(self.window, facts.bytes);
        }
        let proof = ReceiptProof {
            sha256: Sha256::digest(format!("{self:?}")).into(),
            reported_before: self.reported,
            reported_after: self.reported,
            decompressed_bytes: self.events * 700,
            version_id: None,
        };
        let facts = ReceiptFacts {
            source: self.source.to_owned(),
            day_reported: self.of_day.filter(|_| self.window.hour_of_day().is_some()),
            stored_at: Timestamp::UNIX_EPOCH,
            facts,
            proof,
        };
        journal.receipts.insert(self.window, Some(facts));
    }
}

fn stored(window: impl Strategy<Value = Window>) -> impl Strategy<Value = Stored> {
    let reported = || proptest::option::weighted(0.7, 0u64..40);
    let source = prop_oneof![199 => Just(SOURCE), 1 => Just("https://b")];
    let object = proptest::bool::weighted(0.995);
    (window, 0u64..4, reported(), reported(), source, object).prop_map(
        |(window, events, reported, of_day, source, object)| Stored {
            window,
            events,
            reported: reported.map(|reported| reported.min(events)),
            of_day,
            source,
            object,
        },
    )
}

/// Days as wholes, days in hours, single hours, and nothing.
fn archives() -> impl Strategy<Value = Vec<Stored>> {
    let day = |n: i64| {
        let windows = move |hours: bool| -> Vec<Window> {
            if hours {
                Window::split(june(n)).collect()
            } else {
                vec![Window::day(june(n))]
            }
        };
        let all = |windows: Vec<Window>| {
            windows
                .into_iter()
                .map(|window| stored(Just(window)))
                .collect::<Vec<_>>()
        };
        prop_oneof![
            4 => all(windows(false)),
            3 => all(windows(true)),
            1 => all(windows(false).into_iter().chain(windows(true)).collect()),
            1 => all(windows(true).into_iter().skip(7).take(3).collect()),
        ]
    };
    (day(1), day(2), day(3), day(4)).prop_map(|(a, b, c, d)| [a, b, c, d].concat())
}

prop_compose! {
    fn worlds()(
        stored in archives(),
        hour in prop_oneof![3 => Just(None), 1 => (7u8..9).prop_map(Some)],
        gaps in vec((1i64..5, 0i64..3, "[a-c]"), 0..4),
    ) -> (Export, Vec<Stored>) {
        let mut export = export(4);
        export.hour = hour;
        export.accepted = gaps
            .into_iter()
            .map(|(day, more, reason)| GapEntry { start: june(day), end: june(day + more), reason })
            .collect();
        (export, stored)
    }
}

fn journal(stored: &[Stored]) -> Journal {
    let mut journal = Journal::default();
    for stored in stored {
        stored.put_into(&mut journal);
    }
    journal
}

fn period(export: &Export) -> RangeRecord {
    RangeRecord {
        start: export.start,
        end: export.end.unwrap(),
        hour: export.hour,
    }
}

fn manifest(export: &Export, journal: &Journal) -> Option<Manifest> {
    let statement = state(export, journal, period(export))?;
    Some(statement.manifest(1, None, Timestamp::UNIX_EPOCH))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_archive_gives_the_same_bytes_in_whatever_order_it_is_seen(
        (mut export, mut stored) in worlds(),
        seed in any::<u64>(),
    ) {
        let first = manifest(&export, &journal(&stored)).map(|manifest| encode(&manifest));
        stored.sort_by_key(|stored| Sha256::digest(format!("{seed}{}", stored.window)).to_vec());
        export.accepted.sort_by_key(|gap| Sha256::digest(format!("{seed}{gap:?}")).to_vec());
        let doubled = export.accepted.first().cloned();
        export.accepted.extend(doubled);
        let again = manifest(&export, &journal(&stored)).map(|manifest| encode(&manifest));
        prop_assert_eq!(first, again);
    }

    #[test]
    fn it_is_stated_when_every_wanted_cell_is_covered_once_or_an_accepted_gap((export, stored) in worlds()) {
        let journal = journal(&stored);
        let wanted: Cells = days(period(&export)).filter_map(|day| export.window_of(day)).collect();
        let short: Cells = short_days(&journal, SOURCE).into_keys().map(Window::day).collect();
        let open = wanted.minus(&journal.covered(SOURCE).minus(&short)).minus(&export.accepted_cells(&wanted));
        let manifest = manifest(&export, &journal);
        prop_assert_eq!(manifest.is_some(), open.is_empty(), "{:?}", open);
        let Some(manifest) = manifest else { return Ok(()) };
        let mut covered = Cells::default();
        for entry in &manifest.windows {
            let window: Window = entry.window.parse().unwrap();
            prop_assert!(wanted.touches(window) && !covered.touches(window), "{window} twice, or not wanted");
            prop_assert!(journal.covered(SOURCE).contains(window));
            covered.insert(window);
        }
        prop_assert!(manifest.windows.is_sorted_by_key(|entry| entry.window.parse::<Window>().unwrap()));
        prop_assert_eq!(manifest.days.len(), 4);
        for day in &manifest.days {
            let window = export.window_of(day.date).unwrap();
            let hours = covered.hours_of(day.date) & window.hours();
            prop_assert_eq!(u32::from(day.hours), hours.count_ones());
            prop_assert_eq!(u32::from(day.wanted), window.hours().count_ones());
            let whole = day.hours == day.wanted && !short.touches(window);
            prop_assert_eq!(whole, day.statement != DayStatement::AcceptedGap);
            prop_assert!(whole || export.accepts(day.date));
            match (day.statement, day.reported) {
                (DayStatement::Matched, reported) => prop_assert_eq!(reported, Some(day.events)),
                (DayStatement::Over, reported) => prop_assert!(reported.unwrap() < day.events),
                (DayStatement::Unknown, reported) => prop_assert_eq!(reported, None),
                (DayStatement::Empty, _) => prop_assert_eq!(day.events, 0),
                (DayStatement::Short, _) => prop_assert!(false, "no receipt says so"),
                (DayStatement::AcceptedGap, _) => {}
            }
        }
    }

    #[test]
    fn its_numbers_add_up_and_it_reads_back((export, stored) in worlds()) {
        let Some(manifest) = manifest(&export, &journal(&stored)) else { return Ok(()) };
        prop_assert_eq!(manifest.totals, manifest.computed_totals());
        prop_assert_eq!(manifest.totals.events, manifest.days.iter().map(|day| day.events).sum::<u64>());
        let receipts = manifest.windows.iter().map(|entry| &entry.receipt);
        let lines: Vec<String> = receipts.map(|receipt| format!("{}  {}\n", receipt.sha256, receipt.key)).collect();
        prop_assert_eq!(&manifest.root.digest, &hex(&Sha256::digest(lines.concat())));
        prop_assert_eq!(&manifest.root, &root_of(manifest.windows.iter().map(|entry| &entry.receipt)));
        let bytes = encode(&manifest);
        prop_assert_eq!(bytes.iter().position(|byte| *byte == b'\n'), Some(bytes.len() - 1));
        prop_assert_eq!(&read::<Manifest>("k", 1, &bytes).unwrap(), &manifest);
        let head: ManifestHead = read("k", 1, &bytes).unwrap();
        let identity = state(&export, &journal(&stored), period(&export)).unwrap().identity();
        prop_assert_eq!(head.identity(), identity);
        let mut other = manifest;
        other.root.digest.replace_range(0..1, "x");
        let head: ManifestHead = read("k", 1, &encode(&other)).unwrap();
        prop_assert_ne!(head.identity(), identity);
    }
}

#[test]
fn a_manifest_of_another_schema_number_or_algorithm_is_refused() {
    let manifest = manifest(
        &export(1),
        &journal(&[Stored {
            window: Window::day(june(1)),
            events: 1,
            reported: Some(1),
            of_day: None,
            source: SOURCE,
            object: true,
        }]),
    );
    let text = String::from_utf8(encode(&manifest.unwrap())).unwrap();
    assert!(read::<Manifest>("k", 1, text.as_bytes()).is_ok());
    let with_more = text.replacen('{', "{\"later\":[1],", 1);
    assert!(read::<Manifest>("k", 1, with_more.as_bytes()).is_ok());
    assert!(read::<Manifest>("k", 2, text.as_bytes()).is_err());
    for (from, to) in [
        ("manifest/v1", "manifest/v2"),
        ("\"sha256\",\"digest\"", "\"md5\",\"digest\""),
        ("\"totals\"", "\"total\""),
    ] {
        let error = read::<Manifest>("the/key", 1, text.replace(from, to).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("the/key"), "{error}");
    }
}

#[test]
fn a_manifest_of_the_longest_period_by_the_hour_is_within_the_bound() {
    let mut export = export(30);
    export.end = export.start.checked_add(365.days()).ok();
    let all = days(period(&export)).flat_map(Window::split);
    let stored: Vec<Stored> = all
        .map(|window| Stored {
            window,
            events: 999_999_999,
            reported: Some(999_999_999),
            of_day: None,
            source: SOURCE,
            object: true,
        })
        .collect();
    let mut journal = journal(&stored);
    for facts in journal.receipts.values_mut().flatten() {
        facts.proof.version_id = Some("v".repeat(1_024));
    }
    let manifest = manifest(&export, &journal).unwrap();
    let bytes = encode(&manifest);
    assert!(
        bytes.len() as u64 <= super::document::MANIFEST_MAX_BYTES,
        "{}",
        bytes.len()
    );
    assert_eq!(manifest.windows.len(), 8_784);
}
