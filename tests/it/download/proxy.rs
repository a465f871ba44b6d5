//! TCP proxy that, after given numbers of bytes from the service (over all connections), closes or holds the current
//! connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Bytes that are forwarded at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Action after a number of bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct CutPoint {
    /// Bytes from the service, over all connections since the start.
    pub(super) after: u64,
    /// True if the connection is held and the test notified, instead of closing it.
    pub(super) hold: bool,
}

struct CuttingProxyState {
    to: SocketAddr,
    passed: AtomicU64,
    cuts: Mutex<VecDeque<CutPoint>>,
    held: mpsc::UnboundedSender<()>,
}

/// Runs until dropped.
pub(super) struct CuttingProxy {
    pub(super) url: String,
    /// One message for each held connection.
    pub(super) held: mpsc::UnboundedReceiver<()>,
    shared: Arc<CuttingProxyState>,
    task: JoinHandle<()>,
}

impl CuttingProxy {
    pub(super) async fn start(to: SocketAddr, cuts: Vec<CutPoint>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, held) = mpsc::unbounded_channel();
        let shared = Arc::new(CuttingProxyState {
            to,
            passed: AtomicU64::new(0),
            cuts: Mutex::new(cuts.into()),
            held: sender,
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                tokio::spawn(async move {
                    let _ = forward(client, &shared).await;
                });
            }
        });
        Self {
            url,
            held,
            shared,
            task,
        }
    }

    /// Bytes that came from the service.
    pub(super) fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// Remaining cuts.
    pub(super) fn left(&self) -> usize {
        self.shared.cuts.lock().unwrap().len()
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(mut client: TcpStream, shared: &CuttingProxyState) -> std::io::Result<()> {
    let mut service = TcpStream::connect(shared.to).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_service, mut to_service) = service.split();
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_service).await?;
        // A client that disconnects ends the transfer.
        Ok::<_, std::io::Error>(())
    };
    let down = async {
        let mut piece = vec![0; CHUNK_BYTES];
        loop {
            let read = from_service.read(&mut piece).await?;
            if read == 0 {
                return to_client.shutdown().await;
            }
            let before = shared.passed.fetch_add(read as u64, Ordering::SeqCst);
            let due = {
                let mut cuts = shared.cuts.lock().unwrap();
                let due = cuts.front().is_some_and(|cut| cut.after < before + read as u64);
                due.then(|| cuts.pop_front().unwrap())
            };
            let Some(cut) = due else {
                to_client.write_all(&piece[..read]).await?;
                continue;
            };
            let up_to = usize::try_from(cut.after.saturating_sub(before))
                .unwrap()
                .min(read);
            to_client.write_all(&piece[..up_to]).await?;
            if cut.hold {
                let _ = shared.held.send(());
                std::future::pending::<()>().await;
            }
            return Ok(());
        }
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}
