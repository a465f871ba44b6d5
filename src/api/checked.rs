//! The validated spec: values instead of texts, so that no caller has to check again. Applies the rules of schema and
//! CEL in Rust, with the same messages. No I/O.

use std::num::NonZeroU64;

use jiff::SignedDuration;
use jiff::civil::Date;
use url::Url;

use super::FieldError;
use super::address::{self, UaaAddress};
use super::destination::{EncryptionType, S3Destination};
use super::duration::{
    MAX_SETTLE_AFTER, MAX_VERIFICATION_INTERVAL, MIN_VERIFICATION_INTERVAL, parse_duration,
};
use super::rules::{self, Rule};
use super::schema::{self, MAX_REPORTED_ERRORS, SCHEMA};
use super::source::{CaConfigMapRef, CaSecretRef, SecretRef, Source};
use super::spec::{AcceptedGap, DateRange as WrittenRange, EventExportSpec, ManifestSettings};
use super::syntax;
use super::verification::Verification;

/// Settings of manifests of a spec that has none.
const NO_MANIFEST_SETTINGS: ManifestSettings = ManifestSettings {
    signing_key_secret_ref: None,
    abandoned_head: None,
    unsigned_receipts_before: None,
    timestamp_authority: None,
};

/// Parsed content of a valid spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedSpec {
    /// Requested days.
    pub range: CheckedRange,
    /// Time to wait after the end of a window: 0 to [`MAX_SETTLE_AFTER`].
    pub settle_after: SignedDuration,
    /// Accepted gaps, as written: they may overlap.
    pub gaps: Vec<CheckedGap>,
    /// Scheduled verification, if any.
    pub verification: Option<CheckedVerification>,
    /// Base URL of the Activity Tracker; `/v3/…` is appended.
    pub tracker: Url,
    /// Location of the UAA, which issues tokens.
    pub uaa: UaaAddress,
    /// URL of the store. `None`: AWS.
    pub s3_endpoint: Option<Url>,
    /// Manifest that is given up, as NUMBER:SHA256.
    pub abandoned_head: Option<String>,
    /// Day before which receipts may lack a signature.
    pub unsigned_receipts_before: Option<Date>,
    /// URL of the time-stamp authority, if any.
    pub timestamp_authority: Option<Url>,
}

/// Range of UTC days: both ends inclusive, not inverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedRange {
    /// First day.
    pub start: Date,
    /// Last day. `None`: the export is continuous.
    pub end: Option<Date>,
    /// Hour of each day to export, 0–23. `None`: all hours.
    pub hour: Option<u8>,
}

/// Scheduled verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedVerification {
    /// Time from the end of a verification to the start of the next one.
    pub every: SignedDuration,
    /// Maximum bytes of events that are read per second.
    pub bytes_per_second: NonZeroU64,
}

/// Accepted gap: a range of UTC days, both ends inclusive, not inverted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedGap {
    /// First day.
    pub start: Date,
    /// Last day.
    pub end: Date,
    /// Explanation of the gap.
    pub reason: String,
}

impl EventExportSpec {
    /// Applies the rules of schema and CEL without a server. Returns the violations sorted by path, at most
    /// [`MAX_REPORTED_ERRORS`]. Does not apply the transition rules: see [`EventExportSpec::validate_update`].
    pub fn validate(&self) -> Result<(), Vec<FieldError>> {
        self.checked().map(drop)
    }

