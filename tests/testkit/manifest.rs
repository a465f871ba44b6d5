//! Manifests: an `EventExport` and its Secrets, for the API server and for `eventexport run -f` alike. No I/O except
//! [`Manifest::apply`] and [`Manifest::write`].

use std::path::{Path, PathBuf};

use anyhow::Result;
use eventexport::simulator::DEFAULT_API_KEY;
use serde_json::{Value, json};

use crate::bed::{Cluster, Gateway};

/// Space of the exports.
pub(crate) const SPACE: &str = "c1234567-6d55-4193-a9de-378620d6fab5";

/// Keys of the tracker in a Secret.
pub(crate) fn tracker_keys() -> Value {
    json!({ "apiKey": DEFAULT_API_KEY })
}

/// Keys of a gateway's root account in a Secret.
pub(crate) fn bucket_keys(gateway: &Gateway) -> Value {
    json!({ "accessKeyId": gateway.access_key(), "secretAccessKey": gateway.secret_key() })
}

/// Returns a Secret.
pub(crate) fn secret(namespace: &str, name: &str, data: &Value) -> Value {
    let metadata = json!({ "namespace": namespace, "name": name });
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data })
}

/// An export and its Secrets. Without further calls: days of June 2018 of [`SPACE`] from a service with the Secret
/// `tracker` into the bucket `audit` with the Secret `bucket`.
#[derive(Clone)]
pub(crate) struct Manifest {
    export: Value,
    secrets: Vec<(String, Value)>,
}

impl Manifest {
    /// Returns an export of that name from the service at that address.
    pub(crate) fn new(name: &str, service: &str) -> Self {
        let manifest = Self {
            export: json!({
                "apiVersion": "eventexport.io/v1alpha1", "kind": "EventExport", "metadata": { "name": name },
            }),
            secrets: Vec::new(),
        };
        manifest
            .set("space", SPACE)
            .days("2018-06-01", "2018-06-30")
            .set("source.endpoint", service.trim_end_matches('/'))
            .set("source.credentialsSecretRef.name", "tracker")
            .set("destination.s3.bucket", "audit")
            .set("destination.s3.credentialsSecretRef.name", "bucket")
    }

    /// Returns an export of the space `c1` for a command that gets its keys and its destination otherwise.
    pub(crate) fn local(name: &str, service: &str) -> Self {
        Self::new(name, service)
            .set("space", "c1")
            .set("destination.s3.credentialsSecretRef", Value::Null)
    }

    /// Returns an export of the space `c1` in a region, for `run --simulate`.
    pub(crate) fn simulated(name: &str) -> Self {
        Self::local(name, "")
            .set("source.endpoint", Value::Null)
            .set("source.region", "us-south")
    }

    pub(crate) fn name(mut self, name: &str) -> Self {
        self.export["metadata"]["name"] = name.into();
        self
    }

    pub(crate) fn namespace(mut self, namespace: &str) -> Self {
        self.export["metadata"]["namespace"] = namespace.into();
        self
    }

    /// Sets the first and the last day; a continuous export has no last one.
    pub(crate) fn days(self, start: &str, end: &str) -> Self {
        let range = self.set("dateRange", json!({ "start": start }));
        if end.is_empty() {
            range
        } else {
            range.set("dateRange.end", end)
        }
    }

    /// Names the service also as UAA, so that nothing is discovered.
    pub(crate) fn uaa(self) -> Self {
        let service = self.export["spec"]["source"]["endpoint"].clone();
        self.set("source.uaaEndpoint", service)
    }

    /// Exports into this bucket of the store at that address.
    pub(crate) fn bucket(self, bucket: &str, prefix: &str, store: &str) -> Self {
        let s3 = self
            .set("destination.s3.bucket", bucket)
            .set("destination.s3.endpoint", store);
        if prefix.is_empty() {
            s3
        } else {
            s3.set("destination.s3.prefix", prefix)
        }
    }

    /// Sets a field of the spec, such as `source.endpoint`; null removes it.
    pub(crate) fn set(mut self, field: &str, value: impl Into<Value>) -> Self {
        let (parents, last) = field.rsplit_once('.').unwrap_or(("", field));
        let mut object = &mut self.export["spec"];
        for name in parents.split('.').filter(|name| !name.is_empty()) {
            object = &mut object[name];
        }
        match value.into() {
            Value::Null => drop(object.as_object_mut().and_then(|fields| fields.remove(last))),
            value => object[last] = value,
        }
        self
    }

    /// Replaces whole fields of the spec.
    pub(crate) fn merge(mut self, spec: &Value) -> Self {
        for (field, value) in spec.as_object().into_iter().flatten() {
            self.export["spec"][field] = value.clone();
        }
        self
    }

    /// Adds a Secret of the export's namespace.
    pub(crate) fn secret(mut self, name: &str, data: Value) -> Self {
        self.secrets.push((name.to_owned(), data));
        self
    }

    /// Adds the Secrets of the simulator and of the gateway's root account.
    pub(crate) fn secrets(self, gateway: &Gateway) -> Self {
        self.secret("tracker", tracker_keys())
            .secret("bucket", bucket_keys(gateway))
    }

    pub(crate) fn export(&self) -> Value {
        self.export.clone()
    }

    pub(crate) fn spec(&self) -> Value {
        self.export["spec"].clone()
    }

    /// Returns the Secrets and the export.
    pub(crate) fn documents(&self) -> Vec<Value> {
        let namespace = self.export["metadata"]["namespace"].clone();
        let secrets = self.secrets.iter().map(|(name, data)| {
            let mut secret = secret("", name, data);
            match &namespace {
                Value::Null => secret["metadata"] = json!({ "name": name }),
                namespace => secret["metadata"]["namespace"] = namespace.clone(),
            }
            secret
        });
        secrets.chain([self.export()]).collect()
    }

    /// Creates or changes the Secrets and the export.
    pub(crate) async fn apply(&self, cluster: &Cluster) -> Result<()> {
        let applied = cluster.kubectl(&["apply", "-f", "-"], Some(&self.text())).await;
        applied.success().map(drop)
    }

    /// Returns namespace and name of the export.
    pub(crate) fn key(&self) -> [&str; 2] {
        ["namespace", "name"].map(|field| self.export["metadata"][field].as_str().unwrap_or_default())
    }

    /// Returns one file with all documents. JSON is YAML.
    pub(crate) fn text(&self) -> String {
        let documents: Vec<String> = self.documents().iter().map(Value::to_string).collect();
        documents.join("\n---\n") + "\n"
    }

    /// Writes the file and returns its path.
    pub(crate) fn write(&self, path: impl AsRef<Path>) -> PathBuf {
        std::fs::write(&path, self.text()).unwrap();
        path.as_ref().to_owned()
    }
}
