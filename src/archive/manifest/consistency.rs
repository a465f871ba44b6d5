//! Consistency of one manifest with its own entries, and with the receipts that match its digests. No I/O.

use std::collections::BTreeMap;

use super::document::{DayEntry, DayEvidence, DayStatement, FileDigest, Manifest, WindowEntry, root_digest};
use crate::archive::counts::Verdict;
use crate::archive::layout::{ArchiveRoot, Key};
use crate::archive::records::{Receipt, UncountedRecord};
use crate::archive::stored_document::Receipts;
use crate::archive::window::Window;

/// A value in a manifest that differs from its other values or from receipts.
pub(super) struct Contradiction {
    pub(super) window: Option<Window>,
    pub(super) expected: String,
    pub(super) found: String,
}

/// Returns the entries of a manifest whose windows are valid.
pub(in crate::archive) fn windows(manifest: &Manifest) -> impl Iterator<Item = (Window, &WindowEntry)> {
    manifest
        .windows
        .iter()
        .filter_map(|entry| Some((entry.window.parse().ok()?, entry)))
}

/// Finds all contradictions of one manifest.
pub(super) fn contradictions(
    root: &ArchiveRoot,
    number: u64,
    manifest: &Manifest,
    receipts: &Receipts,
) -> Vec<Contradiction> {
    let mut all = Vec::new();
    let mut check_equal = |window: Option<Window>, field: &str, expected: String, found: String| {
        if expected != found {
            all.push(Contradiction {
                window,
                expected: format!("{field} {expected}"),
                found: format!("{field} {found}"),
            });
        }
    };
    if let Some((space, scope)) = root.space_and_scope() {
        check_equal(None, "space", space, manifest.space.clone());
        check_equal(None, "scope", scope, manifest.scope.to_lowercase());
    }
    let before = (number > 1).then(|| Key::Manifest(number - 1).relative().unwrap_or_default());
    let named = manifest.previous.as_ref().map(|previous| previous.key.clone());
    check_equal(
        None,
        "previous",
        or_nothing(before.as_ref()),
        or_nothing(named.as_ref()),
    );

    let computed = manifest.computed_root().digest;
    if computed != manifest.root.digest {
        let edited = edited_entries(manifest, receipts);
        if edited.is_empty() {
            check_equal(None, "root digest", computed, manifest.root.digest.clone());
        }
        for (window, actual, entry) in edited {
            check_equal(Some(window), "receipt digest", actual, entry);
        }
    }
    let (computed, stated) = (manifest.computed_totals(), manifest.totals);
    for (field, sum, stated) in [
        ("totals.windows", computed.windows, stated.windows),
        ("totals.objects", computed.objects, stated.objects),
        ("totals.events", computed.events, stated.events),
        ("totals.reported", computed.reported, stated.reported),
        (
            "totals.daysWithoutCount",
            computed.days_without_count,
            stated.days_without_count,
        ),
        ("totals.bytes", computed.bytes, stated.bytes),
        (
            "totals.decompressedBytes",
            computed.decompressed_bytes,
            stated.decompressed_bytes,
        ),
    ] {
        check_equal(None, field, sum.to_string(), stated.to_string());
    }
    let mut earlier: Option<Window> = None;
    for entry in &manifest.windows {
        let Ok(window) = entry.window.parse::<Window>() else {
            check_equal(
                None,
                "window",
                "a day or an hour".to_owned(),
                entry.window.clone(),
            );
            continue;
        };
        if earlier.is_some_and(|earlier| earlier >= window) {
            check_equal(
                Some(window),
                "windows",
                "in chronological order".to_owned(),
                "out of order".to_owned(),
            );
        }
        earlier = Some(window);
        if !manifest.period.contains(window) {
            check_equal(
                Some(window),
                "windows",
                "within the period".to_owned(),
                "outside of the period".to_owned(),
            );
        }
        check_equal(
            Some(window),
            "receipt",
            or_nothing(Key::Receipt(window).relative().as_ref()),
            entry.receipt.key.clone(),
        );
        if let Some((expected, found)) = impossible_revision(window, entry) {
            check_equal(Some(window), "revisions", expected, found);
        }
        if let Some((expected, found)) = impossible(window, entry) {
            check_equal(Some(window), "entry", expected, found);
        }
        if let Some(receipt) = receipts
            .get(&window)
            .filter(|receipt| receipt.sha256 == entry.receipt.sha256)
            .and_then(|receipt| receipt.parsed.as_ref().ok())
        {
            check_equal(
                Some(window),
                "source",
                receipt.source.clone(),
                manifest.source.clone(),
            );
            check_equal(
                Some(window),
                "entry",
                describe_receipt(receipt),
                describe_entry(entry),
            );
        }
    }
    for (window, expected, found) in inconsistent_days(manifest, receipts) {
        check_equal(Some(window), "days", expected, found);
    }
    all
}

