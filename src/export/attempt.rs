//! Export of one window, from a free slot to its receipt: the steps in order. I/O.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::commit::{
    ATTEMPT_METADATA, CountComparison, ReceiptWrite, StagedObject, commit_empty, commit_object,
};
use super::failure::{Failure, Observed, RetryClass};
use super::journal_io::put_record;
use super::observer::WindowResult;
use super::open::{JournaledSessions, OpenAttempt, OpenFailure, OpenOutcome, open_session, stopped};
use super::recovery::delete_attempt_keys;
use super::run_context::RunContext;
use super::task_events::TaskEvent;
use crate::api::Reason;
use crate::archive::counts::{
    self, DayListing, EmptyAnswer, EmptyEvidence, EmptyVerdict, Shortfall, Verdict,
};
use crate::archive::layout::{AttemptId, Key};
use crate::archive::listing::ExpiredFacts;
use crate::archive::records::{ArchiveRecord, ExpiredRecord, Receipt, SOFTWARE};
use crate::archive::window::Window;
use crate::pipeline::copy::{CopyControl, CopyError, CopyProgress, copy};
use crate::pipeline::events::{EventCount, UncountedReason};
use crate::pipeline::part_pool::PartReservation;
use crate::pipeline::store_sink::{StagedBody, StoreSink, StoreSinkError, StoreTarget};
use crate::storage::{Crc64, ObjectClass, PutMode, PutOptions};
use crate::tracker::DownloadResponse;

/// Time until a window is tried again whose day, and every later one, the service does not list yet: 30 min.
const LISTING_POLL: SignedDuration = SignedDuration::from_mins(30);

/// Result of the export of a window.
#[derive(Debug)]
pub(super) enum WindowOutcome {
    /// The window was stored, or proved empty.
    Stored(Box<Receipt>),
    /// Another holder stored the window, or part of it.
    Covered,
    /// The service no longer has the window.
    Expired(ExpiredFacts),
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
    /// Sessions that the journal names, for the message of a full space.
    pub(super) journaled_sessions: Arc<JournaledSessions>,
}

/// Exports one window when a slot is free, and reports the result to the observer.
pub(super) async fn export_window(ctx: &RunContext, window: Window, prior: PriorEvidence) -> AttemptReport {
    // The session slot of the space first, so that a window that waits for one takes no window slot from other spaces.
    let permits = async {
        let slot = ctx.budget.acquire_slot(window).await;
        (slot, ctx.shared.window_slots.acquire(window).await)
    };
    let _permits = tokio::select! {
        permits = permits => permits,
        () = ctx.stop.cancelled() => return stopped().into(),
    };
    let (span, started) = (ctx.window_span(window), Instant::now());
    let report = run_attempt(ctx, window, prior).instrument(span).await;
    let end = match &report.outcome {
        Ok(WindowOutcome::Stored(receipt)) => match &receipt.object {
            Some(object) => WindowResult::Stored {
                events: receipt.events,
                bytes: object.bytes,
            },
            None => WindowResult::Empty,
        },
        Ok(WindowOutcome::Covered) => WindowResult::Covered,
        Ok(WindowOutcome::Expired(_)) => WindowResult::Expired,
        Err(failure) if *failure == stopped() => WindowResult::Stopped,
        Err(failure) => WindowResult::Failed(failure.reason),
    };
    ctx.shared.observer.window_finished(end, started.elapsed());
    report
}

/// Takes a window through the steps: prepare, open, download, evaluate, commit, close.
async fn run_attempt(ctx: &RunContext, window: Window, prior: PriorEvidence) -> AttemptReport {
    let prepared = match prepare(ctx, window).await {
        Ok(prepared) => prepared,
        Err(failure) => return failure.into(),
    };
    let span = tracing::info_span!("session", attempt = Empty);
    let opened = open_session(ctx, window, &prior.journaled_sessions);
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
        before: prepared.listing.as_deref(),
        prior,
        part_bytes: prepared.part_bytes,
        stop: ctx.stop.child_token(),
    };
    let outcome = attempt.run_until_deadline(prepared.reservation).await;
    let span = tracing::info_span!("close");
    let leftover = close_session(ctx, *opened).instrument(span).await;
    AttemptReport {
        outcome,
        leftover: Some(leftover),
    }
}

