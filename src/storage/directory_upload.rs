//! Uploads in parts to a directory: one file below `uploads/<id>/` that the parts are written into, each at its
//! place, until it gets its key. Does blocking I/O.
//!
//! A part's place is known once the first part is (all but the last are of one size); one that comes before,
//! or from another process, is written aside and copied in on completion.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::directory::DirectoryStore;
use super::directory_errors::is_not_found;
use super::directory_files::file_crc64;
use super::directory_sidecar::Sidecar;
use super::s3_checksum::crc64_of_parts;
use super::{Crc64, OpenUpload, PutOptions, PutResult, Segments, StoreError, Upload, UploadedPart};

/// The highest number of a part, as S3 has it.
const PART_NUMBER_MAX: u16 = 10_000;

/// What this process knows of an upload of its own.
#[derive(Debug, Default)]
pub(super) struct ActiveUpload {
    /// Bytes of the first part.
    part_size: Option<u64>,
    /// The parts that this process has written, by entity tag: they are as their checksums say.
    written: HashMap<String, (Crc64, u64)>,
}

/// Where a part goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartPlacement {
    /// Into the file, so many bytes from its begin.
    Offset(u64),
    /// Into a file of its own.
    OwnFile,
}

/// What is written down of an upload when it begins.
#[derive(Debug, Serialize, Deserialize)]
struct UploadRecord {
    key: String,
    initiated: Timestamp,
    metadata: Vec<(String, String)>,
}

impl DirectoryStore {
    pub(super) fn begin(&self, key: &str, options: &PutOptions) -> Result<Upload, StoreError> {
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
        // It is an upload from when its note is there.
        let write = || -> io::Result<()> {
            fs::create_dir(&folder)?;
            File::create_new(folder.join("data"))?;
            fs::write(folder.join("note.part"), serde_json::to_vec(&record)?)?;
            fs::rename(folder.join("note.part"), folder.join("note.json"))
        };
        write().map_err(|error| files.io_error(key, "beginning an upload", &error))?;
        self.active_uploads().insert(id.clone(), ActiveUpload::default());
        Ok(Upload {
            key: key.to_owned(),
            id,
            retried: false,
        })
    }

    /// Decided in the order in which parts are handed over, before they go to threads of their own.
    pub(super) fn part_placement(&self, upload: &Upload, number: u16, size: u64) -> PartPlacement {
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

    pub(super) fn write_part(
        &self,
        upload: &Upload,
        number: u16,
        body: &Segments,
        crc64: Crc64,
        placement: PartPlacement,
    ) -> Result<UploadedPart, StoreError> {
        if !(1..=PART_NUMBER_MAX).contains(&number) {
            return Err(self.invalid_argument("the number of a part is 1 to 10,000"));
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
                // A part aside is new; the file of all is there, or the upload is not.
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
            size,
        })
    }

    pub(super) fn complete(
        &self,
        upload: &Upload,
        parts: &[UploadedPart],
        options: &PutOptions,
    ) -> Result<PutResult, StoreError> {
        let folder = self.upload_dir(upload)?;
        let store_error = |error: io::Error| self.upload_error(upload, "completing an upload", &error);
        let record: UploadRecord =
            serde_json::from_slice(&fs::read(folder.join("note.json")).map_err(store_error)?)
                .map_err(|error| store_error(error.into()))?;
        if parts.is_empty() || !parts.is_sorted_by(|one, next| one.number < next.number) {
            return Err(self.invalid_argument("an upload has parts, in the order of their numbers"));
        }
        if crc64_of_parts(parts) != options.crc64 {
            return Err(self.files.corrupted(&upload.key));
        }
        // The file leaves its name while it is completed, so that a late part cannot reach an object.
        let (data, assembled) = (folder.join("data"), folder.join("whole"));
        let in_place = in_place(parts);
        if in_place {
            match fs::rename(&data, &assembled) {
                // An earlier completion was cut off: it is there already.
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
            // What stays is a listed upload, to be swept as such.
            let _ = fs::remove_dir_all(&folder);
            self.active_uploads().remove(&upload.id);
        } else if in_place {
            let _ = fs::rename(&assembled, &data);
        } else {
            let _ = fs::remove_file(&assembled);
        }
        outcome
    }

    pub(super) fn abort(&self, upload: &Upload) -> Result<(), StoreError> {
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

    pub(super) fn open_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        let mut all = Vec::new();
        let entries = match fs::read_dir(self.files.internal_path("uploads")) {
            Ok(entries) => entries,
            Err(error) if is_not_found(&error) => return self.files.check_exists().map(|()| all),
            Err(error) => return Err(self.files.io_error(prefix, "listing uploads", &error)),
        };
        for entry in entries.flatten() {
            let record = fs::read(entry.path().join("note.json"))
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

    /// An id is one of ours or of no upload: it must not lead elsewhere.
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

/// Whether each part is where it belongs in the file.
fn in_place(parts: &[UploadedPart]) -> bool {
    let mut at = 0;
    parts.iter().all(|part| {
        let there = part.etag == format!("data@{at}");
        at += part.size;
        there
    })
}

/// Copies the parts, from wherever they are, into one file.
fn concatenate_parts(folder: &std::path::Path, parts: &[UploadedPart]) -> io::Result<()> {
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
