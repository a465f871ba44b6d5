//! Each damage of a directory is reported, and nothing else.

use std::fs;
use std::path::Path;

use eventexport::archive::manifest::document::{DayStatement, FileDigest, Manifest, parse_manifest};
use eventexport::archive::receipt::Sha256Digest;
use eventexport::archive::records::encode;
use serde_json::json;

use super::fixture::{ACCOUNT, ArchiveFixture, SPACE, text};

const OBJECT: &str = "date=2018-06-01/events.json.gz";
const RECEIPT_SIGNATURE: &str = "_journal/2018-06-01.receipt.json.sig";
const RECEIPT: &str = "_journal/2018-06-01.receipt.json";
const MANIFEST_1: &str = "_manifests/00000001.json";
const MANIFEST_2: &str = "_manifests/00000002.json";

/// Edits a file of the space.
fn edit(archive: &Path, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = archive.join(SPACE).join(key);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Replaces text in a document of the space, which must contain it.
fn replace(archive: &Path, key: &str, from: &str, to: &str) {
    edit(archive, key, |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        *bytes = text.replacen(from, to, 1).into_bytes();
    });
}

fn remove(archive: &Path, key: &str) {
    fs::remove_file(archive.join(SPACE).join(key)).unwrap();
}

fn swap(archive: &Path, one: &str, other: &str) {
    let [one, other] = [one, other].map(|key| archive.join(SPACE).join(key));
    let aside = archive.join("aside");
    fs::rename(&one, &aside).unwrap();
    fs::rename(&other, &one).unwrap();
    fs::rename(&aside, &other).unwrap();
}

fn add(archive: &Path, key: &str) {
    let path = archive.join(SPACE).join(key);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy(archive.join(SPACE).join(OBJECT), path).unwrap();
}

/// Removes the signatures of all receipts from a day on.
fn unsign_receipts(archive: &Path, from: &str) {
    for entry in fs::read_dir(archive.join(SPACE).join("_journal")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".receipt.json.sig") && name >= from {
            fs::remove_file(path).unwrap();
        }
    }
}

/// Removes all manifests, and the signatures of receipts.
fn forget_manifests(archive: &Path) {
    fs::remove_dir_all(archive.join(SPACE).join("_manifests")).unwrap();
    unsign_receipts(archive, "");
}

/// Returns the number after `"events":` in a receipt.
fn events_of(archive: &Path, key: &str) -> String {
    let text = fs::read_to_string(archive.join(SPACE).join(key)).unwrap();
    let receipt: serde_json::Value = serde_json::from_str(&text).unwrap();
    receipt["events"].to_string()
}

/// Rewrites the last manifest without its last day, which becomes an accepted gap that no entry of `acceptedGaps` names.
fn forge_gap(archive: &Path) {
    let path = archive.join(SPACE).join(MANIFEST_2);
    let mut manifest: Manifest = parse_manifest(MANIFEST_2, 2, &fs::read(&path).unwrap()).unwrap();
    manifest.windows.pop().unwrap();
    let day = manifest.days.last_mut().unwrap();
    (day.hours, day.events, day.reported) = (0, 0, None);
    day.statement = DayStatement::AcceptedGap;
    manifest.totals = manifest.computed_totals();
    manifest.root = manifest.computed_root();
    fs::write(path, encode(&manifest)).unwrap();
    remove(archive, "_manifests/00000002.json.sig");
}

/// Removes the last manifest with its signature, and those of its receipts.
fn cut_off(archive: &Path) {
    remove(archive, MANIFEST_2);
    remove(archive, "_manifests/00000002.json.sig");
    unsign_receipts(archive, "2018-06-06");
}

/// Adds the object and receipt of a day after the last one, which agree with each other.
fn forge_day(archive: &Path) {
    add(archive, "date=2018-06-08/events.json.gz");
    let receipt = fs::read_to_string(archive.join(SPACE).join(RECEIPT)).unwrap();
    let forged = receipt.replace("2018-06-01", "2018-06-08");
    let path = archive.join(SPACE).join("_journal/2018-06-08.receipt.json");
    fs::write(path, forged).unwrap();
}

