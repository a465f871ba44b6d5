//! Puts a statement into the chain, once: finds it there, or writes it under the next number; then signs it.
//! I/O with the store. Whatever call is the last of a process, the next one goes on where it ended: a
//! manifest that is there is found, one that is not is written, a signature that is missing is added.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::document::{self, FileDigest, MANIFEST_MAX_BYTES, Manifest, ManifestHeader};
use super::sign::Signing;
use super::statement::{Statement, StatementId};
use crate::api::Reason;
use crate::export::failure::{Failure, Remedy};
use crate::export::journal_io::record_options;
use crate::export::keys::{ArchiveRoot, Key};
use crate::export::open::conditional_writes_unsupported;
use crate::export::proof::hex;
use crate::export::record;
use crate::export::run_context::{RunContext, lock};
use crate::storage::{ObjectClass, PutMode, PutOptions, Segments, Store, StoreError};

/// How often the next number may be somebody else's before it is left for later.
const ROUNDS_MAX: usize = 16;

/// The longest version in the name of the software that wrote a manifest.
const VERSION_CHARS_MAX: usize = 40;

/// The last number that a key can name.
const SEQUENCE_MAX: u64 = 99_999_999;

/// The manifests and signatures that a listing shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainListing {
    /// Numbers of manifests.
    pub manifests: BTreeSet<u64>,
    /// Numbers of those that have a signature.
    pub signatures: BTreeSet<u64>,
}

/// A manifest that was read or written: it never changes.
#[derive(Clone, Debug)]
pub(in crate::export) struct ChainLink {
    statement_id: StatementId,
    sha256: String,
}

/// What a run knows of the manifests, by number.
pub(in crate::export) type ChainCache = BTreeMap<u64, ChainLink>;

/// Makes sure that the statement is in the chain, and signed if that is wanted; returns the chain as it is
/// then known.
pub(in crate::export) async fn ensure_manifest(
    ctx: &RunContext,
    statement: Statement,
    mut chain: ChainListing,
) -> Result<ChainListing, Failure> {
    for _ in 0..ROUNDS_MAX {
        if let Some((number, bytes)) = find_manifest(ctx, &statement, &mut chain).await? {
            sign_manifest(ctx, number, bytes, &mut chain).await?;
            return Ok(chain);
        }
        // The listing may be of hours ago: look once more before something is written.
        chain = list_chain(ctx).await?;
        if let Some((number, bytes)) = find_manifest(ctx, &statement, &mut chain).await? {
            sign_manifest(ctx, number, bytes, &mut chain).await?;
            return Ok(chain);
        }
        // Who cannot sign does not begin.
        signing_key(ctx)?;
        if let Some((number, bytes)) = write_manifest(ctx, &statement, &chain).await? {
            chain.manifests.insert(number);
            sign_manifest(ctx, number, bytes, &mut chain).await?;
            return Ok(chain);
        }
    }
    let prefix = ctx.export.root.manifests_prefix();
    let message = format!("others keep taking the next number in {prefix}: it is tried again");
    Err(Failure::retry(Reason::HeldByOther, message))
}

async fn list_chain(ctx: &RunContext) -> Result<ChainListing, Failure> {
    let root = &ctx.export.root;
    let prefix = root.manifests_prefix();
    let rows = ctx.peers.store.list(&prefix).await;
    let rows = rows.map_err(|error| store_failure(&prefix, "listed", &error))?;
    let mut chain = ChainListing::default();
    for row in &rows {
        chain.insert(&root.parse(&row.key));
    }
    Ok(chain)
}

impl ChainListing {
    /// Takes in a key, if it is of the chain.
    pub(in crate::export) fn insert(&mut self, key: &Key) {
        match key {
            Key::Manifest(number) => self.manifests.insert(*number),
            Key::Signature(number) => self.signatures.insert(*number),
            _ => false,
        };
    }
}

/// The manifest that says the same, the newest first; each is read once in a run. With its bytes, where they
/// are to be signed: then it must be what we would write, to the byte, since a signature vouches for all of it.
async fn find_manifest(
    ctx: &RunContext,
    statement: &Statement,
    chain: &mut ChainListing,
) -> Result<Option<(u64, Bytes)>, Failure> {
    let wanted = statement.statement_id();
    let signs = matches!(ctx.peers.signing, Signing::With(_));
    for number in chain.manifests.clone().into_iter().rev() {
        match load_link(ctx, number).await? {
            Some(link) if link.statement_id == wanted => {
                if !signs || chain.signatures.contains(&number) {
                    return Ok(Some((number, Bytes::new())));
                }
                let (key, bytes) = read_manifest(ctx, number).await?;
                let previous = previous_digest(ctx, chain, number).await?;
                if let Some(bytes) = bytes
                    && matches_statement(statement, &key, number, previous, &bytes)
                {
                    return Ok(Some((number, bytes)));
                }
                tracing::warn!(
                    key,
                    "not signed: it is not what its receipts say; another one is written"
                );
            }
            Some(_) => {}
            // Deleted since the listing.
            None => {
                chain.manifests.remove(&number);
            }
        }
    }
    Ok(None)
}

/// Whether a manifest is to the byte what the statement gives at its place in the chain.
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
    // All but when and by which version it was written follows from the receipts.
    let version = stored.software.strip_prefix("eventexport/");
    let version = version.filter(|version| version.len() <= VERSION_CHARS_MAX);
    if !version.is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_graphic())) {
        return false;
    }
    let expected = Manifest {
        software: stored.software,
        ..statement.manifest(number, previous, stored.written_at)
    };
    record::encode(&expected) == bytes
}

