//! The head of the chain, as it is remembered outside the bucket: checked before anything is added, and never given up
//! without a person. I/O.

use super::link::{ChainCache, load_link};
use super::statement::Statement;
use crate::api::Reason;
use crate::archive::layout::Key;
use crate::archive::manifest::{ChainListing, Head, HeadRecord, LinkSignature};
use crate::export::failure::Failure;
use crate::export::run_context::RunContext;
use crate::export::signature_io::full_key;

/// Returns the head to remember after `found` was found in the chain: it never moves backwards by itself. A head that a
/// person gave up is forgotten.
pub fn next_head(
    remembered: Option<HeadRecord>,
    found: Option<HeadRecord>,
    abandoned: Option<&Head>,
) -> Option<HeadRecord> {
    let kept = remembered.filter(|record| !abandoned.is_some_and(|head| head.is_same(&record.head)));
    match (kept, found) {
        (Some(kept), Some(found)) if found.head.sequence < kept.head.sequence => Some(kept),
        (kept, found) => found.or(kept),
    }
}

/// Checks that the remembered head is in the chain, with the remembered digest. Does nothing if a person gave it up.
pub(in crate::export) async fn check_head(
    ctx: &RunContext,
    remembered: Option<&HeadRecord>,
    chain: &mut ChainListing,
    cache: &mut ChainCache,
) -> Result<(), Failure> {
    let Some(HeadRecord { head, .. }) = remembered else {
        return Ok(());
    };
    let abandoned = ctx.export.abandoned_head.as_ref();
    if abandoned.is_some_and(|abandoned| abandoned.is_same(head)) {
        return Ok(());
    }
    let number = head.sequence;
    if !chain.manifests.contains(&number) {
        // Deleted since it was read, or the listing leaves it out.
        cache.remove(&number);
    }
    let found = load_link(ctx, number, cache).await?;
    let key = full_key(&ctx.export.root, &Key::Manifest(number));
    let found = match found {
        Some(link) if link.sha256 == head.sha256 => {
            chain.manifests.insert(number);
            return Ok(());
        }
        Some(link) => format!("{key} has the SHA-256 {}", link.sha256),
        None => format!("{key} does not exist"),
    };
    let message = format!(
        "the newest manifest was {head}, and {found}: restore the archive from versions or a backup, or set spec.manifest.abandonedHead to \"{head}\" to give that manifest up; until then nothing is added to the chain"
    );
    Err(Failure::manual(Reason::ManifestMissing, message))
}

/// Fails because a statement has fewer events than the newest manifest of its period, unless a person gave up the chain
/// up to that manifest or a later one.
pub(super) fn fewer_events(
    ctx: &RunContext,
    statement: &Statement,
    number: u64,
    sha256: &str,
    events: u64,
    chain: &ChainListing,
) -> Result<(), Failure> {
    let abandoned = ctx.export.abandoned_head.as_ref();
    if abandoned.is_some_and(|head| {
        head.sequence > number && chain.manifests.contains(&head.sequence)
            || head.sequence == number && head.sha256 == sha256
    }) {
        return Ok(());
    }
    let (start, end) = (statement.period.start, statement.period.end);
    let message = format!(
        "the receipts of {start} to {end} have {} events, and manifest {number} states {events}: restore what is missing from versions or a backup, or set spec.manifest.abandonedHead to \"{number}:{sha256}\" to give that statement up; until then nothing is added to the chain",
        statement.events()
    );
    Err(Failure::manual(Reason::ManifestMissing, message))
}

/// Returns the newest manifest of the chain. With trusted keys, only one that a trusted key signed.
pub(super) async fn newest_head(
    ctx: &RunContext,
    chain: &ChainListing,
    cache: &mut ChainCache,
) -> Result<Option<HeadRecord>, Failure> {
    let signs = ctx.peers.signing.available().is_some();
    for number in chain.manifests.iter().rev() {
        let Some(link) = load_link(ctx, *number, cache).await? else {
            continue;
        };
        let key_id = match link.signature {
            LinkSignature::SignedBy(id) => Some(id),
            _ if signs => continue,
            _ => None,
        };
        let Ok(head) = Head::new(*number, &link.sha256) else {
            continue;
        };
        return Ok(Some(HeadRecord {
            head: Head { key_id, ..head },
            written_at: Some(link.written_at),
        }));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remembered_head_moves_forward_and_back_only_if_it_is_given_up() {
        let record =
            |sequence, digit: &str| HeadRecord::from(Head::new(sequence, &digit.repeat(64)).unwrap());
        let next =
            |remembered: Option<HeadRecord>, found: Option<HeadRecord>, abandoned: Option<HeadRecord>| {
                let abandoned = abandoned.map(|record| record.head);
                next_head(remembered, found, abandoned.as_ref())
            };
        let (one, two, other) = (record(1, "a"), record(2, "b"), record(2, "c"));
        assert_eq!(next(None, None, None), None);
        assert_eq!(next(None, Some(one.clone()), None), Some(one.clone()));
        assert_eq!(
            next(Some(one.clone()), Some(two.clone()), None),
            Some(two.clone())
        );
        assert_eq!(
            next(Some(two.clone()), Some(one.clone()), None),
            Some(two.clone())
        );
        assert_eq!(next(Some(two.clone()), None, None), Some(two.clone()));
        assert_eq!(next(Some(two.clone()), None, Some(two.clone())), None);
        assert_eq!(
            next(Some(two.clone()), Some(one.clone()), Some(two.clone())),
            Some(one)
        );
        assert_eq!(
            next(Some(two.clone()), Some(other.clone()), Some(two.clone())),
            Some(other.clone())
        );
        // Another manifest was given up.
        assert_eq!(next(Some(two.clone()), None, Some(other)), Some(two));
    }
}
