//! Plays one case: faults befall requests, the export is left to recover, and what there is then is taken down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::case::{Case, Step, cluster_steps, steps};
use super::observed::{Ending, Observed};
use super::oracle::is_paper;
use super::stage::{Stage, Way, Wish};
use super::{Fault, Peer, Seen, Told, Victim};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(400);

/// How long nothing may be asked of tracker, UAA and store until a complete export is taken to be at rest.
const REST: Duration = Duration::from_millis(1500);

/// How long an export may say that it needs a person before a person acts: longer than what goes on by itself takes
/// for its first two tries (20 s, 40 s).
const NOTICE: Duration = Duration::from_secs(75);

/// How long a person waits for what ought to go on by itself. Requests that hang are given up after a minute, and tried
/// again for two.
const ALONE: Duration = Duration::from_mins(4);

/// The same where the completion of an upload hangs, for which the operator waits ten minutes.
const COMPLETION: Duration = Duration::from_secs(20);

/// How long papers may stay where deleting them was refused. They mean nothing, and are swept when the journal is listed
/// again: once a day, or when a process starts, which is made to happen here.
const SPENT: Duration = Duration::from_secs(20);

/// How long it may take in all.
const LIMIT: Duration = Duration::from_mins(6);

/// How long a process may take to end; it gives its exports 25 s by default.
const STOP: Duration = Duration::from_secs(40);

/// What came of a case.
pub(crate) struct Played {
    pub(crate) observed: Observed,
    /// Its requests, in order.
    pub(crate) steps: Vec<Step>,
    /// The first ones of each name to the API server, where that is reached by a proxy.
    pub(crate) cluster_steps: Vec<Step>,
    /// What befell which request; those that never came are missing.
    pub(crate) struck: Vec<String>,
    /// How often a process was started again.
    pub(crate) restarts: usize,
    pub(crate) took: Duration,
}

/// Plays a case; with no faults, the reference.
pub(crate) async fn play(wish: &Wish, case: Option<&Case>, way: Way) -> Result<Played> {
    let stage = Stage::start(wish, way).await?;
    let mut play = Play {
        told: stage.board.arm_in_turn(case.map(Case::plans).unwrap_or_default()),
        hangs: case.is_some_and(hangs_completion),
        spent: None,
        swept: false,
        operator: stage.operator()?,
        stage,
        begun: Instant::now(),
        struck: Vec::new(),
        restarts: 0,
        stopped: true,
    };
    play.stage.apply(wish).await?;
    let ending = play.recover().await?;
    let ended = play.stop().await?;
    // The last request of all is that which gives the lease back. Who is killed at it cannot end otherwise.
    let kills = |case: &Case| matches!(case.faults().last(), Some(Fault::KillBefore | Fault::KillAfter));
    let killed = play.notice() && case.is_some_and(kills);
    let stopped = play.stopped && (ended || killed);
    let stage = &play.stage;
    Ok(Played {
        observed: Observed::of(stage, ending, stopped).await?,
        steps: steps(&stage.board.seen()),
        cluster_steps: cluster_steps(&stage.board.seen()),
        struck: play.struck,
        restarts: play.restarts,
        took: play.begun.elapsed(),
    })
}

fn hangs_completion(case: &Case) -> bool {
    let kind = case.kind();
    kind.contains("CompleteMultipartUpload") && case.faults().any(|fault| fault == Fault::Hang)
}

struct Play {
    stage: Stage,
    operator: Arc<Victim>,
    /// Faults that have not befallen their request yet.
    told: Vec<Told>,
    /// Whether the completion of an upload hangs.
    hangs: bool,
    /// Since when it is complete and at rest but for its papers.
    spent: Option<Instant>,
    /// Whether it was started again for them.
    swept: bool,
    begun: Instant,
    struck: Vec<String>,
    restarts: usize,
    stopped: bool,
}

