//! Combination of the results for a root to its report. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use super::attestation::AttestationTotals;
use super::contents::{FileEffect, RootContents};
use super::observation::{CheckMethod, DigestIndex, ObjectObservation, evaluate};
use super::options::VerifyOptions;
use super::receipts::{ExpectedObject, coverage_findings, uncounted_remarks};
use super::recheck::RootReading;
use super::report::{CheckedObject, ManifestTotals, RootReport, RootTotals, UncoveredWindow};
use super::timestamps;
use crate::archive::calendar::Calendar;
use crate::archive::coverage::{self, Coverage, Damage, WindowState};
use crate::archive::finding::{Finding, FindingKind};
use crate::archive::layout::Key;
use crate::archive::manifest::chain::ChainAudit;
use crate::archive::range::ExpectedRange;
use crate::archive::window::{HourSet, Window};
use crate::storage::StoreError;

/// Maximum number of reported gaps of one cause. The last finding states the number of omitted gaps.
const GAPS_MAX: usize = 1000;

/// Maximum number of merged ranges in a list: 1,000. One more entry states the number of omitted ranges.
const RUNS_MAX: usize = 1000;

/// Builds the report for a root.
pub fn build_report(
    options: &VerifyOptions,
    reading: RootReading,
    seen: &[Option<Result<ObjectObservation, StoreError>>],
) -> RootReport {
    let RootReading {
        mut contents,
        documents,
        chain,
        checkpoints,
        expectations,
        range,
        coverage,
        attestations,
        unattested,
        ..
    } = reading;
    let index = DigestIndex::new(&expectations.objects);
    let mut findings = chain.findings.clone();
    let mut totals = RootTotals::default();
    let mut checked = Vec::new();
    // Findings of windows: they are neither counted nor covered, and are no gap beside it.
    let mut faulty: BTreeMap<Window, FindingKind> = BTreeMap::new();
    let mut add = |findings: &mut Vec<Finding>, finding: Finding| {
        if let Some(window) = finding.window {
            faulty.entry(window).or_insert(finding.kind);
        }
        findings.push(finding);
    };
    for finding in expectations.findings.into_iter().chain(checkpoints.findings) {
        add(&mut findings, finding);
    }
    for (expected, seen) in expectations.objects.iter().zip(seen) {
        let (method, size, wrong) = check_object(expected, seen.as_ref(), &index);
        let good = wrong.is_empty();
        totals.objects += 1;
        totals.proved += u64::from(good);
        checked.push(CheckedObject {
            key: expected.key.clone(),
            window: expected.window,
            method,
            bytes: size,
            proved: good,
        });
        let accepted = coverage.accepted.contains(expected.window);
        for finding in wrong {
            // A gap that the user accepted may have lost its object.
            if !(accepted && finding.kind == FindingKind::ObjectMissing) {
                add(&mut findings, finding);
            }
        }
    }
    for window in faulty.keys() {
        if let Some(facts) = contents.journal.receipts.get_mut(window) {
            *facts = None;
        }
    }
    let proved = coverage::assess(&range.expectation(options.source()), &contents.journal);
    for (_, facts) in coverage::all_counted_receipts(&contents.journal, &proved) {
        totals.windows += 1;
        totals.empty += u64::from(facts.summary.sha256.is_none());
        totals.events = totals.events.saturating_add(facts.current().events);
        totals.late = totals.late.saturating_add(facts.late_events());
        totals.bytes = totals.bytes.saturating_add(facts.stored_bytes());
        totals.decompressed = totals.decompressed.saturating_add(facts.proof.decompressed_bytes);
    }
    findings.extend(
        coverage_findings(&contents, &coverage)
            .into_iter()
            .filter(|finding| {
                let window = finding.window;
                window.is_none_or(|window| !faulty.contains_key(&window))
            }),
    );
    let uncovered = uncovered_windows(&coverage, &proved, &range, &faulty);
    findings.extend(gaps(&contents, &coverage, &proved, &faulty));
    findings.extend(uncounted_remarks(&contents, &proved));
    // A window with another finding is not proved anyway.
    let faulty_hours: HourSet = faulty.keys().copied().collect();
    let unattested = unattested.difference(&faulty_hours);
    findings.extend(unattested.ranges(GAPS_MAX).into_iter().map(|range| {
        Finding::new(FindingKind::Unattested, contents.root.as_str())
            .expected("a signed manifest or a signed receipt")
            .found(format!("{range}, by receipts alone"))
    }));
    findings.extend(checkpoints.remarks);
    findings.extend(timestamps::findings(
        &contents,
        &documents.timestamps,
        |document| documents.digest_of(document),
    ));
    findings.extend(build_remarks(
        &contents,
        &chain,
        &expectations.not_in_manifest,
        &expectations.sources,
        options.source(),
    ));
    let attested = (!options.keys.is_empty()).then(|| {
        let mut totals = AttestationTotals::default();
        for (window, attestation) in attestations {
            if !faulty.contains_key(&window) {
                totals.add(attestation);
            }
        }
        totals
    });
    let (space, scope) = contents.root.space_and_scope().unzip();
    let calendar = verified_calendar(&contents, (&coverage, &proved), &range, &faulty);
    let receipts = contents.journal.read_receipts();
    let stored = receipts.map(|(_, facts)| facts.current_stored_at());
    let newest = stored.chain(documents.written_at()).max();
    let manifest_rows = documents.manifest_rows(&chain);
    RootReport {
        root: contents.root.as_str().to_owned(),
        space,
        scope,
        basis: range.basis,
        wanted: range.wanted.ranges(RUNS_MAX),
        missing: proved.missing.ranges(RUNS_MAX),
        accepted: proved.accepted.ranges(RUNS_MAX),
        uncovered,
        totals,
        manifests: ManifestTotals {
            manifests: chain.manifests,
            valid: chain.valid.len() as u64,
            signatures: chain.signatures,
            verified: chain.verified,
            head: chain.head,
            receipts_not_in_manifest: expectations.not_in_manifest.len() as u64,
        },
        attested,
        calendar,
        gap_reasons: chain.sealed.gap_reasons,
        newest,
        chain: manifest_rows,
        sources: expectations.sources,
        objects: checked,
        findings,
    }
}

