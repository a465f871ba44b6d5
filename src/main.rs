//! The command line as typed.

use std::process::ExitCode;

use clap::Parser as _;
use eventexport::cli::{self, Arguments, Command, inspect, plan, run, verify};

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Operator(args) => cli::to_the_end(cli::operate(args)),
        Command::Run(args) => cli::to_the_end(run::run(args)),
        Command::Plan(args) => cli::to_the_end(plan::run(args)),
        Command::Crd => cli::print_crd(),
        Command::Inspect(args) => cli::to_the_end(inspect::run(args)),
        Command::Simulate(args) => cli::to_the_end(cli::simulate(args)),
        Command::Verify(args) => cli::to_the_end(verify::run(args)),
    }
}
