//! Queue of reconciles. Pure: no I/O and no clock.
//!
//! A resource is in the queue once, however often its reconcile is requested: the earliest time counts. It is never
//! reconciled twice at the same time. Of those that are due, namespaces and then spaces take turns. Bounded by the number of
//! resources: one that is not scheduled and not reconciled is not in the queue.

use std::collections::BTreeSet;
use std::collections::hash_map::{Entry, HashMap};

use tokio::time::Instant;

use super::export_name::ExportName;
use crate::shares::queue::{DepthLimits, FairQueue, Tenant, Ticket};

/// Queue of reconciles.
pub(super) struct WorkQueue {
    states: HashMap<ExportName, WorkState>,
    /// Those that are not due yet.
    scheduled: BTreeSet<(Instant, ExportName)>,
    /// Those that are due, and those that run.
    turns: FairQueue,
    /// Names of those that are due, by ticket.
    due: HashMap<u64, ExportName>,
}

/// State of a resource in the queue. Small: each idle resource has one.
enum WorkState {
    Scheduled(Instant),
    Due,
    Running(Box<RunningWork>),
}

struct RunningWork {
    ticket: Ticket,
    /// Earliest time of a request since the start.
    again: Option<Instant>,
}

impl WorkQueue {
    /// Creates an empty queue that lets at most `concurrency` reconciles run.
    pub(super) fn new(concurrency: u16) -> Self {
        Self {
            states: HashMap::new(),
            scheduled: BTreeSet::new(),
            turns: FairQueue::new(DepthLimits::flat(concurrency.into())),
            due: HashMap::new(),
        }
    }

    /// Requests the reconcile of a resource, not before a time.
    pub(super) fn request(&mut self, name: &ExportName, at: Instant) {
        match self.states.entry(name.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(WorkState::Scheduled(at));
                self.scheduled.insert((at, name.clone()));
            }
            Entry::Occupied(mut entry) => match entry.get_mut() {
                WorkState::Scheduled(planned) if at < *planned => {
                    self.scheduled.remove(&(*planned, name.clone()));
                    *planned = at;
                    self.scheduled.insert((at, name.clone()));
                }
                WorkState::Scheduled(_) | WorkState::Due => {}
                WorkState::Running(running) => {
                    running.again = Some(running.again.map_or(at, |again| again.min(at)));
                }
            },
        }
    }

    /// Drops the scheduled reconcile of a resource that is gone.
    pub(super) fn forget(&mut self, name: &ExportName) {
        match self.states.get_mut(name) {
            Some(WorkState::Scheduled(at)) => {
                self.scheduled.remove(&(*at, name.clone()));
                self.states.remove(name);
            }
            Some(WorkState::Running(running)) => running.again = None,
            // Its reconcile finds no resource.
            Some(WorkState::Due) | None => {}
        }
    }

    /// Returns the next resource to reconcile, if one is due and the limit allows it. `tenant_of` returns its place in the
    /// order of turns; `None`: it is gone. Call [`WorkQueue::finish`] when its reconcile has ended.
    pub(super) fn next(
        &mut self,
        now: Instant,
        tenant_of: impl Fn(&ExportName) -> Option<Tenant>,
    ) -> Option<ExportName> {
        while self.scheduled.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, name)) = self.scheduled.pop_first() else {
                break;
            };
            let Some(tenant) = tenant_of(&name) else {
                self.states.remove(&name);
                continue;
            };
            let ticket = self.turns.request(&tenant, 0, 1);
            self.states.insert(name.clone(), WorkState::Due);
            self.due.insert(ticket.number(), name);
        }
        let ticket = self.turns.grant()?;
        let name = self.due.remove(&ticket.number())?;
        let running = RunningWork { ticket, again: None };
        self.states
            .insert(name.clone(), WorkState::Running(Box::new(running)));
        Some(name)
    }

    /// Ends the reconcile of a resource. `next`: time of the next one. An earlier request since its start counts.
    pub(super) fn finish(&mut self, name: &ExportName, next: Option<Instant>) {
        let Some(WorkState::Running(running)) = self.states.remove(name) else {
            return;
        };
        self.turns.release(running.ticket.tenant(), running.ticket.cost());
        if let Some(at) = running.again.into_iter().chain(next).min() {
            self.request(name, at);
        }
    }

    /// Returns the time at which the next scheduled reconcile is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.scheduled.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name(text: &str) -> ExportName {
        ExportName::new(text)
    }

    fn next(queue: &mut WorkQueue, now: Instant) -> Option<String> {
        let tenant = |name: &ExportName| {
            let gone = name.name() == "gone";
            (!gone).then(|| Tenant::new(name.namespace(), "s", name.name()))
        };
        queue.next(now, tenant).map(|name| name.to_string())
    }

    #[test]
    fn a_resource_is_reconciled_once_for_many_requests_and_never_twice_at_once() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let (mut queue, one) = (WorkQueue::new(2), name("a/one"));
        queue.request(&one, start + 9 * second);
        queue.request(&one, start + second);
        queue.request(&one, start + 5 * second);
        assert_eq!(queue.next_due(), Some(start + second), "the earliest counts");
        assert_eq!(next(&mut queue, start), None);
        assert_eq!(next(&mut queue, start + second), Some("a/one".to_owned()));
        // Two more requests while it runs cause one more reconcile.
        queue.request(&one, start + 3 * second);
        queue.request(&one, start + 2 * second);
        assert_eq!(next(&mut queue, start + 9 * second), None);
        queue.finish(&one, Some(start + 7 * second));
        assert_eq!(queue.next_due(), Some(start + 2 * second));
        assert_eq!(next(&mut queue, start + 2 * second), Some("a/one".to_owned()));
        queue.finish(&one, Some(start + 4 * second));
        assert_eq!(queue.next_due(), Some(start + 4 * second));
        assert_eq!(next(&mut queue, start + 4 * second), Some("a/one".to_owned()));
        queue.finish(&one, None);
        assert!(queue.states.is_empty() && queue.next_due().is_none());
    }

    #[test]
    fn namespaces_take_turns_within_the_limit() {
        let now = Instant::now();
        let mut queue = WorkQueue::new(2);
        for text in ["a/1", "a/2", "a/3", "b/1"] {
            queue.request(&name(text), now);
        }
        let mut running = vec![next(&mut queue, now).unwrap(), next(&mut queue, now).unwrap()];
        running.sort();
        assert!(running[0].starts_with("a/") && running[1] == "b/1", "{running:?}");
        assert_eq!(next(&mut queue, now), None, "two run");
        queue.finish(&name("b/1"), None);
        assert!(next(&mut queue, now).is_some_and(|next| next.starts_with("a/")));
    }

    #[test]
    fn nothing_is_kept_of_a_resource_that_is_gone() {
        let now = Instant::now();
        let mut queue = WorkQueue::new(1);
        let (kept, gone) = (name("a/kept"), name("a/gone"));
        for one in [&kept, &gone] {
            queue.request(one, now);
        }
        // It was deleted, and nobody said so.
        assert_eq!(next(&mut queue, now), Some("a/kept".to_owned()));
        queue.request(&gone, now);
        queue.forget(&gone);
        // It is deleted while it is reconciled.
        queue.request(&kept, now);
        queue.forget(&kept);
        queue.finish(&kept, None);
        assert!(queue.states.is_empty() && queue.scheduled.is_empty() && queue.due.is_empty());
        assert_eq!((queue.turns.taken(), queue.turns.waiting()), (0, 0));
    }
}
