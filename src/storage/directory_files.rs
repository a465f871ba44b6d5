//! Objects as files below a root: created once, durable before they are reported. Does blocking I/O.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jiff::Timestamp;
use ulid::Ulid;

use super::directory::OWN_FOLDER;
use super::directory_facts::Facts;
use super::directory_faults::is_missing;
use super::{Condition, Crc64, LIST_MAX, Listed, ObjectFacts, PutOptions, Segments, StoreError, Stored};

/// What a write that was cut off has left is removed when it is older than this: a day.
const LEFT_BEHIND: Duration = Duration::from_hours(24);
/// The longest key, as S3 has it: 1,024 bytes.
const KEY_MAX: usize = 1024;
/// Folders within folders that a listing follows. A link that leads back up ends here.
const DEPTH_MAX: usize = 64;
/// Bytes that are read at once to compute a checksum: 1 MiB.
const READ_AT_ONCE: usize = 1 << 20;

/// A root folder and the files below it.
#[derive(Clone, Debug)]
pub(super) struct Files {
    root: Arc<Path>,
    name: Arc<str>,
    /// Whether our own folder could be made: not so on a medium that is read-only.
    owned: bool,
}

impl Files {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut files = Self {
            name: path.display().to_string().into(),
            root: path.into(),
            owned: true,
        };
        fs::create_dir_all(path).map_err(|error| files.fault("", "creating the directory", &error))?;
        files.root = path
            .canonicalize()
            .map_err(|error| files.fault("", "opening the directory", &error))?
            .into();
        for folder in ["put", "uploads", "facts"] {
            match fs::create_dir_all(files.own(folder)) {
                Ok(()) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
                    ) =>
                {
                    files.owned = false;
                }
                Err(error) => return Err(files.fault(OWN_FOLDER, "creating a folder", &error)),
            }
        }
        Ok(files)
    }

    /// A folder that is there; nothing is made in it.
    pub(super) fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let mut files = Self {
            name: path.display().to_string().into(),
            root: path.into(),
            owned: false,
        };
        files.is_there()?;
        files.root = path
            .canonicalize()
            .map_err(|error| files.fault("", "opening the directory", &error))?
            .into();
        if !files.root.is_dir() {
            return Err(files.invalid("", "it is a file, and a directory is needed"));
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
    pub(super) fn own(&self, path: &str) -> PathBuf {
        self.root.join(OWN_FOLDER).join(path)
    }

    /// The file of a key; an error for a key that would be elsewhere than below the root.
    pub(super) fn object(&self, key: &str) -> Result<PathBuf, StoreError> {
        let why = if key.is_empty() || key.len() > KEY_MAX {
            "it needs 1 to 1,024 bytes"
        } else if key.contains('\0') {
            "it holds a zero byte"
        } else if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            "no part between slashes may be empty, `.` or `..`"
        } else if key.split('/').next() == Some(OWN_FOLDER) {
            "that folder is the store's own"
        } else {
            return Ok(self.root.join(key));
        };
        Err(self.invalid(key, why))
    }

    /// Whether the directory is still the one that was opened; a mount that went leaves an empty one.
    pub(super) fn is_there(&self) -> Result<(), StoreError> {
        let mark = if self.owned {
            self.own("")
        } else {
            self.root.to_path_buf()
        };
        match fs::metadata(mark) {
            Ok(_) => Ok(()),
            Err(error) if is_missing(&error) => Err(StoreError::NoSuchBucket {
                store: self.name.to_string(),
            }),
            Err(error) => Err(self.fault("", "reading the directory", &error)),
        }
    }

    pub(super) fn put(&self, key: &str, body: &Segments, options: &PutOptions) -> Result<Stored, StoreError> {
        let target = self.object(key)?;
        if Crc64::of_segments(body) != options.crc64 {
            return Err(self.corrupted(key));
        }
        self.is_there()?;
        // Saves the writing; the link decides.
        if options.condition == Condition::IfAbsent && target.is_file() {
            return Err(self.exists(key));
        }
        let temporary = self.own("put").join(Ulid::generate().to_string());
        let outcome = write_new(&temporary, body)
            .map_err(|error| self.fault(key, "writing", &error))
            .and_then(|file| {
                let facts = Facts::of(&file, options.crc64, options.metadata.clone())
                    .map_err(|error| self.fault(key, "reading back", &error))?;
                self.publish(&temporary, key, options.condition, &facts)
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
        condition: Condition,
        facts: &Facts,
    ) -> Result<Stored, StoreError> {
        let target = self.object(key)?;
        let parent = target.parent().unwrap_or(&self.root);
        self.make_folders(parent)
            .map_err(|error| self.fault(key, "creating its folder", &error))?;
        if target.is_dir() {
            return Err(self.invalid(key, "a folder of that name is there"));
        }
        let etag = facts.etag();
        let aside = self
            .keep_facts(key, facts)
            .map_err(|error| self.fault(key, "writing its metadata", &error))?;
        let outcome = match condition {
            Condition::IfAbsent => {
                fs::hard_link(temporary, &target).map_err(|error| self.link_fault(key, &error))
            }
            Condition::Overwrite => {
                fs::rename(temporary, &target).map_err(|error| self.fault(key, "renaming", &error))
            }
        };
        if let Err(error) = outcome {
            self.drop_facts(key, |path| Some(path) == aside.as_deref());
            return Err(error);
        }
        sync_folder(parent).map_err(|error| self.fault(key, "syncing its folder", &error))?;
        match condition {
            Condition::IfAbsent => {
                // A second name that is left behind is swept.
                let _ = fs::remove_file(temporary);
            }
            Condition::Overwrite => self.drop_facts(key, |path| Some(path) != aside.as_deref()),
        }
        Ok(Stored {
            etag: Some(etag),
            version_id: None,
        })
    }

    pub(super) fn get(&self, key: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        let fault = |error: io::Error| self.fault(key, "reading", &error);
        let Some((file, size)) = self.look(key)? else {
            return Ok(None);
        };
        let too_much = || StoreError::TooMuch {
            store: self.name.to_string(),
            key: key.to_owned(),
            limit: format!("{limit} bytes"),
        };
        if size.len() > limit {
            return Err(too_much());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size.len()).unwrap_or(0));
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(fault)?;
        if bytes.len() as u64 > limit {
            return Err(too_much());
        }
        Ok(Some(bytes.into()))
    }

    pub(super) fn head(&self, key: &str) -> Result<Option<ObjectFacts>, StoreError> {
        let Some((file, metadata)) = self.look(key)? else {
            return Ok(None);
        };
        let facts = self
            .facts(key, &file, &metadata)
            .map_err(|error| self.fault(key, "reading", &error))?;
        Ok(Some(ObjectFacts {
            size: facts.size,
            etag: Some(facts.etag()),
            version_id: None,
            crc64: Some(facts.crc64()),
            sha256: None,
            last_modified: modified(&metadata),
            metadata: facts.metadata,
        }))
    }

    /// As [`head`](Self::head), with the checksum only where it was kept when this very file was written.
    pub(super) fn recorded(&self, key: &str) -> Result<Option<ObjectFacts>, StoreError> {
        let Some((_, metadata)) = self.look(key)? else {
            return Ok(None);
        };
        let facts = self.kept_for(key, &metadata);
        Ok(Some(ObjectFacts {
            size: metadata.len(),
            etag: Some(Facts::etag_of(&metadata)),
            version_id: None,
            crc64: facts.as_ref().map(Facts::crc64),
            sha256: None,
            last_modified: modified(&metadata),
            metadata: facts.map(|facts| facts.metadata).unwrap_or_default(),
        }))
    }

    pub(super) fn read(
        &self,
        key: &str,
        offset: u64,
        limit: u64,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        use std::io::Seek as _;
        let fault = |error: io::Error| self.fault(key, "reading", &error);
        let Some((mut file, metadata)) = self.look(key)? else {
            return Ok(None);
        };
        if etag.is_some_and(|etag| etag != Facts::etag_of(&metadata)) {
            return Err(self.fault(key, "reading", &io::Error::other("it has changed meanwhile")));
        }
        let rest = metadata.len().saturating_sub(offset).min(limit);
        let mut bytes = Vec::with_capacity(usize::try_from(rest).unwrap_or(0));
        file.seek(io::SeekFrom::Start(offset)).map_err(fault)?;
        file.take(limit).read_to_end(&mut bytes).map_err(fault)?;
        Ok(Some(bytes.into()))
    }

    /// Opens an object; a folder is none.
    fn look(&self, key: &str) -> Result<Option<(File, Metadata)>, StoreError> {
        let opened =
            File::open(self.object(key)?).and_then(|file| file.metadata().map(|facts| (file, facts)));
        match opened {
            Ok((file, facts)) if facts.is_file() => Ok(Some((file, facts))),
            Ok(_) => Ok(None),
            Err(error) if is_missing(&error) => self.is_there().map(|()| None),
            Err(error) => Err(self.fault(key, "opening", &error)),
        }
    }

    pub(super) fn delete(&self, key: &str) -> Result<(), StoreError> {
        match fs::remove_file(self.object(key)?) {
            Ok(()) => {
                self.drop_facts(key, |_| true);
                Ok(())
            }
            Err(error) if is_missing(&error) || error.kind() == ErrorKind::IsADirectory => Ok(()),
            Err(error) => Err(self.fault(key, "deleting", &error)),
        }
    }

    /// Walks the folders that can hold a key with the prefix. Names that are not UTF-8 are nobody's keys.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.is_there()?;
        let mut all = Vec::new();
        let mut folders = vec![(self.root.to_path_buf(), String::new(), 0)];
        while let Some((folder, below, depth)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if is_missing(&error) => continue,
                Err(error) => return Err(self.fault(&below, "listing", &error)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| self.fault(&below, "listing", &error))?;
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                if below.is_empty() && name == OWN_FOLDER {
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
                    all.push(Listed {
                        key,
                        size: metadata.len(),
                        etag: Some(Facts::etag_of(&metadata)),
                        last_modified: modified(&metadata),
                    });
                }
            }
            if all.len() > LIST_MAX {
                return Err(StoreError::TooMuch {
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
        let clock = self.own("clock");
        let told = fs::write(&clock, b"\n").and_then(|()| fs::metadata(&clock));
        match told {
            Ok(metadata) => Ok(modified(&metadata).unwrap_or_else(Timestamp::now)),
            Err(error) => {
                self.is_there()?;
                Err(self.fault(OWN_FOLDER, "asking for the time", &error))
            }
        }
    }

    /// Removes bodies of writes that were cut off long ago. What cannot be removed stays for the next time.
    pub(super) fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.own("put")) else {
            return;
        };
        for entry in entries.flatten() {
            let age = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|time| SystemTime::now().duration_since(time).ok());
            if age.is_some_and(|age| age > LEFT_BEHIND) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Makes a folder and its parents below the root, each durable.
    pub(super) fn make_folders(&self, folder: &Path) -> io::Result<()> {
        let Ok(below) = folder.strip_prefix(&self.root) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let mut path = self.root.to_path_buf();
        for part in below {
            let parent = path.clone();
            path.push(part);
            match fs::create_dir(&path) {
                Ok(()) => sync_folder(&parent)?,
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

fn write_new(path: &Path, body: &Segments) -> io::Result<File> {
    let mut file = File::create_new(path)?;
    for piece in body.pieces() {
        file.write_all(piece)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// The checksum of a whole file.
pub(super) fn crc64_of(mut file: &File) -> io::Result<Crc64> {
    use std::io::Seek as _;
    file.rewind()?;
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    let mut buffer = vec![0; READ_AT_ONCE];
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
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn modified(metadata: &Metadata) -> Option<Timestamp> {
    metadata.modified().ok()?.try_into().ok()
}
