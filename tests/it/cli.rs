//! Runs the program as a user does: exit codes, output, and files left behind.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod archives;
mod contexts;
mod environment;
mod fixture;
mod flags;
mod locations;
mod report;
mod sessions;
mod shells;
mod spellings;
mod status;
mod terminal;
mod tutorial;
mod unfinished;

use std::fs;
use std::time::Duration;

use eventexport::simulator::{RequestKind, Settings, Simulator, Volume};
use serde_json::Value;

use crate::testkit::command::{Home, run_command, signal, wait_output};
use crate::testkit::manifest::Manifest;

/// Maximum time a run may take.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Runs the manifest of [`home`].
const RUN: [&str; 5] = ["run", "-f", "audit.yaml", "--archive", "export"];

/// Same with a summary in JSON.
const RUN_JSON: [&str; 7] = [
    "run",
    "-f",
    "audit.yaml",
    "--archive",
    "export",
    "--output",
    "json",
];

/// Returns a home directory with the key of a service.
fn keyed() -> Home {
    Home::new().env("EVENTEXPORT_API_KEY", "simulated-api-key")
}

/// Returns one with a manifest `audit.yaml` of seven days for a simulator.
fn home(simulator: &Simulator) -> Home {
    let home = keyed();
    Manifest::local("audit", simulator.url().as_str())
        .days("2018-06-01", "2018-06-07")
        .write(home.path("audit.yaml"));
    home
}

async fn simulator() -> Simulator {
    let today = "2018-07-01".parse().ok();
    // A day without events would finish at once and the next one would start.
    let volume = Volume {
        quiet: Vec::new(),
        ..Volume::default()
    };
    Simulator::start(Settings {
        today,
        volume,
        ..Settings::default()
    })
    .await
    .unwrap()
}

const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart.yaml");

/// Waits until four sessions are open and downloading. The journal then names all of them.
async fn in_transfer(simulator: &Simulator) {
    let flowing = async {
        while simulator.ledger().requests_of(RequestKind::Download) < 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, flowing).await.unwrap();
}

#[tokio::test]
async fn the_quickstart_is_stored_once_and_verifies() {
    let home = keyed();
    fs::copy(QUICKSTART, home.path("audit.yaml")).unwrap();
    let arguments = [&RUN_JSON[..], &["--simulate"]].concat();
    let summary = home.run(&arguments).await.expect_exit(0).summary();
    assert_eq!(summary["totals"]["storedNow"], 7);
    assert_eq!(summary["totals"]["empty"], 2);
    assert_eq!(summary["totals"]["events"], 1200);
    assert_eq!(
        summary["simulatedSessions"],
        serde_json::json!({"opened": 7, "deleted": 7, "open": 0})
    );

    let summary = home.run(&arguments).await.expect_exit(0).summary();
    assert_eq!(
        (
            summary["totals"]["storedNow"].as_u64(),
            summary["totals"]["alreadyStored"].as_u64()
        ),
        (Some(0), Some(7))
    );
    assert_eq!(summary["simulatedSessions"]["opened"], 0);

    let table = home.run(&[&RUN[..], &["--simulate"]].concat()).await.out;
    assert!(
        table.contains("7 of 7 days stored and proved: 1,200 events"),
        "{table}"
    );
}

