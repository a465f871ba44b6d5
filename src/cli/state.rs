//! Who exports, without a cluster: a folder that stands for this user on this machine. Touches the disk.
//!
//! The holder of a window must be the same after a crash and different for everyone else, so it is named by
//! host, user and folder, and a lock lets one process at a time hold one export with it.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::export::shard::Shard;

/// Bytes of a digest that name a lock: 16, more than enough to tell exports apart.
const LOCK_NAME_BYTES: usize = 16;

/// Characters of a name that was given, at most: 200. It is in every record of the journal.
const NAME_MAX: usize = 200;

/// Who exports, as the journal names it: the same after a crash, different for everyone else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    name: String,
    folder: Option<StateDir>,
}

/// The folder below `$XDG_STATE_HOME`, or the one that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
    holder: String,
}

/// While it lives, no other process exports the same with this folder. Freed by the system when the process
/// dies, however it dies.
#[derive(Debug)]
pub struct ExportLock {
    _file: File,
}

/// Why there is no claim.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A name that cannot be one.
    #[error(
        "--holder {0:?} cannot be a name in the journal: give 1 to {NAME_MAX} printable characters, no spaces"
    )]
    InvalidName(String),
    /// Neither asked for nor to be found out.
    #[error("no state folder: set HOME or XDG_STATE_HOME, or give --state-dir")]
    NoStateDir,
    /// The disk says no.
    #[error("the state folder {path} cannot be used: {cause}; give another by --state-dir")]
    Unusable {
        /// The folder.
        path: String,
        /// The system's words.
        cause: io::Error,
    },
    /// Another process is at it.
    #[error(
        "{what} is being exported by another process of this state folder ({path}): wait for it, or stop it"
    )]
    Locked {
        /// Which export.
        what: String,
        /// The lock file.
        path: String,
    },
}

impl Holder {
    /// By the name that was given, which somebody else has to keep to one process at a time, as a Job does; else
    /// by a folder of this user on this machine. Each shard is a holder of its own.
    pub fn open(named: Option<&str>, folder: Option<&Path>, shard: Shard) -> Result<Self, StateError> {
        if let Some(name) = named {
            let printable = |c: char| !c.is_control() && !c.is_whitespace();
            if name.is_empty() || name.chars().count() > NAME_MAX || !name.chars().all(printable) {
                return Err(StateError::InvalidName(name.chars().take(NAME_MAX).collect()));
            }
        }
        let folder = match (named, folder) {
            (Some(_), None) => None,
            (_, asked) => Some(StateDir::open(asked)?),
        };
        let name = named.or(folder.as_ref().map(StateDir::holder));
        let mut name = name.ok_or(StateError::NoStateDir)?.to_owned();
        if !shard.is_single() {
            let _ = write!(name, "#{shard}");
        }
        Ok(Self { name, folder })
    }

    /// As the journal has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Claims one export, where there is a folder to do it in: `identity` names its store and root, `what` is for
    /// people.
    pub fn lock(&self, identity: &str, what: &str) -> Result<Option<ExportLock>, StateError> {
        let claimed = self.folder.as_ref().map(|folder| {
            // Another name may export the same: the journal keeps them apart.
            folder.lock(&format!("{} {identity}", self.name), what)
        });
        claimed.transpose()
    }
}

impl StateDir {
    /// The folder that was asked for, or `$XDG_STATE_HOME/eventexport`, or `~/.local/state/eventexport`.
    /// Made when it is not there, for this user alone.
    pub fn open(asked: Option<&Path>) -> Result<Self, StateError> {
        let variable = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let path = asked
            .map(Path::to_owned)
            .or_else(|| variable("XDG_STATE_HOME").map(|state| state.join("eventexport")))
            .or_else(|| variable("HOME").map(|home| home.join(".local/state/eventexport")))
            .ok_or(StateError::NoStateDir)?;
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .and_then(|()| path.canonicalize());
        let path = made.map_err(|cause| StateError::Unusable {
            path: path.display().to_string(),
            cause,
        })?;
        let holder = format!("run:{}/{}/{}", host(), user(), path.display());
        Ok(Self { path, holder })
    }

    /// `run:host/user/folder`, as the journal names this user on this machine.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Claims one export: `identity` names its store and root, `what` is for people.
    pub fn lock(&self, identity: &str, what: &str) -> Result<ExportLock, StateError> {
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
                    what: what.to_owned(),
                    path: path.display().to_string(),
                });
            }
            Err(TryLockError::Error(cause)) => return Err(unusable(cause)),
        }
        // For a person who wonders what the file is; the lock is what counts.
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
