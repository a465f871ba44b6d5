//! Configuration of the SDK client: no retries, checksums or hosts of its own choice. Builds the client and inspects
//! each request and reply; the SDK does the I/O.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use aws_runtime::auth::SigV4OperationSigningConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextMut,
    BeforeTransmitInterceptorContextMut, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    AppName, ConfigBag, Credentials, IdentityCache, Intercept, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, RuntimeComponents, SharedCredentialsProvider, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_sigv4::http_request::SignableBody;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::dns::SharedDnsResolver;
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use url::Url;

use super::document::{BadDocument, check_document};
use super::limited::LimitedConnector;
use super::metered::{MeteredConnector, s3_label};
use super::{S3Credentials, S3Settings};
use crate::api::{Remedy, Setting};
use crate::egress::{
    CheckedResolver, ClientSettings, HostPolicy, RequestLabel, Traffic, all_exempt, check_ca, check_proxies,
    is_loopback,
};
use crate::storage::StoreError;

/// Maximum age of the `Date` header from which the store's time is derived: a minute.
const CLOCK_MAX_AGE: Duration = Duration::from_mins(1);

/// Headers of replies that this program does not use, and that the SDK rejects in unusual formats.
const UNUSED_HEADERS: [&str; 4] = [
    "expires",
    "x-amz-object-lock-retain-until-date",
    "x-amz-missing-meta",
    "x-amz-mp-parts-count",
];

/// The store's clock: the `Date` of the latest reply plus the monotonic time since then.
#[derive(Debug, Default)]
pub(super) struct StoreClock(Mutex<Option<(Timestamp, Instant)>>);

impl StoreClock {
    fn set(&self, date: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((date, Instant::now()));
    }

    /// Returns the time if a reply of the last minute had a `Date`. Its precision is one second, that of the header.
    pub(super) fn now(&self) -> Option<Timestamp> {
        let (date, at) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = at.elapsed();
        date.checked_add(since).ok().filter(|_| since < CLOCK_MAX_AGE)
    }
}

/// Returns the address of the store, which is that of S3 in the region if none is configured.
pub(super) fn endpoint_of(settings: &S3Settings) -> Option<Url> {
    store_address(settings.endpoint.as_ref(), &settings.region)
}

fn store_address(endpoint: Option<&Url>, region: &str) -> Option<Url> {
    let aws = || Url::parse(&format!("https://s3.{region}.amazonaws.com")).ok();
    endpoint.cloned().or_else(aws)
}

/// Returns the address of a bucket. Without path style, its name is part of the host.
pub fn bucket_address(endpoint: Option<&Url>, region: &str, bucket: &str, path_style: bool) -> Option<Url> {
    let mut address = store_address(endpoint, region)?;
    if !path_style && let Some(host) = address.host_str() {
        let host = format!("{bucket}.{host}");
        // An IP address has no subdomains: then the address stays as it is.
        let _ = address.set_host(Some(&host));
    }
    Some(address)
}

/// Builds the client. Sends nothing.
pub(super) fn build(settings: &S3Settings, clock: Arc<StoreClock>) -> Result<Client, StoreError> {
    let invalid_settings = |(message, remedy)| StoreError::InvalidSettings {
        store: settings.identity().to_string(),
        message,
        remedy,
    };
    if let Some(endpoint) = &settings.endpoint {
        settings.hosts.check_url(endpoint)?;
    }
    let http = http_client(ConnectorSettings {
        hosts: &settings.hosts,
        plain: settings
            .endpoint
            .as_ref()
            .is_some_and(|url| url.scheme() == "http"),
        ca_pem: settings.ca_pem.as_deref(),
        connect_timeout: settings.timeouts.connect,
        is_local: settings.endpoint.as_ref().is_some_and(is_loopback),
        traffic: &settings.traffic,
        label: s3_label,
    })
    .map_err(invalid_settings)?;
    let region = Region::new(settings.region.clone());
    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(credentials(&settings.credentials))
        // `TemporaryCredentials` are a cache that all clients share.
        .identity_cache(IdentityCache::no_cache())
        .region(region)
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        // `TransferProgress` covers both directions and the wait for the reply.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .force_path_style(settings.force_path_style)
        .interceptor(RequestInterceptor {
            hosts: settings.hosts.clone(),
            clock,
            requester_pays: settings.requester_pays,
        });
    // Part of the user agent, which access logs of stores show.
    config.set_app_name(AppName::new(concat!("eventexport-", env!("CARGO_PKG_VERSION"))).ok());
    config.set_endpoint_url(
        settings
            .endpoint
            .as_ref()
            // The SDK appends the bucket's name to a path without a slash.
            .map(|url| format!("{}/", url.as_str().trim_end_matches('/'))),
    );
    Ok(Client::from_conf(config.build()))
}

fn credentials(wanted: &S3Credentials) -> SharedCredentialsProvider {
    match wanted {
        S3Credentials::Static {
            access_key_id,
            secret_access_key,
            session_token,
        } => SharedCredentialsProvider::new(Credentials::new(
            access_key_id,
            secret_access_key.expose_secret(),
            session_token
                .as_ref()
                .map(|token| token.expose_secret().to_owned()),
            None,
            "Secret",
        )),
        S3Credentials::Temporary(credentials) => SharedCredentialsProvider::new(credentials.clone()),
    }
}