#[tokio::test]
async fn an_invalid_signing_key_does_not_block_storing_events() {
    let home = keyed();
    let write = |vouched: Option<&str>| {
        Manifest::simulated("audit")
            .days("2018-06-01", "2018-06-01")
            .set("manifest.signingKeySecretRef.name", "signing")
            .set("manifest.unsignedReceiptsBefore", vouched)
            .write(home.path("audit.yaml"));
    };
    let run = async |key: Option<(&str, &str)>| {
        let mut command = home.command(&[&RUN_JSON[..], &["--simulate"]].concat());
        command.envs(key);
        run_command(command).await
    };
    write(None);
    let none = run(None).await.expect_exit(2).text();
    assert!(none.contains("EVENTEXPORT_SECRET_SIGNING_SIGNING_KEY"), "{none}");

    let wrong = run(Some(("EVENTEXPORT_SIGNING_KEY", "hunter2")))
        .await
        .expect_exit(1);
    let summary = wrong.summary();
    assert_eq!(summary["totals"]["storedNow"], 1);
    let export = &summary["exports"][0];
    assert_eq!(
        (export["manifestDue"].as_bool(), &export["problems"][0]["reason"]),
        (Some(true), &"SigningKeyInvalid".into())
    );
    let text = wrong.text();
    assert!(
        text.contains("openssl genpkey") && !text.contains("hunter2"),
        "{text}"
    );

    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
        .unwrap()
        .serialize_pem();
    let with_key = async || run(Some(("EVENTEXPORT_SECRET_SIGNING_SIGNING_KEY", &key))).await;
    // The receipt was written without a key: a person vouches for it.
    let unsigned = with_key().await.expect_exit(1).summary();
    assert_eq!(unsigned["exports"][0]["problems"][0]["reason"], "ReceiptUnsigned");
    write(Some("2018-06-02"));
    let right = with_key().await.expect_exit(0).summary();
    assert_eq!(right["totals"]["alreadyStored"], 1);
    let signature = home.path("export/space=c1/scope=space/_manifests/00000001.json.sig");
    assert_eq!(fs::read(signature).unwrap().len(), 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_deletes_the_sessions_and_the_next_run_resumes() {
    let simulator = simulator().await;
    simulator.add_preset("trickle").unwrap();
    let home = home(&simulator);
    let child = home.command(&RUN).spawn().unwrap();
    in_transfer(&simulator).await;
    signal(&child, "INT").await;
    let stdout = wait_output(child).await.expect_exit(1).out;
    assert_eq!(simulator.ledger().open_now, 0);
    assert!(
        stdout.contains("Missing: 2018-06-01") && stdout.contains("Run the same command again to resume."),
        "{stdout}"
    );
    assert!(!stdout.contains("Failed"), "the signal is no failure: {stdout}");

    simulator.set_faults(Vec::new());
    let opened = simulator.ledger().opened;
    home.run(&RUN).await.expect_exit(0);
    assert_eq!(simulator.ledger().opened - opened, 7);
    assert_eq!(simulator.ledger().open_now, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_run_after_a_kill_cleans_up() {
    let simulator = simulator().await;
    simulator.add_preset("trickle").unwrap();
    let manual_sessions = simulator.open_sessions_as("person@example.com", "c1", 3);
    let home = home(&simulator);
    let mut child = home.command(&RUN_JSON).spawn().unwrap();
    in_transfer(&simulator).await;
    child.kill().await.unwrap();
    assert_eq!(simulator.ledger().open_now, 4);

    simulator.set_faults(Vec::new());
    let again = home.run(&RUN_JSON).await.expect_exit(0);
    assert_eq!(again.summary()["totals"]["stored"], 7);
    let ledger = simulator.ledger();
    assert_eq!(
        (
            ledger.open_now,
            ledger.other_users_open,
            ledger.other_users_deleted
        ),
        (0, manual_sessions.len() as u64, 0)
    );
}

#[tokio::test]
async fn invalid_input_exits_with_2_and_names_the_field() {
    let home = Home::new();
    let quickstart = fs::read_to_string(QUICKSTART).unwrap();
    let table = [
        ("  dateRange:", "  daterange:", "spec.daterange"),
        ("end: \"2018-06-07\"", "end: \"2018-05-07\"", "spec.dateRange.end"),
        ("kind: EventExport", "kind: EventExpot", "kind"),
        ("v1alpha1", "v1", "apiVersion"),
        ("apiKey: simulated-api-key", "apiKey: 12345", "stringData.apiKey"),
        (
            "      name: tracker",
            "      name: traker",
            "spec.source.credentialsSecretRef",
        ),
        ("metadata:\n  name: quickstart", "metadata: [", "not valid YAML"),
    ];
    for (right, wrong, named) in table {
        assert!(quickstart.contains(right), "{right}");
        fs::write(home.path("wrong.yaml"), quickstart.replace(right, wrong)).unwrap();
        let ended = home.run(&["run", "-f", "wrong.yaml"]).await;
        assert_eq!(ended.code, Some(2), "{wrong}: {ended:?}");
        assert!(ended.err.contains(named), "{wrong}: {ended:?}");
        let text = ended.text();
        assert!(
            !text.contains("simulated-api-key") && !text.contains("simulated-secret-key"),
            "{wrong}: {text}"
        );
    }
}

#[tokio::test]
async fn a_plan_opens_no_session_and_counts_the_work() {
    let simulator = simulator().await;
    let home = home(&simulator);
    let plan = async || {
        let arguments = [&["plan"][..], &RUN_JSON[1..]].concat();
        home.run(&arguments).await.summary()["exports"][0].clone()
    };
    let planned = plan().await;
    assert_eq!(planned["sessions"].as_array().map(Vec::len), Some(7));
    assert!(!home.path("export").exists(), "a plan makes nothing");
    assert_eq!(simulator.ledger().requests.values().sum::<u64>(), 0);

    home.run(&RUN).await.expect_exit(0);
    let taken = simulator.ledger().requests.values().sum::<u64>();
    let expected = planned["requests"].as_u64().unwrap();
    assert!(
        taken.abs_diff(expected) <= 7,
        "planned {expected} requests, a run took {taken}"
    );
    assert_eq!(plan().await["requests"], 0);
}

/// Lists the days that have a receipt.
fn stored_days(home: &Home) -> Vec<String> {
    let journal = home.path("export/space=c1/scope=space/_journal");
    let names = fs::read_dir(journal)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut days: Vec<String> = names
        .filter_map(|name| name.to_str()?.strip_suffix(".receipt.json").map(str::to_owned))
        .collect();
    days.sort();
    days
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_together_store_every_day_once() {
    let simulator = simulator().await;
    let home = home(&simulator);
    let with = async |shard: &str| home.run(&[&RUN_JSON[..], &["--shard", shard]].concat()).await;
    // Both shards run at the same time with one state folder.
    let (one, two) = tokio::join!(with("0/2"), with("1/2"));
    for (ended, shard) in [(one, "0/2"), (two, "1/2")] {
        let summary = ended.expect_exit(0).summary();
        assert_eq!(summary["exports"][0]["shard"], shard);
        let (wanted, stored) = (&summary["totals"]["wanted"], &summary["totals"]["storedNow"]);
        assert!(
            wanted == stored && [3, 4].contains(&stored.as_u64().unwrap()),
            "{summary}"
        );
    }
    let june: Vec<String> = (1..=7).map(|day| format!("2018-06-{day:02}")).collect();
    assert_eq!(stored_days(&home), june);
    let ledger = simulator.ledger();
    assert_eq!((ledger.opened, ledger.deleted, ledger.violation_count), (7, 7, 0));
    assert!(ledger.downloads.values().all(|download| download.replies <= 1));

    let whole = home.run(&RUN_JSON).await.summary();
    assert_eq!(
        (&whole["totals"]["alreadyStored"], &whole["exports"][0]["shard"]),
        (&7.into(), &Value::Null)
    );
    assert_eq!(simulator.ledger().opened, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replacement_of_a_killed_shard_reuses_its_name_and_leaves_no_session() {
    let simulator = simulator().await;
    simulator.add_preset("trickle").unwrap();
    let home = home(&simulator);
    // Four windows run at once. The state folder may be missing, as in a container.
    let shard = ["--shard", "1/2", "--holder", "job:audit/long"];
    let pod = || {
        let mut pod = home.command(&[&RUN_JSON[..], &shard].concat());
        pod.env_remove("HOME");
        pod
    };
    let mut child = pod().spawn().unwrap();
    in_transfer(&simulator).await;
    child.kill().await.unwrap();
    simulator.set_faults(Vec::new());

    let summary = run_command(pod()).await.expect_exit(0).summary();
    assert_eq!(summary["totals"]["wanted"], summary["totals"]["stored"]);
    assert!(simulator.open_sessions().is_empty());

    let refused = home.run(&["run", "-f", "audit.yaml", "--shard", "2/2"]).await;
    let refused = refused.expect_exit(2);
    assert!(refused.err.contains("from 0 to 1"), "{refused:?}");
}
