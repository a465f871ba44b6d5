//! The command line as typed.

use std::process::ExitCode;

use eventexport::cli::{
    self, Command, context, download, inspect, plan, plugin, run, session, shell, status, verify,
};

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match plugin::arguments().command {
        Command::Operator(args) => cli::to_the_end(cli::operate(args)),
        Command::Run(args) => cli::to_the_end(run::run(args)),
        Command::Plan(args) => cli::to_the_end(plan::run(args)),
        Command::Verify(args) => cli::to_the_end(verify::run(args)),
        Command::Inspect(args) => cli::to_the_end(inspect::run(args)),
        Command::Status(args) => cli::to_the_end(status::run(*args)),
        Command::Session(args) => cli::to_the_end(session::run(args)),
        Command::Download(args) => cli::to_the_end(download::run(args)),
        Command::Context(args) => cli::ended(context::run(args)),
        Command::Crd => cli::print_crd(),
        Command::Simulate(args) => cli::to_the_end(cli::simulate(args)),
        Command::Completions(args) => cli::ended(shell::completions(&args)),
        Command::Man(args) => cli::ended(shell::man(&args)),
    }
}
