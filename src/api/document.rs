//! Reads an `EventExport` from a document without an API server. Rejects the documents that `kubectl apply` rejects,
//! with the path of the error; drops nulls and fills in defaults as the API server does. No I/O.

use kube::Resource as _;
use serde_json::Value;

use super::schema::{self, SCHEMA};
use super::{EventExport, FieldError, sanitize};

/// Returns the resource in the document. Requires the API version and kind of an `EventExport`, no unknown fields (as
/// `kubectl apply` does), and all rules satisfied.
pub fn read_export(mut document: Value) -> Result<EventExport, Vec<FieldError>> {
    let error = |path: &str, problem: String| {
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
            return Err(error(field, format!("must be {wanted}")));
        }
    }
    let named = document.pointer("/metadata/name").and_then(Value::as_str);
    if named.is_none_or(str::is_empty) {
        return Err(error(
            "metadata.name",
            "is required: set the name of the export".to_owned(),
        ));
    }
    let mut errors = Vec::new();
    if let Value::Object(fields) = &mut document {
        // Only the operator writes the status, through a subresource.
        fields.remove("status");
        // The schema does not describe the fields that all kinds share.
        let own_fields = fields
            .iter()
            .filter(|(name, _)| !["apiVersion", "kind", "metadata"].contains(&name.as_str()));
        let own_fields = Value::Object(
            own_fields
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        );
        schema::check(&SCHEMA, &own_fields, "", &mut errors);
        if errors.is_empty() {
            schema::check_keys(&SCHEMA, &own_fields, "", &mut errors);
        }
    }
    if !errors.is_empty() {
        errors.truncate(super::MAX_REPORTED_ERRORS);
        return Err(errors);
    }
    // Only metadata can still be invalid: the schema does not describe it.
    let export: EventExport = serde_json::from_value(document).map_err(|cause| {
        error(
            "metadata",
            format!("cannot be parsed: {}", sanitize(&cause.to_string())),
        )
    })?;
    export.spec.validate()?;
    Ok(export)
}
