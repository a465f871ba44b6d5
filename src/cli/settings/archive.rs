//! The archive of a command: a directory, `s3://bucket/prefix`, or the destination of a manifest. Flags, environment and
//! context, or the manifest, become `spec.destination` and its Secrets, and then a store. Opening for reading writes nothing
//! and needs no permission to write.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use jiff::Timestamp;

use super::super::exit::CliError;
use super::super::job::{self, RunOptions};
use super::super::load;
use super::super::manifest::{ExportResource, ResourceManifest};
use super::context::SelectedContext;
use super::environment::env_value;
use super::layers::{self, Layers, Resolved, name_of};
use super::secrets::{self, ResolvedSecrets};
use super::source::read_ca;
use super::{destination_of, process_context};
use crate::api::{
    self, CaSecretRef, Checksum, ReferencedKind, RequestPayer, S3Destination, SecretRef, Setting,
    SettingNames,
};
use crate::archive::coverage::Expectation;
use crate::export::connect::{self, Secrets};
use crate::export::failure::Failure;
use crate::export::spec::ExportSpec;
use crate::storage::{DirectoryStore, Store, StoreError};
use crate::tracker::TokenCache;

/// Default region of signatures; most stores with their own endpoint ignore it.
const DEFAULT_REGION: &str = "us-east-1";

/// Name of the Secret with the keys of a bucket that no manifest describes.
const SECRET: &str = "archive";

/// Name of the Secret with the certificate authority of its store, and its key.
const CA: (&str, &str) = ("archive-ca", "ca.crt");

/// Name of the value of `--archive`.
pub const ARCHIVE_VALUE: &str = "DIR|s3://BUCKET/PREFIX";

/// Location of the archive.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LocationArgs {
    /// Archive: a directory, or `s3://bucket/prefix`
    #[arg(value_name = "ARCHIVE", conflicts_with = "archive", value_parser = ArchiveLocation::parser())]
    pub positional: Option<ArchiveLocation>,
    /// The archive, as an option
    #[arg(long, alias = "to", value_name = ARCHIVE_VALUE, value_parser = ArchiveLocation::parser())]
    pub archive: Option<ArchiveLocation>,
    /// Manifest with `EventExport` resources and their Secrets, whose destination is the archive; `-` reads
    /// standard input; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Connection to the bucket of an `s3://` URL.
    #[command(flatten)]
    pub s3: S3Args,
}

/// Connection to the bucket of an `s3://` URL. Keys come from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or from
/// the default chain of the AWS SDK.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "S3 (with s3:// only; keys as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)")]
pub struct S3Args {
    /// Address of an S3-compatible store (or `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`; default: AWS)
    #[arg(id = "s3-endpoint", long = "s3-endpoint", value_name = "URL")]
    pub endpoint: Option<String>,
    /// Region of the bucket (or `AWS_REGION`, `AWS_DEFAULT_REGION`; default: us-east-1)
    #[arg(id = "s3-region", long = "s3-region", value_name = "REGION")]
    pub region: Option<String>,
    /// Put the bucket name into the path instead of the host name (default: true with an endpoint)
    #[arg(
        id = "s3-path-style",
        long = "s3-path-style",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub path_style: Option<bool>,
    /// PEM file with certificate authorities to trust besides those of the system (or `AWS_CA_BUNDLE`)
    #[arg(id = "s3-ca-file", long = "s3-ca-file", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Pay for the requests to a bucket whose owner does not (`x-amz-request-payer: requester`)
    #[arg(id = "s3-requester-pays", long = "s3-requester-pays")]
    pub requester_pays: bool,
}

/// A location as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveLocation {
    /// A directory.
    Directory(PathBuf),
    /// A bucket, and a prefix without slashes at its ends, which may be empty.
    Bucket {
        /// Name of the bucket.
        bucket: String,
        /// Prefix of all keys of the archive.
        prefix: String,
    },
}

/// Location of `--archive` that replaces the destination of a manifest.
#[derive(Clone, Copy, Debug)]
pub struct DestinationOverride<'a> {
    /// The location.
    pub location: &'a ArchiveLocation,
    /// Connection to its bucket.
    pub s3: &'a S3Args,
    /// Context, of a command that uses one.
    pub context: Option<&'a SelectedContext>,
}

/// Access to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only: a missing directory is an error, and is not created.
    Read,
    /// Read and write: creates a missing directory.
    Write,
}

/// Destination of events.
#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    /// `spec.destination.s3`.
    Bucket(Box<S3Destination>),
    /// A directory, which no spec can name.
    Directory(PathBuf),
}

/// `spec.destination` with its Secrets.
pub struct ResolvedDestination {
    /// The destination; a bucket as a manifest states it.
    pub destination: Destination,
    /// Names of the settings in errors.
    pub names: SettingNames,
    pub(super) secrets: Secrets,
}

