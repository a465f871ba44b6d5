//! Attempt at one window, from a free slot to its receipt: a state machine that returns its outcome and what it left. I/O.
//!
//! Prepare and open (`open`), then one [`Step`] after another: transfer, evaluate (`evaluate`), commit (`commit`); close
//! always.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::commit::{CountComparison, ReceiptWrite, StagedObject, commit_empty, commit_object, publish_body};
use super::failure::Failure;
use super::journal_io::put_record;
use super::least_speed::{too_slow, transfer_slow};
use super::observer::WindowResult;
use super::open::{
    JournaledSessions, OpenAttempt, OpenFailure, OpenOutcome, discard_attempt, open_session, stopped,
};
use super::revision::{RevisionProgress, RevisionTarget, finish_revision};
use super::run_context::RunContext;
use super::task_events::TaskEvent;
use crate::api::Reason;
use crate::archive::counts::{DayListing, EmptyAnswer};
use crate::archive::layout::{AttemptId, Key};
use crate::archive::listing::ExpiredFacts;
use crate::archive::receipt::body_key;
use crate::archive::records::{ArchiveRecord, ExpiredRecord, Receipt, SOFTWARE};
use crate::archive::window::Window;
use crate::pipeline::copy::{CopyControl, CopyError, CopyProgress, copy};
use crate::pipeline::prover_pool::ProofFacts;
use crate::pipeline::store_sink::{StagedBody, StoreSink, StoreSinkError, StoreTarget};
use crate::shares::recall::RecallPermit;
use crate::storage::PutMode;
use crate::tracker::{DownloadResponse, TransferEnd};

/// Time until a window is tried again whose day, and every later one, the service does not list yet: 30 min.
const LISTING_POLL: SignedDuration = SignedDuration::from_mins(30);

/// Time in which an attempt whose session is asked back ends by itself: 3 s. A store that does not answer keeps no session from
/// others.
const YIELD_TIME: Duration = Duration::from_secs(3);

/// Result of the export of a window.
#[derive(Debug)]
pub(super) enum WindowOutcome {
    /// The window was stored, or proved empty.
    Stored(Box<Receipt>),
    /// Another holder stored the window, or part of it.
    Covered,
    /// The service no longer has the window.
    Expired(ExpiredFacts),
    /// The stored window was downloaded again and has no more events than before.
    Unchanged,
    /// Its session was asked back for an export without one: the window waits for another.
    Yielded,
}

/// State that an attempt leaves in the journal and at the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leftover {
    /// The attempt.
    pub(super) id: AttemptId,
    /// True if it certainly has no session open.
    pub(super) closed: bool,
    /// True if keys of it may be left in the journal: recovery deletes them, and what they name.
    pub(super) journaled: bool,
}

/// Result of an attempt, with what it left.
#[derive(Debug)]
pub(super) struct AttemptReport {
    pub(super) outcome: Result<WindowOutcome, Failure>,
    /// `None`: the attempt was never in the journal.
    pub(super) leftover: Option<Leftover>,
}

impl From<Failure> for AttemptReport {
    fn from(failure: Failure) -> Self {
        Self {
            outcome: Err(failure),
            leftover: None,
        }
    }
}

/// Evidence from outside an attempt.
#[derive(Clone, Debug, Default)]
pub(super) struct PriorEvidence {
    /// For an hour: events of the other hours of its day (see [`EmptyEvidence`]).
    pub(super) other_hours: Option<u64>,
    /// Time of the last attempt, if it found the window before the oldest day that the service lists.
    pub(super) before_oldest_since: Option<Timestamp>,
    /// True if the last attempt failed because the data ended inside an event.
    pub(super) uncounted_before: bool,
    /// Set if the window is stored and its day has late events: the revision to store.
    pub(super) revision: Option<RevisionTarget>,
    /// Reason of the last failure, with the count of the service that it observed.
    pub(super) last_failure: Option<(Reason, Option<u64>)>,
    /// Sessions that the journal names, for the message of a full space.
    pub(super) journaled_sessions: Arc<JournaledSessions>,
}

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
    let outcome = attempt.run_until_deadline().await;
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

