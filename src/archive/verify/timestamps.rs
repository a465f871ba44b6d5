//! Check of time stamps: each must be about the document beside it. The signatures of their authorities are not checked.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::contents::RootContents;
use super::options::{DOCUMENT_CONCURRENCY, VerifyOptions};
use crate::archive::finding::{Finding, FindingKind};
use crate::archive::layout::{Key, StampedDocument};
use crate::archive::manifest::document::Manifest;
use crate::archive::read::{get_document, per_document};
use crate::archive::records::ArchiveRecord as _;
use crate::archive::timestamp::{REPLY_MAX_BYTES, TimestampReply};
use crate::storage::StoreError;

/// Time stamps by document: the parsed reply, or the reason that it cannot be used.
pub type Timestamps = BTreeMap<StampedDocument, Result<TimestampReply, String>>;

/// Reads the time stamps of a root. A part of a longer verification reads none.
pub async fn read_timestamps(
    options: &VerifyOptions,
    contents: &RootContents,
) -> Result<Timestamps, StoreError> {
    let store = &*options.store;
    let listed = contents.timestamps.iter().filter(|_| !options.partial);
    let listed: Vec<_> = listed
        .map(|(document, row)| (*document, row.key.clone()))
        .collect();
    let read = stream::iter(listed).map(|(document, key)| async move {
        let bytes = get_document(store, &key, REPLY_MAX_BYTES, Manifest::SCHEMA).await;
        let stamp = match per_document(bytes)? {
            Ok(None) => return Ok(None),
            Ok(Some(bytes)) => TimestampReply::parse(&bytes).map_err(|error| format!("it {error}")),
            Err(error) => Err(error.to_string()),
        };
        Ok::<_, StoreError>(Some((document, stamp)))
    });
    let read: Vec<_> = read.buffer_unordered(DOCUMENT_CONCURRENCY).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}

/// Returns an error for each time stamp that is not about its document, and a remark that counts the others. `digest_of`
/// returns the SHA-256 of a document, if it exists.
pub fn findings<'a>(
    contents: &RootContents,
    timestamps: &Timestamps,
    digest_of: impl Fn(StampedDocument) -> Option<&'a str>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut valid = 0_u64;
    for (document, stamp) in timestamps {
        let digest = digest_of(*document);
        let wrong = match (digest, stamp) {
            (None, _) => Some("the document beside it does not exist".to_owned()),
            (Some(_), Err(error)) => Some(error.clone()),
            (Some(digest), Ok(stamp)) => stamp
                .check_digest(digest)
                .err()
                .map(|error| format!("it {error}")),
        };
        match wrong {
            None => valid += 1,
            Some(wrong) => {
                let key = contents.key(&Key::Timestamp(*document));
                findings.push(Finding::new(FindingKind::TimestampInvalid, key).found(wrong));
            }
        }
    }
    if valid > 0 {
        let root = contents.root.as_str();
        findings.push(Finding::new(FindingKind::TimestampUnchecked, root).found(valid.to_string()));
    }
    findings
}
