//! Runs the commands of docs/auditor.md, exactly as written, on an archive of the program and on damaged copies.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::export::chain::sha256;
use crate::testkit::manifest::Manifest;

/// Command of the page, with its name.
struct AuditorCommand {
    name: String,
    script: String,
}

/// Returns all commands of the page.
fn commands() -> Vec<AuditorCommand> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/auditor.md")).unwrap();
    let mut commands = Vec::new();
    for part in page.split("<!-- checked: ").skip(1) {
        let (name, rest) = part.split_once(" -->\n```sh\n").unwrap();
        let (script, _) = rest.split_once("\n```").unwrap();
        commands.push(AuditorCommand {
            name: name.to_owned(),
            script: script.to_owned(),
        });
    }
    commands
}

fn run_shell(folder: &Path, public_key: &Path, script: &str) -> Output {
    Command::new("sh")
        .args(["-u", "-c", script])
        .current_dir(folder)
        .env("PUBLIC_KEY", public_key)
        .env("LC_ALL", "C")
        .output()
        .unwrap()
}

/// Returns the steps that fail, with their output.
pub(crate) fn failing_commands(folder: &Path, public_key: &Path) -> Vec<(String, String)> {
    let run = |command: AuditorCommand| {
        let output = run_shell(folder, public_key, &command.script);
        let printed = [output.stdout, output.stderr].concat();
        (!output.status.success()).then(|| (command.name, String::from_utf8_lossy(&printed).into_owned()))
    };
    commands().into_iter().filter_map(run).collect()
}

fn openssl(args: &[&str]) {
    let done = Command::new("openssl").args(args).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// Creates an archive of three manifests over a week with an empty weekend and a gap.
fn archive(folder: &Path) -> PathBuf {
    let file = folder.join("audit.yaml");
    let key = folder.join("signing.pem");
    for name in ["signing", "other"] {
        let private = folder.join(format!("{name}.pem"));
        let public = folder.join(format!("{name}.pub.pem"));
        let (private, public) = (private.to_str().unwrap(), public.to_str().unwrap());
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", private]);
        openssl(&["pkey", "-in", private, "-pubout", "-out", public]);
    }
    for last in 3..=5 {
        let gap = json!([{ "start": "2018-06-01", "end": "2018-06-01", "reason": "before we began" }]);
        Manifest::local("audit", "")
            .days("2018-06-01", &format!("2018-06-0{last}"))
            .set(
                "source",
                json!({ "region": "us-south", "credentialsSecretRef": { "name": "tracker" } }),
            )
            .set("destination.s3.prefix", "tracker")
            .set("acceptedGaps", gap)
            .set("manifest.signingKeySecretRef.name", "signing")
            .write(&file);
        let ran = Command::new(env!("CARGO_BIN_EXE_eventexport"))
            .args(["run", "--simulate", "-f"])
            .arg(&file)
            .arg("--archive")
            .arg(folder.join("export"))
            .arg("--state-dir")
            .arg(folder.join("state"))
            .env("EVENTEXPORT_SIGNING_KEY_FILE", &key)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{ran:?}");
    }
    folder.join("export/tracker/space=c1/scope=space")
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{} has no {from}: {text}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let there = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &there);
        } else {
            fs::copy(entry.path(), there).unwrap();
        }
    }
}

/// Writes a checkpoint with this head about the receipt of a day.
fn checkpoint(root: &Path, head: &Value, window: &str) {
    let receipt = format!("_journal/{window}.receipt.json");
    let line = format!(
        "{}  {receipt}\n",
        sha256(&fs::read(root.join(&receipt)).unwrap_or_default())
    );
    let checkpoint = json!({
        "head": head, "previous": null, "windows": [window],
        "root": { "algorithm": "sha256", "digest": sha256(line.as_bytes()) },
    });
    fs::create_dir_all(root.join("_checkpoints")).unwrap();
    fs::write(root.join("_checkpoints/2018-06-10.json"), checkpoint.to_string()).unwrap();
}

type Damage = fn(&Path);

