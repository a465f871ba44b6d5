//! Contents of a manifest: exports and their Secrets, validated as the API server would. No I/O.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde_json::Value;

use crate::api::{self, EventExportSpec, ReferencedKind, ReferencedObject, SettingNames, sanitize};
use crate::egress::HostPolicy;

/// Prefix of the `apiVersion` of our kinds.
const GROUP: &str = "eventexport.io/";

/// `EventExport` of the manifest.
#[derive(Clone, Debug)]
pub struct ExportResource {
    /// Namespace, if the document has one.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Validated spec.
    pub spec: EventExportSpec,
}

/// Data of a Secret. `Debug` shows only the keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretData(pub BTreeMap<String, Vec<u8>>);

/// Validated manifest.
#[derive(Debug, Default)]
pub struct ResourceManifest {
    /// Exports, in the order of the file.
    pub exports: Vec<ExportResource>,
    /// Secrets and ConfigMaps, by namespace.
    pub secrets: BTreeMap<(Option<String>, ReferencedObject), SecretData>,
    /// Objects of other kinds, which the command line ignores.
    pub skipped: Vec<String>,
    /// Names of settings in errors, if flags and variables take the place of a manifest.
    pub setting_names: SettingNames,
    /// Hosts that may receive the credentials of the source; `None`: any host that the manifest names.
    pub hosts: Option<HostPolicy>,
}

/// Problem of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {problem}")]
pub struct ManifestError {
    /// Object with the problem: position in the file, kind and name.
    pub object: String,
    /// Field, problem and remedy.
    pub problem: String,
}

/// Validates documents; returns the manifest or all problems.
pub fn from_documents(documents: Vec<Value>) -> Result<ResourceManifest, Vec<ManifestError>> {
    let mut manifest = ResourceManifest::default();
    let mut errors = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        let object = describe(index + 1, &document);
        if let Err(problems) = manifest.add(&object, document) {
            errors.extend(problems.into_iter().map(|problem| ManifestError {
                object: object.clone(),
                problem,
            }));
        }
    }
    if errors.is_empty() && manifest.exports.is_empty() {
        errors.push(ManifestError {
            object: "the manifest".to_owned(),
            problem: "holds no EventExport: add a document with apiVersion eventexport.io/v1alpha1 and kind EventExport"
                .to_owned(),
        });
    }
    if errors.is_empty() {
        Ok(manifest)
    } else {
        Err(errors)
    }
}

impl ResourceManifest {
    fn add(&mut self, object: &str, document: Value) -> Result<(), Vec<String>> {
        let text = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if version.is_empty() || kind.is_empty() {
            let field = if version.is_empty() { "apiVersion" } else { "kind" };
            return Err(vec![format!("{field}: is required")]);
        }
        if version.starts_with(GROUP) || kind.eq_ignore_ascii_case("EventExport") {
            return self.add_export(document);
        }
        let kind = match (version, kind) {
            ("v1", "Secret") => Some(ReferencedKind::Secret),
            ("v1", "ConfigMap") => Some(ReferencedKind::ConfigMap),
            _ => None,
        };
        if let Some(kind) = kind {
            return self.add_data(kind, document).map_err(|problem| vec![problem]);
        }
        self.skipped.push(object.to_owned());
        Ok(())
    }

    fn add_export(&mut self, document: Value) -> Result<(), Vec<String>> {
        let export = api::read_export(document)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let namespace = export
            .metadata
            .namespace
            .filter(|namespace| !namespace.is_empty());
        let name = export.metadata.name.unwrap_or_default();
        if self
            .exports
            .iter()
            .any(|other| other.namespace == namespace && other.name == name)
        {
            return Err(vec![
                "metadata.name: another EventExport in the manifest has this name: rename one".to_owned(),
            ]);
        }
        self.exports.push(ExportResource {
            namespace,
            name,
            spec: export.spec,
        });
        Ok(())
    }

    fn add_data(&mut self, kind: ReferencedKind, mut document: Value) -> Result<(), String> {
        let (base64_field, text_field, own_field) = match kind {
            ReferencedKind::Secret => ("data", "stringData", Some("type")),
            ReferencedKind::ConfigMap => ("binaryData", "data", None),
        };
        let object = kind.as_str();
        let known = [
            "apiVersion",
            "kind",
            "metadata",
            "immutable",
            base64_field,
            text_field,
        ];
        let known: Vec<&str> = known.into_iter().chain(own_field).collect();
        let fields = document.as_object().into_iter().flat_map(serde_json::Map::keys);
        if let Some(unknown) = fields.into_iter().find(|field| !known.contains(&field.as_str())) {
            return Err(format!(
                "{}: unknown field of a {object}: put values in {text_field} or {base64_field}",
                sanitize(unknown)
            ));
        }
        let meta = |field: &str| {
            let value = document
                .pointer(&format!("/metadata/{field}"))
                .and_then(Value::as_str);
            value.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let name = meta("name").ok_or("metadata.name: is required")?;
        let namespace = meta("namespace");
        let mut data = BTreeMap::new();
        for (key, value) in take_map(document.get_mut(base64_field), base64_field)? {
            // As kubectl: base64 may be wrapped.
            let value = match value {
                Value::String(text) => Value::String(text.replace(['\r', '\n'], "")),
                other => other,
            };
            let ByteString(bytes) = serde_json::from_value(value).map_err(|_| {
                format!(
                    "{base64_field}.{}: is not base64: encode it, or move it to {text_field}",
                    sanitize(&key)
                )
            })?;
            data.insert(key, bytes);
        }
        for (key, value) in take_map(document.get_mut(text_field), text_field)? {
            let Value::String(text) = value else {
                return Err(format!(
                    "{text_field}.{}: is not a string: put it in quotes",
                    sanitize(&key)
                ));
            };
            data.insert(key, text.into_bytes());
        }
        let named = (namespace, kind.named(&name));
        if self.secrets.insert(named, SecretData(data)).is_some() {
            return Err(format!(
                "metadata.name: another {object} in the manifest has this name: remove one"
            ));
        }
        Ok(())
    }
}

fn take_map(field: Option<&mut Value>, name: &str) -> Result<serde_json::Map<String, Value>, String> {
    match field.map(Value::take) {
        None | Some(Value::Null) => Ok(serde_json::Map::new()),
        Some(Value::Object(entries)) => Ok(entries),
        Some(_) => Err(format!("{name}: must be a map of keys to values")),
    }
}

/// Returns a description such as `document 2 (Secret tracker)`.
fn describe(number: usize, document: &Value) -> String {
    let kind = document.get("kind").and_then(Value::as_str).map(sanitize);
    let name = document
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .map(sanitize);
    match (kind, name) {
        (Some(kind), Some(name)) => format!("document {number} ({kind} {name})"),
        (Some(kind), None) => format!("document {number} ({kind})"),
        _ => format!("document {number}"),
    }
}

impl ExportResource {
    /// Returns `namespace/name`, or the name without a namespace.
    pub fn full_name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        }
    }
}

