//! Secrets of an export without a cluster: from the manifest or the environment, never from arguments. Pure, but
//! for [`env_value`], which reads variables and the files that they name.

use std::collections::BTreeMap;

use super::manifest::{ExportResource, ResourceManifest, SecretData};
use super::secret_file;
use crate::api::{Setting, SettingNames};
use crate::export::connect::Secrets;
use crate::export::manifest::sign::SIGNING_KEY;

/// Reads a variable.
pub type EnvLookup<'a> = &'a dyn Fn(&str) -> Result<Option<Vec<u8>>, String>;

/// Keys of a Secret with their values.
type SecretKeys = BTreeMap<String, Vec<u8>>;

/// A key of a Secret, the end of the variable that stands for it, and the variable that holds it for all
/// Secrets of this purpose.
type KeyNames = (&'static str, &'static str, &'static str);

/// Keys of `spec.source.credentialsSecretRef`.
const SOURCE_KEYS: &[KeyNames] = &[
    ("apiKey", "API_KEY", "EVENTEXPORT_API_KEY"),
    ("username", "USERNAME", "EVENTEXPORT_USERNAME"),
    ("password", "PASSWORD", "EVENTEXPORT_PASSWORD"),
    ("refreshToken", "REFRESH_TOKEN", "EVENTEXPORT_REFRESH_TOKEN"),
    ("token", "TOKEN", "EVENTEXPORT_TOKEN"),
];

/// Keys of `spec.destination.s3.credentialsSecretRef`.
const BUCKET_KEYS: &[KeyNames] = &[
    ("accessKeyId", "ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"),
    ("secretAccessKey", "SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"),
    ("sessionToken", "SESSION_TOKEN", "AWS_SESSION_TOKEN"),
];

/// Keys of `spec.manifest.signingKeySecretRef`.
const SIGNING_KEYS: &[KeyNames] = &[(SIGNING_KEY, "SIGNING_KEY", "EVENTEXPORT_SIGNING_KEY")];

/// Use of a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretPurpose {
    /// `spec.source`.
    Source,
    /// `spec.destination.s3`.
    Bucket,
    /// `spec.manifest`.
    Signing,
}

/// Secrets of a resource, and where their values came from.
#[derive(Default)]
pub struct ResolvedSecrets {
    /// The Secrets by name.
    pub secrets: Secrets,
    /// Settings whose values came from the environment, by variable.
    pub setting_names: SettingNames,
}

/// A Secret that the spec names.
struct RequiredSecret<'a> {
    purpose: SecretPurpose,
    setting: Setting,
    name: &'a str,
    keys: Vec<(String, String, Option<&'static str>)>,
}

/// Reads a variable, or the file that `<variable>_FILE` names. An empty variable counts as unset.
pub fn env_value(variable: &str) -> Result<Option<Vec<u8>>, String> {
    use std::os::unix::ffi::OsStringExt as _;
    if let Some(value) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
        return Ok(Some(value.into_vec()));
    }
    let by_file = format!("{variable}_FILE");
    let Some(path) = std::env::var_os(&by_file).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let bytes = secret_file::read(path.as_ref()).map_err(|problem| format!("{by_file}: {problem}"))?;
    Ok(Some(bytes))
}

/// Resolves the Secrets that a resource names for these purposes. Each error names a missing Secret and the places
/// that may hold it.
pub fn resolve(
    resource: &ExportResource,
    manifest: &ResourceManifest,
    purposes: &[SecretPurpose],
    lookup: EnvLookup<'_>,
) -> Result<ResolvedSecrets, Vec<String>> {
    let mut resolved = ResolvedSecrets::default();
    let mut errors = Vec::new();
    for required in required_secrets(resource)
        .iter()
        .filter(|required| purposes.contains(&required.purpose))
    {
        match find_secret(required, resource, manifest, lookup) {
            Ok((data, variables)) => {
                let secret = resolved.secrets.0.entry(required.name.to_owned());
                secret.or_default().extend(data);
                if let Some(variables) = variables {
                    resolved.setting_names = resolved.setting_names.with(required.setting, variables);
                }
            }
            Err(error) => errors.push(format!("{}: {error}", required.setting.field())),
        }
    }
    if errors.is_empty() {
        Ok(resolved)
    } else {
        Err(errors)
    }
}

