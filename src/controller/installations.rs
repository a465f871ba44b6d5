//! The other installations of the cluster, and which of them serves an export. Lists Leases; [`ownership`] is pure.
//!
//! Each operator writes its scope into its Lease. An operator reads the Leases that it may list, and believes those
//! beside its own, and for the exports of a namespace those in it. It ignores others: a user who may create Leases could
//! otherwise stop the exports of another namespace.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;
use tracing::warn;

use super::election::LeaseTiming;
use super::export_cache::ExportCache;
use super::export_name::ExportName;
use super::kube_error::describe_error;
use super::watch_scope::WatchScope;
use crate::api::EventExport;

/// Label of the Leases of operators.
pub(super) const LEASE_LABEL: (&str, &str) = ("eventexport.io/lease", "operator");

/// Annotation of a Lease with the scope of its operator, as JSON.
pub const SCOPE_ANNOTATION: &str = "eventexport.io/scope";

/// Time for which a Lease must stay unchanged until its installation counts as gone, in durations of this
/// installation's Lease: 1 min by default. Another of its processes can take the Lease over meanwhile.
const GONE_FACTOR: u32 = 4;

/// Maximum time for a list.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// Leases in one response. A Lease may have 1.5 MiB.
const PAGE_LEASES: u32 = 8;

/// Maximum responses of one list.
const MAX_PAGES: usize = 64;

/// Maximum Leases of one namespace that are kept.
const MAX_NAMESPACE_LEASES: usize = 16;

/// Maximum length of a scope in an annotation, in bytes: two lists of namespaces and a selector.
const MAX_SCOPE_BYTES: usize = 16 * 1024;

/// Pause after a first list that failed.
const FIRST_LOOK_RETRY: Duration = Duration::from_secs(2);

/// Maximum namespaces listed at the same time.
const MAX_CONCURRENT_LISTS: usize = 8;

/// An installation, as its Lease describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Namespace and name of the Lease.
    pub lease: LeaseName,
    /// Creation of the Lease, as the API server recorded it.
    pub created: Timestamp,
    /// Exports that it serves.
    pub scope: WatchScope,
}

/// Namespace and name of a Lease, which identify an installation in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl std::fmt::Display for LeaseName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Returns the message about an export that two installations select.
pub(super) fn overlap_message(serving: &LeaseName, ignoring: &LeaseName) -> String {
    format!(
        "the operator with Lease {serving} serves this export; the operator with Lease {ignoring} selects it, too, and \
         ignores it: separate their scopes with --namespace, --exclude-namespace or --selector"
    )
}

/// Installation that serves an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership<'a> {
    /// This one, and no other one selects it.
    Mine,
    /// This one. The other one selects it, too.
    Contended(&'a LeaseName),
    /// The other one.
    Other(&'a LeaseName),
}

/// Returns the installation that serves an export with this namespace and these labels.
pub fn ownership<'a>(
    me: &Installation,
    others: &'a [Installation],
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Ownership<'a> {
    let local = |one: &Installation| one.lease.namespace == namespace;
    let precedes = |other: &Installation| {
        if other.lease.namespace == me.lease.namespace {
            (other.created, &other.lease) < (me.created, &me.lease)
        } else {
            local(other) && !local(me)
        }
    };
    let believed = |other: &Installation| other.lease.namespace == me.lease.namespace || local(other);
    let mut selecting: Vec<&Installation> = others
        .iter()
        .filter(|other| believed(other) && other.scope.contains(namespace, labels))
        .collect();
    selecting.sort_by_key(|other| (!precedes(other), other.created, &other.lease));
    match selecting.first() {
        None => Ownership::Mine,
        Some(other) if precedes(other) => Ownership::Other(&other.lease),
        Some(other) => Ownership::Contended(&other.lease),
    }
}

/// This installation, and the others as they were seen last.
pub(super) struct Installations {
    me: Installation,
    others: Mutex<Arc<Vec<Installation>>>,
}

impl Installations {
    /// Creates the view of a cluster in which no other installation is known.
    pub(super) fn new(me: Installation) -> Self {
        Self {
            me,
            others: Mutex::default(),
        }
    }

    fn others(&self) -> Arc<Vec<Installation>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the name of this installation's Lease.
    pub(super) fn lease(&self) -> &LeaseName {
        &self.me.lease
    }

