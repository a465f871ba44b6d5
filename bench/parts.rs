//! Measures the parts of the byte path separately, for `bench/bytes`: the transfer without the proof, and each part of
//! the proof without the transfer. The product cannot skip the proof, not even for a benchmark.
//!
//! ```text
//! parts move FROM TO CA BYTES OBJECTS AT_ONCE   download and upload of the product, without the proof
//! parts prove FILE                              milliseconds per MiB of gzip, for each part of the proof and all of it
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use eventexport::egress::{HostPolicy, Traffic};
use eventexport::pipeline::{events::EventCounter, gzip::GzipVerifier, prover_pool::ProverPool};
use eventexport::storage::{
    ChecksumMode, Crc64, ObjectClass, PutMode, PutOptions, S3Credentials, S3Settings, S3Store, S3Timeouts,
    Segments, Store,
};
use eventexport::tracker::{
    Credentials, DownloadResponse, RetryConfig, SessionRequest, Timeouts, TokenCache, Tracker, TrackerConfig,
    UaaSource,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::civil::Date;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

type BenchResult<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// The allocator of the program.
#[cfg(all(target_os = "linux", feature = "jemalloc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Size of a part in bytes, as in `pipeline::store_sink`.
const PART_BYTES: u64 = 8 << 20;
/// Concurrent part uploads, as in `pipeline::store_sink`.
const IN_FLIGHT: usize = 4;
/// Size of the chunks that are proved, in bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// Rounds of each measurement. The fastest counts, since disturbances only slow down.
const ROUNDS: usize = 5;

fn main() -> BenchResult {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["move", from, to, ca, bytes, objects, at_once] => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let (bytes, objects, at_once) = (bytes.parse()?, objects.parse()?, at_once.parse()?);
            runtime.block_on(move_all(from, to, ca, bytes, objects, at_once))
        }
        ["prove", file] => prove(&std::fs::read(file)?),
        _ => Err("invalid arguments: see the first lines of bench/parts.rs".into()),
    }
}

async fn move_all(from: &str, to: &str, ca: &str, bytes: u64, objects: u64, at_once: usize) -> BenchResult {
    let pem = std::fs::read(ca)?;
    let traffic = Traffic::default;
    let tracker = TrackerConfig {
        endpoint: from.parse()?,
        uaa: UaaSource::Endpoint(from.parse()?),
        credentials: Credentials::ApiKey("bench".into()),
        ca_pem: Some(pem.clone()),
        hosts: HostPolicy::any(),
        timeouts: Timeouts::default(),
        retry: RetryConfig::default(),
        traffic: traffic(),
    };
    let tracker = Tracker::new(tracker, &TokenCache::new())?;
    let store = S3Settings {
        bucket: "bench".to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(to.parse()?),
        force_path_style: true,
        credentials: S3Credentials::Static {
            access_key_id: "bench".to_owned(),
            secret_access_key: "benchsecret".into(),
            session_token: None,
        },
        ca_pem: Some(pem),
        storage_class: None,
        server_side_encryption: None,
        object_lock: None,
        checksum: ChecksumMode::Crc64Nvme,
        acl: None,
        requester_pays: false,
        timeouts: S3Timeouts::default(),
        hosts: HostPolicy::any(),
        traffic: traffic(),
    };
    let store: Arc<dyn Store> = Arc::new(S3Store::connect(store)?);
    let space = format!("b{bytes}-w{objects}");
    stream::iter(0..objects)
        .map(|n| move_one(&tracker, &store, &space, n))
        .buffer_unordered(at_once)
        .try_collect()
        .await
}

