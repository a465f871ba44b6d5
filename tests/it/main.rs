//! The integration tests: each promise against real parts (API server, controllers, S3, the simulator).

mod api;
mod bed;
mod cli;
mod docs;
mod export;
mod kill;
mod operator;
mod storage;
