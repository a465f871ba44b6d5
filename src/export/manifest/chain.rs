//! Adds a statement to the chain exactly once: finds its manifest, or writes it under the next number; then signs it.
//! An interrupted process can resume at any point: an existing manifest is found, a missing manifest or signature is
//! written. I/O.

use std::collections::BTreeMap;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::sign::Signing;
use super::statement::{Statement, StatementId};
use crate::api::Reason;
use crate::archive::layout::{ArchiveRoot, Key};
use crate::archive::manifest::document::{self, FileDigest, MANIFEST_MAX_BYTES, Manifest};
use crate::archive::manifest::{ChainListing, ManifestLink};
use crate::archive::records;
use crate::export::failure::{Failure, RetryClass};
use crate::export::journal_io::record_options;
use crate::export::open::conditional_writes_unsupported;
use crate::export::run_context::RunContext;
use crate::pipeline::prover::hex;
use crate::storage::{ObjectClass, PutMode, PutOptions, Segments, Store, StoreError};

/// Maximum number of attempts to get the next number against concurrent writers.
const ROUNDS_MAX: usize = 16;

/// Maximum length of the version in the `software` field of a manifest.
const VERSION_CHARS_MAX: usize = 40;

/// Largest sequence number that a key can contain.
const SEQUENCE_MAX: u64 = 99_999_999;

/// Digest and statement id of a stored manifest, which never changes.
#[derive(Clone, Debug)]
pub(in crate::export) struct ChainLink {
    statement_id: StatementId,
    sha256: String,
}

impl From<ManifestLink> for ChainLink {
    fn from(link: ManifestLink) -> Self {
        Self {
            statement_id: link.header.statement_id(),
            sha256: link.sha256,
        }
    }
}

/// Manifests that a run has read or written, by sequence number.
pub(in crate::export) type ChainCache = BTreeMap<u64, ChainLink>;

