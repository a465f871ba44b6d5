//! Report on the archive for readers (`spec.report`): what it is written about (pure), and its writing (I/O with the store).
//! Nothing waits for a report: it proves nothing, and an archive is complete without it.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::failure::{Failure, RetryClass, stopped};
use super::journal_io::record_options;
use super::run_context::RunContext;
use super::shard::Shard;
use super::signature_io::{full_key, store_failure};
use super::spec::ExportSpec;
use crate::api::{Reason, Remedy, Setting};
use crate::archive::layout::Key;
use crate::archive::listing::Journal;
use crate::archive::manifest::signature::PublicKey;
use crate::archive::receipt::Sha256Digest;
use crate::archive::records::SOFTWARE;
use crate::archive::report::{Given, Report, html};
use crate::archive::verify::archive::{VerifyOptions, VerifyProgress, verify};
use crate::archive::verify::attestation::Unsigned;
use crate::storage::{ObjectClass, ObjectInfo, PutMode, PutOptions, Segments, StoreError};

/// Maximum time to write a report, without the wait for a place: 10 min.
const REPORT_TIMEOUT: Duration = Duration::from_mins(10);

/// User metadata with the digest of what the report is about: the same archive is not read again after a restart.
const ABOUT_METADATA: &str = "eventexport-about";

/// User metadata with the SHA-256 of the page: the same page is not sent again.
const PAGE_METADATA: &str = "eventexport-sha256";

/// Returns the digest of what a report on the archive shows: the range that is due, the accepted gaps, and every object,
/// receipt, revision and manifest. A day that has not settled does not count, and neither does a checkpoint.
pub fn digest(export: &ExportSpec, journal: &Journal, now: Timestamp) -> Sha256Digest {
    let mut digest = DigestWriter(Sha256::new());
    // Writing to a digest does not fail.
    let _ = write_state(&mut digest, &whole(export), journal, now);
    Sha256Digest(digest.0.finalize().into())
}

fn write_state(
    digest: &mut DigestWriter,
    export: &ExportSpec,
    journal: &Journal,
    now: Timestamp,
) -> fmt::Result {
    let ExportSpec {
        name,
        source,
        start,
        end,
        hour,
        accepted_gaps,
        unsigned_receipts_before,
        ..
    } = export;
    let due = export.windows(now).filter(|window| export.due_at(*window) <= now);
    writeln!(
        digest,
        "{SOFTWARE} {name} {source} {start} {end:?} {hour:?} {}",
        due.count()
    )?;
    writeln!(digest, "{accepted_gaps:?} {unsigned_receipts_before:?}")?;
    writeln!(digest, "{:?} {:?}", journal.objects, journal.revisions)?;
    for (window, facts) in &journal.receipts {
        write!(digest, "{window}")?;
        if let Some(facts) = facts {
            write!(digest, " {}", facts.proof.sha256)?;
            for later in &facts.revisions {
                write!(digest, " {}", later.proof.sha256)?;
            }
        }
        writeln!(digest)?;
    }
    let late = journal.late.keys();
    let expired = journal.expired.keys();
    let unreadable = journal.unreadable.keys();
    writeln!(
        digest,
        "{:?} {:?} {:?}",
        late.collect::<Vec<_>>(),
        expired.collect::<Vec<_>>(),
        unreadable.collect::<Vec<_>>()
    )?;
    writeln!(
        digest,
        "{:?} {:?}",
        journal.chain.manifests, journal.chain.signatures
    )
}

struct DigestWriter(Sha256);

impl fmt::Write for DigestWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

/// Returns the export of all shards.
fn whole(export: &ExportSpec) -> ExportSpec {
    ExportSpec {
        shard: Shard::SINGLE,
        ..export.clone()
    }
}

/// Writes the report, unless the store has it already. Returns true if it was sent. `archive`: [`digest`] of the archive.
pub(super) async fn write_report(ctx: &RunContext, archive: Sha256Digest) -> Result<bool, Failure> {
    let _place = tokio::select! {
        place = ctx.shared.reports.acquire(&ctx.tenant, 0) => place,
        () = ctx.stop.cancelled() => return Err(stopped()),
    };
    let key = full_key(&ctx.export.root, &Key::Report);
    let written = tokio::select! {
        written = tokio::time::timeout(REPORT_TIMEOUT, replace_report(ctx, &key, archive)) => written,
        () = ctx.stop.cancelled() => return Err(stopped()),
    };
    let written = written.unwrap_or_else(|_| {
        let message = format!(
            "the store did not answer within {} minutes",
            REPORT_TIMEOUT.as_secs() / 60
        );
        Err(Failure::retry(Reason::DestinationUnreachable, message))
    });
    written.map_err(|failure| not_written(&key, &failure))
}

/// Returns the failure to write a report. A try reads every receipt, so the next one is as late as after a failure that
/// needs manual action.
fn not_written(key: &str, failure: &Failure) -> Failure {
    let message = format!("cannot write the report {key}: {}", failure.message);
    let remedy = Remedy::new(
        Setting::Report,
        "correct the cause, or set {} to false; nothing else waits for the report",
    );
    Failure {
        class: RetryClass::Manual,
        ..Failure::retry(Reason::ReportNotWritten, message).with_remedy(remedy)
    }
}