    /// Calls `f` with the installation that serves an export.
    pub(super) fn with_ownership<T>(&self, object: &EventExport, f: impl FnOnce(Ownership<'_>) -> T) -> T {
        let others = self.others();
        let namespace = object.namespace().unwrap_or_default();
        f(ownership(&self.me, &others, &namespace, object.labels()))
    }

    /// Returns true if an export is served by another installation, or contended by another one, than with these others.
    pub(super) fn differs_from(&self, before: &[Installation], object: &EventExport) -> bool {
        let namespace = object.namespace().unwrap_or_default();
        let was = ownership(&self.me, before, &namespace, object.labels());
        self.with_ownership(object, |now| now != was)
    }

    /// Replaces the others. Returns the former ones if they differ.
    fn replace(&self, others: Vec<Installation>) -> Option<Arc<Vec<Installation>>> {
        let mut known = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        (**known != others).then(|| std::mem::replace(&mut *known, Arc::new(others)))
    }
}

/// Version of a Lease, and the time when it was seen first.
#[derive(Clone)]
struct SeenLease {
    version: String,
    since: Instant,
}

/// Leases of other installations, and since when they have not changed. No I/O.
struct SeenLeases {
    seen: HashMap<LeaseName, SeenLease>,
    /// True once the Leases were listed.
    listed: bool,
    /// Interval between lists: the duration of a Lease, 15 s by default.
    interval: Duration,
}

impl SeenLeases {
    fn new(interval: Duration) -> Self {
        Self {
            seen: HashMap::new(),
            listed: false,
            interval,
        }
    }

    /// Returns the installations that live, after these lists. A failed list proves nothing: those of `before` that it
    /// could have shown stay.
    fn merge(
        &mut self,
        own: &LeaseName,
        before: &[Installation],
        lists: Vec<(Place, Result<LeaseList, ListFailure>)>,
        now: Instant,
    ) -> Vec<Installation> {
        let first = !std::mem::replace(&mut self.listed, true);
        let (mut others, mut seen): (Vec<Installation>, _) = (Vec::new(), HashMap::new());
        for (place, listed) in lists {
            let (leases, unknown) = match listed {
                Ok(LeaseList { leases, complete }) => (leases, !complete),
                Err(failure) => (Vec::new(), !failure.forbidden),
            };
            for lease in leases {
                let known = self.seen.get(&lease.installation.lease);
                let known = known.filter(|known| known.version == lease.version);
                let since = known.map_or(now, |known| known.since);
                let age = now.duration_since(since);
                // Another process of an installation that released its Lease leads within seconds.
                let gone = if lease.released {
                    first || age >= self.interval
                } else {
                    age >= self.interval * GONE_FACTOR
                };
                let name = lease.installation.lease.clone();
                if !gone && !others.contains(&lease.installation) {
                    others.push(lease.installation);
                }
                let version = lease.version;
                seen.insert(name, SeenLease { version, since });
            }
            if unknown {
                let missing = before
                    .iter()
                    .filter(|other| place.contains(&other.lease, own) && !seen.contains_key(&other.lease));
                others.extend(missing.cloned());
                for (name, lease) in &self.seen {
                    if place.contains(name, own) {
                        seen.entry(name.clone()).or_insert_with(|| lease.clone());
                    }
                }
            }
        }
        self.seen = seen;
        others.sort_by(|one, other| one.lease.cmp(&other.lease));
        others
    }
}

/// Reads the Leases of the other installations regularly.
pub(super) struct LeaseWatch {
    client: Client,
    installations: Arc<Installations>,
    seen: SeenLeases,
    /// True if a failed list was logged.
    failure_logged: bool,
}

impl LeaseWatch {
    pub(super) fn new(client: Client, installations: Arc<Installations>, timing: &LeaseTiming) -> Self {
        Self {
            client,
            installations,
            seen: SeenLeases::new(timing.duration),
            failure_logged: false,
        }
    }

    /// Lists the Leases again and again, and wakes the exports that another installation serves or selects than before.
    /// Never returns.
    pub(super) async fn run(mut self, exports: ExportCache, wake_ups: mpsc::Sender<ExportName>) {
        loop {
            tokio::time::sleep(self.seen.interval).await;
            let (Some(before), _) = self.refresh().await else {
                continue;
            };
            for object in exports.all() {
                if self.installations.differs_from(&before, &object) {
                    // Fails only if the controller is gone.
                    let _ = wake_ups.send(ExportName::of(&object)).await;
                }
            }
        }
    }

    /// Lists the Leases until that succeeds or is forbidden: before, an export of another installation may not start.
    pub(super) async fn first_look(&mut self) {
        while !self.refresh().await.1 {
            tokio::time::sleep(FIRST_LOOK_RETRY).await;
        }
    }

    /// Lists the Leases once. Returns the former installations if they changed, and whether all that this installation
    /// may list was listed.
    pub(super) async fn refresh(&mut self) -> (Option<Arc<Vec<Installation>>>, bool) {
        let lists = self.list().await;
        let mut complete = true;
        for (place, listed) in &lists {
            if let Err(failure) = listed {
                self.log_failure(place, failure);
                complete &= failure.forbidden;
            }
        }
        if complete {
            self.failure_logged = false;
        }
        let before = self.installations.others();
        let own = self.installations.lease();
        let others = self.seen.merge(own, &before, lists, Instant::now());
        (self.installations.replace(others), complete)
    }

