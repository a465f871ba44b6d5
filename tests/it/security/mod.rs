//! Threats of docs/security.md that need a complete operator, each attempted by its attacker: a tenant, a malicious
//! service or store, a writer to the bucket.

mod forged;
mod secret_leaks;
mod tenants;
