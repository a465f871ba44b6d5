//! Gzip of events as a service sends it: lines of JSON with a ratio of about 6.5, generated once and kept in memory.
//!
//! A body is one gzip member of raw deflate blocks. Each ends with a full flush, so they can have any order (RFC 1951),
//! and a body of any size needs no more memory than the blocks. There are 16 different large ones, more than fit the
//! near caches of a processor, so that repetition does not help any contender.

use std::fmt::Write as _;
use std::thread;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};

/// Number of different blocks of each size.
const BLOCKS: u64 = 16;
/// Events of a large block: about 1 MiB compressed.
const LARGE: u64 = 5_800;
/// Events of a small block: about 32 KiB compressed.
const SMALL: u64 = 180;

/// Compressed events.
#[derive(Clone)]
struct Block {
    deflate: Bytes,
    events: u64,
    sum: crc32fast::Hasher,
    raw: u64,
}

/// The body of one window.
pub struct WindowBody {
    /// Pieces to send.
    pub pieces: Vec<Bytes>,
    /// Total size in bytes.
    pub bytes: u64,
    /// Number of events.
    pub events: u64,
}

/// Blocks of bodies.
pub struct Corpus {
    large: Vec<Block>,
    small: Vec<Block>,
}

impl Corpus {
    /// Generates the blocks, on all cores.
    pub fn new() -> Self {
        let start = |seeds: std::ops::Range<u64>, events| -> Vec<_> {
            seeds
                .map(|seed| thread::spawn(move || block(seed, events)))
                .collect()
        };
        let join = |threads: Vec<thread::JoinHandle<Block>>| -> Vec<Block> {
            threads
                .into_iter()
                .map(|thread| thread.join().expect("the thread returns a block"))
                .collect()
        };
        let (large, small) = (start(0..BLOCKS, LARGE), start(100..100 + BLOCKS, SMALL));
        let corpus = Self {
            large: join(large),
            small: join(small),
        };
        let raw: u64 = corpus.large.iter().map(|block| block.raw).sum();
        let deflated: usize = corpus.large.iter().map(|block| block.deflate.len()).sum();
        eprintln!(
            "blocks of {} KiB, ratio {:.2}",
            deflated / 1024 / 16,
            raw as f64 / deflated as f64
        );
        corpus
    }

    /// Returns a body of about `bytes`, never more.
    pub fn body(&self, bytes: u64) -> WindowBody {
        let mut pieces = vec![Bytes::from_static(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3])];
        // Room for the header, an empty last block, the checksum and the length.
        let mut left = bytes.saturating_sub(10 + 5 + 8);
        let (mut sum, mut raw, mut events) = (crc32fast::Hasher::new(), 0u64, 0);
        for blocks in [&self.large, &self.small] {
            for block in blocks.iter().cycle() {
                let Some(rest) = left.checked_sub(block.deflate.len() as u64) else {
                    break;
                };
                left = rest;
                sum.combine(&block.sum);
                raw += block.raw;
                events += block.events;
                pieces.push(block.deflate.clone());
            }
        }
        let mut end = vec![1, 0, 0, 0xff, 0xff];
        end.extend_from_slice(&sum.finalize().to_le_bytes());
        end.extend_from_slice(&(raw as u32).to_le_bytes());
        pieces.push(end.into());
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        WindowBody {
            pieces,
            bytes,
            events,
        }
    }
}

