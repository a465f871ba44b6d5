//! Layout of the archive: maps keys to their meaning. No I/O.
//!
//! The keys hold the complete state of an export, so that one listing shows it. The layout outlives every
//! version of the resource; `docs/archive.md` describes it for readers of the archive.

use std::fmt;

use jiff::civil::Date;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use ulid::Ulid;

use super::window::Window;

/// Internal folder of a directory store. A copy of a directory to a bucket may contain it.
const INTERNAL_DIR: &str = ".eventexport-tmp";

/// Highest revision of a receipt.
pub const REVISION_MAX: u32 = 9999;

/// Folders of documents below a root.
const DOCUMENT_DIRS: [&str; 4] = ["_journal", "_manifests", "_revisions", "_checkpoints"];

/// Report below a root.
const REPORT: &str = "_report/index.html";

/// Length of a date in a key.
const DATE_CHARS: usize = "2018-06-01".len();

/// Key prefix of everything that one space and scope has in a bucket: empty, or ends with `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ArchiveRoot(String);

/// Id of one attempt at a window. Only the writer of the attempt touches its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// Window to export.
    pub window: Window,
    /// Unique id, ordered by the start time of the attempt.
    pub ulid: Ulid,
}

/// Document that a time-stamp authority may stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StampedDocument {
    /// Manifest with this number.
    Manifest(u64),
    /// Checkpoint of a day.
    Checkpoint(Date),
}

/// Meaning of a key below the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Events of a window.
    Events(Window),
    /// Proof that the window is stored, or that it has no events.
    Receipt(Window),
    /// Full body of a later revision of a window, from 1.
    Revision(Window, u32),
    /// Events of a revision that no earlier one has.
    Supplement(Window, u32),
    /// Proof of a revision.
    RevisionReceipt(Window, u32),
    /// The service reported late events of a stored window and did not give them.
    Late(Window),
    /// The service no longer had the window when it was asked.
    Expired(Window),
    /// The day is exported by the hour.
    Split(Window),
    /// A session is about to be opened.
    Attempt(AttemptId),
    /// The attempt opened this session.
    Session(AttemptId, String),
    /// All facts of an upload that is about to be completed.
    Prepared(AttemptId),
    /// Manifest of a period, by its number in the chain, from 1.
    Manifest(u64),
    /// Signature of the manifest with this number.
    Signature(u64),
    /// Signature of a receipt, by the revision of the receipt: 0 is the first.
    ReceiptSignature(Window, u32),
    /// Statement of a continuous export about its archive on a UTC day.
    Checkpoint(Date),
    /// Signature of the checkpoint of a day.
    CheckpointSignature(Date),
    /// Time stamp of a document (RFC 3161).
    Timestamp(StampedDocument),
    /// Report on the archive. The only key that is overwritten; it proves nothing.
    Report,
    /// Foreign key.
    Other,
}

impl ArchiveRoot {
    /// Builds `<prefix>/space=<id>/scope=<space|account>/`; percent-encodes the id outside `A–Z a–z 0–9 - _ . ~`.
    pub fn new(prefix: &str, space: &str, scope: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        Self(format!("{prefix}{slash}space={}/scope={scope}/", encode(space)))
    }

    /// Creates the root from an exact key prefix, which is empty or ends with `/`. Accepts the root of a copy that
    /// was moved.
    pub fn from_prefix(prefix: &str) -> Self {
        Self(prefix.to_owned())
    }

    /// Returns the root of a key: up to and including the last folder `scope=…` inside a folder `space=…`.
    pub fn containing(key: &str) -> Option<Self> {
        let (mut end, mut at, mut space) = (None, 0, false);
        for folder in key.split_inclusive('/') {
            at += folder.len();
            if space && folder.starts_with("scope=") && folder.ends_with('/') {
                end = Some(at);
            }
            space = folder.starts_with("space=");
        }
        end.and_then(|end| key.get(..end)).map(Self::from_prefix)
    }

    /// Returns the root of a key below a prefix, which is empty or ends with `/`: the prefix contains several spaces and
    /// scopes, or is one root. `None`: the key is in no root.
    pub fn of(prefix: &str, key: &str) -> Option<Self> {
        let named = Self::containing(prefix).filter(|root| root.as_str() == prefix);
        if named.is_some() {
            return named;
        }
        if let Some(root) = Self::containing(key) {
            return Some(root);
        }
        let below = key.strip_prefix(prefix).unwrap_or(key);
        let folders = [
            "date=",
            "_journal/",
            "_manifests/",
            "_checkpoints/",
            "_revisions/",
            "_report/",
        ];
        let direct = folders.iter().any(|folder| below.starts_with(folder));
        direct.then(|| Self::from_prefix(prefix))
    }

