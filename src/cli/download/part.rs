//! Output file of a download: `FILE.part` and its state `FILE.part.json`, and `FILE` when the download is complete.
//! Reads and writes files.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::part_state::{DownloadIdentity, PART_STATE_MAX_BYTES, PartState};

/// Maximum attempts to open the partial file while other processes complete it: 3.
const OPEN_TRIES_MAX: usize = 3;

/// Error of the output file.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// The file exists.
    #[error("{} exists: choose another file, or use --force to overwrite it", .0.display())]
    Exists(PathBuf),
    /// The path is a directory, a device or a pipe.
    #[error("{} is not a regular file: choose another file, or omit -o and redirect standard output", .0.display())]
    NotAFile(PathBuf),
    /// Another process writes the partial file.
    #[error("another process is downloading to {}", .0.display())]
    Locked(PathBuf),
    /// The partial file belongs to another download.
    #[error("{} belongs to another download ({download}): finish that download, choose another file, or use --force to discard the partial file", part.display())]
    Foreign {
        /// Partial file.
        part: PathBuf,
        /// Download that the file belongs to.
        download: String,
    },
    /// The partial file has no readable state.
    #[error("cannot tell which download {} belongs to: move it away, or use --force to discard it", .0.display())]
    Unidentified(PathBuf),
    /// Reading or writing failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Failed operation, as a verb.
        operation: &'static str,
        /// Cause.
        source: io::Error,
    },
}

/// Paths of an output file.
#[derive(Clone, Debug)]
pub struct PartPaths {
    /// `FILE`, as given by the user.
    pub file: PathBuf,
    /// `FILE.part`: bytes of an incomplete download.
    pub part: PathBuf,
    /// `FILE.part.json`: state of the download.
    pub state: PathBuf,
}

/// Partial file, locked by this process.
#[derive(Debug)]
pub struct PartFile {
    /// Paths of the file.
    pub paths: PartPaths,
    data: File,
    state: PartState,
    replace: bool,
    /// State of a partial file that `--force` discarded.
    pub discarded: Option<PartState>,
}

impl PartPaths {
    /// Returns the paths for a file.
    pub fn for_file(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            part: with_suffix(file, ".part"),
            state: with_suffix(file, ".part.json"),
        }
    }
}

impl PartFile {
    /// Opens the partial file of this download, or creates one.
    pub fn open(file: &Path, replace: bool, identity: DownloadIdentity) -> Result<Self, PartError> {
        let paths = PartPaths::for_file(file);
        match fs::metadata(file) {
            Ok(metadata) if !metadata.is_file() => return Err(PartError::NotAFile(paths.file)),
            Ok(_) if !replace => return Err(PartError::Exists(paths.file)),
            _ => {}
        }
        let data = open_locked(&paths.part)?;
        let length = data
            .metadata()
            .map_err(|error| io_error(&paths.part, "read", error))?
            .len();
        let stored = match read_state(&paths.state)? {
            StoredState::Valid(state) => Some(*state),
            StoredState::Missing => None,
            StoredState::Unreadable if replace => None,
            StoredState::Unreadable => return Err(PartError::Unidentified(paths.part)),
        };
        let mut part = Self {
            paths,
            data,
            state: PartState::new(identity),
            replace,
            discarded: None,
        };
        match stored {
            Some(state) if state.identity == part.state.identity => {
                part.state = state;
                return Ok(part);
            }
            Some(state) if replace => part.discarded = Some(state),
            // The other download has no bytes and no open session.
            Some(state) if length == 0 && state.current.is_none() => {}
            Some(state) => {
                return Err(PartError::Foreign {
                    part: part.paths.part.clone(),
                    download: format!("{} at {}", state.identity.asked, state.identity.endpoint),
                });
            }
            None if length > 0 && !replace => return Err(PartError::Unidentified(part.paths.part.clone())),
            None => {}
        }
        part.truncate(0)?;
        Ok(part)
    }

    /// Returns the state.
    pub fn state(&self) -> &PartState {
        &self.state
    }

