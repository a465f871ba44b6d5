//! Each archive, whole or damaged, with the state of one of its days that every command must show, and the exit codes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::fixture::CliFixture;
use crate::testkit::command::CommandOutput;
use crate::testkit::folder;
use crate::testkit::manifest::Manifest;

/// Wednesday with events in the middle of the archive.
const DAY: &str = "2018-06-27";
/// Saturday without events.
const EMPTY_DAY: &str = "2018-06-30";
/// Day that is stored by the hour.
const SPLIT_DAY: &str = "2018-06-28";

/// An archive and what the commands say of it.
struct Case {
    name: &'static str,
    /// The day that is looked at.
    day: &'static str,
    arrange: fn(&Root),
    /// True if the spec accepts the day as a gap.
    accepted: bool,
    /// State for `plan`, `status` and `inspect`.
    state: &'static str,
    /// State for `verify`, which also reads the bytes and the chain.
    verified: &'static str,
    /// State after `run`, which may repair the day.
    after_run: &'static str,
    /// Exit codes of `plan`, `inspect`, `verify` and `run`.
    codes: [i32; 4],
    /// Exit code of `verify` after `run`.
    verified_after: i32,
}

/// Root of a copied archive.
struct Root(PathBuf);

impl Root {
    fn object(&self, window: &str) -> PathBuf {
        let (day, hour) = window.split_once('T').unwrap_or((window, ""));
        let hour = if hour.is_empty() {
            String::new()
        } else {
            format!("-h{hour}")
        };
        self.0.join(format!("date={day}/events{hour}.json.gz"))
    }

    fn journal(&self, name: &str) -> PathBuf {
        self.0.join("_journal").join(name)
    }

    fn receipt(&self, window: &str) -> PathBuf {
        self.journal(&format!("{window}.receipt.json"))
    }

    fn remove(&self, window: &str) {
        fs::remove_file(self.object(window)).unwrap();
        fs::remove_file(self.receipt(window)).unwrap();
    }

    /// Removes the statements about the archive, as before the first manifest.
    fn forget_manifests(&self) {
        fs::remove_dir_all(self.0.join("_manifests")).unwrap();
    }

    /// Sets a field of a receipt, and removes the manifests, which have its digest.
    fn edit(&self, window: &str, pointer: &str, value: Value) {
        let path = self.receipt(window);
        let mut receipt: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        match receipt.pointer_mut(pointer) {
            Some(field) => *field = value,
            None => receipt[pointer.trim_start_matches('/')] = value,
        }
        fs::write(path, format!("{receipt}\n")).unwrap();
        if self.0.join("_manifests").exists() {
            self.forget_manifests();
        }
    }

    fn write(&self, name: &str, document: &Value) {
        fs::write(self.journal(name), format!("{document}\n")).unwrap();
    }

    fn expired(&self, source: &str) {
        self.remove(DAY);
        self.forget_manifests();
        let receipt: Value = serde_json::from_slice(&fs::read(self.receipt("2018-06-26")).unwrap()).unwrap();
        let source = if source.is_empty() {
            receipt["source"].as_str().unwrap()
        } else {
            source
        };
        self.write(
            &format!("{DAY}.expired.json"),
            &json!({
                "schema": "eventexport.io/expired/v1", "window": DAY, "source": source,
                "oldestListed": "2018-06-29", "answer": "NotFound", "seenAt": "2018-07-01T00:00:00Z",
                "software": "eventexport/0.1.0",
            }),
        );
    }

    fn attempt(&self, window: &str) {
        self.write(
            &format!("{window}.01CH8Z0000000000000000000A.attempt.json"),
            &json!({
                "schema": "eventexport.io/attempt/v1", "holder": "another", "source": "http://127.0.0.1:1",
                "startedAt": "2018-07-01T00:00:00Z", "deadline": "2018-07-01T06:00:00Z", "trackerUser": null,
                "openBefore": [],
            }),
        );
    }
}

/// An archive in which every command finds the same state, and `run` changes nothing.
const fn case(name: &'static str, state: &'static str, codes: [i32; 4], arrange: fn(&Root)) -> Case {
    Case {
        name,
        day: DAY,
        arrange,
        accepted: false,
        state,
        verified: state,
        after_run: state,
        codes,
        verified_after: codes[3],
    }
}