/// Appends an unsigned manifest about the forged day to the chain.
fn forge_manifest(archive: &Path) {
    let root = archive.join(SPACE);
    let [bytes, receipt] =
        [MANIFEST_2, "_journal/2018-06-08.receipt.json"].map(|key| fs::read(root.join(key)).unwrap());
    let mut manifest: Manifest = parse_manifest(MANIFEST_2, 2, &bytes).unwrap();
    let digest = |bytes: &[u8]| Sha256Digest::of(bytes).to_string();
    manifest.sequence = 3;
    manifest.previous = Some(FileDigest {
        key: MANIFEST_2.to_owned(),
        sha256: digest(&bytes),
    });
    let first: Manifest = parse_manifest(MANIFEST_1, 1, &fs::read(root.join(MANIFEST_1)).unwrap()).unwrap();
    let mut entry = first.windows[0].clone();
    "2018-06-08".clone_into(&mut entry.window);
    entry.receipt = FileDigest {
        key: "_journal/2018-06-08.receipt.json".to_owned(),
        sha256: digest(&receipt),
    };
    let object = entry.object.as_mut().unwrap();
    object.key = object.key.replace("2018-06-01", "2018-06-08");
    let mut day = first.days[0].clone();
    day.date = "2018-06-08".parse().unwrap();
    (manifest.period.start, manifest.period.end) = (day.date, day.date);
    (manifest.windows, manifest.days) = (vec![entry], vec![day]);
    manifest.totals = manifest.computed_totals();
    manifest.root = manifest.computed_root();
    fs::write(root.join("_manifests/00000003.json"), encode(&manifest)).unwrap();
}

pub(crate) struct DamageCase {
    pub(crate) name: &'static str,
    pub(crate) damage: fn(&Path),
    pub(crate) arguments: &'static [&'static str],
    pub(crate) findings: &'static [(&'static str, &'static str)],
}

impl DamageCase {
    /// Returns the arguments, with the head of the unmodified chain instead of `HEAD`.
    pub(crate) fn arguments<'a>(&'a self, head: &'a str) -> Vec<&'a str> {
        let all = self.arguments.iter();
        all.map(|argument| if *argument == "HEAD" { head } else { *argument })
            .collect()
    }
}

/// Returns a case: a damage of an archive with manifests, and its findings.
const fn damage_case(
    name: &'static str,
    damage: fn(&Path),
    findings: &'static [(&'static str, &'static str)],
) -> DamageCase {
    DamageCase {
        name,
        damage,
        arguments: &[],
        findings,
    }
}

/// Returns a case of an archive whose manifests are removed, so that receipts and objects are compared.
const fn unsealed_case(
    name: &'static str,
    damage: fn(&Path),
    findings: &'static [(&'static str, &'static str)],
) -> DamageCase {
    DamageCase {
        name,
        damage,
        arguments: &["--allow-unsigned"],
        findings,
    }
}