    /// Validates as [`EventExportSpec::validate`], and returns the parsed values.
    pub fn checked(&self) -> Result<CheckedSpec, Vec<FieldError>> {
        let mut errors = SpecErrors(Vec::new());
        errors.structure(self);
        let range = errors.range(&self.date_range);
        let (tracker, uaa) = errors.source(&self.source);
        errors.require("spec.space", rules::SPACE, syntax::is_space_id(&self.space));
        let s3_endpoint = errors.s3(&self.destination.s3);
        let manifest = self.manifest.as_ref().unwrap_or(&NO_MANIFEST_SETTINGS);
        let (unsigned_receipts_before, timestamp_authority) = errors.manifest(manifest);
        let settle_after = parse_duration(&self.settle_after).filter(|after| *after <= MAX_SETTLE_AFTER);
        errors.require("spec.settleAfter", rules::SETTLE_AFTER, settle_after.is_some());
        let verification = self.verification.as_ref().and_then(|wanted| {
            let checked = wanted.checked();
            let rule = rules::VERIFICATION_EVERY;
            errors.require("spec.verification.every", rule, checked.is_some());
            checked
        });
        let gaps: Vec<CheckedGap> = (0..)
            .zip(&self.accepted_gaps)
            .filter_map(|(index, gap)| errors.gap(index, gap))
            .collect();
        match (errors.0.is_empty(), range, settle_after, tracker, uaa) {
            (true, Some(range), Some(settle_after), Some(tracker), Some(uaa)) => Ok(CheckedSpec {
                range,
                settle_after,
                gaps,
                verification,
                tracker,
                uaa,
                s3_endpoint,
                abandoned_head: manifest.abandoned_head.clone(),
                unsigned_receipts_before,
                timestamp_authority,
            }),
            _ => Err(errors.sorted()),
        }
    }
}

impl Verification {
    /// Returns the parsed values; `None` if the interval is no duration within its bounds.
    pub fn checked(&self) -> Option<CheckedVerification> {
        let within = MIN_VERIFICATION_INTERVAL..=MAX_VERIFICATION_INTERVAL;
        Some(CheckedVerification {
            every: parse_duration(&self.every).filter(|every| within.contains(every))?,
            // The schema has a higher minimum.
            bytes_per_second: NonZeroU64::new(self.bytes_per_second)?,
        })
    }
}

impl Source {
    /// Applies the rules of `spec.source` alone. Returns the base URL of the Activity Tracker, and the UAA.
    pub fn checked(&self) -> Result<(Url, UaaAddress), Vec<FieldError>> {
        let mut errors = SpecErrors(Vec::new());
        match (errors.source(self), errors.0.is_empty()) {
            ((Some(tracker), Some(uaa)), true) => Ok((tracker, uaa)),
            _ => Err(errors.sorted()),
        }
    }
}

impl S3Destination {
    /// Returns the URL of the store; `None`: AWS.
    pub fn checked_endpoint(&self) -> Result<Option<Url>, Vec<FieldError>> {
        let mut errors = SpecErrors(Vec::new());
        let url = errors.url("spec.destination.s3.endpoint", self.endpoint.as_deref());
        if errors.0.is_empty() {
            Ok(url)
        } else {
            Err(errors.sorted())
        }
    }
}

/// Violations found so far.
struct SpecErrors(Vec<FieldError>);

impl SpecErrors {
    /// Records a violation of the rule unless it is satisfied. Returns `kept`.
    fn require(&mut self, path: &str, rule: Rule, kept: bool) -> bool {
        if !kept {
            let path = format!("{path}{}", rule.field);
            self.0.push(FieldError {
                path,
                problem: rule.message.to_owned(),
            });
        }
        kept
    }

    /// Checks bounds; the types of Rust already guarantee the types of the schema.
    fn structure(&mut self, spec: &EventExportSpec) {
        let schema = SCHEMA.properties.as_ref().and_then(|fields| fields.get("spec"));
        match (schema, serde_json::to_value(spec)) {
            (Some(schema), Ok(value)) => schema::check(schema, &value, "spec", &mut self.0),
            // A spec that is not JSON, or a definition without a spec: impossible by construction.
            _ => self.0.push(FieldError {
                path: "spec".to_owned(),
                problem: "cannot be validated against the schema: report this defect".to_owned(),
            }),
        }
    }

