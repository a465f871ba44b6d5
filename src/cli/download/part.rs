//! Output file of a download: `FILE.part` and its state `FILE.part.json`, then `FILE` if the events are complete, else
//! `FILE.incomplete`. Reads and writes files.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::part_state::{DownloadIdentity, PART_STATE_MAX_BYTES, PartState};
use crate::pipeline::file_sink::inflate;
use crate::pipeline::gzip::EMPTY_GZIP;
use crate::storage::publish_file;

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

/// Partial file, locked by this process.
#[derive(Debug)]
pub struct PartFile {
    /// `FILE.part`: bytes of an incomplete download.
    pub path: PathBuf,
    /// `FILE`, as given by the user.
    file: PathBuf,
    data: File,
    replace: bool,
}

/// Partial file of this download.
#[derive(Debug)]
pub struct OpenedPart {
    /// The file.
    pub part: PartFile,
    /// Its state.
    pub state: PartState,
    /// State of a partial file that `--force` discarded.
    pub discarded: Option<PartState>,
}

impl PartFile {
    /// Opens the partial file of this download, or creates one.
    pub fn open(file: &Path, replace: bool, identity: DownloadIdentity) -> Result<OpenedPart, PartError> {
        // A link without a target is a name that cannot be created either.
        match fs::metadata(file).or_else(|_| fs::symlink_metadata(file)) {
            Ok(metadata) if !metadata.is_file() && !metadata.is_symlink() => {
                return Err(PartError::NotAFile(file.to_owned()));
            }
            Ok(_) if !replace => return Err(PartError::Exists(file.to_owned())),
            _ => {}
        }
        let path = with_suffix(file, ".part");
        let part = Self {
            data: open_locked(&path)?,
            path,
            file: file.to_owned(),
            replace,
        };
        let (length, stored, new) = (part.bytes()?, part.read_state()?, PartState::new(identity));
        let discarded = match stored {
            Ok(Some(state)) if state.identity == new.identity => {
                return Ok(OpenedPart {
                    part,
                    state,
                    discarded: None,
                });
            }
            Ok(discarded) if replace => discarded,
            // The other download has no bytes and no open session.
            Ok(Some(state)) if length == 0 && state.current.is_none() => None,
            Ok(Some(state)) => {
                let download = format!("{} at {}", state.identity.asked, state.identity.endpoint);
                return Err(PartError::Foreign {
                    part: part.path,
                    download,
                });
            }
            Ok(None) if length == 0 => None,
            Err(Unreadable) if replace => None,
            Ok(None) | Err(Unreadable) => return Err(PartError::Unidentified(part.path)),
        };
        part.truncate(0)?;
        Ok(OpenedPart {
            part,
            state: new,
            discarded,
        })
    }

    fn read_state(&self) -> Result<Result<Option<PartState>, Unreadable>, PartError> {
        let (path, mut bytes) = (self.state_path(), Vec::new());
        match File::open(&path).and_then(|file| file.take(PART_STATE_MAX_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => Ok(PartState::parse(&bytes).map(Some).ok_or(Unreadable)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(None)),
            Err(error) => Err(io_error(&path, "read", error)),
        }
    }

    /// Writes the state durably.
    pub fn save(&self, state: &PartState) -> Result<(), PartError> {
        let (path, temporary) = (self.state_path(), with_suffix(&self.path, ".json.new"));
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(state)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|error| {
            // Best effort: an unfinished state does no harm.
            let _ = fs::remove_file(&temporary);
            io_error(&path, "write", error)
        })
    }

    /// Returns the length of the partial file.
    pub fn bytes(&self) -> Result<u64, PartError> {
        let metadata = self.data.metadata();
        metadata
            .map(|metadata| metadata.len())
            .map_err(|error| self.error("read", error))
    }

    /// Truncates the partial file to a length.
    pub fn truncate(&self, bytes: u64) -> Result<(), PartError> {
        self.data
            .set_len(bytes)
            .map_err(|error| self.error("truncate", error))
    }

