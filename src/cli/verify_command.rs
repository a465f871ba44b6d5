//! Command line that verifies the archive of a run, for its summary. No I/O.

use std::path::{Path, PathBuf};

use super::manifest::ResourceManifest;
use super::settings::destination::S3Args;
use super::settings::export::LoadedExports;
use super::settings::location::ArchiveLocation;
use crate::api::S3Destination;

/// Arguments of the run.
#[derive(Clone, Copy, Debug)]
pub struct RunSource<'a> {
    /// Files of `-f`.
    pub files: &'a [PathBuf],
    /// Connection of `--archive`.
    pub s3: &'a S3Args,
    /// True if the events are simulated: the manifest names another source.
    pub simulated: bool,
}

/// Returns the command that verifies the only export of a run; `None`: there are several, or standard input was the manifest.
pub fn verify_command(exports: &LoadedExports, run: RunSource<'_>) -> Option<String> {
    let LoadedExports {
        manifest: ResourceManifest {
            exports: resources, ..
        },
        archive,
    } = exports;
    let [resource] = resources.as_slice() else {
        return None;
    };
    let mut words = vec!["eventexport".to_owned(), "verify".to_owned()];
    let mut add = |flag: &str, value: Option<String>| {
        if let Some(value) = value {
            words.extend([flag.to_owned(), quoted(&value)]);
        }
    };
    if !run.files.is_empty() && !run.simulated {
        if run.files.iter().any(|file| file.as_path() == Path::new("-")) {
            return None;
        }
        for file in run.files {
            add("-f", Some(file.display().to_string()));
        }
        if let Some(location) = archive {
            add("--archive", Some(location.to_string()));
            add("--s3-endpoint", run.s3.endpoint.clone());
            add("--s3-region", run.s3.region.clone());
        }
        return Some(words.join(" "));
    }
    let s3 = &resource.spec.destination.s3;
    let (location, endpoint, region) = match archive {
        Some(location) => (location.to_string(), &run.s3.endpoint, run.s3.region.as_ref()),
        None => (location_of(s3).to_string(), &s3.endpoint, Some(&s3.region)),
    };
    add("--archive", Some(location));
    add("--s3-endpoint", endpoint.clone());
    add("--s3-region", region.cloned());
    if !run.simulated {
        add("--start", Some(resource.spec.date_range.start.clone()));
        add("--end", resource.spec.date_range.end.clone());
    }
    Some(words.join(" "))
}

fn location_of(s3: &S3Destination) -> ArchiveLocation {
    ArchiveLocation::Bucket {
        bucket: s3.bucket.clone(),
        prefix: s3.prefix.clone().unwrap_or_default(),
    }
}

/// Quotes a word for a shell, where that is needed.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./:=@%+,-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::super::{documents, manifest};
    use super::*;

    const EXPORT: &str = "
apiVersion: eventexport.io/v1alpha1
kind: EventExport
metadata: {name: a}
spec:
  space: s
  dateRange: {start: 2018-06-01, end: 2018-06-30}
  source: {region: us-south, credentialsSecretRef: {name: tracker}}
  destination: {s3: {bucket: audit, prefix: tracker, endpoint: \"https://s3.example\"}}
";

    fn command(files: &[&str], archive: Option<&str>, simulated: bool, text: &str) -> Option<String> {
        let exports = LoadedExports {
            manifest: manifest::from_documents(documents::parse(text).unwrap()).unwrap(),
            archive: archive.map(|location| location.parse().unwrap()),
        };
        let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
        let s3 = S3Args::default();
        verify_command(
            &exports,
            RunSource {
                files: &files,
                s3: &s3,
                simulated,
            },
        )
    }

    #[test]
    fn the_command_names_the_archive_as_the_run_did() {
        let two = format!("{EXPORT}---{}", EXPORT.replace("name: a", "name: b"));
        for (files, archive, simulated, expected) in [
            (&["audit.yaml"][..], None, false, "-f audit.yaml"),
            (
                &["audit.yaml"],
                Some("./my copy"),
                false,
                "-f audit.yaml --archive './my copy'",
            ),
            (&["audit.yaml"], Some("it's"), true, "--archive 'it'\\''s'"),
            (
                &[],
                Some("./export"),
                false,
                "--archive ./export --start 2018-06-01 --end 2018-06-30",
            ),
            (
                &[],
                None,
                false,
                "--archive s3://audit/tracker --s3-endpoint https://s3.example --s3-region us-east-1 --start 2018-06-01 --end \
                 2018-06-30",
            ),
        ] {
            let command = command(files, archive, simulated, EXPORT).unwrap();
            assert_eq!(command, format!("eventexport verify {expected}"));
        }
        assert_eq!(command(&["-"], None, false, EXPORT), None);
        assert_eq!(command(&["audit.yaml"], None, false, &two), None);
    }
}
