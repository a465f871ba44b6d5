//! Session budget of a space: sessions open one at a time, so that each listing shows the free ones, and never
//! more than this process may hold. No I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::SESSIONS_PER_SPACE;
use super::occupancy::SessionHolder;
use super::orphan::UnansweredRequests;
use crate::archive::window::Window;
use crate::shares::queue::{DepthLimits, Tenant};
use crate::shares::recall::{RecallPermit, RecallSemaphore};
use crate::shares::semaphore::{FairPermit, FairSemaphore};

/// Time that a space must stay nearly full before a process that holds none of its sessions opens one: 15 s. The
/// sessions may be its own, left by a crash, and about to be deleted.
const CRASH_GRACE: Duration = Duration::from_secs(15);

/// Budgets of all spaces that this process exports from, by endpoint and space id.
#[derive(Clone, Debug)]
pub struct SessionBudgets {
    by_space: Arc<Mutex<HashMap<(String, String), SessionBudget>>>,
    own_limit: usize,
}

/// Budget of one space: the queue for opening sessions, and the sessions that this process holds.
#[derive(Clone, Debug)]
pub struct SessionBudget {
    own_limit: usize,
    /// Windows that may hold a session.
    slots: RecallSemaphore,
    /// The turn to list and open sessions.
    opening: FairSemaphore,
    /// Sessions that this process holds, with the export of each.
    held: Arc<Mutex<BTreeMap<String, String>>>,
    /// Open sessions of all users at the last listing.
    listed: Arc<Mutex<Option<usize>>>,
    /// Time since which every listing showed the space nearly full.
    nearly_full_since: Arc<Mutex<Option<Instant>>>,
    unanswered: UnansweredRequests,
}

/// Session that this process holds; dropped when it is deleted or left to recovery.
#[derive(Debug)]
pub struct HeldSession {
    held: Arc<Mutex<BTreeMap<String, String>>>,
    id: String,
}

/// Sessions of one space at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceLoad {
    /// Endpoint of the service, as receipts name it.
    pub source: String,
    /// Id of the space.
    pub space: String,
    /// Sessions that this process holds open.
    pub held: usize,
    /// Maximum sessions that this process may hold.
    pub budget: usize,
    /// Sessions of all users at the last listing; `None`: not listed yet.
    pub listed: Option<usize>,
}

/// Capacity for another session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionCapacity {
    /// Another session may be opened.
    Available,
    /// The space is full, or its last free session is reserved for other users.
    SpaceFull,
    /// This process holds as many sessions as it may.
    OwnLimit,
}

/// Locks a mutex and ignores poisoning: the maps stay valid after a panic elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SessionBudgets {
    /// Creates an empty registry; this process holds at most `own_limit` sessions in each space.
    pub fn new(own_limit: usize) -> Self {
        Self {
            by_space: Arc::default(),
            own_limit,
        }
    }

    /// Returns the budget of a space, shared by all its exports. Drops the budgets of unused spaces.
    pub fn for_space(&self, endpoint: &str, space: &str) -> SessionBudget {
        let mut spaces = lock(&self.by_space);
        spaces.retain(|_, space| Arc::strong_count(&space.held) > 1);
        let key = (endpoint.to_owned(), space.to_owned());
        let slots = self.own_limit as u64;
        spaces
            .entry(key)
            .or_insert_with(|| SessionBudget {
                own_limit: self.own_limit,
                slots: RecallSemaphore::new(slots),
                opening: FairSemaphore::new(DepthLimits::flat(1)),
                held: Arc::default(),
                listed: Arc::default(),
                nearly_full_since: Arc::default(),
                unanswered: UnansweredRequests::default(),
            })
            .clone()
    }

    /// Returns the load of every space, and the number of windows that wait for a session.
    pub fn load(&self) -> (Vec<SpaceLoad>, usize) {
        let spaces = lock(&self.by_space);
        let used = spaces
            .iter()
            .filter(|(_, space)| Arc::strong_count(&space.held) > 1);
        let load = |((source, id), space): (&(String, String), &SessionBudget)| SpaceLoad {
            source: source.clone(),
            space: id.clone(),
            held: lock(&space.held).len(),
            budget: self.own_limit,
            listed: *lock(&space.listed),
        };
        let waits = |space: &SessionBudget| space.slots.load().waiting + space.opening.load().waiting;
        let waiting = spaces.values().map(waits).sum();
        (used.map(load).collect(), waiting)
    }

    /// Returns the number of sessions that this process holds in all spaces.
    pub fn open_sessions(&self) -> usize {
        lock(&self.by_space)
            .values()
            .map(|space| lock(&space.held).len())
            .sum()
    }
}

impl SessionBudget {
    /// Waits until one more window may hold a session. It may be asked back for an export that has none.
    pub async fn acquire_slot(&self, tenant: &Tenant, window: Window) -> RecallPermit {
        self.slots.acquire(tenant, window.order()).await
    }

