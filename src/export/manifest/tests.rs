//! Properties of manifests over generated journals.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::ToSpan as _;
use jiff::civil::{Date, date};
use proptest::collection::vec;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::statement::{ChainPlace, build_statement};
use crate::archive::counts::Verdict;
use crate::archive::coverage::{self, Expectation};
use crate::archive::finding::Finding;
use crate::archive::layout::ArchiveRoot;
use crate::archive::listing::Journal;
use crate::archive::manifest::chain;
use crate::archive::manifest::document::{
    DayStatement, GapEntry, Manifest, ManifestHeader, parse_manifest, root_digest,
};
use crate::archive::manifest::signature::SignatureStatus;
use crate::archive::receipt::{ReceiptFacts, ReceiptProof, Sha256Digest, WindowFacts};
use crate::archive::records::{RangeRecord, encode};
use crate::archive::stored_document::{Document, Receipts};
use crate::archive::window::{HourSet, Window};
use crate::export::spec::ExportSpec;
use crate::pipeline::prover::hex;

const SOURCE: &str = "https://a";

/// Returns an export of June 2018 up to and including a day.
pub(in crate::export) fn export(last: i8) -> ExportSpec {
    ExportSpec {
        end: Some(date(2018, 6, last)),
        parallelism: 1,
        ..ExportSpec::new("x", "s", SOURCE, "p", date(2018, 6, 1))
    }
}

fn june(day: i64) -> Date {
    date(2018, 6, 1).checked_add((day - 1).days()).unwrap()
}

/// Generated receipt of one window.
#[derive(Clone, Debug)]
struct StoredWindow {
    window: Window,
    events: u64,
    reported: Option<u64>,
    day_reported: Option<u64>,
    source: &'static str,
    object: bool,
}

impl StoredWindow {
    fn insert_into(&self, journal: &mut Journal) {
        let verdict = match self.events {
            0 => Verdict::Empty,
            _ => crate::archive::counts::compare_counts(self.events, self.reported, self.reported),
        };
        let summary = WindowFacts {
            bytes: self.events * 100,
            events: self.events,
            reported: self.reported,
            verdict,
            uncounted: None,
            sha256: (self.events > 0).then(|| Sha256Digest::of(self.window.to_string().as_bytes())),
            stored_now: false,
            revision: 0,
            late_events: 0,
        };
        if self.object && self.events > 0 {
            journal.objects.insert(self.window, summary.bytes);
        }
        let proof = ReceiptProof {
            sha256: Sha256Digest::of(format!("{self:?}").as_bytes()),
            reported_before: self.reported,
            reported_after: self.reported,
            decompressed_bytes: self.events * 700,
            version_id: None,
        };
        let facts = ReceiptFacts {
            source: self.source.into(),
            day_reported: self.day_reported.filter(|_| self.window.hour_of_day().is_some()),
            stored_at: Timestamp::UNIX_EPOCH,
            summary,
            proof,
            revisions: Vec::new(),
        };
        journal.receipts.insert(self.window, Some(Box::new(facts)));
    }
}

fn stored_window(window: impl Strategy<Value = Window>) -> impl Strategy<Value = StoredWindow> {
    let reported = || proptest::option::weighted(0.7, 0u64..40);
    let source = prop_oneof![199 => Just(SOURCE), 1 => Just("https://b")];
    let object = proptest::bool::weighted(0.995);
    (window, 0u64..4, reported(), reported(), source, object).prop_map(
        |(window, events, reported, day_reported, source, object)| StoredWindow {
            window,
            events,
            reported: reported.map(|reported| reported.min(events)),
            day_reported,
            source,
            object,
        },
    )
}

/// Generates days stored as a day, by the hour, both, or only some hours.
fn archives() -> impl Strategy<Value = Vec<StoredWindow>> {
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
                .map(|window| stored_window(Just(window)))
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
    fn cases()(
        stored in archives(),
        hour in prop_oneof![3 => Just(None), 1 => (7u8..9).prop_map(Some)],
        gaps in vec((1i64..5, 0i64..3, "[a-c]"), 0..4),
    ) -> (ExportSpec, Vec<StoredWindow>) {
        let mut export = export(4);
        export.hour = hour;
        export.accepted_gaps = gaps
            .into_iter()
            .map(|(day, more, reason)| GapEntry { start: june(day), end: june(day + more), reason })
            .collect();
        (export, stored)
    }
}

fn journal(stored: &[StoredWindow]) -> Journal {
    let mut journal = Journal::default();
    for stored in stored {
        stored.insert_into(&mut journal);
    }
    journal
}

fn period(export: &ExportSpec) -> RangeRecord {
    RangeRecord {
        start: export.start,
        end: export.end.unwrap(),
        hour: export.hour,
    }
}

