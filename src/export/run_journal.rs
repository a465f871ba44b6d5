//! Journal of a run in memory: as the bucket was last listed, with what the run stored since. I/O with the store.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::failure::Failure;
use super::journal_io::load_day;
use super::open::JournaledSessions;
use super::revision::{RevisionTarget, StoredRevisions};
use super::run_context::{RunContext, STOP_TIMEOUT};
use crate::archive::coverage::Growth;
use crate::archive::layout::Key;
use crate::archive::listing::Journal;
use crate::archive::manifest::ManifestLink;
use crate::archive::read::read_receipts;
use crate::archive::receipt::{ReceiptFacts, Sha256Digest};
use crate::archive::records::{Receipt, encode};
use crate::archive::window::Window;
use crate::session::occupancy::SessionHolder;

/// The journal, and what the run knows beside it.
#[derive(Default)]
pub(super) struct RunJournal {
    /// `None`: the bucket must be listed first.
    listed: Option<Journal>,
    /// Time of the last complete listing.
    listed_at: Timestamp,
    /// Windows whose receipt this run wrote or found. A listing that leaves one out is behind: the receipt is then read
    /// by its key.
    known_receipts: BTreeSet<Window>,
    /// True if this run has logged that a listing is behind.
    lag_logged: bool,
    /// Clock of the store minus the local clock.
    store_clock_offset: SignedDuration,
}

impl RunJournal {
    /// Returns the journal; `None`: the bucket must be listed first.
    pub(super) const fn listed(&self) -> Option<&Journal> {
        self.listed.as_ref()
    }

    /// As [`Self::listed`], to add what a task found or wrote.
    pub(super) const fn listed_mut(&mut self) -> Option<&mut Journal> {
        self.listed.as_mut()
    }

    /// Drops the journal: the bucket must be listed again.
    pub(super) fn drop_listing(&mut self) {
        self.listed = None;
    }

    /// Returns the time of the last complete listing.
    pub(super) const fn listed_at(&self) -> Timestamp {
        self.listed_at
    }

    /// Returns the time since the last complete listing.
    pub(super) fn age(&self, now: Timestamp) -> SignedDuration {
        now.duration_since(self.listed_at)
    }

    /// Converts a time of the local clock to the clock of the store.
    pub(super) fn store_time(&self, now: Timestamp) -> Timestamp {
        now.checked_add(self.store_clock_offset).unwrap_or(now)
    }

    /// Lists the bucket. Returns the manifests that were read; `None`: the run was stopped.
    pub(super) async fn list(
        &mut self,
        ctx: &RunContext,
    ) -> Result<Option<BTreeMap<u64, ManifestLink>>, Failure> {
        let loaded = async {
            let mut journal = ctx.load_journal().await?;
            self.add_unlisted_receipts(ctx, &mut journal, |_| true).await?;
            Ok::<_, Failure>(journal)
        };
        let mut journal = tokio::select! {
            loaded = loaded => loaded?,
            () = ctx.stop.cancelled() => return Ok(None),
        };
        if let Ok(store_now) = ctx.peers.store.now().await {
            self.store_clock_offset = ctx.clock_offset(store_now);
        }
        self.mark_attempts(ctx, &mut journal);
        let links = std::mem::take(&mut journal.chain.links);
        self.listed = Some(journal);
        self.listed_at = (ctx.shared.now)();
        Ok(Some(links))
    }

    /// Lists one day again. Returns true if the journal shows it; on failure drops the journal, so that the complete bucket
    /// is listed later. A run that stops keeps it: what it knows about its sessions must not be lost.
    pub(super) async fn refresh_day(&mut self, ctx: &RunContext, window: Window) -> bool {
        let refreshed = async {
            let memory = ctx.journal_share();
            let mut day = load_day(&*ctx.peers.store, &ctx.export.root, window, memory).await?;
            let same_day = |known: Window| known.date() == window.date();
            self.add_unlisted_receipts(ctx, &mut day, same_day).await?;
            Ok::<_, Failure>(day)
        };
        let stopped = async {
            ctx.stop.cancelled().await;
            tokio::time::sleep(STOP_TIMEOUT).await;
        };
        let refreshed = tokio::select! {
            refreshed = refreshed => refreshed,
            () = stopped => return false,
        };
        match refreshed {
            Ok(mut day) => {
                self.mark_attempts(ctx, &mut day);
                if let Some(journal) = &mut self.listed {
                    journal.replace_day(window, day);
                }
                self.listed.is_some()
            }
            Err(_) if ctx.stop.is_cancelled() => false,
            Err(failure) => {
                tracing::debug!(day = %window.date(), error = failure.message, "cannot list day, will list the bucket");
                self.drop_listing();
                false
            }
        }
    }

