//! Turns a spec, its Secrets and the context of the process into an export and its peers. Builds clients; sends
//! no request.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::engine::Peers;
use super::failure::Failure;
use super::manifest::sign::{PREVIOUS_PUBLIC_KEYS, SIGNING_KEY, Signing, SigningKey, SigningKeys};
use super::shard::Shard;
use super::spec::{ExportSpec, HolderEpoch, RecheckPolicy, RetryPolicy};
use super::timestamp::timestamp_missing;
use crate::api::{
    self, CaReference, CheckedSpec, EventExportSpec, FieldError, ReferencedKind, ReferencedObject, Remedy,
    S3Destination, SecretRef, Setting, SettingNames, Source,
};
use crate::archive::layout::ArchiveRoot;
use crate::archive::manifest::document::GapEntry;
use crate::archive::manifest::signature::PublicKey;
use crate::egress::{HostPolicy, Traffic, check_ca};
use crate::storage::{
    AwsIdentities, CannedAcl, ChecksumMode, IdentityError, ObjectLockMode, ObjectRetention, S3Credentials,
    S3Settings, S3Store, S3Timeouts, Sse, SseAlgorithm, Store, UsePermission, WebIdentity,
};
use crate::tracker::{
    Credentials, RetryConfig, Timeouts, TimestampAuthority, TokenCache, Tracker, TrackerConfig, UaaSource,
};

/// Secrets and ConfigMaps of the namespace of an export, each with its keys.
#[derive(Clone, Default)]
pub struct Secrets(pub BTreeMap<ReferencedObject, BTreeMap<String, Vec<u8>>>);

impl Secrets {
    /// Returns the keys of a Secret.
    pub fn secret(&self, name: &str) -> Option<&BTreeMap<String, Vec<u8>>> {
        self.0.get(&ReferencedKind::Secret.named(name))
    }
}

/// Settings that the process adds to a spec.
#[derive(Clone)]
pub struct ProcessContext {
    /// Name of the export in logs.
    pub name: String,
    /// Hosts that may receive requests with tokens of the service: the tracker, and the UAA that it names.
    pub hosts: HostPolicy,
    /// Hosts that may receive requests to stores.
    pub store_hosts: HostPolicy,
    /// Fence and metrics of outgoing requests.
    pub traffic: Traffic,
    /// Tokens, shared by all exports with the same credentials.
    pub tokens: TokenCache,
    /// Identity of the process, and those of ServiceAccounts, shared by all exports.
    pub identities: AwsIdentities,
    /// ServiceAccount that the spec names. Without it the identity of the process stands for it, as in a Pod that runs as
    /// this ServiceAccount.
    pub service_account: Option<Arc<dyn WebIdentity>>,
    /// Use of the identity of the process for the bucket of this export, asked before each request.
    pub pod_identity: Arc<dyn Fn() -> PodIdentity + Send + Sync>,
    /// Holder of attempts, stable over restarts.
    pub holder: String,
    /// The process behind the holder's name, and since when it alone has the name.
    pub holder_epoch: Option<HolderEpoch>,
    /// True if a store that ignores `If-None-Match` may be written to.
    pub single_writer: bool,
    /// When to give a window up.
    pub retry_policy: RetryPolicy,
    /// The shard of the export that this process runs.
    pub shard: Shard,
    /// Names that the front end gives to settings.
    pub setting_names: SettingNames,
}

/// Use of the identity of the process by an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodIdentity {
    /// The export may use it.
    Granted,
    /// No grant for its namespace, bucket, prefix and endpoint.
    NotGranted,
    /// The grant has no term for this attribute of objects; the text is the missing term.
    TermMissing(String),
}

