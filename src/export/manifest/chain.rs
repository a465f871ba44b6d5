//! Adds a statement to the chain exactly once: finds its manifest, or writes it under the next number; then signs it.
//! An interrupted process can resume at any point: an existing manifest is found, a missing manifest or signature is
//! written. Nothing is added while the remembered head is missing, or if the period would lose events. I/O.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::attest::check_receipts;
use super::head::{check_head, fewer_events, newest_head};
use super::link::{ChainCache, ChainLink, load_link, read_manifest};
use super::statement::{ChainPlace, Statement};
use crate::api::Reason;
use crate::archive::layout::Key;
use crate::archive::manifest::document::{self, FileDigest, MANIFEST_MAX_BYTES, Manifest};
use crate::archive::manifest::{ChainListing, HeadRecord, LinkSignature, SEQUENCE_MAX};
use crate::archive::read::list_keys;
use crate::archive::records;
use crate::export::failure::Failure;
use crate::export::journal_io::record_options;
use crate::export::run_context::RunContext;
use crate::export::signature_io::{
    SignatureWrite, create_object, full_key, signature_invalid, store_failure, write_signature,
};
use crate::pipeline::prover::hex;
use crate::storage::{ObjectClass, PutMode, Segments};

/// Maximum number of attempts to get the next number against concurrent writers.
const ROUNDS_MAX: usize = 16;

/// Maximum length of the version in the `software` field of a manifest.
const VERSION_CHARS_MAX: usize = 40;

/// Result of a search for the manifest of a statement.
enum FoundManifest {
    /// The newest manifest of the period has the statement, and the signature that it needs.
    Stated,
    /// As `Stated`, without a signature: its number and bytes.
    Unsigned(u64, Bytes),
    /// The statement needs a further manifest.
    Absent,
}

/// Ensures that the chain has a manifest of the statement, with a signature if signing is enabled. Returns the updated
/// listing of the chain and its head; what was read or written is added to `cache`. `remembered`: the head as it is
/// known outside the bucket.
pub(in crate::export) async fn ensure_manifest(
    ctx: &RunContext,
    statement: Statement,
    mut chain: ChainListing,
    cache: &mut ChainCache,
    remembered: Option<&HeadRecord>,
) -> Result<(ChainListing, Option<HeadRecord>), Failure> {
    for _ in 0..ROUNDS_MAX {
        check_head(ctx, remembered, &mut chain, cache).await?;
        let mut found = find_manifest(ctx, &statement, &mut chain, cache).await?;
        if matches!(found, FoundManifest::Absent) {
            // The listing may be hours old: list again before writing.
            chain = list_chain(ctx).await?;
            add_unlisted_manifests(ctx, &mut chain, cache).await?;
            check_head(ctx, remembered, &mut chain, cache).await?;
            found = find_manifest(ctx, &statement, &mut chain, cache).await?;
        }
        let unsigned = match found {
            FoundManifest::Stated => None,
            FoundManifest::Unsigned(number, bytes) => Some((number, bytes)),
            FoundManifest::Absent => {
                // Without a usable signing key, no manifest is written.
                if let Some(keys) = ctx.peers.signing.keys()? {
                    check_receipts(ctx, keys, &statement, &chain, cache).await?;
                }
                let Some(written) = write_manifest(ctx, &statement, &mut chain, cache).await? else {
                    continue;
                };
                Some(written)
            }
        };
        if let Some((number, bytes)) = unsigned
            && let Some(keys) = ctx.peers.signing.keys()?
        {
            check_receipts(ctx, keys, &statement, &chain, cache).await?;
            let key = full_key(&ctx.export.root, &Key::Signature(number));
            if write_signature(ctx, keys, &key, &bytes).await? == SignatureWrite::Foreign {
                return Err(signature_invalid(&key));
            }
            chain.signatures.insert(number);
            if let Some(link) = cache.get_mut(&number) {
                link.signature = LinkSignature::SignedBy(keys.key_id().to_owned());
            }
        }
        let head = newest_head(ctx, &chain, cache).await?;
        return Ok((chain, head));
    }
    let prefix = ctx.export.root.manifests_prefix();
    let message = format!(
        "cannot write a manifest below {prefix}: other writers took {ROUNDS_MAX} numbers in a row; will retry"
    );
    Err(Failure::retry(Reason::HeldByOther, message))
}