/// Returns the windows that are not proved: those that are not covered by keys and receipts, and those with findings.
fn uncovered_windows(
    coverage: &Coverage,
    proved: &Coverage,
    range: &ExpectedRange,
    faulty: &BTreeMap<Window, FindingKind>,
) -> Vec<UncoveredWindow> {
    let by_receipts = coverage.uncovered(&range.wanted).into_iter();
    let mut all: BTreeMap<Window, UncoveredWindow> = by_receipts
        .map(|(window, state)| {
            let uncovered = UncoveredWindow {
                window,
                state: state.as_str().to_owned(),
                message: state.message(),
            };
            (window, uncovered)
        })
        .collect();
    for (window, kind) in faulty {
        if coverage.covered.contains(*window) && !proved.covered.contains(*window) {
            all.entry(*window).or_insert_with(|| UncoveredWindow {
                window: *window,
                state: kind.as_str(),
                message: Some(kind.explanation().to_owned()),
            });
        }
    }
    all.into_values().take(RUNS_MAX).collect()
}

/// Returns the expected days with what was proved of them.
fn verified_calendar(
    contents: &RootContents,
    (coverage, proved): (&Coverage, &Coverage),
    range: &ExpectedRange,
    faulty: &BTreeMap<Window, FindingKind>,
) -> Calendar {
    let mut calendar = Calendar::new(&contents.journal, proved, &range.wanted);
    for day in &mut calendar.days {
        day.state = coverage.state(day.window);
        if day.state == WindowState::Covered && !proved.covered.contains(day.window) {
            let mut findings = faulty.range(day.window.same_day());
            let overlaps = |window: &Window| window.hours() & day.window.hours() != 0;
            day.refuted_by = findings
                .find(|(window, _)| overlaps(window))
                .map(|(_, kind)| *kind);
        }
    }
    calendar
}

