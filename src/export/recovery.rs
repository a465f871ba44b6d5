//! Recovery after a crash: adopts objects, deletes sessions, aborts uploads, deletes obsolete journal keys.
//! Idempotent; "not found" counts as done. I/O.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::commit::{RECEIPT_METADATA, ReceiptWrite, is_same_object, write_receipt};
use super::failure::{Failure, RetryClass};
use super::journal_io::{delete_keys, get_record, journaled_sessions, load_day};
use super::open::abort_matching_uploads;
use super::run_context::{RunContext, lock};
use crate::api::Reason;
use crate::archive::layout::{AttemptId, Key};
use crate::archive::listing::AttemptFacts;
use crate::archive::records::{AttemptRecord, PreparedRecord, Receipt};
use crate::archive::window::Window;
use crate::storage::{Crc64, ObjectInfo, PutMode, Upload};
use crate::tracker::Session;

/// Minimum interval between two checks of ambiguous sessions: 20 s.
const RECHECK_INTERVAL: Duration = Duration::from_secs(20);

/// Maximum difference between the clocks of the service and the store: 5 min.
const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_mins(5);

/// Interval between checks of a session that this process uses: 5 s.
const IN_USE_RECHECK_INTERVAL: SignedDuration = SignedDuration::from_secs(5);

/// Recovers one leftover attempt: finishes or adopts its object, deletes its sessions, uploads and journal keys.
/// After success, only keys that the store refuses to delete are left.
pub(super) async fn recover_attempt(
    ctx: &RunContext,
    id: AttemptId,
    facts: &AttemptFacts,
) -> Result<(), Failure> {
    let _guard = ctx.mark_in_progress(id);
    let export = &ctx.export;
    let store = &*ctx.peers.store;
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
        lock(&ctx.sessions).remove(session);
    }
    if facts.sessions.is_empty()
        && !facts.prepared
        && !lock(&ctx.closed_attempts).contains(&id)
        && let Some(record) = &facts.record
    {
        delete_orphan_session(ctx, id, record).await?;
    }
    abort_uploads(ctx, id).await?;
    let mut obsolete: Vec<Key> = facts
        .sessions
        .iter()
        .map(|session| Key::Session(id, session.clone()))
        .collect();
    obsolete.extend([Key::Prepared(id), Key::Attempt(id)]);
    delete_keys(store, &export.root, &obsolete).await
}

/// Deletes a session that the journal assigns to this attempt, unless it was opened for another window, scope or user:
/// anyone who can write below the prefix can put a known session id into the journal.
async fn delete_journaled_session(
    ctx: &RunContext,
    id: AttemptId,
    facts: &AttemptFacts,
    session: &str,
) -> Result<(), Failure> {
    let (tracker, space) = (&ctx.peers.tracker, &ctx.export.space);
    let user = facts
        .record
        .as_ref()
        .and_then(|record| record.tracker_user.as_deref());
    let listed = tracker
        .get_session(space, session)
        .await
        .map_err(|error| Failure::from(&error))?;
    if let Some(listed) = listed
        && !matches_window(&listed, id.window, ctx.is_account_scope(), user)
    {
        return Err(orphan_suspected(
            id.window,
            &[session],
            "the journal names it, but it was opened for another window, scope or user",
        ));
    }
    // Also if the session is not listed: a service may list fewer sessions than it keeps.
    tracker
        .delete_session(space, session)
        .await
        .map_err(|error| Failure::from(&error))
}

