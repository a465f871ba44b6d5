//! Reads an archive and runs the checks: listing, receipts and manifests (see `recheck`), then every object, several
//! concurrently. Does I/O, reading only. Memory is bounded by the documents and a few pieces of each object in flight.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::stream::{self, StreamExt as _};

use super::build_report::build_report;
use super::contents::RootContents;
use super::heads;
use super::object::ObjectReader;
use super::observation::ObjectObservation;
use super::options::DOCUMENT_CONCURRENCY;
use super::pace::Pace;
use super::receipts::ExpectedObject;
use super::recheck::{self, ArchiveReading};
use super::report::VerifyReport;
use super::versions;
use crate::storage::StoreError;

pub use super::options::{VerifyOptions, VerifyProgress};

/// Concurrent reads of objects from a bucket, for each processor.
const OBJECTS_PER_CPU: usize = 4;
/// Maximum concurrent reads of objects from a bucket.
const OBJECT_CONCURRENCY_MAX: usize = 16;
/// Size up to which an object is read whatever its receipt states: 16 MiB.
const READ_ANYWAY_BYTES: u64 = 16 << 20;
/// Size up to which a gzip is decompressed whatever its receipt states: 64 MiB.
const DESCRIBED_MAX_BYTES: u64 = 64 << 20;

/// Verifies an archive. Fails only on errors of the store.
pub async fn verify(
    options: &VerifyOptions,
    progress: &Arc<VerifyProgress>,
) -> Result<VerifyReport, StoreError> {
    let ArchiveReading {
        mut roots,
        mut findings,
    } = recheck::read_archive(options).await?;
    if options.versions {
        let versions = options.store.list_versions(&options.prefix).await?;
        for root in &mut roots {
            let superseded = versions::superseded(options, root, &versions);
            root.expectations.findings.extend(superseded);
        }
    }
    findings.extend(heads::missing(&options.prefix, &options.heads, &roots));
    let mut report = VerifyReport {
        roots: Vec::new(),
        findings,
    };
    for root in &roots {
        let present = root
            .expectations
            .objects
            .iter()
            .filter_map(|expected| root.contents.object(&expected.key));
        for listed in present {
            progress.objects.fetch_add(1, Ordering::Relaxed);
            progress.bytes.fetch_add(listed.size, Ordering::Relaxed);
        }
    }
    for root in roots {
        let seen = check_objects(options, &root.contents, &root.expectations.objects, progress).await;
        report.roots.push(build_report(options, root, &seen));
    }
    Ok(report.conclude(&options.prefix))
}

/// Checks the expected objects, and returns the results in their order; `None` if an object does not exist.
async fn check_objects(
    options: &VerifyOptions,
    contents: &RootContents,
    expected: &[ExpectedObject],
    progress: &Arc<VerifyProgress>,
) -> Vec<Option<Result<ObjectObservation, StoreError>>> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let at_once = match (options.quick, options.store.is_local()) {
        (true, _) => DOCUMENT_CONCURRENCY,
        (false, _) if options.partial => 1,
        (false, true) => processors,
        (false, false) => (processors * OBJECTS_PER_CPU).min(OBJECT_CONCURRENCY_MAX),
    };
    let sizes: BTreeSet<u64> = expected.iter().map(|expected| expected.bytes).collect();
    let sizes = &sizes;
    let reader = &ObjectReader {
        store: Arc::clone(&options.store),
        pace: options.bytes_per_second.map(Pace::new),
        progress: Arc::clone(progress),
    };
    // Of numbers: a stream of references is not `Send`.
    stream::iter(0..expected.len())
        .map(|index| async move {
            let expected = expected.get(index)?;
            let listed = contents.object(&expected.key)?;
            let seen = if options.quick {
                match options.store.head_recorded(&listed.key).await {
                    Ok(None) => return None,
                    // Anyone who can write to a directory can write its side files too.
                    Ok(Some(info)) if options.store.is_local() => Ok(ObjectObservation::of_size(info.size)),
                    Ok(Some(info)) => Ok(ObjectObservation::from(info)),
                    Err(error) => Err(error),
                }
            } else {
                if !is_readable(listed.size, expected, sizes) {
                    progress.bytes_done.fetch_add(listed.size, Ordering::Relaxed);
                    progress.objects_done.fetch_add(1, Ordering::Relaxed);
                    return Some(Ok(ObjectObservation::of_size(listed.size)));
                }
                let limit = expected.decompressed.max(DESCRIBED_MAX_BYTES);
                match reader.prove(listed, limit, ()).await {
                    Ok(None) => return None,
                    Ok(Some((proved, ()))) => Ok(ObjectObservation::from(proved)),
                    Err(error) => Err(error),
                }
            };
            progress.objects_done.fetch_add(1, Ordering::Relaxed);
            Some(seen)
        })
        .buffered(at_once)
        .collect()
        .await
}

/// Returns true if an object is read although its size may differ from the stated one: it is small, not longer than
/// stated, or as long as another object, whose bytes it may have. Nothing bounds the size of others.
fn is_readable(size: u64, expected: &ExpectedObject, sizes: &BTreeSet<u64>) -> bool {
    size <= expected.bytes.max(READ_ANYWAY_BYTES) || sizes.contains(&size)
}
