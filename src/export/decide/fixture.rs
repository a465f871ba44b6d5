//! Fixtures for tests of decisions: built explicitly or at random.

use std::collections::BTreeSet;

use jiff::civil::{Date, date};
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use ulid::Ulid;

use super::{RunDecision, RunObservation, decide};
use crate::api::Reason;
use crate::archive::counts::{DayListing, Verdict};
use crate::archive::layout::AttemptId;
use crate::archive::listing::{AttemptFacts, ExpiredFacts, Journal};
use crate::archive::manifest::document::GapEntry;
use crate::archive::receipt::{ReceiptFacts, ReceiptProof, Sha256Digest, WindowFacts};
use crate::archive::records::{ArchiveRecord as _, AttemptRecord};
use crate::archive::window::Window;
use crate::export::document_task::DocumentKind;
use crate::export::failure::{Failure, RetryClass};
use crate::export::retry_state::{RetryEntry, RetryState};
use crate::export::shard::Shard;
use crate::export::spec::{ExportSpec, RetryPolicy};

pub(super) const FIRST: Date = date(2018, 6, 2);
pub(super) const SOURCE: &str = "https://a";

/// Owned input of a decision.
#[derive(Clone, Debug)]
pub(super) struct DecisionFixture {
    pub(super) export: ExportSpec,
    pub(super) journal: Journal,
    pub(super) active: BTreeSet<Window>,
    pub(super) in_progress: BTreeSet<AttemptId>,
    pub(super) writing: BTreeSet<DocumentKind>,
    pub(super) stamps: bool,
    pub(super) retry_state: RetryState,
    pub(super) counts: Option<DayListing>,
    pub(super) now: Timestamp,
    pub(super) store_now: Timestamp,
}

impl DecisionFixture {
    pub(super) fn decide(&self) -> RunDecision {
        decide(&RunObservation {
            export: &self.export,
            journal: &self.journal,
            active: &self.active,
            in_progress: &self.in_progress,
            writing: &self.writing,
            stamps: self.stamps,
            signs: false,
            retry_state: &self.retry_state,
            oldest_listed: None,
            counts: self.counts.as_ref(),
            recheck_due: false,
            // Just now, or long ago.
            listed_at: self.now.min(at(-25)),
            now: self.now,
            store_now: self.store_now,
        })
    }
}

pub(super) fn id(window: Window, n: u16) -> AttemptId {
    AttemptId {
        window,
        ulid: Ulid::from_parts(u64::from(n) + 1, u128::from(n)),
    }
}

pub(super) fn at(hours: i64) -> Timestamp {
    let start = Window::day(FIRST.yesterday().unwrap()).end();
    start.checked_add(SignedDuration::from_hours(hours)).unwrap()
}

pub(super) fn receipt(bytes: u64, events: u64, source: &str, day_reported: Option<u64>) -> ReceiptFacts {
    let summary = WindowFacts {
        bytes,
        events,
        reported: None,
        verdict: Verdict::Matched,
        uncounted: None,
        sha256: (bytes > 0).then(Sha256Digest::default),
        stored_now: false,
        revision: 0,
        late_events: 0,
    };
    ReceiptFacts {
        source: source.into(),
        day_reported,
        stored_at: Timestamp::UNIX_EPOCH,
        summary,
        proof: ReceiptProof::default(),
        revisions: Vec::new(),
    }
}

fn attempt(holder: &str, deadline: Timestamp) -> AttemptRecord {
    AttemptRecord {
        schema: AttemptRecord::SCHEMA.to_owned(),
        holder: holder.to_owned(),
        process: None,
        source: SOURCE.to_owned(),
        started_at: at(0),
        deadline,
        tracker_user: None,
        open_before: Vec::new(),
    }
}

pub(super) fn windows() -> impl Strategy<Value = Window> {
    // Includes windows outside the wanted range.
    (
        -1i64..6,
        prop_oneof![3 => Just(None), 2 => (0u8..24).prop_map(Some), 2 => (6u8..9).prop_map(Some)],
    )
        .prop_map(|(day, hour)| {
            let date = FIRST.checked_add(day.days()).unwrap();
            hour.map_or(Window::day(date), |hour| Window::hour(date, hour).unwrap())
        })
}

