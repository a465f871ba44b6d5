//! Receipts, manifests and checkpoints of a root, with their signatures, each read once. Does I/O, reading only.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use jiff::civil::Date;

use super::attestation::ReceiptSignatures;
use super::contents::RootContents;
use super::options::{DOCUMENT_CONCURRENCY, VerifyOptions};
use super::report::{ManifestRow, ManifestStatement};
use super::revisions::RevisionReceipts;
use super::timestamps::{Timestamps, read_timestamps};
use crate::archive::checkpoint::{SignedCheckpoint, parse_checkpoint};
use crate::archive::layout::StampedDocument;
use crate::archive::manifest::chain::ChainAudit;
use crate::archive::manifest::document::{self, MANIFEST_MAX_BYTES, Manifest};
use crate::archive::manifest::signature::{self, SignatureStatus};
use crate::archive::read::{ReadDocument, get_document, per_document};
use crate::archive::receipt::read_receipt;
use crate::archive::records::{ArchiveRecord, RECORD_MAX_BYTES, Receipt, RecordError};
use crate::archive::stored_document::{Document, Receipts, SignedDocument};
use crate::archive::window::Window;
use crate::storage::{ObjectSummary, Store, StoreError};

/// Maximum total size of the receipts and manifests of a root in bytes: 512 MiB.
const DOCUMENTS_MAX_BYTES: u64 = 512 << 20;
/// Maximum size of a signature file in bytes. A longer file is no signature.
const SIGNATURE_MAX_BYTES: u64 = 1024;

/// Receipts, manifests and checkpoints of a root.
#[derive(Debug, Default)]
pub struct RootDocuments {
    /// Every receipt.
    pub receipts: Receipts,
    /// Status of the signatures of receipts that have one.
    pub receipt_signatures: ReceiptSignatures,
    /// Receipts of later revisions.
    pub revisions: RevisionReceipts,
    /// Every manifest, by number.
    pub manifests: BTreeMap<u64, SignedDocument>,
    /// Every checkpoint, by day.
    pub checkpoints: BTreeMap<Date, SignedCheckpoint>,
    /// Every time stamp.
    pub timestamps: Timestamps,
}

