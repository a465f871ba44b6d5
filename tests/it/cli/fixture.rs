//! Fixture of the command line tests: a home directory, and `eventexport simulate` as a separate process.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::testkit::command::{CommandOutput, Home, SimulatorProcess};

pub(super) use crate::testkit::command::run_command as wait_output;

/// User of the simulator who owns the API key.
pub(super) const USER: &str = "operator@example.com";
/// API key of [`USER`].
pub(super) const KEY: &str = "simulated-api-key";

/// Home directory and service.
pub(super) struct CliFixture {
    home: Home,
    /// Address of the service, without a trailing slash.
    pub(super) url: String,
    simulator: SimulatorProcess,
}

impl CommandOutput {
    /// Asserts the exit code and the text on standard error.
    pub(super) fn expect_failure(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for words in words {
            assert!(self.err.contains(words), "{words:?} is not in {self:?}");
        }
        assert!(!self.err.contains(KEY) && !self.out.contains(KEY), "{self:?}");
    }
}

impl Deref for CliFixture {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.home
    }
}

impl CliFixture {
    /// Starts the service with these arguments on a free port.
    pub(super) async fn start(arguments: &[&str]) -> Self {
        let simulator = SimulatorProcess::start(arguments).await;
        Self {
            home: Home::new(),
            url: simulator.url.clone(),
            simulator,
        }
    }

    /// Path of the config file.
    pub(super) fn config(&self) -> PathBuf {
        self.path(".config/eventexport/config.toml")
    }

    /// Returns the program with space, service and key in its environment.
    pub(super) fn with_service(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command
            .env("EVENTEXPORT_SPACE", "c1")
            .env("EVENTEXPORT_ENDPOINT", &self.url)
            .env("EVENTEXPORT_API_KEY", KEY);
        command
    }

    /// Runs the program with space, service and key in its environment.
    pub(super) async fn run(&self, arguments: &[&str]) -> CommandOutput {
        wait_output(self.with_service(arguments)).await
    }

    /// Runs the program with an empty environment.
    pub(super) async fn run_without_env(&self, arguments: &[&str]) -> CommandOutput {
        self.home.run(arguments).await
    }

    /// Replaces the faults of the service.
    pub(super) async fn set_faults(&self, names: &[&str]) {
        self.admin(Method::PUT, "faults", json!(names)).await;
    }

    /// Opens sessions as another client.
    pub(super) async fn open_sessions(&self, user: &str, count: usize) -> Vec<String> {
        let body = json!({"user": user, "space": "c1", "count": count});
        let ids = self.admin(Method::POST, "sessions", body).await;
        serde_json::from_value(ids).unwrap()
    }

    /// Moves the times of all sessions back.
    pub(super) async fn age_sessions(&self, seconds: u64) {
        self.admin(Method::POST, "age", json!({"seconds": seconds})).await;
    }

    /// Number of open sessions.
    pub(super) async fn open_now(&self) -> usize {
        self.admin(Method::GET, "sessions", Value::Null)
            .await
            .as_array()
            .unwrap()
            .len()
    }

    async fn admin(&self, method: Method, what: &str, body: Value) -> Value {
        self.simulator.admin(method, what, &body).await.unwrap()
    }

    /// Writes a file in the home directory with this mode.
    pub(super) fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        write(&self.path(name), text, mode)
    }
}

/// Writes a file with this mode, and its parent folders.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.to_owned()
}
