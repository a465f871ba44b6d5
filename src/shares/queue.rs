//! Fair queue of requests for units. Pure: no I/O, no clock, no waiting.
//!
//! Requests come from the leaves of a tree: namespace, space, export. On each level the node that holds least is served
//! first; of equals, the one that was served longest ago. So a request waits for at most one grant of each sibling on its
//! way up, however many requests they have.
//!
//! The limits leave room for newcomers: a node that holds nothing may take units that those that hold some may not. Where they
//! leave none, a unit can be asked back from a sibling.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Path of an export in the tree of its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant(Arc<[Arc<str>]>);

impl Tenant {
    /// Returns the tenant of an export: its namespace, its space and its name.
    pub fn new(namespace: &str, space: &str, export: &str) -> Self {
        Self(Arc::new([namespace.into(), space.into(), export.into()]))
    }

    /// Returns the tenant below a level above its namespace.
    #[must_use]
    pub fn below(&self, group: &str) -> Self {
        let group = [Arc::from(group)];
        Self(group.iter().chain(self.0.iter()).cloned().collect())
    }

    /// Returns the tenant below another level under its namespace.
    #[must_use]
    pub fn grouped(&self, group: &str) -> Self {
        let (namespace, rest) = self.0.split_at(self.0.len().min(1));
        let group = [Arc::from(group)];
        Self(namespace.iter().chain(&group).chain(rest).cloned().collect())
    }
}

/// Path of a namespace, space or export in the tree of its queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodePath(Box<[Arc<str>]>);

/// Request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    tenant: Tenant,
    /// Position among the requests of its export: lower first, then by arrival.
    position: (i64, u64),
    cost: u64,
}

impl Ticket {
    /// Returns the number of the request; unique in its queue.
    pub const fn number(&self) -> u64 {
        self.position.1
    }

    /// Returns the units that the request asks for.
    pub const fn cost(&self) -> u64 {
        self.cost
    }

    /// Returns the tenant that asks.
    pub const fn tenant(&self) -> &Tenant {
        &self.tenant
    }
}

/// Maximum units in use for a request, by its depth: the number of levels, from the top, on which its node holds some. The
/// last one holds for greater depths. They do not increase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DepthLimits(Vec<u64>);

impl DepthLimits {
    /// Returns limits that keep nothing for newcomers.
    pub fn flat(units: u64) -> Self {
        Self(vec![units])
    }

    /// Returns limits for a tenant of three levels that keep `reserve` units on each level for those that hold none. An
    /// export that holds some may take up to `units`.
    pub fn with_reserves(units: u64, reserve: u64) -> Self {
        let above = |levels: u64| units.saturating_add(reserve.saturating_mul(levels));
        Self(vec![above(3), above(2), above(1), units])
    }

    fn at(&self, depth: usize) -> u64 {
        let limit = self.0.get(depth).or(self.0.last());
        limit.copied().unwrap_or(0)
    }

    /// Returns the maximum units of an export that holds some.
    pub fn units(&self) -> u64 {
        self.at(usize::MAX)
    }
}

/// Fair queue of requests for units.
#[derive(Debug)]
pub struct FairQueue {
    limits: DepthLimits,
    root: Node,
    waiting: usize,
    /// Number of requests and grants so far.
    clock: u64,
}

/// Rank of a node among its siblings, lowest first: depth of its next request, units that it holds, time of its last grant.
type Rank = (usize, u64, u64);

#[derive(Debug, Default)]
struct Node {
    held: u64,
    /// Part of `held` that was asked back and is not returned yet.
    recalled: u64,
    /// Time of the last grant, or of the first request since then.
    turn: u64,
    children: BTreeMap<Arc<str>, Node>,
    /// Children with requests.
    ready: BTreeSet<(Rank, Arc<str>)>,
    /// Children that hold units, by what they keep.
    holders: BTreeSet<(u64, Arc<str>)>,
    /// Requests of an export, with their cost.
    requests: BTreeMap<(i64, u64), u64>,
}

