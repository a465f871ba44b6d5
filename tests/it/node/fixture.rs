//! Fixture of the node tests: a cluster with a real node, an S3 store and a service that Pods reach, and the image on
//! the node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{RequestKind, Simulator};
use jiff::civil::{Date, date};
use serde_json::{Value, json};
use tokio::process::Command;

use super::transcript::Transcript;
use crate::bed::{Cluster, Gateway, Node, program};
use crate::operator::eventually_within;
use crate::testkit::folder;
use crate::testkit::manifest::{Manifest, SPACE, bucket_keys, secret, tracker_keys};
use crate::testkit::service::service_on;

/// Generous, because a machine that also compiles is slow.
const TIMEOUT: Duration = Duration::from_mins(3);

/// Image name on the node.
pub(super) const IMAGE: &str = "localhost/eventexport";

/// Namespace of the exports. Like that of the operator it enforces the restricted policy.
pub(super) const AUDIT: &str = "audit";

/// Namespace of the operator.
pub(super) const SYSTEM: &str = "eventexport";

const BUCKET: &str = "archive";

pub(super) struct NodeFixture {
    pub(super) cluster: Cluster,
    pub(super) node: Node,
    pub(super) simulator: Simulator,
    pub(super) transcript: Transcript,
    gateway: Gateway,
}

impl NodeFixture {
    pub(super) async fn start() -> Result<Self> {
        let archive = image_archive()?;
        let transcript = Transcript::create("transcript.md", "The image and the chart on a real node")?;
        transcript.part("The stage");
        let cluster = Cluster::start().await?;
        // As in a cluster before the first installation.
        let crd = ["delete", "crd", "eventexports.eventexport.io"];
        cluster.kubectl(&crd, None).await.success()?;
        let mut node = Node::start(&cluster).await?;
        node.import(&archive).await?;
        let gateway = Gateway::start().await?;
        gateway.create_bucket(BUCKET).await?;
        let settings = service_on(date(2018, 7, 1));
        let simulator = Simulator::start(settings).await?;
        let port = simulator.url().port().context("the simulator has no port")?;
        for port in [gateway.port(), port] {
            node.offer(&cluster, port).await?;
        }
        let fixture = Self {
            cluster,
            node,
            simulator,
            transcript,
            gateway,
        };
        for namespace in [AUDIT, SYSTEM] {
            fixture
                .apply(&json!({
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {
                        "name": namespace,
                        "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
                    },
                }))
                .await?;
        }
        fixture.secret("tracker", tracker_keys()).await?;
        fixture.secret("bucket", bucket_keys(&fixture.gateway)).await?;
        let authority = fs::read_to_string(fixture.cluster.ca_path())?;
        fixture.secret("authority", json!({"ca.crt": authority})).await?;
        let nodes = fixture.kubectl(&["get", "nodes", "-o", "wide"]).await?;
        fixture.transcript.show("kubectl get nodes -o wide", &nodes);
        Ok(fixture)
    }

    async fn secret(&self, name: &str, data: Value) -> Result<()> {
        self.apply(&secret(AUDIT, name, &data)).await
    }

    /// Returns an export of days of June 2018 from the simulator into the bucket, below its own prefix.
    pub(super) fn export(&self, name: &str, days: (i8, i8)) -> Value {
        let at = |port: Option<u16>| format!("https://{}:{}", Node::ADDRESS, port.unwrap_or_default());
        let service = at(self.simulator.url().port());
        let authority = json!({ "name": "authority" });
        Manifest::new(name, &service)
            .namespace(AUDIT)
            .days(
                &date(2018, 6, days.0).to_string(),
                &date(2018, 6, days.1).to_string(),
            )
            .uaa()
            .set("source.caSecretRef", authority.clone())
            .bucket(BUCKET, name, &at(Some(self.gateway.port())))
            .set("destination.s3.forcePathStyle", true)
            .set("destination.s3.caSecretRef", authority)
            .export()
    }