async fn move_one(tracker: &Tracker, store: &Arc<dyn Store>, space: &str, n: u64) -> BenchResult {
    let day = Date::constant(2015, 1, 1);
    let request = SessionRequest {
        start: day,
        end: day,
        hour: None,
        account: false,
    };
    let session = tracker.create_session(space, &request).await?;
    let DownloadResponse::Body(mut download) = tracker.download(space, &session.id).await? else {
        return Err("the download has no body".into());
    };
    let mut options = PutOptions {
        mode: PutMode::Overwrite,
        crc64: Crc64::of(b""),
        metadata: Vec::new(),
        content_type: "application/gzip",
        class: ObjectClass::Events,
    };
    let key = format!("parts-{n}");
    let (mut upload, mut number, mut filling) = (None, 0, Segments::default());
    let (mut in_flight, mut parts, mut crc64_of_parts) = (JoinSet::new(), Vec::new(), Crc64::of(b""));
    loop {
        let piece = download.next_within(PART_BYTES - filling.len()).await?;
        let ended = piece.is_none();
        filling.push(piece.unwrap_or_default());
        if filling.len() == PART_BYTES || (ended && upload.is_some() && !filling.is_empty()) {
            let body = std::mem::take(&mut filling);
            let received = Crc64(download.crc64nvme());
            let crc64 = received.suffix(crc64_of_parts, body.len());
            crc64_of_parts = received;
            let upload = match &upload {
                Some(upload) => upload,
                None => upload.insert(store.begin_upload(&key, &options).await?),
            };
            number += 1;
            let (store, upload) = (Arc::clone(store), upload.clone());
            in_flight.spawn(async move { store.upload_part(&upload, number, body, crc64).await });
        }
        while in_flight.len() > IN_FLIGHT || (ended && !in_flight.is_empty()) {
            if let Some(part) = in_flight.join_next().await {
                parts.push(part??);
            }
        }
        if ended {
            break;
        }
    }
    options.crc64 = Crc64(download.crc64nvme());
    if let Some(upload) = upload {
        parts.sort_by_key(|part| part.number);
        store.complete_upload(&upload, &parts, &options).await?;
    } else {
        store.put(&key, filling, &options).await?;
    }
    tracker.delete_session(space, &session.id).await?;
    Ok(())
}

fn prove(gzip: &[u8]) -> BenchResult {
    let inflate = |counting: bool| {
        let (mut proof, mut events) = (GzipVerifier::default(), EventCounter::default());
        for piece in gzip.chunks(CHUNK_BYTES) {
            proof.push(piece, &mut |text| {
                if counting {
                    events.push(text);
                }
            })?;
        }
        proof.finish()?;
        BenchResult::Ok(())
    };
    let segments = Segments::from(Bytes::copy_from_slice(gzip));
    println!("part,ms_per_mib");
    report("inflate and check CRC-32", gzip, || inflate(false))?;
    report("inflate and check CRC-32 and count", gzip, || inflate(true))?;
    report("SHA-256", gzip, || {
        let mut sum = Sha256::new();
        for piece in gzip.chunks(CHUNK_BYTES) {
            sum.update(piece);
        }
        std::hint::black_box(sum.finalize());
        Ok(())
    })?;
    report("CRC-64/NVME", gzip, || {
        std::hint::black_box(Crc64::of_segments(&segments));
        Ok(())
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    for (processors, name) in [
        (1, "whole proof, wall: one processor"),
        (2, "whole proof, wall: two processors"),
    ] {
        let began = Instant::now();
        let seconds = move || began.elapsed().as_secs_f64();
        report_with_clock(seconds, name, gzip, || {
            runtime.block_on(async {
                let mut proof = ProverPool::new(processors).begin();
                for piece in gzip.chunks(CHUNK_BYTES) {
                    proof.push(Bytes::copy_from_slice(piece)).await?;
                }
                proof.finish_section().await?;
                Ok(())
            })
        })?;
    }
    Ok(())
}

fn report(name: &str, gzip: &[u8], work: impl Fn() -> BenchResult) -> BenchResult {
    report_with_clock(thread_cpu_seconds, name, gzip, work)
}

fn report_with_clock(
    clock: impl Fn() -> f64,
    name: &str,
    gzip: &[u8],
    work: impl Fn() -> BenchResult,
) -> BenchResult {
    let mut fastest = f64::MAX;
    for _ in 0..ROUNDS {
        let before = clock();
        work()?;
        fastest = fastest.min(clock() - before);
    }
    #[allow(clippy::cast_precision_loss)]
    let mib = gzip.len() as f64 / f64::from(1 << 20);
    println!("{name},{:.3}", fastest * 1000.0 / mib);
    Ok(())
}

/// Returns the CPU time of this thread, which other programs hardly affect.
fn thread_cpu_seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    #[allow(clippy::cast_precision_loss)]
    let fraction = now.tv_nsec as f64 / 1e9;
    #[allow(clippy::cast_precision_loss)]
    let seconds = now.tv_sec as f64;
    seconds + fraction
}
