//! Objects as files below a root: created once, durable before they are reported. Does blocking I/O.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jiff::Timestamp;
use ulid::Ulid;

use super::directory::INTERNAL_DIR;
use super::directory_errors::is_not_found;
use super::directory_sidecar::Sidecar;
use super::{
    Crc64, LIST_MAX, ObjectInfo, ObjectSummary, PutMode, PutOptions, PutResult, Segments, StoreError,
};

/// What a write that was cut off has left is removed when it is older than this: a day.
const STALE_AFTER: Duration = Duration::from_hours(24);
/// The longest key, as S3 has it: 1,024 bytes.
const KEY_MAX_BYTES: usize = 1024;
/// Folders within folders that a listing follows. A link that leads back up ends here.
const DEPTH_MAX: usize = 64;
/// Bytes that are read at once to compute a checksum: 1 MiB.
const READ_BUFFER_BYTES: usize = 1 << 20;

/// A root folder and the files below it.
#[derive(Clone, Debug)]
pub(super) struct ObjectFiles {
    root: Arc<Path>,
    name: Arc<str>,
    /// Whether our own folder could be made: not so on a medium that is read-only.
    writable: bool,
}

impl ObjectFiles {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut files = Self {
            name: path.display().to_string().into(),
            root: path.into(),
            writable: true,
        };
        fs::create_dir_all(path).map_err(|error| files.io_error("", "creating the directory", &error))?;
        files.root = path
            .canonicalize()
            .map_err(|error| files.io_error("", "opening the directory", &error))?
            .into();
        for folder in ["put", "uploads", "facts"] {
            match fs::create_dir_all(files.internal_path(folder)) {
                Ok(()) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
                    ) =>
                {
                    files.writable = false;
                }
                Err(error) => return Err(files.io_error(INTERNAL_DIR, "creating a folder", &error)),
            }
        }
        Ok(files)
    }

    /// A folder that is there; nothing is made in it.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let mut files = Self {
            name: path.display().to_string().into(),
            root: path.into(),
            writable: false,
        };
        files.check_exists()?;
        files.root = path
            .canonicalize()
            .map_err(|error| files.io_error("", "opening the directory", &error))?
            .into();
        if !files.root.is_dir() {
            return Err(files.invalid_key("", "it is a file, and a directory is needed"));
        }
        Ok(files)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A place that is no object's.
    pub(super) fn internal_path(&self, path: &str) -> PathBuf {
        self.root.join(INTERNAL_DIR).join(path)
    }

    /// The file of a key; an error for a key that would be elsewhere than below the root.
    pub(super) fn object_path(&self, key: &str) -> Result<PathBuf, StoreError> {
        let reason = if key.is_empty() || key.len() > KEY_MAX_BYTES {
            "it needs 1 to 1,024 bytes"
        } else if key.contains('\0') {
            "it holds a zero byte"
        } else if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            "no part between slashes may be empty, `.` or `..`"
        } else if key.split('/').next() == Some(INTERNAL_DIR) {
            "that folder is the store's own"
        } else {
            return Ok(self.root.join(key));
        };
        Err(self.invalid_key(key, reason))
    }

    /// Whether the directory is still the one that was opened; a mount that went leaves an empty one.
    pub(super) fn check_exists(&self) -> Result<(), StoreError> {
        let path = if self.writable {
            self.internal_path("")
        } else {
            self.root.to_path_buf()
        };
        match fs::metadata(path) {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Err(StoreError::NoSuchBucket {
                store: self.name.to_string(),
            }),
            Err(error) => Err(self.io_error("", "reading the directory", &error)),
        }
    }

    pub(super) fn put(
        &self,
        key: &str,
        body: &Segments,
        options: &PutOptions,
    ) -> Result<PutResult, StoreError> {
        let target = self.object_path(key)?;
        if Crc64::of_segments(body) != options.crc64 {
            return Err(self.corrupted(key));
        }
        self.check_exists()?;
        // Saves the writing; the link decides.
        if options.mode == PutMode::Create && target.is_file() {
            return Err(self.already_exists(key));
        }
        let temporary = self.internal_path("put").join(Ulid::generate().to_string());
        let outcome = write_new_file(&temporary, body)
            .map_err(|error| self.io_error(key, "writing", &error))
            .and_then(|file| {
                let sidecar = Sidecar::of(&file, options.crc64, options.metadata.clone())
                    .map_err(|error| self.io_error(key, "reading back", &error))?;
                self.publish(&temporary, key, options.mode, &sidecar)
            });
        if outcome.is_err() {
            // It would be swept; the cause matters more than a failure here.
            let _ = fs::remove_file(&temporary);
        }
        outcome
    }

    /// Gives a whole and durable file its key. It is gone from where it was when this succeeds.
    pub(super) fn publish(
        &self,
        temporary: &Path,
        key: &str,
        mode: PutMode,
        sidecar: &Sidecar,
    ) -> Result<PutResult, StoreError> {
        let target = self.object_path(key)?;
        let parent = target.parent().unwrap_or(&self.root);
        self.create_dirs(parent)
            .map_err(|error| self.io_error(key, "creating its folder", &error))?;
        if target.is_dir() {
            return Err(self.invalid_key(key, "a folder of that name is there"));
        }
        let etag = sidecar.etag();
        let sidecar_path = self
            .write_sidecar(key, sidecar)
            .map_err(|error| self.io_error(key, "writing its metadata", &error))?;
        let outcome = match mode {
            PutMode::Create => {
                fs::hard_link(temporary, &target).map_err(|error| self.link_error(key, &error))
            }
            PutMode::Overwrite => {
                fs::rename(temporary, &target).map_err(|error| self.io_error(key, "renaming", &error))
            }
        };
        if let Err(error) = outcome {
            self.remove_sidecars(key, |path| Some(path) == sidecar_path.as_deref());
            return Err(error);
        }
        sync_dir(parent).map_err(|error| self.io_error(key, "syncing its folder", &error))?;
        match mode {
            PutMode::Create => {
                // A second name that is left behind is swept.
                let _ = fs::remove_file(temporary);
            }
            PutMode::Overwrite => self.remove_sidecars(key, |path| Some(path) != sidecar_path.as_deref()),
        }
        Ok(PutResult {
            etag: Some(etag),
            version_id: None,
        })
    }

    pub(super) fn get(&self, key: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        let store_error = |error: io::Error| self.io_error(key, "reading", &error);
        let Some((file, size)) = self.open_object(key)? else {
            return Ok(None);
        };
        let limit_exceeded = || StoreError::LimitExceeded {
            store: self.name.to_string(),
            key: key.to_owned(),
            limit: format!("{limit} bytes"),
        };
        if size.len() > limit {
            return Err(limit_exceeded());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size.len()).unwrap_or(0));
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(store_error)?;
        if bytes.len() as u64 > limit {
            return Err(limit_exceeded());
        }
        Ok(Some(bytes.into()))
    }

    pub(super) fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let Some((file, metadata)) = self.open_object(key)? else {
            return Ok(None);
        };
        let sidecar = self
            .read_sidecar(key, &file, &metadata)
            .map_err(|error| self.io_error(key, "reading", &error))?;
        Ok(Some(ObjectInfo {
            size: sidecar.size,
            etag: Some(sidecar.etag()),
            version_id: None,
            crc64: Some(sidecar.crc64()),
            sha256: None,
            last_modified: modified(&metadata),
            metadata: sidecar.metadata,
        }))
    }

    /// As [`head`](Self::head), with the checksum only where it was kept when this very file was written.
    pub(super) fn head_recorded(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let Some((_, metadata)) = self.open_object(key)? else {
            return Ok(None);
        };
        let sidecar = self.matching_sidecar(key, &metadata);
        Ok(Some(ObjectInfo {
            size: metadata.len(),
            etag: Some(Sidecar::etag_of(&metadata)),
            version_id: None,
            crc64: sidecar.as_ref().map(Sidecar::crc64),
            sha256: None,
            last_modified: modified(&metadata),
            metadata: sidecar.map(|sidecar| sidecar.metadata).unwrap_or_default(),
        }))
    }

    pub(super) fn get_range(
        &self,
        key: &str,
        offset: u64,
        limit: u64,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        use std::io::Seek as _;
        let store_error = |error: io::Error| self.io_error(key, "reading", &error);
        let Some((mut file, metadata)) = self.open_object(key)? else {
            return Ok(None);
        };
        if etag.is_some_and(|etag| etag != Sidecar::etag_of(&metadata)) {
            return Err(self.io_error(key, "reading", &io::Error::other("it has changed meanwhile")));
        }
        let rest = metadata.len().saturating_sub(offset).min(limit);
        let mut bytes = Vec::with_capacity(usize::try_from(rest).unwrap_or(0));
        file.seek(io::SeekFrom::Start(offset)).map_err(store_error)?;
        file.take(limit).read_to_end(&mut bytes).map_err(store_error)?;
        Ok(Some(bytes.into()))
    }

    /// Opens an object; a folder is none.
    fn open_object(&self, key: &str) -> Result<Option<(File, Metadata)>, StoreError> {
        let result = File::open(self.object_path(key)?)
            .and_then(|file| file.metadata().map(|metadata| (file, metadata)));
        match result {
            Ok((file, metadata)) if metadata.is_file() => Ok(Some((file, metadata))),
            Ok(_) => Ok(None),
            Err(error) if is_not_found(&error) => self.check_exists().map(|()| None),
            Err(error) => Err(self.io_error(key, "opening", &error)),
        }
    }

    pub(super) fn delete(&self, key: &str) -> Result<(), StoreError> {
        match fs::remove_file(self.object_path(key)?) {
            Ok(()) => {
                self.remove_sidecars(key, |_| true);
                Ok(())
            }
            Err(error) if is_not_found(&error) || error.kind() == ErrorKind::IsADirectory => Ok(()),
            Err(error) => Err(self.io_error(key, "deleting", &error)),
        }
    }

    /// Walks the folders that can hold a key with the prefix. Names that are not UTF-8 are nobody's keys.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<ObjectSummary>, StoreError> {
        self.check_exists()?;
        let mut all = Vec::new();
        let mut folders = vec![(self.root.to_path_buf(), String::new(), 0)];
        while let Some((folder, below, depth)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if is_not_found(&error) => continue,
                Err(error) => return Err(self.io_error(&below, "listing", &error)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| self.io_error(&below, "listing", &error))?;
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                if below.is_empty() && name == INTERNAL_DIR {
                    continue;
                }
                let key = format!("{below}{name}");
                // Follows links, as reading does. One that leads nowhere, or a file just deleted, is no object.
                let Ok(metadata) = fs::metadata(entry.path()) else {
                    continue;
                };
                if metadata.is_dir() {
                    let key = key + "/";
                    if depth < DEPTH_MAX && (key.starts_with(prefix) || prefix.starts_with(&key)) {
                        folders.push((entry.path(), key, depth + 1));
                    }
                } else if metadata.is_file() && key.starts_with(prefix) {
                    all.push(ObjectSummary {
                        key,
                        size: metadata.len(),
                        etag: Some(Sidecar::etag_of(&metadata)),
                        last_modified: modified(&metadata),
                    });
                }
            }
            if all.len() > LIST_MAX {
                return Err(StoreError::LimitExceeded {
                    store: self.name.to_string(),
                    key: prefix.to_owned(),
                    limit: format!("{LIST_MAX} keys"),
                });
            }
        }
        all.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        Ok(all)
    }

    /// The time that the file system gives to what is written now: on a network that of its server.
    pub(super) fn now(&self) -> Result<Timestamp, StoreError> {
        let clock = self.internal_path("clock");
        let metadata = fs::write(&clock, b"\n").and_then(|()| fs::metadata(&clock));
        match metadata {
            Ok(metadata) => Ok(modified(&metadata).unwrap_or_else(Timestamp::now)),
            Err(error) => {
                self.check_exists()?;
                Err(self.io_error(INTERNAL_DIR, "asking for the time", &error))
            }
        }
    }

    /// Removes bodies of writes that were cut off long ago. What cannot be removed stays for the next time.
    pub(super) fn remove_stale_files(&self) {
        let Ok(entries) = fs::read_dir(self.internal_path("put")) else {
            return;
        };
        for entry in entries.flatten() {
            let age = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|time| SystemTime::now().duration_since(time).ok());
            if age.is_some_and(|age| age > STALE_AFTER) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Makes a folder and its parents below the root, each durable.
    pub(super) fn create_dirs(&self, folder: &Path) -> io::Result<()> {
        let Ok(below) = folder.strip_prefix(&self.root) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let mut path = self.root.to_path_buf();
        for part in below {
            let parent = path.clone();
            path.push(part);
            match fs::create_dir(&path) {
                Ok(()) => sync_dir(&parent)?,
                Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    return Err(ErrorKind::NotADirectory.into());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn write_new_file(path: &Path, body: &Segments) -> io::Result<File> {
    let mut file = File::create_new(path)?;
    for piece in body.pieces() {
        file.write_all(piece)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// The checksum of a whole file.
pub(super) fn file_crc64(mut file: &File) -> io::Result<Crc64> {
    use std::io::Seek as _;
    file.rewind()?;
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => return Ok(Crc64(digest.finalize())),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        digest.update(buffer.get(..read).unwrap_or_default());
    }
}

/// A name is on the disk only when its folder is.
pub(super) fn sync_dir(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn modified(metadata: &Metadata) -> Option<Timestamp> {
    metadata.modified().ok()?.try_into().ok()
}
