//! The S3 client as this program wants it: no retries, no checksums and no hosts of its own choice. It
//! builds a client and looks at each request and reply; sending them is the SDK's.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use aws_runtime::auth::SigV4OperationSigningConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
    BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    ConfigBag, Credentials, Intercept, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    RuntimeComponents, SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_sigv4::http_request::SignableBody;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::dns::SharedDnsResolver;
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector, http_client_fn};
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use url::Url;

use super::s3_limited::LimitedConnector;
use super::s3_metered::MeteredConnector;
use super::{S3Credentials, S3Settings, StoreError};
use crate::egress::{CheckedResolver, HostDenied, HostPolicy, check_ca};

/// For how long a reply's `Date` and the time since tell the store's clock: a minute.
const CLOCK_MAX_AGE: Duration = Duration::from_mins(1);

/// Where the client may send requests: asked with the address of each request, and while a name is resolved.
pub trait HostCheck: fmt::Debug + Send + Sync {
    /// Whether a request may go to this address.
    fn check_url(&self, url: &Url) -> Result<(), HostDenied>;
    /// What resolves names and refuses addresses; `None`: the system's resolver, unchecked.
    fn resolver(&self) -> Option<SharedDnsResolver>;
}

/// Every host: for the command line, where the user's own network is the limit.
#[derive(Clone, Copy, Debug)]
pub struct AnyHost;

impl HostCheck for AnyHost {
    fn check_url(&self, _: &Url) -> Result<(), HostDenied> {
        Ok(())
    }

    fn resolver(&self) -> Option<SharedDnsResolver> {
        None
    }
}

impl HostCheck for HostPolicy {
    fn check_url(&self, url: &Url) -> Result<(), HostDenied> {
        Self::check_url(self, url)
    }

    fn resolver(&self) -> Option<SharedDnsResolver> {
        Some(SharedDnsResolver::new(CheckedResolver::new(self.clone())))
    }
}

/// The store's clock, as its replies tell it. Counted on from the latest one by a clock that is never set.
#[derive(Debug, Default)]
pub(super) struct StoreClock(Mutex<Option<(Timestamp, Instant)>>);

impl StoreClock {
    fn set(&self, date: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((date, Instant::now()));
    }

    /// The time, where a reply of the last minute told it. It is exact to a second, as the header is.
    pub(super) fn now(&self) -> Option<Timestamp> {
        let (date, at) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = at.elapsed();
        date.checked_add(since).ok().filter(|_| since < CLOCK_MAX_AGE)
    }
}

/// Makes the client. Looks for the pod's identity (which may ask the metadata service) only when told to.
pub(super) async fn build(settings: &S3Settings, clock: Arc<StoreClock>) -> Result<Client, StoreError> {
    let invalid_settings = |message: String| StoreError::InvalidSettings {
        store: format!("s3://{}", settings.bucket),
        message,
    };
    if let Some(endpoint) = &settings.endpoint {
        settings.hosts.check_url(endpoint)?;
    }
    let http = http_client(settings).map_err(invalid_settings)?;
    let region = Region::new(settings.region.clone());
    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(
            credentials(&settings.credentials, region.clone())
                .await
                .map_err(invalid_settings)?,
        )
        .region(region)
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        // Ours looks at both directions and at the wait for the reply.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .force_path_style(settings.force_path_style)
        .interceptor(RequestInterceptor {
            hosts: Arc::clone(&settings.hosts),
            clock,
        });
    config.set_endpoint_url(
        settings
            .endpoint
            .as_ref()
            // With its slash: the SDK puts the bucket's name right behind a path.
            .map(|url| format!("{}/", url.as_str().trim_end_matches('/'))),
    );
    Ok(Client::from_conf(config.build()))
}

async fn credentials(wanted: &S3Credentials, region: Region) -> Result<SharedCredentialsProvider, String> {
    match wanted {
        S3Credentials::Static {
            access_key_id,
            secret_access_key,
            session_token,
        } => Ok(SharedCredentialsProvider::new(Credentials::new(
            access_key_id,
            secret_access_key.expose_secret(),
            session_token
                .as_ref()
                .map(|token| token.expose_secret().to_owned()),
            None,
            "Secret",
        ))),
        // Its hosts (STS, metadata) are named by the pod's environment, not by a tenant, so they are
        // not checked.
        S3Credentials::PodIdentity => aws_config::defaults(BehaviorVersion::latest())
            .region(region)
            .load()
            .await
            .credentials_provider()
            .ok_or_else(|| {
                "the pod has no identity: give spec.destination.s3.credentialsSecretRef".to_owned()
            }),
    }
}

fn http_client(settings: &S3Settings) -> Result<SharedHttpClient, String> {
    let plain = settings
        .endpoint
        .as_ref()
        .is_some_and(|url| url.scheme() == "http");
    // System certificates take a while to read, and a machine need not have any.
    let mut trust = TrustStore::empty().with_native_roots(!plain);
    if let Some(pem) = &settings.ca_pem {
        // The TLS library of the SDK panics on certificates that it cannot read, so they are read before.
        check_ca(pem, "spec.destination.s3.caSecretRef").map_err(|error| error.to_string())?;
        trust = trust.with_pem_certificate(pem.clone());
    }
    let context = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let connector = Connector::builder()
        .connector_settings(
            HttpConnectorSettings::builder()
                .connect_timeout(settings.timeouts.connect)
                .build(),
        )
        .proxy_config(ProxyConfig::from_env())
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context);
    let connector = SharedHttpConnector::new(match settings.hosts.resolver() {
        Some(resolver) => connector.build_with_resolver(resolver),
        None => connector.build(),
    });
    let metered = SharedHttpConnector::new(MeteredConnector {
        inner: SharedHttpConnector::new(LimitedConnector(connector)),
        traffic: settings.traffic.clone(),
    });
    Ok(http_client_fn(move |_, _| metered.clone()))
}

/// Sees each request before it leaves and each reply as it comes.
#[derive(Debug)]
struct RequestInterceptor {
    hosts: Arc<dyn HostCheck>,
    clock: Arc<StoreClock>,
}

impl Intercept for RequestInterceptor {
    fn name(&self) -> &'static str {
        "RequestInterceptor"
    }

    /// The host is final only now: the SDK may have put the bucket's name before it.
    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let url = Url::parse(context.request().uri())?;
        Ok(self.hosts.check_url(&url)?)
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(date) = context.response().headers().get("date").and_then(parse_date) {
            self.clock.set(date);
        }
        Ok(())
    }
}

fn parse_date(text: &str) -> Option<Timestamp> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new();
    parser.parse_timestamp(text).ok()
}

/// Signs one request's body by this SHA-256 (hexadecimal), where the SDK would leave a streamed body unsigned.
#[derive(Debug)]
pub(super) struct SignedBody(pub(super) String);

impl Intercept for SignedBody {
    fn name(&self) -> &'static str {
        "SignedBody"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let mut config = bag
            .load::<SigV4OperationSigningConfig>()
            .cloned()
            .ok_or("the request is not signed by SigV4")?;
        config.signing_options.payload_override = Some(SignableBody::Precomputed(self.0.clone()));
        bag.interceptor_state().store_put(config);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_advances_from_the_latest_response() {
        let clock = StoreClock::default();
        assert_eq!(clock.now(), None);
        let date = parse_date("Thu, 28 Jun 2018 07:00:00 GMT").unwrap();
        assert_eq!(date.to_string(), "2018-06-28T07:00:00Z");
        clock.set(date);
        let now = clock.now().unwrap();
        assert!(now >= date && now.as_second() - date.as_second() < 30);
    }
}
