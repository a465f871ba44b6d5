//! Journal of an export as one listing shows it, and the conclusions from it. No I/O: `read` reads.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use ulid::Ulid;

use super::layout::{ArchiveRoot, AttemptId, Key, StampedDocument};
use super::manifest::ChainListing;
use super::memory::{JournalShare, ShareExceeded};
use super::receipt::{ReceiptFacts, body_key};
use super::records::{AttemptRecord, ChangedRecord, ExpiredRecord, LateRecord, RecordError};
use super::window::Window;
use crate::storage::ObjectSummary;

/// Archive and journal of one space and scope, as the bucket was listed.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Objects with events, with their size in bytes.
    pub objects: BTreeMap<Window, u64>,
    /// Windows with a receipt; `None`: the receipt is not read yet. On the heap, since the nodes of a map that grows in order
    /// are half empty.
    pub receipts: BTreeMap<Window, Option<Box<ReceiptFacts>>>,
    /// Receipts that cannot be read; their windows are among `receipts`.
    pub unreadable: BTreeMap<Window, RecordError>,
    /// Files of later revisions, by window and number.
    pub revisions: BTreeMap<(Window, u32), RevisionFiles>,
    /// Windows with a record of late events that are not stored; `None`: the record is not read yet.
    pub late: BTreeMap<Window, Option<LateFacts>>,
    /// Windows with a record that the service no longer had them; `None`: the record is not read yet.
    pub expired: BTreeMap<Window, Option<ExpiredFacts>>,
    /// Days that are exported by the hour. [`Journal::from_listing`] trusts the keys; the reader of the records removes
    /// those without a valid record.
    pub splits: BTreeSet<Window>,
    /// Attempts that left keys behind.
    pub attempts: BTreeMap<AttemptId, AttemptFacts>,
    /// Manifests.
    pub chain: ChainListing,
    /// Days with a checkpoint.
    pub checkpoints: BTreeSet<Date>,
    /// Days with the signature of a checkpoint.
    pub checkpoint_signatures: BTreeSet<Date>,
    /// Documents with a time stamp.
    pub timestamps: BTreeSet<StampedDocument>,
    /// True if a report exists.
    pub has_report: bool,
    /// Memory of the journal; `None`: it is small, or part of another one.
    pub memory: Option<Arc<JournalShare>>,
}

/// Files of a later revision of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RevisionFiles {
    /// Size of the full body in bytes.
    pub body: Option<u64>,
    /// Size of the supplement in bytes.
    pub supplement: Option<u64>,
    /// True if the revision has a receipt.
    pub has_receipt: bool,
}

/// Facts of a record of late events that are not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateFacts {
    /// The source endpoint.
    pub source: String,
    /// Events that the service reported last.
    pub reported: u64,
    /// Set if the service gave a later body that lacks stored events.
    pub changed: Option<ChangedRecord>,
    /// Time of the observation, by the store's clock.
    pub seen_at: Timestamp,
}

/// Facts of a record that the service no longer had a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiredFacts {
    /// The source endpoint.
    pub source: String,
    /// The oldest day that the service listed.
    pub oldest_listed: Date,
}

/// Journal keys of one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptFacts {
    /// Record of the attempt; `None` if it is not read yet or only later keys are left.
    pub record: Option<AttemptRecord>,
    /// True if the attempt key exists.
    pub has_attempt_key: bool,
    /// Sessions that the attempt opened and that may still be open.
    pub sessions: Vec<String>,
    /// True if an upload was about to be completed.
    pub prepared: bool,
    /// Set if the record cannot be read: its holder is unknown, so the attempt is neither recovered nor ignored.
    pub unreadable: Option<RecordError>,
}

impl Journal {
    /// Builds the journal from the rows of a listing. Ignores foreign keys.
    pub fn from_listing(root: &ArchiveRoot, rows: &[ObjectSummary]) -> Self {
        let mut journal = Self::default();
        for row in rows {
            journal.add(root, row);
        }
        journal
    }

