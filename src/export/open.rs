//! Opens a session for a window: the attempt is journalled first, the session right after. I/O.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use ulid::Ulid;

use super::budget::{Live, Room};
use super::failure::{Failure, Remedy};
use super::ground::{Busy, Ground, lock};
use super::journal::overlap;
use super::journal_io::{delete, glance, put, record_options};
use super::keys::{AttemptId, Key};
use super::record::{self, AttemptRecord, Record, SessionRecord};
use super::window::Window;
use crate::api::Reason;
use crate::storage::conditional::{ConditionalSupport, probe};
use crate::storage::{Condition, ObjectClass, OpenUpload, Segments, Store};
use crate::tracker::{Session, SessionRequest};

/// A session that is ours, journalled as such.
pub(super) struct Opened<'a> {
    /// Whether the store may have something of this attempt that is neither evidence nor thrown away: then
    /// its keys stay, and it is settled like one that a crash left.
    pub(super) loose: AtomicBool,
    pub(super) id: AttemptId,
    pub(super) session: Session,
    pub(super) started_at: Timestamp,
    pub(super) support: ConditionalSupport,
    pub(super) live: Live,
    pub(super) busy: Busy<'a>,
}

/// What came of the wish to open a session.
pub(super) enum Opening<'a> {
    /// It is open.
    Opened(Box<Opened<'a>>),
    /// Somebody stored the window, or part of it, meanwhile: look again.
    Covered,
}

/// Opens a session, one at a time in each space, the oldest window first.
pub(super) async fn open(ground: &Ground, window: Window) -> Result<Opening<'_>, Failure> {
    let _turn = tokio::select! {
        turn = ground.space.turn(window) => turn,
        () = ground.stop.cancelled() => return Err(stopped()),
    };
    if ground.stop.is_cancelled() {
        return Err(stopped());
    }
    let export = &ground.export;
    let open_before = ground
        .peers
        .tracker
        .sessions(&export.space)
        .await
        .map_err(|error| Failure::from(&error))?;
    room(ground, open_before.len())?;

    let started_at = ground
        .peers
        .store
        .now()
        .await
        .map_err(|error| Failure::from(&error))?;
    let id = AttemptId {
        window,
        ulid: ulid_at(started_at),
    };
    tracing::Span::current().record("attempt", id.ulid.to_string());
    let busy = ground.busy(id);
    let longest =
        SignedDuration::try_from(ground.shared.limits.attempt).unwrap_or(SignedDuration::from_hours(6));
    let attempt = AttemptRecord {
        schema: AttemptRecord::SCHEMA.to_owned(),
        holder: export.holder.clone(),
        process: export.tenure.as_ref().map(|tenure| tenure.process.clone()),
        source: export.source.clone(),
        started_at,
        deadline: started_at.saturating_add(longest).unwrap_or(Timestamp::MAX),
        tracker_user: ground.user.get().cloned(),
        open_before: open_before.into_iter().map(|session| session.id).collect(),
    };
    lock(&ground.dirty).insert(window);
    let written = put(
        &*ground.peers.store,
        &export.root,
        &Key::Attempt(id),
        &attempt,
        Condition::Overwrite,
    )
    .await;
    if let Err(error) = written {
        // Its reply may have been lost.
        forget(ground, id, None).await;
        return Err(Failure::from(&error));
    }
    match begin(ground, id, &attempt).await {
        Ok(Some((session, support))) => {
            let live = ground.space.hold(&session.id);
            Ok(Opening::Opened(Box::new(Opened {
                loose: AtomicBool::new(false),
                id,
                session,
                started_at,
                support,
                live,
                busy,
            })))
        }
        Ok(None) => {
            forget(ground, id, None).await;
            Ok(Opening::Covered)
        }
        Err((failure, Trace::None)) => {
            forget(ground, id, None).await;
            Err(failure)
        }
        Err((failure, Trace::Deleted(session))) => {
            forget(ground, id, Some(session)).await;
            Err(failure)
        }
        // The attempt stays in the journal, to be settled: whoever does sweeps its uploads,
        Err((failure, Trace::Upload)) => {
            lock(&ground.sessionless).insert(id);
            Err(failure)
        }
        // and looks for its session.
        Err((failure, Trace::Perhaps)) => Err(failure),
    }
}

/// What is left of the wish for a session.
enum Trace {
    /// Nothing.
    None,
    /// It was opened and deleted; its key may be in the journal.
    Deleted(String),
    /// No session, but an upload of the probe that could not be thrown away.
    Upload,
    /// A session may be open that nobody knows the id of, or that could not be deleted.
    Perhaps,
}

type Begun = Option<(Session, ConditionalSupport)>;

