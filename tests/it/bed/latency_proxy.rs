//! Proxy that delays a local peer as if it were in another region: data arrive half a round trip later, and a new
//! connection costs one round trip before its first byte. The far end may use TLS. It counts connections.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

/// Maximum chunks in flight per direction; at 64 KiB each, more than these tests send in a round trip.
const CHUNKS_IN_FLIGHT: usize = 256;

/// Maximum bytes of one chunk.
const CHUNK_BYTES: usize = 64 * 1024;

/// Proxy with latency before a peer.
pub(crate) struct LatencyProxy {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// CA of the TLS listener; `None` if it serves plain HTTP.
    pub(crate) ca_pem: Option<String>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl LatencyProxy {
    /// Starts a proxy before that port of this machine.
    pub(crate) async fn start(port: u16, round_trip: Duration, tls: bool) -> Self {
        let (mut port, mut tasks, mut ca_pem) = (port, Vec::new(), None);
        if tls {
            let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
            let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
            ca_pem = Some(made.cert.pem());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let end = listener.local_addr().unwrap().port();
            tasks.push(AbortOnDropHandle::new(tokio::spawn(unwrap(
                listener, config, port,
            ))));
            port = end;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let count = connections.clone();
        tasks.push(AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(forward(near, port, round_trip));
            }
        })));
        Self {
            address,
            connections,
            ca_pem,
            _tasks: tasks,
        }
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.ca_pem.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Terminates TLS.
async fn unwrap(listener: TcpListener, config: rustls::ServerConfig, to: u16) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(mut near) = acceptor.accept(stream).await else {
                return;
            };
            let Ok(mut far) = TcpStream::connect(("127.0.0.1", to)).await else {
                return;
            };
            let _ = far.set_nodelay(true);
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
    }
}

async fn forward(near: TcpStream, to: u16, round_trip: Duration) {
    let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    // Simulates the TCP handshake: nothing leaves before its reply.
    let open = Instant::now() + round_trip;
    tokio::join!(
        carry(near_in, far_out, round_trip / 2, open),
        carry(far_in, near_out, round_trip / 2, open)
    );
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
        if piece.is_empty() {
            break;
        }
        if sink.write_all(&piece).await.is_err() {
            break;
        }
    }
    let _ = sink.shutdown().await;
    drop(reading);
}
