//! Export of one window, from a free slot to its receipt: the steps in order. I/O.

use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::commit::{ATTEMPT_METADATA, CountComparison, ReceiptWrite, commit_empty, commit_object};
use super::failure::Failure;
use super::journal_io::{delete_keys, put_record};
use super::observer::WindowResult;
use super::open::{OpenAttempt, OpenOutcome, open_session, stopped};
use super::pool::PartReservation;
use super::run_context::{RunContext, lock};
use super::snapshot::TransferFacts;
use super::transfer::{StagedBody, StagedObject, TransferContext, TransferError, transfer};
use crate::api::Reason;
use crate::archive::counts::{
    self, DayListing, EmptyAnswer, EmptyEvidence, EmptyVerdict, Verdict, partial_count_suffices,
};
use crate::archive::layout::Key;
use crate::archive::records::{ArchiveRecord, ExpiredRecord, Receipt, SOFTWARE};
use crate::archive::window::Window;
use crate::pipeline::events::{EventCount, UncountedReason};
use crate::storage::{Crc64, ObjectClass, PutMode, PutOptions};
use crate::tracker::{DownloadResponse, TransferEnd};

/// Maximum age of a listing that counts as "before" the download: 10 min.
const LISTING_MAX_AGE: std::time::Duration = std::time::Duration::from_mins(10);

/// Result of the export of a window.
#[derive(Debug)]
pub(super) enum WindowOutcome {
    /// The window was stored, or proved empty.
    Stored(Box<Receipt>),
    /// Another holder stored the window, or part of it.
    Covered,
    /// The service no longer has the window.
    Expired,
}

/// Exports one window when a slot is free, and reports the result to the observer.
/// `other_hours`, for an hour: events of the other hours of its day (see [`EmptyEvidence`]). `uncounted_before`: the last
/// attempt failed because the data ended inside an event.
pub(super) async fn export_window(
    ctx: &RunContext,
    window: Window,
    other_hours: Option<u64>,
    uncounted_before: bool,
) -> Result<WindowOutcome, Failure> {
    // The session slot of the space first, so that a window that waits for one takes no window slot from other spaces.
    let permits = async {
        let slot = ctx.budget.acquire_slot(window).await;
        (slot, ctx.shared.window_slots.acquire(window).await)
    };
    let _permits = tokio::select! {
        permits = permits => permits,
        () = ctx.stop.cancelled() => return Err(stopped()),
    };
    let (span, started) = (ctx.window_span(window), Instant::now());
    let outcome = run_attempt(ctx, window, other_hours, uncounted_before)
        .instrument(span)
        .await;
    let end = match &outcome {
        Ok(WindowOutcome::Stored(receipt)) => match &receipt.object {
            Some(object) => WindowResult::Stored {
                events: receipt.events,
                bytes: object.bytes,
            },
            None => WindowResult::Empty,
        },
        Ok(WindowOutcome::Covered) => WindowResult::Covered,
        Ok(WindowOutcome::Expired) => WindowResult::Expired,
        Err(failure) if *failure == stopped() => WindowResult::Stopped,
        Err(failure) => WindowResult::Failed(failure.reason),
    };
    ctx.shared.observer.window_finished(end, started.elapsed());
    outcome
}

async fn run_attempt(
    ctx: &RunContext,
    window: Window,
    other_hours: Option<u64>,
    uncounted_before: bool,
) -> Result<WindowOutcome, Failure> {
    let oldest_usable = Instant::now()
        .checked_sub(LISTING_MAX_AGE)
        .unwrap_or_else(Instant::now);
    let before = ctx.listing_cache.listing_since(oldest_usable).await?;
    let hint = before
        .as_ref()
        .and_then(|listing| listing.size_hint(window.date()));
    let part_bytes = ctx.shared.pool.part_bytes(hint);
    // Memory for one part before the session: a window with a session never waits for memory.
    let reservation = tokio::select! {
        reservation = ctx.shared.pool.reserve(part_bytes) => reservation.ok_or_else(stopped)?,
        () = ctx.stop.cancelled() => return Err(stopped()),
    };
    let span = tracing::info_span!("session", attempt = Empty);
    let opened = match open_session(ctx, window).instrument(span).await? {
        OpenOutcome::Opened(opened) => opened,
        OpenOutcome::Covered => return Ok(WindowOutcome::Covered),
    };
    tracing::Span::current().record("attempt", opened.id.ulid.to_string());
    let attempt = Attempt {
        ctx,
        opened: &opened,
        before: before.as_deref(),
        other_hours,
        uncounted_before,
        part_bytes,
    };
    let outcome = attempt.download(reservation).await;
    lock(&ctx.transfers).remove(&window);
    let span = tracing::info_span!("close");
    close_session(ctx, *opened).instrument(span).await;
    outcome
}

