//! Combination of the results for a root to its report. No I/O.

use std::collections::BTreeSet;

use super::archive::VerifyOptions;
use super::chain::ChainAudit;
use super::contents::RootContents;
use super::coverage::{self, ExpectedRange};
use super::finding::{Finding, FindingKind};
use super::observation::{CheckMethod, DigestIndex, ObjectObservation, evaluate};
use super::receipts::Expectations;
use super::report::{CheckedObject, ManifestTotals, RootReport, RootTotals};
use crate::archive::window::{HourSet, Window};
use crate::storage::StoreError;

/// Maximum number of merged ranges in a list: 1,000. One more entry states the number of omitted ranges.
const RUNS_MAX: usize = 1000;

/// Builds the report for a root.
pub fn build_report(
    options: &VerifyOptions,
    contents: &RootContents,
    chain: &ChainAudit,
    expectations: Expectations,
    seen: &[Option<Result<ObjectObservation, StoreError>>],
) -> RootReport {
    let index = DigestIndex::new(&expectations.objects);
    let mut findings = chain.findings.clone();
    let mut totals = RootTotals::default();
    let mut checked = Vec::new();
    // Windows with an error are neither counted nor covered, and are no gap beside it.
    let mut faulty: BTreeSet<Window> = expectations
        .findings
        .iter()
        .filter_map(|finding| finding.window)
        .collect();
    findings.extend(expectations.findings);
    for (expected, seen) in expectations.objects.iter().zip(seen) {
        let (method, size, wrong) = match seen {
            None => {
                let missing = Finding::new(FindingKind::ObjectMissing, expected.key.clone())
                    .with_window(expected.window);
                let stated = format!("{} bytes, by {}", expected.bytes, expected.stated_by);
                (CheckMethod::Nothing, 0, vec![missing.expected(stated)])
            }
            Some(Err(error)) => {
                let kind = match error {
                    StoreError::Archived { .. } => FindingKind::ObjectArchived,
                    _ => FindingKind::ObjectUnreadable,
                };
                let unreadable = Finding::new(kind, expected.key.clone()).with_window(expected.window);
                (CheckMethod::Nothing, 0, vec![unreadable.found(error.to_string())])
            }
            Some(Ok(seen)) => (seen.method, seen.bytes, evaluate(expected, seen, &index)),
        };
        let good = wrong.is_empty();
        totals.objects += 1;
        if good {
            totals.proved += 1;
            totals.bytes = totals.bytes.saturating_add(size);
            totals.decompressed = totals.decompressed.saturating_add(expected.decompressed);
        } else {
            faulty.insert(expected.window);
        }
        if !faulty.contains(&expected.window) {
            totals.windows += 1;
            totals.events = totals.events.saturating_add(expected.events);
        }
        checked.push(CheckedObject {
            key: expected.key.clone(),
            window: expected.window,
            method,
            bytes: size,
            proved: good,
        });
        findings.extend(wrong);
    }
    totals.empty = expectations.empty.difference(&faulty).count() as u64;
    totals.windows += totals.empty;
    let range = range_to_prove(options, chain, &expectations.covering);
    let short: HourSet = expectations.short.iter().map(|(window, _)| *window).collect();
    let covered: HourSet = expectations.covering.difference(&faulty).copied().collect();
    let covered = covered.difference(&short);
    let explained: HourSet = faulty.into_iter().collect();
    let unproved = expectations.uncounted.iter();
    let unproved: HourSet = unproved
        .filter(|(_, finding)| finding.kind == FindingKind::EventsUnproved)
        .map(|(window, _)| *window)
        .collect();
    let covered = covered.difference(&unproved);
    let explained = explained.union(&short).union(&unproved);
    findings.extend(range.gaps(contents, &covered, &explained));
    let short = expectations.short.into_iter();
    findings.extend(
        short
            .filter(|(window, _)| !range.accepted.contains(*window))
            .map(|(_, finding)| finding),
    );
    findings.extend(expectations.uncounted.into_iter().map(|(window, mut finding)| {
        if range.accepted.contains(window) {
            finding.kind = FindingKind::EventsUncounted;
        }
        finding
    }));
    findings.extend(build_remarks(
        contents,
        chain,
        &expectations.not_in_manifest,
        &expectations.sources,
        options.source(),
    ));
    let (space, scope) = contents.root.space_and_scope().unzip();
    RootReport {
        root: contents.root.as_str().to_owned(),
        space,
        scope,
        basis: range.basis,
        wanted: range.wanted.ranges(RUNS_MAX),
        missing: range.missing(&covered).ranges(RUNS_MAX),
        accepted: range.accepted.ranges(RUNS_MAX),
        totals,
        manifests: ManifestTotals {
            manifests: chain.manifests,
            valid: chain.valid,
            signatures: chain.signatures,
            verified: chain.verified,
            receipts_not_in_manifest: expectations.not_in_manifest.len() as u64,
        },
        sources: expectations.sources,
        objects: checked,
        findings,
    }
}

/// Returns the range that a root must cover.
pub fn range_to_prove(
    options: &VerifyOptions,
    chain: &ChainAudit,
    covering: &BTreeSet<Window>,
) -> ExpectedRange {
    let export = options.export.as_ref();
    let named: HourSet = covering.iter().copied().collect();
    let mut range = coverage::expected_range(export, options.now, chain, &named);
    let hour = coverage::hour_of_day(export, chain);
    range.assert_days((options.since, options.until), hour);
    range
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
    for (id, session, key) in &contents.sessions {
        remarks.push(
            Finding::new(FindingKind::SessionOpen, key.clone())
                .with_window(id.window)
                .found(format!("session {session}")),
        );
    }
    let differs = source.is_some_and(|source| sources.iter().any(|other| other != source));
    if sources.len() > 1 || differs {
        let all: Vec<&str> = sources.iter().map(String::as_str).collect();
        remarks.push(Finding::new(FindingKind::SeveralSources, contents.root.as_str()).found(all.join(", ")));
    }
    let foreign = contents.foreign.iter();
    remarks.extend(foreign.map(|listed| Finding::new(FindingKind::ForeignFile, listed.key.clone())));
    remarks
}
