//! Overlapping resources: in one archive, in one space, or nested prefixes.

use std::time::Duration;

use anyhow::{Result, ensure};
use eventexport::simulator::{DEFAULT_USER, Settings};
use jiff::civil::date;
use serde_json::json;

use super::fixture::{ResourceParams, SplitBrainFixture, TappedService, wait_receipts};
use crate::bed::Cluster;
use crate::operator::{patch, wait_conditions};
use crate::testkit::manifest::SPACE;
use crate::testkit::proxy::Rules;

fn settings() -> Settings {
    Settings {
        today: Some(date(2018, 8, 1)),
        latency: Duration::from_millis(50),
        ..Settings::default()
    }
}

/// In one namespace, and in two with an operator each: common days are stored once, and each export completes.
#[tokio::test(flavor = "multi_thread")]
async fn exports_of_overlapping_ranges_share_one_archive() -> Result<()> {
    let cluster = Cluster::shared().await;
    let (here, there) = (cluster.namespace("here").await, cluster.namespace("there").await);
    let fixture = SplitBrainFixture::start(&here, settings()).await?;
    let params = |namespace, name, days| ResourceParams {
        namespace,
        name,
        days,
        prefix: "tracker",
        parallelism: 3,
    };
    let exports = [
        params(here.as_str(), "first", ["2018-06-01", "2018-06-09"]),
        params(here.as_str(), "second", ["2018-06-04", "2018-06-12"]),
        params(there.as_str(), "first", ["2018-06-07", "2018-06-15"]),
    ];
    for params in &exports {
        fixture.apply(cluster, params).await?;
    }
    let _one = fixture.operator(cluster, &here, &[]).await?;
    let _other = fixture.operator(cluster, &there, &[]).await?;
    wait_receipts(&fixture, 15).await?;
    // The next reconcile of a held window is minutes away; a new process does it at once.
    for params in &exports {
        let change = json!({ "spec": { "parallelism": 4 } });
        patch(cluster, params.namespace, params.name, &change).await?;
        fixture.wait_complete(cluster, params).await?;
    }
    fixture
        .check_archive("tracker", ["2018-06-01", "2018-06-15"])
        .await?;
    fixture.source.no_session_left()?;
    ensure!(fixture.source.simulator.ledger().opened == 15);
    Ok(())
}

/// The same space of another service: the second export is refused for any days, and nothing is mixed.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_one_source_takes_nothing_from_another() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("sources").await;
    let fixture = SplitBrainFixture::start(&namespace, settings()).await?;
    let other = TappedService::start(settings(), &Rules::new()).await?;
    let params = |name, days| ResourceParams {
        namespace: &namespace,
        name,
        days,
        prefix: "tracker",
        parallelism: 3,
    };
    let days = ["2018-06-01", "2018-06-05"];
    let _operator = fixture.operator(cluster, &namespace, &[]).await?;
    let first = params("first", days);
    fixture.apply(cluster, &first).await?;
    fixture.wait_complete(cluster, &first).await?;
    for (name, days) in [
        ("same", days),
        ("overlapping", ["2018-06-04", "2018-06-08"]),
        ("apart", ["2018-06-10", "2018-06-12"]),
    ] {
        fixture.apply_from(cluster, &params(name, days), &other).await?;
        let states = [
            "False/SourceMismatch",
            "False/SourceMismatch",
            "False",
            "True/SourceMismatch",
        ];
        let object = wait_conditions(cluster, &namespace, name, states).await?;
        let conditions = object["status"]["conditions"].to_string();
        for part in [
            fixture.source.proxy.endpoint(),
            other.proxy.endpoint(),
            "another source".to_owned(),
        ] {
            ensure!(
                conditions.contains(&part),
                "{name}: {part} is not in {conditions}"
            );
        }
    }
    let opened = other.simulator.ledger().opened;
    ensure!(opened == 0, "{opened} sessions of the other source were opened");
    fixture.check_archive("tracker", days).await?;
    fixture.source.no_session_left()
}

/// Two nested prefixes: two archives of one space with one session limit.
#[tokio::test(flavor = "multi_thread")]
async fn nested_archives_share_one_session_limit() -> Result<()> {
    let cluster = Cluster::shared().await;
    let (here, there) = (cluster.namespace("outer").await, cluster.namespace("inner").await);
    let mut settings = settings();
    // Fast to open and slow to download, so that they would hold 56 at once.
    settings.latency = Duration::from_millis(10);
    settings.bandwidth = Some(20_000);
    let fixture = SplitBrainFixture::start(&here, settings).await?;
    let days = ["2018-06-01", "2018-06-24"];
    let params = |namespace, prefix| ResourceParams {
        namespace,
        name: "june",
        days,
        prefix,
        parallelism: 30,
    };
    let exports = [params(here.as_str(), "a"), params(there.as_str(), "a/b")];
    // Manual sessions. An operator knows the other's sessions only from the list.
    let manual_sessions = fixture.source.simulator.open_sessions_as(DEFAULT_USER, SPACE, 22);
    let _one = fixture.operator(cluster, &here, &[]).await?;
    let _other = fixture.operator(cluster, &there, &[]).await?;
    for params in &exports {
        fixture.apply(cluster, params).await?;
    }
    for params in &exports {
        fixture.wait_complete(cluster, params).await?;
    }
    for params in &exports {
        fixture.check_archive(params.prefix, days).await?;
    }
    fixture.source.no_session_left()?;
    let ledger = fixture.source.simulator.ledger();
    println!(
        "{} sessions, {} at once, {} refused",
        ledger.opened, ledger.max_open, ledger.refused_at_capacity
    );
    ensure!(
        ledger.opened == 48 && ledger.other_users_open == 22 && ledger.max_open >= 28,
        "{ledger:#?}"
    );
    let open = fixture.source.simulator.open_sessions();
    ensure!(
        manual_sessions
            .iter()
            .all(|id| open.iter().any(|open| open.id == *id))
    );
    Ok(())
}
