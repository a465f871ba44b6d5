//! The manifests of a root: whether each is what it was when it was written, and so which of them may accuse a
//! receipt. No I/O.
//!
//! The chain is judged from its end: a manifest that is sound vouches for the one before it. One that is not
//! accuses nobody else.

use std::collections::{BTreeMap, BTreeSet};

use super::contents::Contents;
use super::finding::{Finding, Kind};
use super::signature::Signature;
use crate::export::keys::Key;
use crate::export::manifest::document::{DayStatement, FileDigest, Manifest, WindowEntry, root_of};
use crate::export::manifest::periods::days;
use crate::export::record::{RangeRecord, Receipt};
use crate::export::window::{Cells, Window};

/// Contradictions of one manifest that are told: 20.
const TOLD_MAX: usize = 20;

/// A document as it lies there.
#[derive(Clone, Debug)]
pub struct Document<T> {
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// What it says, or why it cannot be read.
    pub read: Result<T, String>,
}

/// Receipts by window.
pub type Receipts = BTreeMap<Window, Document<Receipt>>;

/// Manifests by number, each with what is known of its signature.
pub type Manifests = BTreeMap<u64, (Document<Manifest>, Signature)>;

/// What a sound manifest says of a window.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key of the manifest.
    pub manifest: String,
    /// What it says.
    pub entry: WindowEntry,
}

/// What the manifests of a root are worth.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// What is wrong with them.
    pub findings: Vec<Finding>,
    /// What the latest sound manifest says of each window.
    pub ledger: BTreeMap<Window, Entry>,
    /// Windows that any readable manifest names.
    pub named: BTreeSet<Window>,
    /// What sound manifests are about.
    pub wanted: Cells,
    /// Of these, what a person accepted as missing.
    pub accepted: Cells,
    /// Periods of the sound manifests, oldest first.
    pub periods: Vec<RangeRecord>,
    /// Manifests that are there.
    pub manifests: u64,
    /// Manifests that nothing is wrong with.
    pub sound: u64,
    /// Signatures that are there.
    pub signatures: u64,
    /// Signatures that one of the given keys verifies.
    pub verified: u64,
}

/// A contradiction.
struct Contradiction {
    window: Option<Window>,
    expected: String,
    found: String,
}

/// Judges all manifests of a root.
pub fn judge(contents: &Contents, manifests: &Manifests, receipts: &Receipts, signed: bool) -> Chain {
    let mut chain = Chain::default();
    let last = contents.manifests.keys().chain(contents.signatures.keys()).max();
    // The one that comes after, where it is sound.
    let mut next: Option<&Manifest> = None;
    for number in (1..=last.copied().unwrap_or(0)).rev() {
        let key = contents.key(&Key::Manifest(number));
        let stated = next.and_then(|next| next.previous.as_ref());
        let Some((document, signature)) = manifests.get(&number) else {
            let missing = Finding::new(Kind::ManifestMissing, key);
            chain.findings.push(match stated {
                Some(stated) => missing.expected(format!("sha256 {}", stated.sha256)),
                None => missing,
            });
            next = None;
            continue;
        };
        let wrong = wrong_with(contents, number, document, stated, receipts);
        chain.manifests += 1;
        let mut sound = wrong.is_empty();
        chain.findings.extend(wrong);
        match signature {
            Signature::Absent if signed => chain
                .findings
                .push(Finding::new(Kind::SignatureMissing, key.clone()).expected("a signature beside it")),
            Signature::Absent => {}
            Signature::Unchecked => chain.signatures += 1,
            Signature::Valid => {
                chain.signatures += 1;
                chain.verified += 1;
            }
            Signature::Invalid => {
                chain.signatures += 1;
                sound = false;
                chain.findings.push(
                    Finding::new(Kind::SignatureInvalid, contents.key(&Key::Signature(number)))
                        .expected("a signature of the manifest by one of the given keys"),
                );
            }
        }
        let manifest = document.read.as_ref().ok();
        chain.named.extend(
            manifest
                .iter()
                .flat_map(|manifest| windows(manifest))
                .map(|(window, _)| window),
        );
        next = manifest.filter(|_| sound);
        if let Some(manifest) = next {
            chain.vouch(manifest, &key);
        }
    }
    if signed && contents.manifests.is_empty() {
        let missing = Finding::new(Kind::SignatureMissing, contents.root.manifests());
        chain
            .findings
            .push(missing.expected("a signed manifest").found("no manifest"));
    }
    chain.findings.reverse();
    chain.periods.reverse();
    if chain.signatures > 0
        && manifests
            .values()
            .any(|(_, signature)| *signature == Signature::Unchecked)
    {
        chain.findings.push(
            Finding::new(Kind::SignatureUnchecked, contents.root.manifests())
                .found(format!("{} signatures", chain.signatures)),
        );
    }
    chain
}

