//! A minimal HTTP/1.1 server connection with full control over the end of a response: hyper does not send a body
//! without length or chunks, or one that breaks off. Reads and writes a socket.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::layout::Pieces;
use super::settings::Framing;

/// Maximum size of the head of a request: 64 KiB.
const MAX_HEAD: usize = 64 << 10;
/// Maximum size of the body of a request: 1 MiB.
const MAX_BODY: usize = 1 << 20;
/// Slices per second of a response with limited speed.
const SLICES_PER_SECOND: u64 = 20;

/// A parsed request.
#[derive(Debug)]
pub(super) struct ServerRequest {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl ServerRequest {
    /// Returns the value of a header. Fails if the header is repeated.
    pub(super) fn header(&self, name: &str) -> Result<Option<&str>, String> {
        let mut values = self
            .headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let first = values.next().map(|(_, value)| value.as_str());
        match values.next() {
            None => Ok(first),
            Some(_) => Err(format!("header {name} occurs more than once")),
        }
    }

    /// Returns true if the connection closes after the response.
    fn closes(&self) -> bool {
        matches!(self.header("connection"), Ok(Some(value)) if value.eq_ignore_ascii_case("close"))
    }
}

/// Result of reading a request.
#[derive(Debug)]
pub(super) enum Incoming {
    Request(ServerRequest),
    /// Invalid HTTP, with the reason.
    Malformed(&'static str),
    Closed,
}

/// A response.
#[derive(Debug)]
pub(super) struct ServerResponse {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: ResponseBody,
}

/// Body of a response.
#[derive(Debug)]
pub(super) enum ResponseBody {
    Whole(Bytes),
    Events(Transfer),
}

/// Body of a download.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) pieces: Pieces,
    pub(super) framing: Framing,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) end: BodyEnding,
}

/// End of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyEnding {
    Complete,
    /// Closes the connection after so many bytes.
    Cut {
        after: u64,
        reset: bool,
    },
    /// Stops sending after so many bytes.
    Stall {
        after: u64,
    },
}

/// Treatment of the connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionAction {
    /// Read the next request.
    KeepAlive,
    /// Close it.
    Close,
    Reset,
    Hang,
}

