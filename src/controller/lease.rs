//! Leader election by a `coordination.k8s.io/v1` Lease. Reads and writes that one object; [`super::election`] decides.
//!
//! Every write carries the `resourceVersion` that was read, so the API server refuses one of two candidates. The client
//! has no retries and a timeout well below the deadline: a slow API server must not make a leader believe that it leads
//! longer than it does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, Client, Config, ResourceExt as _};
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::election::{self, CandidateStep, LeaderStep, LeaseRecord, LeaseTiming, RenewalResult};
use super::installations::{LEASE_LABEL, LeaseName, SCOPE_ANNOTATION};
use super::kube_error::describe_error;
use super::watch_scope::WatchScope;
use super::{FENCE_MARGIN, FIELD_MANAGER, metered};
use crate::egress::{Fence, Traffic};
use crate::telemetry::Health;

/// Name and timing of the Lease.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// Name of the Lease.
    pub name: String,
    /// Namespace of the Lease. `None`: the namespace of the pod, or of the kubeconfig's context.
    pub namespace: Option<String>,
    /// Duration, deadline and renewal interval.
    pub timing: LeaseTiming,
}

impl LeaseSettings {
    /// Returns namespace and name, which identify an installation in the cluster.
    pub(super) fn full_name(&self, client: &Client) -> LeaseName {
        let namespace = self.namespace.as_deref().unwrap_or(client.default_namespace());
        LeaseName {
            namespace: namespace.to_owned(),
            name: self.name.clone(),
        }
    }
}

/// Creates the client for the Lease: a separate connection, no retries, a timeout on every step.
pub(super) fn client(mut config: Config, timing: &LeaseTiming, traffic: &Traffic) -> kube::Result<Client> {
    config.default_retry = false;
    config.connect_timeout = Some(timing.request());
    config.read_timeout = Some(timing.request());
    config.write_timeout = Some(timing.request());
    config.reset_reader_on_write = true;
    metered::client(config, traffic)
}

fn post_params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// Returns a unique name for this process: the host name and 64 random bits.
pub(super) fn identity(host: Option<&str>) -> String {
    format!(
        "{}_{:016x}",
        host.unwrap_or("eventexport"),
        rand::rng().random::<u64>()
    )
}

/// Process that tries to acquire the Lease.
pub(super) struct LeaseCandidate {
    api: Api<Lease>,
    name: String,
    /// Scope of this operator, as JSON for the other installations.
    scope: String,
    me: String,
    timing: LeaseTiming,
    fence: Fence,
}

/// Leadership of this process, until [`Leadership::lost`] is cancelled.
pub(super) struct Leadership {
    lost: CancellationToken,
    resign: CancellationToken,
    /// Earliest time at which another process can lead.
    until: Arc<Mutex<Instant>>,
    /// Creation of the Lease, as the API server recorded it.
    created: Timestamp,
    renewing: AbortOnDropHandle<()>,
}

/// Lease as this process last read it.
struct ObservedLease {
    lease: Option<Lease>,
    since: Instant,
}

