//! Decides which operator serves an export when operators with different Leases select it. An annotation of the
//! resource names the serving operator. (Processes with the same Lease take turns by that Lease.) Writes annotations.
//!
//! Nothing is renewed. An operator that finds another name there probes it with a second annotation. The serving
//! operator answers by removing that annotation. If no answer comes, the contender takes over. Safety does not depend
//! on this: the journal separates operators that export at once ([`HolderEpoch`](crate::export::spec::HolderEpoch)).

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tracing::{info, warn};

use super::context::ReconcileContext;
use super::election::LeaseTiming;
use super::events;
use crate::api::EventExport;

/// Annotation with the namespace and name of the Lease of the operator that serves the resource.
pub const OPERATOR_ANNOTATION: &str = "eventexport.io/operator";

/// Annotation with the namespace and name of the Lease of an operator that probes the serving one.
pub const CONTENDER_ANNOTATION: &str = "eventexport.io/contender";

/// Time from an answer to the next probe, in multiples of [`answer_timeout`]. Both together bound the time to detect
/// that the serving operator is gone: 3 min by default.
const PROBE_INTERVAL_FACTOR: u32 = 2;

/// Time after its last probe for which a contender is reported. Longer than the interval between probes.
const CONTENDER_TTL: Duration = Duration::from_mins(5);

/// Delay of the next reconcile after a write conflict.
const CONFLICT_REQUEUE: Duration = Duration::from_millis(500);

/// Maximum length of another operator's name in messages, in characters: two DNS names.
const NAME_CHARS: usize = 320;

/// Returns the time in which an operator must answer. Another of its processes can take over its Lease meanwhile.
pub(super) fn answer_timeout(timing: &LeaseTiming) -> Duration {
    timing.duration * 4
}

/// State of the contention with other operators over one resource. Empty for almost all resources.
#[derive(Debug, Default)]
pub(super) struct OperatorContention(Option<Box<ContentionState>>);

#[derive(Debug, Default)]
struct ContentionState {
    /// Time of the probe that has no answer yet.
    probed_at: Option<Instant>,
    /// Time of the last answer of the serving operator.
    answered_at: Option<Instant>,
    /// Operator that probed this one, and the time of its last probe.
    contender: Option<(String, Instant)>,
    /// Time when this operator took the resource over. `None`: it did not.
    since: Option<Timestamp>,
    /// True if another operator serves the resource.
    served_by_other: bool,
}

impl OperatorContention {
    fn state(&mut self) -> &mut ContentionState {
        self.0.get_or_insert_default()
    }

    /// Returns the time when this operator took the resource over, if it did.
    pub(super) fn since(&self) -> Option<Timestamp> {
        self.0.as_ref()?.since
    }

    /// Returns true if another operator serves the resource.
    pub(super) fn served_by_other(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.served_by_other)
    }

    /// Returns the contender, and the remaining time for which it is reported.
    pub(super) fn contender(&self) -> Option<(&str, Duration)> {
        let (name, probed_at) = self.0.as_ref()?.contender.as_ref()?;
        let left = CONTENDER_TTL.checked_sub(probed_at.elapsed())?;
        Some((name, left))
    }
}

/// Input of [`claim_step`].
#[derive(Clone, Copy, Debug)]
struct ClaimObservation<'a> {
    me: &'a str,
    operator: Option<&'a str>,
    contender: Option<&'a str>,
    /// Time since the probe that has no answer yet.
    since_probe: Option<Duration>,
    /// Time since the last answer.
    since_answer: Option<Duration>,
    answer_timeout: Duration,
}

/// Next step of this operator for one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClaimStep {
    /// Serve the resource.
    Serve,
    /// Serve the resource, and answer the contender.
    Answer,
    /// Take the resource over: it has no operator, or its operator is gone.
    TakeOver,
    /// Ask the serving operator for an answer.
    Probe,
    /// Leave the resource to the serving operator, which answered.
    Yield,
    /// Do nothing for this time.
    Wait(Duration),
}