/// Change of all nodes on the path of a tenant.
#[derive(Clone, Copy, Debug)]
enum Change {
    Request((i64, u64), u64),
    Cancel((i64, u64)),
    Grant((i64, u64), u64),
    /// A grant that did not wait.
    Take(u64),
    Release(u64),
    /// A unit is asked back.
    Recall,
    /// A unit that was asked back is returned.
    ReleaseRecalled,
}

impl Node {
    fn is_waiting(&self) -> bool {
        !self.requests.is_empty() || !self.ready.is_empty()
    }

    /// Returns the number of levels, from this node, on which the node of the next request holds units.
    fn depth(&self) -> usize {
        if self.held == 0 {
            return 0;
        }
        1 + self.ready.first().map_or(0, |((depth, ..), _)| *depth)
    }

    /// Returns the units that were not asked back.
    const fn kept(&self) -> u64 {
        self.held.saturating_sub(self.recalled)
    }

    fn rank(&self) -> Rank {
        (self.depth(), self.held, self.turn)
    }

    fn apply(&mut self, path: &[Arc<str>], change: Change, clock: u64) {
        match change {
            Change::Grant(_, cost) | Change::Take(cost) => {
                self.held += cost;
                self.turn = clock;
            }
            Change::Release(cost) => self.held = self.held.saturating_sub(cost),
            Change::Recall => self.recalled += 1,
            Change::ReleaseRecalled => {
                self.held = self.held.saturating_sub(1);
                self.recalled = self.recalled.saturating_sub(1);
            }
            Change::Request(..) | Change::Cancel(_) => {}
        }
        let Some((name, below)) = path.split_first() else {
            match change {
                Change::Request(position, cost) => drop(self.requests.insert(position, cost)),
                Change::Cancel(position) | Change::Grant(position, _) => {
                    self.requests.remove(&position);
                }
                Change::Take(_) | Change::Release(_) | Change::Recall | Change::ReleaseRecalled => {}
            }
            return;
        };
        let mut child = self.children.remove(name).unwrap_or_default();
        let waited = child.is_waiting();
        if waited {
            self.ready.remove(&(child.rank(), Arc::clone(name)));
        }
        self.holders.remove(&(child.kept(), Arc::clone(name)));
        child.apply(below, change, clock);
        if child.is_waiting() {
            if !waited {
                child.turn = clock;
            }
            self.ready.insert((child.rank(), Arc::clone(name)));
        }
        if child.held > 0 {
            self.holders.insert((child.kept(), Arc::clone(name)));
        }
        if child.is_waiting() || child.held > 0 {
            self.children.insert(Arc::clone(name), child);
        }
    }

    /// Returns the node of a tenant; `None` if it neither holds nor requests anything.
    fn find(&self, tenant: &Tenant) -> Option<&Self> {
        let mut path = tenant.0.iter();
        path.try_fold(self, |node, name| node.children.get(name))
    }

    /// Returns the next request.
    fn next(&self) -> Option<Ticket> {
        let (mut node, mut path) = (self, Vec::new());
        while let Some((_, name)) = node.ready.first() {
            path.push(Arc::clone(name));
            node = node.children.get(name)?;
        }
        let (position, cost) = node.requests.first_key_value()?;
        Some(Ticket {
            tenant: Tenant(path.into()),
            position: *position,
            cost: *cost,
        })
    }
}

impl FairQueue {
    /// Creates an empty queue.
    pub fn new(limits: DepthLimits) -> Self {
        Self {
            limits,
            root: Node::default(),
            waiting: 0,
            clock: 0,
        }
    }

    /// Adds a request. Of one tenant the lowest `order` is served first. A cost above the limit is reduced to it.
    pub fn request(&mut self, tenant: &Tenant, order: i64, cost: u64) -> Ticket {
        self.clock += 1;
        let ticket = Ticket {
            tenant: tenant.clone(),
            position: (order, self.clock),
            cost: cost.min(self.limits.units()),
        };
        self.waiting += 1;
        let change = Change::Request(ticket.position, ticket.cost);
        self.root.apply(&tenant.0, change, self.clock);
        ticket
    }

