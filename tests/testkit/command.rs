//! Commands of the program in a home directory of their own, their output, and `eventexport simulate` as a process.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::process::program;
use crate::bed::{Gateway, http_client};

/// Maximum time of a command. Generous, because the machine may be busy.
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_mins(10);

/// Output of a command.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub(crate) code: Option<i32>,
    /// Standard output as text, and as it is.
    pub(crate) out: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) err: String,
}

impl From<Output> for CommandOutput {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
            bytes: output.stdout,
        }
    }
}

impl CommandOutput {
    /// Parses the document on the last line of standard output.
    #[track_caller]
    pub(crate) fn summary(&self) -> Value {
        let last = self.out.trim_end().lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Standard output, then standard error.
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// Parses the document on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.out.trim()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn expect_exit(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self
    }
}

/// Isolates a command in this home directory from the environment of the test.
pub(crate) fn isolate(command: &mut Command, home: &Path) {
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
        .env("HOME", home)
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
}

/// Returns the program with these arguments, isolated in this home directory.
pub(crate) fn program_in(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    isolate(&mut command, home);
    command.args(arguments);
    command
}

/// Runs the program in this home directory to completion.
pub(crate) async fn run_in(home: &Path, arguments: &[&str]) -> CommandOutput {
    run_command(program_in(home, arguments)).await
}

/// Runs a command to completion, for tests without a runtime.
pub(crate) fn run_blocking(mut command: Command) -> CommandOutput {
    command.as_std_mut().output().unwrap().into()
}

/// Home directory of commands, and the variables that all of them get.
pub(crate) struct Home {
    folder: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            variables: Vec::new(),
        }
    }

    /// Sets a variable of all commands.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns a path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the names of all files, also hidden ones, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Isolates a process in the directory, with its variables.
    pub(crate) fn isolate(&self, command: &mut Command) {
        isolate(command, self.folder());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }

    /// Returns the program with these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        self.isolate(&mut command);
        command.args(arguments);
        command
    }

    /// Runs the program to completion.
    pub(crate) async fn run(&self, arguments: &[&str]) -> CommandOutput {
        run_command(self.command(arguments)).await
    }

    /// Runs a line of bash; `$E` is the program.
    pub(crate) async fn shell(&self, line: &str) -> CommandOutput {
        let mut command = Command::new("bash");
        self.isolate(&mut command);
        command.args(["-c", line]).env("E", program());
        run_command(command).await
    }
}

/// Returns the variables of a gateway's root account.
pub(crate) fn bucket_env(gateway: &Gateway) -> [(&'static str, &str); 4] {
    [
        ("AWS_ACCESS_KEY_ID", gateway.access_key()),
        ("AWS_SECRET_ACCESS_KEY", gateway.secret_key()),
        ("AWS_REGION", Gateway::REGION),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]
}

/// Runs a command with piped output to completion.
pub(crate) async fn run_command(mut command: Command) -> CommandOutput {
    wait_output(command.spawn().unwrap()).await
}

/// Waits for the end of a command with piped output.
pub(crate) async fn wait_output(child: Child) -> CommandOutput {
    let ended = tokio::time::timeout(COMMAND_TIMEOUT, child.wait_with_output()).await;
    ended.expect("the command ends in time").unwrap().into()
}

/// Sends a signal such as `TERM`.
pub(crate) async fn signal(child: &Child, name: &str) {
    let id = child.id().unwrap().to_string();
    let kill = Command::new("kill").args(["-s", name, &id]).status();
    assert!(kill.await.unwrap().success());
}

/// Simulated service as a separate process that ends with this value.
pub(crate) struct SimulatorProcess {
    /// Without a trailing slash.
    pub(crate) url: String,
    _process: Child,
}

impl SimulatorProcess {
    /// Starts it with these arguments on a free port.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(program())
            .args(["simulate", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .env("EVENTEXPORT_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = tokio::time::timeout(COMMAND_TIMEOUT, lines.next_line()).await;
        let url = first.unwrap().unwrap().expect("the simulator ended");
        // Later output must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self {
            url: url.trim_end_matches('/').to_owned(),
            _process: process,
        }
    }

    /// Sends a request to its administration; null is no body.
    pub(crate) async fn admin(&self, method: Method, what: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("{}/simulator/{what}", self.url);
        let mut request = http_client()?
            .request(method, url)
            .timeout(Duration::from_secs(30));
        if !body.is_null() {
            request = request.json(body);
        }
        Ok(request.send().await?.error_for_status()?.json().await?)
    }
}