    /// Changes the state and writes it durably.
    pub fn update_state(&mut self, change: impl FnOnce(&mut PartState)) -> Result<(), PartError> {
        change(&mut self.state);
        let part_error = |error| io_error(&self.paths.state, "write", error);
        let text = serde_json::to_vec_pretty(&self.state).map_err(|error| part_error(error.into()))?;
        let temporary = with_suffix(&self.paths.state, ".new");
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        });
        written
            .and_then(|()| fs::rename(&temporary, &self.paths.state))
            .map_err(part_error)
    }

    /// Returns the length of the partial file.
    pub fn bytes(&self) -> Result<u64, PartError> {
        let metadata = self.data.metadata();
        metadata
            .map(|metadata| metadata.len())
            .map_err(|error| self.part_error("read", error))
    }

    /// Truncates the partial file to a length.
    pub fn truncate(&mut self, bytes: u64) -> Result<(), PartError> {
        self.data
            .set_len(bytes)
            .map_err(|error| self.part_error("truncate", error))
    }

    /// Opens the partial file for reading from its start.
    pub fn reader(&self) -> Result<File, PartError> {
        File::open(&self.paths.part).map_err(|error| self.part_error("read", error))
    }

    /// Opens the partial file for appending.
    pub fn writer(&self) -> Result<File, PartError> {
        let at_end = || {
            let mut file = self.data.try_clone()?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        at_end().map_err(|error| self.part_error("write", error))
    }

    /// Syncs the partial file to the disk.
    pub async fn sync(&self) -> Result<(), PartError> {
        let synced = match self.data.try_clone() {
            Ok(file) => match tokio::task::spawn_blocking(move || file.sync_all()).await {
                Ok(synced) => synced,
                Err(error) => Err(io::Error::other(error)),
            },
            Err(error) => Err(error),
        };
        synced.map_err(|error| self.part_error("sync", error))
    }

    /// Renames the partial file to FILE. Fails if FILE exists by now, unless it may be replaced.
    pub fn commit(self) -> Result<(), PartError> {
        let part = self.paths.part.clone();
        self.commit_as(&part)
    }

    /// Renames `contents` to FILE and removes the partial file.
    pub fn commit_as(self, contents: &Path) -> Result<(), PartError> {
        let PartPaths { file, part, state } = &self.paths;
        if self.replace {
            fs::rename(contents, file).map_err(|error| io_error(file, "write", error))?;
        } else {
            link_or_rename(contents, file).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => PartError::Exists(file.clone()),
                _ => io_error(file, "write", error),
            })?;
        }
        sync_parent_dir(file);
        // FILE is complete; leftover files do no harm.
        for path in [contents, part, state] {
            let _ = fs::remove_file(path);
        }
        Ok(())
    }

    /// Renames the partial file to `FILE.broken` and returns that path.
    pub fn quarantine(self) -> Result<PathBuf, PartError> {
        let broken = with_suffix(&self.paths.file, ".broken");
        fs::rename(&self.paths.part, &broken).map_err(|error| io_error(&broken, "write", error))?;
        let _ = fs::remove_file(&self.paths.state);
        Ok(broken)
    }

    /// Deletes the partial file and its state.
    pub fn discard(self) {
        // The next download discards or reports files that cannot be deleted.
        let _ = fs::remove_file(&self.paths.state);
        let _ = fs::remove_file(&self.paths.part);
    }

    fn part_error(&self, operation: &'static str, error: io::Error) -> PartError {
        io_error(&self.paths.part, operation, error)
    }
}

enum StoredState {
    Valid(Box<PartState>),
    Missing,
    Unreadable,
}

fn read_state(path: &Path) -> Result<StoredState, PartError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(PART_STATE_MAX_BYTES).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(StoredState::Missing),
        Err(error) => return Err(io_error(path, "read", error)),
    }
    Ok(match PartState::parse(&bytes) {
        Some(state) => StoredState::Valid(Box::new(state)),
        None => StoredState::Unreadable,
    })
}

