//! Store with occasional errors: a proxy before the gateway that fails some requests, before or after they are
//! carried out.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::bed::http_client;

/// Serves until dropped.
pub(super) struct FlakyStore {
    port: u16,
    upstream: Arc<FlakyUpstream>,
    _serving: AbortOnDropHandle<()>,
}

struct FlakyUpstream {
    endpoint: String,
    client: reqwest::Client,
    per_mille: u32,
    asked: AtomicU64,
    refused: AtomicU64,
    /// Carried out, but answered with an error.
    denied: AtomicU64,
}

/// Handling of a request.
enum FlakyReply {
    Forward,
    Error(StatusCode, &'static str),
    ErrorAfterForward,
}

impl FlakyStore {
    /// Starts a proxy before that endpoint; this many per thousand requests fail.
    pub(super) async fn start(endpoint: &str, per_mille: u32) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let upstream = Arc::new(FlakyUpstream {
            endpoint: endpoint.to_owned(),
            client: http_client()?,
            per_mille,
            asked: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            denied: AtomicU64::new(0),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&upstream));
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            port,
            upstream,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the numbers of all requests, of refused ones, and of those carried out but answered with an error.
    pub(super) fn counts(&self) -> [u64; 3] {
        let FlakyUpstream {
            asked,
            refused,
            denied,
            ..
        } = &*self.upstream;
        [asked, refused, denied].map(|count| count.load(Ordering::Relaxed))
    }
}

async fn answer(State(upstream): State<Arc<FlakyUpstream>>, request: Request<Body>) -> Response {
    upstream.asked.fetch_add(1, Ordering::Relaxed);
    let reply = if rand::random_range(0..1000) >= upstream.per_mille {
        FlakyReply::Forward
    } else {
        match rand::random_range(0..3) {
            0 => FlakyReply::Error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
            1 => FlakyReply::Error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            _ => FlakyReply::ErrorAfterForward,
        }
    };
    match reply {
        FlakyReply::Error(status, code) => {
            upstream.refused.fetch_add(1, Ordering::Relaxed);
            error(status, code)
        }
        FlakyReply::Forward => upstream.forward(request).await,
        FlakyReply::ErrorAfterForward => {
            upstream.denied.fetch_add(1, Ordering::Relaxed);
            upstream.forward(request).await;
            error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")
        }
    }
}

fn error(status: StatusCode, code: &str) -> Response {
    let body = format!("<Error><Code>{code}</Code><Message>a fault of the test</Message></Error>");
    (status, [(header::CONTENT_TYPE, "application/xml")], body).into_response()
}

impl FlakyUpstream {
    async fn forward(&self, request: Request<Body>) -> Response {
        self.try_forward(request).await.unwrap_or_else(|error| {
            (StatusCode::BAD_GATEWAY, format!("test proxy: {error:#}")).into_response()
        })
    }

    async fn try_forward(&self, mut request: Request<Body>) -> Result<Response> {
        // The Host header is signed and stays that of the proxy.
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = format!("{}{path}", self.endpoint).parse()?;
        let request = request.map(|body| reqwest::Body::wrap_stream(body.into_data_stream()));
        let response = self.client.execute(request.try_into()?).await?;
        let mut response = axum::http::Response::from(response).map(Body::new);
        // This header belongs to the connection, not to the response.
        response.headers_mut().remove(header::CONNECTION);
        response.headers_mut().remove(header::TRANSFER_ENCODING);
        Ok(response)
    }
}
