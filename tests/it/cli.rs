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
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use eventexport::simulator::{RequestKind, Settings, Simulator, Volume};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::testkit::command::signal;
use crate::testkit::manifest::Manifest;

/// Maximum time a run may take.
const TIMEOUT: Duration = Duration::from_mins(1);

fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventexport"));
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("XDG_STATE_HOME", folder.join("state"))
        .env("EVENTEXPORT_API_KEY", "simulated-api-key")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn output(child: Child) -> Output {
    tokio::time::timeout(TIMEOUT, child.wait_with_output())
        .await
        .unwrap()
        .unwrap()
}

async fn run(folder: &Path, arguments: &[&str]) -> Output {
    output(program(folder, arguments).spawn().unwrap()).await
}

fn last_object(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// Returns a manifest of seven days for a simulator.
fn manifest(folder: &Path, simulator: &Simulator) -> String {
    let manifest = Manifest::local("audit", simulator.url().as_str()).days("2018-06-01", "2018-06-07");
    let path = manifest.write(folder.join("audit.yaml"));
    path.to_str().unwrap().to_owned()
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
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("export");
    let arguments = [
        "run",
        "-f",
        "examples/quickstart.yaml",
        "--simulate",
        "--archive",
        to.to_str().unwrap(),
        "--output",
        "json",
    ];
    let first = run(folder.path(), &arguments).await;
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    let summary = last_object(&first);
    assert_eq!(summary["totals"]["storedNow"], 7);
    assert_eq!(summary["totals"]["empty"], 2);
    assert_eq!(summary["totals"]["events"], 1200);
    assert_eq!(
        summary["simulatedSessions"],
        serde_json::json!({"opened": 7, "deleted": 7, "open": 0})
    );

    let second = run(folder.path(), &arguments).await;
    assert_eq!(second.status.code(), Some(0));
    let summary = last_object(&second);
    assert_eq!(
        (
            summary["totals"]["storedNow"].as_u64(),
            summary["totals"]["alreadyStored"].as_u64()
        ),
        (Some(0), Some(7))
    );
    assert_eq!(summary["simulatedSessions"]["opened"], 0);

    let table = run(folder.path(), &arguments[..6]).await;
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains("7 of 7 days stored and proved: 1,200 events"),
        "{table}"
    );
}

