//! Properties of arbitrary downloads and journal contents, for tests and fuzzing. No I/O.

// These functions panic if a property does not hold.
#![allow(clippy::missing_panics_doc, clippy::needless_for_each)]

use crate::archive::coverage::{self, Expectation};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};

use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};

use crate::api::{format_duration, parse_duration};
use crate::archive::layout::{ArchiveRoot, Key};
use crate::archive::listing::Journal;
use crate::archive::manifest::document::{self, Manifest, ManifestHeader, PeriodTotals};
use crate::archive::receipt::{ReceiptFacts, Sha256Digest};
use crate::archive::records::{
    ArchiveRecord, AttemptRecord, ExpiredRecord, PreparedRecord, Receipt, SessionRecord, SplitRecord, decode,
    encode,
};
use crate::archive::window::{HourSet, Window};
use crate::fuzzing::assert_displayable;
use crate::pipeline::events::{EventCount, EventCounter, UncountedReason};
use crate::pipeline::gzip::{GzipError, GzipVerifier};
use crate::storage::ObjectSummary;
use crate::storage::bad_input::{check_error_responses, check_listed_key};

/// Maximum decompressed size of an input that is compared with `flate2`: 16 MiB.
const COMPARED_BYTES: u64 = 16 << 20;

/// Members, decompressed bytes and event count of a stream.
type VerifyResult = Result<(u64, Vec<u8>, EventCount), GzipError>;

/// Checks the body of a download, in chunks of any size: the raw input, then the input packed into gzip members. The
/// chunk size changes nothing; a stream is complete exactly if `flate2` reads it to its end without an error, with the
/// same decompressed bytes; events are counted as `serde_json` counts them.
pub fn download_stream(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    let steps = [1, 2, 3, 7, 64, 1000];
    let step = steps.get(usize::from(choice) % steps.len()).copied().unwrap_or(1);

    let mut raw = Vec::new();
    let read = MultiGzDecoder::new(rest)
        .take(COMPARED_BYTES + 1)
        .read_to_end(&mut raw);
    if raw.len() as u64 <= COMPARED_BYTES {
        let unsplit = verify(rest, usize::MAX);
        assert_eq!(verify(rest, step), unsplit, "chunks of {step}");
        match (&unsplit, read) {
            (Ok((_, out, _)), Ok(_)) => assert_eq!(out, &raw),
            (Err(error), Err(_)) => assert_displayable(&error.to_string()),
            (actual, expected) => panic!("{actual:?}, but flate2 returns {expected:?}"),
        }
        let _ = count_as_serde(&raw);
    }

    // Members made of the input, split at a position that its first byte selects.
    let at = rest
        .first()
        .map_or(0, |byte| usize::from(*byte) * rest.len() / 256);
    let (one, two) = rest.split_at_checked(at).unwrap_or((rest, &[]));
    let packed = [gzip_member(one), gzip_member(two)].concat();
    let unsplit = verify(&packed, usize::MAX);
    assert_eq!(verify(&packed, step), unsplit, "chunks of {step}");
    let Ok((members, out, events)) = unsplit else {
        panic!("complete members are rejected")
    };
    assert_eq!((members, &out[..]), (2, rest));
    assert_eq!(events, count_as_serde(rest));
    // A truncated stream is rejected, except at the end of a member.
    if let Some(cut) = packed.len().checked_sub(1 + usize::from(choice)) {
        assert!(
            verify(packed.get(..cut).unwrap_or_default(), step).is_err() || cut == gzip_member(one).len()
        );
    }
}

fn gzip_member(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .unwrap_or_default()
}

fn verify(bytes: &[u8], step: usize) -> VerifyResult {
    let (mut gzip, mut events, mut out) = (GzipVerifier::default(), EventCounter::default(), Vec::new());
    for chunk in bytes.chunks(step) {
        gzip.push(chunk, &mut |data| {
            events.push(data);
            out.extend_from_slice(data);
        })?;
    }
    let (members, inflated) = gzip.finish()?;
    assert_eq!(inflated, out.len() as u64);
    Ok((members, out, events.finish()))
}

