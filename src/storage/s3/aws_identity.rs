//! Identities of AWS for buckets: that of this process, and those of ServiceAccounts, exchanged at STS. Does I/O.
//!
//! The environment of the process chooses the hosts that receive tokens (STS, metadata), never a spec. They are not in the
//! allow-list, which is about the hosts that specs name; their requests pass the fence and are counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::{Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_types::service_config::ServiceConfigKey;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;
use url::Url;

use super::client::{ConnectorSettings, http_client};
use super::temporary_credentials::{CredentialsSource, TemporaryCredentials};
use crate::api::{MAX_REDACTED_CHARS, find_cause, parse_endpoint, redact, redact_error};
use crate::egress::{HostPolicy, Peer, RequestLabel, Traffic, is_loopback};
use crate::storage::{AccountName, CredentialsOrigin, IdentityError};

/// Region of STS if neither the environment nor the profile of the process names one.
const DEFAULT_STS_REGION: &str = "us-east-1";
/// Timeout to connect to STS or the metadata of the machine. The latter does not answer on other machines.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of ServiceAccounts that have credentials; further ones share theirs with no other export.
const ACCOUNTS_MAX: usize = 1024;
/// Maximum length of a session name, set by STS.
const SESSION_NAME_CHARS: usize = 64;
/// Maximum length of the ARN of a role, set by STS.
const ROLE_ARN_CHARS: usize = 2048;

/// Identities of a process, which all its exports share. Cheap to clone.
#[derive(Clone)]
pub struct AwsIdentities(Arc<Shared>);

struct Shared {
    environment: Arc<Environment>,
    process: TemporaryCredentials,
    accounts: Mutex<HashMap<(AccountName, String), TemporaryCredentials>>,
}

/// ServiceAccount whose token STS exchanges.
#[async_trait]
pub trait WebIdentity: Send + Sync {
    /// Returns the ServiceAccount.
    fn account(&self) -> &AccountName;

    /// Reads the ARN of its role, as it was written.
    async fn role(&self) -> Result<String, IdentityError>;

    /// Requests a token for STS.
    async fn token(&self) -> Result<SecretString, IdentityError>;
}

impl AwsIdentities {
    /// Creates the identities of a process that sends its requests through `traffic`.
    pub fn new(traffic: Traffic) -> Self {
        let environment = Arc::new(Environment {
            traffic,
            config: OnceCell::new(),
        });
        let process = TemporaryCredentials::new(
            CredentialsOrigin::Process,
            ProcessSource(Arc::clone(&environment)),
        );
        Self(Arc::new(Shared {
            environment,
            process,
            accounts: Mutex::default(),
        }))
    }

    /// Returns the credentials of this process. Reads its environment and its profile; sends nothing.
    pub async fn process(&self) -> Result<TemporaryCredentials, IdentityError> {
        self.0.environment.config().await?;
        Ok(self.0.process.clone())
    }

    /// Returns the credentials of a ServiceAccount, whose role it reads.
    pub async fn account(
        &self,
        identity: Arc<dyn WebIdentity>,
    ) -> Result<TemporaryCredentials, IdentityError> {
        let account = identity.account().clone();
        let role = checked_role(&account, identity.role().await?)?;
        let mut accounts = self.0.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (account, role);
        if let Some(known) = accounts.get(&key) {
            return Ok(known.clone());
        }
        let source = AccountSource {
            environment: Arc::clone(&self.0.environment),
            identity,
        };
        let credentials = TemporaryCredentials::new(CredentialsOrigin::ServiceAccount, source);
        if accounts.len() >= ACCOUNTS_MAX {
            accounts.retain(|_, known| known.is_used());
        }
        if accounts.len() < ACCOUNTS_MAX {
            accounts.insert(key, credentials.clone());
        }
        Ok(credentials)
    }
}

impl std::fmt::Debug for AwsIdentities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AwsIdentities")
    }
}

/// Settings of the SDK from the environment and the profile of the process.
struct Environment {
    traffic: Traffic,
    config: OnceCell<SdkConfig>,
}

impl Environment {
    async fn config(&self) -> Result<&SdkConfig, IdentityError> {
        let load = || async {
            let sts = sts_of_environment()?;
            let http = http_client(ConnectorSettings {
                hosts: &HostPolicy::any(),
                plain: false,
                ca_pem: None,
                connect_timeout: CONNECT_TIMEOUT,
                is_local: sts.as_ref().is_some_and(is_loopback),
                traffic: &self.traffic,
                label,
            })
            .map_err(|(message, _)| IdentityError::InvalidEnvironment { message })?;
            // The region of a bucket is not the region of STS. `AWS_ENDPOINT_URL_STS` wins over the region.
            let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::new())
                .or_else(Region::from_static(DEFAULT_STS_REGION));
            let config = aws_config::defaults(BehaviorVersion::latest())
                .region(region)
                .http_client(http)
                .load()
                .await;
            check_sts_profile(&config)?;
            Ok(config)
        };
        self.config.get_or_try_init(load).await
    }
}

