//! Which operator serves a resource, where several would: those of one Lease take turns by it, and for those of
//! different Leases the resource itself says, in an annotation, whose it is. Writes the annotations of resources.
//!
//! Nothing is renewed. Who finds another's name there asks, by a second annotation; who serves it takes the question
//! away, and that is the answer. Where none comes, the resource is taken over. Safety does not hang on it: should both
//! work for a while, the journal keeps them apart ([`Tenure`](crate::export::wish::Tenure)).

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tracing::{info, warn};

use super::context::Context;
use super::election::Times;
use super::events;
use crate::api::EventExport;

/// Annotation: namespace and name of the Lease of the operator that serves the resource.
pub const OPERATOR: &str = "eventexport.io/operator";

/// Annotation: the same of an operator that would serve it, and asks whether the other one does.
pub const CONTENDER: &str = "eventexport.io/contender";

/// How long after an answer it is asked again, in times of [`patience`]: with that, how long it takes until an operator
/// that is gone is noticed. 3 min by default, both together.
const ASK_AGAIN: u32 = 2;

/// How long after its last question a contender is shown: longer than it takes to ask again.
const SHOWN: Duration = Duration::from_mins(5);

/// How long to wait before the next look where a newer version of the resource was met.
const SOON: Duration = Duration::from_millis(500);

/// Longest name of another operator that is shown, in characters: two DNS names.
const NAME_CHARS: usize = 320;

/// How long an operator may take to answer: enough for another of its processes to take over its Lease.
pub(super) fn patience(times: &Times) -> Duration {
    times.duration * 4
}

/// What is remembered of other operators that would serve a resource. Empty for almost all.
#[derive(Debug, Default)]
pub(super) struct Others(Option<Box<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    /// Since when an answer is waited for.
    asked: Option<Instant>,
    /// When the other one answered that it serves it.
    answered: Option<Instant>,
    /// Who asked us, and when last.
    contender: Option<(String, Instant)>,
    /// Since when it is ours, where it was another's or nobody's before.
    since: Option<Timestamp>,
    /// Another serves it.
    elsewhere: bool,
}

impl Others {
    fn memory(&mut self) -> &mut Memory {
        self.0.get_or_insert_default()
    }

    /// Since when it is ours, where it was not from the start.
    pub(super) fn since(&self) -> Option<Timestamp> {
        self.0.as_ref()?.since
    }

    /// Whether another serves it.
    pub(super) fn are_serving(&self) -> bool {
        self.0.as_ref().is_some_and(|memory| memory.elsewhere)
    }

    /// Who else would serve it, and how much longer that is shown.
    pub(super) fn contender(&self) -> Option<(&str, Duration)> {
        let (name, asked) = self.0.as_ref()?.contender.as_ref()?;
        let left = SHOWN.checked_sub(asked.elapsed())?;
        Some((name, left))
    }
}

/// What is known when it is decided whose a resource is.
#[derive(Clone, Copy, Debug)]
struct Seen<'a> {
    me: &'a str,
    operator: Option<&'a str>,
    contender: Option<&'a str>,
    /// For how long an answer is waited for.
    asked: Option<Duration>,
    /// How long ago one came.
    answered: Option<Duration>,
    patience: Duration,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is ours.
    Serve,
    /// It is ours, and who asks is told so.
    Answer,
    /// It is nobody's, or its operator is gone: it is ours from now on.
    Take,
    /// Its operator is asked whether it is there.
    Ask,
    /// It answered.
    Answered,
    /// Nothing, for so long.
    Wait(Duration),
}

fn step(seen: &Seen<'_>) -> Step {
    match seen.operator {
        None => Step::Take,
        Some(operator) if operator == seen.me => match seen.contender {
            None => Step::Serve,
            Some(_) => Step::Answer,
        },
        Some(_) => match (seen.asked, seen.contender) {
            (Some(_), None) => Step::Answered,
            // Who does not answer a third one either is gone.
            (Some(waited), Some(_)) => match seen.patience.checked_sub(waited) {
                None | Some(Duration::ZERO) => Step::Take,
                Some(rest) => Step::Wait(rest),
            },
            (None, _) => match seen
                .answered
                .and_then(|ago| (seen.patience * ASK_AGAIN).checked_sub(ago))
            {
                None | Some(Duration::ZERO) => Step::Ask,
                Some(rest) => Step::Wait(rest),
            },
        },
    }
}