    /// Removes a request that was not granted.
    pub fn cancel(&mut self, ticket: &Ticket) {
        let node = self.root.find(&ticket.tenant);
        if node.is_some_and(|node| node.requests.contains_key(&ticket.position)) {
            self.waiting -= 1;
            let change = Change::Cancel(ticket.position);
            self.root.apply(&ticket.tenant.0, change, self.clock);
        }
    }

    /// Grants the next request if the limits allow it. While they do not, no other request overtakes it.
    pub fn grant(&mut self) -> Option<Ticket> {
        let ((depth, ..), _) = self.root.ready.first()?;
        let limit = self.limits.at(*depth);
        let ticket = self.root.next()?;
        if self.root.held + ticket.cost > limit {
            return None;
        }
        self.clock += 1;
        self.waiting -= 1;
        let change = Change::Grant(ticket.position, ticket.cost);
        self.root.apply(&ticket.tenant.0, change, self.clock);
        Some(ticket)
    }

    /// Takes units at once if no request waits and at most `limit` units are then in use.
    pub fn take_spare(&mut self, tenant: &Tenant, cost: u64, limit: u64) -> bool {
        let spare = self.waiting == 0 && self.root.held + cost <= limit.min(self.limits.units());
        if spare {
            self.clock += 1;
            self.root.apply(&tenant.0, Change::Take(cost), self.clock);
        }
        spare
    }

    /// Takes units at once if the export then holds no more than what is left free, and its namespace no more than twice that.
    /// So whatever some take, a part is left for others.
    pub fn take_share(&mut self, tenant: &Tenant, cost: u64) -> bool {
        let taken = self.root.held + cost;
        let Some(free) = self.limits.units().checked_sub(taken) else {
            return false;
        };
        let namespace = tenant.0.first().and_then(|name| self.root.children.get(name));
        let held = |node: Option<&Node>| node.map_or(0, |node| node.held);
        let allowed = held(self.root.find(tenant)) + cost <= free && held(namespace) + cost <= 2 * free;
        if allowed {
            self.clock += 1;
            self.root.apply(&tenant.0, Change::Take(cost), self.clock);
        }
        allowed
    }

    /// Returns units of a tenant.
    pub fn release(&mut self, tenant: &Tenant, cost: u64) {
        self.root.apply(&tenant.0, Change::Release(cost), self.clock);
    }

    /// Returns true if a tenant holds units while an export, space or namespace that holds none waits for some.
    pub fn is_owed_by(&self, tenant: &Tenant) -> bool {
        let newcomer_waits = self
            .root
            .ready
            .first()
            .is_some_and(|((depth, ..), _)| *depth < tenant.0.len());
        newcomer_waits && self.root.find(tenant).is_some_and(|node| node.held > 0)
    }

    /// Returns the highest node of a tenant that holds no units: its namespace, space or export.
    pub fn newcomer(&self, tenant: &Tenant) -> Option<NodePath> {
        let mut node = &self.root;
        for (level, name) in tenant.0.iter().enumerate() {
            node = match node.children.get(name) {
                Some(child) if child.held > 0 => child,
                _ => return Some(NodePath(tenant.0.iter().take(level + 1).cloned().collect())),
            };
        }
        None
    }

    /// Returns the tenant to ask a unit back from, for a node that holds none: of the sibling that keeps most, at least two, and
    /// there of who keeps most. So each unit evens the shares, and none is asked back for it in turn.
    pub fn debtor(&self, newcomer: &NodePath) -> Option<Tenant> {
        let (_, above) = newcomer.0.split_last()?;
        let mut node = above
            .iter()
            .try_fold(&self.root, |node, name| node.children.get(name))?;
        let mut path = above.to_vec();
        let mut least = 2;
        while let Some((kept, name)) = node.holders.last() {
            if *kept < least {
                return None;
            }
            least = 1;
            path.push(Arc::clone(name));
            node = node.children.get(name)?;
        }
        (least == 1).then(|| Tenant(path.into()))
    }