/// Counts the events in chunks of several sizes, and compares the count with `serde_json`.
fn count_as_serde(text: &[u8]) -> EventCount {
    let count = |step: usize| {
        let mut events = EventCounter::default();
        text.chunks(step).for_each(|chunk| events.push(chunk));
        events.finish()
    };
    let unsplit = count(usize::MAX);
    for step in [1, 5, 4096] {
        assert_eq!(count(step), unsplit, "chunks of {step}");
    }
    if let Some(uncounted) = unsplit.uncounted {
        assert_displayable(&uncounted.to_string());
        assert!(uncounted.at_byte <= text.len() as u64);
    }
    let counted = |events: usize| EventCount {
        events: events as u64,
        uncounted: None,
    };
    let object = |text: &[u8]| serde_json::from_slice::<Map<String, Value>>(text).is_ok();
    let lines: Vec<&[u8]> = text
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.iter().all(|line| object(line)) {
        let envelope = matches!(
            unsplit.uncounted,
            Some(uncounted) if uncounted.reason == UncountedReason::Envelope && lines.len() == 1
        );
        assert!(
            envelope || unsplit == counted(lines.len()),
            "objects, one per line: {unsplit:?}"
        );
    } else if let Ok(list) = serde_json::from_slice::<Vec<Map<String, Value>>>(text) {
        assert_eq!(unsplit, counted(list.len()), "one array");
    } else {
        let all: Result<Vec<Map<String, Value>>, _> =
            serde_json::Deserializer::from_slice(text).into_iter().collect();
        if let Ok(all) = all {
            // Some separators on one line are not seen if the first line has one object: never more than there are.
            assert!(unsplit.events <= all.len() as u64, "{unsplit:?} of {}", all.len());
        }
    }
    unsplit
}

/// Checks a manifest: it round-trips, its header has the same facts, sums do not overflow, errors are displayable.
pub fn archive_manifest(data: &[u8]) {
    let key = "space=s/scope=space/_manifests/00000001.json";
    let (read, head) = (
        document::parse_manifest::<Manifest>(key, 1, data),
        document::parse_manifest::<ManifestHeader>(key, 1, data),
    );
    if let Err(error) = &read {
        assert_displayable(&error.to_string());
    }
    let Ok(manifest) = read else { return };
    let bytes = encode(&manifest);
    assert_eq!(
        document::parse_manifest::<Manifest>(key, 1, &bytes).ok().as_ref(),
        Some(&manifest)
    );
    assert!(document::parse_manifest::<Manifest>(key, 2, &bytes).is_err());
    let head = head.ok();
    let head_facts = head.map(|head| (head.period, head.root, head.accepted_gaps, head.source));
    let manifest_facts = (
        manifest.period,
        manifest.root.clone(),
        manifest.accepted_gaps.clone(),
        manifest.source.clone(),
    );
    assert_eq!(head_facts, Some(manifest_facts));
    let _: PeriodTotals = manifest.computed_totals();
    assert_eq!(manifest.computed_root().digest.len(), 64);
    manifest.period.days().take(1000).for_each(drop);
}

/// Checks a receipt: it round-trips, and the journal keeps its facts.
pub fn receipt(data: &[u8]) {
    let Some(receipt) = check_round_trip::<Receipt>(data) else {
        return;
    };
    let facts = ReceiptFacts::new(&receipt, Sha256Digest::of(data));
    assert_eq!(*facts.source, receipt.source);
    assert_eq!(
        facts.summary.bytes,
        receipt.object.as_ref().map_or(0, |object| object.bytes)
    );
    if let Ok(window) = receipt.window.parse::<Window>() {
        assert_eq!(window.to_string(), receipt.window);
    }
}

