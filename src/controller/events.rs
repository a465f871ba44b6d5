//! Kubernetes Events. Pure functions derive them from a change of the status; `EventRecorder` sends them at a bounded
//! rate and never fails a reconcile.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use tracing::{debug, warn};

use super::installations::{LeaseName, overlap_message};
use super::kube_error::describe_error;
use crate::api::{ConditionType, EventExport, EventExportStatus, ManifestStatus, Reason, find_condition};
use crate::telemetry::Metrics;

/// Maximum burst of Events of one export, as in client-go's spam filter (`defaultSpamBurst`).
const BURST: u32 = 25;

/// Time until an export may send one more Event (client-go's `defaultSpamQPS`).
pub(super) const REFILL_INTERVAL: Duration = Duration::from_mins(5);

/// Maximum Events that the recorder keeps to count repetitions. It compares each new Event with all of them.
const MAX_RECORDED_EVENTS: usize = 512;

/// Maximum length of a note in bytes. The API limits `note` to 1 kB.
const NOTE_BYTES: usize = 1000;

/// Reason of the Event for a newer manifest.
const MANIFEST_WRITTEN: &str = "ManifestWritten";

/// Reason of the Event for late events of stored days.
const LATE_EVENTS_STORED: &str = "LateEventsStored";

/// Event before it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusEvent {
    /// True for the type `Warning`, false for `Normal`.
    pub warning: bool,
    /// Action of the operator, in `PascalCase`.
    pub action: &'static str,
    /// Reason, as in conditions.
    pub reason: String,
    /// Message for the user.
    pub note: String,
}

/// Returns the Events for a change of the status.
pub fn status_events(before: &EventExportStatus, after: &EventExportStatus) -> Vec<StatusEvent> {
    let mut events = Vec::new();
    let became = |kind, wanted: &str| {
        let now = find_condition(&after.conditions, kind).filter(|now| now.status == wanted)?;
        let was = find_condition(&before.conditions, kind);
        was.is_none_or(|was| was.status != now.status || (wanted == "True" && was.reason != now.reason))
            .then_some(now)
    };
    let acted = |status: &EventExportStatus| {
        find_condition(&status.conditions, ConditionType::Reconciling)
            .filter(|now| now.status == "False" && now.reason == Reason::Accepted.as_str())
            .map(|_| status.observed_generation)
    };
    let stalled = became(ConditionType::Stalled, "True");
    if stalled.is_none() && acted(after).is_some_and(|now| acted(before) != Some(now)) {
        let note = format!("generation {} is accepted", after.observed_generation);
        events.push(new_event(false, "Accept", Reason::Accepted.as_str(), note));
    }
    if let Some(now) = stalled {
        events.push(new_event(true, "Export", &now.reason, now.message.clone()));
    }
    if let Some(error) = &after.last_error {
        let known = before
            .last_error
            .as_ref()
            .is_some_and(|was| was.reason == error.reason && was.window == error.window);
        if !known && stalled.is_none_or(|now| now.reason != error.reason) {
            let window = error
                .window
                .as_ref()
                .map(|window| format!("{window}: "))
                .unwrap_or_default();
            events.push(new_event(
                true,
                "Export",
                &error.reason,
                format!("{window}{}", error.message),
            ));
        }
    }
    let late = |status: &EventExportStatus| status.late_events.unwrap_or(0);
    // What an export has when it is first observed is no news.
    if before.events.is_some() && late(after) > late(before) {
        let note = format!(
            "{} events that arrived late are stored beside their day",
            late(after) - late(before)
        );
        events.push(new_event(false, "Export", LATE_EVENTS_STORED, note));
    }
    if let Some(now) = became(ConditionType::Complete, "True") {
        events.push(new_event(
            false,
            "Export",
            Reason::Complete.as_str(),
            now.message.clone(),
        ));
    }
    for (wanted, warning) in [("False", true), ("True", false)] {
        if let Some(now) = became(ConditionType::Verified, wanted) {
            events.push(new_event(warning, "Verify", &now.reason, now.message.clone()));
        }
    }
    if let Some(manifest) = after
        .manifest
        .as_ref()
        .filter(|_| before.manifest != after.manifest)
    {
        let ManifestStatus {
            sequence,
            sha256,
            key_id,
            ..
        } = manifest;
        let key = key_id.as_ref().map(|id| format!(", signed by key {id}"));
        let note = format!(
            "the newest manifest is {sequence}:{sha256}{}",
            key.unwrap_or_default()
        );
        events.push(new_event(false, "Export", MANIFEST_WRITTEN, note));
    }
    let suspended = |status: &EventExportStatus| {
        find_condition(&status.conditions, ConditionType::Ready)
            .is_some_and(|now| now.reason == Reason::Suspended.as_str())
    };
    if suspended(after) && !suspended(before) {
        events.push(new_event(
            false,
            "Suspend",
            Reason::Suspended.as_str(),
            "spec.suspend is true".to_owned(),
        ));
    }
    events
}