/// Evidence and memory that a window needs before its session.
struct Prepared {
    /// Listing from before the download; `None`: the service gives none.
    listing: Option<Arc<DayListing>>,
    part_bytes: u64,
    /// Memory for one part: a window with a session never waits for memory.
    reservation: PartReservation,
}

/// Lists the day and reserves memory for one part.
async fn prepare(ctx: &RunContext, window: Window) -> Result<Prepared, Failure> {
    let listing = ctx.listing_cache.before(window.date()).await?;
    let (settled_at, now) = (ctx.export.due_at(window), (ctx.shared.now)());
    let not_listed_yet =
        |listing: &Arc<DayListing>| listing.is_not_listed_yet(window.date(), settled_at, now);
    if listing.as_ref().is_some_and(not_listed_yet) {
        let message = format!("{window}: the service lists neither this day nor a later one yet");
        let until = now.checked_add(LISTING_POLL).ok();
        return Err(Failure::wait(Reason::NotListedYet, message, until));
    }
    let hint = listing
        .as_ref()
        .and_then(|listing| listing.size_hint(window.date()));
    let part_bytes = ctx.shared.pool.part_bytes(hint);
    let reservation = tokio::select! {
        reservation = ctx.shared.pool.reserve(part_bytes) => reservation.ok_or_else(stopped)?,
        () = ctx.stop.cancelled() => return Err(stopped()),
    };
    Ok(Prepared {
        listing,
        part_bytes,
        reservation,
    })
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
        // Held until the end: recovery leaves the session alone until then.
        held: _held,
    } = opened;
    let session = session.id().to_owned();
    let leftover = |closed, journaled| Leftover {
        id,
        closed,
        journaled,
    };
    if let Err(error) = ctx.space_sessions().close(&session).await {
        tracing::warn!(session, %error, "cannot delete session, will retry");
        return leftover(false, true);
    }
    ctx.events.send(TaskEvent::SessionClosed(session.clone())).await;
    if needs_recovery.into_inner() {
        return leftover(true, true);
    }
    let deleted = delete_attempt_keys(ctx, id, &[session]).await;
    if let Err(failure) = &deleted {
        tracing::warn!(attempt = %id, error = failure.message, "cannot delete obsolete journal keys, recovery will retry");
    }
    leftover(true, deleted.is_err())
}

struct Attempt<'a> {
    ctx: &'a RunContext,
    opened: &'a OpenAttempt,
    before: Option<&'a DayListing>,
    prior: PriorEvidence,
    part_bytes: u64,
    /// Cancelled when the run stops, and at the deadline.
    stop: CancellationToken,
}

