//! Fixture of one case: a namespace, a bucket, a service, proxies before them, and the operator as a process.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, ensure};
use axum::http::Method;
use eventexport::simulator::{DEFAULT_API_KEY, DEFAULT_PERSON, DEFAULT_USER, Settings, Simulator};
use jiff::civil::Date;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::bed::{Cluster, Gateway};
use crate::testkit::bucket::Bucket;
use crate::testkit::manifest::{Manifest, SPACE};
use crate::testkit::operator::OperatorCommand;
use crate::testkit::process::{Process, program, read_log};
use crate::testkit::proxy::{ProxiedPeer, Proxy, Rules};

/// Manually opened sessions in the space: of another user, and of the operator's user.
pub(crate) const USER_SESSIONS: usize = 2;

/// Maximum sessions of the operator, leftovers included.
pub(crate) const SESSION_LIMIT: usize = 4;

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
    cluster: &'static Cluster,
    pub(crate) gateway: &'static Gateway,
    client: reqwest::Client,
    pub(crate) simulator: Simulator,
    /// Bucket; also the name of the namespace.
    pub(crate) bucket: Bucket,
    pub(crate) rules: Arc<Rules>,
    /// Manually opened sessions.
    pub(crate) user_sessions: Vec<String>,
    tracker: Proxy,
    _uaa: Proxy,
    store: Proxy,
    kubernetes: Option<Proxy>,
    folder: tempfile::TempDir,
}