/// Attempt with an open session.
pub(super) struct Attempt<'a> {
    pub(super) ctx: &'a RunContext,
    pub(super) opened: &'a OpenAttempt,
    /// Right to hold a session of the space.
    slot: &'a RecallPermit,
    /// Listing from before the download.
    pub(super) before: Option<&'a DayListing>,
    pub(super) prior: PriorEvidence,
    /// True once the transfer gave its place up.
    too_slow: AtomicBool,
    /// Cancelled when the run stops, at the deadline, and when the transfer gives its place or its session up.
    stop: CancellationToken,
}

/// Next step of an attempt with an open session. A step that fails leaves nothing in the store, or sets
/// [`OpenAttempt::needs_recovery`].
pub(super) enum Step {
    /// Download the session into the store.
    Transfer,
    /// Compare what arrived with the counts of the service.
    Evaluate(Box<StagedObject>),
    /// Find out why nothing arrived.
    EvaluateEmpty(NoEvents),
    /// Publish the object, then write the receipt.
    Commit(Box<StagedObject>, ProofFacts, CountComparison),
    /// Write the receipt of a window without events.
    CommitEmpty(NoEvents, CountComparison),
    /// Publish the later body of a stored window and its supplement, then write the receipt of the revision.
    CommitRevision(Box<StagedObject>, ProofFacts, CountComparison),
    /// Record that the service no longer has the window.
    RecordExpired(NoEvents, Date),
    /// The attempt succeeded.
    Done(WindowOutcome),
}

/// Answer without events.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoEvents {
    pub(super) answer: EmptyAnswer,
    /// End of the transfer; `None`: there was none.
    pub(super) end: Option<TransferEnd>,
}