/// Reads every receipt, manifest and signature of a root. Ignores files that are deleted after the listing.
///
/// Documents of an earlier reading whose rows are unchanged are used again.
pub async fn read_documents(
    options: &VerifyOptions,
    contents: &RootContents,
    known: Option<(RootContents, RootDocuments)>,
) -> Result<RootDocuments, StoreError> {
    let store = &*options.store;
    let later = contents
        .revisions
        .values()
        .filter_map(|rows| rows.receipt.as_ref());
    let rows = contents.receipts.values().chain(contents.manifests.values());
    let rows = rows.chain(later);
    let rows = rows.chain(contents.checkpoints.values());
    let total = rows.fold(0_u64, |total, row| total.saturating_add(row.size));
    if total > DOCUMENTS_MAX_BYTES {
        return Err(StoreError::ArchiveTooLarge {
            store: store.identity().to_string(),
            prefix: contents.root.as_str().to_owned(),
            limit: format!("{DOCUMENTS_MAX_BYTES} bytes of receipts, manifests and checkpoints"),
        });
    }
    if known.is_none() {
        options.take_memory(total)?;
    }
    let mut out = known.map_or_else(RootDocuments::default, |(old, documents)| {
        documents.retain_unchanged(&old, contents)
    });
    let unread = contents
        .receipts
        .iter()
        .filter(|(window, _)| !out.receipts.contains_key(window))
        .map(|(window, listed)| (*window, listed.key.clone()));
    // Of owned items: a stream of references is not `Send`.
    let receipts: Vec<Option<_>> = stream::iter(unread.collect::<Vec<_>>())
        .map(|(window, key)| async move {
            let bytes = get_document(store, &key, RECORD_MAX_BYTES, Receipt::SCHEMA).await;
            let (document, status) = match per_document(bytes)? {
                Ok(None) => return Ok(None),
                Ok(Some(bytes)) => {
                    let listed = contents.receipt_signatures.get(&window);
                    let status = check_receipt_signature(options, listed, &bytes).await?;
                    let document =
                        Document::new(&bytes, |bytes| read_receipt(&contents.root, window, 0, bytes));
                    (document, status)
                }
                Err(error) => (Document::unreadable(error), SignatureStatus::Absent),
            };
            Ok::<_, StoreError>(Some((window, document, status)))
        })
        .buffer_unordered(DOCUMENT_CONCURRENCY)
        .try_collect()
        .await?;
    for (window, document, status) in receipts.into_iter().flatten() {
        out.receipts.insert(window, document);
        if status != SignatureStatus::Absent {
            out.receipt_signatures.insert(window, status);
        }
    }
    let unread = contents.revisions.iter().filter_map(|(revision, rows)| {
        let listed = rows.receipt.as_ref()?;
        (!out.revisions.contains_key(revision)).then(|| (*revision, listed.key.clone()))
    });
    let revisions: Vec<Option<_>> = stream::iter(unread.collect::<Vec<_>>())
        .map(|((window, number), key)| async move {
            let bytes = get_document(store, &key, RECORD_MAX_BYTES, Receipt::SCHEMA).await;
            let read = match per_document(bytes)? {
                Ok(None) => return Ok(None),
                Ok(Some(bytes)) => {
                    let rows = contents.revisions.get(&(window, number));
                    let signature = rows.and_then(|rows| rows.signature.as_ref());
                    let status = check_receipt_signature(options, signature, &bytes).await?;
                    let read = |bytes: &[u8]| read_receipt(&contents.root, window, number, bytes);
                    (Document::new(&bytes, read), status)
                }
                Err(error) => (Document::unreadable(error), SignatureStatus::Absent),
            };
            Ok::<_, StoreError>(Some(((window, number), read)))
        })
        .buffer_unordered(DOCUMENT_CONCURRENCY)
        .try_collect()
        .await?;
    out.revisions.extend(revisions.into_iter().flatten());
    for (number, listed) in &contents.manifests {
        if out.manifests.contains_key(number) {
            continue;
        }
        let signature = contents.signatures.get(number);
        let parse = |bytes: &[u8]| document::parse_manifest::<Manifest>(&listed.key, *number, bytes);
        if let Some(document) = read_signed(options, (listed, MANIFEST_MAX_BYTES), signature, parse).await? {
            out.manifests.insert(*number, document);
        }
    }
    let unread = contents
        .checkpoints
        .iter()
        .filter(|(day, _)| !out.checkpoints.contains_key(*day))
        .map(|(day, listed)| (*day, listed.clone()));
    let checkpoints: Vec<Option<_>> = stream::iter(unread.collect::<Vec<_>>())
        .map(|(day, listed)| async move {
            let signature = contents.checkpoint_signatures.get(&day);
            let parse = |bytes: &[u8]| parse_checkpoint(&listed.key, day, bytes);
            let read = read_signed(options, (&listed, RECORD_MAX_BYTES), signature, parse).await?;
            Ok::<_, StoreError>(read.map(|document| (day, document)))
        })
        .buffer_unordered(DOCUMENT_CONCURRENCY)
        .try_collect()
        .await?;
    out.checkpoints.extend(checkpoints.into_iter().flatten());
    out.timestamps = read_timestamps(options, contents).await?;
    Ok(out)
}

/// Reads a document and its signature; `None` if the document does not exist.
async fn read_signed<R>(
    options: &VerifyOptions,
    (listed, max_bytes): (&ObjectSummary, u64),
    signature: Option<&ObjectSummary>,
    parse: impl FnOnce(&[u8]) -> Result<R, RecordError>,
) -> Result<Option<(Document<R>, SignatureStatus)>, StoreError>
where
    R: ArchiveRecord,
{
    let store = &*options.store;
    let unreadable = |error| Ok(Some((Document::unreadable(error), SignatureStatus::Absent)));
    let bytes = get_document(store, &listed.key, max_bytes, R::SCHEMA).await;
    let bytes = match per_document(bytes)? {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => bytes,
        Err(error) => return unreadable(error),
    };
    let signature = match signature {
        None => None,
        Some(listed) => match read_signature(store, &listed.key).await? {
            Ok(signature) => signature,
            Err(error) => return unreadable(error),
        },
    };
    let status = signature::check(&bytes, signature.as_deref(), &options.keys);
    Ok(Some((Document::new(&bytes, parse), status)))
}

