//! Recovery after a crash: adopts objects, deletes sessions, aborts uploads, deletes obsolete journal keys.
//! Idempotent; "not found" counts as done. I/O.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::commit::{RECEIPT_METADATA, ReceiptWrite, sign_receipt, write_receipt};
use super::failure::{Failure, RetryClass};
use super::journal_io::{list_attempts, load_day};
use super::open::{abort_matching_uploads, delete_attempt_keys, session_request};
use super::publish::is_same_object;
use super::revision::{RevisionProgress, RevisionTarget, finish_revision, receipt_mode};
use super::run_context::RunContext;
use super::task_events::TaskEvent;
use crate::api::Reason;
use crate::archive::counts::latest_count;
use crate::archive::layout::{AttemptId, Key};
use crate::archive::listing::{AttemptFacts, Journal};
use crate::archive::manifest::document::SIGNATURE_BYTES;
use crate::archive::read::{get_record, read_attempts};
use crate::archive::receipt::{body_key, receipt_key};
use crate::archive::records::{AttemptRecord, PreparedRecord, Receipt, encode};
use crate::archive::window::Window;
use crate::session::orphan::{OrphanDoubt, OrphanSearch, OrphanVerdict, UnansweredRequest, may_answer};
use crate::storage::{Crc64, ObjectInfo, Upload};
use crate::tracker::Session;

/// Minimum interval between two checks of ambiguous sessions: 20 s.
const RECHECK_INTERVAL: Duration = Duration::from_secs(20);

/// Interval between checks of a session that this process uses: 5 s.
const IN_USE_RECHECK_INTERVAL: SignedDuration = SignedDuration::from_secs(5);

/// Attempt that an interrupted task left, with what the run knows.
#[derive(Clone, Debug)]
pub(super) struct InterruptedAttempt {
    /// The attempt.
    pub(super) id: AttemptId,
    /// State of the attempt in the journal.
    pub(super) facts: AttemptFacts,
    /// Attempts of this run that certainly have no session open.
    pub(super) closed: Arc<BTreeSet<AttemptId>>,
    /// Attempts of this holder that no task works on. Any other may have begun meanwhile.
    pub(super) idle: Arc<BTreeSet<AttemptId>>,
}

/// Recovers one leftover attempt: finishes or adopts its object, deletes its sessions, uploads and journal keys.
/// After success, only keys that the store refuses to delete are left.
pub(super) async fn recover_attempt(
    ctx: &RunContext,
    interrupted: &InterruptedAttempt,
) -> Result<(), Failure> {
    let InterruptedAttempt {
        id, facts, closed, ..
    } = interrupted;
    let id = *id;
    if facts.prepared {
        finish_upload(ctx, id).await?;
    } else {
        adopt_object(ctx, id.window).await?;
    }
    for session in &facts.sessions {
        if ctx.budget.holds(session) {
            // A resource of this name was removed by force, and its run has not ended yet.
            let now = (ctx.shared.now)();
            return Err(recovery_pending(
                format!("session {session} is still in use by this process, which deletes it soon"),
                now.saturating_add(IN_USE_RECHECK_INTERVAL).unwrap_or(now),
            ));
        }
        delete_journaled_session(ctx, id, facts, session).await?;
        ctx.events.send(TaskEvent::SessionClosed(session.clone())).await;
    }
    if facts.sessions.is_empty()
        && !facts.prepared
        && !closed.contains(&id)
        && let Some(record) = &facts.record
    {
        delete_orphan_session(ctx, id, record, closed).await?;
    }
    abort_uploads(ctx, interrupted).await?;
    delete_attempt_keys(ctx, id, &facts.sessions).await
}

/// Deletes a session that the journal assigns to this attempt, unless it was opened for another window, scope or user:
/// anyone who can write below the prefix can put a known session id into the journal.
async fn delete_journaled_session(
    ctx: &RunContext,
    id: AttemptId,
    facts: &AttemptFacts,
    session: &str,
) -> Result<(), Failure> {
    let user = facts
        .record
        .as_ref()
        .and_then(|record| record.tracker_user.as_deref());
    let listed = ctx
        .peers
        .tracker
        .get_session(&ctx.export.space, session)
        .await
        .map_err(|error| Failure::from(&error))?;
    if let Some(listed) = listed
        && !may_answer(&session_request(id.window, ctx.is_account_scope()), user, &listed)
    {
        return Err(orphan_suspected(
            id.window,
            session,
            "the journal names it, but it was opened for another window, scope or user",
        ));
    }
    // Also if the session is not listed: a service may list fewer sessions than it keeps.
    ctx.space_sessions()
        .close(session)
        .await
        .map_err(|error| Failure::from(&error))
}

