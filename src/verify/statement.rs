//! Whether one manifest says what follows from its own windows, and from the receipts whose digests it has. No I/O.

use std::collections::BTreeMap;

use super::chain::Receipts;
use super::contents::Contents;
use crate::export::keys::Key;
use crate::export::manifest::document::{DayStatement, FileDigest, Manifest, WindowEntry, root_of};
use crate::export::manifest::periods::days;
use crate::export::record::{RangeRecord, Receipt};
use crate::export::verdict::Verdict;
use crate::export::window::{Cells, Window};

/// What follows from the rest of a manifest or from receipts, and what it says instead.
pub(super) struct Contradiction {
    pub(super) window: Option<Window>,
    pub(super) expected: String,
    pub(super) found: String,
}

/// The windows of a manifest that can be read, with what it says of each.
pub(super) fn windows(manifest: &Manifest) -> impl Iterator<Item = (Window, &WindowEntry)> {
    manifest
        .windows
        .iter()
        .filter_map(|entry| Some((entry.window.parse().ok()?, entry)))
}

/// All contradictions of one manifest.
pub(super) fn contradictions(
    contents: &Contents,
    number: u64,
    manifest: &Manifest,
    receipts: &Receipts,
) -> Vec<Contradiction> {
    let mut all = Vec::new();
    let mut differ = |window: Option<Window>, what: &str, expected: String, found: String| {
        if expected != found {
            all.push(Contradiction {
                window,
                expected: format!("{what} {expected}"),
                found: format!("{what} {found}"),
            });
        }
    };
    if let Some((space, scope)) = contents.root.names() {
        differ(None, "space", space, manifest.space.clone());
        differ(None, "scope", scope, manifest.scope.to_lowercase());
    }
    let before = (number > 1).then(|| Key::Manifest(number - 1).below().unwrap_or_default());
    let named = manifest.previous.as_ref().map(|previous| previous.key.clone());
    differ(None, "previous", text(before.as_ref()), text(named.as_ref()));

    let computed = manifest.computed_root().digest;
    if computed != manifest.root.digest {
        let edited = edited_entries(manifest, receipts);
        if edited.is_empty() {
            differ(None, "root digest", computed, manifest.root.digest.clone());
        }
        for (window, actual, entry) in edited {
            differ(Some(window), "receipt digest", actual, entry);
        }
    }
    let (sums, said) = (manifest.computed_totals(), manifest.totals);
    for (what, sum, said) in [
        ("totals.windows", sums.windows, said.windows),
        ("totals.objects", sums.objects, said.objects),
        ("totals.events", sums.events, said.events),
        ("totals.reported", sums.reported, said.reported),
        (
            "totals.daysWithoutCount",
            sums.days_without_count,
            said.days_without_count,
        ),
        ("totals.bytes", sums.bytes, said.bytes),
        (
            "totals.decompressedBytes",
            sums.decompressed_bytes,
            said.decompressed_bytes,
        ),
    ] {
        differ(None, what, sum.to_string(), said.to_string());
    }
    let mut earlier: Option<Window> = None;
    for entry in &manifest.windows {
        let Ok(window) = entry.window.parse::<Window>() else {
            differ(
                None,
                "window",
                "a day or an hour".to_owned(),
                entry.window.clone(),
            );
            continue;
        };
        if earlier.is_some_and(|earlier| earlier >= window) {
            differ(
                Some(window),
                "windows",
                "in order of time".to_owned(),
                "out of order".to_owned(),
            );
        }
        earlier = Some(window);
        differ(
            Some(window),
            "receipt",
            text(Key::Receipt(window).below().as_ref()),
            entry.receipt.key.clone(),
        );
        if let Some(receipt) = receipts
            .get(&window)
            .filter(|receipt| receipt.sha256 == entry.receipt.sha256)
            .and_then(|receipt| receipt.read.as_ref().ok())
        {
            differ(Some(window), "entry", said_by(receipt), said_of(entry));
        }
    }
    for (window, expected, found) in wrong_days(manifest, receipts) {
        differ(Some(window), "days", expected, found);
    }
    all
}

/// Windows whose entry was edited: with the digests of the receipts that are there, the root digest is right.
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
    }
    if root_of(&actual).digest == manifest.root.digest {
        edited
    } else {
        Vec::new()
    }
}