fn manifest(export: &ExportSpec, journal: &Journal) -> Option<Manifest> {
    let statement = build_statement(export, journal, period(export))?;
    let first = ChainPlace {
        sequence: 1,
        ..ChainPlace::default()
    };
    Some(statement.manifest(first, Timestamp::UNIX_EPOCH))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_manifest_does_not_depend_on_the_order_of_its_input(
        (mut export, mut stored) in cases(),
        seed in any::<u64>(),
    ) {
        let first = manifest(&export, &journal(&stored)).map(|manifest| encode(&manifest));
        stored.sort_by_key(|stored| Sha256::digest(format!("{seed}{}", stored.window)).to_vec());
        export.accepted_gaps.sort_by_key(|gap| Sha256::digest(format!("{seed}{gap:?}")).to_vec());
        let doubled = export.accepted_gaps.first().cloned();
        export.accepted_gaps.extend(doubled);
        let again = manifest(&export, &journal(&stored)).map(|manifest| encode(&manifest));
        prop_assert_eq!(first, again);
    }

    #[test]
    fn a_manifest_needs_every_wanted_hour_covered_or_accepted((export, stored) in cases()) {
        let journal = journal(&stored);
        let wanted: HourSet = period(&export).days().filter_map(|day| export.window_of(day)).collect();
        let short = coverage::day_shortfalls(&journal, Some(SOURCE)).into_keys().map(Window::day);
        let short: HourSet = short.collect();
        let held = coverage::assess(&Expectation::of_source(SOURCE), &journal).covered;
        let open = wanted.difference(&held).difference(&export.accepted_hours(&wanted));
        let manifest = manifest(&export, &journal);
        prop_assert_eq!(manifest.is_some(), open.is_empty(), "{:?}", open);
        let Some(manifest) = manifest else { return Ok(()) };
        let mut covered = HourSet::default();
        for entry in &manifest.windows {
            let window: Window = entry.window.parse().unwrap();
            prop_assert!(wanted.intersects(window) && !covered.intersects(window), "{window} is duplicate or not wanted");
            prop_assert!(coverage::valid_receipt(&journal, window, Some(SOURCE)).is_some());
            covered.insert(window);
        }
        prop_assert!(manifest.windows.is_sorted_by_key(|entry| entry.window.parse::<Window>().unwrap()));
        prop_assert_eq!(manifest.days.len(), 4);
        for day in &manifest.days {
            let window = export.window_of(day.date).unwrap();
            let hours = covered.hours_of(day.date) & window.hours();
            prop_assert_eq!(u32::from(day.hours), hours.count_ones());
            prop_assert_eq!(u32::from(day.wanted), window.hours().count_ones());
            let complete = day.hours == day.wanted && !short.intersects(window);
            prop_assert_eq!(complete, day.statement != DayStatement::AcceptedGap);
            prop_assert!(complete || export.in_accepted_gap(day.date));
            match (day.statement, day.reported) {
                (DayStatement::Matched, reported) => prop_assert_eq!(reported, Some(day.events)),
                (DayStatement::Over, reported) => prop_assert!(reported.unwrap() < day.events),
                (DayStatement::Unknown, reported) => prop_assert_eq!(reported, None),
                (DayStatement::Empty, _) => prop_assert_eq!(day.events, 0),
                (DayStatement::Short, _) => prop_assert!(false, "no receipt is short"),
                (DayStatement::AcceptedGap, _) => {}
            }
        }
    }

    #[test]
    fn totals_add_up_and_the_document_round_trips((export, stored) in cases()) {
        let Some(manifest) = manifest(&export, &journal(&stored)) else { return Ok(()) };
        prop_assert_eq!(manifest.totals, manifest.computed_totals());
        prop_assert_eq!(manifest.totals.events, manifest.days.iter().map(|day| day.events).sum::<u64>());
        let receipts = manifest.windows.iter().map(|entry| &entry.receipt);
        let lines: Vec<String> = receipts.map(|receipt| format!("{}  {}\n", receipt.sha256, receipt.key)).collect();
        prop_assert_eq!(&manifest.root.digest, &hex(&Sha256::digest(lines.concat())));
        prop_assert_eq!(&manifest.root, &root_digest(manifest.windows.iter().map(|entry| &entry.receipt)));
        let bytes = encode(&manifest);
        prop_assert_eq!(bytes.iter().position(|byte| *byte == b'\n'), Some(bytes.len() - 1));
        prop_assert_eq!(&parse_manifest::<Manifest>("k", 1, &bytes).unwrap(), &manifest);
        let header: ManifestHeader = parse_manifest("k", 1, &bytes).unwrap();
        let statement_id = build_statement(&export, &journal(&stored), period(&export)).unwrap().statement_id();
        prop_assert_eq!(header.statement_id(), statement_id);
        let mut other = manifest;
        other.root.digest.replace_range(0..1, "x");
        let header: ManifestHeader = parse_manifest("k", 1, &encode(&other)).unwrap();
        prop_assert_ne!(header.statement_id(), statement_id);
    }
}

