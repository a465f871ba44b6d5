//! One active leader by a `coordination.k8s.io/v1` Lease. Reads and writes that one object; the decision is in
//! [`super::election`].
//!
//! Every write carries the `resourceVersion` that was read, so that of two candidates one is refused. Its client has
//! no retries and a time limit well below the deadline: a slow API server must not make a leader believe
//! that it leads longer than it does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, Client, Config};
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::election::{self, CandidateStep, LeaderStep, LeaseRecord, LeaseTiming, RenewalResult};
use super::kube_error::describe_error;
use super::{FENCE_MARGIN, metered};
use crate::egress::{Fence, Traffic};
use crate::telemetry::Health;

/// Where the lease is, and how it is kept.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// Name of the Lease.
    pub name: String,
    /// Namespace of the Lease; `None`: that of the pod, or of the kubeconfig's context.
    pub namespace: Option<String>,
    /// Its times.
    pub timing: LeaseTiming,
}

impl LeaseSettings {
    /// Namespace and name: what tells the operators of one Lease from those of another.
    pub(super) fn full_name(&self, client: &Client) -> String {
        let namespace = self.namespace.as_deref().unwrap_or(client.default_namespace());
        format!("{namespace}/{}", self.name)
    }
}

/// A client for the lease alone: a connection of its own, no retries, limits on every step.
pub(super) fn client(mut config: Config, timing: &LeaseTiming, traffic: &Traffic) -> kube::Result<Client> {
    config.default_retry = false;
    config.connect_timeout = Some(timing.request());
    config.read_timeout = Some(timing.request());
    config.write_timeout = Some(timing.request());
    config.reset_reader_on_write = true;
    metered::client(config, traffic)
}

/// A name that no other process has: the host's, and 64 random bits.
pub(super) fn identity(host: Option<&str>) -> String {
    format!(
        "{}_{:016x}",
        host.unwrap_or("eventexport"),
        rand::rng().random::<u64>()
    )
}

/// A process that wants to lead.
pub(super) struct LeaseCandidate {
    api: Api<Lease>,
    name: String,
    me: String,
    timing: LeaseTiming,
    fence: Fence,
}

/// The right to lead, until [`Leadership::lost`].
pub(super) struct Leadership {
    lost: CancellationToken,
    resign: CancellationToken,
    /// Until when nobody else can lead.
    until: Arc<Mutex<Instant>>,
    renewing: AbortOnDropHandle<()>,
}

/// The lease as this process last saw it.
struct ObservedLease {
    lease: Option<Lease>,
    since: Instant,
}

impl LeaseCandidate {
    /// `fence` is closed when the lease runs out, or is given back.
    pub(super) fn new(client: Client, settings: &LeaseSettings, me: String, fence: Fence) -> Self {
        let api = match &settings.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::default_namespaced(client),
        };
        Self {
            api,
            name: settings.name.clone(),
            me,
            timing: settings.timing,
            fence,
        }
    }

    /// Waits until this process leads; `None`: `stop` came first. Errors of the API server are waited out.
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
                // It can read and write the Lease: it leads, or can as soon as it may.
                health.set_ready(true);
            }
            let wait = match tried {
                Ok(Ok((lease, sent))) => {
                    info!(lease = self.name, identity = self.me, "this process leads");
                    return Some(self.start_renewing(lease, sent, health.clone()));
                }
                Ok(Err(wait)) => {
                    let holder = observed
                        .lease
                        .as_ref()
                        .and_then(|lease| lease_record(lease).holder);
                    if holder.is_some() && holder != logged_holder {
                        info!(lease = self.name, holder, "another process leads; standing by");
                        logged_holder = holder;
                    }
                    wait
                }
                Err(error) => {
                    let error = describe_error(&error);
                    warn!(
                        lease = self.name,
                        error, "the lease cannot be read or written; trying again"
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

    /// One look and, where it may be, one write: the lease with the time when the write was sent, or how long to wait.
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
                    with_timeout(
                        &self.timing,
                        self.api.create(&PostParams::default(), &self.new_lease()),
                    )
                    .await
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
            // Another was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Err(self.timing.retry())),
            Err(error) => Err(error),
        }
    }

    fn new_lease(&self) -> Lease {
        let mut lease = Lease::default();
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

    /// Writes the record as held by `holder`, only if it still is what was read.
    async fn replace(&self, read: &Lease, holder: &str) -> kube::Result<Lease> {
        let mut lease = read.clone();
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
        with_timeout(
            &self.timing,
            self.api.replace(&self.name, &PostParams::default(), &lease),
        )
        .await
    }

    fn start_renewing(self, lease: Lease, sent: Instant, health: Health) -> Leadership {
        let (lost, resign) = (CancellationToken::new(), CancellationToken::new());
        let until = Arc::new(Mutex::new(sent + self.timing.duration));
        self.fence
            .close_at(sent + self.timing.duration.saturating_sub(FENCE_MARGIN));
        let renew = self.renew(lease, sent, health, lost.clone(), resign.clone(), until.clone());
        let renewing = AbortOnDropHandle::new(tokio::spawn(renew));
        Leadership {
            lost,
            resign,
            until,
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
        // Whatever ends this task, nobody goes on leading without it.
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
            // However slow the answers are, the loop is back at the deadline.
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
                        "this process no longer leads"
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

    /// Gives the lease back, in at most two tries: a renewal whose answer was lost has changed the version.
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
            "the lease could not be given back; it runs out by itself"
        );
    }

    /// One renewal, and when it was sent.
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
                    "the lease was not renewed"
                );
                self.check_holder(lease).await
            }
        };
        (renewal, sent)
    }

    /// After a failed renewal: whose is it? Ours with another version is renewed at the next try.
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
    /// Cancelled when this process no longer leads.
    pub(super) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// How long it is certain that nobody else leads.
    pub(super) fn time_left(&self) -> Duration {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.saturating_duration_since(Instant::now())
    }

    /// Gives the lease back, so that another need not wait.
    pub(super) async fn resign(self) {
        self.resign.cancel();
        // A panic in there was logged, and the lease then runs out by itself.
        let _ = self.renewing.await;
    }
}

/// A limit over the whole request, whatever the connection does meanwhile.
async fn with_timeout<T>(
    timing: &LeaseTiming,
    request: impl Future<Output = kube::Result<T>>,
) -> kube::Result<T> {
    let limit = timing.request();
    tokio::time::timeout(limit, request).await.unwrap_or_else(|_| {
        let what = format!("nothing within {} ms", limit.as_millis());
        Err(kube::Error::Service(what.into()))
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