/// Finishes an upload that was about to be completed: writes the receipt if the object exists, else aborts the upload.
/// Signs the receipt only if a trusted key signed the record of the attempt: anyone who can write below the prefix can
/// write such a record.
async fn finish_upload(ctx: &RunContext, id: AttemptId) -> Result<(), Failure> {
    let (store, root) = (&*ctx.peers.store, &ctx.export.root);
    let Some(prepared) = get_record::<PreparedRecord>(store, root, &Key::Prepared(id)).await? else {
        return Ok(());
    };
    let attested = is_attested(ctx, id.window, &prepared);
    let mut receipt = prepared.receipt;
    let revision = receipt.revision;
    let key = root.key(&body_key(id.window, revision)).unwrap_or_default();
    let Some(object) = receipt.object.as_mut() else {
        // The receipt of a window without events has no version.
        let stored = get_record::<Receipt>(store, root, &Key::Receipt(id.window)).await?;
        if attested && stored.is_some_and(|stored| stored == receipt) {
            sign_receipt(ctx, id.window, &receipt).await?;
        }
        return Ok(());
    };
    if root.parse(&key) != root.parse(&format!("{}{}", root.as_str(), object.key)) {
        // The receipt states a newer count of an earlier body.
        return sign_confirmation(ctx, id, &receipt, attested).await;
    }
    let found = store.head(&key).await.map_err(|error| Failure::from(&error))?;
    let crc64 = u64::from_str_radix(&object.crc64nvme, 16).map(Crc64);
    let own_object =
        found.filter(|found| crc64.is_ok_and(|crc64| is_same_object(found, object.bytes, crc64, id)));
    if let Some(found) = own_object {
        object.version_id = found.version_id;
        return match revision {
            0 => write_adopted_receipt(ctx, id.window, receipt, attested).await,
            _ => Box::pin(adopt_revision(ctx, id, receipt, attested)).await,
        };
    }
    if !prepared.upload_id.is_empty() {
        let upload = Upload {
            key,
            id: prepared.upload_id,
            retried: false,
        };
        store
            .abort_upload(&upload)
            .await
            .map_err(|error| Failure::from(&error))?;
    }
    Ok(())
}

/// Signs the receipt of a newer count if it was written as the signed record of its attempt has it.
async fn sign_confirmation(
    ctx: &RunContext,
    id: AttemptId,
    receipt: &Receipt,
    attested: bool,
) -> Result<(), Failure> {
    let (store, root) = (&*ctx.peers.store, &ctx.export.root);
    let key = receipt_key(id.window, receipt.revision);
    let stored = get_record::<Receipt>(store, root, &key).await?;
    if attested && stored.is_some_and(|stored| stored == *receipt) {
        sign_receipt(ctx, id.window, receipt).await?;
    }
    Ok(())
}

/// Finishes a revision whose full body is stored. Its receipt may exist without its signature.
async fn adopt_revision(
    ctx: &RunContext,
    id: AttemptId,
    receipt: Receipt,
    attested: bool,
) -> Result<(), Failure> {
    let journal = load_day(
        &*ctx.peers.store,
        &ctx.export.root,
        id.window,
        ctx.journal_share(),
    )
    .await?;
    let facts = journal.receipts.get(&id.window).cloned().flatten();
    let reported = latest_count(receipt.reported_before, receipt.reported_after).or(receipt.reported_of_day);
    let target =
        facts.and_then(|facts| RevisionTarget::again(*facts, receipt.revision, reported.unwrap_or(0)));
    let Some(target) = target else { return Ok(()) };
    // The uploads of the attempt are aborted next.
    let needs_recovery = AtomicBool::new(false);
    let progress = RevisionProgress {
        attested,
        needs_recovery: &needs_recovery,
        stop: &ctx.stop,
    };
    let finished = finish_revision(ctx, id, &target, receipt, &progress).await?;
    if let ReceiptWrite::Written(_) = finished {
        tracing::info!(window = %id.window, revision = target.number, "adopted revision without receipt");
    }
    Ok(())
}

