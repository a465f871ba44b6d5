//! A run exits with 0 only when no session or attempt is left and every manifest is written; otherwise it names what is
//! left and says when to run again.

use std::fs;
use std::time::{Duration, Instant};

use eventexport::simulator::Simulator;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{RUN, RUN_JSON, TIMEOUT, home, simulator};
use crate::testkit::service::open_ids;

/// Number of runs that are killed, each with a session that it does not know.
const KILLS: usize = 25;

fn sorted_ids(simulator: &Simulator) -> Vec<String> {
    let mut ids = open_ids(simulator);
    ids.sort();
    ids
}

/// Returns the summary of the export, after a check that everything is stored but not finished.
fn unfinished_export(summary: &Value) -> Value {
    assert_eq!(summary["exitCode"], 1, "{summary:#}");
    assert_eq!(summary["totals"]["stored"], 7, "{summary:#}");
    let export = summary["exports"][0].clone();
    let rerun_at: Timestamp = export["rerunAt"].as_str().unwrap().parse().unwrap();
    let wait = rerun_at.duration_since(Timestamp::now()).as_secs();
    assert!((500..=600).contains(&wait), "{wait} s: {summary:#}");
    export
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_lost_the_reply_to_a_create_names_the_session_and_fails() {
    let simulator = simulator().await;
    simulator.add_preset("create-reply-lost").unwrap();
    let home = home(&simulator);
    for round in 0..2 {
        let output = home.run(&RUN_JSON).await.expect_exit(1);
        let export = unfinished_export(&output.summary());
        assert_eq!(export["sessionsLeft"], json!(sorted_ids(&simulator)), "{round}");
        assert_eq!(export["openAttempts"].as_array().unwrap().len(), 1, "{round}");
    }
    let text = home.run(&RUN).await.expect_exit(1).out;
    for expected in [
        "7 of 7 days stored:",
        &sorted_ids(&simulator)[0],
        "Run the same command again after 20",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    assert!(!text.contains("stored and proved"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_after_repeated_kills_names_the_sessions_and_fails() {
    let simulator = simulator().await;
    let home = home(&simulator);
    for kills in 1..=KILLS {
        simulator.add_preset("create-reply-hangs").unwrap();
        let mut child = home.command(&RUN_JSON).spawn().unwrap();
        let opened = async {
            while simulator.open_sessions().len() < kills {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, opened).await.unwrap();
        child.kill().await.unwrap();
        simulator.set_faults(Vec::new());
    }
    let output = home.run(&RUN_JSON).await.expect_exit(1);
    let export = unfinished_export(&output.summary());
    assert_eq!(export["sessionsLeft"], json!(sorted_ids(&simulator)));
    assert_eq!(export["openAttempts"].as_array().unwrap().len(), KILLS);
    let manifests = home.path("export/space=c1/scope=space/_manifests");
    assert_eq!(fs::read_dir(manifests).map_or(0, Iterator::count), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_session_is_quoted_and_waited_for_until_the_limit() {
    let simulator = simulator().await;
    simulator.add_preset("create-403").unwrap();
    let home = home(&simulator);
    let start = Instant::now();
    let output = home
        .run(&[&RUN[..], &["--wait", "3s"]].concat())
        .await
        .expect_exit(1);
    let waited = start.elapsed();
    assert!(
        (Duration::from_secs(3)..Duration::from_secs(30)).contains(&waited),
        "{waited:?}"
    );
    for text in [&output.out, &output.err] {
        for expected in [
            "SessionRefused",
            "status 403",
            "“forbidden”",
            "listed 0 open sessions",
        ] {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
    }
    let help = home.run(&["run", "--help"]).await.out;
    assert!(help.contains("[default: 1h]"));
}