/// A connection, with the bytes read ahead.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    read: BytesMut,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            read: BytesMut::with_capacity(4096),
        }
    }

    /// Reads the next request.
    pub(super) async fn request(&mut self) -> io::Result<Incoming> {
        let head_end = loop {
            if let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if self.read.len() > MAX_HEAD {
                return Ok(Incoming::Malformed("the request head is larger than 64 KiB"));
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(Incoming::Closed);
            }
        };
        let head = self.read.split_to(head_end + 4);
        let Ok(head) = std::str::from_utf8(&head) else {
            return Ok(Incoming::Malformed("the request head is not UTF-8"));
        };
        let Some(mut request) = parse_head(head) else {
            return Ok(Incoming::Malformed("the request head is not HTTP/1.1"));
        };
        if !matches!(request.header("transfer-encoding"), Ok(None)) {
            return Ok(Incoming::Malformed("a request body needs a Content-Length"));
        }
        let length = match request.header("content-length") {
            Ok(None) => 0,
            Ok(Some(length)) => match length.parse::<usize>() {
                Ok(length) if length <= MAX_BODY => length,
                _ => return Ok(Incoming::Malformed("Content-Length is not a number up to 1 MiB")),
            },
            Err(_) => return Ok(Incoming::Malformed("header Content-Length occurs more than once")),
        };
        while self.read.len() < length {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(Incoming::Closed);
            }
        }
        request.body = self.read.split_to(length).freeze();
        Ok(Incoming::Request(request))
    }

    /// Sends a response. `sent` counts the bytes of the body.
    pub(super) async fn send_response(
        &mut self,
        request: Option<&ServerRequest>,
        response: ServerResponse,
        sent: &mut u64,
    ) -> io::Result<ConnectionAction> {
        let ServerResponse {
            status,
            headers,
            body,
        } = response;
        let close = request.is_none_or(ServerRequest::closes);
        let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
        let now = Timestamp::now().to_zoned(TimeZone::UTC);
        let _ = write!(head, "Date: {}\r\n", now.strftime("%a, %d %b %Y %H:%M:%S GMT"));
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let framing = match &body {
            ResponseBody::Whole(_) => Framing::Length,
            ResponseBody::Events(transfer) => transfer.framing,
        };
        let length = match &body {
            ResponseBody::Whole(bytes) => bytes.len() as u64,
            ResponseBody::Events(transfer) => transfer.pieces.left(),
        };
        match framing {
            // A 204 has no Content-Length (RFC 9110, 8.6).
            Framing::Length if status == 204 => {}
            Framing::Length => {
                let _ = write!(head, "Content-Length: {length}\r\n");
            }
            Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            Framing::Close => {}
        }
        if close || framing == Framing::Close {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        let action = match body {
            ResponseBody::Whole(bytes) => {
                self.stream
                    .write_all_buf(&mut Buf::chain(head.as_bytes(), bytes))
                    .await?;
                ConnectionAction::KeepAlive
            }
            ResponseBody::Events(transfer) => {
                self.stream.write_all(head.as_bytes()).await?;
                self.transfer(transfer, sent).await?
            }
        };
        self.stream.flush().await?;
        Ok(
            if action == ConnectionAction::KeepAlive && (close || framing == Framing::Close) {
                ConnectionAction::Close
            } else {
                action
            },
        )
    }

    async fn transfer(&mut self, transfer: Transfer, sent: &mut u64) -> io::Result<ConnectionAction> {
        let Transfer {
            pieces,
            framing,
            bytes_per_second,
            end,
        } = transfer;
        let stop = match end {
            BodyEnding::Complete => u64::MAX,
            BodyEnding::Cut { after, .. } | BodyEnding::Stall { after } => after,
        };
        let slice = bytes_per_second.map_or(usize::MAX, |speed| {
            usize::try_from((speed / SLICES_PER_SECOND).max(1)).unwrap_or(usize::MAX)
        });
        'pieces: for mut piece in pieces {
            while !piece.is_empty() {
                let left = usize::try_from(stop - *sent).unwrap_or(usize::MAX);
                if left == 0 {
                    break 'pieces;
                }
                let part = piece.split_to(piece.len().min(left).min(slice));
                let length = part.len() as u64;
                if framing == Framing::Chunked {
                    let size = format!("{length:x}\r\n");
                    let mut chunk = Buf::chain(size.as_bytes(), part).chain(&b"\r\n"[..]);
                    self.stream.write_all_buf(&mut chunk).await?;
                } else {
                    self.stream.write_all(&part).await?;
                }
                *sent += length;
                if let Some(speed) = bytes_per_second {
                    sleep(Duration::from_micros(
                        length.saturating_mul(1_000_000) / speed.max(1),
                    ))
                    .await;
                }
            }
        }
        Ok(match end {
            BodyEnding::Complete => {
                if framing == Framing::Chunked {
                    self.stream.write_all(b"0\r\n\r\n").await?;
                }
                ConnectionAction::KeepAlive
            }
            BodyEnding::Cut { reset: true, .. } => ConnectionAction::Reset,
            BodyEnding::Cut { reset: false, .. } => ConnectionAction::Close,
            BodyEnding::Stall { .. } => ConnectionAction::Hang,
        })
    }

    /// Waits until the peer closes the connection.
    pub(super) async fn hang(&mut self) -> io::Result<()> {
        loop {
            self.read.clear();
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(());
            }
        }
    }
}

fn parse_head(head: &str) -> Option<ServerRequest> {
    let mut lines = head.trim_end().split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if version != "HTTP/1.1" || !target.starts_with('/') || words.next().is_some() {
        return None;
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines
        .map(|line| {
            line.split_once(':')
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        })
        .collect::<Option<Vec<_>>>()?;
    Some(ServerRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body: Bytes::new(),
    })
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Unknown")
}
