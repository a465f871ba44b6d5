//! What can be wrong with an archive, and in which words it is told. No I/O.

use serde_json::{Value, json};

use crate::export::window::Window;

/// What is wrong, or worth a remark. The names are part of the JSON format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// A receipt or manifest names an object that is not there.
    ObjectMissing,
    /// The object holds the bytes of another window.
    ObjectSwapped,
    /// The object is shorter or longer than stated.
    ObjectSize,
    /// The object's bytes are others than those that were stored.
    ObjectChanged,
    /// The object could not be read.
    ObjectUnreadable,
    /// The bytes are those that the receipt names, and no whole gzip of events.
    ObjectNotWhole,
    /// Events that no receipt vouches for.
    ObjectWithoutReceipt,
    /// A file where only events of a window may be.
    StrayFile,
    /// A manifest names a receipt that is not there.
    ReceiptMissing,
    /// The receipt is not the one that a manifest names.
    ReceiptChanged,
    /// The receipt cannot be read as one.
    ReceiptUnreadable,
    /// The receipt is about another window, space or scope than its key.
    ReceiptMisplaced,
    /// The receipt contradicts itself or its object.
    ReceiptInconsistent,
    /// The hours of a day have fewer events than the service reported of the day.
    DayShort,
    /// A number in the chain of manifests has no manifest.
    ManifestMissing,
    /// The manifest is not the one that the next one names.
    ManifestChanged,
    /// The manifest cannot be read as one.
    ManifestUnreadable,
    /// The manifest contradicts itself or the receipts that it names.
    ManifestInconsistent,
    /// The signature is of none of the given keys, or of other bytes.
    SignatureInvalid,
    /// The manifest has no signature, and one was required.
    SignatureMissing,
    /// Hours or days within the range are not covered.
    Gap,
    /// Signatures are there and no key was given to check them.
    SignatureUnchecked,
    /// The journal names a session that may still be open.
    SessionOpen,
    /// Receipts that no manifest names yet.
    NotInManifest,
    /// Receipts name more than one source.
    SeveralSources,
    /// A file that is none of the archive's, where it does no harm.
    ForeignFile,
}

/// One thing that is wrong, or worth a remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// The key at fault, as the store has it; of a gap the root.
    pub key: String,
    /// The window that it is about.
    pub window: Option<Window>,
    /// What was expected.
    pub expected: Option<String>,
    /// What was found.
    pub found: Option<String>,
}

impl FindingKind {
    /// As programs read it.
    pub fn as_str(self) -> String {
        format!("{self:?}")
    }

    /// Whether the archive is not proved because of it.
    pub const fn is_error(self) -> bool {
        !matches!(
            self,
            Self::SignatureUnchecked
                | Self::SessionOpen
                | Self::NotInManifest
                | Self::SeveralSources
                | Self::ForeignFile
        )
    }

    /// What it means, and what to do.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::ObjectMissing => {
                "the events were stored and are gone: restore this object from a copy or an older version, or have \
                 the window exported again"
            }
            Self::ObjectSwapped => {
                "the events of one window lie under the key of another: exchange the objects back, and find out who \
                 moved them"
            }
            Self::ObjectSize => {
                "the object was cut off, appended to or replaced after it was stored: restore it from a copy or an \
                 older version"
            }
            Self::ObjectChanged => {
                "the bytes changed after they were stored: restore the object from a copy or an older version"
            }
            Self::ObjectUnreadable => {
                "nothing is proved of it: mend the store or the permissions, and verify again"
            }
            Self::ObjectNotWhole => {
                "receipt and object agree on bytes that no export would have accepted: both were made by something \
                 else; restore both from a copy"
            }
            Self::ObjectWithoutReceipt => {
                "nothing says that these events came from the service whole: the receipt was removed, the object was \
                 added by somebody, or an export was cut off; run the export again, which adopts or replaces what is \
                 its own"
            }
            Self::StrayFile => "queries over date= folders would read it as events: remove it",
            Self::ReceiptMissing => {
                "the proof of this window was removed: restore it from a copy or an older version"
            }
            Self::ReceiptChanged => {
                "the receipt was edited or replaced after the manifest was written: restore it from a copy or an \
                 older version"
            }
            Self::ReceiptUnreadable => {
                "it proves nothing: restore it from a copy or an older version; if it is of a later version, upgrade \
                 eventexport"
            }
            Self::ReceiptMisplaced => "it was copied from another key: restore the right one from a copy",
            Self::ReceiptInconsistent => "the receipt was edited: restore it from a copy or an older version",
            Self::DayShort => "events of the day are missing from its hours: have the day exported again",
            Self::ManifestMissing => {
                "the chain is broken: restore the manifest from a copy or an older version"
            }
            Self::ManifestChanged => {
                "the manifest was edited or replaced after the next one was written: restore it from a copy or an \
                 older version"
            }
            Self::ManifestUnreadable => {
                "it states nothing: restore it from a copy or an older version; if it is of a later version, upgrade \
                 eventexport"
            }
            Self::ManifestInconsistent => {
                "the manifest was edited: restore it from a copy or an older version"
            }
            Self::SignatureInvalid => {
                "the manifest was signed with another key, or manifest or signature were changed since: check that \
                 --public-key is the exporter's (it may be given several times), else restore both from a copy"
            }
            Self::SignatureMissing => {
                "nobody vouches for the manifest: set spec.manifest.signingKeySecretRef, or leave \
                 --require-signature out"
            }
            Self::Gap => {
                "these events are not in the archive: run the export again while the service still has them, or \
                 accept the gap in spec.acceptedGaps"
            }
            Self::SignatureUnchecked => "give the exporter's public key by --public-key FILE to check them",
            Self::SessionOpen => {
                "an export is running, or was cut off: the next run deletes it, and the service forgets it by itself"
            }
            Self::NotInManifest => {
                "nothing but the receipts themselves shows whether they were changed: a manifest is written when the \
                 export completes, or the month is over"
            }
            Self::SeveralSources => "with -f, receipts of another source than the spec's cover no window",
            Self::ForeignFile => "it is outside of date= folders, so queries do not read it",
        }
    }
}

impl Finding {
    /// About a key.
    pub fn new(kind: FindingKind, key: impl Into<String>) -> Self {
        Self {
            kind,
            key: key.into(),
            window: None,
            expected: None,
            found: None,
        }
    }

    /// About this window.
    #[must_use]
    pub const fn with_window(mut self, window: Window) -> Self {
        self.window = Some(window);
        self
    }

    /// This was expected.
    #[must_use]
    pub fn expected(mut self, text: impl Into<String>) -> Self {
        self.expected = Some(text.into());
        self
    }

    /// This was found.
    #[must_use]
    pub fn found(mut self, text: impl Into<String>) -> Self {
        self.found = Some(text.into());
        self
    }

    /// As programs read it.
    pub fn json(&self) -> Value {
        json!({
            "kind": self.kind.as_str(),
            "key": self.key,
            "window": self.window.map(|window| window.to_string()),
            "expected": self.expected,
            "found": self.found,
            "means": self.kind.explanation(),
        })
    }
}