/// Ensures that the chain has a manifest of the statement, with a signature if signing is enabled. Returns the updated
/// listing of the chain; what was read or written is added to `cache`.
pub(in crate::export) async fn ensure_manifest(
    ctx: &RunContext,
    statement: Statement,
    mut chain: ChainListing,
    cache: &mut ChainCache,
) -> Result<ChainListing, Failure> {
    for _ in 0..ROUNDS_MAX {
        if let Some((number, bytes)) = find_manifest(ctx, &statement, &mut chain, cache).await? {
            sign_manifest(ctx, number, bytes, &mut chain).await?;
            return Ok(chain);
        }
        // The listing may be hours old: list again before writing.
        chain = list_chain(ctx).await?;
        add_unlisted_manifests(ctx, &mut chain, cache).await?;
        if let Some((number, bytes)) = find_manifest(ctx, &statement, &mut chain, cache).await? {
            sign_manifest(ctx, number, bytes, &mut chain).await?;
            return Ok(chain);
        }
        // Without a usable signing key, no manifest is written.
        signing_key(ctx)?;
        if let Some((number, bytes)) = write_manifest(ctx, &statement, &chain, cache).await? {
            chain.manifests.insert(number);
            sign_manifest(ctx, number, bytes, &mut chain).await?;
            return Ok(chain);
        }
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
    let rows = ctx.peers.store.list(&prefix).await;
    let rows = rows.map_err(|error| store_failure(&prefix, "list", &error))?;
    let mut chain = ChainListing::default();
    for row in &rows {
        chain.insert(&root.parse(&row.key));
    }
    Ok(chain)
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

/// Returns the newest manifest of the statement's period if it has the statement: an older one with it was superseded.
/// Returns its bytes if it still needs a signature. Such a manifest must equal, byte for byte, the one that this run
/// would write, because a signature vouches for all of it. A run reads each manifest once.
async fn find_manifest(
    ctx: &RunContext,
    statement: &Statement,
    chain: &mut ChainListing,
    cache: &mut ChainCache,
) -> Result<Option<(u64, Bytes)>, Failure> {
    let wanted = statement.statement_id();
    let mut newest = None;
    for number in chain.manifests.clone().into_iter().rev() {
        match load_link(ctx, number, cache).await? {
            Some(link) if link.statement_id.has_same_period(&wanted) => {
                newest = Some((number, link.statement_id));
                break;
            }
            Some(_) => {}
            // Deleted after the listing.
            None => {
                chain.manifests.remove(&number);
            }
        }
    }
    let Some((number, _)) = newest.filter(|(_, found)| *found == wanted) else {
        return Ok(None);
    };
    if matches!(ctx.peers.signing, Signing::Disabled | Signing::Unavailable(_))
        || chain.signatures.contains(&number)
    {
        return Ok(Some((number, Bytes::new())));
    }
    let (key, bytes) = read_manifest(ctx, number).await?;
    let previous = previous_digest(ctx, chain, number, cache).await?;
    let unsigned = bytes.filter(|bytes| matches_statement(statement, &key, number, previous, bytes));
    if unsigned.is_none() {
        tracing::warn!(
            key,
            "cannot sign manifest that differs from receipts, writing another one"
        );
    }
    Ok(unsigned.map(|bytes| (number, bytes)))
}

/// Returns true if a manifest is byte for byte what the statement gives at its position in the chain.
fn matches_statement(
    statement: &Statement,
    key: &str,
    number: u64,
    previous: Option<FileDigest>,
    bytes: &[u8],
) -> bool {
    let Ok(stored) = document::parse_manifest::<Manifest>(key, number, bytes) else {
        return false;
    };
    // Only the time and the software version do not follow from the receipts.
    let version = stored.software.strip_prefix("eventexport/");
    let version = version.filter(|version| version.len() <= VERSION_CHARS_MAX);
    if !version.is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_graphic())) {
        return false;
    }
    let expected = Manifest {
        software: stored.software,
        ..statement.manifest(number, previous, stored.written_at)
    };
    records::encode(&expected) == bytes
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

async fn load_link(
    ctx: &RunContext,
    number: u64,
    cache: &mut ChainCache,
) -> Result<Option<ChainLink>, Failure> {
    let known = cache.get(&number).cloned();
    if known.is_some() {
        return Ok(known);
    }
    let (key, Some(bytes)) = read_manifest(ctx, number).await? else {
        return Ok(None);
    };
    let header = document::parse_manifest(&key, number, &bytes).map_err(|error| Failure::from(&error))?;
    let sha256 = hex(&Sha256::digest(&bytes));
    let link = ChainLink::from(ManifestLink { header, sha256 });
    cache.insert(number, link.clone());
    Ok(Some(link))
}

async fn read_manifest(ctx: &RunContext, number: u64) -> Result<(String, Option<Bytes>), Failure> {
    let key = full_key(&ctx.export.root, &Key::Manifest(number));
    let read = ctx.peers.store.get(&key, MANIFEST_MAX_BYTES).await;
    let bytes = read.map_err(|error| store_failure(&key, "read", &error))?;
    Ok((key, bytes))
}

/// Writes the next manifest. Returns `None` if another writer took the number.
async fn write_manifest(
    ctx: &RunContext,
    statement: &Statement,
    chain: &ChainListing,
    cache: &mut ChainCache,
) -> Result<Option<(u64, Bytes)>, Failure> {
    let store = &*ctx.peers.store;
    let last = chain.manifests.last().copied();
    let number = last.unwrap_or(0) + 1;
    let key = full_key(&ctx.export.root, &Key::Manifest(number));
    let previous = previous_digest(ctx, chain, number, cache).await?;
    if previous.is_none() && last.is_some() {
        // Deleted after the listing.
        return Ok(None);
    }
    let now = store
        .now()
        .await
        .map_err(|error| store_failure(&key, "write", &error))?;
    let bytes = Bytes::from(records::encode(&statement.manifest(number, previous, now)));
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
        sha256: hex(&Sha256::digest(&bytes)),
    };
    cache.insert(number, link);
    tracing::info!(key, start = %statement.period.start, end = %statement.period.end, "wrote manifest");
    Ok(Some((number, bytes)))
}

