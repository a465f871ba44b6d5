//! The destination of a command: a directory, a bucket, or that of a manifest. Flags, environment and context, or the manifest,
//! become `spec.destination` and its Secrets, and then a store. Builds clients and opens directories; sends no requests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::config::SelectedContext;
use super::super::exit::CliError;
use super::environment::env_value;
use super::layers::{self, Layers, Resolved, name_of};
use super::location::ArchiveLocation;
use super::process_context;
use super::secrets::{self, ResolvedSecrets};
use super::source::read_ca;
use crate::api::{
    self, CaSecretRef, Checksum, ReferencedKind, RequestPayer, S3Destination, SecretRef, Setting,
    SettingNames,
};
use crate::export::connect::{self, Secrets};
use crate::export::failure::Failure;
use crate::storage::{DirectoryStore, Store, StoreError};

/// Default region of signatures; most stores with their own endpoint ignore it.
const DEFAULT_REGION: &str = "us-east-1";

/// Name of the Secret with the keys of a bucket that no manifest describes.
const SECRET: &str = "archive";

/// Name of the Secret with the certificate authority of its store, and its key.
const CA: (&str, &str) = ("archive-ca", "ca.crt");

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

/// Returns the location of the flag, else of the context.
pub fn resolve_location(
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
    pub fn of_location(
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