/// Reads a signature; `None` if it does not exist, empty if the file is too long for one. Fails if the store has archived it.
async fn read_signature(
    store: &dyn Store,
    key: &str,
) -> Result<Result<Option<bytes::Bytes>, RecordError>, StoreError> {
    let read = get_document(store, key, SIGNATURE_MAX_BYTES, Manifest::SCHEMA).await;
    Ok(match per_document(read)? {
        Err(error) if !matches!(error, RecordError::Archived { .. }) => Ok(Some(bytes::Bytes::new())),
        read => read.map(|found| found.map(ReadDocument::into_bytes)),
    })
}

/// Reads and checks the signature of a receipt, if there is a key.
async fn check_receipt_signature(
    options: &VerifyOptions,
    listed: Option<&ObjectSummary>,
    receipt: &[u8],
) -> Result<SignatureStatus, StoreError> {
    let Some(listed) = listed else {
        return Ok(SignatureStatus::Absent);
    };
    if options.keys.is_empty() {
        return Ok(SignatureStatus::Unchecked);
    }
    let signature = read_signature(&*options.store, &listed.key).await?;
    let signature = signature.unwrap_or_default();
    Ok(signature::check(receipt, signature.as_deref(), &options.keys))
}

impl RootDocuments {
    /// Returns the times at which the readable manifests were written.
    pub fn written_at(&self) -> impl Iterator<Item = Timestamp> {
        let readable = self.manifests.values();
        readable.filter_map(|(document, _)| Some(document.parsed.as_ref().ok()?.written_at))
    }

    /// Returns the SHA-256 of a document that has a time stamp, if it exists.
    pub fn digest_of(&self, document: StampedDocument) -> Option<&str> {
        match document {
            StampedDocument::Manifest(number) => {
                self.manifests.get(&number).map(|(manifest, _)| &*manifest.sha256)
            }
            StampedDocument::Checkpoint(day) => self
                .checkpoints
                .get(&day)
                .map(|(checkpoint, _)| &*checkpoint.sha256),
        }
    }

    /// Returns the manifests in brief.
    pub fn manifest_rows(&self, chain: &ChainAudit) -> Vec<ManifestRow> {
        let rows = self
            .manifests
            .iter()
            .map(|(number, (document, signature))| ManifestRow {
                sequence: *number,
                sha256: document.sha256.clone(),
                valid: chain.valid.contains(number),
                signature: *signature,
                statement: document.parsed.as_ref().ok().map(|manifest| ManifestStatement {
                    period: manifest.period,
                    events: manifest.totals.events,
                    written_at: manifest.written_at,
                    key_id: manifest.key_id.clone(),
                }),
            });
        rows.collect()
    }

    /// Returns the documents whose rows are the same in both listings.
    fn retain_unchanged(mut self, old: &RootContents, new: &RootContents) -> Self {
        let unchanged = |window: &Window| {
            old.receipts.get(window) == new.receipts.get(window)
                && old.receipt_signatures.get(window) == new.receipt_signatures.get(window)
        };
        self.receipts.retain(|window, _| unchanged(window));
        self.receipt_signatures.retain(|window, _| unchanged(window));
        self.revisions
            .retain(|revision, _| old.revisions.get(revision) == new.revisions.get(revision));
        self.manifests.retain(|number, _| {
            old.manifests.get(number) == new.manifests.get(number)
                && old.signatures.get(number) == new.signatures.get(number)
        });
        self.checkpoints.retain(|day, _| {
            old.checkpoints.get(day) == new.checkpoints.get(day)
                && old.checkpoint_signatures.get(day) == new.checkpoint_signatures.get(day)
        });
        self
    }
}
