//! Overlapping resources: in one archive, in one space, or nested prefixes.

use std::time::Duration;

use anyhow::{Result, ensure};
use eventexport::simulator::{DEFAULT_USER, Settings, Simulator};
use jiff::civil::date;
use serde_json::json;

use super::fixture::{
    check_archive, environment, export, operator, operator_of, wait_complete, wait_receipts,
};
use crate::bed::Cluster;
use crate::operator::{patch, wait_conditions};
use crate::testkit::environment::no_session_left;
use crate::testkit::manifest::SPACE;

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
    let there = cluster.namespace("there").await;
    let env = environment("here", settings()).await?;
    let exports = [
        export(&env, ["2018-06-01", "2018-06-09"]).name("first"),
        export(&env, ["2018-06-04", "2018-06-12"]).name("second"),
        export(&env, ["2018-06-07", "2018-06-15"]).namespace(&there),
    ];
    for export in &exports {
        env.apply(export).await?;
    }
    let _one = operator(&env).start().await?;
    let _other = operator_of(&env, cluster, &there).start().await?;
    wait_receipts(&env, 15).await?;
    // The next reconcile of a held window is minutes away; a new process does it at once.
    for export in &exports {
        let [namespace, name] = export.key();
        let change = json!({ "spec": { "parallelism": 4 } });
        patch(cluster, namespace, name, &change).await?;
        wait_complete(cluster, export).await?;
    }
    check_archive(&env, "tracker", ["2018-06-01", "2018-06-15"]).await?;
    no_session_left(&env.simulator)?;
    ensure!(env.simulator.ledger().opened == 15);
    Ok(())
}

/// The same space of another service: the second export is refused for any days, and nothing is mixed.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_one_source_takes_nothing_from_another() -> Result<()> {
    let env = environment("sources", settings()).await?;
    let other = Simulator::start(settings()).await?;
    let other_endpoint = other.url().as_str().trim_end_matches('/');
    let days = ["2018-06-01", "2018-06-05"];
    let _operator = operator(&env).start().await?;
    let first = export(&env, days).name("first");
    env.apply(&first).await?;
    wait_complete(env.cluster, &first).await?;
    for (name, days) in [
        ("same", days),
        ("overlapping", ["2018-06-04", "2018-06-08"]),
        ("apart", ["2018-06-10", "2018-06-12"]),
    ] {
        let export = export(&env, days)
            .name(name)
            .set("source.endpoint", other_endpoint);
        env.apply(&export.uaa()).await?;
        let states = [
            "False/SourceMismatch",
            "False/SourceMismatch",
            "False",
            "True/SourceMismatch",
        ];
        let object = wait_conditions(env.cluster, &env.namespace, name, states).await?;
        let conditions = object["status"]["conditions"].to_string();
        for part in [&env.tracker.endpoint(), other_endpoint, "another source"] {
            ensure!(conditions.contains(part), "{name}: {part} is not in {conditions}");
        }
    }
    let opened = other.ledger().opened;
    ensure!(opened == 0, "{opened} sessions of the other source were opened");
    check_archive(&env, "tracker", days).await?;
    no_session_left(&env.simulator)
}

/// Two nested prefixes: two archives of one space with one session limit.
#[tokio::test(flavor = "multi_thread")]
async fn nested_archives_share_one_session_limit() -> Result<()> {
    let cluster = Cluster::shared().await;
    let there = cluster.namespace("inner").await;
    let mut settings = settings();
    // Fast to open and slow to download, so that they would hold 56 at once.
    settings.latency = Duration::from_millis(10);
    settings.bandwidth = Some(20_000);
    let env = environment("outer", settings).await?;
    let days = ["2018-06-01", "2018-06-24"];
    let june = export(&env, days).set("parallelism", 30);
    let outer = june.clone().set("destination.s3.prefix", "a");
    let inner = june.namespace(&there).set("destination.s3.prefix", "a/b");
    // Manual sessions. An operator knows the other's sessions only from the list.
    let manual_sessions = env.simulator.open_sessions_as(DEFAULT_USER, SPACE, 22);
    let _one = operator(&env).start().await?;
    let _other = operator_of(&env, cluster, &there).start().await?;
    for export in [&outer, &inner] {
        env.apply(export).await?;
    }
    for export in [&outer, &inner] {
        wait_complete(cluster, export).await?;
    }
    for prefix in ["a", "a/b"] {
        check_archive(&env, prefix, days).await?;
    }
    no_session_left(&env.simulator)?;
    let ledger = env.simulator.ledger();
    println!(
        "{} sessions, {} at once, {} refused",
        ledger.opened, ledger.max_open, ledger.refused_at_capacity
    );
    ensure!(
        ledger.opened == 48 && ledger.other_users_open == 22 && ledger.max_open >= 28,
        "{ledger:#?}"
    );
    let open = env.simulator.open_sessions();
    ensure!(
        manual_sessions
            .iter()
            .all(|id| open.iter().any(|open| open.id == *id))
    );
    Ok(())
}
