//! Settles what a crash left: objects are adopted or left alone, sessions deleted, uploads aborted, spent
//! keys removed. Idempotent; what is gone is done. I/O.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::commit::{RECEIPT_METADATA, ReceiptWrite, is_same_object, write_receipt};
use super::failure::{Failure, Remedy};
use super::journal::AttemptFacts;
use super::journal_io::{delete_keys, get_record, journaled_sessions, load_day};
use super::keys::{AttemptId, Key};
use super::open::abort_matching_uploads;
use super::record::{AttemptRecord, PreparedRecord, Receipt};
use super::run_context::{RunContext, lock};
use super::window::Window;
use crate::api::Reason;
use crate::storage::{Crc64, ObjectInfo, PutMode, Upload};
use crate::tracker::Session;

/// The least time between two looks at several sessions of which one may be ours.
const RECHECK_INTERVAL: Duration = Duration::from_secs(20);

/// How far the clocks of the service and of the store may be apart: 5 min.
const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_mins(5);

/// When to look again at a session that is in use by this process: 5 s.
const IN_USE_RECHECK_INTERVAL: SignedDuration = SignedDuration::from_secs(5);

/// Settles one leftover attempt. When it returns, nothing of it is left to do, and the journal says no more
/// of it than the store keeps against our will.
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
            // Of a resource of this name that was removed by force, and whose run has not ended yet.
            let now = (ctx.shared.now)();
            return Err(recovery_pending(
                format!("session {session} is in use by this process, which is about to end it"),
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
    let mut spent: Vec<Key> = facts
        .sessions
        .iter()
        .map(|session| Key::Session(id, session.clone()))
        .collect();
    spent.extend([Key::Prepared(id), Key::Attempt(id)]);
    delete_keys(store, &export.root, &spent).await
}

/// Deletes a session that the journal says is this attempt's. Whoever can write below the prefix can say so of any
/// session whose id they know, so one that is plainly for something else is left alone.
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
            "that the journal names, but that were opened for something else",
        ));
    }
    // Also one that is not shown: a service may show less than it keeps.
    tracker
        .delete_session(space, session)
        .await
        .map_err(|error| Failure::from(&error))
}

/// An upload that was about to be completed: its object gets its receipt, or there is nothing to keep.
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

/// An object that carries its own receipt gets it. Returns whether there is nothing unexplained.
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
    super::record::decode(RECEIPT_METADATA, json.as_bytes()).ok()
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
        tracing::info!(%window, "an object that a crash left without its receipt was adopted");
    }
    Ok(())
}

/// Looks for a session that was opened, but whose reply never came. It is deleted only when it is provably
/// ours; else a person is told, and nothing is touched.
async fn delete_orphan_session(
    ctx: &RunContext,
    id: AttemptId,
    attempt: &AttemptRecord,
) -> Result<(), Failure> {
    let export = &ctx.export;
    // No session of this process is between its opening and its key in the journal meanwhile.
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
    // Listed after the sessions: what an attempt of anybody has opened meanwhile is no orphan.
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
        // A request that was under way may still arrive: only after the quiet time nothing means nothing.
        [] if store_now >= quiet_until => Ok(()),
        [] => Err(recovery_pending(
            format!(
                "whether {} opened a session is known only after {quiet_until}",
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
                    "whose user is not known to be ours",
                ));
            }
            if store_now < deletable_at {
                return Err(recovery_pending(
                    format!(
                        "session {} may be ours: it is deleted when it was quiet until {deletable_at}",
                        session.id
                    ),
                    deletable_at,
                ));
            }
            tracing::info!(session = session.id, window = %id.window, "deleting a session that a crash left");
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
            let failure = orphan_suspected(id.window, &ids, "of which only one can be ours");
            // After a restart, others of the same space may be about to settle theirs.
            Err(Failure {
                remedy: Remedy::Retry(Some(RECHECK_INTERVAL)),
                ..failure
            })
        }
    }
}

/// The tracker user: as the attempt knew it, as this run has learnt it, or as the window's receipt names it.
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

/// New since the attempt's list, of the same user, scope and hour, opened about then, its range within a day.
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

/// Of that user, scope and hour, its range within a day of the window's; what is not known fits.
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
        "after a crash while {window} was being opened, these sessions are open {why}: {ids}: delete those that nobody needs"
    );
    Failure::manual(Reason::OrphanSessionSuspected, message)
}

/// Uploads of the attempt that nobody will complete. Only this software writes below the root, so an upload
/// of the window's object is this attempt's, an earlier one's, or that of a later attempt that is under way.
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

/// When the first other attempt at the window began that is under way, here or elsewhere; in whole seconds,
/// as S3 tells when an upload began.
async fn earliest_in_progress(ctx: &RunContext, id: AttemptId) -> Result<Option<Timestamp>, Failure> {
    let store = &*ctx.peers.store;
    let now = store.now().await.map_err(|error| Failure::from(&error))?;
    let mut journal = load_day(store, &ctx.export.root, id.window).await?;
    journal.mark_foreign_attempts(&ctx.export, ctx.clock_offset(now));
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