/// Damage to the archive, and the step that detects it.
const DAMAGES: &[(&str, &str, Damage)] = &[
    ("a byte of an object flipped", "objects", |root| {
        let path = root.join("date=2018-06-05/events.json.gz");
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }),
    ("an object cut short", "events", |root| {
        let path = root.join("date=2018-06-05/events.json.gz");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 9]).unwrap();
    }),
    ("an object removed", "objects", |root| {
        fs::remove_file(root.join("date=2018-06-05/events.json.gz")).unwrap();
    }),
    ("an object added", "nothing else", |root| {
        let from = root.join("date=2018-06-05/events.json.gz");
        fs::copy(from, root.join("date=2018-06-05/events-h07.json.gz")).unwrap();
    }),
    ("two days swapped", "objects", |root| {
        let days = [4, 5].map(|day| root.join(format!("date=2018-06-0{day}/events.json.gz")));
        let bytes = days.clone().map(|day| fs::read(day).unwrap());
        fs::write(&days[0], &bytes[1]).unwrap();
        fs::write(&days[1], &bytes[0]).unwrap();
    }),
    ("a receipt edited", "receipts", |root| {
        edit(
            &root.join("_journal/2018-06-05.receipt.json"),
            "\"resumes\":0",
            "\"resumes\":1",
        );
    }),
    ("a receipt removed", "receipts", |root| {
        fs::remove_file(root.join("_journal/2018-06-05.receipt.json")).unwrap();
    }),
    ("a receipt removed with its object", "receipts", |root| {
        fs::remove_file(root.join("_journal/2018-06-05.receipt.json")).unwrap();
        fs::remove_dir_all(root.join("date=2018-06-05")).unwrap();
    }),
    (
        "a receipt of late events without the one before",
        "revisions",
        |root| {
            let later = root.join("_journal/2018-06-05.r2.receipt.json");
            fs::copy(root.join("_journal/2018-06-05.receipt.json"), &later).unwrap();
            edit(&later, "\"revision\":0", "\"revision\":2");
        },
    ),
    ("late events that do not add up", "revisions", |root| {
        let later = root.join("_journal/2018-06-05.r1.receipt.json");
        fs::copy(root.join("_journal/2018-06-05.receipt.json"), &later).unwrap();
        edit(&later, "\"revision\":0", "\"revision\":1,\"supplementEvents\":7");
    }),
    ("a manifest edited", "signatures", |root| {
        edit(
            &root.join("_manifests/00000003.json"),
            "before we began",
            "it never was",
        );
    }),
    ("a manifest's day left out", "completeness", |root| {
        edit(
            &root.join("_manifests/00000003.json"),
            "\"end\":\"2018-06-05\"",
            "\"end\":\"2018-06-06\"",
        );
    }),
    (
        "a day that is not covered is an accepted gap without an entry",
        "completeness",
        |root| {
            edit(
                &root.join("_manifests/00000003.json"),
                "\"acceptedGaps\":[{",
                "\"acceptedGaps\":[],\"gaps\":[{",
            );
        },
    ),
    ("a covered day is an accepted gap", "completeness", |root| {
        edit(
            &root.join("_manifests/00000003.json"),
            "\"end\":\"2018-06-01\"",
            "\"end\":\"2018-06-05\"",
        );
        edit(
            &root.join("_manifests/00000003.json"),
            "\"statement\":\"Matched\"",
            "\"statement\":\"AcceptedGap\"",
        );
    }),
    ("a sum of a manifest edited", "completeness", |root| {
        edit(
            &root.join("_manifests/00000003.json"),
            "\"daysWithoutCount\":",
            "\"daysWithoutCount\":1",
        );
    }),
    ("a receipt with fewer events than reported", "counts", |root| {
        edit(
            &root.join("_journal/2018-06-05.receipt.json"),
            "\"reportedAfter\":",
            "\"reportedAfter\":9",
        );
    }),
    ("a manifest's numbers edited", "facts", |root| {
        edit(
            &root.join("_manifests/00000003.json"),
            "\"reportedBefore\":",
            "\"reportedBefore\":1",
        );
    }),
    ("a manifest's root digest edited", "root", |root| {
        edit(
            &root.join("_manifests/00000003.json"),
            "\"digest\":\"",
            "\"digest\":\"0",
        );
    }),
    ("an earlier manifest edited", "chain", |root| {
        edit(
            &root.join("_manifests/00000001.json"),
            "before we began",
            "it never was",
        );
    }),
    ("a manifest removed", "chain", |root| {
        fs::remove_file(root.join("_manifests/00000002.json")).unwrap();
        fs::remove_file(root.join("_manifests/00000002.json.sig")).unwrap();
    }),
    (
        "a manifest removed that a checkpoint names",
        "checkpoints",
        |root| {
            let head = json!({ "sequence": 4, "sha256": "0".repeat(64) });
            checkpoint(root, &head, "2018-06-02");
        },
    ),
    (
        "a receipt removed that a checkpoint counts",
        "checkpoints",
        |root| {
            checkpoint(root, &Value::Null, "2018-06-09");
        },
    ),
    ("a signature removed", "signatures", |root| {
        fs::remove_file(root.join("_manifests/00000002.json.sig")).unwrap();
    }),
    ("two signatures swapped", "signatures", |root| {
        let signatures = [1, 2].map(|number| root.join(format!("_manifests/0000000{number}.json.sig")));
        fs::copy(&signatures[0], &signatures[1]).unwrap();
    }),
];

