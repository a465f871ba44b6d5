//! The real peers of the integration tests: a Kubernetes control plane and an S3 gateway, run as
//! processes on 127.0.0.1. `make -C tests/bed` builds their programs.
//!
//! Nothing here outlives the test process, however that ends (see [`watchdog`]). With `BED_KEEP=1`
//! in the environment the folders with data and logs stay, and their paths are printed.

// A test bed may offer more than today's tests use, and a test that cannot get its peer has
// nothing better to do than to stop with the reason.
#![allow(dead_code, clippy::expect_used)]

mod certificates;
mod cluster;
mod control_plane;
mod elasticsearch;
mod flux;
mod gateway;
mod latency_proxy;
mod node;
mod prometheus;
mod selftest;
mod signature;
mod strip_header;
mod watchdog;
mod wiretap;

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

#[allow(unused_imports)]
pub(crate) use self::{
    cluster::{Cluster, KubectlOutput},
    elasticsearch::Elasticsearch,
    flux::Flux,
    gateway::Gateway,
    latency_proxy::LatencyProxy,
    node::Node,
    prometheus::{Prometheus, promtool},
    strip_header::StripHeader,
    wiretap::{TappedRequest, Wiretap},
};

/// The built program of that name, or an error that says how to build it.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(".bed/bin")
        .join(name);
    ensure!(
        path.is_file(),
        "the test bed's {name} is missing: run `make bed bed-charts` first ({} does not exist)",
        path.display()
    );
    Ok(path)
}

/// `N` different ports of 127.0.0.1 that nobody listened on a moment ago. All are held until all
/// are known; another process may still take one before its server does, so who starts a server
/// tries again on [`PORT_TAKEN`].
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// How Go's servers word a lost race for a port.
const PORT_TAKEN: &str = "address already in use";

/// An HTTP client for one use. Not shared: a connection pool belongs to the runtime that made it,
/// and each test has its own. It loads no root certificates, as all it speaks to is plain HTTP.
pub(crate) fn http_client() -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .context("cannot make an HTTP client")
}
