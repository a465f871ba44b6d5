//! Kills and restarts the operator process, and compares the ways to run an export.

mod conditional_writes;
pub(crate) mod crash_points;
pub(crate) mod equivalence;
mod full_space;
mod repeated_kills;

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::Settings;
use jiff::civil::Date;

use crate::testkit::environment::{Environment, no_session_left};
use crate::testkit::manifest::Manifest;
use crate::testkit::process::Process;

/// Prefix of all keys.
const ROOT: &str = "tracker/space=c1234567-6d55-4193-a9de-378620d6fab5/scope=space/";

async fn environment(name: &str, settings: Settings) -> Result<Environment> {
    Environment::builder(name)
        .service(settings)
        .versioned()
        .start()
        .await
}

/// Returns the export `june` of these days with its Secrets.
fn june(environment: &Environment, start: &str, end: &str, parallelism: u8) -> Manifest {
    environment
        .export("june")
        .days(start, end)
        .set("parallelism", parallelism)
        .secrets(environment.gateway)
}

/// Starts an operator whose lease times are short, so that a killed process is replaced soon.
fn operator(environment: &Environment) -> Result<Arc<Process>> {
    let operator = environment.operator().lease(["4s", "3s", "1s"]);
    operator.spawn(&environment.log_path())
}

/// Checks an archive of these days with one manifest, and that no session, secret or temporary entry is left.
async fn check_archive(environment: &Environment, days: &[Date]) -> Result<()> {
    let archive = environment
        .bucket
        .check_archive(&environment.simulator, "tracker", days);
    let manifests = archive.await.with_context(|| environment.log())?;
    ensure!(
        manifests.iter().eq([&format!("{ROOT}_manifests/00000001.json")]),
        "{manifests:?}"
    );
    environment.no_secret_logged()?;
    no_session_left(&environment.simulator)
}
