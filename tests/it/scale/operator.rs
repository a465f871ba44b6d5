//! One operator process for the whole cluster, and its metrics.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::fixture::{LoadFixture, ProcessUsage, program};
use crate::bed::http_client;

/// Generous, because a machine that also compiles is slow.
const START_LIMIT: Duration = Duration::from_mins(1);

pub(super) struct MeasuredOperator {
    child: Child,
    pub(super) id: u32,
    address: String,
    log: PathBuf,
    pub(super) started: Instant,
}

impl MeasuredOperator {
    /// Starts it with additional arguments. Its log goes to a file of that name.
    pub(super) async fn start(fixture: &LoadFixture, log: &str, args: &[&str]) -> Result<Self> {
        let path = fixture.folder.path().join(log);
        let file = File::create(&path)?;
        let started = Instant::now();
        let child = Command::new(program())
            .args([
                "operator",
                "--cluster-id",
                "bench",
                "--lease-namespace",
                "default",
            ])
            .args(["--allow-host", "127.0.0.1", "--metrics-listen", "127.0.0.1:0"])
            .args(["--log-format", "json", "--kubeconfig"])
            .arg(fixture.cluster.kubeconfig_path())
            .args(args)
            .env("EVENTEXPORT_LOG", "warn,eventexport::cli::operator=info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()?;
        let id = child.id().context("it ended at once")?;
        let mut operator = Self {
            child,
            id,
            address: String::new(),
            log: path.clone(),
            started,
        };
        loop {
            let text = std::fs::read_to_string(&path)?;
            let mut lines = text
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(address) = lines.find_map(|line| line["address"].as_str().map(str::to_owned)) {
                operator.address = address;
                return Ok(operator);
            }
            ensure!(started.elapsed() < START_LIMIT, "it does not start:\n{text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the end of its log.
    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    pub(super) fn usage(&self) -> Result<ProcessUsage> {
        ProcessUsage::of(self.id)
    }

    /// Scrapes its metrics.
    pub(super) async fn scrape(&self) -> Result<ScrapedMetrics> {
        let answer = http_client()?
            .get(format!("http://{}/metrics", self.address))
            .timeout(Duration::from_mins(1))
            .send()
            .await
            .with_context(|| format!("the operator said:\n{}", self.log_tail()))?;
        Ok(ScrapedMetrics(answer.text().await?))
    }

    pub(super) async fn leads(&self) -> Result<()> {
        let start = Instant::now();
        while self.scrape().await?.sum_of("eventexport_leader") < 1.0 {
            ensure!(start.elapsed() < START_LIMIT, "it does not lead");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub(super) async fn leads_now(&self) -> bool {
        let metrics = self.scrape().await;
        metrics.is_ok_and(|metrics| metrics.sum_of("eventexport_leader") > 0.0)
    }

    /// True if it exited by itself.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Kills it, as `kill -9` does; returns true if it had exited before.
    pub(super) async fn kill(mut self) -> Result<bool> {
        let ended = self.child.try_wait()?.is_some();
        self.child.kill().await?;
        Ok(ended)
    }

    /// Stops it, as a rollout does: it releases its lease.
    pub(super) async fn stop(mut self) -> Result<ExitStatus> {
        let id = self.id.to_string();
        let status = Command::new("kill").arg(&id).status().await?;
        ensure!(status.success(), "kill: {status}");
        Ok(self.child.wait().await?)
    }
}

/// Text of a scrape.
pub(super) struct ScrapedMetrics(pub(super) String);

impl ScrapedMetrics {
    /// Sums all series whose name and labels start with this text.
    pub(super) fn sum_of(&self, series: &str) -> f64 {
        let values = self
            .0
            .lines()
            .filter_map(|line| line.strip_prefix(series)?.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    }

    pub(super) fn series(&self) -> usize {
        self.0.lines().filter(|line| !line.starts_with('#')).count()
    }

    /// Returns the requests to a peer so far, by operation.
    pub(super) fn requests(&self, peer: &str) -> BTreeMap<String, f64> {
        let begin = format!("eventexport_requests_total{{peer=\"{peer}\",operation=\"");
        let mut requests = BTreeMap::new();
        for line in self.0.lines() {
            let Some(rest) = line.strip_prefix(&begin) else {
                continue;
            };
            let (Some((operation, _)), Some(value)) = (rest.split_once('"'), rest.rsplit(' ').next()) else {
                continue;
            };
            *requests.entry(operation.to_owned()).or_default() += value.parse().unwrap_or(0.0);
        }
        requests
    }
}
