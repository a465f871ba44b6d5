//! Runs docs/audit.sh and the commands of docs/auditor.md on an archive of the program and on damaged copies. Both must agree
//! with `eventexport verify`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::num::NonZero;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::testkit::command::{program_in, run_blocking};
use crate::testkit::folder;
use crate::testkit::manifest::Manifest;
use crate::testkit::openssl::{key_pair, openssl};
use crate::verify::damage::CASES;
use crate::verify::fixture::{ArchiveFixture, SPACE};

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

/// Creates an archive of three manifests over a week with an empty weekend and a gap.
fn archive(folder: &Path) -> PathBuf {
    let key = folder.join("signing.pem");
    key_pair(folder, "signing");
    key_pair(folder, "other");
    for last in 3..=5 {
        let gap = json!([{ "start": "2018-06-01", "end": "2018-06-01", "reason": "before we began" }]);
        Manifest::simulated("audit")
            .days("2018-06-01", &format!("2018-06-0{last}"))
            .set("destination.s3.prefix", "tracker")
            .set("acceptedGaps", gap)
            .set("manifest.signingKeySecretRef.name", "signing")
            .write(folder.join("audit.yaml"));
        let mut run = program_in(
            folder,
            &["run", "--simulate", "-f", "audit.yaml", "--archive", "export"],
        );
        run.env("EVENTEXPORT_SIGNING_KEY_FILE", &key);
        run_blocking(run).expect_exit(0);
    }
    folder.join("export/tracker/space=c1/scope=space")
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{} has no {from}: {text}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Copy of the archive, with the keys of its exporter.
struct DamagedCopy {
    root: TempDir,
    keys: PathBuf,
}

impl DamagedCopy {
    fn path(&self, key: &str) -> PathBuf {
        self.root.path().join(key)
    }

    fn edit(&self, key: &str, from: &str, to: &str) {
        edit(&self.path(key), from, to);
    }

    fn edit_bytes(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(key)).unwrap();
        change(&mut bytes);
        fs::write(self.path(key), bytes).unwrap();
    }

    fn remove(&self, key: &str) {
        fs::remove_file(self.path(key)).unwrap();
    }

    fn add(&self, key: &str) {
        fs::create_dir_all(self.path(key).parent().unwrap()).unwrap();
        fs::copy(self.path(OBJECT), self.path(key)).unwrap();
    }

    /// Signs a document with a key of the folder.
    fn sign(&self, key: &str, signer: &str) {
        let private = self.keys.join(signer);
        let sign = ["pkeyutl", "-sign", "-rawin", "-inkey", private.to_str().unwrap()];
        let files = ["-in", key, "-out", &format!("{key}.sig")];
        openssl(self.root.path(), &[&sign[..], &files].concat());
    }

    /// Adds a day after the last one, with a receipt that fits its object.
    fn forge_day(&self) {
        self.add("date=2018-06-06/events.json.gz");
        let receipt = fs::read_to_string(self.path(RECEIPT)).unwrap();
        fs::write(
            self.path("_journal/2018-06-06.receipt.json"),
            receipt.replace("2018-06-05", "2018-06-06"),
        )
        .unwrap();
    }

    /// Replaces the object of the last day by other events, with a receipt that fits them.
    fn forge_object(&self, lines: &str) {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(lines.as_bytes()).unwrap();
        let bytes = gzip.finish().unwrap();
        fs::write(self.path(OBJECT), &bytes).unwrap();
        let text = fs::read_to_string(self.path(RECEIPT)).unwrap();
        let mut receipt: serde_json::Value = serde_json::from_str(&text).unwrap();
        let object = &mut receipt["object"];
        object["bytes"] = bytes.len().into();
        object["sha256"] = hex(&Sha256::digest(&bytes)).into();
        object["crc64nvme"] = eventexport::storage::Crc64::of(&bytes).to_string().into();
        object["gzipMembers"] = 1.into();
        object["decompressedBytes"] = lines.len().into();
        fs::write(self.path(RECEIPT), receipt.to_string()).unwrap();
        self.remove(RECEIPT_SIGNATURE);
    }

    /// Writes and signs a checkpoint with this head about the receipt of a window, which need not exist.
    fn checkpoint(&self, head: &serde_json::Value, window: &str) {
        let receipt = format!("_journal/{window}.receipt.json");
        let bytes = fs::read(self.path(&receipt)).unwrap_or_default();
        let line = format!("{}  {receipt}\n", hex(&Sha256::digest(bytes)));
        let checkpoint = json!({
            "schema": "eventexport.io/checkpoint/v1", "space": "c1", "scope": "Space", "source": "https://example.com",
            "day": "2018-06-10", "head": head, "windows": [window], "events": 240,
            "root": { "algorithm": "sha256", "digest": hex(&Sha256::digest(line)) },
            "previous": null, "writtenAt": "2018-06-10T12:00:00Z", "software": "test",
        });
        fs::create_dir_all(self.path("_checkpoints")).unwrap();
        fs::write(self.path(CHECKPOINT), checkpoint.to_string()).unwrap();
        self.sign(CHECKPOINT, "signing.pem");
    }

    fn remove_manifests(&self) {
        fs::remove_dir_all(self.path("_manifests")).unwrap();
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

const OBJECT: &str = "date=2018-06-05/events.json.gz";
const RECEIPT: &str = "_journal/2018-06-05.receipt.json";
const RECEIPT_SIGNATURE: &str = "_journal/2018-06-05.receipt.json.sig";
const CHECKPOINT: &str = "_checkpoints/2018-06-10.json";
const MANIFEST: &str = "_manifests/00000003.json";
const SIGNATURE: &str = "_manifests/00000003.json.sig";

/// Damage to the archive, arguments of the audit, and the check that detects it; none if it is harmless.
struct AuditCase {
    name: &'static str,
    check: Option<&'static str>,
    arguments: &'static [&'static str],
    damage: fn(&DamagedCopy),
}

const fn case(name: &'static str, check: &'static str, damage: fn(&DamagedCopy)) -> AuditCase {
    AuditCase {
        name,
        check: Some(check),
        arguments: &[],
        damage,
    }
}

const fn harmless(name: &'static str, damage: fn(&DamagedCopy)) -> AuditCase {
    AuditCase {
        name,
        check: None,
        arguments: &[],
        damage,
    }
}

const AUDIT_CASES: &[AuditCase] = &[
    harmless("nothing", |_| {}),
    harmless("hidden files and markers of folders", |copy| {
        for name in [".DS_Store", "._events.json.gz", "_events.json.gz"] {
            copy.add(&format!("date=2018-06-05/{name}"));
        }
        copy.add(".DS_Store");
        copy.add("notes of an auditor.txt");
        fs::create_dir(copy.path("date=2018-06-29")).unwrap();
    }),
    harmless("a link to a file", |copy| {
        let target = copy.path("target.txt");
        fs::rename(copy.path(OBJECT), &target).unwrap();
        symlink(target, copy.path(OBJECT)).unwrap();
    }),
    harmless("a day of no manifest whose receipt is signed", |copy| {
        copy.forge_day();
        copy.sign("_journal/2018-06-06.receipt.json", "signing.pem");
    }),
    // What nothing shows (docs/security.md).
    harmless("the last day cut off, and no head was noted", |copy| {
        for key in [MANIFEST, SIGNATURE, RECEIPT, RECEIPT_SIGNATURE, OBJECT] {
            copy.remove(key);
        }
    }),
    AuditCase {
        name: "a forged day with fitting sums, without a key",
        check: None,
        arguments: &[WITHOUT_KEY],
        damage: DamagedCopy::forge_day,
    },
    // What an earlier version of `verify`, or of the commands of auditor.md, did not find.
    case("every signature deleted", "signatures of manifests", |copy| {
        for number in 1..=3 {
            copy.remove(&format!("_manifests/0000000{number}.json.sig"));
        }
    }),
    case("a day outside of signed manifests", "attestation", |copy| {
        copy.remove(MANIFEST);
        copy.remove(SIGNATURE);
        copy.remove(RECEIPT_SIGNATURE);
    }),
    harmless(
        "a day outside of signed manifests whose receipt is signed",
        |copy| {
            copy.remove(MANIFEST);
            copy.remove(SIGNATURE);
        },
    ),
    case("a signature of any 64 bytes", "signatures of manifests", |copy| {
        fs::write(copy.path(SIGNATURE), [7; 64]).unwrap();
    }),
    case(
        "a forged day with fitting sums",
        "attestation",
        DamagedCopy::forge_day,
    ),
    case(
        "a forged day, signed by someone else",
        "signatures of receipts",
        |copy| {
            copy.forge_day();
            copy.sign("_journal/2018-06-06.receipt.json", "other.pem");
        },
    ),
    AuditCase {
        name: "the last manifests cut off, with what they state",
        check: Some("head"),
        arguments: &["--head", "HEAD"],
        damage: |copy| {
            for key in [MANIFEST, SIGNATURE, RECEIPT, RECEIPT_SIGNATURE, OBJECT] {
                copy.remove(key);
            }
        },
    },
    AuditCase {
        name: "another manifest than the noted one",
        check: Some("head"),
        arguments: &["--head", ANY_HEAD],
        damage: |_| {},
    },
    AuditCase {
        name: "the noted manifest, and later ones",
        check: None,
        arguments: &["--head", "HEAD"],
        damage: |_| {},
    },
    case("two links to folders", "files", |copy| {
        symlink(".", copy.path("one")).unwrap();
        symlink(".", copy.path("other")).unwrap();
    }),
    case("a day behind a link", "objects", |copy| {
        let folder = copy.path("date=2018-06-05");
        fs::rename(&folder, copy.path("elsewhere")).unwrap();
        symlink("elsewhere", folder).unwrap();
    }),
    case("a link to nothing", "files", |copy| {
        symlink("nothing", copy.path("date=2018-06-05/events-2.json.gz")).unwrap();
    }),
    case("a pipe", "files", |copy| {
        let made = Command::new("mkfifo")
            .arg(copy.path("date=2018-06-05/events-2.json.gz"))
            .status();
        assert!(made.unwrap().success());
    }),
    case("an object of 64 GiB", "objects", |copy| {
        let object = File::options().write(true).open(copy.path(OBJECT)).unwrap();
        object.set_len(64 << 30).unwrap();
    }),
    case("events in a file that no receipt names", "other files", |copy| {
        copy.add("date=2018-06-05/events-more.json.gz");
    }),
    case("events in a folder of no day", "other files", |copy| {
        copy.add("date=x/events.json.gz");
    }),
    case("a name that a shell splits", "files", |copy| {
        copy.add("date=2018-06-05/events more.json.gz");
    }),
    // Objects.
    case("a byte of an object flipped", "objects", |copy| {
        copy.edit_bytes(OBJECT, |bytes| bytes[100] ^= 1);
    }),
    case("an object cut short", "objects", |copy| {
        copy.edit_bytes(OBJECT, |bytes| bytes.truncate(bytes.len() - 9));
    }),
    case("an object appended to", "objects", |copy| {
        copy.edit_bytes(OBJECT, |bytes| bytes.push(0));
    }),
    case("an object removed", "objects", |copy| copy.remove(OBJECT)),
    case("an object added", "other files", |copy| {
        copy.add("date=2018-06-05/events-h07.json.gz");
    }),
    case("two days swapped", "objects", |copy| {
        let days = [4, 5].map(|day| copy.path(&format!("date=2018-06-0{day}/events.json.gz")));
        let bytes = days.clone().map(|day| fs::read(day).unwrap());
        fs::write(&days[0], &bytes[1]).unwrap();
        fs::write(&days[1], &bytes[0]).unwrap();
    }),
    case(
        "other events with a receipt that fits them",
        "manifests and receipts",
        |copy| {
            copy.forge_object(&"{\"event\":1}\n".repeat(240));
        },
    ),
    AuditCase {
        name: "fewer events than a receipt states, nothing signed",
        check: Some("contents"),
        arguments: &["--allow-unsigned"],
        damage: |copy| {
            copy.remove_manifests();
            copy.forge_object(&"{\"event\":1}\n".repeat(239));
        },
    },
    AuditCase {
        name: "bytes that are no gzip, with a digest that fits, nothing signed",
        check: Some("contents"),
        arguments: &["--allow-unsigned"],
        damage: |copy| {
            copy.remove_manifests();
            copy.forge_object("{}\n");
            let bytes = b"no gzip";
            let good = fs::read(copy.path(OBJECT)).unwrap();
            fs::write(copy.path(OBJECT), bytes).unwrap();
            copy.edit(
                RECEIPT,
                &hex(&Sha256::digest(&good)),
                &hex(&Sha256::digest(bytes)),
            );
            copy.edit(RECEIPT, &format!("\"bytes\":{}", good.len()), "\"bytes\":7");
        },
    },
    // Checkpoints.
    harmless("a checkpoint about a signed receipt", |copy| {
        copy.forge_day();
        copy.sign("_journal/2018-06-06.receipt.json", "signing.pem");
        copy.checkpoint(&serde_json::Value::Null, "2018-06-06");
    }),
    case(
        "a receipt removed that a checkpoint counts",
        "checkpoints",
        |copy| {
            copy.checkpoint(&serde_json::Value::Null, "2018-06-06");
        },
    ),
    case(
        "a manifest cut off that a checkpoint names",
        "checkpoints",
        |copy| {
            copy.checkpoint(&json!({ "sequence": 4, "sha256": "0".repeat(64) }), "2018-06-05");
        },
    ),
    case(
        "a checkpoint that counted another receipt",
        "checkpoints",
        |copy| {
            copy.forge_day();
            copy.checkpoint(&serde_json::Value::Null, "2018-06-06");
            copy.edit(
                "_journal/2018-06-06.receipt.json",
                "\"resumes\":0",
                "\"resumes\":1",
            );
            copy.sign("_journal/2018-06-06.receipt.json", "signing.pem");
        },
    ),
    case("a checkpoint edited", "signatures of checkpoints", |copy| {
        copy.checkpoint(&serde_json::Value::Null, "2018-06-05");
        copy.edit(CHECKPOINT, "\"software\":\"test\"", "\"software\":\"more\"");
    }),
    // Receipts.
    case("a receipt edited", "manifests and receipts", |copy| {
        copy.edit(RECEIPT, "\"resumes\":0", "\"resumes\":1");
    }),
    case("a receipt removed", "manifests and receipts", |copy| {
        copy.remove(RECEIPT);
    }),
    case(
        "a receipt removed with its object",
        "manifests and receipts",
        |copy| {
            copy.remove(RECEIPT);
            copy.remove(OBJECT);
        },
    ),
    case("a receipt that is no JSON", "documents", |copy| {
        copy.edit_bytes(RECEIPT, |bytes| bytes.truncate(20));
    }),
    case("a receipt of another schema", "documents", |copy| {
        copy.edit(RECEIPT, "receipt/v1", "receipt/v9");
    }),
    case("a receipt with two documents", "documents", |copy| {
        copy.edit_bytes(RECEIPT, |bytes| bytes.extend(bytes.clone()));
    }),
    case("a receipt of 300 KiB", "documents", |copy| {
        copy.edit_bytes(RECEIPT, |bytes| bytes.resize(300 << 10, b' '));
    }),
    case("a receipt of another day", "receipts", |copy| {
        fs::copy(copy.path("_journal/2018-06-04.receipt.json"), copy.path(RECEIPT)).unwrap();
    }),
    case("a receipt with fewer events than reported", "receipts", |copy| {
        copy.edit(RECEIPT, "\"reportedAfter\":", "\"reportedAfter\":9");
    }),
    case(
        "a signature of a receipt without the receipt",
        "signatures of receipts",
        |copy| {
            copy.forge_day();
            copy.sign("_journal/2018-06-06.receipt.json", "signing.pem");
            copy.remove("_journal/2018-06-06.receipt.json");
            copy.remove("date=2018-06-06/events.json.gz");
        },
    ),
    case(
        "a receipt edited after it was signed",
        "signatures of receipts",
        |copy| {
            copy.sign(RECEIPT, "signing.pem");
            copy.edit(RECEIPT, "\"resumes\":0", "\"resumes\":1");
        },
    ),
    AuditCase {
        name: "a receipt that may be unsigned",
        check: None,
        arguments: &["--unsigned-since", "2018-06-06"],
        damage: DamagedCopy::forge_day,
    },
    AuditCase {
        name: "a receipt that may not be unsigned yet",
        check: Some("attestation"),
        arguments: &["--unsigned-since", "2018-06-07"],
        damage: DamagedCopy::forge_day,
    },
    // Manifests.
    case("a manifest edited", "signatures of manifests", |copy| {
        copy.edit(MANIFEST, "before we began", "it never was");
    }),
    case("a manifest's day left out", "statements", |copy| {
        copy.edit(MANIFEST, "\"end\":\"2018-06-05\"", "\"end\":\"2018-06-06\"");
    }),
    case(
        "a day that is not covered is an accepted gap without an entry",
        "statements",
        |copy| {
            copy.edit(MANIFEST, "\"acceptedGaps\":[{", "\"acceptedGaps\":[],\"gaps\":[{");
        },
    ),
    case("a covered day is an accepted gap", "statements", |copy| {
        copy.edit(MANIFEST, "\"end\":\"2018-06-01\"", "\"end\":\"2018-06-05\"");
        copy.edit(
            MANIFEST,
            "\"statement\":\"Matched\"",
            "\"statement\":\"AcceptedGap\"",
        );
    }),
    case("a sum of a manifest edited", "statements", |copy| {
        copy.edit(MANIFEST, "\"daysWithoutCount\":", "\"daysWithoutCount\":1");
    }),
    case("a manifest's numbers edited", "manifests and receipts", |copy| {
        copy.edit(MANIFEST, "\"reportedBefore\":", "\"reportedBefore\":1");
    }),
    case("a manifest's root digest edited", "root digests", |copy| {
        copy.edit(MANIFEST, "\"digest\":\"", "\"digest\":\"0");
    }),
    case("an earlier manifest edited", "chain", |copy| {
        copy.edit("_manifests/00000001.json", "before we began", "it never was");
    }),
    case("a manifest removed", "chain", |copy| {
        copy.remove("_manifests/00000002.json");
        copy.remove("_manifests/00000002.json.sig");
    }),
    case("the last manifest removed, its signature left", "chain", |copy| {
        copy.remove(MANIFEST);
    }),
    case("a signature removed", "signatures of manifests", |copy| {
        copy.remove("_manifests/00000002.json.sig");
    }),
    case("two signatures swapped", "signatures of manifests", |copy| {
        let signatures = [1, 2].map(|number| copy.path(&format!("_manifests/0000000{number}.json.sig")));
        fs::copy(&signatures[0], &signatures[1]).unwrap();
    }),
    AuditCase {
        name: "another key",
        check: Some("signatures of manifests"),
        arguments: &["--public-key", "other.pub.pem"],
        damage: |_| {},
    },
    AuditCase {
        name: "two keys, as after a rotation",
        check: None,
        arguments: &["--public-key", "other.pub.pem", "--public-key", "signing.pub.pem"],
        damage: |_| {},
    },
    // Days.
    AuditCase {
        name: "days that were never exported",
        check: Some("days"),
        arguments: &["--start", "2018-06-02", "--end", "2018-06-08"],
        damage: |_| {},
    },
    AuditCase {
        name: "the days that are asserted are there",
        check: None,
        arguments: &["--start", "2018-06-02", "--end", "2018-06-05"],
        damage: |_| {},
    },
    case("nothing at all", "days", |copy| {
        fs::remove_dir_all(copy.root.path()).unwrap();
        fs::create_dir(copy.root.path()).unwrap();
    }),
];

/// In place of arguments: no key is given.
const WITHOUT_KEY: &str = "without a key";
const ANY_HEAD: &str = "1:0000000000000000000000000000000000000000000000000000000000000000";

/// Outcome of docs/audit.sh.
#[derive(Debug)]
pub(crate) struct AuditOutcome {
    pub(crate) code: Option<i32>,
    pub(crate) passed: Vec<String>,
    pub(crate) failed: Vec<String>,
    pub(crate) text: String,
}

/// Runs docs/audit.sh in the folder of the keys, which arguments may name.
pub(crate) fn audit(keys: &Path, root: &Path, arguments: &[&str]) -> AuditOutcome {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit.sh");
    let output = Command::new("sh")
        .arg(script)
        .args(arguments)
        .arg(root)
        .current_dir(keys)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let named = |mark: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix(mark));
        lines
            .filter_map(|line| Some(line.split_once(':')?.0.to_owned()))
            .collect::<Vec<_>>()
    };
    AuditOutcome {
        code: output.status.code(),
        passed: named("ok    "),
        failed: named("FAIL  "),
        text: text.clone(),
    }
}