    /// Returns true if a key belongs to the internal folder of a directory store.
    pub fn is_internal(key: &str) -> bool {
        key.split('/').any(|folder| folder == INTERNAL_DIR)
    }

    /// Returns true if a query over `date=*/events*.json.gz` reads the key as events.
    pub fn is_query_input(key: &str) -> bool {
        let mut names = key.rsplit('/');
        let (name, folder) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
        name.starts_with("events") && name.ends_with(".json.gz") && folder.starts_with("date=")
    }

    /// Returns true if queries skip the key below a root, and it is none of the folders of documents: a name in it begins
    /// with `.` or `_`, or it marks a folder (`key/` of 0 bytes, as consoles of stores create it).
    pub fn is_skipped(below: &str, size: u64) -> bool {
        if size == 0 && (below.is_empty() || below.ends_with('/')) {
            return true;
        }
        let mut names = below.split('/').peekable();
        names.next_if(|name| DOCUMENT_DIRS.contains(name));
        names.any(|name| name.starts_with(['.', '_']))
    }

    /// Returns the space id and the scope (`space` or `account`) of the last two folders.
    pub fn space_and_scope(&self) -> Option<(String, String)> {
        let mut folders = self.0.trim_end_matches('/').rsplit('/');
        let scope = folders.next()?.strip_prefix("scope=")?;
        let space = folders.next()?.strip_prefix("space=")?;
        Some((decode(space)?, scope.to_owned()))
    }

    /// Returns the prefix before the folders of space and scope, without slashes at its ends.
    pub fn prefix(&self) -> &str {
        let mut rest = self.0.trim_end_matches('/');
        for name in ["scope=", "space="] {
            let (before, folder) = rest.rsplit_once('/').unwrap_or(("", rest));
            if !folder.starts_with(name) {
                break;
            }
            rest = before;
        }
        rest.trim_matches('/')
    }

    /// Returns the same root below another prefix, which is empty or ends with `/`.
    #[must_use]
    pub fn under(&self, prefix: &str) -> Self {
        Self(format!("{prefix}{}", self.0))
    }

    /// Returns the root as a key prefix, with its final `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the full key; `None` for [`Key::Other`].
    pub fn key(&self, key: &Key) -> Option<String> {
        Some(format!("{}{}", self.0, key.relative()?))
    }

    /// Returns the prefix of all journal keys.
    pub fn journal_prefix(&self) -> String {
        format!("{}_journal/", self.0)
    }

    /// Returns the prefix of all journal keys of a day and its hours.
    pub fn day_journal_prefix(&self, window: Window) -> String {
        format!("{}_journal/{}", self.0, window.date())
    }

    /// Returns the prefix of all manifests and signatures.
    pub fn manifests_prefix(&self) -> String {
        format!("{}_manifests/", self.0)
    }

    /// Returns the prefix of all checkpoints and their signatures.
    pub fn checkpoints_prefix(&self) -> String {
        format!("{}_checkpoints/", self.0)
    }

    /// Returns the prefix of all objects of a day and its hours.
    pub fn day_objects_prefix(&self, window: Window) -> String {
        format!("{}date={}/", self.0, window.date())
    }

    /// Returns the prefix of all revisions of a day and its hours.
    pub fn day_revisions_prefix(&self, window: Window) -> String {
        format!("{}_revisions/{}", self.0, window.date())
    }

    /// Returns the prefix of all revisions of a window.
    pub fn revisions_prefix(&self, window: Window) -> String {
        format!("{}_revisions/{window}/", self.0)
    }

    /// Returns the prefixes of all keys of the days from the first to the last one, but their checkpoints, and of all
    /// manifests. They may contain keys of other days. No key has two of the prefixes.
    pub fn prefixes_of_days(&self, first: Date, last: Date) -> Vec<String> {
        let (first, last) = (first.to_string(), last.to_string());
        let same = first
            .bytes()
            .zip(last.bytes())
            .take_while(|(one, other)| one == other);
        // A date is ASCII.
        let days = first.get(..same.count()).unwrap_or_default();
        vec![
            format!("{}_journal/{days}", self.0),
            self.manifests_prefix(),
            format!("{}date={days}", self.0),
            format!("{}_revisions/{days}", self.0),
        ]
    }