impl Play {
    /// Until the export is complete and at rest.
    async fn recover(&mut self) -> Result<Ending> {
        let mut helped = None;
        let mut stalled: Option<Instant> = None;
        let mut patience = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            if self.notice() {
                patience = Instant::now();
            }
            if !self.operator.lives().await? {
                // As a Deployment does.
                self.stage.forget_lease().await?;
                self.operator = self.stage.operator()?;
                self.restarts += 1;
                continue;
            }
            let resource = self.stage.resource().await?;
            let status = resource.get("status").cloned().unwrap_or_default();
            if is(&status, "Complete") && self.rests().await? {
                return Ok(helped.map_or(Ending::Alone, Ending::Helped));
            }
            if self.spent.is_some_and(|since| since.elapsed() > SPENT) && !self.swept {
                self.swept = true;
                self.again().await?;
                continue;
            }
            if is(&status, "Stalled") {
                stalled = stalled.or_else(|| Some(Instant::now()));
            } else {
                stalled = None;
            }
            if self.begun.elapsed() > LIMIT {
                return Ok(Ending::Never(status.to_string()));
            }
            let limit = if self.hangs && !self.struck.is_empty() {
                COMPLETION
            } else {
                ALONE
            };
            let acts = stalled.is_some_and(|since| since.elapsed() > NOTICE) || patience.elapsed() > limit;
            if acts && helped.is_none() {
                // The documented wait for a completion is no failure, and nobody needs to end it.
                if !self.hangs {
                    helped = Some(reason(&status));
                }
                self.hangs = false;
                (stalled, patience) = (None, Instant::now());
                self.again().await?;
            }
        }
    }

    /// As `kubectl rollout restart` does.
    async fn again(&mut self) -> Result<()> {
        self.stopped &= self.stop().await?;
        self.stage.forget_lease().await?;
        self.operator = self.stage.operator()?;
        self.restarts += 1;
        Ok(())
    }

    /// Whether a fault befell its request since.
    fn notice(&mut self) -> bool {
        let before = self.struck.len();
        while let Some(told) = self.told.first_mut() {
            match told.try_recv() {
                Ok(Ok(said)) => self.struck.push(said),
                // It ended by itself at the same moment: then it is started again as if it had been killed.
                Ok(Err(error)) => self.struck.push(format!("{error:#}")),
                Err(_) => break,
            }
            self.told.remove(0);
        }
        self.struck.len() > before
    }

    /// Whether nothing is left to do: nobody asks for anything, and all papers are gone, or stay.
    async fn rests(&mut self) -> Result<bool> {
        let seen = self.stage.board.seen();
        let asks = |seen: &Seen| seen.peer != Peer::Cluster && seen.at.elapsed() < REST;
        if seen.iter().any(asks) {
            return Ok(false);
        }
        // Where faults befall what the API server is asked, the lease is held long enough to be renewed.
        let renews = |seen: &Seen| {
            seen.peer == Peer::Cluster && seen.is(&["PUT ", "/leases/"]) && seen.at.elapsed() > REST
        };
        if self.stage.is_proxied() && !seen.iter().any(renews) {
            return Ok(false);
        }
        let keys = self.stage.bucket.keys().await?;
        if !keys.iter().any(|key| is_paper(key)) {
            return Ok(true);
        }
        let since = *self.spent.get_or_insert_with(Instant::now);
        // The oracle says so where they stay.
        Ok(self.swept && since.elapsed() > SPENT * 3)
    }

    async fn stop(&mut self) -> Result<bool> {
        self.operator.stop(STOP).await.context("SIGTERM")
    }
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = status["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)
}

fn is(status: &Value, kind: &str) -> bool {
    condition(status, kind).is_some_and(|condition| condition["status"] == "True")
}

/// Why it is not ready, by what it says.
fn reason(status: &Value) -> Option<eventexport::api::Reason> {
    condition(status, "Ready")?["reason"].as_str()?.parse().ok()
}
