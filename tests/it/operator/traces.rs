//! Traces by OTLP, as a real receiver gets them, and their log lines.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use eventexport::simulator::DEFAULT_API_KEY;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::{eventually, wait_conditions};
use crate::testkit::environment::Environment;
use crate::testkit::operator::SHORT_LEASE;

#[derive(Clone, Default)]
pub(crate) struct ReceivedSpans {
    spans: Arc<Mutex<Vec<Span>>>,
    resources: Arc<Mutex<Vec<KeyValue>>>,
}

impl ReceivedSpans {
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }
}

/// Accepts only requests that follow the protocol.
async fn receive(State(received): State<ReceivedSpans>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let kind = headers.get("content-type").map(|kind| kind.as_bytes().to_vec());
    let (true, Ok(request)) = (
        kind.as_deref() == Some(b"application/x-protobuf"),
        ExportTraceServiceRequest::decode(body),
    ) else {
        return StatusCode::BAD_REQUEST;
    };
    for of_resource in request.resource_spans {
        let attributes = of_resource.resource.unwrap_or_default().attributes;
        received.resources.lock().unwrap().extend(attributes);
        for of_scope in of_resource.scope_spans {
            received.spans.lock().unwrap().extend(of_scope.spans);
        }
    }
    StatusCode::OK
}

pub(crate) async fn collector() -> Result<(String, ReceivedSpans, AbortOnDropHandle<()>)> {
    let received = ReceivedSpans::default();
    let routes = Router::new()
        .route("/v1/traces", post(receive))
        .with_state(received.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let serving = tokio::spawn(async move {
        let _ = axum::serve(listener, routes).await;
    });
    Ok((url, received, AbortOnDropHandle::new(serving)))
}

/// Returns an attribute as text.
fn attribute(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|one| one.key == name);
    let value = found.and_then(|one| one.value.as_ref()?.value.as_ref());
    value.map_or_else(String::new, |value| format!("{value:?}"))
}

fn hexadecimal(id: &[u8]) -> String {
    use std::fmt::Write as _;
    id.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[tokio::test]
async fn a_window_is_a_trace_and_its_log_lines_carry_the_trace_id() -> Result<()> {
    let fixture = Environment::builder("traces").start().await?;
    // Gives the run something to log.
    fixture.simulator.add_preset("cut@2018-06-05x1")?;
    fixture
        .create("june", ["2018-06-04", "2018-06-07"], &json!({}))
        .await?;
    let (url, received, _serving) = collector().await?;
    let operator = fixture
        .operator()
        .lease(SHORT_LEASE)
        .args(&["--otlp-endpoint", &url]);
    let operator = operator
        .env("EVENTEXPORT_LOG", "warn,eventexport=debug")
        .start()
        .await?;
    let complete = ["True/Complete", "", "", ""];
    wait_conditions(fixture.cluster, &fixture.namespace, "june", complete).await?;
    operator.signal("-TERM").await?;
    operator.wait(super::TIMEOUT).await?;

    let name = format!("{}/june", fixture.namespace);
    let spans = received.spans();
    let of_day = |day: &str| {
        let window_span = |span: &&Span| span.name == "window" && attribute(span, "window").contains(day);
        spans
            .iter()
            .find(window_span)
            .with_context(|| format!("no trace of {day}"))
    };
    for day in ["2018-06-04", "2018-06-05", "2018-06-06", "2018-06-07"] {
        let window = of_day(day)?;
        ensure!(window.parent_span_id.is_empty(), "a trace of its own");
        ensure!(attribute(window, "export").contains(&name), "{window:?}");
        ensure!(attribute(window, "attempt").len() > 26, "{window:?}");
        let trace: Vec<&Span> = spans
            .iter()
            .filter(|span| span.trace_id == window.trace_id)
            .collect();
        for step in ["session", "download", "upload", "commit", "close"] {
            ensure!(trace.iter().any(|span| span.name == step), "{day}: no {step}");
        }
        for operation in ["CreateSession", "Download", "PutObject", "DeleteSession"] {
            let asks = |span: &&&Span| attribute(span, "operation").contains(operation);
            let request = trace.iter().find(asks);
            let request = request.with_context(|| format!("{day}: no request {operation}"))?;
            ensure!(
                request.name == "request" && attribute(request, "code").contains("20"),
                "{request:?}"
            );
            ensure!(request.end_time_unix_nano >= request.start_time_unix_nano);
        }
    }
    let services = received.resources.lock().unwrap().clone();
    let service = services.iter().find(|one| one.key == "service.name");
    ensure!(format!("{service:?}").contains("\"eventexport\""), "{service:?}");

    let cut = of_day("2018-06-05")?;
    let lines = operator.lines();
    let resumed = lines.iter().find(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.contains("resuming download")
    });
    let resumed = resumed.context("the resumed download has no log line")?;
    ensure!(
        resumed["export"] == name.as_str() && resumed["window"] == "2018-06-05",
        "{resumed}"
    );
    ensure!(
        resumed["run"].is_string() && resumed["attempt"].is_string(),
        "{resumed}"
    );
    ensure!(
        resumed["trace_id"] == hexadecimal(&cut.trace_id).as_str(),
        "{resumed}"
    );
    let of_engine = lines.iter().filter(|line| {
        let target = line["target"].as_str().unwrap_or_default();
        [
            "eventexport::export",
            "eventexport::tracker",
            "eventexport::storage",
        ]
        .iter()
        .any(|module| target.starts_with(module))
    });
    for line in of_engine {
        ensure!(
            line["export"] == name.as_str() && line["run"].is_string(),
            "{line}"
        );
    }

    // No secret went to the collector, and no trace data to the audited service.
    ensure!(!format!("{spans:?}").contains(DEFAULT_API_KEY));
    for request in fixture.tracker.requests() {
        ensure!(
            !request.headers.to_ascii_lowercase().contains("traceparent"),
            "{}",
            request.line
        );
    }
    eventually("the sessions are gone", async || {
        Ok(fixture.simulator.open_sessions().is_empty())
    })
    .await
}

#[tokio::test]
async fn a_missing_collector_delays_nothing() -> Result<()> {
    let fixture = Environment::builder("untraced").start().await?;
    fixture
        .create("june", ["2018-06-04", "2018-06-07"], &json!({}))
        .await?;
    let nobody = ["--otlp-endpoint", "http://127.0.0.1:1"];
    let operator = fixture
        .operator()
        .lease(SHORT_LEASE)
        .args(&nobody)
        .start()
        .await?;
    let complete = ["True/Complete", "", "", ""];
    wait_conditions(fixture.cluster, &fixture.namespace, "june", complete).await?;
    operator.signal("-TERM").await?;
    let ended = operator.wait(super::TIMEOUT).await?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}
