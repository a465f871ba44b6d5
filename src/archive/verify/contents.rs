//! Keys below a prefix, grouped by root and by kind. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use crate::archive::layout::{ArchiveRoot, AttemptId, Key};
use crate::archive::window::Window;
use crate::storage::ObjectSummary;

/// Internal folder of a directory store. A copy of a directory to a bucket may contain it.
const INTERNAL_DIR: &str = ".eventexport-tmp";

/// All keys of one space and scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootContents {
    /// The root.
    pub root: ArchiveRoot,
    /// Objects with events.
    pub objects: BTreeMap<Window, ObjectSummary>,
    /// Receipts.
    pub receipts: BTreeMap<Window, ObjectSummary>,
    /// Windows that had expired in the service.
    pub expired: BTreeSet<Window>,
    /// Days that are exported by the hour.
    pub split: BTreeSet<Window>,
    /// Windows with an attempt in the journal. Such keys remain in stores without permission to delete.
    pub attempts: BTreeSet<Window>,
    /// Open sessions of the journal: the attempt, the session id and the key.
    pub sessions: Vec<(AttemptId, String, String)>,
    /// Manifests by number.
    pub manifests: BTreeMap<u64, ObjectSummary>,
    /// Signatures by the number of their manifest.
    pub signatures: BTreeMap<u64, ObjectSummary>,
    /// Unexpected files in `date=` folders.
    pub strays: Vec<ObjectSummary>,
    /// Other files that do not belong to the archive.
    pub foreign: Vec<ObjectSummary>,
}

/// A listing, grouped by root.
#[derive(Clone, Debug, Default)]
pub struct ArchiveListing {
    /// Roots, in the order of their keys.
    pub roots: Vec<RootContents>,
    /// Keys outside of all roots.
    pub outside: Vec<String>,
}

/// Groups a listing of all keys below `prefix`, which is empty or ends with `/`. The prefix contains several spaces
/// and scopes, or is one root.
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
    /// Creates an empty root.
    pub const fn new(root: ArchiveRoot) -> Self {
        Self {
            root,
            objects: BTreeMap::new(),
            receipts: BTreeMap::new(),
            expired: BTreeSet::new(),
            split: BTreeSet::new(),
            attempts: BTreeSet::new(),
            sessions: Vec::new(),
            manifests: BTreeMap::new(),
            signatures: BTreeMap::new(),
            strays: Vec::new(),
            foreign: Vec::new(),
        }
    }

    /// Adds a row of a listing.
    pub fn add(&mut self, row: ObjectSummary) {
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
            Key::Attempt(id) | Key::Prepared(id) => {
                self.attempts.insert(id.window);
            }
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

    /// Removes the objects without a receipt that an earlier listing did not have: an export is about to write theirs.
    pub fn retain_objects(&mut self, earlier: Option<&BTreeSet<Window>>) {
        let Self {
            objects, receipts, ..
        } = self;
        objects.retain(|window, _| {
            receipts.contains_key(window) || earlier.is_some_and(|earlier| earlier.contains(window))
        });
    }

    /// Returns a key relative to the root, as in its documents.
    pub fn relative_key<'a>(&self, key: &'a str) -> &'a str {
        key.strip_prefix(self.root.as_str()).unwrap_or(key)
    }

    /// Returns the full key.
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
