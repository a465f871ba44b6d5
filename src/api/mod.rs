//! The `EventExport` resource: spec, status, conditions and validation rules. No I/O.
//!
//! The rules exist twice: as schema and CEL, which the API server enforces, and in Rust ([`EventExportSpec::checked`]).
//! `eventexport run -f` has no API server, and an outdated definition in a cluster may accept specs that the current
//! one rejects. A table of manifests checks that both give the same verdicts.

mod address;
#[cfg(test)]
mod cel_parity;
mod checked;
mod condition;
mod definition;
mod destination;
mod document;
mod duration;
pub mod human;
mod immutable_fields;
pub mod reason;
mod redact;
pub mod rules;
mod schema;
mod secret_text;
mod setting;
mod source;
mod spec;
mod status;
mod syntax;
mod verification;

pub use address::{Region, UaaAddress, parse_endpoint, parse_url};
pub use checked::{CheckedGap, CheckedRange, CheckedSpec, CheckedVerification};
pub use condition::{ConditionType, MAX_MESSAGE_CHARS, condition, find_condition, set_condition};
pub use definition::{CATEGORY, definition};
pub use destination::{
    CannedAcl, Checksum, Destination, EncryptionType, LockMode, ObjectLock, RequestPayer, S3Destination,
    ServerSideEncryption,
};
pub use document::read_export;
pub use duration::{
    MAX_SETTLE_AFTER, MAX_VERIFICATION_INTERVAL, MIN_VERIFICATION_INTERVAL, format_duration, parse_duration,
};
pub use reason::Reason;
pub use redact::{
    MAX_REDACTED_CHARS, MAX_SANITIZED_CHARS, REDACTED, causes, escape, find_cause, is_printable, redact,
    redact_error, sanitize, sanitize_to,
};
pub use schema::MAX_REPORTED_ERRORS;
pub use secret_text::{api_key_text, key_text, password_text, trimmed_text};
pub use setting::{Remedy, Setting, SettingNames};
pub use source::{
    CaConfigMapRef, CaReference, CaSecretRef, ReferencedKind, ReferencedObject, SecretRef, Source,
};
pub use spec::{
    AcceptedGap, DateRange, EventExport, EventExportSpec, ManifestSettings, RecheckSettings, Scope,
};
pub use status::{
    EventExportStatus, LastError, MAX_RANGES, MAX_REQUEST_CHARS, MAX_SESSIONS, ManifestStatus, OmittedRanges,
    OpenSession, StatusRange, WindowCounts,
};
pub use syntax::{is_space_id, parse_date};
pub use verification::{
    DEFAULT_BYTES_PER_SECOND, MAX_BYTES_PER_SECOND, MAX_FINDING_CHARS, MIN_BYTES_PER_SECOND, Verification,
    VerificationStatus,
};

/// Violation of a rule by one field of a manifest. Never contains the value, so that it can be displayed anywhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct FieldError {
    /// Path of the field, in the notation of the API server: `spec.acceptedGaps[0].start`.
    pub path: String,
    /// Violated rule and remedy.
    pub problem: String,
}
