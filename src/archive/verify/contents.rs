//! Keys below a prefix, grouped by root and by kind. No I/O.

use std::collections::BTreeMap;

use jiff::civil::Date;

use crate::archive::finding::{Finding, FindingKind};
use crate::archive::layout::{ArchiveRoot, AttemptId, Key, StampedDocument};
use crate::archive::listing::Journal;
use crate::archive::memory::{JournalShare, ShareExceeded};
use crate::archive::receipt::ReceiptFacts;
use crate::archive::stored_document::Receipts;
use crate::archive::window::Window;
use crate::storage::ObjectSummary;

/// All keys of one space and scope.
#[derive(Clone, Debug)]
pub struct RootContents {
    /// The root.
    pub root: ArchiveRoot,
    /// The keys by their meaning.
    pub journal: Journal,
    /// Rows of the objects with events.
    pub objects: BTreeMap<Window, ObjectSummary>,
    /// Rows of the receipts.
    pub receipts: BTreeMap<Window, ObjectSummary>,
    /// Rows of the signatures of receipts.
    pub receipt_signatures: BTreeMap<Window, ObjectSummary>,
    /// Rows of later revisions, by window and number.
    pub revisions: BTreeMap<(Window, u32), RevisionRows>,
    /// Rows of the manifests, by number.
    pub manifests: BTreeMap<u64, ObjectSummary>,
    /// Rows of the signatures, by the number of their manifest.
    pub signatures: BTreeMap<u64, ObjectSummary>,
    /// Rows of the checkpoints, by day.
    pub checkpoints: BTreeMap<Date, ObjectSummary>,
    /// Rows of the signatures of checkpoints.
    pub checkpoint_signatures: BTreeMap<Date, ObjectSummary>,
    /// Rows of time stamps, by their documents.
    pub timestamps: BTreeMap<StampedDocument, ObjectSummary>,
    /// Files that do not belong to the archive.
    pub unknown: UnknownFiles,
}

/// Rows of the files of a later revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevisionRows {
    /// Full body.
    pub body: Option<ObjectSummary>,
    /// Supplement.
    pub supplement: Option<ObjectSummary>,
    /// Receipt.
    pub receipt: Option<ObjectSummary>,
    /// Signature of the receipt.
    pub signature: Option<ObjectSummary>,
}

/// A file that does not belong to the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFile {
    /// The full key.
    pub key: String,
    /// Effect on readers.
    pub effect: FileEffect,
}

/// Maximum unknown files of each effect that are named. Further ones are counted.
const NAMED_MAX: usize = 1000;

/// Unknown files, in no order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnknownFiles {
    named: Vec<UnknownFile>,
    /// Number of the files of each effect.
    count: BTreeMap<FileEffect, usize>,
}

/// Effect of an unknown file on readers of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileEffect {
    /// Queries over `date=` folders read it as events.
    Read,
    /// Queries skip it: it is hidden, or marks a folder.
    Skipped,
    /// It lies outside of the folders that queries read.
    Outside,
}

/// A listing, grouped by root.
#[derive(Clone, Debug, Default)]
pub struct ArchiveListing {
    /// Roots by their prefix.
    pub roots: BTreeMap<String, RootContents>,
    /// Files outside of all roots.
    pub outside: UnknownFiles,
}

impl ArchiveListing {
    /// Adds a row of a listing below `prefix`, which is empty or ends with `/`. The prefix contains several spaces and
    /// scopes, or is one root.
    pub fn add(
        &mut self,
        prefix: &str,
        row: ObjectSummary,
        memory: &JournalShare,
    ) -> Result<(), ShareExceeded> {
        if ArchiveRoot::is_internal(&row.key) {
            return Ok(());
        }
        let Some(root) = ArchiveRoot::of(prefix, &row.key) else {
            let below = row.key.strip_prefix(prefix).unwrap_or(&row.key);
            self.outside.add(UnknownFile::new(&row, below));
            return Ok(());
        };
        let name = root.as_str();
        if !self.roots.contains_key(name) {
            memory.add((size_of::<RootContents>() + 2 * name.len()) as u64)?;
        }
        let contents = self.roots.entry(name.to_owned());
        contents
            .or_insert_with(|| RootContents::new(root))
            .add(row, memory)
    }
}

impl UnknownFiles {
    fn add(&mut self, file: UnknownFile) {
        let count = self.count.entry(file.effect).or_default();
        *count += 1;
        if *count <= NAMED_MAX {
            self.named.push(file);
        }
    }

