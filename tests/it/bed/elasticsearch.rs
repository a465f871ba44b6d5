//! Real Elasticsearch as a consumer of events. `make consumers` fetches it; without it or Java the tests report that
//! they are skipped.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::watchdog::{Program, Watchdog};
use super::{free_ports, http_client};

/// A start takes 20 s on an idle machine.
const START_LIMIT: Duration = Duration::from_mins(4);
const NAME: &str = "elasticsearch";
/// Elasticsearch refuses to run as root and runs as `nobody`.
const NOBODY: &str = "65534";

pub(crate) struct Elasticsearch {
    watchdog: Watchdog,
    port: u16,
}

impl Elasticsearch {
    /// Starts an instance that ends when dropped. Returns `None` if it is unavailable, and reports that past the
    /// capture of the tests.
    pub(crate) async fn start(test: &str) -> Result<Option<Self>> {
        let home = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".bed/consumers/elasticsearch");
        let missing = if !home.join("version").is_file() {
            Some("Elasticsearch is not in .bed/consumers: `make consumers` fetches it through Maven")
        } else if java_home().is_none() {
            Some("Java is missing: install a JDK 17")
        } else {
            None
        };
        if let Some(missing) = missing {
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {missing}");
            return Ok(None);
        }
        Self::run(&home).await.map(Some)
    }

    async fn run(home: &Path) -> Result<Self> {
        let [port, transport] = free_ports()?;
        let watchdog = Watchdog::new(NAME)?;
        let folder = watchdog.folder();
        let own = folder.join("home");
        // Copied, because it writes beside its configuration and the other user may not read the original.
        shell(&[
            "cp",
            "-R",
            &home.display().to_string(),
            &own.display().to_string(),
        ])?;
        fs::create_dir_all(own.join("tmp"))?;
        let root = fs::metadata(folder)?.uid() == 0;
        let mut args = Vec::new();
        if root {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
            shell(&[
                "chown",
                "-R",
                &format!("{NOBODY}:{NOBODY}"),
                &own.display().to_string(),
            ])?;
            args.extend([
                "setpriv".to_owned(),
                format!("--reuid={NOBODY}"),
                format!("--regid={NOBODY}"),
            ]);
            args.push("--clear-groups".to_owned());
        }
        args.push(own.join("bin/elasticsearch").display().to_string());
        for setting in [
            "discovery.type=single-node".to_owned(),
            "network.host=127.0.0.1".to_owned(),
            format!("http.port={port}"),
            format!("transport.port={transport}"),
            // A nearly full disk must not fail a test.
            "cluster.routing.allocation.disk.threshold_enabled=false".to_owned(),
        ] {
            args.extend(["-E".to_owned(), setting]);
        }
        let program = Program {
            name: NAME,
            path: "/usr/bin/env".into(),
            args,
            env: vec![
                (
                    "ES_JAVA_HOME",
                    java_home().context("Java is missing")?.display().to_string(),
                ),
                ("ES_JAVA_OPTS", "-Xms512m -Xmx512m".to_owned()),
                ("ES_TMPDIR", own.join("tmp").display().to_string()),
            ],
        };
        watchdog.start(&program)?;
        let started = Self { watchdog, port };
        let health = format!("{}/_cluster/health", started.url());
        let client = http_client()?;
        started
            .watchdog
            .ready(NAME, START_LIMIT, async || {
                let asked = client.get(&health).timeout(Duration::from_secs(5)).send().await;
                asked.is_ok_and(|answer| answer.status().is_success())
            })
            .await?;
        Ok(started)
    }

    /// `http://127.0.0.1:…`.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Returns the home of the `java` in PATH, or `JAVA_HOME`.
fn java_home() -> Option<PathBuf> {
    if let Some(home) = std::env::var_os("JAVA_HOME").map(PathBuf::from)
        && home.join("bin/java").is_file()
    {
        return Some(home);
    }
    let java = std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join("java"))
        .find(|java| java.is_file())?;
    Some(java.canonicalize().ok()?.parent()?.parent()?.to_owned())
}

fn shell(words: &[&str]) -> Result<()> {
    let [program, arguments @ ..] = words else {
        return Ok(());
    };
    let ended = Command::new(program).args(arguments).status();
    ensure!(ended.is_ok_and(|status| status.success()), "{words:?} failed");
    Ok(())
}
