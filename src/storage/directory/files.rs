//! Objects as files below a root: created exactly once, and durable before they are reported. Does blocking I/O.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use ulid::Ulid;

use super::INTERNAL_DIR;
use super::sidecar::{Sidecar, mtime_nanos};
use crate::api::{Remedy, Setting};
use crate::storage::{
    Crc64, IRREGULAR_MAX, IrregularEntry, IrregularKind, LIST_MAX, ObjectInfo, ObjectSummary, PutMode,
    PutOptions, PutResult, Segments, StoreError, StoreIdentity, hex_encode,
};

/// Age at which leftovers of interrupted writes are removed: a day.
const STALE_AFTER: Duration = Duration::from_hours(24);
/// Maximum length of a key, the limit of S3: 1,024 bytes.
const KEY_MAX_BYTES: usize = 1024;
/// Maximum depth of folders in a listing: 64.
const DEPTH_MAX: usize = 64;
/// Maximum size of a sidecar: 64 KiB. The metadata of an object has at most 2 KiB.
const SIDECAR_MAX_BYTES: u64 = 64 << 10;
/// Size of the buffer for computing a checksum: 1 MiB.
const READ_BUFFER_BYTES: usize = 1 << 20;
/// Size up to which an object without metadata gets no sidecar, since its checksum is quickly computed: 1 MiB.
const SIDECAR_MIN_BYTES: u64 = 1 << 20;
/// Flag of `open` by which it does not wait for the other end of a pipe.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
/// "Operation not permitted", the error of Linux on file systems without hard links.
const EPERM: i32 = 1;

/// A root folder and the files below it.
#[derive(Clone, Debug)]
pub(super) struct ObjectFiles {
    root: Arc<Path>,
    name: Arc<str>,
    identity: Arc<StoreIdentity>,
    /// False if the internal folder could not be created, as on a read-only medium.
    writable: bool,
    /// False if the sidecars are another writer's word: they are not read.
    sidecars: bool,
}

/// Entries of a listing.
#[derive(Debug, Default)]
struct Walk {
    objects: Vec<ObjectSummary>,
    irregular: Vec<IrregularEntry>,
    entries: usize,
}

impl ObjectFiles {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut files = Self {
            name: path.display().to_string().into(),
            identity: StoreIdentity::directory(path).into(),
            root: path.into(),
            writable: true,
            sidecars: true,
        };
        fs::create_dir_all(path).map_err(|error| files.io_error("", "creating the directory", &error))?;
        files.root = path
            .canonicalize()
            .map_err(|error| files.io_error("", "opening the directory", &error))?
            .into();
        files.identity = StoreIdentity::directory(&files.root).into();
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

