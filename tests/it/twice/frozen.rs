//! An operator that is frozen past its Lease at each moment that matters, while another leads; then it goes on. It
//! sends nothing more, and what it had sent already, even where that arrives only then, spoils nothing.
//!
//! One window at a time, so that the n-th request is the same in every run: 4 June is small, 5 June has three parts,
//! 6 June is small. `MOMENT=receipt cargo test … twice::frozen -- --ignored --nocapture` tries those with that word in
//! their name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{Gzip, Settings};
use futures::{StreamExt as _, stream};
use jiff::civil::{Date, date};
use tokio::sync::Notify;

use super::scene::{PATIENCE, Scene, Wish, ended, eventually, said_since};
use super::tripwire::{Tripwire, Victim, When, Wire};
use crate::bed::Cluster;

/// Exports at a time: more only wait for the processor.
const AT_ONCE: usize = 6;

const DAYS: [&str; 2] = ["2018-06-04", "2018-06-06"];
const LARGE: Date = date(2018, 6, 5);
const MIB: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq)]
enum Peer {
    Source,
    Store,
}

#[derive(Clone, Copy, PartialEq)]
enum At {
    /// The answer waits for the process.
    Answered,
    /// The request reaches the peer only once the other one has done everything.
    Late,
    /// The request reaches the peer when the other one leads and has not settled it yet.
    Meanwhile,
    Sending(usize),
    Receiving(usize, &'static [&'static str]),
}

struct Moment {
    name: &'static str,
    peer: Peer,
    /// The request: parts of its line, and which of those.
    request: (&'static [&'static str], usize),
    at: At,
    /// Whether it is tried each time that tests are run.
    always: bool,
}

#[rustfmt::skip]
const MOMENTS: &[Moment] = &[
    Moment { name: "a session is opened", peer: Peer::Source, request: (&["POST /v3/sessions"], 2), at: At::Answered, always: true },
    Moment { name: "the wish for a session arrives late", peer: Peer::Source, request: (&["POST /v3/sessions"], 2), at: At::Meanwhile, always: true },
    Moment { name: "the session's key is written", peer: Peer::Store, request: (&["PUT ", "2018-06-05.", ".session."], 1), at: At::Answered, always: false },
    Moment { name: "in the middle of the download", peer: Peer::Source, request: (&["GET /v3/events/download"], 2), at: At::Receiving(12 * MIB, &["PUT ", "date=2018-06-05/", "partNumber=1"]), always: true },
    Moment { name: "an upload is begun", peer: Peer::Store, request: (&["POST ", "date=2018-06-05/", "?uploads"], 1), at: At::Answered, always: false },
    Moment { name: "in the middle of a part", peer: Peer::Store, request: (&["PUT ", "date=2018-06-05/", "partNumber=2"], 1), at: At::Sending(MIB), always: false },
    Moment { name: "a part arrives late", peer: Peer::Store, request: (&["PUT ", "date=2018-06-05/", "partNumber=2"], 1), at: At::Late, always: false },
    Moment { name: "the upload is completed late", peer: Peer::Store, request: (&["POST ", "date=2018-06-05/", "uploadId="], 1), at: At::Late, always: true },
    Moment { name: "a small object arrives late", peer: Peer::Store, request: (&["PUT ", "date=2018-06-04/"], 1), at: At::Late, always: true },
    Moment { name: "between object and receipt", peer: Peer::Store, request: (&["POST ", "date=2018-06-05/", "uploadId="], 1), at: At::Answered, always: false },
    Moment { name: "a receipt arrives late", peer: Peer::Store, request: (&["PUT ", "2018-06-05.receipt.json"], 1), at: At::Late, always: true },
    Moment { name: "between receipt and session", peer: Peer::Store, request: (&["PUT ", "2018-06-05.receipt.json"], 1), at: At::Answered, always: false },
    Moment { name: "the session is deleted late", peer: Peer::Source, request: (&["DELETE /v3/sessions/"], 2), at: At::Late, always: false },
    Moment { name: "the session is deleted", peer: Peer::Source, request: (&["DELETE /v3/sessions/"], 2), at: At::Answered, always: false },
    Moment { name: "spent keys are deleted late", peer: Peer::Store, request: (&["POST ", "?delete"], 2), at: At::Late, always: false },
    Moment { name: "a manifest arrives late", peer: Peer::Store, request: (&["PUT ", "_manifests/00000001.json"], 1), at: At::Late, always: true },
    Moment { name: "between manifest and status", peer: Peer::Store, request: (&["PUT ", "_manifests/00000001.json"], 1), at: At::Answered, always: true },
];