    /// Records that a unit of a tenant was asked back.
    pub fn recall(&mut self, tenant: &Tenant) {
        self.root.apply(&tenant.0, Change::Recall, self.clock);
    }

    /// Returns a unit of a tenant that was asked back.
    pub fn release_recalled(&mut self, tenant: &Tenant) {
        self.root.apply(&tenant.0, Change::ReleaseRecalled, self.clock);
    }

    /// Returns true if a tenant has a request that waits.
    pub fn is_waiting(&self, tenant: &Tenant) -> bool {
        self.root.find(tenant).is_some_and(Node::is_waiting)
    }

    /// Returns the units in use.
    pub const fn taken(&self) -> u64 {
        self.root.held
    }

    /// Returns the number of requests that wait.
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns the maximum units of an export that holds some.
    pub fn units(&self) -> u64 {
        self.limits.units()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn tenant(text: &str) -> Tenant {
        let mut parts = text.split('/');
        let mut part = || parts.next().unwrap_or_default();
        Tenant::new(part(), part(), part())
    }

    fn name(ticket: &Ticket) -> String {
        let parts: Vec<&str> = ticket.tenant.0.iter().map(|part| &**part).collect();
        format!("{}:{}", parts.join("/"), ticket.position.0)
    }

    fn granted(queue: &mut FairQueue) -> Vec<String> {
        std::iter::from_fn(|| queue.grant())
            .map(|ticket| name(&ticket))
            .collect()
    }

    #[test]
    fn the_namespace_then_the_space_then_the_export_that_holds_least_is_served_first() {
        let mut queue = FairQueue::new(DepthLimits::flat(7));
        for (who, order) in [
            ("a/s/x", 3),
            ("a/s/x", 1),
            ("a/s/x", 2),
            ("a/s/y", 9),
            ("a/t/z", 9),
            ("b/u/w", 8),
            ("b/u/w", 7),
        ] {
            queue.request(&tenant(who), order, 1);
        }
        let order = [
            "a/s/x:1", "b/u/w:7", "a/t/z:9", "a/s/y:9", "b/u/w:8", "a/s/x:2", "a/s/x:3",
        ];
        assert_eq!(granted(&mut queue), order);
        assert_eq!((queue.taken(), queue.waiting()), (7, 0));
    }

    #[test]
    fn newcomers_find_room_that_the_others_may_not_take() {
        let mut queue = FairQueue::new(DepthLimits::with_reserves(4, 1));
        for _ in 0..20 {
            queue.request(&tenant("a/s/x"), 0, 1);
        }
        assert_eq!(granted(&mut queue).len(), 4);
        assert!(!queue.is_owed_by(&tenant("a/s/x")), "it waits for itself");
        for (newcomer, served) in [
            ("a/s/y", true),
            ("a/s/z", false),
            ("a/t/x", true),
            ("b/s/x", true),
            ("c/s/x", false),
        ] {
            queue.request(&tenant(newcomer), 0, 1);
            let expected: &[String] = &[format!("{newcomer}:0")];
            assert_eq!(
                granted(&mut queue),
                &expected[..usize::from(served)],
                "{newcomer}"
            );
        }
        assert!(queue.is_owed_by(&tenant("a/s/x")) && !queue.is_owed_by(&tenant("c/s/x")));
        queue.release(&tenant("a/s/x"), 1);
        assert_eq!(granted(&mut queue), ["c/s/x:0"]);
    }

    #[test]
    fn a_unit_is_asked_back_from_who_keeps_most() {
        // Units of exports; the newcomer; who returns a unit for it.
        for (held, newcomer, expected) in [
            (
                &[("a/s/x", 3), ("a/s/y", 1), ("b/s/x", 2)][..],
                "c/s/x",
                Some("a/s/x"),
            ),
            (
                &[("a/s/x", 1), ("a/s/y", 1), ("b/s/x", 3)],
                "c/s/x",
                Some("b/s/x"),
            ),
            // The namespace keeps two, each export of it one.
            (
                &[("a/s/x", 1), ("a/s/y", 1), ("b/s/x", 1)],
                "c/s/x",
                Some("a/s/y"),
            ),
            (&[("a/s/x", 1), ("b/s/x", 1)], "c/s/x", None),
            // An export gets none from another namespace than its own.
            (&[("a/s/x", 1), ("b/s/x", 9)], "a/s/y", None),
            (&[("a/s/x", 2), ("b/s/x", 9)], "a/s/y", Some("a/s/x")),
            (&[("a/s/x", 2), ("a/t/x", 1)], "a/t/y", None),
            (&[("a/s/x", 2)], "a/t/y", Some("a/s/x")),
            (&[("a/s/x", 2), ("a/s/y", 1)], "a/s/y", None),
            (&[], "a/s/x", None),
        ] {
            let mut queue = FairQueue::new(DepthLimits::flat(30));
            for (who, count) in held {
                for _ in 0..*count {
                    queue.request(&tenant(who), 0, 1);
                }
            }
            granted(&mut queue);
            let debtor = |queue: &FairQueue| queue.debtor(&queue.newcomer(&tenant(newcomer))?);
            assert_eq!(debtor(&queue), expected.map(tenant), "{held:?} {newcomer}");
            let Some(returns) = debtor(&queue) else { continue };
            let taken = queue.taken();
            queue.recall(&returns);
            assert_eq!(queue.taken(), taken, "it is not returned yet");
            queue.release_recalled(&returns);
            assert_eq!(queue.taken(), taken - 1);
        }
    }

    #[test]
    fn no_more_units_are_asked_back_than_even_the_shares() {
        let mut queue = FairQueue::new(DepthLimits::flat(5));
        for _ in 0..5 {
            queue.request(&tenant("a/s/x"), 0, 1);
        }
        granted(&mut queue);
        let mut recalled = 0;
        for number in 0..9 {
            let newcomer = tenant(&format!("n{number}/s/x"));
            queue.request(&newcomer, 0, 1);
            if let Some(debtor) = queue.newcomer(&newcomer).and_then(|node| queue.debtor(&node)) {
                queue.recall(&debtor);
                recalled += 1;
            }
        }
        assert_eq!(recalled, 4, "it keeps one");
    }

    #[test]
    fn a_request_is_not_overtaken_while_its_units_are_collected() {
        let mut queue = FairQueue::new(DepthLimits::flat(4));
        for _ in 0..3 {
            queue.request(&tenant("a/s/x"), 0, 1);
        }
        granted(&mut queue);
        queue.request(&tenant("b/s/x"), 0, 100);
        queue.request(&tenant("c/s/x"), 0, 1);
        for _ in 0..3 {
            assert_eq!(granted(&mut queue), Vec::<String>::new());
            assert!(!queue.take_spare(&tenant("a/s/x"), 1, 4));
            queue.release(&tenant("a/s/x"), 1);
        }
        assert_eq!(granted(&mut queue), ["b/s/x:0"]);
        queue.release(&tenant("b/s/x"), 4);
        assert_eq!(granted(&mut queue), ["c/s/x:0"]);
        assert!(queue.take_spare(&tenant("c/s/x"), 1, 2) && !queue.take_spare(&tenant("c/s/x"), 1, 2));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Request(usize, u64),
        Cancel(usize),
        Release(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..12_usize, 1..4_u64).prop_map(|(who, cost)| Step::Request(who, cost)),
            1 => (0..40_usize).prop_map(Step::Cancel),
            3 => (0..40_usize).prop_map(Step::Release),
        ];
        proptest::collection::vec(step, 1..150)
    }

