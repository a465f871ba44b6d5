//! Documents of a run: starts the task that writes one, and records its result. The tasks do I/O with the store, and with
//! the time-stamp authority.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::checkpoint::{CheckpointDraft, write_checkpoint};
use super::document_task::{DocumentKind, DocumentTask};
use super::failure::Failure;
use super::manifest::chain::ensure_manifest;
use super::manifest::head::{check_head, next_head};
use super::manifest::link::ChainCache;
use super::manifest::statement::build_statement;
use super::report::write_report;
use super::retry_state::RetryState;
use super::run_context::RunContext;
use super::timestamp::write_timestamp;
use crate::api::Reason;
use crate::archive::listing::Journal;
use crate::archive::manifest::{ChainListing, Head, HeadRecord, ManifestLink};
use crate::archive::records::RangeRecord;

/// The chain of manifests, as a run knows it.
pub(super) struct Documents {
    /// Manifests that this run has read or written.
    chain_cache: ChainCache,
    /// Newest manifest, as remembered outside the bucket, or as this run found it later.
    head: Option<HeadRecord>,
}

/// Result of a task.
pub(super) struct DocumentResult {
    /// True if the document was sent now, false if it was found.
    sent: Result<bool, Failure>,
    chain: Option<Box<ChainUpdate>>,
}

/// The chain after a task that concerns it.
struct ChainUpdate {
    listing: ChainListing,
    /// Also after a failure with the manifests that the task read or wrote.
    cache: ChainCache,
    found: Option<HeadRecord>,
}

impl Documents {
    /// `head`: newest manifest, as remembered outside the bucket.
    pub(super) fn new(head: Option<HeadRecord>, abandoned: Option<&Head>) -> Self {
        Self {
            chain_cache: ChainCache::new(),
            head: next_head(head, None, abandoned),
        }
    }

    /// Returns the newest manifest.
    pub(super) const fn head(&self) -> Option<&HeadRecord> {
        self.head.as_ref()
    }

    /// Forgets the head if a person gave it up.
    pub(super) fn forget_abandoned(&mut self, abandoned: Option<&Head>) {
        self.head = next_head(self.head.take(), None, abandoned);
    }

    /// Adds the manifests that a listing of the bucket read. The remembered head is read again.
    pub(super) fn add_links(&mut self, links: impl IntoIterator<Item = (u64, ManifestLink)>) {
        if let Some(HeadRecord { head, .. }) = &self.head {
            self.chain_cache.remove(&head.sequence);
        }
        let links = links.into_iter().map(|(number, link)| (number, link.into()));
        self.chain_cache.extend(links);
    }