impl LeaseCandidate {
    /// Creates a candidate. It closes `fence` when the lease expires or is released.
    pub(super) fn new(
        client: Client,
        settings: &LeaseSettings,
        scope: &WatchScope,
        me: String,
        fence: Fence,
    ) -> Self {
        let api = match &settings.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::default_namespaced(client),
        };
        Self {
            api,
            name: settings.name.clone(),
            // Cannot fail: sets of names and a text.
            scope: serde_json::to_string(scope).unwrap_or_default(),
            me,
            timing: settings.timing,
            fence,
        }
    }

    /// Waits until this process leads. Returns `None` if `stop` is cancelled first. Retries after errors.
    pub(super) async fn acquire(self, health: &Health, stop: &CancellationToken) -> Option<Leadership> {
        let mut observed = ObservedLease {
            lease: None,
            since: Instant::now(),
        };
        let mut logged_holder: Option<String> = None;
        loop {
            health.heartbeat();
            let tried = self.try_acquire(&mut observed).await;
            if tried.is_ok() {
                // The process can read and write the Lease, so it is able to lead.
                health.set_ready(true);
            }
            let wait = match tried {
                Ok(Ok((lease, sent))) => {
                    info!(lease = self.name, identity = self.me, "lease acquired");
                    return Some(self.start_renewing(lease, sent, health.clone()));
                }
                Ok(Err(wait)) => {
                    let holder = observed
                        .lease
                        .as_ref()
                        .and_then(|lease| lease_record(lease).holder);
                    if holder.is_some() && holder != logged_holder {
                        self.log_standby(observed.lease.as_ref(), holder.as_deref());
                        logged_holder = holder;
                    }
                    wait
                }
                Err(error) => {
                    let error = describe_error(&error);
                    warn!(
                        lease = self.name,
                        error, "cannot read or write the lease, will retry"
                    );
                    self.timing.retry()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return None,
            }
        }
    }

    /// Reads the Lease once and writes it if allowed. Returns the Lease and the time when the write was sent; the inner
    /// error is the delay before the next try.
    async fn try_acquire(
        &self,
        observed: &mut ObservedLease,
    ) -> kube::Result<Result<(Lease, Instant), Duration>> {
        let lease = with_timeout(&self.timing, self.api.get_opt(&self.name)).await?;
        if version(lease.as_ref()) != version(observed.lease.as_ref()) || lease.is_none() {
            *observed = ObservedLease {
                lease,
                since: Instant::now(),
            };
        }
        let seen = observed.lease.as_ref().map(lease_record);
        let sent = Instant::now();
        let write =
            match election::candidate_step(&self.me, seen.as_ref(), observed.since.elapsed(), &self.timing) {
                CandidateStep::Wait(wait) => return Ok(Err(wait)),
                CandidateStep::Create => {
                    with_timeout(&self.timing, self.api.create(&post_params(), &self.new_lease())).await
                }
                CandidateStep::Acquire | CandidateStep::Renew => {
                    let Some(lease) = &observed.lease else {
                        return Ok(Err(self.timing.retry()));
                    };
                    self.replace(lease, &self.me).await
                }
            };
        match write {
            Ok(lease) => Ok(Ok((lease, sent))),
            // Another candidate wrote first.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Err(self.timing.retry())),
            Err(error) => Err(error),
        }
    }

    /// Logs that another process leads. One with another scope does not stand in for this one.
    fn log_standby(&self, lease: Option<&Lease>, holder: Option<&str>) {
        let scope = lease.and_then(|lease| lease.annotations().get(SCOPE_ANNOTATION));
        if let Some(scope) = scope.filter(|scope| **scope != self.scope) {
            warn!(
                lease = self.name,
                holder,
                scope,
                own_scope = self.scope,
                "another process holds the lease and serves other exports, standing by; unless this is a rollout, \
                 give each installation its own --lease-name"
            );
        } else {
            info!(
                lease = self.name,
                holder, "another process holds the lease, standing by"
            );
        }
    }

    /// Writes label and scope, by which other installations find the Lease.
    fn describe(&self, lease: &mut Lease) {
        let (label, value) = LEASE_LABEL;
        lease.labels_mut().insert(label.to_owned(), value.to_owned());
        let annotations = lease.annotations_mut();
        annotations.insert(SCOPE_ANNOTATION.to_owned(), self.scope.clone());
    }

    fn new_lease(&self) -> Lease {
        let mut lease = Lease::default();
        self.describe(&mut lease);
        lease.metadata.name = Some(self.name.clone());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: seconds(self.timing.duration),
            acquire_time: Some(MicroTime(Timestamp::now())),
            renew_time: Some(MicroTime(Timestamp::now())),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        });
        lease
    }

    /// Writes `holder` into the Lease, only over the version that was read. An empty `holder` releases it.
    async fn replace(&self, read: &Lease, holder: &str) -> kube::Result<Lease> {
        let mut lease = read.clone();
        self.describe(&mut lease);
        let now = MicroTime(Timestamp::now());
        let spec = lease.spec.get_or_insert_default();
        let resigns = holder.is_empty();
        if spec.holder_identity.as_deref() != Some(holder) && !resigns {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(holder.to_owned());
        spec.lease_duration_seconds = if resigns {
            Some(1)
        } else {
            seconds(self.timing.duration)
        };
        spec.renew_time = Some(now);
        with_timeout(&self.timing, self.api.replace(&self.name, &post_params(), &lease)).await
    }

    fn start_renewing(self, lease: Lease, sent: Instant, health: Health) -> Leadership {
        let (lost, resign) = (CancellationToken::new(), CancellationToken::new());
        let until = Arc::new(Mutex::new(sent + self.timing.duration));
        let created = lease.creation_timestamp().map_or(Timestamp::MAX, |at| at.0);
        self.fence
            .close_at(sent + self.timing.duration.saturating_sub(FENCE_MARGIN));
        let renew = self.renew(lease, sent, health, lost.clone(), resign.clone(), until.clone());
        let renewing = AbortOnDropHandle::new(tokio::spawn(renew));
        Leadership {
            lost,
            resign,
            until,
            created,
            renewing,
        }
    }

    async fn renew(
        self,
        mut lease: Lease,
        mut renewed: Instant,
        health: Health,
        lost: CancellationToken,
        resign: CancellationToken,
        until: Arc<Mutex<Instant>>,
    ) {
        // However this task ends, the process must not lead without it.
        let _lost = lost.drop_guard();
        let mut wait = self.timing.renew;
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = resign.cancelled() => {
                    self.fence.close_at(Instant::now());
                    self.release(lease).await;
                    return;
                }
            }
            // Bounds slow answers: the loop must act at the deadline.
            let left = self.timing.deadline.saturating_sub(renewed.elapsed());
            let attempt = self.renew_once(&mut lease);
            let (renewal, sent) = tokio::time::timeout(left, attempt)
                .await
                .unwrap_or_else(|_| (RenewalResult::Unknown, Instant::now()));
            if renewal == RenewalResult::Done {
                renewed = sent;
                *until.lock().unwrap_or_else(PoisonError::into_inner) = sent + self.timing.duration;
                self.fence
                    .close_at(sent + self.timing.duration.saturating_sub(FENCE_MARGIN));
            }
            match election::leader_step(renewal, renewed.elapsed(), &self.timing) {
                LeaderStep::Keep(next) => {
                    health.heartbeat();
                    wait = next;
                }
                LeaderStep::Lost(_) => {
                    warn!(
                        lease = self.name,
                        taken = renewal == RenewalResult::Taken,
                        "lease lost"
                    );
                    if renewal == RenewalResult::Taken {
                        *until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                        self.fence.close_at(Instant::now());
                    }
                    return;
                }
            }
        }
    }

    /// Releases the lease, in at most two tries: a renewal without an answer may have changed the version.
    async fn release(&self, mut lease: Lease) {
        let Err(first) = self.replace(&lease, "").await else {
            return;
        };
        let renewal = self.check_holder(&mut lease).await;
        if renewal == RenewalResult::Taken || self.replace(&lease, "").await.is_ok() {
            return;
        }
        warn!(
            lease = self.name,
            error = describe_error(&first),
            "cannot release the lease, it will expire"
        );
    }

    /// Renews the lease once. Returns the result, and the time when the request was sent.
    async fn renew_once(&self, lease: &mut Lease) -> (RenewalResult, Instant) {
        let sent = Instant::now();
        let renewal = match self.replace(lease, &self.me).await {
            Ok(new) => {
                *lease = new;
                RenewalResult::Done
            }
            Err(error) => {
                warn!(
                    lease = self.name,
                    error = describe_error(&error),
                    "cannot renew the lease"
                );
                self.check_holder(lease).await
            }
        };
        (renewal, sent)
    }

    /// Reads the holder after a failed renewal. If it still is this process, the next renewal uses the new version.
    async fn check_holder(&self, lease: &mut Lease) -> RenewalResult {
        match with_timeout(&self.timing, self.api.get_opt(&self.name)).await {
            Ok(Some(now)) if lease_record(&now).holder.as_deref() == Some(&self.me) => {
                *lease = now;
                RenewalResult::Unknown
            }
            Ok(_) => RenewalResult::Taken,
            Err(_) => RenewalResult::Unknown,
        }
    }
}

