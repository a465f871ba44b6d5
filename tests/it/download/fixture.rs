//! Fixture of download tests: a simulator, a folder, and the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use eventexport::simulator::{DEFAULT_API_KEY, Settings, Simulator};
use eventexport::tracker::{SessionRequest, TokenCache, Tracker};
use jiff::civil::{Date, date};
use tokio::process::Command;

use crate::testkit::engine::tracker_config;

pub(super) use crate::testkit::command::{
    COMMAND_TIMEOUT as TIMEOUT, CommandOutput, SimulatorProcess, isolate, signal, wait_output,
};
pub(super) use crate::testkit::manifest::SPACE;

/// Simulator and target folder.
pub(super) struct DownloadFixture {
    pub(super) simulator: Simulator,
    pub(super) folder: tempfile::TempDir,
    /// Endpoint for the program, if it is not the simulator itself.
    pub(super) endpoint: Option<String>,
}

/// June 2018, seen from July 2; every day has events.
pub(super) fn settings() -> Settings {
    let mut settings = Settings {
        today: Some(date(2018, 7, 2)),
        ..Settings::default()
    };
    settings.volume.quiet.clear();
    settings
}

impl DownloadFixture {
    pub(super) async fn new(settings: Settings) -> Self {
        Self {
            simulator: Simulator::start(settings).await.unwrap(),
            folder: tempfile::tempdir().unwrap(),
            endpoint: None,
        }
    }

    /// Replaces the faults of the simulator.
    pub(super) fn set_faults(&self, presets: &[&str]) {
        self.simulator.set_faults(Vec::new());
        for preset in presets {
            self.simulator.add_preset(preset).unwrap();
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the names of all files, sorted.
    pub(super) fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Returns a command with the environment that points to the simulator.
    pub(super) fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let endpoint = self
            .endpoint
            .clone()
            .unwrap_or_else(|| self.simulator.url().as_str().trim_end_matches('/').to_owned());
        configure_command(&mut command, &endpoint, self.folder.path());
        command
    }

    /// Returns `eventexport download` with these arguments.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(PROGRAM);
        command.arg("download").args(arguments);
        command
    }

    /// Runs `eventexport download` to completion.
    pub(super) async fn download(&self, arguments: &[&str]) -> CommandOutput {
        wait_output(self.command(arguments).spawn().unwrap()).await
    }

    /// Runs a shell line; `$E` is the program.
    pub(super) async fn shell(&self, line: &str) -> CommandOutput {
        let mut command = self.program("bash");
        command.args(["-c", line]).env("E", PROGRAM);
        wait_output(command.spawn().unwrap()).await
    }

    pub(super) fn tracker(&self) -> Tracker {
        Tracker::new(tracker_config(self.simulator.url()), &TokenCache::new()).unwrap()
    }

    /// Opens a session of a day manually.
    pub(super) async fn session(&self, day: Date) -> String {
        let ask = SessionRequest {
            start: day,
            end: day,
            hour: None,
            account: false,
        };
        self.tracker().create_session(SPACE, &ask).await.unwrap().id
    }

    /// Returns the bytes that are served for a day.
    pub(super) fn served(&self, day: Date) -> Vec<u8> {
        crate::testkit::environment::served(&self.simulator, day)
    }

    /// Waits until a file has at least this many bytes.
    pub(super) async fn until(&self, name: &str, bytes: u64) {
        let path = self.path(name);
        wait_for(|| fs::metadata(&path).is_ok_and(|there| there.len() >= bytes)).await;
    }
}

/// Program under test.
pub(super) const PROGRAM: &str = env!("CARGO_BIN_EXE_eventexport");

/// Isolates a command in this folder and points it to this service.
pub(super) fn configure_command(command: &mut Command, endpoint: &str, folder: &Path) {
    isolate(command, folder);
    command
        .env("EVENTEXPORT_ENDPOINT", endpoint)
        .env("EVENTEXPORT_SPACE", SPACE)
        .env("EVENTEXPORT_API_KEY", DEFAULT_API_KEY);
}

/// Waits until the condition holds.
pub(super) async fn wait_for(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, waiting)
        .await
        .expect("it comes to pass in time");
}

/// Decompresses gzip.
pub(super) fn gunzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Read as _;
    let mut text = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes)
        .read_to_end(&mut text)
        .unwrap();
    text
}
