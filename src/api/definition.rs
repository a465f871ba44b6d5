//! The `CustomResourceDefinition`, derived from the types and adapted to the API server. No I/O.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt as _;
use serde_json::json;

use super::EventExport;

/// Category of the resource: `kubectl get eventexport` lists it.
pub const CATEGORY: &str = "eventexport";

/// Formats that the API server knows; it warns about others at every apply.
const KNOWN_FORMATS: [&str; 3] = ["int32", "int64", "date-time"];

/// Returns the definition to apply.
pub fn definition() -> CustomResourceDefinition {
    let mut crd = EventExport::crd();
    let schemas = crd
        .spec
        .versions
        .iter_mut()
        .filter_map(|version| version.schema.as_mut());
    for root in schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()) {
        visit(root, &mut normalize);
        let status = root
            .properties
            .as_mut()
            .and_then(|fields| fields.get_mut("status"));
        if let Some(status) = status {
            // kstatus and `kubectl wait` treat an object as unfinished while its status has another generation.
            status.default = Some(JSON(json!({ "observedGeneration": -1 })));
        }
    }
    crd
}

/// Adapts one schema to the API server. No field is nullable: the API server then drops nulls, and no rule has to
/// handle a field that is present and null.
fn normalize(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if schema
        .format
        .as_deref()
        .is_some_and(|format| !KNOWN_FORMATS.contains(&format))
    {
        schema.format = None;
    }
    // A doc comment has line breaks, a description has none.
    if let Some(description) = &mut schema.description {
        *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    }
}

fn visit(schema: &mut JSONSchemaProps, act: &mut impl FnMut(&mut JSONSchemaProps)) {
    act(schema);
    for field in schema
        .properties
        .iter_mut()
        .flat_map(|fields| fields.values_mut())
    {
        visit(field, act);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        visit(items, act);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_described_and_bounded() {
        let mut undescribed = Vec::new();
        let mut unbounded = Vec::new();
        let crd = definition();
        let root = crd.spec.versions[0]
            .schema
            .clone()
            .unwrap()
            .open_api_v3_schema
            .unwrap();
        for part in ["spec", "status"] {
            walk(
                &root.properties.as_ref().unwrap()[part],
                part,
                &mut |path, schema| {
                    if schema.description.as_deref().is_none_or(|text| text.len() < 10) {
                        undescribed.push(path.to_owned());
                    }
                    // Kubernetes defines these.
                    if path.starts_with("status.conditions[].") {
                        return;
                    }
                    let bounded = match schema.type_.as_deref() {
                        Some("string") => {
                            schema.max_length.is_some() || schema.enum_.is_some() || schema.format.is_some()
                        }
                        Some("array") => schema.max_items.is_some(),
                        _ => true,
                    };
                    if !bounded {
                        unbounded.push(path.to_owned());
                    }
                },
            );
        }
        assert!(undescribed.is_empty(), "without description: {undescribed:?}");
        assert!(unbounded.is_empty(), "without maximum: {unbounded:?}");
    }

    fn walk(schema: &JSONSchemaProps, path: &str, see: &mut impl FnMut(&str, &JSONSchemaProps)) {
        see(path, schema);
        for (name, field) in schema.properties.iter().flatten() {
            walk(field, &format!("{path}.{name}"), see);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            for (name, field) in items.properties.iter().flatten() {
                walk(field, &format!("{path}[].{name}"), see);
            }
        }
    }
}
