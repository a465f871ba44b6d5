//! What a file system says, in the words of [`StoreError`]. No I/O.

use std::io::{self, ErrorKind};

use super::StoreError;
use super::directory_files::Files;

/// "Operation not permitted", which Linux answers where a file system has no hard links.
const EPERM: i32 = 1;

impl Files {
    /// What the file system says, for whoever must act.
    pub(super) fn fault(&self, key: &str, action: &str, error: &io::Error) -> StoreError {
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
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists if key.is_empty() => StoreError::Settings {
                store,
                message: "it is not a directory: name another one".into(),
            },
            ErrorKind::NotADirectory => self.invalid(key, "a part of it is a file there"),
            ErrorKind::IsADirectory => self.invalid(key, "a folder of that name is there"),
            ErrorKind::InvalidFilename => self.invalid(key, "a part of it is too long for the file system"),
            _ => StoreError::Io {
                store,
                key: key.to_owned(),
                message: format!("{action}: {error}"),
            },
        }
    }

    pub(super) fn invalid(&self, key: &str, why: &'static str) -> StoreError {
        StoreError::InvalidKey {
            store: self.name().to_owned(),
            key: key.to_owned(),
            why,
        }
    }

    pub(super) fn exists(&self, key: &str) -> StoreError {
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

    /// Why an object could not be created by a link.
    pub(super) fn link_fault(&self, key: &str, error: &io::Error) -> StoreError {
        match error.kind() {
            ErrorKind::AlreadyExists => self.exists(key),
            ErrorKind::Unsupported => self.without_links(),
            _ if error.raw_os_error() == Some(EPERM) => self.without_links(),
            _ => self.fault(key, "linking", error),
        }
    }

    fn without_links(&self) -> StoreError {
        StoreError::Unsupported {
            store: self.name().to_owned(),
            what: "hard links, by which an object is created once: choose another file system".into(),
        }
    }
}

/// Not there, also where a part of the path is a file.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::super::{DirectoryStore, StoreErrorClass};
    use super::*;

    #[test]
    fn a_full_disk_waits_and_a_broken_one_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let files = DirectoryStore::open(folder.path()).unwrap().files;
        let of = |kind: ErrorKind| files.fault("key", "writing", &kind.into());
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            assert!(matches!(of(kind), StoreError::Full { .. }));
            assert_eq!(of(kind).class(), StoreErrorClass::Wait);
        }
        for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
            assert!(matches!(of(kind), StoreError::Forbidden { .. }));
        }
        assert_eq!(of(ErrorKind::TimedOut).class(), StoreErrorClass::Retry(None));
        let link = files.link_fault("key", &io::Error::from_raw_os_error(EPERM));
        assert!(matches!(link, StoreError::Unsupported { .. }), "{link:?}");
    }
}
