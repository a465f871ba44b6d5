//! Listing of the archives below a prefix. Does I/O, reading only.

use std::sync::Arc;

use super::contents::{ArchiveListing, RootContents};
use super::options::VerifyOptions;
use crate::archive::finding::{Finding, FindingKind};
use crate::archive::layout::ArchiveRoot;
use crate::archive::memory::JournalMemory;
use crate::storage::{IrregularKind, ObjectSummary, StoreError};

/// Memory for the listing of a complete archive, in KiB: 1 GiB.
const LISTING_KIB: u64 = 1 << 20;
/// Memory for the listing of a part of an archive, in KiB: 64 MiB.
const PARTIAL_LISTING_KIB: u64 = 64 << 10;

/// Lists the roots below the prefix, and a finding for each file outside of them.
pub async fn list_roots(options: &VerifyOptions) -> Result<(Vec<RootContents>, Vec<Finding>), StoreError> {
    let ArchiveListing { roots, outside } = list_keys(options).await?;
    let mut roots: Vec<RootContents> = roots.into_values().collect();
    if roots.is_empty() && options.expectation.is_some() {
        roots.push(RootContents::new(ArchiveRoot::from_prefix(&options.prefix)));
    }
    for contents in &mut roots {
        contents.retain_objects(|_, window| options.includes(window.date()));
        contents
            .revisions
            .retain(|(window, _), _| options.includes(window.date()));
    }
    let mut findings: Vec<Finding> = outside.findings(&options.prefix, |_| true).collect();
    let irregular = options.store.list_irregular(&options.prefix).await?;
    findings.extend(irregular.into_iter().map(|entry| {
        let root = ArchiveRoot::of(&options.prefix, &entry.key);
        let prefix = root.as_ref().map_or(&*options.prefix, ArchiveRoot::as_str);
        let below = entry.key.strip_prefix(prefix).unwrap_or(&entry.key);
        let kind = if ArchiveRoot::is_skipped(below, 1) && entry.kind != IrregularKind::FolderLink {
            FindingKind::SkippedFile
        } else {
            FindingKind::IrregularFile
        };
        Finding::new(kind, entry.key).found(entry.kind.description())
    }));
    Ok((roots, findings))
}

/// Lists the keys below the prefix; of a partial verification, those of its days and the manifests. A checkpoint states
/// receipts of many days, so that it needs a complete verification.
async fn list_keys(options: &VerifyOptions) -> Result<ArchiveListing, StoreError> {
    let root = ArchiveRoot::from_prefix(&options.prefix);
    let (prefixes, limit) = match (options.partial, options.since, options.until) {
        (true, Some(since), Some(until)) => {
            let prefixes = root.prefixes_of_days(since, until);
            (prefixes.into_iter().collect(), PARTIAL_LISTING_KIB)
        }
        _ => (vec![options.prefix.clone()], LISTING_KIB),
    };
    let wanted = |key: &str| !options.partial || root.day_of(key).is_none_or(|day| options.includes(day));
    let memory = match &options.memory {
        Some(shared) => Arc::clone(shared),
        None => Arc::new(JournalMemory::new(limit).alone()),
    };
    let (mut listing, mut exceeded) = (ArchiveListing::default(), Ok(()));
    for prefix in prefixes {
        let mut add_page = |page: Vec<ObjectSummary>| {
            for row in page.into_iter().filter(|row| wanted(&row.key)) {
                if exceeded.is_ok() {
                    exceeded = listing.add(&options.prefix, row, &memory);
                }
            }
        };
        options.store.list_pages(&prefix, &mut add_page).await?;
    }
    match exceeded {
        Ok(()) => Ok(listing),
        Err(_) if options.memory.is_some() => Err(options.share_exceeded()),
        Err(_) => Err(StoreError::ArchiveTooLarge {
            store: options.store.identity().to_string(),
            prefix: options.prefix.clone(),
            limit: format!("{} MiB of memory", limit / 1024),
        }),
    }
}
