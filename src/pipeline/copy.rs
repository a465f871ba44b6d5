//! The byte path: copies a download to a sink while a prover proves it. I/O through the download and the sink.
//!
//! Chunks are reference-counted: the same bytes are stored and proved without a copy. Nothing is read ahead: a chunk is
//! requested once the sink has room for it, so a slow sink or a slow proof slows its own download, and nothing else.

use std::future::Future;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::prover_pool::{ProofError, ProofFacts, StreamProver};
use crate::storage::Crc64;
use crate::tracker::{Download, StreamError, TransferEnd};

/// Destination of a copy. Its memory is bounded: a full sink waits.
pub trait Sink: Send {
    /// What the sink holds after the last byte.
    type Body;
    /// Failure of the sink.
    type Error;

    /// Returns the maximum size of the next chunk, at least 1.
    fn room(&self) -> u64 {
        u64::MAX
    }

    /// Takes the next bytes; `crc64` is the checksum of all bytes of the copy up to their end.
    fn push(
        &mut self,
        chunk: Bytes,
        crc64: Crc64,
    ) -> impl Future<Output = Result<(), CopyError<Self::Error>>> + Send;

    /// Ends the body after its last byte; `crc64` is the checksum of all its bytes.
    fn finish(
        &mut self,
        crc64: Crc64,
    ) -> impl Future<Output = Result<Self::Body, CopyError<Self::Error>>> + Send;

    /// Ends the body after a failure of the copy.
    fn abort(&mut self) -> impl Future<Output = ()> + Send;
}

/// Result of a copy.
#[derive(Debug)]
pub struct Copied<B> {
    /// Size in bytes.
    pub bytes: u64,
    /// CRC-64/NVME of all bytes.
    pub crc64: Crc64,
    /// Facts that were proved during the copy; `None` if there was no byte.
    pub proof: Option<ProofFacts>,
    /// End of the transfer.
    pub end: TransferEnd,
    /// Number of times that the transfer was interrupted and resumed.
    pub resumes: u32,
    /// What the sink holds.
    pub body: B,
}

/// A copy that ended early.
#[derive(Debug)]
pub enum CopyError<E> {
    /// The download failed.
    Download(StreamError),
    /// The proof failed.
    Proof(ProofError),
    /// The sink failed.
    Sink(E),
    /// The copy was stopped.
    Stopped,
}

/// Progress of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyProgress {
    /// Bytes received so far, including those of the resume point.
    pub bytes: u64,
    /// Total size, if the service stated it.
    pub total: Option<u64>,
    /// Number of times that the transfer was interrupted and resumed.
    pub resumes: u32,
}

/// Control of a copy.
pub struct CopyControl<'a> {
    /// Stop signal.
    pub stop: &'a CancellationToken,
    /// Called after each chunk.
    pub progress: &'a (dyn Fn(CopyProgress) + Sync),
}

/// Copies a download to a sink, and proves it. On error, aborts the sink before it returns.
pub async fn copy<S: Sink>(
    download: Download,
    prover: &mut StreamProver,
    sink: &mut S,
    control: &CopyControl<'_>,
) -> Result<Copied<S::Body>, CopyError<S::Error>> {
    let result = copy_to_end(download, prover, sink, control).await;
    if result.is_err() {
        sink.abort().await;
    }
    result
}

