//! HTTP requests to the tracker, its UAA or its API: allowed hosts only, bounded replies, redirects to the same origin
//! only. Network I/O; retries are up to the caller.

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Method, StatusCode, header};
use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::error_text::MAX_ERROR_PAGE_BYTES;
use super::{Timeouts, TrackerError};
use crate::api::{Setting, find_cause, redact_error, sanitize};
use crate::egress::{
    CheckedResolver, ClientSettings, HostDenied, HostPolicy, Peer, RequestLabel, Traffic, all_exempt,
    ca_certificates, check_proxies, is_loopback, via_proxy,
};

/// Maximum size of a JSON reply: 2 MiB. A session has less than 1 KiB and a day of the listing less than 200 bytes;
/// parsed JSON may take thirty times the size of its text.
pub(super) const MAX_REPLY_BYTES: usize = 2 * 1024 * 1024;
/// Maximum number of redirects of one GET.
const MAX_REDIRECTS: u32 = 3;
/// Time for which an idle connection is reused: peers close idle ones after 5 s or more.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of idle connections per host: the number of sessions in a space.
const MAX_IDLE_PER_HOST: usize = 30;

/// HTTP client with its allow-list.
#[derive(Debug)]
pub(super) struct Transport {
    client: Arc<reqwest::Client>,
    /// Client for this machine, without proxies: its URLs may be `http`.
    local_client: Arc<reqwest::Client>,
    hosts: HostPolicy,
    traffic: Traffic,
}

/// Request to send.
pub(super) struct HttpRequest {
    /// Label for metrics.
    pub label: RequestLabel,
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Option<Bytes>,
}

/// Complete reply.
pub(super) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Transport {
    /// Creates a transport. Its clients speak HTTP/1.1 only: each download has its own connection, so that a slow bucket
    /// delays no other transfer, and length or chunks mark the end of a body. Requests to this machine use no proxy, and if
    /// every configured URL is `http`, the system's certificates are not read.
    pub(super) fn new(
        urls: &[&Url],
        hosts: HostPolicy,
        ca_pem: Option<&[u8]>,
        timeouts: &Timeouts,
        traffic: Traffic,
    ) -> Result<Self, TrackerError> {
        for url in urls {
            hosts.check_url(url)?;
        }
        let plain = urls.iter().all(|url| url.scheme() == "http");
        let settings = ClientSettings::new(&hosts, plain, ca_pem, timeouts.connect);
        let shared = |settings: ClientSettings| {
            let proxies = settings.has_proxies();
            let build = || build_client(&hosts, plain, proxies, ca_pem, timeouts);
            traffic.clients().get_or_build(settings, build)
        };
        let proxied = urls.iter().any(|url| !is_loopback(url)) && !all_exempt();
        if proxied {
            check_proxies().map_err(|error| TrackerError::Config {
                setting: Setting::Proxy,
                why: error.to_string(),
            })?;
        }
        let direct = settings.clone().without_proxies();
        let client = shared(if proxied { settings } else { direct.clone() })?;
        let local_client = if urls.iter().any(|url| is_loopback(url)) {
            shared(direct)?
        } else {
            Arc::clone(&client)
        };
        Ok(Self {
            client,
            local_client,
            hosts,
            traffic,
        })
    }

    /// Sends a request and returns the head of the reply, of any status. The head must arrive by `deadline`.
    pub(super) async fn send(
        &self,
        request: &HttpRequest,
        deadline: Instant,
    ) -> Result<reqwest::Response, TrackerError> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            // Only sessions are deleted.
            if request.method == Method::DELETE {
                self.hosts.check_deletion(&url)?;
            } else {
                self.hosts.check_url(&url)?;
            }
            let client = if is_loopback(&url) {
                &self.local_client
            } else {
                &self.client
            };
            let mut builder = client
                .request(request.method.clone(), url.clone())
                .headers(request.headers.clone());
            if let Some(body) = &request.body {
                builder = builder.body(body.clone());
            }
            let status = |reply: &Result<reqwest::Result<reqwest::Response>, _>| {
                let reply = reply.as_ref().ok()?.as_ref().ok()?;
                Some(reply.status().as_u16())
            };
            let response = self
                .traffic
                .send(request.label, timeout_at(deadline, builder.send()), status)
                .await
                .map_err(|_| TrackerError::Timeout {
                    host: host_of(&url),
                    sent: true,
                })?
                .map_err(|error| transport_error(error, &url))?;
            // Headers and bodies are never logged: they contain tokens.
            tracing::trace!(method = %request.method, host = %host_of(&url), path = url.path(), status = response.status().as_u16(), "request completed");
            let Some(target) = redirect_target(&response, &url) else {
                return Ok(response);
            };
            if request.method != Method::GET || !same_origin(&url, &target) {
                return Err(TrackerError::Redirected {
                    host: host_of(&url),
                    to_host: host_of(&target),
                });
            }
            url = target;
        }
        Err(TrackerError::Redirected {
            host: host_of(&request.url),
            to_host: host_of(&url),
        })
    }

    /// Returns the policy of hosts.
    pub(super) fn hosts(&self) -> &HostPolicy {
        &self.hosts
    }

    /// Counts a repeated request.
    pub(super) fn record_retry(&self, peer: Peer) {
        self.traffic.record_retry(peer);
    }

    /// Sends a request and reads the reply, both by `deadline`.
    pub(super) async fn send_and_read(
        &self,
        request: &HttpRequest,
        what: &'static str,
        deadline: Instant,
    ) -> Result<Reply, TrackerError> {
        let response = self.send(request, deadline).await?;
        read_reply(response, what, deadline).await
    }
}