/// Deletes the session, then its journal keys. A failure is logged and never replaces the outcome: recovery
/// deletes the keys that are left.
async fn close_session(ctx: &RunContext, opened: OpenAttempt<'_>) {
    let OpenAttempt {
        needs_recovery,
        id,
        session,
        started_at: _,
        support: _,
        session_guard,
        in_progress,
    } = opened;
    let deleted = ctx
        .peers
        .tracker
        .delete_session(&ctx.export.space, &session.id)
        .await;
    match deleted {
        Ok(()) => {
            lock(&ctx.sessions).remove(&session.id);
            lock(&ctx.closed_attempts).insert(id);
            if needs_recovery.into_inner() {
                drop((session_guard, in_progress));
                return;
            }
            let obsolete = [Key::Session(id, session.id), Key::Prepared(id), Key::Attempt(id)];
            match delete_keys(&*ctx.peers.store, &ctx.export.root, &obsolete).await {
                Ok(()) => {
                    lock(&ctx.stale_windows).remove(&id.window);
                }
                Err(failure) => {
                    tracing::warn!(attempt = %id, error = failure.message, "cannot delete obsolete journal keys, recovery will retry");
                }
            }
        }
        Err(error) => {
            tracing::warn!(session = session.id, %error, "cannot delete session, will retry");
        }
    }
    drop((session_guard, in_progress));
}

struct Attempt<'a> {
    ctx: &'a RunContext,
    opened: &'a OpenAttempt<'a>,
    before: Option<&'a DayListing>,
    /// For an hour: events of the other hours of its day.
    other_hours: Option<u64>,
    /// True if the last attempt failed because the data ended inside an event.
    uncounted_before: bool,
    part_bytes: u64,
}