    /// Returns a finding or remark for each file that is named, and one for the others of each effect. `prefix` is that of
    /// all files.
    pub fn findings(
        &self,
        prefix: &str,
        wanted: impl Fn(FileEffect) -> bool,
    ) -> impl Iterator<Item = Finding> {
        let named = self.named.iter().filter(|file| wanted(file.effect));
        let further = self
            .count
            .iter()
            .filter(|(effect, count)| wanted(**effect) && **count > NAMED_MAX);
        let further = further.map(|(effect, count)| {
            Finding::new(effect.finding_kind(), prefix).found(format!("{} further files", count - NAMED_MAX))
        });
        let findings: Vec<Finding> = named.map(UnknownFile::finding).chain(further).collect();
        findings.into_iter()
    }
}

impl FileEffect {
    const fn finding_kind(self) -> FindingKind {
        match self {
            Self::Read => FindingKind::StrayFile,
            Self::Skipped => FindingKind::SkippedFile,
            Self::Outside => FindingKind::ForeignFile,
        }
    }
}

impl UnknownFile {
    /// Classifies a row of a listing by its key below the root or prefix.
    fn new(row: &ObjectSummary, below: &str) -> Self {
        let effect = if ArchiveRoot::is_skipped(below, row.size) {
            FileEffect::Skipped
        } else if below.starts_with("date=") || ArchiveRoot::is_query_input(below) {
            FileEffect::Read
        } else {
            FileEffect::Outside
        };
        Self {
            key: row.key.clone(),
            effect,
        }
    }

    /// Returns the finding or remark.
    pub fn finding(&self) -> Finding {
        Finding::new(self.effect.finding_kind(), self.key.clone())
    }
}

impl RootContents {
    /// Creates an empty root.
    pub fn new(root: ArchiveRoot) -> Self {
        Self {
            root,
            journal: Journal::default(),
            objects: BTreeMap::new(),
            receipts: BTreeMap::new(),
            receipt_signatures: BTreeMap::new(),
            revisions: BTreeMap::new(),
            manifests: BTreeMap::new(),
            signatures: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            checkpoint_signatures: BTreeMap::new(),
            timestamps: BTreeMap::new(),
            unknown: UnknownFiles::default(),
        }
    }

    /// Adds a row of a listing.
    pub fn add(&mut self, row: ObjectSummary, memory: &JournalShare) -> Result<(), ShareExceeded> {
        let key = self.root.parse(&row.key);
        if !matches!(key, Key::Other) {
            memory.add_key(&key)?;
            let etag = row.etag.as_ref().map_or(0, String::len);
            memory.add((size_of::<ObjectSummary>() + row.key.len() + etag) as u64)?;
        }
        self.journal.add(&self.root, &row);
        match key {
            Key::Events(window) => drop(self.objects.insert(window, row)),
            Key::Receipt(window) => drop(self.receipts.insert(window, row)),
            Key::ReceiptSignature(window, 0) => drop(self.receipt_signatures.insert(window, row)),
            Key::Revision(window, number) => self.revision(window, number).body = Some(row),
            Key::Supplement(window, number) => self.revision(window, number).supplement = Some(row),
            Key::RevisionReceipt(window, number) => self.revision(window, number).receipt = Some(row),
            Key::ReceiptSignature(window, number) => self.revision(window, number).signature = Some(row),
            Key::Manifest(number) => drop(self.manifests.insert(number, row)),
            Key::Checkpoint(day) => drop(self.checkpoints.insert(day, row)),
            Key::CheckpointSignature(day) => drop(self.checkpoint_signatures.insert(day, row)),
            Key::Timestamp(document) => drop(self.timestamps.insert(document, row)),
            Key::Signature(number) => drop(self.signatures.insert(number, row)),
            Key::Other => {
                let file = UnknownFile::new(&row, self.relative_key(&row.key));
                self.unknown.add(file);
            }
            _ => {}
        }
        Ok(())
    }

    fn revision(&mut self, window: Window, number: u32) -> &mut RevisionRows {
        self.revisions.entry((window, number)).or_default()
    }

    /// Returns the row of an object with events, of any revision, by its full key.
    pub fn object(&self, key: &str) -> Option<&ObjectSummary> {
        match self.root.parse(key) {
            Key::Events(window) => self.objects.get(&window),
            Key::Revision(window, number) => self.revisions.get(&(window, number))?.body.as_ref(),
            Key::Supplement(window, number) => self.revisions.get(&(window, number))?.supplement.as_ref(),
            _ => None,
        }
    }

