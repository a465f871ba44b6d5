//! Counts events in decompressed bytes: JSON objects in lines, in arrays or one after another. No I/O.
//!
//! A scanner of the JSON structure counts the objects of the top level and of arrays at the top level. If the first line
//! is exactly one object, later lines with braces around them count as one each without a scan, unless they may hold
//! several. White space, `null`, NUL, the record separator of RFC 7464 and a byte order mark between objects do not
//! count. Counting stops at the first byte that is none of this: the events before it stay counted, and [`Uncounted`]
//! states the place and the reason. Bytes are never changed, and the result does not depend on the chunks in which
//! they arrive.

use memchr::{memchr, memchr3, memmem};

/// Maximum length of a line that is buffered to be examined at once: 1 MiB. A longer one is scanned as it arrives.
const LINE_MAX: usize = 1024 * 1024;

const NULL: &[u8] = b"null";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Number of events in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCount {
    /// Events that are certainly there: all of them, unless `uncounted` is set.
    pub events: u64,
    /// Place and reason if the rest of the stream could not be counted.
    pub uncounted: Option<Uncounted>,
}

/// Place at which counting stopped, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uncounted {
    /// Reason.
    pub reason: UncountedReason,
    /// Offset in the decompressed data: the events before it are counted.
    pub at_byte: u64,
}

/// Reason why a stream could not be counted to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UncountedReason {
    /// Something that is not a JSON object stands where an event should, or an event is broken.
    NotAnObject,
    /// The data ends inside an event or an array.
    Unfinished,
    /// The data is a single object that holds a list: one event and an envelope of many look the same.
    Envelope,
}

impl UncountedReason {
    /// Returns the name in receipts and JSON output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAnObject => "NotAnObject",
            Self::Unfinished => "Unfinished",
            Self::Envelope => "Envelope",
        }
    }
}

impl std::fmt::Display for Uncounted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.at_byte;
        match self.reason {
            UncountedReason::NotAnObject => write!(f, "the data at byte {at} is not a JSON object"),
            UncountedReason::Unfinished => write!(f, "the data ends inside what begins at byte {at}"),
            UncountedReason::Envelope => {
                f.write_str("the data is one JSON object that holds a list, which may be one event or an envelope of many")
            }
        }
    }
}

/// Incremental counter of events.
#[derive(Debug, Default)]
pub struct EventCounter {
    scanner: StructureScanner,
    /// Beginning of a line that has not ended yet.
    line: Vec<u8>,
}

impl EventCounter {
    /// Counts the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        let plain = self.scanner.by_line && !may_have_joint(bytes);
        while !bytes.is_empty() && self.scanner.stopped.is_none() {
            if !self.scanner.at_line_start {
                let scanned = self.scanner.scan_line(bytes);
                bytes = bytes.get(scanned..).unwrap_or_default();
                continue;
            }
            let end = memchr(b'\n', bytes).map(|at| at + 1);
            let (head, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            bytes = rest;
            if self.line.is_empty() && end.is_some() {
                self.scanner.count_line(head, plain);
                continue;
            }
            self.line.extend_from_slice(head);
            if end.is_some() || self.line.len() > LINE_MAX {
                self.scanner.count_line(&self.line, false);
                self.line.clear();
            }
        }
    }

    /// Returns the number of events in all bytes pushed.
    pub fn finish(mut self) -> EventCount {
        self.scanner.count_line(&self.line, false);
        self.scanner.finish()
    }
}

/// Splits decompressed bytes into events, by the same scanner as [`EventCounter`]. Memory: the largest event, at most
/// [`EVENT_MAX_BYTES`].
#[derive(Debug, Default)]
pub struct EventSplitter {
    scanner: StructureScanner,
    /// The current event, without white space outside strings.
    event: Vec<u8>,
    /// Offset of the first event that is too large.
    too_large: Option<u64>,
}

/// Maximum size of an event that can be compared with others: 16 MiB without white space outside strings.
pub const EVENT_MAX_BYTES: usize = 16 * 1024 * 1024;