    /// Returns the day of a key, whatever else it means: that of its folder or of its document.
    pub fn day_of(&self, key: &str) -> Option<Date> {
        let below = key.strip_prefix(&self.0)?;
        let mut folders = ["date=", "_journal/", "_revisions/"].into_iter();
        let named = folders.find_map(|folder| below.strip_prefix(folder))?;
        named.get(..DATE_CHARS)?.parse().ok()
    }

    /// Parses a full key.
    pub fn parse(&self, key: &str) -> Key {
        let below = key.strip_prefix(&self.0);
        below
            .and_then(parse_relative)
            // A key in another spelling is foreign: reading or deleting it would address a different object.
            .filter(|parsed| parsed.relative().as_deref() == below)
            .unwrap_or(Key::Other)
    }
}

impl StampedDocument {
    /// Returns the key of the document.
    pub const fn key(self) -> Key {
        match self {
            Self::Manifest(number) => Key::Manifest(number),
            Self::Checkpoint(day) => Key::Checkpoint(day),
        }
    }
}

impl Key {
    /// Returns true for keys that are written once and never deleted.
    pub const fn is_evidence(&self) -> bool {
        match self {
            Self::Events(_)
            | Self::Supplement(..)
            | Self::Revision(..)
            | Self::Receipt(_)
            | Self::RevisionReceipt(..)
            | Self::ReceiptSignature(..)
            | Self::Manifest(_)
            | Self::Signature(_)
            | Self::Checkpoint(_)
            | Self::CheckpointSignature(_)
            | Self::Timestamp(_) => true,
            Self::Expired(_)
            | Self::Split(_)
            | Self::Late(_)
            | Self::Attempt(_)
            | Self::Session(..)
            | Self::Prepared(_)
            | Self::Report
            | Self::Other => false,
        }
    }

    /// Returns the window that evidence is about; `None` if it is about many, or no evidence.
    pub const fn window(&self) -> Option<Window> {
        match self {
            Self::Events(window)
            | Self::Supplement(window, _)
            | Self::Revision(window, _)
            | Self::Receipt(window)
            | Self::RevisionReceipt(window, _)
            | Self::ReceiptSignature(window, _) => Some(*window),
            _ => None,
        }
    }

    /// Returns the key below the root, as documents name it; `None` for [`Key::Other`].
    pub fn relative(&self) -> Option<String> {
        Some(match self {
            Self::Events(window) => match window.hour_of_day() {
                None => format!("date={}/events.json.gz", window.date()),
                Some(hour) => format!("date={}/events-h{hour:02}.json.gz", window.date()),
            },
            Self::Receipt(window) => format!("_journal/{window}.receipt.json"),
            Self::Revision(window, revision) => format!("_revisions/{window}/{revision}/events.json.gz"),
            Self::Supplement(window, revision) => match window.hour_of_day() {
                None => format!("date={}/events-r{revision}.json.gz", window.date()),
                Some(hour) => format!("date={}/events-h{hour:02}-r{revision}.json.gz", window.date()),
            },
            Self::RevisionReceipt(window, revision) => format!("_journal/{window}.r{revision}.receipt.json"),
            Self::Late(window) => format!("_journal/{window}.late.json"),
            Self::Expired(window) => format!("_journal/{window}.expired.json"),
            Self::Split(window) => format!("_journal/{window}.split.json"),
            Self::Attempt(id) => format!("_journal/{id}.attempt.json"),
            Self::Session(id, session) => format!("_journal/{id}.session.{}.json", encode(session)),
            Self::Prepared(id) => format!("_journal/{id}.prepared.json"),
            Self::Manifest(number) => format!("_manifests/{number:08}.json"),
            Self::Signature(number) => format!("_manifests/{number:08}.json.sig"),
            Self::ReceiptSignature(window, 0) => format!("_journal/{window}.receipt.json.sig"),
            Self::ReceiptSignature(window, revision) => {
                format!("_journal/{window}.r{revision}.receipt.json.sig")
            }
            Self::Checkpoint(day) => format!("_checkpoints/{day}.json"),
            Self::CheckpointSignature(day) => format!("_checkpoints/{day}.json.sig"),
            Self::Timestamp(document) => format!("{}.tsr", document.key().relative()?),
            Self::Report => REPORT.to_owned(),
            Self::Other => return None,
        })
    }
}

