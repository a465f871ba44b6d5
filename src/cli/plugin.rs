//! Names of the program: `eventexport`, the kubectl plugin `kubectl-eventexport`, and `kubectl_complete-eventexport`,
//! which kubectl runs to complete plugin commands. Reads the arguments of the process.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

use clap::{CommandFactory as _, FromArgMatches as _};

use super::Cli;
use super::exit::Exit;
use super::hints::add_hint;
use super::output::{write_stderr, write_stdout};

/// Name of the program.
pub const NAME: &str = "eventexport";

/// File name of the kubectl plugin, and the command that users type.
const PLUGIN: (&str, &str) = ("kubectl-eventexport", "kubectl eventexport");

/// File name of the program that kubectl runs for completions (KEP-2379).
const COMPLETER: &str = "kubectl_complete-eventexport";

/// Directive after the candidates: no file completion (cobra's `ShellCompDirectiveNoFileComp`).
const DIRECTIVE_NO_FILE_COMP: &str = ":4";
/// Directive after the candidates: file completion (cobra's `ShellCompDirectiveDefault`).
const DIRECTIVE_DEFAULT: &str = ":0";

/// Parses the arguments; exits the process if they are invalid or request help.
pub fn parse_args() -> Cli {
    let typed: Vec<OsString> = std::env::args_os().collect();
    let name = typed.first().map(Path::new).and_then(Path::file_stem);
    let name = name
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    if name == COMPLETER {
        let words: Vec<String> = typed
            .iter()
            .skip(1)
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let found = candidates(&command(true), &words).join("\n");
        let exit = match write_stdout(&format!("{found}\n")) {
            Ok(()) => Exit::Done,
            Err(error) => error.exit(),
        };
        std::process::exit(exit.code().into());
    }
    let mut definition = command(name == PLUGIN.0);
    let first = typed.get(1).map(|word| word.to_string_lossy().into_owned());
    let matches = definition
        .try_get_matches_from_mut(typed)
        .unwrap_or_else(|mut error| {
            add_hint(&mut error, first.as_deref().unwrap_or_default());
            exit_with(&error)
        });
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| exit_with(&error.format(&mut definition)))
}

/// Prints a usage error, or help or version as a result, and exits.
fn exit_with(error: &clap::Error) -> ! {
    let code = match error.print() {
        Err(cause) if !error.use_stderr() && cause.kind() != ErrorKind::BrokenPipe => {
            write_stderr(&format!(
                "eventexport: cannot write the result to standard output: {cause}"
            ));
            Exit::Failed.code().into()
        }
        _ => error.exit_code(),
    };
    std::process::exit(code)
}

/// Returns the command definitions; as a plugin, usage and examples begin with `kubectl eventexport`.
pub fn command(as_plugin: bool) -> clap::Command {
    let command = hide_env_values(Cli::command());
    if as_plugin {
        with_plugin_name(command.bin_name(PLUGIN.1))
    } else {
        command.bin_name(NAME)
    }
}

/// Hides the values of environment variables in help, because they may be private.
fn hide_env_values(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| arg.hide_env_values(true))
        .mut_subcommands(hide_env_values)
}

fn with_plugin_name(command: clap::Command) -> clap::Command {
    let examples = command.get_after_help().map(|help| {
        let text = help.to_string();
        text.replace("eventexport ", &format!("{} ", PLUGIN.1))
    });
    let command = match examples {
        Some(examples) => command.after_help(examples),
        None => command,
    };
    command.mut_subcommands(with_plugin_name)
}

/// Returns the completions of the last word, and the directive for files. `words` excludes the program name.
fn candidates(definition: &clap::Command, words: &[String]) -> Vec<String> {
    let mut command = definition.clone();
    command.build();
    let (last, before) = match words {
        [before @ .., last] => (last.as_str(), before),
        [] => ("", &[][..]),
    };
    let mut previous: Option<&str> = None;
    for word in before {
        match command.find_subcommand(word) {
            Some(inner) if !word.starts_with('-') => {
                command = inner.clone();
                previous = None;
            }
            _ => previous = Some(word),
        }
    }
    let flag_arg = previous.and_then(|flag| {
        command
            .get_arguments()
            .find(|arg| flag_names(arg).iter().any(|name| name == flag))
            .filter(|arg| arg.get_action().takes_values() && !arg.is_require_equals_set())
            .cloned()
    });
    let mut found: Vec<String> = Vec::new();
    let mut files = false;
    if let Some(arg) = flag_arg {
        found.extend(possible_values(&arg));
        files = found.is_empty();
    } else if last.starts_with('-') {
        let arguments = command.get_arguments().filter(|arg| !arg.is_hide_set());
        found.extend(arguments.flat_map(|arg| {
            let about = arg.get_help().map(ToString::to_string).unwrap_or_default();
            flag_names(arg)
                .into_iter()
                .filter(|name| name.starts_with("--"))
                .map(move |name| candidate_line(&name, &about))
        }));
    } else {
        let inner = command.get_subcommands().filter(|inner| !inner.is_hide_set());
        found.extend(inner.map(|inner| {
            let about = inner.get_about().map(ToString::to_string).unwrap_or_default();
            candidate_line(inner.get_name(), &about)
        }));
        for positional in command.get_positionals() {
            found.extend(possible_values(positional));
        }
    }
    found.retain(|candidate| candidate.starts_with(last));
    found.push(
        if files {
            DIRECTIVE_DEFAULT
        } else {
            DIRECTIVE_NO_FILE_COMP
        }
        .to_owned(),
    );
    found
}

fn flag_names(arg: &clap::Arg) -> Vec<String> {
    let long = arg.get_long().map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    long.into_iter().chain(short).collect()
}

fn possible_values(arg: &clap::Arg) -> Vec<String> {
    let values = arg.get_possible_values();
    values.iter().map(|value| value.get_name().to_owned()).collect()
}

/// Returns a candidate with the first line of its help, in the format of cobra.
fn candidate_line(name: &str, about: &str) -> String {
    match about.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => format!("{name}\t{line}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_definitions_are_valid() {
        command(false).debug_assert();
        command(true).debug_assert();
    }

    #[test]
    fn plugin_help_shows_kubectl_usage() {
        let mut command = command(true);
        command.build();
        let list = command
            .find_subcommand_mut("session")
            .and_then(|session| session.find_subcommand_mut("list"))
            .unwrap();
        let help = list.render_long_help().to_string();
        assert!(help.contains("Usage: kubectl eventexport session list"), "{help}");
        assert!(help.contains("  kubectl eventexport session list"), "{help}");
        assert!(!help.contains("  eventexport"), "{help}");
    }

    #[test]
    fn completion_offers_commands_flags_and_values() {
        let complete = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(ToString::to_string).collect();
            candidates(&command(true), &words)
        };
        let names = |words: &[&str]| -> Vec<String> {
            let found = complete(words);
            let name = |line: &String| line.split('\t').next().map(str::to_owned);
            found.iter().filter_map(name).collect()
        };
        assert_eq!(names(&["ses"]), ["session", ":4"]);
        assert_eq!(names(&["session", "cr"]), ["create", ":4"]);
        assert_eq!(names(&["session", "create", "--ho"]), ["--hour", ":4"]);
        assert_eq!(names(&["status", "--output", ""]), ["text", "wide", "json", ":4"]);
        assert_eq!(names(&["run", "-f", ""]), [":0"]);
        assert_eq!(names(&["completions", "z"]), ["zsh", ":4"]);
    }
}