    /// Adds a row of a listing.
    pub fn add(&mut self, root: &ArchiveRoot, row: &ObjectSummary) {
        self.insert(root.parse(&row.key), row.size);
    }

    /// Takes memory for what is added to the journal.
    pub(super) fn take_memory(&self, bytes: u64) -> Result<(), ShareExceeded> {
        self.memory.as_ref().map_or(Ok(()), |memory| memory.add(bytes))
    }

    /// Adds a key with the size of its object in bytes.
    pub(super) fn insert(&mut self, key: Key, size: u64) {
        match key {
            Key::Events(window) => {
                self.objects.insert(window, size);
            }
            Key::Receipt(window) => {
                self.receipts.entry(window).or_default();
            }
            Key::Revision(window, number) => {
                self.revisions.entry((window, number)).or_default().body = Some(size);
            }
            Key::Supplement(window, number) => {
                self.revisions.entry((window, number)).or_default().supplement = Some(size);
            }
            Key::RevisionReceipt(window, number) => {
                self.revisions.entry((window, number)).or_default().has_receipt = true;
            }
            Key::Late(window) => {
                self.late.entry(window).or_default();
            }
            Key::Expired(window) => {
                self.expired.entry(window).or_default();
            }
            Key::Split(window) => {
                self.splits.insert(window);
            }
            Key::Attempt(id) => self.attempts.entry(id).or_default().has_attempt_key = true,
            Key::Session(id, session) => self.attempts.entry(id).or_default().sessions.push(session),
            Key::Prepared(id) => self.attempts.entry(id).or_default().prepared = true,
            Key::Manifest(_) | Key::Signature(_) => self.chain.insert(&key),
            Key::Checkpoint(day) => drop(self.checkpoints.insert(day)),
            Key::CheckpointSignature(day) => drop(self.checkpoint_signatures.insert(day)),
            Key::Timestamp(document) => drop(self.timestamps.insert(document)),
            Key::Report => self.has_report = true,
            // Read where they count: before a receipt is stated, and by `verify`.
            Key::ReceiptSignature(..) | Key::Other => {}
        }
    }

    /// Replaces one day with a newer listing of it. Receipts and attempts that were read stay read.
    pub fn replace_day(&mut self, of: Window, newer: Self) {
        let day = of.same_day();
        let mut old = Self {
            receipts: self.receipts.extract_if(day.clone(), |_, _| true).collect(),
            attempts: self.attempts.extract_if(attempts_at(&day), |_, _| true).collect(),
            ..Self::default()
        };
        self.objects.extract_if(day.clone(), |_, _| true).for_each(drop);
        self.unreadable
            .extract_if(day.clone(), |_, _| true)
            .for_each(drop);
        self.unreadable.extend(newer.unreadable);
        self.expired.extract_if(day.clone(), |_, _| true).for_each(drop);
        self.late.extract_if(day.clone(), |_, _| true).for_each(drop);
        self.revisions
            .extract_if(revisions_at(&day), |_, _| true)
            .for_each(drop);
        self.splits.extract_if(day, |_| true).for_each(drop);
        self.late.extend(newer.late);
        self.revisions.extend(newer.revisions);
        self.expired.extend(newer.expired);
        self.splits.extend(newer.splits);
        self.objects.extend(newer.objects);
        for (window, found) in newer.receipts {
            let read = old.receipts.remove(&window).flatten();
            self.receipts.insert(window, found.or(read));
        }
        for (id, mut facts) in newer.attempts {
            let known = old.attempts.remove(&id).and_then(|known| known.record);
            facts.record = facts.record.or(known);
            self.attempts.insert(id, facts);
        }
    }

    /// True if the checkpoint of a day exists, and its signature does not.
    pub fn is_unsigned_checkpoint(&self, day: Date) -> bool {
        self.checkpoints.contains(&day) && !self.checkpoint_signatures.contains(&day)
    }

