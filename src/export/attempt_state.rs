//! State of an attempt at one window, its steps and its outcome. I/O only to discard a body.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use jiff::civil::Date;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::commit::CountComparison;
use super::failure::Failure;
use super::open::{JournaledSessions, Leftover, OpenAttempt};
use super::publish::StagedObject;
use super::revision::RevisionTarget;
use super::run_context::RunContext;
use crate::api::Reason;
use crate::archive::counts::{DayListing, EmptyAnswer};
use crate::archive::listing::ExpiredFacts;
use crate::archive::receipt::body_key;
use crate::archive::records::Receipt;
use crate::archive::window::Window;
use crate::pipeline::prover_pool::ProofFacts;
use crate::pipeline::store_sink::StagedBody;
use crate::shares::recall::RecallPermit;
use crate::tracker::TransferEnd;

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

/// Attempt with an open session.
pub(super) struct Attempt<'a> {
    pub(super) ctx: &'a RunContext,
    pub(super) opened: &'a OpenAttempt,
    /// Right to hold a session of the space.
    pub(super) slot: &'a RecallPermit,
    /// Listing from before the download.
    pub(super) before: Option<&'a DayListing>,
    pub(super) prior: PriorEvidence,
    /// True once the transfer gave its place up.
    pub(super) too_slow: AtomicBool,
    /// Cancelled when the run stops, at the deadline, and when the transfer gives its place or its session up.
    pub(super) stop: CancellationToken,
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
    pub(super) fn past_deadline(&self) -> Failure {
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

    /// Aborts the upload of a body that will not be committed.
    pub(super) async fn discard(&self, staged: StagedObject) {
        if let StagedBody::Multipart(upload, _) = staged.body
            && let Err(error) = self.ctx.peers.store.abort_upload(&upload).await
        {
            self.opened.needs_recovery.store(true, Ordering::Relaxed);
            tracing::warn!(key = upload.key, %error, "cannot abort upload, recovery will retry");
        }
    }

    pub(super) fn key(&self) -> String {
        let key = body_key(self.window(), self.opened.revision);
        self.ctx.export.root.key(&key).unwrap_or_default()
    }
}