fn required_secrets(resource: &ExportResource) -> Vec<RequiredSecret<'_>> {
    let source = &resource.spec.source;
    let s3 = &resource.spec.destination.s3;
    let tracker = &source.credentials_secret_ref;
    let mut all = vec![RequiredSecret::new(
        SecretPurpose::Source,
        Setting::SourceCredentials,
        &tracker.name,
        SOURCE_KEYS,
    )];
    if let Some(bucket) = &s3.credentials_secret_ref {
        let setting = Setting::BucketCredentials;
        all.push(RequiredSecret::new(
            SecretPurpose::Bucket,
            setting,
            &bucket.name,
            BUCKET_KEYS,
        ));
    }
    let signing = resource.spec.manifest.as_ref();
    if let Some(signing) = signing.and_then(|manifest| manifest.signing_key_secret_ref.as_ref()) {
        let setting = Setting::SigningKey;
        all.push(RequiredSecret::new(
            SecretPurpose::Signing,
            setting,
            &signing.name,
            SIGNING_KEYS,
        ));
    }
    let authorities = [
        (SecretPurpose::Source, Setting::SourceCa, &source.ca_secret_ref),
        (SecretPurpose::Bucket, Setting::BucketCa, &s3.ca_secret_ref),
    ];
    for (purpose, setting, reference) in authorities {
        if let Some(ca) = reference {
            let keys = vec![(ca.key.clone(), env_segment(&ca.key), None)];
            all.push(RequiredSecret {
                purpose,
                setting,
                name: &ca.name,
                keys,
            });
        }
    }
    all
}

impl<'a> RequiredSecret<'a> {
    fn new(purpose: SecretPurpose, setting: Setting, name: &'a str, keys: &[KeyNames]) -> Self {
        let owned = |&(key, part, general): &KeyNames| (key.to_owned(), part.to_owned(), Some(general));
        Self {
            purpose,
            setting,
            name,
            keys: keys.iter().map(owned).collect(),
        }
    }

    /// `EVENTEXPORT_SECRET_<NAME>_<KEY>`.
    fn variable(&self, part: &str) -> String {
        format!("EVENTEXPORT_SECRET_{}_{part}", env_segment(self.name))
    }
}

/// Finds a Secret, and the variables that hold it. All keys come from one place, so that the keys of two users never
/// mix.
fn find_secret(
    required: &RequiredSecret<'_>,
    resource: &ExportResource,
    manifest: &ResourceManifest,
    lookup: EnvLookup<'_>,
) -> Result<(SecretKeys, Option<String>), String> {
    let name = (resource.namespace.clone(), required.name.to_owned());
    if let Some(SecretData(data)) = manifest.secrets.get(&name) {
        return Ok((data.clone(), None));
    }
    let own = required
        .keys
        .iter()
        .map(|(key, part, _)| (key, Some(required.variable(part))));
    let shared = required
        .keys
        .iter()
        .map(|(key, _, shared)| (key, shared.map(str::to_owned)));
    for (data, variables) in [collect_keys(own, lookup)?, collect_keys(shared, lookup)?] {
        if !data.is_empty() {
            return Ok((data, Some(variables.join(", "))));
        }
    }
    Err(missing_secret(required, resource, manifest))
}

fn collect_keys<'k>(
    variables: impl Iterator<Item = (&'k String, Option<String>)>,
    lookup: EnvLookup<'_>,
) -> Result<(SecretKeys, Vec<String>), String> {
    let (mut found, mut names) = (SecretKeys::new(), Vec::new());
    for (key, variable) in variables {
        let Some(variable) = variable else { continue };
        if let Some(value) = lookup(&variable)? {
            found.insert(key.clone(), value);
            names.push(variable);
        }
    }
    Ok((found, names))
}

fn missing_secret(
    required: &RequiredSecret<'_>,
    resource: &ExportResource,
    manifest: &ResourceManifest,
) -> String {
    let place = match &resource.namespace {
        Some(namespace) => format!("in namespace {namespace} of the manifest"),
        None => "in the manifest (without a namespace, as the EventExport)".to_owned(),
    };
    let elsewhere = manifest.secrets.keys().any(|(_, name)| name == required.name);
    let elsewhere = if elsewhere {
        " (one of that name is in another namespace)"
    } else {
        ""
    };
    let first = required.keys.first();
    let general = first
        .and_then(|(_, _, general)| *general)
        .map(|variable| format!("{variable} or "))
        .unwrap_or_default();
    let own = first
        .map(|(_, part, _)| required.variable(part))
        .unwrap_or_default();
    format!(
        "no Secret {} {place}{elsewhere}: add it as a further document, or set {general}{own} in the environment \
         (docs/cli.md lists the variables)",
        required.name
    )
}

