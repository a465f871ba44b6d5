//! Which operator serves a resource, where several would: those of one Lease take turns by it, and for those of
//! different Leases the resource itself says, in an annotation, whose it is. Writes the annotations of resources.
//!
//! Nothing is renewed. Who finds another's name there asks, by a second annotation; who serves it takes the question
//! away, and that is the answer. Where none comes, the resource is taken over. Safety does not hang on it: should both
//! work for a while, the journal keeps them apart ([`HolderEpoch`](crate::export::spec::HolderEpoch)).

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

/// Annotation: namespace and name of the Lease of the operator that serves the resource.
pub const OPERATOR_ANNOTATION: &str = "eventexport.io/operator";

/// Annotation: the same of an operator that would serve it, and asks whether the other one does.
pub const CONTENDER_ANNOTATION: &str = "eventexport.io/contender";

/// How long after an answer it is asked again, in times of [`answer_timeout`]: with that, how long it takes until an operator
/// that is gone is noticed. 3 min by default, both together.
const PROBE_INTERVAL_FACTOR: u32 = 2;

/// How long after its last question a contender is shown: longer than it takes to ask again.
const CONTENDER_TTL: Duration = Duration::from_mins(5);

/// How long to wait before the next look where a newer version of the resource was met.
const CONFLICT_REQUEUE: Duration = Duration::from_millis(500);

/// Longest name of another operator that is shown, in characters: two DNS names.
const NAME_CHARS: usize = 320;

/// How long an operator may take to answer: enough for another of its processes to take over its Lease.
pub(super) fn answer_timeout(timing: &LeaseTiming) -> Duration {
    timing.duration * 4
}

/// What is remembered of other operators that would serve a resource. Empty for almost all.
#[derive(Debug, Default)]
pub(super) struct OperatorContention(Option<Box<ContentionState>>);

#[derive(Debug, Default)]
struct ContentionState {
    /// Since when an answer is waited for.
    asked: Option<Instant>,
    /// When the other one answered that it serves it.
    answered: Option<Instant>,
    /// Who asked us, and when last.
    contender: Option<(String, Instant)>,
    /// Since when it is ours, where it was another's or nobody's before.
    since: Option<Timestamp>,
    /// Another serves it.
    served_by_other: bool,
}

impl OperatorContention {
    fn state(&mut self) -> &mut ContentionState {
        self.0.get_or_insert_default()
    }

    /// Since when it is ours, where it was not from the start.
    pub(super) fn since(&self) -> Option<Timestamp> {
        self.0.as_ref()?.since
    }

    /// Whether another serves it.
    pub(super) fn served_by_other(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.served_by_other)
    }

    /// Who else would serve it, and how much longer that is shown.
    pub(super) fn contender(&self) -> Option<(&str, Duration)> {
        let (name, asked) = self.0.as_ref()?.contender.as_ref()?;
        let left = CONTENDER_TTL.checked_sub(asked.elapsed())?;
        Some((name, left))
    }
}

/// What is known when it is decided whose a resource is.
#[derive(Clone, Copy, Debug)]
struct ClaimObservation<'a> {
    me: &'a str,
    operator: Option<&'a str>,
    contender: Option<&'a str>,
    /// For how long an answer is waited for.
    asked: Option<Duration>,
    /// How long ago one came.
    answered: Option<Duration>,
    answer_timeout: Duration,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClaimStep {
    /// It is ours.
    Serve,
    /// It is ours, and who asks is told so.
    Answer,
    /// It is nobody's, or its operator is gone: it is ours from now on.
    TakeOver,
    /// Its operator is asked whether it is there.
    Probe,
    /// It answered.
    Yield,
    /// Nothing, for so long.
    Wait(Duration),
}

fn claim_step(observed: &ClaimObservation<'_>) -> ClaimStep {
    match observed.operator {
        None => ClaimStep::TakeOver,
        Some(operator) if operator == observed.me => match observed.contender {
            None => ClaimStep::Serve,
            Some(_) => ClaimStep::Answer,
        },
        Some(_) => match (observed.asked, observed.contender) {
            (Some(_), None) => ClaimStep::Yield,
            // Who does not answer a third one either is gone.
            (Some(waited), Some(_)) => match observed.answer_timeout.checked_sub(waited) {
                None | Some(Duration::ZERO) => ClaimStep::TakeOver,
                Some(rest) => ClaimStep::Wait(rest),
            },
            (None, _) => match observed
                .answered
                .and_then(|ago| (observed.answer_timeout * PROBE_INTERVAL_FACTOR).checked_sub(ago))
            {
                None | Some(Duration::ZERO) => ClaimStep::Probe,
                Some(rest) => ClaimStep::Wait(rest),
            },
        },
    }
}

