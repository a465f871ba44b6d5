//! Entry point: parses the arguments and runs the subcommand.

use std::process::ExitCode;

use eventexport::cli::{
    self, Command, cat, cluster, context, ddl, download, health, inspect, plan, plugin, report, run, session,
    shell, status, verify,
};

#[cfg(all(target_os = "linux", feature = "jemalloc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match plugin::parse_args().command {
        Command::Operator(args) => cli::block_on(cli::operate(args)),
        Command::Run(args) => cli::block_on(run::run(args)),
        Command::Plan(args) => cli::block_on(plan::run(args)),
        Command::Verify(args) => cli::block_on(verify::run(args)),
        Command::Cat(args) => cli::block_on(cat::run(args)),
        Command::Ddl(args) => cli::exit_code(ddl::run(&args)),
        Command::Inspect(args) => cli::block_on(inspect::run(args)),
        Command::Report(args) => cli::block_on(report::run(args)),
        Command::Status(args) => cli::block_on(status::run(*args)),
        Command::Session(args) => cli::block_on(session::run(args)),
        Command::Download(args) => cli::block_on(download::run(args)),
        Command::Context(args) => cli::exit_code(context::run(args)),
        Command::Crd => cli::print_crd(),
        Command::Health(args) => cli::block_on(async move { health::run(&args).await }),
        Command::Cluster(command) => cli::block_on(cluster::run(command)),
        Command::Simulate(args) => cli::block_on(cli::simulate(args)),
        Command::Completions(args) => cli::exit_code(shell::completions(&args)),
        Command::Version => cli::print_version(),
        Command::Man(args) => cli::exit_code(shell::man(&args)),
    }
}
