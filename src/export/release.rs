//! Lets go of everything an export may have open, for the finalizer. I/O.

use super::engine::ReleaseReport;
use super::failure::{Failure, Remedy};
use super::journal_io::load_journal;
use super::recovery::recover_attempt;
use super::run_context::RunContext;
use crate::api::Reason;

/// Settles every attempt that is ours or past its deadline, and names what is left.
pub(super) async fn release(ctx: &RunContext) -> ReleaseReport {
    let mut released = ReleaseReport::default();
    let store = &*ctx.peers.store;
    let (mut journal, now) = match (load_journal(store, &ctx.export.root).await, store.now().await) {
        (Ok(journal), Ok(now)) => (journal, now),
        (Err(failure), _) => {
            return ReleaseReport {
                permanent: is_permanent(&failure),
                unknown: Some(failure.message),
                ..released
            };
        }
        (_, Err(error)) => {
            return ReleaseReport {
                permanent: is_permanent(&Failure::from(&error)),
                unknown: Some(error.to_string()),
                ..released
            };
        }
    };
    journal.mark_foreign_attempts(&ctx.export, ctx.clock_offset(now));
    let mut retryable = false;
    for (id, facts) in &journal.attempts {
        let held_by_other = facts
            .record
            .as_ref()
            .is_some_and(|record| record.holder != ctx.export.holder && record.deadline > now);
        if held_by_other || !ctx.export.shard.contains(id.window.date()) {
            continue;
        }
        if let Err(failure) = recover_attempt(ctx, *id, facts).await {
            retryable |= !is_permanent(&failure);
            released.leftover_sessions.extend(
                facts
                    .sessions
                    .iter()
                    .map(|session| (session.clone(), failure.message.clone())),
            );
            if facts.sessions.is_empty() {
                released.unknown = Some(failure.message);
            }
        }
    }
    released.permanent = !retryable && (!released.leftover_sessions.is_empty() || released.unknown.is_some());
    released
}

/// Whether that does not pass by itself: a peer is gone, or refuses us.
fn is_permanent(failure: &Failure) -> bool {
    !matches!(failure.remedy, Remedy::Retry(_))
        && matches!(
            failure.reason,
            Reason::BucketMissing
                | Reason::BucketForbidden
                | Reason::CredentialsRefused
                | Reason::RoleMissing
                | Reason::HostNotAllowed
        )
}