/// A location that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// An empty argument.
    #[error("the location is empty: give a directory or s3://bucket/prefix")]
    Empty,
    /// `s3://` without a usable bucket.
    #[error("{0} names no bucket: write s3://bucket/prefix")]
    NoBucket(String),
    /// Another scheme.
    #[error("{0}:// is not supported: give a directory or s3://bucket/prefix")]
    UnsupportedScheme(String),
}

/// An archive, opened for reading.
#[derive(Clone, Debug)]
pub struct OpenArchive {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Prefix of every key: empty, or ends with `/`.
    pub prefix: String,
    /// Name for messages: `s3://audit/tracker`, `export`.
    pub name: String,
    /// The export of a manifest; the prefix is its root then.
    pub export: Option<ExportSpec>,
    /// The resource that declares it, and the manifest with its Secrets.
    pub declared: Option<(ExportResource, Arc<ResourceManifest>)>,
    /// Names of settings in errors of the store.
    pub setting_names: SettingNames,
}

impl OpenArchive {
    /// Returns the content that the archive should have by the export of its manifest, if there is one.
    pub fn expectation(&self) -> Option<Expectation> {
        self.export
            .as_ref()
            .map(|export| export.expectation(Timestamp::now()))
    }
}

impl LocationArgs {
    /// Opens every archive that is named.
    pub async fn open(&self) -> Result<Vec<OpenArchive>, CliError> {
        let location = self.positional.as_ref().or(self.archive.as_ref());
        if location.is_none() && self.files.is_empty() {
            return Err(CliError::usage(
                "no archive is named: give ARCHIVE (DIR or s3://bucket/prefix), or -f FILE",
            ));
        }
        open_archives(location, &self.files, &self.s3, None).await
    }
}

/// Opens the archive of a location, or of a manifest one for each of its exports: in its bucket, or under the same keys
/// below the location. Without a manifest, the context may name the location and its connection.
pub async fn open_archives(
    location: Option<&ArchiveLocation>,
    files: &[PathBuf],
    s3: &S3Args,
    context: Option<&SelectedContext>,
) -> Result<Vec<OpenArchive>, CliError> {
    let layers = Layers {
        lookup: &env_value,
        context,
    };
    if files.is_empty() {
        return match resolve_location(location, &layers)? {
            None => Ok(Vec::new()),
            Some(location) => Ok(vec![open_location(&location, s3, &layers).await?]),
        };
    }
    let manifest = Arc::new(load::manifest(files)?);
    let mut archives = Vec::new();
    for resource in &manifest.exports {
        let archive = location.map(|location| DestinationOverride {
            location,
            s3,
            context,
        });
        archives.push(open_resource(resource, &manifest, archive).await?);
    }
    Ok(archives)
}

/// Returns the location of the flag, else of the context.
pub(super) fn resolve_location(
    typed: Option<&ArchiveLocation>,
    layers: &Layers<'_>,
) -> Result<Option<Resolved<ArchiveLocation>>, CliError> {
    if let Some(location) = typed {
        return Ok(Some(Resolved::of_flag(&layers::ARCHIVE, location.clone())));
    }
    let named = layers.text(&layers::ARCHIVE, None, |context| context.config.archive.as_ref())?;
    let Some(named) = named else { return Ok(None) };
    let location = named.parse(|text| text.parse::<ArchiveLocation>())?;
    let relative = |location| match (location, layers.context) {
        (ArchiveLocation::Directory(path), Some(context)) => {
            ArchiveLocation::Directory(context.file.resolve_path(&path))
        }
        (location, _) => location,
    };
    let Resolved { value, origin } = location;
    Ok(Some(Resolved {
        value: relative(value),
        origin,
    }))
}

async fn open_location(
    location: &Resolved<ArchiveLocation>,
    s3: &S3Args,
    layers: &Layers<'_>,
) -> Result<OpenArchive, CliError> {
    let resolved = ResolvedDestination::of_location(location, s3, layers)?;
    let location = &location.value;
    Ok(OpenArchive {
        store: resolved
            .open(Access::Read)
            .await
            .map_err(|failure| CliError::usage(failure.describe(&resolved.names)))?,
        prefix: location.key_prefix(),
        name: location.to_string(),
        export: None,
        declared: None,
        setting_names: resolved.names,
    })
}

