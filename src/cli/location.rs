//! Location of an archive: a directory, `s3://bucket/prefix`, or the destination of a manifest. Builds clients and
//! opens directories. Opening for reading writes nothing and needs no permission to write.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use jiff::Timestamp;
use secrecy::SecretString;
use url::Url;

use super::exit::CliError;
use super::job::{self, RunOptions};
use super::manifest::{ExportResource, ResourceManifest};
use super::secrets;
use super::{documents, load};
use crate::api::{self, S3Destination, Setting, SettingNames};
use crate::archive::coverage::Expectation;
use crate::egress::{HostPolicy, Traffic};
use crate::export::connect;
use crate::export::spec::ExportSpec;
use crate::storage::{
    ChecksumMode, DirectoryStore, S3Credentials, S3Settings, S3Store, S3Timeouts, Store, StoreError,
};
use crate::tracker::TokenCache;

/// Default region of signatures; most stores with their own endpoint ignore it.
const DEFAULT_REGION: &str = "us-east-1";

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
    /// Address of an S3-compatible store (default: AWS)
    #[arg(
        id = "s3-endpoint",
        long = "s3-endpoint",
        value_name = "URL",
        env = "AWS_ENDPOINT_URL_S3",
        value_parser = api::parse_endpoint
    )]
    pub endpoint: Option<Url>,
    /// Region of the bucket (default: `AWS_DEFAULT_REGION` or us-east-1)
    #[arg(
        id = "s3-region",
        long = "s3-region",
        value_name = "REGION",
        env = "AWS_REGION"
    )]
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
    /// PEM file with certificate authorities to trust besides those of the system
    #[arg(
        id = "s3-ca-file",
        long = "s3-ca-file",
        value_name = "FILE",
        env = "AWS_CA_BUNDLE"
    )]
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
}