impl Chain {
    /// Takes over what a sound manifest says. Later ones were taken before and win.
    fn vouch(&mut self, manifest: &Manifest, key: &str) {
        self.sound += 1;
        self.periods.push(manifest.period);
        for (window, entry) in windows(manifest) {
            self.ledger.entry(window).or_insert_with(|| Entry {
                manifest: key.to_owned(),
                entry: entry.clone(),
            });
        }
        let wanted: Cells = days(manifest.period)
            .filter_map(|day| match manifest.period.hour {
                None => Some(Window::day(day)),
                Some(hour) => Window::hour(day, hour),
            })
            .collect();
        let accepted: Cells = manifest
            .days
            .iter()
            .filter(|day| day.statement == DayStatement::AcceptedGap)
            .map(|day| Window::day(day.date))
            .collect();
        self.accepted.union(&accepted.intersection(&wanted));
        self.wanted.union(&wanted);
    }
}

fn windows(manifest: &Manifest) -> impl Iterator<Item = (Window, &WindowEntry)> {
    manifest
        .windows
        .iter()
        .filter_map(|entry| Some((entry.window.parse().ok()?, entry)))
}

/// All that is wrong with one manifest, by itself, by its successor, and by the receipts whose digests it has.
fn wrong_with(
    contents: &Contents,
    number: u64,
    document: &Document<Manifest>,
    stated: Option<&FileDigest>,
    receipts: &Receipts,
) -> Vec<Finding> {
    let key = contents.key(&Key::Manifest(number));
    let contradictions = match &document.read {
        Ok(manifest) => contradictions(contents, number, manifest, receipts),
        Err(_) => Vec::new(),
    };
    if let Some(stated) = stated.filter(|stated| stated.sha256 != document.sha256) {
        let mut found = format!("sha256 {}", document.sha256);
        if let Err(why) = &document.read {
            found = format!("{found} ({why})");
        } else if let Some(first) = contradictions.first() {
            found = format!(
                "{found} ({} where {} follows from the rest)",
                first.found, first.expected
            );
        }
        return vec![
            Finding::new(Kind::ManifestChanged, key)
                .expected(format!("sha256 {}, as the next manifest names it", stated.sha256))
                .found(found),
        ];
    }
    if let Err(why) = &document.read {
        return vec![Finding::new(Kind::ManifestUnreadable, key).found(why.clone())];
    }
    let told = contradictions
        .into_iter()
        .take(TOLD_MAX)
        .map(|contradiction| Finding {
            window: contradiction.window,
            ..Finding::new(Kind::ManifestInconsistent, key.clone())
                .expected(contradiction.expected)
                .found(contradiction.found)
        });
    told.collect()
}

fn contradictions(
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
        } else if let Some(reported) = reported(&manifest.period, entries, receipts)
            && reported != day.reported
        {
            let words = |reported: Option<u64>| format!("reported {}", text(reported.as_ref()));
            wrong.push((window, words(reported), words(day.reported)));
        }
    }
    wrong
}

/// What the service reported of a day, by its receipts; `None` where one of them is not to be had as it was.
fn reported(
    period: &RangeRecord,
    entries: &[(Window, &WindowEntry)],
    receipts: &Receipts,
) -> Option<Option<u64>> {
    let split = period.hour.is_none() && entries.iter().any(|(window, _)| window.hour_of_day().is_some());
    if !split {
        let first = entries.first().map(|(_, entry)| entry);
        return Some(first.and_then(|entry| entry.reported_after.or(entry.reported_before)));
    }
    let mut most = None;
    for (window, entry) in entries {
        let document = receipts
            .get(window)
            .filter(|there| there.sha256 == entry.receipt.sha256)?;
        most = most.max(document.read.as_ref().ok()?.reported_of_day);
    }
    Some(most)
}

/// What a manifest repeats of a receipt, in words.
fn said_by(receipt: &Receipt) -> String {
    let object = receipt.object.as_ref();
    words(
        object.map(|object| (object.key.as_str(), object.bytes, object.sha256.as_str())),
        receipt.events,
        object.map_or(0, |object| object.decompressed_bytes),
        (receipt.reported_before, receipt.reported_after),
        format!("{:?}", receipt.verdict),
    )
}

fn said_of(entry: &WindowEntry) -> String {
    let object = entry.object.as_ref();
    words(
        object.map(|object| (object.key.as_str(), object.bytes, object.sha256.as_str())),
        entry.events,
        entry.decompressed_bytes,
        (entry.reported_before, entry.reported_after),
        format!("{:?}", entry.verdict),
    )
}

fn words(
    object: Option<(&str, u64, &str)>,
    events: u64,
    decompressed: u64,
    (before, after): (Option<u64>, Option<u64>),
    verdict: String,
) -> String {
    let object = object.map_or("no object".to_owned(), |(key, bytes, sha256)| {
        format!("{key}, {bytes} bytes, sha256 {sha256}")
    });
    format!(
        "{object}, {decompressed} bytes decompressed, {events} events, reported {} and {}, {verdict}",
        text(before.as_ref()),
        text(after.as_ref())
    )
}

fn text(value: Option<&impl ToString>) -> String {
    value.map_or("nothing".to_owned(), ToString::to_string)
}
