//! Real node of a [`Cluster`]: scheduler, kubelet, containerd and runc, so that Pods run. Needs root and the programs
//! of `make bed-node`.
//!
//! Pods have their own network and reach this machine at [`Node::ADDRESS`], which is also the address of the Service
//! `kubernetes`, so they find the API server without kube-proxy. Only 127.0.0.1 and that local address are ever
//! contacted.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::watchdog::{Program, Watchdog};
use super::{Cluster, free_ports, program};

/// Generous, because a machine that also compiles is slow.
const START_LIMIT: Duration = Duration::from_mins(2);

/// Port of the Service `kubernetes`.
const HTTPS: u16 = 443;

/// Address range of Pods.
const PODS: &str = "10.211.96.0/24";

/// Node that ends when dropped, with its Pods, mounts and control groups.
pub(crate) struct Node {
    watchdog: Watchdog,
    forwarders: Vec<JoinHandle<()>>,
}

impl Node {
    /// Address of this machine for Pods: the first address of the cluster's Services.
    pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

    /// Joins the cluster and returns when Pods can run.
    pub(crate) async fn start(cluster: &Cluster) -> Result<Self> {
        let root = Command::new("id").arg("-u").output().await?;
        ensure!(
            root.stdout.trim_ascii() == b"0",
            "a node needs root: it makes namespaces, mounts and control groups"
        );
        let taken = Command::new("ip")
            .args(["-4", "-o", "address", "show", "to", "10.96.0.1/32"])
            .output()
            .await
            .context("the program `ip` (Debian: iproute2) is missing")?;
        ensure!(
            taken.stdout.is_empty(),
            "this machine has the address {} already: it is a Kubernetes node itself, or an earlier run left it (ip address del {}/32 dev lo)",
            Self::ADDRESS,
            Self::ADDRESS
        );
        let watchdog = Watchdog::new("node")?;
        let bin = program("kubelet")?.parent().context("no folder")?.to_owned();
        for needed in [
            "containerd",
            "ctr",
            "containerd-shim-runc-v2",
            "runc",
            "ptp",
            "pause",
        ] {
            program(needed)?;
        }
        let mut node = Self {
            watchdog,
            forwarders: Vec::new(),
        };
        node.write(cluster, &bin)?;
        node.watchdog.start(&scheduler(cluster)?)?;
        node.watchdog.start(&node.program(&bin))?;
        node.watchdog
            .ready("node", START_LIMIT, async || is_ready(cluster).await)
            .await
            .with_context(|| format!("its logs are in {}", node.folder().display()))?;
        node.forward(HTTPS, cluster.port(), None).await?;
        Ok(node)
    }

    /// Folder of all data, logs included.
    pub(crate) fn folder(&self) -> &Path {
        self.watchdog.folder()
    }

    /// Makes a plain HTTP server at this port of 127.0.0.1 reachable for Pods at [`Self::ADDRESS`], by TLS with a
    /// certificate of the cluster's authority.
    pub(crate) async fn offer(&mut self, cluster: &Cluster, port: u16) -> Result<()> {
        let (certificate, key) = cluster.serving_identity()?;
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        self.forward(port, port, Some(TlsAcceptor::from(Arc::new(config))))
            .await
    }