/// The identity of the process: web identity, container or instance metadata, variables, profile.
struct ProcessSource(Arc<Environment>);

#[async_trait]
impl CredentialsSource for ProcessSource {
    async fn fetch(&self) -> Result<Credentials, IdentityError> {
        let provider = self.0.config().await?.credentials_provider();
        let provider = provider.ok_or_else(|| IdentityError::NoProcessIdentity {
            message: "none is configured".to_owned(),
        })?;
        provider
            .provide_credentials()
            .await
            .map_err(|error| process_error(&error))
    }
}

/// A ServiceAccount with the role that it names at that time.
struct AccountSource {
    environment: Arc<Environment>,
    identity: Arc<dyn WebIdentity>,
}

#[async_trait]
impl CredentialsSource for AccountSource {
    async fn fetch(&self) -> Result<Credentials, IdentityError> {
        let account = self.identity.account();
        let role = checked_role(account, self.identity.role().await?)?;
        let token = self.identity.token().await?;
        let client = aws_sdk_sts::Client::new(self.environment.config().await?);
        let reply = client
            .assume_role_with_web_identity()
            .role_arn(&role)
            .role_session_name(session_name(account))
            .web_identity_token(token.expose_secret())
            .send()
            .await;
        let reply = reply.map_err(|error| match sts_failure(&error, &[token.expose_secret()]) {
            StsFailure::Unreachable(message) => IdentityError::Unreachable { peer: "STS", message },
            StsFailure::Refused(message) => IdentityError::AccountRefused {
                account: account.clone(),
                role: role.clone(),
                message,
            },
        })?;
        let keys = reply.credentials.ok_or_else(|| IdentityError::Unreachable {
            peer: "STS",
            message: "its reply has no credentials".to_owned(),
        })?;
        Ok(Credentials::new(
            keys.access_key_id,
            keys.secret_access_key,
            // Stores other than AWS may issue keys without one.
            Some(keys.session_token).filter(|token| !token.is_empty()),
            SystemTime::try_from(keys.expiration).ok(),
            "ServiceAccount",
        ))
    }
}

/// Failure of a request to STS, as a text without secrets.
enum StsFailure {
    /// Passes by itself.
    Unreachable(String),
    /// Refusal, with its code.
    Refused(String),
}

/// Classifies a failure of STS.
fn sts_failure(
    error: &SdkError<AssumeRoleWithWebIdentityError, HttpResponse>,
    secrets: &[&str],
) -> StsFailure {
    let SdkError::ServiceError(reply) = error else {
        return StsFailure::Unreachable(redact_error(error, secrets));
    };
    let status = reply.raw().status().as_u16();
    let message = redact(
        reply.err().message().unwrap_or_default(),
        secrets,
        MAX_REDACTED_CHARS,
    );
    match reply.err().code() {
        Some(code) if status < 500 && status != 429 && !is_transient(code) => {
            let code = redact(code, secrets, MAX_REDACTED_CHARS);
            StsFailure::Refused(format!("{code}: {message}"))
        }
        code => StsFailure::Unreachable(format!("status {status} {}: {message}", code.unwrap_or_default())),
    }
}

fn is_transient(code: &str) -> bool {
    matches!(
        code,
        "IDPCommunicationError"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "ServiceUnavailable"
            | "InternalFailure"
            | "RequestExpired"
    )
}

/// Classifies the failure to get the credentials of the process.
fn process_error(error: &CredentialsError) -> IdentityError {
    type StsError = SdkError<AssumeRoleWithWebIdentityError, HttpResponse>;
    if let Some(error) = find_cause::<StsError>(error) {
        return match sts_failure(error, &[]) {
            StsFailure::Unreachable(message) => IdentityError::Unreachable { peer: "STS", message },
            StsFailure::Refused(message) => IdentityError::ProcessRefused { message },
        };
    }
    let message = credentials_problem(redact_error(error, &[]));
    // A file that cannot be read is no outage.
    let is_local = find_cause::<std::io::Error>(error).is_some_and(|error| {
        matches!(
            error.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
        )
    });
    match error {
        CredentialsError::ProviderError(_) if !is_local => IdentityError::Unreachable {
            peer: "the source of this process's identity",
            message,
        },
        CredentialsError::ProviderTimedOut(_) => IdentityError::Unreachable {
            peer: "the source of this process's identity",
            message,
        },
        _ => IdentityError::NoProcessIdentity { message },
    }
}

/// Returns what to do about a profile of IAM Identity Center, for which the SDK only names a feature of its build.
fn credentials_problem(message: String) -> String {
    if message.contains("cargo feature") {
        return "the AWS profile needs IAM Identity Center (aws sso), which this program does not speak: run `aws sso login` \
                and `eval \"$(aws configure export-credentials --format env)\"` first"
            .to_owned();
    }
    message
}

/// Checks the endpoint of STS that the environment names. Returns it if there is one.
fn sts_of_environment() -> Result<Option<Url>, IdentityError> {
    let mut named = None;
    for name in ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"] {
        if let Some(url) = std::env::var(name).ok().filter(|url| !url.is_empty()) {
            let url = parse_endpoint(&url).map_err(|rule| IdentityError::InvalidEnvironment {
                message: format!("{name}: {rule}"),
            })?;
            named.get_or_insert(url);
        }
    }
    Ok(named)
}

