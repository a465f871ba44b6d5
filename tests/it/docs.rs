//! The parts of the documentation that the program knows best are written by it, and compared here.

// A test that cannot go on must stop.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use eventexport::api::Reason;
use eventexport::cli::plugin::command;
use eventexport::controller::export_health::needs_manual_action;
use eventexport::simulator::presets;
use eventexport::telemetry::Metrics;

/// Columns of the help in the documentation.
const COLUMNS: usize = 110;

fn help(commands: &[&str]) -> String {
    let mut text = String::new();
    for name in commands {
        let mut program = command(false).term_width(COLUMNS);
        program.build();
        let command = name.split(' ').fold(&mut program, |command, name| {
            command.find_subcommand_mut(name).unwrap()
        });
        let help = command.render_long_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        let _ = write!(
            text,
            "```text\n$ eventexport {name} --help\n{}\n```\n",
            lines.join("\n").trim_end()
        );
    }
    text
}

/// The help of the commands that speak to the service.
fn service_help() -> String {
    help(&[
        "context",
        "context set",
        "session",
        "session create",
        "session list",
        "session show",
        "session delete",
        "status",
        "completions",
        "man",
    ])
}

fn reasons() -> String {
    let mut text = "| reason | means | what to do | person |\n|---|---|---|---|\n".to_owned();
    for reason in Reason::ALL {
        let person = if needs_manual_action(*reason) { "yes" } else { "" };
        let _ = writeln!(
            text,
            "| `{reason}` | {} | {} | {person} |",
            reason.meaning(),
            reason.remedy()
        );
    }
    text
}

fn faults() -> String {
    let mut text = "| fault | what happens |\n|---|---|\n".to_owned();
    for (name, about) in presets() {
        let _ = writeln!(text, "| `{name}` | {about} |");
    }
    text
}

/// Every metric, as an operator that has one of everything shows it.
fn metrics() -> String {
    let text = Metrics::sample().text();
    let mut table = "| metric | type | unit | labels | means |\n|---|---|---|---|---|\n".to_owned();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((name, means)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let mut kind = "";
        let mut labels = BTreeSet::new();
        let mut shown = name.to_owned();
        while let Some(line) = lines.next_if(|line| !line.starts_with("# HELP ") && *line != "# EOF") {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                kind = rest.split_once(' ').unwrap().1;
            } else if !line.starts_with('#') {
                let (series, rest) = line.split_once(['{', ' ']).unwrap();
                if matches!(kind, "counter" | "info") {
                    series.clone_into(&mut shown);
                }
                let of_line = rest.split_once('}').map_or("", |(labels, _)| labels);
                let names = of_line.split(',').filter_map(|label| label.split_once("=\""));
                labels.extend(names.map(|(name, _)| format!("`{name}`")));
            }
        }
        labels.remove("`le`");
        let labels: Vec<_> = labels.into_iter().collect();
        let means = means.trim_end_matches('.');
        let labels = labels.join(", ");
        let units = ["seconds", "bytes"];
        let unit = units
            .into_iter()
            .find(|unit| name.ends_with(unit))
            .unwrap_or_default();
        let _ = writeln!(table, "| `{shown}` | {kind} | {unit} | {labels} | {means} |");
    }
    table
}

/// Puts `part` between its marks.
pub(crate) fn with_part(text: &str, name: &str, part: &str) -> String {
    let (begin, end) = (format!("<!-- generated: {name} -->\n"), "<!-- end -->");
    let (before, rest) = text
        .split_once(&begin)
        .unwrap_or_else(|| panic!("no place for {name}"));
    let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("no end of {name}"));
    format!("{before}{begin}{part}{end}{after}")
}

#[test]
fn generated_parts_are_what_the_program_says() {
    let parts = [
        ("docs/cli.md", "help", help(&["run", "plan", "download"])),
        (
            "docs/cli.md",
            "help of contexts, sessions and status",
            service_help(),
        ),
        (
            "docs/cli.md",
            "help of verify and inspect",
            help(&["verify", "inspect"]),
        ),
        ("docs/operator.md", "reasons", reasons()),
        ("docs/operator.md", "help", help(&["operator"])),
        ("docs/metrics.md", "metrics", metrics()),
        ("docs/simulator.md", "faults", faults()),
        ("docs/simulator.md", "help", help(&["simulate"])),
    ];
    for (file, name, part) in parts {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = fs::read_to_string(&path).unwrap();
        let wanted = with_part(&text, name, &part);
        if text != wanted {
            let update = std::env::var_os("UPDATE_DOCS").is_some();
            assert!(
                update,
                "{file}: {name} is not what would be generated: run `make generated`"
            );
            fs::write(&path, wanted).unwrap();
        }
    }
}

#[test]
fn every_link_within_the_documentation_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "charts/eventexport/README.md",
    ]
    .map(|name| root.join(name))
    .to_vec();
    for folder in ["docs", "docs/adr"] {
        let entries = fs::read_dir(root.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|ext| ext == "md")));
    }
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                let there = file.parent().unwrap().join(target).exists();
                assert!(there, "{} links to {target}, which is not there", file.display());
            }
        }
    }
}

/// Every test of the project, by its name.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src"), root.join("tests/it")];
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let attributes = text
                    .split("#[test]")
                    .skip(1)
                    .chain(text.split("#[tokio::test").skip(1));
                let named = attributes.filter_map(|rest| rest.split_once("fn ")?.1.split_once('('));
                found.extend(named.map(|(name, _)| name.to_owned()));
            }
        }
    }
    found
}

#[test]
fn the_threat_model_names_tests_that_exist() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md")).unwrap();
    let there = tests();
    let named = |text: &str| -> Vec<String> {
        let quoted = text.split('`').skip(1).step_by(2);
        let is_test = |name: &&str| name.matches('_').count() >= 3 && !name.contains(' ');
        quoted.filter(is_test).map(str::to_owned).collect()
    };
    let missing: Vec<String> = named(&text)
        .into_iter()
        .filter(|name| !there.contains(name))
        .collect();
    assert_eq!(
        missing,
        Vec::<String>::new(),
        "docs/security.md names tests that are not there"
    );
    let threats = text.lines().filter(|line| {
        let cell = line.split('|').nth(1).unwrap_or_default().trim();
        cell.len() >= 2
            && cell.starts_with(|c| "STRIDE".contains(c))
            && cell[1..].bytes().all(|byte| byte.is_ascii_digit())
    });
    let mut count = 0;
    for line in threats {
        count += 1;
        assert!(
            !named(line).is_empty() || line.contains("none here: "),
            "no test tries {line}"
        );
    }
    assert!(count > 20, "{count} threats were found in the tables");
}

#[test]
fn every_mutation_is_documented_with_the_test_that_catches_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let told = fs::read_to_string(root.join("docs/faults.md")).unwrap();
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(root.join("tests/mutations")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "patch") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let patch = fs::read_to_string(&path).unwrap();
            let breaks = patch
                .lines()
                .find_map(|line| line.strip_prefix("Breaks: "))
                .unwrap();
            assert!(
                told.contains(&format!("| `{name}` | {breaks} | `")),
                "{name} is not in docs/faults.md"
            );
            names.insert(name);
        }
    }
    let rows = told.split("## Mutations").nth(1).unwrap().lines();
    let rows = rows.filter(|line| line.starts_with("| `")).count();
    assert_eq!(
        rows,
        names.len(),
        "docs/faults.md tells of mutations that there are not"
    );
}
