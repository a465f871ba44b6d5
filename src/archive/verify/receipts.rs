//! Expected objects of a root, by its receipts or, for a missing or changed receipt, by the manifest. No I/O.

use std::collections::BTreeSet;

use super::chain::{ChainAudit, Document, LedgerEntry, Receipts};
use super::contents::RootContents;
use super::finding::{Finding, FindingKind};
use crate::archive::counts::{Verdict, compare_counts, latest_count, split_days};
use crate::archive::layout::Key;
use crate::archive::records::{Receipt, UncountedRecord};
use crate::archive::window::Window;

/// An object that must exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedObject {
    /// Window of its events.
    pub window: Window,
    /// The full key.
    pub key: String,
    /// Full key of the receipt or manifest that describes the object.
    pub stated_by: String,
    /// True if that is a receipt.
    pub from_receipt: bool,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, hexadecimal digits.
    pub sha256: String,
    /// CRC-64/NVME, 16 hexadecimal digits.
    pub crc64: Option<String>,
    /// Members of the gzip.
    pub members: Option<u64>,
    /// Size after decompression in bytes.
    pub decompressed: u64,
    /// Events.
    pub events: u64,
    /// End of the count, if the content could be counted only in part; `None`: not stated.
    pub uncounted: Option<Option<UncountedRecord>>,
}

/// Result of the check of the receipts of a root.
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    /// Errors of receipts, and objects without one.
    pub findings: Vec<Finding>,
    /// Windows, and days in hours, with fewer events than the service reported. In an accepted gap they are no error.
    pub short: Vec<(Window, Finding)>,
    /// Windows whose content could be counted only in part. In an accepted gap they are no error.
    pub uncounted: Vec<(Window, Finding)>,
    /// Objects that must exist, in chronological order.
    pub objects: Vec<ExpectedObject>,
    /// Windows with a valid receipt of the source.
    pub covering: BTreeSet<Window>,
    /// Windows with a valid receipt that states that they are empty.
    pub empty: BTreeSet<Window>,
    /// Endpoints in valid receipts.
    pub sources: BTreeSet<String>,
    /// Windows with a receipt that no manifest lists.
    pub not_in_manifest: BTreeSet<Window>,
}

/// Checks the receipts of a root, and derives the expected objects. If a source is given, receipts of other sources
/// cover nothing.
pub fn expected_objects(
    contents: &RootContents,
    receipts: &Receipts,
    chain: &ChainAudit,
    source: Option<&str>,
) -> Expectations {
    let mut out = Expectations::default();
    for (window, document) in receipts {
        out.add_receipt(contents, *window, document, chain, source);
    }
    for (window, entry) in &chain.ledger {
        if !receipts.contains_key(window) {
            out.findings.push(
                Finding::new(FindingKind::ReceiptMissing, contents.key(&Key::Receipt(*window)))
                    .with_window(*window)
                    .expected(format!(
                        "sha256 {}, by {}",
                        entry.entry.receipt.sha256, entry.manifest
                    )),
            );
            out.objects.extend(object_from_entry(contents, *window, entry));
        }
    }
    out.objects.sort_by_key(|expected| expected.window);
    let known: BTreeSet<Window> = out.objects.iter().map(|expected| expected.window).collect();
    // An object is not reported if its receipt is.
    let reported: BTreeSet<Window> = out.findings.iter().filter_map(|finding| finding.window).collect();
    for (window, listed) in &contents.objects {
        if reported.contains(window) {
            continue;
        }
        if !known.contains(window) {
            let finding =
                Finding::new(FindingKind::ObjectWithoutReceipt, listed.key.clone()).with_window(*window);
            out.findings.push(match receipts.get(window) {
                None => finding.expected(contents.key(&Key::Receipt(*window))),
                Some(_) => finding.expected("no object, since the receipt is for an empty window"),
            });
        }
    }
    for listed in &contents.strays {
        out.findings
            .push(Finding::new(FindingKind::StrayFile, listed.key.clone()));
    }
    out.check_split_days(contents, receipts);
    out
}

