//! Tables of a campaign's results. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::invariants::INVARIANTS;
use super::{InjectedFault, RequestKey};

/// Results of one fault at one kind of request.
#[derive(Clone, Copy, Default)]
struct CellCounts {
    tried: usize,
    /// Cases with a violated invariant.
    broken: usize,
    /// Cases without the request, so that nothing was injected.
    missed: usize,
    not_applicable: usize,
}

/// Results of a campaign.
#[derive(Default)]
pub(crate) struct CampaignReport {
    cells: BTreeMap<(String, String), CellCounts>,
    violations: BTreeMap<&'static str, usize>,
    /// Reasons that faults do not apply, with counts.
    reasons: BTreeMap<&'static str, usize>,
}

/// Column of pairs.
const PAIRS: &str = "pairs";

impl CampaignReport {
    fn cell(&mut self, kind: &str, fault: &str) -> &mut CellCounts {
        self.cells.entry((kind.to_owned(), fault.to_owned())).or_default()
    }

    pub(crate) fn not_applicable(&mut self, fault: InjectedFault, request: &RequestKey, why: &'static str) {
        let kind = format!("{}: {}", request.peer, request.row_label());
        self.cell(&kind, &fault.to_string()).not_applicable += 1;
        *self.reasons.entry(why).or_default() += 1;
    }

    /// Records a case: whether all faults were injected, and the violated invariants.
    pub(crate) fn record_case(
        &mut self,
        kind: &str,
        faults: &[InjectedFault],
        all_struck: bool,
        broken: &[&'static str],
    ) {
        let fault = match faults {
            [fault] => fault.to_string(),
            _ => PAIRS.to_owned(),
        };
        let cell = self.cell(kind, &fault);
        if all_struck {
            cell.tried += 1;
        } else {
            cell.missed += 1;
        }
        cell.broken += usize::from(!broken.is_empty());
        for invariant in broken {
            *self.violations.entry(invariant).or_default() += 1;
        }
    }

    fn sum(&self, of: impl Fn(&CellCounts) -> usize) -> usize {
        self.cells.values().map(of).sum()
    }

    /// True if no case violates an invariant.
    pub(crate) fn is_clean(&self) -> bool {
        self.sum(|cell| cell.broken) == 0
    }

    /// True if at most one case in ten missed its request. More would mean that the faults come too late.
    pub(crate) fn hits_its_requests(&self) -> bool {
        let missed = self.sum(|cell| cell.missed);
        missed * 10 <= self.sum(|cell| cell.tried) + missed
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Formats the totals in one line.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} run, {} missed their request, {} not applicable, {} violate an invariant",
            self.sum(|cell| cell.tried),
            self.sum(|cell| cell.missed),
            self.sum(|cell| cell.not_applicable),
            self.sum(|cell| cell.broken)
        )
    }

    /// Formats the tables as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let kinds: BTreeSet<&String> = self.cells.keys().map(|(kind, _)| kind).collect();
        let used: BTreeSet<&String> = self.cells.keys().map(|(_, fault)| fault).collect();
        let columns: Vec<String> = InjectedFault::all()
            .iter()
            .map(InjectedFault::to_string)
            .chain([PAIRS.to_owned()])
            .filter(|fault| used.contains(fault))
            .collect();
        let mut text = String::from("| request |");
        for column in &columns {
            let _ = write!(text, " {column} |");
        }
        let _ = write!(text, "\n|---|{}\n", "---|".repeat(columns.len()));
        for kind in kinds {
            let _ = write!(text, "| {kind} |");
            for column in &columns {
                let cell = self.cells.get(&(kind.clone(), column.clone()));
                let _ = write!(text, " {} |", cell.map(cell_text).unwrap_or_default());
            }
            text.push('\n');
        }
        text.push_str("\n| promise | cases that broke it |\n|---|---|\n");
        for invariant in &INVARIANTS {
            let times = self.violations.get(invariant.name).copied().unwrap_or_default();
            let _ = writeln!(text, "| {} | {times} |", invariant.name);
        }
        if !self.reasons.is_empty() {
            text.push_str("\n| why a fault makes no sense | cases |\n|---|---|\n");
            for (why, times) in &self.reasons {
                let _ = writeln!(text, "| {why} | {times} |");
            }
        }
        text
    }
}

/// `3` run; `3 (1 broke)`; `+2 missed`; `–` if it does not apply.
fn cell_text(cell: &CellCounts) -> String {
    let mut parts = Vec::new();
    if cell.tried > 0 {
        parts.push(cell.tried.to_string());
    }
    if cell.broken > 0 {
        parts.push(format!("**{} broke**", cell.broken));
    }
    if cell.missed > 0 {
        parts.push(format!("{} missed", cell.missed));
    }
    if cell.not_applicable > 0 {
        parts.push("–".to_owned());
    }
    parts.join(", ")
}
