//! Scheduled verification: reads the archives of exports with `spec.verification` again, slice by slice. Sends requests
//! to the API server and to stores, none to the service.
//!
//! One loop per process verifies one slice at a time, and exports take turns, so that memory is bounded: three pieces of
//! 4 MiB of one object, and the listing, receipts and manifests of one slice. Progress is in the status of the resource: a
//! restart repeats the slice that was interrupted. [`slice`], [`pass`] and [`pick`] are pure.

mod pass;
mod pick;
mod slice;
pub(super) mod update;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use kube::{Resource as _, ResourceExt as _};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

pub(super) use pick::due_at;

use self::update::{VerificationUpdate, VerifiedCondition};
use super::context::{ReconcileContext, owner};
use super::export_name::ExportName;
use super::exporter::OpenedArchive;
use super::installations::Ownership;
use super::kube_error::describe_error;
use super::secrets;
use crate::api::{CheckedVerification, ConditionType, EventExport, Setting, SettingNames, find_condition};
use crate::archive::verify::archive::{VerifyOptions, VerifyProgress, verify};
use crate::archive::verify::attestation::Unsigned;
use crate::storage::ObjectSummary;
use pass::PassRange;
use pick::{Candidate, Turns};
use slice::{Slice, SliceResult};

/// Interval at which due verifications are looked for.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Interval at which a slice checks that its export may still be read.
const CHANGE_INTERVAL: Duration = Duration::from_secs(1);

/// Time for which a slice should read, at the bound of its bytes per second. Then other exports get their turn.
const SLICE_SECONDS: u64 = 300;

/// Maximum time of a slice. A day that takes longer is not verified: the store is slower than that, or the bound of
/// bytes per second is too low for the day.
const SLICE_TIMEOUT: Duration = Duration::from_hours(1);

/// Tries to read a slice of which only some objects cannot be read. Then the verification goes on without them.
const MAX_UNREAD_TRIES: u32 = 4;

