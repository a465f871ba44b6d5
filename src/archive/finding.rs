//! Kinds of problems of an archive, and their explanations. No I/O.

use serde_json::{Value, json};

use super::window::Window;

/// Kind of an error or remark. The names are part of the JSON format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// A receipt or manifest refers to an object that does not exist.
    ObjectMissing,
    /// The object has the bytes of another window.
    ObjectSwapped,
    /// The object is shorter or longer than stated.
    ObjectSize,
    /// The object has other bytes than were stored.
    ObjectChanged,
    /// The bucket has another version of the object than the one that was stored, or several, or deleted it.
    ObjectSuperseded,
    /// The bucket kept no versions when objects were written.
    Unversioned,
    /// The object could not be read.
    ObjectUnreadable,
    /// The object, or a receipt, manifest or signature, is in an archive tier of the store.
    ObjectArchived,
    /// The object has the bytes that the receipt states, but they are no complete gzip.
    ObjectNotWhole,
    /// Events without a receipt.
    ObjectWithoutReceipt,
    /// A file in a folder for events of a window.
    StrayFile,
    /// A symbolic link to a folder, a pipe, a device, or another entry of a directory that is neither followed nor read.
    IrregularFile,
    /// A manifest lists a receipt that does not exist.
    ReceiptMissing,
    /// The receipt differs from the digest in a manifest.
    ReceiptChanged,
    /// The receipt cannot be parsed.
    ReceiptUnreadable,
    /// The receipt is for another window, space or scope than its key.
    ReceiptMisplaced,
    /// The receipt contradicts itself or its object.
    ReceiptInconsistent,
    /// The content could be counted only in part, and fewer events were counted than the service reported, or none.
    EventsUnproved,
    /// Fewer events are stored than the newest count of the service.
    WindowShort,
    /// The hours of a day have fewer events than the service reported for the day.
    DayShort,
    /// A number in the chain has no manifest.
    ManifestMissing,
    /// The manifest differs from the digest in the next one.
    ManifestChanged,
    /// The manifest cannot be parsed.
    ManifestUnreadable,
    /// The manifest contradicts itself or its receipts.
    ManifestInconsistent,
    /// No given key verifies the signature of a manifest or receipt.
    SignatureInvalid,
    /// The manifest has no signature, and a key is given.
    SignatureMissing,
    /// A key is given, and neither a signed manifest nor a signature attests the receipt of a window.
    Unattested,
    /// The chain does not have a remembered manifest.
    HeadMissing,
    /// A checkpoint refers to an earlier one that does not exist.
    CheckpointMissing,
    /// The checkpoint differs from the digest in the next one.
    CheckpointChanged,
    /// The checkpoint cannot be parsed.
    CheckpointUnreadable,
    /// The checkpoint contradicts itself, or the receipts that it counts are others.
    CheckpointInconsistent,
    /// The time stamp is not about the document beside it.
    TimestampInvalid,
    /// Time stamps exist; the signatures of their authorities were not checked.
    TimestampUnchecked,
    /// Days without a checkpoint.
    CheckpointGap,
    /// The content could be counted only in part; the counted events are enough, or the service reported no count.
    EventsUncounted,
    /// Hours or days within the range are not covered.
    Gap,
    /// The archive has no receipt in the range.
    NothingToProve,
    /// Signatures exist, but no key was given to check them.
    SignatureUnchecked,
    /// The journal has a session that may still be open.
    SessionOpen,
    /// Receipts that no manifest lists yet.
    NotInManifest,
    /// Receipts of more than one source.
    SeveralSources,
    /// A file that does not belong to the archive, outside of folders for events.
    ForeignFile,
    /// A hidden file, or the marker of a folder.
    SkippedFile,
}

/// An error or remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Kind.
    pub kind: FindingKind,
    /// Key of the file, as the store has it; for a gap, the root.
    pub key: String,
    /// Affected window.
    pub window: Option<Window>,
    /// Expected state.
    pub expected: Option<String>,
    /// Actual state.
    pub found: Option<String>,
}