impl Expectations {
    fn add_receipt(
        &mut self,
        contents: &RootContents,
        window: Window,
        document: &Document<Receipt>,
        chain: &ChainAudit,
        source: Option<&str>,
    ) {
        let key = contents.key(&Key::Receipt(window));
        if !chain.named.contains(&window) {
            self.not_in_manifest.insert(window);
        }
        if document.archived {
            self.findings
                .push(document.archived_finding(key).with_window(window));
            let entry = chain.ledger.get(&window);
            self.objects
                .extend(entry.and_then(|entry| object_from_entry(contents, window, entry)));
            return;
        }
        if let Some(entry) = chain.ledger.get(&window)
            && entry.entry.receipt.sha256 != document.sha256
        {
            let why = document.parsed.as_ref().err();
            let changed = Finding::new(FindingKind::ReceiptChanged, key)
                .with_window(window)
                .expected(format!(
                    "sha256 {}, by {}",
                    entry.entry.receipt.sha256, entry.manifest
                ))
                .found(match why {
                    None => format!("sha256 {}", document.sha256),
                    Some(why) => format!("sha256 {} ({why})", document.sha256),
                });
            self.findings.push(changed);
            self.objects.extend(object_from_entry(contents, window, entry));
            return;
        }
        let receipt = match &document.parsed {
            Ok(receipt) => receipt,
            Err(why) => {
                let finding = Finding::new(FindingKind::ReceiptUnreadable, key)
                    .with_window(window)
                    .found(why.clone());
                self.findings.push(finding);
                return;
            }
        };
        if let Some((expected, found)) = misplaced(contents, window, receipt) {
            let finding = Finding::new(FindingKind::ReceiptMisplaced, key).with_window(window);
            self.findings.push(finding.expected(expected).found(found));
            return;
        }
        if let Some((expected, found)) = contradiction(window, receipt) {
            let finding = Finding::new(FindingKind::ReceiptInconsistent, key.clone()).with_window(window);
            self.findings.push(finding.expected(expected).found(found));
        } else if let Some((expected, found)) = shortfall(receipt) {
            let finding = Finding::new(FindingKind::WindowShort, key.clone()).with_window(window);
            self.short.push((window, finding.expected(expected).found(found)));
        }
        if let Some(uncounted) = &receipt.uncounted {
            let finding = uncounted_finding(&key, window, receipt, uncounted);
            self.uncounted.push((window, finding));
        }
        if source.is_none_or(|source| source == receipt.source) {
            self.covering.insert(window);
        }
        self.sources.insert(receipt.source.clone());
        let Some(object) = &receipt.object else {
            self.empty.insert(window);
            return;
        };
        self.objects.push(ExpectedObject {
            window,
            key: contents.key(&Key::Events(window)),
            stated_by: key,
            from_receipt: true,
            bytes: object.bytes,
            sha256: object.sha256.to_ascii_lowercase(),
            crc64: Some(object.crc64nvme.to_ascii_lowercase()),
            members: Some(object.gzip_members),
            decompressed: object.decompressed_bytes,
            events: receipt.events,
            uncounted: Some(receipt.uncounted.clone()),
        });
    }

    /// Compares days that are stored by the hour with the service's counts for the days.
    fn check_split_days(&mut self, contents: &RootContents, receipts: &Receipts) {
        let stored = self.covering.iter().filter_map(|window| {
            let receipt = receipts.get(window)?.parsed.as_ref().ok()?;
            receipt
                .is_sufficient()
                .then_some((*window, receipt.events, receipt.reported_of_day))
        });
        for (date, sum) in split_days(stored) {
            let day = Window::day(date);
            if sum.verdict() == Verdict::Short && !self.covering.contains(&day) {
                let finding = Finding::new(FindingKind::DayShort, contents.root.day_objects_prefix(day))
                    .with_window(day)
                    .expected(format!(
                        "{} events, by the service's count for the day",
                        sum.reported.unwrap_or_default()
                    ))
                    .found(format!("{} events in its hours", sum.events));
                self.short.push((day, finding));
            }
        }
    }
}

fn object_from_entry(contents: &RootContents, window: Window, entry: &LedgerEntry) -> Option<ExpectedObject> {
    let object = entry.entry.object.as_ref()?;
    Some(ExpectedObject {
        window,
        key: contents.key(&Key::Events(window)),
        stated_by: entry.manifest.clone(),
        from_receipt: false,
        bytes: object.bytes,
        sha256: object.sha256.to_ascii_lowercase(),
        crc64: None,
        members: None,
        decompressed: entry.entry.decompressed_bytes,
        events: entry.entry.events,
        uncounted: None,
    })
}

