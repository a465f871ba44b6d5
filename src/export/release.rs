//! Deletes everything that an export may have open, for the finalizer. I/O.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::failure::{Failure, RetryClass};
use super::recovery::{InterruptedAttempt, recover_attempt};
use super::run_context::RunContext;
use crate::api::Reason;
use crate::archive::layout::AttemptId;

/// Result of releasing the sessions of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleaseReport {
    /// Sessions that provably belong to the export and could not be deleted, with the error.
    pub leftover_sessions: Vec<(String, String)>,
    /// Reason why the release is inconclusive: the bucket or the service did not answer, or it is too early to tell.
    pub unknown: Option<String>,
    /// True if a retry cannot help: the bucket is gone, or a peer refuses the credentials.
    pub permanent: bool,
}

/// Recovers every attempt that this holder owns or that is past its deadline, and reports leftovers.
pub(super) async fn release(ctx: &RunContext) -> ReleaseReport {
    let mut released = ReleaseReport::default();
    let store = &*ctx.peers.store;
    let (mut journal, now) = match (ctx.load_journal().await, store.now().await) {
        (Ok(journal), Ok(now)) => (journal, now),
        (Err(failure), _) => {
            return ReleaseReport {
                permanent: is_permanent(&failure),
                unknown: Some(failure.describe(&ctx.export.setting_names)),
                ..released
            };
        }
        (_, Err(error)) => {
            return ReleaseReport {
                permanent: is_permanent(&Failure::from(&error)),
                unknown: Some(error.describe(&ctx.export.setting_names)),
                ..released
            };
        }
    };
    ctx.export
        .mark_foreign_attempts(&mut journal, ctx.clock_offset(now));
    // No task of this export runs.
    let idle: Arc<BTreeSet<AttemptId>> = Arc::new(journal.attempts.keys().copied().collect());
    let mut retryable = false;
    for (id, facts) in &journal.attempts {
        let held_by_other = facts
            .record
            .as_ref()
            .is_some_and(|record| record.holder != ctx.export.holder && record.deadline > now);
        if held_by_other || !ctx.export.shard.contains(id.window.date()) {
            continue;
        }
        let interrupted = InterruptedAttempt {
            id: *id,
            facts: facts.clone(),
            closed: Arc::default(),
            idle: Arc::clone(&idle),
        };
        if let Err(failure) = recover_attempt(ctx, &interrupted).await {
            retryable |= !is_permanent(&failure);
            released.leftover_sessions.extend(
                facts
                    .sessions
                    .iter()
                    .map(|session| (session.clone(), failure.describe(&ctx.export.setting_names))),
            );
            if facts.sessions.is_empty() {
                released.unknown = Some(failure.describe(&ctx.export.setting_names));
            }
        }
    }
    released.permanent = !retryable && (!released.leftover_sessions.is_empty() || released.unknown.is_some());
    released
}

/// Returns true if a retry does not help: the bucket is gone, or a peer refuses the credentials.
fn is_permanent(failure: &Failure) -> bool {
    !matches!(failure.class, RetryClass::Retry(_))
        && matches!(
            failure.reason,
            Reason::BucketMissing
                | Reason::BucketForbidden
                | Reason::CredentialsRefused
                | Reason::RoleMissing
                | Reason::HostNotAllowed
                | Reason::IdentityNotGranted
        )
}