    /// Checks that the archive below a prefix has exactly these days of June, each as served, and that no temporary
    /// entry or session is left.
    pub(super) fn verify(&self, prefix: &str, days: (i8, i8)) -> Result<u64> {
        let mut events = 0;
        let mut wanted = Vec::new();
        for day in (days.0..=days.1).map(|day| date(2018, 6, day)) {
            events += self.verify_day(prefix, day, &mut wanted)?;
        }
        let root = self.root(prefix);
        let mut found: Vec<_> = folder::files(&root).iter().map(|file| root.join(file)).collect();
        found.retain(|path| !path.to_string_lossy().contains("_manifests/"));
        found.sort();
        wanted.sort();
        ensure!(
            found == wanted,
            "the archive holds {found:#?}, not just {wanted:#?}"
        );
        Ok(events)
    }

    fn verify_day(&self, prefix: &str, day: Date, wanted: &mut Vec<PathBuf>) -> Result<u64> {
        let (root, body) = (self.root(prefix), self.simulator.body_of(SPACE, false, day, None));
        let receipt = root.join(format!("_journal/{day}.receipt.json"));
        let stored: Value = serde_json::from_slice(&fs::read(&receipt)?)?;
        ensure!(stored["events"] == body.events(), "{day}: {stored}");
        wanted.push(receipt);
        if body.events() > 0 {
            let object = root.join(format!("date={day}/events.json.gz"));
            let bytes = fs::metadata(&object)?.len();
            ensure!(
                stored["object"]["bytes"] == bytes,
                "{day}: {bytes} bytes, {stored}"
            );
            wanted.push(object);
        }
        Ok(body.events())
    }

    /// Counts the receipts below a prefix.
    pub(super) fn receipts(&self, prefix: &str) -> usize {
        let receipt = |path: &&PathBuf| path.to_string_lossy().ends_with(".receipt.json");
        folder::files(&self.root(prefix)).iter().filter(receipt).count()
    }

    /// Folder of a prefix in the store.
    fn root(&self, prefix: &str) -> PathBuf {
        let bucket = self.gateway.folder().join("objects").join(BUCKET);
        bucket.join(prefix).join(format!("space={SPACE}/scope=space"))
    }

    /// Waits until no session is open, and checks that all requests followed the protocol.
    pub(super) async fn no_session_open(&self) -> Result<()> {
        self.eventually("every session is deleted", async || {
            Ok(self.simulator.open_sessions().is_empty())
        })
        .await?;
        let ledger = self.simulator.ledger();
        ensure!(ledger.violation_count == 0, "{:?}", ledger.violations);
        let (opened, deleted) = (ledger.opened, ledger.deleted);
        self.transcript.say(&format!(
            "the service: {opened} sessions opened so far, {deleted} deleted, none open"
        ));
        Ok(())
    }

    /// Makes downloads practically endless until [`restore_downloads`](Self::hurry).
    pub(super) fn slow_downloads(&self) -> Result<u64> {
        self.simulator.add_preset("trickle")?;
        Ok(self.downloads())
    }

    pub(super) fn restore_downloads(&self) {
        self.simulator.set_faults(Vec::new());
    }

    pub(super) fn downloads(&self) -> u64 {
        self.simulator.ledger().requests_of(RequestKind::Download)
    }

    /// Counts the downloads of these days of June by all exports.
    pub(super) fn downloads_of(&self, days: (i8, i8)) -> u64 {
        let ledger = self.simulator.ledger();
        let of = |day| {
            let window = format!("{SPACE}/space/{}", date(2018, 6, day));
            ledger
                .downloads
                .get(&window)
                .map_or(0, |download| download.replies)
        };
        (days.0..=days.1).map(of).sum()
    }

    pub(super) async fn apply(&self, object: &Value) -> Result<()> {
        let apply = ["apply", "--server-side", "-f", "-"];
        let output = self.cluster.kubectl(&apply, Some(&object.to_string())).await;
        output.success().map(drop)
    }

