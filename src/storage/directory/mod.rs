//! A directory as a [`Store`], with the guarantees of a bucket: a write is atomic, a key can be created exactly once,
//! and a write is durable before it is reported. Does I/O, on blocking threads.
//!
//! Objects are plain files under their keys. Links to files are followed, links to folders below the root are not: the walk of
//! a hostile directory ends, and no key leads elsewhere. Other data is in `.eventexport-tmp/`: unfinished writes (`put/`,
//! `uploads/`), and checksums and metadata of objects (`facts/`).
//!
//! An upload is one file below `uploads/<id>/`. Each part is written to its final offset, which is known after the first
//! part since all parts but the last have the same size. A part that arrives before the first, or from another process,
//! gets a file of its own and is copied on completion.

mod files;
mod sidecar;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

pub(crate) use self::files::publish_file;
use self::files::{ObjectFiles, file_crc64, is_not_found, read_small};
use self::sidecar::Sidecar;
use super::{
    Crc64, IrregularEntry, ObjectInfo, ObjectSummary, OpenUpload, PutOptions, PutResult, Segments, Store,
    StoreError, StoreIdentity, Upload, UploadedPart,
};

/// Folder below the root that holds no objects.
const INTERNAL_DIR: &str = ".eventexport-tmp";

/// Highest part number, the limit of S3.
const PART_NUMBER_MAX: u16 = 10_000;

/// Maximum size of the record of an upload: 64 KiB. A key has at most 1 KiB, metadata at most 2 KiB.
const RECORD_MAX_BYTES: u64 = 64 << 10;

/// State of an upload that this process started.
#[derive(Debug, Default)]
struct ActiveUpload {
    /// Size of the first part in bytes.
    part_size: Option<u64>,
    /// Parts that this process has written, by entity tag. Their checksums were verified.
    written: HashMap<String, (Crc64, u64)>,
}

/// Location of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PartPlacement {
    /// At this offset of the common file, in bytes.
    Offset(u64),
    /// In a file of its own.
    OwnFile,
}

/// Record of an upload, written when it starts (`note.json`).
#[derive(Debug, Serialize, Deserialize)]
struct UploadRecord {
    key: String,
    initiated: Timestamp,
    metadata: Vec<(String, String)>,
}

/// A directory of a local or mounted file system that has hard links. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    files: ObjectFiles,
    /// Uploads that this process has started and neither completed nor aborted.
    active_uploads: Arc<Mutex<HashMap<String, ActiveUpload>>>,
}

impl DirectoryStore {
    /// Opens a directory. Creates it and its parents if they do not exist, and removes leftovers of interrupted
    /// writes that are older than a day.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let store = Self {
            files: ObjectFiles::open(path.as_ref())?,
            active_uploads: Arc::default(),
        };
        store.files.remove_stale_files();
        Ok(store)
    }

    /// Opens an existing directory read-only: creates, changes and removes nothing, and does not believe checksums and
    /// metadata that are recorded beside the objects.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Ok(Self {
            files: ObjectFiles::open_read_only(path.as_ref())?,
            active_uploads: Arc::default(),
        })
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        self.files.root()
    }

    /// Returns the path for a key, which need not exist.
    pub fn object_path(&self, key: &str) -> Result<PathBuf, StoreError> {
        self.files.object_path(key)
    }
}

#[async_trait]
impl Store for DirectoryStore {
    fn location(&self) -> &str {
        self.files.name()
    }

    fn identity(&self) -> &StoreIdentity {
        self.files.identity()
    }

    async fn put(&self, key: &str, body: Segments, options: &PutOptions) -> Result<PutResult, StoreError> {
        let (key, options) = (key.to_owned(), options.clone());
        self.run_blocking(move |store| store.files.put(&key, &body, &options))
            .await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        let key = key.to_owned();
        self.run_blocking(move |store| store.files.get(&key, limit)).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let key = key.to_owned();
        self.run_blocking(move |store| store.files.head(&key)).await
    }

    async fn head_recorded(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let key = key.to_owned();
        self.run_blocking(move |store| store.files.head_recorded(&key))
            .await
    }

