//! Counts events in decompressed bytes: one JSON object per line, or one array of objects. No I/O.
//!
//! Counts top-level objects. If the first line is exactly one object, the stream is counted by lines, and the
//! first and last character of each line are checked; otherwise a scanner of the JSON structure counts. Bytes
//! are never changed.

/// Maximum length of the first line that is buffered to choose the counting mode: 1 MiB.
const FIRST_LINE_MAX: usize = 1024 * 1024;

/// Error of counting events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventsError {
    /// The data has something other than an object where an event should begin or end.
    #[error("the data after {events} events is not a JSON object")]
    NotAnObject {
        /// Events counted before it.
        events: u64,
    },
    /// The data ends inside an event or inside the array.
    #[error("the data ends inside an event, after {events} complete events")]
    Unfinished {
        /// Complete events.
        events: u64,
    },
}

#[derive(Debug)]
enum CountMode {
    /// Collects the first line.
    FirstLine(Vec<u8>),
    Lines(LineCounter),
    Structure(StructureScanner),
}

/// Incremental counter of events.
#[derive(Debug)]
pub struct EventCounter {
    mode: CountMode,
    error: Option<EventsError>,
}

impl Default for EventCounter {
    fn default() -> Self {
        Self {
            mode: CountMode::FirstLine(Vec::new()),
            error: None,
        }
    }
}

impl EventCounter {
    /// Counts the next bytes. [`Self::finish`] returns any error.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.error.is_none()
            && let Err(error) = self.try_push(bytes)
        {
            self.error = Some(error);
        }
    }

    /// Returns the number of events in all bytes pushed.
    pub fn finish(mut self) -> Result<u64, EventsError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if let CountMode::FirstLine(line) = &mut self.mode {
            let line = std::mem::take(line);
            let mut structure = StructureScanner::default();
            structure.push(&line)?;
            self.mode = CountMode::Structure(structure);
        }
        match self.mode {
            CountMode::Lines(lines) => lines.finish(),
            CountMode::Structure(structure) => structure.finish(),
            CountMode::FirstLine(_) => Ok(0),
        }
    }

    fn try_push(&mut self, mut bytes: &[u8]) -> Result<(), EventsError> {
        while let CountMode::FirstLine(line) = &mut self.mode {
            // White space before the first event is skipped at once, in any amount.
            if line.is_empty() {
                bytes = bytes.trim_ascii_start();
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
            let (head, rest) = bytes.split_at(end);
            bytes = rest;
            line.extend_from_slice(head);
            let ended = head.ends_with(b"\n");
            if ended && line.iter().all(u8::is_ascii_whitespace) {
                line.clear();
            } else if ended || line.len() > FIRST_LINE_MAX {
                let line = std::mem::take(line);
                self.choose_mode(&line, ended)?;
            }
        }
        match &mut self.mode {
            CountMode::Lines(lines) => lines.push(bytes),
            CountMode::Structure(structure) => structure.push(bytes),
            CountMode::FirstLine(_) => Ok(()),
        }
    }

    fn choose_mode(&mut self, line: &[u8], ended: bool) -> Result<(), EventsError> {
        let mut structure = StructureScanner::default();
        structure.push(line)?;
        let one_object = ended && structure.events == 1 && structure.depth == 0 && !structure.array;
        self.mode = if one_object {
            CountMode::Lines(LineCounter {
                events: 1,
                line: LineEnds::default(),
            })
        } else {
            CountMode::Structure(structure)
        };
        Ok(())
    }
}

#[derive(Debug, Default)]
struct LineEnds {
    first: Option<u8>,
    last: u8,
}

#[derive(Debug)]
struct LineCounter {
    events: u64,
    line: LineEnds,
}

impl LineCounter {
    fn push(&mut self, bytes: &[u8]) -> Result<(), EventsError> {
        let mut start = 0;
        for at in memchr::memchr_iter(b'\n', bytes) {
            self.add_part(bytes.get(start..at).unwrap_or_default());
            self.end_line()?;
            start = at + 1;
        }
        self.add_part(bytes.get(start..).unwrap_or_default());
        Ok(())
    }

    fn add_part(&mut self, part: &[u8]) {
        let mut visible = part.iter().copied();
        let not_space = |byte: &u8| !byte.is_ascii_whitespace();
        if self.line.first.is_none() {
            self.line.first = visible.clone().find(not_space);
        }
        if let Some(last) = visible.rfind(not_space) {
            self.line.last = last;
        }
    }

    fn end_line(&mut self) -> Result<(), EventsError> {
        match std::mem::take(&mut self.line) {
            LineEnds { first: None, .. } => Ok(()),
            LineEnds {
                first: Some(b'{'),
                last: b'}',
            } => {
                self.events += 1;
                Ok(())
            }
            LineEnds { .. } => Err(EventsError::NotAnObject { events: self.events }),
        }
    }