impl Leadership {
    /// Returns the token that is cancelled when this process stops leading.
    pub(super) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Returns the creation of the Lease.
    pub(super) fn lease_created(&self) -> Timestamp {
        self.created
    }

    /// Returns the time for which certainly no other process leads.
    pub(super) fn time_left(&self) -> Duration {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.saturating_duration_since(Instant::now())
    }

    /// Releases the lease, so that another process can lead at once.
    pub(super) async fn resign(self) {
        self.resign.cancel();
        // A panic of that task was logged, and the lease expires.
        let _ = self.renewing.await;
    }
}

/// Bounds the complete request, independent of the state of the connection.
async fn with_timeout<T>(
    timing: &LeaseTiming,
    request: impl Future<Output = kube::Result<T>>,
) -> kube::Result<T> {
    let limit = timing.request();
    tokio::time::timeout(limit, request).await.unwrap_or_else(|_| {
        let message = format!("timed out after {} ms", limit.as_millis());
        Err(kube::Error::Service(message.into()))
    })
}

fn lease_record(lease: &Lease) -> LeaseRecord {
    let spec = lease.spec.clone().unwrap_or_default();
    let duration = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
    LeaseRecord {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        duration: Duration::from_secs(duration),
        version: version(Some(lease)).unwrap_or_default().to_owned(),
    }
}

fn version(lease: Option<&Lease>) -> Option<&str> {
    lease?.metadata.resource_version.as_deref()
}

fn seconds(duration: Duration) -> Option<i32> {
    i32::try_from(duration.as_secs()).ok()
}