    /// Waits for the turn of the space: the exclusive right to list and open sessions. All its exports wait meanwhile, so
    /// that nothing else may be done in it.
    pub async fn lock_opening(&self, tenant: &Tenant, window: Window) -> FairPermit {
        self.opening.acquire(tenant, window.order()).await
    }

    /// Returns true if a tenant holds a slot while one that holds none waits for it.
    pub fn is_owed_by(&self, tenant: &Tenant) -> bool {
        self.slots.is_owed_by(tenant)
    }

    /// Returns whether another session may be opened while `open` are open in the space. The last free one is
    /// reserved for other users, unless this process would have none at all (after a grace period for crashes).
    pub fn capacity(&self, open: usize, now: Instant) -> SessionCapacity {
        *lock(&self.listed) = Some(open);
        let held = lock(&self.held).len();
        let mut nearly_full_since = lock(&self.nearly_full_since);
        *nearly_full_since =
            (open >= self.own_limit.min(SESSIONS_PER_SPACE - 1)).then(|| nearly_full_since.unwrap_or(now));
        let in_grace =
            nearly_full_since.is_some_and(|since| now.saturating_duration_since(since) < CRASH_GRACE);
        if held >= self.own_limit {
            SessionCapacity::OwnLimit
        } else if open >= SESSIONS_PER_SPACE
            || (open + 1 == SESSIONS_PER_SPACE && held > 0)
            || (held == 0 && in_grace)
        {
            SessionCapacity::SpaceFull
        } else {
            SessionCapacity::Available
        }
    }

    /// Registers a session of an export as held by this process until the result is dropped.
    pub fn hold(&self, id: &str, export: &str) -> HeldSession {
        lock(&self.held).insert(id.to_owned(), export.to_owned());
        HeldSession {
            held: Arc::clone(&self.held),
            id: id.to_owned(),
        }
    }

    /// Returns the requests without reply whose sessions this process searches for.
    pub const fn unanswered(&self) -> &UnansweredRequests {
        &self.unanswered
    }

    /// True if this process uses the session.
    pub fn holds(&self, id: &str) -> bool {
        lock(&self.held).contains_key(id)
    }

    /// Returns the holder of a session from the view of an export, as far as this process knows.
    pub fn holder(&self, id: &str, export: &str) -> SessionHolder {
        match lock(&self.held).get(id) {
            Some(holder) if holder == export => SessionHolder::Own,
            Some(_) => SessionHolder::Known,
            None => SessionHolder::Unknown,
        }
    }
}

impl Drop for HeldSession {
    fn drop(&mut self) {
        lock(&self.held).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_free_session_is_left_to_other_users_unless_none_is_held() {
        let spaces = SessionBudgets::new(28);
        let again = spaces.clone();
        let space = spaces.for_space("e", "s");
        let now = Instant::now();
        let later = now + CRASH_GRACE;
        assert_eq!(
            (space.capacity(29, now), space.capacity(29, later)),
            (SessionCapacity::SpaceFull, SessionCapacity::Available)
        );
        assert_eq!(space.capacity(30, later), SessionCapacity::SpaceFull);
        let one = spaces.for_space("e", "s").hold("a", "july");
        assert!(space.holds("a"));
        let holders =
            [("a", "july"), ("a", "june"), ("b", "july")].map(|(id, export)| space.holder(id, export));
        assert_eq!(
            holders,
            [SessionHolder::Own, SessionHolder::Known, SessionHolder::Unknown]
        );
        assert_eq!(space.capacity(28, now), SessionCapacity::Available);
        assert_eq!(space.capacity(29, later), SessionCapacity::SpaceFull);
        assert_eq!(space.capacity(5, now), SessionCapacity::Available);
        let (spaces, waiting) = spaces.load();
        assert_eq!((spaces[0].held, spaces[0].listed, waiting), (1, Some(5), 0));
        drop(one);
        let space = again.for_space("e", "s");
        assert_eq!(
            (
                space.capacity(29, now),
                space.capacity(29, later),
                again.open_sessions()
            ),
            (SessionCapacity::SpaceFull, SessionCapacity::Available, 0)
        );
    }

    #[test]
    fn no_session_opens_beyond_the_own_limit() {
        let space = SessionBudgets::new(1).for_space("e", "s");
        let _one = space.hold("a", "july");
        assert_eq!(space.capacity(5, Instant::now()), SessionCapacity::OwnLimit);
    }

    #[test]
    fn sessions_left_by_a_crash_are_awaited_before_opening_more() {
        let space = SessionBudgets::new(28).for_space("e", "s");
        let now = Instant::now();
        assert_eq!(space.capacity(28, now), SessionCapacity::SpaceFull);
        // Some were deleted: there is room, even if the others belong to other users.
        assert_eq!(space.capacity(20, now), SessionCapacity::Available);
        assert_eq!(
            (space.capacity(28, now), space.capacity(28, now + CRASH_GRACE)),
            (SessionCapacity::SpaceFull, SessionCapacity::Available)
        );
    }
}
