//! Fixture of one case: an environment with the sessions of users, the export of a campaign, and its operator.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use eventexport::simulator::{DEFAULT_API_KEY, DEFAULT_PERSON, DEFAULT_USER, Settings};
use jiff::civil::Date;
use serde_json::{Value, json};

use crate::operator::kubectl;
use crate::testkit::command::{CommandOutput, bucket_env, program_in, run_command};
use crate::testkit::environment::Environment;
use crate::testkit::manifest::SPACE;
use crate::testkit::process::Process;
use crate::testkit::proxy::Proxy;

/// Manually opened sessions in the space: of another user, and of the operator's user.
pub(crate) const USER_SESSIONS: usize = 2;

/// Maximum sessions of the operator, leftovers included.
pub(crate) const SESSION_LIMIT: usize = 4;

/// Maximum time of a request to the API server: very generous, because it is not repeated.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(2);

/// Export of a campaign.
#[derive(Clone)]
pub(crate) struct CampaignSpec {
    pub(crate) start: Date,
    /// Last day; `None`: the export is continuous.
    pub(crate) end: Option<Date>,
    pub(crate) parallelism: u8,
    pub(crate) service: Settings,
    /// Days that the journal splits into hours, as after repeated timeouts.
    pub(crate) split: Vec<Date>,
    /// Events of stored days that arrive after a first run without faults.
    pub(crate) late: Vec<(Date, u64)>,
    /// True if receipts, manifests and checkpoints are signed.
    pub(crate) signed: bool,
}

impl CampaignSpec {
    /// Number of events that arrive late.
    pub(crate) fn late_events(&self) -> u64 {
        self.late.iter().map(|(_, events)| events).sum()
    }
}

/// Signing key of all cases, as PEM with its public key: the status states its id.
fn signing_key() -> &'static (String, String) {
    static KEY: OnceLock<(String, String)> = OnceLock::new();
    KEY.get_or_init(|| {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        (pair.serialize_pem(), pair.public_key_pem())
    })
}

/// Connection of the operator to the API server.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum ApiServerRoute {
    /// Direct, by TLS, as in production.
    Direct,
    /// Through a proxy.
    Proxied,
}

pub(crate) struct FaultFixture {
    env: Environment,
    /// Manually opened sessions.
    pub(crate) user_sessions: Vec<String>,
    kubernetes: Option<Proxy>,
    client: reqwest::Client,
}

impl Deref for FaultFixture {
    type Target = Environment;

    fn deref(&self) -> &Environment {
        &self.env
    }
}

impl FaultFixture {
    pub(crate) async fn start(spec: &CampaignSpec, route: ApiServerRoute) -> Result<Self> {
        let env = Environment::builder("faults").service(spec.service.clone());
        let env = env.versioned().separate_uaa().without_secrets().start().await?;
        let mut user_sessions = env
            .simulator
            .open_sessions_as(DEFAULT_PERSON, SPACE, USER_SESSIONS - 1);
        user_sessions.extend(env.simulator.open_sessions_as(DEFAULT_USER, SPACE, 1));
        Ok(Self {
            kubernetes: match route {
                ApiServerRoute::Direct => None,
                ApiServerRoute::Proxied => Some(Proxy::cluster(env.cluster, &env.rules).await?),
            },
            user_sessions,
            client: env.cluster.http_client()?,
            env,
        })
    }

    /// Address of the service in receipts.
    pub(crate) fn source(&self) -> String {
        self.tracker.endpoint()
    }