async fn replace_report(ctx: &RunContext, key: &str, archive: Sha256Digest) -> Result<bool, Failure> {
    let (store, export) = (&*ctx.peers.store, whole(&ctx.export));
    let keys: Vec<PublicKey> = ctx
        .peers
        .signing
        .available()
        .map(|keys| keys.trusted().to_vec())
        .unwrap_or_default();
    let key_ids: Vec<String> = keys.iter().map(PublicKey::id).collect();
    let location = format!(
        "{}/{}",
        store.location(),
        export.root.as_str().trim_end_matches('/')
    );
    let about = format!("{archive} {location} {key_ids:?}");
    let about = Sha256Digest::of(about.as_bytes()).to_string();
    let stored = match store.head(key).await {
        // A page without metadata, which another program put there.
        Err(StoreError::Rejected { status: 200, .. }) => None,
        stored => stored.map_err(|error| store_failure(key, "read", &error))?,
    };
    let has =
        |name: &str, value: &str| stored.as_ref().and_then(|stored| metadata(stored, name)) == Some(value);
    if has(ABOUT_METADATA, &about) {
        return Ok(false);
    }
    let options = VerifyOptions {
        expectation: Some(export.expectation((ctx.shared.now)())),
        hour: export.hour,
        quick: true,
        keys,
        unsigned: if export.unsigned_receipts_before.is_some() {
            Unsigned::Allowed
        } else {
            Unsigned::Refused
        },
        memory: Some(Arc::new(ctx.journal_share())),
        ..VerifyOptions::new(Arc::clone(&ctx.peers.store), export.root.as_str())
    };
    let verified = verify(&options, &Arc::new(VerifyProgress::default())).await;
    let verified = verified.map_err(|error| Failure::from(&error))?;
    let given = Given {
        location,
        export: Some(export.name),
        gaps: Some(export.accepted_gaps),
        key_ids,
        heads: Vec::new(),
    };
    let page = Bytes::from(html::render(&[Report::new(given, verified)]));
    let sha256 = Sha256Digest::of(&page).to_string();
    if has(PAGE_METADATA, &sha256) {
        return Ok(false);
    }
    let body = Segments::from(page);
    let options = PutOptions {
        content_type: "text/html; charset=utf-8",
        metadata: vec![
            (ABOUT_METADATA.to_owned(), about),
            (PAGE_METADATA.to_owned(), sha256),
        ],
        // No evidence: never locked, and in the default storage class.
        ..record_options(PutMode::Overwrite, &body, ObjectClass::Journal)
    };
    let put = store.put(key, body, &options).await;
    put.map_err(|error| store_failure(key, "write", &error))?;
    tracing::info!(key, "wrote report");
    Ok(true)
}

fn metadata<'a>(stored: &'a ObjectInfo, name: &str) -> Option<&'a str> {
    let mut metadata = stored.metadata.iter();
    let (_, value) = metadata.find(|(stored, _)| stored == name)?;
    Some(value)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::archive::layout::ArchiveRoot;
    use crate::archive::window::Window;
    use crate::export::manifest::tests::export;
    use crate::storage::ObjectSummary;

    fn journal() -> Journal {
        let root = ArchiveRoot::new("p", "s", "space");
        let days = (1..=30).map(|day| Window::day(jiff::civil::date(2018, 6, day)));
        let keys = days.flat_map(|day| [Key::Events(day), Key::Receipt(day)]);
        let rows = keys.map(|key| ObjectSummary {
            key: root.key(&key).unwrap(),
            size: 7,
            etag: None,
            last_modified: None,
        });
        Journal::from_listing(&root, &rows.collect::<Vec<_>>())
    }

    #[test]
    fn a_report_changes_with_what_it_shows_and_not_with_the_date() {
        let now: Timestamp = "2018-07-10T12:00:00Z".parse().unwrap();
        let export = export(30);
        let journal = journal();
        let same = digest(&export, &journal, now);
        let later = now + SignedDuration::from_hours(24 * 365);
        assert_eq!(digest(&export, &journal, later), same, "a range that has ended");
        let continuous = ExportSpec {
            end: None,
            ..export.clone()
        };
        let at = |hours| digest(&continuous, &journal, now + SignedDuration::from_hours(hours));
        // Midnight, and then the time at which the day has settled.
        assert_eq!(at(0), at(13));
        assert_ne!(at(0), at(24));
        let mut seen = std::collections::BTreeSet::from([same]);
        let mut expect_new = |what: &str, export: &ExportSpec, journal: &Journal| {
            assert!(seen.insert(digest(export, journal, now)), "{what}");
        };
        let window = Window::day(jiff::civil::date(2018, 6, 3));
        let mut changed = journal.clone();
        changed.objects.remove(&window);
        expect_new("an object", &export, &changed);
        changed.receipts.remove(&window);
        expect_new("a receipt", &export, &changed);
        let mut changed = journal.clone();
        changed.chain.manifests.insert(1);
        expect_new("a manifest", &export, &changed);
        let mut changed = journal.clone();
        changed.revisions.entry((window, 1)).or_default().has_receipt = true;
        expect_new("a revision", &export, &changed);
        let gap = crate::archive::manifest::document::GapEntry {
            start: window.date(),
            end: window.date(),
            reason: "lost".to_owned(),
        };
        let accepted = ExportSpec {
            accepted_gaps: vec![gap],
            ..export.clone()
        };
        expect_new("a gap", &accepted, &journal);
    }
}
