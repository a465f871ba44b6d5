//! TCP proxy that records the requests of each process and can be cut. The kernel (`/proc`) identifies the sender.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// Interval at which a cut connection is checked.
const CUT_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Recorded request.
#[derive(Clone, Debug)]
pub(crate) struct TappedRequest {
    pub(crate) at: Instant,
    /// Process that sent it; `None` if it is not a watched one.
    pub(crate) process: Option<u32>,
    /// Request line.
    pub(crate) line: String,
    /// First bytes: the headers, and possibly part of the body.
    pub(crate) head: String,
}

#[derive(Default)]
struct TapState {
    requests: Mutex<Vec<TappedRequest>>,
    processes: Mutex<Vec<u32>>,
    cut: AtomicBool,
    held: AtomicBool,
}

impl TapState {
    /// Records a request if these bytes start one.
    fn record(&self, process: Option<u32>, bytes: &[u8]) {
        let at = Instant::now();
        if let Some(line) = request_line(bytes) {
            let head = String::from_utf8_lossy(bytes).into_owned();
            self.requests.lock().unwrap().push(TappedRequest {
                at,
                process,
                line,
                head,
            });
        }
    }
}

pub(crate) struct Wiretap {
    address: SocketAddr,
    shared: Arc<TapState>,
    _accepting: AbortOnDropHandle<()>,
}

impl Wiretap {
    /// Starts a proxy before that port of this machine.
    pub(crate) async fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::<TapState>::default();
        let accepting = tokio::spawn(accept(listener, address.port(), port, shared.clone()));
        Ok(Self {
            address,
            shared,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Identifies the requests of this process from now on.
    pub(crate) fn watch(&self, process: u32) {
        self.shared.processes.lock().unwrap().push(process);
    }

    /// Stops all traffic in both directions; connections stay open.
    pub(crate) fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
    }

    /// Holds replies back, or releases them.
    pub(crate) fn hold_replies(&self, hold: bool) {
        self.shared.held.store(hold, Ordering::SeqCst);
    }

    /// All plain HTTP requests so far.
    pub(crate) fn requests(&self) -> Vec<TappedRequest> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub(crate) fn requests_from(&self, process: u32) -> Vec<TappedRequest> {
        let mut requests_of_process = self.requests();
        requests_of_process.retain(|requests_of_process| requests_of_process.process == Some(process));
        requests_of_process
    }
}

async fn accept(listener: TcpListener, own: u16, to: u16, shared: Arc<TapState>) {
    let mut cables = tokio::task::JoinSet::new();
    while let Ok((near, peer)) = listener.accept().await {
        let watched = shared.processes.lock().unwrap().clone();
        let process = owner(peer.port(), own, &watched).unwrap_or(None);
        let shared = shared.clone();
        cables.spawn(async move {
            let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else {
                return;
            };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            let cut = || shared.cut.load(Ordering::SeqCst);
            let held = || cut() || shared.held.load(Ordering::SeqCst);
            let up = carry(near_in, far_out, cut, |bytes| shared.record(process, bytes));
            let down = carry(far_in, near_out, held, |_| ());
            tokio::join!(up, down);
        });
    }
}

/// Copies bytes in one direction unless they are held.
async fn carry(
    mut source: OwnedReadHalf,
    mut sink: OwnedWriteHalf,
    held: impl Fn() -> bool,
    note: impl Fn(&[u8]),
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count) = source.read(&mut buffer).await else {
            return;
        };
        let bytes = &buffer[..count];
        note(bytes);
        while held() {
            tokio::time::sleep(CUT_POLL_INTERVAL).await;
        }
        if count == 0 {
            let _ = sink.shutdown().await;
            return;
        }
        if sink.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// Returns the request line if the bytes start a request. A client sends it in one write.
fn request_line(bytes: &[u8]) -> Option<String> {
    let methods: [&[u8]; 6] = [b"GET ", b"PUT ", b"POST ", b"HEAD ", b"DELETE ", b"PATCH "];
    if !methods.iter().any(|method| bytes.starts_with(method)) {
        return None;
    }
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\r')
        .unwrap_or(bytes.len());
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

/// Finds the watched process that owns the connection from `port` to `to`.
fn owner(port: u16, to: u16, watched: &[u32]) -> Result<Option<u32>> {
    let wanted = (format!("0100007F:{port:04X}"), format!("0100007F:{to:04X}"));
    let table = fs::read_to_string("/proc/net/tcp")?;
    let row = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|row| row.len() > 9 && row[1] == wanted.0 && row[2] == wanted.1)
        .context("the connection is gone")?;
    let socket = format!("socket:[{}]", row[9]);
    let holds = |process: &u32| {
        let files = fs::read_dir(format!("/proc/{process}/fd"));
        files
            .into_iter()
            .flatten()
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|target| target.to_string_lossy() == socket))
    };
    Ok(watched.iter().copied().find(holds))
}
