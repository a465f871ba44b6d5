//! Two clusters, each with an API server and an operator, and one bucket.

use std::time::Duration;

use anyhow::{Result, ensure};
use eventexport::simulator::Settings;
use jiff::civil::date;
use serde_json::{Value, json};

use super::fixture::{
    check_archive, environment, eventually, export, operator, operator_of, receipts, wait_complete,
    wait_receipts,
};
use crate::bed::Cluster;
use crate::operator::{existing, kubectl, patch};
use crate::testkit::environment::no_session_left;

const DAYS: [&str; 2] = ["2018-06-01", "2018-06-14"];

fn settings() -> Settings {
    Settings {
        today: Some(date(2018, 8, 1)),
        // A window takes some seconds: few start within the five seconds that clocks may differ.
        latency: Duration::from_millis(600),
        ..Settings::default()
    }
}

/// Both export the same days below the same root. Returns the second cluster's messages on windows held by the first
/// one.
async fn both(name: &str, ids: [&str; 2]) -> Result<Vec<String>> {
    let (one, other) = (Cluster::shared().await, &Cluster::start().await?);
    let env = environment(name, settings()).await?;
    let namespace = &env.namespace;
    kubectl(other, &["create", "namespace", namespace]).await?;
    let june = export(&env, DAYS).set("parallelism", 4);
    let [id, other_id] = ids.map(|id| ["--cluster-id", id]);
    let _first = operator(&env).args(&id).start().await?;
    june.apply(one).await?;
    wait_receipts(&env, 1).await?;
    let _second = operator_of(&env, other, namespace)
        .args(&other_id)
        .start()
        .await?;
    june.apply(other).await?;
    let mut held = Vec::new();
    eventually("everything is stored", async || {
        for cluster in [one, other] {
            let object = existing(cluster, namespace, "june").await?;
            let conditions = object["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let says = conditions.iter().filter(|one| one["reason"] == "HeldByOther");
            held.extend(says.map(|one| one["message"].as_str().unwrap_or_default().to_owned()));
        }
        Ok(receipts(&env) == 14)
    })
    .await?;
    // The next reconcile of a held window is minutes away; a change of the spec triggers it now.
    for cluster in [one, other] {
        let change = json!({ "spec": { "parallelism": 5 } });
        patch(cluster, namespace, "june", &change).await?;
    }
    for cluster in [one, other] {
        wait_complete(cluster, &june).await?;
    }
    check_archive(&env, "tracker", DAYS).await?;
    no_session_left(&env.simulator)?;
    let ledger = env.simulator.ledger();
    println!(
        "{name}: {} sessions for 14 days, {} at once; held: {:#?}",
        ledger.opened,
        ledger.max_open,
        held.first().map_or(Value::Null, |held| json!(held))
    );
    // A day is downloaded again only if the second one starts during the first one's work, or within the seconds that
    // clocks may differ: four at once, and four or eight after them.
    ensure!(ledger.opened <= 14 + 12, "{} sessions for 14 days", ledger.opened);
    Ok(held)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_share_the_work_of_one_archive() -> Result<()> {
    both("clusters", ["one", "other"]).await.map(drop)
}

/// Situation after a backup was restored into a second cluster: both operators have the same identity.
#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_with_one_name_do_not_interfere() -> Result<()> {
    both("restored", ["prod", "prod"]).await.map(drop)
}
