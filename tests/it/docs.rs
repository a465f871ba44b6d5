//! Compares the generated parts of the documentation with the output of the program, and checks the links.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use eventexport::api::Reason;
use eventexport::cli::plugin::command;
use eventexport::controller::export_health::needs_manual_action;
use eventexport::telemetry::Metrics;

/// Width of the help in the documentation, in columns.
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

/// Returns the help of the commands that talk to the service.
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
    let mut text = "| reason | meaning | remedy | manual action |\n|---|---|---|---|\n".to_owned();
    for reason in Reason::ALL {
        let manual = if needs_manual_action(*reason) { "yes" } else { "" };
        let _ = writeln!(
            text,
            "| `{reason}` | {} | {} | {manual} |",
            reason.meaning(),
            reason.remedy()
        );
    }
    text
}

/// Returns the table of all metrics, from an operator that shows a sample of each.
fn metrics() -> String {
    let text = Metrics::sample().text();
    let mut table = "| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n".to_owned();
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

/// Replaces the text between the markers of `name` with `part`.
pub(crate) fn with_part(text: &str, name: &str, part: &str) -> String {
    let (begin, end) = (format!("<!-- generated: {name} -->\n"), "<!-- end -->");
    let (before, rest) = text
        .split_once(&begin)
        .unwrap_or_else(|| panic!("no marker for {name}"));
    let (_, after) = rest
        .split_once(end)
        .unwrap_or_else(|| panic!("no end marker for {name}"));
    format!("{before}{begin}{part}{end}{after}")
}

#[test]
fn the_example_in_contributing_is_a_test_of_at_most_15_lines() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/CONTRIBUTING.md")).unwrap();
    let code = include_str!("example.rs");
    assert!(
        text.contains(&format!("```rust\n{code}```\n")),
        "copy tests/it/example.rs"
    );
    assert!(code.lines().count() <= 15, "{} lines", code.lines().count());
}

#[test]
fn generated_parts_are_up_to_date() {
    let commands = "docs/reference/commands.md";
    let parts = [
        (commands, "help", help(&["run", "plan", "download"])),
        (
            commands,
            "help of verify, inspect, report, cat and ddl",
            help(&["verify", "inspect", "report", "cat", "ddl"]),
        ),
        (commands, "help of contexts, sessions and status", service_help()),
        (
            commands,
            "help of commands on a cluster",
            help(&[
                "get",
                "describe",
                "suspend",
                "resume",
                "request",
                "accept-gap",
                "logs",
            ]),
        ),
        (commands, "help of operator", help(&["operator"])),
        (commands, "help of simulate", help(&["simulate"])),
        ("docs/reference/reasons.md", "reasons", reasons()),
        ("docs/metrics.md", "metrics", metrics()),
    ];
    for (file, name, part) in parts {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = fs::read_to_string(&path).unwrap();
        let wanted = with_part(&text, name, &part);
        if text != wanted {
            let update = std::env::var_os("UPDATE_DOCS").is_some();
            assert!(update, "{file}: {name} is out of date: run `make generated`");
            fs::write(&path, wanted).unwrap();
        }
    }
}

/// Appends the sources below a folder.
fn read_sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        read_sources(&root.join(folder), &mut sources);
    }
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    // The third or a later underscore tells the name of a test from other names.
    let quoted = page.split('`').skip(1).step_by(2);
    let names: BTreeSet<&str> = quoted
        .filter(|name| name.matches('_').count() > 2 && name.chars().all(|c| c.is_alphanumeric() || c == '_'))
        .collect();
    assert!(names.len() > 50, "{names:?}");
    let unknown: Vec<_> = names
        .iter()
        .filter(|name| !sources.contains(&format!("fn {name}(")))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// Anchors of the headings of a page, as GitHub derives them.
fn anchors(page: &str) -> BTreeSet<String> {
    let outside_of_code = page.split("```").step_by(2);
    let headings = outside_of_code
        .flat_map(str::lines)
        .filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

#[test]
fn relative_links_lead_to_existing_files_and_headings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "charts/eventexport/README.md",
    ]
    .map(|name| root.join(name))
    .to_vec();
    for folder in ["docs", "docs/adr", "docs/reference"] {
        let entries = fs::read_dir(root.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|ext| ext == "md")));
    }
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => file.clone(),
                path => file.parent().unwrap().join(path),
            };
            let page = file.display();
            assert!(target.exists(), "{page} links to {link}, which does not exist");
            if !anchor.is_empty() {
                let found = anchors(&fs::read_to_string(&target).unwrap());
                assert!(
                    found.contains(anchor),
                    "{page} links to {link}; the page has no such heading"
                );
            }
        }
    }
}
