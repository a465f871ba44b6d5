//! Loads the manifest of `-f` and validates it. Reads files or standard input.

use std::path::PathBuf;

use super::documents::ManifestInput;
use super::exit::CliError;
use super::manifest::{self, ManifestError, ResourceManifest};
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
        manifest::from_documents(documents).map_err(|errors| invalid_manifest(&origin, &errors))?;
    if !manifest.skipped.is_empty() {
        write_stderr(&format!(
            "{origin}: ignoring objects of other kinds: {}",
            manifest.skipped.join(", ")
        ));
    }
    Ok(manifest)
}

/// Returns a usage error with a line for each problem of a manifest.
fn invalid_manifest(origin: &str, errors: &[ManifestError]) -> CliError {
    let lines: Vec<String> = errors.iter().map(|error| format!("{origin}: {error}")).collect();
    CliError::usage(lines.join("\n"))
}
