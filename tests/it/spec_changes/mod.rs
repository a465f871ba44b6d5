//! Spec changes by lifecycle phase: each field of the spec changed, and other events, at each phase, with the real
//! operator, API server and store and a simulated service.
//!
//! [`cases`] lists the changes, [`phases`] the phases; [`runner`] runs one combination; [`sweep`] runs many
//! concurrently and writes docs/reference/spec-changes.md; [`invariants`] checks all of them. [`namespace`], [`writers`] and
//! [`clock`] are cases with their own fixtures.

mod cases;
mod clock;
mod fixture;
mod invariants;
mod namespace;
mod phases;
mod runner;
mod sweep;
mod writers;

use serde_json::Value;

/// Merges `patch` into `target` (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let target = target.as_object_mut().unwrap();
    for (field, value) in patch {
        if value.is_null() {
            target.remove(field);
        } else {
            merge(target.entry(field.clone()).or_insert(Value::Null), value);
        }
    }
}
