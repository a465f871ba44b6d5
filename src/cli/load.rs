//! The manifest that the arguments name, read and checked. Reads files or standard input.

use std::path::PathBuf;

use super::documents::Origin;
use super::exit::Fault;
use super::job;
use super::manifest::{self, Manifest};

/// Reads every file as one manifest, and tells on standard error which objects are not for us.
pub fn manifest(files: &[PathBuf]) -> Result<Manifest, Fault> {
    let mut documents = Vec::new();
    for file in files {
        let more = Origin::of(file)
            .documents()
            .map_err(|error| Fault::usage(format!("-f: {error}")))?;
        documents.extend(more);
    }
    let origin = files
        .iter()
        .map(|file| Origin::of(file).name())
        .collect::<Vec<_>>()
        .join(", ");
    let manifest = manifest::read(documents).map_err(|errors| job::wrong_manifest(&origin, &errors))?;
    if !manifest.others.is_empty() {
        eprintln!(
            "{origin}: not for this command, left alone: {}",
            manifest.others.join(", ")
        );
    }
    Ok(manifest)
}