/// Validates a spec and adds the context of the process.
pub fn export_spec(spec: &EventExportSpec, process_context: &ProcessContext) -> Result<ExportSpec, Failure> {
    let checked = checked(spec)?;
    let prefix = spec.destination.s3.prefix.as_deref().unwrap_or_default();
    let accepted = |api::CheckedGap { start, end, reason }| GapEntry { start, end, reason };
    Ok(ExportSpec {
        name: process_context.name.clone(),
        space: spec.space.clone(),
        scope: spec.scope,
        start: checked.range.start,
        end: checked.range.end,
        hour: checked.range.hour,
        source: checked.tracker.as_str().trim_end_matches('/').to_owned(),
        root: ArchiveRoot::new(prefix, &spec.space, spec.scope.as_key()),
        shard: process_context.shard,
        parallelism: usize::from(spec.parallelism),
        settle_after: checked.settle_after,
        accepted_gaps: checked.gaps.into_iter().map(accepted).collect(),
        abandoned_head: checked.abandoned_head.and_then(|text| text.parse().ok()),
        unsigned_receipts_before: checked.unsigned_receipts_before,
        recheck: match &spec.recheck {
            Some(api::RecheckSettings { enabled: false, .. }) => RecheckPolicy::Disabled,
            Some(api::RecheckSettings { days: Some(days), .. }) => RecheckPolicy::Days(*days),
            Some(api::RecheckSettings { days: None, .. }) | None => RecheckPolicy::WhileListed,
        },
        report: spec.report,
        holder: process_context.holder.clone(),
        holder_epoch: process_context.holder_epoch.clone(),
        single_writer: process_context.single_writer,
        retry_policy: process_context.retry_policy,
        setting_names: ca_names(spec).merge(process_context.setting_names.clone()),
    })
}

/// Returns the names of the certificate authorities in the messages of peers, which do not know where they came from.
fn ca_names(spec: &EventExportSpec) -> SettingNames {
    let references = [
        (Setting::SourceCa, spec.source.ca()),
        (Setting::BucketCa, spec.destination.s3.ca()),
    ];
    let mut names = SettingNames::default();
    for (setting, reference) in references {
        if let Some(reference) = reference {
            names = names.with(setting, reference.setting.field());
        }
    }
    names
}

/// Connects the tracker, the store and the signing key of a spec.
pub async fn peers(
    spec: &EventExportSpec,
    secrets: &Secrets,
    process_context: &ProcessContext,
) -> Result<Peers, Failure> {
    let tracker = tracker(&spec.source, secrets, process_context)?;
    let store = s3(&spec.destination.s3, secrets, process_context).await?;
    Ok(Peers {
        tracker,
        store,
        signing: signing(spec, secrets),
        timestamps: timestamps(spec, process_context),
    })
}

/// Loads the signing key. A key that cannot be used does not keep events from being stored.
pub fn signing(spec: &EventExportSpec, secrets: &Secrets) -> Signing {
    let reference = spec.manifest.as_ref();
    let Some(SecretRef { name }) = reference.and_then(|manifest| manifest.signing_key_secret_ref.as_ref())
    else {
        return Signing::Disabled;
    };
    let unavailable = |cause: String| {
        let message = format!("{cause}; no manifest is written until the key is valid");
        let remedy = Remedy::new(
            Setting::SigningKey,
            "correct {} (`openssl genpkey -algorithm ed25519` prints a key)",
        );
        let failure = Failure::manual(api::Reason::SigningKeyInvalid, message);
        Signing::Unavailable(failure.with_remedy(remedy).export_wide())
    };
    let Some(data) = secrets.secret(name) else {
        return unavailable(format!("Secret {name} does not exist or may not be read"));
    };
    let key = match data.get(SIGNING_KEY).map(|pem| SigningKey::from_pem(pem)) {
        Some(Ok(key)) => key,
        Some(Err(error)) => return unavailable(format!("key {SIGNING_KEY} of Secret {name} {error}")),
        None => return unavailable(format!("Secret {name} has no key {SIGNING_KEY}")),
    };
    match data
        .get(PREVIOUS_PUBLIC_KEYS)
        .map(|pem| PublicKey::all_from_pem(pem))
    {
        None => Signing::With(Arc::new(SigningKeys::new(key, Vec::new()))),
        Some(Ok(previous)) => Signing::With(Arc::new(SigningKeys::new(key, previous))),
        Some(Err(error)) => unavailable(format!("key {PREVIOUS_PUBLIC_KEYS} of Secret {name} {error}")),
    }
}

