//! A leader is frozen past its Lease at each critical request, while another one leads; then it resumes. It sends
//! nothing more, and requests already sent, even if they arrive only then, corrupt nothing.
//!
//! One window at a time, so that the n-th request is the same in each run: 4 June is small, 5 June has three parts, 6
//! June is small. `MOMENT=receipt cargo test … split_brain::frozen_leader -- --ignored --nocapture` runs the cases
//! with that word in their name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{GzipSettings, Settings};
use futures::{StreamExt as _, stream};
use jiff::civil::{Date, date};

use super::fixture::{
    TIMEOUT, check_archive, environment, eventually, export, operator, requests_since, wait_complete,
    wait_exit,
};
use crate::testkit::environment::no_session_left;
use crate::testkit::proxy::{Action, Gate, ProxiedPeer, RequestMatcher, Rule};

/// Concurrent exports; more would only wait for the processor.
const CONCURRENCY: usize = 6;

const DAYS: [&str; 2] = ["2018-06-04", "2018-06-06"];
const LARGE: Date = date(2018, 6, 5);
const MIB: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq)]
enum FreezeTiming {
    /// The reply waits for the process.
    Answered,
    /// The request reaches the peer only after the other leader has finished.
    Late,
    /// The request reaches the peer when the other one leads and has not recovered the attempt yet.
    Meanwhile,
    Sending(usize),
    Receiving(usize, &'static [&'static str]),
}

struct FreezeCase {
    name: &'static str,
    peer: ProxiedPeer,
    /// Request: parts of its line, and its ordinal.
    request: (&'static [&'static str], usize),
    timing: FreezeTiming,
    /// True if the case is part of every test run.
    always: bool,
}

#[rustfmt::skip]
const CASES: &[FreezeCase] = &[
    FreezeCase { name: "a session is opened", peer: ProxiedPeer::Tracker, request: (&["POST /v3/sessions"], 2), timing: FreezeTiming::Answered, always: true },
    FreezeCase { name: "the request for a session arrives late", peer: ProxiedPeer::Tracker, request: (&["POST /v3/sessions"], 2), timing: FreezeTiming::Meanwhile, always: true },
    FreezeCase { name: "the session's key is written", peer: ProxiedPeer::Store, request: (&["PUT ", "2018-06-05.", ".session."], 1), timing: FreezeTiming::Answered, always: false },
    FreezeCase { name: "in the middle of the download", peer: ProxiedPeer::Tracker, request: (&["GET /v3/events/download"], 2), timing: FreezeTiming::Receiving(12 * MIB, &["PUT ", "date=2018-06-05/", "partNumber=1"]), always: true },
    FreezeCase { name: "an upload is begun", peer: ProxiedPeer::Store, request: (&["POST ", "date=2018-06-05/", "?uploads"], 1), timing: FreezeTiming::Answered, always: false },
    FreezeCase { name: "in the middle of a part", peer: ProxiedPeer::Store, request: (&["PUT ", "date=2018-06-05/", "partNumber=2"], 1), timing: FreezeTiming::Sending(MIB), always: false },
    FreezeCase { name: "a part arrives late", peer: ProxiedPeer::Store, request: (&["PUT ", "date=2018-06-05/", "partNumber=2"], 1), timing: FreezeTiming::Late, always: false },
    FreezeCase { name: "the upload is completed late", peer: ProxiedPeer::Store, request: (&["POST ", "date=2018-06-05/", "uploadId="], 1), timing: FreezeTiming::Late, always: true },
    FreezeCase { name: "a small object arrives late", peer: ProxiedPeer::Store, request: (&["PUT ", "date=2018-06-04/"], 1), timing: FreezeTiming::Late, always: true },
    FreezeCase { name: "between object and receipt", peer: ProxiedPeer::Store, request: (&["POST ", "date=2018-06-05/", "uploadId="], 1), timing: FreezeTiming::Answered, always: false },
    FreezeCase { name: "a receipt arrives late", peer: ProxiedPeer::Store, request: (&["PUT ", "2018-06-05.receipt.json"], 1), timing: FreezeTiming::Late, always: true },
    FreezeCase { name: "between receipt and session", peer: ProxiedPeer::Store, request: (&["PUT ", "2018-06-05.receipt.json"], 1), timing: FreezeTiming::Answered, always: false },
    FreezeCase { name: "the session is deleted late", peer: ProxiedPeer::Tracker, request: (&["DELETE /v3/sessions/"], 2), timing: FreezeTiming::Late, always: false },
    FreezeCase { name: "the session is deleted", peer: ProxiedPeer::Tracker, request: (&["DELETE /v3/sessions/"], 2), timing: FreezeTiming::Answered, always: false },
    FreezeCase { name: "temporary keys are deleted late", peer: ProxiedPeer::Store, request: (&["POST ", "?delete"], 2), timing: FreezeTiming::Late, always: false },
    FreezeCase { name: "a manifest arrives late", peer: ProxiedPeer::Store, request: (&["PUT ", "_manifests/00000001.json"], 1), timing: FreezeTiming::Late, always: true },
    FreezeCase { name: "between manifest and status", peer: ProxiedPeer::Store, request: (&["PUT ", "_manifests/00000001.json"], 1), timing: FreezeTiming::Answered, always: true },
];