fn claim_step(observed: &ClaimObservation<'_>) -> ClaimStep {
    match observed.operator {
        None => ClaimStep::TakeOver,
        Some(operator) if operator == observed.me => match observed.contender {
            None => ClaimStep::Serve,
            Some(_) => ClaimStep::Answer,
        },
        Some(_) => match (observed.since_probe, observed.contender) {
            (Some(_), None) => ClaimStep::Yield,
            // The name may be of a third operator: an operator that does not answer that one is gone, too.
            (Some(waited), Some(_)) => match observed.answer_timeout.checked_sub(waited) {
                None | Some(Duration::ZERO) => ClaimStep::TakeOver,
                Some(rest) => ClaimStep::Wait(rest),
            },
            (None, _) => match observed
                .since_answer
                .and_then(|ago| (observed.answer_timeout * PROBE_INTERVAL_FACTOR).checked_sub(ago))
            {
                None | Some(Duration::ZERO) => ClaimStep::Probe,
                Some(rest) => ClaimStep::Wait(rest),
            },
        },
    }
}

/// Claims the resource for this operator. Returns the resource if this wrote it: later writes need that version. The
/// inner error is the delay of the next reconcile while another operator may serve the resource.
pub(super) async fn claim(
    context: &ReconcileContext,
    object: &EventExport,
    uid: &str,
) -> kube::Result<Result<Option<EventExport>, Duration>> {
    let me = context.operator.as_str();
    let annotated = |object: &EventExport, name: &str| object.annotations().get(name).cloned();
    let mut read = None;
    if annotated(object, OPERATOR_ANNOTATION).is_some_and(|operator| operator != me) {
        // The watch may lag behind the last write of this process.
        let newest = context.api(object).get_opt(&object.name_any()).await?;
        match newest.filter(|newest| newest.metadata.uid == object.metadata.uid) {
            Some(newest) => read = Some(newest),
            None => return Ok(Err(CONFLICT_REQUEUE)),
        }
    }
    let object = read.as_ref().unwrap_or(object);
    let (operator, contender) = (
        annotated(object, OPERATOR_ANNOTATION),
        annotated(object, CONTENDER_ANNOTATION),
    );
    let step = context.registry.with(uid, |entry| {
        let state = entry.contention.0.as_deref();
        claim_step(&ClaimObservation {
            me,
            operator: operator.as_deref(),
            contender: contender.as_deref(),
            since_probe: state.and_then(|state| state.probed_at).map(|at| at.elapsed()),
            since_answer: state.and_then(|state| state.answered_at).map(|at| at.elapsed()),
            answer_timeout: context.answer_timeout,
        })
    });
    let Some(step) = step else {
        return Ok(Err(CONFLICT_REQUEUE));
    };
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let export = format!("{namespace}/{name}");
    let other = truncate(operator.as_deref().unwrap_or_default());
    let claimed = match step {
        ClaimStep::Serve => None,
        ClaimStep::Answer => {
            let contender = truncate(contender.as_deref().unwrap_or_default());
            let Some(written) = write_annotations(context, object, me, None).await? else {
                return Ok(Err(CONFLICT_REQUEUE));
            };
            if contender != me {
                warn!(
                    export,
                    contender,
                    operator = me,
                    "another operator selects this export, keeping it"
                );
                context.registry.with(uid, |entry| {
                    entry.contention.state().contender = Some((contender, Instant::now()));
                });
            }
            Some(written)
        }
        ClaimStep::TakeOver => {
            // Before the write: attempts that another process of this holder started until then are of an older epoch.
            let since = (context.now)();
            let Some(written) = write_annotations(context, object, me, None).await? else {
                return Ok(Err(CONFLICT_REQUEUE));
            };
            if operator.is_some() {
                info!(
                    export,
                    from = other,
                    operator = me,
                    "operator does not answer, export taken over"
                );
            }
            context.registry.with(uid, |entry| {
                entry.restart_requested |= operator.is_some();
                entry.contention.0 = None;
                entry.contention.state().since = Some(since);
            });
            Some(written)
        }
        ClaimStep::Probe => {
            yield_export(context, uid, |state| state.probed_at = Some(Instant::now()));
            let serving = operator.as_deref().unwrap_or_default();
            if write_annotations(context, object, serving, Some(me))
                .await?
                .is_none()
            {
                yield_export(context, uid, |state| state.probed_at = None);
                return Ok(Err(CONFLICT_REQUEUE));
            }
            info!(
                export,
                other, "another operator is named on the export, probing it"
            );
            return Ok(Err(context.answer_timeout));
        }
        ClaimStep::Yield => {
            warn!(
                export,
                other,
                operator = me,
                "another operator serves this export, ignoring it"
            );
            yield_export(context, uid, |state| {
                (state.probed_at, state.answered_at) = (None, Some(Instant::now()));
            });
            let allowed = || {
                let take = |entry: &mut super::entry::ExportEntry| entry.rate_limit.take(Instant::now());
                context.registry.with(uid, take).unwrap_or(false)
            };
            let event = events::served_elsewhere_event(&other, me);
            context.recorder.record(object, vec![event], allowed).await;
            return Ok(Err(context.answer_timeout * PROBE_INTERVAL_FACTOR));
        }
        ClaimStep::Wait(rest) => {
            yield_export(context, uid, |_| ());
            return Ok(Err(rest.max(CONFLICT_REQUEUE)));
        }
    };
    Ok(Ok(claimed))
}