    fn range(&mut self, written: &WrittenRange) -> Option<CheckedRange> {
        let WrittenRange { start, end, hour } = written;
        let parsed_start = syntax::parse_date(start);
        self.require("spec.dateRange.start", rules::START, parsed_start.is_some());
        let parsed_end = end.as_deref().map(syntax::parse_date);
        if let Some(day) = parsed_end {
            self.require("spec.dateRange.end", rules::END, day.is_some());
        }
        // Compared as texts, like in CEL: an inverted range is reported even if a date is invalid.
        let ordered = end.as_ref().is_none_or(|end| start <= end);
        self.require("spec.dateRange", rules::RANGE_ORDER, ordered);
        let end = match parsed_end {
            Some(day) => Some(day?),
            None => None,
        };
        Some(CheckedRange {
            start: parsed_start?,
            end,
            hour: *hour,
        })
    }

    fn gap(&mut self, index: usize, gap: &AcceptedGap) -> Option<CheckedGap> {
        let AcceptedGap { start, end, reason } = gap;
        let path = format!("spec.acceptedGaps[{index}]");
        let (first, last) = (syntax::parse_date(start), syntax::parse_date(end));
        self.require(&format!("{path}.start"), rules::GAP_DATE, first.is_some());
        self.require(&format!("{path}.end"), rules::GAP_DATE, last.is_some());
        self.require(&path, rules::GAP_ORDER, start <= end);
        self.require(
            &format!("{path}.reason"),
            rules::GAP_REASON,
            syntax::is_gap_reason(reason),
        );
        Some(CheckedGap {
            start: first?,
            end: last?,
            reason: reason.clone(),
        })
    }

    /// Returns the day before which receipts may lack a signature, and the URL of the time-stamp authority.
    fn manifest(&mut self, manifest: &ManifestSettings) -> (Option<Date>, Option<Url>) {
        let ManifestSettings {
            signing_key_secret_ref,
            abandoned_head,
            unsigned_receipts_before,
            timestamp_authority,
        } = manifest;
        if let Some(reference) = signing_key_secret_ref {
            self.secret("spec.manifest.signingKeySecretRef", reference);
        }
        if let Some(head) = abandoned_head {
            self.require("spec.manifest.abandonedHead", rules::HEAD, syntax::is_head(head));
        }
        let before = unsigned_receipts_before.as_deref().map(syntax::parse_date);
        if let Some(day) = before {
            let path = "spec.manifest.unsignedReceiptsBefore";
            self.require(path, rules::UNSIGNED_BEFORE, day.is_some());
        }
        let authority = self.url("spec.manifest.timestampAuthority", timestamp_authority.as_deref());
        (before.flatten(), authority)
    }

    fn source(&mut self, source: &Source) -> (Option<Url>, Option<UaaAddress>) {
        let Source {
            region,
            endpoint,
            uaa_endpoint,
            credentials_secret_ref,
            ca_secret_ref,
            ca_config_map_ref,
            // The schema covers it completely.
            retention_days: _,
        } = source;
        self.require(
            "spec.source",
            rules::REGION_OR_ENDPOINT,
            region.is_some() != endpoint.is_some(),
        );
        self.secret("spec.source.credentialsSecretRef", credentials_secret_ref);
        self.ca("spec.source", ca_secret_ref.as_ref(), ca_config_map_ref.as_ref());
        let host_url = |host: String| Url::parse(&format!("https://{host}")).ok();
        let endpoint = self.url("spec.source.endpoint", endpoint.as_deref());
        let uaa = self.url("spec.source.uaaEndpoint", uaa_endpoint.as_deref());
        let tracker = endpoint
            .clone()
            .or_else(|| region.and_then(|region| host_url(region.tracker_host())));
        let discovery = || endpoint.or_else(|| region.and_then(|region| host_url(region.api_host())));
        (
            tracker,
            uaa.map(UaaAddress::Endpoint)
                .or_else(|| discovery().map(UaaAddress::DiscoverFrom)),
        )
    }