/// Reads a reply. A success must be complete and smaller than [`MAX_REPLY_BYTES`]; the beginning of an error page is
/// enough.
pub(super) async fn read_reply(
    mut response: reqwest::Response,
    what: &'static str,
    deadline: Instant,
) -> Result<Reply, TrackerError> {
    let (status, headers, url) = (
        response.status(),
        response.headers().clone(),
        response.url().clone(),
    );
    let success = status.is_success();
    let limit = if success {
        MAX_REPLY_BYTES
    } else {
        MAX_ERROR_PAGE_BYTES
    };
    let mut body = BytesMut::new();
    loop {
        match timeout_at(deadline, response.chunk()).await {
            Ok(Ok(Some(chunk))) if body.len() + chunk.len() <= limit => body.extend_from_slice(&chunk),
            Ok(Ok(Some(_))) if success => {
                let why = format!("the reply is larger than {limit} bytes");
                return Err(TrackerError::BadReply {
                    host: host_of(&url),
                    what,
                    why,
                });
            }
            Ok(Ok(None)) => break,
            _ if !success => break,
            Ok(Ok(Some(_))) => break,
            Ok(Err(error)) => return Err(transport_error(error, &url)),
            Err(_) => {
                return Err(TrackerError::Timeout {
                    host: host_of(&url),
                    sent: true,
                });
            }
        }
    }
    Ok(Reply {
        status,
        headers,
        body: body.freeze(),
    })
}

fn build_client(
    hosts: &HostPolicy,
    plain: bool,
    proxies: bool,
    ca_pem: Option<&[u8]>,
    timeouts: &Timeouts,
) -> Result<reqwest::Client, TrackerError> {
    let mut builder = reqwest::Client::builder()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        // Reuse only connections that replied a moment ago: if the peer is about to close one, the outcome of a
        // POST is unknown, and a possibly open session costs far more than a handshake. See docs/adr/0015.
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
        .connect_timeout(timeouts.connect)
        .user_agent(concat!("eventexport/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(CheckedResolver::new(hosts.clone()));
    if !proxies {
        builder = builder.no_proxy();
    }
    builder = match ca_pem {
        Some(pem) => builder.tls_certs_merge(ca_certificates(pem)?),
        None if plain => builder.tls_certs_only([]),
        None => builder,
    };
    builder.build().map_err(|error| TrackerError::Config {
        setting: Setting::SourceCa,
        why: redact_error(&error, &[]),
    })
}

/// Returns the target of a redirect. `None`: the reply is not a redirect.
fn redirect_target(response: &reqwest::Response, base: &Url) -> Option<Url> {
    if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?;
    base.join(std::str::from_utf8(location.as_bytes()).ok()?).ok()
}

/// Returns true if scheme, host and port are equal: a token may be sent to both.
fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// Returns the host, and the port unless it is the default, for errors.
pub(super) fn host_of(url: &Url) -> String {
    // A redirect may contain any text that fits a header.
    let host = sanitize(url.host_str().unwrap_or_default());
    url.port()
        .map_or_else(|| host.to_string(), |port| format!("{host}:{port}"))
}

/// Converts a failure below HTTP into an error.
pub(super) fn transport_error(error: reqwest::Error, url: &Url) -> TrackerError {
    let host = host_of(url);
    let sent = !(error.is_connect() || error.is_dns() || error.is_builder());
    let error = error.without_url();
    if let Some(denied) = find_cause::<HostDenied>(&error) {
        return denied.clone().into();
    }
    if let Some(tls) = find_cause::<rustls::Error>(&error) {
        return TrackerError::Tls {
            host,
            why: redact_error(tls, &[]),
        };
    }
    if error.is_timeout() {
        return TrackerError::Timeout { host, sent };
    }
    TrackerError::Network {
        host,
        why: redact_error(&error, &[]) + &via_proxy(url),
        sent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_follows_redirects_to_the_same_origin_only() {
        let base: Url = "https://t.example/v3/sessions".parse().unwrap();
        for (target, same) in [
            ("https://t.example/moved", true),
            ("https://T.EXAMPLE:443/moved", true),
            ("http://t.example/moved", false),
            ("http://t.example:443/moved", false),
            ("https://t.example:8443/moved", false),
            ("https://t.example.evil.example/", false),
            ("https://x.t.example/", false),
            ("https://t.example@evil.example/", false),
            ("https://evil.example/https://t.example/", false),
        ] {
            assert_eq!(same_origin(&base, &target.parse().unwrap()), same, "{target}");
        }
    }
}
