//! The command line as typed.

use std::process::ExitCode;

use clap::Parser as _;
use eventexport::cli::{self, Arguments, Command, download, plan, run};

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Operator(args) => cli::to_the_end(cli::operate(args)),
        Command::Run(args) => cli::to_the_end(run::run(args)),
        Command::Plan(args) => cli::to_the_end(plan::run(args)),
        Command::Crd => cli::print_crd(),
        Command::Download(args) => cli::to_the_end(download::run(args)),
        Command::Simulate(args) => cli::to_the_end(cli::simulate(args)),
    }
}
