//! `spec.source`: the Activity Tracker, and references to Secrets. Doc comments become the schema's descriptions. No
//! I/O.

// KubeSchema copies each struct, with its `pub`, into a function.
#![allow(unreachable_pub)]

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::address::Region;
use super::rules::{self, limit};
use super::setting::Setting;

/// Activity Tracker to read from: a public region, or an endpoint.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Public region of the service: ng (also called us-south), eu-de, au-syd or eu-gb. Exactly one of `region` and
    /// `endpoint` must be set. Immutable. Example: us-south
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,

    /// URL of a service outside the public regions: https, or http for this machine only (127.0.0.1, `[::1]`,
    /// localhost). The operator must allow its host. Exactly one of `region` and `endpoint` must be set. Immutable.
    /// Example: `https://activity-tracker.example.com`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::URL_CHARS))]
    #[x_kube(validation = rules::URL)]
    pub endpoint: Option<String>,

    /// URL of the UAA that issues tokens. Required only if `/v2/info` of the service does not name the UAA, or to
    /// override it. The rules of `endpoint` apply. Example: `https://uaa.example.com`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::URL_CHARS))]
    #[x_kube(validation = rules::URL)]
    pub uaa_endpoint: Option<String>,

    /// Secret in this namespace with the credentials: `apiKey`, or `username` and `password`, or `refreshToken`, or
    /// `token`. The user needs the developer role in the space.
    pub credentials_secret_ref: SecretRef,

    /// Secret in this namespace with the certificate authority of the endpoint, if it is not a public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,

    /// ConfigMap in this namespace with the certificate authority of the endpoint, instead of `caSecretRef`: for example
    /// a bundle of trust-manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_ref: Option<CaConfigMapRef>,

    /// Number of days that the service keeps events, by the plan of the space, 1 to 3650. The metric of the time that is left
    /// before a day is deleted uses it; a run does not. Defaults to `--source-retention-days` of the operator, and without
    /// that, to the days that the service lists. Example: 30
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = limit::SOURCE_RETENTION_DAYS.0, max = limit::SOURCE_RETENTION_DAYS.1))]
    pub retention_days: Option<u16>,
}

/// Reference to a Secret in the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret in the namespace of this resource. Example: tracker
    #[schemars(length(min = 1, max = limit::SECRET_NAME_CHARS))]
    #[x_kube(validation = rules::SECRET_NAME)]
    pub name: String,
}

/// Reference to a Secret in the same namespace, and to its key with the certificates.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CaSecretRef {
    /// Name of the Secret in the namespace of this resource. Example: tracker-ca
    #[schemars(length(min = 1, max = limit::SECRET_NAME_CHARS))]
    #[x_kube(validation = rules::SECRET_NAME)]
    pub name: String,

    /// Key of the Secret that holds one or more PEM certificates. Defaults to ca.crt.
    #[serde(default = "default_ca_key")]
    #[schemars(length(min = 1, max = limit::SECRET_KEY_CHARS))]
    #[x_kube(validation = rules::SECRET_KEY)]
    pub key: String,
}

/// Reference to a ConfigMap in the same namespace, and to its key with the certificates.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CaConfigMapRef {
    /// Name of the ConfigMap in the namespace of this resource. Example: trust-bundle
    #[schemars(length(min = 1, max = limit::SECRET_NAME_CHARS))]
    #[x_kube(validation = rules::CONFIG_MAP_NAME)]
    pub name: String,

    /// Key of the ConfigMap that holds one or more PEM certificates, at most 1 MiB. Defaults to ca.crt.
    #[serde(default = "default_ca_key")]
    #[schemars(length(min = 1, max = limit::SECRET_KEY_CHARS))]
    #[x_kube(validation = rules::CONFIG_MAP_KEY)]
    pub key: String,
}

/// Kind of an object that an export reads in its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReferencedKind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

impl ReferencedKind {
    /// Returns the name of the kind.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }

    /// Returns the object of this kind with that name.
    pub fn named(self, name: &str) -> ReferencedObject {
        ReferencedObject {
            kind: self,
            name: name.into(),
        }
    }
}

/// Secret or ConfigMap among those of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReferencedObject {
    /// Kind of the object.
    pub kind: ReferencedKind,
    /// Name of the object.
    pub name: Box<str>,
}

/// Reference to a certificate authority, in an object of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaReference<'a> {
    /// Kind of the object.
    pub kind: ReferencedKind,
    /// Name of the object.
    pub name: &'a str,
    /// Key of the object with the certificates.
    pub key: &'a str,
    /// Setting that names the object.
    pub setting: Setting,
}

impl Source {
    /// Returns the reference to the certificate authority of the service.
    pub fn ca(&self) -> Option<CaReference<'_>> {
        let settings = [Setting::SourceCa, Setting::SourceCaConfigMap];
        ca_reference(
            self.ca_secret_ref.as_ref(),
            self.ca_config_map_ref.as_ref(),
            settings,
        )
    }
}

/// Returns the only reference; the rules allow no two. `settings`: of the Secret, and of the ConfigMap.
pub(super) fn ca_reference<'a>(
    secret: Option<&'a CaSecretRef>,
    config_map: Option<&'a CaConfigMapRef>,
    settings: [Setting; 2],
) -> Option<CaReference<'a>> {
    let secret = secret.map(|CaSecretRef { name, key }| (ReferencedKind::Secret, name, key));
    let config_map = config_map.map(|CaConfigMapRef { name, key }| (ReferencedKind::ConfigMap, name, key));
    let (kind, name, key) = secret.or(config_map)?;
    let [of_secret, of_config_map] = settings;
    let setting = match kind {
        ReferencedKind::Secret => of_secret,
        ReferencedKind::ConfigMap => of_config_map,
    };
    Some(CaReference {
        kind,
        name,
        key,
        setting,
    })
}

fn default_ca_key() -> String {
    "ca.crt".to_owned()
}
