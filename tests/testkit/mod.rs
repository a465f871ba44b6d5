//! The one harness of the integration tests: [`environment`] builds what a test needs, [`manifest`] writes exports,
//! [`operator`] and [`process`] and [`command`] run the program, and [`proxy`] stands before its peers with faults. CONTRIBUTING.md
//! shows a test.

pub(crate) mod bucket;
pub(crate) mod command;
pub(crate) mod engine;
pub(crate) mod environment;
pub(crate) mod folder;
pub(crate) mod manifest;
pub(crate) mod openssl;
pub(crate) mod operator;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod quirky_s3;
pub(crate) mod service;
pub(crate) mod sts;

/// Names for tests.
pub(crate) mod prelude {
    pub(crate) use std::time::Duration;

    pub(crate) use anyhow::Result;

    pub(crate) use super::environment::Environment;
    pub(crate) use super::proxy::{Action, ProxiedPeer, RequestMatcher, Rule, wait_injected};
}
