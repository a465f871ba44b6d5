//! Server that sends scripted bytes, possibly without end, or forwards a request to a real one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Maximum bytes of a request's head.
const HEAD_BYTES: usize = 64 * 1024;

/// Payload: a beginning, a repeated piece, and an end.
#[derive(Clone, Debug, Default)]
pub(super) struct Payload {
    pub(super) begin: Bytes,
    pub(super) piece: Bytes,
    /// Repetitions; `u64::MAX` for no end.
    pub(super) times: u64,
    /// Pause before each piece.
    pub(super) pause: Duration,
    pub(super) end: Bytes,
    /// True if the connection stays open until the client closes it.
    pub(super) hold: bool,
}

/// Action for a request.
#[derive(Clone, Debug)]
pub(super) enum PeerAction {
    Send(Payload),
    /// Forwards the request to the real server.
    Forward,
}

/// Runs until dropped.
pub(super) struct MaliciousPeer {
    pub(super) address: SocketAddr,
    written: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Payload {
    /// Returns a payload of raw bytes.
    pub(super) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            begin: Bytes::from(bytes.into()),
            ..Self::default()
        }
    }

    /// Returns a reply with a correct length.
    pub(super) fn reply(status: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Self::raw([head.as_bytes(), body].concat())
    }

    /// Appends a repeated piece.
    pub(super) fn repeat(mut self, piece: impl Into<Vec<u8>>, times: u64) -> Self {
        (self.piece, self.times) = (Bytes::from(piece.into()), times);
        self
    }

    pub(super) fn end_with(mut self, end: impl Into<Vec<u8>>) -> Self {
        self.end = Bytes::from(end.into());
        self
    }

    pub(super) fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    pub(super) fn keep_open(mut self) -> Self {
        self.hold = true;
        self
    }
}

impl MaliciousPeer {
    /// Starts a peer. `script` decides by the request line, such as `GET /v3/sessions HTTP/1.1`. One request per
    /// connection.
    pub(super) async fn start(
        upstream: Option<SocketAddr>,
        script: impl Fn(&str) -> PeerAction + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let written = Arc::new(AtomicU64::new(0));
        let (script, count) = (Arc::new(script), Arc::clone(&written));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (script, count) = (Arc::clone(&script), Arc::clone(&count));
                tokio::spawn(async move {
                    // Most connections end because the client closes.
                    let _ = serve(client, upstream, &*script, &count).await;
                });
            }
        });
        Self {
            address,
            written,
            task,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the bytes that the sockets accepted.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }
}

impl Drop for MaliciousPeer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut client: TcpStream,
    upstream: Option<SocketAddr>,
    script: &(dyn Fn(&str) -> PeerAction + Send + Sync),
    written: &AtomicU64,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") && head.len() < HEAD_BYTES {
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let line = String::from_utf8_lossy(&head)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    let payload = match (script(&line), upstream) {
        (PeerAction::Send(payload), _) => payload,
        (PeerAction::Forward, None) => return Ok(()),
        (PeerAction::Forward, Some(upstream)) => {
            let mut server = TcpStream::connect(upstream).await?;
            // Forces a new connection for the next request, so that the script sees it.
            let end = head
                .windows(2)
                .position(|two| two == b"\r\n")
                .unwrap_or(head.len());
            server.write_all(&head[..end]).await?;
            server.write_all(b"\r\nconnection: close").await?;
            server.write_all(&head[end..]).await?;
            return copy_bidirectional(&mut client, &mut server).await.map(drop);
        }
    };
    // Drain the client's data: it must not block, and must not reset the connection before the reply is read.
    let (mut from, mut to) = client.into_split();
    let drained = tokio::spawn(async move {
        let mut rest = vec![0; 64 * 1024];
        while from.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    });
    let mut say = async |bytes: &[u8]| -> std::io::Result<()> {
        to.write_all(bytes).await?;
        written.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        Ok(())
    };
    let reply = async {
        say(&payload.begin).await?;
        for _ in 0..payload.times {
            tokio::time::sleep(payload.pause).await;
            say(&payload.piece).await?;
        }
        say(&payload.end).await
    }
    .await;
    if payload.hold {
        let _ = drained.await;
    } else {
        let _ = to.shutdown().await;
        let _ = tokio::time::timeout(Duration::from_secs(5), drained).await;
    }
    reply
}
