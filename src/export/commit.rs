//! Commit of a window: publishes the object, then writes its receipt, each once. I/O with the store.

use std::fmt::Write;

use super::failure::Failure;
use super::journal_io::put_record;
use super::open::OpenAttempt;
use super::publish::{ATTEMPT_METADATA, StagedObject, publish_object};
use super::run_context::RunContext;
use super::signature_io::{SignatureWrite, full_key, write_signature};
use crate::api::Reason;
use crate::archive::counts::{EmptyAnswer, Verdict};
use crate::archive::layout::{AttemptId, Key};
use crate::archive::read;
use crate::archive::receipt::{Sha256Digest, body_key, receipt_key};
use crate::archive::records::{
    ArchiveRecord, ObjectRecord, PreparedRecord, RangeRecord, Receipt, SOFTWARE, encode,
};
use crate::archive::window::Window;
use crate::pipeline::prover::hex;
use crate::pipeline::prover_pool::ProofFacts;
use crate::pipeline::store_sink::StagedBody;
use crate::storage::{PutMode, Store, StoreError};
use crate::tracker::TransferEnd;

/// User metadata that carries the receipt of a small object, so that the object can be adopted after a crash.
pub(super) const RECEIPT_METADATA: &str = "eventexport-receipt";

/// Maximum bytes of a receipt in metadata: S3 accepts 2 KiB including names.
const METADATA_MAX: usize = 1_900;

/// Result of writing a receipt.
pub(super) enum ReceiptWrite {
    /// The receipt of this attempt is stored.
    Written(Box<Receipt>),
    /// Another holder wrote a receipt first.
    WrittenByOther,
}

/// Event counts that the service reports, and the verdict on the counted events.
#[derive(Clone, Copy, Debug)]
pub(super) struct CountComparison {
    pub(super) before: Option<u64>,
    pub(super) after: Option<u64>,
    /// For an hour: the higher report for its day.
    pub(super) of_day: Option<u64>,
    pub(super) verdict: Verdict,
}

/// Commits a window with events.
pub(super) async fn commit_object(
    ctx: &RunContext,
    opened: &OpenAttempt,
    staged: StagedObject,
    proof: ProofFacts,
    comparison: CountComparison,
) -> Result<ReceiptWrite, Failure> {
    let receipt = publish_body(ctx, opened, staged, proof, comparison).await?;
    let store = &*ctx.peers.store;
    let key = ctx
        .export
        .root
        .key(&Key::Events(opened.id.window))
        .unwrap_or_default();
    let written = put_receipt(store, ctx, opened, receipt).await?;
    if !(opened.support.put && opened.support.complete) {
        check_not_overwritten(store, &key, &written).await?;
    }
    Ok(written)
}

/// Publishes the body of a window, or of a later revision of it, and returns its receipt, which is not written yet.
pub(super) async fn publish_body(
    ctx: &RunContext,
    opened: &OpenAttempt,
    staged: StagedObject,
    proof: ProofFacts,
    comparison: CountComparison,
) -> Result<Receipt, Failure> {
    let store = &*ctx.peers.store;
    let export = &ctx.export;
    let body = body_key(opened.id.window, opened.revision);
    let key = export.root.key(&body).unwrap_or_default();
    let object = ObjectRecord {
        key: body.relative().unwrap_or_default(),
        version_id: None,
        bytes: staged.bytes,
        sha256: proof.sha256,
        crc64nvme: proof.crc64.to_string(),
        gzip_members: proof.stats.members,
        decompressed_bytes: proof.stats.decompressed,
    };
    let stored_at = store.now().await.map_err(|error| Failure::from(&error))?;
    let mut receipt = Receipt {
        object: Some(object),
        events: proof.stats.events.events,
        uncounted: proof.stats.events.uncounted.map(Into::into),
        resumes: staged.resumes,
        stored_at,
        ..new_receipt(ctx, opened, Some(staged.end), comparison)
    };
    let upload_id = match &staged.body {
        StagedBody::InMemory(..) => None,
        StagedBody::Multipart(upload, _) => Some(upload.id.clone()),
    };
    // The receipt of a later revision names its supplement too, which does not exist yet: recovery completes it.
    let mut metadata = match opened.revision {
        0 => receipt_metadata(&receipt),
        _ => Vec::new(),
    };
    if upload_id.is_some() || metadata.is_empty() || ctx.peers.signing.available().is_some() {
        put_prepared(ctx, opened.id, upload_id.unwrap_or_default(), &receipt).await?;
    }
    metadata.push((ATTEMPT_METADATA.to_owned(), opened.id.to_string()));
    let stored = publish_object(store, &key, staged, metadata, &opened.publisher()).await?;
    if let Some(object) = &mut receipt.object {
        object.version_id = stored.version_id;
    }
    Ok(receipt)
}

