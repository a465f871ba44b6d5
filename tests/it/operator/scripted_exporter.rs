//! Exporter without an engine: the space selects the script, and all activity is recorded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use eventexport::api::{EventExportSpec, Reason, Scope, SettingNames};
use eventexport::archive::layout::ArchiveRoot;
use eventexport::archive::window::Window;
use eventexport::controller::{ExportRunner, Exporter, OpenedArchive, Owner};
use eventexport::export::connect::Secrets;
use eventexport::export::engine::{ReleaseReport, RunControl};
use eventexport::export::failure::Failure;
use eventexport::export::shard::Shard;
use eventexport::export::snapshot::{SessionFacts, Snapshot};
use eventexport::export::spec::{ExportSpec, RecheckPolicy, RetryPolicy};
use futures::future::BoxFuture;
use jiff::SignedDuration;
use jiff::civil::date;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) const DAY: Window = Window::day(date(2018, 6, 28));

/// Time that the space `wedges` blocks its thread.
const BLOCKED_TIME: Duration = Duration::from_secs(20);

/// Activity by name of the export.
#[derive(Clone, Default)]
pub(crate) struct ScriptedExporter {
    activity: Arc<Mutex<BTreeMap<String, JobActivity>>>,
    runs: Arc<Mutex<BTreeMap<String, ScriptedRun>>>,
}

/// Scripted behavior of an export, independent of its space.
#[derive(Clone)]
pub(crate) enum ScriptedRun {
    /// Publishes this snapshot and runs while windows are active.
    Reports(Box<Snapshot>),
    /// Fails to start.
    FailsToPrepare(Failure),
    /// Waits for the permission to open sessions, then records what this returns.
    AsksForSessions(PermittedFn),
}

/// Called when sessions are permitted.
pub(crate) type PermittedFn = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

#[derive(Clone, Debug, Default)]
pub(crate) struct JobActivity {
    /// API key at the start of each run.
    pub(crate) started_with: Vec<String>,
    /// Number of current runs.
    pub(crate) running: usize,
    /// Number of runs that stopped on request.
    pub(crate) stopped: usize,
    /// Number of releases.
    pub(crate) released: usize,
    /// Results of [`ScriptedRun::AsksForSessions`].
    pub(crate) permitted: Vec<bool>,
}

struct ScriptedJob {
    exporter: ScriptedExporter,
    name: String,
    space: String,
    key: String,
    export: Arc<ExportSpec>,
}

impl ScriptedExporter {
    pub(crate) fn activity(&self, name: &str) -> JobActivity {
        self.lock().get(name).cloned().unwrap_or_default()
    }

    /// Sets the behavior of the export of that name.
    pub(crate) fn set_run(&self, name: &str, play: ScriptedRun) {
        self.runs.lock().unwrap().insert(name.to_owned(), play);
    }

