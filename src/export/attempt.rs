//! Takes an attempt at one window from a free slot to its receipt: a state machine that returns its outcome and what it left.
//! I/O.
//!
//! Prepare and open (`open`), then one [`Step`] after another: transfer, evaluate (`evaluate`), commit (`commit`); close
//! always.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::SignedDuration;
use jiff::civil::Date;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::attempt_state::{Attempt, AttemptReport, NoEvents, PriorEvidence, Step, WindowOutcome};
use super::commit::{CountComparison, ReceiptWrite, commit_empty, commit_object, publish_body};
use super::evaluate::{evaluate, evaluate_empty};
use super::failure::{Failure, stopped};
use super::journal_io::put_record;
use super::later_body::check_changed;
use super::least_speed::{too_slow, transfer_slow};
use super::observer::WindowResult;
use super::open::{Leftover, OpenAttempt, OpenFailure, OpenOutcome, discard_attempt, open_session};
use super::publish::StagedObject;
use super::revision::{RevisionProgress, finish_revision};
use super::run_context::RunContext;
use super::task_events::TaskEvent;
use crate::api::Reason;
use crate::archive::counts::{DayListing, EmptyAnswer};
use crate::archive::layout::Key;
use crate::archive::listing::ExpiredFacts;
use crate::archive::records::{ArchiveRecord, ExpiredRecord, SOFTWARE};
use crate::archive::window::Window;
use crate::pipeline::copy::{CopyControl, CopyError, CopyProgress, copy};
use crate::pipeline::prover_pool::ProofFacts;
use crate::pipeline::store_sink::{StoreSink, StoreSinkError, StoreTarget};
use crate::shares::recall::RecallPermit;
use crate::storage::PutMode;
use crate::tracker::DownloadResponse;

/// Time until a window is tried again whose day, and every later one, the service does not list yet: 30 min.
const LISTING_POLL: SignedDuration = SignedDuration::from_mins(30);

/// Time in which an attempt whose session is asked back ends by itself: 3 s. A store that does not answer keeps no session from
/// others.
const YIELD_TIME: Duration = Duration::from_secs(3);

/// Exports one window when a slot is free, and reports the result to the observer.
pub(super) async fn export_window(ctx: &RunContext, window: Window, prior: PriorEvidence) -> AttemptReport {
    let permits = async {
        // A service that does not answer keeps no place from others.
        listing_before(ctx, window).await?;
        ctx.sessions.wait().await;
        // The session slot of the space first, so that a window that waits for one takes no window slot from other spaces.
        loop {
            let slot = ctx.budget.acquire_slot(&ctx.tenant, window).await;
            tokio::select! {
                place = ctx.shared.window_slots.acquire(&ctx.tenant, window.order()) => return Ok((slot, place)),
                () = slot.recalled() => {}
            }
        }
    };
    let span = ctx.window_span(window);
    let permits = tokio::select! {
        permits = permits.instrument(span.clone()) => permits,
        () = ctx.stop.cancelled() => Err(stopped()),
    };
    let started = Instant::now();
    let report = match &permits {
        Ok((slot, _place)) => run_attempt(ctx, window, prior, slot).instrument(span).await,
        Err(failure) if *failure == stopped() => return stopped().into(),
        Err(failure) => failure.clone().into(),
    };
    let end = match &report.outcome {
        Ok(WindowOutcome::Stored(receipt)) => match &receipt.object {
            Some(object) if receipt.revision > 0 => WindowResult::Revised {
                events: receipt.supplement_events.unwrap_or(0),
                bytes: object.bytes,
            },
            Some(object) => WindowResult::Stored {
                events: receipt.events,
                bytes: object.bytes,
            },
            None => WindowResult::Empty,
        },
        Ok(WindowOutcome::Covered) => WindowResult::Covered,
        Ok(WindowOutcome::Unchanged) => WindowResult::Unchanged,
        Ok(WindowOutcome::Yielded) => WindowResult::Yielded,
        Ok(WindowOutcome::Expired(_)) => WindowResult::Expired,
        Err(failure) if *failure == stopped() => WindowResult::Stopped,
        Err(failure) => WindowResult::Failed(failure.reason),
    };
    ctx.shared.observer.window_finished(end, started.elapsed());
    report
}

