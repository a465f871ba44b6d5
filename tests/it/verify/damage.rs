//! Each damage to a directory is named, and nothing else is accused.

use std::fs;
use std::path::Path;

use super::scene::{ACCOUNT, SPACE, Scene, text};

const OBJECT: &str = "date=2018-06-01/events.json.gz";
const RECEIPT: &str = "_journal/2018-06-01.receipt.json";
const MANIFEST_1: &str = "_manifests/00000001.json";
const MANIFEST_2: &str = "_manifests/00000002.json";

/// Changes a file of the space.
fn edit(archive: &Path, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = archive.join(SPACE).join(key);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Replaces words in a document of the space, which must be there.
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

fn forget_manifests(archive: &Path) {
    fs::remove_dir_all(archive.join(SPACE).join("_manifests")).unwrap();
}

/// The number after `"events":` in a receipt.
fn events_of(archive: &Path, key: &str) -> String {
    let text = fs::read_to_string(archive.join(SPACE).join(key)).unwrap();
    let receipt: serde_json::Value = serde_json::from_str(&text).unwrap();
    receipt["events"].to_string()
}

struct Case {
    name: &'static str,
    damage: fn(&Path),
    arguments: &'static [&'static str],
    accused: &'static [(&'static str, &'static str)],
}

/// A damage with its manifests, and what must be said of it.
const fn case(
    name: &'static str,
    damage: fn(&Path),
    accused: &'static [(&'static str, &'static str)],
) -> Case {
    Case {
        name,
        damage,
        arguments: &[],
        accused,
    }
}

