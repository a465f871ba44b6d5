//! Secrets of a command, never from arguments. The first place that has the Secret gives all of its keys, so that the keys
//! of two users never mix: the manifest, its own variables, the common variables, the context, the terminal. Reads
//! variables and files; may prompt.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use console::Term;

use super::super::config::SelectedContext;
use super::super::exit::CliError;
use super::super::manifest::{ExportResource, ResourceManifest, SecretData};
use super::super::secret_file;
use super::environment::EnvLookup;
use crate::api::{CaReference, ReferencedKind, ReferencedObject, Setting, SettingNames};
use crate::export::connect::Secrets;
use crate::export::manifest::sign::{PREVIOUS_PUBLIC_KEYS, SIGNING_KEY};
use crate::storage::{S3Credentials, SecretError};
use crate::tracker::{Credentials, CredentialsError};

/// Keys of a Secret with their values.
pub type SecretKeys = BTreeMap<String, Vec<u8>>;

/// Prompts for a secret; returns `None` without a terminal.
pub type SecretPrompt<'a> = &'a dyn Fn(&str) -> Option<std::io::Result<String>>;

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

/// Key of a Secret, with its names in the places that may hold it.
#[derive(Clone, Debug)]
struct SecretKey<'a> {
    /// Key in the data of the Secret.
    key: &'a str,
    /// End of the variable of one Secret.
    segment: Cow<'a, str>,
    /// Variable for all Secrets of this use.
    variable: Option<&'static str>,
    /// Field of a context.
    field: Option<&'static str>,
}

const fn key(
    key: &'static str,
    segment: &'static str,
    variable: &'static str,
    field: Option<&'static str>,
) -> SecretKey<'static> {
    SecretKey {
        key,
        segment: Cow::Borrowed(segment),
        variable: Some(variable),
        field,
    }
}

/// Keys of `spec.source.credentialsSecretRef`.
static SOURCE_KEYS: [SecretKey<'static>; 5] = [
    key("apiKey", "API_KEY", "EVENTEXPORT_API_KEY", Some("api-key-file")),
    key("username", "USERNAME", "EVENTEXPORT_USERNAME", Some("username")),
    key(
        "password",
        "PASSWORD",
        "EVENTEXPORT_PASSWORD",
        Some("password-file"),
    ),
    key(
        "refreshToken",
        "REFRESH_TOKEN",
        "EVENTEXPORT_REFRESH_TOKEN",
        Some("refresh-token-file"),
    ),
    key("token", "TOKEN", "EVENTEXPORT_TOKEN", Some("token-file")),
];

/// Keys of `spec.destination.s3.credentialsSecretRef`.
static BUCKET_KEYS: [SecretKey<'static>; 3] = [
    key("accessKeyId", "ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID", None),
    key(
        "secretAccessKey",
        "SECRET_ACCESS_KEY",
        "AWS_SECRET_ACCESS_KEY",
        None,
    ),
    key("sessionToken", "SESSION_TOKEN", "AWS_SESSION_TOKEN", None),
];

/// Keys of `spec.manifest.signingKeySecretRef`.
static SIGNING_KEYS: [SecretKey<'static>; 2] = [
    key(SIGNING_KEY, "SIGNING_KEY", "EVENTEXPORT_SIGNING_KEY", None),
    key(
        PREVIOUS_PUBLIC_KEYS,
        "PREVIOUS_PUBLIC_KEYS",
        "EVENTEXPORT_PREVIOUS_PUBLIC_KEYS",
        None,
    ),
];

/// Secrets of a resource, and the names of the settings whose values came from the environment.
#[derive(Default)]
pub struct ResolvedSecrets {
    /// The Secrets and ConfigMaps.
    pub secrets: Secrets,
    /// Names of the settings whose values are not in the manifest.
    pub setting_names: SettingNames,
}

/// Secret, and where its values came from.
pub struct FoundSecret {
    /// Keys and values.
    pub data: SecretKeys,
    origin: SecretOrigin,
}

/// Place that gave a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SecretOrigin {
    /// Document of the manifest.
    Manifest,
    /// Variables by key, also of keys that are not set.
    Variables(BTreeMap<String, String>),
    /// Context of this name.
    Context(String),
    /// Answer on the terminal.
    Prompt,
}

