//! Connections of a proxy: their delay and TLS, as if the peer were in another region, and the process that opened them.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

/// Maximum chunks in flight per direction; at 64 KiB each, more than these tests send in a round trip.
const CHUNKS_IN_FLIGHT: usize = 256;

/// Maximum bytes of one chunk.
const CHUNK_BYTES: usize = 64 * 1024;

/// Way to a peer: data arrive half a round trip later, and a new connection costs one round trip before its first byte.
#[derive(Clone)]
pub(crate) struct Wire {
    round_trip: Duration,
    tls: Option<(TlsAcceptor, String)>,
}

impl Wire {
    pub(crate) fn new(round_trip: Duration, tls: bool) -> Self {
        Self {
            round_trip,
            tls: tls.then(tls_acceptor),
        }
    }

    pub(super) fn ca_pem(&self) -> Option<String> {
        self.tls.as_ref().map(|(_, pem)| pem.clone())
    }

    pub(super) fn tls(&self) -> Option<&TlsAcceptor> {
        self.tls.as_ref().map(|(acceptor, _)| acceptor)
    }

    /// Returns the far end of a connection.
    pub(super) fn carry(&self, near: TcpStream) -> DuplexStream {
        let (far, end) = duplex(CHUNK_BYTES);
        let (near_in, near_out) = near.into_split();
        let (end_in, end_out) = tokio::io::split(end);
        // Simulates the TCP handshake: nothing leaves before its reply.
        let open = Instant::now() + self.round_trip;
        let delay = self.round_trip / 2;
        tokio::spawn(async move {
            tokio::join!(
                carry(near_in, end_out, delay, open),
                carry(end_in, near_out, delay, open)
            );
        });
        far
    }
}

fn tls_acceptor() -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), made.cert.pem())
}

/// Copies bytes in one direction. Each chunk arrives after the delay, however many are in flight.
async fn carry(
    mut source: impl AsyncRead + Unpin + Send + 'static,
    mut sink: impl AsyncWrite + Unpin,
    delay: Duration,
    open: Instant,
) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_IN_FLIGHT);
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(count) = source.read(&mut buffer).await {
            let piece = Bytes::copy_from_slice(&buffer[..count]);
            let arrives = Instant::now().max(open) + delay;
            if sender.send((arrives, piece)).await.is_err() || count == 0 {
                break;
            }
        }
    });
    let reading = AbortOnDropHandle::new(reading);
    while let Some((arrives, piece)) = pieces.recv().await {
        sleep_until(arrives).await;
        if piece.is_empty() || sink.write_all(&piece).await.is_err() {
            break;
        }
    }
    let _ = sink.shutdown().await;
    drop(reading);
}

/// Finds the watched process that owns the connection from `port` to `to`, in the kernel's tables.
pub(super) fn owner(port: u16, to: u16, watched: &[u32]) -> Option<u32> {
    let wanted = (format!("0100007F:{port:04X}"), format!("0100007F:{to:04X}"));
    if watched.is_empty() {
        return None;
    }
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let row = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|row| row.len() > 9 && row[1] == wanted.0 && row[2] == wanted.1)?;
    let socket = format!("socket:[{}]", row[9]);
    let holds = |process: &u32| {
        let files = fs::read_dir(format!("/proc/{process}/fd"));
        files
            .into_iter()
            .flatten()
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|target| target.to_string_lossy() == socket))
    };
    watched.iter().copied().find(holds)
}
