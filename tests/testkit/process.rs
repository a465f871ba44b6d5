//! The program under test as a process: `operator`, `simulate`, `run` or any other command, with its log in a file.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::bed::http_client;

/// Generous, because a machine that also compiles is slow.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Interval at which a starting process is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Lines of a log in an error.
const LOG_TAIL: usize = 20;

/// Process that ends with this value.
pub(crate) struct Process {
    pub(crate) id: u32,
    pub(crate) started: Instant,
    child: tokio::sync::Mutex<Child>,
    log: PathBuf,
    /// Address of the metrics and health endpoints of an operator.
    address: std::sync::OnceLock<String>,
    /// True if the log is printed at the end: the test harness shows it if the test fails.
    verbose: bool,
    _folder: Option<tempfile::TempDir>,
}

impl Process {
    /// Starts it with its standard error, and its standard output unless piped, in the file, which may hold the log of
    /// its predecessors.
    pub(crate) fn spawn(mut command: Command, log: &Path) -> Result<Arc<Self>> {
        Self::spawn_with(&mut command, log.to_owned(), None)
    }

    /// Starts it with a log of its own, which is printed at its end.
    pub(crate) fn spawn_verbose(mut command: Command) -> Result<Arc<Self>> {
        let folder = tempfile::tempdir()?;
        Self::spawn_with(&mut command, folder.path().join("log"), Some(folder))
    }

    fn spawn_with(
        command: &mut Command,
        log: PathBuf,
        folder: Option<tempfile::TempDir>,
    ) -> Result<Arc<Self>> {
        let file = File::options().create(true).append(true).open(&log)?;
        let started = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Arc::new(Self {
            id: child.id().context("it ended at once")?,
            started,
            child: tokio::sync::Mutex::new(child),
            log,
            address: std::sync::OnceLock::new(),
            verbose: folder.is_some(),
            _folder: folder,
        }))
    }

    /// Sends SIGKILL and returns when the process is gone; an error if it ended by itself before.
    pub(crate) async fn kill(&self) -> Result<()> {
        let mut child = self.child.lock().await;
        ensure!(child.try_wait()?.is_none(), "it ended by itself before");
        child.start_kill()?;
        let ended = child.wait().await?;
        ensure!(ended.signal() == Some(9), "it ended by itself: {ended}");
        Ok(())
    }

    /// Sends SIGTERM. Returns true if it exits successfully within `limit`; otherwise kills it.
    pub(crate) async fn stop(&self, limit: Duration) -> Result<bool> {
        if !self.is_running().await? {
            return Ok(false);
        }
        self.signal("-TERM").await?;
        let mut child = self.child.lock().await;
        if let Ok(ended) = tokio::time::timeout(limit, child.wait()).await {
            return Ok(ended?.success());
        }
        child.kill().await?;
        Ok(false)
    }

    /// Sends a signal, such as `-STOP`.
    pub(crate) async fn signal(&self, signal: &str) -> Result<()> {
        let id = self.id.to_string();
        let kill = Command::new("kill").args([signal, &id]).status().await?;
        ensure!(kill.success(), "kill {signal}: {kill}");
        Ok(())
    }

    /// Waits for its end.
    pub(crate) async fn wait(&self, limit: Duration) -> Result<ExitStatus> {
        let mut child = self.child.lock().await;
        let ended = tokio::time::timeout(limit, child.wait()).await;
        Ok(ended.context("it goes on")??)
    }

    /// True if it still runs.
    pub(crate) async fn is_running(&self) -> Result<bool> {
        Ok(self.child.lock().await.try_wait()?.is_none())
    }

    /// Returns the log, including that of its predecessors in the same file.
    pub(crate) fn log(&self) -> String {
        read_log(&self.log)
    }

    /// Returns the end of the log.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    /// Returns the log lines that are JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let log = self.log();
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits until an operator with a log of its own says where it can be watched.
    pub(crate) async fn ready(&self) -> Result<()> {
        loop {
            let lines = self.lines();
            if let Some(address) = lines.iter().find_map(|line| line["address"].as_str()) {
                let _ = self.address.set(address.to_owned());
                return Ok(());
            }
            ensure!(self.is_running().await?, "it ended:\n{}", self.log_tail());
            ensure!(
                self.started.elapsed() < TIMEOUT,
                "it does not start:\n{}",
                self.log_tail()
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Address of the metrics and health endpoints.
    pub(crate) fn address(&self) -> &str {
        self.address.get().map_or("", String::as_str)
    }

    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String)> {
        let response = http_client()?
            .get(format!("http://{}{path}", self.address()))
            .timeout(TIMEOUT)
            .send()
            .await
            .with_context(|| format!("the operator said:\n{}", self.log_tail()))?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    pub(crate) async fn metrics(&self) -> Result<String> {
        Ok(self.get("/metrics").await?.1)
    }

    pub(crate) async fn leads(&self) -> bool {
        let metrics = self.metrics().await.unwrap_or_default();
        metrics.contains("\neventexport_leader 1\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.verbose {
            eprintln!("{}", self.log());
        }
    }
}

/// Reads a log that may end within a character.
pub(crate) fn read_log(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the program under test: that of this build, or the one that `EVENTEXPORT_PROGRAM` names, such as a release
/// build.
pub(crate) fn program() -> OsString {
    std::env::var_os("EVENTEXPORT_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_eventexport").into())
}
