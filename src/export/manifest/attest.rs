//! The receipts that a manifest may be signed for: those with a signature by a trusted key, those that a signed manifest
//! states with the same digest, and old ones that a person vouches for. I/O.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::civil::Date;

use super::link::{ChainCache, load_link, read_manifest};
use super::sign::SigningKeys;
use super::statement::Statement;
use crate::api::Reason;
use crate::archive::manifest::document::{self, Manifest, WindowEntry};
use crate::archive::manifest::{ChainListing, LinkSignature};
use crate::archive::receipt::Sha256Digest;
use crate::archive::records::RECORD_MAX_BYTES;
use crate::export::failure::Failure;
use crate::export::run_context::RunContext;
use crate::export::signature_io::{read_signature_bytes, signature_invalid, store_failure};

/// Maximum concurrent reads of receipts and their signatures.
const READ_CONCURRENCY: usize = 16;

/// Maximum number of receipts that a message names.
const NAMED_MAX: usize = 3;

/// Receipts that are not attested yet: by key below the root, with the day of the window and the digest.
type Unattested = BTreeMap<String, (Date, String)>;

/// Result for one receipt.
enum ReceiptSignature {
    /// A trusted key verifies it.
    Valid,
    /// There is none.
    Absent,
    /// No trusted key verifies it.
    Invalid,
    /// The receipt is not the one of the statement any more.
    ReceiptChanged,
}

/// Checks that all receipts of a statement are attested. Remembers those that are for the rest of the run.
pub(super) async fn check_receipts(
    ctx: &RunContext,
    keys: &SigningKeys,
    statement: &Statement,
    chain: &ChainListing,
    cache: &mut ChainCache,
) -> Result<(), Failure> {
    let mut left: Unattested = statement
        .receipts()
        .filter(|(_, receipt)| !ctx.is_attested(&receipt.key, &receipt.sha256))
        .map(|(day, receipt)| (receipt.key.clone(), (day, receipt.sha256.clone())))
        .collect();
    let overlapping = signed_manifests(ctx, statement, chain, cache).await?;
    let mut overlapping = overlapping.into_iter();
    // The newest has nearly all, if it has any.
    if let Some((number, sha256)) = overlapping.next().filter(|_| !left.is_empty()) {
        remove_stated(ctx, number, &sha256, &mut left).await?;
    }
    let changed = remove_signed(ctx, keys, &mut left).await?;
    for (number, sha256) in overlapping {
        if left.is_empty() {
            break;
        }
        remove_stated(ctx, number, &sha256, &mut left).await?;
    }
    if let Some(before) = ctx.export.unsigned_receipts_before {
        left.retain(|key, (day, _)| *day >= before || changed.contains(key));
    }
    if left.is_empty() {
        return Ok(());
    }
    let root = ctx.export.root.as_str();
    let named: Vec<String> = left
        .keys()
        .take(NAMED_MAX)
        .map(|key| format!("{root}{key}"))
        .collect();
    let more = left.len().saturating_sub(named.len());
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    let message = format!(
        "the manifest of {} to {} cannot be signed: no trusted key signed {}{more}; find out who wrote these receipts; if it was this software before the key was set, set spec.manifest.unsignedReceiptsBefore to the day after the last of them",
        statement.period.start,
        statement.period.end,
        named.join(", ")
    );
    Err(Failure::manual(Reason::ReceiptUnsigned, message))
}

/// Returns the signed manifests with days of the statement's period, the newest first, with their digests.
async fn signed_manifests(
    ctx: &RunContext,
    statement: &Statement,
    chain: &ChainListing,
    cache: &mut ChainCache,
) -> Result<Vec<(u64, String)>, Failure> {
    let mut found = Vec::new();
    for number in chain.manifests.iter().rev() {
        let Some(link) = load_link(ctx, *number, cache).await? else {
            continue;
        };
        let overlaps = link.period.start <= statement.period.end && statement.period.start <= link.period.end;
        if overlaps && matches!(link.signature, LinkSignature::SignedBy(_)) {
            found.push((*number, link.sha256));
        }
    }
    Ok(found)
}

/// Removes the receipts that a signed manifest states with the same digest.
async fn remove_stated(
    ctx: &RunContext,
    number: u64,
    sha256: &str,
    left: &mut Unattested,
) -> Result<(), Failure> {
    let (key, bytes) = read_manifest(ctx, number).await?;
    // Its signature was checked over the bytes with this digest.
    let Some(bytes) = bytes.filter(|bytes| Sha256Digest::of(bytes).to_string() == sha256) else {
        return Ok(());
    };
    let Ok(manifest) = document::parse_manifest::<Manifest>(&key, number, &bytes) else {
        return Ok(());
    };
    for receipt in manifest.windows.iter().flat_map(WindowEntry::receipts) {
        if left
            .get(&receipt.key)
            .is_some_and(|(_, sha256)| *sha256 == receipt.sha256)
        {
            left.remove(&receipt.key);
            ctx.record_attested(&receipt.key, &receipt.sha256);
        }
    }
    Ok(())
}

/// Removes the receipts that have a valid signature. Fails if one has another file in its place. Returns the keys of those
/// that are not the receipts of the statement any more.
async fn remove_signed(
    ctx: &RunContext,
    keys: &SigningKeys,
    left: &mut Unattested,
) -> Result<BTreeSet<String>, Failure> {
    let receipts: Vec<(String, String)> = left
        .iter()
        .map(|(key, (_, sha256))| (key.clone(), sha256.clone()))
        .collect();
    let reads = stream::iter(receipts.into_iter().map(async |(key, sha256)| {
        let status = receipt_signature(ctx, keys, &key, &sha256).await?;
        Ok::<_, Failure>((key, sha256, status))
    }));
    let mut reads = reads.buffer_unordered(READ_CONCURRENCY);
    let (mut invalid, mut changed) = (None, BTreeSet::new());
    while let Some((key, sha256, status)) = reads.try_next().await? {
        match status {
            ReceiptSignature::Valid => {
                ctx.record_attested(&key, &sha256);
                left.remove(&key);
            }
            ReceiptSignature::Absent => {}
            ReceiptSignature::ReceiptChanged => drop(changed.insert(key)),
            ReceiptSignature::Invalid => invalid = invalid.max(Some(key)),
        }
    }
    match invalid {
        Some(key) => Err(signature_invalid(&format!(
            "{}{key}.sig",
            ctx.export.root.as_str()
        ))),
        None => Ok(changed),
    }
}

async fn receipt_signature(
    ctx: &RunContext,
    keys: &SigningKeys,
    key: &str,
    sha256: &str,
) -> Result<ReceiptSignature, Failure> {
    let key = format!("{}{key}", ctx.export.root.as_str());
    let Some(signature) = read_signature_bytes(ctx, &format!("{key}.sig")).await? else {
        return Ok(ReceiptSignature::Absent);
    };
    let receipt = ctx.peers.store.get(&key, RECORD_MAX_BYTES).await;
    let receipt: Option<Bytes> = receipt.map_err(|error| store_failure(&key, "read", &error))?;
    let receipt = receipt.filter(|receipt| Sha256Digest::of(receipt).to_string() == sha256);
    Ok(match receipt {
        None => ReceiptSignature::ReceiptChanged,
        Some(receipt) if keys.verify(&receipt, &signature).is_some() => ReceiptSignature::Valid,
        Some(_) => ReceiptSignature::Invalid,
    })
}
