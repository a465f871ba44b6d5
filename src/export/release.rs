//! Lets go of everything an export may have open, for the finalizer. I/O.

use super::engine::Released;
use super::failure::{Failure, Remedy};
use super::ground::Ground;
use super::journal_io::observe;
use super::settle::settle;
use crate::api::Reason;

/// Settles every attempt that is ours or past its deadline, and names what is left.
pub(super) async fn release(ground: &Ground) -> Released {
    let mut released = Released::default();
    let store = &*ground.peers.store;
    let (mut journal, now) = match (observe(store, &ground.export.root).await, store.now().await) {
        (Ok(journal), Ok(now)) => (journal, now),
        (Err(failure), _) => {
            return Released {
                hopeless: is_hopeless(&failure),
                unknown: Some(failure.message),
                ..released
            };
        }
        (_, Err(error)) => {
            return Released {
                hopeless: is_hopeless(&Failure::from(&error)),
                unknown: Some(error.to_string()),
                ..released
            };
        }
    };
    journal.tell_apart(&ground.export, ground.ahead(now));
    let mut hope = false;
    for (id, facts) in &journal.attempts {
        let theirs = facts
            .record
            .as_ref()
            .is_some_and(|record| record.holder != ground.export.holder && record.deadline > now);
        if theirs || !ground.export.shard.has(id.window.date()) {
            continue;
        }
        if let Err(failure) = settle(ground, *id, facts).await {
            hope |= !is_hopeless(&failure);
            released.left.extend(
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
    released.hopeless = !hope && (!released.left.is_empty() || released.unknown.is_some());
    released
}

/// Whether that does not pass by itself: a peer is gone, or refuses us.
fn is_hopeless(failure: &Failure) -> bool {
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
