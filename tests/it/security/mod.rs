//! The threats of docs/security.md that need a whole operator, each tried by whoever it names: a tenant, a spiteful
//! service or store, a writer of the bucket.

mod forged;
mod secret_leaks;
mod tenants;
