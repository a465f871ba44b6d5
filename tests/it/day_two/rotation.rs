//! Credential rotation: the old key is refused, the export reports it and loses nothing, and the new Secret triggers
//! a reconcile.

use anyhow::{Result, ensure};
use eventexport::simulator::Settings;
use serde_json::json;

use super::DayTwoFixture;
use crate::operator::{condition, eventually, wait_conditions};
use crate::testkit::manifest::tracker_keys;

#[tokio::test]
async fn a_rotated_key_is_noticed_and_nothing_is_downloaded_twice() -> Result<()> {
    let fixture = DayTwoFixture::start("rotation", Settings::default()).await?;
    let bucket = &fixture.namespace;
    fixture.gateway.create_bucket(bucket).await?;
    let (access, hidden) = (fixture.gateway.access_key(), fixture.gateway.secret_key());
    fixture.keys("bucket", access, hidden).await?;
    fixture.apply(&fixture.two_days("june", bucket)).await?;
    fixture.wait_complete("june").await?;
    let opened = fixture.simulator.ledger().opened;

    // Store key: stored data count again when the new key is available.
    let refused = ["False/CredentialsRefused", "", "False", "True/CredentialsRefused"];
    fixture.keys("bucket", access, "spent").await?;
    let more = json!({ "spec": { "dateRange": { "end": "2018-06-06" } } });
    fixture.patch("june", &more).await?;
    let object = wait_conditions(fixture.cluster, bucket, "june", refused).await?;
    let message = object["status"]["lastError"]["message"].to_string();
    ensure!(
        !message.contains("spent") && message.contains(bucket.as_str()),
        "{message}"
    );
    ensure!(
        object["status"]["covered"] == json!([{ "start": "2018-06-04", "end": "2018-06-05" }]),
        "what was known stays shown"
    );
    fixture.keys("bucket", access, hidden).await?;
    fixture.wait_complete("june").await?;
    ensure!(
        fixture.simulator.ledger().opened == opened + 1,
        "only the new day was downloaded"
    );

    // Service key. The token of the old key is still valid, so the change of the Secret triggers the reconcile.
    fixture.secret("tracker", &json!({ "apiKey": "spent" })).await?;
    let more = json!({ "spec": { "dateRange": { "end": "2018-06-07" } } });
    fixture.patch("june", &more).await?;
    wait_conditions(fixture.cluster, bucket, "june", refused).await?;
    fixture.secret("tracker", &tracker_keys()).await?;
    eventually("it completes with the new key", async || {
        let object = fixture.object("june").await?;
        Ok(condition(&object, "Complete") == "True/Complete")
    })
    .await?;
    ensure!(fixture.simulator.ledger().opened == opened + 2);
    ensure!(fixture.simulator.open_sessions().is_empty());
    Ok(())
}
