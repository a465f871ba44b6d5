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
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;
use tracing::warn;

use super::election::LeaseTiming;
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

/// Maximum Leases to read from one list.
const MAX_LEASES: u32 = 500;

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

    /// Returns the name of this installation's Lease.
    pub(super) fn lease(&self) -> &LeaseName {
        &self.me.lease
    }

    /// Calls `f` with the installation that serves an export.
    pub(super) fn with_ownership<T>(&self, object: &EventExport, f: impl FnOnce(Ownership<'_>) -> T) -> T {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner).clone();
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

/// Reads the Leases of the other installations regularly.
pub(super) struct LeaseWatch {
    client: Client,
    installations: Arc<Installations>,
    /// Version of each Lease, and the time when it was seen first.
    seen: HashMap<LeaseName, (String, Instant)>,
    /// Interval between lists: the duration of a Lease, 15 s by default.
    interval: Duration,
    /// True if a failed list was logged.
    failure_logged: bool,
}

impl LeaseWatch {
    pub(super) fn new(client: Client, installations: Arc<Installations>, timing: &LeaseTiming) -> Self {
        Self {
            client,
            installations,
            seen: HashMap::new(),
            interval: timing.duration,
            failure_logged: false,
        }
    }

    /// Lists the Leases again and again, and wakes the exports that another installation serves or selects than before.
    /// Never returns.
    pub(super) async fn run(
        mut self,
        exports: Store<EventExport>,
        wake_ups: mpsc::Sender<ObjectRef<EventExport>>,
    ) {
        loop {
            tokio::time::sleep(self.interval).await;
            let Some(before) = self.refresh().await else {
                continue;
            };
            for object in exports.state() {
                if self.installations.differs_from(&before, &object) {
                    // Fails only if the controller is gone.
                    let _ = wake_ups.send(ObjectRef::from_obj(&*object)).await;
                }
            }
        }
    }

    /// Lists the Leases once. Returns the former installations if they changed. What cannot be listed counts as empty.
    pub(super) async fn refresh(&mut self) -> Option<Arc<Vec<Installation>>> {
        let mut leases = Vec::new();
        for (namespace, listed) in self.list().await {
            match listed {
                Ok(listed) => leases.extend(listed),
                Err(error) if !std::mem::replace(&mut self.failure_logged, true) => warn!(
                    namespace = namespace.unwrap_or_else(|| "all".to_owned()),
                    error,
                    "cannot list Leases: other installations that select the same exports are not noticed there"
                ),
                Err(_) => {}
            }
        }
        let now = Instant::now();
        let mut others = Vec::new();
        let mut seen = HashMap::new();
        for lease in &leases {
            let Some(found) = installation(lease).filter(|found| found.lease != *self.installations.lease())
            else {
                continue;
            };
            let version = lease.resource_version().unwrap_or_default();
            let known = self.seen.get(&found.lease).filter(|(known, _)| *known == version);
            let since = known.map_or(now, |(_, since)| *since);
            if now.duration_since(since) < self.interval * GONE_FACTOR && !others.contains(&found) {
                others.push(found.clone());
            }
            seen.insert(found.lease, (version, since));
        }
        self.seen = seen;
        others.sort_by(|one, other| one.lease.cmp(&other.lease));
        self.installations.replace(others)
    }

    /// Lists the Leases of the whole cluster, or of the namespaces of this installation if it may not or need not.
    async fn list(&self) -> Vec<(Option<String>, Result<Vec<Lease>, String>)> {
        let Installation { lease, scope, .. } = &self.installations.me;
        let own = lease.namespace.clone();
        if scope.namespaces().is_empty() {
            let listed = list_leases(Api::all(self.client.clone())).await;
            if listed.is_ok() {
                return vec![(None, listed)];
            }
            let own = list_leases(Api::namespaced(self.client.clone(), &own)).await;
            return vec![(None, listed), (None, own)];
        }
        let namespaces = scope.namespaces().iter().cloned().chain([own]);
        let namespaces: std::collections::BTreeSet<String> = namespaces.collect();
        futures::stream::iter(namespaces)
            .map(async |namespace| {
                let listed = list_leases(Api::namespaced(self.client.clone(), &namespace)).await;
                (Some(namespace), listed)
            })
            .buffer_unordered(MAX_CONCURRENT_LISTS)
            .collect()
            .await
    }
}

async fn list_leases(api: Api<Lease>) -> Result<Vec<Lease>, String> {
    let (label, value) = LEASE_LABEL;
    let params = ListParams::default()
        .labels(&format!("{label}={value}"))
        .limit(MAX_LEASES);
    match tokio::time::timeout(LIST_TIMEOUT, api.list(&params)).await {
        Ok(Ok(listed)) => Ok(listed.items),
        Ok(Err(error)) => Err(describe_error(&error)),
        Err(_) => Err("timed out".to_owned()),
    }
}

/// Returns the installation that a Lease describes; `None`: it is not a Lease of an operator that states its scope.
fn installation(lease: &Lease) -> Option<Installation> {
    let scope = serde_json::from_str(lease.annotations().get(SCOPE_ANNOTATION)?).ok()?;
    Some(Installation {
        lease: LeaseName {
            namespace: lease.namespace()?,
            name: lease.name_any(),
        },
        created: lease.creation_timestamp()?.0,
        scope,
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
}
