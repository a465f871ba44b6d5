//! Opens a session for a window: records the attempt in the journal first, the session right after. I/O.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use ulid::Ulid;

use super::failure::{Failure, RetryClass, conditional_writes_unsupported, stopped};
use super::journal_io::{delete_keys, load_conflicts, put_record, record_options};
use super::publish::Publisher;
use super::run_context::RunContext;
use super::task_events::TaskEvent;
use crate::api::Reason;
use crate::archive::layout::{AttemptId, Key};
use crate::archive::listing::overlap;
use crate::archive::receipt::receipt_key;
use crate::archive::records::{self, ArchiveRecord, AttemptRecord, SessionRecord};
use crate::archive::window::Window;
use crate::session::budget::HeldSession;
use crate::session::guard::{OpenError, OpenSessions, OpenedSession};
use crate::session::occupancy::SessionHolder;
use crate::storage::conditional::{ConditionalSupport, probe};
use crate::storage::{ObjectClass, OpenUpload, PutMode, Segments, Store, StoreError};
use crate::tracker::SessionRequest;

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

/// Open session of this attempt, recorded in the journal.
pub(super) struct OpenAttempt {
    /// True if the store may have leftovers of this attempt: then its keys stay, and it is recovered as after a
    /// crash.
    pub(super) needs_recovery: AtomicBool,
    pub(super) id: AttemptId,
    pub(super) session: OpenedSession,
    pub(super) started_at: Timestamp,
    /// Time at which this process abandons the attempt, since others may then take the window over.
    pub(super) deadline: tokio::time::Instant,
    pub(super) support: ConditionalSupport,
    pub(super) held: HeldSession,
    /// Number of the revision that the attempt stores; 0: the first receipt.
    pub(super) revision: u32,
}

impl OpenAttempt {
    /// Returns the attempt as the publisher of objects.
    pub(super) const fn publisher(&self) -> Publisher<'_> {
        Publisher {
            id: self.id,
            support: self.support,
            needs_recovery: &self.needs_recovery,
        }
    }
}

/// Result of opening a session.
pub(super) enum OpenOutcome {
    /// The session is open.
    Opened(Box<OpenAttempt>),
    /// Another holder stored the window, or part of it, meanwhile: list the bucket again.
    Covered(Leftover),
}

/// Failure to open a session, with what the attempt left.
pub(super) struct OpenFailure {
    pub(super) failure: Failure,
    /// `None`: the attempt is not in the journal.
    pub(super) leftover: Option<Leftover>,
}

impl From<Failure> for OpenFailure {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            leftover: None,
        }
    }
}

/// Sessions that the journal names, with their holders.
pub(super) type JournaledSessions = BTreeMap<String, SessionHolder>;

