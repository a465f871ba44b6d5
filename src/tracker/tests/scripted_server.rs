//! A server that sends scripted replies, byte for byte, one request per connection, and records the requests.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use url::Url;

/// Request as it was received.
#[derive(Clone, Debug)]
pub(super) struct ReceivedRequest {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: String,
}

impl ReceivedRequest {
    pub(super) fn matches(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path == path
    }

    /// Returns the N of `Range: bytes=N-`.
    pub(super) fn range_start(&self) -> Option<usize> {
        self.headers
            .get("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }

    pub(super) fn token(&self) -> &str {
        self.headers.get("x-auth-token").map_or("", String::as_str)
    }
}

/// Raw reply.
#[derive(Clone, Debug)]
pub(super) struct ScriptedReply {
    head: String,
    body: Vec<u8>,
    hang: bool,
    delay: Duration,
}

impl ScriptedReply {
    /// Creates a reply with its length.
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let length = body.len();
        Self::close(status, body).with("Content-Length", &length.to_string())
    }

    /// Creates a reply without length or chunks.
    pub(super) fn close(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let head = format!("HTTP/1.1 {status} Scripted\r\nConnection: close\r\n");
        Self {
            head,
            body: body.into(),
            hang: false,
            delay: Duration::ZERO,
        }
    }

    /// Creates a chunked reply, without its final chunk unless it is `complete`.
    pub(super) fn chunked(status: u16, body: &[u8], complete: bool) -> Self {
        let mut chunks = Vec::new();
        for chunk in body.chunks(1000) {
            chunks.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            chunks.extend_from_slice(chunk);
            chunks.extend_from_slice(b"\r\n");
        }
        if complete {
            chunks.extend_from_slice(b"0\r\n\r\n");
        }
        Self::close(status, chunks).with("Transfer-Encoding", "chunked")
    }

    /// Creates a 206 reply with `data` from `first`.
    pub(super) fn part(data: &[u8], first: usize) -> Self {
        let range = format!("bytes {first}-{}/{}", data.len() - 1, data.len());
        Self::new(206, &data[first..]).with("Content-Range", &range)
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        let _ = write!(self.head, "{name}: {value}\r\n");
        self
    }

    /// Truncates the body, so that the connection closes early.
    pub(super) fn cut(mut self, at: usize) -> Self {
        self.body.truncate(at);
        self
    }

    /// Keeps the connection open after the body.
    pub(super) fn hang(mut self) -> Self {
        self.hang = true;
        self
    }

    pub(super) fn delayed(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

pub(super) struct ScriptedServer {
    port: u16,
    requests: Arc<Mutex<Vec<ReceivedRequest>>>,
    written: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl ScriptedServer {
    /// Starts a server that replies to every request but logins by `script`, which also gets the number of earlier
    /// replies. Logins return `token-1`, `token-2` and so on.
    pub(super) async fn new(
        script: impl Fn(&ReceivedRequest, usize) -> ScriptedReply + Send + Sync + 'static,
    ) -> Self {
        let logins = Mutex::new(0);
        let others = Mutex::new(0);
        Self::bare(move |request| {
            if request.matches("POST", "/oauth/token") {
                let mut count = logins.lock().unwrap();
                *count += 1;
                return token_reply(*count);
            }
            let mut count = others.lock().unwrap();
            *count += 1;
            script(request, *count - 1)
        })
        .await
    }

    /// Starts a server that replies to every request by `script`.
    pub(super) async fn bare(
        script: impl Fn(&ReceivedRequest) -> ScriptedReply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, written) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (script, log, count) = (Arc::new(script), requests.clone(), written.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, log, count) = (script.clone(), log.clone(), count.clone());
                tokio::spawn(async move { serve(stream, &*script, &log, &count).await });
            }
        });
        Self {
            port,
            requests,
            written,
            task,
        }
    }

    pub(super) fn url(&self) -> Url {
        format!("http://127.0.0.1:{}", self.port).parse().unwrap()
    }

    pub(super) fn requests(&self) -> Vec<ReceivedRequest> {
        self.requests.lock().unwrap().clone()
    }

    pub(super) fn count(&self, method: &str, path: &str) -> usize {
        self.requests()
            .iter()
            .filter(|request| request.matches(method, path))
            .count()
    }

    /// Returns the number of body bytes written to sockets.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the reply of the UAA with the nth token.
pub(super) fn token_reply(number: u32) -> ScriptedReply {
    let body = format!(
        r#"{{"access_token":"token-{number}","refresh_token":"refresh-{number}","token_type":"bearer","expires_in":3600}}"#
    );
    ScriptedReply::new(200, body)
}

async fn serve(
    mut stream: TcpStream,
    script: &(dyn Fn(&ReceivedRequest) -> ScriptedReply + Send + Sync),
    log: &Mutex<Vec<ReceivedRequest>>,
    written: &AtomicU64,
) {
    let Some(request) = receive(&mut stream).await else {
        return;
    };
    log.lock().unwrap().push(request.clone());
    let reply = script(&request);
    tokio::time::sleep(reply.delay).await;
    if stream
        .write_all(format!("{}\r\n", reply.head).as_bytes())
        .await
        .is_err()
    {
        return;
    }
    for piece in reply.body.chunks(16 * 1024) {
        if stream.write_all(piece).await.is_err() {
            return;
        }
        written.fetch_add(piece.len() as u64, Ordering::SeqCst);
    }
    if reply.hang {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    let _ = stream.shutdown().await;
}

async fn receive(stream: &mut TcpStream) -> Option<ReceivedRequest> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: HashMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    while bytes.len() < end + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8_lossy(&bytes[end + 4..]).into_owned();
    Some(ReceivedRequest {
        method,
        path,
        headers,
        body,
    })
}