/// Checks the endpoint of STS that the profile names, for all services or for STS.
fn check_sts_profile(config: &SdkConfig) -> Result<(), IdentityError> {
    let key = ServiceConfigKey::builder()
        .service_id("sts")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build();
    let named = key.ok().and_then(|key| config.service_config()?.load_config(key));
    match named
        .filter(|url| !url.is_empty())
        .map(|url| parse_endpoint(&url))
    {
        Some(Err(rule)) => Err(IdentityError::InvalidEnvironment {
            message: format!("endpoint_url of the AWS profile, for STS: {rule}"),
        }),
        _ => Ok(()),
    }
}

/// Returns the ARN if it is one of a role.
fn checked_role(account: &AccountName, role: String) -> Result<String, IdentityError> {
    let mut parts = role.splitn(6, ':');
    let mut next = || parts.next().unwrap_or_default();
    let (arn, partition, service, region, id, resource) = (next(), next(), next(), next(), next(), next());
    let name = resource.strip_prefix("role/").unwrap_or_default();
    let is_role = role.len() <= ROLE_ARN_CHARS
        && arn == "arn"
        && (partition == "aws" || partition.starts_with("aws-"))
        && partition
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_lowercase())
        && service == "iam"
        && region.is_empty()
        && id.len() == 12
        && id.bytes().all(|byte| byte.is_ascii_digit())
        && !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@_/-".contains(&byte));
    if is_role {
        Ok(role)
    } else {
        Err(IdentityError::RoleMissing(account.clone()))
    }
}

/// Returns the name of a session, which the logs of AWS show: namespace and ServiceAccount, with a digest if they are
/// longer than STS allows. Both have only characters that STS allows.
fn session_name(account: &AccountName) -> String {
    let name = format!("eventexport@{}@{}", account.namespace, account.name);
    if name.len() <= SESSION_NAME_CHARS {
        return name;
    }
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(&name).into();
    let digest = format!(".{:08x}", u32::from_be_bytes([a, b, c, d]));
    let start: String = name.chars().take(SESSION_NAME_CHARS - digest.len()).collect();
    start + &digest
}

/// Returns the label of a request: the action of STS, or that of a metadata service.
fn label(request: &HttpRequest) -> RequestLabel {
    let body = request.body().bytes().unwrap_or_default();
    let action = |name: &str| body.windows(name.len()).any(|part| part == name.as_bytes());
    let operation = match request.method() {
        "POST" if action("Action=AssumeRoleWithWebIdentity&") => "AssumeRoleWithWebIdentity",
        "POST" if action("Action=AssumeRole&") => "AssumeRole",
        "GET" | "PUT" => "GetCredentials",
        _ => "Other",
    };
    RequestLabel {
        peer: Peer::Sts,
        operation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(namespace: &str, name: &str) -> AccountName {
        AccountName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn session_names_fit_sts_and_differ() {
        assert_eq!(
            session_name(&account("audit", "archive")),
            "eventexport@audit@archive"
        );
        let long = |end: &str| session_name(&account(&"n".repeat(63), &format!("{}{end}", "a".repeat(252))));
        let (one, two) = (long("1"), long("2"));
        assert_ne!(one, two);
        for name in [one, two, session_name(&account("audit", "a.b-c"))] {
            assert!((2..=SESSION_NAME_CHARS).contains(&name.len()), "{name}");
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
            assert!(name.bytes().all(allowed), "{name}");
        }
    }

    #[test]
    fn an_annotation_that_is_no_role_is_refused() {
        let account = account("audit", "archive");
        for role in [
            "arn:aws:iam::111122223333:role/archive",
            "arn:aws-cn:iam::111122223333:role/path/archive",
            "arn:aws-us-gov:iam::111122223333:role/a_b+c=d,e.f@g-h",
        ] {
            assert_eq!(checked_role(&account, role.to_owned()), Ok(role.to_owned()));
        }
        for text in [
            "",
            "archive",
            "arn:aws:iam::111122223333:user/archive",
            "arn:aws:iam::1111:role/archive",
            "arn:aws:iam::111122223333:role/",
            "arn:aws:iam::111122223333:role/a b",
            "arn:aws:sts::111122223333:role/archive",
            "arn:evil:iam::111122223333:role/archive",
            "arn:aws:iam:us-east-1:111122223333:role/archive",
            "arn:aws:iam::111122223333:role/a\nb",
        ] {
            let expected = Err(IdentityError::RoleMissing(account.clone()));
            assert_eq!(checked_role(&account, text.to_owned()), expected, "{text}");
        }
    }

    #[test]
    fn a_profile_of_identity_center_is_explained() {
        let sdk = "This behavior requires following cargo feature(s) enabled: sso".to_owned();
        assert!(credentials_problem(sdk).contains("aws configure export-credentials"));
        assert_eq!(credentials_problem("expired".to_owned()), "expired");
    }
}