async fn open_resource(
    resource: &ExportResource,
    manifest: &Arc<ResourceManifest>,
    archive: Option<DestinationOverride<'_>>,
) -> Result<OpenArchive, CliError> {
    let options = RunOptions::read_only(archive);
    let resource = job::apply_options(resource, &options, None);
    let process_context = job::process_context(&resource, "reader", &TokenCache::new(), &options);
    let export = job::export_spec(&resource, &process_context, &options, false)?;
    let destination = destination_of(&resource, manifest, archive)?;
    let store = job::open_for_reading(&resource, &destination).await?;
    Ok(OpenArchive {
        prefix: export.root.as_str().to_owned(),
        name: format!(
            "{}/{}",
            archive.map_or_else(
                || store.location().to_owned(),
                |archive| archive.location.store_name()
            ),
            export.root.as_str().trim_end_matches('/')
        ),
        store,
        export: Some(export),
        declared: Some((resource, Arc::clone(manifest))),
        setting_names: destination.names,
    })
}

impl DestinationOverride<'_> {
    /// Resolves the location, with the attributes of objects that the spec of the manifest requires.
    pub fn resolve(&self, spec: &S3Destination) -> Result<ResolvedDestination, CliError> {
        let layers = Layers {
            lookup: &env_value,
            context: self.context,
        };
        let location = Resolved::of_flag(&layers::ARCHIVE, self.location.clone());
        let mut resolved = ResolvedDestination::of_location(&location, self.s3, &layers)?;
        if let Destination::Bucket(bucket) = &mut resolved.destination {
            bucket.storage_class.clone_from(&spec.storage_class);
            bucket
                .server_side_encryption
                .clone_from(&spec.server_side_encryption);
            bucket.object_lock.clone_from(&spec.object_lock);
            bucket.checksum = spec.checksum;
            bucket.acl = spec.acl;
            bucket.request_payer = bucket.request_payer.or(spec.request_payer);
        }
        Ok(resolved)
    }
}

impl ResolvedDestination {
    /// Creates the destination of a manifest.
    pub fn of_spec(s3: &S3Destination, resolved: ResolvedSecrets) -> Self {
        Self {
            destination: Destination::Bucket(Box::new(s3.clone())),
            names: resolved.setting_names,
            secrets: resolved.secrets,
        }
    }

    /// Resolves the connection to a location.
    pub(super) fn of_location(
        location: &Resolved<ArchiveLocation>,
        args: &S3Args,
        layers: &Layers<'_>,
    ) -> Result<Self, CliError> {
        let place = match location.origin.layer {
            layers::Layer::Context => location.origin.to_string(),
            _ => "the location of the archive".to_owned(),
        };
        let names = SettingNames::default().with(Setting::Bucket, place);
        let bucket = match &location.value {
            ArchiveLocation::Directory(path) => {
                return Ok(Self {
                    destination: Destination::Directory(path.clone()),
                    names,
                    secrets: Secrets::default(),
                });
            }
            ArchiveLocation::Bucket { bucket, .. } => bucket.clone(),
        };
        let endpoint = layers.text(&layers::S3_ENDPOINT, args.endpoint.as_ref(), |context| {
            context.config.s3_endpoint.as_ref()
        })?;
        let endpoint = endpoint
            .map(|url| url.parse(|text| api::parse_endpoint(&text).map(|_| text)))
            .transpose()?;
        let region = layers.text(&layers::S3_REGION, args.region.as_ref(), |context| {
            context.config.s3_region.as_ref()
        })?;
        let path_style = layers.flag(&layers::S3_PATH_STYLE, args.path_style, |context| {
            context.config.s3_path_style
        })?;
        let ca_file = layers.path(&layers::S3_CA_FILE, args.ca_file.as_deref(), |context| {
            context.path(context.config.s3_ca_file.as_deref())
        })?;
        let endpoint_name = name_of(endpoint.as_ref(), &layers::S3_ENDPOINT);
        let region_name = name_of(region.as_ref(), &layers::S3_REGION);
        let names = names
            .with(
                Setting::BucketCredentials,
                format!("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, {endpoint_name} and {region_name}"),
            )
            .with(Setting::BucketRegion, region_name)
            .with(Setting::BucketEndpoint, endpoint_name)
            .with(Setting::BucketCa, name_of(ca_file.as_ref(), &layers::S3_CA_FILE));
        let [keys_object, ca_object] = [SECRET, CA.0].map(|name| ReferencedKind::Secret.named(name));
        let mut secrets = BTreeMap::new();
        if let Some(keys) = secrets::bucket_credentials(layers.lookup)? {
            secrets.insert(keys_object.clone(), keys.data);
        }
        if let Some(file) = ca_file {
            secrets.insert(
                ca_object.clone(),
                BTreeMap::from([(CA.1.to_owned(), read_ca(file)?)]),
            );
        }
        let destination = S3Destination {
            bucket,
            // The root of the export has the prefix of the location.
            prefix: None,
            region: region.map_or_else(|| DEFAULT_REGION.to_owned(), |region| region.value),
            endpoint: endpoint.map(|endpoint| endpoint.value),
            force_path_style: path_style.map(|path_style| path_style.value),
            service_account_name: None,
            credentials_secret_ref: secrets.contains_key(&keys_object).then(|| SecretRef {
                name: SECRET.to_owned(),
            }),
            ca_config_map_ref: None,
            ca_secret_ref: secrets.contains_key(&ca_object).then(|| CaSecretRef {
                name: CA.0.to_owned(),
                key: CA.1.to_owned(),
            }),
            storage_class: None,
            server_side_encryption: None,
            object_lock: None,
            checksum: Checksum::default(),
            acl: None,
            request_payer: args.requester_pays.then_some(RequestPayer::Requester),
        };
        Ok(Self {
            destination: Destination::Bucket(Box::new(destination)),
            names,
            secrets: Secrets(secrets),
        })
    }