/// Finishes an upload that was about to be completed: writes the receipt if the object exists, else aborts the upload.
async fn finish_upload(ctx: &RunContext, id: AttemptId) -> Result<(), Failure> {
    let (store, root) = (&*ctx.peers.store, &ctx.export.root);
    let Some(prepared) = get_record::<PreparedRecord>(store, root, &Key::Prepared(id)).await? else {
        return Ok(());
    };
    let key = root.key(&Key::Events(id.window)).unwrap_or_default();
    let mut receipt = prepared.receipt;
    let Some(object) = receipt.object.as_mut() else {
        return Ok(());
    };
    let found = store.head(&key).await.map_err(|error| Failure::from(&error))?;
    let crc64 = u64::from_str_radix(&object.crc64nvme, 16).map(Crc64);
    let own_object =
        found.filter(|found| crc64.is_ok_and(|crc64| is_same_object(found, object.bytes, crc64, id)));
    if let Some(found) = own_object {
        object.version_id = found.version_id;
        return write_adopted_receipt(ctx, id.window, receipt).await;
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
    write_adopted_receipt(ctx, window, receipt).await.map(|()| true)
}

fn embedded_receipt(found: &ObjectInfo) -> Option<Receipt> {
    let (_, json) = found.metadata.iter().find(|(name, _)| name == RECEIPT_METADATA)?;
    crate::archive::records::decode(RECEIPT_METADATA, json.as_bytes()).ok()
}

async fn write_adopted_receipt(ctx: &RunContext, window: Window, receipt: Receipt) -> Result<(), Failure> {
    let support = lock(&ctx.shared.support).get(ctx.peers.store.name()).copied();
    let condition = if support.is_some_and(|support| !support.put) {
        PutMode::Overwrite
    } else {
        PutMode::Create
    };
    let written = write_receipt(
        &*ctx.peers.store,
        &ctx.export.root,
        &Key::Receipt(window),
        receipt,
        condition,
    )
    .await?;
    if let ReceiptWrite::Written(_) = written {
        tracing::info!(%window, "adopted object without receipt");
    }
    Ok(())
}

/// Finds and deletes a session that the service opened although its response was lost. A session that does not provably
/// belong to this attempt is reported and not deleted.
async fn delete_orphan_session(
    ctx: &RunContext,
    id: AttemptId,
    attempt: &AttemptRecord,
) -> Result<(), Failure> {
    let export = &ctx.export;
    // Meanwhile this process opens no session that is not in the journal yet.
    let _opening = ctx.budget.lock_opening(id.window).await;
    let store_now = ctx
        .peers
        .store
        .now()
        .await
        .map_err(|error| Failure::from(&error))?;
    let quiet = SignedDuration::try_from(ctx.shared.limits.session_quiet).unwrap_or(SignedDuration::MAX);
    let open = ctx
        .peers
        .tracker
        .list_sessions(&export.space)
        .await
        .map_err(|error| Failure::from(&error))?;
    // Listed after the sessions, so that a session that any attempt opened meanwhile is no candidate.
    let journaled = journaled_sessions(&*ctx.peers.store, &export.root).await?;
    let user = tracker_user(ctx, id.window, attempt).await?;
    let user = user.as_deref();
    let candidates: Vec<&Session> = open
        .iter()
        .filter(|session| {
            !attempt.open_before.contains(&session.id)
                && !journaled.contains(&session.id)
                && !ctx.budget.holds(&session.id)
        })
        .filter(|session| may_belong_to(session, id.window, ctx.is_account_scope(), user, attempt))
        .collect();
    let quiet_until = attempt.started_at.saturating_add(quiet).unwrap_or(Timestamp::MAX);
    match candidates.as_slice() {
        // A delayed request may still open a session: only after the quiet time the empty result is conclusive.
        [] if store_now >= quiet_until => Ok(()),
        [] => Err(recovery_pending(
            format!(
                "an interrupted attempt at {} may still open a session: checking until {quiet_until}",
                id.window
            ),
            quiet_until,
        )),
        [session] => {
            let last_use = session
                .accessed
                .into_iter()
                .chain(session.created)
                .max()
                .unwrap_or(attempt.started_at);
            let deletable_at = last_use
                .saturating_add(quiet)
                .unwrap_or(Timestamp::MAX)
                .max(quiet_until);
            if user.is_none() && session.username.is_some() {
                return Err(orphan_suspected(
                    id.window,
                    &[session.id.as_str()],
                    "the tracker user of this export is not known",
                ));
            }
            if store_now < deletable_at {
                return Err(recovery_pending(
                    format!(
                        "session {} may be left over from an interrupted attempt at {}: it is deleted if unused until {deletable_at}",
                        session.id, id.window
                    ),
                    deletable_at,
                ));
            }
            tracing::info!(session = session.id, window = %id.window, "deleting orphaned session");
            ctx.peers
                .tracker
                .delete_session(&export.space, &session.id)
                .await
                .map_err(|error| Failure::from(&error))?;
            lock(&ctx.sessions).remove(&session.id);
            Ok(())
        }
        ambiguous => {
            let ids: Vec<&str> = ambiguous.iter().map(|session| session.id.as_str()).collect();
            let failure = orphan_suspected(id.window, &ids, "at most one belongs to this export");
            // After a restart, other exports of the space may be about to delete theirs.
            Err(Failure {
                class: RetryClass::Retry(Some(RECHECK_INTERVAL)),
                ..failure
            })
        }
    }
}

/// Returns the tracker user: from the attempt, from this run, or from the receipt of the window.
async fn tracker_user(
    ctx: &RunContext,
    window: Window,
    attempt: &AttemptRecord,
) -> Result<Option<String>, Failure> {
    let known = attempt.tracker_user.as_ref().or_else(|| ctx.tracker_user.get());
    if let Some(user) = known {
        return Ok(Some(user.clone()));
    }
    let (store, root) = (&*ctx.peers.store, &ctx.export.root);
    let receipt = get_record::<Receipt>(store, root, &Key::Receipt(window)).await?;
    Ok(receipt
        .filter(|receipt| receipt.source == attempt.source)
        .and_then(|receipt| receipt.tracker_user))
}

/// Returns true if a session matches the window, user and scope, and was created about when the attempt started.
fn may_belong_to(
    session: &Session,
    window: Window,
    account: bool,
    user: Option<&str>,
    attempt: &AttemptRecord,
) -> bool {
    let in_time = session.created.is_none_or(|created| {
        let since = created.duration_since(attempt.started_at);
        since >= -CLOCK_SKEW_MAX && since <= CLOCK_SKEW_MAX
    });
    in_time && matches_window(session, window, account, user)
}

/// Returns true if the user, scope and hour match and the range is within a day of the window; unknown values match.
fn matches_window(session: &Session, window: Window, account: bool, user: Option<&str>) -> bool {
    let date = window.date();
    let near = |day: jiff::civil::Date| {
        let apart = date
            .since(day)
            .map_or(i64::MAX, |span| i64::from(span.get_days()).abs());
        apart <= 1
    };
    let user = session
        .username
        .as_deref()
        .is_none_or(|session_user| user.is_none_or(|expected_user| expected_user == session_user));
    let scope = session
        .account
        .is_none_or(|session_account| session_account == account);
    let hour = session.hour.is_none_or(|hour| hour == window.hour_of_day());
    let range = session.range.is_none_or(|(start, end)| near(start) && near(end));
    user && scope && hour && range
}

fn recovery_pending(message: String, until: Timestamp) -> Failure {
    Failure::wait(Reason::OrphanSessionSuspected, message, Some(until))
}

fn orphan_suspected(window: Window, ids: &[&str], why: &str) -> Failure {
    let ids = ids.join(", ");
    let message = format!(
        "an interrupted attempt at {window} may have left a session open: {ids} ({why}); delete it if it is not in use"
    );
    Failure::manual(Reason::OrphanSessionSuspected, message)
}

/// Aborts uploads that will not be completed. Only this software writes below the root, so an upload of the window's
/// object belongs to this attempt, to an earlier one, or to a later one that is in progress.
async fn abort_uploads(ctx: &RunContext, id: AttemptId) -> Result<(), Failure> {
    let (store, root) = (&*ctx.peers.store, &ctx.export.root);
    // The probe of conditional writes uploads over the attempt's own key.
    let probed = root.key(&Key::Attempt(id)).unwrap_or_default();
    abort_matching_uploads(store, &probed, |_| true).await?;
    let key = root.key(&Key::Events(id.window)).unwrap_or_default();
    let open = store
        .list_uploads(&key)
        .await
        .map_err(|error| Failure::from(&error))?;
    if open.is_empty() {
        return Ok(());
    }
    let later_start = earliest_in_progress(ctx, id).await?;
    abort_matching_uploads(store, &key, |open| {
        later_start
            .is_none_or(|later_start| open.initiated.is_some_and(|started_at| started_at < later_start))
    })
    .await
}

/// Returns the start of the earliest other attempt at the window that is in progress, in this process or elsewhere; in
/// full seconds, like the start of an upload in S3.
async fn earliest_in_progress(ctx: &RunContext, id: AttemptId) -> Result<Option<Timestamp>, Failure> {
    let store = &*ctx.peers.store;
    let now = store.now().await.map_err(|error| Failure::from(&error))?;
    let mut journal = load_day(store, &ctx.export.root, id.window).await?;
    ctx.export
        .mark_foreign_attempts(&mut journal, ctx.clock_offset(now));
    let own_in_progress = lock(&ctx.in_progress).clone();
    let attempts = journal.attempts.iter().filter(|(other, facts)| {
        let held_by_other = facts
            .record
            .as_ref()
            .is_some_and(|record| record.holder != ctx.export.holder && record.deadline > now);
        **other != id && other.window == id.window && (held_by_other || own_in_progress.contains(other))
    });
    let start_times = attempts.filter_map(|(other, _)| {
        let seconds = i64::try_from(other.ulid.timestamp_ms() / 1000).ok()?;
        Timestamp::from_second(seconds).ok()
    });
    Ok(start_times.min())
}
