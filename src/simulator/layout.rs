//! Layout of a download: gzip members, blocks, and the bytes of any range. No I/O.
//!
//! A layout knows every length before it generates bytes. So a body has a `Content-Length`, and a range is generated
//! without the bytes before it.

use std::sync::Arc;

use bytes::Bytes;
use jiff::civil::Date;

use super::block::{Block, BlockFormat, Blocks, Crc32};
use super::events::{BlockKey, EventMix, SMALL_BLOCK};
use super::settings::{JsonShape, Members};

/// An empty final deflate block, which ends a member.
const DEFLATE_END: [u8; 2] = [3, 0];

/// Number of events in an hour: the original ones, then the late ones of each revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HourEvents {
    pub(super) date: Date,
    pub(super) hour: u8,
    pub(super) counts: Vec<u64>,
}

/// Format of a body, with faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BodyShape {
    pub(super) json: JsonShape,
    pub(super) level: u8,
    pub(super) members: Members,
    /// MTIME of the gzip headers. It changes the bytes without changing the events.
    pub(super) mtime: u32,
    /// True if the CRC of the first member is wrong.
    pub(super) wrong_crc: bool,
    /// Bytes after the last member.
    pub(super) trailing: usize,
}

/// Bytes that are sent `times` times.
#[derive(Debug)]
struct ByteRun {
    source: RunSource,
    /// Size of one repetition in bytes.
    len: u64,
    times: u64,
    ends_member: bool,
}

#[derive(Debug)]
enum RunSource {
    Bytes(Bytes),
    Own(BlockKey),
}

/// Layout of a body.
#[derive(Debug)]
pub(super) struct Layout {
    runs: Vec<ByteRun>,
    format: BlockFormat,
    /// Compressed size in bytes.
    pub(super) bytes: u64,
    /// Number of events.
    pub(super) events: u64,
}

impl Layout {
    /// Lays out the body of some hours, in this order.
    pub(super) fn new(
        blocks: &Blocks,
        space: Option<&Arc<str>>,
        hours: &[HourEvents],
        shape: BodyShape,
    ) -> Self {
        let mut writer = LayoutBuilder {
            layout: Self {
                runs: Vec::new(),
                format: (shape.json, shape.level),
                bytes: 0,
                events: 0,
            },
            shape,
            open: None,
        };
        let (start, end) = shape.json.around_body();
        let (hour_start, hour_end) = shape.json.around_hour();
        let boundaries = [Members::Hours, Members::Blocks];
        writer.text(start);
        writer.boundary(&boundaries);
        let mut first = true;
        for hour in hours
            .iter()
            .filter(|hour| hour.counts.iter().any(|count| *count > 0))
        {
            writer.text(hour_start);
            writer.hour(blocks, space, hour, first || !hour_start.is_empty());
            writer.text(hour_end);
            writer.boundary(&boundaries);
            first = false;
        }
        writer.text(end);
        writer.boundary(&boundaries);
        if writer.layout.runs.is_empty() {
            writer.open();
        }
        writer.close();
        if shape.trailing > 0 {
            let garbage: Vec<u8> = b"trailing "
                .iter()
                .copied()
                .cycle()
                .take(shape.trailing)
                .collect();
            writer.push(RunSource::Bytes(garbage.into()), shape.trailing as u64, 1, false);
        }
        writer.layout
    }

    /// Returns the end of the `nth` gzip member, from 1, or of the last one if there are fewer.
    pub(super) fn member_end(&self, nth: u64) -> u64 {
        let (mut at, mut seen, mut end) = (0, 0, 0);
        for run in &self.runs {
            if run.ends_member {
                let more = run.times.min(nth.max(1) - seen);
                seen += more;
                end = at + run.len * more;
                if seen == nth.max(1) {
                    return end;
                }
            }
            at += run.len * run.times;
        }
        end
    }

    /// Returns the bytes from `from` up to `to`, in pieces of at most one block.
    pub(super) fn pieces(self: &Arc<Self>, blocks: &Arc<Blocks>, from: u64, to: u64) -> Pieces {
        let mut pieces = Pieces {
            layout: Arc::clone(self),
            blocks: Arc::clone(blocks),
            run: 0,
            time: 0,
            skip: from,
            left: to.min(self.bytes).saturating_sub(from),
        };
        pieces.seek();
        pieces
    }
}

struct LayoutBuilder {
    layout: Layout,
    shape: BodyShape,
    /// Checksum of the open member.
    open: Option<Crc32>,
}