fn parse_relative(below: &str) -> Option<Key> {
    if below == REPORT {
        return Some(Key::Report);
    }
    if let Some(document) = below.strip_suffix(".tsr") {
        return match parse_relative(document)? {
            Key::Manifest(number) => Some(Key::Timestamp(StampedDocument::Manifest(number))),
            Key::Checkpoint(day) => Some(Key::Timestamp(StampedDocument::Checkpoint(day))),
            _ => None,
        };
    }
    if let Some(rest) = below.strip_prefix("date=") {
        let (day, name) = rest.split_once('/')?;
        let name = name.strip_prefix("events")?.strip_suffix(".json.gz")?;
        let (part, revision) = match name.rsplit_once("-r") {
            Some((part, number)) => (part, Some(revision_number(number)?)),
            None => (name, None),
        };
        let window = match part.strip_prefix("-h") {
            None if part.is_empty() => day.parse().ok()?,
            None => return None,
            Some(hour) => format!("{day}T{hour}").parse().ok()?,
        };
        return Some(match revision {
            None => Key::Events(window),
            Some(revision) => Key::Supplement(window, revision),
        });
    }
    if let Some(rest) = below.strip_prefix("_revisions/") {
        let (window, rest) = rest.split_once('/')?;
        let number = rest.strip_suffix("/events.json.gz")?;
        return Some(Key::Revision(window.parse().ok()?, revision_number(number)?));
    }
    if let Some(name) = below.strip_prefix("_manifests/") {
        return match name.strip_suffix(".sig") {
            Some(name) => Some(Key::Signature(manifest_number(name)?)),
            None => Some(Key::Manifest(manifest_number(name)?)),
        };
    }
    if let Some(name) = below.strip_prefix("_checkpoints/") {
        let (day, kind) = name.split_once('.')?;
        let day = day.parse().ok()?;
        return match kind {
            "json" => Some(Key::Checkpoint(day)),
            "json.sig" => Some(Key::CheckpointSignature(day)),
            _ => None,
        };
    }
    let name = below.strip_prefix("_journal/")?;
    if let Some(name) = name.strip_suffix(".receipt.json.sig") {
        return match name.split_once(".r") {
            None => Some(Key::ReceiptSignature(name.parse().ok()?, 0)),
            Some((window, revision)) => Some(Key::ReceiptSignature(
                window.parse().ok()?,
                revision_number(revision)?,
            )),
        };
    }
    let name = name.strip_suffix(".json")?;
    let (window, rest) = name.split_once('.')?;
    let window: Window = window.parse().ok()?;
    match rest {
        "receipt" => return Some(Key::Receipt(window)),
        "expired" => return Some(Key::Expired(window)),
        "late" => return Some(Key::Late(window)),
        "split" if window.hour_of_day().is_none() => return Some(Key::Split(window)),
        _ => {}
    }
    let (ulid, kind) = rest.split_once('.')?;
    if let Some(number) = ulid.strip_prefix('r').filter(|_| kind == "receipt") {
        return Some(Key::RevisionReceipt(window, revision_number(number)?));
    }
    let id = AttemptId {
        window,
        ulid: Ulid::from_string(ulid).ok()?,
    };
    match kind.split_once('.') {
        None if kind == "attempt" => Some(Key::Attempt(id)),
        None if kind == "prepared" => Some(Key::Prepared(id)),
        // Session ids of the service are graphic ASCII. Anything else is foreign and never displayed.
        Some(("session", session)) => decode(session)
            .filter(|session| !session.is_empty() && session.bytes().all(|byte| byte.is_ascii_graphic()))
            .map(|session| Key::Session(id, session)),
        _ => None,
    }
}

/// Parses the number of a revision: decimal digits, 1 to [`REVISION_MAX`]. Other spellings are foreign keys.
fn revision_number(digits: &str) -> Option<u32> {
    let number: u32 = digits.parse().ok()?;
    (1..=REVISION_MAX).contains(&number).then_some(number)
}

/// Parses the number of a manifest: eight decimal digits, so that keys sort like numbers.
fn manifest_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    let well_formed = digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| well_formed && *number > 0)
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.window, self.ulid)
    }
}