/// Writes the receipt of an object that carries it in its metadata. Returns false if the object is foreign.
pub(super) async fn adopt_object(ctx: &RunContext, window: Window) -> Result<bool, Failure> {
    let (store, root) = (&*ctx.peers.store, &ctx.export.root);
    let key = root.key(&Key::Events(window)).unwrap_or_default();
    let Some(found) = store.head(&key).await.map_err(|error| Failure::from(&error))? else {
        return Ok(true);
    };
    let Some(mut receipt) = embedded_receipt(&found) else {
        return Ok(get_record::<Receipt>(store, root, &Key::Receipt(window))
            .await?
            .is_some());
    };
    let export = &ctx.export;
    let object = receipt.object.as_mut().filter(|object| {
        object.bytes == found.size
            && found
                .crc64
                .is_none_or(|crc64| crc64.to_string() == object.crc64nvme)
    });
    let Some(object) = object else { return Ok(false) };
    object.version_id = found.version_id;
    let same = receipt.window == window.to_string()
        && receipt.space == export.space
        && receipt.scope == export.scope.as_str();
    if !same {
        return Ok(false);
    }
    // Nothing proves who wrote the metadata of the object.
    write_adopted_receipt(ctx, window, receipt, false)
        .await
        .map(|()| true)
}

/// Returns true if a trusted key signed the receipt in the record of an attempt, and the receipt is about its window.
fn is_attested(ctx: &RunContext, window: Window, prepared: &PreparedRecord) -> bool {
    let Some(keys) = ctx.peers.signing.available() else {
        return false;
    };
    let (receipt, export) = (&prepared.receipt, &ctx.export);
    let signature = prepared.signature.as_deref().and_then(bytes_of_hex);
    receipt.window == window.to_string()
        && receipt.space == export.space
        && receipt.scope == export.scope.as_str()
        && receipt.source == export.source
        && signature.is_some_and(|signature| keys.verify(&encode(receipt), &signature).is_some())
}

/// Parses the hexadecimal digits of a signature.
fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 2 * SIGNATURE_BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

fn embedded_receipt(found: &ObjectInfo) -> Option<Receipt> {
    let (_, json) = found.metadata.iter().find(|(name, _)| name == RECEIPT_METADATA)?;
    crate::archive::records::decode(RECEIPT_METADATA, json.as_bytes()).ok()
}

async fn write_adopted_receipt(
    ctx: &RunContext,
    window: Window,
    receipt: Receipt,
    attested: bool,
) -> Result<(), Failure> {
    let written = write_receipt(
        &*ctx.peers.store,
        &ctx.export.root,
        &Key::Receipt(window),
        receipt,
        receipt_mode(ctx),
    )
    .await?;
    if let ReceiptWrite::Written(receipt) = written {
        tracing::info!(%window, "adopted object without receipt");
        if attested {
            sign_receipt(ctx, window, &receipt).await?;
        }
    }
    Ok(())
}