#[allow(clippy::too_many_lines)]
fn cases() -> Vec<Case> {
    vec![
        case("whole", "Covered", [0, 0, 0, 0], |_| {}),
        case("the object is gone", "ObjectMissing", [1, 1, 1, 1], |root| {
            fs::remove_file(root.object(DAY)).unwrap();
        }),
        case("the object is cut", "ObjectSizeMismatch", [1, 1, 1, 1], |root| {
            let bytes = fs::read(root.object(DAY)).unwrap();
            fs::write(root.object(DAY), &bytes[..bytes.len() / 2]).unwrap();
        }),
        Case {
            verified: "ObjectChanged",
            verified_after: 1,
            ..case("the object has other bytes", "Covered", [0, 0, 1, 0], |root| {
                let mut bytes = fs::read(root.object(DAY)).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(root.object(DAY), bytes).unwrap();
            })
        },
        Case {
            after_run: "Covered",
            ..case("the receipt is gone", "Orphaned", [1, 1, 1, 0], |root| {
                fs::remove_file(root.receipt(DAY)).unwrap();
            })
        },
        Case {
            after_run: "Orphaned",
            ..case("a foreign object", "Orphaned", [1, 1, 1, 1], |root| {
                root.remove(DAY);
                fs::write(root.object(DAY), "not ours").unwrap();
            })
        },
        Case {
            after_run: "Covered",
            ..case("nothing of the day", "Missing", [0, 1, 1, 0], |root| {
                root.remove(DAY);
            })
        },
        Case {
            after_run: "Covered",
            ..case("nothing at all", "Missing", [0, 1, 1, 0], |root| {
                fs::remove_dir_all(&root.0).unwrap();
            })
        },
        case("a receipt without a byte", "Unreadable", [1, 1, 1, 1], |root| {
            fs::write(root.receipt(DAY), "").unwrap();
        }),
        case(
            "a receipt of a later version",
            "UnsupportedSchema",
            [1, 1, 1, 1],
            |root| {
                root.edit(DAY, "/schema", json!("eventexport.io/receipt/v9"));
            },
        ),
        case("the receipt of another day", "Misplaced", [1, 1, 1, 1], |root| {
            fs::copy(root.receipt("2018-06-26"), root.receipt(DAY)).unwrap();
        }),
        case("a receipt of another space", "Misplaced", [1, 1, 1, 1], |root| {
            root.edit(DAY, "/space", json!("another"));
        }),
        case(
            "a receipt with another number of events",
            "Inconsistent",
            [1, 1, 1, 1],
            |root| {
                root.edit(DAY, "/events", json!(9_999));
            },
        ),
        case(
            "a receipt of another source",
            "OtherSource",
            [1, 1, 1, 1],
            |root| {
                root.edit(DAY, "/source", json!("https://another.example"));
            },
        ),
        case(
            "fewer events than the newest count",
            "Short",
            [1, 1, 1, 1],
            |root| {
                root.edit(DAY, "/reportedAfter", json!(9_999));
            },
        ),
        case(
            "content that cannot be counted",
            "Uncounted",
            [1, 1, 1, 1],
            |root| {
                root.edit(DAY, "/uncounted", json!({"reason": "NotAnObject", "atByte": 7}));
                root.edit(DAY, "/verdict", json!("Unknown"));
                root.edit(DAY, "/events", json!(7));
            },
        ),
        Case {
            accepted: true,
            ..case("an accepted gap", "Accepted", [0, 0, 0, 0], |root| {
                root.remove(DAY);
                root.forget_manifests();
            })
        },
        Case {
            accepted: true,
            ..case(
                "an accepted gap with too few events",
                "Accepted",
                [0, 0, 0, 0],
                |root| {
                    root.edit(DAY, "/reportedAfter", json!(9_999));
                },
            )
        },
        // What a manifest stated is gone: the gap alone does not give the manifest up.
        Case {
            accepted: true,
            verified_after: 1,
            ..case(
                "an accepted gap in a sealed period",
                "Accepted",
                [0, 0, 1, 1],
                |root| {
                    root.remove(DAY);
                },
            )
        },
        case("an answer with another day", "Misplaced", [1, 1, 1, 1], |root| {
            root.edit(DAY, "/answered/start", json!("2018-06-20"));
        }),
        case(
            "an empty day that could not be counted",
            "Inconsistent",
            [1, 1, 1, 1],
            |root| {
                fs::remove_file(root.object(DAY)).unwrap();
                root.edit(DAY, "/object", Value::Null);
                root.edit(DAY, "/events", json!(0));
                root.edit(DAY, "/verdict", json!("Empty"));
                root.edit(DAY, "/uncounted", json!({"reason": "NotAnObject", "atByte": 7}));
            },
        ),
        Case {
            day: SPLIT_DAY,
            after_run: "Covered",
            ..case(
                "a day in hours that is exported as a day",
                "Missing",
                [0, 1, 1, 0],
                |root| {
                    for hour in 0..24 {
                        let window = format!("{SPLIT_DAY}T{hour:02}");
                        fs::remove_file(root.receipt(&window)).unwrap();
                        let _ = fs::remove_file(root.object(&window));
                    }
                    fs::remove_file(root.journal(&format!("{SPLIT_DAY}.split.json"))).unwrap();
                },
            )
        },
        Case {
            after_run: "Covered",
            ..case("an expired day", "Expired", [1, 1, 1, 0], |root| root.expired(""))
        },
        Case {
            after_run: "Covered",
            ..case(
                "an expired day of another service",
                "Missing",
                [0, 1, 1, 0],
                |root| {
                    root.expired("https://another.example");
                },
            )
        },
        Case {
            after_run: "Covered",
            ..case(
                "an expired marker without a byte",
                "Missing",
                [0, 1, 1, 0],
                |root| {
                    root.expired("");
                    fs::write(root.journal(&format!("{DAY}.expired.json")), "").unwrap();
                },
            )
        },
        Case {
            day: EMPTY_DAY,
            ..case(
                "an object of an empty day",
                "UnexpectedObject",
                [1, 1, 1, 1],
                |root| {
                    fs::create_dir_all(root.object(EMPTY_DAY).parent().unwrap()).unwrap();
                    fs::copy(root.object(DAY), root.object(EMPTY_DAY)).unwrap();
                },
            )
        },
        Case {
            day: SPLIT_DAY,
            ..case("a day in hours", "Covered", [0, 0, 0, 0], |_| {})
        },
        Case {
            day: SPLIT_DAY,
            ..case(
                "an hour without its object",
                "ObjectMissing",
                [1, 1, 1, 1],
                |root| {
                    fs::remove_file(root.object("2018-06-28T09")).unwrap();
                },
            )
        },
        Case {
            day: SPLIT_DAY,
            after_run: "Covered",
            ..case(
                "a day without one of its hours",
                "Partial",
                [0, 1, 1, 0],
                |root| {
                    root.remove("2018-06-28T09");
                },
            )
        },
        Case {
            day: SPLIT_DAY,
            ..case(
                "hours with fewer events than their day",
                "Short",
                [1, 1, 1, 1],
                |root| {
                    root.edit("2018-06-28T09", "/reportedOfDay", json!(9_999));
                },
            )
        },
        case("a spent attempt", "Covered", [0, 0, 0, 0], |root| {
            root.attempt(DAY);
        }),
        Case {
            after_run: "Covered",
            ..case(
                "an attempt that stored nothing",
                "Missing",
                [0, 1, 1, 0],
                |root| {
                    root.remove(DAY);
                    root.attempt(DAY);
                },
            )
        },
        Case {
            after_run: "Covered",
            ..case(
                "an attempt that wrote no receipt",
                "Missing",
                [0, 1, 1, 0],
                |root| {
                    fs::remove_file(root.receipt(DAY)).unwrap();
                    root.attempt(DAY);
                },
            )
        },
        case("no manifest", "Covered", [0, 0, 0, 0], Root::forget_manifests),
        case("a manifest without a byte", "Covered", [0, 0, 1, 1], |root| {
            fs::write(root.0.join("_manifests/00000001.json"), "").unwrap();
        }),
        Case {
            verified_after: 1,
            ..case(
                "a manifest that states another number",
                "Covered",
                [0, 0, 1, 0],
                |root| {
                    let path = root.0.join("_manifests/00000001.json");
                    let text = fs::read_to_string(&path).unwrap();
                    fs::write(path, text.replacen("\"events\":", "\"events\":1", 1)).unwrap();
                },
            )
        },
        Case {
            verified_after: 1,
            ..case("a file among the events", "Covered", [0, 0, 1, 0], |root| {
                fs::write(root.0.join(format!("date={DAY}/part-0.json.gz")), "x").unwrap();
            })
        },
        case("a file elsewhere", "Covered", [0, 0, 0, 0], |root| {
            fs::write(root.0.join("notes.txt"), "x").unwrap();
        }),
    ]
}