    /// Opens an existing folder without creating anything in it. Ignores its sidecars, which anyone may have written.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let mut files = Self {
            name: path.display().to_string().into(),
            identity: StoreIdentity::directory(path).into(),
            root: path.into(),
            writable: false,
            sidecars: false,
        };
        files.check_exists()?;
        files.root = path
            .canonicalize()
            .map_err(|error| files.io_error("", "opening the directory", &error))?
            .into();
        files.identity = StoreIdentity::directory(&files.root).into();
        if !files.root.is_dir() {
            return Err(files.io_error("", "opening the directory", &ErrorKind::NotADirectory.into()));
        }
        Ok(files)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the identity, by the canonical path.
    pub(super) fn identity(&self) -> &StoreIdentity {
        &self.identity
    }

    /// Returns the path as given, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns a path in the internal folder.
    pub(super) fn internal_path(&self, path: &str) -> PathBuf {
        self.root.join(INTERNAL_DIR).join(path)
    }

    /// Returns the path for a key. Fails for a key that would escape the root.
    pub(super) fn object_path(&self, key: &str) -> Result<PathBuf, StoreError> {
        let reason = if key.is_empty() || key.len() > KEY_MAX_BYTES {
            "its length is not 1 to 1,024 bytes"
        } else if key.contains('\0') {
            "it contains a zero byte"
        } else if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            "a part between slashes is empty, `.` or `..`"
        } else if key.split('/').next() == Some(INTERNAL_DIR) {
            "the store reserves this folder"
        } else {
            return Ok(self.root.join(key));
        };
        Err(self.invalid_key(key, reason))
    }

    /// Returns the path of a key that is written. Fails if one of its folders is a symbolic link, which is not followed.
    fn writable_path(&self, key: &str) -> Result<PathBuf, StoreError> {
        let path = self.object_path(key)?;
        if self.is_below_link(key) {
            return Err(self.invalid_key(key, "a folder of it is a symbolic link, which is not followed"));
        }
        Ok(path)
    }

    /// Returns true if one of the folders of a key is a symbolic link. The directory itself may be one.
    fn is_below_link(&self, key: &str) -> bool {
        let folders = key.match_indices('/').filter_map(|(at, _)| key.get(..at));
        folders
            .map(|folder| fs::symlink_metadata(self.root.join(folder)))
            .any(|metadata| metadata.is_ok_and(|metadata| metadata.is_symlink()))
    }

    /// Checks that the directory is still the one that was opened. After an unmount it is empty.
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
        let target = self.writable_path(key)?;
        if Crc64::of_segments(body) != options.crc64 {
            return Err(self.corrupted(key));
        }
        self.check_exists()?;
        // An early exit; the creation itself decides.
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
            // Stale files are removed at the next start; the first error is the one to report.
            let _ = fs::remove_file(&temporary);
        }
        outcome
    }

    /// Moves a complete and durable file to its key.
    pub(super) fn publish(
        &self,
        temporary: &Path,
        key: &str,
        mode: PutMode,
        sidecar: &Sidecar,
    ) -> Result<PutResult, StoreError> {
        let target = self.writable_path(key)?;
        let parent = target.parent().unwrap_or(&self.root);
        self.create_dirs(parent)
            .map_err(|error| self.io_error(key, "creating its folder", &error))?;
        if target.is_dir() {
            return Err(self.invalid_key(key, "a folder with this name exists"));
        }
        let etag = sidecar.etag();
        let sidecar_path = self
            .write_sidecar(key, sidecar)
            .map_err(|error| self.io_error(key, "writing its metadata", &error))?;
        let outcome = match mode {
            PutMode::Create => {
                publish_file(temporary, &target).map_err(|error| self.create_error(key, &error))
            }
            PutMode::Overwrite => {
                fs::rename(temporary, &target).map_err(|error| self.create_error(key, &error))
            }
        };
        if let Err(error) = outcome {
            self.remove_sidecars(key, |path| Some(path) == sidecar_path.as_deref());
            return Err(error);
        }
        sync_dir(parent).map_err(|error| self.io_error(key, "syncing its folder", &error))?;
        match mode {
            PutMode::Create => {
                // A leftover second name is removed at a later start.
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
        let Some((file, metadata)) = self.open_object(key)? else {
            return Ok(None);
        };
        let limit_exceeded = || StoreError::LimitExceeded {
            store: self.name.to_string(),
            key: key.to_owned(),
            limit: format!("{limit} bytes"),
        };
        if metadata.len() > limit {
            return Err(limit_exceeded());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
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

    /// As [`head`](Self::head), with the checksum only if it was recorded when this file was written.
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
            return Err(self.io_error(
                key,
                "reading",
                &io::Error::other("the object changed while it was read"),
            ));
        }
        let rest = metadata.len().saturating_sub(offset).min(limit);
        let mut bytes = Vec::with_capacity(usize::try_from(rest).unwrap_or(0));
        file.seek(io::SeekFrom::Start(offset)).map_err(store_error)?;
        file.take(limit).read_to_end(&mut bytes).map_err(store_error)?;
        Ok(Some(bytes.into()))
    }

    /// Opens an object; `None` if there is no regular file, or if one of its folders is a symbolic link.
    pub(super) fn open_object(&self, key: &str) -> Result<Option<(File, Metadata)>, StoreError> {
        let path = self.object_path(key)?;
        if self.is_below_link(key) {
            return self.check_exists().map(|()| None);
        }
        match open_regular(&path) {
            Ok(Some(opened)) => Ok(Some(opened)),
            Ok(None) => Ok(None),
            Err(error) if is_not_found(&error) => self.check_exists().map(|()| None),
            Err(error) => Err(self.io_error(key, "opening", &error)),
        }
    }

    pub(super) fn delete(&self, key: &str) -> Result<(), StoreError> {
        match fs::remove_file(self.writable_path(key)?) {
            Ok(()) => {
                self.remove_sidecars(key, |_| true);
                Ok(())
            }
            Err(error) if is_not_found(&error) || error.kind() == ErrorKind::IsADirectory => Ok(()),
            Err(error) => Err(self.io_error(key, "deleting", &error)),
        }
    }

    /// Lists the objects with a prefix.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<ObjectSummary>, StoreError> {
        let mut all = self.walk(prefix)?.objects;
        all.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        Ok(all)
    }

    /// Lists what is below a prefix and is no object.
    pub(super) fn list_irregular(&self, prefix: &str) -> Result<Vec<IrregularEntry>, StoreError> {
        let mut all = self.walk(prefix)?.irregular;
        all.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        Ok(all)
    }

    /// Walks the folders that can hold a key with the prefix. Follows no links to folders, so it ends.
    fn walk(&self, prefix: &str) -> Result<Walk, StoreError> {
        self.check_exists()?;
        let mut walk = Walk::default();
        let mut folders = vec![(self.root.to_path_buf(), String::new(), 0)];
        while let Some((folder, below, depth)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if is_not_found(&error) => continue,
                Err(error) => return Err(self.io_error(&below, "listing", &error)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| self.io_error(&below, "listing", &error))?;
                walk.entries += 1;
                if walk.entries > LIST_MAX {
                    return Err(StoreError::ArchiveTooLarge {
                        store: self.name.to_string(),
                        prefix: prefix.to_owned(),
                        limit: format!("{LIST_MAX} keys"),
                    });
                }
                let name = entry.file_name();
                let Some(name) = name.to_str() else {
                    let name = name.to_string_lossy();
                    walk.add_irregular(prefix, format!("{below}{name}"), IrregularKind::Name);
                    continue;
                };
                if below.is_empty() && name == INTERNAL_DIR {
                    continue;
                }
                let key = format!("{below}{name}");
                let Ok(file_type) = entry.file_type() else {
                    continue;
                };
                if file_type.is_dir() {
                    let folder = format!("{key}/");
                    if !(folder.starts_with(prefix) || prefix.starts_with(&folder)) {
                        continue;
                    }
                    if depth < DEPTH_MAX {
                        folders.push((entry.path(), folder, depth + 1));
                    } else {
                        walk.add_irregular(prefix, key, IrregularKind::TooDeep);
                    }
                    continue;
                }
                // Follows a link to a file, as reading does.
                match fs::metadata(entry.path()) {
                    Ok(metadata) if metadata.is_file() && key.starts_with(prefix) => {
                        walk.objects.push(ObjectSummary {
                            key,
                            size: metadata.len(),
                            etag: Some(Sidecar::etag_of(&metadata)),
                            last_modified: modified(&metadata),
                        });
                    }
                    Ok(metadata) if metadata.is_file() => {}
                    Ok(metadata) if metadata.is_dir() => {
                        walk.add_irregular(prefix, key, IrregularKind::FolderLink);
                    }
                    Ok(_) => walk.add_irregular(prefix, key, IrregularKind::Device),
                    Err(_) if file_type.is_symlink() => {
                        walk.add_irregular(prefix, key, IrregularKind::BrokenLink);
                    }
                    // A file that was just deleted.
                    Err(_) => {}
                }
            }
        }
        Ok(walk)
    }

    /// Returns the time that the file system assigns to a write: for a network file system, that of its server.
    pub(super) fn now(&self) -> Result<Timestamp, StoreError> {
        let clock = self.internal_path("clock");
        let metadata = fs::write(&clock, b"\n").and_then(|()| fs::metadata(&clock));
        match metadata {
            Ok(metadata) => Ok(modified(&metadata).unwrap_or_else(Timestamp::now)),
            Err(error) => {
                self.check_exists()?;
                Err(self.io_error(INTERNAL_DIR, "reading the time", &error))
            }
        }
    }

    /// Removes leftovers of old interrupted writes. A file that cannot be removed is retried at the next start.
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

    /// Creates a folder and its parents below the root, each durable.
    fn create_dirs(&self, folder: &Path) -> io::Result<()> {
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

    /// Writes the sidecar of an object, and returns its path. `None` if the object needs none.
    fn write_sidecar(&self, key: &str, sidecar: &Sidecar) -> io::Result<Option<PathBuf>> {
        if sidecar.metadata.is_empty() && sidecar.size <= SIDECAR_MIN_BYTES {
            return Ok(None);
        }
        let folder = self.sidecar_dir(key);
        self.create_dirs(&folder)?;
        let name = Ulid::generate();
        let part = folder.join(format!("{name}.part"));
        let complete = folder.join(format!("{name}.json"));
        let mut file = File::create_new(&part)?;
        file.write_all(&serde_json::to_vec(sidecar)?)?;
        file.sync_all()?;
        fs::rename(&part, &complete)?;
        sync_dir(&folder)?;
        Ok(Some(complete))
    }

    /// Reads the sidecar of an open object, or computes its checksum if there is none.
    fn read_sidecar(&self, key: &str, file: &File, metadata: &Metadata) -> io::Result<Sidecar> {
        let mut sidecars: Vec<Sidecar> = self
            .sidecar_paths(key)
            .iter()
            .filter_map(|path| serde_json::from_slice(&read_small(path, SIDECAR_MAX_BYTES).ok()?).ok())
            .filter(|sidecar: &Sidecar| sidecar.size == metadata.len())
            .collect();
        if let Some(own) = sidecars
            .iter()
            .position(|sidecar| sidecar.modified == mtime_nanos(metadata))
        {
            return Ok(sidecars.swap_remove(own));
        }
        let crc64 = file_crc64(file)?;
        let sidecar = sidecars.into_iter().find(|sidecar| sidecar.crc64() == crc64);
        Ok(Sidecar::from_metadata(
            metadata,
            crc64,
            sidecar.map(|sidecar| sidecar.metadata).unwrap_or_default(),
        ))
    }

    /// Returns the sidecar that was written with exactly this file.
    fn matching_sidecar(&self, key: &str, metadata: &Metadata) -> Option<Sidecar> {
        let read = |path: &PathBuf| serde_json::from_slice(&read_small(path, SIDECAR_MAX_BYTES).ok()?).ok();
        let own =
            |sidecar: &Sidecar| sidecar.size == metadata.len() && sidecar.modified == mtime_nanos(metadata);
        self.sidecar_paths(key).iter().filter_map(read).find(own)
    }

    /// Removes sidecars of a key. A sidecar that cannot be removed is harmless: it matches no object.
    fn remove_sidecars(&self, key: &str, which: impl Fn(&Path) -> bool) {
        for path in self.sidecar_paths(key).into_iter().filter(|path| which(path)) {
            let _ = fs::remove_file(path);
        }
        // Fails unless the folder is empty.
        let _ = fs::remove_dir(self.sidecar_dir(key));
    }

    /// Lists the sidecars of a key, oldest first.
    fn sidecar_paths(&self, key: &str) -> Vec<PathBuf> {
        if !self.sidecars {
            return Vec::new();
        }
        let entries = match fs::read_dir(self.sidecar_dir(key)) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::warn!(store = self.name(), key, %error, "cannot read sidecars of object");
                }
                return Vec::new();
            }
        };
        let mut paths: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        paths.sort();
        paths
    }

    /// Returns the folder for sidecars of a key. The name is a hash: it is short, and no two keys share it.
    fn sidecar_dir(&self, key: &str) -> PathBuf {
        let name = hex_encode(&Sha256::digest(key));
        self.internal_path("facts").join(name)
    }

    /// Converts an error of the file system; `action` says what failed.
    pub(super) fn io_error(&self, key: &str, action: &str, error: &io::Error) -> StoreError {
        let store = self.name().to_owned();
        match error.kind() {
            ErrorKind::PermissionDenied => StoreError::Forbidden {
                store,
                action: action.to_owned(),
                key: key.to_owned(),
            },
            ErrorKind::ReadOnlyFilesystem => StoreError::Forbidden {
                store,
                action: format!("{action} (it is read-only)"),
                key: key.to_owned(),
            },
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => StoreError::Full {
                store,
                message: format!("{action} {key}: {error}"),
            },
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists if key.is_empty() => {
                StoreError::InvalidSettings {
                    store,
                    message: "it is not a directory".into(),
                    remedy: Some(Remedy::new(Setting::Bucket, "correct {}")),
                }
            }
            ErrorKind::NotADirectory => self.invalid_key(key, "a parent folder of it exists as a file"),
            ErrorKind::IsADirectory => self.invalid_key(key, "a folder with this name exists"),
            ErrorKind::InvalidFilename => {
                self.invalid_key(key, "a part between slashes is too long for the file system")
            }
            _ => StoreError::Io {
                store,
                key: key.to_owned(),
                message: format!("{action}: {error}"),
            },
        }
    }

    fn invalid_key(&self, key: &str, reason: &'static str) -> StoreError {
        StoreError::InvalidKey {
            store: self.name().to_owned(),
            key: key.to_owned(),
            reason,
        }
    }

    fn already_exists(&self, key: &str) -> StoreError {
        StoreError::AlreadyExists {
            store: self.name().to_owned(),
            key: key.to_owned(),
        }
    }

    pub(super) fn corrupted(&self, key: &str) -> StoreError {
        StoreError::Corrupted {
            store: self.name().to_owned(),
            key: key.to_owned(),
        }
    }

    /// Converts an error of moving a complete file to its key.
    fn create_error(&self, key: &str, error: &io::Error) -> StoreError {
        let unusable = |message: String| StoreError::InvalidSettings {
            store: self.name().to_owned(),
            message,
            remedy: Some(Remedy::new(Setting::Bucket, "correct {}")),
        };
        match error.kind() {
            ErrorKind::AlreadyExists => self.already_exists(key),
            ErrorKind::CrossesDevices => unusable(format!(
                "the folder of {key} is on another file system than {INTERNAL_DIR}, so that no complete file can be moved there: a directory must be one file system, without mounts of others below it"
            )),
            _ if is_link_unsupported(error) => unusable(
                "its file system has neither hard links nor renameat2 with RENAME_NOREPLACE, one of which is needed to create an object exactly once: choose another file system".to_owned(),
            ),
            _ => self.io_error(key, "creating", error),
        }
    }
}