impl FindingKind {
    /// Returns the name in JSON output.
    pub fn as_str(self) -> String {
        format!("{self:?}")
    }

    /// Returns true for an error, false for a remark.
    pub const fn is_error(self) -> bool {
        !matches!(
            self,
            Self::EventsUncounted
                | Self::CheckpointGap
                | Self::SignatureUnchecked
                | Self::TimestampUnchecked
                | Self::SessionOpen
                | Self::NotInManifest
                | Self::SeveralSources
                | Self::ForeignFile
                | Self::SkippedFile
        )
    }

    /// Explains the kind, and says what to do.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::ObjectMissing => {
                "the object was deleted after it was stored: restore it from a copy or an older version, or export the \
                 window again"
            }
            Self::ObjectSwapped => {
                "the events of one window are under the key of another: swap the objects back, and find out how they \
                 were moved"
            }
            Self::ObjectSize => {
                "the object was truncated, extended or replaced after it was stored: restore it from a copy or an older \
                 version"
            }
            Self::ObjectChanged => {
                "the bytes changed after they were stored: restore the object from a copy or an older version"
            }
            Self::ObjectSuperseded => {
                "someone wrote over it, or deleted it, after it was stored: the version that was stored is kept if the \
                 bucket locks objects; make it the current one again by removing the later versions"
            }
            Self::Unversioned => {
                "nothing shows whether these objects were written over: enable versioning of the bucket, which shows it \
                 from then on, or omit --versions"
            }
            Self::ObjectUnreadable => {
                "the object was not checked: correct the store or the permissions, and verify again"
            }
            Self::ObjectArchived => {
                "the store keeps it in an archive tier and does not return it, so it was not checked: restore it from \
                 there and verify again (--quick checks archived events by the checksums of the store), and exempt \
                 _journal/ and _manifests/ from the lifecycle rule of the bucket"
            }
            Self::ObjectNotWhole => {
                "receipt and object agree on bytes that no export accepts, so another program wrote both: restore both \
                 from a copy"
            }
            Self::ObjectWithoutReceipt => {
                "the events are not proved to be complete: the receipt was removed, the object was added by something \
                 else, or an export was interrupted; run the export again, which adopts or replaces its own objects"
            }
            Self::StrayFile => "queries over date= folders read it as events: remove it",
            Self::IrregularFile => {
                "it was neither followed nor read, and other programs may find anything there: replace it with the files \
                 themselves, or remove it"
            }
            Self::ReceiptMissing => {
                "the proof of this window was removed: restore it from a copy or an older version"
            }
            Self::ReceiptChanged => {
                "the receipt was edited or replaced after the manifest was written: restore it from a copy or an \
                 older version"
            }
            Self::ReceiptUnreadable => {
                "the receipt proves nothing: restore it from a copy or an older version; if a later version of \
                 eventexport wrote it, upgrade"
            }
            Self::ReceiptMisplaced => {
                "the receipt was copied from another key: restore the right one from a copy or an older version"
            }
            Self::ReceiptInconsistent => "the receipt was edited: restore it from a copy or an older version",
            Self::EventsUnproved => {
                "the bytes are those that the service sent, but nothing shows that they have all events: examine the \
                 object, then accept the gap in spec.acceptedGaps, or delete object and receipt and export the window again"
            }
            Self::EventsUncounted => {
                "the bytes are those that the service sent; the rest of their content is not in the number of events"
            }
            Self::WindowShort => {
                "events of the window are missing: move its object and receipt away and export it again while the \
                 service still has it, or accept the gap in spec.acceptedGaps"
            }
            Self::DayShort => {
                "events of the day are missing from its hours: export the day again, or accept the gap in \
                 spec.acceptedGaps"
            }
            Self::ManifestMissing => {
                "the chain is broken: restore the manifest from a copy or an older version"
            }
            Self::ManifestChanged => {
                "the manifest was edited or replaced after the next one was written: restore it from a copy or an \
                 older version"
            }
            Self::ManifestUnreadable => {
                "the manifest proves nothing: restore it from a copy or an older version; if a later version of \
                 eventexport wrote it, upgrade"
            }
            Self::ManifestInconsistent => {
                "the manifest was edited: restore it from a copy or an older version"
            }
            Self::SignatureInvalid => {
                "it was signed with another key, or the document or its signature was changed: check that --public-key is \
                 that of the exporter (repeat it for several keys), else restore both from a copy"
            }
            Self::SignatureMissing => {
                "the signature was removed, or the manifest was written without a key: restore it from a copy; if no key \
                 was set (spec.manifest.signingKeySecretRef), --allow-unsigned accepts it"
            }
            Self::Unattested => {
                "anyone who can write to the archive can have written these windows: find out who did, and restore the \
                 signed manifests or signatures from a copy; --unsigned-since DAY accepts windows that no manifest states \
                 yet, --allow-unsigned all of them"
            }
            Self::HeadMissing => {
                "manifests were removed or replaced after this one was noted: restore them from a copy or an older \
                 version, and check that the archive is the one whose head was noted"
            }
            Self::CheckpointMissing => {
                "a daily statement about the archive was removed: restore it from a copy or an older version, and find \
                 out what else was removed with it"
            }
            Self::CheckpointChanged => {
                "the checkpoint was edited or replaced after the next one was written: restore it from a copy or an older \
                 version"
            }
            Self::CheckpointUnreadable => {
                "the checkpoint proves nothing: restore it from a copy or an older version; if a later version of \
                 eventexport wrote it, upgrade"
            }
            Self::CheckpointInconsistent => {
                "receipts were changed after the checkpoint counted them, or the checkpoint was edited: restore them from a \
                 copy or an older version"
            }
            Self::TimestampInvalid => {
                "the document or its time stamp was replaced or removed: restore both from a copy or an older version"
            }
            Self::TimestampUnchecked => {
                "time stamps state the digests of the documents beside them; check who signed them with `openssl ts -verify`, \
                 as docs/audit.sh --timestamp-ca does"
            }
            Self::CheckpointGap => {
                "the export wrote no checkpoint on these days: it was suspended or not running, or the operator was"
            }
            Self::Gap => {
                "these events are not in the archive: run the export again while the service still has them, or \
                 accept the gap in spec.acceptedGaps"
            }
            Self::NothingToProve => {
                "the archive proves nothing: check the bucket, prefix or directory, and the range"
            }
            Self::SignatureUnchecked => "pass the exporter's public key with --public-key FILE to check them",
            Self::SessionOpen => {
                "an export is running, or was interrupted: the next run deletes the session, and the service expires it"
            }
            Self::NotInManifest => {
                "a change of these receipts cannot be detected yet: a manifest is written when the export completes, or \
                 at the end of the month"
            }
            Self::SeveralSources => {
                "with -f, receipts of another source than that of the spec cover no window"
            }
            Self::ForeignFile => "the file is outside of date= folders, so queries do not read it",
            Self::SkippedFile => {
                "queries skip names that begin with . or _, and markers of folders: it does no harm, and proves nothing"
            }
        }
    }
}

impl Finding {
    /// Creates a finding for a key.
    pub fn new(kind: FindingKind, key: impl Into<String>) -> Self {
        Self {
            kind,
            key: key.into(),
            window: None,
            expected: None,
            found: None,
        }
    }

    /// Sets the window.
    #[must_use]
    pub const fn with_window(mut self, window: Window) -> Self {
        self.window = Some(window);
        self
    }

    /// Sets the expected state.
    #[must_use]
    pub fn expected(mut self, text: impl Into<String>) -> Self {
        self.expected = Some(text.into());
        self
    }

    /// Sets the actual state.
    #[must_use]
    pub fn found(mut self, text: impl Into<String>) -> Self {
        self.found = Some(text.into());
        self
    }

    /// Returns the JSON output.
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