#[test]
fn auditor_commands_pass_a_good_archive_and_detect_damage() {
    let folder = tempfile::tempdir().unwrap();
    let root = archive(folder.path());
    let public = folder.path().join("signing.pub.pem");
    assert_eq!(failing_commands(&root, &public), []);
    let checked = tempfile::tempdir().unwrap();
    copy(&root, checked.path());
    let manifest = sha256(&fs::read(root.join("_manifests/00000003.json")).unwrap());
    checkpoint(
        checked.path(),
        &json!({ "sequence": 3, "sha256": manifest }),
        "2018-06-05",
    );
    assert_eq!(failing_commands(checked.path(), &public), []);
    let stdout_of = |name: &str| {
        let command = commands()
            .into_iter()
            .find(|command| command.name == name)
            .unwrap();
        let output = run_shell(&root, &public, &command.script);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(stdout_of("gaps"), "2018-06-01 to 2018-06-01: before we began\n");
    assert!(
        stdout_of("periods").starts_with("1: 2018-06-01 to 2018-06-03, "),
        "{}",
        stdout_of("periods")
    );
    assert!(
        stdout_of("table").contains("2018-06-01\t0/24\t0\tno count\tAcceptedGap"),
        "{}",
        stdout_of("table")
    );
    assert!(
        stdout_of("table").contains("2018-06-02\t24/24\t0\t"),
        "{}",
        stdout_of("table")
    );

    let wrong_key = failing_commands(&root, &folder.path().join("other.pub.pem"));
    assert_eq!(wrong_key.len(), 1, "{wrong_key:?}");
    assert_eq!(wrong_key[0].0, "signatures");

    let all = commands();
    let mut found = BTreeSet::new();
    for (words, command, damage) in DAMAGES {
        let damaged = tempfile::tempdir().unwrap();
        copy(&root, damaged.path());
        damage(damaged.path());
        let check = all.iter().find(|check| check.name == *command).unwrap();
        let output = run_shell(damaged.path(), &public, &check.script);
        let printed = [&output.stdout[..], &output.stderr[..]].concat();
        let finds = !output.status.success() && !printed.is_empty();
        assert!(finds, "{words}, not found by {command}: {output:?}");
        found.insert(*command);
    }
    // Commands that only print detect nothing.
    let only_prints = ["table", "gaps", "periods"];
    let checks = commands().into_iter().map(|command| command.name);
    for check in checks.filter(|name| !only_prints.contains(&name.as_str())) {
        assert!(
            found.contains(check.as_str()),
            "nothing shows that {check} can fail"
        );
    }
}
