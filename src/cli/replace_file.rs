//! Replacement of a file at once: a reader sees the old file or the new one. File I/O.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Writes a file, or replaces it. If that fails, the old file stays. `mode`: of a new file, less the umask.
pub fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // A symbolic link stays a link; its target is replaced.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let draft = hidden_sibling(&target, &format!("{}.new", std::process::id()));
    let written = File::options()
        .create_new(true)
        .write(true)
        .mode(mode)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&draft, &target));
    if written.is_err() {
        // Best effort: a leftover draft does no harm.
        let _ = fs::remove_file(&draft);
    }
    written
}

/// Returns a hidden file in the same directory.
pub fn hidden_sibling(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent_dir(path).join(format!(".{name}.{suffix}"))
}

/// Returns the directory of a file.
pub fn parent_dir(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