/// Secret or ConfigMap that a spec or a command needs.
struct RequiredSecret<'a> {
    purpose: SecretPurpose,
    setting: Setting,
    kind: ReferencedKind,
    /// Name in the spec.
    name: &'a str,
    keys: Vec<SecretKey<'a>>,
}

/// Resolves the Secrets that a resource names for these purposes. The error names each missing Secret and the places that
/// may hold it.
pub fn of_resource(
    resource: &ExportResource,
    manifest: &ResourceManifest,
    purposes: &[SecretPurpose],
    lookup: EnvLookup<'_>,
) -> Result<ResolvedSecrets, CliError> {
    let mut resolved = ResolvedSecrets {
        setting_names: manifest.setting_names.clone(),
        ..ResolvedSecrets::default()
    };
    let mut errors = Vec::new();
    for required in required_secrets(resource)
        .iter()
        .filter(|required| purposes.contains(&required.purpose))
    {
        let object = (resource.namespace.clone(), required.object());
        let found = match manifest.secrets.get(&object) {
            Some(SecretData(data)) => Ok(Some(FoundSecret {
                data: data.clone(),
                origin: SecretOrigin::Manifest,
            })),
            None => required.in_variables(lookup),
        };
        let found = found.and_then(|found| match &found {
            // The keys of a Secret of the manifest are named by the Secret, not by variables.
            Some(secret) if secret.origin != SecretOrigin::Manifest => {
                secret.validate(required.setting).map(|()| found)
            }
            _ => Ok(found),
        });
        match found {
            Ok(Some(found)) => {
                if let Some(names) = found.describe(required.setting) {
                    resolved.setting_names = resolved.setting_names.with(required.setting, names);
                }
                let secret = resolved.secrets.0.entry(required.object());
                secret.or_default().extend(found.data);
            }
            Ok(None) => {
                let missing = missing_secret(required, resource, manifest);
                errors.push(format!("{}: {missing}", required.setting.field()));
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    if errors.is_empty() {
        return Ok(resolved);
    }
    let lines: Vec<String> = errors
        .iter()
        .map(|error| format!("{}: {error}", resource.full_name()))
        .collect();
    Err(CliError::usage(lines.join("\n")))
}

/// Resolves the credentials of a command without a manifest: of the common variables, else the context, else the prompt.
pub fn source_credentials(
    lookup: EnvLookup<'_>,
    context: Option<&SelectedContext>,
    prompt: SecretPrompt<'_>,
) -> Result<FoundSecret, CliError> {
    let of_variables = common(&SOURCE_KEYS, lookup)?;
    // A user name alone is no credential, and hides none of a context.
    let (complete, named) = match of_variables {
        Some(found) if found.has_secret() => (Some(found), None),
        named => (None, named),
    };
    let of_context = match context {
        Some(context) if complete.is_none() => from_context(context)?,
        _ => None,
    };
    let mut found = match (complete, of_context) {
        (Some(found), _) => found,
        (None, Some(found)) if found.has_secret() => found.of_user(named.as_ref())?,
        (None, of_context) => from_prompt(named.or(of_context), prompt)?,
    };
    // A user can be named with any kind of credentials, to identify the sessions of the user.
    if !found.data.contains_key("password") {
        found.data.remove("username");
    }
    found.validate(Setting::SourceCredentials)?;
    Ok(found)
}

/// Resolves the keys of a bucket that no manifest describes, of the common variables; `None`: the default chain of the SDK.
pub fn bucket_credentials(lookup: EnvLookup<'_>) -> Result<Option<FoundSecret>, CliError> {
    let found = common(&BUCKET_KEYS, lookup)?;
    if let Some(found) = &found {
        found.validate(Setting::BucketCredentials)?;
    }
    Ok(found)
}

/// Returns placeholders for the values of a Secret. No command sends them anywhere: white space makes them invalid.
pub fn placeholders(data: &SecretKeys) -> BTreeMap<&str, String> {
    let placeholder = |key: &String| format!("replace with the {key}");
    data.keys().map(|key| (key.as_str(), placeholder(key))).collect()
}

/// Prompts on the terminal without echo. Returns `None` unless standard error and standard input are terminals.
pub fn prompt_on_terminal(question: &str) -> Option<std::io::Result<String>> {
    let term = Term::stderr();
    if !term.is_term() || !std::io::stdin().is_terminal() {
        return None;
    }
    let answer = term.write_str(question).and_then(|()| term.read_secure_line());
    Some(answer)
}

fn required_secrets(resource: &ExportResource) -> Vec<RequiredSecret<'_>> {
    use SecretPurpose::{Bucket, Signing, Source};
    let (source, s3) = (&resource.spec.source, &resource.spec.destination.s3);
    let signing = resource.spec.manifest.as_ref();
    let signing = signing.and_then(|manifest| manifest.signing_key_secret_ref.as_ref());
    let secret = |purpose, setting, name, keys: &[SecretKey<'static>]| RequiredSecret {
        purpose,
        setting,
        kind: ReferencedKind::Secret,
        name,
        keys: keys.to_vec(),
    };
    let mut all = vec![secret(
        Source,
        Setting::SourceCredentials,
        source.credentials_secret_ref.name.as_str(),
        &SOURCE_KEYS,
    )];
    if let Some(bucket) = &s3.credentials_secret_ref {
        all.push(secret(
            Bucket,
            Setting::BucketCredentials,
            &bucket.name,
            &BUCKET_KEYS,
        ));
    }
    if let Some(signing) = signing {
        all.push(secret(Signing, Setting::SigningKey, &signing.name, &SIGNING_KEYS));
    }
    for (purpose, reference) in [(Source, source.ca()), (Bucket, s3.ca())] {
        if let Some(CaReference {
            kind,
            name,
            key,
            setting,
        }) = reference
        {
            let key = SecretKey {
                key,
                segment: Cow::Owned(env_segment(key)),
                variable: None,
                field: None,
            };
            all.push(RequiredSecret {
                purpose,
                setting,
                kind,
                name,
                keys: vec![key],
            });
        }
    }
    all
}

impl RequiredSecret<'_> {
    fn object(&self) -> ReferencedObject {
        self.kind.named(self.name)
    }

    /// Returns the Secret from its own variables, else from the common ones.
    fn in_variables(&self, lookup: EnvLookup<'_>) -> Result<Option<FoundSecret>, CliError> {
        let own = self
            .keys
            .iter()
            .map(|key| (key.key, Some(self.variable(&key.segment))));
        match in_variables(own, lookup)? {
            Some(found) => Ok(Some(found)),
            None => common(&self.keys, lookup),
        }
    }

    /// `EVENTEXPORT_SECRET_<NAME>_<KEY>`, or `EVENTEXPORT_CONFIGMAP_<NAME>_<KEY>`.
    fn variable(&self, segment: &str) -> String {
        let kind = self.kind.as_str().to_ascii_uppercase();
        format!("EVENTEXPORT_{kind}_{}_{segment}", env_segment(self.name))
    }
}

/// Returns a Secret from the common variables.
fn common(keys: &[SecretKey<'_>], lookup: EnvLookup<'_>) -> Result<Option<FoundSecret>, CliError> {
    let variables = keys.iter().map(|key| (key.key, key.variable.map(str::to_owned)));
    in_variables(variables, lookup)
}

fn in_variables<'k>(
    variables: impl Iterator<Item = (&'k str, Option<String>)>,
    lookup: EnvLookup<'_>,
) -> Result<Option<FoundSecret>, CliError> {
    let (mut data, mut names) = (SecretKeys::new(), BTreeMap::new());
    for (key, variable) in variables {
        let Some(variable) = variable else { continue };
        if let Some(value) = lookup(&variable).map_err(CliError::usage)? {
            data.insert(key.to_owned(), value);
        }
        names.insert(key.to_owned(), variable);
    }
    let origin = SecretOrigin::Variables(names);
    Ok((!data.is_empty()).then_some(FoundSecret { data, origin }))
}

fn from_context(context: &SelectedContext) -> Result<Option<FoundSecret>, CliError> {
    let config = &context.config;
    let mut data = SecretKeys::new();
    for SecretKey { key, field, .. } in &SOURCE_KEYS {
        let file = match *key {
            "apiKey" => &config.api_key_file,
            "password" => &config.password_file,
            "refreshToken" => &config.refresh_token_file,
            "token" => &config.token_file,
            _ => &None,
        };
        if let Some(path) = context.path(file.as_deref()) {
            let field = field.unwrap_or_default();
            let bytes = secret_file::read(&path)
                .map_err(|why| CliError::usage(format!("{field} of context {}: {why}", context.name)))?;
            data.insert((*key).to_owned(), bytes);
        }
    }
    if let Some(username) = &config.username {
        data.insert("username".to_owned(), username.clone().into_bytes());
    }
    let origin = SecretOrigin::Context(context.name.clone());
    Ok((!data.is_empty()).then_some(FoundSecret { data, origin }))
}

/// Prompts for the password of the user, or for an API key.
fn from_prompt(username: Option<FoundSecret>, prompt: SecretPrompt<'_>) -> Result<FoundSecret, CliError> {
    let mut data = username.map(|found| found.data).unwrap_or_default();
    let (key, question) = match data.get("username") {
        Some(username) => (
            "password",
            format!("Password of {}: ", String::from_utf8_lossy(username)),
        ),
        None => ("apiKey", "API key: ".to_owned()),
    };
    match prompt(&question) {
        Some(Ok(secret)) if secret.trim().is_empty() => Err(missing_credentials()),
        Some(Ok(secret)) => {
            data.insert(key.to_owned(), secret.into_bytes());
            let origin = SecretOrigin::Prompt;
            Ok(FoundSecret { data, origin })
        }
        Some(Err(error)) => Err(CliError::Failed(anyhow::anyhow!(
            "cannot read the answer from the terminal: {error}"
        ))),
        None => Err(missing_credentials()),
    }
}

fn missing_credentials() -> CliError {
    CliError::usage(
        "no credentials: set EVENTEXPORT_API_KEY, EVENTEXPORT_USERNAME and EVENTEXPORT_PASSWORD, EVENTEXPORT_REFRESH_TOKEN \
         or EVENTEXPORT_TOKEN (or each as …_FILE with the path of a file), set a secret file in a context (`eventexport \
         context set NAME --api-key-file FILE`), or run the command on a terminal to enter them",
    )
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
    let elsewhere = manifest
        .secrets
        .keys()
        .any(|(_, object)| *object == required.object());
    let elsewhere = if elsewhere {
        " (one of that name is in another namespace)"
    } else {
        ""
    };
    let first = required.keys.first();
    let common = first
        .and_then(|key| key.variable)
        .map(|variable| format!("{variable} or "))
        .unwrap_or_default();
    let own = first
        .map(|key| required.variable(&key.segment))
        .unwrap_or_default();
    format!(
        "no {} {} {place}{elsewhere}: add it as a further document, or set {common}{own} in the environment \
         (docs/cli.md lists the variables)",
        required.kind.as_str(),
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

impl FoundSecret {
    /// True if a key is a credential, and not only the name of a user.
    fn has_secret(&self) -> bool {
        self.data.keys().any(|key| key != "username")
    }

    /// Refuses a password of another user than the named one.
    fn of_user(self, named: Option<&Self>) -> Result<Self, CliError> {
        let user = |found: &Self| {
            found
                .data
                .get("username")
                .map(|name| name.trim_ascii().to_owned())
        };
        match named {
            Some(named) if self.data.contains_key("password") && user(named) != user(&self) => {
                Err(CliError::usage(format!(
                    "{} is set, but {} is of another user: set the password of the user as well, or unset the variable",
                    named.name_of("username"),
                    self.name_of("password")
                )))
            }
            _ => Ok(self),
        }
    }

    /// Returns the name of the Secret in errors, to stand for its setting; `None` if it is the Secret of the spec.
    pub fn describe(&self, setting: Setting) -> Option<String> {
        let has = |key: &str| self.data.contains_key(key);
        let kind = match () {
            () if has("apiKey") => "API key",
            () if has("password") => "user and password",
            () if has("refreshToken") => "refresh token",
            () => "token",
        };
        match &self.origin {
            SecretOrigin::Manifest => None,
            SecretOrigin::Variables(variables) => {
                let set = variables.iter().filter(|(key, _)| has(key.as_str()));
                let names: Vec<&str> = set.map(|(_, variable)| variable.as_str()).collect();
                Some(match setting {
                    // The user before the password.
                    Setting::SourceCredentials => {
                        format!(
                            "the {kind} of {}",
                            names.into_iter().rev().collect::<Vec<_>>().join(" and ")
                        )
                    }
                    _ => names.join(", "),
                })
            }
            SecretOrigin::Context(context) => {
                let fields = SOURCE_KEYS.iter().filter(|key| has(key.key));
                let fields: Vec<&str> = fields.filter_map(|key| key.field).collect();
                Some(format!(
                    "the {kind} of context {context} ({})",
                    fields.join(" and ")
                ))
            }
            SecretOrigin::Prompt => Some(format!("the {kind} entered at the prompt")),
        }
    }

    /// Returns the name of a key in errors: its variable, or its field of the context.
    fn name_of(&self, key: &str) -> String {
        let known = SOURCE_KEYS
            .iter()
            .chain(&BUCKET_KEYS)
            .find(|known| known.key == key);
        match &self.origin {
            SecretOrigin::Variables(variables) if variables.contains_key(key) => {
                variables.get(key).cloned().unwrap_or_default()
            }
            SecretOrigin::Variables(_) | SecretOrigin::Manifest => {
                known.and_then(|known| known.variable).unwrap_or(key).to_owned()
            }
            SecretOrigin::Context(context) => {
                let field = known.and_then(|known| known.field).unwrap_or(key);
                format!("{field} of context {context}")
            }
            SecretOrigin::Prompt => "the entered secret".to_owned(),
        }
    }

    /// Checks that the values can be used. The error names the variables or fields that the user set.
    fn validate(&self, setting: Setting) -> Result<(), CliError> {
        let checked = match setting {
            Setting::SourceCredentials => Credentials::from_secret(&self.data)
                .map(drop)
                .map_err(|error| self.credentials_problem(&error)),
            Setting::BucketCredentials => S3Credentials::from_secret(&self.data)
                .map(drop)
                .map_err(|error| Some(self.keys_problem(&error))),
            _ => Ok(()),
        };
        checked.map_err(|problem| problem.map_or_else(missing_credentials, CliError::usage))
    }

    /// Describes unusable credentials of the source; `None` if there are none.
    fn credentials_problem(&self, error: &CredentialsError) -> Option<String> {
        Some(match error {
            CredentialsError::Missing => return None,
            CredentialsError::Incomplete { has, lacks } => format!(
                "{} is set but {} is not: both are required",
                self.name_of(has),
                self.name_of(lacks)
            ),
            CredentialsError::Ambiguous { keys: _ } => {
                let all: Vec<String> = self.data.keys().map(|key| self.name_of(key)).collect();
                format!(
                    "more than one kind of credentials is set ({}): keep one of them",
                    all.join(", ")
                )
            }
            CredentialsError::Invalid { key, why } => format!("{} {why}", self.name_of(key)),
        })
    }

    /// Describes unusable keys of a bucket.
    fn keys_problem(&self, error: &SecretError) -> String {
        match error {
            SecretError::Missing(lacks) => {
                let has = self.data.keys().find(|key| key.as_str() != *lacks);
                let has = has.map(|key| self.name_of(key)).unwrap_or_default();
                format!("{} is not set, though {has} is: set both", self.name_of(lacks))
            }
            SecretError::Invalid { name, why } => format!("{} {why}", self.name_of(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{documents, manifest};
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

    fn named(name: &str) -> ReferencedObject {
        ReferencedKind::Secret.named(name)
    }

    fn resolve_text(text: &str, variables: &[(&str, &str)]) -> Result<ResolvedSecrets, String> {
        let manifest = manifest::from_documents(documents::parse(text).unwrap()).unwrap();
        let lookup = |name: &str| {
            let value = variables.iter().find(|(variable, _)| *variable == name);
            Ok(value.map(|(_, value)| value.as_bytes().to_vec()))
        };
        of_resource(
            &manifest.exports[0],
            &manifest,
            &[
                SecretPurpose::Source,
                SecretPurpose::Bucket,
                SecretPurpose::Signing,
            ],
            &lookup,
        )
        .map_err(|error| error.to_string())
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
        assert_eq!(secrets[&named("tracker.ng")]["apiKey"], b"common");
        let names = resolve_text(MANIFEST, &common).ok().unwrap().setting_names;
        assert_eq!(
            names.name(Setting::SourceCredentials),
            "the API key of EVENTEXPORT_API_KEY"
        );
        assert_eq!(
            names.name(Setting::BucketCredentials),
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
        );
        assert_eq!(secrets[&named("bucket")].len(), 2);
        assert_eq!(secrets[&named("signing")]["signingKey"], b"pem");

        let own = [
            common.as_slice(),
            &[("EVENTEXPORT_SECRET_TRACKER_NG_TOKEN", "own")],
        ]
        .concat();
        let secrets = resolve_text(MANIFEST, &own).ok().unwrap().secrets.0;
        assert_eq!(
            secrets[&named("tracker.ng")],
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
            secrets[&named("tracker.ng")],
            BTreeMap::from([("apiKey".to_owned(), b"written".to_vec())])
        );
    }

    #[test]
    fn unusable_variables_of_a_manifest_are_named() {
        let signing = ("EVENTEXPORT_SIGNING_KEY", "pem");
        let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];
        for (variables, named) in [
            (
                [&keys[..], &[signing, ("EVENTEXPORT_PASSWORD", "hunter2")]].concat(),
                "audit/a: EVENTEXPORT_PASSWORD is set but EVENTEXPORT_USERNAME is not",
            ),
            (
                [
                    &keys[..],
                    &[signing, ("EVENTEXPORT_SECRET_TRACKER_NG_PASSWORD", "hunter2")],
                ]
                .concat(),
                "EVENTEXPORT_SECRET_TRACKER_NG_USERNAME is not",
            ),
            (
                [&keys[..1], &[signing, ("EVENTEXPORT_API_KEY", "k")]].concat(),
                "AWS_SECRET_ACCESS_KEY is not set, though AWS_ACCESS_KEY_ID is",
            ),
        ] {
            let error = resolve_text(MANIFEST, &variables).err().unwrap();
            assert!(error.contains(named) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_secret_of_another_namespace_is_rejected_with_a_remedy() {
        let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: tracker.ng, namespace: other}\n\
                      stringData: {apiKey: hunter2}\n";
        let errors = resolve_text(&format!("{MANIFEST}{secret}"), &[]).err().unwrap();
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

    fn resolve_with(variables: &[(&str, &str)], typed: Option<&str>) -> Result<String, String> {
        let lookup = |name: &str| {
            let value = variables.iter().find(|(variable, _)| *variable == name);
            Ok(value.map(|(_, value)| value.as_bytes().to_vec()))
        };
        let prompt = |_: &str| typed.map(|text| Ok(text.to_owned()));
        let found = source_credentials(&lookup, None, &prompt).map_err(|fault| fault.to_string())?;
        Ok(found.describe(Setting::SourceCredentials).unwrap())
    }

    #[test]
    fn the_origin_is_printable_and_the_secret_is_not() {
        for (variables, typed, origin) in [
            (
                &[("EVENTEXPORT_API_KEY", "hunter2")][..],
                None,
                "API key of EVENTEXPORT_API_KEY",
            ),
            (
                &[("EVENTEXPORT_TOKEN", "hunter2")],
                None,
                "token of EVENTEXPORT_TOKEN",
            ),
            (&[], Some("hunter2"), "API key entered at the prompt"),
            (
                &[("EVENTEXPORT_USERNAME", "a@b")],
                Some("hunter2"),
                "user and password entered at the prompt",
            ),
        ] {
            let described = resolve_with(variables, typed).unwrap();
            assert_eq!(described, format!("the {origin}"));
        }
    }

    #[test]
    fn missing_and_ambiguous_credentials_are_named() {
        for (variables, typed, named) in [
            (&[][..], None, "EVENTEXPORT_API_KEY"),
            (&[], Some(" "), "EVENTEXPORT_API_KEY"),
            (
                &[("EVENTEXPORT_PASSWORD", "p")],
                None,
                "EVENTEXPORT_PASSWORD is set but EVENTEXPORT_USERNAME is not",
            ),
            (
                &[("EVENTEXPORT_API_KEY", "k"), ("EVENTEXPORT_TOKEN", "t")],
                None,
                "EVENTEXPORT_API_KEY, EVENTEXPORT_TOKEN",
            ),
            (&[("EVENTEXPORT_TOKEN", "a b")], None, "EVENTEXPORT_TOKEN"),
        ] {
            let error = resolve_with(variables, typed).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