/// Finds and deletes a session that the service opened although its response was lost. A session that does not provably
/// belong to this attempt is reported and not deleted.
async fn delete_orphan_session(
    ctx: &RunContext,
    id: AttemptId,
    attempt: &AttemptRecord,
    closed: &BTreeSet<AttemptId>,
) -> Result<(), Failure> {
    let export = &ctx.export;
    let store_now = ctx
        .peers
        .store
        .now()
        .await
        .map_err(|error| Failure::from(&error))?;
    let (listing, held) = {
        // Meanwhile this process opens no session. It holds those that it has opened.
        let _turn = ctx.budget.lock_opening(&ctx.tenant, id.window).await;
        let listing = ctx.peers.tracker.list_sessions_with_time(&export.space).await;
        let listing = listing.map_err(|error| Failure::from(&error))?;
        let ids = listing.sessions.iter().map(|session| session.id.clone());
        let held: BTreeSet<String> = ids.filter(|id| ctx.budget.holds(id)).collect();
        (listing, held)
    };
    // Listed after the sessions, so that a session that any attempt opened meanwhile is no candidate.
    let mut journal = list_attempts(&*ctx.peers.store, &export.root, ctx.journal_share()).await?;
    let unassigned: Vec<&Session> = {
        let journaled: BTreeSet<&String> = journal.sessions().map(|(_, session)| session).collect();
        let known = |session: &&Session| journaled.contains(&session.id) || held.contains(&session.id);
        listing
            .sessions
            .iter()
            .filter(|session| !known(session))
            .collect()
    };
    let suspects = find_suspects(ctx, &mut journal, &unassigned, store_now, closed).await;
    ctx.events.send(TaskEvent::SessionsSuspected(suspects)).await;
    let user = tracker_user(ctx, id.window, attempt).await?;
    let request = unanswered_request(ctx, id.window, attempt, user, store_now);
    let unanswered = ctx.budget.unanswered();
    let others = unanswered.register(&export.name, id, &request, Instant::now());
    let search = OrphanSearch {
        request: &request,
        others: &others,
        sessions: &unassigned,
        service_now: listing.service_time,
        quiet: SignedDuration::try_from(ctx.shared.limits.session_quiet).unwrap_or(SignedDuration::MAX),
    };
    match search.evaluate() {
        OrphanVerdict::NoSession => {}
        OrphanVerdict::Delete(sessions) => {
            for session in sessions {
                tracing::info!(session = session.id, window = %id.window, "deleting orphaned session");
                let closed = ctx.space_sessions().close(&session.id).await;
                closed.map_err(|error| Failure::from(&error))?;
                let closed = TaskEvent::SessionClosed(session.id.clone());
                ctx.events.send(closed).await;
            }
        }
        OrphanVerdict::Wait { wait, sessions } => {
            unanswered.keep(&export.name, id, Instant::now() + wait.unsigned_abs());
            let until = (ctx.shared.now)();
            let until = until.saturating_add(wait).unwrap_or(Timestamp::MAX);
            let window = id.window;
            let message = match sessions.as_slice() {
                [] => format!(
                    "an interrupted attempt at {window} may still open a session: checking until {until}"
                ),
                [session] => format!(
                    "session {} may be left over from an interrupted attempt at {window}: it is deleted if unused until {until}",
                    session.id
                ),
                several => format!(
                    "sessions {} may be left over from interrupted attempts at {window}: they are deleted if unused until \
                     {until} and if this process finds as many such attempts",
                    ids(several)
                ),
            };
            return Err(recovery_pending(message, until));
        }
        OrphanVerdict::Report { sessions, doubt } => {
            let failure = orphan_suspected(id.window, &ids(&sessions), doubt.text());
            return Err(match doubt {
                OrphanDoubt::UserUnknown => failure,
                // After a restart, other exports of the space may be about to delete theirs, or to search for them.
                OrphanDoubt::Several | OrphanDoubt::OtherTime | OrphanDoubt::TimeUnknown => Failure {
                    class: RetryClass::Retry(Some(RECHECK_INTERVAL)),
                    ..failure
                },
            });
        }
    }
    unanswered.remove(&export.name, id);
    Ok(())
}

fn ids(sessions: &[&Session]) -> String {
    let ids: Vec<&str> = sessions.iter().map(|session| session.id.as_str()).collect();
    ids.join(", ")
}

/// Returns the request of an attempt, without its reply.
fn unanswered_request(
    ctx: &RunContext,
    window: Window,
    attempt: &AttemptRecord,
    user: Option<String>,
    store_now: Timestamp,
) -> UnansweredRequest {
    UnansweredRequest {
        request: session_request(window, ctx.is_account_scope()),
        user,
        open_before: attempt.open_before.clone(),
        age: store_now.duration_since(attempt.started_at),
    }
}

/// Returns the sessions that interrupted attempts may have left open, for the report. They are incomplete if an attempt
/// cannot be read.
async fn find_suspects(
    ctx: &RunContext,
    journal: &mut Journal,
    unassigned: &[&Session],
    store_now: Timestamp,
    closed: &BTreeSet<AttemptId>,
) -> BTreeSet<String> {
    if let Err(error) = read_attempts(&*ctx.peers.store, &ctx.export.root, journal, |_| true).await {
        tracing::debug!(%error, "cannot read attempts");
    }
    ctx.export
        .mark_foreign_attempts(journal, ctx.clock_offset(store_now));
    let known_user = ctx.tracker_user();
    let mut suspects = BTreeSet::new();
    for (id, facts) in &journal.attempts {
        let record = facts.record.as_ref().filter(|record| {
            facts.sessions.is_empty()
                && (record.holder == ctx.export.holder || record.deadline <= store_now)
                && !closed.contains(id)
        });
        let Some(record) = record else { continue };
        let user = record.tracker_user.clone().or_else(|| known_user.clone());
        let request = unanswered_request(ctx, id.window, record, user, store_now);
        let found = unassigned.iter().filter(|session| request.fits(session));
        suspects.extend(found.map(|session| session.id.clone()));
    }
    suspects
}