/// The manifest before a number, as the next one names it.
async fn previous_digest(
    ctx: &RunContext,
    chain: &ChainListing,
    number: u64,
) -> Result<Option<FileDigest>, Failure> {
    let Some(last) = chain.manifests.range(..number).next_back().copied() else {
        return Ok(None);
    };
    let Some(ChainLink { sha256, .. }) = load_link(ctx, last).await? else {
        return Ok(None);
    };
    let key = Key::Manifest(last).relative().unwrap_or_default();
    Ok(Some(FileDigest { key, sha256 }))
}

async fn load_link(ctx: &RunContext, number: u64) -> Result<Option<ChainLink>, Failure> {
    let known = lock(&ctx.chain_cache).get(&number).cloned();
    if known.is_some() {
        return Ok(known);
    }
    let (key, Some(bytes)) = read_manifest(ctx, number).await? else {
        return Ok(None);
    };
    let header: ManifestHeader =
        document::parse_manifest(&key, number, &bytes).map_err(|error| Failure::from(&error))?;
    let link = ChainLink {
        statement_id: header.statement_id(),
        sha256: hex(&Sha256::digest(&bytes)),
    };
    lock(&ctx.chain_cache).insert(number, link.clone());
    Ok(Some(link))
}

async fn read_manifest(ctx: &RunContext, number: u64) -> Result<(String, Option<Bytes>), Failure> {
    let key = full_key(&ctx.export.root, &Key::Manifest(number));
    let read = ctx.peers.store.get(&key, MANIFEST_MAX_BYTES).await;
    let bytes = read.map_err(|error| store_failure(&key, "read", &error))?;
    Ok((key, bytes))
}

/// Writes the next manifest; `None`: somebody else took the number.
async fn write_manifest(
    ctx: &RunContext,
    statement: &Statement,
    chain: &ChainListing,
) -> Result<Option<(u64, Bytes)>, Failure> {
    let store = &*ctx.peers.store;
    let last = chain.manifests.last().copied();
    let number = last.unwrap_or(0) + 1;
    let key = full_key(&ctx.export.root, &Key::Manifest(number));
    let previous = previous_digest(ctx, chain, number).await?;
    if previous.is_none() && last.is_some() {
        // Deleted since the listing.
        return Ok(None);
    }
    let now = store
        .now()
        .await
        .map_err(|error| store_failure(&key, "written", &error))?;
    let bytes = Bytes::from(record::encode(&statement.manifest(number, previous, now)));
    let too_large = bytes.len() as u64 > MANIFEST_MAX_BYTES;
    if too_large || number > SEQUENCE_MAX {
        let why = if too_large {
            "it would be larger than 16 MiB"
        } else {
            "there is no higher number"
        };
        let message = format!("the manifest {key} cannot be written: {why}");
        return Err(Failure::manual(Reason::Failed, message));
    }
    let body = Segments::from(bytes.clone());
    let options = record_options(PutMode::Create, &body, ObjectClass::Evidence);
    if !create_object(ctx, &key, body, options).await? {
        return Ok(None);
    }
    let link = ChainLink {
        statement_id: statement.statement_id(),
        sha256: hex(&Sha256::digest(&bytes)),
    };
    lock(&ctx.chain_cache).insert(number, link);
    tracing::info!(key, start = %statement.period.start, end = %statement.period.end, "a manifest was written");
    Ok(Some((number, bytes)))
}

/// Adds the signature of a manifest with these bytes, if one is wanted and missing.
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
            format!("{key} could not be computed"),
        ));
    };
    let body = Segments::from(Bytes::copy_from_slice(&signature));
    let options = PutOptions {
        content_type: "application/octet-stream",
        ..record_options(PutMode::Create, &body, ObjectClass::Evidence)
    };
    // Who was faster signed the same bytes.
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

/// Creates a key that was just seen to be absent; `false`: it is somebody else's. Where the store does not
/// keep writers apart, or was not found out to, what is there afterwards is compared.
async fn create_object(
    ctx: &RunContext,
    key: &str,
    body: Segments,
    options: PutOptions,
) -> Result<bool, Failure> {
    let store = &*ctx.peers.store;
    let name = store.name();
    let conditional = lock(&ctx.shared.support).get(name).map(|support| support.put);
    let unsupported = || Failure {
        remedy: Remedy::Manual,
        ..conditional_writes_unsupported(name)
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
        Err(error) => Err(store_failure(key, "written", &error)),
    }
}

async fn has_content(store: &dyn Store, key: &str, body: &Segments) -> Result<bool, Failure> {
    let found = store.get(key, MANIFEST_MAX_BYTES).await;
    let found = found.map_err(|error| store_failure(key, "read again", &error))?;
    let expected = body.pieces().iter().flat_map(|piece| piece.iter());
    Ok(found.is_some_and(|found| found.iter().eq(expected)))
}

fn full_key(root: &ArchiveRoot, key: &Key) -> String {
    root.key(key).unwrap_or_default()
}

/// A failure of the store, with the key that it is about.
fn store_failure(key: &str, what: &str, error: &StoreError) -> Failure {
    let failure = Failure::from(error);
    Failure {
        message: format!("the manifest {key} could not be {what}: {}", failure.message),
        ..failure
    }
}
