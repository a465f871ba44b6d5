//! Several windows at a time, and an operator that is killed over and over: each crash finds the leftovers of those
//! before it. Where it dies is not the same in each run: the days overlap.

use anyhow::{Context as _, Result};
use eventexport::simulator::Settings;
use jiff::ToSpan as _;
use jiff::civil::{Date, date};

use super::scene::{PATIENCE, Scene, Wish};
use super::tripwire::{Tripwire, When, Wire};

/// After how many requests to the store each process dies, before or after the store did as asked.
const DEATHS: [(usize, When); 6] = [
    (9, When::After),
    (23, When::Before),
    (31, When::After),
    (38, When::Before),
    (46, When::After),
    (52, When::Before),
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
    let store = Tripwire::start(&scene.gateway.endpoint()).await?;
    let source = scene.simulator.url().to_string();
    let wish = Wish {
        start: "2018-06-04",
        end: "2018-06-15",
        parallelism: 3,
        source: source.trim_end_matches('/'),
        store: &store.endpoint(),
    };
    scene.apply(&wish).await?;
    for (nth, when) in DEATHS {
        let killed = store.arm(Wire {
            parts: Vec::new(),
            nth,
            when,
            victim: scene.operator()?,
        });
        let killed = tokio::time::timeout(PATIENCE, killed)
            .await
            .with_context(|| format!("complete before request {nth}: {}", scene.log()))???;
        println!("killed {killed}");
    }
    let _operator = scene.operator()?;
    scene.complete().await?;
    let days: Vec<Date> = date(2018, 6, 4).series(1.day()).take(12).collect();
    scene.is_whole(&days).await
}
