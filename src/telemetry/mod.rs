//! Logs, traces, metrics and health endpoints of a process.

pub mod health;
mod json;
pub mod logs;
pub mod metrics;
pub mod traces;

pub use health::{Health, Telemetry};
pub use logs::LogFormat;
pub use metrics::Metrics;
pub use traces::Traces;