/// Gives a complete file its final name, unless that exists. Both ways are atomic: another process sees the complete
/// file or none. (Opening the target with `O_EXCL` and copying would show an incomplete file.)
/// Gives a complete file its name, if nothing has this name yet; fails with `AlreadyExists` otherwise. The old name may
/// stay.
pub(crate) fn publish_file(complete: &Path, target: &Path) -> io::Result<()> {
    create_exclusively(complete, target, |from, to| fs::hard_link(from, to))
}

fn create_exclusively(
    temporary: &Path,
    target: &Path,
    hard_link: impl Fn(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    match hard_link(temporary, target) {
        Err(error) if is_link_unsupported(&error) => rename_exclusively(temporary, target),
        outcome => outcome,
    }
}

#[cfg(target_os = "linux")]
fn rename_exclusively(temporary: &Path, target: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(
        CWD,
        temporary,
        CWD,
        target,
        RenameFlags::NOREPLACE,
    )?)
}

#[cfg(not(target_os = "linux"))]
fn rename_exclusively(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Returns true for the errors of file systems without hard links, and of those without an exclusive rename (EINVAL).
fn is_link_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::InvalidInput)
        || error.raw_os_error() == Some(EPERM)
}

/// Returns true if a path does not exist, also because a parent is a file.
pub(super) fn is_not_found(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

impl Walk {
    /// Adds an entry that is no object. Keys that begin with the prefix may lie below it.
    fn add_irregular(&mut self, prefix: &str, key: String, kind: IrregularKind) {
        let relevant = key.starts_with(prefix) || prefix.starts_with(&format!("{key}/"));
        if relevant && self.irregular.len() < IRREGULAR_MAX {
            self.irregular.push(IrregularEntry { key, kind });
        }
    }
}

/// Opens a regular file; `None` for a folder, pipe or device. Waits for no writer of a pipe.
fn open_regular(path: &Path) -> io::Result<Option<(File, Metadata)>> {
    // Opening a device can have effects.
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    Ok(metadata.is_file().then_some((file, metadata)))
}

/// Reads a regular file of at most `limit` bytes.
pub(super) fn read_small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let Some((file, metadata)) = open_regular(path)? else {
        return Err(ErrorKind::NotFound.into());
    };
    if metadata.len() > limit {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write_new_file(path: &Path, body: &Segments) -> io::Result<File> {
    let mut file = File::create_new(path)?;
    for piece in body.pieces() {
        file.write_all(piece)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// Computes the checksum of a complete file.
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

/// Syncs a folder, which makes the names in it durable.
fn sync_dir(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn modified(metadata: &Metadata) -> Option<Timestamp> {
    metadata.modified().ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::StoreErrorClass;

    #[test]
    fn a_full_disk_needs_action_and_other_io_errors_are_retried() {
        let folder = tempfile::tempdir().unwrap();
        let files = ObjectFiles::open(folder.path()).unwrap();
        let of = |kind: ErrorKind| files.io_error("key", "writing", &kind.into());
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            assert!(matches!(of(kind), StoreError::Full { .. }));
            assert_eq!(of(kind).class(), StoreErrorClass::ActionRequired);
        }
        for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
            assert!(matches!(of(kind), StoreError::Forbidden { .. }));
        }
        assert_eq!(of(ErrorKind::TimedOut).class(), StoreErrorClass::Retry(None));
        let link = files.create_error("key", &io::Error::from_raw_os_error(EPERM));
        let text = link.to_string();
        assert!(
            text.contains("hard links") && !text.contains("If-None-Match"),
            "{text}"
        );
        assert_eq!(link.class(), StoreErrorClass::ActionRequired);
    }

    #[test]
    fn without_hard_links_an_object_is_created_once_by_an_exclusive_rename() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two, target] = ["one", "two", "target"].map(|name| folder.path().join(name));
        fs::write(&one, "1").unwrap();
        fs::write(&two, "2").unwrap();
        for errno in [EPERM, 95] {
            let no_links = |_: &Path, _: &Path| Err(io::Error::from_raw_os_error(errno));
            let outcome = create_exclusively(if errno == EPERM { &one } else { &two }, &target, no_links);
            assert_eq!(outcome.is_ok(), errno == EPERM, "{outcome:?}");
        }
        assert_eq!(fs::read(&target).unwrap(), b"1");
        assert!(two.exists());
    }

    #[test]
    fn a_folder_on_another_file_system_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        let files = ObjectFiles::open(folder.path()).unwrap();
        let [from, to] = [folder.path().join("file"), other.path().join("file")];
        fs::write(&from, "x").unwrap();
        for moved in [publish_file(&from, &to), fs::rename(&from, &to)] {
            let error = files.create_error("a/key", &moved.unwrap_err());
            assert!(error.to_string().contains("another file system"), "{error}");
            assert_eq!(error.class(), StoreErrorClass::ActionRequired);
        }
    }
}
