//! Report of a download, as text and as JSON. No I/O.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::part_state::CompletedSession;
use super::request::format_days;
use crate::archive::counts::days::{DaysVerdict, Doubt};
use crate::archive::counts::{EmptyVerdict, Shortfall, Verdict, latest_count};
use crate::archive::records::UncountedRecord;
use crate::cli::human;
use crate::pipeline::prover::GzipStats;

/// Schema version of the document.
pub const SCHEMA: &str = "eventexport.io/download/v2";

/// Maximum number of sessions in the text; the rest are counted. The document has all.
const NAMED_MAX: usize = 20;

/// Maximum number of doubtful days of a session that are named; the rest are counted.
const NAMED_DAYS_MAX: usize = 5;

/// Result of a download.
#[derive(Debug)]
pub struct DownloadReport {
    /// Output file; `None`: standard output.
    pub file: Option<PathBuf>,
    /// True if the output is decompressed.
    pub decompressed: bool,
    /// Completed sessions.
    pub sessions: Vec<SessionReport>,
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

/// Completed session, what its proof shows, and the verdict on its events.
#[derive(Debug)]
pub struct SessionReport {
    /// The session.
    pub session: CompletedSession,
    /// Contents of its gzip.
    pub stats: GzipStats,
    /// Verdict on its events.
    pub verdict: DaysVerdict,
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
            "complete": self.failure.is_none() && self.warnings.is_empty(),
            "bytes": self.sum(|report| report.session.bytes),
            "bytesOfEarlierRuns": self.resumed_bytes,
            "sha256": self.sha256,
            "members": self.sum(|report| report.stats.members),
            "decompressedBytes": self.sum(|report| report.stats.decompressed),
            "events": self.sum(|report| report.stats.events.events),
            "sessions": self.sessions.iter().map(SessionReport::document).collect::<Vec<_>>(),
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
        text.push_str(&self.leftover_text());
        text
    }

    /// Returns a line for each session that is still open.
    pub fn leftover_text(&self) -> String {
        let mut text = String::new();
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
        let file = self.file.as_ref().map(|file| file.display().to_string());
        let (bytes, events) = (
            self.sum(|report| report.session.bytes),
            self.sum(|report| report.stats.events.events),
        );
        let decompressed = human::bytes(self.sum(|report| report.stats.decompressed));
        let (decompressed, subject) = if self.decompressed {
            (format!(", decompressed {decompressed}"), " of the gzip")
        } else {
            (String::new(), "")
        };
        let _ = writeln!(
            text,
            "{}: {}, {} ({} bytes){decompressed}{}",
            file.as_deref().unwrap_or("Standard output"),
            human::plural(events, "event"),
            human::bytes(bytes),
            human::count(bytes),
            if self.warnings.is_empty() {
                ", complete"
            } else {
                ""
            },
        );
        if let Some(sha256) = &self.sha256 {
            let _ = writeln!(text, "SHA-256{subject}: {sha256}");
        }
        for report in self.sessions.iter().take(NAMED_MAX) {
            let name = report
                .days()
                .unwrap_or(format!("session {}", report.session.session));
            let events = human::plural(report.stats.events.events, "event");
            let _ = writeln!(text, "{name}: {events}, {}", verdict_text(&report.verdict));
        }
        let more = self.sessions.len().saturating_sub(NAMED_MAX);
        if more > 0 {
            let _ = writeln!(text, "… and {} more.", human::plural(more as u64, "session"));
        }
    }

    fn sum(&self, value: impl Fn(&SessionReport) -> u64) -> u64 {
        self.sessions.iter().map(value).sum()
    }
}

impl SessionReport {
    fn days(&self) -> Option<String> {
        let (start, end) = self.session.range?;
        Some(format_days(start, end, self.session.hour))
    }

    fn uncounted(&self) -> Option<UncountedRecord> {
        self.stats.events.uncounted.map(Into::into)
    }

    fn document(&self) -> Value {
        let CompletedSession {
            session,
            range,
            hour,
            bytes,
            end,
            resumes,
            readable: _,
        } = &self.session;
        json!({
            "session": session,
            "start": range.map(|(start, _)| start),
            "end": range.map(|(_, end)| end),
            "hour": hour,
            "bytes": bytes,
            "events": self.stats.events.events,
            "uncounted": self.uncounted(),
            "members": self.stats.members,
            "decompressedBytes": self.stats.decompressed,
            "transferEnd": end,
            "resumes": resumes,
            "reportedBefore": self.verdict.reported.0,
            "reportedAfter": self.verdict.reported.1,
            "verdict": format!("{:?}", self.verdict.verdict),
        })
    }

    /// Returns the reasons not to regard the session as complete.
    pub fn warnings(&self) -> Vec<String> {
        let is_day = |doubt: &&Doubt| matches!(doubt, Doubt::Day(..));
        let doubts = &self.verdict.doubts;
        let days = doubts.iter().filter(is_day).take(NAMED_DAYS_MAX);
        let others = doubts.iter().filter(|doubt| !is_day(doubt));
        let mut warnings: Vec<String> = others.chain(days).map(|doubt| self.doubt_text(doubt)).collect();
        let more = doubts
            .iter()
            .filter(is_day)
            .count()
            .saturating_sub(NAMED_DAYS_MAX);
        if more > 0 {
            let days = human::plural(more as u64, "further day");
            warnings.push(format!("the same for {days}"));
        }
        warnings
    }

