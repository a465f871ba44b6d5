//! One namespace with its buckets, Secrets and operator, for many resources that each have their own service, and all
//! versions of them that the API server had.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use eventexport::api::EventExport;
use eventexport::simulator::{DEFAULT_PASSWORD, DEFAULT_PERSON, Settings, Simulator};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::cases::base;
use super::phases::RelativeDays;
use crate::operator::apply;
use crate::testkit::bucket::Bucket;
use crate::testkit::environment::Environment;
use crate::testkit::openssl::key_pair;
use crate::testkit::operator::{LONG_LEASE, OperatorCommand};

/// Very generous, because very many resources are active at once, on a machine that also compiles.
pub(super) const TIMEOUT: Duration = Duration::from_mins(10);

/// Field manager of the tests.
const FIELD_MANAGER: &str = "spec-changes";

pub(super) struct ChangeFixture {
    pub(super) env: Environment,
    pub(super) days: RelativeDays,
    pub(super) exports: Api<DynamicObject>,
    pub(super) secrets: Api<Secret>,
    pub(super) history: ResourceHistory,
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
        let env = Environment::builder(name).service(service_settings()).versioned();
        let env = env.start().await?;
        env.bucket
            .create_locked(&format!("{}-lock", env.namespace))
            .await?;
        let client = env.cluster.client().await?;
        let kind = ApiResource::erase::<EventExport>(&());
        let exports: Api<DynamicObject> = Api::namespaced_with(client.clone(), &env.namespace, &kind);
        let fixture = Self {
            history: ResourceHistory::watch(exports.clone()),
            secrets: Api::namespaced(client, &env.namespace),
            env,
            days: RelativeDays::now(),
            exports,
        };
        fixture.shared_secrets().await?;
        Ok(fixture)
    }

    pub(super) fn namespace(&self) -> &str {
        &self.env.namespace
    }

    /// Creates the Secrets that cases refer to.
    async fn shared_secrets(&self) -> Result<()> {
        let access = format!("second-{}", self.namespace());
        let hidden = format!("{:032x}", rand::random::<u128>());
        self.env.gateway.add_user(&access, &hidden, "admin").await?;
        let second = json!({ "accessKeyId": access, "secretAccessKey": hidden });
        self.secret("bucket-2", &second).await?;
        self.secret("person", &other_credentials()).await?;
        let authority = std::fs::read_to_string(self.env.cluster.ca_path())?;
        let authorities = json!({ "ca.crt": authority, "other.pem": authority });
        self.secret("ca", &authorities).await?;
        let config_map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": self.namespace(), "name": "ca" },
            "data": authorities,
        });
        apply(self.env.cluster, &config_map).await?;
        let [key, _] = key_pair(self.env.folder.path(), "signing");
        let key = std::fs::read_to_string(key)?;
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

    pub(super) fn operator(&self) -> OperatorCommand {
        self.env.operator().lease(LONG_LEASE)
    }

    /// Returns the spec of a case with its own service, space and prefix; `change` is merged into it.
    pub(super) fn spec(&self, name: &str, service: &Simulator, change: &Value) -> Value {
        let own = self
            .env
            .proxied_export(name)
            .set("space", name)
            .set("source.endpoint", service.url().as_str().trim_end_matches('/'))
            .uaa()
            .set("destination.s3.prefix", name);
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
        let bucket = self.bucket(bucket);
        let keys = bucket.keys_below(prefix).await?;
        let mut versions = bucket.versions_below(prefix).await?;
        versions.retain(|key, _| keys.contains(key));
        Ok(versions)
    }

    pub(super) fn bucket(&self, name: &str) -> Bucket {
        Bucket::of(self.env.gateway, name)
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