    /// Opens the partial file for reading from its start.
    pub fn reader(&self) -> Result<File, PartError> {
        File::open(&self.path).map_err(|error| self.error("read", error))
    }

    /// Opens the partial file for appending.
    pub fn writer(&self) -> Result<File, PartError> {
        let at_end = || {
            let mut file = self.data.try_clone()?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        at_end().map_err(|error| self.error("write", error))
    }

    /// Syncs the partial file to the disk.
    pub async fn sync(&self) -> Result<(), PartError> {
        let data = self.data.try_clone().map_err(|error| self.error("sync", error))?;
        block(move || data.sync_all())
            .await
            .map_err(|error| self.error("sync", error))
    }

    /// Turns the verified partial file into FILE, atomically, decompressed if requested, and returns its path. If the
    /// events are not `complete`, the path is `FILE.incomplete`, and FILE stays as it is: a file under that name, or in the
    /// place of an earlier download, would look complete. Fails if FILE exists by now, unless it may be replaced.
    pub async fn commit(self, decompress: bool, complete: bool) -> Result<PathBuf, PartError> {
        if self.bytes()? == 0 && !decompress {
            let written = self.writer()?.write_all(&EMPTY_GZIP);
            written.map_err(|error| self.error("write", error))?;
        }
        self.sync().await?;
        if !decompress {
            return self.publish(&self.path, complete);
        }
        let (source, target) = (self.reader()?, with_suffix(&self.path, ".out"));
        let created = target.clone();
        let inflated = block(move || {
            let mut out = File::create(created)?;
            inflate(source, &mut out)?;
            out.sync_all()
        });
        if let Err(error) = inflated.await {
            // Frees the disk space; the partial file is complete and stays.
            let _ = fs::remove_file(&target);
            return Err(io_error(&target, "write", error));
        }
        self.publish(&target, complete)
    }

    fn publish(&self, contents: &Path, complete: bool) -> Result<PathBuf, PartError> {
        let (target, published) = if !complete {
            let target = with_suffix(&self.file, ".incomplete");
            let published = fs::rename(contents, &target);
            (target, published)
        } else if self.replace {
            (self.file.clone(), fs::rename(contents, &self.file))
        } else {
            (self.file.clone(), publish_file(contents, &self.file))
        };
        published.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => PartError::Exists(target.clone()),
            _ => io_error(&target, "write", error),
        })?;
        // Best effort: not all file systems can sync a directory.
        let parent = self.file.parent().filter(|parent| *parent != Path::new(""));
        let _ = File::open(parent.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all());
        // FILE is complete; leftover files do no harm.
        for path in [contents, &self.path, &self.state_path()] {
            let _ = fs::remove_file(path);
        }
        Ok(target)
    }

    /// Renames the partial file to `FILE.broken` and returns that path.
    pub fn quarantine(self) -> Result<PathBuf, PartError> {
        let broken = with_suffix(&self.file, ".broken");
        fs::rename(&self.path, &broken).map_err(|error| io_error(&broken, "write", error))?;
        let _ = fs::remove_file(self.state_path());
        Ok(broken)
    }

    /// Deletes the partial file and its state.
    pub fn discard(self) {
        // The next download discards or reports files that cannot be deleted.
        let _ = fs::remove_file(self.state_path());
        let _ = fs::remove_file(&self.path);
    }

    /// Returns an error of the partial file.
    pub fn error(&self, operation: &'static str, error: io::Error) -> PartError {
        io_error(&self.path, operation, error)
    }

    fn state_path(&self) -> PathBuf {
        with_suffix(&self.path, ".json")
    }
}

/// State that is not one of this version.
struct Unreadable;

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

/// Runs blocking I/O on a thread of its own.
async fn block(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Appends a suffix to a file name.
fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    PathBuf::from(name)
}