fn settings() -> Settings {
    let mut settings = Settings {
        today: Some(date(2018, 6, 9)),
        // Stored, so that three parts are quickly made and quickly read.
        gzip: Gzip {
            level: 0,
            ..Gzip::default()
        },
        ..Settings::default()
    };
    settings.volume.days.insert(LARGE, 20_000);
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_frozen_past_its_lease_sends_nothing_more_and_what_it_had_sent_spoils_nothing() -> Result<()>
{
    sweep(|moment| moment.always).await
}

/// `make twice`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: `make twice`"]
async fn the_same_at_every_moment() -> Result<()> {
    let only = std::env::var("MOMENT").unwrap_or_default();
    sweep(|moment| moment.name.contains(&only)).await
}

async fn sweep(wanted: impl Fn(&&Moment) -> bool) -> Result<()> {
    let runs =
        stream::iter(MOMENTS.iter().filter(wanted)).map(async |moment| (moment.name, moment.show().await));
    let rows: Vec<_> = runs.buffered(AT_ONCE).collect().await;
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

impl Moment {
    /// Shows that the promise holds; returns what happened, in a line.
    async fn show(&self) -> Result<String> {
        let cluster = Cluster::shared().await;
        let namespace = cluster.namespace("frozen").await;
        let scene = Scene::start(&namespace, settings()).await?;
        // Long enough for a request that is on its way for so long; the others need not wait for it.
        let quiet = if self.at == At::Meanwhile { "20s" } else { "1s" };
        let args = ["--session-quiet", quiet];
        let mut first = scene.operator(cluster, &namespace, &args).await?;
        eventually("the first leads", async || Ok(first.leads().await)).await?;
        let second = scene.operator(cluster, &namespace, &args).await?;
        let let_go = Arc::new(Notify::new());
        let frozen = self.peer(&scene).arm(Wire {
            parts: self.request.0.to_vec(),
            nth: self.request.1,
            when: match self.at {
                At::Answered => When::After,
                At::Late | At::Meanwhile => When::Late(let_go.clone()),
                At::Sending(bytes) => When::Sending(bytes),
                At::Receiving(bytes, until) => When::Receiving(bytes, scene.store.clone(), until),
            },
            victim: Victim::to_be_frozen(first.id),
        });
        let wish = Wish {
            namespace: &namespace,
            name: "june",
            days: DAYS,
            prefix: "tracker",
            parallelism: 1,
        };
        scene.apply(cluster, &wish).await?;
        let frozen = tokio::time::timeout(PATIENCE, frozen)
            .await
            .context("the request never came")???;
        let since = Instant::now();
        if self.at == At::Meanwhile {
            let begun = async || Ok(!said_since(&scene, second.id, since).is_empty());
            eventually("the second exports", begun).await?;
            let_go.notify_one();
        }
        scene.complete(cluster, &wish).await?;
        let took = since.elapsed();
        let_go.notify_one();
        // What was let go arrives.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let awake = Instant::now();
        first.signal("-CONT").await?;
        let code = ended(&mut first).await?;
        ensure!(code == Some(1), "to be started again, not {code:?}; {frozen}");
        let said = said_since(&scene, first.id, awake);
        ensure!(
            said.is_empty(),
            "frozen {frozen}; when it went on it sent {said:#?}"
        );
        let whole = scene.is_whole("tracker", DAYS).await;
        whole.with_context(|| format!("frozen {frozen}"))?;
        scene
            .source
            .no_session_is_left()
            .with_context(|| format!("frozen {frozen}"))?;
        scene.complete(cluster, &wish).await?;
        // Started again it is a candidate.
        let again = scene.operator(cluster, &namespace, &args).await?;
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

    fn peer<'a>(&self, scene: &'a Scene) -> &'a Tripwire {
        match self.peer {
            Peer::Source => &scene.source.wire,
            Peer::Store => &scene.store,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_frozen_at_rest_ends_and_nothing_is_done_again() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("rest").await;
    let scene = Scene::start(&namespace, settings()).await?;
    let wish = Wish {
        namespace: &namespace,
        name: "june",
        days: DAYS,
        prefix: "tracker",
        parallelism: 3,
    };
    let mut first = scene.operator(cluster, &namespace, &[]).await?;
    scene.apply(cluster, &wish).await?;
    scene.complete(cluster, &wish).await?;
    first.signal("-STOP").await?;
    let second = scene.operator(cluster, &namespace, &[]).await?;
    eventually("the second leads", async || Ok(second.leads().await)).await?;
    let awake = Instant::now();
    first.signal("-CONT").await?;
    ensure!(ended(&mut first).await? == Some(1));
    let said = said_since(&scene, first.id, awake);
    ensure!(said.is_empty(), "{said:#?}");
    scene.complete(cluster, &wish).await?;
    ensure!(scene.source.simulator.ledger().opened == 3, "downloaded again");
    scene.is_whole("tracker", DAYS).await?;
    scene.source.no_session_is_left()
}