    /// True if an object or a receipt shares a cell with the window.
    pub fn has_data_in(&self, window: Window) -> bool {
        let day = window.same_day();
        let objects = self.objects.range(day.clone()).map(|(existing, _)| existing);
        let receipts = self.receipts.range(day).map(|(existing, _)| existing);
        objects.chain(receipts).any(|existing| overlap(*existing, window))
    }

    /// Returns the objects that the listing leaves out although a receipt, which was read, names them.
    pub fn absent_objects(&self) -> impl Iterator<Item = (Window, Key)> + '_ {
        self.read_receipts().flat_map(move |(window, facts)| {
            let first = facts.summary.sha256.is_some() && !self.objects.contains_key(&window);
            let first = first.then_some(Key::Events(window));
            let later = facts.revisions.iter().flat_map(move |later| {
                let files = self.revision_files(window, later.revision);
                let body = later.object == later.revision && files.body.is_none();
                let supplement = later.supplement.is_some() && files.supplement.is_none();
                [
                    body.then_some(body_key(window, later.revision)),
                    supplement.then_some(Key::Supplement(window, later.revision)),
                ]
            });
            first
                .into_iter()
                .chain(later.flatten())
                .map(move |key| (window, key))
        })
    }

    /// Returns the files of a later revision.
    pub fn revision_files(&self, window: Window, revision: u32) -> RevisionFiles {
        self.revisions
            .get(&(window, revision))
            .copied()
            .unwrap_or_default()
    }

    /// Returns the highest number of a later revision with a receipt; 0 if there is none.
    pub fn highest_revision_receipt(&self, window: Window) -> u32 {
        let mut files = self.revisions.range((window, 0)..=(window, u32::MAX)).rev();
        files
            .find(|(_, files)| files.has_receipt)
            .map_or(0, |((_, number), _)| *number)
    }

    /// True if an attempt at the window, or at a part of it, has a record that cannot be read.
    pub fn has_unreadable_attempt(&self, window: Window) -> bool {
        let attempts = self.attempts.range(attempts_at(&window.same_day()));
        let mut unreadable = attempts.filter(|(_, facts)| facts.unreadable.is_some());
        unreadable.any(|(id, _)| overlap(id.window, window))
    }

    /// Returns the receipts that were read.
    pub fn read_receipts(&self) -> impl Iterator<Item = (Window, &ReceiptFacts)> {
        let receipts = self.receipts.iter();
        receipts.filter_map(|(window, facts)| Some((*window, facts.as_deref()?)))
    }

    /// Returns the receipts that are not read yet.
    pub fn unread_receipts(&self) -> Vec<Window> {
        self.receipts
            .iter()
            .filter(|(window, facts)| facts.is_none() && !self.unreadable.contains_key(window))
            .map(|(window, _)| *window)
            .collect()
    }

    /// Returns the windows that a source no longer has, by records of that source. `oldest_listed`: oldest day that the
    /// source lists now, if known; a window is not expired if that day is not later.
    pub fn expired_windows<'a>(
        &'a self,
        source: &'a str,
        oldest_listed: Option<Date>,
    ) -> impl Iterator<Item = Window> + 'a {
        let read = self
            .expired
            .iter()
            .filter_map(|(window, facts)| Some((*window, facts.as_ref()?)));
        read.filter(move |(window, facts)| {
            let is_later = |oldest: Date| oldest > window.date();
            facts.source == source && is_later(facts.oldest_listed) && oldest_listed.is_none_or(is_later)
        })
        .map(|(window, _)| window)
    }

    /// Returns the attempts with a record that is not read yet.
    pub fn unread_attempts(&self) -> Vec<AttemptId> {
        let unread = self.attempts.iter().filter(|(_, facts)| {
            facts.has_attempt_key && facts.record.is_none() && facts.unreadable.is_none()
        });
        unread.map(|(id, _)| *id).collect()
    }

    /// Returns the first receipt of another source: its window and source.
    pub fn other_source(&self, source: &str) -> Option<(Window, &str)> {
        let mut read = self
            .receipts
            .iter()
            .filter_map(|(window, facts)| Some((*window, &*facts.as_ref()?.source)));
        read.find(|(_, named)| *named != source)
    }

    /// Returns the objects without a receipt or an attempt.
    pub fn orphaned_objects(&self) -> impl Iterator<Item = Window> + '_ {
        let objects = self.objects.keys().copied();
        objects.filter(|window| !self.receipts.contains_key(window) && self.is_unexplained(*window))
    }

    /// Returns true if a window has an object, and no attempt at exactly this window is about to write its receipt.
    pub fn is_unexplained(&self, window: Window) -> bool {
        let mut attempts = self.attempts.range(attempts_at(&(window..=window)));
        self.objects.contains_key(&window) && attempts.next().is_none()
    }

    /// Returns the attempts at a day or its hours that other holders may still be working on.
    pub fn attempts_by_others<'a>(
        &'a self,
        window: Window,
        holder: &'a str,
        store_now: Timestamp,
    ) -> impl Iterator<Item = (&'a AttemptId, &'a AttemptRecord)> + 'a {
        let of_day = self.attempts.range(attempts_at(&window.same_day()));
        of_day
            .filter(move |(id, _)| overlap(id.window, window))
            .filter_map(|(id, facts)| Some((id, facts.record.as_ref()?)))
            .filter(move |(_, record)| record.holder != holder && record.deadline > store_now)
    }

    /// Returns the sessions that attempts opened.
    pub fn sessions(&self) -> impl Iterator<Item = (AttemptId, &String)> {
        let attempts = self.attempts.iter();
        attempts.flat_map(|(id, facts)| facts.sessions.iter().map(|session| (*id, session)))
    }
}