/// Returns the Event for the removal of the finalizer while sessions may be open.
pub fn leftover_sessions_event(ids: &[String], why: &str) -> StatusEvent {
    let sessions = if ids.is_empty() {
        "ids unknown".to_owned()
    } else {
        ids.join(", ")
    };
    let note = format!(
        "sessions may still be open ({sessions}): {why}; delete them with `eventexport session delete ID`"
    );
    new_event(true, "Delete", "SessionsLeft", note)
}

/// Returns the Event for an export that another operator serves.
pub(super) fn served_elsewhere_event(other: &LeaseName, me: &LeaseName) -> StatusEvent {
    let note = overlap_message(other, me);
    new_event(true, "Export", Reason::OperatorConflict.as_str(), note)
}

fn new_event(warning: bool, action: &'static str, reason: &str, note: String) -> StatusEvent {
    StatusEvent {
        warning,
        action,
        reason: reason.to_owned(),
        note,
    }
}

/// Token bucket for the Events of one export, or for the corrections of its status.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    tokens: u32,
    refilled_at: Instant,
}

impl RateLimit {
    /// Creates a full bucket.
    pub fn full(now: Instant) -> Self {
        Self {
            tokens: BURST,
            refilled_at: now,
        }
    }

    /// Takes one token. Returns false if none is left.
    pub fn take(&mut self, now: Instant) -> bool {
        let refills = now.saturating_duration_since(self.refilled_at).as_secs() / REFILL_INTERVAL.as_secs();
        if refills > 0 {
            let refills = u32::try_from(refills).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(refills).min(BURST);
            self.refilled_at = now;
        }
        let available = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        available
    }

    /// Returns true if no token is left.
    pub fn is_empty(&self, now: Instant) -> bool {
        self.tokens == 0 && now.saturating_duration_since(self.refilled_at) < REFILL_INTERVAL
    }
}

/// Sends Events to the API server.
pub(super) struct EventRecorder {
    client: Client,
    reporter: Reporter,
    /// Recorder, and the number of Events that it was used for.
    recorder: Mutex<(Recorder, usize)>,
    metrics: Metrics,
}

impl EventRecorder {
    pub(super) fn new(client: Client, instance: String, metrics: Metrics) -> Self {
        let reporter = Reporter {
            controller: "eventexport.io/operator".to_owned(),
            instance: Some(instance),
        };
        Self {
            recorder: Mutex::new((Recorder::new(client.clone(), reporter.clone()), 0)),
            client,
            reporter,
            metrics,
        }
    }

    /// Returns the recorder, and replaces it after [`MAX_RECORDED_EVENTS`] uses. kube's recorder scans all recorded
    /// Events for each new one, and keeps them while none comes: that is slow with thousands of exports.
    fn recorder(&self) -> Recorder {
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        if recorder.1 >= MAX_RECORDED_EVENTS {
            *recorder = (Recorder::new(self.client.clone(), self.reporter.clone()), 0);
        }
        recorder.1 += 1;
        recorder.0.clone()
    }