/// Builds the client of the time-stamp authority. One that cannot be used keeps nothing from being stored.
pub fn timestamps(
    spec: &EventExportSpec,
    process_context: &ProcessContext,
) -> Option<Result<TimestampAuthority, Failure>> {
    let url = checked(spec)
        .map(|checked| checked.timestamp_authority)
        .transpose()?;
    let authority = |url| {
        let (hosts, traffic) = (process_context.hosts.clone(), process_context.traffic.clone());
        TimestampAuthority::new(url, hosts, traffic)
            .map_err(|error| timestamp_missing("manifests", &error.to_string()))
    };
    Some(url.and_then(authority))
}

/// Builds the client of the service.
pub fn tracker(
    source: &Source,
    secrets: &Secrets,
    process_context: &ProcessContext,
) -> Result<Tracker, Failure> {
    let (endpoint, uaa) = source.checked().map_err(|errors| invalid_spec(&errors))?;
    let setting = Setting::SourceCredentials;
    let reference = &source.credentials_secret_ref;
    let credentials = Credentials::from_secret(secret(secrets, reference, setting)?)
        .map_err(|error| credentials_missing(format!("Secret {}: {error}", reference.name), setting))?;
    let config = TrackerConfig {
        endpoint,
        uaa: match uaa {
            api::UaaAddress::Endpoint(url) => UaaSource::Endpoint(url),
            api::UaaAddress::DiscoverFrom(api) => UaaSource::Discover { api },
        },
        credentials,
        ca_pem: ca(secrets, source.ca())?,
        hosts: process_context.hosts.clone(),
        timeouts: Timeouts::default(),
        retry: RetryConfig::default(),
        traffic: process_context.traffic.clone(),
    };
    Tracker::new(config, &process_context.tokens).map_err(|error| Failure::from(&error).export_wide())
}

/// Builds the client of the store.
pub async fn s3(
    destination: &S3Destination,
    secrets: &Secrets,
    process_context: &ProcessContext,
) -> Result<Arc<dyn Store>, Failure> {
    let S3Destination {
        bucket,
        prefix: _,
        region,
        // Read by `checked_endpoint` and `path_style`.
        endpoint: _,
        force_path_style: _,
        credentials_secret_ref,
        service_account_name: _,
        // Read by `ca`.
        ca_secret_ref: _,
        ca_config_map_ref: _,
        // Set by `with_object_attributes`.
        storage_class: _,
        server_side_encryption: _,
        object_lock: _,
        checksum: _,
        acl: _,
        request_payer: _,
    } = destination;
    let setting = Setting::BucketCredentials;
    let credentials = if let Some(reference) = credentials_secret_ref {
        S3Credentials::from_secret(secret(secrets, reference, setting)?)
            .map_err(|error| credentials_missing(format!("Secret {}: {error}", reference.name), setting))?
    } else if let Some(identity) = &process_context.service_account {
        let credentials = process_context.identities.account(Arc::clone(identity)).await;
        S3Credentials::Temporary(credentials.map_err(|error| Failure::from(&error))?)
    } else {
        let permission = identity_permission(process_context, bucket);
        permission().map_err(|error| Failure::from(&error))?;
        let credentials = process_context.identities.process().await;
        let credentials = credentials.map_err(|error| Failure::from(&error))?;
        S3Credentials::Temporary(credentials.with_permission(permission))
    };
    let settings = S3Settings {
        bucket: bucket.clone(),
        region: region.clone(),
        endpoint: destination
            .checked_endpoint()
            .map_err(|errors| invalid_spec(&errors))?,
        force_path_style: destination.path_style(),
        credentials,
        ca_pem: ca(secrets, destination.ca())?,
        storage_class: None,
        server_side_encryption: None,
        object_lock: None,
        checksum: ChecksumMode::default(),
        acl: None,
        requester_pays: false,
        timeouts: S3Timeouts::default(),
        hosts: process_context.store_hosts.clone(),
        traffic: process_context.traffic.clone(),
    };
    let store = S3Store::connect(with_object_attributes(settings, destination))
        .map_err(|error| Failure::from(&error).export_wide())?;
    Ok(Arc::new(store))
}

