//! `spec.source`: the Activity Tracker, and references to Secrets. Doc comments become the schema's descriptions. No
//! I/O.

// KubeSchema copies each struct, with its `pub`, into a function.
#![allow(unreachable_pub)]

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::address::Region;
use super::rules::{self, limit};

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

fn default_ca_key() -> String {
    "ca.crt".to_owned()
}