    fn s3(&mut self, s3: &S3Destination) -> Option<Url> {
        let S3Destination {
            bucket,
            prefix,
            region,
            endpoint,
            force_path_style: _,
            credentials_secret_ref,
            service_account_name,
            ca_secret_ref,
            ca_config_map_ref,
            storage_class,
            server_side_encryption,
            // The schema covers these completely.
            object_lock: _,
            checksum: _,
            acl: _,
            request_payer: _,
        } = s3;
        let at = |field: &str| format!("spec.destination.s3.{field}");
        self.require(&at("bucket"), rules::BUCKET, syntax::is_bucket_name(bucket));
        if let Some(prefix) = prefix {
            let slashes = !prefix.starts_with('/') && !prefix.ends_with('/') && !prefix.contains("//");
            self.require(&at("prefix"), rules::PREFIX_SLASHES, slashes);
            self.require(
                &at("prefix"),
                rules::PREFIX_COMPONENTS,
                prefix.split('/').all(syntax::is_prefix_component),
            );
            self.require(
                &at("prefix"),
                rules::PREFIX_RESERVED,
                !prefix.split('/').any(syntax::is_reserved),
            );
        }
        self.require(&at("region"), rules::S3_REGION, syntax::is_s3_region(region));
        if let Some(reference) = credentials_secret_ref {
            self.secret(&at("credentialsSecretRef"), reference);
        }
        if let Some(name) = service_account_name {
            let path = at("serviceAccountName");
            self.require(&path, rules::SERVICE_ACCOUNT_NAME, syntax::is_subdomain(name));
            let alone = credentials_secret_ref.is_none();
            self.require("spec.destination.s3", rules::ONE_BUCKET_IDENTITY, alone);
        }
        self.ca(
            "spec.destination.s3",
            ca_secret_ref.as_ref(),
            ca_config_map_ref.as_ref(),
        );
        if let Some(class) = storage_class {
            self.require(
                &at("storageClass"),
                rules::STORAGE_CLASS,
                syntax::is_ascii_token(class, "-_"),
            );
        }
        if let Some(encryption) = server_side_encryption {
            let key = encryption.kms_key_id.as_deref();
            let fits = key.is_none() || encryption.kind == EncryptionType::AwsKms;
            self.require(&at("serverSideEncryption"), rules::KMS_KEY_ONLY_WITH_KMS, fits);
            let named = key.is_none_or(|key| syntax::is_ascii_token(key, ":/_.-"));
            self.require(&at("serverSideEncryption.kmsKeyId"), rules::KMS_KEY, named);
        }
        self.url(&at("endpoint"), endpoint.as_deref())
    }

    fn url(&mut self, path: &str, text: Option<&str>) -> Option<Url> {
        let parsed = text.map(address::parse_url);
        self.require(path, rules::URL, !matches!(parsed, Some(None)));
        parsed.flatten()
    }

    fn secret(&mut self, path: &str, SecretRef { name }: &SecretRef) {
        self.require(
            &format!("{path}.name"),
            rules::SECRET_NAME,
            syntax::is_subdomain(name),
        );
    }

    fn ca(&mut self, path: &str, secret: Option<&CaSecretRef>, config_map: Option<&CaConfigMapRef>) {
        self.require(path, rules::ONE_CA, secret.is_none() || config_map.is_none());
        let secret = secret.map(|CaSecretRef { name, key }| {
            let rules = (rules::SECRET_NAME, rules::SECRET_KEY);
            ("caSecretRef", name, key, rules)
        });
        let config_map = config_map.map(|CaConfigMapRef { name, key }| {
            let rules = (rules::CONFIG_MAP_NAME, rules::CONFIG_MAP_KEY);
            ("caConfigMapRef", name, key, rules)
        });
        for (field, name, key, (name_rule, key_rule)) in secret.into_iter().chain(config_map) {
            let valid = syntax::is_subdomain(name);
            self.require(&format!("{path}.{field}.name"), name_rule, valid);
            let valid = syntax::is_ascii_token(key, "._-");
            self.require(&format!("{path}.{field}.key"), key_rule, valid);
        }
    }

    fn sorted(mut self) -> Vec<FieldError> {
        self.0.sort();
        self.0.dedup();
        self.0.truncate(MAX_REPORTED_ERRORS);
        self.0
    }
}
