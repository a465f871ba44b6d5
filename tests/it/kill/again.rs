//! Several windows at a time, and an operator that is killed over and over: each crash finds the leftovers of those
//! before it. Where it dies is not the same in each run: the days overlap.

use anyhow::{Context as _, Result};
use eventexport::simulator::Settings;
use jiff::ToSpan as _;
use jiff::civil::{Date, date};

use super::scene::{PATIENCE, Scene, Wish};
use crate::faults::{Board, Fault, Peer, Plan, Proxy, Wanted, within};

/// After how many requests to the store each process dies, before or after the store did as asked.
const DEATHS: [(usize, Fault); 6] = [
    (9, Fault::KillAfter),
    (23, Fault::KillBefore),
    (31, Fault::KillAfter),
    (38, Fault::KillBefore),
    (46, Fault::KillAfter),
    (52, Fault::KillBefore),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_over_and_over_gets_there() -> Result<()> {
    let mut settings = Settings {
        today: Some(date(2018, 6, 19)),
        ..Settings::default()
    };
    settings.gzip.level = 0;
    settings.volume.days.insert(date(2018, 6, 5), 10_000);
    let scene = Scene::start("again", settings).await?;
    let board = Board::new();
    let store = Proxy::store(scene.gateway, &board).await?;
    let source = scene.simulator.url().to_string();
    let wish = Wish {
        start: "2018-06-04",
        end: "2018-06-15",
        parallelism: 3,
        source: source.trim_end_matches('/'),
        store: &store.endpoint(),
    };
    scene.apply(&wish).await?;
    for (nth, fault) in DEATHS {
        let killed = board.arm(Plan {
            wanted: Wanted::Of(vec![Peer::Store]),
            nth,
            fault,
        });
        board.aim(&scene.operator()?);
        let killed = within(PATIENCE, killed)
            .await
            .with_context(|| format!("complete before request {nth}: {}", scene.log()))?;
        println!("killed {killed}");
    }
    let _operator = scene.operator()?;
    scene.complete().await?;
    let days: Vec<Date> = date(2018, 6, 4).series(1.day()).take(12).collect();
    scene.is_whole(&days).await
}
