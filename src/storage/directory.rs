//! A directory as a [`Store`], with the promises of a bucket: an object appears whole or not at all, a key is
//! created once, and all is on the disk before a write is reported. Does I/O, on blocking threads.
//!
//! Objects are plain files under their keys. What is not an object is in `.eventexport-tmp/`: bodies that
//! are being written (`put/`, `uploads/`) and what a file cannot hold of an object (`facts/`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::directory_files::ObjectFiles;
use super::directory_upload::ActiveUpload;
use super::{
    Crc64, ObjectInfo, ObjectSummary, OpenUpload, PutOptions, PutResult, Segments, Store, StoreError, Upload,
    UploadedPart,
};

/// The folder below the root that holds no objects.
pub(super) const INTERNAL_DIR: &str = ".eventexport-tmp";

/// A directory of a local or mounted file system that has hard links. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    pub(super) files: ObjectFiles,
    /// Uploads that this process has begun, until they are completed or aborted.
    pub(super) active_uploads: Arc<Mutex<HashMap<String, ActiveUpload>>>,
}

impl DirectoryStore {
    /// Opens a directory, and makes it and its parents where they are missing. Removes what writes that
    /// were cut off a day ago or more have left.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let store = Self {
            files: ObjectFiles::open(path.as_ref())?,
            active_uploads: Arc::default(),
        };
        store.files.remove_stale_files();
        Ok(store)
    }

    /// Opens a directory that is there, only to read: nothing in it is made, changed or swept.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Ok(Self {
            files: ObjectFiles::open_read_only(path.as_ref())?,
            active_uploads: Arc::default(),
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.files.root()
    }

    /// The file of a key, also of one that is not there.
    pub fn object_path(&self, key: &str) -> Result<PathBuf, StoreError> {
        self.files.object_path(key)
    }

    pub(super) async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(outcome) => outcome,
            Err(error) => Err(StoreError::Io {
                store: self.files.name().to_owned(),
                key: String::new(),
                message: format!("the work was cut off: {error}"),
            }),
        }
    }
}

#[async_trait]
impl Store for DirectoryStore {
    fn name(&self) -> &str {
        self.files.name()
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

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.object_path(key).ok()
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectSummary>, StoreError> {
        let prefix = prefix.to_owned();
        self.run_blocking(move |store| store.files.list(&prefix)).await
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
        self.run_blocking(move |store| store.begin(&key, &options)).await
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