/// Returns the tracker user: from the attempt, from this run, or from the receipt of the window.
async fn tracker_user(
    ctx: &RunContext,
    window: Window,
    attempt: &AttemptRecord,
) -> Result<Option<String>, Failure> {
    let known = attempt.tracker_user.clone().or_else(|| ctx.tracker_user());
    if known.is_some() {
        return Ok(known);
    }
    let (store, root) = (&*ctx.peers.store, &ctx.export.root);
    let receipt = get_record::<Receipt>(store, root, &Key::Receipt(window)).await?;
    Ok(receipt
        .filter(|receipt| receipt.source == attempt.source)
        .and_then(|receipt| receipt.tracker_user))
}

fn recovery_pending(message: String, until: Timestamp) -> Failure {
    Failure::wait(Reason::OrphanSessionSuspected, message, Some(until))
}

fn orphan_suspected(window: Window, ids: &str, why: &str) -> Failure {
    let message = format!(
        "an interrupted attempt at {window} may have left a session open: {ids} ({why}); delete it if it is not in use"
    );
    Failure::manual(Reason::OrphanSessionSuspected, message)
}

/// Aborts uploads that will not be completed. Only this software writes below the root, so an upload of the window's
/// object belongs to this attempt, to an earlier one, or to a later one that is in progress.
async fn abort_uploads(ctx: &RunContext, interrupted: &InterruptedAttempt) -> Result<(), Failure> {
    let id = interrupted.id;
    let (store, root) = (&*ctx.peers.store, &ctx.export.root);
    // The probe of conditional writes uploads over the attempt's own key.
    let probed = root.key(&Key::Attempt(id)).unwrap_or_default();
    abort_matching_uploads(store, &probed, |_| true).await?;
    // Of the window's object or a supplement, and of a later revision.
    let mut open = Vec::new();
    for prefix in [
        root.day_objects_prefix(id.window),
        root.revisions_prefix(id.window),
    ] {
        let uploads = store.list_uploads(&prefix).await;
        open.extend(uploads.map_err(|error| Failure::from(&error))?);
    }
    open.retain(|open| match root.parse(&open.upload.key) {
        Key::Events(window) | Key::Supplement(window, _) | Key::Revision(window, _) => window == id.window,
        _ => false,
    });
    if open.is_empty() {
        return Ok(());
    }
    let later_start = earliest_in_progress(ctx, interrupted).await?;
    let earlier = open.into_iter().filter(|open| {
        later_start
            .is_none_or(|later_start| open.initiated.is_some_and(|started_at| started_at < later_start))
    });
    for open in earlier {
        let aborted = store.abort_upload(&open.upload).await;
        aborted.map_err(|error| Failure::from(&error))?;
    }
    Ok(())
}

/// Returns the start of the earliest other attempt at the window that is in progress, in this process or elsewhere; in
/// full seconds, like the start of an upload in S3.
async fn earliest_in_progress(
    ctx: &RunContext,
    interrupted: &InterruptedAttempt,
) -> Result<Option<Timestamp>, Failure> {
    let InterruptedAttempt { id, idle, .. } = interrupted;
    let store = &*ctx.peers.store;
    let now = store.now().await.map_err(|error| Failure::from(&error))?;
    let mut journal = load_day(store, &ctx.export.root, id.window, ctx.journal_share()).await?;
    ctx.remove_spent_attempts(&mut journal);
    ctx.export
        .mark_foreign_attempts(&mut journal, ctx.clock_offset(now));
    let attempts = journal.attempts.iter().filter(|(other, facts)| {
        let held_by_other = facts
            .record
            .as_ref()
            .is_some_and(|record| record.holder != ctx.export.holder && record.deadline > now);
        *other != id && other.window == id.window && (held_by_other || !idle.contains(other))
    });
    let start_times = attempts.filter_map(|(other, _)| {
        let seconds = i64::try_from(other.ulid.timestamp_ms() / 1000).ok()?;
        Timestamp::from_second(seconds).ok()
    });
    Ok(start_times.min())
}
