//! One Kubernetes control plane: etcd, kube-apiserver and kube-controller-manager. Pods stay Pending unless a
//! [`Node`](super::Node) joins it. The work of controllers (owner references, Jobs, tokens, finalizers, namespaces)
//! is real.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::certificates::Authority;
use super::watchdog::Watchdog;
use super::{PORT_TAKEN, control_plane, free_ports, program};

/// Generous, because a machine that also compiles is slow; a start usually takes seconds.
const START_LIMIT: Duration = Duration::from_mins(2);

/// Maximum time of one request of [`Cluster::get`].
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Output of `kubectl`.
#[derive(Debug)]
pub(crate) struct KubectlOutput {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl KubectlOutput {
    /// Returns standard output, or an error with standard error.
    pub(crate) fn success(self) -> Result<String> {
        ensure!(
            self.status.success(),
            "kubectl: {}: {}",
            self.status,
            self.stderr.trim_end()
        );
        Ok(self.stdout)
    }
}

pub(crate) struct Cluster {
    watchdog: Watchdog,
    authority: Authority,
    kubectl: PathBuf,
    port: u16,
    /// Counter that makes the names of namespaces and kubeconfigs unique in the cluster.
    made: AtomicU32,
    process_ids: Vec<u32>,
}

impl Cluster {
    /// Returns the cluster of this test process; the first call starts it. Tests are isolated by
    /// [`namespace`](Self::namespace); a test that stops a component starts its own cluster.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SHARED
            .get_or_init(async || {
                Self::start()
                    .await
                    .unwrap_or_else(|error| panic!("no test cluster: {error:#}"))
            })
            .await
    }

