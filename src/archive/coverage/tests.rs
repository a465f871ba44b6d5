//! Table tests of the state of windows.

use jiff::Timestamp;
use jiff::civil::date;
use ulid::Ulid;

use super::*;
use crate::archive::counts::DayListing;
use crate::archive::layout::AttemptId;
use crate::archive::listing::{AttemptFacts, ExpiredFacts, LateFacts, RevisionFiles};
use crate::archive::receipt::{ReceiptProof, RevisionFacts, Sha256Digest, SupplementFacts, WindowFacts};
use crate::archive::records::{ChangedRecord, RecordError};

const SOURCE: &str = "https://a";

fn facts(events: u64, reported: Option<u64>, bytes: Option<u64>) -> ReceiptFacts {
    ReceiptFacts {
        source: SOURCE.into(),
        day_reported: None,
        stored_at: Timestamp::UNIX_EPOCH,
        summary: WindowFacts {
            bytes: bytes.unwrap_or(0),
            events,
            reported,
            verdict: Verdict::Matched,
            uncounted: None,
            sha256: bytes.map(|_| Sha256Digest::default()),
            stored_now: false,
            revision: 0,
            late_events: 0,
        },
        proof: ReceiptProof::default(),
        revisions: Vec::new(),
    }
}

fn uncounted() -> UncountedRecord {
    UncountedRecord {
        reason: "NotAnObject".to_owned(),
        at_byte: 77,
    }
}

fn counted_in_part(events: u64, reported: Option<u64>) -> ReceiptFacts {
    let mut facts = facts(events, reported, Some(50));
    facts.summary.verdict = Verdict::Uncounted;
    facts.summary.uncounted = Some(Box::new(uncounted()));
    facts
}

fn unreadable() -> RecordError {
    RecordError::Unreadable {
        key: "k".to_owned(),
        schema: "s",
        message: "m".to_owned(),
    }
}

fn misplaced() -> RecordError {
    RecordError::Misplaced {
        key: "k".to_owned(),
        expected: "e".to_owned(),
        found: "f".to_owned(),
    }
}