/// Opens a session, one at a time of an export. All that needs the store happens before and after the turn of the space.
pub(super) async fn open_session(
    ctx: &RunContext,
    window: Window,
    revision: u32,
    journaled: &JournaledSessions,
) -> Result<OpenOutcome, OpenFailure> {
    let export = &ctx.export;
    let _opening = tokio::select! {
        opening = ctx.opening.lock() => opening,
        () = ctx.stop.cancelled() => return Err(stopped().into()),
    };
    // What is not in this listing may be of this attempt.
    let open_before = list_with_capacity(ctx, journaled).await?;

    // Read before the store's clock, so that the deadline of this process is not later than the one in the journal.
    let started = tokio::time::Instant::now();
    let started_at = ctx
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
    ctx.events.send(TaskEvent::AttemptStarted(id)).await;
    let max_duration =
        SignedDuration::try_from(ctx.shared.limits.attempt).unwrap_or(SignedDuration::from_hours(6));
    let deadline = started + max_duration.unsigned_abs();
    let attempt = AttemptRecord {
        schema: AttemptRecord::SCHEMA.to_owned(),
        holder: export.holder.clone(),
        process: export
            .holder_epoch
            .as_ref()
            .map(|holder_epoch| holder_epoch.process.clone()),
        source: export.source.clone(),
        started_at,
        deadline: started_at.saturating_add(max_duration).unwrap_or(Timestamp::MAX),
        tracker_user: ctx.tracker_user(),
        open_before: open_before.ids,
    };
    let written = put_record(
        &*ctx.peers.store,
        &export.root,
        &Key::Attempt(id),
        &attempt,
        PutMode::Overwrite,
    )
    .await;
    if let Err(error) = written {
        // The store may have written it although the reply was lost.
        return Err(OpenFailure {
            failure: Failure::from(&error),
            leftover: Some(discard_attempt(ctx, id, None).await),
        });
    }
    let (failure, left) = match create_session(ctx, id, revision, &attempt, journaled).await {
        Ok(Some((session, held, support))) => {
            return Ok(OpenOutcome::Opened(Box::new(OpenAttempt {
                needs_recovery: AtomicBool::new(false),
                id,
                session,
                started_at,
                deadline,
                support,
                held,
                revision,
            })));
        }
        Ok(None) => return Ok(OpenOutcome::Covered(discard_attempt(ctx, id, None).await)),
        Err(failed) => failed,
    };
    let in_journal = |closed| Leftover {
        id,
        closed,
        journaled: true,
    };
    let leftover = match left {
        OpenLeftover::Nothing => discard_attempt(ctx, id, None).await,
        OpenLeftover::DeletedSession(session) => discard_attempt(ctx, id, Some(session)).await,
        // The attempt stays in the journal: recovery aborts its uploads.
        OpenLeftover::ProbeUpload => in_journal(true),
        // The attempt stays in the journal: recovery searches for its session.
        OpenLeftover::PossibleSession => in_journal(false),
    };
    Err(OpenFailure {
        failure,
        leftover: Some(leftover),
    })
}

/// Lists the sessions of the space. Fails if another one may not be opened.
async fn list_with_capacity(
    ctx: &RunContext,
    journaled: &JournaledSessions,
) -> Result<OpenSessions, Failure> {
    let holder = |id: &str| match ctx.budget.holder(id, &ctx.export.name) {
        SessionHolder::Unknown => journaled.get(id).copied().unwrap_or(SessionHolder::Unknown),
        holder => holder,
    };
    let listed = ctx.space_sessions().list(holder).await;
    let listed = listed.map_err(|error| Failure::from(&error))?;
    let capacity = listed.check_capacity(&ctx.budget, &ctx.export.space, Instant::now());
    capacity.map_err(|error| Failure::from(&error))?;
    Ok(listed)
}

/// Creates a session in the turn of the space, and registers it as held before the turn ends: a search for orphans that has
/// the next turn sees it.
async fn create_in_turn(
    ctx: &RunContext,
    window: Window,
    journaled: &JournaledSessions,
) -> Result<(OpenedSession, HeldSession), (Failure, OpenLeftover)> {
    let without_leftover = |failure: Failure| (failure, OpenLeftover::Nothing);
    let _turn = tokio::select! {
        turn = ctx.budget.lock_opening(&ctx.tenant, window) => turn,
        () = ctx.stop.cancelled() => return Err(without_leftover(stopped())),
    };
    if ctx.stop.is_cancelled() {
        return Err(without_leftover(stopped()));
    }
    let listed = list_with_capacity(ctx, journaled).await;
    let listed = listed.map_err(without_leftover)?;
    let request = session_request(window, ctx.is_account_scope());
    match ctx.space_sessions().create(&request, &listed).await {
        Ok(opened) => {
            let held = ctx.budget.hold(opened.id(), &ctx.export.name);
            Ok((opened, held))
        }
        Err(error) => {
            let leftover = match error {
                OpenError::PossiblyOpen(_) => OpenLeftover::PossibleSession,
                _ => OpenLeftover::Nothing,
            };
            Err((Failure::from(&error), leftover))
        }
    }
}