/// Takes a window through the steps: prepare, open, download, evaluate, commit, close.
async fn run_attempt(
    ctx: &RunContext,
    window: Window,
    prior: PriorEvidence,
    slot: &RecallPermit,
) -> AttemptReport {
    let listing = match listing_before(ctx, window).await {
        Ok(listing) => listing,
        Err(failure) => return failure.into(),
    };
    let span = tracing::info_span!("session", attempt = Empty);
    let revision = prior.revision.as_ref().map_or(0, |target| target.number);
    let opened = open_session(ctx, window, revision, &prior.journaled_sessions);
    let opened = match opened.instrument(span).await {
        Ok(OpenOutcome::Opened(opened)) => opened,
        Ok(OpenOutcome::Covered(leftover)) => {
            return AttemptReport {
                outcome: Ok(WindowOutcome::Covered),
                leftover: Some(leftover),
            };
        }
        Err(OpenFailure { failure, leftover }) => {
            return AttemptReport {
                outcome: Err(failure),
                leftover,
            };
        }
    };
    tracing::Span::current().record("attempt", opened.id.ulid.to_string());
    let attempt = Attempt {
        ctx,
        opened: &opened,
        slot,
        before: listing.as_deref(),
        prior,
        too_slow: AtomicBool::new(false),
        stop: ctx.stop.child_token(),
    };
    let outcome = run_until_deadline(&attempt).await;
    let span = tracing::info_span!("close");
    let leftover = close_session(ctx, *opened).instrument(span).await;
    AttemptReport {
        outcome,
        leftover: Some(leftover),
    }
}

/// Returns the listing from before the download of a window; `None`: the service gives none. Fails if it does not list the
/// day yet.
async fn listing_before(ctx: &RunContext, window: Window) -> Result<Option<Arc<DayListing>>, Failure> {
    let listing = ctx.listing_cache.before(window.date()).await?;
    let (settled_at, now) = (ctx.export.due_at(window), (ctx.shared.now)());
    let not_listed_yet =
        |listing: &Arc<DayListing>| listing.is_not_listed_yet(window.date(), settled_at, now);
    if listing.as_ref().is_some_and(not_listed_yet) {
        let message = format!("{window}: the service lists neither this day nor a later one yet");
        let until = now.checked_add(LISTING_POLL).ok();
        return Err(Failure::wait(Reason::NotListedYet, message, until));
    }
    Ok(listing)
}

/// Deletes the session, then its journal keys. A failure is logged and never replaces the outcome: recovery deletes what
/// is left.
async fn close_session(ctx: &RunContext, opened: OpenAttempt) -> Leftover {
    let OpenAttempt {
        needs_recovery,
        id,
        session,
        started_at: _,
        deadline: _,
        support: _,
        revision: _,
        // Held until the end: recovery leaves the session alone until then.
        held: _held,
    } = opened;
    let session = session.id().to_owned();
    let in_journal = |closed| Leftover {
        id,
        closed,
        journaled: true,
    };
    if let Err(error) = ctx.space_sessions().close(&session).await {
        tracing::warn!(session, %error, "cannot delete session, will retry");
        return in_journal(false);
    }
    ctx.events.send(TaskEvent::SessionClosed(session.clone())).await;
    if needs_recovery.into_inner() {
        in_journal(true)
    } else {
        discard_attempt(ctx, id, Some(session)).await
    }
}

/// Downloads and stores the window; abandons it at the deadline, since other holders may then take it over.
async fn run_until_deadline(attempt: &Attempt<'_>) -> Result<WindowOutcome, Failure> {
    let deadline = async {
        tokio::time::sleep_until(attempt.opened.deadline).await;
        // The transfer aborts its upload before it ends.
        attempt.stop.cancel();
        std::future::pending().await
    };
    let outcome = tokio::select! {
        outcome = take_steps(attempt, Step::Transfer) => outcome,
        never = deadline => never,
        () = recalled_for_long(attempt) => {
            // As after a crash: recovery finishes what was about to be stored, or deletes it.
            attempt.opened.needs_recovery.store(true, Ordering::Relaxed);
            Err(stopped())
        }
    };
    match outcome {
        Err(failure) if failure == stopped() && !attempt.ctx.stop.is_cancelled() => {
            if attempt.too_slow.load(Ordering::Relaxed) {
                Err(transfer_slow(attempt.window()))
            } else if attempt.slot.is_recalled() {
                Ok(WindowOutcome::Yielded)
            } else {
                Err(attempt.past_deadline())
            }
        }
        outcome => outcome,
    }
}