fn io_error(path: &Path, operation: &'static str, source: io::Error) -> PartError {
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

    /// Opens the partial file of a download, and writes bytes and state.
    fn written(file: &Path, replace: bool, bytes: &[u8]) -> PartFile {
        let OpenedPart { part, state, .. } = PartFile::open(file, replace, identity("a")).unwrap();
        part.writer().unwrap().write_all(bytes).unwrap();
        part.save(&state).unwrap();
        part
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn only_the_same_download_resumes_a_part() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.gz");
        let OpenedPart { part, mut state, .. } = PartFile::open(&file, false, identity("a")).unwrap();
        assert!(matches!(
            PartFile::open(&file, false, identity("a")),
            Err(PartError::Locked(_))
        ));
        part.writer().unwrap().write_all(b"half").unwrap();
        state.current = Some(CurrentSession {
            session: "a".to_owned(),
            range: None,
            hour: None,
            ours: false,
            total: Some(8),
        });
        part.save(&state).unwrap();
        drop(part);

        let again = PartFile::open(&file, false, identity("a")).unwrap();
        assert_eq!((again.part.bytes().unwrap(), again.state), (4, state));
        drop(again.part);
        let other = PartFile::open(&file, false, identity("b")).unwrap_err();
        assert!(
            matches!(&other, PartError::Foreign { download, .. } if download.contains("session a")),
            "{other}"
        );
        let forced = PartFile::open(&file, true, identity("b")).unwrap();
        assert_eq!(forced.part.bytes().unwrap(), 0);
        assert!(forced.discarded.is_some_and(|state| state.current.is_some()));
    }

    #[test]
    fn a_link_without_a_target_is_refused_before_the_download() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.gz");
        std::os::unix::fs::symlink("nowhere", &file).unwrap();
        assert!(matches!(
            PartFile::open(&file, false, identity("a")),
            Err(PartError::Exists(_))
        ));
        assert!(PartFile::open(&file, true, identity("a")).is_ok());
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

    #[tokio::test]
    async fn commit_is_atomic_and_replaces_only_with_force() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.gz");
        let part = written(&file, false, b"one");
        assert!(!file.exists());
        assert_eq!(part.commit(false, true).await.unwrap(), file);
        assert_eq!(fs::read(&file).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(
            PartFile::open(&file, false, identity("a")),
            Err(PartError::Exists(_))
        ));
        written(&file, true, b"two").commit(false, true).await.unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        let short = written(&file, true, b"t").commit(false, false).await.unwrap();
        assert_eq!(
            (fs::read(&short).unwrap(), short),
            (b"t".to_vec(), with_suffix(&file, ".incomplete"))
        );
        assert_eq!(
            fs::read(&file).unwrap(),
            b"two",
            "an incomplete download replaces nothing"
        );

        fs::remove_file(&file).unwrap();
        let part = written(&file, false, b"three");
        fs::write(&file, "other").unwrap();
        assert!(matches!(
            part.commit(false, true).await,
            Err(PartError::Exists(_))
        ));
        assert_eq!(fs::read(&file).unwrap(), b"other");
        assert!(matches!(
            PartFile::open(folder.path(), true, identity("a")),
            Err(PartError::NotAFile(_))
        ));
    }

    #[tokio::test]
    async fn members_are_decompressed_in_order_and_no_bytes_become_an_empty_file() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = [gzip("{\"a\":1}\n"), gzip("{\"a\":2}\n")].concat();
        for (name, bytes, decompress, expected) in [
            ("a.json", &bytes[..], true, &b"{\"a\":1}\n{\"a\":2}\n"[..]),
            ("b.gz", b"", false, &EMPTY_GZIP),
            ("c.json", b"", true, b""),
        ] {
            let file = folder.path().join(name);
            written(&file, false, bytes)
                .commit(decompress, true)
                .await
                .unwrap();
            assert_eq!(fs::read(&file).unwrap(), expected, "{name}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
