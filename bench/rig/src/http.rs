//! A minimal HTTP/1.1 server, so that the servers cost less than the measured programs.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Buf as _, BytesMut};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::BenchResult;

/// Size of the buffer for discarded bodies: 512 KiB.
const DRAIN_BUFFER_BYTES: usize = 512 << 10;

/// A request without its body.
pub struct RequestHead {
    pub method: String,
    pub path: String,
    pub query: HashMap<String, String>,
    headers: HashMap<String, String>,
}

impl RequestHead {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// A connection of a client.
pub struct Connection<S> {
    pub stream: S,
    read: BytesMut,
    scratch: Vec<u8>,
}

/// A server of requests.
pub trait Service: Clone + Send + 'static {
    fn respond<S: Socket>(
        &self,
        head: RequestHead,
        connection: &mut Connection<S>,
    ) -> impl Future<Output = io::Result<()>> + Send;
}

pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Socket for T {}

/// Serves both ports until the process ends.
pub fn serve(service: impl Service, plain: u16, tls: u16, config: Arc<ServerConfig>) -> BenchResult {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (one, two) = (
            TcpListener::bind(("127.0.0.1", plain)).await?,
            TcpListener::bind(("127.0.0.1", tls)).await?,
        );
        let acceptor = TlsAcceptor::from(config);
        println!("ready");
        loop {
            tokio::select! {
                accepted = one.accept() => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    tokio::spawn(serve_connection(stream, service.clone()));
                }
                accepted = two.accept() => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    let (acceptor, service) = (acceptor.clone(), service.clone());
                    tokio::spawn(async move {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            serve_connection(stream, service).await;
                        }
                    });
                }
            }
        }
    })
}

async fn serve_connection<S: Socket>(stream: S, service: impl Service) {
    let mut connection = Connection {
        stream,
        read: BytesMut::with_capacity(1 << 16),
        scratch: Vec::new(),
    };
    while let Ok(Some(head)) = connection.head().await {
        let close = head
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if let Err(error) = service.respond(head, &mut connection).await {
            if !matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) {
                eprintln!("connection failed: {error}");
            }
            return;
        }
        if close {
            break;
        }
    }
    let _ = connection.stream.shutdown().await;
}

impl<S: Socket> Connection<S> {
    async fn head(&mut self) -> io::Result<Option<RequestHead>> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        };
        let text = self.read.split_to(end + 4);
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (name.to_owned(), decode(value)))
            .collect();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Some(RequestHead {
            method: method.to_owned(),
            path: decode(path),
            query,
            headers,
        }))
    }

    /// Reads the body. Returns its first `keep` bytes, and its size.
    pub async fn body(&mut self, head: &RequestHead, keep: usize) -> io::Result<(Vec<u8>, u64)> {
        if head
            .header("expect")
            .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
        {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            self.stream.flush().await?;
        }
        let mut kept = Vec::new();
        if head
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        {
            let mut all = 0;
            loop {
                let size = self.line().await?;
                let size = size.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
                all += size;
                self.read_body(size, &mut kept, keep).await?;
                self.line().await?;
                if size == 0 {
                    return Ok((kept, all));
                }
            }
        }
        let length = head
            .header("content-length")
            .and_then(|value| value.parse().ok())
            .unwrap_or(0);
        self.read_body(length, &mut kept, keep).await?;
        Ok((kept, length))
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.read.windows(2).position(|two| two == b"\r\n") {
                let line = self.read.split_to(at + 2);
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn read_body(&mut self, mut left: u64, kept: &mut Vec<u8>, keep: usize) -> io::Result<()> {
        let mut keep_prefix = |bytes: &[u8]| kept.extend_from_slice(&bytes[..bytes.len().min(keep - kept.len())]);
        let known = (self.read.len() as u64).min(left) as usize;
        keep_prefix(&self.read[..known]);
        self.read.advance(known);
        left -= known as u64;
        if left > 0 && self.scratch.is_empty() {
            self.scratch.resize(DRAIN_BUFFER_BYTES, 0);
        }
        while left > 0 {
            let room = left.min(DRAIN_BUFFER_BYTES as u64) as usize;
            let read = self.stream.read(&mut self.scratch[..room]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            keep_prefix(&self.scratch[..read]);
            left -= read as u64;
        }
        Ok(())
    }

    /// Sends a response with a body.
    pub async fn reply(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        let mut response = response_head(status, headers, body.len() as u64).into_bytes();
        response.extend_from_slice(body);
        self.stream.write_all(&response).await?;
        self.stream.flush().await
    }
}

/// Returns the head of a response with a body of `length` bytes, or of the response to a HEAD request.
pub fn response_head(status: u16, headers: &[(&str, &str)], length: u64) -> String {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut text = format!("HTTP/1.1 {status} .\r\nDate: {date}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if status != 204 {
        text.push_str(&format!("Content-Length: {length}\r\n"));
    }
    text.push_str("\r\n");
    text
}

fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}