/// Runs `eventexport verify` with the same arguments, and returns its exit code and output.
fn verify(keys: &Path, root: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut verify = program_in(keys, &["verify"]);
    verify.arg(root).args(arguments);
    let output = run_blocking(verify);
    (output.code, output.text())
}

/// Runs a check of each case, on all processors. Panics with what all of them found wrong.
fn in_parallel<T: Sync>(cases: &[T], check: impl Fn(&T) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    wrong.lock().unwrap().extend(check(case).err());
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The only damage that standard tools do not find: none of them counts the members of a gzip.
const NOT_AUDITED: &str = "edited number of members, without manifests";

#[test]
fn audit_sh_finds_each_damage_and_agrees_with_verify() {
    let folder = tempfile::tempdir().unwrap();
    let root = archive(folder.path());
    let manifest = fs::read(root.join(MANIFEST)).unwrap();
    let head = format!("3:{}", hex(&Sha256::digest(manifest)));
    in_parallel(AUDIT_CASES, |case| {
        let copied = DamagedCopy {
            root: tempfile::tempdir().unwrap(),
            keys: folder.path().to_owned(),
        };
        folder::copy(&root, copied.root.path());
        (case.damage)(&copied);
        let mut arguments: Vec<&str> = case
            .arguments
            .iter()
            .map(|argument| if *argument == "HEAD" { &*head } else { *argument })
            .collect();
        if arguments == [WITHOUT_KEY] {
            arguments.clear();
        } else if !arguments.contains(&"--public-key") {
            arguments.extend(["--public-key", "signing.pub.pem"]);
        }
        let found = audit(folder.path(), copied.root.path(), &arguments);
        let failed: Vec<&str> = found.failed.iter().map(String::as_str).collect();
        let as_wanted = match case.check {
            None => found.code == Some(0) && failed.is_empty(),
            Some(check) => found.code == Some(1) && failed.contains(&check),
        };
        if !as_wanted {
            return Err(format!(
                "{}: not as by {:?}: {}",
                case.name, case.check, found.text
            ));
        }
        let (code, text) = verify(folder.path(), copied.root.path(), &arguments);
        if code != found.code {
            return Err(format!(
                "{}: verify says {code:?}: {text}\n{}",
                case.name, found.text
            ));
        }
        Ok(())
    });
}

#[tokio::test]
async fn audit_sh_agrees_with_verify_about_each_damage_that_verify_knows() {
    let fixture = ArchiveFixture::shared().await;
    let keys = fixture.key("public").parent().unwrap().to_owned();
    let head = fixture.head();
    let (can_fail, all) = (Mutex::new(BTreeSet::new()), Mutex::new(BTreeSet::new()));
    in_parallel(CASES, |case| {
        let copy = fixture.copy();
        (case.damage)(copy.path());
        let mut arguments = case.arguments(&head);
        arguments.retain(|argument| *argument != "--require-signature");
        if !arguments.contains(&"--public-key") {
            arguments.extend(["--public-key", "public.pem"]);
        }
        let found = audit(&keys, &copy.path().join(SPACE), &arguments);
        let expected = i32::from(!case.findings.is_empty() && case.name != NOT_AUDITED);
        if found.code != Some(expected) {
            return Err(format!("{}: {}", case.name, found.text));
        }
        all.lock().unwrap().extend(found.passed);
        can_fail.lock().unwrap().extend(found.failed);
        Ok(())
    });
    let (can_fail, all) = (can_fail.into_inner().unwrap(), all.into_inner().unwrap());
    let elsewhere = [
        "files",
        "documents",
        "root digests",
        "contents",
        "checkpoints",
        "signatures of checkpoints",
    ];
    let only_pass: Vec<&String> = all.difference(&can_fail).collect();
    assert!(
        only_pass.iter().all(|check| elsewhere.contains(&check.as_str())),
        "nothing shows that these checks can fail: {only_pass:?}"
    );
}

#[test]
fn audit_sh_explains_wrong_arguments_and_says_what_it_did_not_check() {
    let folder = tempfile::tempdir().unwrap();
    let root = archive(folder.path());
    for (arguments, words) in [
        (&["--public-key", "none.pem"][..], "none.pem"),
        (&["--public-key", "audit.yaml"], "audit.yaml is no public key"),
        (&["--head", "3"], "SEQ:SHA256"),
        (&["--start", "June"], "--start"),
        (&["--allow-unsigned"], "--public-key"),
        (&["--quick"], "--quick is no option"),
    ] {
        let found = audit(folder.path(), &root, arguments);
        assert_eq!(found.code, Some(2), "{}", found.text);
        assert!(found.text.contains(words), "{words}: {}", found.text);
    }
    let missing = audit(folder.path(), Path::new("none"), &[]);
    assert_eq!(missing.code, Some(3), "{}", missing.text);
    let unsigned = audit(folder.path(), &root, &[]);
    assert_eq!(unsigned.code, Some(0), "{}", unsigned.text);
    for words in [
        "none was checked",
        "accepted gap 2018-06-01 to 2018-06-01: before we began",
        "head to write down: 3:",
    ] {
        assert!(unsigned.text.contains(words), "{words}: {}", unsigned.text);
    }
}

#[test]
fn the_commands_of_the_page_print_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let root = archive(folder.path());
    let public = folder.path().join("signing.pub.pem");
    let run = |name: &str, key: &Path| {
        let command = commands().into_iter().find(|command| command.name == name);
        run_shell(&root, key, &command.unwrap().script)
    };
    for command in commands() {
        let output = run(&command.name, &public);
        assert!(output.status.success(), "{}: {output:?}", command.name);
    }
    let stdout_of = |name: &str| String::from_utf8_lossy(&run(name, &public).stdout).into_owned();
    assert_eq!(stdout_of("gaps"), "2018-06-01 to 2018-06-01: before we began\n");
    let periods = stdout_of("periods");
    assert!(periods.starts_with("1: 2018-06-01 to 2018-06-03, "), "{periods}");
    let table = stdout_of("table");
    assert!(
        table.contains("2018-06-01\t0/24\t0\tno count\tAcceptedGap"),
        "{table}"
    );
    assert!(table.contains("2018-06-02\t24/24\t0\t"), "{table}");
    assert!(
        !run("signature", &folder.path().join("other.pub.pem"))
            .status
            .success()
    );
}