pub(super) fn retry_classes() -> impl Strategy<Value = RetryClass> {
    prop_oneof![
        Just(RetryClass::Retry(None)),
        Just(RetryClass::Wait(None)),
        Just(RetryClass::Manual)
    ]
}

pub(super) fn retry_entries() -> impl Strategy<Value = RetryEntry> {
    let reasons = prop_oneof![
        Just(Reason::SourceUnreachable),
        Just(Reason::SpaceFull),
        Just(Reason::Short)
    ];
    (retry_classes(), reasons, 1u32..5, 0u32..4, -30i64..200).prop_map(
        |(class, reason, failure_count, timeouts, retry_at)| RetryEntry {
            failure_count,
            failed_at: Timestamp::MIN,
            timeouts,
            retry_at: at(retry_at),
            give_up_at: None,
            failure: Failure {
                class,
                ..Failure::retry(reason, "x")
            },
        },
    )
}

pub(super) fn specs() -> impl Strategy<Value = ExportSpec> {
    let hour = prop_oneof![2 => Just(None), 1 => (6u8..9).prop_map(Some)];
    let retry_policy = prop_oneof![
        Just(RetryPolicy::Forever),
        (1u32..4).prop_map(RetryPolicy::MaxAttempts)
    ];
    let gaps = vec((0i64..5, 0i64..2), 0..2);
    (
        0i64..5,
        any::<bool>(),
        hour,
        retry_policy,
        gaps,
        1usize..4,
        0i64..30,
        prop_oneof![3 => Just((0, 1)), 1 => (0u64..2).prop_map(|index| (index, 2))],
    )
        .prop_map(
            |(days, ends, hour, retry_policy, gaps, parallelism, settle, (index, of))| {
                let day = |n: i64| FIRST.checked_add(n.days()).unwrap();
                ExportSpec {
                    end: ends.then(|| day(days)),
                    hour,
                    shard: Shard::new(index, of).unwrap(),
                    parallelism,
                    settle_after: SignedDuration::from_hours(settle),
                    accepted_gaps: gaps
                        .into_iter()
                        .map(|(from, more)| GapEntry {
                            start: day(from),
                            end: day(from + more),
                            reason: "x".to_owned(),
                        })
                        .collect(),
                    holder: "self".to_owned(),
                    retry_policy,
                    ..ExportSpec::new("x", "s", SOURCE, "p", FIRST)
                }
            },
        )
}

/// Archive and journal content of a window.
#[derive(Clone, Debug)]
pub(super) enum FixtureEntry {
    Stored,
    Empty,
    Hours {
        events: u64,
        reported: Option<u64>,
    },
    OrphanedObject {
        foreign: bool,
    },
    OtherSource,
    ObjectMissing,
    Expired,
    Split,
    Attempt {
        own: bool,
        late: bool,
        session: bool,
        prepared: bool,
        in_progress: bool,
        unrecovered: Option<RetryEntry>,
    },
}

pub(super) fn fixture_entries() -> impl Strategy<Value = FixtureEntry> {
    let attempts = (any::<[bool; 5]>(), proptest::option::of(retry_entries())).prop_map(
        |([own, late, session, prepared, in_progress], unrecovered)| FixtureEntry::Attempt {
            own,
            late,
            session,
            prepared,
            in_progress,
            unrecovered,
        },
    );
    prop_oneof![
        3 => Just(FixtureEntry::Stored),
        1 => Just(FixtureEntry::Empty),
        1 => (0u64..3, proptest::option::of(0u64..60))
            .prop_map(|(events, reported)| FixtureEntry::Hours { events, reported }),
        1 => any::<bool>().prop_map(|foreign| FixtureEntry::OrphanedObject { foreign }),
        1 => Just(FixtureEntry::OtherSource),
        1 => Just(FixtureEntry::ObjectMissing),
        1 => Just(FixtureEntry::Expired),
        1 => Just(FixtureEntry::Split),
        3 => attempts,
    ]
}

