//! Later revisions of stored windows: the full body that the service has now, and the supplement, which holds the events
//! that no earlier revision has. I/O with the store.

use std::sync::atomic::AtomicBool;

use tokio_util::sync::CancellationToken;

use super::commit::{ReceiptWrite, check_not_overwritten, put_prepared, sign_receipt, write_receipt};
use super::failure::{Failure, stopped};
use super::open::{delete_attempt_keys, ulid_at};
use super::publish::{ATTEMPT_METADATA, Publisher, StagedObject, publish_object};
use super::run_context::RunContext;
use crate::api::Reason;
use crate::archive::counts::compare_counts;
use crate::archive::layout::{ArchiveRoot, AttemptId, Key, REVISION_MAX};
use crate::archive::read::get_record;
use crate::archive::receipt::{ReceiptFacts, Sha256Digest, body_key, receipt_key};
use crate::archive::records::{ObjectRecord, Receipt, SOFTWARE};
use crate::archive::window::Window;
use crate::pipeline::copy::CopyError;
use crate::pipeline::difference::{
    BodyError, Difference, DifferenceError, StoredBody, StoredSupplement, copy_difference,
    memory_of_comparison,
};
use crate::pipeline::part_pool::PartReservation;
use crate::pipeline::store_sink::{StoreSink, StoreSinkError, StoreTarget};
use crate::storage::{ConditionalSupport, PutMode};
use crate::tracker::TransferEnd;

/// Revision of a stored window to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RevisionTarget {
    /// Number of the revision, from 1.
    pub(super) number: u32,
    /// Events that are stored of the window.
    pub(super) events: u64,
    /// Newest count of the service for the day.
    pub(super) reported: u64,
    /// Number of the revision whose full body has all stored events; `None`: the window was proved empty.
    pub(super) newest_body: Option<u32>,
    /// The later body that was stored last, if it lacks stored events.
    pub(super) changed: Option<ChangedBody>,
}

/// A stored later body that lacks stored events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChangedBody {
    pub(super) sha256: Sha256Digest,
    pub(super) missing: u64,
}

impl RevisionTarget {
    /// Returns the next revision of a stored window; `None` if no number is left.
    pub(super) fn next(facts: &ReceiptFacts, reported: u64) -> Option<Self> {
        let number = facts.highest_revision() + 1;
        let current = facts.current();
        let target = || Self {
            number,
            events: current.events,
            reported,
            newest_body: current.sha256.map(|_| facts.current_object()),
            changed: facts.changed_revision().and_then(|last| {
                let (sha256, missing) = (last.summary.sha256?, last.missing_events);
                Some(ChangedBody { sha256, missing })
            }),
        };
        (number <= REVISION_MAX).then(target)
    }

    /// Returns a revision of a stored window again, if its receipt is the next or the last one.
    pub(super) fn again(mut facts: ReceiptFacts, number: u32, reported: u64) -> Option<Self> {
        facts.revisions.retain(|later| later.revision < number);
        Self::next(&facts, reported).filter(|target| target.number == number)
    }
}

/// Conditions of finishing a revision.
#[derive(Clone, Copy)]
pub(super) struct RevisionProgress<'a> {
    /// True if the receipt may be signed: this process made it, or a trusted key signed the record of its attempt.
    pub(super) attested: bool,
    /// Set if an upload may be left that could not be aborted.
    pub(super) needs_recovery: &'a AtomicBool,
    /// Stop signal.
    pub(super) stop: &'a CancellationToken,
}

