//! An `EventExport` from a document, for who has no API server: what `kubectl apply` would refuse is refused,
//! with the path, and what it would leave out or fill in is left out or filled in. No I/O.

use kube::Resource as _;
use serde_json::Value;

use super::schema::{self, SCHEMA};
use super::{EventExport, FieldError, sanitize};

/// The resource that the document holds: of our kind, without unknown fields (as `kubectl apply` has it), with
/// defaults filled in, every rule kept.
pub fn read_export(mut document: Value) -> Result<EventExport, Vec<FieldError>> {
    let of = |path: &str, problem: String| {
        vec![FieldError {
            path: path.to_owned(),
            problem,
        }]
    };
    schema::without_nulls(&mut document);
    for (field, wanted) in [
        ("apiVersion", EventExport::api_version(&())),
        ("kind", EventExport::kind(&())),
    ] {
        if document.get(field).and_then(Value::as_str) != Some(&wanted) {
            return Err(of(field, format!("must be {wanted}")));
        }
    }
    let named = document.pointer("/metadata/name").and_then(Value::as_str);
    if named.is_none_or(str::is_empty) {
        return Err(of(
            "metadata.name",
            "is required: give the export a name".to_owned(),
        ));
    }
    let mut errors = Vec::new();
    if let Value::Object(fields) = &mut document {
        // Only the operator writes it, below an address of its own.
        fields.remove("status");
        // The rest is every kind's, and not in our schema.
        let ours = fields
            .iter()
            .filter(|(name, _)| !["apiVersion", "kind", "metadata"].contains(&name.as_str()));
        let ours = Value::Object(ours.map(|(name, value)| (name.clone(), value.clone())).collect());
        schema::check(&SCHEMA, &ours, "", &mut errors);
    }
    if !errors.is_empty() {
        errors.truncate(super::MAX_REPORTED_ERRORS);
        return Err(errors);
    }
    // Only metadata can still be of a wrong shape: our schema says nothing of it, as the server knows it.
    let export: EventExport = serde_json::from_value(document).map_err(|error| {
        of(
            "metadata",
            format!("cannot be read: {}", sanitize(&error.to_string())),
        )
    })?;
    export.spec.validate()?;
    Ok(export)
}