/// Returns what the verification finds wrong in a manifest, without any receipt.
fn contradictions(manifest: &Manifest) -> Vec<Finding> {
    let root = ArchiveRoot::new("p", "s", "space");
    let document = Document {
        sha256: String::new(),
        parsed: Ok(manifest.clone()),
    };
    let manifests = BTreeMap::from([(1, (document, SignatureStatus::Absent))]);
    chain::validate(&root, 1, &manifests, &Receipts::new(), false).findings
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_statement_must_follow_from_windows_and_accepted_gaps((export, stored) in cases(), at in any::<prop::sample::Index>()) {
        use DayStatement::{AcceptedGap, Empty, Matched, Over, Short, Unknown};
        let Some(manifest) = manifest(&export, &journal(&stored)) else { return Ok(()) };
        prop_assert_eq!(contradictions(&manifest), []);
        let at = at.index(manifest.days.len());
        let date = manifest.days[at].date;
        let accepted = export.in_accepted_gap(date);
        let split = manifest.windows.iter().any(|entry| entry.window.starts_with(&format!("{date}T"))) && export.hour.is_none();
        // The edited days add up.
        let edited = |change: &dyn Fn(&mut Manifest)| {
            let mut edited = manifest.clone();
            change(&mut edited);
            edited.totals = edited.computed_totals();
            edited.root = edited.computed_root();
            contradictions(&edited)
        };
        for statement in [Matched, Over, Short, Unknown, Empty, AcceptedGap] {
            // A manifest about one hour a day does not show whether the sum of the day is short.
            let unknown = export.hour.is_some()
                && accepted
                && [statement, manifest.days[at].statement].contains(&AcceptedGap);
            // Without the receipts, nothing shows whether all hours of the day were counted.
            let unknown = unknown || split && statement == Unknown;
            if statement != manifest.days[at].statement && !unknown {
                prop_assert_ne!(edited(&|manifest| manifest.days[at].statement = statement), [], "{:?}", statement);
            }
        }
        prop_assert_ne!(edited(&|manifest| manifest.days[at].hours += 1), []);
        prop_assert_ne!(edited(&|manifest| manifest.days[at].wanted -= 1), []);
        prop_assert_ne!(edited(&|manifest| manifest.days[at].events += 1), []);
        if !split {
            prop_assert_ne!(edited(&|manifest| manifest.days[at].reported = Some(99)), []);
        }
        if manifest.days[at].statement == AcceptedGap {
            prop_assert_ne!(edited(&|manifest| manifest.accepted_gaps.clear()), []);
        } else if let Some(removed) = manifest.windows.iter().position(|entry| entry.window.starts_with(&date.to_string())) {
            prop_assert_ne!(edited(&|manifest| drop(manifest.windows.remove(removed))), []);
        }
        let mut totals = manifest.clone();
        totals.totals.reported += 1;
        prop_assert_ne!(contradictions(&totals), []);
    }
}

#[test]
fn a_manifest_of_another_schema_sequence_or_algorithm_is_rejected() {
    let manifest = manifest(
        &export(1),
        &journal(&[StoredWindow {
            window: Window::day(june(1)),
            events: 1,
            reported: Some(1),
            day_reported: None,
            source: SOURCE,
            object: true,
        }]),
    );
    let text = String::from_utf8(encode(&manifest.unwrap())).unwrap();
    assert!(parse_manifest::<Manifest>("k", 1, text.as_bytes()).is_ok());
    let with_more = text.replacen('{', "{\"later\":[1],", 1);
    assert!(parse_manifest::<Manifest>("k", 1, with_more.as_bytes()).is_ok());
    assert!(parse_manifest::<Manifest>("k", 2, text.as_bytes()).is_err());
    for (from, to) in [
        ("manifest/v1", "manifest/v3"),
        ("\"sha256\",\"digest\"", "\"md5\",\"digest\""),
        ("\"totals\"", "\"total\""),
    ] {
        let error = parse_manifest::<Manifest>("the/key", 1, text.replace(from, to).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("the/key"), "{error}");
    }
}

#[test]
fn the_largest_manifest_stays_within_the_size_limit() {
    let mut export = export(30);
    export.end = export.start.checked_add(365.days()).ok();
    let all = period(&export).days().flat_map(Window::split);
    let stored: Vec<StoredWindow> = all
        .map(|window| StoredWindow {
            window,
            events: 999_999_999,
            reported: Some(999_999_999),
            day_reported: None,
            source: SOURCE,
            object: true,
        })
        .collect();
    let mut journal = journal(&stored);
    for facts in journal.receipts.values_mut().flatten() {
        facts.proof.version_id = Some("v".repeat(1_024).into());
    }
    let manifest = manifest(&export, &journal).unwrap();
    let bytes = encode(&manifest);
    assert!(
        bytes.len() as u64 <= crate::archive::manifest::document::MANIFEST_MAX_BYTES,
        "{}",
        bytes.len()
    );
    assert_eq!(manifest.windows.len(), 8_784);
}
