//! Real peers of the integration tests: a Kubernetes control plane and an S3 gateway as processes on 127.0.0.1. `make
//! -C tests/bed` builds the programs.
//!
//! Nothing outlives the test process, however that ends (see [`watchdog`]). `BED_KEEP=1` keeps the folders with data
//! and logs and prints their paths.

// A test without its peer panics with the reason.
#![allow(clippy::expect_used)]

mod certificates;
mod cluster;
mod control_plane;
mod elasticsearch;
mod flux;
mod gateway;
mod node;
mod prometheus;
mod selftest;
pub(crate) mod signature;
mod watchdog;

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

pub(crate) use self::{
    cluster::{Cluster, KubectlOutput},
    elasticsearch::Elasticsearch,
    flux::Flux,
    gateway::Gateway,
    node::Node,
    prometheus::{Prometheus, promtool},
};

/// Returns the path of a program of the test bed, or an error that says how to build it.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(".bed/bin")
        .join(name);
    ensure!(
        path.is_file(),
        "the test bed's {name} is missing: run `make bed` first, or the bed-* target that builds it ({} does not exist)",
        path.display()
    );
    Ok(path)
}

/// Variable that names the Go module of the control plane: a folder of `tests/bed`, for example `kubernetes-oldest`.
const KUBERNETES: &str = "EVENTEXPORT_BED_KUBERNETES";

/// Returns the module of [`KUBERNETES`]; `None`: the usual one, whose messages the documentation quotes.
pub(crate) fn other_kubernetes() -> Option<String> {
    std::env::var(KUBERNETES).ok().filter(|name| !name.is_empty())
}

/// Returns the path of kube-apiserver or kube-controller-manager, of the module that [`KUBERNETES`] names.
fn kubernetes_program(name: &str) -> Result<PathBuf> {
    match other_kubernetes() {
        None => program(name),
        Some(module) => program(&format!("../{module}/{name}")).with_context(|| KUBERNETES),
    }
}

/// Returns `N` different free ports of 127.0.0.1. Another process may take one before its server does, so callers
/// retry on [`PORT_TAKEN`].
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

/// Error text of Go servers if a port is taken.
const PORT_TAKEN: &str = "address already in use";

/// Returns an HTTP client for one test. A connection pool belongs to the runtime that created it, and each test has
/// its own. It loads no root certificates because all peers use plain HTTP.
pub(crate) fn http_client() -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .context("cannot make an HTTP client")
}
