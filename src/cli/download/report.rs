//! Report of a download, as text and as JSON. No I/O.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::evaluate::SessionEvaluation;
use super::part_state::CompletedSession;
use super::request::format_days;
use crate::archive::counts::Verdict;
use crate::cli::human;

/// Schema version of the document.
pub const SCHEMA: &str = "eventexport.io/download/v2";

/// Maximum number of sessions in the text; the rest are counted. The document has all.
const NAMED_MAX: usize = 20;

/// Result of a download.
#[derive(Debug)]
pub struct DownloadReport {
    /// Output file; `None`: standard output.
    pub file: Option<PathBuf>,
    /// True if the output is decompressed.
    pub decompressed: bool,
    /// Completed sessions and their evaluation.
    pub sessions: Vec<(CompletedSession, SessionEvaluation)>,
    /// SHA-256 of all compressed bytes, if there are any.
    pub sha256: Option<String>,
    /// Bytes that an earlier run downloaded.
    pub resumed_bytes: u64,
    /// Reasons not to regard the download as complete.
    pub warnings: Vec<String>,
    /// IDs of the sessions that the download opened and that are still open, and why.
    pub leftover_sessions: Vec<(String, String)>,
    /// True if these sessions stay open on request.
    pub sessions_kept: bool,
    /// Error with its remedy, if the download failed.
    pub failure: Option<String>,
}

impl DownloadReport {
    /// True if the exit code is 0.
    pub fn succeeded(&self) -> bool {
        self.failure.is_none()
            && self.warnings.is_empty()
            && (self.leftover_sessions.is_empty() || self.sessions_kept)
    }

    /// Returns the JSON document.
    pub fn document(&self) -> Value {
        let sessions: Vec<Value> = self.sessions.iter().map(session_json).collect();
        let leftover_sessions: Vec<Value> = self
            .leftover_sessions
            .iter()
            .map(|(id, reason)| json!({"session": id, "reason": reason}))
            .collect();
        let mut document = json!({
            "schema": SCHEMA,
            "exitCode": u8::from(!self.succeeded()),
            "file": self.file.as_ref().map(|file| file.display().to_string()),
            "decompressed": self.decompressed,
            "complete": self.failure.is_none(),
            "bytes": self.sum(|section| section.bytes),
            "bytesOfEarlierRuns": self.resumed_bytes,
            "sha256": self.sha256,
            "members": self.sum(|section| section.members),
            "decompressedBytes": self.sum(|section| section.decompressed),
            "events": self.sum(|section| section.events),
            "sessions": sessions,
            "warnings": self.warnings,
            "sessionsLeft": leftover_sessions,
        });
        if let (Some(message), Some(object)) = (&self.failure, document.as_object_mut()) {
            object.insert("error".to_owned(), json!({"message": message, "exitCode": 1}));
        }
        document
    }

    /// Returns the text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if self.failure.is_none() {
            self.write_complete(&mut text);
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "Not complete: {warning}.");
        }
        for (id, why) in &self.leftover_sessions {
            let _ = if self.sessions_kept {
                writeln!(
                    text,
                    "Session {id} is still open ({why}). Delete it with `eventexport session delete {id}`."
                )
            } else {
                writeln!(
                    text,
                    "Cannot delete session {id}: {why}. It counts toward the 30 open sessions of the space; delete it with `eventexport session delete {id}`."
                )
            };
        }
        text
    }

    fn write_complete(&self, text: &mut String) {
        let destination = self
            .file
            .as_ref()
            .map_or_else(|| "Standard output".to_owned(), |file| file.display().to_string());
        let bytes = self.sum(|section| section.bytes);
        let _ = writeln!(
            text,
            "{destination}: {}, {} ({} bytes){}, complete",
            human::plural(self.sum(|section| section.events), "event"),
            human::bytes(bytes),
            human::count(bytes),
            if self.decompressed {
                format!(
                    ", decompressed {}",
                    human::bytes(self.sum(|section| section.decompressed))
                )
            } else {
                String::new()
            }
        );
        if let Some(sha256) = &self.sha256 {
            let subject = if self.decompressed { " of the gzip" } else { "" };
            let _ = writeln!(text, "SHA-256{subject}: {sha256}");
        }
        for (section, evaluation) in self.sessions.iter().take(NAMED_MAX) {
            let name = section.range.map_or_else(
                || format!("session {}", section.session),
                |(start, end)| format_days(start, end, section.hour),
            );
            let _ = writeln!(
                text,
                "{name}: {}, {}",
                human::plural(section.events, "event"),
                verdict_text(evaluation)
            );
        }
        let more = self.sessions.len().saturating_sub(NAMED_MAX);
        if more > 0 {
            let _ = writeln!(text, "… and {} more.", human::plural(more as u64, "session"));
        }
    }

    fn sum(&self, value: impl Fn(&CompletedSession) -> u64) -> u64 {
        self.sessions.iter().map(|(section, _)| value(section)).sum()
    }
}

fn verdict_text(evaluation: &SessionEvaluation) -> String {
    let reported = match evaluation.reported {
        (Some(before), Some(after)) if before != after => {
            format!(
                "{} before and {} after",
                human::count(before),
                human::count(after)
            )
        }
        (Some(count), _) | (None, Some(count)) => human::count(count),
        (None, None) => String::new(),
    };
    match evaluation.verdict {
        Verdict::Matched => format!("Matched: the service reports {reported}"),
        Verdict::Over => {
            format!("Over: the service reports {reported} (its listing is delayed, or events were added)")
        }
        Verdict::Short => format!("Short: the service reports {reported}"),
        Verdict::Empty => "Empty: the listing of the service shows that there are no events".to_owned(),
        Verdict::Unknown => "Unknown: the service reports no count".to_owned(),
        Verdict::Uncounted if reported.is_empty() => {
            "Uncounted: the rest of the content could not be counted".to_owned()
        }
        Verdict::Uncounted => {
            format!("Uncounted: the rest of the content could not be counted, the service reports {reported}")
        }
    }
}

fn session_json((section, evaluation): &(CompletedSession, SessionEvaluation)) -> Value {
    let CompletedSession {
        session,
        range,
        hour,
        bytes,
        events,
        uncounted,
        members,
        decompressed,
        end,
        resumes,
        empty: _,
        readable: _,
    } = section;
    json!({
        "session": session,
        "start": range.map(|(start, _)| start),
        "end": range.map(|(_, end)| end),
        "hour": hour,
        "bytes": bytes,
        "events": events,
        "uncounted": uncounted,
        "members": members,
        "decompressedBytes": decompressed,
        "transferEnd": end,
        "resumes": resumes,
        "reportedBefore": evaluation.reported.0,
        "reportedAfter": evaluation.reported.1,
        "verdict": format!("{:?}", evaluation.verdict),
    })
}
