//! The events that a later download of a window has beyond an earlier one, in bounded memory. No I/O.
//!
//! Events are compared as text, without white space outside strings, and as a multiset: an event that the earlier body has
//! twice must be in the later one twice. Both bodies are read once for each pass; a pass compares the events whose
//! digests lie in its share of the hash range, so that a table of [`PASS_EVENTS`] digests suffices for a body of any size.

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use std::io::Write as _;

use super::events::{EventSplitter, SplitError};

/// Events of the earlier body that one pass compares, on average: some 1,050,000, in a table of 20 MiB.
pub const PASS_EVENTS: u64 = 1 << 20;

/// Maximum number of passes: enough for a billion events.
pub const PASSES_MAX: u32 = 1_024;

/// Compressed bytes that are buffered before they are handed out.
const OUTPUT_BYTES: usize = 64 * 1024;

/// Error of bodies that cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// The earlier body cannot be split into events.
    #[error("the stored events cannot be compared: {0}")]
    Earlier(SplitError),
    /// The later body cannot be split into events.
    #[error("the later events cannot be compared: {0}")]
    Later(SplitError),
    /// The earlier body has too many events for [`PASSES_MAX`] passes.
    #[error("the stored events cannot be compared: more than {} events", PASS_EVENTS * u64::from(PASSES_MAX))]
    TooMany,
}

/// Result of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Events of the earlier body.
    pub earlier: u64,
    /// Events of the later body.
    pub later: u64,
    /// Events of the earlier body that the later one does not have.
    pub missing: u64,
    /// Events of the later body that the earlier one does not have: those of the supplement.
    pub new: u64,
}

/// Comparison of an earlier and a later body, pass by pass.
///
/// In each pass: [`push_earlier`](Self::push_earlier) and [`end_earlier`](Self::end_earlier) for each earlier body, then
/// [`push_later`](Self::push_later), then [`end_pass`](Self::end_pass).
#[derive(Debug)]
pub struct Comparer {
    passes: u32,
    pass: u32,
    splitter: EventSplitter,
    table: PassTable,
    totals: Comparison,
    output: SupplementWriter,
}

/// Digests of the earlier events of one pass.
#[derive(Debug, Default)]
struct PassTable {
    /// First half of the SHA-256 of each event, sorted once the earlier bodies have ended.
    digests: Vec<u128>,
    /// At the first index of a digest: how many equal events of the later body were found.
    found: Vec<u32>,
    sorted: bool,
}

/// The new events as a gzip of lines.
#[derive(Debug)]
struct SupplementWriter(GzEncoder<Vec<u8>>);

impl Comparer {
    /// Starts the comparison with a body of about `earlier_events`. Their number decides only how many passes there are,
    /// and thereby the order of the supplement: the same number and bodies give the same bytes.
    pub fn new(earlier_events: u64) -> Result<Self, CompareError> {
        let passes = u32::try_from(earlier_events.div_ceil(PASS_EVENTS).max(1)).unwrap_or(u32::MAX);
        if passes > PASSES_MAX {
            return Err(CompareError::TooMany);
        }
        Ok(Self {
            passes,
            pass: 0,
            splitter: EventSplitter::default(),
            table: PassTable::default(),
            totals: Comparison::default(),
            output: SupplementWriter::default(),
        })
    }

    /// Returns the number of times that both bodies must be read.
    pub const fn passes(&self) -> u32 {
        self.passes
    }

    /// Adds decompressed bytes of an earlier body.
    pub fn push_earlier(&mut self, bytes: &[u8]) -> Result<(), CompareError> {
        let Self {
            splitter,
            table,
            pass,
            passes,
            ..
        } = self;
        splitter.push(bytes, &mut |event| {
            let digest = digest(event);
            // Twice the average: digests are spread evenly, so that only a wrong number of events exceeds it.
            if share_of(digest, *passes) == *pass {
                if table.digests.len() as u64 >= 2 * PASS_EVENTS {
                    return Err(CompareError::TooMany);
                }
                table.digests.push(digest);
            }
            Ok(())
        })
    }