#[tokio::test]
async fn an_invalid_signing_key_does_not_block_storing_events() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.yaml");
    let text = "apiVersion: eventexport.io/v1alpha1\nkind: EventExport\nmetadata: {name: audit}\nspec:\n  \
                space: c1\n  dateRange: {start: 2018-06-01, end: 2018-06-01}\n  \
                source: {region: us-south, credentialsSecretRef: {name: tracker}}\n  \
                destination: {s3: {bucket: audit}}\n  manifest: {signingKeySecretRef: {name: signing}}\n";
    fs::write(&file, text).unwrap();
    let to = folder.path().join("export");
    let [file, to] = [&file, &to].map(|path| path.to_str().unwrap());
    let arguments = [
        "run",
        "-f",
        file,
        "--simulate",
        "--archive",
        to,
        "--output",
        "json",
    ];
    let printed = |output: &Output| {
        String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
    };

    let none = run(folder.path(), &arguments).await;
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    assert!(
        printed(&none).contains("EVENTEXPORT_SECRET_SIGNING_SIGNING_KEY"),
        "{}",
        printed(&none)
    );

    let mut wrong = program(folder.path(), &arguments);
    wrong.env("EVENTEXPORT_SIGNING_KEY", "hunter2");
    let wrong = output(wrong.spawn().unwrap()).await;
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    let summary = last_object(&wrong);
    assert_eq!(summary["totals"]["storedNow"], 1);
    let export = &summary["exports"][0];
    assert_eq!(
        (export["manifestDue"].as_bool(), &export["problems"][0]["reason"]),
        (Some(true), &"SigningKeyInvalid".into())
    );
    assert!(
        printed(&wrong).contains("openssl genpkey") && !printed(&wrong).contains("hunter2"),
        "{}",
        printed(&wrong)
    );

    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
        .unwrap()
        .serialize_pem();
    let with_key = async || {
        let mut right = program(folder.path(), &arguments);
        right.env("EVENTEXPORT_SECRET_SIGNING_SIGNING_KEY", &key);
        output(right.spawn().unwrap()).await
    };
    // The receipt was written without a key: a person vouches for it.
    let unsigned = with_key().await;
    assert_eq!(unsigned.status.code(), Some(1), "{unsigned:?}");
    assert_eq!(
        last_object(&unsigned)["exports"][0]["problems"][0]["reason"],
        "ReceiptUnsigned"
    );
    let vouched = text.replace(
        "{name: signing}}",
        "{name: signing}, unsignedReceiptsBefore: 2018-06-02}",
    );
    fs::write(file, vouched).unwrap();
    let right = with_key().await;
    assert_eq!(right.status.code(), Some(0), "{right:?}");
    assert_eq!(last_object(&right)["totals"]["alreadyStored"], 1);
    let manifests = Path::new(to).join("space=c1/scope=space/_manifests");
    assert_eq!(fs::read(manifests.join("00000001.json.sig")).unwrap().len(), 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_deletes_the_sessions_and_the_next_run_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = simulator().await;
    simulator.add_preset("trickle").unwrap();
    let manifest = manifest(folder.path(), &simulator);
    let to = folder.path().join("export");
    let arguments = ["run", "-f", &manifest, "--archive", to.to_str().unwrap()];

    let child = program(folder.path(), &arguments).spawn().unwrap();
    in_transfer(&simulator).await;
    signal(&child, "INT").await;
    let stopped = output(child).await;
    assert_eq!(stopped.status.code(), Some(1));
    assert_eq!(simulator.ledger().open_now, 0);
    let stdout = String::from_utf8(stopped.stdout).unwrap();
    assert!(
        stdout.contains("Missing: 2018-06-01") && stdout.contains("Run the same command again to resume."),
        "{stdout}"
    );
    assert!(!stdout.contains("Failed"), "the signal is no failure: {stdout}");

    simulator.set_faults(Vec::new());
    let opened = simulator.ledger().opened;
    let again = run(folder.path(), &arguments).await;
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    assert_eq!(simulator.ledger().opened - opened, 7);
    assert_eq!(simulator.ledger().open_now, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_run_after_a_kill_cleans_up() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = simulator().await;
    simulator.add_preset("trickle").unwrap();
    let manual_sessions = simulator.open_sessions_as("person@example.com", "c1", 3);
    let manifest = manifest(folder.path(), &simulator);
    let to = folder.path().join("export");
    let arguments = [
        "run",
        "-f",
        &manifest,
        "--archive",
        to.to_str().unwrap(),
        "--output",
        "json",
    ];

    let mut child = program(folder.path(), &arguments).spawn().unwrap();
    in_transfer(&simulator).await;
    child.kill().await.unwrap();
    assert_eq!(simulator.ledger().open_now, 4);

    simulator.set_faults(Vec::new());
    let again = run(folder.path(), &arguments).await;
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    assert_eq!(last_object(&again)["totals"]["stored"], 7);
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
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.yaml");
    let quickstart = fs::read_to_string("examples/quickstart.yaml").unwrap();
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
        fs::write(&path, quickstart.replace(right, wrong)).unwrap();
        let mut command = program(folder.path(), &["run", "-f", path.to_str().unwrap()]);
        command.env_remove("EVENTEXPORT_API_KEY");
        let ended = output(command.spawn().unwrap()).await;
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{wrong}: {stderr}");
        assert!(stderr.contains(named), "{wrong}: {stderr}");
        assert!(
            !stderr.contains("simulated-api-key") && !stderr.contains("simulated-secret-key"),
            "{stderr}"
        );
    }
}

