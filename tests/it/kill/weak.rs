//! A store that ignores `If-None-Match` is found out and named.

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::Settings;
use jiff::civil::date;

use super::bucket::Bucket;
use super::same::run;
use super::scene::{ROOT, Scene, Wish};
use crate::bed::StripHeader;

#[tokio::test(flavor = "multi_thread")]
async fn a_weak_store_is_named_by_the_operator_and_refused_by_run() -> Result<()> {
    let settings = Settings {
        today: Some(date(2018, 6, 9)),
        ..Settings::default()
    };
    let scene = Scene::start("weak", settings).await?;
    let proxy = StripHeader::start(scene.gateway).await?;
    let source = scene.simulator.url().to_string();
    let wish = Wish {
        start: "2018-06-04",
        end: "2018-06-06",
        parallelism: 2,
        source: source.trim_end_matches('/'),
        store: &proxy.endpoint(),
    };
    scene.apply(&wish).await?;
    let operator = scene.operator()?;
    let status = scene.complete().await?;
    let named = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| {
            condition.to_string().contains("DestinationWeak")
                && condition.to_string().contains("If-None-Match")
        });
    let named = named.with_context(|| format!("no condition names the weakness: {status:#}"))?;
    println!(
        "by the operator: {} is {}: {}",
        named["type"], named["status"], named["message"]
    );
    ensure!(proxy.stripped() > 0, "nothing was conditional");
    scene
        .is_whole(&[date(2018, 6, 4), date(2018, 6, 5), date(2018, 6, 6)])
        .await?;
    operator.kill().await?;

    let name = format!("{}-run", scene.namespace());
    let bucket = Bucket::create(scene.gateway, &name).await?;
    let opened = scene.simulator.ledger().opened;
    let refused = run(&scene, &scene.manifest(&wish, &name), &[]).await?;
    let said =
        String::from_utf8_lossy(&refused.stdout).into_owned() + &String::from_utf8_lossy(&refused.stderr);
    println!("by run: {said}");
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    for part in ["DestinationWeak", "--single-writer", &name] {
        ensure!(said.contains(part), "{part} is not in {said}");
    }
    ensure!(
        scene.simulator.ledger().opened == opened,
        "a session was opened for nothing"
    );
    ensure!(bucket.keys().await?.is_empty(), "{:?}", bucket.keys().await?);

    let alone = run(&scene, &scene.manifest(&wish, &name), &["--single-writer"]).await?;
    ensure!(alone.status.success(), "{alone:?}");
    ensure!(bucket.keys().await?.len() == 7, "{:?}", bucket.keys().await?);

    // Who only looks at what is whole tries nothing out, and writes what is due all the same, once.
    let manifest = format!("{ROOT}_manifests/00000001.json");
    bucket.delete(&manifest).await?;
    for _ in 0..2 {
        let looks = run(&scene, &scene.manifest(&wish, &name), &[]).await?;
        ensure!(looks.status.success(), "{looks:?}");
    }
    let versions = bucket.versions().await?;
    ensure!(versions.get(&manifest) == Some(&3), "{versions:#?}");
    scene.no_session_is_left()
}
