//! JSON form of a report. No I/O.

use serde_json::{Value, json};

use super::{Gap, Report, Section};
use crate::archive::calendar::CalendarDay;
use crate::archive::finding::Finding;
use crate::archive::manifest::Head;
use crate::archive::verify::attestation::AttestationTotals;
use crate::archive::verify::report::ManifestRow;

/// Returns the JSON object of a report.
pub fn render(report: &Report) -> Value {
    let findings = |findings: &[Finding]| findings.iter().map(Finding::json).collect::<Vec<_>>();
    json!({
        "location": report.given.location,
        "export": report.given.export,
        "passed": report.passed,
        "givenKeyIds": report.given.key_ids,
        "givenHeads": report.given.heads.iter().map(Head::to_string).collect::<Vec<_>>(),
        "problems": findings(&report.problems),
        "remarks": findings(&report.remarks),
        "roots": report.sections.iter().map(|section| section_json(report, section)).collect::<Vec<_>>(),
    })
}

fn section_json(report: &Report, section: &Section) -> Value {
    let root = &section.verified;
    let marks = section.totals.marks.iter();
    let marks: serde_json::Map<String, Value> = marks
        .map(|(mark, number)| (mark.as_str().to_owned(), (*number).into()))
        .collect();
    json!({
        "root": root.root,
        "space": root.space,
        "scope": root.scope,
        "sources": root.sources,
        "range": {"from": root.basis.as_str(), "wanted": root.wanted},
        "newestRecordAt": root.newest,
        "totals": {
            "days": marks,
            "events": section.totals.events,
            "lateEvents": section.totals.late_events,
            "bytes": section.totals.bytes,
        },
        "days": root.calendar.days.iter().map(day_json).collect::<Vec<_>>(),
        "daysOmitted": root.calendar.omitted,
        "gaps": section.gaps.iter().map(gap_json).collect::<Vec<_>>(),
        "manifests": root.chain.iter().map(manifest_json).collect::<Vec<_>>(),
        "head": root.manifests.head.as_ref().map(Head::to_string),
        "attested": root.attested.map(AttestationTotals::json),
        "checkedBy": root.check_methods_json(),
        "commands": report.commands(section),
    })
}

fn day_json(day: &CalendarDay) -> Value {
    json!({
        "window": day.window.to_string(),
        "state": day.state_name(),
        "mark": day.mark().as_str(),
        "hours": day.hours,
        "events": day.events,
        "reported": day.reported,
        "lateEvents": day.late_events,
    })
}

fn gap_json(gap: &Gap) -> Value {
    json!({"start": gap.start, "end": gap.end, "state": gap.state, "reason": gap.reason})
}

fn manifest_json(row: &ManifestRow) -> Value {
    let statement = row.statement.as_ref();
    json!({
        "sequence": row.sequence,
        "sha256": row.sha256,
        "valid": row.valid,
        "signature": row.signature.as_str(),
        "keyId": statement.and_then(|statement| statement.key_id.as_ref()),
        "period": statement.map(|statement| statement.period),
        "events": statement.map(|statement| statement.events),
        "writtenAt": statement.map(|statement| statement.written_at),
    })
}
