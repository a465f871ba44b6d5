//! Daily checkpoint of a continuous export: decides when it is due and what it states (pure), and writes it once, with
//! its signature (I/O).

use std::collections::BTreeSet;

use bytes::Bytes;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::failure::Failure;
use super::journal_io::record_options;
use super::run_context::RunContext;
use super::signature_io::{
    SignatureWrite, create_object, full_key, read_signature, signature_invalid, store_failure,
    write_signature,
};
use super::spec::ExportSpec;
use crate::archive::checkpoint::{Checkpoint, CheckpointHead, WINDOWS_MAX, parse_checkpoint, receipts_root};
use crate::archive::coverage::valid_receipt;
use crate::archive::layout::Key;
use crate::archive::listing::Journal;
use crate::archive::manifest::HeadRecord;
use crate::archive::manifest::LinkSignature;
use crate::archive::manifest::document::FileDigest;
use crate::archive::receipt::Sha256Digest;
use crate::archive::records::{ArchiveRecord as _, RECORD_MAX_BYTES, RangeRecord, SOFTWARE, encode};
use crate::archive::window::Window;
use crate::storage::{ObjectClass, PutMode, Segments};

/// Hour of the day, UTC, from which on a checkpoint is written although windows of the export are missing: noon.
const INCOMPLETE_HOUR: i8 = 12;

/// Hour of the day, UTC, from which on a checkpoint is written although windows are being stored.
const LATEST_HOUR: i8 = 20;

/// Returns the day of the checkpoint that is not written yet, or not signed; `None`: there is none. `signs`: true if
/// checkpoints are signed.
pub(super) fn is_due(
    export: &ExportSpec,
    journal: &Journal,
    store_now: Timestamp,
    signs: bool,
) -> Option<Date> {
    let day = store_now.to_zoned(TimeZone::UTC).date();
    let continuous = export.end.is_none() && export.start <= day && export.shard.contains(day);
    let written = journal.checkpoints.contains(&day) && !(signs && journal.is_unsigned_checkpoint(day));
    (continuous && !written).then_some(day)
}

/// Returns the time at which the checkpoint of a day is written although windows of the export are missing.
pub(super) fn incomplete_at(day: Date) -> Timestamp {
    at_hour(day, INCOMPLETE_HOUR)
}

/// Returns the time at which the checkpoint of a day is written although windows are being stored.
pub(super) fn latest_at(day: Date) -> Timestamp {
    at_hour(day, LATEST_HOUR)
}

fn at_hour(day: Date, hour: i8) -> Timestamp {
    let at = day.at(hour, 0, 0, 0).to_zoned(TimeZone::UTC);
    at.map_or(Timestamp::MAX, |at| at.timestamp())
}

/// Content of a checkpoint: only its place in time and among the others is missing.
#[derive(Clone, Debug)]
pub(super) struct CheckpointDraft {
    day: Date,
    /// Receipts that no manifest states yet, with their digests and events, in time order.
    receipts: Vec<(Window, String, u64)>,
    head: Option<CheckpointHead>,
    /// Day of the checkpoint before.
    previous: Option<Date>,
}

impl CheckpointDraft {
    /// Derives the content from the journal. `sealed`: periods with a manifest that matches the journal.
    pub(super) fn new(
        export: &ExportSpec,
        journal: &Journal,
        sealed: &BTreeSet<RangeRecord>,
        head: Option<&HeadRecord>,
        day: Date,
    ) -> Self {
        let open = |window: Window| {
            window.date() >= export.start && !sealed.iter().any(|period| period.contains(window))
        };
        let windows = journal.receipts.keys().rev().copied();
        let mut receipts: Vec<(Window, String, u64)> = windows
            .filter(|window| open(*window))
            .filter_map(|window| {
                let facts = valid_receipt(journal, window, Some(&export.source))?;
                Some((window, facts.proof.sha256.to_string(), facts.summary.events))
            })
            .take(WINDOWS_MAX)
            .collect();
        receipts.reverse();
        Self {
            day,
            receipts,
            head: head.map(|HeadRecord { head, .. }| CheckpointHead {
                sequence: head.sequence,
                sha256: head.sha256.clone(),
            }),
            previous: journal.checkpoints.range(..day).next_back().copied(),
        }
    }

    fn checkpoint(
        &self,
        ctx: &RunContext,
        previous: Option<FileDigest>,
        written_at: Timestamp,
    ) -> Checkpoint {
        let export = &ctx.export;
        let bucket = ctx.peers.store.identity().bucket_name();
        let receipts = self.receipts.iter();
        Checkpoint {
            schema: Checkpoint::SCHEMA.to_owned(),
            space: export.space.clone(),
            scope: export.scope.as_str().to_owned(),
            source: export.source.clone(),
            day: self.day,
            head: self.head.clone(),
            windows: self
                .receipts
                .iter()
                .map(|(window, ..)| window.to_string())
                .collect(),
            events: self
                .receipts
                .iter()
                .fold(0, |sum, (.., events)| sum.saturating_add(*events)),
            root: receipts_root(receipts.map(|(window, sha256, _)| (*window, sha256.as_str()))),
            previous,
            key_id: ctx.peers.signing.available().map(|keys| keys.key_id().to_owned()),
            bucket: bucket.map(ToOwned::to_owned),
            prefix: bucket.map(|_| export.root.prefix().to_owned()),
            written_at,
            software: SOFTWARE.to_owned(),
        }
    }
}