impl DecisionFixture {
    pub(super) fn add(&mut self, n: u16, window: Window, entry: FixtureEntry) {
        let journal = &mut self.journal;
        let mut add_receipt = |window, facts: ReceiptFacts| {
            journal.receipts.insert(window, Some(Box::new(facts)));
        };
        match entry {
            FixtureEntry::Stored => {
                add_receipt(window, receipt(9, 1, SOURCE, None));
                journal.objects.insert(window, 9);
            }
            FixtureEntry::Empty => add_receipt(window, receipt(0, 0, SOURCE, None)),
            FixtureEntry::Hours { events, reported } => {
                for hour in Window::split(window.date()) {
                    add_receipt(hour, receipt(0, events, SOURCE, reported));
                }
            }
            FixtureEntry::OrphanedObject { foreign } => {
                journal.objects.insert(window, 9);
                if foreign {
                    self.retry_state.foreign_objects.insert(window);
                }
            }
            FixtureEntry::OtherSource => add_receipt(window, receipt(0, 0, "https://b", None)),
            FixtureEntry::ObjectMissing => {
                add_receipt(window, receipt(9, 1, SOURCE, None));
                journal.objects.remove(&window);
            }
            FixtureEntry::Expired => {
                let facts = ExpiredFacts {
                    source: SOURCE.to_owned(),
                    oldest_listed: Date::MAX,
                };
                journal.expired.insert(window, Some(facts));
            }
            FixtureEntry::Split => {
                journal.splits.insert(Window::day(window.date()));
            }
            FixtureEntry::Attempt {
                own,
                late,
                session,
                prepared,
                in_progress,
                unrecovered,
            } => {
                let id = id(window, n);
                let deadline = if late { at(-40) } else { at(1_000) };
                let facts = AttemptFacts {
                    record: Some(attempt(if own { "self" } else { "other" }, deadline)),
                    has_attempt_key: true,
                    sessions: if session {
                        vec![format!("s{n}")]
                    } else {
                        Vec::new()
                    },
                    prepared,
                    unreadable: None,
                };
                journal.attempts.insert(id, facts);
                if in_progress && (own || late) {
                    self.in_progress.insert(id);
                } else if let Some(entry) = unrecovered {
                    self.retry_state.unrecovered.insert(id, entry);
                }
            }
        }
    }
}

prop_compose! {
    pub(super) fn fixtures()(
        export in specs(),
        now in -30i64..160,
        clock_offset in -90i64..90,
        entries in vec((windows(), fixture_entries()), 0..10),
        failed in vec((windows(), retry_entries()), 0..6),
        export_backoff in proptest::option::weighted(0.3, retry_entries()),
        seal in proptest::option::weighted(0.2, retry_entries()),
        sealing in proptest::bool::weighted(0.1),
        running in vec(any::<Index>(), 0..3),
    ) -> DecisionFixture {
        let now = at(now);
        let mut fixture = DecisionFixture {
            export,
            journal: Journal::default(),
            active: BTreeSet::new(),
            in_progress: BTreeSet::new(),
            writing: sealing.then_some(DocumentKind::Manifest).into_iter().collect(),
            stamps: false,
            retry_state: RetryState::default(),
            counts: None,
            now,
            store_now: now.checked_add(SignedDuration::from_mins(clock_offset)).unwrap(),
        };
        for (n, (window, entry)) in entries.into_iter().enumerate() {
            fixture.add(u16::try_from(n).unwrap(), window, entry);
        }
        // Running windows were started by an earlier decision.
        let startable = fixture.decide().start;
        for (n, index) in running.into_iter().enumerate() {
            if let Some(window) = startable.get(index.index(startable.len().max(1))) {
                fixture.active.insert(*window);
                fixture.in_progress.insert(id(*window, 900 + u16::try_from(n).unwrap()));
            }
        }
        fixture.retry_state.windows.extend(failed);
        fixture.retry_state.export_backoff = export_backoff;
        fixture.retry_state.documents.extend(seal.map(|entry| (DocumentKind::Manifest, entry)));
        fixture
    }
}