impl Attempt<'_> {
    fn window(&self) -> Window {
        self.opened.id.window
    }

    async fn download(&self, reservation: PartReservation) -> Result<WindowOutcome, Failure> {
        self.check_session_matches()?;
        let RunContext { peers, export, .. } = self.ctx;
        let answer = tokio::select! {
            answer = peers.tracker.download(&export.space, &self.opened.session.id) => answer,
            () = self.ctx.stop.cancelled() => return Err(stopped()),
        };
        let download = match answer.map_err(|error| Failure::from_download_start(&error))? {
            DownloadResponse::NotFound => return self.evaluate_empty(EmptyAnswer::NotFound, None).await,
            DownloadResponse::NoContent => return self.evaluate_empty(EmptyAnswer::NoContent, None).await,
            DownloadResponse::Body(download) => download,
        };
        let key = self.key();
        let announced = download.announced();
        let progress = |bytes| {
            let facts = TransferFacts {
                window: self.window(),
                bytes,
                announced,
            };
            let before = lock(&self.ctx.transfers).insert(self.window(), facts);
            let before = before.map_or(0, |before| before.bytes);
            self.ctx
                .shared
                .observer
                .bytes_downloaded(bytes.saturating_sub(before));
        };
        let transfer_ctx = TransferContext {
            store: &peers.store,
            key: &key,
            part_bytes: self.part_bytes,
            pool: &self.ctx.shared.pool,
            progress: &progress,
            stop: &self.ctx.stop,
            needs_recovery: &self.opened.needs_recovery,
            options: self.options(Crc64::of(b"")),
        };
        let proof = self.ctx.shared.proofs.begin();
        let staged = transfer(*download, proof, reservation, &transfer_ctx)
            .instrument(tracing::info_span!("download"))
            .await
            .map_err(|error| self.transfer_failure(error))?;
        self.evaluate(staged).await
    }

    /// Checks that the session has the requested range, hour and scope. The service may answer with others, and
    /// events of another day must never be stored under the requested day.
    fn check_session_matches(&self) -> Result<(), Failure> {
        let (session, window) = (&self.opened.session, self.window());
        let date = window.date();
        let range = session.range.is_none_or(|range| range == (date, date));
        let account = session
            .account
            .is_none_or(|account| account == self.ctx.is_account_scope());
        let hour = session.hour.is_none_or(|hour| hour == window.hour_of_day());
        if range && account && hour {
            return Ok(());
        }
        let answered = session.range.map_or_else(
            || "an unknown range".to_owned(),
            |(start, end)| format!("{start} to {end}"),
        );
        let scope = session.account.map_or("an unknown scope", |account| {
            if account { "the account" } else { "the space" }
        });
        let message = format!(
            "requested {window} of the {}, but the service opened a session for {answered} of {scope}; nothing was stored",
            self.ctx.export.scope.as_key()
        );
        Err(Failure::manual(Reason::RangeMismatch, message))
    }

    async fn evaluate(&self, staged: StagedObject) -> Result<WindowOutcome, Failure> {
        let window = self.window();
        let proof = match &staged.proof {
            Some(proof) if proof.events.events > 0 || proof.events.uncounted.is_some() => proof.clone(),
            Some(_) => {
                return self
                    .evaluate_empty(EmptyAnswer::GzipOfNothing, Some(staged))
                    .await;
            }
            None => return self.evaluate_empty(EmptyAnswer::ZeroBytes, Some(staged)).await,
        };
        if proof.events.events > 0 {
            self.ctx.record_served(window.date());
        }
        let after = match self.ctx.listing_cache.listing_since(Instant::now()).await {
            Ok(after) => after,
            Err(failure) => {
                self.discard(staged).await;
                return Err(failure);
            }
        };
        let comparison = self.compare_counts(Some(proof.events), after.as_deref());
        if comparison.verdict == Verdict::Short {
            self.discard(staged).await;
            let reported = comparison
                .before
                .into_iter()
                .chain(comparison.after)
                .max()
                .unwrap_or(0);
            let message = format!(
                "{window}: downloaded {} events, but the service reports {reported}",
                proof.events.events
            );
            return Err(Failure::retry(Reason::Short, message));
        }
        // A transfer that ended early looks the same: once more, then the bytes are stored as they are.
        if let Some(uncounted) = proof.events.uncounted
            && uncounted.reason == UncountedReason::Unfinished
            && !self.uncounted_before
            && !partial_count_suffices(proof.events.events, comparison.before, comparison.after)
        {
            self.discard(staged).await;
            let message = format!("{window}: {uncounted}; it is downloaded once more");
            return Err(Failure::retry(Reason::EventsUncounted, message));
        }
        if staged.end == TransferEnd::CloseUnconfirmed && comparison.verdict != Verdict::Matched {
            self.discard(staged).await;
            let message = format!(
                "{window}: the connection closed before the end of the data was confirmed, and the service neither confirms it nor reports a matching event count"
            );
            return Err(Failure::retry(Reason::DownloadIncomplete, message));
        }
        let span = tracing::info_span!("commit", events = proof.events.events, bytes = staged.bytes);
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

    /// Compares the counted events with the listings before and after the download; `None`: proved empty.
    fn compare_counts(&self, events: Option<EventCount>, after: Option<&DayListing>) -> CountComparison {
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
            verdict: events.map_or(Verdict::Empty, |events| {
                counts::evaluate_count(events, before, after)
            }),
        }
    }

    /// Evaluates an answer without events: writes a receipt only if it is proved that there were none.
    async fn evaluate_empty(
        &self,
        answer: EmptyAnswer,
        staged: Option<StagedObject>,
    ) -> Result<WindowOutcome, Failure> {
        let RunContext {
            peers,
            export,
            shared,
            ..
        } = self.ctx;
        let end = staged.as_ref().map(|staged| staged.end);
        if let Some(staged) = staged {
            self.discard(staged).await;
        }
        let session = peers
            .tracker
            .get_session(&export.space, &self.opened.session.id)
            .await;
        let session_readable = session.map_err(|error| Failure::from(&error))?.is_some();
        let listing = self.ctx.listing_cache.listing_since(Instant::now()).await?;
        let evidence = EmptyEvidence {
            window: self.window(),
            answer,
            session_readable,
            listing: listing.as_deref(),
            other_hours: self.other_hours,
            oldest_served: self.ctx.oldest_served(),
            now: (shared.now)(),
        };
        let window = self.window();
        match counts::evaluate_empty(&evidence) {
            EmptyVerdict::Proved => {
                let comparison = self.compare_counts(None, listing.as_deref());
                commit_empty(self.ctx, self.opened, answer, end, comparison)
                    .await
                    .map(|committed| match committed {
                        ReceiptWrite::Written(receipt) => WindowOutcome::Stored(receipt),
                        ReceiptWrite::WrittenByOther => WindowOutcome::Covered,
                    })
            }
            EmptyVerdict::Expired(oldest_listed) => {
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
                Ok(WindowOutcome::Expired)
            }
            EmptyVerdict::Short(reported) => Err(Failure::retry(
                Reason::Short,
                format!("{window}: downloaded no events, but the service reports {reported}"),
            )),
            EmptyVerdict::ShortOfDay {
                other_hours,
                reported,
            } => {
                let message = format!(
                    "{window}: the service returned no events ({answer:?}), but the other hours have only {other_hours} of the {reported} events that it reports for the day: wait for the retry, or accept the gap in spec.acceptedGaps"
                );
                Err(Failure::retry(Reason::Short, message))
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

    /// Aborts the upload of a body that will not be committed.
    async fn discard(&self, staged: StagedObject) {
        if let StagedBody::Multipart(upload, _) = staged.body
            && let Err(error) = self.ctx.peers.store.abort_upload(&upload).await
        {
            self.opened.needs_recovery.store(true, Ordering::Relaxed);
            tracing::warn!(key = upload.key, %error, "cannot abort upload, recovery will retry");
        }
    }

    fn transfer_failure(&self, error: TransferError) -> Failure {
        let window = self.window();
        match error {
            TransferError::Download(error) => Failure::from_download(window, &error),
            TransferError::Store(error) => Failure::from(&error),
            TransferError::Proof(error) => Failure::from_proof(window, &error),
            TransferError::TooLarge if window.hour_of_day().is_none() => Failure::retry(
                Reason::TooLarge,
                format!("{window} is larger than the store's maximum object size: it is split into hours"),
            ),
            TransferError::TooLarge => Failure::manual(
                Reason::TooLarge,
                format!(
                    "{window} is larger than the store's maximum object size, and an hour cannot be split further"
                ),
            ),
            TransferError::Stopped => stopped(),
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
            class: ObjectClass::Evidence,
        }
    }
}