fn settings() -> Settings {
    let mut settings = Settings {
        today: Some(date(2018, 6, 9)),
        // Uncompressed, so that three parts are fast to make and to read.
        gzip: GzipSettings {
            level: 0,
            ..GzipSettings::default()
        },
        ..Settings::default()
    };
    settings.volume.days.insert(LARGE, 20_000);
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_frozen_past_its_lease_sends_and_corrupts_nothing() -> Result<()> {
    sweep(|case| case.always).await
}

/// Run by `make split-brain`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: `make split-brain`"]
async fn a_leader_frozen_at_any_point_sends_and_corrupts_nothing() -> Result<()> {
    let only = std::env::var("MOMENT").unwrap_or_default();
    sweep(|case| case.name.contains(&only)).await
}

async fn sweep(wanted: impl Fn(&&FreezeCase) -> bool) -> Result<()> {
    let runs = stream::iter(CASES.iter().filter(wanted)).map(async |case| (case.name, case.run().await));
    let rows: Vec<_> = runs.buffered(CONCURRENCY).collect().await;
    let mut failed = 0;
    for (name, row) in &rows {
        match row {
            Ok(row) => println!("ok      {name}: {row}"),
            Err(error) => {
                failed += 1;
                println!("FAILED  {name}: {error:#}");
            }
        }
    }
    ensure!(failed == 0, "{failed} of {} moments", rows.len());
    Ok(())
}

impl FreezeCase {
    /// Checks the promise; returns a one-line summary.
    async fn run(&self) -> Result<String> {
        let env = environment("frozen", settings()).await?;
        // Long enough for a delayed request; the other timings need not wait for it.
        let quiet = if self.timing == FreezeTiming::Meanwhile {
            "20s"
        } else {
            "1s"
        };
        let operator = || operator(&env).session_quiet(quiet);
        let first = operator().start().await?;
        eventually("the first leads", async || Ok(first.leads().await)).await?;
        let second = operator().start().await?;
        let delivery = Arc::<Gate>::default();
        let request = RequestMatcher::LineContains(self.peer, self.request.0.to_vec());
        let action = match self.timing {
            FreezeTiming::Answered => Action::Pass,
            FreezeTiming::Late | FreezeTiming::Meanwhile => Action::HoldRequest(delivery.clone()),
            FreezeTiming::Sending(bytes) => Action::CutRequest(bytes),
            FreezeTiming::Receiving(bytes, until) => Action::CutReply(bytes, until),
        };
        let freeze = Rule::new(request, action).named(&"at").nth(self.request.1);
        let frozen = env.rules.arm(freeze.freeze(&first));
        let june = export(&env, DAYS).set("parallelism", 1);
        env.apply(&june).await?;
        let frozen = tokio::time::timeout(TIMEOUT, frozen)
            .await
            .context("the request never came")???;
        let since = Instant::now();
        if self.timing == FreezeTiming::Meanwhile {
            let begun = async || Ok(!requests_since(&env, second.id, since).is_empty());
            eventually("the second exports", begun).await?;
            delivery.open();
        }
        wait_complete(env.cluster, &june).await?;
        let took = since.elapsed();
        delivery.open();
        // The released request arrives.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let awake = Instant::now();
        first.signal("-CONT").await?;
        let code = wait_exit(&first).await?;
        ensure!(code == Some(1), "to be started again, not {code:?}; {frozen}");
        let requests = requests_since(&env, first.id, awake);
        ensure!(
            requests.is_empty(),
            "frozen {frozen}; when it went on it sent {requests:#?}"
        );
        let whole = check_archive(&env, "tracker", DAYS).await;
        whole.with_context(|| format!("frozen {frozen}"))?;
        no_session_left(&env.simulator).with_context(|| format!("frozen {frozen}"))?;
        wait_complete(env.cluster, &june).await?;
        // After a restart it is a candidate.
        let again = operator().start().await?;
        eventually("it stands by", async || Ok(again.get("/readyz").await?.0 == 200)).await?;
        eventually("one of them leads", async || {
            Ok(second.leads().await != again.leads().await)
        })
        .await?;
        Ok(format!(
            "frozen {frozen}; complete after {:.1} s",
            took.as_secs_f32()
        ))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_frozen_while_idle_exits_and_repeats_nothing() -> Result<()> {
    let env = environment("rest", settings()).await?;
    let june = export(&env, DAYS);
    let first = operator(&env).start().await?;
    env.apply(&june).await?;
    wait_complete(env.cluster, &june).await?;
    first.signal("-STOP").await?;
    let second = operator(&env).start().await?;
    eventually("the second leads", async || Ok(second.leads().await)).await?;
    let awake = Instant::now();
    first.signal("-CONT").await?;
    ensure!(wait_exit(&first).await? == Some(1));
    let requests = requests_since(&env, first.id, awake);
    ensure!(requests.is_empty(), "{requests:#?}");
    wait_complete(env.cluster, &june).await?;
    ensure!(env.simulator.ledger().opened == 3, "downloaded again");
    check_archive(&env, "tracker", DAYS).await?;
    no_session_left(&env.simulator)
}
