//! Serves an S3 store with the peculiarities of real stores on 127.0.0.1, in memory, until Ctrl-C.
//!
//! `cargo run --example quirky-s3 -- --quirk list-lag=30s --quirk no-date`

#![allow(clippy::indexing_slicing)] // a fake may end at a request that it does not know

#[path = "../tests/testkit/quirky_s3.rs"]
mod quirky_s3;

use std::time::Duration;

use clap::Parser;

use quirky_s3::{QUIRKS, Quirk, QuirkyS3};

/// Serve an S3 store with the peculiarities of real stores on 127.0.0.1, in memory
///
/// Any bucket exists, and neither signatures nor permissions are checked. Address it with path-style requests. Each
/// request is printed with the status of its reply.
#[derive(Parser)]
#[command(after_help = quirks_help())]
struct Args {
    /// Peculiarity to imitate, see below (may be repeated)
    #[arg(long = "quirk", value_name = "NAME[=VALUE]")]
    quirks: Vec<Quirk>,
    /// Port; 0: any
    #[arg(long, default_value_t = 9444)]
    port: u16,
}

fn quirks_help() -> String {
    let rows = QUIRKS
        .iter()
        .map(|(name, effect)| format!("  {name}\n      {effect}\n"));
    format!("Quirks:\n{}", rows.collect::<String>())
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let store = QuirkyS3::start(args.port, args.quirks).await?;
    println!("serving {} (Ctrl-C ends it)", store.endpoint());
    loop {
        tokio::select! {
            ended = tokio::signal::ctrl_c() => return ended,
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        for request in store.requests() {
            println!("{request}");
        }
    }
}
