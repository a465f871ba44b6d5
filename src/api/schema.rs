//! The structural half of validation in Rust: checks a value against the schema that the API server gets, so that
//! types, bounds and names cannot diverge. Supports only the keywords in that schema. No I/O.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use serde_json::{Map, Value};

use super::{FieldError, definition, sanitize};

/// Maximum number of errors that a validation reports.
pub const MAX_REPORTED_ERRORS: usize = 100;

/// Schema of the only version. Computed once: a constant that Rust cannot express.
pub(super) static SCHEMA: LazyLock<JSONSchemaProps> = LazyLock::new(|| {
    let mut versions = definition().spec.versions;
    let schema = versions.pop().and_then(|version| version.schema);
    schema
        .and_then(|schema| schema.open_api_v3_schema)
        .unwrap_or_default()
});

/// Removes nulls, as the API server does with fields that are not nullable.
pub(super) fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// Checks a value recursively, and appends the errors found.
pub(super) fn check(schema: &JSONSchemaProps, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let kind = schema.type_.as_deref().unwrap_or("object");
    let mut report = |problem: String| {
        errors.push(FieldError {
            path: path.to_owned(),
            problem,
        });
    };
    match (kind, value) {
        ("object", Value::Object(fields)) => check_object(schema, fields, path, errors),
        ("array", Value::Array(items)) => check_array(schema, items, path, errors),
        ("string", Value::String(text)) => check_string(schema, text, &mut report),
        ("integer", Value::Number(number)) if number.is_i64() || number.is_u64() => {
            check_number(schema, number.as_f64().unwrap_or(f64::MAX), &mut report);
        }
        ("boolean", Value::Bool(_)) => {}
        _ => report(format!("must be of type {kind}, not {}", type_name(value))),
    }
}

fn check_object(
    schema: &JSONSchemaProps,
    fields: &Map<String, Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    for name in schema
        .required
        .iter()
        .flatten()
        .filter(|name| !fields.contains_key(*name))
    {
        errors.push(FieldError {
            path: child_path(path, name),
            problem: "is required: add it".to_owned(),
        });
    }
    // An object without properties, such as metadata, is not restricted.
    let Some(properties) = &schema.properties else {
        return;
    };
    for (name, field) in fields {
        // More errors are not reported, and a document may have a million.
        if errors.len() > MAX_REPORTED_ERRORS {
            return;
        }
        match properties.get(name) {
            Some(schema) => check(schema, field, &child_path(path, name), errors),
            None => errors.push(FieldError {
                path: child_path(path, name),
                problem: format!(
                    "is not a known field: check the spelling; known fields are {}",
                    join_names(properties.keys())
                ),
            }),
        }
    }
}

fn check_array(schema: &JSONSchemaProps, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    if let Some(max) = exceeds(schema.max_items, items.len()) {
        errors.push(FieldError {
            path: path.to_owned(),
            problem: format!("must have at most {max} items"),
        });
        // As on the server, the items are not checked: their number is not bounded.
        return;
    }
    if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
        for (index, item) in items.iter().enumerate() {
            check(schema, item, &format!("{path}[{index}]"), errors);
        }
    }
}

/// Checks recursively that the items of each list that is a map have different keys, and appends the errors found. The API
/// server requires it of what is written, and tolerates a stored list that violated it before.
pub(super) fn check_keys(schema: &JSONSchemaProps, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(fields) => {
            let properties = schema.properties.iter().flatten();
            for (name, schema) in properties {
                if let Some(field) = fields.get(name) {
                    check_keys(schema, field, &child_path(path, name), errors);
                }
            }
        }
        Value::Array(items) if schema.x_kubernetes_list_type.as_deref() == Some("map") => {
            let keys = schema.x_kubernetes_list_map_keys.as_deref().unwrap_or_default();
            let mut known = BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                // More errors are not reported.
                if errors.len() > MAX_REPORTED_ERRORS {
                    return;
                }
                let values: Vec<String> = keys
                    .iter()
                    .map(|key| item.get(key).unwrap_or(&Value::Null).to_string())
                    .collect();
                if !known.insert(values) {
                    errors.push(FieldError {
                        path: format!("{path}[{index}]"),
                        problem: format!(
                            "has the {} of an earlier item: join the two, or change one",
                            join_names(keys)
                        ),
                    });
                }
            }
        }
        _ => {}
    }
}

fn check_string(schema: &JSONSchemaProps, text: &str, report: &mut impl FnMut(String)) {
    let length = text.chars().count();
    if let Some(max) = exceeds(schema.max_length, length) {
        report(format!("must be at most {max} characters long"));
    }
    if let Some(min) = schema
        .min_length
        .filter(|min| usize::try_from(*min).is_ok_and(|min| length < min))
    {
        report(format!("must be at least {min} characters long"));
    }
    let Some(allowed) = &schema.enum_ else {
        return;
    };
    if !allowed.iter().any(|JSON(allowed)| allowed.as_str() == Some(text)) {
        report(format!(
            "must be one of {}",
            join_names(allowed.iter().filter_map(|JSON(allowed)| allowed.as_str()))
        ));
    }
}

fn check_number(schema: &JSONSchemaProps, number: f64, report: &mut impl FnMut(String)) {
    let outside =
        schema.minimum.is_some_and(|min| number < min) || schema.maximum.is_some_and(|max| number > max);
    match (schema.minimum, schema.maximum) {
        (Some(min), Some(max)) if outside => report(format!("must be from {min} to {max}")),
        (Some(min), None) if outside => report(format!("must be {min} or more")),
        (None, Some(max)) if outside => report(format!("must be {max} or less")),
        _ => {}
    }
}

fn exceeds(max: Option<i64>, length: usize) -> Option<i64> {
    max.filter(|max| usize::try_from(*max).is_ok_and(|max| length > max))
}

fn child_path(path: &str, name: &str) -> String {
    let name = sanitize(name);
    if path.is_empty() {
        name.into_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn join_names(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    names.join(", ")
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