/// Finishes a revision whose full body is stored: stores its supplement, then writes its receipt. Idempotent: recovery
/// calls it again. The receipt of a body that lacks stored events says so, and there is no supplement.
pub(super) async fn finish_revision(
    ctx: &RunContext,
    id: AttemptId,
    target: &RevisionTarget,
    mut receipt: Receipt,
    progress: &RevisionProgress<'_>,
) -> Result<ReceiptWrite, Failure> {
    let (store, root) = (&ctx.peers.store, &ctx.export.root);
    let RevisionProgress {
        attested,
        needs_recovery,
        stop,
    } = *progress;
    let window = id.window;
    let Some(later) = receipt.object.as_ref().map(|object| stored_body(root, object)) else {
        return Err(Failure::retry(
            Reason::Failed,
            format!("{window}: its later receipt names no body"),
        ));
    };
    let earlier = earlier_body(ctx, window, target).await?;
    let key = Key::Supplement(window, target.number);
    let full_key = root.key(&key).unwrap_or_default();
    let publisher = Publisher {
        id,
        support: ctx.known_support().unwrap_or(ConditionalSupport {
            put: true,
            complete: true,
        }),
        needs_recovery,
    };
    let part_bytes = ctx.shared.pool.part_bytes(Some(later.bytes));
    let reservation = reserve_memory(ctx, target, window, part_bytes, stop).await?;
    let sink_target = StoreTarget {
        store,
        key: &full_key,
        part_bytes,
        pool: &ctx.shared.pool,
        tenant: &ctx.tenant,
        order: window.order(),
        awaits_memory: &AtomicBool::new(false),
        stop,
        needs_recovery,
        options: publisher.options(),
    };
    let mut sink = StoreSink::new(sink_target, Some(reservation));
    let earlier = earlier.as_ref().map(|body| (body, target.events));
    // On the heap: the futures of a window are bounded.
    let difference = Box::pin(copy_difference(&**store, earlier, &later, &mut sink, stop)).await;
    drop(sink);
    let supplement = match difference.map_err(|error| difference_failure(window, error))? {
        Difference::Contained(StoredSupplement { proof, body }) => {
            let stats = proof.stats.clone().map_err(|error| {
                Failure::retry(
                    Reason::Failed,
                    format!("{window}: cannot prove its supplement: {error}"),
                )
            })?;
            (stats.events.events > 0).then_some((proof, stats, body))
        }
        Difference::Changed(comparison) => {
            receipt.missing_events = Some(comparison.missing);
            None
        }
    };
    if let Some((proof, stats, body)) = supplement {
        let staged = StagedObject {
            bytes: proof.bytes,
            crc64: proof.crc64,
            proof: None,
            end: TransferEnd::Length,
            resumes: 0,
            body,
        };
        let metadata = vec![(ATTEMPT_METADATA.to_owned(), id.to_string())];
        let stored = publish_object(&**store, &full_key, staged, metadata, &publisher).await?;
        receipt.supplement = Some(ObjectRecord {
            key: key.relative().unwrap_or_default(),
            version_id: stored.version_id,
            bytes: proof.bytes,
            sha256: proof.sha256,
            crc64nvme: proof.crc64.to_string(),
            gzip_members: stats.members,
            decompressed_bytes: stats.decompressed,
        });
        receipt.supplement_events = Some(stats.events.events);
    }
    let receipt_key = receipt_key(window, target.number);
    let written = write_receipt(&**store, root, &receipt_key, receipt, receipt_mode(ctx)).await?;
    if let ReceiptWrite::Written(receipt) = &written
        && attested
    {
        sign_receipt(ctx, window, receipt).await?;
    }
    if !(publisher.support.put && publisher.support.complete) {
        let body = root.key(&body_key(window, target.number)).unwrap_or_default();
        check_not_overwritten(&**store, &body, &written).await?;
    }
    Ok(written)
}

/// Reserves memory for a comparison and the first part of its supplement. No other memory is held meanwhile.
async fn reserve_memory(
    ctx: &RunContext,
    target: &RevisionTarget,
    window: Window,
    part_bytes: u64,
    stop: &CancellationToken,
) -> Result<PartReservation, Failure> {
    let wanted = part_bytes + memory_of_comparison(target.events);
    tokio::select! {
        reservation = ctx.shared.pool.reserve(&ctx.tenant, window.order(), wanted) => Ok(reservation),
        () = stop.cancelled() => Err(stopped()),
    }
}

fn stored_body(root: &ArchiveRoot, object: &ObjectRecord) -> StoredBody {
    StoredBody {
        key: format!("{}{}", root.as_str(), object.key),
        bytes: object.bytes,
        sha256: object.sha256.clone(),
        decompressed: object.decompressed_bytes,
    }
}