/// Leftover of a failed attempt to open a session.
enum OpenLeftover {
    /// No leftover.
    Nothing,
    /// The session was opened and deleted; its key may be in the journal.
    DeletedSession(String),
    /// No session, but an upload of the probe that could not be aborted.
    ProbeUpload,
    /// A session with an unknown id may be open, or a session could not be deleted.
    PossibleSession,
}

type CreatedSession = Option<(OpenedSession, HeldSession, ConditionalSupport)>;

async fn create_session(
    ctx: &RunContext,
    id: AttemptId,
    revision: u32,
    attempt: &AttemptRecord,
    journaled: &JournaledSessions,
) -> Result<CreatedSession, (Failure, OpenLeftover)> {
    let (export, window) = (&ctx.export, id.window);
    let without_leftover = |failure: Failure| (failure, OpenLeftover::Nothing);
    let support = conditional_support(ctx, id, attempt)
        .await
        .map_err(|failure| (failure, OpenLeftover::ProbeUpload))?;
    // A listing may lag behind, so that the receipt is also looked up by its key.
    let (mut journal, has_receipt) = tokio::try_join!(
        load_conflicts(
            &*ctx.peers.store,
            &export.root,
            id,
            [ctx.journal_share(), ctx.journal_share()]
        ),
        has_receipt(ctx, window, revision)
    )
    .map_err(without_leftover)?;
    export.mark_foreign_attempts(&mut journal, ctx.clock_offset(attempt.started_at));
    let overlaps = |other: &Window| overlap(*other, window);
    let stored = match revision {
        0 => journal.receipts.keys().any(overlaps) || journal.objects.keys().any(overlaps),
        _ => journal.highest_revision_receipt(window) >= revision,
    };
    if has_receipt || stored {
        return Ok(None);
    }
    let others = journal.attempts.iter().filter(|(other, facts)| {
        let in_progress = facts
            .record
            .as_ref()
            .is_some_and(|record| record.deadline > attempt.started_at);
        **other != id && overlap(other.window, window) && in_progress
    });
    for (other, facts) in others {
        let Some(record) = &facts.record else { continue };
        // Leftovers of this holder are recovered, perhaps at this moment; they hold no window.
        if record.holder != export.holder {
            let (holder, until) = (&record.holder, record.deadline);
            let message = format!("{window} is held by {holder}, until {until} at the latest");
            // Two attempts that begin at once may see each other: the older retries, the younger waits.
            return Err(without_leftover(if other.ulid > id.ulid {
                Failure::retry(Reason::HeldByOther, message)
            } else {
                Failure::wait(Reason::HeldByOther, message, None)
            }));
        }
    }
    let (opened, held) = create_in_turn(ctx, window, journaled).await?;
    let session = opened.session();
    let event = TaskEvent::SessionOpened {
        session: session.id.clone(),
        window,
        user: session.username.clone(),
    };
    let record = SessionRecord {
        schema: SessionRecord::SCHEMA.to_owned(),
        session_id: session.id.clone(),
        tracker_user: session.username.clone(),
        created_at: session.created,
    };
    let key = Key::Session(id, session.id.clone());
    // At once: a loop that is busy delays no record.
    let ((), recorded) = tokio::join!(
        ctx.events.send(event),
        put_record(&*ctx.peers.store, &export.root, &key, &record, PutMode::Overwrite)
    );
    if let Err(error) = recorded {
        // Without its key, recovery could not prove that this attempt opened the session.
        if ctx.space_sessions().close(&session.id).await.is_err() {
            return Err((Failure::from(&error), OpenLeftover::PossibleSession));
        }
        ctx.events
            .send(TaskEvent::SessionClosed(session.id.clone()))
            .await;
        return Err((
            Failure::from(&error),
            OpenLeftover::DeletedSession(session.id.clone()),
        ));
    }
    Ok(Some((opened, held, support)))
}