    pub(super) async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.cluster.kubectl(args, None).await.success()
    }

    /// Runs kubectl with all rights and adds its output to the transcript.
    pub(super) async fn show(&self, args: &[&str]) -> Result<String> {
        let printed = self.kubectl(args).await?;
        let command: Vec<String> = args.iter().map(|arg| shell_word(arg)).collect();
        self.transcript
            .show(&format!("kubectl {}", command.join(" ")), &printed);
        Ok(printed)
    }

    /// Reads a part of an object by `JSONPath`.
    pub(super) async fn part(&self, of: &[&str], path: &str) -> Result<String> {
        let output = format!("jsonpath={path}");
        self.kubectl(&[&["get"], of, &["-o", &output]].concat()).await
    }

    /// Runs Helm with all rights and adds its output to the transcript.
    pub(super) async fn helm(&self, args: &[&str]) -> Result<String> {
        let began = Instant::now();
        let folder = self.node.folder().join("helm");
        let output = Command::new(program("helm")?)
            .args(args)
            .env("KUBECONFIG", self.cluster.kubeconfig_path())
            .env("HELM_CACHE_HOME", folder.join("cache"))
            .env("HELM_CONFIG_HOME", folder.join("config"))
            .env("HELM_DATA_HOME", folder.join("data"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let printed = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let root = env!("CARGO_MANIFEST_DIR");
        let command = args.join(" ").replace(&format!("{root}/"), "");
        self.transcript.show(&format!("helm {command}"), &printed);
        ensure!(output.status.success(), "helm {command}: {printed}");
        self.transcript
            .say(&format!("that took {:.1} s", began.elapsed().as_secs_f64()));
        Ok(printed)
    }

    /// Waits until the condition holds.
    pub(super) async fn eventually(
        &self,
        what: &str,
        holds: impl AsyncFnMut() -> Result<bool>,
    ) -> Result<Duration> {
        let began = Instant::now();
        eventually_within(TIMEOUT, what, holds).await?;
        Ok(began.elapsed())
    }

    /// Waits until an export is complete.
    pub(super) async fn wait_complete(&self, name: &str) -> Result<()> {
        let export = format!("eventexport/{name}");
        let wait = [
            "wait",
            "-n",
            AUDIT,
            "--for=condition=Complete",
            "--timeout=180s",
            &export,
        ];
        self.kubectl(&wait).await?;
        Ok(())
    }

    /// Kills the process of a Pod's only container, as the kernel does when memory runs out.
    pub(super) async fn kill(&self, namespace: &str, pod: &str) -> Result<()> {
        let path = "{.status.containerStatuses[0].containerID}";
        let id = self.part(&["pod", pod, "-n", namespace], path).await?;
        let id = id.strip_prefix("containerd://").context("no container runs")?;
        self.node.kill(id).await?;
        self.transcript
            .say(&format!("killed the process of {namespace}/{pod}"));
        Ok(())
    }

    /// Prints diagnostics after a failure.
    pub(super) async fn show_diagnostics(&self) {
        for args in [
            &["get", "pods,jobs,eventexports", "-A", "-o", "wide"][..],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
            &[
                "logs",
                "-n",
                SYSTEM,
                "-l",
                "app.kubernetes.io/name=eventexport",
                "--prefix",
                "--tail=60",
            ],
            &[
                "logs",
                "-n",
                AUDIT,
                "-l",
                "app.kubernetes.io/name=eventexport",
                "--prefix",
                "--tail=60",
            ],
        ] {
            let _ = self.show(args).await;
        }
    }
}

/// Path of the image archive to test.
pub(super) fn image_archive() -> Result<PathBuf> {
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let built = format!("target/image/eventexport-{architecture}.tar");
    let path = std::env::var_os("E2E_IMAGE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(built),
        PathBuf::from,
    );
    ensure!(
        path.is_file(),
        "there is no image {}: run `make image` first (`make e2e` does), or name one by E2E_IMAGE",
        path.display()
    );
    Ok(path)
}

fn shell_word(word: &str) -> String {
    if word.chars().any(|c| " {}[]$'*|&;".contains(c)) {
        format!("'{}'", word.replace('\'', r"'\''"))
    } else {
        word.to_owned()
    }
}
