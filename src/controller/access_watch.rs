//! Reads the files of allowed hosts and grants again while the operator leads, and restarts the exports whose access changed.
//! Reads files.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt as _;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::access::AccessPolicy;
use super::access_files::AccessFiles;
use super::export_cache::ExportCache;
use super::registry::ExportRegistry;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::AccessFlag;

/// Time after a change in which stopped exports may delete their sessions at hosts that are no longer allowed.
const DELETION_TIME: Duration = Duration::from_mins(1);

/// Exports that are compared before other tasks get their turn.
const COMPARED_AT_ONCE: usize = 64;

/// Rules of access, their files, and the interval at which these are read.
#[derive(Clone)]
pub struct AccessConfig {
    /// Rules, which the exporter reads too.
    pub policy: AccessPolicy,
    /// Files of the rules, if any.
    pub files: AccessFiles,
    /// Time between two reads. Default 10 s: the kubelet updates a mounted ConfigMap within about a minute.
    pub interval: Duration,
}

/// Watch of the files.
pub(super) struct AccessWatch {
    config: AccessConfig,
    exports: ExportCache,
    registry: Arc<ExportRegistry>,
    metrics: Metrics,
    /// Time at which sessions can no longer be deleted at hosts of the former rules.
    forget_at: Option<Instant>,
}

impl AccessWatch {
    pub(super) fn new(
        config: AccessConfig,
        exports: ExportCache,
        registry: Arc<ExportRegistry>,
        metrics: Metrics,
    ) -> Self {
        Self {
            config,
            exports,
            registry,
            metrics,
            forget_at: None,
        }
    }

    /// Reads the files at the interval, until the future is dropped.
    pub(super) async fn run(mut self) {
        if self.config.files.flags().next().is_none() {
            return;
        }
        loop {
            sleep(self.config.interval).await;
            self.read_once().await;
        }
    }

    /// Reads the files, and applies their changes.
    pub(super) async fn read_once(&mut self) {
        if self.forget_at.take_if(|at| *at <= Instant::now()).is_some() {
            self.config.policy.forget_former();
        }
        let (policy, mut files) = (self.config.policy.clone(), self.config.files.clone());
        let before = policy.detached();
        let read = tokio::task::spawn_blocking(move || {
            let changes = files.reload(&policy);
            (files, changes)
        });
        // Fails only if the process ends.
        let Ok((files, changes)) = read.await else { return };
        self.config.files = files;
        let mut applied = Vec::new();
        for change in changes {
            let valid = change.result.is_ok();
            self.metrics.access_file(change.flag, valid);
            match change.result {
                Ok(()) => applied.push(change.flag),
                Err(error) => {
                    warn!(%error, "changed file is invalid, keeping the last valid rules");
                }
            }
        }
        if applied.is_empty() {
            return;
        }
        if applied.contains(&AccessFlag::AllowHostFile) {
            self.forget_at = Some(Instant::now() + DELETION_TIME);
        }
        let restarted = self.restart_changed(&before).await;
        let flags: Vec<&str> = applied.iter().map(|flag| flag.as_str()).collect();
        info!(
            flags = flags.join(","),
            restarted, "allowed hosts or grants changed, restarting the exports concerned"
        );
    }

    /// Restarts the exports whose access is another than `before`, and those that were denied something that their specs do
    /// not show, such as a discovered UAA. Returns their number.
    async fn restart_changed(&self, before: &AccessPolicy) -> usize {
        let mut restarted = 0;
        for (number, object) in self.exports.all().into_iter().enumerate() {
            if number % COMPARED_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            let (namespace, uid) = (
                object.namespace().unwrap_or_default(),
                object.uid().unwrap_or_default(),
            );
            let access = |policy: &AccessPolicy| policy.of_export(&namespace, &object.spec);
            let changed = access(before) != access(&self.config.policy);
            if let Some(export) = self
                .registry
                .restart_if(&uid, |entry| changed || entry.was_denied())
            {
                restarted += 1;
                // Fails only if the controller is gone.
                let _ = self.registry.wake_ups.send(export).await;
            }
        }
        restarted
    }
}