    fn log_failure(&mut self, place: &Place, failure: &ListFailure) {
        if !std::mem::replace(&mut self.failure_logged, true) {
            let error = &failure.message;
            let namespace = match place {
                Place::Namespace(namespace) => namespace.as_str(),
                Place::Elsewhere => "*",
            };
            warn!(
                namespace,
                error,
                "cannot list Leases, will retry: other installations that select the same exports are not noticed there"
            );
        }
    }

    /// Lists the Leases of this installation's own namespace, and those of the namespaces that it serves.
    async fn list(&self) -> Vec<(Place, Result<LeaseList, ListFailure>)> {
        let Installation { lease, scope, .. } = &self.installations.me;
        let mut places = vec![Place::Namespace(lease.namespace.clone())];
        if scope.namespaces().is_empty() {
            places.push(Place::Elsewhere);
        }
        let served = scope
            .namespaces()
            .iter()
            .filter(|served| **served != lease.namespace);
        places.extend(served.cloned().map(Place::Namespace));
        futures::stream::iter(places)
            .map(async |place| {
                let api = match &place {
                    Place::Namespace(namespace) => Api::namespaced(self.client.clone(), namespace),
                    Place::Elsewhere => Api::all(self.client.clone()),
                };
                let listed = list_leases(&api, &place, self.installations.lease()).await;
                (place, listed)
            })
            .buffer_unordered(MAX_CONCURRENT_LISTS)
            .collect()
            .await
    }
}

/// Leases of one list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Those of a namespace.
    Namespace(String),
    /// Those of all namespaces but the own one.
    Elsewhere,
}

impl Place {
    fn contains(&self, lease: &LeaseName, own: &LeaseName) -> bool {
        match self {
            Self::Namespace(namespace) => lease.namespace == *namespace,
            Self::Elsewhere => lease.namespace != own.namespace,
        }
    }
}

struct ListFailure {
    /// True if this installation may not list Leases there: then it never sees any.
    forbidden: bool,
    message: String,
}

struct LeaseList {
    leases: Vec<ListedLease>,
    /// False if there are more Leases than are read.
    complete: bool,
}

struct ListedLease {
    installation: Installation,
    version: String,
    /// True if no process holds it.
    released: bool,
}

/// Reads the Leases of operators in small pages, and keeps only what they say: users may create Leases of any size.
async fn list_leases(api: &Api<Lease>, place: &Place, own: &LeaseName) -> Result<LeaseList, ListFailure> {
    let (label, value) = LEASE_LABEL;
    let mut params = ListParams::default()
        .labels(&format!("{label}={value}"))
        .limit(PAGE_LEASES);
    let read = async {
        let mut leases: Vec<ListedLease> = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = api.list(&params).await?;
            for lease in &page.items {
                let Some(found) = listed_lease(lease) else {
                    continue;
                };
                let name = &found.installation.lease;
                let others = leases.iter().map(|other| &other.installation.lease.namespace);
                let beside = others.filter(|namespace| **namespace == name.namespace).count();
                if *name != *own && place.contains(name, own) && beside < MAX_NAMESPACE_LEASES {
                    leases.push(found);
                }
            }
            match page.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => params = params.clone().continue_token(&next),
                None => {
                    return Ok(LeaseList {
                        leases,
                        complete: true,
                    });
                }
            }
        }
        let complete = false;
        Ok(LeaseList { leases, complete })
    };
    match tokio::time::timeout(LIST_TIMEOUT, read).await {
        Ok(Ok(listed)) => Ok(listed),
        Ok(Err(error)) => Err(ListFailure {
            forbidden: matches!(&error, kube::Error::Api(status) if matches!(status.code, 401 | 403)),
            message: describe_error(&error),
        }),
        Err(_) => Err(ListFailure {
            forbidden: false,
            message: "timed out".to_owned(),
        }),
    }
}

