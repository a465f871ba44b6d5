//! Writes and reads documents of the archive that are created once, and their signatures. I/O with the store.

use bytes::Bytes;

use super::failure::{Failure, RetryClass, conditional_writes_unsupported};
use super::journal_io::record_options;
use super::manifest::sign::SigningKeys;
use super::run_context::RunContext;
use crate::api::Reason;
use crate::archive::layout::{ArchiveRoot, Key};
use crate::archive::manifest::LinkSignature;
use crate::archive::manifest::document::{MANIFEST_MAX_BYTES, SIGNATURE_BYTES};
use crate::storage::{ObjectClass, PutMode, PutOptions, Segments, Store, StoreError};

/// Result of writing a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignatureWrite {
    /// The document has a signature by a trusted key.
    Signed,
    /// Another file is in the place of the signature, and no trusted key verifies it.
    Foreign,
}

/// Signs a document: creates its signature, or finds one that a trusted key verifies. Never replaces a file.
pub(super) async fn write_signature(
    ctx: &RunContext,
    keys: &SigningKeys,
    key: &str,
    document: &[u8],
) -> Result<SignatureWrite, Failure> {
    let Some(signature) = keys.sign(document) else {
        let message = format!("cannot compute signature {key}");
        return Err(Failure::retry(Reason::Failed, message));
    };
    let body = Segments::from(Bytes::copy_from_slice(&signature));
    let options = PutOptions {
        content_type: "application/octet-stream",
        ..record_options(PutMode::Create, &body, ObjectClass::Proof)
    };
    if create_object(ctx, key, body, options).await? {
        return Ok(SignatureWrite::Signed);
    }
    // Another writer was faster, or a file was there before.
    Ok(match read_signature(ctx, keys, key, document).await? {
        LinkSignature::SignedBy(_) => SignatureWrite::Signed,
        LinkSignature::Unread | LinkSignature::Absent | LinkSignature::Invalid => {
            tracing::warn!(key, "file in the place of a signature is none of a trusted key");
            SignatureWrite::Foreign
        }
    })
}

/// Reads the signature of a document, and checks it with the trusted keys.
pub(super) async fn read_signature(
    ctx: &RunContext,
    keys: &SigningKeys,
    key: &str,
    document: &[u8],
) -> Result<LinkSignature, Failure> {
    Ok(match read_signature_bytes(ctx, key).await? {
        None => LinkSignature::Absent,
        Some(signature) => keys
            .verify(document, &signature)
            .map_or(LinkSignature::Invalid, LinkSignature::SignedBy),
    })
}

/// Reads the bytes of a signature; `None` if it does not exist. Those of a file that is too large are empty.
pub(super) async fn read_signature_bytes(ctx: &RunContext, key: &str) -> Result<Option<Bytes>, Failure> {
    match ctx.peers.store.get(key, SIGNATURE_BYTES as u64).await {
        Ok(bytes) => Ok(bytes),
        Err(StoreError::LimitExceeded { .. }) => Ok(Some(Bytes::new())),
        Err(error) => Err(store_failure(key, "read", &error)),
    }
}

/// Returns the failure of a signature that no trusted key verifies, for a person.
pub(super) fn signature_invalid(key: &str) -> Failure {
    let message = format!(
        "{key} is not a signature of its document by a trusted key; if an earlier key signed, add its public key to previousPublicKeys of the Secret, else find out who wrote the file, and delete it"
    );
    Failure::manual(Reason::SignatureInvalid, message)
}

/// Creates an object that was absent a moment ago. Returns false if another writer created it. If the store does not
/// support conditional writes, or its support is unknown, compares the stored content afterwards.
pub(super) async fn create_object(
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
    let absent = async || {
        let found = store.get(key, MANIFEST_MAX_BYTES).await;
        found
            .map(|found| found.is_none())
            .map_err(|error| store_failure(key, "read", &error))
    };
    let put = match conditional {
        Some(false) if !ctx.export.single_writer => return Err(unsupported()),
        Some(false) if !absent().await? => return Ok(false),
        Some(false) => store.put(key, body.clone(), &overwrite).await,
        Some(true) | None => store.put(key, body.clone(), &options).await,
    };
    let put = match put {
        Err(StoreError::Unsupported { .. }) if conditional.is_none() && ctx.export.single_writer => {
            if !absent().await? {
                return Ok(false);
            }
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

/// Returns the full key of a document.
pub(super) fn full_key(root: &ArchiveRoot, key: &Key) -> String {
    root.key(key).unwrap_or_default()
}

/// Converts an error of the store, adding the operation and the key.
pub(super) fn store_failure(key: &str, operation: &str, error: &StoreError) -> Failure {
    let failure = Failure::from(error);
    Failure {
        message: format!("cannot {operation} {key}: {}", failure.message),
        ..failure
    }
}