/// Returns the request for the session of a window.
pub(super) fn session_request(window: Window, account: bool) -> SessionRequest {
    SessionRequest {
        start: window.date(),
        end: window.date(),
        hour: window.hour_of_day(),
        account,
    }
}

/// Returns true if the receipt of a revision exists, readable or not.
async fn has_receipt(ctx: &RunContext, window: Window, revision: u32) -> Result<bool, Failure> {
    let key = ctx.export.root.key(&receipt_key(window, revision));
    let key = key.unwrap_or_default();
    match ctx.peers.store.get(&key, records::RECORD_MAX_BYTES).await {
        Ok(found) => Ok(found.is_some()),
        Err(StoreError::Archived { .. } | StoreError::LimitExceeded { .. }) => Ok(true),
        Err(error) => Err(Failure::from(&error)),
    }
}

/// Returns the conditional writes that the store supports; probes each store once, with the attempt's own bytes.
async fn conditional_support(
    ctx: &RunContext,
    id: AttemptId,
    attempt: &AttemptRecord,
) -> Result<ConditionalSupport, Failure> {
    let store = &ctx.peers.store;
    let support = if let Some(support) = ctx.known_support() {
        support
    } else {
        let body = Segments::from(bytes::Bytes::from(records::encode(attempt)));
        let key = ctx.export.root.key(&Key::Attempt(id)).unwrap_or_default();
        let options = record_options(PutMode::Overwrite, &body, ObjectClass::Journal);
        let probed = probe(&**store, &key, body, &options).await;
        // The reply to the probe's upload may have been lost; nothing else aborts that upload.
        abort_matching_uploads(&**store, &key, |_| true).await?;
        let support = probed.map_err(|error| Failure::from(&error))?;
        ctx.remember_support(support);
        support
    };
    if (support.put && support.complete) || ctx.export.single_writer {
        return Ok(support);
    }
    Err(Failure {
        class: RetryClass::Manual,
        ..conditional_writes_unsupported(store.identity())
    })
}

/// Aborts the uploads of a key that satisfy `matches`.
pub(super) async fn abort_matching_uploads(
    store: &dyn Store,
    key: &str,
    matches: impl Fn(&OpenUpload) -> bool,
) -> Result<(), Failure> {
    let open = store
        .list_uploads(key)
        .await
        .map_err(|error| Failure::from(&error))?;
    for open in open.iter().filter(|open| open.upload.key == key && matches(open)) {
        store
            .abort_upload(&open.upload)
            .await
            .map_err(|error| Failure::from(&error))?;
    }
    Ok(())
}

/// Deletes the journal keys of an attempt without an open session. Recovery deletes the keys that are left.
pub(super) async fn discard_attempt(ctx: &RunContext, id: AttemptId, session: Option<String>) -> Leftover {
    let deleted = delete_attempt_keys(ctx, id, &session).await;
    if let Err(failure) = &deleted {
        tracing::warn!(error = failure.message, attempt = %id, "cannot delete obsolete attempt, recovery will retry");
    }
    Leftover {
        id,
        closed: true,
        journaled: deleted.is_err(),
    }
}

/// Deletes the journal keys of an attempt that left nothing else, and remembers those that the store refuses to delete.
pub(super) async fn delete_attempt_keys<'a>(
    ctx: &RunContext,
    id: AttemptId,
    sessions: impl IntoIterator<Item = &'a String>,
) -> Result<(), Failure> {
    let sessions = sessions.into_iter();
    let mut obsolete: Vec<Key> = sessions
        .map(|session| Key::Session(id, session.clone()))
        .collect();
    obsolete.extend([Key::Prepared(id), Key::Attempt(id)]);
    if !delete_keys(&*ctx.peers.store, &ctx.export.root, &obsolete).await? {
        ctx.record_spent_attempt(id);
    }
    Ok(())
}

pub(super) fn ulid_at(time: Timestamp) -> Ulid {
    let millis = u64::try_from(time.as_millisecond()).unwrap_or(0);
    Ulid::from_parts(millis, rand::random())
}