/// All characters except the unreserved ones of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Percent-encodes a name, including a leading dot: `.` and `..` are invalid folder names.
fn encode(text: &str) -> String {
    let (dot, rest) = text.strip_prefix('.').map_or(("", text), |rest| ("%2E", rest));
    format!("{dot}{}", utf8_percent_encode(rest, RESERVED))
}

fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn every_key_round_trips() {
        let root = ArchiveRoot::new("tracker", "c1234567-6d55-4193-a9de-378620d6fab5", "space");
        let day: Window = "2018-06-28".parse().unwrap();
        let hour: Window = "2018-06-28T07".parse().unwrap();
        let id = AttemptId {
            window: hour,
            ulid: Ulid::from_parts(1_530_000_000_000, 7),
        };
        for key in [
            Key::Events(day),
            Key::Events(hour),
            Key::Receipt(day),
            Key::Receipt(hour),
            Key::Revision(day, 1),
            Key::Revision(hour, REVISION_MAX),
            Key::Supplement(day, 12),
            Key::Supplement(hour, 3),
            Key::RevisionReceipt(day, 1),
            Key::RevisionReceipt(hour, 10),
            Key::Late(day),
            Key::Expired(day),
            Key::Split(day),
            Key::Attempt(id),
            Key::Session(id, "b08cb740-ff85-404f-a6eb-ffec5374c7c6".to_owned()),
            Key::Session(id, "../odd-id.%".to_owned()),
            Key::Prepared(id),
            Key::Manifest(1),
            Key::Signature(99_999_999),
            Key::ReceiptSignature(day, 0),
            Key::ReceiptSignature(hour, 0),
            Key::ReceiptSignature(hour, 9999),
            Key::Checkpoint(day.date()),
            Key::CheckpointSignature(day.date()),
            Key::Report,
        ] {
            assert_eq!(root.parse(&root.key(&key).unwrap()), key);
        }
    }

    #[test]
    fn event_keys_use_hive_partitions() {
        let root = ArchiveRoot::new("/a/b/", "x", "account");
        let key = root.key(&Key::Events("2018-06-28T07".parse().unwrap())).unwrap();
        assert_eq!(
            key,
            "a/b/space=x/scope=account/date=2018-06-28/events-h07.json.gz"
        );
        assert_eq!(
            ArchiveRoot::new("", "x", "space").as_str(),
            "space=x/scope=space/"
        );
    }

    #[test]
    fn a_root_knows_its_prefix() {
        for (root, prefix) in [
            (ArchiveRoot::new("a/b", "x", "space"), "a/b"),
            (ArchiveRoot::new("", "x", "space"), ""),
            (ArchiveRoot::new("t", "x", "space").under("c/"), "c/t"),
        ] {
            assert_eq!(root.prefix(), prefix);
        }
    }

    #[test]
    fn queries_read_events_in_folders_of_days_and_skip_hidden_names() {
        for (key, input, skipped) in [
            ("p/date=2018-06-01/events.json.gz", true, false),
            ("p/date=junk/events-extra.json.gz", true, false),
            ("date=2018-06-01/events.json.gz", true, false),
            ("date=2018-06-01/.events.json.gz", false, true),
            ("date=2018-06-01/_events.json.gz", false, true),
            ("date=2018-06-01/.DS_Store", false, true),
            ("date=2018-06-01/_temporary/0/part.json.gz", false, true),
            ("date=2018-06-01/part-2.json.gz", false, false),
            ("date=2018-06-01/events.json.gz.part", false, false),
            ("events.json.gz", false, false),
            ("_journal/notes.txt", false, false),
            ("_journal/.DS_Store", false, true),
            ("_manifests", false, false),
            ("date=2018-06-01/more/events.json.gz", false, false),
        ] {
            assert_eq!(ArchiveRoot::is_query_input(key), input, "{key}");
            assert_eq!(ArchiveRoot::is_skipped(key, 1), skipped, "{key}");
        }
        assert!(ArchiveRoot::is_skipped("date=2018-06-01/", 0) && ArchiveRoot::is_skipped("", 0));
        assert!(!ArchiveRoot::is_skipped("date=2018-06-01/", 1));
    }

    #[test]
    fn a_space_id_cannot_escape_its_prefix() {
        assert_eq!(
            ArchiveRoot::new("p", "../../etc", "space").as_str(),
            "p/space=%2E.%2F..%2Fetc/scope=space/"
        );
    }

    #[test]
    fn a_key_belongs_to_the_named_root_or_the_one_in_its_name() {
        let root =
            |prefix: &str, key: &str| ArchiveRoot::of(prefix, key).map(|root| root.as_str().to_owned());
        for (prefix, key, expected) in [
            (
                "",
                "p/space=a/scope=space/_journal/x",
                Some("p/space=a/scope=space/"),
            ),
            ("", "date=2018-06-01/events.json.gz", Some("")),
            ("x/", "x/_manifests/00000001.json", Some("x/")),
            ("", "notes.txt", None),
            // A folder below a root that is named is no root of its own.
            (
                "p/space=a/scope=space/",
                "p/space=a/scope=space/notes/space=b/scope=space/readme",
                Some("p/space=a/scope=space/"),
            ),
            // A backup in a folder that is named like a day.
            (
                "",
                "date=2026-11-30/space=a/scope=space/_journal/x",
                Some("date=2026-11-30/space=a/scope=space/"),
            ),
        ] {
            assert_eq!(root(prefix, key).as_deref(), expected, "{prefix} {key}");
        }
    }

    #[test]
    fn prefixes_of_days_contain_their_keys_and_the_manifests() {
        let root = ArchiveRoot::new("p", "x", "space");
        let (first, last) = (date(2018, 6, 3), date(2018, 6, 30));
        let prefixes = root.prefixes_of_days(first, last);
        for (below, day) in [
            ("_journal/2018-06-03.receipt.json", Some(first)),
            ("_journal/2018-06-30T23.split.json", Some(last)),
            ("date=2018-06-30/events-h07.json.gz", Some(last)),
            ("date=2018-06-03/notes.txt", Some(first)),
            ("_revisions/2018-06-30T07/1/events.json.gz", Some(last)),
            ("_manifests/00000001.json.sig", None),
        ] {
            let key = format!("{}{below}", root.as_str());
            assert_eq!(
                prefixes.iter().filter(|prefix| key.starts_with(*prefix)).count(),
                1,
                "{key}"
            );
            assert_eq!(root.day_of(&key), day, "{key}");
        }
        for other in [
            "_journal/2018-07-01.receipt.json",
            "date=2017-06-03/events.json.gz",
        ] {
            let key = format!("{}{other}", root.as_str());
            assert!(!prefixes.iter().any(|prefix| key.starts_with(prefix)), "{key}");
        }
    }

    #[test]
    fn foreign_keys_are_ignored() {
        let root = ArchiveRoot::new("p", "x", "space");
        for below in [
            "notes.txt",
            "_journal/2018-06-28.json",
            "_journal/2018-06-28.x.attempt.json",
            "date=2018-02-30/events.json.gz",
            "date=2018-06-28/part-0.json.gz",
            "_journal/2018-06-28T07.split.json",
            "_manifests/00000000.json",
            "_manifests/1.json",
            "_manifests/+0000001.json",
            "_manifests/00000001.json.sig.sig",
            "_journal/2018-06-28.receipt.json.sig.sig",
            "_journal/2018-06-28.r0.receipt.json.sig",
            "_journal/2018-06-28.r01.receipt.json.sig",
            "_journal/2018-06-28.r10000.receipt.json.sig",
            "_checkpoints/2018-02-30.json",
            "_checkpoints/20180228.json",
            "_checkpoints/2018-06-28T07.json",
            "_checkpoints/2018-06-28.json.bak",
            "date=2018-06-28/events-r0.json.gz",
            "date=2018-06-28/events-r01.json.gz",
            "date=2018-06-28/events-r1-h07.json.gz",
            "date=2018-06-28/eventsx-r1.json.gz",
            "_revisions/2018-06-28/1/events.json",
            "_revisions/2018-06-28/10000/events.json.gz",
            "_revisions/2018-06-28/+1/events.json.gz",
            "_journal/2018-06-28.r0.receipt.json",
            "_report/index.htm",
            "_report/index.html.sig",
        ] {
            assert_eq!(
                root.parse(&format!("p/space=x/scope=space/{below}")),
                Key::Other,
                "{below}"
            );
        }
        assert_eq!(
            root.parse("q/space=x/scope=space/date=2018-06-28/events.json.gz"),
            Key::Other
        );
    }
}
