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
use super::directory_facts::Facts;
use super::directory_faults::is_missing;
use super::directory_files::crc64_of;
use super::s3_checksum::crc64_of_parts;
use super::{Crc64, OpenUpload, Part, PutOptions, Segments, StoreError, Stored, Upload};

/// The highest number of a part, as S3 has it.
const PART_MAX: u16 = 10_000;

/// What this process knows of an upload of its own.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// Bytes of the first part.
    part_size: Option<u64>,
    /// The parts that this process has written, by entity tag: they are as their checksums say.
    written: HashMap<String, (Crc64, u64)>,
}

/// Where a part goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Into the file, so many bytes from its begin.
    At(u64),
    /// Into a file of its own.
    Aside,
}

/// What is written down of an upload when it begins.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    key: String,
    initiated: Timestamp,
    metadata: Vec<(String, String)>,
}

impl DirectoryStore {
    pub(super) fn begin(&self, key: &str, options: &PutOptions) -> Result<Upload, StoreError> {
        let files = &self.files;
        files.object(key)?;
        files.is_there()?;
        let note = Note {
            key: key.to_owned(),
            initiated: files.now()?,
            metadata: options.metadata.clone(),
        };
        let id = Ulid::generate().to_string();
        let folder = files.own("uploads").join(&id);
        // It is an upload from when its note is there.
        let write = || -> io::Result<()> {
            fs::create_dir(&folder)?;
            File::create_new(folder.join("data"))?;
            fs::write(folder.join("note.part"), serde_json::to_vec(&note)?)?;
            fs::rename(folder.join("note.part"), folder.join("note.json"))
        };
        write().map_err(|error| files.fault(key, "beginning an upload", &error))?;
        self.begun().insert(id.clone(), Begun::default());
        Ok(Upload {
            key: key.to_owned(),
            id,
            repeated: false,
        })
    }

    /// Decided in the order in which parts are handed over, before they go to threads of their own.
    pub(super) fn place(&self, upload: &Upload, number: u16, size: u64) -> Place {
        let mut begun = self.begun();
        let Some(begun) = begun.get_mut(&upload.id) else {
            return Place::Aside;
        };
        if number == 1 && begun.part_size.is_none() {
            begun.part_size = Some(size);
        }
        match begun.part_size {
            Some(part_size) if size <= part_size && number >= 1 => {
                Place::At(u64::from(number - 1) * part_size)
            }
            _ => Place::Aside,
        }
    }

    pub(super) fn write_part(
        &self,
        upload: &Upload,
        number: u16,
        body: &Segments,
        crc64: Crc64,
        place: Place,
    ) -> Result<Part, StoreError> {
        if !(1..=PART_MAX).contains(&number) {
            return Err(self.refused("the number of a part is 1 to 10,000"));
        }
        if Crc64::of_segments(body) != crc64 {
            return Err(self.files.corrupted(&upload.key));
        }
        let folder = self.folder(upload)?;
        let (name, begin) = match place {
            Place::At(begin) => ("data".to_owned(), begin),
            Place::Aside => (format!("{number}-{}", Ulid::generate()), 0),
        };
        let write = || -> io::Result<()> {
            let file = OpenOptions::new()
                .write(true)
                // A part aside is new; the file of all is there, or the upload is not.
                .create_new(place == Place::Aside)
                .open(folder.join(&name))?;
            let mut at = begin;
            for piece in body.pieces() {
                file.write_all_at(piece, at)?;
                at += piece.len() as u64;
            }
            Ok(())
        };
        write().map_err(|error| self.upload_fault(upload, "writing a part", &error))?;
        let etag = format!("{name}@{begin}");
        let size = body.len();
        if let Some(begun) = self.begun().get_mut(&upload.id) {
            begun.written.insert(etag.clone(), (crc64, size));
        }
        Ok(Part {
            number,
            etag,
            crc64,
            size,
        })
    }