/// Reports a window whose content could be counted only in part: an error if its events are not enough.
fn uncounted_finding(key: &str, window: Window, receipt: &Receipt, uncounted: &UncountedRecord) -> Finding {
    let kind = if receipt.is_sufficient() {
        FindingKind::EventsUncounted
    } else {
        FindingKind::EventsUnproved
    };
    let reported = latest_count(receipt.reported_before, receipt.reported_after);
    let expected = reported.map_or_else(
        || "events that can be counted to the end".to_owned(),
        |reported| format!("{reported} events, by the service's count"),
    );
    let found = format!("{} events, counted up to {uncounted}", receipt.events);
    Finding::new(kind, key)
        .with_window(window)
        .expected(expected)
        .found(found)
}

/// Compares a receipt with its key. Returns the expected and the actual value if they differ.
fn misplaced(contents: &RootContents, window: Window, receipt: &Receipt) -> Option<(String, String)> {
    if receipt.window != window.to_string() {
        return Some((format!("window {window}"), format!("window {}", receipt.window)));
    }
    let (space, scope) = contents.root.space_and_scope()?;
    if receipt.space != space {
        return Some((format!("space {space}"), format!("space {}", receipt.space)));
    }
    if receipt.scope.to_lowercase() != scope {
        return Some((format!("scope {scope}"), format!("scope {}", receipt.scope)));
    }
    None
}

/// Checks a receipt for values that an export never writes. Returns the expected and the actual value.
fn contradiction(window: Window, receipt: &Receipt) -> Option<(String, String)> {
    let differs = |expected: &str, found: String| Some((expected.to_owned(), found));
    match &receipt.object {
        None if receipt.events > 0 => {
            differs("0 events without an object", format!("{} events", receipt.events))
        }
        None if receipt.verdict != Verdict::Empty => differs(
            "verdict Empty without an object",
            format!("verdict {:?}", receipt.verdict),
        ),
        None => None,
        Some(object) if object.key != Key::Events(window).relative().unwrap_or_default() => Some((
            format!("object {}", Key::Events(window).relative().unwrap_or_default()),
            format!("object {}", object.key),
        )),
        Some(_) => {
            if receipt.uncounted.is_some() {
                return (receipt.verdict != Verdict::Unknown).then(|| {
                    let found = format!("verdict {:?}", receipt.verdict);
                    (
                        "verdict Unknown of events that could not be counted".to_owned(),
                        found,
                    )
                });
            }
            let (before, after) = (receipt.reported_before, receipt.reported_after);
            let verdict = compare_counts(receipt.events, before, after);
            let fits = match (receipt.verdict, verdict) {
                // Fewer events than reported: `shortfall`.
                (_, Verdict::Short) => true,
                // Earlier versions wrote this for a count between the two reports.
                (Verdict::Matched, Verdict::Over) => before.is_some_and(|before| receipt.events <= before),
                (Verdict::Empty, _) => receipt.events == 0,
                (stated, verdict) => stated == verdict,
            };
            if fits {
                return None;
            }
            Some((
                format!("verdict {verdict:?} for these counts"),
                format!(
                    "verdict {:?} for {} events, reported {before:?} before and {after:?} after",
                    receipt.verdict, receipt.events
                ),
            ))
        }
    }
}

/// Compares a receipt with the newest report of the service, whatever verdict it states. Returns the expected and the
/// actual value if it has fewer events. Content that could be counted only in part has a finding of its own.
fn shortfall(receipt: &Receipt) -> Option<(String, String)> {
    if receipt.uncounted.is_some() {
        return None;
    }
    let (before, after) = (receipt.reported_before, receipt.reported_after);
    let verdict = compare_counts(receipt.events, before, after);
    (verdict == Verdict::Short).then(|| {
        (
            format!(
                "at least {} events, by the service's newest count",
                after.or(before).unwrap_or_default()
            ),
            format!("{} events, verdict {:?}", receipt.events, receipt.verdict),
        )
    })
}
