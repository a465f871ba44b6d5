//! Puts a statement into the chain, once: finds it there, or writes it under the next number; then signs it.
//! I/O with the store. Whatever call is the last of a process, the next one goes on where it ended: a
//! manifest that is there is found, one that is not is written, a signature that is missing is added.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::document::{self, FileDigest, MANIFEST_MAX_BYTES, Manifest, ManifestHead};
use super::sign::Signing;
use super::statement::{Identity, Statement};
use crate::api::Reason;
use crate::export::failure::{Failure, Remedy};
use crate::export::ground::{Ground, lock};
use crate::export::journal_io::record_options;
use crate::export::keys::{Key, Root};
use crate::export::open::weak;
use crate::export::proof::hex;
use crate::export::record;
use crate::storage::{Condition, ObjectClass, PutOptions, Segments, Store, StoreError};

/// How often the next number may be somebody else's before it is left for later.
const ROUNDS: usize = 16;

/// The longest version in the name of the software that wrote a manifest.
const VERSION_CHARS: usize = 40;

/// The last number that a key can name.
const LAST: u64 = 99_999_999;

/// The manifests and signatures that a listing shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Numbers of manifests.
    pub manifests: BTreeSet<u64>,
    /// Numbers of those that have a signature.
    pub signatures: BTreeSet<u64>,
}

/// A manifest that was read or written: it never changes.
#[derive(Clone, Debug)]
pub(in crate::export) struct Link {
    identity: Identity,
    sha256: String,
}

/// What a run knows of the manifests, by number.
pub(in crate::export) type Links = BTreeMap<u64, Link>;

/// Makes sure that the statement is in the chain, and signed if that is wanted; returns the chain as it is
/// then known.
pub(in crate::export) async fn seal(
    ground: &Ground,
    statement: Statement,
    mut chain: Chain,
) -> Result<Chain, Failure> {
    for _ in 0..ROUNDS {
        if let Some((number, bytes)) = find(ground, &statement, &mut chain).await? {
            sign(ground, number, bytes, &mut chain).await?;
            return Ok(chain);
        }
        // The listing may be of hours ago: look once more before something is written.
        chain = list(ground).await?;
        if let Some((number, bytes)) = find(ground, &statement, &mut chain).await? {
            sign(ground, number, bytes, &mut chain).await?;
            return Ok(chain);
        }
        // Who cannot sign does not begin.
        signer(ground)?;
        if let Some((number, bytes)) = write(ground, &statement, &chain).await? {
            chain.manifests.insert(number);
            sign(ground, number, bytes, &mut chain).await?;
            return Ok(chain);
        }
    }
    let prefix = ground.export.root.manifests();
    let message = format!("others keep taking the next number in {prefix}: it is tried again");
    Err(Failure::retry(Reason::HeldBy, message))
}

async fn list(ground: &Ground) -> Result<Chain, Failure> {
    let root = &ground.export.root;
    let prefix = root.manifests();
    let rows = ground.peers.store.list(&prefix).await;
    let rows = rows.map_err(|error| failed(&prefix, "listed", &error))?;
    let mut chain = Chain::default();
    for row in &rows {
        chain.insert(&root.parse(&row.key));
    }
    Ok(chain)
}

