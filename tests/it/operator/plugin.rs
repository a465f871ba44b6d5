//! `kubectl eventexport get`, `describe`, `suspend`, `resume`, `request` and `accept-gap` against an API server and an operator.

use anyhow::{Result, ensure};
use jiff::civil::date;
use serde_json::{Value, json};

use super::{condition, eventually};
use crate::testkit::command::{program_in, run_command};
use crate::testkit::environment::Environment;

/// Exit code and output of a command of the plugin: standard output, then standard error.
async fn plugin(fixture: &Environment, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = program_in(fixture.folder.path(), arguments);
    command.args(["--namespace", &fixture.namespace, "--kubeconfig"]);
    command.arg(fixture.cluster.kubeconfig_path());
    let done = run_command(command).await;
    Ok((done.code, done.text()))
}

#[tokio::test]
async fn a_person_reads_and_changes_exports_with_the_plugin() -> Result<()> {
    let fixture = Environment::builder("plugin")
        .today(date(2018, 7, 1))
        .start()
        .await?;
    fixture
        .create("june", ["2018-06-04", "2018-06-06"], &json!({}))
        .await?;
    let june = async || fixture.object("june").await;
    let run = async |arguments: &[&str]| plugin(&fixture, arguments).await;

    // No operator has seen it yet.
    let (code, text) = run(&["get"]).await?;
    ensure!(code == Some(1) && text.contains("NotObserved"), "{text}");
    let (code, text) = run(&["request", "june", "--wait", "1"]).await?;
    ensure!(
        code == Some(1) && text.contains("did not answer within 1 s"),
        "{text}"
    );
    let (code, text) = run(&["describe", "july"]).await?;
    ensure!(code == Some(1) && text.contains("does not exist"), "{text}");
    let (code, text) = run(&["suspend", "june"]).await?;
    ensure!(
        code == Some(0) && text.starts_with("eventexport june suspended\n"),
        "{text}"
    );
    ensure!(june().await?["spec"]["suspend"] == true, "{}", june().await?);
    let (code, text) = run(&["suspend", "june"]).await?;
    ensure!(code == Some(0) && text.contains("suspended already"), "{text}");
    let (_, text) = run(&["describe", "june"]).await?;
    ensure!(
        text.contains("Suspended:") && text.contains("no operator has seen it"),
        "{text}"
    );
    let (code, text) = run(&["resume", "june"]).await?;
    ensure!(
        code == Some(0) && text.starts_with("eventexport june resumed\n"),
        "{text}"
    );

    let _operator = fixture.operator().start().await?;
    eventually("it is complete", async || {
        Ok(condition(&june().await?, "Complete") == "True/Complete")
    })
    .await?;
    let (code, text) = run(&["request", "june"]).await?;
    ensure!(code == Some(0) && text.contains("was looked at"), "{text}");
    let (code, text) = run(&["get", "--output", "json"]).await?;
    let shown: Value = serde_json::from_str(text.lines().next().unwrap_or_default())?;
    let row = &shown["exports"][0];
    ensure!(
        code == Some(0)
            && row["ready"] == true
            && row["reason"] == "Complete"
            && row["windows"]["stored"] == 3,
        "{text}"
    );
    let (_, text) = run(&["describe", "june"]).await?;
    for words in ["3 of 3 stored", "Head:", "Complete True (Complete)", "Normal"] {
        ensure!(text.contains(words), "{words}: {text}");
    }

    // A gap keeps the others, and an invalid one is refused before it is sent.
    let gap = |start: &'static str, reason: &'static str| {
        ["accept-gap", "june", "--start", start, "--reason", reason]
    };
    let (code, text) = run(&gap("2018-06-04", "first")).await?;
    ensure!(
        code == Some(0) && text.contains("accepted 2018-06-04 to 2018-06-04"),
        "{text}"
    );
    let (_, text) = run(&gap("2018-06-05", "second")).await?;
    ensure!(text.contains("accepted 2018-06-05"), "{text}");
    let (code, text) = run(&gap("2018-06-05", "again")).await?;
    ensure!(code == Some(0) && text.contains("nothing to accept"), "{text}");
    let (code, text) = run(&gap("2018-06-06", " ")).await?;
    ensure!(
        code == Some(2) && text.contains("must explain on one line"),
        "{text}"
    );
    let (_, text) = run(&[
        "accept-gap",
        "june",
        "--start",
        "2018-06-06",
        "--reason",
        "\"quoted\": x",
        "--dry-run",
    ])
    .await?;
    ensure!(
        text.starts_with(
            "acceptedGaps:\n- start: \"2018-06-06\"\n  end: \"2018-06-06\"\n  reason: \"\\\"quoted\\\": x\"\n"
        ),
        "{text}"
    );
    let gaps = june().await?["spec"]["acceptedGaps"].take();
    let wanted = json!([
        { "start": "2018-06-04", "end": "2018-06-04", "reason": "first" },
        { "start": "2018-06-05", "end": "2018-06-05", "reason": "second" },
    ]);
    ensure!(gaps == wanted, "{gaps}");
    // A longer gap adds the days that are not accepted yet.
    let (code, text) = run(&[
        "accept-gap",
        "june",
        "--start",
        "2018-06-04",
        "--end",
        "2018-06-07",
        "--reason",
        "r",
    ])
    .await?;
    ensure!(
        code == Some(0) && text.contains("accepted 2018-06-06 to 2018-06-07"),
        "{text}"
    );
    // No operator runs in a Pod there.
    let (code, text) = run(&["logs", "june", "--operator-namespace", &fixture.namespace]).await?;
    ensure!(code == Some(1) && text.contains("no Pod has the label"), "{text}");
    Ok(())
}
