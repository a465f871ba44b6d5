//! Context of one run: the export, its peers, the shared resources of the process, the stop signal.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::Span;
use ulid::Ulid;

use super::failure::Failure;
use super::journal_io::load_journal;
use super::limits::{Clock, Limits};
use super::listing_cache::{ListedDays, ListingCache};
use super::manifest::sign::Signing;
use super::observer::EngineObserver;
use super::run_control::RunControl;
use super::session_permission::SessionPermission;
use super::spec::ExportSpec;
use super::task_events::{TaskEvent, TaskEvents};
use crate::api::Scope;
use crate::archive::layout::AttemptId;
use crate::archive::listing::Journal;
use crate::archive::memory::{JournalMemory, JournalShare};
use crate::archive::window::Window;
use crate::pipeline::part_pool::PartPool;
use crate::pipeline::prover_pool::ProverPool;
use crate::session::budget::{SessionBudget, SessionBudgets};
use crate::session::guard::SpaceSessions;
use crate::shares::queue::Tenant;
use crate::shares::semaphore::FairSemaphore;
use crate::storage::conditional::ConditionalSupport;
use crate::storage::{Store, StoreIdentity};
use crate::tracker::{TimestampAuthority, Tracker};

/// Maximum time that a stopping run waits for its sessions to be deleted: 20 s.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum number of stores whose support is remembered: 1,024. Probing one again costs a few requests.
const REMEMBERED_STORES_MAX: usize = 1024;
/// Maximum number of remembered attempts whose keys the store refuses to delete. Others are recovered again, which finds
/// nothing.
const SPENT_ATTEMPTS_MAX: usize = 10_000;

/// Source and destination of an export, and the signing of its manifests.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Source of the events.
    pub tracker: Tracker,
    /// Destination of the events.
    pub store: Arc<dyn Store>,
    /// Signing of the manifests.
    pub signing: Signing,
    /// Time-stamp authority of manifests and checkpoints, or the failure that keeps them from being stamped.
    pub timestamps: Option<Result<TimestampAuthority, Failure>>,
}

/// Resources that all exports of a process share.
pub(super) struct SharedResources {
    pub(super) limits: Limits,
    pub(super) now: Clock,
    pub(super) pool: PartPool,
    pub(super) journals: JournalMemory,
    pub(super) proofs: ProverPool,
    /// Places of windows.
    pub(super) window_slots: FairSemaphore,
    pub(super) budgets: SessionBudgets,
    /// Places of reports.
    pub(super) reports: FairSemaphore,
    /// Conditional writes that each store supports.
    pub(super) support: Mutex<HashMap<StoreIdentity, ConditionalSupport>>,
    /// Attempts of which nothing is left but journal keys that the store refuses to delete, by store and root; at most
    /// [`SPENT_ATTEMPTS_MAX`].
    pub(super) spent_attempts: Mutex<BTreeSet<(String, AttemptId)>>,
    /// Receiver of results.
    pub(super) observer: Arc<dyn EngineObserver>,
}

/// Context of one run: its tasks read it, and tell the loop of the run what happens.
pub(super) struct RunContext {
    /// Id of the run in logs and traces.
    pub(super) id: Ulid,
    pub(super) export: Arc<ExportSpec>,
    pub(super) peers: Peers,
    pub(super) shared: Arc<SharedResources>,
    pub(super) budget: SessionBudget,
    /// The export among those that share the resources of the process.
    pub(super) tenant: Tenant,
    pub(super) listing_cache: Arc<ListingCache>,
    /// Lock of the steps from the record of an attempt to its session: a process that dies leaves at most one attempt without
    /// a session, whose window other holders must leave alone until its deadline.
    pub(super) opening: Arc<tokio::sync::Mutex<()>>,
    pub(super) stop: CancellationToken,
    /// Permission to open sessions.
    pub(super) sessions: SessionPermission,
    /// Receiver of the events of tasks: the loop of the run.
    pub(super) events: TaskEvents,
    /// Tracker user, once the loop knows it.
    tracker_user: watch::Receiver<Option<String>>,
    /// Digests of the receipts that a trusted key attests, by key below the root: at most one for each receipt of the
    /// export.
    attested: Arc<Mutex<BTreeMap<String, String>>>,
}

/// Counterpart of a context: the ends of its channels that belong to the loop of the run.
pub(super) struct RunInbox {
    /// Events of tasks.
    pub(super) events: mpsc::Receiver<TaskEvent>,
    /// Tracker user, for the tasks.
    pub(super) tracker_user: watch::Sender<Option<String>>,
}

/// Locks a mutex and ignores poisoning: the data stays valid after a panic elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns an empty cache of the days that the service lists of an export.
fn new_listing_cache(export: &ExportSpec, peers: &Peers, shared: &SharedResources) -> Arc<ListingCache> {
    let days = ListedDays {
        space: export.space.clone(),
        account: export.scope == Scope::Account,
        first: export.start,
        last: export.end,
    };
    let (tracker, max_age) = (peers.tracker.clone(), shared.limits.listing_max_age);
    Arc::new(ListingCache::new(tracker, days, Arc::clone(&shared.now), max_age))
}

impl RunContext {
    /// Records that a trusted key attests a receipt with this digest.
    pub(super) fn record_attested(&self, key: &str, sha256: &str) {
        lock(&self.attested).insert(key.to_owned(), sha256.to_owned());
    }

    /// Returns true if a trusted key attests a receipt with this digest, as this run found or wrote it.
    pub(super) fn is_attested(&self, key: &str, sha256: &str) -> bool {
        lock(&self.attested).get(key).is_some_and(|known| known == sha256)
    }

