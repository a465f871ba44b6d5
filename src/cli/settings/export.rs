//! The export of a command: a manifest or, without one, an `EventExport` with its Secrets made of flags, environment and
//! context, which goes the same way. Reads files, variables and standard input, may prompt on a terminal; sends no request.

use std::path::PathBuf;

use jiff::civil::Date;
use kube::Resource as _;
use serde_json::{Value, json};

use super::super::day::{check_order, day};
use super::super::exit::CliError;
use super::super::load;
use super::super::manifest::{ExportResource, ResourceManifest, SecretData};
use super::context::find_context;
use super::destination::{Destination, ResolvedDestination, S3Args, resolve_location};
use super::environment::env_value;
use super::layers::Layers;
use super::location::ArchiveLocation;
use super::secrets::{self, SecretKeys, placeholders};
use super::source::{SourceArgs, SourceSettings};
use crate::api::{self, EventExport, FieldError, ReferencedKind, Scope, Setting, SettingNames, Source};

/// Bucket in the spec of an export to a directory, which no spec can name. It is never opened.
const NO_BUCKET: &str = "directory";

/// Manifest, or the flags that take its place.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(group = clap::ArgGroup::new("exports").required(true).args(["files", "start"]))]
pub struct ExportArgs {
    /// Manifest with `EventExport` resources and their Secrets, YAML or JSON; `-` reads standard input; may be repeated
    #[arg(
        short = 'f', long = "filename", value_name = "FILE", display_order = 0,
        conflicts_with_all = [
            "context", "space", "account", "source_region", "source_endpoint", "uaa_endpoint", "allow_host", "source_ca_file",
        ]
    )]
    pub files: Vec<PathBuf>,
    /// Without a manifest: first UTC day of the export
    #[arg(short, long, value_name = "DATE", value_parser = day, display_order = 0)]
    pub start: Option<Date>,
    /// Last UTC day, inclusive (default: every day that is due)
    #[arg(short, long, value_name = "DATE", value_parser = day, display_order = 0, requires = "start")]
    pub end: Option<Date>,
    /// Source without a manifest.
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Use of the credentials of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceCredentials {
    /// They are required, and prompted for if no variable or context has them.
    Required,
    /// The service is not asked.
    Unused,
    /// The simulator takes the place of the service, so that none has to be named.
    Simulated,
}

/// Exports of a command.
#[derive(Debug)]
pub struct LoadedExports {
    /// The resources and their Secrets.
    pub manifest: ResourceManifest,
    /// Location that replaces the destination of the resources.
    pub archive: Option<ArchiveLocation>,
}

impl ExportArgs {
    /// Returns the resources of the manifest or of the flags. May prompt for a secret on the terminal: call it before installing
    /// signal handlers.
    pub fn load(
        &self,
        archive: Option<&ArchiveLocation>,
        s3: &S3Args,
        credentials: SourceCredentials,
    ) -> Result<LoadedExports, CliError> {
        let Some(start) = self.start else {
            return Ok(LoadedExports {
                manifest: load::manifest(&self.files)?,
                archive: archive.cloned(),
            });
        };
        self.with_layers(|layers| {
            let mut args = self.clone();
            if credentials == SourceCredentials::Simulated {
                args.source = args.source.simulated(layers)?;
            }
            let export = FlagExport::resolve(&args, start, archive, s3, layers)?;
            export.into_exports(layers, credentials)
        })
    }

    /// Returns the manifest of the flags as YAML, for `kubectl apply` and `-f`. Secrets have placeholders.
    pub fn manifest_text(&self, archive: Option<&ArchiveLocation>, s3: &S3Args) -> Result<String, CliError> {
        let Some(start) = self.start else {
            return Err(CliError::usage("--print-manifest: -f is a manifest already"));
        };
        self.with_layers(|layers| {
            let export = FlagExport::resolve(self, start, archive, s3, layers)?;
            export.into_text(layers)
        })
    }

    fn with_layers<T>(&self, work: impl FnOnce(&Layers<'_>) -> Result<T, CliError>) -> Result<T, CliError> {
        let context = find_context(self.source.context.as_ref(), &env_value)?;
        work(&Layers {
            lookup: &env_value,
            context: context.as_ref(),
        })
    }
}

/// An export of flags, environment and context, before the credentials of its source are read.
struct FlagExport {
    document: Value,
    source: SourceSettings,
    destination: ResolvedDestination,
    location: ArchiveLocation,
}

impl FlagExport {
    fn resolve(
        args: &ExportArgs,
        start: Date,
        archive: Option<&ArchiveLocation>,
        s3: &S3Args,
        layers: &Layers<'_>,
    ) -> Result<Self, CliError> {
        check_order(Some(start), args.end)?;
        let source = SourceSettings::resolve(&args.source, layers)?;
        let location = resolve_location(archive, layers)?.ok_or_else(|| {
            CliError::usage(
                "no destination: use --archive s3://BUCKET/PREFIX or --archive DIR, or a context with an archive (`eventexport \
                 context set NAME --archive s3://BUCKET/PREFIX`)",
            )
        })?;
        let destination = ResolvedDestination::of_location(&location, s3, layers)?;
        let bucket = match &destination.destination {
            Destination::Directory(_) => json!({ "bucket": NO_BUCKET }),
            Destination::Bucket(bucket) => {
                let mut bucket = serde_json::to_value(bucket).map_err(anyhow::Error::from)?;
                if let ArchiveLocation::Bucket { prefix, .. } = &location.value
                    && !prefix.is_empty()
                    && let Some(fields) = bucket.as_object_mut()
                {
                    fields.insert("prefix".to_owned(), json!(prefix));
                }
                bucket
            }
        };
        let scope = if source.account {
            Scope::Account
        } else {
            Scope::Space
        };
        let days = match args.end {
            Some(end) => json!({ "start": start, "end": end }),
            None => json!({ "start": start }),
        };
        let document = json!({
            "apiVersion": EventExport::api_version(&()),
            "kind": EventExport::kind(&()),
            "metadata": {"name": format!("audit-{start}")},
            "spec": {
                "space": source.space,
                "scope": scope,
                "dateRange": days,
                "source": source.source,
                "destination": {"s3": bucket},
            },
        });
        Ok(Self {
            document,
            source,
            destination,
            location: location.value,
        })
    }

