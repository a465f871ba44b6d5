//! Reads an archive and has it judged: one listing, every receipt and manifest, then every object, several at a time.
//! Does I/O, reading only. Memory is bounded by the documents and a few pieces of the objects in flight.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use jiff::civil::Date;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::chain::{self, Document, Manifests, Receipts};
use super::conclude::conclude;
use super::contents::{self, Contents};
use super::finding::{Finding, Kind};
use super::judge::Observation;
use super::object::{Proved, Prover};
use super::receipts::{self, Expected};
use super::report::Report;
use super::signature::{self, PublicKey};
use crate::export::keys::Root;
use crate::export::manifest::document::{self, MANIFEST_MAX_BYTES, Manifest};
use crate::export::proof::hex;
use crate::export::record::{self, RECORD_MAX_BYTES, Receipt};
use crate::export::wish::Export;
use crate::storage::{Listed, Store, StoreError};

/// Documents that are asked for at once.
const DOCUMENTS_AT_ONCE: usize = 32;
/// Objects of a bucket that are in flight: as many for each processor, and never more than the second.
const OBJECTS_PER_CPU: usize = 4;
const OBJECTS_MAX: usize = 16;
/// Bytes that are asked of a bucket in one request: 4 MiB. An object in flight holds three such pieces at most.
const PIECE: u64 = 4 << 20;
/// The largest signature that is read; more than one is long is no signature.
const SIGNATURE_MAX_BYTES: u64 = 1024;

/// What is to be verified, and how.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What holds it.
    pub store: Arc<dyn Store>,
    /// Its keys begin so: empty, or with `/` at its end.
    pub prefix: String,
    /// What a resource wants there, whose root the prefix is then.
    pub export: Option<Export>,
    /// By checksums that the store holds, without reading objects.
    pub quick: bool,
    /// Keys, one of which must verify each signature.
    pub keys: Vec<PublicKey>,
    /// Whether every manifest must have a signature.
    pub signed: bool,
    /// Only windows of this day and later.
    pub since: Option<Date>,
    /// Only windows of this day and earlier.
    pub until: Option<Date>,
    /// Now.
    pub now: Timestamp,
}

/// How far it is, for whoever shows progress.
#[derive(Debug, Default)]
pub struct Tally {
    /// Objects to look at, as far as known.
    pub objects: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Objects that were looked at.
    pub objects_done: AtomicU64,
    /// Bytes that were read.
    pub bytes_done: AtomicU64,
}

/// The documents of a root.
#[derive(Debug, Default)]
pub struct Documents {
    /// Every receipt.
    pub receipts: Receipts,
    /// Every manifest.
    pub manifests: Manifests,
}

/// Verifies an archive. An error is of the store, and leaves the archive unproved.
pub async fn verify(ask: &Ask, tally: &Arc<Tally>) -> Result<Report, StoreError> {
    let (roots, findings) = look(ask).await?;
    let mut report = Report {
        roots: Vec::new(),
        findings,
    };
    let mut work = Vec::new();
    for contents in roots {
        let documents = read_documents(ask, &contents).await?;
        let chain = chain::judge(&contents, &documents.manifests, &documents.receipts, ask.signed);
        let Documents { mut receipts, .. } = documents;
        receipts.retain(|window, _| ask.within(window.date()));
        let mut chain = chain;
        chain.ledger.retain(|window, _| ask.within(window.date()));
        let expectations = receipts::expect(&contents, &receipts, &chain, ask.source());
        let there = expectations
            .objects
            .iter()
            .filter_map(|expected| contents.objects.get(&expected.window));
        for listed in there {
            tally.objects.fetch_add(1, Ordering::Relaxed);
            tally.bytes.fetch_add(listed.size, Ordering::Relaxed);
        }
        work.push((contents, chain, expectations));
    }
    for (contents, chain, expectations) in work {
        let seen = observe(ask, &contents, &expectations.objects, tally).await;
        report
            .roots
            .push(conclude(ask, &contents, &chain, expectations, &seen));
    }
    Ok(report)
}

/// The roots below the prefix, and what is in none of them.
pub async fn look(ask: &Ask) -> Result<(Vec<Contents>, Vec<Finding>), StoreError> {
    let sorted = contents::sort(&ask.prefix, ask.store.list(&ask.prefix).await?);
    let mut roots = sorted.roots;
    if roots.is_empty() && ask.export.is_some() {
        roots.push(Contents::new(Root::at(&ask.prefix)));
    }
    for contents in &mut roots {
        contents.objects.retain(|window, _| ask.within(window.date()));
    }
    let foreign = sorted
        .outside
        .into_iter()
        .map(|key| Finding::new(Kind::ForeignFile, key))
        .collect();
    Ok((roots, foreign))
}

impl Ask {
    /// The source whose receipts count, where a resource says which.
    pub fn source(&self) -> Option<&str> {
        self.export.as_ref().map(|export| export.source.as_str())
    }

    fn within(&self, day: Date) -> bool {
        self.since.is_none_or(|since| day >= since) && self.until.is_none_or(|until| day <= until)
    }
}

