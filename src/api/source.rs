//! The part of the spec that says where events come from, and how Secrets are referred to. Doc comments become
//! the schema's descriptions. No I/O.

// KubeSchema copies each struct, with its `pub`, into a function.
#![allow(unreachable_pub)]

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::address::Region;
use super::rules::{self, limit};

/// The Activity Tracker to read from: a public region, or an endpoint.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Public region of the service: ng (also called us-south), eu-de, au-syd or eu-gb. Either this or `endpoint`.
    /// Cannot be changed. Example: us-south
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,

    /// Address of the service where it is not a public region. https, or http to this machine only (127.0.0.1,
    /// `[::1]`, localhost). The operator must allow its host. Either this or `region`. Cannot be changed.
    /// Example: `https://activity-tracker.example.com`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::URL_CHARS))]
    #[x_kube(validation = rules::URL)]
    pub endpoint: Option<String>,

    /// Address of the UAA that issues tokens, where the service's own `/v2/info` does not tell it, or to override
    /// it. The same rules as `endpoint`. Example: `https://uaa.example.com`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::URL_CHARS))]
    #[x_kube(validation = rules::URL)]
    pub uaa_endpoint: Option<String>,

    /// Secret of this namespace with the credentials: `apiKey`, or `username` and `password`, or `refreshToken`, or
    /// `token`. The user needs the developer role in the space.
    pub credentials_secret_ref: SecretRef,

    /// Secret of this namespace with the certificate authority of the endpoint, where it is not a public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
}

/// A Secret of the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret, in the namespace of this resource. Example: tracker
    #[schemars(length(min = 1, max = limit::SECRET_NAME_CHARS))]
    #[x_kube(validation = rules::SECRET_NAME)]
    pub name: String,
}

/// A Secret of the same namespace, and the key in it that holds certificates.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CaSecretRef {
    /// Name of the Secret, in the namespace of this resource. Example: tracker-ca
    #[schemars(length(min = 1, max = limit::SECRET_NAME_CHARS))]
    #[x_kube(validation = rules::SECRET_NAME)]
    pub name: String,

    /// Key in the Secret whose value is one or more PEM certificates. Default: ca.crt
    #[serde(default = "default_ca_key")]
    #[schemars(length(min = 1, max = limit::SECRET_KEY_CHARS))]
    #[x_kube(validation = rules::SECRET_KEY)]
    pub key: String,
}

fn default_ca_key() -> String {
    "ca.crt".to_owned()
}
