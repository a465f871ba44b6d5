//! Evaluation of what a session returned: the counts of the service are evidence, its silence is not. I/O with the service
//! for the counts; `archive/counts` decides.

use jiff::SignedDuration;
use tokio::time::Instant;

use super::attempt_state::{Attempt, NoEvents, Step, WindowOutcome};
use super::commit::CountComparison;
use super::failure::{Failure, Observed, RetryClass};
use super::later_body::{LaterBody, evaluate_later_body, not_given};
use super::publish::StagedObject;
use super::revision::RevisionTarget;
use super::run_context::RunContext;
use crate::api::Reason;
use crate::archive::counts::{
    self, DayListing, EmptyAnswer, EmptyEvidence, EmptyVerdict, Shortfall, Verdict,
};
use crate::pipeline::events::{EventCount, UncountedReason};
use crate::pipeline::prover_pool::ProofFacts;

/// Evaluates a transferred body. Aborts its upload unless it will be committed.
pub(super) async fn evaluate(attempt: &Attempt<'_>, staged: Box<StagedObject>) -> Result<Step, Failure> {
    let without_events = |answer| {
        Step::EvaluateEmpty(NoEvents {
            answer,
            end: Some(staged.end),
        })
    };
    let next = match staged.proof.clone() {
        Some(proof) if proof.stats.events.events > 0 || proof.stats.events.uncounted.is_some() => {
            match compare(attempt, &staged, &proof).await {
                Ok(comparison) => match evaluate_later_body(attempt, &proof, comparison).await {
                    Ok(LaterBody::None) => return Ok(Step::Commit(staged, proof, comparison)),
                    Ok(LaterBody::Grown) => return Ok(Step::CommitRevision(staged, proof, comparison)),
                    Ok(LaterBody::Unchanged) => Ok(Step::Done(WindowOutcome::Unchanged)),
                    Err(failure) => Err(failure),
                },
                Err(failure) => Err(failure),
            }
        }
        Some(_) => Ok(without_events(EmptyAnswer::GzipOfNothing)),
        None => Ok(without_events(EmptyAnswer::ZeroBytes)),
    };
    attempt.discard(*staged).await;
    next
}

/// Compares a body with events with the counts of the service. Fails if it must not be committed.
async fn compare(
    attempt: &Attempt<'_>,
    staged: &StagedObject,
    proof: &ProofFacts,
) -> Result<CountComparison, Failure> {
    let window = attempt.window();
    let listing_cache = &attempt.ctx.listing_cache;
    let after = listing_cache.day_since(window.date(), Instant::now()).await?;
    let comparison = compare_counts(attempt, proof.stats.events, after.as_deref());
    let events = proof.stats.events;
    let (_, shortfalls) = counts::evaluate_transfer(events, staged.end, comparison.before, comparison.after);
    let mut refusals = shortfalls
        .into_iter()
        .filter_map(|shortfall| refusal(attempt, shortfall, events));
    if let Some(failure) = refusals.next() {
        return Err(match failure.observed {
            Some(Observed::Count(reported)) => not_given(attempt, failure, reported).await,
            _ => failure,
        });
    }
    attempt.check_deadline()?;
    Ok(comparison)
}

/// Returns the failure of a body that does not cover the window; `None` if it is stored all the same.
fn refusal(attempt: &Attempt<'_>, shortfall: Shortfall, count: EventCount) -> Option<Failure> {
    let window = attempt.window();
    match shortfall {
        Shortfall::Short { reported } => {
            let message = format!(
                "{window}: downloaded {} events, but the service reports {reported}",
                count.events
            );
            Some(Failure::retry(Reason::Short, message).with_observed(Observed::Count(reported)))
        }
        // A transfer that ended early looks the same: once more, then the bytes are stored as they are.
        Shortfall::Uncounted { reported: _ } => {
            let uncounted = count.uncounted.filter(|uncounted| {
                uncounted.reason == UncountedReason::Unfinished && !attempt.prior.uncounted_before
            })?;
            let message = format!("{window}: {uncounted}; it is downloaded once more");
            Some(Failure::retry(Reason::EventsUncounted, message))
        }
        Shortfall::EndUnconfirmed => {
            let message = format!(
                "{window}: the connection closed before the end of the data was confirmed, and the service neither confirms it nor reports a matching event count"
            );
            Some(Failure::retry(Reason::DownloadIncomplete, message))
        }
    }
}

/// Compares the counted events with the listings before and after the download.
fn compare_counts(attempt: &Attempt<'_>, events: EventCount, after: Option<&DayListing>) -> CountComparison {
    let window = attempt.window();
    let count = |listing: Option<&DayListing>| listing.and_then(|listing| listing.count(window));
    let of_day =
        |listing: Option<&DayListing>| listing.and_then(|listing| listing.count_of_day(window.date()));
    let by_hour = window.hour_of_day().is_some();
    let (before, after, of_day) = (
        count(attempt.before),
        count(after),
        of_day(attempt.before).max(of_day(after)).filter(|_| by_hour),
    );
    CountComparison {
        before,
        after,
        of_day,
        verdict: counts::evaluate_count(events, before, after),
    }
}

