//! One window, from a free place to its receipt: the steps in order. I/O.

use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::commit::{ATTEMPT_METADATA, Committed, Judged, commit_empty, commit_object};
use super::failure::Failure;
use super::ground::{Ground, lock};
use super::journal_io::{delete, put};
use super::keys::Key;
use super::observer::WindowEnd;
use super::open::{Opened, Opening, open, stopped};
use super::pool::PartRoom;
use super::record::{ExpiredRecord, Receipt, Record, SOFTWARE};
use super::snapshot::TransferFacts;
use super::transfer::{Body, Route, Sent, TransferError, transfer};
use super::verdict::{self, EmptyAnswer, EmptyEvidence, EmptyVerdict, Listing, Verdict};
use super::window::Window;
use crate::api::Reason;
use crate::storage::{Condition, Crc64, ObjectClass, PutOptions};
use crate::tracker::{Opened as Answer, TransferEnd};

/// A listing counts as "before" the download for so long: 10 min.
const BEFORE: std::time::Duration = std::time::Duration::from_mins(10);

/// What came of a window.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Stored, or proved empty.
    Stored(Box<Receipt>),
    /// Somebody else stored it, or part of it.
    Covered,
    /// The service no longer has it.
    Expired,
}

/// Exports one window, once it has a place, and tells what came of it.
/// Of an hour, `others` are the events of the day's other hours (see [`EmptyEvidence`]).
pub(super) async fn export_window(
    ground: &Ground,
    window: Window,
    others: Option<u64>,
) -> Result<Outcome, Failure> {
    // First a session of the space, so that who waits for one takes no place from other spaces.
    let places = async {
        let own = ground.space.own(window).await;
        (own, ground.shared.places.place(window).await)
    };
    let _places = tokio::select! {
        places = places => places,
        () = ground.stop.cancelled() => return Err(stopped()),
    };
    let (span, began) = (ground.window_span(window), Instant::now());
    let outcome = steps(ground, window, others).instrument(span).await;
    let end = match &outcome {
        Ok(Outcome::Stored(receipt)) => match &receipt.object {
            Some(object) => WindowEnd::Stored {
                events: receipt.events,
                bytes: object.bytes,
            },
            None => WindowEnd::Empty,
        },
        Ok(Outcome::Covered) => WindowEnd::Covered,
        Ok(Outcome::Expired) => WindowEnd::Expired,
        Err(failure) if *failure == stopped() => WindowEnd::Stopped,
        Err(failure) => WindowEnd::Failed(failure.reason),
    };
    ground.shared.observer.window_ended(end, began.elapsed());
    outcome
}

async fn steps(ground: &Ground, window: Window, others: Option<u64>) -> Result<Outcome, Failure> {
    let long_ago = Instant::now().checked_sub(BEFORE).unwrap_or_else(Instant::now);
    let before = ground.reports.since(long_ago).await?;
    let hint = before
        .as_ref()
        .and_then(|listing| listing.size_hint(window.date()));
    let part_bytes = ground.shared.pool.part_bytes(hint);
    // Room for one part before the session: who holds a session never waits for memory.
    let room = tokio::select! {
        room = ground.shared.pool.reserve(part_bytes) => room.ok_or_else(stopped)?,
        () = ground.stop.cancelled() => return Err(stopped()),
    };
    let span = tracing::info_span!("session", attempt = Empty);
    let opened = match open(ground, window).instrument(span).await? {
        Opening::Opened(opened) => opened,
        Opening::Covered => return Ok(Outcome::Covered),
    };
    tracing::Span::current().record("attempt", opened.id.ulid.to_string());
    let work = Work {
        ground,
        opened: &opened,
        before: before.as_deref(),
        others,
        part_bytes,
    };
    let outcome = work.download(room).await;
    lock(&ground.transfers).remove(&window);
    let span = tracing::info_span!("close");
    close(ground, *opened).instrument(span).await;
    outcome
}

/// Deletes the session, then what the journal says of it. A failure here never hides the outcome: what
/// stays in the journal is settled later.
async fn close(ground: &Ground, opened: Opened<'_>) {
    let Opened {
        loose,
        id,
        session,
        started_at: _,
        support: _,
        live,
        busy,
    } = opened;
    let gone = ground
        .peers
        .tracker
        .delete_session(&ground.export.space, &session.id)
        .await;
    match gone {
        Ok(()) => {
            lock(&ground.sessions).remove(&session.id);
            lock(&ground.sessionless).insert(id);
            if loose.into_inner() {
                drop((live, busy));
                return;
            }
            let spent = [Key::Session(id, session.id), Key::Prepared(id), Key::Attempt(id)];
            match delete(&*ground.peers.store, &ground.export.root, &spent).await {
                Ok(()) => {
                    lock(&ground.dirty).remove(&id.window);
                }
                Err(failure) => {
                    tracing::warn!(attempt = %id, message = failure.message, "spent journal keys stay until they are settled");
                }
            }
        }
        Err(error) => {
            tracing::warn!(session = session.id, %error, "a session could not be deleted: it is tried again");
        }
    }
    drop((live, busy));
}