/// Checks an entry for values that no receipt has. Returns the expected and the actual value.
fn impossible(window: Window, entry: &WindowEntry) -> Option<(String, String)> {
    let key = Key::Events(window).relative().unwrap_or_default();
    match &entry.object {
        None if entry.events > 0 || entry.verdict != Verdict::Empty => Some((
            "0 events and verdict Empty without an object".to_owned(),
            format!("{} events and verdict {:?}", entry.events, entry.verdict),
        )),
        Some(object) if object.key != key => {
            Some((format!("object {key}"), format!("object {}", object.key)))
        }
        _ => None,
    }
}

/// Checks the later revisions of an entry for values that no receipts have. Returns the expected and the actual value.
fn impossible_revision(window: Window, entry: &WindowEntry) -> Option<(String, String)> {
    let mut events = entry.events;
    for (later, number) in entry.revisions.iter().zip(1..) {
        let receipt = Key::RevisionReceipt(window, number)
            .relative()
            .unwrap_or_default();
        let found = format!("revision {}, {}", later.revision, later.receipt.key);
        if (later.revision, &later.receipt.key) != (number, &receipt) {
            return Some((format!("revision {number}, {receipt}"), found));
        }
        if let Some(missing) = later.missing_events {
            let own = Key::Revision(window, number).relative();
            if missing == 0
                || missing > events
                || later.supplement.is_some()
                || Some(&later.object.key) != own.as_ref()
            {
                return Some((
                    format!("revision {number} with its own body and at most {events} missingEvents"),
                    format!("{missing} missingEvents"),
                ));
            }
            continue;
        }
        if later.events < events {
            return Some((
                format!("revision {number} with at least {events} events"),
                format!("{} events", later.events),
            ));
        }
        let supplement = (later.events > events).then(|| Key::Supplement(window, number).relative());
        let stated = later.supplement.as_ref().map(|supplement| supplement.key.clone());
        if supplement.clone().flatten() != stated {
            return Some((
                format!("supplement {}", or_nothing(supplement.flatten().as_ref())),
                format!("supplement {}", or_nothing(stated.as_ref())),
            ));
        }
        events = later.events;
    }
    None
}

/// Returns edited entries: the window, the digest of the receipt and the digest in the entry. Empty unless the root
/// digest matches the digests of the stored receipts.
fn edited_entries(manifest: &Manifest, receipts: &Receipts) -> Vec<(Window, String, String)> {
    let mut edited = Vec::new();
    let mut actual: Vec<FileDigest> = Vec::new();
    for entry in &manifest.windows {
        let window = entry.window.parse::<Window>().ok();
        let there = window.and_then(|window| Some((window, receipts.get(&window)?)));
        let mut receipt = entry.receipt.clone();
        if let Some((window, there)) = there.filter(|(_, there)| there.sha256 != receipt.sha256) {
            edited.push((window, there.sha256.clone(), receipt.sha256.clone()));
            receipt.sha256.clone_from(&there.sha256);
        }
        actual.push(receipt);
        actual.extend(entry.revisions.iter().map(|later| later.receipt.clone()));
    }
    if root_digest(&actual).digest == manifest.root.digest {
        edited
    } else {
        Vec::new()
    }
}