    fn scripted_run(&self, name: &str) -> Option<ScriptedRun> {
        self.runs.lock().unwrap().get(name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, JobActivity>> {
        self.activity.lock().unwrap()
    }

    fn record(&self, name: &str, note: impl FnOnce(&mut JobActivity)) {
        note(self.lock().entry(name.to_owned()).or_default());
    }
}

#[async_trait]
impl Exporter for ScriptedExporter {
    async fn prepare(
        &self,
        spec: &EventExportSpec,
        secrets: &Secrets,
        owner: &Owner,
    ) -> Result<Arc<dyn ExportRunner>, Failure> {
        if spec.space == "wedges" {
            // Blocks, unlike a future: nothing else runs in this thread.
            std::thread::sleep(BLOCKED_TIME);
        }
        if let Some(ScriptedRun::FailsToPrepare(failure)) = self.scripted_run(&owner.name) {
            return Err(failure);
        }
        let name = &spec.source.credentials_secret_ref.name;
        let key = secrets.secret(name).and_then(|keys| keys.get("apiKey"));
        let Some(key) = key.map(|key| String::from_utf8_lossy(key).into_owned()) else {
            let message = format!("Secret {name} has no key apiKey");
            return Err(Failure::wait(Reason::CredentialsMissing, message, None).export_wide());
        };
        let export = ExportSpec {
            name: owner.name.clone(),
            space: spec.space.clone(),
            scope: Scope::Space,
            start: date(2018, 6, 1),
            end: spec.date_range.end.as_ref().map(|_| date(2018, 6, 30)),
            hour: None,
            source: "http://127.0.0.1:1".to_owned(),
            root: ArchiveRoot::new("", &spec.space, "space"),
            shard: Shard::SINGLE,
            parallelism: 1,
            settle_after: SignedDuration::ZERO,
            accepted_gaps: Vec::new(),
            abandoned_head: None,
            unsigned_receipts_before: None,
            recheck: RecheckPolicy::WhileListed,
            report: false,
            holder: format!("cluster/{}", owner.uid),
            holder_epoch: None,
            single_writer: true,
            retry_policy: RetryPolicy::Forever,
            setting_names: SettingNames::default(),
        };
        Ok(Arc::new(ScriptedJob {
            exporter: self.clone(),
            name: owner.name.clone(),
            space: spec.space.clone(),
            key,
            export: Arc::new(export),
        }))
    }

    fn export_spec(&self, _: &EventExportSpec, _: &Owner) -> Result<ExportSpec, Failure> {
        let message = "a scripted export takes over no newer spec";
        Err(Failure::wait(Reason::InvalidSpec, message, None))
    }

    async fn open_archive(
        &self,
        _: &EventExportSpec,
        _: &Secrets,
        _: &Owner,
    ) -> Result<OpenedArchive, Failure> {
        let message = "a scripted export has no archive";
        Err(Failure::wait(Reason::DestinationUnreachable, message, None).export_wide())
    }
}

#[async_trait]
impl ExportRunner for ScriptedJob {
    fn export(&self) -> &Arc<ExportSpec> {
        &self.export
    }

    fn with_export(&self, export: &Arc<ExportSpec>) -> Arc<dyn ExportRunner> {
        Arc::new(Self {
            exporter: self.exporter.clone(),
            name: self.name.clone(),
            space: self.space.clone(),
            key: self.key.clone(),
            export: export.clone(),
        })
    }

    async fn run(&self, out: &watch::Sender<Arc<Snapshot>>, control: RunControl) -> Arc<Snapshot> {
        let RunControl { stop, sessions, .. } = control;
        self.exporter.record(&self.name, |seen| {
            seen.started_with.push(self.key.clone());
            seen.running += 1;
        });
        let _running = RunningGuard(self);
        if let Some(ScriptedRun::AsksForSessions(permitted)) = self.exporter.scripted_run(&self.name) {
            tokio::select! {
                () = sessions.wait() => {}
                () = stop.cancelled() => return Arc::default(),
            }
            let permitted = permitted().await;
            self.exporter
                .record(&self.name, |seen| seen.permitted.push(permitted));
        }
        Arc::new(self.play(out, stop).await)
    }

    async fn release(&self) -> ReleaseReport {
        self.exporter.record(&self.name, |seen| seen.released += 1);
        match self.space.as_str() {
            "unreleasable" => ReleaseReport {
                leftover_sessions: vec![("session-7".to_owned(), "the service does not answer".to_owned())],
                unknown: None,
                permanent: false,
            },
            "hopeless" => ReleaseReport {
                unknown: Some("the bucket audit does not exist".to_owned()),
                permanent: true,
                ..ReleaseReport::default()
            },
            _ => ReleaseReport::default(),
        }
    }
}

/// Also runs if the run is aborted or panics.
struct RunningGuard<'a>(&'a ScriptedJob);

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        self.0.exporter.record(&self.0.name, |seen| seen.running -= 1);
    }
}

impl ScriptedJob {
    async fn play(&self, out: &watch::Sender<Arc<Snapshot>>, stop: CancellationToken) -> Snapshot {
        if let Some(ScriptedRun::Reports(snapshot)) = self.exporter.scripted_run(&self.name) {
            out.send_replace(Arc::new((*snapshot).clone()));
            if snapshot.active > 0 {
                stop.cancelled().await;
            }
            return *snapshot;
        }
        let seen = Snapshot {
            observed: true,
            wanted: 30,
            stored: 29,
            missing: [DAY].into_iter().collect(),
            ..Snapshot::default()
        };
        match self.space.as_str() {
            "complete" => Snapshot {
                stored: 30,
                missing: [].into_iter().collect(),
                complete: true,
                ..seen
            },
            "panics" => panic!("as the script says"),
            // All others work with an open session until they are stopped.
            kept => {
                let session = SessionFacts {
                    id: "session-7".to_owned(),
                    window: DAY,
                };
                let busy = Snapshot {
                    active: 1,
                    sessions: vec![session],
                    ..seen.clone()
                };
                out.send_replace(Arc::new(busy.clone()));
                stop.cancelled().await;
                if kept == "deaf" {
                    std::future::pending::<()>().await;
                }
                self.exporter.record(&self.name, |seen| seen.stopped += 1);
                let left = matches!(kept, "unreleasable" | "hopeless" | "leaves");
                if left {
                    Snapshot { active: 0, ..busy }
                } else {
                    seen
                }
            }
        }
    }
}
