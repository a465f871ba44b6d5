//! Data of a window that does not count, and why. No I/O.

use std::fmt;

use crate::api::Reason;
use crate::archive::counts::partial_count_suffices;
use crate::archive::layout::Key;
use crate::archive::listing::{Journal, LateFacts};
use crate::archive::receipt::{ReceiptFacts, body_key};
use crate::archive::records::{RecordError, UncountedRecord};
use crate::archive::window::Window;

/// A window that has data in the archive and is not covered by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The receipt cannot be read.
    Unreadable(RecordError),
    /// The receipt names another source.
    OtherSource(String),
    /// The object that the receipt names does not exist.
    ObjectMissing,
    /// The object has another size than the receipt states.
    ObjectSizeMismatch {
        /// Bytes that the receipt states.
        stated: u64,
        /// Bytes that the store has.
        found: u64,
    },
    /// A file of a later revision does not exist.
    RevisionMissing {
        /// Key below the root.
        key: String,
    },
    /// A file of a later revision has another size than its receipt states.
    RevisionSizeMismatch {
        /// Key below the root.
        key: String,
        /// Bytes that the receipt states.
        stated: u64,
        /// Bytes that the store has.
        found: u64,
    },
    /// Fewer events are stored than the newest count of the service. Of a day: the sum of its hours.
    Short {
        /// Events that are stored.
        events: u64,
        /// Events that the service reported last.
        reported: u64,
    },
    /// The content could be counted only in part, and the counted events are not enough. Of a day: the sum of its hours.
    Uncounted {
        /// Events that were counted.
        events: u64,
        /// Events that the service reported last.
        reported: Option<u64>,
        /// End of the count. Of a day: of the first such hour.
        uncounted: UncountedRecord,
    },
    /// The receipt states that there are no events, but an object exists.
    UnexpectedObject,
    /// An object without receipt and attempt.
    Orphaned,
}

/// Returns the reason why a receipt does not cover its window.
pub(super) fn receipt_damage(
    journal: &Journal,
    window: Window,
    facts: &ReceiptFacts,
    source: Option<&str>,
) -> Option<Damage> {
    if source.is_some_and(|source| source != &*facts.source) {
        return Some(Damage::OtherSource(facts.source.to_string()));
    }
    let current = facts.current();
    let reported = current.reported.max(newest_report(journal, window, facts));
    let short = reported.filter(|reported| current.events < *reported);
    if let (Some(reported), None) = (short, &current.uncounted) {
        return Some(Damage::Short {
            events: current.events,
            reported,
        });
    }
    if let Some(damage) = file_damage(journal, window, facts) {
        return Some(damage);
    }
    let uncounted = current.uncounted.as_deref()?;
    let insufficient = !partial_count_suffices(current.events, None, current.reported);
    insufficient.then(|| Damage::Uncounted {
        events: current.events,
        reported: current.reported,
        uncounted: uncounted.clone(),
    })
}

/// True if the files of all revisions exist as the receipts state.
pub(super) fn is_intact(journal: &Journal, window: Window, facts: &ReceiptFacts) -> bool {
    file_damage(journal, window, facts).is_none()
}

fn file_damage(journal: &Journal, window: Window, facts: &ReceiptFacts) -> Option<Damage> {
    object_damage(journal, window, facts).or_else(|| revision_damage(journal, window, facts))
}

/// Checks the first object of a window.
fn object_damage(journal: &Journal, window: Window, facts: &ReceiptFacts) -> Option<Damage> {
    if facts.summary.sha256.is_none() {
        // Proved empty: there is no object.
        return journal.is_unexplained(window).then_some(Damage::UnexpectedObject);
    }
    let stated = facts.summary.bytes;
    match journal.objects.get(&window) {
        None => Some(Damage::ObjectMissing),
        Some(found) if *found != stated => Some(Damage::ObjectSizeMismatch {
            stated,
            found: *found,
        }),
        Some(_) => None,
    }
}