pub(crate) const CASES: &[DamageCase] = &[
    damage_case("nothing", |_| {}, &[]),
    unsealed_case("nothing, without manifests", forget_manifests, &[]),
    damage_case("nothing signed", forget_manifests, &[("Unattested", "")]),
    DamageCase {
        name: "manifests of later days cut off",
        damage: cut_off,
        arguments: &[],
        findings: &[("Unattested", "")],
    },
    DamageCase {
        name: "manifests of later days cut off, which may be unsigned",
        damage: cut_off,
        arguments: &["--unsigned-since", "2018-06-06"],
        findings: &[],
    },
    DamageCase {
        name: "manifests of later days cut off, one of which may be unsigned",
        damage: cut_off,
        arguments: &["--unsigned-since", "2018-06-07"],
        findings: &[("Unattested", "")],
    },
    damage_case(
        "every signature removed",
        |archive| {
            remove(archive, "_manifests/00000001.json.sig");
            remove(archive, "_manifests/00000002.json.sig");
            unsign_receipts(archive, "");
        },
        &[
            ("SignatureMissing", MANIFEST_1),
            ("SignatureMissing", MANIFEST_2),
            ("Unattested", ""),
        ],
    ),
    damage_case(
        "a signature of any 64 bytes",
        |archive| edit(archive, "_manifests/00000002.json.sig", |bytes| bytes.fill(7)),
        &[("SignatureInvalid", "_manifests/00000002.json.sig")],
    ),
    damage_case(
        "every manifest removed, each receipt signed",
        |archive| fs::remove_dir_all(archive.join(SPACE).join("_manifests")).unwrap(),
        &[],
    ),
    damage_case("a forged day with fitting sums", forge_day, &[("Unattested", "")]),
    damage_case(
        "a forged day with fitting sums, and a manifest about it",
        |archive| {
            forge_day(archive);
            forge_manifest(archive);
        },
        &[
            ("SignatureMissing", "_manifests/00000003.json"),
            ("Unattested", ""),
        ],
    ),
    damage_case(
        "hidden files",
        |archive| {
            for name in [
                ".DS_Store",
                "._events.json.gz",
                ".events.json.gz",
                "_events.json.gz",
            ] {
                add(archive, &format!("date=2018-06-01/{name}"));
            }
            add(archive, ".DS_Store");
        },
        &[],
    ),
    damage_case(
        "more events of a day in a file that no receipt names",
        |archive| {
            add(archive, "date=2018-06-01/events-more.json.gz");
            add(archive, "date=extra/events.json.gz");
            add(archive, "old/date=2018-06-01/events.json.gz");
        },
        &[
            ("StrayFile", "date=2018-06-01/events-more.json.gz"),
            ("StrayFile", "date=extra/events.json.gz"),
            ("StrayFile", "old/date=2018-06-01/events.json.gz"),
        ],
    ),
    damage_case(
        "flipped byte",
        |archive| edit(archive, OBJECT, |bytes| bytes[100] ^= 1),
        &[("ObjectChanged", OBJECT)],
    ),
    damage_case(
        "truncated object",
        |archive| edit(archive, OBJECT, |bytes| bytes.truncate(bytes.len() - 1)),
        &[("ObjectSize", OBJECT)],
    ),
    damage_case(
        "appended to",
        |archive| edit(archive, OBJECT, |bytes| bytes.push(0)),
        &[("ObjectSize", OBJECT)],
    ),
    damage_case(
        "removed object",
        |archive| remove(archive, OBJECT),
        &[("ObjectMissing", OBJECT)],
    ),
    damage_case(
        "added object of another day",
        |archive| add(archive, "date=2018-06-29/events.json.gz"),
        &[("ObjectWithoutReceipt", "date=2018-06-29/events.json.gz")],
    ),
    damage_case(
        "added object of a day that was proved empty",
        |archive| add(archive, "date=2018-06-02/events.json.gz"),
        &[("ObjectWithoutReceipt", "date=2018-06-02/events.json.gz")],
    ),
    damage_case(
        "added object of an hour of a covered day",
        |archive| add(archive, "date=2018-06-01/events-h07.json.gz"),
        &[("ObjectWithoutReceipt", "date=2018-06-01/events-h07.json.gz")],
    ),
    damage_case(
        "added file of another name",
        |archive| add(archive, "date=2018-06-01/part-2.json.gz"),
        &[("StrayFile", "date=2018-06-01/part-2.json.gz")],
    ),
    damage_case(
        "swapped days",
        |archive| swap(archive, OBJECT, "date=2018-06-05/events.json.gz"),
        &[
            ("ObjectSwapped", OBJECT),
            ("ObjectSwapped", "date=2018-06-05/events.json.gz"),
        ],
    ),
    damage_case(
        "swapped hours",
        |archive| {
            swap(
                archive,
                "date=2018-06-04/events-h03.json.gz",
                "date=2018-06-04/events-h04.json.gz",
            );
        },
        &[
            ("ObjectSwapped", "date=2018-06-04/events-h03.json.gz"),
            ("ObjectSwapped", "date=2018-06-04/events-h04.json.gz"),
        ],
    ),
    damage_case(
        "edited receipt",
        |archive| {
            let events = events_of(archive, RECEIPT);
            replace(archive, RECEIPT, &format!("\"events\":{events}"), "\"events\":1");
        },
        &[
            ("ReceiptChanged", RECEIPT),
            ("SignatureInvalid", RECEIPT_SIGNATURE),
        ],
    ),
    damage_case(
        "receipt that is no JSON any more",
        |archive| edit(archive, RECEIPT, |bytes| bytes.truncate(20)),
        &[
            ("ReceiptChanged", RECEIPT),
            ("SignatureInvalid", RECEIPT_SIGNATURE),
        ],
    ),
    damage_case(
        "receipt removed",
        |archive| remove(archive, RECEIPT),
        &[("ReceiptMissing", RECEIPT)],
    ),
    damage_case(
        "receipt and object removed",
        |archive| {
            remove(archive, RECEIPT);
            remove(archive, OBJECT);
        },
        &[("ObjectMissing", OBJECT), ("ReceiptMissing", RECEIPT)],
    ),
    damage_case(
        "edited last manifest",
        |archive| {
            replace(
                archive,
                MANIFEST_2,
                "\"totals\":{\"windows\":2",
                "\"totals\":{\"windows\":3",
            );
        },
        &[
            ("ManifestInconsistent", MANIFEST_2),
            ("SignatureInvalid", "_manifests/00000002.json.sig"),
        ],
    ),
    damage_case(
        "edited manifest that another follows",
        |archive| {
            replace(
                archive,
                MANIFEST_1,
                "\"verdict\":\"Matched\"",
                "\"verdict\":\"Unknown\"",
            );
            remove(archive, "_manifests/00000001.json.sig");
        },
        &[("ManifestChanged", MANIFEST_1), ("SignatureMissing", MANIFEST_1)],
    ),
    damage_case(
        "forged manifest: a day that is not there is an accepted gap without a reason",
        |archive| {
            forge_gap(archive);
            remove(archive, "_journal/2018-06-07.receipt.json");
            remove(archive, "_journal/2018-06-07.receipt.json.sig");
            remove(archive, "date=2018-06-07/events.json.gz");
        },
        &[
            ("ManifestInconsistent", MANIFEST_2),
            ("SignatureMissing", MANIFEST_2),
        ],
    ),
    damage_case(
        "unsigned manifest that calls a stored day a gap",
        |archive| {
            replace(
                archive,
                MANIFEST_2,
                "\"statement\":\"Matched\"",
                "\"statement\":\"AcceptedGap\"",
            );
            remove(archive, "_manifests/00000002.json.sig");
        },
        &[
            ("ManifestInconsistent", MANIFEST_2),
            ("SignatureMissing", MANIFEST_2),
        ],
    ),
    damage_case(
        "manifest removed",
        |archive| remove(archive, MANIFEST_1),
        &[("ManifestMissing", MANIFEST_1)],
    ),
    damage_case(
        "last manifest removed, its signature left",
        |archive| remove(archive, MANIFEST_2),
        &[("ManifestMissing", MANIFEST_2)],
    ),
    DamageCase {
        name: "wrong key",
        damage: |_| {},
        arguments: &["--public-key", "other.pem"],
        findings: &[
            ("SignatureInvalid", "_manifests/00000001.json.sig"),
            ("SignatureInvalid", "_manifests/00000002.json.sig"),
            ("Unattested", ""),
        ],
    },
    DamageCase {
        name: "the noted manifest is in the chain",
        damage: |_| {},
        arguments: &["--head", "HEAD"],
        findings: &[],
    },
    DamageCase {
        name: "the noted manifest was cut off",
        damage: |archive| {
            remove(archive, MANIFEST_2);
            remove(archive, "_manifests/00000002.json.sig");
        },
        arguments: &["--head", "HEAD"],
        findings: &[("HeadMissing", "")],
    },
    DamageCase {
        name: "changed keys, both given",
        damage: |_| {},
        arguments: &["--public-key", "other.pem", "--public-key", "public.pem"],
        findings: &[],
    },
    DamageCase {
        name: "signature removed of a manifest that the next one attests",
        damage: |archive| remove(archive, "_manifests/00000001.json.sig"),
        arguments: &["--require-signature"],
        findings: &[("SignatureMissing", MANIFEST_1)],
    },
    // Without manifests, receipts and objects are compared.
    unsealed_case(
        "flipped byte, without manifests",
        |archive| {
            forget_manifests(archive);
            edit(archive, OBJECT, |bytes| bytes[100] ^= 1);
        },
        &[("ObjectChanged", OBJECT)],
    ),
    unsealed_case(
        "edited digest of a receipt, without manifests",
        |archive| {
            forget_manifests(archive);
            replace(archive, RECEIPT, "\"sha256\":\"", "\"sha256\":\"0");
        },
        &[("ReceiptInconsistent", RECEIPT)],
    ),
    unsealed_case(
        "edited number of members, without manifests",
        |archive| {
            forget_manifests(archive);
            replace(archive, RECEIPT, "\"gzipMembers\":", "\"gzipMembers\":1");
        },
        &[("ReceiptInconsistent", RECEIPT)],
    ),
    unsealed_case(
        "fewer events than the newest count in a receipt that says Matched, without manifests",
        |archive| {
            forget_manifests(archive);
            replace(archive, RECEIPT, "\"reportedAfter\":240", "\"reportedAfter\":250");
        },
        &[("WindowShort", RECEIPT)],
    ),
    unsealed_case(
        "more events than the newest count, as earlier versions matched them, without manifests",
        |archive| {
            forget_manifests(archive);
            replace(archive, RECEIPT, "\"reportedAfter\":240", "\"reportedAfter\":230");
        },
        &[],
    ),
    unsealed_case(
        "empty day with a later count, without manifests",
        |archive| {
            forget_manifests(archive);
            let receipt = "_journal/2018-06-02.receipt.json";
            replace(archive, receipt, "\"reportedAfter\":0", "\"reportedAfter\":7");
        },
        &[("WindowShort", "_journal/2018-06-02.receipt.json")],
    ),
    unsealed_case(
        "hours with fewer events than the day, without manifests",
        |archive| {
            forget_manifests(archive);
            let receipt = "_journal/2018-06-04T05.receipt.json";
            replace(archive, receipt, "\"reportedOfDay\":240", "\"reportedOfDay\":241");
        },
        &[("DayShort", "date=2018-06-04/")],
    ),
    unsealed_case(
        "receipt of another day, without manifests",
        |archive| {
            forget_manifests(archive);
            let root = archive.join(SPACE);
            fs::copy(root.join("_journal/2018-06-05.receipt.json"), root.join(RECEIPT)).unwrap();
        },
        &[("ReceiptMisplaced", RECEIPT)],
    ),
    unsealed_case(
        "receipt removed, without manifests",
        |archive| {
            forget_manifests(archive);
            remove(archive, RECEIPT);
        },
        &[("ObjectWithoutReceipt", OBJECT)],
    ),
    unsealed_case(
        "receipt of an empty day removed, without manifests",
        |archive| {
            forget_manifests(archive);
            remove(archive, "_journal/2018-06-03.receipt.json");
        },
        &[("Gap", "")],
    ),
    unsealed_case(
        "hour of a day removed, without manifests",
        |archive| {
            forget_manifests(archive);
            remove(archive, "_journal/2018-06-04T05.receipt.json");
            remove(archive, "date=2018-06-04/events-h05.json.gz");
        },
        &[("Gap", "")],
    ),
];

