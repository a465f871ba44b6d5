//! The image and the chart on a real node: `make e2e`. Needs root, and the programs of `make bed-node`.

// Also outside of the functions that clippy takes for tests.
#![allow(clippy::indexing_slicing)]

mod chart;
mod shards;
mod stage;
mod transcript;

use anyhow::Result;

use self::stage::Stage;

/// One test, since a machine has room for one node: its parts follow each other, as in the life of a release.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "make e2e: needs root and a real node"]
async fn a_release_lives_on_a_real_node_and_loses_nothing() -> Result<()> {
    let stage = Stage::set().await?;
    let lived = live(&stage).await;
    if let Err(error) = &lived {
        stage.transcript.part("It failed");
        stage.transcript.say(&format!("{error:#}"));
        stage.autopsy().await;
    }
    println!("the transcript is {}", stage.transcript.path().display());
    lived
}

async fn live(stage: &Stage) -> Result<()> {
    chart::install_and_export(stage).await?;
    chart::upgrade_and_roll_back(stage).await?;
    chart::kill_the_leader(stage).await?;
    shards::export_by_a_job(stage).await?;
    chart::uninstall_and_install_again(stage).await
}
