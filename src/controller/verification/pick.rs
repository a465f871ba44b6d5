//! Decides which export is verified next. Pure.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use crate::api::{ConditionType, EventExport, EventExportStatus, Reason, VerificationStatus, find_condition};

/// Initial backoff after a slice that could not be read. It doubles.
const BACKOFF_BASE: SignedDuration = SignedDuration::from_secs(5);

/// Maximum backoff after a slice that could not be read.
const MAX_BACKOFF: SignedDuration = SignedDuration::from_hours(1);

/// An export with `spec.verification` that this process serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) uid: String,
    pub(super) namespace: String,
    /// Time at which its verification is due.
    pub(super) due: Timestamp,
    /// True if its verification has started.
    pub(super) running: bool,
}

/// Returns the time at which the next verification of an export is due; `None`: it is not verified, or nothing is stored.
pub(in crate::controller) fn due_at(
    object: &EventExport,
    status: &EventExportStatus,
    verification: Option<&VerificationStatus>,
) -> Option<Timestamp> {
    let every = object.spec.verification.as_ref()?.checked()?.every;
    let after = |at: Timestamp| at.checked_add(every).ok();
    if let Some(completed) = verification.and_then(|last| last.completed_at.as_ref()) {
        return after(completed.0);
    }
    status.windows.as_ref().filter(|windows| windows.stored > 0)?;
    let condition = |kind| find_condition(&status.conditions, kind).filter(|now| now.status == "True");
    let complete = condition(ConditionType::Complete);
    let ready = condition(ConditionType::Ready);
    let caught_up = ready.filter(|ready| ready.reason == Reason::CaughtUp.as_str());
    if let Some(settled) = complete.or(caught_up) {
        return Some(settled.last_transition_time.0);
    }
    let begun = status
        .start_time
        .as_ref()
        .or(object.metadata.creation_timestamp.as_ref())?;
    after(begun.0)
}

/// Turns that exports got in this process: one export at a time, and namespaces take turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: u64,
    namespaces: HashMap<String, u64>,
    exports: HashMap<String, ExportTurns>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ExportTurns {
    last: u64,
    failures: u32,
    not_before: Option<Timestamp>,
}

