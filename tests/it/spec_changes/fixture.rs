//! One namespace with its buckets, Secrets and operator, for many resources that each have their own service, and all
//! versions of them that the API server had.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aws_sdk_s3::Client as S3;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use eventexport::api::EventExport;
use eventexport::simulator::{DEFAULT_PASSWORD, DEFAULT_PERSON, Settings, Simulator};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::cases::base;
use super::phases::RelativeDays;
use crate::bed::{Cluster, Gateway};
use crate::operator::process::{OperatorFixture, OperatorProcess};
use crate::testkit::manifest::Manifest;

/// Very generous, because very many resources are active at once, on a machine that also compiles.
pub(super) const TIMEOUT: Duration = Duration::from_mins(10);

/// Lease that survives a very busy machine; leader election is not tested here.
pub(super) const LONG_LEASE: [&str; 6] = [
    "--lease-duration",
    "60s",
    "--lease-deadline",
    "50s",
    "--lease-renew",
    "5s",
];

/// Field manager of the tests.
const FIELD_MANAGER: &str = "spec-changes";

pub(super) struct ChangeFixture {
    pub(super) operators: OperatorFixture,
    pub(super) days: RelativeDays,
    pub(super) s3: S3,
    pub(super) exports: Api<DynamicObject>,
    pub(super) secrets: Api<Secret>,
    pub(super) history: ResourceHistory,
}

/// Returns a client with all rights.
pub(super) async fn client(cluster: &Cluster) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig_path())?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Settings of a service with a few events each day.
pub(super) fn service_settings() -> Settings {
    let mut settings = Settings::default();
    settings.volume.quiet.clear();
    settings.volume.events_per_day = 24;
    settings
}

