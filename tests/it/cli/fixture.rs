//! Fixture of the command line tests: a home directory, and `eventexport simulate` as a separate process.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Maximum time a command may take.
const TIMEOUT: Duration = Duration::from_mins(1);

/// User of the simulator who owns the API key.
pub(super) const USER: &str = "operator@example.com";
/// API key of [`USER`].
pub(super) const KEY: &str = "simulated-api-key";

/// Home directory and service.
pub(super) struct CliFixture {
    folder: TempDir,
    /// Address of the service, without a trailing slash.
    pub(super) url: String,
    _simulator: Child,
}

/// Result of a command.
#[derive(Debug)]
pub(super) struct CliOutput {
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

impl CliOutput {
    /// Parses the document on standard output.
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(self.out.trim()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts the exit code and the text on standard error.
    pub(super) fn expect_failure(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for words in words {
            assert!(self.err.contains(words), "{words:?} is not in {self:?}");
        }
        assert!(!self.err.contains(KEY) && !self.out.contains(KEY), "{self:?}");
    }
}

impl CliFixture {
    /// Starts the service with these arguments on a free port.
    pub(super) async fn start(arguments: &[&str]) -> Self {
        let mut simulator = Command::new(env!("CARGO_BIN_EXE_eventexport"))
            .args(["simulate", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(simulator.stdout.take().unwrap()).lines();
        let first = tokio::time::timeout(TIMEOUT, lines.next_line()).await.unwrap();
        let url = first.unwrap().unwrap().trim_end_matches('/').to_owned();
        Self {
            folder: tempfile::tempdir().unwrap(),
            url,
            _simulator: simulator,
        }
    }

    /// Returns a path in the home directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Path of the config file.
    pub(super) fn config(&self) -> PathBuf {
        self.path(".config/eventexport/config.toml")
    }

    /// Returns the program in this home directory, isolated from the environment of the test.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eventexport"));
        command.args(arguments);
        self.isolate(&mut command);
        command
    }

    /// Isolates a process in this home directory.
    pub(super) fn isolate(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().into_owned();
            if ["EVENTEXPORT_", "AWS_", "XDG_"]
                .iter()
                .any(|prefix| text.starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
    }

    /// Runs the program with space, service and key in its environment.
    pub(super) async fn run(&self, arguments: &[&str]) -> CliOutput {
        let mut command = self.command(arguments);
        command
            .env("EVENTEXPORT_SPACE", "c1")
            .env("EVENTEXPORT_ENDPOINT", &self.url)
            .env("EVENTEXPORT_API_KEY", KEY);
        wait_output(command).await
    }

    /// Runs the program with an empty environment.
    pub(super) async fn run_without_env(&self, arguments: &[&str]) -> CliOutput {
        wait_output(self.command(arguments)).await
    }

    /// Replaces the faults of the service.
    pub(super) async fn set_faults(&self, names: &[&str]) {
        self.admin("PUT", "faults", json!(names)).await;
    }

    /// Opens sessions as another client.
    pub(super) async fn open_sessions(&self, user: &str, count: usize) -> Vec<String> {
        let body = json!({"user": user, "space": "c1", "count": count});
        let ids = self.admin("POST", "sessions", body).await;
        serde_json::from_value(ids).unwrap()
    }

    /// Moves the times of all sessions back.
    pub(super) async fn age_sessions(&self, seconds: u64) {
        self.admin("POST", "age", json!({"seconds": seconds})).await;
    }

    /// Number of open sessions.
    pub(super) async fn open_now(&self) -> usize {
        self.admin("GET", "sessions", Value::Null)
            .await
            .as_array()
            .unwrap()
            .len()
    }

    async fn admin(&self, method: &str, what: &str, body: Value) -> Value {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{}/simulator/{what}", self.url);
        let mut request = client.request(method.parse().unwrap(), url);
        if !body.is_null() {
            request = request.json(&body);
        }
        let reply = request.send().await.unwrap();
        assert!(reply.status().is_success(), "{reply:?}");
        reply.json().await.unwrap()
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

/// Runs a command to completion.
pub(super) async fn wait_output(mut command: Command) -> CliOutput {
    let child = command.spawn().unwrap();
    let output = tokio::time::timeout(TIMEOUT, child.wait_with_output())
        .await
        .unwrap();
    let output = output.unwrap();
    CliOutput {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