/// An archive whose 15 June is in some state, and the state.
type Case = (&'static str, fn(&mut Journal), WindowState);

const DAY: Window = Window::day(date(2018, 6, 15));

fn store(journal: &mut Journal, window: Window, facts: ReceiptFacts) {
    if facts.summary.sha256.is_some() {
        journal.objects.insert(window, facts.summary.bytes);
    }
    journal.receipts.insert(window, Some(Box::new(facts)));
}

fn hour(hour: u8) -> Window {
    Window::hour(DAY.date(), hour).unwrap()
}

fn hours(journal: &mut Journal, range: std::ops::Range<u8>, day_reported: u64) {
    for number in range {
        let facts = ReceiptFacts {
            day_reported: Some(day_reported),
            ..facts(1, None, Some(10))
        };
        store(journal, hour(number), facts);
    }
}

fn expired() -> ExpiredFacts {
    ExpiredFacts {
        source: SOURCE.to_owned(),
        oldest_listed: date(2018, 6, 20),
    }
}

fn damaged(damage: Damage) -> WindowState {
    WindowState::Damaged(damage)
}

#[test]
fn each_window_has_exactly_one_state() {
    let short = |events, reported| damaged(Damage::Short { events, reported });
    let partial = |events, reported| {
        damaged(Damage::Uncounted {
            events,
            reported,
            uncounted: uncounted(),
        })
    };
    let table: Vec<Case> = vec![
        ("nothing", |_| {}, WindowState::Missing),
        (
            "a receipt with its object",
            |j| store(j, DAY, facts(5, Some(5), Some(50))),
            WindowState::Covered,
        ),
        (
            "more than reported",
            |j| store(j, DAY, facts(6, Some(5), Some(50))),
            WindowState::Covered,
        ),
        (
            "no count",
            |j| store(j, DAY, facts(5, None, Some(50))),
            WindowState::Covered,
        ),
        (
            "proved empty",
            |j| store(j, DAY, facts(0, Some(0), None)),
            WindowState::Covered,
        ),
        (
            "fewer than the newest count",
            |j| store(j, DAY, facts(4, Some(5), Some(50))),
            short(4, 5),
        ),
        (
            "counted in part, as many as the newest count",
            |j| store(j, DAY, counted_in_part(5, Some(5))),
            WindowState::Covered,
        ),
        (
            "counted in part, and no count",
            |j| store(j, DAY, counted_in_part(5, None)),
            WindowState::Covered,
        ),
        (
            "counted in part, fewer than the newest count",
            |j| store(j, DAY, counted_in_part(4, Some(5))),
            partial(4, Some(5)),
        ),
        (
            "no event could be counted, and no count",
            |j| store(j, DAY, counted_in_part(0, None)),
            partial(0, None),
        ),
        (
            "counted in part, and the object is gone",
            |j| {
                store(j, DAY, counted_in_part(4, Some(5)));
                j.objects.clear();
            },
            damaged(Damage::ObjectMissing),
        ),
        (
            "all hours, one counted in part, as many as the day",
            |j| {
                hours(j, 0..24, 24);
                store(j, hour(7), counted_in_part(1, None));
            },
            WindowState::Covered,
        ),
        (
            "all hours, one counted in part, fewer than the day",
            |j| {
                hours(j, 0..24, 25);
                store(j, hour(7), counted_in_part(1, None));
            },
            partial(24, Some(25)),
        ),
        (
            "an unread receipt",
            |j| {
                j.receipts.insert(DAY, None);
            },
            WindowState::Missing,
        ),
        (
            "an unreadable receipt",
            |j| {
                j.receipts.insert(DAY, None);
                j.unreadable.insert(DAY, unreadable());
            },
            damaged(Damage::Unreadable(unreadable())),
        ),
        (
            "an unreadable receipt with its object",
            |j| {
                j.objects.insert(DAY, 50);
                j.receipts.insert(DAY, None);
                j.unreadable.insert(DAY, unreadable());
            },
            damaged(Damage::Unreadable(unreadable())),
        ),
        (
            "another source",
            |j| {
                store(
                    j,
                    DAY,
                    ReceiptFacts {
                        source: "https://b".into(),
                        ..facts(5, None, Some(50))
                    },
                );
            },
            damaged(Damage::OtherSource("https://b".to_owned())),
        ),
        (
            "an object that is gone",
            |j| {
                store(j, DAY, facts(5, Some(5), Some(50)));
                j.objects.clear();
            },
            damaged(Damage::ObjectMissing),
        ),
        (
            "an object of another size",
            |j| {
                store(j, DAY, facts(5, Some(5), Some(50)));
                j.objects.insert(DAY, 49);
            },
            damaged(Damage::ObjectSizeMismatch {
                stated: 50,
                found: 49,
            }),
        ),
        (
            "an object without a receipt",
            |j| {
                j.objects.insert(DAY, 50);
            },
            damaged(Damage::Orphaned),
        ),
        (
            "an object beside a receipt without one",
            |j| {
                store(j, DAY, facts(0, Some(0), None));
                j.objects.insert(DAY, 50);
            },
            damaged(Damage::UnexpectedObject),
        ),
        (
            "a receipt of another window",
            |j| {
                j.objects.insert(DAY, 50);
                j.receipts.insert(DAY, None);
                j.unreadable.insert(DAY, misplaced());
            },
            damaged(Damage::Unreadable(misplaced())),
        ),
        (
            "an object of an attempt in progress",
            |j| {
                j.objects.insert(DAY, 50);
                let id = AttemptId {
                    window: DAY,
                    ulid: Ulid::nil(),
                };
                j.attempts.insert(id, AttemptFacts::default());
            },
            WindowState::Missing,
        ),
        (
            "expired",
            |j| {
                j.expired.insert(DAY, Some(expired()));
            },
            WindowState::Expired,
        ),
        (
            "expired, and stored by another run",
            |j| {
                j.expired.insert(DAY, Some(expired()));
                store(j, DAY, facts(5, Some(5), Some(50)));
            },
            WindowState::Covered,
        ),
        (
            "a split day",
            |j| {
                j.splits.insert(DAY);
            },
            WindowState::Missing,
        ),
        (
            "some hours",
            |j| hours(j, 0..23, 24),
            WindowState::Partial(HourSet::from_iter([hour(23)])),
        ),
        ("all hours", |j| hours(j, 0..24, 24), WindowState::Covered),
        (
            "all hours, fewer than the day",
            |j| hours(j, 0..24, 25),
            short(24, 25),
        ),
        (
            "hours that a receipt of the day supersedes",
            |j| {
                hours(j, 0..24, 25);
                store(j, DAY, facts(25, Some(25), Some(50)));
            },
            WindowState::Covered,
        ),
        (
            "an hour with a missing object",
            |j| {
                hours(j, 0..24, 24);
                j.objects.remove(&hour(7));
            },
            damaged(Damage::ObjectMissing),
        ),
        (
            "an hour with a missing object that a receipt of the day supersedes",
            |j| {
                hours(j, 0..24, 24);
                j.objects.remove(&hour(7));
                store(j, DAY, facts(25, Some(25), Some(50)));
            },
            WindowState::Covered,
        ),
    ];
    for (name, arrange, state) in table {
        let mut journal = Journal::default();
        arrange(&mut journal);
        let wanted = HourSet::from_iter([DAY]);
        let mut expectation = Expectation {
            wanted: wanted.clone(),
            ..Expectation::of_source(SOURCE)
        };
        let coverage = assess(&expectation, &journal);
        assert_eq!(coverage.state(DAY), state, "{name}");
        let covered = state == WindowState::Covered;
        assert_eq!(
            coverage.missing.is_empty(),
            covered,
            "{name}: a damaged window is missing"
        );

        // A gap that the user accepts hides everything but data that counts.
        expectation.accepted = wanted.clone();
        let accepted = assess(&expectation, &journal);
        let expected = if covered {
            WindowState::Covered
        } else {
            WindowState::Accepted
        };
        assert_eq!(accepted.state(DAY), expected, "{name}, accepted");
        assert!(accepted.missing.is_empty(), "{name}, accepted");

        // Before the window is due, nothing is missing, but damage shows.
        expectation.accepted = HourSet::default();
        expectation.not_due = wanted;
        let early = assess(&expectation, &journal);
        assert!(early.missing.is_empty(), "{name}, not due");
        let expected = match state {
            WindowState::Covered | WindowState::Damaged(_) => state,
            _ => WindowState::NotDue,
        };
        if !matches!(expected, WindowState::NotDue) || early.covered.is_empty() {
            assert_eq!(early.state(DAY), expected, "{name}, not due");
        }
    }
}

/// Adds a later revision with these events, of which those beyond the earlier ones are its supplement.
fn revise(journal: &mut Journal, window: Window, events: u64, reported: Option<u64>) {
    let mut later = facts(events, reported, Some(70)).summary;
    let stored = journal.receipts.get_mut(&window).unwrap().as_mut().unwrap();
    let revision = stored.highest_revision() + 1;
    later.revision = revision;
    let supplement = SupplementFacts {
        bytes: 20,
        events: events - stored.current().events,
        sha256: Sha256Digest::default(),
        version_id: None,
    };
    stored.revisions.push(RevisionFacts {
        revision,
        object: revision,
        day_reported: None,
        stored_at: Timestamp::from_second(i64::from(revision)).unwrap(),
        summary: later,
        proof: ReceiptProof::default(),
        missing_events: 0,
        supplement: Some(supplement),
    });
    let files = RevisionFiles {
        body: Some(70),
        supplement: Some(20),
        has_receipt: true,
    };
    journal.revisions.insert((window, revision), files);
}

fn record_late(journal: &mut Journal, reported: u64, second: i64, changed: bool) {
    let changed = changed.then_some(ChangedRecord {
        events: 4,
        missing: 1,
    });
    let late = LateFacts {
        source: SOURCE.to_owned(),
        reported,
        changed,
        seen_at: Timestamp::from_second(second).unwrap(),
    };
    journal.late.insert(DAY, Some(late));
}

fn listed(count: Option<u64>) -> DayListing {
    DayListing::new(vec![crate::tracker::Day {
        date: DAY.date(),
        count,
        size: None,
        types: None,
        searchable: None,
    }])
}

#[test]
fn a_stored_day_has_grown_if_the_service_lists_more_than_its_highest_revision_has() {
    type Arrange = fn(&mut Journal);
    type GrowthCase = (&'static str, Arrange, Option<u64>, Option<(u64, usize)>, bool);
    let day: Arrange = |j| store(j, DAY, facts(5, Some(5), Some(50)));
    let revised: Arrange = |j| {
        store(j, DAY, facts(5, Some(5), Some(50)));
        revise(j, DAY, 7, Some(7));
    };
    let in_hours: Arrange = |j| hours(j, 0..24, 24);
    let without_an_hour: Arrange = |j| hours(j, 0..23, 23);
    let unknown: Arrange = |j| {
        let mut facts = facts(5, None, Some(50));
        facts.summary.verdict = Verdict::Unknown;
        store(j, DAY, facts);
    };
    let short: Arrange = |j| {
        store(j, DAY, facts(5, Some(5), Some(50)));
        record_late(j, 7, 1, false);
    };
    let table: Vec<GrowthCase> = vec![
        ("nothing stored", |_| {}, Some(5), None, false),
        ("as many", day, Some(5), None, false),
        ("fewer", day, Some(4), None, false),
        ("more", day, Some(6), Some((5, 1)), false),
        ("listed without a count", day, None, None, false),
        ("as many as the revision", revised, Some(7), None, false),
        ("more than the revision", revised, Some(8), Some((7, 1)), false),
        ("the sum of the hours", in_hours, Some(24), None, false),
        ("more than the hours", in_hours, Some(25), Some((24, 24)), false),
        ("an hour is missing", without_an_hour, Some(30), None, false),
        (
            "proved empty",
            |j| store(j, DAY, facts(0, Some(0), None)),
            Some(3),
            Some((0, 1)),
            false,
        ),
        (
            "the object is gone",
            |j| {
                store(j, DAY, facts(5, Some(5), Some(50)));
                j.objects.clear();
            },
            Some(6),
            None,
            false,
        ),
        ("no count before, enough now", unknown, Some(5), None, true),
        (
            "no count before, too few now",
            unknown,
            Some(6),
            Some((5, 1)),
            false,
        ),
        ("reported and not given", short, Some(7), Some((5, 1)), false),
        ("reported, and taken back", short, Some(5), None, true),
    ];
    for (name, arrange, count, grown, confirmed) in table {
        let mut journal = Journal::default();
        arrange(&mut journal);
        let found = compare_with_listing(&journal, SOURCE, &listed(count), |_| true);
        let growth = found.grown.get(&DAY.date());
        let growth = growth.map(|growth| (growth.stored, growth.windows.len()));
        assert_eq!(growth, grown, "{name}");
        assert_eq!(!found.confirmed.is_empty(), confirmed, "{name}");
        let excluded = compare_with_listing(&journal, SOURCE, &listed(count), |_| false);
        assert_eq!(excluded, ListingComparison::default(), "{name}");
    }
    let mut journal = Journal::default();
    day(&mut journal);
    let nothing = compare_with_listing(&journal, SOURCE, &DayListing::default(), |_| true);
    assert_eq!(nothing, ListingComparison::default(), "no longer listed");
}

#[test]
fn the_highest_revision_counts_and_each_of_its_files_must_be_there() {
    let expectation = Expectation::of_source(SOURCE);
    let mut journal = Journal::default();
    store(&mut journal, DAY, facts(5, Some(7), Some(50)));
    let state = |journal: &Journal| assess(&expectation, journal).state(DAY);
    assert_eq!(
        state(&journal),
        damaged(Damage::Short {
            events: 5,
            reported: 7
        })
    );
    revise(&mut journal, DAY, 7, Some(7));
    assert_eq!(state(&journal), WindowState::Covered);
    let key = |key: &str| format!("{key}.json.gz");
    for (key, body, supplement) in [
        (key("_revisions/2018-06-15/1/events"), None, Some(20)),
        (key("date=2018-06-15/events-r1"), Some(70), None),
    ] {
        let mut damage = journal.clone();
        let files = damage.revisions.get_mut(&(DAY, 1)).unwrap();
        (files.body, files.supplement) = (body, supplement);
        assert_eq!(state(&damage), damaged(Damage::RevisionMissing { key }));
    }
    let mut longer = journal.clone();
    longer.revisions.get_mut(&(DAY, 1)).unwrap().supplement = Some(21);
    assert!(matches!(
        state(&longer),
        WindowState::Damaged(Damage::RevisionSizeMismatch {
            stated: 20,
            found: 21,
            ..
        })
    ));
    // A record of late events counts if it is newer, and a changed body takes no proof away.
    record_late(&mut journal, 9, 0, false);
    assert_eq!(state(&journal), WindowState::Covered);
    record_late(&mut journal, 9, 2, false);
    assert_eq!(
        state(&journal),
        damaged(Damage::Short {
            events: 7,
            reported: 9
        })
    );
    record_late(&mut journal, 9, 2, true);
    assert_eq!(state(&journal), WindowState::Covered);
    assert_eq!(changed_windows(&journal, Some(SOURCE)).count(), 1);
}

#[test]
fn totals_count_each_hour_once_and_only_what_exists() {
    let mut journal = Journal::default();
    hours(&mut journal, 0..24, 24);
    let expectation = Expectation::of_source(SOURCE);
    let sum = |journal: &Journal| -> u64 {
        let coverage = assess(&expectation, journal);
        counted_receipts(journal, &coverage, DAY.date())
            .map(|(_, facts)| facts.summary.events)
            .sum()
    };
    assert_eq!(sum(&journal), 24);
    journal.objects.remove(&hour(7));
    assert_eq!(sum(&journal), 23, "a missing object is not counted");
    store(&mut journal, DAY, facts(30, Some(30), Some(50)));
    assert_eq!(sum(&journal), 30, "a day and its hours are not counted twice");
}
