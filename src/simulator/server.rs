//! Accepts connections, and serves the requests of each in sequence. Reads and writes sockets.

use std::io;
use std::sync::Arc;

use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, ConnectionAction, Incoming, ServerResponse};
use super::effect::NoReplyMode;
use super::outcome::{DownloadRecord, RouteOutcome};
use super::reply::json_response;
use super::router::route;
use super::service::SimulatedService;

/// Maximum concurrent connections; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;

/// Serves until `stop`, then closes every connection.
pub(super) async fn serve(service: Arc<SimulatedService>, listener: TcpListener, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = connections.join_next() => continue,
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(Arc::clone(&service), stream));
                }
                Err(error) => tracing::warn!(%error, "cannot accept connection"),
            },
        }
    }
    connections.shutdown().await;
}

async fn serve_connection(service: Arc<SimulatedService>, stream: TcpStream) {
    // Otherwise small responses wait for an acknowledgment of the peer.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut connection = Connection::new(stream);
    let action = loop {
        match serve_request(&service, &mut connection).await {
            Ok(ConnectionAction::KeepAlive) => {}
            Ok(action) => break action,
            // The peer closed the connection.
            Err(_) => break ConnectionAction::Close,
        }
    };
    match action {
        // A close with unread requests would be a reset; there are none.
        ConnectionAction::KeepAlive | ConnectionAction::Close => {}
        ConnectionAction::Reset => drop(connection.stream.set_zero_linger()),
        ConnectionAction::Hang => drop(connection.hang().await),
    }
}

/// Serves one request.
async fn serve_request(
    service: &Arc<SimulatedService>,
    connection: &mut Connection,
) -> io::Result<ConnectionAction> {
    let request = match connection.request().await? {
        Incoming::Request(request) => request,
        Incoming::Closed => return Ok(ConnectionAction::Close),
        Incoming::Malformed(why) => {
            service.state().ledger.violation(why.to_owned());
            let response = json_response(400, &json!({"message": why}));
            connection
                .send_response(None, record_response(service, response), &mut 0)
                .await?;
            return Ok(ConnectionAction::Close);
        }
    };
    match route(service, &request).await {
        RouteOutcome::Admin(response) => connection.send_response(Some(&request), response, &mut 0).await,
        RouteOutcome::Response(response) => {
            connection
                .send_response(Some(&request), record_response(service, response), &mut 0)
                .await
        }
        RouteOutcome::Download(response, record) => {
            let mut sending = DownloadGuard {
                service,
                record: &record,
                sent: 0,
            };
            connection
                .send_response(
                    Some(&request),
                    record_response(service, response),
                    &mut sending.sent,
                )
                .await
        }
        RouteOutcome::NoReply(NoReplyMode::Close) => Ok(ConnectionAction::Close),
        RouteOutcome::NoReply(NoReplyMode::Reset) => Ok(ConnectionAction::Reset),
        RouteOutcome::NoReply(NoReplyMode::Hang) => Ok(ConnectionAction::Hang),
    }
}

fn record_response(service: &SimulatedService, response: ServerResponse) -> ServerResponse {
    *service.state().ledger.replies.entry(response.status).or_default() += 1;
    response
}

/// Records a download when it ends, also if the task of the connection is dropped.
struct DownloadGuard<'a> {
    service: &'a SimulatedService,
    record: &'a DownloadRecord,
    sent: u64,
}

impl Drop for DownloadGuard<'_> {
    fn drop(&mut self) {
        self.record.finish(self.service, self.sent);
    }
}