fn manifest(fixture: &CliFixture, name: &str, gap: &str) -> String {
    let gaps: Value = serde_saphyr::from_str(&format!("[{gap}]")).unwrap();
    let manifest = Manifest::local("audit", &fixture.url)
        .days("2018-06-25", "2018-06-30")
        .set("acceptedGaps", gaps)
        .set("destination.s3.prefix", "t");
    manifest.write(fixture.path(name)).to_str().unwrap().to_owned()
}

/// Returns the state of a day in a list of windows that are not covered. A window of one of its hours counts, too.
fn uncovered(list: &Value, day: &str) -> String {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    let row = list
        .iter()
        .find(|row| row["window"].as_str().unwrap().starts_with(day));
    row.map_or("Covered".to_owned(), |row| {
        row["state"].as_str().unwrap().to_owned()
    })
}

fn code(output: &CommandOutput) -> i32 {
    output.code.unwrap_or(-1)
}

/// Runs all commands on an archive. Returns the states by command, and the exit codes.
async fn observe(
    fixture: &CliFixture,
    case: &Case,
    folder: &str,
    manifest: &str,
) -> (BTreeMap<&'static str, String>, [i32; 4], i32) {
    let run = async |arguments: &[&str]| {
        let location = ["-f", manifest, "--archive", folder, "--output", "json"];
        fixture.run(&[arguments, &location].concat()).await
    };
    let plan = run(&["plan"]).await;
    let status = run(&["status", "--start", case.day, "--end", case.day]).await;
    let inspect = run(&["inspect"]).await;
    let verify = run(&["verify"]).await;
    let report = run(&["report"]).await;
    let mut states = BTreeMap::new();
    let windows = &plan.json()["exports"][0]["windows"];
    let planned = windows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["window"] == case.day);
    states.insert("plan", planned.unwrap()["state"].as_str().unwrap().to_owned());
    let day = &status.json()["days"][0];
    states.insert("status", day["archived"]["state"].as_str().unwrap().to_owned());
    for (name, output) in [("inspect", &inspect), ("verify", &verify)] {
        let roots = &output.json()["archives"][0]["roots"];
        // Nothing at all has no root.
        let state = roots.get(0).map_or("Missing".to_owned(), |root| {
            uncovered(&root["uncovered"], case.day)
        });
        states.insert(name, state);
    }
    let days = &report.json()["archives"][0]["roots"][0]["days"];
    let mut days = days.as_array().unwrap().iter();
    let day = days.find(|day| day["window"] == case.day).unwrap();
    states.insert("report", day["state"].as_str().unwrap().to_owned());
    // A report reads no object.
    let checked = if case.state == case.verified {
        code(&verify)
    } else {
        0
    };
    assert_eq!(code(&report), checked, "{}: {report:?}", case.name);
    assert_eq!(status.code, Some(0), "{}: {status:?}", case.name);
    let ran = run(&["run", "--holder", &case.name.replace(' ', "-")]).await;
    let summary: Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
    states.insert("run", uncovered(&summary["exports"][0]["uncovered"], case.day));
    let codes = [code(&plan), code(&inspect), code(&verify), code(&ran)];
    let again = run(&["verify"]).await;
    (states, codes, code(&again))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_shows_the_same_state_of_each_archive() {
    let fixture = CliFixture::start(&["--today", "2018-07-02"]).await;
    let plain = manifest(&fixture, "plain.yaml", "");
    let gap = format!("{{start: {DAY}, end: {DAY}, reason: lost}}");
    let with_gap = manifest(&fixture, "gap.yaml", &gap);
    let split = json!({"schema": "eventexport.io/split/v1", "why": "test", "at": "2018-06-29T00:00:00Z"});
    let journal = "base/t/space=c1/scope=space/_journal";
    fixture.write(
        &format!("{journal}/{SPLIT_DAY}.split.json"),
        &format!("{split}\n"),
        0o644,
    );
    let base = fixture
        .run(&["run", "-f", &plain, "--archive", "base", "-q"])
        .await;
    assert_eq!(base.code, Some(0), "{base:?}");

    let cases = cases();
    assert!(cases.len() >= 25);
    let mut wrong = Vec::new();
    // One after the other: the sessions of one run are candidates for what another one lost.
    for (number, case) in cases.iter().enumerate() {
        let copy = format!("case-{number}");
        folder::copy(&fixture.path("base"), &fixture.path(&copy));
        (case.arrange)(&Root(fixture.path(&copy).join("t/space=c1/scope=space")));
        let manifest = if case.accepted { &with_gap } else { &plain };
        let found = observe(&fixture, case, &copy, manifest).await;
        let states = [
            ("plan", case.state),
            ("status", case.state),
            ("inspect", case.state),
            ("report", case.state),
            ("verify", case.verified),
            ("run", case.after_run),
        ];
        let expected = states.map(|(command, state)| (command, state.to_owned()));
        let expected = (BTreeMap::from(expected), case.codes, case.verified_after);
        if found != expected {
            wrong.push(format!(
                "{}:\n  found    {found:?}\n  expected {expected:?}",
                case.name
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(fixture.open_now().await, 0, "sessions are open");
}