impl Chain {
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
async fn find(
    ground: &Ground,
    statement: &Statement,
    chain: &mut Chain,
) -> Result<Option<(u64, Bytes)>, Failure> {
    let wanted = statement.identity();
    let signs = matches!(ground.peers.signing, Signing::With(_));
    for number in chain.manifests.clone().into_iter().rev() {
        match link(ground, number).await? {
            Some(link) if link.identity == wanted => {
                if !signs || chain.signatures.contains(&number) {
                    return Ok(Some((number, Bytes::new())));
                }
                let (key, bytes) = read(ground, number).await?;
                let previous = previous(ground, chain, number).await?;
                if let Some(bytes) = bytes
                    && is_ours(statement, &key, number, previous, &bytes)
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
fn is_ours(
    statement: &Statement,
    key: &str,
    number: u64,
    previous: Option<FileDigest>,
    bytes: &[u8],
) -> bool {
    let Ok(there) = document::read::<Manifest>(key, number, bytes) else {
        return false;
    };
    // All but when and by which version it was written follows from the receipts.
    let version = there.software.strip_prefix("eventexport/");
    let version = version.filter(|version| version.len() <= VERSION_CHARS);
    if !version.is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_graphic())) {
        return false;
    }
    let ours = Manifest {
        software: there.software,
        ..statement.manifest(number, previous, there.written_at)
    };
    record::encode(&ours) == bytes
}

/// The manifest before a number, as the next one names it.
async fn previous(ground: &Ground, chain: &Chain, number: u64) -> Result<Option<FileDigest>, Failure> {
    let Some(last) = chain.manifests.range(..number).next_back().copied() else {
        return Ok(None);
    };
    let Some(Link { sha256, .. }) = link(ground, last).await? else {
        return Ok(None);
    };
    let key = Key::Manifest(last).below().unwrap_or_default();
    Ok(Some(FileDigest { key, sha256 }))
}

async fn link(ground: &Ground, number: u64) -> Result<Option<Link>, Failure> {
    let known = lock(&ground.links).get(&number).cloned();
    if known.is_some() {
        return Ok(known);
    }
    let (key, Some(bytes)) = read(ground, number).await? else {
        return Ok(None);
    };
    let head: ManifestHead = document::read(&key, number, &bytes)
        .map_err(|error| Failure::person(Reason::JournalMismatch, error.to_string()))?;
    let link = Link {
        identity: head.identity(),
        sha256: hex(&Sha256::digest(&bytes)),
    };
    lock(&ground.links).insert(number, link.clone());
    Ok(Some(link))
}

async fn read(ground: &Ground, number: u64) -> Result<(String, Option<Bytes>), Failure> {
    let key = full(&ground.export.root, &Key::Manifest(number));
    let read = ground.peers.store.get(&key, MANIFEST_MAX_BYTES).await;
    let bytes = read.map_err(|error| failed(&key, "read", &error))?;
    Ok((key, bytes))
}

/// Writes the next manifest; `None`: somebody else took the number.
async fn write(
    ground: &Ground,
    statement: &Statement,
    chain: &Chain,
) -> Result<Option<(u64, Bytes)>, Failure> {
    let store = &*ground.peers.store;
    let last = chain.manifests.last().copied();
    let number = last.unwrap_or(0) + 1;
    let key = full(&ground.export.root, &Key::Manifest(number));
    let previous = previous(ground, chain, number).await?;
    if previous.is_none() && last.is_some() {
        // Deleted since the listing.
        return Ok(None);
    }
    let now = store
        .now()
        .await
        .map_err(|error| failed(&key, "written", &error))?;
    let bytes = Bytes::from(record::encode(&statement.manifest(number, previous, now)));
    let too_large = bytes.len() as u64 > MANIFEST_MAX_BYTES;
    if too_large || number > LAST {
        let why = if too_large {
            "it would be larger than 16 MiB"
        } else {
            "there is no higher number"
        };
        let message = format!("the manifest {key} cannot be written: {why}");
        return Err(Failure::person(Reason::Failed, message));
    }
    let body = Segments::from(bytes.clone());
    let options = record_options(Condition::IfAbsent, &body, ObjectClass::Evidence);
    if !create(ground, &key, body, options).await? {
        return Ok(None);
    }
    let link = Link {
        identity: statement.identity(),
        sha256: hex(&Sha256::digest(&bytes)),
    };
    lock(&ground.links).insert(number, link);
    tracing::info!(key, start = %statement.period.start, end = %statement.period.end, "a manifest was written");
    Ok(Some((number, bytes)))
}

/// Adds the signature of a manifest with these bytes, if one is wanted and missing.
async fn sign(ground: &Ground, number: u64, bytes: Bytes, chain: &mut Chain) -> Result<(), Failure> {
    if matches!(ground.peers.signing, Signing::Unwanted) || chain.signatures.contains(&number) {
        return Ok(());
    }
    let Some(signer) = signer(ground)? else {
        return Ok(());
    };
    let key = full(&ground.export.root, &Key::Signature(number));
    let Some(signature) = signer.sign(&bytes) else {
        return Err(Failure::retry(
            Reason::Failed,
            format!("{key} could not be computed"),
        ));
    };
    let body = Segments::from(Bytes::copy_from_slice(&signature));
    let options = PutOptions {
        content_type: "application/octet-stream",
        ..record_options(Condition::IfAbsent, &body, ObjectClass::Evidence)
    };
    // Who was faster signed the same bytes.
    create(ground, &key, body, options).await?;
    chain.signatures.insert(number);
    Ok(())
}

fn signer(ground: &Ground) -> Result<Option<&super::sign::SigningKey>, Failure> {
    match &ground.peers.signing {
        Signing::Unwanted => Ok(None),
        Signing::With(key) => Ok(Some(key)),
        Signing::Impossible(failure) => Err(failure.clone()),
    }
}

/// Creates a key that was just seen to be absent; `false`: it is somebody else's. Where the store does not
/// keep writers apart, or was not found out to, what is there afterwards is compared.
async fn create(ground: &Ground, key: &str, body: Segments, options: PutOptions) -> Result<bool, Failure> {
    let store = &*ground.peers.store;
    let name = store.name();
    let honoured = lock(&ground.shared.support).get(name).map(|support| support.put);
    let refuse = || Failure {
        remedy: Remedy::Person,
        ..weak(name)
    };
    let overwrite = PutOptions {
        condition: Condition::Overwrite,
        ..options.clone()
    };
    let put = match honoured {
        Some(false) if !ground.export.single_writer => return Err(refuse()),
        Some(false) => store.put(key, body.clone(), &overwrite).await,
        Some(true) | None => store.put(key, body.clone(), &options).await,
    };
    let put = match put {
        Err(StoreError::Unsupported { .. }) if honoured.is_none() && ground.export.single_writer => {
            store.put(key, body.clone(), &overwrite).await
        }
        Err(StoreError::Unsupported { .. }) => return Err(refuse()),
        put => put,
    };
    match put {
        Ok(_) if honoured == Some(true) => Ok(true),
        Ok(_) => is_there(store, key, &body).await,
        Err(StoreError::AlreadyExists { .. } | StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(failed(key, "written", &error)),
    }
}

async fn is_there(store: &dyn Store, key: &str, body: &Segments) -> Result<bool, Failure> {
    let found = store.get(key, MANIFEST_MAX_BYTES).await;
    let found = found.map_err(|error| failed(key, "read again", &error))?;
    let ours = body.pieces().iter().flat_map(|piece| piece.iter());
    Ok(found.is_some_and(|found| found.iter().eq(ours)))
}

fn full(root: &Root, key: &Key) -> String {
    root.key(key).unwrap_or_default()
}

/// A failure of the store, with the key that it is about.
fn failed(key: &str, what: &str, error: &StoreError) -> Failure {
    let failure = Failure::from(error);
    Failure {
        message: format!("the manifest {key} could not be {what}: {}", failure.message),
        ..failure
    }
}
