//! Compressed blocks of events, and their cache. No I/O; compresses on the caller's thread.
//!
//! A block is raw deflate that ends with a full flush: it is byte-aligned and has no references to earlier data. So
//! blocks in any order form one valid gzip member, and its CRC is combined from theirs (RFC 1951, 1952). A body of any
//! size needs little memory: each hour has a block of its own events, and two template blocks, compressed once, are sent
//! many times without a copy.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};

use super::events::{BlockKey, SMALL_BLOCK, own_text, template_text};
use super::settings::JsonShape;

/// Minimum decompressed size of a large template block: 1 MiB.
const LARGE_BLOCK_BYTES: u64 = 1 << 20;
/// Maximum size of the cache of own blocks, in compressed bytes: 8 MiB.
const CACHE_BYTES: usize = 8 << 20;
/// Maximum number of generators that simulators share; further ones belong to one simulator.
const MAX_SHARED: usize = 8;
/// Maximum number of cached sizes and checksums; when it is reached, all are removed.
const MAX_CACHED_INFO: usize = 50_000;

/// A CRC-32, and the length of its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Crc32 {
    pub(super) crc: u32,
    /// Decompressed size in bytes.
    pub(super) raw: u64,
}

impl Crc32 {
    fn of(text: &[u8]) -> Self {
        Self {
            crc: crc32fast::hash(text),
            raw: text.len() as u64,
        }
    }

    /// Returns the checksum of this data followed by that of `next`.
    pub(super) fn then(self, next: Self) -> Self {
        let mut sum = crc32fast::Hasher::new_with_initial_len(self.crc, self.raw);
        sum.combine(&crc32fast::Hasher::new_with_initial_len(next.crc, next.raw));
        Self {
            crc: sum.finalize(),
            raw: self.raw.wrapping_add(next.raw),
        }
    }

    /// Returns the checksum of `times` repetitions, in logarithmic time.
    pub(super) fn repeated(self, mut times: u64) -> Self {
        let (mut all, mut power) = (Self::default(), self);
        while times > 0 {
            if times & 1 == 1 {
                all = all.then(power);
            }
            power = power.then(power);
            times >>= 1;
        }
        all
    }
}

/// Some events, compressed.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) sum: Crc32,
    pub(super) deflate: Bytes,
}

impl Block {
    /// Compresses a text. Level 0 stores it uncompressed.
    pub(super) fn of(text: &[u8], level: u8) -> Self {
        let mut deflate = Vec::with_capacity(text.len() + text.len() / 64 + 256);
        let mut compress = Compress::new(Compression::new(u32::from(level.min(9))), false);
        loop {
            let done = usize::try_from(compress.total_in()).unwrap_or(text.len());
            let rest = text.get(done..).unwrap_or_default();
            // With free capacity, the only error is that no input is left.
            if compress
                .compress_vec(rest, &mut deflate, FlushCompress::Full)
                .is_err()
            {
                break;
            }
            let all_in = compress.total_in() == text.len() as u64;
            if all_in && deflate.len() < deflate.capacity() {
                break;
            }
            deflate.reserve(text.len() / 8 + 256);
        }
        Self {
            sum: Crc32::of(text),
            deflate: deflate.into(),
        }
    }
}

/// The template blocks.
#[derive(Debug)]
pub(super) struct Templates {
    pub(super) small: Block,
    pub(super) large: Block,
    /// Events of the large block, a multiple of [`SMALL_BLOCK`].
    pub(super) large_events: u64,
}

/// Checksum and size of an hour's own block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockInfo {
    pub(super) sum: Crc32,
    /// Compressed size in bytes.
    pub(super) len: u64,
}

/// Format of blocks: JSON shape and compression level.
pub(super) type BlockFormat = (JsonShape, u8);

/// Generates and caches blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    seed: u64,
    bytes_per_event: usize,
    templates: Mutex<HashMap<BlockFormat, Arc<Templates>>>,
    cache: Mutex<BlockCache>,
    info: Mutex<HashMap<(BlockKey, BlockFormat), BlockInfo>>,
}

#[derive(Debug, Default)]
struct BlockCache {
    blocks: HashMap<(BlockKey, BlockFormat), Block>,
    order: VecDeque<(BlockKey, BlockFormat)>,
    bytes: usize,
}

