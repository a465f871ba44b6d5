//! Traces by OTLP (HTTP, protobuf): each window is a trace. Spans are sent only to the configured collector; no trace
//! context is sent to the service or the store.
//!
//! The standard variables configure the exporter: `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TIMEOUT`,
//! `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`.

use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;
use url::Url;

/// Layer of the subscriber.
type SpanLayer<S> = Box<dyn Layer<S> + Send + Sync>;

/// Error in setting up traces.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The endpoint is not an HTTP URL.
    #[error("--otlp-endpoint {0}: must be the URL of an OTLP collector, such as http://otel-collector:4318")]
    Address(Url),
    /// The exporter cannot be created.
    #[error("cannot send traces to {endpoint}: {cause}")]
    Setting {
        /// URL of the collector.
        endpoint: Url,
        /// Cause.
        cause: String,
    },
    /// The program was built without traces.
    #[error("--otlp-endpoint: this program was built without traces (build it with the feature `otlp`)")]
    NotBuilt,
}

#[cfg(not(feature = "otlp"))]
pub use disabled::Traces;
#[cfg(not(feature = "otlp"))]
pub(super) use disabled::{layer, span_ids};
#[cfg(feature = "otlp")]
pub use enabled::Traces;
#[cfg(feature = "otlp")]
pub(super) use enabled::{layer, span_ids};

#[cfg(feature = "otlp")]
mod enabled {
    use std::time::Duration;

    use async_trait::async_trait;
    use bytes::Bytes;
    use http::{Request, Response};
    use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
    use opentelemetry_http::{HttpClient, HttpError};
    use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tokio::runtime::Handle;
    use tracing::{Subscriber, span};
    use tracing_subscriber::filter::{LevelFilter, Targets};

    use super::{Layer, LookupSpan, SpanLayer, TracesError, Url};

    /// Maximum time to send the remaining spans at shutdown.
    const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

    /// Timeout of a request to the collector.
    const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

    /// Exporter of spans to the collector, ended by [`Traces::shutdown`].
    pub struct Traces(Option<SdkTracerProvider>);

    impl Traces {
        /// Sends the remaining spans. Waits for two seconds at most.
        pub async fn shutdown(self) {
            let Some(provider) = self.0 else { return };
            // Blocks until tasks of this runtime are done, so it must run on another thread.
            let flushed =
                tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT)).await;
            if let Ok(Err(error)) = flushed {
                tracing::warn!(%error, "cannot send the remaining spans");
            }
        }
    }

    /// Returns the layer that sends spans, if there is a collector. Must be called in the runtime.
    pub(in crate::telemetry) fn layer<S>(
        endpoint: Option<&Url>,
    ) -> Result<(Traces, Option<SpanLayer<S>>), TracesError>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let Some(endpoint) = endpoint else {
            return Ok((Traces(None), None));
        };
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host().is_none() {
            return Err(TracesError::Address(endpoint.clone()));
        }
        let setting = |cause: String| TracesError::Setting {
            endpoint: endpoint.clone(),
            cause,
        };
        let mut client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST_TIMEOUT);
        if endpoint.scheme() == "http" {
            client = client.tls_certs_only([]);
        }
        let client = client.build().map_err(|error| setting(error.to_string()))?;
        // The path of the signal, below the address of the collector.
        // <https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp>
        let address = format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/'));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(OtlpHttpClient(client, Handle::current()))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(address)
            .build()
            .map_err(|error| setting(error.to_string()))?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("eventexport");
        }
        let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.with_attribute(version).build())
            .with_batch_exporter(exporter)
            .build();
        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("eventexport"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target("eventexport", LevelFilter::INFO));
        Ok((Traces(Some(provider)), Some(spans.boxed())))
    }

    /// Returns the ids of a span's trace and of the span, in hexadecimal. `None`: the span is not traced.
    pub(in crate::telemetry) fn span_ids(span: &span::Id) -> Option<(String, String)> {
        let context =
            tracing::dispatcher::get_default(|now| tracing_opentelemetry::get_otel_context(span, now))?;
        let context = context.span().span_context().clone();
        let ids = || (context.trace_id().to_string(), context.span_id().to_string());
        context.is_valid().then(ids)
    }

    /// HTTP client of the exporter. The exporter runs on a thread of its own; requests are sent on the runtime.
    #[derive(Debug)]
    struct OtlpHttpClient(reqwest::Client, Handle);

    #[async_trait]
    impl HttpClient for OtlpHttpClient {
        async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
            let request = reqwest::Request::try_from(request)?;
            let client = self.0.clone();
            let sent = async move {
                let response = client.execute(request).await?;
                let (status, headers) = (response.status(), response.headers().clone());
                Ok::<_, reqwest::Error>((status, headers, response.bytes().await?))
            };
            let (status, headers, body) = self.1.spawn(sent).await??;
            let mut response = Response::new(body);
            (*response.status_mut(), *response.headers_mut()) = (status, headers);
            Ok(response)
        }
    }
}

#[cfg(not(feature = "otlp"))]
mod disabled {
    use tracing::span;

    use super::{LookupSpan, SpanLayer, TracesError, Url};

    /// Traces that are disabled.
    pub struct Traces;

    impl Traces {
        /// Does nothing.
        pub async fn shutdown(self) {}
    }

    pub(in crate::telemetry) fn layer<S>(
        endpoint: Option<&Url>,
    ) -> Result<(Traces, Option<SpanLayer<S>>), TracesError>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        match endpoint {
            None => Ok((Traces, None)),
            Some(_) => Err(TracesError::NotBuilt),
        }
    }

    pub(in crate::telemetry) fn span_ids(_: &span::Id) -> Option<(String, String)> {
        None
    }
}
