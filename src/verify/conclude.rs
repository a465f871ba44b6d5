//! From what was found of a root's objects to its report. No I/O.

use std::collections::BTreeSet;

use super::archive::Ask;
use super::chain::Chain;
use super::contents::Contents;
use super::coverage;
use super::finding::{Finding, Kind};
use super::judge::{Book, Means, Observation, judge};
use super::receipts::Expectations;
use super::report::{Checked, ManifestTotals, RootReport, Totals};
use crate::export::window::{Cells, Window};
use crate::storage::StoreError;

/// Merged runs that are reported of a range: 1,000; then how many more there are.
const RUNS_MAX: usize = 1000;

/// Everything about a root, judged.
pub fn conclude(
    ask: &Ask,
    contents: &Contents,
    chain: &Chain,
    expectations: Expectations,
    seen: &[Option<Result<Observation, StoreError>>],
) -> RootReport {
    let book = Book::of(&expectations.objects);
    let mut findings = chain.findings.clone();
    findings.extend(expectations.findings);
    let (mut checked, mut bytes, mut good) = (Vec::new(), 0u64, 0);
    for (expected, seen) in expectations.objects.iter().zip(seen) {
        let (means, size, wrong) = match seen {
            None => {
                let missing = Finding::new(Kind::ObjectMissing, expected.key.clone()).of(expected.window);
                let stated = format!("{} bytes, as {} says", expected.bytes, expected.by);
                (Means::Nothing, 0, vec![missing.expected(stated)])
            }
            Some(Err(error)) => {
                let unreadable =
                    Finding::new(Kind::ObjectUnreadable, expected.key.clone()).of(expected.window);
                (Means::Nothing, 0, vec![unreadable.found(error.to_string())])
            }
            Some(Ok(seen)) => (seen.means, seen.bytes, judge(expected, seen, &book)),
        };
        bytes = bytes.saturating_add(size);
        good += u64::from(wrong.is_empty());
        checked.push(Checked {
            key: expected.key.clone(),
            window: expected.window,
            means,
            bytes: size,
            good: wrong.is_empty(),
        });
        findings.extend(wrong);
    }
    let mut range = coverage::range(ask.export.as_ref(), ask.now, chain, &expectations.covered);
    range.restrict(ask.since, ask.until);
    findings.extend(range.gaps(contents, &expectations.covered, &expectations.explained));
    findings.extend(remarks(
        contents,
        chain,
        &expectations.not_in_manifest,
        &expectations.sources,
        ask.source(),
    ));
    let (space, scope) = contents.root.names().unzip();
    RootReport {
        root: contents.root.as_str().to_owned(),
        space,
        scope,
        basis: range.basis,
        wanted: range.wanted.ranges(RUNS_MAX),
        missing: range.missing(&expectations.covered).ranges(RUNS_MAX),
        accepted: range.accepted.ranges(RUNS_MAX),
        totals: Totals {
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
            sound: chain.sound,
            signatures: chain.signatures,
            verified: chain.verified,
            receipts_not_in_one: expectations.not_in_manifest.len() as u64,
        },
        sources: expectations.sources,
        objects: checked,
        findings,
    }
}

fn remarks(
    contents: &Contents,
    chain: &Chain,
    not_in_manifest: &BTreeSet<Window>,
    sources: &BTreeSet<String>,
    source: Option<&str>,
) -> Vec<Finding> {
    let mut remarks = Vec::new();
    if !not_in_manifest.is_empty() {
        let how = if chain.manifests == 0 {
            "there is no manifest yet".to_owned()
        } else {
            let cells: Cells = not_in_manifest.iter().copied().collect();
            cells.ranges(8).join(", ")
        };
        remarks.push(Finding::new(Kind::NotInManifest, contents.root.as_str()).found(how));
    }
    for (id, session, key) in &contents.sessions {
        remarks.push(
            Finding::new(Kind::SessionOpen, key.clone())
                .of(id.window)
                .found(format!("session {session}")),
        );
    }
    let others = source.is_some_and(|source| sources.iter().any(|other| other != source));
    if sources.len() > 1 || others {
        let all: Vec<&str> = sources.iter().map(String::as_str).collect();
        remarks.push(Finding::new(Kind::SeveralSources, contents.root.as_str()).found(all.join(", ")));
    }
    let foreign = contents.foreign.iter();
    remarks.extend(foreign.map(|listed| Finding::new(Kind::ForeignFile, listed.key.clone())));
    remarks
}
