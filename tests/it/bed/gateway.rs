//! An S3 store: versitygw over a temporary folder, with versioning, object lock, checksums,
//! conditional writes and accounts. Credentials are random per instance.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::body::Bytes;
use axum::http::{Method, Request};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::watchdog::{Program, Watchdog};
use super::{PORT_TAKEN, free_ports, http_client, program, signature};

const START_LIMIT: Duration = Duration::from_secs(30);
const NAME: &str = "versitygw";

pub(crate) struct Gateway {
    watchdog: Watchdog,
    program: Program,
    port: u16,
    access_key: String,
    secret_key: String,
    process_id: u32,
}

impl Gateway {
    /// Region for signatures.
    pub(crate) const REGION: &'static str = signature::REGION;

    /// Returns the gateway of this test process; the first call starts it. Tests are isolated by bucket; a test that
    /// stops the gateway starts its own.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Gateway> = OnceCell::const_new();
        SHARED
            .get_or_init(async || {
                Self::start()
                    .await
                    .unwrap_or_else(|error| panic!("no S3 gateway: {error:#}"))
            })
            .await
    }

    /// Starts a separate gateway that ends when dropped.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts a gateway that keeps connections open after a reply, as S3 does.
    pub(crate) async fn start_keeping_alive() -> Result<Self> {
        Self::start_with(&["--keep-alive"]).await
    }

    async fn start_with(more: &[&str]) -> Result<Self> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match Self::try_start(more).await {
                Err(error) if attempts < 3 && error.to_string().contains(PORT_TAKEN) => {}
                outcome => return outcome,
            }
        }
    }

    async fn try_start(more: &[&str]) -> Result<Self> {
        let path = program(NAME)?;
        let [port] = free_ports()?;
        let watchdog = Watchdog::new("gateway")?;
        // No name may be a prefix of another, or the gateway confuses the folders.
        let [objects, versions, accounts] =
            ["objects", "versions", "accounts"].map(|name| watchdog.folder().join(name));
        for folder in [&objects, &versions, &accounts] {
            fs::create_dir(folder)?;
        }
        let access_key = format!("root{:016x}", rand::random::<u64>());
        let secret_key = format!("{:032x}", rand::random::<u128>());
        let program = Program {
            name: NAME,
            path,
            args: [
                "--port",
                &format!("127.0.0.1:{port}"),
                "--region",
                signature::REGION,
                "--iam-dir",
                &accounts.display().to_string(),
                "--quiet",
            ]
            .iter()
            .chain(more)
            .chain(&[
                "posix",
                "--versioning-dir",
                &versions.display().to_string(),
                &objects.display().to_string(),
            ])
            .map(ToString::to_string)
            .collect(),
            env: vec![
                ("ROOT_ACCESS_KEY", access_key.clone()),
                ("ROOT_SECRET_KEY", secret_key.clone()),
            ],
        };
        let mut gateway = Self {
            watchdog,
            program,
            port,
            access_key,
            secret_key,
            process_id: 0,
        };
        gateway.resume().await?;
        Ok(gateway)
    }

    /// `http://127.0.0.1:…`, for path-style addressing.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Port of 127.0.0.1 that it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Access key of the root account.
    pub(crate) fn access_key(&self) -> &str {
        &self.access_key
    }

    pub(crate) fn secret_key(&self) -> &str {
        &self.secret_key
    }

    /// Folder of all data, for tests that inspect or damage it.
    pub(crate) fn folder(&self) -> &Path {
        self.watchdog.folder()
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process_id
    }

    /// Kills the gateway: its port refuses connections until [`resume`](Self::resume).
    pub(crate) fn stop(&self) -> Result<()> {
        self.watchdog.stop(NAME)
    }

    /// Restarts the gateway on the same port with the same keys and data.
    pub(crate) async fn resume(&mut self) -> Result<()> {
        self.process_id = self.watchdog.start(&self.program)?;
        let address = ("127.0.0.1", self.port);
        self.watchdog
            .ready(NAME, START_LIMIT, async || {
                TcpStream::connect(address).await.is_ok()
            })
            .await
    }

    /// Creates a bucket. S3 requires a name of three letters or more.
    pub(crate) async fn create_bucket(&self, name: &str) -> Result<()> {
        let mut request = Request::builder()
            .method(Method::PUT)
            .uri(format!("{}/{name}", self.endpoint()))
            .body(Bytes::new())?;
        signature::sign(&mut request, &self.access_key, &self.secret_key)?;
        let response = http_client()?.execute(request.try_into()?).await?;
        let status = response.status();
        ensure!(
            status.is_success(),
            "no bucket {name}: {status} {}",
            response.text().await?
        );
        Ok(())
    }

    /// Removes a bucket and all its versions from the disk, bypassing S3.
    pub(crate) fn remove_bucket(&self, name: &str) {
        for folder in ["objects", "versions"] {
            let _ = fs::remove_dir_all(self.folder().join(folder).join(name));
        }
    }

    /// Adds an account. A `user` has access only to buckets that it owns or that a policy grants; `userplus` may also
    /// create buckets; `admin` may do everything.
    pub(crate) async fn add_user(&self, access: &str, secret: &str, role: &str) -> Result<()> {
        let output = Command::new(&self.program.path)
            .args(["admin", "create-user", "--access", access])
            .args(["--secret", secret, "--role", role])
            .env("ADMIN_ACCESS_KEY_ID", &self.access_key)
            .env("ADMIN_SECRET_ACCESS_KEY", &self.secret_key)
            .env("ADMIN_REGION", signature::REGION)
            .env("ADMIN_ENDPOINT_URL", self.endpoint())
            .output()
            .await
            .context("cannot run versitygw admin")?;
        ensure!(
            output.status.success(),
            "no user {access}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}
