//! One operator process for the whole cluster, and its metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::fixture::{LoadFixture, ProcessUsage};
use crate::testkit::operator::OperatorCommand;
use crate::testkit::process::Process;

/// Generous, because a machine that also compiles is slow.
const START_LIMIT: Duration = Duration::from_mins(1);

pub(super) struct MeasuredOperator {
    process: Arc<Process>,
    pub(super) started: Instant,
}

impl MeasuredOperator {
    /// Starts it with additional arguments. Its log goes to a file of that name.
    pub(super) async fn start(fixture: &LoadFixture, log: &str, args: &[&str]) -> Result<Self> {
        let process = OperatorCommand::new(&fixture.cluster)
            .args(&["--cluster-id", "bench", "--lease-namespace", "default"])
            .args(args)
            .env("EVENTEXPORT_LOG", "warn,eventexport::cli::operator=info")
            .spawn(&fixture.folder.path().join(log))?;
        process.ready().await?;
        Ok(Self {
            started: process.started,
            process,
        })
    }

    pub(super) fn usage(&self) -> Result<ProcessUsage> {
        ProcessUsage::of(self.process.id)
    }

    /// Scrapes its metrics.
    pub(super) async fn scrape(&self) -> Result<ScrapedMetrics> {
        Ok(ScrapedMetrics(self.process.metrics().await?))
    }

    pub(super) async fn leads(&self) -> Result<()> {
        let start = Instant::now();
        while !self.process.leads().await {
            ensure!(start.elapsed() < START_LIMIT, "it does not lead");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub(super) async fn leads_now(&self) -> bool {
        self.process.leads().await
    }

    /// True if it exited by itself.
    pub(super) async fn has_ended(&self) -> Result<bool> {
        Ok(!self.process.is_running().await?)
    }

    /// Kills it, as `kill -9` does; returns true if it had exited before.
    pub(super) async fn kill(self) -> Result<bool> {
        let ended = self.has_ended().await?;
        if !ended {
            self.process.kill().await?;
        }
        Ok(ended)
    }

    /// Stops it, as a rollout does: it releases its lease. Returns true if it exits successfully.
    pub(super) async fn stop(self) -> Result<bool> {
        self.process.stop(START_LIMIT).await
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