    /// Ends an earlier body.
    pub fn end_earlier(&mut self) -> Result<(), CompareError> {
        let events = std::mem::take(&mut self.splitter)
            .finish()
            .map_err(CompareError::Earlier)?;
        if self.pass == 0 {
            self.totals.earlier += events;
        }
        Ok(())
    }

    /// Adds decompressed bytes of the later body, after all earlier ones. Returns compressed bytes of the supplement, often
    /// none.
    pub fn push_later(&mut self, bytes: &[u8]) -> Result<Vec<u8>, CompareError> {
        let Self {
            splitter,
            table,
            pass,
            passes,
            totals,
            output,
        } = self;
        table.sort();
        splitter.push(bytes, &mut |event| {
            let digest = digest(event);
            if share_of(digest, *passes) == *pass && !table.take(digest) {
                totals.new += 1;
                output.write(event);
            }
            Ok::<(), CompareError>(())
        })?;
        Ok(output.drain(OUTPUT_BYTES))
    }

    /// Ends the later body and the pass. Returns true if another pass follows.
    pub fn end_pass(&mut self) -> Result<bool, CompareError> {
        let events = std::mem::take(&mut self.splitter)
            .finish()
            .map_err(CompareError::Later)?;
        self.totals.later = events;
        self.totals.missing += self.table.missing();
        self.table = PassTable::default();
        self.pass += 1;
        Ok(self.pass < self.passes)
    }

    /// Ends the comparison after the last pass. Returns the rest of the supplement, a complete gzip also without events.
    pub fn finish(self) -> (Comparison, Vec<u8>) {
        (self.totals, self.output.finish())
    }
}

impl PassTable {
    fn sort(&mut self) {
        if !self.sorted {
            self.digests.sort_unstable();
            self.found = vec![0; self.digests.len()];
            self.sorted = true;
        }
    }

    /// Takes one event with this digest. Returns false if none is left.
    fn take(&mut self, digest: u128) -> bool {
        let first = self.digests.partition_point(|known| *known < digest);
        let Some(found) = self.found.get_mut(first) else {
            return false;
        };
        let next = first.saturating_add(*found as usize);
        let left = self.digests.get(next) == Some(&digest);
        *found += u32::from(left);
        left
    }

    /// Returns the number of events that were not taken.
    fn missing(&self) -> u64 {
        let found: u64 = self.found.iter().map(|found| u64::from(*found)).sum();
        (self.digests.len() as u64).saturating_sub(found)
    }
}

impl Default for SupplementWriter {
    fn default() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::default()))
    }
}

impl SupplementWriter {
    fn write(&mut self, event: &[u8]) {
        // Writing to memory cannot fail.
        let _ = self.0.write_all(event).and_then(|()| self.0.write_all(b"\n"));
    }

    /// Returns the compressed bytes so far, if there are at least `least`.
    fn drain(&mut self, least: usize) -> Vec<u8> {
        if self.0.get_ref().len() < least {
            return Vec::new();
        }
        std::mem::take(self.0.get_mut())
    }

    fn finish(self) -> Vec<u8> {
        // Writing to memory cannot fail.
        self.0.finish().unwrap_or_default()
    }
}

fn digest(event: &[u8]) -> u128 {
    let digest = Sha256::digest(event);
    let half = digest.first_chunk().copied().unwrap_or_default();
    u128::from_be_bytes(half)
}