const CASES: &[Case] = &[
    case("nothing", |_| {}, &[]),
    case("nothing, without manifests", forget_manifests, &[]),
    case(
        "flipped byte",
        |archive| edit(archive, OBJECT, |bytes| bytes[100] ^= 1),
        &[("ObjectChanged", OBJECT)],
    ),
    case(
        "truncated object",
        |archive| edit(archive, OBJECT, |bytes| bytes.truncate(bytes.len() - 1)),
        &[("ObjectSize", OBJECT)],
    ),
    case(
        "appended to",
        |archive| edit(archive, OBJECT, |bytes| bytes.push(0)),
        &[("ObjectSize", OBJECT)],
    ),
    case(
        "removed object",
        |archive| remove(archive, OBJECT),
        &[("ObjectMissing", OBJECT)],
    ),
    case(
        "added object of another day",
        |archive| add(archive, "date=2018-06-29/events.json.gz"),
        &[("ObjectWithoutReceipt", "date=2018-06-29/events.json.gz")],
    ),
    case(
        "added object of a day that was proved empty",
        |archive| add(archive, "date=2018-06-02/events.json.gz"),
        &[("ObjectWithoutReceipt", "date=2018-06-02/events.json.gz")],
    ),
    case(
        "added file of another name",
        |archive| add(archive, "date=2018-06-01/part-2.json.gz"),
        &[("StrayFile", "date=2018-06-01/part-2.json.gz")],
    ),
    case(
        "swapped days",
        |archive| swap(archive, OBJECT, "date=2018-06-05/events.json.gz"),
        &[
            ("ObjectSwapped", OBJECT),
            ("ObjectSwapped", "date=2018-06-05/events.json.gz"),
        ],
    ),
    case(
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
    case(
        "edited receipt",
        |archive| {
            let events = events_of(archive, RECEIPT);
            replace(archive, RECEIPT, &format!("\"events\":{events}"), "\"events\":1");
        },
        &[("ReceiptChanged", RECEIPT)],
    ),
    case(
        "receipt that is no JSON any more",
        |archive| edit(archive, RECEIPT, |bytes| bytes.truncate(20)),
        &[("ReceiptChanged", RECEIPT)],
    ),
    case(
        "receipt removed",
        |archive| remove(archive, RECEIPT),
        &[("ReceiptMissing", RECEIPT)],
    ),
    case(
        "receipt and object removed",
        |archive| {
            remove(archive, RECEIPT);
            remove(archive, OBJECT);
        },
        &[("ObjectMissing", OBJECT), ("ReceiptMissing", RECEIPT)],
    ),
    case(
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
    case(
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
        &[("ManifestChanged", MANIFEST_1)],
    ),
    case(
        "manifest removed",
        |archive| remove(archive, MANIFEST_1),
        &[("ManifestMissing", MANIFEST_1)],
    ),
    case(
        "last manifest removed, its signature left",
        |archive| remove(archive, MANIFEST_2),
        &[("ManifestMissing", MANIFEST_2)],
    ),
    Case {
        name: "wrong key",
        damage: |_| {},
        arguments: &["--public-key", "other.pem"],
        accused: &[
            ("SignatureInvalid", "_manifests/00000001.json.sig"),
            ("SignatureInvalid", "_manifests/00000002.json.sig"),
        ],
    },
    Case {
        name: "changed keys, both given",
        damage: |_| {},
        arguments: &["--public-key", "other.pem", "--public-key", "public.pem"],
        accused: &[],
    },
    Case {
        name: "signature removed, and required",
        damage: |archive| remove(archive, "_manifests/00000001.json.sig"),
        arguments: &["--require-signature"],
        accused: &[("SignatureMissing", MANIFEST_1)],
    },
    // Without manifests, by what receipts and objects say of each other.
    case(
        "flipped byte, without manifests",
        |archive| {
            forget_manifests(archive);
            edit(archive, OBJECT, |bytes| bytes[100] ^= 1);
        },
        &[("ObjectChanged", OBJECT)],
    ),
    case(
        "edited digest of a receipt, without manifests",
        |archive| {
            forget_manifests(archive);
            replace(archive, RECEIPT, "\"sha256\":\"", "\"sha256\":\"0");
        },
        &[("ReceiptInconsistent", RECEIPT)],
    ),
    case(
        "edited size after decompression, without manifests",
        |archive| {
            forget_manifests(archive);
            replace(archive, RECEIPT, "\"gzipMembers\":", "\"gzipMembers\":1");
        },
        &[("ReceiptInconsistent", RECEIPT)],
    ),
    case(
        "receipt of another day, without manifests",
        |archive| {
            forget_manifests(archive);
            let root = archive.join(SPACE);
            fs::copy(root.join("_journal/2018-06-05.receipt.json"), root.join(RECEIPT)).unwrap();
        },
        &[("ReceiptMisplaced", RECEIPT)],
    ),
    case(
        "receipt removed, without manifests",
        |archive| {
            forget_manifests(archive);
            remove(archive, RECEIPT);
        },
        &[("ObjectWithoutReceipt", OBJECT)],
    ),
    case(
        "receipt of an empty day removed, without manifests",
        |archive| {
            forget_manifests(archive);
            remove(archive, "_journal/2018-06-03.receipt.json");
        },
        &[("Gap", "")],
    ),
    case(
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
async fn each_damage_is_named_and_nothing_else_is_accused() {
    let scene = Scene::shared().await;
    for case in CASES {
        let copy = scene.copy();
        (case.damage)(copy.path());
        let accused = scene.verify(copy.path(), case.arguments).await.accused();
        let mut wanted: Vec<(String, String)> = Vec::new();
        for (kind, key) in case.accused {
            wanted.push(((*kind).to_owned(), format!("{SPACE}{key}")));
        }
        if case.name == "wrong key" {
            let key = format!("{ACCOUNT}_manifests/00000001.json.sig");
            wanted.push(("SignatureInvalid".to_owned(), key));
        }
        wanted.sort();
        assert_eq!(accused, wanted, "{}", case.name);
    }
}

#[tokio::test]
async fn a_good_archive_is_proved_in_numbers_wherever_it_lies_and_left_as_it_was() {
    let scene = Scene::shared().await;
    let copy = scene.copy();
    let ended = scene.verify(copy.path(), &["--require-signature"]).await;
    assert_eq!(ended.accused(), []);
    let document = ended.json();
    let roots = document["archives"][0]["roots"].as_array().unwrap();
    assert_eq!(roots.len(), 2);
    let space = &roots[1];
    assert_eq!(space["root"], SPACE);
    // Four whole days, two empty ones, 24 hours.
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
    let ended = scene.verify(&root.path().join("anything"), &[]).await;
    assert_eq!(ended.accused(), []);
    assert_eq!(ended.json()["archives"][0]["roots"][0]["totals"]["windows"], 30);
}

#[tokio::test]
async fn a_spec_says_what_is_missing_and_nothing_at_all_is_not_proved() {
    let scene = Scene::shared().await;
    let copy = scene.copy();
    let file = fs::read_to_string(scene.file()).unwrap();
    let more = copy.path().join("more.yaml");
    fs::write(&more, file.replace("end: 2018-06-05", "end: 2018-06-09")).unwrap();
    let arguments = [
        "verify",
        "-f",
        text(&more),
        "--to",
        text(copy.path()),
        "--output",
        "json",
    ];
    let ended = scene.program(&arguments, &[]).await;
    assert_eq!(ended.accused(), [("Gap".to_owned(), SPACE.to_owned())]);
    let gap = &ended.json()["archives"][0]["findings"][0];
    assert_eq!(gap["expected"], "2018-06-08/2018-06-09");

    let empty = tempfile::tempdir().unwrap();
    let ended = scene.program(&["verify", text(empty.path())], &[]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.out.contains("there is no archive here"), "{ended:?}");
    let missing = empty.path().join("none");
    let ended = scene.program(&["verify", text(&missing)], &[]).await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.err.contains("does not exist") && !missing.exists(),
        "{ended:?}"
    );
}

#[tokio::test]
async fn text_says_first_what_is_wrong_and_quick_says_what_it_cannot_tell() {
    let scene = Scene::shared().await;
    let copy = scene.copy();
    edit(copy.path(), OBJECT, |bytes| bytes[100] ^= 1);
    let ended = scene.program(&["verify", text(copy.path())], &[]).await;
    let first = ended.out.lines().next().unwrap();
    assert_eq!(first, format!("ObjectChanged  {SPACE}{OBJECT}"));
    assert!(
        ended.out.trim_end().ends_with("NOT PROVED: 1 thing is wrong"),
        "{ended:?}"
    );

    // The copy lacks the store's own folder, so a flipped byte cannot be seen without reading.
    let ended = scene
        .program(&["verify", text(copy.path()), "--quick"], &[])
        .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for words in ["by size alone", "without --quick every", "Nothing found wrong"] {
        assert!(ended.out.contains(words), "{words} is not in {ended:?}");
    }
    remove(copy.path(), OBJECT);
    let ended = scene.verify(copy.path(), &["--quick"]).await;
    assert_eq!(
        ended.accused(),
        [("ObjectMissing".to_owned(), format!("{SPACE}{OBJECT}"))]
    );
}