    pub(super) fn complete(
        &self,
        upload: &Upload,
        parts: &[Part],
        options: &PutOptions,
    ) -> Result<Stored, StoreError> {
        let folder = self.folder(upload)?;
        let fault = |error: io::Error| self.upload_fault(upload, "completing an upload", &error);
        let note: Note = serde_json::from_slice(&fs::read(folder.join("note.json")).map_err(fault)?)
            .map_err(|error| fault(error.into()))?;
        if parts.is_empty() || !parts.is_sorted_by(|one, next| one.number < next.number) {
            return Err(self.refused("an upload has parts, in the order of their numbers"));
        }
        if crc64_of_parts(parts) != options.crc64 {
            return Err(self.files.corrupted(&upload.key));
        }
        // The file leaves its name while it is completed, so that a late part cannot reach an object.
        let (data, whole) = (folder.join("data"), folder.join("whole"));
        let in_place = in_place(parts);
        if in_place {
            match fs::rename(&data, &whole) {
                // An earlier completion was cut off: it is there already.
                Err(error) if is_missing(&error) && whole.is_file() => {}
                outcome => outcome.map_err(fault)?,
            }
        } else {
            join(&folder, parts).map_err(fault)?;
        }
        let outcome = (|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&whole)
                .map_err(fault)?;
            let size = parts.iter().map(|part| part.size).sum();
            if file.metadata().map_err(fault)?.len() < size {
                return Err(self.files.corrupted(&upload.key));
            }
            file.set_len(size).map_err(fault)?;
            if !(in_place && self.has_written(upload, parts))
                && crc64_of(&file).map_err(fault)? != options.crc64
            {
                return Err(self.files.corrupted(&upload.key));
            }
            file.sync_all().map_err(fault)?;
            let facts = Facts::of(&file, options.crc64, note.metadata).map_err(fault)?;
            self.files.publish(&whole, &note.key, options.condition, &facts)
        })();
        if outcome.is_ok() {
            // What stays is a listed upload, to be swept as such.
            let _ = fs::remove_dir_all(&folder);
            self.begun().remove(&upload.id);
        } else if in_place {
            let _ = fs::rename(&whole, &data);
        } else {
            let _ = fs::remove_file(&whole);
        }
        outcome
    }

    pub(super) fn abort(&self, upload: &Upload) -> Result<(), StoreError> {
        self.begun().remove(&upload.id);
        let folder = match self.folder(upload) {
            Ok(folder) => folder,
            Err(StoreError::NoSuchUpload { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        match fs::remove_dir_all(folder) {
            Ok(()) => Ok(()),
            Err(error) if is_missing(&error) => self.files.is_there(),
            Err(error) => Err(self.files.fault(&upload.key, "aborting an upload", &error)),
        }
    }

    pub(super) fn open_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        let mut all = Vec::new();
        let entries = match fs::read_dir(self.files.own("uploads")) {
            Ok(entries) => entries,
            Err(error) if is_missing(&error) => return self.files.is_there().map(|()| all),
            Err(error) => return Err(self.files.fault(prefix, "listing uploads", &error)),
        };
        for entry in entries.flatten() {
            let note = fs::read(entry.path().join("note.json"))
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok());
            if let (Some(note), Ok(id)) = (note, entry.file_name().into_string())
                && note.key.starts_with(prefix)
            {
                all.push(OpenUpload {
                    upload: Upload {
                        key: note.key,
                        id,
                        repeated: false,
                    },
                    initiated: Some(note.initiated),
                });
            }
        }
        all.sort_unstable_by(|one, other| {
            (&one.upload.key, &one.upload.id).cmp(&(&other.upload.key, &other.upload.id))
        });
        Ok(all)
    }

    fn has_written(&self, upload: &Upload, parts: &[Part]) -> bool {
        self.begun().get(&upload.id).is_some_and(|begun| {
            parts
                .iter()
                .all(|part| begun.written.get(&part.etag) == Some(&(part.crc64, part.size)))
        })
    }

    /// An id is one of ours or of no upload: it must not lead elsewhere.
    fn folder(&self, upload: &Upload) -> Result<PathBuf, StoreError> {
        match Ulid::from_string(&upload.id) {
            Ok(id) => Ok(self.files.own("uploads").join(id.to_string())),
            Err(_) => Err(self.gone(upload)),
        }
    }

    fn upload_fault(&self, upload: &Upload, action: &str, error: &io::Error) -> StoreError {
        if !is_missing(error) {
            return self.files.fault(&upload.key, action, error);
        }
        match self.files.is_there() {
            Ok(()) => self.gone(upload),
            Err(error) => error,
        }
    }

    fn gone(&self, upload: &Upload) -> StoreError {
        StoreError::NoSuchUpload {
            store: self.files.name().to_owned(),
            key: upload.key.clone(),
            id: upload.id.clone(),
        }
    }

    fn refused(&self, message: &str) -> StoreError {
        StoreError::Refused {
            store: self.files.name().to_owned(),
            status: 400,
            code: "InvalidArgument".into(),
            message: message.into(),
        }
    }

    fn begun(&self) -> MutexGuard<'_, HashMap<String, Begun>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether each part is where it belongs in the file.
fn in_place(parts: &[Part]) -> bool {
    let mut at = 0;
    parts.iter().all(|part| {
        let there = part.etag == format!("data@{at}");
        at += part.size;
        there
    })
}

/// Copies the parts, from wherever they are, into one file.
fn join(folder: &std::path::Path, parts: &[Part]) -> io::Result<()> {
    let mut whole = File::create(folder.join("whole"))?;
    for part in parts {
        let (name, begin) = part
            .etag
            .split_once('@')
            .filter(|(name, _)| !name.contains('/'))
            .and_then(|(name, begin)| Some((name, begin.parse().ok()?)))
            .ok_or(ErrorKind::NotFound)?;
        let mut file = File::open(folder.join(name))?;
        file.seek(SeekFrom::Start(begin))?;
        io::copy(&mut file.take(part.size), &mut whole)?;
    }
    whole.flush()
}