#[tokio::test]
async fn each_damage_is_the_only_finding() {
    let fixture = ArchiveFixture::shared().await;
    let head = fixture.head();
    for case in CASES {
        let copy = fixture.copy();
        (case.damage)(copy.path());
        let findings = fixture
            .verify(copy.path(), &case.arguments(&head))
            .await
            .findings();
        let mut wanted: Vec<(String, String)> = Vec::new();
        for (kind, key) in case.findings {
            // A head may be that of any chain below the prefix.
            let root = if *kind == "HeadMissing" { "" } else { SPACE };
            wanted.push(((*kind).to_owned(), format!("{root}{key}")));
        }
        if case.name == "wrong key" {
            let invalid = |root: &str, key: &str| ("SignatureInvalid".to_owned(), format!("{root}{key}"));
            wanted.push(invalid(ACCOUNT, "_manifests/00000001.json.sig"));
            wanted.push(("Unattested".to_owned(), ACCOUNT.to_owned()));
            for root in [SPACE, ACCOUNT] {
                for entry in fs::read_dir(copy.path().join(root).join("_journal")).unwrap() {
                    let name = entry.unwrap().file_name().into_string().unwrap();
                    if name.strip_suffix(".sig").is_some() {
                        wanted.push(invalid(root, &format!("_journal/{name}")));
                    }
                }
            }
            // Each window has a finding.
            wanted.retain(|(kind, _)| kind != "Unattested");
        }
        wanted.sort();
        assert_eq!(findings, wanted, "{}", case.name);
    }
}