    /// Returns the work of a task, with its content as the journal shows it now. `sealed`: periods with a manifest that
    /// matches the journal.
    pub(super) fn work(
        &self,
        task: DocumentTask,
        ctx: Arc<RunContext>,
        journal: &Journal,
        sealed: &BTreeSet<RangeRecord>,
    ) -> BoxFuture<'static, DocumentResult> {
        let head = self.head.clone();
        let chain = || {
            Box::new(ChainUpdate {
                listing: journal.chain.clone(),
                cache: self.chain_cache.clone(),
                found: None,
            })
        };
        match task {
            DocumentTask::CheckHead => {
                let mut chain = chain();
                async move {
                    let checked = check_head(&ctx, head.as_ref(), &mut chain.listing, &mut chain.cache).await;
                    DocumentResult {
                        sent: checked.map(|()| false),
                        chain: Some(chain),
                    }
                }
                .boxed()
            }
            DocumentTask::Manifest(period) => {
                let mut chain = chain();
                let statement = build_statement(&ctx.export, journal, period);
                async move {
                    let sent = async {
                        let statement = statement.ok_or_else(|| not_covered(period))?;
                        let listing = std::mem::take(&mut chain.listing);
                        (chain.listing, chain.found) =
                            ensure_manifest(&ctx, statement, listing, &mut chain.cache, head.as_ref())
                                .await?;
                        Ok(true)
                    };
                    DocumentResult {
                        sent: sent.await,
                        chain: Some(chain),
                    }
                }
                .boxed()
            }
            DocumentTask::Checkpoint(day) => {
                let draft = CheckpointDraft::new(&ctx.export, journal, sealed, head.as_ref(), day);
                async move { write_checkpoint(&ctx, &draft).await.map(|()| true).into() }.boxed()
            }
            DocumentTask::Timestamp(document) => {
                async move { write_timestamp(&ctx, document).await.map(|()| true).into() }.boxed()
            }
            DocumentTask::Report(archive) => async move { write_report(&ctx, archive).await.into() }.boxed(),
        }
    }

    /// Records the result of a task.
    pub(super) fn record(
        &mut self,
        task: DocumentTask,
        result: DocumentResult,
        ctx: &RunContext,
        journal: Option<&mut Journal>,
        retry_state: &mut RetryState,
    ) {
        let DocumentResult { sent, chain } = result;
        let chain = chain.map(|chain| {
            self.chain_cache = chain.cache;
            (chain.listing, chain.found)
        });
        let now = (ctx.shared.now)();
        let sent = match sent {
            Ok(sent) => sent,
            // A stop is no failure of a report.
            Err(_) if task.kind() == DocumentKind::Report && ctx.stop.is_cancelled() => return,
            Err(failure) => {
                log_failure(task, &failure);
                return retry_state.record_document_failure(task.kind(), failure, now, rand::random());
            }
        };
        retry_state.documents.remove(&task.kind());
        let mut unlisted = Journal::default();
        let journal = journal.unwrap_or(&mut unlisted);
        let (listing, found) = chain.unzip();
        if let Some(listing) = listing {
            journal.chain = listing;
        }
        match task {
            DocumentTask::CheckHead => retry_state.head_due = false,
            DocumentTask::Manifest(period) => {
                retry_state.sealed.insert(period);
                let abandoned = ctx.export.abandoned_head.as_ref();
                let head = next_head(self.head.clone(), found.flatten(), abandoned);
                if head != self.head
                    && let Some(HeadRecord { head, .. }) = &head
                {
                    tracing::info!(%head, key_id = head.key_id, "newest manifest, to be remembered outside the bucket");
                }
                self.head = head;
            }
            DocumentTask::Checkpoint(day) => {
                journal.checkpoints.insert(day);
                journal.checkpoint_signatures.insert(day);
            }
            DocumentTask::Timestamp(document) => {
                journal.timestamps.insert(document);
            }
            DocumentTask::Report(archive) => {
                retry_state.report.record(archive, sent, now);
                journal.has_report = true;
            }
        }
    }
}

impl From<Result<bool, Failure>> for DocumentResult {
    fn from(sent: Result<bool, Failure>) -> Self {
        Self { sent, chain: None }
    }
}

fn not_covered(period: RangeRecord) -> Failure {
    let RangeRecord { start, end, .. } = period;
    let message = format!(
        "cannot build the manifest of {start} to {end}: a day of the closed period is not covered; this is a bug in eventexport, report it"
    );
    Failure::retry(Reason::Failed, message)
}

fn log_failure(task: DocumentTask, failure: &Failure) {
    let Failure { reason, message, .. } = failure;
    match task {
        DocumentTask::CheckHead | DocumentTask::Manifest(_) => {
            tracing::info!(%reason, error = message, "cannot write manifest");
        }
        DocumentTask::Checkpoint(day) => {
            tracing::info!(%day, %reason, error = message, "cannot write checkpoint");
        }
        DocumentTask::Timestamp(_) => tracing::warn!(%reason, error = message, "cannot get time stamp"),
        DocumentTask::Report(_) => tracing::warn!(%reason, error = message, "cannot write report"),
    }
}
