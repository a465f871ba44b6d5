//! The Secrets of one export: read when it begins, from its own namespace only, and never kept.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use crate::api::{EventExportSpec, Reason};
use crate::export::connect::Secrets;
use crate::export::failure::Failure;

/// A Secret that a spec names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SecretReference<'a> {
    /// The field that names it.
    pub(super) field: &'static str,
    /// Its name.
    pub(super) name: &'a str,
    /// Whether nothing can begin without it. Without the key of manifests, events are stored all the same.
    pub(super) required: bool,
}

/// The Secrets that a spec names, in the order of its fields; one may be named twice.
pub(super) fn references(spec: &EventExportSpec) -> Vec<SecretReference<'_>> {
    let (source, s3) = (&spec.source, &spec.destination.s3);
    let named = [
        (
            "spec.source.credentialsSecretRef",
            Some(&source.credentials_secret_ref.name),
        ),
        (
            "spec.source.caSecretRef",
            source.ca_secret_ref.as_ref().map(|secret| &secret.name),
        ),
        (
            "spec.destination.s3.credentialsSecretRef",
            s3.credentials_secret_ref.as_ref().map(|secret| &secret.name),
        ),
        (
            "spec.destination.s3.caSecretRef",
            s3.ca_secret_ref.as_ref().map(|secret| &secret.name),
        ),
    ];
    let signing = spec
        .manifest
        .as_ref()
        .and_then(|manifest| manifest.signing_key_secret_ref.as_ref());
    let signing = signing.map(|secret| SecretReference {
        field: "spec.manifest.signingKeySecretRef",
        name: &secret.name,
        required: false,
    });
    let required = true;
    let named = named.into_iter().filter_map(|(field, name)| {
        let name = name?;
        Some(SecretReference {
            field,
            name,
            required,
        })
    });
    named.chain(signing).collect()
}

/// What was read.
#[derive(Default)]
pub(super) struct FetchedSecrets {
    /// The contents.
    pub(super) secrets: Secrets,
    /// The version of each Secret that is named; `None`: it is not there.
    pub(super) versions: BTreeMap<String, Option<String>>,
    /// Tells contents apart, within this process.
    pub(super) digest: u64,
    /// What a person has to do before the contents are whole.
    pub(super) missing: Option<Failure>,
}

impl fmt::Debug for FetchedSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchedSecrets")
            .field("versions", &self.versions)
            .finish_non_exhaustive()
    }
}

/// Reads the Secrets. What is not there, or may not be read, is a matter for a person; other errors are the API
/// server's.
pub(super) async fn fetch(
    client: &Client,
    namespace: &str,
    named: &[SecretReference<'_>],
) -> kube::Result<FetchedSecrets> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut fetched = FetchedSecrets::default();
    for SecretReference {
        field,
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
                    .get_or_insert_with(|| missing(namespace, name, field, forbidden));
            }
        }
    }
    fetched.digest = digest(&fetched.secrets);
    Ok(fetched)
}

fn missing(namespace: &str, name: &str, field: &str, forbidden: bool) -> Failure {
    let message = if forbidden {
        format!(
            "the operator may not read Secret {name} in namespace {namespace}, which {field} names: bind its role there"
        )
    } else {
        format!("Secret {name}, which {field} names, does not exist in namespace {namespace}: make it there")
    };
    Failure::wait(Reason::CredentialsMissing, message, None).export_wide()
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
            .map(|found| (found.field, found.name, found.required))
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
        let failure = missing("audit", "tracker", "spec.source.credentialsSecretRef", false);
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