/// Verifies due exports until it is aborted.
pub(super) async fn run(context: Arc<ReconcileContext>) {
    let mut verifier = Verifier {
        context,
        turns: Turns::default(),
    };
    loop {
        if !verifier.take_turn().await {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

struct Verifier {
    context: Arc<ReconcileContext>,
    turns: Turns,
}

/// Result of a turn.
enum TurnResult {
    /// The slice was read.
    Read(Slice, SliceResult),
    /// No day is left to read.
    NothingLeft,
    /// The slice could not be read.
    Failed(String),
    /// The export was changed, suspended or deleted meanwhile.
    Interrupted,
}

impl Verifier {
    /// Verifies a slice of the export whose turn it is. Returns false if none is due.
    async fn take_turn(&mut self) -> bool {
        let mut objects = self.verified_exports();
        let candidates: Vec<Candidate> = objects.iter().map(|(candidate, _)| candidate.clone()).collect();
        self.turns.retain(&candidates);
        let Some(next) = self.turns.pick(&candidates, (self.context.now)()) else {
            return false;
        };
        self.turns.take(next);
        let Some((_, object)) = objects.drain(..).find(|(candidate, _)| candidate.uid == next.uid) else {
            return false;
        };
        self.verify_slice(&object, &next.uid).await;
        true
    }

    /// Returns the exports that are verified, due or not.
    fn verified_exports(&self) -> Vec<(Candidate, Arc<EventExport>)> {
        let all = self.context.exports.all().into_iter();
        all.filter(|object| self.may_read(object))
            .filter_map(|object| {
                let uid = object.uid()?;
                let state = self.state(&object, &uid)?;
                let status = object.status.as_ref()?;
                let candidate = Candidate {
                    namespace: object.namespace().unwrap_or_default(),
                    due: due_at(&object, status, Some(&state.status))?,
                    running: state.status.is_running(),
                    uid,
                };
                Some((candidate, object))
            })
            .collect()
    }

    fn may_read(&self, object: &EventExport) -> bool {
        let other = |ownership: Ownership<'_>| matches!(ownership, Ownership::Other(_));
        object.spec.verification.is_some()
            && !object.spec.suspend
            && object.meta().deletion_timestamp.is_none()
            && !self.context.installations.with_ownership(object, other)
    }

    /// Returns the newest state, which the resource may not show yet; `None` if the resource was not reconciled yet.
    fn state(&self, object: &EventExport, uid: &str) -> Option<VerificationUpdate> {
        let pending = self.context.registry.with(uid, |entry| {
            let served = !entry.served_by_other();
            served.then(|| entry.verification.as_deref().cloned())
        });
        let written = || {
            let status = object.status.as_ref()?;
            let condition = find_condition(&status.conditions, ConditionType::Verified);
            Some(VerificationUpdate {
                status: status.verification.clone().unwrap_or_default(),
                condition: condition.and_then(VerifiedCondition::from_condition),
            })
        };
        pending.flatten()?.or_else(written)
    }

    async fn verify_slice(&mut self, object: &Arc<EventExport>, uid: &str) {
        let export = ExportName::of(object).to_string();
        let spec = object.spec.checked().ok();
        let wanted = spec.as_ref().and_then(|spec| spec.verification);
        let (Some(mut state), Some(spec), Some(wanted)) = (self.state(object, uid), spec, wanted) else {
            // The export reports an invalid spec.
            self.turns.failed(uid, (self.context.now)());
            return;
        };
        if !state.status.is_running() {
            info!(export, "verification of the archive started");
            let begun = pass::begin(&state.status, (self.context.now)());
            state.status = begun.status;
            self.publish(object, uid, state.clone()).await;
        }
        let today = (self.context.now)().to_zoned(TimeZone::UTC).date();
        let missing = object.status.as_ref().map(|status| &*status.missing);
        let range = PassRange {
            start: spec.range.start,
            end: spec.range.end.unwrap_or(today).min(today),
            missing: missing.unwrap_or_default(),
        };
        let result = match Slice::next(&state.status, range.start, range.end) {
            None => TurnResult::NothingLeft,
            Some(slice) => self.read(object, slice, wanted).await,
        };
        let now = (self.context.now)();
        let next = match result {
            TurnResult::Interrupted => return,
            TurnResult::Failed(error) => self.fail(&export, uid, &state, now, &error),
            TurnResult::Read(_, read) if read.unread > 0 && read.findings == 0 && self.retries(uid) => {
                let error = read.first_unread.unwrap_or_default();
                self.fail(&export, uid, &state, now, &error)
            }
            TurnResult::Read(slice, read) => {
                self.turns.succeeded(uid);
                if let Some(first) = &read.first_finding {
                    warn!(export, findings = read.findings, first, "the archive is damaged");
                }
                pass::record(&state, slice, read, range, now)
            }
            TurnResult::NothingLeft => pass::finish(state, range, now),
        };
        if !next.status.is_running() {
            let (windows, findings) = (next.status.windows, next.status.findings);
            info!(
                export,
                windows,
                findings,
                unread = next.status.unread,
                "verification of the archive ended"
            );
            if next.status.started_at.is_none() {
                // It could not read everything, and is still due.
                self.turns
                    .postpone(uid, now.checked_add(wanted.every).unwrap_or(Timestamp::MAX));
            }
        }
        self.publish(object, uid, next).await;
    }

    /// Returns true if a slice with objects that cannot be read is read again.
    fn retries(&self, uid: &str) -> bool {
        self.turns.failures(uid) + 1 < MAX_UNREAD_TRIES
    }

    fn fail(
        &mut self,
        export: &str,
        uid: &str,
        state: &VerificationUpdate,
        now: Timestamp,
        error: &str,
    ) -> VerificationUpdate {
        warn!(export, error, "cannot verify the archive, will retry");
        let failures = self.turns.failed(uid, now);
        pass::fail(state, failures, error)
    }

    /// Keeps a state until the resource shows it, and triggers the reconcile that writes it.
    async fn publish(&self, object: &EventExport, uid: &str, state: VerificationUpdate) {
        let set = |entry: &mut super::entry::ExportEntry| {
            entry.verification = Some(Box::new(state));
            entry.verification_written = false;
        };
        if self.context.registry.with(uid, set).is_some() {
            // Fails only if the controller is gone.
            let _ = self.context.registry.wake_ups.send(ExportName::of(object)).await;
        }
    }

    async fn read(&self, object: &Arc<EventExport>, slice: Slice, wanted: CheckedVerification) -> TurnResult {
        let (context, subject) = (self.context.clone(), object.clone());
        // In a task of its own, so that a panic ends only this slice.
        let task = tokio::spawn(async move { read_slice(&context, &subject, slice, wanted).await });
        let task = tokio::time::timeout(SLICE_TIMEOUT, AbortOnDropHandle::new(task));
        let ended = tokio::select! {
            ended = task => ended,
            () = self.change(object) => return TurnResult::Interrupted,
        };
        match ended {
            Ok(Ok(Ok((slice, result)))) => TurnResult::Read(slice, result),
            Ok(Ok(Err(error))) => TurnResult::Failed(error),
            Ok(Err(_)) => {
                self.context.metrics.run_panics.inc();
                TurnResult::Failed(
                    "the verification crashed (a defect of the operator, see its log)".to_owned(),
                )
            }
            Err(_) => TurnResult::Failed(format!(
                "the days from {} took longer than {} minutes: raise spec.verification.bytesPerSecond, or check \
                 the store",
                slice.since,
                SLICE_TIMEOUT.as_secs() / 60
            )),
        }
    }

    /// Waits until the export may not be read any more, or has another spec.
    async fn change(&self, object: &EventExport) {
        let name = ExportName::of(object);
        loop {
            tokio::time::sleep(CHANGE_INTERVAL).await;
            let same = self.context.exports.get(&name).is_some_and(|now| {
                let (now_meta, meta) = (now.meta(), object.meta());
                now_meta.uid == meta.uid && now_meta.generation == meta.generation && self.may_read(&now)
            });
            if !same {
                return;
            }
        }
    }
}

/// Reads a slice, or fewer days of it if they have too many bytes. Fails with a message if the archive cannot be read.
async fn read_slice(
    context: &ReconcileContext,
    object: &EventExport,
    slice: Slice,
    wanted: CheckedVerification,
) -> Result<(Slice, SliceResult), String> {
    let OpenedArchive { export, store, keys } = open(context, object).await?;
    let unreadable = |error: crate::storage::StoreError| error.describe(&SettingNames::default());
    let mut sizes = BTreeMap::<Date, u64>::new();
    for prefix in export.root.prefixes_of_days(slice.since, slice.until) {
        let mut add_page = |page: Vec<ObjectSummary>| {
            for row in page {
                if let Some(day) = export.root.day_of(&row.key) {
                    let size = sizes.entry(day).or_default();
                    *size = size.saturating_add(row.size);
                }
            }
        };
        let listed = store.list_pages(&prefix, &mut add_page);
        listed.await.map_err(unreadable)?;
    }
    let slice = slice.limited(
        &sizes,
        wanted.bytes_per_second.get().saturating_mul(SLICE_SECONDS),
    );
    let options = VerifyOptions {
        expectation: Some(export.expectation((context.now)())),
        hour: export.hour,
        keys,
        // The export demands signatures as its spec says; here only existing ones must be valid.
        unsigned: Unsigned::Allowed,
        since: Some(slice.since),
        until: Some(slice.until),
        partial: true,
        bytes_per_second: Some(wanted.bytes_per_second),
        ..VerifyOptions::new(store, export.root.as_str())
    };
    let progress = Arc::new(VerifyProgress::default());
    let report = verify(&options, &progress).await.map_err(unreadable)?;
    Ok((slice, SliceResult::new(slice, &report)))
}

/// Opens the archive with the credentials of the bucket and the signing key.
async fn open(context: &ReconcileContext, object: &EventExport) -> Result<OpenedArchive, String> {
    let owner = owner(context, object);
    let mut references = secrets::references(&object.spec);
    references.retain(|reference| {
        let setting = reference.setting;
        matches!(
            setting,
            Setting::BucketCredentials | Setting::BucketCa | Setting::BucketCaConfigMap | Setting::SigningKey
        )
    });
    let fetched = secrets::fetch(&context.client, &owner.namespace, &references).await;
    let fetched = fetched.map_err(|error| describe_error(&error))?;
    let described = |failure: crate::export::failure::Failure| failure.describe(&SettingNames::default());
    if let Some(missing) = fetched.missing {
        return Err(described(missing));
    }
    let opened = context
        .exporter
        .open_archive(&object.spec, &fetched.secrets, &owner);
    opened.await.map_err(described)
}