async fn copy_to_end<S: Sink>(
    mut download: Download,
    prover: &mut StreamProver,
    sink: &mut S,
    control: &CopyControl<'_>,
) -> Result<Copied<S::Body>, CopyError<S::Error>> {
    let CopyControl { stop, progress } = control;
    loop {
        let chunk = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(CopyError::Stopped),
            chunk = download.next_within(sink.room()) => chunk.map_err(CopyError::Download)?,
        };
        progress(CopyProgress {
            bytes: download.received(),
            total: download.total(),
            resumes: download.resumes(),
        });
        let Some(chunk) = chunk else { break };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(CopyError::Stopped),
            pushed = prover.push(chunk.clone()) => pushed.map_err(CopyError::Proof)?,
        }
        sink.push(chunk, Crc64(download.crc64nvme())).await?;
    }
    let (bytes, resumes) = (download.received(), download.resumes());
    // The end of the download is known after its last byte.
    let end = download.end().unwrap_or(TransferEnd::CloseUnconfirmed);
    let crc64 = Crc64(download.crc64nvme());
    drop(download);
    let proof = if bytes == 0 {
        None
    } else {
        Some(prover.finish_section().await.map_err(CopyError::Proof)?)
    };
    Ok(Copied {
        bytes,
        crc64,
        proof,
        end,
        resumes,
        body: sink.finish(crc64).await?,
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use jiff::civil::date;

    use super::super::prover_pool::ProverPool;
    use super::*;
    use crate::egress::{HostPolicy, Traffic};
    use crate::simulator::{DEFAULT_API_KEY, Settings, Simulator};
    use crate::tracker::{
        Credentials, DownloadResponse, RetryConfig, SessionRequest, Timeouts, TokenCache, Tracker,
        TrackerConfig, UaaSource,
    };

    const SPACE: &str = "c1234567-6d55-4193-a9de-378620d6fab5";
    const ROOM: u64 = 1000;

    /// Sink that keeps the bytes, or takes none.
    #[derive(Default)]
    struct MemorySink {
        stalled: bool,
        body: Vec<u8>,
        aborted: bool,
    }

    impl Sink for MemorySink {
        type Body = u64;
        type Error = Infallible;

        fn room(&self) -> u64 {
            ROOM
        }

        async fn push(&mut self, chunk: Bytes, crc64: Crc64) -> Result<(), CopyError<Infallible>> {
            if self.stalled {
                std::future::pending::<()>().await;
            }
            assert!(chunk.len() as u64 <= ROOM);
            self.body.extend_from_slice(&chunk);
            assert_eq!(crc64, Crc64::of(&self.body));
            Ok(())
        }

        async fn finish(&mut self, _: Crc64) -> Result<u64, CopyError<Infallible>> {
            Ok(self.body.len() as u64)
        }

        async fn abort(&mut self) {
            self.aborted = true;
        }
    }

    async fn simulator() -> Simulator {
        let mut settings = Settings {
            today: Some(date(2018, 7, 2)),
            ..Settings::default()
        };
        settings.volume.quiet.clear();
        Simulator::start(settings).await.unwrap()
    }

    async fn download(simulator: &Simulator) -> Download {
        let config = TrackerConfig {
            endpoint: simulator.url().clone(),
            uaa: UaaSource::Endpoint(simulator.url().clone()),
            credentials: Credentials::ApiKey(DEFAULT_API_KEY.to_owned().into()),
            ca_pem: None,
            hosts: HostPolicy::any(),
            timeouts: Timeouts::default(),
            retry: RetryConfig::default(),
            traffic: Traffic::default(),
        };
        let tracker = Tracker::new(config, &TokenCache::new()).unwrap();
        let request = SessionRequest {
            start: date(2018, 6, 28),
            end: date(2018, 6, 28),
            hour: None,
            account: false,
        };
        let session = tracker.create_session(SPACE, &request).await.unwrap();
        match tracker.download(SPACE, &session.id).await.unwrap() {
            DownloadResponse::Body(download) => *download,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_stalled_sink_holds_one_chunk_and_no_other_copy() {
        let simulator = simulator().await;
        // Both copies share the only processor.
        let pool = ProverPool::new(1);
        let (stop, received) = (CancellationToken::new(), AtomicU64::new(0));
        let stalled_control = CopyControl {
            stop: &stop,
            progress: &|progress| received.store(progress.bytes, Ordering::Relaxed),
        };
        let mut stalled_sink = MemorySink {
            stalled: true,
            ..MemorySink::default()
        };
        let mut stalled_prover = pool.begin();
        let stalled = copy(
            download(&simulator).await,
            &mut stalled_prover,
            &mut stalled_sink,
            &stalled_control,
        );
        tokio::pin!(stalled);
        let stuck = async {
            while received.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = &mut stalled => panic!("the sink takes nothing"),
            () = stuck => {}
        }
        let control = CopyControl {
            stop: &stop,
            progress: &|_| {},
        };
        let (mut sink, mut prover) = (MemorySink::default(), pool.begin());
        let copied = tokio::select! {
            _ = &mut stalled => panic!("the sink takes nothing"),
            copied = copy(download(&simulator).await, &mut prover, &mut sink, &control) => copied.unwrap(),
        };
        let proof = copied.proof.unwrap();
        assert_eq!((copied.body, proof.crc64), (copied.bytes, copied.crc64));
        assert_eq!((proof.stats.events.events, sink.aborted), (240, false));
        assert!(received.load(Ordering::Relaxed) <= ROOM);
    }

    #[tokio::test]
    async fn a_stop_aborts_the_sink() {
        let simulator = simulator().await;
        let stop = CancellationToken::new();
        let control = CopyControl {
            stop: &stop,
            progress: &|_| stop.cancel(),
        };
        let (mut sink, mut prover) = (MemorySink::default(), ProverPool::new(1).begin());
        let copied = copy(download(&simulator).await, &mut prover, &mut sink, &control).await;
        assert!(matches!(copied, Err(CopyError::Stopped)));
        assert!(sink.aborted && sink.body.len() as u64 <= ROOM);
    }
}