    /// Adds the content of receipts to the journal.
    pub fn add_receipts(&mut self, receipts: &Receipts) {
        for (window, document) in receipts {
            match &document.parsed {
                Ok(receipt) => {
                    let facts = ReceiptFacts::new(receipt, document.sha256.parse().unwrap_or_default());
                    self.journal.receipts.insert(*window, Some(Box::new(facts)));
                }
                Err(error) => {
                    self.journal.unreadable.insert(*window, error.clone());
                }
            }
        }
    }

    /// Removes the objects of some windows.
    pub fn retain_objects(&mut self, keep: impl Fn(&Self, Window) -> bool) {
        let drop: Vec<Window> = self
            .objects
            .keys()
            .copied()
            .filter(|window| !keep(self, *window))
            .collect();
        for window in drop {
            self.objects.remove(&window);
            self.journal.objects.remove(&window);
        }
    }

    /// Returns true if both listings have the same files.
    pub fn has_same_files(&self, other: &Self) -> bool {
        let attempts =
            |contents: &Self| -> Vec<AttemptId> { contents.journal.attempts.keys().copied().collect() };
        self.objects == other.objects
            && self.receipts == other.receipts
            && self.receipt_signatures == other.receipt_signatures
            && self.revisions == other.revisions
            && self.manifests == other.manifests
            && self.signatures == other.signatures
            && self.checkpoints == other.checkpoints
            && self.checkpoint_signatures == other.checkpoint_signatures
            && self.timestamps == other.timestamps
            && attempts(self) == attempts(other)
    }

    /// Returns the highest number of a manifest or signature; 0 without one.
    pub fn last_manifest(&self) -> u64 {
        let numbers = self.manifests.keys().chain(self.signatures.keys());
        numbers.max().copied().unwrap_or(0)
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
            "p/space=a/scope=space/_journal/notes.txt",
            "p/space=a/scope=space/.DS_Store",
            "p/space=a/scope=space/date=2018-06-01/.DS_Store",
            "p/old/date=2018-06-01/events-all.json.gz",
            "p/.DS_Store",
            "p/space=a/scope=space/.eventexport-tmp/facts/x",
        ];
        let group = |prefix: &str, keys: &[&str]| {
            let mut listing = ArchiveListing::default();
            for key in keys {
                let added = listing.add(prefix, row(key), &JournalShare::default());
                added.unwrap();
            }
            listing
        };
        let listing = group("p/", &keys);
        let kinds = |files: &UnknownFiles| -> Vec<(FindingKind, String)> {
            files
                .findings("p/", |_| true)
                .map(|finding| (finding.kind, finding.key.replace("p/space=a/scope=space/", "")))
                .collect()
        };
        let named = |kind, key: &str| (kind, key.to_owned());
        assert_eq!(
            kinds(&listing.outside),
            [
                named(FindingKind::ForeignFile, "p/README"),
                named(FindingKind::StrayFile, "p/old/date=2018-06-01/events-all.json.gz"),
                named(FindingKind::SkippedFile, "p/.DS_Store"),
            ]
        );
        assert_eq!(listing.roots.len(), 2);
        let space = &listing.roots["p/space=a/scope=space/"];
        assert_eq!(
            space.root.space_and_scope(),
            Some(("a".to_owned(), "space".to_owned()))
        );
        assert_eq!((space.objects.len(), space.receipts.len()), (1, 1));
        assert_eq!((space.manifests.len(), space.signatures.len()), (1, 1));
        assert_eq!(
            kinds(&space.unknown),
            [
                named(FindingKind::StrayFile, "date=2018-06-01/notes.txt"),
                named(FindingKind::ForeignFile, "notes.txt"),
                named(FindingKind::ForeignFile, "_journal/notes.txt"),
                named(FindingKind::SkippedFile, ".DS_Store"),
                named(FindingKind::SkippedFile, "date=2018-06-01/.DS_Store"),
            ]
        );

        let keys = [
            "x/date=2018-06-01/events.json.gz",
            "x/_journal/2018-06-01.receipt.json",
        ];
        let listing = group("x/", &keys);
        assert_eq!(listing.roots.len(), 1);
        assert_eq!(listing.roots["x/"].receipts.len(), 1);

        // Names are kept of some, and all are counted.
        let keys: Vec<String> = (0..=NAMED_MAX)
            .map(|number| format!("x/date=2018-06-01/{number}"))
            .collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let found = group("x/", &keys).roots["x/"]
            .unknown
            .findings("x/", |_| true)
            .last()
            .unwrap();
        assert_eq!((found.kind, found.key.as_str()), (FindingKind::StrayFile, "x/"));
        assert_eq!(found.found.as_deref(), Some("1 further files"));
    }
}
