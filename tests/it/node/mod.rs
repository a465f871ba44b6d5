//! Tests the image and the chart on a real node: `make e2e`. Needs root and the programs of `make bed-node`.

// Needed outside of `#[test]` functions: fixtures panic, too.
#![allow(clippy::indexing_slicing)]

mod chart;
mod demo;
mod fixture;
mod shards;
mod transcript;

use anyhow::Result;

use self::fixture::NodeFixture;

/// One test for the release, whose parts follow its lifecycle; `make e2e` runs one test at a time, because a machine has room
/// for one node.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "make e2e: needs root and a real node"]
async fn a_release_survives_its_lifecycle_on_a_real_node() -> Result<()> {
    let fixture = NodeFixture::start().await?;
    let lived = run_release(&fixture).await;
    if let Err(error) = &lived {
        fixture.transcript.part("It failed");
        fixture.transcript.say(&format!("{error:#}"));
        fixture.show_diagnostics().await;
    }
    println!("the transcript is {}", fixture.transcript.path().display());
    lived
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make e2e: needs root and a real node"]
async fn the_demo_exports_a_month_and_leaves_nothing_behind() -> Result<()> {
    demo::run_demo().await
}

async fn run_release(fixture: &NodeFixture) -> Result<()> {
    chart::install_and_export(fixture).await?;
    chart::upgrade_and_roll_back(fixture).await?;
    chart::kill_the_leader(fixture).await?;
    shards::export_by_a_job(fixture).await?;
    chart::uninstall_and_install_again(fixture).await
}