/// Converts a name to upper case, with `_` for characters that a variable may not hold.
fn env_segment(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{documents, manifest};
    use super::*;

    const MANIFEST: &str = "
apiVersion: eventexport.io/v1alpha1
kind: EventExport
metadata: {name: a, namespace: audit}
spec:
  space: s
  dateRange: {start: 2018-06-01, end: 2018-06-30}
  source: {region: us-south, credentialsSecretRef: {name: tracker.ng}}
  destination: {s3: {bucket: audit, credentialsSecretRef: {name: bucket}}}
  manifest: {signingKeySecretRef: {name: signing}}
";

    fn resolve_text(text: &str, variables: &[(&str, &str)]) -> Result<ResolvedSecrets, Vec<String>> {
        let manifest = manifest::from_documents(documents::parse(text).unwrap()).unwrap();
        let lookup = |name: &str| {
            let value = variables.iter().find(|(variable, _)| *variable == name);
            Ok(value.map(|(_, value)| value.as_bytes().to_vec()))
        };
        resolve(
            &manifest.exports[0],
            &manifest,
            &[
                SecretPurpose::Source,
                SecretPurpose::Bucket,
                SecretPurpose::Signing,
            ],
            &lookup,
        )
    }

    #[test]
    fn the_manifest_wins_over_specific_variables_over_shared_ones() {
        let common = [
            ("EVENTEXPORT_API_KEY", "common"),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "key"),
            ("EVENTEXPORT_SIGNING_KEY", "pem"),
        ];
        let secrets = resolve_text(MANIFEST, &common).ok().unwrap().secrets.0;
        assert_eq!(secrets["tracker.ng"]["apiKey"], b"common");
        let names = resolve_text(MANIFEST, &common).ok().unwrap().setting_names;
        assert_eq!(names.name(Setting::SourceCredentials), "EVENTEXPORT_API_KEY");
        assert_eq!(
            names.name(Setting::BucketCredentials),
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
        );
        assert_eq!(secrets["bucket"].len(), 2);
        assert_eq!(secrets["signing"]["signingKey"], b"pem");

        let own = [
            common.as_slice(),
            &[("EVENTEXPORT_SECRET_TRACKER_NG_TOKEN", "own")],
        ]
        .concat();
        let secrets = resolve_text(MANIFEST, &own).ok().unwrap().secrets.0;
        assert_eq!(
            secrets["tracker.ng"],
            BTreeMap::from([("token".to_owned(), b"own".to_vec())])
        );

        let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: tracker.ng, namespace: audit}\n\
                      stringData: {apiKey: written}\n";
        let resolved = resolve_text(&format!("{MANIFEST}{secret}"), &own).ok().unwrap();
        assert_eq!(
            resolved.setting_names.name(Setting::SourceCredentials),
            "spec.source.credentialsSecretRef"
        );
        let secrets = resolved.secrets.0;
        assert_eq!(
            secrets["tracker.ng"],
            BTreeMap::from([("apiKey".to_owned(), b"written".to_vec())])
        );
    }

    #[test]
    fn a_secret_of_another_namespace_is_rejected_with_a_remedy() {
        let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: tracker.ng, namespace: other}\n\
                      stringData: {apiKey: hunter2}\n";
        let errors = resolve_text(&format!("{MANIFEST}{secret}"), &[])
            .err()
            .unwrap()
            .join("\n");
        for words in [
            "spec.source.credentialsSecretRef",
            "another namespace",
            "EVENTEXPORT_API_KEY",
            "EVENTEXPORT_SECRET_TRACKER_NG_API_KEY",
            "spec.destination.s3.credentialsSecretRef",
            "AWS_ACCESS_KEY_ID",
            "spec.manifest.signingKeySecretRef",
            "EVENTEXPORT_SIGNING_KEY",
            "EVENTEXPORT_SECRET_SIGNING_SIGNING_KEY",
        ] {
            assert!(errors.contains(words), "{words} is not in: {errors}");
        }
        assert!(!errors.contains("hunter2"));
    }
}
