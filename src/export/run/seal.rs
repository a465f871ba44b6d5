//! The manifest of a period, as a task of the run.

use jiff::Timestamp;

use super::{Done, Job, Run};
use crate::api::Reason;
use crate::export::failure::Failure;
use crate::export::manifest::Chain;
use crate::export::manifest::statement::state;
use crate::export::manifest::write::seal;
use crate::export::record::RangeRecord;

impl Run {
    /// States the period and puts it into the chain of manifests.
    pub(super) fn seal(&mut self, period: RangeRecord) {
        let Some(journal) = &self.journal else { return };
        let Some(statement) = state(&self.ground.export, journal, period) else {
            let what = "a defect in eventexport: a closed period cannot be stated; report it";
            let failure = Failure::retry(Reason::Failed, what);
            let now = self.now();
            return self.memory.unsealed(failure, now, rand::random());
        };
        let chain = journal.chain.clone();
        self.spawn(Job::Seal(period), move |ground| async move {
            Done::Seal(period, seal(&ground, statement, chain).await)
        });
    }

    pub(super) fn seal_done(&mut self, period: RangeRecord, outcome: Result<Chain, Failure>, now: Timestamp) {
        match outcome {
            Ok(chain) => {
                self.memory.sealed(period);
                if let Some(journal) = &mut self.journal {
                    journal.chain = chain;
                }
            }
            Err(failure) => {
                tracing::info!(reason = %failure.reason, message = failure.message, "no manifest was written");
                self.memory.unsealed(failure, now, rand::random());
            }
        }
    }
}