/// Makes it ours, if it may be; else how long to leave it alone. Returns the resource as it is since then, where that
/// was written: what is written next goes over that version.
pub(super) async fn claim(
    context: &ReconcileContext,
    object: &EventExport,
    uid: &str,
) -> kube::Result<Result<Option<EventExport>, Duration>> {
    let me = context.operator.as_str();
    let annotated = |object: &EventExport, name: &str| object.annotations().get(name).cloned();
    let mut read = None;
    if annotated(object, OPERATOR_ANNOTATION).is_some_and(|operator| operator != me) {
        // What the watch has seen may be older than what this process wrote last.
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
            asked: state.and_then(|state| state.asked).map(|at| at.elapsed()),
            answered: state.and_then(|state| state.answered).map(|at| at.elapsed()),
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
            let Some(answered) = write_annotations(context, object, me, None).await? else {
                return Ok(Err(CONFLICT_REQUEUE));
            };
            if contender != me {
                warn!(
                    export,
                    contender,
                    operator = me,
                    "another operator would serve it, and is told that it is ours"
                );
                context.registry.with(uid, |entry| {
                    entry.contention.state().contender = Some((contender, Instant::now()));
                });
            }
            Some(answered)
        }
        ClaimStep::TakeOver => {
            // Before it is written: what another process of our name began until then is left behind.
            let since = (context.now)();
            let Some(taken) = write_annotations(context, object, me, None).await? else {
                return Ok(Err(CONFLICT_REQUEUE));
            };
            if operator.is_some() {
                info!(
                    export,
                    from = other,
                    operator = me,
                    "its operator does not answer: taken over"
                );
            }
            context.registry.with(uid, |entry| {
                entry.restart_requested |= operator.is_some();
                entry.contention.0 = None;
                entry.contention.state().since = Some(since);
            });
            Some(taken)
        }
        ClaimStep::Probe => {
            yield_export(context, uid, |state| state.asked = Some(Instant::now()));
            let holder = operator.as_deref().unwrap_or_default();
            if write_annotations(context, object, holder, Some(me))
                .await?
                .is_none()
            {
                yield_export(context, uid, |state| state.asked = None);
                return Ok(Err(CONFLICT_REQUEUE));
            }
            info!(export, other, "another operator's; asked whether it is there");
            return Ok(Err(context.answer_timeout));
        }
        ClaimStep::Yield => {
            warn!(
                export,
                other,
                operator = me,
                "another operator serves it: left alone"
            );
            yield_export(context, uid, |state| {
                (state.asked, state.answered) = (None, Some(Instant::now()));
            });
            let allowed = || {
                let take = |entry: &mut super::entry::ExportEntry| entry.rate_limit.take(Instant::now());
                context.registry.with(uid, take).unwrap_or(false)
            };
            let note = events::served_elsewhere_event(&other, me);
            context.recorder.record(object, vec![note], allowed).await;
            return Ok(Err(context.answer_timeout * PROBE_INTERVAL_FACTOR));
        }
        ClaimStep::Wait(rest) => {
            yield_export(context, uid, |_| ());
            return Ok(Err(rest.max(CONFLICT_REQUEUE)));
        }
    };
    Ok(Ok(claimed))
}

/// Another serves it: what is under way here ends, and begins anew should it be ours again.
fn yield_export(context: &ReconcileContext, uid: &str, note: impl FnOnce(&mut ContentionState)) {
    context.registry.stop(uid);
    context.registry.with(uid, |entry| {
        let state = entry.contention.state();
        (state.served_by_other, state.contender) = (true, None);
        note(state);
        entry.restart_requested = true;
    });
}

/// Writes both names, over the version that was read only; the resource with them, or `None` where it was another.
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
            asked: None,
            answered: None,
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
        let contended_step = |contender, asked: Option<u64>, answered: Option<u64>| {
            claim_step(&ClaimObservation {
                asked: asked.map(Duration::from_secs),
                answered: answered.map(Duration::from_secs),
                ..observed(Some("b/other"), contender)
            })
        };
        assert_eq!(contended_step(None, None, None), ClaimStep::Probe);
        // By this process before it was started again: asked anew, so that the whole wait is its own.
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