#[tokio::test]
async fn a_plan_opens_no_session_and_counts_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = simulator().await;
    let manifest = manifest(folder.path(), &simulator);
    let to = folder.path().join("export");
    let arguments = [
        "plan",
        "-f",
        &manifest,
        "--archive",
        to.to_str().unwrap(),
        "--output",
        "json",
    ];
    let planned = last_object(&run(folder.path(), &arguments).await);
    assert_eq!(
        planned["exports"][0]["sessions"].as_array().map(Vec::len),
        Some(7)
    );
    assert!(!to.exists(), "a plan makes nothing");
    assert_eq!(simulator.ledger().requests.values().sum::<u64>(), 0);

    let ran = run(
        folder.path(),
        &["run", "-f", &manifest, "--archive", to.to_str().unwrap()],
    )
    .await;
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let taken = simulator.ledger().requests.values().sum::<u64>();
    let expected = planned["exports"][0]["requests"].as_u64().unwrap();
    assert!(
        taken.abs_diff(expected) <= 7,
        "planned {expected} requests, a run took {taken}"
    );
    let planned = last_object(&run(folder.path(), &arguments).await);
    assert_eq!(planned["exports"][0]["requests"], 0);
}

/// Lists the days below a folder that have a receipt.
fn stored_days(to: &Path) -> Vec<String> {
    let journal = to.join("space=c1/scope=space/_journal");
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
    let folder = tempfile::tempdir().unwrap();
    let simulator = simulator().await;
    let manifest = manifest(folder.path(), &simulator);
    let to = folder.path().join("export");
    let with = |shard: &'static str| {
        let arguments = [
            "run",
            "-f",
            &manifest,
            "--archive",
            to.to_str().unwrap(),
            "--output",
            "json",
            "--shard",
            shard,
        ];
        program(folder.path(), &arguments).spawn().unwrap()
    };
    // Both shards run at the same time with one state folder.
    let (one, two) = tokio::join!(output(with("0/2")), output(with("1/2")));
    for (ended, shard) in [(one, "0/2"), (two, "1/2")] {
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        let summary = last_object(&ended);
        assert_eq!(summary["exports"][0]["shard"], shard);
        let (wanted, stored) = (&summary["totals"]["wanted"], &summary["totals"]["storedNow"]);
        assert!(
            wanted == stored && [3, 4].contains(&stored.as_u64().unwrap()),
            "{summary}"
        );
    }
    let june: Vec<String> = (1..=7).map(|day| format!("2018-06-{day:02}")).collect();
    assert_eq!(stored_days(&to), june);
    let ledger = simulator.ledger();
    assert_eq!((ledger.opened, ledger.deleted, ledger.violation_count), (7, 7, 0));
    assert!(ledger.downloads.values().all(|download| download.replies <= 1));

    let arguments = [
        "run",
        "-f",
        &manifest,
        "--archive",
        to.to_str().unwrap(),
        "--output",
        "json",
    ];
    let whole = last_object(&run(folder.path(), &arguments).await);
    assert_eq!(
        (&whole["totals"]["alreadyStored"], &whole["exports"][0]["shard"]),
        (&7.into(), &Value::Null)
    );
    assert_eq!(simulator.ledger().opened, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replacement_of_a_killed_shard_reuses_its_name_and_leaves_no_session() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = simulator().await;
    simulator.add_preset("trickle").unwrap();
    let manifest = manifest(folder.path(), &simulator);
    let to = folder.path().join("export");
    // Four windows run at once. The state folder may be missing, as in a container.
    let arguments = [
        "run",
        "-f",
        &manifest,
        "--archive",
        to.to_str().unwrap(),
        "--shard",
        "1/2",
        "--holder",
        "job:audit/long",
        "--output",
        "json",
    ];
    let pod = || {
        let mut pod = program(folder.path(), &arguments);
        pod.env_remove("XDG_STATE_HOME").env_remove("HOME");
        pod
    };
    let mut child = pod().spawn().unwrap();
    in_transfer(&simulator).await;
    child.kill().await.unwrap();
    simulator.set_faults(Vec::new());

    let next = output(pod().spawn().unwrap()).await;
    assert_eq!(next.status.code(), Some(0), "{next:?}");
    let summary = last_object(&next);
    assert_eq!(summary["totals"]["wanted"], summary["totals"]["stored"]);
    assert!(simulator.open_sessions().is_empty());

    let refused = run(folder.path(), &["run", "-f", &manifest, "--shard", "2/2"]).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("from 0 to 1"),
        "{refused:?}"
    );
}
