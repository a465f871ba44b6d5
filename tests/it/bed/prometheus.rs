//! Real Prometheus and promtool.

// Responses of Prometheus are JSON; a missing field is null.
#![allow(clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use super::watchdog::{Program, Watchdog};
use super::{PORT_TAKEN, free_ports, http_client, program};

const NAME: &str = "prometheus";
const START_LIMIT: Duration = Duration::from_mins(1);

pub(crate) struct Prometheus {
    _watchdog: Watchdog,
    port: u16,
}

impl Prometheus {
    /// Scrapes these targets and evaluates these rules every second.
    pub(crate) async fn start(targets: &[&str], rules: &str) -> Result<Self> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match Self::try_start(targets, rules).await {
                Err(error) if attempts < 3 && error.to_string().contains(PORT_TAKEN) => {}
                outcome => return outcome,
            }
        }
    }

    async fn try_start(targets: &[&str], rules: &str) -> Result<Self> {
        let path = program(NAME)?;
        let [port] = free_ports()?;
        let watchdog = Watchdog::new(NAME)?;
        let folder = watchdog.folder();
        let mut config = "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n\
                          rule_files: [rules.yaml]\n\
                          scrape_configs:\n- job_name: eventexport\n  honor_labels: true\n  static_configs:\n"
            .to_owned();
        for target in targets {
            writeln!(config, "  - targets: ['{target}']")?;
        }
        fs::write(folder.join("prometheus.yaml"), config)?;
        fs::write(folder.join("rules.yaml"), rules)?;
        let program = Program {
            name: NAME,
            path,
            args: vec![
                format!("--config.file={}", folder.join("prometheus.yaml").display()),
                format!("--storage.tsdb.path={}", folder.join("data").display()),
                format!("--web.listen-address=127.0.0.1:{port}"),
            ],
            env: Vec::new(),
        };
        watchdog.start(&program)?;
        let ready = format!("http://127.0.0.1:{port}/-/ready");
        let client = http_client()?;
        watchdog
            .ready(NAME, START_LIMIT, async || {
                let reply = client.get(&ready).send().await;
                reply.is_ok_and(|reply| reply.status().is_success())
            })
            .await?;
        Ok(Self {
            _watchdog: watchdog,
            port,
        })
    }

    /// Returns the current result of a query: one entry per series.
    pub(crate) async fn query(&self, query: &str) -> Result<Vec<Value>> {
        let mut url = url::Url::parse(&format!("http://127.0.0.1:{}/api/v1/query", self.port))?;
        url.query_pairs_mut().append_pair("query", query);
        let reply: Value = http_client()?.get(url).send().await?.json().await?;
        ensure!(reply["status"] == "success", "{query}: {}", reply["error"]);
        let result = reply["data"]["result"].as_array().context("no result")?;
        Ok(result.clone())
    }
}

/// Runs promtool in that folder.
pub(crate) async fn promtool(folder: &Path, args: &[&str]) -> Result<()> {
    let output = Command::new(program("promtool")?)
        .current_dir(folder)
        .args(args)
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "promtool {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