    fn finish(mut self) -> Result<u64, EventsError> {
        let events = self.events;
        self.end_line().map_err(|_| EventsError::Unfinished { events })?;
        Ok(self.events)
    }
}

#[derive(Debug, Default)]
struct StructureScanner {
    events: u64,
    depth: u64,
    /// True if the data is one array of events.
    array: bool,
    array_ended: bool,
    in_string: bool,
    escaped: bool,
}

impl StructureScanner {
    fn push(&mut self, bytes: &[u8]) -> Result<(), EventsError> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if self.in_string && !self.escaped {
                // Inside a string only a quote and a backslash matter.
                let rest = bytes.get(at..).unwrap_or_default();
                match memchr::memchr2(b'"', b'\\', rest) {
                    None => return Ok(()),
                    Some(skip) => {
                        at += skip;
                        self.in_string = bytes.get(at) == Some(&b'\\');
                        self.escaped = self.in_string;
                    }
                }
            } else if self.escaped {
                self.escaped = false;
            } else {
                self.scan_byte(byte)?;
            }
            at += 1;
        }
        Ok(())
    }

    fn scan_byte(&mut self, byte: u8) -> Result<(), EventsError> {
        let top = u64::from(self.array && !self.array_ended);
        let unexpected = Err(EventsError::NotAnObject { events: self.events });
        match byte {
            b'"' if self.depth > top => self.in_string = true,
            b'{' if !self.array_ended => self.depth += 1,
            b'[' if self.depth > top => self.depth += 1,
            b'[' if self.depth == 0 && self.events == 0 && !self.array => {
                self.array = true;
                self.depth = 1;
            }
            b'}' if self.depth > top => {
                self.depth -= 1;
                self.events += u64::from(self.depth == top);
            }
            b']' if self.depth > top => self.depth -= 1,
            b']' if self.array && self.depth == 1 => {
                self.depth = 0;
                self.array_ended = true;
            }
            b',' if self.depth >= 1 => {}
            _ if byte.is_ascii_whitespace() || self.depth > top => {}
            _ => return unexpected,
        }
        Ok(())
    }

    fn finish(self) -> Result<u64, EventsError> {
        if self.depth > 0 || self.in_string {
            Err(EventsError::Unfinished { events: self.events })
        } else {
            Ok(self.events)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> Result<u64, EventsError> {
        let count_in_chunks = |step: usize| {
            let mut events = EventCounter::default();
            text.as_bytes().chunks(step).for_each(|chunk| events.push(chunk));
            events.finish()
        };
        let unsplit = count_in_chunks(usize::MAX);
        for step in 1..12 {
            assert_eq!(count_in_chunks(step), unsplit, "chunks of {step}: {text}");
        }
        unsplit
    }

    #[test]
    fn events_are_counted_in_every_supported_layout() {
        for (text, events) in [
            ("", 0),
            ("\n \n", 0),
            ("{\"a\":1}\n{\"a\":2}\n", 2),
            ("{\"a\":1}\r\n\r\n{\"a\":2}", 2),
            ("\n{\"a\":\"}\\\"{\"}\n{}\n", 2),
            ("{\"a\":1}{\"a\":2}\n{\"a\":3}", 3),
            ("{\n \"a\": [1, {\"b\": 2}]\n}\n{\n}\n", 2),
            ("[]", 0),
            ("[{\"a\":1},\n {\"a\":[{}]}\n]\n", 2),
            ("[{\"a\":\"]\\\\\"},{}]", 2),
        ] {
            assert_eq!(count(text), Ok(events), "{text}");
        }
    }

    #[test]
    fn malformed_events_are_rejected() {
        for text in [
            "<html>",
            "null",
            "[1,2]",
            "{\"a\":1}\nerror\n",
            "{\"a\":1",
            "[{\"a\":1}",
            "{\"a\":1}\n{\"a\":",
            "[{}] {}",
            "\"x\"",
            "[{}]]",
        ] {
            assert!(count(text).is_err(), "{text}: {:?}", count(text));
        }
    }

    #[test]
    fn blank_lines_are_skipped_without_recursion() {
        let mut events = EventCounter::default();
        events.push(&vec![b'\n'; 4_000_000]);
        events.push(b"{}\n");
        assert_eq!(events.finish(), Ok(1));
    }

    #[test]
    fn an_unbounded_first_line_is_counted_without_buffering() {
        let mut events = EventCounter::default();
        events.push(b"[");
        for _ in 0..40_000 {
            events.push(b"{\"key\":\"some text of an event of some length here\"},");
        }
        events.push(b"{}]");
        assert_eq!(events.finish(), Ok(40_001));
    }
}