    /// Starts a separate cluster that ends when dropped.
    pub(crate) async fn start() -> Result<Self> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match Self::try_start().await {
                Err(error) if attempts < 3 && error.to_string().contains(PORT_TAKEN) => {}
                outcome => return outcome,
            }
        }
    }

    async fn try_start() -> Result<Self> {
        let [etcd_port, port] = free_ports()?;
        let watchdog = Watchdog::new("cluster")?;
        let authority = Authority::new()?;
        control_plane::write_identities(watchdog.folder(), &authority, port)?;
        let mut cluster = Self {
            kubectl: program("kubectl")?,
            watchdog,
            authority,
            port,
            made: AtomicU32::new(0),
            process_ids: Vec::new(),
        };
        let folder = cluster.watchdog.folder();

        let etcd = cluster.watchdog.start(&control_plane::etcd(folder, etcd_port)?)?;
        cluster
            .watchdog
            .ready("etcd", START_LIMIT, async || accepts(etcd_port).await)
            .await?;

        let server = control_plane::api_server(folder, etcd_port, port)?;
        let api_server = cluster.watchdog.start(&server)?;
        cluster
            .watchdog
            .ready("kube-apiserver", START_LIMIT, async || cluster.is_ready().await)
            .await?;

        // Before the controllers start: they discover new kinds only every half minute, and until then dependents of
        // such owners are not collected.
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
        if own.is_dir() {
            cluster.apply_crd(&own).await.context("crds/")?;
        }

        // Last, because it exits if the API server is not ready.
        let manager = cluster
            .watchdog
            .start(&control_plane::controller_manager(folder)?)?;
        cluster
            .watchdog
            .ready("kube-controller-manager", START_LIMIT, async || {
                // First visible effect of its controllers.
                let account = "/api/v1/namespaces/default/serviceaccounts/default";
                matches!(cluster.get(account).await, Ok(Some(_)))
            })
            .await?;

        cluster.process_ids = vec![etcd, api_server, manager];
        Ok(cluster)
    }

    /// Returns a kubeconfig with all rights (group `system:masters`).
    pub(crate) fn kubeconfig_path(&self) -> PathBuf {
        self.watchdog.folder().join("admin.kubeconfig")
    }

    /// Returns a kubeconfig for this user, who has no rights except those that a test grants.
    pub(crate) fn kubeconfig_for_user(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let identity = self.authority.client(user, group)?;
        let name = self.file_name(user);
        let folder = self.watchdog.folder();
        let credentials = control_plane::client_certificate(folder, &name, &identity)?;
        self.write_kubeconfig(&name, &credentials)
    }

    /// Returns a kubeconfig with a fresh token of an existing service account.
    pub(crate) async fn kubeconfig_for_service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<PathBuf> {
        let token = self
            .kubectl(&["create", "token", name, "--namespace", namespace], None)
            .await
            .success()?;
        self.write_kubeconfig(&self.file_name(name), &json!({ "token": token.trim() }))
    }

    /// `https://127.0.0.1:…`
    pub(crate) fn server_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Port of 127.0.0.1 that the API server listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// CA certificate of the server, as PEM.
    pub(crate) fn ca_path(&self) -> PathBuf {
        self.watchdog.folder().join("ca.crt")
    }

    /// Returns a client with the rights of [`Self::kubeconfig_path`]. Like all clients it belongs to the runtime that
    /// created it.
    pub(crate) fn http_client(&self) -> Result<reqwest::Client> {
        let folder = self.watchdog.folder();
        let read = |name: &str| fs::read(folder.join(name)).with_context(|| name.to_owned());
        let authority = reqwest::Certificate::from_pem(&read("ca.crt")?)?;
        let identity = [read("admin.crt")?, read("admin.key")?].join(&b'\n');
        reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([authority])
            .identity(reqwest::Identity::from_pem(&identity)?)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("cannot make a client of the API server")
    }

    /// Returns a client of kube-rs with the rights of [`Self::kubeconfig_path`].
    pub(crate) async fn client(&self) -> Result<kube::Client> {
        Ok(self.client_config().await?.try_into()?)
    }

    /// Returns the config of such a client.
    pub(crate) async fn client_config(&self) -> Result<kube::Config> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig_path())?;
        Ok(kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
    }

    /// Returns a PEM certificate and key for a server on this machine, signed by [`Self::ca_path`].
    pub(crate) fn serving_identity(&self) -> Result<(String, String)> {
        let identity = self.authority.serving()?;
        Ok((identity.certificate, identity.key))
    }

    /// Folder of all data, logs included.
    pub(crate) fn folder(&self) -> &Path {
        self.watchdog.folder()
    }

    /// Process ids of etcd, kube-apiserver and kube-controller-manager.
    pub(crate) fn process_ids(&self) -> &[u32] {
        &self.process_ids
    }

    /// Runs kubectl with all rights. Panics only if kubectl cannot be started.
    pub(crate) async fn kubectl(&self, args: &[&str], stdin: Option<&str>) -> KubectlOutput {
        self.try_kubectl(args, stdin)
            .await
            .unwrap_or_else(|error| panic!("cannot run kubectl {args:?}: {error:#}"))
    }

    async fn try_kubectl(&self, args: &[&str], stdin: Option<&str>) -> Result<KubectlOutput> {
        let folder = self.watchdog.folder();
        let mut child = Command::new(&self.kubectl)
            .arg("--kubeconfig")
            .arg(self.kubeconfig_path())
            .arg("--cache-dir")
            .arg(folder.join("kubectl-cache"))
            .args(args)
            // Ignore the preferences of the user who runs the tests.
            .env("KUBERC", "off")
            .env_remove("KUBECONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut pipe = child.stdin.take().context("kubectl has no standard input")?;
        let input = stdin.unwrap_or_default().as_bytes();
        // Write and read concurrently: a kubectl that answers early would block on a full pipe. It may close its
        // input unread.
        let feed = async move {
            let _ = pipe.write_all(input).await;
            drop(pipe);
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        let output = output?;
        Ok(KubectlOutput {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Applies the CRDs of a file or folder and returns when the server offers the resources. The project's own
    /// (`crds/`) exist from the start. The garbage collector discovers others only after up to a minute.
    pub(crate) async fn apply_crd(&self, path: &Path) -> Result<()> {
        let path = path.to_str().context("the path is not UTF-8")?;
        let apply = ["apply", "--server-side", "-f", path];
        self.kubectl(&apply, None).await.success()?;
        let wait = ["wait", "--for=condition=Established", "--timeout=60s", "-f"];
        self.kubectl(&[&wait[..], &[path]].concat(), None)
            .await
            .success()?;
        Ok(())
    }

    /// Creates a namespace `<prefix>-<n>` that no other test uses.
    pub(crate) async fn namespace(&self, prefix: &str) -> String {
        let name = format!("{prefix}-{}", self.made.fetch_add(1, Ordering::Relaxed));
        self.kubectl(&["create", "namespace", &name], None)
            .await
            .success()
            .unwrap_or_else(|error| panic!("no namespace {name}: {error:#}"));
        name
    }

    /// Returns an object or a list of the API server; `None` if it does not exist. For tests that poll: it costs a
    /// fraction of a kubectl process.
    pub(crate) async fn get(&self, path: &str) -> Result<Option<Value>> {
        let client = self.http_client()?;
        self.get_by(&client, path, REQUEST_TIMEOUT).await
    }

    /// Returns the same by a client that is used again, within that time. For tests that poll often or cannot repeat.
    pub(crate) async fn get_by(
        &self,
        client: &reqwest::Client,
        path: &str,
        limit: Duration,
    ) -> Result<Option<Value>> {
        let url = format!("{}{path}", self.server_url());
        let response = client.get(url).timeout(limit).send().await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(response.error_for_status()?.json().await?))
    }

    async fn is_ready(&self) -> bool {
        let Ok(client) = self.http_client() else {
            return false;
        };
        let request = client.get(format!("{}/readyz", self.server_url()));
        let answer = request.timeout(REQUEST_TIMEOUT).send().await;
        answer.is_ok_and(|response| response.status().is_success())
    }

    /// Returns a safe, unique file name for a user.
    fn file_name(&self, user: &str) -> String {
        let plain: String = user
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        format!("{plain}-{}", self.made.fetch_add(1, Ordering::Relaxed))
    }

    fn write_kubeconfig(&self, name: &str, user: &Value) -> Result<PathBuf> {
        let folder = self.watchdog.folder();
        let path = folder.join(format!("{name}.kubeconfig"));
        fs::write(&path, control_plane::kubeconfig(folder, self.port, user)?)?;
        Ok(path)
    }
}

async fn accepts(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).await.is_ok()
}
