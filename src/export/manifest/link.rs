//! Facts of the manifests of a chain, each read once. Reads the store.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::statement::StatementId;
use crate::archive::layout::Key;
use crate::archive::manifest::document::{self, MANIFEST_MAX_BYTES};
use crate::archive::manifest::{LinkSignature, ManifestLink};
use crate::archive::records::RangeRecord;
use crate::export::failure::Failure;
use crate::export::run_context::RunContext;
use crate::export::signature_io::{full_key, read_signature, store_failure};
use crate::pipeline::prover::hex;

/// Facts of a stored manifest, which never changes.
#[derive(Clone, Debug)]
pub(in crate::export) struct ChainLink {
    pub(super) statement_id: StatementId,
    /// The period of the statement.
    pub(super) period: RangeRecord,
    /// Events that it states.
    pub(super) events: u64,
    /// SHA-256 of its bytes, hexadecimal digits.
    pub(super) sha256: String,
    /// Its signature when it was read.
    pub(super) signature: LinkSignature,
    /// Time at which it was written, by its own statement.
    pub(super) written_at: Timestamp,
}

impl From<ManifestLink> for ChainLink {
    fn from(link: ManifestLink) -> Self {
        Self {
            statement_id: link.header.statement_id(),
            period: link.header.period,
            events: link.header.totals.events,
            sha256: link.sha256,
            signature: link.signature,
            written_at: link.header.written_at,
        }
    }
}

/// Manifests that a run has read or written, by sequence number.
pub(in crate::export) type ChainCache = BTreeMap<u64, ChainLink>;

/// Returns the facts of a manifest, with its signature if there are trusted keys; `None` if it does not exist.
pub(super) async fn load_link(
    ctx: &RunContext,
    number: u64,
    cache: &mut ChainCache,
) -> Result<Option<ChainLink>, Failure> {
    let keys = ctx.peers.signing.available();
    let known = cache.get(&number);
    let known = known.filter(|link| keys.is_none() || link.signature != LinkSignature::Unread);
    if let Some(link) = known {
        return Ok(Some(link.clone()));
    }
    let (key, Some(bytes)) = read_manifest(ctx, number).await? else {
        return Ok(None);
    };
    let header = document::parse_manifest(&key, number, &bytes).map_err(|error| Failure::from(&error))?;
    let signature = match keys {
        None => LinkSignature::Unread,
        Some(keys) => {
            let key = full_key(&ctx.export.root, &Key::Signature(number));
            read_signature(ctx, keys, &key, &bytes).await?
        }
    };
    let link = ChainLink::from(ManifestLink {
        header,
        sha256: hex(&Sha256::digest(&bytes)),
        signature,
    });
    cache.insert(number, link.clone());
    Ok(Some(link))
}

pub(super) async fn read_manifest(ctx: &RunContext, number: u64) -> Result<(String, Option<Bytes>), Failure> {
    let key = full_key(&ctx.export.root, &Key::Manifest(number));
    let read = ctx.peers.store.get(&key, MANIFEST_MAX_BYTES).await;
    let bytes = read.map_err(|error| store_failure(&key, "read", &error))?;
    Ok((key, bytes))
}
