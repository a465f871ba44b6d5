//! Fixture of download tests: a simulator, a folder, and the program.

use std::fs;
use std::ops::Deref;
use std::time::Duration;

use eventexport::simulator::{DEFAULT_API_KEY, Settings, Simulator};
use eventexport::tracker::{SessionRequest, TokenCache, Tracker};
use jiff::civil::{Date, date};
use tokio::process::Command;

use crate::testkit::engine::tracker_config;
use crate::testkit::service::service_on;

pub(super) use crate::testkit::command::{
    COMMAND_TIMEOUT as TIMEOUT, CommandOutput, Home, SimulatorProcess, run_command, signal, wait_output,
};
pub(super) use crate::testkit::manifest::SPACE;

/// Simulator, and the folder of the files.
pub(super) struct DownloadFixture {
    pub(super) simulator: Simulator,
    pub(super) home: Home,
}

impl Deref for DownloadFixture {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.home
    }
}

/// Returns a folder whose commands download from that service.
pub(super) fn home(endpoint: &str) -> Home {
    Home::new()
        .env("EVENTEXPORT_ENDPOINT", endpoint.trim_end_matches('/'))
        .env("EVENTEXPORT_SPACE", SPACE)
        .env("EVENTEXPORT_API_KEY", DEFAULT_API_KEY)
}

/// June 2018, seen from July 2; every day has events.
pub(super) fn settings() -> Settings {
    let mut settings = service_on(date(2018, 7, 2));
    settings.volume.quiet.clear();
    settings
}

impl DownloadFixture {
    pub(super) async fn new(settings: Settings) -> Self {
        let simulator = Simulator::start(settings).await.unwrap();
        Self {
            home: home(simulator.url().as_str()),
            simulator,
        }
    }

    /// Replaces the faults of the simulator.
    pub(super) fn set_faults(&self, presets: &[&str]) {
        self.simulator.set_faults(Vec::new());
        for preset in presets {
            self.simulator.add_preset(preset).unwrap();
        }
    }

    /// Returns `eventexport download` with these arguments.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        self.home.command(&[&["download"], arguments].concat())
    }

    /// Runs `eventexport download` to completion.
    pub(super) async fn download(&self, arguments: &[&str]) -> CommandOutput {
        run_command(self.command(arguments)).await
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
