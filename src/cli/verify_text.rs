//! A verification in words: what is wrong first, then remarks, then a summary of each root. No I/O.

use std::fmt::Write as _;

use super::size;
use crate::api::visible;
use crate::verify::finding::Finding;
use crate::verify::judge::Means;
use crate::verify::report::{Report, RootReport};

/// Things that are wrong that are shown: 40.
const WRONG_SHOWN: usize = 40;
/// Remarks that are shown: 10.
const REMARKS_SHOWN: usize = 10;
/// Runs of a range that are shown: 8.
const RUNS_SHOWN: usize = 8;

/// The report of one archive.
pub fn text(name: &str, report: &Report, quick: bool, quiet: bool) -> String {
    let all = report.all();
    let (wrong, remarks): (Vec<&Finding>, Vec<&Finding>) =
        all.into_iter().partition(|finding| finding.kind.is_wrong());
    let mut text = String::new();
    findings(&mut text, &wrong, WRONG_SHOWN);
    if !quiet {
        if !remarks.is_empty() {
            text.push_str("Remarks:\n");
            findings(&mut text, &remarks, REMARKS_SHOWN);
        }
        for root in &report.roots {
            summary(&mut text, root, quick);
        }
        if quick && !report.roots.is_empty() {
            text.push_str(
                "--quick compared what the store says of its objects with what the receipts say. It cannot tell whether \
                 the data can still be read,\nis whole gzip, or holds as many events as stated: without --quick every \
                 byte is read.\n",
            );
        }
    }
    let verdict = if report.roots.is_empty() {
        "NOT PROVED: there is no archive here (no receipts, objects or manifests): check the bucket, prefix or directory"
            .to_owned()
    } else if wrong.is_empty() {
        let events = report.roots.iter().map(|root| root.totals.events).sum();
        let windows: u64 = report.roots.iter().map(|root| root.totals.windows).sum();
        format!(
            "{}: {} with {}",
            if quick { "Nothing found wrong" } else { "Proved" },
            size::of(windows, "window"),
            size::of(events, "event")
        )
    } else {
        let are = if wrong.len() == 1 {
            "thing is"
        } else {
            "things are"
        };
        format!("NOT PROVED: {} {are} wrong", size::count(wrong.len() as u64))
    };
    let _ = writeln!(text, "{name}: {verdict}");
    text
}

fn findings(text: &mut String, findings: &[&Finding], shown: usize) {
    for finding in findings.iter().take(shown) {
        let _ = writeln!(text, "{}  {}", finding.kind.as_str(), visible(&finding.key));
        for (label, words) in [
            ("expected", finding.expected.as_deref()),
            ("found", finding.found.as_deref()),
            ("means", Some(finding.kind.means())),
        ] {
            if let Some(words) = words {
                let _ = writeln!(text, "  {label:9} {}", visible(words));
            }
        }
    }
    let more = findings.len().saturating_sub(shown);
    if more > 0 {
        let _ = writeln!(
            text,
            "… and {} more: --output json has all",
            size::count(more as u64)
        );
    }
    if !findings.is_empty() {
        text.push('\n');
    }
}

fn summary(text: &mut String, root: &RootReport, quick: bool) {
    let _ = writeln!(
        text,
        "{}",
        if root.root.is_empty() {
            "(the root itself)".into()
        } else {
            visible(&root.root)
        }
    );
    let mut line = |label: &str, words: String| {
        let _ = writeln!(text, "  {label:13} {}", visible(&words));
    };
    let sources: Vec<&str> = root.sources.iter().map(String::as_str).collect();
    if !sources.is_empty() {
        line("source", sources.join(", "));
    }
    line(
        "range",
        format!("{} ({})", runs(&root.wanted), root.basis.words()),
    );
    if !root.missing.is_empty() {
        line("missing", runs(&root.missing));
    }
    if !root.accepted.is_empty() {
        line("accepted gaps", runs(&root.accepted));
    }
    let totals = root.totals;
    line(
        "windows",
        format!(
            "{}, {} of them proved empty; {}",
            size::count(totals.windows),
            size::count(totals.empty),
            size::of(totals.events, "event")
        ),
    );
    line(
        "objects",
        format!(
            "{} of {} as they were stored: {}, {} decompressed",
            size::count(totals.good),
            size::count(totals.objects),
            size::bytes(totals.bytes),
            size::bytes(totals.decompressed)
        ),
    );
    let means: Vec<String> = root
        .means()
        .into_iter()
        .map(|(means, count)| format!("{} {}", size::count(count), by(means)))
        .collect();
    if quick && !means.is_empty() {
        line("checked", means.join(", "));
    }
    let chain = root.manifests;
    line(
        "manifests",
        if chain.manifests == 0 {
            "none".to_owned()
        } else {
            let verified = match (chain.signatures, chain.verified) {
                (0, _) => "not signed".to_owned(),
                (all, 0) => format!("{}, not verified", size::of(all, "signature")),
                (all, verified) => format!(
                    "{} of {} verified",
                    size::count(verified),
                    size::of(all, "signature")
                ),
            };
            format!(
                "{} of {} sound, {verified}",
                size::count(chain.sound),
                size::count(chain.manifests)
            )
        },
    );
    text.push('\n');
}

const fn by(means: Means) -> &'static str {
    match means {
        Means::Data => "by every byte",
        Means::StoredSha256 => "by size and the SHA-256 that the store holds",
        Means::StoredCrc64 => "by size and the CRC-64/NVME that the store holds",
        Means::Size => "by size alone, as the store holds no checksum",
        Means::Nothing => "not at all",
    }
}

fn runs(runs: &[String]) -> String {
    if runs.is_empty() {
        return "nothing".to_owned();
    }
    let more = runs.len().saturating_sub(RUNS_SHOWN);
    let mut shown: Vec<&str> = runs.iter().take(RUNS_SHOWN).map(String::as_str).collect();
    let rest = format!("and {more} more");
    if more > 0 {
        shown.push(&rest);
    }
    shown.join(", ")
}
