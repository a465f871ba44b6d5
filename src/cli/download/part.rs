//! The file that a download fills: `FILE.part` with `FILE.part.json` beside it, and `FILE` only when it is whole. Reads
//! and writes files.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::note::{Identity, NOTE_MAX_BYTES, Note};

/// How often the partial file is opened anew when another process finished it in between: 3 times.
const OPENS: usize = 3;

/// Why a file cannot be downloaded to.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// It is there already.
    #[error("{} exists: name another file, or give --force to replace it", .0.display())]
    Exists(PathBuf),
    /// A folder, a device, a pipe.
    #[error("{} is no regular file: name a file, or leave -o away and redirect standard output", .0.display())]
    NotAFile(PathBuf),
    /// Another process fills it.
    #[error("{} is being downloaded to by another process", .0.display())]
    Busy(PathBuf),
    /// The partial file is of another download.
    #[error("{} is a part of another download ({of}): finish that one, name another file, or give --force to throw the part away", part.display())]
    Foreign {
        /// The partial file.
        part: PathBuf,
        /// What it is a part of.
        of: String,
    },
    /// The partial file is of nobody knows what.
    #[error("{} is there, but nothing that says what it is a part of: move it away, or give --force to throw it away", .0.display())]
    Unknown(PathBuf),
    /// Reading or writing failed.
    #[error("{} cannot be {doing}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// The three names.
#[derive(Clone, Debug)]
pub struct Names {
    /// What the person asked for.
    pub file: PathBuf,
    /// What is there of it.
    pub part: PathBuf,
    /// Whose bytes those are.
    pub note: PathBuf,
}

/// A partial file, locked for this process.
#[derive(Debug)]
pub struct Part {
    /// Its names.
    pub names: Names,
    data: File,
    note: Note,
    replace: bool,
    /// The note of a part that `--force` threw away.
    pub thrown_away: Option<Note>,
}

impl Names {
    /// Of a file.
    pub fn of(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            part: beside(file, ".part"),
            note: beside(file, ".part.json"),
        }
    }
}

impl Part {
    /// Takes the partial file of this download up, or begins one.
    pub fn open(file: &Path, replace: bool, identity: Identity) -> Result<Self, PartError> {
        let names = Names::of(file);
        match fs::metadata(file) {
            Ok(there) if !there.is_file() => return Err(PartError::NotAFile(names.file)),
            Ok(_) if !replace => return Err(PartError::Exists(names.file)),
            _ => {}
        }
        let data = locked(&names.part)?;
        let length = data
            .metadata()
            .map_err(|error| io_error(&names.part, "read", error))?
            .len();
        let found = match read_note(&names.note)? {
            Found::Note(note) => Some(*note),
            Found::Nothing => None,
            Found::Unreadable if replace => None,
            Found::Unreadable => return Err(PartError::Unknown(names.part)),
        };
        let mut part = Self {
            names,
            data,
            note: Note::new(identity),
            replace,
            thrown_away: None,
        };
        match found {
            Some(note) if note.identity == part.note.identity => {
                part.note = note;
                return Ok(part);
            }
            Some(note) if replace => part.thrown_away = Some(note),
            // Nothing was stored of it, and no session is open.
            Some(note) if length == 0 && note.current.is_none() => {}
            Some(note) => {
                return Err(PartError::Foreign {
                    part: part.names.part.clone(),
                    of: format!("{} at {}", note.identity.asked, note.identity.endpoint),
                });
            }
            None if length > 0 && !replace => return Err(PartError::Unknown(part.names.part.clone())),
            None => {}
        }
        part.truncate(0)?;
        Ok(part)
    }

    /// What is known of it.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Changes what is known of it, durably.
    pub fn noted(&mut self, change: impl FnOnce(&mut Note)) -> Result<(), PartError> {
        change(&mut self.note);
        let fault = |error| io_error(&self.names.note, "written", error);
        let text = serde_json::to_vec_pretty(&self.note).map_err(|error| fault(error.into()))?;
        let fresh = beside(&self.names.note, ".new");
        let written = File::create(&fresh).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        });
        written
            .and_then(|()| fs::rename(&fresh, &self.names.note))
            .map_err(fault)
    }

    /// Bytes that are there.
    pub fn bytes(&self) -> Result<u64, PartError> {
        let metadata = self.data.metadata();
        metadata
            .map(|metadata| metadata.len())
            .map_err(|error| self.fault("read", error))
    }

    /// Keeps the first bytes only.
    pub fn truncate(&mut self, bytes: u64) -> Result<(), PartError> {
        self.data.set_len(bytes).map_err(|error| self.fault("cut", error))
    }

    /// Reads it from its start.
    pub fn reader(&self) -> Result<File, PartError> {
        File::open(&self.names.part).map_err(|error| self.fault("read", error))
    }

    /// Writes behind what is there.
    pub fn writer(&self) -> Result<File, PartError> {
        let at_end = || {
            let mut file = self.data.try_clone()?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        at_end().map_err(|error| self.fault("written", error))
    }

    /// Waits until all that was written is on the disk.
    pub async fn sync(&self) -> Result<(), PartError> {
        let synced = match self.data.try_clone() {
            Ok(file) => match tokio::task::spawn_blocking(move || file.sync_all()).await {
                Ok(synced) => synced,
                Err(error) => Err(io::Error::other(error)),
            },
            Err(error) => Err(error),
        };
        synced.map_err(|error| self.fault("written to the disk", error))
    }

    /// The whole becomes FILE: at once, and only if nobody made it meanwhile.
    pub fn commit(self) -> Result<(), PartError> {
        let part = self.names.part.clone();
        self.commit_as(&part)
    }

    /// The same with other contents in the place of the bytes, which go.
    pub fn commit_as(self, contents: &Path) -> Result<(), PartError> {
        let Names { file, part, note } = &self.names;
        if self.replace {
            fs::rename(contents, file).map_err(|error| io_error(file, "written", error))?;
        } else {
            link(contents, file).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => PartError::Exists(file.clone()),
                _ => io_error(file, "written", error),
            })?;
        }
        sync_folder(file);
        // FILE is there and whole: what is left beside it does no harm.
        for spent in [contents, part, note] {
            let _ = fs::remove_file(spent);
        }
        Ok(())
    }

    /// Puts bytes that are no proof aside, as `FILE.broken`, and tells where.
    pub fn set_aside(self) -> Result<PathBuf, PartError> {
        let broken = beside(&self.names.file, ".broken");
        fs::rename(&self.names.part, &broken).map_err(|error| io_error(&broken, "written", error))?;
        let _ = fs::remove_file(&self.names.note);
        Ok(broken)
    }

    /// Throws it away.
    pub fn discard(self) {
        // What stays is thrown away by the next download, or told to its person.
        let _ = fs::remove_file(&self.names.note);
        let _ = fs::remove_file(&self.names.part);
    }

    fn fault(&self, doing: &'static str, error: io::Error) -> PartError {
        io_error(&self.names.part, doing, error)
    }
}