/// Returns the counts of a window that is proved to have no events: a day that the listing omits has 0.
fn counts_of_empty(attempt: &Attempt<'_>, after: Option<&DayListing>) -> CountComparison {
    let window = attempt.window();
    let comparison = compare_counts(attempt, EventCount::default(), after);
    let omitted = |listing: Option<&DayListing>| {
        let omits = listing.is_some_and(|listing| listing.omits(window.date()));
        (omits && window.hour_of_day().is_none()).then_some(0)
    };
    CountComparison {
        before: comparison.before.or_else(|| omitted(attempt.before)),
        after: comparison.after.or_else(|| omitted(after)),
        verdict: Verdict::Empty,
        ..comparison
    }
}

/// Evaluates an answer without events: a receipt is written only if it is proved that there were none.
pub(super) async fn evaluate_empty(attempt: &Attempt<'_>, no_events: NoEvents) -> Result<Step, Failure> {
    let RunContext { peers, export, .. } = attempt.ctx;
    let answer = no_events.answer;
    let session = peers
        .tracker
        .get_session(&export.space, attempt.opened.session.id())
        .await;
    let session_readable = session.map_err(|error| Failure::from(&error))?.is_some();
    let listing = attempt.ctx.listing_cache.all_since(Instant::now()).await?;
    let evidence = EmptyEvidence {
        window: attempt.window(),
        session_readable,
        listing: listing.as_deref(),
        // The other hours of a day with late events may lack them too.
        other_hours: attempt
            .prior
            .other_hours
            .filter(|_| attempt.prior.revision.is_none()),
    };
    let window = attempt.window();
    attempt.check_deadline()?;
    let verdict = counts::evaluate_empty(&evidence);
    if let Some(target) = &attempt.prior.revision {
        return evaluate_later_silence(attempt, target, verdict, no_events).await;
    }
    match verdict {
        EmptyVerdict::Proved => {
            let comparison = counts_of_empty(attempt, listing.as_deref());
            Ok(Step::CommitEmpty(no_events, comparison))
        }
        EmptyVerdict::BeforeOldest(oldest) if !is_second_look(attempt) => {
            let message = format!(
                "{window}: the service returned no events ({answer:?}), and the oldest day that it lists is {oldest}: the window is expired if a second look shows the same"
            );
            Err(Failure {
                class: RetryClass::Retry(Some(attempt.ctx.shared.limits.second_look)),
                ..Failure::retry(Reason::EmptyUnproved, message).with_observed(Observed::BeforeOldest)
            })
        }
        EmptyVerdict::BeforeOldest(oldest_listed) => Ok(Step::RecordExpired(no_events, oldest_listed)),
        EmptyVerdict::Short(reported) => {
            let message = format!("{window}: downloaded no events, but the service reports {reported}");
            Err(Failure::retry(Reason::Short, message).with_observed(Observed::Count(reported)))
        }
        EmptyVerdict::ShortOfDay {
            other_hours,
            reported,
        } => {
            let message = format!(
                "{window}: the service returned no events ({answer:?}), but the other hours have only {other_hours} of the {reported} events that it reports for the day: wait for the retry, or accept the gap in spec.acceptedGaps"
            );
            Err(Failure::retry(Reason::Short, message).with_observed(Observed::Count(reported)))
        }
        // A lost session or one refused listing proves nothing about the day; a retry may.
        EmptyVerdict::Unproved(reason) => {
            let message = format!(
                "{window}: the service returned no events ({answer:?}), and {reason}: wait for the retry, or accept the gap in spec.acceptedGaps"
            );
            Err(Failure::retry(Reason::EmptyUnproved, message))
        }
    }
}

/// Evaluates an answer without events for a stored window.
async fn evaluate_later_silence(
    attempt: &Attempt<'_>,
    target: &RevisionTarget,
    verdict: EmptyVerdict,
    no_events: NoEvents,
) -> Result<Step, Failure> {
    let (window, answer) = (attempt.window(), no_events.answer);
    match verdict {
        _ if target.events == 0 && window.hour_of_day().is_some() => Ok(Step::Done(WindowOutcome::Unchanged)),
        EmptyVerdict::Short(reported) => {
            let message = format!("{window}: downloaded no events, but the service reports {reported}");
            let failure = Failure::retry(Reason::Short, message).with_observed(Observed::Count(reported));
            Err(not_given(attempt, failure, reported).await)
        }
        EmptyVerdict::BeforeOldest(oldest) => {
            let message = format!(
                "{window}: the service reported {} events, returned none ({answer:?}), and the oldest day that it lists is {oldest}",
                target.reported
            );
            let failure =
                Failure::retry(Reason::Short, message).with_observed(Observed::Count(target.reported));
            Err(not_given(attempt, failure, target.reported).await)
        }
        EmptyVerdict::Proved | EmptyVerdict::ShortOfDay { .. } | EmptyVerdict::Unproved(_) => {
            let message = format!(
                "{window}: {} events are stored, and the service returned none ({answer:?}): wait for the retry",
                target.events
            );
            Err(Failure::retry(Reason::EmptyUnproved, message))
        }
    }
}

/// Returns true if an earlier attempt, long enough ago, found the window before the oldest listed day too.
fn is_second_look(attempt: &Attempt<'_>) -> bool {
    let shared = &attempt.ctx.shared;
    let interval = SignedDuration::try_from(shared.limits.second_look).unwrap_or(SignedDuration::MAX);
    let first = attempt.prior.before_oldest_since;
    first.is_some_and(|first| (shared.now)().duration_since(first) >= interval)
}