/// Writes the signature of a manifest if signing is enabled and the signature is missing.
async fn sign_manifest(
    ctx: &RunContext,
    number: u64,
    bytes: Bytes,
    chain: &mut ChainListing,
) -> Result<(), Failure> {
    if matches!(ctx.peers.signing, Signing::Disabled) || chain.signatures.contains(&number) {
        return Ok(());
    }
    let Some(signer) = signing_key(ctx)? else {
        return Ok(());
    };
    let key = full_key(&ctx.export.root, &Key::Signature(number));
    let Some(signature) = signer.sign(&bytes) else {
        return Err(Failure::retry(
            Reason::Failed,
            format!("cannot compute signature {key}"),
        ));
    };
    let body = Segments::from(Bytes::copy_from_slice(&signature));
    let options = PutOptions {
        content_type: "application/octet-stream",
        ..record_options(PutMode::Create, &body, ObjectClass::Proof)
    };
    // A faster writer signed the same bytes.
    create_object(ctx, &key, body, options).await?;
    chain.signatures.insert(number);
    Ok(())
}

fn signing_key(ctx: &RunContext) -> Result<Option<&super::sign::SigningKey>, Failure> {
    match &ctx.peers.signing {
        Signing::Disabled => Ok(None),
        Signing::With(key) => Ok(Some(key)),
        Signing::Unavailable(failure) => Err(failure.clone()),
    }
}

/// Creates an object that was absent a moment ago. Returns false if another writer created it. If the store does not
/// support conditional writes, or its support is unknown, compares the stored content afterwards.
async fn create_object(
    ctx: &RunContext,
    key: &str,
    body: Segments,
    options: PutOptions,
) -> Result<bool, Failure> {
    let store = &*ctx.peers.store;
    let conditional = ctx.known_support().map(|support| support.put);
    let unsupported = || Failure {
        class: RetryClass::Manual,
        ..conditional_writes_unsupported(store.identity())
    };
    let overwrite = PutOptions {
        mode: PutMode::Overwrite,
        ..options.clone()
    };
    let put = match conditional {
        Some(false) if !ctx.export.single_writer => return Err(unsupported()),
        Some(false) => store.put(key, body.clone(), &overwrite).await,
        Some(true) | None => store.put(key, body.clone(), &options).await,
    };
    let put = match put {
        Err(StoreError::Unsupported { .. }) if conditional.is_none() && ctx.export.single_writer => {
            store.put(key, body.clone(), &overwrite).await
        }
        Err(StoreError::Unsupported { .. }) => return Err(unsupported()),
        put => put,
    };
    match put {
        Ok(_) if conditional == Some(true) => Ok(true),
        Ok(_) => has_content(store, key, &body).await,
        Err(StoreError::AlreadyExists { .. } | StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(store_failure(key, "write", &error)),
    }
}

async fn has_content(store: &dyn Store, key: &str, body: &Segments) -> Result<bool, Failure> {
    let found = store.get(key, MANIFEST_MAX_BYTES).await;
    let found = found.map_err(|error| store_failure(key, "read back", &error))?;
    let expected = body.pieces().iter().flat_map(|piece| piece.iter());
    Ok(found.is_some_and(|found| found.iter().eq(expected)))
}

fn full_key(root: &ArchiveRoot, key: &Key) -> String {
    root.key(key).unwrap_or_default()
}

/// Converts an error of the store, adding the operation and the key.
fn store_failure(key: &str, operation: &str, error: &StoreError) -> Failure {
    let failure = Failure::from(error);
    Failure {
        message: format!("cannot {operation} {key}: {}", failure.message),
        ..failure
    }
}
