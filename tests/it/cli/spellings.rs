//! One name for each flag in all commands, and the earlier spellings, which still work.

use std::fs;

use clap::{Arg, Command, CommandFactory as _};
use eventexport::cli::Cli;

use super::fixture::{CliFixture, write};

/// Earlier spellings of flags.
const EARLIER: [&str; 5] = ["to", "from", "since", "until", "at-account-level"];

#[tokio::test]
async fn a_flag_has_one_name_in_all_commands() {
    fn walk(command: &Command, path: &str, wrong: &mut Vec<String>) {
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let long = arg.get_long().unwrap_or_default();
            // `-o` of `download` is the file, as of the program that it replaces.
            let expected = match (long, path) {
                ("start", _) => Some('s'),
                ("end", _) => Some('e'),
                ("output", " download") => None,
                ("file", " download") | ("output", _) => Some('o'),
                _ => arg.get_short().filter(|short| !['s', 'e', 'o'].contains(short)),
            };
            let spoken = Arg::get_value_names(arg).unwrap_or_default();
            let date = spoken
                .iter()
                .any(|name| name.as_str() == "DATE" || name.as_str() == "DAY");
            let days = ["start", "end", "today", "unsigned-since"].contains(&long);
            if arg.get_short() != expected || EARLIER.contains(&long) || date != days {
                wrong.push(format!("{path} --{long}"));
            }
        }
        for inner in command.get_subcommands() {
            walk(inner, &format!("{path} {}", inner.get_name()), wrong);
        }
    }
    let mut wrong = Vec::new();
    walk(&Cli::command(), "", &mut wrong);
    assert_eq!(wrong, Vec::<String>::new());
}

#[tokio::test]
async fn earlier_spellings_do_the_same() {
    let fixture = CliFixture::start(&["--today", "2018-07-02"]).await;
    let text = format!(
        "apiVersion: eventexport.io/v1alpha1\nkind: EventExport\nmetadata: {{name: audit}}\nspec:\n  \
         space: c1\n  dateRange: {{start: 2018-06-27, end: 2018-06-28}}\n  \
         source: {{endpoint: '{}', credentialsSecretRef: {{name: tracker}}}}\n  \
         destination: {{s3: {{bucket: audit}}}}\n",
        fixture.url
    );
    let file = fixture.write("audit.yaml", &text, 0o644);
    let file = file.to_str().unwrap();
    for (flag, folder) in [("--to", "one"), ("--archive", "two")] {
        let run = fixture.run(&["run", "-f", file, flag, folder, "-q"]).await;
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(fixture.path(&format!("{folder}/space=c1/scope=space")).is_dir());
    }
    let (first, last) = ("2018-06-27", "2018-06-28");
    for (earlier, spellings) in [
        (
            &["plan", "-f", file, "--to", "one", "--output", "json"][..],
            &[&["plan", "-f", file, "--archive", "one", "-o", "json"][..]][..],
        ),
        (
            &["inspect", "--to", "one"],
            &[&["inspect", "--archive", "one"], &["inspect", "one"]],
        ),
        (
            &["verify", "--to", "one", "--since", first, "--until", last, "-q"],
            &[
                &["verify", "one", "-s", first, "-e", last, "-q"],
                &[
                    "verify",
                    "--archive",
                    "one",
                    "--start",
                    first,
                    "--end",
                    last,
                    "-q",
                ],
            ],
        ),
        (
            &["status", "--from", first, "--to", last, "--to", "one"],
            &[
                &["status", "-s", first, "-e", last, "--archive", "one"],
                &["status", "--start", first, "--end", last, "--archive", "one"],
            ],
        ),
        (
            &["session", "list", "--at-account-level", "--output", "json"],
            &[&["session", "list", "--account", "-o", "json"]],
        ),
    ] {
        let by_earlier = fixture.run(earlier).await;
        assert_eq!(by_earlier.code, Some(0), "{by_earlier:?}");
        for spelling in spellings {
            let output = fixture.run(spelling).await;
            assert_eq!(
                (output.code, &output.out),
                (Some(0), &by_earlier.out),
                "{spelling:?}: {output:?}"
            );
        }
    }
    for (arguments, named) in [
        (&["status", "--from", "2018-06-31"][..], "--start <DATE>"),
        (&["status", "--end", last, "--to", first], "--end: is given twice"),
        (
            &["status", "--archive", "one", "--to", "two"],
            "--archive: is given twice",
        ),
        (
            &["status", "--from", last, "--to", first],
            "--end: 2018-06-27 is before --start 2018-06-28",
        ),
        (
            &["verify", "one", "--to", "two"],
            "--archive <DIR|s3://BUCKET/PREFIX>",
        ),
        (
            &["run", "-f", file, "--simulate"],
            "--archive <DIR|s3://BUCKET/PREFIX>",
        ),
    ] {
        fixture.run(arguments).await.expect_failure(2, &[named]);
    }
}

#[tokio::test]
async fn the_earlier_name_of_a_context_field_is_read_and_replaced() {
    let fixture = CliFixture::start(&[]).await;
    let earlier = "[contexts.c]\nto = \"one\"\n";
    write(&fixture.config(), earlier, 0o600);
    let shown = fixture.run(&["context", "show", "c", "-o", "json"]).await;
    assert_eq!(shown.json()["archive"], "one");
    for set in [
        &["--space", "c1"][..],
        &["--to", "s3://b/p"],
        &["--archive", "s3://b/p"],
    ] {
        write(&fixture.config(), earlier, 0o600);
        let changed = fixture.run(&[&["context", "set", "c"], set].concat()).await;
        assert_eq!(changed.code, Some(0), "{changed:?}");
        let text = fs::read_to_string(fixture.config()).unwrap();
        let named = if set[0] == "--space" {
            "to = \"one\""
        } else {
            "archive = \"s3://b/p\""
        };
        assert!(text.contains(named) && text.matches(" = ").count() <= 2, "{text}");
    }
    for name in ["to", "archive"] {
        write(&fixture.config(), earlier, 0o600);
        let unset = fixture.run(&["context", "set", "c", "--unset", name]).await;
        assert_eq!(unset.code, Some(0), "{unset:?}");
        let text = fs::read_to_string(fixture.config()).unwrap();
        assert!(!text.contains("one"), "{text}");
    }
}