    fn doubt_text(&self, doubt: &Doubt) -> String {
        let name = self.days().map_or_else(String::new, |days| format!("{days}: "));
        let events = human::plural(self.stats.events.events, "event");
        let none = |day| format!("{day}: received no events, and");
        match doubt {
            Doubt::Events(Shortfall::Short { reported }) => format!(
                "{name}received {events}, but the service reports {}",
                human::count(*reported)
            ),
            Doubt::Events(Shortfall::Uncounted { reported }) => {
                let place = self
                    .uncounted()
                    .map_or_else(String::new, |place| place.to_string());
                let reported = reported.map_or("no count".to_owned(), human::count);
                format!(
                    "{name}only {events} could be counted ({place} of the decompressed data), and the service reports {reported}"
                )
            }
            Doubt::Events(Shortfall::EndUnconfirmed) => format!(
                "{name}the connection closed without an end marker, and neither another request nor the reported count confirms that the data is complete"
            ),
            Doubt::NoDays => {
                "received no events, and the service does not report the days of the session".to_owned()
            }
            Doubt::Day(day, EmptyVerdict::Short(reported)) => format!(
                "{day}: received no events, but the service reports {}",
                human::plural(*reported, "event")
            ),
            Doubt::Day(
                day,
                EmptyVerdict::ShortOfDay {
                    other_hours,
                    reported,
                },
            ) => format!(
                "{} the other hours have {other_hours} of the {reported} events that the service reports",
                none(day)
            ),
            Doubt::Day(day, EmptyVerdict::BeforeOldest(oldest)) => format!(
                "{day}: the service lists no day before {oldest}, so the events of this day may have expired"
            ),
            Doubt::Day(day, EmptyVerdict::Unproved(why)) => {
                format!("{} nothing proves that there were none: {why}", none(day))
            }
            Doubt::Day(day, EmptyVerdict::Proved) => format!("{day}: no events"),
        }
    }
}

fn verdict_text(verdict: &DaysVerdict) -> String {
    let (before, after) = verdict.reported;
    let reported = match (
        before.zip(after).filter(|(before, after)| before != after),
        latest_count(before, after),
    ) {
        (Some((before, after)), _) => {
            format!(
                "{} before and {} after",
                human::count(before),
                human::count(after)
            )
        }
        (None, Some(count)) => human::count(count),
        (None, None) => String::new(),
    };
    match verdict.verdict {
        Verdict::Matched => format!("Matched: the service reports {reported}"),
        Verdict::Over => {
            format!("Over: the service reports {reported} (its listing is delayed, or events were added)")
        }
        Verdict::Short => format!("Short: the service reports {reported}"),
        Verdict::Empty => "Empty: the listing of the service shows that there are no events".to_owned(),
        Verdict::Unknown => "Unknown: the service reports no count of at least one day".to_owned(),
        Verdict::Uncounted if reported.is_empty() => {
            "Uncounted: the rest of the content could not be counted".to_owned()
        }
        Verdict::Uncounted => {
            format!("Uncounted: the rest of the content could not be counted, the service reports {reported}")
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::pipeline::events::{EventCount, Uncounted, UncountedReason};
    use crate::tracker::TransferEnd;

    fn warnings(count: EventCount, doubts: Vec<Doubt>) -> String {
        let day = |day| date(2018, 6, day);
        let report = SessionReport {
            session: CompletedSession {
                session: "s".to_owned(),
                range: Some((day(1), day(9))),
                hour: None,
                bytes: 1,
                end: TransferEnd::Length,
                resumes: 0,
                readable: true,
            },
            stats: GzipStats {
                members: 1,
                decompressed: 1,
                events: count,
            },
            verdict: DaysVerdict {
                verdict: Verdict::Unknown,
                reported: (None, None),
                doubts,
            },
        };
        report.warnings().join("\n")
    }

    #[test]
    fn doubts_are_named_up_to_a_limit() {
        let gone = |day| Doubt::Day(date(2018, 6, day), EmptyVerdict::BeforeOldest(date(2018, 6, 20)));
        let text = warnings(EventCount::default(), (1..=9).map(gone).collect());
        assert!(
            text.contains("2018-06-05: ")
                && text.ends_with("the same for 4 further days")
                && !text.contains("2018-06-06"),
            "{text}"
        );
        let partial = EventCount {
            events: 4,
            uncounted: Some(Uncounted {
                reason: UncountedReason::NotAnObject,
                at_byte: 9,
            }),
        };
        let uncounted = Doubt::Events(Shortfall::Uncounted { reported: None });
        let text = warnings(partial, vec![gone(1), uncounted]);
        assert!(
            text.starts_with(
                "2018-06-01 to 2018-06-09: only 4 events could be counted (NotAnObject at byte 9"
            ),
            "{text}"
        );
    }
}
