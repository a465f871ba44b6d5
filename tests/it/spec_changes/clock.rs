//! Jumps of the operator's clock, while those of API server, store and service stay right. Debian's libfaketime
//! leaves the monotonic clock alone. Decisions by the store's clock (attempts past their deadline) are not tested
//! here.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{Effect, Fault, RequestKind, Simulator};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::fixture::{ChangeFixture, service_settings};
use super::invariants;
use super::phases::LifecyclePhase;
use crate::operator::{condition, kubectl};
use crate::testkit::environment::no_session_left;
use crate::testkit::process::Process;
use crate::testkit::service::delay;

const NAME: &str = "june";

/// Clock that can be set.
struct FakeClock {
    folder: tempfile::TempDir,
    library: String,
}

impl FakeClock {
    fn new() -> Result<Self> {
        let library = std::fs::read_dir("/usr/lib")?
            .flatten()
            .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
            .find(|path| path.is_file())
            .context("there is no libfaketimeMT.so.1 below /usr/lib: apt-get install faketime")?;
        let clock = Self {
            folder: tempfile::tempdir()?,
            library: library.display().to_string(),
        };
        clock.set("+0")?;
        Ok(clock)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// Sets an offset such as `+3h`. Atomic, because the file may be read at any time.
    fn set(&self, offset: &str) -> Result<()> {
        let new = self.folder.path().join("new");
        std::fs::write(&new, offset)?;
        std::fs::rename(new, self.path())?;
        Ok(())
    }

    async fn operator(&self, fixture: &ChangeFixture) -> Result<Arc<Process>> {
        fixture
            .operator()
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.path().display().to_string())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .start()
            .await
    }
}

async fn export(fixture: &ChangeFixture, simulator: &Simulator, change: &Value) -> Result<()> {
    let spec = fixture.spec(NAME, simulator, change);
    fixture.create(NAME, &spec).await.map(drop)
}

fn delay_downloads(simulator: &Simulator, millis: u64) {
    simulator.add_fault(delay(millis, &[RequestKind::Download]));
}

async fn wait_until(fixture: &ChangeFixture, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
    let holds_now = |live: Option<&Value>| live.is_some_and(&holds);
    let live = fixture.history.wait_until(NAME, what, holds_now).await?;
    live.context("it is gone")
}

/// The only time limit that matters here: an unreachable service delays the deletion of a resource by at most ten
/// minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Debian's faketime, and takes two minutes: make spec-changes"]
async fn a_deleted_export_is_removed_after_ten_minutes_without_its_service() -> Result<()> {
    let (fixture, clock) = (ChangeFixture::start("patience").await?, FakeClock::new()?);
    let simulator = Simulator::start(service_settings()).await?;
    delay_downloads(&simulator, 50_000);
    export(&fixture, &simulator, &json!({})).await?;
    let operator = clock.operator(&fixture).await?;
    let live = wait_until(&fixture, "a session is open", |live| {
        LifecyclePhase::Transferring.is(live)
    })
    .await?;
    let session = live["status"]["sessions"][0]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let gone = Effect::NoReply {
        done: false,
        how: eventexport::simulator::NoReplyMode::Close,
    };
    simulator.set_faults(vec![Fault::new("gone", gone, &[])]);
    fixture.delete(NAME, &DeleteParams::default()).await?;
    let releasing = || {
        operator
            .lines()
            .iter()
            .any(|line| line["message"] == "deleting sessions")
    };
    crate::operator::eventually("it tries", async || Ok(releasing())).await?;
    super::runner::settle_delay().await;
    ensure!(fixture.history.live(NAME).is_some(), "given up before its time");

    clock.set("+11m")?;
    fixture
        .history
        .wait_until(NAME, "it goes", |live| live.is_none())
        .await?;
    let metrics = operator.metrics().await?;
    for line in [
        "eventexport_deletion_abandoned_total 1",
        "eventexport_deletion_sessions_left_total 1",
    ] {
        ensure!(metrics.contains(&format!("\n{line}\n")), "{metrics}");
    }
    let namespace = fixture.namespace();
    let args = ["get", "events.events.k8s.io", "-n", namespace, "-o", "json"];
    let events = kubectl(fixture.env.cluster, &args).await?;
    ensure!(
        events.contains("SessionsLeft") && events.contains(&session),
        "{events}"
    );
    // It is still open, and was not just forgotten.
    ensure!(simulator.open_sessions().iter().any(|open| open.id == session));
    Ok(())
}

/// Forward and backward by hours, idle and during work: it continues at the latest when the clock is right again, and
/// nothing is lost or duplicated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Debian's faketime, and takes minutes: make spec-changes"]
async fn a_clock_change_neither_loses_nor_duplicates_data() -> Result<()> {
    let (fixture, clock) = (ChangeFixture::start("clock").await?, FakeClock::new()?);
    let simulator = Simulator::start(service_settings()).await?;
    export(&fixture, &simulator, &json!({})).await?;
    let operator = clock.operator(&fixture).await?;
    wait_until(&fixture, "it is complete", |live| {
        LifecyclePhase::Complete.is(live)
    })
    .await?;
    let mut first = 6;
    for offset in ["+3h", "-3h"] {
        for moving in [false, true] {
            simulator.set_faults(Vec::new());
            if moving {
                delay_downloads(&simulator, 15_000);
            } else {
                clock.set(offset)?;
            }
            first += 1;
            let wider = json!({ "spec": { "dateRange": { "start": fixture.days.ago(first) } } });
            let patched = fixture.patch(NAME, &wider).await?.map_err(anyhow::Error::msg)?;
            let generation = &patched["metadata"]["generation"];
            if moving {
                wait_until(&fixture, "a session is open", |live| {
                    live["status"]["observedGeneration"] == *generation
                        && LifecyclePhase::Transferring.is(live)
                })
                .await?;
                clock.set(offset)?;
            }
            // The store decides whether it accepts requests with such a time.
            let live = wait_until(&fixture, "it says how it is", |live| {
                live["status"]["observedGeneration"] == *generation
                    && !condition(live, "Ready").ends_with("NewGeneration")
                    && !condition(live, "Ready").ends_with("Exporting")
            })
            .await?;
            println!(
                "{offset}, {}: {}",
                if moving { "moving" } else { "resting" },
                condition(&live, "Ready")
            );
            clock.set("+0")?;
            wait_until(&fixture, "it is complete when the clock is right", |live| {
                live["status"]["observedGeneration"] == *generation
                    && LifecyclePhase::Complete.is(live)
                    && live["status"]["windows"]["stored"] == first - 4
            })
            .await?;
            ensure!(operator.leads().await, "it no longer leads");
        }
    }
    no_session_left(&simulator)?;
    let keys = fixture.keys(fixture.namespace(), "june/").await?;
    for (key, versions) in keys {
        ensure!(versions == 1, "{key} was written {versions} times");
    }
    invariants::ensure_quiet(&fixture, &operator, &[&simulator]).await
}
