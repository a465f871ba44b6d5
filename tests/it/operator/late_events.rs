//! A complete export gets the events that arrive late, and says so.

use anyhow::{Context as _, Result};
use jiff::civil::date;
use serde_json::Value;

use super::{condition, event_reasons, eventually};
use crate::testkit::environment::{Environment, no_session_left};

#[tokio::test]
async fn a_complete_export_stores_the_late_events_of_a_day_at_its_next_run() -> Result<()> {
    let env = Environment::builder("late").versioned().start().await?;
    env.apply(&env.export("june")).await?;
    let operator = env.operator().start().await?;
    env.wait_complete("june").await?;
    env.simulator.grow_day(date(2018, 6, 5), 7);

    // At once, instead of at the daily run.
    env.request_reconcile("june", "now").await?;
    let mut last = Value::Null;
    eventually("the late events are stored", async || {
        last = env.object("june").await?;
        let stored = last["status"]["lateEvents"] == 7;
        Ok(stored && condition(&last, "Complete") == "True/Complete")
    })
    .await
    .with_context(|| last["status"].to_string())?;
    eventually("an Event says so", async || {
        let reasons = event_reasons(env.cluster, &env.namespace, "june").await?;
        Ok(reasons.iter().any(|reason| reason == "LateEventsStored"))
    })
    .await?;
    let keys = env.bucket.keys().await?;
    for end in [
        "date=2018-06-05/events-r1.json.gz",
        "_revisions/2018-06-05/1/events.json.gz",
        "_journal/2018-06-05.r1.receipt.json",
        "_manifests/00000002.json",
    ] {
        assert!(keys.iter().any(|key| key.ends_with(end)), "{end}: {keys:?}");
    }
    let metrics = operator.metrics().await?;
    assert!(metrics.contains("eventexport_late_events_total 7"), "{metrics}");
    no_session_left(&env.simulator)
}
