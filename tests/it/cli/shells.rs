//! Completions, manual pages and kubectl plugin, generated from the command definitions.

use std::os::unix::fs::symlink;

use tokio::process::Command;

use super::fixture::{CliFixture, wait_output};

#[tokio::test]
async fn every_shell_and_every_manual_page_comes_from_the_same_definitions() {
    let fixture = CliFixture::start(&[]).await;
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = fixture.run_without_env(&["completions", shell]).await;
        assert_eq!(script.code, Some(0));
        assert!(script.out.contains("all-mine-older-than"), "{shell}");
    }
    // The local shell can parse its script.
    let script = fixture.run_without_env(&["completions", "bash"]).await.out;
    let path = fixture.write("completions.bash", &script, 0o600);
    let mut bash = Command::new("bash");
    bash.arg("-n").arg(&path);
    fixture.isolate(&mut bash);
    assert_eq!(wait_output(bash).await.code, Some(0));

    let pages = fixture.run_without_env(&["man", "--dir", "man"]).await;
    assert_eq!(pages.code, Some(0), "{pages:?}");
    for page in [
        "eventexport",
        "eventexport-session-delete",
        "eventexport-context-set",
        "eventexport-man",
    ] {
        let text = std::fs::read_to_string(fixture.path(&format!("man/{page}.1"))).unwrap();
        assert!(text.starts_with(".ie") || text.contains(".TH"), "{page}");
    }
    let one = fixture.run_without_env(&["man", "session", "create"]).await;
    assert!(one.out.contains("eventexport session create"), "{one:?}");
    fixture
        .run_without_env(&["man", "sesion"])
        .await
        .expect_failure(2, &["unknown command sesion"]);
}

#[tokio::test]
async fn the_program_works_as_a_kubectl_plugin() {
    let fixture = CliFixture::start(&[]).await;
    let program = env!("CARGO_BIN_EXE_eventexport");
    for name in ["kubectl-eventexport", "kubectl_complete-eventexport"] {
        symlink(program, fixture.path(name)).unwrap();
    }
    let mut help = Command::new(fixture.path("kubectl-eventexport"));
    help.args(["session", "create", "--help"]);
    fixture.isolate(&mut help);
    let help = wait_output(help).await;
    assert!(
        help.out.contains("Usage: kubectl eventexport session create"),
        "{help:?}"
    );
    assert!(
        help.out.contains("    kubectl eventexport session create"),
        "{help:?}"
    );

    let kubectl = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".bed/bin/kubectl");
    let mut through = Command::new(&kubectl);
    through.args(["eventexport", "session", "list"]);
    fixture.isolate(&mut through);
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", fixture.path("").display());
    through
        .env("PATH", &path)
        .env("EVENTEXPORT_SPACE", "c1")
        .env("EVENTEXPORT_ENDPOINT", &fixture.url)
        .env("EVENTEXPORT_API_KEY", super::fixture::KEY);
    let listed = wait_output(through).await;
    assert_eq!(listed.code, Some(0), "{listed:?}");
    assert!(listed.out.contains("| Id "), "{listed:?}");

    // Same call as kubectl's completion script makes.
    let mut complete = Command::new(&kubectl);
    complete.args(["__complete", "eventexport", "session", "de"]);
    fixture.isolate(&mut complete);
    complete.env("PATH", &path);
    let candidates = wait_output(complete).await;
    assert!(candidates.out.starts_with("delete"), "{candidates:?}");
    assert!(candidates.out.contains(":4"), "{candidates:?}");
}

#[tokio::test]
async fn every_command_has_usage_and_examples() {
    use clap::CommandFactory as _;

    fn walk(command: &clap::Command, path: &str, without: &mut Vec<String>) {
        for inner in command
            .get_subcommands()
            .filter(|inner| inner.get_name() != "help")
        {
            let path = format!("{path} {}", inner.get_name());
            let examples = inner
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            if !examples.contains("Examples:") || !examples.contains(&format!("eventexport{path}")) {
                without.push(path.clone());
            }
            walk(inner, &path, without);
        }
    }
    let mut without = Vec::new();
    walk(&eventexport::cli::Cli::command(), "", &mut without);
    assert_eq!(without, Vec::<String>::new());
}
