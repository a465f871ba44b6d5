//! The manifest of a period, as a task of the run.

use jiff::Timestamp;

use super::{ExportRun, RunTask, RunTaskResult};
use crate::api::Reason;
use crate::export::failure::Failure;
use crate::export::manifest::ChainListing;
use crate::export::manifest::chain::ensure_manifest;
use crate::export::manifest::statement::build_statement;
use crate::export::record::RangeRecord;

impl ExportRun {
    /// States the period and puts it into the chain of manifests.
    pub(super) fn seal(&mut self, period: RangeRecord) {
        let Some(journal) = &self.journal else { return };
        let Some(statement) = build_statement(&self.ctx.export, journal, period) else {
            let what = "a defect in eventexport: a closed period cannot be stated; report it";
            let failure = Failure::retry(Reason::Failed, what);
            let now = self.now();
            return self.retry_state.record_seal_failure(failure, now, rand::random());
        };
        let chain = journal.chain.clone();
        self.spawn(RunTask::Seal(period), move |ctx| async move {
            RunTaskResult::Seal(period, ensure_manifest(&ctx, statement, chain).await)
        });
    }

    pub(super) fn seal_done(
        &mut self,
        period: RangeRecord,
        outcome: Result<ChainListing, Failure>,
        now: Timestamp,
    ) {
        match outcome {
            Ok(chain) => {
                self.retry_state.record_seal(period);
                if let Some(journal) = &mut self.journal {
                    journal.chain = chain;
                }
            }
            Err(failure) => {
                tracing::info!(reason = %failure.reason, message = failure.message, "no manifest was written");
                self.retry_state.record_seal_failure(failure, now, rand::random());
            }
        }
    }
}