fn block(seed: u64, events: u64) -> Block {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
    let mut text = String::new();
    for index in 0..events {
        event(&mut text, &mut random, index * 3_600_000 / events);
    }
    let mut deflate = Vec::with_capacity(text.len() / 3);
    let mut compress = Compress::new(Compression::new(6), false);
    loop {
        let done = compress.total_in() as usize;
        let status = compress
            .compress_vec(&text.as_bytes()[done..], &mut deflate, FlushCompress::Full)
            .expect("compression cannot fail");
        if compress.total_in() as usize == text.len() && deflate.len() < deflate.capacity() {
            break;
        }
        assert!(status != Status::StreamEnd);
        deflate.reserve(1 << 16);
    }
    let mut sum = crc32fast::Hasher::new();
    sum.update(text.as_bytes());
    Block {
        deflate: deflate.into(),
        events,
        sum,
        raw: text.len() as u64,
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

const ACTIONS: [(&str, &str); 12] = [
    ("iam-am.policy.create", "iam/policy"),
    ("iam-identity.serviceid-apikey.login", "iam/apikey"),
    ("iam-identity.user-refreshtoken.login", "iam/token"),
    ("cloud-object-storage.object.read", "storage/object"),
    ("cloud-object-storage.object.create", "storage/object"),
    ("cloud-object-storage.bucket.list", "storage/bucket"),
    ("containers-kubernetes.cluster.update", "compute/cluster"),
    ("containers-kubernetes.worker.reboot", "compute/worker"),
    ("kms.secrets.unwrap", "kms/secret"),
    ("cloudfoundry.app.restage", "compute/app"),
    ("internet-svcs.zones.list", "network/zone"),
    ("is.vpc.security-group.read", "network/group"),
];
const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/60.0",
    "example-sdk-java/2.1.3 Linux/4.15.0 OpenJDK_64-Bit/25.171-b11",
    "aws-cli/1.15.40 Python/3.6.5 Linux/4.9.0 botocore/1.10.40",
    "kubectl/v1.10.3 (linux/amd64) kubernetes/2bba012",
];

/// Writes a CADF record of about 1,300 bytes, `millis` into the hour.
fn event(text: &mut String, random: &mut Random, millis: u64) {
    let (action, kind) = ACTIONS[random.below(12) as usize];
    let agent = AGENTS[random.below(4) as usize];
    let user = random.below(4_000);
    let (outcome, code, severity) = match random.below(25) {
        0 => ("failure", 403, "warning"),
        _ => ("success", 200, "normal"),
    };
    let (seconds, hour) = (millis / 1000, random.below(24));
    let (id, target, request) = (Uuid::of(random), Uuid::of(random), Uuid::of(random));
    let token = (random.next(), random.next(), random.next());
    let (correlation, trace) = (Uuid::of(random), (random.next(), random.next(), random.next()));
    let (instance, octet, size) = (random.below(64), random.below(250), random.below(4_000_000));
    let _ = writeln!(
        text,
        "{{\"payload\":{{\"id\":\"{id}\",\"typeURI\":\"http://schemas.dmtf.org/cloud/audit/1.0/event\",\
         \"eventTime\":\"2018-06-28T{hour:02}:{minute:02}:{second:02}.{micros:06}+0000\",\"eventType\":\"activity\",\
         \"action\":\"{action}\",\"outcome\":\"{outcome}\",\"severity\":\"{severity}\",\"initiator\":{{\"id\":\"IBMid-{number:010}\",\
         \"name\":\"person.{user}@example.com\",\"typeURI\":\"service/security/account/user\",\
         \"credential\":{{\"type\":\"token\",\"id\":\"{:016x}{:016x}{:016x}\"}},\"host\":{{\"agent\":\"{agent}\",\"address\":\"192.0.2.{octet}\"}}}},\
         \"target\":{{\"id\":\"crn:v1:example:public:{kind}:us-south:a/5f0e7d8c9b1a4e6d8c7b6a5f4e3d2c1b:{instance:08x}-6d55-4193-a9de-378620d6fab5:object:{target}\",\
         \"name\":\"{kind}\",\"typeURI\":\"{kind}\"}},\"observer\":{{\"name\":\"ActivityTracker\"}},\
         \"reason\":{{\"reasonCode\":{code},\"reasonType\":\"{outcome}\"}},\"requestData\":\"{{\\\"bytes\\\":{size}}}\",\
         \"requestId\":\"{request}\",\"correlationId\":\"{correlation}\",\"traceId\":\"{:016x}{:016x}\",\"spanId\":\"{:016x}\"}},\"meta\":{{\"serviceProviderName\":\"{kind}\",\"serviceProviderRegion\":\"us-south\",\
         \"userSpaceId\":\"c1234567-6d55-4193-a9de-378620d6fab5\",\"userAccountIds\":[\"5f0e7d8c9b1a4e6d8c7b6a5f4e3d2c1b\"]}}}}",
        token.0,
        token.1,
        token.2,
        trace.0,
        trace.1,
        trace.2,
        minute = seconds / 60,
        second = seconds % 60,
        micros = random.below(1_000_000),
        number = user * 7_919 + 270_000_000,
    );
}

struct Uuid(u64, u64);

impl Uuid {
    fn of(random: &mut Random) -> Self {
        Self(random.next(), random.next())
    }
}

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (high, low) = (self.0, self.1);
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }
}