impl Blocks {
    pub(super) fn new(seed: u64, bytes_per_event: usize) -> Self {
        Self {
            seed,
            bytes_per_event,
            templates: Mutex::default(),
            cache: Mutex::default(),
            info: Mutex::default(),
        }
    }

    /// Returns the generator of this seed and size. The simulators of a process share it, because blocks depend on
    /// nothing else: tests start hundreds of simulators that serve the same days.
    pub(super) fn shared(seed: u64, bytes_per_event: usize) -> Arc<Self> {
        static SHARED: Mutex<Vec<Arc<Blocks>>> = Mutex::new(Vec::new());
        let mut all = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |blocks: &&Arc<Self>| (blocks.seed, blocks.bytes_per_event) == (seed, bytes_per_event);
        if let Some(blocks) = all.iter().find(same) {
            return Arc::clone(blocks);
        }
        let blocks = Arc::new(Self::new(seed, bytes_per_event));
        if all.len() < MAX_SHARED {
            all.push(Arc::clone(&blocks));
        }
        blocks
    }

    /// Returns the number of events in the large template, enough for [`LARGE_BLOCK_BYTES`].
    pub(super) fn large_events(&self) -> u64 {
        let small = SMALL_BLOCK * (self.bytes_per_event.max(850) as u64);
        SMALL_BLOCK * LARGE_BLOCK_BYTES.div_ceil(small)
    }

    /// Returns the templates, which are generated on first use.
    pub(super) fn templates(&self, format: BlockFormat) -> Arc<Templates> {
        let mut all = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
        let templates = all.entry(format).or_insert_with(|| {
            let (json, level) = format;
            let large_events = self.large_events();
            let block = |events| {
                Block::of(
                    &template_text(self.seed, events, self.bytes_per_event, json),
                    level,
                )
            };
            Arc::new(Templates {
                small: block(SMALL_BLOCK),
                large: block(large_events),
                large_events,
            })
        });
        Arc::clone(templates)
    }

    /// Returns an hour's own block, from the cache or generated.
    pub(super) fn own(&self, key: &BlockKey, format: BlockFormat) -> Block {
        let wanted = (key.clone(), format);
        {
            let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(block) = cache.blocks.get(&wanted) {
                return block.clone();
            }
        }
        let (json, level) = format;
        let block = Block::of(&own_text(self.seed, key, self.bytes_per_event, json), level);
        self.store(wanted, &block);
        block
    }

    /// Returns size and checksum of an hour's own block.
    pub(super) fn info(&self, key: &BlockKey, format: BlockFormat) -> BlockInfo {
        let wanted = (key.clone(), format);
        if let Some(info) = self
            .info
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&wanted)
        {
            return *info;
        }
        let block = self.own(key, format);
        let info = BlockInfo {
            sum: block.sum,
            len: block.deflate.len() as u64,
        };
        let mut all = self.info.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_CACHED_INFO {
            all.clear();
        }
        all.insert(wanted, info);
        info
    }

    fn store(&self, key: (BlockKey, BlockFormat), block: &Block) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.blocks.insert(key.clone(), block.clone()).is_none() {
            cache.bytes += block.deflate.len();
            cache.order.push_back(key);
        }
        while cache.bytes > CACHE_BYTES {
            let Some(oldest) = cache.order.pop_front() else {
                break;
            };
            if let Some(block) = cache.blocks.remove(&oldest) {
                cache.bytes = cache.bytes.saturating_sub(block.deflate.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_combine() {
        let sum = Crc32::of(b"abc").then(Crc32::of(b"de").repeated(5));
        assert_eq!(sum, Crc32::of(b"abcdedededede"));
        assert_eq!(Crc32::of(b"x").repeated(0), Crc32::default());
    }

    #[test]
    fn events_compress_about_sixfold() {
        let text = template_text(1, 1500, 700, JsonShape::Lines);
        let block = Block::of(&text, 6);
        let ratio = text.len() / block.deflate.len();
        assert!(
            (5..=8).contains(&ratio),
            "{ratio}, {} bytes per event",
            text.len() / 1500
        );
    }
}
