//! Reads the Secrets and ConfigMaps of one export when it starts, from its own namespace only. Never keeps their contents.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client};

use crate::api::{CaReference, EventExportSpec, Reason, ReferencedKind, ReferencedObject, Remedy, Setting};
use crate::export::connect::Secrets;
use crate::export::failure::Failure;

/// Reference of a spec to a Secret or ConfigMap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SecretReference<'a> {
    /// Setting that names the object.
    pub(super) setting: Setting,
    /// Kind of the object.
    pub(super) kind: ReferencedKind,
    /// Name of the object.
    pub(super) name: &'a str,
    /// True if the export cannot start without the object. Without the signing key, events are stored all the same.
    pub(super) required: bool,
}

impl SecretReference<'_> {
    /// Returns the object, as in [`Secrets`].
    pub(super) fn object(&self) -> ReferencedObject {
        self.kind.named(self.name)
    }
}

/// Returns the references of a spec to Secrets and ConfigMaps, in the order of its fields. An object may occur twice.
pub(super) fn references(spec: &EventExportSpec) -> Vec<SecretReference<'_>> {
    let (source, s3) = (&spec.source, &spec.destination.s3);
    let secret = |setting, name, required| SecretReference {
        setting,
        kind: ReferencedKind::Secret,
        name,
        required,
    };
    let ca = |CaReference {
                  kind,
                  name,
                  setting,
                  key: _,
              }| SecretReference {
        setting,
        kind,
        name,
        required: true,
    };
    let bucket = s3.credentials_secret_ref.as_ref();
    let signing = spec.manifest.as_ref();
    let signing = signing.and_then(|manifest| manifest.signing_key_secret_ref.as_ref());
    [
        Some(secret(
            Setting::SourceCredentials,
            &*source.credentials_secret_ref.name,
            true,
        )),
        source.ca().map(ca),
        bucket.map(|bucket| secret(Setting::BucketCredentials, &bucket.name, true)),
        s3.ca().map(ca),
        signing.map(|signing| secret(Setting::SigningKey, &signing.name, false)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Secrets and ConfigMaps that were read.
#[derive(Default)]
pub(super) struct FetchedSecrets {
    /// Contents.
    pub(super) secrets: Secrets,
    /// Version of each referenced object. `None`: it does not exist.
    pub(super) versions: BTreeMap<ReferencedObject, Option<String>>,
    /// Digest of the contents, valid within this process.
    pub(super) digest: u64,
    /// Failure if a required object could not be read.
    pub(super) missing: Option<Failure>,
}

impl fmt::Debug for FetchedSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchedSecrets")
            .field("versions", &self.versions)
            .finish_non_exhaustive()
    }
}