    /// Records an attempt of which nothing is left but keys that the store refuses to delete.
    pub(super) fn record_spent_attempt(&self, id: AttemptId) {
        let mut spent = lock(&self.shared.spent_attempts);
        if spent.len() < SPENT_ATTEMPTS_MAX {
            spent.insert((self.archive_name(), id));
        }
    }

    /// Removes the attempts of which nothing is left but keys that the store refuses to delete.
    pub(super) fn remove_spent_attempts(&self, journal: &mut Journal) {
        let spent = lock(&self.shared.spent_attempts);
        if !spent.is_empty() {
            let name = self.archive_name();
            journal
                .attempts
                .retain(|id, _| !spent.contains(&(name.clone(), *id)));
        }
    }

    fn archive_name(&self) -> String {
        format!("{}/{}", self.peers.store.identity(), self.export.root.as_str())
    }

    pub(super) fn new(
        export: Arc<ExportSpec>,
        peers: Peers,
        shared: Arc<SharedResources>,
        control: &RunControl,
    ) -> (Self, RunInbox) {
        let tenant = export.tenant();
        let budget = shared.budgets.for_space(&export.source, &export.space);
        let listing_cache = new_listing_cache(&export, &peers, &shared);
        let (events, received) = TaskEvents::channel();
        let (user, tracker_user) = watch::channel(None);
        let inbox = RunInbox {
            events: received,
            tracker_user: user,
        };
        let ctx = Self {
            id: Ulid::generate(),
            export,
            peers,
            shared,
            tenant,
            budget,
            listing_cache,
            attested: Arc::default(),
            opening: Arc::default(),
            stop: control.stop.clone(),
            sessions: control.sessions.clone(),
            events,
            tracker_user,
        };
        (ctx, inbox)
    }

    /// Returns the context of the same run with a newer spec, for the tasks that begin from now on.
    pub(super) fn with_export(&self, export: Arc<ExportSpec>) -> Self {
        let days = |export: &ExportSpec| (export.start, export.end);
        let listing_cache = if days(&export) == days(&self.export) {
            Arc::clone(&self.listing_cache)
        } else {
            new_listing_cache(&export, &self.peers, &self.shared)
        };
        Self {
            id: self.id,
            export,
            peers: self.peers.clone(),
            shared: Arc::clone(&self.shared),
            budget: self.budget.clone(),
            tenant: self.tenant.clone(),
            listing_cache,
            opening: Arc::clone(&self.opening),
            stop: self.stop.clone(),
            sessions: self.sessions.clone(),
            events: self.events.clone(),
            tracker_user: self.tracker_user.clone(),
            attested: Arc::clone(&self.attested),
        }
    }

    // Spans that identify the subject of a log line have the highest level, so that no filter removes them.

    /// Returns the span of the run.
    pub(super) fn span(&self) -> Span {
        tracing::error_span!("run", export = self.export.name, run = %self.id)
    }

    /// Returns the span of one window: a separate trace, since a run may take months.
    pub(super) fn window_span(&self, window: Window) -> Span {
        let attempt = tracing::field::Empty;
        tracing::error_span!(parent: None, "window", export = self.export.name, run = %self.id, %window, attempt)
    }

    /// Returns the span of the recovery of an attempt: also a separate trace.
    pub(super) fn recovery_span(&self, id: AttemptId) -> Span {
        let (window, attempt) = (id.window, id.ulid);
        tracing::error_span!(parent: None, "recovery", export = self.export.name, run = %self.id, %window, %attempt)
    }

    /// Returns the conditional writes that the store supports, if it was probed.
    pub(super) fn known_support(&self) -> Option<ConditionalSupport> {
        lock(&self.shared.support)
            .get(self.peers.store.identity())
            .copied()
    }

    /// Remembers the result of a probe for all exports to the store.
    pub(super) fn remember_support(&self, support: ConditionalSupport) {
        let mut known = lock(&self.shared.support);
        if known.len() >= REMEMBERED_STORES_MAX {
            known.clear();
        }
        known.insert(self.peers.store.identity().clone(), support);
    }

    /// Returns the store's clock minus the local clock; `store_now` must be current.
    pub(super) fn clock_offset(&self, store_now: Timestamp) -> SignedDuration {
        store_now.duration_since((self.shared.now)())
    }

    /// Returns the tracker user, once a reply named it.
    pub(super) fn tracker_user(&self) -> Option<String> {
        self.tracker_user.borrow().clone()
    }

    /// Lists the archive, and reads the records that decisions need, within its share of the memory for journals.
    pub(super) async fn load_journal(&self) -> Result<Journal, Failure> {
        let memory = self.journal_share();
        load_journal(&*self.peers.store, &self.export.root, &self.peers.signing, memory).await
    }

    /// Returns an empty share of the memory for journals.
    pub(super) fn journal_share(&self) -> JournalShare {
        self.shared.journals.share(&self.tenant)
    }

    /// Returns true if this export holds places or memory while another one that holds none waits.
    pub(super) fn is_owing(&self) -> bool {
        self.shared.window_slots.is_owed_by(&self.tenant)
            || self.budget.is_owed_by(&self.tenant)
            || self.shared.pool.is_owed_by(&self.tenant)
    }

    /// Returns the sessions of the export's space.
    pub(super) fn space_sessions(&self) -> SpaceSessions<'_> {
        SpaceSessions::new(&self.peers.tracker, &self.export.space)
    }

    pub(super) fn is_account_scope(&self) -> bool {
        self.export.scope == Scope::Account
    }
}
