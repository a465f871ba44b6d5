//! Writes the events of decompressed data, one on each line. Memory: the largest event. Writes to its output.

use std::io::{self, BufWriter, Write};

use super::events::{EventSplitter, SplitError};

/// Bytes that are collected before they are written: 64 KiB.
const WRITE_BYTES: usize = 64 * 1024;

/// Writer of events.
#[derive(Debug)]
pub struct EventLines<W: Write> {
    out: BufWriter<W>,
    splitter: EventSplitter,
    lines: u64,
    /// Error that ended the output.
    error: Option<io::Error>,
}

impl<W: Write> EventLines<W> {
    /// Creates a writer to an output.
    pub fn new(out: W) -> Self {
        Self {
            out: BufWriter::with_capacity(WRITE_BYTES, out),
            splitter: EventSplitter::default(),
            lines: 0,
            error: None,
        }
    }

    /// Writes the events that end in the next data. After an error of the output, nothing is written.
    pub fn push(&mut self, data: &[u8]) {
        if self.error.is_some() {
            return;
        }
        let Self {
            out, splitter, lines, ..
        } = self;
        let written = splitter.push(data, &mut |event| {
            out.write_all(event)?;
            out.write_all(b"\n")?;
            *lines += 1;
            Ok::<_, io::Error>(())
        });
        self.error = written.err();
    }

    /// Returns true if the output failed.
    pub const fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    /// Number of lines.
    pub const fn lines(&self) -> u64 {
        self.lines
    }

    /// Ends the data of an object, and flushes the output. The inner error: not all of the data is events.
    pub fn end_object(&mut self) -> io::Result<Result<(), SplitError>> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        self.out.flush()?;
        Ok(std::mem::take(&mut self.splitter).finish().map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_arrays_and_lines_become_one_line_each() {
        let mut out = Vec::new();
        let mut lines = EventLines::new(&mut out);
        for (data, events) in [
            ("[\n  {\"a\": \"x \\\" y\"},\n {\"b\": [1, {\"c\": 2}]}\n]\n", 2),
            ("{\"a\":1}\r\n\n{\"b\":2}", 4),
            ("", 4),
        ] {
            for byte in data.as_bytes() {
                lines.push(&[*byte]);
            }
            assert_eq!(lines.end_object().unwrap(), Ok(()));
            assert_eq!(lines.lines(), events);
        }
        drop(lines);
        let expected = "{\"a\":\"x \\\" y\"}\n{\"b\":[1,{\"c\":2}]}\n{\"a\":1}\n{\"b\":2}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn events_before_something_else_are_written_and_the_error_is_returned() {
        let mut out = Vec::new();
        let mut lines = EventLines::new(&mut out);
        lines.push(b"{\"a\":1}\n<html>");
        assert!(matches!(
            lines.end_object().unwrap(),
            Err(SplitError::Uncounted(_))
        ));
        lines.push(b"{\"b\":2}");
        assert_eq!(lines.end_object().unwrap(), Ok(()));
        drop(lines);
        assert_eq!(String::from_utf8(out).unwrap(), "{\"a\":1}\n{\"b\":2}\n");
    }
}
