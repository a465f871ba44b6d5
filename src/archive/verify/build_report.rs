//! Combination of the results for a root to its report. No I/O.

use std::collections::BTreeSet;

use super::archive::VerifyOptions;
use super::chain::ChainAudit;
use super::contents::RootContents;
use super::coverage;
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
    findings.extend(expectations.findings);
    let (mut checked, mut bytes, mut good) = (Vec::new(), 0u64, 0);
    for (expected, seen) in expectations.objects.iter().zip(seen) {
        let (method, size, wrong) = match seen {
            None => {
                let missing = Finding::new(FindingKind::ObjectMissing, expected.key.clone())
                    .with_window(expected.window);
                let stated = format!("{} bytes, by {}", expected.bytes, expected.stated_by);
                (CheckMethod::Nothing, 0, vec![missing.expected(stated)])
            }
            Some(Err(error)) => {
                let unreadable = Finding::new(FindingKind::ObjectUnreadable, expected.key.clone())
                    .with_window(expected.window);
                (CheckMethod::Nothing, 0, vec![unreadable.found(error.to_string())])
            }
            Some(Ok(seen)) => (seen.method, seen.bytes, evaluate(expected, seen, &index)),
        };
        bytes = bytes.saturating_add(size);
        good += u64::from(wrong.is_empty());
        checked.push(CheckedObject {
            key: expected.key.clone(),
            window: expected.window,
            method,
            bytes: size,
            good: wrong.is_empty(),
        });
        findings.extend(wrong);
    }
    let mut range =
        coverage::expected_range(options.export.as_ref(), options.now, chain, &expectations.covered);
    range.restrict(options.since, options.until);
    for finding in &mut findings {
        let accepted = finding
            .window
            .is_some_and(|window| range.accepted.contains(window));
        if finding.kind == FindingKind::EventsUnproved && accepted {
            finding.kind = FindingKind::EventsUncounted;
        }
    }
    findings.extend(range.gaps(contents, &expectations.covered, &expectations.explained));
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
        missing: range.missing(&expectations.covered).ranges(RUNS_MAX),
        accepted: range.accepted.ranges(RUNS_MAX),
        totals: RootTotals {
            windows: expectations.windows,
            empty: expectations.empty,
            objects: checked.len() as u64,
            good,
            events: expectations.events,
            bytes,
            decompressed: expectations
                .objects
                .iter()
                .fold(0, |sum, one| sum.saturating_add(one.decompressed)),
        },
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
