//! Resources that meet: in one archive, in one space, or one below the other.

use std::time::Duration;

use anyhow::{Result, ensure};
use eventexport::simulator::{DEFAULT_USER, Settings};
use jiff::civil::date;
use serde_json::json;

use super::scene::{Scene, Source, Wish, receipts};
use crate::bed::Cluster;
use crate::kill::scene::SPACE;
use crate::operator::{becomes, patch};

fn settings() -> Settings {
    Settings {
        today: Some(date(2018, 8, 1)),
        latency: Duration::from_millis(50),
        ..Settings::default()
    }
}

/// Of one namespace, and of two with an operator each: what both want is stored once, and each is complete.
#[tokio::test(flavor = "multi_thread")]
async fn exports_of_overlapping_ranges_share_one_archive() -> Result<()> {
    let cluster = Cluster::shared().await;
    let (here, there) = (cluster.namespace("here").await, cluster.namespace("there").await);
    let scene = Scene::start(&here, settings()).await?;
    let wish = |namespace, name, days| Wish {
        namespace,
        name,
        days,
        prefix: "tracker",
        parallelism: 3,
    };
    let wishes = [
        wish(here.as_str(), "first", ["2018-06-01", "2018-06-09"]),
        wish(here.as_str(), "second", ["2018-06-04", "2018-06-12"]),
        wish(there.as_str(), "first", ["2018-06-07", "2018-06-15"]),
    ];
    for wish in &wishes {
        scene.apply(cluster, wish).await?;
    }
    let _one = scene.operator(cluster, &here, &[]).await?;
    let _other = scene.operator(cluster, &there, &[]).await?;
    receipts(&scene, 15).await?;
    // Who found a window held looks again after minutes, a new process at once.
    for wish in &wishes {
        let change = json!({ "spec": { "parallelism": 4 } });
        patch(cluster, wish.namespace, wish.name, &change).await?;
        scene.complete(cluster, wish).await?;
    }
    scene.is_whole("tracker", ["2018-06-01", "2018-06-15"]).await?;
    scene.source.no_session_is_left()?;
    ensure!(scene.source.simulator.ledger().opened == 15);
    Ok(())
}

/// The same space by another service: a second one is refused, whatever days it wants, and nothing is mixed.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_one_source_takes_nothing_from_another() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("sources").await;
    let scene = Scene::start(&namespace, settings()).await?;
    let other = Source::start(settings()).await?;
    let wish = |name, days| Wish {
        namespace: &namespace,
        name,
        days,
        prefix: "tracker",
        parallelism: 3,
    };
    let days = ["2018-06-01", "2018-06-05"];
    let _operator = scene.operator(cluster, &namespace, &[]).await?;
    let first = wish("first", days);
    scene.apply(cluster, &first).await?;
    scene.complete(cluster, &first).await?;
    for (name, days) in [
        ("same", days),
        ("overlapping", ["2018-06-04", "2018-06-08"]),
        ("apart", ["2018-06-10", "2018-06-12"]),
    ] {
        scene.apply_from(cluster, &wish(name, days), &other).await?;
        let states = [
            "False/JournalMismatch",
            "False/JournalMismatch",
            "False",
            "True/JournalMismatch",
        ];
        let object = becomes(cluster, &namespace, name, states).await?;
        let told = object["status"]["conditions"].to_string();
        for part in [
            scene.source.tap.url(),
            other.tap.url(),
            "another prefix".to_owned(),
        ] {
            ensure!(told.contains(&part), "{name}: {part} is not in {told}");
        }
    }
    let opened = other.simulator.ledger().opened;
    ensure!(opened == 0, "{opened} sessions of the other source were opened");
    scene.is_whole("tracker", days).await?;
    scene.source.no_session_is_left()
}

/// Two prefixes, one below the other: two archives of one space, whose sessions are one budget.
#[tokio::test(flavor = "multi_thread")]
async fn one_archive_below_the_other_and_one_budget_of_sessions() -> Result<()> {
    let cluster = Cluster::shared().await;
    let (here, there) = (cluster.namespace("outer").await, cluster.namespace("inner").await);
    let mut settings = settings();
    // Opened quickly and downloaded slowly, so that they would hold 56 at once.
    settings.latency = Duration::from_millis(10);
    settings.bandwidth = Some(20_000);
    let scene = Scene::start(&here, settings).await?;
    let days = ["2018-06-01", "2018-06-24"];
    let wish = |namespace, prefix| Wish {
        namespace,
        name: "june",
        days,
        prefix,
        parallelism: 30,
    };
    let wishes = [wish(here.as_str(), "a"), wish(there.as_str(), "a/b")];
    // A person's. Of the other's sessions an operator knows by the list only.
    let theirs = scene.source.simulator.open_sessions_as(DEFAULT_USER, SPACE, 22);
    let _one = scene.operator(cluster, &here, &[]).await?;
    let _other = scene.operator(cluster, &there, &[]).await?;
    for wish in &wishes {
        scene.apply(cluster, wish).await?;
    }
    for wish in &wishes {
        scene.complete(cluster, wish).await?;
    }
    for wish in &wishes {
        scene.is_whole(wish.prefix, days).await?;
    }
    scene.source.no_session_is_left()?;
    let ledger = scene.source.simulator.ledger();
    println!(
        "{} sessions, {} at once, {} refused",
        ledger.opened, ledger.max_open, ledger.refused_full
    );
    ensure!(
        ledger.opened == 48 && ledger.people_open == 22 && ledger.max_open >= 28,
        "{ledger:#?}"
    );
    let open = scene.source.simulator.open_sessions();
    ensure!(theirs.iter().all(|id| open.iter().any(|open| open.id == *id)));
    Ok(())
}
