//! Layer of the Kubernetes client that counts its requests and applies the fence to them, as for other peers.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderValue, Method, Request, Response, header};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::{Layer, Service};

use crate::egress::{Peer, RequestLabel, Traffic};

/// Name and version of this software, as it calls itself at the API server and in its audit log.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("eventexport/", env!("CARGO_PKG_VERSION")));

/// Creates a client with this layer.
pub(super) fn client(mut config: Config, traffic: &Traffic) -> kube::Result<Client> {
    config.headers.push((header::USER_AGENT, USER_AGENT));
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&MeteredLayer(traffic.clone()))
        .build())
}

#[derive(Clone)]
struct MeteredLayer(Traffic);

impl<S> Layer<S> for MeteredLayer {
    type Service = MeteredService<S>;

    fn layer(&self, inner: S) -> MeteredService<S> {
        MeteredService {
            inner,
            traffic: self.0.clone(),
        }
    }
}

struct MeteredService<S> {
    inner: S,
    traffic: Traffic,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for MeteredService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Future: Send + 'static,
    S::Error: Send,
    ResBody: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let is_watch = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch="));
        let label = RequestLabel {
            peer: Peer::Kubernetes,
            operation: operation(request.method(), is_watch),
        };
        let traffic = self.traffic.clone();
        // The future sends the request only when it is polled, which the fence controls.
        let request = self.inner.call(request);
        Box::pin(async move {
            let status = |reply: &Result<Response<ResBody>, S::Error>| {
                reply.as_ref().ok().map(|reply| reply.status().as_u16())
            };
            traffic.send(label, request, status).await
        })
    }
}

fn operation(method: &Method, is_watch: bool) -> &'static str {
    match *method {
        Method::GET if is_watch => "Watch",
        Method::GET => "Get",
        Method::POST => "Create",
        Method::PATCH => "Patch",
        Method::PUT => "Replace",
        Method::DELETE => "Delete",
        _ => "Other",
    }
}