    async fn forward(&mut self, port: u16, to: u16, tls: Option<TlsAcceptor>) -> Result<()> {
        let listener = TcpListener::bind((Self::ADDRESS, port))
            .await
            .with_context(|| format!("{}:{port} cannot be listened on", Self::ADDRESS))?;
        self.forwarders.push(tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                // The two ends notice a failed connection.
                tokio::spawn(carry(from, to, tls.clone()));
            }
        }));
        Ok(())
    }

    /// Kills the first process of a container.
    pub(crate) async fn kill(&self, container: &str) -> Result<()> {
        self.ctr(&["tasks", "kill", "--signal", "SIGKILL", container])
            .await
    }

    /// Imports an image from an archive of the OCI layout.
    pub(crate) async fn import(&self, archive: &Path) -> Result<()> {
        let archive = archive.to_str().context("the path is not UTF-8")?;
        self.ctr(&["images", "import", "--local", "--snapshotter", "native", archive])
            .await
    }

    /// Adds a name to an image of the node.
    pub(crate) async fn tag(&self, image: &str, name: &str) -> Result<()> {
        self.ctr(&["images", "tag", image, name]).await
    }

    async fn ctr(&self, args: &[&str]) -> Result<()> {
        let output = Command::new(program("ctr")?)
            .arg("--address")
            .arg(self.folder().join("containerd.sock"))
            .args(["--namespace", "k8s.io"])
            .args(args)
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "ctr {args:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Runs in namespaces that end with it, however it ends.
    fn program(&self, bin: &Path) -> Program {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/bed/node.sh");
        let namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let mut args: Vec<String> = namespaces.map(String::from).to_vec();
        args.extend(["sh".into(), script.into()]);
        args.extend([self.folder(), bin].map(|path| path.display().to_string()));
        args.push(Self::ADDRESS.to_string());
        Program {
            name: "node",
            path: PathBuf::from("/usr/bin/unshare"),
            args,
            env: vec![],
        }
    }

    /// Writes all files that the node needs.
    fn write(&self, cluster: &Cluster, bin: &Path) -> Result<()> {
        let folder = self.folder();
        let [port] = free_ports()?;
        let user = cluster.kubeconfig_for_user("system:node:localhost", Some("system:nodes"))?;
        fs::copy(user, folder.join("kubelet.kubeconfig"))?;
        let kubelet = kubelet(folder, port, &cluster.ca_path())?;
        fs::write(
            folder.join("kubelet.json"),
            serde_json::to_string_pretty(&kubelet)?,
        )?;
        fs::write(folder.join("containerd.toml"), containerd(folder, bin))?;
        fs::create_dir(folder.join("cni"))?;
        let network = json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [{
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": PODS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": folder.join("addresses"),
                },
            }],
        });
        fs::write(folder.join("cni/10-pods.conflist"), network.to_string())?;
        pause_image(folder, bin)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for forwarder in &self.forwarders {
            forwarder.abort();
        }
    }
}

fn scheduler(cluster: &Cluster) -> Result<Program> {
    let kubeconfig = cluster.kubeconfig_path().display().to_string();
    Ok(Program {
        name: "kube-scheduler",
        path: program("kube-scheduler")?,
        args: vec![
            format!("--kubeconfig={kubeconfig}"),
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
        ],
        env: vec![],
    })
}

/// Copies bytes in both directions until one end closes.
async fn carry(mut from: TcpStream, to: u16, tls: Option<TlsAcceptor>) -> std::io::Result<()> {
    let mut to = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await?;
    match tls {
        None => copy_bidirectional(&mut from, &mut to).await?,
        Some(tls) => copy_bidirectional(&mut tls.accept(from).await?, &mut to).await?,
    };
    Ok(())
}

/// True if the node accepts Pods and its network works.
async fn is_ready(cluster: &Cluster) -> bool {
    let ready = [
        "get",
        "node",
        "localhost",
        "-o",
        "jsonpath={.status.conditions[?(@.type=='Ready')].status}",
    ];
    let output = cluster.kubectl(&ready, None).await;
    output.status.success() && output.stdout == "True"
}

/// Kubelet settings that let it run in a container and touch only its own resources.
fn kubelet(folder: &Path, port: u16, ca: &Path) -> Result<Value> {
    let name = folder.file_name().and_then(|name| name.to_str());
    let name = name.context("the folder's name is not UTF-8")?;
    Ok(json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "127.0.0.1",
        "port": port,
        "healthzPort": 0,
        "readOnlyPort": 0,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": ca},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": format!("unix://{}", folder.join("containerd.sock").display()),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{name}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "localStorageCapacityIsolation": true,
        "podLogsDir": folder.join("pods"),
        "volumePluginDir": folder.join("plugins"),
        "resolvConf": "",
        "clusterDNS": ["10.96.0.1"],
        // Other use of the machine must not evict Pods.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "2s",
        "syncFrequency": "10s",
    }))
}

fn containerd(folder: &Path, bin: &Path) -> String {
    let (folder, bin) = (folder.display(), bin.display());
    format!(
        r#"version = 3
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins."io.containerd.cri.v1.images"]
snapshotter = "native"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
# A machine without CAP_SYS_RESOURCE cannot lower the score.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{bin}"]
conf_dir = "{folder}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{bin}/runc"
Root = "{folder}/runc"
SystemdCgroup = false
"#
    )
}

/// Builds the image of the pause container: one program, as an archive of the OCI layout.
fn pause_image(folder: &Path, bin: &Path) -> Result<()> {
    let root = folder.join("pause");
    fs::create_dir(&root)?;
    fs::copy(bin.join("pause"), root.join("pause"))?;
    fs::write(
        root.join("Dockerfile"),
        "FROM scratch\nCOPY pause /pause\nENTRYPOINT [\"/pause\"]\n",
    )?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/image/pack");
    let output = std::process::Command::new("sh")
        .arg(script)
        .arg(&root)
        .arg("localhost/pause:1")
        .arg(folder.join("pause.tar"))
        .output()?;
    if !output.status.success() {
        bail!(
            "no image of pause: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
