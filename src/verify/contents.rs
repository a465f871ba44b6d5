//! What lies below a prefix, sorted by root and by meaning. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use crate::export::keys::{ArchiveRoot, AttemptId, Key};
use crate::export::window::Window;
use crate::storage::ObjectSummary;

/// The folder of a directory store that is no part of the archive; a copy into a bucket may have brought it along.
const INTERNAL_DIR: &str = ".eventexport-tmp";

/// All keys of one space and scope.
#[derive(Clone, Debug)]
pub struct RootContents {
    /// Where.
    pub root: ArchiveRoot,
    /// Events.
    pub objects: BTreeMap<Window, ObjectSummary>,
    /// Receipts.
    pub receipts: BTreeMap<Window, ObjectSummary>,
    /// Windows that the service no longer had.
    pub expired: BTreeSet<Window>,
    /// Days that are exported by the hour.
    pub split: BTreeSet<Window>,
    /// Sessions that the journal names as open.
    pub sessions: Vec<(AttemptId, String, String)>,
    /// Manifests, by their number.
    pub manifests: BTreeMap<u64, ObjectSummary>,
    /// Signatures, by the number of their manifest.
    pub signatures: BTreeMap<u64, ObjectSummary>,
    /// Files in `date=` folders that are no events of a window.
    pub strays: Vec<ObjectSummary>,
    /// Other files that are not the archive's.
    pub foreign: Vec<ObjectSummary>,
}

/// What a listing holds.
#[derive(Clone, Debug, Default)]
pub struct ArchiveListing {
    /// In the order of their keys.
    pub roots: Vec<RootContents>,
    /// Keys that are in no root.
    pub outside: Vec<String>,
}

/// Sorts a listing of everything below `prefix`, which is empty or ends with `/`: of several spaces and scopes, or of
/// one root directly.
pub fn group_by_root(prefix: &str, listed: Vec<ObjectSummary>) -> ArchiveListing {
    let mut roots: BTreeMap<String, RootContents> = BTreeMap::new();
    let mut outside = Vec::new();
    for row in listed {
        if row.key.split('/').any(|folder| folder == INTERNAL_DIR) {
            continue;
        }
        let below = row.key.strip_prefix(prefix).unwrap_or(&row.key);
        let direct = ["date=", "_journal/", "_manifests/"]
            .iter()
            .any(|folder| below.starts_with(folder));
        let root = if direct {
            Some(ArchiveRoot::from_prefix(prefix))
        } else {
            ArchiveRoot::containing(&row.key)
        };
        match root {
            Some(root) => roots
                .entry(root.as_str().to_owned())
                .or_insert_with(|| RootContents::new(root))
                .add(row),
            None => outside.push(row.key),
        }
    }
    ArchiveListing {
        roots: roots.into_values().collect(),
        outside,
    }
}

impl RootContents {
    /// Of a root with nothing in it.
    pub const fn new(root: ArchiveRoot) -> Self {
        Self {
            root,
            objects: BTreeMap::new(),
            receipts: BTreeMap::new(),
            expired: BTreeSet::new(),
            split: BTreeSet::new(),
            sessions: Vec::new(),
            manifests: BTreeMap::new(),
            signatures: BTreeMap::new(),
            strays: Vec::new(),
            foreign: Vec::new(),
        }
    }

    fn add(&mut self, row: ObjectSummary) {
        match self.root.parse(&row.key) {
            Key::Events(window) => {
                self.objects.insert(window, row);
            }
            Key::Receipt(window) => {
                self.receipts.insert(window, row);
            }
            Key::Expired(window) => {
                self.expired.insert(window);
            }
            Key::Split(window) => {
                self.split.insert(window);
            }
            Key::Session(id, session) => self.sessions.push((id, session, row.key)),
            // Working papers: spent ones may lie where nothing can be deleted.
            Key::Attempt(_) | Key::Prepared(_) => {}
            Key::Manifest(number) => {
                self.manifests.insert(number, row);
            }
            Key::Signature(number) => {
                self.signatures.insert(number, row);
            }
            Key::Other if self.relative_key(&row.key).starts_with("date=") => self.strays.push(row),
            Key::Other => self.foreign.push(row),
        }
    }

    /// A key as documents of this root name it.
    pub fn relative_key<'a>(&self, key: &'a str) -> &'a str {
        key.strip_prefix(self.root.as_str()).unwrap_or(key)
    }

    /// The full key of a meaning.
    pub fn key(&self, key: &Key) -> String {
        self.root.key(key).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str) -> ObjectSummary {
        ObjectSummary {
            key: key.to_owned(),
            size: 1,
            etag: None,
            last_modified: None,
        }
    }

    #[test]
    fn a_prefix_may_hold_several_spaces_or_be_one_root() {
        let keys = [
            "p/README",
            "p/space=a/scope=account/date=2018-06-01/events.json.gz",
            "p/space=a/scope=space/_journal/2018-06-01.receipt.json",
            "p/space=a/scope=space/_manifests/00000001.json",
            "p/space=a/scope=space/_manifests/00000001.json.sig",
            "p/space=a/scope=space/date=2018-06-01/events.json.gz",
            "p/space=a/scope=space/date=2018-06-01/notes.txt",
            "p/space=a/scope=space/notes.txt",
            "p/space=a/scope=space/.eventexport-tmp/facts/x",
        ];
        let listing = group_by_root("p/", keys.map(row).into());
        assert_eq!(listing.outside, ["p/README"]);
        assert_eq!(listing.roots.len(), 2);
        let space = &listing.roots[1];
        assert_eq!(
            space.root.space_and_scope(),
            Some(("a".to_owned(), "space".to_owned()))
        );
        assert_eq!((space.objects.len(), space.receipts.len()), (1, 1));
        assert_eq!((space.manifests.len(), space.signatures.len()), (1, 1));
        assert_eq!((space.strays.len(), space.foreign.len()), (1, 1));

        let keys = [
            "x/date=2018-06-01/events.json.gz",
            "x/_journal/2018-06-01.receipt.json",
        ];
        let listing = group_by_root("x/", keys.map(row).into());
        assert_eq!(listing.roots.len(), 1);
        assert_eq!(listing.roots[0].root.as_str(), "x/");
        assert_eq!(listing.roots[0].receipts.len(), 1);
    }
}