/// Stops the task of a resource that another operator serves. The task restarts if this operator takes over later.
fn yield_export(context: &ReconcileContext, uid: &str, update: impl FnOnce(&mut ContentionState)) {
    context.registry.stop(uid);
    context.registry.with(uid, |entry| {
        let state = entry.contention.state();
        (state.served_by_other, state.contender) = (true, None);
        update(state);
        entry.restart_requested = true;
    });
}

/// Writes both annotations over exactly the version that was read. Returns `None` on a conflict.
async fn write_annotations(
    context: &ReconcileContext,
    object: &EventExport,
    operator: &str,
    contender: Option<&str>,
) -> kube::Result<Option<EventExport>> {
    let body = json!({ "metadata": {
        "uid": object.metadata.uid,
        "resourceVersion": object.metadata.resource_version,
        "annotations": { OPERATOR_ANNOTATION: operator, CONTENDER_ANNOTATION: contender },
    }});
    let params = PatchParams::default();
    match context
        .api(object)
        .patch(&object.name_any(), &params, &Patch::Merge(&body))
        .await
    {
        Ok(written) => Ok(Some(written)),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        Err(error) => Err(error),
    }
}

fn truncate(name: &str) -> String {
    name.chars().take(NAME_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

    fn observed<'a>(operator: Option<&'a str>, contender: Option<&'a str>) -> ClaimObservation<'a> {
        ClaimObservation {
            me: "a/me",
            operator,
            contender,
            since_probe: None,
            since_answer: None,
            answer_timeout: ANSWER_TIMEOUT,
        }
    }

    #[test]
    fn the_owner_keeps_serving_and_answers_contenders() {
        assert_eq!(claim_step(&observed(None, None)), ClaimStep::TakeOver);
        assert_eq!(claim_step(&observed(None, Some("b/other"))), ClaimStep::TakeOver);
        assert_eq!(claim_step(&observed(Some("a/me"), None)), ClaimStep::Serve);
        assert_eq!(
            claim_step(&observed(Some("a/me"), Some("b/other"))),
            ClaimStep::Answer
        );
    }

    #[test]
    fn a_contender_takes_over_only_if_the_owner_is_silent() {
        let contended_step = |contender, since_probe: Option<u64>, since_answer: Option<u64>| {
            claim_step(&ClaimObservation {
                since_probe: since_probe.map(Duration::from_secs),
                since_answer: since_answer.map(Duration::from_secs),
                ..observed(Some("b/other"), contender)
            })
        };
        assert_eq!(contended_step(None, None, None), ClaimStep::Probe);
        // Probed before this process restarted: it probes again, to wait for the full timeout itself.
        assert_eq!(contended_step(Some("a/me"), None, None), ClaimStep::Probe);
        assert_eq!(
            contended_step(Some("a/me"), Some(59), None),
            ClaimStep::Wait(Duration::from_secs(1))
        );
        assert_eq!(contended_step(Some("a/me"), Some(60), None), ClaimStep::TakeOver);
        assert_eq!(
            contended_step(Some("c/third"), Some(61), None),
            ClaimStep::TakeOver
        );
        assert_eq!(contended_step(None, Some(1), None), ClaimStep::Yield);
        assert_eq!(
            contended_step(None, None, Some(110)),
            ClaimStep::Wait(Duration::from_secs(10))
        );
        assert_eq!(contended_step(None, None, Some(120)), ClaimStep::Probe);
    }
}