/// Returns the full body that has all stored events; `None` if the window was proved empty.
async fn earlier_body(
    ctx: &RunContext,
    window: Window,
    target: &RevisionTarget,
) -> Result<Option<StoredBody>, Failure> {
    let (store, root) = (&*ctx.peers.store, &ctx.export.root);
    let Some(number) = target.newest_body else {
        return Ok(None);
    };
    let key = receipt_key(window, number);
    let receipt = get_record::<Receipt>(store, root, &key).await?;
    let object = receipt.and_then(|receipt| receipt.object);
    let Some(object) = object else {
        let key = root.key(&key).unwrap_or_default();
        let message = format!("{key} names no object: it was removed or edited");
        return Err(Failure::manual(Reason::ReceiptUnreadable, message));
    };
    Ok(Some(stored_body(root, &object)))
}

fn difference_failure(window: Window, error: DifferenceError<StoreSinkError>) -> Failure {
    match error {
        DifferenceError::Body(BodyError::Store(error))
        | DifferenceError::Sink(CopyError::Sink(StoreSinkError::Store(error))) => Failure::from(&error),
        DifferenceError::Body(BodyError::BodyDiffers { key }) => {
            let message =
                format!("{key} has other bytes than its receipt states: {window} cannot be compared");
            Failure::manual(Reason::ObjectSizeMismatch, message)
        }
        DifferenceError::Body(BodyError::Gzip(error)) => Failure::retry(
            Reason::Failed,
            format!("{window}: cannot read a stored body: {error}"),
        ),
        DifferenceError::Body(BodyError::Compare(error)) => Failure::manual(
            Reason::EventsUncounted,
            format!("{window}: {error}; late events are not stored"),
        ),
        DifferenceError::Sink(CopyError::Sink(StoreSinkError::TooLarge)) => Failure::manual(
            Reason::TooLarge,
            format!("the late events of {window} are larger than the store's maximum object size"),
        ),
        DifferenceError::Sink(_) | DifferenceError::Body(BodyError::Interrupted) => stopped(),
    }
}

/// Revisions of a stored window.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoredRevisions {
    /// The one that counts.
    pub(super) current: u32,
    pub(super) highest: u32,
}

/// Writes the receipt of the next revision of a window, with the facts of the one that counts, for a newer count of the
/// service: the window has enough events by it. No session is needed, and no object is written.
pub(super) async fn confirm_count(
    ctx: &RunContext,
    window: Window,
    StoredRevisions { current, highest }: StoredRevisions,
    reported: u64,
) -> Result<ReceiptWrite, Failure> {
    let (store, root) = (&*ctx.peers.store, &ctx.export.root);
    let newest = get_record::<Receipt>(store, root, &receipt_key(window, current)).await?;
    let Some(newest) = newest.filter(|_| highest < REVISION_MAX) else {
        return Ok(ReceiptWrite::WrittenByOther);
    };
    let stored_at = store.now().await.map_err(|error| Failure::from(&error))?;
    let receipt = Receipt {
        revision: highest + 1,
        supplement: None,
        supplement_events: None,
        reported_before: None,
        reported_after: Some(reported),
        verdict: compare_counts(newest.events, None, Some(reported)),
        started_at: stored_at,
        stored_at,
        software: SOFTWARE.to_owned(),
        ..newest
    };
    // A receipt that is not signed must be finished by recovery.
    let id = AttemptId {
        window,
        ulid: ulid_at(stored_at),
    };
    let signed = ctx.peers.signing.available().is_some();
    if signed {
        put_prepared(ctx, id, String::new(), &receipt).await?;
    }
    let key = receipt_key(window, highest + 1);
    let written = write_receipt(store, root, &key, receipt, receipt_mode(ctx)).await?;
    if let ReceiptWrite::Written(receipt) = &written {
        sign_receipt(ctx, window, receipt).await?;
    }
    if signed {
        delete_attempt_keys(ctx, id, &None::<String>).await?;
    }
    Ok(written)
}

/// Returns the condition for the write of a receipt.
pub(super) fn receipt_mode(ctx: &RunContext) -> PutMode {
    let support = ctx.known_support();
    if support.is_some_and(|support| !support.put) {
        PutMode::Overwrite
    } else {
        PutMode::Create
    }
}