    /// Validates the export as a manifest is validated. Errors name the flags.
    fn resource(&self) -> Result<ExportResource, CliError> {
        let names = self.names();
        let export = api::read_export(self.document.clone()).map_err(|errors| {
            let lines: Vec<String> = errors
                .iter()
                .map(|error| format!("{}: {}", flag_of(error, &names), error.problem))
                .collect();
            CliError::usage(lines.join("\n"))
        })?;
        Ok(ExportResource {
            namespace: None,
            name: export.metadata.name.unwrap_or_default(),
            spec: export.spec,
        })
    }

    fn names(&self) -> SettingNames {
        self.source.names.clone().merge(self.destination.names.clone())
    }

    fn into_exports(
        self,
        layers: &Layers<'_>,
        credentials: SourceCredentials,
    ) -> Result<LoadedExports, CliError> {
        let resource = self.resource()?;
        let mut names = self.names();
        let mut secrets = self.destination.secrets.0;
        let mut hosts = None;
        if credentials == SourceCredentials::Required {
            let (source, _) = self.source.with_secrets(layers, &secrets::prompt_on_terminal)?;
            names = source.names.merge(self.destination.names);
            secrets.extend(source.secrets.0);
            hosts = Some(source.hosts);
        }
        let archive = matches!(self.location, ArchiveLocation::Directory(_)).then_some(self.location);
        Ok(LoadedExports {
            manifest: ResourceManifest {
                exports: vec![resource],
                secrets: secrets
                    .into_iter()
                    .map(|(object, data)| ((None, object), SecretData(data)))
                    .collect(),
                skipped: Vec::new(),
                setting_names: names,
                hosts,
            },
            archive,
        })
    }

    fn into_text(self, layers: &Layers<'_>) -> Result<String, CliError> {
        if let ArchiveLocation::Directory(path) = &self.location {
            return Err(CliError::usage(format!(
                "--print-manifest: a manifest cannot name the directory {}: use --archive s3://BUCKET/PREFIX",
                path.display()
            )));
        }
        self.resource()?;
        // Only their keys are printed, so that nothing has to be entered.
        let source = secrets::source_credentials(layers.lookup, layers.context, &|_| None);
        let source = source.map_or_else(
            |_| SecretKeys::from([("apiKey".to_owned(), Vec::new())]),
            |found| found.data,
        );
        let mut secrets = self.destination.secrets.0;
        let Source {
            credentials_secret_ref,
            ca_secret_ref,
            ..
        } = self.source.source;
        secrets.insert(ReferencedKind::Secret.named(&credentials_secret_ref.name), source);
        if let Some(ca) = ca_secret_ref {
            let object = ReferencedKind::Secret.named(&ca.name);
            secrets.insert(object, SecretKeys::from([(ca.key, Vec::new())]));
        }
        let documents = std::iter::once(self.document).chain(secrets.into_iter().map(|(object, data)| {
            json!({
                "apiVersion": "v1",
                "kind": object.kind.as_str(),
                "metadata": {"name": object.name},
                "stringData": placeholders(&data),
            })
        }));
        let mut texts = Vec::new();
        for document in documents {
            texts.push(serde_saphyr::to_string(&document).map_err(anyhow::Error::from)?);
        }
        Ok(texts.join("---\n"))
    }
}

/// Returns the flag or variable of a field of the spec.
fn flag_of(error: &FieldError, names: &SettingNames) -> String {
    let layered = [
        Setting::Space,
        Setting::SourceEndpoint,
        Setting::UaaEndpoint,
        Setting::BucketRegion,
        Setting::BucketEndpoint,
    ];
    match error.path.as_str() {
        "spec.dateRange.start" => "--start".to_owned(),
        path if path.starts_with("spec.dateRange") => "--end".to_owned(),
        "spec.destination.s3.bucket" => "--archive: the bucket".to_owned(),
        "spec.destination.s3.prefix" => "--archive: the prefix".to_owned(),
        path => {
            let setting = layered.into_iter().find(|setting| setting.field() == path);
            setting.map_or(path, |setting| names.name(setting)).to_owned()
        }
    }
}