/// Returns the key range of all later revisions of some windows.
fn revisions_at(windows: &RangeInclusive<Window>) -> RangeInclusive<(Window, u32)> {
    (*windows.start(), 0)..=(*windows.end(), u32::MAX)
}

/// Returns the key range of all attempts at some windows.
fn attempts_at(windows: &RangeInclusive<Window>) -> RangeInclusive<AttemptId> {
    let at = |window, ulid| AttemptId { window, ulid };
    at(*windows.start(), Ulid::nil())..=at(*windows.end(), Ulid::max())
}

/// True if two windows share a cell.
pub fn overlap(one: Window, other: Window) -> bool {
    one.date() == other.date() && one.hours() & other.hours() != 0
}

impl LateFacts {
    /// Extracts the facts of a record.
    pub fn new(record: LateRecord) -> Self {
        let LateRecord {
            source,
            reported,
            changed,
            seen_at,
            ..
        } = record;
        Self {
            source,
            reported,
            changed,
            seen_at,
        }
    }
}

impl ExpiredFacts {
    /// Extracts the facts of a record.
    pub fn new(record: ExpiredRecord) -> Self {
        Self {
            source: record.source,
            oldest_listed: record.oldest_listed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::counts::Verdict;
    use crate::archive::receipt::{ReceiptProof, WindowFacts};
    use crate::archive::records::ArchiveRecord;

    fn window(text: &str) -> Window {
        text.parse().unwrap()
    }

    fn journal(keys: &[(Key, u64)]) -> Journal {
        let root = ArchiveRoot::new("p", "x", "space");
        let row = |(key, size): &(Key, u64)| ObjectSummary {
            key: root.key(key).unwrap(),
            size: *size,
            etag: None,
            last_modified: None,
        };
        Journal::from_listing(&root, &keys.iter().map(row).collect::<Vec<_>>())
    }

    fn facts(bytes: u64) -> ReceiptFacts {
        let summary = WindowFacts {
            bytes,
            events: 1,
            reported: None,
            verdict: Verdict::Matched,
            uncounted: None,
            sha256: None,
            stored_now: false,
            revision: 0,
            late_events: 0,
        };
        ReceiptFacts {
            source: "https://a".into(),
            day_reported: None,
            stored_at: Timestamp::UNIX_EPOCH,
            summary,
            proof: ReceiptProof::default(),
            revisions: Vec::new(),
        }
    }

    #[test]
    fn a_record_of_an_expired_window_counts_for_its_source_while_older_days_are_not_listed() {
        let day = window("2018-06-10");
        let date = |day| jiff::civil::date(2018, 6, day);
        let mut seen = journal(&[(Key::Expired(day), 1)]);
        let expired = |seen: &Journal, oldest| seen.expired_windows("https://a", oldest).count();
        assert_eq!(expired(&seen, None), 0, "not read yet");
        let facts = |source: &str, oldest| ExpiredFacts {
            source: source.to_owned(),
            oldest_listed: oldest,
        };
        seen.expired.insert(day, Some(facts("https://a", date(12))));
        assert_eq!(expired(&seen, None), 1);
        assert_eq!(expired(&seen, Some(date(11))), 1);
        assert_eq!(expired(&seen, Some(date(10))), 0, "listed again");
        assert_eq!(expired(&seen, Some(date(1))), 0);
        seen.expired.insert(day, Some(facts("https://b", date(12))));
        assert_eq!(expired(&seen, None), 0, "of another source");
        seen.expired.insert(day, Some(facts("https://a", date(10))));
        assert_eq!(expired(&seen, None), 0, "proves nothing");
    }

    #[test]
    fn an_object_without_receipt_or_attempt_is_orphaned() {
        let (one, two, three) = (window("2018-06-01"), window("2018-06-02"), window("2018-06-03"));
        let id = AttemptId {
            window: two,
            ulid: Ulid::from_parts(1, 1),
        };
        let seen = journal(&[
            (Key::Events(one), 1),
            (Key::Events(two), 1),
            (Key::Attempt(id), 1),
            (Key::Events(three), 1),
            (Key::Receipt(three), 1),
        ]);
        assert_eq!(seen.orphaned_objects().collect::<Vec<_>>(), [one]);
    }

    #[test]
    fn a_newer_listing_of_a_day_replaces_that_day_only() {
        let (one, two) = (window("2018-06-01"), window("2018-06-02T03"));
        let id = |window| AttemptId {
            window,
            ulid: Ulid::from_parts(1, 1),
        };
        let mut seen = journal(&[
            (Key::Attempt(id(one)), 1),
            (Key::Attempt(id(two)), 1),
            (Key::Receipt(one), 1),
        ]);
        seen.receipts.insert(one, Some(Box::new(facts(0))));
        seen.replace_day(window("2018-06-02"), journal(&[(Key::Receipt(two), 1)]));
        assert_eq!(seen.attempts.keys().copied().collect::<Vec<_>>(), [id(one)]);
        assert_eq!(seen.unread_receipts(), [two]);
    }

    #[test]
    fn records_read_by_a_newer_listing_are_kept() {
        let day = window("2018-06-01");
        let id = AttemptId {
            window: day,
            ulid: Ulid::from_parts(1, 1),
        };
        let mut newer = journal(&[(Key::Attempt(id), 1), (Key::Receipt(day), 1)]);
        newer.receipts.insert(day, Some(Box::new(facts(0))));
        let record = AttemptRecord {
            schema: AttemptRecord::SCHEMA.to_owned(),
            holder: "other".to_owned(),
            process: None,
            source: "https://a".to_owned(),
            started_at: Timestamp::UNIX_EPOCH,
            deadline: Timestamp::MAX,
            tracker_user: None,
            open_before: Vec::new(),
        };
        newer.attempts.get_mut(&id).unwrap().record = Some(record);
        let mut seen = Journal::default();
        seen.replace_day(day, newer);
        assert!(seen.receipts[&day].is_some());
        assert_eq!(
            seen.attempts_by_others(day, "self", Timestamp::UNIX_EPOCH)
                .count(),
            1
        );
    }
}