/// Takes the steps one after another.
async fn take_steps(attempt: &Attempt<'_>, mut step: Step) -> Result<WindowOutcome, Failure> {
    loop {
        step = match step {
            Step::Transfer => tokio::select! {
                step = transfer(attempt) => step?,
                never = stop_if_recalled(attempt) => never,
            },
            Step::Evaluate(staged) => evaluate(attempt, staged).await?,
            Step::EvaluateEmpty(no_events) => evaluate_empty(attempt, no_events).await?,
            Step::Commit(staged, proof, comparison) => {
                commit_window(attempt, *staged, proof, comparison).await?
            }
            Step::CommitRevision(staged, proof, comparison) => {
                commit_revision(attempt, *staged, proof, comparison).await?
            }
            Step::CommitEmpty(no_events, comparison) => {
                commit_without_events(attempt, no_events, comparison).await?
            }
            Step::RecordExpired(no_events, oldest_listed) => {
                record_expired(attempt, no_events.answer, oldest_listed).await?
            }
            Step::Done(outcome) => return Ok(outcome),
        };
    }
}

/// Returns once the attempt had time to end after its session was asked back.
async fn recalled_for_long(attempt: &Attempt<'_>) {
    attempt.slot.recalled().await;
    tokio::time::sleep(YIELD_TIME).await;
}

/// Ends the transfer if its session is asked back.
async fn stop_if_recalled(attempt: &Attempt<'_>) -> Step {
    attempt.slot.recalled().await;
    // The transfer aborts its upload before it ends.
    attempt.stop.cancel();
    std::future::pending().await
}

async fn transfer(attempt: &Attempt<'_>) -> Result<Step, Failure> {
    attempt
        .opened
        .session
        .check()
        .map_err(|mismatch| Failure::from(&mismatch))?;
    let RunContext { peers, export, .. } = attempt.ctx;
    let answer = tokio::select! {
        answer = peers.tracker.download(&export.space, attempt.opened.session.id()) => answer,
        () = attempt.stop.cancelled() => return Err(stopped()),
    };
    let download = match answer.map_err(|error| Failure::from_download_start(&error))? {
        DownloadResponse::NotFound => return Ok(without_transfer(EmptyAnswer::NotFound)),
        DownloadResponse::NoContent => return Ok(without_transfer(EmptyAnswer::NoContent)),
        DownloadResponse::Body(download) => download,
    };
    let key = attempt.key();
    let announced = download.announced();
    let (received, shown) = watch::channel(0);
    let event = TaskEvent::TransferStarted {
        window: attempt.window(),
        announced,
        bytes: shown.clone(),
    };
    attempt.ctx.events.send(event).await;
    let progress = |progress: CopyProgress| {
        let before = received.send_replace(progress.bytes);
        attempt
            .ctx
            .shared
            .observer
            .bytes_downloaded(progress.bytes.saturating_sub(before));
    };
    let day = attempt.window().date();
    let hint = attempt.before.and_then(|listing| listing.size_hint(day));
    let (pool, awaits_memory) = (&attempt.ctx.shared.pool, AtomicBool::new(false));
    let target = StoreTarget {
        store: &peers.store,
        key: &key,
        part_bytes: pool.part_bytes(hint),
        pool,
        tenant: &attempt.ctx.tenant,
        order: attempt.window().order(),
        awaits_memory: &awaits_memory,
        stop: &attempt.stop,
        needs_recovery: &attempt.opened.needs_recovery,
        options: attempt.opened.publisher().options(),
    };
    let control = CopyControl {
        stop: &attempt.stop,
        progress: &progress,
    };
    let mut prover = attempt.ctx.shared.proofs.begin();
    let mut sink = StoreSink::new(target, None);
    let copy = copy(*download, &mut prover, &mut sink, &control);
    let give_up_if_slow = async {
        too_slow(&shown, &awaits_memory, || attempt.ctx.is_owing()).await;
        attempt.too_slow.store(true, Ordering::Relaxed);
        // The copy aborts its upload before it ends.
        attempt.stop.cancel();
        std::future::pending().await
    };
    let staged = tokio::select! {
        staged = copy.instrument(tracing::info_span!("download")) => staged,
        never = give_up_if_slow => never,
    };
    let staged = staged.map_err(|error| copy_failure(attempt, error))?;
    Ok(Step::Evaluate(Box::new(staged)))
}

