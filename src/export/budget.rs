//! The sessions of a space: opened one at a time, so that each listing tells how much is free, and never
//! more than is ours to take. No I/O.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::observer::SpaceLoad;
use super::queue::{Place, Queue};
use super::window::Window;

/// Open sessions that a space allows (the service's rule: 30 per space, shared by all its users).
pub const SESSIONS_OF_SPACE: usize = 30;

/// Every space that this process exports from, by endpoint and space id.
#[derive(Clone, Debug, Default)]
pub struct Spaces(Arc<Mutex<HashMap<(String, String), Space>>>);

/// One space: who opens a session next, and which sessions are this process's own.
#[derive(Clone, Debug)]
pub struct Space {
    turn: Queue<Window>,
    live: Arc<Mutex<BTreeSet<String>>>,
    /// How many sessions of everybody were open when they were last listed.
    listed: Arc<Mutex<Option<usize>>>,
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
    /// The space, the same for every export of it. Spaces that nobody uses any more are forgotten.
    pub fn of(&self, endpoint: &str, space: &str) -> Space {
        let mut spaces = lock(&self.0);
        spaces.retain(|_, space| Arc::strong_count(&space.live) > 1);
        let key = (endpoint.to_owned(), space.to_owned());
        spaces
            .entry(key)
            .or_insert_with(|| Space {
                turn: Queue::new(1),
                live: Arc::default(),
                listed: Arc::default(),
            })
            .clone()
    }

    /// Every space, and how many wait for their turn in any of them. `budget`: as many sessions as may be held.
    pub fn load(&self, budget: usize) -> (Vec<SpaceLoad>, usize) {
        let spaces = lock(&self.0);
        let used = spaces
            .iter()
            .filter(|(_, space)| Arc::strong_count(&space.live) > 1);
        let load = |((source, id), space): (&(String, String), &Space)| SpaceLoad {
            source: source.clone(),
            space: id.clone(),
            held: lock(&space.live).len(),
            budget,
            listed: *lock(&space.listed),
        };
        let waiting = spaces.values().map(|space| space.turn.load().waiting).sum();
        (used.map(load).collect(), waiting)
    }

    /// Sessions that this process holds, over all spaces.
    pub fn open(&self) -> usize {
        lock(&self.0).values().map(|space| lock(&space.live).len()).sum()
    }
}

impl Space {
    /// Waits for the turn to list and open; the oldest window goes first.
    pub async fn turn(&self, window: Window) -> Place<Window> {
        self.turn.place(window).await
    }

    /// Whether a further session may be opened when `open` are open in the space. The last free one is
    /// left to people, unless we would have none at all.
    pub fn room(&self, open: usize, own_limit: usize) -> Room {
        *lock(&self.listed) = Some(open);
        let own = lock(&self.live).len();
        if own >= own_limit {
            Room::OwnLimit
        } else if open >= SESSIONS_OF_SPACE || (open + 1 == SESSIONS_OF_SPACE && own > 0) {
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
        let spaces = Spaces::default();
        let again = spaces.clone();
        let space = spaces.of("e", "s");
        assert_eq!(space.room(29, 28), Room::Free);
        assert_eq!(space.room(30, 28), Room::Full);
        let one = spaces.of("e", "s").hold("a");
        assert!(space.holds("a"));
        assert_eq!(space.room(28, 28), Room::Free);
        assert_eq!(space.room(29, 28), Room::Full);
        assert_eq!(space.room(5, 1), Room::OwnLimit);
        let (spaces, waiting) = spaces.load(28);
        assert_eq!((spaces[0].held, spaces[0].listed, waiting), (1, Some(5), 0));
        drop(one);
        let spaces = &again;
        assert_eq!((space.room(29, 28), spaces.open()), (Room::Free, 0));
    }
}