/// Commits a window that is proved to have no events.
pub(super) async fn commit_empty(
    ctx: &RunContext,
    opened: &OpenAttempt,
    answer: EmptyAnswer,
    end: Option<TransferEnd>,
    comparison: CountComparison,
) -> Result<ReceiptWrite, Failure> {
    let store = &*ctx.peers.store;
    let stored_at = store.now().await.map_err(|error| Failure::from(&error))?;
    let receipt = Receipt {
        empty_answer: Some(answer),
        stored_at,
        ..new_receipt(ctx, opened, end, comparison)
    };
    if ctx.peers.signing.available().is_some() {
        put_prepared(ctx, opened.id, String::new(), &receipt).await?;
    }
    put_receipt(store, ctx, opened, receipt).await
}

/// Records the receipt that an attempt is about to write, signed if there is a key: after a crash, recovery signs this
/// receipt and no other.
pub(super) async fn put_prepared(
    ctx: &RunContext,
    id: AttemptId,
    upload_id: String,
    receipt: &Receipt,
) -> Result<(), Failure> {
    let signing = ctx.peers.signing.available();
    let prepared = PreparedRecord {
        schema: PreparedRecord::SCHEMA.to_owned(),
        upload_id,
        receipt: receipt.clone(),
        signature: signing
            .and_then(|keys| keys.sign(&encode(receipt)))
            .map(|signature| hex(&signature)),
    };
    let (store, root) = (&*ctx.peers.store, &ctx.export.root);
    put_record(store, root, &Key::Prepared(id), &prepared, PutMode::Overwrite)
        .await
        .map(drop)
        .map_err(|error| Failure::from(&error))
}

fn new_receipt(
    ctx: &RunContext,
    opened: &OpenAttempt,
    end: Option<TransferEnd>,
    comparison: CountComparison,
) -> Receipt {
    let CountComparison {
        before,
        after,
        of_day,
        verdict,
    } = comparison;
    let window = opened.id.window;
    let session = opened.session.session();
    let asked = RangeRecord {
        start: window.date(),
        end: window.date(),
        hour: window.hour_of_day(),
    };
    Receipt {
        schema: Receipt::SCHEMA.to_owned(),
        window: window.to_string(),
        scope: ctx.export.scope.as_str().to_owned(),
        space: ctx.export.space.clone(),
        source: ctx.export.source.clone(),
        tracker_user: session.username.clone(),
        session_id: session.id.clone(),
        asked,
        answered: session.range.map(|(start, end)| RangeRecord {
            start,
            end,
            hour: session.hour.flatten(),
        }),
        object: None,
        empty_answer: None,
        events: 0,
        uncounted: None,
        reported_before: before,
        reported_after: after,
        reported_of_day: of_day,
        verdict: verdict.recorded(),
        transfer_end: end.map(|end| format!("{end:?}")),
        resumes: 0,
        revision: opened.revision,
        supplement: None,
        supplement_events: None,
        missing_events: None,
        started_at: opened.started_at,
        stored_at: opened.started_at,
        software: SOFTWARE.to_owned(),
    }
}

