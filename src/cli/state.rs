//! Identity of an exporter without a cluster: a state folder of this user on this machine. Reads and writes the disk.
//!
//! The holder of a window must be the same after a crash and unique, so its name consists of host, user and folder,
//! and a lock allows only one process at a time to run an export under that name.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::export::shard::Shard;

/// Bytes of the digest in the name of a lock file: 16, enough to distinguish exports.
const LOCK_NAME_BYTES: usize = 16;

/// Maximum length of a given name, in characters: 200. Every record of the journal contains it.
const NAME_MAX: usize = 200;

/// Holder of attempts, as the journal names it: the same after a crash, and unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    name: String,
    folder: Option<StateDir>,
}

/// State folder: the one given, or the default below `$XDG_STATE_HOME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
    holder: String,
}

/// Lock on one export: no other process runs it with this folder. The system releases it when the process ends,
/// even after a crash.
#[derive(Debug)]
pub struct ExportLock {
    _file: File,
}

/// Error of opening the state folder or of locking an export.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The name given by `--holder` is invalid.
    #[error("--holder {0:?} is not a valid name: use 1 to {NAME_MAX} printable characters without spaces")]
    InvalidName(String),
    /// No folder is given, and the environment has no default.
    #[error("no state folder: set HOME or XDG_STATE_HOME, or use --state-dir")]
    NoStateDir,
    /// The folder or a file in it cannot be created or written.
    #[error("cannot use the state folder {path}: {cause}; choose another with --state-dir")]
    Unusable {
        /// Folder, or file in it.
        path: String,
        /// Error of the operating system.
        cause: io::Error,
    },
    /// Another process runs the export.
    #[error(
        "another process of this state folder is exporting {export} (lock file {path}): wait for it, or stop it"
    )]
    Locked {
        /// Name of the export.
        export: String,
        /// Lock file.
        path: String,
    },
}

impl Holder {
    /// Opens the holder with the given name, or with the name of the state folder. The caller must ensure that only one
    /// process at a time uses a given name, as a Job does. Each shard is a separate holder.
    pub fn open(named: Option<&str>, folder: Option<&Path>, shard: Shard) -> Result<Self, StateError> {
        if let Some(name) = named {
            let printable = |c: char| !c.is_control() && !c.is_whitespace();
            if name.is_empty() || name.chars().count() > NAME_MAX || !name.chars().all(printable) {
                return Err(StateError::InvalidName(name.chars().take(NAME_MAX).collect()));
            }
        }
        let folder = match (named, folder) {
            (Some(_), None) => None,
            (_, folder) => Some(StateDir::open(folder)?),
        };
        let name = named.or(folder.as_ref().map(StateDir::holder));
        let mut name = name.ok_or(StateError::NoStateDir)?.to_owned();
        if !shard.is_single() {
            let _ = write!(name, "#{shard}");
        }
        Ok(Self { name, folder })
    }

    /// Returns the name as the journal records it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Locks an export, if there is a state folder: `identity` names its store and root, `export` is for the error.
    pub fn lock(&self, identity: &str, export: &str) -> Result<Option<ExportLock>, StateError> {
        let lock = self.folder.as_ref().map(|folder| {
            // Another holder may run the same export: the journal separates them.
            folder.lock(&format!("{} {identity}", self.name), export)
        });
        lock.transpose()
    }
}

impl StateDir {
    /// Opens the given folder, else `$XDG_STATE_HOME/eventexport`, else `~/.local/state/eventexport`.
    /// Creates it with mode 0700 if it does not exist.
    pub fn open(given: Option<&Path>) -> Result<Self, StateError> {
        let variable = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let path = given
            .map(Path::to_owned)
            .or_else(|| variable("XDG_STATE_HOME").map(|state| state.join("eventexport")))
            .or_else(|| variable("HOME").map(|home| home.join(".local/state/eventexport")))
            .ok_or(StateError::NoStateDir)?;
        let created = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .and_then(|()| path.canonicalize());
        let path = created.map_err(|cause| StateError::Unusable {
            path: path.display().to_string(),
            cause,
        })?;
        let holder = format!("run:{}/{}/{}", host(), user(), path.display());
        Ok(Self { path, holder })
    }

    /// Returns `run:host/user/folder`, the name of this user on this machine in the journal.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Locks an export: `identity` names its store and root, `export` is for the error.
    pub fn lock(&self, identity: &str, export: &str) -> Result<ExportLock, StateError> {
        let digest = Sha256::digest(identity.as_bytes());
        let name = digest
            .iter()
            .take(LOCK_NAME_BYTES)
            .fold(String::new(), |mut name, byte| {
                let _ = write!(name, "{byte:02x}");
                name
            });
        let path = self.path.join(format!("{name}.lock"));
        let unusable = |cause| StateError::Unusable {
            path: path.display().to_string(),
            cause,
        };
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StateError::Locked {
                    export: export.to_owned(),
                    path: path.display().to_string(),
                });
            }
            Err(TryLockError::Error(cause)) => return Err(unusable(cause)),
        }
        // Explains the file to a user who finds it; only the lock matters.
        let note = format!("{identity}\nprocess {}\n", std::process::id());
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(note.as_bytes()));
        written.map_err(unusable)?;
        Ok(ExportLock { _file: file })
    }
}

fn host() -> String {
    let name = hostname::get()
        .ok()
        .map(|name| name.to_string_lossy().trim().to_owned());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown-host".to_owned())
}

fn user() -> String {
    let named = ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok());
    named
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown-user".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_is_its_own_holder_and_a_given_name_needs_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let part = |text: &str| Holder::open(None, Some(folder.path()), text.parse().unwrap()).unwrap();
        let (one, two) = (part("0/2"), part("1/2"));
        assert!(one.name().ends_with("#0/2") && two.name().ends_with("#1/2"));
        let _one = one.lock("s3://a space=1", "audit").unwrap().unwrap();
        let _two = two.lock("s3://a space=1", "audit").unwrap().unwrap();
        assert!(part("0/2").lock("s3://a space=1", "audit").is_err());

        let pod = Holder::open(Some("job:audit/long"), None, "3/8".parse().unwrap()).unwrap();
        assert_eq!(pod.name(), "job:audit/long#3/8");
        assert!(pod.lock("s3://a space=1", "audit").unwrap().is_none());
        for wrong in ["", "two words", "line\nbreak", &"x".repeat(201)] {
            let error = Holder::open(Some(wrong), None, Shard::SINGLE).unwrap_err();
            assert!(error.to_string().starts_with("--holder"), "{error}");
        }
    }

    #[test]
    fn an_export_is_locked_once_and_others_stay_free() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(&folder.path().join("new"))).unwrap();
        assert!(state.holder().starts_with("run:") && state.holder().ends_with("/new"));
        let first = state.lock("s3://a space=1", "audit").unwrap();
        let error = state.lock("s3://a space=1", "audit").unwrap_err();
        assert!(matches!(error, StateError::Locked { .. }) && error.to_string().contains("audit"));
        state.lock("s3://a space=2", "other").unwrap();
        drop(first);
        state.lock("s3://a space=1", "audit").unwrap();
    }
}
