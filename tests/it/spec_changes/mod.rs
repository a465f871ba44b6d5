//! The resource in motion: every field of its spec changed, and whatever else befalls resources, at every phase of
//! their life, under the real operator, with the real API server, store and service of the test bed.
//!
//! [`cases`] has what is done, [`phases`] when, [`runner`] plays one of each, [`sweep`] plays many at once and writes
//! docs/transitions.md, [`invariants`] says what must hold for all of them. [`namespace`], [`writers`] and [`clock`] are
//! the cases that need a scene of their own.

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

/// Puts `patch` over `target` (RFC 7386).
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
