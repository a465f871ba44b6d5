//! Flux's kustomize-controller and helm-controller, as processes for one cluster. There is no source-controller: this
//! module serves the artifacts and names them in `ExternalArtifact` objects, which is Flux's interface for other
//! sources.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::watchdog::{Program, Watchdog};
use super::{Cluster, program};

/// Generous, because a machine that also compiles is slow.
const START_LIMIT: Duration = Duration::from_mins(2);

type ArtifactFiles = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

pub(crate) struct Flux {
    watchdog: Watchdog,
    files: ArtifactFiles,
    address: String,
    serving: AbortHandle,
}

impl Drop for Flux {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Flux {
    /// Starts Flux with all rights in the cluster, which is its default.
    pub(crate) async fn start(cluster: &Cluster) -> Result<Self> {
        let flux = Self::without_controllers(cluster).await?;
        for name in ["kustomize-controller", "helm-controller"] {
            flux.controller(cluster, name).await?;
        }
        Ok(flux)
    }

    /// Installs the CRDs and serves artifacts, without the controllers.
    pub(crate) async fn without_controllers(cluster: &Cluster) -> Result<Self> {
        let definitions = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".bed/flux/definitions");
        ensure!(
            definitions.is_dir(),
            "Flux's definitions are missing: run `make bed-gitops` first ({} does not exist)",
            definitions.display()
        );
        cluster.apply_crd(&definitions).await?;
        let namespace = ["create", "namespace", "flux-system"];
        cluster.kubectl(&namespace, None).await.success()?;

        let files = ArtifactFiles::default();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let app = Router::new().fallback(serve).with_state(files.clone());
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self {
            watchdog: Watchdog::new("flux")?,
            files,
            address,
            serving: serving.abort_handle(),
        })
    }

    async fn controller(&self, cluster: &Cluster, name: &'static str) -> Result<()> {
        let path = program(name).context("run `make bed-gitops`")?;
        let arguments = [
            "--metrics-addr=0",
            "--health-addr=0",
            "--feature-gates=ExternalArtifact=true",
            "--requeue-dependency=2s",
            "--log-encoding=json",
        ];
        let temporary = self.watchdog.folder().join(format!("{name}-tmp"));
        std::fs::create_dir(&temporary)?;
        self.watchdog.start(&Program {
            name,
            path,
            args: arguments.map(str::to_owned).to_vec(),
            env: vec![
                ("KUBECONFIG", cluster.kubeconfig_path().display().to_string()),
                ("RUNTIME_NAMESPACE", "flux-system".to_owned()),
                ("TMPDIR", temporary.display().to_string()),
            ],
        })?;
        let log = self.watchdog.folder().join(format!("{name}.log"));
        self.watchdog
            .ready(name, START_LIMIT, async || {
                std::fs::read_to_string(&log).is_ok_and(|text| text.contains("Starting workers"))
            })
            .await
    }

    /// Returns the end of a controller's log, for errors.
    pub(crate) fn log(&self, name: &str) -> String {
        self.watchdog.log_tail(name)
    }

    /// Publishes an archive, or a new revision of it, under the name of an `ExternalArtifact`.
    pub(crate) async fn publish(
        &self,
        cluster: &Cluster,
        namespace: &str,
        name: &str,
        revision: &str,
        archive: &Path,
    ) -> Result<()> {
        let bytes = std::fs::read(archive).with_context(|| archive.display().to_string())?;
        let digest = hex(&Sha256::digest(&bytes));
        let file = format!("{namespace}/{name}/{digest}.tar.gz");
        let artifact = json!({
            "url": format!("{}/{file}", self.address), "path": file, "revision": revision,
            "digest": format!("sha256:{digest}"), "size": bytes.len(),
            "lastUpdateTime": jiff::Timestamp::now().to_string(),
        });
        self.files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(format!("/{file}"), bytes);
        let object = json!({
            "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "ExternalArtifact",
            "metadata": { "namespace": namespace, "name": name }, "spec": {},
        });
        let apply = ["apply", "-f", "-"];
        cluster
            .kubectl(&apply, Some(&object.to_string()))
            .await
            .success()?;
        let now = jiff::Timestamp::now().to_string();
        let ready = json!({ "type": "Ready", "status": "True", "reason": "Succeeded", "message": "published",
            "lastTransitionTime": now });
        let status = json!({ "status": { "artifact": artifact, "conditions": [ready] } }).to_string();
        let patch = [
            "patch",
            "externalartifact",
            name,
            "-n",
            namespace,
            "--subresource=status",
        ];
        let patch = [&patch[..], &["--type=merge", "-p", &status]].concat();
        cluster.kubectl(&patch, None).await.success().map(drop)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

async fn serve(State(files): State<ArtifactFiles>, uri: Uri) -> Result<Vec<u8>, StatusCode> {
    let files = files.lock().unwrap_or_else(PoisonError::into_inner);
    files.get(uri.path()).cloned().ok_or(StatusCode::NOT_FOUND)
}
