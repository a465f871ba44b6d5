//! Servers and clients for the measurements of `bench/bytes`, which starts them.
//!
//! ```text
//! bench-rig certificates FOLDER                       ca.pem, server.pem and server.key for 127.0.0.1
//! bench-rig source PORT TLS_PORT FOLDER               a tracker: days of any size, from memory
//! bench-rig drain PORT TLS_PORT FOLDER                a bucket: stores small objects, discards large ones
//! bench-rig relay FROM TO CA BYTES OBJECTS AT_ONCE    copies bytes without checks
//! ```

mod certificates;
mod corpus;
mod drain;
mod http;
mod relay;
mod source;

use std::error::Error;

/// Result with any error, which ends the run.
pub type BenchResult<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> BenchResult {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["certificates", folder] => certificates::make(folder),
        ["source", plain, tls, folder] => source::serve(plain.parse()?, tls.parse()?, folder),
        ["drain", plain, tls, folder] => drain::serve(plain.parse()?, tls.parse()?, folder),
        ["relay", from, to, ca, bytes, objects, at_once] => {
            relay::run(from, to, ca, bytes.parse()?, objects.parse()?, at_once.parse()?)
        }
        _ => Err("invalid arguments: see the first lines of bench/rig/src/main.rs".into()),
    }
}