impl EventSplitter {
    /// Splits the next bytes. Passes each event that ends in them to `sink`: one line without its end, the bytes as sent
    /// but for white space outside strings. After the first byte that cannot be counted, nothing follows.
    pub fn push<E>(&mut self, bytes: &[u8], sink: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut rest = bytes;
        while let [byte, after @ ..] = rest {
            if self.scanner.stopped.is_some() || self.too_large.is_some() {
                return Ok(());
            }
            // Most bytes are inside of strings, where only these three matter.
            if self.scanner.in_string && !self.scanner.escaped {
                let plain = memchr3(b'"', b'\\', b'\n', rest).unwrap_or(rest.len());
                if plain > 0 {
                    let (text, others) = rest.split_at(plain);
                    self.scanner.scan_line(text);
                    self.event.extend_from_slice(text);
                    self.note_size();
                    rest = others;
                    continue;
                }
            }
            rest = after;
            let (events, in_string) = (self.scanner.events, self.scanner.in_string);
            self.scanner.scan_line(std::slice::from_ref(byte));
            let ended = self.scanner.events > events;
            let in_event = self.scanner.depth > u64::from(self.scanner.array);
            if (in_event || ended) && (in_string || !byte.is_ascii_whitespace()) {
                self.event.push(*byte);
            }
            self.note_size();
            if ended {
                sink(&self.event)?;
                self.event.clear();
                self.event.shrink_to(LINE_MAX);
            }
        }
        Ok(())
    }

    fn note_size(&mut self) {
        if self.event.len() > EVENT_MAX_BYTES {
            self.too_large = Some(self.scanner.begin);
        }
    }

    /// Returns the number of events that were passed on, if these are all of the data.
    pub fn finish(self) -> Result<u64, SplitError> {
        if let Some(at_byte) = self.too_large {
            return Err(SplitError::TooLarge { at_byte });
        }
        let EventCount { events, uncounted } = self.scanner.finish();
        uncounted.map_or(Ok(events), |uncounted| Err(SplitError::Uncounted(uncounted)))
    }
}

/// Error of data that cannot be split into events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// The events cannot be counted to the end of the data.
    #[error("{0}")]
    Uncounted(Uncounted),
    /// An event is larger than [`EVENT_MAX_BYTES`].
    #[error("the event at byte {at_byte} is larger than {EVENT_MAX_BYTES} bytes")]
    TooLarge {
        /// Offset of the event in the decompressed data.
        at_byte: u64,
    },
}

/// Returns true for bytes between events that mean nothing: white space, NUL and the record separator.
const fn is_filler(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, 0 | 0x1e)
}