/// Makes it ours, if it may be; else how long to leave it alone. Returns the resource as it is since then, where that
/// was written: what is written next goes over that version.
pub(super) async fn claim(
    context: &Context,
    object: &EventExport,
    uid: &str,
) -> kube::Result<Result<Option<EventExport>, Duration>> {
    let me = context.operator.as_str();
    let annotated = |object: &EventExport, name: &str| object.annotations().get(name).cloned();
    let mut read = None;
    if annotated(object, OPERATOR).is_some_and(|operator| operator != me) {
        // What the watch has seen may be older than what this process wrote last.
        let newest = context.api(object).get_opt(&object.name_any()).await?;
        match newest.filter(|newest| newest.metadata.uid == object.metadata.uid) {
            Some(newest) => read = Some(newest),
            None => return Ok(Err(SOON)),
        }
    }
    let object = read.as_ref().unwrap_or(object);
    let (operator, contender) = (annotated(object, OPERATOR), annotated(object, CONTENDER));
    let step = context.runs.with(uid, |entry| {
        let memory = entry.others.0.as_deref();
        step(&Seen {
            me,
            operator: operator.as_deref(),
            contender: contender.as_deref(),
            asked: memory.and_then(|memory| memory.asked).map(|at| at.elapsed()),
            answered: memory.and_then(|memory| memory.answered).map(|at| at.elapsed()),
            patience: context.patience,
        })
    });
    let Some(step) = step else { return Ok(Err(SOON)) };
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let export = format!("{namespace}/{name}");
    let other = cut(operator.as_deref().unwrap_or_default());
    let claimed = match step {
        Step::Serve => None,
        Step::Answer => {
            let contender = cut(contender.as_deref().unwrap_or_default());
            let Some(answered) = write(context, object, me, None).await? else {
                return Ok(Err(SOON));
            };
            if contender != me {
                warn!(
                    export,
                    contender,
                    operator = me,
                    "another operator would serve it, and is told that it is ours"
                );
                context.runs.with(uid, |entry| {
                    entry.others.memory().contender = Some((contender, Instant::now()));
                });
            }
            Some(answered)
        }
        Step::Take => {
            // Before it is written: what another process of our name began until then is left behind.
            let since = (context.now)();
            let Some(taken) = write(context, object, me, None).await? else {
                return Ok(Err(SOON));
            };
            if operator.is_some() {
                info!(
                    export,
                    from = other,
                    operator = me,
                    "its operator does not answer: taken over"
                );
            }
            context.runs.with(uid, |entry| {
                entry.afresh |= operator.is_some();
                entry.others.0 = None;
                entry.others.memory().since = Some(since);
            });
            Some(taken)
        }
        Step::Ask => {
            elsewhere(context, uid, |memory| memory.asked = Some(Instant::now()));
            let theirs = operator.as_deref().unwrap_or_default();
            if write(context, object, theirs, Some(me)).await?.is_none() {
                elsewhere(context, uid, |memory| memory.asked = None);
                return Ok(Err(SOON));
            }
            info!(export, other, "another operator's; asked whether it is there");
            return Ok(Err(context.patience));
        }
        Step::Answered => {
            warn!(
                export,
                other,
                operator = me,
                "another operator serves it: left alone"
            );
            elsewhere(context, uid, |memory| {
                (memory.asked, memory.answered) = (None, Some(Instant::now()));
            });
            let allowed = || {
                let take = |entry: &mut super::entry::Entry| entry.allowance.take(Instant::now());
                context.runs.with(uid, take).unwrap_or(false)
            };
            let note = events::served_elsewhere(&other, me);
            context.announcer.tell(object, vec![note], allowed).await;
            return Ok(Err(context.patience * ASK_AGAIN));
        }
        Step::Wait(rest) => {
            elsewhere(context, uid, |_| ());
            return Ok(Err(rest.max(SOON)));
        }
    };
    Ok(Ok(claimed))
}

/// Another serves it: what is under way here ends, and begins anew should it be ours again.
fn elsewhere(context: &Context, uid: &str, note: impl FnOnce(&mut Memory)) {
    context.runs.stop(uid);
    context.runs.with(uid, |entry| {
        let memory = entry.others.memory();
        (memory.elsewhere, memory.contender) = (true, None);
        note(memory);
        entry.afresh = true;
    });
}

/// Writes both names, over the version that was read only; the resource with them, or `None` where it was another.
async fn write(
    context: &Context,
    object: &EventExport,
    operator: &str,
    contender: Option<&str>,
) -> kube::Result<Option<EventExport>> {
    let body = json!({ "metadata": {
        "uid": object.metadata.uid,
        "resourceVersion": object.metadata.resource_version,
        "annotations": { OPERATOR: operator, CONTENDER: contender },
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

fn cut(name: &str) -> String {
    name.chars().take(NAME_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_mins(1);

    fn seen<'a>(operator: Option<&'a str>, contender: Option<&'a str>) -> Seen<'a> {
        Seen {
            me: "a/me",
            operator,
            contender,
            asked: None,
            answered: None,
            patience: PATIENCE,
        }
    }

    #[test]
    fn who_serves_it_goes_on_and_answers() {
        assert_eq!(step(&seen(None, None)), Step::Take);
        assert_eq!(step(&seen(None, Some("b/other"))), Step::Take);
        assert_eq!(step(&seen(Some("a/me"), None)), Step::Serve);
        assert_eq!(step(&seen(Some("a/me"), Some("b/other"))), Step::Answer);
    }

    #[test]
    fn who_would_serve_it_asks_waits_and_takes_it_only_where_nobody_answers() {
        let theirs = |contender, asked: Option<u64>, answered: Option<u64>| {
            step(&Seen {
                asked: asked.map(Duration::from_secs),
                answered: answered.map(Duration::from_secs),
                ..seen(Some("b/other"), contender)
            })
        };
        assert_eq!(theirs(None, None, None), Step::Ask);
        // By this process before it was started again: asked anew, so that the whole wait is its own.
        assert_eq!(theirs(Some("a/me"), None, None), Step::Ask);
        assert_eq!(
            theirs(Some("a/me"), Some(59), None),
            Step::Wait(Duration::from_secs(1))
        );
        assert_eq!(theirs(Some("a/me"), Some(60), None), Step::Take);
        assert_eq!(theirs(Some("c/third"), Some(61), None), Step::Take);
        assert_eq!(theirs(None, Some(1), None), Step::Answered);
        assert_eq!(theirs(None, None, Some(110)), Step::Wait(Duration::from_secs(10)));
        assert_eq!(theirs(None, None, Some(120)), Step::Ask);
    }
}
