//! One export from the simulator into a directory: the shortest complete engine test.

#![allow(clippy::expect_used)] // a test that cannot be set up says why and ends

use std::sync::Arc;
use std::time::Duration;

use eventexport::archive::manifest::HeadRecord;
use eventexport::archive::manifest::document::GapEntry;
use eventexport::export::engine::{Clock, Engine, Limits, Peers, RunControl};
use eventexport::export::failure::Failure;
use eventexport::export::manifest::sign::Signing;
use eventexport::export::snapshot::Snapshot;
use eventexport::export::spec::ExportSpec;
use eventexport::simulator::{Settings, Simulator};
use eventexport::storage::{DirectoryStore, Store};
use eventexport::tracker::{RetryConfig, Timeouts, TimestampAuthority, TokenCache, Tracker, TrackerConfig};
use jiff::Timestamp;
use jiff::civil::{Date, date};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::testkit::engine::{export_spec, tracker_config};
use crate::testkit::environment::served;
use crate::testkit::folder;
use crate::testkit::service::service_on;

pub(crate) use crate::testkit::manifest::SPACE;

/// Simulator, directory, and the engine.
pub(crate) struct EngineFixture {
    pub(crate) simulator: Simulator,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) limits: Limits,
    pub(crate) export: ExportSpec,
    pub(crate) timeouts: Timeouts,
    pub(crate) retry: RetryConfig,
    pub(crate) clock: Clock,
    pub(crate) signing: Signing,
    pub(crate) timestamps: Option<Result<TimestampAuthority, Failure>>,
    /// Newest manifest that the runs remember.
    pub(crate) head: Option<HeadRecord>,
}

/// June 2018, seen from the day after its first week; every day has events.
pub(crate) fn settings() -> Settings {
    let mut settings = service_on(date(2018, 6, 9));
    settings.volume.quiet.clear();
    settings
}

impl EngineFixture {
    /// Starts with these days wanted, both inclusive.
    pub(crate) async fn start(settings: Settings, start: Date, end: Date) -> Self {
        let simulator = Simulator::start(settings).await.expect("the simulator starts");
        let mut export = export_spec(start, Some(end));
        "tests/bench".clone_into(&mut export.name);
        let limits = Limits {
            session_quiet: Duration::from_secs(1),
            second_look: Duration::from_millis(300),
            ..Limits::default()
        };
        Self {
            simulator,
            folder: tempfile::tempdir().expect("a temporary folder"),
            limits,
            export,
            timeouts: Timeouts {
                connect: Duration::from_secs(5),
                request: Duration::from_secs(3),
                idle_read: Duration::from_secs(2),
            },
            retry: RetryConfig {
                attempts: 3,
                total: Duration::from_secs(5),
                base: Duration::from_millis(20),
                cap: Duration::from_millis(200),
                retry_after_cap: Duration::from_secs(1),
                ..RetryConfig::default()
            },
            clock: Arc::new(Timestamp::now),
            signing: Signing::Disabled,
            timestamps: None,
            head: None,
        }
    }

    /// Opens the directory as a store.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::new(DirectoryStore::open(self.folder.path()).expect("the directory opens"))
    }

    /// Returns the peers of the export.
    pub(crate) fn peers(&self, store: Arc<dyn Store>) -> Peers {
        let config = TrackerConfig {
            timeouts: self.timeouts,
            retry: self.retry,
            ..tracker_config(self.simulator.url())
        };
        let tracker = Tracker::new(config, &TokenCache::new()).expect("the tracker client");
        Peers {
            tracker,
            store,
            signing: self.signing.clone(),
            timestamps: self.timestamps.clone(),
        }
    }

    /// Creates an engine of a separate process.
    pub(crate) fn engine(&self) -> Engine {
        Engine::new(self.limits, Arc::clone(&self.clock))
    }

    /// Runs to completion.
    pub(crate) async fn run(&self) -> Arc<Snapshot> {
        self.run_with(self.peers(self.store()), CancellationToken::new())
            .await
    }

    /// Runs with other peers, or until stopped.
    pub(crate) async fn run_with(&self, peers: Peers, stop: CancellationToken) -> Arc<Snapshot> {
        let engine = self.engine();
        let (out, seen) = watch::channel(Arc::default());
        let control = RunControl {
            head: self.head.clone(),
            ..RunControl::from(stop)
        };
        let run = engine.run(Arc::new(self.export.clone()), peers, &out, control);
        let Ok(snapshot) = tokio::time::timeout(Duration::from_secs(90), run).await else {
            panic!("the run does not end: {:#?}", seen.borrow());
        };
        snapshot
    }

    /// Folder of the space and scope.
    pub(crate) fn root(&self) -> std::path::PathBuf {
        self.folder.path().join(self.export.root.as_str())
    }

    /// Returns all files below the root as sorted keys.
    pub(crate) fn files(&self) -> Vec<String> {
        let files = folder::files(&self.root()).into_iter();
        files.map(|file| file.display().to_string()).collect()
    }

    /// Returns the bytes that the simulator serves for a day.
    pub(crate) fn served(&self, day: Date) -> Vec<u8> {
        served(&self.simulator, day)
    }

    /// Returns the bytes that the simulator serves for an hour.
    pub(crate) fn served_hour(&self, day: Date, hour: u8) -> Vec<u8> {
        let body = self.simulator.body_of(SPACE, false, day, Some(hour));
        body.flat_map(|piece| piece.to_vec()).collect()
    }
}

/// Returns an accepted gap.
pub(crate) fn gap(start: Date, end: Date) -> GapEntry {
    GapEntry::new(start, end, "known to be lost")
}