#[tokio::test]
async fn a_good_archive_verifies_anywhere_and_is_not_modified() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let output = fixture.verify(copy.path(), &["--require-signature"]).await;
    assert_eq!(output.findings(), []);
    let document = output.json();
    let roots = document["archives"][0]["roots"].as_array().unwrap();
    assert_eq!(roots.len(), 2);
    let space = &roots[1];
    assert_eq!(space["root"], SPACE);
    // Four days, two empty ones, and 24 hours.
    assert_eq!(
        (&space["totals"]["windows"], &space["totals"]["empty"]),
        (&30.into(), &2.into())
    );
    assert_eq!(space["totals"]["events"], 5 * 240);
    assert_eq!(space["range"]["wanted"][0], "2018-06-01/2018-06-07");
    assert_eq!(space["manifests"]["verified"], 2);
    assert!(!copy.path().join(".eventexport-tmp").exists());

    // One root directly, also under another name.
    let root = tempfile::tempdir().unwrap();
    fs::rename(copy.path().join(SPACE), root.path().join("anything")).unwrap();
    let output = fixture.verify(&root.path().join("anything"), &[]).await;
    assert_eq!(output.findings(), []);
    assert_eq!(output.json()["archives"][0]["roots"][0]["totals"]["windows"], 30);
}

