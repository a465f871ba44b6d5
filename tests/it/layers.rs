//! Dependencies in `src/` point one way: each folder uses only those before it in the list, and the files of a folder do not
//! use each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

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

/// A module: the names on its path below `src`.
type Module = Vec<String>;

/// Returns the modules of `src` that are not only for tests, with their code: no comments, no unit tests.
fn modules(src: &Path) -> BTreeMap<Module, String> {
    let mut files = Vec::new();
    for layer in LAYERS {
        sources(&src.join(layer), &mut files);
    }
    let files = files.into_iter().filter(|path| !is_test(path));
    files
        .map(|path| {
            let below = path.strip_prefix(src).unwrap().with_extension("");
            let mut module: Module = below
                .iter()
                .map(|part| part.to_str().unwrap().to_owned())
                .collect();
            module.pop_if(|name| name == "mod");
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.split("#[cfg(test)]\nmod tests").next().unwrap().lines();
            let code = lines.map(|line| line.split("//").next().unwrap());
            (module, code.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

/// Returns the paths of a `use` tree.
fn expand(tree: &str) -> Vec<String> {
    let Some((prefix, group)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap().trim().to_owned()];
    };
    let mut depth = 0;
    let branches = group[..group.rfind('}').unwrap()].split(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let branches = branches.map(str::trim).filter(|branch| !branch.is_empty());
    branches
        .flat_map(|branch| expand(&format!("{}{branch}", prefix.trim())))
        .collect()
}

static TREE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?m)^\s*(pub(?:\([^)]*\))? )?use ([^;]+);").unwrap());
static PATH: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(?:crate|super|self)(?:::\w+)+").unwrap());

/// Returns the `use` trees of a module, and the other paths in its code that begin with `crate`, `super` or `self`.
fn named_paths(code: &str) -> (Vec<(bool, String)>, Vec<String>) {
    let trees = TREE.captures_iter(code).flat_map(|found| {
        let public = found.get(1).is_some();
        expand(&found[2]).into_iter().map(move |path| (public, path))
    });
    let rest = TREE.replace_all(code, "");
    let others = PATH.find_iter(&rest).map(|found| found.as_str().to_owned());
    (trees.collect(), others.collect())
}

/// Returns the path from `src` of a path in a module; `None` for one of another crate.
fn absolute(module: &Module, path: &str, all: &BTreeMap<Module, String>) -> Option<Module> {
    let mut names = path.split("::").map(str::to_owned).peekable();
    let mut base = module.clone();
    if names.next_if_eq("crate").is_some() {
        base.clear();
    } else if names.next_if_eq("self").is_none() {
        let mut from_above = false;
        while names.next_if_eq("super").is_some() {
            base.pop();
            from_above = true;
        }
        let child = [base.as_slice(), &[names.peek()?.clone()]].concat();
        if !from_above && !all.contains_key(&child) {
            return None;
        }
    }
    Some(base.into_iter().chain(names).collect())
}

/// Returns the module that defines an item, also if others re-export it.
fn definer(
    mut path: Module,
    exports: &BTreeMap<Module, Module>,
    all: &BTreeMap<Module, String>,
) -> Option<Module> {
    while !all.contains_key(&path) {
        match exports.get(&path) {
            Some(target) => path.clone_from(target),
            None => drop(path.pop()?),
        }
    }
    Some(path)
}

/// The module of a folder, which its files may use, is not part of a circle.
#[test]
fn the_files_of_a_folder_use_each_other_one_way() {
    let all = modules(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let named: BTreeMap<&Module, _> = all
        .iter()
        .map(|(module, code)| (module, named_paths(code)))
        .collect();
    let mut exports = BTreeMap::new();
    for (module, (trees, _)) in &named {
        for (_, path) in trees.iter().filter(|(public, _)| *public) {
            if let Some(target) = absolute(module, path, &all) {
                let name = target.last().unwrap().clone();
                exports.insert([module.as_slice(), &[name]].concat(), target);
            }
        }
    }
    let mut uses: BTreeMap<&Module, BTreeSet<Module>> = BTreeMap::new();
    for (&module, (trees, others)) in &named {
        let paths = trees.iter().map(|(_, path)| path).chain(others);
        let targets = paths.filter_map(|path| definer(absolute(module, path, &all)?, &exports, &all));
        uses.insert(
            module,
            targets.filter(|target| !module.starts_with(target)).collect(),
        );
    }
    // What remains when files that use no other one, or that no other one uses, are taken away again and again.
    loop {
        let left: BTreeSet<Module> = uses.keys().map(|module| (*module).clone()).collect();
        let targets: BTreeSet<Module> = uses.values().flatten().cloned().collect();
        uses.retain(|module, ways| targets.contains(*module) && ways.iter().any(|way| left.contains(way)));
        if uses.len() == left.len() {
            break;
        }
    }
    let files: Vec<String> = uses.keys().map(|module| module.join("/")).collect();
    assert!(
        files.is_empty(),
        "in a circle, or between two: {}",
        files.join(", ")
    );
}
