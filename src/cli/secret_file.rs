//! Reads files with secrets, and warns on standard error about those that other users may read. File I/O.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::output::write_stderr;

/// Maximum size of a file with a secret, in bytes: 1 MiB, as a Secret.
pub const SECRET_FILE_MAX_BYTES: u64 = 1024 * 1024;

/// Permission bits of group and others; a file with secrets has none of them.
const OTHERS_MASK: u32 = 0o077;

/// Maximum number of files that are remembered, to warn about each once.
const WARNED_MAX: usize = 1000;

static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Reads a file with a secret, at most 1 MiB, and warns if it is not private. Errors name the path.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| {
            warn_if_exposed(path, &file.metadata()?);
            file.take(SECRET_FILE_MAX_BYTES + 1).read_to_end(&mut bytes)
        })
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if bytes.len() as u64 > SECRET_FILE_MAX_BYTES {
        return Err(format!("{} is larger than 1 MiB", path.display()));
    }
    Ok(bytes)
}

/// Prints a warning, once for each path, if others than the owner have access to a file with secrets.
pub fn warn_if_exposed(path: &Path, metadata: &Metadata) {
    let Some(problem) = exposure(path, metadata) else {
        return;
    };
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if warned.len() < WARNED_MAX && warned.insert(path.to_owned()) {
        write_stderr(&format!("eventexport: warning: {problem}"));
    }
}

/// Returns the problem and its remedy if others than the owner have access to a file with secrets. A pipe has no other
/// readers, and a volume that the kubelet writes belongs to one Pod.
pub fn exposure(path: &Path, metadata: &Metadata) -> Option<String> {
    let mode = metadata.permissions().mode() & 0o7777;
    if !metadata.is_file() || mode & OTHERS_MASK == 0 || is_in_kubelet_volume(path) {
        return None;
    }
    let path = path.display();
    Some(format!(
        "{path} contains secrets, and its mode {mode:04o} gives other users access: run `chmod 600 {path}`"
    ))
}

/// Returns true for a file of a volume with a Secret: the kubelet switches such a volume by the link `..data`.
fn is_in_kubelet_volume(path: &Path) -> bool {
    path.parent()
        .is_some_and(|folder| folder.join("..data").is_symlink())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_secret_file_is_private_or_its_exposure_names_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "k").unwrap();
        for (mode, exposed) in [
            (0o600, false),
            (0o400, false),
            (0o644, true),
            (0o640, true),
            (0o604, true),
            (0o620, true),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let problem = exposure(&path, &path.metadata().unwrap());
            assert_eq!(problem.is_some(), exposed, "{mode:o}");
            if let Some(problem) = problem {
                let remedy = format!("chmod 600 {}", path.display());
                assert!(
                    problem.contains(&remedy) && problem.contains(&format!("{mode:04o}")),
                    "{problem}"
                );
            }
        }
        std::os::unix::fs::symlink("somewhere", folder.path().join("..data")).unwrap();
        assert_eq!(exposure(&path, &path.metadata().unwrap()), None);
    }
}
