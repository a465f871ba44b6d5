//! Time stamps of manifests and checkpoints by an authority (RFC 3161): decides which document gets the next one (pure),
//! and gets and stores it (I/O). A time stamp delays nothing: an archive is complete without it.

use bytes::Bytes;

use super::failure::Failure;
use super::journal_io::record_options;
use super::run_context::RunContext;
use super::signature_io::{create_object, full_key, store_failure};
use crate::api::{Reason, Remedy, Setting};
use crate::archive::layout::{Key, StampedDocument};
use crate::archive::listing::Journal;
use crate::archive::manifest::document::MANIFEST_MAX_BYTES;
use crate::archive::timestamp::{REPLY_MAX_BYTES, TimestampReply, TimestampRequest};
use crate::storage::{ObjectClass, PutMode, PutOptions, Segments};

/// Returns the newest manifest without a time stamp, or else the newest checkpoint if it has none. Earlier checkpoints
/// are not stamped later: a stamp says that its document existed at that time.
pub(super) fn next_document(journal: &Journal) -> Option<StampedDocument> {
    let manifests = journal.chain.manifests.iter().rev();
    let mut manifests = manifests.map(|number| StampedDocument::Manifest(*number));
    let unstamped = |document: &StampedDocument| !journal.timestamps.contains(document);
    let checkpoint = journal
        .checkpoints
        .last()
        .map(|day| StampedDocument::Checkpoint(*day));
    manifests.find(unstamped).or(checkpoint.filter(unstamped))
}

/// Gets the time stamp of a document and stores it. A stamp that another process stored first counts.
pub(super) async fn write_timestamp(ctx: &RunContext, document: StampedDocument) -> Result<(), Failure> {
    let authority = match &ctx.peers.timestamps {
        None => return Ok(()),
        Some(Ok(authority)) => authority,
        Some(Err(failure)) => return Err(failure.clone()),
    };
    let key = full_key(&ctx.export.root, &document.key());
    let bytes = ctx.peers.store.get(&key, MANIFEST_MAX_BYTES).await;
    let Some(bytes) = bytes.map_err(|error| store_failure(&key, "read", &error))? else {
        // Deleted after the listing; `verify` reports it.
        return Ok(());
    };
    let request = TimestampRequest::new(&bytes, rand::random());
    let reply = authority.send(request.encode()).await;
    let reply = reply.map_err(|error| timestamp_missing(&key, &error.to_string()))?;
    let rejected = |why: &str| timestamp_missing(&key, &format!("the reply of {} {why}", authority.host()));
    if reply.len() as u64 > REPLY_MAX_BYTES {
        return Err(rejected(&format!("is larger than {REPLY_MAX_BYTES} bytes")));
    }
    let checked = TimestampReply::parse(&reply).and_then(|reply| {
        request.check(&reply)?;
        Ok(reply)
    });
    let stamp = checked.map_err(|error| rejected(&error.to_string()))?;
    write_reply(ctx, document, reply).await?;
    tracing::info!(key, time = %stamp.time, authority = authority.host(), "stored time stamp");
    Ok(())
}

async fn write_reply(ctx: &RunContext, document: StampedDocument, reply: Bytes) -> Result<(), Failure> {
    let key = full_key(&ctx.export.root, &Key::Timestamp(document));
    let body = Segments::from(reply);
    let options = PutOptions {
        content_type: "application/timestamp-reply",
        ..record_options(PutMode::Create, &body, ObjectClass::Proof)
    };
    create_object(ctx, &key, body, options).await.map(drop)
}

/// Returns the failure to get a time stamp.
pub(super) fn timestamp_missing(key: &str, why: &str) -> Failure {
    let message = format!("cannot get a time stamp of {key}: {why}");
    let remedy = Remedy::new(
        Setting::TimestampAuthority,
        "check {}; nothing else waits for the time stamp",
    );
    Failure::wait(Reason::TimestampMissing, message, None).with_remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn each_manifest_and_the_newest_checkpoint_get_a_time_stamp() {
        let mut journal = Journal::default();
        let mut order = Vec::new();
        journal.chain.manifests.extend([1, 2, 3]);
        journal.checkpoints.extend([date(2018, 6, 1), date(2018, 6, 2)]);
        journal.timestamps.insert(StampedDocument::Manifest(2));
        while let Some(document) = next_document(&journal) {
            journal.timestamps.insert(document);
            order.push(document);
        }
        assert_eq!(
            order,
            [
                StampedDocument::Manifest(3),
                StampedDocument::Manifest(1),
                StampedDocument::Checkpoint(date(2018, 6, 2)),
            ]
        );
    }
}