impl LayoutBuilder {
    fn push(&mut self, source: RunSource, len: u64, times: u64, ends_member: bool) {
        if len * times > 0 {
            self.layout.bytes += len * times;
            self.layout.runs.push(ByteRun {
                source,
                len,
                times,
                ends_member,
            });
        }
    }

    fn open(&mut self) {
        if self.open.is_none() {
            let header = header(self.shape.mtime);
            self.push(RunSource::Bytes(header), 10, 1, false);
            self.open = Some(Crc32::default());
        }
    }

    fn close(&mut self) {
        if let Some(mut sum) = self.open.take() {
            if std::mem::take(&mut self.shape.wrong_crc) {
                sum.crc ^= 1;
            }
            let footer = footer(sum);
            let len = footer.len() as u64;
            self.push(RunSource::Bytes(footer), len, 1, true);
        }
    }

    /// Closes the member if the shape is one of these.
    fn boundary(&mut self, members: &[Members]) {
        if members.contains(&self.shape.members) {
            self.close();
        }
    }

    fn add(&mut self, sum: Crc32) {
        if let Some(open) = &mut self.open {
            *open = open.then(sum);
        }
    }

    fn text(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        self.open();
        let block = Block::of(text, self.shape.level);
        let len = block.deflate.len() as u64;
        self.push(RunSource::Bytes(block.deflate), len, 1, false);
        self.add(block.sum);
    }

    fn hour(&mut self, blocks: &Blocks, space: Option<&Arc<str>>, hour: &HourEvents, first: bool) {
        let large_events = blocks.large_events();
        let mixes: Vec<EventMix> = hour
            .counts
            .iter()
            .map(|count| EventMix::of(*count, large_events))
            .collect();
        let key = BlockKey {
            space: space.cloned(),
            date: hour.date,
            hour: hour.hour,
            counts: mixes.iter().map(|mix| mix.own).collect(),
            first,
        };
        let format = self.layout.format;
        let info = blocks.info(&key, format);
        self.open();
        self.layout.events += key.counts.iter().sum::<u64>();
        self.push(RunSource::Own(key), info.len, 1, false);
        self.add(info.sum);
        self.boundary(&[Members::Blocks]);
        let small: u64 = mixes.iter().map(|mix| mix.small).sum();
        let large: u64 = mixes.iter().map(|mix| mix.large).sum();
        if small + large > 0 {
            let templates = blocks.templates(format);
            self.template(&templates.small, SMALL_BLOCK, small);
            self.template(&templates.large, templates.large_events, large);
        }
    }

    fn template(&mut self, block: &Block, events: u64, times: u64) {
        self.layout.events += events * times;
        if self.shape.members == Members::Blocks {
            let member = member(block, self.shape.mtime);
            let len = member.len() as u64;
            self.push(RunSource::Bytes(member), len, times, true);
        } else {
            self.push(
                RunSource::Bytes(block.deflate.clone()),
                block.deflate.len() as u64,
                times,
                false,
            );
            self.add(block.sum.repeated(times));
        }
    }
}

/// Returns a gzip header without names or comments, for an unknown system.
fn header(mtime: u32) -> Bytes {
    let mut header = vec![0x1f, 0x8b, 8, 0];
    header.extend_from_slice(&mtime.to_le_bytes());
    header.extend_from_slice(&[0, 0xff]);
    header.into()
}

/// Returns the final deflate block, the CRC-32, and the length modulo 2³².
fn footer(sum: Crc32) -> Bytes {
    let mut footer = DEFLATE_END.to_vec();
    footer.extend_from_slice(&sum.crc.to_le_bytes());
    let length = u32::try_from(sum.raw & u64::from(u32::MAX)).unwrap_or(0);
    footer.extend_from_slice(&length.to_le_bytes());
    footer.into()
}

/// Returns a block as a complete gzip member.
fn member(block: &Block, mtime: u32) -> Bytes {
    [header(mtime), block.deflate.clone(), footer(block.sum)]
        .concat()
        .into()
}

/// A range of a body, piece by piece.
#[derive(Debug)]
pub(super) struct Pieces {
    layout: Arc<Layout>,
    blocks: Arc<Blocks>,
    run: usize,
    time: u64,
    /// Bytes to skip before the next piece, from the start of run `run`, repetition `time`.
    skip: u64,
    left: u64,
}