enum Found {
    Note(Box<Note>),
    Nothing,
    Unreadable,
}

fn read_note(path: &Path) -> Result<Found, PartError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(NOTE_MAX_BYTES).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(io_error(path, "read", error)),
    }
    Ok(match Note::read(&bytes) {
        Some(note) => Found::Note(Box::new(note)),
        None => Found::Unreadable,
    })
}

/// Opens and locks the file of this name: a process that finishes it takes the name away.
fn locked(path: &Path) -> Result<File, PartError> {
    let fault = |error| io_error(path, "opened", error);
    for _ in 0..OPENS {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(fault)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PartError::Busy(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(fault(error)),
        }
        let ours = file.metadata().map_err(fault)?;
        if fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            return Ok(file);
        }
    }
    Err(PartError::Busy(path.to_owned()))
}

/// Gives the contents a second name, only if it is free; where the file system knows no links, checks and renames.
fn link(contents: &Path, file: &Path) -> io::Result<()> {
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

/// The name outlives a crash too; a file system that cannot promise that does not stop us.
fn sync_folder(file: &Path) {
    let folder = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

/// The name with something behind it.
pub fn beside(file: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(end);
    PathBuf::from(name)
}

/// An error that names the file.
pub fn io_error(path: &Path, doing: &'static str, source: io::Error) -> PartError {
    PartError::Io {
        path: path.to_owned(),
        doing,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::super::asked::Asked;
    use super::super::note::Current;
    use super::*;

    fn identity(id: &str) -> Identity {
        Identity {
            endpoint: "http://t.example".to_owned(),
            space: "s".to_owned(),
            asked: Asked::Session { id: id.to_owned() },
        }
    }

    #[test]
    fn a_part_is_gone_on_with_by_the_same_download_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.gz");
        let mut part = Part::open(&file, false, identity("a")).unwrap();
        assert!(matches!(
            Part::open(&file, false, identity("a")),
            Err(PartError::Busy(_))
        ));
        part.writer().unwrap().write_all(b"half").unwrap();
        let current = Current {
            session: "a".to_owned(),
            range: None,
            hour: None,
            ours: false,
            total: Some(8),
        };
        part.noted(|note| note.current = Some(current.clone())).unwrap();
        drop(part);

        let again = Part::open(&file, false, identity("a")).unwrap();
        assert_eq!(
            (again.bytes().unwrap(), again.note().current.clone()),
            (4, Some(current))
        );
        drop(again);
        let other = Part::open(&file, false, identity("b")).unwrap_err();
        assert!(
            matches!(&other, PartError::Foreign { of, .. } if of.contains("session a")),
            "{other}"
        );
        let forced = Part::open(&file, true, identity("b")).unwrap();
        assert_eq!(forced.bytes().unwrap(), 0);
        assert!(
            forced
                .thrown_away
                .as_ref()
                .is_some_and(|note| note.current.is_some())
        );
    }

    #[test]
    fn a_part_that_nobody_knows_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.gz");
        fs::write(beside(&file, ".part"), "mine").unwrap();
        assert!(matches!(
            Part::open(&file, false, identity("a")),
            Err(PartError::Unknown(_))
        ));
        fs::write(beside(&file, ".part.json"), "{}").unwrap();
        assert!(matches!(
            Part::open(&file, false, identity("a")),
            Err(PartError::Unknown(_))
        ));
        assert_eq!(fs::read(beside(&file, ".part")).unwrap(), b"mine");
        assert!(Part::open(&file, true, identity("a")).is_ok());
    }

    #[test]
    fn the_file_appears_whole_and_only_where_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.gz");
        let write = |replace, text: &[u8]| {
            let mut part = Part::open(&file, replace, identity("a")).unwrap();
            part.writer().unwrap().write_all(text).unwrap();
            part.noted(|_| {}).unwrap();
            part
        };
        let part = write(false, b"one");
        assert!(!file.exists());
        part.commit().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(
            Part::open(&file, false, identity("a")),
            Err(PartError::Exists(_))
        ));
        write(true, b"two").commit().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");

        fs::remove_file(&file).unwrap();
        let part = write(false, b"three");
        fs::write(&file, "somebody's").unwrap();
        assert!(matches!(part.commit(), Err(PartError::Exists(_))));
        assert_eq!(fs::read(&file).unwrap(), b"somebody's");
        assert!(matches!(
            Part::open(folder.path(), true, identity("a")),
            Err(PartError::NotAFile(_))
        ));
    }
}