    proptest! {
        /// Units are neither lost nor created, limits hold, and requests of nodes that hold nothing on some level are served
        /// before those of others.
        #[test]
        fn grants_are_within_the_limits_and_fair(steps in steps()) {
            let who = |number: usize| tenant(&format!("n{}/s{}/x{number}", number % 2, number % 6));
            let limits = DepthLimits::with_reserves(6, 3);
            let mut queue = FairQueue::new(limits.clone());
            let (mut waiting, mut held) = (Vec::<Ticket>::new(), Vec::<Ticket>::new());
            for step in steps {
                match step {
                    Step::Request(number, cost) => waiting.push(queue.request(&who(number), 0, cost)),
                    Step::Cancel(number) if number < waiting.len() => queue.cancel(&waiting.remove(number)),
                    Step::Release(number) if number < held.len() => {
                        let ticket = held.remove(number);
                        queue.release(ticket.tenant(), ticket.cost());
                    }
                    Step::Cancel(_) | Step::Release(_) => {}
                }
                let holds = |held: &[Ticket], tenant: &Tenant| -> Vec<u64> {
                    (1..=3).map(|depth| {
                        let same = |ticket: &&Ticket| ticket.tenant.0[..depth] == tenant.0[..depth];
                        held.iter().filter(same).map(Ticket::cost).sum()
                    }).collect()
                };
                let depth = |held: &[Ticket], tenant: &Tenant| {
                    holds(held, tenant).iter().take_while(|held| **held > 0).count()
                };
                loop {
                    let best = waiting.iter().map(|ticket| depth(&held, ticket.tenant())).min();
                    let Some(ticket) = queue.grant() else { break };
                    let depth = depth(&held, ticket.tenant());
                    prop_assert_eq!(Some(depth), best);
                    let namespaces: BTreeMap<_, _> = waiting
                        .iter()
                        .map(|other| (other.tenant.0[0].clone(), holds(&held, other.tenant())[0]))
                        .collect();
                    let least = holds(&held, ticket.tenant())[0];
                    prop_assert!(depth > 0 || least == 0);
                    prop_assert!(depth < 3 || namespaces.values().all(|held| least <= *held));
                    waiting.retain(|other| *other != ticket);
                    held.push(ticket);
                    let taken: u64 = held.iter().map(Ticket::cost).sum();
                    prop_assert_eq!(queue.taken(), taken);
                    prop_assert!(taken <= limits.at(depth));
                }
                prop_assert_eq!(queue.waiting(), waiting.len());
            }
            // Whatever was cancelled: when the holders are done, everyone is served.
            while let Some(ticket) = held.pop() {
                queue.release(ticket.tenant(), ticket.cost());
                while let Some(ticket) = queue.grant() {
                    waiting.retain(|other| *other != ticket);
                    held.push(ticket);
                }
            }
            while let Some(ticket) = queue.grant() {
                waiting.retain(|other| *other != ticket);
                queue.release(ticket.tenant(), ticket.cost());
            }
            prop_assert_eq!((queue.taken(), queue.waiting(), waiting.len()), (0, 0, 0));
            prop_assert!(queue.root.children.is_empty(), "nothing is kept of tenants that are gone");
        }

        /// A tenant waits for at most one grant of each sibling on its way, however much the others request.
        #[test]
        fn a_newcomer_waits_for_a_round_only(namespaces in 1..6_usize, busy in 1..40_usize) {
            let mut queue = FairQueue::new(DepthLimits::flat(1));
            let mut running = Vec::new();
            for namespace in 0..namespaces {
                for export in 0..busy {
                    queue.request(&tenant(&format!("n{namespace}/s/{export}")), 0, 1);
                }
            }
            running.extend(queue.grant());
            queue.request(&tenant("new/s/x"), 0, 1);
            let mut waited = 0;
            while let Some(ticket) = running.pop() {
                if &*ticket.tenant.0[0] == "new" {
                    break;
                }
                queue.release(ticket.tenant(), 1);
                // It asks again at once.
                queue.request(ticket.tenant(), 0, 1);
                running.extend(queue.grant());
                waited += 1;
            }
            // Those that run when it asks, and each namespace once.
            prop_assert!(waited <= namespaces + 1, "{waited} grants");
        }
    }
}