#[tokio::test]
async fn totals_count_only_what_is_there() {
    let fixture = ArchiveFixture::shared().await;
    for damage in [
        |archive: &Path| remove(archive, OBJECT),
        |archive: &Path| edit(archive, OBJECT, |bytes| bytes.push(0)),
    ] {
        let copy = fixture.copy();
        damage(copy.path());
        let seen = fixture.verify(copy.path(), &[]).await;
        assert_eq!(seen.findings().len(), 1, "the object is not also a gap: {seen:?}");
        let root = &seen.json()["archives"][0]["roots"][1];
        let totals = &root["totals"];
        assert_eq!(
            (&totals["windows"], &totals["events"]),
            (&json!(29), &json!(4 * 240))
        );
        assert_eq!((&totals["objects"], &totals["proved"]), (&json!(28), &json!(27)));
        let good = root["objects"].as_array().unwrap().iter();
        let good = good.filter(|object| object["proved"] == true);
        let bytes: u64 = good.map(|object| object["bytes"].as_u64().unwrap()).sum();
        assert_eq!(totals["bytes"], bytes);
        assert_eq!(root["range"]["missing"], json!(["2018-06-01"]));
    }
}

#[tokio::test]
async fn a_short_day_is_no_finding_where_the_gap_is_accepted() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    forget_manifests(copy.path());
    replace(
        copy.path(),
        RECEIPT,
        "\"reportedAfter\":240",
        "\"reportedAfter\":250",
    );
    let receipt = "_journal/2018-06-04T05.receipt.json";
    replace(
        copy.path(),
        receipt,
        "\"reportedOfDay\":240",
        "\"reportedOfDay\":241",
    );
    let spec = fs::read_to_string(fixture.file()).unwrap();
    let file = copy.path().join("accepted.yaml");
    let arguments = [
        "verify",
        "-f",
        text(&file),
        "--archive",
        text(copy.path()),
        "--output",
        "json",
    ];
    fs::write(&file, &spec).unwrap();
    let kinds: Vec<String> = fixture
        .program(&arguments, &[])
        .await
        .findings()
        .into_iter()
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(kinds, ["DayShort", "WindowShort"]);
    let gaps =
        r#""acceptedGaps":[{"start":"2018-06-01","end":"2018-06-04","reason":"the service lost some"}]"#;
    fs::write(
        &file,
        spec.replacen(r#""space":"c1""#, &format!(r#""space":"c1",{gaps}"#), 1),
    )
    .unwrap();
    assert_eq!(fixture.program(&arguments, &[]).await.findings(), []);
}