struct Work<'a> {
    ground: &'a Ground,
    opened: &'a Opened<'a>,
    before: Option<&'a Listing>,
    /// Of an hour: the events of the day's other hours.
    others: Option<u64>,
    part_bytes: u64,
}

impl Work<'_> {
    fn window(&self) -> Window {
        self.opened.id.window
    }

    async fn download(&self, room: PartRoom) -> Result<Outcome, Failure> {
        self.answered_as_asked()?;
        let Ground { peers, export, .. } = self.ground;
        let answer = tokio::select! {
            answer = peers.tracker.download(&export.space, &self.opened.session.id) => answer,
            () = self.ground.stop.cancelled() => return Err(stopped()),
        };
        let download = match answer.map_err(|error| Failure::from_begin(&error))? {
            Answer::NotFound => return self.empty(EmptyAnswer::NotFound, None).await,
            Answer::NoContent => return self.empty(EmptyAnswer::NoContent, None).await,
            Answer::Body(download) => download,
        };
        let key = self.key();
        let announced = download.announced();
        let progress = |bytes| {
            let facts = TransferFacts {
                window: self.window(),
                bytes,
                announced,
            };
            let before = lock(&self.ground.transfers).insert(self.window(), facts);
            let before = before.map_or(0, |before| before.bytes);
            self.ground
                .shared
                .observer
                .downloaded(bytes.saturating_sub(before));
        };
        let route = Route {
            store: &peers.store,
            key: &key,
            part_bytes: self.part_bytes,
            pool: &self.ground.shared.pool,
            progress: &progress,
            stop: &self.ground.stop,
            loose: &self.opened.loose,
            options: self.options(Crc64::of(b"")),
        };
        let proof = self.ground.shared.proofs.begin();
        let sent = transfer(*download, proof, room, &route)
            .instrument(tracing::info_span!("download"))
            .await
            .map_err(|error| self.failed(error))?;
        self.judge(sent).await
    }

    /// The service may answer another range than was asked for; another day's events are never stored under
    /// the asked day's name.
    fn answered_as_asked(&self) -> Result<(), Failure> {
        let (session, window) = (&self.opened.session, self.window());
        let date = window.date();
        let range = session.range.is_none_or(|range| range == (date, date));
        let account = session
            .account
            .is_none_or(|account| account == self.ground.account());
        let hour = session.hour.is_none_or(|hour| hour == window.hour_of_day());
        if range && account && hour {
            return Ok(());
        }
        let shown = session.range.map_or_else(
            || "an unknown range".to_owned(),
            |(start, end)| format!("{start} to {end}"),
        );
        let scope = session.account.map_or("an unknown scope", |account| {
            if account { "the account" } else { "the space" }
        });
        let message = format!(
            "asked for {window} of the {}, the service opened a session for {shown} of {scope}: nothing was stored",
            self.ground.export.scope.as_key()
        );
        Err(Failure::person(Reason::RangeMismatch, message))
    }

    async fn judge(&self, sent: Sent) -> Result<Outcome, Failure> {
        let window = self.window();
        let proof = match &sent.proof {
            Some(proof) if proof.events > 0 => proof.clone(),
            Some(_) => return self.empty(EmptyAnswer::GzipOfNothing, Some(sent)).await,
            None => return self.empty(EmptyAnswer::ZeroBytes, Some(sent)).await,
        };
        self.ground.served(window.date());
        let after = match self.ground.reports.since(Instant::now()).await {
            Ok(after) => after,
            Err(failure) => {
                self.discard(sent).await;
                return Err(failure);
            }
        };
        let judged = self.compare(Some(proof.events), after.as_deref());
        if judged.verdict == Verdict::Short {
            self.discard(sent).await;
            let reported = judged.before.into_iter().chain(judged.after).max().unwrap_or(0);
            let message = format!(
                "{window}: downloaded {} events, the service reports {reported}",
                proof.events
            );
            return Err(Failure::retry(Reason::Short, message));
        }
        if sent.end == TransferEnd::CloseUnconfirmed && judged.verdict != Verdict::Matched {
            self.discard(sent).await;
            let message = format!(
                "{window}: the connection closed without saying that the data was whole, and the service neither confirmed its end nor counts its events"
            );
            return Err(Failure::retry(Reason::NotWhole, message));
        }
        let span = tracing::info_span!("commit", events = proof.events, bytes = sent.bytes);
        let committed = commit_object(self.ground, self.opened, sent, proof, judged);
        match committed.instrument(span).await {
            Ok(Committed::Ours(receipt)) => Ok(Outcome::Stored(receipt)),
            Ok(Committed::Others) => Ok(Outcome::Covered),
            Err(failure) => {
                // The object may be there without its receipt.
                self.opened.loose.store(true, Ordering::Relaxed);
                Err(failure)
            }
        }
    }

    /// The reports of before and after, and what they say of the counted events; `None`: proved empty.
    fn compare(&self, events: Option<u64>, after: Option<&Listing>) -> Judged {
        let window = self.window();
        let count = |listing: Option<&Listing>| listing.and_then(|listing| listing.count(window));
        let of_day =
            |listing: Option<&Listing>| listing.and_then(|listing| listing.count_of_day(window.date()));
        let by_hour = window.hour_of_day().is_some();
        let (before, after, of_day) = (
            count(self.before),
            count(after),
            of_day(self.before).max(of_day(after)).filter(|_| by_hour),
        );
        Judged {
            before,
            after,
            of_day,
            verdict: events.map_or(Verdict::Empty, |events| verdict::of_count(events, before, after)),
        }
    }

    /// An answer without events: stored as a receipt only when it is proved that there were none.
    async fn empty(&self, answer: EmptyAnswer, sent: Option<Sent>) -> Result<Outcome, Failure> {
        let Ground {
            peers,
            export,
            shared,
            ..
        } = self.ground;
        let end = sent.as_ref().map(|sent| sent.end);
        if let Some(sent) = sent {
            self.discard(sent).await;
        }
        let session = peers
            .tracker
            .session(&export.space, &self.opened.session.id)
            .await;
        let session_readable = session.map_err(|error| Failure::from(&error))?.is_some();
        let listing = self.ground.reports.since(Instant::now()).await?;
        let evidence = EmptyEvidence {
            window: self.window(),
            answer,
            session_readable,
            listing: listing.as_deref(),
            others: self.others,
            oldest_served: self.ground.oldest_served(),
            now: (shared.now)(),
        };
        let window = self.window();
        match verdict::of_empty(&evidence) {
            EmptyVerdict::Proved => {
                let judged = self.compare(None, listing.as_deref());
                commit_empty(self.ground, self.opened, answer, end, judged)
                    .await
                    .map(|committed| match committed {
                        Committed::Ours(receipt) => Outcome::Stored(receipt),
                        Committed::Others => Outcome::Covered,
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
                put(
                    &*peers.store,
                    &export.root,
                    &Key::Expired(window),
                    &record,
                    Condition::Overwrite,
                )
                .await
                .map_err(|error| Failure::from(&error))?;
                Ok(Outcome::Expired)
            }
            EmptyVerdict::Short(reported) => Err(Failure::retry(
                Reason::Short,
                format!("{window}: downloaded no events, the service reports {reported}"),
            )),
            EmptyVerdict::ShortOfDay { others, reported } => {
                let message = format!(
                    "{window}: the service gave no events ({answer:?}), and the other hours have {others} of the {reported} events that it reports of the day: it is tried again, or accept the gap in spec.acceptedGaps"
                );
                Err(Failure::retry(Reason::Short, message))
            }
            // A session that is gone says nothing about the day, nor does one refusal of the listing: a new try may.
            EmptyVerdict::Unproved(why) => {
                let message = format!(
                    "{window}: the service gave no events ({answer:?}), and {why}: it is tried again, or accept the gap in spec.acceptedGaps"
                );
                Err(Failure::retry(Reason::EmptyUnproved, message))
            }
        }
    }

    /// What was sent to the store and will not be committed.
    async fn discard(&self, sent: Sent) {
        if let Body::Parts(upload, _) = sent.body
            && let Err(error) = self.ground.peers.store.abort_upload(&upload).await
        {
            self.opened.loose.store(true, Ordering::Relaxed);
            tracing::warn!(key = upload.key, %error, "an upload could not be aborted: it is swept later");
        }
    }

    fn failed(&self, error: TransferError) -> Failure {
        let window = self.window();
        match error {
            TransferError::Download(error) => Failure::from_download(window, &error),
            TransferError::Store(error) => Failure::from(&error),
            TransferError::Proof(error) => Failure::from_proof(window, &error),
            TransferError::TooLarge if window.hour_of_day().is_none() => Failure::retry(
                Reason::TooLarge,
                format!("{window} has more bytes than a store takes in one object: it is split into hours"),
            ),
            TransferError::TooLarge => Failure::person(
                Reason::TooLarge,
                format!(
                    "{window} has more bytes than a store takes in one object, and an hour is the least that can be asked for"
                ),
            ),
            TransferError::Stopped => stopped(),
        }
    }

    fn key(&self) -> String {
        self.ground
            .export
            .root
            .key(&Key::Events(self.window()))
            .unwrap_or_default()
    }

    fn options(&self, crc64: Crc64) -> PutOptions {
        let condition = if self.opened.support.complete {
            Condition::IfAbsent
        } else {
            Condition::Overwrite
        };
        let metadata = vec![(ATTEMPT_METADATA.to_owned(), self.opened.id.to_string())];
        PutOptions {
            condition,
            crc64,
            metadata,
            content_type: "application/gzip",
            class: ObjectClass::Evidence,
        }
    }
}