impl Attempt<'_> {
    /// Downloads and stores the window; abandons it at the deadline, since other holders may then take it over.
    async fn run_until_deadline(&self, reservation: PartReservation) -> Result<WindowOutcome, Failure> {
        let deadline = async {
            tokio::time::sleep_until(self.opened.deadline).await;
            // The transfer aborts its upload before it ends.
            self.stop.cancel();
            std::future::pending().await
        };
        let outcome = tokio::select! {
            outcome = self.download(reservation) => outcome,
            never = deadline => never,
        };
        match outcome {
            Err(failure) if failure == stopped() && !self.ctx.stop.is_cancelled() => {
                Err(self.past_deadline())
            }
            outcome => outcome,
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
    fn check_deadline(&self) -> Result<(), Failure> {
        if Instant::now() >= self.opened.deadline {
            return Err(self.past_deadline());
        }
        Ok(())
    }

    fn window(&self) -> Window {
        self.opened.id.window
    }

    async fn download(&self, reservation: PartReservation) -> Result<WindowOutcome, Failure> {
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
            DownloadResponse::NotFound => return self.evaluate_empty(EmptyAnswer::NotFound, None).await,
            DownloadResponse::NoContent => return self.evaluate_empty(EmptyAnswer::NoContent, None).await,
            DownloadResponse::Body(download) => download,
        };
        let key = self.key();
        let announced = download.announced();
        let (received, shown) = watch::channel(0);
        let event = TaskEvent::TransferStarted {
            window: self.window(),
            announced,
            bytes: shown,
        };
        self.ctx.events.send(event).await;
        let progress = |progress: CopyProgress| {
            let before = received.send_replace(progress.bytes);
            self.ctx
                .shared
                .observer
                .bytes_downloaded(progress.bytes.saturating_sub(before));
        };
        let target = StoreTarget {
            store: &peers.store,
            key: &key,
            part_bytes: self.part_bytes,
            pool: &self.ctx.shared.pool,
            stop: &self.stop,
            needs_recovery: &self.opened.needs_recovery,
            options: self.options(Crc64::of(b"")),
        };
        let control = CopyControl {
            stop: &self.stop,
            progress: &progress,
        };
        let mut prover = self.ctx.shared.proofs.begin();
        let mut sink = StoreSink::new(target, reservation);
        let staged = copy(*download, &mut prover, &mut sink, &control)
            .instrument(tracing::info_span!("download"))
            .await
            .map_err(|error| self.copy_failure(error))?;
        self.evaluate(staged).await
    }

    async fn evaluate(&self, staged: StagedObject) -> Result<WindowOutcome, Failure> {
        let window = self.window();
        let proof = match &staged.proof {
            Some(proof) if proof.stats.events.events > 0 || proof.stats.events.uncounted.is_some() => {
                proof.clone()
            }
            Some(_) => {
                return self
                    .evaluate_empty(EmptyAnswer::GzipOfNothing, Some(staged))
                    .await;
            }
            None => return self.evaluate_empty(EmptyAnswer::ZeroBytes, Some(staged)).await,
        };
        let listing_cache = &self.ctx.listing_cache;
        let after = match listing_cache.day_since(window.date(), Instant::now()).await {
            Ok(after) => after,
            Err(failure) => {
                self.discard(staged).await;
                return Err(failure);
            }
        };
        let comparison = self.compare_counts(proof.stats.events, after.as_deref());
        let (_, shortfalls) = counts::evaluate_transfer(
            proof.stats.events,
            staged.end,
            comparison.before,
            comparison.after,
        );
        let refused = shortfalls
            .into_iter()
            .find_map(|shortfall| self.refusal(shortfall, proof.stats.events));
        if let Some(failure) = refused.or_else(|| self.check_deadline().err()) {
            self.discard(staged).await;
            return Err(failure);
        }
        let span = tracing::info_span!("commit", events = proof.stats.events.events, bytes = staged.bytes);
        let committed = commit_object(self.ctx, self.opened, staged, proof, comparison);
        match committed.instrument(span).await {
            Ok(ReceiptWrite::Written(receipt)) => Ok(WindowOutcome::Stored(receipt)),
            Ok(ReceiptWrite::WrittenByOther) => Ok(WindowOutcome::Covered),
            Err(failure) => {
                // The object may exist without its receipt.
                self.opened.needs_recovery.store(true, Ordering::Relaxed);
                Err(failure)
            }
        }
    }

    /// Returns the failure of a body that does not cover the window; `None` if it is stored all the same.
    fn refusal(&self, shortfall: Shortfall, count: EventCount) -> Option<Failure> {
        let window = self.window();
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
                    uncounted.reason == UncountedReason::Unfinished && !self.prior.uncounted_before
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
    fn compare_counts(&self, events: EventCount, after: Option<&DayListing>) -> CountComparison {
        let window = self.window();
        let count = |listing: Option<&DayListing>| listing.and_then(|listing| listing.count(window));
        let of_day =
            |listing: Option<&DayListing>| listing.and_then(|listing| listing.count_of_day(window.date()));
        let by_hour = window.hour_of_day().is_some();
        let (before, after, of_day) = (
            count(self.before),
            count(after),
            of_day(self.before).max(of_day(after)).filter(|_| by_hour),
        );
        CountComparison {
            before,
            after,
            of_day,
            verdict: counts::evaluate_count(events, before, after),
        }
    }

    /// Returns the counts of a window that is proved to have no events: a day that the listing omits has 0.
    fn counts_of_empty(&self, after: Option<&DayListing>) -> CountComparison {
        let window = self.window();
        let comparison = self.compare_counts(EventCount::default(), after);
        let omitted = |listing: Option<&DayListing>| {
            let omits = listing.is_some_and(|listing| listing.omits(window.date()));
            (omits && window.hour_of_day().is_none()).then_some(0)
        };
        CountComparison {
            before: comparison.before.or_else(|| omitted(self.before)),
            after: comparison.after.or_else(|| omitted(after)),
            verdict: Verdict::Empty,
            ..comparison
        }
    }

    /// Evaluates an answer without events: writes a receipt only if it is proved that there were none.
    async fn evaluate_empty(
        &self,
        answer: EmptyAnswer,
        staged: Option<StagedObject>,
    ) -> Result<WindowOutcome, Failure> {
        let RunContext { peers, export, .. } = self.ctx;
        let end = staged.as_ref().map(|staged| staged.end);
        if let Some(staged) = staged {
            self.discard(staged).await;
        }
        let session = peers
            .tracker
            .get_session(&export.space, self.opened.session.id())
            .await;
        let session_readable = session.map_err(|error| Failure::from(&error))?.is_some();
        let listing = self.ctx.listing_cache.all_since(Instant::now()).await?;
        let evidence = EmptyEvidence {
            window: self.window(),
            session_readable,
            listing: listing.as_deref(),
            other_hours: self.prior.other_hours,
        };
        let window = self.window();
        self.check_deadline()?;
        match counts::evaluate_empty(&evidence) {
            EmptyVerdict::Proved => {
                let comparison = self.counts_of_empty(listing.as_deref());
                commit_empty(self.ctx, self.opened, answer, end, comparison)
                    .await
                    .map(|committed| match committed {
                        ReceiptWrite::Written(receipt) => WindowOutcome::Stored(receipt),
                        ReceiptWrite::WrittenByOther => WindowOutcome::Covered,
                    })
            }
            EmptyVerdict::BeforeOldest(oldest) if !self.is_second_look() => {
                let message = format!(
                    "{window}: the service returned no events ({answer:?}), and the oldest day that it lists is {oldest}: the window is expired if a second look shows the same"
                );
                Err(Failure {
                    class: RetryClass::Retry(Some(self.ctx.shared.limits.second_look)),
                    ..Failure::retry(Reason::EmptyUnproved, message).with_observed(Observed::BeforeOldest)
                })
            }
            EmptyVerdict::BeforeOldest(oldest_listed) => {
                let record = ExpiredRecord {
                    schema: ExpiredRecord::SCHEMA.to_owned(),
                    source: export.source.clone(),
                    oldest_listed,
                    answer,
                    seen_at: self.opened.started_at,
                    software: SOFTWARE.to_owned(),
                };
                put_record(
                    &*peers.store,
                    &export.root,
                    &Key::Expired(window),
                    &record,
                    PutMode::Overwrite,
                )
                .await
                .map_err(|error| Failure::from(&error))?;
                Ok(WindowOutcome::Expired(ExpiredFacts::new(record)))
            }
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

    /// Returns true if an earlier attempt, long enough ago, found the window before the oldest listed day too.
    fn is_second_look(&self) -> bool {
        let shared = &self.ctx.shared;
        let interval = SignedDuration::try_from(shared.limits.second_look).unwrap_or(SignedDuration::MAX);
        let first = self.prior.before_oldest_since;
        first.is_some_and(|first| (shared.now)().duration_since(first) >= interval)
    }

    /// Aborts the upload of a body that will not be committed.
    async fn discard(&self, staged: StagedObject) {
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
        self.ctx
            .export
            .root
            .key(&Key::Events(self.window()))
            .unwrap_or_default()
    }

    fn options(&self, crc64: Crc64) -> PutOptions {
        let mode = if self.opened.support.complete {
            PutMode::Create
        } else {
            PutMode::Overwrite
        };
        let metadata = vec![(ATTEMPT_METADATA.to_owned(), self.opened.id.to_string())];
        PutOptions {
            mode,
            crc64,
            metadata,
            content_type: "application/gzip",
            class: ObjectClass::Events,
        }
    }
}