#[tokio::test]
async fn missing_windows_and_an_empty_archive_fail_verification() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let file = fs::read_to_string(fixture.file()).unwrap();
    let more = copy.path().join("more.yaml");
    fs::write(&more, file.replace("\"2018-06-05\"", "\"2018-06-09\"")).unwrap();
    let arguments = [
        "verify",
        "-f",
        text(&more),
        "--archive",
        text(copy.path()),
        "--output",
        "json",
    ];
    let output = fixture.program(&arguments, &[]).await;
    assert_eq!(output.findings(), [("Gap".to_owned(), SPACE.to_owned())]);
    let gap = &output.json()["archives"][0]["findings"][0];
    assert_eq!(gap["expected"], "2018-06-08/2018-06-09");

    let empty = tempfile::tempdir().unwrap();
    let output = fixture.program(&["verify", text(empty.path())], &[]).await;
    assert_eq!(output.code, Some(1));
    assert!(output.out.contains("no archive found"), "{output:?}");
    let missing = empty.path().join("none");
    let output = fixture.program(&["verify", text(&missing)], &[]).await;
    assert_eq!(output.code, Some(2));
    assert!(
        output.err.contains("does not exist") && !missing.exists(),
        "{output:?}"
    );
}

#[tokio::test]
async fn text_output_lists_findings_first_and_quick_states_its_limits() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    edit(copy.path(), OBJECT, |bytes| bytes[100] ^= 1);
    let output = fixture.program(&["verify", text(copy.path())], &[]).await;
    let first = output.out.lines().next().unwrap();
    assert_eq!(first, format!("ObjectChanged  {SPACE}{OBJECT}"));
    assert!(
        output.out.trim_end().ends_with("NOT PROVED: 1 problem"),
        "{output:?}"
    );

    // The copy lacks the store's internal folder, so a flipped byte is found only by reading.
    let output = fixture
        .program(&["verify", text(copy.path()), "--quick"], &[])
        .await;
    assert_eq!(output.code, Some(0), "{output:?}");
    for words in ["by size alone", "without --quick every", "No problems found"] {
        assert!(output.out.contains(words), "{words} is not in {output:?}");
    }
    remove(copy.path(), OBJECT);
    let output = fixture.verify(copy.path(), &["--quick"]).await;
    assert_eq!(
        output.findings(),
        [("ObjectMissing".to_owned(), format!("{SPACE}{OBJECT}"))]
    );
}