    /// Sends the Events that `allowed` permits. Logs errors instead of returning them: Events are best effort.
    pub(super) async fn record(
        &self,
        object: &EventExport,
        events: Vec<StatusEvent>,
        mut allowed: impl FnMut() -> bool,
    ) {
        // Without the version: the recorder would take each version for another object and never merge Events.
        let reference = ObjectReference {
            resource_version: None,
            ..object.object_ref(&())
        };
        for event in events {
            if !allowed() {
                self.metrics.events_suppressed.inc();
                debug!(reason = event.reason, "event dropped by the rate limit");
                continue;
            }
            let event = Event {
                type_: if event.warning {
                    EventType::Warning
                } else {
                    EventType::Normal
                },
                reason: event.reason,
                note: Some(truncate_bytes(event.note, NOTE_BYTES)),
                action: event.action.to_owned(),
                secondary: None,
            };
            if let Err(error) = self.recorder().publish(&event, &reference).await {
                warn!(
                    reason = event.reason,
                    error = describe_error(&error),
                    "cannot send event"
                );
            }
        }
    }
}

/// Truncates the text to at most `bytes`, at a character boundary.
fn truncate_bytes(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        let end = (0..=bytes)
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::{LastError, condition, set_condition};

    fn with(
        mut status: EventExportStatus,
        kind: ConditionType,
        is: bool,
        reason: Reason,
    ) -> EventExportStatus {
        set_condition(
            &mut status.conditions,
            condition(kind, Some(is), reason, "why", 1, Timestamp::UNIX_EPOCH),
        );
        EventExportStatus {
            observed_generation: 1,
            ..status
        }
    }

    fn reasons(before: &EventExportStatus, after: &EventExportStatus) -> Vec<String> {
        status_events(before, after)
            .into_iter()
            .map(|event| event.reason)
            .collect()
    }

    #[test]
    fn each_transition_emits_one_event() {
        let new = EventExportStatus::default();
        let accepted = with(new.clone(), ConditionType::Reconciling, false, Reason::Accepted);
        assert_eq!(reasons(&new, &accepted), ["Accepted"]);
        assert!(reasons(&accepted, &accepted).is_empty());
        let complete = with(accepted.clone(), ConditionType::Complete, true, Reason::Complete);
        assert_eq!(reasons(&accepted, &complete), ["Complete"]);
        assert!(reasons(&complete, &complete).is_empty());
        let suspended = with(accepted.clone(), ConditionType::Ready, false, Reason::Suspended);
        assert_eq!(reasons(&accepted, &suspended), ["Suspended"]);
        assert!(reasons(&suspended, &suspended).is_empty());
    }

    #[test]
    fn an_error_that_stalls_emits_one_event() {
        let accepted = with(
            EventExportStatus::default(),
            ConditionType::Reconciling,
            false,
            Reason::Accepted,
        );
        let failed = |reason: Reason, window: &str| EventExportStatus {
            last_error: Some(LastError {
                reason: reason.to_string(),
                message: "again".to_owned(),
                window: Some(window.to_owned()),
            }),
            ..accepted.clone()
        };
        let failed_once = failed(Reason::DownloadIncomplete, "2018-06-28");
        assert_eq!(reasons(&accepted, &failed_once), ["DownloadIncomplete"]);
        assert!(reasons(&failed_once, &failed_once).is_empty());
        assert_eq!(
            reasons(&failed_once, &failed(Reason::DownloadIncomplete, "2018-06-29")),
            ["DownloadIncomplete"]
        );
        let stalled = with(
            failed(Reason::Short, "2018-06-28"),
            ConditionType::Stalled,
            true,
            Reason::Short,
        );
        assert_eq!(reasons(&accepted, &stalled), ["Short"]);
    }

    #[test]
    fn events_are_rate_limited_per_export() {
        let start = Instant::now();
        let mut rate_limit = RateLimit::full(start);
        assert_eq!((0..100).filter(|_| rate_limit.take(start)).count(), 25);
        assert!(rate_limit.take(start + REFILL_INTERVAL));
        assert!(!rate_limit.take(start + REFILL_INTERVAL));
    }

    #[test]
    fn notes_are_truncated_at_character_boundaries() {
        assert_eq!(truncate_bytes("aü".to_owned(), 2), "a");
        assert_eq!(truncate_bytes("aü".to_owned(), 3), "aü");
    }
}
