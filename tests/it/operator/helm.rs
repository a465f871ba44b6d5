//! Real helm for one cluster.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use tokio::process::Command;

use crate::bed::{Cluster, program};

/// Path of the chart.
pub(super) const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/eventexport");

pub(super) struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Helm {
    /// Uses a kubeconfig with all rights.
    pub(super) fn new(cluster: &Cluster) -> Result<Self> {
        Self::with(cluster, cluster.kubeconfig_path())
    }

    /// Uses this kubeconfig.
    pub(super) fn with(cluster: &Cluster, kubeconfig: PathBuf) -> Result<Self> {
        Ok(Self {
            program: program("helm")?,
            kubeconfig,
            home: cluster.folder().join("helm"),
        })
    }

    /// Returns standard output, or an error with standard error.
    pub(super) async fn run(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HELM_CACHE_HOME", self.home.join("cache"))
            .env("HELM_CONFIG_HOME", self.home.join("config"))
            .env("HELM_DATA_HOME", self.home.join("data"))
            .kill_on_drop(true)
            .output()
            .await?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "helm {args:?}: {}: {}",
            output.status,
            error.trim_end()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Renders the chart with these values in a namespace that no other test uses.
    pub(super) async fn template(&self, values: &Path, more: &[&str]) -> Result<String> {
        let values = values.display().to_string();
        let args = [
            "template",
            "eventexport",
            CHART,
            "--namespace",
            "judged",
            "--values",
            &values,
        ];
        self.run(&[&args, more].concat()).await
    }
}