/// Access to the store of a location.
#[derive(Clone, Copy, Debug)]
pub enum Access<'a> {
    /// Read only: a missing directory is an error, and is not created.
    Read,
    /// Read and write: creates a missing directory; objects in a bucket get the attributes of this destination.
    Write(&'a S3Destination),
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
    /// Opens every archive that is named: by a location, or by `-f` with one for each of its exports (in the bucket of the
    /// manifest, or under the same keys below the location).
    pub async fn open(&self) -> Result<Vec<OpenArchive>, CliError> {
        let location = self.positional.as_ref().or(self.archive.as_ref());
        if self.files.is_empty() {
            let location = location.ok_or_else(|| {
                CliError::usage("no archive is named: give ARCHIVE (DIR or s3://bucket/prefix), or -f FILE")
            })?;
            return Ok(vec![location.open(&self.s3).await?]);
        }
        let manifest = Arc::new(load::manifest(&self.files)?);
        let mut locations = Vec::new();
        for resource in &manifest.exports {
            locations.push(self.open_resource(resource, &manifest, location).await?);
        }
        Ok(locations)
    }

    async fn open_resource(
        &self,
        resource: &ExportResource,
        manifest: &Arc<ResourceManifest>,
        location: Option<&ArchiveLocation>,
    ) -> Result<OpenArchive, CliError> {
        let s3 = &self.s3;
        let options = RunOptions::read_only(location.map(|location| DestinationOverride { location, s3 }));
        let resource = job::apply_options(resource, &options, None);
        let process_context = job::process_context(&resource, "reader", &TokenCache::new(), &options);
        let export = job::export_spec(&resource, &process_context, &options, false)?;
        let (store, setting_names) =
            job::open_for_reading(&resource, manifest, &process_context, &options).await?;
        Ok(OpenArchive {
            prefix: export.root.as_str().to_owned(),
            name: format!(
                "{}/{}",
                location.map_or_else(|| store.location().to_owned(), ArchiveLocation::store_name),
                export.root.as_str().trim_end_matches('/')
            ),
            store,
            export: Some(export),
            declared: Some((resource, Arc::clone(manifest))),
            setting_names,
        })
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

    /// Opens the archive for reading.
    pub async fn open(&self, s3: &S3Args) -> Result<OpenArchive, CliError> {
        Ok(OpenArchive {
            store: self.store(s3, Access::Read).await?,
            prefix: self.key_prefix(),
            name: match self {
                Self::Directory(_) => self.store_name(),
                Self::Bucket { prefix, .. } if prefix.is_empty() => self.store_name(),
                Self::Bucket { prefix, .. } => format!("{}/{prefix}", self.store_name()),
            },
            export: None,
            declared: None,
            setting_names: self.setting_names(),
        })
    }

    /// Opens the directory, or builds the client of the bucket.
    pub async fn store(&self, s3: &S3Args, access: Access<'_>) -> Result<Arc<dyn Store>, CliError> {
        let usage = |error: StoreError| CliError::usage(error.describe(&self.setting_names()));
        match self {
            Self::Directory(path) => {
                let store = match access {
                    Access::Read => DirectoryStore::open_read_only(path),
                    Access::Write(_) => DirectoryStore::open(path),
                };
                Ok(Arc::new(store.map_err(usage)?))
            }
            Self::Bucket { bucket, .. } => {
                let settings = s3.settings(bucket)?;
                let settings = match access {
                    Access::Read => settings,
                    Access::Write(destination) => connect::with_object_attributes(settings, destination),
                };
                Ok(Arc::new(S3Store::connect(settings).await.map_err(usage)?))
            }
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

    /// Returns the names of the settings of this location in errors.
    pub fn setting_names(&self) -> SettingNames {
        match self {
            Self::Directory(_) => {
                SettingNames::default().with(Setting::Bucket, "the location of the archive")
            }
            Self::Bucket { .. } => s3_setting_names(),
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

impl S3Args {
    fn settings(&self, bucket: &str) -> Result<S3Settings, CliError> {
        let endpoint = match &self.endpoint {
            Some(endpoint) => Some(endpoint.clone()),
            None => env_string("AWS_ENDPOINT_URL")?
                .map(|text| api::parse_endpoint(&text))
                .transpose()
                .map_err(|rule| CliError::usage(format!("AWS_ENDPOINT_URL: {rule}")))?,
        };
        let region = match &self.region {
            Some(region) => region.clone(),
            None => env_string("AWS_DEFAULT_REGION")?.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
        };
        let ca_pem = self
            .ca_file
            .as_deref()
            .map(documents::read_small_file)
            .transpose();
        Ok(S3Settings {
            bucket: bucket.to_owned(),
            region,
            force_path_style: self.path_style.unwrap_or(endpoint.is_some()),
            endpoint,
            credentials: env_credentials()?,
            ca_pem: ca_pem.map_err(|error| CliError::usage(format!("--s3-ca-file: {error}")))?,
            storage_class: None,
            server_side_encryption: None,
            object_lock: None,
            checksum: ChecksumMode::default(),
            acl: None,
            requester_pays: self.requester_pays,
            timeouts: S3Timeouts::default(),
            hosts: HostPolicy::any(),
            traffic: Traffic::default(),
        })
    }
}

/// Keys from the environment, also by `…_FILE`; otherwise the default chain of the SDK.
fn env_credentials() -> Result<S3Credentials, CliError> {
    let id = env_string("AWS_ACCESS_KEY_ID")?;
    let key = env_string("AWS_SECRET_ACCESS_KEY")?;
    match (id, key) {
        (Some(access_key_id), Some(key)) => Ok(S3Credentials::Static {
            access_key_id,
            secret_access_key: SecretString::from(key),
            session_token: env_string("AWS_SESSION_TOKEN")?.map(SecretString::from),
        }),
        (None, None) => Ok(S3Credentials::PodIdentity),
        (Some(_), None) => Err(CliError::usage(
            "AWS_SECRET_ACCESS_KEY is not set, though AWS_ACCESS_KEY_ID is: set both",
        )),
        (None, Some(_)) => Err(CliError::usage(
            "AWS_ACCESS_KEY_ID is not set, though AWS_SECRET_ACCESS_KEY is: set both",
        )),
    }
}

fn env_string(name: &str) -> Result<Option<String>, CliError> {
    let Some(bytes) = secrets::env_value(name).map_err(CliError::usage)? else {
        return Ok(None);
    };
    String::from_utf8(bytes)
        .map(|text| Some(text.trim().to_owned()))
        .map_err(|_| CliError::usage(format!("{name} is not UTF-8 text: correct the value")))
}

/// Names of settings that flags and variables give.
fn s3_setting_names() -> SettingNames {
    SettingNames::default()
        .with(Setting::Bucket, "the location of the archive")
        .with(
            Setting::BucketCredentials,
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, --s3-endpoint and --s3-region",
        )
        .with(Setting::BucketRegion, "--s3-region")
        .with(Setting::BucketEndpoint, "--s3-endpoint")
        .with(Setting::BucketCa, "--s3-ca-file")
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
