//! The sessions of a space: opened one at a time, so that each listing tells how much is free, and never
//! more than is ours to take. No I/O.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::observer::SpaceLoad;
use super::queue::{Place, Queue};
use super::window::Window;

/// Open sessions that a space allows (the service's rule: 30 per space, shared by all its users).
pub const SESSIONS_OF_SPACE: usize = 30;

/// How long a space must be seen nearly full before a process that holds none of its sessions takes one: they may be its
/// own, left by a crash, and are about to be deleted.
const GRACE: Duration = Duration::from_secs(15);

/// Every space that this process exports from, by endpoint and space id.
#[derive(Clone, Debug)]
pub struct Spaces {
    known: Arc<Mutex<HashMap<(String, String), Space>>>,
    own_limit: usize,
}

/// One space: who opens a session next, and which sessions are this process's own.
#[derive(Clone, Debug)]
pub struct Space {
    own_limit: usize,
    /// Windows that may hold a session.
    own: Queue<Window>,
    turn: Queue<Window>,
    live: Arc<Mutex<BTreeSet<String>>>,
    /// How many sessions of everybody were open when they were last listed.
    listed: Arc<Mutex<Option<usize>>>,
    /// Since when it is nearly full, as far as was seen.
    crowded: Arc<Mutex<Option<Instant>>>,
}

/// A session that this process holds; dropped when it is deleted or left to the journal.
#[derive(Debug)]
pub struct Live {
    live: Arc<Mutex<BTreeSet<String>>>,
    id: String,
}

/// Whether another session may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Yes.
    Free,
    /// The space is full, or its last free session is left to people.
    Full,
    /// This process holds as many as it may.
    OwnLimit,
}

/// Sets and maps that are valid after any panic elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spaces {
    /// None yet; so many sessions may be held in each.
    pub fn new(own_limit: usize) -> Self {
        Self {
            known: Arc::default(),
            own_limit,
        }
    }

    /// The space, the same for every export of it. Spaces that nobody uses any more are forgotten.
    pub fn of(&self, endpoint: &str, space: &str) -> Space {
        let mut spaces = lock(&self.known);
        spaces.retain(|_, space| Arc::strong_count(&space.live) > 1);
        let key = (endpoint.to_owned(), space.to_owned());
        spaces
            .entry(key)
            .or_insert_with(|| Space {
                own_limit: self.own_limit,
                own: Queue::new(self.own_limit),
                turn: Queue::new(1),
                live: Arc::default(),
                listed: Arc::default(),
                crowded: Arc::default(),
            })
            .clone()
    }

    /// Every space, and how many wait for a session in any of them.
    pub fn load(&self) -> (Vec<SpaceLoad>, usize) {
        let spaces = lock(&self.known);
        let used = spaces
            .iter()
            .filter(|(_, space)| Arc::strong_count(&space.live) > 1);
        let load = |((source, id), space): (&(String, String), &Space)| SpaceLoad {
            source: source.clone(),
            space: id.clone(),
            held: lock(&space.live).len(),
            budget: self.own_limit,
            listed: *lock(&space.listed),
        };
        let waits = |space: &Space| space.own.load().waiting + space.turn.load().waiting;
        let waiting = spaces.values().map(waits).sum();
        (used.map(load).collect(), waiting)
    }

    /// Sessions that this process holds, over all spaces.
    pub fn open(&self) -> usize {
        lock(&self.known)
            .values()
            .map(|space| lock(&space.live).len())
            .sum()
    }
}

impl Space {
    /// Waits until one more window may hold a session; the oldest goes first.
    pub async fn own(&self, window: Window) -> Place<Window> {
        self.own.place(window).await
    }

    /// Waits for the turn to list and open; the oldest window goes first.
    pub async fn turn(&self, window: Window) -> Place<Window> {
        self.turn.place(window).await
    }

    /// Whether a further session may be opened when `open` are open in the space. The last free one is
    /// left to people, unless we would have none at all, and not only because of a crash.
    pub fn room(&self, open: usize, now: Instant) -> Room {
        *lock(&self.listed) = Some(open);
        let own = lock(&self.live).len();
        let mut crowded = lock(&self.crowded);
        *crowded = (open >= self.own_limit.min(SESSIONS_OF_SPACE - 1)).then(|| crowded.unwrap_or(now));
        let early = crowded.is_some_and(|since| now.saturating_duration_since(since) < GRACE);
        if own >= self.own_limit {
            Room::OwnLimit
        } else if open >= SESSIONS_OF_SPACE
            || (open + 1 == SESSIONS_OF_SPACE && own > 0)
            || (own == 0 && early)
        {
            Room::Full
        } else {
            Room::Free
        }
    }

    /// Notes a session as ours for as long as the guard lives.
    pub fn hold(&self, id: &str) -> Live {
        lock(&self.live).insert(id.to_owned());
        Live {
            live: Arc::clone(&self.live),
            id: id.to_owned(),
        }
    }

    /// Whether a session is one that this process is using.
    pub fn holds(&self, id: &str) -> bool {
        lock(&self.live).contains(id)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        lock(&self.live).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_free_session_is_left_to_people_unless_we_have_none() {
        let spaces = Spaces::new(28);
        let again = spaces.clone();
        let space = spaces.of("e", "s");
        let now = Instant::now();
        let later = now + GRACE;
        assert_eq!(
            (space.room(29, now), space.room(29, later)),
            (Room::Full, Room::Free)
        );
        assert_eq!(space.room(30, later), Room::Full);
        let one = spaces.of("e", "s").hold("a");
        assert!(space.holds("a"));
        assert_eq!(space.room(28, now), Room::Free);
        assert_eq!(space.room(29, later), Room::Full);
        assert_eq!(space.room(5, now), Room::Free);
        let (spaces, waiting) = spaces.load();
        assert_eq!((spaces[0].held, spaces[0].listed, waiting), (1, Some(5), 0));
        drop(one);
        let space = again.of("e", "s");
        assert_eq!(
            (space.room(29, now), space.room(29, later), again.open()),
            (Room::Full, Room::Free, 0)
        );
    }

    #[test]
    fn no_more_sessions_are_opened_than_may_be_held() {
        let space = Spaces::new(1).of("e", "s");
        let _one = space.hold("a");
        assert_eq!(space.room(5, Instant::now()), Room::OwnLimit);
    }

    #[test]
    fn what_a_crash_may_have_left_is_waited_for_before_more_is_opened() {
        let space = Spaces::new(28).of("e", "s");
        let now = Instant::now();
        assert_eq!(space.room(28, now), Room::Full);
        // Some of them were deleted: there is room, whoever the others belong to.
        assert_eq!(space.room(20, now), Room::Free);
        assert_eq!(
            (space.room(28, now), space.room(28, now + GRACE)),
            (Room::Full, Room::Free)
        );
    }
}