impl FaultFixture {
    pub(crate) async fn start(spec: &CampaignSpec, route: ApiServerRoute) -> Result<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let (cluster, gateway) = (Cluster::shared().await, Gateway::shared().await);
        let name = format!("faults-{}", MADE.fetch_add(1, Ordering::Relaxed));
        let simulator = Simulator::start(spec.service.clone()).await?;
        let mut user_sessions = simulator.open_sessions_as(DEFAULT_PERSON, SPACE, USER_SESSIONS - 1);
        user_sessions.extend(simulator.open_sessions_as(DEFAULT_USER, SPACE, 1));
        let rules = Rules::new();
        let uaa = Proxy::start(ProxiedPeer::Uaa, simulator.url().as_str(), &rules).await?;
        let fixture = Self {
            cluster,
            gateway,
            client: cluster.http_client()?,
            bucket: Bucket::create_versioned(gateway, &name).await?,
            tracker: Proxy::tracker(simulator.url().as_str(), &uaa, &rules).await?,
            store: Proxy::store(gateway, &rules).await?,
            kubernetes: match route {
                ApiServerRoute::Direct => None,
                ApiServerRoute::Proxied => Some(Proxy::cluster(cluster, &rules).await?),
            },
            simulator,
            rules,
            user_sessions,
            _uaa: uaa,
            folder: tempfile::tempdir()?,
        };
        let namespace = json!({ "metadata": { "name": name } });
        fixture
            .api_request(Method::POST, "/api/v1/namespaces", Some(namespace))
            .await?;
        Ok(fixture)
    }

    /// Sends one request to the API server, bypassing the proxy; an error if it is refused.
    async fn api_request(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let url = format!("{}{path}", self.cluster.server_url());
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let reply = request.send().await?;
        let status = reply.status();
        let text = reply.text().await?;
        ensure!(status.is_success(), "{path}: {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.bucket.name
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
        let mut manifest = Manifest::new("june", &self.source())
            .days(&spec.start.to_string(), &end)
            .bucket(&self.bucket.name, "tracker", &self.store.endpoint())
            .set("parallelism", spec.parallelism)
            .secrets(self.gateway);
        if spec.signed {
            let (private, public) = signing_key();
            manifest = manifest
                .set(
                    "manifest",
                    json!({ "signingKeySecretRef": { "name": "signing" } }),
                )
                .secret("signing", json!({ "signingKey": private }));
            std::fs::write(self.public_key(), public)?;
        }
        let secrets = format!("/api/v1/namespaces/{}/secrets", self.namespace());
        for document in manifest.documents() {
            let path = if document["kind"] == "Secret" {
                secrets.clone()
            } else {
                self.exports()
            };
            self.api_request(Method::POST, &path, Some(document)).await?;
        }
        Ok(())
    }

    fn exports(&self) -> String {
        format!(
            "/apis/eventexport.io/v1alpha1/namespaces/{}/eventexports",
            self.namespace()
        )
    }

    /// Lets the late events of the stored days arrive, and asks for a look, as a person does instead of waiting for the daily
    /// one.
    pub(crate) async fn grow(&self, spec: &CampaignSpec) -> Result<()> {
        for (day, events) in &spec.late {
            self.simulator.grow_day(*day, *events);
        }
        let url = format!("{}{}/june", self.cluster.server_url(), self.exports());
        let patch = json!({ "metadata": { "annotations": { "eventexport.io/requestedAt": "late" } } });
        let request = self
            .client
            .patch(url)
            .header("content-type", "application/merge-patch+json");
        let reply = request.body(patch.to_string()).send().await?;
        ensure!(reply.status().is_success(), "{}", reply.text().await?);
        Ok(())
    }

    fn public_key(&self) -> PathBuf {
        self.folder.path().join("public.pem")
    }

    /// Returns the complete resource.
    pub(crate) async fn resource(&self) -> Result<Value> {
        self.api_request(Method::GET, &format!("{}/june", self.exports()), None)
            .await
    }

    /// Returns the Events of the namespace.
    pub(crate) async fn events(&self) -> Result<Value> {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", self.namespace());
        self.api_request(Method::GET, &path, None).await
    }

    fn kubeconfig(&self) -> Result<PathBuf> {
        match &self.kubernetes {
            None => Ok(self.cluster.kubeconfig_path()),
            Some(proxy) => proxy.write_kubeconfig(self.folder.path()),
        }
    }

    /// True if a proxy is before the API server.
    pub(crate) fn is_proxied(&self) -> bool {
        self.kubernetes.is_some()
    }

    /// Deletes the lease of a dead process, so that its successor does not wait for the expiry.
    pub(crate) async fn delete_lease(&self) -> Result<()> {
        let namespace = self.namespace();
        let url = format!(
            "{}/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/eventexport-operator-{namespace}",
            self.cluster.server_url()
        );
        // A process that never led has no lease.
        self.client.delete(url).send().await?;
        Ok(())
    }

    /// Starts an operator process as the target of faults. Its lease identity is constant, and the lease is long,
    /// because a machine that pauses for seconds is not part of this test.
    pub(crate) fn operator(&self) -> Result<Arc<Process>> {
        let process = OperatorCommand::new(self.cluster)
            .namespace(self.namespace())
            .lease(["2m", "1m", "5s"])
            .args(&[
                "--session-quiet",
                "1s",
                "--sessions-per-space",
                &SESSION_LIMIT.to_string(),
            ])
            .kubeconfig(&self.kubeconfig()?)
            .spawn(&self.folder.path().join("log"))?;
        self.rules.set_target(&process);
        Ok(process)
    }

    /// Returns the logs of all operator processes.
    pub(crate) fn log(&self) -> String {
        read_log(&self.folder.path().join("log"))
    }

    /// Runs `verify` on the archive; returns whether it succeeds, and its output.
    pub(crate) async fn verify(&self) -> Result<(bool, String)> {
        let place = format!("s3://{}/tracker", self.bucket.name);
        let mut command = Command::new(program());
        command.args(["verify", &place, "--s3-endpoint", &self.gateway.endpoint()]);
        if self.public_key().exists() {
            command.arg("--public-key").arg(self.public_key());
        }
        let output = command
            .env("AWS_ACCESS_KEY_ID", self.gateway.access_key())
            .env("AWS_SECRET_ACCESS_KEY", self.gateway.secret_key())
            .env("AWS_REGION", Gateway::REGION)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("NO_COLOR", "1")
            .kill_on_drop(true)
            .output()
            .await
            .context("verify")?;
        let printed = [output.stdout, output.stderr].concat();
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&printed).into_owned(),
        ))
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