impl ChangeFixture {
    pub(super) async fn start(name: &str) -> Result<Self> {
        let operators = OperatorFixture::start(name, service_settings()).await?;
        let gateway = Gateway::shared().await;
        let namespace = operators.namespace.clone();
        let s3 = crate::testkit::bucket::sdk(gateway);
        let versions = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled);
        let keep = s3.put_bucket_versioning().bucket(&namespace);
        keep.versioning_configuration(versions.build()).send().await?;
        let locked = s3.create_bucket().bucket(format!("{namespace}-lock"));
        locked.object_lock_enabled_for_bucket(true).send().await?;
        let client = client(operators.cluster).await?;
        let kind = ApiResource::erase::<EventExport>(&());
        let exports: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &kind);
        let fixture = Self {
            history: ResourceHistory::watch(exports.clone()),
            secrets: Api::namespaced(client, &namespace),
            operators,
            days: RelativeDays::now(),
            s3,
            exports,
        };
        fixture.shared_secrets(gateway).await?;
        Ok(fixture)
    }

    pub(super) fn namespace(&self) -> &str {
        &self.operators.namespace
    }

    /// Creates the Secrets that cases refer to.
    async fn shared_secrets(&self, gateway: &Gateway) -> Result<()> {
        let access = format!("second-{}", self.namespace());
        let hidden = format!("{:032x}", rand::random::<u128>());
        gateway.add_user(&access, &hidden, "admin").await?;
        let second = json!({ "accessKeyId": access, "secretAccessKey": hidden });
        self.secret("bucket-2", &second).await?;
        self.secret("person", &other_credentials()).await?;
        let authority = std::fs::read_to_string(self.operators.cluster.ca_path())?;
        let authorities = json!({ "ca.crt": authority, "other.pem": authority });
        self.secret("ca", &authorities).await?;
        let config_map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": self.namespace(), "name": "ca" },
            "data": authorities,
        });
        let apply = ["apply", "-f", "-"];
        let applied = self
            .operators
            .cluster
            .kubectl(&apply, Some(&config_map.to_string()))
            .await;
        applied.success()?;
        let key = std::process::Command::new("openssl")
            .args(["genpkey", "-algorithm", "ed25519"])
            .output()?;
        let key = String::from_utf8(key.stdout)?;
        self.secret("signing", &json!({ "signingKey": key })).await
    }

    /// Creates a Secret or replaces its contents.
    pub(super) async fn secret(&self, name: &str, data: &Value) -> Result<()> {
        let keys = data.as_object().into_iter().flatten();
        let data: BTreeMap<String, String> = keys
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect();
        let mut secret = Secret {
            string_data: Some(data),
            ..Secret::default()
        };
        secret.metadata.name = Some(name.to_owned());
        match self.secrets.create(&PostParams::default(), &secret).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                // Not a patch: existing keys are removed.
                self.secrets
                    .replace(name, &PostParams::default(), &secret)
                    .await?;
                Ok(())
            }
            made => made.map(drop).map_err(Into::into),
        }
    }

    pub(super) async fn operator(&self, args: &[&str]) -> Result<OperatorProcess> {
        self.operators
            .operator(&[&LONG_LEASE[..], args].concat(), &[])
            .await
    }

    /// Returns the spec of a case with its own service, space and prefix; `change` is merged into it.
    pub(super) fn spec(&self, name: &str, service: &Simulator, change: &Value) -> Value {
        let own = Manifest::new(name, service.url().as_str())
            .set("space", name)
            .uaa()
            .bucket(self.namespace(), name, &self.operators.store.endpoint());
        let mut spec = own.spec();
        super::merge(&mut spec, &base(self.days));
        super::merge(&mut spec, change);
        spec
    }

    pub(super) async fn create(&self, name: &str, spec: &Value) -> Result<Value> {
        let export = json!({
            "apiVersion": "eventexport.io/v1alpha1",
            "kind": "EventExport",
            "metadata": { "name": name },
            "spec": spec,
        });
        let made = self
            .exports
            .create(&PostParams::default(), &serde_json::from_value(export)?)
            .await;
        Ok(serde_json::to_value(made?)?)
    }

    /// Patches a resource; returns the API server's message if it is refused.
    pub(super) async fn patch(&self, name: &str, patch: &Value) -> Result<Result<Value, String>> {
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match self.exports.patch(name, &params, &Patch::Merge(patch)).await {
            Ok(object) => Ok(Ok(serde_json::to_value(object)?)),
            Err(kube::Error::Api(status)) if status.code == 422 => Ok(Err(status.message.clone())),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn patch_status(&self, name: &str, patch: &Value) -> Result<()> {
        let params = PatchParams::default();
        self.exports
            .patch_status(name, &params, &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    pub(super) async fn delete(&self, name: &str, params: &DeleteParams) -> Result<()> {
        match self.exports.delete(name, params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            deleted => deleted.map(drop).map_err(Into::into),
        }
    }

    /// Returns the keys below that prefix with their number of versions.
    pub(super) async fn keys(&self, bucket: &str, prefix: &str) -> Result<BTreeMap<String, usize>> {
        let page = self
            .s3
            .list_objects_v2()
            .bucket(bucket)
            .prefix(prefix)
            .send()
            .await?;
        let mut keys: BTreeMap<String, usize> = page
            .contents
            .unwrap_or_default()
            .into_iter()
            .filter_map(|object| Some((object.key?, 0)))
            .collect();
        let page = self
            .s3
            .list_object_versions()
            .bucket(bucket)
            .prefix(prefix)
            .send()
            .await?;
        for version in page.versions.unwrap_or_default() {
            if let Some(count) = version.key.and_then(|key| keys.get_mut(&key)) {
                *count += 1;
            }
        }
        Ok(keys)
    }

    pub(super) async fn object(&self, bucket: &str, key: &str) -> Result<Vec<u8>> {
        let object = self.s3.get_object().bucket(bucket).key(key).send().await;
        Ok(object
            .with_context(|| key.to_owned())?
            .body
            .collect()
            .await?
            .to_vec())
    }
}

/// Credentials of another user.
pub(super) fn other_credentials() -> Value {
    json!({ "username": DEFAULT_PERSON, "password": DEFAULT_PASSWORD })
}

/// All versions of all resources of a namespace, from its start.
pub(super) struct ResourceHistory {
    state: Arc<Mutex<HistoryState>>,
    _watching: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct HistoryState {
    versions: BTreeMap<String, Vec<Value>>,
    live: BTreeMap<String, Value>,
}

impl ResourceHistory {
    fn watch(api: Api<DynamicObject>) -> Self {
        let state = Arc::<Mutex<HistoryState>>::default();
        let written = state.clone();
        let watching = tokio::spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).boxed();
            while let Some(event) = events.next().await {
                let mut state = written.lock().unwrap();
                match event {
                    Ok(Event::Apply(mut object) | Event::InitApply(mut object)) => {
                        object.metadata.managed_fields = None;
                        let name = object.metadata.name.clone().unwrap_or_default();
                        let object = serde_json::to_value(object).unwrap();
                        state
                            .versions
                            .entry(name.clone())
                            .or_default()
                            .push(object.clone());
                        state.live.insert(name, object);
                    }
                    Ok(Event::Delete(object)) => {
                        state.live.remove(&object.metadata.name.unwrap_or_default());
                    }
                    Ok(Event::Init | Event::InitDone) => {}
                    Err(error) => eprintln!("the test's own watch: {error}"),
                }
            }
        });
        Self {
            state,
            _watching: AbortOnDropHandle::new(watching),
        }
    }

    /// Returns the current version; `None` if it does not exist.
    pub(super) fn live(&self, name: &str) -> Option<Value> {
        self.state.lock().unwrap().live.get(name).cloned()
    }

    pub(super) fn versions(&self, name: &str) -> Vec<Value> {
        self.state
            .lock()
            .unwrap()
            .versions
            .get(name)
            .cloned()
            .unwrap_or_default()
    }

    /// Returns the resource versions of all existing resources.
    pub(super) fn resource_versions(&self) -> BTreeMap<String, String> {
        let state = self.state.lock().unwrap();
        let mark = |object: &Value| {
            object["metadata"]["resourceVersion"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        state
            .live
            .iter()
            .map(|(name, object)| (name.clone(), mark(object)))
            .collect()
    }

    /// Waits until the current version satisfies the condition.
    pub(super) async fn wait_until(
        &self,
        name: &str,
        what: &str,
        mut holds: impl FnMut(Option<&Value>) -> bool,
    ) -> Result<Option<Value>> {
        let start = Instant::now();
        loop {
            let live = self.live(name);
            if holds(live.as_ref()) {
                return Ok(live);
            }
            if start.elapsed() > TIMEOUT {
                let (metadata, status) = live.map_or((Value::Null, Value::Null), |live| {
                    (live["metadata"].clone(), live["status"].clone())
                });
                bail!("{name}: not within {TIMEOUT:?}: {what}; last seen: {metadata:#} {status:#}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