/// Encodes the receipt as metadata (ASCII JSON); empty if it is too long.
fn receipt_metadata(receipt: &Receipt) -> Vec<(String, String)> {
    let json = serde_json::to_string(receipt).unwrap_or_default();
    let mut ascii = String::with_capacity(json.len());
    for unit in json.chars() {
        if unit.is_ascii() {
            ascii.push(unit);
        } else {
            let mut units = [0u16; 2];
            for unit in unit.encode_utf16(&mut units) {
                // Writing to a String cannot fail.
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    if ascii.is_empty() || ascii.len() > METADATA_MAX {
        Vec::new()
    } else {
        vec![(RECEIPT_METADATA.to_owned(), ascii)]
    }
}

async fn put_receipt(
    store: &dyn Store,
    ctx: &RunContext,
    opened: &OpenAttempt,
    receipt: Receipt,
) -> Result<ReceiptWrite, Failure> {
    let key = Key::Receipt(opened.id.window);
    let mode = if opened.support.put {
        PutMode::Create
    } else {
        PutMode::Overwrite
    };
    let written = write_receipt(store, &ctx.export.root, &key, receipt, mode).await?;
    if let ReceiptWrite::Written(receipt) = &written {
        sign_receipt(ctx, opened.id.window, receipt).await?;
    }
    Ok(written)
}

/// Signs a receipt that this process wrote, or that a signed record of its attempt has, if there is a key. A file in the
/// place of the signature is left: the manifest that would state the receipt reports it.
pub(super) async fn sign_receipt(ctx: &RunContext, window: Window, receipt: &Receipt) -> Result<(), Failure> {
    let Some(keys) = ctx.peers.signing.available() else {
        return Ok(());
    };
    let document = encode(receipt);
    let revision = receipt.revision;
    let key = full_key(&ctx.export.root, &Key::ReceiptSignature(window, revision));
    if write_signature(ctx, keys, &key, &document).await? == SignatureWrite::Signed {
        let key = receipt_key(window, revision).relative().unwrap_or_default();
        ctx.record_attested(&key, &Sha256Digest::of(&document).to_string());
    }
    Ok(())
}

/// Writes a receipt once. An equal receipt counts as written: only the reply was lost.
pub(super) async fn write_receipt(
    store: &dyn Store,
    root: &crate::archive::layout::ArchiveRoot,
    key: &Key,
    receipt: Receipt,
    mode: PutMode,
) -> Result<ReceiptWrite, Failure> {
    if mode == PutMode::Overwrite
        && let Some(existing) = read::get_record::<Receipt>(store, root, key).await?
    {
        return Ok(compare_receipts(&existing, receipt));
    }
    match put_record(store, root, key, &receipt, mode).await {
        Ok(_) => Ok(ReceiptWrite::Written(Box::new(receipt))),
        Err(StoreError::AlreadyExists { .. }) => {
            let existing = read::get_record::<Receipt>(store, root, key).await?;
            Ok(existing.map_or(ReceiptWrite::WrittenByOther, |existing| {
                compare_receipts(&existing, receipt)
            }))
        }
        Err(error) => Err(Failure::from(&error)),
    }
}

fn compare_receipts(existing: &Receipt, receipt: Receipt) -> ReceiptWrite {
    if *existing == receipt {
        ReceiptWrite::Written(Box::new(receipt))
    } else {
        ReceiptWrite::WrittenByOther
    }
}

/// Checks, on a store without conditional writes, that the object still matches its receipt.
pub(super) async fn check_not_overwritten(
    store: &dyn Store,
    key: &str,
    written: &ReceiptWrite,
) -> Result<(), Failure> {
    let ReceiptWrite::Written(receipt) = written else {
        return Ok(());
    };
    let Some(object) = &receipt.object else {
        return Ok(());
    };
    let found = store.head(key).await.map_err(|error| Failure::from(&error))?;
    if found.is_some_and(|found| {
        found.size == object.bytes
            && found
                .crc64
                .is_none_or(|crc64| crc64.to_string() == object.crc64nvme)
    }) {
        return Ok(());
    }
    Err(Failure::manual(
        Reason::ForeignObject,
        format!("another writer overwrote {key} after it was stored"),
    ))
}
