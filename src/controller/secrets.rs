//! Reads the Secrets of one export when it starts, from its own namespace only. Never keeps their contents.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use crate::api::{EventExportSpec, Reason, Remedy, Setting};
use crate::export::connect::Secrets;
use crate::export::failure::Failure;

/// Reference of a spec to a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SecretReference<'a> {
    /// Setting that names the Secret.
    pub(super) setting: Setting,
    /// Name of the Secret.
    pub(super) name: &'a str,
    /// True if the export cannot start without the Secret. Without the signing key, events are stored all the same.
    pub(super) required: bool,
}

/// Returns the references of a spec to Secrets, in the order of its fields. A Secret may occur twice.
pub(super) fn references(spec: &EventExportSpec) -> Vec<SecretReference<'_>> {
    let (source, s3) = (&spec.source, &spec.destination.s3);
    let named = [
        (
            Setting::SourceCredentials,
            Some(&source.credentials_secret_ref.name),
        ),
        (
            Setting::SourceCa,
            source.ca_secret_ref.as_ref().map(|secret| &secret.name),
        ),
        (
            Setting::BucketCredentials,
            s3.credentials_secret_ref.as_ref().map(|secret| &secret.name),
        ),
        (
            Setting::BucketCa,
            s3.ca_secret_ref.as_ref().map(|secret| &secret.name),
        ),
    ];
    let signing = spec
        .manifest
        .as_ref()
        .and_then(|manifest| manifest.signing_key_secret_ref.as_ref());
    let signing = signing.map(|secret| SecretReference {
        setting: Setting::SigningKey,
        name: &secret.name,
        required: false,
    });
    let required = true;
    let named = named.into_iter().filter_map(|(setting, name)| {
        let name = name?;
        Some(SecretReference {
            setting,
            name,
            required,
        })
    });
    named.chain(signing).collect()
}

/// Secrets that were read.
#[derive(Default)]
pub(super) struct FetchedSecrets {
    /// Contents.
    pub(super) secrets: Secrets,
    /// Version of each referenced Secret. `None`: it does not exist.
    pub(super) versions: BTreeMap<String, Option<String>>,
    /// Digest of the contents, valid within this process.
    pub(super) digest: u64,
    /// Failure if a required Secret could not be read.
    pub(super) missing: Option<Failure>,
}

impl fmt::Debug for FetchedSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchedSecrets")
            .field("versions", &self.versions)
            .finish_non_exhaustive()
    }
}

/// Reads the Secrets. A Secret that does not exist or is forbidden goes to `missing`; other errors are returned.
pub(super) async fn fetch(
    client: &Client,
    namespace: &str,
    named: &[SecretReference<'_>],
) -> kube::Result<FetchedSecrets> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut fetched = FetchedSecrets::default();
    for SecretReference {
        setting,
        name,
        required,
    } in named
    {
        if fetched.versions.contains_key(*name) {
            continue;
        }
        let (secret, forbidden) = match api.get_opt(name).await {
            Ok(secret) => (secret, false),
            Err(kube::Error::Api(status)) if status.code == 403 => (None, true),
            Err(error) => return Err(error),
        };
        let version = secret
            .as_ref()
            .map(|secret| secret.metadata.resource_version.clone().unwrap_or_default());
        fetched.versions.insert((*name).to_owned(), version);
        match secret {
            Some(secret) => {
                let keys = secret
                    .data
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(key, value)| (key, value.0))
                    .collect();
                fetched.secrets.0.insert((*name).to_owned(), keys);
            }
            None if !required => {}
            None => {
                fetched
                    .missing
                    .get_or_insert_with(|| missing(namespace, name, *setting, forbidden));
            }
        }
    }
    fetched.digest = digest(&fetched.secrets);
    Ok(fetched)
}

fn missing(namespace: &str, name: &str, setting: Setting, forbidden: bool) -> Failure {
    let (message, action) = if forbidden {
        (
            format!("the operator lacks permission to read Secret {name} in namespace {namespace}"),
            "bind its role there, so that it may read the Secret of {}",
        )
    } else {
        (
            format!("Secret {name} does not exist in namespace {namespace}"),
            "create the Secret of {}",
        )
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
            "destination": {"s3": {"bucket": "audit", "caSecretRef": {"name": "ca"}}},
            "manifest": {"signingKeySecretRef": {"name": "signing"}},
        }))
        .unwrap();
        let found: Vec<_> = references(&spec)
            .into_iter()
            .map(|found| (found.setting.field(), found.name, found.required))
            .collect();
        assert_eq!(
            found,
            [
                ("spec.source.credentialsSecretRef", "tracker", true),
                ("spec.source.caSecretRef", "ca", true),
                ("spec.destination.s3.caSecretRef", "ca", true),
                ("spec.manifest.signingKeySecretRef", "signing", false),
            ]
        );
    }

    #[test]
    fn secret_contents_are_never_printed() {
        let failure = missing("audit", "tracker", Setting::SourceCredentials, false);
        assert_eq!(failure.reason, Reason::CredentialsMissing);
        assert!(failure.message.contains("Secret tracker") && failure.message.contains("namespace audit"));
        let mut fetched = FetchedSecrets::default();
        fetched.secrets.0.insert(
            "tracker".to_owned(),
            BTreeMap::from([("apiKey".to_owned(), b"hush".to_vec())]),
        );
        assert!(!format!("{fetched:?}").contains("hush"));
    }
}
