//! Fixture of download tests: a simulator, a folder, and the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use eventexport::egress::{HostPolicy, Traffic};
use eventexport::simulator::{DEFAULT_API_KEY, Settings, Simulator};
use eventexport::tracker::{
    Credentials, RetryConfig, SessionRequest, Timeouts, TokenCache, Tracker, TrackerConfig, UaaSource,
};
use jiff::civil::{Date, date};
use serde_json::Value;
use tokio::process::{Child, Command};

/// Space of the downloads.
pub(super) const SPACE: &str = "c1234567-6d55-4193-a9de-378620d6fab5";

/// Generous, because the machine may be busy.
pub(super) const TIMEOUT: Duration = Duration::from_mins(10);

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

/// Output and exit status of a command.
#[derive(Debug)]
pub(super) struct CommandOutput {
    pub(super) status: ExitStatus,
    pub(super) out: Vec<u8>,
    pub(super) err: String,
}

impl CommandOutput {
    /// Returns standard output as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Parses the document on standard output.
    pub(super) fn document(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Panics unless the command ended with this exit code.
    #[track_caller]
    pub(super) fn expect_exit(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}{}", self.text(), self.err);
        self
    }
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
        let config = TrackerConfig {
            endpoint: self.simulator.url().clone(),
            uaa: UaaSource::Discover {
                api: self.simulator.url().clone(),
            },
            credentials: Credentials::ApiKey(DEFAULT_API_KEY.to_owned().into()),
            ca_pem: None,
            hosts: HostPolicy::any(),
            timeouts: Timeouts::default(),
            retry: RetryConfig::default(),
            traffic: Traffic::default(),
        };
        Tracker::new(config, &TokenCache::new()).unwrap()
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
        let body = self.simulator.body_of(SPACE, false, day, None);
        body.flat_map(|piece| piece.to_vec()).collect()
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
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("EVENTEXPORT_")) {
            command.env_remove(name);
        }
    }
    command
        .current_dir(folder)
        .env("XDG_CONFIG_HOME", folder.join("config"))
        .env("EVENTEXPORT_ENDPOINT", endpoint)
        .env("EVENTEXPORT_SPACE", SPACE)
        .env("EVENTEXPORT_API_KEY", DEFAULT_API_KEY)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
}

/// Waits for the end of a command.
pub(super) async fn wait_output(child: Child) -> CommandOutput {
    let ended = tokio::time::timeout(TIMEOUT, child.wait_with_output()).await;
    let Output {
        status,
        stdout,
        stderr,
    } = ended.expect("the command ends in time").unwrap();
    CommandOutput {
        status,
        out: stdout,
        err: String::from_utf8_lossy(&stderr).into_owned(),
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

/// Sends a signal.
pub(super) async fn signal(child: &Child, name: &str) {
    let id = child.id().unwrap().to_string();
    let sent = Command::new("kill")
        .args(["-s", name, &id])
        .status()
        .await
        .unwrap();
    assert!(sent.success());
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
