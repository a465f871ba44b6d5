//! Logs, metrics and health endpoints: what a process tells about itself.

pub mod health;
pub mod logs;
pub mod metrics;

pub use health::{Health, Observatory};
pub use logs::LogFormat;
pub use metrics::Metrics;
