//! An archive that a real export made, damaged in every way that matters: `verify` names what was done, and accuses
//! nothing else.

mod bucket;
mod damage;
mod duckdb;
mod fixture;
mod inspect;
