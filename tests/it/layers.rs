//! Dependencies of the folders of `src/` point one way: each uses only those before it in the list.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders from the bottom to the top. `main.rs`, `lib.rs` and `fuzzing` use all of them.
const LAYERS: [&str; 13] = [
    "api",
    "shares",
    "egress",
    "storage",
    "tracker",
    "pipeline",
    "archive",
    "session",
    "export",
    "telemetry",
    "simulator",
    "controller",
    "cli",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// True for a file that only tests use.
fn is_test(path: &Path) -> bool {
    let names = ["tests", "tests.rs", "fixture.rs", "properties.rs", "bad_input.rs"];
    path.iter().any(|part| names.iter().any(|name| part == *name))
}

#[test]
fn each_folder_uses_only_those_below_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (at, layer) in LAYERS.iter().enumerate() {
        let mut files = Vec::new();
        sources(&src.join(layer), &mut files);
        for path in files.into_iter().filter(|path| !is_test(path)) {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            let above = LAYERS[at + 1..].iter().filter(|above| {
                text.contains(&format!("crate::{above}::")) || text.contains(&format!("crate::{above};"))
            });
            wrong.extend(above.map(|above| format!("{} uses {above}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut folders: Vec<String> = fs::read_dir(&src)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name != "fuzzing")
        .collect();
    folders.sort();
    let mut layers = LAYERS.map(str::to_owned).to_vec();
    layers.sort();
    assert_eq!(folders, layers, "a folder is in no layer");
}
