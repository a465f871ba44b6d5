//! One Kubernetes control plane: etcd, kube-apiserver and kube-controller-manager. Unless a [`Node`](super::Node)
//! joins it there is none, so Pods stay Pending; everything that controllers do (owner references, Jobs, tokens,
//! finalizers, namespaces) is real.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::certificates::Authority;
use super::watchdog::Watchdog;
use super::{PORT_TAKEN, control_plane, free_ports, program};

/// Long, because a machine that also compiles is slow; a start takes seconds otherwise.
const START_LIMIT: Duration = Duration::from_mins(2);

/// What `kubectl` said.
#[derive(Debug)]
pub(crate) struct KubectlOutput {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl KubectlOutput {
    /// What it printed, or an error with what it complained about.
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
    /// Numbers namespaces and kubeconfigs, so that their names are unique in the cluster.
    made: AtomicU32,
    process_ids: Vec<u32>,
}

impl Cluster {
    /// The cluster of this test process, started by whoever asks first. Tests keep apart by
    /// [`namespace`](Self::namespace); one that stops a component starts a cluster of its own.
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

    /// A cluster of its own; gone when dropped.
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
            .ready("kube-apiserver", START_LIMIT, async || {
                // A look at the port first: it costs less than a process.
                accepts(port).await && cluster.is_ready().await
            })
            .await?;

        // Before the controllers start: they look for new kinds every half minute only, and until
        // then an owner of such a kind leaves its dependents behind.
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
        if own.is_dir() {
            cluster.apply_crd(&own).await.context("crds/")?;
        }

        // Only now: it gives up when the API server keeps it waiting.
        let manager = cluster
            .watchdog
            .start(&control_plane::controller_manager(folder)?)?;
        cluster
            .watchdog
            .ready("kube-controller-manager", START_LIMIT, async || {
                // The first thing that its controllers visibly do.
                let account = ["get", "serviceaccount", "default", "-n", "default"];
                cluster.kubectl(&account, None).await.status.success()
            })
            .await?;

        cluster.process_ids = vec![etcd, api_server, manager];
        Ok(cluster)
    }

    /// For clients with all rights (group `system:masters`).
    pub(crate) fn kubeconfig_path(&self) -> PathBuf {
        self.watchdog.folder().join("admin.kubeconfig")
    }

    /// For a client whom the cluster knows as this user: no rights but those that a test grants.
    pub(crate) fn kubeconfig_for_user(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let identity = self.authority.client(user, group)?;
        let name = self.file_name(user);
        let folder = self.watchdog.folder();
        let credentials = control_plane::client_certificate(folder, &name, &identity)?;
        self.write_kubeconfig(&name, &credentials)
    }

    /// For a client that holds a fresh token of an existing service account.
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

    /// The port of 127.0.0.1 that the API server listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The certificate that the server's own is signed with, as PEM.
    pub(crate) fn ca_path(&self) -> PathBuf {
        self.watchdog.folder().join("ca.crt")
    }

    /// A client that the API server knows as the admin of [`Self::kubeconfig_path`]. As all clients it belongs to the
    /// runtime that made it.
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

    /// A certificate and its key, both PEM, for a server of this machine; [`Self::ca_path`] vouches for it.
    pub(crate) fn serving_identity(&self) -> Result<(String, String)> {
        let identity = self.authority.serving()?;
        Ok((identity.certificate, identity.key))
    }

    /// Where it keeps everything, logs included.
    pub(crate) fn folder(&self) -> &Path {
        self.watchdog.folder()
    }

    /// The process ids of etcd, kube-apiserver and kube-controller-manager.
    pub(crate) fn process_ids(&self) -> &[u32] {
        &self.process_ids
    }

    /// Runs kubectl with all rights. Panics only when kubectl cannot be run at all.
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
            // The preferences of whoever runs the tests do not count.
            .env("KUBERC", "off")
            .env_remove("KUBECONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut pipe = child.stdin.take().context("kubectl has no standard input")?;
        let input = stdin.unwrap_or_default().as_bytes();
        // Both at once: a kubectl that answers early would block on a full pipe. That it may
        // close its input unread is no error.
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

    /// Applies the definitions of a file or folder and returns when the server offers the
    /// resources. The project's own (`crds/`) are there from the start. Of others the garbage
    /// collector takes up to a minute to learn.
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

    /// Makes a namespace `<prefix>-<n>` that no other test has.
    pub(crate) async fn namespace(&self, prefix: &str) -> String {
        let name = format!("{prefix}-{}", self.made.fetch_add(1, Ordering::Relaxed));
        self.kubectl(&["create", "namespace", &name], None)
            .await
            .success()
            .unwrap_or_else(|error| panic!("no namespace {name}: {error:#}"));
        name
    }

    async fn is_ready(&self) -> bool {
        let readyz = ["get", "--raw", "/readyz", "--request-timeout=5s"];
        self.try_kubectl(&readyz, None)
            .await
            .is_ok_and(|output| output.status.success())
    }

    /// A file name of its own for a user, whose name may hold what a file name must not.
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