/// Checks the other documents of the journal, and its keys: each key has one meaning, and each meaning one key.
pub fn journal(data: &[u8]) {
    check_round_trip::<AttemptRecord>(data);
    check_round_trip::<SessionRecord>(data);
    check_round_trip::<PreparedRecord>(data);
    check_round_trip::<ExpiredRecord>(data);
    check_round_trip::<SplitRecord>(data);
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut seen = BTreeSet::new();
    for prefix in ["", "a/b"] {
        let root = ArchiveRoot::new(prefix, "s", "account");
        for line in text.lines() {
            for folder in ["", "_journal/", "_manifests/", "date="] {
                let key = format!("{}{folder}{line}", root.as_str());
                let parsed = root.parse(&key);
                assert!(
                    parsed == Key::Other || root.key(&parsed).as_deref() == Some(&key),
                    "{key}"
                );
                if let Some(below) = parsed.relative() {
                    seen.insert((prefix, below));
                    assert_eq!(ArchiveRoot::containing(&key), Some(root.clone()));
                }
            }
            // Any session id that the service may return round-trips through its key.
            let session: String = line.chars().filter(char::is_ascii_graphic).collect();
            let id =
                "01ARZ3NDEKTSV4RRFFQ69G5FAV"
                    .parse()
                    .ok()
                    .map(|ulid| crate::archive::layout::AttemptId {
                        window: Window::day(jiff::civil::date(2018, 6, 28)),
                        ulid,
                    });
            if let Some(id) = id.filter(|_| !session.is_empty()) {
                let parsed = Key::Session(id, session);
                assert_eq!(root.key(&parsed).map(|key| root.parse(&key)), Some(parsed));
            }
            if let Ok(window) = line.parse::<Window>() {
                assert_eq!(window.to_string(), line);
            }
        }
    }
}

/// Checks keys, one per line: a recognized key has exactly the spelling that eventexport writes, and a key encoded as in
/// a listing decodes to itself. Then checks a refusal with the last line as code and message: short, without secrets.
pub fn bucket_listing(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let root = ArchiveRoot::new("tracker", "c1234567-6d55-4193-a9de-378620d6fab5", "space");
    let mut rows = Vec::new();
    let mut windows = BTreeSet::new();
    for line in text.lines() {
        check_listed_key(line);
        for key in [line.to_owned(), format!("{}{line}", root.as_str())] {
            let parsed = root.parse(&key);
            match root.key(&parsed) {
                Some(written) => assert_eq!(written, key),
                None => assert_eq!(parsed, Key::Other),
            }
            if let Key::Events(window) = parsed {
                windows.insert(window);
            }
            if let Some(of) = ArchiveRoot::containing(&key) {
                assert!(key.starts_with(of.as_str()));
            }
            rows.push(ObjectSummary {
                key,
                size: line.len() as u64,
                etag: None,
                last_modified: None,
            });
        }
    }
    let journal = Journal::from_listing(&root, &rows);
    assert!(journal.objects.keys().eq(windows.iter()));
    assert!(
        coverage::assess(&Expectation::of_source("https://a"), &journal)
            .covered
            .is_empty(),
        "unread receipts cover nothing"
    );
    check_error_responses(data);
}

/// Checks durations and ranges of a spec and a status.
pub fn durations(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for line in text.lines() {
        if let Some(duration) = parse_duration(line) {
            assert!(line.len() <= 32 && !duration.is_negative(), "{line}");
            let written = format_duration(duration);
            // The format has at most four numbers of five digits; other units may need more.
            assert!(
                parse_duration(&written).is_none_or(|again| again == duration),
                "{line} {written}"
            );
        }
    }
    let ranges: Vec<String> = text.lines().map(str::to_owned).collect();
    let cells = HourSet::from_ranges(&ranges);
    assert!(cells.len() <= 24 * 100_000);
    if ranges.len() < 100 {
        assert_eq!(HourSet::from_ranges(&cells.ranges(1000)), cells);
    }
}

/// Decodes a document; if it is valid, checks that it round-trips.
fn check_round_trip<R: ArchiveRecord + PartialEq + std::fmt::Debug>(data: &[u8]) -> Option<R> {
    match decode::<R>("space=s/scope=space/_journal/k.json", data) {
        Ok(record) => {
            let again = decode::<R>("k", &encode(&record)).ok();
            assert_eq!(again.as_ref(), Some(&record));
            Some(record)
        }
        Err(error) => {
            assert_displayable(&error.to_string());
            None
        }
    }
}