    /// Opens the directory, or builds the client of the bucket.
    pub async fn open(&self, access: Access) -> Result<Arc<dyn Store>, Failure> {
        match &self.destination {
            Destination::Bucket(s3) => connect::s3(s3, &self.secrets, &process_context(String::new())).await,
            Destination::Directory(path) => {
                let store = match access {
                    Access::Read => DirectoryStore::open_read_only(path),
                    Access::Write => DirectoryStore::open(path),
                };
                let failed = |error: StoreError| Failure::from(&error).export_wide();
                Ok(Arc::new(store.map_err(failed)?))
            }
        }
    }
}

impl ArchiveLocation {
    /// Parses a location, also a path that is not UTF-8.
    pub fn parser() -> ValueParser {
        OsStringValueParser::new().try_map(Self::from_os_string).into()
    }

    fn from_os_string(typed: OsString) -> Result<Self, LocationError> {
        match typed.to_str() {
            Some(text) => text.parse(),
            None => Ok(Self::Directory(typed.into())),
        }
    }

    /// Returns the prefix of every key in the store: empty, or ends with `/`.
    pub fn key_prefix(&self) -> String {
        match self {
            Self::Bucket { prefix, .. } if !prefix.is_empty() => format!("{prefix}/"),
            Self::Bucket { .. } | Self::Directory(_) => String::new(),
        }
    }

    /// Returns the name of the store for messages, without the prefix.
    pub fn store_name(&self) -> String {
        match self {
            Self::Directory(path) => path.display().to_string(),
            Self::Bucket { bucket, .. } => format!("s3://{bucket}"),
        }
    }
}

impl fmt::Display for ArchiveLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.store_name())?;
        match self {
            Self::Bucket { prefix, .. } if !prefix.is_empty() => write!(f, "/{prefix}"),
            Self::Bucket { .. } | Self::Directory(_) => Ok(()),
        }
    }
}

impl FromStr for ArchiveLocation {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() || bucket.contains(|c: char| c.is_whitespace() || c == '@' || c == ':') {
                return Err(LocationError::NoBucket(text.to_owned()));
            }
            return Ok(Self::Bucket {
                bucket: bucket.to_owned(),
                prefix: prefix.trim_matches('/').to_owned(),
            });
        }
        match text.split_once("://") {
            Some((scheme, _)) if scheme.chars().all(|c| c.is_ascii_alphanumeric()) => {
                Err(LocationError::UnsupportedScheme(scheme.to_owned()))
            }
            _ => Ok(Self::Directory(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_directory_or_an_s3_url() {
        let bucket = |bucket: &str, prefix: &str| ArchiveLocation::Bucket {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        };
        for (text, location) in [
            ("s3://audit", bucket("audit", "")),
            ("s3://audit/a/b/", bucket("audit", "a/b")),
            ("./export", ArchiveLocation::Directory("./export".into())),
            ("a:b", ArchiveLocation::Directory("a:b".into())),
        ] {
            assert_eq!(text.parse::<ArchiveLocation>(), Ok(location), "{text}");
        }
        assert_eq!("".parse::<ArchiveLocation>(), Err(LocationError::Empty));
        assert!(matches!(
            "s3:///x".parse::<ArchiveLocation>(),
            Err(LocationError::NoBucket(_))
        ));
        assert!(
            matches!("https://h/b".parse::<ArchiveLocation>(), Err(LocationError::UnsupportedScheme(scheme)) if scheme == "https")
        );
    }

    #[tokio::test]
    async fn opening_an_archive_creates_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none");
        let open = async |path: &std::path::Path| {
            let args = LocationArgs {
                archive: Some(ArchiveLocation::Directory(path.to_owned())),
                ..LocationArgs::default()
            };
            args.open().await
        };
        let error = open(&missing).await.unwrap_err();
        assert!(
            matches!(&error, CliError::Usage(text) if text.contains("none does not exist")),
            "{error}"
        );
        assert!(!missing.exists());
        let present = open(folder.path()).await.unwrap().remove(0);
        assert!(present.store.list("").await.unwrap().is_empty());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