/// Writes the checkpoint of a day and its signature, or finds them. Without a usable signing key, nothing is written.
pub(super) async fn write_checkpoint(ctx: &RunContext, draft: &CheckpointDraft) -> Result<(), Failure> {
    let store = &*ctx.peers.store;
    let keys = ctx.peers.signing.keys()?;
    let key = full_key(&ctx.export.root, &Key::Checkpoint(draft.day));
    let previous = match draft.previous {
        Some(day) => previous_digest(ctx, day).await?,
        None => None,
    };
    let now = store
        .now()
        .await
        .map_err(|error| store_failure(&key, "write", &error))?;
    let mut bytes = Bytes::from(encode(&draft.checkpoint(ctx, previous.clone(), now)));
    let body = Segments::from(bytes.clone());
    let options = record_options(PutMode::Create, &body, ObjectClass::Proof);
    if create_object(ctx, &key, body, options).await? {
        tracing::info!(key, windows = draft.receipts.len(), "wrote checkpoint");
    } else {
        let found = store.get(&key, RECORD_MAX_BYTES).await;
        let found = found.map_err(|error| store_failure(&key, "read", &error))?;
        let Some(found) = found else { return Ok(()) };
        if keys.is_some() && !is_own(ctx, draft, previous.as_ref(), &key, &found) {
            // Another exporter wrote it, or the archive has grown since: `verify` reports it if it has no signature.
            return Ok(());
        }
        bytes = found;
    }
    let Some(keys) = keys else { return Ok(()) };
    let key = full_key(&ctx.export.root, &Key::CheckpointSignature(draft.day));
    match read_signature(ctx, keys, &key, &bytes).await? {
        LinkSignature::SignedBy(_) => return Ok(()),
        LinkSignature::Invalid => return Err(signature_invalid(&key)),
        LinkSignature::Absent | LinkSignature::Unread => {}
    }
    match write_signature(ctx, keys, &key, &bytes).await? {
        SignatureWrite::Signed => Ok(()),
        SignatureWrite::Foreign => Err(signature_invalid(&key)),
    }
}

async fn previous_digest(ctx: &RunContext, day: Date) -> Result<Option<FileDigest>, Failure> {
    let relative = Key::Checkpoint(day).relative().unwrap_or_default();
    let key = full_key(&ctx.export.root, &Key::Checkpoint(day));
    let bytes = ctx.peers.store.get(&key, RECORD_MAX_BYTES).await;
    let bytes = bytes.map_err(|error| store_failure(&key, "read", &error))?;
    Ok(bytes.map(|bytes| FileDigest {
        key: relative,
        sha256: Sha256Digest::of(&bytes).to_string(),
    }))
}

/// Returns true if a stored checkpoint is byte for byte the one that this run would write about its windows: a signature
/// vouches for all of it.
fn is_own(
    ctx: &RunContext,
    draft: &CheckpointDraft,
    previous: Option<&FileDigest>,
    key: &str,
    bytes: &[u8],
) -> bool {
    let Ok(stored) = parse_checkpoint(key, draft.day, bytes) else {
        return false;
    };
    let mut then = draft.clone();
    // More windows may have been stored since.
    then.receipts
        .retain(|(window, ..)| stored.windows.contains(&window.to_string()));
    let expected = then.checkpoint(ctx, previous.cloned(), stored.written_at);
    encode(&expected) == bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::manifest::tests::export;

    #[test]
    fn a_checkpoint_is_due_once_a_day_of_a_continuous_export() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let mut export = export(30);
        let mut journal = Journal::default();
        let now = at("2018-06-20T03:00:00Z");
        let day = jiff::civil::date(2018, 6, 20);
        assert_eq!(incomplete_at(day), at("2018-06-20T12:00:00Z"));
        assert_eq!(is_due(&export, &journal, now, true), None, "a finite range");
        export.end = None;
        assert_eq!(is_due(&export, &journal, now, true), Some(day));
        assert_eq!(is_due(&export, &journal, at("2018-05-31T23:00:00Z"), true), None);
        journal.checkpoints.insert(day);
        assert_eq!(is_due(&export, &journal, now, false), None);
        // A crash kept it from being signed.
        assert_eq!(is_due(&export, &journal, now, true), Some(day));
        journal.checkpoint_signatures.insert(day);
        assert_eq!(is_due(&export, &journal, now, true), None);
        let next = at("2018-06-21T00:00:00Z");
        assert_eq!(is_due(&export, &journal, next, true), day.tomorrow().ok());
    }
}
