//! Archives that a command reads: those of a location, or of each export of a manifest. Opening one writes nothing and needs
//! no permission to write.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::config::SelectedContext;
use super::exit::CliError;
use super::job::{self, RunOptions};
use super::load;
use super::manifest::{ExportResource, ResourceManifest};
use super::settings::destination::{
    Access, DestinationOverride, ResolvedDestination, S3Args, resolve_location,
};
use super::settings::destination_of;
use super::settings::environment::env_value;
use super::settings::layers::{Layers, Resolved};
use super::settings::location::{ARCHIVE_VALUE, ArchiveLocation};
use crate::api::SettingNames;
use crate::archive::coverage::Expectation;
use crate::export::spec::ExportSpec;
use crate::storage::Store;
use crate::tracker::TokenCache;

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

#[cfg(test)]
mod tests {
    use super::*;

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