impl Pieces {
    /// Returns the number of remaining bytes.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Advances to the position of `skip` without generating bytes.
    fn seek(&mut self) {
        while let Some(run) = self.layout.runs.get(self.run) {
            let rest = run.len * (run.times - self.time);
            if self.skip < rest {
                self.time += self.skip / run.len;
                self.skip %= run.len;
                return;
            }
            self.skip -= rest;
            self.run += 1;
            self.time = 0;
        }
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let run = self.layout.runs.get(self.run)?;
        let block = match &run.source {
            RunSource::Bytes(bytes) => bytes.clone(),
            RunSource::Own(key) => self.blocks.own(key, self.layout.format).deflate,
        };
        let from = usize::try_from(self.skip).ok()?.min(block.len());
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let to = from.saturating_add(left).min(block.len());
        self.left -= (to - from) as u64;
        self.skip = to as u64;
        self.seek();
        Some(block.slice(from..to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::{GzDecoder, MultiGzDecoder};
    use jiff::civil::date;
    use std::io::Read;

    const SHAPE: BodyShape = BodyShape {
        json: JsonShape::Lines,
        level: 6,
        members: Members::One,
        mtime: 0,
        wrong_crc: false,
        trailing: 0,
    };

    fn day(counts: &[u64]) -> Vec<HourEvents> {
        let hour = |(hour, count): (usize, &u64)| HourEvents {
            date: date(2018, 6, 28),
            hour: u8::try_from(hour).unwrap(),
            counts: vec![*count],
        };
        counts.iter().enumerate().map(hour).collect()
    }

    fn body(layout: &Arc<Layout>, blocks: &Arc<Blocks>, from: u64, to: u64) -> Vec<u8> {
        layout
            .pieces(blocks, from, to)
            .flat_map(|piece| piece.to_vec())
            .collect()
    }

    #[test]
    fn every_shape_is_valid_gzip_with_the_stated_events() {
        let blocks = Arc::new(Blocks::new(1, 700));
        for members in [Members::One, Members::Hours, Members::Blocks] {
            for json in JsonShape::ALL {
                for level in [0, 6] {
                    let shape = BodyShape {
                        json,
                        level,
                        members,
                        ..SHAPE
                    };
                    let hours = day(&[0, 3, 0, 5000, 1]);
                    let layout = Arc::new(Layout::new(&blocks, Some(&"s".into()), &hours, shape));
                    let bytes = body(&layout, &blocks, 0, u64::MAX);
                    assert_eq!(bytes.len() as u64, layout.bytes);
                    assert_eq!(layout.events, 5004);
                    let mut text = String::new();
                    match members {
                        Members::One => GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap(),
                        _ => MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap(),
                    };
                    assert_eq!(text.matches("{\"payload\":").count(), 5004, "{shape:?}");
                    let events: Vec<serde_json::Value> = match json {
                        JsonShape::Array => serde_json::from_str(&text).unwrap(),
                        JsonShape::Lines => text
                            .lines()
                            .map(|line| serde_json::from_str(line).unwrap())
                            .collect(),
                        _ => continue,
                    };
                    assert_eq!(events.len(), 5004, "{shape:?}");
                }
            }
        }
    }

    #[test]
    fn a_range_is_a_slice_of_the_complete_body() {
        let blocks = Arc::new(Blocks::new(1, 700));
        for members in [Members::One, Members::Blocks] {
            let hours = day(&[7, 9000, 2]);
            let layout = Arc::new(Layout::new(&blocks, None, &hours, BodyShape { members, ..SHAPE }));
            let complete = body(&layout, &blocks, 0, u64::MAX);
            let len = layout.bytes;
            for (from, to) in [
                (0, 1),
                (9, 11),
                (len / 3, len / 2),
                (len - 1, len),
                (len, len),
                (5, u64::MAX),
            ] {
                let wanted = &complete[usize::try_from(from).unwrap()..usize::try_from(to.min(len)).unwrap()];
                assert_eq!(body(&layout, &blocks, from, to), wanted, "{from}..{to}");
            }
        }
    }

    #[test]
    fn a_body_cut_at_a_members_end_decompresses_and_lacks_events() {
        let blocks = Arc::new(Blocks::new(1, 700));
        let hours = day(&[3, 3, 3]);
        let layout = Arc::new(Layout::new(
            &blocks,
            None,
            &hours,
            BodyShape {
                members: Members::Hours,
                ..SHAPE
            },
        ));
        let mut text = String::new();
        let part = body(&layout, &blocks, 0, layout.member_end(2));
        MultiGzDecoder::new(&part[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), 6);
        assert_eq!(layout.member_end(9), layout.bytes);
    }

    #[test]
    fn a_body_without_events_is_a_complete_gzip() {
        let blocks = Arc::new(Blocks::new(1, 700));
        let layout = Arc::new(Layout::new(&blocks, None, &day(&[0, 0]), SHAPE));
        assert_eq!(layout.bytes, 20);
        let mut text = String::new();
        GzDecoder::new(&body(&layout, &blocks, 0, 20)[..])
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "");
    }
}
