//! Immutable fields of a spec: those that the journal in the bucket depends on. No I/O.

use super::FieldError;
use super::rules::{self, Rule};
use super::spec::EventExportSpec;

impl EventExportSpec {
    /// Applies the transition rules of the API server without a server: returns an error for each immutable field that
    /// differs from `old`, or was added or removed.
    pub fn validate_update(&self, old: &Self) -> Result<(), Vec<FieldError>> {
        let (source, old_source) = (&self.source, &old.source);
        let (s3, old_s3) = (&self.destination.s3, &old.destination.s3);
        let rules: [(&str, Rule, bool); 7] = [
            ("spec.space", rules::SPACE_UNCHANGED, self.space == old.space),
            ("spec.scope", rules::SCOPE_UNCHANGED, self.scope == old.scope),
            (
                "spec.source",
                rules::REGION_UNCHANGED,
                source.region == old_source.region,
            ),
            (
                "spec.source",
                rules::ENDPOINT_UNCHANGED,
                source.endpoint == old_source.endpoint,
            ),
            (
                "spec.destination.s3.bucket",
                rules::BUCKET_UNCHANGED,
                s3.bucket == old_s3.bucket,
            ),
            (
                "spec.destination.s3",
                rules::PREFIX_UNCHANGED,
                s3.prefix == old_s3.prefix,
            ),
            (
                "spec.destination.s3",
                rules::S3_ENDPOINT_UNCHANGED,
                s3.endpoint == old_s3.endpoint,
            ),
        ];
        let changed: Vec<FieldError> = rules
            .into_iter()
            .filter(|(_, _, same)| !same)
            .map(|(path, rule, _)| FieldError {
                path: format!("{path}{}", rule.field),
                problem: rule.message.to_owned(),
            })
            .collect();
        if changed.is_empty() { Ok(()) } else { Err(changed) }
    }
}