impl Turns {
    /// Returns the candidate whose turn it is: of the namespace, then the export, that waits longest for one; among those
    /// that had none, the most overdue one. `None`: none is due.
    pub(super) fn pick<'a>(&self, candidates: &'a [Candidate], now: Timestamp) -> Option<&'a Candidate> {
        let due = candidates.iter().filter(|candidate| {
            let turns = self.exports.get(&candidate.uid).copied().unwrap_or_default();
            let waits = turns.not_before.is_some_and(|until| until > now);
            !waits && (candidate.running || candidate.due <= now)
        });
        due.min_by_key(|candidate| {
            let namespace = self
                .namespaces
                .get(&candidate.namespace)
                .copied()
                .unwrap_or_default();
            let turns = self.exports.get(&candidate.uid).copied().unwrap_or_default();
            (namespace, turns.last, candidate.due, &candidate.uid)
        })
    }

    /// Gives a candidate a turn.
    pub(super) fn take(&mut self, candidate: &Candidate) {
        self.last += 1;
        self.namespaces.insert(candidate.namespace.clone(), self.last);
        self.exports.entry(candidate.uid.clone()).or_default().last = self.last;
    }

    /// Records that the slice of a turn was read.
    pub(super) fn succeeded(&mut self, uid: &str) {
        let turns = self.exports.entry(uid.to_owned()).or_default();
        (turns.failures, turns.not_before) = (0, None);
    }

    /// Records that the slice of a turn could not be read. Returns the number of consecutive failures.
    pub(super) fn failed(&mut self, uid: &str, now: Timestamp) -> u32 {
        let turns = self.exports.entry(uid.to_owned()).or_default();
        let pause = BACKOFF_BASE
            .saturating_mul(1 << turns.failures.min(16))
            .min(MAX_BACKOFF);
        turns.failures = turns.failures.saturating_add(1);
        turns.not_before = now.checked_add(pause).ok();
        turns.failures
    }

    /// Returns the number of consecutive failures of an export.
    pub(super) fn failures(&self, uid: &str) -> u32 {
        self.exports.get(uid).map_or(0, |turns| turns.failures)
    }

    /// Lets an export wait.
    pub(super) fn postpone(&mut self, uid: &str, until: Timestamp) {
        self.exports.entry(uid.to_owned()).or_default().not_before = Some(until);
    }

    /// Removes what is known of exports that are no candidates any more.
    pub(super) fn retain(&mut self, candidates: &[Candidate]) {
        let uids: HashSet<&str> = candidates.iter().map(|candidate| &*candidate.uid).collect();
        let namespaces: HashSet<&str> = candidates.iter().map(|candidate| &*candidate.namespace).collect();
        self.exports.retain(|uid, _| uids.contains(&**uid));
        self.namespaces
            .retain(|namespace, _| namespaces.contains(&**namespace));
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::api::{WindowCounts, condition};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn candidate(namespace: &str, uid: &str, due: i64) -> Candidate {
        Candidate {
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            due: at(due),
            running: false,
        }
    }

    #[test]
    fn the_most_overdue_export_begins_and_then_namespaces_and_exports_take_turns() {
        let mut all = vec![candidate("b", "b1", 50)];
        all.extend((1..=3).map(|n| candidate("a", &format!("a{n}"), n)));
        all.push(candidate("c", "later", 5000));
        let mut turns = Turns::default();
        let mut order = Vec::new();
        for _ in 0..8 {
            let next = turns.pick(&all, at(100)).unwrap().clone();
            turns.take(&next);
            turns.succeeded(&next.uid);
            order.push(next.uid);
        }
        assert_eq!(order, ["a1", "b1", "a2", "b1", "a3", "b1", "a1", "b1"]);
        // What is gone, or not due any more, does not count.
        all.retain(|one| one.namespace == "c");
        turns.retain(&all);
        assert!(turns.exports.is_empty() && turns.namespaces.is_empty());
        assert_eq!(turns.pick(&all, at(100)), None);
        assert_eq!(turns.pick(&all, at(5000)).unwrap().uid, "later");
        // After a restart, a running verification goes on, whenever it was due.
        all[0].running = true;
        assert_eq!(turns.pick(&all, at(100)).unwrap().uid, "later");
    }

    #[test]
    fn failures_are_retried_with_growing_pauses_and_delay_nobody_else() {
        let all = [candidate("a", "bad", 1), candidate("a", "good", 2)];
        let mut turns = Turns::default();
        let (mut now, mut pauses) = (at(100), Vec::new());
        for _ in 0..12 {
            let failures = turns.failed("bad", now);
            assert_eq!(usize::try_from(failures).unwrap(), pauses.len() + 1);
            assert_eq!(turns.pick(&all, now).unwrap().uid, "good");
            let until = turns.exports["bad"].not_before.unwrap();
            pauses.push(until.duration_since(now).as_secs());
            now = until;
            assert_eq!(turns.pick(&all, now).unwrap().uid, "bad");
        }
        assert_eq!(pauses[..3], [5, 10, 20]);
        assert_eq!(pauses[11], 3600);
        turns.succeeded("bad");
        assert_eq!(turns.failed("bad", now), 1);
    }

    #[test]
    fn a_verification_is_due_when_the_export_is_complete_and_then_at_intervals() {
        let object = |verification: serde_json::Value| {
            let mut object = EventExport::new(
                "x",
                serde_json::from_value(serde_json::json!({
                    "space": "s", "dateRange": {"start": "2018-06-01"},
                    "source": {"region": "ng", "credentialsSecretRef": {"name": "tracker"}},
                    "destination": {"s3": {"bucket": "audit"}}, "verification": verification,
                }))
                .unwrap(),
            );
            object.metadata.creation_timestamp = Some(Time(at(10)));
            object
        };
        let daily = object(serde_json::json!({"every": "24h"}));
        let windows = |stored| WindowCounts {
            stored,
            ..WindowCounts::default()
        };
        let mut status = EventExportStatus::default();
        assert_eq!(due_at(&daily, &status, None), None);
        status.windows = Some(windows(0));
        assert_eq!(due_at(&daily, &status, None), None);
        status.windows = Some(windows(3));
        assert_eq!(due_at(&daily, &status, None), Some(at(10 + 86_400)));
        status.start_time = Some(Time(at(20)));
        assert_eq!(due_at(&daily, &status, None), Some(at(20 + 86_400)));
        status.conditions = vec![condition(
            ConditionType::Complete,
            Some(true),
            Reason::Complete,
            "",
            1,
            at(30),
        )];
        assert_eq!(due_at(&daily, &status, None), Some(at(30)));
        let done = VerificationStatus {
            completed_at: Some(Time(at(40))),
            ..VerificationStatus::default()
        };
        assert_eq!(due_at(&daily, &status, Some(&done)), Some(at(40 + 86_400)));
        for other in [serde_json::Value::Null, serde_json::json!({"every": "1m"})] {
            assert_eq!(due_at(&object(other), &status, Some(&done)), None);
        }
    }
}
