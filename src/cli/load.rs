//! Loads the manifest of `-f` and validates it. Reads files or standard input.

use std::path::PathBuf;

use super::documents::ManifestInput;
use super::exit::CliError;
use super::job;
use super::manifest::{self, ResourceManifest};
use super::output::write_stderr;
use super::secret_file;

/// Reads all files as one manifest, and lists the skipped objects on standard error.
pub fn manifest(files: &[PathBuf]) -> Result<ResourceManifest, CliError> {
    let mut documents = Vec::new();
    for file in files {
        let parsed = ManifestInput::from_path(file)
            .read_documents()
            .map_err(|error| CliError::usage(format!("-f: {error}")))?;
        if parsed.iter().any(|document| document["kind"] == "Secret")
            && let Ok(metadata) = file.metadata()
        {
            secret_file::warn_if_exposed(file, &metadata);
        }
        documents.extend(parsed);
    }
    let origin = files
        .iter()
        .map(|file| ManifestInput::from_path(file).name())
        .collect::<Vec<_>>()
        .join(", ");
    let manifest =
        manifest::from_documents(documents).map_err(|errors| job::invalid_manifest(&origin, &errors))?;
    if !manifest.skipped.is_empty() {
        write_stderr(&format!(
            "{origin}: ignoring objects of other kinds: {}",
            manifest.skipped.join(", ")
        ));
    }
    Ok(manifest)
}