/// Returns the settings with the attributes of written objects that a destination requires: storage class, encryption,
/// object lock, checksum, access control list and payer.
fn with_object_attributes(settings: S3Settings, destination: &S3Destination) -> S3Settings {
    S3Settings {
        storage_class: destination.storage_class.clone(),
        server_side_encryption: destination.server_side_encryption.as_ref().map(|sse| Sse {
            algorithm: match sse.kind {
                api::EncryptionType::Aes256 => SseAlgorithm::Aes256,
                api::EncryptionType::AwsKms => SseAlgorithm::AwsKms,
            },
            kms_key_id: sse.kms_key_id.clone(),
        }),
        object_lock: destination.object_lock.as_ref().map(|lock| ObjectRetention {
            mode: match lock.mode {
                api::LockMode::Governance => ObjectLockMode::Governance,
                api::LockMode::Compliance => ObjectLockMode::Compliance,
            },
            retain_days: lock.retain_days,
        }),
        checksum: match destination.checksum {
            api::Checksum::Crc64Nvme => ChecksumMode::Crc64Nvme,
            api::Checksum::Crc32c => ChecksumMode::Crc32c,
            api::Checksum::Sha256 => ChecksumMode::None,
        },
        acl: destination.acl.map(|acl| match acl {
            api::CannedAcl::Private => CannedAcl::Private,
            api::CannedAcl::BucketOwnerRead => CannedAcl::BucketOwnerRead,
            api::CannedAcl::BucketOwnerFullControl => CannedAcl::BucketOwnerFullControl,
        }),
        requester_pays: settings.requester_pays
            || destination.request_payer == Some(api::RequestPayer::Requester),
        ..settings
    }
}

/// Returns the permission to use the identity of the process for a bucket.
fn identity_permission(process_context: &ProcessContext, bucket: &str) -> UsePermission {
    let (identity, bucket) = (process_context.pod_identity.clone(), bucket.to_owned());
    Arc::new(move || {
        let bucket = bucket.clone();
        match identity() {
            PodIdentity::Granted => Ok(()),
            PodIdentity::NotGranted => Err(IdentityError::NotGranted { bucket }),
            PodIdentity::TermMissing(term) => Err(IdentityError::TermMissing { bucket, term }),
        }
    })
}

fn checked(spec: &EventExportSpec) -> Result<CheckedSpec, Failure> {
    spec.checked().map_err(|errors| invalid_spec(&errors))
}

fn invalid_spec(errors: &[FieldError]) -> Failure {
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Failure::manual(api::Reason::InvalidSpec, errors.join("; ")).export_wide()
}

fn secret<'a>(
    secrets: &'a Secrets,
    reference: &SecretRef,
    setting: Setting,
) -> Result<&'a BTreeMap<String, Vec<u8>>, Failure> {
    secrets
        .secret(&reference.name)
        .ok_or_else(|| credentials_missing(format!("Secret {} does not exist", reference.name), setting))
}

fn ca(secrets: &Secrets, reference: Option<CaReference<'_>>) -> Result<Option<Vec<u8>>, Failure> {
    let Some(CaReference {
        kind,
        name,
        key,
        setting,
    }) = reference
    else {
        return Ok(None);
    };
    let object = kind.as_str();
    let missing = |message: String| {
        let action = match kind {
            ReferencedKind::Secret => "create or correct the Secret of {}",
            ReferencedKind::ConfigMap => "create or correct the ConfigMap of {}",
        };
        let failure = Failure::wait(api::Reason::CredentialsMissing, message, None);
        failure.with_remedy(Remedy::new(setting, action)).export_wide()
    };
    let data = secrets.0.get(&kind.named(name));
    let pem = data
        .ok_or_else(|| missing(format!("{object} {name} does not exist")))?
        .get(key)
        .ok_or_else(|| missing(format!("{object} {name} has no key {key}")))?;
    check_ca(pem).map_err(|error| missing(format!("key {key} of {object} {name} {error}")))?;
    Ok(Some(pem.clone()))
}

fn credentials_missing(message: String, setting: Setting) -> Failure {
    let remedy = Remedy::new(setting, "create or correct the Secret of {}");
    let failure = Failure::wait(api::Reason::CredentialsMissing, message, None);
    failure.with_remedy(remedy).export_wide()
}
