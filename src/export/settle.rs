//! Settles what a crash left: objects are adopted or left alone, sessions deleted, uploads aborted, spent
//! keys removed. Idempotent; what is gone is done. I/O.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::commit::{Committed, RECEIPT_METADATA, is_same, write_receipt};
use super::failure::{Failure, Remedy};
use super::ground::{Ground, lock};
use super::journal::AttemptFacts;
use super::journal_io::{delete, get, observe_day, session_keys};
use super::keys::{AttemptId, Key};
use super::open::sweep;
use super::record::{AttemptRecord, PreparedRecord, Receipt};
use super::window::Window;
use crate::api::Reason;
use crate::storage::{Condition, Crc64, ObjectFacts, Upload};
use crate::tracker::Session;

/// The least time between two looks at several sessions of which one may be ours.
const ANOTHER_LOOK: Duration = Duration::from_secs(20);

/// How far the clocks of the service and of the store may be apart: 5 min.
const CLOCKS_APART: SignedDuration = SignedDuration::from_mins(5);

/// When to look again at a session that is in use by this process: 5 s.
const IN_USE_LOOK: SignedDuration = SignedDuration::from_secs(5);

/// Settles one leftover attempt. When it returns, nothing of it is left to do, and the journal says no more
/// of it than the store keeps against our will.
pub(super) async fn settle(ground: &Ground, id: AttemptId, facts: &AttemptFacts) -> Result<(), Failure> {
    let _busy = ground.busy(id);
    let export = &ground.export;
    let store = &*ground.peers.store;
    if facts.prepared {
        finish_upload(ground, id).await?;
    } else {
        adopt(ground, id.window).await?;
    }
    for session in &facts.sessions {
        if ground.space.holds(session) {
            // Of a resource of this name that was removed by force, and whose run has not ended yet.
            let now = (ground.shared.now)();
            return Err(unsettled(
                format!("session {session} is in use by this process, which is about to end it"),
                now.saturating_add(IN_USE_LOOK).unwrap_or(now),
            ));
        }
        end(ground, id, facts, session).await?;
        lock(&ground.sessions).remove(session);
    }
    if facts.sessions.is_empty()
        && !facts.prepared
        && !lock(&ground.sessionless).contains(&id)
        && let Some(record) = &facts.record
    {
        find_orphan(ground, id, record).await?;
    }
    abort_uploads(ground, id).await?;
    let mut spent: Vec<Key> = facts
        .sessions
        .iter()
        .map(|session| Key::Session(id, session.clone()))
        .collect();
    spent.extend([Key::Prepared(id), Key::Attempt(id)]);
    delete(store, &export.root, &spent).await
}

