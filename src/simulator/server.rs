//! Connections: accepts them, and answers requests one after the other on each. Reads and writes sockets.

use std::io;
use std::sync::Arc;

use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::effect::Silence;
use super::reply::json_answer;
use super::router::{Outcome, route};
use super::service::Service;
use super::wire::{Answer, Connection, Fate, Incoming};

/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;

/// Serves until `stop`; then every connection is closed at once.
pub(super) async fn serve(service: Arc<Service>, listener: TcpListener, stop: CancellationToken) {
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
                    connections.spawn(converse(Arc::clone(&service), stream));
                }
                Err(error) => tracing::warn!(%error, "the simulator could not accept a connection"),
            },
        }
    }
    connections.shutdown().await;
}

async fn converse(service: Arc<Service>, stream: TcpStream) {
    // Without this, small answers wait for the other side's acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut connection = Connection::new(stream);
    let fate = loop {
        match exchange(&service, &mut connection).await {
            Ok(Fate::Sent) => {}
            Ok(fate) => break fate,
            // The other side went away, as it may.
            Err(_) => break Fate::Close,
        }
    };
    match fate {
        // With unread requests a close would be a reset anyway; there are none.
        Fate::Sent | Fate::Close => {}
        Fate::Reset => drop(connection.stream.set_zero_linger()),
        Fate::Hang => drop(connection.hang().await),
    }
}

/// One request and its answer.
async fn exchange(service: &Arc<Service>, connection: &mut Connection) -> io::Result<Fate> {
    let request = match connection.request().await? {
        Incoming::Request(request) => request,
        Incoming::Closed => return Ok(Fate::Close),
        Incoming::Malformed(why) => {
            service.state().ledger.violation(why.to_owned());
            let answer = json_answer(400, &json!({"message": why}));
            connection.answer(None, noted(service, answer), &mut 0).await?;
            return Ok(Fate::Close);
        }
    };
    match route(service, &request).await {
        Outcome::Admin(answer) => connection.answer(Some(&request), answer, &mut 0).await,
        Outcome::Answer(answer) => {
            connection
                .answer(Some(&request), noted(service, answer), &mut 0)
                .await
        }
        Outcome::Download(answer, note) => {
            let mut sending = Sending {
                service,
                note: &note,
                sent: 0,
            };
            connection
                .answer(Some(&request), noted(service, answer), &mut sending.sent)
                .await
        }
        Outcome::Silence(Silence::Close) => Ok(Fate::Close),
        Outcome::Silence(Silence::Reset) => Ok(Fate::Reset),
        Outcome::Silence(Silence::Hang) => Ok(Fate::Hang),
    }
}

fn noted(service: &Service, answer: Answer) -> Answer {
    *service.state().ledger.answers.entry(answer.status).or_default() += 1;
    answer
}

/// Notes a download however it ends, also when the connection's task is dropped.
struct Sending<'a> {
    service: &'a Service,
    note: &'a super::download::Note,
    sent: u64,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.note.ended(self.service, self.sent);
    }
}