/// Reads the objects. One that does not exist or is forbidden goes to `missing`; other errors are returned.
pub(super) async fn fetch(
    client: &Client,
    namespace: &str,
    named: &[SecretReference<'_>],
) -> kube::Result<FetchedSecrets> {
    let mut fetched = FetchedSecrets::default();
    for reference in named {
        let object = reference.object();
        if fetched.versions.contains_key(&object) {
            continue;
        }
        let (found, forbidden) = match read(client, namespace, reference).await {
            Ok(found) => (found, false),
            Err(kube::Error::Api(status)) if status.code == 403 => (None, true),
            Err(error) => return Err(error),
        };
        let version = found.as_ref().map(|(version, _)| version.clone());
        fetched.versions.insert(object.clone(), version);
        match found {
            Some((_, keys)) => {
                fetched.secrets.0.insert(object, keys);
            }
            None if !reference.required => {}
            None => {
                fetched
                    .missing
                    .get_or_insert_with(|| missing(namespace, reference, forbidden));
            }
        }
    }
    fetched.digest = digest(&fetched.secrets);
    Ok(fetched)
}

/// Returns the version and the contents of an object; `None`: it does not exist.
async fn read(
    client: &Client,
    namespace: &str,
    reference: &SecretReference<'_>,
) -> kube::Result<Option<(String, BTreeMap<String, Vec<u8>>)>> {
    let version = |metadata: ObjectMeta| metadata.resource_version.unwrap_or_default();
    let bytes = |data: Option<BTreeMap<String, ByteString>>| {
        let data = data.unwrap_or_default().into_iter();
        data.map(|(key, value)| (key, value.0))
    };
    Ok(match reference.kind {
        ReferencedKind::Secret => {
            let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
            let secret = api.get_opt(reference.name).await?;
            secret.map(|secret| (version(secret.metadata), bytes(secret.data).collect()))
        }
        ReferencedKind::ConfigMap => {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
            let config_map = api.get_opt(reference.name).await?;
            config_map.map(|config_map| {
                let texts = config_map.data.unwrap_or_default().into_iter();
                let texts = texts.map(|(key, value)| (key, value.into_bytes()));
                let keys = texts.chain(bytes(config_map.binary_data)).collect();
                (version(config_map.metadata), keys)
            })
        }
    })
}

fn missing(namespace: &str, reference: &SecretReference<'_>, forbidden: bool) -> Failure {
    let SecretReference {
        setting, kind, name, ..
    } = *reference;
    let object = kind.as_str();
    let (message, action) = match (forbidden, kind) {
        (true, ReferencedKind::Secret) => (
            format!("the operator lacks permission to read Secret {name} in namespace {namespace}"),
            "bind its role there, so that it may read the Secret of {}",
        ),
        (true, ReferencedKind::ConfigMap) => (
            format!("the operator lacks permission to read ConfigMap {name} in namespace {namespace}"),
            "bind its role there, so that it may read the ConfigMap of {}",
        ),
        (false, ReferencedKind::Secret) => (
            format!("{object} {name} does not exist in namespace {namespace}"),
            "create the Secret of {}",
        ),
        (false, ReferencedKind::ConfigMap) => (
            format!("{object} {name} does not exist in namespace {namespace}"),
            "create the ConfigMap of {}",
        ),
    };
    let failure = Failure::wait(Reason::CredentialsMissing, message, None);
    failure.with_remedy(Remedy::new(setting, action)).export_wide()
}

fn digest(secrets: &Secrets) -> u64 {
    let mut hasher = DefaultHasher::new();
    secrets.0.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_the_spec_field() {
        let spec: EventExportSpec = serde_json::from_value(serde_json::json!({
            "space": "s", "dateRange": {"start": "2018-06-01"},
            "source": {"region": "ng", "credentialsSecretRef": {"name": "tracker"}, "caSecretRef": {"name": "ca"}},
            "destination": {"s3": {"bucket": "audit", "caConfigMapRef": {"name": "ca"}}},
            "manifest": {"signingKeySecretRef": {"name": "signing"}},
        }))
        .unwrap();
        let found: Vec<_> = references(&spec)
            .into_iter()
            .map(|found| (found.setting.field(), found.object(), found.required))
            .collect();
        assert_eq!(
            found,
            [
                (
                    "spec.source.credentialsSecretRef",
                    ReferencedKind::Secret.named("tracker"),
                    true
                ),
                (
                    "spec.source.caSecretRef",
                    ReferencedKind::Secret.named("ca"),
                    true
                ),
                (
                    "spec.destination.s3.caConfigMapRef",
                    ReferencedKind::ConfigMap.named("ca"),
                    true
                ),
                (
                    "spec.manifest.signingKeySecretRef",
                    ReferencedKind::Secret.named("signing"),
                    false
                ),
            ]
        );
    }

    #[test]
    fn secret_contents_are_never_printed() {
        let reference = SecretReference {
            setting: Setting::SourceCredentials,
            kind: ReferencedKind::Secret,
            name: "tracker",
            required: true,
        };
        let failure = missing("audit", &reference, false);
        assert_eq!(failure.reason, Reason::CredentialsMissing);
        assert!(failure.message.contains("Secret tracker") && failure.message.contains("namespace audit"));
        let mut fetched = FetchedSecrets::default();
        fetched.secrets.0.insert(
            reference.object(),
            BTreeMap::from([("apiKey".to_owned(), b"hush".to_vec())]),
        );
        assert!(!format!("{fetched:?}").contains("hush"));
    }
}