/// Deletes a session that the journal says is this attempt's. Whoever can write below the prefix can say so of any
/// session whose id they know, so one that is plainly for something else is left alone.
async fn end(ground: &Ground, id: AttemptId, facts: &AttemptFacts, session: &str) -> Result<(), Failure> {
    let (tracker, space) = (&ground.peers.tracker, &ground.export.space);
    let user = facts
        .record
        .as_ref()
        .and_then(|record| record.tracker_user.as_deref());
    let shown = tracker
        .session(space, session)
        .await
        .map_err(|error| Failure::from(&error))?;
    if let Some(shown) = shown
        && !is_for(&shown, id.window, ground.account(), user)
    {
        return Err(unaccounted(
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
async fn finish_upload(ground: &Ground, id: AttemptId) -> Result<(), Failure> {
    let (store, root) = (&*ground.peers.store, &ground.export.root);
    let Some(prepared) = get::<PreparedRecord>(store, root, &Key::Prepared(id)).await? else {
        return Ok(());
    };
    let key = root.key(&Key::Events(id.window)).unwrap_or_default();
    let mut receipt = prepared.receipt;
    let Some(object) = receipt.object.as_mut() else {
        return Ok(());
    };
    let found = store.head(&key).await.map_err(|error| Failure::from(&error))?;
    let crc64 = u64::from_str_radix(&object.crc64nvme, 16).map(Crc64);
    let ours = found.filter(|found| crc64.is_ok_and(|crc64| is_same(found, object.bytes, crc64, id)));
    if let Some(found) = ours {
        object.version_id = found.version_id;
        return seal(ground, id.window, receipt).await;
    }
    if !prepared.upload_id.is_empty() {
        let upload = Upload {
            key,
            id: prepared.upload_id,
            repeated: false,
        };
        store
            .abort_upload(&upload)
            .await
            .map_err(|error| Failure::from(&error))?;
    }
    Ok(())
}

/// An object that carries its own receipt gets it. Returns whether there is nothing unexplained.
pub(super) async fn adopt(ground: &Ground, window: Window) -> Result<bool, Failure> {
    let (store, root) = (&*ground.peers.store, &ground.export.root);
    let key = root.key(&Key::Events(window)).unwrap_or_default();
    let Some(found) = store.head(&key).await.map_err(|error| Failure::from(&error))? else {
        return Ok(true);
    };
    let Some(mut receipt) = carried(&found) else {
        return Ok(get::<Receipt>(store, root, &Key::Receipt(window))
            .await?
            .is_some());
    };
    let export = &ground.export;
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
    seal(ground, window, receipt).await.map(|()| true)
}

fn carried(found: &ObjectFacts) -> Option<Receipt> {
    let (_, json) = found.metadata.iter().find(|(name, _)| name == RECEIPT_METADATA)?;
    super::record::decode(RECEIPT_METADATA, json.as_bytes()).ok()
}

async fn seal(ground: &Ground, window: Window, receipt: Receipt) -> Result<(), Failure> {
    let support = lock(&ground.shared.support)
        .get(ground.peers.store.name())
        .copied();
    let condition = if support.is_some_and(|support| !support.put) {
        Condition::Overwrite
    } else {
        Condition::IfAbsent
    };
    let written = write_receipt(
        &*ground.peers.store,
        &ground.export.root,
        &Key::Receipt(window),
        receipt,
        condition,
    )
    .await?;
    if let Committed::Ours(_) = written {
        tracing::info!(%window, "an object that a crash left without its receipt was adopted");
    }
    Ok(())
}

/// Looks for a session that was opened, but whose reply never came. It is deleted only when it is provably
/// ours; else a person is told, and nothing is touched.
async fn find_orphan(ground: &Ground, id: AttemptId, attempt: &AttemptRecord) -> Result<(), Failure> {
    let export = &ground.export;
    // No session of this process is between its opening and its key in the journal meanwhile.
    let _turn = ground.space.turn(id.window).await;
    let store_now = ground
        .peers
        .store
        .now()
        .await
        .map_err(|error| Failure::from(&error))?;
    let quiet = SignedDuration::try_from(ground.shared.limits.session_quiet).unwrap_or(SignedDuration::MAX);
    let open = ground
        .peers
        .tracker
        .sessions(&export.space)
        .await
        .map_err(|error| Failure::from(&error))?;
    // Listed after the sessions: what an attempt of anybody has opened meanwhile is no orphan.
    let journalled = session_keys(&*ground.peers.store, &export.root).await?;
    let user = user_of(ground, id.window, attempt).await?;
    let user = user.as_deref();
    let candidates: Vec<&Session> = open
        .iter()
        .filter(|session| {
            !attempt.open_before.contains(&session.id)
                && !journalled.contains(&session.id)
                && !ground.space.holds(&session.id)
        })
        .filter(|session| may_be_of(session, id.window, ground.account(), user, attempt))
        .collect();
    let quiet_until = attempt.started_at.saturating_add(quiet).unwrap_or(Timestamp::MAX);
    match candidates.as_slice() {
        // A request that was under way may still arrive: only after the quiet time nothing means nothing.
        [] if store_now >= quiet_until => Ok(()),
        [] => Err(unsettled(
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
            let free_at = last_use
                .saturating_add(quiet)
                .unwrap_or(Timestamp::MAX)
                .max(quiet_until);
            if user.is_none() && session.username.is_some() {
                return Err(unaccounted(
                    id.window,
                    &[session.id.as_str()],
                    "whose user is not known to be ours",
                ));
            }
            if store_now < free_at {
                return Err(unsettled(
                    format!(
                        "session {} may be ours: it is deleted when it was quiet until {free_at}",
                        session.id
                    ),
                    free_at,
                ));
            }
            tracing::info!(session = session.id, window = %id.window, "deleting a session that a crash left");
            ground
                .peers
                .tracker
                .delete_session(&export.space, &session.id)
                .await
                .map_err(|error| Failure::from(&error))?;
            lock(&ground.sessions).remove(&session.id);
            Ok(())
        }
        several => {
            let ids: Vec<&str> = several.iter().map(|session| session.id.as_str()).collect();
            let failure = unaccounted(id.window, &ids, "of which only one can be ours");
            // After a restart, others of the same space may be about to settle theirs.
            Err(Failure {
                remedy: Remedy::Retry(Some(ANOTHER_LOOK)),
                ..failure
            })
        }
    }
}

/// The tracker user: as the attempt knew it, as this run has learnt it, or as the window's receipt names it.
async fn user_of(
    ground: &Ground,
    window: Window,
    attempt: &AttemptRecord,
) -> Result<Option<String>, Failure> {
    let known = attempt.tracker_user.as_ref().or_else(|| ground.user.get());
    if let Some(user) = known {
        return Ok(Some(user.clone()));
    }
    let (store, root) = (&*ground.peers.store, &ground.export.root);
    let receipt = get::<Receipt>(store, root, &Key::Receipt(window)).await?;
    Ok(receipt
        .filter(|receipt| receipt.source == attempt.source)
        .and_then(|receipt| receipt.tracker_user))
}

/// New since the attempt's list, of the same user, scope and hour, opened about then, its range within a day.
fn may_be_of(
    session: &Session,
    window: Window,
    account: bool,
    user: Option<&str>,
    attempt: &AttemptRecord,
) -> bool {
    let then = session.created.is_none_or(|created| {
        let since = created.duration_since(attempt.started_at);
        since >= -CLOCKS_APART && since <= CLOCKS_APART
    });
    then && is_for(session, window, account, user)
}

/// Of that user, scope and hour, its range within a day of the window's; what is not known fits.
fn is_for(session: &Session, window: Window, account: bool, user: Option<&str>) -> bool {
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
        .is_none_or(|theirs| user.is_none_or(|ours| ours == theirs));
    let scope = session.account.is_none_or(|theirs| theirs == account);
    let hour = session.hour.is_none_or(|hour| hour == window.hour_of_day());
    let range = session.range.is_none_or(|(start, end)| near(start) && near(end));
    user && scope && hour && range
}

fn unsettled(message: String, until: Timestamp) -> Failure {
    Failure::wait(Reason::SessionUnaccounted, message, Some(until))
}

fn unaccounted(window: Window, ids: &[&str], why: &str) -> Failure {
    let ids = ids.join(", ");
    let message = format!(
        "after a crash while {window} was being opened, these sessions are open {why}: {ids}: delete those that nobody needs"
    );
    Failure::person(Reason::SessionUnaccounted, message)
}

/// Uploads of the attempt that nobody will complete. Only this software writes below the root, so an upload
/// of the window's object is this attempt's, an earlier one's, or that of a later attempt that is under way.
async fn abort_uploads(ground: &Ground, id: AttemptId) -> Result<(), Failure> {
    let (store, root) = (&*ground.peers.store, &ground.export.root);
    // The probe of conditional writes uploads over the attempt's own key.
    let probed = root.key(&Key::Attempt(id)).unwrap_or_default();
    sweep(store, &probed, |_| true).await?;
    let key = root.key(&Key::Events(id.window)).unwrap_or_default();
    let open = store.uploads(&key).await.map_err(|error| Failure::from(&error))?;
    if open.is_empty() {
        return Ok(());
    }
    let later = first_under_way(ground, id).await?;
    sweep(store, &key, |open| {
        later.is_none_or(|later| open.initiated.is_some_and(|begun| begun < later))
    })
    .await
}

/// When the first other attempt at the window began that is under way, here or elsewhere; in whole seconds,
/// as S3 tells when an upload began.
async fn first_under_way(ground: &Ground, id: AttemptId) -> Result<Option<Timestamp>, Failure> {
    let store = &*ground.peers.store;
    let now = store.now().await.map_err(|error| Failure::from(&error))?;
    let mut seen = observe_day(store, &ground.export.root, id.window).await?;
    seen.tell_apart(&ground.export, ground.ahead(now));
    let busy = lock(&ground.busy).clone();
    let under_way = seen.attempts.iter().filter(|(other, facts)| {
        let theirs = facts
            .record
            .as_ref()
            .is_some_and(|record| record.holder != ground.export.holder && record.deadline > now);
        **other != id && other.window == id.window && (theirs || busy.contains(other))
    });
    let began = under_way.filter_map(|(other, _)| {
        let seconds = i64::try_from(other.ulid.timestamp_ms() / 1000).ok()?;
        Timestamp::from_second(seconds).ok()
    });
    Ok(began.min())
}