/// Checks the files of later revisions.
fn revision_damage(journal: &Journal, window: Window, facts: &ReceiptFacts) -> Option<Damage> {
    facts.revisions.iter().find_map(|later| {
        let files = journal.revision_files(window, later.revision);
        let body = (later.object == later.revision).then_some(later.summary.bytes);
        let supplement = later.supplement.as_ref().map(|supplement| supplement.bytes);
        let stated = [
            (body_key(window, later.revision), body, files.body),
            (
                Key::Supplement(window, later.revision),
                supplement,
                files.supplement,
            ),
        ];
        stated.into_iter().find_map(|(key, stated, found)| {
            let (stated, key) = (stated?, key.relative().unwrap_or_default());
            match found {
                None => Some(Damage::RevisionMissing { key }),
                Some(found) if found != stated => Some(Damage::RevisionSizeMismatch { key, stated, found }),
                Some(_) => None,
            }
        })
    })
}

/// Returns the count of late events that the service reported after the highest revision and did not give.
fn newest_report(journal: &Journal, window: Window, facts: &ReceiptFacts) -> Option<u64> {
    let late = newer_late(journal, window, facts)?;
    // The archive stays proved for what it held: a person decides which body is right.
    late.changed.is_none().then_some(late.reported)
}

/// Returns the record of late events of a window if it is newer than the highest revision.
pub(super) fn newer_late<'a>(
    journal: &'a Journal,
    window: Window,
    facts: &ReceiptFacts,
) -> Option<&'a LateFacts> {
    let late = journal.late.get(&window)?.as_ref()?;
    let counts = late.source == *facts.source && late.seen_at > facts.current_stored_at();
    counts.then_some(late)
}

impl Damage {
    /// The reason, as conditions name it.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Unreadable(error) => error.reason(),
            Self::OtherSource(_) => Reason::SourceMismatch,
            Self::ObjectMissing | Self::RevisionMissing { .. } => Reason::ObjectMissing,
            Self::ObjectSizeMismatch { .. } | Self::RevisionSizeMismatch { .. } => Reason::ObjectSizeMismatch,
            Self::Short { .. } => Reason::Short,
            Self::Uncounted { .. } => Reason::EventsUncounted,
            Self::UnexpectedObject | Self::Orphaned => Reason::ForeignObject,
        }
    }

    /// The name in JSON output.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unreadable(error) => error.as_str(),
            Self::OtherSource(_) => "OtherSource",
            Self::ObjectMissing | Self::RevisionMissing { .. } => "ObjectMissing",
            Self::ObjectSizeMismatch { .. } | Self::RevisionSizeMismatch { .. } => "ObjectSizeMismatch",
            Self::Short { .. } => "Short",
            Self::Uncounted { .. } => "Uncounted",
            Self::UnexpectedObject => "UnexpectedObject",
            Self::Orphaned => "Orphaned",
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::OtherSource(source) => write!(f, "its receipt names the source {source}"),
            Self::ObjectMissing => f.write_str("its receipt exists, but its object is missing"),
            Self::ObjectSizeMismatch { stated, found } => {
                write!(f, "its object has {found} bytes, but its receipt states {stated}")
            }
            Self::RevisionMissing { key } => write!(f, "a receipt names {key}, which is missing"),
            Self::RevisionSizeMismatch { key, stated, found } => {
                write!(f, "{key} has {found} bytes, but its receipt states {stated}")
            }
            Self::Short { events, reported } => {
                write!(
                    f,
                    "{events} events are stored, but the service reported {reported}"
                )
            }
            Self::Uncounted {
                events,
                reported,
                uncounted,
            } => {
                write!(
                    f,
                    "only {events} events could be counted ({uncounted} of the decompressed data), and the service reported "
                )?;
                match reported {
                    None => f.write_str("no count"),
                    Some(reported) => write!(f, "{reported}"),
                }
            }
            Self::UnexpectedObject => {
                f.write_str("its receipt states that there are no events, but an object exists")
            }
            Self::Orphaned => f.write_str("its object has no receipt"),
        }
    }
}