    async fn get_range(
        &self,
        key: &str,
        offset: u64,
        limit: u64,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        let (key, etag) = (key.to_owned(), etag.map(str::to_owned));
        self.run_blocking(move |store| store.files.get_range(&key, offset, limit, etag.as_deref()))
            .await
    }

    fn is_local(&self) -> bool {
        true
    }

    fn open_local(&self, key: &str) -> Result<Option<File>, StoreError> {
        Ok(self.files.open_object(key)?.map(|(file, _)| file))
    }

    async fn list_irregular(&self, prefix: &str) -> Result<Vec<IrregularEntry>, StoreError> {
        let prefix = prefix.to_owned();
        self.run_blocking(move |store| store.files.list_irregular(&prefix))
            .await
    }

    async fn list_pages(
        &self,
        prefix: &str,
        on_page: &mut (dyn FnMut(Vec<ObjectSummary>) + Send),
    ) -> Result<(), StoreError> {
        let prefix = prefix.to_owned();
        on_page(self.run_blocking(move |store| store.files.list(&prefix)).await?);
        Ok(())
    }

    async fn delete(&self, keys: &[String]) -> Result<Vec<(String, StoreError)>, StoreError> {
        let keys = keys.to_vec();
        self.run_blocking(move |store| {
            store.files.check_exists()?;
            let outcomes = keys.into_iter().map(|key| (store.files.delete(&key), key));
            Ok(outcomes
                .filter_map(|(outcome, key)| Some((key, outcome.err()?)))
                .collect())
        })
        .await
    }

    async fn begin_upload(&self, key: &str, options: &PutOptions) -> Result<Upload, StoreError> {
        let (key, options) = (key.to_owned(), options.clone());
        self.run_blocking(move |store| store.start_upload(&key, &options))
            .await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: u16,
        body: Segments,
        crc64: Crc64,
    ) -> Result<UploadedPart, StoreError> {
        let placement = self.part_placement(upload, number, body.len());
        let upload = upload.clone();
        self.run_blocking(move |store| store.write_part(&upload, number, &body, crc64, placement))
            .await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[UploadedPart],
        options: &PutOptions,
    ) -> Result<PutResult, StoreError> {
        let (upload, parts, options) = (upload.clone(), parts.to_vec(), options.clone());
        self.run_blocking(move |store| store.complete(&upload, &parts, &options))
            .await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        let upload = upload.clone();
        self.run_blocking(move |store| store.abort(&upload)).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        let prefix = prefix.to_owned();
        self.run_blocking(move |store| store.open_uploads(&prefix)).await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.run_blocking(|store| store.files.now()).await
    }
}

