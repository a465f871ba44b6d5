//! Text report of a verification: problems, then remarks, then a summary of each root. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::human;
use crate::api::escape;
use crate::archive::finding::Finding;
use crate::archive::range::format_ranges;
use crate::archive::verify::observation::CheckMethod;
use crate::archive::verify::report::{RootReport, VerifyReport, describe_checks};

/// Maximum number of problems in the report: 40.
const PROBLEMS_SHOWN: usize = 40;
/// Maximum number of remarks in the report: 10.
const REMARKS_SHOWN: usize = 10;
/// Maximum number of ranges on a line: 8.
const RANGES_SHOWN: usize = 8;

/// Returns the report of one archive.
pub fn render(name: &str, report: &VerifyReport, quick: bool, quiet: bool) -> String {
    let all = report.all();
    let (wrong, remarks): (Vec<&Finding>, Vec<&Finding>) =
        all.into_iter().partition(|finding| finding.kind.is_error());
    let mut text = String::new();
    write_findings(&mut text, &wrong, PROBLEMS_SHOWN);
    if !quiet {
        if !remarks.is_empty() {
            text.push_str("Remarks:\n");
            write_findings(&mut text, &remarks, REMARKS_SHOWN);
        }
        for root in &report.roots {
            write_summary(&mut text, root, quick);
        }
        if quick && !report.roots.is_empty() {
            text.push_str(
                "--quick compared the metadata of the store with the receipts. It cannot prove that the data is \
                 readable, is complete gzip,\nor holds the stated number of events: without --quick every byte is \
                 read.\n",
            );
        }
    }
    let verdict = if wrong.is_empty() {
        let events = report.roots.iter().map(|root| root.totals.events).sum();
        let windows: u64 = report.roots.iter().map(|root| root.totals.windows).sum();
        format!(
            "{}: {}: {} with {}{}",
            if quick { "No problems found" } else { "Proved" },
            asserted_ranges(report),
            human::plural(windows, "window"),
            human::plural(events, "event"),
            limits(report, quick)
        )
    } else if report.is_unchecked() {
        format!(
            "NOT CHECKED: {} could not be read",
            human::plural(wrong.len() as u64, "object")
        )
    } else {
        format!("NOT PROVED: {}", human::plural(wrong.len() as u64, "problem"))
    };
    let _ = writeln!(text, "{name}: {verdict}");
    text
}

/// Returns what a verification without problems did not check.
fn limits(report: &VerifyReport, quick: bool) -> String {
    let mut text = String::new();
    if quick {
        let mut methods: BTreeMap<CheckMethod, u64> = BTreeMap::new();
        for (method, count) in report.roots.iter().flat_map(RootReport::check_methods) {
            *methods.entry(method).or_default() += count;
        }
        let _ = write!(
            text,
            "; no event was read, objects were checked: {}",
            describe_checks(&methods)
        );
    }
    if report.roots.iter().any(|root| root.attested.is_none()) {
        text.push_str("; signatures not checked (no --public-key)");
    }
    let attested = report.roots.iter().filter_map(|root| root.attested);
    let unsigned: u64 = attested.map(|attested| attested.receipts_alone).sum();
    if unsigned > 0 {
        let _ = write!(
            text,
            "; {} without a signature",
            human::plural(unsigned, "window")
        );
    }
    text
}

/// Returns the range of each root, each different one once, with its accepted gaps.
fn asserted_ranges(report: &VerifyReport) -> String {
    let ranges: BTreeSet<String> = report
        .roots
        .iter()
        .filter(|root| !root.wanted.is_empty())
        .map(|root| {
            let range = format_ranges(&root.wanted, RANGES_SHOWN);
            if root.accepted.is_empty() {
                range
            } else {
                format!(
                    "{range} (except accepted gaps {})",
                    format_ranges(&root.accepted, RANGES_SHOWN)
                )
            }
        })
        .collect();
    let more = ranges.len().saturating_sub(RANGES_SHOWN);
    let mut text = ranges
        .into_iter()
        .take(RANGES_SHOWN)
        .collect::<Vec<_>>()
        .join("; ");
    if more > 0 {
        let _ = write!(text, "; and {}", human::plural(more as u64, "other range"));
    }
    text
}

fn write_findings(text: &mut String, findings: &[&Finding], shown: usize) {
    for finding in findings.iter().take(shown) {
        let _ = writeln!(text, "{}  {}", finding.kind.as_str(), escape(&finding.key));
        for (label, value) in [
            ("expected", finding.expected.as_deref()),
            ("found", finding.found.as_deref()),
            ("means", Some(finding.kind.explanation())),
        ] {
            if let Some(value) = value {
                let _ = writeln!(text, "  {label:9} {}", escape(value));
            }
        }
    }
    let more = findings.len().saturating_sub(shown);
    if more > 0 {
        let _ = writeln!(
            text,
            "… and {} more: use --output json to list all",
            human::count(more as u64)
        );
    }
    if !findings.is_empty() {
        text.push('\n');
    }
}

fn write_summary(text: &mut String, root: &RootReport, quick: bool) {
    let _ = writeln!(
        text,
        "{}",
        if root.root.is_empty() {
            "(the root itself)".into()
        } else {
            escape(&root.root)
        }
    );
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "  {label:13} {}", escape(&value));
    };
    let sources: Vec<&str> = root.sources.iter().map(String::as_str).collect();
    if !sources.is_empty() {
        line("source", sources.join(", "));
    }
    line(
        "range",
        format!(
            "{} ({})",
            format_ranges(&root.wanted, RANGES_SHOWN),
            root.basis.description()
        ),
    );
    if !root.missing.is_empty() {
        line("missing", format_ranges(&root.missing, RANGES_SHOWN));
    }
    if !root.accepted.is_empty() {
        line("accepted gaps", format_ranges(&root.accepted, RANGES_SHOWN));
    }
    let totals = root.totals;
    line(
        "windows",
        format!(
            "{}, {} of them proved empty; {}",
            human::count(totals.windows),
            human::count(totals.empty),
            human::plural(totals.events, "event")
        ),
    );
    line(
        "objects",
        format!(
            "{} of {} intact: {}, {} decompressed",
            human::count(totals.proved),
            human::count(totals.objects),
            human::bytes(totals.bytes),
            human::bytes(totals.decompressed)
        ),
    );
    if quick {
        line("checked", root.describe_checks());
    }
    line("manifests", root.manifests.describe());
    line("attested", root.describe_attestation());
    if let Some(head) = &root.manifests.head {
        line(
            "head",
            format!("{head} (write it down, and pass it with --head next time)"),
        );
    }
    text.push('\n');
}
