//! Detects and reports a store that ignores `If-None-Match`.

use anyhow::{Context as _, Result, ensure};
use jiff::civil::date;

use super::equivalence::run;
use super::{ROOT, check_archive, environment, june, operator};
use crate::testkit::bucket::Bucket;
use crate::testkit::environment::no_session_left;
use crate::testkit::proxy::Proxy;
use crate::testkit::service::service_on;

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_conditional_writes_is_reported_and_refused() -> Result<()> {
    let settings = service_on(date(2018, 6, 9));
    let fixture = environment("weak", settings).await?;
    let (proxy, stripped) = Proxy::weak_store(fixture.gateway).await?;
    let june = june(&fixture, "2018-06-04", "2018-06-06", 2).set("destination.s3.endpoint", proxy.endpoint());
    fixture.apply(&june).await?;
    let operator = operator(&fixture)?;
    let object = fixture.wait_complete("june").await?;
    let status = &object["status"];
    let named = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| {
            condition.to_string().contains("ConditionalWritesUnsupported")
                && condition.to_string().contains("If-None-Match")
        });
    let named = named.with_context(|| format!("no condition names the weakness: {status:#}"))?;
    println!(
        "by the operator: {} is {}: {}",
        named["type"], named["status"], named["message"]
    );
    ensure!(stripped.hits() > 0, "nothing was conditional");
    check_archive(&fixture, &[date(2018, 6, 4), date(2018, 6, 5), date(2018, 6, 6)]).await?;
    operator.kill().await?;

    let name = format!("{}-run", fixture.namespace);
    let bucket = Bucket::create_versioned(fixture.gateway, &name).await?;
    let june = june.set("destination.s3.bucket", name.as_str());
    let opened = fixture.simulator.ledger().opened;
    let printed = run(&fixture, &june, &[]).await.expect_exit(1).text();
    println!("by run: {printed}");
    for part in ["ConditionalWritesUnsupported", "--single-writer", &name] {
        ensure!(printed.contains(part), "{part} is not in {printed}");
    }
    ensure!(
        fixture.simulator.ledger().opened == opened,
        "a session was opened for nothing"
    );
    ensure!(bucket.keys().await?.is_empty(), "{:?}", bucket.keys().await?);

    run(&fixture, &june, &["--single-writer"]).await.expect_exit(0);
    ensure!(bucket.keys().await?.len() == 7, "{:?}", bucket.keys().await?);

    // A run without windows to download makes no test writes, and still writes the manifest once.
    let manifest = format!("{ROOT}_manifests/00000001.json");
    bucket.delete(&manifest).await?;
    for _ in 0..2 {
        run(&fixture, &june, &[]).await.expect_exit(0);
    }
    let versions = bucket.versions().await?;
    ensure!(versions.get(&manifest) == Some(&3), "{versions:#?}");
    no_session_left(&fixture.simulator)
}
