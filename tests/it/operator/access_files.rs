//! Files of allowed hosts and grants that change while the operator runs.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::SignedDuration;
use serde_json::Value;

use super::eventually;
use crate::testkit::environment::{Environment, no_session_left};
use crate::testkit::manifest::Manifest;
use crate::testkit::process::Process;
use crate::testkit::proxy::{ProxiedPeer, RequestMatcher};
use crate::testkit::sts::{FakeSts, StsReply};

/// Interval of the operator between two reads.
const INTERVAL: Duration = Duration::from_millis(300);

/// Operator with its own identity, both files, and downloads that do not end while the test holds them.
struct AccessFixture {
    env: Environment,
    operator: Arc<Process>,
    _sts: FakeSts,
}

impl AccessFixture {
    async fn start(name: &str) -> Result<Self> {
        let env = Environment::builder(name).start().await?;
        let sts = FakeSts::start(env.gateway.access_key(), env.gateway.secret_key()).await?;
        sts.reply(StsReply::Keys(SignedDuration::from_hours(1)));
        let path = |name: &str| env.folder.path().join(name).display().to_string();
        fs::write(path("hosts"), "# no further host\n127.0.0.1\n")?;
        fs::write(path("grants"), "")?;
        let operator = env
            .operator()
            .args(&[
                "--allow-host-file",
                &path("hosts"),
                "--grant-identity-file",
                &path("grants"),
            ])
            .args(&["--access-interval", "300ms"])
            .own_identity(&sts, &env.folder.path().join("token"))?
            .start()
            .await?;
        Ok(Self {
            env,
            operator,
            _sts: sts,
        })
    }

    /// Returns an export of one day through the proxies, with the operator's identity.
    fn export(&self, name: &str) -> Manifest {
        self.env
            .proxied_export(name)
            .days("2018-06-05", "2018-06-05")
            .set("destination.s3.prefix", name)
            .set("destination.s3.credentialsSecretRef", Value::Null)
    }

    /// Replaces a file as the kubelet does: at once.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = |name: &str| -> PathBuf { self.env.folder.path().join(name) };
        fs::write(path("new"), text)?;
        Ok(fs::rename(path("new"), path(name))?)
    }

    /// Grants the operator's identity to the exports with these names.
    fn grant(&self, names: &[&str]) -> Result<()> {
        let (namespace, store) = (&self.env.namespace, self.env.store.endpoint());
        let lines = names
            .iter()
            .map(|name| format!("{namespace}={namespace}/{name}@{store}\n"));
        self.write("grants", &lines.collect::<String>())
    }

    async fn session(&self, name: &str) -> Result<Option<String>> {
        let object = self.env.object(name).await?;
        Ok(object["status"]["sessions"][0]["id"].as_str().map(str::to_owned))
    }

    /// Waits until the export has a session; returns its id.
    async fn wait_session(&self, name: &str) -> Result<String> {
        let mut session = None;
        eventually("a session", async || {
            session = self.session(name).await?;
            Ok(session.is_some())
        })
        .await
        .with_context(|| name.to_owned())?;
        session.context("no session")
    }

    async fn wait_reason(&self, name: &str, reason: &str) -> Result<()> {
        let mut last = Value::Null;
        eventually(reason, async || {
            last = self.env.object(name).await?["status"].take();
            Ok(last["lastError"]["reason"] == reason && last["sessions"][0].is_null())
        })
        .await
        .with_context(|| format!("{name}: {last}"))
    }

    async fn wait_logged(&self, text: &str) -> Result<()> {
        eventually(text, async || Ok(self.operator.log().contains(text))).await
    }

    async fn is_valid(&self, flag: &str) -> Result<bool> {
        let line = format!("eventexport_access_file_valid{{flag=\"{flag}\"}} ");
        let metrics = self.operator.metrics().await?;
        let value = metrics.lines().find_map(|text| text.strip_prefix(&line));
        Ok(value.with_context(|| format!("no {line}"))? == "1")
    }

    /// Returns the lines of the requests to a peer that contain a text.
    fn requests(&self, peer: ProxiedPeer, part: &str) -> Vec<String> {
        let requests = self.env.rules.requests_to(peer).into_iter();
        let lines = requests.map(|request| format!("{} {}", request.method(), request.path()));
        lines.filter(|line| line.contains(part)).collect()
    }
}