async fn list_chain(ctx: &RunContext) -> Result<ChainListing, Failure> {
    let root = &ctx.export.root;
    let prefix = root.manifests_prefix();
    let listed = list_keys(&*ctx.peers.store, root, &prefix, ctx.journal_share()).await;
    let listed = listed.map_err(|error| store_failure(&prefix, "list", &error))?;
    Ok(listed.chain)
}

/// Adds the manifests that this run wrote or read and that exist although the listing leaves them out.
async fn add_unlisted_manifests(
    ctx: &RunContext,
    chain: &mut ChainListing,
    cache: &mut ChainCache,
) -> Result<(), Failure> {
    let known: Vec<u64> = cache.keys().copied().collect();
    for number in known {
        if !chain.manifests.contains(&number) {
            if read_manifest(ctx, number).await?.1.is_some() {
                chain.manifests.insert(number);
            } else {
                cache.remove(&number);
            }
        }
    }
    Ok(())
}

/// Searches the newest manifest of the statement's period: only that one counts. One that still needs a signature must
/// equal, byte for byte, the one that this run would write, because a signature vouches for all of it. With a key, a
/// manifest without a valid signature supersedes nothing. Fails if the statement has fewer events than the newest
/// manifest of the period that counts. A run reads each manifest once.
async fn find_manifest(
    ctx: &RunContext,
    statement: &Statement,
    chain: &mut ChainListing,
    cache: &mut ChainCache,
) -> Result<FoundManifest, Failure> {
    let wanted = statement.statement_id();
    let signs = ctx.peers.signing.available().is_some();
    let (mut newest, mut found) = (true, FoundManifest::Absent);
    for number in chain.manifests.clone().into_iter().rev() {
        let Some(link) = load_link(ctx, number, cache).await? else {
            // Deleted after the listing.
            chain.manifests.remove(&number);
            continue;
        };
        if !link.statement_id.has_same_period(&wanted) {
            continue;
        }
        let stated = std::mem::take(&mut newest) && link.statement_id == wanted;
        match link.signature {
            LinkSignature::Invalid => {
                return Err(signature_invalid(&full_key(
                    &ctx.export.root,
                    &Key::Signature(number),
                )));
            }
            LinkSignature::Absent | LinkSignature::Unread if signs => {
                if stated {
                    found = read_unsigned(ctx, statement, number, chain, cache).await?;
                }
            }
            LinkSignature::SignedBy(_) | LinkSignature::Absent | LinkSignature::Unread => {
                if stated {
                    return Ok(FoundManifest::Stated);
                }
                if statement.events() < link.events {
                    fewer_events(ctx, statement, number, &link.sha256, link.events, chain)?;
                }
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// Reads a manifest of the statement that has no signature yet.
async fn read_unsigned(
    ctx: &RunContext,
    statement: &Statement,
    number: u64,
    chain: &ChainListing,
    cache: &mut ChainCache,
) -> Result<FoundManifest, Failure> {
    let (key, bytes) = read_manifest(ctx, number).await?;
    let place = chain_place(ctx, chain, number, cache).await?;
    if let Some(bytes) = bytes.filter(|bytes| matches_statement(statement, &key, place, bytes)) {
        return Ok(FoundManifest::Unsigned(number, bytes));
    }
    tracing::warn!(
        key,
        "cannot sign manifest that differs from receipts, writing another one"
    );
    Ok(FoundManifest::Absent)
}

/// Returns true if a manifest is byte for byte what the statement gives at its place in the chain.
fn matches_statement(statement: &Statement, key: &str, place: ChainPlace, bytes: &[u8]) -> bool {
    let Ok(stored) = document::parse_manifest::<Manifest>(key, place.sequence, bytes) else {
        return false;
    };
    // Only the time and the software version do not follow from the receipts.
    let version = stored.software.strip_prefix("eventexport/");
    let version = version.filter(|version| version.len() <= VERSION_CHARS_MAX);
    if !version.is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_graphic())) {
        return false;
    }
    // Without them it was written before there was a key, or by an earlier version.
    let place = ChainPlace {
        key_id: place.key_id.filter(|_| stored.key_id.is_some()),
        bucket: place.bucket.filter(|_| stored.bucket.is_some()),
        prefix: place.prefix.filter(|_| stored.prefix.is_some()),
        ..place
    };
    let expected = Manifest {
        software: stored.software,
        ..statement.manifest(place, stored.written_at)
    };
    records::encode(&expected) == bytes
}

/// Returns the place of a number in the chain.
async fn chain_place(
    ctx: &RunContext,
    chain: &ChainListing,
    number: u64,
    cache: &mut ChainCache,
) -> Result<ChainPlace, Failure> {
    let bucket = ctx.peers.store.identity().bucket_name();
    let prefix = bucket.map(|_| ctx.export.root.prefix().to_owned());
    let signing = ctx.peers.signing.available();
    Ok(ChainPlace {
        sequence: number,
        previous: previous_digest(ctx, chain, number, cache).await?,
        key_id: signing.map(|keys| keys.key_id().to_owned()),
        bucket: bucket.map(ToOwned::to_owned),
        prefix,
    })
}

/// Returns key and digest of the manifest before a number.
async fn previous_digest(
    ctx: &RunContext,
    chain: &ChainListing,
    number: u64,
    cache: &mut ChainCache,
) -> Result<Option<FileDigest>, Failure> {
    let Some(last) = chain.manifests.range(..number).next_back().copied() else {
        return Ok(None);
    };
    let Some(ChainLink { sha256, .. }) = load_link(ctx, last, cache).await? else {
        return Ok(None);
    };
    let key = Key::Manifest(last).relative().unwrap_or_default();
    Ok(Some(FileDigest { key, sha256 }))
}

/// Writes the next manifest. Returns `None` if another writer took the number.
async fn write_manifest(
    ctx: &RunContext,
    statement: &Statement,
    chain: &mut ChainListing,
    cache: &mut ChainCache,
) -> Result<Option<(u64, Bytes)>, Failure> {
    let store = &*ctx.peers.store;
    let last = chain.manifests.last().copied();
    let number = next_number(ctx, chain)?;
    let key = full_key(&ctx.export.root, &Key::Manifest(number));
    let place = chain_place(ctx, chain, number, cache).await?;
    if place.previous.is_none() && last.is_some() {
        // Deleted after the listing.
        return Ok(None);
    }
    let now = store
        .now()
        .await
        .map_err(|error| store_failure(&key, "write", &error))?;
    let bytes = Bytes::from(records::encode(&statement.manifest(place, now)));
    let too_large = bytes.len() as u64 > MANIFEST_MAX_BYTES;
    if too_large || number > SEQUENCE_MAX {
        let why = if too_large {
            "it is larger than 16 MiB"
        } else {
            "the largest sequence number is in use"
        };
        let message = format!("cannot write manifest {key}: {why}");
        return Err(Failure::manual(Reason::Failed, message));
    }
    let body = Segments::from(bytes.clone());
    let options = record_options(PutMode::Create, &body, ObjectClass::Proof);
    if !create_object(ctx, &key, body, options).await? {
        // Read, so that it is known if the next listing leaves it out.
        load_link(ctx, number, cache).await?;
        return Ok(None);
    }
    let link = ChainLink {
        statement_id: statement.statement_id(),
        period: statement.period,
        events: statement.events(),
        sha256: hex(&Sha256::digest(&bytes)),
        signature: LinkSignature::Absent,
        written_at: now,
    };
    tracing::info!(key, start = %statement.period.start, end = %statement.period.end, sha256 = link.sha256, "wrote manifest");
    cache.insert(number, link);
    chain.manifests.insert(number);
    Ok(Some((number, bytes)))
}

/// Returns the next free number. A signature without its manifest is left of a manifest that was deleted: signatures
/// are written after manifests.
fn next_number(ctx: &RunContext, chain: &ChainListing) -> Result<u64, Failure> {
    let last = chain.manifests.last().copied().unwrap_or(0);
    let Some(signature) = chain.signatures.last().copied().filter(|number| *number > last) else {
        return Ok(last + 1);
    };
    let abandoned = ctx.export.abandoned_head.as_ref();
    if abandoned.is_some_and(|head| head.sequence >= signature) {
        return Ok(signature + 1);
    }
    let key = full_key(&ctx.export.root, &Key::Signature(signature));
    let message = format!(
        "{key} exists, and its manifest does not: the manifest was deleted; restore it from a version or a backup, or delete the signature if it never had one"
    );
    Err(Failure::manual(Reason::ManifestMissing, message))
}
