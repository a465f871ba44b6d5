//! What a file system says, in the words of [`StoreError`]. No I/O.

use std::io::{self, ErrorKind};

use super::StoreError;
use super::directory_files::ObjectFiles;

/// "Operation not permitted", which Linux answers where a file system has no hard links.
const EPERM: i32 = 1;

impl ObjectFiles {
    /// What the file system says, for whoever must act.
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
                    message: "it is not a directory: name another one".into(),
                }
            }
            ErrorKind::NotADirectory => self.invalid_key(key, "a part of it is a file there"),
            ErrorKind::IsADirectory => self.invalid_key(key, "a folder of that name is there"),
            ErrorKind::InvalidFilename => {
                self.invalid_key(key, "a part of it is too long for the file system")
            }
            _ => StoreError::Io {
                store,
                key: key.to_owned(),
                message: format!("{action}: {error}"),
            },
        }
    }

    pub(super) fn invalid_key(&self, key: &str, reason: &'static str) -> StoreError {
        StoreError::InvalidKey {
            store: self.name().to_owned(),
            key: key.to_owned(),
            reason,
        }
    }

    pub(super) fn already_exists(&self, key: &str) -> StoreError {
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
    pub(super) fn link_error(&self, key: &str, error: &io::Error) -> StoreError {
        match error.kind() {
            ErrorKind::AlreadyExists => self.already_exists(key),
            ErrorKind::Unsupported => self.hard_links_unsupported(),
            _ if error.raw_os_error() == Some(EPERM) => self.hard_links_unsupported(),
            _ => self.io_error(key, "linking", error),
        }
    }

    fn hard_links_unsupported(&self) -> StoreError {
        StoreError::Unsupported {
            store: self.name().to_owned(),
            what: "hard links, by which an object is created once: choose another file system".into(),
        }
    }
}

/// Not there, also where a part of the path is a file.
pub(super) fn is_not_found(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::super::{DirectoryStore, StoreErrorClass};
    use super::*;

    #[test]
    fn a_full_disk_needs_action_and_other_io_errors_are_retried() {
        let folder = tempfile::tempdir().unwrap();
        let files = DirectoryStore::open(folder.path()).unwrap().files;
        let of = |kind: ErrorKind| files.io_error("key", "writing", &kind.into());
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            assert!(matches!(of(kind), StoreError::Full { .. }));
            assert_eq!(of(kind).class(), StoreErrorClass::ActionRequired);
        }
        for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
            assert!(matches!(of(kind), StoreError::Forbidden { .. }));
        }
        assert_eq!(of(ErrorKind::TimedOut).class(), StoreErrorClass::Retry(None));
        let link = files.link_error("key", &io::Error::from_raw_os_error(EPERM));
        assert!(matches!(link, StoreError::Unsupported { .. }), "{link:?}");
    }
}