    /// Creates the Secrets and the resource.
    pub(crate) async fn apply(&self, spec: &CampaignSpec) -> Result<()> {
        for day in &spec.split {
            let key = format!("tracker/space={SPACE}/scope=space/_journal/{day}.split.json");
            let split = json!({
                "schema": "eventexport.io/split/v1", "why": "it kept timing out", "at": "2018-06-09T12:00:00Z",
            });
            self.bucket.put(&key, split.to_string().into_bytes()).await?;
        }
        let end = spec.end.map_or_else(String::new, |end| end.to_string());
        // The UAA is discovered.
        let mut manifest = self
            .proxied_export("june")
            .days(&spec.start.to_string(), &end)
            .set("source.uaaEndpoint", Value::Null)
            .set("parallelism", spec.parallelism)
            .secrets(self.gateway);
        if spec.signed {
            let (private, public) = signing_key();
            manifest = manifest
                .set("manifest.signingKeySecretRef.name", "signing")
                .secret("signing", json!({ "signingKey": private }));
            std::fs::write(self.public_key(), public)?;
        }
        self.env.apply(&manifest).await
    }

    /// Lets the late events of the stored days arrive, and asks for a look, as a person does instead of waiting for the daily
    /// one.
    pub(crate) async fn grow(&self, spec: &CampaignSpec) -> Result<()> {
        for (day, events) in &spec.late {
            self.simulator.grow_day(*day, *events);
        }
        self.request_reconcile("june", "late").await
    }

    fn public_key(&self) -> PathBuf {
        self.folder.path().join("public.pem")
    }

    /// Returns the complete resource.
    pub(crate) async fn resource(&self) -> Result<Value> {
        self.get("eventexport.io/v1alpha1", "eventexports/june").await
    }

    /// Returns the Events of the namespace.
    pub(crate) async fn events(&self) -> Result<Value> {
        self.get("events.k8s.io/v1", "events").await
    }

    async fn get(&self, group: &str, path: &str) -> Result<Value> {
        let path = format!("/apis/{group}/namespaces/{}/{path}", self.namespace);
        let found = self.cluster.get_by(&self.client, &path, REQUEST_TIMEOUT);
        found.await?.with_context(|| format!("{path} is gone"))
    }

    /// True if a proxy is before the API server.
    pub(crate) fn is_proxied(&self) -> bool {
        self.kubernetes.is_some()
    }

    /// Deletes the lease of a dead process, so that its successor does not wait for the expiry.
    pub(crate) async fn delete_lease(&self) -> Result<()> {
        let name = format!("eventexport-operator-{}", self.namespace);
        let delete = ["delete", "lease", &name, "-n", &self.namespace];
        // A process that never led has no lease.
        let options = ["--ignore-not-found", "--wait=false"];
        kubectl(self.cluster, &[&delete[..], &options].concat()).await?;
        Ok(())
    }

    /// Starts an operator process as the target of faults. Its lease identity is constant, and the lease is long,
    /// because a machine that pauses for seconds is not part of this test.
    pub(crate) fn start_operator(&self) -> Result<Arc<Process>> {
        let mut operator = self
            .operator()
            .lease(["2m", "1m", "5s"])
            .args(&["--sessions-per-space", &SESSION_LIMIT.to_string()]);
        if let Some(proxy) = &self.kubernetes {
            operator = operator.kubeconfig(&proxy.write_kubeconfig(self.folder.path())?);
        }
        let process = operator.spawn(&self.log_path())?;
        self.rules.set_target(&process);
        Ok(process)
    }

    /// Runs `verify` on the archive.
    pub(crate) async fn verify(&self) -> CommandOutput {
        let place = format!("s3://{}/tracker", self.bucket.name);
        let arguments = ["verify", &place, "--s3-endpoint", &self.gateway.endpoint()];
        let mut command = program_in(self.folder.path(), &arguments);
        if self.public_key().exists() {
            command.arg("--public-key").arg(self.public_key());
        }
        command.envs(bucket_env(self.gateway));
        run_command(command).await
    }

    /// Values that must not appear in a log, Event or status.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let own = [DEFAULT_API_KEY, self.gateway.secret_key()].map(str::to_owned);
        self.rules.secrets().into_iter().chain(own).collect()
    }
}

impl Drop for FaultFixture {
    fn drop(&mut self) {
        self.gateway.remove_bucket(&self.bucket.name);
    }
}