/// Returns days that do not follow from their windows and the accepted gaps: the day, the expected and the stated
/// values.
fn inconsistent_days(manifest: &Manifest, receipts: &Receipts) -> Vec<(Window, String, String)> {
    let mut inconsistent = Vec::new();
    let mut by_day: BTreeMap<_, Vec<(Window, &WindowEntry)>> = BTreeMap::new();
    for (window, entry) in windows(manifest) {
        by_day.entry(window.date()).or_default().push((window, entry));
    }
    let dates: Vec<_> = manifest.period.days().collect();
    let stated: Vec<_> = manifest.days.iter().map(|day| day.date).collect();
    if dates != stated {
        let (day, count) = (Window::day(manifest.period.start), stated.len());
        inconsistent.push((
            day,
            format!("one entry for each of {} days", dates.len()),
            format!("{count} entries"),
        ));
        return inconsistent;
    }
    for day in &manifest.days {
        let window = Window::day(day.date);
        let entries = by_day.get(&day.date).map_or(&[][..], Vec::as_slice);
        let wanted = manifest
            .period
            .hour
            .and_then(|hour| Window::hour(day.date, hour))
            .unwrap_or(window);
        if !each_hour_is_in_one_window(wanted, entries) {
            let expected = "each wanted hour in one window".to_owned();
            inconsistent.push((window, expected, format!("{} windows", entries.len())));
            continue;
        }
        let derived = DayEntry::derive(&DayEvidence {
            wanted,
            windows: entries,
            reported_of_day: reported_of_day(day.reported, entries, receipts),
            // A manifest about one hour a day does not list the other hours, whose sum may be short.
            short: manifest.period.hour.is_some() && day.statement == DayStatement::AcceptedGap,
            accepted: manifest
                .accepted_gaps
                .iter()
                .any(|gap| (gap.start..=gap.end).contains(&day.date)),
        });
        let expected = match &derived {
            Some(derived) if derived == day => continue,
            Some(derived) => describe_day(derived),
            None => "all hours, or an accepted gap in acceptedGaps".to_owned(),
        };
        inconsistent.push((window, expected, describe_day(day)));
    }
    inconsistent
}

/// Returns true if each window covers wanted hours, and no two windows the same hour.
fn each_hour_is_in_one_window(wanted: Window, entries: &[(Window, &WindowEntry)]) -> bool {
    let mut taken = 0;
    entries.iter().all(|(window, _)| {
        let hours = window.hours();
        let fits = hours & wanted.hours() != 0 && hours & taken == 0;
        taken |= hours;
        fits
    })
}

fn describe_day(day: &DayEntry) -> String {
    format!(
        "{:?}, {} of {} hours, {} events, reported {}",
        day.statement,
        day.hours,
        day.wanted,
        day.events,
        or_nothing(day.reported.as_ref())
    )
}

/// Returns the highest report for a day in the receipts of its windows. Where a receipt is missing, changed or
/// unreadable, the stated report is all there is.
fn reported_of_day(
    stated: Option<u64>,
    entries: &[(Window, &WindowEntry)],
    receipts: &Receipts,
) -> Option<u64> {
    let mut most = None;
    for (window, entry) in entries {
        let document = receipts
            .get(window)
            .filter(|there| there.sha256 == entry.receipt.sha256);
        let Some(receipt) = document.and_then(|document| document.parsed.as_ref().ok()) else {
            return stated;
        };
        most = most.max(receipt.reported_of_day);
    }
    most
}

/// Formats the values that a manifest copies from a receipt.
fn describe_receipt(receipt: &Receipt) -> String {
    let object = receipt.object.as_ref();
    describe(
        object.map(|object| (object.key.as_str(), object.bytes, object.sha256.as_str())),
        receipt.events,
        object.map_or(0, |object| object.decompressed_bytes),
        (receipt.reported_before, receipt.reported_after),
        (receipt.verdict, receipt.uncounted.as_ref()),
    )
}

fn describe_entry(entry: &WindowEntry) -> String {
    let object = entry.object.as_ref();
    describe(
        object.map(|object| (object.key.as_str(), object.bytes, object.sha256.as_str())),
        entry.events,
        entry.decompressed_bytes,
        (entry.reported_before, entry.reported_after),
        (entry.verdict, entry.uncounted.as_ref()),
    )
}

fn describe(
    object: Option<(&str, u64, &str)>,
    events: u64,
    decompressed: u64,
    (before, after): (Option<u64>, Option<u64>),
    (verdict, uncounted): (Verdict, Option<&UncountedRecord>),
) -> String {
    let object = object.map_or("no object".to_owned(), |(key, bytes, sha256)| {
        format!("{key}, {bytes} bytes, sha256 {}", sha256.to_ascii_lowercase())
    });
    let counted = uncounted.map_or_else(String::new, |uncounted| format!(", counted up to {uncounted}"));
    format!(
        "{object}, {decompressed} bytes decompressed, {events} events, reported {} and {}, {verdict:?}{counted}",
        or_nothing(before.as_ref()),
        or_nothing(after.as_ref())
    )
}

fn or_nothing(value: Option<&impl ToString>) -> String {
    value.map_or("nothing".to_owned(), ToString::to_string)
}