impl std::fmt::Debug for SecretData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::documents::parse;
    use super::*;

    const EXPORT: &str = "
apiVersion: eventexport.io/v1alpha1
kind: EventExport
metadata: {name: audit-2018, namespace: audit}
spec:
  space: c1234567-6d55-4193-a9de-378620d6fab5
  dateRange: {start: 2018-06-01, end: 2018-06-30}
  source: {region: us-south, credentialsSecretRef: {name: tracker}}
  destination: {s3: {bucket: audit}}
";

    fn problems(text: &str) -> String {
        let errors = from_documents(parse(text).unwrap()).unwrap_err();
        errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn a_file_yields_exports_and_secrets_and_names_skipped_objects() {
        let text = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: audit}}\n---{EXPORT}---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {{name: tracker, namespace: audit}}\n\
             data: {{apiKey: aHVzaA==}}\nstringData: {{note: plain}}\n"
        );
        let manifest = from_documents(parse(&text).unwrap()).unwrap();
        assert_eq!(manifest.exports[0].full_name(), "audit/audit-2018");
        let secret = &manifest.secrets[&(Some("audit".to_owned()), ReferencedKind::Secret.named("tracker"))];
        assert_eq!(secret.0["apiKey"], b"hush");
        assert_eq!(secret.0["note"], b"plain");
        assert!(!format!("{manifest:?}").contains("hush"));
        assert_eq!(manifest.skipped, ["document 1 (Namespace audit)"]);
    }

    #[test]
    fn errors_name_the_object_and_the_field() {
        let misspelled = EXPORT.replace("dateRange:", "daterange:");
        assert!(
            problems(&misspelled).contains("spec.daterange"),
            "{}",
            problems(&misspelled)
        );
        let inverted = EXPORT.replace("end: 2018-06-30", "end: 2018-05-30");
        assert!(
            problems(&inverted).contains("spec.dateRange.end"),
            "{}",
            problems(&inverted)
        );
        let version = EXPORT.replace("v1alpha1", "v9");
        assert!(
            problems(&version).contains("apiVersion"),
            "{}",
            problems(&version)
        );
        let kind = EXPORT.replace("kind: EventExport", "kind: EventExprt");
        assert!(problems(&kind).contains("kind"), "{}", problems(&kind));
        assert!(problems("a: 1").contains("document 1: apiVersion: is required"));
        assert!(problems("apiVersion: v1\nkind: Namespace\n").contains("holds no EventExport"));
        let duplicate = format!("{EXPORT}---{EXPORT}");
        assert!(problems(&duplicate).contains("document 2 (EventExport audit-2018): metadata.name"));
    }

    #[test]
    fn wrapped_base64_is_read_as_kubectl_reads_it() {
        let text =
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata:\n  apiKey: |\n    aHVz\n    aA==\n";
        let manifest = from_documents(parse(&format!("{EXPORT}---\n{text}")).unwrap()).unwrap();
        assert_eq!(
            manifest.secrets[&(None, ReferencedKind::Secret.named("s"))].0["apiKey"],
            b"hush"
        );
    }

    #[test]
    fn a_config_map_is_read_beside_a_secret_of_the_same_name() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\ndata: {ca.crt: plain}\nbinaryData: {b: aHVzaA==}\n\
                    ---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {ca.crt: other}\n";
        let manifest = from_documents(parse(&format!("{EXPORT}---\n{text}")).unwrap()).unwrap();
        let config_map = &manifest.secrets[&(None, ReferencedKind::ConfigMap.named("s"))].0;
        assert_eq!(
            (&*config_map["ca.crt"], &*config_map["b"]),
            (&b"plain"[..], &b"hush"[..])
        );
        assert_eq!(
            manifest.secrets[&(None, ReferencedKind::Secret.named("s"))].0["ca.crt"],
            b"other"
        );
        let number = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\ndata: {n: 5}\n";
        assert!(problems(number).contains("data.n: is not a string"));
    }

    #[test]
    fn an_invalid_secret_is_reported_without_its_value() {
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
        for (rest, field) in [
            ("data: {apiKey: 'hunter2!!'}", "data.apiKey"),
            ("stringData: {pin: 123456}", "stringData.pin"),
            ("stringdata: {apiKey: hunter2}", "stringdata"),
            ("data: hunter2", "data"),
        ] {
            let message = problems(&format!("{secret}{rest}"));
            assert!(
                message.contains(field) && !message.contains("hunter2") && !message.contains("123456"),
                "{message}"
            );
        }
    }
}