impl Attempt<'_> {
    /// Downloads and stores the window; abandons it at the deadline, since other holders may then take it over.
    async fn run_until_deadline(&self) -> Result<WindowOutcome, Failure> {
        let deadline = async {
            tokio::time::sleep_until(self.opened.deadline).await;
            // The transfer aborts its upload before it ends.
            self.stop.cancel();
            std::future::pending().await
        };
        let outcome = tokio::select! {
            outcome = self.run(Step::Transfer) => outcome,
            never = deadline => never,
            () = self.recalled_for_long() => {
                // As after a crash: recovery finishes what was about to be stored, or deletes it.
                self.opened.needs_recovery.store(true, Ordering::Relaxed);
                Err(stopped())
            }
        };
        match outcome {
            Err(failure) if failure == stopped() && !self.ctx.stop.is_cancelled() => {
                if self.too_slow.load(Ordering::Relaxed) {
                    Err(transfer_slow(self.window()))
                } else if self.slot.is_recalled() {
                    Ok(WindowOutcome::Yielded)
                } else {
                    Err(self.past_deadline())
                }
            }
            outcome => outcome,
        }
    }

    /// Takes the steps one after another.
    async fn run(&self, mut step: Step) -> Result<WindowOutcome, Failure> {
        loop {
            step = match step {
                Step::Transfer => tokio::select! {
                    step = self.transfer() => step?,
                    never = self.stop_if_recalled() => never,
                },
                Step::Evaluate(staged) => self.evaluate(staged).await?,
                Step::EvaluateEmpty(no_events) => self.evaluate_empty(no_events).await?,
                Step::Commit(staged, proof, comparison) => self.commit(*staged, proof, comparison).await?,
                Step::CommitRevision(staged, proof, comparison) => {
                    self.commit_revision(*staged, proof, comparison).await?
                }
                Step::CommitEmpty(no_events, comparison) => self.commit_empty(no_events, comparison).await?,
                Step::RecordExpired(no_events, oldest_listed) => {
                    self.record_expired(no_events.answer, oldest_listed).await?
                }
                Step::Done(outcome) => return Ok(outcome),
            };
        }
    }

    fn past_deadline(&self) -> Failure {
        let message = format!(
            "{}: not stored within {} s, the maximum duration of an attempt; it was abandoned, since another process may then take the window over",
            self.window(),
            self.ctx.shared.limits.attempt.as_secs()
        );
        Failure {
            // A day that is too slow is split into hours.
            timed_out: true,
            ..Failure::retry(Reason::DownloadIncomplete, message)
        }
    }

    /// Fails if the attempt must not store anything any more.
    pub(super) fn check_deadline(&self) -> Result<(), Failure> {
        if Instant::now() >= self.opened.deadline {
            return Err(self.past_deadline());
        }
        Ok(())
    }

    pub(super) fn window(&self) -> Window {
        self.opened.id.window
    }

    /// Returns once the attempt had time to end after its session was asked back.
    async fn recalled_for_long(&self) {
        self.slot.recalled().await;
        tokio::time::sleep(YIELD_TIME).await;
    }

    /// Ends the transfer if its session is asked back.
    async fn stop_if_recalled(&self) -> Step {
        self.slot.recalled().await;
        // The transfer aborts its upload before it ends.
        self.stop.cancel();
        std::future::pending().await
    }

    async fn transfer(&self) -> Result<Step, Failure> {
        self.opened
            .session
            .check()
            .map_err(|mismatch| Failure::from(&mismatch))?;
        let RunContext { peers, export, .. } = self.ctx;
        let answer = tokio::select! {
            answer = peers.tracker.download(&export.space, self.opened.session.id()) => answer,
            () = self.stop.cancelled() => return Err(stopped()),
        };
        let download = match answer.map_err(|error| Failure::from_download_start(&error))? {
            DownloadResponse::NotFound => return Ok(without_transfer(EmptyAnswer::NotFound)),
            DownloadResponse::NoContent => return Ok(without_transfer(EmptyAnswer::NoContent)),
            DownloadResponse::Body(download) => download,
        };
        let key = self.key();
        let announced = download.announced();
        let (received, shown) = watch::channel(0);
        let event = TaskEvent::TransferStarted {
            window: self.window(),
            announced,
            bytes: shown.clone(),
        };
        self.ctx.events.send(event).await;
        let progress = |progress: CopyProgress| {
            let before = received.send_replace(progress.bytes);
            self.ctx
                .shared
                .observer
                .bytes_downloaded(progress.bytes.saturating_sub(before));
        };
        let day = self.window().date();
        let hint = self.before.and_then(|listing| listing.size_hint(day));
        let (pool, awaits_memory) = (&self.ctx.shared.pool, AtomicBool::new(false));
        let target = StoreTarget {
            store: &peers.store,
            key: &key,
            part_bytes: pool.part_bytes(hint),
            pool,
            tenant: &self.ctx.tenant,
            order: self.window().order(),
            awaits_memory: &awaits_memory,
            stop: &self.stop,
            needs_recovery: &self.opened.needs_recovery,
            options: self.opened.publisher().options(),
        };
        let control = CopyControl {
            stop: &self.stop,
            progress: &progress,
        };
        let mut prover = self.ctx.shared.proofs.begin();
        let mut sink = StoreSink::new(target, None);
        let copy = copy(*download, &mut prover, &mut sink, &control);
        let give_up_if_slow = async {
            too_slow(&shown, &awaits_memory, || self.ctx.is_owing()).await;
            self.too_slow.store(true, Ordering::Relaxed);
            // The copy aborts its upload before it ends.
            self.stop.cancel();
            std::future::pending().await
        };
        let staged = tokio::select! {
            staged = copy.instrument(tracing::info_span!("download")) => staged,
            never = give_up_if_slow => never,
        };
        let staged = staged.map_err(|error| self.copy_failure(error))?;
        Ok(Step::Evaluate(Box::new(staged)))
    }

    async fn commit(
        &self,
        staged: StagedObject,
        proof: ProofFacts,
        comparison: CountComparison,
    ) -> Result<Step, Failure> {
        let span = tracing::info_span!("commit", events = proof.stats.events.events, bytes = staged.bytes);
        let committed = commit_object(self.ctx, self.opened, staged, proof, comparison);
        let committed = committed.instrument(span).await;
        if committed.is_err() {
            // The object may exist without its receipt.
            self.opened.needs_recovery.store(true, Ordering::Relaxed);
        }
        committed.map(receipt_written)
    }

    async fn commit_revision(
        &self,
        staged: StagedObject,
        proof: ProofFacts,
        comparison: CountComparison,
    ) -> Result<Step, Failure> {
        let Some(target) = &self.prior.revision else {
            return self.commit(staged, proof, comparison).await;
        };
        let span = tracing::info_span!("commit", events = proof.stats.events.events, bytes = staged.bytes);
        // The bodies may exist without their receipt. An upload of the transfer may be left besides.
        let of_transfer = self.opened.needs_recovery.swap(true, Ordering::Relaxed);
        let published = publish_body(self.ctx, self.opened, staged, proof, comparison);
        let receipt = published.instrument(span).await?;
        let span = tracing::info_span!("supplement", revision = target.number);
        let uploads_left = AtomicBool::new(of_transfer);
        let progress = RevisionProgress {
            attested: true,
            needs_recovery: &uploads_left,
            stop: &self.stop,
        };
        let finished = finish_revision(self.ctx, self.opened.id, target, receipt, &progress);
        let finished = Box::pin(finished.instrument(span)).await?;
        let left = uploads_left.into_inner();
        self.opened.needs_recovery.store(left, Ordering::Relaxed);
        self.check_changed(&finished, comparison).await?;
        Ok(receipt_written(finished))
    }

    async fn commit_empty(&self, no_events: NoEvents, comparison: CountComparison) -> Result<Step, Failure> {
        let NoEvents { answer, end } = no_events;
        let committed = commit_empty(self.ctx, self.opened, answer, end, comparison).await;
        if committed.is_err() {
            // The receipt may exist without its signature.
            self.opened.needs_recovery.store(true, Ordering::Relaxed);
        }
        committed.map(receipt_written)
    }

    async fn record_expired(&self, answer: EmptyAnswer, oldest_listed: Date) -> Result<Step, Failure> {
        let RunContext { peers, export, .. } = self.ctx;
        let record = ExpiredRecord {
            schema: ExpiredRecord::SCHEMA.to_owned(),
            source: export.source.clone(),
            oldest_listed,
            answer,
            seen_at: self.opened.started_at,
            software: SOFTWARE.to_owned(),
        };
        let key = Key::Expired(self.window());
        put_record(&*peers.store, &export.root, &key, &record, PutMode::Overwrite)
            .await
            .map_err(|error| Failure::from(&error))?;
        Ok(Step::Done(WindowOutcome::Expired(ExpiredFacts::new(record))))
    }

    /// Aborts the upload of a body that will not be committed.
    pub(super) async fn discard(&self, staged: StagedObject) {
        if let StagedBody::Multipart(upload, _) = staged.body
            && let Err(error) = self.ctx.peers.store.abort_upload(&upload).await
        {
            self.opened.needs_recovery.store(true, Ordering::Relaxed);
            tracing::warn!(key = upload.key, %error, "cannot abort upload, recovery will retry");
        }
    }

    fn copy_failure(&self, error: CopyError<StoreSinkError>) -> Failure {
        let window = self.window();
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

    fn key(&self) -> String {
        let key = body_key(self.window(), self.opened.revision);
        self.ctx.export.root.key(&key).unwrap_or_default()
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
