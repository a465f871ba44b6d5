//! krew installs the plugin, and a registry gets the chart: with the real tools, on a small release.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{ROOT, VERSION};
use crate::bed::program;
use crate::packages::small_release;

fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(output.status.success(), "{command:?}: {printed}");
    Ok(printed)
}

#[test]
fn krew_installs_the_plugin_from_its_manifest() -> Result<()> {
    let release = small_release()?;
    let roots = tempfile::tempdir()?;
    let target = match std::env::consts::ARCH {
        "aarch64" => "aarch64-unknown-linux-musl",
        _ => "x86_64-unknown-linux-musl",
    };
    let archive = format!("eventexport-{VERSION}-{target}.tar.gz");
    let install = |root: &Path| {
        let mut krew = Command::new(program("krew").unwrap());
        krew.args(["install", "--no-update-index", "--manifest"])
            .arg(release.path().join("eventexport.yaml"))
            .arg("--archive")
            .arg(release.path().join(&archive))
            .env("KREW_ROOT", root)
            .env("KREW_NO_UPGRADE_CHECK", "1")
            .env("HOME", root);
        run(&mut krew)
    };
    let root = roots.path().join("krew");
    install(&root)?;
    let plugin = root.join("bin/kubectl-eventexport");
    let printed = run(Command::new(&plugin).arg("--version"))?;
    ensure!(printed == format!("eventexport {VERSION}\n"), "{printed}");

    // krew compares the digest also of a local archive.
    let path = release.path().join(&archive);
    let mut bytes = fs::read(&path)?;
    bytes[9] ^= 1;
    fs::write(&path, bytes)?;
    let error = install(&roots.path().join("other")).unwrap_err().to_string();
    ensure!(error.contains("checksum"), "{error}");
    Ok(())
}

/// A registry on 127.0.0.1 that ends with its owner.
struct Registry {
    process: Child,
    address: String,
}

impl Registry {
    fn start() -> Result<Self> {
        let mut process = Command::new(program("crane")?)
            .args(["registry", "serve", "--address", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(process.stderr.take().context("no standard error")?).lines();
        let port = lines.find_map(|line| {
            let line = line.ok()?;
            Some(line.split_once("serving on port ")?.1.to_owned())
        });
        let registry = Self {
            process,
            address: format!("127.0.0.1:{}/audit", port.unwrap_or_default()),
        };
        ensure!(!registry.address.contains(":/"), "the registry did not start");
        // The registry logs each request: an unread pipe would block it.
        std::thread::spawn(move || lines.count());
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A key pair of cosign with the password `PASSWORD`, below the prefix.
fn key_pair(prefix: &Path) -> Result<PathBuf> {
    run(Command::new(program("cosign")?)
        .args(["generate-key-pair", "--output-key-prefix"])
        .arg(prefix)
        .env("COSIGN_PASSWORD", PASSWORD))?;
    Ok(prefix.with_extension("key"))
}

const PASSWORD: &str = "of a key that signs only this test";

/// Runs `script` of the release in an environment with the tools and the password.
fn script(name: &str) -> Result<Command> {
    let tools = program("cosign")?;
    let tools = tools.parent().context("no folder")?.display().to_string();
    let mut command = Command::new("sh");
    command
        .arg(Path::new(ROOT).join("release").join(name))
        .env("PATH", format!("{tools}:{}", std::env::var("PATH")?))
        .env("COSIGN_PASSWORD", PASSWORD);
    Ok(command)
}

#[test]
fn a_pushed_chart_is_signed_by_the_key_of_the_release() -> Result<()> {
    let home = tempfile::tempdir()?;
    let release = small_release()?;
    let folder = release.path();
    run(Command::new(program("helm")?)
        .args([
            "package",
            "--version",
            VERSION,
            "--app-version",
            VERSION,
            "--destination",
        ])
        .arg(folder)
        .arg(Path::new(ROOT).join("charts/eventexport")))?;
    fs::write(
        folder.join(format!("eventexport-{VERSION}.intoto.json")),
        STATEMENT,
    )?;
    run(Command::new("sh")
        .args(["-c", "sha256sum -- * >SHA256SUMS"])
        .current_dir(folder))?;
    let key = key_pair(&home.path().join("release"))?;
    fs::copy(home.path().join("release.pub"), folder.join("cosign.pub"))?;
    run(script("sign")?
        .arg(folder)
        .arg(&key)
        .arg(VERSION)
        .env("HOME", home.path()))?;

    let registry = Registry::start()?;
    let push = |key: &Path| {
        run(script("chart")?
            .arg(folder)
            .arg(VERSION)
            .env("REGISTRY", &registry.address)
            .env("COSIGN_KEY", key)
            .env("HOME", home.path()))
    };
    let printed = push(&key)?;
    let chart = printed
        .split_whitespace()
        .find(|word| word.contains("/charts/eventexport@sha256:"))
        .with_context(|| printed.clone())?
        .to_owned();

    // The command of docs/releases.md, and the chart that Helm installs.
    let verify = |public_key: &Path| {
        run(Command::new(program("cosign")?)
            .args(["verify", "--insecure-ignore-tlog", "--key"])
            .arg(public_key)
            .arg(&chart)
            .env("HOME", home.path()))
    };
    verify(&folder.join("cosign.pub"))?;
    let pulled = home.path().join("pulled");
    fs::create_dir(&pulled)?;
    run(Command::new(program("helm")?)
        .args(["pull", "--plain-http", "--version", VERSION, "--destination"])
        .arg(&pulled)
        .arg(format!("oci://{}/charts/eventexport", registry.address))
        .env("HOME", home.path()))?;
    let name = format!("eventexport-{VERSION}.tgz");
    ensure!(fs::read(pulled.join(&name))? == fs::read(folder.join(&name))?);

    // A key of somebody else proves nothing, and signs nothing that passes.
    let other = key_pair(&home.path().join("other"))?;
    ensure!(verify(&other.with_extension("pub")).is_err());
    let unsigned = Registry::start()?;
    let error = run(script("chart")?
        .arg(folder)
        .arg(VERSION)
        .env("REGISTRY", &unsigned.address)
        .env("COSIGN_KEY", &other)
        .env("HOME", home.path()))
    .unwrap_err()
    .to_string();
    ensure!(error.contains("is COSIGN_KEY the key of the release?"), "{error}");

    // A chart that is not the one of the signed sums is not pushed.
    let mut bytes = fs::read(folder.join(&name))?;
    bytes[9] ^= 1;
    fs::write(folder.join(&name), bytes)?;
    let error = push(&key).unwrap_err().to_string();
    ensure!(error.contains("is not the chart that"), "{error}");
    Ok(())
}

/// The least statement that cosign signs.
const STATEMENT: &str = r#"{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"chart","digest":{"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}],"predicateType":"https://slsa.dev/provenance/v1","predicate":{}}"#;