/// Returns the installation that a Lease describes; `None`: it is not a Lease of an operator that states its scope.
fn listed_lease(lease: &Lease) -> Option<ListedLease> {
    let scope = lease.annotations().get(SCOPE_ANNOTATION)?;
    if scope.len() > MAX_SCOPE_BYTES {
        return None;
    }
    let holder = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref());
    Some(ListedLease {
        installation: Installation {
            lease: LeaseName {
                namespace: lease.namespace()?,
                name: lease.name_any(),
            },
            created: lease.creation_timestamp()?.0,
            scope: serde_json::from_str(scope).ok()?,
        },
        version: lease.resource_version().unwrap_or_default(),
        released: holder.is_none_or(str::is_empty),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation(lease: &str, created: i64, namespaces: &[&str]) -> Installation {
        let (namespace, name) = lease.split_once('/').unwrap();
        let namespaces = namespaces.iter().map(|&name| name.to_owned());
        Installation {
            lease: LeaseName {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
            created: Timestamp::from_second(created).unwrap(),
            scope: WatchScope::new(namespaces, [], "".parse().unwrap()).unwrap(),
        }
    }

    #[test]
    fn one_installation_serves_an_export_or_both_report_it() {
        let cluster = installation("system/operator", 100, &[]);
        let older = installation("system/older", 50, &["a"]);
        let younger = installation("system/younger", 150, &["a"]);
        let local = installation("a/operator", 900, &["a"]);
        let elsewhere = installation("other/operator", 1, &[]);
        let forged = installation("b/operator", 1, &[]);
        let show = |me: &Installation, others: &[&Installation], namespace: &str| {
            let others: Vec<Installation> = others.iter().map(|&other| other.clone()).collect();
            match ownership(me, &others, namespace, &BTreeMap::new()) {
                Ownership::Mine => "mine".to_owned(),
                Ownership::Contended(other) => format!("contended {other}"),
                Ownership::Other(other) => format!("of {other}"),
            }
        };
        let cases = [
            (show(&cluster, &[], "a"), "mine"),
            // Beside each other, the older Lease serves what both select, and says so.
            (show(&cluster, &[&older], "a"), "of system/older"),
            (show(&older, &[&cluster], "a"), "contended system/operator"),
            (show(&cluster, &[&younger], "a"), "contended system/younger"),
            (show(&younger, &[&cluster], "a"), "of system/operator"),
            (show(&cluster, &[&older], "b"), "mine"),
            // An operator in the export's own namespace precedes.
            (show(&cluster, &[&local], "a"), "of a/operator"),
            (show(&local, &[&cluster], "a"), "mine"),
            // A Lease elsewhere changes nothing, however old it is.
            (show(&cluster, &[&elsewhere], "a"), "mine"),
            (show(&cluster, &[&forged], "a"), "mine"),
            (show(&cluster, &[&forged], "b"), "of b/operator"),
            (show(&cluster, &[&elsewhere, &local], "a"), "of a/operator"),
        ];
        for (at, (shown, wanted)) in cases.into_iter().enumerate() {
            assert_eq!(shown, wanted, "case {at}");
        }
    }

    fn listed(lease: &str, version: &str, released: bool) -> ListedLease {
        ListedLease {
            installation: installation(lease, 1, &[]),
            version: version.to_owned(),
            released,
        }
    }

    #[test]
    fn a_lease_that_does_not_change_is_nobodys_and_a_failed_list_proves_nothing() {
        let (own, t) = (installation("system/me", 1, &[]).lease, Instant::now());
        let place = || Place::Namespace("system".to_owned());
        let mut seen = SeenLeases::new(Duration::from_secs(15));
        let mut before = Vec::new();
        let mut look = |seconds: u64, list: Result<Vec<ListedLease>, bool>| {
            let list = match list {
                Ok(leases) => Ok(LeaseList {
                    leases,
                    complete: true,
                }),
                Err(forbidden) => Err(ListFailure {
                    forbidden,
                    message: "no".to_owned(),
                }),
            };
            let now = t + Duration::from_secs(seconds);
            before = seen.merge(&own, &before, vec![(place(), list)], now);
            let names = before.iter().map(|other| other.lease.name.clone());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            look(
                0,
                Ok(vec![
                    listed("system/a", "1", false),
                    listed("system/left", "1", true)
                ])
            ),
            "a"
        );
        assert_eq!(look(15, Ok(vec![listed("system/a", "2", false)])), "a");
        assert_eq!(look(30, Err(false)), "a", "a failed list");
        // Unchanged for a minute, with failures between: the time goes on.
        assert_eq!(look(60, Ok(vec![listed("system/a", "2", false)])), "a");
        assert_eq!(look(75, Ok(vec![listed("system/a", "2", false)])), "");
        assert_eq!(look(90, Err(false)), "", "it does not come back by a failed list");
        assert_eq!(look(105, Ok(vec![listed("system/a", "2", false)])), "");
        // It returns; then it is released: a rollout takes less than one interval.
        assert_eq!(look(120, Ok(vec![listed("system/a", "3", false)])), "a");
        assert_eq!(look(135, Ok(vec![listed("system/a", "4", true)])), "a");
        assert_eq!(look(150, Ok(vec![listed("system/a", "4", true)])), "");
        assert_eq!(look(165, Ok(vec![listed("system/a", "5", false)])), "a");
        // The right to list is taken away.
        assert_eq!(look(180, Err(true)), "");
    }
}
