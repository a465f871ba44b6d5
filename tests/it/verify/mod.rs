//! The archive of a real export with every relevant damage: `verify` reports the damage, and nothing else.

mod bucket;
mod cat;
pub(crate) mod damage;
mod duckdb;
pub(crate) mod fixture;
mod hostile;
mod inspect;
mod partial;
mod recheck;
