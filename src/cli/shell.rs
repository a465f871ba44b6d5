//! `eventexport completions` and `eventexport man`: shell scripts and manual pages, generated from the command
//! definitions. Writes to standard output or to a folder.

use std::io;
use std::path::{Path, PathBuf};

use clap_complete::Shell;
use clap_mangen::Man;

use super::exit::{CliError, Exit};
use super::output::write_stdout;
use super::plugin;
use crate::archive::records::SOFTWARE;

/// Print the completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub struct CompletionsArgs {
    /// Shell to print completions for
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}

/// Print the manual page of a command, or write the pages of all commands to a folder.
#[derive(Debug, clap::Args)]
#[command(after_help = MAN_EXAMPLES)]
pub struct ManArgs {
    /// Command, for example `session create` (default: eventexport itself)
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    pub command: Vec<String>,
    /// Write a page for each command to this folder; the folder is created if it does not exist
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
  Read one page:
    eventexport man session create | man -l -
  Install all pages for this user:
    eventexport man --dir ~/.local/share/man/man1";

/// Runs `eventexport completions`.
pub fn completions(args: &CompletionsArgs) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut plugin::command(false), plugin::NAME, &mut script);
    print(&script)
}

/// Runs `eventexport man`.
pub fn man(args: &ManArgs) -> Result<Exit, CliError> {
    if let Some(dir) = &args.dir {
        let mut command = plugin::command(false).disable_help_subcommand(true);
        command.build();
        std::fs::create_dir_all(dir)
            .and_then(|()| write_pages(&command, dir))
            .map_err(|error| anyhow::anyhow!("--dir: cannot write {}: {error}", dir.display()))?;
        return Ok(Exit::Done);
    }
    let mut command = plugin::command(false).disable_help_subcommand(true);
    command.build();
    for name in &args.command {
        let found = command.find_subcommand(name).cloned();
        command = found.ok_or_else(|| {
            CliError::usage(format!(
                "COMMAND: unknown command {} (in `{}`)",
                name,
                args.command.join(" ")
            ))
        })?;
    }
    let mut page = Vec::new();
    man_page(&command)
        .render(&mut page)
        .map_err(anyhow::Error::from)?;
    print(&page)
}

/// Writes the page of a command and the pages of its subcommands.
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

/// Prints generated text.
fn print(text: &[u8]) -> Result<Exit, CliError> {
    write_stdout(&String::from_utf8_lossy(text))?;
    Ok(Exit::Done)
}
