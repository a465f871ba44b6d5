//! Kubernetes Events: what a person sees at the end of `kubectl describe`. The decision which ones a change of
//! status deserves is pure; [`EventRecorder`] sends them, at a bounded rate, and never fails anyone's work.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use tracing::{debug, warn};

use super::kube_error::describe_error;
use crate::api::{ConditionType, EventExport, EventExportStatus, Reason, find_condition};
use crate::telemetry::Metrics;

/// How many Events one export may have in a row. The bounds of client-go's spam filter (`defaultSpamBurst`).
const BURST: u32 = 25;

/// How long it takes until it may have one more (client-go's `defaultSpamQPS`).
const REFILL_INTERVAL: Duration = Duration::from_mins(5);

/// How many Events are remembered, to be counted up when they come again: each new one is compared with all of them.
const MAX_RECORDED_EVENTS: usize = 512;

/// Longest note, in bytes: the API's bound for `note` is 1 kB.
const NOTE_BYTES: usize = 1000;

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusEvent {
    /// Whether somebody should look.
    pub warning: bool,
    /// What was being done, in `PascalCase`.
    pub action: &'static str,
    /// Why, as conditions name it.
    pub reason: String,
    /// For a person.
    pub note: String,
}

/// What a change of status deserves to be told.
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
    if let Some(now) = became(ConditionType::Complete, "True") {
        events.push(new_event(
            false,
            "Export",
            Reason::Complete.as_str(),
            now.message.clone(),
        ));
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

/// That a deleted export was let go with sessions that may be open.
pub fn leftover_sessions_event(ids: &[String], why: &str) -> StatusEvent {
    let which = if ids.is_empty() {
        "which ones is not known".to_owned()
    } else {
        ids.join(", ")
    };
    let note = format!(
        "sessions may be left open at the service ({which}): {why}; delete them by hand (`eventexport session delete ID`)"
    );
    new_event(true, "Delete", "SessionsLeft", note)
}

/// That another operator serves it.
pub fn served_elsewhere_event(other: &str, me: &str) -> StatusEvent {
    let note = format!(
        "the operator of the Lease {other} serves this export, and the operator of the Lease {me} would, too, and leaves \
         it alone: let one of them look after this namespace"
    );
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

/// How many Events an export may still have.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    left: u32,
    since: Instant,
}

impl RateLimit {
    /// A full one.
    pub fn full(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    /// Whether one more may be sent; counts it.
    pub fn take(&mut self, now: Instant) -> bool {
        let refills = now.saturating_duration_since(self.since).as_secs() / REFILL_INTERVAL.as_secs();
        if refills > 0 {
            let refills = u32::try_from(refills).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(refills).min(BURST);
            self.since = now;
        }
        let one = self.left > 0;
        self.left = self.left.saturating_sub(1);
        one
    }
}

/// Sends Events.
pub(super) struct EventRecorder {
    client: Client,
    reporter: Reporter,
    /// With how many Events it was given.
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

    /// A recorder never forgets while nothing happens, and looks at all that it remembers when something does: with
    /// thousands of exports it is begun anew now and then.
    fn recorder(&self) -> Recorder {
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        if recorder.1 >= MAX_RECORDED_EVENTS {
            *recorder = (Recorder::new(self.client.clone(), self.reporter.clone()), 0);
        }
        recorder.1 += 1;
        recorder.0.clone()
    }

    /// Sends what the allowance permits. What cannot be sent is logged: an Event is a courtesy.
    pub(super) async fn record(
        &self,
        object: &EventExport,
        events: Vec<StatusEvent>,
        mut allowed: impl FnMut() -> bool,
    ) {
        // Without its version, or the recorder would take each version for another object and never merge.
        let reference = ObjectReference {
            resource_version: None,
            ..object.object_ref(&())
        };
        for note in events {
            if !allowed() {
                self.metrics.events_suppressed.inc();
                debug!(
                    reason = note.reason,
                    "an Event was not sent: too many of this export"
                );
                continue;
            }
            let event = Event {
                type_: if note.warning {
                    EventType::Warning
                } else {
                    EventType::Normal
                },
                reason: note.reason,
                note: Some(truncate_bytes(note.note, NOTE_BYTES)),
                action: note.action.to_owned(),
                secondary: None,
            };
            if let Err(error) = self.recorder().publish(&event, &reference).await {
                warn!(
                    reason = event.reason,
                    error = describe_error(&error),
                    "an Event could not be sent"
                );
            }
        }
    }
}

/// At most so many bytes, whole characters.
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
            .map(|note| note.reason)
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
        let calm = with(
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
            ..calm.clone()
        };
        let once = failed(Reason::DownloadIncomplete, "2018-06-28");
        assert_eq!(reasons(&calm, &once), ["DownloadIncomplete"]);
        assert!(reasons(&once, &once).is_empty());
        assert_eq!(
            reasons(&once, &failed(Reason::DownloadIncomplete, "2018-06-29")),
            ["DownloadIncomplete"]
        );
        let stalled = with(
            failed(Reason::Short, "2018-06-28"),
            ConditionType::Stalled,
            true,
            Reason::Short,
        );
        assert_eq!(reasons(&calm, &stalled), ["Short"]);
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