/// Days whose sums are not those of their windows: the day, what follows from the windows, what is said.
fn wrong_days(manifest: &Manifest, receipts: &Receipts) -> Vec<(Window, String, String)> {
    let mut wrong = Vec::new();
    let mut of_day: BTreeMap<_, Vec<(Window, &WindowEntry)>> = BTreeMap::new();
    for (window, entry) in windows(manifest) {
        of_day.entry(window.date()).or_default().push((window, entry));
    }
    let dates: Vec<_> = days(manifest.period).collect();
    let said: Vec<_> = manifest.days.iter().map(|day| day.date).collect();
    if dates != said {
        let (day, count) = (Window::day(manifest.period.start), said.len());
        wrong.push((
            day,
            format!("one for each of {} days", dates.len()),
            format!("{count} of them"),
        ));
        return wrong;
    }
    for day in &manifest.days {
        let window = Window::day(day.date);
        let entries = of_day.get(&day.date).map_or(&[][..], Vec::as_slice);
        let wanted = manifest
            .period
            .hour
            .and_then(|hour| Window::hour(day.date, hour))
            .unwrap_or(window);
        let covered: Cells = entries.iter().map(|(window, _)| *window).collect();
        let hours = (covered.hours_of(day.date) & wanted.hours()).count_ones();
        let events = entries
            .iter()
            .map(|(_, entry)| entry.events)
            .fold(0, u64::saturating_add);
        let expected = (hours, wanted.hours().count_ones(), events);
        let found = (u32::from(day.hours), u32::from(day.wanted), day.events);
        let words =
            |(hours, wanted, events): (u32, u32, u64)| format!("{hours} of {wanted} hours, {events} events");
        if expected != found {
            wrong.push((window, words(expected), words(found)));
        } else if hours < wanted.hours().count_ones() && day.statement != DayStatement::AcceptedGap {
            let found = format!("{:?} with {hours} hours", day.statement);
            wrong.push((window, "all hours, or an accepted gap".to_owned(), found));
        } else if let Ok(reported) = reported(&manifest.period, entries, receipts)
            && reported != day.reported
        {
            let words = |reported: Option<u64>| format!("reported {}", text(reported.as_ref()));
            wrong.push((window, words(reported), words(day.reported)));
        }
    }
    wrong
}

/// A receipt is not to be had as it was.
struct Changed;

/// What the service reported of a day, by its receipts.
fn reported(
    period: &RangeRecord,
    entries: &[(Window, &WindowEntry)],
    receipts: &Receipts,
) -> Result<Option<u64>, Changed> {
    let split = period.hour.is_none() && entries.iter().any(|(window, _)| window.hour_of_day().is_some());
    if !split {
        let first = entries.first().map(|(_, entry)| entry);
        return Ok(first.and_then(|entry| entry.reported_after.or(entry.reported_before)));
    }
    let mut most = None;
    for (window, entry) in entries {
        let document = receipts
            .get(window)
            .filter(|there| there.sha256 == entry.receipt.sha256)
            .ok_or(Changed)?;
        let receipt = document.read.as_ref().map_err(|_| Changed)?;
        most = most.max(receipt.reported_of_day);
    }
    Ok(most)
}

/// What a manifest repeats of a receipt, in words.
fn said_by(receipt: &Receipt) -> String {
    let object = receipt.object.as_ref();
    words(
        object.map(|object| (object.key.as_str(), object.bytes, object.sha256.as_str())),
        receipt.events,
        object.map_or(0, |object| object.decompressed_bytes),
        (receipt.reported_before, receipt.reported_after),
        receipt.verdict,
    )
}

fn said_of(entry: &WindowEntry) -> String {
    let object = entry.object.as_ref();
    words(
        object.map(|object| (object.key.as_str(), object.bytes, object.sha256.as_str())),
        entry.events,
        entry.decompressed_bytes,
        (entry.reported_before, entry.reported_after),
        entry.verdict,
    )
}

fn words(
    object: Option<(&str, u64, &str)>,
    events: u64,
    decompressed: u64,
    (before, after): (Option<u64>, Option<u64>),
    verdict: Verdict,
) -> String {
    let object = object.map_or("no object".to_owned(), |(key, bytes, sha256)| {
        format!("{key}, {bytes} bytes, sha256 {sha256}")
    });
    format!(
        "{object}, {decompressed} bytes decompressed, {events} events, reported {} and {}, {verdict:?}",
        text(before.as_ref()),
        text(after.as_ref())
    )
}

fn text(value: Option<&impl ToString>) -> String {
    value.map_or("nothing".to_owned(), ToString::to_string)
}