/// Returns the pass that compares a digest.
fn share_of(digest: u128, passes: u32) -> u32 {
    let top = digest >> 64;
    // Less than `passes`.
    u32::try_from((top * u128::from(passes)) >> 64).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::MultiGzDecoder;
    use proptest::prelude::*;

    use super::*;

    /// Compares bodies in a number of passes, in chunks of `step` bytes.
    fn compare(
        earlier: &[&[u8]],
        later: &[u8],
        passes: u32,
        step: usize,
    ) -> Result<(Comparison, Vec<String>), CompareError> {
        let mut comparer = Comparer {
            passes,
            ..Comparer::new(0)?
        };
        let mut gzip = Vec::new();
        loop {
            for body in earlier {
                body.chunks(step)
                    .try_for_each(|chunk| comparer.push_earlier(chunk))?;
                comparer.end_earlier()?;
            }
            for chunk in later.chunks(step) {
                gzip.extend(comparer.push_later(chunk)?);
            }
            if !comparer.end_pass()? {
                break;
            }
        }
        let (comparison, rest) = comparer.finish();
        gzip.extend(rest);
        let mut text = String::new();
        MultiGzDecoder::new(&*gzip).read_to_string(&mut text).unwrap();
        Ok((comparison, text.lines().map(ToOwned::to_owned).collect()))
    }

    #[test]
    fn only_new_events_are_in_the_supplement() {
        type Row = (
            &'static [&'static str],
            &'static str,
            (u64, u64),
            &'static [&'static str],
        );
        let rows: &[Row] = &[
            (&["{\"a\":1}\n"], "{\"a\":1}\n{\"a\":2}\n", (0, 1), &["{\"a\":2}"]),
            (&["{\"a\":1}\n"], "{\"a\":1}\n", (0, 0), &[]),
            // Another layout of the same events.
            (
                &["{\"a\":1}\n{\"b\":2}\n"],
                "[{\"b\": 2},\n {\"a\": 1}]",
                (0, 0),
                &[],
            ),
            // An event as often as it is sent.
            (&["{}\n{}\n"], "{}\n{}\n{}\n", (0, 1), &["{}"]),
            (&["{}\n{}\n"], "{}\n", (1, 0), &[]),
            // Changed.
            (
                &["{\"a\":1}\n{\"a\":2}"],
                "{\"a\":1}\n{\"a\":3}\n{\"a\":4}",
                (1, 2),
                &["{\"a\":3}", "{\"a\":4}"],
            ),
            // Several earlier bodies: the hours of a day.
            (
                &["{\"h\":0}", "", "{\"h\":1}"],
                "{\"h\":0}\n{\"x\":0}\n{\"h\":1}",
                (0, 1),
                &["{\"x\":0}"],
            ),
            (&[""], "{}\n", (0, 1), &["{}"]),
        ];
        for (earlier, later, (missing, new), expected) in rows {
            let earlier: Vec<&[u8]> = earlier.iter().map(|body| body.as_bytes()).collect();
            for passes in [1, 2, 7] {
                let (comparison, mut events) = compare(&earlier, later.as_bytes(), passes, 3).unwrap();
                events.sort();
                assert_eq!((comparison.missing, comparison.new), (*missing, *new), "{later}");
                assert_eq!(events, *expected, "{later}");
            }
        }
    }

    #[test]
    fn bodies_that_cannot_be_counted_are_not_compared() {
        let broken = b"{}\n<html>".as_slice();
        assert!(matches!(
            compare(&[broken], b"{}", 1, 9),
            Err(CompareError::Earlier(_))
        ));
        assert!(matches!(
            compare(&[b"{}"], broken, 1, 9),
            Err(CompareError::Later(_))
        ));
        assert!(Comparer::new(PASS_EVENTS * u64::from(PASSES_MAX)).is_ok());
        assert_eq!(Comparer::new(u64::MAX).unwrap_err(), CompareError::TooMany);
    }

    proptest! {
        #[test]
        fn earlier_and_supplement_are_the_later_body(
            stored in proptest::collection::vec(0u8..9, 0..40),
            late in proptest::collection::vec(0u8..9, 0..20),
            passes in 1u32..6,
            step in 1usize..50,
        ) {
            let lines = |ids: &[u8]| {
                let lines: Vec<String> = ids.iter().map(|id| format!("{{\"id\":{id}}}\n")).collect();
                lines.concat()
            };
            let later: Vec<u8> = late.iter().chain(stored.iter().rev()).copied().collect();
            let (comparison, mut events) =
                compare(&[lines(&stored).as_bytes()], lines(&later).as_bytes(), passes, step).unwrap();
            prop_assert_eq!(comparison, Comparison {
                earlier: stored.len() as u64,
                later: later.len() as u64,
                missing: 0,
                new: late.len() as u64,
            });
            let mut expected: Vec<String> = lines(&late).lines().map(ToOwned::to_owned).collect();
            expected.sort();
            events.sort();
            prop_assert_eq!(events, expected);
        }
    }
}
