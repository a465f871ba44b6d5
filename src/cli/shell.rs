//! `eventexport completions` and `eventexport man`: scripts and pages from the definitions of the commands themselves.
//! Writes to standard output, or into a folder.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap_complete::Shell;
use clap_mangen::Man;

use super::exit::{CliError, Exit};
use super::plugin;
use crate::export::record::SOFTWARE;

/// Print the completions of a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}

/// Print the manual page of a command, or write those of all commands into a folder.
#[derive(Debug, clap::Args)]
#[command(after_help = MAN_EXAMPLES)]
pub struct ManArgs {
    /// The command, as `session create` (default: eventexport itself)
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    pub command: Vec<String>,
    /// Write one page for each command into this folder, which is made where it is not there
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  bash, for this user:
    eventexport completions bash > ~/.local/share/bash-completion/completions/eventexport
  zsh, in a folder of $fpath:
    eventexport completions zsh > ~/.zfunc/_eventexport
  fish:
    eventexport completions fish > ~/.config/fish/completions/eventexport.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  Read one:
    eventexport man session create | man -l -
  Install all of them for this user:
    eventexport man --dir ~/.local/share/man/man1";

/// Prints completions.
pub fn completions(args: &CompletionsArgs) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut plugin::command(false), plugin::NAME, &mut script);
    ignore_broken_pipe(io::stdout().lock().write_all(&script))
}

/// Prints or writes manual pages.
pub fn man(args: &ManArgs) -> Result<Exit, CliError> {
    if let Some(dir) = &args.dir {
        let mut command = plugin::command(false).disable_help_subcommand(true);
        command.build();
        let made = std::fs::create_dir_all(dir).and_then(|()| write_pages(&command, dir));
        made.map_err(|error| anyhow::anyhow!("--dir: {} cannot be written: {error}", dir.display()))?;
        return Ok(Exit::Done);
    }
    let mut command = plugin::command(false).disable_help_subcommand(true);
    command.build();
    for name in &args.command {
        let found = command.find_subcommand(name).cloned();
        command = found.ok_or_else(|| {
            CliError::usage(format!(
                "COMMAND: there is no {} (in `{}`)",
                name,
                args.command.join(" ")
            ))
        })?;
    }
    let mut page = Vec::new();
    man_page(&command)
        .render(&mut page)
        .map_err(anyhow::Error::from)?;
    ignore_broken_pipe(io::stdout().lock().write_all(&page))
}

/// The page of a command, and those of the commands in it.
fn write_pages(command: &clap::Command, dir: &Path) -> io::Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        write_pages(inner, dir)?;
    }
    man_page(command).generate_to(dir).map(drop)
}

fn man_page(command: &clap::Command) -> Man {
    Man::new(command.clone())
        .manual("eventexport")
        .source(SOFTWARE.replace('/', " "))
}

/// Whoever stopped reading, as `head` does, has what it wanted.
fn ignore_broken_pipe(result: io::Result<()>) -> Result<Exit, CliError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Failed(error.into())),
        _ => Ok(Exit::Done),
    }
}