async fn begin(ground: &Ground, id: AttemptId, attempt: &AttemptRecord) -> Result<Begun, (Failure, Trace)> {
    let (export, window) = (&ground.export, id.window);
    let not_sent = |failure: Failure| (failure, Trace::None);
    let support = support(ground, id, attempt)
        .await
        .map_err(|failure| (failure, Trace::Upload))?;
    let mut seen = glance(&*ground.peers.store, &export.root, id)
        .await
        .map_err(not_sent)?;
    seen.tell_apart(export, ground.ahead(attempt.started_at));
    let taken = |other: &Window| overlap(*other, window);
    if seen.receipts.keys().any(taken) || seen.objects.keys().any(taken) {
        return Ok(None);
    }
    let others = seen.attempts.iter().filter(|(other, facts)| {
        let live = facts
            .record
            .as_ref()
            .is_some_and(|record| record.deadline > attempt.started_at);
        **other != id && overlap(other.window, window) && live
    });
    for (other, facts) in others {
        let Some(record) = &facts.record else { continue };
        // Leftovers of our own are settled, perhaps at this moment; they hold nothing.
        if record.holder != export.holder {
            let (holder, until) = (&record.holder, record.deadline);
            let message = format!("{holder} is exporting {window}, until {until} at the latest");
            // Of two who begin at once each may see the other: the elder tries again, the younger waits.
            return Err(not_sent(if other.ulid > id.ulid {
                Failure::retry(Reason::HeldBy, message)
            } else {
                Failure::wait(Reason::HeldBy, message, None)
            }));
        }
    }
    let ask = SessionRequest {
        start: window.date(),
        end: window.date(),
        hour: window.hour_of_day(),
        account: ground.account(),
    };
    let session = match ground.peers.tracker.create_session(&export.space, &ask).await {
        Ok(session) => session,
        Err(error) => {
            let trace = if error.may_have_executed() {
                Trace::Perhaps
            } else {
                Trace::None
            };
            return Err((Failure::from(&error), trace));
        }
    };
    if let Some(user) = &session.username {
        // The first reply names the user; later ones say the same.
        let _ = ground.user.set(user.clone());
    }
    lock(&ground.sessions).insert(session.id.clone(), window);
    ground.opened.notify_one();
    let ours = SessionRecord {
        schema: SessionRecord::SCHEMA.to_owned(),
        session_id: session.id.clone(),
        tracker_user: session.username.clone(),
        created_at: session.created,
    };
    let key = Key::Session(id, session.id.clone());
    if let Err(error) = put(
        &*ground.peers.store,
        &export.root,
        &key,
        &ours,
        Condition::Overwrite,
    )
    .await
    {
        // Without its key nobody would know that it is ours.
        let gone = ground
            .peers
            .tracker
            .delete_session(&export.space, &session.id)
            .await;
        if gone.is_err() {
            return Err((Failure::from(&error), Trace::Perhaps));
        }
        lock(&ground.sessions).remove(&session.id);
        return Err((Failure::from(&error), Trace::Deleted(session.id)));
    }
    Ok(Some((session, support)))
}

fn room(ground: &Ground, open: usize) -> Result<(), Failure> {
    let space = &ground.export.space;
    let message = match ground.space.room(open, Instant::now()) {
        Room::Free => return Ok(()),
        Room::Full => format!(
            "{open} of 30 sessions are open in space {space}: waiting for a free one (see them with the service's session list)"
        ),
        Room::OwnLimit => format!(
            "this process holds all the sessions that it may in space {space}: waiting for one of them"
        ),
    };
    Err(Failure::wait(Reason::SpaceFull, message, None).of_export())
}

/// What the store supports, found out once with the attempt's own bytes.
async fn support(
    ground: &Ground,
    id: AttemptId,
    attempt: &AttemptRecord,
) -> Result<ConditionalSupport, Failure> {
    let store = &ground.peers.store;
    let known = lock(&ground.shared.support).get(store.name()).copied();
    let support = if let Some(support) = known {
        support
    } else {
        let body = Segments::from(bytes::Bytes::from(record::encode(attempt)));
        let key = ground.export.root.key(&Key::Attempt(id)).unwrap_or_default();
        let options = record_options(Condition::Overwrite, &body, ObjectClass::Journal);
        let probed = probe(&**store, &key, body, &options).await;
        // An upload of the probe whose reply was lost has nobody else to throw it away.
        sweep(&**store, &key, |_| true).await?;
        let support = probed.map_err(|error| Failure::from(&error))?;
        lock(&ground.shared.support).insert(store.name().to_owned(), support);
        support
    };
    if (support.put && support.complete) || ground.export.single_writer {
        return Ok(support);
    }
    Err(Failure {
        remedy: Remedy::Person,
        ..weak(store.name())
    })
}

/// The store does not keep two writers apart.
pub(super) fn weak(store: &str) -> Failure {
    let message = format!(
        "{store} ignores If-None-Match, so two writers could overwrite each other: use a store that honours it, or make sure that nothing else writes there (run --single-writer)"
    );
    Failure::wait(Reason::DestinationWeak, message, None).of_export()
}

/// Aborts the uploads of a key that `which` names.
pub(super) async fn sweep(
    store: &dyn Store,
    key: &str,
    which: impl Fn(&OpenUpload) -> bool,
) -> Result<(), Failure> {
    let open = store.uploads(key).await.map_err(|error| Failure::from(&error))?;
    for open in open.iter().filter(|open| open.upload.key == key && which(open)) {
        store
            .abort_upload(&open.upload)
            .await
            .map_err(|error| Failure::from(&error))?;
    }
    Ok(())
}

/// An attempt that has no session open. What cannot be deleted of it now is settled later.
async fn forget(ground: &Ground, id: AttemptId, session: Option<String>) {
    lock(&ground.sessionless).insert(id);
    let store = &*ground.peers.store;
    let mut spent: Vec<Key> = session
        .map(|session| Key::Session(id, session))
        .into_iter()
        .collect();
    spent.push(Key::Attempt(id));
    match delete(store, &ground.export.root, &spent).await {
        Ok(()) => {
            lock(&ground.dirty).remove(&id.window);
        }
        Err(failure) => {
            tracing::warn!(message = failure.message, attempt = %id, "a spent attempt stays in the journal until it is settled");
        }
    }
}

pub(super) fn stopped() -> Failure {
    Failure::retry(Reason::Failed, "stopped before it was done")
}

fn ulid_at(time: Timestamp) -> Ulid {
    let millis = u64::try_from(time.as_millisecond()).unwrap_or(0);
    Ulid::from_parts(millis, rand::random())
}