/// Compares an object with its receipt or manifest. Returns the method, the size in bytes and the errors.
fn check_object(
    expected: &ExpectedObject,
    seen: Option<&Result<ObjectObservation, StoreError>>,
    index: &DigestIndex,
) -> (CheckMethod, u64, Vec<Finding>) {
    let finding = |kind| Finding::new(kind, expected.key.clone()).with_window(expected.window);
    match seen {
        None => {
            let missing = finding(FindingKind::ObjectMissing);
            let stated = format!("{} bytes, by {}", expected.bytes, expected.stated_by);
            (CheckMethod::Nothing, 0, vec![missing.expected(stated)])
        }
        Some(Err(error)) => {
            let kind = match error {
                StoreError::Archived { .. } => FindingKind::ObjectArchived,
                _ => FindingKind::ObjectUnreadable,
            };
            let unreadable = finding(kind).found(error.to_string());
            (CheckMethod::Nothing, 0, vec![unreadable])
        }
        Some(Ok(seen)) => (seen.method, seen.bytes, evaluate(expected, seen, index)),
    }
}

/// Returns a finding for each merged range of missing hours that no other finding explains.
fn gaps(
    contents: &RootContents,
    coverage: &Coverage,
    proved: &Coverage,
    faulty: &BTreeMap<Window, FindingKind>,
) -> Vec<Finding> {
    let mut others: BTreeMap<&str, HourSet> = BTreeMap::new();
    let mut explained: HourSet = faulty.keys().copied().collect();
    for (window, damage) in &coverage.damaged {
        if let Damage::OtherSource(source) = damage {
            others.entry(source).or_default().insert(*window);
        } else {
            explained.insert(*window);
        }
    }
    let mut missing = proved.missing.difference(&explained);
    let mut causes: Vec<(HourSet, String)> = others
        .into_iter()
        .map(|(source, hours)| (hours, format!("a receipt of another source, {source}")))
        .collect();
    let lost = "no receipt; the service no longer had the events";
    causes.push((coverage.expired.clone(), lost.to_owned()));
    causes.push((missing.clone(), "no receipt".to_owned()));
    let mut findings = Vec::new();
    for (hours, found) in causes {
        let hours = hours.intersection(&missing);
        missing = missing.difference(&hours);
        findings.extend(hours.ranges(GAPS_MAX).into_iter().map(|run| {
            Finding::new(FindingKind::Gap, contents.root.as_str())
                .expected(run)
                .found(found.clone())
        }));
    }
    findings
}

fn build_remarks(
    contents: &RootContents,
    chain: &ChainAudit,
    not_in_manifest: &BTreeSet<Window>,
    sources: &BTreeSet<String>,
    source: Option<&str>,
) -> Vec<Finding> {
    let mut remarks = Vec::new();
    if !not_in_manifest.is_empty() {
        let found = if chain.manifests == 0 {
            "no manifest yet".to_owned()
        } else {
            let cells: HourSet = not_in_manifest.iter().copied().collect();
            cells.ranges(8).join(", ")
        };
        remarks.push(Finding::new(FindingKind::NotInManifest, contents.root.as_str()).found(found));
    }
    for (id, session) in contents.journal.sessions() {
        let key = contents.key(&Key::Session(id, session.clone()));
        remarks.push(
            Finding::new(FindingKind::SessionOpen, key)
                .with_window(id.window)
                .found(format!("session {session}")),
        );
    }
    let differs = source.is_some_and(|source| sources.iter().any(|other| other != source));
    if sources.len() > 1 || differs {
        let all: Vec<&str> = sources.iter().map(String::as_str).collect();
        remarks.push(Finding::new(FindingKind::SeveralSources, contents.root.as_str()).found(all.join(", ")));
    }
    let is_harmless = |effect| effect != FileEffect::Read;
    remarks.extend(contents.unknown.findings(contents.root.as_str(), is_harmless));
    remarks
}