impl DirectoryStore {
    async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(outcome) => outcome,
            Err(error) => Err(StoreError::Io {
                store: self.files.name().to_owned(),
                key: String::new(),
                message: format!("the operation was interrupted: {error}"),
            }),
        }
    }

    fn start_upload(&self, key: &str, options: &PutOptions) -> Result<Upload, StoreError> {
        let files = &self.files;
        files.object_path(key)?;
        files.check_exists()?;
        let record = UploadRecord {
            key: key.to_owned(),
            initiated: files.now()?,
            metadata: options.metadata.clone(),
        };
        let id = Ulid::generate().to_string();
        let folder = files.internal_path("uploads").join(&id);
        // The upload exists as soon as its record does.
        let write = || -> io::Result<()> {
            fs::create_dir(&folder)?;
            File::create_new(folder.join("data"))?;
            fs::write(folder.join("note.part"), serde_json::to_vec(&record)?)?;
            fs::rename(folder.join("note.part"), folder.join("note.json"))
        };
        write().map_err(|error| files.io_error(key, "starting an upload", &error))?;
        self.active_uploads().insert(id.clone(), ActiveUpload::default());
        Ok(Upload {
            key: key.to_owned(),
            id,
            retried: false,
        })
    }

    /// Returns the location of a part. Called in the order in which the caller passes parts, before they are written
    /// concurrently.
    fn part_placement(&self, upload: &Upload, number: u16, size: u64) -> PartPlacement {
        let mut active = self.active_uploads();
        let Some(active) = active.get_mut(&upload.id) else {
            return PartPlacement::OwnFile;
        };
        if number == 1 && active.part_size.is_none() {
            active.part_size = Some(size);
        }
        match active.part_size {
            Some(part_size) if size <= part_size && number >= 1 => {
                PartPlacement::Offset(u64::from(number - 1) * part_size)
            }
            _ => PartPlacement::OwnFile,
        }
    }

    fn write_part(
        &self,
        upload: &Upload,
        number: u16,
        body: &Segments,
        crc64: Crc64,
        placement: PartPlacement,
    ) -> Result<UploadedPart, StoreError> {
        if !(1..=PART_NUMBER_MAX).contains(&number) {
            return Err(self.invalid_argument("part numbers are 1 to 10,000"));
        }
        if Crc64::of_segments(body) != crc64 {
            return Err(self.files.corrupted(&upload.key));
        }
        let folder = self.upload_dir(upload)?;
        let (name, offset) = match placement {
            PartPlacement::Offset(offset) => ("data".to_owned(), offset),
            PartPlacement::OwnFile => (format!("{number}-{}", Ulid::generate()), 0),
        };
        let write = || -> io::Result<()> {
            let file = OpenOptions::new()
                .write(true)
                // The common file exists as long as the upload does.
                .create_new(placement == PartPlacement::OwnFile)
                .open(folder.join(&name))?;
            let mut at = offset;
            for piece in body.pieces() {
                file.write_all_at(piece, at)?;
                at += piece.len() as u64;
            }
            Ok(())
        };
        write().map_err(|error| self.upload_error(upload, "writing a part", &error))?;
        let etag = format!("{name}@{offset}");
        let size = body.len();
        if let Some(active) = self.active_uploads().get_mut(&upload.id) {
            active.written.insert(etag.clone(), (crc64, size));
        }
        Ok(UploadedPart {
            number,
            etag,
            crc64,
            crc32c: None,
            size,
        })
    }

    fn complete(
        &self,
        upload: &Upload,
        parts: &[UploadedPart],
        options: &PutOptions,
    ) -> Result<PutResult, StoreError> {
        let folder = self.upload_dir(upload)?;
        let store_error = |error: io::Error| self.upload_error(upload, "completing an upload", &error);
        let record: UploadRecord = serde_json::from_slice(
            &read_small(&folder.join("note.json"), RECORD_MAX_BYTES).map_err(store_error)?,
        )
        .map_err(|error| store_error(error.into()))?;
        if parts.is_empty() || !parts.is_sorted_by(|one, next| one.number < next.number) {
            return Err(self.invalid_argument("an upload needs parts in ascending order of their numbers"));
        }
        if Crc64::of_parts(parts) != options.crc64 {
            return Err(self.files.corrupted(&upload.key));
        }
        // The file is renamed first, so that a late part cannot change an object.
        let (data, assembled) = (folder.join("data"), folder.join("whole"));
        let in_place = in_place(parts);
        if in_place {
            match fs::rename(&data, &assembled) {
                // An interrupted completion has already renamed it.
                Err(error) if is_not_found(&error) && assembled.is_file() => {}
                outcome => outcome.map_err(store_error)?,
            }
        } else {
            concatenate_parts(&folder, parts).map_err(store_error)?;
        }
        let outcome = (|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&assembled)
                .map_err(store_error)?;
            let size = parts.iter().map(|part| part.size).sum();
            if file.metadata().map_err(store_error)?.len() < size {
                return Err(self.files.corrupted(&upload.key));
            }
            file.set_len(size).map_err(store_error)?;
            if !(in_place && self.wrote_parts(upload, parts))
                && file_crc64(&file).map_err(store_error)? != options.crc64
            {
                return Err(self.files.corrupted(&upload.key));
            }
            file.sync_all().map_err(store_error)?;
            let sidecar = Sidecar::of(&file, options.crc64, record.metadata).map_err(store_error)?;
            self.files
                .publish(&assembled, &record.key, options.mode, &sidecar)
        })();
        if outcome.is_ok() {
            // Leftovers are listed as an upload and aborted later.
            let _ = fs::remove_dir_all(&folder);
            self.active_uploads().remove(&upload.id);
        } else if in_place {
            let _ = fs::rename(&assembled, &data);
        } else {
            let _ = fs::remove_file(&assembled);
        }
        outcome
    }

    fn abort(&self, upload: &Upload) -> Result<(), StoreError> {
        self.active_uploads().remove(&upload.id);
        let folder = match self.upload_dir(upload) {
            Ok(folder) => folder,
            Err(StoreError::NoSuchUpload { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        match fs::remove_dir_all(folder) {
            Ok(()) => Ok(()),
            Err(error) if is_not_found(&error) => self.files.check_exists(),
            Err(error) => Err(self.files.io_error(&upload.key, "aborting an upload", &error)),
        }
    }

    fn open_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        let mut all = Vec::new();
        let entries = match fs::read_dir(self.files.internal_path("uploads")) {
            Ok(entries) => entries,
            Err(error) if is_not_found(&error) => return self.files.check_exists().map(|()| all),
            Err(error) => return Err(self.files.io_error(prefix, "listing uploads", &error)),
        };
        for entry in entries.flatten() {
            let record = read_small(&entry.path().join("note.json"), RECORD_MAX_BYTES)
                .ok()
                .and_then(|bytes| serde_json::from_slice::<UploadRecord>(&bytes).ok());
            if let (Some(record), Ok(id)) = (record, entry.file_name().into_string())
                && record.key.starts_with(prefix)
            {
                all.push(OpenUpload {
                    upload: Upload {
                        key: record.key,
                        id,
                        retried: false,
                    },
                    initiated: Some(record.initiated),
                });
            }
        }
        all.sort_unstable_by(|one, other| {
            (&one.upload.key, &one.upload.id).cmp(&(&other.upload.key, &other.upload.id))
        });
        Ok(all)
    }

    fn wrote_parts(&self, upload: &Upload, parts: &[UploadedPart]) -> bool {
        self.active_uploads().get(&upload.id).is_some_and(|active| {
            parts
                .iter()
                .all(|part| active.written.get(&part.etag) == Some(&(part.crc64, part.size)))
        })
    }

    /// Returns the folder of an upload. Rejects ids that this store does not create, since they could escape the folder.
    fn upload_dir(&self, upload: &Upload) -> Result<PathBuf, StoreError> {
        match Ulid::from_string(&upload.id) {
            Ok(id) => Ok(self.files.internal_path("uploads").join(id.to_string())),
            Err(_) => Err(self.no_such_upload(upload)),
        }
    }

    fn upload_error(&self, upload: &Upload, action: &str, error: &io::Error) -> StoreError {
        if !is_not_found(error) {
            return self.files.io_error(&upload.key, action, error);
        }
        match self.files.check_exists() {
            Ok(()) => self.no_such_upload(upload),
            Err(error) => error,
        }
    }

    fn no_such_upload(&self, upload: &Upload) -> StoreError {
        StoreError::NoSuchUpload {
            store: self.files.name().to_owned(),
            key: upload.key.clone(),
            id: upload.id.clone(),
        }
    }

    fn invalid_argument(&self, message: &str) -> StoreError {
        StoreError::Rejected {
            store: self.files.name().to_owned(),
            status: 400,
            code: "InvalidArgument".into(),
            message: message.into(),
        }
    }

    fn active_uploads(&self) -> MutexGuard<'_, HashMap<String, ActiveUpload>> {
        self.active_uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns true if every part is at its final offset in the common file.
fn in_place(parts: &[UploadedPart]) -> bool {
    let mut at = 0;
    parts.iter().all(|part| {
        let placed = part.etag == format!("data@{at}");
        at += part.size;
        placed
    })
}

/// Copies the parts from their locations into one file.
fn concatenate_parts(folder: &Path, parts: &[UploadedPart]) -> io::Result<()> {
    let mut assembled = File::create(folder.join("whole"))?;
    for part in parts {
        let (name, offset) = part
            .etag
            .split_once('@')
            .filter(|(name, _)| !name.contains('/'))
            .and_then(|(name, offset)| Some((name, offset.parse().ok()?)))
            .ok_or(ErrorKind::NotFound)?;
        let mut file = File::open(folder.join(name))?;
        file.seek(SeekFrom::Start(offset))?;
        io::copy(&mut file.take(part.size), &mut assembled)?;
    }
    assembled.flush()
}