/// Opens and locks a partial file. Tries again if another process renames it at the same time.
fn open_locked(path: &Path) -> Result<File, PartError> {
    let part_error = |error| io_error(path, "open", error);
    for _ in 0..OPEN_TRIES_MAX {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(part_error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PartError::Locked(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(part_error(error)),
        }
        let locked = file.metadata().map_err(part_error)?;
        if fs::metadata(path)
            .is_ok_and(|current| (current.dev(), current.ino()) == (locked.dev(), locked.ino()))
        {
            return Ok(file);
        }
    }
    Err(PartError::Locked(path.to_owned()))
}

/// Links `contents` to `file` if `file` does not exist. On file systems without hard links, checks and renames.
fn link_or_rename(contents: &Path, file: &Path) -> io::Result<()> {
    match fs::hard_link(contents, file) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
            ) =>
        {
            if fs::symlink_metadata(file).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(contents, file)
        }
        linked => linked,
    }
}

/// Syncs the parent directory, so that the rename survives a crash. Best effort: some file systems do not support it.
fn sync_parent_dir(file: &Path) {
    let directory = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
}

/// Appends a suffix to a file name.
pub fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns an I/O error with the path and the failed operation, a verb.
pub fn io_error(path: &Path, operation: &'static str, source: io::Error) -> PartError {
    PartError::Io {
        path: path.to_owned(),
        operation,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::super::part_state::CurrentSession;
    use super::super::request::DownloadRequest;
    use super::*;

    fn identity(id: &str) -> DownloadIdentity {
        DownloadIdentity {
            endpoint: "http://t.example".to_owned(),
            space: "s".to_owned(),
            asked: DownloadRequest::Session { id: id.to_owned() },
        }
    }

    #[test]
    fn only_the_same_download_resumes_a_part() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.gz");
        let mut part = PartFile::open(&file, false, identity("a")).unwrap();
        assert!(matches!(
            PartFile::open(&file, false, identity("a")),
            Err(PartError::Locked(_))
        ));
        part.writer().unwrap().write_all(b"half").unwrap();
        let current = CurrentSession {
            session: "a".to_owned(),
            range: None,
            hour: None,
            ours: false,
            total: Some(8),
        };
        part.update_state(|state| state.current = Some(current.clone()))
            .unwrap();
        drop(part);

        let again = PartFile::open(&file, false, identity("a")).unwrap();
        assert_eq!(
            (again.bytes().unwrap(), again.state().current.clone()),
            (4, Some(current))
        );
        drop(again);
        let other = PartFile::open(&file, false, identity("b")).unwrap_err();
        assert!(
            matches!(&other, PartError::Foreign { download, .. } if download.contains("session a")),
            "{other}"
        );
        let forced = PartFile::open(&file, true, identity("b")).unwrap();
        assert_eq!(forced.bytes().unwrap(), 0);
        assert!(
            forced
                .discarded
                .as_ref()
                .is_some_and(|state| state.current.is_some())
        );
    }

    #[test]
    fn a_part_without_state_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.gz");
        fs::write(with_suffix(&file, ".part"), "mine").unwrap();
        assert!(matches!(
            PartFile::open(&file, false, identity("a")),
            Err(PartError::Unidentified(_))
        ));
        fs::write(with_suffix(&file, ".part.json"), "{}").unwrap();
        assert!(matches!(
            PartFile::open(&file, false, identity("a")),
            Err(PartError::Unidentified(_))
        ));
        assert_eq!(fs::read(with_suffix(&file, ".part")).unwrap(), b"mine");
        assert!(PartFile::open(&file, true, identity("a")).is_ok());
    }

    #[test]
    fn commit_is_atomic_and_replaces_only_with_force() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.gz");
        let write = |replace, text: &[u8]| {
            let mut part = PartFile::open(&file, replace, identity("a")).unwrap();
            part.writer().unwrap().write_all(text).unwrap();
            part.update_state(|_| {}).unwrap();
            part
        };
        let part = write(false, b"one");
        assert!(!file.exists());
        part.commit().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(
            PartFile::open(&file, false, identity("a")),
            Err(PartError::Exists(_))
        ));
        write(true, b"two").commit().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");

        fs::remove_file(&file).unwrap();
        let part = write(false, b"three");
        fs::write(&file, "other").unwrap();
        assert!(matches!(part.commit(), Err(PartError::Exists(_))));
        assert_eq!(fs::read(&file).unwrap(), b"other");
        assert!(matches!(
            PartFile::open(folder.path(), true, identity("a")),
            Err(PartError::NotAFile(_))
        ));
    }
}