#[tokio::test]
async fn a_changed_grant_starts_and_stops_its_export_and_no_other() -> Result<()> {
    let fixture = AccessFixture::start("access-grants").await?;
    let env = &fixture.env;
    let downloads = RequestMatcher::LineContains(ProxiedPeer::Tracker, vec!["GET ", "/download"]);
    let held = env.rules.hold_bodies(downloads, false);
    env.apply(&fixture.export("one")).await?;
    env.apply(&fixture.export("two")).await?;
    fixture.wait_reason("one", "IdentityNotGranted").await?;
    fixture.wait_reason("two", "IdentityNotGranted").await?;
    fixture.grant(&["one"])?;
    let session = fixture.wait_session("one").await?;
    let goes_on = async || -> Result<()> {
        ensure!(
            fixture.session("one").await?.as_deref() == Some(&*session),
            "another session"
        );
        Ok(())
    };

    // Nobody but the file starts the second one.
    fixture.grant(&["one", "two"])?;
    let second = fixture.wait_session("two").await?;
    goes_on().await?;

    // An invalid file changes nothing, and is reported once.
    fixture.write("grants", "# none\nnonsense\n")?;
    fixture.wait_logged("grants, line 2: invalid grant").await?;
    ensure!(!fixture.is_valid("grant-identity-file").await? && fixture.is_valid("allow-host-file").await?);
    tokio::time::sleep(INTERVAL * 3).await;
    ensure!(
        fixture
            .operator
            .log()
            .matches("grants, line 2: invalid grant")
            .count()
            == 1
    );
    ensure!(fixture.session("two").await? == Some(second));
    goes_on().await?;

    // Without its grant, the second one stops, deletes its session, and leaves the bucket alone.
    fixture.grant(&["one"])?;
    fixture.wait_reason("two", "IdentityNotGranted").await?;
    ensure!(fixture.is_valid("grant-identity-file").await?);
    ensure!(
        env.simulator.ledger().open_now == 1,
        "{}",
        env.simulator.ledger().open_now
    );
    let folder = format!("/{}/two/", env.namespace);
    let requests = fixture.requests(ProxiedPeer::Store, &folder).len();
    ensure!(requests > 0);
    env.request_reconcile("two", "without a grant").await?;
    tokio::time::sleep(INTERVAL * 5).await;
    ensure!(
        fixture.requests(ProxiedPeer::Store, &folder).len() == requests,
        "it uses the identity"
    );
    goes_on().await?;

    drop(held);
    env.wait_complete("one").await?;
    ensure!(
        env.simulator.ledger().opened == 2,
        "{}",
        env.simulator.ledger().opened
    );
    fixture.grant(&["one", "two"])?;
    env.wait_complete("two").await?;
    no_session_left(&env.simulator)
}

#[tokio::test]
async fn a_removed_host_gets_no_request_but_the_deletion_of_the_session() -> Result<()> {
    let fixture = AccessFixture::start("access-hosts").await?;
    let env = &fixture.env;
    fixture.grant(&["one", "two"])?;
    let downloads = RequestMatcher::LineContains(ProxiedPeer::Tracker, vec!["GET ", "/download"]);
    let held = env.rules.hold_bodies(downloads, false);
    let local = |url: String| url.replace("127.0.0.1", "localhost");
    let two = fixture
        .export("two")
        .set("source.endpoint", local(env.tracker.endpoint()))
        .uaa();
    env.apply(&fixture.export("one")).await?;
    env.apply(&two).await?;
    let session = fixture.wait_session("one").await?;
    fixture.wait_reason("two", "HostNotAllowed").await?;
    fixture.write("hosts", "127.0.0.1\nlocalhost\n")?;
    fixture.wait_session("two").await?;

    let tracker = || fixture.requests(ProxiedPeer::Tracker, "");
    let before = tracker().len();
    fixture.write("hosts", "127.0.0.1\n")?;
    fixture.wait_reason("two", "HostNotAllowed").await?;
    env.request_reconcile("two", "without its host").await?;
    tokio::time::sleep(INTERVAL * 5).await;
    let after = tracker().split_off(before);
    ensure!(
        after.len() == 1 && after.iter().all(|line| line.starts_with("DELETE ")),
        "{after:?}"
    );
    ensure!(fixture.session("one").await? == Some(session), "another session");
    ensure!(env.simulator.ledger().open_now == 1);

    // An unreadable list of hosts is not an empty one.
    fixture.write("hosts", "https://127.0.0.1\n")?;
    fixture
        .wait_logged("hosts, line 1: invalid allow-list entry")
        .await?;
    ensure!(!fixture.is_valid("allow-host-file").await?);
    fixture.write("hosts", "127.0.0.1\nlocalhost\n")?;
    drop(held);
    env.wait_complete("one").await?;
    env.wait_complete("two").await?;
    ensure!(fixture.is_valid("allow-host-file").await?);
    no_session_left(&env.simulator)
}