async fn commit_window(
    attempt: &Attempt<'_>,
    staged: StagedObject,
    proof: ProofFacts,
    comparison: CountComparison,
) -> Result<Step, Failure> {
    let span = tracing::info_span!("commit", events = proof.stats.events.events, bytes = staged.bytes);
    let committed = commit_object(attempt.ctx, attempt.opened, staged, proof, comparison);
    let committed = committed.instrument(span).await;
    if committed.is_err() {
        // The object may exist without its receipt.
        attempt.opened.needs_recovery.store(true, Ordering::Relaxed);
    }
    committed.map(receipt_written)
}

async fn commit_revision(
    attempt: &Attempt<'_>,
    staged: StagedObject,
    proof: ProofFacts,
    comparison: CountComparison,
) -> Result<Step, Failure> {
    let Some(target) = &attempt.prior.revision else {
        return commit_window(attempt, staged, proof, comparison).await;
    };
    let span = tracing::info_span!("commit", events = proof.stats.events.events, bytes = staged.bytes);
    // The bodies may exist without their receipt. An upload of the transfer may be left besides.
    let of_transfer = attempt.opened.needs_recovery.swap(true, Ordering::Relaxed);
    let published = publish_body(attempt.ctx, attempt.opened, staged, proof, comparison);
    let receipt = published.instrument(span).await?;
    let span = tracing::info_span!("supplement", revision = target.number);
    let uploads_left = AtomicBool::new(of_transfer);
    let progress = RevisionProgress {
        attested: true,
        needs_recovery: &uploads_left,
        stop: &attempt.stop,
    };
    let finished = finish_revision(attempt.ctx, attempt.opened.id, target, receipt, &progress);
    let finished = Box::pin(finished.instrument(span)).await?;
    let left = uploads_left.into_inner();
    attempt.opened.needs_recovery.store(left, Ordering::Relaxed);
    check_changed(attempt, &finished, comparison).await?;
    Ok(receipt_written(finished))
}

async fn commit_without_events(
    attempt: &Attempt<'_>,
    no_events: NoEvents,
    comparison: CountComparison,
) -> Result<Step, Failure> {
    let NoEvents { answer, end } = no_events;
    let committed = commit_empty(attempt.ctx, attempt.opened, answer, end, comparison).await;
    if committed.is_err() {
        // The receipt may exist without its signature.
        attempt.opened.needs_recovery.store(true, Ordering::Relaxed);
    }
    committed.map(receipt_written)
}

async fn record_expired(
    attempt: &Attempt<'_>,
    answer: EmptyAnswer,
    oldest_listed: Date,
) -> Result<Step, Failure> {
    let RunContext { peers, export, .. } = attempt.ctx;
    let record = ExpiredRecord {
        schema: ExpiredRecord::SCHEMA.to_owned(),
        source: export.source.clone(),
        oldest_listed,
        answer,
        seen_at: attempt.opened.started_at,
        software: SOFTWARE.to_owned(),
    };
    let key = Key::Expired(attempt.window());
    put_record(&*peers.store, &export.root, &key, &record, PutMode::Overwrite)
        .await
        .map_err(|error| Failure::from(&error))?;
    Ok(Step::Done(WindowOutcome::Expired(ExpiredFacts::new(record))))
}

fn copy_failure(attempt: &Attempt<'_>, error: CopyError<StoreSinkError>) -> Failure {
    let window = attempt.window();
    match error {
        CopyError::Download(error) => Failure::from_download(window, &error),
        CopyError::Proof(error) => Failure::from_proof(window, &error),
        CopyError::Sink(StoreSinkError::Store(error)) => Failure::from(&error),
        CopyError::Sink(StoreSinkError::TooLarge) if window.hour_of_day().is_none() => Failure::retry(
            Reason::TooLarge,
            format!("{window} is larger than the store's maximum object size: it is split into hours"),
        ),
        CopyError::Sink(StoreSinkError::TooLarge) => Failure::manual(
            Reason::TooLarge,
            format!(
                "{window} is larger than the store's maximum object size, and an hour cannot be split further"
            ),
        ),
        CopyError::Stopped => stopped(),
    }
}

const fn without_transfer(answer: EmptyAnswer) -> Step {
    Step::EvaluateEmpty(NoEvents { answer, end: None })
}

fn receipt_written(written: ReceiptWrite) -> Step {
    Step::Done(match written {
        ReceiptWrite::Written(receipt) => WindowOutcome::Stored(receipt),
        ReceiptWrite::WrittenByOther => WindowOutcome::Covered,
    })
}