    fn mark_attempts(&self, ctx: &RunContext, journal: &mut Journal) {
        ctx.export.mark_foreign_attempts(journal, self.store_clock_offset);
        ctx.remove_spent_attempts(journal);
    }

    /// Adds the receipts of the wanted windows that exist although the listing leaves them out.
    async fn add_unlisted_receipts(
        &mut self,
        ctx: &RunContext,
        journal: &mut Journal,
        wanted: impl Fn(Window) -> bool,
    ) -> Result<(), Failure> {
        let known = self.known_receipts.iter().copied();
        let unlisted: Vec<Window> = known
            .filter(|window| wanted(*window) && !journal.receipts.contains_key(window))
            .collect();
        let Some(window) = unlisted.first() else {
            return Ok(());
        };
        if !std::mem::replace(&mut self.lag_logged, true) {
            tracing::warn!(
                %window, receipts = unlisted.len(), store = %ctx.peers.store.identity(),
                "the listing of the bucket leaves out receipts that this run wrote or found, reading them by their keys"
            );
        }
        journal
            .receipts
            .extend(unlisted.into_iter().map(|window| (window, None)));
        read_receipts(&*ctx.peers.store, &ctx.export.root, journal, wanted)
            .await
            .map_err(|error| Failure::from(&error))
    }

    /// Remembers that a window has a receipt.
    pub(super) fn add_known_receipt(&mut self, window: Window) {
        self.known_receipts.insert(window);
    }

    /// Adds the first receipt of a window.
    pub(super) fn add_stored(&mut self, window: Window, receipt: &Receipt) {
        self.add_known_receipt(window);
        let Some(journal) = &mut self.listed else { return };
        let facts = ReceiptFacts::new(receipt, Sha256Digest::of(&encode(receipt)));
        if receipt.object.is_some() {
            journal.objects.insert(window, facts.summary.bytes);
        }
        journal.receipts.insert(window, Some(Box::new(facts)));
    }

    /// Adds the receipt of a later revision.
    pub(super) fn add_revision(&mut self, window: Window, receipt: &Receipt) {
        let Some(journal) = &mut self.listed else { return };
        let files = journal.revisions.entry((window, receipt.revision)).or_default();
        files.has_receipt = true;
        let own = Key::Revision(window, receipt.revision).relative();
        let object = receipt.object.as_ref();
        files.body = object
            .filter(|object| Some(&object.key) == own.as_ref())
            .map(|object| object.bytes);
        files.supplement = receipt.supplement.as_ref().map(|supplement| supplement.bytes);
        let facts = journal.receipts.get_mut(&window).and_then(Option::as_mut);
        let sha256 = Sha256Digest::of(&encode(receipt));
        let added = facts.map(|facts| facts.add_revision(window, receipt, sha256));
        if !matches!(added, Some(Ok(()))) {
            // The bucket has something else than this run expected.
            self.drop_listing();
        }
    }

    fn receipt(&self, window: Window) -> Option<&ReceiptFacts> {
        self.listed.as_ref()?.receipts.get(&window)?.as_deref()
    }

    /// Returns the number of the highest revision of a stored window.
    pub(super) fn stored_revision(&self, window: Window) -> Option<u32> {
        self.receipt(window).map(ReceiptFacts::highest_revision)
    }

    /// Returns the revisions of a stored window.
    pub(super) fn revisions(&self, window: Window) -> Option<StoredRevisions> {
        let facts = self.receipt(window)?;
        Some(StoredRevisions {
            current: facts.current_revision().map_or(0, |current| current.revision),
            highest: facts.highest_revision(),
        })
    }

    /// Returns the revision to store of a window, whose day has grown; `None` if the window is not stored. Error: no number
    /// is left.
    pub(super) fn revision_target(
        &self,
        window: Window,
        growth: Option<&Growth>,
    ) -> Result<Option<RevisionTarget>, ()> {
        match growth.zip(self.receipt(window)) {
            Some((growth, facts)) => RevisionTarget::next(facts, growth.reported).map(Some).ok_or(()),
            None => Ok(None),
        }
    }

    /// Returns the sessions that attempts opened, with their holders.
    pub(super) fn sessions(&self, holder: &str) -> JournaledSessions {
        let attempts = self.listed.iter().flat_map(|journal| journal.attempts.values());
        let sessions = attempts.flat_map(|facts| {
            let record = facts.record.as_ref();
            let known = match record {
                Some(record) if record.holder != holder => SessionHolder::Known,
                _ => SessionHolder::Own,
            };
            facts.sessions.iter().map(move |session| (session.clone(), known))
        });
        sessions.collect()
    }
}
