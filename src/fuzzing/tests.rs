//! Runs the fuzz targets over the committed seeds and seeded mutations of them, the same on every machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::simulator::Random;

/// Maximum number of mutations for each target.
const MUTATIONS: usize = 4000;
/// Maximum time for each target. A slow target, or one on a loaded machine, runs fewer mutations.
const TIME_LIMIT: Duration = Duration::from_millis(1500);
/// Maximum size of a mutation in bytes.
const MAX_INPUT_BYTES: usize = 16 * 1024;

/// Tokens that often break parsers.
const DICTIONARY: [&[u8]; 32] = [
    b"\0",
    b"\xff",
    b"\xc3\x28",
    b"\x1b[2J",
    "\u{202e}".as_bytes(),
    b"\r\n",
    b"\n",
    b"\"",
    b"'",
    b"\\",
    b"\\u0000",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"---\n",
    b"&a [*a]",
    b"null",
    b"-1",
    b"1e400",
    b"18446744073709551616",
    b"9999-12-31",
    b"0000-00-00",
    b"\x1f\x8b\x08\x00",
    b"%2e%2e",
    b"T+7",
    b"[[[[[[[[[[[[[[[[",
    b"  ",
    b"#",
    b"=",
];

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut seeds: Vec<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} has no seeds", folder.display());
    seeds
}

/// Applies one to eight changes: flips a bit, removes or doubles bytes, inserts a token or bytes of another seed, or
/// truncates.
fn mutate(random: &mut Random, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(8) {
        let at = random_index(random, bytes.len());
        let end = at + random_index(random, (bytes.len() - at).min(64));
        match random.below(6) {
            0 if !bytes.is_empty() && at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            3 => {
                let word = DICTIONARY[random_index(random, DICTIONARY.len() - 1)];
                bytes.splice(at..end, word.iter().copied());
            }
            4 => {
                let from = random_index(random, other.len());
                let to = from + random_index(random, (other.len() - from).min(256));
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => bytes.truncate(end.max(1)),
        }
    }
    bytes.truncate(MAX_INPUT_BYTES);
    bytes
}

fn random_index(random: &mut Random, end: usize) -> usize {
    usize::try_from(random.below(end as u64 + 1)).unwrap()
}

/// Prints the input of a target if it panics.
struct PanicReport<'a>(&'a str, &'a [u8]);

impl Drop for PanicReport<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(target, input) = self;
            eprintln!("target {target}, input: {}", input.escape_ascii());
        }
    }
}

fn run_target(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    let seeds = seeds(name);
    let feed = |input: &[u8]| {
        let _report = PanicReport(name, input);
        target(input);
    };
    feed(b"");
    for (_, seed) in &seeds {
        feed(seed);
    }
    let mut random = Random::new(2018, &[name.len() as u64]);
    let began = Instant::now();
    for _ in 0..MUTATIONS {
        if began.elapsed() > TIME_LIMIT {
            break;
        }
        let (one, other) = (
            random_index(&mut random, seeds.len() - 1),
            random_index(&mut random, seeds.len() - 1),
        );
        feed(&mutate(&mut random, &seeds[one].1, &seeds[other].1));
    }
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            run_target(stringify!($name));
        })*

        #[test]
        fn every_target_is_tested_and_can_be_fuzzed() {
            let tested = [$(stringify!($name)),*];
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
            let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
            for (name, _) in TARGETS {
                assert!(tested.contains(&name), "{name}");
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
                let program = fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
                assert!(program.contains(&format!("fuzzing::{name}(data)")), "{name}");
            }
            assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
        }
    };
}

targets!(
    archive_manifest,
    bucket_listing,
    config_file,
    download_stream,
    durations,
    hosts,
    journal,
    part_state,
    error_body,
    receipt,
    retry_after,
    resource_yaml,
    session_response,
    session_list,
    token_response,
);
