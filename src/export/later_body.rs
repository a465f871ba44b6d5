//! Evaluation of a later body of a stored window: it must have all stored events. Records at the store what does not.

use super::attempt_state::Attempt;
use super::commit::{CountComparison, ReceiptWrite};
use super::failure::Failure;
use super::journal_io::put_record;
use crate::api::Reason;
use crate::archive::counts::latest_count;
use crate::archive::layout::Key;
use crate::archive::records::{ArchiveRecord as _, ChangedRecord, LateRecord, SOFTWARE};
use crate::pipeline::prover_pool::ProofFacts;
use crate::storage::PutMode;

/// Comparison of a later body with what is stored, by the number of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaterBody {
    /// Nothing is stored: it is the first body.
    None,
    /// It has more events.
    Grown,
    /// It has as many events.
    Unchanged,
}

/// Whether this process or an earlier one saw a later body that lacks stored events before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// It differs from the one that was stored last.
    Now,
    /// It has the bytes of the one that was stored last.
    Again,
}

/// Compares the events of a later body with those that are stored.
pub(super) async fn evaluate_later_body(
    attempt: &Attempt<'_>,
    proof: &ProofFacts,
    comparison: CountComparison,
) -> Result<LaterBody, Failure> {
    let Some(target) = &attempt.prior.revision else {
        return Ok(LaterBody::None);
    };
    let (window, count) = (attempt.window(), proof.stats.events);
    let reported = comparison.after.or(comparison.before).or(comparison.of_day);
    if let Some(kept) = &target.changed
        && kept.sha256.to_string() == proof.sha256
    {
        let changed = ChangedRecord {
            events: count.events,
            missing: kept.missing,
        };
        return Err(body_changed(attempt, changed, reported, Seen::Again).await);
    }
    if let Some(uncounted) = count.uncounted {
        let message = format!(
            "{window}: the day has late events, and its body cannot be counted to its end: {uncounted}; nothing was stored"
        );
        return Err(Failure::manual(Reason::EventsUncounted, message));
    }
    if count.events < target.events {
        let changed = ChangedRecord {
            events: count.events,
            missing: target.events - count.events,
        };
        return Err(body_changed(attempt, changed, reported, Seen::Now).await);
    }
    Ok(if count.events == target.events {
        LaterBody::Unchanged
    } else {
        LaterBody::Grown
    })
}

/// Fails if the revision that was just written has a body that lacks stored events.
pub(super) async fn check_changed(
    attempt: &Attempt<'_>,
    written: &ReceiptWrite,
    comparison: CountComparison,
) -> Result<(), Failure> {
    let ReceiptWrite::Written(receipt) = written else {
        return Ok(());
    };
    let Some(missing) = receipt.missing_events else {
        return Ok(());
    };
    let changed = ChangedRecord {
        events: receipt.events,
        missing,
    };
    let reported = latest_count(comparison.before, comparison.after).or(comparison.of_day);
    Err(body_changed(attempt, changed, reported, Seen::Now).await)
}

/// Returns the failure of a later body that lacks stored events. A service may give such a body for a time, so it is
/// downloaded once more before a person decides.
async fn body_changed(
    attempt: &Attempt<'_>,
    changed: ChangedRecord,
    reported: Option<u64>,
    seen: Seen,
) -> Failure {
    let window = attempt.window();
    let target = attempt.prior.revision.as_ref();
    let stored = target.map_or(0, |target| target.events);
    let ChangedRecord { events, missing } = changed;
    let message = format!(
        "{window}: {stored} events are stored, and the service now sends {events} that lack {missing} of them; \
         nothing was replaced"
    );
    let last = attempt.prior.last_failure.map(|(reason, _)| reason);
    if seen == Seen::Now && last != Some(Reason::DayChanged) {
        return Failure::retry(Reason::DayChanged, message);
    }
    let reported = target
        .map_or(0, |target| target.reported)
        .max(reported.unwrap_or(0));
    match record_late(attempt, reported, Some(changed)).await {
        Ok(()) => Failure::manual(Reason::DayChanged, message),
        Err(failure) => failure,
    }
}

/// Records that the service reports late events of a stored window and does not send them, if it is so for the second
/// time. Returns the failure.
pub(super) async fn not_given(attempt: &Attempt<'_>, failure: Failure, reported: u64) -> Failure {
    let again = attempt.prior.last_failure == Some((Reason::Short, Some(reported)));
    if attempt.prior.revision.is_none() || !again {
        return failure;
    }
    match record_late(attempt, reported, None).await {
        Ok(()) => failure,
        Err(failure) => failure,
    }
}

/// Writes the record of late events that are not stored. It may replace an older one.
async fn record_late(
    attempt: &Attempt<'_>,
    reported: u64,
    changed: Option<ChangedRecord>,
) -> Result<(), Failure> {
    let store = &*attempt.ctx.peers.store;
    let seen_at = store.now().await.map_err(|error| Failure::from(&error))?;
    let stored = attempt.prior.revision.as_ref().map_or(0, |target| target.events);
    let record = LateRecord {
        schema: LateRecord::SCHEMA.to_owned(),
        source: attempt.ctx.export.source.clone(),
        stored,
        reported,
        changed,
        seen_at,
        software: SOFTWARE.to_owned(),
    };
    let key = Key::Late(attempt.window());
    put_record(store, &attempt.ctx.export.root, &key, &record, PutMode::Overwrite)
        .await
        .map(drop)
        .map_err(|error| Failure::from(&error))
}