/// Reads every receipt, manifest and signature of a root. One that vanishes meanwhile is as if it had not been listed.
pub async fn read_documents(ask: &Ask, contents: &Contents) -> Result<Documents, StoreError> {
    let get = async |listed: &Listed, limit: u64| match ask.store.get(&listed.key, limit).await {
        Err(error @ StoreError::TooMuch { .. }) => Ok(Some(Err(error.to_string()))),
        other => other.map(|bytes| bytes.map(Ok)),
    };
    let receipts: Vec<_> = stream::iter(&contents.receipts)
        .map(async |(window, listed)| {
            let bytes = get(listed, RECORD_MAX_BYTES).await?;
            Ok::<_, StoreError>(bytes.map(|bytes| {
                let document = parsed(bytes, |bytes| record::decode::<Receipt>(&listed.key, bytes));
                (*window, document)
            }))
        })
        .buffer_unordered(DOCUMENTS_AT_ONCE)
        .try_collect()
        .await?;
    let mut manifests = Manifests::new();
    for (number, listed) in &contents.manifests {
        let Some(bytes) = get(listed, MANIFEST_MAX_BYTES).await? else {
            continue;
        };
        let signature = match contents.signatures.get(number) {
            Some(listed) => get(listed, SIGNATURE_MAX_BYTES).await?,
            None => None,
        };
        let signature = signature.map(Result::unwrap_or_default);
        let signature = match &bytes {
            Ok(bytes) => signature::of(bytes, signature.as_deref(), &ask.keys),
            Err(_) => signature::Signature::Absent,
        };
        let document = parsed(bytes, |bytes| {
            document::read::<Manifest>(&listed.key, *number, bytes)
        });
        manifests.insert(*number, (document, signature));
    }
    Ok(Documents {
        receipts: receipts.into_iter().flatten().collect(),
        manifests,
    })
}

fn parsed<T, E: ToString>(
    bytes: Result<bytes::Bytes, String>,
    read: impl FnOnce(&[u8]) -> Result<T, E>,
) -> Document<T> {
    match bytes {
        Ok(bytes) => Document {
            sha256: hex(&Sha256::digest(&bytes)),
            read: read(&bytes).map_err(|error| error.to_string()),
        },
        Err(why) => Document {
            sha256: String::new(),
            read: Err(why),
        },
    }
}

/// What was found of each expected object, in their order; `None`: it is not there.
async fn observe(
    ask: &Ask,
    contents: &Contents,
    expected: &[Expected],
    tally: &Arc<Tally>,
) -> Vec<Option<Result<Observation, StoreError>>> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let local = expected
        .first()
        .is_some_and(|first| ask.store.local(&first.key).is_some());
    let at_once = match (ask.quick, local) {
        (true, _) => DOCUMENTS_AT_ONCE,
        (false, true) => processors,
        (false, false) => (processors * OBJECTS_PER_CPU).min(OBJECTS_MAX),
    };
    stream::iter(expected)
        .map(async |expected| {
            let listed = contents.objects.get(&expected.window)?;
            let seen = if ask.quick {
                match ask.store.recorded(&listed.key).await {
                    Ok(None) => return None,
                    Ok(Some(facts)) => Ok(Observation::from(facts)),
                    Err(error) => Err(error),
                }
            } else {
                match prove(ask, listed, expected.decompressed, tally).await {
                    Ok(None) => return None,
                    Ok(Some(proved)) => Ok(Observation::from(proved)),
                    Err(error) => Err(error),
                }
            };
            tally.objects_done.fetch_add(1, Ordering::Relaxed);
            Some(seen)
        })
        .buffered(at_once)
        .collect()
        .await
}

/// Reads one object; `None`: it has gone since the listing.
async fn prove(
    ask: &Ask,
    listed: &Listed,
    limit: u64,
    tally: &Arc<Tally>,
) -> Result<Option<Proved>, StoreError> {
    let broken = |message: String| StoreError::Io {
        store: ask.store.name().to_owned(),
        key: listed.key.clone(),
        message,
    };
    if let Some(path) = ask.store.local(&listed.key) {
        let tally = Arc::clone(tally);
        let proved = tokio::task::spawn_blocking(move || {
            super::object::of_file(&path, limit, &mut |bytes| {
                tally.bytes_done.fetch_add(bytes, Ordering::Relaxed);
            })
        })
        .await
        .map_err(|error| broken(format!("the proof was cut off: {error}")))?;
        return match proved {
            Ok(proved) => Ok(Some(proved)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(broken(format!("reading failed: {error}"))),
        };
    }
    // One piece is proved, one waits, one is being fetched.
    let (pieces, mut queue) = mpsc::channel::<bytes::Bytes>(1);
    let prover = tokio::task::spawn_blocking(move || {
        let mut prover = Prover::new(limit);
        while let Some(piece) = queue.blocking_recv() {
            prover.push(&piece);
        }
        prover.finish()
    });
    let mut offset = 0;
    while offset < listed.size {
        let wanted = PIECE.min(listed.size - offset);
        let Some(piece) = ask
            .store
            .read(&listed.key, offset, wanted, listed.etag.as_deref())
            .await?
        else {
            return Ok(None);
        };
        if piece.is_empty() {
            return Err(broken(
                "the store ended it before the size that it lists".to_owned(),
            ));
        }
        let length = piece.len() as u64;
        offset += length;
        if pieces.send(piece).await.is_err() {
            break;
        }
        tally.bytes_done.fetch_add(length, Ordering::Relaxed);
    }
    drop(pieces);
    prover
        .await
        .map(Some)
        .map_err(|error| broken(format!("the proof was cut off: {error}")))
}