/// Settings of the connections of a client.
#[derive(Clone, Copy)]
pub(super) struct ConnectorSettings<'a> {
    /// Hosts that names may resolve to.
    pub(super) hosts: &'a HostPolicy,
    /// True without TLS.
    pub(super) plain: bool,
    /// Certificates to trust in addition to the system's, PEM.
    pub(super) ca_pem: Option<&'a [u8]>,
    pub(super) connect_timeout: Duration,
    /// True if the client contacts this machine only, without a proxy.
    pub(super) is_local: bool,
    pub(super) traffic: &'a Traffic,
    /// Label of a request in metrics.
    pub(super) label: fn(&HttpRequest) -> RequestLabel,
}

/// Message and remedy.
pub(super) type InvalidSettings = (String, Option<Remedy>);

/// Returns a client with these connections, which clients with equal settings and label share.
pub(super) fn http_client(settings: ConnectorSettings<'_>) -> Result<SharedHttpClient, InvalidSettings> {
    let mut shared = ClientSettings::new(
        settings.hosts,
        settings.plain,
        settings.ca_pem,
        settings.connect_timeout,
    );
    // What may go in the clear goes to this machine, and not to a proxy.
    if settings.is_local || all_exempt() {
        shared = shared.without_proxies();
    } else {
        check_proxies()
            .map_err(|error| (error.to_string(), Some(Remedy::new(Setting::Proxy, "correct {}"))))?;
    }
    let proxies = shared.has_proxies();
    let connector = settings
        .traffic
        .clients()
        .get_or_build(shared, || build_connector(settings, proxies))?;
    Ok(http_client_fn(move |_, _| SharedHttpConnector::clone(&connector)))
}

fn build_connector(
    settings: ConnectorSettings<'_>,
    proxies: bool,
) -> Result<SharedHttpConnector, InvalidSettings> {
    // Reading the system certificates takes time, and a machine may have none.
    let mut trust = TrustStore::empty().with_native_roots(!settings.plain);
    if let Some(pem) = settings.ca_pem {
        // The TLS library of the SDK panics on certificates that it cannot parse.
        check_ca(pem).map_err(|error| {
            (
                format!("the certificate authority {error}"),
                Some(Remedy::new(Setting::BucketCa, "correct {}")),
            )
        })?;
        trust = trust.with_pem_certificate(pem.to_vec());
    }
    let context = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| (format!("cannot set up TLS: {error}"), None))?;
    let proxy = if proxies {
        ProxyConfig::from_env()
    } else {
        ProxyConfig::disabled()
    };
    let connector = Connector::builder()
        .connector_settings(
            HttpConnectorSettings::builder()
                .connect_timeout(settings.connect_timeout)
                .build(),
        )
        .proxy_config(proxy)
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context);
    let resolver = SharedDnsResolver::new(CheckedResolver::new(settings.hosts.clone()));
    let connector = SharedHttpConnector::new(connector.build_with_resolver(resolver));
    Ok(SharedHttpConnector::new(MeteredConnector {
        inner: SharedHttpConnector::new(LimitedConnector(connector)),
        traffic: settings.traffic.clone(),
        label: settings.label,
    }))
}

/// Checks the host of each request, and reads the `Date` of each reply.
#[derive(Debug)]
struct RequestInterceptor {
    hosts: HostPolicy,
    clock: Arc<StoreClock>,
    requester_pays: bool,
}

impl Intercept for RequestInterceptor {
    fn name(&self) -> &'static str {
        "RequestInterceptor"
    }

    /// Checks the host here, where it is final: the SDK may have prepended the bucket's name.
    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let url = Url::parse(context.request().uri())?;
        Ok(self.hosts.check_url(&url)?)
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if self.requester_pays {
            let headers = context.request_mut().headers_mut();
            headers.insert("x-amz-request-payer", "requester");
        }
        Ok(())
    }

    /// Repairs headers that the SDK would reject, together with the reply.
    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        let headers = response.headers_mut();
        if let Some(date) = headers.get("date").and_then(parse_date) {
            self.clock.set(date);
        }
        if let Some(modified) = headers.get("last-modified").map(parse_date) {
            headers.remove("last-modified");
            if let Some(modified) = modified {
                headers.insert("last-modified", http_date(modified));
            }
        }
        for unused in UNUSED_HEADERS {
            headers.remove(unused);
        }
        let html = headers
            .get("content-type")
            .is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html"));
        // An object that is a page, such as a report, has user metadata.
        let has_metadata = headers.iter().any(|(name, _)| name.starts_with("x-amz-meta-"));
        if html && !has_metadata && response.status().is_success() {
            return Err(BadDocument::WebPage.into());
        }
        Ok(())
    }

    /// Checks the documents of S3 here, where they are read completely; an object is still a stream.
    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        match response.body().bytes() {
            Some(body) if response.status().is_success() => Ok(check_document(body)?),
            _ => Ok(()),
        }
    }
}

/// Parses a date of HTTP, or one in ISO 8601, which some stores send instead.
fn parse_date(text: &str) -> Option<Timestamp> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new();
    parser.parse_timestamp(text).or_else(|_| text.parse()).ok()
}

fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Signs the body of one request by this SHA-256 (hexadecimal). The SDK leaves a streamed body unsigned.
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
        assert_eq!(parse_date("2018-06-28T07:00:00.000Z"), Some(date));
        assert_eq!(http_date(date), "Thu, 28 Jun 2018 07:00:00 GMT");
        clock.set(date);
        let now = clock.now().unwrap();
        assert!(now >= date && now.as_second() - date.as_second() < 30);
    }
}