fn trim_filler(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_filler(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_filler(*last)
    {
        bytes = rest;
    }
    bytes
}

/// Returns true if something in the bytes may stand between two objects of one line: a brace, a space, NUL, the record
/// separator or a byte order mark. Rarely true for lines of one object, and fast.
fn may_have_joint(bytes: &[u8]) -> bool {
    memchr3(0, 0x1e, 0xef, bytes).is_some()
        || memmem::find(bytes, b"}{").is_some()
        || memmem::find(bytes, b"} ").is_some()
}

/// Shape of the first object, to recognize an envelope.
#[derive(Debug, Default)]
struct FirstObject {
    begin: u64,
    /// True right after the beginning of a list that is a member of the object.
    in_new_list: bool,
    list_of_objects: bool,
    empty_list: bool,
    member_object: bool,
}

impl FirstObject {
    fn scan_byte(&mut self, byte: u8, depth: u64) {
        if byte.is_ascii_whitespace() {
            return;
        }
        if std::mem::replace(&mut self.in_new_list, byte == b'[' && depth == 1) {
            self.list_of_objects |= byte == b'{';
            self.empty_list |= byte == b']';
        }
        self.member_object |= byte == b'{' && depth == 1;
    }

    /// Returns the number of events that are certainly in the object, if it may be an envelope.
    const fn envelope(&self) -> Option<u64> {
        if self.list_of_objects {
            Some(1)
        } else if self.empty_list && !self.member_object {
            Some(0)
        } else {
            None
        }
    }
}

#[derive(Debug)]
struct StructureScanner {
    events: u64,
    /// Bytes scanned.
    offset: u64,
    depth: u64,
    /// True inside an array of events.
    array: bool,
    /// True if the data has an array of events.
    any_array: bool,
    in_string: bool,
    escaped: bool,
    /// Word of the top level, and the number of its bytes that were read.
    word: Option<(&'static [u8], usize)>,
    /// True between two lines at the top level.
    at_line_start: bool,
    /// True if the first event is a line, so that the others are expected to be.
    by_line: bool,
    /// Offset of the current event or word.
    begin: u64,
    first: FirstObject,
    stopped: Option<Uncounted>,
}

impl Default for StructureScanner {
    fn default() -> Self {
        Self {
            events: 0,
            offset: 0,
            depth: 0,
            array: false,
            any_array: false,
            in_string: false,
            escaped: false,
            word: None,
            at_line_start: true,
            by_line: false,
            begin: 0,
            first: FirstObject::default(),
            stopped: None,
        }
    }
}

impl StructureScanner {
    /// Counts a line that begins at the top level, or the beginning of a longer one. `plain`: it has no joint.
    fn count_line(&mut self, line: &[u8], plain: bool) {
        if self.by_line
            && self.stopped.is_none()
            && line.len() <= LINE_MAX
            && let object @ [b'{', .., b'}'] = trim_filler(line)
            && (plain || !may_have_joint(object))
        {
            self.events += 1;
            self.offset += line.len() as u64;
        } else {
            let before = self.events;
            self.scan_line(line);
            // The first object is always scanned: if it stays the only one, its shape matters.
            self.by_line |= before == 0
                && self.events == 1
                && self.at_line_start
                && !self.any_array
                && line.len() <= LINE_MAX;
        }
    }

    /// Scans up to the end of a line at the top level, and returns the number of bytes scanned.
    fn scan_line(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        self.at_line_start = false;
        while let Some(&byte) = bytes.get(at) {
            if self.stopped.is_some() {
                return bytes.len();
            }
            let mut step = 1;
            if self.escaped {
                self.escaped = false;
            } else if self.in_string {
                // Inside a string only a quote, a backslash and a line break, which ends no string, matter.
                let rest = bytes.get(at..).unwrap_or_default();
                let skipped = memchr3(b'"', b'\\', b'\n', rest);
                step = skipped.map_or(rest.len(), |skipped| skipped + 1);
                match skipped.and_then(|skipped| rest.get(skipped)) {
                    None => {}
                    Some(b'"') => self.in_string = false,
                    Some(b'\\') => self.escaped = true,
                    Some(_) => self.stop(UncountedReason::NotAnObject, self.begin),
                }
            } else if let Some((word, read)) = self.word {
                let fits = word.get(read) == Some(&byte);
                self.word = Some((word, read + 1)).filter(|_| read + 1 < word.len());
                if !fits {
                    self.stop(UncountedReason::NotAnObject, self.begin);
                }
            } else {
                self.scan_byte(byte);
                if byte == b'\n' && self.depth == 0 {
                    self.at_line_start = true;
                }
            }
            at += step;
            self.offset += step as u64;
            if self.at_line_start {
                break;
            }
        }
        at
    }

    fn scan_byte(&mut self, byte: u8) {
        let top = u64::from(self.array);
        if self.events == 0 && !self.any_array && self.depth > 0 {
            self.first.scan_byte(byte, self.depth);
        }
        match byte {
            b'"' if self.depth > top => self.in_string = true,
            b'{' => {
                if self.depth == top {
                    self.begin = self.offset;
                }
                self.depth += 1;
                if self.events == 0 && self.depth == 1 {
                    self.first.begin = self.begin;
                }
            }
            b'[' if self.depth > top => self.depth += 1,
            b'[' if self.depth == 0 => (self.array, self.any_array, self.depth) = (true, true, 1),
            b'}' if self.depth > top => {
                self.depth -= 1;
                self.events += u64::from(self.depth == top);
            }
            b']' if self.depth > top + 1 => self.depth -= 1,
            b']' if self.array && self.depth == 1 => (self.array, self.depth) = (false, 0),
            b',' if self.depth > 0 => {}
            b'n' if self.depth == top => self.begin_word(NULL),
            0xef if self.depth == 0 => self.begin_word(BYTE_ORDER_MARK),
            b']' if self.depth > top => self.stop(UncountedReason::NotAnObject, self.begin),
            _ if self.depth > top || is_filler(byte) => {}
            _ => self.stop(UncountedReason::NotAnObject, self.offset),
        }
    }

    fn begin_word(&mut self, word: &'static [u8]) {
        self.begin = self.offset;
        self.word = Some((word, 1));
    }

    fn stop(&mut self, reason: UncountedReason, at_byte: u64) {
        self.stopped = Some(Uncounted { reason, at_byte });
    }

    fn finish(self) -> EventCount {
        let at = |reason, at_byte| Some(Uncounted { reason, at_byte });
        let in_event = self.depth > u64::from(self.array);
        let (events, uncounted) = if self.stopped.is_some() {
            (self.events, self.stopped)
        } else if in_event || self.word.is_some() {
            (self.events, at(UncountedReason::Unfinished, self.begin))
        } else if self.depth > 0 {
            (self.events, at(UncountedReason::Unfinished, self.offset))
        } else {
            match self.first.envelope() {
                Some(least) if self.events == 1 && !self.any_array => {
                    (least, at(UncountedReason::Envelope, self.first.begin))
                }
                _ => (self.events, None),
            }
        };
        EventCount { events, uncounted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &[u8]) -> EventCount {
        let count_in_chunks = |step: usize| {
            let mut events = EventCounter::default();
            text.chunks(step).for_each(|chunk| events.push(chunk));
            events.finish()
        };
        let unsplit = count_in_chunks(usize::MAX);
        for step in 1..12 {
            let text = text.escape_ascii();
            assert_eq!(count_in_chunks(step), unsplit, "chunks of {step}: {text}");
        }
        unsplit
    }

    #[test]
    fn bodies_are_counted_in_every_layout() {
        let bodies: &[(&[u8], u64)] = &[
            (b"", 0),
            (b"\n \n", 0),
            (b"null", 0),
            (b"null\nnull\n", 0),
            (b"\xef\xbb\xbf", 0),
            (b"\0\0\0", 0),
            (b"[]", 0),
            (b"[][]", 0),
            (b"{}", 1),
            (b"{\"a\":1}\n{\"a\":2}\n", 2),
            (b"{\"a\":1}\r\n\r\n{\"a\":2}", 2),
            (b"\n{\"a\":\"}\\\"{\"}\n{}\n", 2),
            (b"\xef\xbb\xbf{\"a\":1}\n{\"a\":2}\n", 2),
            (b"\xef\xbb\xbf[{},{}]", 2),
            (b"{\"a\":1}\n\xef\xbb\xbf{\"a\":2}\n{}\xef\xbb\xbf{}\n", 4),
            (b"{\"a\":1}{\"a\":2}\n{\"a\":3}", 3),
            (b"{\"a\":1}\n{\"a\":2}{\"a\":3}\n", 3),
            (b"{\"a\":1}\n{\"a\":2}  {\"a\":\"}{\"}\n{}\n", 4),
            (b"{}\n{\"a\":\"}{} \"}\n", 2),
            (b"{}\nnull\n{}\nnull", 2),
            (b"{}\nnull{}null{}\n", 3),
            (b"\x1e{\"a\":1}\n\x1e{\"a\":2}\n", 2),
            (b"{}\n{}\x1e{}\n", 3),
            (b"{}\n{}\n\0\0\0\0", 2),
            (b"{}\n\0\0{}\0\n{}\0\0{}\n", 4),
            (b"{\n \"a\": [1, {\"b\": 2}]\n}\n{\n}\n", 2),
            (b"{\"a\":{}\n}\n{\"a\":{}\n}\n", 2),
            (b"[{\"a\":1},\n {\"a\":[{}]}\n]\n", 2),
            (b"[{\"a\":\"]\\\\\"},{}]", 2),
            (b"[{},{}]\n[{}]\n", 3),
            (b"[{}][{},null,{}]", 3),
            (b"{}\n[{},{}]\n{}", 4),
            // One event may hold lists: of values, or beside objects.
            (b"{\"tags\":[\"a\"]}\n", 1),
            (b"{\"target\":{\"x\":[{}]},\"tags\":[]}\n", 1),
            (b"{\"events\":[{}]}\n{\"events\":[{}]}\n", 2),
        ];
        for (body, events) in bodies {
            let expected = EventCount {
                events: *events,
                uncounted: None,
            };
            assert_eq!(count(body), expected, "{}", body.escape_ascii());
        }
    }

    #[test]
    fn a_body_that_cannot_be_counted_says_how_far_and_why() {
        use UncountedReason::{Envelope, NotAnObject, Unfinished};
        let bodies: &[(&[u8], u64, UncountedReason, u64)] = &[
            (b"<html>", 0, NotAnObject, 0),
            (b"\xff\xfe{\0}\0", 0, NotAnObject, 0),
            (b"\xef\xbb{}", 0, NotAnObject, 0),
            (b"nul\n{}", 0, NotAnObject, 0),
            (b"[1,2]", 0, NotAnObject, 1),
            (b"[[{}]]", 0, NotAnObject, 1),
            (b"\"x\"", 0, NotAnObject, 0),
            (b"{}\n{}\nerror\n{}\n", 2, NotAnObject, 6),
            (b"{}\n{\"a\":\"x\n{}\n", 1, NotAnObject, 3),
            (b"{}\n{}{\"a\"]\n{}\n", 2, NotAnObject, 5),
            (b"[{}]]", 1, NotAnObject, 4),
            (b"{},\n{},\n", 1, NotAnObject, 2),
            (b"{}\n{} 1\n", 2, NotAnObject, 6),
            (b"{\"a\":1", 0, Unfinished, 0),
            (b"{\"a\":1}\n{\"a\":", 1, Unfinished, 8),
            (b"{}\n{}\n{\"a\":\"", 2, Unfinished, 6),
            (b"{}\n{\"a\":1\n{}\n", 1, Unfinished, 3),
            (b"[{\"a\":1}", 1, Unfinished, 8),
            (b"[{},{\"a\"", 1, Unfinished, 4),
            (b"{}\nnu", 1, Unfinished, 3),
            (b"{\"events\":[{\"a\":1},{\"a\":2}]}\n", 1, Envelope, 0),
            (
                b"\xef\xbb\xbf{\"total\": 2, \"events\": [ {}, {} ]}",
                1,
                Envelope,
                3,
            ),
            (b"{\"events\":[]}", 0, Envelope, 0),
        ];
        for (body, events, reason, at_byte) in bodies {
            let expected = EventCount {
                events: *events,
                uncounted: Some(Uncounted {
                    reason: *reason,
                    at_byte: *at_byte,
                }),
            };
            assert_eq!(count(body), expected, "{}", body.escape_ascii());
        }
    }

    fn split(text: &[u8], step: usize) -> (Vec<String>, Result<u64, SplitError>) {
        let mut splitter = EventSplitter::default();
        let mut events = Vec::new();
        for chunk in text.chunks(step) {
            let pushed = splitter.push(chunk, &mut |event: &[u8]| {
                events.push(String::from_utf8_lossy(event).into_owned());
                Ok::<(), ()>(())
            });
            assert_eq!(pushed, Ok(()));
        }
        (events, splitter.finish())
    }

    #[test]
    fn events_are_split_where_they_are_counted_and_white_space_is_left_out() {
        let bodies: &[(&[u8], &[&str])] = &[
            (b"", &[]),
            (b"{\"a\": 1}\r\n{\"a\":\t2}", &["{\"a\":1}", "{\"a\":2}"]),
            (
                b"\xef\xbb\xbf[{\"a\":\" x \"},\n null, {}]",
                &["{\"a\":\" x \"}", "{}"],
            ),
            (
                b"{\n \"a\": [1, {\"}\": 2}]\n}{}",
                &["{\"a\":[1,{\"}\":2}]}", "{}"],
            ),
            (b"\x1e{\"a\":\"\\\" \"}\n\0\0", &["{\"a\":\"\\\" \"}"]),
        ];
        for (body, expected) in bodies {
            for step in [1, 2, 3, 5, usize::MAX] {
                let (events, end) = split(body, step);
                assert_eq!(events, *expected, "{}", body.escape_ascii());
                assert_eq!(end, Ok(count(body).events), "{}", body.escape_ascii());
            }
        }
        let (events, end) = split(b"{}\nerror\n{}", 4);
        assert_eq!(events, ["{}"]);
        assert!(matches!(
            end,
            Err(SplitError::Uncounted(Uncounted { at_byte: 3, .. }))
        ));
    }

    #[test]
    fn an_event_that_is_too_large_ends_the_split_in_bounded_memory() {
        let mut splitter = EventSplitter::default();
        let ignore = &mut |_: &[u8]| Ok::<(), ()>(());
        splitter.push(b"{}\n{\"a\":\"", ignore).unwrap();
        for _ in 0..20 {
            splitter.push(&vec![b'x'; 1024 * 1024], ignore).unwrap();
        }
        assert!(splitter.event.capacity() <= 2 * EVENT_MAX_BYTES + 1);
        assert_eq!(splitter.finish(), Err(SplitError::TooLarge { at_byte: 3 }));
    }

    #[test]
    fn blank_lines_are_skipped_without_recursion() {
        let mut events = EventCounter::default();
        events.push(&vec![b'\n'; 4_000_000]);
        events.push(b"{}\n");
        assert_eq!(events.finish().events, 1);
    }

    #[test]
    fn an_unbounded_line_is_counted_without_buffering() {
        let mut events = EventCounter::default();
        events.push(b"{}\n[");
        for _ in 0..40_000 {
            events.push(b"{\"key\":\"some text of an event of some length here\"},");
        }
        assert!(events.line.capacity() <= 2 * LINE_MAX);
        events.push(b"{}]\n{}\n{}{}\n");
        assert_eq!(
            events.finish(),
            EventCount {
                events: 40_005,
                uncounted: None
            }
        );
    }
}
