//! The example of embedding the engine exports what its text says.

use anyhow::{Result, ensure};

#[path = "../../examples/embed.rs"]
#[allow(dead_code)] // `main` is for `cargo run`
mod example;

#[tokio::test]
async fn the_example_exports_a_week_once_and_finds_it_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let [first, second] = example::run(folder.path()).await?;
    let end = "7 of 7 windows stored, complete: true";
    for lines in [&first, &second] {
        ensure!(lines.len() == 8 && lines[7] == end, "{lines:#?}");
    }
    ensure!(first[0].contains("240 events  Matched  downloaded"), "{first:#?}");
    // 2 June was a Saturday.
    ensure!(first[1].contains("0 events  Empty  downloaded"), "{first:#?}");
    ensure!(
        second[..7].iter().all(|line| line.ends_with("found")),
        "{second:#?}"
    );
    Ok(())
}
